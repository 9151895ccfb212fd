//! vrrp_sync_group on real interfaces: two LANs between two hosts, an instance on each, and both
//! move together, told in order.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::{Namespace, Port, Switch, ready_or_skip},
    vrrp::{RoleThread, Sniffer, is_vrrp},
    wait::wait_true,
};
use lb_userspace::{
    base::status::VrrpState,
    config::{load, model::Config},
    process::ipc::Up,
};

const LIMIT: Duration = Duration::from_secs(20);

/// Two instances in one group, on eth0 and eth1.
fn config(priority: u8) -> Result<Config> {
    let instance = |number: u8| {
        format!(
            "vrrp_instance VI_{number} {{\n interface eth{number}\n virtual_router_id 5{number}\n \
             version 3\n advert_int 0.2\n priority {priority}\n notify /bin/true\n \
             virtual_ipaddress {{\n  10.77.{number}.100/24\n }}\n}}\n"
        )
    };
    let text = format!(
        "global_defs {{\n script_user root\n}}\nvrrp_sync_group G {{\n group {{\n  VI_0\n  VI_1\n \
         }}\n notify /bin/true\n}}\n{}{}",
        instance(0),
        instance(1)
    );
    let outcome = load("test", &text);
    let told = outcome.render();
    outcome.config.context(told)
}

struct Site {
    netns: Namespace,
    ports: [Port; 2],
    role: RoleThread,
}

impl Site {
    fn new(name: &str, last: u8, priority: u8, lans: &[Switch; 2]) -> Result<Self> {
        let netns = Namespace::new(name)?;
        let plug = |number: usize| {
            let address = format!("10.77.{number}.{last}/24");
            lans[number].plug(&netns, &format!("eth{number}"), Some(&address))
        };
        let ports = [plug(0)?, plug(1)?];
        // The kernel tells a carrier when it comes to it; until then that is FAULT, which is told, too.
        for interface in ["eth0", "eth1"] {
            wait_true("the cable", LIMIT, || {
                netns.ip(&["link", "show", interface]).is_ok_and(|it| it.contains("state UP"))
            })?;
        }
        let role = RoleThread::start_with(&netns, config(priority)?)?;
        Ok(Self { netns, ports, role })
    }

    /// The VIPs it holds, one bit a LAN.
    fn holds(&self) -> u8 {
        let has = |number: u8| self.netns.has_address([10, 77, number, 100]).unwrap_or(false);
        u8::from(has(0)) | u8::from(has(1)) << 1
    }

