//! Layout of every key and value that lies in a BPF map.
//!
//! Rules that hold everywhere:
//! * `repr(C)`, keys and what is copied whole aligned to eight bytes (the program moves them in words),
//!   padding written out and zero, sizes asserted. Any change here, in [`crate::maps`] or
//!   in the order of [`crate::verdict::Outcome`] raises [`LAYOUT_VERSION`].
//! * [`Be32`] and [`Be16`] hold the bytes as they lie in the packet; all else is in host order.
//! * Ids: a *service id* stands for one virtual server, a *real id* for one real server **of one
//!   virtual server** (the same host behind two virtual servers has two ids). Id 0 of both is
//!   never used, so that a zeroed value names nobody.
//! * A *gate* is an index into `lease`; gate 0 is always open.
//! * An [`Addr`] is of either family. Only the tables that packets of known connections ask, and those of
//!   embryos, have keys of one family: with 16 bytes a look-up costs less than with 40.
//!
//! # Who writes what, in which order
//!
//! User space (the forwarder) writes everything but the tables of connections and templates, `cursors`,
//! `overloads` and the statistics (it takes out what is over, and renews templates); `lease` belongs to the vrrp process (the forwarder only sets slot 0 to
//! [`LEASE_ALWAYS`] at start and fences slots that no instance owns). A lease that begins anew is
//! written after its tenure ([`crate::maps::tenure`]). The program adds to `conns`,
//! which the forwarder overwrites each second with what it counted in `flows4` and `flows6`.
//!
//! *Adding or changing a virtual server*: `reals` (new ids) → `sources` (NAT) → the idle half of
//! `pools` and `rings` → `services` (the one atomic switch, which names the half) → `vips` →
//! `filter`. *Removing*: `services` → `filter`, `vips` (if no instance holds the address) →
//! `sources` → `reals`.
//!
//! *Death of a real server*: `pools`/`rings`/`services` without it, then `reals` with
//! `generation + 1` and [`STATE_DOWN`] in one update ([`FLAG_KEEP`] and an unchanged generation
//! for `OnDown::Keep`). *Back up*: [`STATE_UP`], generation unchanged, then the pool.
//! *Drain*: pool without it, [`STATE_DRAIN`], generation unchanged.
//!
//! *Reusing a real id for another server*: an array element is not replaced atomically, so first
//! write `generation + 1` with [`STATE_ABSENT`] and all else unchanged, then the new content under
//! that generation. Generations of an id never go back while the maps live.

pub use crate::addr::Addr;

/// Raised by every change of layout or meaning; pins of another version are not re-adopted.
pub const LAYOUT_VERSION: u32 = 12;

/// IPv4 address as it lies in the packet.
pub type Be32 = u32;
/// Port as it lies in the packet.
pub type Be16 = u16;

/// Address to [`Be32`].
pub const fn be32(octets: [u8; 4]) -> Be32 {
    u32::from_ne_bytes(octets)
}

/// [`Be32`] to address octets.
pub const fn octets(addr: Be32) -> [u8; 4] {
    addr.to_ne_bytes()
}

/// Port number to [`Be16`], and back.
pub const fn be16(port: u16) -> Be16 {
    port.to_be()
}

/// IANA protocol number, the only one forwarded so far.
pub const PROTO_TCP: u8 = 6;

/// What the loader told the program and the next loader; one element.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// [`LAYOUT_VERSION`] of whoever created the maps.
    pub layout_version: u32,
    /// Zero.
    pub pad: u32,
    /// Fold of the object's bytes, so that a restarted loader can tell whether to swap programs.
    pub object_hash: u64,
    /// Jiffies after which an embryo without a packet is forgotten; 0: never.
    pub half_open: u32,
    /// Jiffies after a failed insertion into `flows4` or `flows6` during which new connections are hashed.
    pub pressure: u32,
    /// Jiffies in a second, for [`Service::persistence_secs`].
    pub second: u32,
    /// 1: connections that begin or end are reported in `changes` (flow sync); else 0.
    pub report_changes: u32,
}

/// Number of address folds in [`Filter`].
pub const FILTER_LEN: usize = 4096;
/// Some VIP has this fold: look at packets *to* it.
pub const FILTER_VIP: u8 = 1;
/// Some NAT real server has this fold: look at packets *from* it.
pub const FILTER_NAT_SOURCE: u8 = 2;
/// Some IPv6 VIP, or the solicited-node address of one, has this fold.
pub const FILTER_VIP6: u8 = 4;
/// Some IPv6 NAT real server has this fold.
pub const FILTER_NAT_SOURCE6: u8 = 8;

