//! The numbers in files, read again whenever inotify(7) says that they may have changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd, RawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use super::sys;

/// Bytes of a file that are read.
const READ_LIMIT: u64 = 64;
/// How often everything is read again: the only way where a directory does not exist yet or
/// inotify has no watches left, and a second look otherwise.
const ROUND: Duration = Duration::from_secs(1);
const ROUND_WATCHED: Duration = Duration::from_secs(10);

/// nix knows inotify's descriptor by its newer trait only.
#[derive(Debug)]
pub(super) struct Handle(Inotify);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// All files.
#[derive(Debug, Default)]
pub(super) struct Files {
    paths: BTreeMap<String, PathBuf>,
    values: BTreeMap<String, i64>,
    /// `None`: not available, or not needed.
    inotify: Option<AsyncFd<Handle>>,
    directories: BTreeMap<PathBuf, WatchDescriptor>,
    told: BTreeSet<String>,
}

/// The number at the beginning of a file's text, as keepalived reads it: 0 when there is none.
pub fn parse(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let digits = text.iter().skip(sign).take_while(|byte| byte.is_ascii_digit()).count();
    let number = text.get(..sign + digits).and_then(|it| std::str::from_utf8(it).ok());
    let Some(number) = number.filter(|_| digits > 0) else { return 0 };
    number.parse().unwrap_or(if number.starts_with('-') { i64::MIN } else { i64::MAX })
}

