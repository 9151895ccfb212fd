//! Whom to tell that a connection's real server is gone, and when. Pure.
//!
//! A client that speaks is told by the program, which answers a packet of a dead connection with a RST.
//! One that is idle would not hear of it before its next query. So it is made to speak: a keepalive
//! segment from the VIP, one below the number that it acknowledged last, which it answers with an
//! acknowledgement (RFC 9293 §3.10.7.4) that the program answers with the RST. That the number of the RST
//! is right is then the client's own word, whatever was under way when the server went. And a segment
//! that asks ends nothing: whether the connection is dead, and whether this host is master, the program
//! decides when the answer comes.
//!
//! The server, which may live on (a demoted one, one drained to the end), gets a RST from the client's
//! address with the number that follows what the client has sent through this host. That is exact unless a segment
//! was lost between here and the server; then the server keeps the connection until it speaks itself.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::abi::{
    FLAG_KEEP, FLAG_RESOLVED, FLOW_FIN, FLOW_RESET, FLOW_REVERSE, FLOW_RST, Flow, FlowKey6,
    METHOD_DR, METHOD_NAT, METHOD_TUN, METHOD_TUN6, Real, STATE_ABSENT, STATE_DOWN,
};

use super::{encode::socket, image::Image};
use crate::base::time::Instant;

/// When a round begins after the first one. Linux answers such a segment at most every 500 ms a
/// connection, and segments get lost; a client that has not answered four is not there, and is told when it
/// speaks.
pub const ROUNDS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(600), Duration::from_secs(2), Duration::from_secs(5)];
/// Segments of a slice at most. A connection takes two, one to each end.
pub const SEGMENTS: usize = 64;
/// After an error the walk begins anew so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// What a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Makes the client speak.
    Probe,
    /// Ends the connection at its server.
    Reset,
}

/// A segment to an end of a connection whose real server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    pub kind: Kind,
    /// Whose lease it needs.
    pub gate: u16,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    /// Destination and source of the frame.
    pub macs: [u8; 12],
    /// Interface to leave by.
    pub ifindex: u32,
    /// Source and destination of the packet that it goes inside of.
    pub tunnel: Option<(IpAddr, IpAddr)>,
}

/// Whether packets of `flow` still go to `real`: the program's own rule.
fn is_alive(flow: &Flow, real: &Real) -> bool {
    flow.generation == real.generation
        && real.state != STATE_ABSENT
        && (real.state != STATE_DOWN || real.flags & FLAG_KEEP != 0)
}

/// What is to be sent about an entry of the flow table. `first`: in the first round, in which also those
/// servers are told whose clients know already.
pub fn notices(
    key: &FlowKey6,
    flow: &Flow,
    image: &Image,
    first: bool,
) -> impl Iterator<Item = Notice> {
    let real = image.reals.get(&flow.real).filter(|real| {
        // One that ended by itself needs no telling.
        flow.flags & (FLOW_REVERSE | FLOW_FIN | FLOW_RST) == 0
            && !is_alive(flow, real)
            // Else the id is another server's by now, whose lease says nothing about this connection.
            && (real.vip, real.vip_port) == (key.dst, key.dport)
            // Else the program does not look at packets to it any more; or the VIP has gone to another
            // instance, and the lease of the one before, which a retired server still has, says nothing.
            && image.vips.get(&key.dst).is_some_and(|vip| vip.gate == real.gate)
    });
    let told = flow.flags & FLOW_RESET != 0;
    let client = real.filter(|_| !told).map(|real| Notice {
        kind: Kind::Probe,
        gate: real.gate,
        from: socket(key.dst, key.dport),
        to: socket(key.src, key.sport),
        seq: flow.ack.wrapping_sub(1),
        ack: flow.seq_end,
        macs: bytes(flow.macs),
        ifindex: flow.ifindex,
        tunnel: None,
    });
    let server = real.filter(|real| (first || !told) && real.flags & FLAG_RESOLVED != 0);
    let server = server.and_then(|real| {
        let to = match real.method {
            METHOD_DR | METHOD_TUN | METHOD_TUN6 => (key.dst, key.dport),
            METHOD_NAT => (real.addr, real.port),
            // This host's own stack, which no frame of ours reaches.
            _ => return None,
        };
        Some(Notice {
            kind: Kind::Reset,
            gate: real.gate,
            from: socket(key.src, key.sport),
            to: socket(to.0, to.1),
            seq: flow.seq_end,
            ack: 0,
            macs: bytes(real.macs),
            ifindex: real.ifindex,
            tunnel: real.is_tunnel().then(|| (real.tunnel_source.ip(), real.addr.ip())),
        })
    });
    client.into_iter().chain(server)
}

