//! Messages of the generic-netlink family IPVS (version 1), as `include/uapi/linux/ip_vs.h` and
//! `net/netfilter/ipvs/ip_vs_ctl.c` have them. Pure: bytes in, meaning out.
//!
//! Bytes come from the kernel; still nothing here panics whatever they are (fuzz target `ipvs_wire`). What a
//! newer kernel adds is ignored. FLUSH is left out on purpose: it would remove what is not ours.

mod attributes;
mod daemon;
mod dest;
mod messages;
mod service;

pub use attributes::WireError;
pub use daemon::{Daemon, DaemonGroup, DaemonKey, DaemonState};
pub use dest::{Dest, DestEntry, DestKey, Forward, Tunnel};
pub use messages::{Answer, Info, Request, Timeouts};
pub use service::{Service, ServiceEntry, ServiceKey, Stats};

/// The name of the family, for the controller.
pub const FAMILY: &str = "IPVS";
/// `IPVS_GENL_VERSION`.
pub const VERSION: u8 = 1;
/// Longest name: an interface's, a scheduler's or a persistence engine's, and its zero (`IP_VS_IFNAME_MAXLEN`,
/// `IP_VS_SCHEDNAME_MAXLEN`, `IP_VS_PENAME_MAXLEN`).
pub const NAME_LIMIT: usize = 16;

/// Commands, `IPVS_CMD_*`.
pub mod command {
    pub const NEW_SERVICE: u8 = 1;
    pub const SET_SERVICE: u8 = 2;
    pub const DEL_SERVICE: u8 = 3;
    pub const GET_SERVICE: u8 = 4;
    pub const NEW_DEST: u8 = 5;
    pub const SET_DEST: u8 = 6;
    pub const DEL_DEST: u8 = 7;
    pub const GET_DEST: u8 = 8;
    pub const NEW_DAEMON: u8 = 9;
    pub const DEL_DAEMON: u8 = 10;
    pub const GET_DAEMON: u8 = 11;
    pub const SET_CONFIG: u8 = 12;
    pub const GET_CONFIG: u8 = 13;
    pub const SET_INFO: u8 = 14;
    pub const GET_INFO: u8 = 15;
    pub const ZERO: u8 = 16;
}

/// Flags of a service, `IP_VS_SVC_F_*`.
pub mod flag {
    /// Clients keep their server; `timeout` and `netmask` count.
    pub const PERSISTENT: u32 = 1;
    /// In the kernel's hash; set by the kernel itself.
    pub const HASHED: u32 = 2;
    /// `ops`: each packet is a connection.
    pub const ONE_PACKET: u32 = 4;
    /// `flag-1`; `sh-fallback`, `mh-fallback`.
    pub const SCHED_1: u32 = 8;
    /// `flag-2`; `sh-port`, `mh-port`.
    pub const SCHED_2: u32 = 16;
    /// `flag-3`.
    pub const SCHED_3: u32 = 32;
}

/// A message without its netlink header: command, and attributes as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub command: u8,
    pub attributes: Vec<u8>,
}

#[cfg(test)]
mod tests;
