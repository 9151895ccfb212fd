//! Two to five hosts in virtual time, each with one virtual router or with two in a sync group,
//! each with a clock of its own rate: loss, duplicates, reorder, partition in one or both
//! directions, pause, crash, restart, link down, another priority or preempt_delay. Checked at
//! every event: at most one host forwards, partitions aside; members move together; nobody takes
//! over too early, too late or from a better one ([`oracle`]). At the end: the right one forwards.
//!
//! The simulator is itself tested: with each of [`bugs::Bug`] planted it must fail.
//!
//! Bounds of what can hold. A takeover by silence forwards at once, so two that take over within
//! one network delay of each other overlap for that delay ([`OVERLAP`]). A master that dies right
//! after an advert that was lost keeps its lease an interval longer than its peers wait (see the
//! router's text); adverts are therefore lost after crashes here, not before.

mod bugs;
mod oracle;
mod random;
#[cfg(test)]
mod scenarios;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::Ipv4Addr,
    time::Duration,
};

use lb_userspace::{
    base::{
        core::Core,
        net::{Mac, Priority, Vrid},
        status::VrrpState,
        table::LeaseState,
        time::Instant,
    },
    vrrp::{
        auth::Auth,
        garp::Garp,
        group::{self, Group},
        router::{Config, Effect, Input, Router, Standing},
        timing::{AdvertInterval, DOWN_ADVERTS},
        track::Tracked,
        wire::{ChecksumForm, GROUP, Options, Version},
    },
};

use self::{bugs::Bug, oracle::Watch};

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
    /// Neither hears the other.
    Cut(usize, usize),
    /// The second does not hear the first.
    Deaf(usize, usize),
    Heal,
    /// Its first network's link goes down or comes up.
    Link(usize, bool),
    Priority(usize, u8),
    /// Milliseconds.
    PreemptDelay(usize, u16),
}

/// What a packet is: loss spares the second of two adverts in a row, whatever is between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Advert,
    Arp,
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

/// It advertises itself as master, or is about to.
fn is_master(router: &Router) -> bool {
    use Standing::{Announcing, Master, Ready};
    matches!(router.standing(), Announcing | Ready | Master)
}

/// It waits for a master to fall silent, or for its sync group.
fn is_backup(router: &Router) -> bool {
    matches!(router.standing(), Standing::Listening | Standing::Backup | Standing::Wants)
}

struct Node {
    address: Ipv4Addr,
    priority: u8,
    preempt_delay: Duration,
    up: bool,
    /// Its clock gains so many nanoseconds a millisecond.
    gain: i64,
    watch: Watch,
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
    /// Host after host; of each host its members in order.
    nodes: Vec<Node>,
    /// Virtual routers of a host.
    width: usize,
    /// One a running host, when there are several.
    groups: Vec<Option<Group>>,
    bug: Option<Bug>,
    failure: Option<String>,
    trace: Vec<String>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    random: u64,
    lossy: bool,
    lost_last: BTreeMap<(usize, usize, Kind), bool>,
    /// The next packet from the first host to the second is lost.
    lose_next: BTreeSet<(usize, usize)>,
    cut: BTreeSet<(usize, usize)>,
    healed_at: u64,
    both_since: BTreeMap<usize, u64>,
    worst_overlap: u64,
    /// When that ended.
    worst_at: u64,
}

impl Sim {
    fn new(priorities: &[u8], seed: u64, lossy: bool) -> Self {
        Self::with(priorities, 1, seed, lossy, None)
    }

    fn with(priorities: &[u8], width: usize, seed: u64, lossy: bool, bug: Option<Bug>) -> Self {
        let members = (0..priorities.len() * width).map(|index| (index, index / width));
        let nodes = members.map(|(index, host)| Node {
            address: Ipv4Addr::new(10, 77, 0, u8::try_from(index + 1).expect("few")),
            priority: priorities.get(host).copied().expect("a host's"),
            preempt_delay: Duration::ZERO,
            up: true,
            // Up to 200 ppm, which is a bad crystal.
            gain: i64::try_from((seed / 7 + host as u64 * 131) % 401).expect("small") - 200,
            watch: Watch::default(),
            router: None,
            life: 0,
            paused: false,
            inbox: vec![],
            lease: LeaseState::Standby,
        });
        let mut sim = Self {
            now: 1_000_000_000,
            nodes: nodes.collect(),
            width,
            groups: priorities.iter().map(|_| None).collect(),
            bug,
            failure: None,
            trace: vec![],
            queue: BinaryHeap::new(),
            sequence: 0,
            random: seed | 1,
            lossy,
            lost_last: BTreeMap::new(),
            lose_next: BTreeSet::new(),
            cut: BTreeSet::new(),
            healed_at: 0,
            both_since: BTreeMap::new(),
            worst_overlap: 0,
            worst_at: 0,
        };
        (0..priorities.len()).for_each(|node| sim.apply(Op::Restart(node)));
        sim
    }

