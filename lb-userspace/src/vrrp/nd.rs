//! Neighbour advertisements in bytes (RFC 4861 §4.4, §7.2.6; RFC 9568 §8.2.1), and the question who has a VIP.

use std::net::Ipv6Addr;

use lb_common::csum;

use crate::base::net::Mac;

/// Bytes of an Ethernet frame with the advertisement and its target link-layer address option.
pub const FRAME_LEN: usize = 86;

/// Override: whoever knows another link-layer address of the target takes this one.
const OVERRIDE: u8 = 0x20;
/// The sender is a router.
const ROUTER: u8 = 0x80;
const ICMPV6: u8 = 58;
/// Where the ICMPv6 message begins.
const MESSAGE: usize = 54;
/// Where the address that it is about stands.
const TARGET: usize = MESSAGE + 8;

/// Tells all nodes (ff02::1) that `vip` is at `mac`. `router` sets R, as keepalived does on a host
/// that forwards IPv6 (deviates: RFC 9568 §6.4 sets it always; hosts take a node without it out of
/// their default routers).
pub fn advertisement(mac: Mac, vip: Ipv6Addr, router: bool) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x33, 0x33, 0, 0, 0, 1]);
    put(6, &mac.0);
    put(12, &[0x86, 0xdd]); // EtherType IPv6
    put(14, &[0x60, 0, 0, 0, 0, 32, ICMPV6, 255]); // version, payload length, hop limit
    put(22, &vip.octets());
    put(38, &Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    put(MESSAGE, &[136, 0]); // neighbour advertisement
    put(MESSAGE + 4, &[if router { ROUTER | OVERRIDE } else { OVERRIDE }]);
    put(TARGET, &vip.octets());
    put(MESSAGE + 24, &[2, 1]); // target link-layer address, 8 bytes
    put(MESSAGE + 26, &mac.0);
    let checksum = checksum(&frame);
    frame[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Asks who has `vip` (RFC 4861 §4.3), to its solicited-node group. The answer comes to `source` alone, an address of this
/// host on that link, with its MAC: all who share a virtual one would lose it on its way through a switch.
pub fn solicitation(mac: Mac, source: Ipv6Addr, vip: Ipv6Addr) -> [u8; FRAME_LEN] {
    let [.., a, b, c] = vip.octets();
    let mut frame = [0; FRAME_LEN];
    let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x33, 0x33, 0xff, a, b, c]);
    put(6, &mac.0);
    put(12, &[0x86, 0xdd]); // EtherType IPv6
    put(14, &[0x60, 0, 0, 0, 0, 32, ICMPV6, 255]); // version, payload length, hop limit
    put(22, &source.octets());
    put(38, &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    put(MESSAGE, &[135, 0]); // neighbour solicitation
    put(TARGET, &vip.octets());
    put(MESSAGE + 24, &[1, 1]); // source link-layer address, 8 bytes
    put(MESSAGE + 26, &mac.0);
    let checksum = checksum(&frame);
    frame[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Who says that it has which address: an advertisement in an untagged Ethernet frame that no router has passed on (RFC 4861
/// §7.1.2), with the MAC that it names, or else comes from. `None` for everything else.
pub fn claim(frame: &[u8]) -> Option<(Mac, Ipv6Addr)> {
    let bytes = |at: usize| -> Option<[u8; 6]> { frame.get(at..at + 6)?.try_into().ok() };
    let target: [u8; 16] = frame.get(TARGET..TARGET + 16)?.try_into().ok()?;
    let ours = frame[12..14] == [0x86, 0xdd] && frame[20..22] == [ICMPV6, 255];
    let said = frame[MESSAGE..MESSAGE + 2] == [136, 0];
    let named = frame.get(MESSAGE + 24..MESSAGE + 26) == Some(&[2, 1]);
    let mac = Mac(if named { bytes(MESSAGE + 26)? } else { bytes(6)? });
    let target = Ipv6Addr::from(target);
    (ours && said && !target.is_multicast() && mac.0[0] & 1 == 0).then_some((mac, target))
}

/// Over the pseudo-header (RFC 8200 §8.1) and the message, whose checksum field is zero.
fn checksum(frame: &[u8; FRAME_LEN]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    csum::finish(32 + u32::from(ICMPV6) + words(&frame[22..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(text: &str) -> Vec<u8> {
        let digits = text.trim().as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.map(|pair| byte(pair).unwrap()).collect()
    }

    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);

    // NBR-05
    #[test]
    fn equals_the_golden_frames() {
        let frame = advertisement(Mac([2, 0, 0, 0x77, 0, 1]), VIP, false);
        assert_eq!(frame.as_slice(), golden(include_str!("vectors/na.hex")));
        let frame = advertisement(Mac([0, 0, 0x5e, 0, 2, 0x33]), VIP, false);
        assert_eq!(frame.as_slice(), golden(include_str!("vectors/na-vmac.hex")));
    }

    // NBR-05
    #[test]
    fn a_router_says_so_and_the_checksum_follows() {
        let mac = Mac([2, 0, 0, 0x77, 0, 1]);
        let (host, router) = (advertisement(mac, VIP, false), advertisement(mac, VIP, true));
        assert_eq!((host[58], router[58]), (0x20, 0xa0));
        // A receiver's sum over everything comes out as zero.
        assert_eq!((checksum(&host), checksum(&router)), (0, 0));
        assert_eq!(router[21], 255, "hop limit");
    }

    #[test]
    fn a_question_is_whole_and_claims_nothing() {
        let (mac, own) = (Mac([2, 0, 0, 0x77, 0, 1]), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
        let frame = solicitation(mac, own, VIP);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 1, 0], "the group's MAC");
        assert_eq!((checksum(&frame), frame[MESSAGE]), (0, 135));
        assert_eq!(claim(&frame), None);
    }

    #[test]
    fn claims_are_read_from_whole_advertisements() {
        let mac = Mac([2, 0, 0, 0x77, 0, 1]);
        let frame = advertisement(mac, VIP, false);
        assert_eq!(claim(&frame), Some((mac, VIP)));
        // Without the option whose MAC it is says the frame.
        assert_eq!(claim(&frame[..MESSAGE + 24]), Some((mac, VIP)));
        for len in (0..MESSAGE + 24).chain(MESSAGE + 26..FRAME_LEN - 2) {
            assert_eq!(claim(&frame[..len]), None, "{len} bytes");
        }
        for at in [12, 13, 20, 21, MESSAGE, MESSAGE + 1] {
            let mut other = frame;
            other[at] ^= 1;
            assert_eq!(claim(&other), None, "byte {at}");
        }
        let mut group = frame;
        group[MESSAGE + 26] |= 1;
        assert_eq!(claim(&group), None, "of a group's MAC");
        group = frame;
        group[TARGET] = 0xff;
        assert_eq!(claim(&group), None, "of a group");
    }
}
