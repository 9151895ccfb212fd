//! Tunnels through a whole lbd, by tc and by XDP, on veth pairs: real servers on another network than the VIP, of
//! either address family, whose replies go to the client directly.
//!
//! The kernels that these tests run on need no ipip, ip6tnl or sit device: here each real server has a raw socket that
//! takes the outer packets, whose content it gives to its own stack by another one. That stack verifies the TCP
//! checksums; the kernel verifies the outer headers.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    mariadb,
    netns::{Namespace, Port, Switch, ready_or_skip},
    packet::build::Family,
    wait::wait_until,
};
use lb_userspace::base::status::ForwarderStatus;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tempfile::TempDir;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PORT: u16 = 3306;
const LIMIT: Duration = Duration::from_secs(40);
/// Bytes of one transfer.
const BULK: usize = 2 << 20;
/// What fits into a packet of a veth pair beside the outer header.
const fn room(outer: Family) -> u32 {
    match outer {
        Family::Four => 1480,
        Family::Six => 1460,
    }
}

/// Names of the servers on the network that the VIP is not of, and on the one that it is of.
fn inner(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, 20 + number)
}

fn outer(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 20 + number)
}

struct Bed {
    vip: Family,
    real: Family,
    client: Namespace,
    host: Host,
    ports: Vec<Port>,
    _servers: Vec<Namespace>,
    _dir: TempDir,
    _switches: [Switch; 2],
}

impl Bed {
    /// Started, and both servers take connections.
    fn start(vip: Family, real: Family, hook: &str) -> Result<Self> {
        host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
        let dir = mariadb::workspace("tun")?;
        let switches = [Switch::new("lan")?, Switch::new("inner")?];
        let [lan, inner_lan] = &switches;
        let plug = |switch: &Switch, netns: &Namespace, name: &str, family: Family, addr| {
            let addr = family.on_link(addr);
            // XDP wants veths without offloads; tc takes them as they are.
            match hook {
                "xdp" => switch.plug(netns, name, Some(&addr)),
                _ => switch.plug_as_it_is(netns, name, Some(&addr)),
            }
        };
        let any_six = if vip == Family::Six { vip } else { real };
        let client = Namespace::of_family("client", vip)?;
        plug(lan, &client, "eth0", vip, CLIENT)?;
        let lb = Namespace::of_family("lb", any_six)?;
        plug(lan, &lb, "eth0", vip, [10, 77, 0, 2].into())?;
        plug(inner_lan, &lb, "eth1", real, [10, 88, 0, 2].into())?;
        let vip_addr = vip.addr(VIP).to_string();
        lb.ip(&["addr", "add", &vip_addr, "dev", "eth0"])?;
        if vip == Family::Six {
            lb.ip(&["addr", "change", &vip_addr, "dev", "eth0", "preferred_lft", "0"])?;
        }
        let (mut servers, mut ports) = (Vec::new(), Vec::new());
        for number in [1, 2] {
            let netns = Namespace::of_family(&format!("db{number}"), any_six)?;
            let port = plug(inner_lan, &netns, "eth0", real, inner(number))?;
            // As a wire would: what the server gets has whole checksums, and no packet is larger than the network's.
            port.complete_checksums()?;
            plug(lan, &netns, "eth1", vip, outer(number))?;
            // It is on the VIP's network too, so that its replies need no router: the VIP is silent there.
            netns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            netns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
            netns.ip(&["addr", "add", &vip_addr, "dev", "lo"])?;
            if vip == Family::Six {
                // What it asks for its clients' MAC addresses from when it answers as the VIP.
                netns.ip(&["addr", "add", &format!("fe80::{number}1/64"), "dev", "eth1"])?;
            }
            decapsulate(&netns, vip, real)?;
            listen(&netns, any_six)?;
            servers.push(netns);
            ports.push(port);
        }
        let host = Host::new(&lb, Program::Lbd, dir.path())?;
        let mut text = format!(
            "global_defs {{\n  lvs_hook {hook}\n}}\nvirtual_server {vip_addr} {PORT} {{\n  delay_loop 1\n\
             \x20 protocol TCP\n  lb_algo rr\n  lb_kind TUN\n"
        );
        for number in [1, 2] {
            text.push_str(&format!(
                "  real_server {} {PORT} {{\n    TCP_CHECK {{\n      connect_timeout 1\n      retry 1\n\
                 \x20     delay_before_retry 1\n    }}\n  }}\n",
                real.addr(inner(number)),
            ));
        }
        host.write_config(&(text + "}\n"))?;
        let (_servers, _dir, _switches) = (servers, dir, switches);
        let mut bed = Self { vip, real, client, host, ports, _servers, _dir, _switches };
        bed.host.start()?;
        bed.until("both servers to be up", |bed| {
            let servers =
                bed.forwarder()?.virtual_servers.into_iter().flat_map(|vs| vs.real_servers);
            Ok(servers.filter(|rs| rs.state == "UP" && rs.problem.is_none()).count() == 2)
        })?;
        bed.until("a connection", |bed| {
            let stream = bed.connect(Duration::from_millis(500));
            Ok(stream.and_then(|mut stream| echo(&mut stream)).is_ok())
        })?;
        Ok(bed)
    }

