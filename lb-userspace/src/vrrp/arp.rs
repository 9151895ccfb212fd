//! Gratuitous ARP in bytes (RFC 826, RFC 5227 §1.1): the request form that keepalived sends.

use std::net::Ipv4Addr;

use crate::base::net::Mac;

/// Bytes of an Ethernet frame that carries ARP for IPv4, without padding.
pub const FRAME_LEN: usize = 42;

/// Broadcast request with sender and target address = `vip`, target MAC all ones.
pub fn gratuitous(mac: Mac, vip: Ipv4Addr) -> [u8; FRAME_LEN] {
    let mut frame = [0xff; FRAME_LEN];
    let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
    put(6, &mac.0);
    put(12, &[0x08, 0x06]); // EtherType ARP
    put(14, &[0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x01]); // Ethernet, IPv4, sizes, request
    put(22, &mac.0);
    put(28, &vip.octets());
    put(38, &vip.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vrrp::wire::vectors;

    #[test]
    fn equals_the_golden_frame() {
        let frame = gratuitous(Mac([2, 0, 0, 0x77, 0, 1]), Ipv4Addr::new(10, 77, 0, 100));
        assert_eq!(frame.as_slice(), vectors::frame("garp"));
    }
}
