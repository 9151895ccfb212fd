//! What each router should do, told from outside by what it was sent: when it may take over, when
//! it has to, when it has to yield, what its adverts say. Knows the timers' formulas from RFC 9568
//! §6.1 and nothing of the router's code.

use std::net::IpAddr;

use lb_userspace::{
    base::{net::Priority, status::VrrpState, table::LeaseState},
    vrrp::{
        router::{Config, Input, Standing},
        track::Verdict,
        wire::{Datagram, Version},
    },
};

use super::{
    MS, Node, Sim, is_backup, is_master,
    network::nanos,
    setup::{PLAIN, Setup, WEIGHTED},
};

/// A timer may be that late by the granularity of a simulated clock, and by its rate.
const SLACK: u64 = 5 * MS;

/// An advert as its receiver reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub source: IpAddr,
    pub priority: u8,
    /// ns
    pub interval: u64,
    pub addresses: Vec<[u8; 4]>,
    /// The mark of `told_handover`: a bit that RFC 9568 §5.2.6 reserves, and has others ignore.
    pub told: bool,
}

impl Seen {
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let Datagram { source, payload, .. } = Datagram::parse(bytes).ok()?;
        let [kind, _, priority, count, high, low] = *payload.first_chunk()?;
        let (interval, told) = match kind >> 4 {
            2 => (u64::from(low) * 1000 * MS, false),
            _ => (u64::from(u16::from_be_bytes([high & 15, low])) * 10 * MS, high & 0x80 != 0),
        };
        let addresses = payload.get(8..8 + 4 * usize::from(count))?.chunks_exact(4);
        let addresses = addresses.filter_map(|it| it.first_chunk().copied()).collect();
        Some(Self { source, priority, interval, addresses, told })
    }
}

/// What a router was sent since it last began to wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// No takeover before (global time); zero: not known, because something was changed.
    earliest: u64,
    /// Takeover until then, when nothing else comes; zero: not known.
    latest: u64,
    /// Nothing was changed since it began to listen: `lower_since` is what preempt_delay counts
    /// from.
    undisturbed: bool,
    /// First advert of a lower master.
    lower_since: Option<u64>,
    /// Whose adverts `latest` counts from.
    master: Option<IpAddr>,
    /// Advert interval that its timer is made of, ns; `None`: not known.
    pub interval: Option<u64>,
}

impl Watch {
    /// It begins to listen.
    fn started(now: u64, down: u64, interval: u64) -> Self {
        let earliest = now + down;
        let latest = earliest + SLACK;
        Self { earliest, latest, undisturbed: true, interval: Some(interval), ..Self::default() }
    }

    /// Something other than an advert happened to it: nothing is expected until the next.
    pub fn disturbed(&mut self) {
        *self = Self { interval: self.interval, ..Self::default() };
    }
}

/// What was known of a router before something happened to it.
pub(super) struct Watched {
    advertised: bool,
    /// In INIT or FAULT.
    idle: bool,
    /// It goes on with a lease that ran.
    resumes: bool,
    must_yield: Option<bool>,
}

/// An input in a few words.
pub(super) fn brief(input: &Input) -> String {
    match input {
        Input::Datagram(bytes) => match Seen::read(bytes) {
            Some(it) if it.told => format!("a told farewell of {}", it.source),
            Some(it) => format!("priority {} of {}", it.priority, it.source),
            None => "a datagram".to_owned(),
        },
        Input::Configure(it) => format!(
            "priority {}, preempt {}, delay {:?}, {} cs, {} VIPs",
            it.priority.0,
            it.preempt,
            it.preempt_delay,
            it.interval.centis(),
            it.addresses.len()
        ),
        other => format!("{other:?}").chars().take(60).collect(),
    }
}

/// An advert counts: VRRPv2 discards another advert_int.
pub(super) fn is_accepted(config: &Config, input: &Input) -> bool {
    let Input::Datagram(bytes) = input else { return false };
    let same = |seen: Seen| seen.interval == nanos(config.interval);
    config.version == Version::V3 || Seen::read(bytes).is_some_and(same)
}

impl Node {
    /// The priority that its adverts should have.
    pub(super) fn effective(&self, setup: &Setup) -> u8 {
        let base = self.told.config.priority.0;
        if base == Priority::OWNER.0 {
            return base;
        }
        let counts = self.told.weighted == (setup.weight > 0);
        let sum = i32::from(base) + if counts { setup.weight } else { 0 };
        u8::try_from(sum.clamp(1, 254)).expect("clamped")
    }
}

impl Sim {
    fn skew(&self, node: usize, interval: u64) -> u64 {
        let share = 256 - u64::from(self.nodes[node].effective(&self.setup));
        let whole = match self.setup.version {
            Version::V2 => 1000 * MS,
            Version::V3 => interval,
        };
        share * whole / 256
    }

