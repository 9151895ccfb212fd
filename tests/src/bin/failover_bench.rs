//! `cargo xtask bench --only failover` runs this: faults in a pair of lbd and in a pair of real
//! keepalived, turn by turn; prints a table, writes JSON.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use lb_tests::{
    failover::{
        Fault, Pace,
        crowd::{self, Crowd},
        health::{self, Health2Map},
        pair::{Measure, Pair},
        report::{self, Key, Line},
        rhythm::{self, Rhythm},
        start::{self, Start},
        targets,
    },
    host::{self, Program},
    netns,
};
use serde::Serialize;

/// Fail-over of lbd beside keepalived.
#[derive(Debug, Parser)]
struct Arguments {
    /// File for the result.
    #[arg(long, default_value = "target/failover.json")]
    json: PathBuf,
    /// A look in a quarter of an hour in place of some hours: three rounds, one minute of soak. Its
    /// figures are not to be quoted.
    #[arg(long)]
    quick: bool,
    /// Times each fault strikes each pair; ten without it, three with `--quick`.
    #[arg(long)]
    rounds: Option<u32>,
    /// Advert intervals in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "1000,100,10")]
    paces: Vec<u32>,
    /// Times each program is started alone, for its first advert.
    #[arg(long, default_value_t = 5)]
    starts: u32,
    /// Faults to measure; all without it.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Parts to run.
    #[arg(long, value_delimiter = ',', default_value = "faults,starts,rhythm,crowd,verdicts")]
    parts: Vec<Part>,
    /// Seconds of each look at the advert rhythm.
    #[arg(long, default_value_t = 15)]
    rhythm: u64,
    /// Seconds among four busy loops in which no takeover may happen, and adverts keep their period; in
    /// place of `--minutes`.
    #[arg(long)]
    soak: Option<u64>,
    /// The same in minutes: zero false fail-overs in ten, which is meant without it, are the
    /// target; one with `--quick`.
    #[arg(long)]
    minutes: Option<u64>,
    /// Times all servers of a pool fail and come back.
    #[arg(long, default_value_t = 10)]
    verdicts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Faults,
    Starts,
    Rhythm,
    Crowd,
    Verdicts,
}

#[derive(Debug, Serialize)]
struct Report {
    failover: Vec<Line>,
    start: Vec<Start>,
    rhythm: Vec<Rhythm>,
    crowd: Vec<Crowd>,
    health_to_map: Option<Health2Map>,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    if arguments.faults.is_empty() {
        arguments.faults = Fault::ALL.to_vec();
    }
    let (rounds, minutes) = if arguments.quick { (3, 1) } else { (10, 10) };
    let rounds = arguments.rounds.unwrap_or(rounds);
    let soak = arguments.soak.unwrap_or_else(|| arguments.minutes.unwrap_or(minutes) * 60);
    let part = |part| arguments.parts.contains(&part);
    let programs = [Program::Lbd, Program::Keepalived];
    netns::available().map_err(|why| anyhow!("the bench needs root and iproute2: {why}"))?;
    for program in programs {
        host::available(program).map_err(|why| anyhow!(why))?;
    }
    let paces: Vec<Pace> =
        Pace::ALL.into_iter().filter(|pace| arguments.paces.contains(&pace.advert_ms)).collect();
    let rounds = if part(Part::Faults) { rounds } else { 0 };
    let all = strike(&paces, &programs, &arguments.faults, rounds)?;
    let lines = report::lines(&all, rounds as usize);
    if part(Part::Faults) {
        print!("{}", report::table(&lines));
        println!("medians (least-greatest); outage: longest time without an answer at the client;");
        println!(
            "takeover: fault to the heir's first answer; wire over: from the old master's last"
        );
        println!("word to the heir's first, beyond the timer's limit; client after: from there to");
        println!("the first answer; both: each host asked by its own MAC; silent before: from the");
        println!("old master's last such answer to the heir's first advert; intruding: adverts of");
        println!(
            "the backup where the master should have stayed; target: of lbd's medians, and of"
        );
        println!("every run, disturbed ones too, that two hosts never answer");
    }

