use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::{
    base::net::Vrid,
    vrrp::{
        auth::Auth,
        track::{Tracked, Verdict},
        wire::{GROUP, Version},
    },
};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const LOW: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const HIGH: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

fn at(millis: u64) -> Instant {
    Instant::from_nanos(1_000_000_000_000 + millis * 1_000_000)
}

pub(super) fn config(priority: u8) -> Config {
    Config {
        version: Version::V2,
        vrid: Vrid::new(51).expect("nonzero"),
        priority: Priority(priority),
        interval: AdvertInterval::DEFAULT,
        auth: Auth::None,
        preempt: true,
        preempt_delay: Duration::ZERO,
        addresses: vec![VIP.into()],
        unicast_peers: vec![],
        garp_repeat: 5,
        garp_delay: Duration::from_secs(5),
        scripts: vec![],
        interfaces: vec![Tracked { name: "eth0".into(), weight: 0, reverse: false }],
    }
}

fn advert_from(config: &Config, source: Ipv4Addr, priority: u8) -> Input {
    let router = Router::new(config.clone(), at(0));
    let destination = if config.unicast_peers.is_empty() { GROUP } else { OWN };
    let advert = router.advert(Priority(priority));
    Input::Datagram(advert.datagram_v4(source, destination, ChecksumForm::PseudoHeader, 1))
}

/// A router with a shell around it that sends, adds and removes at once.
struct Bench {
    router: Router,
    now: u64,
    /// What it did, in words.
    done: Vec<String>,
    send_fails: bool,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self { router: Router::new(config, at(0)), now: 0, done: vec![], send_fails: false }
    }

    /// In BACKUP at 0.
    fn backup(config: Config) -> Self {
        let mut bench = Self::new(config);
        bench.input(Input::Source(Some(OWN.into())));
        bench.input(Input::Interface { name: "eth0".into(), up: true });
        bench.input(Input::Converged { resume: None });
        bench.done.clear();
        bench
    }

    fn master(config: Config) -> Self {
        let mut bench = Self::backup(config);
        bench.run_to(5000);
        assert_eq!(bench.router.state(), VrrpState::Master);
        bench.done.clear();
        bench
    }

    fn input(&mut self, input: Input) {
        self.router.handle(input, at(self.now));
        self.drain();
    }

    fn hears(&mut self, source: Ipv4Addr, priority: u8) {
        let input = advert_from(self.router.config(), source, priority);
        self.input(input);
    }

    fn drain(&mut self) {
        while let Some(effect) = self.router.poll_effect() {
            let now = at(self.now);
            let word = match effect {
                Effect::SendAdvert { priority } => {
                    let answer = if self.send_fails {
                        Input::AdvertFailed { error: "no route".into() }
                    } else {
                        Input::AdvertSent { at: now }
                    };
                    self.done.push(format!("{}:advert {priority}", self.now));
                    self.router.handle(answer, now);
                    continue;
                }
                Effect::Lease(LeaseState::Standby) => "standby".into(),
                Effect::Lease(LeaseState::Until(Instant::ZERO)) => "fence".into(),
                Effect::Lease(LeaseState::Until(end)) => {
                    format!("lease {}", end.saturating_since(at(0)).as_millis())
                }
                Effect::AddVips => {
                    self.done.push(format!("{}:add", self.now));
                    self.router.handle(Input::VipsSet { added: 1 }, now);
                    continue;
                }
                Effect::RemoveVips => {
                    self.done.push(format!("{}:remove", self.now));
                    self.router.handle(Input::VipsCleared, now);
                    continue;
                }
                Effect::Garp { repeat } => format!("garp {repeat}"),
                Effect::Notify(Notify::State(state)) => format!("notify {}", state.name()),
                Effect::Notify(Notify::Stop) => "notify STOP".into(),
                Effect::Stopped => "stopped".into(),
                Effect::Changed | Effect::Log { .. } => continue,
            };
            self.done.push(format!("{}:{word}", self.now));
        }
    }

    /// Fires every timer up to and at `end`.
    fn run_to(&mut self, end: u64) {
        while let Some(due) = self.router.poll_timeout().filter(|due| *due <= at(end)) {
            let nanos = due.saturating_since(at(0)).as_nanos();
            self.now = self.now.max(u64::try_from(nanos.div_ceil(1_000_000)).expect("small"));
            self.router.handle_timeout(at(self.now));
            self.drain();
        }
        self.now = end;
        self.router.handle_timeout(at(end));
        self.drain();
    }

    fn did(&mut self) -> Vec<String> {
        std::mem::take(&mut self.done)
    }

    fn adverts(&self) -> usize {
        self.done.iter().filter(|word| word.contains("advert")).count()
    }
}

