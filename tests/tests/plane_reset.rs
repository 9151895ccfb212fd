//! Connections of a server that dies or is taken out, through a whole lbd, by DR and NAT: idle ones
//! are told at both ends as soon as that is decided, or later, or never, as `on_down` and `lbctl
//! drain` say.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use lb_common::{
    abi::{Addr, Be32, Flow, FlowKey},
    maps,
};
use lb_tests::{
    host::{self, Host, Program},
    mariadb,
    netns::{Namespace, Port, Switch, ready_or_skip},
    packet::build::Family,
    wait::wait_until,
};
use lb_userspace::base::status::{ForwarderStatus, RealServerStatus};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Of the servers, for NAT.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const PORT: u16 = 3306;
/// For whatever is waited for.
const LIMIT: Duration = Duration::from_secs(30);
/// From the decision to the last client's RST.
const TOLD: Duration = Duration::from_millis(500);
const MANY: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dr,
    Nat,
    Dr6,
    Nat6,
}

const KINDS: [Kind; 4] = [Kind::Dr, Kind::Nat, Kind::Dr6, Kind::Nat6];

impl Kind {
    fn is_nat(self) -> bool {
        matches!(self, Self::Nat | Self::Nat6)
    }

    fn family(self) -> Family {
        match self {
            Self::Dr | Self::Nat => Family::Four,
            Self::Dr6 | Self::Nat6 => Family::Six,
        }
    }

    fn vip(self) -> SocketAddr {
        (self.family().addr(VIP), PORT).into()
    }
}

/// A server in the eyes of its own sockets. It echoes each byte.
#[derive(Debug, Default)]
struct Server {
    /// Connections on which a byte has come, and which have not ended.
    open: Vec<TcpStream>,
    /// How many there have been.
    taken: usize,
    /// How many of them have ended by a RST.
    reset: usize,
}

type Shared = Arc<Mutex<Server>>;

struct Bed {
    kind: Kind,
    client: Namespace,
    client_cable: Port,
    host: Host,
    addresses: [SocketAddr; 2],
    cables: [Port; 2],
    servers: [Shared; 2],
    _namespaces: [Namespace; 2],
    _dir: TempDir,
    _switches: Vec<Switch>,
}

impl Bed {
    /// A virtual server with these words beside, and two servers that a TCP_CHECK asks each second.
    fn new(kind: Kind, words: &str) -> Result<Self> {
        host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
        // Two descriptors a connection, beside those of other tests.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, soft.max(16_384).min(hard), hard)?;
        let dir = mariadb::workspace("reset")?;
        let family = kind.family();
        let lan = Switch::new("lan")?;
        let (client, lb) =
            (Namespace::of_family("client", family)?, Namespace::of_family("lb", family)?);
        let client_cable =
            lan.plug(&client, "eth0", Some(&family.on_link([10, 77, 0, 1].into())))?;
        lan.plug(&lb, "eth0", Some(&family.on_link([10, 77, 0, 2].into())))?;
        // Never a source address, as lbd's own: probes from it would be answered to a server's `lo`.
        let vip = family.addr(VIP).to_string();
        lb.ip(&["addr", "add", &vip, "dev", "eth0", "preferred_lft", "0"])?;
        let (inner, network) = if kind.is_nat() {
            let inner = Switch::new("inner")?;
            inner.plug(&lb, "eth1", Some(&family.on_link(ROUTER)))?;
            (Some(inner), [10, 88, 0])
        } else {
            (None, [10, 77, 0])
        };
        let [a, b, c] = network;
        let addresses = [3, 4].map(|n| Ipv4Addr::new(a, b, c, n));
        let servers = [Shared::default(), Shared::default()];
        let switch = inner.as_ref().unwrap_or(&lan);
        let (one, one_cable) = server(switch, kind, addresses[0], Arc::clone(&servers[0]))?;
        let (two, two_cable) = server(switch, kind, addresses[1], Arc::clone(&servers[1]))?;
        let real_servers = addresses.map(|addr| {
            let addr = family.addr(addr);
            format!(
                "  real_server {addr} {PORT} {{\n    TCP_CHECK {{\n      connect_timeout 1\n\
                 \x20     retry 0\n      delay_loop 1\n      warmup 0\n    }}\n  }}\n"
            )
        });
        let mut host = Host::new(&lb, Program::Lbd, dir.path())?;
        host.write_config(&format!(
            "virtual_server {} {PORT} {{\n  protocol TCP\n  lb_algo wlc\n  lb_kind {}\n\
             \x20 {words}\n{}}}\n",
            family.addr(VIP),
            if kind.is_nat() { "NAT" } else { "DR" },
            real_servers.concat()
        ))?;
        host.start()?;
        let bed = Self {
            kind,
            client,
            client_cable,
            host,
            addresses: addresses.map(|addr| (family.addr(addr), PORT).into()),
            cables: [one_cable, two_cable],
            servers,
            _namespaces: [one, two],
            _dir: dir,
            _switches: [Some(lan), inner].into_iter().flatten().collect(),
        };
        bed.until("both servers to be up", |bed| {
            let up = |at| bed.real(at).is_ok_and(|rs| rs.state == "UP" && rs.problem.is_none());
            Ok(up(0) && up(1) && bed.connect().is_ok())
        })?;
        // As a checker without root, and without a connect error on a MySQL server. A server is up before it is probed.
        wait_until(
            "probes that are half open",
            LIMIT,
            || Ok((bed.details()? == ["answers (half open)"; 2]).then_some(())),
            || format!("{:?}", bed.details()),
        )?;
        Ok(bed)
    }

