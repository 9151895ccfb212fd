//! What each live process of lbd may do, as the kernel tells it, against the table of DESIGN §4 and
//! ARCHITECTURE.

use std::{collections::BTreeMap, fs, io};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::ROLES,
    single::{self, OTHER, Single, config, virtual_server},
    wait::wait_true,
};
use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{Pid, User},
};

/// linux/capability.h.
const CHOWN: u64 = 1 << 0;
const KILL: u64 = 1 << 5;
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// One row of the table.
struct Row {
    role: &'static str,
    leaves_root: bool,
    kept: u64,
}

const TABLE: [Row; 5] = [
    // CHOWN is for the owners of notify FIFOs.
    Row { role: "main", leaves_root: false, kept: KILL | SETUID | SETGID | CHOWN },
    Row { role: "vrrp", leaves_root: false, kept: NET_ADMIN | NET_RAW | BPF },
    Row { role: "checker", leaves_root: true, kept: NET_RAW },
    Row { role: "forwarder", leaves_root: false, kept: BPF | NET_ADMIN | PERFMON | NET_RAW },
    Row { role: "api", leaves_root: true, kept: 0 },
];

/// What systemd gives a service, as its soft limit.
const USUAL_DESCRIPTORS: u64 = 1024;

/// Soft and hard limit of open descriptors, from /proc/PID/limits.
fn descriptors(pid: Pid) -> Result<(u64, u64)> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers = line.context("no such limit")?.split_whitespace().map(str::parse);
    let mut next = || numbers.next().context("no number")?.context("a number");
    Ok((next()?, next()?))
}

/// /proc/PID/task/TID/status of every thread: capabilities belong to threads. One that ends meanwhile has none.
fn threads(pid: Pid) -> Result<Vec<BTreeMap<String, String>>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")?;
    let ended = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
    };
    let mut found = Vec::new();
    for task in tasks {
        let path = task?.path().join("status");
        let text = match fs::read_to_string(&path) {
            Err(error) if ended(&error) => continue,
            text => text.with_context(|| path.display().to_string())?,
        };
        let pair = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        found.push(text.lines().filter_map(pair).collect());
    }
    ensure!(!found.is_empty(), "the process is gone");
    Ok(found)
}

fn check(row: &Row, status: &BTreeMap<String, String>, nobody: &User) -> Result<()> {
    let field = |name: &str| status.get(name).with_context(|| format!("no {name}"));
    let set = |name: &str| -> Result<u64> { Ok(u64::from_str_radix(field(name)?, 16)?) };
    let ids = |name: &str| -> Result<Vec<u32>> {
        Ok(field(name)?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    };
    let (uid, gid) = match row.leaves_root {
        true => (nobody.uid.as_raw(), nobody.gid.as_raw()),
        false => (0, 0),
    };
    // Real, effective, saved and file system ids.
    ensure!(ids("Uid")? == [uid; 4], "Uid {}", field("Uid")?);
    ensure!(ids("Gid")? == [gid; 4], "Gid {}", field("Gid")?);
    if row.leaves_root {
        ensure!(ids("Groups")?.is_empty(), "Groups {}", field("Groups")?);
    }
    for name in ["CapEff", "CapPrm"] {
        ensure!(set(name)? == row.kept, "{name} {:x}, not {:x}", set(name)?, row.kept);
    }
    for name in ["CapInh", "CapAmb"] {
        ensure!(set(name)? == 0, "{name} {:x}", set(name)?);
    }
    // The watchdog's children and scripts regain by execve what they need; the roles execute nothing.
    if row.role == "main" {
        ensure!(field("NoNewPrivs")? == "0", "the watchdog could start no role");
        ensure!(set("CapBnd")? & (NET_ADMIN | BPF) != 0, "the watchdog's bounding set is empty");
    } else {
        ensure!(field("NoNewPrivs")? == "1", "NoNewPrivs {}", field("NoNewPrivs")?);
        ensure!(set("CapBnd")? == 0, "CapBnd {:x}", set("CapBnd")?);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_process_may_do_what_the_table_says_and_no_more() -> Result<()> {
    if !single::ready("proc_privileges")? {
        return Ok(());
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(hard > USUAL_DESCRIPTORS, "{hard} descriptors are all that there may be");
    setrlimit(Resource::RLIMIT_NOFILE, USUAL_DESCRIPTORS, hard)?;
    let single = Single::start(&config("0.2", "", "", &virtual_server(3306, "wlc", &[OTHER])))?;
    single.wait_master()?;
    // Each gives its rights away before it says so; a master waits for vrrp and the forwarder alone.
    single.wait_status("every role", |status| {
        status.processes.len() == ROLES.len() && status.processes.iter().all(|it| it.ready)
    })?;
    let roles = TABLE.iter().map(|row| row.role).filter(|role| *role != "main");
    ensure!(roles.clone().all(|role| ROLES.contains(&role)) && roles.count() == ROLES.len());
    let nobody = User::from_name("nobody")?.context("no user nobody")?;
    let pid_of = |role: &str| match role {
        "main" => single.host.pids().first().copied(),
        role => single.host.role_pid(role),
    };
    for row in &TABLE {
        wait_true(&format!("a {} process", row.role), single::LIMIT, || {
            pid_of(row.role).is_some()
        })?;
        let pid = pid_of(row.role).context("it has ended")?;
        // The watchdog's is that of the scripts, some of which use select(2).
        let soft = if row.role == "main" { USUAL_DESCRIPTORS } else { hard };
        ensure!(descriptors(pid)? == (soft, hard), "{}: {:?}", row.role, descriptors(pid)?);
        for status in threads(pid)? {
            let name = status.get("Name").cloned().unwrap_or_default();
            check(row, &status, &nobody)
                .with_context(|| format!("{} (pid {pid}, thread {name})", row.role))?;
        }
    }
    Ok(())
}
