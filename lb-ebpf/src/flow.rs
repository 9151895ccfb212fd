//! Flow and embryo entries: making, following, ending them.

use lb_common::abi::{
    FLAG_KEEP, FLOW_CLOSING, FLOW_FIN, FLOW_REVERSE, FLOW_RST, Flow4, FlowKey4, METHOD_NAT, Real,
    STATE_ABSENT, STATE_DOWN,
};

use crate::{
    access::NextHop,
    maps::{self, Added},
    parse::{self, ACK, FIN, RST, SYN, Segment},
};

/// Whether packets of `flow` may still go to `real`.
#[inline(always)]
pub fn is_alive(flow: &Flow4, real: &Real) -> bool {
    flow.generation == real.generation && is_serving(real)
}

#[inline(always)]
fn is_serving(real: &Real) -> bool {
    real.state != STATE_ABSENT && (real.state != STATE_DOWN || real.flags & FLAG_KEEP != 0)
}

/// A new connection: SYN without ACK, FIN or RST.
#[inline(always)]
pub fn is_opening(segment: &Segment) -> bool {
    segment.flags & (SYN | ACK | RST | FIN) == SYN
}

/// Entry for the client's direction, as of the client's segment.
#[inline(always)]
pub fn new(segment: &Segment, id: u16, real: &Real, now: u64, flags: u16) -> Flow4 {
    Flow4 {
        last_seen: now,
        generation: real.generation,
        real: id,
        flags: flags | closing_bits(segment),
        seq_end: segment.seq_end,
        ack: segment.ack,
        macs: segment.back.macs,
        ifindex: segment.back.ifindex,
        packets: 1,
        bytes: u64::from(segment.len),
        created: now,
    }
}

#[inline(always)]
fn closing_bits(segment: &Segment) -> u16 {
    (if segment.flags & FIN != 0 { FLOW_FIN } else { 0 })
        | (if segment.flags & RST != 0 { FLOW_RST } else { 0 })
}

/// Follows a segment of the entry's direction.
#[inline(always)]
pub fn note(flow: &mut Flow4, segment: &Segment, now: u64) {
    flow.last_seen = now;
    flow.seq_end = segment.seq_end;
    if segment.flags & ACK != 0 {
        flow.ack = segment.ack;
    }
    flow.packets += 1;
    flow.bytes += u64::from(segment.len);
    if segment.flags & (FIN | RST) != 0 || flow.flags & FLOW_RST != 0 {
        note_end(flow, segment);
    }
}

/// FIN and RST end a connection, and with it its place in `conns`. One that goes on after a RST
/// was not ended: the RST was forged or out of window, and the server has ignored it.
#[inline(always)]
fn note_end(flow: &mut Flow4, segment: &Segment) {
    let was = flow.flags;
    let is = if segment.flags & (FIN | RST) != 0 {
        was | closing_bits(segment)
    } else {
        was & !FLOW_RST
    };
    flow.flags = is;
    if was & FLOW_REVERSE != 0 {
        return;
    }
    match (was & FLOW_CLOSING != 0, is & FLOW_CLOSING != 0) {
        (false, true) => maps::add_conn(flow.real, -1),
        (true, false) => maps::add_conn(flow.real, 1),
        _ => {}
    }
}

/// Keeps the reverse entry's way to the client up to date (its gateway may fail over).
#[inline(always)]
pub fn follow_client(flow: &mut Flow4, segment: &Segment, real: &Real) {
    let back = &segment.back;
    if flow.macs == back.macs && flow.ifindex == back.ifindex {
        return;
    }
    flow.macs = back.macs;
    flow.ifindex = back.ifindex;
    if let Some(reverse) = maps::flow(&parse::reply_key(&segment.key, real.addr, real.port)) {
        reverse.macs = back.macs;
        reverse.ifindex = back.ifindex;
    }
}

/// Where the client of a flow is.
#[inline(always)]
pub fn way(flow: &Flow4) -> NextHop {
    NextHop { macs: flow.macs, ifindex: flow.ifindex }
}

/// A server's RST ends the connection, although the client never says so.
#[inline(always)]
pub fn note_server_reset(reply: &FlowKey4, real: &Real) {
    let key = parse::client_key(reply, real.vip, real.vip_port);
    if let Some(flow) = maps::flow(&key) {
        if flow.flags & FLOW_CLOSING == 0 {
            maps::add_conn(flow.real, -1);
        }
        flow.flags |= FLOW_RST;
    }
}

/// Result of [`establish`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Established {
    Yes,
    /// No room: forward without an entry.
    Full,
    /// The tuple towards the real server belongs to another connection.
    Collision,
}

/// Enters a connection into the flow table, a NAT one with its reverse entry first, so that there
/// is no moment in which its replies would find none.
#[inline(always)]
pub fn establish(key: &FlowKey4, flow: &Flow4, real: &Real) -> Established {
    if real.method == METHOD_NAT {
        let reply = parse::reply_key(key, real.addr, real.port);
        let reverse = Flow4 {
            flags: FLOW_REVERSE,
            seq_end: flow.ack,
            ack: flow.seq_end,
            packets: 0,
            bytes: 0,
            ..*flow
        };
        match maps::add_flow(&reply, &reverse) {
            Added::Yes => {}
            Added::Full => return Established::Full,
            Added::Exists => {
                if is_taken(&reply, flow.real) {
                    return Established::Collision;
                }
                if !maps::replace_flow(&reply, &reverse) {
                    return Established::Full;
                }
            }
        }
        if maps::add_flow(key, flow) as u32 == Added::Full as u32 {
            maps::forget_flow(&reply);
            return Established::Full;
        }
    } else if maps::add_flow(key, flow) as u32 == Added::Full as u32 {
        return Established::Full;
    }
    if flow.flags & FLOW_CLOSING == 0 {
        maps::add_conn(flow.real, 1);
    }
    if let Some(stats) = maps::real_stats(flow.real) {
        stats.connections += 1;
    }
    Established::Yes
}

/// Whether a live connection of another virtual server uses this reverse tuple.
#[inline(always)]
fn is_taken(reply: &FlowKey4, id: u16) -> bool {
    let Some(other) = maps::flow(reply) else { return false };
    if other.real == id || other.flags & FLOW_CLOSING != 0 {
        return false;
    }
    maps::real(other.real).is_some_and(|real| is_alive(other, real))
}
