//! Objects as rtnetlink messages.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Rtnl,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo},
    link::{
        InfoData, InfoIpVlan, InfoKind, InfoMacVlan, IpVlanFlags, IpVlanMode, LinkAttribute,
        LinkInfo, LinkMessage, MacVlanMode,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric as Metric,
        RouteNextHop, RouteNextHopFlags, RoutePreference, RouteType, RouteVia,
    },
    rule::{
        RuleAction as Action, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange,
    },
};

use super::{Vip, VirtualLink, socket::Message};
use crate::config::model::{
    IpvlanFlag, NextHop, PROTOCOL, Route, RouteKind, RouteMetric, Rule, RuleAction, VirtualLinkKind,
};

/// Put it there; what is there already is an error of its own (EEXIST).
const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// Life of an address that does not end.
const FOREVER: u32 = u32::MAX;

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// Adds or removes an address.
pub(super) fn address(vip: &Vip, index: u32, on: bool) -> Message {
    let (v6, options) = (vip.prefix.addr.is_ipv6(), &vip.options);
    let mut message = AddressMessage::default();
    message.header.family = family(v6);
    message.header.index = index;
    message.header.prefix_len = options.peer.map_or(vip.prefix.len, |peer| peer.len);
    message.header.scope = vip.scope.into();
    let attributes = &mut message.attributes;
    attributes.push(AddressAttribute::Local(vip.prefix.addr));
    let other_end = options.peer.map_or(vip.prefix.addr, |peer| peer.addr);
    attributes.push(AddressAttribute::Address(other_end));
    if !on {
        return (Rtnl::DelAddress(message), 0);
    }
    attributes.extend(vip.broadcast.map(AddressAttribute::Broadcast));
    if let (Some(label), false) = (&vip.label, v6) {
        attributes.push(AddressAttribute::Label(label.clone()));
    }
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Nodad, v6 && !options.dad);
    flags.set(AddressFlags::Homeaddress, options.home);
    flags.set(AddressFlags::Managetempaddr, options.mngtmpaddr);
    flags.set(AddressFlags::Noprefixroute, options.noprefixroute);
    flags.set(AddressFlags::Mcautojoin, options.autojoin);
    if !flags.is_empty() {
        attributes.push(AddressAttribute::Flags(flags));
    }
    if let Some(preferred) = options.preferred_lft {
        let mut life = CacheInfo::default();
        (life.ifa_preferred, life.ifa_valid) = (preferred, FOREVER);
        attributes.push(AddressAttribute::CacheInfo(life));
    }
    attributes.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
    (Rtnl::NewAddress(message), ADD)
}

/// Adds or removes a route. `index` finds an interface; its absence is the error.
pub(super) fn route(
    route: &Route,
    on: bool,
    index: impl Fn(&str) -> Option<u32>,
) -> Result<Message, String> {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.to.addr.is_ipv6());
    header.destination_prefix_length = route.to.len;
    header.source_prefix_length = route.from.map_or(0, |from| from.len);
    header.tos = route.tos;
    // Greater numbers are in the attribute only.
    header.table = u8::try_from(route.table).unwrap_or(0);
    header.protocol = route.protocol.into();
    header.scope = route.scope.into();
    header.kind = kind(route.kind);
    let index = |name: &str| index(name).ok_or_else(|| format!("no interface {name}"));
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.to.len > 0 {
        attributes.push(RouteAttribute::Destination(route.to.addr.into()));
    }
    if let Some(from) = route.from {
        attributes.push(RouteAttribute::Source(from.addr.into()));
    }
    attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(src.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    match route.next_hops.as_slice() {
        [] => {}
        [hop] => {
            attributes.extend(gateway(hop.via, route.to.addr));
            if let Some(dev) = &hop.dev {
                attributes.push(RouteAttribute::Oif(index(dev)?));
            }
            header.flags.set(RouteFlags::Onlink, hop.onlink);
        }
        hops => {
            let hops: Result<Vec<_>, String> =
                hops.iter().map(|hop| next_hop(hop, route.to.addr, &index)).collect();
            attributes.push(RouteAttribute::MultiPath(hops?));
        }
    }
    if !on {
        return Ok((Rtnl::DelRoute(message), 0));
    }
    let pref = |number: u8| RouteAttribute::Preference(RoutePreference::from(number));
    attributes.extend(route.pref.map(pref));
    attributes.extend(route.expires.map(RouteAttribute::Expires));
    let mut lock = 0;
    let mut metrics = Vec::new();
    for (what, value, locked) in &route.metrics {
        let (number, metric) = metric(*what, *value);
        // The kernel does not tell it: none is the same.
        metrics.extend(Some(metric).filter(|_| *value > 0));
        lock |= u32::from(*locked) << number;
    }
    metrics.extend(route.congctl.clone().map(Metric::CcAlgo));
    if lock != 0 {
        metrics.insert(0, Metric::Lock(lock));
    }
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    Ok((Rtnl::NewRoute(message), ADD))
}

