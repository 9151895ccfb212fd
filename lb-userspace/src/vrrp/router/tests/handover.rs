//! VIPs prepared behind the fence, farewells that end a guard, told hand-overs.

use super::*;

/// In BACKUP at 0, on a host that can fence itself.
fn fenced(config: Config) -> Bench {
    let mut bench = Bench::backup(config);
    bench.input(Input::Fence(true));
    bench
}

fn told(priority: u8) -> Config {
    Config { version: Version::V3, told_handover: true, ..config(priority) }
}

/// What a router with the word, whose lease runs, says when it leaves.
fn told_farewell(source: Ipv4Addr) -> Input {
    let mut leaver = fenced(told(150));
    leaver.run_to(5000);
    leaver.router.handle(Input::Stop, at(5000));
    let farewell = leaver.router.advert(Priority::RELEASE);
    assert!(farewell.told);
    Input::Datagram(farewell.datagram_v4(source, GROUP, ChecksumForm::PseudoHeader, 1))
}

#[test]
fn vips_are_on_behind_the_fence_when_the_timer_fires() {
    let mut bench = fenced(config(100));
    bench.run_to(3612);
    assert_eq!(
        bench.did(),
        [
            "3608:fence",
            "3608:prepare",
            "3610:advert 100",
            "3610:lease 6600",
            "3610:garp 5",
            "3610:probe",
            "3610:add",
            "3610:notify MASTER",
            "3612:advert 100",
            "3612:lease 6602",
        ],
    );
}

#[test]
fn a_master_that_speaks_after_all_has_the_vips_taken_off_again() {
    let mut bench = fenced(config(100));
    bench.run_to(3609);
    assert_eq!(bench.did(), ["3608:fence", "3608:prepare"]);
    bench.hears(HIGH, 150);
    assert_eq!(bench.did(), ["3609:fence", "3609:remove", "3609:standby"]);
    bench.run_to(7200);
    assert!(bench.did().is_empty(), "BACKUP, nothing held");

    for input in
        [Input::Stop, Input::Interface { name: "eth0".into(), up: false }, Input::Fence(false)]
    {
        let mut bench = fenced(config(100));
        bench.run_to(3609);
        bench.did();
        bench.input(input.clone());
        let did = bench.did().join(" ");
        assert!(did.contains("3609:fence 3609:remove"), "{input:?}: {did}");
        assert!(did.contains("standby"), "{input:?}: {did}");
    }
}

#[test]
fn nothing_is_prepared_while_another_may_hold_a_lease_or_without_a_fence() {
    // Its skew is so short that the master's lease may run until 2 ms before the timer fires.
    let mut eager = fenced(Config {
        version: Version::V3,
        interval: AdvertInterval::from_centis(1).expect("10 ms"),
        ..config(254)
    });
    eager.run_to(10);
    eager.hears(HIGH, 254);
    eager.run_to(39);
    assert!(eager.did().is_empty());

    let mut bench = Bench::backup(config(100));
    bench.run_to(3609);
    assert!(bench.did().is_empty());
    bench.run_to(3610);
    assert!(!bench.did().iter().any(|word| word.contains("prepare")));
}

#[test]
fn the_farewell_of_the_preempted_master_ends_the_guard() {
    let mut bench = fenced(config(100));
    for step in 1..=5 {
        bench.run_to(step * 700);
        bench.hears(HIGH, 50);
    }
    bench.run_to(3611);
    assert_eq!(bench.did(), ["3610:advert 100", "3610:fence", "3610:prepare"]);
    bench.hears(LOW, 0);
    assert_eq!(bench.did(), ["3611:advert 100"], "a stranger's: answered, no more");
    bench.now = 3612;
    bench.hears(HIGH, 0);
    bench.run_to(3620);
    assert_eq!(
        bench.did(),
        [
            "3612:lease 6601",
            "3612:garp 5",
            "3612:probe",
            "3612:add",
            "3612:notify MASTER",
            "3612:advert 100",
            "3612:lease 6602",
            "3614:advert 100",
            "3614:lease 6604",
        ],
    );
}