    /// What each checker found last.
    fn details(&self) -> Result<Vec<String>> {
        let servers = self.host.status()?.servers;
        let checkers = servers.into_iter().flat_map(|server| server.checkers);
        Ok(checkers.map(|checker| checker.detail).collect())
    }

    fn until(&self, what: &str, is: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        // A question that lbd has no time for is asked again.
        wait_until(
            what,
            LIMIT,
            || Ok(is(self).unwrap_or(false).then_some(())),
            || format!("{:?}\n{}", is(self), self.host.log_tail(30)),
        )
    }

    fn forwarder(&self) -> Result<ForwarderStatus> {
        self.host.forwarder()
    }

    fn real(&self, at: usize) -> Result<RealServerStatus> {
        let forwarder = self.forwarder()?;
        let vs = forwarder.virtual_servers.into_iter().next().context("no virtual server")?;
        let addr = self.addresses[at];
        vs.real_servers.into_iter().find(|rs| rs.addr == addr).context("no such real server")
    }

    /// Connections to the first server: the other one takes none meanwhile.
    fn sessions(&self, count: usize) -> Result<Sessions> {
        let other = self.addresses[1].to_string();
        self.host.lbctl(&["drain", &other])?;
        let before = self.taken(0);
        let sessions = (0..count).map(|_| self.connect()).collect::<Result<Vec<_>>>()?;
        ensure!(self.taken(0) - before == count, "{} went there", self.taken(0) - before);
        self.host.lbctl(&["enable", &other])?;
        // Until no acknowledgement is under way any more: nobody will say anything by himself.
        self.until("the connections to be idle", |bed| {
            let flows = bed.host.lbctl(&["flows", "--json", "--limit", "5000"])?;
            let flows: serde_json::Value = serde_json::from_str(&flows)?;
            let flows = flows.as_array().context("flows")?;
            let idle = flows.iter().filter(|flow| {
                flow["state"] == "established" && flow["idle_ms"].as_u64() >= Some(300)
            });
            Ok(idle.count() >= count)
        })?;
        for stream in &sessions {
            stream.set_nonblocking(true)?;
        }
        Ok(Sessions::new(sessions))
    }

    fn taken(&self, at: usize) -> usize {
        locked(&self.servers[at]).taken
    }

