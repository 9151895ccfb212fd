//! Tables of compile: what goes in, what must come out.

use std::{net::Ipv4Addr, time::Duration};

use super::*;
use crate::{
    base::{
        net::{Priority, Protocol, Vrid},
        table::{LeaseSlot, Limits, OnDown, Scheduler},
    },
    config::model::{
        Authentication, Checker, CheckerCommon, InitialState, NotifyWords, VipAddress,
        VrrpInstance, VrrpVersion,
    },
};

mod ipvs;
mod operator;

const VIP: &str = "192.0.2.10:3306";
const DB1: &str = "198.51.100.1:3306";
const DB2: &str = "198.51.100.2:3306";
const SORRY: &str = "198.51.100.9:3306";

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("address")
}

fn key(text: &str) -> VirtualServerKey {
    VirtualServerKey { protocol: Protocol::Tcp, addr: addr(text) }
}

fn rs(text: &str) -> model::RealServer {
    model::RealServer {
        addr: addr(text),
        weight: 10,
        limits: Limits::default(),
        inhibit_on_failure: false,
        notify_up: None,
        notify_down: None,
        mail: false,
        checkers: vec![Checker::Tcp(CheckerCommon {
            target: addr(text),
            bindto: None,
            connect_timeout: Duration::from_secs(5),
            retry: 1,
            delay_before_retry: Duration::from_secs(1),
            delay_loop: Duration::from_secs(60),
            warmup: Duration::ZERO,
            alpha: false,
        })],
    }
}

fn vs(text: &str) -> model::VirtualServer {
    model::VirtualServer {
        key: key(text),
        scheduler: Scheduler::Wlc,
        method: Method::Dr,
        delay_loop: Duration::from_secs(60),
        quorum: 1,
        hysteresis: 0,
        quorum_up: None,
        quorum_down: None,
        sorry_server: None,
        alpha: false,
        omega: false,
        mail: false,
        idle_timeout: Duration::from_secs(28_860),
        on_down: model::OnDown::Reset,
        persistence: None,
        real_servers: vec![rs(DB1), rs(DB2)],
    }
}

fn instance(name: &str, vrid: u8, vips: &[&str]) -> VrrpInstance {
    VrrpInstance {
        name: name.into(),
        state: InitialState::Backup,
        interface: "eth0".into(),
        vrid: Vrid::new(vrid).expect("vrid"),
        priority: Priority(100),
        version: VrrpVersion::V2,
        advert_int: Duration::from_secs(1),
        authentication: Authentication::None,
        nopreempt: false,
        preempt_delay: Duration::ZERO,
        election: model::Election::default(),
        timer_expired_backup: None,
        source: None,
        unicast_peers: Vec::new(),
        wire: crate::vrrp::wire::Options::default(),
        virtual_ipaddress: vips
            .iter()
            .map(|vip| VipAddress {
                prefix: vip.parse().expect("prefix"),
                dev: None,
                label: None,
                broadcast: None,
                scope: 0,
                options: Default::default(),
            })
            .collect(),
        track_scripts: Vec::new(),
        track_more: Default::default(),
        track_interfaces: Vec::new(),
        dont_track_primary: false,
        garp: Default::default(),
        on_host: Default::default(),
        notify: NotifyWords::default(),
    }
}

