//! Choice of a real server for a new connection.

use lb_common::{
    abi::{
        FlowKey4, POOL_LEN, Pool, RING_CAPACITY, SCHED_LC, SCHED_MH, SCHED_RR, SCHED_WLC,
        SCHED_WRR, Service,
    },
    hash, pool,
};

use crate::maps;

/// Picks by the virtual server's scheduler, or by hash while the flow table is full, so that a
/// connection without an entry still finds its server.
#[inline(always)]
pub fn pick(service: &Service, key: &FlowKey4, now: u64) -> Option<u16> {
    if service.scheduler == SCHED_MH || is_pressing(now) {
        return by_hash(service, key);
    }
    let pool = maps::pool(service)?;
    let len = pool.len;
    if len == 0 {
        return None;
    }
    let cursor = maps::step(service.id);
    match service.scheduler {
        SCHED_RR => Some(entry(pool, (cursor % u64::from(len)) as u32).0),
        SCHED_WRR => by_turn(pool, cursor),
        SCHED_LC | SCHED_WLC => Some(least(pool, cursor, service.scheduler == SCHED_WLC)),
        _ => None,
    }
    .filter(|&real| real != 0)
}

/// Whether the flow table was full a moment ago.
#[inline(always)]
fn is_pressing(now: u64) -> bool {
    let pressure = maps::pressure();
    pressure != 0
        && maps::control()
            .is_some_and(|control| now.wrapping_sub(pressure) < u64::from(control.pressure))
}

/// The ring's choice for a client.
#[inline(always)]
pub fn by_hash(service: &Service, key: &FlowKey4) -> Option<u16> {
    let slot = hash::ring_slot(hash::client(key.src, key.sport)) & (RING_CAPACITY - 1);
    let real = maps::ring(service)?.slots[slot];
    (real != 0).then_some(real)
}

/// The pool's only member.
#[inline(always)]
pub fn single(service: &Service) -> Option<u16> {
    let pool = maps::pool(service)?;
    (pool.len == 1).then(|| entry(pool, 0).0)
}

#[inline(always)]
fn entry(pool: &Pool, index: u32) -> (u16, u32) {
    let entry = &pool.entries[index as usize & (POOL_LEN - 1)];
    (entry.real, entry.weight)
}

#[inline(always)]
fn by_turn(pool: &Pool, cursor: u64) -> Option<u16> {
    let mut at = pool::weighted_position(cursor, pool.total_weight, pool.stride)?;
    let mut index = 0;
    while index < POOL_LEN as u32 && index < pool.len {
        let (real, weight) = entry(pool, index);
        if at < weight {
            return Some(real);
        }
        at -= weight;
        index += 1;
    }
    None
}

/// Fewest active connections, by weight if asked. Among equals the one comes first that follows
/// the cursor, so that equals take turns; the scan itself always starts at 0, because a loop with
/// one counter is what the verifier can follow.
#[inline(always)]
fn least(pool: &Pool, cursor: u64, weighted: bool) -> u16 {
    let len = pool.len;
    let start = (cursor % u64::from(len.max(1))) as u32;
    let mut best = Candidate::of(pool, 0, start, weighted);
    let mut index = 1;
    while index < POOL_LEN as u32 && index < len {
        let other = Candidate::of(pool, index, start, weighted);
        // conns / weight < best.conns / best.weight, without a division.
        let (ours, theirs) = (other.conns * best.weight, best.conns * other.weight);
        if ours < theirs || (ours == theirs && other.turn < best.turn) {
            best = other;
        }
        index += 1;
    }
    best.real
}

struct Candidate {
    real: u16,
    conns: u64,
    weight: u64,
    /// Distance from the cursor.
    turn: u32,
}

impl Candidate {
    #[inline(always)]
    fn of(pool: &Pool, index: u32, start: u32, weighted: bool) -> Self {
        let (real, weight) = entry(pool, index);
        Self {
            real,
            conns: maps::conns(real).max(0) as u64,
            weight: if weighted { u64::from(weight) } else { 1 },
            turn: index.wrapping_sub(start) & (POOL_LEN as u32 - 1),
        }
    }
}
