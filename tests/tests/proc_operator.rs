//! What an operator asks a running lbd, and what monitoring reads: metrics, status, flows, drain,
//! explain.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Output,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    bpf_stats::BpfStats,
    host::{Host, Program},
    netns::Namespace,
    openmetrics,
    single::{self, LIMIT, OTHER, Single, VIP, config, virtual_server},
    wait::{wait_for, wait_until},
};

const METRICS: &str = "127.0.0.1:9650";

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every metric family that docs/metrics.md has, with its type.
fn documented() -> BTreeMap<String, String> {
    let rows = include_str!("../../docs/metrics.md").lines();
    let row = |line: &str| -> Option<(String, String)> {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        Some((name.to_owned(), cells.next()?.to_owned()))
    };
    rows.filter_map(row).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_taken_metrics_port_is_told_and_bound_when_free() -> Result<()> {
    if !single::ready("proc_operator")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let _server = single.listen_on_other(3306)?;
    let servers = virtual_server(3306, "rr", &[OTHER]);
    let global = format!("metrics_listen {METRICS}");
    single.host.write_config(&config("0.2", &global, "", &servers))?;
    let occupant = single.host.netns().enter(|| TcpListener::bind(METRICS))??;
    single.host.start()?;
    single.wait_master()?;
    // A role that does not answer in time would be another one.
    single
        .wait_status("the problem", |status| status.problems.iter().any(|p| p.contains(METRICS)))?;
    single.wait_log(&format!("metrics_listen {METRICS}"))?;
    let text = stdout(&single.lbctl(&["status"])?);
    ensure!(text.contains(&format!("PROBLEM: metrics_listen {METRICS}")), "{text}");
    drop(occupant);
    single.wait_status("the port bound", |status| status.problems.is_empty())?;
    single.wait_status("a verdict", |status| {
        status.servers.first().is_some_and(|server| format!("{:?}", server.health) == "Up")
    })?;
    // What the forwarder measured reaches the metrics with its next report, after the verdict itself.
    let counted = "lbd_health_to_map_seconds_count";
    let (scrape, verdicts) = wait_for("a measured verdict in the metrics", LIMIT, || {
        let scrape = openmetrics::read(&single.http(METRICS, "/metrics")?)?;
        // Not there while the forwarder does not answer.
        let verdicts = scrape.samples.get(counted).copied().filter(|it| *it >= 1.0);
        Ok(verdicts.map(|verdicts| (scrape, verdicts)))
    })?;
    let documented = documented();
    for (name, family) in &scrape.families {
        ensure!(documented.get(name) == Some(&family.kind), "docs/metrics.md: {name} {family:?}");
    }
    // `perf` statistics of the kernel are off unless somebody switches them on, and this file has no flow_sync.
    let absent =
        |name: &str| name == "lbd_packet_nanoseconds" || name.starts_with("lbd_flow_sync_");
    for name in documented.keys().filter(|name| !absent(name)) {
        ensure!(scrape.families.contains_key(name), "{name} is documented, not exported");
    }
    let samples = scrape.samples;
    let sample = |name: &str| samples.get(name).copied();
    ensure!(sample("lbd_vrrp_state{vrrp_instance=\"VI_1\",state=\"master\"}") == Some(1.0));
    ensure!(sample("lbd_vrrp_became_master_total{vrrp_instance=\"VI_1\"}") == Some(1.0));
    ensure!(sample("lbd_process_restarts_total{role=\"vrrp\"}") == Some(0.0));
    ensure!(sample("lbd_health_to_map_seconds_bucket{le=\"+Inf\"}") == Some(verdicts));
    ensure!(sample("lbd_packets_total{outcome=\"arp\"}").is_some(), "{samples:#?}");
    single.host.stop()
}

/// What /metrics says of VI_1: its state by label, and how often it became and released master.
fn transitions(single: &Single) -> Result<(Vec<String>, [u64; 4])> {
    let samples = openmetrics::read(&single.http(METRICS, "/metrics")?)?.samples;
    let sample = |name: &str, labels: &str| -> Result<f64> {
        let name = format!("{name}{{vrrp_instance=\"VI_1\"{labels}}}");
        samples.get(&name).copied().with_context(|| format!("no {name} in {samples:#?}"))
    };
    let mut states = Vec::new();
    for state in ["init", "backup", "master", "fault"] {
        let value = sample("lbd_vrrp_state", &format!(",state=\"{state}\""))?;
        ensure!(value == 0.0 || value == 1.0, "{state}: {value}");
        if value == 1.0 {
            states.push(state.to_owned());
        }
    }
    let counters = [
        "lbd_vrrp_became_master_total",
        "lbd_vrrp_released_master_total",
        "lbd_vrrp_priority_zero_received_total",
        "lbd_vrrp_vips_set",
    ];
    let mut counted = [0; 4];
    for (count, name) in counted.iter_mut().zip(counters) {
        let value = sample(name, "")?;
        // Whole numbers, and few: the text says each exactly.
        *count = format!("{value}").parse().with_context(|| format!("{name}: {value}"))?;
    }
    Ok((states, counted))
}

/// Each transition is in the metrics: one label of the state is 1 at a time, and each way into and out
/// of MASTER is counted once, whatever was the cause.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_transition_is_counted_and_the_state_in_force_is_labelled() -> Result<()> {
    if !single::ready("proc_operator")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    // Master-down is longer than a moment in which the master's process is not run: a transition more would be counted.
    let text = config("1", &format!("metrics_listen {METRICS}"), "", "");
    let peer_dir = single.dir().join("peer");
    fs::create_dir(&peer_dir)?;
    let mut peer = Host::new(&single.other, Program::Lbd, &peer_dir)?;
    peer.write_config(&config("1", "", "", "").replace("priority 101", "priority 150"))?;
    single.host.write_config(&text)?;
    single.host.start()?;
    single.wait_master()?;
    // Became master, released it, farewells heard; whether the VIP is held.
    let told = |what: &str, state: &str, counts: [u64; 4]| {
        wait_until(
            what,
            LIMIT,
            || {
                let wanted = (vec![state.to_owned()], counts);
                Ok(transitions(&single).is_ok_and(|found| found == wanted).then_some(()))
            },
            || format!("{:?}\n{}", transitions(&single), single.host.log_tail(30)),
        )
    };
    told("the election", "master", [1, 0, 0, 1])?;
    let eth0 = |word| single.host.netns().ip(&["link", "set", "eth0", word]).map(drop);
    eth0("down")?;
    told("a link that is down", "fault", [1, 1, 0, 0])?;
    eth0("up")?;
    told("the link again", "master", [2, 1, 0, 1])?;
    peer.start()?;
    told("a better host", "backup", [2, 2, 0, 0])?;
    peer.stop()?;
    told("its farewell", "master", [3, 2, 1, 1])?;
    // A reload that changes no state changes no count.
    single.host.write_config(&text.replace("priority 101", "priority 102"))?;
    ensure!(single.lbctl(&["reload"])?.status.success());
    told("a reload", "master", [3, 2, 1, 1])?;
    let samples = openmetrics::read(&single.http(METRICS, "/metrics")?)?.samples;
    let priority = samples.get("lbd_vrrp_base_priority{vrrp_instance=\"VI_1\"}").copied();
    ensure!(priority == Some(102.0), "{priority:?}");
    single.host.stop()
}

