//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, §3.4) with weights.

use crate::{
    abi::{POOL_LEN, RING_CAPACITY, RING_LEN, Ring},
    hash::mix,
    pool::TooMany,
};

/// One member of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What names the server on every host of the cluster alike: see [`identity`]. Unique.
    pub identity: u64,
    /// Real id on this host; what the ring's slots say.
    pub real: u16,
    /// Share; 0 leaves the member out.
    pub weight: u32,
}

/// Identity of a real server by address (octets, IPv4 or IPv6) and port.
pub fn identity(address: &[u8], port: u16) -> u64 {
    address.iter().fold(mix(u64::from(port) + 1), |hash, &octet| mix(hash ^ u64::from(octet)))
}

/// A ring in which no server is selectable.
pub const EMPTY: Ring = Ring { slots: [0; RING_CAPACITY] };

/// Fills `ring`. The result depends on the set of members only, not on their order, so two load
/// balancers with the same servers agree; a member that leaves moves few slots but its own.
///
/// # Errors
/// [`TooMany`] when more than [`POOL_LEN`] members have a weight; the ring is then empty.
pub fn fill(ring: &mut Ring, members: &[Member]) -> Result<(), TooMany> {
    *ring = EMPTY;
    let mut sorted = [Member { identity: 0, real: 0, weight: 0 }; POOL_LEN];
    let mut len = 0;
    for &member in members.iter().filter(|member| member.weight > 0) {
        *sorted.get_mut(len).ok_or(TooMany)? = member;
        len += 1;
    }
    let members = &mut sorted[..len];
    members.sort_unstable_by_key(|member| (member.identity, member.real));
    let heaviest = members.iter().map(|member| u64::from(member.weight)).max().unwrap_or(0);
    if heaviest == 0 {
        return Ok(());
    }
    let mut walks = [Walk::default(); POOL_LEN];
    for (walk, member) in walks.iter_mut().zip(members.iter()) {
        *walk = Walk::new(member.identity);
        // All take a slot in the first round, so that the least weight beside the greatest has one.
        walk.credit = heaviest - u64::from(member.weight);
    }
    let mut filled = 0;
    // Each round the heaviest member takes one slot and the others their part of one.
    loop {
        for (walk, member) in walks.iter_mut().zip(members.iter()) {
            walk.credit += u64::from(member.weight);
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            // Some slot is free, and a walk visits all slots: this ends.
            loop {
                let slot = &mut ring.slots[walk.next()];
                if *slot == 0 {
                    *slot = member.real;
                    break;
                }
            }
            filled += 1;
            if filled == RING_LEN {
                return Ok(());
            }
        }
    }
}

/// A member's order of preference: all slots, from `at` in steps of `skip`.
#[derive(Clone, Copy, Default)]
struct Walk {
    at: usize,
    skip: usize,
    credit: u64,
}

impl Walk {
    fn new(identity: u64) -> Self {
        Self {
            at: (mix(identity) % RING_LEN as u64) as usize,
            skip: (mix(identity ^ 0x5bd1_e995_9d1b_54a3) % (RING_LEN as u64 - 1)) as usize + 1,
            credit: 0,
        }
    }

    fn next(&mut self) -> usize {
        let slot = self.at;
        self.at = (self.at + self.skip) % RING_LEN;
        slot
    }
}
