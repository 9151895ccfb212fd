//! Which script runs next: pure bookkeeping of slots and named queues.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    base::time::Instant,
    process::ipc::{Role, ScriptRun},
};

/// Checks that run at the same time; more wait for a slot.
pub const RUNNING_LIMIT: usize = 32;
/// Notify scripts that run at the same time, of as many objects, beside the checks: those that hang must not keep a
/// check from running, and where a rack dies there are many objects.
pub const NOTIFYING_LIMIT: usize = 128;
/// Scripts of no queue (checks) that wait for a slot. At the bound a new one is refused: its
/// owner gets `NotNow` and asks again at its next interval.
pub const WAITING_LIMIT: usize = 1024;
/// Scripts that wait in one named queue (notify). At the bound the oldest waiting one is dropped
/// and counted: what the world is to be told at last is the newest state, in order.
pub const QUEUE_LIMIT: usize = 64;

/// Who asked. `pid` tells incarnations of a role apart: answers go to the one that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub role: Role,
    pub pid: u32,
}

/// One accepted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Unique in this watchdog's life.
    pub token: u64,
    pub owner: Owner,
    pub run: ScriptRun,
    /// When it was asked for; when it was started, once it runs.
    pub since: Instant,
    /// Is being ended, because it kept a later one waiting.
    pub overrun: bool,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// Runs as soon as its queue and a slot are free.
    Accepted,
    /// Accepted; this older one of the same queue will never run.
    Displaced(Box<Job>),
    /// Not accepted.
    Refused(Box<ScriptRun>),
}

/// Counters for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub started: u64,
    pub displaced: u64,
    pub refused: u64,
    /// Notifications that were not started because the same one waits already.
    pub merged: u64,
    /// Notify scripts that were ended because they kept a later one waiting for too long.
    pub overrun: u64,
}

/// Jobs that wait and jobs that run.
#[derive(Debug, Default)]
pub struct Queue {
    next_token: u64,
    waiting: VecDeque<Job>,
    running: BTreeMap<u64, Job>,
    counters: Counters,
}

impl Queue {
    /// Takes a request; then call [`Queue::pop`] until `None`.
    pub fn submit(&mut self, owner: Owner, run: ScriptRun, now: Instant) -> Submitted {
        let mut result = Submitted::Accepted;
        if run.queue.is_some() {
            let same = |job: &Job| job.run.queue == run.queue;
            // Adverts of a peer may ask for notify_master_rx_lower_pri a thousand times a second.
            let twin = self.waiting.iter().rev().find(|job| same(job)).is_some_and(|job| {
                let it = &job.run;
                !run.reply
                    && (&it.object, &it.command, &it.extra_args)
                        == (&run.object, &run.command, &run.extra_args)
            });
            if twin {
                self.counters.merged += 1;
                return Submitted::Accepted;
            }
            if self.waiting.iter().filter(|job| same(job)).count() >= QUEUE_LIMIT
                && let Some(oldest) = self.waiting.iter().position(same)
                && let Some(job) = self.waiting.remove(oldest)
            {
                self.counters.displaced += 1;
                result = Submitted::Displaced(Box::new(job));
            }
        } else if self.waiting.iter().filter(|job| job.run.queue.is_none()).count() >= WAITING_LIMIT
        {
            self.counters.refused += 1;
            return Submitted::Refused(Box::new(run));
        }
        let token = self.next_token;
        self.next_token += 1;
        self.waiting.push_back(Job { token, owner, run, since: now, overrun: false });
        result
    }

    /// The next job that may start now; it counts as running until [`Queue::ended`].
    pub fn pop(&mut self, now: Instant) -> Option<Job> {
        let busy: BTreeSet<&str> =
            self.running.values().filter_map(|job| job.run.queue.as_deref()).collect();
        let room = (self.running.len() - busy.len() < RUNNING_LIMIT, busy.len() < NOTIFYING_LIMIT);
        let at = self.waiting.iter().position(|job| match job.run.queue.as_deref() {
            None => room.0,
            Some(queue) => room.1 && !busy.contains(queue),
        })?;
        let mut job = self.waiting.remove(at)?;
        job.since = now;
        self.running.insert(job.token, job.clone());
        self.counters.started += 1;
        Some(job)
    }

    /// A running job ended; gives it back and frees its slot.
    pub fn ended(&mut self, token: u64) -> Option<Job> {
        self.running.remove(&token)
    }

