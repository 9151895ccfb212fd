//! The forwarding table: one language for what is desired, what an engine holds, and their diff.
//!
//! A table says *what* is forwarded where; next hops (MAC, interface), generations and counters
//! belong to the engine. Desired and observed tables are compared with `==`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{net::VirtualServerKey, time::Instant};

/// Everything a data plane forwards, and the addresses it guards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardingTable {
    /// Virtual servers by protocol, VIP and port.
    pub virtual_servers: BTreeMap<VirtualServerKey, VirtualServer>,
    /// Every VIP of a vrrp_instance with its lease, with or without a virtual server: the data
    /// plane silences these when the lease has run out.
    pub vips: BTreeMap<IpAddr, LeaseSlot>,
    /// Interfaces (names) that the engine works on: those of vrrp_instances, their VIPs, and the
    /// ones that lead to real servers.
    pub interfaces: BTreeSet<String>,
}

/// Index into the lease map. One slot for each vrrp_instance; stable across reloads of an
/// instance that is still configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseSlot(pub u16);

impl LeaseSlot {
    /// Number of slots; slot 0 is [`Gate::Always`]'s and never used for an instance.
    pub const LIMIT: u16 = 256;
}

/// What a lease slot says to the data plane (DESIGN §6, gate).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeaseState {
    /// Not master: VIP traffic is passed to the stack, which does not hold the address.
    Standby,
    /// Master until then: forward. After it: drop VIP traffic and ARP for the VIP, count
    /// `fenced`. `Until(Instant::ZERO)` fences at once (step-down, before the VIPs are removed).
    Until(Instant),
}

/// Whose permission a virtual server needs to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Gate {
    /// No vrrp_instance lists the address: always active.
    Always,
    /// Forwards only while this lease runs.
    Lease(LeaseSlot),
}

/// One virtual server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualServer {
    /// Whose permission it needs.
    pub gate: Gate,
    /// Scheduler (`lb_algo`).
    pub scheduler: Scheduler,
    /// Life of an established connection without a packet.
    pub idle_timeout: Duration,
    /// What happens to connections of a real server that is [`RealServerState::Down`] or gone.
    pub on_down: OnDown,
    /// Real servers by address and port. The sorry server is one of them when it is in use.
    pub real_servers: BTreeMap<SocketAddr, RealServer>,
}

/// `lb_algo`, as far as the XDP engine has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scheduler {
    /// Round robin, weights ignored (zero still means: no new connections).
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// Maglev hashing over the client's address and port.
    Mh,
}

/// `lb_kind`, as far as the XDP engine has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Method {
    /// Direct server return: only the MAC addresses change.
    Dr,
    /// Destination NAT; replies come back through us, the client's address is kept.
    Nat,
    /// The real server is this host: the packet goes up the stack unchanged.
    Local,
}

/// What to do with connections of a dead real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OnDown {
    /// Answer the client's next packet with a RST.
    Reset,
    /// Leave them alone (`inhibit_on_failure`).
    Keep,
}

/// One real server of one virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServer {
    /// Forwarding method.
    pub method: Method,
    /// Share of new connections; 0 means none.
    pub weight: u32,
    /// Whether it takes new connections and keeps old ones.
    pub state: RealServerState,
}

/// State of a real server in the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RealServerState {
    /// New and established connections.
    Up,
    /// No new connections, established ones untouched (SUSPECT, FULL, drained by the operator).
    Drain,
    /// Dead: no new connections; established ones by [`OnDown`].
    Down,
}
