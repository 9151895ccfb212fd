//! Connections that go on at the other host: a pair of lbd with flow sync, two real servers, a thousand kept
//! sessions, of which nine hundred have said nothing for `LB_SYNC_IDLE` seconds (5 when not set) when the master's host
//! is killed. Every session must be answered by the server that it had, whatever became of the hosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    mariadb,
    netns::{Namespace, Port, Switch, ready_or_skip},
    wait::wait_until,
};
use lb_userspace::base::status::{FlowSyncStatus, VrrpState};
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const INNER_VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];
const PORT: u16 = 3306;
const SYNC_PORT: u16 = 8849;
const SERVERS: u8 = 2;
const LIMIT: Duration = Duration::from_secs(60);
/// A segment that is lost while nobody is master comes again after 0.2, 0.4, 0.8, 1.6 s.
const ANSWER: Duration = Duration::from_secs(8);
const SESSIONS: usize = 1000;
const BUSY: usize = 100;
const KEY: &str = "hex:0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Dr,
    Nat,
}

/// A kept session, and the server that has it.
struct Session {
    stream: TcpStream,
    server: u8,
}

impl Session {
    /// The server says who it is for each byte.
    fn ask(&mut self) -> Result<()> {
        self.stream.write_all(b"?").context("write")?;
        let mut byte = [0];
        self.stream.read_exact(&mut byte).context("read")?;
        ensure!(byte[0] == self.server, "server {} answers for {}", byte[0], self.server);
        Ok(())
    }
}

/// Sessions that ask all the time, in a thread.
struct Busy {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Session>, Vec<String>, Duration)>,
}

impl Busy {
    fn start(mut sessions: Vec<Session>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut failures, mut longest) = (Vec::new(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                for (number, session) in sessions.iter_mut().enumerate() {
                    let begun = Instant::now();
                    if let Err(error) = session.ask() {
                        failures.push(format!("busy session {number}: {error:#}"));
                    }
                    longest = longest.max(begun.elapsed());
                }
                if failures.len() > 20 {
                    break;
                }
            }
            (sessions, failures, longest)
        });
        Self { stop, thread }
    }

    /// All of them once more, then the longest answer.
    fn end(self) -> Result<(Vec<Session>, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        let (sessions, failures, longest) =
            self.thread.join().map_err(|_| anyhow::anyhow!("the busy thread panicked"))?;
        ensure!(failures.is_empty(), "{} failures: {failures:?}", failures.len());
        Ok((sessions, longest))
    }
}

struct Bed {
    client: Namespace,
    hosts: [Host; 2],
    /// Of each host, on both sides.
    cables: [Vec<Port>; 2],
    _lan: Switch,
    _servers: Vec<Namespace>,
    _inner: Option<Switch>,
    _dir: TempDir,
}

impl Bed {
    fn new(mode: Mode, sync: [&str; 2]) -> Result<Self> {
        host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
        let dir = mariadb::workspace("sync")?;
        let lan = Switch::new("lan")?;
        let inner = if mode == Mode::Nat { Some(Switch::new("inner")?) } else { None };
        let client = Namespace::new("client")?;
        lan.plug(&client, "eth0", Some("10.77.0.50/24"))?;
        let (mut hosts, mut cables) = (Vec::new(), Vec::new());
        for (number, addr) in (1u8..).zip(HOSTS) {
            let netns = Namespace::new(&format!("lb{number}"))?;
            let mut plugged = vec![lan.plug(&netns, "eth0", Some(&format!("{addr}/24")))?];
            if let Some(inner) = &inner {
                plugged.push(inner.plug(&netns, "eth1", Some(&format!("10.88.0.1{number}/24")))?);
            }
            cables.push(plugged);
            hosts.push(Host::new(&netns, Program::Lbd, dir.path())?);
        }
        let servers = (1..=SERVERS)
            .map(|number| server(mode, inner.as_ref().unwrap_or(&lan), number))
            .collect::<Result<_>>()?;
        let hosts: [Host; 2] = hosts.try_into().map_err(|_| anyhow::anyhow!("two hosts"))?;
        let cables: [Vec<Port>; 2] = cables.try_into().map_err(|_| anyhow::anyhow!("two hosts"))?;
        for (number, host) in hosts.iter().enumerate() {
            host.write_config(&config(mode, number, sync[number]))?;
        }
        Ok(Self { client, hosts, cables, _lan: lan, _servers: servers, _inner: inner, _dir: dir })
    }