    let mut starts = Vec::new();
    for (advert_ms, priority) in
        start::CASES.into_iter().filter(|_| part(Part::Starts) && arguments.starts > 0)
    {
        for program in programs {
            let found = start::measure(program, advert_ms, priority, arguments.starts)?;
            println!("{}", found.line());
            starts.push(found);
        }
    }
    let mut rhythms = Vec::new();
    for (busy, seconds) in [(0, arguments.rhythm), (4, arguments.rhythm), (4, soak)] {
        for program in programs {
            if seconds == 0
                || !part(Part::Rhythm)
                || (busy, seconds) == (4, soak) && program != Program::Lbd
            {
                continue; // the long watch is about lbd
            }
            let found = rhythm::measure(program, busy, Duration::from_secs(seconds))?;
            println!(
                "adverts at 10 ms, {busy} busy loops, {:>4.0} s: {:<11} p50 {:.2}  p99 {:.2}  \
                 max {:.2} ms, {} takeovers",
                found.seconds,
                found.program,
                found.p50_ms,
                found.p99_ms,
                found.max_ms,
                found.takeovers
            );
            rhythms.push(found);
        }
    }
    let mut crowds = Vec::new();
    for program in programs.into_iter().filter(|_| part(Part::Crowd)) {
        let found = crowd::measure(program)?;
        println!(
            "255 instances: {:<11} all up {:.0} ms, CPU {:.2} % of a core, {} processes, \
             RSS {:.1} MB, PSS {:.1} MB",
            found.program,
            found.all_up_ms,
            found.cpu_percent,
            found.processes,
            found.rss_mb,
            found.pss_mb
        );
        for memory in &found.memory {
            println!("  {}", memory.line());
        }
        crowds.push(found);
    }
    let health_to_map = match arguments.verdicts {
        0 => None,
        _ if !part(Part::Verdicts) => None,
        turns => {
            let found = health::measure(turns, health::STANDING)?;
            println!("{}", found.line());
            Some(found)
        }
    };
    let expected: Vec<(Pace, Fault)> = match rounds {
        0 => vec![],
        _ => paces
            .iter()
            .flat_map(|pace| arguments.faults.iter().map(|fault| (*pace, *fault)))
            .collect(),
    };
    println!("{}", targets::summary(&lines, &rhythms, &crowds, &expected));
    let counted = lines.iter().any(|line| line.runs > 0);
    ensure!(rounds == 0 || counted, "nothing was measured undisturbed");
    let report =
        Report { failover: lines, start: starts, rhythm: rhythms, crowd: crowds, health_to_map };
    std::fs::write(&arguments.json, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("cannot write {}", arguments.json.display()))?;
    println!("written: {}", arguments.json.display());
    Ok(())
}

/// So many more rounds may make up for runs in which the client paused, as part of those asked for.
const MORE: u32 = 2;

/// Each fault `rounds` times, in a new pair each time: no run inherits another one's state. What is
/// short of undisturbed runs then strikes again, half as many rounds at most.
fn strike(
    paces: &[Pace],
    programs: &[Program],
    faults: &[Fault],
    rounds: u32,
) -> Result<BTreeMap<Key, Vec<Measure>>> {
    let mut all: BTreeMap<Key, Vec<Measure>> = BTreeMap::new();
    for pace in paces {
        for round in 1..=rounds + rounds.div_ceil(MORE) {
            for program in programs {
                let short = |fault: &Fault| {
                    let measures = all.get(&(*pace, *fault, program.name()));
                    // What a program cannot do is never measured.
                    let good = measures.map(|it| it.iter().filter(|it| !it.disturbed).count());
                    good.is_some_and(|good| good < rounds as usize)
                };
                let again = round > rounds;
                let wanted = faults.iter().filter(|fault| !again || short(fault));
                let wanted: Vec<Fault> = wanted.copied().collect();
                if wanted.is_empty() {
                    continue;
                }
                let measures = Pair::start(*program, *pace)
                    .and_then(|mut pair| pair.round(&wanted))
                    .with_context(|| format!("{} at {} ms", program.name(), pace.advert_ms))?;
                for (fault, measure) in measures {
                    all.entry((*pace, fault, program.name())).or_default().push(measure);
                }
                if again {
                    let names: Vec<&str> = wanted.iter().map(|it| it.name()).collect();
                    eprintln!(
                        "advert {} ms, {}: once more: {}",
                        pace.advert_ms,
                        program.name(),
                        names.join(", ")
                    );
                }
            }
            if round <= rounds {
                eprintln!("advert {} ms: round {round} of {rounds}", pace.advert_ms);
            }
        }
    }
    Ok(all)
}
