//! Whom an IPv6 packet concerns: TCP as in [`lookup`], and neighbour solicitations, which are silenced with the
//! VIP that they ask for.

use lb_common::{
    abi::{Addr, FILTER_VIP6, PROTO_TCP, Vip},
    verdict::Outcome::{
        self, Fenced, FencedNd, Foreign, Fragment, IpOptions, Ipv6Extensions, Malformed, Nd,
        ServerOther, Short, VipIcmp, VipProtocol,
    },
};

use crate::{
    Decision,
    access::{Hook, Packet},
    family::Family as _,
    gate::{self, Gate},
    lookup, maps,
    parse::{IP6_DST, IP6_END, IP6_HEAD, IP6_NEXT, IP6_SRC},
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
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
    /// Nothing that a neighbour asks: what it is if it is for a VIP.
    Other(Outcome),
    Neighbour(Addr),
    /// Cut off.
    Short,
    /// Nobody knows without following further headers.
    Unknown,
}

/// A solicitation names its target inside; to whom it is sent says little (RFC 4861 §7.2.4). As
/// with ARP, what other hosts *advertise* for a VIP is how the stack learns that it has moved.
#[inline(always)]
pub fn decide<H: Hook>(packet: &mut Packet<H>) -> Decision {
    let Some(view) = packet.view::<IP6_END>() else { return Decision::of(Short) };
    let (from, to) = (view.addr6::<IP6_SRC>(), view.addr6::<IP6_DST>());
    let known = maps::filter6(&to) & FILTER_VIP6 != 0;
    let next = view.get::<u8, IP6_NEXT>();
    if next == PROTO_TCP && (known || from.is_source()) {
        // An address that stands for an IPv4 one is never on the wire, and maps would take it for that one.
        let is_mapped = from.to_v4().is_some() || to.to_v4().is_some();
        if view.get::<u8, IP6_HEAD>() >> 4 != 6 || is_mapped {
            return Decision::of(lookup::for_vip(&to, Malformed));
        }
        return lookup::segment::<Addr, H>(packet, to, known);
    }
    let vip = if known { maps::vip(&to) } else { None };
    if is_fenced(vip) {
        return Decision::of(Fenced);
    }
    Decision::of(match ask(packet, next) {
        Ask::Neighbour(target) => {
            let known = maps::filter6(&target) & FILTER_VIP6 != 0;
            if known && is_fenced(maps::vip(&target)) { FencedNd } else { Nd }
        }
        Ask::Unknown if known && vip.is_none() => Ipv6Extensions,
        Ask::Short => Short,
        Ask::Other(_) | Ask::Unknown if vip.is_none() => {
            if from.is_source() {
                ServerOther
            } else {
                Foreign
            }
        }
        Ask::Other(what) => lookup::for_vip(&to, what),
        Ask::Unknown => lookup::for_vip(&to, Ipv6Extensions),
    })
}

#[inline(always)]
fn is_fenced(vip: Option<Vip>) -> bool {
    vip.is_some_and(|vip| matches!(gate::check(vip.gate), Gate::Fenced))
}

#[inline(always)]
fn ask<H: Hook>(packet: &Packet<H>, mut next: u8) -> Ask {
    let mut at = IP6_END as u32;
    let mut followed = 0;
    while followed < EXTENSIONS {
        if next == ICMPV6 {
            return icmp(packet, at);
        }
        if next == FRAGMENT {
            return fragment(packet, at);
        }
        if !is_extension(next) {
            return Ask::Other(if next == PROTO_TCP { IpOptions } else { VipProtocol });
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
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | AUTHENTICATION | DESTINATION)
}

/// A fragmented solicitation is none (RFC 6980). What a fragment is of is known if it begins with that.
#[inline(always)]
fn fragment<H: Hook>(packet: &Packet<H>, at: u32) -> Ask {
    let Some(header) = packet.view_at::<2>(at) else { return cut(packet, at, 2) };
    match header.get::<u8, 0>() {
        ICMPV6 => Ask::Other(VipIcmp),
        next if next == PROTO_TCP || is_extension(next) => Ask::Other(Fragment),
        _ => Ask::Other(VipProtocol),
    }
}

#[inline(always)]
fn icmp<H: Hook>(packet: &Packet<H>, at: u32) -> Ask {
    let Some(kind) = packet.view_at::<2>(at) else { return cut(packet, at, 2) };
    if kind.get::<u8, 0>() != SOLICITATION {
        return Ask::Other(VipIcmp);
    }
    match packet.view_at::<SOLICITATION_LEN>(at) {
        Some(view) => Ask::Neighbour(view.addr6::<TARGET>()),
        None => cut(packet, at, SOLICITATION_LEN as u32),
    }
}

/// What lies beyond the first buffer cannot be read here, but the stack would read it.
#[inline(always)]
fn cut<H: Hook>(packet: &Packet<H>, at: u32, len: u32) -> Ask {
    if packet.full_len() < at + len { Ask::Short } else { Ask::Unknown }
}