    /// A connection on which a byte has gone both ways.
    fn connect(&self) -> Result<TcpStream> {
        let target = self.kind.vip();
        let mut stream = self.client.enter(|| TcpStream::connect_timeout(&target, LIMIT))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"e")?;
        stream.read_exact(&mut [0])?;
        Ok(stream)
    }

    /// When the checker found the first server dead for the last time.
    fn decided(&self) -> Result<SystemTime> {
        let log = fs::read_to_string(self.host.log())?;
        let server = format!("real_server={}", self.addresses[0]);
        let line = log
            .lines()
            .rfind(|line| {
                line.contains("verdict in the data plane")
                    && line.contains(&server)
                    && line.contains("health=Down")
            })
            .with_context(|| format!("no verdict\n{}", self.host.log_tail(40)))?;
        let (_, took) = line.rsplit_once("took_us=").context(line.to_owned())?;
        let took = took.trim().parse().context(line.to_owned())?;
        Ok(time_of(line)? - Duration::from_micros(took))
    }

    /// The segments of this kind that were sent.
    fn segments(&self, kind: &str) -> Result<u64> {
        Ok(self.forwarder()?.reset_segments.get(kind).copied().unwrap_or(0))
    }
}

/// The time that a log line begins with: `2026-11-29T09:15:19.123456Z`.
fn time_of(line: &str) -> Result<SystemTime> {
    let (_, time) = line.split_once('T').with_context(|| line.to_owned())?;
    let time = time.get(..15).with_context(|| line.to_owned())?;
    let number = |part: Option<&str>| -> Result<u64> {
        part.context("no number")?.parse().with_context(|| line.to_owned())
    };
    let mut parts = time.split([':', '.']);
    let hours = number(parts.next())?;
    let (minutes, seconds) = (number(parts.next())?, number(parts.next())?);
    let micros = number(parts.next())?;
    let of_day = Duration::from_secs(hours * 3600 + minutes * 60 + seconds);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let at = UNIX_EPOCH + Duration::from_secs(now / 86_400 * 86_400) + of_day;
    let at = at + Duration::from_micros(micros);
    // Shortly after midnight the line is of the day before.
    let ahead = at.duration_since(SystemTime::now()).unwrap_or_default();
    Ok(if ahead > Duration::from_secs(3600) { at - Duration::from_secs(86_400) } else { at })
}

/// When and how a connection has ended.
#[derive(Clone, Copy, Debug)]
struct End {
    /// It had not, in the look before; long before `seen` if this thread was held up.
    after: SystemTime,
    seen: SystemTime,
    kind: ErrorKind,
}

/// Connections of clients that wait, and when and how each ended.
struct Sessions {
    streams: Vec<TcpStream>,
    ended: Vec<Option<End>>,
    /// Begin of the last look.
    looked: Option<SystemTime>,
}

impl Sessions {
    fn new(streams: Vec<TcpStream>) -> Self {
        Self { ended: vec![None; streams.len()], streams, looked: None }
    }

    /// Looks at each once. How many have ended by now.
    fn look(&mut self) -> usize {
        let before = self.looked.replace(SystemTime::now());
        for (stream, ended) in self.streams.iter_mut().zip(&mut self.ended) {
            if ended.is_none() {
                *ended = outcome(stream).map(|kind| {
                    let seen = SystemTime::now();
                    End { after: before.unwrap_or(seen), seen, kind }
                });
            }
        }
        self.ended.iter().flatten().count()
    }

    /// Looks until all have ended, each by a RST. The first had by this moment, the last had not before that one.
    fn until_reset(&mut self, limit: Duration) -> Result<(SystemTime, SystemTime)> {
        let deadline = Instant::now() + limit;
        while self.look() < self.streams.len() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        let others: Vec<_> = self
            .ended
            .iter()
            .filter(|ended| !matches!(ended, Some(End { kind: ErrorKind::ConnectionReset, .. })))
            .collect();
        ensure!(others.is_empty(), "{} were not reset: {:?}", others.len(), others.first());
        let ends = || self.ended.iter().flatten();
        let first = ends().map(|end| end.seen).min().context("no session")?;
        Ok((first, ends().map(|end| end.after).max().context("no session")?))
    }

    /// A byte there and back on each.
    fn echo(&mut self) -> Result<()> {
        for stream in &mut self.streams {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(b"e").context("write")?;
            stream.read_exact(&mut [0]).context("read")?;
            stream.set_nonblocking(true)?;
        }
        Ok(())
    }
}

