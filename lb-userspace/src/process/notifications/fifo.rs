//! One notify FIFO: made, written without ever waiting, its script kept running.
//!
//! The FIFO is open for reading too, as keepalived's is, so that lines wait in it while no reader
//! is there; what does not fit into it waits in a [`Backlog`].

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    sys::stat::Mode,
    unistd::{Gid, Uid, chown, mkfifo},
};
use tokio::{net::unix::pipe, sync::Notify, task::JoinHandle};

use super::backlog::{Backlog, LINE_LIMIT};
use crate::{
    config::model::{self, Command, User},
    process::{
        ipc::{ScriptOutcome, ScriptRun},
        scripts::{
            identity,
            run::{self, Surroundings},
        },
    },
    vrrp::notify::LineKind,
};

/// A FIFO that cannot be opened, and a script that has ended, are tried again after this long, and
/// twice as long each time up to the limit.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// A FIFO that is written. Dropping it ends the writer; [`Pipe::close`] does so in order.
#[derive(Debug)]
pub struct Pipe {
    spec: model::Fifo,
    path: PathBuf,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    script: Option<JoinHandle<()>>,
    cancel: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Shared {
    backlog: Mutex<Backlog>,
    wake: Notify,
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Backlog) -> T) -> T {
        act(&mut self.backlog.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pipe {
    /// Starts writer and script. `None`: the words name no FIFO.
    pub fn start(spec: &model::Fifo, default_user: Option<&User>, secure: bool) -> Option<Self> {
        let (path, owner) = spec.path.clone()?;
        let shared = Arc::new(Shared::default());
        let cancel = Arc::new(Notify::new());
        let writer = tokio::spawn(write(path.clone(), owner, Arc::clone(&shared)));
        let script = spec.script.as_ref().map(|command| {
            let identity = identity::resolve(command, default_user);
            tokio::spawn(keep_running(
                command.clone(),
                path.clone(),
                identity
                    .map(|identity| Surroundings { identity, secure })
                    .map_err(|why| why.to_string()),
                Arc::clone(&cancel),
            ))
        });
        Some(Self { spec: spec.clone(), path, shared, writer: Some(writer), script, cancel })
    }

    /// Whether it is what these words ask for.
    pub fn is(&self, spec: &model::Fifo) -> bool {
        self.spec == *spec
    }

    /// Queues a line.
    pub fn say(&self, object: &str, kind: LineKind, line: &str) {
        let dropped = self.shared.with(|backlog| backlog.push(object, kind, line));
        if let Some(dropped) = dropped {
            let fifo = self.path.display();
            tracing::warn!(%fifo, dropped, limit = LINE_LIMIT, "nobody reads the FIFO: line dropped");
        }
        self.shared.wake.notify_one();
    }

    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        self.shared.with(|backlog| backlog.dropped())
    }

    /// Every line is in the FIFO.
    pub fn is_drained(&self) -> bool {
        self.shared.with(|backlog| backlog.is_empty())
    }

    /// Takes the lines that are not in the FIFO yet; the writer has nothing to do any more.
    pub fn take_waiting(&self) -> Backlog {
        self.shared.with(std::mem::take)
    }

    /// Goes on with the lines that another writer of the same FIFO has left.
    pub fn go_on(&self, waiting: Backlog) {
        self.shared.with(|backlog| *backlog = waiting);
        self.shared.wake.notify_one();
    }

    /// Whether both write the FIFO of the same name.
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.path == other.path
    }

    /// Ends writer and script; the FIFO stays for the writer that has taken over.
    pub async fn hand_over(mut self) {
        if let Some(writer) = self.writer.take() {
            writer.abort();
        }
        // Both scripts would read lines in turn.
        self.end_script(Duration::ZERO).await;
    }

    /// Ends the writer, so that readers see the end of the file after the last line, and takes
    /// the FIFO's name away. The script gets until `limit` to read to that end. Lines that are not
    /// in the FIFO yet are lost, and counted in the log.
    pub async fn close(mut self, limit: Duration) {
        if let Some(writer) = self.writer.take() {
            writer.abort();
            let _ = writer.await; // an aborted task is no failure
        }
        let lost = self.take_waiting().len();
        if lost > 0 {
            tracing::warn!(fifo = %self.path.display(), lost, "FIFO closed: nobody has read lines");
        }
        let is_fifo = fs::symlink_metadata(&self.path).is_ok_and(|it| it.file_type().is_fifo());
        if is_fifo && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(fifo = %self.path.display(), %error, "FIFO not removed");
        }
        self.end_script(limit).await;
    }

    async fn end_script(&mut self, limit: Duration) {
        if let Some(mut script) = self.script.take() {
            if tokio::time::timeout(limit, &mut script).await.is_err() {
                self.cancel.notify_one();
                let _ = tokio::time::timeout(run::KILL_DELAY * 2, &mut script).await;
            }
            script.abort();
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for task in [&self.writer, &self.script].into_iter().flatten() {
            task.abort();
        }
    }
}

