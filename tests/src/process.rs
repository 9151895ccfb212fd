//! Child processes that end with their guard, by pid.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait::wait_for;

/// A running child. Dropping it kills it (SIGCONT and SIGKILL to its pid) and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Option<PathBuf>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; with `log`, both outputs are appended to that file.
    ///
    /// The calling thread must live as long as the child: a command made by
    /// [`crate::netns::Namespace::command`] dies with the thread that started it.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: Option<&Path>) -> Result<Self> {
        command.stdin(Stdio::null());
        if let Some(path) = log {
            let file = File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot open the log {} of {name}", path.display()))?;
            let again = file.try_clone().with_context(|| format!("cannot share {name}'s log"))?;
            command.stdout(file).stderr(again);
        }
        let child = command.spawn().with_context(|| {
            format!("cannot start {name} ({})", command.get_program().display())
        })?;
        Ok(Self { name: name.to_owned(), child, log: log.map(Path::to_owned), status: None })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        pid_of(self.child.id())
    }

    /// What it was called at start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a signal to the process itself.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!("cannot send {signal} to {}: it has ended ({status})", self.name);
        }
        kill(self.pid(), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// When waitpid(2) fails.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status =
                self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When `limit` passes first; the message carries the end of its log.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        match wait_for(&what, limit, || self.exited()) {
            Ok(status) => Ok(status),
            Err(err) => Err(err.context(self.log_tail(20))),
        }
    }

    /// Sends TERM and waits; after `limit` KILL, which is an error.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        let ended = self.wait_exit(limit);
        if ended.is_err() {
            self.kill();
        }
        ended
    }

    /// SIGKILL and reap. Does nothing when it has ended.
    pub fn kill(&mut self) {
        if matches!(self.exited(), Ok(Some(_))) {
            return;
        }
        // A stopped process dies of SIGKILL all the same; no SIGCONT needed.
        let _ = self.child.kill();
        self.status = self.child.wait().ok();
    }

    /// The last `lines` lines of its log, for failure messages.
    pub fn log_tail(&self, lines: usize) -> String {
        match &self.log {
            None => format!("{} writes no log", self.name),
            Some(path) => format!("--- end of {}:\n{}", path.display(), tail(path, lines)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last `lines` lines of a file; empty when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// Whether a process with this id exists (zombies do not count).
pub fn alive(pid: Pid) -> bool {
    if kill(pid, None) == Err(Errno::ESRCH) {
        return false;
    }
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with('Z')))
        .unwrap_or(false)
}

/// The process and all its descendants as /proc shows them now, parents first.
pub fn tree(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        let children = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|text| {
                text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<i32>>()
            });
        found.extend(children.map(Pid::from_raw));
        next += 1;
    }
    found
}

/// The words of a process's command line; empty when it is gone.
pub fn command_line(pid: Pid) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// Sends a signal to a process that may already be gone.
pub fn send(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(err) => Err(err).with_context(|| format!("cannot send {signal} to process {pid}")),
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the message has the command and its stderr.
pub fn output(mut command: Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", shown(&command)))?;
    if !out.status.success() {
        bail!(
            "{} failed ({}): {}{}",
            shown(&command),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim(),
            String::from_utf8_lossy(&out.stdout).trim(),
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    format!("`{}`", words.join(" "))
}

fn pid_of(id: u32) -> Pid {
    // A pid fits: the kernel's limit is 2^22 (proc(5), pid_max).
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}
