//! VIPs that others put on this host or take from it, and addresses that only look like VIPs.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::{
    links::{addresses, config, has, master},
    netns::{Namespace, ready_or_skip},
    vrrp::{RoleThread, cable, dual_cable},
    wait::wait_true,
};
use lb_userspace::{
    base::{net::Priority, status::VrrpState},
    config::{load, model::Config},
};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

macro_rules! root_test {
    ($name:ident, $body:expr) => {
        #[test]
        #[ignore = "needs root: cargo xtask test"]
        fn $name() -> Result<()> {
            if !ready_or_skip("vrrp_intruders")? {
                return Ok(());
            }
            $body
        }
    };
}

/// [`config`] with adverts each second: a machine that does not run the better router for a moment makes no master
/// of the other one.
fn slow(text: &str) -> Result<Config> {
    let mut config = config(text, "")?;
    config.vrrp_instances[0].advert_int = SECONDS(1);
    Ok(config)
}

/// A better router on the other host: the one of [`slow`] stays backup.
fn better(peer: &Namespace, text: &str) -> Result<RoleThread> {
    let mut better = slow(text)?;
    better.vrrp_instances[0].priority = Priority(200);
    let mut other = RoleThread::start_with(peer, better)?;
    master(&mut other)?;
    Ok(other)
}

fn is_backup(role: &mut RoleThread) -> bool {
    role.status().is_ok_and(|it| it.state == VrrpState::Backup && it.master.is_some())
}

// Two hosts would answer for it: keepalived leaves such an address until its next change of state.
root_test!(a_vip_that_others_put_on_a_backup_is_told_and_taken_off, {
    let (lb, peer) = dual_cable()?;
    let text = "virtual_ipaddress {\n 10.77.0.100\n 10.77.0.101\n}\n\
                virtual_ipaddress_excluded {\n fd77::100/64\n}";
    let other = better(&peer, text)?;
    let mut role = RoleThread::start_with(&lb, slow(text)?)?;
    role.converge()?;
    wait_true("BACKUP to the other", SECONDS(10), || is_backup(&mut role))?;
    ensure!(!role.status()?.reason.contains("somebody"), "{:?}", role.status());
    for round in 1..=3 {
        lb.ip(&["addr", "add", "10.77.0.101/32", "dev", "eth0"])?;
        wait_true("the VIP to be taken off", SECONDS(10), || !has(&lb, "eth0", "10.77.0.101/32"))?;
        let wanted = format!(
            "; somebody else put VIP 10.77.0.101/32 on eth0, it was taken off ({round} so far)"
        );
        wait_true("the status to tell it", SECONDS(10), || {
            role.status().is_ok_and(|it| it.reason.ends_with(&wanted))
        })?;
        ensure!(role.status()?.counters.foreign_vips == round);
    }
    lb.ip(&["addr", "add", "fd77::100/64", "dev", "eth0", "nodad"])?;
    wait_true("the IPv6 VIP to be taken off", SECONDS(10), || {
        !has(&lb, "eth0", "fd77::100/64")
            && role.status().is_ok_and(|it| {
                it.counters.foreign_vips == 4
                    && it.reason.ends_with(
                        "; somebody else put VIP fd77::100/64 on eth0, it was taken off (4 so far)",
                    )
            })
    })?;
    // Another prefix length: not what lbd would put there, so it stays, and is told while it does.
    lb.ip(&["addr", "add", "10.77.0.100/24", "dev", "eth0"])?;
    let told = |role: &mut RoleThread| {
        role.status().is_ok_and(|it| it.reason.contains("10.77.0.100/24 on eth0 has the address"))
    };
    wait_true("the status to tell of the other address", SECONDS(10), || told(&mut role))?;
    // One that is no VIP is nobody's business.
    lb.ip(&["addr", "add", "10.77.0.150/32", "dev", "eth0"])?;
    ensure!(has(&lb, "eth0", "10.77.0.100/24"), "what is not ours was taken off");
    lb.ip(&["addr", "del", "10.77.0.100/24", "dev", "eth0"])?;
    wait_true("the status to forget it", SECONDS(10), || !told(&mut role))?;
    // FAULT is no other thing; and a takeover puts on what it needs, and is told of no intruder.
    other.finish()?;
    wait_true("MASTER with its VIPs", SECONDS(10), || {
        role.status().is_ok_and(|it| it.state == VrrpState::Master && it.vips_set)
    })?;
    let status = role.status()?;
    ensure!(!status.reason.contains("somebody") && status.counters.foreign_vips == 4, "{status:?}");
    peer.ip(&["link", "set", "eth0", "down"])?;
    wait_true("FAULT without VIPs", SECONDS(10), || {
        role.status().is_ok_and(|it| it.state == VrrpState::Fault)
            && !has(&lb, "eth0", "10.77.0.100/32")
    })?;
    lb.ip(&["addr", "add", "10.77.0.100/32", "dev", "eth0"])?;
    wait_true("the VIP to be taken off in FAULT", SECONDS(10), || {
        !has(&lb, "eth0", "10.77.0.100/32")
    })?;
    role.finish()?;
    ensure!(has(&lb, "eth0", "10.77.0.150/32"));
    Ok(())
});

