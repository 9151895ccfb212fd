//! The watchdog's part of keepalived's dump files: asks the vrrp role, writes beside the loop.

use super::{Watchdog, asks};
use crate::{
    base::time::Instant,
    process::{
        dumps::{self, Dump, Known},
        ipc::{Down, Event, Query, Role},
    },
    vrrp::track::Verdict,
};

/// Questions of this process itself have numbers from here on; the api role counts from 1.
const OWN: u64 = 1 << 63;

/// The dump that a question was asked for.
pub(super) fn of(ask: u64) -> Option<Dump> {
    ask.checked_sub(OWN).and_then(|signal| Dump::of(i32::try_from(signal).ok()?))
}

impl Watchdog {
    /// A signal asks for a dump.
    pub(super) fn dump(&mut self, signal: i32, now: Instant) {
        let Some(dump) = Dump::of(signal) else { return };
        let ask = OWN + u64::from(signal.unsigned_abs());
        if !self.children.contains_key(&Role::Vrrp) {
            return self.dumped(dump, asks::Parts::default(), now);
        }
        match self.asks.status(ask, &[Role::Vrrp], now) {
            Some(id) => self.send(Role::Vrrp, Down::Query { id, query: Query::Status }, now),
            None => tracing::warn!(?dump, "too many questions are open, no dump is written"),
        }
    }

    /// The answer is here.
    pub(super) fn dumped(&mut self, dump: Dump, parts: asks::Parts, now: Instant) {
        if dump == Dump::StatsClear {
            self.send(Role::Vrrp, Down::Query { id: 0, query: Query::ClearStatistics }, now);
        }
        let config = std::sync::Arc::clone(&self.config);
        let path = dump.path(&config, self.runtime.instance.as_deref());
        let verdicts: Vec<(String, Verdict)> = self
            .values
            .events()
            .filter_map(|event| match event {
                Event::Script { name, verdict } => Some((name.clone(), *verdict)),
                _ => None,
            })
            .collect();
        tokio::task::spawn_blocking(move || {
            let known = Known {
                config: &config,
                instances: &parts.vrrp,
                verdicts: &verdicts,
                processes: &parts.processes,
            };
            let path_shown = path.display().to_string();
            match dumps::write(&path, &dump.render(&known)) {
                Ok(()) => tracing::info!(file = path_shown, ?dump, "dump written"),
                Err(error) => tracing::error!(file = path_shown, %error, "dump not written"),
            }
        });
    }
}
