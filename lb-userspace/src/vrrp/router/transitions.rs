//! Transitions of a virtual router: what changes its state, and in which order it acts then.

use std::{net::IpAddr, time::Duration};

use super::{
    Config, Effect, Elsewhere, Guard, Level, Notify, Phase, Router, Span, State, Wait,
    handover::{Farewell, Prepared},
    late,
};
use crate::{
    base::{
        net::{Mac, Priority},
        status::VrrpState,
        table::LeaseState,
        time::{Instant, nanos},
    },
    vrrp::{
        auth::Auth,
        timing::{self, AdvertInterval},
        wire,
    },
};

/// A VIP that others keep removing is put back at most this often.
const REPAIR_GAP: Duration = Duration::from_secs(1);
/// A VIP that another host claims is logged at most this often.
const CLAIM_LOG_GAP: Duration = Duration::from_secs(10);
/// How long after the last claim the status still speaks of it.
const CLAIM_MEMORY: Duration = Duration::from_secs(60);

impl Router {
    pub(super) fn log(&mut self, level: Level, text: impl Into<String>) {
        self.effects.push_back(Effect::Log { level, text: text.into() });
    }

    pub(super) fn notify(&mut self, state: VrrpState) {
        if self.told.replace(state) != Some(state) {
            self.effects.push_back(Effect::Notify(Notify::State(state)));
        }
        self.effects.push_back(Effect::Changed);
    }

    /// Fences first, so that this host's own TCP never answers a client of the VIP with a reset
    /// between the removal of the address and STANDBY.
    pub(super) fn fence_and_clear(&mut self) {
        self.effects.push_back(Effect::Lease(LeaseState::Until(Instant::ZERO)));
        self.effects.push_back(Effect::RemoveVips);
        self.clearing += 1;
    }

    pub(super) fn send_advert(&mut self, priority: Priority) {
        if priority == Priority::RELEASE {
            self.counters.pri_zero_sent += 1;
        }
        self.effects.push_back(Effect::SendAdvert { priority });
    }

    /// Leaves INIT or FAULT when everything that held it there is gone, enters FAULT when not.
    pub(super) fn settle(&mut self, now: Instant) {
        let faulty = !self.faults().is_empty();
        let ready = self.converged && self.cleared && self.source_known;
        let able = self.state == State::Init
            && self.listens
            && self.source_known
            && !faulty
            && self.trackers.waiting_for().is_none();
        // Only the first wait may have begun before: not one after a resumed lease or a FAULT.
        self.quiet_since = able.then(|| self.quiet_since.unwrap_or(now));
        match self.state {
            State::Fault if faulty => {}
            State::Init if faulty && ready => self.enter_fault(),
            State::Init | State::Fault if ready && self.trackers.waiting_for().is_none() => {
                let unicast = !self.config.unicast_peers.is_empty();
                let source = self.source.filter(|_| unicast && self.state == State::Fault);
                self.effects.extend(source.map(Effect::GarpSource));
                self.start(now);
            }
            State::Backup { .. } | State::Master { .. } if faulty => self.enter_fault(),
            _ => {}
        }
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.expect_own_terms();
        self.listening = true;
        // With AH nobody may speak before it has heard the sequence number that the others are at.
        let may_speak = !matches!(self.config.auth, Auth::Ah(_));
        let quiet = self.quiet_since.take().filter(|_| self.heard.is_none());
        if self.effective_priority() != Priority::OWNER || !may_speak {
            self.enter_backup(now);
            if let (Some(since), Some(down)) = (quiet, self.down_at(now, Wait::MasterDown)) {
                // It may have been over for long: then it ends now, and is not late.
                let since = since.max(now.saturating_sub(down.saturating_since(now)));
                self.state = State::Backup { since, wait: Wait::MasterDown };
            }
        } else if self.config.grouped {
            self.enter_backup(now);
            self.want(now);
        } else {
            self.announce(now);
        }
    }

    /// Nothing speaks against its being master.
    pub(super) fn want(&mut self, now: Instant) {
        if self.config.grouped {
            self.state = State::Backup { since: now, wait: Wait::Group };
            self.effects.push_back(Effect::Changed);
        } else {
            self.announce(now);
        }
    }

