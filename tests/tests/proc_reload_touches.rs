//! Reloads that are taken touch what they name and nothing else: states, flows, probes, scripts that
//! run, readers of FIFOs, verdicts.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::Namespace,
    process::send,
    single::{self, LIMIT, NOBODY, OTHER, Single, VIP, config, instance, virtual_server},
    vip_watch::Watch,
    wait::wait_until,
};
use lb_userspace::base::status::{Health, InstanceStatus, ServerHealth, Status, VrrpState};
use nix::sys::signal::Signal;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where the second instance of [`several`] has its VIP.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 101);

/// VI_1 becomes master at once; VI_2 waits for two minutes as backup; VI_3 is in FAULT. VI_1's lease outlasts a
/// moment in which its process is not run: after a shorter one it would hand over to itself, which is a transition.
fn several(rest: &str) -> String {
    let more: String =
        [("VI_2", 52, "", SECOND), ("VI_3", 53, "track_interface {\n eth9\n }", NOBODY)]
            .map(|(name, vrid, words, vip)| {
                format!(
                    "vrrp_instance {name} {{\n state BACKUP\n interface eth0\n version 3\n \
                 virtual_router_id {vrid}\n priority 90\n advert_int 40\n {words}\n \
                 virtual_ipaddress {{\n {vip}/24\n }}\n}}\n"
                )
            })
            .concat();
    format!("{}{more}", config("1", "", "", rest))
}

fn named<'a>(status: &'a Status, name: &str) -> Result<&'a InstanceStatus> {
    status.vrrp.iter().find(|it| it.name == name).with_context(|| format!("{name}: {status:?}"))
}

/// Nothing of an instance that a reload leaves alone has changed, and what counts has not begun again.
fn untouched(before: &InstanceStatus, after: &InstanceStatus) -> Result<()> {
    let same = |it: &InstanceStatus| {
        let counters = &it.counters;
        (
            it.state,
            it.effective_priority,
            it.vips.clone(),
            it.last_transition_ms,
            counters.become_master,
            counters.release_master,
            counters.pri_zero_sent,
        )
    };
    ensure!(same(before) == same(after), "{before:#?} became {after:#?}");
    ensure!(after.counters.advert_sent >= before.counters.advert_sent, "{after:#?}");
    if before.state == VrrpState::Backup {
        // Its timer runs on.
        let (then, now) = (before.why.next_ms, after.why.next_ms);
        ensure!(then.is_some() && now <= then, "the wait began again: {then:?}, {now:?} ms");
    }
    Ok(())
}

/// Health, weight and number of probes of each real server.
fn probed(status: &Status) -> BTreeMap<SocketAddr, (Health, u32, u64)> {
    let probes = |it: &ServerHealth| it.checkers.iter().map(|checker| checker.probes).sum();
    status.servers.iter().map(|it| (it.real_server, (it.health, it.weight, probes(it)))).collect()
}

/// A server on the other host that holds the VIP and is silent about it (DR).
fn serve(other: &Namespace, port: u16) -> Result<TcpListener> {
    other.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    other.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
    other.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
    other.enter(|| TcpListener::bind(("0.0.0.0", port)))?.context("cannot listen")
}

/// Both ends of a connection through the VIP.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn open(client: &Namespace, server: &TcpListener, port: u16) -> Result<Self> {
        let vip = SocketAddr::from((VIP, port));
        let stream = client.enter(|| TcpStream::connect_timeout(&vip, LIMIT))??;
        let own = stream.local_addr()?;
        loop {
            // Probes are refused half open and never come here; an earlier client may wait.
            let (other, from) = server.accept()?;
            if from == own {
                for end in [&stream, &other] {
                    end.set_read_timeout(Some(LIMIT))?;
                }
                return Ok(Self { client: stream, server: other });
            }
        }
    }

    /// Bytes go both ways.
    fn works(&self) -> Result<()> {
        let (client, server) = (&self.client, &self.server);
        for (mut from, mut to) in [(client, server), (server, client)] {
            from.write_all(b"x")?;
            to.read_exact(&mut [0]).context("the connection is cut")?;
        }
        Ok(())
    }
}

