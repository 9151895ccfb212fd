//! `cargo xtask test`: all that CI checks. The last line is `N passed, N failed`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build, setup,
    shell::{command, complain, root, run as run_command, say, words},
    tidy,
};

/// What to leave out, for work at one's desk. CI leaves nothing out.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only the suites that need no root: `cargo test` after the static checks.
    #[arg(long)]
    no_root: bool,
}

/// What [`Shelter`] hides.
const LINKER: &str = "bpf-linker";

/// Counts of one run of `cargo test`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Runs every stage even if an earlier one failed, then sums up.
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut total = Counts::default();
    let mut slow = BTreeMap::new();
    let mut stage = |name: &str, work: &mut dyn FnMut() -> Result<Counts>| {
        say(&format!("== {name}"));
        let begin = Instant::now();
        match work() {
            Ok(counts) => {
                total.passed += counts.passed;
                total.failed += counts.failed;
                total.ignored += counts.ignored;
            }
            Err(err) => {
                complain(&err.context(format!("stage `{name}` failed")));
                total.failed += 1;
            }
        }
        slow.insert(begin.elapsed(), name.to_owned());
    };
    let done = |outcome: Result<()>| outcome.map(|()| Counts { passed: 1, ..Counts::default() });
    stage("setup", &mut || done(setup::run().map(drop)));
    stage("setup again finds nothing to do", &mut || done(nothing_to_do(setup::run())));
    stage("format", &mut || done(run_command(command("cargo", &["fmt", "--all", "--check"]))));
    stage("import rules, unsafe code, file lengths", &mut || done(tidy::run()));
    stage("check, lints and docs without the BPF toolchain", &mut without_bpf);
    if arguments.no_root {
        stage("tests without root", &mut || tests(false));
    } else {
        stage("release build", &mut || done(build::run(build::What::Lab)));
        stage("tests, packet suites, lab and interop", &mut || tests(true));
    }
    for (took, name) in slow.iter().rev().take(3) {
        say(&format!("   {:6.1} s {name}", took.as_secs_f64()));
    }
    if total.ignored > 0 {
        say(&format!("   {} ignored", total.ignored));
    }
    say(&format!("{} passed, {} failed", total.passed, total.failed));
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Set-up is idempotent.
fn nothing_to_do(changed: Result<usize>) -> Result<()> {
    match changed? {
        0 => Ok(()),
        steps => bail!("{steps} steps of setup changed this machine once more"),
    }
}

/// What a contributor's editor runs must work on a machine without bpf-linker and nightly.
fn without_bpf() -> Result<Counts> {
    let shelter = Shelter::new()?;
    let tasks: [&[&str]; 3] = [
        &["check", "--workspace", "--exclude", "lb-ebpf", "--all-targets", "--locked"],
        &["clippy", "--workspace", "--exclude", "lb-ebpf", "--all-targets", "--", "-D", "warnings"],
        &["doc", "--workspace", "--exclude", "lb-ebpf", "--no-deps", "--locked"],
    ];
    for words in tasks {
        let mut cargo = command("cargo", words);
        cargo.env("PATH", &shelter.path).env("AYA_BUILD_SKIP", "1").env_remove("LBD_REQUIRE_BPF");
        cargo.env("RUSTDOCFLAGS", "-D warnings");
        run_command(cargo)?;
    }
    Ok(Counts { passed: tasks.len() as u64, ..Counts::default() })
}

/// A PATH on which everything is found but bpf-linker: its directory is replaced by links to the
/// other programs in it.
struct Shelter {
    directory: PathBuf,
    path: OsString,
}

impl Shelter {
    fn new() -> Result<Self> {
        let directory = root().join("target/without-bpf-linker");
        let _ = fs::remove_dir_all(&directory); // of a run that was killed
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut shelter = Self { directory, path: OsString::new() };
        let mut places = Vec::new();
        for place in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
            if place.join(LINKER).exists() {
                shelter.link(&place)?;
                places.push(shelter.directory.clone());
            } else {
                places.push(place);
            }
        }
        shelter.path = std::env::join_paths(places).context("PATH")?;
        Ok(shelter)
    }

    fn link(&self, place: &Path) -> Result<()> {
        for entry in fs::read_dir(place).with_context(|| place.display().to_string())? {
            let entry = entry?;
            let link = self.directory.join(entry.file_name());
            if entry.file_name() != LINKER && !link.exists() {
                std::os::unix::fs::symlink(entry.path(), &link)
                    .with_context(|| format!("cannot link {}", link.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Shelter {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// `cargo test`, its output passed through and its results counted. Tests that need root are marked
/// `#[ignore]` or, in the suites `check_*`, `plane_*` and `xdp_*`, say SKIPPED and pass without it; with
/// `root` all run, and a skip inside one is a failure.
fn tests(root: bool) -> Result<Counts> {
    let mut arguments =
        vec!["test", "--workspace", "--exclude", "lb-ebpf", "--locked", "--no-fail-fast"];
    if root {
        arguments.extend(["--", "--include-ignored"]);
    }
    let mut cargo = command("cargo", &arguments);
    if root {
        cargo.env("LB_NO_SKIP", "1").env("LBD_REQUIRE_BPF", "1").env_remove("AYA_BUILD_SKIP");
    }
    say(&format!("   $ {}", words(&cargo)));
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let out = child.stdout.take().context("cargo has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(out).lines() {
        let line = line.context("cannot read what the tests say")?;
        say(&line);
        if let Some(more) = result_line(&line) {
            counts.passed += more.passed;
            counts.failed += more.failed;
            counts.ignored += more.ignored;
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && counts.failed == 0 {
        bail!("cargo test failed without a failed test ({status}): see above");
    }
    if counts.passed == 0 {
        bail!("no test ran");
    }
    Ok(counts)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn result_line(line: &str) -> Option<Counts> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let (_, numbers) = rest.split_once(". ")?;
    let mut counts = Counts::default();
    for part in numbers.split(';') {
        let (number, word) = part.trim().split_once(' ')?;
        match (word, number.parse()) {
            ("passed", Ok(number)) => counts.passed = number,
            ("failed", Ok(number)) => counts.failed = number,
            ("ignored", Ok(number)) => counts.ignored = number,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; \
                    0 filtered out; finished in 0.01s";
        assert_eq!(result_line(line), Some(Counts { passed: 12, failed: 3, ignored: 1 }));
        assert_eq!(result_line("test result"), None);
        assert_eq!(result_line("running 3 tests"), None);
    }
}
