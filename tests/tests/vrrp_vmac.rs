//! Adverts from virtual MACs. The kernel gives a frame whose source is the MAC of a private macvlan to
//! that macvlan alone, so that hosts with the same virtual MAC hear each other there or not at all.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    links::{config, master},
    netns::{Namespace, ready_or_skip},
    vrrp::{RoleThread, VIP, cable, dual_cable},
    wait::{wait_true, wait_until},
};
use lb_userspace::{
    base::{
        net::{Priority, Vrid},
        status::{InstanceStatus, VrrpState},
    },
    config::model::{Authentication, Config, VrrpVersion},
    io::link::FrameSocket,
    process::ipc::{Down, Query, Reply, Up},
    vrrp::{
        auth::Auth,
        timing::AdvertInterval,
        wire::{Advert, ChecksumForm, Envelope, GROUP, GROUP_V6, Seal, Version},
    },
};
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

const LIMIT: Duration = Duration::from_secs(20);
/// Of VRID 51 over IPv4; over IPv6 with a 2 before the VRID.
const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];

macro_rules! root_test {
    ($name:ident, $body:expr) => {
        #[test]
        #[ignore = "needs root: cargo xtask test"]
        fn $name() -> Result<()> {
            if !ready_or_skip("vrrp_vmac")? {
                return Ok(());
            }
            $body
        }
    };
}

/// Adverts that a pair speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V2Pass,
    V2Ah,
    V3,
    V3Ipv6,
}

impl Form {
    fn config(self, words: &str, priority: u8) -> Result<Config> {
        let vips = match self {
            Self::V3Ipv6 => "fe80::77:100/64\n fd77::100/64",
            Self::V2Pass | Self::V2Ah | Self::V3 => "10.77.0.100",
        };
        let mut config = config(&format!("{words} virtual_ipaddress {{\n {vips}\n}}"), "")?;
        let instance = &mut config.vrrp_instances[0];
        instance.priority = Priority(priority);
        // Three of them are longer than a machine may stop the master, which would be its end.
        instance.advert_int = Duration::from_millis(600);
        if let Some(authentication) = match self {
            Self::V2Pass => Some(Authentication::Pass(*b"1111\0\0\0\0")),
            Self::V2Ah => Some(Authentication::Ah(*b"1111\0\0\0\0")),
            Self::V3 | Self::V3Ipv6 => None,
        } {
            (instance.version, instance.authentication) = (VrrpVersion::V2, authentication);
            instance.advert_int = Duration::from_secs(1);
        }
        Ok(config)
    }

    fn cable(self) -> Result<(Namespace, Namespace)> {
        if self == Self::V3Ipv6 { dual_cable() } else { cable() }
    }
}

/// What comes in by one end of a cable.
struct Arrivals(Socket);

impl Arrivals {
    fn at(netns: &Namespace) -> Result<Self> {
        let all = i32::from(0x0003u16.to_be());
        let socket =
            netns.enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all))))??;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Those so far that the other end sent from a virtual MAC, by base interface.
    fn frames_of_virtual_macs(&self, netns: &Namespace) -> Result<Vec<Vec<u8>>> {
        let eth0 = netns.enter(|| nix::net::if_::if_nametoindex("eth0"))??;
        let (mut buffer, mut frames) = ([0; 2048], vec![]);
        while let Ok((len, from)) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer) {
            // Of a frame that this end sends itself (linux/if_packet.h).
            let own = from.is_none_or(|it| it.pkttype() == 4 || it.ifindex() != eth0 as usize);
            if !own && buffer[6..10] == VIRTUAL[..4] {
                frames.push(buffer[..len].to_vec());
            }
        }
        Ok(frames)
    }
}

