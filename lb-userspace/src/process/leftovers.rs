//! The end of a daemon whose vrrp role did not end in order, or not long enough after its start.

use std::{path::Path, time::Duration};

use tokio::time;

use super::vrrp::JOURNAL;
use crate::io::link::{Declaration, Event, Links};

/// Within the forwarder's own time to stop.
const LIMIT: Duration = Duration::from_secs(2);

/// Takes off what the vrrp role has written down as put on this host, if its file is still there: it was killed at
/// the stop, could not stay up, or was stopped before it had looked after a predecessor's. To be called before a fence
/// goes, or a VIP would answer here beside the next master's.
pub async fn remove(run_dir: &Path) {
    let journal = run_dir.join(JOURNAL);
    if !journal.exists() {
        return;
    }
    tracing::warn!("VIPs that a vrrp process may have left, now or before, are removed");
    match time::timeout(LIMIT, take_off(&journal)).await {
        Ok(Ok(errors)) if errors.is_empty() => {
            let _ = std::fs::remove_file(journal);
        }
        Ok(Ok(errors)) => {
            for error in errors {
                tracing::error!(%error, "left by the vrrp process, not removed");
            }
        }
        Ok(Err(error)) => tracing::error!("VIPs that the vrrp process left: {error:#}"),
        Err(_) => {
            tracing::error!(waited = ?LIMIT, "VIPs that the vrrp process left are not removed yet")
        }
    }
}

/// What could not be removed.
async fn take_off(journal: &Path) -> anyhow::Result<Vec<String>> {
    let mut links = Links::start(Some(journal.to_owned()))?;
    let mut asked = false;
    loop {
        match links.event().await {
            // Before it nothing is known of the kernel's addresses.
            Some(Event::Ready) if !asked => {
                asked = true;
                let nothing = Declaration { id: 1, ..Declaration::default() };
                links.declare(nothing).map_err(anyhow::Error::msg)?;
            }
            Some(Event::Done { id: 1, errors, .. }) => {
                return Ok(errors.iter().map(ToString::to_string).collect());
            }
            Some(Event::Failed(error)) => anyhow::bail!("rtnetlink: {error}"),
            Some(_) => {}
            None => anyhow::bail!("rtnetlink: the thread has ended"),
        }
    }
}
