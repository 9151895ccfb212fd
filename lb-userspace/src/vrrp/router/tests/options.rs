//! Options that change an election, in virtual time, and a member of a sync group.

use super::*;

#[test]
fn down_timer_adverts_moves_the_takeover_and_the_lease() {
    // adverts missed → takeover, end of the first lease
    for (down_adverts, takeover, lease) in [(1, 1610, 2613), (2, 2610, 4600), (5, 5610, 10_600)] {
        let mut bench = Bench::backup(Config { down_adverts, ..config(100) });
        bench.run_to(takeover - 1);
        assert_eq!(bench.adverts(), 0, "{down_adverts} early");
        bench.run_to(takeover);
        let did = bench.did();
        assert_eq!(did[0], format!("{takeover}:advert 100"));
        assert_eq!(did[1], format!("{takeover}:lease {lease}"), "ends before a peer takes over");
        bench.run_to(takeover + 5000);
        let did = bench.did();
        assert!(!did.iter().any(|word| word.contains("fence")), "{did:?}");
        assert_eq!(bench.router.state(), VrrpState::Master, "{down_adverts}");
    }
}

/// VRRPv2 by SIGHUP on every host: the backups wait by the new interval from then on.
#[test]
fn a_master_told_a_shorter_interval_does_not_sit_out_the_longer_one() {
    let interval = AdvertInterval::from_seconds(10).expect("not zero");
    let mut bench = Bench::backup(Config { interval, ..config(100) });
    bench.run_to(31_000);
    assert_eq!(bench.did()[0], "30610:advert 100");
    bench.input(Input::Configure(Box::new(config(100))));
    bench.run_to(31_000);
    assert_eq!(bench.adverts(), 1, "the lease may last no longer than backups wait from now on");
    bench.run_to(31_999);
    assert_eq!(bench.adverts(), 1);
    bench.run_to(32_000);
    assert_eq!(bench.adverts(), 2, "not at 40610: a backup would take over at 34610 or so");
}

/// VRRPv3: while it answers by ARP, as long as its own interval says.
#[test]
fn a_hung_master_with_a_longer_interval_is_waited_for() {
    let v3 = |centis| {
        let interval = AdvertInterval::from_centis(centis).expect("in range");
        Config { version: Version::V3, interval, ..config(150) }
    };
    let mut bench = Bench::backup(v3(30));
    bench.run_to(1000);
    bench.input(advert_from(&v3(30), LOW, 100));
    bench.run_to(1025);
    assert_eq!(bench.did()[0], "1025:advert 150", "lower: the timer runs on, then the guard");
    bench.input(advert_from(&v3(300), LOW, 100));
    for now in 1026..9000 {
        bench.run_to(now);
        bench.input(Input::Claim { address: VIP.into(), mac: Mac([2, 0, 0, 0, 0, 9]) });
    }
    let early = bench.did().into_iter().find(|word| word.contains("lease"));
    assert_eq!(early, None, "the other's lease may run until 10025");
    bench.run_to(9100);
    assert!(bench.did().iter().any(|word| word.contains("lease")), "its host has died");
}

#[test]
fn weights_move_the_timers_with_the_priority() {
    let scripts = vec![Tracked { name: "chk".into(), weight: -50, reverse: false }];
    let script = |verdict| Input::Script { name: "chk".into(), verdict };
    let mut bench = Bench::backup(Config { scripts, ..config(150) });
    bench.input(script(Verdict::Good));
    bench.run_to(1000);
    bench.input(script(Verdict::Bad));
    bench.run_to(3609);
    assert_eq!(bench.adverts(), 0, "as with priority 100: 3.609 s");
    bench.run_to(3610);
    assert_eq!(bench.did()[0], "3610:advert 100");
    // And back: a shorter skew of a backup that waits already.
    let mut bench = Bench::backup(Config {
        scripts: vec![Tracked { name: "chk".into(), weight: 50, reverse: false }],
        ..config(100)
    });
    bench.input(script(Verdict::Bad));
    bench.run_to(3000);
    bench.input(script(Verdict::Good));
    bench.run_to(3415);
    assert_eq!(bench.did()[0], "3415:advert 150", "3 + 106/256 s");
}

