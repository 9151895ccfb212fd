//! At most one host forwards a VIP: judged pair by pair, at every event.
//!
//! A pair is *connected* while both links are up, no direction between the two is cut and neither
//! discards the other's adverts (VRRPv2 with two advert intervals), and *judged* when it has been
//! for the healing time (`Sim::healing`): the time until the next advert of one of them. What
//! two routers of a judged pair may forward together is then
//!
//! - *both run*: no longer than adverts take to tell one of them (`Sim::telling`). That is how
//!   long two that take over together overlap, or one that could not know of the other: an owner
//!   that starts, a router whose own advert_int is shorter than that of the master, which it has
//!   not heard yet (VRRPv3).
//! - *one hangs or is dead*, its lease runs on: not at all, if the other was given its last advert.
//!   If that was lost, cut off, overtaken by an older one or came before a restart, as long as that
//!   advert extends the lease beyond the one that was heard last; after a farewell, or if none was
//!   heard, or if the other forwarded already when this one was lost without having heard of it,
//!   until the lease ends. No protocol without acknowledgement can know better.
//!
//! Where a lease could not be written, both may forward until the one ends that runs (`Node::stuck`).
//!
//! How much of the time is judged is counted ([`Share`]), so that it cannot shrink unnoticed.

use std::collections::BTreeMap;

use lb_userspace::{
    base::table::LeaseState,
    vrrp::{
        router::{Effect, Standing},
        timing,
    },
};

use super::{
    Sim,
    network::{DELAY, nanos},
    setup::Weather,
};

/// Time of pairs, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub judged: u64,
    pub all: u64,
}

impl std::ops::AddAssign for Share {
    fn add_assign(&mut self, more: Self) {
        self.judged += more.judged;
        self.all += more.all;
    }
}

/// What a router has asked for: VIPs on and VIPs off take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Its life begins: a predecessor's may be there.
    Unknown,
    Released,
    /// On, behind the fence.
    Prepared,
    /// On. `again`: it may ask once more, because its configuration has just changed, or because its lease ran out and it
    /// hands over to itself.
    On {
        again: bool,
    },
}

impl Taken {
    /// Another configuration may have come.
    pub(super) fn may_change(&mut self, configured: bool) {
        if let Self::On { again } = self {
            *again |= configured;
        }
    }
}

/// Two that forward at once.
#[derive(Clone, Copy, Debug)]
struct Overlap {
    since: u64,
    /// Which of the two hang or are dead.
    absent: (bool, bool),
    allowed: u64,
}

/// A pair that is connected.
#[derive(Clone, Copy, Debug)]
struct Judged {
    from: u64,
    /// The healing time that this rests on.
    healing: u64,
}

/// Every pair of virtual routers of one network.
#[derive(Debug)]
pub struct Pairs {
    /// From when on each is judged; `None`: it is not connected.
    judged_from: BTreeMap<(usize, usize), Option<Judged>>,
    overlaps: BTreeMap<(usize, usize), Overlap>,
    /// Each pair's time is counted up to here.
    counted: u64,
    share: Share,
    /// The longest that two forwarded together, and both ran.
    pub worst_overlap: u64,
}

impl Pairs {
    pub(super) fn new(nodes: usize, width: usize) -> Self {
        let pairs = (0..nodes).flat_map(|a| (a + width..nodes).step_by(width).map(move |b| (a, b)));
        Self {
            judged_from: pairs.map(|pair| (pair, None)).collect(),
            overlaps: BTreeMap::new(),
            counted: 0,
            share: Share::default(),
            worst_overlap: 0,
        }
    }

    /// Counts the time until now.
    pub(super) fn account(&mut self, now: u64) {
        for from in self.judged_from.values() {
            self.share.all += now - self.counted;
            let from = from.map_or(now, |it| it.from).max(self.counted);
            self.share.judged += now.saturating_sub(from);
        }
        self.counted = now;
    }
}

impl Sim {
    /// A router asks for its VIPs, or for their removal.
    pub(super) fn takes(&mut self, node: usize, effect: &Effect) {
        let before = self.nodes[node].taken;
        // A takeover whose lease cannot be written, or that has no fence to wait behind, is called off before its VIPs
        // were asked for.
        let host = &self.hosts[self.host(node)];
        let called_off = host.broken || !host.words.fences;
        let (fits, after) = match (effect, before) {
            (Effect::AddVips, Taken::On { again }) => (again, Taken::On { again: false }),
            (Effect::AddVips, _) => (true, Taken::On { again: false }),
            (Effect::PrepareVips, Taken::Unknown | Taken::Released) => (true, Taken::Prepared),
            (Effect::PrepareVips, it) => (false, it),
            (_, Taken::Released) => (called_off, Taken::Released),
            _ => (true, Taken::Released),
        };
        self.nodes[node].taken = after;
        if !fits {
            self.fail(|| format!("{node} says {effect:?}, its VIPs are {before:?}"));
        }
    }

