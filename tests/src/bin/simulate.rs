//! The VRRP simulation over many seeds, on every processor: `cargo xtask test` runs 100,000 of the
//! release build. `--trace` prints all that happens in one.
#![forbid(unsafe_code)]

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use clap::Parser;
use lb_tests::sim::random::{self, Script, Shares};

/// Elections in virtual time.
#[derive(Debug, Parser)]
struct Arguments {
    /// First seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 100_000)]
    runs: u64,
    /// Print everything that happens with the first seed, and nothing else.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let Arguments { from, runs, trace } = Arguments::parse();
    if trace {
        let script = Script::of_seed(from);
        let outcome = script.run(None, true);
        println!("{script:#?}\n{}\n{:?}", outcome.trace.join("\n"), outcome.failure);
        return ExitCode::from(u8::from(outcome.failure.is_some()));
    }
    let (next, failed) = (AtomicU64::new(from), AtomicBool::new(false));
    let work = || {
        let mut shares = Shares::default();
        while !failed.load(Relaxed) {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= from + runs {
                break;
            }
            match random::run_seed(seed, None) {
                Ok((weather, share)) => shares.add(weather, share),
                Err(report) => {
                    failed.store(true, Relaxed);
                    println!("{report}");
                }
            }
        }
        shares
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut shares = Shares::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(more) => shares.merge(&more),
                Err(_) => failed.store(true, Relaxed),
            }
        }
    });
    if failed.into_inner() {
        return ExitCode::FAILURE;
    }
    println!("{runs} runs; judged: {shares}");
    match shares.too_small() {
        None => ExitCode::SUCCESS,
        Some(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}
