//! NAT through a whole lbd: clients that wait for a reply while the balancer forgets them, and
//! sessions over a restart and a replacement of the program, native and generic.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::{abi::Control, maps};
use lb_tests::{
    host::{self, Host, Program},
    mariadb,
    netns::{Namespace, Switch, ready_or_skip},
    packet::build::Family,
    wait::wait_until,
};
use tempfile::TempDir;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Of the servers.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const PORT: u16 = 3306;
const LIMIT: Duration = Duration::from_secs(30);
/// A stop, a start and both servers known again, before a server answers unasked.
const PATIENCE: Duration = Duration::from_secs(120);
/// A server's first repetitions come after 0.2, 0.4 and 0.8 s: by one of these. The next comes 1.6 s later, which is
/// left to a machine that stalls.
const TOLD: Duration = Duration::from_millis(2900);
const REPLY: &[u8] = b"rows";

/// What the servers' threads share.
#[derive(Default)]
struct Servers {
    /// Connections by server.
    accepted: [AtomicU32; 2],
    /// Connections whose other end was not the client's own address.
    strangers: AtomicU32,
    /// Requests that wait for [`Servers::go`].
    waiting: AtomicU32,
    go: Mutex<bool>,
    gone: Condvar,
}

impl Servers {
    fn let_go(&self, go: bool) {
        *self.go.lock().unwrap_or_else(PoisonError::into_inner) = go;
        self.gone.notify_all();
    }

    /// Echoes each byte, but answers `q` with [`REPLY`] when it is told to.
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            if byte == *b"q" {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let go = self.go.lock().unwrap_or_else(PoisonError::into_inner);
                let go = self.gone.wait_timeout_while(go, PATIENCE, |go| !*go);
                drop(go);
                stream.write_all(REPLY)?;
            } else {
                stream.write_all(&byte)?;
            }
        }
        Ok(())
    }
}

struct Bed {
    family: Family,
    client: Namespace,
    host: Host,
    servers: Arc<Servers>,
    _namespaces: [Namespace; 2],
    _dir: TempDir,
    _switches: [Switch; 2],
}

impl Bed {
    fn new(family: Family, scheduler: &str, mode: &str) -> Result<Self> {
        host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
        let dir = mariadb::workspace("nat")?;
        let (lan, inner) = (Switch::new("lan")?, Switch::new("inner")?);
        let client = Namespace::of_family("client", family)?;
        let lb = Namespace::of_family("lb", family)?;
        lan.plug(&client, "eth0", Some(&family.on_link(CLIENT)))?;
        lan.plug(&lb, "eth0", Some(&family.on_link([10, 77, 0, 2].into())))?;
        inner.plug(&lb, "eth1", Some(&family.on_link(ROUTER)))?;
        lb.ip(&["addr", "add", &family.addr(VIP).to_string(), "dev", "eth0"])?;
        let servers = Arc::new(Servers::default());
        let namespaces = [
            server(family, &inner, 0, Arc::clone(&servers))?,
            server(family, &inner, 1, Arc::clone(&servers))?,
        ];
        let mut host = Host::new(&lb, Program::Lbd, dir.path())?;
        host.write_config(&format!(
            "global_defs {{\n  lvs_xdp_mode {mode}\n}}\n\
             virtual_server {} {PORT} {{\n  lb_algo {scheduler}\n  lb_kind NAT\n\
             \x20 real_server {} {PORT} {{\n    weight 1\n  }}\n\
             \x20 real_server {} {PORT} {{\n    weight 1\n  }}\n}}\n",
            family.addr(VIP),
            family.addr(server_name(0)),
            family.addr(server_name(1)),
        ))?;
        host.start()?;
        let bed = Self {
            family,
            client,
            host,
            servers,
            _namespaces: namespaces,
            _dir: dir,
            _switches: [lan, inner],
        };
        bed.wait_for_both()?;
        Ok(bed)
    }

    /// Until both servers take new connections.
    fn wait_for_both(&self) -> Result<()> {
        let count = || self.servers.accepted.each_ref().map(|n| n.load(Ordering::Relaxed));
        let before = count();
        wait_until(
            "both servers to take connections",
            LIMIT,
            || {
                let _ = self.connect(Duration::from_millis(200));
                let now = count();
                Ok((now[0] > before[0] && now[1] > before[1]).then_some(()))
            },
            || self.host.log_tail(20),
        )
    }