    pub(super) fn enter_backup(&mut self, now: Instant) {
        self.state = State::Backup { since: now, wait: Wait::MasterDown };
        self.preempt_at = None;
        self.log(Level::Info, "Entering BACKUP STATE");
        self.notify(VrrpState::Backup);
    }

    pub(super) fn enter_fault(&mut self) {
        let why = self.faults().join(", ");
        self.release(Farewell::Leaving);
        self.state = State::Fault;
        self.log(Level::Warn, format!("Entering FAULT STATE: {why}"));
        self.notify(VrrpState::Fault);
    }

    /// First step towards MASTER: an advert, and nothing else until it has left.
    pub(super) fn announce(&mut self, now: Instant) {
        self.expect_own_terms();
        self.state = State::Master {
            next_advert: now + self.config.interval.duration(),
            phase: Phase::Announcing,
        };
        self.preempt_at = None;
        self.send_advert(self.effective_priority());
        self.prepare_in_guard(now);
    }

    /// Gives up what a master holds, or what was prepared for one. Silent first, then the farewell:
    /// who hears it may act on it at once.
    pub(super) fn release(&mut self, farewell: Farewell) {
        let State::Master { phase, .. } = self.state else {
            self.unprepare();
            return;
        };
        let holds = self.lease_end.is_some();
        let clears = std::mem::replace(&mut self.prepared, Prepared::No) != Prepared::No || holds;
        if clears {
            self.effects.push_back(Effect::Lease(LeaseState::Until(Instant::ZERO)));
        }
        self.leaves_fenced = holds && farewell == Farewell::Leaving;
        if match farewell {
            Farewell::Silent => false,
            Farewell::Yielding | Farewell::Leaving => holds || phase != Phase::Announcing,
        } {
            self.send_advert(Priority::RELEASE);
        }
        if clears {
            self.effects.push_back(Effect::RemoveVips);
            self.clearing += 1;
        }
        if holds {
            self.counters.release_master += 1;
        }
        self.lease_end = None;
        self.announcements = super::announce::Announcements::default();
        self.repeat_at = None;
        self.elsewhere = None;
        self.repair_at = None;
        self.send_error = None;
        self.announce_vips = false;
    }

    pub(super) fn yield_to(&mut self, now: Instant, why: &str) {
        self.log(Level::Info, why);
        self.listening = false;
        self.release(self.farewell_of_yielding(now));
        self.enter_backup(now);
    }

    pub(super) fn advert_sent(&mut self, at: Instant) {
        self.counters.advert_sent += 1;
        self.last_sent = Some(at);
        let State::Master { next_advert, phase } = self.state else { return };
        self.send_error = None;
        let runs = self.lease_end.is_some_and(|end| at < end);
        match (phase, self.guard_until(at)) {
            (Phase::Active, _) if runs => self.renew(at),
            // A lease of a process before us, still running.
            (Phase::Announcing, _) if runs => self.activate(at),
            (Phase::Guard(_) | Phase::Ready, _) => {}
            (Phase::Active, _) => {
                // Another router may have taken over meanwhile, or be doing so now.
                let until = at + timing::handover_guard(self.config.interval);
                let span = self.guard_until(at);
                let span = span.unwrap_or(Span { until, limit: until, awaits: false });
                let (until, limit) = (span.until.max(until), span.limit.max(until));
                self.log(Level::Warn, "lease had run out: no advert was sent for too long");
                // Nor is it known whom to wait for.
                self.guard(at, Span { until, limit, awaits: false }, next_advert);
            }
            (Phase::Announcing, Some(span)) => self.guard(at, span, next_advert),
            (Phase::Announcing, None) => {
                self.forward(at);
                // Before the next best backup's timer fires, should it have missed the first.
                let gap = timing::repeat_gap(self.config.version, self.config.interval);
                self.repeat_at = Some(at + gap);
            }
        }
    }

    pub(super) fn guard(
        &mut self,
        at: Instant,
        Span { until, limit, awaits }: Span,
        next_advert: Instant,
    ) {
        let guard = Guard {
            until,
            again: Some(at + until.saturating_since(at) / 2),
            claimed: false,
            extended: false,
            silent: false,
            limit,
            deadline: limit + self.config.interval.duration() * self.config.down_adverts,
            awaits,
        };
        self.state = State::Master { next_advert, phase: Phase::Guard(guard) };
        self.effects.push_back(Effect::Changed);
    }

