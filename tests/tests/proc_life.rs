//! From start to end: who may start, what a start leaves, what each way to end leaves, and what a
//! killed process means for the VIP.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{ROLES, bin_dir},
    looks,
    netns::{Namespace, unique},
    process::{alive, send},
    single::{self, LIMIT, NOBODY, OTHER, Single, VIP, config, instance, virtual_server},
    vrrp::{Sniffer, is_vrrp},
    wait::{wait_for, wait_true},
};
use lb_userspace::{
    base::{status::VrrpState, table::ForwardingTable},
    config::model::Attachment,
    dataplane::{DataPlane as _, xdp::Xdp},
    reconcile::plan,
};
use nix::{sys::signal::Signal, unistd::Pid};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is text")
}

/// No address, program, pin, socket or pid file of an lbd that has ended in order.
fn nothing_left(single: &Single, run_dir: &Path) -> Result<()> {
    ensure!(!single.host.has(VIP)?, "the VIP is still there");
    let link = single.host.netns().ip(&["-d", "link", "show", "dev", "eth0"])?;
    ensure!(!link.contains("xdp"), "a program is still attached: {link}");
    ensure!(!single.host.pin_dir().exists(), "{} is still there", single.host.pin_dir().display());
    ensure!(single.host.pids().is_empty(), "processes are left: {:?}", single.host.pids());
    let left: Vec<_> = fs::read_dir(run_dir).into_iter().flatten().flatten().collect();
    ensure!(left.is_empty(), "left in {}: {left:?}", run_dir.display());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_second_lbd_of_the_instance_is_refused_others_are_not() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    let mut one = Single::start(&config("0.2", "", "", ""))?;
    one.wait_master()?;
    let main = one.host.pids().first().copied().context("it runs")?;
    let file = one.host.config_file();
    let run = one.host.dir().join("run");
    let words = ["-n", "-f", text(&file)?, "--instance", one.host.instance()];
    let output = one.lbd(&[&words[..], &["--run-dir", text(&run)?]].concat())?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = stderr(&output);
    ensure!(said.contains(&format!("running already: pid {main}")), "{said}");
    ensure!(said.contains("--instance"), "{said}");
    ensure!(one.host.has(VIP)? && alive(main), "the first one is untouched");
    // The same pins from another run directory would be as bad.
    let elsewhere = one.dir().join("elsewhere");
    let output = one.lbd(&[&words[..], &["--run-dir", text(&elsewhere)?]].concat())?;
    ensure!(!output.status.success(), "the instance is running: {output:?}");
    ensure!(stderr(&output).contains(one.host.instance()), "{}", stderr(&output));
    ensure!(one.host.has(VIP)? && alive(main), "the first one is untouched");
    // Another instance in another namespace, the same VRID and VIP: no collision.
    let mut two = Single::start(&config("0.2", "", "", ""))?;
    two.wait_master()?;
    ensure!(one.host.pin_dir() != two.host.pin_dir());
    for single in [&one, &two] {
        // A master waits for vrrp and the forwarder alone.
        let status =
            single.wait_status("every role", |status| status.processes.iter().all(|p| p.ready))?;
        ensure!(status.instance.as_deref() == Some(single.host.instance()));
        ensure!(status.processes.iter().all(|p| p.restarts == 0), "{status:?}");
    }
    two.host.stop()?;
    nothing_left(&two, &two.host.dir().join("run"))?;
    ensure!(one.host.has(VIP)?, "the end of one instance touched the other");
    ensure!(instance(&one.host.status()?)?.counters.become_master == 1);
    one.host.stop()?;
    nothing_left(&one, &run)
}

