//! Logins that nobody waits for any more, and how far a login has come.
//!
//! A connection that is closed before its login is finished counts as a connect error on the server
//! (`max_connect_errors`), even if the server stood still and sees it a minute later. So such a
//! login is waited for in the background, and while several of them wait, no further one begins: it
//! would show nothing new.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, timeout_at},
};

/// Logins of one check at a time, those that are late included.
pub const LATE_COUNT: usize = 4;
/// Time beyond its own for what follows the greeting of a late login, and for its greeting once
/// the check itself has ended.
pub(super) const LATE_LIMIT: Duration = Duration::from_secs(60);

/// The places for the logins of one check.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    /// Dropped with the check.
    owner: watch::Sender<()>,
    /// Logins that found no place in time.
    without: AtomicU64,
    /// Time for a greeting once the check has ended.
    patience: Duration,
}

impl Default for Places {
    fn default() -> Self {
        Self::new(LATE_LIMIT)
    }
}

impl Places {
    /// Places whose silent connections outlive them by `patience`.
    pub fn new(patience: Duration) -> Self {
        Self {
            free: Arc::new(Semaphore::new(LATE_COUNT)),
            owner: watch::Sender::new(()),
            without: AtomicU64::new(0),
            patience,
        }
    }

    /// Logins so far that were not made because [`LATE_COUNT`] others were not finished in time.
    pub fn refused(&self) -> u64 {
        self.without.load(Ordering::Relaxed)
    }

    /// Waits for a place until the deadline. `None`: there was none, which is counted.
    pub(super) async fn take(&self, deadline: Instant) -> Option<Place> {
        match timeout_at(deadline, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(permit)) => Some(Place {
                _permit: permit,
                owner: self.owner.subscribe(),
                patience: self.patience,
            }),
            // It is never closed.
            Ok(Err(_)) | Err(_) => {
                self.without.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

/// A login's place, kept until it is finished.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    owner: watch::Receiver<()>,
    patience: Duration,
}

impl Place {
    /// Ends a while after the check has.
    pub(super) async fn forsaken(&mut self) {
        while self.owner.changed().await.is_ok() {}
        sleep(self.patience).await;
    }
}

/// How far a login has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Connected: the server has not greeted.
    #[default]
    Silent,
    Greeted,
    /// TLS was asked for and is not agreed upon.
    Handshake,
    /// Everything behind it.
    Inside,
}

/// The stage, shared by who waits for a login and who makes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Mutex<Stage>>);

impl Progress {
    pub(super) fn reach(&self, stage: Stage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    pub(super) fn stage(&self) -> Stage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