/// A scene with one instance, one virtual server and two real servers; rows change parts of it.
struct Scene {
    config: Config,
    vrrp: bool,
    health: HealthBook,
    quorum: BTreeMap<VirtualServerKey, bool>,
    admin: Admin,
    host: Host,
    engine: Engine,
    masters: BTreeSet<String>,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        let config = Config {
            vrrp_instances: vec![instance("VI_1", 51, &["192.0.2.10/24", "192.0.2.11/24"])],
            virtual_servers: vec![vs(VIP)],
            ..Config::default()
        };
        let egress =
            [DB1, DB2, SORRY].map(|rs| (addr(rs).ip(), "eth1".to_owned())).into_iter().collect();
        let addresses =
            [("lo", "127.0.0.1/8"), ("eth0", "192.0.2.2/24"), ("eth1", "198.51.100.254/24")]
                .map(|(name, prefix)| (name.to_owned(), prefix.parse().expect("prefix")))
                .into_iter()
                .collect();
        Self {
            config,
            vrrp: true,
            health: HealthBook::default(),
            quorum: BTreeMap::new(),
            admin: Admin::default(),
            host: Host { addresses, egress, ..Host::default() },
            engine: Engine::Xdp,
            masters: BTreeSet::new(),
            now: at(1000),
        }
    }

    fn with<T>(&self, run: impl FnOnce(&Inputs<'_>) -> T) -> T {
        let (slots, without) = LeaseSlots::default().allocate(&self.config, &BTreeMap::new());
        assert!(without.is_empty());
        run(&Inputs {
            config: &self.config,
            engine: self.engine,
            masters: &self.masters,
            vrrp: self.vrrp,
            slots: &slots,
            health: &self.health,
            quorum: &self.quorum,
            admin: &self.admin,
            host: &self.host,
            now: self.now,
        })
    }

    fn table(&self) -> ForwardingTable {
        self.with(compile)
    }

    fn server(&self, rs: &str) -> Option<RealServer> {
        self.table().virtual_servers.get(&key(VIP))?.real_servers.get(&addr(rs)).copied()
    }

    fn vs(&mut self) -> &mut model::VirtualServer {
        &mut self.config.virtual_servers[0]
    }

    fn hear(&mut self, rs: &str, health: Health) {
        self.health.set(key(VIP), addr(rs), health, 10, self.now);
    }
}

fn server(method: Method, weight: u32, state: RealServerState) -> Option<RealServer> {
    Some(RealServer { method, weight, state, limits: Limits::default() })
}

#[test]
fn gate_comes_from_the_instance_that_lists_the_address() {
    let mut scene = Scene::new();
    let gate = |scene: &Scene| scene.table().virtual_servers[&key(VIP)].gate;
    assert_eq!(gate(&scene), Gate::Lease(LeaseSlot(1)));
    scene.vrrp = false;
    assert_eq!(gate(&scene), Gate::Always);
    assert!(scene.table().vips.is_empty(), "without vrrp nobody would renew a lease");
    scene.vrrp = true;
    scene.config.vrrp_instances[0].virtual_ipaddress.remove(0);
    assert_eq!(gate(&scene), Gate::Always);
}

#[test]
fn vips_without_a_virtual_server_are_guarded_too() {
    let mut scene = Scene::new();
    scene.config.virtual_servers.clear();
    let vips = &mut scene.config.vrrp_instances[0].virtual_ipaddress;
    vips[1].dev = Some("eth7".into());
    let v6 = VipAddress { prefix: "2001:db8::50/64".parse().expect("prefix"), ..vips[0].clone() };
    vips.push(v6);
    let table = scene.table();
    assert_eq!(table.vips.values().collect::<Vec<_>>(), [&LeaseSlot(1); 3]);
    assert_eq!(table.interfaces.iter().collect::<Vec<_>>(), ["eth0", "eth7"]);
}

/// `virtual_ipaddress_excluded`: the adverts do not name them, but they come and go with the state all the same.
#[test]
fn excluded_vips_are_behind_the_lease_too() {
    let mut scene = Scene::new();
    let instance = &mut scene.config.vrrp_instances[0];
    let mut moved = instance.virtual_ipaddress.split_off(0);
    moved[1].dev = Some("eth7".into());
    instance.on_host.excluded = moved;
    assert!(!scene.table().interfaces.contains("eth7"), "it may be a tunnel");
    scene.host.ethernet.insert("eth7".into());
    let table = scene.table();
    assert_eq!(table.virtual_servers[&key(VIP)].gate, Gate::Lease(LeaseSlot(1)));
    assert_eq!(table.vips.values().collect::<Vec<_>>(), [&LeaseSlot(1); 2]);
    assert!(table.interfaces.contains("eth7"));
}

#[test]
fn interfaces_are_those_of_instances_and_ways_to_real_servers() {
    let mut scene = Scene::new();
    assert_eq!(scene.table().interfaces.iter().collect::<Vec<_>>(), ["eth0", "eth1"]);
    scene.vrrp = false;
    scene.host.egress.clear();
    assert_eq!(
        scene.table().interfaces.iter().collect::<Vec<_>>(),
        ["eth0"],
        "an always active virtual server is met on the interface of its network"
    );
    scene.host.addresses = [("lo".to_owned(), IpPrefix::host(addr(VIP).ip()))].into();
    assert!(scene.table().interfaces.is_empty(), "never on lo");
}

