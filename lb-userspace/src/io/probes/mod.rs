//! What checkers do on the network. Each probe is one future with one result; deadlines are on
//! the whole exchange, never on a single read; dropping the future ends the probe.

pub mod http;
pub mod mysql;
pub mod segment;
#[allow(unsafe_code, reason = "modules named `sys` only, DESIGN §5")]
mod sys;
pub mod tcp;

use std::io;

/// What only this host can be short of: descriptors, memory, ports of its own. It says nothing about a server.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    use nix::errno::Errno::*;
    error.raw_os_error().map(nix::errno::Errno::from_raw).is_some_and(|errno| {
        matches!(errno, EMFILE | ENFILE | ENOBUFS | ENOMEM | EAGAIN | EADDRINUSE)
    })
}