/// Counters of real servers in the data plane: connections, packets, generation.
fn counted(status: &Status) -> Result<BTreeMap<SocketAddr, (u64, u64, u32)>> {
    let forwarder = status.forwarder.as_ref().context("a forwarder")?;
    let servers = forwarder.virtual_servers.iter().flat_map(|vs| &vs.real_servers);
    Ok(servers.map(|it| (it.addr, (it.connections, it.packets, it.generation))).collect())
}

/// The dry run for programs says of each object what the one for people says.
fn for_programs(json: &str, text: &str) -> Result<()> {
    let answer: serde_json::Value = serde_json::from_str(json).context("no JSON")?;
    let steps = answer["plan"]["steps"].as_array().context("no steps")?;
    let objects = text.lines().filter(|line| line.starts_with(['+', '-', '~'])).count();
    ensure!(steps.len() == objects, "{steps:?}");
    for step in steps {
        let object = step["object"].as_str().context("no object")?;
        ensure!(text.contains(object), "{object}");
        let interrupts = step["interrupts"].as_array().context("no list of what it interrupts")?;
        let said = interrupts.iter().map(|it| it.as_str().context("no sentence"));
        for sentence in said.collect::<Result<Vec<_>>>()? {
            ensure!(text.contains(&format!("! {sentence}")), "{sentence}");
        }
    }
    // One object at most: nothing, or all that the text has.
    let said = text.lines().filter(|line| line.trim_start().starts_with("! ")).count();
    let first = answer["plan"]["steps"][0]["interrupts"].as_array().map_or(0, Vec::len);
    ensure!(first == said, "{answer}");
    ensure!(steps.is_empty() || (said == 0) == text.contains("interrupts nothing"), "{answer}");
    Ok(())
}