    fn until(&self, what: &str, is: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        wait_until(
            what,
            LIMIT,
            || Ok(is(self).unwrap_or(false).then_some(())),
            || format!("{:?}: {}", is(self).err(), self.state()),
        )
    }

    fn connect(&self, limit: Duration) -> Result<TcpStream> {
        let target = SocketAddr::from((self.vip.addr(VIP), PORT));
        let stream = self.client.enter(|| TcpStream::connect_timeout(&target, limit))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    fn forwarder(&self) -> Result<ForwarderStatus> {
        self.host.forwarder()
    }

    fn outcome(&self, name: &str) -> Result<u64> {
        self.forwarder()?.outcomes.get(name).copied().context("no such outcome")
    }

    /// What lbd knows of it, for whoever reads the failure.
    fn state(&self) -> String {
        let forwarder = self.forwarder().unwrap_or_default();
        let met: Vec<_> = forwarder.outcomes.iter().filter(|(_, packets)| **packets > 0).collect();
        format!("{met:?}\n{:#?}\n{}", forwarder.virtual_servers, self.host.log_tail(30))
    }
}

/// What an ipip, ip6tnl or sit device does: takes packets of `real`'s family that have one of `vip`'s in them, and gives
/// these to the host. Ends with the namespace's last address to send to.
fn decapsulate(netns: &Namespace, vip: Family, real: Family) -> Result<()> {
    let domain = |family| if family == Family::Six { Domain::IPV6 } else { Domain::IPV4 };
    let kind = if vip == Family::Six { 41 } else { 4 };
    let (mut taken, given) = netns.enter(|| -> std::io::Result<_> {
        let taken = Socket::new(domain(real), Type::RAW, Some(Protocol::from(kind)))?;
        taken.set_recv_buffer_size(4 << 20)?;
        let given = Socket::new(domain(vip), Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        Ok((taken, given))
    })??;
    // Only IPv4's raw sockets give the header too.
    let header = if real == Family::Six { 0 } else { 20 };
    let to = SockAddr::from(SocketAddr::new(vip.addr(VIP), 0));
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(len) = taken.read(&mut buffer) {
            if len > header {
                // What the stack does not want (its port is not open yet) is lost, as anywhere.
                let _ = given.send_to(&buffer[header..len], &to);
            }
        }
    });
    Ok(())
}

fn listen(netns: &Namespace, any: Family) -> Result<()> {
    let any: IpAddr = any.any();
    let listener = netns.enter(|| TcpListener::bind((any, PORT)))??;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away, or is reset, ends its own thread only.
            thread::spawn(move || serve(stream));
        }
    });
    Ok(())
}

