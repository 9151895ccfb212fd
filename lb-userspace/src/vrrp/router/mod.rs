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
//! are still BACKUP.

mod config;
mod receive;
mod report;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

pub use config::{Config, Effect, Input, Level, Notify};

use super::{
    timing::{self, AdvertInterval},
    track::Trackers,
    wire::{Advert, ChecksumForm, Reason},
};
use crate::base::{
    core::Core,
    net::Priority,
    status::{InstanceCounters, VrrpState},
    table::LeaseState,
    time::Instant,
};

/// A VIP that others keep removing is put back at most this often.
const REPAIR_GAP: Duration = Duration::from_secs(1);

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No advert has left yet.
    Announcing,
    /// Advert sent; the master that is being preempted gets time to hear it, and a second one.
    Guard { until: Instant, again: Option<Instant> },
    /// Forwards. The lease runs or has run out.
    Active,
}

/// The last other router heard on our VRID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    source: IpAddr,
    priority: Priority,
    at: Instant,
    interval: AdvertInterval,
}

impl Heard {
    /// Priority 0 was its farewell; three missed adverts mean it is gone.
    fn is_live(&self, now: Instant) -> bool {
        let silence = now.saturating_since(self.at);
        self.priority != Priority::RELEASE
            && silence < self.interval.duration() * timing::DOWN_ADVERTS
    }
}

/// One virtual router. See [`Core`] for how to drive it.
#[derive(Debug)]
pub struct Router {
    config: Config,
    state: State,
    trackers: Trackers,
    source: Option<IpAddr>,
    source_known: bool,
    converged: bool,
    /// Leftovers of a dead predecessor are gone, or were adopted.
    cleared: bool,
    /// The master's interval as learned (VRRPv3), else ours.
    master_interval: AdvertInterval,
    heard: Option<Heard>,
    preempt_at: Option<Instant>,
    /// End of the lease that was written last; `None` when nothing of ours runs.
    lease_end: Option<Instant>,
    /// When the last advert of ours left.
    last_sent: Option<Instant>,
    last_answer: Option<Instant>,
    send_error: Option<String>,
    garp_at: Option<Instant>,
    repair_at: Option<Instant>,
    last_repair: Option<Instant>,
    /// What notify scripts were told last, by us or by the process whose lease we resume.
    told: Option<VrrpState>,
    /// A takeover: the next [`Input::VipsSet`] is announced even when no VIP was missing.
    announce_vips: bool,
    /// [`Effect::RemoveVips`] that are not answered yet.
    clearing: u32,
    old_sum_peers: BTreeSet<IpAddr>,
    noted: BTreeSet<(IpAddr, receive::Note)>,
    discard_logged: BTreeMap<Reason, Instant>,
    counters: InstanceCounters,
    effects: VecDeque<Effect>,
}

