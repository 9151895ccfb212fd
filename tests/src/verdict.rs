//! Judges what a client went through between two instants. Pure: samples in, numbers out.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::traffic::{Failure, Sample, Try};

/// One kept session that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostSession {
    pub session: u64,
    /// `server_id` of its real server.
    pub server: u32,
    pub idle: bool,
    /// reset, closed, hang, …
    pub how: String,
    /// From the event to the client's knowledge, milliseconds, without the time in which nothing was run.
    pub after_event_ms: u64,
    /// From the query that found out to its end, milliseconds, without that time.
    pub after_query_ms: u64,
}

/// What the client saw of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Longest time between two successful new connections, milliseconds, without the time in which
    /// the client's own thread, or a CPU, was not run.
    pub longest_gap_ms: u64,
    /// The same by the clock on the wall, whoever was not run meanwhile; nothing is judged by it.
    #[serde(default)]
    pub longest_gap_wall_ms: u64,
    /// From the event (or what later made connections fail) until the last new connection that failed
    /// was tried, the longest such time without that in which nothing was run, milliseconds; 0 when none
    /// failed.
    pub connects_failed_for_ms: u64,
    /// New connections that succeeded.
    pub connects: u64,
    /// New connections that failed.
    pub connect_errors: u64,
    /// Failed new connections by kind.
    pub connect_errors_by_kind: BTreeMap<String, u64>,
    /// Slowest answer on a kept session that survived, milliseconds, without the time in which nothing was run.
    pub slowest_query_ms: u64,
    /// Kept sessions that ended.
    pub lost: Vec<LostSession>,
    /// Of those, by RST.
    pub resets: u64,
    /// Of those, without any sign until the client's own limit.
    pub hangs: u64,
    /// New connections that each server took.
    pub connects_by_server: BTreeMap<u32, u64>,
}

/// A connection that began so shortly before something happened was under way then.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// Judges the samples of the window from the event, which is the first of `causes`, to `end`. Further
/// causes are moments at which connections began to fail anew. `samples` may begin earlier: the last
/// success before the event starts the first gap.
pub fn judge(samples: &[Sample], causes: &[Instant], end: Instant) -> Seen {
    let mut seen = Seen::default();
    let Some(&event) = causes.first() else { return seen };
    let mut last_success: Option<Instant> = None;
    for sample in samples {
        if sample.ended > end {
            break;
        }
        let in_window = sample.ended >= event;
        match (&sample.tried, &sample.result) {
            (Try::Connect, Ok(server)) => {
                if in_window {
                    let since = last_success.unwrap_or(event);
                    seen.gap(samples, since, sample.ended);
                    seen.connects += 1;
                    *seen.connects_by_server.entry(*server).or_default() += 1;
                }
                last_success = Some(sample.ended);
            }
            (Try::Connect, Err(failure)) if in_window => {
                seen.connect_errors += 1;
                *seen.connect_errors_by_kind.entry(failure.word()).or_default() += 1;
                let causes = causes.iter().rev();
                let cause = causes.into_iter().find(|cause| **cause <= sample.started + UNDER_WAY);
                let cause = cause.copied().unwrap_or(event);
                // One that was tried before the event (and ended in it) counts as one millisecond,
                // so that "none failed" and "some failed at once" differ.
                let failing = millis(waited(samples, cause, sample.started)).max(1);
                seen.connects_failed_for_ms = seen.connects_failed_for_ms.max(failing);
            }
            (Try::Query { .. }, Ok(_)) if in_window => {
                let took = waited(samples, sample.started, sample.ended);
                seen.slowest_query_ms = seen.slowest_query_ms.max(millis(took));
            }
            (Try::Query { session, idle }, Err(failure)) if in_window => {
                seen.resets += u64::from(*failure == Failure::Reset);
                seen.hangs += u64::from(*failure == Failure::Hang);
                seen.lost.push(LostSession {
                    session: *session,
                    server: sample.server.unwrap_or(0),
                    idle: *idle,
                    how: failure.word(),
                    after_event_ms: millis(waited(samples, event, sample.ended)),
                    after_query_ms: millis(waited(samples, sample.started, sample.ended)),
                });
            }
            _ => {}
        }
    }
    seen.gap(samples, last_success.map_or(event, |last| last.max(event)), end);
    seen
}

impl Seen {
    /// Counts a time without a new connection.
    fn gap(&mut self, samples: &[Sample], from: Instant, to: Instant) {
        let on_the_wall = millis(to.saturating_duration_since(from));
        self.longest_gap_wall_ms = self.longest_gap_wall_ms.max(on_the_wall);
        self.longest_gap_ms = self.longest_gap_ms.max(millis(waited(samples, from, to)));
    }
}