/// Reloads that name one thing, one after the other, under an open connection. Each says what it does,
/// does it, and leaves the rest as it was: a master, a backup that waits, an instance in FAULT, a
/// server that is up and one that is down.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reload_touches_what_it_names_and_nothing_else() -> Result<()> {
    if !single::ready("proc_reload")? {
        return Ok(());
    }
    let port = 3306;
    let mut single = Single::new()?;
    let server = serve(&single.other, port)?;
    let client = single.plug("client", "10.79.0.50/24")?;
    single.host.netns().ip(&["link", "add", "eth9", "type", "veth", "peer", "name", "eth9p"])?;
    let good = several(&virtual_server(port, "mh", &[OTHER, NOBODY]));
    single.host.write_config(&good)?;
    single.host.start()?;
    single.wait_master()?;
    let (up, down) = (SocketAddr::from((OTHER, port)), SocketAddr::from((NOBODY, port)));
    single.wait_status("one server up, one down, three states", |status| {
        let health = probed(status);
        let is = |addr, wanted| health.get(&addr).is_some_and(|(health, _, _)| *health == wanted);
        let state = |name, wanted| named(status, name).is_ok_and(|it| it.state == wanted);
        is(up, Health::Up)
            && is(down, Health::Down)
            && state("VI_1", VrrpState::Master)
            && state("VI_2", VrrpState::Backup)
            && state("VI_3", VrrpState::Fault)
    })?;
    let watch = Watch::start(&single);
    let connection = Connection::open(&client, &server, port)?;
    connection.works()?;
    let real = format!("real_server {OTHER} {port} {{\n        weight 1");
    let one = |from: &str, to: &str| -> Result<String> {
        ensure!(good.contains(from), "{from}");
        Ok(good.replacen(from, to, 1))
    };
    let second = virtual_server(port + 1, "rr", &[OTHER]);
    let steps: Vec<(&str, String, Vec<&str>)> = vec![
        ("nothing", format!("{good}# a comment\n"), vec![]),
        (
            "a weight",
            one(&real, &real.replace("weight 1", "weight 7"))?,
            vec!["~ real_server 10.79.0.2:3306", "weight 1 -> 7", "interrupts nothing"],
        ),
        ("back", good.clone(), vec!["weight 7 -> 1"]),
        (
            "a VIP more",
            one("10.79.0.100/24", "10.79.0.100/24\n        10.79.0.110/24")?,
            vec!["~ vrrp_instance VI_1", "+virtual_ipaddress 10.79.0.110/24"],
        ),
        ("a VIP less", good.clone(), vec!["-virtual_ipaddress 10.79.0.110/24"]),
        (
            "another name",
            one("vrrp_instance VI_1", "vrrp_instance MYSQL")?,
            vec!["~ vrrp_instance MYSQL", "was VI_1", "interrupts nothing"],
        ),
        ("its old name", good.clone(), vec!["was MYSQL"]),
        (
            "a service more",
            format!("{good}{second}"),
            vec!["+ virtual_server tcp/10.79.0.100:3307", "interrupts nothing"],
        ),
        ("a service less", good.clone(), vec!["- virtual_server tcp/10.79.0.100:3307"]),
        (
            "a priority of the instance in FAULT",
            good.replacen("priority 90", "priority 91", 2).replacen(
                "priority 91",
                "priority 90",
                1,
            ),
            vec!["~ vrrp_instance VI_3", "priority 90 -> 91"],
        ),
        ("and back", good.clone(), vec!["priority 91 -> 90"]),
    ];
    for (what, text, phrases) in steps {
        let before = single.host.status()?;
        single.host.write_config(&text)?;
        let planned = stdout(&single.lbctl(&["reload", "--plan"])?);
        for_programs(&stdout(&single.lbctl(&["reload", "--plan", "--json"])?), &planned)
            .with_context(|| format!("{what}: {planned}"))?;
        ensure!(single.host.status()?.config_generation == before.config_generation, "{what}");
        let output = single.lbctl(&["reload"])?;
        let said = stdout(&output);
        ensure!(output.status.success(), "{what}: {output:?}");
        for phrase in &phrases {
            ensure!(planned.contains(phrase), "{what}: {phrase} in the dry run: {planned}");
            ensure!(said.contains(phrase), "{what}: {phrase} in the answer: {said}");
        }
        let lines = said.lines().filter(|it| it.starts_with(['+', '-', '~'])).count();
        ensure!(lines == usize::from(!phrases.is_empty()), "{what}: one object at most: {said}");
        if let Some(first) = phrases.first() {
            let log = single.log();
            let line = log.lines().rev().find(|line| line.contains(first));
            ensure!(
                line.is_some_and(|line| phrases.iter().all(|it| line.contains(it))),
                "{line:?}"
            );
        }
        let after = single.host.status()?;
        let step = u64::from(!phrases.is_empty());
        ensure!(after.config_generation == before.config_generation + step, "{what}");
        // The master goes on, whatever it is called and however many VIPs it has.
        let (then, now) = (instance(&before)?, instance(&after)?);
        ensure!(
            now.state == VrrpState::Master && now.last_transition_ms == then.last_transition_ms
        );
        ensure!(now.counters.become_master == 1 && now.counters.release_master == 0, "{now:?}");
        ensure!(now.counters.advert_sent >= then.counters.advert_sent, "{what}: {now:?}");
        for name in ["VI_2", "VI_3"] {
            let priority =
                |it: &InstanceStatus| InstanceStatus { effective_priority: 0, ..it.clone() };
            untouched(&priority(named(&before, name)?), &priority(named(&after, name)?))
                .with_context(|| format!("{what}: {name}"))?;
        }
        // Health is not forgotten, probes count on.
        let (then, now) = (probed(&before), probed(&after));
        for addr in [up, down] {
            let row = |all: &BTreeMap<_, _>| all.get(&addr).copied().context("its row");
            let ((health, _, probes), (still, _, more)) = (row(&then)?, row(&now)?);
            ensure!(health == still && more >= probes, "{what}: {addr}: {then:?} {now:?}");
        }
        // No counter falls, no connection's server dies.
        let (then, now) = (counted(&before)?, counted(&after)?);
        for (addr, (connections, packets, generation)) in then {
            let Some(now) = now.get(&addr) else { continue };
            ensure!(
                now.0 >= connections && now.1 >= packets && now.2 == generation,
                "{what}: {addr}"
            );
        }
        connection.works().with_context(|| format!("{what}: {}", single.host.log_tail(20)))?;
        let roles = after.processes.iter();
        ensure!(roles.clone().all(|it| it.restarts == 0), "{what}: {after:?}");
    }
    watch.finish()?;
    ensure!(single.host.status()?.reload_failures == 0);
    single.host.stop()
}

