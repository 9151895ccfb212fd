//! Adverts in bytes: RFC 3768 (VRRPv2), RFC 5798 and 9568 (VRRPv3).
//!
//! Two tiers: [`Datagram`] and [`Message`] are checked views over received bytes, [`Advert`] is
//! what we mean to say. [`receive`] makes every check of RFC 9568 §7.1 in one place; what it
//! refuses has a [`Reason`] whose name is a counter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{auth::Auth, timing::AdvertInterval};
use crate::base::net::{Priority, Vrid};

mod checksum;
#[cfg(test)]
pub mod vectors;

pub use checksum::ChecksumForm;

/// IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// Where multicast adverts go.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Bytes of the largest advert datagram we read or write: IP header with options, 255 IPv6
/// addresses, trailer.
pub const DATAGRAM_LIMIT: usize = 60 + 8 + 255 * 16 + 28;
/// Most addresses that an advert carries (its count is one byte).
pub const ADDRESS_LIMIT: usize = 255;

const IPV4_HEADER: usize = 20;
const FIXED: usize = 8;
const AUTH_DATA: usize = 8;
/// keepalived 2.4's `auth_hmac` trailer; its length is its only mark.
const HMAC_TRAILER: usize = 28;
/// Type of service of adverts: internetwork control.
const TOS: u8 = 0xc0;
const TTL: u8 = 255;

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

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a received datagram was discarded. A discarded datagram changes nothing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name of its counter.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// Shorter than an IP header, or than its own length field says.
    IpTruncated = "ip_truncated",
    /// Not IPv4, or a nonsensical header length.
    IpHeader = "ip_header",
    /// IPv4 header checksum.
    IpChecksum = "ip_checksum",
    /// Adverts are never fragmented.
    IpFragment = "ip_fragment",
    /// Another IP protocol.
    IpProtocol = "ip_protocol",
    /// Carries an authentication header, which the instance does not use.
    AuthHeader = "auth_header_unexpected",
    /// TTL of a multicast advert is not 255: it was forwarded.
    Ttl = "ttl",
    /// Other version than configured.
    Version = "version",
    /// Not an advert.
    Type = "type",
    /// Shorter than its address count says.
    TooShort = "too_short",
    /// Longer than its address count says.
    TooLong = "too_long",
    /// Longer by exactly keepalived 2.4's `auth_hmac` trailer, which lbd does not speak.
    HmacTrailer = "hmac_trailer",
    /// VRRP checksum, in every form that is in use.
    Checksum = "checksum",
    /// VRRPv2 authentication type above 2.
    AuthTypeUnknown = "auth_type_unknown",
    /// VRRPv2 authentication type is not ours.
    AuthTypeMismatch = "auth_type_mismatch",
    /// Wrong password.
    AuthFailed = "auth_failed",
    /// VRRPv2 interval is not ours (RFC 3768 §7.1).
    Interval = "interval_mismatch",
    /// Interval zero.
    IntervalZero = "interval_zero",
    /// VRID zero, or none of ours on this interface.
    Vrid = "vrid_unknown",
    /// No address although we have some.
    NoAddress = "no_address",
    /// Multicast to a unicast instance, or the reverse.
    Mode = "delivery_mode",
    /// Came from our own address: looped or duplicated.
    OwnAddress = "own_address",
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Checked view of an IPv4 datagram: header and length are sound, payload is VRRP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    /// As long as the IP length says; Ethernet padding is cut off.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads bytes that begin with an IPv4 header.
    ///
    /// # Errors
    /// The reason to discard it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        let first = *bytes.first().ok_or(Reason::IpTruncated)?;
        let header_len = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header_len < IPV4_HEADER {
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
        match header[9] {
            PROTOCOL => {}
            51 => return Err(Reason::AuthHeader),
            _ => return Err(Reason::IpProtocol),
        }
        Ok(Self {
            source: IpAddr::V4(v4(header, 12)),
            destination: IpAddr::V4(v4(header, 16)),
            ttl: header[8],
            payload,
        })
    }

    /// VRID by which the instance is found; `None` when the payload is too short to hold one.
    pub fn vrid(&self) -> Option<u8> {
        self.payload.get(1).copied()
    }
}

