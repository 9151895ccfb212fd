//! Routes that are there as they are wanted are not touched, and those that an interface took with it
//! come back: as the kernel tells it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    links::{config, has, ip_json, master, route_to, routes},
    netns::{Namespace, ready_or_skip},
    vrrp::{RoleThread, cable, dual_cable},
    wait::wait_true,
};
use lb_userspace::base::{net::Priority, status::VrrpState};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

macro_rules! root_test {
    ($name:ident, $body:expr) => {
        #[test]
        #[ignore = "needs root: cargo xtask test"]
        fn $name() -> Result<()> {
            if !ready_or_skip("vrrp_routes")? {
                return Ok(());
            }
            $body
        }
    };
}

/// What the kernel tells of routes.
struct Monitor<'a> {
    netns: &'a Namespace,
    child: Child,
    lines: mpsc::Receiver<String>,
    marks: u8,
}

impl<'a> Monitor<'a> {
    fn new(netns: &'a Namespace) -> Result<Self> {
        let mut command = netns.command("ip");
        command.args(["-o", "monitor", "route"]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("its output")?;
        let (said, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        let mut monitor = Self { netns, child, lines, marks: 0 };
        monitor.until_now().context("the monitor is not there")?;
        Ok(monitor)
    }

    /// What was told since the last call: up to a route of our own, which is told last.
    fn until_now(&mut self) -> Result<Vec<String>> {
        let deadline = Instant::now() + SECONDS(20);
        let mut told = vec![];
        while Instant::now() < deadline {
            self.marks = self.marks.wrapping_add(1);
            let mark = format!("203.0.113.{}", self.marks);
            self.netns.ip(&["route", "add", "blackhole", &mark])?;
            self.netns.ip(&["route", "del", "blackhole", &mark])?;
            // Before it listens it hears nothing of a mark, and gets another one.
            let wait = Instant::now() + SECONDS(2);
            while let Ok(line) =
                self.lines.recv_timeout(wait.saturating_duration_since(Instant::now()))
            {
                if line.contains("Deleted") && line.contains(&format!("{mark} ")) {
                    return Ok(told);
                }
                // The kernel's own come when addresses do.
                let kernels = line.contains("proto kernel") || line.contains("203.0.113.");
                told.extend(Some(line).filter(|_| !kernels));
            }
        }
        bail!("the kernel's messages do not come: {told:?}")
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ROUTES: &str =
    "10.80.0.0/16 via 10.77.0.2 dev eth0 src 10.77.0.100 metric 50 mtu lock 1400 rtt 20
 10.80.0.0/16 via 10.77.0.3 metric 60
 blackhole 10.81.0.0/16 table 77
 10.82.0.0/16 nexthop via 10.77.0.2 weight 2 nexthop via 10.77.0.3 weight 1
 10.83.0.0/16 dev eth0 scope link
 10.84.0.0/16 via 10.99.0.1 dev eth0 onlink
 10.85.0.0/16 via 10.77.0.2 table 70000
 unreachable 10.86.0.0/16
 fd80::/32 via fd77::2 dev eth0 pref high
 fd81::/32 via fd77::2 metric 7 mtu 1300
 fd82::/32 nexthop via fd77::2 dev eth0 weight 2 nexthop via fd77::3 dev eth0 weight 1
 blackhole fd83::/32
 fd84::/32 dev eth0
";

fn count(netns: &Namespace) -> usize {
    routes(netns, false).len() + routes(netns, true).len()
}

fn has_rule(netns: &Namespace, priority: u32) -> bool {
    let rules = ip_json(netns, &["rule", "show"]).unwrap_or_default();
    rules.iter().any(|rule| rule["priority"] == priority)
}

root_test!(a_route_that_is_as_it_is_wanted_is_not_touched, {
    let (lb, _peer) = dual_cable()?;
    lb.ip(&["address", "add", "fd77::1/64", "dev", "eth0"])?;
    let text = |routes: &str, rule: u32| {
        config(
            &format!(
                "virtual_ipaddress {{\n 10.77.0.100/24\n}}\n\
                 virtual_ipaddress_excluded {{\n 10.77.0.101/24 no_track\n}}\n\
                 virtual_routes {{\n {routes}\n}}\n\
                 virtual_rules {{\n from 10.77.0.100 table 77 priority {rule} no_track\n}}"
            ),
            "",
        )
    };
    let mut role = RoleThread::start_with(&lb, text(ROUTES, 1000)?)?;
    master(&mut role)?;
    wait_true("all routes", SECONDS(10), || count(&lb) == 13 && has_rule(&lb, 1000))?;
    let mut monitor = Monitor::new(&lb)?;
    // A rule comes last of what a request puts on: requests before it are done.
    role.reload(text(ROUTES, 1000)?)?;
    role.reload(text(ROUTES, 1001)?)?;
    wait_true("the reload", SECONDS(10), || has_rule(&lb, 1001) && !has_rule(&lb, 1000))?;
    let told = monitor.until_now()?;
    ensure!(told.is_empty(), "a reload: {told:#?}");
    let repairs = |what: &[&str], there: &dyn Fn() -> bool| -> Result<()> {
        lb.ip(what)?;
        wait_true("the repair", SECONDS(10), there)
    };
    repairs(&["rule", "del", "priority", "1001"], &|| has_rule(&lb, 1001))?;
    let told = monitor.until_now()?;
    ensure!(told.is_empty(), "a repair: {told:#?}");
    second(&lb)?;
    role.reload(text(ROUTES, 1002)?)?;
    wait_true("the reload", SECONDS(10), || has_rule(&lb, 1002))?;
    let told: Vec<String> = monitor
        .until_now()?
        .into_iter()
        .filter(|line| !line.contains("eth1") && !line.contains("far1"))
        .collect();
    ensure!(told.is_empty(), "another interface: {told:#?}");
    // What differs is changed, and nothing else.
    let changed = ROUTES
        .replace("mtu lock 1400", "mtu lock 1300")
        .replace("mtu 1300\n fd82", "mtu 1290\n fd82");
    role.reload(text(&changed, 1003)?)?;
    wait_true("the reload", SECONDS(10), || has_rule(&lb, 1003))?;
    let told = monitor.until_now()?;
    let others = told.iter().filter(|line| !line.contains("metric 50") && !line.contains("fd81"));
    let others: Vec<&String> = others.collect();
    ensure!(!told.is_empty() && others.is_empty(), "a change of two: {told:#?}");
    let new = route_to(&lb, "10.80.0.0/16").context("the route")?;
    ensure!(new["metrics"][0]["mtu"] == 1300, "{new}");
    // One of ours that somebody has changed is put in order; somebody else's is left alone.
    lb.ip(&[
        "route",
        "change",
        "10.85.0.0/16",
        "via",
        "10.77.0.2",
        "table",
        "70000",
        "proto",
        "18",
        "mtu",
        "1234",
    ])?;
    role.reload(text(&changed, 1004)?)?;
    wait_true("the reload", SECONDS(10), || has_rule(&lb, 1004))?;
    let mended = route_to(&lb, "10.85.0.0/16").context("the route")?;
    ensure!(mended["metrics"].is_null(), "{mended}");
    ensure!(count(&lb) == 13 && role.status()?.counters.become_master == 1);
    role.finish()?;
    ensure!(count(&lb) == 0, "left behind");
    Ok(())
});

// The kernel cuts these numbers, and does not tell one of zero.
root_test!(a_route_whose_metrics_the_kernel_cuts_is_not_touched, {
    let (lb, _peer) = dual_cable()?;
    lb.ip(&["address", "add", "fd77::1/64", "dev", "eth0"])?;
    let text = |rule: u32| {
        config(
            &format!(
                "virtual_ipaddress {{\n 10.77.0.100/24\n}}\n\
                 virtual_routes {{\n 10.80.0.0/16 via 10.77.0.2 mtu lock 65535 hoplimit 255\n \
                 10.81.0.0/16 via 10.77.0.2 advmss 65535 window 0\n \
                 10.82.0.0/16 via 10.77.0.2 hoplimit 300 mtu 70000\n \
                 fd81::/32 via fd77::2 mtu 65533 advmss 65500 rtt 0\n}}\n\
                 virtual_rules {{\n from 10.77.0.100 table 77 priority {rule} no_track\n}}"
            ),
            "",
        )
    };
    let mut role = RoleThread::start_with(&lb, text(1000)?)?;
    master(&mut role)?;
    wait_true("all routes", SECONDS(10), || count(&lb) == 4 && has_rule(&lb, 1000))?;
    let cut = route_to(&lb, "10.82.0.0/16").context("the route")?;
    ensure!(cut["metrics"][0]["mtu"] == 65_520 && cut["metrics"][0]["hoplimit"] == 255, "{cut}");
    let mut monitor = Monitor::new(&lb)?;
    role.reload(text(1001)?)?;
    wait_true("the reload", SECONDS(10), || has_rule(&lb, 1001))?;
    let told = monitor.until_now()?;
    ensure!(told.is_empty(), "a reload: {told:#?}");
    role.finish()?;
    ensure!(count(&lb) == 0, "left behind");
    Ok(())
});

// As many as there may be VIPs: a reload that leaves them alone looks at each once.
root_test!(thousands_of_routes_are_compared_in_a_moment, {
    let (lb, _peer) = cable()?;
    let routes: String = (0..4096)
        .map(|n| format!(" 10.{}.{}.0/24 via 10.77.0.2\n", 100 + n / 256, n % 256))
        .collect();
    let text = |rule: u32| {
        config(
            &format!(
                "virtual_ipaddress {{\n 10.77.0.100/24\n}}\nvirtual_routes {{\n{routes}}}\n\
                 virtual_rules {{\n from 10.77.0.100 table 77 priority {rule} no_track\n}}"
            ),
            "",
        )
    };
    let mut role = RoleThread::start_with(&lb, text(1000)?)?;
    master(&mut role)?;
    wait_true("all routes", SECONDS(30), || has_rule(&lb, 1000))?;
    ensure!(count(&lb) == 4096, "{}", count(&lb));
    let other = text(1001)?;
    let since = Instant::now();
    role.reload(other)?;
    wait_true("the reload", SECONDS(60), || has_rule(&lb, 1001))?;
    let took = since.elapsed();
    println!("4,096 routes are looked at in {took:?}");
    // 16 million comparisons are half a minute of a test build.
    ensure!(took < SECONDS(10), "{took:?}");
    ensure!(count(&lb) == 4096);
    role.finish()?;
    ensure!(count(&lb) == 0, "left behind");
    Ok(())
});

root_test!(a_static_object_that_fails_leaves_the_others_alone, {
    let (lb, _peer) = cable()?;
    let rest = "global_defs {\n dynamic_interfaces\n}\n\
                static_ipaddress {\n 10.88.0.1/32 dev away0\n}\n\
                static_routes {\n 10.85.0.0/16 via 10.77.0.2 dev eth0\n 10.86.0.0/16 via 10.77.0.2\n}\n";
    let words = "virtual_ipaddress {\n 10.77.0.100\n}";
    let role = RoleThread::start_with(&lb, config(words, rest)?)?;
    wait_true("the routes", SECONDS(10), || count(&lb) == 2)?;
    let mut monitor = Monitor::new(&lb)?;
    // The address is tried again each second.
    std::thread::sleep(Duration::from_millis(2500));
    let told = monitor.until_now()?;
    ensure!(told.is_empty(), "{told:#?}");
    lb.ip(&["link", "add", "away0", "type", "veth", "peer", "name", "away1"])?;
    wait_true("the address", SECONDS(10), || has(&lb, "away0", "10.88.0.1/32"))?;
    let told: Vec<String> =
        monitor.until_now()?.into_iter().filter(|line| !line.contains("away")).collect();
    ensure!(told.is_empty(), "{told:#?}");
    role.finish()?;
    ensure!(count(&lb) == 0, "left behind");
    Ok(())
});

/// A second interface, 10.78.0.1/24.
fn second(lb: &Namespace) -> Result<()> {
    lb.ip(&["link", "add", "eth1", "type", "veth", "peer", "name", "far1"])?;
    lb.ip(&["address", "add", "10.78.0.1/24", "dev", "eth1"])?;
    lb.ip(&["link", "set", "far1", "up"])?;
    lb.ip(&["link", "set", "eth1", "up"]).map(drop)
}

fn flap(lb: &Namespace, interface: &str, all: &[&str]) -> Result<()> {
    let there = |to: &&str| route_to(lb, to).is_some();
    wait_true("the routes", SECONDS(10), || all.iter().all(there))?;
    lb.ip(&["link", "set", interface, "down"])?;
    ensure!(!all.iter().any(there), "the kernel does not take them");
    lb.ip(&["link", "set", interface, "up"])?;
    wait_true("the routes again", SECONDS(20), || all.iter().all(there))
}

root_test!(routes_come_back_with_the_link_that_took_them, {
    let (lb, _peer) = cable()?;
    second(&lb)?;
    let rest =
        "static_routes {\n 10.85.0.0/16 via 10.78.0.2 dev eth1\n 10.86.0.0/16 via 10.78.0.2\n}\n";
    let words = "virtual_ipaddress {\n 10.77.0.100\n}\n\
                 virtual_routes {\n 10.80.0.0/16 via 10.78.0.2 dev eth1 no_track\n 10.81.0.0/16 via 10.78.0.2\n}";
    let mut role = RoleThread::start_with(&lb, config(words, rest)?)?;
    master(&mut role)?;
    let all = ["10.80.0.0/16", "10.81.0.0/16", "10.85.0.0/16", "10.86.0.0/16"];
    for _ in 0..2 {
        flap(&lb, "eth1", &all)?;
    }
    let status = role.status()?;
    ensure!(status.state == VrrpState::Master && status.counters.become_master == 1, "{status:?}");
    role.finish()?;
    ensure!(count(&lb) == 0, "left behind");
    Ok(())
});

root_test!(routes_come_back_after_a_flap_that_is_no_fault, {
    for (word, rest) in
        [("dont_track_primary", ""), ("", "interface_up_down_delays {\n eth0 25 1\n}")]
    {
        let (lb, _peer) = cable()?;
        let words = format!(
            "{word}\n virtual_ipaddress {{\n 10.77.0.100\n}}\n\
             virtual_routes {{\n 10.80.0.0/16 via 10.77.0.2 dev eth0\n}}"
        );
        let mut config = config(&words, rest)?;
        // A lease that ran out would put all on again.
        config.vrrp_instances[0].advert_int = SECONDS(30);
        for delay in &mut config.link_delays {
            delay.down = SECONDS(25);
        }
        config.vrrp_instances[0].priority = Priority(255);
        let mut role = RoleThread::start_with(&lb, config)?;
        master(&mut role)?;
        flap(&lb, "eth0", &["10.80.0.0/16"]).with_context(|| format!("{word}{rest}"))?;
        let counters = role.status()?.counters;
        ensure!(counters.become_master == 1 && counters.release_master == 0, "{counters:?}");
        role.finish()?;
    }
    Ok(())
});
