//! What is asked of the kernel, and what it answers.

use serde::{Deserialize, Serialize};

use super::{
    Daemon, DaemonKey, Dest, DestEntry, DestKey, Message, Service, ServiceEntry, ServiceKey,
    WireError,
    attributes::{Reader, Writer, needed},
    command::*,
};

/// Attributes of a message, `IPVS_CMD_ATTR_*`.
mod top {
    pub(super) const SERVICE: u16 = 1;
    pub(super) const DEST: u16 = 2;
    pub(super) const DAEMON: u16 = 3;
    pub(super) const TIMEOUT_TCP: u16 = 4;
    pub(super) const TIMEOUT_TCP_FIN: u16 = 5;
    pub(super) const TIMEOUT_UDP: u16 = 6;
}

/// `IPVS_INFO_ATTR_*`.
mod inf {
    pub(super) const VERSION: u16 = 1;
    pub(super) const CONN_TAB_SIZE: u16 = 2;
}

/// Lives of connections without a packet, in seconds, of the whole network namespace; 0 changes
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    pub tcp: u32,
    /// After the first FIN.
    pub tcp_fin: u32,
    pub udp: u32,
}

/// What the module says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// 0x010201 is 1.2.1.
    pub version: u32,
    /// Rows of the table of connections.
    pub table_size: u32,
}

/// What is asked of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    NewService(Service),
    SetService(Service),
    DelService(ServiceKey),
    GetService(ServiceKey),
    /// All of them; a dump.
    GetServices,
    NewDest(ServiceKey, Dest),
    SetDest(ServiceKey, Dest),
    DelDest(ServiceKey, DestKey),
    /// All of a service; a dump.
    GetDests(ServiceKey),
    NewDaemon(Daemon),
    DelDaemon(DaemonKey),
    /// At most one of each state; a dump.
    GetDaemons,
    SetConfig(Timeouts),
    GetConfig,
    GetInfo,
    /// The counters of one service, or of all.
    Zero(Option<ServiceKey>),
}

impl Request {
    /// Whether the answer is a list.
    pub fn is_dump(&self) -> bool {
        matches!(self, Self::GetServices | Self::GetDests(_) | Self::GetDaemons)
    }

    /// Whether the answer is a message rather than an acknowledgement.
    pub fn asks(&self) -> bool {
        self.is_dump() || matches!(self, Self::GetService(_) | Self::GetConfig | Self::GetInfo)
    }

    /// As the kernel reads it.
    pub fn encode(&self) -> Message {
        let mut out = Writer::default();
        let command = match self {
            Self::NewService(service) | Self::SetService(service) => {
                nested(&mut out, top::SERVICE, &|inner| service.write(inner));
                if matches!(self, Self::NewService(_)) { NEW_SERVICE } else { SET_SERVICE }
            }
            Self::DelService(key) | Self::GetService(key) => {
                nested(&mut out, top::SERVICE, &|inner| key.write(inner));
                if matches!(self, Self::DelService(_)) { DEL_SERVICE } else { GET_SERVICE }
            }
            Self::GetServices => GET_SERVICE,
            Self::NewDest(key, dest) | Self::SetDest(key, dest) => {
                nested(&mut out, top::SERVICE, &|inner| key.write(inner));
                nested(&mut out, top::DEST, &|inner| dest.write(inner));
                if matches!(self, Self::NewDest(..)) { NEW_DEST } else { SET_DEST }
            }
            Self::DelDest(key, dest) => {
                nested(&mut out, top::SERVICE, &|inner| key.write(inner));
                nested(&mut out, top::DEST, &|inner| dest.write(inner));
                DEL_DEST
            }
            Self::GetDests(key) => {
                nested(&mut out, top::SERVICE, &|inner| key.write(inner));
                GET_DEST
            }
            Self::NewDaemon(daemon) => {
                nested(&mut out, top::DAEMON, &|inner| daemon.write(inner));
                NEW_DAEMON
            }
            Self::DelDaemon(key) => {
                nested(&mut out, top::DAEMON, &|inner| key.write(inner));
                DEL_DAEMON
            }
            Self::GetDaemons => GET_DAEMON,
            Self::SetConfig(timeouts) => {
                out.u32(top::TIMEOUT_TCP, timeouts.tcp);
                out.u32(top::TIMEOUT_TCP_FIN, timeouts.tcp_fin);
                out.u32(top::TIMEOUT_UDP, timeouts.udp);
                SET_CONFIG
            }
            Self::GetConfig => GET_CONFIG,
            Self::GetInfo => GET_INFO,
            Self::Zero(key) => {
                if let Some(key) = key {
                    nested(&mut out, top::SERVICE, &|inner| key.write(inner));
                }
                ZERO
            }
        };
        Message { command, attributes: out.bytes() }
    }

