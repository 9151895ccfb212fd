//! What checkers do on the network. Each probe is one future with one result; deadlines are on
//! the whole exchange, never on a single read; dropping the future ends the probe.

pub mod http;
pub mod mysql;
pub mod segment;
#[allow(unsafe_code, reason = "modules named `sys` only, DESIGN §5")]
mod sys;
pub mod tcp;
