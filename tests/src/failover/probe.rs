//! A client that asks the VIP every millisecond, and hosts that answer with their name.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{netns::Namespace, sys};

/// Where the hosts answer.
const PORT: u16 = 7077;
/// Time between two questions.
pub const EVERY: Duration = Duration::from_millis(1);
/// How often a blocked thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(20);

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When it arrived.
    pub at: Instant,
    /// Which question, counted from 0.
    pub number: u64,
    /// Which host answered.
    pub host: u8,
}

/// What a [`Prober`] has seen between two instants.
#[derive(Clone, Debug)]
pub struct Window {
    /// When each question left, oldest first, with its number.
    pub asked: Vec<(Instant, u64)>,
    /// In order of arrival.
    pub answers: Vec<Answer>,
}

impl Window {
    /// Longest time without an answer.
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.answers.windows(2).map(|pair| pair[1].at - pair[0].at);
        gaps.max().unwrap_or(Duration::MAX)
    }

    /// First and last answer of each stretch without a gap of `silent`.
    pub fn stretches(&self, silent: Duration) -> Vec<(Instant, Instant)> {
        let mut found: Vec<(Instant, Instant)> = Vec::new();
        for Answer { at, .. } in &self.answers {
            match found.last_mut() {
                Some((_, last)) if *at - *last < silent => *last = *at,
                _ => found.push((*at, *at)),
            }
        }
        found
    }

    /// Longest time in which the prober itself did not ask: beyond some milliseconds the machine
    /// was too busy for the figures to mean anything.
    pub fn longest_pause(&self) -> Duration {
        self.asked.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }

    /// Questions nobody answered.
    pub fn lost(&self) -> usize {
        let mut answered: Vec<u64> = self.answers.iter().map(|answer| answer.number).collect();
        answered.sort_unstable();
        self.asked.iter().filter(|(_, number)| answered.binary_search(number).is_err()).count()
    }

    /// First answer of `host` at or after `from`.
    pub fn first_of(&self, host: u8, from: Instant) -> Option<Instant> {
        self.answers.iter().find(|a| a.host == host && a.at >= from).map(|answer| answer.at)
    }

    /// Last answer of `host`.
    pub fn last_of(&self, host: u8) -> Option<Instant> {
        self.answers.iter().rev().find(|answer| answer.host == host).map(|answer| answer.at)
    }
}

#[derive(Debug, Default)]
struct Seen {
    asked: Vec<(Instant, u64)>,
    answers: Vec<Answer>,
}

/// Asks the VIP every millisecond until dropped.
#[derive(Debug)]
pub struct Prober {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Prober {
    /// Begins to ask `vip` from a namespace.
    ///
    /// # Errors
    /// When its socket or threads cannot be made.
    pub fn start(from: &Namespace, vip: Ipv4Addr) -> Result<Self> {
        let socket = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.set_read_timeout(Some(LOOK))?;
        let asking = socket.try_clone()?;
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let asker = {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            thread::Builder::new().name("ask".into()).spawn(move || {
                sys::realtime();
                let begin = Instant::now();
                for number in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Absolute times; questions that the thread was too late for are left out.
                    let due = begin + EVERY * u32::try_from(number).unwrap_or(u32::MAX);
                    if let Some(left) = due.checked_duration_since(Instant::now()) {
                        thread::sleep(left);
                    } else if due.elapsed() > EVERY {
                        continue;
                    }
                    lock(&seen).asked.push((Instant::now(), number));
                    // Unreachable is what is measured here.
                    let _ = asking.send_to(&number.to_be_bytes(), (vip, PORT));
                }
            })?
        };
        let listener = {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            thread::Builder::new().name("listen".into()).spawn(move || {
                sys::realtime();
                let mut buffer = [0; 16];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(9) = socket.recv(&mut buffer) else { continue };
                    let at = Instant::now();
                    let Some((number, rest)) = buffer.split_first_chunk::<8>() else { continue };
                    let answer = Answer { at, number: u64::from_be_bytes(*number), host: rest[0] };
                    lock(&seen).answers.push(answer);
                }
            })?
        };
        Ok(Self { seen, stop, threads: vec![asker, listener] })
    }

    /// What was seen from `from` to `to`.
    pub fn window(&self, from: Instant, to: Instant) -> Window {
        let seen = lock(&self.seen);
        Window {
            asked: seen.asked.iter().filter(|(at, _)| (from..=to).contains(at)).copied().collect(),
            // An answer that arrives a little later still answers.
            answers: seen
                .answers
                .iter()
                .filter(|answer| (from..=to + LOOK).contains(&answer.at))
                .copied()
                .collect(),
        }
    }

    /// Forgets everything so far: a bench runs for many minutes.
    pub fn forget(&self) {
        let mut seen = lock(&self.seen);
        seen.asked.clear();
        seen.answers.clear();
    }

    /// Whether every question of the last `calm` was answered by `host` alone, but for those
    /// still on their way.
    pub fn settled(&self, host: u8, calm: Duration) -> bool {
        let now = Instant::now();
        let Some(from) = now.checked_sub(calm) else { return false };
        let window = self.window(from, now);
        let wanted = calm.as_millis() as usize * 8 / 10;
        window.answers.len() >= wanted && window.answers.iter().all(|answer| answer.host == host)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Answers questions to the VIP on one host, whether it holds the VIP now or not yet.
#[derive(Debug)]
pub struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Responder {
    /// Begins to answer with `name`.
    ///
    /// # Errors
    /// When its socket or thread cannot be made.
    pub fn start(on: &Namespace, vip: Ipv4Addr, name: u8) -> Result<Self> {
        let socket = on.enter(|| -> Result<UdpSocket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_freebind_v4(true)?;
            socket.bind(&SocketAddrV4::new(vip, PORT).into()).context("bind to the VIP")?;
            Ok(socket.into())
        })??;
        socket.set_read_timeout(Some(LOOK))?;
        let stop = Arc::<AtomicBool>::default();
        let theirs = Arc::clone(&stop);
        let thread = thread::Builder::new().name("answer".into()).spawn(move || {
            sys::realtime();
            let mut buffer = [0; 16];
            while !theirs.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((8, client)) => {
                        buffer[8] = name;
                        // The VIP may have left meanwhile: then there is no answer, rightly.
                        let _ = socket.send_to(&buffer[..9], client);
                    }
                    Err(err) if err.kind() != ErrorKind::WouldBlock => thread::sleep(EVERY),
                    _ => {}
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_knows_gaps_losses_and_hosts() {
        let base = Instant::now();
        let at = |ms| base + Duration::from_millis(ms);
        let answer = |ms, number, host| Answer { at: at(ms), number, host };
        let window = Window {
            asked: vec![(at(0), 0), (at(1), 1), (at(2), 2), (at(9), 3)],
            answers: vec![answer(1, 0, 0), answer(2, 1, 0), answer(10, 3, 1)],
        };
        assert_eq!(window.longest_gap(), Duration::from_millis(8));
        assert_eq!(window.longest_pause(), Duration::from_millis(7));
        assert_eq!(window.lost(), 1);
        assert_eq!(window.first_of(1, at(0)), Some(at(10)));
        assert_eq!(window.first_of(0, at(2)), Some(at(2)));
        assert_eq!(window.last_of(0), Some(at(2)));
        assert_eq!(window.last_of(2), None);
        let silent = Duration::from_millis(5);
        assert_eq!(window.stretches(silent), [(at(1), at(2)), (at(10), at(10))]);
    }
}
