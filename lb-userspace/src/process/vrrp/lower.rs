//! From the configuration's vrrp_instance to what the state machine and the shell need.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::net::Vrid,
    config::model::{
        Authentication, SyncGroup, TrackScript, VrrpInstance, VrrpScript, VrrpVersion,
    },
    io::{link::Vip, vrrp::Channel},
    vrrp::{
        auth::Auth, group, router::Config, timing::AdvertInterval, track::Tracked, wire::Version,
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
    instance
        .virtual_ipaddress
        .iter()
        .chain(&instance.on_host.excluded)
        .map(|vip| Vip {
            interface: vip.dev.clone().unwrap_or_else(|| instance.interface.clone()),
            prefix: vip.prefix,
            label: vip.label.clone(),
            broadcast: vip.broadcast,
            scope: vip.scope,
            options: vip.options.clone(),
        })
        .collect()
}

/// Interfaces whose state the instance follows: its own, those of its VIPs, the tracked ones.
fn tracked_interfaces(instance: &VrrpInstance) -> Vec<Tracked> {
    let mut tracked: Vec<Tracked> = instance
        .track_interfaces
        .iter()
        .map(|it| Tracked { name: it.name.clone(), weight: it.weight, reverse: it.reverse })
        .collect();
    let own = (!instance.dont_track_primary).then(|| instance.interface.clone());
    let of_vips = vips(instance)
        .into_iter()
        .map(|vip| vip.interface)
        .filter(|name| *name != instance.interface);
    let implied: BTreeSet<String> = own.into_iter().chain(of_vips).collect();
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
        grouped,
        addresses,
        unicast_peers: instance.unicast_peers.clone(),
        wire: instance.wire.clone(),
        garp: instance.garp,
        scripts: scripts_of(&instance.track_scripts, scripts),
        interfaces: tracked_interfaces(instance),
    })
}
