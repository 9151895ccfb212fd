//! Messages to the watchdog that wait for its pipe: pure bookkeeping.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    process::ipc::{Event, Up},
    vrrp::notify::LineKind,
};

/// Messages that may wait. At the bound the oldest that a later one of the same kind and object
/// has overtaken is dropped and counted: the watchdog is told each last state. Where nothing is
/// overtaken the queue grows; there is one last word for each instance, group, script and kind, and
/// what else may wait (answers, runs of scripts) is limited by what the watchdog has asked for.
pub(super) const OUTBOX_LIMIT: usize = 4096;

/// Messages with the same key overtake each other.
type Key = (Kind, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Vrrp,
    Script,
    Told(LineKind),
}

fn key(message: &Up) -> Option<Key> {
    match message {
        Up::Event(Event::Vrrp { instance, .. }) => Some((Kind::Vrrp, instance.clone())),
        Up::Event(Event::Script { name, .. }) => Some((Kind::Script, name.clone())),
        Up::Notify(told) => Some((Kind::Told(told.kind), told.object.clone())),
        _ => None,
    }
}

/// Messages in the order in which they were said.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Up>,
    /// How many of a key wait.
    counts: BTreeMap<Key, usize>,
    dropped: u64,
}

impl Outbox {
    /// Adds a message. One about a lower router that repeats the last word about its object is
    /// merged with it: a peer may send a thousand a second.
    pub fn push(&mut self, message: Up) {
        let key = key(&message);
        if self.repeats(&message) {
            return;
        }
        if let Some(key) = &key {
            *self.counts.entry(key.clone()).or_default() += 1;
        }
        if self.waiting.len() >= OUTBOX_LIMIT {
            self.drop_overtaken();
        }
        self.waiting.push_back(message);
    }

    /// Whether it is such a notification, and nothing else of its object was told since.
    fn repeats(&self, message: &Up) -> bool {
        let Up::Notify(new) = message else { return false };
        let lower = LineKind::MasterRxLowerPri;
        if new.kind != lower || !self.counts.contains_key(&(Kind::Told(lower), new.object.clone()))
        {
            return false;
        }
        let mut told = self.waiting.iter().rev().filter_map(|it| match it {
            Up::Notify(told) if told.object == new.object => Some(told),
            _ => None,
        });
        told.next().is_some_and(|last| last == new)
    }

    fn drop_overtaken(&mut self) {
        let overtaken = |message: &Up| {
            key(message).is_some_and(|key| self.counts.get(&key).is_some_and(|count| *count > 1))
        };
        let Some(at) = self.waiting.iter().position(overtaken) else { return };
        if let Some(message) = self.waiting.remove(at) {
            self.forget(&message);
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                let (dropped, limit) = (self.dropped, OUTBOX_LIMIT);
                tracing::error!(dropped, limit, "the watchdog does not listen: message dropped");
            }
        }
    }

    fn forget(&mut self, message: &Up) {
        let Some(key) = key(message) else { return };
        if let Some(count) = self.counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }

    /// The oldest message.
    pub fn pop(&mut self) -> Option<Up> {
        let message = self.waiting.pop_front()?;
        self.forget(&message);
        Some(message)
    }

    /// Puts the message that was taken last back: there was no room for it.
    pub fn put_back(&mut self, message: Up) {
        if let Some(key) = key(&message) {
            *self.counts.entry(key).or_default() += 1;
        }
        self.waiting.push_front(message);
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nobody will listen any more.
    pub fn clear(&mut self) {
        *self = Self { dropped: self.dropped, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{net::Priority, status::VrrpState},
        config::model::NotifyWords,
        vrrp::notify::{Subject, What, notification},
    };

    fn told(name: &str, what: What) -> Up {
        let words = NotifyWords::default();
        Up::Notify(notification(Subject::Instance, name, &words, what, Priority(100)))
    }

    fn lines(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.pop())
            .map(|message| match message {
                Up::Notify(told) => told.line.expect("a line"),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_lower_router_waits_once() {
        let mut outbox = Outbox::default();
        for name in ["V", "W"] {
            outbox.push(told(name, What::State(VrrpState::Master)));
            for _ in 0..1000 {
                outbox.push(told(name, What::MasterRxLowerPri));
                outbox.push(Up::Pong { seq: 1 });
            }
        }
        outbox.push(told("V", What::State(VrrpState::Backup)));
        outbox.push(told("V", What::MasterRxLowerPri));
        let told: Vec<String> =
            lines(&mut outbox).into_iter().filter(|line| line.starts_with("INST")).collect();
        let words = [
            "\"V\" MASTER 100",
            "\"V\" MASTER_RX_LOWER_PRI 100",
            "\"W\" MASTER 100",
            "\"W\" MASTER_RX_LOWER_PRI 100",
            "\"V\" BACKUP 100",
            "\"V\" MASTER_RX_LOWER_PRI 100",
        ];
        assert_eq!(told, words.map(|word| format!("INSTANCE {word}")));
        outbox.push(self::told("V", What::MasterRxLowerPri));
        assert!(!outbox.is_empty(), "what has left is not repeated by the next");
    }

    #[test]
    fn at_the_bound_only_what_is_overtaken_goes() {
        let mut outbox = Outbox::default();
        outbox.push(told("quiet", What::State(VrrpState::Master)));
        outbox.push(Up::Pong { seq: 7 });
        let states = [VrrpState::Backup, VrrpState::Master];
        for n in 0..2 * OUTBOX_LIMIT {
            outbox.push(told("loud", What::State(states[n % 2])));
        }
        assert_eq!(outbox.waiting.len(), OUTBOX_LIMIT);
        assert_eq!(outbox.dropped, OUTBOX_LIMIT as u64 + 2);
        let lines = lines(&mut outbox);
        assert_eq!(lines[0], "INSTANCE \"quiet\" MASTER 100");
        assert!(lines[1].contains("Pong"), "{}", lines[1]);
        assert_eq!(lines.last().expect("lines"), "INSTANCE \"loud\" MASTER 100");
        assert!(outbox.counts.is_empty());
    }

    #[test]
    fn where_nothing_is_overtaken_nothing_goes() {
        let mut outbox = Outbox::default();
        for n in 0..OUTBOX_LIMIT + 10 {
            outbox.push(told(&format!("V{n}"), What::State(VrrpState::Master)));
        }
        assert_eq!((outbox.waiting.len(), outbox.dropped), (OUTBOX_LIMIT + 10, 0));
        let first = outbox.pop().expect("one");
        outbox.put_back(first);
        assert_eq!(lines(&mut outbox)[0], "INSTANCE \"V0\" MASTER 100");
    }
}
