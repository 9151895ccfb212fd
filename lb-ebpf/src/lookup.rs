//! Whom an IPv4 packet concerns: the filter, then the direction it goes.

use lb_common::{
    abi::{Addr, Be32, FILTER_VIP, PROTO_TCP, VIP_TCP_SERVICE},
    verdict::Outcome,
};

use crate::{
    Decision, Plan,
    access::{Hook, Packet, View},
    client,
    family::Family,
    forward,
    gate::{self, Gate},
    maps,
    parse::{
        self, FRAGMENT, IP_DST, IP_FRAGS, IP_PROTO, IP_SRC, IP_VIHL, IP4_END, PLAIN_IPV4, Segment,
    },
    reply, reset,
};

const PROTO_ICMP: u8 = 1;

/// Decides about an IPv4 packet and does it.
#[inline(always)]
pub fn decide<H: Hook>(packet: &mut Packet<H>) -> Decision {
    let Some(view) = packet.view::<IP4_END>() else { return Decision::of(Outcome::Short) };
    let to_vip = maps::filter(view.get::<u32, IP_DST>()) & FILTER_VIP != 0;
    if !to_vip && !is_from_server(&view) {
        return Decision::of(Outcome::Foreign);
    }
    if view.get::<u8, IP_PROTO>() != PROTO_TCP
        || view.get::<u8, IP_VIHL>() != PLAIN_IPV4
        || view.get::<u16, IP_FRAGS>() & FRAGMENT != 0
    {
        return Decision::of(unusual(&view));
    }
    segment::<Be32, H>(packet, view.get::<u32, IP_DST>(), to_vip)
}

/// Decides about a plain TCP packet and does it: `to` may be a VIP, or its sender may be a NAT real server.
#[inline(always)]
pub fn segment<A: Family, H: Hook>(packet: &mut Packet<H>, to: A, to_vip: bool) -> Decision {
    let Some(frame) = A::frame(packet) else {
        return Decision::of(for_vip(&to.wide(), Outcome::Malformed));
    };
    let Some(segment) = parse::segment(packet, &frame) else {
        return Decision::of(for_vip(&to.wide(), Outcome::Malformed));
    };
    let mut plan = Plan::Done(Outcome::Foreign);
    if to_vip {
        plan = client::decide(&segment);
    }
    if matches!(plan, Plan::Done(Outcome::Foreign)) && (!to_vip || segment.key.src.is_source()) {
        plan = reply::decide(packet, &segment);
    }
    match plan {
        Plan::Done(outcome) => Decision::of(outcome),
        Plan::Forward { id, real, what } if real.is_tunnel() => {
            let marks = forward::tun::Marks::of(&frame);
            forward::tun::to_server(packet, &marks, id, real, &segment, what)
        }
        Plan::Forward { id, real, what } => {
            let decision = forward::to_real::<A, H>(&frame, id, real, &segment, what);
            if !forward::nat::complete_to_server::<A, H>(packet, real) {
                return Decision::of(Outcome::RewriteFailed);
            }
            decision
        }
        Plan::Reply { id, real, way, what } => {
            count_reply(&segment, id);
            forward::nat::to_client::<A, H>(&frame, real, &way);
            if !forward::nat::complete_to_client::<A, H>(packet, real) {
                return Decision::of(Outcome::RewriteFailed);
            }
            Decision { outcome: what, ifindex: forward::exit(real, way.ifindex, &segment) }
        }
        Plan::Reset(why) => reset::to_sender(packet, &segment, why),
        Plan::ResetClient { real, way, what } => {
            reset::to_client(packet, &segment, &real.vip, real.vip_port, way, what)
        }
    }
}

#[inline(always)]
fn is_from_server(view: &View<'_, IP4_END>) -> bool {
    view.get::<u32, IP_SRC>().is_source()
}

#[inline(always)]
fn count_reply<A: Family>(segment: &Segment<A>, id: u16) {
    if let Some(stats) = maps::real_stats(id) {
        stats.reply_packets += 1;
        stats.reply_bytes += u64::from(segment.len);
    }
}

/// Anything but plain, whole TCP.
#[inline(always)]
fn unusual(view: &View<'_, IP4_END>) -> Outcome {
    let active = if view.get::<u8, IP_PROTO>() == PROTO_ICMP {
        Outcome::VipIcmp
    } else if view.get::<u8, IP_PROTO>() != PROTO_TCP {
        Outcome::VipProtocol
    } else if view.get::<u16, IP_FRAGS>() & FRAGMENT != 0 {
        Outcome::Fragment
    } else if view.get::<u8, IP_VIHL>() > PLAIN_IPV4 && view.get::<u8, IP_VIHL>() <= 0x4f {
        Outcome::IpOptions
    } else {
        Outcome::Malformed
    };
    for_vip(&Addr::v4(view.get::<u32, IP_DST>()), active)
}

/// `active` if `addr` is a VIP that this host is master of. A drop is for TCP that a virtual
/// server could have forwarded: without one, the packet is the stack's.
#[inline(always)]
pub fn for_vip(addr: &Addr, active: Outcome) -> Outcome {
    let Some(vip) = maps::vip(addr) else { return Outcome::ServerOther };
    match gate::check(vip.gate) {
        Gate::Standby => Outcome::Standby,
        Gate::Fenced => Outcome::Fenced,
        Gate::Active => match active {
            Outcome::VipIcmp | Outcome::VipProtocol => active,
            _ if vip.flags & VIP_TCP_SERVICE == 0 => Outcome::NoVirtualServer,
            _ => active,
        },
    }
}
