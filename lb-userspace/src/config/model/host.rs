//! What the configuration makes of this host: addresses, routes, rules, virtual interfaces.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::VipAddress;
use crate::base::net::{IpPrefix, Mac};

/// rtnetlink's number of the table `main`.
pub const TABLE_MAIN: u32 = 254;
/// rtnetlink's protocol number of objects that keepalived made, and ours do.
pub const PROTOCOL: u8 = 18;

/// Words of an address beyond interface, label, broadcast and scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressOptions {
    /// `peer`: the other end of a point-to-point link, with the prefix length of the route to it.
    pub peer: Option<IpPrefix>,
    pub home: bool,
    /// `-nodad`: duplicate address detection, which VIPs do without.
    pub dad: bool,
    pub mngtmpaddr: bool,
    pub noprefixroute: bool,
    pub autojoin: bool,
    /// Seconds that an IPv6 address is preferred as a source; `None`: for ever.
    pub preferred_lft: Option<u32>,
    /// Its deletion by others does not end being master; it is put back.
    pub no_track: bool,
    /// `track_group` of a static address.
    pub track_group: Option<String>,
    /// On a virtual MAC interface of its own `dev`.
    pub use_vmac: bool,
}

/// What one vrrp_instance does to this host beside its VIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnHost {
    /// `virtual_ipaddress_excluded`: VIPs that adverts do not name.
    pub excluded: Vec<VipAddress>,
    pub routes: Vec<Route>,
    pub rules: Vec<Rule>,
    /// `use_vmac`, `use_ipvlan`.
    pub virtual_link: Option<VirtualLink>,
    /// `use_vmac_addr`: every VIP of another interface, or of the other family, gets a virtual MAC
    /// interface there.
    pub vmac_addresses: bool,
    /// The interfaces that `use_vmac_addr` and `use_vmac` of an address make.
    pub address_links: Vec<AddressLink>,
    pub vrf: Option<String>,
    pub promote_secondaries: bool,
    /// Packets to the VIPs are dropped, neighbour discovery excepted.
    pub no_accept: Option<NoAccept>,
    /// FAULT while the configured source address is on no interface.
    pub track_src_ip: bool,
    /// `garp_extra_if`.
    pub garp_extra: Option<GarpExtra>,
}

/// `no_accept`, with `nftables_priority` and `nftables_counters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoAccept {
    pub priority: i32,
    pub counters: bool,
}

/// `use_vmac`, `use_ipvlan`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VirtualLink {
    /// Unique in the file; given, or made from prefix and VRID.
    pub name: String,
    pub kind: VirtualLinkKind,
    /// Adverts go out of the interface below (`vmac_xmit_base`).
    pub xmit_base: bool,
}

/// A virtual MAC interface of VIPs that are not on the instance's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressLink {
    /// Unique in the file; made from prefix and VRID as keepalived makes it.
    pub name: String,
    /// The interface below.
    pub base: String,
    /// Family of its VIPs and of its virtual MAC.
    pub ipv6: bool,
}

/// Kind of a virtual interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VirtualLinkKind {
    /// Private mode. `None`: the virtual router's own MAC (RFC 9568 §7.3).
    Macvlan { mac: Option<Mac> },
    /// L2 mode. The address is the source of adverts.
    Ipvlan { address: Option<IpPrefix>, flag: IpvlanFlag },
}

/// Whom an ipvlan talks to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IpvlanFlag {
    #[default]
    Bridge,
    Private,
    Vepa,
}

/// `garp_extra_if [all] SECONDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarpExtra {
    pub every: Duration,
    /// On every interface of a VIP; else only on virtual MAC interfaces.
    pub all: bool,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    #[default]
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
}

/// One way of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NextHop {
    pub via: Option<IpAddr>,
    pub dev: Option<String>,
    /// 1..256; only with several ways.
    pub weight: u16,
    pub onlink: bool,
}

/// `virtual_routes`, `static_routes` entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    pub kind: RouteKind,
    pub to: IpPrefix,
    /// `from`: IPv6 source-specific routing.
    pub from: Option<IpPrefix>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// One, or several that share the traffic; empty for kinds that lead nowhere.
    pub next_hops: Vec<NextHop>,
    pub table: u32,
    /// `metric`, `priority`, `preference`.
    pub metric: Option<u32>,
    /// rtnetlink's number.
    pub scope: u8,
    pub protocol: u8,
    pub tos: u8,
    /// IPv6 router preference: 0 medium, 1 high, 3 low.
    pub pref: Option<u8>,
    /// Seconds; IPv6.
    pub expires: Option<u32>,
    /// (number, value, lock) of rtnetlink's RTAX_ metrics, such as mtu.
    pub metrics: Vec<(RouteMetric, u32, bool)>,
    /// TCP congestion control.
    pub congctl: Option<String>,
    pub no_track: bool,
    pub track_group: Option<String>,
}

/// A numeric property of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteMetric {
    Mtu,
    Window,
    Rtt,
    Rttvar,
    Ssthresh,
    Cwnd,
    Advmss,
    Reordering,
    Hoplimit,
    Initcwnd,
    /// Bit 0: ECN.
    Features,
    RtoMin,
    Initrwnd,
    Quickack,
    FastopenNoCookie,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleAction {
    Table(u32),
    Goto(u32),
    Nop,
    Blackhole,
    Unreachable,
    Prohibit,
}

/// `virtual_rules`, `static_rules` entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    pub v6: bool,
    pub action: RuleAction,
    pub invert: bool,
    pub from: Option<IpPrefix>,
    pub to: Option<IpPrefix>,
    /// `preference`, `priority`, `order`; the kernel chooses when not given.
    pub priority: Option<u32>,
    pub tos: u8,
    /// Value and mask.
    pub fwmark: Option<(u32, Option<u32>)>,
    pub iif: Option<String>,
    pub oif: Option<String>,
    pub suppress_prefixlen: Option<u32>,
    pub suppress_ifgroup: Option<u32>,
    pub tunnel_id: Option<u64>,
    pub uidrange: Option<(u32, u32)>,
    pub l3mdev: bool,
    pub protocol: u8,
    pub ipproto: Option<u8>,
    pub sport: Option<(u16, u16)>,
    pub dport: Option<(u16, u16)>,
    pub no_track: bool,
    pub track_group: Option<String>,
}

/// Objects held from start to exit, and the instances that follow them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statics {
    pub addresses: Vec<VipAddress>,
    pub routes: Vec<Route>,
    pub rules: Vec<Rule>,
    /// `track_group NAME`: its instances.
    pub groups: Vec<(String, Vec<String>)>,
}

/// `garp_group`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarpGroup {
    pub garp_interval: Duration,
    pub gna_interval: Duration,
    pub interfaces: Vec<String>,
}

/// `interface_up_down_delays` entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkDelay {
    pub interface: String,
    pub down: Duration,
    pub up: Duration,
}
