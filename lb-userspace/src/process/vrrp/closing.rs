//! Sockets that are no longer used are closed by a thread of their own.
//!
//! Closing waits in the kernel: a packet socket for a grace period of RCU (`synchronize_net` of
//! `packet_release`: milliseconds, more on a busy host), a socket in a multicast group for rtnetlink's
//! lock (`ip_mc_drop_socket`), which others may hold for long. Adverts must not.

use std::{mem, thread};

/// Stack of the thread, which only drops.
const STACK: usize = 64 << 10;

/// Sockets to be closed.
#[derive(Default)]
pub(super) struct Closing(Vec<Box<dyn Send>>);

impl Closing {
    /// Takes it, if there is one.
    pub fn add(&mut self, socket: Option<impl Send + 'static>) {
        self.0.extend(socket.map(|it| Box::new(it) as Box<dyn Send>));
    }

    /// Closes what was taken, and does not wait for it. At the end of a turn of the loop, so that many are one
    /// thread's work.
    pub fn close(&mut self) {
        if self.0.is_empty() {
            return;
        }
        let sockets = mem::take(&mut self.0);
        let thread = thread::Builder::new().name("close".to_owned()).stack_size(STACK);
        // Where none can be had they are closed here: the closure is dropped with them.
        if let Err(error) = thread.spawn(move || drop(sockets)) {
            tracing::warn!(%error, "no thread to close sockets");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{self, Receiver, Sender},
        thread::ThreadId,
        time::Duration,
    };

    use super::*;

    struct Slow(Sender<ThreadId>, Receiver<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.1.recv(); // until it may end
            let _ = self.0.send(thread::current().id());
        }
    }

    #[test]
    fn nobody_waits_for_what_is_slow_to_close() {
        let (said, closed) = mpsc::channel();
        let (may_end, end) = mpsc::channel();
        let mut closing = Closing::default();
        closing.close();
        closing.add(Some(Slow(said, end)));
        closing.add(None::<Slow>);
        // Would never return if it waited.
        closing.close();
        assert!(closed.try_recv().is_err());
        may_end.send(()).expect("it waits");
        let by = closed.recv_timeout(Duration::from_secs(10)).expect("it is closed");
        assert_ne!(by, thread::current().id());
    }
}
