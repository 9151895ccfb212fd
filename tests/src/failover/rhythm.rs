//! How evenly a master advertises, idle and among busy loops, and whether its backup keeps calm.

use std::{
    fs,
    hint::black_box,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::{
    host::{Host, Program},
    netns::{Namespace, Switch},
    sys,
    vrrp::{Sniffer, is_vrrp},
};

/// Adverts before the measurement starts: the election is over then.
const SETTLED: usize = 50;
/// VRRP of the hosts: the source address' last byte tells them apart.
const MASTER: u8 = 1;

/// Spacing of the master's adverts.
#[derive(Clone, Debug, Serialize)]
pub struct Rhythm {
    pub program: &'static str,
    pub busy_loops: usize,
    pub seconds: f64,
    pub adverts: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Adverts of the backup: each would be a false takeover.
    pub takeovers: usize,
}

/// A pair at 10 ms is watched for `span`, with so many threads that spin beside it.
///
/// # Errors
/// When the pair cannot be made, or nobody advertises.
pub fn measure(program: Program, busy_loops: usize, span: Duration) -> Result<Rhythm> {
    let dir = tempfile::tempdir().context("cannot make a scratch directory")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let switch = Switch::new("lan")?;
    let mut hosts = Vec::new();
    for (role, last, priority) in [("a", MASTER, 150), ("b", 2, 100)] {
        let netns = Namespace::new(role)?;
        switch.plug(&netns, "eth0", Some(&format!("10.77.0.{last}/24")))?;
        let mut host = Host::new(&netns, program, dir.path())?;
        host.write_config(&format!(
            "global_defs {{\n    vrrp_version 3\n    vrrp_rt_priority 50\n}}
vrrp_instance VI_1 {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 0.01
    virtual_ipaddress {{
        10.77.0.100/24
    }}
}}
"
        ))?;
        host.start()?;
        hosts.push(host);
    }
    let watcher = Namespace::new("watcher")?;
    switch.plug(&watcher, "eth0", Some("10.77.0.9/24"))?;
    let sniffer = Sniffer::new(&watcher)?;
    let stop = Arc::<AtomicBool>::default();
    let (mut times, mut takeovers) = (Vec::new(), 0);
    let outcome = thread::scope(|scope| {
        for _ in 0..busy_loops {
            scope.spawn(|| {
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    number = black_box(number.wrapping_add(1));
                }
            });
        }
        let listener = scope.spawn(|| -> Result<()> {
            sys::realtime();
            // Until the master has the VIP to itself.
            let mut calm = 0;
            while calm < SETTLED {
                let frame = sniffer.next(Duration::from_secs(25), is_vrrp)?;
                calm = if frame[29] == MASTER { calm + 1 } else { 0 };
            }
            let begin = Instant::now();
            while begin.elapsed() < span {
                let frame = sniffer.next(Duration::from_secs(5), is_vrrp)?;
                if frame[29] == MASTER {
                    times.push(Instant::now());
                } else {
                    takeovers += 1;
                }
            }
            Ok(())
        });
        let outcome = listener.join();
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    match outcome {
        Ok(outcome) => outcome.with_context(|| hosts[0].log_tail(20))?,
        Err(_) => anyhow::bail!("the listener panicked"),
    }
    let mut gaps: Vec<f64> =
        times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect();
    ensure!(!gaps.is_empty(), "the master sent no adverts\n{}", hosts[0].log_tail(20));
    gaps.sort_by(f64::total_cmp);
    let at = |part: usize| gaps[(gaps.len() * part / 100).min(gaps.len() - 1)];
    Ok(Rhythm {
        program: program.name(),
        busy_loops,
        seconds: span.as_secs_f64(),
        adverts: times.len(),
        p50_ms: at(50),
        p99_ms: at(99),
        max_ms: at(100),
        takeovers,
    })
}
