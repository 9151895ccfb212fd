//! From where sequence numbers go on after a restart within the lease: above every number that the
//! peers may hold, whatever the wall clock does meanwhile.

use std::time::Duration;

use crate::base::time::Instant;

/// How far the clock is set ahead of a number that has outrun it, so that this is rare.
const AHEAD: Duration = Duration::from_secs(3600);

/// Seconds that never go back while the host runs: the monotonic clock and a lead, which grows
/// only. The lead outlives the process ([`Clock::lead`] is for writing it down): with it a
/// successor counts on from the same line even when the wall clock was set back in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    lead: Duration,
}

impl Clock {
    /// `stored`: the lead that a predecessor wrote down. A wall clock that is ahead of it counts,
    /// because of a predecessor that has written none.
    pub fn new(stored: Option<Duration>, unix: Duration, now: Instant) -> Self {
        let lead = unix.saturating_sub(now.saturating_since(Instant::ZERO));
        Self { lead: stored.map_or(lead, |stored| stored.max(lead)) }
    }

    /// To be written down.
    pub fn lead(self) -> Duration {
        self.lead
    }

    /// What the clock says.
    pub fn at(self, now: Instant) -> Duration {
        self.lead.saturating_add(now.saturating_since(Instant::ZERO))
    }

    /// Takes notice of a number that was sent or accepted. True when the lead has grown, because the
    /// number has outrun the clock: the clock of a peer was ahead, or many adverts were answered.
    pub fn follow(&mut self, sequence: u32, now: Instant) -> bool {
        let number = Duration::from_secs(sequence.into());
        if number < self.at(now) {
            return false;
        }
        self.lead = (number + AHEAD).saturating_sub(now.saturating_since(Instant::ZERO));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn it_never_goes_back() {
        let seconds = Duration::from_secs;
        let first = Clock::new(None, seconds(1_000_000), at(100));
        assert_eq!(first.at(at(100)), seconds(1_000_000));
        // The wall clock was set back by a day, then forward.
        let second = Clock::new(Some(first.lead()), seconds(913_600), at(110));
        assert_eq!(second.at(at(110)), seconds(1_000_010));
        let third = Clock::new(Some(second.lead()), seconds(2_000_000), at(120));
        assert_eq!(third.at(at(121)), seconds(2_000_001));
    }

    #[test]
    fn a_number_that_outruns_it_pulls_it_along() {
        let mut clock = Clock::new(None, Duration::from_secs(1000), at(0));
        assert!(!clock.follow(999, at(0)));
        assert!(clock.follow(1000, at(0)), "the next one would be used already");
        assert!(clock.at(at(0)) > Duration::from_secs(1000));
        assert!(!clock.follow(1001, at(0)), "it is far ahead now");
        assert!(clock.follow(u32::MAX, at(5)));
        assert!(clock.at(at(5)) > Duration::from_secs(u32::MAX.into()));
    }
}
