//! From the configuration's vrrp_instance to what the state machine and the shell need.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::net::{Mac, Priority, Vrid},
    config::model::{
        AddressOptions, Authentication, Config as File, Statics, SyncGroup, TrackScript,
        VipAddress, VirtualLinkKind, VrrpInstance, VrrpScript, VrrpVersion,
    },
    io::{
        link::{Filter, Object, Setting, Vip, VirtualLink},
        vrrp::Channel,
    },
    vrrp::{
        auth::Auth, group, pacer::Gaps, router::Config, timing::AdvertInterval, track::Tracked,
        wire::Version,
    },
};

type Scripts = BTreeMap<String, VrrpScript>;

/// What makes two instances of two configurations the same: it keeps state, timers, counters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub interface: String,
    pub vrid: Vrid,
    pub ipv4: bool,
}

pub(super) fn identity(instance: &VrrpInstance) -> Identity {
    Identity {
        interface: instance.interface.clone(),
        vrid: instance.vrid,
        ipv4: !instance.wire.ipv6,
    }
}

/// The sockets that hear its adverts. A VRRPv2 instance listens for both forms of authentication,
/// so that a peer that uses the other one is told.
pub(super) fn channels(config: &Config) -> &'static [Channel] {
    match (config.wire.ipv6, config.version) {
        (true, _) => &[Channel::V6],
        (false, Version::V2) => &[Channel::V4, Channel::V4Ah],
        (false, Version::V3) => &[Channel::V4],
    }
}

/// The socket that sends its adverts.
pub(super) fn send_channel(config: &Config) -> Channel {
    match config.auth {
        _ if config.wire.ipv6 => Channel::V6,
        Auth::Ah(_) => Channel::V4Ah,
        Auth::None | Auth::Pass(_) => Channel::V4,
    }
}

/// VIPs with their interfaces, in configured order, those that adverts do not name last.
pub(super) fn vips(instance: &VrrpInstance) -> Vec<Vip> {
    let host = &instance.on_host;
    let own = host.virtual_link.as_ref();
    let on_own_mac = own.is_some_and(|link| matches!(link.kind, VirtualLinkKind::Macvlan { .. }));
    let addresses = instance.virtual_ipaddress.iter().chain(&host.excluded);
    let interface = |vip: &VipAddress| {
        let v6 = vip.prefix.addr.is_ipv6();
        if let Some(base) = instance.address_link_base(vip) {
            let link = host.address_links.iter().find(|it| it.base == base && it.ipv6 == v6);
            return link.map_or_else(|| base.to_owned(), |link| link.name.clone());
        }
        // `dev` with the instance's own interface means its virtual MAC, as in keepalived.
        let own_dev = vip
            .dev
            .as_ref()
            .is_none_or(|dev| on_own_mac && *dev == instance.interface && v6 == instance.wire.ipv6);
        match (&vip.dev, own) {
            (_, Some(link)) if own_dev => link.name.clone(),
            (dev, _) => dev.clone().unwrap_or_else(|| instance.interface.clone()),
        }
    };
    addresses.map(|vip| address(vip, interface(vip))).collect()
}

fn address(vip: &VipAddress, interface: String) -> Vip {
    Vip {
        interface,
        prefix: vip.prefix,
        label: vip.label.clone(),
        broadcast: vip.broadcast,
        scope: vip.scope,
        options: vip.options.clone(),
    }
}

/// What a master holds: VIPs, then routes, then rules.
pub(super) fn holds(instance: &VrrpInstance) -> Vec<Object> {
    let vips = vips(instance).into_iter().map(Object::Address);
    let routes = instance.on_host.routes.iter().cloned().map(Object::Route);
    let rules = instance.on_host.rules.iter().cloned().map(Object::Rule);
    filter(instance).into_iter().chain(vips).chain(routes).chain(rules).collect()
}

/// The owner's own addresses are always accepted (RFC 9568 §6.1).
fn filter(instance: &VrrpInstance) -> Option<Object> {
    let words = instance.on_host.no_accept.filter(|_| instance.priority != Priority::OWNER)?;
    Some(Object::Filter(Filter {
        table: format!("lbd-{}", instance.name),
        vips: vips(instance).iter().map(|vip| vip.prefix.addr).collect(),
        priority: words.priority,
        counters: words.counters,
    }))
}

/// The virtual router's MAC (RFC 9568 §7.3).
fn virtual_mac(instance: &VrrpInstance, v6: bool) -> Mac {
    Mac([0, 0, 0x5e, 0, if v6 { 2 } else { 1 }, instance.vrid.get()])
}

