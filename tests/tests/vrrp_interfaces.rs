//! Interfaces that come, go, flap and change their names under an instance, and what could not be put
//! on them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    links::{config, has, master, route_to},
    netns::{Namespace, ready_or_skip},
    vrrp::{RoleThread, Sniffer, cable, is_vrrp},
    wait::wait_true,
};
use lb_userspace::{
    base::{net::Priority, status::VrrpState},
    config::load,
    process::ipc::Down,
};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

macro_rules! root_test {
    ($name:ident, $body:expr) => {
        #[test]
        #[ignore = "needs root: cargo xtask test"]
        fn $name() -> Result<()> {
            if !ready_or_skip("vrrp_interfaces")? {
                return Ok(());
            }
            $body
        }
    };
}

root_test!(interfaces_come_go_and_change_their_names, {
    interfaces_come_and_go("virtual_ipaddress {\n 10.77.0.100\n}")
});

root_test!(interfaces_come_and_go_under_a_named_source_address, {
    interfaces_come_and_go(
        "virtual_ipaddress {\n 10.77.0.100\n}\n track_src_ip\n mcast_src_ip 10.77.0.1",
    )
});

fn interfaces_come_and_go(words: &str) -> Result<()> {
    let (lb, peer) = cable()?;
    lb.ip(&["link", "set", "eth0", "down"])?;
    lb.ip(&["link", "set", "eth0", "name", "other0"])?;
    let mut role =
        RoleThread::start_with(&lb, config(words, "global_defs {\n dynamic_interfaces\n}")?)?;
    role.converge()?;
    wait_true("FAULT without the interface", SECONDS(10), || {
        role.status().is_ok_and(|it| it.state == VrrpState::Fault)
    })?;
    let state = |role: &mut RoleThread, wanted| {
        wait_true("the state", SECONDS(10), || role.status().is_ok_and(|it| it.state == wanted))
    };
    lb.ip(&["link", "set", "other0", "name", "eth0"])?;
    lb.ip(&["link", "set", "eth0", "up"])?;
    state(&mut role, VrrpState::Master).context("it has appeared")?;
    lb.ip(&["link", "set", "eth0", "down"])?;
    lb.ip(&["link", "set", "eth0", "name", "other0"])?;
    state(&mut role, VrrpState::Fault).context("renamed under us")?;
    lb.ip(&["link", "del", "other0"])?;
    let peer_end = ["type", "veth", "peer", "name", "eth0", "netns", peer.name()];
    lb.ip(&[&["link", "add", "eth0"][..], &peer_end].concat())?;
    for (netns, address) in [(&lb, "10.77.0.1/24"), (&peer, "10.77.0.2/24")] {
        netns.ip(&["address", "add", address, "dev", "eth0"])?;
        netns.ip(&["link", "set", "eth0", "up"])?;
    }
    state(&mut role, VrrpState::Master).context("made anew, with another index")?;
    let sniffer = Sniffer::new(&peer)?;
    sniffer.next(SECONDS(10), is_vrrp).context("adverts on the new interface")?;
    // Adverts do not wait for the kernel's answer.
    wait_true("its VIP", SECONDS(10), || has(&lb, "eth0", "10.77.0.100/32"))?;
    lb.ip(&["addr", "add", "10.77.0.9/24", "dev", "eth0"])?;
    lb.ip(&["addr", "del", "10.77.0.1/24", "dev", "eth0"])?;
    state(&mut role, VrrpState::Fault).context("the source address is gone")?;
    role.finish()?;
    Ok(())
}

root_test!(a_vip_leaves_an_interface_that_was_renamed_while_up, {
    let (lb, _peer) = cable()?;
    let words = "virtual_ipaddress {\n 10.77.0.100\n}";
    let mut role =
        RoleThread::start_with(&lb, config(words, "global_defs {\n dynamic_interfaces\n}")?)?;
    master(&mut role)?;
    if lb.ip(&["link", "set", "eth0", "name", "other0"]).is_err() {
        // Kernels before 6.2 refuse.
        return role.finish().map(drop);
    }
    wait_true("FAULT", SECONDS(10), || role.status().is_ok_and(|it| it.state == VrrpState::Fault))?;
    wait_true("the VIP to leave", SECONDS(10), || !has(&lb, "other0", "10.77.0.100/32"))?;
    lb.ip(&["link", "set", "other0", "name", "eth0"])?;
    wait_true("MASTER again, by the address that came back with the name", SECONDS(10), || {
        has(&lb, "eth0", "10.77.0.100/32")
    })?;
    role.finish()?;
    Ok(())
});

