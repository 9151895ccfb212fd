//! Tunnel: the client's packet goes, unchanged, inside of a packet to the real server (RFC 2003, RFC 2473, RFC 4213).
//! Its replies go to the client directly, as by DR.
//!
//! The outer header is written from what user space has put into the real server's entry. DSCP and ECN are copied from the
//! inner one (RFC 6040 §4.1, "normal mode"); the flow label is 0. IPv4: DF is set, so that the id says nothing (RFC 6864).

use lb_common::{
    abi::{Addr, Be32, DONT_FRAGMENT, FLAG_RESOLVED, METHOD_TUN6, Real, TUNNEL_TTL},
    csum,
    verdict::Outcome::{self, DrForwarded, NextHopUnresolved, TunForwarded, TunnelFailed},
};

use super::{count, exit};
use crate::{
    Decision,
    access::{Hook, Packet, Room},
    family::Family,
    parse::{
        ETH_LEN, ETH_TYPE, Frame, IP_CHECK, IP_DST, IP_FRAGS, IP_ID, IP_LEN, IP_PROTO, IP_SRC,
        IP_TTL, IP_VIHL, IP4_END, IP6_DST, IP6_END, IP6_HEAD, IP6_HOPS, IP6_LEN, IP6_NEXT, IP6_SRC,
        Segment, TCP_OFFSET,
    },
    too_big,
};

/// What of a packet's headers matters to the one before it.
pub struct Marks {
    class: u8,
    /// See [`Family::is_whole`].
    whole: bool,
    /// Bytes of its IP and TCP headers.
    headers: u32,
}

impl Marks {
    #[inline(always)]
    pub fn of<A: Family>(frame: &Frame<'_, A>) -> Self {
        Self {
            class: A::class(&frame.ip),
            whole: A::is_whole(&frame.ip),
            headers: A::HEADER + u32::from(frame.tcp.get::<u8, TCP_OFFSET>() >> 4) * 4,
        }
    }
}

/// Sends the packet to `real` by its tunnel. `what` is as in [`super::to_real`].
#[inline(always)]
pub fn to_server<A: Family, H: Hook>(
    packet: &mut Packet<H>,
    marks: &Marks,
    id: u16,
    real: &Real,
    segment: &Segment<A>,
    what: Outcome,
) -> Decision {
    // No room: the entry is just becoming a tunnel's.
    if real.flags & FLAG_RESOLVED == 0 || real.tunnel_room == 0 {
        return Decision::of(NextHopUnresolved);
    }
    let inner = segment.len - ETH_LEN as u32;
    let cut = packet.segment_payload();
    let longest = if cut == 0 { inner } else { marks.headers + cut };
    let room = u32::from(real.tunnel_room);
    if longest > room {
        return too_big::answer(packet, segment, marks.whole, room);
    }
    let done = if real.method == METHOD_TUN6 {
        outer6::<A, H>(packet, marks.class, inner, real)
    } else {
        outer4::<A, H>(packet, marks.class, inner, real)
    };
    if !done {
        return Decision::of(TunnelFailed);
    }
    count(id, segment);
    let outcome = if what as u32 == DrForwarded as u32 { TunForwarded } else { what };
    Decision { outcome, ifindex: exit(real, real.ifindex, segment) }
}

#[inline(always)]
fn outer4<A: Family, H: Hook>(packet: &mut Packet<H>, class: u8, inner: u32, real: &Real) -> bool {
    const HEADER: u32 = <Be32 as Family>::HEADER;
    // Of what will be cut into segments.
    if inner + HEADER > 0xffff {
        return false;
    }
    if !packet.grow(HEADER, Room::Outer4) {
        return false;
    }
    let Some(view) = packet.view::<IP4_END>() else { return false };
    let len = ((inner + HEADER) as u16).to_be();
    let start = u16::from_be_bytes([0x45, class]).to_be();
    // The rest of the first word is in the sum already.
    let varies = u32::from(u16::from_be_bytes([0, class]).to_be()) + u32::from(len);
    view.set_macs(real.macs);
    view.set::<u16, ETH_TYPE>(0x0800_u16.to_be());
    view.set::<u16, IP_VIHL>(start);
    view.set::<u16, IP_LEN>(len);
    view.set::<u16, IP_ID>(0);
    view.set::<u16, IP_FRAGS>(DONT_FRAGMENT);
    view.set::<u8, IP_TTL>(TUNNEL_TTL);
    view.set::<u8, IP_PROTO>(A::TUNNELLED);
    view.set::<u16, IP_CHECK>(csum::finish(u32::from(real.tunnel_sum) + varies));
    view.set::<u32, IP_SRC>(Be32::of(&real.tunnel_source));
    view.set::<u32, IP_DST>(Be32::of(&real.addr));
    // A header with its checksum adds nothing to the device's sum of the packet.
    true
}

#[inline(always)]
fn outer6<A: Family, H: Hook>(packet: &mut Packet<H>, class: u8, inner: u32, real: &Real) -> bool {
    if !packet.grow(<Addr as Family>::HEADER, Room::Outer6) {
        return false;
    }
    let Some(view) = packet.view::<IP6_END>() else { return false };
    let len = (inner as u16).to_be();
    view.set_macs(real.macs);
    view.set::<u16, ETH_TYPE>(0x86dd_u16.to_be());
    view.set::<u32, IP6_HEAD>((0x6000_0000 | u32::from(class) << 20).to_be());
    view.set::<u16, IP6_LEN>(len);
    view.set::<u8, IP6_NEXT>(A::TUNNELLED);
    view.set::<u8, IP6_HOPS>(TUNNEL_TTL);
    view.set_addr6::<IP6_SRC>(&real.tunnel_source);
    view.set_addr6::<IP6_DST>(&real.addr);
    if H::BY_HELPER {
        let class = u32::from((u16::from(class) << 4).to_be());
        packet.add_to_sum(u32::from(real.tunnel_sum) + class + u32::from(len));
    }
    true
}
