//! Items of tests/conformance that only real interfaces show: where adverts leave and from which
//! address, what belongs to one virtual router, a backup that is deaf for the VIP, a process that
//! was stopped.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::{Namespace, arping, ready_or_skip},
    single::{self, Single},
    vrrp::{RoleThread, Sniffer, VIP, advert_frame, cable, dual_cable, is_garp, is_vrrp, is_vrrp6},
    wait::{wait_for, wait_true},
};
use lb_userspace::{
    base::{
        net::{Priority, Vrid},
        status::{InstanceCounters, VrrpState},
    },
    config::{load, model::Config},
    io::link::FrameSocket,
    vrrp::{
        auth::Auth,
        timing::AdvertInterval,
        wire::{Advert, ChecksumForm, Envelope, GROUP_V6, Reason, Seal, Version},
    },
};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(10);
/// Of priority 100 at an advert every 0.1 s.
const MASTER_DOWN: Duration = Duration::from_millis(360);
/// The same where the master speaks each second.
const SLOW_MASTER_DOWN: Duration = Duration::from_millis(3600);
/// What a machine that does not run a thread for a while may add to a timer of ours.
const SLACK: Duration = Duration::from_secs(2);

/// One vrrp_instance in the words of the file.
fn text(name: &str, interface: &str, interval: &str, words: &str) -> String {
    format!(
        "vrrp_instance {name} {{\n interface {interface}\n virtual_router_id 51\n priority 100\n \
         version 3\n advert_int {interval}\n{words}\n}}\n"
    )
}

fn config(text: &str) -> Result<Config> {
    let outcome = load("test", text);
    let told = outcome.render();
    outcome.config.with_context(|| told)
}

/// A further interface of `lb` on a cable of its own; the host at its other end.
fn second_cable(lb: &Namespace) -> Result<Namespace> {
    let far = Namespace::new("far")?;
    let end = ["type", "veth", "peer", "name", "eth1", "netns", far.name()];
    lb.ip(&[&["link", "add", "eth1"][..], &end].concat())?;
    for (netns, address) in [(lb, "10.78.0.1/24"), (&far, "10.78.0.2/24")] {
        netns.sysctl("net/ipv6/conf/eth1/disable_ipv6", "1")?;
        netns.ip(&["address", "add", address, "dev", "eth1"])?;
        netns.ip(&["link", "set", "eth1", "up"])?;
    }
    wait_true("the second cable", LIMIT, || {
        lb.ip(&["link", "show", "eth1"]).is_ok_and(|text| text.contains("state UP"))
    })?;
    Ok(far)
}

/// MAC addresses that answer for [`VIP`]; a question that a busy machine has not heard in time is asked again.
fn who_has_the_vip(peer: &Namespace) -> Result<Vec<String>> {
    wait_for("an answer to ARP", LIMIT, || {
        let macs = arping(peer, "eth0", VIP)?;
        Ok((!macs.is_empty()).then_some(macs))
    })
}

fn states(role: &mut RoleThread) -> Vec<VrrpState> {
    role.statuses().unwrap_or_default().iter().map(|it| it.state).collect()
}

macro_rules! root_test {
    ($name:ident, $body:expr) => {
        #[test]
        #[ignore = "needs root: cargo xtask test"]
        fn $name() -> Result<()> {
            if !ready_or_skip("vrrp_conformance")? {
                return Ok(());
            }
            $body
        }
    };
}

