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

/// What forwards.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Engine {
    /// Our own program.
    #[default]
    Xdp,
    /// The kernel's virtual servers.
    Ipvs,
}

impl Engine {
    /// Word for logs, metrics and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Ipvs => "ipvs",
        }
    }
}

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
    /// Whether a client's next connection goes to the real server of the one before.
    pub persistence: Option<Persistence>,
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
    /// Shortest expected delay: fewest connections per weight, the new one counted in.
    Sed,
    /// Never queue: a server without connections if there is one, else as `Sed`.
    Nq,
    /// Source hashing; here by the same ring as `Mh`.
    Sh(Hashing),
    /// Maglev hashing.
    Mh(Hashing),
}

/// Flags of `sh` and `mh`. IPVS has one bit for each, which both schedulers read.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Hashing {
    /// The client's port counts beside its address (`sh-port`, `mh-port`).
    pub port: bool,
    /// A client whose server takes no new connections gets another one (`sh-fallback`,
    /// `mh-fallback`). Without it the client is refused while that server is
    /// [`RealServerState::Inhibited`] or above its limit; one that left the pool is replaced either way.
    pub fallback: bool,
}

impl Scheduler {
    /// keepalived's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Sh(_) => "sh",
            Self::Mh(_) => "mh",
        }
    }

    /// The same with these flags, if it has any.
    #[must_use]
    pub fn with(self, hashing: Hashing) -> Self {
        match self {
            Self::Sh(_) => Self::Sh(hashing),
            Self::Mh(_) => Self::Mh(hashing),
            other => other,
        }
    }

    /// Its flags if it chooses by a hash of the client.
    pub fn hashing(self) -> Option<Hashing> {
        match self {
            Self::Sh(hashing) | Self::Mh(hashing) => Some(hashing),
            _ => None,
        }
    }
}

/// How long and how widely a client keeps its real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Persistence {
    /// `persistence_timeout`: for so long after its last connection. Whole seconds, at least one.
    pub timeout: Duration,
    /// `persistence_granularity`: clients with so many leading bits in common count as one, 1 to
    /// [`Persistence::whole`].
    pub granularity: u8,
}

impl Persistence {
    /// IPVS's `persistence_timeout` where none is given.
    pub const TIMEOUT: Duration = Duration::from_secs(360);

    /// Bits of a whole address of the VIP's family.
    pub const fn whole(vip: IpAddr) -> u8 {
        if vip.is_ipv4() { 32 } else { 128 }
    }
}

/// `lb_kind`, as far as the XDP engine has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Method {
    /// Direct server return: only the MAC addresses change.
    Dr,
    /// Destination NAT; replies come back through us, the client's address is kept.
    Nat,
    /// Tunnel (IPIP and its kin): the packet goes, unchanged, inside of another one to the real server, which may be of
    /// the other address family and behind routers. Replies go to the client directly.
    Tun,
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
    /// How many connections it may have.
    pub limits: Limits,
}

/// Limits of a real server's established connections; 0 stands for none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Limits {
    /// With so many it takes no more (`uthreshold`).
    pub upper: u32,
    /// Below so many it takes new ones again (`lthreshold`); 0: below three quarters of `upper`.
    pub lower: u32,
}

/// State of a real server in the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RealServerState {
    /// New and established connections.
    Up,
    /// New connections of clients only that [`Persistence`] leads there; established ones untouched
    /// (SUSPECT, drained by the operator).
    Drain,
    /// As `Drain`, but nobody's new connections: it would not serve them (FULL, shutting down, not up yet), or
    /// the sorry server stands in.
    Closed,
    /// Down under `inhibit_on_failure`, which means weight 0 rather than removal: as `Drain`, but
    /// a hash without [`Hashing::fallback`] goes on naming it. `weight` is what it had.
    Inhibited,
    /// Dead: no new connections; established ones by [`OnDown`].
    Down,
}
