//! Feeds [`Processes`] from the kernel's process events, and from /proc where there are none.

use std::{collections::BTreeMap, fs, time::Duration};

use super::connector::{Connector, Happened};
use crate::{
    base::{status::TrackedProcess, time::Instant},
    config::model::TrackProcess,
    vrrp::processes::{Process, Processes},
};

/// How often /proc is read where there are no events.
const SCAN: Duration = Duration::from_millis(500);
/// How often it is read beside the events, in case one was lost.
const SCAN_BESIDE: Duration = Duration::from_secs(30);

/// What is known of processes.
#[derive(Debug)]
pub(super) struct Watcher {
    core: Processes,
    active: bool,
    connector: Option<Connector>,
    epoch: tokio::time::Instant,
    scan_at: tokio::time::Instant,
}

impl Default for Watcher {
    fn default() -> Self {
        let now = tokio::time::Instant::now();
        Self {
            core: Processes::default(),
            active: false,
            connector: None,
            epoch: now,
            scan_at: now,
        }
    }
}

impl Watcher {
    fn now(&self) -> Instant {
        Instant::ZERO + self.epoch.elapsed()
    }

    pub(super) async fn configure(&mut self, specs: Vec<TrackProcess>) {
        let was = std::mem::replace(&mut self.active, !specs.is_empty());
        self.core.configure(specs);
        if !self.active {
            self.connector = None;
            return;
        }
        if !was {
            // Before the first scan, so that nothing is missed between the two.
            match Connector::open().await {
                Ok(connector) => self.connector = Some(connector),
                Err(error) => tracing::warn!(
                    %error, every = ?SCAN,
                    "no process events from the kernel: /proc is read instead"
                ),
            }
        }
        self.scan();
    }

    /// Waits for the next thing and takes it in. Cancel safe.
    pub(super) async fn next(&mut self) {
        if !self.active {
            return std::future::pending().await;
        }
        let due =
            self.core.poll_timeout().map(|at| self.epoch + at.saturating_since(Instant::ZERO));
        let wake = due.map_or(self.scan_at, |due| due.min(self.scan_at));
        let happened = match &self.connector {
            Some(connector) => tokio::time::timeout_at(wake, connector.next()).await.ok(),
            None => {
                tokio::time::sleep_until(wake).await;
                None
            }
        };
        let now = self.now();
        match happened {
            Some(Ok(Happened::Changed(pid))) => match read(pid, self.core.needs_argv()) {
                Some(process) => self.core.seen(pid, &process, now),
                None => self.core.gone(pid, now),
            },
            Some(Ok(Happened::Ended(pid))) => self.core.gone(pid, now),
            Some(Ok(Happened::Answer(_) | Happened::Other)) => {}
            Some(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                tracing::warn!("process events were lost: /proc is read");
                self.scan();
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "process events fail: /proc is read instead");
                self.connector = None;
                self.scan();
            }
            None => {
                if tokio::time::Instant::now() >= self.scan_at {
                    self.scan();
                }
            }
        }
        self.core.handle_timeout(self.now());
    }

    pub(super) fn changes(&mut self) -> Vec<(String, bool)> {
        std::iter::from_fn(|| self.core.poll_change()).collect()
    }

    pub(super) fn status(&self) -> Vec<TrackedProcess> {
        self.core.status()
    }

    fn scan(&mut self) {
        let argv = self.core.needs_argv();
        let all: BTreeMap<u32, Process> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, read(pid, argv)?)))
            .collect();
        let now = self.now();
        self.core.scanned(&all, now);
        let pause = if self.connector.is_some() { SCAN_BESIDE } else { SCAN };
        self.scan_at = tokio::time::Instant::now() + pause;
    }
}

/// `None`: it has ended, or is a zombie, or cannot be looked at.
fn read(pid: u32, argv: bool) -> Option<Process> {
    // pid (comm) state …; a name may have blanks and parentheses.
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&stat);
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let state = text.get(close + 2..)?.chars().next()?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    let comm = text.get(open + 1..close)?.to_owned();
    let argv = match argv {
        false => vec![],
        true => fs::read(format!("/proc/{pid}/cmdline"))
            .ok()?
            .strip_suffix(b"\0")
            .unwrap_or_default()
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect(),
    };
    Some(Process { comm, argv })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read() {
        let it = read(std::process::id(), true).expect("it runs");
        let comm = fs::read_to_string("/proc/self/comm").expect("proc");
        assert_eq!(it.comm, comm.trim_end());
        assert_eq!(it.argv, std::env::args().collect::<Vec<_>>());
        assert_eq!(read(u32::MAX, false), None);
    }
}
