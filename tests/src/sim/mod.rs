//! The VRRP core in virtual time: two to five hosts, each with one virtual router or with two in a
//! sync group, each with a clock of its own rate, VRRPv2 or v3.
//!
//! | file | subject |
//! |---|---|
//! | this | hosts, kernels and the run of time |
//! | `setup` | what the hosts' files say |
//! | `ops` | what happens to them: [`Op`] |
//! | `network` | loss, duplicates, reorder, partition |
//! | `oracle` | what each router should do, told from outside: when it may, must, must not take over |
//! | `safety` | at most one host forwards, how much of the time that was judged, VIPs on and off take turns |
//! | `random` | scripts from seeds or from bytes, shrunk when they fail |
//! | [`bugs`] | planted bugs: with each the simulation must fail |
//!
//! Nothing here sees more of a router than its shell does.

pub mod bugs;
mod network;
pub mod ops;
mod oracle;
pub mod random;
pub mod safety;
#[cfg(test)]
mod scenarios;
pub mod setup;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::Ipv4Addr,
    rc::Rc,
};

use lb_userspace::{
    base::{
        core::Core,
        net::{Mac, Priority},
        status::VrrpState,
        table::LeaseState,
        time::Instant,
    },
    vrrp::{
        group::{self, Group},
        router::{Config, Effect, Input, Router, Standing},
        timing::AdvertInterval,
        wire::Version,
    },
};

use self::{
    bugs::Bug,
    network::{Kind, Tag, nanos},
    ops::Op,
    oracle::Watch,
    safety::{Pairs, Taken},
    setup::{Setup, Words},
};