    /// What another tool asks: `dump` is its flag in the netlink header.
    ///
    /// # Errors
    /// When it is none of these, or cut off.
    pub fn decode(message: &Message, dump: bool) -> Result<Self, WireError> {
        let attributes = Reader::new("a request", &message.attributes)?;
        let service = || needed(attributes.nested(top::SERVICE, "a service")?, "a service");
        let key = || ServiceKey::read(&service()?);
        let dest = || needed(attributes.nested(top::DEST, "a destination")?, "a destination");
        let daemon = || needed(attributes.nested(top::DAEMON, "a sync daemon")?, "a sync daemon");
        Ok(match message.command {
            NEW_SERVICE => Self::NewService(Service::read(&service()?)?),
            SET_SERVICE => Self::SetService(Service::read(&service()?)?),
            DEL_SERVICE => Self::DelService(key()?),
            GET_SERVICE if dump => Self::GetServices,
            GET_SERVICE => Self::GetService(key()?),
            NEW_DEST => Self::NewDest(key()?, Dest::read(&dest()?, Some(&key()?))?),
            SET_DEST => Self::SetDest(key()?, Dest::read(&dest()?, Some(&key()?))?),
            DEL_DEST => Self::DelDest(key()?, DestKey::read(&dest()?, Some(&key()?))?),
            GET_DEST => Self::GetDests(key()?),
            NEW_DAEMON => Self::NewDaemon(Daemon::read(&daemon()?)?),
            DEL_DAEMON => Self::DelDaemon(DaemonKey::read(&daemon()?)?),
            GET_DAEMON => Self::GetDaemons,
            SET_CONFIG => Self::SetConfig(timeouts(&attributes)?),
            GET_CONFIG => Self::GetConfig,
            GET_INFO => Self::GetInfo,
            ZERO if attributes.get(top::SERVICE).is_none() => Self::Zero(None),
            ZERO => Self::Zero(Some(key()?)),
            other => return Err(WireError::Command(other)),
        })
    }
}

fn timeouts(from: &Reader<'_>) -> Result<Timeouts, WireError> {
    Ok(Timeouts {
        tcp: from.u32(top::TIMEOUT_TCP, "the time-out of TCP")?.unwrap_or(0),
        tcp_fin: from.u32(top::TIMEOUT_TCP_FIN, "the time-out after FIN")?.unwrap_or(0),
        udp: from.u32(top::TIMEOUT_UDP, "the time-out of UDP")?.unwrap_or(0),
    })
}

/// What the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Service(ServiceEntry),
    Dest(DestEntry),
    Daemon(Daemon),
    Config(Timeouts),
    Info(Info),
}

impl Answer {
    /// What a message of the kernel means. `service` is whose destinations were asked for.
    ///
    /// # Errors
    /// When it is none of these, or cut off.
    pub fn decode(message: &Message, service: Option<&ServiceKey>) -> Result<Self, WireError> {
        let attributes = Reader::new("an answer", &message.attributes)?;
        let nested = |kind, what| needed(attributes.nested(kind, what)?, what);
        Ok(match message.command {
            NEW_SERVICE => Self::Service(ServiceEntry::read(&nested(top::SERVICE, "a service")?)?),
            NEW_DEST => Self::Dest(DestEntry::read(&nested(top::DEST, "a destination")?, service)?),
            NEW_DAEMON => Self::Daemon(Daemon::read(&nested(top::DAEMON, "a sync daemon")?)?),
            SET_CONFIG => Self::Config(timeouts(&attributes)?),
            SET_INFO => Self::Info(Info {
                version: attributes.u32(inf::VERSION, "the version of IPVS")?.unwrap_or(0),
                table_size: attributes.u32(inf::CONN_TAB_SIZE, "its table")?.unwrap_or(0),
            }),
            other => return Err(WireError::Command(other)),
        })
    }

    /// As the kernel would say it; for tests.
    pub fn encode(&self) -> Message {
        let mut out = Writer::default();
        let command = match self {
            Self::Service(entry) => {
                nested(&mut out, top::SERVICE, &|inner| entry.write(inner));
                NEW_SERVICE
            }
            Self::Dest(entry) => {
                nested(&mut out, top::DEST, &|inner| entry.write(inner));
                NEW_DEST
            }
            Self::Daemon(daemon) => {
                nested(&mut out, top::DAEMON, &|inner| daemon.write(inner));
                NEW_DAEMON
            }
            Self::Config(timeouts) => {
                out.u32(top::TIMEOUT_TCP, timeouts.tcp);
                out.u32(top::TIMEOUT_TCP_FIN, timeouts.tcp_fin);
                out.u32(top::TIMEOUT_UDP, timeouts.udp);
                SET_CONFIG
            }
            Self::Info(info) => {
                out.u32(inf::VERSION, info.version);
                out.u32(inf::CONN_TAB_SIZE, info.table_size);
                SET_INFO
            }
        };
        Message { command, attributes: out.bytes() }
    }
}

fn nested(out: &mut Writer, kind: u16, write: &dyn Fn(&mut Writer)) {
    let mut inner = Writer::default();
    write(&mut inner);
    out.nested(kind, inner);
}
