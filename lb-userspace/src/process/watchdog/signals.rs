//! Signals that the watchdog takes.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::process::dumps::Dump;

/// What a signal asks for.
pub(super) enum Asked {
    Stop(&'static str),
    Reload,
    Dump(i32),
}

pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    dumps: Vec<(i32, Signal)>,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("signal handler");
        Ok(Self {
            term: take(SignalKind::terminate())?,
            int: take(SignalKind::interrupt())?,
            hup: take(SignalKind::hangup())?,
            dumps: Dump::NUMBERS
                .into_iter()
                .map(|number| Ok((number, take(SignalKind::from_raw(number))?)))
                .collect::<anyhow::Result<_>>()?,
        })
    }

    /// Waits for a signal that ends lbd.
    pub(super) async fn stop(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::Stop("SIGTERM"),
            _ = self.int.recv() => Asked::Stop("SIGINT"),
        }
    }

    pub(super) async fn next(&mut self) -> Asked {
        let dump = std::future::poll_fn(|context| {
            for (number, signal) in &mut self.dumps {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        });
        tokio::select! {
            _ = self.term.recv() => Asked::Stop("SIGTERM"),
            _ = self.int.recv() => Asked::Stop("SIGINT"),
            _ = self.hup.recv() => Asked::Reload,
            number = dump => Asked::Dump(number),
        }
    }
}
