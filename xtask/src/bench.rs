//! `cargo xtask bench`: what a packet costs, and what a fail-over costs a client.
//!
//! Packets: nanoseconds per packet of the shipped kernel object. The kernel measures
//! (`BPF_PROG_TEST_RUN`) and the object is always an optimised build, so the program that asks it
//! to is built like any test. Fail-over: the released lbd beside real keepalived.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::build;

/// What to measure and where to write it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this part; without it packets and failover.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Directory for the results, bench.json and failover.json.
    #[arg(long, default_value = "target")]
    json_dir: PathBuf,
    /// Times each packet case is run, the cases taking turns.
    #[arg(long, default_value_t = 12)]
    rounds: u32,
    /// Packets in each run.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u32,
    /// Arguments of the fail-over (or verdict) bench after `--`, such as `--paces 100 --rounds 3`.
    #[arg(last = true)]
    failover: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Packets,
    Failover,
    /// From a checker's verdict to the maps; part of the fail-over bench otherwise.
    Verdict,
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
        bench("xdp-bench", [file].into_iter().chain(numbers))?;
    }
    let (name, file) = match arguments.only {
        Some(Part::Packets) => return Ok(()),
        Some(Part::Verdict) => ("verdict-bench", "verdict.json"),
        _ => ("failover-bench", "failover.json"),
    };
    build::run(build::What::Daemon)?;
    let file = arguments.json_dir.join(file).display().to_string();
    let words = ["--json".to_owned(), file].into_iter();
    bench(name, words.chain(arguments.failover.iter().cloned()))?;
    Ok(())
}

fn bench(name: &str, words: impl Iterator<Item = String>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--package", "lb-tests", "--bin", name, "--"])
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
