//! IPv6: nothing is forwarded yet, but a VIP is silenced when its lease has run out.

use core::mem::offset_of;

use lb_common::{
    abi::{Addr6, FILTER_VIP6},
    verdict::Outcome::{self, Fenced, FencedNd, Ipv6, Ipv6Extensions, Nd, Short, Standby, VipIpv6},
};
use network_types::{eth::EthHdr, ip::Ipv6Hdr};

use crate::{
    access::Packet,
    gate::{self, Gate},
    maps,
};

const END: usize = EthHdr::LEN + Ipv6Hdr::LEN;
const NEXT: usize = EthHdr::LEN + offset_of!(Ipv6Hdr, next_hdr);
const TO: usize = EthHdr::LEN + offset_of!(Ipv6Hdr, dst_addr);

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;

/// Extension headers that are followed in search of a neighbour solicitation. Nobody sends one behind
/// more than a hop-by-hop header.
const EXTENSIONS: u32 = 6;
/// Type of a neighbour solicitation (RFC 4861 §4.3), its length and where it names its target.
const SOLICITATION: u8 = 135;
const SOLICITATION_LEN: usize = 24;
const TARGET: usize = 8;

/// What a packet asks of this host.
enum Ask {
    Other,
    Neighbour(Addr6),
    /// Cut off.
    Short,
    /// Nobody knows without following further headers.
    Unknown,
}

/// A solicitation names its target inside; to whom it is sent says little (RFC 4861 §7.2.4). As
/// with ARP, what other hosts *advertise* for a VIP is how the stack learns that it has moved.
#[inline(always)]
pub fn decide(packet: &Packet) -> Outcome {
    let Some(view) = packet.view::<END>() else { return Short };
    let to = view.addr6::<TO>();
    let known = maps::filter6(&to) & FILTER_VIP6 != 0;
    let to_vip = if known { gate(&to) } else { None };
    if matches!(to_vip, Some(Gate::Fenced)) {
        return Fenced;
    }
    match ask(packet, view.get::<u8, NEXT>()) {
        Ask::Neighbour(target) => {
            let vip = maps::filter6(&target) & FILTER_VIP6 != 0;
            if vip && matches!(gate(&target), Some(Gate::Fenced)) { FencedNd } else { Nd }
        }
        Ask::Unknown if known && to_vip.is_none() => Ipv6Extensions,
        Ask::Short => Short,
        Ask::Other | Ask::Unknown => match to_vip {
            None => Ipv6,
            Some(Gate::Standby) => Standby,
            Some(_) => VipIpv6,
        },
    }
}

#[inline(always)]
fn gate(addr: &Addr6) -> Option<Gate> {
    maps::vip6(addr).map(|vip| gate::check(vip.gate))
}

#[inline(always)]
fn ask(packet: &Packet, mut next: u8) -> Ask {
    let mut at = END as u32;
    let mut followed = 0;
    while followed < EXTENSIONS {
        if next == ICMPV6 {
            return icmp(packet, at);
        }
        if !matches!(next, HOP_BY_HOP | ROUTING | AUTHENTICATION | DESTINATION) {
            // A fragmented solicitation is none (RFC 6980), whatever comes behind other headers too.
            return Ask::Other;
        }
        let Some(header) = packet.view_at::<2>(at) else { return cut(packet, at, 2) };
        let len = u32::from(header.get::<u8, 1>());
        at += if next == AUTHENTICATION { (len + 2) * 4 } else { (len + 1) * 8 };
        next = header.get::<u8, 0>();
        followed += 1;
    }
    if next == ICMPV6 { icmp(packet, at) } else { Ask::Unknown }
}

#[inline(always)]
fn icmp(packet: &Packet, at: u32) -> Ask {
    let Some(kind) = packet.view_at::<2>(at) else { return cut(packet, at, 2) };
    if kind.get::<u8, 0>() != SOLICITATION {
        return Ask::Other;
    }
    match packet.view_at::<SOLICITATION_LEN>(at) {
        Some(view) => Ask::Neighbour(view.addr6::<TARGET>()),
        None => cut(packet, at, SOLICITATION_LEN as u32),
    }
}

/// What lies beyond the first buffer cannot be read here, but the stack would read it.
#[inline(always)]
fn cut(packet: &Packet, at: u32, len: u32) -> Ask {
    if packet.full_len() < at + len { Ask::Short } else { Ask::Unknown }
}
