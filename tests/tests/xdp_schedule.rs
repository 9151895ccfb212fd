//! Schedulers of the shipped kernel object under `BPF_PROG_TEST_RUN`: who gets which connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use lb_common::{
    abi::{self, Service},
    hash, maglev,
    verdict::Outcome,
};
use lb_tests::packet::{
    bed::*,
    build::{ACK, FIN, SYN, Tcp, host},
    engine::{client_hash, identity},
};

/// Hashes and their flags: who gets a client is what the ring says of its address, and of its port if
/// that is asked for.
#[test]
fn sh_and_mh_follow_the_ring_of_lb_common() {
    for scheduler in [abi::SCHED_SH, abi::SCHED_MH] {
        for flags in [0, abi::SERVICE_HASH_PORT] {
            follows_the_ring(scheduler, flags);
        }
    }
}

fn follows_the_ring(scheduler: u8, flags: u16) {
    let members: Vec<_> = (1..=7).map(|id| (id, u32::from(id))).collect();
    let Some(mut bed) = Bed::new(scheduler, DR, &members) else { return };
    let with_flags = Service { flags, ..service(scheduler) };
    bed.engine.service(VIP, with_flags, &members).expect("virtual server");
    let mut ring = maglev::EMPTY;
    let named: Vec<_> = members
        .iter()
        .map(|&(real, weight)| maglev::Member {
            identity: identity(host(server(real).0), SERVER_PORT),
            real,
            weight,
        })
        .collect();
    maglev::fill(&mut ring, &named).expect("fits");
    let mut chosen = BTreeSet::new();
    for index in 0..200 {
        let addr = Ipv4Addr::new(192, 0, 2, (index / 20) as u8);
        let port = 20_000 + index;
        let hashed = if flags == 0 { 0 } else { port };
        let slot = hash::ring_slot(client_hash(addr, hashed));
        let got = bed.expect(&Tcp::new((addr, port), VIP, SYN), Outcome::Scheduled);
        assert_eq!(server_of(&got), ring.slots[slot]);
        chosen.insert((addr, server_of(&got)));
        if index == 100 {
            // What another host's hash said to the SYN, ours says to the segments after it.
            let ack = Tcp::new((addr, 100), VIP, ACK);
            let hashed = if flags == 0 { 0 } else { 100 };
            let slot = hash::ring_slot(client_hash(addr, hashed));
            let got = bed.expect(&ack, Outcome::MidstreamHashed);
            assert_eq!(server_of(&got), ring.slots[slot]);
        }
    }
    // Ten hosts: one server each, or many.
    assert_eq!(chosen.len() > 10, flags != 0, "{chosen:?}");
}

#[test]
fn a_client_whose_hash_names_an_inhibited_server_is_refused_and_its_connections_go_on() {
    let members = [(1, 1), (2, 1)];
    let Some(mut bed) = Bed::new(abi::SCHED_MH, DR, &members) else { return };
    let ports = Service { flags: abi::SERVICE_HASH_PORT, ..service(abi::SCHED_MH) };
    bed.engine.service(VIP, ports, &members).expect("virtual server");
    let old: Vec<_> = (0..20).map(|index| bed.connect(client(index))).collect();
    bed.set(2, |real| {
        real.state = abi::STATE_DRAIN;
        real.flags |= abi::FLAG_INHIBITED;
    });
    for (index, id) in (0..).zip(old) {
        let (addr, port) = client(index);
        bed.expect(&Tcp::new((addr, port), VIP, ACK), Outcome::DrForwarded);
        // A connection of another host's time, by the same tuple.
        bed.engine.forget((addr, port), VIP).expect("the connection");
        let got = bed.expect(&Tcp::new((addr, port), VIP, ACK), Outcome::MidstreamHashed);
        assert_eq!(server_of(&got), id);
        bed.engine.forget((addr, port), VIP).expect("the connection");
        let syn = Tcp::new((addr, port), VIP, SYN);
        bed.expect(&syn, if id == 2 { Outcome::NoRealServer } else { Outcome::Scheduled });
    }
}

