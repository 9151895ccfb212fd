//! vrrp_sync_group on real interfaces: two LANs between two hosts, an instance on each, and both
//! move together, told in order.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    netns::{Namespace, Port, Switch, ready_or_skip},
    vrrp::{RoleThread, Sniffer, is_vrrp},
    wait::wait_true,
};
use lb_userspace::{
    base::status::{InstanceStatus, VrrpState},
    config::{load, model::Config},
    process::ipc::{Down, Query, Reply, ScriptDone, ScriptOutcome, Up},
    vrrp::notify::Notification,
};

const LIMIT: Duration = Duration::from_secs(20);

/// Two instances in one group, on eth0 and eth1.
fn config(priority: u8) -> Result<Config> {
    with(priority, "", "")
}

/// [`config`] with more words of the group, and of the file.
fn with(priority: u8, words: &str, rest: &str) -> Result<Config> {
    let instance = |number: u8| {
        format!(
            "vrrp_instance VI_{number} {{\n interface eth{number}\n virtual_router_id 5{number}\n \
             version 3\n advert_int 0.2\n priority {priority}\n notify /bin/true\n \
             virtual_ipaddress {{\n  10.77.{number}.100/24\n }}\n}}\n"
        )
    };
    let text = format!(
        "global_defs {{\n script_user root\n}}\nvrrp_sync_group G {{\n group {{\n  VI_0\n  VI_1\n \
         }}\n notify /bin/true\n{words}\n}}\n{}{}{rest}",
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
    /// What [`Site::answers`] was told.
    heard: Vec<String>,
}

/// `INSTANCE VI_0 MASTER`
fn args(told: Notification) -> Vec<String> {
    let scripts = told.scripts.into_iter();
    scripts.map(|script| script.args.get(..3).unwrap_or_default().join(" ")).collect()
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
        Ok(Self { netns, ports, role, heard: vec![] })
    }

    /// Answers its scripts with this exit code, and asks for its status meanwhile, until `over` of
    /// the number of answers, and of priority and state of its instances.
    fn answers(
        &mut self,
        what: &str,
        exit: i32,
        over: impl Fn(&Self, usize, &[(u8, VrrpState)]) -> bool,
    ) -> Result<()> {
        let (begin, mut answered, mut stand) = (Instant::now(), 0, vec![]);
        while begin.elapsed() < LIMIT {
            self.role.say(Down::Query { id: 7, query: Query::Status })?;
            let pause = Instant::now() + Duration::from_millis(20);
            while Instant::now() < pause {
                match self.role.up.try_recv() {
                    Ok(Up::Script(run)) if run.reply => {
                        let (id, outcome) = (run.id, ScriptOutcome::Exit(exit));
                        let done = ScriptDone { id, outcome, elapsed: Duration::ZERO };
                        self.role.say(Down::ScriptDone(done))?;
                        answered += 1;
                    }
                    Ok(Up::Reply { id: 7, reply: Reply::Vrrp { instances, .. } }) => {
                        let of = |it: &InstanceStatus| (it.effective_priority, it.state);
                        stand = instances.iter().map(of).collect();
                    }
                    Ok(Up::Notify(told)) => self.heard.extend(args(told)),
                    Ok(_) => {}
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
            if over(self, answered, &stand) {
                return Ok(());
            }
        }
        bail!("{what}: not within {LIMIT:?}; {answered} answers, {stand:?}, {:?}", self.heard)
    }

    /// The VIPs it holds, one bit a LAN.
    fn holds(&self) -> u8 {
        let has = |number: u8| self.netns.has_address([10, 77, number, 100]).unwrap_or(false);
        u8::from(has(0)) | u8::from(has(1)) << 1
    }

    /// What its instances and its group said, as `INSTANCE VI_0 MASTER`.
    fn told(self) -> Result<Vec<String>> {
        let said = self.role.finish()?;
        let told = said.into_iter().filter_map(|said| match said {
            Up::Notify(told) => Some(args(told)),
            _ => None,
        });
        Ok(told.flatten().collect())
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

/// What the group tracks counts for all its members: a script without weight, one with a weight where
/// `sync_group_tracking_weight` says so, an interface that no member is on.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_a_group_tracks_moves_both() -> Result<()> {
    if !ready_or_skip("vrrp_groups")? {
        return Ok(());
    }
    let lans = [Switch::new("lan0")?, Switch::new("lan1")?];
    let mut high = Site::new("high", 10, 150, &lans)?;
    let low = Site::new("low", 11, 100, &lans)?;
    high.netns.ip(&["link", "add", "eth2", "type", "veth", "peer", "name", "far2"])?;
    high.netns.ip(&["link", "set", "far2", "up"])?;
    let eth2 = |netns: &Namespace, to: &str| netns.ip(&["link", "set", "eth2", to]).map(drop);
    eth2(&high.netns, "up")?;
    let script = |weight: &str| {
        format!(
            "vrrp_script chk {{\n script /bin/true\n interval 0.1\n rise 1\n fall 1\n{weight}\n}}\n"
        )
    };
    let tracks =
        |words: &str| format!("track_script {{\n chk\n}}\ntrack_interface {{\n eth2\n}}\n{words}");
    use VrrpState::{Backup, Fault, Master};
    low.role.converge()?;
    high.role.converge()?;
    high.role.reload(with(150, &tracks(""), &script(""))?)?;
    let masters = |it: &Site, stand: &[(u8, VrrpState)]| {
        it.holds() == 3 && low.holds() == 0 && stand == [(150, Master); 2]
    };
    let moved = |it: &Site| it.holds() == 0 && low.holds() == 3;
    high.answers("good: master of both", 0, |it, _, stand| masters(it, stand))?;
    high.heard.clear();
    high.answers("bad: both in FAULT", 1, |it, _, stand| moved(it) && stand == [(150, Fault); 2])?;
    let faults = |heard: &[String]| heard.iter().filter(|it| it.ends_with(" FAULT")).count();
    ensure!(faults(&high.heard) == 3 && high.heard.contains(&"GROUP G FAULT".to_owned()));
    high.answers("good again", 0, |it, _, stand| masters(it, stand))?;

    eth2(&high.netns, "down")?;
    high.answers("eth2 down", 0, |it, _, stand| moved(it) && stand == [(150, Fault); 2])?;
    eth2(&high.netns, "up")?;
    high.answers("eth2 up again", 0, |it, _, stand| masters(it, stand))?;

    // A weight in a group counts if it is asked for.
    high.role.reload(with(150, &tracks(""), &script("weight -100"))?)?;
    high.heard.clear();
    // Such a script is not even run.
    high.answers("still master", 1, |it, _, stand| masters(it, stand))?;
    ensure!(high.heard.is_empty(), "{:?}", high.heard);
    let weighs = with(150, &tracks("sync_group_tracking_weight"), &script("weight -100"))?;
    high.role.reload(weighs)?;
    let lowered = |it: &Site, stand: &[(u8, VrrpState)]| moved(it) && stand == [(50, Backup); 2];
    high.answers("the weight counts", 1, |it, _, stand| lowered(it, stand))?;
    high.answers("and is taken back", 0, |it, _, stand| masters(it, stand))?;
    ensure!(faults(&high.heard) == 0, "{:?}", high.heard);
    high.told()?;
    low.told()?;
    Ok(())
}