/// `vrrp_startup_delay` and `vrrp_delay_after_boot` keep VRRP quiet, and no longer; what forwards already
/// is not held up by them.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn vrrp_begins_after_its_delays_and_a_restart_does_not_wait() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    const DELAY: u64 = 3;
    /// The longest delay that the word takes.
    const LONGEST: u64 = 4294;
    // 3.6 intervals of 1 s, less what uptime is rounded by: begins with the end of the delay. With shorter ones a
    // process that is killed could be back too late for its lease.
    let election = Duration::from_millis(3_500);
    for boot in [false, true] {
        let asked = Instant::now();
        let uptime = fs::read_to_string("/proc/uptime")?;
        let uptime: f64 = uptime.split(' ').next().context("uptime")?.parse()?;
        let after_boot = uptime.ceil() as u64 + DELAY;
        // On a machine that is up for longer, every delay is over: no waiting is to be seen.
        let over = boot && after_boot > LONGEST;
        let word = match boot {
            true => format!("vrrp_delay_after_boot {}", after_boot.min(LONGEST)),
            false => format!("vrrp_startup_delay {DELAY}"),
        };
        let mut single = Single::new()?;
        single.host.write_config(&config("1", &word, "", ""))?;
        let sniffer = Sniffer::new(&single.other)?;
        // A delay after boot counts from the look at the clock, whatever was slow since then.
        let begin = if boot { asked } else { Instant::now() };
        single.host.start()?;
        let waits = if over { Duration::ZERO } else { Duration::from_secs(DELAY) };
        let least = waits + election;
        sniffer.next(least + LIMIT, is_vrrp).context("no advert at all")?;
        let took = begin.elapsed();
        ensure!(took >= least, "{word}: the first advert after {took:?}");
        single.wait_master()?;
        if boot {
            continue; // it is over
        }
        let before = instance(&single.host.status()?)?.last_transition_ms;
        single.wait_advert()?;
        single.host.kill_role("vrrp")?;
        single.wait_status("vrrp back, master without a change", |status| {
            status.processes.iter().any(|it| it.restarts == 1)
                && status.processes.iter().all(|it| it.ready)
                && instance(status).is_ok_and(|it| it.state == VrrpState::Master)
        })?;
        ensure!(single.host.has(VIP)?, "the VIP stayed");
        // A new process counts from its start; had it waited, another would be master for a while.
        let began = single.log().matches("Entering BACKUP STATE").count();
        ensure!(began == 1, "{began} times BACKUP, first change at {before}");
        single.host.stop()?;
    }
    Ok(())
}

/// Kills each role in turn under VRRP at keepalived's usual advert_int 1: the VIP stays, the lease
/// never lapses, no transition is counted, no notify script runs.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_role_is_restarted_without_a_flap() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let notes = single.dir().join("notes");
    let script = single.script(
        "notify.sh",
        &format!("#!/bin/sh\necho \"$1 $2 $3 $4\" >> {}\n", notes.display()),
    )?;
    let notify = format!("notify {}", script.display());
    let _listener = single.listen_on_other(3306)?;
    let servers = virtual_server(3306, "rr", &[OTHER]);
    single.host.write_config(&config("1", "script_user root", &notify, &servers))?;
    single.host.start()?;
    single.wait_master()?;
    wait_true("the first notes", LIMIT, || {
        fs::read_to_string(&notes).is_ok_and(|text| text.contains("MASTER"))
    })?;
    single.wait_status("a healthy server", |status| {
        status.servers.first().is_some_and(|server| format!("{:?}", server.health) == "Up")
    })?;
    let before = fs::read_to_string(&notes)?;
    let counters = instance(&single.host.status()?)?.counters.clone();
    // Looks at lease and address all the time, as the kernel program does.
    let mut look = looks::of(std::slice::from_ref(&single.host))?;
    let mut leased = look.pop().context("one look")?;
    let netns = single.host.netns().clone();
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let watcher = thread::spawn(move || -> Result<(u64, u64, u64)> {
        netns.enter_thread()?;
        let (mut looks, mut lapsed, mut absent) = (0, 0, 0);
        while !stop.load(Ordering::Relaxed) {
            looks += 1;
            lapsed += u64::from(!leased());
            absent += u64::from(!lb_tests::netns::thread_has_address(VIP)?);
            thread::sleep(Duration::from_millis(2));
        }
        Ok((looks, lapsed, absent))
    });
    let mut killed = Ok(());
    for role in ROLES {
        killed = single.wait_advert().and_then(|()| single.host.kill_role(role)).and_then(|()| {
            single
                .wait_status(&format!("{role} back"), |status| {
                    status.processes.iter().all(|process| {
                        let expected = u64::from(process.role == role);
                        process.ready && (process.role != role || process.restarts == expected)
                    })
                })
                .map(drop)
        });
        if killed.is_err() {
            break;
        }
    }
    over.store(true, Ordering::Relaxed);
    let (looks, lapsed, absent) = watcher.join().ok().context("watcher died")??;
    killed?;
    ensure!(looks > 0 && lapsed == 0, "the lease had lapsed in {lapsed} of {looks} looks");
    ensure!(absent == 0, "the VIP was absent in {absent} of {looks} looks");
    let status = single.host.status()?;
    for process in &status.processes {
        ensure!(process.restarts == 1, "{process:?}");
        let last = process.last_exit.as_deref().unwrap_or_default();
        ensure!(last.contains("SIGKILL"), "{process:?}");
    }
    let vrrp = instance(&status)?;
    ensure!(vrrp.state.name() == "MASTER", "{vrrp:?}");
    // The new process counts from zero: a take-over that it does not count did not happen.
    ensure!(vrrp.counters.become_master <= counters.become_master, "{vrrp:?}");
    ensure!(vrrp.counters.release_master == 0 && vrrp.counters.pri_zero_sent == 0, "{vrrp:?}");
    ensure!(fs::read_to_string(&notes)? == before, "{}", fs::read_to_string(&notes)?);
    single.host.stop()
}

