//! Tunnels, packet by packet, under `BPF_PROG_TEST_RUN`: what goes inside of what, with an outer header by etherparse to
//! compare with, and what becomes of a packet that does not fit. The family of this binary is the VIP's; the real server
//! is of either.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, checksum};
use lb_common::{
    abi::{self, Control, Real, be16},
    maps,
    verdict::Outcome,
};
use lb_tests::packet::{
    bed::*,
    build::{
        ACK, Family, GATEWAY_MAC, LB_MAC, PSH, SYN, Tcp, host, in_family, is_six, is_tc, mac,
        with_ip,
    },
    engine::{TX, addr},
};

/// This host towards the real servers.
const OWN: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 254);
const MTU: u32 = 1500;
/// Where IP begins in a frame.
const IP: usize = 14;

/// A real server of another family perhaps.
fn tunnelled(id: u16, outer: Family) -> Real {
    let method = if outer == Family::Six { abi::METHOD_TUN6 } else { abi::METHOD_TUN };
    let (to, from) = in_family(outer, || (addr(server(id).0), addr(OWN)));
    let vip = (addr(VIP.0), be16(VIP.1));
    real(id, method).with_nat(vip.0, vip.1, to, vip.1).with_tunnel(from, MTU)
}

fn bed(outer: Family) -> Option<Bed> {
    let mut bed = Bed::new(abi::SCHED_RR, abi::METHOD_LOCAL, &[(1, 1)])?;
    bed.engine.real(1, tunnelled(1, outer)).expect("real server");
    // tc: the device's sum of the packet is looked at too.
    bed.engine.cuts_nothing();
    Some(bed)
}

/// Length of an IP header.
fn header(family: Family) -> usize {
    if family == Family::Six { 40 } else { 20 }
}

fn inner_family() -> Family {
    if is_six() { Family::Six } else { Family::Four }
}

/// Type of service, or traffic class.
fn class(packet: &[u8]) -> u8 {
    if is_six() { packet[0] << 4 | packet[1] >> 4 } else { packet[1] }
}

/// The frame in which `frame` goes to real server 1. Its padding stays behind it.
fn outside(frame: &[u8], outer: Family) -> Vec<u8> {
    let packet = &frame[IP..];
    let len = trimmed(frame).len() - IP;
    let kind = IpNumber(if is_six() { 41 } else { 4 });
    let (from, to) = in_family(outer, || (host(OWN), host(server(1).0)));
    let mut out = [&mac(101)[..], &LB_MAC].concat();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header =
                Ipv4Header::new(len as u16, 64, kind, from.octets(), to.octets()).expect("fits");
            header.dont_fragment = true;
            header.identification = 0;
            let mut bytes = header.to_bytes();
            bytes[1] = class(packet);
            bytes[10..12].fill(0);
            let sum = checksum::Sum16BitWords::new().add_slice(&bytes).ones_complement();
            bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
            out.extend([8, 0]);
            out.extend(&bytes[..]);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: class(packet),
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: len as u16,
                next_header: kind,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
            };
            out.extend([0x86, 0xdd]);
            out.extend(header.to_bytes());
        }
        other => panic!("{other:?}"),
    }
    out.extend(packet);
    out
}

#[track_caller]
fn expect_inside(bed: &mut Bed, frame: &[u8], outer: Family, outcome: Outcome) {
    let ran = bed.run(frame);
    assert_eq!(ran.outcome, outcome);
    assert!(ran.frame == outside(frame, outer), "{:x?}\n{:x?}", ran.frame, outside(frame, outer));
}

