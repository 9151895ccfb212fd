//! The XDP engine on a real kernel: a predecessor's program is adopted with its connections, a dead
//! server's client is reset, a foreign program is left alone, nothing is left behind, and a
//! lease never lasts longer than asked.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::{
    abi::{Addr, FLOW_RESET, FLOW_RST, Flow, FlowKey4, Real, be16, be32},
    maps,
};
use lb_tests::{
    netns::{Namespace, Switch, ready_or_skip},
    wait::{wait_for, wait_true},
};
use lb_userspace::{
    base::{
        filter::FlowFilter,
        status::FlowStatus,
        table::{
            ForwardingTable, Gate, LeaseSlot, LeaseState, Method, OnDown, RealServer,
            RealServerState, Scheduler, VirtualServer,
        },
        time::Instant as Monotonic,
    },
    config::model::Attachment,
    dataplane::{
        DataPlane as _, FailureKind, NextHop, Surroundings,
        xdp::{
            LeaseWriter, Xdp,
            housekeeping::SLICE,
            loader::How,
            resets::{Kind, Notice, ROUNDS, SEGMENTS},
        },
    },
    io::neigh::Neigh,
    process::clock,
    reconcile::plan,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const DB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const PORT: u16 = 3306;
const LIMIT: Duration = Duration::from_secs(20);

/// A pin directory that is gone when the test is, however it ends.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        Self(PathBuf::from(format!("/sys/fs/bpf/lbd-test-{name}-{}", std::process::id())))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.0.exists() {
            let _ = lb_userspace::dataplane::xdp::loader::remove(&self.0);
        }
    }
}

fn table(state: RealServerState) -> ForwardingTable {
    let server = RealServer { method: Method::Dr, weight: 1, state, limits: Default::default() };
    let vs = VirtualServer {
        gate: Gate::Always,
        scheduler: Scheduler::Wlc,
        idle_timeout: Duration::from_secs(3600),
        on_down: OnDown::Reset,
        persistence: None,
        real_servers: [(SocketAddr::from((DB, PORT)), server)].into(),
    };
    ForwardingTable {
        virtual_servers: [(format!("{VIP}:{PORT}").parse().expect("key"), vs)].into(),
        vips: [(IpAddr::from([10, 77, 0, 101]), LeaseSlot(3))].into(),
        interfaces: ["eth0".to_owned()].into(),
    }
}

/// What the forwarder does with a netlink snapshot, until the server's way is known.
fn surroundings() -> Result<Surroundings> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut neigh = Neigh::open()?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let snapshot = neigh.snapshot(&[IpAddr::V4(DB)].into()).await?;
            neigh.provoke(&snapshot);
            if let Some(Ok(way)) = snapshot.ways.get(&IpAddr::V4(DB))
                && let Ok(neighbour) = way.neighbour
            {
                let out = &snapshot.interfaces[&way.ifindex];
                let (ifindex, source) = (way.ifindex, out.mac);
                let (mtu, nic, own) = (out.mtu, out.nic, way.own);
                let hop = NextHop { ifindex, source, neighbour, mtu, nic, own };
                return Ok(Surroundings {
                    next_hops: [(IpAddr::V4(DB), Ok(hop))].into(),
                    own: snapshot.addresses.iter().map(|(_, prefix)| prefix.addr).collect(),
                    xdp_programs: [("eth0".to_owned(), out.xdp_program)]
                        .into_iter()
                        .filter_map(|(name, id)| Some((name, id?)))
                        .collect(),
                });
            }
            ensure!(Instant::now() < deadline, "the way to {DB} stays unknown: {snapshot:?}");
            let _ = tokio::time::timeout(LIMIT, neigh.changed()).await.context("no event")?;
        }
    })
}

fn reach(engine: &mut Xdp, desired: &ForwardingTable) -> Result<()> {
    let observed = engine.observe()?;
    let report = engine.apply(&plan(&observed, desired));
    let failures: Vec<_> = report.failures().collect();
    ensure!(failures.is_empty(), "{failures:?}");
    ensure!(engine.observe()? == *desired, "the kernel does not say back what was written");
    Ok(())
}