/// What makes a route what it is, in the kernel's words: in a request, or as the kernel tells it.
#[derive(Default)]
struct Seen {
    to: Option<IpAddr>,
    from: Option<IpAddr>,
    source: Option<IpAddr>,
    table: u32,
    metric: u32,
    pref: u8,
    metrics: Vec<Metric>,
    ways: Vec<Way>,
}

/// One next hop: gateway, share, whether that is on the link whatever the addresses say, interface.
#[derive(Default)]
struct Way {
    gateway: Option<RouteAttribute>,
    hops: u8,
    onlink: bool,
    /// Of a request `None`: whichever the gateway is on.
    interface: Option<u32>,
}

impl Way {
    fn is(&self, wanted: &Self) -> bool {
        (&self.gateway, self.hops, self.onlink) == (&wanted.gateway, wanted.hops, wanted.onlink)
            && (wanted.interface.is_none() || self.interface == wanted.interface)
    }
}

impl Seen {
    fn new(message: &RouteMessage) -> Self {
        let header = &message.header;
        let v6 = header.address_family == AddressFamily::Inet6;
        let mut seen = Self { table: header.table.into(), ..Self::default() };
        let onlink = header.flags.contains(RouteFlags::Onlink);
        let mut way = Way { onlink, ..Way::default() };
        let mut several = vec![];
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(it) => {
                    seen.to = prefix_of(it, header.destination_prefix_length);
                }
                RouteAttribute::Source(it) => {
                    seen.from = prefix_of(it, header.source_prefix_length);
                }
                RouteAttribute::PrefSource(it) => seen.source = prefix_of(it, 128),
                RouteAttribute::Table(number) => seen.table = *number,
                RouteAttribute::Priority(number) => seen.metric = *number,
                RouteAttribute::Preference(pref) if v6 => seen.pref = (*pref).into(),
                RouteAttribute::Metrics(metrics) => seen.metrics.clone_from(metrics),
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => {
                    way.gateway = Some(attribute.clone());
                }
                RouteAttribute::Oif(index) => way.interface = Some(*index),
                RouteAttribute::MultiPath(hops) => several.extend(hops.iter().map(|hop| Way {
                    gateway: hop.attributes.iter().find(|it| is_gateway(it)).cloned(),
                    hops: hop.hops,
                    onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
                    interface: Some(hop.interface_index).filter(|index| *index > 0),
                })),
                _ => {}
            }
        }
        if several.is_empty() && (way.gateway.is_some() || way.interface.is_some()) {
            several.push(way);
        }
        seen.ways = several;
        if v6 && seen.metric == 0 {
            // IP6_RT_PRIO_USER
            seen.metric = 1024;
        }
        seen
    }
}

fn is_gateway(attribute: &RouteAttribute) -> bool {
    matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_))
}

/// The network of so many bits; IPv6 cuts the rest off without a word.
fn prefix_of(address: &RouteAddress, len: u8) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            Some(std::net::Ipv6Addr::from_bits(address.to_bits() & mask).into())
        }
        _ => None,
    }
}

