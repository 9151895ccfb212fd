//! Reloads: one at a time, requests that arrive meanwhile lead to one more, and everybody who
//! asked learns how it ended. Pure bookkeeping.

use std::time::Duration;

use crate::base::{query::Reply, time::Instant};

/// Longest wait for the roles to put a new generation in force before the operator is told who
/// still works on it.
pub const CONFIRM_LIMIT: Duration = Duration::from_secs(10);
/// Operators that wait for reloads at most; a further one is told to look at the status.
pub const WAITERS_LIMIT: usize = 64;

/// The queue of reload requests.
#[derive(Debug, Default)]
pub struct Reloads {
    /// The file is being read and parsed for these.
    reading: Option<Vec<u64>>,
    /// Came after reading began: the file may have changed, so it is read again.
    again: Option<Vec<u64>>,
    /// Accepted; wait until every role has the generation.
    confirming: Vec<(u64, u64, Instant)>,
}

impl Reloads {
    /// A request, with the question to answer if there is one. True: start reading now.
    pub fn request(&mut self, ask: Option<u64>) -> bool {
        if self.reading.is_none() {
            self.reading = Some(ask.into_iter().collect());
            return true;
        }
        self.again.get_or_insert_default().extend(ask);
        false
    }

    /// Whether a question can be taken.
    pub fn has_room(&self) -> bool {
        self.reading.iter().chain(&self.again).map(Vec::len).sum::<usize>() + self.confirming.len()
            < WAITERS_LIMIT
    }

    /// Reading ended: who asked for it, and whether to read once more.
    pub fn read(&mut self) -> (Vec<u64>, bool) {
        let done = self.reading.take().unwrap_or_default();
        self.reading = self.again.take();
        (done, self.reading.is_some())
    }

    /// These wait until `generation` is in force everywhere.
    pub fn confirm(&mut self, asks: Vec<u64>, generation: u64, now: Instant) {
        let deadline = now + CONFIRM_LIMIT;
        self.confirming.extend(asks.into_iter().map(|ask| (ask, generation, deadline)));
    }

    /// Answers those whose generation is in force (`behind` is empty for it) or whose time is up.
    /// `behind` names the roles that do not have a generation yet.
    pub fn settle(
        &mut self,
        now: Instant,
        behind: impl Fn(u64) -> Vec<&'static str>,
    ) -> Vec<(u64, Reply)> {
        let mut answers = Vec::new();
        self.confirming.retain(|&(ask, generation, deadline)| {
            let late = behind(generation);
            if late.is_empty() {
                let text = format!("configuration generation {generation} is in force");
                answers.push((ask, Reply::Done(text)));
                false
            } else if now >= deadline {
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
        self.confirming.iter().map(|(_, _, deadline)| *deadline).min()
    }

    /// The api role is gone: nobody waits any more.
    pub fn forget_waiters(&mut self) {
        for asks in self.reading.iter_mut().chain(&mut self.again) {
            asks.clear();
        }
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
        assert!(reloads.request(Some(1)));
        assert!(!reloads.request(Some(2)));
        assert!(!reloads.request(None));
        assert!(!reloads.request(Some(3)));
        assert_eq!(reloads.read(), (vec![1], true));
        assert_eq!(reloads.read(), (vec![2, 3], false));
        assert!(reloads.request(None));
        assert_eq!(reloads.read(), (vec![], false));
    }

    #[test]
    fn waiters_are_told_when_all_roles_have_it_or_who_has_not() {
        let mut reloads = Reloads::default();
        reloads.confirm(vec![1], 2, T0);
        reloads.confirm(vec![5], 3, T0);
        assert!(reloads.settle(T0, |_| vec!["vrrp"]).is_empty());
        let done = reloads.settle(T0, |g| if g <= 2 { vec![] } else { vec!["checker"] });
        assert!(matches!(&done[..], [(1, Reply::Done(text))] if text.contains("generation 2")));
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
            reloads.request(Some(ask));
        }
        assert!(!reloads.has_room());
        reloads.forget_waiters();
        assert!(reloads.has_room());
    }
}