/// What the instance needs from its start to its end.
pub(super) fn base(instance: &VrrpInstance) -> Vec<Object> {
    let host = &instance.on_host;
    let setting = |interface: &str, word: &str| {
        let key = format!("ipv4/conf/{interface}/{word}");
        Object::Setting(Setting { key, value: 1 })
    };
    let mut base = Vec::new();
    if host.promote_secondaries {
        base.push(setting(&instance.interface, "promote_secondaries"));
    }
    let own = host.virtual_link.as_ref().map(|link| {
        let v6 = instance.wire.ipv6;
        let mac = match link.kind {
            VirtualLinkKind::Macvlan { mac: Some(mac) } => mac,
            _ => virtual_mac(instance, v6),
        };
        let (name, base) = (link.name.clone(), instance.interface.clone());
        let ipv6 = v6 || host.excluded.iter().any(|vip| vip.prefix.addr.is_ipv6());
        VirtualLink { name, base, kind: link.kind.clone(), mac, ipv6 }
    });
    let others = host.address_links.iter().map(|link| VirtualLink {
        name: link.name.clone(),
        base: link.base.clone(),
        kind: VirtualLinkKind::Macvlan { mac: None },
        mac: virtual_mac(instance, link.ipv6),
        ipv6: link.ipv6,
    });
    for link in own.into_iter().chain(others) {
        if matches!(link.kind, VirtualLinkKind::Macvlan { .. }) {
            // The host answers ARP for a VIP with the virtual MAC only (RFC 9568 §8.1.2).
            base.push(setting(&link.base, "arp_ignore"));
            base.push(setting(&link.base, "arp_filter"));
        }
        let name = link.name.clone();
        let address = match link.kind {
            VirtualLinkKind::Ipvlan { address, .. } => address,
            VirtualLinkKind::Macvlan { .. } => None,
        };
        base.push(Object::Link(link));
        if let Some(vrf) = &host.vrf {
            base.push(Object::Master(name.clone(), vrf.clone()));
        }
        base.extend(address.map(|prefix| {
            let (label, broadcast, options) = (None, None, AddressOptions::default());
            Object::Address(Vip { interface: name, prefix, label, broadcast, scope: 0, options })
        }));
    }
    base
}

/// The virtual interface that adverts leave by, when they carry the virtual MAC: not under
/// `vmac_xmit_base`, and not those to unicast peers, which the host's own MAC has to answer for.
pub(super) fn advert_link(instance: &VrrpInstance) -> Option<&str> {
    let link = instance.on_host.virtual_link.as_ref()?;
    let macvlan = matches!(link.kind, VirtualLinkKind::Macvlan { .. });
    let multicast = instance.unicast_peers.is_empty();
    (macvlan && !link.xmit_base && multicast).then_some(link.name.as_str())
}

/// Where adverts from a virtual MAC are heard, which the kernel keeps from the interface below.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ear {
    /// The macvlan.
    pub link: String,
    /// The interface below, whose instances hear them.
    pub base: String,
    /// The family of these adverts.
    pub ipv6: bool,
}

/// Every macvlan of an instance takes the adverts that have its MAC, whatever the instance sends by:
/// under `vmac_xmit_base` too. Unicast adverts go by their destination and reach the interface below.
pub(super) fn ears(instance: &VrrpInstance) -> Vec<Ear> {
    let host = &instance.on_host;
    let own = host.virtual_link.as_ref().filter(|link| {
        matches!(link.kind, VirtualLinkKind::Macvlan { .. }) && instance.unicast_peers.is_empty()
    });
    let own = own.map(|link| Ear {
        link: link.name.clone(),
        base: instance.interface.clone(),
        ipv6: instance.wire.ipv6,
    });
    let others = host.address_links.iter().map(|link| Ear {
        link: link.name.clone(),
        base: link.base.clone(),
        ipv6: link.ipv6,
    });
    own.into_iter().chain(others).collect()
}

/// Paces of announcements: `vrrp_garp_interval` and `vrrp_gna_interval`, and each `garp_group`.
pub(super) fn paces(config: &File) -> (Gaps, Vec<(Vec<String>, Gaps)>) {
    let usual = Gaps { arp: config.global.garp_interval, nd: config.global.gna_interval };
    let groups = config.garp_groups.iter().map(|group| {
        let gaps = Gaps { arp: group.garp_interval, nd: group.gna_interval };
        (group.interfaces.clone(), gaps)
    });
    (usual, groups.collect())
}

/// Names of virtual interfaces among objects.
pub(super) fn link_names(objects: &[Object]) -> BTreeSet<String> {
    let name = |object: &Object| match object {
        Object::Link(link) => Some(link.name.clone()),
        _ => None,
    };
    objects.iter().filter_map(name).collect()
}

/// Objects held from start to exit.
pub(super) fn statics(statics: &Statics) -> Vec<Object> {
    let addresses = statics.addresses.iter().map(|vip| {
        Object::Address(address(vip, vip.dev.clone().unwrap_or_else(|| "eth0".to_owned())))
    });
    let routes = statics.routes.iter().cloned().map(Object::Route);
    let rules = statics.rules.iter().cloned().map(Object::Rule);
    addresses.chain(routes).chain(rules).collect()
}

/// Interfaces that an object needs, unless it is not tracked.
fn interfaces_of(object: &Object) -> Vec<String> {
    match object {
        Object::Address(vip) if !vip.options.no_track => vec![vip.interface.clone()],
        Object::Route(route) if !route.no_track => {
            route.next_hops.iter().filter_map(|hop| hop.dev.clone()).collect()
        }
        Object::Rule(rule) if !rule.no_track => rule.iif.iter().chain(&rule.oif).cloned().collect(),
        _ => vec![],
    }
}

