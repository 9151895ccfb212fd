//! Lines that wait for a FIFO's reader: pure bookkeeping.

use std::collections::VecDeque;

use crate::vrrp::notify::LineKind;

/// Lines that wait in one FIFO behind the 64 KiB that the kernel keeps. At the bound a line that
/// a later one of the same object and kind has overtaken is dropped and counted: the last state of
/// an object, and its last event of each kind, are kept. Only where every waiting line is such a
/// last one does the oldest go, events before states.
pub const LINE_LIMIT: usize = 1024;

/// A line, whose it is, and of what kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    object: String,
    kind: LineKind,
    line: String,
}

/// Lines in the order in which they were said.
#[derive(Debug, Default)]
pub struct Backlog {
    lines: VecDeque<Waiting>,
    /// Lines that were dropped.
    dropped: u64,
}

impl Backlog {
    /// Adds a line; the one that was dropped for it.
    pub fn push(&mut self, object: &str, kind: LineKind, line: &str) -> Option<String> {
        let new = Waiting { object: object.to_owned(), kind, line: line.to_owned() };
        let mut dropped = None;
        if self.lines.len() >= LINE_LIMIT {
            let same = |a: &Waiting, b: &Waiting| a.object == b.object && a.kind == b.kind;
            let overtaken = |at: usize, it: &Waiting| {
                same(it, &new) || self.lines.iter().skip(at + 1).any(|later| same(later, it))
            };
            let at = self.lines.iter().enumerate().position(|(at, it)| overtaken(at, it));
            let at = at.or_else(|| self.lines.iter().position(|it| it.kind != LineKind::State));
            dropped = self.lines.remove(at.unwrap_or(0)).map(|it| it.line);
            self.dropped += 1;
        }
        self.lines.push_back(new);
        dropped
    }

    /// The oldest line.
    pub fn front(&self) -> Option<&str> {
        self.lines.front().map(|it| it.line.as_str())
    }

    /// The oldest line is written.
    pub fn pop(&mut self) {
        self.lines.pop_front();
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_order_and_the_last_of_each_object_survives_the_bound() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push("quiet", LineKind::State, "quiet MASTER"), None);
        for n in 0..LINE_LIMIT - 1 {
            assert_eq!(backlog.push("loud", LineKind::State, &format!("loud {n}")), None);
        }
        for n in LINE_LIMIT - 1..3 * LINE_LIMIT {
            let dropped = backlog.push("loud", LineKind::State, &format!("loud {n}"));
            assert_eq!(dropped, Some(format!("loud {}", n + 1 - LINE_LIMIT)));
        }
        assert_eq!((backlog.len(), backlog.dropped()), (LINE_LIMIT, 2 * LINE_LIMIT as u64 + 1));
        assert_eq!(backlog.front(), Some("quiet MASTER"), "it has said nothing since");
        backlog.pop();
        let first = 2 * LINE_LIMIT + 1;
        for n in first..3 * LINE_LIMIT {
            assert_eq!(backlog.front(), Some(format!("loud {n}").as_str()));
            backlog.pop();
        }
        assert!(backlog.is_empty());
    }

    #[test]
    fn where_all_are_last_lines_the_oldest_goes() {
        let mut backlog = Backlog::default();
        for n in 0..LINE_LIMIT {
            backlog.push(&format!("o{n}"), LineKind::State, &format!("o{n}"));
        }
        assert_eq!(backlog.push("new", LineKind::State, "new"), Some("o0".to_owned()));
        assert_eq!(backlog.front(), Some("o1"));
    }

    #[test]
    fn events_of_an_object_do_not_overtake_its_state() {
        let mut backlog = Backlog::default();
        backlog.push("V", LineKind::State, "BACKUP");
        backlog.push("V", LineKind::Priority, "BACKUP_PRIORITY 90");
        backlog.push("V", LineKind::State, "MASTER");
        // Nobody reads, and a lower router does not fall silent.
        for n in 0..2 * LINE_LIMIT {
            backlog.push("V", LineKind::MasterRxLowerPri, &format!("MASTER_RX_LOWER_PRI {n}"));
        }
        assert_eq!(backlog.len(), LINE_LIMIT);
        assert_eq!(backlog.front(), Some("BACKUP_PRIORITY 90"), "the last of its kind");
        backlog.pop();
        assert_eq!(backlog.front(), Some("MASTER"), "the last state");
        backlog.pop();
        let first = LINE_LIMIT + 2;
        assert_eq!(backlog.front(), Some(format!("MASTER_RX_LOWER_PRI {first}").as_str()));
    }

    #[test]
    fn where_all_are_last_lines_an_event_goes_before_a_state() {
        let mut backlog = Backlog::default();
        for n in 0..LINE_LIMIT - 1 {
            backlog.push(&format!("o{n}"), LineKind::State, &format!("o{n}"));
        }
        backlog.push("o0", LineKind::Priority, "o0 priority");
        assert_eq!(backlog.push("new", LineKind::State, "new"), Some("o0 priority".to_owned()));
        assert_eq!(backlog.front(), Some("o0"));
    }
}