    fn master_down(&self, node: usize, interval: u64) -> u64 {
        u64::from(self.setup.down_adverts) * interval + self.skew(node, interval)
    }

    fn looks(&self, node: usize) -> Watched {
        let router = self.nodes[node].router.as_ref();
        Watched {
            advertised: router.is_some_and(is_master),
            idle: router.is_some_and(|it| matches!(it.state(), VrrpState::Init | VrrpState::Fault))
                || router.is_none(),
            resumes: false,
            must_yield: None,
        }
    }

    /// A script's verdict reaches the router, or its group.
    pub(super) fn tell(&mut self, node: usize, name: &str, good: bool) {
        let it = &mut self.nodes[node];
        if name == WEIGHTED && std::mem::replace(&mut it.told.weighted, good) != good {
            it.watch.disturbed();
        }
        if name == PLAIN {
            it.told.plain = good;
        }
    }

    pub(super) fn before(&mut self, node: usize, input: &Input) -> Watched {
        let mut watched = self.looks(node);
        match input {
            Input::Configure(config) => {
                let v2 = self.setup.version == Version::V2;
                let it = &mut self.nodes[node];
                let old = std::mem::replace(&mut it.told.config, (**config).clone());
                let Watch { earliest, master, .. } = it.watch;
                it.watch.disturbed();
                let same = (old.priority, old.preempt) == (config.priority, config.preempt);
                if same && master.is_some() {
                    // The lease of the master that it follows is as long as it was.
                    (it.watch.earliest, it.watch.master) = (earliest, master);
                }
                if v2 {
                    it.watch.interval = Some(nanos(config.interval));
                }
            }
            Input::Script { name, verdict } => self.tell(node, name, *verdict == Verdict::Good),
            Input::Interface { up, .. } => {
                self.nodes[node].told.link = *up;
                self.nodes[node].watch.disturbed();
            }
            Input::Converged { resume } => watched.resumes = resume.is_some(),
            Input::Stop => self.nodes[node].watch.disturbed(),
            // What is discarded changes nothing.
            Input::Datagram(_) if !is_accepted(&self.nodes[node].told.config, input) => {
                watched.must_yield = watched.advertised.then_some(false);
            }
            Input::Datagram(bytes) => {
                if let Some(seen) = Seen::read(bytes) {
                    watched.must_yield = self.hears(node, &seen, watched.advertised);
                }
            }
            _ => {}
        }
        watched
    }

    /// Whether it has to yield, when it is master.
    fn hears(&mut self, node: usize, seen: &Seen, advertised: bool) -> Option<bool> {
        let (it, now) = (&self.nodes[node], self.now);
        it.router.as_ref()?;
        let own = it.effective(&self.setup);
        let delay = u64::try_from(it.told.config.preempt_delay.as_nanos()).expect("small");
        let preempts = it.told.config.preempt || own == Priority::OWNER.0;
        let greater = seen.source > IpAddr::from(it.address);
        let must_yield = (advertised && seen.priority > 0)
            .then_some(seen.priority > own || seen.priority == own && greater);
        if seen.priority == 0 {
            let skew = if seen.told && it.told.config.told_handover {
                Some(0)
            } else {
                it.watch.interval.map(|interval| self.skew(node, interval))
            };
            let watch = &mut self.nodes[node].watch;
            // Whether it follows that router is its own affair: it may wait for the skew only, or,
            // told that nobody forwards any more, not at all.
            watch.earliest = skew.map_or(0, |skew| watch.earliest.min(now + skew));
            // Of the master that it follows it ends the wait in the skew; of another, perhaps.
            let follows = watch.master == Some(seen.source) && watch.latest > 0;
            watch.latest = match skew {
                Some(skew) if follows => now + skew + SLACK,
                _ => 0,
            };
        } else if seen.priority >= own || !preempts {
            let down = self.master_down(node, seen.interval);
            let master = (seen.priority >= own).then_some(seen.source);
            let watch = Watch::started(now, down, seen.interval);
            self.nodes[node].watch = Watch { master, ..watch };
        } else {
            let down = self.master_down(node, seen.interval);
            let watch = &mut self.nodes[node].watch;
            let first = *watch.lower_since.get_or_insert(now);
            // Whose farewell ends the wait is not known any more.
            watch.master = None;
            if !watch.undisturbed {
                // Nor is it bound by the terms from before a reload: the worse one speaks under the new ones.
                watch.earliest = 0;
            }
            if delay > 0 && !advertised {
                // Until the delay has run each of them starts the wait again.
                if watch.undisturbed && now + SLACK < first + delay {
                    watch.earliest = now + down;
                    watch.interval = Some(seen.interval);
                } else if watch.interval != Some(seen.interval) {
                    (watch.earliest, watch.interval) = (0, None);
                }
                watch.latest = 0;
            }
        }
        must_yield
    }

    pub(super) fn before_timer(&mut self, node: usize) -> Watched {
        self.looks(node)
    }

