//! `cargo xtask test`: all that CI checks. The last line is `N passed, N failed`.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;

use crate::{
    build, setup,
    shell::{command, complain, output, root, run as run_command, say, words},
    tidy, vm,
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

/// What failed, to be said again at the end: of a long run often nothing else is kept.
static FAILED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn remember(failure: String) {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
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
                let err = err.context(format!("stage `{name}` failed"));
                remember(format!("{err:#}"));
                complain(&err);
                total.failed += 1;
            }
        }
        let took = begin.elapsed();
        say(&format!("   {:.1} s", took.as_secs_f64()));
        slow.insert(took, name.to_owned());
    };
    let done = |outcome: Result<()>| outcome.map(|()| Counts { passed: 1, ..Counts::default() });
    stage("room on the disk", &mut || done(room()));
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
        stage("tests and packet suites", &mut || tests(Lane::Root));
        stage("the lab, more at once", &mut || tests(Lane::Lab));
        let guest = vm::Arguments::of_the_tests();
        let mut prepared = Vec::new();
        stage("kernel, suites and image of a guest", &mut || {
            prepared = vm::prepare(&guest)?;
            Ok(Counts::default())
        });
        stage(
            "suites that wait for protocols, more at once; beside them IPVS and XDP in a guest",
            &mut || beside(&guest, std::mem::take(&mut prepared)),
        );
        stage("tests without root (60 s are promised)", &mut || tests(Lane::Nobody));
    }
    for (took, name) in slow.iter().rev().take(3) {
        say(&format!("   {:6.1} s {name}", took.as_secs_f64()));
    }
    if total.ignored > 0 {
        say(&format!("   {} ignored", total.ignored));
    }
    let failed = std::mem::take(&mut *FAILED.lock().unwrap_or_else(PoisonError::into_inner));
    for failure in &failed {
        say(&format!("== failed: {failure}"));
    }
    say(&format!("{} passed, {} failed", total.passed, total.failed));
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a run from nothing leaves below target, in GiB, with a margin. On a full disk the linker dies of a bus
/// error, which tells nobody why.
const ROOM: u64 = 12;

/// Says how much room there is, and refuses to begin what cannot end. What was built before is counted in.
fn room() -> Result<()> {
    let free = output("df", &["--output=avail", "--block-size=1M", "."]);
    let free = free.as_deref().and_then(|out| out.lines().last()?.trim().parse::<u64>().ok());
    let free = free.context("cannot read what df says")?;
    let used = output("du", &["--summarize", "--block-size=1M", "target"]).unwrap_or_default();
    let used = used.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
    say(&format!("   {free} MiB are free, target holds {used} MiB"));
    if free + used < ROOM << 10 {
        // Whether it is too little shows by itself; then this is what explains it.
        complain(&anyhow!(
            "a whole run needs {ROOM} GiB below {}: without them what follows may end by `No space left`",
            root().display()
        ));
    }
    Ok(())
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
        // What clippy looks at besides, the tests, it checks as well.
        &["check", "--workspace", "--exclude", "lb-ebpf", "--locked"],
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
    run_command(cargo)?;
    // Nothing reads it again; room on the disk is short where CI runs.
    let _ = fs::remove_dir_all(root().join("target/packet-log"));
    Ok(())
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

/// The lane that waits for protocols leaves the machine idle for the most part, and a guest takes what is left: its
/// clock counts its own instructions, so that it does not notice how little that is, and whoever wakes up outside goes first.
fn beside(arguments: &vm::Arguments, prepared: Vec<vm::Prepared>) -> Result<Counts> {
    thread::scope(|scope| {
        let guest = scope.spawn(|| vm::boot(arguments, prepared, vm::Share::Idle));
        let waiting = tests(Lane::Waiting);
        let guest = guest.join().unwrap_or_else(|_| Err(anyhow!("whoever watched it panicked")));
        let guest = guest.context("suites in a guest (`cargo xtask vm --kernels 6.1` alone)");
        let mut counts = match waiting {
            Ok(counts) => counts,
            Err(error) => {
                return Err(match guest {
                    Ok(_) => error,
                    Err(other) => error.context(format!("{other:#}; and beside it")),
                });
            }
        };
        match guest {
            Ok(passed) => counts.passed += passed,
            Err(error) => {
                remember(format!("{error:#}"));
                complain(&error);
                counts.failed += 1;
            }
        }
        Ok(counts)
    })
}

/// What of `cargo test` runs, and as whom. [`Lane::Root`], [`Lane::Lab`] and [`Lane::Waiting`] together leave nothing
/// out but the suites of [`IN_A_GUEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// As root; all but the two that follow.
    Root,
    /// As root; the suites of [`LAB`].
    Lab,
    /// As root; the suites of [`WAITING`].
    Waiting,
    /// As whoever calls.
    Plain,
    /// As on a contributor's desk, although this is root: a user namespace in which it is nobody.
    Nobody,
}