// The kernel keeps an address with a peer beside the same address without one.
root_test!(an_address_with_a_peer_is_not_the_same_without, {
    let (lb, peer) = cable()?;
    let text = "virtual_ipaddress {\n 10.77.0.100 peer 10.77.9.1/32\n 10.77.0.101\n}";
    let other = better(&peer, text)?;
    let mut role = RoleThread::start_with(&lb, slow(text)?)?;
    role.converge()?;
    wait_true("BACKUP to the other", SECONDS(10), || is_backup(&mut role))?;
    lb.ip(&["addr", "add", "10.77.0.100/32", "dev", "eth0"])?;
    let plain = "; 10.77.0.100/32 on eth0 has the address of a VIP and is not lbd's: two hosts may \
                 answer for it";
    wait_true("the status to tell of the plain one", SECONDS(10), || {
        role.status().is_ok_and(|it| it.reason.ends_with(plain))
    })?;
    // To the letter, peer included, it is a VIP.
    lb.ip(&["addr", "add", "10.77.0.100", "peer", "10.77.9.1/32", "dev", "eth0"])?;
    let with_peer =
        || addresses(&lb, "eth0").iter().any(|(_, info)| info["address"] == "10.77.9.1");
    wait_true("the VIP to be taken off", SECONDS(10), || {
        !with_peer() && role.status().is_ok_and(|it| it.counters.foreign_vips == 1)
    })?;
    ensure!(has(&lb, "eth0", "10.77.0.100/32"), "what is not ours was taken off");
    ensure!(role.status()?.reason.ends_with(plain), "{:?}", role.status());
    other.finish()?;
    wait_true("MASTER with its VIPs beside the other address", SECONDS(10), || {
        with_peer() && role.status().is_ok_and(|it| it.state == VrrpState::Master && it.vips_set)
    })?;
    role.finish()?;
    ensure!(has(&lb, "eth0", "10.77.0.100/32") && !with_peer());
    Ok(())
});

/// Two instances, the first master, the second kept backup by a better one elsewhere, which is slow as it is.
fn two(first: &[u8], second: &[u8], rest: &str) -> Result<Config> {
    let list = |vips: &[u8]| {
        let lines: Vec<String> = vips.iter().map(|last| format!(" 10.77.0.{last}\n")).collect();
        lines.concat()
    };
    let text = format!(
        "vrrp_instance VI_1 {{\n interface eth0\n virtual_router_id 52\n priority 150\n version 3\n \
         advert_int 0.1\n virtual_ipaddress {{\n{}}}\n}}\n\
         vrrp_instance VI_2 {{\n interface eth0\n virtual_router_id 51\n priority 150\n version 3\n \
         advert_int 1\n virtual_ipaddress {{\n{}}}\n}}\n{rest}",
        list(first),
        list(second),
    );
    let outcome = load("test", &text);
    let told = outcome.render();
    outcome.config.ok_or_else(|| anyhow::anyhow!(told))
}