/// Somebody removes the pins and the forwarder makes new maps: vrrp's leases go there at once.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn leases_follow_the_forwarder_to_new_maps() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    // Adverts far apart: hardly one will renew the lease at the moment that is looked at.
    let mut single = Single::start(&config("4", "", "", &virtual_server(3306, "rr", &[OTHER])))?;
    wait_for("the election", 3 * LIMIT, || {
        Ok(single
            .host
            .status()
            .ok()
            .filter(|status| instance(status).is_ok_and(|vrrp| vrrp.state.name() == "MASTER")))
    })?;
    let pins = single.host.pin_dir();
    let id = || anyhow::Ok(aya::maps::MapInfo::from_pin(pins.join(lb_common::maps::LEASE))?.id());
    let leased = |host: &lb_tests::host::Host| -> Result<bool> {
        let mut look = looks::of(std::slice::from_ref(host))?;
        Ok(look.first_mut().context("one look")?())
    };
    ensure!(leased(&single.host)?, "no lease to begin with");
    let before = id()?;
    for folder in [pins.join("links"), pins.clone()] {
        for entry in fs::read_dir(folder)?.flatten() {
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
            }
        }
    }
    single.host.kill_role("forwarder")?;
    single.wait_status("the forwarder back", |status| {
        status.processes.iter().all(|process| process.ready)
            && status.processes.iter().any(|process| process.restarts == 1)
    })?;
    ensure!(id()? != before, "the maps are the old ones: the test tests nothing");
    // `Converged` reaches vrrp a moment after the forwarder is ready.
    wait_true("the lease in the new map", Duration::from_secs(2), || {
        leased(&single.host).unwrap_or(false)
    })?;
    let vrrp = single.host.status()?;
    ensure!(instance(&vrrp)?.counters.become_master == 1, "{vrrp:?}");
    single.host.stop()
}

/// Without `-n`: the command returns when the daemon is ready, with pid files and a log.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn background_start_returns_when_ready_and_ends_without_traces() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    let single = Single::new()?;
    single.host.write_config(&config("0.2", "", "", ""))?;
    let file = single.host.config_file();
    let run = single.dir().join("own-run");
    let pid_file = single.dir().join("further.pid");
    let log = fs::File::create(single.dir().join("stderr"))?;
    let daemon = Background { pid_file: pid_file.clone() };
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut command = single.host.netns().command(bin_dir().join("lbd"));
        command.args(["-l", "-D", "-f", text(&file)?, "--instance", single.host.instance()]);
        command.args(["--run-dir", text(&run)?, "-p", text(&pid_file)?]);
        command.stdin(std::process::Stdio::null()).stderr(log.try_clone()?);
        // `Namespace::command` ties the command to this thread, the daemon is not.
        let status = command.status()?;
        ensure!(status.code() == Some(0), "{status}");
        let pid = daemon.pid()?;
        ensure!(fs::read_to_string(run.join("lbd.pid"))?.trim() == pid.to_string());
        for role in ROLES {
            ensure!(run.join(format!("{role}.pid")).exists(), "{role}.pid");
        }
        // Ready is ready: the control socket answers at once.
        let socket = run.join("lbd.sock");
        let mut lbctl = std::process::Command::new(bin_dir().join("lbctl"));
        let output = lbctl.args(["status", "--socket", text(&socket)?]).output()?;
        ensure!(output.status.success(), "{output:?}");
        let said = fs::read_to_string(single.dir().join("stderr"))?;
        ensure!(said.contains("every role is ready"), "{said}");
        wait_true("the VIP", LIMIT, || single.host.has(VIP).unwrap_or(false))?;
        send(pid, signal)?;
        wait_true("the daemon's end", LIMIT, || !alive(pid) && single.host.pids().is_empty())?;
        ensure!(!pid_file.exists() && !run.exists(), "pid file and run directory are left");
        nothing_left(&single, &run)?;
        let said = fs::read_to_string(single.dir().join("stderr"))?;
        ensure!(said.contains(&format!("why=\"{signal}\"")) && said.contains("lbd ends code=0"));
    }
    Ok(())
}

