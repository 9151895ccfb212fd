//! The engine over a kernel in memory that answers as ip_vs_ctl.c does.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    base::{
        net::Protocol,
        table::{Gate, Limits, RealServer, Scheduler},
    },
    dataplane::ipvs::wire::Service,
    reconcile::{plan, testing::table},
};

/// What the kernel holds. A test keeps a hold of it beside the engine.
#[derive(Debug, Default)]
struct Memory {
    services: BTreeMap<ServiceKey, Held>,
    /// Requests that changed something.
    log: Vec<Request>,
    /// Errors to come, one a changing request; `None` lets it through.
    failures: VecDeque<Option<Errno>>,
    /// The next change is made, and its answer lost.
    lost: bool,
    /// Services that had a live destination and were left without one by a step.
    emptied: Vec<(ServiceKey, Request)>,
}

type Shared = Rc<RefCell<Memory>>;

impl Memory {
    fn change(&mut self, request: &Request) -> Result<(), Errno> {
        if let Some(errno) = self.failures.pop_front().flatten() {
            return Err(errno);
        }
        let live = |memory: &Self| -> Vec<ServiceKey> {
            let services = memory.services.iter();
            let live = services.filter(|(_, held)| held.dests.values().any(|it| it.weight > 0));
            live.map(|(key, _)| *key).collect()
        };
        let before = live(self);
        match request {
            Request::NewService(service) => {
                if self.services.contains_key(&service.key) {
                    return Err(Errno::EEXIST);
                }
                self.services.insert(service.key, hashed(service));
            }
            Request::SetService(service) => {
                let held = self.services.get_mut(&service.key).ok_or(Errno::ESRCH)?;
                held.service = hashed(service).service;
            }
            Request::DelService(key) => drop(self.services.remove(key).ok_or(Errno::ESRCH)?),
            Request::NewDest(key, dest) => {
                let held = self.services.get_mut(key).ok_or(Errno::ESRCH)?;
                if held.dests.contains_key(&dest.key) {
                    return Err(Errno::EEXIST);
                }
                held.dests.insert(dest.key, *dest);
            }
            Request::SetDest(key, dest) => {
                let held = self.services.get_mut(key).ok_or(Errno::ESRCH)?;
                *held.dests.get_mut(&dest.key).ok_or(Errno::ENOENT)? = *dest;
            }
            Request::DelDest(key, dest) => {
                let held = self.services.get_mut(key).ok_or(Errno::ESRCH)?;
                held.dests.remove(dest).ok_or(Errno::ENOENT)?;
            }
            other => panic!("{other:?} changes nothing"),
        }
        let after = live(self);
        let emptied = before.into_iter().filter(|key| !after.contains(key));
        self.emptied.extend(emptied.map(|key| (key, request.clone())));
        self.log.push(request.clone());
        Ok(())
    }
}

/// As the kernel shows it: with a flag of its own.
fn hashed(service: &Service) -> Held {
    let service = Service { flags: service.flags | flag::HASHED, ..service.clone() };
    Held { service, dests: BTreeMap::new() }
}

impl Kernel for Shared {
    fn call(&mut self, request: &Request) -> Result<Vec<Answer>, Refusal> {
        let mut memory = self.borrow_mut();
        let stats = Default::default();
        match request {
            Request::GetServices => {
                let services = memory.services.values();
                let entry = |held: &Held| {
                    Answer::Service(ServiceEntry { service: held.service.clone(), stats })
                };
                Ok(services.map(entry).collect())
            }
            Request::GetDests(key) => {
                let held = memory.services.get(key).ok_or(Refusal::Errno(Errno::ESRCH))?;
                let entry = |dest: &Dest| {
                    let (dest, counts) = (*dest, (2, 1, 0));
                    let (active, inactive, persistent) = counts;
                    Answer::Dest(DestEntry { dest, active, inactive, persistent, stats })
                };
                Ok(held.dests.values().map(entry).collect())
            }
            Request::GetConfig => {
                Ok(vec![Answer::Config(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 })])
            }
            other => {
                let done = memory.change(other);
                if std::mem::take(&mut memory.lost) {
                    return Err(Refusal::Socket(std::io::ErrorKind::TimedOut.into()));
                }
                done.map(|()| Vec::new()).map_err(Refusal::Errno)
            }
        }
    }
}