impl Router {
    /// In INIT; waits for [`Input::Converged`].
    pub fn new(config: Config, _now: Instant) -> Self {
        let mut trackers = Trackers::default();
        trackers.configure(config.scripts.clone(), config.interfaces.clone());
        Self {
            state: State::Init,
            trackers,
            source: None,
            source_known: false,
            converged: false,
            cleared: false,
            master_interval: config.interval,
            heard: None,
            preempt_at: None,
            lease_end: None,
            last_sent: None,
            last_answer: None,
            send_error: None,
            garp_at: None,
            repair_at: None,
            last_repair: None,
            told: None,
            announce_vips: false,
            clearing: 0,
            old_sum_peers: BTreeSet::new(),
            noted: BTreeSet::new(),
            discard_logged: BTreeMap::new(),
            counters: InstanceCounters::default(),
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

    /// Statistics.
    pub fn counters(&self) -> &InstanceCounters {
        &self.counters
    }

    /// Counts what the shell did for it: gratuitous ARPs that left.
    pub fn count_garps(&mut self, sent: u64) {
        self.counters.garp_sent += sent;
    }

    /// The other router heard last, with the priority of its advert.
    pub fn peer(&self) -> Option<(IpAddr, Priority)> {
        self.heard.map(|heard| (heard.source, heard.priority))
    }

    /// The advert that [`Effect::SendAdvert`] asks for.
    pub fn advert(&self, priority: Priority) -> Advert {
        Advert {
            version: self.config.version,
            vrid: self.config.vrid,
            priority,
            interval: self.config.interval,
            auth: self.config.auth,
            addresses: self.config.addresses.clone(),
        }
    }

    /// How a peer wants its VRRPv3 checksum: one that sends the old unicast form is answered in
    /// kind.
    pub fn checksum_form(&self, peer: IpAddr) -> ChecksumForm {
        if self.old_sum_peers.contains(&peer) {
            ChecksumForm::GroupPseudoHeader
        } else {
            ChecksumForm::PseudoHeader
        }
    }

    fn may_preempt(&self) -> bool {
        self.config.preempt || self.effective_priority() == Priority::OWNER
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.trackers.faults();
        if self.source_known && self.source.is_none() {
            faults.push("the interface has no address to send from".into());
        }
        faults
    }

    fn down_at(&self, since: Instant, wait: Wait) -> Instant {
        let (version, priority) = (self.config.version, self.effective_priority());
        since
            + match wait {
                Wait::MasterDown => timing::master_down(version, priority, self.master_interval),
                Wait::Skew => timing::skew(version, priority, self.master_interval),
            }
    }

    // ---- transitions --------------------------------------------------------------------------

    fn log(&mut self, level: Level, text: impl Into<String>) {
        self.effects.push_back(Effect::Log { level, text: text.into() });
    }

    fn notify(&mut self, state: VrrpState) {
        if self.told.replace(state) != Some(state) {
            self.effects.push_back(Effect::Notify(Notify::State(state)));
        }
        self.effects.push_back(Effect::Changed);
    }

    /// Fences first, so that this host's own TCP never answers a client of the VIP with a reset
    /// between the removal of the address and STANDBY.
    fn fence_and_clear(&mut self) {
        self.effects.push_back(Effect::Lease(LeaseState::Until(Instant::ZERO)));
        self.effects.push_back(Effect::RemoveVips);
        self.clearing += 1;
    }

    fn send_advert(&mut self, priority: Priority) {
        if priority == Priority::RELEASE {
            self.counters.pri_zero_sent += 1;
        }
        self.effects.push_back(Effect::SendAdvert { priority });
    }

    /// Leaves INIT or FAULT when everything that held it there is gone, enters FAULT when not.
    fn settle(&mut self, now: Instant) {
        let faulty = !self.faults().is_empty();
        let ready = self.converged && self.cleared && self.source_known;
        match self.state {
            State::Fault if faulty => {}
            State::Init if faulty && ready => self.enter_fault(),
            State::Init | State::Fault if ready && self.trackers.waiting_for().is_none() => {
                self.start(now);
            }
            State::Backup { .. } | State::Master { .. } if faulty => self.enter_fault(),
            _ => {}
        }
    }

    fn start(&mut self, now: Instant) {
        self.master_interval = self.config.interval;
        if self.effective_priority() == Priority::OWNER {
            self.announce(now);
        } else {
            self.enter_backup(now);
        }
    }

    fn enter_backup(&mut self, now: Instant) {
        self.state = State::Backup { since: now, wait: Wait::MasterDown };
        self.preempt_at = None;
        self.log(Level::Info, "Entering BACKUP STATE");
        self.notify(VrrpState::Backup);
    }

    fn enter_fault(&mut self) {
        let why = self.faults().join(", ");
        self.release(true);
        self.state = State::Fault;
        self.log(Level::Warn, format!("Entering FAULT STATE: {why}"));
        self.notify(VrrpState::Fault);
    }

    /// First step towards MASTER: an advert, and nothing else until it has left.
    fn announce(&mut self, now: Instant) {
        self.state = State::Master {
            next_advert: now + self.config.interval.duration(),
            phase: Phase::Announcing,
        };
        self.preempt_at = None;
        self.send_advert(self.effective_priority());
    }

    /// Gives up what a master holds.
    fn release(&mut self, farewell: bool) {
        let State::Master { phase, .. } = self.state else { return };
        let holds = self.lease_end.is_some();
        if farewell && (holds || phase != Phase::Announcing) {
            self.send_advert(Priority::RELEASE);
        }
        if holds {
            self.fence_and_clear();
            self.counters.release_master += 1;
        }
        self.lease_end = None;
        self.garp_at = None;
        self.repair_at = None;
        self.send_error = None;
        self.announce_vips = false;
    }

    fn yield_to(&mut self, now: Instant, why: &str) {
        self.log(Level::Info, why);
        self.release(false);
        self.enter_backup(now);
    }

    fn advert_sent(&mut self, at: Instant) {
        self.counters.advert_sent += 1;
        self.last_sent = Some(at);
        let State::Master { next_advert, phase } = self.state else { return };
        self.send_error = None;
        let runs = self.lease_end.is_some_and(|end| at < end);
        match (phase, self.guard_until(at)) {
            (Phase::Active, _) if runs => self.renew(at),
            // A lease of a process before us, still running.
            (Phase::Announcing, _) if runs => self.activate(at),
            (Phase::Guard { .. }, _) => {}
            (Phase::Active, _) => {
                // Another router may have taken over meanwhile, or be doing so now.
                let until = at + timing::handover_guard(self.config.interval);
                self.log(Level::Warn, "lease had run out: no advert was sent for too long");
                self.guard(at, until, next_advert);
            }
            (Phase::Announcing, Some(until)) => self.guard(at, until, next_advert),
            (Phase::Announcing, None) => self.activate(at),
        }
    }

    fn guard(&mut self, at: Instant, until: Instant, next_advert: Instant) {
        let again = Some(at + until.saturating_since(at) / 2);
        self.state = State::Master { next_advert, phase: Phase::Guard { until, again } };
        self.effects.push_back(Effect::Changed);
    }

    /// Until when a takeover waits after its first advert: a live master has to hear it, one that
    /// has just said farewell may still be busy fencing itself.
    fn guard_until(&self, at: Instant) -> Option<Instant> {
        let heard = self.heard?;
        let guard = timing::handover_guard(self.config.interval);
        let interval = heard.interval.duration();
        if heard.is_live(at) && at.saturating_since(heard.at) > interval + interval / 10 {
            // Overdue: it may hang, and would not hear us. Its lease ends with its three adverts.
            Some(heard.at + interval * timing::DOWN_ADVERTS)
        } else if heard.is_live(at) {
            Some(at + guard)
        } else if heard.priority == Priority::RELEASE {
            Some(heard.at + guard).filter(|until| *until > at)
        } else {
            None
        }
    }

    fn renew(&mut self, sent: Instant) {
        let end = timing::lease_end(sent, self.config.interval);
        self.lease_end = Some(end);
        self.effects.push_back(Effect::Lease(LeaseState::Until(end)));
    }

    fn activate(&mut self, now: Instant) {
        let State::Master { next_advert, phase } = self.state else { return };
        let resumed = phase == Phase::Announcing && self.lease_end.is_some_and(|end| now < end);
        self.state = State::Master { next_advert, phase: Phase::Active };
        self.renew(self.last_sent.unwrap_or(now));
        self.effects.push_back(Effect::AddVips);
        self.announce_vips = !resumed;
        if resumed {
            self.log(Level::Info, "resumes as MASTER: its lease has not run out");
        } else {
            self.log(Level::Info, "Entering MASTER STATE");
        }
        if self.told != Some(VrrpState::Master) {
            self.counters.become_master += 1;
        }
        self.notify(VrrpState::Master);
    }

    fn garp(&mut self, now: Instant) {
        self.effects.push_back(Effect::Garp { repeat: self.config.garp_repeat });
        self.garp_at = (!self.config.garp_delay.is_zero()).then_some(now + self.config.garp_delay);
    }

    fn is_active(&self) -> bool {
        matches!(self.state, State::Master { phase: Phase::Active, .. })
    }

    /// Active, and the lease has not run out: only then may the VIPs be announced.
    fn forwards(&self, now: Instant) -> bool {
        self.is_active() && self.lease_end.is_some_and(|end| now < end)
    }

    fn vips_cleared(&mut self, now: Instant) {
        self.clearing = self.clearing.saturating_sub(1);
        // A later takeover has put its own lease in force.
        if self.clearing == 0 && !self.is_active() {
            self.effects.push_back(Effect::Lease(LeaseState::Standby));
        }
        self.cleared = true;
        if self.state == State::Stopping && self.clearing == 0 {
            self.state = State::Stopped;
            self.effects.push_back(Effect::Stopped);
        }
        self.settle(now);
    }

    fn converged(&mut self, resume: Option<Instant>, now: Instant) {
        if std::mem::replace(&mut self.converged, true) {
            return;
        }
        match resume.filter(|end| *end > now) {
            Some(end) if self.source.is_some() => {
                self.cleared = true;
                self.told = Some(VrrpState::Master);
                self.lease_end = Some(end);
                self.announce(now);
            }
            _ => self.fence_and_clear(),
        }
        self.settle(now);
    }

    fn vip_lost(&mut self, address: IpAddr, now: Instant) {
        if !self.is_active() {
            return;
        }
        self.log(Level::Warn, format!("VIP {address} was removed by someone else: put back"));
        let earliest = self.last_repair.map_or(now, |last| (last + REPAIR_GAP).max(now));
        self.repair_at = Some(earliest);
        self.repair(now);
    }

    fn repair(&mut self, now: Instant) {
        if self.repair_at.is_some_and(|at| at <= now) {
            self.repair_at = None;
            self.last_repair = Some(now);
            self.effects.push_back(Effect::AddVips);
        }
    }

    fn configure(&mut self, config: Config, now: Instant) {
        let before = self.effective_priority();
        let new_addresses = config.addresses != self.config.addresses;
        if config.interval != self.config.interval && !matches!(self.state, State::Backup { .. }) {
            self.master_interval = config.interval;
        }
        self.trackers.configure(config.scripts.clone(), config.interfaces.clone());
        self.config = config;
        self.old_sum_peers.retain(|peer| self.config.unicast_peers.contains(peer));
        if self.config.version == super::wire::Version::V2 {
            self.master_interval = self.config.interval;
        }
        if self.is_active() {
            // Also when only prefix, label or interface of a VIP changed: the shell compares.
            self.effects.push_back(Effect::AddVips);
        }
        let after = self.effective_priority();
        if before != after || new_addresses {
            self.log(Level::Info, format!("configuration changed, priority {after}"));
        }
        self.effects.push_back(Effect::Changed);
        self.settle(now);
    }

    fn stop(&mut self) {
        if matches!(self.state, State::Stopping | State::Stopped) {
            return;
        }
        self.release(true);
        self.effects.push_back(Effect::Notify(Notify::Stop));
        self.state = if self.clearing > 0 { State::Stopping } else { State::Stopped };
        if self.state == State::Stopped {
            self.effects.push_back(Effect::Stopped);
        }
    }

    /// Reacts to a tracker: FAULT, recovery, or another effective priority.
    fn tracked(&mut self, before: Priority, now: Instant) {
        let after = self.effective_priority();
        if before != after {
            self.log(Level::Info, format!("effective priority {before} -> {after}"));
            self.effects.push_back(Effect::Changed);
        }
        self.settle(now);
    }

    fn master_timeout(&mut self, now: Instant) {
        let State::Master { next_advert, phase } = self.state else { return };
        if let Phase::Guard { until, again } = phase {
            if now >= until {
                self.activate(now);
            } else if again.is_some_and(|at| now >= at) {
                let phase = Phase::Guard { until, again: None };
                self.state = State::Master { next_advert, phase };
                self.send_advert(self.effective_priority());
            }
        }
        let State::Master { next_advert, phase } = self.state else { return };
        if now >= next_advert {
            let interval = self.config.interval.duration();
            let late = now.saturating_since(next_advert);
            self.count_late(late);
            // From the schedule, so that nothing drifts; after a stall from now, so that missed
            // adverts do not come in a burst.
            let next = if late < interval { next_advert + interval } else { now + interval };
            self.state = State::Master { next_advert: next, phase };
            self.send_advert(self.effective_priority());
        }
    }

    fn count_late(&mut self, late: Duration) {
        let interval = self.config.interval.duration();
        if late > interval / 10 {
            self.counters.late_timers += 1;
        }
        if late > interval {
            let late = late.as_millis();
            self.log(Level::Warn, format!("stalled: a timer fired {late} ms late"));
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
            Input::Converged { resume } => self.converged(resume, now),
            Input::AdvertSent { at } => self.advert_sent(at),
            Input::AdvertFailed { error } => {
                if self.send_error.replace(error.clone()).as_ref() != Some(&error) {
                    self.log(Level::Error, format!("advert not sent: {error}"));
                    self.effects.push_back(Effect::Changed);
                }
            }
            Input::VipsSet { added } => {
                if self.forwards(now) && (added > 0 || self.announce_vips) {
                    self.announce_vips = false;
                    self.garp(now);
                }
            }
            Input::VipsCleared => self.vips_cleared(now),
            Input::VipLost { address } => self.vip_lost(address, now),
            Input::Source(source) => {
                self.source = source;
                self.source_known = true;
                self.settle(now);
            }
            Input::Interface { name, up } => {
                self.trackers.interface(&name, up);
                self.tracked(before, now);
            }
            Input::Script { name, verdict } => {
                self.trackers.script(&name, verdict);
                self.tracked(before, now);
            }
            Input::Configure(config) => self.configure(*config, now),
            Input::Stop => self.stop(),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Backup { since, wait } => {
                let down_at = self.down_at(since, wait);
                if now >= down_at {
                    self.count_late(now.saturating_since(down_at));
                    self.master_interval = self.config.interval;
                    self.announce(now);
                }
            }
            State::Master { .. } => self.master_timeout(now),
            _ => {}
        }
        if self.garp_at.is_some_and(|at| at <= now) {
            self.garp_at = None;
            if self.forwards(now) {
                self.effects.push_back(Effect::Garp { repeat: self.config.garp_repeat });
            }
        }
        self.repair(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let state = match self.state {
            State::Backup { since, wait } => Some(self.down_at(since, wait)),
            State::Master { next_advert, phase: Phase::Guard { until, again } } => {
                Some(next_advert.min(until).min(again.unwrap_or(until)))
            }
            State::Master { next_advert, .. } => Some(next_advert),
            _ => None,
        };
        [state, self.garp_at, self.repair_at].into_iter().flatten().min()
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
