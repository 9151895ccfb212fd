//! Written scenarios.

use lb_userspace::vrrp::wire::{ChecksumForm, GROUP};

use super::{network::DELAY, setup::Weather, *};

/// Two forwarders for longer than this is a failure.
const OVERLAP: u64 = 2 * DELAY;

fn sim(priorities: &[u8], seed: u64) -> Sim {
    Sim::new(Setup::plain(priorities), seed, None)
}

impl Sim {
    fn settle(&mut self, what: &dyn std::fmt::Debug) {
        self.finish();
        if let Some(failure) = self.failure() {
            panic!("{failure}: {what:?}");
        }
    }
}

/// Seconds to wait, then what happens.
type Scenario = &'static [(u64, Op)];

#[test]
fn one_forwarder_through_pauses_crashes_and_partitions() {
    let scenarios: &[Scenario] = &[
        &[(10, Op::Stop(0)), (5, Op::Restart(0))],
        &[(10, Op::Crash(0)), (2, Op::Restart(0)), (9, Op::Crash(0)), (8, Op::Restart(0))],
        &[(10, Op::Pause(0)), (2, Op::Resume(0)), (9, Op::Pause(0)), (9, Op::Resume(0))],
        &[(10, Op::Pause(1)), (9, Op::Resume(1)), (1, Op::Crash(0)), (5, Op::Crash(1))],
        &[(10, Op::Cut(0, 1)), (9, Op::Heal), (9, Op::Crash(0)), (5, Op::Restart(0))],
        &[(10, Op::Priority(1, 200)), (9, Op::Pause(1)), (5, Op::Resume(1))],
    ];
    for (index, scenario) in scenarios.iter().enumerate() {
        for seed in 1..20 {
            for priorities in [&[150, 100][..], &[150, 120, 90]] {
                let mut sim = sim(priorities, seed * 7919);
                for (wait, op) in *scenario {
                    sim.run(wait * 1000 * MS);
                    sim.apply(*op);
                }
                let overlap = sim.worst_overlap();
                assert!(overlap <= OVERLAP, "scenario {index}, seed {seed}: {overlap} ns");
                sim.settle(&(index, seed));
            }
        }
    }
}

/// After convergence, on a network that loses every fourth advert but never two in a row.
#[test]
fn one_forwarder_on_a_lossy_network() {
    for seed in 1..100 {
        let setup = Setup { weather: Weather::Lossy, ..Setup::plain(&[150, 100]) };
        let mut sim = Sim::new(setup, seed * 104_729, None);
        sim.run(10_000 * MS);
        sim.stormy = true;
        for priority in [200, 50, 200] {
            sim.apply(Op::Priority(1, priority));
            sim.run(15_000 * MS);
        }
        assert!(sim.worst_overlap() <= OVERLAP, "seed {seed}: {} ns", sim.worst_overlap());
        sim.settle(&seed);
    }
}

/// The peer forwards after its skew, though the lease that cannot be ended runs on for two seconds; and the better
/// host comes back when its map does.
#[test]
fn a_master_whose_lease_cannot_be_written_leaves_to_its_peer() {
    let mut at_once = 0;
    for seed in 1..100 {
        let mut sim = sim(&[150, 100], seed * 7919);
        sim.run(10_000 * MS);
        assert!(sim.forwards(0) && !sim.forwards(1), "seed {seed}");
        sim.apply(Op::Lease(0, false));
        // Its next advert, and the skew of 100.
        sim.run((1000 + 610 + 10) * MS);
        assert_eq!(sim.nodes[0].vips, 0, "seed {seed}");
        at_once += u32::from(sim.forwards(1) && sim.nodes[1].vips == 1);
        sim.run(20_000 * MS);
        assert!(!sim.forwards(0) && sim.forwards(1), "seed {seed}");
        let state = sim.nodes[0].router.as_ref().map(Router::state);
        assert_eq!(state, Some(VrrpState::Fault), "seed {seed}");
        sim.apply(Op::Lease(0, true));
        sim.run(5000 * MS);
        assert!(sim.forwards(0) && !sim.forwards(1), "seed {seed}");
        sim.settle(&seed);
    }
    // Elsewhere the farewell overtakes the advert before it, which this network lets happen.
    assert!(at_once > 40, "{at_once} of 99");
}

