//! Flow and embryo entries: making, following, ending them.

use lb_common::abi::{
    FLAG_KEEP, FLOW_CLOSING, FLOW_FIN, FLOW_REVERSE, FLOW_RST, Flow, FlowKey, METHOD_NAT, Real,
    STATE_ABSENT, STATE_DOWN,
};

use crate::{
    access::NextHop,
    family::Family,
    maps::{self, Added, Entry},
    parse::{self, ACK, FIN, RST, SYN, Segment},
};

/// Whether packets of `flow` may still go to `real`.
#[inline(always)]
pub fn is_alive(flow: &Flow, real: &Real) -> bool {
    flow.generation == real.generation && is_serving(real)
}

#[inline(always)]
fn is_serving(real: &Real) -> bool {
    real.state != STATE_ABSENT && (real.state != STATE_DOWN || real.flags & FLAG_KEEP != 0)
}

/// A new connection: SYN without ACK, FIN or RST.
#[inline(always)]
pub fn is_opening<A: Family>(segment: &Segment<A>) -> bool {
    segment.flags & (SYN | ACK | RST | FIN) == SYN
}

/// Entry for the client's direction, as of the client's segment.
#[inline(always)]
pub fn new<A: Family>(segment: &Segment<A>, id: u16, real: &Real, now: u64, flags: u16) -> Flow {
    Flow {
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
fn closing_bits<A: Family>(segment: &Segment<A>) -> u16 {
    (if segment.flags & FIN != 0 { FLOW_FIN } else { 0 })
        | (if segment.flags & RST != 0 { FLOW_RST } else { 0 })
}

/// Follows a segment of the entry's direction. False, and nothing done, for one that needs a
/// closer look: [`follow`].
#[inline(always)]
pub fn note<A: Family>(flow: &mut Flow, segment: &Segment<A>, now: u64) -> bool {
    if segment.flags & (SYN | FIN | RST) != 0
        || flow.flags & FLOW_CLOSING != 0
        || !is_in_step(flow, segment)
    {
        return false;
    }
    advance(flow, segment);
    touch(flow, segment, now);
    true
}

/// How far a segment may lie from the highest one of its sender and still be taken for its sender's:
/// what a sender may have under way. Its direction's numbers follow no other segment, so that a
/// forger must guess one of 2048 such ranges.
const WINDOW: u32 = 1 << 20;
/// The same for an acknowledgement number: a receiver acknowledges whole windows at once, and
/// some acknowledgements are lost.
const ACK_WINDOW: u32 = 1 << 24;

/// Whether a segment may follow those that the entry of its direction has seen.
#[inline(always)]
pub fn is_in_step<A: Family>(flow: &Flow, segment: &Segment<A>) -> bool {
    is_near(segment.seq, flow.seq_end, WINDOW)
}

#[inline(always)]
fn is_near(number: u32, known: u32, window: u32) -> bool {
    number.wrapping_sub(known).wrapping_add(window) <= 2 * window
}

/// Whether `number` lies after `known`, in sequence space.
#[inline(always)]
fn is_after(number: u32, known: u32) -> bool {
    number.wrapping_sub(known) as i32 > 0
}

#[inline(always)]
fn advance<A: Family>(flow: &mut Flow, segment: &Segment<A>) {
    if is_after(segment.seq_end, flow.seq_end) {
        flow.seq_end = segment.seq_end;
    }
    if segment.flags & ACK != 0 {
        flow.ack = segment.ack;
    }
}

#[inline(always)]
fn touch<A: Family>(flow: &mut Flow, segment: &Segment<A>, now: u64) {
    flow.last_seen = now;
    flow.packets += 1;
    flow.bytes += u64::from(segment.len);
}

/// A repeated SYN of an embryo, whose client may have begun anew with another number.
#[inline(always)]
pub fn note_opening<A: Family>(embryo: &mut Flow, segment: &Segment<A>, now: u64) {
    embryo.seq_end = segment.seq_end;
    touch(embryo, segment, now);
}

/// Follows a segment that [`note`] left: one that opens or ends, one of a connection that is ending,
/// or one out of step. Whoever knows the tuple can forge such segments; the peer ignores them by
/// their numbers (RFC 5961), and so must the entry, or an idle connection would be forgotten.
/// False when the segment was ignored. It is forwarded all the same: its receiver judges.
#[inline(always)]
pub fn follow<A: Family>(flow: &mut Flow, segment: &Segment<A>, real: &Real, now: u64) -> bool {
    let was = flow.flags;
    let flags = if segment.flags & RST != 0 {
        if !ends(flow, segment, real) {
            return false;
        }
        was | FLOW_RST
    } else if segment.flags & SYN != 0 {
        if !answers_a_syn(flow, segment, real) {
            return false;
        }
        renumber(flow, segment);
        was & !FLOW_CLOSING
    } else if !is_in_step(flow, segment) {
        if begins_anew(flow, segment, real) {
            renumber(flow, segment);
            (was & !FLOW_CLOSING) | closing_bits(segment)
        } else if segment.flags & FIN != 0 {
            return false;
        } else {
            was
        }
    } else if segment.flags & FIN != 0 {
        if !is_near(segment.ack, flow.ack, ACK_WINDOW) {
            return false;
        }
        // Exactly, so that data beyond the FIN shows.
        renumber(flow, segment);
        was | FLOW_FIN
    } else {
        // Nobody sends new data after a FIN or RST of its own: that one was forged.
        let goes_on = is_after(segment.seq_end, flow.seq_end);
        advance(flow, segment);
        if goes_on { was & !(FLOW_FIN | FLOW_RST) } else { was }
    };
    touch(flow, segment, now);
    flow.flags = flags;
    if (was ^ flags) & FLOW_CLOSING != 0 {
        if was & FLOW_REVERSE == 0 {
            A::changed(&segment.key);
        } else if let Some(client) = parse::client_key(&segment.key, &real.vip, real.vip_port) {
            A::changed(&client);
        }
    }
    if was & FLOW_REVERSE == 0 {
        match (was & FLOW_CLOSING != 0, flags & FLOW_CLOSING != 0) {
            (false, true) => maps::add_conn(flow.real, -1),
            (true, false) => maps::add_conn(flow.real, 1),
            _ => {}
        }
    }
    true
}

/// Takes a segment's numbers at its word.
#[inline(always)]
fn renumber<A: Family>(flow: &mut Flow, segment: &Segment<A>) {
    flow.seq_end = segment.seq_end;
    flow.ack = segment.ack;
}

/// Whether its receiver believes a RST: with the number that follows what its sender sent, or
/// that the receiver has acknowledged (which only NAT shows us).
#[inline(always)]
fn ends<A: Family>(flow: &Flow, segment: &Segment<A>, real: &Real) -> bool {
    segment.seq == flow.seq_end
        || other_direction(flow, segment, real).is_some_and(|other| other.ack == segment.seq)
}

/// The entry of the direction that answers this one; none under DR.
#[inline(always)]
fn other_direction<A: Family>(
    flow: &Flow,
    segment: &Segment<A>,
    real: &Real,
) -> Option<&'static mut Flow> {
    let key = if flow.flags & FLOW_REVERSE != 0 {
        parse::client_key(&segment.key, &real.vip, real.vip_port)
    } else if real.method == METHOD_NAT {
        parse::reply_key(&segment.key, &real.addr, real.port)
    } else {
        None
    };
    maps::flow(&*key?)
}

/// A SYN-ACK for a client that uses the tuple of a connection anew which only its server has ended.
#[inline(always)]
fn answers_a_syn<A: Family>(flow: &Flow, segment: &Segment<A>, real: &Real) -> bool {
    flow.flags & FLOW_REVERSE != 0
        && segment.flags & (SYN | ACK) == SYN | ACK
        && parse::client_key(&segment.key, &real.vip, real.vip_port)
            .and_then(|key| maps::embryo(&key))
            .is_some_and(|embryo| embryo.real == flow.real && embryo.seq_end == segment.ack)
}

/// Whether numbers out of step are right and the entry's are old: the connection went on at another
/// host while that was master, or the client has opened it anew (its SYN is an embryo), which
/// under NAT the server must have confirmed.
#[inline(always)]
fn begins_anew<A: Family>(flow: &Flow, segment: &Segment<A>, real: &Real) -> bool {
    if flow.last_seen < maps::tenure(real.gate) {
        return true;
    }
    if flow.flags & FLOW_REVERSE != 0 {
        return false;
    }
    let Some(embryo) = maps::embryo(&segment.key) else { return false };
    let opened = embryo.real == flow.real && embryo.seq_end == segment.seq;
    let confirmed = opened
        && (real.method != METHOD_NAT
            || other_direction(flow, segment, real).is_some_and(|other| other.ack == segment.seq));
    if confirmed {
        maps::forget_embryo(&segment.key);
    }
    confirmed
}

/// Whether an embryo is still what it was: its client and server have given up by then.
#[inline(always)]
pub fn is_half_open(embryo: &Flow, now: u64) -> bool {
    match maps::control().map_or(0, |control| control.half_open) {
        0 => true,
        limit => now.wrapping_sub(embryo.last_seen) <= u64::from(limit),
    }
}

/// Keeps the reverse entry's way to the client up to date (its gateway may fail over).
#[inline(always)]
pub fn follow_client<A: Family>(flow: &mut Flow, segment: &Segment<A>, real: &Real) {
    let back = &segment.back;
    if flow.macs == back.macs && flow.ifindex == back.ifindex {
        return;
    }
    flow.macs = back.macs;
    flow.ifindex = back.ifindex;
    if let Some(key) = parse::reply_key(&segment.key, &real.addr, real.port)
        && let Some(reverse) = maps::flow(&key)
    {
        reverse.macs = back.macs;
        reverse.ifindex = back.ifindex;
    }
}

/// Remembers the connection of a SYN.
#[inline(always)]
pub fn propose<A: Family>(segment: &Segment<A>, id: u16, real: &Real, now: u64) {
    if let Some(embryo) = A::hold_flow(Entry::Client, new(segment, id, real, now, 0)) {
        maps::put_embryo(&segment.key, &embryo);
    }
}

/// Whether a peer vouches for an entry of the client's direction, and no packet has come since.
#[inline(always)]
pub fn is_vouched_for(flow: &Flow) -> bool {
    flow.packets == 0
}

/// Where the client of a flow is.
#[inline(always)]
pub fn way(flow: &Flow) -> NextHop {
    NextHop { macs: flow.macs, ifindex: flow.ifindex }
}

/// A server's RST ends the connection, although the client never says so.
#[inline(always)]
pub fn note_server_reset<A: Family>(reply: &FlowKey<A>, real: &Real) {
    if let Some(key) = parse::client_key(reply, &real.vip, real.vip_port)
        && let Some(flow) = maps::flow(&key)
    {
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
pub fn establish<A: Family>(key: &FlowKey<A>, flow: Flow, real: &Real) -> Established {
    let Some(flow) = A::hold_flow(Entry::Client, flow) else { return Established::Full };
    if real.method == METHOD_NAT {
        let Some(reply) = parse::reply_key(key, &real.addr, real.port) else {
            return Established::Full;
        };
        let reverse = Flow {
            flags: FLOW_REVERSE,
            seq_end: flow.ack,
            ack: flow.seq_end,
            packets: 0,
            bytes: 0,
            ..*flow
        };
        let Some(reverse) = A::hold_flow(Entry::Reply, reverse) else {
            return Established::Full;
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
        if maps::add_flow(key, &flow) as u32 == Added::Full as u32 {
            maps::forget_flow(&reply);
            return Established::Full;
        }
    } else if maps::add_flow(key, &flow) as u32 == Added::Full as u32 {
        return Established::Full;
    }
    if flow.flags & FLOW_CLOSING == 0 {
        maps::is_overloaded(flow.real, real);
        maps::add_conn(flow.real, 1);
        maps::is_overloaded(flow.real, real);
    }
    if let Some(stats) = maps::real_stats(flow.real) {
        stats.connections += 1;
    }
    A::changed(key);
    Established::Yes
}

/// Whether a live connection of another virtual server uses this reverse tuple.
#[inline(always)]
fn is_taken<A: Family>(reply: &FlowKey<A>, id: u16) -> bool {
    let Some(other) = maps::flow(reply) else { return false };
    if other.real == id || other.flags & FLOW_CLOSING != 0 {
        return false;
    }
    maps::real(other.real).is_some_and(|real| is_alive(other, real))
}
