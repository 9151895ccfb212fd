//! Tells a sender that its packet does not fit into a tunnel: ICMP's "fragmentation needed" (RFC 1191) and ICMPv6's
//! "packet too big" (RFC 4443), from the VIP, with the length that fits. It quotes both headers of the packet.

use lb_common::{
    abi::{Addr, Be32, DONT_FRAGMENT},
    csum,
    verdict::Outcome::{TooBig, TooBigDropped, TooBigLimited, TunnelFailed},
};

use crate::{
    Decision,
    access::{self, Hook, NextHop, Packet, Room, View},
    family::{Family, TTL},
    maps,
    parse::{
        ETH_LEN, ETH_TYPE, IP_CHECK, IP_DST, IP_FRAGS, IP_ID, IP_LEN, IP_PROTO, IP_SRC, IP_TTL,
        IP_VIHL, IP4_END, IP6_DST, IP6_END, IP6_HEAD, IP6_HOPS, IP6_LEN, IP6_NEXT, IP6_SRC,
        Segment, TCP_CHECK, TCP_LEN,
    },
};

/// Length of ICMP's header of either version.
const ICMP: usize = 8;
const PROTO_ICMP: u8 = 1;
const PROTO_ICMPV6: u8 = 58;
/// Where the quoted packet and its TCP header begin, and where it ends.
const QUOTE4: usize = IP4_END + ICMP;
const TCP4: usize = QUOTE4 + IP4_END - ETH_LEN;
const END4: usize = TCP4 + TCP_LEN;
const QUOTE6: usize = IP6_END + ICMP;
const TCP6: usize = QUOTE6 + IP6_END - ETH_LEN;
const END6: usize = TCP6 + TCP_LEN;

/// An answer.
pub struct Error<A> {
    way: NextHop,
    src: A,
    dst: A,
    /// What fits.
    mtu: u32,
}

/// Answers the client's packet, which is not changed yet. `whole`: see [`Family::is_whole`].
#[inline(always)]
pub fn answer<A: Family, H: Hook>(
    packet: &mut Packet<H>,
    segment: &Segment<A>,
    whole: bool,
    mtu: u32,
) -> Decision {
    if !whole {
        return Decision::of(TooBigDropped);
    }
    if !maps::may_tell(access::jiffies()) {
        return Decision::of(TooBigLimited);
    }
    let (way, key) = (segment.back, &segment.key);
    let error = Error { way, src: key.dst, dst: key.src, mtu };
    let (len, quoted) = (packet.full_len(), ETH_LEN as u32 + A::HEADER + TCP_LEN as u32);
    if !packet.trim(len, quoted)
        || !packet.grow(A::HEADER + ICMP as u32, Room::Answer)
        || !A::too_big(packet, &error)
    {
        return Decision::of(TunnelFailed);
    }
    Decision { outcome: TooBig, ifindex: way.ifindex }
}

/// Writes the headers before an IPv4 packet.
#[inline(always)]
pub fn write4<H: Hook>(packet: &mut Packet<H>, error: &Error<Be32>) -> bool {
    const LEN: u16 = ((END4 - ETH_LEN) as u16).to_be();
    const START: u16 = 0x4500_u16.to_be();
    const KIND: u16 = u16::from_be_bytes([3, 4]).to_be();
    let Some(view) = packet.view::<END4>() else { return false };
    complete::<H, END4, TCP4, { TCP4 + TCP_CHECK }>(&view);
    view.set_macs(error.way.macs);
    view.set::<u16, ETH_TYPE>(0x0800_u16.to_be());
    view.set::<u16, IP_VIHL>(START);
    view.set::<u16, IP_LEN>(LEN);
    view.set::<u16, IP_ID>(0);
    view.set::<u16, IP_FRAGS>(DONT_FRAGMENT);
    view.set::<u8, IP_TTL>(TTL);
    view.set::<u8, IP_PROTO>(PROTO_ICMP);
    view.set::<u32, IP_SRC>(error.src);
    view.set::<u32, IP_DST>(error.dst);
    let protocol = u16::from_be_bytes([TTL, PROTO_ICMP]).to_be();
    let fixed = u32::from(START) + u32::from(LEN) + u32::from(DONT_FRAGMENT) + u32::from(protocol);
    let addresses = csum::sum32(error.src) + csum::sum32(error.dst);
    view.set::<u16, IP_CHECK>(csum::finish(fixed + addresses));
    let mtu = (error.mtu as u16).to_be();
    view.set::<u16, IP4_END>(KIND);
    view.set::<u16, { IP4_END + 4 }>(0);
    view.set::<u16, { IP4_END + 6 }>(mtu);
    let sum = u32::from(KIND) + u32::from(mtu) + view.sum::<QUOTE4, END4>();
    view.set::<u16, { IP4_END + 2 }>(csum::finish(sum));
    packet.resum::<END4>();
    true
}

/// Writes the headers before an IPv6 packet.
#[inline(always)]
pub fn write6<H: Hook>(packet: &mut Packet<H>, error: &Error<Addr>) -> bool {
    const LEN: u16 = ((END6 - IP6_END) as u16).to_be();
    const KIND: u16 = u16::from_be_bytes([2, 0]).to_be();
    let Some(view) = packet.view::<END6>() else { return false };
    complete::<H, END6, TCP6, { TCP6 + TCP_CHECK }>(&view);
    view.set_macs(error.way.macs);
    view.set::<u16, ETH_TYPE>(0x86dd_u16.to_be());
    view.set::<u32, IP6_HEAD>(0x6000_0000_u32.to_be());
    view.set::<u16, IP6_LEN>(LEN);
    view.set::<u8, IP6_NEXT>(PROTO_ICMPV6);
    view.set::<u8, IP6_HOPS>(TTL);
    view.set_addr6::<IP6_SRC>(&error.src);
    view.set_addr6::<IP6_DST>(&error.dst);
    let mtu = error.mtu.to_be();
    view.set::<u16, IP6_END>(KIND);
    view.set::<u32, { IP6_END + 4 }>(mtu);
    let pseudo = view.sum::<IP6_SRC, IP6_END>()
        + u32::from(LEN)
        + u32::from(u16::from(PROTO_ICMPV6).to_be());
    let sum = pseudo + u32::from(KIND) + csum::sum32(mtu) + view.sum::<QUOTE6, END6>();
    view.set::<u16, { IP6_END + 2 }>(csum::finish(sum));
    packet.resum::<END6>();
    true
}

/// A device may complete the TCP checksum of the quoted header after us, from all that follows, whatever the packet is
/// now, and would so make ICMP's wrong. So it becomes the one that stays what it is when that is done: x with
/// x = −(rest + x). Nobody can verify it in any case, for the data that it was of is gone.
#[inline(always)]
fn complete<H: Hook, const END: usize, const TCP: usize, const CHECK: usize>(view: &View<'_, END>) {
    if !H::BY_HELPER {
        return;
    }
    view.set::<u16, CHECK>(0);
    let rest = u32::from(!csum::fold(view.sum::<TCP, END>()));
    // Halved modulo 65,535.
    view.set::<u16, CHECK>(((rest + (rest & 1) * 0xffff) >> 1) as u16);
}
