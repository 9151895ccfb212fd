//! lbd with `--engine ipvs` on a kernel that has it: `cargo xtask vm` runs this in a guest, where it must run.
//! Elsewhere it says that it was skipped.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{Host, Program},
    ipvs::{Bed, LIMIT, PORT, VIP, WHOLE, config, nat_pool, pool, ready, table},
    mariadb,
    netns::Namespace,
    wait::{wait_for, wait_until},
};
use lb_userspace::base::status::VrrpState;

/// The life of a pool: spread, death with a reset for its client, return, drain, and a stop that leaves nothing.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn a_pool_lives_by_nat() -> Result<()> {
    if !ready("ipvs_engine")? {
        return Ok(());
    }
    let mut bed = Bed::nat(1)?;
    let settings = "/proc/sys/net/ipv4/vs/expire_nodest_conn";
    bed.start(&[100], &nat_pool())?;
    ensure!(bed.table(0) == WHOLE, "{}", bed.table(0));
    let spread = bed.spread(10)?;
    let first = spread.iter().filter(|server| **server == 1).count();
    ensure!(first == 5, "round robin: {spread:?}");
    let read = |host: &Host| host.netns().enter(|| std::fs::read_to_string(settings));
    ensure!(read(&bed.hosts[0])??.trim() == "1", "expire_nodest_conn");

    // Connections are seen, by their servers.
    let mut sessions = [bed.connect()?, bed.connect()?];
    sessions.sort_by_key(|session| session.server);
    let local = sessions[0].stream.local_addr()?;
    let flows = bed.hosts[0].lbctl(&["flows", "--json"])?;
    ensure!(flows.contains(&local.to_string()) && flows.contains("10.88.0.21:3306"), "{flows}");

    // A server dies: its client's next packet is answered with a reset, the other's goes on.
    bed.servers[0].die()?;
    bed.wait_spread(&[2])?;
    let begin = Instant::now();
    let error = wait_for("a reset", LIMIT, || Ok(sessions[0].echo().err()))?;
    ensure!(
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{error:?} after {:?}",
        begin.elapsed()
    );
    sessions[1].echo().context("the session of the other server")?;
    ensure!(!bed.table(0).contains("10.88.0.21"), "{}", bed.table(0));
    bed.servers[0].revive()?;
    bed.wait_spread(&[1, 2])?;

    // Drained: no new connections, the old one goes on.
    bed.hosts[0].lbctl(&["drain", "10.88.0.22:3306"])?;
    bed.wait_table(0, "weight 0", |table| table.contains("10.88.0.22:3306 Masq 0"))?;
    ensure!(bed.spread(4)? == [1; 4], "drained");
    sessions[1].echo().context("the session of the drained server")?;
    bed.hosts[0].lbctl(&["enable", "10.88.0.22:3306"])?;
    bed.wait_spread(&[1, 2])?;

    // What it cannot promise is said.
    let text = bed.hosts[0].lbctl(&["status"])?;
    ensure!(text.contains("engine ipvs: --engine ipvs") && text.contains("no fence"), "{text}");
    bed.hosts[0].stop()?;
    ensure!(bed.table(0).is_empty(), "left behind: {}", bed.table(0));
    ensure!(read(&bed.hosts[0])??.trim() == "0", "expire_nodest_conn is as it was");
    ensure!(!bed.hosts[0].dir().join("run/ipvs.json").exists(), "the journal is gone");
    Ok(())
}

