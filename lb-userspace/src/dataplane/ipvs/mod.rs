//! The IPVS engine: the kernel's own virtual servers, where XDP cannot run.
//!
//! `wire` knows the messages, `socket` carries them, `encode` says what of the table the kernel is to hold, `engine`
//! brings it there and reads it back. What of the kernel's table is ours is in `journal`: what is not there is
//! left alone. Owned by the forwarder's one thread; no call waits for anything but the kernel's answer.
//!
//! What IPVS cannot promise beside XDP is in [`LIMITS`], which `lbctl status` shows.

mod connections;
mod encode;
mod engine;
mod journal;
mod socket;
pub mod wire;

pub use engine::Ipvs;
pub use journal::{discard_stale, is_left};
pub use socket::{Refusal, Socket};

/// What an operator has to know of this engine, a sentence each.
pub const LIMITS: [&str; 5] = [
    "no fence: a host whose lbd hangs goes on forwarding as long as it holds the VIP",
    "clients of a dead real server are reset by their own next packet, idle ones are not told",
    "connections without a packet end after the kernel's time-outs (`ipvsadm -L --timeout`), not after idle_timeout",
    "connections of a VIP are lost by a fail-over",
    "what a standby host itself connects to a VIP is balanced by its own rules (IPVS's LOCAL_OUT), not by the master's",
];
