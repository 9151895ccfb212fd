//! The bed of the suites `ipvs_*`, which run in guests: client, balancers with lbd, two servers that tell their number.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use lb_userspace::{
    base::status::{Status, VrrpState},
    dataplane::ipvs,
};
use tempfile::TempDir;

use crate::{
    host::{self, Host, Program},
    mariadb,
    netns::{self, Namespace, Switch},
    wait::wait_until,
};

/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The servers' gateway in the NAT bed.
const INNER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// Of the virtual server and its real servers.
pub const PORT: u16 = 3306;
/// For anything: the guest is slow.
pub const LIMIT: Duration = Duration::from_secs(60);

/// False, after saying why, where the kernel has no IPVS and none is promised.
///
/// # Errors
/// Instead of false in a guest, and under `LB_NO_SKIP`.
pub fn ready(suite: &str) -> Result<bool> {
    let why = match (netns::available(), host::available(Program::Lbd)) {
        (Ok(()), Ok(())) => match ipvs::Socket::open() {
            Ok(_) => return Ok(true),
            Err(error) => format!("{error:#}"),
        },
        (Err(why), _) | (_, Err(why)) => why,
    };
    if ["LBD_IN_VM", "LB_NO_SKIP"].iter().any(|name| std::env::var_os(name).is_some()) {
        bail!("{suite} cannot run: {why}");
    }
    eprintln!("SKIPPED {suite}: {why}; `cargo xtask vm` runs it");
    Ok(false)
}

/// A server: tells its number to whoever connects, then echoes.
#[derive(Debug)]
pub struct Server {
    netns: Namespace,
    listener: Option<TcpListener>,
    number: u8,
}

impl Server {
    fn start(netns: Namespace, number: u8) -> Result<Self> {
        let mut server = Self { netns, listener: None, number };
        server.revive()?;
        Ok(server)
    }

    /// Takes connections, again.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn revive(&mut self) -> Result<()> {
        let listener = self.netns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        let taken = listener.try_clone()?;
        let number = self.number;
        thread::spawn(move || {
            while let Ok((stream, _)) = taken.accept() {
                thread::spawn(move || serve(stream, number));
            }
        });
        self.listener = Some(listener);
        Ok(())
    }

    /// Takes no more connections; those that it has go on.
    ///
    /// # Errors
    /// When it takes none already.
    pub fn die(&mut self) -> Result<()> {
        let listener = self.listener.take().context("it is dead already")?;
        // The thread's accept(2) ends, and with it the other descriptor.
        nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both)?;
        Ok(())
    }
}

