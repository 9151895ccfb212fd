//! What a killed lbd leaves on its host: its successor keeps what it wants itself, removes the rest
//! before its first packet, and touches nothing that others made (FSM-13, invariants 7 and 8).

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::Namespace,
    process::send,
    single::{self, LIMIT, Single},
    vrrp::{RoleThread, Sniffer, is_vrrp},
    wait::{wait_true, wait_until},
};
use lb_userspace::{base::status::VrrpState, config::load};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Every kind of object that lbd puts on a host. VI_1 wins its election after 3.6 intervals.
fn everything(advert_int: &str) -> String {
    format!(
        "static_ipaddress {{
    10.79.0.77/32 dev eth0
}}
static_routes {{
    10.85.0.0/16 via 10.79.0.2
}}
static_rules {{
    from 10.79.0.77 table 99
}}
vrrp_instance VI_1 {{
    interface eth0
    version 3
    virtual_router_id 51
    priority 101
    advert_int {advert_int}
    no_accept
    promote_secondaries
    virtual_ipaddress {{
        10.79.0.100/24
        10.79.0.101
    }}
    virtual_ipaddress_excluded {{
        10.79.0.102
        fd79::100/64
    }}
    virtual_routes {{
        10.80.0.0/16 via 10.79.0.2 src 10.79.0.100
        blackhole 10.81.0.0/16 table 77
    }}
    virtual_rules {{
        from 10.79.0.100 table 77
        to 10.84.0.0/16 ipproto tcp dport 3306 table 78
        from 10.79.0.101 table 77 priority 1000
    }}
}}
vrrp_instance VI_2 {{
    interface eth0
    version 3
    virtual_router_id 52
    priority 101
    advert_int {advert_int}
    use_vmac
    virtual_ipaddress {{
        10.79.0.110
    }}
}}
"
    )
}

/// One instance that has nothing in common with those.
const OTHER_CONFIG: &str = "vrrp_instance VI_9 {
    interface eth0
    version 3
    virtual_router_id 99
    priority 101
    advert_int 0.2
    virtual_ipaddress {
        10.79.0.109
    }
}
";

/// A line for each address, link, route, rule, table and setting that lbd may have to do with.
fn picture(netns: &Namespace) -> Result<Vec<String>> {
    let json = |args: &[&str]| -> Result<Vec<Value>> {
        let text = netns.ip(&[&["-j", "-d"], args].concat())?;
        Ok(if text.trim().is_empty() { vec![] } else { serde_json::from_str(&text)? })
    };
    let mut lines = Vec::new();
    for link in json(&["addr", "show"])? {
        let name = link["ifname"].as_str().context("a name")?;
        lines.push(format!("link {name}"));
        for info in link["addr_info"].as_array().into_iter().flatten() {
            let local = info["local"].as_str().unwrap_or_default();
            if !local.starts_with("fe80") {
                lines.push(format!("address {local}/{} on {name}", info["prefixlen"]));
            }
        }
    }
    for family in ["-4", "-6"] {
        // Those that the kernel makes come and go with addresses and links.
        for route in json(&[family, "route", "show", "table", "all"])? {
            if route["protocol"] != "kernel" && route["protocol"] != "ra" {
                let (dst, protocol) = (&route["dst"], &route["protocol"]);
                lines.push(format!("route {dst} {protocol} table {}", route["table"]));
            }
        }
    }
    for rule in json(&["rule", "show"])? {
        let (src, dst, protocol) = (&rule["src"], &rule["dst"], &rule["protocol"]);
        lines.push(format!("rule {src} {dst} {protocol} table {}", rule["table"]));
    }
    lines.extend(netns.run("nft", &["list", "tables"])?.lines().map(str::to_owned));
    for word in ["promote_secondaries", "arp_ignore", "arp_filter"] {
        let path = format!("/proc/sys/net/ipv4/conf/eth0/{word}");
        lines.push(format!("{word} {}", netns.enter(|| fs::read_to_string(path))??.trim()));
    }
    lines.sort();
    Ok(lines)
}

/// What others have on this host, some of it much like ours.
fn strangers(netns: &Namespace) -> Result<()> {
    for setting in ["all", "eth0"] {
        netns.sysctl(&format!("net/ipv6/conf/{setting}/disable_ipv6"), "0")?;
    }
    for words in [
        &["addr", "add", "10.79.0.150/32", "dev", "eth0"][..],
        &["route", "add", "10.90.0.0/16", "via", "10.79.0.2"],
        &["route", "add", "10.80.0.0/16", "via", "10.79.0.2", "proto", "static", "metric", "7"],
        &["rule", "add", "from", "10.79.0.101", "table", "77", "protocol", "4", "pref", "1000"],
        &["rule", "add", "from", "10.79.0.100", "table", "77", "protocol", "4"],
        &["link", "add", "vrrp.53", "link", "eth0", "type", "macvlan", "mode", "private"],
    ] {
        netns.ip(words)?;
    }
    netns.run("nft", &["add", "table", "inet", "lbd-VI_7"])?;
    Ok(())
}

