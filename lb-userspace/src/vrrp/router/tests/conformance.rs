//! Items of tests/conformance that no other test of the router shows.

use lb_common::csum;

use super::*;
use crate::vrrp::wire::{Datagram, Envelope, Seal};

fn v3(interval: u16) -> Config {
    Config {
        version: Version::V3,
        interval: AdvertInterval::from_centis(interval).expect("in range"),
        ..config(100)
    }
}

/// The lines that an input makes it log.
fn logs(bench: &mut Bench, input: Input) -> Vec<String> {
    bench.router.handle(input, at(bench.now));
    let mut lines = vec![];
    while let Some(effect) = bench.router.poll_effect() {
        if let Effect::Log { text, .. } = effect {
            lines.push(text);
        }
    }
    lines
}

// PKT-03
#[test]
fn weights_keep_a_priority_between_1_and_254_and_leave_the_owner_alone() {
    for (own, weight, verdict, effective) in [
        (100, -200, Verdict::Bad, 1),
        (100, 200, Verdict::Good, 254),
        (254, 1, Verdict::Good, 254),
        (255, -200, Verdict::Bad, 255),
    ] {
        let scripts = vec![Tracked { name: "chk".into(), weight, reverse: false }];
        let mut bench = Bench::backup(Config { scripts, ..config(own) });
        bench.input(Input::Script { name: "chk".into(), verdict });
        assert_eq!(bench.router.effective_priority(), Priority(effective), "{own} {weight}");
    }
}

// TMR-04 TMR-06
#[test]
fn a_backup_learns_every_interval_and_starts_anew_with_its_own() {
    let mut bench = Bench::backup(v3(100));
    // centiseconds → milliseconds of silence after which it takes over: three and a skew of each
    for (centis, down) in [(100, 3610), (10, 361), (400, 14_438)] {
        let begin = bench.now;
        bench.input(advert_from(&v3(centis), HIGH, 150));
        bench.run_to(begin + down - 1);
        assert_eq!(bench.adverts(), 0, "{centis} cs: early");
        bench.run_to(begin + down);
        assert_eq!(bench.adverts(), 1, "{centis} cs: late");
        assert_eq!(bench.router.master_interval(), bench.router.config().interval, "its own now");
        bench.input(advert_from(&v3(centis), HIGH, 150));
        bench.did();
    }
    let eth0 = |up| Input::Interface { name: "eth0".into(), up };
    bench.input(eth0(false));
    bench.input(eth0(true));
    bench.did();
    let begin = bench.now;
    bench.run_to(begin + 3609);
    assert_eq!(bench.adverts(), 0, "what was learned is forgotten");
    bench.run_to(begin + 3610);
    assert_eq!(bench.adverts(), 1);
}

// TMR-06
#[test]
fn a_backup_that_has_heard_nobody_follows_its_own_new_interval() {
    let mut bench = Bench::backup(v3(1000));
    bench.run_to(400);
    bench.input(Input::Configure(Box::new(v3(10))));
    bench.run_to(760);
    assert_eq!(bench.adverts(), 0, "it waits anew");
    bench.run_to(761);
    assert_eq!(bench.adverts(), 1);
    // One that follows a master keeps the master's.
    let mut bench = Bench::backup(v3(1000));
    bench.input(advert_from(&v3(1000), HIGH, 150));
    bench.input(Input::Configure(Box::new(v3(10))));
    bench.run_to(30_000);
    assert_eq!(bench.adverts(), 0);
}

// TMR-09
#[test]
fn late_wake_ups_do_not_add_up() {
    let mut bench = Bench::master(v3(10));
    // Its adverts are due at 361 ms and every 100 ms after that.
    let mut sent = vec![];
    for turn in 47..147 {
        let due = 361 + turn * 100;
        bench.now = due + turn % 40;
        bench.router.handle_timeout(at(bench.now));
        bench.drain();
        sent.extend(bench.did().into_iter().filter(|word| word.contains("advert")));
        let next = bench.router.poll_timeout().expect("a master waits");
        // 360.9375 ms are not whole milliseconds.
        let early = at(due + 100).saturating_since(next);
        assert!(
            next <= at(due + 100) && early < Duration::from_millis(1),
            "turn {turn}: {early:?}"
        );
    }
    assert_eq!(sent.len(), 100, "one a period");
}

