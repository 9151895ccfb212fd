//! What the configuration makes of the host: addresses, routes, rules, announcements.

use super::{
    super::model::{
        AddressOptions, GarpExtra, GarpGroup, IpvlanFlag, LinkDelay, NextHop, NoAccept, OnHost,
        Route, RouteKind, RouteMetric, Rule, RuleAction, Statics, VipAddress, VirtualLink,
        VirtualLinkKind,
    },
    Item, Lines, seconds,
};
use crate::vrrp::garp::Garp;

/// Static objects and the groups that follow them; blocks without entries are left out.
pub fn statics(statics: &Statics) -> Vec<Item> {
    let Statics { addresses, routes, rules, groups } = statics;
    let mut out = Lines::default();
    for (name, members) in groups {
        let mut block = Lines::default();
        block.list("group", members.iter().map(Item::entry));
        out.put(Item::new("track_group").word(name).opens(block.0));
    }
    out.list("static_ipaddress", addresses.iter().map(address));
    out.list("static_routes", routes.iter().map(route));
    out.list("static_rules", rules.iter().map(rule));
    out.0
}

/// `garp_group`.
pub fn garp_group(group: &GarpGroup) -> Item {
    let GarpGroup { garp_interval, gna_interval, interfaces } = group;
    let mut out = Lines::default();
    out.time_unless_zero("garp_interval", *garp_interval);
    out.time_unless_zero("gna_interval", *gna_interval);
    out.list("interfaces", interfaces.iter().map(Item::entry));
    Item::new("garp_group").opens(out.0)
}

/// `interface_up_down_delays`, when there are any.
pub fn link_delays(delays: &[LinkDelay]) -> Vec<Item> {
    let entry = |delay: &LinkDelay| {
        let LinkDelay { interface, down, up } = delay;
        Item::entry(interface).word(seconds(*down)).word(seconds(*up))
    };
    let mut out = Lines::default();
    out.list("interface_up_down_delays", delays.iter().map(entry));
    out.0
}

pub(super) fn garp(out: &mut Lines, prefix: &str, garp: &Garp) {
    let Garp { repeat, delay, refresh, refresh_repeat, lower_repeat, lower_delay } = garp;
    out.time(&format!("{prefix}garp_master_delay"), *delay);
    out.value(&format!("{prefix}garp_master_repeat"), repeat);
    out.time(&format!("{prefix}garp_master_refresh"), *refresh);
    out.value(&format!("{prefix}garp_master_refresh_repeat"), refresh_repeat);
    out.time(&format!("{prefix}garp_lower_prio_delay"), *lower_delay);
    out.value(&format!("{prefix}garp_lower_prio_repeat"), lower_repeat);
}

pub(super) fn garp_extra(keyword: &str, extra: Option<GarpExtra>) -> Item {
    match extra {
        Some(GarpExtra { every, all }) => Item::new(keyword).flag("all", all).word(seconds(every)),
        None => Item::new(keyword).word(0),
    }
}

/// Words of an instance about its host. `accept` is said, so that strict mode does not choose.
pub(super) fn on_host(out: &mut Lines, host: &OnHost) {
    let OnHost {
        excluded,
        routes,
        rules,
        virtual_link,
        vmac_addresses,
        // Made from the words before it.
        address_links: _,
        vrf,
        promote_secondaries,
        no_accept,
        track_src_ip,
        garp_extra: extra,
    } = host;
    if let Some(link) = virtual_link {
        self::virtual_link(out, link);
    }
    out.flag("use_vmac_addr", *vmac_addresses);
    out.maybe("vrf", vrf.as_ref());
    out.flag("promote_secondaries", *promote_secondaries);
    match no_accept {
        // Both numbers are words of global_defs.
        Some(NoAccept { priority: _, counters: _ }) => out.flag("no_accept", true),
        None => out.flag("accept", true),
    }
    out.flag("track_src_ip", *track_src_ip);
    out.put(garp_extra("garp_extra_if", *extra));
    out.list("virtual_ipaddress_excluded", excluded.iter().map(address));
    out.list("virtual_routes", routes.iter().map(route));
    out.list("virtual_rules", rules.iter().map(rule));
}