// PKT-02 RX-05 PKT-15
root_test!(one_vrid_is_a_router_of_its_own_on_each_interface_and_in_each_family, {
    let (lb, peer) = dual_cable()?;
    let far = second_cable(&lb)?;
    let instances = [
        text("A", "eth0", "0.1", "virtual_ipaddress {\n 10.77.0.100\n}"),
        text("B", "eth0", "0.1", "virtual_ipaddress {\n fe80::5e:33\n}"),
        text("C", "eth1", "0.1", "virtual_ipaddress {\n 10.78.0.100\n}"),
    ];
    let near = Sniffer::new(&peer)?;
    let beyond = Sniffer::new(&far)?;
    let mut role = RoleThread::start_with(&lb, config(&instances.concat())?)?;
    role.converge()?;
    use VrrpState::{Backup, Master};
    wait_true("three masters", LIMIT, || states(&mut role) == [Master; 3])?;
    let v4 = near.next(LIMIT, is_vrrp)?;
    let v6 = near.next(LIMIT, is_vrrp6)?;
    ensure!((v4[35], v6[55]) == (51, 51), "{v4:02x?} {v6:02x?}");
    let other = beyond.next(LIMIT, is_vrrp)?;
    ensure!(other[26..30] == [10, 78, 0, 1], "eth1 has its own router: {other:02x?}");
    // A better router of one of them is a better router of that one alone.
    let out = peer.enter(|| FrameSocket::open("eth0"))??;
    let better = advert_frame(Ipv4Addr::new(10, 77, 0, 2), VIP, 200, 100);
    wait_true("A to yield", LIMIT, || {
        out.send(&better).is_ok() && states(&mut role)[..1] == [Backup]
    })?;
    ensure!(states(&mut role) == [Backup, Master, Master]);
    role.finish()?;
    Ok(())
});

// PKT-13 UNI-01: the word counts where it names another address than lbd would choose.
root_test!(adverts_come_from_the_address_that_is_named, {
    for (words, to) in [
        ("mcast_src_ip 10.77.0.9", [224, 0, 0, 18]),
        ("unicast_src_ip 10.77.0.9\n unicast_peer {\n 10.77.0.2\n}", [10, 77, 0, 2]),
    ] {
        let (lb, peer) = cable()?;
        lb.ip(&["address", "add", "10.77.0.9/24", "dev", "eth0"])?;
        let near = Sniffer::new(&peer)?;
        let words = format!("{words}\n virtual_ipaddress {{\n 10.77.0.100\n}}");
        let role = RoleThread::start_with(&lb, config(&text("A", "eth0", "0.1", &words))?)?;
        role.converge()?;
        for _ in 0..5 {
            let frame = near.next(LIMIT, is_vrrp)?;
            ensure!(frame[26..30] == [10, 77, 0, 9], "{words}: source {:?}", &frame[26..30]);
            ensure!(frame[30..34] == to, "{words}: to {:?}", &frame[30..34]);
        }
        role.finish()?;
    }
    Ok(())
});

