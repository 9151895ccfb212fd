//! The state machine of one virtual router (RFC 9568 §6.4, with keepalived's extensions).
//!
//! ```text
//! INIT ── converged, leftovers gone, scripts known ──▶ BACKUP ── master down ──▶ announcing
//!   └──── a lease of ours still runs ────────────────────────────────────────────────┐ │ advert sent
//! FAULT ◀── tracked object bad ── any          BACKUP ◀── better advert ── MASTER ◀──┴─┴─ (guard)
//! ```
//! *Announcing* and *guard* are the steps between BACKUP and MASTER: nothing is forwarded and no
//! VIP is held before an advert has really left, nor, when a live master is being preempted or
//! this host lost its own lease, before that master has had time to hear it. To the outside they
//! are still BACKUP. What makes both short, and a clean stop shorter than a skew, is in
//! `handover`.
//! A member of a vrrp_sync_group waits twice more, for the others: before it announces, and
//! before it forwards ([`super::group`]).
//!
//! # Two forwarders
//! The lease ends before a peer may take over, counted from the last advert that was *sent*. What
//! is left, and what is done about it:
//!
//! - *A master that hangs shortly before it is preempted* cannot hear that it is. In the guard the
//!   preempting router asks the LAN who holds the VIP (the hung host's kernel answers while its
//!   lease runs, and not after) and waits on while it is answered, at most until three intervals
//!   after the last advert that it heard. Left: the answer is lost or slower than half the guard.
//! - *A keepalived that is stopped in the guard of the lbd that preempts it* says its farewell before
//!   it removes its VIPs, and ends the guard by that: about a millisecond in which both answer. Not
//!   closed: only `told_handover` tells such a farewell from one said behind a fence.
//! - *The first advert of a takeover is lost* to a second backup, which then takes over too: a
//!   second advert follows before any other priority's timer can fire ([`timing::repeat_gap`]).
//!   The heirs of a told hand-over have no skew to keep them apart: they listen to each other first
//!   ([`timing::told_guard`]).
//!   Left: both are lost, or the other has the same priority; then the two overlap until one
//!   hears the other, one network delay when nothing is lost.
//! - *A master that dies after its last advert was lost* keeps its lease up to an interval longer
//!   than its peers wait: at most advert_int less margin and skew (0.38 s at 1 s, priority 100).
//!   Not closed: a shorter lease would stop every host that dies *without* loss an interval
//!   earlier, asking by ARP would delay every takeover from a dead keepalived, whose kernel goes
//!   on answering; and no protocol without acknowledgement can know.
//!   The same holds, by the longer of the two, for the first advert after a reload to a longer advert_int.
//! - *A router that has not heard the master since it started* knows nothing of its lease: the
//!   owner takes over at once (RFC 9568 §6.4.1), and in VRRPv3 one whose own advert_int is shorter
//!   than the master's waits by its own. A live master is told by the first advert and one of the
//!   two yields; one that hangs at that moment forwards until its lease ends.
//! - *A master whose lease cannot be written* says farewell at once and takes its VIPs off, though the
//!   lease that was written last runs on: until it ends, what others still send to this host's MAC is
//!   forwarded. Waiting for that end would leave the VIPs to nobody for as long.
//! - *An advert that an older one overtakes* counts as the older one does, and is made up for by
//!   the next: an old farewell or an old, shorter interval shortens the wait.
//!
//! The simulation (lb_tests::sim) asserts these bounds, and nothing wider.

mod announce;
mod config;
mod group;
mod handover;
mod late;
mod lease;
mod receive;
mod report;
mod send;
#[cfg(test)]
mod tests;
mod transitions;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
};

pub use config::{Config, Effect, Input, Level, Notify, Order, Standing};
pub use send::Outgoing;

use self::{handover::Prepared, send::Numbers};
use super::{
    lateness::Timers,
    timing::{self, AdvertInterval},
    track::Trackers,
    wire::Reason,
};
use crate::base::{
    core::Core,
    net::{Mac, Priority},
    status::{InstanceCounters, VrrpState},
    time::Instant,
};
#[cfg(test)]
use crate::vrrp::wire::ChecksumForm;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Init,
    Backup {
        since: Instant,
        wait: Wait,
    },
    Master {
        next_advert: Instant,
        phase: Phase,
    },
    Fault,
    /// Farewell said; waits for the VIPs to be gone.
    Stopping,
    Stopped,
}

