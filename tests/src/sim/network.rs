//! Between the hosts: how long packets take, and whether they arrive.
//!
//! Bounds of what can hold follow from two numbers: [`DELAY`], and that of the adverts of one
//! router to another no two in a row are lost or late ([`Weather`]).

use std::rc::Rc;

use lb_userspace::{
    base::net::Priority,
    vrrp::{timing::AdvertInterval, wire::Version},
};

use super::{Event, MS, Sim, setup::Weather};

/// Longest network delay of a packet that is not late.
pub const DELAY: u64 = 500_000;

/// What a packet is: loss and lateness spare the second of two in a row, whatever of another kind is
/// between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Advert,
    Arp,
    /// An advert that others overtake.
    Late,
}

/// Which advert of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    pub from: usize,
    pub serial: u64,
    pub sent: u64,
    /// Its sender may be missed for so long, ns.
    pub silence: u64,
    pub farewell: bool,
    /// A farewell marked by `told_handover`.
    pub told: bool,
}

impl Sim {
    pub(super) fn broadcast(&mut self, from: usize, priority: Priority) {
        let now = self.at(from);
        let Some(router) = &mut self.nodes[from].router else { return };
        let interval = router.config().interval;
        let silence = nanos(interval) * u64::from(router.config().down_adverts);
        let told = router.advert(priority).told;
        let Ok(datagrams) = router.datagrams(priority, now) else {
            self.fail(|| format!("{from} cannot make an advert"));
            return;
        };
        self.nodes[from].sent += 1;
        let farewell = priority == Priority::RELEASE;
        let serial = self.nodes[from].sent;
        let tag = Tag { from, serial, sent: self.now, silence, farewell, told };
        for datagram in datagrams {
            self.check_advert(from, &datagram.bytes);
            let bytes: Rc<[u8]> = datagram.bytes.into();
            for to in 0..self.nodes.len() {
                self.send(to, tag, &bytes, nanos(interval));
            }
        }
    }

    fn send(&mut self, to: usize, tag: Tag, bytes: &Rc<[u8]>, interval: u64) {
        let Some(mut delay) = self.crosses(tag.from, to, Kind::Advert) else { return };
        let deliver = || Event::Deliver { to, tag, bytes: Rc::clone(bytes) };
        let storm = self.stormy && self.setup.weather == Weather::Reordered;
        let latest = if storm { interval * 5 / 2 } else { DELAY };
        if storm {
            let link = (tag.from, to, Kind::Late);
            let late = self.random().is_multiple_of(16);
            let late = late && self.lost_last.get(&link) != Some(&true);
            self.lost_last.insert(link, late);
            if late {
                delay += self.random() % latest;
                self.note(|| format!("advert of {} to {to} is {} ms late", tag.from, delay / MS));
            }
        }
        self.later(delay, deliver());
        if self.random().is_multiple_of(16) {
            let delay = delay + self.random() % latest;
            self.later(delay, deliver());
        }
    }

    pub(super) fn probe(&mut self, from: usize) {
        for to in 0..self.nodes.len() {
            if let Some(delay) = self.crosses(from, to, Kind::Arp) {
                self.later(delay, Event::Probe { to, from });
            }
        }
    }

    /// The kernel of `from` has the VIP and says so.
    pub(super) fn answer(&mut self, from: usize, to: usize) {
        if let Some(delay) = self.crosses(from, to, Kind::Arp) {
            self.later(delay, Event::Answer { to, from });
        }
    }

    /// How long a packet takes from one to another; `None`: it is lost.
    fn crosses(&mut self, from: usize, to: usize, kind: Kind) -> Option<u64> {
        let same_network = from % self.setup.width == to % self.setup.width;
        let up = self.nodes[from].up && self.nodes[to].up;
        let hosts = (self.host(from), self.host(to));
        if to == from || !same_network || !up || self.cut.contains(&hosts) {
            return None;
        }
        if self.lose_next.remove(&(from, to)) {
            return None;
        }
        let lossy = self.stormy && self.setup.weather == Weather::Lossy;
        let lose = lossy && self.random().is_multiple_of(4);
        // Never two in a row: three would be a partition.
        if lose && self.lost_last.insert((from, to, kind), true) != Some(true) {
            self.note(|| format!("{kind:?} of {from} to {to} is lost"));
            return None;
        }
        self.lost_last.insert((from, to, kind), false);
        Some(20_000 + self.random() % (DELAY - 20_000))
    }

    /// They hear each other, and neither discards what it hears: VRRPv2 knows one advert_int only.
    pub(super) fn connected(&self, a: usize, b: usize) -> bool {
        let (x, y) = (&self.nodes[a], &self.nodes[b]);
        let (from, to) = (self.host(a), self.host(b));
        let alike =
            self.setup.version == Version::V3 || x.told.config.interval == y.told.config.interval;
        let cut = self.cut.contains(&(from, to)) || self.cut.contains(&(to, from));
        x.up && y.up && alike && !cut
    }
}

/// An interval in nanoseconds.
pub(super) fn nanos(interval: AdvertInterval) -> u64 {
    u64::from(interval.centis()) * 10 * MS
}