    /// A master has asked for its VIPs, and nobody else keeps them.
    pub(super) fn check_taken(&mut self, node: usize) {
        let it = &self.nodes[node];
        let (Some(router), taken) = (&it.router, it.taken) else { return };
        match (router.standing(), taken) {
            (Standing::Announcing | Standing::Ready, Taken::On { .. }) => {
                self.nodes[node].taken = Taken::On { again: true };
            }
            (standing, _) => {
                if matches!(taken, Taken::On { .. }) != (standing == Standing::Master) {
                    self.fail(|| format!("{node} is {standing:?}, its VIPs are {taken:?}"));
                }
            }
        }
    }

    /// How much of the time was judged.
    pub fn share(&self) -> Share {
        self.pairs.share
    }

    /// The longest that two forwarded together, and both ran, ns.
    pub fn worst_overlap(&self) -> u64 {
        self.pairs.worst_overlap
    }

    /// After an interruption two masters hear each other when the next advert of the one with the
    /// shorter interval comes; if that is late, with the one after.
    fn healing(&self, a: usize, b: usize) -> u64 {
        let interval = |node: usize| nanos(self.nodes[node].told.config.interval);
        let shorter = interval(a).min(interval(b));
        let adverts = if self.setup.weather == Weather::Reordered { 2 } else { 1 };
        adverts * shorter + shorter / 4
    }

    /// Two that hear each other forward together at most so long: an advert one way and the answer
    /// the other. Lost or late, each is repeated once after the longer one's repeat gap.
    fn telling(&self, a: usize, b: usize) -> u64 {
        let gap = |node: usize| {
            let interval = self.nodes[node].told.config.interval;
            u64::try_from(timing::repeat_gap(self.setup.version, interval).as_nanos())
                .expect("small")
        };
        match self.setup.weather {
            Weather::Disturbed => 2 * DELAY,
            Weather::Lossy | Weather::Reordered => 2 * gap(a).max(gap(b)) + 3 * DELAY,
        }
    }

    /// Looks again at who hears whom. Called after everything that may change it.
    pub(super) fn connections(&mut self) {
        let now = self.now;
        self.pairs.account(now);
        let pairs: Vec<_> = self.pairs.judged_from.iter().map(|(k, v)| (*k, *v)).collect();
        for ((a, b), judged) in pairs {
            let healing = self.healing(a, b);
            let judged = match judged {
                _ if !self.connected(a, b) => None,
                // Another interval before it has healed is another healing time.
                Some(it) if it.from <= now || it.healing == healing => Some(it),
                _ => Some(Judged { from: now + healing, healing }),
            };
            self.pairs.judged_from.insert((a, b), judged);
        }
    }

    /// Looks at who forwards now. Called before and after everything.
    pub(super) fn check(&mut self) {
        let active: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.forwards(*node)).collect();
        self.pairs
            .overlaps
            .retain(|(a, b), _| active.binary_search(a).is_ok() && active.binary_search(b).is_ok());
        for (index, a) in active.iter().enumerate() {
            for b in &active[index + 1..] {
                if a % self.setup.width == b % self.setup.width {
                    self.judge(*a, *b);
                }
            }
        }
    }

    fn judge(&mut self, a: usize, b: usize) {
        let judged = self.pairs.judged_from.get(&(a, b)).copied().flatten();
        let judged = judged.is_some_and(|it| it.from <= self.now);
        if !judged {
            self.pairs.overlaps.remove(&(a, b));
            return;
        }
        let (now, absent) = (self.now, (!self.nodes[a].is_live(), !self.nodes[b].is_live()));
        let known = self.pairs.overlaps.get(&(a, b)).filter(|it| it.absent == absent);
        let overlap = known.copied().unwrap_or_else(|| {
            let allowed = match absent {
                (false, false) => self.telling(a, b),
                (true, false) => self.ignorance(b, a),
                (false, true) => self.ignorance(a, b),
                (true, true) => self.ignorance(a, b).max(self.ignorance(b, a)),
            };
            Overlap { since: now, absent, allowed }
        });
        self.pairs.overlaps.insert((a, b), overlap);
        let lasts = now - overlap.since;
        if absent == (false, false) {
            self.pairs.worst_overlap = self.pairs.worst_overlap.max(lasts);
        }
        // A lease that could not be ended runs on, whoever was told.
        let stuck = self.nodes[a].stuck.max(self.nodes[b].stuck);
        let allowed = overlap.allowed.max(stuck.saturating_sub(overlap.since));
        if lasts > allowed {
            self.fail(|| {
                format!("{a} and {b} forward together for {lasts} ns, allowed are {allowed} ns")
            });
        }
    }

    /// How long `node` may forward beside `absent`, for what it does not know of its lease.
    fn ignorance(&self, node: usize, absent: usize) -> u64 {
        let LeaseState::Until(end) = self.nodes[absent].lease else { return 0 };
        let end = self.global(absent, end);
        match self.nodes[node].heard.get(&absent) {
            _ if self.nodes[absent].unaware.contains(&node) => end.saturating_sub(self.now),
            Some(tag) if tag.serial == self.nodes[absent].sent => DELAY,
            Some(tag) if !tag.farewell => end.saturating_sub(tag.sent + tag.silence),
            _ => end.saturating_sub(self.now),
        }
    }
}
