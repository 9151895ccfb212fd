//! Snapshots that the roles publish for `lbctl`, /metrics and the page. Serialised as JSON, so
//! field names are part of the interface.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// VRRP state, keepalived's four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum VrrpState {
    /// Started, waiting for interface, tracker or data plane.
    Init,
    /// Listens.
    Backup,
    /// Holds the VIPs.
    Master,
    /// A tracked object is bad.
    Fault,
}

impl VrrpState {
    /// keepalived's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Backup => "BACKUP",
            Self::Master => "MASTER",
            Self::Fault => "FAULT",
        }
    }
}

/// One vrrp_instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub name: String,
    pub interface: String,
    pub vrid: u8,
    pub version: u8,
    pub state: VrrpState,
    pub base_priority: u8,
    pub effective_priority: u8,
    /// Addresses with prefix, as configured.
    pub vips: Vec<String>,
    pub vips_set: bool,
    /// Address of the last master heard, if not us.
    pub master: Option<String>,
    pub master_priority: Option<u8>,
    /// Between the master's adverts, milliseconds: what it says itself in VRRPv3, else ours.
    #[serde(default)]
    pub master_interval_ms: u64,
    /// Milliseconds until the lease ends; negative when it has; `None` on standby.
    pub lease_ms: Option<i64>,
    /// One sentence: why it is (not) master.
    pub reason: String,
    /// The parts of that sentence, for programs.
    #[serde(default)]
    pub why: Why,
    /// Unix time of the last transition, seconds with fraction in milliseconds.
    pub last_transition_ms: u64,
    pub counters: InstanceCounters,
}

/// Why an instance is (not) master.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The router that is master in its stead.
    pub lost_to: Option<String>,
    /// Its priority.
    pub lost_by: Option<u8>,
    /// What holds it in FAULT or INIT.
    pub held_by: Vec<String>,
    /// What it does next if nothing happens.
    pub next: Option<String>,
    /// In how many milliseconds.
    pub next_ms: Option<u64>,
}

/// keepalived's statistics of an instance, by its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceCounters {
    pub advert_rcvd: u64,
    pub advert_sent: u64,
    pub become_master: u64,
    pub release_master: u64,
    pub pri_zero_rcvd: u64,
    pub pri_zero_sent: u64,
    pub garp_sent: u64,
    /// Timers that fired later than a tenth of their interval.
    pub late_timers: u64,
    /// ARP packets and neighbour advertisements of other hosts that claimed a VIP while this host was its master.
    pub vip_claims: u64,
    /// TCP connections of this host itself that were reset because their VIP left it.
    #[serde(default)]
    pub connections_aborted: u64,
    /// VIPs that somebody else put on this host while it was not master.
    #[serde(default)]
    pub foreign_vips: u64,
    /// Times that its lease could not be written, which is a FAULT.
    #[serde(default)]
    pub lease_faults: u64,
    /// Accepted adverts whose addresses are not ours.
    #[serde(default)]
    pub address_list_differs: u64,
    /// Discarded adverts by reason name.
    pub discarded: BTreeMap<String, u64>,
}

/// How late the timers of the vrrp process fire, over all its instances since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerStatus {
    /// The next advert of a master.
    pub advert: Lateness,
    /// The end of a backup's wait: master-down, or the skew after a farewell.
    pub master_down: Lateness,
}

/// A histogram of how late timers fire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// Upper bound in microseconds → timers in that bucket alone (not cumulative); `u64::MAX` is
    /// the unbounded one.
    pub late_us: BTreeMap<u64, u64>,
    /// Sum over all timers, microseconds.
    pub total_us: u64,
}

/// Datagrams that reached no instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayStatus {
    pub interface: String,
    /// As in [`InstanceCounters::discarded`].
    pub reason: String,
    /// Of an advert that is sound but not ours.
    pub vrid: Option<u8>,
    pub count: u64,
}

/// A `vrrp_track_process`, as the thread that counts them saw it last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedProcess {
    /// Of the block.
    pub name: String,
    /// Processes that match.
    pub count: u32,
    /// More of them than before would change the verdict, which waits for `fork_delay`.
    pub fork_delay_runs: bool,
    /// Fewer, for `terminate_delay`.
    pub terminate_delay_runs: bool,
}

/// Health of a real server as its checkers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    /// Takes connections.
    Up,
    /// Missed a probe: no new connections.
    Suspect,
    /// Answers, but its connection limit is reached: no new connections.
    Full,
    /// Says that it is shutting down: no new connections.
    Drain,
    /// Dead.
    Down,
    /// Not probed yet.
    Unknown,
}

