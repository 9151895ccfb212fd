//! Items of tests/conformance that only real interfaces show: where adverts leave and from which
//! address, what belongs to one virtual router, a backup that is deaf for the VIP, a process that
//! was stopped.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::{Namespace, arping, ready_or_skip},
    single::{self, Single},
    vrrp::{RoleThread, Sniffer, VIP, advert_frame, cable, dual_cable, is_garp, is_vrrp},
    wait::wait_true,
};
use lb_userspace::{
    base::status::VrrpState,
    config::{load, model::Config},
    io::link::ArpSocket,
};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(10);

/// One vrrp_instance in the words of the file.
fn text(name: &str, interface: &str, interval: &str, words: &str) -> String {
    format!(
        "vrrp_instance {name} {{\n interface {interface}\n virtual_router_id 51\n priority 100\n \
         version 3\n advert_int {interval}\n{words}\n}}\n"
    )
}

fn config(text: &str) -> Result<Config> {
    let outcome = load("test", text);
    let told = outcome.render();
    outcome.config.with_context(|| told)
}

/// An advert over IPv6.
fn is_vrrp6(frame: &[u8]) -> bool {
    frame.len() > 62 && frame[12..14] == [0x86, 0xdd] && frame[20] == 112
}

/// A further interface of `lb` on a cable of its own; the host at its other end.
fn second_cable(lb: &Namespace) -> Result<Namespace> {
    let far = Namespace::new("far")?;
    let end = ["type", "veth", "peer", "name", "eth1", "netns", far.name()];
    lb.ip(&[&["link", "add", "eth1"][..], &end].concat())?;
    for (netns, address) in [(lb, "10.78.0.1/24"), (&far, "10.78.0.2/24")] {
        netns.sysctl("net/ipv6/conf/eth1/disable_ipv6", "1")?;
        netns.ip(&["address", "add", address, "dev", "eth1"])?;
        netns.ip(&["link", "set", "eth1", "up"])?;
    }
    wait_true("the second cable", LIMIT, || {
        lb.ip(&["link", "show", "eth1"]).is_ok_and(|text| text.contains("state UP"))
    })?;
    Ok(far)
}

fn states(role: &mut RoleThread) -> Vec<VrrpState> {
    role.statuses().unwrap_or_default().iter().map(|it| it.state).collect()
}

macro_rules! root_test {
    ($name:ident, $body:expr) => {
        #[test]
        #[ignore = "needs root: cargo xtask test"]
        fn $name() -> Result<()> {
            if !ready_or_skip("vrrp_conformance")? {
                return Ok(());
            }
            $body
        }
    };
}

// PKT-02 RX-05 PKT-15
root_test!(one_vrid_is_a_router_of_its_own_on_each_interface_and_in_each_family, {
    let (lb, peer) = dual_cable()?;
    let far = second_cable(&lb)?;
    let instances = [
        text("A", "eth0", "0.1", "virtual_ipaddress {\n 10.77.0.100\n}"),
        text("B", "eth0", "0.1", "virtual_ipaddress {\n fe80::5e:33\n}"),
        text("C", "eth1", "0.1", "virtual_ipaddress {\n 10.78.0.100\n}"),
    ];
    let near = Sniffer::new(&peer)?;
    let beyond = Sniffer::new(&far)?;
    let mut role = RoleThread::start_with(&lb, config(&instances.concat())?)?;
    role.converge()?;
    use VrrpState::{Backup, Master};
    wait_true("three masters", LIMIT, || states(&mut role) == [Master; 3])?;
    let v4 = near.next(LIMIT, is_vrrp)?;
    let v6 = near.next(LIMIT, is_vrrp6)?;
    ensure!((v4[35], v6[55]) == (51, 51), "{v4:02x?} {v6:02x?}");
    let other = beyond.next(LIMIT, is_vrrp)?;
    ensure!(other[26..30] == [10, 78, 0, 1], "eth1 has its own router: {other:02x?}");
    // A better router of one of them is a better router of that one alone.
    let out = peer.enter(|| ArpSocket::open("eth0"))??;
    let better = advert_frame(Ipv4Addr::new(10, 77, 0, 2), VIP, 200, 100);
    wait_true("A to yield", LIMIT, || {
        out.send(&better).is_ok() && states(&mut role)[..1] == [Backup]
    })?;
    ensure!(states(&mut role) == [Backup, Master, Master]);
    role.finish()?;
    Ok(())
});

