//! A master whose lease cannot be written is none: on a real map that takes no writes any more, or is gone.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::{
    lease_map::LeaseMap,
    netns::{Namespace, ready_or_skip},
    vrrp::{RoleThread, Sniffer, cable, fast, is_vrrp, one},
    wait::{wait_true, wait_until},
};
use lb_userspace::base::{status::VrrpState, table::LeaseSlot};

const LIMIT: Duration = Duration::from_secs(20);
const SLOT: LeaseSlot = LeaseSlot(1);
/// Three intervals of 200 ms.
const THREE: Duration = Duration::from_millis(600);

fn has(netns: &Namespace) -> bool {
    netns.has_address([10, 77, 0, 100]).unwrap_or(false)
}

/// It is in FAULT, and says this of it.
fn faulty(role: &mut RoleThread, words: &str) -> Result<()> {
    let mut last = None;
    wait_until(
        "FAULT",
        LIMIT,
        || {
            last = role.status().ok();
            let fits = last.as_ref().is_some_and(|it| {
                let said = it.reason.starts_with("fault: the lease cannot be written: ");
                it.state == VrrpState::Fault && said && it.reason.contains(words)
            });
            Ok(fits.then_some(()))
        },
        String::new,
    )
    .map_err(|error| error.context(format!("{last:?}")))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_master_whose_lease_cannot_be_written_leaves_the_vips_to_its_peer() -> Result<()> {
    if !ready_or_skip("vrrp_lease")? {
        return Ok(());
    }
    let (lb, peer) = cable()?;
    let mut map = LeaseMap::new("lease")?;
    let mut role = RoleThread::start_at(&lb, one(fast(150, &[100])), map.folder())?;
    let other = RoleThread::start(&peer, fast(100, &[100]))?;
    role.converge_fenced(&[("VI_1", SLOT)])?;
    other.converge()?;
    wait_true("the better one", LIMIT, || has(&lb) && !has(&peer))?;
    let lease = map.word(SLOT)?;
    wait_true("the lease to be renewed", LIMIT, || map.word(SLOT).is_ok_and(|it| it > lease))?;

    let own = |frame: &[u8]| is_vrrp(frame) && frame[11] == 1;
    let of_the_peer = |frame: &[u8]| is_vrrp(frame) && frame[11] == 2;
    for (round, words) in [(1, "write lease slot 1"), (2, "ask for the pinned map")] {
        let sniffer = Sniffer::new(&peer)?;
        if round == 1 {
            map.freeze()?;
        } else {
            // Of a forwarder that started anew: what would be written now, no program reads.
            map.unpin()?;
            role.converge_fenced(&[("VI_1", SLOT)])?;
        }
        let (farewell, _) = sniffer.next_sent(LIMIT, |frame| own(frame) && frame[36] == 0)?;
        let (heir, _) = sniffer.next_sent(LIMIT, of_the_peer)?;
        let took = heir.saturating_sub(farewell);
        println!("the peer advertises {took:?} after the farewell");
        // Its skew is 122 ms; without the farewell it waits for three intervals more.
        ensure!(took < THREE, "the peer took {took:?}");
        faulty(&mut role, words)?;
        wait_true("the VIP to move", LIMIT, || !has(&lb) && has(&peer))?;
        // It is tried again meanwhile, and says nothing.
        let early = sniffer.next(Duration::from_millis(2500), own);
        ensure!(early.is_err(), "a farewell is the last word: {early:02x?}");
        let counters = role.status()?.counters;
        ensure!((counters.lease_faults, counters.pri_zero_sent) == (round, round), "{counters:?}");

        // Nobody tells it.
        map.replace()?;
        wait_true("the better one again", LIMIT, || {
            let master = role.status().is_ok_and(|it| it.state == VrrpState::Master);
            master && has(&lb) && !has(&peer)
        })?;
        let lease = map.word(SLOT)?;
        wait_true("the lease of the other map", LIMIT, || {
            map.word(SLOT).is_ok_and(|it| it > lease)
        })?;
    }
    role.finish()?;
    other.finish()?;
    ensure!(!has(&lb) && !has(&peer));
    Ok(())
}