// RX-01 RX-03 RX-04: the kernel takes the IPv6 header off and tells of it beside the message.
root_test!(bad_adverts_over_ipv6_are_counted_and_change_nothing, {
    let (lb, peer) = dual_cable()?;
    let words = "virtual_ipaddress {\n fe80::5e:33\n fd77::100\n}";
    let mut role = RoleThread::start_with(&lb, config(&text("A", "eth0", "0.1", words))?)?;
    role.converge()?;
    wait_true("MASTER", LIMIT, || role.status().is_ok_and(|it| it.state == VrrpState::Master))?;
    let better = Advert {
        version: Version::V3,
        vrid: Vrid::new(51).context("not zero")?,
        priority: Priority(200),
        // A second: a pause of this test is no death of that master.
        interval: AdvertInterval::from_centis(100).context("in range")?,
        auth: Auth::None,
        addresses: vec!["fe80::5e:33".parse()?, "fd77::100".parse()?],
        told: false,
    };
    let envelope = Envelope {
        source: "fe80::ff:fe77:2".parse()?,
        destination: GROUP_V6.into(),
        ttl: 255,
        id: 0,
        flow_label: 0,
        checksum: ChecksumForm::PseudoHeader,
    };
    let good = better.datagram(&envelope, Seal { sequence: 0, trailer: None });
    let out = peer.enter(|| FrameSocket::open("eth0"))??;
    let send = |datagram: &[u8]| -> Result<()> {
        let mut datagram = datagram.to_vec();
        let payload = u16::try_from(datagram.len() - 40)?;
        datagram[4..6].copy_from_slice(&payload.to_be_bytes());
        let ethernet = [0x33, 0x33, 0, 0, 0, 0x12, 2, 0, 0, 0x77, 0, 2, 0x86, 0xdd];
        Ok(out.send(&[&ethernet[..], &datagram].concat())?)
    };
    let spoilt = |spoil: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        spoil(&mut bytes);
        bytes
    };
    let rows = [
        (Reason::Ttl, spoilt(|it| it[7] = 254)),
        (Reason::Checksum, spoilt(|it| it[47] ^= 1)),
        (Reason::TooShort, spoilt(|it| it.truncate(it.len() - 16))),
        (Reason::TooLong, spoilt(|it| it.extend([0; 4]))),
        (Reason::Version, spoilt(|it| it[40] = 0x51)),
    ];
    let before = role.status()?.counters;
    for (reason, bytes) in &rows {
        for _ in 0..3 {
            send(bytes)?;
        }
        wait_true(&format!("{reason} to be counted"), LIMIT, || {
            role.status().is_ok_and(|it| it.counters.discarded.get(reason.name()) == Some(&3))
        })?;
    }
    let status = role.status()?;
    ensure!(status.state == VrrpState::Master, "{status:?}");
    ensure!(status.counters.discarded.len() == rows.len(), "{:?}", status.counters.discarded);
    let of = |it: &InstanceCounters| (it.advert_rcvd, it.release_master, it.become_master);
    ensure!(of(&status.counters) == of(&before), "{status:?}");
    // A stream of all of them leaves the rhythm alone.
    let sniffer = Sniffer::new(&peer)?;
    let own = |frame: &[u8]| is_vrrp6(frame) && frame[6..12] == [2, 0, 0, 0x77, 0, 1];
    let spell = |so_long: Duration, with: Option<&[u8]>| -> Result<()> {
        let begin = Instant::now();
        for (_, bytes) in rows.iter().cycle().take_while(|_| begin.elapsed() < so_long) {
            with.map_or(Ok(()), &send)?;
            send(bytes)?;
            // Pacing of the storm, not a wait for anything.
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    // A machine that does not run the master for a moment makes a long gap, too, but not in every storm.
    for storms in 1.. {
        let times = thread::scope(|scope| {
            let storm = scope.spawn(|| spell(Duration::from_secs(3), None));
            let mut times = vec![];
            while !storm.is_finished() {
                times.push(sniffer.next_sent(LIMIT, own).context("the master fell silent")?.0);
            }
            storm.join().map_err(|_| anyhow::anyhow!("the storm panicked"))??;
            Ok::<_, anyhow::Error>(times)
        })?;
        let gap = |pair: &[Duration]| pair[1].saturating_sub(pair[0]);
        let mut gaps: Vec<Duration> = times.windows(2).map(gap).collect();
        gaps.sort_unstable();
        let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
        println!("in the storm: {} adverts, median {median:?}, longest {longest:?}", times.len());
        let near = Duration::from_millis(80)..Duration::from_millis(120);
        ensure!(near.contains(&median), "{gaps:?}");
        if longest < MASTER_DOWN {
            break;
        }
        ensure!(storms < 5, "{gaps:?}");
    }
    // Unspoilt it is heard, and in its storm too.
    wait_true("BACKUP to the better router", LIMIT, || {
        spell(Duration::from_millis(50), Some(&good)).is_ok()
            && role.status().is_ok_and(|it| it.state == VrrpState::Backup)
    })?;
    spell(Duration::from_secs(1), Some(&good))?;
    ensure!(role.status()?.state == VrrpState::Backup, "with a living master");
    let sniffer = Sniffer::new(&peer)?;
    // Before the last word, which may be heard at any time after this.
    let died = Instant::now();
    send(&good)?;
    let silence = thread::scope(|scope| {
        // It lasts as long as the takeover may: a timer that it starts anew does not end before it.
        let storm = scope.spawn(|| spell(SLOW_MASTER_DOWN + SLACK, None));
        let heard = sniffer.next(SLOW_MASTER_DOWN + SLACK, own).map(|_| died.elapsed());
        storm.join().map_err(|_| anyhow::anyhow!("the storm panicked"))??;
        heard.context("no takeover in the storm")
    })?;
    let early = SLOW_MASTER_DOWN - Duration::from_millis(20);
    ensure!((early..SLOW_MASTER_DOWN + SLACK).contains(&silence), "taken over after {silence:?}");
    role.finish()?;
    Ok(())
});

// PKT-16: what does not fit is not said, and held all the same.
root_test!(a_list_that_the_mtu_cuts_is_held_in_full, {
    let (lb, peer) = cable()?;
    lb.ip(&["link", "set", "eth0", "mtu", "576"])?;
    let vips: String = (0..200).map(|last| format!(" 10.78.0.{last}\n")).collect();
    let words = format!("virtual_ipaddress {{\n{vips}}}");
    let two = text("A", "eth0", "1", &words).replace("version 3", "version 2");
    let sniffer = Sniffer::new(&peer)?;
    let mut role = RoleThread::start_with(&lb, config(&two)?)?;
    role.converge()?;
    // 576 = IP header 20, message 8, addresses 4 each, authentication data 8.
    let frame = sniffer.next(LIMIT, is_vrrp)?;
    ensure!((frame[34], frame[37]) == (0x21, 135), "{frame:02x?}");
    ensure!(frame.len() == 14 + 576, "a datagram of {} bytes", frame.len() - 14);
    let held = || {
        let text = lb.ip(&["-4", "-o", "address", "show", "dev", "eth0"]).unwrap_or_default();
        text.lines().filter(|line| line.contains(" 10.78.0.")).count()
    };
    wait_true("all of them", LIMIT, || held() == 200 && role.status().is_ok_and(|it| it.vips_set))?;
    lb.ip(&["link", "set", "eth0", "mtu", "1500"])?;
    sniffer.next(LIMIT, |frame| is_vrrp(frame) && frame[37] == 200).context("the whole list")?;
    ensure!(held() == 200);
    role.finish()?;
    ensure!(held() == 0, "left behind");
    Ok(())
});

root_test!(extra_announcements_leave_by_the_interfaces_without_adverts, {
    let (lb, peer) = cable()?;
    let far = second_cable(&lb)?;
    let words = "garp_master_repeat 1\n garp_master_delay 0\n garp_extra_if all 1\n \
                 virtual_ipaddress {\n 10.77.0.100\n 10.78.0.100 dev eth1\n 10.78.0.101 dev eth1\n}";
    let (near, beyond) = (Sniffer::new(&peer)?, Sniffer::new(&far)?);
    let began = Instant::now();
    let role = RoleThread::start_with(&lb, config(&text("A", "eth0", "0.1", words))?)?;
    role.converge()?;
    // Both are announced by the takeover, then the first of its interface, once a second.
    let target = |frame: Vec<u8>| frame[41];
    let mut told = vec![];
    while told.len() < 5 {
        told.push(target(beyond.next(LIMIT, is_garp)?));
    }
    ensure!(told == [100, 101, 100, 100, 100], "{told:?}");
    // Since the start: it is known no better when the takeover was.
    let took = began.elapsed().saturating_sub(MASTER_DOWN);
    ensure!(took >= Duration::from_millis(2800), "three of them after {took:?}");
    // eth0 has its adverts: one announcement, that of the takeover.
    near.next(LIMIT, is_garp)?;
    ensure!(near.next(Duration::from_millis(10), is_garp).is_err(), "eth0 was told again");
    role.finish()?;
    Ok(())
});

// PKT-13 PKT-15
root_test!(adverts_leave_by_one_interface_from_its_primary_address, {
    let (lb, peer) = cable()?;
    let far = second_cable(&lb)?;
    // A secondary one of the same network, and the VIP itself in that network.
    lb.ip(&["address", "add", "10.77.0.5/24", "dev", "eth0"])?;
    let words = "virtual_ipaddress {\n 10.77.0.100/24\n 10.77.0.3/24\n}";
    let near = Sniffer::new(&peer)?;
    let beyond = Sniffer::new(&far)?;
    let mut role = RoleThread::start_with(&lb, config(&text("A", "eth0", "0.1", words))?)?;
    role.converge()?;
    wait_true("the VIPs", LIMIT, || role.status().is_ok_and(|it| it.vips_set))?;
    for _ in 0..10 {
        let frame = near.next(LIMIT, is_vrrp)?;
        ensure!(frame[26..30] == [10, 77, 0, 1], "source {:?}", &frame[26..30]);
        ensure!(frame[22] == 255 && frame[30..34] == [224, 0, 0, 18], "{frame:02x?}");
    }
    let ours = |frame: &[u8]| is_vrrp(frame) || is_garp(frame);
    ensure!(beyond.next(Duration::from_millis(300), ours).is_err(), "eth1 heard of it");
    role.finish()?;
    Ok(())
});

// PKT-13
root_test!(without_a_link_local_address_nothing_is_sent_until_there_is_one, {
    let (lb, peer) = dual_cable()?;
    lb.ip(&["-6", "address", "flush", "dev", "eth0"])?;
    let words = "virtual_ipaddress {\n fd77::100\n}";
    let sniffer = Sniffer::new(&peer)?;
    let mut role = RoleThread::start_with(&lb, config(&text("A", "eth0", "0.1", words))?)?;
    role.converge()?;
    wait_true("FAULT", LIMIT, || states(&mut role) == [VrrpState::Fault])?;
    let reason = role.status()?.reason;
    ensure!(reason.contains("no IPv6 address to send from"), "{reason}");
    lb.ip(&["address", "add", "fd77::1/64", "dev", "eth0", "nodad"])?;
    ensure!(
        sniffer.next(Duration::from_millis(700), is_vrrp6).is_err(),
        "a global one will not do"
    );
    lb.ip(&["address", "add", "fe80::77/64", "dev", "eth0", "nodad"])?;
    let frame = sniffer.next(LIMIT, is_vrrp6)?;
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77];
    ensure!(frame[22..38] == link_local, "{frame:02x?}");
    role.finish()?;
    Ok(())
});

