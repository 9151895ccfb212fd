//! What a running lbd tells: scripts, FIFOs, mail, dump files; and what it tracks.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    host::{Host, Program},
    mariadb::MariaDb,
    netns::Namespace,
    single::{self, LIMIT, Single, VIP, config, instance},
    wait::{wait_for, wait_true, wait_until},
};
use lb_userspace::{
    base::status::VrrpState,
    config::model::TrackProcess,
    io::track::{Connector, Sources, Watch},
    vrrp::track::Verdict,
};
use nix::sys::signal::Signal;

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn priority(single: &Single, what: &str, wanted: u8) -> Result<()> {
    single
        .wait_status(what, |status| {
            instance(status).is_ok_and(|it| it.effective_priority == wanted)
        })
        .map(drop)
}

/// A script that hangs and ignores SIGTERM, a FIFO that nobody reads, a vrrp process that is killed
/// and a reload: order is kept, nothing is told twice, and the last state arrives.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_last_state_arrives_whatever_hangs() -> Result<()> {
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let (notes, bad, fifo) =
        (single.dir().join("notes"), single.dir().join("bad"), single.dir().join("fifo"));
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {}\n[ \"$3\" = MASTER ] || exit 0\ntrap '' TERM\nsleep 1000\n",
        notes.display()
    );
    let script = single.script("notify.sh", &text)?;
    let check = format!(
        "vrrp_script chk {{\n script \"/usr/bin/test ! -e {}\"\n interval 1\n user root\n}}\n",
        bad.display()
    );
    let global = format!(
        "script_user root\nnotify_timeout 1s\nvrrp_notify_fifo {} root\n\
         vrrp_notify_priority_changes on",
        fifo.display()
    );
    let words = format!("notify {}\ntrack_script {{\n chk\n }}", script.display());
    // At this interval a process that is killed is back before its lease ends.
    single.host.write_config(&config("1", &global, &words, &check))?;
    single.host.start()?;
    single.wait_master()?;
    wait_true("the hanging script", LIMIT, || lines(&notes).len() == 2)?;
    // A restarted vrrp process resumes as master: nothing to tell.
    single.wait_advert()?;
    single.host.kill_role("vrrp")?;
    single.wait_status("vrrp back", |status| {
        status.processes.iter().any(|it| it.role == "vrrp" && it.restarts == 1 && it.ready)
            && instance(status).is_ok_and(|it| it.state == VrrpState::Master)
    })?;
    ensure!(lines(&notes).len() == 2, "told again: {:?}", lines(&notes));
    fs::write(&bad, "")?;
    // It may have only just been told MASTER by the state machine: the state counts.
    wait_true("FAULT, although the script before it hangs", Duration::from_secs(15), || {
        lines(&notes).last().is_some_and(|line| line.contains("FAULT"))
    })?;
    // A priority change and a reload go into the FIFO too.
    let reloaded = config("1", &global, &words, &check).replace("priority 101", "priority 102");
    single.host.write_config(&reloaded)?;
    single.host.lbctl(&["reload"])?;
    fs::remove_file(&bad)?;
    single.wait_master()?;
    // MASTER hangs again; the stop must not wait for it, and STOP must arrive.
    let reader = fifo.clone();
    let (sender, receiver) = mpsc::channel();
    let read = thread::spawn(move || -> Result<()> {
        let file = fs::File::open(&reader)?;
        sender.send(())?;
        for line in BufReader::new(file).lines() {
            let _ = sender.send(()); // nobody waits for more than the first
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(reader.with_extension("read"))
                .and_then(|mut it| writeln!(it, "{}", line.unwrap_or_default()))?;
        }
        Ok(())
    });
    receiver.recv_timeout(LIMIT).context("the FIFO cannot be opened")?;
    single.host.stop()?;
    read.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    ensure!(!fifo.exists(), "the FIFO's name is left");
    let told: Vec<String> = lines(&fifo.with_extension("read"));
    let states: Vec<&str> = told.iter().filter_map(|line| line.split(' ').nth(2)).collect();
    let want = ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER", "STOP"];
    let plain: Vec<&str> =
        states.iter().copied().filter(|state| !state.ends_with("_PRIORITY")).collect();
    ensure!(plain == want, "{told:?}");
    ensure!(told[0] == "INSTANCE \"VI_1\" BACKUP 101", "{told:?}");
    ensure!(told.last().is_some_and(|it| it == "INSTANCE \"VI_1\" STOP 102"), "{told:?}");
    let notes = lines(&notes);
    ensure!(notes.last().is_some_and(|it| it == "INSTANCE VI_1 STOP 102"), "{notes:?}");
    let mut order = states.iter();
    for note in &notes {
        let state = note.split(' ').nth(2).unwrap_or_default();
        ensure!(order.any(|it| *it == state), "{state} out of order: {notes:?} {told:?}");
    }
    Ok(())
}