/// Two servers on one other host by their addresses; both hold the VIP and stay silent about it.
fn serve(other: &Namespace, second: std::net::Ipv4Addr) -> Result<TcpListener> {
    other.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    other.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
    other.ip(&["addr", "add", &format!("{second}/24"), "dev", "eth0"])?;
    other.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
    other.enter(|| TcpListener::bind(("0.0.0.0", 3306)))?.context("cannot listen")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn lbctl_shows_and_steers() -> Result<()> {
    if !single::ready("proc_operator")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let second = std::net::Ipv4Addr::new(10, 79, 0, 3);
    let _server = serve(&single.other, second)?;
    let client = single.plug("client", "10.79.0.50/24")?;
    let good = config("0.2", "", "", &virtual_server(3306, "mh", &[OTHER, second]));
    single.host.write_config(&good)?;
    single.host.start()?;
    single.wait_master()?;
    single.wait_status("two healthy servers", |status| {
        status.forwarder.as_ref().is_some_and(|forwarder| {
            forwarder.virtual_servers.iter().any(|vs| {
                vs.real_servers.len() == 2
                    && vs.real_servers.iter().all(|rs| rs.state == "UP" && rs.problem.is_none())
            })
        })
    })?;
    let vip = SocketAddr::from((VIP, 3306));
    let connect = || -> Result<(TcpStream, SocketAddr)> {
        let stream = client.enter(|| TcpStream::connect_timeout(&vip, LIMIT))??;
        let local = stream.local_addr()?;
        Ok((stream, local))
    };
    let (_stream, from) = connect()?;
    // The client is connected by what its server says; its own last word may still be on its way.
    let established = |client: &str| {
        let flows = || -> Result<Option<()>> {
            let flows = stdout(&single.lbctl(&["flows"])?);
            let is = |line: &str| line.contains(client) && line.contains("established");
            Ok(flows.lines().any(is).then_some(()))
        };
        wait_for(&format!("an established flow of {client}"), LIMIT, flows)
    };
    established(&from.to_string())?;
    let output = single.lbctl(&["flows", "--limit", "1"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.contains("the first 1 connections"), "{output:?}");
    let output = single.lbctl(&["flows"])?;
    ensure!(output.stderr.is_empty(), "all are told: {output:?}");
    let flows = stdout(&output);
    ensure!(flows.contains(&from.to_string()) && flows.contains("established"), "{flows}");
    let json: serde_json::Value =
        serde_json::from_slice(&single.lbctl(&["flows", "--json"])?.stdout)?;
    let flow = json.as_array().and_then(|all| all.first()).context("one flow")?;
    ensure!(flow["client"] == from.to_string(), "{json}");
    let chosen = flow["real_server"].as_str().context("its server")?.to_owned();
    // What explain says about that connection, and foretells about others, is what happens.
    let words = ["explain", &from.to_string(), &vip.to_string()];
    let text = stdout(&single.lbctl(&words)?);
    ensure!(text.contains(&format!("it goes to {chosen}")), "{text}");
    let text = stdout(&single.lbctl(&["explain", "10.79.0.50:40123", &vip.to_string()])?);
    let socket = client.enter(|| -> Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([10, 79, 0, 50], 40123)).into())?;
        socket.connect_timeout(&vip.into(), LIMIT)?;
        Ok(socket.into())
    })??;
    established("10.79.0.50:40123")?;
    let json: serde_json::Value =
        serde_json::from_slice(&single.lbctl(&["flows", "--json"])?.stdout)?;
    let flow = json.as_array().context("flows")?.iter().find(|f| f["client"] == "10.79.0.50:40123");
    let went = flow.context("the flow")?["real_server"].as_str().context("its server")?;
    ensure!(text.contains(&format!("would go to {went}, by its hash")), "{went}: {text}");
    drop(socket);
    let text = stdout(&single.lbctl(&["explain", "tcp/10.79.0.100:3306"])?);
    ensure!(text.contains("vrrp_instance VI_1") && text.contains("10.79.0.2:3306: DR"), "{text}");
    ensure!(stdout(&single.lbctl(&["explain", "nopreempt"])?).contains("vrrp_instance"));
    // Drain: no new connections there, the old one stays; it survives a reload; enable undoes it.
    ensure!(single.lbctl(&["drain", &chosen])?.status.success());
    for _ in 0..8 {
        connect()?;
    }
    let total = |single: &Single| -> Result<BTreeMap<String, u64>> {
        let forwarder = single.host.status()?.forwarder.context("a forwarder")?;
        let vs = forwarder.virtual_servers.first().context("a virtual server")?;
        Ok(vs.real_servers.iter().map(|rs| (rs.addr.to_string(), rs.connections)).collect())
    };
    let before = total(&single)?;
    for _ in 0..8 {
        connect()?;
    }
    let after = total(&single)?;
    ensure!(before.get(&chosen) == after.get(&chosen), "{before:?} {after:?}");
    ensure!(before != after, "nobody took the new connections");
    let text = stdout(&single.lbctl(&["status"])?);
    ensure!(text.contains(&format!("lbctl enable {chosen}")), "{text}");
    for line in text.lines().filter(|line| !line.starts_with("lbd ")) {
        ensure!(line.chars().count() <= 80, "wider than a terminal: {line}\n{text}");
    }
    single.host.write_config(&good.replace("priority 101", "priority 103"))?;
    let output = single.lbctl(&["reload"])?;
    ensure!(output.status.success() && stdout(&output).contains("generation 2"), "{output:?}");
    ensure!(stdout(&single.lbctl(&["status"])?).contains("drained by the operator"));
    ensure!(single.lbctl(&["enable", &chosen])?.status.success());
    let enabled = wait_for("connections on the enabled server", LIMIT, || {
        for _ in 0..4 {
            connect()?;
        }
        Ok((total(&single)?.get(&chosen) > after.get(&chosen)).then_some(()))
    });
    if enabled.is_err() {
        bail!("{:?} after {after:?}", total(&single)?);
    }
    // The same for programs.
    let json = |words: &[&str]| -> Result<serde_json::Value> {
        let output = single.lbctl(&[words, &["--json"]].concat())?;
        ensure!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).with_context(|| format!("{words:?}: {output:?}"))
    };
    for (words, key, part) in [
        (&["drain", &chosen][..], "done", "drained in tcp/10.79.0.100:3306"),
        (&["enable", &chosen], "done", "enabled in tcp/10.79.0.100:3306"),
        (&["reload"], "done", "generation 2 is in force"),
        (&["explain", "nopreempt"], "text", "vrrp_instance"),
        (&["explain", "tcp/10.79.0.100:3306"], "text", "vrrp_instance VI_1"),
    ] {
        let value = json(words)?;
        let text = value[key].as_str().with_context(|| format!("{words:?}: {value}"))?;
        ensure!(text.contains(part), "{words:?}: {value}");
    }
    // What is wrong is said on stderr with exit code 1, as JSON on request.
    for bad in [&["drain", "10.79.0.99:3306"][..], &["explain", "10.79.0.9:1", "10.79.0.8:2"]] {
        let output = single.lbctl(bad)?;
        ensure!(output.status.code() == Some(1) && !output.stderr.is_empty(), "{output:?}");
        let output = single.lbctl(&[bad, &["--json"]].concat())?;
        let value: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.code() == Some(1) && value["error"].is_string(), "{value}");
    }
    // A virtual server's counters never go backwards, whoever leaves its pool.
    let counters = |single: &Single| -> Result<[u64; 4]> {
        let forwarder = single.host.status()?.forwarder.context("a forwarder")?;
        let vs = forwarder.virtual_servers.first().context("a virtual server")?;
        Ok([vs.connections, vs.packets, vs.bytes, vs.unavailable])
    };
    let before = counters(&single)?;
    ensure!(before[..3].iter().all(|count| *count > 0), "{before:?}");
    let one = config("0.2", "", "", &virtual_server(3306, "mh", &[OTHER]));
    single.host.write_config(&one)?;
    ensure!(single.lbctl(&["reload"])?.status.success());
    let after = counters(&single)?;
    ensure!(before.iter().zip(&after).all(|(was, is)| is >= was), "{before:?} {after:?}");
    // Nobody is left to take a connection: the client is refused, and that is counted.
    ensure!(single.lbctl(&["drain", &format!("{OTHER}:3306")])?.status.success());
    ensure!(connect().is_err(), "a drained server took it");
    ensure!(counters(&single)?[3] > before[3], "{:?} {before:?}", counters(&single)?);
    let text = stdout(&single.lbctl(&["status"])?);
    ensure!(text.contains("refused, no real server"), "{text}");
    single.host.stop()?;
    ensure!(single.lbctl(&["status"])?.status.code() == Some(3));
    Ok(())
}