/// A whole pass of housekeeping: entries looked at by slice.
fn keep_house(engine: &mut Xdp) -> Result<Vec<usize>> {
    engine.housekeep(clock::now())?;
    let mut slices = Vec::new();
    loop {
        let progress = engine.work()?;
        slices.push(progress.entries);
        if !progress.more {
            return Ok(slices);
        }
    }
}

fn list(engine: &mut Xdp, limit: usize) -> Result<Vec<FlowStatus>> {
    list_of(engine, &FlowFilter::default(), limit)
}

fn list_of(engine: &mut Xdp, filter: &FlowFilter, limit: usize) -> Result<Vec<FlowStatus>> {
    engine.list_flows(filter, limit);
    loop {
        if let Some(flows) = engine.listed_flows()? {
            return Ok(flows);
        }
    }
}

fn echo(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    stream.write_all(text)?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    assert_eq!(back, text);
    Ok(())
}

fn has_program(lb: &Namespace) -> Result<bool> {
    Ok(lb.ip(&["-d", "link", "show", "dev", "eth0"])?.contains("prog/xdp"))
}

fn open(pins: &Path) -> Result<Xdp> {
    Xdp::open(pins, 4096, Attachment::XDP)
}

#[test]
fn a_successor_adopts_and_loses_no_connection() -> Result<()> {
    if !ready_or_skip("plane_engine")? {
        return Ok(());
    }
    let switch = Switch::new("sw")?;
    let (client, lb, db) = (Namespace::new("c")?, Namespace::new("lb")?, Namespace::new("db")?);
    let _cables = (
        switch.plug(&client, "eth0", Some("10.77.0.1/24"))?,
        switch.plug(&lb, "eth0", Some("10.77.0.2/24"))?,
        switch.plug(&db, "eth0", Some("10.77.0.3/24"))?,
    );
    lb.ip(&["addr", "add", "10.77.0.100/32", "dev", "eth0"])?;
    for (key, value) in
        [("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")]
    {
        db.sysctl(key, value)?;
    }
    db.ip(&["addr", "add", "10.77.0.100/32", "dev", "lo"])?;
    let listener = db.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().expect("clone"), stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    let pins = Pins::new("adopt");
    let up = table(RealServerState::Up);

    // First life: program, maps, a connection. Then it is gone without a word, as by kill -9.
    lb.enter(|| -> Result<()> {
        let mut engine = open(&pins.0)?;
        ensure!(engine.how() == How::Fresh);
        engine.set_surroundings(&surroundings()?)?;
        reach(&mut engine, &up)
    })??;
    let mut stream =
        client.enter(|| TcpStream::connect_timeout(&SocketAddr::from((VIP, PORT)), LIMIT))??;
    stream.set_read_timeout(Some(LIMIT))?;
    echo(&mut stream, b"first life")?;
    ensure!(has_program(&lb)?);
    echo(&mut stream, b"nobody there")?;

    // Second life.
    lb.enter(|| -> Result<()> {
        let mut engine = open(&pins.0)?;
        ensure!(engine.how() == How::Adopted, "{:?}", engine.how());
        ensure!(engine.observe()? == up, "the table was not read back whole");
        engine.set_surroundings(&surroundings()?)?;
        reach(&mut engine, &up)?;
        keep_house(&mut engine)?;
        let flows = list(&mut engine, 10)?;
        let flow = engine.flow(flows[0].client, flows[0].vip)?.context("not found by its ends")?;
        ensure!(flow.real_server == flows[0].real_server, "{flow:?} {flows:?}");
        ensure!(engine.flow(flows[0].vip, flows[0].client)?.is_none(), "the wrong way round");
        ensure!(list(&mut engine, 0)?.is_empty());
        for (client, found) in [("10.77.0.0/30", 1), ("10.77.0.1", 1), ("10.77.0.2", 0)] {
            let filter = FlowFilter { client: Some(client.parse()?), ..FlowFilter::default() };
            ensure!(list_of(&mut engine, &filter, 10)?.len() == found, "{client}");
        }
        ensure!(flows.len() == 1 && flows[0].state == "established", "{flows:?}");
        ensure!(flows[0].real_server == Some((DB, PORT).into()), "{flows:?}");
        let status = engine.status()?;
        let rs = &status.virtual_servers[0].real_servers[0];
        ensure!(rs.active_connections == 1 && rs.connections == 1 && rs.packets > 2, "{rs:?}");
        ensure!(status.outcomes["dr_forwarded"] > 0, "{:?}", status.outcomes);
        Ok(())
    })??;
    echo(&mut stream, b"second life")?;

    // Somebody else's lbd finds the interface taken and leaves it alone.
    lb.enter(|| -> Result<()> {
        let other = Pins::new("other");
        let mut engine = open(&other.0)?;
        engine.set_surroundings(&surroundings()?)?;
        let report = engine.apply(&plan(
            &ForwardingTable::default(),
            &ForwardingTable {
                interfaces: ["eth0".to_owned(), "eth9".to_owned()].into(),
                ..ForwardingTable::default()
            },
        ));
        let failures: Vec<_> = report.failures().collect();
        ensure!(failures.len() == 2, "{failures:?}");
        ensure!(failures[0].text.contains("another XDP program (id "), "{failures:?}");
        ensure!(failures[1].kind == FailureKind::Absent, "{failures:?}");
        engine.close()
    })??;
    echo(&mut stream, b"still ours")?;

    // The server dies: the client's next segment is answered with a RST. Then a clean stop.
    lb.enter(|| -> Result<()> {
        let mut engine = open(&pins.0)?;
        engine.set_surroundings(&surroundings()?)?;
        reach(&mut engine, &table(RealServerState::Down))?;
        let error = echo(&mut stream, b"anybody?").expect_err("the server is dead");
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
        ensure!(engine.counters()?["reset_dead"] > 0);
        engine.close()
    })??;
    // The kernel takes a link apart after its last holder is gone, in a worker.
    wait_for("the program to be detached", LIMIT, || Ok((!has_program(&lb)?).then_some(())))?;
    ensure!(!pins.0.exists(), "pins are left");
    Ok(())
}