/// Speaks SMTP to one client after the other; subjects in order.
fn sink(listener: TcpListener, subjects: mpsc::Sender<String>) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let Ok(copy) = stream.try_clone() else { return };
        let mut lines = BufReader::new(copy).lines();
        let mut say = |text: &str| stream.write_all(format!("{text}\r\n").as_bytes()).is_ok();
        say("220 sink");
        let mut data = false;
        let mut recipients = 0;
        while let Some(Ok(line)) = lines.next() {
            if data {
                if let Some(subject) = line.strip_prefix("Subject: ") {
                    let _ = subjects.send(format!("{recipients} {subject}"));
                }
                if line == "." {
                    data = false;
                    say("250 taken");
                }
                continue;
            }
            let word: String = line.chars().take(4).collect::<String>().to_uppercase();
            match word.as_str() {
                "DATA" => {
                    data = true;
                    say("354 go on");
                }
                "QUIT" => {
                    say("221 bye");
                    break;
                }
                "RCPT" => {
                    recipients += 1;
                    say("250 yes");
                }
                _ => {
                    say("250 yes");
                }
            }
        }
    }
}

/// Mail about every change, in order, also those of the time when the server was away.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn mails_wait_for_a_server_that_is_away() -> Result<()> {
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let global = "smtp_server 127.0.0.1 2525\nsmtp_connect_timeout 2\nsmtp_alert_vrrp\n\
        notification_email_from lbd@example.com\n\
        notification_email {\n a@example.com\n b@example.com\n }";
    single.host.write_config(&config("0.2", global, "", ""))?;
    single.host.start()?;
    // Nobody listens: the election does not care.
    single.wait_master()?;
    let listener = single.host.netns().enter(|| TcpListener::bind("127.0.0.1:2525"))??;
    let (sender, subjects) = mpsc::channel();
    thread::spawn(move || sink(listener, sender));
    for state in ["BACKUP", "MASTER"] {
        let subject = subjects.recv_timeout(Duration::from_secs(30)).context("no mail")?;
        ensure!(
            subject == format!("2 [LBD] VRRP Instance VI_1 - Entering {state} state"),
            "{subject}"
        );
    }
    // The role that sends them is killed: what comes then is sent by the next one.
    single.host.kill_role("api")?;
    single.wait_status("api back", |status| status.processes.iter().all(|it| it.ready))?;
    single.host.stop()?;
    let mut rest = subjects.try_iter().collect::<Vec<_>>();
    // A sender that dies before it has said so sends a mail again: better twice than never.
    rest.retain(|subject| !subject.ends_with("Entering MASTER state"));
    ensure!(
        rest == ["2 [LBD] VRRP Instance VI_1 - Stopping"],
        "{rest:?}\n{}",
        single.host.log_tail(40)
    );
    Ok(())
}

