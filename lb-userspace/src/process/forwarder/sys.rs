//! Registration of the forwarder's descriptors with the runtime.
#![allow(unsafe_code, reason = "AsyncFd::register has no safe form that is not deprecated")]

use std::io;

use tokio::io::{Interest, unix::AsyncFd};

use crate::dataplane::xdp::orphans::Orphans;

/// Watches the reports of orphaned replies.
pub(super) fn reports(orphans: Orphans) -> io::Result<AsyncFd<Orphans>> {
    // SAFETY: the map's descriptor is open, the same and owned by `orphans` alone until it is
    // dropped, which the `AsyncFd` that owns it now does after deregistering.
    unsafe { AsyncFd::register_with_interest(orphans, Interest::READABLE) }.map_err(Into::into)
}
