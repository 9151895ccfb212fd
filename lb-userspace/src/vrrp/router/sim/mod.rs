//! Two or three routers on a network in virtual time: loss, partition, pause, crash, restart,
//! another priority. Checked at every event: at most one host forwards, partitions aside; at the
//! end: the right one does.
//!
//! Bounds of what can hold. A takeover by silence forwards at once, so two that take over within
//! one network delay of each other overlap for that delay ([`OVERLAP`]). A master that dies right
//! after an advert that was lost keeps its lease an interval longer than its peers wait (see the
//! router's text); adverts are therefore lost after crashes here, not before.

mod random;
mod scenarios;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::Ipv4Addr,
};

use super::{tests::config, *};
use crate::{base::table::LeaseState, vrrp::wire::GROUP};

/// Longest network delay.
const DELAY: u64 = 500_000;
/// Two forwarders for longer than this is a failure.
const OVERLAP: u64 = 2 * DELAY;
/// Routers need this long after a partition to hear each other: two adverts.
const HEALING: u64 = 2_500_000_000;
/// Time for everything to settle: a restart, preemption, and some.
const SETTLE: u64 = 20_000_000_000;
const MS: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
enum Op {
    Pause(usize),
    Resume(usize),
    /// Every process of the host dies; the kernel keeps lease and VIPs.
    Crash(usize),
    Restart(usize),
    Stop(usize),
    Cut(usize, usize),
    Heal,
    Priority(usize, u8),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver {
        to: usize,
        bytes: Vec<u8>,
    },
    /// An ARP probe of `from` reaches the kernel of `to`.
    Probe {
        to: usize,
        from: usize,
    },
    /// Its answer.
    Answer {
        to: usize,
        from: usize,
    },
    VipsSet {
        node: usize,
        life: u32,
    },
    VipsCleared {
        node: usize,
        life: u32,
    },
}

struct Node {
    address: Ipv4Addr,
    priority: u8,
    /// `None`: not running.
    router: Option<Router>,
    life: u32,
    paused: bool,
    inbox: Vec<Input>,
    /// What the kernel has.
    lease: LeaseState,
}

struct Sim {
    now: u64,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    random: u64,
    lossy: bool,
    lost_last: BTreeMap<(usize, usize), bool>,
    /// The next packet from the first host to the second is lost.
    lose_next: BTreeSet<(usize, usize)>,
    cut: BTreeSet<(usize, usize)>,
    healed_at: u64,
    both_since: Option<u64>,
    worst_overlap: u64,
    /// When that ended.
    worst_at: u64,
}

impl Sim {
    fn new(priorities: &[u8], seed: u64, lossy: bool) -> Self {
        let nodes = priorities.iter().enumerate().map(|(index, priority)| Node {
            address: Ipv4Addr::new(10, 77, 0, u8::try_from(index + 1).expect("few")),
            priority: *priority,
            router: None,
            life: 0,
            paused: false,
            inbox: vec![],
            lease: LeaseState::Standby,
        });
        let mut sim = Self {
            now: 1_000_000_000,
            nodes: nodes.collect(),
            queue: BinaryHeap::new(),
            sequence: 0,
            random: seed | 1,
            lossy,
            lost_last: BTreeMap::new(),
            lose_next: BTreeSet::new(),
            cut: BTreeSet::new(),
            healed_at: 0,
            both_since: None,
            worst_overlap: 0,
            worst_at: 0,
        };
        (0..priorities.len()).for_each(|node| sim.apply(Op::Restart(node)));
        sim
    }