/// Makes the FIFO if it is not there, and opens it.
fn open(path: &Path, owner: Option<&User>) -> io::Result<pipe::Sender> {
    match mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) => {
            let (uid, gid) = owner.map_or(Ok((None, None)), ids)?;
            if uid.is_some() || gid.is_some() {
                chown(path, uid, gid)?;
            }
        }
        Err(nix::errno::Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    if !file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("there is something else than a FIFO of this name"));
    }
    pipe::Sender::from_file(file)
}

fn ids(user: &User) -> io::Result<(Option<Uid>, Option<Gid>)> {
    let command = Command { argv: vec!["-".into()], user: Some(user.clone()) };
    let identity = identity::resolve(&command, None).map_err(io::Error::other)?;
    Ok(identity
        .map_or((None, None), |it| (Some(Uid::from_raw(it.uid)), Some(Gid::from_raw(it.gid)))))
}

async fn write(path: PathBuf, owner: Option<User>, shared: Arc<Shared>) {
    let mut retry = RETRY;
    let mut said = String::new();
    loop {
        let sender = match open(&path, owner.as_ref()) {
            Ok(sender) => sender,
            Err(error) => {
                let why = error.to_string();
                if why != said {
                    tracing::error!(fifo = %path.display(), error = why, "FIFO not opened, tried again");
                    said = why;
                }
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_LIMIT);
                continue;
            }
        };
        said.clear();
        retry = RETRY;
        if let Err(error) = feed(&sender, &shared).await {
            tracing::error!(fifo = %path.display(), %error, "FIFO is opened again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Writes line after line; a line is short enough for the kernel to write all of it or nothing.
async fn feed(sender: &pipe::Sender, shared: &Shared) -> io::Result<()> {
    loop {
        if shared.with(|backlog| backlog.is_empty()) {
            shared.wake.notified().await;
            continue;
        }
        sender.writable().await?;
        shared.with(|backlog| {
            while let Some(line) = backlog.front() {
                match sender.try_write(format!("{line}\n").as_bytes()) {
                    Ok(_) => backlog.pop(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
    }
}

/// Runs the reader again whenever it ends, until it is cancelled or the FIFO's name is gone.
async fn keep_running(
    command: Command,
    path: PathBuf,
    around: Result<Surroundings, String>,
    cancel: Arc<Notify>,
) {
    let object = format!("script of FIFO {}", path.display());
    let around = match around {
        Ok(around) => around,
        Err(why) => return tracing::error!(object, "script not started: {why}"),
    };
    let asked = ScriptRun {
        id: 0,
        object: object.clone(),
        command,
        extra_args: vec![path.display().to_string()],
        timeout: None,
        queue: None,
        reply: false,
    };
    let mut retry = RETRY;
    loop {
        // The writer makes the FIFO; a reader that is faster would fail.
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let begin = std::time::Instant::now();
        let outcome = run::run(&asked, &around, &cancel).await;
        if !path.exists() {
            return;
        }
        if begin.elapsed() > RETRY_LIMIT {
            retry = RETRY;
        }
        match outcome {
            ScriptOutcome::NotStarted(why) | ScriptOutcome::NotNow(why) => {
                tracing::error!(object, ?retry, "script not started, tried again: {why}");
            }
            other => {
                tracing::warn!(object, outcome = ?other, ?retry, "script ended, started again")
            }
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn spec(path: &Path, script: Option<&str>) -> model::Fifo {
        let argv = |text: &str| ["/bin/sh", "-c", text, "sh"].map(str::to_owned).to_vec();
        model::Fifo {
            path: Some((path.to_owned(), None)),
            script: script.map(|text| Command { argv: argv(text), user: None }),
        }
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(std::time::Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_reader_that_comes_late_gets_every_line_in_order() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("fifo");
        let pipe = Pipe::start(&spec(&path, None), None, false).expect("named");
        for n in 0..200 {
            pipe.say("o", LineKind::State, &format!("line {n}"));
        }
        until("the lines to be in the FIFO", || pipe.is_drained()).await;
        let reader = path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            File::open(reader).and_then(|mut it| it.read_to_string(&mut text)).map(|_| text)
        });
        // The reader must have the FIFO open before it loses its name.
        until("the reader", || {
            fs::read_dir("/proc/self/fd").is_ok_and(|fds| {
                let named = |it: fs::DirEntry| fs::read_link(it.path()).is_ok_and(|to| to == path);
                fds.flatten().filter_map(|it| named(it).then_some(())).count() == 2
            })
        })
        .await;
        pipe.close(Duration::ZERO).await;
        let text = read.await.expect("no panic").expect("read");
        let wanted: String = (0..200).map(|n| format!("line {n}\n")).collect();
        assert_eq!(text, wanted);
        assert!(!path.exists(), "our FIFO is removed");
    }

    #[tokio::test]
    async fn nobody_reads_and_the_last_line_is_still_there() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("fifo");
        let pipe = Pipe::start(&spec(&path, None), None, false).expect("named");
        // More than pipe and backlog hold together.
        let long = "x".repeat(100);
        let all = 65_536 / 100 + 3 * LINE_LIMIT;
        for n in 0..all {
            pipe.say("o", LineKind::State, &format!("{n} {long}"));
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(pipe.dropped() > 0, "the bound was not reached");
        let reader = path.clone();
        let last = format!("{} {long}", all - 1);
        let seen = tokio::task::spawn_blocking(move || {
            use std::io::BufRead as _;
            let file = File::open(reader).expect("opened");
            io::BufReader::new(file).lines().map_while(Result::ok).find(|line| *line == last)
        });
        let seen = tokio::time::timeout(Duration::from_secs(10), seen).await.expect("in time");
        assert!(seen.expect("no panic").is_some());
        pipe.close(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn a_script_that_dies_is_started_again_and_reads_on() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, log) = (dir.path().join("fifo"), dir.path().join("log"));
        // Reads one line, then ends.
        let text = format!("read line < $1; echo \"$line\" >> {}", log.display());
        let pipe = Pipe::start(&spec(&path, Some(&text)), None, false).expect("named");
        pipe.say("o", LineKind::State, "INSTANCE \"V\" BACKUP 100");
        pipe.say("o", LineKind::State, "INSTANCE \"V\" MASTER 100");
        let lines = || fs::read_to_string(&log).unwrap_or_default().lines().count();
        until("the first line", || lines() >= 1).await;
        // The shell reads byte by byte, so the second line is still in the FIFO.
        until("the second line", || lines() == 2).await;
        pipe.close(Duration::from_millis(100)).await;
        let text = fs::read_to_string(&log).expect("written");
        assert_eq!(text, "INSTANCE \"V\" BACKUP 100\nINSTANCE \"V\" MASTER 100\n");
    }

    #[tokio::test]
    async fn what_is_no_fifo_is_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("plain");
        fs::write(&path, "mine").expect("written");
        assert!(open(&path, None).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(open(&link, None).is_err(), "links are not followed");
        let pipe = Pipe::start(&spec(&path, None), None, false).expect("named");
        pipe.say("o", LineKind::State, "line");
        pipe.close(Duration::ZERO).await;
        assert_eq!(fs::read_to_string(&path).expect("kept"), "mine");
    }
}
