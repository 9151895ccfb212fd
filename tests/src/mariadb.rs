//! Real MariaDB servers for the suites, each with a private data directory.
//!
//! A data directory takes most of a second to make, so one template is made for each process
//! (with its users) and copied for every server.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    netns::{Namespace, PREFIX},
    process::{Process, output},
    wait::wait_until,
};

/// The application's account, allowed from everywhere.
pub const APP_USER: &str = "app";
/// Its password.
pub const APP_PASSWORD: &str = "app-secret";
/// The health checker's account: USAGE and SLAVE MONITOR only.
pub const CHECK_USER: &str = "lbcheck";
/// Its password.
pub const CHECK_PASSWORD: &str = "check-secret";
const REPL_USER: &str = "repl";
const REPL_PASSWORD: &str = "repl-secret";
/// Root's password, over the socket and from localhost (what the tutorial's scripts use).
pub const ROOT_PASSWORD: &str = "root";
/// The port of every server.
pub const PORT: u16 = 3306;

/// The socket's name in the data directory; a jail mounts that directory over /run/mysqld.
const SOCKET: &str = "mysqld.sock";

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Whether the server's programs are installed; the reason when not.
pub fn available() -> Result<(), String> {
    for program in ["mariadbd", "mariadb-install-db", "mariadb"] {
        if Command::new(program).arg("--version").output().is_err() {
            return Err(format!("`{program}` is not installed"));
        }
    }
    Ok(())
}

/// One MariaDB server in a namespace. Dropping it kills the server and removes its data.
#[derive(Debug)]
pub struct MariaDb {
    netns: Namespace,
    dir: TempDir,
    server_id: u32,
    extra: Vec<String>,
    process: Option<Process>,
}

impl MariaDb {
    /// Copies the template and starts the server on 0.0.0.0:3306 of `netns`. `server_id` is also
    /// its `auto_increment_offset` and its GTID domain.
    ///
    /// # Errors
    /// When MariaDB is not installed or does not come up; the message has the end of its log.
    pub fn start(netns: &Namespace, server_id: u32) -> Result<Self> {
        Self::start_with(netns, server_id, &[])
    }

    /// As [`MariaDb::start`], with more options for mariadbd.
    ///
    /// # Errors
    /// As [`MariaDb::start`].
    pub fn start_with(netns: &Namespace, server_id: u32, extra: &[&str]) -> Result<Self> {
        let dir = workspace(&format!("db{server_id}"))?;
        copy_template(dir.path())?;
        let mut made = Self {
            netns: netns.clone(),
            dir,
            server_id,
            extra: extra.iter().map(|&word| word.to_owned()).collect(),
            process: None,
        };
        made.run()?;
        Ok(made)
    }

    /// Its server id.
    pub fn server_id(&self) -> u32 {
        self.server_id
    }

