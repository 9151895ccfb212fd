//! The clock of `auth_type AH` ([`Clock`]) with its file in the run directory.

use std::{fs, io, path::PathBuf, thread, time::Duration};

use super::super::clock;
use crate::{base::time::Instant, vrrp::auth::ah::Clock};

/// In the run directory: the lead in whole seconds. It holds for this boot; after the next one it is
/// no more than a lead that is not needed.
pub(super) const FILE: &str = "ah-clock";

/// Written when an instance with AH first comes into force, and when a number has outrun it; never
/// by a takeover, and after the start never by the thread that sends adverts.
#[derive(Debug)]
pub(super) struct AhClock {
    path: PathBuf,
    /// `None`: no instance has asked yet.
    clock: Option<Clock>,
}

impl AhClock {
    pub fn new(path: PathBuf) -> Self {
        Self { path, clock: None }
    }

    /// What the clock says to an instance whose last number is `sequence`.
    pub fn at(&mut self, sequence: u32, now: Instant) -> Duration {
        let (mut clock, mut grown) = match self.clock {
            Some(clock) => (clock, false),
            None => (Clock::new(read(&self.path), clock::unix(), now), true),
        };
        grown |= clock.follow(sequence, now);
        self.clock = Some(clock);
        if grown {
            self.write(clock);
        }
        clock.at(now)
    }

    fn write(&self, clock: Clock) {
        let path = self.path.clone();
        let write = move || {
            if let Err(error) = replace(&path, clock.lead()) {
                let path = path.display();
                tracing::warn!(%path, %error, "after a restart AH may begin below a used number");
            }
        };
        let started = thread::Builder::new().name("ah-clock".to_owned()).spawn(write);
        if let Err(error) = started {
            tracing::warn!(%error, "no thread: after a restart AH may begin below a used number");
        }
    }
}

/// What is not there or not a number counts as nothing.
fn read(path: &std::path::Path) -> Option<Duration> {
    let text = fs::read_to_string(path).ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// A reader sees the old lead or the new one.
fn replace(path: &std::path::Path, lead: Duration) -> io::Result<()> {
    let beside = path.with_extension("new");
    // Upwards, so that no part of a second is lost.
    fs::write(&beside, format!("{}\n", lead.as_secs() + 1))?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_counts_on_from_what_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE);
        for junk in ["", "soon\n", "-1\n", "99999999999999999999999\n"] {
            fs::write(&path, junk).expect("written");
            assert_eq!(read(&path), None, "{junk:?}");
        }
        // Ten years ahead of the wall clock.
        let ahead = clock::unix() + Duration::from_secs(315_360_000);
        replace(&path, ahead).expect("replaced");
        let now = clock::now();
        let mut next = AhClock::new(path);
        assert!(next.at(0, now) > ahead);
    }
}