#[test]
fn pressure_ends_when_there_is_room_again() -> Result<()> {
    if !ready_or_skip("plane_engine")? {
        return Ok(());
    }
    let pins = Pins::new("pressure");
    let mut engine = open(&pins.0)?;
    let map = |name| MapData::from_pin(pins.0.join(name)).and_then(Map::from_map_data);
    let mut pressure = Array::<_, u64>::try_from(map(maps::PRESSURE)?)?;
    let mut flows = HashMap::<_, FlowKey4, Flow>::try_from(map(maps::FLOWS4)?)?;
    let jiffies = lb_userspace::dataplane::xdp::lease::Clock::open(&pins.0)?.sample()?.jiffies;
    let key = |n: u32| FlowKey4 { src: n, proto: 6, ..FlowKey4::default() };
    // What the program leaves behind when the table of 4096 has no room.
    for n in 0..4096 {
        flows.insert(key(n), Flow { last_seen: jiffies, real: 9, ..Flow::default() }, 0)?;
    }
    pressure.set(0, jiffies, 0)?;
    keep_house(&mut engine)?;
    ensure!(pressure.get(&0, 0)? == jiffies, "there is no room yet");
    ensure!((engine.status()?.flows, engine.status()?.flows_max) == (4096, 4096));
    for n in 0..1000 {
        flows.remove(&key(n))?;
    }
    keep_house(&mut engine)?;
    ensure!(pressure.get(&0, 0)? == 0, "three quarters are room enough");
    ensure!(engine.counters()?.contains_key("table_full"));
    engine.close()
}