/// `e`: echoes a byte. `b`: takes a bulk of bytes and gives it back.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut command = [0];
    while stream.read(&mut command)? == 1 {
        if command == *b"b" {
            let mut bytes = vec![0; BULK];
            stream.read_exact(&mut bytes)?;
            stream.write_all(&bytes)?;
        } else {
            stream.write_all(&command)?;
        }
    }
    Ok(())
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"e").context("write")?;
    let mut byte = [0];
    stream.read_exact(&mut byte).context("read")?;
    ensure!(byte == *b"e", "{byte:?}");
    Ok(())
}

/// More than fits into packets, so that the client has to be told of their size.
fn bulk(stream: &mut TcpStream) -> Result<()> {
    let bytes: Vec<u8> = (0..BULK).map(|at| (at % 251) as u8).collect();
    stream.write_all(b"b")?;
    stream.write_all(&bytes).context("upload")?;
    let mut back = vec![0; BULK];
    stream.read_exact(&mut back).context("download")?;
    ensure!(back == bytes, "other bytes came back");
    Ok(())
}

fn all(suite: &str, test: impl Fn(Family, Family, &str) -> Result<()>) -> Result<()> {
    if !ready_or_skip(suite)? {
        return Ok(());
    }
    for hook in ["tc", "xdp"] {
        for vip in Family::ALL {
            for real in Family::ALL {
                let what = format!("VIP {vip:?}, real servers {real:?}, by {hook}");
                println!("{what}");
                test(vip, real, hook).context(what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn connections_go_by_tunnels_and_learn_what_fits() -> Result<()> {
    all("plane_tun", |vip, real, hook| {
        let mut bed = Bed::start(vip, real, hook)?;
        let mut streams = [bed.connect(LIMIT)?, bed.connect(LIMIT)?];
        for stream in &mut streams {
            echo(stream)
                .and_then(|()| bulk(stream))
                .and_then(|()| echo(stream))
                .with_context(|| bed.state())?;
        }
        ensure!(bed.outcome("tun_forwarded")? > 100, "{}", bed.state());
        ensure!(bed.outcome("too_big")? > 0, "nobody was told: {}", bed.state());
        for dropped in ["tunnel_failed", "too_big_dropped", "malformed", "rewrite_failed"] {
            ensure!(bed.outcome(dropped)? == 0, "{dropped}: {}", bed.state());
        }
        let route = bed.client.ip(&["route", "get", &bed.vip.addr(VIP).to_string()])?;
        ensure!(route.contains(&format!("mtu {}", room(bed.real))), "{route}");
        let servers = bed.forwarder()?.virtual_servers;
        for server in servers.iter().flat_map(|vs| &vs.real_servers) {
            ensure!(server.method == "tun" && server.connections > 0, "{server:?}");
        }
        let shown = bed.host.lbctl(&["status"])?;
        ensure!(shown.contains("TUN") || shown.contains("tun"), "{shown}");
        bed.host.stop()
    })
}

#[test]
fn clients_are_told_of_a_server_that_is_gone() -> Result<()> {
    all("plane_tun", |vip, real, hook| {
        let mut bed = Bed::start(vip, real, hook)?;
        let mut streams = (0..4).map(|_| bed.connect(LIMIT)).collect::<Result<Vec<_>>>()?;
        streams.iter_mut().try_for_each(echo)?;
        bed.ports[0].set_link(false)?;
        bed.until("the server to be down", |bed| {
            let servers = bed.forwarder()?.virtual_servers;
            let mut servers = servers.into_iter().flat_map(|vs| vs.real_servers);
            Ok(!servers.all(|rs| rs.state == "UP"))
        })?;
        let mut told = 0;
        for stream in &mut streams {
            if let Err(error) = echo(stream) {
                let reset = error.root_cause().downcast_ref::<std::io::Error>();
                let kind = reset.map(std::io::Error::kind);
                ensure!(kind == Some(std::io::ErrorKind::ConnectionReset), "{error:#}");
                told += 1;
            }
        }
        ensure!(told == 2, "{told} of 4 were told: {}", bed.state());
        bed.host.stop()
    })
}