#[test]
fn a_master_that_yields_says_so_once_it_is_fenced() {
    let mut bench = fenced(config(100));
    bench.run_to(5000);
    bench.did();
    bench.hears(LOW, 150);
    let order = ["fence", "advert 0", "remove", "notify BACKUP", "standby"];
    assert_eq!(bench.did(), order.map(|word| format!("5000:{word}")));
    assert!(!bench.router.advert(Priority::RELEASE).told, "nobody has to hurry");

    let mut late = fenced(config(100));
    late.run_to(5000);
    late.now = 9000;
    late.did();
    late.hears(LOW, 150);
    assert!(!late.did().iter().any(|word| word.contains("advert")), "its lease had run out");
}

#[test]
fn a_told_backup_advertises_at_once_and_forwards_after_the_guard() {
    let mut bench = fenced(told(100));
    bench.run_to(100);
    bench.hears(HIGH, 150);
    bench.run_to(200);
    bench.input(told_farewell(HIGH));
    bench.run_to(203);
    assert_eq!(
        bench.did(),
        [
            "200:advert 100",
            "200:fence",
            "200:prepare",
            "201:advert 100",
            "201:probe",
            "202:lease 3191",
            "202:garp 5",
            "202:probe",
            "202:add",
            "202:notify MASTER",
        ],
    );
}

#[test]
fn a_told_backup_that_hears_a_better_one_has_never_forwarded() {
    let mut bench = fenced(told(100));
    bench.run_to(100);
    bench.hears(HIGH, 150);
    bench.input(told_farewell(HIGH));
    bench.did();
    bench.hears(LOW, 120);
    let order = ["fence", "advert 0", "remove", "standby"];
    assert_eq!(bench.did(), order.map(|word| format!("100:{word}")));
    assert_eq!(bench.router.state(), VrrpState::Backup);
}

#[test]
fn a_told_hand_over_is_forgotten_once_it_is_done() {
    let mut bench = fenced(told(100));
    bench.run_to(100);
    bench.hears(HIGH, 150);
    bench.run_to(200);
    bench.input(told_farewell(HIGH));
    bench.run_to(300);
    assert_eq!(bench.router.state(), VrrpState::Master);
    bench.input(Input::Interface { name: "eth0".into(), up: false });
    bench.run_to(20_000);
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    bench.did();
    bench.run_to(30_000);
    let did = bench.did();
    let at = |word: &str| {
        let found = did.iter().find(|it| it.contains(word)).expect(word);
        found.split(':').next().map(str::to_owned)
    };
    assert_eq!(at(":advert 100"), at(":add"), "nobody is waited for: {did:?}");
}

#[test]
fn the_mark_is_for_those_with_the_word_and_a_fence() {
    // Without the word here.
    let mut bench = fenced(Config { told_handover: false, ..told(100) });
    bench.hears(HIGH, 150);
    bench.input(told_farewell(HIGH));
    assert_eq!(bench.adverts(), 0, "the skew is waited for");
    bench.run_to(700);
    assert_eq!(bench.adverts(), 2);
    // From another router than the master.
    let mut bench = fenced(told(100));
    bench.hears(HIGH, 150);
    bench.input(told_farewell(LOW));
    bench.run_to(1000);
    assert_eq!(bench.adverts(), 0, "its master lives");
    // A worse one was told before us.
    let mut bench = fenced(told(100));
    bench.hears(HIGH, 50);
    bench.hears(LOW, 40);
    bench.input(told_farewell(HIGH));
    assert_eq!(bench.adverts(), 1, "it is preempted at once");
    // Without a fence, or in version 2, the leaver does not mark.
    for (fence, version) in [(false, Version::V3), (true, Version::V2)] {
        let mut leaver = Bench::backup(Config { version, ..told(150) });
        leaver.input(Input::Fence(fence));
        leaver.run_to(5000);
        leaver.input(Input::Stop);
        assert!(!leaver.router.advert(Priority::RELEASE).told, "{fence} {version:?}");
    }
}
