//! Adverts, as sent.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    ADDRESS_LIMIT, AuthHeader, ChecksumForm, PROTOCOL, PROTOCOL_AH, TTL, Version, checksum,
    datagram::{IPV4_HEADER, IPV6_HEADER},
    message::{AUTH_DATA, FIXED, TOLD, address_len, auth_len},
};
use crate::{
    base::net::{Priority, Vrid},
    vrrp::{
        auth::{
            Auth, ah,
            hmac::{self, Trailer},
        },
        timing::AdvertInterval,
    },
};

/// Type of service and traffic class of adverts: internetwork control.
const TOS: u8 = 0xc0;

/// What an advert says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    pub version: Version,
    pub vrid: Vrid,
    pub priority: Priority,
    pub interval: AdvertInterval,
    /// VRRPv2 only, over IPv4: elsewhere its type is sent and no data.
    pub auth: Auth,
    /// In configured order, of one family, at most [`ADDRESS_LIMIT`]; more are not sent.
    pub addresses: Vec<IpAddr>,
    /// Marked as [`Message::is_told`]; VRRPv3 only.
    ///
    /// [`Message::is_told`]: super::Message::is_told
    pub told: bool,
}

/// The IP datagram around an advert. Source and destination are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 identification; zero would let the kernel choose.
    pub id: u16,
    /// IPv6 flow label, 20 bits.
    pub flow_label: u32,
    /// VRRPv3 over IPv4.
    pub checksum: ChecksumForm,
}

/// Numbers that make an authenticated advert unlike the one before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seal<'a> {
    /// Sequence number of the authentication header ([`Auth::Ah`]).
    pub sequence: u32,
    /// Key and sequence of an `auth_hmac` trailer.
    pub trailer: Option<(&'a hmac::Key, u64)>,
}

impl Advert {
    /// The VRRP message with its checksum, without a trailer.
    pub fn message(&self, source: IpAddr, destination: IpAddr, form: ChecksumForm) -> Vec<u8> {
        self.sealed_message(source, destination, form, None)
    }

    fn sealed_message(
        &self,
        source: IpAddr,
        destination: IpAddr,
        form: ChecksumForm,
        trailer: Option<(&hmac::Key, u64)>,
    ) -> Vec<u8> {
        let addresses = &self.addresses[..self.addresses.len().min(ADDRESS_LIMIT)];
        let mut bytes = Vec::with_capacity(FIXED + addresses.len() * 16 + AUTH_DATA + Trailer::LEN);
        bytes.push(self.version.number() << 4 | 1);
        bytes.push(self.vrid.get());
        bytes.push(self.priority.0);
        bytes.push(u8::try_from(addresses.len()).unwrap_or(u8::MAX));
        match self.version {
            Version::V2 => bytes.extend([self.auth.type_number(), self.interval.seconds()]),
            Version::V3 => {
                let mark = if self.told { TOLD } else { 0 };
                bytes.extend((self.interval.centis() | mark).to_be_bytes());
            }
        }
        bytes.extend([0, 0]);
        for address in addresses {
            match address {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        if auth_len(self.version, source.is_ipv4()) > 0 {
            bytes.extend(self.auth.data());
        }
        let mut covered = bytes.len();
        if let Some((key, sequence)) = trailer {
            let pseudo = hmac::pseudo_header(self.version, self.vrid, source);
            bytes.extend(key.trailer(sequence, &pseudo, &bytes));
            if source.is_ipv6() {
                covered = bytes.len();
            }
        }
        let value = checksum::compute(self.version, &bytes[..covered], source, destination, form);
        bytes[6..8].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    /// A whole IP datagram, ready for a socket whose owner writes the IP header.
    pub fn datagram(&self, envelope: &Envelope, seal: Seal<'_>) -> Vec<u8> {
        let Envelope { source, destination, checksum, .. } = *envelope;
        let message = self.sealed_message(source, destination, checksum, seal.trailer);
        match (source, self.auth) {
            (IpAddr::V4(spi), Auth::Ah(password)) if self.version == Version::V2 => {
                let mut header = [0; AuthHeader::LEN];
                header[0] = PROTOCOL;
                header[1] = (AuthHeader::LEN / 4 - 2) as u8;
                header[4..8].copy_from_slice(&spi.octets());
                header[8..12].copy_from_slice(&seal.sequence.to_be_bytes());
                let len = header.len() + message.len();
                let mut bytes = ip_header(envelope, PROTOCOL_AH, len);
                let unicast = !destination.is_multicast();
                let icv = ah::icv(&password, &bytes, unicast, &header, &message);
                header[AuthHeader::ICV..].copy_from_slice(&icv);
                bytes.extend(header);
                bytes.extend(message);
                bytes
            }
            _ => {
                let mut bytes = ip_header(envelope, PROTOCOL, message.len());
                bytes.extend(message);
                bytes
            }
        }
    }

    /// A whole IPv4 datagram with TTL 255 and nothing that changes from one advert to the next
    /// but the IP identification.
    pub fn datagram_v4(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        form: ChecksumForm,
        id: u16,
    ) -> Vec<u8> {
        let (source, destination) = (source.into(), destination.into());
        let envelope =
            Envelope { source, destination, ttl: TTL, id, flow_label: 0, checksum: form };
        self.datagram(&envelope, Seal::default())
    }
}

/// IP header for `len` bytes of payload.
fn ip_header(envelope: &Envelope, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(IPV6_HEADER + len);
    match (envelope.source, envelope.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(IPV4_HEADER + len).unwrap_or(u16::MAX);
            bytes.extend([0x45, TOS]);
            bytes.extend(total.to_be_bytes());
            bytes.extend(envelope.id.to_be_bytes());
            bytes.extend([0, 0, envelope.ttl, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            let header_sum = !checksum::sum(&[&bytes]);
            bytes[10..12].copy_from_slice(&header_sum.to_be_bytes());
        }
        (source, destination) => {
            let first = 6 << 28 | u32::from(TOS) << 20 | envelope.flow_label & 0xf_ffff;
            bytes.extend(first.to_be_bytes());
            bytes.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend([protocol, envelope.ttl]);
            for address in [source, destination] {
                match address {
                    IpAddr::V4(address) => bytes.extend(address.to_ipv6_mapped().octets()),
                    IpAddr::V6(address) => bytes.extend(address.octets()),
                }
            }
        }
    }
    bytes
}

/// How many addresses fit into one advert on a link of this MTU, which adverts are not fragmented
/// for, and into its count.
pub fn capacity(version: Version, ipv4: bool, auth: Auth, trailer: bool, mtu: u32) -> usize {
    let ip = if ipv4 { IPV4_HEADER } else { IPV6_HEADER };
    let header = if matches!(auth, Auth::Ah(_)) { AuthHeader::LEN } else { 0 };
    let data = auth_len(version, ipv4);
    let trailer = if trailer { Trailer::LEN } else { 0 };
    let mtu = usize::try_from(mtu).unwrap_or(usize::MAX);
    let room = mtu.saturating_sub(ip + header + FIXED + data + trailer);
    (room / address_len(ipv4)).min(ADDRESS_LIMIT)
}