#[test]
fn a_packet_goes_unchanged_inside_of_another_one() {
    for outer in Family::ALL {
        let Some(mut bed) = bed(outer) else { return };
        let syn = Tcp::new(CLIENT, VIP, SYN).syn_options().frame();
        expect_inside(&mut bed, &syn, outer, Outcome::Scheduled);
        expect_inside(&mut bed, &syn, outer, Outcome::SynRepeated);
        assert_eq!(bed.engine.conns(1).expect("conns"), 0, "a SYN is no connection yet");
        let ack = Tcp::new(CLIENT, VIP, ACK).frame();
        expect_inside(&mut bed, &ack, outer, Outcome::Promoted);
        assert_eq!(bed.engine.conns(1).expect("conns"), 1);
        let largest = MTU as usize - header(outer) - header(inner_family()) - 20;
        let mut bytes = (syn.len() * 2 + ack.len()) as u64;
        for len in [0, 1, 7, 8, 1000, largest - 1, largest] {
            let data = Tcp::new(CLIENT, VIP, ACK | PSH).payload(&vec![len as u8; len]).frame();
            expect_inside(&mut bed, &data, outer, Outcome::TunForwarded);
            bytes += data.len() as u64;
        }
        let flow = bed.engine.flow(CLIENT, VIP).expect("read").expect("a flow");
        assert_eq!((flow.real, flow.generation, flow.packets, flow.bytes), (1, 7, 10, bytes));
        let stats = bed.engine.real_stats(1).expect("stats");
        assert_eq!((stats.packets, stats.bytes, stats.connections), (10, bytes, 1));
        let stats = bed.engine.service_stats(SERVICE).expect("stats");
        assert_eq!((stats.scheduled, stats.resets), (1, 0));
    }
}

/// DSCP and ECN go outside too; what follows a short packet in its frame stays behind it.
#[test]
fn classes_are_copied_and_padding_is_no_part_of_it() {
    for outer in Family::ALL {
        let Some(mut bed) = bed(outer) else { return };
        expect_inside(&mut bed, &Tcp::new(CLIENT, VIP, SYN).frame(), outer, Outcome::Scheduled);
        expect_inside(&mut bed, &Tcp::new(CLIENT, VIP, ACK).frame(), outer, Outcome::Promoted);
        for class in [0, 1, 2, 3, 0x10, 0xb8, 0xff] {
            let mut data = Tcp::new(CLIENT, VIP, ACK | PSH).payload(b"x").frame();
            if is_six() {
                // A flow label, which is the inner one's affair.
                data[IP..IP + 4].copy_from_slice(&[0x60 | class >> 4, class << 4 | 0xf, 1, 2]);
            } else {
                data = with_ip(&data, |ip| ip[1] = class);
            }
            data.extend([0xa5; 5]);
            expect_inside(&mut bed, &data, outer, Outcome::TunForwarded);
        }
        if !is_six() {
            // What may be fragmented and need not be.
            let data = Tcp::new(CLIENT, VIP, ACK).payload(&[7; 700]).frame();
            let data = with_ip(&data, |ip| ip[6..8].fill(0));
            expect_inside(&mut bed, &data, outer, Outcome::TunForwarded);
        }
    }
}

/// Sums of the outer header that carry, and addresses of all bits.
#[test]
fn the_outer_checksum_holds_for_any_address() {
    let outer = Family::Four;
    let Some(mut bed) = bed(outer) else { return };
    expect_inside(&mut bed, &Tcp::new(CLIENT, VIP, SYN).frame(), outer, Outcome::Scheduled);
    expect_inside(&mut bed, &Tcp::new(CLIENT, VIP, ACK).frame(), outer, Outcome::Promoted);
    for from in [[255; 4], [0, 0, 0, 1], [10, 255, 0, 254], [1, 2, 3, 4], [254, 255, 255, 255]] {
        for to in [[255, 255, 255, 254], [9; 4], [172, 16, 255, 255]] {
            let real = tunnelled(1, outer);
            let real = Real { addr: abi::Addr::v4(abi::be32(to)), ..real };
            bed.engine
                .real(1, real.with_tunnel(abi::Addr::v4(abi::be32(from)), MTU))
                .expect("real");
            for len in [0, 255, 256, 1400] {
                let data = Tcp::new(CLIENT, VIP, ACK).payload(&vec![0; len]).frame();
                let ran = bed.run(&data);
                assert_eq!(ran.outcome, Outcome::TunForwarded);
                let sum = checksum::Sum16BitWords::new().add_slice(&ran.frame[IP..IP + 20]);
                assert_eq!(sum.ones_complement(), 0, "{from:?} {to:?} {len}");
                assert_eq!((&ran.frame[26..30], &ran.frame[30..34]), (&from[..], &to[..]));
            }
        }
    }
}

