//! L1: what the schedulers walk: pool and ring of one virtual server.
//!
//! The kernel chooses; this decides who is in the choice and with which share.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::{Pool, Ring},
    maglev::{self, Member},
    pool::{self, TooMany},
};

use crate::base::table::{RealServer, RealServerState, Scheduler};

/// A real server that may be chosen, or that a hash may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Id in the engine.
    pub real: u16,
    /// Names it on every load balancer alike.
    pub addr: SocketAddr,
    /// Configured weight; 0 leaves it out.
    pub weight: u32,
    /// False: it takes no new connections, but a hash without fallback goes on naming it.
    pub selectable: bool,
}

impl Candidate {
    /// A real server of a table, if there is a choice in which it may be.
    pub fn of(real: u16, addr: SocketAddr, server: &RealServer) -> Option<Self> {
        let selectable = match server.state {
            RealServerState::Up => true,
            RealServerState::Inhibited => false,
            RealServerState::Drain | RealServerState::Closed | RealServerState::Down => {
                return None;
            }
        };
        Some(Self { real, addr, weight: server.weight, selectable })
    }
}

/// Whether a scheduler may name a candidate: one that is not selectable only by a hash without
/// fallback, which then refuses the client.
pub fn is_named(scheduler: Scheduler, candidate: &Candidate) -> bool {
    let strict = scheduler.hashing().is_some_and(|hashing| !hashing.fallback);
    candidate.weight > 0 && (candidate.selectable || strict)
}

/// Whether a scheduler looks at weights. `rr` and `lc` do not, but weight 0 keeps new
/// connections away under every scheduler.
pub fn is_weighted(scheduler: Scheduler) -> bool {
    match scheduler {
        Scheduler::Wrr
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq
        | Scheduler::Sh(_)
        | Scheduler::Mh(_) => true,
        Scheduler::Rr | Scheduler::Lc => false,
    }
}

/// Pool and ring over the candidates. Both depend on their set only, not on the order.
///
/// # Errors
/// [`TooMany`] when more candidates have a weight than a pool holds.
pub fn tables(
    scheduler: Scheduler,
    candidates: &[Candidate],
) -> Result<(Box<Pool>, Box<Ring>), TooMany> {
    let members: Vec<_> = shares(scheduler, candidates)
        .iter()
        .map(|c| Member { identity: identity(c.addr), real: c.real, weight: c.weight })
        .collect();
    let pool = Box::new(pool(scheduler, candidates)?);
    let mut ring = Box::new(maglev::EMPTY);
    maglev::fill(&mut ring, &members)?;
    Ok((pool, ring))
}

/// The pool alone, which is a thousand times cheaper to make than the ring.
///
/// # Errors
/// [`TooMany`], as [`tables`].
pub fn pool(scheduler: Scheduler, candidates: &[Candidate]) -> Result<Pool, TooMany> {
    let shares = shares(scheduler, candidates);
    let entries: Vec<_> =
        shares.iter().filter(|c| c.selectable).map(|c| (c.real, c.weight)).collect();
    pool::fill(&entries)
}

/// Those with a share, in the order of their addresses, with the weight that counts.
fn shares(scheduler: Scheduler, candidates: &[Candidate]) -> Vec<Candidate> {
    let mut shares: Vec<_> =
        candidates.iter().copied().filter(|candidate| is_named(scheduler, candidate)).collect();
    shares.sort_unstable_by_key(|candidate| candidate.addr);
    if !is_weighted(scheduler) {
        for candidate in &mut shares {
            candidate.weight = 1;
        }
    }
    shares
}

