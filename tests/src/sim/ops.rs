//! What happens to hosts and network.

use std::time::Duration;

use lb_userspace::{
    base::core::Core as _,
    vrrp::{group, router::Input, timing::AdvertInterval, track::Verdict},
};

use super::{
    Sim,
    setup::{PLAIN, WEIGHTED},
};

/// One of them. Numbers of hosts are taken modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
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
    /// The tracked script with a weight says good or bad.
    Weighted(usize, bool),
    /// So does the one without.
    Plain(usize, bool),
    /// Its leases can be written, or cannot: its map is gone. Hosts without a fence have none.
    Lease(usize, bool),
    Priority(usize, u8),
    /// Milliseconds.
    PreemptDelay(usize, u16),
    Preempt(usize, bool),
    /// Centiseconds.
    Interval(usize, u16),
    /// The same on every host.
    Intervals(u16),
    /// How many VIPs.
    Vips(usize, u8),
}

impl Sim {
    /// Lets it happen now.
    pub fn apply(&mut self, op: Op) {
        self.note(|| format!("--- {op:?}"));
        let count = self.hosts.len();
        match op {
            Op::Pause(host) => {
                self.leave(host);
                for node in self.members(host) {
                    self.nodes[node].paused = self.nodes[node].router.is_some();
                    self.nodes[node].watch.disturbed();
                }
            }
            Op::Resume(host) => self.resume(host),
            Op::Crash(host) => {
                self.leave(host);
                for node in self.members(host) {
                    let node = &mut self.nodes[node];
                    (node.router, node.paused) = (None, false);
                    node.inbox.clear();
                }
                self.hosts[host % count].group = None;
            }
            Op::Stop(host) => {
                for node in self.members(host) {
                    self.arrive(node, Input::Stop, None);
                }
            }
            Op::Restart(host) => self.restart(host % count),
            Op::Cut(a, b) if a % count != b % count => {
                self.cut.extend([(a % count, b % count), (b % count, a % count)]);
            }
            Op::Deaf(a, b) if a % count != b % count => {
                self.cut.insert((a % count, b % count));
            }
            Op::Cut(..) | Op::Deaf(..) => {}
            Op::Heal => self.cut.clear(),
            Op::Link(host, up) => {
                let node = self.members(host).start;
                if self.nodes[node].up != up {
                    self.nodes[node].up = up;
                    self.arrive(node, Input::Interface { name: "eth0".into(), up }, None);
                }
            }
            Op::Weighted(host, good) => {
                self.hosts[host % count].weighted = good;
                self.tell_trackers(host % count);
            }
            Op::Plain(host, good) => {
                self.hosts[host % count].plain = good;
                self.tell_trackers(host % count);
            }
            Op::Lease(host, works) => {
                let host = host % count;
                self.hosts[host].broken = !works && self.hosts[host].words.fences;
                self.mend(host);
            }
            Op::Intervals(centis) => {
                for host in 0..count {
                    self.reconfigure(Op::Interval(host, centis), host);
                }
            }
            Op::Priority(host, _)
            | Op::PreemptDelay(host, _)
            | Op::Preempt(host, _)
            | Op::Interval(host, _)
            | Op::Vips(host, _) => self.reconfigure(op, host % count),
        }
        self.connections();
        self.check();
    }

    /// Its routers hang or die now: whom they know then.
    fn leave(&mut self, host: usize) {
        for node in self.members(host) {
            if !self.nodes[node].is_live() {
                continue;
            }
            let heard = |other: usize| self.nodes[node].heard.get(&other).map(|tag| tag.serial);
            let others = (0..self.nodes.len()).filter(|other| {
                self.forwards(*other) && heard(*other) != Some(self.nodes[*other].sent)
            });
            let unaware = others.collect();
            self.nodes[node].unaware = unaware;
        }
    }

    fn resume(&mut self, host: usize) {
        for node in self.members(host) {
            self.nodes[node].paused = false;
        }
        // What the kernel has queued is read before any timer.
        for node in self.members(host) {
            for (input, tag) in std::mem::take(&mut self.nodes[node].inbox) {
                self.feed(node, input, tag);
            }
        }
        self.tell_trackers(host % self.hosts.len());
        self.mend(host);
    }

    /// A changed file and SIGHUP.
    fn reconfigure(&mut self, op: Op, host: usize) {
        let words = &mut self.hosts[host].words;
        match op {
            Op::Priority(_, priority) => words.priority = priority,
            Op::PreemptDelay(_, millis) => {
                words.preempt_delay = Duration::from_millis(millis.into());
            }
            Op::Preempt(_, preempt) => words.preempt = preempt,
            Op::Interval(_, centis) => {
                words.interval = AdvertInterval::from_centis(centis).unwrap_or(words.interval);
            }
            Op::Vips(_, vips) => words.vips = vips,
            _ => return,
        }
        let config = self.setup.config(words);
        self.slowest = self.slowest.max(words.interval);
        for node in self.members(host) {
            self.arrive(node, Input::Configure(Box::new(config.clone())), None);
        }
    }

    /// What its scripts say; a paused host runs none.
    pub(super) fn tell_trackers(&mut self, host: usize) {
        let it = &self.hosts[host];
        let members = self.members(host);
        if !members.clone().all(|node| self.nodes[node].is_live()) {
            return;
        }
        let verdict = |good| if good { Verdict::Good } else { Verdict::Bad };
        for (name, good) in [(WEIGHTED, it.weighted), (PLAIN, it.plain)] {
            let (name, verdict) = (name.to_owned(), verdict(good));
            if self.setup.width == 1 {
                self.feed(members.start, Input::Script { name, verdict }, None);
                continue;
            }
            for node in members.clone() {
                self.tell(node, &name, good);
            }
            let now = self.at(members.start);
            if self.script_is_lost(&name, verdict) {
                continue;
            }
            if let Some(group) = &mut self.hosts[host].group {
                group.handle(group::Input::Script { name, verdict }, now);
            }
            self.settle_group(host);
        }
    }
}
