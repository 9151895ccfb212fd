//! Reloads: one at a time, requests that arrive meanwhile lead to one more, and everybody who
//! asked learns how it ended. Pure bookkeeping.

use std::{sync::Arc, time::Duration};

use crate::base::{plan::Plan, query::Reply, time::Instant};

/// Longest wait for the roles to put a new generation in force before the operator is told who
/// still works on it.
pub const CONFIRM_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for reading and parsing the file: a file system that hangs must not end reloads
/// for ever. What such a reading brings later is dropped.
pub const READ_LIMIT: Duration = Duration::from_secs(30);
/// Operators that wait for reloads at most; a further one is told to look at the status.
pub const WAITERS_LIMIT: usize = 64;

/// The queue of reload requests.
#[derive(Debug, Default)]
pub struct Reloads {
    /// The file is being read and parsed for these, until then.
    reading: Option<(Vec<u64>, Instant)>,
    /// Number of that reading: an answer of another one comes too late.
    number: u64,
    /// Came after reading began: the file may have changed, so it is read again.
    again: Option<Vec<u64>>,
    /// Accepted; wait until every role has the generation.
    confirming: Vec<Confirming>,
}

#[derive(Debug)]
struct Confirming {
    ask: u64,
    generation: u64,
    plan: Arc<Plan>,
    deadline: Instant,
}

impl Reloads {
    /// A request, with the question to answer if there is one. `Some`: start the reading of this
    /// number now.
    pub fn request(&mut self, ask: Option<u64>, now: Instant) -> Option<u64> {
        if self.reading.is_none() {
            return Some(self.begin(ask.into_iter().collect(), now));
        }
        self.again.get_or_insert_default().extend(ask);
        None
    }

    fn begin(&mut self, asks: Vec<u64>, now: Instant) -> u64 {
        self.number += 1;
        self.reading = Some((asks, now + READ_LIMIT));
        self.number
    }

    /// Whether a question can be taken.
    pub fn has_room(&self) -> bool {
        let reading = self.reading.as_ref().map_or(0, |(asks, _)| asks.len());
        let again = self.again.as_ref().map_or(0, Vec::len);
        reading + again + self.confirming.len() < WAITERS_LIMIT
    }

    /// The reading of this number ended: who asked for it, and the number of the next one if the
    /// file is to be read once more. `None`: it was given up before.
    pub fn read(&mut self, number: u64, now: Instant) -> Option<(Vec<u64>, Option<u64>)> {
        if number != self.number {
            return None;
        }
        let (done, _) = self.reading.take()?;
        let next = self.again.take().map(|asks| self.begin(asks, now));
        Some((done, next))
    }

    /// The reading of this number has led to a configuration that a role is asked about: it counts
    /// as going on, with as much time again. False: it was given up before.
    pub fn hold(&mut self, number: u64, now: Instant) -> bool {
        match &mut self.reading {
            Some((_, deadline)) if number == self.number => {
                *deadline = now + READ_LIMIT;
                true
            }
            _ => false,
        }
    }

    /// Gives a reading up that lasts too long; as [`Reloads::read`].
    pub fn overdue(&mut self, now: Instant) -> Option<(Vec<u64>, Option<u64>)> {
        let (_, deadline) = self.reading.as_ref()?;
        if now < *deadline {
            return None;
        }
        self.read(self.number, now)
    }

    /// These wait until `generation`, which `plan` led to, is in force everywhere.
    pub fn confirm(&mut self, asks: Vec<u64>, generation: u64, plan: &Arc<Plan>, now: Instant) {
        let deadline = now + CONFIRM_LIMIT;
        let confirming = |ask| Confirming { ask, generation, plan: Arc::clone(plan), deadline };
        self.confirming.extend(asks.into_iter().map(confirming));
    }

    /// Answers those whose generation is in force (`behind` is empty for it) or whose time is up.
    /// `behind` names the roles that do not have a generation yet.
    pub fn settle(
        &mut self,
        now: Instant,
        behind: impl Fn(u64) -> Vec<&'static str>,
    ) -> Vec<(u64, Reply)> {
        let mut answers = Vec::new();
        self.confirming.retain(|it| {
            let (ask, generation) = (it.ask, it.generation);
            let late = behind(generation);
            if late.is_empty() {
                let done = format!("configuration generation {generation} is in force");
                let plan = Box::new(Plan::clone(&it.plan));
                answers.push((ask, Reply::Plan { done, plan }));
                false
            } else if now >= it.deadline {
                let text = format!(
                    "configuration generation {generation} is accepted, but not confirmed within \
                     {} s by: {}",
                    CONFIRM_LIMIT.as_secs(),
                    late.join(", ")
                );
                answers.push((ask, Reply::Error(text)));
                false
            } else {
                true
            }
        });
        answers
    }

