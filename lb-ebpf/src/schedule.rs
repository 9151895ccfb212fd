//! Choice of a real server for a new connection.

use lb_common::{
    abi::{
        FlowKey, POOL_LEN, Pool, RING_CAPACITY, SCHED_LC, SCHED_NQ, SCHED_RR, SCHED_SED, SCHED_WLC,
        SCHED_WRR, SERVICE_FALLBACK, SERVICE_HASH_PORT, SERVICE_LIMITED, Service,
    },
    hash, pool,
};

use crate::{access, family::Family, maps};

/// Picks by the virtual server's scheduler, or by hash while the flow table is full, so that a
/// connection without an entry still finds its server.
#[inline(always)]
pub fn pick<A: Family>(service: &Service, key: &FlowKey<A>) -> Option<u16> {
    let Service { id, half, scheduler, flags, .. } = *service;
    let hash = hash_of(service, key);
    let flags_family = u32::from(flags) | A::PRESSURE << 16;
    named(lbd_pick(id.into(), half.into(), scheduler.into(), flags_family, hash))
}

/// [`choose`] as a *global* BPF function: scalars in, scalar out. The verifier checks such a function once,
/// whoever calls it, and takes any number for its result; inlined, its loops over a pool would be walked
/// anew for everything that is known of packet and maps at each place of the call. The call costs
/// a new connection 7 ns.
#[allow(unsafe_code, reason = "an exported symbol is what makes the function global")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lbd_pick(id: u32, half: u32, scheduler: u32, flags_family: u32, hash: u64) -> u32 {
    let service = Service {
        id: id as u16,
        half: half as u8,
        scheduler: scheduler as u8,
        flags: flags_family as u16,
        ..Service::default()
    };
    choose(&service, flags_family >> 16, hash).map_or(0, u32::from)
}

/// The real id that a global function returned, which the verifier knows nothing of.
#[inline(always)]
pub fn named(id: u32) -> Option<u16> {
    (id != 0).then_some(id as u16)
}

#[inline(always)]
fn choose(service: &Service, family: u32, hash: u64) -> Option<u16> {
    if service.is_hashed() || is_within(maps::pressure_of(family), access::jiffies()) {
        let id = in_ring(service, hash)?;
        return if service.flags & SERVICE_LIMITED == 0 {
            Some(id)
        } else {
            instead(service, hash, id)
        };
    }
    let pool = maps::pool(service)?;
    let len = pool.len;
    if len == 0 {
        return None;
    }
    let cursor = maps::step(service.id);
    let start = (cursor % u64::from(len)) as u32;
    let full = if service.flags & SERVICE_LIMITED == 0 { None } else { overloaded(pool) };
    match service.scheduler {
        SCHED_RR if is_empty(full) => Some(entry(pool, start).0),
        SCHED_WRR if is_empty(full) => by_turn(pool, cursor),
        // The weights of a pool of `rr` are all 1.
        SCHED_RR | SCHED_WRR => by_turn_of_others(pool, cursor, full),
        SCHED_LC | SCHED_WLC | SCHED_SED | SCHED_NQ => least(pool, start, service.scheduler, full),
        _ => None,
    }
    .filter(|&real| real != 0)
}

/// The hash's choice of a virtual server with limits, if it may have one more.
#[inline(always)]
fn instead(service: &Service, hash: u64, id: u16) -> Option<u16> {
    if !maps::is_overloaded(id, maps::real(id)?) {
        return Some(id);
    }
    if service.flags & SERVICE_FALLBACK == 0 {
        return None;
    }
    let pool = maps::pool(service)?;
    // The same one each time, as long as the same ones are overloaded.
    let start = hash % u64::from(pool.len.max(1));
    next(pool, start as u32, overloaded(pool))
}

/// Members of a pool that are at their limit, one bit each; `None` where there are no limits. It stays in a
/// map and is read anew for each bit: of a variable the verifier would follow every value that the
/// bits looked at so far leave, which are too many.
type Full<'a> = Option<&'a u64>;

#[inline(always)]
fn overloaded(pool: &Pool) -> Full<'static> {
    let full = maps::scratch()?;
    maps::scratch_set(full, 0);
    let mut index = 0;
    while index < POOL_LEN as u32 && index < pool.len {
        let id = entry(pool, index).0;
        if maps::real(id).is_some_and(|real| maps::is_overloaded(id, real)) {
            maps::scratch_set(full, maps::scratched(full) | 1 << index);
        }
        index += 1;
    }
    Some(full)
}

#[inline(always)]
fn is_empty(set: Full<'_>) -> bool {
    set.is_none_or(|set| maps::scratched(set) == 0)
}

#[inline(always)]
fn is_in(set: Full<'_>, index: u32) -> bool {
    set.is_some_and(|set| maps::scratched(set) >> (index & 63) & 1 != 0)
}

