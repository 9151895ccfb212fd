//! Addresses and numbers of the field, as types with checked constructors.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU8,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Virtual router identifier, 1-255 (RFC 9568 §5.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vrid(NonZeroU8);

impl Vrid {
    /// `None` for zero, which the protocol forbids.
    pub fn new(id: u8) -> Option<Self> {
        NonZeroU8::new(id).map(Self)
    }

    /// The number on the wire.
    pub fn get(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for Vrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// VRRP priority (RFC 9568 §5.2.4): 0 releases, 255 owns the addresses, 1-254 otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Priority(pub u8);

impl Priority {
    /// The farewell advert of a master that stops.
    pub const RELEASE: Self = Self(0);
    /// The router whose own addresses are the VIPs.
    pub const OWNER: Self = Self(255);
    /// keepalived's default.
    pub const DEFAULT: Self = Self(100);

    /// Adds tracking weights and clamps to 1-254; the owner is unaffected.
    pub fn weighted(self, sum: i32) -> Self {
        if self == Self::OWNER {
            return self;
        }
        let value = (i32::from(self.0).saturating_add(sum)).clamp(1, 254);
        Self(u8::try_from(value).unwrap_or(1))
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Ethernet address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Transport protocol of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP (6).
    Tcp,
    /// UDP (17).
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// An address with its prefix length, as in `192.0.2.10/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IpPrefix {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length in bits, at most 32 or 128.
    pub len: u8,
}

impl IpPrefix {
    /// `None` when `len` is longer than the family allows.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        let max = if addr.is_ipv4() { 32 } else { 128 };
        (len <= max).then_some(Self { addr, len })
    }

    /// The address alone: /32 or /128, keepalived's default for a VIP.
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for IpPrefix {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once('/') {
            None => text.parse().map(Self::host).map_err(|_| ()),
            Some((addr, len)) => {
                let addr = addr.parse().map_err(|_| ())?;
                let len = len.parse().map_err(|_| ())?;
                Self::new(addr, len).ok_or(())
            }
        }
    }
}

/// The first `len` bits of an IPv4 address, at least one and all from 32 on.
pub fn mask4(len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(len.clamp(1, 32))))
}

/// What a virtual server is found by: `tcp/192.0.2.10:3306`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VirtualServerKey {
    /// Transport protocol.
    pub protocol: Protocol,
    /// VIP and port. Port 0: every port (needs persistence; not in the XDP engine yet).
    pub addr: SocketAddr,
}

impl fmt::Display for VirtualServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.addr)
    }
}

impl FromStr for VirtualServerKey {
    type Err = String;

    /// Reads `tcp/192.0.2.10:3306`; a missing protocol means TCP.
    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, addr) = match text.split_once('/') {
            None => (Protocol::Tcp, text),
            Some(("tcp", addr)) => (Protocol::Tcp, addr),
            Some(("udp", addr)) => (Protocol::Udp, addr),
            Some((other, _)) => {
                return Err(format!("unknown protocol `{other}`, expected tcp or udp"));
            }
        };
        let addr = addr
            .parse()
            .map_err(|_| format!("`{addr}` is not ADDRESS:PORT, as in 192.0.2.10:3306"))?;
        Ok(Self { protocol, addr })
    }
}
