//! Bad packets, failing sends, stalls, tracked objects, reloads, foreign claims.

use super::*;

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
    assert_eq!(bench.did()[..3], ["6610:advert 100", "6610:lease 9600", "6610:probe"]);
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

// TMR-08: with a lease that still runs, and with one that has run out; nobody else is there.
#[test]
fn after_a_stall_one_advert_is_sent_and_not_those_that_were_missed() {
    for (wakes, end) in [(7500, 8499), (15_000, 15_999)] {
        let mut bench = Bench::master(config(100));
        bench.now = wakes;
        bench.run_to(wakes);
        assert_eq!(bench.adverts(), 1, "{wakes}: {:?}", bench.did());
        bench.did();
        bench.run_to(end);
        // One whose lease had run out is in its guard, which repeats the advert once.
        let did = bench.did();
        let sent = did.iter().filter(|word| word.contains("advert")).count();
        assert_eq!(sent, usize::from(wakes == 15_000), "{wakes}: {did:?}");
        bench.run_to(end + 1);
        assert_eq!(bench.adverts(), 1, "{wakes}: the next after an interval");
    }
}

// UNI
#[test]
fn unicast_fault_no_peer_waits_in_fault_for_a_peer() {
    let wire = Options { fault_without_peers: true, ..Options::default() };
    let mut bench = Bench::new(Config { wire: wire.clone(), ..config(100) });
    bench.input(Input::Source(Some(OWN.into())));
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    bench.input(Input::Converged { resume: None });
    bench.run_to(10_000);
    assert_eq!((bench.router.state(), bench.adverts()), (VrrpState::Fault, 0));
    assert!(bench.router.reason().contains("there is no unicast_peer"), "told");
    let peered = Config { wire, unicast_peers: vec![HIGH.into()], ..config(100) };
    bench.input(Input::Configure(Box::new(peered)));
    assert_eq!(bench.router.state(), VrrpState::Backup);
    bench.run_to(14_000);
    assert_eq!(bench.router.state(), VrrpState::Master);
}

/// Fires the timer that is next so many milliseconds late; what it logs of that.
fn fires_late(bench: &mut Bench, late: u64) -> Vec<String> {
    let due = bench.router.poll_timeout().expect("a timer");
    let due = u64::try_from(due.saturating_since(at(0)).as_nanos().div_ceil(1_000_000));
    bench.now = due.expect("small") + late;
    bench.router.handle_timeout(at(bench.now));
    let mut told = vec![];
    while let Some(effect) = bench.router.poll_effect() {
        match effect {
            Effect::Log { text, .. } if text.contains("late") => told.push(text),
            Effect::SendAdvert { .. } => {
                bench.router.handle(Input::AdvertSent { at: at(bench.now) }, at(bench.now));
            }
            _ => {}
        }
    }
    told
}

// TMR-08
#[test]
fn a_late_timer_is_counted_by_how_late_it_is_and_told_at_a_bounded_rate() {
    let interval = AdvertInterval::from_centis(10).expect("in range");
    let hundred = Config { version: Version::V3, interval, ..config(100) };
    let garp = Garp { delay: Duration::ZERO, ..Garp::default() };
    let mut bench = Bench::backup(Config { garp, ..hundred });
    // A backup's wait is for the master's interval: 100 ms here as well.
    let told = fires_late(&mut bench, 51);
    assert!(told[0].starts_with("the master-down timer fired 51"), "{told:?}");
    let down = bench.router.lateness().master_down.status();
    assert_eq!((down.late_us[&200_000], down.late_us.values().sum::<u64>()), (1, 1));
    bench.run_to(bench.now + 150);
    let before = bench.router.counters().late_timers;
    let sum = |bench: &Bench| bench.router.lateness().advert.status().late_us.values().sum::<u64>();
    let fired = sum(&bench);
    assert_eq!(fires_late(&mut bench, 9), [""; 0]);
    assert_eq!(bench.router.counters().late_timers, before, "within a tenth");
    assert_eq!(fires_late(&mut bench, 11), [""; 0]);
    assert_eq!(bench.router.counters().late_timers, before + 1);
    for late in [60, 70] {
        assert_eq!(fires_late(&mut bench, late), [""; 0], "told ten seconds ago at the least");
    }
    assert_eq!(sum(&bench), fired + 4);
    bench.run_to(bench.now + 10_000);
    let told = fires_late(&mut bench, 51);
    assert!(
        told[0].contains("the advert timer fired 51") && told[0].contains("2 more"),
        "{told:?}"
    );
    assert!(told[0].contains("interval of 100ms"), "{told:?}");
    bench.router.clear_counters();
    assert_eq!(sum(&bench), 0, "with the other statistics");
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
    assert_eq!(bench.did()[..2], ["34000:fence", "34000:advert 0"]);
}

