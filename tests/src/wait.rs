//! Waiting for a condition with a deadline: the only synchroniser of the suites.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers `Some`.
///
/// # Errors
/// `what`, after `limit`; or the probe's own error, at once.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait_until(what, limit, probe, String::new)
}

/// As [`wait_for`]; when the time is over, `dump` says what the world looked like.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
    dump: impl FnOnce() -> String,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        // Asked once more after the deadline, because a busy machine may have slept through it.
        let late = Instant::now() >= deadline;
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if late {
            bail!("waited {limit:?} in vain for {what}\n{}", dump());
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// [`wait_for`] of a plain condition.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_true(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || Ok(probe().then_some(())))
}
