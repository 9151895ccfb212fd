//! Packets to a VIP: flow table first, then embryo, then a new choice.

use lb_common::{
    abi::{
        Addr, FLOW_CLOSING, FLOW_MIDSTREAM, FLOW_RESET, FLOW_REVERSE, Flow, METHOD_NAT, Real,
        STATE_DRAIN, STATE_UP, Service,
    },
    verdict::Outcome,
};

use crate::{
    Plan, access,
    family::Family,
    flow::{self, Established, is_alive, is_opening, is_vouched_for},
    gate::{self, Gate},
    maps,
    parse::{self, ACK, RST, SYN, Segment},
    persistence, schedule,
};

/// Decides about a segment whose destination may be a VIP. [`Outcome::Foreign`]: it is none.
#[inline(always)]
pub fn decide<A: Family>(segment: &Segment<A>) -> Plan {
    let now = access::jiffies();
    if let Some(flow) = maps::flow(&segment.key)
        && let Some(real) = maps::real(flow.real)
    {
        if flow.flags & FLOW_REVERSE != 0 {
            // A reply to a client that is itself a VIP.
            return Plan::Done(Outcome::Foreign);
        }
        match gate::check(real.gate) {
            Gate::Active => {}
            Gate::Standby => return Plan::Done(Outcome::Standby),
            Gate::Fenced => return Plan::Done(Outcome::Fenced),
        }
        let alive = is_alive(flow, real);
        let ended = flow.flags & FLOW_CLOSING != 0;
        let reopens = is_opening(segment) && (!alive || ended);
        // It ended here, and another host has been master since: the segment is of a later connection
        // of that host. The server of the ended one may hold its TIME-WAIT, and would answer by an ACK
        // that the client ignores, so that it hangs.
        let is_stale = ended && flow.last_seen < maps::tenure(real.gate) && !is_vouched_for(flow);
        if !reopens && !is_stale {
            if !alive {
                return dead(flow, real, segment, now);
            }
            let noted = flow::note(flow, segment, now);
            if !noted && !flow::is_in_step(flow, segment) && is_doubtful(flow, real, segment) {
                return reset(real.service, segment, Outcome::ResetUnknown);
            }
            if (noted || flow::follow(flow, segment, real, now)) && real.method == METHOD_NAT {
                flow::follow_client(flow, segment, real);
            } else if is_opening(segment) {
                // Forged, or the server has ended the connection and the client knows: the server's
                // answer tells them which, and the client's next segment tells us.
                flow::propose(segment, flow.real, real, now);
            }
            return Plan::Forward { id: flow.real, real, what: Outcome::DrForwarded };
        }
        // The client uses, or has used, the tuple of an ended connection again.
        maps::forget_flow(&segment.key);
        maps::forget_embryo(&segment.key);
    }
    unknown(segment, now)
}

/// Whether an entry, made before another host was master, may name the wrong server for a segment: that
/// host has reset the client, or was asked by its repeated SYN, and the tuple is now of a connection
/// that *it* has made, to a server which this host would not find again. The server that the entry
/// names would answer by an ACK that the client ignores, so that it hangs; so the client is reset.
/// The entry stays: whoever knows the tuple can forge a segment, and a client that still has the old
/// connection ignores the RST by its number.
#[inline(always)]
fn is_doubtful<A: Family>(entry: &Flow, real: &Real, segment: &Segment<A>) -> bool {
    if segment.flags & (SYN | RST) != 0
        || entry.last_seen >= maps::tenure(real.gate)
        || is_vouched_for(entry)
    {
        return false;
    }
    maps::service(&parse::service_key(&segment.key)).is_some_and(|service| {
        !service.is_hashed() && schedule::single(service) != Some(entry.real)
    })
}

/// The flow's real server is gone: the client must know.
#[inline(always)]
fn dead<A: Family>(flow: &mut Flow, real: &Real, segment: &Segment<A>, now: u64) -> Plan {
    flow.last_seen = now;
    if flow.flags & FLOW_RESET == 0 {
        flow.flags |= FLOW_RESET;
        A::changed(&segment.key);
    }
    reset(real.service, segment, Outcome::ResetDead)
}

/// A RST to the client, if its segment can be answered with one.
#[inline(always)]
fn reset<A: Family>(service: u16, segment: &Segment<A>, why: Outcome) -> Plan {
    if segment.flags & RST != 0 {
        return Plan::Done(Outcome::RstUnmatched);
    }
    if segment.flags & (ACK | SYN) == 0 {
        return Plan::Done(Outcome::BadFlags);
    }
    if let Some(stats) = maps::service_stats(service) {
        stats.resets += 1;
    }
    Plan::Reset(why)
}

/// No established flow.
#[inline(always)]
fn unknown<A: Family>(segment: &Segment<A>, now: u64) -> Plan {
    if let Some(embryo) = maps::embryo(&segment.key)
        && flow::is_half_open(embryo, now)
        && let Some(real) = maps::real(embryo.real)
    {
        match gate::check(real.gate) {
            Gate::Active => {}
            Gate::Standby => return Plan::Done(Outcome::Standby),
            Gate::Fenced => return Plan::Done(Outcome::Fenced),
        }
        let alive = is_alive(embryo, real);
        // In step or not: the client repeats its SYN with the same number.
        if alive && is_doubtful(embryo, real, segment) {
            return reset(real.service, segment, Outcome::ResetUnknown);
        }
        if alive || !is_opening(segment) {
            return hatch(embryo, alive, real, segment, now);
        }
    }
    let key = parse::service_key(&segment.key);
    let Some(service) = maps::service(&key) else {
        return Plan::Done(without_service(&key.addr));
    };
    match gate::check(service.gate) {
        Gate::Active => {}
        Gate::Standby => return Plan::Done(Outcome::Standby),
        Gate::Fenced => return Plan::Done(Outcome::Fenced),
    }
    if is_opening(segment) {
        open(service, segment, now)
    } else if segment.flags & SYN != 0 || segment.flags & (ACK | RST) == 0 {
        Plan::Done(Outcome::BadFlags)
    } else {
        midstream(service, segment, now)
    }
}