#[test]
fn health_becomes_state() {
    use RealServerState::{Closed, Down, Drain, Inhibited, Up};
    type Change = fn(&mut Scene);
    let rows: &[(&str, Change, (u32, RealServerState))] = &[
        ("never probed", |_| (), (10, Up)),
        ("up", |s| s.hear(DB1, Health::Up), (10, Up)),
        ("suspect", |s| s.hear(DB1, Health::Suspect), (10, Drain)),
        ("full", |s| s.hear(DB1, Health::Full), (10, Closed)),
        ("shutting down", |s| s.hear(DB1, Health::Drain), (10, Closed)),
        ("down", |s| s.hear(DB1, Health::Down), (10, Down)),
        (
            "down, inhibited",
            |s| {
                s.hear(DB1, Health::Down);
                s.vs().real_servers[0].inhibit_on_failure = true;
            },
            (10, Inhibited),
        ),
        ("alpha", |s| s.vs().alpha = true, (10, Closed)),
        (
            "alpha of a checker",
            |s| {
                if let Checker::Tcp(common) = &mut s.vs().real_servers[0].checkers[0] {
                    common.alpha = true;
                }
            },
            (10, Closed),
        ),
        (
            "alpha without a checker",
            |s| {
                s.vs().alpha = true;
                s.vs().real_servers[0].checkers.clear();
            },
            (10, Up),
        ),
        (
            "drained everywhere",
            |s| {
                s.hear(DB1, Health::Up);
                s.admin.drain(None, addr(DB1), None);
            },
            (10, Drain),
        ),
        ("drained here", |s| s.admin.drain(Some(key(VIP)), addr(DB1), None), (10, Drain)),
        (
            "drained elsewhere",
            |s| s.admin.drain(Some(key("192.0.2.11:3306")), addr(DB1), None),
            (10, Up),
        ),
        (
            "full although drained",
            |s| {
                s.hear(DB1, Health::Full);
                s.admin.drain(None, addr(DB1), None);
            },
            (10, Closed),
        ),
        (
            "dead although drained",
            |s| {
                s.hear(DB1, Health::Down);
                s.admin.drain(None, addr(DB1), None);
            },
            (10, Down),
        ),
        (
            "live weight",
            |s| {
                s.health.set(key(VIP), addr(DB1), Health::Up, 3, s.now);
            },
            (3, Up),
        ),
    ];
    for (name, change, (weight, state)) in rows {
        let mut scene = Scene::new();
        change(&mut scene);
        assert_eq!(scene.server(DB1), server(Method::Dr, *weight, *state), "{name}");
        assert_eq!(
            scene.server(DB2).map(|s| s.state),
            Some(if *name == "alpha" || scene.config.virtual_servers[0].alpha {
                Closed
            } else {
                Up
            }),
            "{name}: the other server"
        );
    }
}

