//! Running one script: identity, process group, output, time-out, end.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::process::ExitStatusExt as _},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    sync::{Notify, Semaphore, watch},
};

use super::identity::{self, Identity};
use crate::process::ipc::{ScriptOutcome, ScriptRun};

/// Between SIGTERM and SIGKILL.
pub const KILL_DELAY: Duration = Duration::from_secs(2);
/// Bytes of a script's output (each of stdout and stderr) that are logged; the rest is read and
/// dropped, so that the script never blocks on a full pipe.
pub const OUTPUT_LIMIT: usize = 4096;
/// Longest logged line.
const LINE_LIMIT: usize = 512;
/// After the end of a script its output is read for so long if somebody else still holds it.
const GRACE: Duration = Duration::from_secs(5);
/// Outputs of ended checks, and as many of other ended scripts, that are read on because somebody holds them. Each
/// costs a descriptor, of which a service has 1024.
const LINGERING_LIMIT: usize = 128;
static LEFT_BY_CHECKS: Semaphore = Semaphore::const_new(LINGERING_LIMIT);
static LEFT_BEHIND: Semaphore = Semaphore::const_new(LINGERING_LIMIT);

/// After SIGKILL a script that has not ended hangs in the kernel (state D: storage or NFS that is gone), perhaps for ever.
const UNKILLABLE: Duration = Duration::from_secs(1);
/// Scripts that hang so at a time. Another one is waited for, so that its runs pile up no further.
const HANGING_LIMIT: usize = 64;
static HANGING: Semaphore = Semaphore::const_new(HANGING_LIMIT);

/// What surrounds a run.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub identity: Option<Identity>,
    /// `enable_script_security`.
    pub secure: bool,
}

/// Runs a script to its end. `cancel` ends it early, as its time-out would.
///
/// The whole process group gets SIGTERM, and SIGKILL [`KILL_DELAY`] later; what even that does not end has timed out all the
/// same. Processes that a script
/// left behind after a regular end are its own business (a notify script may start a service).
pub async fn run(run: &ScriptRun, around: &Surroundings, cancel: &Notify) -> ScriptOutcome {
    let Some((program, args)) = run.command.argv.split_first() else {
        return ScriptOutcome::NotStarted("empty command".to_owned());
    };
    let path = identity::program_path(program);
    let as_root = around.identity.map_or(nix::unistd::Uid::effective().is_root(), |i| i.uid == 0);
    if around.secure
        && as_root
        && let Err(error) = identity::secure(&path)
    {
        return ScriptOutcome::NotStarted(error);
    }
    let spawned = spawn(program, args, run, around).or_else(|error| {
        // A script without `#!`: what execvp(3) and keepalived do.
        if error.raw_os_error() == Some(Errno::ENOEXEC as i32) {
            let shell: Vec<String> = std::iter::once(path.to_string_lossy().into_owned())
                .chain(args.iter().cloned())
                .collect();
            spawn("/bin/sh", &shell, run, around)
        } else {
            Err(error)
        }
    });
    let (child, [stdout, stderr]) = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            let why = describe(program, &error);
            return if is_lasting(&error) {
                ScriptOutcome::NotStarted(why)
            } else {
                ScriptOutcome::NotNow(why)
            };
        }
    };
    // Dropped when the script has ended.
    let (_runs, ended) = watch::channel(());
    collect(run, "stdout", stdout, ended.clone(), GRACE);
    collect(run, "stderr", stderr, ended, GRACE);
    supervise(run, child, cancel).await
}

/// Whether it is the script's own fault, or the configuration's: trying again would end the same way.
fn is_lasting(error: &io::Error) -> bool {
    use Errno::{
        E2BIG, EACCES, EISDIR, ELIBBAD, ELOOP, ENAMETOOLONG, ENOENT, ENOEXEC, ENOTDIR, EPERM,
    };
    let lasting =
        [E2BIG, EACCES, EISDIR, ELIBBAD, ELOOP, ENAMETOOLONG, ENOENT, ENOEXEC, ENOTDIR, EPERM];
    // One without a number is of the standard library, such as a NUL in an argument.
    error.raw_os_error().is_none_or(|number| lasting.contains(&Errno::from_raw(number)))
}

fn spawn(
    program: &str,
    args: &[String],
    run: &ScriptRun,
    around: &Surroundings,
) -> io::Result<(Child, [Receiver; 2])> {
    let (stdout, to_stdout) = output_pipe()?;
    let (stderr, to_stderr) = output_pipe()?;
    let mut command = Command::new(program);
    command
        .args(args)
        .args(&run.extra_args)
        .stdin(Stdio::null())
        .stdout(to_stdout)
        .stderr(to_stderr)
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .process_group(0);
    if let Some(Identity { uid, gid }) = around.identity {
        command.uid(uid).gid(gid); // std clears the supplementary groups with it
    }
    Ok((command.spawn()?, [stdout, stderr]))
}

/// A pipe whose writing end can be read as well, so that it never lacks a reader: a check script
/// that stops its own lbd (and perhaps starts it again) must not die of SIGPIPE at its next word.
/// What it writes after lbd's end stays in the pipe's buffer (64 KiB), unread.
fn output_pipe() -> io::Result<(Receiver, Stdio)> {
    let (reader, writer) = io::pipe()?;
    let both = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))?;
    Ok((Receiver::from_owned_fd(reader.into())?, both.into()))
}

