//! Names and default sizes of the maps and programs of the kernel object. The loader pins each
//! under its name.

/// The XDP program to attach.
pub const PROGRAM: &str = "lbd_xdp";
/// The XDP program that it goes on with for IPv6: element [`PROGRAM6_INDEX`] of [`PROGRAMS`].
pub const PROGRAM6: &str = "lbd_xdp6";
/// The same for tc's ingress, and for IPv6: element [`PROGRAM6_INDEX`] of [`PROGRAMS_TC`].
pub const PROGRAM_TC: &str = "lbd_tc";
/// See [`PROGRAM_TC`].
pub const PROGRAM_TC6: &str = "lbd_tc6";
/// Reports [`crate::abi::ClockSample`]; only ever run by `BPF_PROG_TEST_RUN`.
pub const CLOCK_PROGRAM: &str = "lbd_clock";

/// PROG_ARRAY\[1\].
pub const PROGRAMS: &str = "programs";
/// PROG_ARRAY\[1\] of tc: an array holds programs of one type.
pub const PROGRAMS_TC: &str = "programs_tc";
/// See [`PROGRAM6`].
pub const PROGRAM6_INDEX: u32 = 0;
/// ARRAY\[1\] of [`crate::abi::Control`].
pub const CONTROL: &str = "control";
/// ARRAY\[1\] of [`crate::abi::Filter`].
pub const FILTER: &str = "filter";
/// HASH [`crate::abi::Addr`] → [`crate::abi::Vip`].
pub const VIPS: &str = "vips";
/// ARRAY of u64 by lease slot (`LEASE_*`), and behind them the tenures ([`tenure`]).
pub const LEASE: &str = "lease";
/// HASH [`crate::abi::ServiceKey`] → [`crate::abi::Service`], not preallocated.
pub const SERVICES_MAP: &str = "services";
/// ARRAY of [`crate::abi::Pool`], index [`crate::abi::Service::table_index`].
pub const POOLS: &str = "pools";
/// ARRAY of [`crate::abi::Ring`], index [`crate::abi::Service::table_index`].
pub const RINGS: &str = "rings";
/// ARRAY of u64 by service id: position of rr and wrr, tie-break of lc and wlc. Kernel only.
pub const CURSORS: &str = "cursors";
/// ARRAY of [`crate::abi::Real`] by real id.
pub const REALS_MAP: &str = "reals";
/// ARRAY of i64 by real id: active connections. May dip below 0 between reconciliations.
pub const CONNS: &str = "conns";
/// ARRAY of u64 by real id: 1 while it is above its limit ([`crate::abi::Real::upper`]) and not yet
/// below the one at which it takes connections again. Kernel only.
pub const OVERLOADS: &str = "overloads";
/// PERCPU_ARRAY\[1\] of u64: a word for one run of the program. Kernel only.
pub const SCRATCH: &str = "scratch";
/// PERCPU_ARRAY\[1\]: what is too large for the stack of one run of the program. Kernel only.
pub const DESK: &str = "desk";
/// HASH [`crate::abi::SourceKey`] → [`crate::abi::Source`], not preallocated.
pub const SOURCES: &str = "sources";
/// HASH [`crate::abi::Addr`] → u8 (1): this host's own addresses. Packets to them from a NAT real server pass
/// (replies to our own probes).
pub const LOCALS: &str = "locals";
/// HASH [`crate::abi::FlowKey4`] → [`crate::abi::Flow`], preallocated; size set by the loader.
pub const FLOWS4: &str = "flows4";
/// The same of IPv6, by [`crate::abi::FlowKey6`].
pub const FLOWS6: &str = "flows6";
/// LRU_HASH [`crate::abi::FlowKey4`] → [`crate::abi::Flow`], a list for each CPU; size set by the
/// loader.
pub const EMBRYO4: &str = "embryo4";
/// The same of IPv6, by [`crate::abi::FlowKey6`].
pub const EMBRYO6: &str = "embryo6";
/// HASH [`crate::abi::TemplateKey`] → [`crate::abi::Template`], preallocated: persistence of clients that had a
/// connection.
pub const TEMPLATES: &str = "templates";
/// LRU_HASH [`crate::abi::TemplateKey`] → [`crate::abi::Template`], a list for each CPU: of clients of which
/// only SYNs were seen, so that whoever forges them pushes out no other's template, and of those that
/// `templates` had no room for. Size set by the loader.
pub const TENTATIVE: &str = "tentative";
/// ARRAY of u64: jiffies64 of the last time `flows4` (element 0) or `flows6` (element 1) had no room,
/// 0 = never. Written by the program; user space sets it back to 0 once the table is well below its size again. While it
/// is set, unknown mid-stream packets are hashed instead of being reset.
pub const PRESSURE: &str = "pressure";
/// PERCPU_ARRAY of u64 packets by [`crate::verdict::Outcome`].
pub const STATS: &str = "stats";
/// PERCPU_ARRAY of [`crate::abi::ServiceStats`] by service id.
pub const SERVICE_STATS: &str = "service_stats";
/// PERCPU_ARRAY of [`crate::abi::RealStats`] by real id.
pub const REAL_STATS: &str = "real_stats";

