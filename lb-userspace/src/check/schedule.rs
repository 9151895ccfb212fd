//! keepalived's probe schedule, for TCP_CHECK and MISC_CHECK.
//!
//! - The first probe waits a random part of `warmup`.
//! - One success means up. Down after `1 + retry` failures in a row, `delay_before_retry` apart.
//! - Every other probe waits `delay_loop`, also while down.
//! - The very first result counts at once, good or bad: nothing is known that it could
//!   contradict.
//!
//! A TCP_CHECK waits from the end of the last probe, a MISC_CHECK from its start
//! ([`Anchor`]), as in keepalived.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Fraction, Verdict};
use crate::base::{core::Core, status::Health, time::Instant};

/// What delays are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Anchor {
    /// The end of the last probe.
    End,
    /// The start of the last probe; a probe that took longer is followed at once.
    Start,
}

/// The configured numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Failures after the first before the verdict is down.
    pub retry: u32,
    /// Wait between failures that do not count yet.
    pub delay_before_retry: Duration,
    /// Wait otherwise.
    pub delay_loop: Duration,
    /// The first probe waits a random part of this.
    pub warmup: Duration,
    /// What delays are counted from.
    pub anchor: Anchor,
}

/// What happens to a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// The probe asked for by [`Effect::Probe`] succeeded; `weight` as in [`Verdict`].
    Success { weight: Option<u32>, reason: String },
    /// It failed.
    Failure { reason: String },
    /// It could not be made, which says nothing about the server.
    NotMade,
    /// What was known before a restart or a change of configuration; ignored once a probe has
    /// ended.
    Known(Health),
}

/// What a schedule wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Probe once and report with [`Input::Success`] or [`Input::Failure`].
    Probe,
    /// The state, its weight or the knowledge of it changed.
    Verdict(Verdict),
}

/// Schedule of one probe.
#[derive(Debug)]
pub struct Schedule {
    spec: Spec,
    /// `None` until the first probe has ended or a state was handed in.
    up: Option<bool>,
    /// No probe of this process has ended yet.
    fresh: bool,
    weight: Option<u32>,
    /// Failures in a row that have not led to a verdict.
    failures: u32,
    /// When the running probe began.
    running: Option<Instant>,
    next: Option<Instant>,
    effects: VecDeque<Effect>,
}

impl Schedule {
    /// A schedule whose first probe waits `spread` of the warm-up from `now`.
    pub fn new(spec: Spec, spread: Fraction, now: Instant) -> Self {
        let next = now + spread.of(spec.warmup);
        Self {
            spec,
            up: None,
            fresh: true,
            weight: None,
            failures: 0,
            running: None,
            next: Some(next),
            effects: VecDeque::new(),
        }
    }

    fn plan(&mut self, delay: Duration, now: Instant) {
        let from = match (self.spec.anchor, self.running.take()) {
            (Anchor::Start, Some(start)) => start,
            _ => now,
        };
        self.next = Some((from + delay).max(now));
    }

    fn success(&mut self, weight: Option<u32>, reason: String, now: Instant) {
        self.failures = 0;
        if self.fresh || self.up != Some(true) || self.weight != weight {
            self.up = Some(true);
            self.weight = weight;
            self.effects.push_back(Effect::Verdict(Verdict { health: Health::Up, weight, reason }));
        }
        self.plan(self.spec.delay_loop, now);
    }

    fn failure(&mut self, reason: String, now: Instant) {
        if self.up == Some(true) && self.failures < self.spec.retry {
            self.failures += 1;
            return self.plan(self.spec.delay_before_retry, now);
        }
        if self.fresh || self.up != Some(false) {
            let reason = match self.failures {
                0 => reason,
                retries => format!("{reason} (after {retries} retries)"),
            };
            self.up = Some(false);
            self.weight = None;
            self.effects.push_back(Effect::Verdict(Verdict {
                health: Health::Down,
                weight: None,
                reason,
            }));
        }
        self.failures = 0;
        self.plan(self.spec.delay_loop, now);
    }
}

