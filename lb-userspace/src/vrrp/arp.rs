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

/// Broadcast probe (RFC 5227 §2.1.1): asks who has `vip` without saying that we do.
pub fn probe(mac: Mac, vip: Ipv4Addr) -> [u8; FRAME_LEN] {
    let mut frame = gratuitous(mac, vip);
    frame[28..32].fill(0);
    frame[32..38].fill(0);
    frame
}

/// Who says that it has which address: sender of a request or a reply, an untagged Ethernet frame.
/// `None` for everything else, probes included.
pub fn claim(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let (head, operation) = (frame.get(12..20)?, frame.get(20..22)?);
    let arp = head == [0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4];
    let mac = Mac(frame.get(22..28)?.try_into().ok()?);
    let address: [u8; 4] = frame.get(28..32)?.try_into().ok()?;
    let said = matches!(operation, [0, 1 | 2]) && address != [0; 4] && mac.0[0] & 1 == 0;
    (arp && said && frame.len() >= FRAME_LEN).then_some((mac, address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vrrp::wire::vectors;

    // NBR-04
    #[test]
    fn equals_the_golden_frame() {
        let frame = gratuitous(Mac([2, 0, 0, 0x77, 0, 1]), Ipv4Addr::new(10, 77, 0, 100));
        assert_eq!(frame.as_slice(), vectors::frame("garp"));
        // NBR-01: the same from the virtual router's own MAC.
        let frame = gratuitous(Mac([0, 0, 0x5e, 0, 1, 0x33]), Ipv4Addr::new(10, 77, 0, 100));
        let golden = include_str!("vectors/garp-vmac.hex").trim();
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
    }

    #[test]
    fn claims_are_read_from_whole_frames_and_probes_claim_nothing() {
        let (mac, vip) = (Mac([2, 0, 0, 0x77, 0, 1]), Ipv4Addr::new(10, 77, 0, 100));
        let mut frame = gratuitous(mac, vip);
        assert_eq!(claim(&frame), Some((mac, vip)));
        for len in 0..FRAME_LEN {
            assert_eq!(claim(&frame[..len]), None, "{len} bytes");
        }
        assert_eq!(claim(&probe(mac, vip)), None);
        assert_eq!(probe(mac, vip)[38..42], vip.octets());
        frame[21] = 2;
        assert_eq!(claim(&frame), Some((mac, vip)), "a reply");
        for (at, value) in [(12, 0x86), (14, 1), (18, 8), (21, 3), (22, 1)] {
            let mut other = frame;
            other[at] = value;
            assert_eq!(claim(&other), None, "byte {at}");
        }
    }
}