/// How long a backup waits from `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    MasterDown,
    Skew,
    /// The wait is over; the sync group says when to announce.
    Group,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No advert has left yet.
    Announcing,
    /// Advert sent; the master that is being preempted gets time to hear it, and a second one.
    Guard(Guard),
    /// The guard is over; the sync group says when to forward.
    Ready,
    /// Forwards. The lease runs or has run out.
    Active,
}

/// The wait between the first advert and forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guard {
    until: Instant,
    /// When to send the advert again and to ask who holds the VIP; `None`: done.
    again: Option<Instant>,
    /// Another host has answered for a VIP since we asked.
    claimed: bool,
    /// A round after the first, because that was answered.
    extended: bool,
    /// The round before was not answered; two such rounds end the wait, should one answer be lost.
    silent: bool,
    /// Until when the router that is preempted may hold a lease: no wait is longer.
    limit: Instant,
    /// The limit moves with what is heard, up to here.
    deadline: Instant,
    /// It is for a live master: that one's farewell ends it.
    awaits: bool,
}

/// How long a guard lasts, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    until: Instant,
    limit: Instant,
    awaits: bool,
}

/// A VIP of ours that another host answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Elsewhere {
    address: IpAddr,
    mac: Mac,
    at: Instant,
}

/// The last other router heard on our VRID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    source: IpAddr,
    priority: Priority,
    at: Instant,
    interval: AdvertInterval,
    /// Its farewell says that it is fenced, and we have `told_handover`.
    told: bool,
}

impl Heard {
    /// Until when it may hold a lease: so many missed adverts mean that it is gone. With one, its
    /// lease is longer by what lets it reach the next advert ([`timing::lease_end`]).
    fn lease_limit(&self, adverts: u32) -> Instant {
        let interval = self.interval.duration();
        let reach = if adverts > 1 { std::time::Duration::ZERO } else { interval / 256 };
        self.at + interval * adverts + reach
    }

    /// Priority 0 was its farewell.
    fn is_live(&self, now: Instant, adverts: u32) -> bool {
        self.priority != Priority::RELEASE && now < self.lease_limit(adverts)
    }
}

/// Routers that are remembered because they may still forward; at the bound the one heard longest
/// ago is forgotten.
const FORWARDER_LIMIT: usize = 8;

/// One virtual router. See [`Core`] for how to drive it.
#[derive(Debug)]
pub struct Router {
    config: Config,
    state: State,
    trackers: Trackers,
    source: Option<IpAddr>,
    source_known: bool,
    converged: bool,
    /// Adverts reach us.
    listens: bool,
    /// In INIT: since when nothing but the data plane keeps it from being a backup, which no
    /// advert could interrupt so far.
    quiet_since: Option<Instant>,
    /// Leftovers of a dead predecessor are gone, or were adopted.
    cleared: bool,
    /// The master's interval as learned, else ours.
    master_interval: AdvertInterval,
    /// How many of its adverts may be missed: as configured when it was heard last, or more.
    master_adverts: u32,
    heard: Option<Heard>,
    /// The host can fence itself, when leases can be written.
    fenced: bool,
    /// Why leases cannot be written.
    lease_fault: Option<String>,
    prepared: Prepared,
    /// It gave up a lease that ran, behind its fence, and nobody is master after it.
    leaves_fenced: bool,
    /// Routers that advertised themselves as master, of whatever priority, until their farewell:
    /// those that may still forward when we take over. The last heard is the last.
    forwarders: Vec<Heard>,
    preempt_at: Option<Instant>,
    /// End of the lease that was written last; `None` when nothing of ours runs.
    lease_end: Option<Instant>,
    /// When the last advert of ours left.
    last_sent: Option<Instant>,
    last_answer: Option<Instant>,
    /// No router has been heard in this wait of a backup.
    listening: bool,
    /// What the sync group holds it in FAULT for.
    hold: Option<String>,
    /// Weights of what the sync group tracks.
    group_weight: i32,
    send_error: Option<String>,
    announcements: announce::Announcements,
    /// When the first advert of a takeover is sent again.
    repeat_at: Option<Instant>,
    elsewhere: Option<Elsewhere>,
    claim_logged: Option<Instant>,
    repair_at: Option<Instant>,
    last_repair: Option<Instant>,
    /// What notify scripts were told last, by us or by the process whose lease we resume.
    told: Option<VrrpState>,
    /// A takeover: the next [`Input::VipsSet`] is announced even when no VIP was missing.
    announce_vips: bool,
    /// [`Effect::RemoveVips`] that are not answered yet.
    clearing: u32,
    old_sum_peers: BTreeSet<IpAddr>,
    numbers: Numbers,
    /// Of its interface; `None`: not known.
    mtu: Option<u32>,
    noted: BTreeSet<(IpAddr, receive::Note)>,
    /// When a sender's other addresses were told last.
    lists_told: BTreeMap<IpAddr, Instant>,
    discard_logged: BTreeMap<Reason, Instant>,
    lower_logged: Option<Instant>,
    counters: InstanceCounters,
    lateness: Timers,
    late_logged: late::Logged,
    effects: VecDeque<Effect>,
}

