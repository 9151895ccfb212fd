//! A balancer host: lbd (or, for comparison, keepalived) in a namespace, as an operator runs it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use lb_common::maps;
use lb_userspace::base::status::{ForwarderStatus, Status, VrrpState};
use nix::{sys::signal::Signal, unistd::Pid};

use crate::{
    jail::{Bind, Jail},
    netns::{Namespace, unique},
    process::{Process, alive, command_line, output, send, tail},
    sys,
    wait::wait_until,
};

/// How long an orderly stop may take.
pub const STOP_LIMIT: Duration = Duration::from_secs(8);

/// How long a busy machine may take for a process to be there, or at work. No promise of the product's.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The roles of lbd's children, by the names they have in process lists.
pub const ROLES: [&str; 4] = ["vrrp", "checker", "forwarder", "api"];

/// Which program balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Lbd,
    /// Real keepalived, VRRP part only.
    Keepalived,
}

/// Where lbd and lbctl are: `LBD_BIN_DIR`, else the workspace's target/release.
pub fn bin_dir() -> PathBuf {
    std::env::var_os("LBD_BIN_DIR").map_or_else(
        || {
            let here = Path::new(env!("CARGO_MANIFEST_DIR"));
            here.parent().unwrap_or(here).join("target/release")
        },
        PathBuf::from,
    )
}

impl Program {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lbd => "lbd",
            Self::Keepalived => "keepalived",
        }
    }
}

/// Whether the programs under test are there; the reason when not.
pub fn available(program: Program) -> Result<(), String> {
    match program {
        Program::Lbd => {
            for name in ["lbd", "lbctl"] {
                let path = bin_dir().join(name);
                if !path.is_file() {
                    return Err(format!("{} is missing: run `cargo xtask build`", path.display()));
                }
            }
            Ok(())
        }
        Program::Keepalived => match Command::new("keepalived").arg("--version").output() {
            Ok(_) => Ok(()),
            Err(_) => Err("`keepalived` is not installed".to_owned()),
        },
    }
}

/// One balancer host.
#[derive(Debug)]
pub struct Host {
    netns: Namespace,
    program: Program,
    instance: String,
    dir: PathBuf,
    arguments: Vec<String>,
    /// `-D`.
    detail: bool,
    without_bpf: bool,
    /// `lvs_hook` of files that do not say it.
    hook: Option<&'static str>,
    process: Option<Process>,
    jail: Option<(Jail, PathBuf)>,
    tmp: Option<PathBuf>,
}