/// A daemon in the background, ended with the test.
struct Background {
    pid_file: std::path::PathBuf,
}

impl Background {
    fn pid(&self) -> Result<Pid> {
        let text = fs::read_to_string(&self.pid_file).context("no pid file")?;
        Ok(Pid::from_raw(text.trim().parse().context("no pid in it")?))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(pid) = self.pid() {
            let _ = send(pid, Signal::SIGTERM); // it may have ended
        }
    }
}

/// The watchdog alone is killed: its roles end by themselves, and a new start takes over whatever
/// is left.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn start_after_the_watchdog_was_killed_takes_over() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    let mut single = Single::start(&config("0.2", "", "", ""))?;
    single.wait_master()?;
    let old = single.host.pids();
    single.host.kill_role("main")?;
    single.host.start()?;
    single.wait_master()?;
    wait_true("the end of the old processes", LIMIT, || old.iter().all(|pid| !alive(*pid)))?;
    let status = single.wait_status("every role", |status| {
        status.processes.len() == ROLES.len() && status.processes.iter().all(|p| p.ready)
    })?;
    ensure!(status.processes.iter().all(|process| process.restarts == 0), "{status:#?}");
    // Everything at one moment: address, program, pins and files are left for the successor.
    single.host.kill_all()?;
    ensure!(single.host.has(VIP)? && single.host.pin_dir().exists());
    single.host.start()?;
    single.wait_master()?;
    ensure!(single.log().contains("of a predecessor adopted"), "{}", single.host.log_tail(40));
    single.host.stop()?;
    nothing_left(&single, &single.host.dir().join("run"))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn vrrp_alone_and_checkers_alone() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let _listener = single.listen_on_other(3306)?;
    let servers = virtual_server(3306, "rr", &[OTHER, NOBODY]);
    single.host.write_config(&config("0.2", "", "", &servers))?;
    let roles = |single: &Single| -> Result<Vec<String>> {
        let status = single.host.status()?;
        Ok(status.processes.into_iter().map(|process| process.role).collect())
    };
    single.host.set_arguments(&["-P"]);
    single.host.start()?;
    single.wait_master()?;
    ensure!(roles(&single)? == ["vrrp", "forwarder", "api"], "{:?}", roles(&single)?);
    single.host.stop()?;
    single.host.set_arguments(&["-C"]);
    single.host.start()?;
    single.wait_status("verdicts", |status| {
        let health: Vec<_> = status.servers.iter().map(|s| format!("{:?}", s.health)).collect();
        health == ["Up", "Down"]
    })?;
    ensure!(roles(&single)? == ["checker", "forwarder", "api"], "{:?}", roles(&single)?);
    ensure!(!single.host.has(VIP)?, "without VRRP lbd sets no address");
    single.host.stop()?;
    nothing_left(&single, &single.host.dir().join("run"))
}