/// Beginnings of the names of suites whose tests mostly wait for timers of VRRP and of processes: more of them
/// than there are cores go side by side.
const WAITING: [&str; 3] = ["interop_", "proc_", "vrrp_"];
/// Beginning of the names of suites that need a kernel which this machine may not have: they run in a guest, see
/// [`beside`]; on several kernels by `cargo xtask vm`.
const IN_A_GUEST: &str = "ipvs_";
/// So many.
const AT_ONCE: &str = "4";
/// Beginning of the names of suites in which real MySQL servers die and hosts fail over: they wait for VRRP, too, but
/// carry traffic beside it.
const LAB: &str = "e2e_";
/// So many of these; `lb_tests::running` allows no more of their labs.
const LABS_AT_ONCE: &str = "2";

/// The lane of root that a suite of this name is in.
fn lane_of(suite: &str) -> Lane {
    if WAITING.iter().any(|start| suite.starts_with(start)) {
        Lane::Waiting
    } else if suite.starts_with(LAB) {
        Lane::Lab
    } else {
        Lane::Root
    }
}

/// The suites of the workspace in a lane of root.
fn suites(lane: Lane) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for place in ["lb-userspace/tests", "tests/tests"] {
        let place = root().join(place);
        let context = || format!("cannot list {}", place.display());
        for entry in fs::read_dir(&place).with_context(context)? {
            let path = entry.with_context(context)?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let is_suite = path.extension().is_some_and(|extension| extension == "rs");
            if name.starts_with(IN_A_GUEST) {
                continue;
            }
            if is_suite && lane_of(name) == lane {
                found.push(name.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `cargo test`, its output passed through and its results counted. Tests that need root are marked
/// `#[ignore]` or, in the suites `check_*`, `plane_*` and `xdp_*`, say SKIPPED and pass without it; in the two
/// lanes of root all run, and a skip inside one is a failure.
fn tests(lane: Lane) -> Result<Counts> {
    // The same packages each time: another choice has other features, and everything would be compiled again.
    let mut arguments: Vec<String> =
        ["test", "--workspace", "--exclude", "lb-ebpf", "--locked", "--no-fail-fast"]
            .map(str::to_owned)
            .into();
    let by_root = matches!(lane, Lane::Root | Lane::Lab | Lane::Waiting);
    if by_root {
        if lane == Lane::Root {
            say(&format!(
                "   suites {IN_A_GUEST}* run in a guest, beside those that wait for protocols"
            ));
            // What takes long of the configuration's tests runs here, beside what needs root.
            arguments.extend(["--lib", "--bins", "--test", "config"].map(str::to_owned));
        }
        for suite in suites(lane)? {
            arguments.extend(["--test".to_owned(), suite]);
        }
    }
    let rest: &[&str] = match lane {
        Lane::Root | Lane::Lab | Lane::Waiting => &["--", "--include-ignored"],
        // In there root's directories are nobody's, who may change what scripts they hold.
        Lane::Nobody => &[
            "--",
            "--skip=identity::tests::a_link_that_others_can_change_is_not_secure",
            "--skip=identity::tests::writable_script_is_not_secure",
        ],
        Lane::Plain => &[],
    };
    arguments.extend(rest.iter().map(|word| (*word).to_owned()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut cargo = if lane == Lane::Nobody {
        let nobody = ["--user", "--map-user=65534", "--map-group=65534", "cargo"];
        let mut cargo = command("unshare", &nobody);
        cargo.args(&arguments);
        cargo
    } else {
        command("cargo", &arguments)
    };
    if by_root {
        // Every case of every property: `.cargo/config.toml` has fewer for those who wait.
        cargo.env("LB_NO_SKIP", "1").env("PROPTEST_CASES", "256");
    } else {
        cargo.env_remove("LB_NO_SKIP");
    }
    match lane {
        Lane::Lab => drop(cargo.env("RUST_TEST_THREADS", LABS_AT_ONCE)),
        Lane::Waiting => drop(cargo.env("RUST_TEST_THREADS", AT_ONCE)),
        // One for each CPU, as cargo has it by itself; `.cargo/config.toml` has more for tests that need no root.
        Lane::Root => {
            let cpus = thread::available_parallelism().map_or(1, usize::from);
            cargo.env("RUST_TEST_THREADS", cpus.to_string());
        }
        Lane::Plain | Lane::Nobody => {}
    }
    if lane != Lane::Plain {
        // The same in both, or everything would be compiled again.
        cargo.env("LBD_REQUIRE_BPF", "1").env_remove("AYA_BUILD_SKIP");
    }
    // A backtrace of test's own machinery would push what the test said out of what is kept; our errors name
    // object, attempt and cause.
    cargo.env("RUST_BACKTRACE", "0");
    say(&format!("   $ {}", words(&cargo)));
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let out = child.stdout.take().context("cargo has no output")?;
    let mut counts = Counts::default();
    let mut stories = Stories::default();
    for line in BufReader::new(out).lines() {
        let line = line.context("cannot read what the tests say")?;
        say(&line);
        stories.line(&line);
        if let Some(more) = result_line(&line) {
            counts.passed += more.passed;
            counts.failed += more.failed;
            counts.ignored += more.ignored;
        }
    }
    stories.told().into_iter().for_each(remember);
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && counts.failed == 0 {
        bail!("cargo test failed without a failed test ({status}): see above");
    }
    if counts.passed == 0 {
        bail!("no test ran");
    }
    Ok(counts)
}

/// So much of what a failed test said is said again: its end has the message.
const LINES_OF_A_STORY: usize = 60;

/// Collects what libtest says of failed tests: blocks that begin with `---- NAME stdout ----`, and end with the
/// next one or with the list of names.
#[derive(Debug, Default)]
struct Stories {
    done: Vec<String>,
    open: Option<(String, VecDeque<String>)>,
}

impl Stories {
    fn line(&mut self, line: &str) {
        if let Some(name) =
            line.strip_prefix("---- ").and_then(|it| it.strip_suffix(" stdout ----"))
        {
            self.close();
            self.open = Some((name.to_owned(), VecDeque::new()));
        } else if line == "failures:" {
            self.close();
        } else if let Some((_, lines)) = &mut self.open {
            lines.push_back(line.to_owned());
            if lines.len() > LINES_OF_A_STORY {
                lines.pop_front();
            }
        }
    }

    fn close(&mut self) {
        if let Some((name, lines)) = self.open.take() {
            let lines: Vec<_> = lines.iter().map(|line| format!("\n   | {line}")).collect();
            self.done.push(name + &lines.concat());
        }
    }

    fn told(mut self) -> Vec<String> {
        self.close();
        self.done
    }
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
    fn every_suite_is_in_one_of_the_lanes_of_root() -> Result<()> {
        let lanes = [Lane::Root, Lane::Lab, Lane::Waiting];
        let [root, lab, waiting] = lanes.map(|lane| suites(lane).expect("readable"));
        for suite in ["interop_matrix", "proc_daemon", "vrrp_wire"] {
            assert!(waiting.iter().any(|name| name == suite), "{suite} of {waiting:?}");
        }
        for suite in ["config", "plane_nat", "xdp_packets"] {
            assert!(root.iter().any(|name| name == suite), "{suite} of {root:?}");
        }
        assert!(lab.iter().any(|name| name == "e2e_lab"), "{lab:?}");
        let guest = |name: &&String| name.starts_with(IN_A_GUEST);
        let all = [root, lab, waiting].concat();
        assert_eq!(all.iter().find(guest), None, "they run in a guest");
        Ok(())
    }

    #[test]
    fn what_failed_tests_said_is_kept() {
        let mut stories = Stories::default();
        let told = "test a ... ok\n\nfailures:\n\n---- b::c stdout ----\nfirst\n\n---- d stdout ----\nlong";
        told.lines().for_each(|line| stories.line(line));
        (0..LINES_OF_A_STORY).for_each(|number| stories.line(&number.to_string()));
        "failures:\n    b::c\n    d\n\ntest result: FAILED."
            .lines()
            .for_each(|line| stories.line(line));
        let told = stories.told();
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0], "b::c\n   | first\n   | ");
        assert!(told[1].starts_with("d\n   | 0\n") && told[1].ends_with("\n   | 59"), "{told:?}");
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