/// What [`is_route`] and [`is_in_its_place`] agree in: where to look for a route among thousands.
pub(super) type Place = (Option<IpAddr>, u8, u32);

/// Destination and metric of a route, in a request or as the kernel tells it.
pub(super) fn place(message: &RouteMessage) -> Place {
    let Seen { to, metric, .. } = Seen::new(message);
    (to, message.header.destination_prefix_length, metric)
}

/// Whether a route of the kernel is the one that a request of [`route`] puts there. How long it
/// still lives is not asked.
pub(super) fn is_route(found: &RouteMessage, wanted: &RouteMessage) -> bool {
    let key = |message: &RouteMessage| {
        let header = &message.header;
        let lens = (header.destination_prefix_length, header.source_prefix_length);
        // IPv6 keeps neither.
        let v4 = header.address_family == AddressFamily::Inet;
        let of_v4 = v4.then_some((header.tos, header.scope));
        (header.address_family, lens, header.protocol, header.kind, of_v4)
    };
    if key(found) != key(wanted) {
        return false;
    }
    let (is, want) = (Seen::new(found), Seen::new(wanted));
    let same_metrics = is.metrics.len() == want.metrics.len()
        && want.metrics.iter().all(|metric| is.metrics.contains(metric));
    // To IPv6 a route that leads nowhere leads to `lo`.
    let same_ways = if want.ways.is_empty() {
        is.ways.iter().all(|way| way.gateway.is_none())
    } else {
        is.ways.len() == want.ways.len()
            && want.ways.iter().all(|wanted| is.ways.iter().any(|way| way.is(wanted)))
    };
    (is.to, is.from, is.source) == (want.to, want.from, want.source)
        && (is.table, is.metric, is.pref) == (want.table, want.metric, want.pref)
        && same_metrics
        && same_ways
}

/// Whether a route of the kernel is where a request of [`route`] puts its own: of one destination and metric
/// there is one.
pub(super) fn is_in_its_place(found: &RouteMessage, wanted: &RouteMessage) -> bool {
    let key = |message: &RouteMessage| {
        let header = &message.header;
        let v4 = header.address_family == AddressFamily::Inet;
        (header.address_family, header.destination_prefix_length, v4.then_some(header.tos))
    };
    let (is, want) = (Seen::new(found), Seen::new(wanted));
    key(found) == key(wanted)
        && (is.to, is.table, is.metric) == (want.to, want.table, want.metric)
        && (is.from == want.from || found.header.address_family == AddressFamily::Inet)
}

fn gateway(via: Option<IpAddr>, to: IpAddr) -> Option<RouteAttribute> {
    Some(match via? {
        via if via.is_ipv6() == to.is_ipv6() => RouteAttribute::Gateway(RouteAddress::from(via)),
        IpAddr::V4(via) => RouteAttribute::Via(RouteVia::Inet(via)),
        IpAddr::V6(via) => RouteAttribute::Via(RouteVia::Inet6(via)),
    })
}

fn next_hop(
    hop: &NextHop,
    to: IpAddr,
    index: &impl Fn(&str) -> Result<u32, String>,
) -> Result<RouteNextHop, String> {
    let mut out = RouteNextHop::default();
    out.hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
    if let Some(dev) = &hop.dev {
        out.interface_index = index(dev)?;
    }
    out.flags.set(RouteNextHopFlags::Onlink, hop.onlink);
    out.attributes.extend(gateway(hop.via, to));
    Ok(out)
}

fn kind(kind: RouteKind) -> RouteType {
    match kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Local => RouteType::Local,
        RouteKind::Broadcast => RouteType::Broadcast,
        RouteKind::Anycast => RouteType::Anycast,
        RouteKind::Multicast => RouteType::Multicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Prohibit => RouteType::Prohibit,
        RouteKind::Throw => RouteType::Throw,
    }
}

