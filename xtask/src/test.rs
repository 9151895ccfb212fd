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
    shell::{command, complain, output, root, run as run_command, say, words},
    tidy,
};

/// What to leave out, for work at one's desk. CI leaves nothing out.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only the suites that need no root: `cargo test` after the static checks.
    #[arg(long)]
    no_root: bool,
}

/// What [`Shelter`] hides: without rustup there is no nightly either.
const HIDDEN: [&str; 2] = ["bpf-linker", "rustup"];
/// What the build script says then.
const NOT_BUILT: &str = "kernel object not built (bpf-linker is not on the PATH)";

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
        let took = begin.elapsed();
        say(&format!("   {:.1} s", took.as_secs_f64()));
        slow.insert(took, name.to_owned());
    };
    let done = |outcome: Result<()>| outcome.map(|()| Counts { passed: 1, ..Counts::default() });
    stage("setup", &mut || done(setup::run().map(drop)));
    stage("setup again finds nothing to do", &mut || done(nothing_to_do(setup::run())));
    stage("format", &mut || done(run_command(command("cargo", &["fmt", "--all", "--check"]))));
    stage("import rules, unsafe code, file lengths", &mut || done(tidy::run()));
    stage("check, lints and docs without the BPF toolchain", &mut without_bpf);
    stage("kernel object of a build that logs packets", &mut || done(packet_log()));
    if arguments.no_root {
        stage("tests without root", &mut || tests(Lane::Plain));
    } else {
        stage("release build", &mut || done(build::run()));
        stage("tests, packet suites, lab and interop", &mut || tests(Lane::All));
        stage("tests without root (60 s are promised)", &mut || tests(Lane::Nobody));
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

/// What a contributor's editor runs must work on a machine without bpf-linker and nightly: neither can be
/// found, and the build script says that it did not find them.
fn without_bpf() -> Result<Counts> {
    let shelter = Shelter::new()?;
    let tasks: [&[&str]; 4] = [
        &["check", "--workspace", "--exclude", "lb-ebpf", "--all-targets", "--locked"],
        &["clippy", "--workspace", "--exclude", "lb-ebpf", "--all-targets", "--", "-D", "warnings"],
        &["clippy", "-p", "lb-userspace", "--features", "packet-log", "--", "-D", "warnings"],
        &["doc", "--workspace", "--exclude", "lb-ebpf", "--no-deps", "--locked"],
    ];
    for words in tasks {
        let mut cargo = command(shelter.program(words), words);
        // Not "1", which would keep the build script from looking; any change makes it run again.
        cargo.env("PATH", &shelter.path).env("AYA_BUILD_SKIP", "0").env_remove("LBD_REQUIRE_BPF");
        cargo.env("RUSTDOCFLAGS", "-D warnings");
        if !said(cargo, NOT_BUILT)? {
            bail!(
                "`cargo {}` found the BPF toolchain: `{NOT_BUILT}` was not said",
                words.join(" ")
            );
        }
    }
    Ok(Counts { passed: tasks.len() as u64, ..Counts::default() })
}

/// As [`run_command`]; whether a line of what it says to standard error has `part`.
fn said(mut command: std::process::Command, part: &str) -> Result<bool> {
    say(&format!("   $ {}", words(&command)));
    let mut child = command.stderr(Stdio::piped()).spawn().context("cannot start cargo")?;
    let lines = BufReader::new(child.stderr.take().context("cargo has no standard error")?).lines();
    let mut found = false;
    for line in lines {
        let line = line.context("cannot read what cargo says")?;
        found |= line.contains(part);
        eprintln!("{line}");
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("`{}` failed ({status})", words(&command));
    }
    Ok(found)
}

/// The kernel half of the feature `packet-log`, which no other build compiles.
fn packet_log() -> Result<()> {
    let words = [
        "run",
        "nightly",
        "cargo",
        "check",
        "--locked",
        "--package",
        "lb-ebpf",
        "--bin",
        "lb-ebpf",
        "--features",
        "packet-log",
        "--target",
        "bpfel-unknown-none",
        "-Zbuild-std=core",
        "--target-dir",
        "target/packet-log",
    ];
    let mut cargo = command("rustup", &words);
    // As aya-build sets them.
    let arch = std::env::consts::ARCH;
    cargo.env("RUSTFLAGS", format!("--cfg bpf_target_arch=\"{arch}\""));
    cargo.env("CARGO_CFG_BPF_TARGET_ARCH", arch);
    run_command(cargo)
}

/// A PATH on which everything is found but [`HIDDEN`]: a directory with one of them is replaced by links to
/// the other programs in it. First on it is the toolchain of this workspace itself: rustup's proxies would put
/// their own directory, with bpf-linker in it, back on the PATH.
struct Shelter {
    directory: PathBuf,
    path: OsString,
    cargo: PathBuf,
}

impl Shelter {
    fn new() -> Result<Self> {
        let directory = root().join("target/without-bpf-linker");
        let _ = fs::remove_dir_all(&directory); // of a run that was killed
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        // Without rustup the cargo on the PATH is no proxy.
        let cargo = output("rustup", &["which", "cargo"])
            .map_or_else(|| PathBuf::from("cargo"), |path| PathBuf::from(path.trim()));
        let mut places: Vec<_> =
            cargo.parent().filter(|it| it.is_absolute()).map(Path::to_owned).into_iter().collect();
        let mut shelter = Self { directory, path: OsString::new(), cargo };
        for place in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
            if HIDDEN.iter().any(|hidden| place.join(hidden).exists()) {
                shelter.link(&place)?;
                places.push(shelter.directory.clone());
            } else {
                places.push(place);
            }
        }
        shelter.path = std::env::join_paths(places).context("PATH")?;
        Ok(shelter)
    }

    /// Who carries out `cargo WORDS`. cargo looks for its subcommands in its own home first, where rustup's proxy
    /// of cargo-clippy stands: that of the toolchain is called by name.
    fn program(&self, words: &[&str]) -> PathBuf {
        let own = self.cargo.with_file_name(format!("cargo-{}", words.first().unwrap_or(&"")));
        if self.cargo.is_absolute() && own.is_file() { own } else { self.cargo.clone() }
    }

    fn link(&self, place: &Path) -> Result<()> {
        for entry in fs::read_dir(place).with_context(|| place.display().to_string())? {
            let entry = entry?;
            let link = self.directory.join(entry.file_name());
            let hidden = HIDDEN.iter().any(|hidden| entry.file_name() == **hidden);
            if !hidden && !link.exists() {
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

/// What of `cargo test` runs, and as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// As root; nothing is left out.
    All,
    /// As whoever calls.
    Plain,
    /// As on a contributor's desk, although this is root: a user namespace in which it is nobody.
    Nobody,
}

/// `cargo test`, its output passed through and its results counted. Tests that need root are marked
/// `#[ignore]` or, in the suites `check_*`, `plane_*` and `xdp_*`, say SKIPPED and pass without it; in
/// [`Lane::All`] all run, and a skip inside one is a failure.
fn tests(lane: Lane) -> Result<Counts> {
    let mut arguments =
        vec!["test", "--workspace", "--exclude", "lb-ebpf", "--locked", "--no-fail-fast"];
    match lane {
        Lane::All => arguments.extend(["--", "--include-ignored"]),
        // In there root's directories are nobody's, who may change what scripts they hold.
        Lane::Nobody => arguments.extend([
            "--",
            "--skip=identity::tests::a_link_that_others_can_change_is_not_secure",
            "--skip=identity::tests::writable_script_is_not_secure",
        ]),
        Lane::Plain => {}
    }
    let mut cargo = if lane == Lane::Nobody {
        let nobody = ["--user", "--map-user=65534", "--map-group=65534", "cargo"];
        let mut cargo = command("unshare", &nobody);
        cargo.args(&arguments);
        cargo
    } else {
        command("cargo", &arguments)
    };
    match lane {
        Lane::All => cargo.env("LB_NO_SKIP", "1"),
        Lane::Plain | Lane::Nobody => cargo.env_remove("LB_NO_SKIP"),
    };
    if lane != Lane::Plain {
        // The same in both, or everything would be compiled again.
        cargo.env("LBD_REQUIRE_BPF", "1").env_remove("AYA_BUILD_SKIP");
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
    fn the_shelter_hides_the_bpf_toolchain_and_nothing_else() -> Result<()> {
        let shelter = Shelter::new()?;
        let found = |program: &str| {
            std::env::split_paths(&shelter.path).any(|place| place.join(program).is_file())
        };
        assert!(HIDDEN.iter().all(|hidden| !found(hidden)), "{:?}", shelter.path);
        assert!(
            ["cargo", "rustc", "cargo-clippy", "sh"].iter().all(|it| found(it)),
            "{:?}",
            shelter.path
        );
        let clippy = shelter.program(&["clippy", "--workspace"]);
        assert!(clippy.ends_with("cargo-clippy") || !shelter.cargo.is_absolute(), "{clippy:?}");
        assert_eq!(shelter.program(&["doc"]), shelter.cargo);
        let version = |program: &Path| {
            let mut command = command(program, &["--version"]);
            let out = command.env("PATH", &shelter.path).output().expect("it starts");
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        let here = version(&shelter.cargo);
        assert_eq!(
            output("cargo", &["--version"]).as_deref(),
            Some(here.as_str()),
            "the pinned one"
        );
        Ok(())
    }

    #[test]
    fn results_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; \
                    0 filtered out; finished in 0.01s";
        assert_eq!(result_line(line), Some(Counts { passed: 12, failed: 3, ignored: 1 }));
        assert_eq!(result_line("test result"), None);
        assert_eq!(result_line("running 3 tests"), None);
    }
}