impl Core for Schedule {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Known(health) => {
                if self.fresh {
                    self.up = Some(health != Health::Down);
                }
            }
            // A result that nobody asked for (a late script) is not one.
            Input::Success { .. } | Input::Failure { .. } | Input::NotMade
                if self.running.is_none() => {}
            Input::NotMade => {
                self.plan(self.spec.delay_before_retry.min(self.spec.delay_loop), now);
            }
            Input::Success { weight, reason } => {
                self.success(weight, reason, now);
                self.fresh = false;
            }
            Input::Failure { reason } => {
                self.failure(reason, now);
                // A failure that only starts the retries leaves nothing learned.
                self.fresh = self.fresh && self.failures > 0;
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            self.next = None;
            self.running = Some(now);
            self.effects.push_back(Effect::Probe);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn spec(retry: u32) -> Spec {
        Spec {
            retry,
            delay_before_retry: MS(1000),
            delay_loop: MS(6000),
            warmup: MS(6000),
            anchor: Anchor::End,
        }
    }

    /// Runs a schedule in virtual time: each probe takes `took` and ends as `results` says.
    /// Returns the start of every probe and the instant of every verdict, in milliseconds.
    fn run(
        spec: Spec,
        known: Option<Health>,
        spread: Fraction,
        took: u64,
        results: &[bool],
    ) -> (Vec<u64>, Vec<(u64, Health)>) {
        let ms = |at: Instant| at.as_nanos() / 1_000_000;
        let mut now = Instant::from_nanos(0);
        let mut schedule = Schedule::new(spec, spread, now);
        if let Some(health) = known {
            schedule.handle(Input::Known(health), now);
        }
        let (mut starts, mut verdicts) = (Vec::new(), Vec::new());
        for &good in results {
            let due = schedule.poll_timeout().expect("a probe is planned");
            // Early and repeated calls do nothing.
            if due > Instant::ZERO {
                schedule.handle_timeout(due.saturating_sub(Duration::from_nanos(1)));
                assert_eq!(schedule.poll_effect(), None);
            }
            now = due;
            schedule.handle_timeout(now);
            schedule.handle_timeout(now);
            assert_eq!(schedule.poll_effect(), Some(Effect::Probe));
            assert_eq!(schedule.poll_effect(), None, "one probe at a time");
            assert_eq!(schedule.poll_timeout(), None, "no probe while one runs");
            starts.push(ms(now));
            now += MS(took);
            let input = if good {
                Input::Success { weight: None, reason: "ok".into() }
            } else {
                Input::Failure { reason: "bad".into() }
            };
            schedule.handle(input, now);
            while let Some(effect) = schedule.poll_effect() {
                match effect {
                    Effect::Verdict(verdict) => verdicts.push((ms(now), verdict.health)),
                    Effect::Probe => panic!("probe before its time"),
                }
            }
        }
        (starts, verdicts)
    }

    #[test]
    fn down_after_one_plus_retry_failures_to_the_millisecond() {
        let (starts, verdicts) =
            run(spec(2), None, Fraction(0), 0, &[true, false, false, false, false, true]);
        assert_eq!(starts, [0, 6000, 7000, 8000, 14_000, 20_000]);
        assert_eq!(verdicts, [(0, Health::Up), (8000, Health::Down), (20_000, Health::Up)]);
    }

    #[test]
    fn first_failure_counts_at_once() {
        let (starts, verdicts) = run(spec(3), None, Fraction(0), 0, &[false, false, true]);
        assert_eq!(starts, [0, 6000, 12_000]);
        assert_eq!(verdicts, [(0, Health::Down), (12_000, Health::Up)]);
    }

    #[test]
    fn known_up_is_retried_before_it_falls() {
        let (starts, verdicts) =
            run(spec(1), Some(Health::Up), Fraction(0), 0, &[false, false, false]);
        assert_eq!(starts, [0, 1000, 7000]);
        assert_eq!(verdicts, [(1000, Health::Down)]);
    }

    #[test]
    fn a_success_between_failures_starts_the_count_again() {
        let (starts, verdicts) =
            run(spec(1), None, Fraction(0), 0, &[true, false, true, false, true]);
        assert_eq!(starts, [0, 6000, 7000, 13_000, 14_000]);
        assert_eq!(verdicts, [(0, Health::Up)]);
    }

    #[test]
    fn warmup_is_a_share_and_delays_count_from_the_end() {
        let (starts, _) = run(spec(1), None, Fraction(u16::MAX / 2), 250, &[true, true]);
        assert_eq!(starts, [2999, 2999 + 250 + 6000]);
    }

    #[test]
    fn misc_check_counts_from_the_start_and_never_overlaps() {
        let start = Spec { anchor: Anchor::Start, ..spec(0) };
        assert_eq!(run(start.clone(), None, Fraction(0), 250, &[true, true]).0, [0, 6000]);
        assert_eq!(run(start, None, Fraction(0), 9000, &[true, true]).0, [0, 9000]);
    }

    #[test]
    fn a_new_weight_is_a_verdict_and_an_equal_one_is_not() {
        let mut schedule = Schedule::new(spec(0), Fraction(0), Instant::ZERO);
        let mut weights = Vec::new();
        for weight in [Some(5), Some(5), Some(7), None] {
            let now = schedule.poll_timeout().expect("planned");
            schedule.handle_timeout(now);
            schedule.handle(Input::Success { weight, reason: String::new() }, now);
            while let Some(effect) = schedule.poll_effect() {
                if let Effect::Verdict(verdict) = effect {
                    weights.push(verdict.weight);
                }
            }
        }
        assert_eq!(weights, [Some(5), Some(7), None]);
    }

    /// Neither a failure nor a success, and soon tried again.
    #[test]
    fn a_probe_that_could_not_be_made_changes_nothing() {
        let mut schedule = Schedule::new(spec(1), Fraction(0), Instant::ZERO);
        let mut turn = |input| {
            let now = schedule.poll_timeout().expect("planned");
            schedule.handle_timeout(now);
            assert_eq!(schedule.poll_effect(), Some(Effect::Probe));
            schedule.handle(input, now);
            let next = schedule.poll_timeout().expect("planned");
            (next.saturating_since(now), schedule.poll_effect())
        };
        let failure = || Input::Failure { reason: "bad".into() };
        for _ in 0..5 {
            assert_eq!(turn(Input::NotMade), (MS(1000), None), "nothing is learned");
        }
        let (_, verdict) = turn(Input::Success { weight: None, reason: "ok".into() });
        assert!(matches!(verdict, Some(Effect::Verdict(it)) if it.health == Health::Up));
        assert_eq!(turn(failure()).1, None, "the first of two");
        for _ in 0..5 {
            assert_eq!(turn(Input::NotMade), (MS(1000), None), "still the first of two");
        }
        let (_, verdict) = turn(failure());
        assert!(matches!(verdict, Some(Effect::Verdict(it)) if it.health == Health::Down));
    }

    #[test]
    fn a_result_nobody_asked_for_is_ignored() {
        let mut schedule = Schedule::new(spec(0), Fraction(0), Instant::ZERO);
        schedule.handle(Input::Failure { reason: "late".into() }, Instant::ZERO);
        assert_eq!(schedule.poll_effect(), None);
        assert_eq!(schedule.poll_timeout(), Some(Instant::ZERO));
    }

    proptest! {
        /// Against a model that only counts: down exactly at the failure number `1 + retry` in a
        /// row (the first result excepted), up exactly at a success after down.
        #[test]
        fn verdicts_follow_the_counting_model(
            retry in 0u32..5,
            results in proptest::collection::vec(any::<bool>(), 1..60),
        ) {
            let (_, verdicts) = run(spec(retry), None, Fraction(0), 0, &results);
            let mut model: Vec<Health> = Vec::new();
            let mut row = 0;
            for &good in &results {
                row = if good { 0 } else { row + 1 };
                let last = model.last().copied();
                if good && last != Some(Health::Up) {
                    model.push(Health::Up);
                } else if !good && (last.is_none() || last == Some(Health::Up) && row > retry) {
                    model.push(Health::Down);
                }
            }
            prop_assert_eq!(verdicts.into_iter().map(|(_, h)| h).collect::<Vec<_>>(), model);
        }
    }
}
