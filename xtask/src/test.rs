//! `cargo xtask test`: all that CI checks. The last line is `N passed, N failed`.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build, setup,
    shell::{command, complain, run as run_command, say, words},
    tidy,
};

/// What to leave out, for work at one's desk. CI leaves nothing out.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only the suites that need no root: `cargo test` after the static checks.
    #[arg(long)]
    no_root: bool,
}

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
    stage("setup", &mut || done(setup::run()));
    stage("format", &mut || done(run_command(command("cargo", &["fmt", "--all", "--check"]))));
    stage("import rules, unsafe code, file lengths", &mut || done(tidy::run()));
    stage("lints", &mut || done(lints()));
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

fn lints() -> Result<()> {
    let words =
        ["clippy", "--workspace", "--exclude", "lb-ebpf", "--all-targets", "--", "-D", "warnings"];
    run_command(command("cargo", &words))
}

/// `cargo test`, its output passed through and its results counted. Suites that need root are
/// marked `#[ignore]`; with `root` they run, and a skip inside one is a failure.
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
