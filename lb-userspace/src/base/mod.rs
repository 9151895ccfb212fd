//! L0: the words every other folder speaks. No I/O, no clock, no policy.

pub mod core;
pub mod filter;
pub mod net;
pub mod plan;
pub mod query;
pub mod status;
pub mod table;
pub mod text;
pub mod time;
pub mod written;
