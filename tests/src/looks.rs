//! How [`crate::sampler::Sampler`] sees each kind of balancer host.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use lb_common::maps;
use lb_userspace::dataplane::xdp::lease::Clock;
use nix::unistd::Pid;

use crate::{
    host::{Host, Program, daemon_pids},
    lab::VIP,
    netns::thread_has_address,
    process::alive,
    sampler::Look,
};

/// Slots of the lease map that a lab's configuration can use (slot 0 is always open; one
/// vrrp_instance needs one slot).
const SLOTS: std::ops::Range<u32> = 1..4;

/// One look for each host. Hosts that run lbd must have started: their pinned clock is opened.
///
/// # Errors
/// When no lbd host has pinned its maps.
pub fn of(hosts: &[Host]) -> Result<Vec<Look>> {
    of_vip(hosts, VIP.into())
}

/// As [`of`], for hosts that hold another VIP than the lab's.
///
/// # Errors
/// As [`of`].
pub fn of_vip(hosts: &[Host], vip: IpAddr) -> Result<Vec<Look>> {
    let clock = Arc::new(OnceLock::new());
    hosts
        .iter()
        .map(|host| {
            Ok(match host.program() {
                Program::Keepalived => by_address(host, vip),
                Program::Lbd => by_lease(host, Arc::clone(&clock))?,
            })
        })
        .collect()
}

/// lbd's data plane forwards, and lets the host answer for the VIP, while the lease runs: the
/// same comparison as the kernel program's, on the same clock.
fn by_lease(host: &Host, clock: Arc<OnceLock<Clock>>) -> Result<Look> {
    let pins = host.pin_dir();
    if clock.get().is_none() {
        let opened = Clock::open(&pins)
            .with_context(|| format!("cannot read the kernel's clock at {}", pins.display()))?;
        let _ = clock.set(opened); // another look was first: the same clock
    }
    let path = pins.join(maps::LEASE);
    let mut open: Option<(u64, Array<MapData, u64>)> = None;
    Ok(Box::new(move || {
        // A daemon that stopped in order takes its pins away; its successor pins new maps.
        let Ok(inode) = fs::metadata(&path).map(|meta| meta.ino()) else {
            open = None;
            return false;
        };
        if open.as_ref().is_none_or(|(known, _)| *known != inode) {
            open = lease_map(&path).ok().map(|map| (inode, map));
        }
        let (Some((_, map)), Some(clock)) = (&open, clock.get()) else { return false };
        let Ok(now) = clock.sample() else { return false };
        SLOTS.into_iter().any(|slot| map.get(&slot, 0).is_ok_and(|end| now.jiffies < end))
    }))
}

fn lease_map(path: &PathBuf) -> Result<Array<MapData, u64>> {
    let data = MapData::from_pin(Path::new(path))
        .with_context(|| format!("cannot open {}", path.display()))?;
    Array::try_from(Map::Array(data)).context("the lease map is no array of u64")
}

/// keepalived has no fence: it counts as forwarding while it lives and holds the address.
fn by_address(host: &Host, vip: IpAddr) -> Look {
    let (netns, program) = (host.netns().clone(), host.program());
    let mut known: Option<Pid> = None;
    Box::new(move || {
        if netns.enter_thread().is_err() || !thread_has_address(vip).unwrap_or(false) {
            return false;
        }
        if !known.is_some_and(alive) {
            known = daemon_pids(&netns, program).into_iter().find(|pid| alive(*pid));
        }
        known.is_some()
    })
}