/// SIGKILL or SIGSTOP of everything on the master: it is silent before the peer forwards.
#[test]
fn a_dead_or_stopped_master_is_fenced_before_the_peer_takes_over() {
    for op in [Op::Crash(0), Op::Pause(0)] {
        let mut sim = sim(&[150, 100], 7);
        sim.run(10_000 * MS);
        assert!(sim.forwards(0) && !sim.forwards(1));
        sim.apply(op);
        let mut silent = 0;
        for _ in 0..4000 {
            sim.run(MS);
            assert!(!(sim.forwards(0) && sim.forwards(1)), "{op:?}");
            silent += u64::from(!sim.forwards(0) && !sim.forwards(1));
        }
        assert!(sim.forwards(1), "{op:?}");
        assert!((600..700).contains(&silent), "fenced for margin and skew, {silent} ms");
    }
}

/// A crash of the vrrp process alone, restarted at once, costs nothing.
#[test]
fn a_restart_within_the_lease_resumes() {
    let mut sim = sim(&[150, 100], 3);
    sim.run(10_000 * MS);
    sim.apply(Op::Crash(0));
    sim.run(1500 * MS);
    sim.apply(Op::Restart(0));
    for _ in 0..8000 {
        sim.run(MS);
        assert!(sim.forwards(0) && !sim.forwards(1));
    }
}

/// A master that hangs at any moment of the interval before it is preempted cannot hear that.
#[test]
fn a_master_that_hangs_just_before_it_is_preempted_forwards_alone_until_its_lease_ends() {
    let mut waited = 0;
    for seed in 1..60 {
        let mut sim = sim(&[150, 100], seed * 7919);
        sim.run((10_000 + seed * 17) * MS);
        sim.apply(Op::Priority(1, 200));
        // Its timer runs on through adverts of a lower master. Some time of an interval before:
        let fires = sim.timer(1).expect("a backup has a timer");
        let hang = fires.saturating_sub(seed * 16 * MS).max(sim.now);
        sim.run(hang - sim.now);
        assert!(sim.forwards(0));
        sim.apply(Op::Pause(0));
        let from = sim.now;
        while !sim.forwards(1) {
            sim.run(MS);
            assert!(sim.now < from + 5000 * MS, "seed {seed}: no takeover");
        }
        waited += u64::from(sim.now > from + 1500 * MS);
        sim.run(4000 * MS);
        assert!(sim.worst_overlap() <= OVERLAP, "seed {seed}: {} ns", sim.worst_overlap());
        sim.settle(&seed);
    }
    assert!(waited > 25, "the hung master's lease was waited for in {waited} of 59 runs");
}

/// Of two backups that take over together, the worse one misses the better one's first advert.
#[test]
fn a_lost_first_advert_of_a_takeover_is_repeated_in_time() {
    for lower in [149, 148, 100, 1] {
        let mut sim = sim(&[200, 150, lower], 11);
        sim.run(10_000 * MS);
        sim.apply(Op::Crash(0));
        // The takeover is at 3 s and 106/256 s after its last advert.
        while sim.nodes[1].router.as_ref().is_some_and(|it| it.counters().advert_sent == 0) {
            sim.lose_next.extend([(1, 2), (1, 0)]);
            sim.run(MS / 2);
        }
        sim.lose_next.clear();
        sim.run(2000 * MS);
        assert_eq!(sim.worst_overlap(), 0, "priority {lower}");
        assert!(sim.forwards(1) && !sim.forwards(2));
        let sent = sim.nodes[2].router.as_ref().map_or(1, |it| it.counters().advert_sent);
        assert_eq!(sent, 0, "priority {lower} never took over");
    }
}

/// Longest time in which nobody forwarded during the next 50 ms, in nanoseconds.
fn longest_silence(sim: &mut Sim) -> u64 {
    let (end, mut silent_since, mut longest) = (sim.now + 50 * MS, None, 0);
    while sim.now < end {
        sim.run(20_000);
        if (0..sim.nodes.len()).any(|node| sim.forwards(node)) {
            silent_since = None;
        } else {
            longest = longest.max(sim.now - *silent_since.get_or_insert(sim.now));
        }
    }
    longest
}