// NBR-03
root_test!(a_backup_is_deaf_for_the_vip_and_for_the_virtual_mac, {
    let (lb, peer) = dual_cable()?;
    for (netns, address) in [(&lb, "fd77::1/64"), (&peer, "fd77::2/64")] {
        netns.ip(&["address", "add", address, "dev", "eth0", "nodad"])?;
    }
    let words = "use_vmac\n virtual_ipaddress {\n 10.77.0.100\n}\n\
                 virtual_ipaddress_excluded {\n fd77::100\n}";
    // Backup for 120 s and more: nobody else is there.
    let slow = config(&text("A", "eth0", "40", words))?;
    let mut role = RoleThread::start_with(&lb, slow)?;
    role.converge()?;
    wait_true("BACKUP", LIMIT, || states(&mut role) == [VrrpState::Backup])?;
    let ping = |target: &str| peer.run("ping", &["-c", "1", "-W", "1", target]).is_ok();
    wait_true("the host itself to answer", LIMIT, || ping("10.77.0.1") && ping("fd77::1"))?;
    ensure!(arping(&peer, "eth0", VIP)?.is_empty(), "it answers ARP for the VIP");
    ensure!(!ping("fd77::100"), "it answers for the IPv6 VIP");
    let neighbour = peer.ip(&["-6", "neigh", "show", "fd77::100"])?;
    ensure!(!neighbour.contains("lladdr"), "it answers NS for the VIP: {neighbour}");
    for mac in ["00:00:5e:00:01:33", "02:00:00:77:00:01"] {
        peer.ip(&["neigh", "replace", "10.77.0.100", "lladdr", mac, "dev", "eth0"])?;
        ensure!(!ping("10.77.0.100"), "packets for the VIP reach it at {mac}");
    }
    peer.ip(&["neigh", "del", "10.77.0.100", "dev", "eth0"])?;
    // The same questions have an answer when it is master.
    role.reload(config(&text("A", "eth0", "0.1", words))?)?;
    wait_true("MASTER", LIMIT, || role.status().is_ok_and(|it| it.vips_set))?;
    ensure!(who_has_the_vip(&peer)? == ["00:00:5e:00:01:33"]);
    wait_true("the VIPs to answer", LIMIT, || ping("10.77.0.100") && ping("fd77::100"))?;
    role.finish()?;
    Ok(())
});