/// One checker of one real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerStatus {
    /// Keyword, such as `MYSQL_CHECK`.
    pub kind: String,
    pub target: String,
    pub health: Health,
    /// Last verdict in words.
    pub detail: String,
    /// Duration of the last probe, microseconds.
    pub last_us: u64,
    pub probes: u64,
    pub failures: u64,
    /// Histogram of probe durations: upper bound in microseconds → probes in that bucket alone
    /// (not cumulative); `u64::MAX` is the unbounded one.
    pub latency_us: BTreeMap<u64, u64>,
    /// Sum of all probe durations in the histogram, microseconds.
    pub latency_total_us: u64,
    /// How often its task ended by itself, which is a fault of ours, and was started again.
    #[serde(default)]
    pub restarts: u64,
    /// Logins of a MYSQL_CHECK that were not made because earlier ones are not finished.
    #[serde(default)]
    pub deferred: u64,
}

/// A real server in the checker's eyes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHealth {
    /// `tcp/192.0.2.10:3306`.
    pub virtual_server: String,
    pub real_server: SocketAddr,
    pub health: Health,
    /// Weight after misc_dynamic and the like.
    pub weight: u32,
    pub checkers: Vec<CheckerStatus>,
}

/// A virtual server in the checker's eyes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumStatus {
    pub virtual_server: String,
    pub quorum: u32,
    pub up_weight: u64,
    pub quorum_up: bool,
    pub sorry_in_use: bool,
}

/// A real server in the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServerStatus {
    pub addr: SocketAddr,
    pub method: String,
    pub weight: u32,
    /// UP, DRAIN or DOWN.
    pub state: String,
    /// Set by the operator through `lbctl drain`.
    pub admin: Option<String>,
    /// Why it cannot be chosen, such as an unresolved neighbour.
    pub problem: Option<String>,
    pub active_connections: u64,
    /// Connections that have lost it and are not reset yet: their clients do not answer.
    #[serde(default)]
    pub stale_connections: u64,
    /// Milliseconds until what is left of its connections is reset; `None`: no such time is set.
    #[serde(default)]
    pub ends_in_ms: Option<u64>,
    pub connections: u64,
    pub packets: u64,
    pub bytes: u64,
    pub generation: u32,
    pub next_hop: Option<String>,
}

/// A virtual server in the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualServerStatus {
    pub key: String,
    pub engine: String,
    /// Why this engine.
    pub placement: String,
    pub scheduler: String,
    /// vrrp_instance whose lease it needs; `None`: always active.
    pub instance: Option<String>,
    /// Connections for which a real server was chosen since the virtual server was made.
    pub connections: u64,
    /// Connections refused because no real server could be chosen.
    #[serde(default)]
    pub unavailable: u64,
    /// Packets forwarded by hash because the table of connections was full.
    #[serde(default)]
    pub table_full: u64,
    /// RSTs sent to clients.
    #[serde(default)]
    pub resets: u64,
    /// Clients, or networks of them, that keep their real server; `None`: it has no persistence.
    #[serde(default)]
    pub templates: Option<u64>,
    /// Connections whose client found no room among those.
    #[serde(default)]
    pub templates_full: u64,
    /// Both directions, real servers that have left included.
    pub packets: u64,
    /// As `packets`.
    pub bytes: u64,
    pub real_servers: Vec<RealServerStatus>,
}

/// An interface the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    pub ifindex: u32,
    /// native, generic (XDP); tcx, clsact (tc); none.
    pub mode: String,
    /// Why in this way.
    #[serde(default)]
    pub reason: String,
    /// Error or hint, such as a foreign program.
    pub problem: Option<String>,
}

