//! Who becomes master, when, and in which order it acts.

use super::*;

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
            "3610:probe",
            "3610:add",
            "3610:notify MASTER",
            "3610:garp 5",
            "3612:advert 100",
            "3612:lease 6602",
            "4610:advert 100",
            "4610:lease 7600",
        ],
    );
    bench.run_to(8610);
    assert_eq!(bench.did().iter().filter(|word| word.ends_with("garp 5")).count(), 1);
}

/// What a predecessor left is not its own yet: another lbd may have put it there. The forwarder knows by the file
/// of this one's run directory.
#[test]
fn a_stop_before_the_start_is_over_touches_nothing() {
    let mut bench = Bench::new(config(100));
    bench.input(Input::Stop);
    assert_eq!(bench.did(), ["0:notify STOP", "0:stopped"]);
    assert!(!bench.router.has_cleared());
    let mut bench = Bench::new(config(100));
    bench.input(Input::Source(Some(OWN.into())));
    bench.input(Input::Converged { resume: None });
    bench.input(Input::Stop);
    assert!(bench.router.has_cleared());
}

/// Without a fence they answer beside the master's for as long as a start is delayed.
#[test]
fn without_a_fence_leftovers_do_not_wait_for_a_delayed_start() {
    let mut bench = Bench::new(config(100));
    bench.input(Input::Fence(true));
    assert!(bench.did().is_empty(), "a lease may still run");
    bench.input(Input::Fence(false));
    assert_eq!(bench.did(), ["0:fence", "0:remove", "0:standby"]);
    bench.input(Input::Fence(false));
    bench.run_to(60_000);
    bench.input(Input::Converged { resume: None });
    let did = bench.did();
    assert!(!did.iter().any(|word| word.ends_with("remove")), "once: {did:?}");
}

#[test]
fn start_fences_and_clears_leftovers_before_anything_else() {
    let mut bench = Bench::new(config(255));
    bench.input(Input::Source(Some(OWN.into())));
    bench.run_to(20_000);
    assert!(bench.did().is_empty(), "no advert before convergence");
    bench.input(Input::Converged { resume: None });
    let did = bench.did();
    let order = ["fence", "remove", "standby", "advert 255", "lease 22990", "probe", "add"];
    let want: Vec<_> = order.iter().map(|word| format!("20000:{word}")).collect();
    assert_eq!(did[..7], want);
}

/// The election's timer runs while the data plane is being made; only the takeover waits for it.
#[test]
fn silence_before_convergence_counts_towards_the_wait() {
    // Converged at, and what is heard when before; the first advert at 610 ms of skew + 3 s.
    let rows = [
        (0_u64, None, 3610_u64),
        (3000, None, 3610),
        (3700, None, 3700),
        (20_000, None, 20_000),
        // Whoever is heard has all of its time to be heard again.
        (2000, Some((200_u8, 1000_u64)), 5610),
        (2000, Some((0, 1000)), 5610),
    ];
    for (converged, heard, wanted) in rows {
        let mut bench = Bench::new(config(100));
        bench.input(Input::Source(Some(OWN.into())));
        bench.input(Input::Interface { name: "eth0".into(), up: true });
        bench.input(Input::Listen);
        if let Some((priority, at)) = heard {
            bench.run_to(at);
            bench.hears(HIGH, priority);
        }
        bench.run_to(converged);
        assert!(bench.did().is_empty(), "no advert before convergence");
        bench.input(Input::Converged { resume: None });
        bench.run_to(wanted.max(1) - 1);
        let early = bench.did();
        assert!(!early.iter().any(|word| word.contains("advert")), "{converged}: {early:?}");
        bench.run_to(wanted + 1);
        let did = bench.did();
        let first = early.iter().chain(&did).find(|word| word.contains("advert"));
        assert_eq!(first, Some(&format!("{wanted}:advert 100")), "{converged} {heard:?}");
        assert_eq!(bench.router.counters().late_timers, 0, "{converged}");
    }
    // What is tracked has to be known, and good, for the wait to begin; and so has the source.
    let scripts = vec![Tracked { name: "chk".into(), weight: 0, reverse: false }];
    let mut bench = Bench::new(Config { scripts, ..config(100) });
    bench.input(Input::Listen);
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    bench.run_to(500);
    bench.input(Input::Source(Some(OWN.into())));
    bench.run_to(1000);
    bench.input(Input::Script { name: "chk".into(), verdict: Verdict::Good });
    bench.run_to(1500);
    bench.input(Input::Interface { name: "eth0".into(), up: false });
    bench.run_to(2000);
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    bench.run_to(5000);
    bench.input(Input::Converged { resume: None });
    bench.run_to(5609);
    assert_eq!(bench.router.state(), VrrpState::Backup);
    bench.run_to(5611);
    assert_eq!(bench.router.state(), VrrpState::Master);
    // Nobody says that adverts are heard: the wait begins with the data plane.
    let mut bench = Bench::new(config(100));
    bench.input(Input::Source(Some(OWN.into())));
    bench.run_to(20_000);
    bench.input(Input::Converged { resume: None });
    bench.run_to(23_609);
    assert_eq!(bench.router.state(), VrrpState::Backup);
}

