//! Every packet suite once more over IPv6 (`lb_tests::packet::build::family` goes by the name of this binary),
//! and what only IPv6 has.

#[path = "xdp_fairness.rs"]
mod xdp_fairness;
#[path = "xdp_flows.rs"]
mod xdp_flows;
#[path = "xdp_limits.rs"]
mod xdp_limits;
#[path = "xdp_packets.rs"]
mod xdp_packets;
#[path = "xdp_persistence.rs"]
mod xdp_persistence;
#[path = "xdp_schedule.rs"]
mod xdp_schedule;
#[path = "xdp_sync.rs"]
mod xdp_sync;
#[path = "xdp_tun.rs"]
mod xdp_tun;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{abi, maps, verdict::Outcome};
use lb_tests::packet::{
    bed::*,
    build::{
        ACK, FIN, PSH, RST, SYN, Tcp,
        extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING},
        host, ipv6, is_six,
    },
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

fn six(name: Ipv4Addr) -> Ipv6Addr {
    match host(name) {
        IpAddr::V6(addr) => addr,
        IpAddr::V4(addr) => panic!("{addr} in a suite of IPv6"),
    }
}

/// A segment of the client's, behind extension headers.
fn behind(to: Ipv4Addr, extensions: &[(u8, usize)], last: u8) -> Vec<u8> {
    let segment = Tcp::new(CLIENT, (to, VIP.1), ACK | PSH).payload(&[9; 64]).frame();
    ipv6((six(CLIENT.0), six(to)), extensions, last, &segment[54..])
}

#[test]
fn this_is_ipv6() {
    assert!(is_six());
    let frame = Tcp::new(CLIENT, VIP, SYN).frame();
    assert_eq!(frame[12..15], [0x86, 0xdd, 0x60]);
    // In no word are they alike, so that none can be forgotten in a sum or a key.
    let (vip, server) = (six(VIP.0).segments(), six(server(1).0).segments());
    assert!(vip.iter().zip(server).skip(2).all(|(a, b)| *a != b));
}

/// Maps hold IPv4 addresses as `::ffff:a.b.c.d`: on the wire they are nobody's.
#[test]
fn an_address_that_stands_for_an_ipv4_one_is_malformed() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, abi::METHOD_DR, &[(1, 1)]) else { return };
    for flags in [SYN, ACK] {
        let segment = Tcp::new(CLIENT, VIP, flags).frame();
        let from = CLIENT.0.to_ipv6_mapped();
        let frame = ipv6((from, six(VIP.0)), &[], TCP, &segment[54..]);
        assert_eq!(bed.run(&frame).outcome, Outcome::Malformed);
    }
    assert_eq!(bed.engine.flow(CLIENT, VIP).expect("read"), None);
}

#[test]
fn extension_headers_fragments_and_nonsense_are_named_drops() {
    use Outcome::{
        BadFlags, DrForwarded, Fragment, IpOptions, Ipv6Extensions, Malformed, VipIcmp, VipProtocol,
    };
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1)]) else { return };
    bed.connect(CLIENT);
    let data = Tcp::new(CLIENT, VIP, ACK | PSH).payload(&[9; 64]).frame();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = data.clone();
        change(&mut frame);
        frame
    };
    let length = |len: u16| with(&|frame| frame[18..20].copy_from_slice(&len.to_be_bytes()));
    let mut offset_long = Tcp::new(CLIENT, VIP, ACK).frame();
    offset_long[66] = 15 << 4;
    let chain = [(HOP_BY_HOP, 8), (DESTINATION, 16), (ROUTING, 24), (AUTHENTICATION, 24)];
    let fragments = |last| behind(VIP.0, &[(FRAGMENT, 8)], last);
    let late = behind(VIP.0, &[(DESTINATION, 8), (FRAGMENT, 8), (DESTINATION, 8)], TCP);
    for (name, frame, outcome) in [
        ("an option", behind(VIP.0, &[(HOP_BY_HOP, 8)], TCP), IpOptions),
        ("all of them", behind(VIP.0, &chain, TCP), IpOptions),
        ("at the bound", behind(VIP.0, &[(DESTINATION, 8); 5], TCP), IpOptions),
        ("beyond it", behind(VIP.0, &[(DESTINATION, 8); 7], TCP), Ipv6Extensions),
        ("fragment", fragments(TCP), Fragment),
        ("fragment of options", late, Fragment),
        ("fragment of UDP", fragments(UDP), VipProtocol),
        ("fragment of an echo", fragments(ICMPV6), VipIcmp),
        ("UDP behind options", behind(VIP.0, &chain, UDP), VipProtocol),
        ("too short", length(19), Malformed),
        ("empty", length(0), Malformed),
        ("too long", length(2000), Malformed),
        ("version", with(&|frame| frame[14] = 0x50), Malformed),
        ("TCP offset short", with(&|frame| frame[66] = 4 << 4), Malformed),
        ("TCP offset long", offset_long, Malformed),
        ("SYN-ACK", Tcp::new(client(1), VIP, SYN | ACK).frame(), BadFlags),
        ("SYN-FIN", Tcp::new(client(1), VIP, SYN | FIN).frame(), BadFlags),
        ("SYN-RST", Tcp::new(client(1), VIP, SYN | RST).frame(), BadFlags),
        ("nothing", Tcp::new(client(1), VIP, 0).frame(), BadFlags),
        // Traffic class and flow label are the sender's affair.
        (
            "flow label",
            with(&|frame| frame[14..18].copy_from_slice(&[0x6f, 0xff, 1, 2])),
            DrForwarded,
        ),
    ] {
        assert_eq!(bed.run(&frame).outcome, outcome, "{name}");
    }
    // Without a virtual server they are the stack's.
    for frame in [behind(BARE_VIP, &chain, TCP), behind(BARE_VIP, &[(FRAGMENT, 8)], TCP)] {
        assert_eq!(bed.run(&frame).outcome, Outcome::NoVirtualServer);
    }
    let other = Ipv4Addr::new(10, 9, 8, 7);
    for frame in [behind(other, &chain, TCP), behind(other, &[(FRAGMENT, 8)], TCP)] {
        assert_eq!(bed.run(&frame).outcome, Outcome::Foreign);
    }
    for (lease, outcome) in
        [(abi::LEASE_STANDBY, Outcome::Standby), (abi::LEASE_FENCED, Outcome::Fenced)]
    {
        bed.engine.lease(GATE, lease).expect("lease");
        for extensions in [&chain[..], &[(FRAGMENT, 8)], &[(DESTINATION, 8); 7]] {
            assert_eq!(bed.run(&behind(VIP.0, extensions, TCP)).outcome, outcome);
        }
    }
}