/// A mail server that takes connections and says nothing: the election, the status, a fail-over of a
/// role and the stop go on as without it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_mail_server_that_says_nothing_delays_nothing() -> Result<()> {
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let silent = single.host.netns().enter(|| TcpListener::bind("127.0.0.1:2525"))??;
    // Longer than the whole test: whoever waits for it is seen.
    let global = "smtp_server 127.0.0.1 2525\nsmtp_connect_timeout 60\nsmtp_alert_vrrp\n\
        notification_email_from lbd@example.com\nnotification_email {\n a@example.com\n }";
    single.host.write_config(&config("0.2", global, "", ""))?;
    single.host.start()?;
    single.wait_master()?;
    let (_held, _) = silent.accept().context("a mail is under way")?;
    let begin = Instant::now();
    single.host.status()?;
    single.host.kill_role("vrrp")?;
    single.wait_status("vrrp back", |status| {
        status.processes.iter().all(|it| it.ready)
            && instance(status).is_ok_and(|it| it.state == VrrpState::Master)
    })?;
    single.host.stop()?;
    ensure!(!single.host.has(VIP)?, "the VIP is still there");
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(15), "status, restart and stop took {took:?}");
    Ok(())
}

/// Whether the kernel tells of processes here: not outside the first namespaces, nor without the option.
fn kernel_tells(runtime: &tokio::runtime::Runtime) -> Result<bool> {
    match runtime.block_on(Connector::open()) {
        Ok(_) => Ok(true),
        Err(error) if std::env::var("LB_NO_SKIP").is_ok_and(|it| it == "1") => {
            bail!("no process events: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED process events: {error}");
            Ok(false)
        }
    }
}

/// `vrrp_track_process` by the kernel's events: /proc is read each half second without them, which
/// could not tell of ten short lives in so little time. In the first namespaces, where lbd's daemons are.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn processes_are_told_by_the_kernel_as_they_come_and_go() -> Result<()> {
    const LIVES: u32 = 10;
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if !kernel_tells(&runtime)? {
        return Ok(());
    }
    // A name of its own: others may sleep, too.
    let dir = tempfile::tempdir()?;
    let name = format!("lbdt{}", std::process::id());
    let program = dir.path().join(&name);
    single::install(Path::new("/bin/sleep"), &program)?;
    let command = vec![name];
    let mut sources = Sources::start()?;
    let processes = vec![TrackProcess::new("it", command)];
    sources.watch(Watch { processes, files: vec![] });
    let mut next = |wanted: Verdict| -> Result<()> {
        let report = async { tokio::time::timeout(LIMIT, sources.report()).await };
        let report = runtime.block_on(report)?.context("the thread has ended")?;
        ensure!(report.verdict == wanted, "{report:?}, not {wanted:?}");
        Ok(())
    };
    next(Verdict::Bad).context("nobody runs it yet")?;
    let mut took = Vec::new();
    for _ in 0..LIVES {
        let begin = Instant::now();
        let mut child = std::process::Command::new(&program).arg("60").spawn()?;
        let came = next(Verdict::Good).context("it runs");
        child.kill()?;
        child.wait()?;
        came?;
        next(Verdict::Bad).context("it has ended")?;
        took.push(begin.elapsed());
    }
    // Read from /proc not one would be told so soon; a machine that stands still for a moment delays one or two.
    let soon = took.iter().filter(|it| **it < Duration::from_millis(500)).count();
    ensure!(soon * 2 > took.len(), "{LIVES} lives were told in {took:?}");
    Ok(())
}

/// keepalived's signals write keepalived's files.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn signals_write_keepaliveds_files() -> Result<()> {
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let dir = single.dir().to_owned();
    let global = format!(
        "state_dump_file {0}/d\nstats_dump_file {0}/s\njson_dump_file {0}/j",
        dir.display()
    );
    single.host.write_config(&config("0.2", &global, "", ""))?;
    single.host.start()?;
    single.wait_master()?;
    single.host.signal_main(Signal::SIGUSR1)?;
    single.host.signal_main(Signal::SIGUSR2)?;
    let main = single.host.pids().first().copied().context("it runs")?.as_raw();
    let number = single.lbd(&["--signum=JSON"])?;
    let number = String::from_utf8(number.stdout)?;
    ensure!(number.trim() == "36", "{number}");
    let send = |number: &str| -> Result<()> {
        let status = std::process::Command::new("kill")
            .args([&format!("-{}", number.trim()), &main.to_string()])
            .status()?;
        ensure!(status.success(), "kill");
        Ok(())
    };
    send(&number)?;
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    wait_true("the three files", LIMIT, || {
        ["d", "s", "j"].iter().all(|name| !read(name).is_empty())
    })?;
    let json: serde_json::Value = serde_json::from_str(&read("j"))?;
    let (data, stats) = (&json[0]["data"], &json[0]["stats"]);
    ensure!(data["iname"] == "VI_1" && data["state"] == 2 && data["vipset"] == true, "{json}");
    ensure!(stats["become_master"] == 1 && stats["advert_sent"].as_u64() > Some(0), "{json}");
    ensure!(read("d").contains("   State = MASTER\n"), "{}", read("d"));
    ensure!(read("s").contains("  Became master: 1\n"), "{}", read("s"));
    send("63")?;
    single.wait_status("statistics from zero", |status| {
        instance(status).is_ok_and(|it| it.counters.become_master == 0)
    })?;
    let said = single.host.lbctl(&["explain", "VI_1"])?;
    ensure!(said.contains("MASTER") && said.contains("master with priority 101"), "{said}");
    single.host.stop()
}

