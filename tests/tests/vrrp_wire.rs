//! The vrrp role on a real cable: what leaves equals keepalived's golden frames, byte for byte,
//! VIPs come and go in order, and a pair of roles hands over.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::{
    netns::{Namespace, ready_or_skip},
    vrrp::{RoleThread, Sniffer, VIP, cable, instance, is_garp, is_vrrp},
    wait::wait_true,
};
use lb_userspace::{
    config::model::{Authentication, VrrpInstance, VrrpVersion},
    process::ipc::{Down, Up},
};

/// How long a busy machine may take for anything that is not timed.
const LIMIT: Duration = Duration::from_secs(20);

macro_rules! golden {
    ($name:literal) => {
        hex(include_str!(concat!("../../lb-userspace/src/vrrp/vectors/", $name, ".hex")))
    };
}

fn hex(text: &str) -> Vec<u8> {
    let text = text.trim();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

fn first_advert_and_farewell(
    instance: VrrpInstance,
    advert: &[u8],
    farewell: Option<&[u8]>,
    garp: bool,
) -> Result<()> {
    // A machine that does not run the role for a moment delays its farewell, but not each time.
    for turns in 1.. {
        let took = one_life(instance.clone(), advert, farewell, garp)?;
        println!("farewell seen {took:?} after Stop");
        if took < Duration::from_millis(500) {
            break;
        }
        ensure!(turns < 5, "the farewell waited {took:?}");
    }
    Ok(())
}

/// The time from its stop to its farewell.
fn one_life(
    instance: VrrpInstance,
    advert: &[u8],
    farewell: Option<&[u8]>,
    garp: bool,
) -> Result<Duration> {
    let (lb, peer) = cable()?;
    let sniffer = Sniffer::new(&peer)?;
    let unicast = !instance.unicast_peers.is_empty();
    let role = RoleThread::start(&lb, instance)?;
    role.converge()?;
    let got = sniffer.next(LIMIT, is_vrrp)?;
    ensure!(got == advert, "first advert\n got {got:02x?}\nwant {advert:02x?}");
    // Adverts between the first one and the farewell: a slow test lets more than one pass.
    let between = Cell::new(0);
    let is_farewell = |frame: &[u8]| {
        let farewell = is_vrrp(frame) && frame[36] == 0;
        between.set(between.get() + u8::from(is_vrrp(frame) && !farewell));
        farewell
    };
    let is_garp = |frame: &[u8]| !is_farewell(frame) && is_garp(frame);
    let first = sniffer.next(LIMIT, is_garp)?;
    if garp {
        ensure!(first == golden!("garp"), "gratuitous ARP {first:02x?}");
        for _ in 1..5 {
            sniffer.next(LIMIT, is_garp)?;
        }
    }
    let addresses = lb.ip(&["address", "show", "dev", "eth0"])?;
    ensure!(addresses.contains("inet 10.77.0.100/32 scope global eth0:vip"), "{addresses}");
    let stopping = Instant::now();
    role.say(Down::Stop)?;
    let last = sniffer.next(LIMIT, is_farewell)?;
    let took = stopping.elapsed();
    if let Some(farewell) = farewell {
        // keepalived sends the first advert once, we twice: the identification is one more, and
        // the header checksum one less.
        let mut farewell = farewell.to_vec();
        farewell[19] += between.get();
        farewell[25] -= between.get();
        ensure!(last == farewell, "farewell\n got {last:02x?}\nwant {farewell:02x?}");
    }
    let said = role.finish()?;
    ensure!(matches!(said.last(), Some(Up::Stopped)), "{said:?}");
    ensure!(!lb.has_address(VIP)?, "the VIP is left behind");
    ensure!(!unicast || got[..6] == [2, 0, 0, 0x77, 0, 2]);
    Ok(took)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn v2_bytes_equal_keepaliveds() -> Result<()> {
    if !ready_or_skip("vrrp_wire")? {
        return Ok(());
    }
    first_advert_and_farewell(instance(150, &[100]), &golden!("v2-none"), None, true)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn v2_pass_bytes_equal_keepaliveds() -> Result<()> {
    if !ready_or_skip("vrrp_wire")? {
        return Ok(());
    }
    let pass = VrrpInstance {
        authentication: Authentication::Pass(*b"s3cret\0\0"),
        ..instance(150, &[102, 100, 101])
    };
    let (advert, farewell) = (golden!("v2-pass"), golden!("v2-pass-prio0"));
    first_advert_and_farewell(pass, &advert, Some(&farewell), false)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn v3_bytes_equal_keepaliveds() -> Result<()> {
    if !ready_or_skip("vrrp_wire")? {
        return Ok(());
    }
    let v3 = VrrpInstance { version: VrrpVersion::V3, ..instance(150, &[100]) };
    let (advert, farewell) = (golden!("v3-ipv4"), golden!("v3-ipv4-prio0"));
    first_advert_and_farewell(v3.clone(), &advert, Some(&farewell), true)?;
    let unicast = VrrpInstance { unicast_peers: vec![[10, 77, 0, 2].into()], ..v3 };
    first_advert_and_farewell(unicast, &golden!("v3-ipv4-unicast"), None, true)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn leftovers_go_before_the_first_advert_and_a_stolen_vip_comes_back() -> Result<()> {
    if !ready_or_skip("vrrp_wire")? {
        return Ok(());
    }
    let (lb, peer) = cable()?;
    lb.ip(&["address", "add", "10.77.0.100/32", "dev", "eth0"])?;
    let sniffer = Sniffer::new(&peer)?;
    // The leftover is seen to go before the takeover, even if this test is stopped meanwhile.
    let slow = VrrpInstance { advert_int: Duration::from_secs(2), ..instance(150, &[100]) };
    let role = RoleThread::start(&lb, slow)?;
    ensure!(
        sniffer.next(Duration::from_millis(1500), is_vrrp).is_err(),
        "an advert before the data plane has converged",
    );
    role.converge()?;
    wait_true("the leftover to go", LIMIT, || lb.has_address(VIP).is_ok_and(|has| !has))?;
    sniffer.next(LIMIT, is_vrrp)?;
    let has = || lb.has_address(VIP).unwrap_or(false);
    wait_true("the VIP", LIMIT, has)?;
    lb.ip(&["address", "del", "10.77.0.100/32", "dev", "eth0"])?;
    wait_true("the stolen VIP to be put back", LIMIT, has)?;
    lb.ip(&["link", "set", "eth0", "down"])?;
    wait_true("FAULT to take the VIP off", LIMIT, || !has())?;
    // The watchdog dies: nothing is left behind.
    role.finish()?;
    ensure!(!has());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pair_hands_over_within_the_skew_and_takes_back() -> Result<()> {
    if !ready_or_skip("vrrp_wire")? {
        return Ok(());
    }
    let (one, two) = cable()?;
    // Two seconds, so that a skew and a silence are far apart whatever the machine does.
    let slow = |priority| VrrpInstance {
        version: VrrpVersion::V3,
        advert_int: Duration::from_secs(2),
        ..instance(priority, &[100])
    };
    let limit = Duration::from_secs(30);
    let has = |netns: &Namespace| netns.has_address(VIP).unwrap_or(false);
    let first = RoleThread::start(&one, slow(150))?;
    let second = RoleThread::start(&two, slow(100))?;
    first.converge()?;
    second.converge()?;
    wait_true("the better one", limit, || has(&one) && !has(&two))?;
    let stopping = Instant::now();
    first.say(Down::Stop)?;
    wait_true("the hand-over", limit, || has(&two) && !has(&one))?;
    let took = stopping.elapsed();
    println!("handed over in {took:?} (skew 1219 ms)");
    // Without the farewell it would take at least 5219 ms: master-down less one interval.
    ensure!(took < Duration::from_millis(4500), "the farewell was not followed: {took:?}");
    first.finish()?;
    let first = RoleThread::start(&one, slow(150))?;
    first.converge()?;
    wait_true("preemption", limit, || has(&one) && !has(&two))?;
    second.finish()?;
    first.finish()?;
    ensure!(!has(&one) && !has(&two));
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_absent_interface_is_named() -> Result<()> {
    if !ready_or_skip("vrrp_wire")? {
        return Ok(());
    }
    let (lb, _peer) = cable()?;
    let absent = VrrpInstance { interface: "eth9".into(), ..instance(150, &[100]) };
    let mut role = RoleThread::start(&lb, absent)?;
    let said = role.up.blocking_recv();
    let want = "vrrp_instance VI_1: interface eth9 does not exist";
    ensure!(matches!(&said, Some(Up::Fatal { message }) if message == want), "{said:?}");
    ensure!(role.thread.join().is_ok_and(|result| result.is_err()));
    Ok(())
}