    fn connect(&self, limit: Duration) -> Result<TcpStream> {
        let target = SocketAddr::from((self.family.addr(VIP), PORT));
        let stream = self.client.enter(|| TcpStream::connect_timeout(&target, limit))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    fn outcome(&self, name: &str) -> Result<u64> {
        self.host.forwarder()?.outcomes.get(name).copied().context("no such outcome")
    }

    /// Segments that the client has had to send again, by its kernel's count (RFC 2012 `tcpRetransSegs`).
    fn repeated(&self) -> Result<u64> {
        let text = self.client.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, numbers) = lines.next().zip(lines.next()).context("no line of TCP's")?;
        let mut both = names.split(' ').zip(numbers.split(' '));
        let (_, count) = both.find(|(name, _)| *name == "RetransSegs").context("no such count")?;
        count.parse().context("a number")
    }

    /// Ids of the programs on eth0 and eth1, as iproute2 says them.
    fn programs(&self) -> Result<Vec<String>> {
        let text = self.host.netns().ip(&["-d", "link", "show"])?;
        Ok(text
            .lines()
            .filter_map(|line| Some(line.split_once("prog/xdp")?.1.trim().to_owned()))
            .collect())
    }
}

fn server_name(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, index as u8 + 3)
}

fn server(
    family: Family,
    switch: &Switch,
    index: usize,
    servers: Arc<Servers>,
) -> Result<Namespace> {
    let netns = Namespace::of_family(&format!("db{index}"), family)?;
    switch.plug(&netns, "eth0", Some(&family.on_link(server_name(index))))?;
    let router = family.addr(ROUTER).to_string();
    netns.ip(&[family.option(), "route", "add", "default", "via", &router])?;
    let listener = netns.enter(|| TcpListener::bind((family.any(), PORT)))??;
    thread::spawn(move || {
        let client = family.addr(CLIENT);
        for stream in listener.incoming().flatten() {
            let is_client = stream.peer_addr().is_ok_and(|peer| peer.ip() == client);
            servers.strangers.fetch_add(u32::from(!is_client), Ordering::Relaxed);
            servers.accepted[index].fetch_add(1, Ordering::Relaxed);
            let servers = Arc::clone(&servers);
            thread::spawn(move || servers.serve(stream));
        }
    });
    Ok(netns)
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"e").context("write")?;
    let mut byte = [0];
    stream.read_exact(&mut byte).context("read")?;
    ensure!(byte == *b"e", "{byte:?}");
    Ok(())
}