/// The time between two instants without stalls, which may be several at one time.
pub fn waited(samples: &[Sample], from: Instant, to: Instant) -> Duration {
    let stalls = samples.iter().filter(|sample| sample.tried == Try::Stall);
    let mut stalls: Vec<(Instant, Instant)> = stalls
        .map(|stall| (stall.started.max(from), stall.ended.min(to)))
        .filter(|(begin, end)| begin < end)
        .collect();
    stalls.sort_unstable();
    let (mut until, mut waited) = (from, Duration::ZERO);
    for (begin, end) in stalls {
        waited += begin.saturating_duration_since(until);
        until = until.max(end);
    }
    waited + to.saturating_duration_since(until)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: Instant, ms: u64) -> Instant {
        base + Duration::from_millis(ms)
    }

    fn connect(base: Instant, from: u64, to: u64, result: Result<u32, Failure>) -> Sample {
        let server = result.as_ref().ok().copied();
        Sample { tried: Try::Connect, started: at(base, from), ended: at(base, to), result, server }
    }

    #[test]
    fn gap_counts_from_the_last_success_before_the_event() {
        let base = Instant::now();
        let samples = [
            connect(base, 90, 95, Ok(1)),
            connect(base, 110, 112, Err(Failure::Refused)),
            connect(base, 300, 310, Err(Failure::Refused)),
            connect(base, 600, 605, Ok(2)),
        ];
        let seen = judge(&samples, &[at(base, 100)], at(base, 700));
        assert_eq!(seen.longest_gap_ms, 510);
        assert_eq!(seen.connects_failed_for_ms, 200);
        assert_eq!((seen.connects, seen.connect_errors), (1, 2));
        assert_eq!(seen.connect_errors_by_kind["refused"], 2);
    }

    #[test]
    fn a_client_that_was_not_run_has_waited_for_nobody() {
        let base = Instant::now();
        let stall = |from, to| Sample { tried: Try::Stall, ..connect(base, from, to, Ok(0)) };
        let samples = [
            connect(base, 90, 95, Ok(1)),
            stall(50, 195),
            stall(300, 900),
            // Of a CPU, in that time.
            stall(350, 890),
            connect(base, 900, 905, Ok(1)),
            stall(1000, 1100),
        ];
        let seen = judge(&samples, &[at(base, 100)], at(base, 1200));
        assert_eq!(seen.longest_gap_ms, 195, "810 less 100 and 600; later 295 less 100");
        assert_eq!(seen.longest_gap_wall_ms, 810);
    }

    #[test]
    fn a_client_that_was_not_run_was_not_told_late() {
        let base = Instant::now();
        let query = Try::Query { session: 7, idle: false };
        let lost = Sample { tried: query, ..connect(base, 190, 1300, Err(Failure::Reset)) };
        // What was overdue is heard before the stall is told, and a longer one than the window is.
        let samples = [
            lost,
            connect(base, 1250, 1301, Err(Failure::Refused)),
            Sample { tried: Try::Stall, ..connect(base, 200, 1200, Ok(0)) },
            Sample { tried: Try::Stall, ..connect(base, 1400, 3000, Ok(0)) },
        ];
        let seen = judge(&samples, &[at(base, 100)], at(base, 1500));
        let [lost] = seen.lost.as_slice() else { panic!("{seen:?}") };
        assert_eq!((lost.after_event_ms, lost.after_query_ms), (200, 110));
        let slow = Sample { result: Ok(1), ..samples[0].clone() };
        let other = judge(&[slow, samples[2].clone()], &[at(base, 100)], at(base, 1500));
        assert_eq!(other.slowest_query_ms, 110);
        assert_eq!(seen.connects_failed_for_ms, 150, "1150 less 1000");
        assert_eq!(seen.longest_gap_ms, 300, "1400 less 1000 and 100");
    }

    #[test]
    fn failures_are_timed_from_what_made_them() {
        let base = Instant::now();
        let refused = |from| connect(base, from, from + 5, Err(Failure::Refused));
        let samples = [refused(150), refused(4080), refused(4300)];
        let failed = |causes: &[u64]| {
            let causes: Vec<_> = causes.iter().map(|ms| at(base, *ms)).collect();
            judge(&samples, &causes, at(base, 9000)).connects_failed_for_ms
        };
        assert_eq!(failed(&[100]), 4200);
        assert_eq!(failed(&[100, 4083]), 217, "one was under way at the second");
        assert_eq!(failed(&[100, 4200]), 3980, "one began long before the second");
    }

    #[test]
    fn a_gap_that_never_closes_lasts_until_the_end() {
        let base = Instant::now();
        let samples = [connect(base, 0, 5, Ok(1))];
        let seen = judge(&samples, &[at(base, 10)], at(base, 2010));
        assert_eq!(seen.longest_gap_ms, 2000);
        let none = judge(&[], &[base], at(base, 700));
        assert_eq!(none.longest_gap_ms, 700);
    }

    #[test]
    fn lost_sessions_tell_server_and_delay() {
        let base = Instant::now();
        let tried = Try::Query { session: 7, idle: false };
        let samples = [Sample {
            tried,
            started: at(base, 150),
            ended: at(base, 640),
            result: Err(Failure::Reset),
            server: Some(2),
        }];
        let seen = judge(&samples, &[at(base, 100)], at(base, 1000));
        assert_eq!((seen.resets, seen.hangs), (1, 0));
        let [lost] = seen.lost.as_slice() else { panic!("{seen:?}") };
        assert_eq!((lost.server, lost.after_event_ms, lost.after_query_ms), (2, 540, 490));
    }
}
