//! Scripts of a running daemon: broken ones hurt nobody, one may stop the daemon that runs it,
//! notifications are complete and in order.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::Host,
    lab::{self, Lab, Mode, Spec},
    process::alive,
    single::{self, LIMIT, OTHER, Single, VIP, config, instance, virtual_server},
    tutorial::Script,
    wait::{wait_for, wait_true, wait_until},
};
use lb_userspace::base::status::{Health, InstanceStatus, VrrpState};
use nix::unistd::{Group, Pid, User};

/// Notifications and MISC_CHECKs that cannot be run: told with the cause; servers that nobody could ask are not used,
/// and the instance does what it would.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn broken_notifications_and_misc_checks_are_told_and_hurt_nobody() -> Result<()> {
    if !single::ready("proc_scripts")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let dir = single.dir().to_owned();
    let plain = single.script("plain.sh", "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644))?;
    let fine = single.script("fine.sh", "#!/bin/sh\nexit 0\n")?;
    let server = |last: u8, script: &Path| {
        format!(
            "    real_server 10.79.0.{last} 3306 {{\n        weight 1\n        MISC_CHECK {{\n            \
             misc_path \"{}\"\n            user root\n        }}\n    }}\n",
            script.display()
        )
    };
    let pool =
        [server(101, &dir.join("missing-check.sh")), server(102, &plain), server(103, &fine)];
    let service = format!(
        "virtual_server {VIP} 3306 {{\n    delay_loop 1\n    lb_algo rr\n    lb_kind DR\n    \
         protocol TCP\n{}}}\n",
        pool.concat()
    );
    let notify = format!(
        "notify_backup {} root\n    notify_master {} root",
        plain.display(),
        dir.join("missing-notify.sh").display()
    );
    single.host.write_config(&config("0.2", "", &notify, &service))?;
    single.host.start()?;
    single.wait_master()?;
    let status = single.wait_status("three verdicts", |status| {
        let of = |health| status.servers.iter().filter(|it| it.health == health).count();
        of(Health::Down) == 2 && of(Health::Up) == 1
    })?;
    let up = status.servers.iter().find(|it| it.health == Health::Up);
    ensure!(
        up.map(|it| it.real_server.ip()) == Some([10, 79, 0, 103].into()),
        "{:#?}",
        status.servers
    );
    for phrase in [
        "missing-check.sh: no such file",
        "missing-notify.sh: no such file",
        "plain.sh: not executable",
    ] {
        single.wait_log(phrase)?;
    }
    let status = single.host.status()?;
    ensure!(instance(&status)?.state == VrrpState::Master, "{status:#?}");
    ensure!(status.processes.iter().all(|p| p.ready && p.restarts == 0), "{status:#?}");
    single.host.stop()
}

