//! Destinations.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    ServiceKey, Stats, WireError,
    attributes::{Reader, Writer, family, family_of, needed},
};

/// `IPVS_DEST_ATTR_*`.
mod dst {
    pub(super) const ADDR: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const FWD_METHOD: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const U_THRESH: u16 = 5;
    pub(super) const L_THRESH: u16 = 6;
    pub(super) const ACTIVE_CONNS: u16 = 7;
    pub(super) const INACT_CONNS: u16 = 8;
    pub(super) const PERSIST_CONNS: u16 = 9;
    pub(super) const STATS: u16 = 10;
    pub(super) const ADDR_FAMILY: u16 = 11;
    pub(super) const STATS64: u16 = 12;
    pub(super) const TUN_TYPE: u16 = 13;
    pub(super) const TUN_PORT: u16 = 14;
    pub(super) const TUN_FLAGS: u16 = 15;
}

/// `IP_VS_CONN_F_FWD_MASK`.
const FORWARD_MASK: u32 = 7;

/// How packets reach a destination, `IP_VS_CONN_F_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Forward {
    /// NAT (`-m`).
    Masquerade,
    /// This host; only older kernels say so.
    Local,
    /// `-i`.
    Tunnel(Tunnel),
    /// DR (`-g`).
    Direct,
    /// Past the cache of a transparent proxy.
    Bypass,
}

/// The kind of a tunnel, `IP_VS_CONN_F_TUNNEL_TYPE_*`, and its `IP_VS_TUNNEL_ENCAP_FLAG_*`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Tunnel {
    /// 0 IPIP, 1 GUE, 2 GRE.
    pub kind: u8,
    /// UDP port of GUE.
    pub port: u16,
    /// 1 checksum, 2 remote checksum offload.
    pub flags: u16,
}

impl Tunnel {
    pub const IPIP: u8 = 0;
    pub const GUE: u8 = 1;
    pub const GRE: u8 = 2;
}

/// What a destination of a service is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DestKey {
    pub addr: IpAddr,
    pub port: u16,
}

impl DestKey {
    pub(super) fn write(&self, out: &mut Writer) {
        out.u16(dst::ADDR_FAMILY, family_of(self.addr));
        out.address(dst::ADDR, self.addr);
        out.be16(dst::PORT, self.port);
    }

    /// Kernels before 3.18 say no family: it is that of the service, which `service` names.
    pub(super) fn read(from: &Reader<'_>, service: Option<&ServiceKey>) -> Result<Self, WireError> {
        let what = "a destination's family";
        let of_service = service.map(|key| if key.is_ipv6() { 10 } else { 2 });
        let family = family(from.u16(dst::ADDR_FAMILY, what)?.or(of_service), what)?;
        let addr = from.address(dst::ADDR, "a destination's address", family)?;
        Ok(Self {
            addr: needed(addr, "a destination's address")?,
            port: needed(from.be16(dst::PORT, "a destination's port")?, "a destination's port")?,
        })
    }
}

impl std::fmt::Display for DestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::net::SocketAddr::new(self.addr, self.port).fmt(f)
    }
}

/// A real server as IPVS has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dest {
    pub key: DestKey,
    pub forward: Forward,
    /// 0: no new connections.
    pub weight: u32,
    /// Connections from which on it takes no more; 0: any number.
    pub upper: u32,
    /// Connections below which it takes new ones again.
    pub lower: u32,
}

impl Dest {
    pub(super) fn write(&self, out: &mut Writer) {
        self.key.write(out);
        let (method, tunnel) = match self.forward {
            Forward::Masquerade => (0, None),
            Forward::Local => (1, None),
            Forward::Tunnel(tunnel) => (2, Some(tunnel)),
            Forward::Direct => (3, None),
            Forward::Bypass => (4, None),
        };
        out.u32(dst::FWD_METHOD, method);
        out.u32(dst::WEIGHT, self.weight);
        out.u32(dst::U_THRESH, self.upper);
        out.u32(dst::L_THRESH, self.lower);
        if let Some(tunnel) = tunnel {
            out.u8(dst::TUN_TYPE, tunnel.kind);
            out.be16(dst::TUN_PORT, tunnel.port);
            out.u16(dst::TUN_FLAGS, tunnel.flags);
        }
    }

    pub(super) fn read(from: &Reader<'_>, service: Option<&ServiceKey>) -> Result<Self, WireError> {
        let what = "a destination's method";
        let forward = match needed(from.u32(dst::FWD_METHOD, what)?, what)? & FORWARD_MASK {
            0 => Forward::Masquerade,
            1 => Forward::Local,
            2 => Forward::Tunnel(Tunnel {
                kind: from.u8(dst::TUN_TYPE, "a tunnel's kind")?.unwrap_or(0),
                port: from.be16(dst::TUN_PORT, "a tunnel's port")?.unwrap_or(0),
                flags: from.u16(dst::TUN_FLAGS, "a tunnel's flags")?.unwrap_or(0),
            }),
            3 => Forward::Direct,
            4 => Forward::Bypass,
            other => return Err(WireError::Value { what, value: other.into() }),
        };
        Ok(Self {
            key: DestKey::read(from, service)?,
            forward,
            weight: needed(from.u32(dst::WEIGHT, "its weight")?, "a destination's weight")?,
            upper: from.u32(dst::U_THRESH, "a destination's upper threshold")?.unwrap_or(0),
            lower: from.u32(dst::L_THRESH, "a destination's lower threshold")?.unwrap_or(0),
        })
    }
}

/// A destination with its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestEntry {
    pub dest: Dest,
    /// Established connections.
    pub active: u32,
    /// Those that are being opened or closed.
    pub inactive: u32,
    /// Clients that keep it.
    pub persistent: u32,
    pub stats: Stats,
}

impl DestEntry {
    pub(super) fn write(&self, out: &mut Writer) {
        self.dest.write(out);
        out.u32(dst::ACTIVE_CONNS, self.active);
        out.u32(dst::INACT_CONNS, self.inactive);
        out.u32(dst::PERSIST_CONNS, self.persistent);
        self.stats.write(out, dst::STATS64);
    }

    pub(super) fn read(from: &Reader<'_>, service: Option<&ServiceKey>) -> Result<Self, WireError> {
        let count = |kind| from.u32(kind, "a count of connections").map(|it| it.unwrap_or(0));
        Ok(Self {
            dest: Dest::read(from, service)?,
            active: count(dst::ACTIVE_CONNS)?,
            inactive: count(dst::INACT_CONNS)?,
            persistent: count(dst::PERSIST_CONNS)?,
            stats: Stats::read(from, dst::STATS64, dst::STATS)?,
        })
    }
}