/// A reload while another role is being started again: that one gets the new configuration too, and the
/// master stays master.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reload_reaches_a_role_that_is_being_restarted() -> Result<()> {
    if !single::ready("proc_reload")? {
        return Ok(());
    }
    let port = 3306;
    let mut single = Single::new()?;
    let _server = serve(&single.other, port)?;
    let text = |priority: u8, weight: u8| {
        let service = virtual_server(port, "wlc", &[OTHER]);
        let service = service.replace("weight 1", &format!("weight {weight}"));
        // At this interval a process that is killed is back before its lease ends.
        config("1", "", "", &service).replace("priority 101", &format!("priority {priority}"))
    };
    single.host.write_config(&text(101, 1))?;
    single.host.start()?;
    single.wait_master()?;
    let watch = Watch::start(&single);
    for (role, n) in [("checker", 2), ("forwarder", 3), ("vrrp", 4), ("api", 5)] {
        single.host.write_config(&text(100 + n, n))?;
        let pid = single.host.role_pid(role).with_context(|| format!("no {role}"))?;
        single.wait_advert()?;
        send(pid, Signal::SIGKILL)?;
        // Nobody answers for the api role; the others' absence must not matter.
        single.host.signal_main(Signal::SIGHUP)?;
        let done = |status: &Status| {
            let ready = status.processes.iter().all(|it| it.ready);
            let priority = instance(status).is_ok_and(|it| it.base_priority == 100 + n);
            let weight = probed(status).values().all(|(_, weight, _)| *weight == u32::from(n));
            let plane = status.forwarder.as_ref().is_some_and(|forwarder| {
                let servers = forwarder.virtual_servers.iter().flat_map(|vs| &vs.real_servers);
                servers.clone().count() == 1 && servers.clone().all(|it| it.weight == u32::from(n))
            });
            ready && priority && weight && plane && !status.servers.is_empty()
        };
        let status = single.wait_status(&format!("all of it after the {role} process"), done)?;
        ensure!(instance(&status)?.state == VrrpState::Master, "{role}");
        ensure!(single.host.has(VIP)?, "{role}");
    }
    watch.finish()?;
    single.host.stop()
}

/// A forwarder that dies while it is asked about a new configuration, and has not answered: its successor is
/// asked, and the reload that nobody would repeat is done.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reload_outlives_the_forwarder_that_was_asked_about_it() -> Result<()> {
    if !single::ready("proc_reload")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let _server = serve(&single.other, 3306)?;
    let good = config("0.2", "", "", &virtual_server(3306, "wlc", &[OTHER]));
    single.host.write_config(&good)?;
    single.host.start()?;
    single.wait_master()?;
    let watch = Watch::start(&single);
    let read = "findings in the configuration:";
    let before = single.log().matches(read).count();
    single.host.write_config(&good.replace("priority 101", "priority 102"))?;
    let pid = single.host.role_pid("forwarder").context("no forwarder")?;
    send(pid, Signal::SIGSTOP)?;
    single.host.signal_main(Signal::SIGHUP)?;
    // TCP_CHECK has a notice, told once the file is read and before the forwarder is asked.
    wait_until(
        "the file read",
        LIMIT,
        || Ok((single.log().matches(read).count() > before).then_some(())),
        || single.host.log_tail(20),
    )?;
    send(pid, Signal::SIGKILL)?;
    single.wait_log("its successor is asked again")?;
    single.wait_status("the new priority", |status| {
        status.config_generation == 2
            && status.reload_failures == 0
            && instance(status).is_ok_and(|it| it.base_priority == 102)
    })?;
    watch.finish()?;
    single.host.stop()
}

