//! How often the bounds of the api role were reached.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound of the api role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// [`super::server::CONNECTION_LIMIT`]: the next connection waits in the backlog.
    ControlConnections,
    /// [`super::http::CONNECTION_LIMIT`]: as above.
    HttpConnections,
    /// [`super::asker::PENDING_LIMIT`]: the question is refused.
    PendingQuestions,
}

impl Bound {
    const ALL: [Self; 3] =
        [Self::ControlConnections, Self::HttpConnections, Self::PendingQuestions];

    /// Name in status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlConnections => "control_connections",
            Self::HttpConnections => "http_connections",
            Self::PendingQuestions => "pending_questions",
        }
    }
}

/// Counters since the process started, shared by all tasks.
#[derive(Clone, Debug, Default)]
pub struct Bounds(Arc<[AtomicU64; Bound::ALL.len()]>);

impl Bounds {
    /// It was reached once more.
    pub fn reached(&self, bound: Bound) {
        self.0[bound as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All of them by name.
    pub fn list(&self) -> impl Iterator<Item = (String, u64)> {
        Bound::ALL
            .into_iter()
            .zip(self.0.iter())
            .map(|(bound, count)| (bound.name().to_owned(), count.load(Ordering::Relaxed)))
    }

    /// A slot, when one is free; that none was is counted. `None`: the semaphore is closed.
    pub async fn slot(&self, bound: Bound, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
            return Some(slot);
        }
        self.reached(bound);
        Arc::clone(slots).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_that_was_not_free_is_counted_and_waited_for() {
        let (bounds, slots) = (Bounds::default(), Arc::new(Semaphore::new(1)));
        let first = bounds.slot(Bound::HttpConnections, &slots).await.expect("open");
        let count = |bounds: &Bounds| bounds.list().map(|(_, count)| count).collect::<Vec<_>>();
        assert_eq!(count(&bounds), [0, 0, 0]);
        let (theirs, same) = (bounds.clone(), Arc::clone(&slots));
        let second =
            tokio::spawn(async move { theirs.slot(Bound::HttpConnections, &same).await.is_some() });
        while count(&bounds) != [0, 1, 0] {
            tokio::task::yield_now().await;
        }
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.expect("no panic"));
    }
}