// TMR-08
#[test]
fn what_came_during_a_stall_is_heard_before_the_timer_fires() {
    let mut bench = Bench::backup(v3(10));
    bench.input(advert_from(&v3(10), HIGH, 150));
    bench.did();
    // Stopped for two seconds; the queue is read first, as the shell does.
    bench.now = 2000;
    for _ in 0..20 {
        bench.input(advert_from(&v3(10), HIGH, 150));
    }
    bench.router.handle_timeout(at(bench.now));
    bench.drain();
    bench.run_to(2360);
    assert_eq!(bench.did(), [""; 0]);
    assert_eq!(bench.router.state(), VrrpState::Backup);
}

// FSM-09
#[test]
fn a_tie_over_ipv6_goes_to_the_greater_address_as_a_number() {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let vips = vec![ip("fe80::5e:33"), ip("fd77::100")];
    let wire = Options { ipv6: true, ..Options::default() };
    let v6 = Config { addresses: vips, wire, ..v3(100) };
    for (own, theirs, yields) in [
        ("fe80::9", "fe80::10", true),
        ("fe80::10", "fe80::9", false),
        ("fe80::a", "fe80::9", false),
    ] {
        let mut bench = Bench::new(v6.clone());
        bench.input(Input::Source(Some(ip(own))));
        bench.input(Input::Converged { resume: None });
        bench.run_to(5000);
        assert_eq!(bench.router.state(), VrrpState::Master);
        let mut other = Router::new(v6.clone(), at(0));
        other.handle(Input::Source(Some(ip(theirs))), at(0));
        let sent = other.datagrams(Priority(100), at(0)).expect("a source");
        bench.did();
        bench.input(Input::Datagram(sent[0].bytes.clone()));
        let state = if yields { VrrpState::Backup } else { VrrpState::Master };
        assert_eq!(bench.router.state(), state, "{own} hears {theirs}");
        if yields {
            assert_eq!(bench.did()[..2], ["5000:fence", "5000:remove"]);
            bench.run_to(8609);
            assert_eq!(bench.adverts(), 0, "a full master-down time");
        }
    }
}

/// A VRRPv3 advert of another interval, as the field says it, with a right checksum.
fn with_interval(bytes: &[u8], centis: u16) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let delta = csum::fold(csum::delta16(word(24), centis));
    let sum = csum::update(word(26), delta);
    bytes[24..26].copy_from_slice(&centis.to_be_bytes());
    bytes[26..28].copy_from_slice(&sum.to_be_bytes());
    bytes
}

// RX-09 RX-11
#[test]
fn interval_zero_moves_no_master() {
    let mut bench = Bench::master(v3(100));
    let Input::Datagram(good) = advert_from(&v3(100), HIGH, 200) else { panic!("a datagram") };
    let before = bench.router.poll_timeout();
    bench.input(Input::Datagram(with_interval(&good, 0)));
    assert_eq!((bench.did(), bench.router.poll_timeout()), (vec![], before));
    assert_eq!(bench.router.counters().discarded.get("interval_zero"), Some(&1));
    bench.input(Input::Datagram(with_interval(&good, 100)));
    assert_eq!(bench.router.state(), VrrpState::Backup, "the same with an interval counts");
}

/// Sequence numbers of the authentication headers that it sends now.
fn sequence(bench: &mut Bench) -> u32 {
    let sent = bench.router.datagrams(Priority(100), at(bench.now)).expect("a source");
    let datagram = Datagram::parse(&sent[0].bytes).expect("our own");
    datagram.auth_header.expect("AH").sequence()
}

