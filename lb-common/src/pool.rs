//! The list of selectable real servers that the schedulers walk.

use crate::abi::{POOL_LEN, Pool, PoolEntry};

/// Highest weight of a real server, as in keepalived. Times the connections of the largest table it
/// stays within the 64 bits in which `wlc` compares.
pub const WEIGHT_LIMIT: u32 = i32::MAX as u32;
/// What the weights of a pool add up to at most, but for rounding: `wrr` multiplies two numbers
/// below this in 64 bits.
pub const TOTAL_LIMIT: u32 = 1 << 31;

/// A pool without real servers.
pub const EMPTY: Pool = Pool {
    len: 0,
    total_weight: 0,
    stride: 0,
    pad: 0,
    entries: [PoolEntry { real: 0, pad: 0, weight: 0 }; POOL_LEN],
};

/// More than [`POOL_LEN`] members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl core::fmt::Display for TooMany {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "more than {POOL_LEN} selectable real servers in one virtual server")
    }
}

impl core::error::Error for TooMany {}

/// Makes a pool of (real id, weight). Members of weight 0 are left out; weights are capped at
/// [`WEIGHT_LIMIT`], divided by their greatest common divisor, so that `wrr` goes round soon, and
/// scaled to [`TOTAL_LIMIT`] if they exceed it together: none becomes 0 by that.
///
/// # Errors
/// [`TooMany`] when more than [`POOL_LEN`] members have a weight.
pub fn fill(members: &[(u16, u32)]) -> Result<Pool, TooMany> {
    let mut pool = EMPTY;
    let mut divisor = 0;
    for &(real, weight) in members.iter().filter(|(_, weight)| *weight > 0) {
        let slot = pool.entries.get_mut(pool.len as usize).ok_or(TooMany)?;
        let weight = weight.min(WEIGHT_LIMIT);
        *slot = PoolEntry { real, pad: 0, weight };
        divisor = gcd(divisor, weight);
        pool.len += 1;
    }
    let entries = &mut pool.entries[..pool.len as usize];
    for entry in entries.iter_mut() {
        entry.weight /= divisor;
    }
    let limit = u64::from(TOTAL_LIMIT);
    let total: u64 = entries.iter().map(|entry| u64::from(entry.weight)).sum();
    for entry in entries {
        if total > limit {
            entry.weight = ((u64::from(entry.weight) * limit / total) as u32).max(1);
        }
        pool.total_weight += entry.weight;
    }
    pool.stride = stride(pool.total_weight);
    Ok(pool)
}

/// Which member `wrr` takes at step `cursor`: every member comes `weight` times in
/// `total_weight` steps, and steps of the same member lie apart. `None` for an empty pool.
#[inline(always)]
pub fn weighted_position(cursor: u64, total_weight: u32, stride: u32) -> Option<u32> {
    if total_weight == 0 {
        return None;
    }
    let step = cursor % u64::from(total_weight);
    Some((step * u64::from(stride) % u64::from(total_weight)) as u32)
}

/// A step near the golden section of `total` and coprime with it, so that the walk visits every
/// weight unit once before it repeats, and never twice close by.
fn stride(total: u32) -> u32 {
    if total <= 2 {
        return 1;
    }
    // Of 32 bits: by a shorter fraction the steps of a large total would fall on few places.
    let golden = ((u64::from(total) * u64::from(GOLDEN)) >> 32) as u32;
    (0..total)
        .flat_map(|away| [golden.saturating_sub(away), golden + away])
        .find(|&step| step > 0 && step < total && gcd(step, total) == 1)
        .unwrap_or(1)
}

/// The golden section of 2³².
pub const GOLDEN: u32 = 2_654_435_769;

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