/// Forwarder snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwarderStatus {
    pub engine: String,
    /// Why this engine.
    #[serde(default)]
    pub engine_reason: String,
    /// What this engine cannot promise, a sentence each.
    #[serde(default)]
    pub limits: Vec<String>,
    /// Virtual servers in the kernel's IPVS table that are not ours and are left alone.
    #[serde(default)]
    pub foreign_services: Vec<String>,
    pub generation: u64,
    /// Why virtual servers cannot be forwarded as configured, if that is so.
    #[serde(default)]
    pub problem: Option<String>,
    pub interfaces: Vec<InterfaceStatus>,
    pub virtual_servers: Vec<VirtualServerStatus>,
    /// Outcome name → packets.
    pub outcomes: BTreeMap<String, u64>,
    /// Of both address families.
    pub flows: u64,
    /// Entries that each family's table has room for; a NAT connection takes two.
    pub flows_max: u64,
    pub embryos: u64,
    pub reconcile_errors: u64,
    /// From a checker's verdict to the maps: upper bound in microseconds → verdicts.
    pub verdict_us: BTreeMap<u64, u64>,
    /// Sum of the times in that histogram, microseconds.
    #[serde(default)]
    pub verdict_total_us: u64,
    /// Average cost of a packet in the kernel program, when the kernel counts it.
    pub ns_per_packet: Option<u64>,
    /// Segments about connections whose real server is gone: probe (to a client), reset (to a server),
    /// failed (not sent).
    #[serde(default)]
    pub reset_segments: BTreeMap<String, u64>,
    /// `None`: the configuration has none.
    #[serde(default)]
    pub flow_sync: Option<FlowSyncStatus>,
}

/// Flow sync: what the hosts of the virtual routers tell each other of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSyncStatus {
    /// Why there is none at the moment, such as an interface that does not exist.
    pub problem: Option<String>,
    /// Whether this host may become master as far as flow sync is concerned.
    pub settled: bool,
    pub peers: Vec<SyncPeerStatus>,
    /// opened, refreshed, closed → records told to peers.
    pub sent: BTreeMap<String, u64>,
    pub datagrams_sent: u64,
    /// Datagrams sent again because a peer missed them.
    pub repaired: u64,
    /// Full resyncs told.
    pub resyncs_sent: u64,
    /// Datagrams that the kernel did not take.
    pub datagrams_lost: u64,
    /// Times that the kernel program had no room for changes.
    pub changes_lost: u64,
    /// Reason → datagrams that were not taken.
    pub rejected: BTreeMap<String, u64>,
    /// What became of the connections that peers told of: entered, or why not.
    pub connections: BTreeMap<String, u64>,
}

/// Another host of flow sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPeerStatus {
    pub addr: IpAddr,
    /// away, syncing, in sync.
    pub state: String,
    /// Milliseconds since it was last heard; `None`: never.
    pub heard_ms: Option<u64>,
    /// Datagrams of its stream that are missing here.
    pub behind: u64,
    /// opened, refreshed, closed → records heard of it.
    pub received: BTreeMap<String, u64>,
    pub datagrams_received: u64,
    /// Datagrams that had come before.
    pub duplicates: u64,
    /// Requests for datagrams that were missing.
    pub gaps: u64,
    /// Full resyncs heard to their end.
    pub resyncs: u64,
}

/// One tracked connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub real_server: Option<SocketAddr>,
    /// embryo, established, closing, stale.
    pub state: String,
    pub idle_ms: u64,
    pub packets: u64,
    pub bytes: u64,
}

/// One child of the watchdog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    pub role: String,
    pub pid: u32,
    pub restarts: u64,
    /// Seconds since its last start.
    pub up_s: u64,
    pub ready: bool,
    pub last_exit: Option<String>,
}

/// Scripts that the watchdog ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptCounters {
    pub started: u64,
    /// Checks refused because too many were waiting.
    pub refused: u64,
    /// Notifications dropped because their queue was full.
    pub displaced: u64,
    /// exit_0, exit_other, signal, timed_out, not_started, not_now → how often.
    pub outcomes: BTreeMap<String, u64>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub instance: Option<String>,
    pub config_file: String,
    pub config_generation: u64,
    /// The last reload that was refused, with its diagnostics.
    pub last_reload_error: Option<String>,
    /// Reloads since the start: the file was read, and refused, unchanged or put in force.
    #[serde(default)]
    pub reloads: u64,
    /// Reloads refused since the start.
    pub reload_failures: u64,
    /// What an operator should know beside the rest: a role that did not answer, a metrics port
    /// that is taken.
    pub problems: Vec<String>,
    /// Bounds of the control socket and of /metrics → how often each was reached: a connection had to
    /// wait, a question was refused.
    #[serde(default)]
    pub bounds: BTreeMap<String, u64>,
    pub scripts: ScriptCounters,
    pub processes: Vec<ProcessStatus>,
    pub vrrp: Vec<InstanceStatus>,
    #[serde(default)]
    pub vrrp_timers: TimerStatus,
    /// Adverts for no instance, and datagrams that are no adverts.
    #[serde(default)]
    pub strays: Vec<StrayStatus>,
    pub servers: Vec<ServerHealth>,
    pub quorum: Vec<QuorumStatus>,
    pub forwarder: Option<ForwarderStatus>,
}
