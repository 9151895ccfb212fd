//! Fencing in the lab: a master that was killed, stopped or hangs forwards and answers no more before its peer
//! takes over, with and without a virtual server, by tc and by XDP.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    lab::{Lab, Mode, Spec, VIP},
    netns::{Namespace, arping},
    process::send,
    running::{Running, by_xdp, connect, connect_within, stalls},
    verdict::waited,
    wait::{wait_for, wait_until},
    witness::both_acted,
};
use lb_userspace::{base::net::Mac, io::link::FrameSocket, vrrp::arp};
use nix::sys::signal::Signal;

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
    let Some(mut running) = Running::start("e2e_fence", spec)? else { return Ok(()) };
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
    let asker = lab.client.enter(|| FrameSocket::open("eth0"))??;
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

#[test]
#[ignore = "needs root: cargo xtask test"]
fn killed_master_is_fenced_with_a_virtual_server_by_xdp() -> Result<()> {
    fenced(by_xdp(Spec::new(Mode::Dr)), Silence::KillAll)
}