    /// Judges what came of it.
    pub(super) fn after(&mut self, node: usize, watched: Watched) {
        let is = self.looks(node);
        // A write failed of which it was told.
        let broken = self.nodes[node].asked.is_some();
        if broken && is.advertised {
            self.fail(|| format!("{node} advertises though its lease cannot be written"));
        }
        if let Some(must_yield) = watched.must_yield
            && must_yield == is.advertised
            && !broken
        {
            let what = if must_yield { "does not yield to" } else { "yields to" };
            let than = if must_yield { "better" } else { "worse" };
            self.fail(|| format!("{node} {what} a {than} router"));
        }
        let (now, watch) = (self.now, self.nodes[node].watch);
        let own = self.nodes[node].effective(&self.setup);
        if is.advertised && !watched.advertised && self.setup.width == 1 {
            if watched.idle && !watched.resumes && own != Priority::OWNER.0 {
                self.fail(|| format!("{node} takes over without having listened"));
            } else if !watched.idle && now + SLACK < watch.earliest {
                self.fail(|| format!("{node} takes over {} ms early", (watch.earliest - now) / MS));
            }
        }
        if is.advertised && !watched.advertised {
            self.nodes[node].watch = Watch::default();
        }
        if watched.idle && self.nodes[node].router.as_ref().is_some_and(is_backup) {
            let interval = nanos(self.nodes[node].told.config.interval);
            let down = self.master_down(node, interval);
            self.nodes[node].watch = Watch::started(now, down, interval);
        }
        if self.setup.width == 1 {
            self.check_tracked(node);
        }
    }

    /// What fails is not master.
    fn check_tracked(&mut self, node: usize) {
        let it = &self.nodes[node];
        let begun = it.router.as_ref().is_some_and(|it| it.standing() != Standing::Init);
        let runs_on = self.now < it.stuck;
        if begun && !(it.told.plain && it.told.link) && self.forwards(node) && !runs_on {
            self.fail(|| format!("{node} forwards though what it tracks has failed"));
        }
    }

    /// What an advert says is what its sender was told; a farewell, that it does not forward.
    pub(super) fn check_advert(&mut self, node: usize, bytes: &[u8]) {
        let it = &self.nodes[node];
        let (own, config) = (it.effective(&self.setup), &it.told.config);
        // Of a lease that cannot be written it knows that it runs on.
        let broken = it.asked.is_some();
        let fences = self.hosts[self.host(node)].words.fences && !broken;
        let Some(seen) = Seen::read(bytes) else {
            self.fail(|| format!("{node} sends what is no advert"));
            return;
        };
        let addresses = config.addresses.iter().filter_map(|it| match it {
            IpAddr::V4(it) => Some(it.octets()),
            IpAddr::V6(_) => None,
        });
        let told = Seen {
            source: it.address.into(),
            priority: if seen.priority == 0 { 0 } else { own },
            interval: nanos(config.interval),
            addresses: addresses.collect(),
            told: seen.told && seen.priority == 0 && config.told_handover && fences,
        };
        if seen.priority == 0 && self.forwards(node) && !broken {
            self.fail(|| format!("{node} says farewell, and forwards"));
        }
        if seen != told {
            self.fail(|| format!("{node} advertises {seen:?}, not {told:?}"));
        }
    }

    /// STANDBY lets packets to a VIP pass to the host: it must not have one.
    pub(super) fn check_lease(&mut self, node: usize, state: LeaseState) {
        let vips = self.nodes[node].vips;
        if state == LeaseState::Standby && vips > 0 {
            self.fail(|| format!("{node} stands by with {vips} VIPs on its interface"));
        }
    }

    /// Members move together.
    pub(super) fn check_group(&mut self, host: usize) {
        let standings: Vec<Standing> = self
            .members(host)
            .filter_map(|node| self.nodes[node].router.as_ref())
            .map(|router| router.standing())
            .collect();
        let moved = standings.iter().filter(|it| **it == Standing::Master).count();
        // A lease that ran out is asked for again by each member alone; a member that was restarted
        // with the others resumes before they are looked at.
        let settled = standings.iter().all(|it| {
            matches!(it, Standing::Master | Standing::Backup | Standing::Wants | Standing::Ready)
        });
        if settled && moved > 0 && moved < standings.len() {
            self.fail(|| format!("host {host} is half moved: {standings:?}"));
        }
        for node in self.members(host) {
            self.check_tracked(node);
        }
    }

    /// Fails when a backup that heard nothing more has not taken over in time; at the end of every
    /// wait.
    pub fn overdue(&mut self) {
        for node in 0..self.nodes.len() {
            let it = &self.nodes[node];
            let waits = it.router.as_ref().is_some_and(is_backup);
            let latest = it.watch.latest;
            if waits && !it.paused && self.setup.width == 1 && latest > 0 && self.now > latest {
                self.fail(|| format!("{node} has not taken over in time"));
            }
        }
    }
}