// AUT-05
#[test]
fn one_sequence_number_for_sending_and_hearing() {
    let ah = Config { auth: Auth::Ah(*b"s3cret\0\0"), ..config(100) };
    let hears = |bench: &mut Bench, config: &Config, priority, sequence| {
        let advert = Router::new(config.clone(), at(0)).advert(Priority(priority));
        let envelope = Envelope {
            source: LOW.into(),
            destination: GROUP.into(),
            ttl: 255,
            id: 1,
            flow_label: 0,
            checksum: ChecksumForm::PseudoHeader,
        };
        bench.input(Input::Datagram(advert.datagram(&envelope, Seal { sequence, trailer: None })));
    };
    let mut bench = Bench::backup(ah.clone());
    assert_eq!(sequence(&mut bench), 1, "keepalived's first");
    hears(&mut bench, &ah, 150, 40);
    let forger = Config { auth: Auth::Ah(*b"other\0\0\0"), ..config(100) };
    hears(&mut bench, &forger, 200, 9000);
    for replayed in [40, 39, 1] {
        hears(&mut bench, &ah, 200, replayed);
    }
    let discarded = &bench.router.counters().discarded;
    assert_eq!(discarded.get("auth_header_icv"), Some(&1));
    assert_eq!(discarded.get("auth_header_replay"), Some(&3));
    assert_eq!(bench.router.peer(), Some((LOW.into(), Priority(150))));
    assert_eq!(sequence(&mut bench), 41, "an heir goes on above the old master's number");
    // A losing advert makes the master go on above its number as well.
    bench.run_to(5000);
    assert_eq!(bench.router.state(), VrrpState::Master);
    hears(&mut bench, &ah, 50, 700);
    assert_eq!(sequence(&mut bench), 701);
    // Another becomes master in the instant of our own advert, with the number of ours. keepalived
    // refuses it, which makes two masters for an interval.
    hears(&mut bench, &ah, 200, 700);
    assert_eq!(bench.router.state(), VrrpState::Master, "a number that was accepted");
    hears(&mut bench, &ah, 200, 701);
    assert_eq!(bench.router.state(), VrrpState::Backup, "our own number, used by another");
    hears(&mut bench, &ah, 200, 701);
    assert_eq!(bench.router.counters().discarded.get("auth_header_replay"), Some(&5));
    // The owner listens first: nobody may speak below the number that the others are at.
    let mut owner = Bench::backup(Config { priority: Priority(255), ..ah });
    owner.run_to(2999);
    assert_eq!(owner.adverts(), 0);
}

// UNI-01
#[test]
fn every_unicast_peer_gets_its_own_copy() {
    let peers: Vec<IpAddr> = vec![LOW.into(), HIGH.into()];
    let mut bench = Bench::backup(Config { unicast_peers: peers.clone(), ..v3(100) });
    let sent = bench.router.datagrams(Priority(100), at(0)).expect("a source");
    assert_eq!(sent.iter().map(|it| it.destination).collect::<Vec<_>>(), peers);
    for (one, peer) in sent.iter().zip(peers) {
        let datagram = Datagram::parse(&one.bytes).expect("our own");
        assert_eq!((datagram.source, datagram.destination), (OWN.into(), peer));
        assert_eq!(datagram.ttl, 255);
        assert_eq!(one.bytes[4..6], [0, 1], "the same identification in each");
    }
}

// PKT-11
#[test]
fn both_checksums_are_accepted_and_the_one_of_rfc_9568_is_told_once() {
    let mut bench = Bench::backup(v3(100));
    let advert = Router::new(v3(100), at(0)).advert(Priority(150));
    let with = |form| Input::Datagram(advert.datagram_v4(HIGH, GROUP, form, 1));
    let told = |lines: Vec<String>| lines.iter().filter(|it| it.contains("RFC 9568")).count();
    assert_eq!(told(logs(&mut bench, with(ChecksumForm::PseudoHeader))), 0);
    assert_eq!(told(logs(&mut bench, with(ChecksumForm::Message))), 1);
    assert_eq!(told(logs(&mut bench, with(ChecksumForm::Message))), 0, "once a peer");
    assert_eq!(bench.router.counters().advert_rcvd, 3);
    assert_eq!(bench.router.peer(), Some((HIGH.into(), Priority(150))));
}

