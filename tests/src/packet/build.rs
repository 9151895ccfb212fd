//! Builds frames and reads them back through etherparse, whose checksums are not ours.
//!
//! Hosts are named by IPv4 addresses in either family: see [`host`].

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use etherparse::{
    EtherType, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice,
    checksum,
};

/// Address family of a packet suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Four,
    Six,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Four, Self::Six];

    /// [`host`] of this family.
    pub fn addr(self, name: Ipv4Addr) -> IpAddr {
        in_family(self, || host(name))
    }

    /// The same with the length of its network: IPv4's /24.
    pub fn on_link(self, name: Ipv4Addr) -> String {
        format!("{}/{}", self.addr(name), if self == Self::Six { 112 } else { 24 })
    }

    /// What a listener binds.
    pub fn any(self) -> IpAddr {
        match self {
            Self::Four => Ipv4Addr::UNSPECIFIED.into(),
            Self::Six => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// iproute2's option.
    pub fn option(self) -> &'static str {
        if self == Self::Six { "-6" } else { "-4" }
    }
}

thread_local! {
    static CHOSEN: Cell<Option<Family>> = const { Cell::new(None) };
}

/// Does something in a family.
pub fn in_family<T>(family: Family, work: impl FnOnce() -> T) -> T {
    let before = CHOSEN.replace(Some(family));
    let done = work();
    CHOSEN.set(before);
    done
}

/// That of [`in_family`], else that of this process: IPv6 in the binaries `xdp_six` and `tc_six`, which are every
/// suite once more.
pub fn family() -> Family {
    if let Some(family) = CHOSEN.get() {
        return family;
    }
    static SIX: LazyLock<bool> = LazyLock::new(|| {
        let binary = binary();
        ["xdp_six", "tc_six"].iter().any(|name| binary.starts_with(name))
    });
    if *SIX { Family::Six } else { Family::Four }
}

/// Whether packets go through tc's program: in binaries `tc_*`, which are every suite of XDP once more.
pub fn is_tc() -> bool {
    static TC: LazyLock<bool> = LazyLock::new(|| binary().starts_with("tc_"));
    *TC
}

fn binary() -> String {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether that is IPv6.
pub fn is_six() -> bool {
    family() == Family::Six
}

/// The address of a host that tests call by an IPv4 one. Of an IPv6 one each word depends on it, and what
/// differs in the last octet only is in one /120.
pub fn host(name: Ipv4Addr) -> IpAddr {
    let [a, b, c, d] = name.octets().map(u16::from);
    match family() {
        Family::Four => IpAddr::V4(name),
        Family::Six => IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0x0db8,
            a << 8 | b,
            0xbeef ^ a,
            !a,
            b << 8 | a,
            a << 8 | b,
            c << 8 | d,
        )),
    }
}

/// The host of an address that [`host`] made.
///
/// # Panics
/// When it is another address.
pub fn name(addr: IpAddr) -> Ipv4Addr {
    let name = match addr {
        IpAddr::V4(addr) => addr,
        IpAddr::V6(addr) => {
            let [.., a, b, c, d] = addr.octets();
            Ipv4Addr::new(a, b, c, d)
        }
    };
    assert_eq!(host(name), addr, "an address of no host");
    name
}

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
        let mut frame = Vec::new();
        ip_layer((self.from_mac, self.to_mac), self.src, self.dst, self.ttl)
            .tcp_header(header)
            .write(&mut frame, &self.payload)
            .expect("payload fits");
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
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP header") };
        let (src, dst, ttl): (IpAddr, IpAddr, u8) = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) if !is_six() => {
                let header = ip.header();
                assert_eq!(ethernet.ether_type(), EtherType::IPV4);
                assert_eq!(
                    header.header_checksum(),
                    header.to_header().calc_header_checksum(),
                    "IPv4 header checksum"
                );
                (header.source_addr().into(), header.destination_addr().into(), header.ttl())
            }
            Some(NetSlice::Ipv6(ip)) if is_six() => {
                let header = ip.header();
                assert_eq!(ethernet.ether_type(), EtherType::IPV6);
                assert!(ip.extensions().is_empty(), "no extension headers");
                (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
            }
            other => panic!("no IP header of {:?}: {other:?}", family()),
        };
        let segment = [tcp.header_slice(), tcp.payload()].concat();
        assert_eq!(
            sum_with_pseudo_header(src, dst, &segment),
            0,
            "TCP checksum {:#06x}",
            tcp.checksum()
        );
        Self {
            from_mac: ethernet.source(),
            to_mac: ethernet.destination(),
            src: name(src),
            dst: name(dst),
            sport: tcp.source_port(),
            dport: tcp.destination_port(),
            flags: tcp.header_slice()[13],
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            ttl,
            options: tcp.options().to_vec(),
            payload: tcp.payload().to_vec(),
        }
    }
}

/// Ones' complement of the sum over pseudo-header and segment: 0 when the checksum in it is right.
fn sum_with_pseudo_header(src: IpAddr, dst: IpAddr, segment: &[u8]) -> u16 {
    let octets = |addr| match addr {
        IpAddr::V4(addr) => Ipv4Addr::octets(&addr).to_vec(),
        IpAddr::V6(addr) => Ipv6Addr::octets(&addr).to_vec(),
    };
    checksum::Sum16BitWords::new()
        .add_slice(&octets(src))
        .add_slice(&octets(dst))
        .add_2bytes([0, 6])
        .add_2bytes((segment.len() as u16).to_be_bytes())
        .add_slice(segment)
        .ones_complement()
}

fn ip_layer(
    (from, to): ([u8; 6], [u8; 6]),
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(from, to);
    match (host(src), host(dst)) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), ttl),
        _ => ethernet.ipv4(src.octets(), dst.octets(), ttl),
    }
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

/// ICMP or ICMPv6 echo request.
///
/// # Panics
/// Never: the payload is short.
pub fn ping(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = ip_layer((GATEWAY_MAC, LB_MAC), src, dst, 64);
    match family() {
        Family::Four => ip.icmpv4_echo_request(7, 1).write(&mut frame, &[0; 32]),
        Family::Six => ip.icmpv6_echo_request(7, 1).write(&mut frame, &[0; 32]),
    }
    .expect("payload fits");
    frame
}

/// UDP datagram.
///
/// # Panics
/// Never: the payload is short.
pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    ip_layer((GATEWAY_MAC, LB_MAC), src.0, dst.0, 64)
        .udp(src.1, dst.1)
        .write(&mut frame, &[0; 32])
        .expect("payload fits");
    frame
}

/// Types of IPv6 extension headers (RFC 8200 §4, RFC 4302).
pub mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;
}

/// An IPv6 packet whose payload, of type `last`, stands behind `extensions` (type, bytes, a multiple of eight).
pub fn ipv6(
    (from, to): (Ipv6Addr, Ipv6Addr),
    extensions: &[(u8, usize)],
    last: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = [&LB_MAC[..], &GATEWAY_MAC, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    let length: usize = payload.len() + extensions.iter().map(|(_, len)| len).sum::<usize>();
    frame.extend((length as u16).to_be_bytes());
    let kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).chain([last]).collect();
    frame.extend([kinds[0], 255]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    for ((kind, len), next) in extensions.iter().zip(&kinds[1..]) {
        let mut header = vec![0; *len];
        header[0] = *next;
        header[1] = match *kind {
            extension::AUTHENTICATION => len / 4 - 2,
            _ => len / 8 - 1,
        } as u8;
        frame.extend(header);
    }
    frame.extend(payload);
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
