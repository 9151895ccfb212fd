//! Gratuitous ARP of lbd, beside real keepalived's.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    interop::{
        FIRST_ELECTION, HIGH,
        form::{Cast, Family, Form, Member, Protocol},
    },
    lab::VIP,
    mariadb,
    netns::{Namespace, Switch, ready_or_skip},
    vrrp::{Sniffer, is_garp},
};

/// When each gratuitous ARP for the VIP is seen on the LAN of one fresh master, until ten were
/// seen and a second without another has passed.
fn gratuitous_arps(program: Program, delay: Option<u64>) -> Result<Vec<Instant>> {
    let dir = mariadb::workspace("garp")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let switch = Switch::new("lan")?;
    let (lb, other) = (Namespace::new("lb")?, Namespace::new("other")?);
    switch.plug(&lb, "eth0", Some("10.77.0.10/24"))?;
    switch.plug(&other, "eth0", Some("10.77.0.20/24"))?;
    let mut host = Host::new(&lb, program, dir.path())?;
    let form = Form { protocol: Protocol::V3, family: Family::V4, cast: Cast::Multi };
    let mut member = Member::new(form, HIGH, dir.path());
    member.words = delay.map_or(String::new(), |s| format!("    garp_master_delay {s}\n"));
    host.write_config(&member.config())?;
    let sniffer = Sniffer::new(&other)?;
    host.start()?;
    let mut seen = Vec::new();
    let ours = |frame: &[u8]| is_garp(frame) && frame[28..32] == VIP.octets();
    while seen.len() < 10 {
        let limit = if seen.is_empty() { FIRST_ELECTION } else { Duration::from_secs(8) };
        sniffer.next(limit, ours).with_context(|| {
            format!("number {} by {program:?}\n{}", seen.len() + 1, host.log_tail(20))
        })?;
        seen.push(Instant::now());
    }
    if sniffer.next(Duration::from_secs(1), ours).is_ok() {
        seen.push(Instant::now());
    }
    host.stop()?;
    Ok(seen)
}

/// Five at once, and five again after `garp_master_delay` (5 s by default), as keepalived's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn gratuitous_arp_comes_in_two_batches() -> Result<()> {
    if !ready_or_skip("interop_keepalived")? {
        return Ok(());
    }
    let programs = [Program::Lbd, Program::Keepalived];
    for program in programs {
        host::available(program).map_err(|why| anyhow::anyhow!(why))?;
    }
    let cases = programs.map(|program| [(program, Some(1)), (program, None)]);
    let results: Vec<_> = thread::scope(|scope| {
        let case = |&(program, delay)| scope.spawn(move || gratuitous_arps(program, delay));
        let threads: Vec<_> = cases.iter().flatten().map(case).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for ((program, delay), result) in cases.into_iter().flatten().zip(results) {
        let seen = result.map_err(|_| anyhow::anyhow!("{program:?}: panicked"))??;
        let times: Vec<_> = seen.iter().map(|at| at.duration_since(seen[0])).collect();
        let wanted = Duration::from_secs(delay.unwrap_or(5));
        ensure!(times.len() == 10, "{program:?} {delay:?}: more than ten: {times:?}");
        ensure!(times[4] < Duration::from_millis(400), "{program:?} {delay:?}: {times:?}");
        // A little early is how the sniffer was late for the first one.
        let second = wanted - Duration::from_millis(600)..wanted + Duration::from_millis(1000);
        let fits = second.contains(&times[5]) && second.contains(&times[9]);
        ensure!(fits, "{program:?} {delay:?}: {times:?}");
    }
    Ok(())
}