/// Others' services are theirs; ours are repaired.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn foreign_services_stay_and_drift_is_repaired() -> Result<()> {
    if !ready("ipvs_engine")? {
        return Ok(());
    }
    let mut bed = Bed::nat(1)?;
    let netns = bed.hosts[0].netns().clone();
    let ipvsadm =
        |words: &str| netns.run("ipvsadm", &words.split(' ').collect::<Vec<_>>()).map(drop);
    ipvsadm("-A -t 10.77.0.100:80 -s dh")?;
    ipvsadm("-a -t 10.77.0.100:80 -r 10.88.0.21:80 -m -w 7")?;
    let theirs = "TCP 10.77.0.100:80 dh\n  10.88.0.21:80 Masq 7";
    bed.start(&[100], &nat_pool())?;
    let both = format!("{WHOLE}\n{theirs}");
    ensure!(bed.table(0) == both, "{}", bed.table(0));
    let foreign = bed.hosts[0].forwarder()?.foreign_services;
    ensure!(foreign == ["tcp/10.77.0.100:80"], "{foreign:?}");
    for words in [
        "-D -t 10.77.0.100:3306",
        "-E -t 10.77.0.100:3306 -s sh -p 60",
        "-e -t 10.77.0.100:3306 -r 10.88.0.21:3306 -g -w 9",
        "-d -t 10.77.0.100:3306 -r 10.88.0.22:3306",
        "-a -t 10.77.0.100:3306 -r 10.88.0.99:3306 -m",
    ] {
        ipvsadm(words)?;
        bed.wait_table(0, &format!("the repair of ipvsadm {words}"), |table| table == both)?;
    }
    let log = std::fs::read_to_string(bed.hosts[0].log())?;
    ensure!(log.contains("the data plane was changed by someone else"), "{log}");

    // A service of another that is in our way is not taken, and said.
    ipvsadm("-A -t 10.77.0.100:3307 -s rr")?;
    let second = nat_pool().replace(" 3306 {\n  delay", " 3307 {\n  delay");
    bed.hosts[0].write_config(&config(100, &format!("{}{second}", nat_pool())))?;
    bed.hosts[0].signal_main(nix::sys::signal::Signal::SIGHUP)?;
    wait_until(
        "the refusal in the status",
        LIMIT,
        || {
            let problem = bed.hosts[0].status()?.forwarder.and_then(|it| it.problem);
            Ok(problem.filter(|it| it.contains("3307") && it.contains("it is not lbd's")))
        },
        || bed.hosts[0].log_tail(40),
    )?;
    ensure!(bed.table(0).contains("TCP 10.77.0.100:3307 rr"), "{}", bed.table(0));
    ensure!(bed.table(0).lines().count() == 6, "{}", bed.table(0));
    ipvsadm("-D -t 10.77.0.100:3307")?;
    bed.wait_table(0, "our service in its place", |table| {
        table.contains("10.77.0.100:3307 rr\n  10.88.0.21:3306 Masq 1")
    })?;
    bed.hosts[0].stop()?;
    ensure!(bed.table(0) == theirs, "{}", bed.table(0));
    Ok(())
}

/// kill -9 of all of lbd: what it forwarded goes on, a successor takes it over without a break.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn a_killed_predecessor_s_services_are_taken_over() -> Result<()> {
    if !ready("ipvs_engine")? {
        return Ok(());
    }
    let mut bed = Bed::nat(1)?;
    bed.start(&[100], &nat_pool())?;
    let mut session = bed.connect()?;
    bed.servers[1].die()?;
    bed.wait_table(0, "the dead server out", |table| !table.contains("10.88.0.22"))?;
    let before = bed.table(0);
    // One role alone: what it knew comes back with it.
    bed.hosts[0].replace_role("forwarder")?;
    ensure!(bed.table(0) == before, "{}", bed.table(0));
    bed.hosts[0].kill_all()?;
    ensure!(bed.table(0) == before, "{}", bed.table(0));
    bed.hosts[0].start()?;
    bed.hosts[0].wait_state(VrrpState::Master, VIP, LIMIT)?;
    ensure!(
        bed.table(0) == before,
        "the dead one is not taken for an unknown one: {}",
        bed.table(0)
    );
    if session.server == 1 {
        session.echo().context("a session over the kill")?;
    }
    if std::env::var_os("LBD_EXPECT_XDP").is_none() {
        return bed.hosts[0].stop(); // no XDP on this kernel
    }
    // Started for XDP, it clears IPVS away.
    bed.hosts[0].kill_all()?;
    bed.hosts[0].set_arguments(&["--engine", "xdp"]);
    bed.hosts[0].start()?;
    bed.wait_table(0, "no IPVS service", str::is_empty)?;
    bed.hosts[0].stop()
}