/// Files, processes and a real MariaDB move the priority; a restart of vrrp forgets none of it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_tracked_moves_the_priority() -> Result<()> {
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let value = single.dir().join("value");
    // Not that of the test beside this one, which runs in the same process.
    let name = format!("lbdp{}", std::process::id());
    let program = single.dir().join(&name);
    single::install(Path::new("/bin/sleep"), &program)?;
    let mut db = MariaDb::start(single.host.netns(), 1)?;
    let blocks = format!(
        "track_file f {{\n file {}\n init_file 3\n}}\n\
         vrrp_track_process p {{\n process {name}\n weight -10\n terminate_delay 0.2\n}}\n\
         track_mysql m {{\n level greeting\n weight -40\n fall 2\n}}\n",
        value.display()
    );
    let lists = "track_file {\n f\n }\ntrack_process {\n p\n }\ntrack_mysql {\n m\n }";
    single.host.write_config(&config("0.2", "", lists, &blocks))?;
    single.host.start()?;
    priority(&single, "3 from the file, no process, a database", 101 + 3 - 10)?;
    let mut child = std::process::Command::new(&program).arg("1000").spawn()?;
    priority(&single, "the process", 101 + 3)?;
    fs::write(single.dir().join("new"), "-20\n")?;
    fs::rename(single.dir().join("new"), &value)?;
    priority(&single, "another file", 101 - 20)?;
    db.kill();
    priority(&single, "no database", 101 - 20 - 40)?;
    single.host.kill_role("vrrp")?;
    single.wait_status("vrrp back with what was known", |status| {
        status.processes.iter().any(|it| it.role == "vrrp" && it.restarts == 1 && it.ready)
            && instance(status).is_ok_and(|it| it.effective_priority == 101 - 20 - 40)
    })?;
    child.kill()?;
    child.wait()?;
    priority(&single, "the process gone", 101 - 20 - 40 - 10)?;
    db.launch()?;
    priority(&single, "the database back", 101 - 20 - 10)?;
    fs::write(&value, "-300\n")?;
    single.wait_status("FAULT by a file", |status| {
        instance(status).is_ok_and(|it| {
            it.state == VrrpState::Fault && it.why.held_by.iter().any(|why| why.contains("file f"))
        })
    })?;
    single.host.stop()
}

/// An interface whose carrier the test has in its hand: the other end of the pair is `NAMEp`.
fn link(netns: &Namespace, name: &str) -> Result<()> {
    let end = format!("{name}p");
    netns.ip(&["link", "add", name, "type", "veth", "peer", "name", &end])?;
    netns.ip(&["link", "set", name, "up"])?;
    netns.ip(&["link", "set", &end, "up"]).map(drop)
}

