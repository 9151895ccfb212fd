//! What is told around reloads and at the stop, of priorities and of losing adverts: lbd writes into its FIFO, and calls
//! its notify scripts, as real keepalived does.

use std::{
    fs,
    io::Read as _,
    net::Ipv4Addr,
    os::{
        fd::AsFd as _,
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    netns::{Namespace, Switch, ready_or_skip},
    vrrp::{VIP, advert_frame, cable},
    wait::wait_until,
};
use lb_userspace::io::link::FrameSocket;
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::signal::Signal,
};

const LIMIT: Duration = Duration::from_secs(30);

/// Four instances on eth0, two of them in a group; without `later` only the group's.
fn config(dir: &Path, script: &Path, later: bool) -> String {
    let instance = |number: u8, words: &str| {
        format!(
            "vrrp_instance VI_{number} {{\n interface eth0\n version 3\n virtual_router_id \
             5{number}\n priority 10{number}\n advert_int 0.2\n notify {}\n {words}\n \
             virtual_ipaddress {{\n  10.77.0.10{number}/24\n }}\n}}\n",
            script.display()
        )
    };
    let later = if later {
        instance(3, "") + &instance(4, &format!("notify_deleted {}", script.display()))
    } else {
        String::new()
    };
    format!(
        "global_defs {{\n script_user root\n vrrp_notify_fifo {}\n \
         fifo_write_vrrp_states_on_reload\n}}\n\
         vrrp_sync_group G {{\n group {{\n  VI_1\n  VI_2\n }}\n}}\n{}{}{later}",
        dir.join("fifo").display(),
        instance(1, ""),
        instance(2, ""),
    )
}

/// The states in force.
const MASTERS: [&str; 4] = [
    "INSTANCE \"VI_1\" MASTER 101",
    "INSTANCE \"VI_2\" MASTER 102",
    "INSTANCE \"VI_3\" MASTER 103",
    "INSTANCE \"VI_4\" MASTER 104",
];

/// Adds the FIFO's lines to `sink` until `over`. keepalived makes a new FIFO at each reload.
fn read(fifo: &Path, sink: &Mutex<Vec<String>>, over: &AtomicBool) -> Result<()> {
    let mut rest = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let opened = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(fifo);
        let Ok(mut file) = opened else {
            poll(&mut [], 20_u8)?;
            continue;
        };
        loop {
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, 20_u8)?;
            let events = fds[0].revents().unwrap_or(PollFlags::empty());
            if events.contains(PollFlags::POLLIN) {
                let mut buffer = [0; 4096];
                let len = file.read(&mut buffer)?;
                rest.extend_from_slice(&buffer[..len]);
                while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                    let line = rest.drain(..=at).take(at).collect();
                    let mut sink = sink.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
                    sink.push(String::from_utf8(line)?);
                }
            } else if over.load(Ordering::Relaxed) || events.contains(PollFlags::POLLHUP) {
                break;
            }
        }
    }
    Ok(())
}

/// Lines that one side has told, sorted: the order among objects is nobody's promise.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    start: Vec<String>,
    reload: Vec<String>,
    removal: Vec<String>,
    /// Of the removed instances, from the script.
    removed: Vec<String>,
    stop: Vec<String>,
    /// Of the others at the stop, from the script.
    stopped: Vec<String>,
}

struct Bed {
    name: &'static str,
    host: Host,
    netns: Namespace,
    said: Arc<Mutex<Vec<String>>>,
    notes: PathBuf,
}

impl Bed {
    /// Takes what the FIFO has told once it holds a line that begins so for each of `wanted`.
    fn take(&self, what: &str, wanted: &[&str]) -> Result<Vec<String>> {
        let lines = || self.said.lock().map(|said| said.clone()).unwrap_or_default();
        wait_until(
            &format!("{}: {what}", self.name),
            LIMIT,
            || {
                let lines = lines();
                let all = wanted.iter().all(|want| lines.iter().any(|line| line.starts_with(want)));
                Ok(all.then_some(()))
            },
            || format!("{:#?}\n{}", lines(), self.host.log_tail(40)),
        )?;
        let mut taken = self.said.lock().map(|mut said| std::mem::take(&mut *said)).ok();
        let taken = taken.as_mut().context("the reader panicked")?;
        taken.sort();
        Ok(std::mem::take(taken))
    }
}