/// A verdict that falls while a large table is being swept is in the maps before the sweep is at its
/// end, because no slice of it is large.
#[test]
fn a_large_table_is_swept_in_slices_and_verdicts_go_between() -> Result<()> {
    const ENTRIES: u32 = 20_000;
    if !ready_or_skip("plane_engine")? {
        return Ok(());
    }
    let pins = Pins::new("slices");
    let mut engine = Xdp::open(&pins.0, 32_768, Attachment::XDP)?;
    let unattached = |state| ForwardingTable { interfaces: [].into(), ..table(state) };
    reach(&mut engine, &unattached(RealServerState::Up))?;
    let map = |name| MapData::from_pin(pins.0.join(name)).and_then(Map::from_map_data);
    let mut flows = HashMap::<_, FlowKey4, Flow>::try_from(map(maps::FLOWS4)?)?;
    let jiffies = lb_userspace::dataplane::xdp::lease::Clock::open(&pins.0)?.sample()?.jiffies;
    let key = |n: u32| FlowKey4 { src: n, proto: 6, ..FlowKey4::default() };
    for n in 0..ENTRIES {
        // One in four was reset long ago (a jiffy is 10 ms at most).
        let (flags, last_seen) =
            if n % 4 == 0 { (FLOW_RST, jiffies - 60_000) } else { (0, jiffies) };
        flows.insert(key(n), Flow { last_seen, flags, real: 9, ..Flow::default() }, 0)?;
    }
    let state = |engine: &mut Xdp| -> Result<String> {
        Ok(engine.status()?.virtual_servers[0].real_servers[0].state.clone())
    };
    engine.housekeep(clock::now())?;
    let (mut slices, mut seen) = (0, 0);
    loop {
        let progress = engine.work()?;
        ensure!(progress.entries <= SLICE, "{} entries in a slice", progress.entries);
        (slices, seen) = (slices + 1, seen + progress.entries);
        if !progress.more {
            break;
        }
        if slices == 3 {
            ensure!(seen < ENTRIES as usize / 2, "{seen} entries in three slices");
            ensure!(state(&mut engine)? == "UP");
            reach(&mut engine, &unattached(RealServerState::Down))?;
            ensure!(state(&mut engine)? == "DOWN", "the verdict waits for the sweep");
            engine.housekeep(clock::now())?;
        }
    }
    ensure!(seen >= ENTRIES as usize, "{seen} entries seen: a pass is not begun anew");
    ensure!(slices >= ENTRIES as usize / SLICE, "{slices} slices");
    let left = flows.keys().filter(Result::is_ok).count();
    ensure!(left == ENTRIES as usize / 4 * 3, "{left} entries are left");
    ensure!(engine.status()?.flows == u64::from(ENTRIES / 4 * 3));
    ensure!(list(&mut engine, 100)?.len() == 100);
    ensure!(list(&mut engine, usize::MAX)?.len() == left);
    engine.close()
}

/// All that is to be sent until the walk has ended, and the most of one slice.
fn notices(engine: &mut Xdp) -> Result<(Vec<Notice>, usize)> {
    let (mut all, mut most) = (Vec::new(), 0);
    while engine.notices_at() == Some(Monotonic::ZERO) {
        let slice = engine.notices(clock::now())?;
        most = most.max(slice.len());
        all.extend(slice);
    }
    Ok((all, most))
}

