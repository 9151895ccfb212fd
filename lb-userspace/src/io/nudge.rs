//! TCP segments without data in the name of one end of a connection to the other: what TCP's keepalive
//! sends (RFC 9293 §3.8.4: one below the sequence number that the receiver expects), and RSTs. A receiver
//! of the first that has the connection answers with an acknowledgement, one that has not with a RST.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
};

use lb_common::csum;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const LEN: usize = 40;
/// Shortest Ethernet frame without its check sequence.
const FRAME: usize = 60;
const ETH_LEN: usize = 14;
/// Flag of an acknowledgement.
pub const ACK: u8 = 0x10;
/// Flag of a reset.
pub const RST: u8 = 0x04;

/// What a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub seq: u32,
    pub ack: u32,
    /// [`ACK`] or [`RST`].
    pub flags: u8,
}

/// A raw socket that sends in other addresses' names. Never blocks.
#[derive(Debug)]
pub struct Nudger {
    socket: Socket,
}

impl Nudger {
    /// Opens the socket.
    ///
    /// # Errors
    /// The system call that failed. Needs CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        // IPPROTO_RAW: header included, and nothing is ever received.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Sends one segment from `from` to `to`; `seq` and `ack` are those of the server's segment
    /// that the client may be waiting for.
    ///
    /// # Errors
    /// No route, no room, or addresses other than IPv4.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, seq: u32, ack: u32) -> io::Result<()> {
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only IPv4 so far"));
        };
        let packet = packet(&Segment { from, to, seq: seq.wrapping_sub(1), ack, flags: ACK });
        let target = SocketAddr::new(IpAddr::V4(*to.ip()), 0);
        self.socket.send_to(&packet, &SockAddr::from(target)).map(drop)
    }
}

/// An Ethernet frame with this segment, for whoever knows the way. `macs`: destination and source.
pub fn frame(macs: [u8; 12], segment: &Segment) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..12].copy_from_slice(&macs);
    frame[12..ETH_LEN].copy_from_slice(&[0x08, 0x00]);
    frame[ETH_LEN..ETH_LEN + LEN].copy_from_slice(&packet(segment));
    frame
}

/// IPv4 and TCP header. A raw IP socket fills in the identification, and the IP checksum anew.
fn packet(segment: &Segment) -> [u8; LEN] {
    let Segment { from, to, seq, ack, flags } = *segment;
    let mut packet = [0; LEN];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(LEN as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = libc::IPPROTO_TCP as u8;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    let check = csum::finish(words(&packet[..20]));
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    let tcp = &mut packet[20..];
    tcp[0..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = flags;
    let check = checksum(*from.ip(), *to.ip(), tcp);
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    packet
}

fn checksum(from: Ipv4Addr, to: Ipv4Addr, tcp: &[u8]) -> u16 {
    let pseudo = words(&from.octets()) + words(&to.octets()) + 6 + tcp.len() as u32;
    csum::finish(pseudo + words(tcp))
}

/// Sum of 16-bit words, which the one's complement is taken of.
fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8) -> Segment {
        let (from, to) = ("192.0.2.1:3306", "192.0.2.99:40000");
        let (from, to) = (from.parse().expect("v4"), to.parse().expect("v4"));
        Segment { from, to, seq: 0x0102_0304, ack: 9, flags }
    }

    #[test]
    fn the_segment_is_a_keepalive() {
        let packet = packet(&segment(ACK));
        assert_eq!(packet[..4], [0x45, 0, 0, 40]);
        assert_eq!(packet[8..10], [64, 6]);
        assert_eq!(packet[12..20], [192, 0, 2, 1, 192, 0, 2, 99]);
        assert_eq!(packet[20..24], [0x0c, 0xea, 0x9c, 0x40]);
        assert_eq!(packet[24..32], [1, 2, 3, 4, 0, 0, 0, 9]);
        assert_eq!(packet[32..36], [0x50, ACK, 0, 0]);
        // A receiver's sum over segment and pseudo-header comes out as zero.
        let sum = checksum([192, 0, 2, 1].into(), [192, 0, 2, 99].into(), &packet[20..]);
        assert_eq!(sum, 0);
    }

    #[test]
    fn a_frame_is_whole() {
        let macs = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let frame = frame(macs, &segment(RST));
        assert_eq!((&frame[..12], &frame[12..14]), (&macs[..], &[8, 0][..]));
        assert_eq!(frame[14..54], packet(&segment(RST)));
        assert_eq!(frame[54..], [0; 6], "up to the shortest frame");
        assert_eq!(csum::finish(words(&frame[14..34])), 0, "no kernel fills it in here");
        assert_eq!(frame[14 + 33], RST);
    }
}
