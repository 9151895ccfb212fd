//! Times of VRRP in integer nanoseconds: nothing is rounded to centiseconds or seconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::wire::Version;
use crate::base::{
    net::Priority,
    time::{Instant, nanos},
};

/// Adverts that may be missed before a backup takes over: the protocol's three, the default of
/// `down_timer_adverts`.
pub const DOWN_ADVERTS: u32 = 3;

/// `advert_int` in centiseconds, within what the version can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AdvertInterval(u16);

impl AdvertInterval {
    /// One second, the default.
    pub const DEFAULT: Self = Self(100);

    /// From whole seconds, VRRPv2; `None` for zero.
    pub fn from_seconds(seconds: u8) -> Option<Self> {
        (seconds > 0).then_some(Self(u16::from(seconds) * 100))
    }

    /// From centiseconds, VRRPv3; `None` outside 1-4095.
    pub fn from_centis(centis: u16) -> Option<Self> {
        (1..=4095).contains(&centis).then_some(Self(centis))
    }

    /// From a configured duration; `None` when the version cannot carry it exactly.
    pub fn from_duration(version: Version, duration: Duration) -> Option<Self> {
        let centis = u16::try_from(duration.as_millis() / 10).ok()?;
        let exact = Duration::from_millis(u64::from(centis) * 10) == duration;
        match version {
            Version::V2 if exact && centis % 100 == 0 => {
                Self::from_seconds(u8::try_from(centis / 100).ok()?)
            }
            Version::V3 if exact => Self::from_centis(centis),
            Version::V2 | Version::V3 => None,
        }
    }

    /// Centiseconds, as VRRPv3 sends them.
    pub fn centis(self) -> u16 {
        self.0
    }

    /// Whole seconds, as VRRPv2 sends them; at most 255.
    pub fn seconds(self) -> u8 {
        u8::try_from(self.0 / 100).unwrap_or(u8::MAX)
    }

    /// As a span.
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.0) * 10)
    }
}

/// Skew: how much later than the others a router of this priority takes over. VRRPv2 (RFC 3768
/// §6.1): (256 − priority)/256 s whatever the interval. VRRPv3 (RFC 9568 §6.1): that share of the
/// master's interval.
pub fn skew(version: Version, priority: Priority, master_interval: AdvertInterval) -> Duration {
    let share = 256 - u64::from(priority.0);
    let whole = match version {
        Version::V2 => 1_000_000_000,
        Version::V3 => nanos(master_interval.duration()),
    };
    Duration::from_nanos(share * whole / 256)
}

/// Silence after which a backup of this priority takes over, when so many adverts may be missed.
pub fn master_down(
    version: Version,
    priority: Priority,
    master_interval: AdvertInterval,
    adverts: u32,
) -> Duration {
    master_interval.duration() * adverts + skew(version, priority, master_interval)
}

/// What the lease is shorter than the peers' earliest takeover: 10 ms, at intervals over a second
/// a hundredth of the interval, at intervals under 12.5 ms four fifths of it (8 ms at 10 ms: two
/// ticks of a 250 Hz kernel, because the data plane compares jiffies).
pub fn lease_margin(interval: AdvertInterval) -> Duration {
    let interval = interval.duration();
    (interval / 100).max(Duration::from_millis(10)).min(interval * 4 / 5)
}

/// When a lease ends that rests on an advert sent at `sent`: before the earliest moment at which
/// a peer (skew zero at best) may take over, if that lets as many adverts be missed as we do. With
/// one advert to be missed the lease has to reach the next one: half of the smallest skew of a
/// backup (priority 254) is then all the time that a timer has for being late.
pub fn lease_end(
    sent: Instant,
    version: Version,
    interval: AdvertInterval,
    adverts: u32,
) -> Instant {
    let interval_span = interval.duration();
    sent + match adverts {
        0 | 1 => interval_span + skew(version, Priority(254), interval) / 2,
        _ => interval_span * adverts - lease_margin(interval),
    }
}

/// When the first advert of a takeover is sent again: after half of the smallest difference of
/// skew, so before a backup of any other priority fires.
pub fn repeat_gap(version: Version, interval: AdvertInterval) -> Duration {
    let step = match version {
        Version::V2 => Duration::from_secs(1),
        Version::V3 => interval.duration(),
    };
    step / 512
}

/// How long a preempting master waits between its first advert and forwarding, so that the master
/// it preempts has heard it and stopped: 20 ms, at intervals under 200 ms a tenth of the interval.
pub fn handover_guard(interval: AdvertInterval) -> Duration {
    (interval.duration() / 10).min(Duration::from_millis(20))
}