/// As they lie in a frame.
fn bytes(macs: [u32; 3]) -> [u8; 12] {
    let mut out = [0; 12];
    for (to, word) in out.chunks_exact_mut(4).zip(macs) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    out
}

/// Whether some real server's connections die by this change.
pub fn someone_dies(before: &Image, after: &Image) -> bool {
    after.reals.iter().any(|(id, now)| {
        before
            .reals
            .get(id)
            .is_some_and(|old| old.state != STATE_ABSENT && old.generation != now.generation)
    })
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// For a round at `at`.
    Waiting {
        begun: Instant,
        round: usize,
        at: Instant,
    },
    Walking {
        begun: Instant,
        round: usize,
        unaware: bool,
    },
}

/// When the flow table is walked for connections whose real server is gone.
#[derive(Debug, Default)]
pub struct Schedule {
    /// Connections have died since the last first round began.
    wanted: bool,
    stage: Stage,
}

impl Schedule {
    /// Connections have died: begin at once, or anew after the walk that is under way.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Walking { .. } => Some(Instant::ZERO),
            _ if self.wanted => Some(Instant::ZERO),
            Stage::Waiting { at, .. } => Some(at),
            Stage::Idle => None,
        }
    }

    /// Begins a walk if one is due. [`Schedule::end`] or [`Schedule::fail`] ends it.
    pub fn begin(&mut self, now: Instant) -> bool {
        self.stage = match self.stage {
            Stage::Walking { .. } => return false,
            _ if std::mem::take(&mut self.wanted) => {
                Stage::Walking { begun: now, round: 0, unaware: false }
            }
            Stage::Waiting { begun, round, at } if at <= now => {
                Stage::Walking { begun, round, unaware: false }
            }
            Stage::Waiting { .. } | Stage::Idle => return false,
        };
        true
    }

    /// Whether this is the first round.
    pub fn is_first(&self) -> bool {
        matches!(self.stage, Stage::Walking { round: 0, .. })
    }

    /// The walk has met a client that does not know.
    pub fn note_unaware(&mut self) {
        if let Stage::Walking { unaware, .. } = &mut self.stage {
            *unaware = true;
        }
    }

    /// The walk has ended, and all that it found has been sent. The next round follows if there is one and
    /// somebody to ask again.
    pub fn end(&mut self, now: Instant) {
        let Stage::Walking { begun, round, unaware } = self.stage else { return };
        self.stage = match ROUNDS.get(round + 1) {
            Some(after) if unaware => {
                let at = (begun + *after).max(now);
                Stage::Waiting { begun, round: round + 1, at }
            }
            _ => Stage::Idle,
        };
    }

    /// The walk could not be ended: it begins anew in a while.
    pub fn fail(&mut self, now: Instant) {
        let (begun, round) = match self.stage {
            Stage::Walking { begun, round, .. } | Stage::Waiting { begun, round, .. } => {
                (begun, round)
            }
            Stage::Idle => (now, 0),
        };
        self.stage = Stage::Waiting { begun, round, at: now + AGAIN };
    }
}

#[cfg(test)]
mod tests;
