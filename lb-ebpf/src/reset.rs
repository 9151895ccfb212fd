//! Turns a packet in place into a RST that its receiver must believe.
//!
//! RFC 5961 wants the exact sequence number that the receiver expects next. For a RST that answers
//! a segment this is the segment's acknowledgement number; for one that takes the place of a
//! server's segment it is that segment's own sequence number.

use lb_common::{
    abi::{Be16, Be32},
    csum,
    verdict::Outcome::{self, ResetFailed},
};

use crate::{
    Decision,
    access::{NextHop, Packet, View},
    parse::{
        ACK, IP_CHECK, IP_DST, IP_FRAGS, IP_ID, IP_LEN, IP_PROTO, IP_SRC, IP_TTL, IP_VIHL, RST,
        SYN, Segment, TCP_ACK, TCP_CHECK, TCP_DST, TCP_END, TCP_FLAGS, TCP_OFFSET, TCP_SEQ,
        TCP_SRC, TCP_URGENT, TCP_WINDOW,
    },
};

/// Shortest Ethernet frame without its check sequence; a RST is shorter, so what follows it in a
/// frame of this length is zeroed rather than cut off.
const MIN_FRAME: usize = 60;

struct Header {
    way: NextHop,
    src: Be32,
    dst: Be32,
    sport: Be16,
    dport: Be16,
    seq: u32,
    ack: u32,
    flags: u8,
}

/// Answers the client's segment. The caller has seen that it is no RST.
#[inline(always)]
pub fn to_sender(packet: &mut Packet, segment: &Segment, why: Outcome) -> Decision {
    let (seq, ack, flags) = if segment.flags & SYN != 0 {
        // Nothing is acknowledged yet: the answer must acknowledge the SYN (RFC 9293, 3.10.7).
        (0, segment.seq_end, RST | ACK)
    } else {
        (segment.ack, 0, RST)
    };
    let key = &segment.key;
    let header = Header {
        way: segment.back,
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        seq,
        ack,
        flags,
    };
    write(packet, &header, why)
}

/// Takes the place of a NAT real server's segment on its way to the client.
#[inline(always)]
pub fn to_client(
    packet: &mut Packet,
    segment: &Segment,
    vip: Be32,
    port: Be16,
    way: NextHop,
    why: Outcome,
) -> Decision {
    let syn = segment.flags & SYN != 0;
    let key = &segment.key;
    let header = Header {
        way,
        src: vip,
        dst: key.dst,
        sport: port,
        dport: key.dport,
        seq: if syn { 0 } else { segment.seq },
        ack: segment.ack,
        flags: RST | ACK,
    };
    write(packet, &header, why)
}

#[inline(always)]
fn write(packet: &mut Packet, header: &Header, why: Outcome) -> Decision {
    let len = packet.full_len();
    let kept = if let Some(view) = packet.view::<MIN_FRAME>() {
        // What is left of the sender's payload.
        view.set::<u16, TCP_END>(0);
        view.set::<u32, { TCP_END + 2 }>(0);
        headers(&view, header);
        MIN_FRAME as u32
    } else if let Some(view) = packet.view::<TCP_END>() {
        headers(&view, header);
        TCP_END as u32
    } else {
        return Decision::of(ResetFailed);
    };
    if !packet.trim(len, kept) {
        return Decision::of(ResetFailed);
    }
    Decision { outcome: why, ifindex: header.way.ifindex }
}

#[inline(always)]
fn headers<const N: usize>(view: &View<'_, N>, header: &Header) {
    const TTL: u8 = 64;
    const LEN: u16 = (TCP_END - 14) as u16;
    const TCP_LEN: u16 = 20;
    const PROTO: u8 = lb_common::abi::PROTO_TCP;
    const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
    view.set::<u32, 0>(header.way.macs[0]);
    view.set::<u32, 4>(header.way.macs[1]);
    view.set::<u32, 8>(header.way.macs[2]);

    let addresses = csum::sum32(header.src) + csum::sum32(header.dst);
    view.set::<u16, IP_VIHL>(0x4500_u16.to_be());
    view.set::<u16, IP_LEN>(LEN.to_be());
    view.set::<u16, IP_ID>(0);
    view.set::<u16, IP_FRAGS>(DONT_FRAGMENT);
    view.set::<u8, IP_TTL>(TTL);
    view.set::<u8, IP_PROTO>(PROTO);
    view.set::<u32, IP_SRC>(header.src);
    view.set::<u32, IP_DST>(header.dst);
    let fixed = 0x4500_u16.to_be() as u32
        + LEN.to_be() as u32
        + DONT_FRAGMENT as u32
        + (u16::from_be_bytes([TTL, PROTO])).to_be() as u32;
    view.set::<u16, IP_CHECK>(csum::finish(fixed + addresses));

    let offset_flags = u16::from_be_bytes([5 << 4, header.flags]).to_be();
    view.set::<u16, TCP_SRC>(header.sport);
    view.set::<u16, TCP_DST>(header.dport);
    view.set::<u32, TCP_SEQ>(header.seq.to_be());
    view.set::<u32, TCP_ACK>(header.ack.to_be());
    view.set::<u8, TCP_OFFSET>(5 << 4);
    view.set::<u8, TCP_FLAGS>(header.flags);
    view.set::<u16, TCP_WINDOW>(0);
    view.set::<u16, TCP_URGENT>(0);
    let sum = addresses
        + (PROTO as u16).to_be() as u32
        + TCP_LEN.to_be() as u32
        + header.sport as u32
        + header.dport as u32
        + csum::sum32(header.seq.to_be())
        + csum::sum32(header.ack.to_be())
        + offset_flags as u32;
    view.set::<u16, TCP_CHECK>(csum::finish(sum));
}