// PKT-16
#[test]
fn addresses_that_do_not_fit_are_told_and_not_advertised() {
    let list = |n: u32| (0..n).map(|it| IpAddr::from(Ipv4Addr::from(0x0a4e_0000 + it))).collect();
    let mut bench = Bench::backup(Config { addresses: list(300), ..config(100) });
    let lines = logs(&mut bench, Input::Mtu(1500));
    assert!(lines[0].contains("300 VIPs, an advert on this interface carries 255"), "{lines:?}");
    assert_eq!(bench.router.advert(Priority(100)).addresses.len(), 255);
    let lines = logs(&mut bench, Input::Mtu(576));
    assert!(lines[0].contains("the last 165 are held and not advertised"), "{lines:?}");
    assert_eq!(logs(&mut bench, Input::Mtu(576)), [""; 0], "told once");
    let fits = Config { addresses: list(135), ..config(100) };
    let lines = logs(&mut bench, Input::Configure(Box::new(fits)));
    assert!(lines.iter().all(|it| !it.contains("not advertised")), "{lines:?}");
}

// RX-10
#[test]
fn another_list_is_accepted_counted_and_told_now_and_then() {
    for version in [Version::V2, Version::V3] {
        let ours = Config { version, ..config(100) };
        let theirs = Config { addresses: vec![VIP.into(), LOW.into()], ..ours.clone() };
        let mut bench = Bench::backup(ours);
        bench.run_to(1000);
        let told = logs(&mut bench, advert_from(&theirs, HIGH, 150));
        let of = |told: &[String]| {
            told.iter().filter(|it| it.contains("other addresses than ours")).count()
        };
        assert_eq!(of(&told), 1, "{told:?}");
        assert_eq!(logs(&mut bench, advert_from(&theirs, HIGH, 150)), [""; 0]);
        // Another sender is another mistake.
        assert_eq!(of(&logs(&mut bench, advert_from(&theirs, LOW, 150))), 1);
        bench.run_to(4609);
        assert_eq!(bench.adverts(), 0, "{version:?}: the advert counted");
        let counters = bench.router.counters();
        assert_eq!((counters.advert_rcvd, counters.address_list_differs), (3, 3));
        assert!(counters.discarded.is_empty(), "{counters:?}");
        bench.input(advert_from(&theirs, HIGH, 150));
        // It goes on for an hour: told each five minutes.
        let lines: usize = (5..3600)
            .map(|second| {
                bench.run_to(second * 1000);
                of(&logs(&mut bench, advert_from(&theirs, HIGH, 150)))
            })
            .sum();
        assert_eq!(lines, 11, "{version:?}");
        assert_eq!(bench.router.counters().address_list_differs, 4 + 3595);
        // And what is as ours is not counted.
        bench.input(advert_from(&Config { version, ..config(100) }, HIGH, 150));
        assert_eq!(bench.router.counters().address_list_differs, 4 + 3595);
    }
}

// MIX-01 RX-02
#[test]
fn a_peer_of_the_other_version_is_told_with_both_and_changes_nothing() {
    let mut bench = Bench::backup(v3(100));
    let old = advert_from(&config(100), HIGH, 200);
    let told = logs(&mut bench, old.clone());
    assert!(told[0].contains("peer speaks VRRPv2, we VRRPv3"), "{told:?}");
    assert_eq!(logs(&mut bench, old), [""; 0], "at a bounded rate");
    assert_eq!(bench.router.counters().discarded.get("version"), Some(&2));
    assert_eq!(bench.router.peer(), None);
    bench.run_to(3610);
    assert_eq!(bench.router.state(), VrrpState::Master);
}

// PKT-13 FSM-12
#[test]
fn without_a_source_address_nothing_is_sent_until_there_is_one() {
    let mut bench = Bench::new(v3(100));
    bench.input(Input::Source(None));
    bench.input(Input::Converged { resume: None });
    bench.run_to(60_000);
    assert_eq!((bench.adverts(), bench.router.state()), (0, VrrpState::Fault));
    assert!(bench.router.reason().contains("no address to send from"));
    for version in [Version::V2, Version::V3] {
        let wire = Options { ipv6: true, ..Options::default() };
        let mut six = Bench::new(Config { version, wire, ..v3(100) });
        six.input(Input::Source(None));
        six.input(Input::Converged { resume: None });
        assert!(six.router.reason().contains("no IPv6 address to send from"), "{version:?}");
    }
    bench.input(Input::Source(Some(OWN.into())));
    bench.run_to(63_610);
    assert_eq!(bench.router.state(), VrrpState::Master);
}
