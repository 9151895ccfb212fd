//! Hosts and interfaces that cannot carry the program: told at the first start, and later never a
//! reason to give a VIP away. A macvlan has no native XDP; a kernel without bpf(2) is
//! imitated by a seccomp filter that answers as such a kernel does.

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::Namespace,
    single::{self, LIMIT, NOBODY, OTHER, Single, VIP, config, instance, virtual_server},
};
use lb_userspace::base::status::{ForwarderStatus, Status};
use nix::sys::signal::Signal;

const NO_XDP: &str = "attach to mac0: its driver has no native XDP";

fn add_macvlan(netns: &Namespace) -> Result<()> {
    netns.ip(&["link", "add", "base0", "type", "veth", "peer", "name", "base1"])?;
    netns.ip(&["link", "set", "base0", "up"])?;
    netns.ip(&["link", "set", "base1", "up"])?;
    netns.ip(&["link", "add", "link", "base0", "name", "mac0", "type", "macvlan"])?;
    netns.ip(&["address", "add", "10.80.0.1/24", "dev", "mac0"])?;
    netns.ip(&["link", "set", "mac0", "up"])?;
    Ok(())
}

fn on_macvlan(text: &str) -> String {
    text.replace("interface eth0", "interface mac0")
}

fn forwarder(status: &Status) -> Result<&ForwarderStatus> {
    status.forwarder.as_ref().context("the forwarder's status")
}

/// Keys, real servers and interfaces in force.
fn table(status: &Status) -> Result<Vec<String>> {
    let forwarder = forwarder(status)?;
    let servers = forwarder.virtual_servers.iter().flat_map(|vs| {
        vs.real_servers.iter().map(move |rs| format!("{} {} {}", vs.key, rs.addr, rs.state))
    });
    let interfaces = forwarder.interfaces.iter().map(|it| format!("{} {}", it.name, it.mode));
    Ok(servers.chain(interfaces).collect())
}