/// Missing, not executable, hanging, forking: none keeps the daemon from answering, the instance
/// from being master or another check from being made; each is told.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn broken_check_scripts_are_told_and_hurt_nobody() -> Result<()> {
    if !single::ready("proc_scripts")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let dir = single.dir().to_owned();
    let plain = single.script("plain.sh", "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644))?;
    let children = dir.join("children");
    let hanging = single.script(
        "hanging.sh",
        &format!("#!/bin/sh\ntrap '' TERM\necho $$ >> {}\nsleep 1000\n", children.display()),
    )?;
    let forking = single.script(
        "forking.sh",
        &format!(
            "#!/bin/sh\nfor i in 1 2 3; do sleep 1000 & echo $! >> {}; done\nwait\n",
            children.display()
        ),
    )?;
    let good = dir.join("good-ran");
    let fine = single.script("fine.sh", &format!("#!/bin/sh\necho x >> {}\n", good.display()))?;
    let check = |name: &str, path: &Path| {
        format!(
            "vrrp_script {name} {{\n    script \"{}\"\n    interval 1\n    timeout 1\n    \
             weight -5\n    fall 1\n    rise 1\n    user root\n}}\n",
            path.display()
        )
    };
    let scripts = [
        check("missing", &dir.join("missing.sh")),
        check("plain", &plain),
        check("hanging", &hanging),
        check("forking", &forking),
        check("fine", &fine),
    ]
    .concat();
    let track = "track_script {\n missing\n plain\n hanging\n forking\n fine\n }";
    single.host.write_config(&config("0.2", "", track, &scripts))?;
    single.host.start()?;
    single.wait_master()?;
    let status = single.wait_status("time-outs", |status| {
        status.scripts.outcomes.get("timed_out").is_some_and(|count| *count >= 2)
            && instance(status).is_ok_and(|vrrp| vrrp.effective_priority < vrrp.base_priority)
    })?;
    ensure!(instance(&status)?.state.name() == "MASTER", "{status:#?}");
    ensure!(status.processes.iter().all(|p| p.ready && p.restarts == 0), "{status:#?}");
    for phrase in ["missing.sh: no such file", "plain.sh: not executable"] {
        single.wait_log(phrase)?;
    }
    for name in ["hanging", "forking"] {
        let told = |line: &str| line.contains(name) && line.contains("ended at its time-out");
        wait_true(&format!("the time-out of {name} in the log"), LIMIT, || {
            single.log().lines().any(told)
        })?;
    }
    wait_true("the good check, made again and again", LIMIT, || {
        fs::read_to_string(&good).is_ok_and(|text| text.lines().count() >= 3)
    })?;
    // One that was ended before it came so far forks again.
    wait_true("the forked children", LIMIT, || {
        fs::read_to_string(&children).is_ok_and(|text| text.lines().count() >= 4)
    })?;
    single.host.stop()?;
    ensure!(!single.host.has(VIP)?);
    // Groups, not processes: what the scripts forked is gone too.
    let text = fs::read_to_string(&children)?;
    let pids: Vec<i32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    ensure!(pids.len() >= 4, "{text}");
    wait_true("the end of every forked child", LIMIT, || {
        pids.iter().all(|pid| !alive(Pid::from_raw(*pid)))
    })
}

/// The tutorial's way: a check that finds the database dead stops the balancer that runs it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_check_script_may_stop_its_own_daemon() -> Result<()> {
    if !single::ready("proc_scripts")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let (dead, seen) = (single.dir().join("dead"), single.dir().join("seen"));
    let script = single.script(
        "check.sh",
        &format!(
            "#!/bin/sh\n[ -e {dead} ] || exit 0\necho $$ >> {seen}\n\
             kill -TERM $(cat {pid})\nsleep 1000 &\necho $! >> {seen}\nwait\n",
            dead = dead.display(),
            seen = seen.display(),
            pid = single.host.dir().join("run/lbd.pid").display(),
        ),
    )?;
    let check = format!(
        "vrrp_script chk {{\n    script \"{}\"\n    interval 1\n    user root\n}}\n",
        script.display()
    );
    single.host.write_config(&config("0.2", "", "track_script {\n chk\n }", &check))?;
    single.host.start()?;
    single.wait_master()?;
    fs::write(&dead, "")?;
    wait_true("the daemon's own end", LIMIT, || !single.host.running())?;
    let log = single.log();
    ensure!(log.contains("why=\"SIGTERM\"") && log.contains("lbd ends code=0"), "{log}");
    ensure!(!single.host.has(VIP)?, "the VIP was not released");
    ensure!(!single.host.pin_dir().exists());
    // A check that stops its daemon may be about to start it again (the tutorial's third script):
    // an orderly stop leaves it to itself. It may still be busy with its second line.
    let text = wait_for("both processes of the script", LIMIT, || {
        let text = fs::read_to_string(&seen).unwrap_or_default();
        Ok((text.lines().count() >= 2).then_some(text))
    })?;
    let pids = text.lines().map(|line| line.trim().parse().map(Pid::from_raw));
    let pids = pids.collect::<Result<Vec<_>, _>>()?;
    let left = pids.iter().all(|pid| alive(*pid));
    for pid in &pids {
        let _ = nix::sys::signal::kill(*pid, nix::sys::signal::Signal::SIGKILL);
    }
    ensure!(pids.len() == 2 && left, "the script was ended with its daemon: {text}");
    wait_true("the end of the script", LIMIT, || pids.iter().all(|pid| !alive(*pid)))
}