    /// Its data directory, with the socket and the log in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    /// The namespace it runs in.
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }

    /// Whether the process runs (a stopped one does).
    pub fn running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.exited(), Ok(None)))
    }

    /// Starts it again after [`MariaDb::stop`] or [`MariaDb::kill`], and waits until it answers.
    ///
    /// # Errors
    /// When it runs already or does not come up.
    pub fn run(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        if self.running() {
            bail!("db{} runs already", self.server_id);
        }
        let mut command = self.netns.command("mariadbd");
        command.args(common_options(self.dir.path()));
        command.args([
            "--bind-address=0.0.0.0",
            &format!("--port={PORT}"),
            &format!("--server-id={}", self.server_id),
            &format!("--gtid-domain-id={}", self.server_id),
            &format!("--auto-increment-offset={}", self.server_id),
            "--auto-increment-increment=3",
            "--log-bin=binlog",
            "--log-slave-updates=1",
            "--binlog-format=row",
            "--skip-slave-start=0",
            "--slave-net-timeout=10",
            "--master-retry-count=0",
        ]);
        command.args(&self.extra);
        let log = self.dir.path().join("error.log");
        self.process = Some(self.netns.spawn(
            &format!("mariadbd db{}", self.server_id),
            command,
            Some(&log),
        )?);
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let log = self.dir.path().join("error.log");
        let server_id = self.server_id;
        wait_until(
            &format!("db{server_id} to answer"),
            START_LIMIT,
            || {
                if !self.running() {
                    bail!("db{server_id} ended:\n{}", crate::process::tail(&log, 20));
                }
                Ok(self.sql("SELECT 1").ok())
            },
            || crate::process::tail(&log, 20),
        )
        .map(drop)
    }

    /// Orderly shutdown (TERM), waiting for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        let Some(process) = self.process.as_mut() else { return Ok(()) };
        let status = process.stop(STOP_LIMIT)?;
        if !status.success() {
            bail!("db{} ended with {status}\n{}", self.server_id, process.log_tail(20));
        }
        Ok(())
    }

    /// kill -9, and reaps it.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.as_mut() {
            process.kill();
        }
    }

    /// Sends a signal, such as SIGSTOP or SIGCONT, or SIGTERM without waiting.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        match self.process.as_mut() {
            Some(process) => process.signal(signal),
            None => bail!("db{} was never started", self.server_id),
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// When it does not within the limit for shutdowns.
    pub fn wait_end(&mut self) -> Result<()> {
        match self.process.as_mut() {
            Some(process) => process.wait_exit(STOP_LIMIT).map(drop),
            None => Ok(()),
        }
    }

    /// Runs statements as root over the unix socket; rows come back tab-separated, no header.
    ///
    /// # Errors
    /// When the server does not answer within 5 s or rejects a statement.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let words = [&format!("--password={ROOT_PASSWORD}"), "--skip-column-names"];
        mysql(&self.socket(), &words, statements)
    }

    /// The state of replication, one `Name: value` a line; empty when it is no replica.
    ///
    /// # Errors
    /// As [`MariaDb::sql`].
    pub fn replica_status(&self) -> Result<String> {
        let words = [&format!("--password={ROOT_PASSWORD}"), "--vertical"];
        mysql(&self.socket(), &words, "SHOW SLAVE STATUS")
    }

    /// Makes this server a GTID replica of the one at `master`.
    ///
    /// # Errors
    /// When a statement is rejected or replication does not run within ten seconds.
    pub fn replicate_from(&self, master: Ipv4Addr) -> Result<()> {
        self.sql(&format!(
            "CHANGE MASTER TO MASTER_HOST='{master}', MASTER_PORT={PORT}, \
             MASTER_USER='{REPL_USER}', MASTER_PASSWORD='{REPL_PASSWORD}', \
             MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos; START SLAVE;"
        ))?;
        wait_until(
            &format!("db{} to replicate from {master}", self.server_id),
            Duration::from_secs(10),
            || Ok(self.replicating()?.then_some(())),
            || self.replica_status().unwrap_or_else(|err| format!("{err:#}")),
        )
    }

    /// Whether both replication threads run.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn replicating(&self) -> Result<bool> {
        let status = self.replica_status()?;
        Ok(status.contains("Slave_IO_Running: Yes") && status.contains("Slave_SQL_Running: Yes"))
    }
}

/// Dual-master: each replicates from the other (the classic two-host set-up).
///
/// # Errors
/// When replication does not start, or a row written on one side does not arrive on the other.
pub fn dual_master(a: (&MariaDb, Ipv4Addr), b: (&MariaDb, Ipv4Addr)) -> Result<()> {
    a.0.replicate_from(b.1)?;
    b.0.replicate_from(a.1)?;
    for (writer, reader) in [(a.0, b.0), (b.0, a.0)] {
        let note = format!("from {}", writer.server_id());
        writer.sql(&format!("INSERT INTO lab.notes (note) VALUES ('{note}')"))?;
        arrived(reader, &note)?;
    }
    Ok(())
}

/// Waits until a row with this note has been replicated to `reader`.
///
/// # Errors
/// When it has not within ten seconds.
pub fn arrived(reader: &MariaDb, note: &str) -> Result<()> {
    wait_until(
        &format!("note `{note}` on db{}", reader.server_id()),
        Duration::from_secs(10),
        || {
            let count =
                reader.sql(&format!("SELECT COUNT(*) FROM lab.notes WHERE note='{note}'"))?;
            Ok((count.trim() != "0").then_some(()))
        },
        || reader.replica_status().unwrap_or_else(|err| format!("{err:#}")),
    )
}

/// The template's data directory, made at the first call in this process.
static TEMPLATE: Mutex<Option<TempDir>> = Mutex::new(None);

