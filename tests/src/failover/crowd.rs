//! 255 vrrp_instances on one host: start, CPU and memory.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::Serialize;

use crate::{
    host::{Host, Program, ROLES},
    netns::{Namespace, Switch},
    wait::wait_until,
};

/// As many as an interface can have.
const INSTANCES: u8 = 255;
/// CPU time is summed over so long.
const WINDOW: Duration = Duration::from_secs(10);

/// What a crowd of instances costs.
#[derive(Clone, Debug, Serialize)]
pub struct Crowd {
    pub program: &'static str,
    /// From exec to the last VIP on the interface, as owner (priority 255).
    pub all_up_ms: f64,
    /// CPU of all its processes in steady state, per cent of a core.
    pub cpu_percent: f64,
    pub processes: usize,
    /// Sum over its processes, shared pages counted in each (VmRSS).
    pub rss_mb: f64,
    /// Sum over its processes, shared pages divided among their users (Pss).
    pub pss_mb: f64,
    /// The same of each process.
    pub memory: Vec<Memory>,
}

/// Memory of one process, in KiB (proc_pid_smaps(5)).
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Its role, `main` for the first.
    pub name: String,
    pub rss: u64,
    pub pss: u64,
    /// Of Pss, what is no file: heap, stacks, what was written of the program's data.
    pub pss_anonymous: u64,
    /// Written, and nobody else's.
    pub private_dirty: u64,
}

impl Memory {
    fn of(pid: Pid, name: String) -> Result<Self> {
        let file = format!("/proc/{pid}/smaps_rollup");
        let field = |name: &str| kilobytes(&file, name);
        Ok(Self {
            name,
            rss: kilobytes(&format!("/proc/{pid}/status"), "VmRSS:")?,
            pss: field("Pss:")?,
            pss_anonymous: field("Pss_Anon:")?,
            private_dirty: field("Private_Dirty:")?,
        })
    }

    /// As a person reads it.
    pub fn line(&self) -> String {
        format!(
            "{:<10} RSS {:>6} KiB, PSS {:>6} (no file {:>6}), private and written {:>6}",
            self.name, self.rss, self.pss, self.pss_anonymous, self.private_dirty
        )
    }
}

/// Starts one host with 255 instances at one advert a second and watches it.
///
/// # Errors
/// When it cannot be made or not all VIPs appear.
pub fn measure(program: Program) -> Result<Crowd> {
    let dir = tempfile::tempdir().context("cannot make a scratch directory")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let switch = Switch::new("lan")?;
    let netns = Namespace::new("a")?;
    switch.plug(&netns, "eth0", Some("10.77.0.1/16"))?;
    let mut host = Host::new(&netns, program, dir.path())?;
    let mut config = String::new();
    for vrid in 1..=INSTANCES {
        config += &format!(
            "vrrp_instance VI_{vrid} {{
    state BACKUP
    interface eth0
    virtual_router_id {vrid}
    priority 255
    advert_int 1
    virtual_ipaddress {{
        10.77.{vrid}.100/16
    }}
}}
"
        );
    }
    host.write_config(&config)?;
    let wanted: BTreeSet<_> =
        (1..=INSTANCES).map(|vrid| Ipv4Addr::new(10, 77, vrid, 100)).collect();
    let begin = Instant::now();
    host.start()?;
    wait_until(
        "all VIPs",
        Duration::from_secs(60),
        || {
            let there = netns.enter(|| nix::ifaddrs::getifaddrs().map(Vec::from_iter))??;
            let there: BTreeSet<_> = there
                .iter()
                .filter_map(|entry| entry.address.as_ref()?.as_sockaddr_in().map(|v4| v4.ip()))
                .collect();
            Ok(wanted.is_subset(&there).then_some(()))
        },
        || host.log_tail(15),
    )?;
    let all_up_ms = begin.elapsed().as_secs_f64() * 1e3;
    // The second batch of gratuitous ARP comes five seconds after a takeover.
    thread::sleep(Duration::from_secs(7));
    let pids = host.pids();
    let before = cpu(&pids)?;
    let from = Instant::now();
    thread::sleep(WINDOW);
    let used = cpu(&pids)? - before;
    let seconds = from.elapsed().as_secs_f64();
    let name = |pid: &Pid| {
        let role = ROLES.into_iter().find(|role| host.role_pid(role) == Some(*pid));
        role.unwrap_or(if pids.first() == Some(pid) { "main" } else { "child" }).to_owned()
    };
    let memory: Vec<Memory> =
        pids.iter().map(|pid| Memory::of(*pid, name(pid))).collect::<Result<_>>()?;
    let rss: u64 = memory.iter().map(|it| it.rss).sum();
    let pss: u64 = memory.iter().map(|it| it.pss).sum();
    Ok(Crowd {
        program: program.name(),
        all_up_ms,
        cpu_percent: used / seconds * 100.0,
        processes: pids.len(),
        rss_mb: rss as f64 / 1024.0,
        pss_mb: pss as f64 / 1024.0,
        memory,
    })
}

/// User and system time of processes, seconds (proc(5), stat fields 14 and 15).
fn cpu(pids: &[Pid]) -> Result<f64> {
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
    let mut sum = 0.0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = text.rsplit_once(") ").context("stat has no name")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        for field in [11, 12] {
            sum += fields.get(field).context("stat is short")?.parse::<f64>()? / ticks;
        }
    }
    Ok(sum)
}

fn kilobytes(file: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let line = line.with_context(|| format!("{file} has no {field}"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