fn serve(mut stream: TcpStream, number: u8) -> std::io::Result<()> {
    stream.write_all(&[number])?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// A client's connection with the number of its server.
#[derive(Debug)]
pub struct Session {
    pub stream: TcpStream,
    pub server: u8,
}

impl Session {
    /// There and back.
    ///
    /// # Errors
    /// When the connection is at its end.
    pub fn echo(&mut self) -> std::io::Result<()> {
        self.stream.write_all(b"e")?;
        let mut byte = [0];
        self.stream.read_exact(&mut byte)
    }
}

/// Client, one or two balancers, two servers.
#[derive(Debug)]
pub struct Bed {
    pub client: Namespace,
    pub hosts: Vec<Host>,
    pub servers: [Server; 2],
    /// What [`Bed::start`] expects to forward.
    pub engine: &'static str,
    _switches: Vec<Switch>,
    _dir: TempDir,
}

impl Bed {
    /// Client's side and servers' side, the balancers between them. The gateway of the servers is a VIP, too.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn nat(balancers: u8) -> Result<Self> {
        let dir = mariadb::workspace("ipvs")?;
        let (lan, inner) = (Switch::new("lan")?, Switch::new("inner")?);
        let client = Namespace::new("client")?;
        lan.plug(&client, "eth0", Some("10.77.0.1/24"))?;
        let mut hosts = Vec::new();
        for number in 1..=balancers {
            let netns = Namespace::new(&format!("lb{number}"))?;
            lan.plug(&netns, "eth0", Some(&format!("10.77.0.1{number}/24")))?;
            inner.plug(&netns, "eth1", Some(&format!("10.88.0.1{number}/24")))?;
            netns.sysctl("net/ipv4/ip_forward", "1")?;
            let mut host = Host::new(&netns, Program::Lbd, dir.path())?;
            host.set_arguments(&["--engine", "ipvs"]);
            hosts.push(host);
        }
        let server = |number: u8| -> Result<Server> {
            let netns = Namespace::new(&format!("db{number}"))?;
            inner.plug(&netns, "eth0", Some(&format!("10.88.0.2{number}/24")))?;
            netns.ip(&["route", "add", "default", "via", &INNER.to_string()])?;
            Server::start(netns, number)
        };
        let servers = [server(1)?, server(2)?];
        Ok(Self { client, hosts, servers, engine: "ipvs", _switches: vec![lan, inner], _dir: dir })
    }

    /// Both balancers are the servers themselves, by DR: each has the VIP on `lo` and does not speak of it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directors() -> Result<Self> {
        let dir = mariadb::workspace("ipvs")?;
        let lan = Switch::new("lan")?;
        let client = Namespace::new("client")?;
        lan.plug(&client, "eth0", Some("10.77.0.1/24"))?;
        let mut hosts = Vec::new();
        let mut server = |number: u8| -> Result<Server> {
            let netns = Namespace::new(&format!("lb{number}"))?;
            lan.plug(&netns, "eth0", Some(&format!("10.77.0.2{number}/24")))?;
            netns.sysctl("net/ipv4/conf/eth0/arp_ignore", "1")?;
            netns.sysctl("net/ipv4/conf/eth0/arp_announce", "2")?;
            netns.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
            let mut host = Host::new(&netns, Program::Lbd, dir.path())?;
            host.set_arguments(&["--engine", "ipvs"]);
            hosts.push(host);
            Server::start(netns, number)
        };
        let servers = [server(1)?, server(2)?];
        Ok(Self { client, hosts, servers, engine: "ipvs", _switches: vec![lan], _dir: dir })
    }

    /// A new connection to the virtual server.
    ///
    /// # Errors
    /// When there is none, or no server's number comes.
    pub fn connect(&self) -> Result<Session> {
        let target = SocketAddr::from((VIP, PORT));
        let limit = Duration::from_secs(3);
        let mut stream = self.client.enter(|| TcpStream::connect_timeout(&target, limit))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut number = [0];
        stream.read_exact(&mut number).context("the server's number")?;
        Ok(Session { stream, server: number[0] })
    }

    /// Servers of so many new connections.
    ///
    /// # Errors
    /// When one is not to be had.
    pub fn spread(&self, count: usize) -> Result<Vec<u8>> {
        (0..count).map(|_| self.connect().map(|session| session.server)).collect()
    }

    /// Until new connections go to these servers and no others.
    ///
    /// # Errors
    /// When that is not so in time.
    pub fn wait_spread(&self, wanted: &[u8]) -> Result<()> {
        wait_until(
            &format!("connections to {wanted:?} only"),
            LIMIT,
            || {
                let Ok(mut spread) = self.spread(6) else { return Ok(None) };
                spread.sort_unstable();
                spread.dedup();
                Ok((spread == wanted).then_some(()))
            },
            || format!("{}\n{}", self.table(0), self.hosts[0].log_tail(40)),
        )
    }

    /// `ipvsadm -Ln` of a host without what changes by itself.
    pub fn table(&self, host: usize) -> String {
        table(self.hosts[host].netns())
    }

    /// Until the table is as it should be.
    ///
    /// # Errors
    /// With the table and the log when it does not come.
    pub fn wait_table(
        &self,
        host: usize,
        what: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        wait_until(
            what,
            LIMIT,
            || Ok(Some(self.table(host)).filter(|table| wanted(table))),
            || format!("{}\n{}", self.table(host), self.hosts[host].log_tail(40)),
        )
    }

    /// Until every host is ready and the first is master with both servers up.
    ///
    /// # Errors
    /// When that is not so in time.
    pub fn start(&mut self, priorities: &[u8], virtual_server: &str) -> Result<()> {
        let engine = self.engine;
        for (host, priority) in self.hosts.iter_mut().zip(priorities) {
            host.write_config(&config(*priority, virtual_server))?;
            host.start()?;
        }
        for (at, host) in self.hosts.iter().enumerate() {
            let state = if at == 0 { VrrpState::Master } else { VrrpState::Backup };
            wait_until(
                &format!("lb{} as {}", at + 1, state.name()),
                LIMIT,
                || Ok(host.status().ok().filter(|status| is(status, state, engine))),
                || host.log_tail(40),
            )?;
        }
        self.wait_spread(&[1, 2])
    }
}

