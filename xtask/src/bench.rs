//! `cargo xtask bench`: builds the release lab and lets its bench measure.

use anyhow::{Result, bail};
use clap::Args;

/// Nothing yet to choose.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Measures.
///
/// # Errors
/// Always, for now: the bench is not in this build.
pub fn run(_arguments: &Arguments) -> Result<()> {
    bail!("the bench is not in this build yet")
}