    /// Running scripts of named queues that keep a later one waiting, and since when.
    fn blocking(&self) -> impl Iterator<Item = (u64, Instant)> + '_ {
        let named = |job: &&Job| job.run.queue.is_some() && !job.overrun;
        self.running.values().filter(named).filter_map(|job| {
            let next = self.waiting.iter().find(|it| it.run.queue == job.run.queue)?;
            Some((job.token, job.since.max(next.since)))
        })
    }

    /// Tokens of running scripts that have kept a later one of their queue waiting for
    /// `patience`: they are to be ended, so that the later one is told.
    pub fn overrun(&mut self, patience: Duration, now: Instant) -> Vec<u64> {
        let tokens: Vec<u64> = self
            .blocking()
            .filter(|(_, since)| *since + patience <= now)
            .map(|(token, _)| token)
            .collect();
        for token in &tokens {
            self.counters.overrun += 1;
            self.running.entry(*token).and_modify(|job| job.overrun = true);
        }
        tokens
    }

    /// When [`Queue::overrun`] has to be asked next.
    pub fn overrun_at(&self, patience: Duration) -> Option<Instant> {
        self.blocking().map(|(_, since)| since + patience).min()
    }

    /// Of each named queue only what was asked for last (requests of one notification share their
    /// id) goes on waiting; how many were dropped.
    pub fn keep_last(&mut self) -> usize {
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for job in &self.waiting {
            if let Some(queue) = &job.run.queue {
                last.insert(queue.clone(), job.run.id);
            }
        }
        let before = self.waiting.len();
        self.waiting.retain(|job| {
            job.run.queue.as_ref().is_none_or(|queue| last.get(queue) == Some(&job.run.id))
        });
        let dropped = before - self.waiting.len();
        self.counters.displaced += dropped as u64;
        dropped
    }

    /// An owner is gone: its waiting checks are forgotten, the tokens of its running checks are
    /// returned so that they can be ended. Its notify scripts go on: they tell others what has
    /// happened.
    pub fn owner_gone(&mut self, owner: Owner) -> Vec<u64> {
        let check = |job: &Job| job.owner == owner && job.run.queue.is_none();
        self.waiting.retain(|job| !check(job));
        self.running.values().filter(|job| check(job)).map(|job| job.token).collect()
    }

    /// Nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Forgets everything that waits; how many those were, and the tokens of what runs.
    pub fn abandon(&mut self) -> (usize, Vec<u64>) {
        let waiting = self.waiting.len();
        self.waiting.clear();
        (waiting, self.running.keys().copied().collect())
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Command;

    const OWNER: Owner = Owner { role: Role::Vrrp, pid: 7 };

    fn run(id: u64, queue: Option<&str>) -> ScriptRun {
        ScriptRun {
            id,
            object: "test".to_owned(),
            command: Command { argv: vec!["/bin/true".to_owned()], user: None },
            extra_args: Vec::new(),
            timeout: None,
            queue: queue.map(str::to_owned),
            reply: false,
        }
    }

    const T0: Instant = Instant::ZERO;

    /// As a request for something else each time.
    fn put(queue: &mut Queue, owner: Owner, mut run: ScriptRun) -> Submitted {
        run.extra_args = vec![run.id.to_string()];
        queue.submit(owner, run, T0)
    }

    fn ids(queue: &mut Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop(T0)).map(|job| job.run.id).collect()
    }

    #[test]
    fn named_queues_run_one_at_a_time_in_order_beside_each_other() {
        let mut queue = Queue::default();
        for (id, name) in [(1, "a"), (2, "a"), (3, "b"), (4, "a"), (5, "b")] {
            assert_eq!(put(&mut queue, OWNER, run(id, Some(name))), Submitted::Accepted);
        }
        assert_eq!(ids(&mut queue), [1, 3]);
        queue.ended(0);
        assert_eq!(ids(&mut queue), [2]);
        queue.ended(1);
        assert_eq!(ids(&mut queue), [4]);
        queue.ended(2);
        assert_eq!(ids(&mut queue), [5]);
        queue.ended(3);
        queue.ended(4);
        assert!(queue.is_idle());
    }

    #[test]
    fn slots_are_bounded_and_reused() {
        let mut queue = Queue::default();
        for id in 0..RUNNING_LIMIT as u64 + 2 {
            put(&mut queue, OWNER, run(id, None));
        }
        assert_eq!(ids(&mut queue).len(), RUNNING_LIMIT);
        queue.ended(5);
        assert_eq!(ids(&mut queue), [RUNNING_LIMIT as u64]);
    }

    /// Scripts of many objects that all hang, as `notify_down` of a rack does when whom it tells is down, too.
    #[test]
    fn notify_scripts_that_hang_keep_no_check_waiting() {
        let mut queue = Queue::default();
        for id in 0..NOTIFYING_LIMIT as u64 + 3 {
            put(&mut queue, OWNER, run(id, Some(&format!("server {id}"))));
        }
        assert_eq!(ids(&mut queue).len(), NOTIFYING_LIMIT);
        put(&mut queue, OWNER, run(1000, None));
        assert_eq!(ids(&mut queue), [1000]);
        // Nobody is ended for another object's sake.
        assert_eq!(queue.overrun_at(Duration::ZERO), None);
        queue.ended(7);
        assert_eq!(ids(&mut queue), [NOTIFYING_LIMIT as u64]);
    }

    #[test]
    fn checks_beyond_the_bound_are_refused_and_counted() {
        let mut queue = Queue::default();
        for id in 0..WAITING_LIMIT as u64 {
            assert_eq!(put(&mut queue, OWNER, run(id, None)), Submitted::Accepted);
        }
        assert!(
            matches!(put(&mut queue, OWNER, run(9999, None)), Submitted::Refused(r) if r.id == 9999)
        );
        assert_eq!(queue.counters().refused, 1);
        assert_eq!(put(&mut queue, OWNER, run(1, Some("n"))), Submitted::Accepted);
    }

    #[test]
    fn full_notify_queue_drops_its_oldest_waiting_and_keeps_order() {
        let mut queue = Queue::default();
        put(&mut queue, OWNER, run(0, Some("n")));
        assert_eq!(ids(&mut queue), [0]); // runs: never dropped
        for id in 1..=QUEUE_LIMIT as u64 {
            assert_eq!(put(&mut queue, OWNER, run(id, Some("n"))), Submitted::Accepted);
        }
        let last = QUEUE_LIMIT as u64 + 1;
        let Submitted::Displaced(job) = put(&mut queue, OWNER, run(last, Some("n"))) else {
            panic!("the bound was not reached")
        };
        assert_eq!(job.run.id, 1);
        assert_eq!(queue.counters().displaced, 1);
        let mut seen = Vec::new();
        let mut running = 0;
        while queue.ended(running).is_some() {
            if let Some(job) = queue.pop(T0) {
                seen.push(job.run.id);
                running = job.token;
            }
        }
        assert_eq!(seen, (2..=last).collect::<Vec<_>>());
    }

    #[test]
    fn dead_owner_loses_its_checks_not_its_notifications() {
        let mut queue = Queue::default();
        let other = Owner { pid: 8, ..OWNER };
        put(&mut queue, OWNER, run(1, None));
        put(&mut queue, OWNER, run(2, Some("n")));
        put(&mut queue, other, run(3, None));
        assert_eq!(ids(&mut queue), [1, 2, 3]);
        put(&mut queue, OWNER, run(4, Some("n")));
        put(&mut queue, OWNER, run(5, None));
        assert_eq!(queue.owner_gone(OWNER), [0]);
        queue.ended(0);
        assert_eq!(ids(&mut queue), [0; 0], "4 waits for 2, 5 is forgotten");
        queue.ended(1);
        assert_eq!(ids(&mut queue), [4]);
    }

    #[test]
    fn a_script_is_ended_only_when_it_keeps_a_later_one_waiting() {
        let patience = Duration::from_secs(30);
        let at = |secs| T0 + Duration::from_secs(secs);
        let mut queue = Queue::default();
        put(&mut queue, OWNER, run(0, Some("n")));
        put(&mut queue, OWNER, run(1, None));
        assert_eq!(ids(&mut queue), [0, 1]);
        assert_eq!(queue.overrun_at(patience), None, "nobody waits");
        assert_eq!(queue.overrun(patience, at(1000)), [0; 0]);
        queue.submit(OWNER, run(2, Some("n")), at(1000));
        assert_eq!(queue.overrun_at(patience), Some(at(1030)));
        assert_eq!(queue.overrun(patience, at(1029)), [0; 0]);
        assert_eq!(queue.overrun(patience, at(1030)), [0]);
        assert_eq!(queue.overrun(patience, at(1031)), [0; 0], "once");
        assert_eq!((queue.counters().overrun, queue.overrun_at(patience)), (1, None));
    }

    #[test]
    fn at_the_stop_only_the_last_notification_of_each_queue_waits_on() {
        let mut queue = Queue::default();
        for (id, name) in [(1, "a"), (2, "a"), (3, "a"), (4, "b")] {
            put(&mut queue, OWNER, run(id, Some(name)));
            put(&mut queue, OWNER, ScriptRun { object: "second".into(), ..run(id, Some(name)) });
        }
        assert_eq!(ids(&mut queue), [1, 4]);
        assert_eq!(queue.keep_last(), 3, "the second of 1, both of 2");
        queue.ended(0);
        assert_eq!(ids(&mut queue), [3]);
        assert_eq!(queue.counters().displaced, 3);
    }

    #[test]
    fn the_same_notification_waits_once() {
        let mut queue = Queue::default();
        for _ in 0..1000 {
            queue.submit(OWNER, run(0, Some("n")), T0);
        }
        assert_eq!(queue.counters().merged, 999);
        assert_eq!(ids(&mut queue), [0]);
        assert_eq!(queue.submit(OWNER, run(0, Some("n")), T0), Submitted::Accepted);
        queue.submit(OWNER, run(5, Some("n")), T0);
        assert_eq!(queue.counters().merged, 1000, "5 says the same as the one that waits");
    }
}
