//! `cargo xtask bench`: what a packet costs, and what a fail-over costs a client.
//!
//! Packets: nanoseconds per packet of the shipped kernel object. The kernel measures
//! (`BPF_PROG_TEST_RUN`) and the object is always an optimised build, so the program that asks it
//! to is built like any test. Fail-over: the released lbd beside real keepalived. Configuration: the
//! released lbd beside `keepalived -t`, and reloads of ten thousand real servers.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::build;

/// What to measure and where to write it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this part; without it packets, failover and config.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Directory for the results: bench.json, failover.json, config.json.
    #[arg(long, default_value = "target")]
    json_dir: PathBuf,
    /// Times each packet case is run, the cases taking turns.
    #[arg(long, default_value_t = 12)]
    rounds: u32,
    /// Packets in each run.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u32,
    /// Arguments of the fail-over (or verdict, or config) bench after `--`, such as
    /// `--paces 100 --rounds 3`; with `--only` alone for any but the fail-over bench.
    #[arg(last = true)]
    failover: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Packets,
    Failover,
    /// From a checker's verdict to the maps; part of the fail-over bench otherwise.
    Verdict,
    /// Parse, check, expansion, plan of a reload; built for release.
    Config,
}

/// Measures, prints tables, writes JSON.
///
/// # Errors
/// When a bench cannot be built or run (both need root and the BPF toolchain, the fail-over bench
/// keepalived).
pub fn run(arguments: &Arguments) -> Result<()> {
    if matches!(arguments.only, None | Some(Part::Packets)) {
        let numbers = [arguments.rounds.to_string(), arguments.packets.to_string()];
        let file = arguments.json_dir.join("bench.json").display().to_string();
        bench("xdp-bench", &[], [file].into_iter().chain(numbers))?;
    }
    let parts: &[(&str, &str, &[&str])] = match arguments.only {
        Some(Part::Packets) => return Ok(()),
        Some(Part::Verdict) => &[VERDICT],
        Some(Part::Failover) => &[FAILOVER],
        Some(Part::Config) => &[CONFIG],
        None => &[FAILOVER, CONFIG],
    };
    build::run()?;
    for (name, file, options) in parts {
        let file = arguments.json_dir.join(file).display().to_string();
        let words = ["--json".to_owned(), file].into_iter();
        // Without `--only` they are the fail-over bench's.
        let theirs = arguments.only.is_some() || *name == FAILOVER.0;
        let more = arguments.failover.iter().filter(|_| theirs).cloned();
        bench(name, options, words.chain(more))?;
    }
    Ok(())
}

/// Program, file of its results, options of its build. Of the configuration bench some functions are
/// timed within it, so that it is built like lbd itself.
const FAILOVER: (&str, &str, &[&str]) = ("failover-bench", "failover.json", &[]);
const VERDICT: (&str, &str, &[&str]) = ("verdict-bench", "verdict.json", &[]);
const CONFIG: (&str, &str, &[&str]) = ("config-bench", "config.json", &["--release"]);

fn bench(name: &str, options: &[&str], words: impl Iterator<Item = String>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--package", "lb-tests", "--bin", name])
        .args(options)
        .arg("--")
        .args(words)
        .env("LBD_REQUIRE_BPF", "1")
        .env_remove("AYA_BUILD_SKIP")
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}