/// Starts that cannot work end at once, with keepalived's exit code and a reason.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn bad_starts_are_told_clearly() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let servers = virtual_server(3306, "rr", &[OTHER]);
    single.host.write_config(&config("0.2", "", "", &servers))?;
    let file = single.host.config_file();
    let run = single.host.dir().join("run");
    let name = single.host.instance().to_owned();
    let words = ["-n", "-l", "-f", text(&file)?, "--instance", &name, "--run-dir"];
    let words = [&words[..], &[text(&run)?]].concat();
    // Nobody, and root without one capability that it needs.
    let copy = single.dir().join("lbd");
    single::install(&bin_dir().join("lbd"), &copy)?;
    let nobody: &[&str] = &["--reuid=65534", "--regid=65534", "--clear-groups"];
    let no_bpf: &[&str] = &["--bounding-set=-bpf", "--inh-caps=-all"];
    for (limits, missing) in [(nobody, "CAP_NET_ADMIN"), (no_bpf, "CAP_BPF")] {
        let mut command = single.host.netns().command("setpriv");
        let output = command.args(limits).arg(&copy).args(&words).output()?;
        ensure!(output.status.code() == Some(4), "{output:?}");
        let said = stderr(&output);
        ensure!(said.contains("not permitted: needs root or") && said.contains(missing), "{said}");
    }
    let output = single.lbd(&[&words[..], &["--engine", "ipvs"]].concat())?;
    ensure!(
        output.status.code() == Some(1) && stderr(&output).contains("the kernel has no IPVS"),
        "{output:?}"
    );
    // Another program on the interface: reported, left alone, and no start beside it.
    let foreign = Foreign::attach(single.host.netns())?;
    single.host.start()?;
    single.wait_log("another XDP program (id ")?;
    let status = single.wait_status("the foreign program as a problem", |status| {
        status.forwarder.as_ref().is_some_and(|forwarder| {
            forwarder.interfaces.iter().any(|interface| interface.problem.is_some())
        })
    })?;
    ensure!(instance(&status)?.state.name() != "MASTER", "no adverts without a data plane");
    let text = String::from_utf8(single.lbctl(&["status"])?.stdout)?;
    ensure!(text.contains("PROBLEM") && text.contains("another XDP program"), "{text}");
    ensure!(foreign.is_attached()?, "the foreign program was removed");
    ensure!(!single.host.has(VIP)?);
    // It goes away: lbd goes on by itself.
    drop(foreign);
    single.wait_master()?;
    single.host.stop()?;
    // An interface that is not there: named, the end, nothing left. `--engine xdp` is no other.
    let absent = config("0.2", "", "", "").replace("eth0", "eth1");
    single.host.write_config(&absent)?;
    let output = single.lbd(&[&words[..], &["--engine", "xdp"]].concat())?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = stderr(&output);
    ensure!(said.contains("vrrp_instance VI_1: interface eth1 does not exist"), "{said}");
    nothing_left(&single, &run)
}

/// A program put on eth0 by somebody else.
struct Foreign {
    netns: Namespace,
    engine: Option<Xdp>,
}

impl Foreign {
    fn attach(netns: &Namespace) -> Result<Self> {
        let pins = Path::new("/sys/fs/bpf").join(format!("lbd-{}", unique("foreign")));
        let engine = netns.enter(|| -> Result<Xdp> {
            let mut engine = Xdp::open(&pins, 4096, Attachment::XDP)?;
            let wanted =
                ForwardingTable { interfaces: ["eth0".to_owned()].into(), ..Default::default() };
            let report = engine.apply(&plan(&ForwardingTable::default(), &wanted));
            let failures: Vec<_> = report.failures().collect();
            ensure!(failures.is_empty(), "{failures:?}");
            Ok(engine)
        })??;
        Ok(Self { netns: netns.clone(), engine: Some(engine) })
    }

