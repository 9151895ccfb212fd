//! The vrrp role on a real cable: what leaves equals keepalived's golden frames, byte for byte,
//! VIPs come and go in order, and a pair of roles hands over.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::{Namespace, ready_or_skip},
    vrrp::{RoleThread, Sniffer, VIP, cable, dual_cable, instance, is_garp, is_vrrp, is_vrrp6},
    wait::wait_true,
};
use lb_userspace::{
    base::status::{InstanceStatus, VrrpState},
    config::{
        load,
        model::{Authentication, Config, VrrpInstance, VrrpVersion},
    },
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

/// One instance with these words, adverts each second: a machine that does not run the better one for a moment makes
/// no master of the other.
fn in_words(priority: u8, words: &str) -> Result<Config> {
    let text = format!(
        "vrrp_instance VI_1 {{\n interface eth0\n virtual_router_id 51\n priority {priority}\n \
         advert_int 1\n{words}\n}}\n"
    );
    let outcome = load("test", &text);
    let told = outcome.render();
    outcome.config.context(told)
}

/// An advert of the other end of a cable.
fn theirs(frame: &[u8]) -> bool {
    (is_vrrp(frame) || is_vrrp6(frame)) && frame[6..12] == [2, 0, 0, 0x77, 0, 1]
}

/// The backup of a pair, once it has heard three adverts of the master whose priority is 150.
fn hears(first: Config, second: Config) -> Result<(InstanceStatus, Vec<Vec<u8>>)> {
    let (one, two) = dual_cable()?;
    for (netns, address) in [(&one, "fd77::1/64"), (&two, "fd77::2/64")] {
        netns.ip(&["address", "add", address, "dev", "eth0", "nodad"])?;
    }
    let sniffer = Sniffer::new(&two)?;
    let master = RoleThread::start_with(&one, first)?;
    let mut backup = RoleThread::start_with(&two, second)?;
    master.converge()?;
    let frames = [sniffer.next(LIMIT, theirs)?, sniffer.next(LIMIT, theirs)?];
    backup.converge()?;
    wait_true("the adverts to arrive", LIMIT, || {
        backup.status().is_ok_and(|it| {
            it.counters.advert_rcvd + it.counters.discarded.values().sum::<u64>() >= 3
        })
    })?;
    let status = backup.status()?;
    backup.finish()?;
    master.finish()?;
    Ok((status, frames.into()))
}

fn is_heard(status: &InstanceStatus) -> Result<()> {
    ensure!(status.counters.discarded.is_empty(), "{status:?}");
    ensure!(status.state == VrrpState::Backup && status.master_priority == Some(150), "{status:?}");
    Ok(())
}

// TRAP-12: no keepalived that is installed here writes these bytes, so their length is compared with that of the same advert without them.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_signed_advert_has_its_trailer_and_is_heard_by_who_has_the_key() -> Result<()> {
    if !ready_or_skip("vrrp_wire")? {
        return Ok(());
    }
    const TRAILER: usize = 28;
    let v4 = "virtual_ipaddress {\n 10.77.0.100\n}";
    let v6 = "virtual_ipaddress {\n fe80::5e:33\n fd77::100\n}";
    let sign = |key: &str| format!("auth_hmac {{\n key 1 {key}\n}}\n");
    let key = "0123456789abcdef0123456789abcdef";
    for (words, plain) in [
        (format!("version 2\n{v4}"), 14 + 20 + 8 + 4 + 8),
        (format!("version 3\n{v4}"), 14 + 20 + 8 + 4),
        (format!("version 3\n{v6}"), 14 + 40 + 8 + 2 * 16),
    ] {
        let of = |priority: u8, more: &str| in_words(priority, &format!("{words}\n{more}"));
        let (status, frames) = hears(of(150, "")?, of(100, "")?)?;
        is_heard(&status)?;
        ensure!(frames.iter().all(|it| it.len() == plain), "{words}: {frames:02x?}");
        let (status, frames) = hears(of(150, &sign(key))?, of(100, &sign(key))?)?;
        is_heard(&status)?;
        ensure!(frames.iter().all(|it| it.len() == plain + TRAILER), "{words}: {frames:02x?}");
        let trailer = |at: usize| &frames[at][plain..];
        ensure!(trailer(0) != trailer(1), "{words}: one signature for two: {frames:02x?}");
        let (status, _) = hears(of(150, &sign(key))?, of(100, &sign(&key.replace('0', "9")))?)?;
        ensure!(
            status.counters.advert_rcvd == 0
                && status.counters.discarded.keys().eq(["hmac_invalid"]),
            "{words}: {status:?}"
        );
    }
    Ok(())
}

// UNI-02: adverts to another group, and hop limits of unicast.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn groups_and_hop_limits_over_ipv6_are_those_of_the_file() -> Result<()> {
    if !ready_or_skip("vrrp_wire")? {
        return Ok(());
    }
    let vips = "version 3\nvirtual_ipaddress {\n fe80::5e:33\n fd77::100\n}\n";
    let of = |priority: u8, words: &str| in_words(priority, &format!("{vips}{words}"));
    let group = "mcast_dst_ip ff02::7:12";
    let (status, frames) = hears(of(150, group)?, of(100, group)?)?;
    is_heard(&status)?;
    for frame in &frames {
        ensure!(frame[..6] == [0x33, 0x33, 0, 7, 0, 0x12], "to {:02x?}", &frame[..6]);
        let wanted: std::net::Ipv6Addr = "ff02::7:12".parse()?;
        ensure!(frame[38..54] == wanted.octets() && frame[21] == 255, "{frame:02x?}");
    }
    let peer = |own: u8, other: u8, words: &str| {
        format!("unicast_src_ip fd77::{own}\nunicast_peer {{\n fd77::{other} {words}\n}}\n")
    };
    for (ttl, is_good) in [(9, true), (8, false)] {
        let first = of(150, &format!("unicast_ttl {ttl}\n{}", peer(1, 2, "")))?;
        let second = of(100, &peer(2, 1, "min_ttl 9 max_ttl 9"))?;
        let (status, frames) = hears(first, second)?;
        for frame in &frames {
            ensure!(frame[21] == ttl, "hop limit {}", frame[21]);
            ensure!(frame[..6] == [2, 0, 0, 0x77, 0, 2] && frame[38] == 0xfd, "{frame:02x?}");
        }
        match is_good {
            true => is_heard(&status)?,
            false => ensure!(status.counters.discarded.keys().eq(["peer_ttl"]), "{status:?}"),
        }
    }
    Ok(())
}
