//! Turns a packet in place into a RST that its receiver must believe.
//!
//! RFC 5961 wants the exact sequence number that the receiver expects next. For a RST that answers
//! a segment this is the segment's acknowledgement number; for one that takes the place of a
//! server's segment it is that segment's own sequence number.

use lb_common::{
    abi::{Addr, Be16, PROTO_TCP},
    csum,
    verdict::Outcome::{self, ResetFailed},
};

use crate::{
    Decision,
    access::{Hook, NextHop, Packet},
    family::Family,
    parse::{
        ACK, ETH_LEN, Frame, IP4_END, RST, SYN, Segment, TCP_ACK, TCP_CHECK, TCP_DST, TCP_FLAGS,
        TCP_LEN, TCP_OFFSET, TCP_SEQ, TCP_SRC, TCP_URGENT, TCP_WINDOW,
    },
};

/// Shortest Ethernet frame without its check sequence. An IPv4 RST is shorter, so what follows it in a
/// frame of this length is zeroed rather than cut off.
const MIN_FRAME: usize = 60;
/// Where an IPv4 RST ends.
const END4: usize = IP4_END + TCP_LEN;

struct Header<A> {
    way: NextHop,
    src: A,
    dst: A,
    sport: Be16,
    dport: Be16,
    seq: u32,
    ack: u32,
    flags: u8,
}

/// Answers the client's segment. The caller has seen that it is no RST.
#[inline(always)]
pub fn to_sender<A: Family, H: Hook>(
    packet: &mut Packet<H>,
    segment: &Segment<A>,
    why: Outcome,
) -> Decision {
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
pub fn to_client<A: Family, H: Hook>(
    packet: &mut Packet<H>,
    segment: &Segment<A>,
    vip: &Addr,
    port: Be16,
    way: NextHop,
    why: Outcome,
) -> Decision {
    let syn = segment.flags & SYN != 0;
    let key = &segment.key;
    let header = Header {
        way,
        src: A::of(vip),
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
fn write<A: Family, H: Hook>(packet: &mut Packet<H>, header: &Header<A>, why: Outcome) -> Decision {
    let len = packet.full_len();
    let end = ETH_LEN as u32 + A::HEADER + TCP_LEN as u32;
    let Some(frame) = A::frame(packet) else { return Decision::of(ResetFailed) };
    let sums = headers(&frame, header);
    // What a partial checksum is, and what the helper makes a complete one of.
    let correction = if H::BY_HELPER {
        frame.tcp.set::<u16, TCP_CHECK>(csum::fold(sums.pseudo));
        csum::fold(sums.pseudo + sums.all())
    } else {
        frame.tcp.set::<u16, TCP_CHECK>(csum::finish(sums.all()));
        0
    };
    let kept = if end < MIN_FRAME as u32
        && let Some(view) = packet.view::<MIN_FRAME>()
    {
        // What is left of the sender's payload.
        view.set::<u16, END4>(0);
        view.set::<u32, { END4 + 2 }>(0);
        MIN_FRAME as u32
    } else {
        end
    };
    let check = ETH_LEN as u32 + A::HEADER + TCP_CHECK as u32;
    if !packet.trim(len, kept) || !packet.correct(check, 0, correction, A::BALANCED) {
        return Decision::of(ResetFailed);
    }
    A::resum(packet);
    Decision { outcome: why, ifindex: header.way.ifindex }
}

/// Of 16-bit words, not folded.
struct Sums {
    /// The pseudo header.
    pseudo: u32,
    /// The TCP header without its checksum.
    tcp: u32,
}

impl Sums {
    #[inline(always)]
    const fn all(&self) -> u32 {
        self.pseudo + self.tcp
    }
}

/// Writes everything but the TCP checksum.
#[inline(always)]
fn headers<A: Family>(frame: &Frame<'_, A>, header: &Header<A>) -> Sums {
    let Frame { ip, tcp } = frame;
    A::set_macs(ip, header.way.macs);
    let addresses = A::write(ip, header.src, header.dst);
    let offset_flags = u16::from_be_bytes([5 << 4, header.flags]).to_be();
    tcp.set::<u16, TCP_SRC>(header.sport);
    tcp.set::<u16, TCP_DST>(header.dport);
    tcp.set::<u32, TCP_SEQ>(header.seq.to_be());
    tcp.set::<u32, TCP_ACK>(header.ack.to_be());
    tcp.set::<u8, TCP_OFFSET>(5 << 4);
    tcp.set::<u8, TCP_FLAGS>(header.flags);
    tcp.set::<u16, TCP_WINDOW>(0);
    tcp.set::<u16, TCP_URGENT>(0);
    let pseudo = addresses + (PROTO_TCP as u16).to_be() as u32 + (TCP_LEN as u16).to_be() as u32;
    let tcp = header.sport as u32
        + header.dport as u32
        + csum::sum32(header.seq.to_be())
        + csum::sum32(header.ack.to_be())
        + offset_flags as u32;
    Sums { pseudo, tcp }
}
