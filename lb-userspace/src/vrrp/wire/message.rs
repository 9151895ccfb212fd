//! VRRP messages, as received.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ChecksumForm, Reason, Version, be16, checksum};
use crate::{
    base::net::{Priority, Vrid},
    vrrp::{auth::hmac::Trailer, timing::AdvertInterval},
};

/// Bytes before the addresses.
pub(super) const FIXED: usize = 8;
/// Bytes of VRRPv2's authentication data.
pub(super) const AUTH_DATA: usize = 8;

/// Of the four reserved bits beside VRRPv3's interval, which others ignore (RFC 9568 §5.2.6): in a
/// farewell, its sender is fenced (`told_handover`).
pub(super) const TOLD: u16 = 0x8000;

/// Checked view of a VRRP message: version and length are sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Message and trailer: what the checksum of IPv6 covers.
    whole: &'a [u8],
    trailer: Option<Trailer<'a>>,
    version: Version,
    ipv4: bool,
}

impl<'a> Message<'a> {
    /// Reads a VRRP message of one address family, with the trailer of `auth_hmac` if it is longer
    /// by exactly its length.
    ///
    /// # Errors
    /// The reason to discard it. An unknown version is [`Reason::Version`].
    pub fn parse(bytes: &'a [u8], ipv4: bool) -> Result<Self, Reason> {
        if bytes.len() < FIXED {
            return Err(Reason::TooShort);
        }
        let version = match bytes[0] >> 4 {
            2 => Version::V2,
            3 => Version::V3,
            _ => return Err(Reason::Version),
        };
        let expected = message_len(version, usize::from(bytes[3]), ipv4);
        let (message, rest) = bytes.split_at_checked(expected).ok_or(Reason::TooShort)?;
        let trailer = match rest.first_chunk() {
            Some(trailer) if rest.len() == Trailer::LEN => Some(Trailer(trailer)),
            _ if rest.is_empty() => None,
            _ => return Err(Reason::TooLong),
        };
        Ok(Self { bytes: message, whole: bytes, trailer, version, ipv4 })
    }

    /// Protocol version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its type is 1, the only one there is.
    pub fn is_advert(&self) -> bool {
        self.bytes[0] & 0x0f == 1
    }

    /// Virtual router; `None` for zero.
    pub fn vrid(&self) -> Option<Vrid> {
        Vrid::new(self.bytes[1])
    }

    /// Priority, zero for a farewell.
    pub fn priority(&self) -> Priority {
        Priority(self.bytes[2])
    }

    /// A farewell of a router with `told_handover` that is fenced: VRRPv3 with our mark.
    pub fn is_told(&self) -> bool {
        let marked = be16(self.bytes, 4) & TOLD != 0;
        self.version == Version::V3 && self.priority() == Priority::RELEASE && marked
    }

    /// Interval; `None` for zero. The four reserved bits of VRRPv3 are ignored.
    pub fn interval(&self) -> Option<AdvertInterval> {
        match self.version {
            Version::V2 => AdvertInterval::from_seconds(self.bytes[5]),
            Version::V3 => AdvertInterval::from_centis(be16(self.bytes, 4) & 0x0fff),
        }
    }

    /// VRRPv2 authentication type and data (zeros over IPv6, which carries none); `None` in VRRPv3.
    pub fn auth(&self) -> Option<(u8, [u8; AUTH_DATA])> {
        let data = match auth_len(self.version, self.ipv4) {
            0 => [0; AUTH_DATA],
            _ => *self.bytes.last_chunk::<AUTH_DATA>()?,
        };
        (self.version == Version::V2).then_some((self.bytes[4], data))
    }

    /// Virtual addresses in the order sent.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + 'a {
        let (bytes, ipv4) = (self.bytes, self.ipv4);
        let width = address_len(ipv4);
        bytes[FIXED..].chunks_exact(width).take(usize::from(bytes[3])).filter_map(move |chunk| {
            if ipv4 {
                Some(IpAddr::V4(Ipv4Addr::from(*chunk.first_chunk::<4>()?)))
            } else {
                Some(IpAddr::V6(Ipv6Addr::from(*chunk.first_chunk::<16>()?)))
            }
        })
    }

    /// Which checksum form the message carries, sent from `source` to `destination`.
    pub fn checksum_form(&self, source: IpAddr, destination: IpAddr) -> Option<ChecksumForm> {
        // IPv6 counts everything behind the header, IPv4 (as deployed) the message alone.
        let covered = if self.ipv4 { self.bytes } else { self.whole };
        checksum::form(self.version, covered, source, destination)
    }

    /// The trailer of `auth_hmac`.
    pub fn trailer(&self) -> Option<Trailer<'a>> {
        self.trailer
    }

    /// The message without its trailer.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

pub(super) fn address_len(ipv4: bool) -> usize {
    if ipv4 { 4 } else { 16 }
}

/// Bytes of authentication data behind the addresses. VRRPv2 has them in RFC 3768, which knows
/// IPv4 only; keepalived's VRRPv2 over IPv6 goes without.
pub(super) fn auth_len(version: Version, ipv4: bool) -> usize {
    if version == Version::V2 && ipv4 { AUTH_DATA } else { 0 }
}

pub(super) fn message_len(version: Version, count: usize, ipv4: bool) -> usize {
    FIXED + count * address_len(ipv4) + auth_len(version, ipv4)
}
