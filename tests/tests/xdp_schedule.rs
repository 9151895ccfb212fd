//! Schedulers of the shipped kernel object under `BPF_PROG_TEST_RUN`: who gets which connection.

use std::collections::BTreeMap;

use lb_common::{
    abi::{self, be16, be32},
    hash, maglev,
    verdict::Outcome,
};
use lb_tests::packet::build::{ACK, FIN, SYN, Tcp};

use lb_tests::packet::bed::*;

#[test]
fn mh_follows_the_ring_of_lb_common() {
    let members: Vec<_> = (1..=7).map(|id| (id, u32::from(id))).collect();
    let Some(mut bed) = Bed::new(abi::SCHED_MH, DR, &members) else { return };
    let mut ring = maglev::EMPTY;
    let named: Vec<_> = members
        .iter()
        .map(|&(real, weight)| maglev::Member {
            identity: maglev::identity(&server(real).0.octets(), SERVER_PORT),
            real,
            weight,
        })
        .collect();
    maglev::fill(&mut ring, &named).expect("fits");
    for index in 0..200 {
        let (addr, port) = client(index);
        let slot = hash::ring_slot(hash::client(be32(addr.octets()), be16(port)));
        let got = bed.expect(&Tcp::new((addr, port), VIP, SYN), Outcome::Scheduled);
        assert_eq!(server_of(&got), ring.slots[slot]);
    }
}

fn shares(bed: &mut Bed, connections: u16) -> BTreeMap<u16, u16> {
    let mut shares = BTreeMap::new();
    for index in 0..connections {
        *shares.entry(bed.connect(client(index))).or_default() += 1;
    }
    shares
}

#[test]
fn rr_ignores_weights() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 5), (2, 1), (3, 1)]) else { return };
    assert_eq!(shares(&mut bed, 30), BTreeMap::from([(1, 10), (2, 10), (3, 10)]));
}

#[test]
fn wrr_follows_weights_without_bursts() {
    let Some(mut bed) = Bed::new(abi::SCHED_WRR, DR, &[(1, 60), (2, 30), (3, 10)]) else { return };
    let mut row = Vec::new();
    for index in 0..50 {
        row.push(bed.connect(client(index)));
    }
    for cycle in row.chunks(10) {
        let count = |id| cycle.iter().filter(|&&got| got == id).count();
        assert_eq!([count(1), count(2), count(3)], [6, 3, 1], "{cycle:?}");
    }
    assert!(!row.windows(5).any(|five| five.iter().all(|&id| id == 1)), "{row:?}");
}

#[test]
fn least_connections_are_fair() {
    let members: Vec<_> = (1..=4).map(|id| (id, 1)).collect();
    let Some(mut bed) = Bed::new(abi::SCHED_LC, DR, &members) else { return };
    assert_eq!(shares(&mut bed, 40), BTreeMap::from([(1, 10), (2, 10), (3, 10), (4, 10)]));
    // Six of server 2's clients leave; the next six go there.
    let mut closed = 0;
    for index in 0..40 {
        let fin = Tcp::new(client(index), VIP, FIN | ACK);
        let flow = bed.engine.flow(client(index), VIP).expect("read").expect("flow");
        if flow.real == 2 && closed < 6 {
            bed.expect(&fin, Outcome::DrForwarded);
            bed.expect(&fin, Outcome::DrForwarded);
            closed += 1;
        }
    }
    assert_eq!(bed.engine.conns(2).expect("conns"), 4, "a repeated FIN counts once");
    for index in 100..106 {
        assert_eq!(bed.connect(client(index)), 2);
    }
    // Equals take turns even before the first connection is established.
    let mut syns = BTreeMap::<u16, u16>::new();
    for index in 200..220 {
        let got = bed.expect(&Tcp::new(client(index), VIP, SYN), Outcome::Scheduled);
        *syns.entry(server_of(&got)).or_default() += 1;
    }
    assert_eq!(syns, BTreeMap::from([(1, 5), (2, 5), (3, 5), (4, 5)]));
}

#[test]
fn weighted_least_connections_follow_weights() {
    let Some(mut bed) = Bed::new(abi::SCHED_WLC, DR, &[(1, 400), (2, 200), (3, 100)]) else {
        return;
    };
    assert_eq!(shares(&mut bed, 70), BTreeMap::from([(1, 40), (2, 20), (3, 10)]));
    // A full pool of 64 works too.
    let members: Vec<_> = (1..=64).map(|id| (id, 1)).collect();
    let Some(mut bed) = Bed::new(abi::SCHED_WLC, DR, &members) else { return };
    let shares = shares(&mut bed, 128);
    assert_eq!(shares.len(), 64);
    assert!(shares.values().all(|&share| share == 2), "{shares:?}");
}