/// Checked view of a VRRP message: version, type and length are sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    bytes: &'a [u8],
    version: Version,
    ipv4: bool,
}

impl<'a> Message<'a> {
    /// Reads a VRRP message of one address family.
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
        if bytes[0] & 0x0f != 1 {
            return Err(Reason::Type);
        }
        let expected = message_len(version, usize::from(bytes[3]), ipv4);
        if bytes.len() < expected {
            return Err(Reason::TooShort);
        }
        if bytes.len() == expected + HMAC_TRAILER {
            return Err(Reason::HmacTrailer);
        }
        if bytes.len() > expected {
            return Err(Reason::TooLong);
        }
        Ok(Self { bytes, version, ipv4 })
    }

    /// Protocol version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Virtual router; `None` for zero.
    pub fn vrid(&self) -> Option<Vrid> {
        Vrid::new(self.bytes[1])
    }

    /// Priority, zero for a farewell.
    pub fn priority(&self) -> Priority {
        Priority(self.bytes[2])
    }

    /// Interval; `None` for zero. The four reserved bits of VRRPv3 are ignored.
    pub fn interval(&self) -> Option<AdvertInterval> {
        match self.version {
            Version::V2 => AdvertInterval::from_seconds(self.bytes[5]),
            Version::V3 => AdvertInterval::from_centis(be16(self.bytes, 4) & 0x0fff),
        }
    }

    /// VRRPv2 authentication type and data; `None` in VRRPv3.
    pub fn auth(&self) -> Option<(u8, [u8; AUTH_DATA])> {
        let data = self.bytes.last_chunk::<AUTH_DATA>()?;
        (self.version == Version::V2).then_some((self.bytes[4], *data))
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
        checksum::form(self.version, self.bytes, source, destination)
    }
}

/// What an advert says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    pub version: Version,
    pub vrid: Vrid,
    pub priority: Priority,
    pub interval: AdvertInterval,
    /// VRRPv2 only.
    pub auth: Auth,
    /// In configured order, of one family, at most [`ADDRESS_LIMIT`]; more are not sent.
    pub addresses: Vec<IpAddr>,
}

