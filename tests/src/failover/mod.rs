//! Fail-over as a client feels it, beside real keepalived: the same two-host configuration, the
//! same faults, in the same run (reference/vrrp.md §4 has the method and keepalived's figures).

pub mod crowd;
pub mod health;
pub mod pair;
pub mod probe;
pub mod report;
pub mod rhythm;
pub mod start;
pub mod targets;
pub mod wire;

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// What is done to the pair. `a` has the higher priority and is master before each fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL to every process of a's daemon, and its cable cut.
    HostDies,
    /// SIGKILL to every process of a's daemon; its host lives on.
    DaemonKilled,
    /// SIGKILL to a's vrrp process alone, which its watchdog starts again.
    VrrpKilled,
    /// SIGTERM to a's daemon.
    Stop,
    /// SIGTERM to a's daemon, both with `told_handover`: lbd only, and VRRPv3 at every interval.
    ToldStop,
    /// a's cable cut, its daemon alive.
    Cut,
    /// The script that a tracks begins to fail (it runs every second).
    ScriptFails,
    /// a comes back and preempts.
    Return,
    /// SIGHUP to both, nothing changed.
    ReloadSame,
    /// SIGHUP to both, a VIP added in both files.
    ReloadAddsVip,
}

impl Fault {
    /// In the order of a round; each leaves a master again.
    pub const ALL: [Self; 10] = [
        Self::HostDies,
        Self::DaemonKilled,
        Self::VrrpKilled,
        Self::Stop,
        Self::Return,
        Self::Cut,
        Self::ScriptFails,
        Self::ReloadSame,
        Self::ReloadAddsVip,
        Self::ToldStop,
    ];

    /// What the heir has to wait from the old master's last word, which is a farewell where that one
    /// lives to say it. `None`: nobody takes over by a timer.
    pub fn limit(self, pace: Pace) -> Option<Duration> {
        match self {
            Self::HostDies | Self::DaemonKilled | Self::Cut => Some(pace.master_down()),
            Self::Stop | Self::ScriptFails => Some(pace.skew()),
            Self::ToldStop => Some(Duration::ZERO),
            Self::VrrpKilled | Self::Return | Self::ReloadSame | Self::ReloadAddsVip => None,
        }
    }

    /// As the table prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostDies => "host dies (kill -9, cable)",
            Self::DaemonKilled => "daemon killed, host lives",
            Self::VrrpKilled => "vrrp process killed",
            Self::Stop => "clean stop",
            Self::ToldStop => "clean stop, told",
            Self::Cut => "link down",
            Self::ScriptFails => "script failure",
            Self::Return => "preempting return",
            Self::ReloadSame => "reload, unchanged",
            Self::ReloadAddsVip => "reload, a VIP added",
        }
    }
}

/// An advert interval and the protocol version that allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Pace {
    pub version: u8,
    pub advert_ms: u32,
}

impl Pace {
    /// The three of the bench.
    pub const ALL: [Self; 3] = [
        Self { version: 2, advert_ms: 1000 },
        Self { version: 3, advert_ms: 100 },
        Self { version: 3, advert_ms: 10 },
    ];

    /// The advert interval.
    pub fn interval(self) -> Duration {
        Duration::from_millis(u64::from(self.advert_ms))
    }

    /// Longest time from the last advert to a takeover by a backup of priority 100.
    pub fn master_down(self) -> Duration {
        self.interval() * 3 + self.skew()
    }

    /// Time from a farewell to it.
    pub fn skew(self) -> Duration {
        // RFC 3768 6.1: the skew of version 2 is a part of a second, whatever the interval.
        let unit = if self.version == 2 { Duration::from_secs(1) } else { self.interval() };
        unit * (256 - 100) / 256
    }
}