/// Every notification of a quick flap arrives, with keepalived's arguments, in order, although the
/// scripts are slow.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn notifications_are_complete_and_in_order() -> Result<()> {
    if !single::ready("proc_scripts")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let (notes, bad) = (single.dir().join("notes"), single.dir().join("bad"));
    let script = single.script(
        "notify.sh",
        &format!("#!/bin/sh\nsleep 0.2\necho \"$@\" >> {}\n", notes.display()),
    )?;
    let script = script.display();
    let check = format!(
        "vrrp_script chk {{\n    script \"/usr/bin/test ! -e {}\"\n    interval 1\n    fall 1\n    \
         rise 1\n    user root\n}}\n",
        bad.display()
    );
    let words = ["master", "backup", "fault", "stop"];
    let mut lines: String =
        words.iter().map(|word| format!("notify_{word} \"{script} {word}\"\n")).collect();
    lines.push_str(&format!("notify \"{script} all\"\ntrack_script {{\n chk\n }}\n"));
    let global = "script_user root";
    single.host.write_config(&config("0.1", global, &lines, &check))?;
    single.host.start()?;
    single.wait_master()?;
    for _ in 0..2 {
        fs::write(&bad, "")?;
        single.wait_status("FAULT", |status| {
            instance(status).is_ok_and(|vrrp| vrrp.state.name() == "FAULT")
        })?;
        fs::remove_file(&bad)?;
        single.wait_master()?;
    }
    // Each script takes its time, and a stop tells only the last of what still waits.
    wait_for("the third MASTER", LIMIT, || {
        let text = fs::read_to_string(&notes).unwrap_or_default();
        Ok((text.matches("all INSTANCE VI_1 MASTER").count() == 3).then_some(()))
    })?;
    single.host.stop()?;
    let text = fs::read_to_string(&notes).context("no notes")?;
    // The special word's own script and the general one, each in order.
    let own: Vec<&str> = text.lines().filter(|line| !line.starts_with("all")).collect();
    let all: Vec<&str> = text.lines().filter(|line| line.starts_with("all")).collect();
    let states: Vec<&str> = own.iter().filter_map(|line| line.split(' ').next()).collect();
    let flap = ["fault", "backup", "master"];
    ensure!(states.ends_with(&[&["master"][..], &flap, &flap, &["stop"]].concat()), "{text}");
    let told: Vec<String> =
        all.iter().map(|line| line.split(' ').nth(3).unwrap_or_default().to_lowercase()).collect();
    ensure!(told == states, "the general script was told otherwise:\n{text}");
    for line in &all {
        let words: Vec<&str> = line.split(' ').collect();
        let shape = matches!(words[..], ["all", "INSTANCE", "VI_1", _, "101"]);
        ensure!(shape, "keepalived's arguments are TYPE NAME STATE PRIORITY: {line}");
    }
    Ok(())
}