/// TCP to an address of which no virtual server has the port.
#[inline(always)]
fn without_service(addr: &Addr) -> Outcome {
    match maps::vip(addr).map(|vip| gate::check(vip.gate)) {
        None => Outcome::Foreign,
        Some(Gate::Active) => Outcome::NoVirtualServer,
        Some(Gate::Standby) => Outcome::Standby,
        Some(Gate::Fenced) => Outcome::Fenced,
    }
}

/// A segment of a connection of which only SYNs were seen.
#[inline(always)]
fn hatch<A: Family>(
    embryo: &mut Flow,
    alive: bool,
    real: &'static Real,
    segment: &Segment<A>,
    now: u64,
) -> Plan {
    let id = embryo.real;
    if !alive {
        maps::forget_embryo(&segment.key);
        return reset(real.service, segment, Outcome::ResetDead);
    }
    if is_opening(segment) {
        flow::note_opening(embryo, segment, now);
        return Plan::Forward { id, real, what: Outcome::SynRepeated };
    }
    if segment.flags & SYN != 0 {
        return Plan::Done(Outcome::BadFlags);
    }
    if segment.flags & RST != 0 {
        // The client gave up; the server must hear of it.
        if segment.seq == embryo.seq_end {
            maps::forget_embryo(&segment.key);
        }
        return Plan::Forward { id, real, what: Outcome::DrForwarded };
    }
    let mut flow = flow::new(segment, id, real, now, 0);
    flow.packets += embryo.packets;
    flow.bytes += embryo.bytes;
    flow.created = embryo.created;
    enter(flow, real, segment, Outcome::Promoted)
}

/// A SYN.
#[inline(always)]
fn open<A: Family>(service: &Service, segment: &Segment<A>, now: u64) -> Plan {
    let kept = persistence::kept(service, &segment.key);
    let Some(id) = kept.or_else(|| schedule::pick(service, &segment.key)) else {
        return unavailable(service, segment);
    };
    let Some(real) = maps::real(id) else { return unavailable(service, segment) };
    // A drained one keeps its clients.
    if kept.is_none() {
        if real.state != STATE_UP {
            return unavailable(service, segment);
        }
        persistence::propose(service, &segment.key, id, real);
    }
    flow::propose(segment, id, real, now);
    if let Some(stats) = maps::service_stats(service.id) {
        stats.scheduled += 1;
    }
    Plan::Forward { id, real, what: Outcome::Scheduled }
}

#[inline(always)]
fn unavailable<A: Family>(service: &Service, segment: &Segment<A>) -> Plan {
    if let Some(stats) = maps::service_stats(service.id) {
        stats.unavailable += 1;
    }
    reset(service.id, segment, Outcome::NoRealServer)
}

/// Neither flow nor embryo, and no SYN: a connection that another host has made, or that was
/// made while the table was full. Where the choice is certain it goes on; else its client is told.
#[inline(always)]
fn midstream<A: Family>(service: &Service, segment: &Segment<A>, now: u64) -> Plan {
    let hashed = service.is_hashed() || maps::pressure::<A>() != 0;
    let (id, what) = if hashed {
        (schedule::by_hash(service, &segment.key), Outcome::MidstreamHashed)
    } else {
        (schedule::single(service), Outcome::MidstreamSingle)
    };
    let Some(id) = id else { return reset(service.id, segment, Outcome::ResetUnknown) };
    let Some(real) = maps::real(id) else { return Plan::Done(Outcome::BadFlags) };
    // The ring may name one that is inhibited: its old connections go on.
    if real.state != STATE_UP && real.state != STATE_DRAIN {
        return reset(service.id, segment, Outcome::ResetUnknown);
    }
    if segment.flags & RST != 0 {
        return Plan::Forward { id, real, what };
    }
    let flow = flow::new(segment, id, real, now, FLOW_MIDSTREAM);
    enter(flow, real, segment, what)
}

/// Makes the flow and sends the segment on its way.
#[inline(always)]
fn enter<A: Family>(flow: Flow, real: &'static Real, segment: &Segment<A>, what: Outcome) -> Plan {
    let (id, generation) = (flow.real, flow.generation);
    match flow::establish(&segment.key, flow, real) {
        Established::Yes => {
            if what as u32 == Outcome::Promoted as u32 {
                maps::forget_embryo(&segment.key);
            }
            persistence::confirm(real, &segment.key, id, generation);
            Plan::Forward { id, real, what }
        }
        Established::Full => {
            // The embryo, if there is one, stays: it goes on naming the server.
            if let Some(stats) = maps::service_stats(real.service) {
                stats.table_full += 1;
            }
            Plan::Forward { id, real, what: Outcome::TableFull }
        }
        Established::Collision => {
            maps::forget_embryo(&segment.key);
            reset(real.service, segment, Outcome::NatCollision)
        }
    }
}
