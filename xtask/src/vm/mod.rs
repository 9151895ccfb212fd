//! `cargo xtask vm`: suites that need a kernel which this machine does not run, in a QEMU guest.
//!
//! A Debian kernel is fetched by apt (signatures checked, nothing is installed), an initramfs is made of lbd, the
//! suites and the programs that they call, with their libraries, and the guest is booted with a serial console for
//! its only output. It runs the suites as root, says what became of each, and powers off. TCG carries it, so that no
//! KVM is needed. A guest's clock counts its instructions (`guest::CLOCK`), so that no deadline in it knows how busy this
//! machine is.

mod guest;
mod image;
mod kernel;

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::{
    build, setup,
    shell::{root, say},
};
pub use guest::Share;
use guest::Verdict;

/// The suites that a guest runs when nobody names others.
pub const SUITES: &str = "ipvs_engine,ipvs_kernels";
/// The kernel of `cargo xtask test`.
const ONE: &str = "6.1";
/// Minutes until a guest is given up.
const MINUTES: u64 = 15;
const REPORT: &str = "target/vm/vm.json";

/// What to boot and to run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Kernels, by comma: 5.10, 6.1, 6.12, newest, or all.
    #[arg(long, alias = "kernel", default_value = "all")]
    kernels: String,
    /// Suites of tests/tests, by comma.
    #[arg(long, default_value = SUITES)]
    suites: String,
    /// A shell script to run in place of the suites, for a look around.
    #[arg(long)]
    script: Option<PathBuf>,
    /// Further programs of this machine for that script, by comma.
    #[arg(long, default_value = "")]
    programs: String,
    /// Arguments of the suites after `--`, such as a test's name.
    #[arg(last = true)]
    words: Vec<String>,
    /// Minutes until a guest is given up.
    #[arg(long, default_value_t = MINUTES)]
    minutes: u64,
    /// Where the results go, as JSON.
    #[arg(long, value_name = "FILE", default_value = REPORT)]
    report: PathBuf,
    /// Take the binaries of target/ as they are.
    #[arg(long)]
    no_build: bool,
}

impl Arguments {
    /// What `cargo xtask test` runs, behind its own build: everything, on one kernel.
    pub fn of_the_tests() -> Self {
        Self {
            kernels: ONE.to_owned(),
            suites: SUITES.to_owned(),
            script: None,
            programs: String::new(),
            words: Vec::new(),
            // It gets what others leave of the machine.
            minutes: 3 * MINUTES,
            report: PathBuf::from(REPORT),
            no_build: true,
        }
    }

    fn suites(&self) -> Vec<&str> {
        let suites = if self.script.is_some() { "" } else { self.suites.as_str() };
        suites.split(',').filter(|it| !it.is_empty()).collect()
    }
}

/// What a run leaves behind.
#[derive(Debug, Default, Serialize)]
struct Report {
    kernels: Vec<Outcome>,
}

/// One kernel.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    kernel: String,
    /// Debian's package version.
    version: String,
    seconds: f64,
    suites: Vec<Verdict>,
    /// Why the guest was not made or came to no end.
    error: Option<String>,
    /// The console.
    log: String,
}

impl Outcome {
    /// What is wrong, a phrase each.
    fn bad(&self, wanted: &[&str]) -> Vec<String> {
        let error = self.error.iter().map(|error| format!("{}: {error}", self.kernel));
        let exits = self.suites.iter().filter(|suite| suite.exit != 0).map(|suite| {
            let names = suite.failures.join(" ");
            format!("{} on {} (exit {}) {names}", suite.name, self.kernel, suite.exit)
        });
        let without = guest::without_result(wanted, &self.suites).into_iter();
        let without = without.map(|it| format!("{it} on {} (no test passed)", self.kernel));
        error.chain(exits).chain(without).map(|it| it.trim_end().to_owned()).collect()
    }
}

/// Programs of this machine that the suites call, and the Debian package of each.
pub const PROGRAMS: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("ipvsadm", "ipvsadm"),
    ("xz", "xz-utils"),
    ("dpkg-deb", "dpkg"),
];

/// `cargo xtask vm`.
///
/// # Errors
/// When a guest cannot be made or does not come to its end, or a test in it fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::vm()?;
    if !arguments.no_build {
        build::run()?;
    }
    boot(arguments, prepare(arguments)?, Share::Whole).map(drop)
}

/// A guest that can be booted; without one the outcome says why.
pub struct Prepared {
    outcome: Outcome,
    guest: Option<(kernel::Files, PathBuf)>,
}

/// Fetches the kernels, builds the suites, makes the images.
///
/// # Errors
/// When a name is unknown or the suites cannot be built. What is wrong with a kernel is said by [`boot`].
pub fn prepare(arguments: &Arguments) -> Result<Vec<Prepared>> {
    let kernels = kernel::chosen(&arguments.kernels)?;
    let binaries = image::build_suites(&arguments.suites())?;
    let prepared = kernels.into_iter().map(|kernel| {
        let mut outcome = Outcome { kernel: kernel.name.to_owned(), ..Outcome::default() };
        let guest = make(kernel, arguments, &binaries, &mut outcome)
            .map_err(|error| outcome.error = Some(format!("{error:#}")))
            .ok();
        Prepared { outcome, guest }
    });
    Ok(prepared.collect())
}