#[test]
fn silence_makes_a_master_in_the_stated_order() {
    let mut bench = Bench::backup(config(100));
    bench.run_to(3609);
    assert!(bench.did().is_empty(), "609.375 ms of skew");
    bench.run_to(4610);
    assert_eq!(
        bench.did(),
        [
            "3610:advert 100",
            "3610:lease 6600",
            "3610:add",
            "3610:notify MASTER",
            "3610:garp 5",
            "4610:advert 100",
            "4610:lease 7600",
        ],
    );
    bench.run_to(8610);
    assert_eq!(bench.did().iter().filter(|word| word.ends_with("garp 5")).count(), 1);
}

#[test]
fn start_fences_and_clears_leftovers_before_anything_else() {
    let mut bench = Bench::new(config(255));
    bench.input(Input::Source(Some(OWN.into())));
    bench.run_to(20_000);
    assert!(bench.did().is_empty(), "no advert before convergence");
    bench.input(Input::Converged { resume: None });
    let did = bench.did();
    let order = ["fence", "remove", "standby", "advert 255", "lease 22990", "add", "notify MASTER"];
    let want: Vec<_> = order.iter().map(|word| format!("20000:{word}")).collect();
    assert_eq!(did[..7], want);
}

#[test]
fn a_running_lease_is_resumed_without_flap_or_notify() {
    let mut bench = Bench::new(config(100));
    bench.input(Input::Source(Some(OWN.into())));
    bench.router.handle(Input::Converged { resume: Some(at(1500)) }, at(0));
    let mut effects = vec![];
    while let Some(effect) = bench.router.poll_effect() {
        match effect {
            Effect::SendAdvert { .. } => {
                bench.router.handle(Input::AdvertSent { at: at(0) }, at(0));
                effects.push("advert");
            }
            Effect::AddVips => {
                bench.router.handle(Input::VipsSet { added: 0 }, at(0));
                effects.push("add");
            }
            Effect::Lease(LeaseState::Until(end)) => {
                assert_eq!(end, at(2990));
                effects.push("lease");
            }
            Effect::Changed | Effect::Log { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(effects, ["advert", "lease", "add"]);
    assert_eq!(bench.router.state(), VrrpState::Master);

    let mut late = Bench::new(config(100));
    late.input(Input::Source(Some(OWN.into())));
    late.now = 1500;
    late.input(Input::Converged { resume: Some(at(1500)) });
    assert_eq!(late.router.state(), VrrpState::Backup, "a lease that has run out is not resumed");
    assert_eq!(late.did(), ["1500:fence", "1500:remove", "1500:standby", "1500:notify BACKUP"]);
}

#[test]
fn preempting_a_live_master_waits_for_it() {
    let mut bench = Bench::backup(config(100));
    for step in 1..=5 {
        bench.run_to(step * 700);
        bench.hears(HIGH, 50);
    }
    bench.did();
    bench.run_to(3700);
    assert_eq!(
        bench.did(),
        [
            "3610:advert 100",
            "3620:advert 100",
            "3630:lease 6610",
            "3630:add",
            "3630:notify MASTER",
            "3630:garp 5",
        ],
        "hand-over guard of 20 ms with a second advert in its middle",
    );
}

#[test]
fn step_down_and_stop_give_back_in_order() {
    let mut bench = Bench::master(config(100));
    bench.hears(LOW, 150);
    let order = ["fence", "remove", "notify BACKUP", "standby"];
    assert_eq!(bench.did(), order.map(|word| format!("5000:{word}")), "no farewell when yielding");

    let mut bench = Bench::master(config(100));
    bench.input(Input::Stop);
    let order = ["advert 0", "fence", "remove", "notify STOP", "standby", "stopped"];
    assert_eq!(bench.did(), order.map(|word| format!("5000:{word}")));

    let mut bench = Bench::backup(config(100));
    bench.input(Input::Stop);
    assert_eq!(bench.did(), ["0:notify STOP", "0:stopped"], "a backup leaves silently");
}

#[test]
fn interface_down_is_fault_with_farewell_and_recovery_is_backup() {
    let mut bench = Bench::master(config(255));
    bench.input(Input::Interface { name: "eth0".into(), up: false });
    let did = bench.did();
    assert_eq!(did[..3], ["5000:advert 0", "5000:fence", "5000:remove"]);
    assert_eq!(bench.router.state(), VrrpState::Fault);
    assert!(bench.router.reason().contains("interface eth0 is down"));
    let mut bench = Bench::master(config(100));
    bench.input(Input::Interface { name: "eth0".into(), up: false });
    bench.run_to(60_000);
    bench.did();
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    assert_eq!(bench.did(), ["60000:notify BACKUP"]);
    bench.run_to(63_609);
    assert!(bench.did().is_empty(), "a full master-down time");
    bench.run_to(63_610);
    assert_eq!(bench.router.state(), VrrpState::Master);
}

/// The tutorial's table: what a returning host of higher priority does.
#[test]
fn election_follows_priority_unless_nopreempt() {
    // preempt, own, theirs → own state after 20 s of theirs as master
    let rows = [
        (true, 100, 50, VrrpState::Master),
        (true, 50, 100, VrrpState::Backup),
        (false, 100, 50, VrrpState::Backup),
        (false, 50, 100, VrrpState::Backup),
        (true, 100, 100, VrrpState::Backup),
        (false, 255, 50, VrrpState::Master),
    ];
    for (preempt, own, theirs, want) in rows {
        let mut bench = Bench::new(Config { preempt, ..config(own) });
        bench.input(Input::Source(Some(OWN.into())));
        bench.hears(HIGH, theirs);
        bench.input(Input::Converged { resume: None });
        for step in 1..=20 {
            bench.run_to(step * 1000);
            if bench.router.state() != VrrpState::Master {
                bench.hears(HIGH, theirs);
            }
        }
        assert_eq!(bench.router.state(), want, "preempt {preempt}, {own} against {theirs}");
    }
    let mut bench = Bench::backup(Config { preempt: false, ..config(100) });
    bench.hears(HIGH, 50);
    bench.run_to(3700);
    assert_eq!(bench.router.state(), VrrpState::Master, "nopreempt still takes over on silence");
}

#[test]
fn preempt_delay_holds_back_and_then_preempts() {
    let mut bench = Bench::backup(Config { preempt_delay: Duration::from_secs(10), ..config(100) });
    let mut became = None;
    for step in 1..=40 {
        bench.run_to(step * 500);
        if bench.router.state() == VrrpState::Master {
            became = Some(bench.now);
            break;
        }
        bench.hears(HIGH, 50);
    }
    // Last accepted advert at 10.0 s, then master-down.
    assert_eq!(became, Some(14_000));
}

#[test]
fn backup_table() {
    // priority heard, preempt → milliseconds until takeover after an advert heard at 1000
    let rows = [
        (150, true, 4610),
        (100, true, 4610),
        (99, true, 4000),
        (99, false, 4610),
        (0, true, 1610),
        (0, false, 1610),
    ];
    for (priority, preempt, want) in rows {
        let mut bench = Bench::backup(Config { preempt, ..config(100) });
        bench.run_to(1000);
        bench.hears(HIGH, priority);
        bench.run_to(want - 1);
        // A preempting router is still in its guard when the other was heard lately.
        assert_eq!(bench.router.state(), VrrpState::Backup, "{priority} {preempt} early");
        bench.run_to(want);
        assert_eq!(bench.router.state(), VrrpState::Master, "{priority} {preempt} late");
    }
}

#[test]
fn master_table() {
    // source, priority → yields, answers at once
    let rows = [
        (HIGH, 150, true, false),
        (LOW, 150, true, false),
        (HIGH, 100, true, false),
        (LOW, 100, false, true),
        (HIGH, 99, false, true),
        (HIGH, 0, false, true),
        (OWN, 150, false, false),
    ];
    for (source, priority, yields, answers) in rows {
        let mut bench = Bench::master(config(100));
        bench.hears(source, priority);
        let state = if yields { VrrpState::Backup } else { VrrpState::Master };
        assert_eq!(bench.router.state(), state, "{source} {priority}");
        assert_eq!(bench.adverts() == 1, answers, "{source} {priority} {:?}", bench.done);
        if answers {
            bench.did();
            bench.run_to(5999);
            assert_eq!(bench.adverts(), 0, "the period starts again");
            bench.run_to(6000);
            assert_eq!(bench.adverts(), 1);
        }
    }
    // Addresses compare as numbers, not as text: 10.77.0.10 > 10.77.0.2.
    assert!(HIGH > OWN);
}

#[test]
fn two_owners_resolve_by_address() {
    let mut bench = Bench::master(config(255));
    bench.hears(LOW, 255);
    assert_eq!(bench.router.state(), VrrpState::Master);
    bench.hears(HIGH, 255);
    assert_eq!(bench.router.state(), VrrpState::Backup);
}

#[test]
fn v3_learns_the_interval_and_v2_refuses_another() {
    let v3 = |interval| Config {
        version: Version::V3,
        interval: AdvertInterval::from_centis(interval).expect("in range"),
        ..config(100)
    };
    let mut bench = Bench::backup(v3(100));
    let theirs = advert_from(&v3(10), HIGH, 150);
    bench.input(theirs.clone());
    bench.run_to(360);
    assert_eq!(bench.adverts(), 0);
    bench.run_to(1500);
    let did = bench.did();
    assert_eq!(did[0], "361:advert 100", "3 × 0.1 s + skew of 0.1 s");
    assert!(did.contains(&"1361:advert 100".into()), "our own interval as master: {did:?}");
    bench.input(theirs);
    assert_eq!(bench.router.state(), VrrpState::Backup);
    bench.did();
    bench.run_to(1500 + 361);
    assert_eq!(bench.adverts(), 1, "a master that yields learns as well");

    let slow = Config { interval: AdvertInterval::from_seconds(2).expect("two"), ..config(100) };
    let mut bench = Bench::backup(config(100));
    bench.run_to(1000);
    bench.input(advert_from(&slow, HIGH, 150));
    bench.run_to(3610);
    assert_eq!(bench.router.state(), VrrpState::Master, "v2: dropped, the timer runs on");
    assert_eq!(bench.router.counters().discarded.get("interval_mismatch"), Some(&1));
}

/// Datagrams of our VRID that each fail another check.
fn bad_datagrams() -> Vec<Vec<u8>> {
    let good = |config: &Config, source, priority| match advert_from(config, source, priority) {
        Input::Datagram(bytes) => bytes,
        _ => unreachable!("advert_from makes datagrams"),
    };
    let base = good(&config(100), HIGH, 200);
    let mut bad = vec![
        good(&Config { version: Version::V3, ..config(100) }, HIGH, 200),
        good(&Config { auth: Auth::Pass(*b"wrong\0\0\0"), ..config(100) }, HIGH, 200),
        good(
            &Config { interval: AdvertInterval::from_seconds(2).expect("two"), ..config(1) },
            HIGH,
            0,
        ),
        good(&Config { addresses: vec![], ..config(100) }, HIGH, 200),
        good(&config(100), OWN, 200),
        good(&config(100), OWN, 0),
        base[..30].to_vec(),
        vec![],
    ];
    for at in [8, 26, 0] {
        let mut bytes = base.clone();
        bytes[at] ^= 1;
        bad.push(bytes);
    }
    bad
}

#[test]
fn a_storm_of_bad_packets_changes_nothing() {
    let storm = |mut bench: Bench, end: u64, with: bool| {
        let bad = bad_datagrams();
        let start = bench.now;
        for now in (start..end).step_by(7) {
            bench.run_to(now);
            for bytes in bad.iter().filter(|_| with) {
                bench.input(Input::Datagram(bytes.clone()));
            }
        }
        let state = (bench.router.state(), bench.router.poll_timeout(), bench.router.peer());
        (bench.did(), state)
    };
    for make in [Bench::backup, Bench::master] {
        let quiet = storm(make(config(100)), 12_000, false);
        let loud = storm(make(config(100)), 12_000, true);
        assert_eq!(quiet, loud);
    }
    let mut bench = Bench::backup(config(100));
    let mut logs = 0;
    for _ in 0..1000 {
        bench.router.handle(Input::Datagram(vec![0x45; 10]), at(0));
        while let Some(effect) = bench.router.poll_effect() {
            logs += usize::from(matches!(effect, Effect::Log { .. }));
        }
    }
    assert_eq!(bench.router.counters().discarded.get("ip_truncated"), Some(&1000));
    assert_eq!(logs, 1, "a thousand bad packets, one line");
}

#[test]
fn failed_adverts_neither_take_over_nor_renew() {
    let mut bench = Bench::backup(config(100));
    bench.send_fails = true;
    bench.run_to(6000);
    assert_eq!(bench.did(), ["3610:advert 100", "4610:advert 100", "5610:advert 100"]);
    assert_eq!(bench.router.state(), VrrpState::Backup);
    assert!(bench.router.reason().contains("no route"));
    bench.send_fails = false;
    bench.run_to(6610);
    assert_eq!(bench.did()[..3], ["6610:advert 100", "6610:lease 9600", "6610:add"]);
    bench.send_fails = true;
    bench.run_to(9600);
    assert!(bench.did().iter().all(|word| !word.contains("lease")));
    assert_eq!(bench.router.lease_end(), Some(at(9600)));
    bench.send_fails = false;
    bench.run_to(9700);
    let did = bench.did();
    assert!(did.contains(&"9610:advert 100".into()), "{did:?}");
    assert!(did.contains(&"9630:lease 12610".into()), "forwards again after the guard: {did:?}");
}

#[test]
fn a_stalled_master_hands_over_again_before_it_forwards() {
    let mut bench = Bench::master(config(100));
    // Stopped for ten seconds; the peer has taken over, its adverts are read first.
    bench.now = 15_000;
    bench.hears(HIGH, 50);
    bench.run_to(15_100);
    let did = bench.did();
    assert_eq!(did[0], "15000:advert 100", "answered at once");
    let forwards = |word: &&String| word.contains("lease") || word.contains("garp");
    assert_eq!(did.iter().find(forwards).map(String::as_str), Some("15020:lease 18000"), "{did:?}");
    assert!(!did.iter().any(|word| word.contains("notify")), "scripts know MASTER: {did:?}");
    let adverts = bench.adverts();
    assert!(adverts <= 2, "no burst of missed adverts");
}

#[test]
fn weights_change_priority_and_timer() {
    let weighted = Config {
        scripts: vec![Tracked { name: "chk".into(), weight: -60, reverse: false }],
        ..config(100)
    };
    let bad = Input::Script { name: "chk".into(), verdict: Verdict::Bad };
    let good = Input::Script { name: "chk".into(), verdict: Verdict::Good };
    let mut bench = Bench::backup(weighted);
    bench.run_to(1000);
    bench.input(bad);
    assert_eq!(bench.router.effective_priority(), Priority(40));
    bench.run_to(3843);
    assert_eq!(bench.adverts(), 0, "3 s + 216/256 s from the start of the timer");
    bench.run_to(3844);
    assert_eq!(bench.did()[0], "3844:advert 40");
    bench.input(good);
    bench.run_to(4844);
    assert!(bench.did().contains(&"4844:advert 100".into()));
}

#[test]
fn unweighted_script_holds_init_and_means_fault() {
    let tracked = Config {
        scripts: vec![Tracked { name: "chk".into(), weight: 0, reverse: false }],
        ..config(100)
    };
    let verdict = |verdict| Input::Script { name: "chk".into(), verdict };
    let mut bench = Bench::backup(tracked);
    bench.run_to(30_000);
    assert_eq!(bench.router.state(), VrrpState::Init);
    assert!(bench.router.reason().contains("script chk"), "{}", bench.router.reason());
    bench.input(verdict(Verdict::Bad));
    assert_eq!(bench.router.state(), VrrpState::Fault);
    bench.input(verdict(Verdict::Good));
    assert_eq!(bench.router.state(), VrrpState::Backup);
    bench.run_to(34_000);
    bench.did();
    bench.input(verdict(Verdict::Bad));
    assert_eq!(bench.did()[0], "34000:advert 0");
}

#[test]
fn reload_keeps_state_and_follows_the_new_priority() {
    let mut bench = Bench::master(config(100));
    bench.input(Input::Configure(Box::new(config(90))));
    assert_eq!(bench.router.state(), VrrpState::Master);
    assert!(bench.did().iter().all(|word| !word.contains("remove") && !word.contains("notify")));
    bench.run_to(6000);
    assert!(bench.did().contains(&"5610:advert 90".into()));
    let more = Config { addresses: vec![VIP.into(), LOW.into()], ..config(90) };
    bench.input(Input::Configure(Box::new(more)));
    assert!(bench.did().contains(&"6000:add".into()), "an added VIP without a flap");
}

#[test]
fn a_stolen_vip_is_put_back_at_a_bounded_rate() {
    let mut bench = Bench::master(config(100));
    for _ in 0..100 {
        bench.input(Input::VipLost { address: VIP.into() });
    }
    bench.run_to(6500);
    assert_eq!(bench.did().iter().filter(|word| word.ends_with(":add")).count(), 2);
}

#[test]
fn a_storm_of_losing_adverts_is_answered_at_a_bounded_rate() {
    let mut bench = Bench::master(config(100));
    for _ in 0..10_000 {
        bench.hears(HIGH, 50);
    }
    assert_eq!(bench.adverts(), 1);
    bench.now += 10;
    bench.hears(HIGH, 50);
    assert_eq!(bench.adverts(), 2);
}

#[test]
fn a_foreign_farewell_does_not_hurry_while_the_master_lives() {
    let mut bench = Bench::backup(config(100));
    bench.hears(HIGH, 150);
    bench.run_to(500);
    bench.hears(LOW, 0);
    bench.run_to(3000);
    assert_eq!(bench.adverts(), 0);
    bench.hears(HIGH, 0);
    bench.run_to(3610);
    assert_eq!(bench.adverts(), 1, "the master's own farewell does");
}

#[test]
fn old_unicast_checksum_is_answered_in_kind() {
    let unicast = Config { version: Version::V3, unicast_peers: vec![HIGH.into()], ..config(100) };
    let mut bench = Bench::backup(unicast.clone());
    assert_eq!(bench.router.checksum_form(HIGH.into()), ChecksumForm::PseudoHeader);
    let advert = Router::new(unicast, at(0)).advert(Priority(150));
    let bytes = advert.datagram_v4(HIGH, OWN, ChecksumForm::GroupPseudoHeader, 1);
    bench.input(Input::Datagram(bytes));
    assert_eq!(bench.router.checksum_form(HIGH.into()), ChecksumForm::GroupPseudoHeader);
    assert_eq!(bench.router.checksum_form(LOW.into()), ChecksumForm::PseudoHeader);
}

fn any_input() -> impl Strategy<Value = Input> {
    let heard = (0u8..=255, prop::sample::select(vec![LOW, HIGH, OWN]), any::<bool>());
    prop_oneof![
        8 => heard.prop_map(|(priority, source, v3)| {
            let version = if v3 { Version::V3 } else { Version::V2 };
            advert_from(&Config { version, ..config(100) }, source, priority)
        }),
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Input::Datagram),
        1 => (0u64..9000).prop_map(|end| Input::Converged { resume: Some(at(end)) }),
        1 => Just(Input::Converged { resume: None }),
        1 => any::<bool>().prop_map(|it| Input::Source(it.then_some(OWN.into()))),
        2 => any::<bool>().prop_map(|up| Input::Interface { name: "eth0".into(), up }),
        2 => (0u8..4).prop_map(|it| Input::Script {
            name: "chk".into(),
            verdict: [Verdict::Pending, Verdict::Good, Verdict::Bad, Verdict::Ignored][usize::from(it)],
        }),
        1 => Just(Input::VipLost { address: VIP.into() }),
        1 => (1u8..=255).prop_map(|priority| Input::Configure(Box::new(config(priority)))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever happens: VIPs are on exactly while a lease was given and not fenced; every lease
    /// rests on an advert that left at most three intervals before; after a stop nothing is left.
    #[test]
    fn invariants_hold(ops in prop::collection::vec((any_input(), 0u64..2500, any::<bool>()), 1..80)) {
        let scripts = vec![Tracked { name: "chk".into(), weight: 0, reverse: false }];
        let mut bench = Bench::new(Config { scripts, ..config(100) });
        for (input, wait, fails) in ops {
            bench.send_fails = fails;
            bench.input(input);
            bench.run_to(bench.now + wait);
        }
        bench.send_fails = false;
        bench.input(Input::Stop);
        let (mut vips, mut leased, mut last_advert) = (None, false, None);
        for word in &bench.done {
            let (time, word) = word.split_once(':').expect("time");
            let time: u64 = time.parse().expect("number");
            match word.split_once(' ').unwrap_or((word, "")) {
                ("advert", _) => last_advert = Some(time),
                ("lease", end) => {
                    let end: u64 = end.parse().expect("number");
                    let sent = last_advert.expect("an advert before any lease");
                    prop_assert!(end <= sent + 2990, "lease {end} rests on {sent}");
                    leased = true;
                }
                ("fence", _) => leased = false,
                ("standby", _) => prop_assert_eq!(vips, Some(false), "VIPs are off before standby"),
                ("add", _) => {
                    prop_assert!(leased, "VIPs only under a lease");
                    vips = Some(true);
                }
                ("remove", _) => {
                    prop_assert!(!leased, "fenced before VIPs go");
                    vips = Some(false);
                }
                _ => {}
            }
        }
        prop_assert_ne!(vips, Some(true));
        prop_assert_eq!(bench.done.last().map(|word| word.ends_with("stopped")), Some(true));
        prop_assert_eq!(bench.router.poll_timeout(), None);
        prop_assert_eq!(bench.router.lease_end(), None);
    }
}
