//! Connections in the tables of all hosts of a virtual router: what a host that forwards tells its peers, and
//! what it believes of theirs.
//!
//! A [`Node`] is one host's end, without socket, clock or chance. It sends one numbered *stream* of [`Record`]s to
//! all peers, and follows the stream of each. Records are levels, not differences: each says all that
//! is to be known of a connection, so that one that comes twice, or late and again, does no harm.
//!
//! ```text
//! kernel's changes ─▶ Node::changed ─┐                       ┌─▶ Effect::Apply ─▶ flow table of a standby
//! walk of the table ─▶ Node::walked ─┴▶ datagrams ══ UDP ══▶─┤
//!                                                            └─▶ Effect::Prune (what a full resync did not name)
//! ```
//!
//! * **Numbers.** Each start of a host is a *session*, a random number. Datagrams of a stream are numbered from 1.
//!   A receiver applies them in order; what is missing is asked for ([`wire::Body::Request`]) out of the last
//!   [`KEPT`] datagrams, and beyond these by a full resync.
//! * **Full resync**: [`Record::Begin`], which virtual servers it covers, every connection of these, [`Record::End`].
//!   A receiver then knows which connections of its own table nobody has any more.
//! * **Believing.** Every datagram carries an HMAC-SHA-256 ([`wire`]). A session is believed once one of its
//!   hellos has named *our* session: that was written after our start, so that no recording of an earlier
//!   life can pass. Within a session numbers only grow. A session that was replaced is never believed again.
//! * **Waiting.** [`Node::is_settled`] holds a starting host back from mastership until it has what its peers
//!   have, none answers, or [`Config::timeout`] is over.

mod node;
mod peer;
mod record;
mod stream;
#[cfg(test)]
mod tests;
pub mod wire;

use std::{net::IpAddr, time::Duration};

pub use node::{Config, Effect, Node, PeerState, PeerStatus, To};
pub use record::{Flow, Key, Numbers, Prune, Record, Set, state};
pub use wire::Reject;

/// A change waits at most this long for others before it is sent.
pub const BATCH: Duration = Duration::from_millis(10);
/// Between two hellos while there is nothing to answer.
pub const HELLO: Duration = Duration::from_millis(200);
/// A peer that was not heard for so long is away.
pub const SILENT: Duration = Duration::from_secs(1);
/// A start waits so long for a peer that was not heard yet.
pub const ALONE: Duration = Duration::from_secs(1);
/// A request that has brought nothing is repeated after this.
pub const AGAIN: Duration = Duration::from_millis(50);
/// The rest of what was asked for is asked for again after this, once some of it has come.
pub const REST: Duration = Duration::from_millis(5);
/// A full resync that has not begun is asked for again after this.
pub const BEGIN_AGAIN: Duration = Duration::from_millis(250);
/// Between two full resyncs that nobody asked for ([`Node::tell_all`]), at least.
pub const TELL_AGAIN: Duration = Duration::from_secs(5);
/// Datagrams of the own stream that can be asked for: 3 MB.
pub const KEPT: usize = 2048;
/// Datagrams of a peer's stream that may wait for one that is missing.
pub const HELD: usize = 512;
/// Datagrams that one request brings at most.
pub const REPAIR: u16 = 64;
/// Peers that are followed at most.
pub const PEERS: usize = 8;
/// Sessions of a peer that are remembered as over.
pub const RETIRED: usize = 16;

/// Whether a peer may speak at all, before anything that it says is read.
fn may_speak(peers: &[IpAddr], from: IpAddr) -> bool {
    peers.is_empty() || peers.contains(&from)
}
