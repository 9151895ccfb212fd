//! Random scripts over fixed seeds: whatever happens when, at most one host forwards, and the right
//! one does in the end. A failure names seed and script.

use super::*;

/// Scripts of each kind: half a second. With ten thousand of each one or two still overlap, by
/// what the router's text says is left.
const SCRIPTS: u64 = 300;
/// Steps of one script.
const STEPS: u64 = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Pauses, crashes, restarts, stops, partitions, other priorities; nothing is lost.
    Disturbed,
    /// Stops, restarts, other priorities; a quarter of the packets is lost, never two in a row.
    Lossy,
}

impl Kind {
    /// Longest time of two forwarders. When something is lost, two that take over together may
    /// hear each other with the repeated advert only.
    fn bound(self) -> u64 {
        match self {
            Self::Disturbed => OVERLAP,
            Self::Lossy => OVERLAP + 2 * MS,
        }
    }
}

fn random_op(sim: &mut Sim, kind: Kind) -> Op {
    let node = usize::try_from(sim.random() % 3).expect("small");
    let other = usize::try_from(sim.random() % 3).expect("small");
    let priority = u8::try_from(1 + sim.random() % 254).expect("at most 254");
    let choices = match kind {
        Kind::Disturbed => 10,
        Kind::Lossy => 4,
    };
    match sim.random() % choices {
        0 => Op::Stop(node),
        1 => Op::Restart(node),
        2 | 3 => Op::Priority(node, priority),
        4 | 5 => Op::Pause(node),
        6 => Op::Resume(node),
        7 => Op::Crash(node),
        8 => Op::Cut(node, other),
        _ => Op::Heal,
    }
}

fn run_scripts(kind: Kind) {
    for seed in 1..=SCRIPTS {
        let priorities: &[u8] = if seed % 2 == 0 { &[150, 100] } else { &[150, 120, 90] };
        let mut sim = Sim::new(priorities, seed * 6_700_417, false);
        sim.run(10_000 * MS);
        sim.lossy = kind == Kind::Lossy;
        let mut script = Vec::new();
        for _ in 0..STEPS {
            let op = random_op(&mut sim, kind);
            // Often within an interval, sometimes long enough for a takeover.
            let wait = match sim.random() % 3 {
                0 => sim.random() % (100 * MS),
                1 => sim.random() % (2000 * MS),
                _ => sim.random() % (8000 * MS),
            };
            script.push((sim.now, op));
            sim.apply(op);
            sim.run(wait);
        }
        sim.lossy = false;
        sim.settle(&(kind, seed, &script));
        let overlap = sim.worst_overlap;
        assert!(
            overlap <= kind.bound(),
            "{kind:?}, seed {seed}: two forwarders for {overlap} ns until {:?}\n{script:?}",
            sim.worst_at,
        );
    }
}

#[test]
fn one_forwarder_through_random_disturbance() {
    run_scripts(Kind::Disturbed);
}

#[test]
fn one_forwarder_through_random_loss() {
    run_scripts(Kind::Lossy);
}