/// `lbctl config`: what is in force, not what the file says now; origins; no secret; a file that lbd
/// takes.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn lbctl_config_shows_what_is_in_force() -> Result<()> {
    if !single::ready("proc_operator")? {
        return Ok(());
    }
    let secret = "authentication {\n auth_type PASS\n auth_pass hunter2\n }";
    let good = config("1", "", secret, "").replace("version 3", "version 2");
    let mut single = Single::start(&good)?;
    single.wait_master()?;
    let path = single.host.config_file();
    single.host.write_config(&good.replace("priority 101", "priority 7"))?;
    let text = stdout(&single.lbctl(&["config"])?);
    let origin = |words: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(words));
        line.and_then(|line| line.split_once("# ")).map(|(_, origin)| origin.to_owned())
    };
    let at = |line: usize| Some(format!("{}:{line}", path.display()));
    let line = good.lines().position(|line| line.contains("priority 101")).context("a line")?;
    ensure!(origin("priority 101 ") == at(line + 1), "{text}");
    ensure!(origin("preempt_delay 0 ").as_deref() == Some("default"), "{text}");
    ensure!(text.contains("auth_pass ***") && !text.contains("hunter2"), "{text}");
    let json = single.lbctl(&["config", "--json"])?;
    ensure!(!stdout(&json).contains("hunter2"));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout)?;
    let blocks = json.as_array().context("blocks")?;
    ensure!(blocks.iter().any(|it| it["words"][1] == "VI_1" && it["origin"]["at"].is_object()));
    let copy = single.dir().join("copy.conf");
    fs::write(&copy, &text)?;
    let output = single.lbd(&["-t", "-f", copy.to_str().context("a path")?])?;
    ensure!(output.status.success(), "{output:?}");
    single.host.stop()
}

