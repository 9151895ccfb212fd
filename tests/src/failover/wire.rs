//! Adverts as they pass, for what the client cannot see: when the heir spoke first, and how long
//! after the one before it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    netns::Namespace,
    sys,
    vrrp::{Sniffer, is_vrrp},
};

/// How often a blocked thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(200);

/// An advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it was read.
    pub at: Instant,
    /// Last byte of its source address.
    pub host: u8,
    /// Zero: a farewell.
    pub priority: u8,
}

/// The hand-over as the wire shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// Of the heir.
    pub first: Instant,
    /// From the old master's last word to it.
    pub silence: Duration,
    /// That word was a farewell.
    pub farewell: bool,
}

/// Finds the first advert of `heir` at or after `from`, and the last of the other before it.
pub fn hand_over(adverts: &[Seen], heir: u8, from: Instant) -> Option<HandOver> {
    let at = adverts.iter().position(|it| it.host == heir && it.priority > 0 && it.at >= from)?;
    let first = adverts.get(at)?.at;
    let last = adverts[..at].iter().rev().find(|it| it.host != heir)?;
    Some(HandOver { first, silence: first - last.at, farewell: last.priority == 0 })
}

/// The last advert of each host, in order.
fn last_words(adverts: &[Seen]) -> Vec<Seen> {
    let spoke_later = |at: usize, host: u8| adverts[at + 1..].iter().any(|it| it.host == host);
    let last = adverts.iter().enumerate().filter(|(at, it)| !spoke_later(*at, it.host));
    last.map(|(_, it)| *it).collect()
}

/// Writes down every advert until dropped.
#[derive(Debug)]
pub struct Wire {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Wire {
    /// Listens in a namespace.
    ///
    /// # Errors
    /// When its socket or thread cannot be made.
    pub fn start(on: &Namespace) -> Result<Self> {
        let sniffer = Sniffer::new(on)?;
        let (seen, stop) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<AtomicBool>::default());
        let (theirs, ends) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::Builder::new().name("wire".into()).spawn(move || {
            sys::realtime();
            while !ends.load(Ordering::Relaxed) {
                let Ok(frame) = sniffer.next(LOOK, is_vrrp) else { continue };
                let at = Instant::now();
                let (host, priority) = (frame[29], frame.get(36).copied().unwrap_or_default());
                lock(&theirs).push(Seen { at, host, priority });
            }
        })?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Everything since it was told to forget, and before that the last word of each host.
    pub fn adverts(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// Forgets everything so far but the last word of each host: from that a silence is counted,
    /// whenever the next would have come.
    pub fn forget(&self) {
        let mut seen = lock(&self.seen);
        *seen = last_words(&seen);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> std::sync::MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hand_over_is_counted_from_the_old_masters_last_word() {
        let base = Instant::now();
        let at = |ms, host, priority| Seen { at: base + Duration::from_millis(ms), host, priority };
        let mut adverts = vec![at(0, 1, 150), at(100, 1, 150), at(461, 2, 100)];
        let from = base + Duration::from_millis(120);
        let found = hand_over(&adverts, 2, from).expect("a hand-over");
        assert_eq!((found.silence.as_millis(), found.farewell), (361, false));
        adverts.insert(2, at(400, 1, 0));
        let found = hand_over(&adverts, 2, from).expect("a hand-over");
        assert_eq!((found.silence.as_millis(), found.farewell), (61, true));
        assert_eq!(hand_over(&adverts, 3, from), None);
    }

    #[test]
    fn the_last_word_of_each_host_is_kept() {
        let base = Instant::now();
        let at = |ms, host, priority| Seen { at: base + Duration::from_millis(ms), host, priority };
        let adverts = [at(0, 2, 100), at(5, 1, 150), at(6, 2, 0), at(9, 1, 150), at(10, 1, 150)];
        assert_eq!(last_words(&adverts), [at(6, 2, 0), at(10, 1, 150)]);
        assert_eq!(last_words(&[]), []);
    }
}
