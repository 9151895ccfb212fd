//! Starting a role's process and attending to it: messages in, messages out, its end.

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream, unix::process::ExitStatusExt as _},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UnixStream,
    process::{Child, Command},
    sync::{Notify, mpsc},
};

use super::Happening;
use crate::process::{
    codec::{self, Connection},
    ipc::{Down, Role, Up},
    logging::Logging,
};

/// A child that closed its pipe has this long to end.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How roles are started.
#[derive(Clone, Debug)]
pub struct Spawner {
    /// The executable; `/proc/self/exe`, so that a restarted role is the same build as its
    /// watchdog even after an upgrade of the file.
    pub executable: PathBuf,
    pub process_name: Option<String>,
    pub log: Logging,
    pub run_dir: PathBuf,
}

/// The watchdog's end of a running child.
#[derive(Debug)]
pub struct Attended {
    pub pid: u32,
    /// Use `try_send`: the watchdog waits for no child.
    pub tx: mpsc::Sender<Down>,
    kill: Arc<Notify>,
}

impl Attended {
    /// SIGKILL.
    pub fn kill(&self) {
        self.kill.notify_one();
    }
}

impl Spawner {
    /// Starts a role. What it says and its end arrive at `happenings`.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn spawn(&self, role: Role, happenings: mpsc::Sender<Happening>) -> io::Result<Attended> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&self.executable);
        command
            .arg0(self.process_name.as_deref().unwrap_or("lbd"))
            .args(self.arguments(role))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID");
        let child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        let connection = codec::connect::<Up, Down>(UnixStream::from_std(ours)?);
        let kill = Arc::new(Notify::new());
        let attended = Attended { pid, tx: connection.tx.clone(), kill: Arc::clone(&kill) };
        tokio::spawn(attend(role, pid, child, connection, kill, happenings));
        Ok(attended)
    }

    fn arguments(&self, role: Role) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["role", role.name(), "--run-dir"].map(Into::into).to_vec();
        args.push(self.run_dir.clone().into());
        if self.log.console {
            args.push("--log-console".into());
        }
        if self.log.detail {
            args.push("--log-detail".into());
        }
        if let Some(name) = &self.process_name {
            args.extend(["--process-name".into(), name.into()]);
        }
        args
    }
}

/// Reads a child's messages to the last one, then reaps it: an end is never told before what the
/// child said before it.
async fn attend(
    role: Role,
    pid: u32,
    mut child: Child,
    connection: Connection<Up, Down>,
    kill: Arc<Notify>,
    happenings: mpsc::Sender<Happening>,
) {
    let Connection { mut rx, tx, reader, writer: _ } = connection;
    drop(tx); // the watchdog has its own
    loop {
        tokio::select! {
            up = rx.recv() => match up {
                Some(up) => {
                    if happenings.send(Happening::Said { role, pid, up }).await.is_err() {
                        return; // the watchdog ends
                    }
                }
                None => break,
            },
            () = kill.notified() => start_kill(role, &mut child),
        }
    }
    let why = match reader.await {
        Ok(Err(error)) => Some(error.to_string()),
        _ => None,
    };
    // A broken pipe is told at once, a closed one only when the child stays on regardless.
    let mut patience = Box::pin(tokio::time::sleep(match &why {
        Some(_) => Duration::ZERO,
        None => END_LIMIT,
    }));
    let mut told = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = kill.notified() => start_kill(role, &mut child),
            () = &mut patience, if !told => {
                told = true;
                let why = why.clone().unwrap_or_else(|| "closed its pipe but runs on".to_owned());
                if happenings.send(Happening::PipeLost { role, pid, why }).await.is_err() {
                    return;
                }
            }
        }
    };
    let how = describe(status);
    let _ = happenings.send(Happening::Exited { role, pid, how }).await; // the watchdog may end
}

fn start_kill(role: Role, child: &mut Child) {
    if let Err(error) = child.start_kill() {
        tracing::warn!(role = role.name(), %error, "not killed");
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
                Ok(signal) => format!("killed by {signal}"),
                Err(_) => format!("killed by signal {signal}"),
            },
            (None, None) => "ended".to_owned(),
        },
        Err(error) => format!("ended, status unknown: {error}"),
    }
}