/// The first from `start` on that is not in `full`.
#[inline(always)]
fn next(pool: &Pool, start: u32, full: Full<'_>) -> Option<u16> {
    let (mut best, mut least, mut index) = (0, u32::MAX, 0);
    while index < POOL_LEN as u32 && index < pool.len {
        let turn = turn(index, start);
        if !is_in(full, index) && turn < least {
            least = turn;
            best = entry(pool, index).0;
        }
        index += 1;
    }
    Some(best)
}

/// Distance from where the round begins this time.
#[inline(always)]
fn turn(index: u32, start: u32) -> u32 {
    index.wrapping_sub(start) & (POOL_LEN as u32 - 1)
}

/// Whether the family's flow table was full a moment ago.
#[inline(always)]
pub fn is_pressing<A: Family>(now: u64) -> bool {
    is_within(maps::pressure::<A>(), now)
}

#[inline(always)]
fn is_within(pressure: u64, now: u64) -> bool {
    pressure != 0
        && maps::control()
            .is_some_and(|control| now.wrapping_sub(pressure) < u64::from(control.pressure))
}

/// The ring's choice for a client.
#[inline(always)]
pub fn by_hash<A: Family>(service: &Service, key: &FlowKey<A>) -> Option<u16> {
    in_ring(service, hash_of(service, key))
}

#[inline(always)]
fn in_ring(service: &Service, hash: u64) -> Option<u16> {
    let slot = hash::ring_slot(hash) & (RING_CAPACITY - 1);
    let real = maps::ring(service)?.slots[slot];
    (real != 0).then_some(real)
}

#[inline(always)]
fn hash_of<A: Family>(service: &Service, key: &FlowKey<A>) -> u64 {
    let port = if service.flags & SERVICE_HASH_PORT != 0 { key.sport } else { 0 };
    key.src.hash(port)
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

/// The same among those that are not in `full`. They may be other ones at each call, so that there is no
/// round that each of them fills by its weight; the golden section of the number of calls is as even.
#[inline(always)]
fn by_turn_of_others(pool: &Pool, cursor: u64, full: Full<'_>) -> Option<u16> {
    let (mut total, mut index) = (0, 0);
    while index < POOL_LEN as u32 && index < pool.len {
        if !is_in(full, index) {
            total += u64::from(entry(pool, index).1);
        }
        index += 1;
    }
    let part = u64::from((cursor as u32).wrapping_mul(pool::GOLDEN));
    let mut at = (part * total) >> 32;
    let mut index = 0;
    while index < POOL_LEN as u32 && index < pool.len {
        let (real, weight) = entry(pool, index);
        if !is_in(full, index) {
            if at < u64::from(weight) {
                return Some(real);
            }
            at -= u64::from(weight);
        }
        index += 1;
    }
    None
}

/// Least load, which is what `lc`, `wlc`, `sed` and `nq` differ in. Among equals the one comes first
/// that follows the cursor, so that equals take turns; the scan itself always starts at 0, because
/// a loop with one counter is what the verifier can follow.
#[inline(always)]
fn least(pool: &Pool, start: u32, scheduler: u8, full: Full<'_>) -> Option<u16> {
    let measure = Measure::of(scheduler);
    let mut best = Candidate::NOBODY;
    let mut index = 0;
    while index < POOL_LEN as u32 && index < pool.len {
        let other = Candidate::of(pool, index, start, &measure);
        // load / weight < best.load / best.weight, without a division.
        let (ours, theirs) = (other.load * best.weight, best.load * other.weight);
        let better = ours < theirs || (ours == theirs && other.turn < best.turn);
        if better && !is_in(full, index) {
            best = other;
        }
        index += 1;
    }
    Some(best.real)
}

/// What a scheduler counts, as numbers to reckon with: a branch on the scheduler inside of the loop the
/// verifier would follow through the whole loop once for each scheduler.
struct Measure {
    /// Bits of a weight that count, and what stands for it where none do.
    weight: (u64, u64),
    /// What the new connection adds on a server with no connection, and on another one.
    queue: (u64, u64),
}

impl Measure {
    #[inline(always)]
    fn of(scheduler: u8) -> Self {
        Self {
            weight: if scheduler == SCHED_LC { (0, 1) } else { (u64::MAX, 0) },
            // Under `nq` it counts not where there is none yet, and so these win.
            queue: match scheduler {
                SCHED_SED => (1, 1),
                SCHED_NQ => (0, 1),
                _ => (0, 0),
            },
        }
    }
}

struct Candidate {
    real: u16,
    load: u64,
    weight: u64,
    /// Distance from the cursor.
    turn: u32,
}

impl Candidate {
    /// Infinitely loaded: every other one is better.
    const NOBODY: Self = Self { real: 0, load: 1, weight: 0, turn: 0 };

    #[inline(always)]
    fn of(pool: &Pool, index: u32, start: u32, measure: &Measure) -> Self {
        let (real, weight) = entry(pool, index);
        let conns = maps::conns(real).max(0) as u64;
        Self {
            real,
            load: conns + if conns == 0 { measure.queue.0 } else { measure.queue.1 },
            weight: u64::from(weight) & measure.weight.0 | measure.weight.1,
            turn: turn(index, start),
        }
    }
}