/// Words of each kind of script as its process has them: quotes are gone, what they held is one word, and a
/// notification's own words stand behind.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn scripts_have_the_words_that_their_quotes_make() -> Result<()> {
    if !single::ready("proc_scripts")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let notes = single.dir().join("words");
    // One write a run: they run at once.
    let words = single.script(
        "words.sh",
        &format!(
            "#!/bin/sh\nline=$(printf '[%s]' \"$@\")\necho \"$line\" >> {}\n",
            notes.display()
        ),
    )?;
    let words = words.display();
    let given = |kind: &str| format!("\"{words} {kind} 'two  words' plain 'a;b $HOME *'\"");
    let check = format!(
        "vrrp_script chk {{\n    script {}\n    interval 1\n    user root\n}}\n",
        given("check")
    );
    let service = format!(
        "virtual_server {VIP} 3306 {{\n    delay_loop 1\n    lb_algo rr\n    lb_kind DR\n    \
         protocol TCP\n    real_server 10.79.0.101 3306 {{\n        MISC_CHECK {{\n            \
         misc_path {}\n            user root\n        }}\n    }}\n}}\n",
        given("misc")
    );
    let lines = format!(
        "notify_master {} root\n    notify {} root\n    track_script {{\n        chk\n    }}\n",
        given("master"),
        given("notify")
    );
    single.host.write_config(&config("0.2", "", &lines, &format!("{check}{service}")))?;
    single.host.start()?;
    single.wait_master()?;
    let quoted = "[two  words][plain][a;b $HOME *]";
    for (kind, behind) in
        [("check", ""), ("misc", ""), ("master", ""), ("notify", "[INSTANCE][VI_1][MASTER][101]")]
    {
        let wanted = format!("[{kind}]{quoted}{behind}");
        let read = || fs::read_to_string(&notes).unwrap_or_default();
        wait_until(
            &wanted,
            LIMIT,
            || Ok(read().lines().any(|line| line == wanted).then_some(())),
            read,
        )?;
    }
    single.host.stop()
}

/// What a script writes about itself: user, group, further groups, capability sets.
const WHO_AM_I: &str = "#!/bin/sh\n{ id -u; id -g; id -G; grep '^Cap' /proc/self/status; } > $1.new && \
                        mv $1.new $1\n";

/// Waits for such a file and checks it: this user, his one group, and no capability that acts or could be
/// passed on.
fn runs_as(note: &Path, uid: u32, gid: u32) -> Result<()> {
    let text =
        wait_for(&format!("{}", note.display()), LIMIT, || Ok(fs::read_to_string(note).ok()))?;
    let lines: Vec<&str> = text.lines().collect();
    let ids = [uid, gid, gid].map(|id| id.to_string());
    ensure!(
        lines.len() >= 7 && lines[..3] == ids,
        "{}: {uid} {gid} wanted:\n{text}",
        note.display()
    );
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let line = lines.iter().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
        let bits = line.with_context(|| format!("{set} in {text}"))?.trim();
        let none = u64::from_str_radix(bits, 16)? == 0;
        ensure!(none || uid == 0, "{}: {set} {bits}", note.display());
    }
    Ok(())
}