    fn is_attached(&self) -> Result<bool> {
        Ok(self.netns.ip(&["-d", "link", "show", "dev", "eth0"])?.contains("xdp"))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(mut engine) = self.engine.take()
            && let Err(error) = engine.close()
        {
            eprintln!("the foreign program is not removed: {error:#}");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn recordings_are_json_lines_of_every_role() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let _listener = single.listen_on_other(3306)?;
    let servers = virtual_server(3306, "rr", &[OTHER]);
    let auth = "authentication {\n auth_type PASS\n auth_pass topsecre\n }";
    let good = config("0.2", "", auth, &servers).replace("version 3", "version 2");
    let good = good.replace("advert_int 0.2", "advert_int 1");
    single.host.write_config(&good)?;
    let base = single.dir().join("record");
    single.host.set_arguments(&["--record", text(&base)?]);
    single.host.start()?;
    single.wait_master()?;
    // A reload, a link that goes and comes, a killed role: all of it is found again.
    single.host.write_config(&good.replace("priority 101", "priority 110"))?;
    ensure!(single.lbctl(&["reload"])?.status.success());
    let netns = single.host.netns().clone();
    for (state, word) in [(VrrpState::Fault, "down"), (VrrpState::Master, "up")] {
        netns.ip(&["link", "set", "eth0", word])?;
        single.wait_status(state.name(), |status| {
            instance(status).is_ok_and(|vrrp| vrrp.state == state)
        })?;
    }
    single.host.kill_role("checker")?;
    single.wait_status("the server up again", |status| {
        status.servers.iter().any(|server| format!("{:?}", server.health) == "Up")
            && status.processes.iter().all(|process| process.ready)
    })?;
    for role in ["vrrp", "checker", "forwarder"] {
        let path = single.dir().join(format!("record.{role}"));
        let lines = wait_for(&format!("lines of {role}"), LIMIT, || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            Ok((text.lines().count() >= 2).then_some(text))
        })?;
        let mut last = 0;
        for line in lines.lines().take(lines.matches('\n').count()) {
            let value: serde_json::Value =
                serde_json::from_str(line).with_context(|| format!("{role}: {line}"))?;
            ensure!(value["role"] == role && !value["input"].is_null(), "{line}");
            let time = value["t"].as_u64().with_context(|| line.to_owned())?;
            ensure!(time >= last, "{role}: time runs backwards at {line}");
            last = time;
        }
        ensure!(fs::metadata(&path)?.permissions().mode() & 0o077 == 0, "{role}: others can read");
        // JSON writes bytes as numbers, text as it is.
        let numbers = format!("{:?}", b"topsecre").replace(' ', "");
        let secret = [numbers.trim_matches(['[', ']']), "topsecre"];
        ensure!(!secret.iter().any(|it| lines.contains(it)), "{role}: the password is in it");
    }
    single.host.stop()?;
    // What the cores did, told again from the files alone: the same as the log told.
    let replay = |role: &str| -> Result<Vec<(String, String)>> {
        let path = single.dir().join(format!("record.{role}"));
        let output = single.lbctl(&["replay", "--json", text(&path)?])?;
        ensure!(output.status.success(), "{output:?}");
        let row = |line: &str| -> Result<(String, String)> {
            let value: serde_json::Value = serde_json::from_str(line)?;
            let word = |key: &str| value[key].as_str().map(str::to_owned).context("a word");
            Ok((word("object")?, word("state")?))
        };
        String::from_utf8(output.stdout)?.lines().map(row).collect()
    };
    let log = single.log();
    let between = |line: &str, from: &str, to: &str| -> Option<String> {
        Some(line.split_once(from)?.1.split_once(to)?.0.to_owned())
    };
    let states = |rows: Vec<(String, String)>| rows.into_iter().map(|(_, state)| state);
    let wanted: Vec<_> =
        log.lines().filter_map(|line| between(line, "Entering ", " STATE")).collect();
    let found: Vec<_> = states(replay("vrrp")?).filter(|state| state != "INIT").collect();
    ensure!(wanted == found && found.iter().any(|state| state == "FAULT"), "{wanted:?} {found:?}");
    let wanted: Vec<_> = log
        .lines()
        .filter(|line| line.contains("real server health"))
        .filter_map(|line| between(line, "health=", " "))
        .map(|health| health.to_uppercase())
        .collect();
    let found: Vec<_> = replay("checker")?
        .into_iter()
        .filter_map(|(object, state)| object.starts_with("real_server").then_some(state))
        .collect();
    ensure!(wanted == found && !found.is_empty(), "{wanted:?} {found:?}");
    let output = single.lbctl(&["replay", text(&single.dir().join("record.forwarder"))?])?;
    ensure!(output.status.code() == Some(1) && stderr(&output).contains("`forwarder`"));
    Ok(())
}

/// `-D` is what debug lines come from, of the watchdog and of its children, and nothing else is.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn debug_lines_are_those_of_detail() -> Result<()> {
    if !single::ready("proc_life")? {
        return Ok(());
    }
    for detail in [false, true] {
        let mut single = Single::new()?;
        single.host.set_detail(detail);
        single.host.write_config(&config("0.2", "", "", ""))?;
        single.host.start()?;
        single.wait_master()?;
        single.host.stop()?;
        let log = single.log();
        ensure!(log.contains(" INFO "), "{log}");
        ensure!(log.contains(" DEBUG ") == detail, "-D {detail}:\n{log}");
    }
    Ok(())
}