    /// What the node's clock says.
    fn at(&self, node: usize) -> Instant {
        let gain = self.nodes[node].gain * i64::try_from(self.now / 1_000_000).expect("small");
        Instant::from_nanos(self.now.saturating_add_signed(gain))
    }

    /// When the node's clock says this, or up to half a microsecond later.
    fn global(&self, node: usize, at: Instant) -> u64 {
        let rate = 1_000_000 + i128::from(self.nodes[node].gain);
        u64::try_from(i128::from(at.as_nanos()) * 1_000_000 / rate).expect("small") + 300
    }

    fn hosts(&self) -> usize {
        self.nodes.len() / self.width
    }

    fn members(&self, host: usize) -> std::ops::Range<usize> {
        let host = host % self.hosts();
        host * self.width..(host + 1) * self.width
    }

    fn fail(&mut self, why: impl FnOnce() -> String) {
        if self.failure.is_none() {
            let now = self.now;
            self.failure =
                Some(format!("{}.{:06} s: {}", now / 1_000_000_000, now / 1000 % 1_000_000, why()));
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.trace.capacity() > 0 {
            let (s, us) = (self.now / 1_000_000_000, self.now / 1000 % 1_000_000);
            self.trace.push(format!("{s:4}.{us:06} {}", what()));
        }
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
        self.note(|| format!("{node} gets {}", oracle::brief(&input)));
        let watched = self.before(node, &input);
        let Some(input) = self.bugged(node, input) else { return };
        let now = self.at(node);
        if let Some(router) = &mut self.nodes[node].router {
            router.handle(input, now);
        }
        self.perform(node);
        self.after(node, watched);
        self.settle_group(node / self.width);
    }

    /// Tells the host's group where its members stand, and them what follows.
    fn settle_group(&mut self, host: usize) {
        if self.width == 1 {
            return;
        }
        for _ in 0..16 {
            let now = self.at(host * self.width);
            for node in self.members(host) {
                let Some(router) = &self.nodes[node].router else { continue };
                let (member, standing) = (node.to_string(), router.standing());
                if let Some(group) = &mut self.groups[host] {
                    group.handle(group::Input::Standing { member, standing }, now);
                }
            }
            let mut told = false;
            while let Some(effect) = self.groups[host].as_mut().and_then(Core::poll_effect) {
                let group::Effect::Order { member, order } = effect else { continue };
                let node: usize = member.parse().expect("a number");
                if self.order_is_lost(node, &order) {
                    continue;
                }
                told = true;
                self.note(|| format!("{node} is told {order:?}"));
                let now = self.at(node);
                if let Some(router) = &mut self.nodes[node].router {
                    router.handle(Input::Group(order), now);
                }
                self.perform(node);
            }
            if !told {
                break;
            }
        }
        self.check_group(host);
    }

    fn perform(&mut self, node: usize) {
        let now = self.at(node);
        let life = self.nodes[node].life;
        while let Some(effect) = self.nodes[node].router.as_mut().and_then(Core::poll_effect) {
            match effect {
                Effect::SendAdvert { priority } => {
                    self.note(|| format!("{node} sends priority {priority}"));
                    self.broadcast(node, priority);
                    if let Some(router) = &mut self.nodes[node].router {
                        router.handle(Input::AdvertSent { at: now }, now);
                    }
                }
                Effect::Lease(state) => {
                    self.note(|| format!("{node} lease {state:?}"));
                    self.nodes[node].lease = state;
                }
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
            if let Some(delay) = self.crosses(from, to, Kind::Advert) {
                self.later(delay, Event::Deliver { to, bytes: bytes.clone() });
                if self.random().is_multiple_of(16) {
                    let delay = delay + self.random() % DELAY;
                    self.later(delay, Event::Deliver { to, bytes: bytes.clone() });
                }
            }
        }
    }

    fn probe(&mut self, from: usize) {
        for to in 0..self.nodes.len() {
            if let Some(delay) = self.crosses(from, to, Kind::Arp) {
                self.later(delay, Event::Probe { to, from });
            }
        }
    }

    /// How long a packet takes from one host to another; `None`: it is lost.
    fn crosses(&mut self, from: usize, to: usize, kind: Kind) -> Option<u64> {
        let link = (from, to);
        let same_network = from % self.width == to % self.width;
        let hosts = (from / self.width, to / self.width);
        let up = self.nodes[from].up && self.nodes[to].up;
        if to == from || !same_network || !up || self.cut.contains(&hosts) {
            return None;
        }
        if self.lose_next.remove(&link) {
            return None;
        }
        let lose = self.lossy && self.random().is_multiple_of(4);
        // Never two in a row: three would be a partition.
        if lose && self.lost_last.insert((from, to, kind), true) != Some(true) {
            self.note(|| format!("{kind:?} of {from} to {to} is lost"));
            return None;
        }
        self.lost_last.insert((from, to, kind), false);
        Some(20_000 + self.random() % (DELAY - 20_000))
    }

    fn apply(&mut self, op: Op) {
        self.note(|| format!("--- {op:?}"));
        let count = self.hosts();
        match op {
            Op::Pause(host) => {
                for node in self.members(host) {
                    self.nodes[node].paused = true;
                    self.nodes[node].watch.disturbed();
                }
            }
            Op::Resume(host) => {
                for node in self.members(host) {
                    self.nodes[node].paused = false;
                }
                // What the kernel has queued is read before any timer.
                for node in self.members(host) {
                    for input in std::mem::take(&mut self.nodes[node].inbox) {
                        self.feed(node, input);
                    }
                }
            }
            Op::Crash(host) => {
                for node in self.members(host) {
                    let node = &mut self.nodes[node];
                    (node.router, node.paused) = (None, false);
                    node.inbox.clear();
                }
                self.groups[host % count] = None;
            }
            Op::Stop(host) => {
                for node in self.members(host) {
                    self.arrive(node, Input::Stop);
                }
            }
            Op::Restart(host) => self.restart(host % count),
            Op::Cut(a, b) if a % count != b % count => {
                self.cut.extend([(a % count, b % count), (b % count, a % count)]);
            }
            Op::Deaf(a, b) => {
                self.cut.insert((a % count, b % count));
            }
            Op::Cut(..) => {}
            Op::Heal => {
                self.cut.clear();
                self.healed_at = self.now;
            }
            Op::Link(host, up) => {
                let node = self.members(host).start;
                if self.nodes[node].up != up {
                    // As with a partition: a host without its link has not heard the others.
                    self.healed_at = self.now;
                    self.nodes[node].up = up;
                    self.arrive(node, Input::Interface { name: "eth0".into(), up });
                }
            }
            Op::Priority(host, priority) => {
                for node in self.members(host) {
                    self.nodes[node].priority = priority;
                    self.configure(node);
                }
            }
            Op::PreemptDelay(host, millis) => {
                for node in self.members(host) {
                    self.nodes[node].preempt_delay = Duration::from_millis(millis.into());
                    self.configure(node);
                }
            }
        }
        self.check();
    }

    fn config(&self, node: usize) -> Config {
        let it = &self.nodes[node];
        Config {
            version: Version::V2,
            vrid: Vrid::new(51).expect("nonzero"),
            priority: Priority(it.priority),
            interval: AdvertInterval::DEFAULT,
            auth: Auth::None,
            preempt: true,
            preempt_delay: it.preempt_delay,
            down_adverts: DOWN_ADVERTS,
            lower_prio_no_advert: false,
            higher_prio_send_advert: false,
            owner_ignore_adverts: false,
            timer_expired_backup: None,
            grouped: self.width > 1,
            addresses: vec![Ipv4Addr::new(10, 77, 0, 100).into()],
            unicast_peers: vec![],
            wire: Options::default(),
            garp: Garp::default(),
            scripts: vec![],
            interfaces: vec![Tracked { name: "eth0".into(), weight: 0, reverse: false }],
        }
    }

    fn configure(&mut self, node: usize) {
        let config = self.bugged_config(self.config(node));
        self.nodes[node].watch.disturbed();
        self.arrive(node, Input::Configure(Box::new(config)));
    }

    fn restart(&mut self, host: usize) {
        let stopped = |it: &Node| it.router.as_ref().is_none_or(|it| it.state() == VrrpState::Init);
        if !self.members(host).all(|node| stopped(&self.nodes[node])) {
            return;
        }
        let members: Vec<String> = self.members(host).map(|node| node.to_string()).collect();
        let group = group::Config { name: "G".into(), members, ..group::Config::default() };
        self.groups[host] = (self.width > 1).then(|| Group::new(group));
        for node in self.members(host) {
            let now = self.at(node);
            let config = self.bugged_config(self.config(node));
            let it = &mut self.nodes[node];
            it.life += 1;
            it.router = Some(Router::new(config, now));
            it.watch = Watch::started(self.now);
        }
        for node in self.members(host) {
            let (now, it) = (self.at(node), &self.nodes[node]);
            let resume = match it.lease {
                LeaseState::Until(end) if end > now => Some(end),
                _ => None,
            };
            let (address, up) = (it.address, it.up);
            self.feed(node, Input::Source(Some(address.into())));
            self.feed(node, Input::Interface { name: "eth0".into(), up });
            self.feed(node, Input::Listen);
            self.feed(node, Input::Converged { resume });
        }
    }

    fn forwards(&self, node: usize) -> bool {
        matches!(self.nodes[node].lease, LeaseState::Until(end) if self.at(node) < end)
    }

    /// When a timer of its router fires next.
    fn timer(&self, node: usize) -> Option<u64> {
        let router = self.nodes[node].router.as_ref()?;
        let at = router.poll_timeout()?;
        Some(self.global(node, at).saturating_sub(self.eager(node)))
    }

    fn check(&mut self) {
        // A master of the partition that is paused or dead meanwhile hears nobody until it goes on;
        // its lease, which nothing renews, bounds that.
        if self.now < self.healed_at + HEALING {
            let ends = (0..self.nodes.len()).filter_map(|node| {
                let it = &self.nodes[node];
                match it.lease {
                    LeaseState::Until(end) if it.paused || it.router.is_none() => {
                        Some(self.global(node, end))
                    }
                    _ => None,
                }
            });
            self.healed_at = ends.max().map_or(self.healed_at, |end| end.max(self.healed_at));
        }
        let exempt = !self.cut.is_empty()
            || self.now < self.healed_at + HEALING
            || self.nodes.iter().any(|it| !it.up);
        for network in 0..self.width {
            let members = (network..self.nodes.len()).step_by(self.width);
            let active = members.filter(|node| self.forwards(*node)).count();
            if active < 2 || exempt {
                self.both_since.remove(&network);
                continue;
            }
            let since = *self.both_since.entry(network).or_insert(self.now);
            if self.now - since > self.worst_overlap {
                (self.worst_overlap, self.worst_at) = (self.now - since, self.now);
            }
        }
    }

    fn run(&mut self, duration: u64) {
        let end = self.now + duration;
        while self.failure.is_none() {
            let due = (0..self.nodes.len())
                .filter(|node| !self.nodes[*node].paused)
                .filter_map(|node| Some((self.timer(node)?, node)))
                .min();
            let event = self.queue.peek().map(|Reverse((at, ..))| *at);
            let timer = due.map(|(at, _)| at);
            let Some(next) = timer.into_iter().chain(event).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.check();
            if event.is_some_and(|at| at <= self.now) {
                if let Some(Reverse((_, _, event))) = self.queue.pop() {
                    self.happen(event);
                }
            } else if let Some((_, node)) = due {
                let watched = self.before_timer(node);
                let mut now = self.at(node);
                if self.eager(node) > 0 {
                    // The planted bug: what is not due yet fires.
                    let due = self.nodes[node].router.as_ref().and_then(Core::poll_timeout);
                    now = due.map_or(now, |due| due.max(now));
                }
                if let Some(router) = &mut self.nodes[node].router {
                    router.handle_timeout(now);
                }
                self.perform(node);
                self.after(node, watched);
                self.settle_group(node / self.width);
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
                if let Some(delay) = self.crosses(to, from, Kind::Arp) {
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
    /// forwards, in every network the same. Of several the one that is master stays.
    fn settle(&mut self, what: &dyn std::fmt::Debug) {
        self.finish();
        if let Some(failure) = &self.failure {
            panic!("{failure}: {what:?}");
        }
    }

    fn finish(&mut self) {
        self.apply(Op::Heal);
        for host in 0..self.hosts() {
            self.apply(Op::Link(host, true));
            self.apply(Op::Resume(host));
            self.apply(Op::Restart(host));
            self.apply(Op::PreemptDelay(host, 0));
        }
        self.run(SETTLE);
        let active: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.forwards(*node)).collect();
        let priorities: Vec<u8> = self.nodes.iter().map(|node| node.priority).collect();
        let best = priorities.iter().max();
        let host = active.first().map(|node| node / self.width);
        let right = active.len() == self.width
            && active.iter().all(|node| Some(node / self.width) == host)
            && active.first().is_some_and(|node| priorities.get(*node) == best);
        if !right {
            self.fail(|| format!("{active:?} forward in the end, priorities {priorities:?}"));
        }
    }
}