    fn start(&mut self) -> Result<()> {
        for host in &mut self.hosts {
            host.start()?;
        }
        self.wait_master(0)?;
        self.wait_synced(1)
    }

    fn wait_master(&self, host: usize) -> Result<()> {
        self.hosts[host].wait_state(VrrpState::Master, VIP, LIMIT)
    }

    fn sync(&self, host: usize) -> Result<FlowSyncStatus> {
        self.hosts[host].forwarder()?.flow_sync.context("no flow sync in the status")
    }

    /// Until a host has its peer's connections.
    fn wait_synced(&self, host: usize) -> Result<()> {
        wait_until(
            &format!("lb{} in sync", host + 1),
            LIMIT,
            || {
                // It may not listen yet.
                let Ok(sync) = self.sync(host) else { return Ok(None) };
                Ok(sync.peers.iter().any(|peer| peer.state == "in sync").then_some(()))
            },
            || format!("{:#?}\n{}", self.sync(host), self.hosts[host].log_tail(40)),
        )
    }

    /// Until a host's table has so many connections.
    fn wait_flows(&self, host: usize, count: u64) -> Result<()> {
        wait_until(
            &format!("{count} connections on lb{}", host + 1),
            LIMIT,
            || Ok((self.hosts[host].forwarder()?.flows == count).then_some(())),
            || format!("{:#?}\n{}", self.sync(host), self.hosts[host].log_tail(40)),
        )
    }

    /// Until a host has no connection that lives.
    fn wait_closed(&self, host: usize) -> Result<()> {
        wait_until(
            "all connections closed",
            LIMIT,
            || Ok(self.active(host)?.values().all(|count| *count == 0).then_some(())),
            || format!("{:?} {:#?}", self.active(host), self.sync(host)),
        )
    }

    fn connect(&self) -> Result<Session> {
        let target = SocketAddr::from((VIP, PORT));
        let mut stream = self.client.enter(|| TcpStream::connect_timeout(&target, ANSWER))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"?")?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        Ok(Session { stream, server: byte[0] })
    }

    fn set_links(&self, host: usize, up: bool) -> Result<()> {
        self.cables[host].iter().try_for_each(|cable| cable.set_link(up))
    }

    /// Takes the host off as a cut of its power does: its processes, its network, and what its kernel held.
    fn kill_host(&mut self, host: usize) -> Result<()> {
        self.set_links(host, false)?;
        self.hosts[host].kill_all()?;
        let pins = self.hosts[host].pin_dir();
        std::fs::remove_dir_all(&pins).with_context(|| format!("remove {}", pins.display()))
    }

    /// Active connections by real server, as a host's scheduler counts them.
    fn active(&self, host: usize) -> Result<BTreeMap<IpAddr, u64>> {
        let forwarder = self.hosts[host].forwarder()?;
        let servers = forwarder.virtual_servers.iter().flat_map(|vs| &vs.real_servers);
        Ok(servers.map(|rs| (rs.addr.ip(), rs.active_connections)).collect())
    }
}

fn server_addr(mode: Mode, number: u8) -> Ipv4Addr {
    match mode {
        Mode::Dr => Ipv4Addr::new(10, 77, 0, 20 + number),
        Mode::Nat => Ipv4Addr::new(10, 88, 0, 20 + number),
    }
}

