//! The one unsafe call of the probes.

use std::io;

use socket2::Socket;
use tokio::io::unix::AsyncFd;

/// Registers a socket with the runtime. The socket must be non-blocking.
///
/// # Errors
/// When the runtime has no I/O driver or epoll refuses the descriptor.
pub(super) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor, always returns the same one, and closes it only when
    // it is dropped, which the `AsyncFd` that now owns it does after deregistering.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}