fn locked(server: &Shared) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a connection that does not block has ended, if it has.
fn outcome(stream: &mut TcpStream) -> Option<ErrorKind> {
    match stream.read(&mut [0; 8]) {
        Ok(0) => Some(ErrorKind::UnexpectedEof),
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => Some(error.kind()),
    }
}

fn server(
    switch: &Switch,
    kind: Kind,
    addr: Ipv4Addr,
    shared: Shared,
) -> Result<(Namespace, Port)> {
    let family = kind.family();
    let netns = Namespace::of_family(&format!("db{}", addr.octets()[3]), family)?;
    let cable = switch.plug(&netns, "eth0", Some(&family.on_link(addr)))?;
    if kind.is_nat() {
        let router = family.addr(ROUTER).to_string();
        netns.ip(&[family.option(), "route", "add", "default", "via", &router])?;
    } else {
        netns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        netns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
        netns.ip(&["addr", "add", &family.addr(VIP).to_string(), "dev", "lo"])?;
        if family == Family::Six {
            // What a server asks for MAC addresses from when it answers as an address of `lo`.
            let link_local = format!("fe80::{}/64", addr.octets()[3]);
            netns.ip(&["addr", "add", &link_local, "dev", "eth0"])?;
        }
    }
    let listener = netns.enter(|| TcpListener::bind((family.any(), PORT)))??;
    let later = Arc::clone(&shared);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            // One that says nothing yet, as its client is held up, is not waited for by the others.
            thread::spawn(move || {
                let mut byte = [0];
                let _ = stream.set_read_timeout(Some(LIMIT));
                if stream.read(&mut byte).is_ok_and(|count| count == 1)
                    && stream.set_nonblocking(true).is_ok()
                {
                    // Before the answer, so that whoever has one is counted.
                    let mut server = locked(&shared);
                    server.taken += 1;
                    let _ = stream.write_all(&byte);
                    server.open.push(stream);
                }
            });
        }
    });
    thread::spawn(move || {
        loop {
            let mut server = locked(&later);
            let mut reset = 0;
            server.open.retain_mut(|stream| {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => stream.write_all(&byte).is_ok(),
                    Ok(_) => false,
                    Err(error) => {
                        reset += usize::from(error.kind() == ErrorKind::ConnectionReset);
                        error.kind() == ErrorKind::WouldBlock
                    }
                }
            });
            server.reset += reset;
            drop(server);
            thread::sleep(Duration::from_millis(10));
        }
    });
    Ok((netns, cable))
}

fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

#[test]
fn a_thousand_idle_sessions_to_a_vanished_server_are_told_in_time() -> Result<()> {
    if !ready_or_skip("plane_reset")? {
        return Ok(());
    }
    for kind in KINDS {
        let mut bed = Bed::new(kind, "")?;
        let mut sessions = bed.sessions(MANY)?;
        let mut others = Sessions::new(vec![bed.connect()?]);
        // wlc: the server without connections gets it.
        ensure!(bed.taken(1) > 0, "the other server has none");
        ensure!(sessions.look() == 0, "{:?}", sessions.ended.iter().flatten().next());
        let reset_before = bed.forwarder()?.outcomes["reset_dead"];
        bed.cables[0].set_link(false)?;
        let (first, last) = sessions.until_reset(LIMIT)?;
        let decided = bed.decided()?;
        let first = first.duration_since(decided).context("reset before the decision")?;
        let took = last.duration_since(decided).unwrap_or_default();
        println!(
            "{kind:?}: {MANY} idle sessions: first told {} and last {} after the decision",
            ms(first),
            ms(took)
        );
        ensure!(took < TOLD, "the last was told after {took:?}\n{}", bed.host.log_tail(30));
        let resets = bed.forwarder()?.outcomes["reset_dead"] - reset_before;
        ensure!(resets >= MANY as u64, "{resets} by the program");
        ensure!(bed.segments("probe")? >= MANY as u64 && bed.segments("failed")? == 0);
        others.echo().context("a session of the other server")?;
        bed.until("the count of those who do not know", |bed| {
            Ok(bed.real(0)?.stale_connections == 0 && bed.real(0)?.active_connections == 0)
        })?;
        bed.host.stop()?;
    }
    Ok(())
}