/// Adds its weight while it is up, takes it away while it is down, ends the mastership without one; what
/// is wrong with a weighted link is no reason for FAULT.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn tracked_links_weigh_or_fail_an_instance_and_come_back() -> Result<()> {
    use VrrpState::{Backup, Fault, Master};
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let netns = single.host.netns().clone();
    for name in ["bonus", "heavy", "vital"] {
        link(&netns, name)?;
    }
    let peer_dir = single.dir().join("peer");
    fs::create_dir(&peer_dir)?;
    // Transitions are counted, and one more would be the other's whose master is not run for a moment: master-down is
    // longer than that.
    let mut peer = Host::new(&single.other, Program::Lbd, &peer_dir)?;
    peer.write_config(&config("1", "", "", ""))?;
    let tracks = "track_interface {\n bonus weight 10\n heavy weight -20\n vital\n }";
    single.host.write_config(&config("1", "", tracks, ""))?;
    single.host.start()?;
    peer.start()?;
    // The peer has 101: a bonus of 10 is what makes this host the better one.
    let expect = |what: &str, state: VrrpState, priority: u8| {
        wait_until(
            what,
            LIMIT,
            || {
                let row = |host: &Host| host.status().ok()?.vrrp.first().cloned();
                let (Some(own), Some(its)) = (row(&single.host), row(&peer)) else {
                    return Ok(None);
                };
                let here = state == Master;
                let other = if here { Backup } else { Master };
                let agree = own.state == state
                    && own.effective_priority == priority
                    && its.state == other
                    && (single.host.has(VIP)?, peer.has(VIP)?) == (here, !here);
                Ok(agree.then_some(own))
            },
            || {
                let states = [&single.host, &peer].map(|it| it.status().map(|it| it.vrrp));
                format!("{states:#?}\n{}\n{}", single.host.log_tail(30), peer.log_tail(20))
            },
        )
    };
    let carrier =
        |name: &str, word: &str| netns.ip(&["link", "set", &format!("{name}p"), word]).map(drop);
    expect("every link up", Master, 111)?;
    carrier("heavy", "down")?;
    let own = expect("the heavy link down", Backup, 91)?;
    ensure!(own.why.held_by.is_empty() && own.base_priority == 101, "{own:#?}");
    carrier("heavy", "up")?;
    expect("the heavy link again", Master, 111)?;
    // Down by hand counts as no carrier does.
    netns.ip(&["link", "set", "heavy", "down"])?;
    expect("the heavy link set down", Backup, 91)?;
    netns.ip(&["link", "set", "heavy", "up"])?;
    expect("the heavy link set up", Master, 111)?;

    carrier("vital", "down")?;
    let own = expect("the vital link down", Fault, 111)?;
    ensure!(own.why.held_by == ["interface vital is down"], "{own:#?}");
    // While it is in FAULT a weight goes on counting.
    carrier("bonus", "down")?;
    expect("the bonus lost in FAULT", Fault, 101)?;
    carrier("bonus", "up")?;
    carrier("vital", "up")?;
    let own = expect("the vital link again", Master, 111)?;
    ensure!(own.counters.become_master == 4 && own.counters.release_master == 3, "{own:#?}");
    let its = instance(&peer.status()?)?.clone();
    ensure!(its.counters.release_master == its.counters.become_master, "{its:#?}");
    single.host.stop()?;
    peer.stop()
}

/// A backup whose slow check fails keeps its lower priority over the death of its vrrp process.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn verdicts_survive_the_death_of_vrrp() -> Result<()> {
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let fast = single.dir().join("fast");
    fs::write(&fast, "")?;
    let text = format!("#!/bin/sh\n[ -e {} ] || sleep 8\nexit 1\n", fast.display());
    let script = single.script("chk.sh", &text)?;
    let check = format!(
        "vrrp_script chk {{\n script {}\n interval 1\n timeout 20\n weight -20\n user root\n}}\n",
        script.display()
    );
    let peer_dir = single.dir().join("peer");
    fs::create_dir(&peer_dir)?;
    let mut peer = Host::new(&single.other, Program::Lbd, &peer_dir)?;
    peer.write_config(&config("1", "", "", "").replace("priority 101", "priority 95"))?;
    peer.start()?;
    peer.wait_state(VrrpState::Master, VIP, LIMIT)?;
    single.host.write_config(&config("1", "", "track_script {\n chk\n }", &check))?;
    single.host.start()?;
    priority(&single, "the check", 81)?;
    single.wait_status("backup", |status| {
        instance(status).is_ok_and(|it| {
            it.state == VrrpState::Backup && it.why.lost_by == Some(95) && it.why.next_ms.is_some()
        })
    })?;
    let said = single.host.lbctl(&["explain", "VI_1"])?;
    ensure!(said.contains("priority 95 > 81") && said.contains("takes over unless"), "{said}");
    // From now on a check lasts longer than master-down: without the old verdict the priority
    // would be 101, and this host would preempt.
    fs::remove_file(&fast)?;
    single.host.kill_role("vrrp")?;
    single.wait_status("vrrp back with its verdict", |status| {
        status.processes.iter().any(|it| it.role == "vrrp" && it.restarts == 1 && it.ready)
            && instance(status).is_ok_and(|it| it.effective_priority == 81)
    })?;
    let master_down = Duration::from_secs(5);
    let since = Instant::now();
    wait_true("master-down to pass", LIMIT, || since.elapsed() > master_down)?;
    let (own, its) = (single.host.status()?, peer.status()?);
    ensure!(instance(&own)?.counters.become_master == 0, "{own:#?}");
    ensure!(instance(&its)?.counters.release_master == 0, "{its:#?}");
    single.host.stop()?;
    peer.stop()
}

