//! A reload that does not change an instance leaves it alone, whenever it comes: with and without it
//! the router does the same at the same times.

use super::*;

/// What happens to a router, in milliseconds.
enum Happens {
    Hears(u64, Ipv4Addr, u8),
    Link(u64, bool),
    Script(u64, Verdict),
    Reload(u64),
}

impl Happens {
    fn at(&self) -> u64 {
        let (Self::Hears(at, ..) | Self::Link(at, _) | Self::Script(at, _) | Self::Reload(at)) =
            self;
        *at
    }
}

/// What it did until `end`, without the looks at VIPs that are there.
fn life(config: &Config, mut events: Vec<Happens>, end: u64) -> (Vec<String>, VrrpState, u64) {
    events.sort_by_key(Happens::at);
    let mut bench = Bench::backup(config.clone());
    for event in events {
        bench.run_to(event.at());
        match event {
            Happens::Hears(_, from, priority) => bench.hears(from, priority),
            Happens::Link(_, up) => bench.input(Input::Interface { name: "eth0".into(), up }),
            Happens::Script(_, verdict) => {
                bench.input(Input::Script { name: "chk".into(), verdict });
            }
            Happens::Reload(_) => {
                let due = bench.router.poll_timeout();
                let prepared = std::mem::replace(&mut bench.prepared, true);
                bench.input(Input::Configure(Box::new(config.clone())));
                bench.prepared = prepared;
                assert_eq!(bench.router.poll_timeout(), due, "a timer began again");
            }
        }
    }
    bench.run_to(end);
    let counters = bench.router.counters().clone();
    let did = bench.did().into_iter().filter(|word| !word.ends_with(":add")).collect();
    (did, bench.router.state(), counters.advert_sent + counters.become_master)
}