fn group_of(object: &Object) -> Option<&String> {
    match object {
        Object::Address(vip) => vip.options.track_group.as_ref(),
        Object::Route(route) => route.track_group.as_ref(),
        Object::Rule(rule) => rule.track_group.as_ref(),
        _ => None,
    }
}

/// Interfaces that an instance follows because static objects of its track_group need them.
pub(super) fn group_interfaces(instance: &str, all: &Statics) -> Vec<String> {
    let groups: Vec<&String> = all
        .groups
        .iter()
        .filter(|(_, members)| members.iter().any(|member| member == instance))
        .map(|(name, _)| name)
        .collect();
    let objects = statics(all).into_iter();
    let followed = objects.filter(|it| group_of(it).is_some_and(|group| groups.contains(&group)));
    followed.flat_map(|object| interfaces_of(&object)).collect()
}

/// Interfaces whose state the instance follows: its own, those of its VIPs, the one that its adverts leave by,
/// the tracked ones.
fn tracked_interfaces(instance: &VrrpInstance) -> Vec<Tracked> {
    let mut tracked: Vec<Tracked> = instance
        .track_interfaces
        .iter()
        .map(|it| Tracked { name: it.name.clone(), weight: it.weight, reverse: it.reverse })
        .collect();
    let own = (!instance.dont_track_primary).then(|| instance.interface.clone());
    let of_vips = holds(instance)
        .iter()
        .flat_map(interfaces_of)
        .filter(|name| *name != instance.interface)
        .collect::<BTreeSet<String>>();
    // Without it nothing could be said to the others, whatever VIPs are tracked.
    let of_adverts = advert_link(instance).map(str::to_owned);
    let implied: BTreeSet<String> = own.into_iter().chain(of_vips).chain(of_adverts).collect();
    for name in implied {
        if !tracked.iter().any(|it| it.name == name) {
            tracked.push(Tracked { name, weight: 0, reverse: false });
        }
    }
    tracked
}

fn scripts_of(tracked: &[TrackScript], scripts: &Scripts) -> Vec<Tracked> {
    let lowered = tracked.iter().filter_map(|track| {
        let script = scripts.get(&track.name)?;
        Some(Tracked {
            name: track.name.clone(),
            weight: track.weight.unwrap_or(script.weight),
            reverse: track.reverse.unwrap_or(script.reverse),
        })
    });
    lowered.collect()
}

/// Lowers one sync group; its members are those instances that are run.
pub(super) fn group(
    group: &SyncGroup,
    scripts: &Scripts,
    is_run: impl Fn(&str) -> bool,
) -> group::Config {
    let interfaces = group.track_interfaces.iter().map(|it| Tracked {
        name: it.name.clone(),
        weight: it.weight,
        reverse: it.reverse,
    });
    group::Config {
        name: group.name.clone(),
        members: group.members.iter().filter(|name| is_run(name)).cloned().collect(),
        scripts: scripts_of(&group.track_scripts, scripts),
        interfaces: interfaces.collect(),
    }
}

/// Lowers one instance, a member of a sync group or not.
///
/// # Errors
/// What this version of lbd cannot do, for the log.
pub fn config(instance: &VrrpInstance, scripts: &Scripts, grouped: bool) -> Result<Config, String> {
    let version = match instance.version {
        VrrpVersion::V2 => Version::V2,
        VrrpVersion::V3 => Version::V3,
    };
    let interval = AdvertInterval::from_duration(version, instance.advert_int)
        .ok_or_else(|| format!("advert_int {:?} is not possible", instance.advert_int))?;
    let addresses: Vec<_> = instance.virtual_ipaddress.iter().map(|vip| vip.prefix.addr).collect();
    let auth = match (&instance.authentication, version) {
        (Authentication::Pass(data), Version::V2) => Auth::Pass(*data),
        (Authentication::Ah(data), Version::V2) => Auth::Ah(*data),
        (Authentication::None, _) | (_, Version::V3) => Auth::None,
    };
    Ok(Config {
        version,
        vrid: instance.vrid,
        priority: instance.priority,
        interval,
        auth,
        preempt: !instance.nopreempt,
        preempt_delay: instance.preempt_delay,
        down_adverts: instance.election.down_timer_adverts,
        lower_prio_no_advert: instance.election.lower_prio_no_advert,
        higher_prio_send_advert: instance.election.higher_prio_send_advert,
        owner_ignore_adverts: instance.election.owner_ignore_adverts,
        timer_expired_backup: instance.timer_expired_backup,
        told_handover: instance.election.told_handover,
        grouped,
        addresses,
        unicast_peers: instance.unicast_peers.clone(),
        wire: instance.wire.clone(),
        garp: instance.garp,
        scripts: scripts_of(&instance.track_scripts, scripts),
        interfaces: tracked_interfaces(instance),
    })
}

#[cfg(test)]
mod tests;