#[test]
fn clients_of_a_dead_server_are_asked_in_slices_by_the_master_only() -> Result<()> {
    const CLIENTS: u16 = 1000;
    if !ready_or_skip("plane_engine")? {
        return Ok(());
    }
    let pins = Pins::new("notices");
    let slot = LeaseSlot(5);
    let guarded = |state| {
        let mut table = ForwardingTable { interfaces: [].into(), ..table(state) };
        table.virtual_servers.values_mut().for_each(|vs| vs.gate = Gate::Lease(slot));
        table.vips.insert(VIP.into(), slot);
        table
    };
    let mut engine = open(&pins.0)?;
    ensure!(notices(&mut engine)?.0.is_empty(), "a fresh start");
    reach(&mut engine, &guarded(RealServerState::Up))?;
    ensure!(engine.notices_at().is_none(), "nobody has died");
    let mut writer = LeaseWriter::open(&pins.0)?;
    let map = |name| MapData::from_pin(pins.0.join(name)).and_then(Map::from_map_data);
    let reals = Array::<_, Real>::try_from(map(maps::REALS_MAP)?)?;
    ensure!(reals.get(&1, 0)?.addr == Addr::from_ip(DB.into()));
    let mut flows = HashMap::<_, FlowKey4, Flow>::try_from(map(maps::FLOWS4)?)?;
    let key = |n: u16| FlowKey4 {
        src: be32([10, 77, 0, 1]),
        dst: be32(VIP.octets()),
        sport: be16(n),
        dport: be16(PORT),
        proto: 6,
        pad: 0,
    };
    let flow = Flow { generation: 1, real: 1, seq_end: 7, ack: 70, ..Flow::default() };
    for n in 0..CLIENTS {
        flows.insert(key(n), flow, 0)?;
    }
    let die = |engine: &mut Xdp| -> Result<()> {
        reach(engine, &guarded(RealServerState::Up))?;
        reach(engine, &guarded(RealServerState::Down))
    };
    // Not master: whoever is, tells its own.
    die(&mut engine)?;
    ensure!(engine.notices_at() == Some(Monotonic::ZERO), "at once");
    ensure!(notices(&mut engine)?.0.is_empty());
    ensure!(engine.notices_at().is_none(), "nobody to ask again");

    writer.set(slot, LeaseState::Until(clock::now() + Duration::from_secs(600)))?;
    die(&mut engine)?;
    let begun = clock::now();
    let (asked, most) = notices(&mut engine)?;
    ensure!(most <= SEGMENTS, "{most} segments in a slice");
    let mut ports: Vec<u16> = asked.iter().map(|notice| notice.to.port()).collect();
    ports.sort_unstable();
    ensure!(ports == (0..CLIENTS).collect::<Vec<_>>(), "each client once: {ports:?}");
    // Its way is not known in this test, so that no server can be told.
    ensure!(asked.iter().all(|it| it.kind == Kind::Probe && (it.seq, it.ack) == (69, 7)));
    // Those who do not know are asked again, in time.
    for n in 0..CLIENTS - 3 {
        flows.insert(key(n), Flow { flags: FLOW_RESET, ..flow }, 0)?;
    }
    let next = engine.notices_at().context("no second round")?;
    ensure!(next >= begun + ROUNDS[1], "too early");
    let mut again = engine.notices(next + Duration::from_millis(1))?;
    again.extend(notices(&mut engine)?.0);
    ensure!(again.len() == 3);
    // A lease that ends between two slices ends the telling.
    for n in 0..CLIENTS {
        flows.insert(key(n), flow, 0)?;
    }
    die(&mut engine)?;
    ensure!(engine.notices(clock::now())?.len() == SEGMENTS);
    writer.set(slot, LeaseState::Until(Monotonic::ZERO))?;
    ensure!(notices(&mut engine)?.0.is_empty(), "without a lease");
    engine.close()
}

#[test]
fn a_lease_never_lasts_longer_than_asked() -> Result<()> {
    if !ready_or_skip("plane_engine")? {
        return Ok(());
    }
    let pins = Pins::new("lease");
    let mut engine = open(&pins.0)?;
    let mut writer = LeaseWriter::open(&pins.0)?;
    let slot = LeaseSlot(7);
    ensure!(writer.get(slot)? == LeaseState::Standby);
    // The kernel's jiffies as the packet program sees them, against the value in the map.
    let clock_ = lb_userspace::dataplane::xdp::lease::Clock::open(&pins.0)?;
    let tick = writer.tick();
    let map = MapData::from_pin(pins.0.join(maps::LEASE)).and_then(Map::from_map_data);
    let leases = Array::<_, u64>::try_from(map?)?;
    let tenure = || leases.get(&maps::tenure(slot.0), 0);
    let mut before = tenure()?;
    ensure!(before == 0);
    for ask in [30u64, 60, 100, 3000] {
        // Once more if this thread was held up until the lease was over.
        let (end, value, begun) = wait_for("a renewal while the lease runs", LIMIT, || {
            let end = clock::now() + Duration::from_millis(ask);
            writer.set(slot, LeaseState::Until(end))?;
            let (value, begun) = (writer.raw(slot)?, tenure()?);
            writer.set(slot, LeaseState::Until(end))?;
            let (again, renewed) = (writer.raw(slot)?, tenure()?);
            if clock_.sample()?.jiffies >= value {
                return Ok(None);
            }
            // Each lease of this loop follows one that ran out; its renewal is the same tenure.
            ensure!(begun > before && begun < value, "{before} {begun} {value}");
            ensure!(renewed == begun);
            Ok(Some((end, value.max(again), begun)))
        })?;
        before = begun;
        let deadline = Instant::now() + LIMIT;
        let over = loop {
            let sample = clock_.sample()?;
            if sample.jiffies >= value {
                break sample.now;
            }
            // A moment of which the clock program says "running" must lie before the end.
            ensure!(sample.now <= end, "still forwarding {:?} after the end", sample.now - end);
            ensure!(Instant::now() < deadline, "the lease does not end");
        };
        let early = end.saturating_since(over);
        ensure!(early <= 3 * tick, "ended {early:?} early, a jiffy is {tick:?}");
    }
    writer.set(slot, LeaseState::Until(Monotonic::ZERO))?;
    ensure!(writer.get(slot)? == LeaseState::Until(Monotonic::ZERO));
    writer.set(slot, LeaseState::Standby)?;
    ensure!(writer.get(slot)? == LeaseState::Standby);
    engine.close()?;
    ensure!(!pins.0.exists());
    Ok(())
}

