//! How [`crate::sampler::Sampler`] sees each kind of balancer host.

use anyhow::Result;

use nix::unistd::Pid;

use crate::{
    host::{Host, daemon_pids},
    lab::VIP,
    netns::thread_has_address,
    process::alive,
    sampler::Look,
};

/// One look for each host.
///
/// # Errors
/// When a host cannot be looked at.
pub fn of(hosts: &[Host]) -> Result<Vec<Look>> {
    hosts.iter().map(|host| Ok(by_address(host))).collect()
}

/// keepalived has no fence: it counts as forwarding while it lives and holds the address.
fn by_address(host: &Host) -> Look {
    let (netns, program) = (host.netns().clone(), host.program());
    let mut known: Option<Pid> = None;
    Box::new(move || {
        if netns.enter_thread().is_err() || !thread_has_address(VIP).unwrap_or(false) {
            return false;
        }
        if !known.is_some_and(alive) {
            known = daemon_pids(&netns, program).into_iter().find(|pid| alive(*pid));
        }
        known.is_some()
    })
}
