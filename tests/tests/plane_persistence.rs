//! Persistence of a whole lbd under real connections, over restarts and reloads, and what the forwarder does with
//! templates.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use lb_common::{
    abi::{Addr, FLOW_FIN, Flow, FlowKey4, Template, TemplateKey, be16, be32},
    maps,
};
use lb_tests::{
    host::{self, Host, Program},
    mariadb,
    netns::{Namespace, Port, Switch, ready_or_skip},
    wait::wait_until,
};
use lb_userspace::{
    base::table::{
        ForwardingTable, Gate, Method, OnDown, Persistence, RealServer, RealServerState, Scheduler,
        VirtualServer,
    },
    config::model::Attachment,
    dataplane::{
        DataPlane as _,
        xdp::{Xdp, housekeeping::SLICE, lease::Clock, loader::How},
    },
    process::clock,
    reconcile::plan,
};
use tempfile::TempDir;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const PORT: u16 = 3306;
const LIMIT: Duration = Duration::from_secs(30);
/// Last bytes of the clients' addresses.
const CLIENTS: [u8; 4] = [11, 12, 13, 14];
const SERVERS: [u8; 2] = [3, 4];

/// One balancer, two real servers that say who they are, clients in one namespace.
struct Bed {
    client: Namespace,
    host: Host,
    _servers: Vec<(Namespace, Port)>,
    _dir: TempDir,
    _switch: Switch,
}

fn config(words: &str) -> Result<String> {
    let mut config = format!(
        "virtual_server {VIP} {PORT} {{\n  lb_algo rr\n  lb_kind DR\n  protocol TCP\n  {words}\n"
    );
    for number in SERVERS {
        writeln!(config, "  real_server 10.77.0.{number} {PORT} {{\n    weight 1\n  }}")?;
    }
    config.push_str("}\n");
    Ok(config)
}

impl Bed {
    fn new() -> Result<Self> {
        host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
        let dir = mariadb::workspace("persistence")?;
        let switch = Switch::new("sw")?;
        let (client, lb) = (Namespace::new("client")?, Namespace::new("lb")?);
        switch.plug(&client, "eth0", Some("10.77.0.1/24"))?;
        for number in CLIENTS {
            client.ip(&["addr", "add", &format!("10.77.0.{number}/24"), "dev", "eth0"])?;
        }
        switch.plug(&lb, "eth0", Some("10.77.0.2/24"))?;
        lb.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "eth0"])?;
        let servers =
            SERVERS.iter().map(|number| server(&switch, *number)).collect::<Result<_>>()?;
        let mut host = Host::new(&lb, Program::Lbd, dir.path())?;
        host.write_config(&config("persistence_timeout 300")?)?;
        host.start()?;
        let bed = Self { client, host, _servers: servers, _dir: dir, _switch: switch };
        wait_until(
            "the first connection",
            LIMIT,
            || Ok(bed.ask(1, Duration::from_millis(100)).ok()),
            || bed.host.log_tail(20),
        )?;
        // Both must take connections before the round is looked at.
        wait_until(
            "both real servers",
            LIMIT,
            || {
                // The kernel forwards before lbd answers questions.
                let all = &bed.host.forwarder()?.virtual_servers[0].real_servers;
                Ok(all.iter().all(|rs| rs.problem.is_none()).then_some(()))
            },
            || bed.host.log_tail(20),
        )?;
        Ok(bed)
    }

    /// Connects from 10.77.0.NUMBER: the number of the server that answers.
    fn ask(&self, number: u8, limit: Duration) -> Result<u8> {
        self.client.enter(|| -> Result<u8> {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::from(([10, 77, 0, number], 0)).into())?;
            socket.connect_timeout(&SocketAddr::from((VIP, PORT)).into(), limit)?;
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(LIMIT))?;
            let mut said = [0];
            stream.read_exact(&mut said)?;
            Ok(said[0])
        })?
    }

    /// The same, five times, which must be one server.
    fn server_of(&self, number: u8) -> Result<u8> {
        let first = self.ask(number, LIMIT)?;
        for _ in 0..4 {
            let next = self.ask(number, LIMIT)?;
            ensure!(next == first, "10.77.0.{number}: {first}, then {next}");
        }
        Ok(first)
    }

    fn servers_of(&self) -> Result<BTreeMap<u8, u8>> {
        CLIENTS.iter().map(|number| Ok((*number, self.server_of(*number)?))).collect()
    }

    fn templates(&self) -> Result<Option<u64>> {
        let forwarder = self.host.forwarder()?;
        Ok(forwarder.virtual_servers.first().context("a virtual server")?.templates)
    }

    fn wait_templates(&self, want: Option<u64>) -> Result<()> {
        let what = format!("{want:?} templates");
        let seen = || Ok((self.templates()? == want).then_some(()));
        wait_until(&what, LIMIT, seen, || format!("{:?}", self.templates()))
    }
}