/// Every kind of script runs as the user that its line names, else as `script_user`, with that user's group
/// alone and without capabilities.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn scripts_run_as_their_user_without_capabilities() -> Result<()> {
    if !single::ready("proc_scripts")? {
        return Ok(());
    }
    let user = |name: &str| User::from_name(name)?.with_context(|| format!("no user {name}"));
    let group = |name: &str| Group::from_name(name)?.with_context(|| format!("no group {name}"));
    let (nobody, daemon) = (user("nobody")?, user("daemon")?);
    let daemons = group("daemon")?.gid.as_raw();
    let mut single = Single::new()?;
    let notes = single.dir().join("notes");
    fs::create_dir(&notes)?;
    fs::set_permissions(&notes, fs::Permissions::from_mode(0o777))?;
    let script = single.script("who.sh", WHO_AM_I)?;
    let command = |note: &str| format!("\"{} {}\"", script.display(), notes.join(note).display());
    let checks: String = [
        ("own", "user nobody"),
        ("own_group", "user nobody daemon"),
        ("global", ""),
        ("root", "user root"),
    ]
    .map(|(name, line)| {
        let command = command(name);
        format!("vrrp_script {name} {{\n script {command}\n interval 1\n timeout 3\n {line}\n}}\n")
    })
    .concat();
    let pool = virtual_server(3306, "rr", &[OTHER]);
    let misc = |inner: &str| pool.replace("TCP_CHECK {\n            connect_timeout 1", inner);
    let checked = misc(&format!("MISC_CHECK {{\n misc_path {}\n user nobody", command("misc")));
    ensure!(checked != pool, "{pool}");
    let instance = format!(
        "track_script {{\n own\n own_group\n global\n root\n }}\n notify_master {} nobody\n \
         notify_backup {}\n",
        command("master"),
        command("backup")
    );
    single.host.write_config(&config(
        "0.2",
        "script_user daemon",
        &instance,
        &(checks + &checked),
    ))?;
    single.host.start()?;
    let (nobody, daemon) = ((nobody.uid, nobody.gid), (daemon.uid, daemon.gid));
    for (note, (uid, gid)) in [
        ("own", nobody),
        ("global", daemon),
        ("misc", nobody),
        ("master", nobody),
        ("backup", daemon),
    ] {
        runs_as(&notes.join(note), uid.as_raw(), gid.as_raw())?;
    }
    runs_as(&notes.join("own_group"), nobody.0.as_raw(), daemons)?;
    runs_as(&notes.join("root"), 0, 0)?;
    single.host.stop()
}

/// MISC_CHECK in a running lbd: its code is the weight with misc_dynamic, a script that outlives
/// misc_timeout is killed and the server down, and both end with the next good run.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn misc_check_weighs_and_times_out() -> Result<()> {
    if !single::ready("proc_scripts")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let (code, hangs) = (single.dir().join("code"), single.dir().join("hangs"));
    fs::write(&code, "0")?;
    let script = single.script(
        "misc.sh",
        &format!(
            "#!/bin/sh\ncode=$(cat {})\n[ $code = hang ] || exit $code\necho $$ >> {}\nexec sleep 1000\n",
            code.display(),
            hangs.display()
        ),
    )?;
    let pool = virtual_server(3306, "wrr", &[OTHER]);
    let check = format!(
        "MISC_CHECK {{\n misc_path \"{}\"\n misc_timeout 1\n misc_dynamic\n user root",
        script.display()
    );
    let pool = pool.replace("TCP_CHECK {\n            connect_timeout 1", &check);
    ensure!(pool.contains("MISC_CHECK"), "{pool}");
    single.host.write_config(&config("0.2", "", "", &pool))?;
    single.host.start()?;
    single.wait_master()?;
    // As an editor does it: the script never sees half of it.
    let says = |text: &str| -> Result<()> {
        let new = single.dir().join("code.new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &code)?)
    };
    // The weight of a server that is down counts for nothing.
    let wait = |what: &str, health: Health, weight: Option<u32>, state: &str| {
        single.wait_status(what, |status| {
            let checked = status.servers.first();
            let planes = status.forwarder.iter().flat_map(|it| &it.virtual_servers);
            let real = planes.flat_map(|it| &it.real_servers).next();
            let weighs = |it: u32| weight.is_none_or(|weight| weight == it);
            checked.is_some_and(|it| it.health == health && weighs(it.weight))
                && real.is_some_and(|it| it.state == state && weighs(it.weight))
        })
    };
    wait("a good run", Health::Up, Some(1), "UP")?;
    says("5")?;
    wait("code 5: weight 3", Health::Up, Some(3), "UP")?;
    says("hang")?;
    let status = wait("a script that hangs: down", Health::Down, None, "DOWN")?;
    let checker = status.servers.first().and_then(|it| it.checkers.first()).context("a checker")?;
    ensure!(checker.kind == "MISC_CHECK" && checker.failures > 0, "{checker:?}");
    ensure!(
        status.scripts.outcomes.get("timed_out").is_some_and(|count| *count > 0),
        "{status:#?}"
    );
    // Killed, each of them: none of those that hung lives longer than its time-out and a moment. One that was killed
    // before it came so far has written nothing, the next one will.
    let first = wait_for("a pid", LIMIT, || {
        let text = fs::read_to_string(&hangs).unwrap_or_default();
        Ok(text.lines().next().map(str::to_owned))
    })?;
    let first: i32 = first.parse()?;
    wait_true("the end of the script that hung", LIMIT, || !alive(Pid::from_raw(first)))?;
    says("1")?;
    wait("code 1: down", Health::Down, None, "DOWN")?;
    says("0")?;
    wait("a good run again", Health::Up, Some(1), "UP")?;
    single.host.stop()
}

