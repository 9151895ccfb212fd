//! Timers that fire late, because this process or its host was busy: counted, and told.

use std::time::Duration;

use super::{Level, Router};
use crate::base::time::Instant;

/// Later than this share of the interval: counted in `late_timers`.
const COUNTED: u32 = 10;
/// Later than this share of the interval: told. Half an interval is a sixth of what a peer waits.
const TOLD: u32 = 2;
/// Told at most this often.
const LOG_GAP: Duration = Duration::from_secs(10);

/// Which timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The next advert of a master.
    Advert,
    /// Master-down or skew of a backup.
    MasterDown,
}

/// What was told of late timers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Logged {
    at: Option<Instant>,
    /// Late enough to be told, but too soon after the last line.
    untold: u64,
}

impl Router {
    /// A timer has fired `late` after it was due. The interval is that by which it was set: ours
    /// for an advert, the master's for the wait for one.
    pub(super) fn count_late(&mut self, kind: Kind, late: Duration, now: Instant) {
        let (name, interval, histogram) = match kind {
            Kind::Advert => ("advert", self.config.interval, &mut self.lateness.advert),
            Kind::MasterDown => {
                ("master-down", self.master_interval, &mut self.lateness.master_down)
            }
        };
        histogram.count(late);
        let interval = interval.duration();
        if late > interval / COUNTED {
            self.counters.late_timers += 1;
        }
        if late <= interval / TOLD {
            return;
        }
        if self.late_logged.at.is_some_and(|at| now.saturating_since(at) < LOG_GAP) {
            self.late_logged.untold += 1;
            return;
        }
        let untold = std::mem::take(&mut self.late_logged.untold);
        self.late_logged.at = Some(now);
        let more =
            if untold > 0 { format!(", {untold} more since the last line") } else { String::new() };
        let text =
            format!("the {name} timer fired {late:?} late, at an interval of {interval:?}{more}");
        self.log(Level::Warn, text);
    }
}