#[test]
fn lower_prio_no_advert_leaves_out_the_advert_and_nothing_else() {
    let garp = Garp { lower_repeat: 2, lower_delay: Duration::from_secs(3), ..Garp::default() };
    let mut bench = Bench::master(Config { lower_prio_no_advert: true, garp, ..config(100) });
    let lower = advert_from(&config(100), HIGH, 50);
    bench.router.handle(lower, at(5000));
    let effects: Vec<Effect> = std::iter::from_fn(|| bench.router.poll_effect()).collect();
    assert!(effects.contains(&Effect::Notify(Notify::MasterRxLowerPri)), "{effects:?}");
    assert!(effects.contains(&Effect::Garp { repeat: 2 }), "{effects:?}");
    bench.run_to(5100);
    bench.hears(LOW, 100);
    assert_eq!(bench.did(), ["5100:garp 2"], "same priority, lower address");
    bench.run_to(5200);
    bench.hears(HIGH, 0);
    assert_eq!(bench.did()[0], "5200:advert 100", "a farewell is answered all the same");
    bench.run_to(8100);
    let did = bench.did();
    assert!(did.contains(&"8100:garp 2".into()), "the batch after the delay: {did:?}");
}

#[test]
fn a_member_announces_for_the_lower_router_that_another_heard() {
    let garp = Garp { lower_repeat: 2, ..Garp::default() };
    let mut bench = Bench::master(Config { garp, ..config(100) });
    bench.input(Input::Configure(Box::new(Config { grouped: true, garp, ..config(100) })));
    bench.did();
    bench.input(Input::Group(Order::Announcements));
    assert_eq!(bench.did(), ["5000:garp 2"]);
    bench.hears(HIGH, 150);
    bench.did();
    bench.input(Input::Group(Order::Announcements));
    assert_eq!(bench.did(), [""; 0], "a backup has nothing to announce");
}

#[test]
fn a_lower_router_that_does_not_hear_us_fills_no_log() {
    let mut bench = Bench::master(config(100));
    let mut logs = 0;
    for n in 0..30 {
        bench.run_to(5000 + n * 500);
        bench.router.handle(advert_from(&config(100), HIGH, 50), at(bench.now));
        while let Some(effect) = bench.router.poll_effect() {
            logs += usize::from(matches!(effect, Effect::Log { .. }));
            if matches!(effect, Effect::SendAdvert { .. }) {
                bench.router.handle(Input::AdvertSent { at: at(bench.now) }, at(bench.now));
            }
        }
    }
    assert_eq!(logs, 2, "in 15 seconds");
}

#[test]
fn leaving_fault_tells_unicast_peers_where_it_is() {
    for (unicast, wanted) in [(true, vec!["1000:garp of 10.77.0.2"]), (false, vec![])] {
        let unicast_peers = if unicast { vec![HIGH.into()] } else { vec![] };
        let mut bench = Bench::backup(Config { unicast_peers, ..config(100) });
        bench.run_to(1000);
        bench.input(Input::Interface { name: "eth0".into(), up: false });
        bench.input(Input::Interface { name: "eth0".into(), up: true });
        let told: Vec<String> = bench.did().into_iter().filter(|it| it.contains("garp")).collect();
        assert_eq!(told, wanted, "unicast {unicast}");
        assert_eq!(bench.router.state(), VrrpState::Backup);
    }
}

#[test]
fn higher_prio_send_advert_speaks_once_more_before_it_yields() {
    let mut bench = Bench::master(Config { higher_prio_send_advert: true, ..config(100) });
    bench.hears(HIGH, 150);
    let did = bench.did();
    assert_eq!(did[0], "5000:advert 100");
    assert_eq!(did[1..3], ["5000:fence", "5000:remove"], "{did:?}");
    assert_eq!(bench.router.state(), VrrpState::Backup);
}

