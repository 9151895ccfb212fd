//! Random inputs against invariants.

use proptest::prelude::*;

use super::*;

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
        1 => Just(Input::Listen),
        1 => any::<bool>().prop_map(|it| Input::Source(it.then_some(OWN.into()))),
        2 => any::<bool>().prop_map(|up| Input::Interface { name: "eth0".into(), up }),
        2 => (0u8..4).prop_map(|it| Input::Script {
            name: "chk".into(),
            verdict: [Verdict::Pending, Verdict::Good, Verdict::Bad, Verdict::Ignored][usize::from(it)],
        }),
        1 => Just(Input::VipLost { address: VIP.into() }),
        1 => any::<bool>().prop_map(|tracked| Input::HoldLost { what: "x".into(), tracked }),
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
