//! Where a running lbd's log goes: to the console with `-n` or `-l`, else to the journal where there is
//! one; `-D` says more, in either.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    host::bin_dir,
    process::{Process, send},
    single::{self, LIMIT, Single, config},
    wait::{wait_true, wait_until},
};
use nix::{sys::signal::Signal, unistd::Pid};

/// A journal at `$1` for the rest of the words, on a machine that may have one or none.
const IN_JOURNALS_PLACE: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
    mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"";

/// What arrives at the journal's socket.
struct Journal {
    said: Arc<Mutex<String>>,
    over: Arc<AtomicBool>,
}

impl Journal {
    /// Listens in `dir`, which everybody may enter: roles send as nobody.
    fn listen(single: &Single, dir: &Path) -> Result<Self> {
        fs::create_dir(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        let path = dir.join("socket");
        // A start says more at once than the usual ten datagrams; lbd waits for no reader.
        single.host.netns().sysctl("net/unix/max_dgram_qlen", "1000")?;
        let socket = single.host.netns().enter(|| UnixDatagram::bind(&path))??;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let (said, over) = (Arc::<Mutex<String>>::default(), Arc::<AtomicBool>::default());
        let (text, stop) = (Arc::clone(&said), Arc::clone(&over));
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            while !stop.load(Ordering::Relaxed) {
                let Ok(length) = socket.recv(&mut buffer) else { continue };
                let event = String::from_utf8_lossy(&buffer[..length]);
                text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&event);
            }
        });
        Ok(Self { said, over })
    }

    fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A daemon that is ended with the test, by the pid in its file.
struct Daemon {
    pid_file: std::path::PathBuf,
}

impl Daemon {
    fn pid(&self) -> Result<Pid> {
        let text = fs::read_to_string(&self.pid_file).context("no pid file")?;
        Ok(Pid::from_raw(text.trim().parse().context("no pid in it")?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = self.pid() {
            let _ = send(pid, Signal::SIGTERM); // it may have ended
        }
    }
}

/// Runs lbd with `words` from its start to its end: what the console said, and what the journal.
fn said(words: &[&str]) -> Result<[String; 2]> {
    let single = Single::new()?;
    single.host.write_config(&config("0.2", "", "", ""))?;
    let journal_dir = single.dir().join("journal");
    let journal = Journal::listen(&single, &journal_dir)?;
    let console = single.dir().join("console");
    let run = single.dir().join("own-run");
    let mut command: Command = single.host.netns().command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", IN_JOURNALS_PLACE, "sh"]);
    command.arg(&journal_dir).arg(bin_dir().join("lbd")).args(words);
    command.arg("-f").arg(single.host.config_file()).arg("--run-dir").arg(&run);
    command.args(["--instance", single.host.instance()]).env_remove("LBD_LOG");
    let daemon = Daemon { pid_file: run.join("lbd.pid") };
    let mut foreground = None;
    if words.contains(&"-n") {
        foreground = Some(Process::start("lbd -n", command, Some(&console))?);
    } else {
        let log = fs::File::create(&console)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = command.status()?;
        ensure!(status.success(), "{status}: {}", fs::read_to_string(&console)?);
    }
    let all = || [fs::read_to_string(&console).unwrap_or_default(), journal.said()];
    let either = |what: &str| {
        let said = || Ok(all().iter().any(|text| text.contains(what)).then_some(()));
        wait_until(&format!("`{what}`, by lbd {words:?}"), LIMIT, said, || format!("{:#?}", all()))
    };
    either("Entering MASTER STATE")?;
    send(daemon.pid()?, Signal::SIGTERM)?;
    wait_true("the daemon's end", LIMIT, || single.host.pids().is_empty())?;
    if let Some(mut process) = foreground {
        let status = process.wait_exit(LIMIT)?;
        ensure!(status.success(), "{status}");
    }
    // It may still be on its way through the reader.
    either("lbd ends")?;
    Ok(all())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_log_is_on_the_console_where_asked_for_else_in_the_journal() -> Result<()> {
    if !single::ready("proc_console")? {
        return Ok(());
    }
    /// Words, whether the console has the log, whether it has details.
    const ROWS: [(&[&str], bool, bool); 6] = [
        (&["-n", "-l"], true, false),
        (&["-n", "-l", "-D"], true, true),
        (&["-n"], true, false),
        (&["-l"], true, false),
        (&[], false, false),
        (&["-D"], false, true),
    ];
    // Side by side: they mostly wait for elections.
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let threads = ROWS.map(|row| scope.spawn(move || judge(row)));
        let joined = threads.map(|it| it.join().unwrap_or_else(|_| bail!("panicked")));
        joined.into()
    });
    results.into_iter().collect()
}

fn judge((words, on_console, detail): (&[&str], bool, bool)) -> Result<()> {
    /// By the watchdog, and by one of its roles.
    const LINES: [&str; 3] = ["lbd starts", "Entering MASTER STATE", "lbd ends"];
    let [console, journal] = said(words)?;
    let (full, empty) = if on_console { (&console, &journal) } else { (&journal, &console) };
    for line in LINES {
        ensure!(full.contains(line), "lbd {words:?}: no `{line}` in:\n{full}");
        ensure!(!empty.contains(line), "lbd {words:?}: `{line}` in:\n{empty}");
    }
    let debug = if on_console { " DEBUG " } else { "PRIORITY=6\n" };
    ensure!(full.contains(debug) == detail, "lbd {words:?}: {debug:?} in:\n{full}");
    let form = if on_console { " INFO " } else { "MESSAGE=lbd starts\n" };
    ensure!(full.contains(form), "lbd {words:?}: no {form:?} in:\n{full}");
    ensure!(!empty.contains(" INFO ") && !empty.contains("MESSAGE="), "{words:?}: {empty}");
    Ok(())
}
