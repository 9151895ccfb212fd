//! A role's process, from the hidden subcommand `lbd role NAME` to its exit code.
//!
//! The watchdog starts its own executable with one end of a socketpair as standard input: the only
//! descriptor that std can hand over without unsafe code. The child moves it away and gets
//! /dev/null as standard input instead.
//!
//! Signals that service managers and scripts send to every process of a name (`pkill keepalived`,
//! Ctrl-C in a terminal) are taken and ignored here: the watchdog gets them too and stops its
//! children in order. A closed pipe means that the watchdog died; each role says itself what it
//! does then.

use std::{
    ffi::CString,
    future::Future,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{SFlag, fstat},
};
use tokio::{
    net::UnixStream,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    Link, codec,
    ipc::{Down, Role, Up},
    logging::{self, Logging},
    pidfile::{self, PidFile},
};

/// Time for the last messages (`Stopped`, script requests) to reach the watchdog.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Name of every process of lbd that was given no other.
pub const DEFAULT_NAME: &str = "lbd";

/// Longest name that the kernel keeps (TASK_COMM_LEN − 1, prctl(2)).
const COMM_LIMIT: usize = 15;

/// Names this process for `ps`, `pkill` and `pidof`. Longer names are cut by the kernel's rule.
pub fn set_process_name(name: &str) {
    let cut: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(COMM_LIMIT).collect();
    if let Ok(name) = CString::new(cut)
        && let Err(error) = nix::sys::prctl::set_name(&name)
    {
        tracing::debug!(%error, "process name not set");
    }
}

/// Lets this process have as many descriptors as it may. A checker has up to three for a real server, and the usual soft
/// limit of 1024 stands for those who use select(2): nobody here does, and scripts are the watchdog's, whose limit stays.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open descriptors is not raised");
    }
}

/// What a role's process is told on its command line, beside the role.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// For `ps` and `pkill`, when the watchdog has a name to pass on.
    pub process_name: Option<String>,
    pub log: Logging,
    /// Holds the role's pid file.
    pub run_dir: PathBuf,
}

/// Runs a role to its end: standard input is the pipe to the watchdog, `role_main` the role. The
/// role begins when the one before it (of a watchdog that was killed) has ended: two vrrp
/// processes would fight over the VIPs.
///
/// Exit code 0 after an orderly end, 1 after an error (logged), 2 when not started by lbd.
pub fn run<F, Fut>(role: Role, bootstrap: &Bootstrap, role_main: F) -> ExitCode
where
    F: FnOnce(Link) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    logging::init(bootstrap.log);
    // Always, because the executable is started through /proc/self/exe and would be named so.
    set_process_name(bootstrap.process_name.as_deref().unwrap_or(DEFAULT_NAME));
    raise_descriptors();
    let stream = match take_pipe() {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!(role = role.name(), "{error:#}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(role = role.name(), %error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let pid_file = pidfile::role_path(&bootstrap.run_dir, role.name());
    match runtime.block_on(serve(stream, &pid_file, role_main)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(role = role.name(), "role ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve<F, Fut>(stream: StdUnixStream, pid_file: &Path, role_main: F) -> anyhow::Result<()>
where
    F: FnOnce(Link) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let _ignored = ignore_signals()?;
    // Not removed at the end: the role may have left root by then; the watchdog tidies up.
    let _held = PidFile::succeed(pid_file).await?;
    stream.set_nonblocking(true).context("pipe to the watchdog")?;
    let stream = UnixStream::from_std(stream).context("pipe to the watchdog")?;
    let connection = codec::connect::<Down, Up>(stream);
    let link = Link { rx: connection.rx, tx: connection.tx };
    let result = role_main(link).await;
    // The role dropped its sender; what it queued last still has to leave.
    match tokio::time::timeout(FLUSH_LIMIT, connection.writer).await {
        Ok(Ok(Err(error))) => tracing::debug!(%error, "last messages not delivered"),
        Err(_) => tracing::warn!(limit = ?FLUSH_LIMIT, "last messages not delivered in time"),
        _ => {}
    }
    result
}

/// Takes standard input as the pipe, and leaves /dev/null there.
fn take_pipe() -> anyhow::Result<StdUnixStream> {
    let stdin = std::io::stdin();
    let kind = fstat(stdin.as_fd()).context("fstat of standard input")?;
    if SFlag::from_bits_truncate(kind.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        bail!("standard input is not the watchdog's pipe: roles are started by lbd itself");
    }
    let pipe: OwnedFd = stdin.as_fd().try_clone_to_owned().context("duplicate the pipe")?;
    let null = std::fs::File::open("/dev/null").context("open /dev/null")?;
    nix::unistd::dup2_stdin(null).context("/dev/null as standard input")?;
    Ok(StdUnixStream::from(pipe))
}

/// Registers handlers that do nothing; dropping them does not restore the default action.
fn ignore_signals() -> anyhow::Result<Vec<Signal>> {
    [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::quit(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ]
    .into_iter()
    .map(|kind| signal(kind).context("signal handler"))
    .collect()
}
