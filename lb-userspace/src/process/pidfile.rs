//! Pid files that are locks: one lbd of an instance, one process of each role.
//!
//! The lock is flock(2)'s, so it ends with its process however that dies. Descriptors are
//! close-on-exec: neither children nor scripts keep it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a new process of a role waits for its predecessor (left behind by a watchdog that was
/// killed) to end by itself; then the predecessor gets SIGKILL. A released VIP takes milliseconds.
pub const PREDECESSOR_LIMIT: Duration = Duration::from_secs(3);

/// A held pid file. The lock ends with the value; the file stays until [`PidFile::remove`].
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _lock: Flock<File>,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is held by process {pid}", path.display())]
    Held { path: PathBuf, pid: u32 },
    #[error("pid file {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl PidFile {
    /// Locks the file and writes our pid into it.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it, with its pid (0: not written yet).
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        // More than one round only when a predecessor removes the file between open and lock.
        for _ in 0..16 {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(path)
                .map_err(io)?;
            let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((mut file, Errno::EWOULDBLOCK)) => {
                    let mut text = String::new();
                    let _ = file.read_to_string(&mut text); // an unreadable pid is 0, unknown
                    let pid = text.trim().parse().unwrap_or(0);
                    return Err(LockError::Held { path: path.to_owned(), pid });
                }
                Err((_, errno)) => return Err(io(errno.into())),
            };
            let ours = lock.metadata().map_err(io)?.ino();
            if fs::metadata(path).is_ok_and(|there| there.ino() == ours) {
                lock.set_len(0).map_err(io)?;
                writeln!(lock, "{}", std::process::id()).map_err(io)?;
                return Ok(Self { path: path.to_owned(), _lock: lock });
            }
        }
        Err(io(io::Error::other("replaced again and again by others")))
    }

    /// Like [`PidFile::acquire`], but waits for a predecessor, and kills it when it does not end.
    ///
    /// # Errors
    /// When the file cannot be written, or a predecessor survives SIGKILL for a second.
    pub async fn succeed(path: &Path) -> Result<Self, LockError> {
        let begin = tokio::time::Instant::now();
        let mut killed = false;
        loop {
            match Self::acquire(path) {
                Err(LockError::Held { path, pid }) => {
                    let waited = begin.elapsed();
                    if waited >= PREDECESSOR_LIMIT + Duration::from_secs(1) {
                        return Err(LockError::Held { path, pid });
                    }
                    if waited >= PREDECESSOR_LIMIT && !killed {
                        killed = true;
                        tracing::warn!(pid, "predecessor does not end, it is killed");
                        if let Ok(raw) = i32::try_from(pid)
                            && raw > 1
                            && let Err(error) = kill(Pid::from_raw(raw), Signal::SIGKILL)
                        {
                            tracing::warn!(pid, %error, "predecessor not killed");
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other => return other,
            }
        }
    }

    /// Removes the file, then lets the lock go.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path); // somebody may have tidied up before us
    }
}

/// Pid file of a role in the run directory.
pub fn role_path(run_dir: &Path, role: &str) -> PathBuf {
    run_dir.join(format!("{role}.pid"))
}

/// Writes a further pid file (`-p FILE`): plain, without a lock, as scripts in the wild expect.
///
/// # Errors
/// When it cannot be written.
pub fn write_plain(path: &Path) -> io::Result<()> {
    fs::write(path, format!("{}\n", std::process::id()))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn second_holder_learns_the_pid_of_the_first() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("lbd.pid");
        let first = PidFile::acquire(&path).expect("free");
        let Err(LockError::Held { pid, .. }) = PidFile::acquire(&path) else {
            panic!("locked twice")
        };
        assert_eq!(pid, std::process::id());
        first.remove();
        assert!(!path.exists());
        PidFile::acquire(&path).expect("free again");
    }

    #[test]
    fn stale_file_of_a_dead_process_is_no_lock() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("lbd.pid");
        fs::write(&path, "123456789 and more\n").expect("written");
        let _held = PidFile::acquire(&path).expect("nobody holds it");
        let text = fs::read_to_string(&path).expect("readable");
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn impossible_path_is_named() {
        let error = PidFile::acquire(Path::new("/nonexistent/x.pid")).expect_err("no folder");
        assert!(error.to_string().contains("/nonexistent/x.pid"), "{error}");
    }

    #[tokio::test]
    async fn hung_predecessor_is_killed_and_succeeded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("vrrp.pid");
        // flock(1) takes the lock, then becomes a process that never gives it back.
        let mut holder = Command::new("flock")
            .arg("--no-fork")
            .arg(&path)
            .args(["sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .expect("flock(1)");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !matches!(PidFile::acquire(&path), Err(LockError::Held { .. })) {
            assert!(std::time::Instant::now() < deadline, "flock(1) never got the lock");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fs::write(&path, format!("{}\n", holder.id())).expect("written");
        let begin = std::time::Instant::now();
        let held = PidFile::succeed(&path).await.expect("predecessor is killed");
        assert!(begin.elapsed() >= PREDECESSOR_LIMIT);
        let status = holder.wait().expect("reaped");
        assert!(!status.success(), "{status}");
        held.remove();
    }
}