/// How long the backups of a told hand-over listen to each other before one of them forwards: 2 ms,
/// at intervals under 20 ms a tenth of the interval. Long enough for the better one's advert to
/// come, or, when that is lost, the second one, half of this later.
pub fn told_guard(interval: AdvertInterval) -> Duration {
    (interval.duration() / 10).min(Duration::from_millis(2))
}

/// How long before a backup takes over its VIPs are put on, behind its fence: 2 ms, at intervals
/// under 20 ms a tenth of the interval. The kernel needs some tenths of a millisecond for one VIP.
pub fn prepare_lead(interval: AdvertInterval) -> Duration {
    (interval.duration() / 10).min(Duration::from_millis(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn centis(value: u16) -> AdvertInterval {
        AdvertInterval::from_centis(value).expect("in range")
    }

    #[test]
    fn skew_of_v2_ignores_the_interval_and_of_v3_scales_with_it() {
        let skew_us = |version, priority, interval| {
            nanos(skew(version, Priority(priority), centis(interval))) as f64 / 1000.0
        };
        assert_eq!(skew_us(Version::V2, 100, 100), 609_375.0);
        assert_eq!(skew_us(Version::V2, 100, 300), 609_375.0);
        assert_eq!(skew_us(Version::V3, 100, 100), 609_375.0);
        assert_eq!(skew_us(Version::V3, 100, 10), 60_937.5);
        assert_eq!(skew_us(Version::V3, 100, 1), 6_093.75);
        assert_eq!(skew_us(Version::V3, 255, 100), 3_906.25);
    }

    #[test]
    fn master_down_is_three_intervals_and_skew() {
        let down = |interval| master_down(Version::V3, Priority(100), centis(interval), 3);
        assert_eq!(down(100), Duration::from_nanos(3_609_375_000));
        assert_eq!(down(10), Duration::from_nanos(360_937_500));
        assert_eq!(down(1), Duration::from_nanos(36_093_750));
        assert_eq!(
            master_down(Version::V2, Priority(110), centis(100), 3),
            Duration::from_nanos(3_570_312_500),
        );
    }

    #[test]
    fn the_lease_ends_before_the_most_eager_peer_takes_over() {
        for value in 1..=4095 {
            let interval = centis(value);
            let ends = |adverts| {
                // Priority 254 is the most eager backup; the owner's skew is a 256th as well.
                let down = master_down(Version::V3, Priority(254), interval, adverts);
                let end = lease_end(Instant::ZERO, Version::V3, interval, adverts);
                (end, Instant::ZERO + down)
            };
            let (end, takeover) = ends(3);
            assert!(end + Duration::from_millis(8) <= takeover, "{value} cs");
            assert!(end > Instant::ZERO + interval.duration() * 2, "two adverts may be lost");
            for adverts in [1, 2, 100] {
                let (end, takeover) = ends(adverts);
                assert!(end < takeover, "{value} cs, {adverts}");
                assert!(end > Instant::ZERO + interval.duration() * (adverts - 1), "{adverts}");
                assert!(end > Instant::ZERO + interval.duration(), "reaches the next advert");
            }
        }
        // The skew of VRRPv2 does not grow with the interval.
        for seconds in 1..=255 {
            let interval = AdvertInterval::from_seconds(seconds).expect("not zero");
            for adverts in [1, 2, 3, 100] {
                let down = master_down(Version::V2, Priority(254), interval, adverts);
                let end = lease_end(Instant::ZERO, Version::V2, interval, adverts);
                assert!(end < Instant::ZERO + down, "{seconds} s, {adverts}");
                assert!(end > Instant::ZERO + interval.duration(), "{seconds} s, {adverts}");
            }
        }
        assert_eq!(lease_margin(centis(100)), Duration::from_millis(10));
        assert_eq!(lease_margin(centis(1)), Duration::from_millis(8));
        assert_eq!(lease_margin(centis(4000)), Duration::from_millis(400));
    }

    #[test]
    fn intervals_outside_the_protocol_are_refused() {
        let from = AdvertInterval::from_duration;
        assert_eq!(from(Version::V2, Duration::from_millis(100)), None);
        assert_eq!(from(Version::V2, Duration::from_secs(256)), None);
        assert_eq!(from(Version::V2, Duration::ZERO), None);
        assert_eq!(from(Version::V2, Duration::from_secs(3)).map(AdvertInterval::seconds), Some(3));
        assert_eq!(from(Version::V3, Duration::from_millis(15)), None);
        assert_eq!(from(Version::V3, Duration::from_millis(40_950)), Some(centis(4095)));
        assert_eq!(from(Version::V3, Duration::from_millis(40_960)), None);
        assert_eq!(from(Version::V3, Duration::from_millis(10)), Some(centis(1)));
    }
}