    fn at(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    /// xorshift64
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + delay, self.sequence, event)));
    }

    fn feed(&mut self, node: usize, input: Input) {
        let now = self.at();
        if let Some(router) = &mut self.nodes[node].router {
            router.handle(input, now);
        }
        self.perform(node);
    }

    fn perform(&mut self, node: usize) {
        let now = self.at();
        let life = self.nodes[node].life;
        while let Some(effect) = self.nodes[node].router.as_mut().and_then(Core::poll_effect) {
            match effect {
                Effect::SendAdvert { priority } => {
                    self.broadcast(node, priority);
                    if let Some(router) = &mut self.nodes[node].router {
                        router.handle(Input::AdvertSent { at: now }, now);
                    }
                }
                Effect::Lease(state) => self.nodes[node].lease = state,
                Effect::Probe => self.probe(node),
                Effect::AddVips => self.later(MS, Event::VipsSet { node, life }),
                Effect::RemoveVips => self.later(MS, Event::VipsCleared { node, life }),
                _ => {}
            }
        }
    }

    fn broadcast(&mut self, from: usize, priority: Priority) {
        let source = self.nodes[from].address;
        let Some(router) = &self.nodes[from].router else { return };
        let bytes =
            router.advert(priority).datagram_v4(source, GROUP, ChecksumForm::PseudoHeader, 1);
        for to in 0..self.nodes.len() {
            if let Some(delay) = self.crosses(from, to) {
                self.later(delay, Event::Deliver { to, bytes: bytes.clone() });
            }
        }
    }

    fn probe(&mut self, from: usize) {
        for to in 0..self.nodes.len() {
            if let Some(delay) = self.crosses(from, to) {
                self.later(delay, Event::Probe { to, from });
            }
        }
    }

    /// How long a packet takes from one host to another; `None`: it is lost.
    fn crosses(&mut self, from: usize, to: usize) -> Option<u64> {
        let link = (from, to);
        if to == from || self.cut.contains(&link) || self.cut.contains(&(to, from)) {
            return None;
        }
        if self.lose_next.remove(&link) {
            return None;
        }
        let lose = self.lossy && self.random().is_multiple_of(4);
        // Never two in a row: three would be a partition.
        if lose && self.lost_last.insert(link, true) != Some(true) {
            return None;
        }
        self.lost_last.insert(link, false);
        Some(20_000 + self.random() % (DELAY - 20_000))
    }

    fn apply(&mut self, op: Op) {
        let count = self.nodes.len();
        match op {
            Op::Pause(node) => self.nodes[node % count].paused = true,
            Op::Resume(node) => {
                let node = node % count;
                self.nodes[node].paused = false;
                // What the kernel has queued is read before any timer.
                for input in std::mem::take(&mut self.nodes[node].inbox) {
                    self.feed(node, input);
                }
            }
            Op::Crash(node) => {
                let node = &mut self.nodes[node % count];
                (node.router, node.paused) = (None, false);
                node.inbox.clear();
            }
            Op::Stop(node) => self.arrive(node % count, Input::Stop),
            Op::Restart(node) => self.restart(node % count),
            Op::Cut(a, b) if a % count != b % count => {
                self.cut.insert((a % count, b % count));
            }
            Op::Cut(..) => {}
            Op::Heal => {
                self.cut.clear();
                self.healed_at = self.now;
            }
            Op::Priority(node, priority) => {
                let node = node % count;
                self.nodes[node].priority = priority;
                let config = Box::new(config(priority));
                self.arrive(node, Input::Configure(config));
            }
        }
        self.check();
    }

    fn restart(&mut self, node: usize) {
        let now = self.at();
        let it = &mut self.nodes[node];
        let stopped = it.router.as_ref().is_some_and(|it| it.state() == VrrpState::Init);
        if it.router.is_some() && !stopped {
            return;
        }
        it.life += 1;
        it.router = Some(Router::new(config(it.priority), now));
        let resume = match it.lease {
            LeaseState::Until(end) if end > now => Some(end),
            _ => None,
        };
        let address = it.address;
        self.feed(node, Input::Source(Some(address.into())));
        self.feed(node, Input::Interface { name: "eth0".into(), up: true });
        self.feed(node, Input::Converged { resume });
    }

    fn forwards(&self, node: usize) -> bool {
        matches!(self.nodes[node].lease, LeaseState::Until(end) if self.at() < end)
    }

    /// When a timer of its router fires next.
    fn timer(&self, node: usize) -> Option<u64> {
        let router = self.nodes[node].router.as_ref()?;
        router.poll_timeout().map(Instant::as_nanos)
    }

    fn check(&mut self) {
        let active = (0..self.nodes.len()).filter(|node| self.forwards(*node)).count();
        let exempt = !self.cut.is_empty() || self.now < self.healed_at + HEALING;
        if active < 2 || exempt {
            self.both_since = None;
            return;
        }
        let since = *self.both_since.get_or_insert(self.now);
        if self.now - since > self.worst_overlap {
            (self.worst_overlap, self.worst_at) = (self.now - since, self.now);
        }
    }

    fn run(&mut self, duration: u64) {
        let end = self.now + duration;
        loop {
            let running = |it: &&Node| !it.paused;
            let timer = self
                .nodes
                .iter()
                .filter(running)
                .filter_map(|it| it.router.as_ref().and_then(Core::poll_timeout))
                .min()
                .map(Instant::as_nanos);
            let event = self.queue.peek().map(|Reverse((at, ..))| *at);
            let Some(next) = timer.into_iter().chain(event).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.check();
            if event.is_some_and(|at| at <= self.now) {
                if let Some(Reverse((_, _, event))) = self.queue.pop() {
                    self.happen(event);
                }
            } else {
                let now = self.at();
                for node in 0..self.nodes.len() {
                    if !self.nodes[node].paused {
                        if let Some(router) = &mut self.nodes[node].router {
                            router.handle_timeout(now);
                        }
                        self.perform(node);
                    }
                }
            }
            self.check();
        }
        self.now = end;
        self.check();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { to, bytes } => self.arrive(to, Input::Datagram(bytes)),
            // The kernel answers, whatever the processes do, unless the data plane drops it.
            Event::Probe { to, from } if self.forwards(to) => {
                if let Some(delay) = self.crosses(to, from) {
                    self.later(delay, Event::Answer { to: from, from: to });
                }
            }
            Event::Probe { .. } => {}
            Event::Answer { to, from } => {
                let mac = Mac([2, 0, 0, 0, 0, u8::try_from(from).expect("few")]);
                let address = Ipv4Addr::new(10, 77, 0, 100).into();
                self.arrive(to, Input::Claim { address, mac });
            }
            Event::VipsSet { node, life } if self.nodes[node].life == life => {
                self.feed(node, Input::VipsSet { added: 1 });
            }
            Event::VipsCleared { node, life } if self.nodes[node].life == life => {
                self.feed(node, Input::VipsCleared);
            }
            Event::VipsSet { .. } | Event::VipsCleared { .. } => {}
        }
    }

    /// What comes to a stopped process waits in the kernel.
    fn arrive(&mut self, node: usize, input: Input) {
        if self.nodes[node].paused {
            self.nodes[node].inbox.push(input);
        } else {
            self.feed(node, input);
        }
    }

    /// Ends every disturbance, lets time pass, and fails unless one host of the best priority
    /// forwards. Of several the one that is master stays.
    fn settle(&mut self, what: &dyn std::fmt::Debug) {
        self.apply(Op::Heal);
        for node in 0..self.nodes.len() {
            self.apply(Op::Resume(node));
            self.apply(Op::Restart(node));
        }
        self.run(SETTLE);
        let active: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.forwards(*node)).collect();
        let priorities: Vec<u8> = self.nodes.iter().map(|node| node.priority).collect();
        let best = priorities.iter().max();
        let right = matches!(active[..], [one] if priorities.get(one) == best);
        assert!(right, "{active:?} forward in the end, priorities {priorities:?}: {what:?}");
    }
}
