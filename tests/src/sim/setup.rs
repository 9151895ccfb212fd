//! What the hosts' files say.

use std::{net::Ipv4Addr, time::Duration};

use lb_userspace::{
    base::net::{Priority, Vrid},
    vrrp::{
        auth::Auth,
        garp::Garp,
        group,
        router::Config,
        timing::{AdvertInterval, DOWN_ADVERTS},
        track::Tracked,
        wire::{Options, Version},
    },
};

/// The tracked script with a weight.
pub const WEIGHTED: &str = "weighted";
/// The tracked script without: bad means FAULT.
pub const PLAIN: &str = "plain";

/// What happens to packets beside partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing; hosts pause, crash and are cut off.
    Disturbed,
    /// A quarter of the packets is lost, never two adverts of one router to another in a row; no
    /// host pauses, crashes or is cut off.
    Lossy,
    /// Adverts are late by up to 2.5 intervals, so that others overtake them: never two of one
    /// router to another in a row. Else as [`Weather::Disturbed`].
    Reordered,
}

/// A vrrp_instance of one host; its members of a sync group say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    pub priority: u8,
    pub preempt: bool,
    pub preempt_delay: Duration,
    pub interval: AdvertInterval,
    /// How many VIPs.
    pub vips: u8,
    /// `told_handover`; counts in VRRPv3 only.
    pub told: bool,
    /// Not a word of a file: the router knows that its host can fence itself. Else it prepares
    /// nothing and yields without a farewell; the data plane fences all the same.
    pub fences: bool,
}

impl Words {
    /// As most files say.
    pub fn new(priority: u8) -> Self {
        Self {
            priority,
            preempt: true,
            preempt_delay: Duration::ZERO,
            interval: AdvertInterval::DEFAULT,
            vips: 1,
            told: false,
            fences: true,
        }
    }
}

/// Everything that is chosen before a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    pub weather: Weather,
    pub version: Version,
    /// Virtual routers of a host.
    pub width: usize,
    /// `down_timer_adverts`; has to be alike on all hosts, as the lease rests on it.
    pub down_adverts: u32,
    /// Of the tracked script that has one.
    pub weight: i32,
    /// Host by host.
    pub words: Vec<Words>,
}

/// The VIP of this index.
pub fn vip(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 100 + index)
}

impl Setup {
    /// VRRPv2, one virtual router a host, hosts of these priorities.
    pub fn plain(priorities: &[u8]) -> Self {
        Self {
            weather: Weather::Disturbed,
            version: Version::V2,
            width: 1,
            down_adverts: DOWN_ADVERTS,
            weight: -60,
            words: priorities.iter().map(|priority| Words::new(*priority)).collect(),
        }
    }

    /// The longest advert_int.
    pub fn slowest(&self) -> AdvertInterval {
        let intervals = self.words.iter().map(|words| words.interval);
        intervals.max().unwrap_or(AdvertInterval::DEFAULT)
    }

    fn scripts(&self) -> Vec<Tracked> {
        let tracked = |name: &str, weight| Tracked { name: name.into(), weight, reverse: false };
        vec![tracked(WEIGHTED, self.weight), tracked(PLAIN, 0)]
    }

    pub(super) fn group(&self, members: Vec<String>) -> group::Config {
        let scripts = self.scripts();
        group::Config { name: "G".into(), members, scripts, ..group::Config::default() }
    }

    pub(super) fn config(&self, words: &Words) -> Config {
        let grouped = self.width > 1;
        Config {
            version: self.version,
            vrid: Vrid::new(51).expect("nonzero"),
            priority: Priority(words.priority),
            interval: words.interval,
            auth: Auth::None,
            preempt: words.preempt,
            preempt_delay: words.preempt_delay,
            down_adverts: self.down_adverts,
            lower_prio_no_advert: false,
            higher_prio_send_advert: false,
            owner_ignore_adverts: false,
            timer_expired_backup: None,
            told_handover: words.told && self.version == Version::V3,
            grouped,
            addresses: (0..words.vips).map(|index| vip(index).into()).collect(),
            unicast_peers: vec![],
            wire: Options::default(),
            garp: Garp::default(),
            // A sync group's members follow what the group tracks.
            scripts: if grouped { vec![] } else { self.scripts() },
            interfaces: vec![Tracked { name: "eth0".into(), weight: 0, reverse: false }],
        }
    }
}