/// Cheap reject of foreign packets: flags by [`crate::hash::filter_fold`] of an address. May say yes
/// for a foreign address (exactness comes from the look-ups behind it), never no for one of ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `FILTER_*` bits.
    pub flags: [u8; FILTER_LEN],
}

/// Value of `vips`, by [`Addr`]: every VIP of an instance and every address of a virtual server (gate 0 if no
/// instance lists it).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// Index into `lease`.
    pub gate: u16,
    /// `VIP_*` bits.
    pub flags: u16,
}
/// The address has a TCP virtual server: TCP fragments, IP options and extension headers for it are dropped rather
/// than passed, because the host's stack would answer them with a RST.
pub const VIP_TCP_SERVICE: u16 = 1;

/// Not master: pass.
pub const LEASE_STANDBY: u64 = 0;
/// Run out at the dawn of time: drops at once (`LeaseState::Until(Instant::ZERO)`).
pub const LEASE_FENCED: u64 = 1;
/// Never runs out (gate 0). Any other value: forward while jiffies64 is below it.
pub const LEASE_ALWAYS: u64 = u64::MAX;

/// Key of `services`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// VIP.
    pub addr: Addr,
    /// Port.
    pub port: Be16,
    /// [`PROTO_TCP`].
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 5],
}

impl ServiceKey {
    /// Of TCP.
    #[inline(always)]
    pub const fn tcp(addr: Addr, port: Be16) -> Self {
        Self { addr, port, proto: PROTO_TCP, pad: [0; 5] }
    }
}

/// A virtual server. The map is not preallocated, so that replacing a value is atomic for readers.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Service id, 1..[`crate::maps::SERVICES`]: index of `service_stats` and `cursors`; its pool
    /// and ring are at [`Service::table_index`].
    pub id: u16,
    /// Index into `lease`.
    pub gate: u16,
    /// One of `SCHED_*`.
    pub scheduler: u8,
    /// 0 or 1: which half of `pools` and `rings` is in force.
    pub half: u8,
    /// `SERVICE_*` bits.
    pub flags: u16,
    /// Life of an established connection without a packet, seconds. For the forwarder's sweep
    /// (also that of a later process); the program does not read it.
    pub idle_secs: u32,
    /// Life of a template after the last use, seconds; 0: no persistence.
    pub persistence_secs: u32,
    /// Bits of a client's address that its template goes by; none without persistence.
    pub granularity: Addr,
}

/// `OnDown::Keep`: for the forwarder that reads its table back; the program reads [`FLAG_KEEP`].
pub const SERVICE_KEEP: u16 = 1;
/// The client's port counts in the hash: `sh-port`, `mh-port`, and every scheduler that hashes only
/// while the flow table is full.
pub const SERVICE_HASH_PORT: u16 = 2;
/// `sh-fallback`, `mh-fallback`: the ring names selectable real servers only.
pub const SERVICE_FALLBACK: u16 = 4;
/// One of its real servers has a limit ([`Real::upper`]): those at theirs are to be passed over.
pub const SERVICE_LIMITED: u16 = 8;

impl Service {
    /// Index into `pools` and `rings` of this service's half `half`.
    pub const fn table_index(id: u16, half: u8) -> u32 {
        id as u32 * 2 + (half & 1) as u32
    }

    /// Whether its scheduler is a hash of the client, so that every host chooses alike.
    #[inline(always)]
    pub const fn is_hashed(&self) -> bool {
        self.scheduler == SCHED_MH || self.scheduler == SCHED_SH
    }
}

/// Round robin.
pub const SCHED_RR: u8 = 1;
/// Weighted round robin.
pub const SCHED_WRR: u8 = 2;
/// Least connections.
pub const SCHED_LC: u8 = 3;
/// Weighted least connections.
pub const SCHED_WLC: u8 = 4;
/// Maglev hashing of the client's address, and port with [`SERVICE_HASH_PORT`].
pub const SCHED_MH: u8 = 5;
/// Shortest expected delay: fewest connections by weight, the new one counted in.
pub const SCHED_SED: u8 = 6;
/// Never queue: a server without connections if there is one, else [`SCHED_SED`].
pub const SCHED_NQ: u8 = 7;
/// Source hashing: by the same ring as [`SCHED_MH`].
pub const SCHED_SH: u8 = 8;

/// Real servers a pool can hold. A virtual server with more is refused by the loader.
pub const POOL_LEN: usize = 64;

/// One selectable real server.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolEntry {
    /// Real id.
    pub real: u16,
    /// Zero.
    pub pad: u16,
    /// Weight ≥ 1, reduced by the pool's common divisor.
    pub weight: u32,
}