#[test]
fn a_fault_that_is_over_says_what_it_still_waits_for() {
    let mut bench = Bench::backup(config(100));
    bench.input(Input::Interface { name: "eth0".into(), up: false });
    assert_eq!(bench.router.reason(), "fault: interface eth0 is down");
    let scripts = vec![Tracked { name: "chk".into(), weight: 0, reverse: false }];
    bench.input(Input::Configure(Box::new(Config { scripts, ..config(100) })));
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    assert_eq!(bench.router.state(), VrrpState::Fault);
    let waits = "waiting for the first result of script chk";
    assert_eq!(bench.router.reason(), format!("fault: {waits}"));
    assert_eq!(bench.router.why(at(0)).held_by, [waits]);
    bench.input(Input::Script { name: "chk".into(), verdict: Verdict::Good });
    assert_eq!(bench.router.state(), VrrpState::Backup);
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
fn a_stolen_vip_ends_being_master_and_the_skew_decides() {
    let mut bench = Bench::master(config(100));
    bench.input(Input::VipLost { address: VIP.into() });
    assert_eq!(bench.router.state(), VrrpState::Backup);
    let want = ["fence", "advert 0", "remove", "notify BACKUP", "standby"];
    assert_eq!(bench.did(), want.map(|word| format!("5000:{word}")));
    bench.run_to(5608);
    assert_eq!(bench.adverts(), 0, "another host may have it until our skew is over");
    bench.run_to(5611);
    assert_eq!(bench.router.state(), VrrpState::Master);
}

#[test]
fn what_is_not_tracked_is_put_back_at_a_bounded_rate() {
    let mut bench = Bench::master(config(100));
    for _ in 0..100 {
        bench.input(Input::HoldLost { what: "route".into(), tracked: false });
    }
    bench.run_to(6500);
    assert_eq!(bench.router.state(), VrrpState::Master);
    assert_eq!(bench.did().iter().filter(|word| word.ends_with(":add")).count(), 2);
}

/// Batches of announcements by time and size.
fn garps(bench: &mut Bench) -> Vec<String> {
    bench.did().into_iter().filter(|word| word.contains("garp")).collect()
}

// NBR-04
#[test]
fn announcements_come_in_their_batches() {
    let secs = Duration::from_secs;
    let garp = Garp {
        repeat: 3,
        delay: secs(2),
        refresh: secs(5),
        refresh_repeat: 1,
        lower_repeat: 4,
        lower_delay: secs(1),
    };
    let mut bench = Bench::backup(Config { garp, ..config(100) });
    bench.run_to(20_000);
    let want = ["3610:garp 3", "5610:garp 3", "8610:garp 1", "13610:garp 1", "18610:garp 1"];
    assert_eq!(garps(&mut bench), want, "takeover at 3609.4 ms");
    bench.hears(LOW, 50);
    bench.run_to(22_000);
    assert_eq!(garps(&mut bench), ["20000:garp 4", "21000:garp 4"]);
    let none = Garp { lower_repeat: 0, refresh: Duration::ZERO, ..garp };
    bench.input(Input::Configure(Box::new(Config { garp: none, ..config(100) })));
    bench.run_to(25_000);
    bench.did();
    bench.hears(LOW, 50);
    bench.run_to(30_000);
    assert!(garps(&mut bench).is_empty(), "switched off by a reload");
    bench.hears(HIGH, 200);
    assert_eq!(bench.router.state(), VrrpState::Backup);
    let one = Garp { repeat: 1, delay: Duration::ZERO, ..none };
    bench.input(Input::Configure(Box::new(Config { garp: one, ..config(100) })));
    bench.did();
    bench.run_to(60_000);
    assert_eq!(garps(&mut bench).len(), 1, "vrrp_min_garp");
}

#[test]
fn a_backup_announces_nothing_that_a_master_had_planned() {
    let mut bench = Bench::master(config(100));
    bench.hears(LOW, 50);
    bench.did();
    bench.hears(HIGH, 200);
    for _ in 0..20 {
        bench.run_to(bench.now + 1000);
        bench.hears(HIGH, 200);
    }
    assert!(garps(&mut bench).is_empty());
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
    // TRAP-06: until that peer has been upgraded.
    let bytes = advert.datagram_v4(HIGH, OWN, ChecksumForm::PseudoHeader, 2);
    bench.input(Input::Datagram(bytes));
    assert_eq!(bench.router.checksum_form(HIGH.into()), ChecksumForm::PseudoHeader);
}
