//! IP datagrams that carry adverts, as received.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{PROTOCOL, PROTOCOL_AH, Reason, be16, checksum};

/// Bytes of an IPv4 header without options.
pub(super) const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_HEADER: usize = 40;

/// Checked view of an IP datagram: header and length are sound, payload is VRRP's. Extension
/// headers of IPv6 are not followed: raw sockets have none, their owner writes the header; and from a
/// virtual MAC, where they can be seen, no router sends any (RFC 9568 §5.1.2), so that such a datagram is
/// of another protocol ([`Reason::IpProtocol`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Between IP header and payload (`auth_type AH`).
    pub auth_header: Option<AuthHeader<'a>>,
    /// As long as the IP length says; Ethernet padding is cut off.
    pub payload: &'a [u8],
    /// IP header with its options.
    pub(super) header: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads bytes that begin with an IPv4 or IPv6 header.
    ///
    /// # Errors
    /// The reason to discard it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        match bytes.first().ok_or(Reason::IpTruncated)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(Reason::IpHeader),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, Reason> {
        let header_len = usize::from(bytes.first().copied().unwrap_or(0) & 0x0f) * 4;
        if header_len < IPV4_HEADER {
            return Err(Reason::IpHeader);
        }
        let header = bytes.get(..header_len).ok_or(Reason::IpTruncated)?;
        let total = usize::from(be16(header, 2));
        if total < header_len {
            return Err(Reason::IpHeader);
        }
        let payload = bytes.get(header_len..total).ok_or(Reason::IpTruncated)?;
        if checksum::sum(&[header]) != 0xffff {
            return Err(Reason::IpChecksum);
        }
        // More-fragments flag or an offset.
        if be16(header, 6) & 0x3fff != 0 {
            return Err(Reason::IpFragment);
        }
        let (auth_header, payload) = match header[9] {
            PROTOCOL => (None, payload),
            PROTOCOL_AH => {
                let (header, rest) = AuthHeader::split(payload)?;
                (Some(header), rest)
            }
            _ => return Err(Reason::IpProtocol),
        };
        let (source, destination) = (v4(header, 12), v4(header, 16));
        let (source, destination) = (IpAddr::V4(source), IpAddr::V4(destination));
        Ok(Self { source, destination, ttl: header[8], auth_header, payload, header })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Reason> {
        let (header, rest) = bytes.split_first_chunk::<IPV6_HEADER>().ok_or(Reason::IpTruncated)?;
        let payload = rest.get(..usize::from(be16(header, 4))).ok_or(Reason::IpTruncated)?;
        if header[6] != PROTOCOL {
            return Err(Reason::IpProtocol);
        }
        Ok(Self {
            source: IpAddr::V6(v6(header, 8)),
            destination: IpAddr::V6(v6(header, 24)),
            ttl: header[7],
            auth_header: None,
            payload,
            header,
        })
    }

    /// Family (true: IPv4) and VRID of bytes that [`Datagram::parse`] refuses, if they can be told:
    /// the instance that they were meant for counts them then. Believe nothing of it.
    pub fn meant_for(bytes: &[u8]) -> Option<(bool, u8)> {
        let (ipv4, header, protocol) = match bytes.first()? >> 4 {
            4 => (true, usize::from(bytes.first()? & 0x0f) * 4, *bytes.get(9)?),
            6 => (false, IPV6_HEADER, *bytes.get(6)?),
            _ => return None,
        };
        let at = match protocol {
            PROTOCOL => header,
            PROTOCOL_AH if ipv4 => header + AuthHeader::LEN,
            _ => return None,
        };
        Some((ipv4, *bytes.get(at + 1)?))
    }

    /// Destination and IP protocol (IPv6: what follows the fixed header) of bytes that begin with an
    /// IP header. Nothing else of them is looked at.
    pub fn destination_of(bytes: &[u8]) -> Option<(IpAddr, u8)> {
        match bytes.first()? >> 4 {
            4 => bytes.get(..IPV4_HEADER).map(|it| (v4(it, 16).into(), it[9])),
            6 => bytes.get(..IPV6_HEADER).map(|it| (v6(it, 24).into(), it[6])),
            _ => None,
        }
    }

    /// VRID by which the instance is found; `None` when the payload is too short to hold one.
    pub fn vrid(&self) -> Option<u8> {
        self.payload.get(1).copied()
    }
}

/// View of an IP authentication header (RFC 2402) with a 96-bit integrity check value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthHeader<'a>(pub(super) &'a [u8; AuthHeader::LEN]);

impl<'a> AuthHeader<'a> {
    /// Bytes of it.
    pub const LEN: usize = 24;
    /// Where the integrity check value begins.
    pub const ICV: usize = 12;

    fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Reason> {
        // Of another protocol's AH nothing is said: it is not ours.
        if bytes.first().is_some_and(|next| *next != PROTOCOL) {
            return Err(Reason::IpProtocol);
        }
        let (header, rest) = bytes.split_first_chunk().ok_or(Reason::TooShort)?;
        // In words of four bytes, less two.
        if usize::from(header[1]) != Self::LEN / 4 - 2 || be16(header, 2) != 0 {
            return Err(Reason::AuthHeaderMalformed);
        }
        Ok((Self(header), rest))
    }

    /// Security parameters index; keepalived writes the source address.
    pub fn spi(&self) -> Ipv4Addr {
        v4(self.0, 4)
    }

    /// Sequence number.
    pub fn sequence(&self) -> u32 {
        u32::from(v4(self.0, 8))
    }

    /// Integrity check value.
    pub fn icv(&self) -> &'a [u8] {
        &self.0[Self::ICV..]
    }
}

/// Zeros when it is not there (callers have checked the length).
fn v4(bytes: &[u8], at: usize) -> Ipv4Addr {
    let octets = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    octets.map_or(Ipv4Addr::UNSPECIFIED, |octets| Ipv4Addr::from(*octets))
}

fn v6(bytes: &[u8], at: usize) -> Ipv6Addr {
    let octets = bytes.get(at..).and_then(<[u8]>::first_chunk::<16>);
    octets.map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
}