    /// Until when a takeover waits after its first advert, and at most, should the VIPs still be
    /// answered for by another host: a live master has to hear it, one that has just said
    /// farewell may still be busy fencing itself.
    pub(super) fn guard_until(&self, at: Instant) -> Option<Span> {
        let guard = timing::handover_guard(self.config.interval);
        let adverts = self.config.down_adverts;
        let mut live = self.forwarders.iter().rev().filter(|heard| heard.is_live(at, adverts));
        if let Some(heard) = live.next() {
            let interval = heard.interval.duration();
            let end = heard.lease_limit(adverts);
            // One that was heard before it has most likely yielded to it, but may hang instead.
            let limit = live.map(|heard| heard.lease_limit(adverts)).fold(end, Instant::max);
            let newest = self.forwarders.last().is_some_and(|last| last == heard);
            if newest && at.saturating_since(heard.at) > interval + interval / 10 {
                // Overdue: it may hang, and would not hear us. Its lease ends with its adverts.
                return Some(Span { until: end, limit, awaits: true });
            }
            // It may have hung since: see the module's text.
            return Some(Span { until: at + guard, limit, awaits: true });
        }
        let farewell = self.heard.filter(|heard| heard.priority == Priority::RELEASE)?;
        let until = if farewell.told {
            // Others may have been told as well: the best of them shall be heard first.
            at + timing::told_guard(self.config.interval)
        } else {
            farewell.at + guard
        };
        (until > at).then_some(Span { until, limit: until, awaits: false })
    }

    pub(super) fn renew(&mut self, sent: Instant) {
        let Config { version, interval, down_adverts, .. } = self.config;
        let end = timing::lease_end(sent, version, interval, down_adverts);
        self.lease_end = Some(end);
        self.effects.push_back(Effect::Lease(LeaseState::Until(end)));
    }

    /// Nothing is left to wait for but the sync group.
    pub(super) fn forward(&mut self, now: Instant) {
        let State::Master { next_advert, .. } = self.state else { return };
        if self.config.grouped {
            self.state = State::Master { next_advert, phase: Phase::Ready };
            self.effects.push_back(Effect::Changed);
        } else {
            self.activate(now);
        }
    }