/// An ICMP error about `frame`: with which length, and what it quotes.
fn read_error(error: &[u8], frame: &[u8]) -> (u32, Vec<u8>) {
    assert_eq!((&error[..6], &error[6..12]), (&GATEWAY_MAC[..], &LB_MAC[..]));
    assert_eq!(error[12..14], frame[12..14]);
    let ends = |packet: &[u8], at: usize, len: usize| {
        (packet[at..at + len].to_vec(), packet[at + len..at + 2 * len].to_vec())
    };
    let (packet, sent) = (&error[IP..], &frame[IP..]);
    let sum = checksum::Sum16BitWords::new;
    if is_six() {
        assert_eq!(packet[..4], [0x60, 0, 0, 0]);
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len() - 40);
        assert_eq!(packet[6..8], [58, 64]);
        let ((from, to), (client, vip)) = (ends(packet, 8, 16), ends(sent, 8, 16));
        assert_eq!((&from, &to), (&vip, &client));
        let sum = sum().add_slice(&from).add_slice(&to).add_2bytes([0, 58]);
        let sum = sum.add_slice(&packet[40..]).add_2bytes([packet[4], packet[5]]);
        assert_eq!(sum.ones_complement(), 0, "ICMPv6 checksum");
        assert_eq!(packet[40..42], [2, 0]);
        (u32::from_be_bytes(packet[44..48].try_into().expect("four")), packet[48..].to_vec())
    } else {
        assert_eq!(packet[..2], [0x45, 0]);
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
        assert_eq!(packet[4..10], [0, 0, 0x40, 0, 64, 1]);
        assert_eq!(sum().add_slice(&packet[..20]).ones_complement(), 0, "IPv4 checksum");
        let ((from, to), (client, vip)) = (ends(packet, 12, 4), ends(sent, 12, 4));
        assert_eq!((from, to), (vip, client));
        assert_eq!(sum().add_slice(&packet[20..]).ones_complement(), 0, "ICMP checksum");
        assert_eq!(packet[20..22], [3, 4]);
        assert_eq!(packet[24..26], [0, 0]);
        (u32::from(u16::from_be_bytes([packet[26], packet[27]])), packet[28..].to_vec())
    }
}

fn whole(frame: Vec<u8>) -> Vec<u8> {
    if is_six() { frame } else { with_ip(&frame, |ip| ip[6..8].copy_from_slice(&[0x40, 0])) }
}

#[test]
fn a_sender_is_told_what_fits() {
    for outer in Family::ALL {
        let Some(mut bed) = bed(outer) else { return };
        bed.engine.cuts();
        expect_inside(&mut bed, &Tcp::new(CLIENT, VIP, SYN).frame(), outer, Outcome::Scheduled);
        expect_inside(&mut bed, &Tcp::new(CLIENT, VIP, ACK).frame(), outer, Outcome::Promoted);
        let room = MTU as usize - header(outer);
        let before = bed.engine.real_stats(1).expect("stats");
        for (more, options) in [(1, false), (2, true), (20, false), (1000, true)] {
            let mut data = Tcp::new(CLIENT, VIP, ACK | PSH);
            if options {
                data = data.syn_options();
            }
            let headers = header(inner_family()) + 20 + data.options.len();
            let frame = whole(data.payload(&vec![9; room + more - headers]).frame());
            let ran = bed.run(&frame);
            assert_eq!(ran.outcome, Outcome::TooBig, "{more}");
            let (mtu, quoted) = read_error(&ran.frame, &frame);
            assert_eq!(mtu as usize, room);
            let tcp = header(inner_family());
            let sent = &frame[IP..IP + tcp + 20];
            assert_eq!(quoted.len(), sent.len());
            assert_eq!(quoted[..tcp + 16], sent[..tcp + 16]);
            assert_eq!(quoted[tcp + 18..], sent[tcp + 18..]);
            if is_tc() {
                // The checksum that a device makes of what lies there is the one that lies there.
                let sum = checksum::Sum16BitWords::new().add_slice(&quoted[tcp..]);
                let made = sum.ones_complement().to_ne_bytes();
                assert_eq!(quoted[tcp + 16..tcp + 18], made);
            } else {
                assert_eq!(quoted, sent);
            }
        }
        assert_eq!(bed.engine.real_stats(1).expect("stats"), before, "none of it went there");
        assert_eq!(bed.engine.conns(1).expect("conns"), 1);
        if !is_six() {
            let data = Tcp::new(CLIENT, VIP, ACK).payload(&vec![9; room - 39]).frame();
            let data = with_ip(&data, |ip| ip[6..8].fill(0));
            assert_eq!(bed.run(&data).outcome, Outcome::TooBigDropped, "it may be fragmented");
        }
    }
}