fn is(status: &Status, state: VrrpState, engine: &str) -> bool {
    let up = |status: &Status| {
        let forwarder = status.forwarder.as_ref();
        forwarder.is_some_and(|it| it.engine == engine && it.problem.is_none())
    };
    status.vrrp.first().is_some_and(|it| it.state == state) && up(status)
}

/// Address, scheduler and flags of services; address, method and weight of destinations.
pub fn table(netns: &Namespace) -> String {
    let said = match netns.run("ipvsadm", &["-Ln"]) {
        Ok(said) => said,
        Err(error) => return format!("{error:#}"),
    };
    let mut services: Vec<Vec<String>> = Vec::new();
    for line in said.lines().skip(3) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["->", address, method, weight, ..] => {
                let service = services.last_mut();
                let text = format!("  {address} {method} {weight}");
                if let Some(service) = service {
                    service.push(text);
                }
            }
            words => services.push(vec![words.join(" ")]),
        }
    }
    for service in &mut services {
        if let Some(dests) = service.get_mut(1..) {
            dests.sort();
        }
    }
    services.sort();
    services.concat().join("\n")
}

/// An instance with the VIP, and the virtual servers.
pub fn config(priority: u8, virtual_server: &str) -> String {
    format!(
        "vrrp_instance VI_1 {{\n  state BACKUP\n  interface eth0\n  version 3\n  virtual_router_id 51\n\
         \x20 priority {priority}\n  advert_int 0.5\n  virtual_ipaddress {{\n    {VIP}/24\n{}  }}\n}}\n\
         {virtual_server}",
        match virtual_server.contains("lb_kind NAT") {
            true => format!("    {INNER}/24 dev eth1\n"),
            false => String::new(),
        }
    )
}

/// The virtual server with its two real servers.
pub fn pool(kind: &str, servers: [&str; 2], words: &str) -> String {
    let server = |addr: &str| {
        format!(
            "  real_server {addr} {PORT} {{\n    weight 1\n    TCP_CHECK {{\n      connect_timeout 1\n    }}\n  }}\n"
        )
    };
    format!(
        "virtual_server {VIP} {PORT} {{\n  delay_loop 1\n  lb_algo rr\n  lb_kind {kind}\n  protocol TCP\n\
         \x20 retry 0\n{words}{}{}}}\n",
        server(servers[0]),
        server(servers[1])
    )
}

/// That of [`Bed::nat`].
pub fn nat_pool() -> String {
    pool("NAT", ["10.88.0.21", "10.88.0.22"], "")
}

/// The table of [`nat_pool`] with both servers up.
pub const WHOLE: &str =
    "TCP 10.77.0.100:3306 rr\n  10.88.0.21:3306 Masq 1\n  10.88.0.22:3306 Masq 1";
