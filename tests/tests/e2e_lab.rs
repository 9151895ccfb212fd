//! The product in its lab: issue 2's script of events in every mode, the tutorial's check scripts,
//! and fencing of a master that was killed or stopped.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    net::TcpStream,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    host::{ROLES, daemon_pids},
    lab::{ELECTION_LIMIT, Hook, Lab, Mode, Spec, VIP},
    looks,
    mariadb::{APP_PASSWORD, APP_USER, PORT},
    netns::{Namespace, arping, ready_or_skip},
    process::{Process, send},
    sampler::Sampler,
    script,
    traffic::{Load, Traffic},
    tutorial::Script,
    verdict::waited,
    wait::{wait_for, wait_until},
    witness::both_acted,
};
use lb_userspace::{base::net::Mac, io::link::ArpSocket, vrrp::arp};
use nix::{sys::signal::Signal, unistd::Pid};

/// One lab at a time: two cores, and timing is what is tested.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running lab with its sampler.
struct Running {
    sampler: Sampler,
    lab: Lab,
    _alone: MutexGuard<'static, ()>,
}

/// Builds and starts; `None` when the machine cannot (said loudly).
fn start(spec: Spec) -> Result<Option<Running>> {
    let alone = alone();
    if !ready_or_skip("e2e_lab")? {
        return Ok(None);
    }
    let mut lab = Lab::build(spec)?;
    lab.start_hosts()?;
    hook_is_as_asked(&lab)?;
    let sampler = Sampler::start(looks::of(&lab.hosts)?)?;
    Ok(Some(Running { sampler, lab, _alone: alone }))
}

/// What is shown is shown of the hook that the test names.
fn hook_is_as_asked(lab: &Lab) -> Result<()> {
    let wanted = match lab.spec.hook {
        Hook::Auto => "tcx",
        Hook::Xdp => "native",
    };
    for host in &lab.hosts {
        // A backup is one before its forwarder has told where its program is.
        let interfaces = wait_until(
            &format!("{} to have its program somewhere", host.name()),
            ELECTION_LIMIT,
            || {
                let forwarder = host.status().ok().and_then(|status| status.forwarder);
                Ok(forwarder.map(|it| it.interfaces).filter(|interfaces| !interfaces.is_empty()))
            },
            || host.log_tail(30),
        )?;
        ensure!(interfaces.iter().all(|it| it.mode == wanted), "{}: {interfaces:?}", host.name());
    }
    Ok(())
}

/// Every event of `cargo xtask run --once`, every expectation held.
fn script_holds(spec: Spec) -> Result<()> {
    let Some(mut running) = start(spec)? else { return Ok(()) };
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

/// With XDP instead of tc, which lbd chooses on the lab's veth.
fn by_xdp(mut spec: Spec) -> Spec {
    spec.hook = Hook::Xdp;
    spec
}

/// How a master falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    KillAll,
    StopAll,
    StopVrrp,
}

/// How long a probe of the fenced host waits for an answer; shorter than the peer's takeover after the
/// lease has run out (the skew, about 0.6 s).
const PROBE: Duration = Duration::from_millis(200);

/// Before the peer takes over, the old master neither forwards nor answers, although it still has the
/// address and is spoken to by its MAC; and so it stays.
fn fenced(spec: Spec, silence: Silence) -> Result<()> {
    let Some(mut running) = start(spec)? else { return Ok(()) };
    for _ in 0..3 {
        if fenced_before_the_peer(&mut running, silence)? {
            return Ok(());
        }
    }
    bail!("three times the peer was first: this proves nothing")
}

