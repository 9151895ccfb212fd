//! The product in its lab: the script of events in every mode, who is told of what has gone, and the tutorial's
//! check scripts.

use std::{
    io::{ErrorKind, Read as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{ROLES, daemon_pids},
    lab::{Lab, Mode, Spec, VIP},
    mariadb::{APP_PASSWORD, APP_USER, PORT},
    process::Process,
    running::{Running, by_xdp, connect, stalls, took},
    script,
    traffic::Traffic,
    tutorial::Script,
    wait::wait_until,
};
use nix::{sys::signal::Signal, unistd::Pid};

/// Every event of `cargo xtask run --once`, every expectation held.
fn script_holds(spec: Spec) -> Result<()> {
    let Some(mut running) = Running::start("e2e_lab", spec)? else { return Ok(()) };
    let load = running.lab.load();
    let traffic = Traffic::start(&running.lab.client, load)?;
    let report = script::run(
        &mut running.lab,
        &traffic,
        &running.sampler,
        &|| false,
        script::Part::default(),
        &mut |lines| println!("{lines}"),
    );
    drop(traffic);
    let broken: Vec<_> = report
        .events
        .iter()
        .filter(|event| !event.problems.is_empty())
        .map(|event| format!("{}: {}", event.event, event.problems.join("; ")))
        .collect();
    let error = report.error.unwrap_or_default();
    ensure!(report.passed, "not as expected:\n{}\n{error}", broken.join("\n"));
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn script_of_events_holds_in_dr() -> Result<()> {
    script_holds(Spec::new(Mode::Dr))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn script_of_events_holds_in_nat() -> Result<()> {
    script_holds(Spec::new(Mode::Nat))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn script_of_events_holds_in_local_mode() -> Result<()> {
    script_holds(Spec::new(Mode::Local))
}

/// Least connections by XDP, translated: what a failover leaves of a session is reset, and nothing hangs.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn script_of_events_holds_in_nat_by_xdp() -> Result<()> {
    script_holds(by_xdp(Spec::new(Mode::Nat)))
}

/// The tutorial's pair by XDP.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn script_of_events_holds_in_local_mode_by_xdp() -> Result<()> {
    script_holds(by_xdp(Spec::new(Mode::Local)))
}

/// The script of events by XDP. Under mh a session survives failover too: the hash finds its server again.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn sessions_survive_failover_under_mh_by_xdp() -> Result<()> {
    script_holds(by_xdp(under_mh(Mode::Dr)))
}

/// By NAT and XDP too: the other host knows no connection of the first, finds its server by the hash and translates
/// as the first did.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn sessions_survive_failover_under_mh_by_nat_and_xdp() -> Result<()> {
    script_holds(by_xdp(under_mh(Mode::Nat)))
}

fn under_mh(mode: Mode) -> Spec {
    let mut spec = Spec::new(mode);
    spec.scheduler = "mh".to_owned();
    spec
}

/// Clients of who has gone are told within a second, and it takes a look of `wait` to see it.
const TOLD: Duration = Duration::from_millis(1010);

/// A query that takes longer than the test, through the VIP; waits until `server` works on it.
fn long_query(lab: &mut Lab, server: u32) -> Result<Process> {
    let mut command = lab.client.command("mysql");
    command.arg(format!("-h{VIP}")).arg(format!("-u{APP_USER}"));
    command.arg(format!("-p{APP_PASSWORD}")).args(["-e", "SELECT SLEEP(60)"]);
    let log = lab.dir().join(format!("query-{server}.log"));
    let query = lab.client.spawn("a long query", command, Some(&log))?;
    let db = &lab.server(server)?.db;
    let count =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(60)'";
    wait_until(
        &format!("db{server} to work on the query"),
        Duration::from_secs(20),
        || Ok((db.sql(count)?.trim() == "1").then_some(())),
        || query.log_tail(5),
    )?;
    Ok(query)
}

fn ends_with_an_error(query: &mut Process, stalls: &Traffic, begin: Instant) -> Result<()> {
    let at_once = query.exited()?.is_some();
    let status = query.wait_exit(Duration::from_secs(10))?;
    let took = took(stalls, begin)?;
    ensure!(at_once || took <= TOLD, "it ended after {took:?}");
    let log = query.log_tail(5);
    ensure!(!status.success() && log.contains("Lost connection"), "{status}\n{log}");
    Ok(())
}

