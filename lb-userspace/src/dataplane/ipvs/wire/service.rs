//! Services and counters.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    WireError,
    attributes::{Reader, Writer, family, family_of, needed},
};

/// `IPVS_SVC_ATTR_*`.
mod svc {
    pub(super) const AF: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDR: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const FWMARK: u16 = 5;
    pub(super) const SCHED_NAME: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
    pub(super) const STATS: u16 = 10;
    pub(super) const PE_NAME: u16 = 11;
    pub(super) const STATS64: u16 = 12;
}

/// `IPVS_STATS_ATTR_*`, the sums among them.
mod sta {
    pub(super) const CONNS: u16 = 1;
    pub(super) const INPKTS: u16 = 2;
    pub(super) const OUTPKTS: u16 = 3;
    pub(super) const INBYTES: u16 = 4;
    pub(super) const OUTBYTES: u16 = 5;
}

/// What a service is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceKey {
    /// `protocol` is an IP protocol number: 6, 17 or 132.
    Address { protocol: u8, addr: IpAddr, port: u16 },
    /// Packets that a firewall has marked; `ipv6` is their family.
    Mark { mark: u32, ipv6: bool },
}

impl ServiceKey {
    /// The VIP's family: that of its destinations, tunnels aside.
    pub fn is_ipv6(&self) -> bool {
        match self {
            Self::Address { addr, .. } => addr.is_ipv6(),
            Self::Mark { ipv6, .. } => *ipv6,
        }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        match self {
            Self::Address { protocol, addr, port } => {
                out.u16(svc::AF, family_of(*addr));
                out.u16(svc::PROTOCOL, (*protocol).into());
                out.address(svc::ADDR, *addr);
                out.be16(svc::PORT, *port);
            }
            Self::Mark { mark, ipv6 } => {
                out.u16(svc::AF, if *ipv6 { 10 } else { 2 });
                out.u32(svc::FWMARK, *mark);
            }
        }
    }

    pub(super) fn read(from: &Reader<'_>) -> Result<Self, WireError> {
        let family = family(from.u16(svc::AF, "a service's family")?, "a service's family")?;
        if let Some(mark) = from.u32(svc::FWMARK, "a service's mark")? {
            return Ok(Self::Mark { mark, ipv6: family == 10 });
        }
        let what = "a service's protocol";
        let protocol = needed(from.u16(svc::PROTOCOL, what)?, what)?;
        let value = protocol.into();
        let protocol = u8::try_from(protocol).map_err(|_| WireError::Value { what, value })?;
        let addr = from.address(svc::ADDR, "a service's address", family)?;
        Ok(Self::Address {
            protocol,
            addr: needed(addr, "a service's address")?,
            port: needed(from.be16(svc::PORT, "a service's port")?, "a service's port")?,
        })
    }
}

impl std::fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address { protocol, addr, port } => {
                let addr = std::net::SocketAddr::new(*addr, *port);
                match protocol {
                    6 => write!(f, "tcp/{addr}"),
                    17 => write!(f, "udp/{addr}"),
                    132 => write!(f, "sctp/{addr}"),
                    other => write!(f, "protocol {other}/{addr}"),
                }
            }
            Self::Mark { mark, ipv6: false } => write!(f, "fwmark {mark}"),
            Self::Mark { mark, ipv6: true } => write!(f, "fwmark {mark} inet6"),
        }
    }
}

/// A virtual server as IPVS has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub key: ServiceKey,
    /// `rr`, `wlc`, …: the kernel looks for the module `ip_vs_NAME` itself.
    pub scheduler: String,
    /// [`super::flag`].
    pub flags: u32,
    /// Seconds that a client keeps its server; 0 without [`super::flag::PERSISTENT`].
    pub timeout: u32,
    /// Leading bits of a client's address by which it is told from others: at most 32 or 128.
    pub prefix: u8,
    /// Persistence engine, such as `sip`.
    pub engine: Option<String>,
}

