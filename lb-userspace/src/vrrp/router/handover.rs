//! Handing over without a gap.
//!
//! - *Make before break*: what is slow about becoming master, putting the VIPs on, is done behind
//!   the fence, before they are needed. A fenced host neither forwards nor answers for them, so
//!   taking over is then one lease write. Only where the host can fence itself
//!   ([`super::Input::Fence`]), and before the wait ends only while nobody else can hold a lease:
//!   from then on processes of this host reach the VIPs here.
//! - *A farewell when yielding*: a router that yields to a better one, and that others may believe
//!   to forward, says priority 0 once it is fenced. The one that preempts it, and waits in its guard only for that, stops
//!   waiting. To others it is a farewell like any; the new master answers it with an advert, which
//!   ends their wait again.
//! - *A told hand-over* (`told_handover`): the farewell of a master that leaves says by a bit of
//!   its own that it is fenced. Backups with the word advertise at once instead of after their
//!   skew, and forward after a short guard in which the best of them is found.

use super::{Effect, Guard, Phase, Router, State, Wait};
use crate::{
    base::{
        net::Priority,
        table::LeaseState,
        time::{Instant, nanos},
    },
    vrrp::{timing, wire::Version},
};

/// Where the VIPs of a router that does not forward are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    /// Not on this host, or about to leave it.
    No,
    /// Asked for, behind the fence.
    Asked,
    /// There, behind the fence.
    Done,
}

/// What a router that gives up says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    Silent,
    /// Another router is better: it may stop waiting.
    Yielding,
    /// Nobody is master after it.
    Leaving,
}

impl Router {
    /// When a backup that waits should have its VIPs prepared; `None`: not before it takes over.
    pub(super) fn prepare_at(&self, since: Instant, wait: Wait) -> Option<Instant> {
        if !self.fences() || self.config.grouped || self.prepared != Prepared::No {
            return None;
        }
        let down_at = self.down_at(since, wait)?;
        let lead = nanos(timing::prepare_lead(self.config.interval));
        let early = Instant::from_nanos(down_at.as_nanos().saturating_sub(lead));
        let adverts = self.config.down_adverts;
        let leases = self.forwarders.iter().map(|heard| heard.lease_limit(adverts));
        let at = leases.fold(early, Instant::max);
        (at < down_at).then_some(at)
    }

    /// Puts the VIPs on behind the fence.
    pub(super) fn prepare(&mut self) {
        self.prepared = Prepared::Asked;
        self.effects.push_back(Effect::Lease(LeaseState::Until(Instant::ZERO)));
        self.effects.push_back(Effect::PrepareVips);
    }

    /// Its first advert is on its way: what it waits for after that is used to prepare.
    pub(super) fn prepare_in_guard(&mut self, now: Instant) {
        let waits = self.config.grouped || self.guard_until(now).is_some();
        if self.fences() && waits && self.prepared == Prepared::No && self.lease_end.is_none() {
            self.prepare();
        }
    }

    /// Another router is master after all.
    pub(super) fn unprepare(&mut self) {
        if std::mem::replace(&mut self.prepared, Prepared::No) != Prepared::No {
            self.fence_and_clear();
        }
    }

    /// [`super::Input::Fence`]: without a fence no VIP waits behind it.
    pub(super) fn set_fence(&mut self, works: bool, now: Instant) {
        self.fenced = works;
        if !works {
            self.effects.retain(|effect| *effect != Effect::PrepareVips);
            self.unprepare();
            if self.state == State::Init {
                // Nothing else keeps a predecessor's VIPs from answering beside the master's.
                self.clear_leftovers();
            }
        }
        // A lease that cannot be written is a fault where there is a fence only.
        self.settle(now);
    }

    /// What a master says that yields. Silent when its lease has run out: nobody waits for it any
    /// more.
    pub(super) fn farewell_of_yielding(&self, now: Instant) -> Farewell {
        let says = match self.state {
            State::Master { phase: Phase::Active, .. } => self.forwards(now),
            // Others have heard it, and take it for one that forwards.
            State::Master { phase: Phase::Guard(_) | Phase::Ready, .. } => true,
            _ => false,
        };
        if says && self.fences() { Farewell::Yielding } else { Farewell::Silent }
    }

    /// A router that says farewell was the one that the guard waits for, and no other is left:
    /// true when this ended the guard.
    pub(super) fn farewell_ends_guard(&mut self, now: Instant) -> bool {
        let State::Master { phase: Phase::Guard(Guard { awaits: true, .. }), .. } = self.state
        else {
            return false;
        };
        let adverts = self.config.down_adverts;
        if self.forwarders.iter().any(|heard| heard.is_live(now, adverts)) {
            return false;
        }
        self.forward(now);
        if let State::Master { phase, .. } = self.state {
            let next_advert = now + self.config.interval.duration();
            self.state = State::Master { next_advert, phase };
        }
        // Other backups may have taken the farewell for that of their master, and wait for their
        // skew only.
        self.send_advert(self.effective_priority());
        let gap = timing::repeat_gap(self.config.version, self.config.interval);
        self.repeat_at = Some(now + gap);
        true
    }

    /// Whether an advert is marked as the farewell of a router that is fenced.
    pub(super) fn is_told(&self, priority: Priority) -> bool {
        priority == Priority::RELEASE
            && self.config.version == Version::V3
            && self.config.told_handover
            && self.fences()
            && self.leaves_fenced
    }
}