#[test]
fn owner_ignore_adverts_makes_a_deaf_master_and_no_deaf_backup() {
    let owner = Config { owner_ignore_adverts: true, ..config(255) };
    let mut bench = Bench::master(owner.clone());
    bench.hears(HIGH, 255);
    assert_eq!(bench.router.state(), VrrpState::Master);
    assert_eq!(bench.did(), [""; 0]);
    let mut bench = Bench::master(Config { owner_ignore_adverts: true, ..config(254) });
    bench.hears(HIGH, 255);
    assert_eq!(bench.router.state(), VrrpState::Backup, "not the owner");
    // An owner that is backup, as a reload makes it one, does not listen either, and waits for the
    // lease of whom it preempts all the same.
    let mut bench = Bench::backup(config(100));
    bench.hears(HIGH, 255);
    bench.input(Input::Configure(Box::new(owner)));
    for second in 0..3 {
        bench.run_to(second * 1000);
        bench.hears(HIGH, 255);
    }
    assert_eq!(bench.router.state(), VrrpState::Backup);
    bench.run_to(3010);
    assert_eq!(bench.did(), ["3004:advert 255"]);
    bench.run_to(3030);
    assert_eq!(bench.router.state(), VrrpState::Master);
}

#[test]
fn timer_expired_backup_does_not_take_the_vips_back_after_a_stall() {
    for (stall, wakes_as) in
        [(2900, VrrpState::Master), (3007, VrrpState::Backup), (9000, VrrpState::Backup)]
    {
        let mut bench = Bench::master(Config {
            preempt: false,
            timer_expired_backup: Some(Priority(254)),
            ..config(100)
        });
        // The last advert left at 4610; the next wakes late.
        let now = 4610 + stall + 1;
        bench.now = now;
        bench.router.handle_timeout(at(now));
        bench.drain();
        assert_eq!(bench.router.state(), wakes_as, "{stall} ms");
        if wakes_as == VrrpState::Backup {
            assert_eq!(bench.adverts(), 0, "it says nothing: {:?}", bench.done);
            assert!(bench.done[0].ends_with("fence"));
        }
    }
}

#[test]
fn timer_expired_backup_minds_the_lease_of_longer_terms() {
    let ten = Config {
        preempt: false,
        interval: AdvertInterval::from_centis(1000).expect("in range"),
        timer_expired_backup: Some(Priority(100)),
        ..config(100)
    };
    // It is master after 36.1 s; five seconds later are nothing of ten, and more than three of one.
    let mut bench = Bench::backup(ten.clone());
    bench.run_to(41_000);
    assert_eq!(bench.router.state(), VrrpState::Master, "{:?}", bench.did());
    let one = Config { interval: AdvertInterval::from_centis(100).expect("in range"), ..ten };
    bench.input(Input::Configure(Box::new(one)));
    bench.run_to(41_100);
    assert_eq!(bench.router.state(), VrrpState::Master, "{:?}", bench.done);
    assert!(bench.done.iter().all(|it| !it.contains("advert 0")), "{:?}", bench.done);
}

#[test]
fn two_owners_are_told_of_once() {
    let mut bench = Bench::master(config(255));
    let mut told: Vec<String> = vec![];
    for _ in 0..5 {
        let advert = advert_from(&config(255), LOW, 255);
        bench.router.handle(advert, at(bench.now));
        while let Some(effect) = bench.router.poll_effect() {
            if let Effect::Log { text, .. } = effect
                && text.contains("owns the addresses")
            {
                told.push(text);
            }
        }
    }
    let [text] = &told[..] else { panic!("{told:?}") };
    assert!(text.starts_with("10.77.0.1 has priority 255 as we have"), "{text}");
}