/// The standby has rules that are inert; a failover writes none.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn a_pair_fails_over_and_the_standby_forwards_nothing() -> Result<()> {
    if !ready("ipvs_engine")? {
        return Ok(());
    }
    let mut bed = Bed::nat(2)?;
    bed.start(&[101, 99], &nat_pool())?;
    bed.wait_table(1, "the standby's rules", |table| table == WHOLE)?;
    // The kernel's entries: its counters are up to two seconds old.
    let connections = |host: &Host| -> Result<usize> {
        let said = host.netns().run("ipvsadm", &["-Lnc"])?;
        Ok(said.lines().filter(|line| line.contains(&VIP.to_string())).count())
    };
    // While they started, the weaker one may have been master for a moment.
    let before = [connections(&bed.hosts[0])?, connections(&bed.hosts[1])?];
    bed.spread(6)?;
    let after = [connections(&bed.hosts[0])?, connections(&bed.hosts[1])?];
    ensure!(after == [before[0] + 6, before[1]], "{before:?} became {after:?}");
    // What comes to the standby all the same is not balanced there. Without ip_forward nobody else answers either.
    let standby = bed.hosts[1].netns().clone();
    standby.sysctl("net/ipv4/ip_forward", "0")?;
    let mac = standby.ip(&["-o", "link", "show", "eth0"])?;
    let mac = mac.split("link/ether ").nth(1).and_then(|it| it.split(' ').next());
    let mac = mac.context("a MAC address")?.to_owned();
    bed.client.ip(&["neigh", "replace", &VIP.to_string(), "lladdr", &mac, "dev", "eth0"])?;
    let target = SocketAddr::from((VIP, PORT));
    let answer =
        bed.client.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(3)))?;
    let kind = answer.map(drop).map_err(|error| error.kind());
    ensure!(kind == Err(ErrorKind::TimedOut), "the standby answers: {kind:?}");
    ensure!(connections(&bed.hosts[1])? == before[1]);
    bed.client.ip(&["neigh", "flush", "dev", "eth0"])?;
    standby.sysctl("net/ipv4/ip_forward", "1")?;
    ensure!(bed.spread(2)? != [] as [u8; 0]);
    // What it connects itself it balances itself, by LOCAL_OUT: that is told among the limits.
    let own = standby.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(3)))?;
    ensure!(connections(&bed.hosts[1])? == before[1] + 1, "by LOCAL_OUT: {own:?}");
    let said = bed.hosts[1].lbctl(&["status"])?;
    ensure!(said.contains("LOCAL_OUT"), "{said}");

    bed.hosts[0].kill_all()?;
    // The dead one's addresses are still there, as after a crash of lbd alone; a crashed host has no link.
    bed.hosts[0].netns().ip(&["link", "set", "eth0", "down"])?;
    bed.hosts[0].netns().ip(&["link", "set", "eth1", "down"])?;
    let begin = Instant::now();
    wait_until(
        "a connection through the new master",
        LIMIT,
        || Ok(bed.connect().ok()),
        || bed.hosts[1].log_tail(40),
    )?;
    println!("a new connection {:?} after the master's death", begin.elapsed());
    ensure!(connections(&bed.hosts[1])? > before[1]);
    bed.hosts[1].stop()?;
    ensure!(bed.table(1).is_empty(), "{}", bed.table(1));
    Ok(())
}

/// Two directors that are the real servers too: the standby, which has the VIP on `lo`, must not send on what the
/// master sends it to be served.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn directors_that_are_real_servers_do_not_bounce() -> Result<()> {
    if !ready("ipvs_engine")? {
        return Ok(());
    }
    let mut bed = Bed::directors()?;
    bed.start(&[101, 99], &pool("DR", ["10.77.0.21", "10.77.0.22"], ""))?;
    let whole = "TCP 10.77.0.100:3306 rr\n  10.77.0.21:3306 Route 1\n  10.77.0.22:3306 Route 1";
    ensure!(bed.table(0) == whole, "{}", bed.table(0));
    ensure!(bed.table(1).is_empty(), "the standby: {}", bed.table(1));
    let spread = bed.spread(10)?;
    ensure!(spread.iter().filter(|server| **server == 1).count() == 5, "{spread:?}");
    bed.hosts[0].stop()?;
    bed.wait_table(1, "the new master's rules", |table| table == whole)?;
    wait_until(
        "connections through the new master",
        LIMIT,
        || {
            let Ok(mut spread) = bed.spread(6) else { return Ok(None) };
            spread.sort_unstable();
            spread.dedup();
            Ok((spread == [1, 2]).then_some(()))
        },
        || bed.table(1),
    )?;
    bed.hosts[1].stop()?;
    ensure!(bed.table(1).is_empty(), "{}", bed.table(1));
    Ok(())
}

