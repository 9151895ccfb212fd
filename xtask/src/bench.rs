//! `cargo xtask bench`: nanoseconds per packet of the shipped kernel object.
//!
//! The kernel measures (`BPF_PROG_TEST_RUN`) and the object is always an optimised build, so the
//! program that asks it to is built like any test.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::Args;

/// What to measure and where to write it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// File for the result.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// Times each case is run, the cases taking turns.
    #[arg(long, default_value_t = 12)]
    rounds: u32,
    /// Packets in each run.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u32,
}

/// Measures, prints a table, writes JSON.
///
/// # Errors
/// When the bench cannot be built or run (it needs root and the BPF toolchain).
pub fn run(arguments: &Arguments) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--package", "lb-tests", "--bin", "xdp-bench", "--"])
        .arg(&arguments.json)
        .args([arguments.rounds.to_string(), arguments.packets.to_string()])
        .env("LBD_REQUIRE_BPF", "1")
        .env_remove("AYA_BUILD_SKIP")
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("the bench failed ({status})");
    }
    Ok(())
}
