//! Lines that wait for a FIFO's reader: pure bookkeeping.

use std::collections::VecDeque;

/// Lines that wait in one FIFO behind the 64 KiB that the kernel keeps. At the bound a line that
/// a later one of the same object has overtaken is dropped and counted: what an object said last is
/// kept. Only where every waiting line is the last of its object does the oldest go.
pub const LINE_LIMIT: usize = 1024;

/// A line and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    object: String,
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
    pub fn push(&mut self, object: &str, line: &str) -> Option<String> {
        let mut dropped = None;
        if self.lines.len() >= LINE_LIMIT {
            let overtaken = |at: usize, it: &Waiting| {
                it.object == object || self.lines.iter().skip(at + 1).any(|l| l.object == it.object)
            };
            let at = self.lines.iter().enumerate().position(|(at, it)| overtaken(at, it));
            dropped = self.lines.remove(at.unwrap_or(0)).map(|it| it.line);
            self.dropped += 1;
        }
        self.lines.push_back(Waiting { object: object.to_owned(), line: line.to_owned() });
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
        assert_eq!(backlog.push("quiet", "quiet MASTER"), None);
        for n in 0..LINE_LIMIT - 1 {
            assert_eq!(backlog.push("loud", &format!("loud {n}")), None);
        }
        for n in LINE_LIMIT - 1..3 * LINE_LIMIT {
            let dropped = backlog.push("loud", &format!("loud {n}"));
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
            backlog.push(&format!("o{n}"), &format!("o{n}"));
        }
        assert_eq!(backlog.push("new", "new"), Some("o0".to_owned()));
        assert_eq!(backlog.front(), Some("o1"));
    }
}