/// The most that the kernel keeps of these: what is more it cuts without a word (`ip_metrics_convert` of
/// net/ipv4/metrics.c), and the route would never be the one that was asked for.
const MTU_MOST: u32 = 65_535 - 15;
const ADVMSS_MOST: u32 = 65_535 - 40;
const HOPLIMIT_MOST: u32 = 255;

/// rtnetlink's number, which is also the bit of the lock.
fn metric(what: RouteMetric, value: u32) -> (u32, Metric) {
    match what {
        RouteMetric::Mtu => (2, Metric::Mtu(value.min(MTU_MOST))),
        RouteMetric::Window => (3, Metric::Window(value)),
        RouteMetric::Rtt => (4, Metric::Rtt(value)),
        RouteMetric::Rttvar => (5, Metric::RttVar(value)),
        RouteMetric::Ssthresh => (6, Metric::SsThresh(value)),
        RouteMetric::Cwnd => (7, Metric::Cwnd(value)),
        RouteMetric::Advmss => (8, Metric::Advmss(value.min(ADVMSS_MOST))),
        RouteMetric::Reordering => (9, Metric::Reordering(value)),
        RouteMetric::Hoplimit => (10, Metric::Hoplimit(value.min(HOPLIMIT_MOST))),
        RouteMetric::Initcwnd => (11, Metric::InitCwnd(value)),
        RouteMetric::Features => (12, Metric::Features(value)),
        RouteMetric::RtoMin => (13, Metric::RtoMin(value)),
        RouteMetric::Initrwnd => (14, Metric::InitRwnd(value)),
        RouteMetric::Quickack => (15, Metric::QuickAck(value)),
        RouteMetric::FastopenNoCookie => (17, Metric::FastopenNoCookie(value)),
    }
}

/// Adds or removes a rule.
pub(super) fn rule(rule: &Rule, on: bool) -> Message {
    let mut message = RuleMessage::default();
    let header = &mut message.header;
    header.family = family(rule.v6);
    header.tos = rule.tos;
    header.src_len = rule.from.map_or(0, |from| from.len);
    header.dst_len = rule.to.map_or(0, |to| to.len);
    header.flags.set(RuleFlags::Invert, rule.invert);
    let attributes = &mut message.attributes;
    header.action = match rule.action {
        RuleAction::Table(table) => {
            header.table = u8::try_from(table).unwrap_or(0);
            attributes.push(RuleAttribute::Table(table));
            Action::ToTable
        }
        RuleAction::Goto(priority) => {
            attributes.push(RuleAttribute::Goto(priority));
            Action::Goto
        }
        RuleAction::Nop => Action::Nop,
        RuleAction::Blackhole => Action::Blackhole,
        RuleAction::Unreachable => Action::Unreachable,
        RuleAction::Prohibit => Action::Prohibit,
    };
    attributes.extend(rule.from.map(|from| RuleAttribute::Source(from.addr)));
    attributes.extend(rule.to.map(|to| RuleAttribute::Destination(to.addr)));
    attributes.extend(rule.priority.map(RuleAttribute::Priority));
    if let Some((mark, mask)) = rule.fwmark {
        attributes.push(RuleAttribute::FwMark(mark));
        attributes.extend(mask.map(RuleAttribute::FwMask));
    }
    attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    attributes.extend(rule.oif.clone().map(RuleAttribute::Oifname));
    attributes.extend(rule.suppress_prefixlen.map(RuleAttribute::SuppressPrefixLen));
    attributes.extend(rule.suppress_ifgroup.map(RuleAttribute::SuppressIfGroup));
    attributes.extend(rule.tunnel_id.map(RuleAttribute::TunId));
    attributes.extend(
        rule.uidrange.map(|(start, end)| RuleAttribute::UidRange(RuleUidRange { start, end })),
    );
    if rule.l3mdev {
        attributes.push(RuleAttribute::L3MDev(true));
    }
    attributes.push(RuleAttribute::Protocol(rule.protocol.into()));
    attributes.extend(rule.ipproto.map(|number| RuleAttribute::IpProtocol(number.into())));
    let range = |(start, end): (u16, u16)| RulePortRange { start, end };
    attributes.extend(rule.sport.map(|ports| RuleAttribute::SourcePortRange(range(ports))));
    attributes.extend(rule.dport.map(|ports| RuleAttribute::DestinationPortRange(range(ports))));
    if on { (Rtnl::NewRule(message), ADD) } else { (Rtnl::DelRule(message), 0) }
}