impl Host {
    /// Prepares a host whose files are below `dir`; nothing runs yet.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(netns: &Namespace, program: Program, dir: &Path) -> Result<Self> {
        let dir = dir.join(netns.role());
        fs::create_dir_all(dir.join("run"))
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let instance = unique(netns.role());
        Ok(Self {
            netns: netns.clone(),
            program,
            instance,
            dir,
            arguments: Vec::new(),
            detail: true,
            without_bpf: false,
            hook: Some("xdp"),
            process: None,
            jail: None,
            tmp: None,
        })
    }

    /// Puts the host into a jail: from now on the daemon is started and stopped by the jail's
    /// /etc/init.d/keepalived, and `config` is its configuration file.
    ///
    /// # Errors
    /// When the jail cannot be made.
    pub fn jail_in(&mut self, config: &Path, binds: &[Bind]) -> Result<()> {
        let jail = Jail::new(&self.netns, &self.dir, binds)?;
        self.jail = Some((jail, config.to_owned()));
        Ok(())
    }

    /// From now on it writes its dumps there: `TMPDIR`.
    pub fn set_tmp(&mut self, dir: &Path) {
        self.tmp = Some(dir.to_owned());
    }

    /// From now on the daemon finds a kernel without bpf(2).
    pub fn without_bpf(&mut self) {
        self.without_bpf = true;
    }

    /// Waits for the daemon's end and returns its exit code.
    ///
    /// # Errors
    /// When it was not started or does not end within `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<Option<i32>> {
        let process = self.process.as_mut().context("it was not started")?;
        Ok(process.wait_exit(limit)?.code())
    }

    /// Its jail, if it lives in one.
    pub fn jail(&self) -> Option<&Jail> {
        self.jail.as_ref().map(|(jail, _)| jail)
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// More arguments for the next start, such as `-P`.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
    }

    /// The hook is lbd's own choice unless a file says it.
    pub fn leave_hook_to_lbd(&mut self) {
        self.hook = None;
    }

    /// Whether the next start has `-D`, as all have otherwise.
    pub fn set_detail(&mut self, detail: bool) {
        self.detail = detail;
    }

    /// Its namespace.
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }

    /// lb1, lb2.
    pub fn name(&self) -> &str {
        self.netns.role()
    }

    /// Which program it runs.
    pub fn program(&self) -> Program {
        self.program
    }

    /// `--instance`.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        match &self.jail {
            Some((_, config)) => config.clone(),
            None => self.dir.join("lbd.conf"),
        }
    }

    /// Where its maps are pinned.
    pub fn pin_dir(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("lbd-{}", self.instance))
    }

    /// lbctl's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/lbd.sock")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Writes the configuration file; running daemons are not told. A file without `lvs_hook` asks for XDP, which `auto`
    /// would not take on veth, unless [`Host::leave_hook_to_lbd`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, text: &str) -> Result<()> {
        let path = self.config_file();
        let mut text = text.to_owned();
        if let (Program::Lbd, Some(hook)) = (self.program, self.hook)
            && !text.contains("lvs_hook")
            && !text.is_empty()
        {
            // At the end: places in messages are the test's own.
            text.push_str(&format!("\nglobal_defs {{\n  lvs_hook {hook}\n}}\n"));
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts the daemon in the foreground; does not wait for anything.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.running() {
            bail!("{} runs already on {}", self.program_name(), self.name());
        }
        if let Some((jail, _)) = &self.jail {
            jail.run("/etc/init.d/keepalived", &["start"])?;
            return wait_until(
                &format!("a daemon in the jail of {}", self.name()),
                START_LIMIT,
                || Ok((!self.pids().is_empty()).then_some(())),
                || self.log_tail(20),
            );
        }
        let config = self.config_file().display().to_string();
        let run = self.dir.join("run");
        let mut command = match self.program {
            Program::Lbd => {
                let mut command = self.netns.command(bin_dir().join("lbd"));
                command.args(["-n", "-l", "-f", &config, "--instance", &self.instance]);
                command.arg("--run-dir").arg(&run);
                command
            }
            Program::Keepalived => {
                let mut command = self.netns.command("keepalived");
                command.args(["-n", "-l", "-P", "-f", &config]);
                command.arg("-p").arg(run.join("keepalived.pid"));
                command.arg("-r").arg(run.join("vrrp.pid"));
                command
            }
        };
        if self.detail {
            command.arg("-D");
        }
        command.args(&self.arguments);
        if let Some(tmp) = &self.tmp {
            command.env("TMPDIR", tmp);
        }
        if self.without_bpf {
            sys::without_bpf(&mut command);
        }
        let name = format!("{} on {}", self.program_name(), self.name());
        self.process = Some(self.netns.spawn(&name, command, Some(&self.log()))?);
        Ok(())
    }

    /// Whether the main process runs.
    pub fn running(&mut self) -> bool {
        if self.jail.is_some() {
            return !self.pids().is_empty();
        }
        self.process.as_mut().is_some_and(|process| matches!(process.exited(), Ok(None)))
    }

    /// Every process of the daemon in this host, the main one first.
    pub fn pids(&self) -> Vec<Pid> {
        daemon_pids(&self.netns, self.program)
    }

    /// The process that plays `role` now.
    pub fn role_pid(&self, role: &str) -> Option<Pid> {
        self.pids().into_iter().find(|pid| plays(*pid, role))
    }

    /// TERM, and waits for the end of all its processes.
    ///
    /// # Errors
    /// When it does not end in time or exits with an error.
    pub fn stop(&mut self) -> Result<()> {
        if let Some((jail, _)) = &self.jail {
            jail.run("/etc/init.d/keepalived", &["stop"])?;
            return self.wait_gone();
        }
        let Some(process) = self.process.as_mut() else { return Ok(()) };
        let status = process.stop(STOP_LIMIT)?;
        if !status.success() {
            bail!("{} ended with {status}\n{}", process.name(), process.log_tail(30));
        }
        self.wait_gone()
    }

    /// kill -9 of all its processes at one moment.
    ///
    /// # Errors
    /// When one of them does not die.
    pub fn kill_all(&mut self) -> Result<()> {
        // The roles first and the watchdog last, microseconds apart: a role that saw the watchdog
        // die would act on it (vrrp says priority 0). What the watchdog may have started in those
        // microseconds is killed too.
        for pid in self.pids().into_iter().rev() {
            send(pid, Signal::SIGKILL)?;
        }
        for pid in self.pids() {
            send(pid, Signal::SIGKILL)?;
        }
        if let Some(process) = self.process.as_mut() {
            process.kill();
        }
        self.wait_gone()?;
        if self.program == Program::Keepalived {
            // To keepalived a killed child that init has not reaped yet is a daemon that runs.
            for file in ["keepalived.pid", "vrrp.pid"] {
                let _ = fs::remove_file(self.dir.join("run").join(file));
            }
        }
        Ok(())
    }

    /// Sends a signal to every process of the daemon, the main one first.
    ///
    /// # Errors
    /// When a signal is refused.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        self.pids().into_iter().try_for_each(|pid| send(pid, signal))
    }

    /// Sends a signal to the main process, such as HUP.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_main(&mut self, signal: Signal) -> Result<()> {
        if self.jail.is_some() {
            let main = self.pids().first().copied();
            return send(main.with_context(|| format!("no daemon on {}", self.name()))?, signal);
        }
        match self.process.as_mut() {
            Some(process) => process.signal(signal),
            None => bail!("no daemon was started on {}", self.name()),
        }
    }

    /// kill -9 of the one process that plays `role`; waits until another one plays it. `main`
    /// means the watchdog, which nobody here restarts.
    ///
    /// # Errors
    /// When no process plays the role, or none does again in time.
    pub fn kill_role(&mut self, role: &str) -> Result<()> {
        if role == "main" {
            if self.jail.is_some() {
                return self.signal_main(Signal::SIGKILL);
            }
            match self.process.as_mut() {
                Some(process) => process.kill(),
                None => bail!("no daemon was started on {}", self.name()),
            }
            return Ok(());
        }
        let Some(old) = self.role_pid(role) else {
            bail!("no process plays {role} on {}", self.name());
        };
        send(old, Signal::SIGKILL)?;
        wait_until(
            &format!("another {role} process on {}", self.name()),
            START_LIMIT,
            || Ok(self.role_pid(role).filter(|new| *new != old)),
            || self.log_tail(30),
        )
        .map(drop)
    }

    /// As [`Self::kill_role`]; waits until the successor is at work, not only there: the kernel forwards all the
    /// while, so that traffic tells nothing of it.
    ///
    /// # Errors
    /// As there, and when the successor is not ready in time.
    pub fn replace_role(&mut self, role: &str) -> Result<()> {
        let process = |status: &Status| status.processes.iter().find(|it| it.role == role).cloned();
        let before =
            process(&self.status()?).with_context(|| format!("no {role} in the status"))?;
        self.kill_role(role)?;
        wait_until(
            &format!("a new {role} at work on {}", self.name()),
            START_LIMIT,
            || {
                let now = self.status().ok().and_then(|status| process(&status));
                Ok(now.filter(|now| now.ready && now.restarts > before.restarts).map(drop))
            },
            || self.log_tail(30),
        )
    }

    fn wait_gone(&self) -> Result<()> {
        wait_until(
            &format!("the end of every process on {}", self.name()),
            Duration::from_secs(8),
            || Ok(self.pids().into_iter().all(|pid| !alive(pid)).then_some(())),
            || {
                let left: Vec<_> = self.pids().into_iter().map(command_line).collect();
                format!("left: {left:?}\n{}", self.log_tail(30))
            },
        )
    }

    /// `lbctl status --json`.
    ///
    /// # Errors
    /// When lbctl fails or its answer cannot be read.
    pub fn status(&self) -> Result<Status> {
        let text = self.lbctl(&["status", "--json"])?;
        serde_json::from_str(&text)
            .with_context(|| format!("cannot read the status of {}: {text}", self.name()))
    }

    /// The forwarder's part of the status. Waits for it: one that starts, or was held up for two seconds, is
    /// left out of an answer.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn forwarder(&self) -> Result<ForwarderStatus> {
        wait_until(
            &format!("the forwarder's part of the status of {}", self.name()),
            START_LIMIT,
            || Ok(self.status().ok().and_then(|status| status.forwarder)),
            || self.log_tail(30),
        )
    }

    /// `lbctl ARGS` against this host.
    ///
    /// # Errors
    /// When it fails.
    pub fn lbctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(bin_dir().join("lbctl"));
        command.args(args).arg("--socket").arg(self.socket());
        output(command)
    }

    /// Whether the address is on one of its interfaces.
    ///
    /// # Errors
    /// When the addresses cannot be read.
    pub fn has(&self, vip: impl Into<IpAddr>) -> Result<bool> {
        self.netns.has_address(vip)
    }

    /// Waits until its first vrrp_instance is in `state` (lbd only) and, for master, holds `vip`.
    ///
    /// # Errors
    /// After `limit`; the message has the end of its log.
    pub fn wait_state(
        &self,
        state: VrrpState,
        vip: impl Into<IpAddr>,
        limit: Duration,
    ) -> Result<()> {
        let vip = vip.into();
        let holds = state == VrrpState::Master;
        wait_until(
            &format!("{} to be {}", self.name(), state.name()),
            limit,
            || {
                let agrees = match self.program {
                    Program::Keepalived => true,
                    Program::Lbd => self
                        .status()
                        .ok()
                        .and_then(|status| status.vrrp.first().map(|vrrp| vrrp.state))
                        .is_some_and(|found| found == state),
                };
                Ok((agrees && self.has(vip)? == holds).then_some(()))
            },
            || self.log_tail(40),
        )
    }

    /// Waits until lbd has pinned its data plane; returns at once for keepalived, which has none.
    ///
    /// # Errors
    /// After `limit`; the message has the end of its log.
    pub fn wait_plane(&self, limit: Duration) -> Result<()> {
        if self.program == Program::Keepalived {
            return Ok(());
        }
        let pins = self.pin_dir();
        wait_until(
            &format!("the data plane of {} at {}", self.name(), pins.display()),
            limit,
            || {
                let there = [maps::LEASE, maps::CLOCK_PROGRAM];
                Ok(there.iter().all(|name| pins.join(name).exists()).then_some(()))
            },
            || self.log_tail(30),
        )
    }

    /// The end of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        format!("--- end of the log of {}:\n{}", self.name(), tail(&self.log(), lines))
    }

    fn program_name(&self) -> &'static str {
        self.program.name()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(process) = self.process.as_mut()
            && process.stop(Duration::from_secs(3)).is_err()
        {
            for pid in daemon_pids(&self.netns, self.program) {
                let _ = send(pid, Signal::SIGKILL);
            }
        }
        // A killed daemon leaves its pins for its successor; here none will come.
        let _ = fs::remove_dir_all(self.pin_dir());
    }
}

/// Processes of `program` inside a namespace, the one that no other of them has started first.
pub fn daemon_pids(netns: &Namespace, program: Program) -> Vec<Pid> {
    let mut pids: Vec<Pid> = netns
        .pids()
        .into_iter()
        .filter(|pid| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let name = exe.file_name().map(|name| name.to_string_lossy().into_owned());
            match program {
                // `keepalived` when a jail mounts lbd over it; " (deleted)" after a rebuild.
                Program::Lbd => name.is_some_and(|name| {
                    matches!(name.trim_end_matches(" (deleted)"), "lbd" | "keepalived")
                }),
                Program::Keepalived => name.is_some_and(|name| name == "keepalived"),
            }
        })
        .collect();
    // Numbers start over at pid_max: the order of numbers is not that of age.
    let others = pids.clone();
    pids.sort_unstable_by_key(|pid| (parent(*pid).is_some_and(|it| others.contains(&it)), *pid));
    pids
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok().map(Pid::from_raw)
}

fn plays(pid: Pid, role: &str) -> bool {
    let words = command_line(pid);
    words.windows(2).any(|pair| matches!(pair, [word, name] if word == "role" && name == role))
}
