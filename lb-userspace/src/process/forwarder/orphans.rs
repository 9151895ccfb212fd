//! Clients that wait for a NAT real server's reply which came to a host that does not know their
//! connection: they are asked to speak, so that the program sees them and can adopt or reset.

use std::{future::pending, path::Path};

use anyhow::Context as _;
use lb_common::abi::Orphan;
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

use super::{plane::Plane, sys};
use crate::{dataplane::xdp::orphans::Orphans, io::nudge::Nudger};

/// Reports that are dealt with before other work has its turn.
const BATCH: usize = 256;

/// Reports in, segments out.
pub struct Orphanage {
    parts: Option<(AsyncFd<Orphans>, Nudger)>,
}

impl Orphanage {
    /// Opens both ends. Without them lbd works, but such clients wait for their own time-out.
    pub fn open(pin_dir: &Path) -> Self {
        let open = || -> anyhow::Result<_> {
            let reports = sys::reports(Orphans::open(pin_dir)?).context("watch the map orphans")?;
            let nudger = Nudger::open().context("open a raw socket")?;
            Ok((reports, nudger))
        };
        let parts = open().inspect_err(|error| {
            warn!(
                error = format!("{error:#}"),
                "clients that wait for a NAT real server during a failover will not be told"
            );
        });
        Self { parts: parts.ok() }
    }

    /// For an engine that makes no reports.
    pub fn none() -> Self {
        Self { parts: None }
    }

    /// Waits for reports. Loses none when it is dropped before its end.
    ///
    /// # Errors
    /// When the map cannot be watched.
    pub async fn next(&mut self) -> anyhow::Result<Vec<Orphan>> {
        let Some((reports, _)) = &mut self.parts else { return pending().await };
        let mut ready = reports.readable_mut().await.context("watch the map orphans")?;
        let mut orphans = Vec::new();
        while orphans.len() < BATCH {
            match ready.get_inner_mut().take() {
                Some(orphan) => orphans.push(orphan),
                None => {
                    ready.clear_ready();
                    break;
                }
            }
        }
        Ok(orphans)
    }

    /// Asks their clients. What fails is asked again at the server's next repetition.
    pub fn ask(&self, engine: &mut impl Plane, orphans: &[Orphan]) {
        let Some((_, nudger)) = &self.parts else { return };
        for orphan in orphans {
            let asks = engine.asks(orphan).unwrap_or_else(|error| {
                warn!(error = format!("{error:#}"), "an orphaned reply cannot be looked up");
                Vec::new()
            });
            for ask in asks {
                let sent = nudger.send(ask.from, ask.to, ask.seq, ask.ack);
                debug!(vip = %ask.from, client = %ask.to, ?sent, "client of an orphaned reply asked");
            }
        }
    }
}