/// Takes the number that a client has acknowledged back in the table.
fn set_back<A: Copy + 'static>(bed: &Bed, map: &str, port: u16, behind: u32) -> Result<()>
where
    FlowKey<A>: Pod,
{
    let map = MapData::from_pin(bed.host.pin_dir().join(map))?;
    let mut flows = HashMap::<_, FlowKey<A>, Flow>::try_from(Map::from_map_data(map)?)?;
    let is_its = |key: &FlowKey<A>| (key.sport, key.dport) == (port.to_be(), PORT.to_be());
    let key = flows.keys().filter_map(Result::ok).find(is_its).context("its flow")?;
    let flow = flows.get(&key, 0)?;
    Ok(flows.insert(key, Flow { ack: flow.ack.wrapping_sub(behind), ..flow }, 0)?)
}

/// The numbers in the table may be behind those of the client, and a first segment may be lost.
#[test]
fn a_client_is_told_whatever_the_table_knows_of_its_numbers() -> Result<()> {
    if !ready_or_skip("plane_reset")? {
        return Ok(());
    }
    for kind in KINDS {
        let mut bed = Bed::new(kind, "")?;
        let mut sessions = bed.sessions(4)?;
        for (stream, behind) in sessions.streams.iter().zip([1, 1000, 1 << 20, 1 << 30]) {
            let port = stream.local_addr()?.port();
            match kind.family() {
                Family::Four => set_back::<Be32>(&bed, maps::FLOWS4, port, behind)?,
                Family::Six => set_back::<Addr>(&bed, maps::FLOWS6, port, behind)?,
            }
        }
        bed.cables[0].set_link(false)?;
        let (_, last) = sessions.until_reset(LIMIT)?;
        let took = last.duration_since(bed.decided()?).unwrap_or_default();
        println!("{kind:?}: told after {}, with old numbers", ms(took));
        ensure!(took < TOLD, "{took:?}\n{}", bed.host.log_tail(30));
        bed.cables[0].set_link(true)?;

        bed.until("the server to be back", |bed| Ok(bed.real(0)?.state == "UP"))?;
        let mut sessions = bed.sessions(4)?;
        bed.client_cable.set_link(false)?;
        bed.cables[0].set_link(false)?;
        bed.until("the decision", |bed| Ok(bed.real(0)?.state == "DOWN"))?;
        // Before it comes back: the next round may follow at once.
        ensure!(sessions.look() == 0, "told without a cable");
        bed.client_cable.set_link(true)?;
        let (_, last) = sessions.until_reset(LIMIT)?;
        let took = last.duration_since(bed.decided()?).unwrap_or_default();
        println!("{kind:?}: a later round told after {}", ms(took));
        bed.host.stop()?;
    }
    Ok(())
}

#[test]
fn a_living_server_that_is_drained_to_the_end_is_told_too() -> Result<()> {
    // Time enough for what is asked before it is over, on a machine that stalls.
    const WITHIN: Duration = Duration::from_secs(6);
    if !ready_or_skip("plane_reset")? {
        return Ok(());
    }
    for kind in KINDS {
        let mut bed = Bed::new(kind, "")?;
        let mut sessions = bed.sessions(50)?;
        let server = bed.addresses[0].to_string();
        let begun = SystemTime::now();
        let said = bed.host.lbctl(&["drain", &server, "--within", "6"])?;
        // lbd has decided by now, however long lbctl took.
        let decided = SystemTime::now();
        ensure!(said.contains("what is left in 6 s is reset"), "{said}");
        ensure!(bed.real(0)?.state == "DRAIN" && bed.real(0)?.ends_in_ms.is_some());
        let text = bed.host.lbctl(&["status"])?;
        ensure!(text.contains("connections remain; those left in "), "{text}");
        sessions.echo().context("before the deadline")?;
        let (first, last) = sessions.until_reset(LIMIT)?;
        let first = first.duration_since(begun)?;
        let last = last.duration_since(decided).unwrap_or_default();
        println!("{kind:?}: drained within 6 s: reset from {} to {}", ms(first), ms(last));
        ensure!(first >= WITHIN, "too early: {first:?}");
        ensure!(last < WITHIN + TOLD, "{last:?}\n{}", bed.host.log_tail(30));
        // The server's own ends.
        bed.until("the server to be told", |bed| Ok(locked(&bed.servers[0]).reset >= 50))
            .with_context(|| format!("{} were reset", locked(&bed.servers[0]).reset))?;
        ensure!(bed.segments("reset")? >= 50);
        // Enabled, it serves again.
        bed.host.lbctl(&["enable", &server])?;
        let before = bed.taken(0);
        bed.until("a connection to it", |bed| Ok(bed.connect().is_ok() && bed.taken(0) > before))?;
        bed.host.stop()?;
    }
    Ok(())
}