/// A host that answers each byte with its number.
fn server(mode: Mode, switch: &Switch, number: u8) -> Result<Namespace> {
    let netns = Namespace::new(&format!("db{number}"))?;
    let addr = server_addr(mode, number);
    switch.plug(&netns, "eth0", Some(&format!("{addr}/24")))?;
    match mode {
        Mode::Nat => {
            netns.ip(&["route", "add", "default", "via", &INNER_VIP.to_string()])?;
        }
        Mode::Dr => {
            netns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            netns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
            netns.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
        }
    }
    let listener = netns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    listener.set_nonblocking(true)?;
    thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (mut stream, _) = listener.accept().await?;
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        if stream.write_all(&[number]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        })
    });
    Ok(netns)
}

fn config(mode: Mode, host: usize, sync: &str) -> String {
    let priority = [101, 99][host];
    let (kind, inner) = match mode {
        Mode::Dr => ("DR", String::new()),
        Mode::Nat => ("NAT", format!("        {INNER_VIP}/24 dev eth1\n")),
    };
    let servers: String = (1..=SERVERS)
        .map(|number| {
            let addr = server_addr(mode, number);
            format!("    real_server {addr} {PORT} {{\n        weight 1\n    }}\n")
        })
        .collect();
    format!(
        "global_defs {{
    flow_sync {{
        key {KEY}
        {sync}
    }}
}}
vrrp_instance VI_1 {{
    state BACKUP
    interface eth0
    version 3
    virtual_router_id 51
    priority {priority}
    advert_int 0.3
    virtual_ipaddress {{
        {VIP}/24
{inner}    }}
}}
virtual_server {VIP} {PORT} {{
    lb_algo wlc
    lb_kind {kind}
    protocol TCP
{servers}}}
"
    )
}

/// Unicast, with the peers by name.
fn unicast() -> [String; 2] {
    [0, 1].map(|own: usize| format!("source {}\n        peer {}", HOSTS[own], HOSTS[1 - own]))
}

fn say(what: &str, sessions: usize, longest: Duration, begun: Instant) {
    eprintln!(
        "plane_sync: {what}: {sessions} sessions answered, the longest answer {} ms, all in {:.1} s",
        longest.as_millis(),
        begun.elapsed().as_secs_f64()
    );
}