#[test]
fn an_unchanged_instance_does_the_same_with_and_without_a_reload() {
    let chk = Tracked { name: "chk".into(), weight: -30, reverse: false };
    let tracking = Config { scripts: vec![chk], ..config(100) };
    let refreshing = Garp { refresh: Duration::from_secs(2), ..Garp::default() };
    type Life = (&'static str, Config, fn() -> Vec<Happens>);
    let lives: [Life; 6] = [
        ("alone", config(100), Vec::new),
        ("the owner", config(255), Vec::new),
        ("a backup of a master", config(100), || {
            (0..6).map(|n| Happens::Hears(n * 1000, HIGH, 150)).collect()
        }),
        ("a master that is preempted", config(100), || vec![Happens::Hears(6300, HIGH, 200)]),
        ("in FAULT for a while", config(100), || {
            vec![Happens::Link(4500, false), Happens::Link(7000, true)]
        }),
        ("with a script and a refresh", Config { garp: refreshing, ..tracking }, || {
            vec![Happens::Script(100, Verdict::Good), Happens::Script(8000, Verdict::Bad)]
        }),
    ];
    for (what, config, events) in lives {
        let end = 12_000;
        let without = life(&config, events(), end);
        assert!(!without.0.is_empty(), "{what}: nothing happens");
        for reload in (0..end).step_by(173) {
            let with = [events(), vec![Happens::Reload(reload)]].into_iter().flatten().collect();
            assert_eq!(life(&config, with, end), without, "{what}: a reload at {reload} ms");
        }
    }
}

/// `advert_int` in seconds, and how many adverts may be missed.
fn terms(priority: u8, seconds: u8, down_adverts: u32) -> Config {
    let interval = AdvertInterval::from_seconds(seconds).expect("an interval");
    Config { interval, down_adverts, ..config(priority) }
}

fn reload(bench: &mut Bench, config: &Config) {
    bench.prepared = true;
    bench.input(Input::Configure(Box::new(config.clone())));
}

#[test]
fn a_backup_that_is_told_shorter_terms_waits_for_the_lease_that_its_master_may_have() {
    let before = terms(100, 10, 3);
    for (what, after) in [("interval", terms(100, 1, 3)), ("adverts", terms(100, 10, 1))] {
        let mut bench = Bench::backup(before.clone());
        bench.input(advert_from(&before, HIGH, 150));
        for again in 1..4 {
            bench.run_to(again * 1500);
            reload(&mut bench, &after);
        }
        // Of VRRPv2 it discards what the master says until that is reloaded, too.
        bench.run_to(10_000);
        if what == "interval" {
            bench.input(advert_from(&before, HIGH, 150));
        }
        bench.run_to(30_609);
        assert_eq!(bench.adverts(), 0, "{what}");
        bench.run_to(30_610);
        assert_eq!(bench.adverts(), 1, "{what}");
        // Heard once more under the new terms, it is waited for by these.
        let mut bench = Bench::backup(before.clone());
        bench.input(advert_from(&before, HIGH, 150));
        reload(&mut bench, &after);
        bench.run_to(5000);
        bench.input(advert_from(&after, HIGH, 150));
        let down = if what == "interval" { 3 * 1000 } else { 10_000 };
        bench.run_to(5000 + down + 609);
        assert_eq!(bench.adverts(), 0, "{what}");
        bench.run_to(5000 + down + 610);
        assert_eq!(bench.adverts(), 1, "{what}");
    }
}

/// It preempts a worse one, by a timer that adverts of that one do not begin anew.
#[test]
fn a_backup_that_preempts_learns_the_shorter_terms_of_whom_it_replaces() {
    for (before, after, down) in [
        (terms(200, 10, 3), terms(200, 1, 3), 3000),
        (terms(200, 10, 3), terms(200, 10, 1), 10_000),
    ] {
        let mut bench = Bench::backup(before.clone());
        bench.input(advert_from(&before, LOW, 100));
        bench.run_to(500);
        reload(&mut bench, &after);
        bench.run_to(1000);
        bench.input(advert_from(&after, LOW, 100));
        // The skew of 200 is less than a quarter of an interval.
        bench.run_to(down);
        assert_eq!(bench.adverts(), 0);
        bench.run_to(down + down / 4);
        assert!(bench.adverts() > 0, "it waits by the terms of before");
    }
}

#[test]
fn a_backup_that_is_told_longer_terms_waits_by_them() {
    let before = terms(100, 1, 1);
    for (after, down) in [(terms(100, 5, 1), 5000), (terms(100, 1, 4), 4000)] {
        let mut bench = Bench::backup(before.clone());
        bench.input(advert_from(&before, HIGH, 150));
        bench.run_to(500);
        reload(&mut bench, &after);
        bench.run_to(down + 609);
        assert_eq!(bench.adverts(), 0);
        bench.run_to(down + 610);
        assert_eq!(bench.adverts(), 1);
    }
}

#[test]
fn a_master_that_is_told_shorter_terms_says_so_and_its_lease_follows() {
    let before = terms(255, 10, 3);
    for (after, end) in [(terms(255, 1, 3), 4990), (terms(255, 10, 2), 21_900)] {
        let mut bench = Bench::backup(before.clone());
        bench.run_to(100);
        assert_eq!(bench.router.state(), VrrpState::Master);
        bench.run_to(2000);
        bench.did();
        reload(&mut bench, &after);
        assert_eq!(bench.did(), ["2000:add"], "the interfaces are looked at before it speaks");
        bench.run_to(2000);
        assert_eq!(bench.did(), ["2000:advert 255".into(), format!("2000:lease {end}")]);
        // Longer ones can wait for the next advert, and so can none.
        let next = bench.router.poll_timeout();
        reload(&mut bench, &after);
        reload(&mut bench, &before);
        assert!(bench.did().iter().all(|word| word.ends_with(":add")), "said twice");
        assert!(bench.router.poll_timeout() <= next);
    }
}

/// What it is told with the reload comes first: an advert of a master that is none any more would keep the peer
/// waiting.
#[test]
fn shorter_terms_and_a_link_that_is_down_are_a_farewell_and_no_advert() {
    let mut bench = Bench::backup(terms(255, 10, 3));
    bench.run_to(2000);
    bench.did();
    let interfaces =
        ["eth0", "eth1"].map(|name| Tracked { name: name.into(), weight: 0, reverse: false });
    reload(&mut bench, &Config { interfaces: interfaces.into(), ..terms(255, 1, 3) });
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    bench.input(Input::Interface { name: "eth1".into(), up: false });
    bench.run_to(9000);
    let did = bench.did();
    let adverts: Vec<&str> =
        did.iter().map(String::as_str).filter(|it| it.contains("advert")).collect();
    assert_eq!(adverts, ["2000:advert 0"], "{did:?}");
}