fn server(switch: &Switch, number: u8) -> Result<(Namespace, Port)> {
    let netns = Namespace::new(&format!("db{number}"))?;
    let cable = switch.plug(&netns, "eth0", Some(&format!("10.77.0.{number}/24")))?;
    netns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    netns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
    netns.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
    let listener = netns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(&[number]);
        }
    });
    Ok((netns, cable))
}

#[test]
fn clients_keep_their_server_over_restarts_reloads_and_drains() -> Result<()> {
    if !ready_or_skip("plane_persistence")? {
        return Ok(());
    }
    let mut bed = Bed::new()?;
    let servers = bed.servers_of()?;
    let used = |servers: &BTreeMap<u8, u8>, number| servers.values().any(|it| *it == number);
    ensure!(SERVERS.iter().all(|number| used(&servers, *number)), "{servers:?}");
    // One more is the address of the first connection.
    bed.wait_templates(Some(CLIENTS.len() as u64 + 1))?;
    let shown = bed.host.lbctl(&["status"])?;
    ensure!(shown.contains("persistent: 5 clients keep their real server"), "{shown}");

    // The forwarder dies; its successor takes the templates over and sweeps none of them.
    bed.host.kill_role("forwarder")?;
    ensure!(bed.servers_of()? == servers, "while it was being restarted");
    bed.host.replace_role("forwarder")?;
    bed.wait_templates(Some(5))?;
    ensure!(bed.servers_of()? == servers, "after it was restarted");

    // A reload that does not touch them, and one of the time alone.
    bed.host.lbctl(&["reload"])?;
    ensure!(bed.servers_of()? == servers);
    bed.host.write_config(&config("persistence_timeout 600")?)?;
    let plan = bed.host.lbctl(&["reload"])?;
    ensure!(plan.contains("persistence_timeout 300 -> 600"), "{plan}");
    ensure!(plan.contains("interrupts nothing"), "{plan}");
    ensure!(bed.servers_of()? == servers);

    // A drained server keeps its clients and gets no new ones.
    bed.host.lbctl(&["drain", &format!("10.77.0.3:{PORT}")])?;
    ensure!(bed.servers_of()? == servers, "a drained server sends its clients away");
    bed.client.ip(&["addr", "add", "10.77.0.20/24", "dev", "eth0"])?;
    ensure!(bed.server_of(20)? == 4, "a stranger goes to a drained server");
    let said = bed.host.lbctl(&["explain", &format!("{VIP}:{PORT}")])?;
    ensure!(said.contains("no new clients: drained by the operator"), "{said}");
    ensure!(said.contains("a client keeps its real server until"), "{said}");
    bed.host.lbctl(&["enable", &format!("10.77.0.3:{PORT}")])?;

    // Networks: one template, and one server for all.
    bed.host.write_config(&config("persistence_granularity 255.255.255.0")?)?;
    let plan = bed.host.lbctl(&["reload"])?;
    ensure!(plan.contains("clients are given real servers anew"), "{plan}");
    let together = bed.servers_of()?;
    let first = *together.values().next().context("clients")?;
    ensure!(together.values().all(|it| *it == first), "{together:?}");

    // Without the word nothing is kept.
    bed.host.write_config(&config("")?)?;
    bed.host.lbctl(&["reload"])?;
    bed.wait_templates(None)?;
    let got: Vec<u8> = (0..4).map(|_| bed.ask(11, LIMIT)).collect::<Result<_>>()?;
    ensure!(got[0] != got[1] && got[0] == got[2] && got[1] == got[3], "{got:?}");
    bed.host.stop()
}

/// A pin directory that is gone when the test is, however it ends.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if self.0.exists() {
            let _ = lb_userspace::dataplane::xdp::loader::remove(&self.0);
        }
    }
}

fn table(persistence: Option<Persistence>) -> ForwardingTable {
    let (method, state, limits) = (Method::Local, RealServerState::Up, Default::default());
    let vs = VirtualServer {
        gate: Gate::Always,
        scheduler: Scheduler::Wlc,
        idle_timeout: Duration::from_secs(36_000),
        on_down: OnDown::Reset,
        persistence,
        real_servers: [(
            SocketAddr::from(([10, 77, 0, 3], PORT)),
            RealServer { method, weight: 1, state, limits },
        )]
        .into(),
    };
    let key = format!("{VIP}:{PORT}").parse().expect("key");
    ForwardingTable { virtual_servers: [(key, vs)].into(), ..ForwardingTable::default() }
}

