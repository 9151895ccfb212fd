//! `cargo xtask bench --only config` runs this: large configurations, beside `keepalived -t`; prints
//! tables, writes JSON. Exits with an error when a reload touches more than it names; times are judged by the
//! targets that are printed beside them with `--judge` only, because a debug build or a busy machine misses
//! them.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use lb_tests::{
    config_speed::{
        self, Expansion, OneMore, Pair, Timing,
        live::{self, Live},
    },
    host::{self, Program},
    netns,
};
use serde::Serialize;

/// Large configurations.
#[derive(Debug, Parser)]
struct Arguments {
    /// File for the result.
    #[arg(long, default_value = "target/config.json")]
    json: PathBuf,
    /// Times each program reads each file, in turns.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Real servers of the files that lbd and keepalived read.
    #[arg(long, value_delimiter = ',', default_value = "5000,50000")]
    sizes: Vec<usize>,
    /// Real servers of the reloads that add one more.
    #[arg(long, default_value_t = 10_000)]
    reload: usize,
    /// Fail when a target is missed: 10 times faster than keepalived at 5000 real servers, a plan below
    /// 100 ms at 10000, by itself and as `lbctl reload --plan`.
    #[arg(long)]
    judge: bool,
    /// Parts to run; `live` needs root and the BPF toolchain.
    #[arg(long, value_delimiter = ',', default_value = "check,expansion,reload,live")]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Check,
    Expansion,
    Reload,
    Live,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    check: Vec<Pair>,
    expansion: Option<Expansion>,
    reload: Option<OneMore>,
    live: Option<Live>,
}

fn main() -> Result<()> {
    let Arguments { json, rounds, sizes, reload, judge, parts } = Arguments::parse();
    host::available(Program::Lbd).map_err(|why| anyhow!(why))?;
    let dir = tempfile::tempdir().context("cannot make a scratch directory")?;
    let mut report = Report::default();
    if parts.contains(&Part::Check) {
        println!("parse and check: -t of the whole program, in turns (target at 5000: 10x)");
        for size in sizes {
            let pair = config_speed::beside_keepalived(size, rounds, dir.path())?;
            row(&pair.lbd);
            if !config_speed::within_limits(size) {
                let most = config_speed::REAL_SERVERS;
                println!("  (the data plane holds {most}: lbd checks all of it and refuses it)");
            }
            match &pair.keepalived {
                Some(theirs) => row(theirs),
                None => println!("  keepalived is not installed"),
            }
            if let Some(times) = pair.times_faster {
                println!("  lbd is {times:.1} times faster");
            }
            report.check.push(pair);
        }
    }
    if parts.contains(&Part::Expansion) {
        // 2000 virtual servers would be too many for the data plane; 200 are not.
        let found = config_speed::expansion(200, rounds, dir.path())?;
        println!(
            "expansion: {} bytes of ~SEQ become {} real servers",
            found.written_bytes, found.real_servers
        );
        row(&found.timing);
        println!("  the same written out: {:.1} ms", found.written_out_ms);
        report.expansion = Some(found);
    }
    if parts.contains(&Part::Reload) {
        let found = config_speed::reload(reload, rounds)?;
        println!("one real server more than {reload} (target: plan below 100 ms)");
        println!(
            "  parse and check {:.1} ms, plan {:.1} ms, table and its difference {:.1} ms",
            found.parse_and_check_ms, found.plan_ms, found.compile_and_diff_ms
        );
        println!("  {}; {} objects untouched", found.steps.join(", "), found.untouched);
        println!("  {}", found.operations.join(", "));
        report.reload = Some(found);
    }
    if parts.contains(&Part::Live) {
        netns::available().map_err(|why| anyhow!("part `live` needs root: {why}"))?;
        let found = live::measure(reload, rounds)?;
        println!(
            "the same of a running lbd, as its operator waits (target: --plan below 100 ms), {} reloads",
            found.reloads
        );
        println!(
            "  lbctl reload --plan {:.1} ms (at most {:.1}), lbctl reload {:.1} ms (at most {:.1})",
            found.plan_ms, found.plan_max_ms, found.reload_ms, found.reload_max_ms
        );
        println!("  {} real servers untouched each time", found.real_servers);
        report.live = Some(found);
    }
    std::fs::write(&json, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    println!("written: {}", json.display());
    let missed = config_speed::missed(&report.check, report.reload.as_ref(), report.live.as_ref());
    ensure!(!judge || missed.is_empty(), "{}", missed.join("; "));
    Ok(())
}

fn row(timing: &Timing) {
    let Timing { program, real_servers, bytes, exit_code, min_ms, median_ms, cpu_ms, resident_kib } =
        timing;
    let code = exit_code.map_or_else(|| "given up".to_owned(), |code| format!("exit {code}"));
    println!(
        "  {program:<10} {real_servers:>6} real servers {:>6} KiB  median {median_ms:>9.1} ms  \
         min {min_ms:>9.1} ms  CPU {cpu_ms:>9.1} ms  {:>6} MiB resident  {code}",
        bytes / 1024,
        resident_kib / 1024
    );
}
