//! Makes the client of a connection speak, by the segment that TCP's keepalive sends (RFC 9293
//! §3.8.4): empty, one below the sequence number that the client expects. A client that has the
//! connection answers with an acknowledgement, one that has not with a RST.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
};

use lb_common::csum;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const LEN: usize = 40;
const ACK: u8 = 0x10;

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
        let packet = packet(from, to, seq.wrapping_sub(1), ack);
        let target = SocketAddr::new(IpAddr::V4(*to.ip()), 0);
        self.socket.send_to(&packet, &SockAddr::from(target)).map(drop)
    }
}

/// IPv4 and TCP header. Identification and IP checksum are the kernel's to fill in.
fn packet(from: SocketAddrV4, to: SocketAddrV4, seq: u32, ack: u32) -> [u8; LEN] {
    let mut packet = [0; LEN];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(LEN as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = libc::IPPROTO_TCP as u8;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    let tcp = &mut packet[20..];
    tcp[0..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = ACK;
    let check = checksum(*from.ip(), *to.ip(), tcp);
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    packet
}

fn checksum(from: Ipv4Addr, to: Ipv4Addr, tcp: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    let pseudo = words(&from.octets()) + words(&to.octets()) + 6 + tcp.len() as u32;
    csum::finish(pseudo + words(tcp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_is_a_keepalive() {
        let (from, to) = ("192.0.2.1:3306", "192.0.2.99:40000");
        let packet = packet(from.parse().expect("v4"), to.parse().expect("v4"), 0x0102_0304, 9);
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
}