// PKT-13 PKT-15
root_test!(adverts_leave_by_one_interface_from_its_primary_address, {
    let (lb, peer) = cable()?;
    let far = second_cable(&lb)?;
    // A secondary one of the same network, and the VIP itself in that network.
    lb.ip(&["address", "add", "10.77.0.5/24", "dev", "eth0"])?;
    let words = "virtual_ipaddress {\n 10.77.0.100/24\n 10.77.0.3/24\n}";
    let near = Sniffer::new(&peer)?;
    let beyond = Sniffer::new(&far)?;
    let mut role = RoleThread::start_with(&lb, config(&text("A", "eth0", "0.1", words))?)?;
    role.converge()?;
    wait_true("the VIPs", LIMIT, || role.status().is_ok_and(|it| it.vips_set))?;
    for _ in 0..10 {
        let frame = near.next(LIMIT, is_vrrp)?;
        ensure!(frame[26..30] == [10, 77, 0, 1], "source {:?}", &frame[26..30]);
        ensure!(frame[22] == 255 && frame[30..34] == [224, 0, 0, 18], "{frame:02x?}");
    }
    let ours = |frame: &[u8]| is_vrrp(frame) || is_garp(frame);
    ensure!(beyond.next(Duration::from_millis(300), ours).is_err(), "eth1 heard of it");
    role.finish()?;
    Ok(())
});

// PKT-13
root_test!(without_a_link_local_address_nothing_is_sent_until_there_is_one, {
    let (lb, peer) = dual_cable()?;
    lb.ip(&["-6", "address", "flush", "dev", "eth0"])?;
    let words = "virtual_ipaddress {\n fd77::100\n}";
    let sniffer = Sniffer::new(&peer)?;
    let mut role = RoleThread::start_with(&lb, config(&text("A", "eth0", "0.1", words))?)?;
    role.converge()?;
    wait_true("FAULT", LIMIT, || states(&mut role) == [VrrpState::Fault])?;
    let reason = role.status()?.reason;
    ensure!(reason.contains("no IPv6 address to send from"), "{reason}");
    lb.ip(&["address", "add", "fd77::1/64", "dev", "eth0", "nodad"])?;
    ensure!(
        sniffer.next(Duration::from_millis(700), is_vrrp6).is_err(),
        "a global one will not do"
    );
    lb.ip(&["address", "add", "fe80::77/64", "dev", "eth0", "nodad"])?;
    let frame = sniffer.next(LIMIT, is_vrrp6)?;
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77];
    ensure!(frame[22..38] == link_local, "{frame:02x?}");
    role.finish()?;
    Ok(())
});

