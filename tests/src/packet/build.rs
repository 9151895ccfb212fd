//! Builds frames and reads them back through etherparse, whose checksums are not ours.

use std::net::Ipv4Addr;

use etherparse::{
    EtherType, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, checksum,
};

/// MAC address of an end: 02:00:00:00:00:NN.
pub const fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

/// The load balancer's own MAC address.
pub const LB_MAC: [u8; 6] = mac(1);
/// Where clients' frames come from: their gateway.
pub const GATEWAY_MAC: [u8; 6] = mac(2);

/// FIN, SYN, RST, PSH, ACK as bits of the TCP header.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// A TCP segment in an Ethernet frame, before it is built or after it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub sport: u16,
    pub dport: u16,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub ttl: u8,
    /// Raw TCP options, a multiple of four bytes.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Tcp {
    /// A segment from the client side.
    pub fn new(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8) -> Self {
        Self {
            from_mac: GATEWAY_MAC,
            to_mac: LB_MAC,
            src: src.0,
            dst: dst.0,
            sport: src.1,
            dport: dst.1,
            flags,
            seq: 0x1000_0000,
            ack: if flags & ACK != 0 { 0x7fff_fff0 } else { 0 },
            ttl: 61,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// With a payload.
    #[must_use]
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }

    /// With sequence and acknowledgement numbers.
    #[must_use]
    pub fn numbers(mut self, seq: u32, ack: u32) -> Self {
        (self.seq, self.ack) = (seq, ack);
        self
    }

    /// With the TCP options of a usual SYN (MSS, SACK, timestamps, window scale).
    #[must_use]
    pub fn syn_options(mut self) -> Self {
        self.options = vec![2, 4, 5, 180, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];
        self
    }

    /// The frame, with right checksums.
    ///
    /// # Panics
    /// When the options are no whole number of words or the payload is too long.
    pub fn frame(&self) -> Vec<u8> {
        let mut header = TcpHeader::new(self.sport, self.dport, self.seq, 4096);
        header.acknowledgment_number = self.ack;
        header.fin = self.flags & FIN != 0;
        header.syn = self.flags & SYN != 0;
        header.rst = self.flags & RST != 0;
        header.psh = self.flags & PSH != 0;
        header.ack = self.flags & ACK != 0;
        header.set_options_raw(&self.options).expect("whole words of options");
        let builder = PacketBuilder::ethernet2(self.from_mac, self.to_mac)
            .ipv4(self.src.octets(), self.dst.octets(), self.ttl)
            .tcp_header(header);
        let mut frame = Vec::new();
        builder.write(&mut frame, &self.payload).expect("payload fits");
        frame
    }

    /// Reads a frame, and verifies both checksums over the bytes as they stand.
    ///
    /// # Panics
    /// When the frame is no TCP segment or a checksum is wrong: every caller is a test that wants a right one.
    pub fn read(frame: &[u8]) -> Self {
        let sliced = SlicedPacket::from_ethernet(frame).expect("a readable frame");
        let ethernet = match &sliced.link {
            Some(etherparse::LinkSlice::Ethernet2(ethernet)) => ethernet.clone(),
            other => panic!("no Ethernet header: {other:?}"),
        };
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4 header") };
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP header") };
        let header = ip.header();
        assert_eq!(ethernet.ether_type(), EtherType::IPV4);
        assert_eq!(
            header.header_checksum(),
            header.to_header().calc_header_checksum(),
            "IPv4 header checksum"
        );
        let segment = [tcp.header_slice(), tcp.payload()].concat();
        assert_eq!(
            sum_with_pseudo_header(header.source(), header.destination(), &segment),
            0,
            "TCP checksum {:#06x}",
            tcp.checksum()
        );
        Self {
            from_mac: ethernet.source(),
            to_mac: ethernet.destination(),
            src: header.source_addr(),
            dst: header.destination_addr(),
            sport: tcp.source_port(),
            dport: tcp.destination_port(),
            flags: tcp.header_slice()[13],
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            ttl: header.ttl(),
            options: tcp.options().to_vec(),
            payload: tcp.payload().to_vec(),
        }
    }
}

/// Ones' complement of the sum over pseudo-header and segment: 0 when the checksum in it is right.
fn sum_with_pseudo_header(src: [u8; 4], dst: [u8; 4], segment: &[u8]) -> u16 {
    checksum::Sum16BitWords::new()
        .add_4bytes(src)
        .add_4bytes(dst)
        .add_2bytes([0, 6])
        .add_2bytes((segment.len() as u16).to_be_bytes())
        .add_slice(segment)
        .ones_complement()
}

/// ARP frame: who has `target`, asked (or announced) by `sender`.
pub fn arp(operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [[0xff; 6], GATEWAY_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(GATEWAY_MAC);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame.resize(60, 0);
    frame
}

/// ICMP echo request.
///
/// # Panics
/// Never: the payload is short.
pub fn ping(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GATEWAY_MAC, LB_MAC)
        .ipv4(src.octets(), dst.octets(), 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, &[0; 32])
        .expect("payload fits");
    frame
}

/// UDP datagram.
///
/// # Panics
/// Never: the payload is short.
pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GATEWAY_MAC, LB_MAC)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .udp(src.1, dst.1)
        .write(&mut frame, &[0; 32])
        .expect("payload fits");
    frame
}

/// The frame with an IEEE 802.1Q tag.
pub fn vlan(frame: &[u8], id: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0]);
    tagged.extend(id.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

/// The frame with changed bytes of its IP header, whose checksum is made right again.
///
/// # Panics
/// When the frame has no IPv4 header of five words at byte 14.
pub fn with_ip(frame: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let header = &mut frame[14..34];
    change(header);
    header[10..12].fill(0);
    let sum = checksum::Sum16BitWords::new().add_slice(header).ones_complement();
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
    frame
}

/// The frame with four bytes of IP options (no-operations) put in.
///
/// # Panics
/// As [`with_ip`].
pub fn with_ip_options(frame: &[u8]) -> Vec<u8> {
    let mut longer = frame[..34].to_vec();
    longer.extend([1, 1, 1, 0]);
    longer.extend(&frame[34..]);
    longer[14] = 0x46;
    let total = u16::from_be_bytes([longer[16], longer[17]]) + 4;
    longer[16..18].copy_from_slice(&total.to_be_bytes());
    longer[24..26].fill(0);
    let sum = checksum::Sum16BitWords::new().add_slice(&longer[14..38]).ones_complement();
    longer[24..26].copy_from_slice(&sum.to_ne_bytes());
    longer
}