    /// What its instances and its group said, as `INSTANCE VI_0 MASTER`.
    fn told(self) -> Result<Vec<String>> {
        let said = self.role.finish()?;
        let args = said.into_iter().filter_map(|said| match said {
            Up::Notify(told) => Some(told.scripts),
            _ => None,
        });
        Ok(args
            .flatten()
            .map(|script| script.args.get(..3).unwrap_or_default().join(" "))
            .collect())
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn one_link_down_moves_both_and_both_come_back() -> Result<()> {
    if !ready_or_skip("vrrp_groups")? {
        return Ok(());
    }
    let lans = [Switch::new("lan0")?, Switch::new("lan1")?];
    let high = Site::new("high", 10, 150, &lans)?;
    let low = Site::new("low", 11, 100, &lans)?;
    high.role.converge()?;
    low.role.converge()?;
    let both_at = |first: u8, second: u8| (high.holds(), low.holds()) == (first, second);
    wait_true("the better one to be master of both", LIMIT, || both_at(3, 0))?;

    high.ports[1].set_link(false)?;
    wait_true("both to move", LIMIT, || both_at(0, 3))?;
    high.ports[1].set_link(true)?;
    wait_true("both to come back", LIMIT, || both_at(3, 0))?;

    let told = high.told()?;
    // Of each move: every member before the group, and the group once.
    for state in ["MASTER", "FAULT"] {
        let places = |who: &str| -> Vec<usize> {
            let want = format!("{who} {state}");
            told.iter().enumerate().filter(|(_, it)| **it == want).map(|(at, _)| at).collect()
        };
        let (first, second) = (places("INSTANCE VI_0"), places("INSTANCE VI_1"));
        let group = places("GROUP G");
        // FAULT once more when the carriers come after the daemon.
        let enough = if state == "MASTER" { group.len() == 2 } else { !group.is_empty() };
        ensure!(enough, "{state} of the group: {told:?}");
        for (number, group) in group.iter().enumerate() {
            let before = |places: &[usize]| places.get(number).is_some_and(|at| at < group);
            ensure!(before(&first) && before(&second), "{state}: {told:?}");
        }
    }
    low.told()?;
    Ok(())
}

/// Somebody takes one VIP: both members say farewell, and both are masters again after their skew, which is shorter
/// than the other host's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_vip_that_somebody_takes_moves_both_and_both_come_back() -> Result<()> {
    if !ready_or_skip("vrrp_groups")? {
        return Ok(());
    }
    let lans = [Switch::new("lan0")?, Switch::new("lan1")?];
    let mut high = Site::new("high", 10, 150, &lans)?;
    let low = Site::new("low", 11, 100, &lans)?;
    high.role.converge()?;
    low.role.converge()?;
    wait_true("the better one to be master of both", LIMIT, || {
        (high.holds(), low.holds()) == (3, 0)
    })?;
    let both_masters = |role: &mut RoleThread| {
        role.statuses().is_ok_and(|all| all.iter().all(|it| it.state == VrrpState::Master))
    };
    wait_true("both to be told", LIMIT, || both_masters(&mut high.role))?;
    for taken in [1, 0] {
        let before = high.role.statuses()?;
        let sniffer = Sniffer::new(&low.netns)?;
        let address = format!("10.77.{taken}.100/24");
        high.netns.ip(&["address", "del", &address, "dev", &format!("eth{taken}")])?;
        // Of both members, and none comes back before both have said it.
        let mut last = vec![];
        while last.len() < 2 {
            let frame = sniffer.next(LIMIT, |frame| {
                is_vrrp(frame) && frame[26..28] == [10, 77] && frame[29] == 10
            })?;
            let (lan, priority) = (frame[28], frame[36]);
            if priority == 0 {
                ensure!(!last.contains(&lan), "twice");
                last.push(lan);
            } else {
                ensure!(!last.contains(&lan), "LAN {lan} has a master of half a group");
            }
        }
        wait_true("both to come back", LIMIT, || {
            (high.holds(), low.holds()) == (3, 0) && both_masters(&mut high.role)
        })?;
        for (before, after) in before.iter().zip(high.role.statuses()?) {
            let (before, after) = (&before.counters, &after.counters);
            ensure!(after.become_master > before.become_master, "{before:?} {after:?}");
            ensure!(after.pri_zero_sent > before.pri_zero_sent, "{before:?} {after:?}");
        }
    }
    high.told()?;
    low.told()?;
    Ok(())
}

/// A backup's wait may be over when the data plane is ready; what is told is the same.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_group_is_backup_before_it_is_master_however_late_it_may_begin() -> Result<()> {
    if !ready_or_skip("vrrp_groups")? {
        return Ok(());
    }
    let lans = [Switch::new("lan0")?, Switch::new("lan1")?];
    let alone = Site::new("alone", 10, 150, &lans)?;
    let begin = Instant::now();
    // Three intervals and a skew are less than a second.
    wait_true("the wait of a backup to be over", LIMIT, || {
        begin.elapsed() > Duration::from_secs(2)
    })?;
    alone.role.converge()?;
    wait_true("it to be master of both", LIMIT, || alone.holds() == 3)?;
    let told = alone.told()?;
    for who in ["INSTANCE VI_0", "INSTANCE VI_1", "GROUP G"] {
        let states: Vec<&str> =
            told.iter().filter_map(|it| it.strip_prefix(who)).map(str::trim).collect();
        ensure!(states == ["BACKUP", "MASTER"], "{who}: {told:?}");
    }
    Ok(())
}