struct Rig {
    kernel: Shared,
    dir: TempDir,
    engine: Ipvs<Shared>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(EXPIRE_NODEST), "0\n").expect("written");
        let kernel = Shared::default();
        let engine = Ipvs::over(Rc::clone(&kernel), dir.path(), dir.path());
        Self { kernel, dir, engine }
    }

    /// A successor of an engine that was killed.
    fn restart(&mut self) {
        self.engine = Ipvs::over(Rc::clone(&self.kernel), self.dir.path(), self.dir.path());
    }

    /// A round: observe, plan, apply. Number of operations.
    fn round(&mut self, desired: &ForwardingTable) -> usize {
        let plan = plan(&self.engine.observe().expect("readable"), desired);
        let report = self.engine.apply(&plan);
        let failures: Vec<_> = report.failures().map(|failure| failure.text.clone()).collect();
        assert_eq!(failures, [""; 0]);
        plan.operations.len()
    }

    fn setting(&self) -> String {
        fs::read_to_string(self.dir.path().join(EXPIRE_NODEST)).expect("readable")
    }
}

fn vs_key() -> VirtualServerKey {
    VirtualServerKey {
        protocol: Protocol::Tcp,
        addr: "192.0.2.1:3306".parse().expect("an address"),
    }
}

fn foreign() -> Service {
    let addr = [192, 0, 2, 99].into();
    let key = ServiceKey::Address { protocol: 6, addr, port: 80 };
    Service { key, scheduler: "dh".into(), flags: 0, timeout: 0, prefix: 32, engine: None }
}

/// One virtual server with these real servers: last octet, state.
fn small(servers: &[(u8, RealServerState)]) -> ForwardingTable {
    let server = |(octet, state): &(u8, RealServerState)| {
        let addr = SocketAddr::from(([198, 51, 100, *octet], 3306));
        let limits = Limits::default();
        (addr, RealServer { method: Method::Nat, weight: 1, state: *state, limits })
    };
    let vs = VirtualServer {
        gate: Gate::Always,
        scheduler: Scheduler::Wlc,
        idle_timeout: std::time::Duration::from_secs(900),
        on_down: OnDown::Reset,
        persistence: None,
        real_servers: servers.iter().map(server).collect(),
    };
    ForwardingTable { virtual_servers: [(vs_key(), vs)].into(), ..ForwardingTable::default() }
}

const UP: RealServerState = RealServerState::Up;