/// The *selectable* real servers (up, weight above 0) of a virtual server. Made by
/// [`crate::pool::fill`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Entries in use, ≤ [`POOL_LEN`].
    pub len: u32,
    /// Sum of the weights.
    pub total_weight: u32,
    /// Step of `wrr` through the weight space, coprime with `total_weight`.
    pub stride: u32,
    /// Zero.
    pub pad: u32,
    /// The first `len` are valid.
    pub entries: [PoolEntry; POOL_LEN],
}

/// Slots of a ring, a prime (Maglev needs one).
pub const RING_LEN: usize = 4093;
/// Elements of [`Ring`]: `RING_LEN` rounded up so that an index can be masked.
pub const RING_CAPACITY: usize = 4096;

/// Maglev ring of a virtual server over the members of its pool, filled by
/// [`crate::maglev::fill`] for **every** scheduler: it also serves when `flows4` or `flows6` is full. `mh` and
/// `sh` without [`SERVICE_FALLBACK`] have those of [`FLAG_INHIBITED`] in it too.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Real ids; 0 everywhere when no server is selectable.
    pub slots: [u16; RING_CAPACITY],
}

/// A real server of one virtual server, by real id. The hot path reads next hop, gate and state
/// here, so that a change takes effect on the next packet of every flow.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Real {
    /// A flow of another generation is dead.
    pub generation: u32,
    /// Index into `lease`, same as its service's.
    pub gate: u16,
    /// One of `STATE_*`.
    pub state: u8,
    /// One of `METHOD_*`.
    pub method: u8,
    /// Service id it belongs to.
    pub service: u16,
    /// `FLAG_*` bits.
    pub flags: u16,
    /// Interface that leads to it.
    pub ifindex: u32,
    /// Ethernet header of frames to it; see [`macs`].
    pub macs: [u32; 3],
    /// Its port.
    pub port: Be16,
    /// Port of its virtual server.
    pub vip_port: Be16,
    /// Its address.
    pub addr: Addr,
    /// Address of its virtual server, of the same family unless it is reached by a tunnel.
    pub vip: Addr,
    /// Change of the IPv4 header checksum when `vip` becomes `addr`; see [`Real::with_nat`].
    pub ip_delta: u16,
    /// Change of the TCP checksum when `vip:vip_port` becomes `addr:port`.
    pub l4_delta: u16,
    /// Configured weight, for the forwarder that reads its table back; the program reads the
    /// pool's.
    pub weight: u32,
    /// `uthreshold`: with so many connections it takes no more. 0: no limit.
    pub upper: u32,
    /// `lthreshold`: below so many it takes new ones again. 0: below three quarters of `upper`.
    pub lower: u32,
    /// [`Service::granularity`]: whoever enters a connection has the real server at hand and not the virtual one.
    pub granularity: Addr,
    /// Source of the outer header of a tunnel, of the family of `addr`, which is its destination.
    pub tunnel_source: Addr,
    /// Sum of what all outer headers to it have in common; see [`Real::with_tunnel`].
    pub tunnel_sum: u16,
    /// Longest packet of a client that fits with its outer header; 0 without a tunnel.
    pub tunnel_room: u16,
    /// Zero. It makes the size a power of two, by which the kernel's look-up shifts instead of multiplying.
    pub pad: [u32; 3],
}

/// Nobody: every flow that names the id is dead.
pub const STATE_ABSENT: u8 = 0;
/// Takes new connections if the pool lists it.
pub const STATE_UP: u8 = 1;
/// Old connections only.
pub const STATE_DRAIN: u8 = 2;
/// Dead: its flows are reset unless [`FLAG_KEEP`].
pub const STATE_DOWN: u8 = 3;

/// Direct server return.
pub const METHOD_DR: u8 = 1;
/// Destination NAT, replies through us.
pub const METHOD_NAT: u8 = 2;
/// This host.
pub const METHOD_LOCAL: u8 = 3;
/// In a packet of its own family: an outer IPv4 header.
pub const METHOD_TUN: u8 = 4;
/// The same with an outer IPv6 header.
pub const METHOD_TUN6: u8 = 5;

/// IPv4 in an IP packet (RFC 2003, RFC 2473).
pub const PROTO_IPIP: u8 = 4;
/// IPv6 in an IP packet (RFC 2473, RFC 4213).
pub const PROTO_IPV6: u8 = 41;
/// Time to live, or hop limit, of outer headers.
pub const TUNNEL_TTL: u8 = 64;
/// As it lies in an IPv4 header.
pub const DONT_FRAGMENT: u16 = be16(0x4000);