/// What the kernel calls a virtual interface of its kind.
pub(super) fn link_kind(link: &VirtualLink) -> InfoKind {
    match link.kind {
        VirtualLinkKind::Macvlan { .. } => InfoKind::MacVlan,
        VirtualLinkKind::Ipvlan { .. } => InfoKind::IpVlan,
    }
}

/// Makes a virtual interface on the interface of the index `base`: a private macvlan with its MAC, or
/// an ipvlan of layer 2.
pub(super) fn link(link: &VirtualLink, base: u32) -> Message {
    let mut message = LinkMessage::default();
    let attributes = &mut message.attributes;
    attributes.push(LinkAttribute::IfName(link.name.clone()));
    attributes.push(LinkAttribute::Link(base));
    let data = match &link.kind {
        VirtualLinkKind::Macvlan { .. } => {
            attributes.push(LinkAttribute::Address(link.mac.0.to_vec()));
            InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Private)])
        }
        VirtualLinkKind::Ipvlan { flag, .. } => {
            let flags = match flag {
                IpvlanFlag::Bridge => IpVlanFlags::empty(),
                IpvlanFlag::Private => IpVlanFlags::Private,
                IpvlanFlag::Vepa => IpVlanFlags::Vepa,
            };
            let mode = InfoIpVlan::Mode(IpVlanMode::L2);
            InfoData::IpVlan(vec![mode, InfoIpVlan::Flags(flags)])
        }
    };
    let info = vec![LinkInfo::Kind(link_kind(link)), LinkInfo::Data(data)];
    attributes.push(LinkAttribute::LinkInfo(info));
    (Rtnl::NewLink(message), ADD)
}

/// Joins an interface to a VRF or bridge, both by index; index 0: leaves it.
pub(super) fn controller(index: u32, controller: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Controller(controller));
    (Rtnl::NewLink(message), 0)
}

/// Interface and address, if the address carries our protocol number.
pub(super) fn marked(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let ours = AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL));
    if !message.attributes.contains(&ours) {
        return None;
    }
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    Some((message.header.index, find(true).or_else(|| find(false))?))
}

/// Whether a rule of the kernel is this one, whatever priority it has.
pub(super) fn is_rule(found: &RuleMessage, rule: &Rule) -> bool {
    let (Rtnl::NewRule(wanted), _) = self::rule(rule, true) else { return false };
    let key = |message: &RuleMessage| {
        let header = &message.header;
        let invert = header.flags.contains(RuleFlags::Invert);
        (header.family, header.tos, header.src_len, header.dst_len, header.action, invert)
    };
    // What the kernel tells of every rule, whether it was asked for or not.
    let always = |attribute: &RuleAttribute| match attribute {
        RuleAttribute::Priority(_) | RuleAttribute::Table(_) | RuleAttribute::FwMask(_) => true,
        RuleAttribute::Other(_) => true, // port masks of newer kernels
        RuleAttribute::SuppressPrefixLen(len) => *len == u32::MAX,
        RuleAttribute::L3MDev(on) => !on,
        _ => false,
    };
    let within = |these: &[RuleAttribute], those: &[RuleAttribute]| {
        these.iter().all(|it| those.contains(it) || always(it))
    };
    let asked = wanted.attributes.iter().all(|it| found.attributes.contains(it));
    key(found) == key(&wanted) && asked && within(&found.attributes, &wanted.attributes)
}

#[cfg(test)]
mod tests;