// NBR-03
root_test!(a_backup_is_deaf_for_the_vip_and_for_the_virtual_mac, {
    let (lb, peer) = dual_cable()?;
    for (netns, address) in [(&lb, "fd77::1/64"), (&peer, "fd77::2/64")] {
        netns.ip(&["address", "add", address, "dev", "eth0", "nodad"])?;
    }
    let words = "use_vmac\n virtual_ipaddress {\n 10.77.0.100\n}\n\
                 virtual_ipaddress_excluded {\n fd77::100\n}";
    // Backup for 120 s and more: nobody else is there.
    let slow = config(&text("A", "eth0", "40", words))?;
    let mut role = RoleThread::start_with(&lb, slow)?;
    role.converge()?;
    wait_true("BACKUP", LIMIT, || states(&mut role) == [VrrpState::Backup])?;
    let ping = |target: &str| peer.run("ping", &["-c", "1", "-W", "1", target]).is_ok();
    ensure!(ping("10.77.0.1") && ping("fd77::1"), "the host itself is there");
    ensure!(arping(&peer, "eth0", VIP)?.is_empty(), "it answers ARP for the VIP");
    ensure!(!ping("fd77::100"), "it answers for the IPv6 VIP");
    let neighbour = peer.ip(&["-6", "neigh", "show", "fd77::100"])?;
    ensure!(!neighbour.contains("lladdr"), "it answers NS for the VIP: {neighbour}");
    for mac in ["00:00:5e:00:01:33", "02:00:00:77:00:01"] {
        peer.ip(&["neigh", "replace", "10.77.0.100", "lladdr", mac, "dev", "eth0"])?;
        ensure!(!ping("10.77.0.100"), "packets for the VIP reach it at {mac}");
    }
    peer.ip(&["neigh", "del", "10.77.0.100", "dev", "eth0"])?;
    // The same questions have an answer when it is master.
    role.reload(config(&text("A", "eth0", "0.1", words))?)?;
    wait_true("MASTER", LIMIT, || role.status().is_ok_and(|it| it.vips_set))?;
    ensure!(arping(&peer, "eth0", VIP)? == ["00:00:5e:00:01:33"]);
    ensure!(ping("10.77.0.100") && ping("fd77::100"));
    role.finish()?;
    Ok(())
});

// PKT-14
root_test!(adverts_may_leave_by_the_base_of_a_virtual_mac, {
    let (lb, peer) = cable()?;
    let words = "use_vmac\n vmac_xmit_base\n virtual_ipaddress {\n 10.77.0.100\n}";
    let sniffer = Sniffer::new(&peer)?;
    let mut role = RoleThread::start_with(&lb, config(&text("A", "eth0", "0.1", words))?)?;
    role.converge()?;
    let frame = sniffer.next(LIMIT, is_vrrp)?;
    ensure!(frame[6..12] == [2, 0, 0, 0x77, 0, 1], "the base's own MAC: {frame:02x?}");
    wait_true("the VIP", LIMIT, || role.status().is_ok_and(|it| it.vips_set))?;
    ensure!(arping(&peer, "eth0", VIP)? == ["00:00:5e:00:01:33"], "the VIP has the virtual one");
    role.finish()?;
    Ok(())
});

// TMR-08
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_backup_that_was_stopped_reads_before_it_takes_over() -> Result<()> {
    if !single::ready("vrrp_conformance")? {
        return Ok(());
    }
    // Takes over after 0.36 s of silence.
    let single = Single::start(&single::config("0.1", "", "", ""))?;
    let (from, vip) = (single::OTHER, single::VIP);
    let out = single.other.enter(|| ArpSocket::open("eth0"))??;
    let speak = |span: Duration| -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < span {
            out.send(&advert_frame(from, vip, 200, 10))?;
            // The rhythm of a master, not a wait for anything.
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    };
    let backup = || {
        let status = single.host.status().ok()?;
        let it = status.vrrp.first()?;
        (it.state == VrrpState::Backup && it.counters.advert_rcvd > 0).then_some(())
    };
    wait_true("BACKUP to the peer", LIMIT, || {
        speak(Duration::from_millis(100)).is_ok() && backup().is_some()
    })?;
    let before = single::instance(&single.host.status()?)?.counters.become_master;
    let sniffer = Sniffer::new(&single.other)?;
    single.host.signal_all(Signal::SIGSTOP)?;
    let spoken = speak(Duration::from_secs(2));
    single.host.signal_all(Signal::SIGCONT)?;
    spoken?;
    speak(Duration::from_secs(1))?;
    let own = |frame: &[u8]| is_vrrp(frame) && frame[26..30] == single::OWN.octets();
    ensure!(
        sniffer.next(Duration::from_millis(1), own).is_err(),
        "it took over from a live master"
    );
    let status = single.host.status()?;
    ensure!(single::instance(&status)?.counters.become_master == before, "{status:?}");
    Ok(())
}
