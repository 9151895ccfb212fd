//! What packages install, used as it is shipped: the init script under keepalived's name, and the
//! systemd unit.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    host::bin_dir,
    jail::{Bind, Jail},
    process::{Process, alive, output},
    single::{self, LIMIT, Single, VIP, config},
    tutorial,
    wait::{wait_for, wait_true, wait_until},
};
use lb_userspace::base::status::VrrpState;
use nix::{sys::signal::Signal, unistd::Pid};

const INIT: &str = "/etc/init.d/keepalived";
const UNIT: &str = include_str!("../../packaging/lbd.service");

/// A host of the classic kind: /etc/init.d/keepalived is the shipped script.
fn classic_host(single: &mut Single, text: &str) -> Result<PathBuf> {
    let root = single.dir().join("root");
    let mut binds = Vec::new();
    for (name, target) in
        [("init.d", "/etc/init.d"), ("default", "/etc/default"), ("etc", "/etc/keepalived")]
    {
        let source = root.join(name);
        fs::create_dir_all(&source)?;
        binds.push(Bind { source, target: target.into() });
    }
    binds.push(Bind { source: single.host.dir().join("run"), target: "/run/lbd".into() });
    let options = format!("-l -D --instance {} --run-dir /run/lbd", single.host.instance());
    let log = single.host.log();
    tutorial::ship_init(&root.join("init.d"), &root.join("default"), &options, &log)?;
    let file = root.join("etc/keepalived.conf");
    fs::write(&file, text)?;
    single.host.jail_in(&file, &binds)?;
    Ok(root)
}

fn init(jail: &Jail, word: &str) -> Result<Output> {
    jail.command(INIT, &[word]).stdin(Stdio::null()).output().context("cannot run the init script")
}

