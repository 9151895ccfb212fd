//! Offsets and fields of the headers we read.

use core::mem::offset_of;

use lb_common::abi::{Addr, Be16, FlowKey, ServiceKey, SourceKey};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{
    access::{Hook, NextHop, Packet, View, exchange_macs},
    family::Family,
    maps::Key,
};

pub const ETH_TYPE: usize = offset_of!(EthHdr, ether_type);
pub const ETH_LEN: usize = EthHdr::LEN;
/// Ethernet and IPv4 without options.
pub const IP4_END: usize = ETH_LEN + Ipv4Hdr::LEN;
/// Ethernet and IPv6 without extension headers.
pub const IP6_END: usize = ETH_LEN + Ipv6Hdr::LEN;
pub const TCP_LEN: usize = TcpHdr::LEN;

pub const IP_VIHL: usize = ETH_LEN + offset_of!(Ipv4Hdr, vihl);
pub const IP_TOS: usize = ETH_LEN + offset_of!(Ipv4Hdr, tos);
pub const IP_LEN: usize = ETH_LEN + offset_of!(Ipv4Hdr, tot_len);
pub const IP_ID: usize = ETH_LEN + offset_of!(Ipv4Hdr, id);
pub const IP_FRAGS: usize = ETH_LEN + offset_of!(Ipv4Hdr, frags);
pub const IP_TTL: usize = ETH_LEN + offset_of!(Ipv4Hdr, ttl);
pub const IP_PROTO: usize = ETH_LEN + offset_of!(Ipv4Hdr, proto);
pub const IP_CHECK: usize = ETH_LEN + offset_of!(Ipv4Hdr, check);
pub const IP_SRC: usize = ETH_LEN + offset_of!(Ipv4Hdr, src_addr);
pub const IP_DST: usize = ETH_LEN + offset_of!(Ipv4Hdr, dst_addr);

/// Version, traffic class and flow label.
pub const IP6_HEAD: usize = ETH_LEN;
pub const IP6_LEN: usize = ETH_LEN + offset_of!(Ipv6Hdr, payload_len);
pub const IP6_NEXT: usize = ETH_LEN + offset_of!(Ipv6Hdr, next_hdr);
pub const IP6_HOPS: usize = ETH_LEN + offset_of!(Ipv6Hdr, hop_limit);
pub const IP6_SRC: usize = ETH_LEN + offset_of!(Ipv6Hdr, src_addr);
pub const IP6_DST: usize = ETH_LEN + offset_of!(Ipv6Hdr, dst_addr);

// In the view of a TCP header.
pub const TCP_SRC: usize = offset_of!(TcpHdr, source);
pub const TCP_DST: usize = offset_of!(TcpHdr, dest);
pub const TCP_SEQ: usize = offset_of!(TcpHdr, seq);
pub const TCP_ACK: usize = offset_of!(TcpHdr, ack_seq);
pub const TCP_OFFSET: usize = offset_of!(TcpHdr, _bitfield_1);
pub const TCP_FLAGS: usize = TCP_OFFSET + 1;
pub const TCP_WINDOW: usize = offset_of!(TcpHdr, window);
pub const TCP_CHECK: usize = offset_of!(TcpHdr, check);
pub const TCP_URGENT: usize = offset_of!(TcpHdr, urg_ptr);

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Version 4, header of five words.
pub const PLAIN_IPV4: u8 = 0x45;
/// More fragments, or an offset.
pub const FRAGMENT: u16 = 0x3fff_u16.to_be();

/// A frame with all three headers.
pub struct Frame<'a, A: Family> {
    /// Ethernet and IP.
    pub ip: A::Ip<'a>,
    pub tcp: View<'a, TCP_LEN>,
}

/// A TCP segment in an unfragmented packet without IP options or extension headers.
pub struct Segment<A: Family> {
    /// Its tuple.
    pub key: A::Held<FlowKey<A>>,
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
pub fn segment<A: Family, H: Hook>(packet: &Packet<H>, frame: &Frame<'_, A>) -> Option<Segment<A>> {
    let Frame { ip, tcp } = frame;
    let ip_len = A::len(ip);
    let tcp_len = u32::from(tcp.get::<u8, TCP_OFFSET>() >> 4) * 4;
    let headers = A::HEADER + tcp_len;
    let len = ip_len + ETH_LEN as u32;
    if tcp_len < TCP_LEN as u32 || ip_len < headers {
        return None;
    }
    if len > packet.linear_len() && len > packet.full_len() {
        return None;
    }
    let flags = tcp.get::<u8, TCP_FLAGS>();
    let seq = u32::from_be(tcp.get::<u32, TCP_SEQ>());
    let payload = ip_len - headers;
    let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let [a, b, c] = A::macs(ip);
    let (sport, dport) = (tcp.get::<u16, TCP_SRC>(), tcp.get::<u16, TCP_DST>());
    let key = FlowKey::tcp((A::src(ip), sport), (A::dst(ip), dport));
    Some(Segment {
        key: A::hold_key(Key::Segment, key)?,
        flags,
        seq,
        ack: u32::from_be(tcp.get::<u32, TCP_ACK>()),
        seq_end: seq.wrapping_add(payload).wrapping_add(controls),
        len,
        back: NextHop { macs: exchange_macs(a, b, c), ifindex: packet.ifindex() },
    })
}

/// Tuple of the client's packets that `reply`, from a NAT real server, answers.
#[inline(always)]
pub fn client_key<A: Family>(
    reply: &FlowKey<A>,
    vip: &Addr,
    port: Be16,
) -> Option<A::Held<FlowKey<A>>> {
    let key =
        FlowKey { src: reply.dst, dst: A::of(vip), sport: reply.dport, dport: port, ..*reply };
    A::hold_key(Key::Client, key)
}

/// Tuple of the replies to `client`'s packets by a NAT real server.
#[inline(always)]
pub fn reply_key<A: Family>(
    client: &FlowKey<A>,
    addr: &Addr,
    port: Be16,
) -> Option<A::Held<FlowKey<A>>> {
    let key =
        FlowKey { src: A::of(addr), dst: client.src, sport: port, dport: client.sport, ..*client };
    A::hold_key(Key::Reply, key)
}

/// Virtual server that the client's packets are for.
#[inline(always)]
pub fn service_key<A: Family>(client: &FlowKey<A>) -> ServiceKey {
    ServiceKey::tcp(client.dst.wide(), client.dport)
}

/// Where a reply comes from.
#[inline(always)]
pub fn source_key<A: Family>(reply: &FlowKey<A>) -> SourceKey {
    SourceKey::tcp(reply.src.wide(), reply.sport)
}