proptest! {
    #[test]
    fn the_kernel_holds_what_is_desired_and_says_so(o in table(), d in table()) {
        let mut rig = Rig::new();
        rig.round(&o);
        prop_assert_eq!(&rig.engine.observe().expect("readable"), &o);
        rig.kernel.borrow_mut().emptied.clear();
        rig.round(&d);
        prop_assert_eq!(&rig.engine.observe().expect("readable"), &d);
        prop_assert_eq!(rig.round(&d), 0, "twice is nothing");
        // What is served keeps a live server throughout, if one is wanted.
        for (service, request) in &rig.kernel.borrow().emptied {
            let key = encode::virtual_server_key(service).expect("ours");
            let wanted = d.virtual_servers.get(&key).map(|vs| held(&key, vs));
            let live = wanted.is_some_and(|held| held.dests.values().any(|it| it.weight > 0));
            prop_assert!(!live, "{:?} emptied {}", request, service);
        }
        // A successor finds the same; interfaces are nothing that lasts.
        rig.restart();
        let mut found = rig.engine.observe().expect("readable");
        found.interfaces.clone_from(&d.interfaces);
        prop_assert_eq!(&found, &d);
        rig.engine.close().expect("clean");
        prop_assert!(rig.kernel.borrow().services.is_empty());
        let setting = rig.setting();
        prop_assert_eq!(setting.trim(), "0");
        prop_assert!(!rig.dir.path().join("ipvs.json").exists());
    }

    /// Whatever fails, and wherever a predecessor was killed, rounds come to the end.
    #[test]
    fn failures_and_kills_still_converge(
        o in table(), d in table(), failures in proptest::collection::vec(any::<bool>(), 0..40)
    ) {
        let mut rig = Rig::new();
        rig.round(&o);
        let failures: VecDeque<_> =
            failures.iter().map(|fail| fail.then_some(Errno::ENOMEM)).collect();
        let limit = failures.len() + 4;
        rig.kernel.borrow_mut().failures = failures;
        for round in 0.. {
            prop_assert!(round <= limit, "no progress");
            let observed = rig.engine.observe().expect("readable");
            if observed == d {
                break;
            }
            rig.engine.apply(&plan(&observed, &d));
            if round % 3 == 2 {
                rig.restart();
            }
        }
    }

    /// Changes of others on our services are seen and undone.
    #[test]
    fn drift_is_repaired(d in table(), which in any::<prop::sample::Index>(), how in 0_u8..5) {
        let mut rig = Rig::new();
        rig.round(&d);
        {
            let mut memory = rig.kernel.borrow_mut();
            let keys: Vec<_> = memory.services.keys().copied().collect();
            prop_assume!(!keys.is_empty());
            let key = keys[which.index(keys.len())];
            let held = memory.services.get_mut(&key).expect("it is there");
            let first = held.dests.keys().next().copied();
            match (how, first) {
                (0, _) => drop(memory.services.remove(&key)),
                (1, Some(dest)) => drop(held.dests.remove(&dest)),
                (2, Some(dest)) => held.dests.get_mut(&dest).expect("it is there").weight += 7,
                (3, _) => held.service.scheduler = "dh".into(),
                _ => held.service.flags ^= flag::PERSISTENT | flag::SCHED_2,
            }
        }
        prop_assert!(rig.round(&d) > 0, "not seen");
        prop_assert_eq!(&rig.engine.observe().expect("readable"), &d);
    }
}

#[test]
fn services_of_others_are_left_alone_and_listed() {
    let mut rig = Rig::new();
    let other = hashed(&foreign());
    rig.kernel.borrow_mut().services.insert(foreign().key, other.clone());
    rig.round(&small(&[(1, UP), (2, UP)]));
    let status = rig.engine.status().expect("readable");
    assert_eq!(status.foreign_services, ["tcp/192.0.2.99:80"]);
    assert_eq!(status.virtual_servers.len(), 1);
    assert_eq!((status.flows, status.embryos), (4, 2));
    assert_eq!(status.limits.len(), LIMITS.len());
    rig.engine.close().expect("clean");
    let left: Vec<_> = rig.kernel.borrow().services.values().cloned().collect();
    assert_eq!(left, [other]);
}

/// Whoever made it may be forwarding by it: it is neither changed nor, at the end, removed.
#[test]
fn a_service_that_somebody_else_has_already_is_not_taken() {
    let mut rig = Rig::new();
    let desired = small(&[(1, UP)]);
    let mut theirs = foreign();
    theirs.key = encode::key(&vs_key());
    let theirs = hashed(&theirs);
    // Once as read, once made in the moment between reading and making.
    for early in [true, false] {
        let insert = |rig: &Rig| {
            rig.kernel.borrow_mut().services.insert(theirs.service.key, theirs.clone());
        };
        if early {
            insert(&rig);
        }
        let observed = rig.engine.observe().expect("readable");
        if !early {
            insert(&rig);
        }
        let report = rig.engine.apply(&plan(&observed, &desired));
        let text = report.failures().map(|it| it.text.clone()).collect::<String>();
        assert!(text.contains("is not lbd's"), "{text}");
        rig.restart();
        assert!(rig.engine.observe().expect("readable").virtual_servers.is_empty(), "no claim");
        rig.engine.close().expect("clean");
        assert_eq!(
            rig.kernel.borrow_mut().services.remove(&theirs.service.key),
            Some(theirs.clone())
        );
        rig.restart();
    }
    rig.engine.observe().expect("readable");
    assert_eq!(rig.round(&desired), 1, "once it is out, ours comes");
}