/// Runs the script with `word`; its output, when it ended with `code`.
fn init_ends(single: &Single, word: &str, code: i32) -> Result<String> {
    let jail = single.host.jail().context("a jail")?;
    let output = init(jail, word)?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.code() == Some(code), "{word}: {}: {said}", output.status);
    Ok(said)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_shipped_init_script_starts_reloads_restarts_and_stops() -> Result<()> {
    if !single::ready("proc_packaging")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let text = config("0.2", "", "", "");
    let root = classic_host(&mut single, &text)?;
    // Nothing runs: every word says so, with LSB's codes.
    ensure!(init_ends(&single, "status", 3)?.contains("not running"));
    ensure!(init_ends(&single, "reload", 7)?.contains("not running"));
    ensure!(init_ends(&single, "stop", 0)?.contains("not running"));
    ensure!(init_ends(&single, "dance", 2)?.contains("usage"));
    // A pid file that a killed one left names somebody else by now.
    let jail = single.host.jail().context("a jail")?;
    jail.run("sh", &["-c", "echo 1 > /run/keepalived.pid"])?;
    ensure!(init_ends(&single, "status", 3)?.contains("not running"));
    // A start that cannot work fails, and says where to look.
    fs::write(root.join("etc/keepalived.conf"), "vrrp_instance {\n")?;
    let said = init_ends(&single, "start", 2)?;
    ensure!(said.contains("not started") && said.contains("exit code 2"), "{said}");
    ensure!(single.log().contains("keepalived.conf:1:"), "{}", single.log());
    fs::write(root.join("etc/keepalived.conf"), &text)?;

    // Start returns when lbd is ready; all its processes are called keepalived.
    init_ends(&single, "start", 0)?;
    single.host.status().context("ready means that lbctl is answered")?;
    single.wait_master()?;
    let jail = single.host.jail().context("a jail")?;
    let names = jail.run("ps", &["-C", "keepalived", "-o", "comm="])?;
    ensure!(names.lines().count() >= 5, "{names}");
    let first = jail.run("cat", &["/run/keepalived.pid"])?;
    ensure!(init_ends(&single, "status", 0)?.contains(first.trim()));
    ensure!(init_ends(&single, "start", 0)?.contains("already"));
    ensure!(jail.run("cat", &["/run/keepalived.pid"])? == first, "it was started twice");

    // Reload: the new priority, no transition.
    let changed = text.replace("priority 101", "priority 110");
    fs::write(root.join("etc/keepalived.conf"), changed)?;
    init_ends(&single, "reload", 0)?;
    single.wait_status("the new priority", |status| {
        single::instance(status)
            .is_ok_and(|vrrp| vrrp.base_priority == 110 && vrrp.counters.become_master == 1)
    })?;
    // Restart: another process, master again.
    init_ends(&single, "restart", 0)?;
    let jail = single.host.jail().context("a jail")?;
    let second = jail.run("cat", &["/run/keepalived.pid"])?;
    ensure!(first != second, "restart did not restart");
    single.wait_master()?;
    // Killed whole, as by the kernel when memory runs out: the script sees it and starts another.
    single.host.kill_all()?;
    ensure!(init_ends(&single, "status", 3)?.contains("not running"));
    init_ends(&single, "start", 0)?;
    single.wait_master()?;
    // By keepalived's name, as the tutorial's scripts do it.
    let jail = single.host.jail().context("a jail")?;
    jail.run("pkill", &["-x", "keepalived"])?;
    wait_true("the end by pkill", LIMIT, || single.host.pids().is_empty())?;
    ensure!(!single.host.has(VIP)?, "pkill is an orderly stop");
    init_ends(&single, "start", 0)?;
    single.wait_master()?;
    ensure!(init_ends(&single, "stop", 0)?.contains("stopped"));
    // Stop returns when it has stopped.
    ensure!(single.host.pids().is_empty() && !single.host.has(VIP)?);
    let jail = single.host.jail().context("a jail")?;
    ensure!(jail.run("sh", &["-c", "ls /run/keepalived.pid || echo gone"])?.contains("gone"));
    // One that the unit has started, with a pid file of its own.
    let lbd = bin_dir().join("lbd");
    let words = format!(
        "{} -D -p /run/lbd/lbd.pid --instance {} --run-dir /run/lbd >/dev/null 2>&1 </dev/null",
        lbd.display(),
        single.host.instance()
    );
    jail.run("sh", &["-c", &words])?;
    single.wait_master()?;
    let jail = single.host.jail().context("a jail")?;
    let pid = jail.run("cat", &["/run/lbd/lbd.pid"])?;
    ensure!(init_ends(&single, "status", 0)?.contains(pid.trim()));
    ensure!(init_ends(&single, "start", 0)?.contains("already"));
    ensure!(init_ends(&single, "stop", 0)?.contains("stopped"));
    ensure!(single.host.pids().is_empty() && !single.host.has(VIP)?);
    let jail = single.host.jail().context("a jail")?;
    // Other tests start theirs meanwhile.
    wait_true("no link by which it was called", LIMIT, || {
        let left = jail.run("sh", &["-c", "ls -d /tmp/tmp.*/keepalived 2>/dev/null | wc -l"]);
        left.is_ok_and(|left| left.trim() == "0")
    })?;
    Ok(())
}

/// The values of a key of the unit, in order.
fn setting(key: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn only(key: &str) -> Result<&'static str> {
    match setting(key)[..] {
        [value] => Ok(value),
        ref other => bail!("{key} in the unit: {other:?}"),
    }
}

/// What the service manager would be told.
struct Notified {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notified {
    fn new(single: &Single) -> Result<Self> {
        let path = single.dir().join("notify");
        // More than the usual ten: lbd tells that it is alive while nobody reads here, and would wait for room.
        single.host.netns().sysctl("net/unix/max_dgram_qlen", "1000")?;
        let socket = single.host.netns().enter(|| UnixDatagram::bind(&path))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Self { socket, path })
    }

    /// Waits for a message with this line and returns it whole; others are passed over.
    fn wait(&self, line: &str, limit: Duration) -> Result<String> {
        let mut buffer = [0_u8; 4096];
        wait_for(&format!("{line} to the service manager"), limit, || {
            let Ok(length) = self.socket.recv(&mut buffer) else { return Ok(None) };
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            Ok(text.lines().any(|found| found == line).then(|| text.into_owned()))
        })
    }
}