fn copy_template(to: &Path) -> Result<()> {
    let mut template = TEMPLATE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = match template.take() {
        Some(dir) => dir,
        None => make_template()?,
    };
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(format!("{}/.", dir.path().display())).arg(to);
    let copied = output(copy).map(drop);
    *template = Some(dir);
    copied
}

/// Removes the template. Statics are not dropped at exit, so the lab and suites that care about
/// leftovers call this last; [`reap_directories`] of a later run does it otherwise.
pub fn forget_template() {
    TEMPLATE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
}

fn make_template() -> Result<TempDir> {
    reap_directories();
    available().map_err(|why| anyhow::anyhow!("cannot make a database: {why}"))?;
    let dir = workspace("template")?;
    let mut install = Command::new("mariadb-install-db");
    install.args([
        "--no-defaults",
        &format!("--datadir={}", dir.path().display()),
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
        "--innodb-log-file-size=8M",
        "--user=root",
    ]);
    output(install).context("cannot make the template database")?;
    let mut first = Command::new("mariadbd");
    first.args(common_options(dir.path())).args(["--skip-networking"]);
    let log = dir.path().join("error.log");
    let mut server = Process::start("template mariadbd", first, Some(&log))?;
    let socket = dir.path().join(SOCKET);
    let accounts = format!(
        "CREATE USER '{APP_USER}'@'%' IDENTIFIED BY '{APP_PASSWORD}';\
         CREATE USER '{CHECK_USER}'@'%' IDENTIFIED BY '{CHECK_PASSWORD}';\
         CREATE USER '{REPL_USER}'@'%' IDENTIFIED BY '{REPL_PASSWORD}';\
         CREATE DATABASE lab;\
         CREATE TABLE lab.notes (id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(100));\
         GRANT ALL ON lab.* TO '{APP_USER}'@'%';\
         GRANT SLAVE MONITOR ON *.* TO '{CHECK_USER}'@'%';\
         GRANT REPLICATION SLAVE ON *.* TO '{REPL_USER}'@'%';\
         ALTER USER root@localhost IDENTIFIED BY '{ROOT_PASSWORD}';"
    );
    wait_until(
        "the template database to take its accounts",
        START_LIMIT,
        || match server.exited()? {
            Some(status) => bail!("it ended with {status}: {}", server.log_tail(20)),
            None => Ok(passwordless(&socket, "SELECT 1").ok()),
        },
        || crate::process::tail(&log, 20),
    )?;
    passwordless(&socket, &accounts)?;
    server.stop(STOP_LIMIT)?;
    fs::remove_file(&log).context("cannot remove the template's log")?;
    Ok(dir)
}

/// Options that every server of ours shares: small, private, silent.
fn common_options(dir: &Path) -> Vec<String> {
    [
        "--no-defaults".to_owned(),
        "--user=root".to_owned(),
        format!("--datadir={}", dir.display()),
        format!("--socket={}", dir.join(SOCKET).display()),
        format!("--pid-file={}", dir.join("pid").display()),
        format!("--tmpdir={}", dir.display()),
        "--skip-name-resolve".to_owned(),
        "--innodb-buffer-pool-size=32M".to_owned(),
        "--innodb-log-file-size=8M".to_owned(),
        "--innodb-flush-log-at-trx-commit=2".to_owned(),
        "--innodb-fast-shutdown=2".to_owned(),
        "--performance-schema=0".to_owned(),
        "--max-connections=1000".to_owned(),
        "--back-log=200".to_owned(),
        "--log-warnings=2".to_owned(),
    ]
    .into()
}

fn passwordless(socket: &Path, statements: &str) -> Result<String> {
    mysql(socket, &[], statements)
}

fn mysql(socket: &Path, more: &[&str], statements: &str) -> Result<String> {
    let mut command = Command::new("mariadb");
    command.args(["--no-defaults", "--user=root", "--batch"]);
    command.args(["--connect-timeout=5", &format!("--socket={}", socket.display())]);
    command.args(more).args(["--execute", statements]);
    output(command)
}

/// A directory of this process under the temporary directory: `lbdt-PID-WORD-random`.
///
/// # Errors
/// When it cannot be made.
pub fn workspace(word: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}-{}-{word}-", std::process::id()))
        .tempdir()
        .context("cannot make a temporary directory")
}

/// Removes directories of runs whose process is gone.
pub fn reap_directories() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