/// The master yields when it hears the better router, and that one forwards when it hears so.
#[test]
fn a_preempting_router_takes_over_within_two_network_delays() {
    for (fences, least, most) in [(true, 0, DELAY + 100_000), (false, 15 * MS, 25 * MS)] {
        for seed in 1..30 {
            let mut setup = Setup::plain(&[150, 100, 60]);
            setup.words.iter_mut().for_each(|words| words.fences = fences);
            let mut sim = Sim::new(setup, seed * 7919, None);
            sim.run(10_000 * MS);
            sim.apply(Op::Priority(1, 200));
            let fires = sim.timer(1).expect("a backup has a timer");
            sim.run(fires - sim.now - MS);
            let silence = longest_silence(&mut sim);
            assert!(sim.forwards(1), "seed {seed}, {fences}");
            assert!((least..=most).contains(&silence), "seed {seed}, {fences}: {silence} ns");
            sim.run(3000 * MS);
            assert_eq!(sim.worst_overlap(), 0, "seed {seed}");
            let third = sim.nodes[2].router.as_ref().map_or(1, |it| it.counters().advert_sent);
            assert_eq!(third, 0, "seed {seed}: the farewell moved a third router");
            sim.settle(&seed);
        }
    }
}

/// VRRPv3, `told_handover` everywhere.
fn told(priorities: &[u8]) -> Setup {
    let mut setup = Setup { version: Version::V3, ..Setup::plain(priorities) };
    setup.words.iter_mut().for_each(|words| words.told = true);
    setup
}

const TOLD_CLUSTERS: [&[u8]; 4] =
    [&[150, 100], &[150, 100, 99], &[150, 90, 90, 60], &[150, 90, 90, 90, 90]];

/// Two to five hosts with the word: one of the best takes over at once, and nobody beside it.
#[test]
fn a_told_hand_over_takes_milliseconds_and_makes_one_master() {
    let (mut runs, mut slow) = (0, 0);
    for priorities in TOLD_CLUSTERS {
        for seed in 1..60 {
            let mut sim = Sim::new(told(priorities), seed * 7919, None);
            sim.run((10_000 + seed * 17) * MS);
            sim.apply(Op::Stop(0));
            let silence = longest_silence(&mut sim);
            // An advert of a router that has yielded came after its farewell: the guard is as long
            // as for a master that lives.
            assert!(silence < 25 * MS, "seed {seed}, {priorities:?}: {silence} ns");
            (runs, slow) = (runs + 1, slow + u64::from(silence > 4 * MS));
            let heirs: Vec<usize> = (0..sim.nodes.len()).filter(|it| sim.forwards(*it)).collect();
            let [heir] = heirs[..] else { panic!("seed {seed}, {priorities:?}: {heirs:?}") };
            assert_eq!(priorities[heir], priorities[1], "seed {seed}, {priorities:?}");
            sim.run(3000 * MS);
            assert!(sim.forwards(heir), "seed {seed}, {priorities:?}");
            assert_eq!(sim.worst_overlap(), 0, "seed {seed}, {priorities:?}");
        }
    }
    assert!(slow * 20 < runs, "{slow} of {runs} took long");
}

/// Longest time in which two forward after told hand-overs.
pub(super) fn told_overlap(bug: Option<Bug>) -> u64 {
    let seeds = 1..20;
    let overlaps = seeds.map(|seed| {
        let mut sim = Sim::new(told(&[150, 90, 90, 90, 90]), seed * 7919, bug);
        sim.run(10_000 * MS);
        sim.apply(Op::Stop(0));
        sim.run(100 * MS);
        sim.worst_overlap()
    });
    overlaps.max().unwrap_or(0)
}

/// A backup without the word, or a master without it: the skew is waited for, as ever.
#[test]
fn a_hand_over_that_one_side_does_not_know_takes_the_skew() {
    for with in 0..2 {
        let mut setup = told(&[150, 100]);
        setup.words[1 - with].told = false;
        let mut sim = Sim::new(setup, 7, None);
        sim.run(10_000 * MS);
        sim.apply(Op::Stop(0));
        sim.run(609 * MS);
        assert!(!sim.forwards(1), "only {with} has the word");
        sim.run(2 * MS);
        assert!(sim.forwards(1), "only {with} has the word");
    }
}

