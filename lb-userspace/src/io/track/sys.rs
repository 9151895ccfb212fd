//! Descriptors of the trackers' thread in its runtime.
#![allow(unsafe_code, reason = "AsyncFd::register has no safe form that is not deprecated")]

use std::io;

use netlink_sys::Socket;
use tokio::io::{Interest, unix::AsyncFd};

use super::files::Handle;

pub(super) fn events(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor and gives the same one until it is dropped, which the
    // `AsyncFd` that owns it now does after deregistering.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(Into::into)
}

pub(super) fn changes(inotify: Handle) -> io::Result<AsyncFd<Handle>> {
    // SAFETY: as above, for the descriptor of inotify(7).
    unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }.map_err(Into::into)
}