fn identity(addr: SocketAddr) -> u64 {
    match addr.ip() {
        IpAddr::V4(ip) => maglev::identity(&ip.octets(), addr.port()),
        IpAddr::V6(ip) => maglev::identity(&ip.octets(), addr.port()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lb_common::abi::{POOL_LEN, RING_LEN};

    use super::*;
    use crate::base::table::Hashing;

    const MH: Scheduler = Scheduler::Mh(Hashing { port: false, fallback: false });

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        weights
            .iter()
            .zip(1u16..)
            .map(|(&weight, real)| Candidate {
                real,
                addr: SocketAddr::new(IpAddr::from([198, 51, 100, real as u8]), 3306),
                weight,
                selectable: true,
            })
            .collect()
    }

    fn shares(ring: &Ring) -> BTreeMap<u16, usize> {
        let mut shares = BTreeMap::new();
        for slot in &ring.slots[..RING_LEN] {
            *shares.entry(*slot).or_default() += 1;
        }
        shares
    }

    #[test]
    fn weights_count_where_the_scheduler_has_them() {
        for (scheduler, weights, want) in [
            (Scheduler::Wrr, [10, 20, 0], vec![(1, 1), (2, 2)]),
            (Scheduler::Wlc, [3, 5, 7], vec![(1, 3), (2, 5), (3, 7)]),
            (Scheduler::Rr, [10, 20, 0], vec![(1, 1), (2, 1)]),
            (Scheduler::Lc, [1, 65_535, 3], vec![(1, 1), (2, 1), (3, 1)]),
            (Scheduler::Sed, [3, 5, 7], vec![(1, 3), (2, 5), (3, 7)]),
            (Scheduler::Nq, [10, 20, 0], vec![(1, 1), (2, 2)]),
        ] {
            let (pool, _) = tables(scheduler, &candidates(&weights)).expect("fits");
            let got: Vec<_> =
                pool.entries[..pool.len as usize].iter().map(|e| (e.real, e.weight)).collect();
            assert_eq!(got, want, "{scheduler:?}");
        }
    }

    #[test]
    fn ring_shares_follow_weights() {
        let (_, ring) = tables(MH, &candidates(&[1, 2, 1])).expect("fits");
        let shares = shares(&ring);
        assert_eq!(shares.len(), 3);
        for (real, part) in [(1, 4), (2, 2), (3, 4)] {
            let want = RING_LEN / part;
            assert!(shares[&real].abs_diff(want) <= 2, "{real}: {} of {want}", shares[&real]);
        }
    }

    #[test]
    fn a_hash_without_fallback_goes_on_naming_what_is_inhibited() {
        let mut all = candidates(&[1, 2, 1]);
        let strict = |port| Scheduler::Sh(Hashing { port, fallback: false });
        let (_, whole) = tables(strict(true), &all).expect("fits");
        all[1].selectable = false;
        for port in [false, true] {
            let (pool, ring) = tables(strict(port), &all).expect("fits");
            assert!(ring == whole, "nobody's clients move");
            assert_eq!(pool.entries[..pool.len as usize].iter().map(|e| e.real).max(), Some(3));
            assert_eq!(pool.len, 2);
        }
        let lenient = Scheduler::Sh(Hashing { port: false, fallback: true });
        for scheduler in [lenient, Scheduler::Wlc] {
            let (pool, ring) = tables(scheduler, &all).expect("fits");
            assert!(pool.len == 2 && !ring.slots.contains(&2), "{scheduler:?}");
        }
    }

    #[test]
    fn order_does_not_matter_and_leaving_moves_little() {
        let mut all = candidates(&[1; 10]);
        let (pool, ring) = tables(MH, &all).expect("fits");
        all.reverse();
        let reversed = tables(MH, &all).expect("fits");
        assert!(reversed == (pool, ring.clone()));
        all.retain(|c| c.real != 4);
        let (_, less) = tables(MH, &all).expect("fits");
        let moved = (0..RING_LEN).filter(|&i| ring.slots[i] != less.slots[i]).count();
        let own = shares(&ring)[&4];
        assert!(moved >= own && moved < own + RING_LEN / 10, "{moved} moved, {own} had to");
        assert!(!less.slots.contains(&4));
    }

    #[test]
    fn nobody_and_too_many() {
        let (pool, ring) = tables(Scheduler::Wlc, &candidates(&[0, 0])).expect("fits");
        assert_eq!((pool.len, ring.slots[0]), (0, 0));
        let mut many = vec![1; POOL_LEN];
        assert!(tables(Scheduler::Wlc, &candidates(&many)).is_ok());
        many.push(1);
        assert_eq!(tables(Scheduler::Wlc, &candidates(&many)), Err(TooMany));
    }
}