/// `macs` and `ifindex` are known; without it packets are dropped as `next_hop_unresolved`.
pub const FLAG_RESOLVED: u16 = 1;
/// Keep flows while [`STATE_DOWN`].
pub const FLAG_KEEP: u16 = 2;
/// Its interface is a NIC: a frame that came in there may go back by XDP_TX, which costs less than a
/// redirect. On veth only a redirect arrives (reference/testbed.md §2).
pub const FLAG_TX: u16 = 4;
/// In [`STATE_DRAIN`] by `inhibit_on_failure`: for the forwarder that reads its table back.
pub const FLAG_INHIBITED: u16 = 8;
/// In [`STATE_DRAIN`] for clients that have a template too: it is full, not up yet, or a sorry server stands in.
pub const FLAG_CLOSED: u16 = 16;

/// Destination and source MAC, the first twelve bytes of a frame, as three words to store.
pub const fn macs(destination: [u8; 6], source: [u8; 6]) -> [u32; 3] {
    let [a, b, c, d, e, f] = destination;
    let [g, h, i, j, k, l] = source;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
    ]
}

/// Key of `sources`: address and port that NAT replies come from.
pub type SourceKey = ServiceKey;

/// Virtual servers that can share one NAT real server address and port.
pub const SOURCE_LEN: usize = 8;

/// Real ids that stand for one NAT real server's address and port (one for each virtual server it
/// belongs to). A ninth is refused by the loader.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Real ids, 0 ends the list.
    pub reals: [u16; SOURCE_LEN],
}

/// Key of a connection: the tuple as it stands in the packet, client → VIP, or real server → client for
/// the reverse entry of a NAT flow. `A` is the address: see [`FlowKey4`], [`FlowKey6`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: Be16,
    /// Destination port.
    pub dport: Be16,
    /// [`PROTO_TCP`].
    pub proto: u16,
    /// Zero.
    pub pad: u16,
}

/// Key of `flows4` and `embryo4`.
pub type FlowKey4 = FlowKey<Be32>;
/// Key of `flows6` and `embryo6`, and in user space of either family.
pub type FlowKey6 = FlowKey<Addr>;

impl<A> FlowKey<A> {
    /// Of TCP.
    #[inline(always)]
    pub const fn tcp((src, sport): (A, Be16), (dst, dport): (A, Be16)) -> Self
    where
        A: Copy,
    {
        Self { src, dst, sport, dport, proto: PROTO_TCP as u16, pad: 0 }
    }
}

impl FlowKey4 {
    /// The same with addresses of either family.
    pub const fn widen(self) -> FlowKey6 {
        let Self { src, dst, sport, dport, proto, pad } = self;
        FlowKey { src: Addr::v4(src), dst: Addr::v4(dst), sport, dport, proto, pad }
    }
}

impl FlowKey6 {
    /// The same with IPv4 addresses, if they are.
    pub const fn narrow(self) -> Option<FlowKey4> {
        let Self { src, dst, sport, dport, proto, pad } = self;
        match (src.to_v4(), dst.to_v4()) {
            (Some(src), Some(dst)) => Some(FlowKey { src, dst, sport, dport, proto, pad }),
            _ => None,
        }
    }
}

/// A connection, one cache line. `embryo4` and `embryo6` hold those of which only SYNs were seen, `flows4` and
/// `flows6` the rest, NAT ones twice (see [`FLOW_REVERSE`]).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// jiffies64 of the last packet of this direction.
    pub last_seen: u64,
    /// Generation of the real server when the flow was made.
    pub generation: u32,
    /// Real id.
    pub real: u16,
    /// `FLOW_*` bits.
    pub flags: u16,
    /// Highest sequence number that the sender has reached (host order): what its peer expects next,
    /// and so the number of a RST that ends the connection (RFC 5961 §3.2).
    pub seq_end: u32,
    /// Its last acknowledgement number (host order): the sequence number a RST to it must carry.
    pub ack: u32,
    /// Ethernet header of frames to the client's side, learned from its packets.
    pub macs: [u32; 3],
    /// Interface that leads to the client; 0: not known yet (entered by flow sync).
    pub ifindex: u32,
    /// Packets of this direction. 0 in the client's: entered by flow sync, and no packet has come since; then a peer
    /// vouches for it, whatever the tenure.
    pub packets: u64,
    /// Bytes (L2 length) of this direction.
    pub bytes: u64,
    /// jiffies64 when the flow was made.
    pub created: u64,
}