/// A router preempts a master that hangs, and hears a third one's farewell while it waits. What
/// failed, if anything did.
pub(super) fn strangers_farewell(bug: Option<Bug>) -> Option<String> {
    let mut sim = Sim::new(Setup::plain(&[150, 100]), 7, bug);
    sim.run(10_000 * MS);
    sim.apply(Op::Priority(1, 200));
    let fires = sim.timer(1).expect("a backup has a timer");
    sim.run(fires - sim.now - MS);
    sim.apply(Op::Pause(0));
    let guards = |it: &Router| it.standing() == Standing::Announcing;
    while !sim.nodes[1].router.as_ref().is_some_and(guards) {
        sim.run(MS);
        assert!(sim.now < fires + 50 * MS, "no guard");
    }
    let router = sim.nodes[1].router.as_ref().expect("runs");
    let stranger = Ipv4Addr::new(10, 77, 0, 99);
    let farewell = router.advert(Priority::RELEASE);
    let bytes = farewell.datagram_v4(stranger, GROUP, ChecksumForm::PseudoHeader, 1);
    sim.feed(1, Input::Datagram(bytes), None);
    sim.run(5000 * MS);
    assert!(sim.failure.is_some() || sim.forwards(1));
    sim.failure
}

#[test]
fn a_strangers_farewell_does_not_end_the_guard() {
    assert_eq!(strangers_farewell(None), None);
}

/// VRRPv2 discards another advert_int: between the reload of one host and that of the other, in
/// either order, the backup waits for the lease of before.
#[test]
fn a_shorter_interval_host_by_host_moves_nothing() {
    for (first, second) in [(0, 1), (1, 0)] {
        for after in 0..20 {
            let mut setup = Setup::plain(&[150, 100]);
            let five = AdvertInterval::from_centis(500).expect("an interval");
            setup.words.iter_mut().for_each(|words| words.interval = five);
            let mut sim = Sim::new(setup, 7919 * (after + 1), None);
            sim.run(60_000 * MS + after * 500 * MS);
            let moves = sim.moves();
            sim.apply(Op::Interval(first, 100));
            sim.run(8000 * MS);
            sim.apply(Op::Interval(second, 100));
            sim.run(5000 * MS);
            assert_eq!(sim.moves(), moves, "{first} first, after {after}");
            // Who hangs now is silent when the other takes over.
            sim.apply(Op::Pause(0));
            sim.run(5000 * MS);
            assert_eq!(sim.failure(), None, "{first} first, after {after}");
            assert!(sim.forwards(1) && !sim.forwards(0), "{first} first, after {after}");
            assert_eq!(sim.worst_overlap(), 0);
        }
    }
}

/// A master that hangs right after the reload of both.
#[test]
fn a_shorter_interval_does_not_leave_the_lease_of_before() {
    for after in 0..20 {
        let mut setup = Setup::plain(&[150, 100]);
        let five = AdvertInterval::from_centis(500).expect("an interval");
        setup.words.iter_mut().for_each(|words| words.interval = five);
        let mut sim = Sim::new(setup, 7919 * (after + 1), None);
        sim.run(60_000 * MS + after * 500 * MS);
        sim.apply(Op::Intervals(100));
        sim.apply(Op::Pause(0));
        for _ in 0..35_000 {
            sim.run(MS);
            assert!(!(sim.forwards(0) && sim.forwards(1)), "after {after}");
        }
        assert_eq!(sim.failure(), None, "after {after}");
        assert!(sim.forwards(1));
    }
}

/// Somebody removes a VIP of one member of a sync group.
#[test]
fn a_sync_group_that_lost_a_vip_is_back_after_its_skew() {
    let mut sim = Sim::new(Setup { width: 2, ..Setup::plain(&[150, 100]) }, 7, None);
    sim.run(10_000 * MS);
    assert!(sim.forwards(0) && sim.forwards(1));
    sim.feed(0, Input::VipLost { address: setup::vip(0).into() }, None);
    sim.run(100 * MS);
    assert!(!(0..4).any(|node| sim.forwards(node)));
    // The skews are 0.41 s and 0.61 s.
    sim.run(500 * MS);
    assert!(sim.forwards(0) && sim.forwards(1), "it did not come back");
    sim.run(5000 * MS);
    assert!(!sim.forwards(2) && !sim.forwards(3));
    sim.settle(&"a lost VIP");
}
