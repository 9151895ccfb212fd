//! IP addresses of both families, as maps hold them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::abi::{Be32, be32, octets};

/// IP address as it lies in the packet, four bytes a word; an IPv4 one as `::ffff:a.b.c.d`
/// (RFC 4291 §2.5.5.2), which is never an IPv6 packet's address.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    /// Its words in order.
    pub words: [u32; 4],
}

impl Addr {
    /// What stands before the four bytes of an IPv4 address.
    const MAPPED: [u32; 3] = [0, 0, be32([0, 0, 0xff, 0xff])];

    /// From IPv6 address octets.
    pub const fn new(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self {
            words: [be32([a, b, c, d]), be32([e, f, g, h]), be32([i, j, k, l]), be32([m, n, o, p])],
        }
    }

    /// From an IPv4 address.
    #[inline(always)]
    pub const fn v4(addr: Be32) -> Self {
        let [a, b, c] = Self::MAPPED;
        Self { words: [a, b, c, addr] }
    }

    /// From either. An IPv6 address that stands for an IPv4 one becomes that.
    pub const fn from_ip(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::v4(be32(addr.octets())),
            IpAddr::V6(addr) => Self::new(addr.octets()),
        }
    }

    /// To either.
    pub const fn ip(self) -> IpAddr {
        match self.to_v4() {
            Some(addr) => {
                let [a, b, c, d] = octets(addr);
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            None => IpAddr::V6(Ipv6Addr::from_octets(self.octets())),
        }
    }

    /// The IPv4 address that it stands for, if it does.
    pub const fn to_v4(self) -> Option<Be32> {
        let [a, b, c, addr] = self.words;
        let [x, y, z] = Self::MAPPED;
        if a == x && b == y && c == z { Some(addr) } else { None }
    }

    /// To IPv6 address octets.
    pub const fn octets(self) -> [u8; 16] {
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = [
            octets(self.words[0]),
            octets(self.words[1]),
            octets(self.words[2]),
            octets(self.words[3]),
        ];
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The first `len` bits of an address of its family set, of IPv4 beside what marks it as one.
    pub const fn mask(len: u8, is_v4: bool) -> Self {
        let len = if is_v4 { 96 + len as u32 } else { len as u32 };
        let bits = match u128::MAX.checked_shl(128 - if len > 128 { 128 } else { len }) {
            Some(bits) => bits,
            None => 0,
        };
        Self::new(bits.to_be_bytes())
    }

    /// The bits that are set in both.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, mask: Self) -> Self {
        let (a, b) = (self.words, mask.words);
        Self { words: [a[0] & b[0], a[1] & b[1], a[2] & b[2], a[3] & b[3]] }
    }

    /// The multicast address that neighbours ask for an IPv6 one by (RFC 4291 §2.7.1).
    pub const fn solicited_node(self) -> Self {
        let [_, b, c, d] = octets(self.words[3]);
        Self { words: [be32([0xff, 2, 0, 0]), 0, be32([0, 0, 0, 1]), be32([0xff, b, c, d])] }
    }
}