impl Router {
    /// In INIT; waits for [`Input::Converged`]. The master-down timer may run meanwhile
    /// ([`Input::Listen`]): only what follows from it has to wait.
    pub fn new(config: Config, _now: Instant) -> Self {
        let mut trackers = Trackers::default();
        trackers.configure(config.scripts.clone(), config.interfaces.clone());
        Self {
            state: State::Init,
            trackers,
            source: None,
            source_known: false,
            converged: false,
            listens: false,
            quiet_since: None,
            cleared: false,
            master_interval: config.interval,
            master_adverts: config.down_adverts,
            heard: None,
            fenced: false,
            lease_fault: None,
            prepared: Prepared::No,
            leaves_fenced: false,
            forwarders: vec![],
            preempt_at: None,
            lease_end: None,
            last_sent: None,
            last_answer: None,
            listening: true,
            hold: None,
            group_weight: 0,
            send_error: None,
            announcements: announce::Announcements::default(),
            repeat_at: None,
            elsewhere: None,
            claim_logged: None,
            repair_at: None,
            last_repair: None,
            told: None,
            announce_vips: false,
            clearing: 0,
            old_sum_peers: BTreeSet::new(),
            numbers: Numbers::default(),
            mtu: None,
            noted: BTreeSet::new(),
            lists_told: BTreeMap::new(),
            discard_logged: BTreeMap::new(),
            lower_logged: None,
            counters: InstanceCounters::default(),
            lateness: Timers::default(),
            late_logged: late::Logged::default(),
            effects: VecDeque::new(),
            config,
        }
    }

    /// What it was told last.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// End of the lease in force.
    pub fn lease_end(&self) -> Option<Instant> {
        self.lease_end
    }

    /// The last sequence number of `auth_type AH` that was sent or accepted.
    pub fn sequence(&self) -> u32 {
        self.numbers.sequence
    }

    /// Neither the source of its adverts nor its absence has been told yet.
    pub fn waits_for_source(&self) -> bool {
        !self.source_known
    }

    /// Statistics.
    pub fn counters(&self) -> &InstanceCounters {
        &self.counters
    }

    /// The master's interval: the learned one, or ours.
    pub fn master_interval(&self) -> AdvertInterval {
        self.master_interval
    }

    /// How late its timers have fired.
    pub fn lateness(&self) -> &Timers {
        &self.lateness
    }

    /// Statistics start from zero.
    pub fn clear_counters(&mut self) {
        self.counters = InstanceCounters::default();
        self.lateness = Timers::default();
    }

    /// Counts what the shell did for it: gratuitous ARPs that left.
    pub fn count_garps(&mut self, sent: u64) {
        self.counters.garp_sent += sent;
    }

    /// Counts what the shell did for it: TCP connections of this host on VIPs that left it.
    pub fn count_aborted(&mut self, connections: u64) {
        self.counters.connections_aborted += connections;
    }

    /// Counts what the shell saw: VIPs that somebody else put on this host while it was not master.
    pub fn count_foreign_vip(&mut self) {
        self.counters.foreign_vips += 1;
    }

    /// Whether no VIP may be on this host: not before those of a process before us are gone.
    pub fn expects_no_vips(&self) -> bool {
        let waits = matches!(self.state, State::Init | State::Backup { .. } | State::Fault);
        waits && self.cleared && self.prepared == Prepared::No
    }

    /// The other router heard last, with the priority of its advert.
    pub fn peer(&self) -> Option<(IpAddr, Priority)> {
        self.heard.map(|heard| (heard.source, heard.priority))
    }

    fn may_preempt(&self) -> bool {
        self.config.preempt || self.effective_priority() == Priority::OWNER
    }