/// Without a virtual server the host's own mysqld is just answering when the VIP leaves, by an orderly
/// stop and by a preempting return: the client is told by a RST, which the fence does not hold back.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_query_under_way_ends_with_the_vip() -> Result<()> {
    let Some(mut running) = Running::start("e2e_lab", Spec::new(Mode::Local))? else {
        return Ok(());
    };
    let lab = &mut running.lab;
    let stalls = stalls(lab)?;
    let mut query = long_query(lab, 1)?;
    let begin = Instant::now();
    lab.hosts[0].stop()?;
    ends_with_an_error(&mut query, &stalls, begin)?;
    wait_until(
        "lb2 to be master",
        Duration::from_secs(10),
        || Ok((lab.master().ok() == Some(1)).then_some(())),
        || lab.hosts[1].log_tail(30),
    )?;
    let mut query = long_query(lab, 2)?;
    lab.hosts[0].start()?;
    let sampler = &running.sampler;
    wait_until(
        "lb2 to fence itself",
        Duration::from_secs(30),
        || Ok((sampler.forwarders() & 0b10 == 0).then_some(())),
        || lab.hosts[0].log_tail(30),
    )?;
    ends_with_an_error(&mut query, &stalls, Instant::now())?;
    // The client may hear of it before the one who counts does.
    wait_until(
        "lb2 to count the connection",
        Duration::from_secs(10),
        || {
            let status = lab.hosts[1].status()?;
            let aborted = status.vrrp.first().map_or(0, |vrrp| vrrp.counters.connections_aborted);
            Ok((aborted >= 1).then_some(()))
        },
        || lab.hosts[1].log_tail(30),
    )
}

/// How a server is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Its host is out of reach, and tells nobody anything: lbd resets its clients.
    Cut,
    /// `kill -9` of its mysqld: the host's kernel ends its connections itself.
    Killed,
}