// The list of the one is changed before the kernel has done it.
root_test!(a_vip_that_a_reload_moves_to_a_backup_was_put_there_by_nobody, {
    let (lb, peer) = cable()?;
    let other = better(&peer, "virtual_ipaddress {\n 10.77.0.110\n}")?;
    let apart = || two(&[100, 101, 102], &[110], "");
    let mut role = RoleThread::start_with(&lb, apart()?)?;
    role.converge()?;
    let states = [VrrpState::Master, VrrpState::Backup];
    // Of a master and of the static addresses; and what several have for a moment.
    let rounds: [(Config, &[u8]); 7] = [
        (apart()?, &[100, 101, 102]),
        (two(&[100], &[110, 101, 102], "")?, &[100]),
        (apart()?, &[100, 101, 102]),
        (two(&[100], &[110], "static_ipaddress {\n 10.77.0.101/32 dev eth0\n}\n")?, &[100, 101]),
        (two(&[100], &[110, 101], "")?, &[100]),
        (apart()?, &[100, 101, 102]),
        (two(&[100, 102], &[110, 101], "")?, &[100, 102]),
    ];
    for (config, on) in rounds {
        role.reload(config)?;
        let wanted: BTreeSet<String> = on.iter().map(|last| format!("10.77.0.{last}/32")).collect();
        wait_true("the addresses", SECONDS(10), || held(&lb) == wanted)?;
        wait_true("MASTER and BACKUP", SECONDS(10), || {
            role.statuses().is_ok_and(|all| {
                all.iter().map(|it| it.state).eq(states) && all[1].master.is_some()
            })
        })?;
        for status in role.statuses()? {
            ensure!(!status.reason.contains("somebody"), "{status:?}");
            ensure!(status.counters.foreign_vips == 0, "{status:?}");
        }
    }
    other.finish()?;
    role.finish()?;
    Ok(())
});

// Every reload asks for the virtual interface again, and nobody looks meanwhile.
root_test!(a_vip_of_a_virtual_interface_that_was_there_before_its_reload_is_taken_off, {
    let (lb, peer) = cable()?;
    let text = |more: &str| format!("use_vmac\n virtual_ipaddress {{\n 10.77.0.100\n{more}}}");
    let other = better(&peer, "virtual_ipaddress {\n 10.77.0.100\n}")?;
    let mut role = RoleThread::start_with(&lb, slow(&text(""))?)?;
    role.converge()?;
    wait_true("BACKUP to the other", SECONDS(10), || is_backup(&mut role))?;
    lb.ip(&["addr", "add", "10.77.0.101/32", "dev", "vrrp.51"])?;
    role.reload(slow(&text(" 10.77.0.101\n"))?)?;
    wait_true("what is a VIP now to be taken off", SECONDS(10), || {
        !has(&lb, "vrrp.51", "10.77.0.101/32")
            && role.status().is_ok_and(|it| it.counters.foreign_vips == 1)
    })?;
    other.finish()?;
    role.finish()?;
    Ok(())
});

// What is taken while a change of ours is under way is told together with what that change does.
root_test!(a_vip_that_goes_while_a_reload_is_under_way_is_missed, {
    let (lb, _peer) = cable()?;
    const MORE: usize = 1500;
    let words = |more: usize| {
        let vips: String = (0..more).map(|n| format!(" 10.78.{}.{}\n", n / 256, n % 256)).collect();
        format!(
            "garp_master_repeat 1\n garp_master_delay 0\n virtual_ipaddress {{\n 10.77.0.100\n}}\n\
             virtual_ipaddress_excluded {{\n{vips}}}"
        )
    };
    let (mut turns, mut met) = (0, 0);
    // A busy machine may come too late to some, not to all.
    while turns < 3 || met == 0 && turns < 15 {
        turns += 1;
        let mut role = RoleThread::start_with(&lb, config(&words(0), "")?)?;
        master(&mut role)?;
        role.reload(config(&words(MORE), "")?)?;
        // The first of the new ones is on, so that what is taken now was looked at before.
        wait_true("the change to be under way", SECONDS(10), || {
            lb.has_address([10, 78, 0, 0]).unwrap_or(false)
        })?;
        lb.ip(&["addr", "del", "10.77.0.100/32", "dev", "eth0"])?;
        let on = held(&lb).len();
        println!("taken with {on} of {MORE} on");
        met += usize::from(on < MORE);
        wait_true("a new election, and all VIPs", SECONDS(30), || {
            role.status().is_ok_and(|it| {
                it.state == VrrpState::Master && it.vips_set && it.counters.release_master == 1
            })
        })?;
        role.finish()?;
        ensure!(held(&lb).is_empty(), "left behind");
    }
    ensure!(met > 0, "every change was over too soon to be met");
    Ok(())
});

/// Addresses of length 32.
fn held(lb: &Namespace) -> BTreeSet<String> {
    let all = addresses(lb, "eth0").into_iter().map(|(address, _)| address);
    all.filter(|address| address.ends_with("/32")).collect()
}