fn virtual_link(out: &mut Lines, link: &VirtualLink) {
    let VirtualLink { name, kind, xmit_base } = link;
    let item = match kind {
        VirtualLinkKind::Macvlan { mac } => {
            let item = Item::new("use_vmac").word(name);
            mac.iter().fold(item, |item, mac| item.word(mac))
        }
        VirtualLinkKind::Ipvlan { address, flag } => {
            let item = Item::new("use_ipvlan").word(name);
            let flag = match flag {
                IpvlanFlag::Bridge => "bridge",
                IpvlanFlag::Private => "private",
                IpvlanFlag::Vepa => "vepa",
            };
            address.iter().fold(item, |item, address| item.word(address)).word(flag)
        }
    };
    out.put(item);
    out.flag("vmac_xmit_base", *xmit_base);
}

/// An entry of an address list.
pub(super) fn address(vip: &VipAddress) -> Item {
    let VipAddress { prefix, dev, label, broadcast, scope, options } = vip;
    let AddressOptions {
        peer,
        home,
        dad,
        mngtmpaddr,
        noprefixroute,
        autojoin,
        preferred_lft,
        no_track,
        track_group,
        use_vmac,
    } = options;
    let lone = prefix.addr.is_ipv6() && prefix.len == 128;
    let lifetime = match preferred_lft {
        Some(seconds) => Some(seconds.to_string()),
        // Without the word, a /128 is never preferred.
        None => lone.then(|| "forever".to_owned()),
    };
    let scope = (*scope != 0).then(|| self::scope(*scope));
    Item::entry(prefix)
        .maybe("peer", peer.as_ref())
        .maybe("brd", broadcast.as_ref())
        .maybe("dev", dev.as_ref())
        .maybe("scope", scope)
        .maybe("label", label.as_ref())
        .flag("home", *home)
        .flag("-nodad", *dad)
        .flag("mngtmpaddr", *mngtmpaddr)
        .flag("noprefixroute", *noprefixroute)
        .flag("autojoin", *autojoin)
        .maybe("preferred_lft", lifetime)
        .flag("no_track", *no_track)
        .maybe("track_group", track_group.as_ref())
        .flag("use_vmac", *use_vmac)
}

/// iproute2's name, or the number.
fn scope(number: u8) -> String {
    match number {
        0 => "global".into(),
        200 => "site".into(),
        253 => "link".into(),
        254 => "host".into(),
        255 => "nowhere".into(),
        other => other.to_string(),
    }
}

fn route(route: &Route) -> Item {
    let Route {
        kind,
        to,
        from,
        src,
        next_hops,
        table,
        metric,
        scope,
        protocol,
        tos,
        pref,
        expires,
        metrics,
        congctl,
        no_track,
        track_group,
    } = route;
    let kind = match kind {
        RouteKind::Unicast => "unicast",
        RouteKind::Local => "local",
        RouteKind::Broadcast => "broadcast",
        RouteKind::Anycast => "anycast",
        RouteKind::Multicast => "multicast",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Throw => "throw",
    };
    let mut item =
        Item::new(kind).pair("to", to).maybe("from", from.as_ref()).maybe("src", src.as_ref());
    match next_hops.as_slice() {
        [only] if only.weight == 1 => item = hop(item, only),
        several => {
            for next in several {
                item = hop(item.word("nexthop"), next).pair("weight", next.weight);
            }
        }
    }
    item = item
        .pair("table", table)
        .maybe("metric", metric.as_ref())
        .pair("scope", self::scope(*scope))
        .pair("protocol", protocol)
        .pair("tos", tos)
        .maybe("expires", expires.as_ref())
        .maybe(
            "pref",
            pref.map(|pref| match pref {
                1 => "high",
                3 => "low",
                _ => "medium",
            }),
        );
    for (metric, value, lock) in metrics {
        item = route_metric(item, *metric, *value, *lock);
    }
    item.maybe("congctl", congctl.as_ref())
        .flag("no_track", *no_track)
        .maybe("track_group", track_group.as_ref())
}