fn until(
    what: &str,
    role: &mut RoleThread,
    mut wanted: impl FnMut(&InstanceStatus) -> bool,
) -> Result<InstanceStatus> {
    let begin = Instant::now();
    loop {
        let status = role.status()?;
        if wanted(&status) {
            return Ok(status);
        }
        ensure!(begin.elapsed() < LIMIT, "waited in vain for {what}: {status:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The better one is master, the other hears each of its adverts once and says nothing by the virtual
/// MAC; it takes over at a farewell, and gives back to one that comes again.
fn pair_agrees(form: Form, better: &str, worse: &str) -> Result<()> {
    let (lb, peer) = form.cable()?;
    let mut first = RoleThread::start_with(&peer, form.config(better, 200)?)?;
    master(&mut first)?;
    let arrivals = Arrivals::at(&peer)?;
    let mut second = RoleThread::start_with(&lb, form.config(worse, 100)?)?;
    second.converge()?;
    // It could not be master before it had been silent for three intervals.
    let behind = until("five adverts", &mut second, |it| {
        it.state != VrrpState::Init && it.counters.advert_rcvd >= 5
    })?;
    let ahead = first.status()?;
    ensure!(ahead.state == VrrpState::Master && ahead.counters.advert_rcvd == 0, "{ahead:?}");
    ensure!(behind.state == VrrpState::Backup, "{behind:?}");
    ensure!(behind.counters.become_master == 0, "{behind:?}");
    ensure!(behind.counters.discarded.is_empty(), "{:?}", behind.counters);
    let frames = arrivals.frames_of_virtual_macs(&peer)?;
    ensure!(frames.is_empty(), "a backup sends from the virtual MAC: {frames:02x?}");
    let (sent, heard) = (ahead.counters.advert_sent, behind.counters.advert_rcvd);
    ensure!(heard <= sent, "{heard} adverts heard of {sent}");

    // Its last word is heard too, once for each time that it is said.
    let before = second.status()?.counters.pri_zero_rcvd;
    first.finish()?;
    let heir = until("a takeover", &mut second, |it| it.state == VrrpState::Master)?;
    ensure!(before == 0 && heir.counters.pri_zero_rcvd == 1, "{:?}", heir.counters);
    let mut first = RoleThread::start_with(&peer, form.config(better, 200)?)?;
    first.converge()?;
    until("the return", &mut first, |it| it.state == VrrpState::Master && it.vips_set)?;
    let yielded = until("the other to yield", &mut second, |it| it.state == VrrpState::Backup)?;
    ensure!(yielded.counters.release_master == 1, "{:?}", yielded.counters);
    let again = yielded.counters.advert_rcvd;
    until("adverts again", &mut second, |it| it.counters.advert_rcvd >= again + 3)?;
    let ahead = first.status()?;
    ensure!(ahead.state == VrrpState::Master && ahead.counters.become_master == 1, "{ahead:?}");
    let replays = &second.status()?.counters.discarded;
    ensure!(replays.is_empty() && ahead.counters.discarded.is_empty(), "{replays:?} {ahead:?}");
    second.finish()?;
    first.finish()?;
    Ok(())
}

const VMAC: &str = "use_vmac\n";
const FROM_BASE: &str = "use_vmac\n vmac_xmit_base\n";
const PLAIN: &str = "";

/// Every kind of pair in one form.
fn pairs_agree(form: Form) -> Result<()> {
    for (better, worse) in [
        (VMAC, VMAC),
        (VMAC, PLAIN),
        (PLAIN, VMAC),
        (VMAC, FROM_BASE),
        (FROM_BASE, VMAC),
        (FROM_BASE, FROM_BASE),
    ] {
        let what = || format!("{form:?}: {better:?} beside {worse:?}");
        pair_agrees(form, better, worse).with_context(what)?;
    }
    Ok(())
}

root_test!(hosts_with_a_virtual_mac_hear_each_other, pairs_agree(Form::V3));
root_test!(hosts_with_a_virtual_mac_hear_each_other_over_ipv6, pairs_agree(Form::V3Ipv6));
root_test!(hosts_with_a_virtual_mac_hear_each_other_with_a_password, pairs_agree(Form::V2Pass));
root_test!(hosts_with_a_virtual_mac_hear_each_other_behind_ah, pairs_agree(Form::V2Ah));

// ---- what a macvlan hears ---------------------------------------------------------------------

/// Another router, by hand: frames from one end of the cable.
struct Other(FrameSocket);

impl Other {
    fn at(netns: &Namespace) -> Result<Self> {
        Ok(Self(netns.enter(|| FrameSocket::open("eth0"))??))
    }

    fn send(&self, source: [u8; 6], destination: [u8; 6], datagram: &[u8]) -> Result<()> {
        let ethertype = if datagram[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
        let frame = [&destination[..], &source, &ethertype, datagram].concat();
        Ok(self.0.send(&frame)?)
    }

    fn multicast(&self, source: [u8; 6], datagram: &[u8]) -> Result<()> {
        self.send(source, [1, 0, 0x5e, 0, 0, 18], datagram)
    }
}

/// Of a router of priority 200.
fn v4() -> Vec<u8> {
    advert(Version::V3).datagram(&from_other(), sealed(0))
}

fn from_other() -> Envelope {
    Envelope {
        source: Ipv4Addr::new(10, 77, 0, 2).into(),
        destination: GROUP.into(),
        ttl: 255,
        id: 1,
        flow_label: 0,
        checksum: ChecksumForm::PseudoHeader,
    }
}

fn sealed(sequence: u32) -> Seal<'static> {
    Seal { sequence, trailer: None }
}

fn advert(version: Version) -> Advert {
    Advert {
        version,
        vrid: Vrid::new(51).expect("nonzero"),
        priority: Priority(200),
        interval: AdvertInterval::from_centis(10).expect("in range"),
        auth: Auth::None,
        addresses: vec![VIP.into()],
        told: false,
    }
}

fn rewritten(mut datagram: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut datagram);
    datagram[10..12].fill(0);
    let sum: u32 = datagram[..20]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    datagram[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    datagram
}

/// Counts by reason of what was for no instance.
fn strays(role: &mut RoleThread) -> Result<Vec<(String, Option<u8>, u64)>> {
    role.say(Down::Query { id: 8, query: Query::Status })?;
    role.until(|message| match message {
        Up::Reply { id: 8, reply: Reply::Vrrp { strays, .. } } => {
            Some(strays.into_iter().map(|it| (it.reason, it.vrid, it.count)).collect())
        }
        _ => None,
    })
}

fn discarded(status: &InstanceStatus) -> Vec<(&str, u64)> {
    status.counters.discarded.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

const BASE: [u8; 6] = [2, 0, 0, 0x77, 0, 2];

root_test!(what_comes_from_the_virtual_mac_is_heard_once_and_checked, {
    let (lb, peer) = cable()?;
    let mut role = RoleThread::start_with(&lb, Form::V3.config(VMAC, 100)?)?;
    role.converge()?;
    until("the start", &mut role, |it| it.state != VrrpState::Init)?;
    hear_copies(&lb)?;
    let other = Other::at(&peer)?;
    until("an advert from the virtual MAC", &mut role, |it| {
        let _ = other.multicast(VIRTUAL, &v4());
        it.counters.advert_rcvd > 0
    })?;
    let before = settle(&mut role)?;
    other.multicast(VIRTUAL, &v4())?;
    other.multicast(BASE, &v4())?;
    // Ethernet pads short frames.
    other.multicast(VIRTUAL, &[v4(), vec![0xaa; 14]].concat())?;
    // Groups, protocols and sockets that nobody listens to here.
    other.multicast(VIRTUAL, &rewritten(v4(), |it| it[19] = 19))?;
    other.multicast(VIRTUAL, &rewritten(v4(), |it| it[9] = 17))?;
    let ah = Advert { auth: Auth::Ah(*b"1111\0\0\0\0"), ..advert(Version::V2) };
    other.multicast(VIRTUAL, &ah.datagram(&from_other(), sealed(u32::MAX)))?;
    // What the kernel does not check here.
    other.multicast(VIRTUAL, &[&v4()[..10], &[0, 0], &v4()[12..]].concat())?;
    other.multicast(VIRTUAL, &v4()[..30])?;
    other.multicast(VIRTUAL, &v4()[..19])?;
    other.multicast(VIRTUAL, &rewritten(v4(), |it| it[8] = 254))?;
    other.multicast(VIRTUAL, &rewritten(v4(), |it| it[15] = 1))?;
    let stranger = Advert { vrid: Vrid::new(52).expect("nonzero"), ..advert(Version::V3) };
    other.multicast(VIRTUAL, &stranger.datagram(&from_other(), sealed(0)))?;
    other.multicast(VIRTUAL, &v4())?;
    let status = until("the last one", &mut role, |it| {
        it.counters.advert_rcvd >= before.counters.advert_rcvd + 4
    })?;
    let heard = status.counters.advert_rcvd - before.counters.advert_rcvd;
    ensure!(heard == 4, "{heard} adverts heard: {status:?}");
    let told = discarded(&status);
    let refused = ["ip_checksum", "ip_truncated", "own_address", "ttl"].map(|name| (name, 1));
    ensure!(told == refused, "{told:?}");
    let told = strays(&mut role)?;
    ensure!(told == [("vrid_unknown".to_owned(), Some(52), 1)], "{told:?}");
    // More than is read in one turn.
    for _ in 0..2000 {
        other.multicast(VIRTUAL, &rewritten(v4(), |it| it[8] = 254))?;
    }
    other.multicast(VIRTUAL, &v4())?;
    role.status()?;
    role.finish()?;
    Ok(())
});

root_test!(an_authentication_header_counts_once_on_either_way, {
    let (lb, peer) = cable()?;
    let mut role = RoleThread::start_with(&lb, Form::V2Ah.config(VMAC, 100)?)?;
    role.converge()?;
    until("the start", &mut role, |it| it.state != VrrpState::Init)?;
    hear_copies(&lb)?;
    let other = Other::at(&peer)?;
    let ah = Advert {
        auth: Auth::Ah(*b"1111\0\0\0\0"),
        interval: AdvertInterval::from_centis(100).expect("in range"),
        ..advert(Version::V2)
    };
    let mut sequence = u32::MAX - 1000;
    until("an advert from the virtual MAC", &mut role, |it| {
        sequence += 1;
        let _ = other.multicast(VIRTUAL, &ah.datagram(&from_other(), sealed(sequence)));
        it.counters.advert_rcvd > 0
    })?;
    let before = settle(&mut role)?;
    let (heard, replays) = (before.counters.advert_rcvd, before.counters.discarded.clone());
    ensure!(replays.is_empty(), "{replays:?}");
    // One after the other: what waits on two sockets at a time may be read in either order.
    for (count, source) in [(1, VIRTUAL), (2, BASE)] {
        sequence += 1;
        other.multicast(source, &ah.datagram(&from_other(), sealed(sequence)))?;
        until("it", &mut role, |it| it.counters.advert_rcvd >= heard + count)?;
    }
    let status = role.status()?;
    ensure!(discarded(&status).is_empty(), "{status:?}");
    // It was said already, on the other way.
    other.multicast(VIRTUAL, &ah.datagram(&from_other(), sealed(sequence)))?;
    let status = until("the replay", &mut role, |it| !it.counters.discarded.is_empty())?;
    ensure!(discarded(&status) == [("auth_header_replay", 1)], "{status:?}");
    ensure!(status.counters.advert_rcvd == heard + 2, "{status:?}");
    role.finish()?;
    Ok(())
});

root_test!(extension_headers_before_an_advert_are_counted_and_not_followed, {
    let (lb, peer) = dual_cable()?;
    let mut role = RoleThread::start_with(&lb, Form::V3Ipv6.config(VMAC, 100)?)?;
    role.converge()?;
    until("the start", &mut role, |it| it.state != VrrpState::Init)?;
    let other = Other::at(&peer)?;
    let source = "fe80::77:2".parse::<Ipv6Addr>()?;
    let vips = ["fe80::77:100", "fd77::100"].map(|it| it.parse::<IpAddr>());
    let addresses = vips.into_iter().collect::<Result<_, _>>()?;
    let envelope = Envelope {
        source: source.into(),
        destination: GROUP_V6.into(),
        ttl: 255,
        id: 0,
        flow_label: 0,
        checksum: ChecksumForm::PseudoHeader,
    };
    let plain = Advert { addresses, ..advert(Version::V3) }.datagram(&envelope, sealed(0));
    let mac = [0, 0, 0x5e, 0, 2, 51];
    let group = [0x33, 0x33, 0, 0, 0, 0x12];
    until("an advert from the virtual MAC", &mut role, |it| {
        let _ = other.send(mac, group, &plain);
        it.counters.advert_rcvd > 0
    })?;
    let before = settle(&mut role)?;
    let behind = |header: u8, to: Ipv6Addr| {
        let mut bytes = plain.clone();
        let len = u16::from_be_bytes([bytes[4], bytes[5]]) + 8;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes[6] = header;
        bytes[24..40].copy_from_slice(&to.octets());
        bytes.splice(40..40, [112, 0, 1, 4, 0, 0, 0, 0]);
        bytes
    };
    other.send(mac, group, &behind(0, GROUP_V6))?;
    other.send(mac, group, &behind(60, GROUP_V6))?;
    // Hop-by-hop to another group is how MLD looks.
    other.send(mac, [0x33, 0x33, 0, 0, 0, 0x16], &behind(0, "ff02::16".parse()?))?;
    other.send(mac, group, &plain)?;
    let heard = before.counters.advert_rcvd;
    let status = until("the last one", &mut role, |it| it.counters.advert_rcvd > heard)?;
    ensure!(status.counters.advert_rcvd == heard + 1, "{status:?}");
    ensure!(discarded(&status).is_empty(), "{status:?}");
    let told = strays(&mut role)?;
    ensure!(told == [("ip_protocol".to_owned(), None, 2)], "{told:?}");
    role.finish()?;
    Ok(())
});

root_test!(adverts_are_heard_through_the_life_of_the_virtual_interface, {
    let (lb, peer) = cable()?;
    let mut first = RoleThread::start_with(&peer, Form::V3.config(VMAC, 200)?)?;
    master(&mut first)?;
    // What a predecessor left is adopted.
    let add = ["link", "add", "vrrp.51", "link", "eth0", "address", "00:00:5e:00:01:33"];
    lb.ip(&[&add[..], &["up", "type", "macvlan", "mode", "private"]].concat())?;
    let mut second = RoleThread::start_with(&lb, Form::V3.config(VMAC, 100)?)?;
    second.converge()?;
    let hears = |second: &mut RoleThread, when: &str| -> Result<()> {
        until(when, second, |it| it.state == VrrpState::Backup).with_context(|| when.to_owned())?;
        let before = second.status()?.counters;
        let after = until(when, second, |it| it.counters.advert_rcvd >= before.advert_rcvd + 5)?;
        ensure!(after.counters.become_master == 0, "{when}: {after:?}");
        ensure!(discarded(&after).is_empty(), "{when}: {after:?}");
        Ok(())
    };
    hears(&mut second, "adopted")?;
    second.reload(Form::V3.config(PLAIN, 100)?)?;
    wait_true("the end of the virtual interface", LIMIT, || {
        lb.ip(&["link", "show", "vrrp.51"]).is_err()
    })?;
    hears(&mut second, "without")?;
    second.reload(Form::V3.config(VMAC, 100)?)?;
    wait_true("the virtual interface", LIMIT, || lb.ip(&["link", "show", "vrrp.51"]).is_ok())?;
    hears(&mut second, "with it again")?;
    second.reload(Form::V3.config("use_vmac other0\n", 100)?)?;
    wait_true("its other name", LIMIT, || lb.ip(&["link", "show", "other0"]).is_ok())?;
    hears(&mut second, "under another name")?;
    second.reload(Form::V3.config("use_vmac other0 02:00:00:00:00:07\n", 100)?)?;
    wait_true("its other MAC", LIMIT, || {
        lb.ip(&["link", "show", "other0"]).is_ok_and(|text| text.contains("02:00:00:00:00:07"))
    })?;
    hears(&mut second, "with another MAC")?;
    second.reload(Form::V3.config(VMAC, 100)?)?;
    wait_true("its first name", LIMIT, || lb.ip(&["link", "show", "vrrp.51"]).is_ok())?;
    hears(&mut second, "as at first")?;
    lb.ip(&["link", "del", "vrrp.51"])?;
    wait_true("another one", LIMIT, || lb.ip(&["link", "show", "vrrp.51"]).is_ok())?;
    hears(&mut second, "made anew")?;
    lb.ip(&["link", "set", "vrrp.51", "down"])?;
    wait_true("FAULT", LIMIT, || second.status().is_ok_and(|it| it.state == VrrpState::Fault))?;
    lb.ip(&["link", "set", "vrrp.51", "up"])?;
    hears(&mut second, "up again")?;
    second.finish()?;
    first.finish()?;
    Ok(())
});

/// From now on the macvlan gets a copy of every multicast frame, as it does by chance when some group of its
/// own has the same place in the kernel's filter.
fn hear_copies(lb: &Namespace) -> Result<()> {
    wait_true("the virtual interface", LIMIT, || {
        lb.ip(&["link", "show", "vrrp.51"]).is_ok_and(|text| text.contains("LOWER_UP"))
    })?;
    lb.ip(&["link", "set", "vrrp.51", "allmulticast", "on"]).map(drop)
}

/// What has come by now is counted: nothing more comes, and the role has had a turn.
fn settle(role: &mut RoleThread) -> Result<InstanceStatus> {
    let mut last = role.status()?;
    wait_until(
        "counters that stand still",
        LIMIT,
        || {
            thread::sleep(Duration::from_millis(50));
            let now = role.status()?;
            let same = now.counters.advert_rcvd == last.counters.advert_rcvd;
            last = now.clone();
            Ok(same.then_some(now))
        },
        String::new,
    )
}