root_test!(what_could_not_be_put_on_is_tried_again, {
    let (lb, _peer) = cable()?;
    let vips = "virtual_ipaddress {\n 10.77.0.100\n}\nvirtual_ipaddress_excluded {\n \
                10.88.0.100/24 dev away0 no_track\n fd88::100/64 dev dark0 no_track\n}\n\
                virtual_routes {\n 10.89.0.0/16 dev away0 no_track\n}";
    let add = |name: &str, end: &str| -> Result<()> {
        lb.ip(&["link", "add", name, "type", "veth", "peer", "name", end])?;
        lb.ip(&["link", "set", end, "up"])?;
        lb.ip(&["link", "set", name, "up"]).map(drop)
    };
    add("dark0", "dark1")?;
    lb.sysctl("net/ipv6/conf/dark0/disable_ipv6", "1")?;
    let mut role =
        RoleThread::start_with(&lb, config(vips, "global_defs {\n dynamic_interfaces\n}")?)?;
    role.converge()?;
    wait_true("the status to say what is missing", SECONDS(10), || {
        role.status().is_ok_and(|it| {
            let missing = ["10.88.0.100/24 on away0: no such interface", "fd88::100/64 on dark0"];
            it.state == VrrpState::Master && missing.iter().all(|part| it.reason.contains(part))
        })
    })?;
    ensure!(has(&lb, "eth0", "10.77.0.100/32"), "the others are held");
    let all = |lb: &Namespace| {
        has(lb, "away0", "10.88.0.100/24") && route_to(lb, "10.89.0.0/16").is_some()
    };
    for time in ["first", "second"] {
        add("away0", "away1")?;
        wait_true("what is on the interface that came", SECONDS(10), || all(&lb)).context(time)?;
        lb.ip(&["link", "del", "away0"])?;
    }
    lb.sysctl("net/ipv6/conf/dark0/disable_ipv6", "0")?;
    wait_true("the VIP that was refused", SECONDS(10), || has(&lb, "dark0", "fd88::100/64"))?;
    add("away0", "away1")?;
    wait_true("a status without complaint", SECONDS(10), || {
        role.status().is_ok_and(|it| it.vips_set && !it.reason.contains("not done yet"))
    })?;
    ensure!(role.status()?.counters.become_master == 1, "without an election");
    role.finish()?;
    Ok(())
});

root_test!(delayed_links_hide_a_flap, {
    let (lb, peer) = cable()?;
    let mut config =
        config("virtual_ipaddress {\n 10.77.0.100\n}", "interface_up_down_delays {\n eth0 4 1\n}")?;
    config.vrrp_instances[0].advert_int = SECONDS(3);
    // Loading cut it to two adverts of the interval before. The kernel takes a second to tell a carrier, twice, and
    // this test may be stopped meanwhile.
    config.link_delays[0].down = SECONDS(8);
    config.vrrp_instances[0].priority = Priority(255);
    let mut role = RoleThread::start_with(&lb, config)?;
    master(&mut role)?;
    let transitions = role.status()?.counters.release_master;
    peer.ip(&["link", "set", "eth0", "down"])?;
    wait_true("the carrier to go", SECONDS(10), || {
        lb.ip(&["link", "show", "eth0"]).is_ok_and(|text| text.contains("NO-CARRIER"))
    })?;
    ensure!(role.status()?.state == VrrpState::Master, "a flap is hidden");
    peer.ip(&["link", "set", "eth0", "up"])?;
    wait_true("the carrier to come", SECONDS(10), || {
        lb.ip(&["link", "show", "eth0"]).is_ok_and(|text| !text.contains("NO-CARRIER"))
    })?;
    ensure!(role.status()?.counters.release_master == transitions);
    peer.ip(&["link", "set", "eth0", "down"])?;
    wait_true("FAULT after the delay", SECONDS(20), || {
        role.status().is_ok_and(|it| it.state == VrrpState::Fault)
    })?;
    role.say(Down::Stop)?;
    role.finish()?;
    Ok(())
});