fn hop(item: Item, hop: &NextHop) -> Item {
    let NextHop { via, dev, weight: _, onlink } = hop;
    item.maybe("via", via.as_ref()).maybe("dev", dev.as_ref()).flag("onlink", *onlink)
}

/// Numbers without a unit are the kernel's own.
fn route_metric(item: Item, metric: RouteMetric, value: u32, lock: bool) -> Item {
    let word = match metric {
        RouteMetric::Features => return item.pair("features", "ecn"),
        RouteMetric::Mtu => "mtu",
        RouteMetric::Window => "window",
        RouteMetric::Rtt => "rtt",
        RouteMetric::Rttvar => "rttvar",
        RouteMetric::Ssthresh => "ssthresh",
        RouteMetric::Cwnd => "cwnd",
        RouteMetric::Advmss => "advmss",
        RouteMetric::Reordering => "reordering",
        RouteMetric::Hoplimit => "hoplimit",
        RouteMetric::Initcwnd => "initcwnd",
        RouteMetric::RtoMin => "rto_min",
        RouteMetric::Initrwnd => "initrwnd",
        RouteMetric::Quickack => "quickack",
        RouteMetric::FastopenNoCookie => "fastopen_no_cookie",
    };
    item.word(word).flag("lock", lock).word(value)
}

fn rule(rule: &Rule) -> Item {
    let Rule {
        v6,
        action,
        invert,
        from,
        to,
        priority,
        tos,
        fwmark,
        iif,
        oif,
        suppress_prefixlen,
        suppress_ifgroup,
        tunnel_id,
        uidrange,
        l3mdev,
        protocol,
        ipproto,
        sport,
        dport,
        no_track,
        track_group,
    } = rule;
    let mark = fwmark.map(|(mark, mask)| match mask {
        Some(mask) => format!("{mark:#x}/{mask:#x}"),
        None => format!("{mark:#x}"),
    });
    let item = Item::new(if *v6 { "inet6" } else { "inet" })
        .flag("not", *invert)
        .maybe("from", from.as_ref())
        .maybe("to", to.as_ref())
        .maybe("priority", priority.as_ref())
        .pair("tos", tos)
        .maybe("fwmark", mark)
        .maybe("iif", iif.as_ref())
        .maybe("oif", oif.as_ref())
        .maybe("suppress_prefixlength", suppress_prefixlen.as_ref())
        .maybe("suppress_ifgroup", suppress_ifgroup.as_ref())
        .maybe("tunnel-id", tunnel_id.as_ref())
        .maybe("uidrange", uidrange.map(|(start, end)| format!("{start}-{end}")))
        .pair("protocol", protocol)
        .maybe("ipproto", ipproto.as_ref())
        .maybe("sport", sport.map(|(start, end)| format!("{start}-{end}")))
        .maybe("dport", dport.map(|(start, end)| format!("{start}-{end}")))
        // Before the action, which it would take the place of.
        .flag("l3mdev", *l3mdev);
    let item = match action {
        RuleAction::Table(0) => item,
        RuleAction::Table(table) => item.pair("table", table),
        RuleAction::Goto(priority) => item.pair("goto", priority),
        RuleAction::Nop => item.word("nop"),
        RuleAction::Blackhole => item.word("blackhole"),
        RuleAction::Unreachable => item.word("unreachable"),
        RuleAction::Prohibit => item.word("prohibit"),
    };
    item.flag("no_track", *no_track).maybe("track_group", track_group.as_ref())
}
