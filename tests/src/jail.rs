//! A host with processes and files of its own, for scripts that mean "this machine" when they say
//! `pkill keepalived`, /etc/init.d/keepalived or /opt/chk_mysql.sh.
//!
//! A PID and mount namespace joined to a network namespace. /run is fresh, chosen directories
//! and files are mounted over the real ones; the host's own files are never touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;

use crate::{
    netns::Namespace,
    process::{Process, output, tail, tree},
    wait::wait_until,
};

/// A file or directory to be seen in another's place. Both must exist; a target below /run is
/// made.
#[derive(Clone, Debug)]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
}

/// A running jail. Dropping it kills every process in it.
#[derive(Debug)]
pub struct Jail {
    /// `unshare --kill-child`: its death is the jail's.
    _keeper: Process,
    init: Pid,
}

impl Jail {
    /// Makes the namespaces, mounts `binds` in order and waits until that is done. Files of the
    /// jail's own (its log) go below `dir`.
    ///
    /// # Errors
    /// When a mount fails or the jail is not ready in time.
    pub fn new(netns: &Namespace, dir: &Path, binds: &[Bind]) -> Result<Self> {
        let ready = dir.join("jail-ready");
        let log = dir.join("jail.log");
        let script = dir.join("jail.sh");
        fs::write(&script, setup(binds, &ready)?)
            .with_context(|| format!("cannot write {}", script.display()))?;
        let mut command = netns.command("unshare");
        command.args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "bash"]);
        command.arg(&script);
        let mut keeper = netns.spawn(&format!("jail of {}", netns.role()), command, Some(&log))?;
        wait_until(
            &format!("the jail of {}", netns.role()),
            Duration::from_secs(30),
            || match keeper.exited()? {
                Some(status) => bail!("it ended with {status}: {}", tail(&log, 20)),
                None => Ok(ready.exists().then_some(())),
            },
            || tail(&log, 20),
        )?;
        let init = tree(keeper.pid()).get(1).copied().context("the jail has no first process")?;
        Ok(Self { _keeper: keeper, init })
    }

    /// A command inside.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init));
        command.args(["--mount", "--pid", "--net", "--", program]).args(args);
        command
    }

    /// Runs a program inside to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        output(self.command(program, args))
    }
}

/// The first process: mounts, says that it is ready, then reaps orphans for ever.
fn setup(binds: &[Bind], ready: &Path) -> Result<String> {
    let mut lines = vec![
        "set -euo pipefail".to_owned(),
        "mount --make-rprivate /".to_owned(),
        "mount -t tmpfs tmpfs /run".to_owned(),
    ];
    for bind in binds {
        let (source, target) = (quoted(&bind.source)?, quoted(&bind.target)?);
        if bind.target.starts_with("/run") {
            lines.push(format!("mkdir -p {target}"));
        }
        lines.push(format!("mount --bind {source} {target}"));
    }
    lines.push(format!("touch {}", quoted(ready)?));
    lines.push("while :; do sleep 3600 & wait $! || :; done".to_owned());
    Ok(lines.join("\n") + "\n")
}

fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().context("path is not text")?;
    if text.contains('\'') {
        bail!("path {text} has a quote in it");
    }
    Ok(format!("'{text}'"))
}