    /// When [`Reloads::settle`] has to be called even if nothing happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let reading = self.reading.as_ref().map(|(_, deadline)| *deadline);
        self.confirming.iter().map(|it| it.deadline).chain(reading).min()
    }

    /// The api role is gone: nobody waits any more.
    pub fn forget_waiters(&mut self) {
        let reading = self.reading.as_mut().map(|(asks, _)| asks);
        reading.into_iter().chain(&mut self.again).for_each(Vec::clear);
        self.confirming.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::from_nanos(1_000_000_000);

    #[test]
    fn requests_during_a_reading_lead_to_exactly_one_more() {
        let mut reloads = Reloads::default();
        assert_eq!(reloads.request(Some(1), T0), Some(1));
        assert_eq!(reloads.request(Some(2), T0), None);
        assert_eq!(reloads.request(None, T0), None);
        assert_eq!(reloads.request(Some(3), T0), None);
        assert_eq!(reloads.read(1, T0), Some((vec![1], Some(2))));
        assert_eq!(reloads.read(2, T0), Some((vec![2, 3], None)));
        assert_eq!(reloads.request(None, T0), Some(3));
        assert_eq!(reloads.read(3, T0), Some((vec![], None)));
    }

    /// A hung file system: whoever waits is answered, and the next request is a new reading.
    #[test]
    fn a_reading_that_hangs_is_given_up_and_its_late_answer_dropped() {
        let mut reloads = Reloads::default();
        assert_eq!(reloads.request(Some(1), T0), Some(1));
        let due = reloads.next_deadline().expect("it waits");
        assert_eq!(due, T0 + READ_LIMIT);
        assert_eq!(reloads.overdue(T0), None);
        assert_eq!(reloads.overdue(due), Some((vec![1], None)));
        assert_eq!(reloads.next_deadline(), None);
        assert_eq!(reloads.read(1, due), None, "too late");
        // With a request that came meanwhile, the next reading begins at once.
        assert_eq!(reloads.request(Some(2), due), Some(2));
        assert_eq!(reloads.read(1, due), None, "still too late");
        assert_eq!(reloads.request(Some(3), due), None);
        assert_eq!(reloads.overdue(due + READ_LIMIT), Some((vec![2], Some(3))));
        assert_eq!(reloads.read(3, due), Some((vec![3], None)));
    }

    #[test]
    fn a_reading_goes_on_while_a_role_is_asked() {
        let mut reloads = Reloads::default();
        assert_eq!(reloads.request(Some(1), T0), Some(1));
        assert!(reloads.hold(1, T0 + READ_LIMIT / 2));
        assert!(!reloads.hold(2, T0), "nobody reads that");
        assert_eq!(reloads.request(Some(2), T0), None, "not beside it");
        assert_eq!(reloads.overdue(T0 + READ_LIMIT), None);
        assert_eq!(reloads.read(1, T0 + READ_LIMIT), Some((vec![1], Some(2))));
        assert!(!reloads.hold(1, T0), "that is over");
    }

    #[test]
    fn waiters_are_told_when_all_roles_have_it_or_who_has_not() {
        let mut reloads = Reloads::default();
        let plan = Arc::new(Plan { untouched: 7, ..Plan::default() });
        reloads.confirm(vec![1], 2, &plan, T0);
        reloads.confirm(vec![5], 3, &plan, T0);
        assert!(reloads.settle(T0, |_| vec!["vrrp"]).is_empty());
        let done = reloads.settle(T0, |g| if g <= 2 { vec![] } else { vec!["checker"] });
        let [(1, Reply::Plan { done, plan })] = &done[..] else { panic!("{done:?}") };
        assert!(done.contains("generation 2") && plan.untouched == 7, "{done} {plan}");
        let due = reloads.next_deadline().expect("5 waits");
        let late = reloads.settle(due, |_| vec!["checker", "api"]);
        assert!(
            matches!(&late[..], [(5, Reply::Error(text))] if text.ends_with("by: checker, api"))
        );
        assert_eq!(reloads.next_deadline(), None);
    }

    #[test]
    fn number_of_waiters_is_bounded() {
        let mut reloads = Reloads::default();
        for ask in 0..WAITERS_LIMIT as u64 {
            assert!(reloads.has_room());
            reloads.request(Some(ask), T0);
        }
        assert!(!reloads.has_room());
        reloads.forget_waiters();
        assert!(reloads.has_room());
    }
}