/// Still the master it was, by the processes it had.
fn untouched(single: &Single) -> Result<Status> {
    let status = single.host.status()?;
    let vrrp = instance(&status)?;
    ensure!(single.host.has(VIP)? && vrrp.counters.become_master == 1, "{vrrp:?}");
    Ok(status)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reload_onto_an_interface_without_xdp_is_refused_and_changes_nothing() -> Result<()> {
    if !single::ready("plane_absent")? {
        return Ok(());
    }
    let good = config("0.2", "", "", &virtual_server(3306, "rr", &[OTHER]));
    let mut single = Single::start(&good)?;
    let _listener = single.listen_on_other(3306)?;
    single.wait_master()?;
    // A server is up before its checker is there.
    single.wait_status("a server in force, and every role ready", |status| {
        table(status).is_ok_and(|table| table.iter().any(|line| line.ends_with("3306 UP")))
            && status.processes.iter().all(|it| it.ready)
    })?;
    add_macvlan(single.host.netns())?;
    let before = table(&single.host.status()?)?;
    let second = config("0.2", "", "", "").replace("VI_1", "VI_2").replace("_id 51", "_id 52");
    let second = on_macvlan(&second).replace(&VIP.to_string(), "10.80.0.100");
    let second = second.get(second.find("vrrp_instance").context("a block")?..).context("text")?;
    let behind = [OTHER, "10.80.0.3".parse()?];
    let bad = [
        ("an instance on it", format!("{good}\n{second}")),
        ("the instance moved to it", on_macvlan(&good)),
        ("a real server behind it", config("0.2", "", "", &virtual_server(3306, "rr", &behind))),
    ];
    let mut refused = 0;
    for (what, text) in bad {
        single.host.write_config(&text)?;
        let output = single.lbctl(&["reload"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{what}: {output:?}");
        ensure!(said.contains(NO_XDP), "{what}: {said}");
        ensure!(said.contains("generation 1 stays in force"), "{what}: {said}");
        refused += 1;
        // By SIGHUP nobody waits for the answer.
        single.host.signal_main(Signal::SIGHUP)?;
        refused += 1;
        single.wait_status("the refusal", |status| status.reload_failures == refused)?;
        let status = untouched(&single).context(what)?;
        ensure!(status.config_generation == 1 && status.vrrp.len() == 1, "{what}: {status:?}");
        ensure!(table(&status)? == before, "{what}: {:?} was {before:?}", table(&status)?);
        let processes = &status.processes;
        ensure!(processes.iter().all(|it| it.ready && it.restarts == 0), "{what}: {processes:?}");
        let text = String::from_utf8(single.lbctl(&["status"])?.stdout)?;
        ensure!(text.contains("PROBLEM: the last reload was refused, generation 1"), "{text}");
    }
    single.host.write_config(&good.replace("priority 101", "priority 102"))?;
    let output = single.lbctl(&["reload"])?;
    ensure!(output.status.success(), "{output:?}");
    let status = untouched(&single)?;
    ensure!(status.config_generation == 2 && status.last_reload_error.is_none(), "{status:?}");
    single.host.stop()
}

/// The way to a real server moves to an interface without XDP: that is said, and neither a reload nor
/// a new forwarder process makes more of it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_way_that_moves_there_is_a_problem_and_no_end() -> Result<()> {
    if !single::ready("plane_absent")? {
        return Ok(());
    }
    let good = config("0.2", "", "", &virtual_server(3306, "rr", &[OTHER, NOBODY]));
    let mut single = Single::start(&good)?;
    let _listener = single.listen_on_other(3306)?;
    single.wait_master()?;
    add_macvlan(single.host.netns())?;
    let nobody = NOBODY.to_string();
    single.host.netns().ip(&["route", "add", &nobody, "dev", "mac0"])?;
    let told = |status: &Status| status.problems.iter().any(|problem| problem.contains(NO_XDP));
    single.wait_status("the problem", told)?;
    single.host.kill_role("forwarder")?;
    single.wait_status("the problem, said by a new forwarder", |status| {
        told(status) && status.processes.iter().any(|it| it.restarts == 1 && !it.ready)
    })?;
    untouched(&single)?;
    single.host.write_config(&good.replace("priority 101", "priority 102"))?;
    single.host.signal_main(Signal::SIGHUP)?;
    single.wait_status("the new priority beside the problem", |status| {
        told(status) && instance(status).is_ok_and(|vrrp| vrrp.base_priority == 102)
    })?;
    let status = untouched(&single)?;
    let lines = table(&status)?;
    ensure!(lines.iter().any(|line| line == "eth0 native"), "{lines:?}");
    let text = String::from_utf8(single.lbctl(&["status"])?.stdout)?;
    ensure!(text.contains("PROBLEM: no engine: xdp failed because"), "{text}");
    // The way comes back: all is well by itself.
    single.host.netns().ip(&["route", "del", &nobody, "dev", "mac0"])?;
    single.wait_status("no problem", |status| {
        !told(status) && status.processes.iter().all(|it| it.ready)
    })?;
    untouched(&single)?;
    single.host.stop()
}

fn ends_with(mut single: Single, sentence: &str) -> Result<()> {
    single.host.start()?;
    // A start, programs that are verified, and an orderly stop.
    let code = single.host.wait_exit(3 * LIMIT)?;
    let log = single.log();
    ensure!(code == Some(1), "exit code {code:?}\n{log}");
    ensure!(log.contains("no engine: xdp failed because"), "{log}");
    ensure!(log.contains(sentence) && log.contains("the kernel has no IPVS"), "{sentence}\n{log}");
    ensure!(!single.host.has(VIP)?, "the VIP is left");
    let pins = single.host.pin_dir();
    ensure!(!pins.exists(), "{} is left: {:?}", pins.display(), pins.read_dir()?.next());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_first_start_without_an_engine_ends_with_a_sentence() -> Result<()> {
    if !single::ready("plane_absent")? {
        return Ok(());
    }
    let text = config("0.2", "", "", &virtual_server(3306, "rr", &[OTHER]));
    let single = Single::new()?;
    add_macvlan(single.host.netns())?;
    single.host.write_config(&on_macvlan(&text))?;
    ends_with(single, NO_XDP)?;
    let mut single = Single::new()?;
    single.host.without_bpf();
    single.host.write_config(&text)?;
    ends_with(single, "Function not implemented")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_virtual_servers_vrrp_runs_unfenced_and_takes_none_later() -> Result<()> {
    if !single::ready("plane_absent")? {
        return Ok(());
    }
    let plain = config("0.2", "", "", "");
    let with = config("0.2", "", "", &virtual_server(3306, "rr", &[OTHER]));
    for bpf in [true, false] {
        let mut single = Single::new()?;
        let place: fn(&str) -> String = if bpf {
            add_macvlan(single.host.netns())?;
            on_macvlan
        } else {
            single.host.without_bpf();
            str::to_owned
        };
        single.host.write_config(&place(&plain))?;
        single.host.start()?;
        single.wait_master()?;
        single.wait_log("this host cannot fence itself: ")?;
        single.wait_status("every role ready", |status| {
            status.processes.len() == 4 && status.processes.iter().all(|it| it.ready)
        })?;
        single.host.write_config(&place(&with))?;
        let output = single.lbctl(&["reload"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(said.contains("no engine: xdp failed because"), "{said}");
        ensure!(said.contains("generation 1 stays in force"), "{said}");
        let status = untouched(&single)?;
        ensure!(status.processes.iter().all(|it| it.restarts == 0), "{:?}", status.processes);
        single.host.write_config(&place(&plain.replace("priority 101", "priority 102")))?;
        ensure!(single.lbctl(&["reload"])?.status.success());
        untouched(&single)?;
        single.host.stop()?;
    }
    Ok(())
}