fn start(single: &mut Single, config: &str) -> Result<()> {
    single.host.write_config(config)?;
    single.host.start()
}

/// Master of everything, with everything in place, `limit` after a start at most.
fn wait_everything(single: &Single, limit: Duration) -> Result<Vec<String>> {
    let netns = single.host.netns();
    let master = || {
        single.host.status().is_ok_and(|status| {
            status.vrrp.len() == 2
                && status.vrrp.iter().all(|it| it.state == VrrpState::Master && it.vips_set)
        })
    };
    let complete = |lines: &[String]| {
        let has = |what: &str| lines.iter().any(|line| line.starts_with(what));
        has("address 10.79.0.77/32")
            && has("address fd79::100/64")
            && has("address 10.79.0.110/32 on vrrp.52")
            && has("route \"10.81.0.0/16\"")
            && has("route \"10.85.0.0/16\"")
            && has("table inet lbd-VI_1")
            && lines.iter().filter(|line| line.contains("\"keepalived\"")).count() == 7
    };
    wait_until(
        "MASTER twice and everything in place",
        limit,
        || if master() { Ok(Some(picture(netns)?).filter(|it| complete(it))) } else { Ok(None) },
        || {
            let (status, log) = (single.host.status(), single.host.log_tail(30));
            format!("{status:#?}\n{:#?}\n{log}", picture(netns))
        },
    )
}

fn same(found: &[String], wanted: &[String]) -> Result<()> {
    let less = |a: &[String], b: &[String]| -> Vec<String> {
        a.iter().filter(|line| !b.contains(line)).cloned().collect()
    };
    let (more, gone) = (less(found, wanted), less(wanted, found));
    ensure!(found == wanted, "too much: {more:#?}\nmissing: {gone:#?}");
    Ok(())
}

fn ended_without_traces(single: &mut Single, before: &[String]) -> Result<()> {
    single.host.stop()?;
    same(&picture(single.host.netns())?, before)?;
    let run = single.host.dir().join("run");
    let left: Vec<_> = fs::read_dir(&run).into_iter().flatten().flatten().collect();
    ensure!(left.is_empty(), "left in {}: {left:?}", run.display());
    ensure!(!single.host.pin_dir().exists(), "pins are left");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn killed_and_configured_anew() -> Result<()> {
    if !single::ready("proc_leftovers")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let netns = single.host.netns().clone();
    strangers(&netns)?;
    let before = picture(&netns)?;
    start(&mut single, &everything("0.2"))?;
    wait_everything(&single, LIMIT)?;
    single.host.kill_all()?;
    // Meanwhile a person serves one of the addresses by hand: it is that person's now.
    netns.ip(&["addr", "del", "10.79.0.101/32", "dev", "eth0"])?;
    netns.ip(&["addr", "add", "10.79.0.101/32", "dev", "eth0"])?;
    let mut wanted = before;
    wanted.push("address 10.79.0.101/32 on eth0".to_owned());
    wanted.sort();
    let sniffer = Sniffer::new(&single.other)?;
    start(&mut single, OTHER_CONFIG)?;
    let frame = sniffer.next(LIMIT, |frame| is_vrrp(frame) && frame[35] == 99)?;
    ensure!(frame[36] == 101, "{frame:02x?}");
    // At its first packet, or a moment later with its own VIP.
    let own = |line: &String| !line.contains("10.79.0.109/32");
    same(&picture(&netns)?.into_iter().filter(own).collect::<Vec<_>>(), &wanted)?;
    ensure!(single.log().contains("left by a predecessor"), "{}", single.host.log_tail(40));
    ended_without_traces(&mut single, &wanted)
}

/// It cannot remove its VIPs, and the fence goes with the daemon: the forwarder does it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_stop_while_the_vrrp_process_hangs_leaves_nothing() -> Result<()> {
    if !single::ready("proc_leftovers")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let netns = single.host.netns().clone();
    strangers(&netns)?;
    let before = picture(&netns)?;
    start(&mut single, &everything("0.2"))?;
    wait_everything(&single, LIMIT)?;
    let vrrp = single.host.role_pid("vrrp").context("a vrrp process")?;
    send(vrrp, Signal::SIGSTOP)?;
    ended_without_traces(&mut single, &before)?;
    ensure!(
        single.log().contains("may have left, now or before, are removed"),
        "{}",
        single.host.log_tail(40)
    );
    Ok(())
}