fn make(
    kernel: &kernel::Kernel,
    arguments: &Arguments,
    suites: &BTreeMap<String, PathBuf>,
    outcome: &mut Outcome,
) -> Result<(kernel::Files, PathBuf)> {
    let files = kernel::fetch(kernel)?;
    outcome.version.clone_from(&files.version);
    let programs: Vec<&str> = arguments.programs.split(',').filter(|it| !it.is_empty()).collect();
    let contents = image::Contents {
        suites,
        script: arguments.script.as_deref(),
        programs: &programs,
        words: &arguments.words,
        takes_xdp: kernel.takes_xdp,
        loaded: kernel.loaded,
    };
    let image = image::make(kernel.name, &files, &contents)?;
    Ok((files, image))
}

/// Boots one after the other, writes the report, prints the table; how many tests passed.
///
/// # Errors
/// As [`run`].
pub fn boot(arguments: &Arguments, prepared: Vec<Prepared>, share: Share) -> Result<u64> {
    let mut report = Report::default();
    let path = root().join(&arguments.report);
    let limit = Duration::from_secs(arguments.minutes * 60);
    for Prepared { mut outcome, guest } in prepared {
        if let Some((files, image)) = guest {
            let log = root().join(format!("target/vm/{}.log", outcome.kernel));
            outcome.log = log.display().to_string();
            match guest::boot(&files, &image, &log, limit, share) {
                Ok(run) => (outcome.seconds, outcome.suites) = (run.seconds, run.suites),
                Err(error) => {
                    outcome.error = Some(format!("{error:#} (console: {})", log.display()));
                }
            }
        }
        report.kernels.push(outcome);
        // After each, so that a guest which hangs takes no results with it.
        let text = serde_json::to_string_pretty(&report).context("results as JSON")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let wanted = arguments.suites();
    for line in table(&report, &wanted) {
        say(&format!("   {line}"));
    }
    say(&format!("   results: {}", path.display()));
    let bad: Vec<String> = report.kernels.iter().flat_map(|it| it.bad(&wanted)).collect();
    if !bad.is_empty() {
        bail!("failed: {}", bad.join(", "));
    }
    Ok(report.kernels.iter().flat_map(|it| &it.suites).map(|it| it.passed).sum())
}

/// A line for each kernel with what became of each suite, and below what the suites had to say.
fn table(report: &Report, wanted: &[&str]) -> Vec<String> {
    let mut names: Vec<&str> = wanted.to_vec();
    if names.is_empty() {
        names.push("script");
    }
    let width = |name: &str| name.len().max(12);
    let columns: Vec<String> =
        names.iter().map(|name| format!("{name:<w$}", w = width(name))).collect();
    let mut lines =
        vec![format!("{:<8} {:<18} {:>6}  {}", "kernel", "Linux", "s", columns.join("  "))];
    for kernel in &report.kernels {
        let cells: Vec<String> = names
            .iter()
            .map(|name| {
                let found = kernel.suites.iter().find(|suite| suite.name == *name);
                let text = match found {
                    None => "not run".to_owned(),
                    Some(it) if it.exit == 0 => format!("{} passed", it.passed),
                    Some(it) => format!("{} FAILED", it.failed.max(1)),
                };
                format!("{text:<w$}", w = width(name))
            })
            .collect();
        let (name, version) = (&kernel.kernel, &kernel.version);
        let line = format!("{name:<8} {version:<18} {:>6.0}  {}", kernel.seconds, cells.join("  "));
        lines.push(line.trim_end().to_owned());
    }
    for kernel in &report.kernels {
        let notes = kernel.suites.iter().flat_map(|suite| &suite.notes);
        lines.extend(notes.map(|note| format!("{}: {note}", kernel.kernel)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_kernel_and_what_is_wrong_by_name() {
        let suite = |name: &str, exit, passed, failures: &[&str], notes: &[&str]| Verdict {
            name: name.to_owned(),
            exit,
            passed,
            failed: failures.len() as u64,
            failures: failures.iter().map(|&it| it.to_owned()).collect(),
            notes: notes.iter().map(|&it| it.to_owned()).collect(),
        };
        let good = Outcome {
            kernel: "6.1".to_owned(),
            version: "6.1.187-1".to_owned(),
            seconds: 61.4,
            suites: vec![suite("one", 0, 7, &[], &[]), suite("two", 0, 1, &[], &["xdp taken"])],
            ..Outcome::default()
        };
        let bad = Outcome {
            kernel: "5.10".to_owned(),
            version: "5.10.262-1".to_owned(),
            suites: vec![suite("one", 101, 6, &["a_test"], &[])],
            ..Outcome::default()
        };
        let none = Outcome {
            kernel: "newest".to_owned(),
            error: Some("apt found none".to_owned()),
            ..Outcome::default()
        };
        let wanted = ["one", "two"];
        assert_eq!(good.bad(&wanted), [""; 0]);
        assert_eq!(
            bad.bad(&wanted),
            ["one on 5.10 (exit 101) a_test", "two on 5.10 (no test passed)"]
        );
        assert_eq!(
            none.bad(&["one"]),
            ["newest: apt found none", "one on newest (no test passed)"]
        );
        let lines = table(&Report { kernels: vec![good, bad, none] }, &wanted);
        let squeezed: Vec<String> = lines
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            squeezed,
            [
                "kernel Linux s one two",
                "6.1 6.1.187-1 61 7 passed 1 passed",
                "5.10 5.10.262-1 0 1 FAILED not run",
                "newest 0 not run not run",
                "6.1: xdp taken",
            ]
        );
    }
}
