//! The kernel's synchronisation of connections.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{
    WireError,
    attributes::{Reader, Writer, needed},
};

/// `IPVS_DAEMON_ATTR_*`.
mod dmn {
    pub(super) const STATE: u16 = 1;
    pub(super) const MCAST_IFN: u16 = 2;
    pub(super) const SYNC_ID: u16 = 3;
    pub(super) const SYNC_MAXLEN: u16 = 4;
    pub(super) const MCAST_GROUP: u16 = 5;
    pub(super) const MCAST_GROUP6: u16 = 6;
    pub(super) const MCAST_PORT: u16 = 7;
    pub(super) const MCAST_TTL: u16 = 8;
}

/// Which half of the synchronisation a daemon is, `IP_VS_STATE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DaemonState {
    /// Sends.
    Master,
    /// Receives.
    Backup,
}

impl DaemonState {
    fn number(self) -> u32 {
        match self {
            Self::Master => 1,
            Self::Backup => 2,
        }
    }

    pub(super) fn read(from: &Reader<'_>) -> Result<Self, WireError> {
        let what = "a sync daemon's state";
        match needed(from.u32(dmn::STATE, what)?, what)? {
            1 => Ok(Self::Master),
            2 => Ok(Self::Backup),
            other => Err(WireError::Value { what, value: other.into() }),
        }
    }
}

/// What a sync daemon is ended by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonKey {
    pub state: DaemonState,
    pub interface: String,
    /// Messages of another id are ignored.
    pub sync_id: u32,
}

/// Where a sync daemon's messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonGroup {
    pub group: IpAddr,
    pub port: u16,
    pub ttl: u8,
}

/// A kernel thread that synchronises connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    pub key: DaemonKey,
    /// Longest message in bytes; 0: by the interface's MTU.
    pub max_length: u16,
    /// `None`: 224.0.0.81, port 8848, one hop; kernels before 4.3 know nothing else.
    pub group: Option<DaemonGroup>,
}

impl DaemonKey {
    pub(super) fn write(&self, out: &mut Writer) {
        out.u32(dmn::STATE, self.state.number());
        out.text(dmn::MCAST_IFN, &self.interface);
        out.u32(dmn::SYNC_ID, self.sync_id);
    }

    pub(super) fn read(from: &Reader<'_>) -> Result<Self, WireError> {
        let interface = from.text(dmn::MCAST_IFN, "a sync daemon's interface")?;
        Ok(Self {
            state: DaemonState::read(from)?,
            interface: interface.unwrap_or_default(),
            sync_id: from.u32(dmn::SYNC_ID, "a sync daemon's id")?.unwrap_or(0),
        })
    }
}

impl Daemon {
    pub(super) fn write(&self, out: &mut Writer) {
        self.key.write(out);
        if self.max_length > 0 {
            out.u16(dmn::SYNC_MAXLEN, self.max_length);
        }
        if let Some(group) = self.group {
            match group.group {
                IpAddr::V4(addr) => out.raw(dmn::MCAST_GROUP, &addr.octets()),
                IpAddr::V6(addr) => out.raw(dmn::MCAST_GROUP6, &addr.octets()),
            }
            out.u16(dmn::MCAST_PORT, group.port);
            out.u8(dmn::MCAST_TTL, group.ttl);
        }
    }

    pub(super) fn read(from: &Reader<'_>) -> Result<Self, WireError> {
        let what = "a sync daemon's group";
        let four = from.u32(dmn::MCAST_GROUP, what)?;
        let four = four.map(|group| IpAddr::from(Ipv4Addr::from(group.to_ne_bytes())));
        let group = match four {
            Some(group) => Some(group),
            None => from.address(dmn::MCAST_GROUP6, what, 10)?,
        };
        let port = from.u16(dmn::MCAST_PORT, "a sync daemon's port")?;
        let ttl = from.u8(dmn::MCAST_TTL, "a sync daemon's TTL")?;
        Ok(Self {
            key: DaemonKey::read(from)?,
            max_length: from.u16(dmn::SYNC_MAXLEN, "a sync daemon's length")?.unwrap_or(0),
            group: group.map(|group| DaemonGroup {
                group,
                port: port.unwrap_or(0),
                ttl: ttl.unwrap_or(0),
            }),
        })
    }
}