impl Advert {
    /// The VRRP message with its checksum.
    pub fn message(&self, source: IpAddr, destination: IpAddr, form: ChecksumForm) -> Vec<u8> {
        let addresses = &self.addresses[..self.addresses.len().min(ADDRESS_LIMIT)];
        let mut bytes = Vec::with_capacity(FIXED + addresses.len() * 16 + AUTH_DATA);
        bytes.push(self.version.number() << 4 | 1);
        bytes.push(self.vrid.get());
        bytes.push(self.priority.0);
        bytes.push(u8::try_from(addresses.len()).unwrap_or(u8::MAX));
        match self.version {
            Version::V2 => bytes.extend([self.auth.type_number(), self.interval.seconds()]),
            Version::V3 => bytes.extend(self.interval.centis().to_be_bytes()),
        }
        bytes.extend([0, 0]);
        for address in addresses {
            match address {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        if self.version == Version::V2 {
            bytes.extend(self.auth.data());
        }
        let value = checksum::compute(self.version, &bytes, source, destination, form);
        bytes[6..8].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    /// A whole IPv4 datagram, ready for a socket with `IP_HDRINCL`: `id` is the IP identification.
    pub fn datagram_v4(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        form: ChecksumForm,
        id: u16,
    ) -> Vec<u8> {
        let message = self.message(source.into(), destination.into(), form);
        let total = u16::try_from(IPV4_HEADER + message.len()).unwrap_or(u16::MAX);
        let mut bytes = Vec::with_capacity(usize::from(total));
        bytes.extend([0x45, TOS]);
        bytes.extend(total.to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend([0, 0, TTL, PROTOCOL, 0, 0]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        let header_sum = !checksum::sum(&[&bytes]);
        bytes[10..12].copy_from_slice(&header_sum.to_be_bytes());
        bytes.extend(message);
        bytes
    }
}

/// What an instance demands of an advert.
#[derive(Clone, Copy, Debug)]
pub struct Expect<'a> {
    pub version: Version,
    pub vrid: Vrid,
    pub auth: Auth,
    /// Our own interval, which VRRPv2 compares.
    pub interval: AdvertInterval,
    /// Instance has `unicast_peer`s.
    pub unicast: bool,
    /// Our own source address.
    pub own: Option<IpAddr>,
    /// Our own advertised addresses.
    pub addresses: &'a [IpAddr],
}

/// An advert that passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub source: IpAddr,
    pub priority: Priority,
    pub interval: AdvertInterval,
    pub checksum: ChecksumForm,
    /// Set and count of addresses equal ours. A mismatch is logged, not refused, as keepalived
    /// does since 2.3.3; before, it made two masters.
    pub same_addresses: bool,
}

/// Every receive check, over bytes that begin with an IPv4 header.
///
/// # Errors
/// The first check that fails.
pub fn receive(bytes: &[u8], expect: &Expect<'_>) -> Result<Received, Reason> {
    let datagram = Datagram::parse(bytes)?;
    let (source, destination) = (datagram.source, datagram.destination);
    let multicast = match destination {
        IpAddr::V4(address) => address.is_multicast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    if multicast == expect.unicast {
        return Err(Reason::Mode);
    }
    // Unicast peers may be routed to (keepalived checks only with min_ttl or max_ttl).
    if multicast && datagram.ttl != TTL {
        return Err(Reason::Ttl);
    }
    // The version is compared before the length, whose formula depends on it.
    if datagram.payload.first().is_some_and(|first| first >> 4 != expect.version.number()) {
        return Err(Reason::Version);
    }
    let message = Message::parse(datagram.payload, source.is_ipv4())?;
    if message.vrid() != Some(expect.vrid) {
        return Err(Reason::Vrid);
    }
    let checksum = message.checksum_form(source, destination).ok_or(Reason::Checksum)?;
    if expect.own == Some(source) {
        return Err(Reason::OwnAddress);
    }
    if let Some((type_number, data)) = message.auth() {
        expect.auth.check(type_number, &data)?;
    }
    let interval = message.interval().ok_or(Reason::IntervalZero)?;
    if expect.version == Version::V2 && interval != expect.interval {
        return Err(Reason::Interval);
    }
    let same_addresses = same_set(message.addresses(), expect.addresses);
    let none = message.addresses().next().is_none();
    if none && !(expect.version == Version::V2 && expect.addresses.is_empty()) {
        return Err(Reason::NoAddress);
    }
    Ok(Received { source, priority: message.priority(), interval, checksum, same_addresses })
}

fn same_set(theirs: impl Iterator<Item = IpAddr>, ours: &[IpAddr]) -> bool {
    let mut theirs: Vec<_> = theirs.collect();
    let mut ours = ours.to_vec();
    theirs.sort_unstable();
    ours.sort_unstable();
    theirs == ours
}

fn address_len(ipv4: bool) -> usize {
    if ipv4 { 4 } else { 16 }
}

fn message_len(version: Version, count: usize, ipv4: bool) -> usize {
    let auth = if version == Version::V2 { AUTH_DATA } else { 0 };
    FIXED + count * address_len(ipv4) + auth
}

/// Big-endian u16 at `at`, zero when it is not there (callers have checked the length).
fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
}

fn v4(bytes: &[u8], at: usize) -> Ipv4Addr {
    bytes.get(at..at + 4).map_or(Ipv4Addr::UNSPECIFIED, |b| Ipv4Addr::new(b[0], b[1], b[2], b[3]))
}

#[cfg(test)]
mod tests;
