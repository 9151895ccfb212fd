//! How late the timers of an election fire: the time between the moment for which an advert or a
//! takeover was due and the moment at which the state machine was told of it.

use std::time::Duration;

use crate::base::status::Lateness;

/// Upper bounds of the histogram in microseconds; the last takes the rest. Made for adverts every
/// 10 ms, whose backups take over after 30 ms and a skew: a timer that is 1 ms late is a tenth of
/// such an interval, from 5 ms on a lost advert is one too many, from 20 ms on the lease of 22 ms
/// is in danger.
pub const BOUNDS_US: [u64; 13] =
    [50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 200_000, 1_000_000, u64::MAX];

/// Counts of one kind of timer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BOUNDS_US.len()],
    total_us: u64,
}

impl Histogram {
    /// A timer fired so much later than it was due.
    pub fn count(&mut self, late: Duration) {
        let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.total_us = self.total_us.saturating_add(late);
        for (bound, count) in BOUNDS_US.iter().zip(&mut self.counts) {
            if late <= *bound {
                *count += 1;
                return;
            }
        }
    }

    /// Takes up another's counts.
    pub fn add(&mut self, other: &Self) {
        self.total_us = self.total_us.saturating_add(other.total_us);
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// As it is published: every bucket, the empty ones too.
    pub fn status(&self) -> Lateness {
        Lateness {
            late_us: BOUNDS_US.into_iter().zip(self.counts).collect(),
            total_us: self.total_us,
        }
    }
}

/// Both kinds of one instance, or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// The next advert of a master.
    pub advert: Histogram,
    /// Master-down and skew of a backup.
    pub master_down: Histogram,
}

impl Timers {
    /// Takes up another's counts.
    pub fn add(&mut self, other: &Self) {
        self.advert.add(&other.advert);
        self.master_down.add(&other.master_down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lateness_is_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        assert!(BOUNDS_US.is_sorted());
        for late in [0, 50, 51, 1_000, 1_001, 20_000, 999_999, 1_000_001, 3_600_000_000] {
            histogram.count(Duration::from_micros(late));
        }
        let status = histogram.status();
        let full: Vec<_> = status.late_us.into_iter().filter(|(_, count)| *count > 0).collect();
        let want = [(50, 2), (100, 1), (1_000, 1), (2_000, 1), (20_000, 1), (1_000_000, 1)];
        assert_eq!(full, [&want[..], &[(u64::MAX, 2)]].concat());
        assert_eq!(status.total_us, 3_602_022_102);
    }

    #[test]
    fn counts_add_up_and_empty_buckets_are_published() {
        let (mut all, mut one) = (Timers::default(), Timers::default());
        one.advert.count(Duration::from_micros(60));
        one.master_down.count(Duration::MAX);
        all.add(&one);
        all.add(&one);
        let advert = all.advert.status();
        assert_eq!((advert.late_us[&100], advert.total_us), (2, 120));
        assert_eq!(advert.late_us.len(), BOUNDS_US.len());
        let down = all.master_down.status();
        assert_eq!((down.late_us[&u64::MAX], down.total_us), (2, u64::MAX));
    }
}