#[test]
fn connections_of_a_dead_server_go_on_until_their_deadline() {
    // Not even a client that the server knows is led to it.
    use RealServerState::{Closed, Down, Inhibited, Up};
    let mut scene = Scene::new();
    let grace = Duration::from_secs(30);
    scene.vs().on_down = model::OnDown::Drain(grace);
    let state = |scene: &Scene| scene.server(DB1).map(|server| server.state);
    let next = |scene: &Scene| scene.with(next_deadline);
    assert_eq!((state(&scene), next(&scene)), (Some(Up), None));
    scene.hear(DB1, Health::Down);
    assert_eq!((state(&scene), next(&scene)), (Some(Closed), Some(at(31_000))));
    let text = scene.with(|inputs| placement::explain(inputs, DB1)).expect("known");
    assert!(text.contains("on_down drain"), "{text}");
    let table = scene.table();
    assert_eq!(table.virtual_servers[&key(VIP)].on_down, OnDown::Reset, "to the engine");
    // The same verdict again, another weight: no longer life.
    scene.now = at(20_000);
    scene.hear(DB1, Health::Down);
    scene.health.set(key(VIP), addr(DB1), Health::Down, 3, scene.now);
    assert_eq!(next(&scene), Some(at(31_000)));
    scene.now = at(30_999);
    assert_eq!(state(&scene), Some(Closed));
    scene.now = at(31_000);
    assert_eq!((state(&scene), next(&scene)), (Some(Down), None));
    // A successor does not give it another time; nor do the checker's last words, said again.
    scene.health = HealthBook::adopt(&scene.config, &scene.table(), &scene.admin);
    assert_eq!(state(&scene), Some(Down));
    scene.health.set(key(VIP), addr(DB1), Health::Down, 10, at(1000));
    assert_eq!(state(&scene), Some(Down));
    // One that took over in the midst of it learns from them when it began.
    let mut earlier = Scene::new();
    earlier.vs().on_down = model::OnDown::Drain(grace);
    earlier.hear(DB1, Health::Down);
    earlier.now = at(5000);
    earlier.health = HealthBook::adopt(&earlier.config, &earlier.table(), &earlier.admin);
    assert_eq!(state(&earlier), Some(Closed));
    earlier.health.set(key(VIP), addr(DB1), Health::Down, 10, at(1000));
    assert_eq!((state(&earlier), next(&earlier)), (Some(Closed), Some(at(31_000))));
    // Back in time: as if nothing had been.
    earlier.hear(DB1, Health::Up);
    assert_eq!((state(&earlier), next(&earlier)), (Some(Up), None));
    // Dead once more: a new time.
    scene.hear(DB1, Health::Up);
    scene.hear(DB1, Health::Down);
    assert_eq!((state(&scene), next(&scene)), (Some(Closed), Some(at(61_000))));
    // Weight 0 rather than removal: no end.
    scene.vs().real_servers[0].inhibit_on_failure = true;
    assert_eq!((state(&scene), next(&scene)), (Some(Inhibited), None));
    // The other words end at once, or never.
    scene.vs().real_servers[0].inhibit_on_failure = false;
    for (on_down, engine) in
        [(model::OnDown::Reset, OnDown::Reset), (model::OnDown::Keep, OnDown::Keep)]
    {
        scene.vs().on_down = on_down;
        assert_eq!((state(&scene), next(&scene)), (Some(Down), None));
        assert_eq!(scene.table().virtual_servers[&key(VIP)].on_down, engine);
    }
}

#[test]
fn what_was_kept_before_a_restart_drains_from_its_verdict() {
    use RealServerState::{Closed, Down, Inhibited};
    let grace = Duration::from_secs(30);
    let state = |scene: &Scene| scene.server(DB1).map(|server| server.state);
    type Change = fn(&mut Scene);
    let rows: [(Change, RealServerState); 2] = [
        (|scene| scene.vs().on_down = model::OnDown::Keep, Down),
        (|scene| scene.vs().real_servers[0].inhibit_on_failure = true, Inhibited),
    ];
    for (keeps, kept) in rows {
        let mut scene = Scene::new();
        keeps(&mut scene);
        scene.hear(DB1, Health::Down);
        assert_eq!(state(&scene), Some(kept));
        let before = scene.table();
        // The file says otherwise when it is started next.
        scene.vs().real_servers[0].inhibit_on_failure = false;
        scene.vs().on_down = model::OnDown::Drain(grace);
        scene.now = at(5000);
        scene.health = HealthBook::adopt(&scene.config, &before, &scene.admin);
        assert_eq!(state(&scene), Some(Closed), "{kept:?}");
        scene.health.set(key(VIP), addr(DB1), Health::Down, 10, at(1000));
        assert_eq!((state(&scene), scene.with(next_deadline)), (Some(Closed), Some(at(31_000))));
        scene.now = at(31_000);
        assert_eq!(state(&scene), Some(Down));
        // With `reset` there is nothing to wait for.
        scene.vs().on_down = model::OnDown::Reset;
        scene.health = HealthBook::adopt(&scene.config, &before, &scene.admin);
        assert_eq!(state(&scene), Some(Down), "{kept:?}");
    }
}