/// The scenario of the issue, under wlc.
fn nothing_is_lost(mode: Mode, sync: [&str; 2]) -> Result<()> {
    let mut bed = Bed::new(mode, sync)?;
    bed.start()?;
    let mut idle = (0..SESSIONS - BUSY).map(|_| bed.connect()).collect::<Result<Vec<_>>>()?;
    let mut busy = (0..BUSY).map(|_| bed.connect()).collect::<Result<Vec<_>>>()?;
    let mut wanted = BTreeMap::new();
    for session in idle.iter().chain(&busy) {
        let addr = IpAddr::from(server_addr(mode, session.server));
        *wanted.entry(addr).or_insert(0) += 1;
    }
    // wlc counts a connection from its handshake's end on, which may come after the next one's SYN.
    let is_fair = |count: &u64| count.abs_diff(SESSIONS as u64 / 2) <= SESSIONS as u64 / 100;
    ensure!(wanted.len() == 2 && wanted.values().all(is_fair), "wlc: {wanted:?}");
    bed.wait_flows(1, SESSIONS as u64)?;
    // A reload of something else leaves the stream where it is: no peer begins again, nothing is told twice.
    let resyncs = |bed: &Bed, host: usize| -> Result<(Vec<u64>, u64)> {
        let sync = bed.sync(host)?;
        Ok((sync.peers.iter().map(|peer| peer.resyncs).collect(), sync.resyncs_sent))
    };
    let before = [resyncs(&bed, 0)?, resyncs(&bed, 1)?];
    for (host, sync) in sync.into_iter().enumerate() {
        let text = config(mode, host, sync)
            .replace("advert_int 0.3", "advert_int 0.3\n    garp_master_delay 4");
        bed.hosts[host].write_config(&text)?;
        let said = bed.hosts[host].lbctl(&["reload"])?;
        ensure!(said.contains("garp_master_delay"), "{said}");
    }
    for host in [0, 1] {
        bed.wait_synced(host)?;
        ensure!(resyncs(&bed, host)? == before[host], "{before:?}: {:#?}", bed.sync(host));
    }
    let pause = std::env::var("LB_SYNC_IDLE").ok().and_then(|text| text.parse().ok());
    let mut pause = Duration::from_secs(pause.unwrap_or(5));

    // Each is done to the pair while the busy sessions ask; the idle ones say nothing until it is over.
    type Deed = fn(&mut Bed) -> Result<usize>;
    let deeds: [(&str, Deed); 6] = [
        ("kill -9 of the master's whole host", |bed| {
            bed.kill_host(0)?;
            Ok(1)
        }),
        ("preempting return", |bed| {
            bed.set_links(0, true)?;
            bed.hosts[0].start()?;
            Ok(0)
        }),
        ("clean stop", |bed| {
            bed.hosts[0].stop()?;
            Ok(1)
        }),
        ("preempting return after the clean stop", |bed| {
            bed.hosts[0].start()?;
            Ok(0)
        }),
        ("upgrade of the backup", |bed| {
            bed.hosts[1].stop()?;
            bed.hosts[1].start()?;
            bed.wait_synced(1)?;
            Ok(0)
        }),
        ("upgrade of the master", |bed| {
            bed.hosts[0].stop()?;
            bed.wait_master(1)?;
            bed.hosts[0].start()?;
            Ok(0)
        }),
    ];
    for (what, deed) in deeds {
        let begun = Instant::now();
        let asking = Busy::start(busy);
        thread::sleep(std::mem::replace(&mut pause, Duration::from_secs(2)));
        let deed_at = Instant::now();
        let master = deed(&mut bed).with_context(|| what.to_owned())?;
        bed.wait_master(master).with_context(|| what.to_owned())?;
        let took = deed_at.elapsed();
        let (sessions, mut longest) = asking.end().with_context(|| what.to_owned())?;
        busy = sessions;
        let mut failures = Vec::new();
        for (number, session) in idle.iter_mut().chain(&mut busy).enumerate() {
            let asked = Instant::now();
            if let Err(error) = session.ask() {
                failures.push(format!("{number}: {error:#}"));
            }
            longest = longest.max(asked.elapsed());
        }
        let shown: Vec<_> = failures.iter().take(5).collect();
        ensure!(
            failures.is_empty(),
            "{what}: {} of {SESSIONS} sessions are lost: {shown:?}\n{:#?}\n{}",
            failures.len(),
            bed.sync(master),
            bed.hosts[master].log_tail(30)
        );
        eprintln!("plane_sync: {what}: lb{} master after {} ms", master + 1, took.as_millis());
        say(what, SESSIONS, longest, begun);
        // What wlc goes by.
        wait_until(
            "the master counts every connection",
            LIMIT,
            || Ok((bed.active(master)? == wanted).then_some(())),
            || format!("{wanted:?} {:?}", bed.active(master)),
        )?;
    }
    // Ends are told too.
    drop((idle, busy));
    bed.wait_closed(0)?;
    bed.wait_closed(1)?;
    bed.hosts.iter_mut().try_for_each(Host::stop)
}

#[test]
fn a_thousand_sessions_survive_under_dr() -> Result<()> {
    if !ready_or_skip("plane_sync")? {
        return Ok(());
    }
    let sync = unicast();
    nothing_is_lost(Mode::Dr, [&sync[0], &sync[1]])
}

#[test]
fn a_thousand_sessions_survive_under_nat() -> Result<()> {
    if !ready_or_skip("plane_sync")? {
        return Ok(());
    }
    let sync = unicast();
    nothing_is_lost(Mode::Nat, [&sync[0], &sync[1]])
}

