//! The only place that reads clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::base::time::Instant;

/// `CLOCK_MONOTONIC` now.
pub fn now() -> Instant {
    match clock_gettime(ClockId::CLOCK_MONOTONIC) {
        Ok(time) => {
            let secs = u64::try_from(time.tv_sec()).unwrap_or(0);
            let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
            Instant::from_nanos(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
        }
        // The clock always exists on Linux (clock_gettime(2)).
        Err(_) => Instant::ZERO,
    }
}

/// Wall clock since 1970; zero before.
pub fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Unix time in milliseconds.
pub fn unix_ms() -> u64 {
    u64::try_from(unix().as_millis()).unwrap_or(u64::MAX)
}