    fn own_faults(&self) -> Vec<String> {
        let mut faults = self.trackers.faults();
        faults.extend(self.lease_fault());
        if self.source_known && self.source.is_none() {
            faults.push(self.no_source().into());
        }
        if self.config.wire.fault_without_peers && self.config.unicast_peers.is_empty() {
            faults.push("unicast_fault_no_peer is set, and there is no unicast_peer".into());
        }
        faults
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.own_faults();
        faults.extend(self.hold.clone());
        faults
    }

    /// Whether what a dead predecessor may have left is gone, or was taken over.
    pub fn has_cleared(&self) -> bool {
        self.cleared
    }

    /// When the wait of a backup ends by itself.
    fn down_at(&self, since: Instant, wait: Wait) -> Option<Instant> {
        let (version, priority) = (self.config.version, self.effective_priority());
        let interval = self.master_interval;
        match wait {
            Wait::MasterDown => {
                let adverts = self.master_adverts;
                Some(since + timing::master_down(version, priority, interval, adverts))
            }
            Wait::Skew => Some(since + timing::skew(version, priority, interval)),
            Wait::Group => None,
        }
    }
}

impl Core for Router {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, input: Input, now: Instant) {
        let before = self.effective_priority();
        match input {
            Input::Datagram(bytes) => self.datagram(&bytes, now),
            Input::Listen => {
                self.listens = true;
                self.settle(now);
            }
            Input::Converged { resume } => self.converged(resume, now),
            Input::AdvertSent { at } => self.advert_sent(at),
            Input::AdvertFailed { error } => {
                if self.send_error.replace(error.clone()).as_ref() != Some(&error) {
                    self.log(Level::Error, format!("advert not sent: {error}"));
                    self.effects.push_back(Effect::Changed);
                }
                let announcing =
                    matches!(self.state, State::Master { phase: Phase::Announcing, .. });
                if announcing {
                    self.unprepare();
                }
                if self.config.grouped && announcing {
                    // The others must not silence their masters for a group that cannot move.
                    self.yield_to(now, "gives up: its sync group waits for its advert");
                    self.send_error = Some(error);
                }
            }
            Input::Fence(works) => self.set_fence(works, now),
            Input::LeaseFault(fault) => self.set_lease_fault(fault, now),
            Input::VipsSet { added } => {
                if self.prepared == Prepared::Asked && self.clearing == 0 {
                    self.prepared = Prepared::Done;
                }
                if self.forwards(now) && (added > 0 || self.announce_vips) {
                    self.announce_vips = false;
                    self.garp(now);
                }
            }
            Input::VipsCleared => self.vips_cleared(now),
            Input::VipLost { address } => self.hold_lost(&format!("VIP {address}"), true, now),
            Input::HoldLost { what, tracked } => self.hold_lost(&what, tracked, now),
            Input::Claim { address, mac } => self.claimed(address, mac, now),
            Input::Source(source) => {
                self.source = source;
                self.source_known = true;
                self.settle(now);
            }
            Input::Mtu(mtu) => self.set_mtu(mtu),
            Input::WallClock(unix) => self.numbers.set_clock(unix, now),
            Input::Interface { name, up } => {
                self.trackers.interface(&name, up);
                self.tracked(before, now);
            }
            Input::Script { name, verdict } => {
                self.trackers.script(&name, verdict);
                self.tracked(before, now);
            }
            Input::Group(order) => self.order(order, now),
            Input::Configure(config) => self.configure(*config, now),
            Input::Stop => self.stop(),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Backup { since, wait } => {
                if let Some(down_at) = self.down_at(since, wait).filter(|at| *at <= now) {
                    self.count_late(late::Kind::MasterDown, now.saturating_since(down_at), now);
                    self.listening = false;
                    self.want(now);
                } else if self.prepare_at(since, wait).is_some_and(|at| at <= now) {
                    self.prepare();
                }
            }
            State::Master { .. } => self.master_timeout(now),
            _ => {}
        }
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.repeat_at = None;
            if self.is_active() {
                self.send_advert(self.effective_priority());
            }
        }
        self.announcements_due(now);
        self.repair(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let state = match self.state {
            State::Backup { since, wait } => {
                self.prepare_at(since, wait).or(self.down_at(since, wait))
            }
            State::Master { next_advert, phase: Phase::Guard(Guard { until, again, .. }) } => {
                Some(next_advert.min(until).min(again.unwrap_or(until)))
            }
            State::Master { next_advert, .. } => Some(next_advert),
            _ => None,
        };
        [state, self.announcements.next(), self.repeat_at, self.repair_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