/// Whoever only waits for a server that is lost is told within a second of its end, as one that asks is.
fn idle_clients_are_told(spec: Spec, loss: Loss) -> Result<()> {
    const CLIENTS: usize = 12;
    let Some(mut running) = Running::start("e2e_lab", spec)? else { return Ok(()) };
    let lab = &mut running.lab;
    for server in &lab.servers {
        // Nobody logs in here; it must not be the server who gives them up.
        server.db.sql("SET GLOBAL connect_timeout = 300")?;
    }
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let target = (VIP, PORT).into();
        let mut client =
            lab.client.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(10)))??;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        ensure!(client.read(&mut [0; 512])? > 4, "no greeting");
        client.set_nonblocking(true)?;
        clients.push(client);
    }
    let first = lab.server(1)?.addr;
    let host = &lab.hosts[0];
    let theirs = wait_until(
        "the balancer to count them",
        Duration::from_secs(20),
        || {
            let status = host.status()?;
            let pool = status.forwarder.iter().flat_map(|it| &it.virtual_servers);
            let pool: Vec<_> = pool.flat_map(|it| &it.real_servers).collect();
            let sum: u64 = pool.iter().map(|entry| entry.active_connections).sum();
            let theirs = pool.iter().find(|entry| entry.addr.ip() == first);
            let theirs = theirs.map_or(0, |entry| entry.active_connections);
            Ok((sum == CLIENTS as u64 && theirs > 0).then_some(theirs))
        },
        || host.log_tail(30),
    )?;
    let stalls = stalls(lab)?;
    let begin = Instant::now();
    match loss {
        Loss::Cut => lab.server(1)?.cable.set_link(false)?,
        Loss::Killed => lab.server(1)?.db.kill(),
    }
    let mut told = 0;
    wait_until(
        "its clients to be told",
        Duration::from_secs(10),
        || {
            clients.retain_mut(|client| match client.read(&mut [0; 1]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => true,
                end => {
                    let reset = |it: std::io::Error| it.kind() == ErrorKind::ConnectionReset;
                    told += u64::from(match end {
                        Ok(read) => loss == Loss::Killed && read == 0,
                        Err(error) => reset(error),
                    });
                    false
                }
            });
            Ok((told == theirs).then_some(()))
        },
        || format!("{theirs} were its clients\n{}", lab.hosts[0].log_tail(30)),
    )?;
    let took = took(&stalls, begin)?;
    ensure!(took <= TOLD, "they were told after {took:?}");
    ensure!(clients.len() as u64 + told == CLIENTS as u64, "a client of the other was told");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn idle_clients_of_a_vanished_server_are_told_within_a_second() -> Result<()> {
    idle_clients_are_told(Spec::new(Mode::Dr), Loss::Cut)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn idle_clients_of_a_vanished_server_are_told_within_a_second_by_nat_and_xdp() -> Result<()> {
    idle_clients_are_told(by_xdp(Spec::new(Mode::Nat)), Loss::Cut)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn idle_clients_of_a_killed_server_are_told_within_a_second_by_xdp() -> Result<()> {
    idle_clients_are_told(by_xdp(Spec::new(Mode::Dr)), Loss::Killed)
}

/// Gives the check script more time than its interval, which is the default: three tries with
/// pauses do not fit into two seconds.
fn let_scripts_finish(lab: &mut Lab) -> Result<()> {
    for number in 0..2 {
        let text =
            lab.config_of(number).replace("    interval 2", "    timeout 15\n    interval 2");
        ensure!(text.contains("timeout 15"), "the configuration has no interval to extend");
        lab.hosts[number].write_config(&text)?;
        lab.hosts[number].lbctl(&["reload"])?;
    }
    ensure!(lab.master()? == 0, "the reload moved the VIP");
    Ok(())
}

/// The daemon of lb1, role by role. A script that has just been forked has the daemon's name for a moment, and is
/// none of it.
fn daemon(lab: &Lab) -> (Option<Pid>, [Option<Pid>; ROLES.len()]) {
    let host = &lab.hosts[0];
    (host.pids().first().copied(), ROLES.map(|role| host.role_pid(role)))
}

/// The second script under the tutorial's own file: it outlasts its interval, is ended, counts as
/// failed, and the weight moves the VIP; the daemon stays and takes it back.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn script_that_outlasts_its_interval_moves_the_vip_by_weight() -> Result<()> {
    let mut spec = Spec::new(Mode::Local);
    spec.script = Script::ShowStatus;
    let Some(mut running) = Running::start("e2e_lab", spec)? else { return Ok(()) };
    let lab = &mut running.lab;
    let before = daemon(lab);
    lab.server(1)?.db.kill();
    wait_until(
        "the VIP to be on lb2",
        Duration::from_secs(40),
        || Ok((lab.master().ok() == Some(1)).then_some(())),
        || lab.hosts[0].log_tail(40),
    )?;
    ensure!(daemon(lab) == before, "the daemon on lb1 is not the same any more");
    connect(lab)?;
    lab.server(1)?.db.run()?;
    wait_until(
        "lb1 to have the VIP again",
        Duration::from_secs(40),
        || Ok((lab.master().ok() == Some(0)).then_some(())),
        || lab.hosts[0].log_tail(40),
    )?;
    ensure!(running.sampler.overlap(running.began(), Instant::now()).is_zero());
    Ok(())
}

/// The tutorial's second script: three failed `show status`, then `pkill keepalived`.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn script_that_kills_the_balancer_by_name_moves_the_vip() -> Result<()> {
    let mut spec = Spec::new(Mode::Local);
    spec.script = Script::ShowStatus;
    let Some(mut running) = Running::start("e2e_lab", spec)? else { return Ok(()) };
    let lab = &mut running.lab;
    let_scripts_finish(lab)?;
    lab.server(1)?.db.kill();
    wait_until(
        "the daemon to be gone and the VIP to be on lb2",
        Duration::from_secs(40),
        || Ok((lab.hosts[0].pids().is_empty() && lab.master().ok() == Some(1)).then_some(())),
        || lab.hosts[0].log_tail(40),
    )?;
    ensure!(!lab.hosts[0].has(VIP)?, "the VIP was left behind on lb1");
    connect(lab)?;
    // The database first, then the daemon: it preempts and stays.
    lab.server(1)?.db.run()?;
    lab.hosts[0].start()?;
    wait_until(
        "lb1 to have the VIP again",
        Duration::from_secs(40),
        || Ok((lab.master().ok() == Some(0)).then_some(())),
        || lab.hosts[0].log_tail(40),
    )?;
    ensure!(running.sampler.overlap(running.began(), Instant::now()).is_zero());
    Ok(())
}