// What opens a socket may wait for a lock of the kernel; a takeover must not.
root_test!(the_sockets_of_a_takeover_are_open_before_it, {
    for (word, leaves_by) in [("", "eth0"), ("use_vmac", "vrrp.51")] {
        let (lb, _peer) = cable()?;
        let words = format!("{word}\n virtual_ipaddress {{\n 10.77.0.100\n}}");
        let role = RoleThread::start_with(&lb, config(&words, "")?)?;
        // Columns: socket, references, type, protocol (none: it only sends), interface.
        let open = || -> Result<bool> {
            let index = lb.enter(|| nix::net::if_::if_nametoindex(leaves_by))?;
            let path = "/proc/thread-self/net/packet";
            let sockets = lb.enter(|| std::fs::read_to_string(path))??;
            Ok(index.is_ok_and(|index| {
                let wanted = ["0000".to_owned(), index.to_string()];
                sockets.lines().any(|line| line.split_whitespace().skip(3).take(2).eq(&wanted))
            }))
        };
        // Nothing has converged: it is not even a backup.
        wait_true("a socket for frames", SECONDS(10), || open().is_ok_and(|open| open))
            .with_context(|| leaves_by.to_owned())?;
        role.finish()?;
    }
    Ok(())
});

// keepalived's word for an instance that goes on when its own interface is down: its peer may be
// elsewhere, or its VIPs on another one.
root_test!(dont_track_primary_keeps_its_master_without_a_cable, {
    let (lb, peer) = cable()?;
    let text = |number: u8, word: &str| {
        format!(
            "vrrp_instance VI_{number} {{\n interface eth0\n virtual_router_id 5{number}\n \
             priority 150\n version 3\n advert_int 0.1\n {word}\n virtual_ipaddress {{\n \
             10.77.0.10{number}\n }}\n}}\n"
        )
    };
    let outcome = load("test", &format!("{}{}", text(1, "dont_track_primary"), text(2, "")));
    let told = outcome.render();
    let mut role = RoleThread::start_with(&lb, outcome.config.context(told)?)?;
    role.converge()?;
    use VrrpState::{Fault, Master};
    let both = |role: &mut RoleThread, what: &str, wanted: [VrrpState; 2], vips: [bool; 2]| {
        wait_true(what, SECONDS(10), || {
            let states =
                role.statuses().map(|all| all.iter().map(|it| it.state).collect::<Vec<_>>());
            let there = ["10.77.0.101/32", "10.77.0.102/32"].map(|vip| has(&lb, "eth0", vip));
            states.is_ok_and(|states| states == wanted) && there == vips
        })
    };
    both(&mut role, "both masters", [Master, Master], [true, true])?;
    let adverts = role.statuses()?.remove(0).counters.advert_sent;
    // Our end is up, and has no carrier.
    peer.ip(&["link", "set", "eth0", "down"])?;
    both(&mut role, "the second alone in FAULT", [Master, Fault], [true, false])?;
    wait_true("adverts into the void", SECONDS(10), || {
        role.statuses().is_ok_and(|all| all[0].counters.advert_sent > adverts + 10)
    })?;
    both(&mut role, "still", [Master, Fault], [true, false])?;
    peer.ip(&["link", "set", "eth0", "up"])?;
    both(&mut role, "both masters again", [Master, Master], [true, true])?;
    let counters = role.statuses()?.remove(0).counters;
    ensure!((counters.become_master, counters.release_master) == (1, 0), "{counters:?}");
    role.finish()?;
    Ok(())
});

// It elects with nothing to hold: what it is there for are its scripts, or another instance's addresses.
root_test!(an_instance_without_vips_elects_and_advertises_none, {
    let (lb, peer) = cable()?;
    let mut high = RoleThread::start_with(&lb, config("no_virtual_ipaddress", "")?)?;
    let mut lower = config("no_virtual_ipaddress", "")?;
    lower.vrrp_instances[0].priority = Priority(100);
    let mut low = RoleThread::start_with(&peer, lower)?;
    let sniffer = Sniffer::new(&peer)?;
    high.converge()?;
    low.converge()?;
    wait_true("the better one to be master", SECONDS(10), || {
        let (high, low) = (high.status(), low.status());
        high.is_ok_and(|it| it.state == VrrpState::Master)
            && low.is_ok_and(|it| it.state == VrrpState::Backup)
    })?;
    let own = |frame: &[u8]| is_vrrp(frame) && frame[11] == 1;
    // Address count of VRRPv3, and the datagram's length: eight bytes of VRRP.
    let advert = sniffer.next(SECONDS(10), own)?;
    ensure!(advert[37] == 0 && advert[16..18] == [0, 28], "{advert:02x?}");
    let heard = low.status()?.counters;
    ensure!(heard.advert_rcvd > 0 && heard.discarded.is_empty(), "{heard:?}");
    high.finish()?;
    wait_true("the other one to follow", SECONDS(10), || {
        low.status().is_ok_and(|it| it.state == VrrpState::Master)
    })?;
    ensure!(low.status()?.counters.pri_zero_rcvd == 1, "no farewell was heard");
    low.finish()?;
    Ok(())
});