#[test]
fn the_operators_deadline_ends_a_living_server() {
    use RealServerState::{Down, Drain, Inhibited, Up};
    let mut scene = Scene::new();
    scene.hear(DB1, Health::Up);
    scene.admin.drain(None, addr(DB1), Some(at(9000)));
    let state = |scene: &Scene| scene.server(DB1).map(|server| server.state);
    let next = |scene: &Scene| scene.with(next_deadline);
    assert_eq!((state(&scene), next(&scene)), (Some(Drain), Some(at(9000))));
    scene.now = at(9000);
    assert_eq!((state(&scene), next(&scene)), (Some(Down), None));
    let text = scene.with(|inputs| placement::explain(inputs, DB1)).expect("known");
    assert!(text.contains("the time is over"), "{text}");
    // The last word counts.
    scene.admin.drain(None, addr(DB1), None);
    assert_eq!(state(&scene), Some(Drain));
    scene.admin.enable(&scene.config, None, addr(DB1));
    assert_eq!(state(&scene), Some(Up));
    // inhibit_on_failure keeps the connections of a dead server, not longer than was said of them.
    scene.vs().real_servers[0].inhibit_on_failure = true;
    scene.hear(DB1, Health::Down);
    scene.admin.drain(None, addr(DB1), Some(at(9500)));
    assert_eq!((state(&scene), next(&scene)), (Some(Inhibited), Some(at(9500))));
    scene.now = at(9500);
    assert_eq!((state(&scene), next(&scene)), (Some(Down), None));
    scene.vs().real_servers[0].inhibit_on_failure = false;
    scene.now = at(9000);
    scene.hear(DB1, Health::Up);
    // The earlier of both ends.
    scene.vs().on_down = model::OnDown::Drain(Duration::from_secs(30));
    scene.hear(DB1, Health::Down);
    scene.admin.drain(None, addr(DB1), Some(at(10_000)));
    assert_eq!(next(&scene), Some(at(10_000)));
    scene.admin.drain(None, addr(DB1), Some(at(90_000)));
    assert_eq!(next(&scene), Some(at(39_000)));
}

#[test]
fn own_addresses_are_local_but_vips_of_the_election_are_not() {
    let mut scene = Scene::new();
    let rows = [
        ("198.51.100.254:3306", Method::Local),
        ("127.0.0.1:3306", Method::Local),
        (VIP, Method::Local),
        ("192.0.2.11:3306", Method::Dr),
        (DB2, Method::Dr),
    ];
    let vip = ("eth0".to_owned(), "192.0.2.11/24".parse().expect("prefix"));
    scene.host.addresses.insert(vip);
    for (text, method) in rows {
        scene.vs().real_servers = vec![rs(text)];
        assert_eq!(scene.server(text).map(|s| s.method), Some(method), "{text}");
    }
}

#[test]
fn sorry_server_stands_in_when_the_quorum_is_lost() {
    use RealServerState::{Closed, Down, Up};
    let mut scene = Scene::new();
    scene.vs().sorry_server = Some(addr(SORRY));
    assert_eq!(scene.server(SORRY), None);
    scene.hear(DB1, Health::Down);
    scene.hear(DB2, Health::Down);
    assert_eq!(scene.server(SORRY), server(Method::Dr, 1, Up), "reckoned without the checker");
    assert_eq!(scene.server(DB1).map(|s| s.state), Some(Down));
    scene.hear(DB2, Health::Up);
    assert_eq!(scene.server(SORRY), None);
    scene.quorum.insert(key(VIP), false);
    assert_eq!(scene.server(SORRY), server(Method::Dr, 1, Up), "the checker's word counts");
    assert_eq!(scene.server(DB2).map(|s| s.state), Some(Closed), "sessions to the living stay");
    scene.quorum.insert(key(VIP), true);
    assert_eq!(scene.server(SORRY), None);
    assert_eq!(scene.server(DB2).map(|s| s.state), Some(Up));
    // Without a sorry server the quorum only runs scripts.
    scene.vs().sorry_server = None;
    scene.quorum.insert(key(VIP), false);
    assert_eq!(scene.server(DB2).map(|s| s.state), Some(Up));
}