/// What the kernel keeps of a pool for `lc` and its kin, in plain Rust.
struct Model {
    weights: BTreeMap<u16, u64>,
    conns: BTreeMap<u16, u64>,
}

impl Model {
    fn new(members: &[(u16, u32)]) -> Self {
        let weights: BTreeMap<_, _> = members.iter().map(|&(id, w)| (id, u64::from(w))).collect();
        let conns = weights.keys().map(|&id| (id, 0)).collect();
        Self { weights, conns }
    }

    /// Servers that may be chosen: those with the least of `load(conns)` / weight.
    fn best(&self, load: impl Fn(u64) -> u64) -> BTreeSet<u16> {
        let cost = |id: &u16| load(self.conns[id]) as f64 / self.weights[id] as f64;
        let least = self.weights.keys().map(cost).fold(f64::INFINITY, f64::min);
        self.weights.keys().copied().filter(|id| cost(id) - least < 1e-12).collect()
    }

    /// The same by the words of ipvsadm(8).
    fn choice(&self, scheduler: u8) -> BTreeSet<u16> {
        let idle: BTreeSet<u16> =
            self.conns.iter().filter(|(_, conns)| **conns == 0).map(|(id, _)| *id).collect();
        match scheduler {
            abi::SCHED_LC => {
                let least = self.conns.values().min().copied();
                self.weights.keys().copied().filter(|id| Some(self.conns[id]) == least).collect()
            }
            abi::SCHED_WLC => self.best(|conns| conns),
            abi::SCHED_NQ if !idle.is_empty() => idle,
            _ => self.best(|conns| conns + 1),
        }
    }
}

/// Connections come and go; every single choice is one that the model would make.
#[test]
fn least_connection_schedulers_choose_as_their_model() {
    let members = [(1, 1), (2, 2), (3, 5), (4, 3)];
    for scheduler in [abi::SCHED_LC, abi::SCHED_WLC, abi::SCHED_SED, abi::SCHED_NQ] {
        let Some(mut bed) = Bed::new(scheduler, DR, &members) else { return };
        let mut model = Model::new(&members);
        let mut open: Vec<(u16, u16)> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut dice: u64 = 1;
        for index in 0..600 {
            dice = hash::mix(dice.wrapping_add(0x9e37_79b9_7f4a_7c15));
            // In waves, so that servers run empty again.
            let ends = if index / 100 % 2 == 0 { 25 } else { 85 };
            if dice % 100 < ends && !open.is_empty() {
                let (index, id) = open.swap_remove((dice >> 32) as usize % open.len());
                bed.expect(&Tcp::new(client(index), VIP, FIN | ACK), Outcome::DrForwarded);
                *model.conns.get_mut(&id).expect("member") -= 1;
                continue;
            }
            let choice = model.choice(scheduler);
            let id = bed.connect(client(index));
            assert!(choice.contains(&id), "{scheduler}: {id} of {choice:?}, {:?}", model.conns);
            seen.insert(id);
            *model.conns.get_mut(&id).expect("member") += 1;
            open.push((index, id));
        }
        assert_eq!(seen.len(), members.len(), "{scheduler}: {seen:?}");
    }
}

/// Where they differ: an idle server of little weight waits under `sed` until the heavy one has as many
/// connections by weight as it would have with one; under `nq` it is taken at once.
#[test]
fn sed_and_nq_differ_on_idle_servers() {
    let members = [(1, 1), (2, 5)];
    for (scheduler, want) in [(abi::SCHED_SED, [2, 2, 2, 2]), (abi::SCHED_NQ, [0, 0, 2, 2])] {
        let Some(mut bed) = Bed::new(scheduler, DR, &members) else { return };
        let got: Vec<_> = (0..4).map(|index| bed.connect(client(index))).collect();
        if scheduler == abi::SCHED_SED {
            assert_eq!(got, want);
        } else {
            let first: BTreeSet<_> = got[..2].iter().copied().collect();
            assert_eq!(first, [1, 2].into(), "{got:?}");
            assert_eq!(got[2..], want[2..]);
        }
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