/// A group on an interface in place of names; and a server's reply may be the first segment that the new
/// master sees of a connection.
#[test]
fn multicast_does_too_and_a_waiting_client_gets_its_reply() -> Result<()> {
    if !ready_or_skip("plane_sync")? {
        return Ok(());
    }
    let group = "multicast 224.0.0.81\n        interface eth0";
    let mut bed = Bed::new(Mode::Nat, [group; 2])?;
    bed.start()?;
    let mut sessions = (0..20).map(|_| bed.connect()).collect::<Result<Vec<_>>>()?;
    bed.wait_flows(1, 20)?;
    bed.kill_host(0)?;
    bed.wait_master(1)?;
    sessions.iter_mut().try_for_each(Session::ask)?;
    let sync = bed.sync(1)?;
    ensure!(sync.connections["entered"] >= 20, "{sync:#?}");
    bed.hosts[1].stop()
}

/// Copies of all datagrams of flow sync that come to a host, with what is before them cut off.
fn tap(netns: &Namespace) -> Result<Socket> {
    netns.enter(|| -> Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(socket)
    })?
}

fn tapped(tap: &Socket) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    loop {
        let length = (&*tap).read(&mut buffer).ok()?;
        let bytes = buffer.get(..length)?;
        if bytes.get(22..24) == Some(&SYNC_PORT.to_be_bytes()) {
            return bytes.get(28..).map(<[u8]>::to_vec);
        }
    }
}

/// Whatever somebody on the network sends who has no key: nothing changes, and each is counted by its reason.
#[test]
fn datagrams_of_others_change_nothing_and_are_counted() -> Result<()> {
    if !ready_or_skip("plane_sync")? {
        return Ok(());
    }
    let sync = unicast();
    let mut bed = Bed::new(Mode::Dr, [&sync[0], &sync[1]])?;
    let tape = tap(bed.hosts[1].netns())?;
    bed.start()?;
    let sessions = (0..50).map(|_| bed.connect()).collect::<Result<Vec<_>>>()?;
    bed.wait_flows(1, 50)?;
    let mut recorded = Vec::new();
    while let Some(bytes) = tapped(&tape) {
        recorded.push(bytes);
        if recorded.len() > 200 {
            break;
        }
    }
    ensure!(recorded.len() > 5, "{} datagrams recorded", recorded.len());
    // The first host ends its connections, and its life; somebody has its address then.
    drop(sessions);
    bed.wait_closed(1)?;
    bed.hosts[0].stop()?;
    bed.wait_master(1)?;
    // Only now: the first host has told of the last segments of each connection, and taken its leave.
    let before = bed.sync(1)?;
    let liar = bed.hosts[0].netns().enter(|| UdpSocket::bind((HOSTS[0], SYNC_PORT)))??;
    let stranger = bed.client.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SYNC_PORT)))??;
    let to = (HOSTS[1], SYNC_PORT);
    for bytes in &recorded {
        liar.send_to(bytes, to)?;
        stranger.send_to(bytes, to)?;
        let mut forged = bytes.clone();
        *forged.last_mut().context("empty")? ^= 1;
        liar.send_to(&forged, to)?;
        liar.send_to(&bytes[..bytes.len() - 1], to)?;
        liar.send_to(&bytes[..20], to)?;
        let mut other = bytes.clone();
        other[4] = 99;
        liar.send_to(&other, to)?;
        other[0] = b'x';
        liar.send_to(&other, to)?;
    }
    liar.send_to(&[0; 1600], to)?;
    let count = recorded.len() as u64;
    let after = wait_until(
        "all of it counted",
        LIMIT,
        || {
            let after = bed.sync(1)?;
            let more = |name: &str| after.rejected[name] - before.rejected[name];
            let counted = more("stranger") >= count
                && more("forged") >= 2 * count
                && more("length") > count
                && more("version") >= count
                && more("magic") >= count
                && more("replayed") > 0;
            Ok(counted.then_some(after))
        },
        || format!("{count} {before:#?}\n{:#?}", bed.sync(1)),
    )?;
    ensure!(after.connections == before.connections, "{before:#?}\n{after:#?}");
    let open: BTreeSet<u64> = bed.active(1)?.into_values().collect();
    ensure!(open == BTreeSet::from([0]), "connections came back: {open:?}");
    bed.hosts[1].stop()
}