/// What a packet costs in the kernel is told where the kernel counts it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_cost_of_a_packet_is_told_when_the_kernel_counts_it() -> Result<()> {
    if !single::ready("proc_operator")? {
        return Ok(());
    }
    let _stats = BpfStats::on()?;
    let mut single = Single::new()?;
    let _server = single.listen_on_other(3306)?;
    let servers = virtual_server(3306, "rr", &[OTHER]);
    let global = format!("metrics_listen {METRICS}");
    single.host.write_config(&config("0.2", &global, "", &servers))?;
    single.host.start()?;
    single.wait_master()?;
    // Adverts and checks alone are packets; each look is about those since the one before.
    let plausible = 1..1_000_000;
    let status = single.wait_status("nanoseconds a packet", |status| {
        status.forwarder.as_ref().is_some_and(|it| it.ns_per_packet.is_some())
    })?;
    let ns = status.forwarder.and_then(|it| it.ns_per_packet).context("told before")?;
    ensure!(plausible.contains(&ns), "{ns} ns");
    wait_for("the same in what a person reads", LIMIT, || {
        let text = stdout(&single.lbctl(&["status"])?);
        Ok(text.contains(" ns per packet").then_some(()))
    })?;
    let documented = documented();
    let metric = wait_for("the same in the metrics", LIMIT, || {
        let scrape = openmetrics::read(&single.http(METRICS, "/metrics")?)?;
        for (name, family) in &scrape.families {
            ensure!(documented.get(name) == Some(&family.kind), "docs/metrics.md: {name}");
        }
        Ok(scrape.samples.get("lbd_packet_nanoseconds").copied())
    })?;
    ensure!((1.0..1e6).contains(&metric), "{metric} ns");
    single.host.stop()
}
