//! From the start of a daemon to its first advert, when nobody else is there: its own way there beside
//! what the protocol has it wait.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    host::{Host, Program},
    netns::{Namespace, Switch},
    vrrp::{Sniffer, is_vrrp},
};

/// Advert interval in milliseconds and priority; the owner (255) waits for nothing.
pub const CASES: [(u32, u8); 3] = [(1000, 150), (100, 150), (1000, 255)];

/// How long starts took.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    pub program: &'static str,
    pub advert_ms: u32,
    pub priority: u8,
    /// Three intervals and the skew: what the protocol has it wait.
    pub timer_ms: f64,
    pub median_ms: f64,
    pub least_ms: f64,
    pub greatest_ms: f64,
}

/// Starts one host so many times.
///
/// # Errors
/// When it cannot be made, or does not advertise.
pub fn measure(program: Program, advert_ms: u32, priority: u8, rounds: u32) -> Result<Start> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        times.push(once(program, advert_ms, priority)?.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let skew = f64::from(advert_ms) * f64::from(256 - u16::from(priority)) / 256.0;
    let owner = priority == 255;
    Ok(Start {
        program: program.name(),
        advert_ms,
        priority,
        timer_ms: if owner { 0.0 } else { 3.0 * f64::from(advert_ms) + skew },
        median_ms: times.get(times.len() / 2).copied().context("no rounds")?,
        least_ms: times.first().copied().unwrap_or_default(),
        greatest_ms: times.last().copied().unwrap_or_default(),
    })
}

fn once(program: Program, advert_ms: u32, priority: u8) -> Result<Duration> {
    let dir = tempfile::tempdir().context("cannot make a scratch directory")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let switch = Switch::new("lan")?;
    let (netns, watcher) = (Namespace::new("a")?, Namespace::new("watcher")?);
    switch.plug(&netns, "eth0", Some("10.77.0.1/24"))?;
    switch.plug(&watcher, "eth0", Some("10.77.0.9/24"))?;
    let mut host = Host::new(&netns, program, dir.path())?;
    let seconds = f64::from(advert_ms) / 1e3;
    host.write_config(&format!(
        "global_defs {{\n    vrrp_version 3\n}}
vrrp_instance VI_1 {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {seconds}
    virtual_ipaddress {{
        10.77.0.100/24
    }}
}}
"
    ))?;
    let sniffer = Sniffer::new(&watcher)?;
    let begin = Instant::now();
    let first = thread::spawn(move || -> Result<Instant> {
        sniffer.next(Duration::from_secs(25), is_vrrp)?;
        Ok(Instant::now())
    });
    host.start()?;
    let first = first.join().map_err(|_| anyhow::anyhow!("the listener panicked"))?;
    let first = first.with_context(|| host.log_tail(20))?;
    host.stop()?;
    Ok(first - begin)
}

impl Start {
    /// As a person reads it.
    pub fn line(&self) -> String {
        format!(
            "start to first advert: {:<11} {:>4} ms, priority {}: {:.0} ({:.0}-{:.0}) ms, of which \
             the timer {:.0}",
            self.program,
            self.advert_ms,
            self.priority,
            self.median_ms,
            self.least_ms,
            self.greatest_ms,
            self.timer_ms
        )
    }
}