/// Exactly the unit's command line with the unit's limits, and its way of being told.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_shipped_unit_runs_and_tells_the_service_manager() -> Result<()> {
    if !single::ready("proc_packaging")? {
        return Ok(());
    }
    ensure!(only("Type")? == "notify" && only("NotifyAccess")? == "main");
    ensure!(only("WatchdogSec")?.parse::<u32>()? >= 2);
    // An interface that is late (exit code 1) is waited for without an end; a file that cannot be run is not.
    ensure!(only("Restart")? == "on-failure" && only("StartLimitIntervalSec")? == "0");
    ensure!(only("RestartPreventExitStatus")? == "2 4 5 6", "the codes of lbd's proc_daemon suite");
    let single = Single::new()?;
    single.host.write_config(&config("0.2", "", "", ""))?;
    let notified = Notified::new(&single)?;
    let lbd = bin_dir().join("lbd");
    let start = only("ExecStart")?.replace("/usr/sbin/lbd", &lbd.display().to_string());
    ensure!(start != only("ExecStart")?, "{start}");
    // ProtectKernelModules, ProtectKernelLogs and ProtectClock take these out of the bounding set;
    // ProtectHostname is a UTS namespace.
    let mut dropped = Vec::new();
    for (key, capabilities) in [
        ("ProtectKernelModules", &["-sys_module"][..]),
        ("ProtectKernelLogs", &["-syslog"]),
        ("ProtectClock", &["-sys_time", "-wake_alarm"]),
    ] {
        ensure!(only(key)? == "yes", "{key}");
        dropped.extend_from_slice(capabilities);
    }
    ensure!(only("ProtectHostname")? == "yes");
    let options = format!(
        "-f {} --instance {} --run-dir {}",
        single.host.config_file().display(),
        single.host.instance(),
        single.host.dir().join("run").display()
    );
    let mut command = single.host.netns().command("unshare");
    command.args(["--uts", "setpriv"]);
    command.arg(format!("--bounding-set={}", dropped.join(",")));
    // Every word above replaces itself by the next, so that this shell's number is lbd's.
    command.args(["sh", "-c", &format!("WATCHDOG_PID=$$; export WATCHDOG_PID; exec {start}")]);
    command.env("LBD_OPTIONS", options).env("NOTIFY_SOCKET", &notified.path);
    // A tenth of the unit's, so that the test sees several.
    command.env("WATCHDOG_USEC", "1000000");
    let mut daemon = Process::start("the unit", command, Some(&single.host.log()))?;
    let main = daemon.pid();
    let ready = notified.wait("READY=1", LIMIT).with_context(|| daemon.log_tail(20))?;
    ensure!(ready.contains("STATUS="), "{ready}");
    single.host.status().context("ready means that lbctl is answered")?;
    single.host.wait_state(VrrpState::Master, VIP, LIMIT)?;
    // What waits from before tells nothing of how often it comes.
    while notified.socket.recv(&mut [0; 4096]).is_ok() {}
    let mut came = Vec::new();
    for _ in 0..5 {
        notified.wait("WATCHDOG=1", LIMIT)?;
        came.push(Instant::now());
    }
    // Twice in that time; a machine that stands still for a moment delays one or two.
    let late = came.windows(2).filter(|pair| pair[1] - pair[0] >= Duration::from_secs(1)).count();
    ensure!(late <= 2, "{late} of {came:?} came too late");
    // The limits hold for the main process; roles have none of these either.
    let bounding = capabilities(main, "CapBnd")?;
    for bit in [16, 34, 25, 35] {
        ensure!(bounding & (1 << bit) == 0, "capability {bit} is in {bounding:x}");
    }
    // ExecReload, a changed file: told before and after.
    single.host.write_config(&config("0.2", "", "", "").replace("priority 101", "priority 110"))?;
    let mut reload = Command::new("sh");
    reload.args(["-c", only("ExecReload")?]).env("MAINPID", main.to_string());
    output(reload)?;
    let told = notified.wait("RELOADING=1", LIMIT)?;
    ensure!(told.contains("MONOTONIC_USEC="), "{told}");
    let told = notified.wait("READY=1", LIMIT)?;
    ensure!(told.contains("generation 2"), "{told}");
    // The stop of KillMode=mixed: TERM to the main process alone, well before TimeoutStopSec.
    ensure!(only("KillMode")? == "mixed");
    let roles = single.host.pids();
    ensure!(roles.len() >= 5, "{roles:?}");
    daemon.signal(Signal::SIGTERM)?;
    notified.wait("STOPPING=1", LIMIT)?;
    let status = daemon.wait_exit(Duration::from_secs(10))?;
    ensure!(status.success(), "{status}");
    // So an orderly end, as by a script's `pkill keepalived`, is no reason to start again.
    ensure!(only("Restart")? == "on-failure");
    ensure!(roles.iter().all(|pid| !alive(*pid)), "processes are left: {roles:?}");
    ensure!(!single.host.has(VIP)? && !single.host.pin_dir().exists());
    Ok(())
}