#[test]
fn nopreempt_leaves_a_lower_master_but_not_its_farewell_nor_its_silence() {
    let mut bench = Bench::backup(Config { preempt: false, ..config(150) });
    for second in 1..6 {
        bench.run_to(second * 1000);
        bench.hears(HIGH, 50);
    }
    assert_eq!(bench.adverts(), 0);
    bench.hears(HIGH, 0);
    bench.run_to(5415);
    assert_eq!(bench.adverts(), 1, "skew after the farewell");
    let mut bench = Bench::backup(Config { preempt: false, ..config(150) });
    bench.hears(HIGH, 50);
    bench.run_to(3416);
    assert_eq!(bench.adverts(), 1, "master-down after its silence");
}

#[test]
fn preempt_delay_counts_in_fractions() {
    let delay = Duration::from_millis(4500);
    let mut bench = Bench::backup(Config { preempt_delay: delay, ..config(150) });
    let mut announced = None;
    for tenth in 1..120 {
        bench.run_to(tenth * 100);
        if bench.adverts() > 0 {
            announced = Some(tenth * 100);
            break;
        }
        if tenth % 10 == 0 {
            bench.hears(HIGH, 50);
        }
    }
    // From 1.0 s until 5.5 s its adverts restart the timer; the last that does is at 5.0 s.
    assert_eq!(announced, Some(8500), "5.0 + 3.414 s");
}

#[test]
fn a_shorter_preempt_delay_ends_one_that_runs() {
    let delayed = |seconds| Config { preempt_delay: Duration::from_secs(seconds), ..config(150) };
    // The delay that a reload at 2.5 s brings, and when the last advert is that restarts the timer.
    for (reloaded, last) in [(300, None), (2, Some(4000)), (0, Some(2000))] {
        let mut bench = Bench::backup(delayed(300));
        for second in 1..60 {
            bench.run_to(second * 1000);
            bench.hears(HIGH, 50);
            if second == 2 {
                bench.run_to(2500);
                bench.input(Input::Configure(Box::new(delayed(reloaded))));
            }
            if bench.adverts() > 0 {
                break;
            }
        }
        let first = bench.did().into_iter().find(|it| it.contains("advert"));
        // 3 + 106/256 s after it.
        let want = last.map(|at: u64| format!("{}:advert 150", at + 3415));
        assert_eq!(first, want, "reloaded with {reloaded} s");
    }
}

#[test]
fn a_grouped_router_waits_for_its_group_before_it_announces_and_before_it_forwards() {
    let mut bench = Bench::backup(Config { grouped: true, ..config(100) });
    assert_eq!(bench.router.standing(), Standing::Listening);
    bench.run_to(20_000);
    assert_eq!(bench.router.standing(), Standing::Wants);
    assert_eq!((bench.did(), bench.router.poll_timeout()), (vec![], None), "no timer runs");
    bench.input(Input::Group(Order::Forward));
    assert_eq!(bench.router.standing(), Standing::Wants, "out of order: nothing");
    bench.input(Input::Group(Order::Announce));
    assert_eq!(bench.router.standing(), Standing::Ready);
    assert_eq!(bench.did(), ["20000:advert 100"]);
    bench.run_to(21_000);
    assert_eq!(bench.did(), ["21000:advert 100"], "it keeps what it has announced");
    bench.input(Input::Group(Order::Forward));
    assert_eq!(bench.router.standing(), Standing::Master);
    assert_eq!(bench.did()[1], "21000:probe");
    bench.input(Input::Group(Order::Yield { why: "b is backup".into() }));
    let did = bench.did();
    assert_eq!(did[..3], ["21000:fence", "21000:advert 0", "21000:remove"], "{did:?}");
    assert_eq!(bench.router.standing(), Standing::Backup);
    // The member that made it yield may be back after its skew; so is this one.
    bench.run_to(21_608);
    assert_eq!(bench.router.standing(), Standing::Backup);
    bench.run_to(21_610);
    assert_eq!(bench.router.standing(), Standing::Wants);
}

