//! Offsets and fields of the headers we read.

use core::mem::offset_of;

use lb_common::abi::{Be16, Be32, FlowKey4, PROTO_TCP, SourceKey};
use network_types::{eth::EthHdr, ip::Ipv4Hdr, tcp::TcpHdr};

use crate::access::{NextHop, Packet, View, exchange_macs};

/// Ethernet and IPv4 without options.
pub const IP_END: usize = EthHdr::LEN + Ipv4Hdr::LEN;
/// And TCP without options.
pub const TCP_END: usize = IP_END + TcpHdr::LEN;

pub const ETH_TYPE: usize = offset_of!(EthHdr, ether_type);
pub const ETH_LEN: u32 = EthHdr::LEN as u32;
const IP: usize = EthHdr::LEN;
pub const IP_VIHL: usize = IP + offset_of!(Ipv4Hdr, vihl);
pub const IP_LEN: usize = IP + offset_of!(Ipv4Hdr, tot_len);
pub const IP_ID: usize = IP + offset_of!(Ipv4Hdr, id);
pub const IP_FRAGS: usize = IP + offset_of!(Ipv4Hdr, frags);
pub const IP_TTL: usize = IP + offset_of!(Ipv4Hdr, ttl);
pub const IP_PROTO: usize = IP + offset_of!(Ipv4Hdr, proto);
pub const IP_CHECK: usize = IP + offset_of!(Ipv4Hdr, check);
pub const IP_SRC: usize = IP + offset_of!(Ipv4Hdr, src_addr);
pub const IP_DST: usize = IP + offset_of!(Ipv4Hdr, dst_addr);
const TCP: usize = IP_END;
pub const TCP_SRC: usize = TCP + offset_of!(TcpHdr, source);
pub const TCP_DST: usize = TCP + offset_of!(TcpHdr, dest);
pub const TCP_SEQ: usize = TCP + offset_of!(TcpHdr, seq);
pub const TCP_ACK: usize = TCP + offset_of!(TcpHdr, ack_seq);
pub const TCP_OFFSET: usize = TCP + offset_of!(TcpHdr, _bitfield_1);
pub const TCP_FLAGS: usize = TCP_OFFSET + 1;
pub const TCP_WINDOW: usize = TCP + offset_of!(TcpHdr, window);
pub const TCP_CHECK: usize = TCP + offset_of!(TcpHdr, check);
pub const TCP_URGENT: usize = TCP + offset_of!(TcpHdr, urg_ptr);

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Version 4, header of five words.
pub const PLAIN_IPV4: u8 = 0x45;
/// More fragments, or an offset.
pub const FRAGMENT: u16 = 0x3fff_u16.to_be();

/// View of a frame with all three headers.
pub type TcpView<'a> = View<'a, TCP_END>;

/// A TCP segment in an unfragmented IPv4 packet without options.
pub struct Segment {
    /// Its tuple.
    pub key: FlowKey4,
    /// FIN, SYN, RST, ACK and the rest, as in the header.
    pub flags: u8,
    /// Sequence number, host order.
    pub seq: u32,
    /// Acknowledgement number, host order.
    pub ack: u32,
    /// Sequence number that follows the segment.
    pub seq_end: u32,
    /// Frame length that the IP header states.
    pub len: u32,
    /// The interface and MAC words that answer the sender.
    pub back: NextHop,
}

/// Reads the segment; `None` when its lengths contradict each other.
#[inline(always)]
pub fn segment(packet: &Packet, view: &TcpView<'_>) -> Option<Segment> {
    let ip_len = u32::from(u16::from_be(view.get::<u16, IP_LEN>()));
    let tcp_len = u32::from(view.get::<u8, TCP_OFFSET>() >> 4) * 4;
    let headers = Ipv4Hdr::LEN as u32 + tcp_len;
    let len = ip_len + EthHdr::LEN as u32;
    if tcp_len < TcpHdr::LEN as u32 || ip_len < headers {
        return None;
    }
    if len > packet.linear_len() && len > packet.full_len() {
        return None;
    }
    let flags = view.get::<u8, TCP_FLAGS>();
    let seq = u32::from_be(view.get::<u32, TCP_SEQ>());
    let payload = ip_len - headers;
    let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    Some(Segment {
        key: key(view),
        flags,
        seq,
        ack: u32::from_be(view.get::<u32, TCP_ACK>()),
        seq_end: seq.wrapping_add(payload).wrapping_add(controls),
        len,
        back: NextHop {
            macs: exchange_macs(view.get::<u32, 0>(), view.get::<u32, 4>(), view.get::<u32, 8>()),
            ifindex: packet.ifindex(),
        },
    })
}

#[inline(always)]
fn key(view: &TcpView<'_>) -> FlowKey4 {
    FlowKey4 {
        src: view.get::<u32, IP_SRC>(),
        dst: view.get::<u32, IP_DST>(),
        sport: view.get::<u16, TCP_SRC>(),
        dport: view.get::<u16, TCP_DST>(),
        proto: PROTO_TCP as u16,
        pad: 0,
    }
}

/// Tuple of the client's packets that `reply`, from a NAT real server, answers.
#[inline(always)]
pub fn client_key(reply: &FlowKey4, vip: Be32, port: Be16) -> FlowKey4 {
    FlowKey4 { src: reply.dst, dst: vip, sport: reply.dport, dport: port, ..*reply }
}

/// Tuple of the replies to `client`'s packets by a NAT real server.
#[inline(always)]
pub fn reply_key(client: &FlowKey4, addr: Be32, port: Be16) -> FlowKey4 {
    FlowKey4 { src: addr, dst: client.src, sport: port, dport: client.sport, ..*client }
}

/// Where a reply comes from.
#[inline(always)]
pub fn source_key(reply: &FlowKey4) -> SourceKey {
    SourceKey { addr: reply.src, port: reply.sport, proto: PROTO_TCP, pad: 0 }
}
