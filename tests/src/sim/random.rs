//! Random scripts over seeds: whatever happens when, at most one host forwards, and the right one
//! does in the end. A failure prints seed, shrunk script and trace.
//!
//! `LB_SIM_SEED`, when the tests are built, names one seed to run alone. Seeds are counted from 1:
//! plain `cargo test` runs some hundreds, `cargo xtask test` 100,000.

use super::*;

/// Steps of one script.
const STEPS: usize = 14;
/// Runs of plain `cargo test`.
const RUNS: u64 = 300;
/// Runs of `cargo xtask test`; two minutes on two processors.
const ALL_RUNS: u64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// Pauses, crashes, restarts, stops, partitions, links down, other priorities; nothing is lost.
    Disturbed,
    /// Stops, restarts, other priorities; a quarter of the packets is lost, never two adverts of
    /// one router to another in a row.
    Lossy,
}

/// Everything that a run depends on, from its seed.
#[derive(Clone, Debug)]
struct Script {
    seed: u64,
    weather: Weather,
    priorities: Vec<u8>,
    width: usize,
    /// Nanoseconds to wait after each.
    steps: Vec<(Op, u64)>,
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn index(&mut self, sides: u64) -> usize {
        usize::try_from(self.roll(sides)).expect("small")
    }
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(6_700_417) | 1);
        for _ in 0..8 {
            dice.roll(2);
        }
        let weather = if seed.is_multiple_of(2) { Weather::Disturbed } else { Weather::Lossy };
        let hosts = 2 + dice.index(4);
        let priorities = [150, 120, 90, 90, 60][..hosts].to_vec();
        let width = if dice.roll(4) == 0 { 2 } else { 1 };
        let steps = (0..STEPS).map(|_| {
            let op = Self::op(&mut dice, weather);
            // Often within an interval, sometimes long enough for a takeover.
            let wait = match dice.roll(3) {
                0 => dice.roll(100 * MS),
                1 => dice.roll(2000 * MS),
                _ => dice.roll(8000 * MS),
            };
            (op, wait)
        });
        Self { seed, weather, priorities, width, steps: steps.collect() }
    }

    fn op(dice: &mut Dice, weather: Weather) -> Op {
        let (host, other) = (dice.index(5), dice.index(5));
        // Few values, so that some are equal.
        let priority = u8::try_from(40 + 20 * dice.roll(11)).expect("at most 240");
        let choices = match weather {
            Weather::Disturbed => 15,
            Weather::Lossy => 5,
        };
        match dice.roll(choices) {
            0 => Op::Stop(host),
            1 => Op::Restart(host),
            2 | 3 => Op::Priority(host, priority),
            4 => Op::PreemptDelay(host, u16::try_from(dice.roll(9000)).expect("small")),
            5 | 6 => Op::Pause(host),
            7 | 8 => Op::Resume(host),
            9 => Op::Crash(host),
            10 => Op::Cut(host, other),
            11 => Op::Deaf(host, other),
            12 => Op::Link(host, dice.roll(2) == 0),
            13 => Op::Link(host, true),
            _ => Op::Heal,
        }
    }

    /// Longest time of two forwarders. When something is lost, two that take over together may
    /// hear each other with the repeated advert only.
    fn bound(&self) -> u64 {
        match self.weather {
            Weather::Disturbed => OVERLAP,
            Weather::Lossy => OVERLAP + 2 * MS,
        }
    }

    /// What went wrong, if anything did, and everything that happened, if asked for.
    fn run(&self, bug: Option<Bug>, trace: bool) -> (Option<String>, Vec<String>) {
        let mut sim = Sim::with(&self.priorities, self.width, self.seed * 6_700_417, false, bug);
        if trace {
            sim.trace.reserve(4096);
        }
        sim.run(10_000 * MS);
        sim.lossy = self.weather == Weather::Lossy;
        for (op, wait) in &self.steps {
            if sim.failure.is_some() {
                break;
            }
            sim.apply(*op);
            sim.run(*wait);
            sim.overdue();
        }
        sim.lossy = false;
        sim.finish();
        let (overlap, at) = (sim.worst_overlap, sim.worst_at);
        if overlap > self.bound() {
            sim.fail(|| format!("two forwarders for {overlap} ns until {at}"));
        }
        (sim.failure, sim.trace)
    }

    /// The script without the steps that the failure does not need.
    fn shrunk(&self, bug: Option<Bug>) -> Self {
        let mut best = self.clone();
        let mut at = 0;
        while at < best.steps.len() {
            let mut less = best.clone();
            let (_, wait) = less.steps.remove(at);
            // Time goes on as before, else another moment of another interval is meant.
            if let Some((_, before)) = at.checked_sub(1).and_then(|it| less.steps.get_mut(it)) {
                *before += wait;
            }
            if less.run(bug, false).0.is_some() {
                best = less;
            } else {
                at += 1;
            }
        }
        best
    }
}

/// One run; its failure as a report.
pub(super) fn run_seed(seed: u64, bug: Option<Bug>) -> Result<(), String> {
    let script = Script::new(seed);
    if script.run(bug, false).0.is_none() {
        return Ok(());
    }
    if bug.is_some() {
        return Err(String::new());
    }
    let shrunk = script.shrunk(bug);
    let (failure, trace) = shrunk.run(bug, true);
    let tail = trace.len().saturating_sub(200);
    Err(format!(
        "LB_SIM_SEED={seed}: {}\n{shrunk:#?}\n{}",
        failure.unwrap_or_default(),
        trace[tail..].join("\n")
    ))
}

/// The variable of the environment in which the tests were built: cargo builds them again when it
/// changes, and the core's folder keeps its hands off the operating system.
fn only() -> Option<u64> {
    option_env!("LB_SIM_SEED").and_then(|text| text.parse().ok())
}

fn run_all(seeds: impl Iterator<Item = u64>) {
    for seed in seeds.filter(|seed| only().is_none_or(|only| *seed == only)) {
        if let Err(report) = run_seed(seed, None) {
            panic!("{report}");
        }
    }
}

#[test]
fn some_random_scripts() {
    run_all(1..=RUNS);
}

/// Every fourth seed of all, so that processors share the work.
fn run_quarter(quarter: u64) {
    run_all((1..=ALL_RUNS).filter(|seed| seed % 4 == quarter));
}

#[test]
#[ignore = "a minute: cargo xtask test"]
fn random_scripts_first_quarter() {
    run_quarter(0);
}

#[test]
#[ignore = "a minute: cargo xtask test"]
fn random_scripts_second_quarter() {
    run_quarter(1);
}

#[test]
#[ignore = "a minute: cargo xtask test"]
fn random_scripts_third_quarter() {
    run_quarter(2);
}

#[test]
#[ignore = "a minute: cargo xtask test"]
fn random_scripts_fourth_quarter() {
    run_quarter(3);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..8 {
        let script = Script::new(seed);
        assert_eq!(script.run(None, true), script.run(None, true));
    }
}
