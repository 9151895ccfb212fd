//! TCP segments without data in the name of one end of a connection to the other: what TCP's keepalive
//! sends (RFC 9293 §3.8.4: one below the sequence number that the receiver expects), and RSTs. A receiver
//! of the first that has the connection answers with an acknowledgement, one that has not with a RST.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use lb_common::csum;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const TCP_LEN: usize = 20;
/// Shortest Ethernet frame without its check sequence.
const FRAME: usize = 60;
/// TTL and hop limit.
const HOPS: u8 = 64;
/// Flag of an acknowledgement.
pub const ACK: u8 = 0x10;
/// Flag of a reset.
pub const RST: u8 = 0x04;

/// What a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Both ends are of one address family.
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    /// [`ACK`] or [`RST`].
    pub flags: u8,
}

/// Raw sockets that send in other addresses' names. They never block.
#[derive(Debug)]
pub struct Nudger {
    four: Socket,
    /// `None` on a host without IPv6.
    six: Option<Socket>,
}

impl Nudger {
    /// Opens the sockets.
    ///
    /// # Errors
    /// The system call that failed. Needs CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        // IPPROTO_RAW: header included, and nothing is ever received.
        let open = |domain| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_nonblocking(true)?;
            io::Result::Ok(socket)
        };
        let six = match open(Domain::IPV6) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            other => Some(other?),
        };
        Ok(Self { four: open(Domain::IPV4)?, six })
    }

    /// Sends one segment from `from` to `to`; `seq` and `ack` are those of the server's segment
    /// that the client may be waiting for.
    ///
    /// # Errors
    /// No route, no room, or addresses of two families.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, seq: u32, ack: u32) -> io::Result<()> {
        let segment = Segment { from, to, seq: seq.wrapping_sub(1), ack, flags: ACK };
        let packet = packet(&segment);
        let socket = if to.is_ipv4() { Some(&self.four) } else { self.six.as_ref() };
        let (Some(socket), false) = (socket, packet.is_empty()) else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "no such address family"));
        };
        let target = SocketAddr::new(to.ip(), 0);
        socket.send_to(&packet, &SockAddr::from(target)).map(drop)
    }
}

/// An Ethernet frame with this segment, for whoever knows the way. `macs`: destination and source; `tunnel`: source and
/// destination of the packet that it goes inside of.
pub fn frame(macs: [u8; 12], tunnel: Option<(IpAddr, IpAddr)>, segment: &Segment) -> Vec<u8> {
    let mut packet = packet(segment);
    if let Some((from, to)) = tunnel {
        packet = [outer(from, to, &packet), packet].concat();
    }
    let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let kind: [u8; 2] = if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let mut frame = [&macs[..], &kind, &packet].concat();
    frame.resize(frame.len().max(FRAME), 0);
    frame
}

/// Header of a packet with `inner` in it, as the data plane's program writes it; nothing for addresses of two families.
fn outer(from: IpAddr, to: IpAddr, inner: &[u8]) -> Vec<u8> {
    let kind = if inner.first().is_some_and(|first| first >> 4 == 4) { 4 } else { 41 };
    let [high, low] = (inner.len() as u16).to_be_bytes();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (inner.len() as u16 + 20).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, HOPS, kind, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            let check = csum::finish(words(&header));
            header[10..12].copy_from_slice(&check.to_be_bytes());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, high, low, kind, HOPS];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        _ => Vec::new(),
    }
}

/// IP and TCP header; nothing for addresses of two families. A raw IPv4 socket fills in the identification,
/// and the IP checksum anew.
fn packet(segment: &Segment) -> Vec<u8> {
    let Segment { from, to, seq, ack, flags } = *segment;
    let tcp_kind = libc::IPPROTO_TCP as u8;
    let mut packet = Vec::with_capacity(60);
    let addresses = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x45, 0, 0, (20 + TCP_LEN) as u8, 0, 0, 0, 0, HOPS, tcp_kind, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            let check = csum::finish(words(&packet));
            packet[10..12].copy_from_slice(&check.to_be_bytes());
            words(&from.octets()) + words(&to.octets())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0, 0, TCP_LEN as u8, tcp_kind, HOPS]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            words(&from.octets()) + words(&to.octets())
        }
        _ => return packet,
    };
    let mut tcp = [0; TCP_LEN];
    tcp[0..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = flags;
    // Below the pseudo-header: protocol and length.
    let check = csum::finish(addresses + u32::from(tcp_kind) + TCP_LEN as u32 + words(&tcp));
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    packet.extend(tcp);
    packet
}