#[test]
fn a_better_advert_ends_what_a_grouped_router_wants() {
    let mut bench = Bench::backup(Config { grouped: true, ..config(100) });
    bench.run_to(4000);
    bench.hears(HIGH, 50);
    assert_eq!(bench.router.standing(), Standing::Wants, "a lower one does not");
    bench.hears(HIGH, 0);
    assert_eq!(bench.router.standing(), Standing::Wants);
    bench.hears(HIGH, 150);
    assert_eq!(bench.router.standing(), Standing::Backup);
    bench.input(Input::Group(Order::Announce));
    assert_eq!((bench.router.standing(), bench.adverts()), (Standing::Backup, 0));
}

#[test]
fn a_grouped_router_that_cannot_advertise_gives_up_at_once() {
    let mut bench = Bench::backup(Config { grouped: true, ..config(100) });
    bench.run_to(4000);
    bench.send_fails = true;
    bench.input(Input::Group(Order::Announce));
    assert_eq!(bench.router.standing(), Standing::Backup, "its group yields with it");
}

#[test]
fn a_router_held_by_its_group_is_in_fault_until_it_is_let_go() {
    let mut bench = Bench::master(config(100));
    bench.input(Input::Group(Order::Hold(Some("x".into()))));
    assert_eq!(bench.router.standing(), Standing::Master, "it is in no group");
    bench.input(Input::Configure(Box::new(Config { grouped: true, ..config(100) })));
    bench.did();
    bench.input(Input::Group(Order::Hold(Some("sync group G: b is in FAULT".into()))));
    assert_eq!(bench.did()[..3], ["5000:fence", "5000:advert 0", "5000:remove"]);
    assert_eq!(bench.router.standing(), Standing::Held);
    assert_eq!(bench.router.reason(), "fault: sync group G: b is in FAULT");
    bench.input(Input::Interface { name: "eth0".into(), up: false });
    assert_eq!(bench.router.standing(), Standing::Faulty);
    bench.input(Input::Group(Order::Hold(None)));
    assert_eq!(bench.router.standing(), Standing::Faulty);
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    assert_eq!(bench.router.standing(), Standing::Listening);
    // Leaving the group lets go as well.
    bench.input(Input::Group(Order::Hold(Some("b".into()))));
    bench.input(Input::Configure(Box::new(config(100))));
    assert_eq!(bench.router.standing(), Standing::Listening);
}

/// What options choose is in the bytes that leave.
#[test]
fn adverts_leave_with_the_ttl_and_the_checksum_that_are_asked_for() {
    let v3 = |wire: Options, unicast_peers: Vec<IpAddr>| Config {
        version: Version::V3,
        wire,
        unicast_peers,
        ..config(100)
    };
    let near = || Options { unicast_ttl: Some(9), ..Options::default() };
    let as_v2 = || Options { checksum_as_v2: true, ..Options::default() };
    let peer = || vec![IpAddr::from(HIGH)];
    // options, peers → TTL, whether the checksum has the pseudo-header of RFC 5798
    let rows = [
        (Options::default(), vec![], 255, true),
        (Options::default(), peer(), 255, true),
        (near(), peer(), 9, true),
        (near(), vec![], 255, true),
        (as_v2(), vec![], 255, false),
        (as_v2(), peer(), 255, false),
    ];
    let sum = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]]))).sum()
    };
    for (wire, peers, ttl, pseudo) in rows {
        let told = format!("{wire:?} {peers:?}");
        let mut bench = Bench::backup(v3(wire, peers.clone()));
        let sent = bench.router.datagrams(Priority(100), at(0)).expect("a source");
        let to = peers.first().copied().unwrap_or(GROUP.into());
        let [Outgoing { destination, bytes }] = &sent[..] else { panic!("{told}: {sent:?}") };
        assert_eq!((*destination, bytes[8]), (to, ttl), "{told}");
        let (header, message) = bytes.split_at(20);
        // Source and destination, protocol and length.
        let length = u32::try_from(message.len()).expect("short");
        let of_pseudo = sum(&header[12..20]) + 112 + length;
        let whole = sum(message) + if pseudo { of_pseudo } else { 0 };
        assert_eq!(lb_common::csum::fold(whole), 0xffff, "{told}: {bytes:02x?}");
    }
}