/// A millisecond in the simulation's nanoseconds.
pub const MS: u64 = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver {
        to: usize,
        tag: Tag,
        bytes: Rc<[u8]>,
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
    /// So many VIPs are on the interface.
    VipsSet {
        node: usize,
        life: u32,
        count: usize,
    },
    VipsCleared {
        node: usize,
        life: u32,
    },
    /// A planted bug: a fence that comes too late.
    Fence {
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

/// What a router was told, whatever it makes of it.
struct Told {
    config: Config,
    /// Its link, the script with a weight, the script without: as it knows them.
    link: bool,
    weighted: bool,
    plain: bool,
}

/// One virtual router on one host.
struct Node {
    address: Ipv4Addr,
    up: bool,
    /// Its clock gains so many nanoseconds a millisecond.
    gain: i64,
    watch: Watch,
    told: Told,
    /// `None`: not running.
    router: Option<Router>,
    life: u32,
    paused: bool,
    inbox: Vec<(Input, Option<Tag>)>,
    /// What the kernel has.
    lease: LeaseState,
    /// What could not be written to it.
    asked: Option<LeaseState>,
    /// Until then the lease may run on that could not be ended (global time).
    stuck: u64,
    vips: usize,
    /// What its router has asked for last.
    taken: Taken,
    /// Of the adverts that it sent: number of the last.
    sent: u64,
    /// The last advert that it was given of each other in this life.
    heard: BTreeMap<usize, Tag>,
    /// Others that forwarded when it began to hang or died, and whose last advert it had not heard
    /// then.
    unaware: BTreeSet<usize>,
}

impl Node {
    /// Its processes run.
    fn is_live(&self) -> bool {
        self.router.is_some() && !self.paused
    }
}

/// What a host is, beside its routers.
struct Host {
    words: Words,
    weighted: bool,
    plain: bool,
    /// Its leases cannot be written.
    broken: bool,
    /// When it has several routers and runs.
    group: Option<Group>,
}

/// One run.
pub struct Sim {
    setup: Setup,
    now: u64,
    /// Host after host; of each host its members in order.
    nodes: Vec<Node>,
    hosts: Vec<Host>,
    bug: Option<Bug>,
    failure: Option<String>,
    trace: Vec<String>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    random: u64,
    /// Loss and lateness begin after the hosts have found their master.
    stormy: bool,
    lost_last: BTreeMap<(usize, usize, Kind), bool>,
    /// The next packet from the first to the second is lost.
    lose_next: BTreeSet<(usize, usize)>,
    cut: BTreeSet<(usize, usize)>,
    /// The longest advert_int that a host has had: in VRRPv3 others may have learned it.
    slowest: AdvertInterval,
    pairs: Pairs,
}

impl Sim {
    /// Hosts that have just been started. `seed` decides what the network and the clocks do.
    pub fn new(setup: Setup, seed: u64, bug: Option<Bug>) -> Self {
        let width = setup.width;
        let members = (0..setup.words.len() * width).map(|index| (index, index / width));
        let nodes = members.map(|(index, host)| Node {
            address: Ipv4Addr::new(10, 77, 0, u8::try_from(index + 1).expect("few")),
            up: true,
            // Up to 200 ppm, which is a bad crystal.
            gain: i64::try_from((seed / 7 + host as u64 * 131) % 401).expect("small") - 200,
            watch: Watch::default(),
            told: Told {
                config: setup.config(&setup.words[host]),
                link: true,
                weighted: true,
                plain: true,
            },
            router: None,
            life: 0,
            paused: false,
            inbox: vec![],
            lease: LeaseState::Standby,
            asked: None,
            stuck: 0,
            vips: 0,
            taken: Taken::Unknown,
            sent: 0,
            heard: BTreeMap::new(),
            unaware: BTreeSet::new(),
        });
        let nodes: Vec<Node> = nodes.collect();
        let hosts = setup.words.iter().map(|words| Host {
            words: *words,
            weighted: true,
            plain: true,
            broken: false,
            group: None,
        });
        let mut sim = Self {
            now: 1_000_000_000,
            hosts: hosts.collect(),
            bug,
            failure: None,
            trace: vec![],
            queue: BinaryHeap::new(),
            sequence: 0,
            random: seed | 1,
            stormy: false,
            lost_last: BTreeMap::new(),
            lose_next: BTreeSet::new(),
            cut: BTreeSet::new(),
            slowest: setup.slowest(),
            pairs: Pairs::new(nodes.len(), width),
            nodes,
            setup,
        };
        sim.connections();
        (0..sim.hosts.len()).for_each(|node| sim.apply(Op::Restart(node)));
        sim
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
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

    fn members(&self, host: usize) -> std::ops::Range<usize> {
        let (host, width) = (host % self.hosts.len(), self.setup.width);
        host * width..(host + 1) * width
    }

    fn host(&self, node: usize) -> usize {
        node / self.setup.width
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

    fn feed(&mut self, node: usize, input: Input, tag: Option<Tag>) {
        self.note(|| format!("{node} gets {}", oracle::brief(&input)));
        if let Some(tag) = tag
            && oracle::is_accepted(&self.nodes[node].told.config, &input)
        {
            self.nodes[node].heard.insert(tag.from, tag);
        }
        let watched = self.before(node, &input);
        let reconfigured = matches!(input, Input::Configure(_));
        self.nodes[node].taken.may_change(reconfigured);
        if let Some(input) = self.bugged(node, input) {
            let now = self.at(node);
            if let Some(router) = &mut self.nodes[node].router {
                router.handle(input, now);
            }
        }
        if reconfigured {
            self.connections();
        }
        self.perform(node);
        self.after(node, watched);
        self.settle_group(self.host(node));
    }

    /// Tells the host's group where its members stand, and them what follows.
    fn settle_group(&mut self, host: usize) {
        if self.setup.width == 1 {
            return;
        }
        for _ in 0..16 {
            let now = self.at(host * self.setup.width);
            for node in self.members(host) {
                let Some(router) = &self.nodes[node].router else { continue };
                let (member, standing) = (node.to_string(), router.standing());
                if let Some(group) = &mut self.hosts[host].group {
                    group.handle(group::Input::Standing { member, standing }, now);
                }
            }
            let mut told = false;
            while let Some(effect) = self.hosts[host].group.as_mut().and_then(Core::poll_effect) {
                let group::Effect::Order { member, order } = effect else { continue };
                let node: usize = member.parse().expect("a number");
                if self.order_is_lost(node, &order) {
                    continue;
                }
                told = true;
                self.note(|| format!("{node} is told {order:?}"));
                let watched = self.before_timer(node);
                let now = self.at(node);
                if let Some(router) = &mut self.nodes[node].router {
                    router.handle(Input::Group(order), now);
                }
                self.perform(node);
                self.after(node, watched);
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
                    self.note(|| format!("{node} sends priority {}", priority.0));
                    self.broadcast(node, priority);
                    if let Some(router) = &mut self.nodes[node].router {
                        router.handle(Input::AdvertSent { at: now }, now);
                    }
                }
                Effect::Lease(state) => {
                    self.note(|| format!("{node} lease {state:?}"));
                    if self.hosts[self.host(node)].broken {
                        self.lease_fails(node, state);
                        continue;
                    }
                    self.check_lease(node, state);
                    match self.late_lease(node, state) {
                        Some(0) => self.nodes[node].lease = self.bugged_lease(state),
                        Some(late) => self.later(late, Event::Fence { node, life }),
                        None => {}
                    }
                }
                Effect::Probe => self.probe(node),
                Effect::AddVips | Effect::PrepareVips => {
                    (0..self.bugged_times(&effect)).for_each(|_| self.takes(node, &effect));
                    let count = self.nodes[node].router.as_ref();
                    let count = count.map_or(0, |it| it.config().addresses.len());
                    self.later(MS, Event::VipsSet { node, life, count });
                }
                Effect::RemoveVips => {
                    (0..self.bugged_times(&effect)).for_each(|_| self.takes(node, &effect));
                    self.later(MS, Event::VipsCleared { node, life });
                }
                _ => {}
            }
        }
        self.check_taken(node);
    }

    fn restart(&mut self, host: usize) {
        let stopped = |it: &Node| it.router.as_ref().is_none_or(|it| it.state() == VrrpState::Init);
        if !self.members(host).all(|node| stopped(&self.nodes[node])) {
            return;
        }
        let members = self.members(host).map(|node| node.to_string()).collect();
        self.hosts[host].group =
            (self.setup.width > 1).then(|| Group::new(self.setup.group(members)));
        for node in self.members(host) {
            let now = self.at(node);
            let config = self.setup.config(&self.hosts[host].words);
            let bugged = self.bugged_config(node, config.clone(), false);
            let it = &mut self.nodes[node];
            it.life += 1;
            it.taken = Taken::Unknown;
            it.told = Told { config, link: it.up, weighted: true, plain: true };
            it.router = Some(Router::new(bugged, now));
            it.watch = Watch::default();
            it.asked = None;
            it.heard.clear();
        }
        self.connections();
        // Of scripts a result may be known from before, or comes when adverts have begun.
        let early = self.random().is_multiple_of(2);
        if early {
            self.tell_trackers(host);
        }
        let fences = self.hosts[host].words.fences;
        for node in self.members(host) {
            let (now, it) = (self.at(node), &self.nodes[node]);
            let resume = match it.lease {
                LeaseState::Until(end) if end > now => Some(end),
                _ => None,
            };
            let (address, up) = (it.address, it.up);
            self.feed(node, Input::Source(Some(address.into())), None);
            self.feed(node, Input::Interface { name: "eth0".into(), up }, None);
            self.feed(node, Input::Listen, None);
            self.feed(node, Input::Fence(fences), None);
            self.feed(node, Input::Converged { resume }, None);
        }
        if !early {
            self.tell_trackers(host);
        }
    }

    /// The shell tells it at once, and tries again while the host's leases cannot be written.
    fn lease_fails(&mut self, node: usize, asked: LeaseState) {
        let now = self.at(node);
        let runs = match self.nodes[node].lease {
            LeaseState::Until(end) => self.global(node, end),
            LeaseState::Standby => 0,
        };
        let ignored = self.bug == Some(Bug::LeaseFaultIgnored);
        let it = &mut self.nodes[node];
        (it.asked, it.stuck) = (Some(asked), it.stuck.max(runs));
        it.watch.disturbed();
        if let Some(router) = it.router.as_mut().filter(|_| !ignored) {
            router.handle(Input::LeaseFault(Some("not permitted".into())), now);
        }
    }

    /// Its shell tries again what failed, where it is run.
    fn mend(&mut self, host: usize) {
        for node in self.members(host) {
            if self.hosts[self.host(node)].broken || !self.nodes[node].is_live() {
                continue;
            }
            if let Some(state) = self.nodes[node].asked.take() {
                self.check_lease(node, state);
                self.nodes[node].lease = self.bugged_lease(state);
                self.feed(node, Input::LeaseFault(None), None);
            }
        }
    }

    /// Its data plane forwards while its lease runs; without one its kernel answers for the VIPs
    /// that it has.
    pub fn forwards(&self, node: usize) -> bool {
        match self.nodes[node].lease {
            LeaseState::Until(end) => self.at(node) < end,
            LeaseState::Standby => self.nodes[node].vips > 0,
        }
    }

    /// When a timer of its router fires next.
    fn timer(&self, node: usize) -> Option<u64> {
        let router = self.nodes[node].router.as_ref()?;
        let at = router.poll_timeout()?;
        Some(self.global(node, at).saturating_sub(self.eager(node)))
    }

    /// Lets so much time pass.
    pub fn run(&mut self, duration: u64) {
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
                self.fire(node);
            }
            self.check();
        }
        self.now = end;
        self.check();
    }

    fn fire(&mut self, node: usize) {
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
        self.settle_group(self.host(node));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { to, tag, bytes } => {
                self.arrive(to, Input::Datagram(bytes.to_vec()), Some(tag));
            }
            // The kernel answers, whatever the processes do, unless the data plane drops it.
            Event::Probe { to, from } if self.forwards(to) => self.answer(to, from),
            Event::Probe { .. } => {}
            Event::Answer { to, from } => {
                let mac = Mac([2, 0, 0, 0, 0, u8::try_from(from).expect("few")]);
                let address = setup::vip(0).into();
                self.arrive(to, Input::Claim { address, mac }, None);
            }
            // What a dead process asked for is not done any more.
            Event::VipsSet { node, life, .. }
            | Event::VipsCleared { node, life }
            | Event::Fence { node, life }
                if self.nodes[node].life != life || self.nodes[node].router.is_none() => {}
            Event::VipsSet { node, count, .. } => {
                let it = &mut self.nodes[node];
                let added = count.saturating_sub(std::mem::replace(&mut it.vips, count));
                let added = u32::try_from(added).expect("few");
                self.check_lease(node, self.nodes[node].lease);
                self.arrive(node, Input::VipsSet { added }, None);
            }
            Event::VipsCleared { node, .. } => {
                self.nodes[node].vips = 0;
                self.arrive(node, Input::VipsCleared, None);
            }
            Event::Fence { node, .. } => {
                self.nodes[node].lease = LeaseState::Until(Instant::ZERO);
            }
        }
    }

    /// What comes to a stopped process waits in the kernel.
    fn arrive(&mut self, node: usize, input: Input, tag: Option<Tag>) {
        if self.nodes[node].paused {
            self.nodes[node].inbox.push((input, tag));
        } else {
            self.feed(node, input, tag);
        }
    }

    /// How often routers of now became master or ceased to be.
    fn moves(&self) -> u64 {
        let routers = self.nodes.iter().filter_map(|node| node.router.as_ref());
        routers.map(|it| it.counters().become_master + it.counters().release_master).sum()
    }

    /// Ends every disturbance, lets time pass, and fails unless one host forwards, in every
    /// network the same, that none may preempt, and holds the VIPs, and nobody else does; and
    /// unless that stays so. Of equal priorities either may: an equal does not preempt, and
    /// who was first is the weather's choice.
    pub fn finish(&mut self) {
        self.stormy = false;
        self.apply(Op::Heal);
        for host in 0..self.hosts.len() {
            self.apply(Op::Link(host, true));
            self.apply(Op::Lease(host, true));
            self.apply(Op::Resume(host));
            self.apply(Op::Restart(host));
            self.apply(Op::PreemptDelay(host, 0));
            self.apply(Op::Plain(host, true));
        }
        if self.setup.version == Version::V2 {
            self.apply(Op::Intervals(self.hosts[0].words.interval.centis()));
        }
        // A restart, a master that a late packet drove away, preemption, and some.
        let interval = nanos(self.slowest);
        self.run((4 * u64::from(self.setup.down_adverts) + 8) * interval);
        let moves = self.moves();
        // Longer than any wait for a master that nobody hears.
        self.run((u64::from(self.setup.down_adverts) + 2) * interval);
        let more = self.moves() - moves;
        // A single interval leaves the skew for the network's delay: 0.4 ms of 100 ms at priority 255.
        if more > 0 && self.setup.down_adverts > 1 {
            self.fail(|| format!("{more} moves after everything had settled"));
        }
        self.pairs.account(self.now);
        let active: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.forwards(*node)).collect();
        let ranks: Vec<u8> = self.nodes.iter().map(|node| node.effective(&self.setup)).collect();
        let host = active.first().map(|node| self.host(*node));
        let alone = active.len() == self.setup.width
            && active.iter().all(|node| Some(self.host(*node)) == host);
        let beaten = active.first().is_some_and(|master| {
            (0..self.nodes.len()).any(|node| {
                ranks[node] > ranks[*master]
                    && (self.nodes[node].told.config.preempt || ranks[node] == Priority::OWNER.0)
            })
        });
        if !alone || beaten {
            self.fail(|| format!("{active:?} forward in the end, priorities {ranks:?}"));
        }
        for node in 0..self.nodes.len() {
            let it = &self.nodes[node];
            let due = if active.contains(&node) { it.told.config.addresses.len() } else { 0 };
            let vips = it.vips;
            if vips != due {
                self.fail(|| format!("{node} holds {vips} VIPs in the end, not {due}"));
            }
        }
    }
}
