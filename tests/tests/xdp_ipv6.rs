//! IPv6 VIPs without virtual server in the shipped kernel object under `BPF_PROG_TEST_RUN`: silent when their
//! lease has run out. Those with one: `xdp_six`.

use std::net::Ipv6Addr;

use lb_common::{abi, verdict::Outcome};
use lb_tests::packet::{
    bed::*,
    build::{
        extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING},
        ipv6, is_tc,
    },
};

const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x100);
const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x200);
const ASKER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

const TCP: u8 = 6;
const ICMPV6: u8 = 58;

fn packet(to: Ipv6Addr, extensions: &[(u8, usize)], last: u8, payload: &[u8]) -> Vec<u8> {
    ipv6((ASKER, to), extensions, last, payload)
}

fn icmp(kind: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1, 2, 0, 0, 0, 0, 2]);
    message
}

fn solicitation(to: Ipv6Addr, extensions: &[(u8, usize)], target: Ipv6Addr) -> Vec<u8> {
    packet(to, extensions, ICMPV6, &icmp(135, target))
}

fn group(of: Ipv6Addr) -> Ipv6Addr {
    abi::Addr::new(of.octets()).solicited_node().octets().into()
}

fn bed(lease: u64) -> Option<Bed> {
    let mut bed = Bed::new(abi::SCHED_RR, DR, &[(1, 1)])?;
    bed.engine.vip_at(VIP6.into(), GATE, 0).expect("VIP");
    bed.engine.lease(GATE, lease).expect("lease");
    Some(bed)
}

/// Outcomes by lease: running, standby, run out.
const LEASES: [u64; 3] = [abi::LEASE_ALWAYS, abi::LEASE_STANDBY, 2];

#[test]
fn what_is_for_a_vip_follows_its_lease() {
    use Outcome::{Fenced, FencedNd, Foreign, Nd, NoVirtualServer, Standby, VipIcmp, VipProtocol};
    let data = [0; 40];
    let chain = [(HOP_BY_HOP, 8), (DESTINATION, 16), (ROUTING, 24), (AUTHENTICATION, 24)];
    let rows = [
        ("TCP", packet(VIP6, &[], TCP, &data), [NoVirtualServer, Standby, Fenced]),
        (
            "fragment",
            packet(VIP6, &[(FRAGMENT, 8)], TCP, &data),
            [NoVirtualServer, Standby, Fenced],
        ),
        ("extensions", packet(VIP6, &chain, TCP, &data), [NoVirtualServer, Standby, Fenced]),
        (
            "many",
            packet(VIP6, &[(DESTINATION, 8); 9], TCP, &data),
            [NoVirtualServer, Standby, Fenced],
        ),
        ("echo", packet(VIP6, &[], ICMPV6, &icmp(128, VIP6)), [VipIcmp, Standby, Fenced]),
        ("UDP", packet(VIP6, &[], 17, &data), [VipProtocol, Standby, Fenced]),
        ("who has it", solicitation(group(VIP6), &[], VIP6), [Nd, Nd, FencedNd]),
        ("is it still there", solicitation(VIP6, &[], VIP6), [Nd, Nd, Fenced]),
        ("asked elsewhere", solicitation(OWN, &[], VIP6), [Nd, Nd, FencedNd]),
        ("behind headers", solicitation(group(VIP6), &chain, VIP6), [Nd, Nd, FencedNd]),
        ("at the bound", solicitation(OWN, &[(DESTINATION, 8); 6], VIP6), [Nd, Nd, FencedNd]),
        ("long", solicitation(OWN, &[(HOP_BY_HOP, 1400)], VIP6), [Nd, Nd, FencedNd]),
        ("not the VIP", solicitation(group(OTHER), &[], OTHER), [Nd; 3]),
        ("same group", solicitation(group(VIP6), &[], OWN), [Nd; 3]),
        // What others say of a VIP is how the stack learns that it has moved.
        ("advertised", packet(OWN, &[], ICMPV6, &icmp(136, VIP6)), [Foreign; 3]),
        ("foreign", packet(OTHER, &[], TCP, &data), [Foreign; 3]),
        ("foreign, many", packet(OTHER, &[(DESTINATION, 8); 9], TCP, &data), [Foreign; 3]),
    ];
    for (which, lease) in LEASES.into_iter().enumerate() {
        let Some(mut bed) = bed(lease) else { return };
        for (name, frame, outcomes) in &rows {
            assert_eq!(bed.run(frame).outcome, outcomes[which], "{name}, lease {lease:#x}");
        }
    }
}

#[test]
fn beyond_the_bound_nobody_asks_for_a_vip() {
    for lease in LEASES {
        let Some(mut bed) = bed(lease) else { return };
        let many = solicitation(group(VIP6), &[(DESTINATION, 8); 7], VIP6);
        assert_eq!(bed.run(&many).outcome, Outcome::Ipv6Extensions);
        let elsewhere = solicitation(group(OTHER), &[(DESTINATION, 8); 7], OTHER);
        assert_eq!(bed.run(&elsewhere).outcome, Outcome::Foreign);
    }
}

#[test]
fn truncated_at_every_length() {
    let Some(mut bed) = bed(abi::LEASE_FENCED) else { return };
    for (extensions, asks) in [(&[][..], 54), (&[(HOP_BY_HOP, 8), (DESTINATION, 16)][..], 78)] {
        let whole = solicitation(group(VIP6), extensions, VIP6);
        // A test run of tc takes frames with a whole IP header only.
        let least = if is_tc() { 54 } else { 14 };
        for len in least..asks + 24 {
            assert_eq!(bed.run(&whole[..len]).outcome, Outcome::Short, "{len} bytes");
        }
        for len in asks + 24..=whole.len() {
            assert_eq!(bed.run(&whole[..len]).outcome, Outcome::FencedNd, "{len} bytes");
        }
    }
}