// PKT-14
root_test!(adverts_may_leave_by_the_base_of_a_virtual_mac, {
    let (lb, peer) = cable()?;
    let words = "use_vmac\n vmac_xmit_base\n virtual_ipaddress {\n 10.77.0.100\n}";
    let sniffer = Sniffer::new(&peer)?;
    let mut role = RoleThread::start_with(&lb, config(&text("A", "eth0", "0.1", words))?)?;
    role.converge()?;
    let frame = sniffer.next(LIMIT, is_vrrp)?;
    ensure!(frame[6..12] == [2, 0, 0, 0x77, 0, 1], "the base's own MAC: {frame:02x?}");
    wait_true("the VIP", LIMIT, || role.status().is_ok_and(|it| it.vips_set))?;
    ensure!(who_has_the_vip(&peer)? == ["00:00:5e:00:01:33"], "the VIP has the virtual one");
    role.finish()?;
    Ok(())
});

// TMR-08
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_backup_that_was_stopped_reads_before_it_takes_over() -> Result<()> {
    if !single::ready("vrrp_conformance")? {
        return Ok(());
    }
    // Takes over after 0.36 s of silence, and after 3.6 s where the master speaks each second, as it says here: a
    // pause of this test is shorter.
    let single = Single::start(&single::config("0.1", "", "", ""))?;
    let (from, vip) = (single::OTHER, single::VIP);
    let out = single.other.enter(|| FrameSocket::open("eth0"))??;
    let speak = |span: Duration| -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < span {
            out.send(&advert_frame(from, vip, 200, 100))?;
            // The rhythm of a master, not a wait for anything.
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    let backup = || {
        let status = single.host.status().ok()?;
        let it = status.vrrp.first()?;
        (it.state == VrrpState::Backup && it.counters.advert_rcvd > 0).then_some(())
    };
    wait_true("BACKUP to the peer", LIMIT, || {
        speak(Duration::from_millis(100)).is_ok() && backup().is_some()
    })?;
    let before = single::instance(&single.host.status()?)?.counters.become_master;
    let sniffer = Sniffer::new(&single.other)?;
    single.host.signal_all(Signal::SIGSTOP)?;
    let spoken = speak(SLOW_MASTER_DOWN + Duration::from_secs(1));
    single.host.signal_all(Signal::SIGCONT)?;
    spoken?;
    speak(Duration::from_secs(1))?;
    let own = |frame: &[u8]| is_vrrp(frame) && frame[26..30] == single::OWN.octets();
    ensure!(
        sniffer.next(Duration::from_millis(1), own).is_err(),
        "it took over from a live master"
    );
    let status = single.host.status()?;
    ensure!(single::instance(&status)?.counters.become_master == before, "{status:?}");
    Ok(())
}
