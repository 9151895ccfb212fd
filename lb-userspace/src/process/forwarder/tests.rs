use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use super::{
    state::{Decision, ROUND},
    *,
};
use crate::{
    base::{
        filter::FlowFilter,
        net::{Mac, VirtualServerKey},
        status::Health,
        table::{Method, RealServerState, Scheduler},
    },
    config::model::{Checker, CheckerCommon, OnDown, RealServer, VirtualServer},
    dataplane::fake::Fake,
    desired::Admin,
    process::ipc::HealthChange,
    reconcile::Operation,
};

const DRAIN: Decision = Decision::Drain { within: None };

fn key() -> VirtualServerKey {
    "tcp/192.0.2.10:3306".parse().expect("key")
}

fn db(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 3306))
}

pub(super) fn config(servers: &[u8]) -> Arc<Config> {
    let real_servers = servers
        .iter()
        .map(|n| RealServer {
            addr: db(*n),
            weight: 1,
            limits: Default::default(),
            inhibit_on_failure: false,
            notify_up: None,
            notify_down: None,
            mail: false,
            checkers: Vec::new(),
        })
        .collect();
    let vs = VirtualServer {
        key: key(),
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
        on_down: OnDown::Reset,
        persistence: None,
        real_servers,
    };
    Arc::new(Config { virtual_servers: vec![vs], ..Config::default() })
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn started(fake: Fake) -> State<Fake> {
    let mut state =
        State::new(fake, config(&[1, 2]), 1, true, Admin::default(), at(0)).expect("readable");
    state.round(at(0));
    state
}

fn reload(
    state: &mut State<Fake>,
    generation: u64,
    config: Arc<Config>,
    now: Instant,
) -> Result<(), String> {
    state.offer(generation, config);
    state.take(None, now)
}

/// Real server N is behind ethN.
fn host(servers: &[u8]) -> Host {
    let egress = servers.iter().map(|n| (db(*n).ip(), format!("eth{n}"))).collect();
    Host { egress, ..Host::default() }
}

fn interfaces(state: &State<Fake>) -> Vec<&str> {
    state.engine.table.interfaces.iter().map(String::as_str).collect()
}

fn verdict(n: u8, health: Health) -> Event {
    Event::Health(HealthChange {
        virtual_server: key(),
        real_server: db(n),
        health,
        weight: 1,
        reason: "test".into(),
        at: clock::now(),
    })
}

fn server(state: &State<Fake>, n: u8) -> Option<RealServerState> {
    let vs = state.engine.table.virtual_servers.get(&key())?;
    vs.real_servers.get(&db(n)).map(|server| server.state)
}

#[test]
fn a_verdict_is_in_the_engine_when_it_has_settled() {
    let mut state = started(Fake::default());
    assert_eq!(server(&state, 1), Some(RealServerState::Up));
    state.hear(&verdict(1, Health::Down), at(10));
    state.settle(at(10));
    assert_eq!(server(&state, 1), Some(RealServerState::Down));
    assert_eq!(server(&state, 2), Some(RealServerState::Up));
    let status = state.status(at(0)).expect("status");
    assert_eq!(status.verdict_us.values().sum::<u64>(), 1);
    // The same again is no news.
    let before = state.engine.performed.len();
    state.hear(&verdict(1, Health::Down), at(20));
    state.settle(at(20));
    assert_eq!(state.engine.performed.len(), before);
}

/// A verdict that the engine did not take is told when it has it, and not before.
#[test]
fn a_verdict_that_was_not_written_waits_for_the_round_that_writes_it() {
    let mut state = started(Fake::default());
    let told = |state: &mut State<Fake>| -> u64 {
        state.status(at(50)).expect("status").verdict_us.values().sum()
    };
    state.engine.failures = [Some("no memory".to_owned())].into();
    state.hear(&verdict(1, Health::Down), at(10));
    state.settle(at(10));
    assert_eq!(server(&state, 1), Some(RealServerState::Up));
    assert_eq!(told(&mut state), 0);
    // Another one is not held up by it.
    state.engine.failures = [Some("no memory".to_owned())].into();
    state.hear(&verdict(2, Health::Down), at(20));
    state.settle(at(20));
    assert_eq!((server(&state, 2), told(&mut state)), (Some(RealServerState::Down), 1));
    state.round(at(30));
    assert_eq!(server(&state, 1), Some(RealServerState::Down));
    assert_eq!(told(&mut state), 2);
    state.round(at(40));
    assert_eq!(told(&mut state), 2);
}

#[test]
fn a_burst_costs_one_pass_and_what_is_recalled_has_no_latency() {
    let mut state = started(Fake::default());
    let before = state.engine.applied;
    state.hear(&verdict(1, Health::Suspect), at(10));
    state.recall(&verdict(2, Health::Down));
    state.hear(&verdict(2, Health::Up), at(10));
    state.hear(&verdict(1, Health::Down), at(10));
    state.settle(at(10));
    assert_eq!(state.engine.applied, before + 1);
    assert_eq!(server(&state, 1), Some(RealServerState::Down));
    assert_eq!(server(&state, 2), Some(RealServerState::Up));
    let status = state.status(at(0)).expect("status");
    assert_eq!(status.verdict_us.values().sum::<u64>(), 3, "the recalled one is not counted");
    state.settle(at(11));
    assert_eq!(state.engine.applied, before + 1, "nothing new");
    // Back before the death was written: it is written all the same.
    state.hear(&verdict(2, Health::Down), at(12));
    state.hear(&verdict(2, Health::Up), at(12));
    state.settle(at(12));
    assert_eq!(state.engine.applied, before + 3);
}

#[test]
fn a_successor_takes_over_what_its_predecessor_knew() {
    let mut config = (*config(&[1, 2, 3])).clone();
    let checker = Checker::Tcp(CheckerCommon {
        target: db(1),
        bindto: None,
        connect_timeout: Duration::from_secs(1),
        retry: 1,
        delay_before_retry: Duration::from_secs(1),
        delay_loop: Duration::from_secs(1),
        warmup: Duration::ZERO,
        alpha: true,
    });
    for rs in &mut config.virtual_servers[0].real_servers[..2] {
        rs.checkers.push(checker.clone());
    }
    let config = Arc::new(config);
    let start = |fake| {
        let state = State::new(fake, Arc::clone(&config), 1, true, Admin::default(), at(0));
        let mut state = state.expect("readable");
        state.round(at(0));
        state
    };
    let mut state = start(Fake::default());
    state.hear(&verdict(1, Health::Down), at(10));
    state.hear(&verdict(2, Health::Suspect), at(10));
    state.hear(&verdict(3, Health::Down), at(10));
    state.settle(at(10));
    let mut state = start(Fake { table: state.engine.table.clone(), ..Fake::default() });
    assert_eq!(server(&state, 1), Some(RealServerState::Down));
    assert_eq!(server(&state, 2), Some(RealServerState::Drain));
    assert_eq!(server(&state, 3), Some(RealServerState::Up), "nobody would ever correct it");
    // The checker's words count as soon as they come.
    state.hear(&verdict(1, Health::Up), at(20));
    state.settle(at(20));
    assert_eq!(server(&state, 1), Some(RealServerState::Up));
}

#[test]
fn drift_is_repaired_by_the_next_round() {
    let mut state = started(Fake::default());
    let want = state.engine.table.clone();
    state.engine.table.virtual_servers.clear();
    state.engine.table.vips.insert([192, 0, 2, 99].into(), LeaseSlot(9));
    assert_eq!(state.rounds.poll_timeout(), Some(at(0) + ROUND));
    state.round(at(1000));
    assert_eq!(state.engine.table, want);
}

#[test]
fn what_fails_is_tried_again_and_said() {
    let fake = Fake { failures: [Some("no memory".to_owned())].into(), ..Fake::default() };
    let mut state = started(fake);
    assert_eq!(*state.standing(), Standing::Trying("no memory".into()));
    assert_eq!(state.rounds.poll_timeout(), Some(at(100)), "sooner than a quiet round");
    state.round(at(100));
    assert_eq!(*state.standing(), Standing::Converged);
    assert_eq!(state.status(at(0)).expect("status").reconcile_errors, 1);
    state.engine.blind = Some("gone".into());
    state.round(at(200));
    assert!(matches!(state.standing(), Standing::Trying(why) if why.contains("gone")));
}

#[test]
fn drained_servers_stay_drained_over_reload() {
    let mut state = started(Fake::default());
    let done = state.administer(None, db(1), DRAIN, at(1)).expect("known");
    assert!(done.contains("drained in tcp/192.0.2.10:3306"));
    assert_eq!(server(&state, 1), Some(RealServerState::Drain));
    reload(&mut state, 2, config(&[1, 2, 3]), at(2)).expect("it can be carried");
    assert_eq!(server(&state, 1), Some(RealServerState::Drain));
    assert_eq!(server(&state, 3), Some(RealServerState::Up));
    state.administer(Some(key()), db(1), Decision::Enable, at(3)).expect("known");
    assert_eq!(server(&state, 1), Some(RealServerState::Up));
    let error = state.administer(None, db(9), DRAIN, at(4)).expect_err("unknown");
    assert!(error.contains("not a real server"), "{error}");
}

#[test]
fn a_drain_has_an_end_and_says_what_remains() {
    let mut state = started(Fake::default());
    assert_eq!(state.deadline(), None);
    let drain = Decision::Drain { within: Some(Duration::from_secs(2)) };
    let done = state.administer(None, db(1), drain, at(1000)).expect("known");
    assert_eq!(
        done,
        "198.51.100.1:3306 drained in tcp/192.0.2.10:3306; connections that remain: 0; what is left \
         in 2 s is reset"
    );
    assert_eq!(state.deadline(), Some(at(3000)));
    state.expire(at(2999));
    assert_eq!(server(&state, 1), Some(RealServerState::Drain), "early");
    state.expire(at(3000));
    assert_eq!(server(&state, 1), Some(RealServerState::Down));
    assert_eq!(state.deadline(), None);
    state.administer(None, db(1), Decision::Enable, at(3001)).expect("known");
    assert_eq!(server(&state, 1), Some(RealServerState::Up));
    // Connections that are kept have no end.
    let mut keep = (*config(&[1, 2])).clone();
    keep.virtual_servers[0].on_down = OnDown::Keep;
    reload(&mut state, 2, Arc::new(keep), at(4000)).expect("it can be carried");
    let why = state.administer(None, db(1), drain, at(4001)).expect_err("refused");
    assert!(why.contains("on_down keep"), "{why}");
    assert_eq!(server(&state, 1), Some(RealServerState::Up), "nothing was done");
    state.administer(None, db(1), DRAIN, at(4002)).expect("without a time");
}

#[test]
fn a_death_may_be_drained() {
    let mut state = started(Fake::default());
    let mut drains = (*config(&[1, 2])).clone();
    drains.virtual_servers[0].on_down = OnDown::Drain(Duration::from_secs(5));
    reload(&mut state, 2, Arc::new(drains), at(1)).expect("it can be carried");
    let Event::Health(mut change) = verdict(1, Health::Down) else { panic!("a verdict") };
    change.at = at(10);
    state.hear(&Event::Health(change), at(12));
    state.settle(at(12));
    assert_eq!(server(&state, 1), Some(RealServerState::Closed));
    assert_eq!(state.deadline(), Some(at(5010)), "from the verdict on");
    // A quiet round does it too.
    state.round(at(5011));
    assert_eq!(server(&state, 1), Some(RealServerState::Down));
}

#[test]
fn untouched_means_untouched() {
    let mut state = started(Fake::default());
    state.hear(&verdict(1, Health::Suspect), at(1));
    state.settle(at(1));
    let before = state.engine.performed.len();
    reload(&mut state, 2, config(&[1, 2]), at(2)).expect("it can be carried");
    state.round(at(3));
    assert_eq!(state.engine.performed.len(), before);
    assert_eq!(server(&state, 1), Some(RealServerState::Drain));
}

#[test]
fn a_snapshot_becomes_next_hops() {
    use crate::io::neigh::{Interface, Way};
    let interface = Interface {
        name: "eth1".into(),
        mac: Mac([2; 6]),
        mtu: 1400,
        nic: true,
        running: true,
        xdp_program: Some(77),
    };
    let via = IpAddr::from([198, 51, 100, 254]);
    let own = Some(IpAddr::from([198, 51, 100, 9]));
    let (stale, asked) = (false, false);
    let way = |neighbour| Way { ifindex: 3, via, neighbour, own, mtu: Some(1400), stale, asked };
    let asked = Way { asked: true, ..way(Err("is being asked".into())) };
    let snapshot = Snapshot {
        interfaces: [(3, interface)].into(),
        addresses: [(3, "198.51.100.9/24".parse().expect("prefix"))].into(),
        ways: [
            (db(1).ip(), Ok(way(Ok(Mac([4; 6]))))),
            (db(2).ip(), Ok(way(Err("silent".into())))),
            (db(3).ip(), Err("no route".into())),
            (db(4).ip(), Ok(asked)),
        ]
        .into(),
    };
    let (host, around) = surroundings(&snapshot);
    let (source, neighbour) = (Mac([2; 6]), Mac([4; 6]));
    let hop = NextHop { ifindex: 3, source, neighbour, mtu: 1400, nic: true, own };
    assert_eq!(around.next_hops[&db(1).ip()], Ok(hop));
    assert_eq!(around.next_hops[&db(2).ip()], Err("silent".into()));
    assert_eq!(around.next_hops[&db(3).ip()], Err("no route".into()));
    assert_eq!(around.xdp_programs["eth1"], 77);
    assert!(!around.next_hops.contains_key(&db(4).ip()), "says nothing yet");
    assert_eq!(host.egress.len(), 3, "the way is known before the neighbour is");
    assert!(around.own.contains(&IpAddr::from([198, 51, 100, 9])));
}

/// A loop over a fake engine, with both ends of its pipe.
struct Bed {
    down: tokio::sync::mpsc::Sender<Down>,
    up: tokio::sync::mpsc::Receiver<Up>,
    role: tokio::task::JoinHandle<anyhow::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn new(fake: Fake) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let (down, rx) = tokio::sync::mpsc::channel(QUEUE_LIMIT);
        let (tx, up) = tokio::sync::mpsc::channel(QUEUE_LIMIT);
        let forwarder = Forwarder::new(
            Link { rx, tx },
            started(fake),
            Neigh::open().expect("netlink"),
            Orphanage::open(dir.path()),
            AdminFile::new(dir.path()),
            Recorder::open(None, Role::Forwarder).expect("nothing to open"),
        );
        Self { down, up, role: tokio::spawn(forwarder.run()), _dir: dir }
    }

    async fn say(&self, message: Down) {
        self.down.send(message).await.expect("the loop runs");
    }

    /// The next answer to a question, by its id.
    async fn reply(&mut self) -> (u64, Reply) {
        loop {
            let up = tokio::time::timeout(LIMIT, self.up.recv()).await.expect("no answer in time");
            if let Up::Reply { id, reply } = up.expect("the loop runs") {
                return (id, reply);
            }
        }
    }

    async fn stop(mut self) {
        self.say(Down::Stop).await;
        while let Some(up) = tokio::time::timeout(LIMIT, self.up.recv()).await.expect("no end") {
            if matches!(up, Up::Stopped) {
                break;
            }
        }
        self.role.await.expect("no panic").expect("an orderly end");
    }
}

