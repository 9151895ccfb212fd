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