fn read(path: &Path) -> io::Result<i64> {
    let mut bytes = Vec::new();
    match File::options().read(true).custom_flags_nonblock().open(path) {
        Ok(file) => {
            // A FIFO or a device has no number.
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            file.take(READ_LIMIT).read_to_end(&mut bytes)?;
            Ok(parse(&bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Opening a FIFO must not wait for its writer.
trait NonBlocking {
    fn custom_flags_nonblock(&mut self) -> &mut Self;
}

impl NonBlocking for std::fs::OpenOptions {
    fn custom_flags_nonblock(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_NONBLOCK | libc::O_CLOEXEC)
    }
}

impl Files {
    /// Replaces what is looked at; values that are new.
    pub(super) fn configure(&mut self, files: Vec<(String, PathBuf)>) -> Vec<(String, i64)> {
        let paths: BTreeMap<String, PathBuf> = files.into_iter().collect();
        self.values.retain(|name, _| paths.get(name) == self.paths.get(name));
        self.paths = paths;
        if self.paths.is_empty() {
            (self.inotify, self.directories) = (None, BTreeMap::new());
            return vec![];
        }
        if self.inotify.is_none() {
            let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
            match Inotify::init(flags).map(Handle).map_err(io::Error::from).and_then(sys::changes) {
                Ok(inotify) => self.inotify = Some(inotify),
                Err(error) => {
                    tracing::warn!(%error, every = ?ROUND, "no inotify: track_file is polled");
                }
            }
        }
        self.watch_directories();
        self.look()
    }

    /// The directory and not the file is watched, so that a file that is replaced by rename(2), or
    /// made later, is noticed.
    fn watch_directories(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let wanted: BTreeSet<PathBuf> =
            self.paths.values().filter_map(|path| path.parent().map(Path::to_owned)).collect();
        self.directories.retain(|directory, watch| {
            let keep = wanted.contains(directory);
            if !keep {
                let _ = inotify.get_ref().0.rm_watch(*watch); // gone with its directory
            }
            keep
        });
        for directory in wanted {
            let flags = AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_MOVED_FROM
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_ATTRIB
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_ONLYDIR;
            // Again for one that is watched: it may be another directory of that name by now.
            match inotify.get_ref().0.add_watch(&directory, flags) {
                Ok(watch) => drop(self.directories.insert(directory, watch)),
                Err(_) => drop(self.directories.remove(&directory)),
            }
        }
    }

    /// Reads everything; values that are new.
    fn look(&mut self) -> Vec<(String, i64)> {
        let mut new = Vec::new();
        for (name, path) in &self.paths {
            match read(path) {
                Ok(value) => {
                    self.told.remove(name);
                    if self.values.insert(name.clone(), value) != Some(value) {
                        new.push((name.clone(), value));
                    }
                }
                Err(error) => {
                    // The last value stands; without one the file counts as 0, as one that is
                    // not there.
                    if self.told.insert(name.clone()) {
                        let path = path.display();
                        tracing::error!(track_file = name, %path, %error, "not read, value stays");
                    }
                    if !self.values.contains_key(name) {
                        self.values.insert(name.clone(), 0);
                        new.push((name.clone(), 0));
                    }
                }
            }
        }
        new
    }

    /// Waits until something may have changed; values that are new. Cancel safe.
    pub(super) async fn next(&mut self) -> Vec<(String, i64)> {
        if self.paths.is_empty() {
            return std::future::pending().await;
        }
        let all = self.paths.values().filter_map(|path| path.parent());
        let watched =
            self.inotify.is_some() && all.into_iter().all(|it| self.directories.contains_key(it));
        let round = if watched { ROUND_WATCHED } else { ROUND };
        let names: BTreeSet<OsString> =
            self.paths.values().filter_map(|path| path.file_name().map(Into::into)).collect();
        if let Some(inotify) = &self.inotify {
            let wake = tokio::time::timeout(round, touched(inotify, &names)).await;
            if let Ok(Err(error)) = wake {
                tracing::warn!(%error, "inotify fails, it is opened again");
                (self.inotify, self.directories) = (None, BTreeMap::new());
                let again = self.paths.clone().into_iter().collect();
                return self.configure(again);
            }
            if wake.is_err() {
                self.watch_directories();
            }
        } else {
            tokio::time::sleep(round).await;
        }
        self.look()
    }
}

/// Waits for an event of one of these names, or of a directory itself.
async fn touched(inotify: &AsyncFd<Handle>, names: &BTreeSet<OsString>) -> io::Result<()> {
    loop {
        let mut guard = inotify.readable().await?;
        match inotify.get_ref().0.read_events() {
            Ok(events) => {
                let ours =
                    |name: &Option<OsString>| name.as_ref().is_none_or(|it| names.contains(it));
                if events.iter().any(|event| ours(&event.name)) {
                    return Ok(());
                }
            }
            Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_keepaliveds() {
        for (text, value) in [
            ("7\n", 7),
            (" -20", -20),
            ("+3", 3),
            ("7x", 7),
            ("junk", 0),
            ("", 0),
            ("-", 0),
            ("99999999999999999999", i64::MAX),
            ("-99999999999999999999", i64::MIN),
        ] {
            assert_eq!(parse(text.as_bytes()), value, "{text}");
        }
        assert_eq!(parse(b"\xff5"), 0);
    }

    async fn next(files: &mut Files) -> Vec<(String, i64)> {
        let value = async {
            loop {
                let new = files.next().await;
                if !new.is_empty() {
                    return new;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), value).await.expect("noticed in time")
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_noticed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("value");
        let one = |value| vec![("f".to_owned(), value)];
        let mut files = Files::default();
        assert_eq!(files.configure(vec![("f".into(), path.clone())]), one(0), "not there");
        std::fs::write(&path, "5\n").expect("written");
        assert_eq!(next(&mut files).await, one(5));
        let other = dir.path().join("other");
        std::fs::write(&other, "-3").expect("written");
        std::fs::rename(&other, &path).expect("renamed");
        assert_eq!(next(&mut files).await, one(-3), "replaced as a whole");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(next(&mut files).await, one(0));
        assert_eq!(files.configure(vec![("f".into(), path)]), [], "not told again");
    }

    #[tokio::test]
    async fn a_directory_may_come_later_and_what_is_no_file_is_no_value() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("later/value");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).expect("fifo");
        let mut files = Files::default();
        let new = files.configure(vec![("f".into(), path.clone()), ("p".into(), fifo)]);
        assert_eq!(new, [("f".to_owned(), 0), ("p".to_owned(), 0)]);
        std::fs::create_dir(dir.path().join("later")).expect("made");
        std::fs::write(&path, "9").expect("written");
        assert_eq!(next(&mut files).await, [("f".to_owned(), 9)]);
        std::fs::write(&path, "10").expect("written");
        assert_eq!(next(&mut files).await, [("f".to_owned(), 10)], "watched by now");
    }
}