#[test]
fn a_dead_servers_connections_drain_until_their_deadline() -> Result<()> {
    // Twice what a server's return takes: a probe that fails as the cable comes back, a pause, a probe, each a second.
    const GRACE: Duration = Duration::from_secs(8);
    if !ready_or_skip("plane_reset")? {
        return Ok(());
    }
    for kind in KINDS {
        let mut bed = Bed::new(kind, "on_down drain 8")?;
        let mut sessions = bed.sessions(50)?;
        bed.cables[0].set_link(false)?;
        bed.until("the decision", |bed| Ok(bed.real(0)?.state == "DRAIN"))?;
        ensure!(bed.real(0)?.ends_in_ms.is_some_and(|ms| ms <= 8000), "{:?}", bed.real(0)?);
        // Back in time: nothing was lost.
        bed.cables[0].set_link(true)?;
        bed.until("the server to be back", |bed| Ok(bed.real(0)?.state == "UP"))?;
        ensure!(bed.real(0)?.ends_in_ms.is_none(), "{:?}", bed.real(0)?);
        sessions.echo().context("after its return")?;
        ensure!(bed.segments("probe")? == 0);
        bed.cables[0].set_link(false)?;
        let (first, last) = sessions.until_reset(LIMIT)?;
        let decided = bed.decided()?;
        let first = first.duration_since(decided)?;
        let last = last.duration_since(decided).unwrap_or_default();
        println!("{kind:?}: on_down drain 8: reset from {} to {}", ms(first), ms(last));
        // A deadline of nanoseconds against a clock of microseconds.
        ensure!(first + Duration::from_millis(1) >= GRACE, "too early: {first:?}");
        ensure!(last < GRACE + TOLD, "{last:?}\n{}", bed.host.log_tail(30));
        bed.host.stop()?;
    }
    Ok(())
}

#[test]
fn kept_connections_are_never_reset() -> Result<()> {
    if !ready_or_skip("plane_reset")? {
        return Ok(());
    }
    for kind in KINDS {
        let mut bed = Bed::new(kind, "on_down keep")?;
        let mut sessions = bed.sessions(50)?;
        let server = bed.addresses[0].to_string();
        let refused = bed.host.lbctl(&["drain", &server, "--within", "1"]);
        let refused = refused.err().context("a deadline was taken")?;
        ensure!(format!("{refused:#}").contains("on_down keep"), "{refused:#}");
        bed.cables[0].set_link(false)?;
        bed.until("the decision", |bed| Ok(bed.real(0)?.state == "DOWN"))?;
        // Longer than a first and a second round would take.
        thread::sleep(Duration::from_secs(1));
        ensure!(sessions.look() == 0, "{:?}", sessions.ended.iter().flatten().next());
        ensure!(bed.segments("probe")? == 0 && bed.segments("reset")? == 0);
        bed.cables[0].set_link(true)?;
        bed.until("the server to be back", |bed| Ok(bed.real(0)?.state == "UP"))?;
        sessions.echo().context("after its return")?;
        bed.host.stop()?;
    }
    Ok(())
}