// ---- the classic tutorial's shared-disk script

/// For what takes several runs of a script and an election.
const PAIR_LIMIT: Duration = Duration::from_secs(60);

/// Runs the tutorial's script and writes down how it ended.
const NOTED: &str = "#!/bin/bash\n/opt/shared_disk.sh\ncode=$?\necho $code >> /opt/codes\n\
    exit $code\n";

/// `service mysqld restart` that works: it returns when the server answers again.
const RESTARTS: &str = "#!/bin/bash\nfor try in $(seq 100); do\n    /usr/bin/mysql -h localhost -u root \
    -proot -e 'show status;' >/dev/null 2>&1 && exit 0\n    sleep 0.1\ndone\nexit 1\n";

/// One that says so, and the server is dead again.
const SAYS_SO: &str = "#!/bin/bash\nexit 0\n";

/// A host's file of its jail.
fn file(host: &Host, name: &str) -> PathBuf {
    host.dir().join("root").join(name)
}

fn executable(host: &Host, name: &str, text: &str) -> Result<()> {
    let path = file(host, name);
    // Another file under the name: the old one may be running.
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, &path).with_context(|| path.display().to_string())
}

/// How the script ended, run by run.
fn codes(host: &Host) -> Vec<u8> {
    let text = fs::read_to_string(file(host, "opt/codes")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn count(host: &Host, code: u8) -> usize {
    codes(host).iter().filter(|it| **it == code).count()
}

fn first(host: &Host) -> Option<InstanceStatus> {
    host.status().ok()?.vrrp.first().cloned()
}

/// Waits until both hosts have these states and priorities, and this many exits of that code were seen
/// on a host.
fn wait_pair(
    lab: &Lab,
    what: &str,
    wanted: [(VrrpState, u8); 2],
    seen: (usize, u8, usize),
) -> Result<()> {
    let (host, code, least) = seen;
    wait_until(
        what,
        PAIR_LIMIT,
        || {
            let is = |at: usize| {
                let (state, priority) = wanted[at];
                let holds = lab.hosts[at].has(lab::VIP).ok() == Some(state == VrrpState::Master);
                holds
                    && first(&lab.hosts[at])
                        .is_some_and(|it| it.state == state && it.effective_priority == priority)
            };
            Ok((is(0) && is(1) && count(&lab.hosts[host], code) >= least).then_some(()))
        },
        || {
            let told = [0, 1].map(|at| (codes(&lab.hosts[at]), first(&lab.hosts[at])));
            format!("{told:#?}\n{}\n{}", lab.hosts[0].log_tail(30), lab.hosts[1].log_tail(20))
        },
    )
}

/// What each exit of the script means to priority and VIP. (Exit 1, after which the daemon is a new one, is
/// `e2e_lab::script_that_restarts_the_balancer_from_its_own_child_works`.)
#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_exit_of_the_shared_disk_script_means_what_the_tutorial_says() -> Result<()> {
    use VrrpState::{Backup, Master};
    if !single::ready("proc_scripts")? {
        return Ok(());
    }
    let mut spec = Spec::new(Mode::Local);
    spec.script = Script::SharedDisk;
    let mut lab = Lab::build(spec)?;
    for number in 0..2 {
        let host = &lab.hosts[number];
        // Its three tries fit into no two seconds; what they wait for is not what is tested.
        let text = fs::read_to_string(file(host, "opt/chk_mysql.sh"))?;
        ensure!(text.contains("sleep 2") && text.contains("exit 3") && text.contains("exit 5"));
        executable(host, "opt/shared_disk.sh", &text.replace("sleep 2", "sleep 0.1"))?;
        executable(host, "opt/chk_mysql.sh", NOTED)?;
        let config = lab.config_of(number);
        let quick = config.replace("    interval 2", "    timeout 15\n    interval 1");
        ensure!(quick != config, "{config}");
        host.write_config(&quick)?;
    }
    lab.start_hosts()?;
    wait_pair(&lab, "good checks", [(Master, 101), (Backup, 99)], (0, 0, 1))?;

    // Exit 5, no VIP here: the standby weighs less, and that is all.
    lab.server(2)?.db.kill();
    wait_pair(&lab, "exit 5 on the standby", [(Master, 101), (Backup, 94)], (1, 5, 2))?;
    lab.server(2)?.db.run()?;
    wait_pair(&lab, "the standby's weight back", [(Master, 101), (Backup, 99)], (1, 5, 2))?;
    ensure!(codes(&lab.hosts[1]).last() == Some(&0), "{:?}", codes(&lab.hosts[1]));

    // Exit 3, the VIP is here and the server was restarted: one failure is not two (`fall 2`), the VIP
    // stays and the disk is mounted.
    for name in ["init.d/mysqld", "init.d/mysqll"] {
        executable(&lab.hosts[0], name, RESTARTS)?;
    }
    lab.server(1)?.db.kill();
    let jail = lab.hosts[0].jail().context("local mode has jails")?;
    wait_until(
        "the disk to be mounted",
        PAIR_LIMIT,
        || Ok(jail.run("test", &["-d", "/run/diskarray/mounted"]).ok()),
        || lab.hosts[0].log_tail(30),
    )?;
    lab.server(1)?.db.run()?;
    wait_pair(&lab, "exit 3", [(Master, 101), (Backup, 99)], (0, 3, 1))?;
    let good = count(&lab.hosts[0], 0);
    wait_pair(&lab, "good checks after it", [(Master, 101), (Backup, 99)], (0, 0, good + 2))?;
    ensure!(count(&lab.hosts[0], 3) == 1, "{:?}", codes(&lab.hosts[0]));
    let counters = |at: usize| first(&lab.hosts[at]).map(|it| it.counters);
    let [own, its] = [counters(0).context("lb1")?, counters(1).context("lb2")?];
    ensure!((own.become_master, own.release_master) == (1, 0), "the VIP has moved: {own:?}");
    ensure!(its.become_master == 0, "the VIP has moved: {its:?}");

    // Exit 3 twice, the server does not stay up: the weight moves the VIP. From then on the script finds
    // no VIP here (exit 5), which keeps it away until the server is back.
    for name in ["init.d/mysqld", "init.d/mysqll"] {
        executable(&lab.hosts[0], name, SAYS_SO)?;
    }
    lab.server(1)?.db.kill();
    wait_pair(&lab, "exit 3 twice, then 5", [(Backup, 96), (Master, 99)], (0, 5, 2))?;
    let told = codes(&lab.hosts[0]);
    ensure!(told.iter().filter(|it| **it == 3).count() >= 3, "{told:?}");
    lab.server(1)?.db.run()?;
    wait_pair(&lab, "the VIP back", [(Master, 101), (Backup, 99)], (0, 0, good + 3))?;
    // It was the weight all the time: no daemon was stopped, and none was in FAULT.
    for host in &lab.hosts {
        let log = fs::read_to_string(host.log())?;
        ensure!(!log.contains("FAULT STATE") && log.matches("lbd starts").count() == 1, "{log}");
        ensure!(!codes(host).contains(&1), "{:?}", codes(host));
    }
    Ok(())
}