/// A set of capabilities in /proc/PID/status.
fn capabilities(pid: Pid, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(u64::from_str_radix(line.context("no such set")?.trim(), 16)?)
}

/// `cargo xtask run -- --config FILE`: lbd on this very host, which is a namespace here.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn xtask_runs_lbd_on_this_host() -> Result<()> {
    if !single::ready("proc_packaging")? {
        return Ok(());
    }
    let single = Single::new()?;
    single.host.write_config(&config("0.2", "", "", ""))?;
    let run = single.host.dir().join("run");
    // From where the user stands, with a file named as the user sees it.
    let mut command = single.host.netns().command(env!("CARGO"));
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    command.args(["run", "--quiet", "--manifest-path"]).arg(manifest);
    command.args(["--package", "xtask", "--", "run", "--", "--config", "lbd.conf"]);
    command.args(["--instance", single.host.instance(), "--run-dir"]).arg(&run);
    command.current_dir(single.host.dir());
    command.env_remove("LBD_REQUIRE_BPF").env_remove("AYA_BUILD_SKIP");
    let mut daemon = Process::start("cargo xtask run", command, Some(&single.host.log()))?;
    // A fresh machine builds first.
    wait_until(
        "lbd by `cargo xtask run`",
        Duration::from_secs(600),
        || match daemon.exited()? {
            Some(status) => bail!("it ended with {status}"),
            None => Ok(single.host.status().ok()),
        },
        || single.host.log_tail(40),
    )
    .with_context(|| single.host.log_tail(40))?;
    single.host.wait_state(VrrpState::Master, VIP, LIMIT)?;
    // Each program became the next, so that signals and the exit code are lbd's.
    ensure!(single.host.pids().first() == Some(&daemon.pid()), "{:?}", single.host.pids());
    ensure!(daemon.stop(LIMIT)?.success());
    ensure!(single.host.pids().is_empty() && !single.host.has(VIP)?);
    Ok(())
}

/// systemd itself reads the unit and has nothing to say about it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_shipped_unit_is_good_in_systemds_eyes() -> Result<()> {
    if !single::ready("proc_packaging")? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("lbd.service");
    let lbd = bin_dir().canonicalize()?.join("lbd");
    let verify = |text: &str| -> Result<Output> {
        fs::write(&path, text)?;
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(&path);
        command.output().context("cannot start systemd-analyze: run `cargo xtask setup`")
    };
    let text = UNIT.replace("/usr/sbin/lbd", &lbd.display().to_string());
    let output = verify(&text)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && !said.contains("lbd.service"), "{said}");
    // It would have been told.
    let output = verify(&text.replace("WatchdogSec=10", "WatchDogSec=10"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("WatchDogSec"), "{said}");
    Ok(())
}
