//! The pace of gratuitous ARPs and unsolicited neighbour advertisements: a queue for each group of
//! interfaces that share one (`garp_group`), else for each interface.
//!
//! Whoever owns it calls [`Pacer::due`] when [`Pacer::poll_timeout`] says, sends what it returns,
//! and [`Pacer::forget`]s an instance at the moment when it stops being master: what is still
//! queued then would draw its VIPs away from the new master.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use crate::base::time::Instant;

/// Announcements that may wait in one queue: three batches of five for 4,096 VIPs. At the bound
/// new ones are dropped and counted.
pub const QUEUE_LIMIT: usize = 65_536;

/// One message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Whose VIP it is.
    pub instance: String,
    pub interface: String,
    pub address: IpAddr,
}

/// Times between messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Between gratuitous ARPs; zero: none.
    pub arp: Duration,
    /// Between neighbour advertisements; zero: none.
    pub nd: Duration,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Announcement>,
    /// The next message may leave then.
    next: Option<Instant>,
}

/// Interfaces of one `garp_group`, or an interface of its own; the family of the messages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Group(usize, bool),
    Interface(String, bool),
}

/// The queues.
#[derive(Debug, Default)]
pub struct Pacer {
    usual: Gaps,
    groups: Vec<(Vec<String>, Gaps)>,
    lanes: BTreeMap<Key, Lane>,
    dropped: u64,
}

impl Pacer {
    /// Takes a configuration: gaps of interfaces in no group, and the groups. What waits stays.
    pub fn configure(&mut self, usual: Gaps, groups: Vec<(Vec<String>, Gaps)>) {
        self.usual = usual;
        if self.groups != groups {
            let waiting: Vec<Announcement> =
                std::mem::take(&mut self.lanes).into_values().flat_map(|lane| lane.queue).collect();
            self.groups = groups;
            for announcement in waiting {
                self.push(announcement);
            }
        }
    }

    fn key(&self, announcement: &Announcement) -> Key {
        let v6 = announcement.address.is_ipv6();
        let member = |(names, _): &(Vec<String>, Gaps)| names.contains(&announcement.interface);
        match self.groups.iter().position(member) {
            Some(group) => Key::Group(group, v6),
            None => Key::Interface(announcement.interface.clone(), v6),
        }
    }

    fn gap(&self, key: &Key) -> Duration {
        let of = |gaps: Gaps, v6: bool| if v6 { gaps.nd } else { gaps.arp };
        match key {
            Key::Group(group, v6) => {
                self.groups.get(*group).map_or(Duration::ZERO, |(_, gaps)| of(*gaps, *v6))
            }
            Key::Interface(_, v6) => of(self.usual, *v6),
        }
    }

    /// Queues a message.
    pub fn push(&mut self, announcement: Announcement) {
        let lane = self.lanes.entry(self.key(&announcement)).or_default();
        if lane.queue.len() >= QUEUE_LIMIT {
            self.dropped += 1;
        } else {
            lane.queue.push_back(announcement);
        }
    }

    /// Messages dropped at [`QUEUE_LIMIT`] so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Drops what waits for an instance.
    pub fn forget(&mut self, instance: &str) {
        for lane in self.lanes.values_mut() {
            lane.queue.retain(|waiting| waiting.instance != instance);
        }
    }

    /// When [`Pacer::due`] has something; a time in the past: at once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.lanes.values().filter(|lane| !lane.queue.is_empty());
        waiting.map(|lane| lane.next.unwrap_or(Instant::ZERO)).min()
    }

    /// Takes what may leave now, at most `budget`. Early calls return nothing.
    pub fn due(&mut self, now: Instant, budget: usize) -> Vec<Announcement> {
        let mut due = Vec::new();
        let keys: Vec<Key> = self.lanes.keys().cloned().collect();
        for key in keys {
            let gap = self.gap(&key);
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            while due.len() < budget && lane.next.is_none_or(|next| next <= now) {
                let Some(announcement) = lane.queue.pop_front() else { break };
                due.push(announcement);
                lane.next = (!gap.is_zero()).then_some(now + gap);
            }
        }
        self.lanes
            .retain(|_, lane| !lane.queue.is_empty() || lane.next.is_some_and(|next| next > now));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(instance: &str, interface: &str, last: u8) -> Announcement {
        let address = [10, 77, 0, last].into();
        Announcement { instance: instance.into(), interface: interface.into(), address }
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(1000 + ms)
    }

    fn gaps(arp: u64) -> Gaps {
        Gaps { arp: Duration::from_millis(arp), nd: Duration::ZERO }
    }

    #[test]
    fn without_a_gap_everything_leaves_at_once_within_the_budget() {
        let mut pacer = Pacer::default();
        for last in 0..10 {
            pacer.push(announcement("A", "eth0", last));
        }
        assert_eq!(pacer.due(at(0), 4).len(), 4);
        assert!(pacer.poll_timeout().is_some_and(|next| next <= at(0)), "more at once");
        let rest = pacer.due(at(0), 100);
        assert_eq!(rest.first().map(|it| it.address), Some([10, 77, 0, 4].into()), "in order");
        assert_eq!((rest.len(), pacer.poll_timeout()), (6, None));
    }

    #[test]
    fn a_gap_counts_for_an_interface_or_a_group_and_only_for_its_family() {
        let mut pacer = Pacer::default();
        pacer.configure(gaps(100), vec![(vec!["eth1".into(), "eth2".into()], gaps(300))]);
        for interface in ["eth0", "eth0", "eth1", "eth2"] {
            pacer.push(announcement("A", interface, 1));
        }
        let v6 = |last: u16| Announcement {
            address: std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last).into(),
            ..announcement("A", "eth0", 1)
        };
        pacer.push(v6(1));
        pacer.push(v6(2));
        let names = |due: Vec<Announcement>| -> Vec<String> {
            due.into_iter().map(|it| format!("{} {}", it.interface, it.address)).collect()
        };
        let first = names(pacer.due(at(0), 100));
        let want = ["eth1 10.77.0.1", "eth0 10.77.0.1", "eth0 fd77::1", "eth0 fd77::2"];
        assert_eq!(first, want, "neighbour advertisements have no gap");
        assert_eq!(pacer.poll_timeout(), Some(at(100)));
        assert!(pacer.due(at(99), 100).is_empty(), "early");
        assert_eq!(names(pacer.due(at(100), 100)), ["eth0 10.77.0.1"]);
        assert_eq!(names(pacer.due(at(400), 100)), ["eth2 10.77.0.1"], "shares eth1's pace");
        assert_eq!(pacer.poll_timeout(), None);
        pacer.push(announcement("A", "eth2", 9));
        assert_eq!(pacer.poll_timeout(), Some(at(700)), "the gap goes on while nothing waits");
    }

    #[test]
    fn a_former_masters_announcements_never_leave() {
        let mut pacer = Pacer::default();
        pacer.configure(gaps(10), vec![]);
        for (instance, last) in [("A", 1), ("B", 2), ("A", 3)] {
            pacer.push(announcement(instance, "eth0", last));
        }
        pacer.forget("A");
        let due = pacer.due(at(0), 100);
        assert_eq!(due.into_iter().map(|it| it.instance).collect::<Vec<_>>(), ["B"]);
        assert_eq!(pacer.poll_timeout(), None);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let mut pacer = Pacer::default();
        for _ in 0..QUEUE_LIMIT + 3 {
            pacer.push(announcement("A", "eth0", 1));
        }
        assert_eq!(pacer.dropped(), 3);
        assert_eq!(pacer.due(at(0), usize::MAX).len(), QUEUE_LIMIT);
    }
}
