//! A guest from its boot to its end, and what its console says.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::Stdio,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::kernel::Files;
use crate::shell::{command, say, words};

/// What became of one suite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub name: String,
    pub exit: i32,
    pub passed: u64,
    pub failed: u64,
    /// Names of the failed tests.
    pub failures: Vec<String>,
    /// What it had to say for the table.
    pub notes: Vec<String>,
}

/// A nanosecond is an instruction, and when nothing is to do the clock goes on to the next timer at once. However busy
/// this machine is, a guest has the same time for the same work.
const CLOCK: &str = "shift=0,sleep=off";

/// What a guest may have of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Whole,
    /// What nobody else wants: whoever wakes up goes first.
    Idle,
}

/// A guest's life.
#[derive(Debug)]
pub struct Run {
    pub seconds: f64,
    pub suites: Vec<Verdict>,
}

/// Boots and waits until it is off.
///
/// # Errors
/// When QEMU cannot be started, `limit` passes, or the guest ends before its last suite has.
pub fn boot(
    kernel: &Files,
    image: &Path,
    log: &Path,
    limit: Duration,
    share: Share,
) -> Result<Run> {
    let text = |path: &Path| path.display().to_string();
    let append =
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on";
    let (vmlinuz, initrd) = (text(&kernel.vmlinuz), text(image));
    let arguments = [
        "-machine",
        "q35,accel=tcg",
        "-cpu",
        "max",
        "-m",
        "1536",
        "-smp",
        "1",
        "-icount",
        CLOCK,
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-kernel",
        &vmlinuz,
        "-initrd",
        &initrd,
        "-append",
        append,
    ];
    const QEMU: &str = "qemu-system-x86_64";
    let mut qemu = match share {
        Share::Whole => command(QEMU, &arguments),
        Share::Idle => command("chrt", &[&["--idle", "0", QEMU], &arguments[..]].concat()),
    };
    say(&format!("   $ {}", words(&qemu)));
    let begin = Instant::now();
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {QEMU}"))?;
    let console = child.stdout.take().context("the guest has no console")?;
    let mut file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    let (lines, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if lines.send(text).is_err() {
                return;
            }
        }
    });
    let mut ended = false;
    while let Some(left) = limit.checked_sub(begin.elapsed()) {
        match heard.recv_timeout(left) {
            Ok(line) => {
                let _ = writeln!(file, "{line}");
                if line.starts_with("@@vm") || line.starts_with("test ") {
                    say(&format!("   | {line}"));
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                ended = true;
                break;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => break,
        }
    }
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().context("cannot wait for qemu")?;
    let _ = reader.join();
    let said = fs::read_to_string(log).context("cannot read the console")?;
    if !ended {
        bail!("not done after {} s; it was killed: {}", limit.as_secs(), tail(&said));
    }
    if !said.lines().any(|line| line.ends_with("@@vm off")) {
        bail!("it ended too early ({status}): {}", tail(&said));
    }
    Ok(Run { seconds: begin.elapsed().as_secs_f64(), suites: verdicts(&said) })
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
}

/// What stands behind a mark. Kernel and daemons write to the same console, often in the middle of a line.
fn behind<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.find(mark).map(|at| &line[at + mark.len()..])
}

/// The two numbers of `test result: ok. 7 passed; 0 failed; …`, of which the first part may be elsewhere.
fn result(line: &str) -> Option<(u64, u64)> {
    let (before, after) = line.split_once(" passed; ")?;
    let passed = before.rsplit(' ').next()?.parse().ok()?;
    let failed = after.split_once(" failed; ")?.0.parse().ok()?;
    Some((passed, failed))
}

/// What the marks on a console and the lines of the tests between them say.
fn verdicts(said: &str) -> Vec<Verdict> {
    let mut found = Vec::new();
    let mut now: Option<Verdict> = None;
    for line in said.lines() {
        if let Some(name) = behind(line, "@@vm begin ") {
            now = Some(Verdict { name: name.to_owned(), exit: -1, ..Verdict::default() });
            found.extend(now.clone());
        }
        let Some(verdict) = &mut now else { continue };
        if let Some(numbers) = result(line) {
            (verdict.passed, verdict.failed) = numbers;
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|it| it.strip_suffix(" ... FAILED"))
        {
            verdict.failures.push(name.to_owned());
        } else if let Some(note) = behind(line, "@@vm note ") {
            verdict.notes.push(note.to_owned());
        } else if let Some(rest) = behind(line, "@@vm end ") {
            let code = rest.split(' ').nth(1).and_then(|code| code.parse().ok());
            verdict.exit = code.unwrap_or(-1);
            found.pop();
            found.extend(now.take());
        }
    }
    found
}

/// Suites that were asked for and did not begin, or in which no test passed.
pub fn without_result<'a>(wanted: &[&'a str], found: &[Verdict]) -> Vec<&'a str> {
    let ran = |name: &str| found.iter().any(|it| it.name == name && it.passed > 0);
    wanted.iter().copied().filter(|name| !ran(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_tells_what_became_of_each_suite() {
        let said = "[  0.1] noise\n@@vm booted 3.1\n@@vm begin one\ntest a ... ok\ntest b ... FAILED\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; finished in 1.0s\n\n\
                    @@vm note xdp taken\n@@vm end one 101 9.2\n@@vm begin two\nKernel panic\n";
        let found = verdicts(said);
        assert_eq!(found.len(), 2);
        let torn = "[ 1.0] eth@@vm begin one\ntest a ... Keepalived[7]: ho\nok\n\ntest result: [ 2.0] br0: up\n\
                    ok. 7 passed; 0 failed; 0 ignored; finished in 1.0s\nlbd: @@vm end one 0 3.1\n";
        let torn = &verdicts(torn)[0];
        assert_eq!((torn.exit, torn.passed, torn.failed), (0, 7, 0));
        let one = &found[0];
        assert_eq!((one.name.as_str(), one.exit, one.passed, one.failed), ("one", 101, 1, 1));
        assert_eq!(
            (one.failures.as_slice(), one.notes.as_slice()),
            (&["b".to_owned()][..], &["xdp taken".to_owned()][..])
        );
        let two = &found[1];
        assert_eq!((two.name.as_str(), two.exit), ("two", -1), "it never ended");
        assert_eq!(without_result(&["one", "two", "three"], &found), ["two", "three"]);
    }
}