#[test]
fn drain_is_weight_zero_and_death_is_removal_unless_it_keeps() {
    let mut rig = Rig::new();
    let weights = |rig: &Rig| -> Vec<(u8, u32)> {
        let memory = rig.kernel.borrow();
        let held = memory.services.get(&encode::key(&vs_key())).expect("it is there");
        let weight = |dest: &Dest| match dest.key.addr {
            std::net::IpAddr::V4(addr) => (addr.octets()[3], dest.weight),
            std::net::IpAddr::V6(_) => (0, 0),
        };
        held.dests.values().map(weight).collect()
    };
    let states = [
        (1, UP),
        (2, RealServerState::Drain),
        (3, RealServerState::Closed),
        (4, RealServerState::Inhibited),
        (5, RealServerState::Down),
    ];
    let mut desired = small(&states);
    rig.round(&desired);
    assert_eq!(weights(&rig), [(1, 1), (2, 0), (3, 0), (4, 0)]);
    assert_eq!(rig.setting(), "1", "expire_nodest_conn: a dead server's clients are reset");
    for vs in desired.virtual_servers.values_mut() {
        vs.on_down = OnDown::Keep;
    }
    let mut again = Rig::new();
    again.round(&desired);
    assert_eq!(weights(&again), [(1, 1), (2, 0), (3, 0), (4, 0), (5, 0)]);
    assert_eq!(again.setting(), "0\n", "nobody wants resets");
}

#[test]
fn a_scheduler_that_the_kernel_lacks_is_named() {
    let mut rig = Rig::new();
    rig.kernel.borrow_mut().failures = [Some(Errno::ENOENT)].into();
    let observed = rig.engine.observe().expect("readable");
    let report = rig.engine.apply(&plan(&observed, &small(&[(1, UP)])));
    let text = report.failures().map(|it| it.text.clone()).collect::<String>();
    assert!(text.contains("ip_vs_wlc"), "{text}");
    assert!(report.failures().all(|it| it.kind == FailureKind::Hopeless));
    assert_eq!(rig.round(&small(&[(1, UP)])), 1, "tried again");
}

/// It is ours all the same: it must not stay behind as somebody else's.
#[test]
fn a_service_whose_making_was_not_answered_is_ours() {
    let mut rig = Rig::new();
    let desired = small(&[(1, UP)]);
    let observed = rig.engine.observe().expect("readable");
    rig.kernel.borrow_mut().lost = true;
    assert_eq!(rig.engine.apply(&plan(&observed, &desired)).failures().count(), 1);
    rig.restart();
    rig.round(&desired);
    // Ours for long, away when we looked, and back when we make it.
    let key = encode::key(&vs_key());
    let held = rig.kernel.borrow_mut().services.remove(&key).expect("it is there");
    let observed = rig.engine.observe().expect("readable");
    rig.kernel.borrow_mut().services.insert(key, held);
    assert_eq!(rig.engine.apply(&plan(&observed, &desired)).failures().count(), 1);
    rig.round(&desired);
    rig.engine.close().expect("clean");
    assert!(rig.kernel.borrow().services.is_empty());
}

#[test]
fn one_change_is_one_request() {
    let mut rig = Rig::new();
    rig.round(&small(&[(1, UP), (2, UP), (3, UP)]));
    rig.kernel.borrow_mut().log.clear();
    rig.round(&small(&[(1, UP), (2, RealServerState::Down), (3, UP)]));
    rig.round(&small(&[(1, UP), (2, UP), (3, UP)]));
    let log: Vec<_> = rig.kernel.borrow().log.iter().map(|it| it.encode().command).collect();
    assert_eq!(log, [super::super::wire::command::DEL_DEST, super::super::wire::command::NEW_DEST]);
}
