//! L2: what operators and monitoring talk to: the control socket, /metrics, the status page.

pub mod asker;
pub mod bounds;
pub mod client;
mod columns;
pub mod http;
pub mod metrics;
pub mod page;
pub mod protocol;
pub mod render;
#[cfg(test)]
mod sample;
pub mod server;
pub mod top;

/// Name of the control socket in the run directory.
pub const SOCKET_NAME: &str = "lbd.sock";
