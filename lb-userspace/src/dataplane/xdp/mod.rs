//! The XDP engine. The only folder that names aya.

pub mod attach;
pub mod clsact;
pub mod encode;
pub mod engine;
pub mod housekeeping;
pub mod image;
pub mod lease;
pub mod links;
mod listing;
pub mod loader;
pub mod maps;
pub mod object;
pub mod orphans;
#[cfg(feature = "packet-log")]
mod packet_log;
pub mod probe;
pub mod resets;
pub mod sweep;
pub mod syncing;
mod sys;
mod telling;
pub mod templates;
pub mod totals;

pub use engine::Xdp;
pub use lease::LeaseWriter;
