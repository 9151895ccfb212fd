//! Looks at both balancer hosts from outside about every millisecond: who forwards now?
//!
//! lbd's lease decides where lbd runs (its data plane is silent without it, whatever addresses
//! are configured); elsewhere the address on a live host's interface does.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Changes kept at most; a lab run has some tens.
const CHANGE_LIMIT: usize = 100_000;

/// Answers whether one host forwards now.
pub type Look = Box<dyn FnMut() -> bool + Send>;

/// Who forwarded, from some instant on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When the look before began, which saw it otherwise: it came to be so between the two.
    pub before: Instant,
    pub at: Instant,
    /// One bit a host.
    pub forwarders: u32,
}

#[derive(Debug, Default)]
struct Shared {
    changes: Mutex<Vec<Change>>,
    stop: AtomicBool,
}

/// A running sampler.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sampler {
    /// Starts looking, one closure a host.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(looks: Vec<Look>) -> Result<Self> {
        Self::start_every(looks, LOOK_EVERY)
    }

    /// As [`Sampler::start`], with another pause between two looks: several samplers at a time
    /// would take the processor from what they look at.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start_every(mut looks: Vec<Look>, pause: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("sampler".to_owned())
            .spawn(move || {
                let mut last = None;
                let mut before = Instant::now();
                while !theirs.stop.load(Ordering::Relaxed) {
                    let at = Instant::now();
                    let mut forwarders = look_at_all(&mut looks);
                    // The hosts are looked at one after the other, and this thread may not be run in between while
                    // one hands over to the other: two forward at one time if both do so in both rounds.
                    if forwarders.count_ones() >= 2 {
                        forwarders &= look_at_all(&mut looks);
                    }
                    if last != Some(forwarders) {
                        last = Some(forwarders);
                        let mut changes =
                            theirs.changes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        if changes.len() < CHANGE_LIMIT {
                            changes.push(Change { before, at, forwarders });
                        }
                    }
                    before = at;
                    thread::sleep(pause);
                }
            })
            .context("cannot start the sampler")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Every change so far.
    pub fn changes(&self) -> Vec<Change> {
        self.shared.changes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Who forwards now, one bit a host.
    pub fn forwarders(&self) -> u32 {
        self.changes().last().map_or(0, |change| change.forwarders)
    }

    /// The first look after `from` that saw exactly these forwarders.
    pub fn first(&self, forwarders: u32, from: Instant) -> Option<Instant> {
        let changes = self.changes();
        // What was seen last before `from` was so at `from`.
        let known = changes.iter().rposition(|change| change.at <= from).unwrap_or(0);
        let seen = changes.iter().skip(known).find(|change| change.forwarders == forwarders);
        seen.map(|change| change.at.max(from))
    }

    /// Time between two instants during which at least two hosts forwarded.
    pub fn overlap(&self, from: Instant, to: Instant) -> Duration {
        time_with(&self.changes(), from, to, |next| next.at, |count| count >= 2)
    }

    /// Time between two instants from the first to the last look at such numbers of forwarding hosts: it was so for
    /// longer, and how much longer nobody knows when the sampler was not run.
    pub fn surely(&self, from: Instant, to: Instant, counts: impl Fn(u32) -> bool) -> Duration {
        time_with(&self.changes(), from, to, |next| next.before, counts)
    }

    /// Time between two instants during which no host forwarded.
    pub fn silence(&self, from: Instant, to: Instant) -> Duration {
        time_with(&self.changes(), from, to, |next| next.at, |count| count == 0)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One bit a host.
fn look_at_all(looks: &mut [Look]) -> u32 {
    let looks = looks.iter_mut().enumerate();
    looks.fold(0, |mask, (bit, look)| mask | (u32::from(look()) << bit))
}

/// `end`: when a change lasted until, by the one that followed it.
fn time_with(
    changes: &[Change],
    from: Instant,
    to: Instant,
    end: impl Fn(&Change) -> Instant,
    counts: impl Fn(u32) -> bool,
) -> Duration {
    let ends = changes.iter().skip(1).map(end).chain([to]);
    changes
        .iter()
        .zip(ends)
        .filter(|(change, _)| counts(change.forwarders.count_ones()))
        .map(|(change, end)| end.min(to).saturating_duration_since(change.at.max(from)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_and_silence_are_cut_to_the_window() {
        let base = Instant::now();
        let at = |ms| base + Duration::from_millis(ms);
        let changes = [(0, 0b01), (100, 0b11), (130, 0b10), (200, 0)]
            .map(|(ms, forwarders)| Change { before: at(ms), at: at(ms), forwarders });
        let two =
            |from, to| time_with(&changes, at(from), at(to), |next| next.at, |count| count >= 2);
        assert_eq!(two(0, 300), Duration::from_millis(30));
        assert_eq!(two(110, 120), Duration::from_millis(10));
        assert_eq!(two(140, 300), Duration::ZERO);
        let none = time_with(&changes, at(0), at(260), |next| next.at, |count| count == 0);
        assert_eq!(none, Duration::from_millis(60));
    }
}
