//! `cargo xtask fuzz`: the targets of tests/fuzz under libFuzzer, each for a while.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::shell::{command, output, root, run as run_command};

/// What to fuzz, and for how long.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only this target [default: every file of tests/fuzz/fuzz_targets].
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// How to get cargo-fuzz, when it is not there.
pub const INSTALL: &str = "rustup run nightly cargo install --locked cargo-fuzz";

/// Whether `cargo fuzz` can be called.
pub fn available() -> bool {
    output("cargo", &["fuzz", "--version"]).is_some()
}

/// Runs them one after the other. New inputs stay below target/; what breaks an oracle is written
/// by cargo-fuzz to tests/fuzz/artifacts and belongs into the corpus once it is mended.
///
/// # Errors
/// When cargo-fuzz is missing, a target does not exist, or an oracle is broken.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !available() {
        bail!("cargo-fuzz is missing: {INSTALL}");
    }
    let targets = targets()?;
    let chosen: Vec<_> = match &arguments.target {
        None => targets,
        Some(name) if targets.contains(name) => vec![name.clone()],
        Some(name) => bail!("no fuzz target `{name}`; there are: {}", targets.join(", ")),
    };
    for target in chosen {
        let found = root().join("target/fuzz").join(&target);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let corpus = root().join("tests/fuzz/corpus").join(&target);
        let words = ["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir", "tests/fuzz", &target];
        let mut fuzz = command("rustup", &words);
        // libFuzzer writes what it finds into the first corpus.
        fuzz.arg(&found).arg(&corpus).arg("--");
        fuzz.arg(format!("-max_total_time={}", arguments.seconds));
        fuzz.args(["-timeout=10", "-rss_limit_mb=2048", "-max_len=4096"]);
        fuzz.env("AYA_BUILD_SKIP", "1")
            .env_remove("LBD_REQUIRE_BPF")
            .env_remove("RUSTUP_TOOLCHAIN");
        run_command(fuzz).with_context(|| format!("fuzz target {target}"))?;
    }
    Ok(())
}

/// Names of the targets, sorted.
fn targets() -> Result<Vec<String>> {
    let directory = root().join("tests/fuzz/fuzz_targets");
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_a_name_in_its_manifest() {
        let manifest = fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).expect("manifest");
        let targets = targets().expect("targets");
        assert!(!targets.is_empty());
        for target in targets {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
            assert!(root().join("tests/fuzz/corpus").join(&target).is_dir(), "{target}");
        }
    }
}
