//! Packets from NAT real servers.

use lb_common::{
    abi::{
        FLOW_MIDSTREAM, FLOW_RESET, FLOW_REVERSE, Flow, FlowKey, METHOD_NAT, Orphan, Real,
        SOURCE_LEN, Source,
    },
    verdict::Outcome,
};

use crate::{
    Plan,
    access::{self, Hook, NextHop, Packet},
    family::{self, Family},
    flow::{self, is_alive},
    gate::{self, Gate},
    maps,
    parse::{self, ACK, RST, SYN, Segment},
    schedule,
};

/// Decides about a segment whose source may be a NAT real server.
#[inline(always)]
pub fn decide<A: Family, H: Hook>(packet: &Packet<H>, segment: &Segment<A>) -> Plan {
    let now = access::jiffies();
    let key = &segment.key;
    if let Some(flow) = maps::flow(key)
        && flow.flags & FLOW_REVERSE != 0
        // Else the way to the client is not known yet: a peer has told of the connection.
        && flow.ifindex != 0
        && let Some(real) = maps::real(flow.real)
        // Else the real id has been given to another server.
        && real.method == METHOD_NAT
        && real.port == key.sport
        && key.src.is(&real.addr)
    {
        match gate::check(real.gate) {
            Gate::Active => {}
            Gate::Standby => return Plan::Done(Outcome::Standby),
            Gate::Fenced => return Plan::Done(Outcome::Fenced),
        }
        let way = flow::way(flow);
        if is_alive(flow, real) {
            if !flow::note(flow, segment, now)
                && flow::follow(flow, segment, real, now)
                && segment.flags & RST != 0
            {
                flow::note_server_reset(key, real);
            }
            return Plan::Reply { id: flow.real, real, way, what: Outcome::NatReply };
        }
        if let Some(client) = parse::client_key(key, &real.vip, real.vip_port) {
            // Opened anew on the tuple of one that ended with the server's last life.
            if let Some(way) = way_by(&client, flow.real, real)
                && way.ifindex != 0
            {
                return Plan::Reply { id: flow.real, real, way, what: Outcome::NatReply };
            }
            if flow.flags & FLOW_RESET == 0 {
                flow.flags |= FLOW_RESET;
                A::changed(&client);
            }
        }
        flow.last_seen = now;
        return reset(segment, real, way, Outcome::ResetDead);
    }
    if maps::is_local(&key.dst.wide()) {
        return Plan::Done(Outcome::OwnAddress);
    }
    match maps::source(&parse::source_key(key)) {
        Some(source) => orphan(packet, segment, source, now),
        None => Plan::Done(Outcome::ServerOther),
    }
}

/// A RST to the client in place of the server's segment.
#[inline(always)]
fn reset<A: Family>(
    segment: &Segment<A>,
    real: &'static Real,
    way: NextHop,
    what: Outcome,
) -> Plan {
    if segment.flags & RST != 0 {
        return Plan::Done(Outcome::OrphanDropped);
    }
    if let Some(stats) = maps::service_stats(real.service) {
        stats.resets += 1;
    }
    Plan::ResetClient { real, way, what }
}

/// A reply without an entry: of an embryo (the SYN-ACK), of a connection that another host has
/// made, or of one that is long over. It must not reach the client under the server's address.
#[inline(always)]
fn orphan<A: Family, H: Hook>(
    packet: &Packet<H>,
    segment: &Segment<A>,
    source: &Source,
    now: u64,
) -> Plan {
    let mut first: Option<&'static Real> = None;
    let mut adopter: Option<(u16, &'static Real)> = None;
    let mut known: Option<(u16, &'static Real)> = None;
    let mut closed = Outcome::ServerOther;
    let mut index = 0;
    while index < SOURCE_LEN {
        let id = source.reals[index];
        index += 1;
        if id == 0 {
            break;
        }
        let Some(real) = maps::real(id) else { break };
        match gate::check(real.gate) {
            Gate::Active => {}
            Gate::Standby => {
                closed = Outcome::Standby;
                continue;
            }
            Gate::Fenced => {
                closed = Outcome::Fenced;
                continue;
            }
        }
        let Some(client) = parse::client_key(&segment.key, &real.vip, real.vip_port) else { break };
        if let Some(way) = way_by(&client, id, real) {
            if way.ifindex != 0 {
                return Plan::Reply { id, real, way, what: Outcome::NatReply };
            }
            known = Some((id, real));
        }
        first = first.or(Some(real));
        if adopter.is_none() && is_hashed_to(&client, id) {
            adopter = Some((id, real));
        }
    }
    let Some(first) = first else { return Plan::Done(closed) };
    let key = &segment.key;
    let len = (segment.len - parse::ETH_LEN as u32) as u16;
    let Some(way) = A::route(packet, key.src, key.dst, len) else {
        return Plan::Done(report(segment));
    };
    if let Some((id, real)) = known {
        return Plan::Reply { id, real, way, what: Outcome::NatReply };
    }
    match adopter {
        Some((id, real)) => adopt(segment, id, real, way, now),
        None => reset(segment, first, way, Outcome::OrphanReset),
    }
}

/// Leaves it to the forwarder to find the client.
#[inline(always)]
fn report<A: Family>(segment: &Segment<A>) -> Outcome {
    let reply = family::widen(&segment.key);
    let orphan = Orphan { reply, seq: segment.seq, ack: segment.ack };
    // A client whose SYN-ACK is lost repeats its SYN.
    if segment.flags & (SYN | ACK) == ACK && maps::report(orphan) {
        Outcome::OrphanReported
    } else {
        Outcome::OrphanDropped
    }
}

/// The way to the client of an entry of the client's direction, embryo or flow.
#[inline(always)]
fn way_by<A: Family>(client: &FlowKey<A>, id: u16, real: &Real) -> Option<NextHop> {
    let entry = match maps::embryo(client) {
        Some(embryo) => embryo,
        None => maps::flow(client)?,
    };
    (entry.real == id && is_alive(entry, real)).then(|| flow::way(entry))
}

/// Whether the hash of the client names this server.
#[inline(always)]
fn is_hashed_to<A: Family>(client: &FlowKey<A>, id: u16) -> bool {
    // No closure: two programs have it, and what is not marked would become a call.
    let Some(service) = maps::service(&parse::service_key(client)) else { return false };
    (service.is_hashed() || maps::pressure::<A>() != 0)
        && schedule::by_hash(service, client) == Some(id)
}

/// Makes the flow that another host had.
#[inline(always)]
fn adopt<A: Family>(
    segment: &Segment<A>,
    id: u16,
    real: &'static Real,
    way: NextHop,
    now: u64,
) -> Plan {
    let plan = Plan::Reply { id, real, way, what: Outcome::OrphanAdopted };
    let Some(client) = parse::client_key(&segment.key, &real.vip, real.vip_port) else {
        return plan;
    };
    let flow = Flow {
        last_seen: now,
        generation: real.generation,
        real: id,
        flags: FLOW_MIDSTREAM,
        seq_end: segment.ack,
        ack: segment.seq_end,
        macs: way.macs,
        ifindex: way.ifindex,
        // 0 would say that a peer vouches for it.
        packets: 1,
        bytes: 0,
        created: now,
    };
    // Full or taken: the reply is the client's all the same, and its next one finds us here again.
    let _ = flow::establish(&client, flow, real);
    plan
}