fn reach(engine: &mut Xdp, desired: &ForwardingTable) -> Result<()> {
    let observed = engine.observe()?;
    let report = engine.apply(&plan(&observed, desired));
    let failures: Vec<_> = report.failures().collect();
    ensure!(failures.is_empty(), "{failures:?}");
    ensure!(engine.observe()? == *desired, "the kernel does not say back what was written");
    Ok(())
}

/// A whole pass of housekeeping, in slices.
fn keep_house(engine: &mut Xdp) -> Result<()> {
    engine.housekeep(clock::now())?;
    loop {
        let progress = engine.work()?;
        ensure!(progress.entries <= SLICE, "{} entries in a slice", progress.entries);
        if !progress.more {
            return Ok(());
        }
    }
}

#[test]
fn templates_are_swept_in_slices_and_live_with_their_connections() -> Result<()> {
    const MANY: u32 = 5000;
    if !ready_or_skip("plane_persistence")? {
        return Ok(());
    }
    let pins =
        Pins(PathBuf::from(format!("/sys/fs/bpf/lbd-test-templates-{}", std::process::id())));
    let persistent =
        table(Some(Persistence { timeout: Duration::from_secs(100), granularity: 32 }));
    let mut engine = Xdp::open(&pins.0, 4096, Attachment::XDP)?;
    reach(&mut engine, &persistent)?;
    let status = |engine: &mut Xdp| -> Result<Option<u64>> {
        Ok(engine.status()?.virtual_servers[0].templates)
    };
    ensure!(status(&mut engine)? == Some(0));
    let map = |name| MapData::from_pin(pins.0.join(name)).and_then(Map::from_map_data);
    let mut templates = HashMap::<_, TemplateKey, Template>::try_from(map(maps::TEMPLATES)?)?;
    let mut flows = HashMap::<_, FlowKey4, Flow>::try_from(map(maps::FLOWS4)?)?;
    let clock = Clock::open(&pins.0)?;
    let second = u64::from(clock.ticks(Duration::from_secs(1)));
    let now = clock.sample()?.jiffies;
    let key = |network: u32| TemplateKey::new(Addr::v4(network), 1);
    let of = |seconds: u64| Template {
        used: now.saturating_sub(seconds * second),
        generation: 1,
        real: 1,
        pad: 0,
    };
    for n in 0..MANY {
        templates.insert(key(n), of(if n % 4 == 0 { 102 } else { 1 }), 0)?;
    }
    let held = be32([10, 77, 0, 11]);
    let flow = |port: u16| FlowKey4 {
        src: held,
        dst: be32(VIP.octets()),
        sport: be16(port),
        dport: be16(PORT),
        proto: 6,
        pad: 0,
    };
    let open = Flow { last_seen: now, generation: 1, real: 1, created: now, ..Flow::default() };
    flows.insert(flow(1), open, 0)?;
    templates.insert(key(held), of(80), 0)?;
    keep_house(&mut engine)?;
    let left = |templates: &HashMap<MapData, TemplateKey, Template>| {
        templates.keys().filter(Result::is_ok).count()
    };
    let kept = MANY as usize / 4 * 3;
    ensure!(left(&templates) == kept + 1, "{} are left", left(&templates));
    ensure!(status(&mut engine)? == Some(kept as u64 + 1));
    let renewed = templates.get(&key(held), 0).context("of an open connection")?;
    ensure!(renewed.used >= now, "{renewed:?} is not as of {now}");
    // A connection that is ending keeps nothing.
    flows.insert(flow(1), Flow { flags: FLOW_FIN, ..open }, 0)?;
    templates.insert(key(held), of(102), 0)?;
    keep_house(&mut engine)?;
    ensure!(templates.get(&key(held), 0).is_err(), "it outlives its connection");

    // A successor takes over what is there.
    drop(engine);
    let mut engine = Xdp::open(&pins.0, 4096, Attachment::XDP)?;
    ensure!(engine.how() == How::Adopted);
    ensure!(engine.observe()? == persistent, "persistence was not read back");
    keep_house(&mut engine)?;
    ensure!(status(&mut engine)? == Some(kept as u64));
    // A longer life and another mask end none of them; without persistence they go.
    let longer = Persistence { timeout: Duration::from_secs(3600), granularity: 24 };
    reach(&mut engine, &table(Some(longer)))?;
    keep_house(&mut engine)?;
    ensure!(left(&templates) == kept);
    reach(&mut engine, &table(None))?;
    keep_house(&mut engine)?;
    ensure!(left(&templates) == 0 && status(&mut engine)?.is_none());
    engine.close()
}