/// Killed as master, behind its fence; the next start fails at once, and takes the fence off.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_start_that_fails_leaves_nothing_of_its_predecessor() -> Result<()> {
    if !single::ready("proc_leftovers")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let netns = single.host.netns().clone();
    strangers(&netns)?;
    let before = picture(&netns)?;
    start(&mut single, &everything("0.2"))?;
    wait_everything(&single, LIMIT)?;
    single.host.kill_all()?;
    let typo = OTHER_CONFIG.replace("eth0", "eht0");
    start(&mut single, &(everything("0.2") + &typo))?;
    let code = single.host.wait_exit(LIMIT)?;
    ensure!(code != Some(0), "{code:?}");
    ensure!(single.log().contains("eht0 does not exist"), "{}", single.host.log_tail(40));
    same(&picture(&netns)?, &before)
}

/// A better router has taken over meanwhile.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn killed_as_master_it_comes_back_as_backup() -> Result<()> {
    if !single::ready("proc_leftovers")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let netns = single.host.netns().clone();
    strangers(&netns)?;
    let before = picture(&netns)?;
    // The better router is a thread of this process: with shorter intervals one that is not run for a moment would
    // lose its mastership.
    start(&mut single, &everything("1"))?;
    let master = wait_everything(&single, LIMIT)?;
    single.host.kill_all()?;
    same(&picture(&netns)?, &master).context("a killed lbd leaves everything in place")?;
    let better = load("test", &everything("1").replace("priority 101", "priority 200"));
    let mut better = better.config.context("the same file")?;
    better.statics = Default::default();
    for instance in &mut better.vrrp_instances {
        instance.on_host = Default::default();
    }
    let peer = RoleThread::start_with(&single.other, better)?;
    peer.converge()?;
    wait_true("the better router", LIMIT, || {
        single.other.has_address(std::net::Ipv4Addr::new(10, 79, 0, 110)).unwrap_or(false)
            && single.other.has_address(std::net::Ipv4Addr::new(10, 79, 0, 100)).unwrap_or(false)
    })?;
    let sniffer = Sniffer::new(&single.other)?;
    single.host.start()?;
    single.wait_status("BACKUP twice", |status| {
        status.vrrp.len() == 2 && status.vrrp.iter().all(|it| it.state == VrrpState::Backup)
    })?;
    let base = [
        "link vrrp.52",
        "address 10.79.0.77/32 on eth0",
        "route \"10.85.0.0/16\" \"keepalived\" table \"main\"",
        "rule \"10.79.0.77\" null \"keepalived\" table \"99\"",
    ];
    let settings = ["promote_secondaries 1", "arp_ignore 1", "arp_filter 1"];
    let is_setting =
        |line: &String| settings.iter().any(|it| it[..10] == line[..10.min(line.len())]);
    let mut wanted: Vec<String> = before.iter().filter(|line| !is_setting(line)).cloned().collect();
    wanted.extend(base.iter().chain(&settings).map(|line| (*line).to_owned()));
    wanted.sort();
    same(&picture(&netns)?, &wanted)?;
    let from_us = |frame: &[u8]| is_vrrp(frame) && frame[29] == 1;
    ensure!(sniffer.next(Duration::from_millis(1), from_us).is_err(), "a backup spoke");
    ended_without_traces(&mut single, &before)?;
    peer.finish()?;
    Ok(())
}

/// Its lease still runs when it is back: nothing is taken off, nothing is there twice.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn killed_and_back_at_once() -> Result<()> {
    if !single::ready("proc_leftovers")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let netns = single.host.netns().clone();
    strangers(&netns)?;
    let before = picture(&netns)?;
    // Its lease lasts for as long as a start takes on a busy machine: nine seconds.
    start(&mut single, &everything("3"))?;
    // Eleven seconds of silence come before the first takeover.
    let master = wait_everything(&single, 2 * LIMIT)?;
    single.wait_advert()?;
    single.host.kill_all()?;
    single.host.start()?;
    single.wait_log("resumes as MASTER")?;
    same(&wait_everything(&single, LIMIT)?, &master)?;
    ensure!(!single.log().contains("left by a predecessor"), "{}", single.host.log_tail(40));
    // A reload puts everything on once more.
    single.host.write_config(&everything("3").replace("priority 101", "priority 102"))?;
    ensure!(single.lbctl(&["reload"])?.status.success());
    single.wait_status("the new priority", |status| {
        status.vrrp.iter().all(|it| it.effective_priority == 102)
    })?;
    same(&wait_everything(&single, LIMIT)?, &master)?;
    ended_without_traces(&mut single, &before)
}