impl Service {
    pub(super) fn write(&self, out: &mut Writer) {
        self.key.write(out);
        out.text(svc::SCHED_NAME, &self.scheduler);
        if let Some(engine) = &self.engine {
            out.text(svc::PE_NAME, engine);
        }
        let mask = u32::MAX;
        out.raw(svc::FLAGS, &[self.flags.to_ne_bytes(), mask.to_ne_bytes()].concat());
        out.u32(svc::TIMEOUT, self.timeout);
        let netmask = match self.key.is_ipv6() {
            true => u32::from(self.prefix),
            false => {
                let ones = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32)));
                ones.unwrap_or(0).to_be()
            }
        };
        out.u32(svc::NETMASK, netmask);
    }

    pub(super) fn read(from: &Reader<'_>) -> Result<Self, WireError> {
        let key = ServiceKey::read(from)?;
        let scheduler = from.text(svc::SCHED_NAME, "a service's scheduler")?;
        let (flags, mask) = needed(from.pair(svc::FLAGS, "a service's flags")?, "its flags")?;
        let netmask = from.u32(svc::NETMASK, "a service's netmask")?;
        let netmask = needed(netmask, "a service's netmask")?;
        let value = netmask.into();
        let wrong = WireError::Value { what: "a service's netmask", value };
        let prefix = match key.is_ipv6() {
            true => u8::try_from(netmask).ok().filter(|len| *len <= 128),
            false => {
                let ones = u32::from_be(netmask).leading_ones();
                let whole = u32::from_be(netmask).checked_shl(ones).unwrap_or(0) == 0;
                u8::try_from(ones).ok().filter(|_| whole)
            }
        };
        Ok(Self {
            key,
            scheduler: needed(scheduler, "a service's scheduler")?,
            flags: flags & mask,
            timeout: needed(from.u32(svc::TIMEOUT, "its time-out")?, "a service's time-out")?,
            prefix: prefix.ok_or(wrong)?,
            engine: from.text(svc::PE_NAME, "a service's persistence engine")?,
        })
    }
}

/// Sums since an object was made, or zeroed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub connections: u64,
    pub in_packets: u64,
    pub out_packets: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
}

impl Stats {
    /// Of 64 bits, or from kernels before 4.1 of 32.
    pub(super) fn read(from: &Reader<'_>, wide: u16, narrow: u16) -> Result<Self, WireError> {
        if let Some(stats) = from.nested(wide, "counters")? {
            let sum = |kind| stats.u64(kind, "a counter").map(|sum| sum.unwrap_or(0));
            return Ok(Self {
                connections: sum(sta::CONNS)?,
                in_packets: sum(sta::INPKTS)?,
                out_packets: sum(sta::OUTPKTS)?,
                in_bytes: sum(sta::INBYTES)?,
                out_bytes: sum(sta::OUTBYTES)?,
            });
        }
        let Some(stats) = from.nested(narrow, "counters")? else { return Ok(Self::default()) };
        let sum = |kind| stats.u32(kind, "a counter").map(|sum| sum.unwrap_or(0).into());
        Ok(Self {
            connections: sum(sta::CONNS)?,
            in_packets: sum(sta::INPKTS)?,
            out_packets: sum(sta::OUTPKTS)?,
            in_bytes: stats.u64(sta::INBYTES, "a counter")?.unwrap_or(0),
            out_bytes: stats.u64(sta::OUTBYTES, "a counter")?.unwrap_or(0),
        })
    }

    pub(super) fn write(&self, out: &mut Writer, wide: u16) {
        let mut inner = Writer::default();
        inner.u64(sta::CONNS, self.connections);
        inner.u64(sta::INPKTS, self.in_packets);
        inner.u64(sta::OUTPKTS, self.out_packets);
        inner.u64(sta::INBYTES, self.in_bytes);
        inner.u64(sta::OUTBYTES, self.out_bytes);
        out.nested(wide, inner);
    }
}

/// A service with its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub service: Service,
    pub stats: Stats,
}

impl ServiceEntry {
    pub(super) fn write(&self, out: &mut Writer) {
        self.service.write(out);
        self.stats.write(out, svc::STATS64);
    }

    pub(super) fn read(from: &Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            service: Service::read(from)?,
            stats: Stats::read(from, svc::STATS64, svc::STATS)?,
        })
    }
}
