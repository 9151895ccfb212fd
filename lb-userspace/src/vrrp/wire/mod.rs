//! Adverts in bytes: RFC 3768 (VRRPv2), RFC 5798 and 9568 (VRRPv3).
//!
//! Two tiers: [`Datagram`] and [`Message`] are checked views over received bytes, [`Advert`] is
//! what we mean to say. [`receive`] makes every check of RFC 9568 §7.1 in one place; what it
//! refuses has a [`Reason`] whose name is a counter.

mod advert;
mod check;
mod checksum;
mod datagram;
mod message;
mod options;
mod reason;
#[cfg(test)]
pub mod vectors;

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

pub use advert::{Advert, Envelope, Seal, capacity};
pub use check::{Expect, Received, receive};
pub use checksum::ChecksumForm;
pub use datagram::{AuthHeader, Datagram, IPV6_HEADER};
pub use message::Message;
pub use options::{OldUnicastChecksum, Options, TtlRange};
pub use reason::Reason;

/// IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// IP protocol number of the authentication header.
pub const PROTOCOL_AH: u8 = 51;
/// Where multicast adverts go.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where multicast adverts over IPv6 go.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// Bytes of the largest advert datagram we read or write: IP header with options, 255 IPv6
/// addresses, trailer.
pub const DATAGRAM_LIMIT: usize = 60 + 8 + 255 * 16 + 28;
/// Most addresses that an advert carries (its count is one byte).
pub const ADDRESS_LIMIT: usize = 255;
/// TTL and hop limit of multicast adverts: one that has been forwarded has less.
pub const TTL: u8 = 255;
/// Hop limit of unicast adverts over IPv6: keepalived leaves it to the kernel, whose default this
/// is.
pub const UNICAST_HOP_LIMIT: u8 = 64;

/// Protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Version {
    V2,
    V3,
}

impl Version {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// Big-endian u16 at `at`, zero when it is not there (callers have checked the length).
fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests;