/// Real server → client entry of a NAT flow. Not a connection of its own: not counted.
pub const FLOW_REVERSE: u16 = 1;
/// The sender of this entry's direction sent FIN, in step with what it sent before.
pub const FLOW_FIN: u16 = 2;
/// RST seen from the sender of this entry's direction, with the number that its peer expects.
pub const FLOW_RST: u16 = 4;
/// Made for an unknown mid-stream packet (after a failover), not by a SYN.
pub const FLOW_MIDSTREAM: u16 = 8;
/// We answered a packet of this flow with a RST (its real server is dead).
pub const FLOW_RESET: u16 = 16;
/// Any of these: the connection is over or ending, it no longer counts in `conns`, and the sweep
/// removes it 60 s after `last_seen` (sooner for [`FLOW_RST`] and [`FLOW_RESET`]).
pub const FLOW_CLOSING: u16 = FLOW_FIN | FLOW_RST | FLOW_RESET;

/// Key of `templates` and `tentative`: a client, or a network of them, of one virtual server.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateKey {
    /// Its address under [`Service::granularity`].
    pub network: Addr,
    /// Service id.
    pub service: u16,
    /// Zero.
    pub pad: [u16; 3],
}

impl TemplateKey {
    /// Of a client's network, which its address is in under [`Service::granularity`].
    #[inline(always)]
    pub const fn new(network: Addr, service: u16) -> Self {
        Self { network, service, pad: [0; 3] }
    }
}

/// Whom a client's new connections go to. Worth nothing once the real server is not what it was: its generation
/// and its service are compared, so that ids may be given anew without a look at what templates name them.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// jiffies64 of its last use.
    pub used: u64,
    /// Generation of the real server when the template was made.
    pub generation: u32,
    /// Real id.
    pub real: u16,
    /// Zero.
    pub pad: u16,
}

/// Per-CPU counters of a virtual server, by service id. Packets and bytes are the sum over its real servers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// SYNs scheduled (retransmissions not counted).
    pub scheduled: u64,
    /// SYNs refused because no real server was selectable.
    pub unavailable: u64,
    /// Packets forwarded by hash without an entry because the table of connections was full.
    pub table_full: u64,
    /// RSTs sent to clients.
    pub resets: u64,
    /// Connections entered whose template found no room in `templates`.
    pub templates_full: u64,
}

/// Per-CPU counters of a real server, by real id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealStats {
    /// Packets to it.
    pub packets: u64,
    /// Bytes (L2 length) to it.
    pub bytes: u64,
    /// Connections that became established (promotions and mid-stream adoptions).
    pub connections: u64,
    /// Packets from it (NAT).
    pub reply_packets: u64,
    /// Bytes from it (NAT).
    pub reply_bytes: u64,
}

/// Record of `orphans`: a reply of a NAT real server without a flow, to a client that the program has
/// no way to. The forwarder sends the client a probe from the VIP, as TCP does to see whether a
/// silent peer is still there; the client's answer comes to the program, which then knows the
/// way and decides: adopt or reset.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orphan {
    /// Tuple of the reply, real server → client.
    pub reply: FlowKey6,
    /// Its sequence number (host order): what the client expects next, if the reply is the oldest
    /// that was not acknowledged.
    pub seq: u32,
    /// Its acknowledgement number (host order).
    pub ack: u32,
}

/// Record of `changes`: a connection of a flow table has begun or ended, or goes on after all. What it is by now, the
/// reader looks up.
pub type Change = FlowKey6;

/// What the `clock` program writes to the start of its packet (run it with
/// `BPF_PROG_TEST_RUN` on at least 64 zero bytes and read the packet that comes back).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSample {
    /// jiffies64, read first.
    pub jiffies: u64,
    /// CLOCK_MONOTONIC in nanoseconds, read right after it.
    pub monotonic_ns: u64,
}

macro_rules! layout {
    ($($name:ident = $size:expr),* $(,)?) => { $(
        const _: () = assert!(size_of::<$name>() == $size, "size is part of the ABI");
        // SAFETY: repr(C), made of integers only, padding is written out as fields: every byte
        // is initialised and every bit pattern is a value.
        #[cfg(feature = "user")]
        #[allow(unsafe_code, reason = "aya asks for this promise about map types")]
        unsafe impl aya::Pod for $name {}
    )* };
}
layout!(
    Control = 32,
    Filter = 4096,
    Vip = 4,
    Addr = 16,
    ServiceKey = 24,
    Service = 32,
    PoolEntry = 8,
    Pool = 528,
    Ring = 8192,
    Real = 128,
    Source = 16,
    FlowKey4 = 16,
    FlowKey6 = 40,
    Flow = 64,
    TemplateKey = 24,
    Template = 16,
    ServiceStats = 40,
    RealStats = 40,
    ClockSample = 16,
    Orphan = 48,
);
