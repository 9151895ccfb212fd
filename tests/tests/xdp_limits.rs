//! `uthreshold` and `lthreshold` on the shipped kernel object under `BPF_PROG_TEST_RUN`.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    abi::{self, Service},
    verdict::Outcome,
};
use lb_tests::packet::{
    bed::*,
    build::{ACK, FIN, SYN, Tcp},
};

const SCHEDULERS: [u8; 6] =
    [abi::SCHED_RR, abi::SCHED_WRR, abi::SCHED_LC, abi::SCHED_WLC, abi::SCHED_SED, abi::SCHED_NQ];

struct Limited {
    bed: Bed,
    open: BTreeMap<u16, u16>,
    next: u16,
}

impl Limited {
    /// A pool in which server 1 has limits.
    fn new(
        scheduler: u8,
        flags: u16,
        members: &[(u16, u32)],
        upper: u32,
        lower: u32,
    ) -> Option<Self> {
        let mut bed = Bed::new(scheduler, DR, members)?;
        let flags = flags | abi::SERVICE_LIMITED;
        let limited = Service { flags, ..service(scheduler) };
        bed.engine.service(VIP, limited, members).expect("virtual server");
        bed.set(1, |real| (real.upper, real.lower) = (upper, lower));
        Some(Self { bed, open: BTreeMap::new(), next: 0 })
    }

    /// New connections: how many each server got.
    fn connect(&mut self, count: u16) -> BTreeMap<u16, u16> {
        let mut got = BTreeMap::new();
        for _ in 0..count {
            let id = self.bed.connect(client(self.next));
            *got.entry(id).or_default() += 1;
            self.open.insert(self.next, id);
            self.next += 1;
        }
        got
    }

    /// Ends connections of server 1.
    fn end(&mut self, count: usize) {
        let its: Vec<u16> =
            self.open.iter().filter(|(_, id)| **id == 1).map(|(at, _)| *at).collect();
        for index in its.into_iter().take(count) {
            self.bed.expect(&Tcp::new(client(index), VIP, FIN | ACK), Outcome::DrForwarded);
            self.open.remove(&index);
        }
    }
}

#[test]
fn a_server_at_its_limit_is_passed_over_until_it_is_relieved() {
    let members = [(1, 1), (2, 1), (3, 1)];
    for scheduler in SCHEDULERS {
        let Some(mut pool) = Limited::new(scheduler, 0, &members, 4, 2) else { return };
        let got = pool.connect(30);
        assert_eq!(got.get(&1), Some(&4), "{scheduler}: {got:?}");
        assert!(got[&2].abs_diff(got[&3]) <= 4, "{scheduler}: {got:?}");
        // Two are not below two, although by then it has the fewest.
        pool.end(2);
        assert_eq!(pool.connect(6).get(&1), None, "{scheduler}");
        pool.end(1);
        assert_eq!(pool.connect(9).get(&1), Some(&3), "{scheduler}");
        assert_eq!(pool.connect(6).get(&1), None, "{scheduler}");
    }
}

#[test]
fn without_lthreshold_three_quarters_count() {
    let Some(mut pool) = Limited::new(abi::SCHED_LC, 0, &[(1, 1), (2, 1)], 8, 0) else { return };
    assert_eq!(pool.connect(30)[&1], 8);
    pool.end(2);
    assert_eq!(pool.connect(4).get(&1), None);
    pool.end(1);
    assert_eq!(pool.connect(4).get(&1), Some(&3));
}

/// A dip below the lower limit counts although nobody asked for a server meanwhile.
#[test]
fn connections_that_are_entered_later_miss_no_turn() {
    let Some(mut pool) = Limited::new(abi::SCHED_RR, 0, &[(1, 1)], 4, 2) else { return };
    assert_eq!(pool.connect(3)[&1], 3);
    let syn = |pool: &mut Limited, index| {
        pool.bed.expect(&Tcp::new(client(index), VIP, SYN), Outcome::Scheduled);
    };
    syn(&mut pool, 100);
    syn(&mut pool, 101);
    let ack = |pool: &mut Limited, index| {
        pool.bed.expect(&Tcp::new(client(index), VIP, ACK), Outcome::Promoted);
    };
    ack(&mut pool, 100);
    // Four: overloaded. Three end, one is left; then the other opens: two, and relieved.
    pool.end(3);
    ack(&mut pool, 101);
    syn(&mut pool, 102);
    // The other way: four are reached and one ends before anybody asks.
    let Some(mut pool) = Limited::new(abi::SCHED_RR, 0, &[(1, 1)], 4, 2) else { return };
    assert_eq!(pool.connect(3)[&1], 3);
    syn(&mut pool, 100);
    ack(&mut pool, 100);
    pool.end(1);
    pool.bed.expect(&Tcp::new(client(101), VIP, SYN), Outcome::NoRealServer);
}

#[test]
fn others_share_by_weight_while_one_is_at_its_limit() {
    let members = [(1, 4), (2, 1), (3, 3)];
    let Some(mut pool) = Limited::new(abi::SCHED_WRR, 0, &members, 10, 0) else { return };
    while pool.open.values().filter(|id| **id == 1).count() < 10 {
        pool.connect(1);
    }
    let got = pool.connect(200);
    assert_eq!(got.get(&1), None, "{got:?}");
    assert!(got[&2].abs_diff(50) <= 3 && got[&3].abs_diff(150) <= 3, "{got:?}");
}

#[test]
fn a_hash_refuses_or_falls_back() {
    let members = [(1, 1), (2, 1), (3, 1)];
    for flags in [0, abi::SERVICE_FALLBACK] {
        let ports = flags | abi::SERVICE_HASH_PORT;
        let Some(mut pool) = Limited::new(abi::SCHED_MH, ports, &members, 3, 0) else { return };
        let (mut its, mut others) = (0, BTreeSet::new());
        for index in 0..100 {
            let ran = pool.bed.run(&Tcp::new(client(index), VIP, SYN).frame());
            if ran.outcome == Outcome::NoRealServer {
                assert!(flags == 0 && its == 3, "{index}");
                others.insert(0);
                continue;
            }
            let id = server_of(&Tcp::read(&ran.frame));
            pool.bed.expect(&Tcp::new(client(index), VIP, ACK), Outcome::Promoted);
            its += u16::from(id == 1);
            others.insert(id);
            // The same client again, by another connection with the same hash, gets the same.
            let again = pool.bed.expect(&Tcp::new(client(index), VIP, SYN), Outcome::DrForwarded);
            assert_eq!(server_of(&again), id);
        }
        assert_eq!(its, 3);
        assert_eq!(others.contains(&0), flags == 0, "{others:?}");
        assert!(others.is_superset(&[1, 2, 3].into()), "{others:?}");
    }
}

#[test]
fn a_pool_at_its_limit_refuses() {
    for scheduler in SCHEDULERS {
        let Some(mut pool) = Limited::new(scheduler, 0, &[(1, 1), (2, 1)], 2, 0) else { return };
        pool.bed.set(2, |real| real.upper = 2);
        assert_eq!(pool.connect(4), [(1, 2), (2, 2)].into());
        pool.bed.expect(&Tcp::new(client(50), VIP, SYN), Outcome::NoRealServer);
        let stats = pool.bed.engine.service_stats(SERVICE).expect("stats");
        assert_eq!((stats.scheduled, stats.unavailable, stats.resets), (4, 1, 1));
        // What is established goes on.
        pool.bed.expect(&Tcp::new(client(0), VIP, ACK), Outcome::DrForwarded);
    }
}
