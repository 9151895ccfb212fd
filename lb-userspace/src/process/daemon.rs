//! Into the background without fork(2): the foreground process starts its own executable again
//! with its standard input as a status pipe, waits until that says that it is ready, and leaves
//! with its exit code otherwise.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Command, Stdio},
    time::Duration,
};

/// Hidden argument of the background process.
pub const BACKGROUND_FLAG: &str = "--background";
/// Longest wait for readiness; after it the start is reported as going on.
const READY_LIMIT: Duration = Duration::from_secs(40);
/// What the background process writes when it is ready.
const READY: &[u8] = b"ready\n";

/// Starts this very command line again in the background. The exit code for the foreground
/// process: 0 when the daemon is ready, else its own.
///
/// # Errors
/// When the process cannot be started or waited for.
pub fn into_background(args: &[OsString]) -> io::Result<u8> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    let mut child = command
        .args(args.iter().skip(1))
        .arg(BACKGROUND_FLAG)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()?;
    drop(command); // holds the other end of the pipe
    ours.set_read_timeout(Some(READY_LIMIT))?;
    let mut said = [0_u8; READY.len()];
    match ours.read_exact(&mut said) {
        Ok(()) if said == READY => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            eprintln!("lbd: not ready after {} s, it goes on starting", READY_LIMIT.as_secs());
            Ok(0)
        }
        _ => {
            let status = child.wait()?;
            Ok(status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .filter(|c| *c != 0)
                .unwrap_or(1))
        }
    }
}

/// The background process's line to whoever started it.
#[derive(Debug)]
pub struct Starter(UnixStream);

impl Starter {
    /// Leaves the session of the terminal and takes the status pipe from standard input.
    ///
    /// # Errors
    /// When this is not the process that [`into_background`] started.
    pub fn take() -> io::Result<Self> {
        nix::unistd::setsid()?;
        let pipe = io::stdin().as_fd().try_clone_to_owned()?;
        nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
        Ok(Self(UnixStream::from(pipe)))
    }

    /// Lets the foreground process end with success.
    pub fn ready(mut self) {
        // It may have been killed meanwhile: nobody to tell then.
        let _ = self.0.write_all(READY);
    }
}
