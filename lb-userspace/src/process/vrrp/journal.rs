//! What the role tells the rtnetlink thread to write down, so that its successor knows what to
//! remove should it be killed.

use std::time::Duration;

use super::{VrrpRole, lower};
use crate::{
    config::model::Config,
    io::link::{Declaration, Event, Object},
};

/// The leftovers of a predecessor are gone within this, or VRRP begins beside them.
const ADOPT_LIMIT: Duration = Duration::from_secs(5);

impl VrrpRole {
    /// At the start, before any packet: writes down what may be put on, and waits until what a
    /// predecessor left, and `config` does not name, is gone.
    ///
    /// # Errors
    /// The rtnetlink thread has ended.
    pub(super) async fn adopt(&mut self, config: &Config) -> anyhow::Result<()> {
        let Some(id) = self.declare(config) else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + ADOPT_LIMIT;
        loop {
            match tokio::time::timeout_at(deadline, self.shell.links.event()).await {
                Ok(Some(Event::Done { id: other, aborted, errors, .. })) if other == id => {
                    if aborted.count > 0 {
                        let count = aborted.count;
                        tracing::info!(count, "TCP connections of a predecessor's VIPs are reset");
                    }
                    for error in errors {
                        tracing::error!(%error, "left by a predecessor, not removed");
                    }
                    return Ok(());
                }
                Ok(Some(Event::Failed(error))) => anyhow::bail!("rtnetlink: {error}"),
                Ok(Some(event)) => drop(self.shell.interfaces.notice(&event)),
                Ok(None) => anyhow::bail!("rtnetlink: the thread has ended"),
                Err(_) => {
                    let waited = ADOPT_LIMIT;
                    tracing::error!(?waited, "what a predecessor left is not removed yet");
                    return Ok(());
                }
            }
        }
    }

    /// Writes down what a configuration may put on; the number of the request.
    pub(super) fn declare(&mut self, config: &Config) -> Option<u64> {
        let mut wanted = Vec::new();
        for instance in &config.vrrp_instances {
            wanted.extend(lower::base(instance));
            wanted.extend(lower::holds(instance));
        }
        wanted.extend(lower::statics(&config.statics));
        let mut held: Vec<Object> = self.statics.held().to_vec();
        for instance in self.instances.iter().chain(&self.leaving) {
            held.extend(instance.base.iter().chain(&instance.held).cloned());
        }
        self.shell.next_request += 1;
        let id = self.shell.next_request;
        match self.shell.links.declare(Declaration { id, wanted, held }) {
            Ok(()) => Some(id),
            Err(error) => {
                tracing::error!(error, "not written down what is put on this host");
                None
            }
        }
    }
}
