//! The checksum of an advert and the forms of it that are deployed.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{GROUP, PROTOCOL, Version};

/// What a VRRP checksum covers. Over IPv4 VRRPv2 has one form, [`ChecksumForm::Message`]; IPv6 has
/// [`ChecksumForm::PseudoHeader`] in both versions, as the kernel computes it for keepalived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChecksumForm {
    /// Message and pseudo-header (RFC 5798 §5.2.8; what keepalived and FRR send).
    PseudoHeader,
    /// The message alone (VRRPv2; RFC 9568 §5.2.8 for VRRPv3 over IPv4).
    Message,
    /// VRRPv3 unicast with 224.0.0.18 in the pseudo-header, as keepalived before 2.0 sent
    /// (`old_unicast_checksum`).
    GroupPseudoHeader,
}

/// One's complement sum of big-endian words, folded; an odd last byte is padded with zero.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            total += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

fn pseudo_header(source: IpAddr, destination: IpAddr, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    let len = u16::try_from(len).unwrap_or(u16::MAX);
    if source.is_ipv4() {
        bytes.extend([0, PROTOCOL]);
        bytes.extend(len.to_be_bytes());
    } else {
        bytes.extend(u32::from(len).to_be_bytes());
        bytes.extend([0, 0, 0, PROTOCOL]);
    }
    bytes
}

/// Sum over what `form` covers, the message's own checksum field included.
fn covered(message: &[u8], source: IpAddr, destination: IpAddr, form: ChecksumForm) -> u16 {
    match form {
        ChecksumForm::Message => sum(&[message]),
        ChecksumForm::PseudoHeader => {
            sum(&[&pseudo_header(source, destination, message.len()), message])
        }
        ChecksumForm::GroupPseudoHeader => {
            sum(&[&pseudo_header(source, GROUP.into(), message.len()), message])
        }
    }
}

/// The value for the checksum field of `message`, whose field is zero.
pub fn compute(
    version: Version,
    message: &[u8],
    source: IpAddr,
    destination: IpAddr,
    form: ChecksumForm,
) -> u16 {
    let form = match (version, source) {
        (_, IpAddr::V6(_)) => ChecksumForm::PseudoHeader,
        (Version::V2, IpAddr::V4(_)) => ChecksumForm::Message,
        (Version::V3, IpAddr::V4(_)) => form,
    };
    !covered(message, source, destination, form)
}

/// The form in which the checksum of a received message is right.
pub fn form(
    version: Version,
    message: &[u8],
    source: IpAddr,
    destination: IpAddr,
) -> Option<ChecksumForm> {
    let forms: &[ChecksumForm] = match (version, source) {
        (Version::V2, IpAddr::V4(_)) => &[ChecksumForm::Message],
        (Version::V3, IpAddr::V4(_)) => {
            &[ChecksumForm::PseudoHeader, ChecksumForm::Message, ChecksumForm::GroupPseudoHeader]
        }
        (_, IpAddr::V6(_)) => &[ChecksumForm::PseudoHeader],
    };
    forms.iter().copied().find(|form| covered(message, source, destination, *form) == 0xffff)
}