/// One fault and the return from it; whether the old master was asked before its peer took over, which this
/// process may not have been run for.
fn fenced_before_the_peer(running: &mut Running, silence: Silence) -> Result<bool> {
    let lab = &mut running.lab;
    let macs = mac_addresses(lab)?;
    let witness = lab.witness()?;
    let since = Instant::now();
    ensure!(who_answers(lab)? == [macs[0].clone()], "the master answers for {VIP}");
    // A client that knows the old host's MAC for good, whatever is announced.
    let vip = VIP.to_string();
    let to_old = ["neigh", "replace", &vip, "lladdr", &macs[0], "nud", "permanent", "dev", "eth0"];
    lab.client.ip(&to_old)?;
    let asker = lab.client.enter(|| ArpSocket::open("eth0"))??;
    let client: Mac = Mac(mac_bytes(&lab.client)?);
    connect(lab).context("before the fault")?;
    asker.send(&arp::probe(client, VIP))?;
    wait_until(
        "the witness to see the master answer both",
        Duration::from_secs(10),
        || {
            let acts = witness.acts(since, Instant::now());
            let seen = |arp| acts.iter().any(|act| act.host == 0 && act.arp == arp);
            Ok((seen(false) && seen(true)).then_some(()))
        },
        || "the probes below would prove nothing".to_owned(),
    )?;
    let stalls = stalls(lab)?;
    let begin = Instant::now();
    match silence {
        Silence::KillAll => lab.hosts[0].kill_all()?,
        Silence::StopAll => lab.hosts[0].signal_all(Signal::SIGSTOP)?,
        Silence::StopVrrp => {
            let vrrp = lab.hosts[0].role_pid("vrrp").context("no vrrp process")?;
            send(vrrp, Signal::SIGSTOP)?;
        }
    }
    let sampler = &running.sampler;
    wait_until(
        "the old master's lease to end",
        Duration::from_secs(10),
        || Ok((sampler.forwarders() & 0b01 == 0).then_some(())),
        || format!("{:?}", sampler.changes()),
    )?;
    // Frames that left before it are no sin, whenever the witness gets to read them.
    witness.has_read(Instant::now())?;
    let ran_out = Instant::now();
    asker.send(&arp::probe(client, VIP))?;
    ensure!(connect_within(lab, PROBE).is_err(), "the fenced host takes a connection");
    let probed = Instant::now();
    let in_time = sampler.forwarders() == 0;
    ensure!(!in_time || lab.hosts[0].has(VIP)?, "the address is gone: this proves nothing");
    witness.has_read(probed)?;
    // The peer may act again before the sampler has seen that it may.
    let mut acts = witness.acts(ran_out, probed);
    acts.retain(|act| act.host == 0);
    ensure!(acts.is_empty(), "after its lease the old master sent {acts:?}");
    wait_until(
        "the peer to take over",
        Duration::from_secs(10),
        || Ok((sampler.forwarders() == 0b10 && lab.hosts[1].has(VIP)?).then_some(())),
        || format!("{:?}\n{}", sampler.changes(), lab.hosts[1].log_tail(30)),
    )?;
    let taken = sampler.first(0b10, begin).context("nobody saw the peer take over")?;
    stalls.has_run(taken)?;
    let took = waited(&stalls.since(begin), begin, taken);
    ensure!(took < Duration::from_secs(5), "the peer took {took:?}");
    if silence != Silence::StopVrrp {
        // Nobody has tidied the old host up: it must stay silent with the address on it.
        ensure!(lab.hosts[0].has(VIP)?, "the address is gone: this proves nothing");
    }
    let silent = connect_within(lab, Duration::from_millis(1500)).is_err();
    ensure!(silent, "the fenced host forwards or answers");
    lab.client.ip(&["neigh", "del", &vip, "dev", "eth0"])?;
    ensure!(who_answers(lab)? == [macs[1].clone()], "only the new master answers");
    connect(lab).context("through the new master")?;
    // The old master comes back: at no moment two forwarders, and it preempts.
    match silence {
        Silence::KillAll => lab.hosts[0].start()?,
        Silence::StopAll => lab.hosts[0].signal_all(Signal::SIGCONT)?,
        // The watchdog notices the missing heartbeats and restarts it.
        Silence::StopVrrp => {}
    }
    wait_until(
        "the old master to preempt",
        Duration::from_secs(25),
        || Ok((sampler.forwarders() == 0b01 && lab.hosts[0].has(VIP)?).then_some(())),
        || format!("{:?}\n{}", sampler.changes(), lab.hosts[0].log_tail(40)),
    )?;
    let both = sampler.overlap(begin, Instant::now());
    ensure!(both.is_zero(), "two hosts forwarded for {both:?}");
    let both = both_acted(&witness.acts(begin, Instant::now()));
    ensure!(both.is_zero(), "frames of two hosts in the VIP's name for {both:?}");
    wait_until(
        "the backup to give the address up",
        Duration::from_secs(10),
        || Ok((!lab.hosts[1].has(VIP)?).then_some(())),
        || lab.hosts[1].log_tail(30),
    )?;
    connect(lab).context("after the return")?;
    Ok(in_time)
}

