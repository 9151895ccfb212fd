//! When to reconcile: at once after a change, at a steady period, sooner after a failure.

use std::time::Duration;

use crate::base::{core::Core, time::Instant};

/// Delay after the first failed round; doubles up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest delay after failed rounds.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// What happens to the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The desired table changed: reconcile now, back-off or not.
    Changed,
    /// A round ended; so many of its operations failed.
    Finished { failed: usize },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Observe, plan, apply; then [`Input::Finished`].
    Reconcile,
}

/// Schedule of reconcile rounds. Starts due at once.
#[derive(Clone, Debug)]
pub struct Rounds {
    period: Duration,
    retry: Duration,
    next: Option<Instant>,
    due: bool,
}

impl Rounds {
    /// A schedule whose quiet rounds are `period` apart.
    pub fn new(period: Duration, now: Instant) -> Self {
        Self { period, retry: RETRY_MIN, next: Some(now), due: false }
    }
}

impl Core for Rounds {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Changed => {
                self.due = true;
                self.next = None;
            }
            Input::Finished { failed: 0 } => {
                self.retry = RETRY_MIN;
                self.next = Some(now + self.period);
            }
            Input::Finished { .. } => {
                self.next = Some(now + self.retry);
                self.retry = (self.retry * 2).min(RETRY_MAX);
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            self.next = None;
            self.due = true;
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        std::mem::take(&mut self.due).then_some(Effect::Reconcile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * MS)
    }

    fn fires(rounds: &mut Rounds, now: Instant) -> bool {
        rounds.handle_timeout(now);
        rounds.poll_effect().is_some()
    }

    #[test]
    fn first_round_is_due_at_once_and_later_ones_by_period() {
        let mut rounds = Rounds::new(Duration::from_secs(1), at(5));
        assert!(fires(&mut rounds, at(5)));
        assert!(!fires(&mut rounds, at(5)), "one round at a time");
        rounds.handle(Input::Finished { failed: 0 }, at(7));
        assert!(!fires(&mut rounds, at(1006)));
        assert!(fires(&mut rounds, at(1007)));
    }

    #[test]
    fn failures_back_off_and_success_resets() {
        let mut rounds = Rounds::new(Duration::from_secs(1), at(0));
        assert!(fires(&mut rounds, at(0)));
        let mut now = 0;
        for delay in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            rounds.handle(Input::Finished { failed: 2 }, at(now));
            assert_eq!(rounds.poll_timeout(), Some(at(now + delay)));
            now += delay;
            assert!(fires(&mut rounds, at(now)));
        }
        rounds.handle(Input::Finished { failed: 0 }, at(now));
        assert!(fires(&mut rounds, at(now + 1000)));
        rounds.handle(Input::Finished { failed: 1 }, at(now + 1000));
        assert_eq!(rounds.poll_timeout(), Some(at(now + 1100)));
    }

    #[test]
    fn a_change_does_not_wait_for_the_back_off() {
        let mut rounds = Rounds::new(Duration::from_secs(1), at(0));
        assert!(fires(&mut rounds, at(0)));
        rounds.handle(Input::Finished { failed: 1 }, at(0));
        rounds.handle(Input::Changed, at(1));
        assert_eq!(rounds.poll_effect(), Some(Effect::Reconcile));
        assert_eq!(rounds.poll_effect(), None);
    }
}