/// The third script on the host with the VIP: "mount", restart the server, and as that fails
/// restart the daemon from its own child.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn script_that_restarts_the_balancer_from_its_own_child_works() -> Result<()> {
    let mut spec = Spec::new(Mode::Local);
    spec.script = Script::SharedDisk;
    let Some(mut running) = Running::start("e2e_lab", spec)? else { return Ok(()) };
    let lab = &mut running.lab;
    let_scripts_finish(lab)?;
    let before = daemon_pids(lab.hosts[0].netns(), lab.hosts[0].program());
    lab.server(1)?.db.kill();
    wait_until(
        "lb2 to be master and lb1's daemon to be a new one",
        Duration::from_secs(40),
        || {
            let now = lab.hosts[0].pids();
            let new = !now.is_empty() && now.iter().all(|pid| !before.contains(pid));
            Ok((new && lab.master().ok() == Some(1)).then_some(()))
        },
        || format!("{}\n{}", lab.hosts[0].log_tail(40), lab.hosts[1].log_tail(20)),
    )?;
    let jail = lab.hosts[0].jail().context("local mode has jails")?;
    ensure!(jail.run("cat", &["/run/mysqld-service"])?.contains("restart"));
    wait_until(
        "the script to take its mount away",
        Duration::from_secs(20),
        || Ok(jail.run("test", &["!", "-d", "/run/diskarray/mounted"]).ok()),
        || lab.hosts[0].log_tail(40),
    )?;
    connect(lab)?;
    ensure!(running.sampler.overlap(running.began(), Instant::now()).is_zero());
    Ok(())
}

/// nopreempt: both BACKUP, the VIP stays where it is until its host fails.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn nopreempt_keeps_the_vip_where_it_is() -> Result<()> {
    let Some(mut running) = Running::start("e2e_lab", Spec::new(Mode::Local))? else {
        return Ok(());
    };
    let lab = &mut running.lab;
    for (number, state) in ["MASTER", "BACKUP"].into_iter().enumerate() {
        let text =
            lab.config_of(number).replace(&format!("state {state}"), "state BACKUP\n    nopreempt");
        lab.hosts[number].write_config(&text)?;
        lab.hosts[number].signal_main(Signal::SIGHUP)?;
    }
    for host in &lab.hosts {
        wait_until(
            &format!("{} to be through the reload", host.name()),
            Duration::from_secs(20),
            || Ok(host.status().ok().filter(|status| status.config_generation >= 2)),
            || host.log_tail(30),
        )?;
    }
    ensure!(lab.master()? == 0, "lb1 did not stay master");
    lab.hosts[0].stop()?;
    wait_until(
        "lb2 to be master",
        Duration::from_secs(10),
        || Ok((lab.master().ok() == Some(1)).then_some(())),
        || lab.hosts[1].log_tail(30),
    )?;
    lab.hosts[0].start()?;
    wait_until(
        "lb1 to be up as backup",
        Duration::from_secs(30),
        || {
            let up = lab.hosts[0].status().is_ok_and(|status| {
                status.vrrp.first().is_some_and(|vrrp| {
                    vrrp.counters.advert_rcvd >= 3 && vrrp.effective_priority == 101
                })
            });
            Ok(up.then_some(()))
        },
        || lab.hosts[0].log_tail(30),
    )?;
    ensure!(lab.master()? == 1, "lb1 took the VIP back under nopreempt");
    lab.hosts[1].stop()?;
    wait_until(
        "lb1 to be master again",
        Duration::from_secs(10),
        || Ok((lab.master().ok() == Some(0)).then_some(())),
        || lab.hosts[0].log_tail(30),
    )?;
    Ok(())
}
