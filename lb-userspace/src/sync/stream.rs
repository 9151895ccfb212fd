//! The own stream: records into numbered datagrams, the last of which are kept for those who missed them.

use std::{collections::VecDeque, sync::Arc};

use super::{
    BATCH, KEPT,
    record::Record,
    wire::{Body, Datagram, ROOM, seal},
};
use crate::base::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Stream {
    session: u64,
    pending: Vec<Record>,
    /// Octets of `pending`.
    length: usize,
    /// When the first of `pending` came.
    since: Option<Instant>,
    kept: VecDeque<Arc<[u8]>>,
    /// Number of the last one.
    head: u64,
}

impl Stream {
    pub fn new(session: u64) -> Self {
        Self {
            session,
            pending: Vec::new(),
            length: 0,
            since: None,
            kept: VecDeque::new(),
            head: 0,
        }
    }

    /// Number of the last datagram; 0: none yet.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Number of the first one that is kept.
    pub fn oldest(&self) -> u64 {
        self.head + 1 - self.kept.len() as u64
    }

    /// When [`Stream::flush`] is due.
    pub fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + BATCH)
    }

    /// Adds a record; the datagram that it did not fit into any more.
    pub fn push(&mut self, key: &[u8], record: Record, now: Instant) -> Option<Arc<[u8]>> {
        let mut octets = Vec::new();
        record.write(&mut octets);
        let full = match self.length + octets.len() > ROOM {
            true => self.flush(key),
            false => None,
        };
        self.length += octets.len();
        self.pending.push(record);
        self.since.get_or_insert(now);
        full
    }

    /// What waits, as a datagram.
    pub fn flush(&mut self, key: &[u8]) -> Option<Arc<[u8]>> {
        if self.pending.is_empty() {
            return None;
        }
        (self.length, self.since) = (0, None);
        self.head += 1;
        let body = Body::Data(std::mem::take(&mut self.pending));
        let datagram = Datagram { session: self.session, number: self.head, body };
        let bytes: Arc<[u8]> = seal(key, &datagram).into();
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::clone(&bytes));
        Some(bytes)
    }

    /// Those of `count` datagrams from number `from` on that are kept.
    pub fn again(&self, from: u64, count: u16) -> impl Iterator<Item = Arc<[u8]>> {
        let skip = usize::try_from(from.saturating_sub(self.oldest())).unwrap_or(usize::MAX);
        let count = if from < self.oldest() { 0 } else { usize::from(count) };
        self.kept.iter().skip(skip).take(count).cloned()
    }
}