/// Scripts around the daemon's life, one of which hangs.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn scripts_surround_the_life() -> Result<()> {
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let notes = single.dir().join("notes");
    let up = single.script(
        "up.sh",
        &format!(
            "#!/bin/sh\nip -br link show eth0 > /dev/null\necho up >> {}\nsleep 1000\n",
            notes.display()
        ),
    )?;
    let down =
        single.script("down.sh", &format!("#!/bin/sh\necho down >> {}\n", notes.display()))?;
    let global = format!(
        "script_user root\nstartup_script {}\nstartup_script_timeout 3\nshutdown_script {}",
        up.display(),
        down.display()
    );
    let tested = single.host.config_file();
    single.host.write_config(&config("0.2", &global, "", ""))?;
    let path = tested.to_str().context("path is text")?;
    let output = single.lbd(&["-t", "-f", path])?;
    ensure!(output.status.code() == Some(6), "script security only: {output:?}");
    single.host.start()?;
    single.wait_master()?;
    ensure!(lines(&notes) == ["up"], "{:?}", lines(&notes));
    single.host.stop()?;
    ensure!(lines(&notes) == ["up", "down"], "{:?}", lines(&notes));
    Ok(())
}

/// A mail server that takes connections and never greets is given up after `smtp_connect_timeout`; the
/// next attempt, and the mails behind it, go to whoever answers there by then.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_mail_server_that_never_answers_is_given_up_and_the_next_mail_goes_on() -> Result<()> {
    if !single::ready("proc_notify")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let listener = single.host.netns().enter(|| TcpListener::bind("127.0.0.1:2525"))??;
    listener.set_nonblocking(true)?;
    let global = "smtp_server 127.0.0.1 2525\nsmtp_connect_timeout 1\nsmtp_alert_vrrp\n\
        notification_email_from lbd@example.com\nnotification_email {\n a@example.com\n }";
    single.host.write_config(&config("0.2", global, "", ""))?;
    single.host.start()?;
    let (mut held, _) =
        wait_for("the first mail's connection", LIMIT, || Ok(listener.accept().ok()))?;
    let begin = Instant::now();
    held.set_nonblocking(false)?;
    held.set_read_timeout(Some(Duration::from_secs(20)))?;
    let read = held.read(&mut [0; 64]).context("the silent server is not given up")?;
    let took = begin.elapsed();
    ensure!(read == 0, "a client that was not greeted speaks");
    ensure!(took < Duration::from_secs(5), "given up after {took:?}");
    listener.set_nonblocking(false)?;
    let (sender, subjects) = mpsc::channel();
    thread::spawn(move || sink(listener, sender));
    for state in ["BACKUP", "MASTER"] {
        let subject = subjects.recv_timeout(Duration::from_secs(20)).context("no mail")?;
        ensure!(subject.ends_with(&format!("VI_1 - Entering {state} state")), "{subject}");
    }
    single.wait_log("no greeting within 1s")?;
    single.host.stop()
}