#[test]
fn senders_are_told_so_often_and_no_more() {
    let Some(mut bed) = bed(Family::Four) else { return };
    bed.engine.cuts();
    bed.connect_tunnelled();
    let mut control = bed.engine.array::<Control>(maps::CONTROL).expect("control");
    let value = control.get(&0, 0).expect("control");
    control.set(0, Control { second: 3_600_000, ..value }, 0).expect("control");
    let frame = whole(Tcp::new(CLIENT, VIP, ACK).payload(&[9; 1460]).frame());
    // A share for each CPU, and one run may be on any of them.
    let most = maps::TOO_BIG_LIMIT * 64;
    for sent in 1..=most {
        bed.engine.send(&frame).expect("run");
        let limited = sent >= maps::TOO_BIG_LIMIT
            && bed.engine.outcomes().expect("outcomes")[&Outcome::TooBigLimited] > 0;
        if limited {
            let told = bed.engine.outcomes().expect("outcomes")[&Outcome::TooBig];
            assert_eq!((told >= maps::TOO_BIG_LIMIT, told + 1), (true, sent));
            return;
        }
    }
    panic!("{most} were told");
}

trait Tunnelled {
    fn connect_tunnelled(&mut self);
}

impl Tunnelled for Bed {
    fn connect_tunnelled(&mut self) {
        assert_eq!(self.run(&Tcp::new(CLIENT, VIP, SYN).frame()).outcome, Outcome::Scheduled);
        assert_eq!(self.run(&Tcp::new(CLIENT, VIP, ACK).frame()).outcome, Outcome::Promoted);
    }
}

/// What is said of a dead server, of one without a way, and of one that goes back by the NIC it came from, is as by DR.
#[test]
fn all_else_is_as_by_dr() {
    const IN: u32 = 1; // of test runs
    for outer in Family::ALL {
        let Some(mut bed) = bed(outer) else { return };
        bed.engine.cuts();
        bed.connect_tunnelled();
        let data = Tcp::new(CLIENT, VIP, ACK | PSH).payload(b"x");
        bed.set(1, |real| real.flags = 0);
        assert_eq!(bed.run(&data.frame()).outcome, Outcome::NextHopUnresolved);
        bed.set(1, |real| (real.flags, real.ifindex) = (abi::FLAG_RESOLVED | abi::FLAG_TX, IN));
        if !is_tc() {
            let ran = bed.engine.run(&data.frame()).expect("run");
            assert_eq!((ran.outcome, ran.action), (Outcome::TunForwarded, TX));
            assert!(ran.frame == outside(&data.frame(), outer));
        }
        bed.set(1, |real| real.flags = abi::FLAG_RESOLVED);
        bed.set(1, |real| (real.state, real.generation) = (abi::STATE_DOWN, 8));
        let reset = bed.expect(&data, Outcome::ResetDead);
        assert_reset(&reset, &data);
    }
}