/// What becomes of a client that waits for a reply while the balancer loses its connections, as a
/// failover does. The reply itself is the first thing that anybody sends then.
fn wait_through_a_loss(
    family: Family,
    scheduler: &str,
    routes: bool,
) -> Result<(Bed, std::io::Result<Vec<u8>>)> {
    let mut bed = Bed::new(family, scheduler, "auto")?;
    let lb = bed.host.netns();
    if routes {
        lb.sysctl("net/ipv4/ip_forward", "1")?;
        if family == Family::Six {
            lb.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        let link = bed.client.ip(&["-br", "link", "show", "dev", "eth0"])?;
        let mac = link.split_whitespace().nth(2).context("no MAC address")?.to_owned();
        let client = family.addr(CLIENT).to_string();
        lb.ip(&["neigh", "replace", &client, "lladdr", &mac, "dev", "eth0", "nud", "permanent"])?;
    }
    let mut stream = bed.connect(LIMIT)?;
    stream.write_all(b"q")?;
    wait_until(
        "the request at the server",
        LIMIT,
        || Ok((bed.servers.waiting.load(Ordering::Relaxed) == 1).then_some(())),
        || bed.host.log_tail(20),
    )?;
    bed.host.stop()?;
    bed.host.start()?;
    bed.wait_for_both()?;
    let begin = Instant::now();
    bed.servers.let_go(true);
    let mut reply = vec![0; REPLY.len()];
    let got = stream.read_exact(&mut reply).map(|()| reply);
    ensure!(begin.elapsed() < TOLD, "told ({got:?}) after {:?}", begin.elapsed());
    if got.is_ok() {
        echo(&mut stream)?;
    }
    Ok((bed, got))
}

fn is_reset(got: std::io::Result<Vec<u8>>) -> bool {
    got.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn a_waiting_client_is_reset_when_its_connection_is_forgotten() -> Result<()> {
    if !ready_or_skip("plane_nat")? {
        return Ok(());
    }
    for family in Family::ALL {
        let (mut bed, got) = wait_through_a_loss(family, "wlc", false)?;
        ensure!(is_reset(got), "the client was not reset");
        ensure!(bed.outcome("orphan_reported")? > 0 && bed.outcome("reset_unknown")? > 0);
        bed.host.stop()?;
        // A host that routes knows the way itself.
        let (mut bed, got) = wait_through_a_loss(family, "wlc", true)?;
        ensure!(is_reset(got), "the client was not reset");
        ensure!(bed.outcome("orphan_reset")? > 0 && bed.outcome("orphan_reported")? == 0);
        bed.host.stop()?;
    }
    Ok(())
}

#[test]
fn a_waiting_client_gets_its_reply_where_the_hash_finds_the_server() -> Result<()> {
    if !ready_or_skip("plane_nat")? {
        return Ok(());
    }
    for family in Family::ALL {
        // With the port, because all connections come from one address.
        let (mut bed, got) = wait_through_a_loss(family, "mh\n  mh-port", false)?;
        ensure!(got? == REPLY);
        ensure!(bed.outcome("orphan_reported")? > 0 && bed.outcome("midstream_hashed")? > 0);
        bed.host.stop()?;
        let (mut bed, got) = wait_through_a_loss(family, "mh\n  mh-port", true)?;
        ensure!(got? == REPLY);
        ensure!(bed.outcome("orphan_adopted")? > 0 && bed.outcome("orphan_reported")? == 0);
        bed.host.stop()?;
    }
    Ok(())
}

#[test]
fn nat_sessions_survive_restart_and_replacement_in_every_mode() -> Result<()> {
    if !ready_or_skip("plane_nat")? {
        return Ok(());
    }
    let mut with_losses = 0;
    for (family, mode) in [
        (Family::Four, "auto"),
        (Family::Four, "generic"),
        (Family::Six, "auto"),
        (Family::Six, "generic"),
    ] {
        let mut bed = Bed::new(family, "wlc", mode)?;
        let links = bed.host.netns().ip(&["link", "show"])?;
        ensure!(links.contains("xdpgeneric") == (mode == "generic"), "{mode}: {links}");
        let mut streams = (0..8).map(|_| bed.connect(LIMIT)).collect::<Result<Vec<_>>>()?;
        streams.iter_mut().try_for_each(echo)?;
        let before = bed.programs()?;
        ensure!(before.len() == 2, "{before:?}");

        bed.host.kill_role("forwarder")?;
        streams.iter_mut().try_for_each(echo)?;
        // One that is still starting would write what it read of the control block over what is planted below.
        bed.host.replace_role("forwarder")?;
        bed.wait_for_both()?;
        streams.iter_mut().try_for_each(echo)?;
        ensure!(bed.programs()? == before, "the same object was loaded again");

        // As another build of lbd would find it.
        let path = bed.host.pin_dir().join(maps::CONTROL);
        let mut control =
            Array::<_, Control>::try_from(Map::from_map_data(MapData::from_pin(path)?)?)?;
        let was = control.get(&0, 0)?;
        control.set(0, Control { object_hash: !was.object_hash, ..was }, 0)?;
        bed.host.kill_role("forwarder")?;
        wait_until(
            "another program on both interfaces",
            LIMIT,
            || {
                streams.iter_mut().try_for_each(echo)?;
                let now = bed.programs()?;
                Ok((now.len() == 2 && now.iter().all(|id| !before.contains(id))).then_some(()))
            },
            || bed.host.log_tail(20),
        )?;
        bed.wait_for_both()?;
        streams.iter_mut().try_for_each(echo)?;
        with_losses += u32::from(bed.repeated()? > 0);
        let strangers = bed.servers.strangers.load(Ordering::Relaxed);
        ensure!(strangers == 0, "{strangers} connections did not show the client's own address");
        bed.host.stop()?;
        ensure!(!bed.host.pin_dir().exists(), "pins are left");
        // The kernel detaches a link whose last pin is gone from a work queue.
        wait_until(
            "both interfaces to be without a program",
            LIMIT,
            || Ok(bed.programs()?.is_empty().then_some(())),
            || format!("{:?}", bed.programs()),
        )?;
    }
    // A machine that stalls for longer than TCP waits (0.2 s) makes it repeat what nobody lost, but not each time.
    ensure!(with_losses <= 1, "in {with_losses} of 4 the client had to repeat what was lost");
    Ok(())
}