#[test]
fn an_ipv6_vip_is_silent_without_a_lease() -> Result<()> {
    const VIP6: &str = "2001:db8:77::100";
    if !ready_or_skip("plane_engine")? {
        return Ok(());
    }
    let switch = Switch::new("sw")?;
    let (client, lb) = (Namespace::new("c")?, Namespace::new("lb")?);
    let _cables = (
        switch.plug(&client, "eth0", Some("10.77.0.1/24"))?,
        switch.plug(&lb, "eth0", Some("10.77.0.2/24"))?,
    );
    for (host, address) in [(&client, "2001:db8:77::1/64"), (&lb, "2001:db8:77::100/64")] {
        host.sysctl("net/ipv6/conf/eth0/disable_ipv6", "0")?;
        host.ip(&["-6", "addr", "add", address, "dev", "eth0", "nodad"])?;
    }
    // Nobody listens: a stack that gets the SYN refuses at once.
    let answers = || -> Result<bool> {
        client.ip(&["-6", "neigh", "flush", "dev", "eth0"])?;
        let target: SocketAddr = format!("[{VIP6}]:{PORT}").parse()?;
        let limit = Duration::from_millis(700);
        let outcome = client.enter(|| TcpStream::connect_timeout(&target, limit))?;
        Ok(outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
    };
    // A port of the switch may take nothing yet, and a busy machine may take longer for one answer.
    let wait_answers = |what: &str| wait_for(what, LIMIT, || Ok(answers()?.then_some(())));
    wait_answers("the host's answer to begin with")?;
    let (pins, slot) = (Pins::new("v6"), LeaseSlot(4));
    let table = ForwardingTable {
        vips: [(VIP6.parse()?, slot)].into(),
        interfaces: ["eth0".to_owned()].into(),
        ..ForwardingTable::default()
    };
    let (mut engine, mut writer) = lb.enter(|| -> Result<_> {
        let mut engine = open(&pins.0)?;
        reach(&mut engine, &table)?;
        Ok((engine, LeaseWriter::open(&pins.0)?))
    })??;
    let count = |engine: &mut Xdp, name: &str| -> Result<u64> { Ok(engine.counters()?[name]) };
    wait_answers("an answer, as standby passes")?;
    ensure!(count(&mut engine, "standby")? > 0 && count(&mut engine, "nd")? > 0);
    writer.set(slot, LeaseState::Until(clock::now() + Duration::from_secs(600)))?;
    wait_answers("a master's answer")?;
    ensure!(count(&mut engine, "no_virtual_server")? > 0);
    writer.set(slot, LeaseState::Until(Monotonic::ZERO))?;
    ensure!(!answers()?, "a fenced host answers");
    // The question may still be on its way.
    wait_true("somebody who asks for the address", LIMIT, || {
        count(&mut engine, "fenced_nd").is_ok_and(|count| count > 0)
    })?;
    // To a client that knows the way already it is silent too.
    let mac = lb.ip(&["-br", "link", "show", "dev", "eth0"])?;
    let mac = mac.split_whitespace().nth(2).context("no MAC address")?.to_owned();
    let target: SocketAddr = format!("[{VIP6}]:{PORT}").parse()?;
    client.ip(&[
        "-6",
        "neigh",
        "replace",
        VIP6,
        "lladdr",
        &mac,
        "dev",
        "eth0",
        "nud",
        "permanent",
    ])?;
    let outcome =
        client.enter(|| TcpStream::connect_timeout(&target, Duration::from_millis(300)))?;
    ensure!(outcome.is_err_and(|error| error.kind() == ErrorKind::TimedOut));
    wait_true("a SYN that was fenced", LIMIT, || {
        count(&mut engine, "fenced").is_ok_and(|count| count > 0)
    })?;
    lb.enter(|| engine.close())??;
    Ok(())
}