/// What was quiet before a resumed lease is no silence of the wait after it (simulation, seed 99899).
#[test]
fn a_resumed_master_that_recovers_from_a_fault_waits_in_full() {
    let mut bench = Bench::new(config(100));
    bench.input(Input::Source(Some(OWN.into())));
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    bench.input(Input::Listen);
    bench.input(Input::Converged { resume: Some(at(2900)) });
    bench.run_to(5000);
    assert_eq!(bench.router.state(), VrrpState::Master);
    bench.input(Input::Interface { name: "eth0".into(), up: false });
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    bench.run_to(8609);
    assert_eq!(bench.router.state(), VrrpState::Backup);
    bench.run_to(8611);
    assert_eq!(bench.router.state(), VrrpState::Master);
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
            "3620:probe",
            "3630:lease 6610",
            "3630:probe",
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
    let order = ["fence", "advert 0", "remove", "notify STOP", "standby", "stopped"];
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
    assert_eq!(did[..3], ["5000:fence", "5000:advert 0", "5000:remove"]);
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

// FSM-07: an owner is a backup where a reload has made it one.
#[test]
fn an_owner_that_is_backup_preempts_where_preemption_is_off() {
    for (priority, want) in [(254, VrrpState::Backup), (255, VrrpState::Master)] {
        let mut bench = Bench::backup(Config { preempt: false, ..config(100) });
        bench.hears(HIGH, 50);
        bench.input(Input::Configure(Box::new(Config { preempt: false, ..config(priority) })));
        assert_eq!(bench.router.state(), VrrpState::Backup);
        for half_second in 1..=20 {
            bench.run_to(half_second * 500);
            if bench.router.state() == VrrpState::Backup {
                bench.hears(HIGH, 50);
            }
        }
        assert_eq!(bench.router.state(), want, "priority {priority}");
    }
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
            // An answer to one that calls itself master comes twice, should the first be lost.
            let repeated = usize::from(priority != 0);
            assert_eq!(bench.adverts(), repeated, "the period starts again");
            bench.run_to(6000);
            assert_eq!(bench.adverts(), repeated + 1);
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
    bench.router.handle(advert_from(&slow, HIGH, 150), at(1000));
    // Two masters are to be expected, so it is an error, and says why.
    let told = std::iter::from_fn(|| bench.router.poll_effect()).find_map(|effect| match effect {
        Effect::Log { level, text } => Some((level, text)),
        _ => None,
    });
    let text = "advert discarded: from 10.77.0.10: advert_int 2 s, ours is 1 s: both routers may become \
                master until they agree (interval_mismatch, 1 so far)";
    assert_eq!(told, Some((Level::Error, text.to_owned())));
    bench.run_to(3610);
    assert_eq!(bench.router.state(), VrrpState::Master, "v2: dropped, the timer runs on");
    assert_eq!(bench.router.counters().discarded.get("interval_mismatch"), Some(&1));
}
