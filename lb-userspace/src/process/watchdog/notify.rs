//! What the service manager is told (sd_notify(3)). Without one, nothing happens.

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "service manager not told");
    }
}

/// Every role is ready.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(time) => tell(&[NotifyState::Reloading, time]),
        Err(error) => tracing::debug!(%error, "service manager not told"),
    }
}

/// The orderly stop begins.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The watchdog's loop turns.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}