#[test]
fn what_xdp_cannot_do_is_left_out_and_said() {
    type Change = fn(&mut model::VirtualServer);
    let rows: &[(&str, Change, &str)] = &[
        ("udp", |vs| vs.key.protocol = Protocol::Udp, "TCP only"),
        ("ipv6", |vs| vs.key.addr = addr("[2001:db8::1]:3306"), "of another address family"),
        ("port 0", |vs| vs.key.addr.set_port(0), "needs a port"),
        (
            "mixed",
            |vs| vs.real_servers[0].addr = addr("[2001:db8::2]:3306"),
            "of another address family",
        ),
    ];
    for (name, change, why) in rows {
        let mut scene = Scene::new();
        change(scene.vs());
        assert!(scene.table().virtual_servers.is_empty(), "{name}");
        let what = scene.vs().key.to_string();
        let text = scene.with(|inputs| placement::explain(inputs, &what)).expect(name);
        assert!(text.contains(why) && text.contains("not forwarded"), "{name}: {text}");
    }
}

/// By a tunnel a real server may be of the other family, and by either engine.
#[test]
fn tunnels_lead_to_the_other_family() {
    let mut scene = Scene::new();
    scene.vs().method = Method::Tun;
    scene.vs().real_servers = vec![rs("[2001:db8::2]:3306"), rs(DB2)];
    for engine in [Engine::Xdp, Engine::Ipvs] {
        scene.engine = engine;
        assert_eq!(scene.server("[2001:db8::2]:3306").map(|it| it.method), Some(Method::Tun));
        assert_eq!(scene.server(DB2).map(|it| it.method), Some(Method::Tun));
    }
    scene.engine = Engine::Xdp;
    let text = scene.with(|inputs| placement::explain(inputs, DB2)).expect("known");
    assert!(text.contains("TUN, weight"), "{text}");
    // Of the other family, and this host's own.
    let own = ("eth0".to_owned(), "2001:db8::2/64".parse().expect("prefix"));
    scene.host.addresses.insert(own);
    assert_eq!(scene.server("[2001:db8::2]:3306").map(|it| it.method), Some(Method::Local));
}