/// The same file makes the same table as with real keepalived.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn the_table_is_keepalived_s() -> Result<()> {
    if !ready("ipvs_engine")? {
        return Ok(());
    }
    let dir = mariadb::workspace("ipvs")?;
    let mut blocks = String::new();
    for (port, words) in [
        (1, "lb_algo rr\n  lb_kind NAT"),
        (2, "lb_algo wrr\n  lb_kind DR"),
        (3, "lb_algo wlc\n  lb_kind NAT\n  persistence_timeout 120"),
        (
            4,
            "lb_algo lc\n  lb_kind DR\n  persistence_timeout 60\n  persistence_granularity 255.255.255.0",
        ),
        (5, "lb_algo sh\n  lb_kind NAT\n  sh-port\n  sh-fallback"),
        (6, "lb_algo mh\n  lb_kind NAT\n  mh-port"),
        (7, "lb_algo sed\n  lb_kind NAT"),
        (8, "lb_algo nq\n  lb_kind DR"),
    ] {
        blocks += &format!(
            "virtual_server 10.99.0.{port} 330{port} {{\n  delay_loop 60\n  {words}\n  protocol TCP\n\
             \x20 real_server 10.99.1.1 33{port}0 {{\n    weight 3\n    uthreshold 100\n    lthreshold 50\n  }}\n\
             \x20 real_server 10.99.1.2 33{port}0 {{\n    weight 0\n  }}\n}}\n"
        );
    }
    let mut tables = Vec::new();
    let lbd = Namespace::new("lb")?;
    let keepalived = Namespace::new("twin")?;
    let file = dir.path().join("twin.conf");
    std::fs::write(&file, &blocks)?;
    let run = dir.path().join("keepalived");
    let mut command = keepalived.command("keepalived");
    command.args(["-n", "-l", "-C", "-D", "-f"]).arg(&file);
    command.arg("-p").arg(run.with_extension("pid")).arg("-c").arg(run.with_extension("checkers"));
    let log = dir.path().join("keepalived.log");
    let mut twin = keepalived.spawn("keepalived", command, Some(&log))?;
    let mut host = Host::new(&lbd, Program::Lbd, dir.path())?;
    host.set_arguments(&["--engine", "ipvs", "-C"]);
    host.write_config(&blocks)?;
    host.start()?;
    for (netns, log) in [(&keepalived, &log), (&lbd, &host.log())] {
        let found = wait_until(
            "eight services with two servers each",
            LIMIT,
            || Ok(Some(table(netns)).filter(|table| table.lines().count() == 24)),
            || format!("{}\n{}", table(netns), lb_tests::process::tail(log, 40)),
        )?;
        let limits = netns.run("ipvsadm", &["-Ln", "--thresholds"])?;
        let limits = limits.lines().filter(|it| it.contains("->")).skip(1);
        let mut limits: Vec<String> =
            limits.map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        limits.sort();
        tables.push((found, limits));
    }
    ensure!(tables[0] == tables[1], "keepalived {:#?}\nlbd {:#?}", tables[0], tables[1]);
    host.stop()?;
    twin.stop(LIMIT)?;
    ensure!(table(&lbd).is_empty(), "{}", table(&lbd));
    Ok(())
}

/// Left to lbd: XDP where the kernel has it, IPVS where it has not.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn auto_takes_ipvs_where_xdp_cannot_be() -> Result<()> {
    if !ready("ipvs_engine")? {
        return Ok(());
    }
    let interface = "virtual_server 10.77.0.100 3400 {\n  lb_algo rr\n  lb_kind NAT\n  protocol TCP\n\
                     \x20 real_server 10.89.0.5 3400 {\n    weight 1\n  }\n}\n";
    // A kernel that takes no XDP program never comes to an interface.
    let none = std::env::var_os("LBD_EXPECT_XDP").is_none();
    let native = if none { "BPF_F_XDP_HAS_FRAGS" } else { "mac0: its driver has no native XDP" };
    // More than this guest has memory for.
    let memory = "global_defs {\n  lvs_flow_table 16777216\n}\n";
    for (what, extra, why) in [
        ("no bpf(2)", "", "Function not implemented"),
        ("an interface without native XDP", interface, native),
        ("no memory", memory, "no memory for the maps"),
    ] {
        let mut bed = Bed::nat(1)?;
        bed.hosts[0].set_arguments(&[]);
        if extra.is_empty() {
            bed.hosts[0].without_bpf();
        } else if extra == interface {
            // A macvlan has no native XDP; nothing comes through it here.
            let netns = bed.hosts[0].netns();
            netns.ip(&["link", "add", "link", "eth1", "name", "mac0", "type", "macvlan"])?;
            netns.ip(&["addr", "add", "10.89.0.1/24", "dev", "mac0"])?;
            netns.ip(&["link", "set", "mac0", "up"])?;
        }
        bed.start(&[100], &format!("{}{extra}", nat_pool())).context(what)?;
        let forwarder = bed.hosts[0].forwarder()?;
        let reason = &forwarder.engine_reason;
        ensure!(
            reason.starts_with("xdp failed because") && reason.contains(why),
            "{what}: {reason}"
        );
        let log = std::fs::read_to_string(bed.hosts[0].log())?;
        ensure!(log.contains("this host cannot fence itself: xdp failed because"), "{what}: {log}");
        ensure!(!bed.hosts[0].pin_dir().exists(), "nothing of XDP is left");
        bed.hosts[0].stop()?;
        ensure!(bed.table(0).is_empty(), "{}", bed.table(0));
    }
    Ok(())
}