/// Traffic class, flow label and hop limit go through DR and NAT as they came.
#[test]
fn what_a_router_reads_is_kept() {
    for method in [DR, NAT] {
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1)]) else { return };
        bed.connect(CLIENT);
        let mut frame = Tcp::new(CLIENT, VIP, ACK | PSH).payload(b"x").frame();
        frame[14..18].copy_from_slice(&[0x6a, 0xb1, 2, 3]);
        let ran = bed.run(&frame);
        assert_eq!(ran.frame[14..22], frame[14..22]);
        assert_eq!(Tcp::read(&ran.frame).ttl, 61);
    }
}

/// What user space and the program say of each other's packets: both families side by side.
#[test]
fn families_do_not_meet() {
    use lb_tests::packet::build::{Family, in_family};
    let Some(mut bed) = Bed::new(abi::SCHED_RR, NAT, &[(1, 1)]) else { return };
    bed.connect(CLIENT);
    in_family(Family::Four, || {
        let ran = bed.run(&Tcp::new(CLIENT, VIP, ACK).frame());
        assert_eq!(ran.outcome, Outcome::Foreign, "the VIP of the same name over IPv4 is nobody's");
        assert_eq!(bed.run(&Tcp::new(server(1), CLIENT, ACK).frame()).outcome, Outcome::Foreign);
    });
    // Over IPv4 it becomes one too, with a real server of its own.
    in_family(Family::Four, || {
        bed.engine.real(2, abi::Real { service: 2, ..real(2, NAT) }).expect("real server");
        let service = abi::Service { id: 2, ..service(abi::SCHED_RR) };
        bed.engine.service(VIP, service, &[(2, 1)]).expect("virtual server");
        assert_eq!(bed.connect(CLIENT), 2);
    });
    assert_eq!(server_of(&bed.expect(&Tcp::new(CLIENT, VIP, ACK), Outcome::NatForwarded)), 1);
    bed.expect(&Tcp::new(server(1), CLIENT, ACK), Outcome::NatReply);
    in_family(Family::Four, || {
        bed.expect(&Tcp::new(server(2), CLIENT, ACK), Outcome::NatReply);
    });
    // A full table of the one hashes nothing of the other.
    let (now, _) = bed.engine.clock().expect("clock");
    bed.engine.array::<u64>(maps::PRESSURE).expect("pressure").set(0, now, 0).expect("set");
    bed.engine.service(VIP, service(abi::SCHED_WLC), &[(1, 1), (3, 1)]).expect("service");
    bed.expect(&Tcp::new(client(7), VIP, ACK), Outcome::ResetUnknown);
    bed.engine.array::<u64>(maps::PRESSURE).expect("pressure").set(1, now, 0).expect("set");
    bed.expect(&Tcp::new(client(7), VIP, RST), Outcome::MidstreamHashed);
}

#[test]
fn without_its_program_ipv6_passes_and_is_counted() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1)]) else { return };
    bed.engine.programs().expect("programs").clear_index(&maps::PROGRAM6_INDEX).expect("cleared");
    let ran = bed.run(&Tcp::new(CLIENT, VIP, SYN).frame());
    assert_eq!(ran.outcome, Outcome::Ipv6Unready);
}
