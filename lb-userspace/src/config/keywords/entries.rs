//! Words inside the entries of lists: of ip-route(8) and ip-rule(8), and of trackers. Those of addresses
//! stand beside `virtual_ipaddress`, in vrrp.rs.

use super::{
    Argument::*,
    Status::{Acts, Refused},
    Topic as T,
};

const BYTE: i64 = 255;
const I32: i64 = i32::MAX as i64;
const U32: i64 = u32::MAX as i64;

keywords! {
    // ---- trackers
    TrackScript TrackInterface: "weight", Int { min: -253, max: 253 }, "", A, Acts, "entry: added to the priority, or taken from it, by what is tracked; 0: FAULT";
    TrackList: "weight", Words("-253..253; of a track_file any number"), "", A, Acts, "entry: added to the priority, or taken from it, by what is tracked (0: FAULT); of a track_file the factor of its number";
    TrackScript TrackInterface TrackList: "reverse", Nothing, "off", B, Acts, "entry: the other way round";
    TrackScript TrackInterface TrackList: "noreverse", Nothing, "", C, Acts, "entry: not the other way round, although the object says reverse";
    // ---- routes and rules
    Routes StaticObjects: "inet", Nothing, "by the addresses", C, Acts, "route or rule: of IPv4";
    Routes StaticObjects: "inet6", Nothing, "by the addresses", C, Acts, "route or rule: of IPv6";
    Routes StaticObjects: "to", Word("IP[/LEN] | default"), "", B, Acts, "route: its destination, also without the word; rule: destination of packets";
    Routes StaticObjects: "from", Word("IP[/LEN]"), "", B, Acts, "route: source of packets (IPv6); rule: the same";
    Routes StaticObjects: "table", Word("NUMBER | main | local | default"), "main", B, Acts, "routing table of the route, or that the rule asks";
    Routes StaticObjects: "dev", Word("IF"), "", B, Acts, "route: leads out of this interface; rule: of packets that came in there";
    Routes StaticObjects: "oif", Word("IF"), "", C, Acts, "route: the same as dev; rule: of packets of sockets that are bound to it";
    Routes StaticObjects: "priority", Int { min: 0, max: U32 }, "the kernel's", B, Acts, "route: the same as metric; rule: its place among the rules";
    Routes StaticObjects: "preference", Int { min: 0, max: U32 }, "the kernel's", C, Acts, "the same as priority";
    Routes StaticObjects: "pref", Word("low | medium | high, or a number"), "medium", C, Acts, "route: preference of IPv6 routers; rule: the same as priority";
    Routes StaticObjects: "tos", Int { min: 0, max: BYTE }, "0", C, Acts, "route or rule: for packets of this type of service";
    Routes StaticObjects: "dsfield", Int { min: 0, max: BYTE }, "0", C, Acts, "the same as tos";
    Routes StaticObjects: "protocol", Word("NUMBER | kernel | boot | static | keepalived"), "keepalived", C, Acts, "who made the route or rule";
    Routes StaticObjects: "proto", Word("NUMBER | kernel | boot | static | keepalived"), "keepalived", C, Acts, "the same as protocol";
    Routes StaticObjects: "no_track", Nothing, "off", C, Acts, "route or rule: deleted by others it is put back";
    Routes StaticObjects: "blackhole", Nothing, "", C, Acts, "route or rule: packets are dropped";
    Routes StaticObjects: "unreachable", Nothing, "", C, Acts, "route or rule: packets are dropped and their senders told";
    Routes StaticObjects: "prohibit", Nothing, "", C, Acts, "route or rule: packets are forbidden and their senders told";
    Routes StaticObjects: "realms", Words("REALM"), "", C, Refused(T::Routes), "route or rule: class of traffic";
    // ---- routes alone
    Routes StaticObjects: "unicast", Nothing, "on", C, Acts, "route: type";
    Routes StaticObjects: "local", Nothing, "", C, Acts, "route: type; packets are for this host";
    Routes StaticObjects: "broadcast", Nothing, "", C, Acts, "route: type";
    Routes StaticObjects: "anycast", Nothing, "", C, Acts, "route: type";
    Routes StaticObjects: "multicast", Nothing, "", C, Acts, "route: type";
    Routes StaticObjects: "throw", Nothing, "", C, Acts, "route: type; the next rule is asked";
    Routes StaticObjects: "via", Word("[inet|inet6] IP"), "", B, Acts, "route: the gateway";
    Routes StaticObjects: "gw", Word("[inet|inet6] IP"), "", C, Acts, "the same as via";
    Routes StaticObjects: "or", Word("IP"), "", C, Refused(T::Routes), "route: a second gateway in old files";
    Routes StaticObjects: "onlink", Nothing, "off", C, Acts, "route: the gateway is on the link, whatever its address";
    Routes StaticObjects: "nexthop", Words("[via IP] [dev IF] [weight N] [onlink]"), "", C, Acts, "route: one of several ways";
    Routes StaticObjects: "weight", Int { min: 1, max: 256 }, "1", C, Acts, "nexthop: share of it";
    Routes StaticObjects: "src", Word("IP"), "", B, Acts, "route: source address of what this host sends";
    Routes StaticObjects: "scope", Word("SCOPE"), "by type and gateway", B, Acts, "route: global, site, link, host, nowhere or a number";
    Routes StaticObjects: "metric", Int { min: 0, max: U32 }, "the kernel's", B, Acts, "route: the least one counts";
    Routes StaticObjects: "expires", Int { min: 0, max: I32 }, "never", C, Acts, "route: seconds that it lives (IPv6)";
    Routes StaticObjects: "features", Word("ecn"), "", C, Acts, "route: what connections over it may use";
    Routes StaticObjects: "congctl", Words("[lock] NAME"), "", C, Acts, "route: congestion control of connections over it";
    Routes StaticObjects: "lock", Nothing, "off", C, Acts, "route: before a value, which then stays as it is";
    Routes StaticObjects: "mtu", Words("[lock] BYTES"), "", C, Acts, "route: metric";
    Routes StaticObjects: "advmss", Words("[lock] BYTES"), "", C, Acts, "route: metric";
    Routes StaticObjects: "window", Words("[lock] BYTES"), "", C, Acts, "route: metric";
    Routes StaticObjects: "rtt", Words("[lock] TIME"), "", C, Acts, "route: metric";
    Routes StaticObjects: "rttvar", Words("[lock] TIME"), "", C, Acts, "route: metric";
    Routes StaticObjects: "rto_min", Words("[lock] TIME"), "", C, Acts, "route: metric";
    Routes StaticObjects: "ssthresh", Words("[lock] NUMBER"), "", C, Acts, "route: metric";
    Routes StaticObjects: "cwnd", Words("[lock] NUMBER"), "", C, Acts, "route: metric";
    Routes StaticObjects: "initcwnd", Words("[lock] NUMBER"), "", C, Acts, "route: metric";
    Routes StaticObjects: "initrwnd", Words("[lock] NUMBER"), "", C, Acts, "route: metric";
    Routes StaticObjects: "reordering", Words("[lock] NUMBER"), "", C, Acts, "route: metric";
    Routes StaticObjects: "hoplimit", Words("[lock] NUMBER"), "", C, Acts, "route: metric";
    Routes StaticObjects: "quickack", Words("[lock] 0 | 1"), "", C, Acts, "route: metric";
    Routes StaticObjects: "fastopen_no_cookie", Words("[lock] 0 | 1"), "", C, Acts, "route: metric";
    Routes StaticObjects: "add", Nothing, "", C, Acts, "route: every route is added";
    Routes StaticObjects: "append", Nothing, "", C, Acts, "the same as add";
    Routes StaticObjects: "prepend", Nothing, "", C, Acts, "the same as add";
    Routes StaticObjects: "encap", Words("TYPE …"), "", C, Refused(T::Routes), "route: a tunnel without an interface";
    Routes StaticObjects: "as", Words("[to] IP"), "", C, Refused(T::Routes), "route: an MPLS label";
    Routes StaticObjects: "ttl-propagate", Word("enabled | disabled"), "", C, Refused(T::Routes), "route: of MPLS";
    Routes StaticObjects: "vrf", Word("NAME"), "", C, Refused(T::Routes), "route: in the table of a VRF";
    // ---- rules alone
    Routes StaticObjects: "not", Nothing, "off", C, Acts, "rule: for all packets but these";
    Routes StaticObjects: "lookup", Word("NUMBER | main | local | default"), "", B, Acts, "rule: the same as table";
    Routes StaticObjects: "order", Int { min: 0, max: U32 }, "the kernel's", C, Acts, "rule: the same as priority";
    Routes StaticObjects: "fwmark", Word("MARK[/MASK]"), "", C, Acts, "rule: for packets with this mark";
    Routes StaticObjects: "iif", Word("IF"), "", C, Acts, "rule: for packets that came in there";
    Routes StaticObjects: "suppress_prefixlength", Int { min: 0, max: 128 }, "", C, Acts, "rule: its table's routes of so short a prefix do not count";
    Routes StaticObjects: "sup_pl", Int { min: 0, max: 128 }, "", C, Acts, "the same as suppress_prefixlength";
    Routes StaticObjects: "suppress_ifgroup", Int { min: 0, max: I32 }, "", C, Acts, "rule: its table's routes over interfaces of this group do not count";
    Routes StaticObjects: "sup_group", Int { min: 0, max: I32 }, "", C, Acts, "the same as suppress_ifgroup";
    Routes StaticObjects: "tunnel-id", Int { min: 0, max: U32 }, "", C, Acts, "rule: for packets of this tunnel";
    Routes StaticObjects: "uidrange", Word("A-B"), "", C, Acts, "rule: for packets of these users";
    Routes StaticObjects: "l3mdev", Nothing, "off", C, Acts, "rule: the VRF of the packet's interface decides";
    Routes StaticObjects: "ipproto", Word("tcp | udp | icmp | icmpv6 | sctp | NUMBER"), "", C, Acts, "rule: for packets of this protocol";
    Routes StaticObjects: "sport", Word("PORT[-PORT]"), "", C, Acts, "rule: for packets from these ports";
    Routes StaticObjects: "dport", Word("PORT[-PORT]"), "", C, Acts, "rule: for packets to these ports";
    Routes StaticObjects: "goto", Int { min: 0, max: U32 }, "", C, Acts, "rule: goes on at the rule of this priority";
    Routes StaticObjects: "nop", Nothing, "", C, Acts, "rule: does nothing";
    Routes StaticObjects: "type", Nothing, "", C, Acts, "rule: may stand before blackhole, unreachable and prohibit";
}