/// RINGBUF of [`crate::abi::Orphan`], [`ORPHANS_BYTES`] long.
pub const ORPHANS: &str = "orphans";

/// RINGBUF of [`crate::abi::Change`], [`CHANGES_BYTES`] long. Written only while [`crate::abi::Control::report_changes`]
/// says so, and read every ten milliseconds: writers wake nobody.
pub const CHANGES: &str = "changes";
/// ARRAY\[1\] of u64: records that `changes` had no room for.
pub const CHANGES_LOST: &str = "changes_lost";

/// Every map, in the order of the object.
pub const ALL: [&str; 30] = [
    PROGRAMS,
    PROGRAMS_TC,
    CONTROL,
    FILTER,
    VIPS,
    LEASE,
    SERVICES_MAP,
    POOLS,
    RINGS,
    CURSORS,
    REALS_MAP,
    CONNS,
    OVERLOADS,
    SCRATCH,
    DESK,
    SOURCES,
    LOCALS,
    FLOWS4,
    FLOWS6,
    EMBRYO4,
    EMBRYO6,
    TEMPLATES,
    TENTATIVE,
    PRESSURE,
    STATS,
    SERVICE_STATS,
    REAL_STATS,
    ORPHANS,
    CHANGES,
    CHANGES_LOST,
];

/// VIPs, with or without virtual server. A configuration with more is refused. Twice what one instance may list.
pub const VIP_LIMIT: u32 = 8192;
/// Lease slots (gates), slot 0 always open.
pub const LEASES: u32 = 256;

/// Element of `lease` with the jiffy in which this host last became master by a slot: connections that it
/// has not seen since may have gone on at another host. 0 for slot 0.
pub const fn tenure(slot: u16) -> u32 {
    LEASES + slot as u32
}
/// Service ids 1..SERVICES. The loader refuses more virtual servers.
pub const SERVICES: u32 = 256;
/// Elements of `pools` and `rings`.
pub const TABLES: u32 = SERVICES * 2;
/// Real ids 1..REALS: as many as [`SERVICES`] virtual servers of [`crate::abi::POOL_LEN`] real servers
/// have. The loader refuses more real servers. Ids are 16 bits wide.
pub const REALS: u32 = 16_384;
/// Own addresses. Beyond it the loader warns; probe replies to the rest may be taken for orphans.
pub const LOCAL_LIMIT: u32 = 1024;
/// Default of `flows4` and of `flows6` (a NAT connection takes two). When full, new connections are hashed
/// without an entry and counted as `table_full`.
pub const FLOWS_DEFAULT: u32 = 131_072;
/// Size of `orphans`: 2340 reports. When full, orphans are dropped as `orphan_dropped`; their
/// senders repeat them.
pub const ORPHANS_BYTES: u32 = 131_072;
/// Size of `changes`: 21,845 of them, more than two million a second until they are read. When full, changes are
/// counted in `changes_lost`, and the forwarder tells its peers everything anew.
pub const CHANGES_BYTES: u32 = 1 << 20;
/// Packets that are too big for a tunnel, of which a CPU tells the senders in a second: as many ICMP errors as
/// Linux sends.
pub const TOO_BIG_LIMIT: u64 = 1000;
/// Least size of `embryo4` and of `embryo6`. Each CPU has its share and, when that is full, evicts the oldest embryo of its
/// own: a list of all CPUs would cost a new connection 60 to 110 ns more.
pub const EMBRYO_DEFAULT: u32 = 65_536;
/// Least share of a CPU; more than 16 CPUs get a larger map.
pub const EMBRYO_SHARE: u32 = 4096;
/// Size of `templates`. When full, further clients have their templates in `tentative` and are counted as
/// `templates_full`.
pub const TEMPLATES_LIMIT: u32 = 65_536;
/// Least size of `tentative`, shared out as the embryos are.
pub const TENTATIVE_DEFAULT: u32 = 16_384;
/// Least share of a CPU; more than 16 CPUs get a larger map.
pub const TENTATIVE_SHARE: u32 = 1024;