fn describe(program: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{program}: no such file, or its interpreter is missing")
        }
        io::ErrorKind::PermissionDenied => format!("{program}: not executable for this user"),
        _ => format!("{program}: {error}"),
    }
}

async fn supervise(run: &ScriptRun, mut child: Child, cancel: &Notify) -> ScriptOutcome {
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let time_up = async {
        match run.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        status = child.wait() => return outcome(status),
        () = time_up => {}
        () = cancel.notified() => {}
    }
    signal_group(group, Signal::SIGTERM);
    // The leader may end at SIGTERM while others of its group do not: the group gets SIGKILL in
    // any case, at the latest after the delay. The leader is not reaped before its group has been
    // signalled, so the group's number cannot have been given to anybody else.
    let _ = tokio::time::timeout(KILL_DELAY, ended_unreaped(group)).await;
    signal_group(group, Signal::SIGKILL);
    let object = run.object.clone();
    reap(&HANGING, object, async move { drop(child.wait().await) }).await;
    ScriptOutcome::TimedOut
}

/// Waits for the end of what was killed, but not longer than is of use: a check that hangs has failed, and whom its verdict
/// moves must not wait for the storage.
async fn reap(
    hanging: &'static Semaphore,
    object: String,
    end: impl Future<Output = ()> + Send + 'static,
) {
    let mut end = Box::pin(end);
    if tokio::time::timeout(UNKILLABLE, &mut end).await.is_ok() {
        return;
    }
    tracing::error!(
        script = object,
        "killed, and has not ended: it hangs in the kernel (state D); it counts as timed out"
    );
    match hanging.try_acquire() {
        Ok(place) => {
            drop(tokio::spawn(async move {
                end.await;
                drop(place);
                tracing::info!(script = object, "what hung in the kernel has ended");
            }));
        }
        Err(_) => end.await,
    }
}

/// Waits until the group's leader has ended, leaving it to be reaped later.
async fn ended_unreaped(leader: Option<Pid>) {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    let Some(leader) = leader else { return };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // Polled, because tokio's own wait reaps. Bounded by the caller.
    while let Ok(WaitStatus::StillAlive) = waitid(Id::Pid(leader), flags) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn signal_group(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group
        && let Err(error) = killpg(group, signal)
        && error != Errno::ESRCH
    {
        tracing::warn!(group = group.as_raw(), %signal, %error, "script group not signalled");
    }
}

fn outcome(status: io::Result<ExitStatus>) -> ScriptOutcome {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => ScriptOutcome::Exit(code),
            (None, Some(signal)) => ScriptOutcome::Signal(signal),
            (None, None) => ScriptOutcome::NotNow("no exit status".to_owned()),
        },
        Err(error) => ScriptOutcome::NotNow(format!("waiting for it failed: {error}")),
    }
}

/// Logs what a pipe says, until its last holder closes it. A process that a script left behind (a service that it
/// started) may hold it for ever: it is read on while there is [`LINGERING_LIMIT`] for scripts of its kind, else
/// `grace` longer than the script. Whoever writes after that is not hit by SIGPIPE ([`output_pipe`]), and waits when
/// the pipe's buffer is full.
fn collect(
    run: &ScriptRun,
    name: &'static str,
    mut pipe: Receiver,
    mut ended: watch::Receiver<()>,
    grace: Duration,
) {
    let object: Arc<str> = run.object.as_str().into();
    // Checks, which may leave something behind at each run, take nothing from the others.
    let places = if run.reply { &LEFT_BY_CHECKS } else { &LEFT_BEHIND };
    tokio::spawn(async move {
        let mut lines = Lines::default();
        let mut buffer = [0_u8; 1024];
        let limit = async move {
            // An error: the sender is gone.
            while ended.changed().await.is_ok() {}
            tokio::time::sleep(grace).await;
            if let Ok(_held) = places.try_acquire() {
                std::future::pending::<()>().await;
            }
        };
        let mut limit = std::pin::pin!(limit);
        loop {
            let count = tokio::select! {
                read = pipe.read(&mut buffer) => match read {
                    Ok(count @ 1..) => count,
                    _ => break,
                },
                () = &mut limit => break,
            };
            for line in lines.take(&buffer[..count]) {
                tracing::info!(object = %object, stream = name, "script: {line}");
            }
        }
        if let Some(line) = lines.rest() {
            tracing::info!(object = %object, stream = name, "script: {line}");
        }
    });
}

/// Cuts output into lines within the bounds.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    seen: usize,
    told: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        for &byte in bytes {
            if self.seen >= OUTPUT_LIMIT {
                if !self.told {
                    self.told = true;
                    out.extend(self.rest());
                    out.push(format!(
                        "(more than {OUTPUT_LIMIT} bytes of output: the rest is dropped)"
                    ));
                }
                break;
            }
            self.seen += 1;
            if byte == b'\n' {
                out.extend(self.rest());
            } else {
                self.partial.push(byte);
                if self.partial.len() >= LINE_LIMIT {
                    out.extend(self.rest());
                }
            }
        }
        out
    }

    fn rest(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.partial);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
