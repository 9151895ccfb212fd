//! Netlink attributes of IPVS: written into bytes, read with every bound checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;
use thiserror::Error;

/// Set in the type of an attribute that holds others.
const NESTED: u16 = 0x8000;
/// AF_INET, AF_INET6.
const FAMILIES: [u16; 2] = [2, 10];

/// Why bytes are no message of IPVS.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    #[error("the attributes of {0} are cut off or overlap")]
    Malformed(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{what} has {length} bytes, which is not its length")]
    Length { what: &'static str, length: usize },
    #[error("{what} cannot be {value}")]
    Value { what: &'static str, value: u64 },
    #[error("{0} is not text")]
    Text(&'static str),
    #[error("{0} is no command of IPVS that lbd knows")]
    Command(u8),
}

/// Attributes that are being written. Lengths that do not fit 16 bits cannot arise: the longest value
/// is a name of [`super::NAME_LIMIT`] bytes.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn raw(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.raw(kind, &[value]);
    }

    pub(super) fn u16(&mut self, kind: u16, value: u16) {
        self.raw(kind, &value.to_ne_bytes());
    }

    /// In network byte order: ports.
    pub(super) fn be16(&mut self, kind: u16, value: u16) {
        self.raw(kind, &value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_ne_bytes());
    }

    pub(super) fn u64(&mut self, kind: u16, value: u64) {
        self.raw(kind, &value.to_ne_bytes());
    }

    /// With the zero at its end.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.raw(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// A `union nf_inet_addr`: 16 bytes, of which IPv4 uses the first four.
    pub(super) fn address(&mut self, kind: u16, value: IpAddr) {
        self.raw(kind, &address_bytes(value));
    }

    pub(super) fn nested(&mut self, kind: u16, inner: Self) {
        self.raw(kind | NESTED, &inner.bytes);
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A `union nf_inet_addr`.
fn address_bytes(value: IpAddr) -> [u8; 16] {
    match value {
        IpAddr::V4(value) => {
            let [a, b, c, d] = value.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(value) => value.octets(),
    }
}

/// Attributes of one level, by their type; the last of a type counts, as in the kernel.
#[derive(Debug, Default)]
pub(super) struct Reader<'a> {
    found: Vec<(u16, &'a [u8])>,
}

impl<'a> Reader<'a> {
    /// `what` names the holder for errors.
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut found = Vec::new();
        let mut at = 0;
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute.map_err(|_| WireError::Malformed(what))?;
            let end = at + usize::from(attribute.length());
            let value = bytes.get(at + 4..end).ok_or(WireError::Malformed(what))?;
            found.push((attribute.kind(), value));
            at = end.next_multiple_of(4);
        }
        Ok(Self { found })
    }

    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.found.iter().rev().find(|(have, _)| *have == kind).map(|(_, value)| *value)
    }

    fn array<const N: usize>(
        &self,
        kind: u16,
        what: &'static str,
    ) -> Result<Option<[u8; N]>, WireError> {
        let Some(value) = self.get(kind) else { return Ok(None) };
        let error = WireError::Length { what, length: value.len() };
        value.try_into().map(Some).map_err(|_| error)
    }

    pub(super) fn u8(&self, kind: u16, what: &'static str) -> Result<Option<u8>, WireError> {
        Ok(self.array::<1>(kind, what)?.map(|[value]| value))
    }

    pub(super) fn u16(&self, kind: u16, what: &'static str) -> Result<Option<u16>, WireError> {
        Ok(self.array(kind, what)?.map(u16::from_ne_bytes))
    }

    pub(super) fn be16(&self, kind: u16, what: &'static str) -> Result<Option<u16>, WireError> {
        Ok(self.array(kind, what)?.map(u16::from_be_bytes))
    }

    pub(super) fn u32(&self, kind: u16, what: &'static str) -> Result<Option<u32>, WireError> {
        Ok(self.array(kind, what)?.map(u32::from_ne_bytes))
    }

    pub(super) fn u64(&self, kind: u16, what: &'static str) -> Result<Option<u64>, WireError> {
        Ok(self.array(kind, what)?.map(u64::from_ne_bytes))
    }

    /// Two words, as `struct ip_vs_flags` has them.
    pub(super) fn pair(
        &self,
        kind: u16,
        what: &'static str,
    ) -> Result<Option<(u32, u32)>, WireError> {
        Ok(self.array(kind, what)?.map(|[a, b, c, d, e, f, g, h]| {
            (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
        }))
    }

    /// Up to its zero.
    pub(super) fn text(&self, kind: u16, what: &'static str) -> Result<Option<String>, WireError> {
        let Some(value) = self.get(kind) else { return Ok(None) };
        let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
        if text.len() > super::NAME_LIMIT {
            return Err(WireError::Length { what, length: text.len() });
        }
        let text = std::str::from_utf8(text).map_err(|_| WireError::Text(what))?;
        Ok(Some(text.to_owned()))
    }

    /// Of 16 bytes, as the kernel writes it, or four where that is enough.
    pub(super) fn address(
        &self,
        kind: u16,
        what: &'static str,
        family: u16,
    ) -> Result<Option<IpAddr>, WireError> {
        let Some(value) = self.get(kind) else { return Ok(None) };
        let address = match (family == FAMILIES[0], value) {
            (true, [a, b, c, d, ..]) if matches!(value.len(), 4 | 16) => {
                Some(Ipv4Addr::new(*a, *b, *c, *d).into())
            }
            (false, _) => <[u8; 16]>::try_from(value).ok().map(|it| Ipv6Addr::from(it).into()),
            _ => None,
        };
        address.map(Some).ok_or(WireError::Length { what, length: value.len() })
    }

    pub(super) fn nested(
        &self,
        kind: u16,
        what: &'static str,
    ) -> Result<Option<Reader<'a>>, WireError> {
        self.get(kind).map(|value| Reader::new(what, value)).transpose()
    }
}

/// The number of an address's family.
pub(super) fn family_of(addr: IpAddr) -> u16 {
    if addr.is_ipv4() { FAMILIES[0] } else { FAMILIES[1] }
}

/// The family, if it is one that IPVS has.
pub(super) fn family(value: Option<u16>, what: &'static str) -> Result<u16, WireError> {
    let value = value.ok_or(WireError::Missing(what))?;
    if !FAMILIES.contains(&value) {
        return Err(WireError::Value { what, value: value.into() });
    }
    Ok(value)
}

/// `None` becomes the error that it is missing.
pub(super) fn needed<T>(value: Option<T>, what: &'static str) -> Result<T, WireError> {
    value.ok_or(WireError::Missing(what))
}