    pub(super) fn activate(&mut self, now: Instant) {
        let State::Master { next_advert, phase } = self.state else { return };
        let resumed = phase == Phase::Announcing && self.lease_end.is_some_and(|end| now < end);
        self.state = State::Master { next_advert, phase: Phase::Active };
        // The hand-over is done: a later takeover has nobody who was told of the same one.
        if let Some(heard) = &mut self.heard {
            heard.told = false;
        }
        self.renew(self.last_sent.unwrap_or(now));
        let ready = std::mem::replace(&mut self.prepared, Prepared::No) == Prepared::Done;
        if ready {
            self.garp(now);
        }
        if !resumed {
            // Asks before the VIPs are ours, and waits for nothing: an answer is only told.
            self.effects.push_back(Effect::Probe);
        }
        self.effects.push_back(Effect::AddVips);
        self.announce_vips = !resumed && !ready;
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

    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Master { phase: Phase::Active, .. })
    }

    /// Active, and the lease has not run out: only then may the VIPs be announced.
    pub(super) fn forwards(&self, now: Instant) -> bool {
        self.is_active() && self.lease_end.is_some_and(|end| now < end)
    }

    pub(super) fn vips_cleared(&mut self, now: Instant) {
        self.clearing = self.clearing.saturating_sub(1);
        // A later takeover has put its own lease in force.
        if self.clearing == 0 && !self.is_active() && self.prepared == Prepared::No {
            self.effects.push_back(Effect::Lease(LeaseState::Standby));
        }
        self.cleared = true;
        if self.state == State::Stopping && self.clearing == 0 {
            self.state = State::Stopped;
            self.effects.push_back(Effect::Stopped);
        }
        self.settle(now);
    }

    pub(super) fn converged(&mut self, resume: Option<Instant>, now: Instant) {
        if std::mem::replace(&mut self.converged, true) {
            return;
        }
        match resume.filter(|end| *end > now) {
            Some(end) if self.source.is_some() => {
                self.cleared = true;
                self.told = Some(VrrpState::Master);
                self.lease_end = Some(end);
                self.numbers.resume(now);
                self.announce(now);
            }
            _ => self.clear_leftovers(),
        }
        self.settle(now);
    }

    /// What a dead predecessor may have left goes, once.
    pub(super) fn clear_leftovers(&mut self) {
        if !self.cleared && self.clearing == 0 {
            self.fence_and_clear();
        }
    }

    /// Someone else took a VIP or what goes with it. As keepalived: a master that lost something
    /// says farewell and stands for election again after its skew, so that a host on which
    /// nobody interferes may win; what is not tracked is put back.
    pub(super) fn hold_lost(&mut self, what: &str, tracked: bool, now: Instant) {
        if !self.is_active() {
            if self.prepared == Prepared::Done {
                // Put on again with the takeover, and announced then.
                self.prepared = Prepared::Asked;
            }
            return;
        }
        if tracked {
            self.log(Level::Warn, format!("{what} was removed by someone else: new election"));
            self.release(Farewell::Leaving);
            self.enter_backup(now);
            self.state = State::Backup { since: now, wait: Wait::Skew };
            return;
        }
        self.log(Level::Warn, format!("{what} was removed by someone else: put back"));
        let earliest = self.last_repair.map_or(now, |last| (last + REPAIR_GAP).max(now));
        self.repair_at = Some(earliest);
        self.repair(now);
    }

    pub(super) fn repair(&mut self, now: Instant) {
        if self.repair_at.is_some_and(|at| at <= now) {
            self.repair_at = None;
            self.last_repair = Some(now);
            self.effects.push_back(Effect::AddVips);
        }
    }

    /// No other router's terms are known.
    fn expect_own_terms(&mut self) {
        self.master_interval = self.config.interval;
        self.master_adverts = self.config.down_adverts;
    }

    pub(super) fn configure(&mut self, config: Config, now: Instant) {
        let before = self.effective_priority();
        let new_addresses = config.addresses != self.config.addresses;
        // A backup keeps what a master taught it: that one's lease is as long as it was when it
        // spoke last, whatever we are told now.
        let taught = self.heard.is_some() && matches!(self.state, State::Backup { .. });
        if taught {
            self.master_adverts = self.master_adverts.max(config.down_adverts);
            if config.version == wire::Version::V2 {
                // A longer interval of ours is the master's as soon as it is heard again.
                self.master_interval = self.master_interval.max(config.interval);
            }
        } else if (config.interval, config.down_adverts)
            != (self.config.interval, self.config.down_adverts)
            && let State::Backup { wait: wait @ (Wait::MasterDown | Wait::Skew), .. } = self.state
        {
            self.state = State::Backup { since: now, wait };
        }
        let lease = |it: &Config| timing::lease_end(now, it.version, it.interval, it.down_adverts);
        let shorter = lease(&config) < lease(&self.config);
        self.trackers.configure(config.scripts.clone(), config.interfaces.clone());
        self.config = config;
        if !taught {
            self.expect_own_terms();
        }
        if !self.config.grouped {
            self.leave_group(now);
        }
        self.old_sum_peers.retain(|peer| self.config.unicast_peers.contains(peer));
        if new_addresses {
            self.tell_overflow();
        }
        self.announcements_configured(now);
        // A delay that runs is not longer than the new one.
        let longest = now + self.config.preempt_delay;
        self.preempt_at = self.preempt_at.map(|at| at.min(longest));
        if let State::Master { next_advert, phase } = self.state {
            // Backups may wait by their own, shorter time from now on. Nor may the lease be longer than that: it
            // follows from the next advert, which leaves as soon as the shell has looked at what else is new
            // (interfaces, source, sockets), in this same turn.
            let at_once = shorter && phase == Phase::Active;
            let longest = if at_once { now } else { now + self.config.interval.duration() };
            self.state = State::Master { next_advert: next_advert.min(longest), phase };
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

    pub(super) fn stop(&mut self) {
        if matches!(self.state, State::Stopping | State::Stopped) {
            return;
        }
        self.release(Farewell::Leaving);
        self.effects.push_back(Effect::Notify(Notify::Stop));
        self.state = if self.clearing > 0 { State::Stopping } else { State::Stopped };
        if self.state == State::Stopped {
            self.effects.push_back(Effect::Stopped);
        }
    }

    /// Reacts to a tracker: FAULT, recovery, or another effective priority.
    pub(super) fn tracked(&mut self, before: Priority, now: Instant) {
        let after = self.effective_priority();
        if before != after {
            self.log(Level::Info, format!("effective priority {before} -> {after}"));
            self.effects.push_back(Effect::Changed);
        }
        self.settle(now);
    }

    pub(super) fn master_timeout(&mut self, now: Instant) {
        let State::Master { next_advert, phase } = self.state else { return };
        if let Phase::Guard(guard) = phase {
            self.guard_timeout(guard, next_advert, now);
        }
        let State::Master { next_advert, phase } = self.state else { return };
        if now >= next_advert {
            let interval = self.config.interval.duration();
            let late = now.saturating_since(next_advert);
            self.count_late(late::Kind::Advert, late, now);
            // From the schedule, so that nothing drifts; after a stall from now, so that missed
            // adverts do not come in a burst.
            let next = if late < interval { next_advert + interval } else { now + interval };
            self.state = State::Master { next_advert: next, phase };
            if self.was_replaced(now) {
                self.yield_to(now, "stalled so long that another router may be master");
                return;
            }
            if self.elsewhere.is_some_and(|it| now.saturating_since(it.at) > CLAIM_MEMORY) {
                self.elsewhere = None;
            }
            self.send_advert(self.effective_priority());
        }
    }

    fn guard_timeout(&mut self, guard: Guard, next_advert: Instant, now: Instant) {
        let next = if now < guard.until {
            if guard.again.is_none_or(|at| now < at) {
                return;
            }
            self.send_advert(self.effective_priority());
            self.effects.push_back(Effect::Probe);
            Guard { again: None, ..guard }
        } else if (guard.claimed || guard.extended && !guard.silent) && now < guard.limit {
            if !guard.extended {
                self.log(Level::Warn, "the master still answers for the VIP: it may hang");
            }
            let round = timing::handover_guard(self.config.interval);
            let until = (now + round).min(guard.limit);
            let again = Some(now + until.saturating_since(now) / 2);
            Guard { until, again, claimed: false, extended: true, silent: !guard.claimed, ..guard }
        } else {
            self.forward(now);
            return;
        };
        self.state = State::Master { next_advert, phase: Phase::Guard(next) };
    }

    /// In the guard a master speaks that should yield to us: it may hang after that, so it is
    /// asked (again) before the guard ends, and the wait may last as long as its new lease.
    pub(super) fn guard_hears(&mut self, interval: AdvertInterval, now: Instant) {
        let State::Master { next_advert, phase: Phase::Guard(guard) } = self.state else { return };
        let half = timing::handover_guard(self.config.interval) / 2;
        let last = Instant::from_nanos(guard.until.as_nanos().saturating_sub(nanos(half)));
        let adverts = self.config.down_adverts;
        let end = now + interval.duration() * adverts;
        // Its lease is as long as its interval says (VRRPv3), not as ours does.
        let longer = interval.duration().saturating_sub(self.config.interval.duration());
        let deadline = guard.deadline + longer * adverts;
        let phase = Phase::Guard(Guard {
            again: Some(guard.again.unwrap_or(now).max(last)),
            limit: guard.limit.max(end.min(deadline)),
            ..guard
        });
        self.state = State::Master { next_advert, phase };
    }

    /// Another host says that it has a VIP: it answered [`Effect::Probe`], or speaks unasked.
    pub(super) fn claimed(&mut self, address: IpAddr, mac: Mac, now: Instant) {
        if let State::Master { next_advert, phase: Phase::Guard(guard) } = self.state {
            // Before we asked it may have been said by a master that has stopped since.
            let phase =
                Phase::Guard(Guard { claimed: guard.claimed || guard.again.is_none(), ..guard });
            self.state = State::Master { next_advert, phase };
        }
        if !self.forwards(now) {
            return;
        }
        self.counters.vip_claims += 1;
        self.elsewhere = Some(Elsewhere { address, mac, at: now });
        if self.claim_logged.is_none_or(|last| now.saturating_since(last) >= CLAIM_LOG_GAP) {
            self.claim_logged = Some(now);
            let count = self.counters.vip_claims;
            let text = format!("VIP {address} is also at {mac} on the LAN ({count} claims so far)");
            self.log(Level::Warn, text);
        }
    }
}
