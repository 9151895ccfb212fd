//! Fairness over many connections, on the shipped kernel object under `BPF_PROG_TEST_RUN`.

use std::{collections::BTreeMap, net::Ipv4Addr};

use lb_common::{abi, hash};
use lb_tests::packet::{
    bed::*,
    build::{ACK, FIN, SYN, Tcp},
};

const CONNECTIONS: u32 = 100_000;
/// Connections that are open once the pool is warm.
const OPEN: usize = 4000;

fn client(index: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(0xc612_0000 + index / 50_000), 10_000 + (index % 50_000) as u16)
}

/// A pool under load: for each connection that comes one goes, whichever it is.
struct Load {
    bed: Bed,
    open: Vec<(u32, u16)>,
    conns: BTreeMap<u16, u64>,
    next: u32,
}

impl Load {
    fn send(&mut self, index: u32, flags: u8) -> Tcp {
        let frame = Tcp::new(client(index), VIP, flags).frame();
        Tcp::read(&self.bed.engine.send(&frame).expect("test run"))
    }

    /// `count` connections over `members`; every choice is one of the least loaded by weight.
    fn offer(&mut self, members: &[(u16, u32)], count: u32) {
        self.bed.select(members);
        for _ in 0..count {
            let index = self.next;
            self.next += 1;
            let id = server_of(&self.send(index, SYN));
            let weight = |id| members.iter().find(|member| member.0 == id).map(|m| u64::from(m.1));
            let taken = weight(id).expect("a member of the pool");
            for &(other, weight) in members {
                let conns = |id| self.conns.get(id).copied().unwrap_or(0);
                let (ours, theirs) = (conns(&id) * u64::from(weight), conns(&other) * taken);
                assert!(ours <= theirs, "{id} rather than {other}: {:?}", self.conns);
            }
            self.send(index, ACK);
            *self.conns.entry(id).or_default() += 1;
            self.open.push((index, id));
            if self.open.len() > OPEN {
                let dice = hash::mix(u64::from(index) + 1) as usize;
                let (index, id) = self.open.swap_remove(dice % self.open.len());
                self.send(index, FIN | ACK);
                *self.conns.get_mut(&id).expect("counted") -= 1;
            }
        }
        for (id, conns) in &self.conns {
            let counted = self.bed.engine.conns(*id).expect("conns");
            assert_eq!(counted, *conns as i64, "the program's own count of {id}");
        }
    }

    /// Each member's open connections are within 2 % of its part by weight.
    fn assert_fair(&self, members: &[(u16, u32)]) {
        let all: u64 = members.iter().map(|(id, _)| self.conns[id]).sum();
        let weights: u32 = members.iter().map(|member| member.1).sum();
        for &(id, weight) in members {
            let ideal = all as f64 * f64::from(weight) / f64::from(weights);
            let has = self.conns[&id] as f64;
            assert!((has - ideal).abs() <= ideal * 0.02, "{id} has {has} of {ideal:.0}");
        }
    }
}

#[test]
fn wlc_is_within_two_percent_of_ideal_while_servers_come_and_go() {
    let (three, without, four) =
        ([(1, 1), (2, 2), (3, 5)], [(1, 1), (3, 5)], [(1, 1), (2, 2), (3, 5), (4, 3)]);
    let Some(bed) = Bed::sized(abi::SCHED_WLC, DR, &four, 131_072, 8192) else { return };
    let mut load = Load { bed, open: Vec::new(), conns: BTreeMap::new(), next: 0 };
    load.offer(&three, 30_000);
    load.assert_fair(&three);
    // A drained server keeps its connections; its part goes to the others by weight.
    load.offer(&without, 20_000);
    load.assert_fair(&without);
    assert!(load.conns[&2] < 100, "{:?}", load.conns);
    // It is back and catches up; a new one comes. Neither gets more than its part.
    load.offer(&three, 25_000);
    load.assert_fair(&three);
    load.offer(&four, 25_000);
    load.assert_fair(&four);
    assert_eq!(load.next, CONNECTIONS);
}
