//! The TCP segments of the half-open probe: a SYN to send, and what a reply means.
//!
//! The probe never completes the handshake, so a server's `accept()` never fires and a MySQL
//! server counts no connect error. The kernel, which knows of no such connection, answers the
//! SYN/ACK with a RST by itself.

use std::net::{IpAddr, SocketAddr};

/// Length of [`syn`]'s segment: 20 bytes of header and the MSS option.
pub const SYN_LEN: usize = 24;

/// Flag bits.
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What the server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// SYN/ACK: somebody listens.
    Open,
    /// RST: nobody does.
    Refused,
}

/// One SYN from `from` to `to` with initial sequence number `seq`, checksum included.
/// `None` when the two addresses are not of one family.
pub fn syn(from: SocketAddr, to: SocketAddr, seq: u32) -> Option<[u8; SYN_LEN]> {
    let mut segment = [0; SYN_LEN];
    segment[0..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[12] = 6 << 4;
    segment[13] = SYN;
    segment[14..16].copy_from_slice(&64_240u16.to_be_bytes());
    // Option 2, length 4: the family's smallest MSS that everyone accepts.
    let mss: u16 = if from.is_ipv4() { 536 } else { 1220 };
    segment[20..22].copy_from_slice(&[2, 4]);
    segment[22..24].copy_from_slice(&mss.to_be_bytes());
    let checksum = checksum(from.ip(), to.ip(), &segment)?;
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    Some(segment)
}

/// Internet checksum of a TCP segment with its pseudo-header (RFC 9293 §3.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> Option<u16> {
    let mut sum = 6 + u64::try_from(segment.len()).ok()?;
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    };
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            add(&from.octets());
            add(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            add(&from.octets());
            add(&to.octets());
        }
        _ => return None,
    }
    add(segment);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).ok().map(|sum| !sum)
}

/// The TCP part of what a raw socket received: IPv4 comes with its header, IPv6 without.
pub fn tcp_part(packet: &[u8], v4: bool) -> Option<&[u8]> {
    if !v4 {
        return Some(packet);
    }
    let first = *packet.first()?;
    (first >> 4 == 4).then_some(())?;
    packet.get(usize::from(first & 0x0f) * 4..)
}

/// What a TCP segment from the server says about the SYN with `seq` from local `port` to the
/// server's `server_port`; `None`: not an answer to it.
pub fn reply(segment: &[u8], server_port: u16, port: u16, seq: u32) -> Option<Reply> {
    let header = segment.first_chunk::<20>()?;
    let at16 = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let ack = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let flags = header[13];
    if at16(0) != server_port || at16(2) != port || flags & ACK == 0 || ack != seq.wrapping_add(1) {
        return None;
    }
    if flags & RST != 0 {
        Some(Reply::Refused)
    } else if flags & SYN != 0 {
        Some(Reply::Open)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// A server's answer.
    fn answer(flags: u8, ack: u32) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[0..2].copy_from_slice(&3306u16.to_be_bytes());
        segment[2..4].copy_from_slice(&40000u16.to_be_bytes());
        segment[8..12].copy_from_slice(&ack.to_be_bytes());
        segment[12] = 5 << 4;
        segment[13] = flags;
        segment
    }

    #[test]
    fn syn_has_a_valid_checksum() {
        for (from, to) in
            [("192.0.2.1:40000", "192.0.2.9:3306"), ("[2001:db8::1]:40000", "[2001:db8::9]:3306")]
        {
            let (from, to) = (addr(from), addr(to));
            let segment = syn(from, to, 0xdead_beef).expect("one family");
            // Summed with its own checksum a good segment gives zero.
            assert_eq!(checksum(from.ip(), to.ip(), &segment), Some(0));
            assert_eq!(segment[13], SYN);
        }
        assert_eq!(syn(addr("192.0.2.1:1"), addr("[::1]:1"), 0), None);
    }

    #[test]
    fn replies() {
        let seq = u32::MAX; // the acknowledgement wraps
        assert_eq!(reply(&answer(SYN | ACK, 0), 3306, 40000, seq), Some(Reply::Open));
        assert_eq!(reply(&answer(RST | ACK, 0), 3306, 40000, seq), Some(Reply::Refused));
        for (segment, why) in [
            (answer(SYN | ACK, 7), "another sequence"),
            (answer(ACK, 0), "a bare ACK"),
            (answer(SYN, 0), "simultaneous open"),
            (answer(RST, 0), "a RST without ACK can be anyone's"),
        ] {
            assert_eq!(reply(&segment, 3306, 40000, seq), None, "{why}");
        }
        assert_eq!(reply(&answer(SYN | ACK, 0), 3307, 40000, seq), None);
        assert_eq!(reply(&answer(SYN | ACK, 0), 3306, 40001, seq), None);
    }

    #[test]
    fn ipv4_header_is_skipped() {
        let packet = [&[0x46u8; 1][..], &[0; 23], &answer(SYN | ACK, 1)].concat();
        assert_eq!(tcp_part(&packet, true).map(<[u8]>::len), Some(20));
        assert_eq!(tcp_part(&[0x60; 40], true), None);
        assert_eq!(tcp_part(&[], true), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), v4: bool, seq: u32) {
            if let Some(segment) = tcp_part(&bytes, v4) {
                let _ = reply(segment, 3306, 40000, seq);
            }
        }
    }
}