/// What keepalived's reload does to bystanders (reference/keepalived.md §1): it ends scripts that run,
/// closes the FIFOs so that readers see their end, takes tracked scripts for good until their next
/// result, and cannot move a VIP from one instance to another. Ours does none of it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reload_ends_no_script_closes_no_fifo_forgets_no_verdict_and_moves_a_vip() -> Result<()> {
    if !single::ready("proc_reload_touches")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let (fifo, go, said) =
        (single.dir().join("fifo"), single.dir().join("go"), single.dir().join("said"));
    let text = format!(
        "#!/bin/sh\ntrap 'echo TERM >> {said}; exit' TERM\necho began >> {said}\nwhile [ ! -e {go} ]; do \
         sleep 0.05; done\necho ended >> {said}\n",
        said = said.display(),
        go = go.display()
    );
    let script = single.script("long.sh", &text)?;
    let global = format!("notify_fifo {}\n    script_user root", fifo.display());
    let words = format!("notify_master \"{}\"\n    track_script {{\n bad\n }}", script.display());
    let check = "vrrp_script bad {\n script /bin/false\n interval 60\n timeout 5\n weight -10\n init_fail\n}";
    // No transition, although a process may not be run for a moment: see `several`.
    let first = config("1", &global, &words, check);
    let second = "vrrp_instance VI_2 {\n interface eth0\n version 3\n virtual_router_id 52\n priority 90\n \
        advert_int 1\n virtual_ipaddress {\n 10.79.0.101/24\n }\n}\n";
    let moving = "10.79.0.110/24";
    let with = |first_has: bool, priority: u8| {
        let list = |vip: &str| format!("{vip}/24\n {moving}");
        let (one, two) = match first_has {
            true => (first.replace("10.79.0.100/24", &list("10.79.0.100")), second.to_owned()),
            false => (first.clone(), second.replace("10.79.0.101/24", &list("10.79.0.101"))),
        };
        format!("{one}{}", two.replace("priority 90", &format!("priority {priority}")))
    };
    single.host.write_config(&with(true, 90))?;
    single.host.start()?;
    // Lines of the FIFO, and whether its reader has seen the end.
    let ended = Arc::<AtomicBool>::default();
    wait_until("the FIFO", LIMIT, || Ok(fifo.exists().then_some(())), || single.host.log_tail(20))?;
    let reader = thread::spawn({
        let (fifo, ended) = (fifo.clone(), Arc::clone(&ended));
        move || -> std::io::Result<String> {
            let mut lines = String::new();
            fs::File::open(fifo)?.read_to_string(&mut lines)?;
            ended.store(true, Ordering::Relaxed);
            Ok(lines)
        }
    });
    single.wait_master()?;
    let before = single.wait_status("both masters, one priority lowered", |status| {
        let master = |name| named(status, name).is_ok_and(|it| it.state == VrrpState::Master);
        master("VI_1")
            && master("VI_2")
            && instance(status).is_ok_and(|it| it.effective_priority == 91)
    })?;
    let read = || fs::read_to_string(&said).unwrap_or_default();
    wait_until("the script", LIMIT, || Ok(read().contains("began").then_some(())), read)?;
    let watch = Watch::start(&single);
    for (first_has, priority) in [(true, 91), (false, 91), (false, 92), (true, 92)] {
        single.host.write_config(&with(first_has, priority))?;
        let output = single.lbctl(&["reload"])?;
        ensure!(output.status.success(), "{output:?}");
        let status = single.host.status()?;
        for name in ["VI_1", "VI_2"] {
            let (then, now) = (named(&before, name)?, named(&status, name)?);
            ensure!(now.state == VrrpState::Master, "{name}: {now:?}");
            ensure!(now.last_transition_ms == then.last_transition_ms, "{name}: {now:?}");
        }
        let lowered = instance(&status)?.effective_priority;
        ensure!(lowered == 91, "the script's verdict was forgotten: {lowered}");
        wait_until(
            "the VIP that moved",
            LIMIT,
            || Ok(single.host.has(Ipv4Addr::new(10, 79, 0, 110))?.then_some(())),
            || single.host.log_tail(40),
        )?;
        ensure!(!ended.load(Ordering::Relaxed), "the FIFO's reader saw its end");
        ensure!(read() == "began\n", "the script that runs: {}", read());
    }
    fs::write(&go, "")?;
    wait_until("the script's own end", LIMIT, || Ok(read().contains("ended").then_some(())), read)?;
    ensure!(read() == "began\nended\n", "{}", read());
    watch.finish()?;
    single.host.stop()?;
    let lines = reader.join().ok().context("the reader died")??;
    ensure!(lines.contains("\"VI_1\" MASTER"), "{lines}");
    ensure!(ended.load(Ordering::Relaxed));
    Ok(())
}
