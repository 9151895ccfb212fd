//! `cargo xtask bench --only verdict` runs this: how long a checker's verdict takes to the data plane's
//! maps, on a host with many connections; prints a line, writes JSON.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use lb_tests::{
    failover::health,
    host::{self, Program},
    netns,
};

/// From verdict to map.
#[derive(Debug, Parser)]
struct Arguments {
    /// File for the result.
    #[arg(long, default_value = "target/verdict.json")]
    json: PathBuf,
    /// Times all servers of a pool fail and come back.
    #[arg(long, default_value_t = 10)]
    turns: u32,
    /// Connections that stand in the table meanwhile.
    #[arg(long, default_value_t = health::STANDING)]
    standing: u32,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    netns::available().map_err(|why| anyhow!("the bench needs root and iproute2: {why}"))?;
    host::available(Program::Lbd).map_err(|why| anyhow!(why))?;
    let found = health::measure(arguments.turns, arguments.standing)?;
    println!("{}", found.line());
    std::fs::write(&arguments.json, serde_json::to_vec_pretty(&found)?)
        .with_context(|| format!("cannot write {}", arguments.json.display()))?;
    println!("written: {}", arguments.json.display());
    Ok(())
}