/// Sum of 16-bit words, which the one's complement is taken of.
fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(from: &str, to: &str, flags: u8) -> Segment {
        let (from, to) = (from.parse().expect("socket"), to.parse().expect("socket"));
        Segment { from, to, seq: 0x0102_0304, ack: 9, flags }
    }

    fn four(flags: u8) -> Segment {
        segment("192.0.2.1:3306", "192.0.2.99:40000", flags)
    }

    fn six(flags: u8) -> Segment {
        segment("[2001:db8::1]:3306", "[2001:db8::99]:40000", flags)
    }

    /// A receiver's sum over segment and pseudo-header, which comes out as zero.
    fn sum(addresses: &[u8], tcp: &[u8]) -> u16 {
        csum::finish(words(addresses) + 6 + tcp.len() as u32 + words(tcp))
    }

    #[test]
    fn the_segment_is_a_keepalive() {
        let packet = packet(&four(ACK));
        assert_eq!(packet[..4], [0x45, 0, 0, 40]);
        assert_eq!(packet[8..10], [64, 6]);
        assert_eq!(packet[12..20], [192, 0, 2, 1, 192, 0, 2, 99]);
        assert_eq!(packet[20..24], [0x0c, 0xea, 0x9c, 0x40]);
        assert_eq!(packet[24..32], [1, 2, 3, 4, 0, 0, 0, 9]);
        assert_eq!(packet[32..36], [0x50, ACK, 0, 0]);
        assert_eq!(packet.len(), 40);
        assert_eq!(sum(&packet[12..20], &packet[20..]), 0);
    }

    #[test]
    fn and_so_it_is_over_ipv6() {
        let packet = packet(&six(ACK));
        assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 20, 6, 64]);
        assert_eq!((packet[8..12].to_vec(), packet[23]), (vec![0x20, 1, 0x0d, 0xb8], 1));
        assert_eq!((packet[24..28].to_vec(), packet[39]), (vec![0x20, 1, 0x0d, 0xb8], 0x99));
        assert_eq!(packet[40..56], self::packet(&four(ACK))[20..36], "the same TCP");
        assert_eq!(packet.len(), 60);
        assert_eq!(sum(&packet[8..40], &packet[40..]), 0);
    }

    #[test]
    fn a_frame_is_whole() {
        let macs = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let whole = frame(macs, None, &four(RST));
        assert_eq!((&whole[..12], &whole[12..14]), (&macs[..], &[8, 0][..]));
        assert_eq!(whole[14..54], packet(&four(RST)));
        assert_eq!(whole[54..], [0; 6], "up to the shortest frame");
        assert_eq!(csum::finish(words(&whole[14..34])), 0, "no kernel fills it in here");
        assert_eq!(whole[14 + 33], RST);
        let whole = frame(macs, None, &six(RST));
        assert_eq!((&whole[..12], &whole[12..14]), (&macs[..], &[0x86, 0xdd][..]));
        assert_eq!(whole[14..], packet(&six(RST)));
        assert_eq!(whole[14 + 53], RST);
    }

    #[test]
    fn a_tunnel_is_one_more_header() {
        let ends = |from: &str, to: &str| {
            Some((from.parse::<IpAddr>().expect("ip"), to.parse::<IpAddr>().expect("ip")))
        };
        let (v4, v6) = (ends("10.0.0.1", "10.0.0.2"), ends("2001:db8::a", "2001:db8::b"));
        for (inner, kind) in [(four(RST), 4), (six(RST), 41)] {
            let packet = packet(&inner);
            let whole = frame([0; 12], v4, &inner);
            assert_eq!(whole[12..16], [8, 0, 0x45, 0]);
            assert_eq!(whole[16..18], (packet.len() as u16 + 20).to_be_bytes());
            assert_eq!(whole[18..24], [0, 0, 0x40, 0, 64, kind]);
            assert_eq!(whole[26..34], [10, 0, 0, 1, 10, 0, 0, 2]);
            assert_eq!(csum::finish(words(&whole[14..34])), 0);
            assert_eq!(whole[34..], packet);
            let whole = frame([0; 12], v6, &inner);
            assert_eq!(whole[12..18], [0x86, 0xdd, 0x60, 0, 0, 0]);
            assert_eq!(whole[18..20], (packet.len() as u16).to_be_bytes());
            assert_eq!((whole[20], whole[21], whole[37], whole[53]), (kind, 64, 0xa, 0xb));
            assert_eq!(whole[54..], packet);
        }
    }

    #[test]
    fn addresses_of_two_families_make_no_segment() {
        let mixed = segment("192.0.2.1:3306", "[2001:db8::99]:40000", ACK);
        assert!(packet(&mixed).is_empty());
    }
}