fn tell(program: Program, name: &'static str) -> Result<Told> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let (switch, netns) = (Switch::new("lan")?, Namespace::new(name)?);
    switch.plug(&netns, "eth0", Some("10.77.0.1/24"))?;
    let (script, notes) = (dir.path().join("notify.sh"), dir.path().join("notes"));
    fs::write(&script, format!("#!/bin/sh\necho \"$@\" >> {}\n", notes.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let host = Host::new(&netns, program, dir.path())?;
    let said = Arc::new(Mutex::new(Vec::new()));
    let mut bed = Bed { name, host, netns, said, notes };
    bed.host.write_config(&config(dir.path(), &script, true))?;
    bed.host.start()?;
    let fifo = dir.path().join("fifo");
    wait_until(
        &format!("{name}: its FIFO"),
        LIMIT,
        || Ok(fifo.exists().then_some(())),
        || bed.host.log_tail(40),
    )?;
    let (sink, over) = (Arc::clone(&bed.said), Arc::new(AtomicBool::new(false)));
    let end = Arc::clone(&over);
    let reader = thread::spawn(move || read(&fifo, &sink, &end));
    let start = bed.take("all masters", &[&MASTERS[..], &["GROUP \"G\" MASTER 0"]].concat())?;

    // keepalived 2.2.7 does not write the lines of instances that stay MASTER.
    let group = "GROUP \"G\" MASTER 0";
    let again = |kept: &[&'static str]| match program {
        Program::Lbd => [kept, &[group]].concat(),
        Program::Keepalived => vec![group],
    };
    // Nothing has changed: the states again.
    bed.host.signal_main(Signal::SIGHUP)?;
    let reload = bed.take("the states again", &again(&MASTERS))?;

    bed.host.write_config(&config(dir.path(), &script, false))?;
    bed.host.signal_main(Signal::SIGHUP)?;
    let gone = ["INSTANCE \"VI_3\" FAULT 103", "INSTANCE \"VI_4\" DELETED 104"];
    let wanted = [&gone[..], &again(&MASTERS[..2])].concat();
    let removal = bed.take("the end of two", &wanted)?;
    wait_until(
        &format!("{name}: VIPs of removed instances are gone"),
        LIMIT,
        || {
            let left = [103, 104]
                .into_iter()
                .any(|last| bed.netns.has_address([10, 77, 0, last]).unwrap_or(true));
            Ok((!left && bed.netns.has_address([10, 77, 0, 101])?).then_some(()))
        },
        || bed.host.log_tail(40),
    )?;
    let removed = || {
        let notes = fs::read_to_string(&bed.notes).unwrap_or_default();
        let last = |who: &str| notes.lines().rfind(|it| it.contains(who)).map(str::to_owned);
        [last("VI_3"), last("VI_4"), notes.lines().rfind(|it| it.is_empty()).map(str::to_owned)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    };
    wait_until(
        &format!("{name}: the scripts of removed instances"),
        LIMIT,
        || {
            // What they were told before is there already.
            let notes = removed();
            let ended = |state: &str| notes.iter().any(|line| line.contains(state));
            Ok((notes.len() == 3 && ended("VI_3 FAULT") && ended("VI_4 DELETED")).then_some(()))
        },
        || format!("{:?}\n{}", fs::read_to_string(&bed.notes), bed.host.log_tail(40)),
    )?;
    let removed = removed();
    bed.host.stop()?;
    let ends = ["INSTANCE \"VI_1\" STOP", "INSTANCE \"VI_2\" STOP", "GROUP \"G\" STOP"];
    let stop = bed.take("the end of all", &ends)?;
    let stopped = || {
        let notes = fs::read_to_string(&bed.notes).unwrap_or_default();
        let mut lines: Vec<String> =
            notes.lines().filter(|line| line.contains("STOP")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    wait_until(
        &format!("{name}: the scripts at the stop"),
        LIMIT,
        || Ok((stopped().len() == 2).then_some(())),
        || format!("{:?}\n{}", fs::read_to_string(&bed.notes), bed.host.log_tail(40)),
    )?;
    let stopped = stopped();
    over.store(true, Ordering::Relaxed);
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    Ok(Told { start, reload, removal, removed, stop, stopped })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_told_around_reloads_and_at_the_stop_is_keepaliveds() -> Result<()> {
    if !ready_or_skip("interop_notify")? {
        return Ok(());
    }
    for program in [Program::Lbd, Program::Keepalived] {
        host::available(program).map_err(|why| anyhow::anyhow!(why))?;
    }
    let (ours, theirs) = thread::scope(|scope| {
        let theirs = scope.spawn(|| tell(Program::Keepalived, "keepalived"));
        (tell(Program::Lbd, "lbd"), theirs.join())
    });
    let theirs = theirs.map_err(|_| anyhow::anyhow!("panicked"))??;
    let mut ours = ours?;
    // The lines that only lbd writes: of the instances that stay MASTER.
    let of_masters = |lines: &mut Vec<String>| {
        lines.extract_if(.., |line| MASTERS.contains(&line.as_str())).collect::<Vec<_>>()
    };
    ensure!(of_masters(&mut ours.reload) == MASTERS, "{ours:#?}");
    ensure!(of_masters(&mut ours.removal) == MASTERS[..2], "{ours:#?}");
    ensure!(ours == theirs, "lbd {ours:#?}\nkeepalived {theirs:#?}");
    Ok(())
}

/// What is told of one instance, step by step.
fn tell_priorities(program: Program, name: &'static str) -> Result<Vec<Vec<String>>> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let (netns, peer) = cable()?;
    let [script, notes, value, fifo] =
        ["low.sh", "notes", "value", "fifo"].map(|name| dir.path().join(name));
    fs::write(&script, format!("#!/bin/sh\necho \"low $*\" >> {}\n", notes.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    fs::write(&value, "0\n")?;
    let host = Host::new(&netns, program, dir.path())?;
    let said = Arc::new(Mutex::new(Vec::new()));
    let mut bed = Bed { name, host, netns, said, notes };
    bed.host.write_config(&format!(
        "global_defs {{\n script_user root\n vrrp_notify_fifo {}\n}}\n\
         vrrp_track_file f {{\n file {}\n weight 1\n}}\n\
         vrrp_instance VI_1 {{\n interface eth0\n version 3\n virtual_router_id 51\n priority \
         100\n advert_int 0.2\n notify_priority_changes true\n notify_master_rx_lower_pri {}\n \
         track_file {{\n  f weight 1\n }}\n virtual_ipaddress {{\n  {VIP}\n }}\n}}\n",
        fifo.display(),
        value.display(),
        script.display(),
    ))?;
    bed.host.start()?;
    wait_until(
        &format!("{name}: its FIFO"),
        LIMIT,
        || Ok(fifo.exists().then_some(())),
        || bed.host.log_tail(40),
    )?;
    let (sink, over) = (Arc::clone(&bed.said), Arc::new(AtomicBool::new(false)));
    let end = Arc::clone(&over);
    let reader = thread::spawn(move || read(&fifo, &sink, &end));
    let out = peer.enter(|| FrameSocket::open("eth0"))??;
    // A backup of a master that speaks each ten seconds stays one for longer than this takes.
    let advert =
        |priority: u8| out.send(&advert_frame(Ipv4Addr::new(10, 77, 0, 2), VIP, priority, 1000));
    let line = |state: &str| format!("INSTANCE \"VI_1\" {state}");
    let mut told = vec![bed.take("MASTER", &[&line("MASTER 100")])?];
    fs::write(&value, "10\n")?;
    told.push(bed.take("a master's weight", &[&line("MASTER_PRIORITY")])?);
    advert(50)?;
    told.push(bed.take("a losing advert", &[&line("MASTER_RX_LOWER_PRI")])?);
    advert(200)?;
    told.push(bed.take("BACKUP", &[&line("BACKUP ")])?);
    fs::write(&value, "-20\n")?;
    told.push(bed.take("a backup's weight", &[&line("BACKUP_PRIORITY")])?);
    bed.host.stop()?;
    told.push(bed.take("the end", &[&line("STOP")])?);
    over.store(true, Ordering::Relaxed);
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    let notes = fs::read_to_string(&bed.notes).unwrap_or_default();
    told.push(notes.lines().map(|line| line.trim().to_owned()).collect());
    Ok(told)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_told_of_priorities_and_losing_adverts_is_keepaliveds() -> Result<()> {
    if !ready_or_skip("interop_notify")? {
        return Ok(());
    }
    for program in [Program::Lbd, Program::Keepalived] {
        host::available(program).map_err(|why| anyhow::anyhow!(why))?;
    }
    let (ours, theirs) = thread::scope(|scope| {
        let theirs = scope.spawn(|| tell_priorities(Program::Keepalived, "keepalived"));
        (tell_priorities(Program::Lbd, "lbd"), theirs.join())
    });
    let theirs = theirs.map_err(|_| anyhow::anyhow!("panicked"))??;
    let ours = ours?;
    ensure!(ours == theirs, "lbd {ours:#?}\nkeepalived {theirs:#?}");
    Ok(())
}