#[test]
fn explain_says_why() {
    let mut scene = Scene::new();
    scene.hear(DB1, Health::Suspect);
    scene.admin.drain(None, addr(DB2), None);
    let ask = |scene: &Scene, what: &str| scene.with(|inputs| placement::explain(inputs, what));
    let text = ask(&scene, "tcp/192.0.2.10:3306").expect("known");
    for part in ["VI_1", "slot 1", "missed a probe", "drained by the operator"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(ask(&scene, "192.0.2.11").expect("VIP").contains("vrrp_instance VI_1"));
    assert!(ask(&scene, DB2).expect("real server").contains("virtual server tcp/192.0.2.10:3306"));
    assert!(ask(&scene, "203.0.113.1").is_err());
    assert!(ask(&scene, "nonsense").is_err());
    scene.vs().real_servers = vec![rs("198.51.100.1:3307")];
    assert!(ask(&scene, VIP).expect("known").contains("must listen on port 3306, not 3307"));
}

#[test]
fn slots_are_stable_across_reload_rename_and_restart() {
    let config =
        |instances: Vec<VrrpInstance>| Config { vrrp_instances: instances, ..Config::default() };
    let none = BTreeMap::new();
    let a = instance("A", 1, &["192.0.2.1"]);
    let b = instance("B", 2, &["192.0.2.2"]);
    let c = instance("C", 3, &["192.0.2.3"]);
    let slot = |slots: &LeaseSlots, name: &str| slots.get(name).map(|slot| slot.0);

    let (first, _) = LeaseSlots::default().allocate(&config(vec![a.clone(), b.clone()]), &none);
    assert_eq!((slot(&first, "A"), slot(&first, "B")), (Some(1), Some(2)));
    // A new instance in front, another order.
    let (second, _) = first.allocate(&config(vec![c.clone(), b.clone(), a.clone()]), &none);
    assert_eq!(
        (slot(&second, "A"), slot(&second, "B"), slot(&second, "C")),
        (Some(1), Some(2), Some(3))
    );
    // A leaves, D comes: A's slot is not reused at once.
    let d = instance("D", 4, &["192.0.2.4"]);
    let (third, _) = second.allocate(&config(vec![b.clone(), c.clone(), d]), &none);
    assert_eq!(
        (slot(&third, "B"), slot(&third, "C"), slot(&third, "D")),
        (Some(2), Some(3), Some(4))
    );
    // Renamed.
    let renamed = VrrpInstance { name: "B2".into(), ..b.clone() };
    let (fourth, _) = second.allocate(&config(vec![renamed, a.clone()]), &none);
    assert_eq!((slot(&fourth, "B2"), slot(&fourth, "A")), (Some(2), Some(1)));
    // Restarted: nothing but the kernel's VIPs.
    let observed = [("192.0.2.2", 9), ("192.0.2.1", 7)]
        .map(|(ip, n)| (ip.parse::<IpAddr>().expect("ip"), LeaseSlot(n)))
        .into();
    let (fifth, _) = LeaseSlots::default().allocate(&config(vec![a, b, c]), &observed);
    assert_eq!(
        (slot(&fifth, "A"), slot(&fifth, "B"), slot(&fifth, "C")),
        (Some(7), Some(9), Some(1))
    );
    assert_eq!(fifth.name_of(LeaseSlot(9)), Some("B"));
}

/// The vrrp role carries a running instance on by VRID, family and interface: a slot that went with the name
/// would be another's lease.
#[test]
fn slots_follow_vrid_family_and_interface_before_the_name() {
    let config =
        |instances: Vec<VrrpInstance>| Config { vrrp_instances: instances, ..Config::default() };
    let none = BTreeMap::new();
    let named = |it: &VrrpInstance, name: &str| VrrpInstance { name: name.into(), ..it.clone() };
    let a = instance("A", 1, &["192.0.2.1"]);
    let b = instance("B", 2, &["192.0.2.2"]);
    let (first, _) = LeaseSlots::default().allocate(&config(vec![a.clone(), b.clone()]), &none);
    let swapped = config(vec![named(&a, "B"), named(&b, "A")]);
    let (second, _) = first.allocate(&swapped, &none);
    assert_eq!((second.get("B"), second.get("A")), (Some(LeaseSlot(1)), Some(LeaseSlot(2))));

    // One VRID on one interface, in both families: both are renamed, in another order.
    let mut six = instance("SIX", 1, &["fe80::1"]);
    six.wire.ipv6 = true;
    let (first, _) = LeaseSlots::default().allocate(&config(vec![a.clone(), six.clone()]), &none);
    assert_eq!((first.get("A"), first.get("SIX")), (Some(LeaseSlot(1)), Some(LeaseSlot(2))));
    let renamed = config(vec![named(&six, "NEW6"), named(&a, "NEW4")]);
    let (second, _) = first.allocate(&renamed, &none);
    assert_eq!((second.get("NEW4"), second.get("NEW6")), (Some(LeaseSlot(1)), Some(LeaseSlot(2))));

    // Another VRID under the name that was there: the lease stays with the name.
    let (third, _) = first.allocate(&config(vec![instance("A", 9, &["192.0.2.1"])]), &none);
    assert_eq!(third.get("A"), Some(LeaseSlot(1)));
}

#[test]
fn the_slot_table_has_an_end() {
    let many: Vec<_> = (0..300u32)
        .map(|n| {
            let vip = Ipv4Addr::from_bits(0xc000_0200 + n).to_string();
            VrrpInstance {
                interface: format!("eth{n}"),
                ..instance(&format!("I{n:03}"), 1, &[&vip])
            }
        })
        .collect();
    let config = Config { vrrp_instances: many, ..Config::default() };
    let (slots, without) = LeaseSlots::default().allocate(&config, &BTreeMap::new());
    assert_eq!(slots.list().len(), 255);
    assert_eq!(without.len(), 45);
    assert_eq!(without[0], "I255");
    // The full table is stable too, and one that becomes free can be had.
    let (again, _) = slots.allocate(&config, &BTreeMap::new());
    assert_eq!(again, slots);
    let mut fewer = config;
    fewer.vrrp_instances.remove(0);
    let (next, without) = slots.allocate(&fewer, &BTreeMap::new());
    assert_eq!(next.get("I255"), Some(LeaseSlot(1)));
    assert_eq!(without.len(), 44);
}