const LIMIT: Duration = Duration::from_secs(30);
/// Slices of a pass that lasts longer than [`LIMIT`], a millisecond's pause after each.
const ENDLESS: usize = 1_000_000;

async fn until(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn a_verdict_waits_for_no_sweep() {
    let fake = Fake { slices: ENDLESS, ..Fake::default() };
    let (worked, performed_at) = (Arc::clone(&fake.worked), Arc::clone(&fake.performed_at));
    let load = |count: &AtomicUsize| count.load(Relaxed);
    let bed = Bed::new(fake);
    until("the sweep has begun", || load(&worked) > 2).await;
    bed.say(Down::Event { from: Role::Checker, event: verdict(1, Health::Down) }).await;
    until("the verdict is in the engine", || load(&performed_at) > 2).await;
    let at = load(&performed_at);
    assert!(at < ENDLESS, "the sweep was over");
    until("the sweep goes on", || load(&worked) > at).await;
    bed.stop().await;
}

/// Not even for the slices that are done without a pause when a real server has just died: others may die with it.
#[tokio::test]
async fn a_verdict_waits_for_one_slice_of_telling() {
    let fake = Fake { telling: ENDLESS, ..Fake::default() };
    let (worked, performed_at) = (Arc::clone(&fake.worked), Arc::clone(&fake.performed_at));
    let load = |count: &AtomicUsize| count.load(Relaxed);
    let bed = Bed::new(fake);
    for n in 0..20 {
        let health = if n % 2 == 0 { Health::Down } else { Health::Up };
        // In the midst of them, since a pause is followed by four.
        let at = load(&worked);
        while load(&worked) == at {
            tokio::task::yield_now().await;
        }
        let at = load(&worked);
        bed.say(Down::Event { from: Role::Checker, event: verdict(1, health) }).await;
        until("the verdict is in the engine", || load(&performed_at) >= at).await;
        let waited = load(&performed_at) - at;
        assert!(waited <= 1, "{waited} slices");
    }
    bed.stop().await;
}

#[tokio::test]
async fn listings_wait_for_each_other_and_nothing_for_them() {
    let fake = Fake { slices: ENDLESS, ..Fake::default() };
    let worked = Arc::clone(&fake.worked);
    let mut bed = Bed::new(fake);
    for id in 0..=LISTINGS as u64 {
        bed.say(Down::Query {
            id,
            query: Query::Flows { limit: 10, filter: FlowFilter::default() },
        })
        .await;
    }
    let (id, reply) = bed.reply().await;
    assert_eq!(id, LISTINGS as u64, "the one beyond the bound is answered first");
    assert!(matches!(&reply, Reply::Error(text) if text.contains("under way")), "{reply:?}");
    let before = worked.load(Relaxed);
    until("the first listing is being made", || worked.load(Relaxed) > before + 2).await;
    bed.say(Down::Query { id: 99, query: Query::Status }).await;
    let (id, reply) = bed.reply().await;
    assert!(id == 99 && matches!(reply, Reply::Forwarder(_)), "{id} {reply:?}");
    bed.stop().await;
    // Short ones are answered in their order.
    let mut bed = Bed::new(Fake { slices: 3, ..Fake::default() });
    for id in 0..3 {
        bed.say(Down::Query {
            id,
            query: Query::Flows { limit: 10, filter: FlowFilter::default() },
        })
        .await;
    }
    for wanted in 0..3 {
        let (id, reply) = bed.reply().await;
        assert!(id == wanted && matches!(reply, Reply::Flows(_)), "{id} {reply:?}");
    }
    bed.stop().await;
}

/// A file that this host cannot carry changes nothing, not even for a moment.
#[test]
fn what_is_hopeless_only_in_the_new_configuration_is_refused() {
    let mut state = started(Fake { hopeless: ["eth3".into()].into(), ..Fake::default() });
    state.surroundings(host(&[1, 2, 3, 4]), &Surroundings::default(), at(1));
    assert_eq!(interfaces(&state), ["eth1", "eth2"]);
    let before = state.engine.table.clone();
    state.offer(2, config(&[1, 3, 4]));
    assert!(state.destinations().contains(&db(3).ip()), "its way decides");
    let why = state.take(None, at(2)).expect_err("hopeless");
    assert_eq!(why, "attach to eth3");
    assert_eq!(state.engine.table, before);
    assert_eq!((state.generation, &state.config), (1, &config(&[1, 2])));
    assert!(!state.destinations().contains(&db(3).ip()));
    state.round(at(1000));
    assert_eq!(state.engine.table, before);
    assert_eq!(*state.standing(), Standing::Converged);
    assert_eq!(state.status(at(0)).expect("status").problem, None);
    // The next file is not held back by that.
    reload(&mut state, 2, config(&[1, 4]), at(3)).expect("it can be carried");
    assert_eq!(interfaces(&state), ["eth1", "eth4"]);
    assert_eq!(state.generation, 2);
}

/// Refusing would not help where the present configuration suffers the same: a way has moved.
#[test]
fn what_is_hopeless_anyway_is_said_and_the_rest_follows_the_file() {
    let mut state = started(Fake { hopeless: ["eth2".into()].into(), ..Fake::default() });
    state.surroundings(host(&[1, 2, 3]), &Surroundings::default(), at(1));
    assert!(matches!(state.standing(), Standing::Hopeless(why) if why == "attach to eth2"));
    let problem = state.status(at(0)).expect("status").problem.expect("it is said");
    assert!(problem.contains("attach to eth2"), "{problem}");
    reload(&mut state, 2, config(&[1, 2, 3]), at(2)).expect("no worse than before");
    assert_eq!(interfaces(&state), ["eth1", "eth3"]);
    assert_eq!(server(&state, 3), Some(RealServerState::Up));
    // The driver has learnt it, or the way is back.
    state.engine.hopeless.clear();
    state.round(at(1000));
    assert_eq!(*state.standing(), Standing::Converged);
    assert_eq!(state.status(at(0)).expect("status").problem, None);
}

/// VRRP alone lives unguarded on such an interface; a virtual server does not come to it.
#[test]
fn a_first_virtual_server_is_refused_where_nothing_is_to_be_had() {
    let fake = Fake { hopeless: ["eth1".into()].into(), ..Fake::default() };
    let empty = Arc::new(Config::default());
    let state = State::new(fake, empty, 1, true, Admin::default(), at(0));
    let mut state = state.expect("readable");
    state.round(at(0));
    state.surroundings(host(&[1]), &Surroundings::default(), at(1));
    reload(&mut state, 2, config(&[1]), at(2)).expect_err("hopeless");
    assert!(state.engine.table.virtual_servers.is_empty());
}

/// What does not count as attached would otherwise stay on an interface that nobody wants any more until the stop.
#[test]
fn what_is_left_on_an_interface_that_is_not_wanted_is_taken_off() {
    let fake = Fake { strays: BTreeSet::from(["eth7".to_owned()]), ..Fake::default() };
    let mut state = started(fake);
    let detach = Operation::Detach { interface: "eth7".to_owned() };
    let times =
        |state: &State<Fake>| state.engine.performed.iter().filter(|it| **it == detach).count();
    assert_eq!(times(&state), 1);
    state.round(at(1000));
    assert_eq!(times(&state), 1, "it is gone");
    // One that cannot be taken off is tried again.
    state.engine.strays.insert("eth7".to_owned());
    state.engine.failures.push_back(Some("no".to_owned()));
    state.round(at(2000));
    assert!(matches!(state.standing(), Standing::Trying(_)), "{:?}", state.standing());
    state.round(at(3000));
    assert_eq!((times(&state), state.standing()), (2, &Standing::Converged));
}
