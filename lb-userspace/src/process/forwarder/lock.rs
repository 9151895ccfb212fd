//! One forwarder for each pin directory: two lbd of the same instance name on one kernel would
//! fight over the same maps, whatever run directories they were given.

use std::{fs::File, io, path::Path};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// flock(2) of the directory itself, because bpffs holds no plain files. Ends with the process.
#[derive(Debug)]
pub struct PinLock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Takes the lock; `None` when there is no such directory yet.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when another process has it.
pub fn take(pin_dir: &Path) -> io::Result<Option<PinLock>> {
    let directory = match File::open(pin_dir) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(PinLock(lock))),
        Err((_, Errno::EWOULDBLOCK)) => Err(io::ErrorKind::WouldBlock.into()),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_none_without_a_directory() {
        let dir = tempfile::tempdir().expect("tempdir");
        let held = take(dir.path()).expect("free");
        assert!(held.is_some());
        let error = take(dir.path()).expect_err("held");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        assert!(take(dir.path()).expect("free again").is_some());
        assert!(take(&dir.path().join("absent")).expect("no error").is_none());
    }
}