/// MAC addresses of whoever answers for the VIP; asked until somebody does, because arping waits for a second
/// at most, in which nobody may have been run.
fn who_answers(lab: &Lab) -> Result<Vec<String>> {
    wait_for("an answer to arping", Duration::from_secs(10), || {
        let answers = arping(&lab.client, "eth0", VIP)?;
        Ok((!answers.is_empty()).then_some(answers))
    })
}

/// MAC addresses of both hosts' eth0.
fn mac_addresses(lab: &Lab) -> Result<Vec<String>> {
    lab.hosts
        .iter()
        .map(|host| {
            let text = host.netns().ip(&["-o", "link", "show", "eth0"])?;
            let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
            words.nth(1).map(ToOwned::to_owned).context("eth0 has no MAC")
        })
        .collect()
}

fn mac_bytes(netns: &Namespace) -> Result<[u8; 6]> {
    let text = netns.enter(|| fs::read_to_string("/sys/class/net/eth0/address"))??;
    let bytes: Vec<u8> = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("no Ethernet address: {text}"))
}

/// One TCP connection from the client to the VIP, after some SYNs if the first ones are lost.
fn connect(lab: &Lab) -> Result<()> {
    connect_within(lab, Duration::from_secs(10))
}

fn connect_within(lab: &Lab, limit: Duration) -> Result<()> {
    let target = (VIP, PORT).into();
    lab.client.enter(|| TcpStream::connect_timeout(&target, limit))??;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn killed_master_is_fenced_with_a_virtual_server() -> Result<()> {
    fenced(Spec::new(Mode::Dr), Silence::KillAll)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn stopped_master_is_fenced_with_a_virtual_server_by_xdp() -> Result<()> {
    fenced(by_xdp(Spec::new(Mode::Nat)), Silence::StopAll)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn master_with_a_hung_vrrp_process_is_fenced_with_a_virtual_server_by_xdp() -> Result<()> {
    fenced(by_xdp(Spec::new(Mode::Dr)), Silence::StopVrrp)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn killed_master_is_fenced_without_a_virtual_server_by_xdp() -> Result<()> {
    fenced(by_xdp(Spec::new(Mode::Local)), Silence::KillAll)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn stopped_master_is_fenced_without_a_virtual_server() -> Result<()> {
    fenced(Spec::new(Mode::Local), Silence::StopAll)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn master_with_a_hung_vrrp_process_is_fenced_without_a_virtual_server() -> Result<()> {
    fenced(Spec::new(Mode::Local), Silence::StopVrrp)
}

/// Clients of who has gone are told within a second, and it takes a look of `wait` to see it.
const TOLD: Duration = Duration::from_millis(1010);

/// Traffic that only tells of stalls, for times that are promised.
fn stalls(lab: &Lab) -> Result<Traffic> {
    let target = lab.target().into();
    Traffic::start(&lab.client, Load { target, busy: 0, idle: 0, connects_per_second: 0 })
}

/// How long something has taken until now, without the machine's stalls.
fn took(stalls: &Traffic, begin: Instant) -> Result<Duration> {
    let now = Instant::now();
    stalls.has_run(now)?;
    Ok(waited(&stalls.since(begin), begin, now))
}

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
    let Some(mut running) = start(Spec::new(Mode::Local))? else { return Ok(()) };
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

/// Whoever only waits for a server that has vanished is told within a second of its end, as one that asks is.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn idle_clients_of_a_vanished_server_are_told_within_a_second() -> Result<()> {
    const CLIENTS: usize = 12;
    let Some(mut running) = start(Spec::new(Mode::Dr))? else { return Ok(()) };
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
    lab.server(1)?.cable.set_link(false)?;
    let mut told = 0;
    wait_until(
        "its clients to be told",
        Duration::from_secs(10),
        || {
            clients.retain_mut(|client| match client.read(&mut [0; 1]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => true,
                end => {
                    told += u64::from(end.is_err_and(|it| it.kind() == ErrorKind::ConnectionReset));
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
    let Some(mut running) = start(spec)? else { return Ok(()) };
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
    let Some(mut running) = start(spec)? else { return Ok(()) };
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
    let Some(mut running) = start(spec)? else { return Ok(()) };
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
    let Some(mut running) = start(Spec::new(Mode::Local))? else { return Ok(()) };
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

impl Running {
    /// When the sampler first looked.
    fn began(&self) -> Instant {
        self.sampler.changes().first().map_or_else(Instant::now, |change| change.at)
    }
}
