//! Looks all the time whether the VIP of a [`Single`] is on its host.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    netns::thread_has_address,
    single::{Single, VIP},
};

/// The look-out.
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    absent: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<Result<u64>>>,
}

impl Watch {
    /// Begins to look.
    pub fn start(single: &Single) -> Self {
        let (over, absent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let netns = single.host.netns().clone();
        let (stop, count) = (Arc::clone(&over), Arc::clone(&absent));
        let thread = thread::spawn(move || {
            netns.enter_thread()?;
            let mut looks = 0;
            // Once at least, however late this thread is run.
            loop {
                if !thread_has_address(VIP)? {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                looks += 1;
                if stop.load(Ordering::Relaxed) {
                    return Ok(looks);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { over, absent, thread: Some(thread) }
    }

    /// The VIP was there in every look.
    ///
    /// # Errors
    /// When it was not, or nobody could look.
    pub fn finish(mut self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let looks = self.thread.take().and_then(|t| t.join().ok()).context("watcher died")??;
        let absent = self.absent.load(Ordering::Relaxed);
        ensure!(looks > 0 && absent == 0, "the VIP was absent in {absent} of {looks} looks");
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its result was taken by `finish`, or the test failed already
        }
    }
}
