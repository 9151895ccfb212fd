//! A member's side of a vrrp_sync_group: where it stands, and what the group tells it.

use super::{Order, Phase, Router, Standing, State, Wait, handover::Farewell};
use crate::{
    base::{net::Priority, time::Instant},
    vrrp::timing,
};

impl Router {
    /// Where it stands, as its sync group needs to know it. Ask after every input and time-out.
    pub fn standing(&self) -> Standing {
        match self.state {
            State::Init => Standing::Init,
            State::Fault if self.own_faults().is_empty() => Standing::Held,
            State::Fault => Standing::Faulty,
            State::Backup { wait: Wait::Group, .. } => Standing::Wants,
            State::Backup { .. } if self.listening => Standing::Listening,
            State::Backup { .. } => Standing::Backup,
            State::Master { phase: Phase::Active, .. } => Standing::Master,
            State::Master { phase: Phase::Ready, .. } => Standing::Ready,
            State::Master { .. } => Standing::Announcing,
            State::Stopping | State::Stopped => Standing::Stopped,
        }
    }

    pub(super) fn order(&mut self, order: Order, now: Instant) {
        if !self.config.grouped {
            return;
        }
        match (order, self.state) {
            (Order::Announce, State::Backup { wait: Wait::Group, .. }) => self.announce(now),
            (Order::Forward, State::Master { phase: Phase::Ready, .. }) => self.follow(now),
            (Order::Yield { why }, State::Master { .. }) => {
                // Peers that follow this member take over after their skew, as those of the member
                // that lost do at once.
                self.release(Farewell::Leaving);
                self.yield_to(now, &why);
                // So does it, lest a host whose one member lost a VIP for a moment lose them all. A
                // better router ends the wait, and the group waits for those that follow one.
                self.state = State::Backup { since: now, wait: Wait::Skew };
            }
            (Order::Hold(why), _) => {
                self.hold = why;
                self.settle(now);
            }
            (Order::Weight(weight), _) => {
                let before = self.effective_priority();
                self.group_weight = weight;
                self.tracked(before, now);
            }
            (Order::Announcements, _) if self.forwards(now) => self.lower_garp(now),
            (Order::Announce | Order::Forward | Order::Yield { .. } | Order::Announcements, _) => {}
        }
    }

    /// Forwards; the others of the group do so at the same moment.
    fn follow(&mut self, now: Instant) {
        self.activate(now);
        // As after a takeover without a group.
        let gap = timing::repeat_gap(self.config.version, self.config.interval);
        self.repeat_at = Some(now + gap);
    }

    /// The group is no longer there to be waited for.
    pub(super) fn leave_group(&mut self, now: Instant) {
        self.hold = None;
        self.group_weight = 0;
        match self.state {
            State::Backup { wait: Wait::Group, .. } => self.announce(now),
            State::Master { phase: Phase::Ready, .. } => self.follow(now),
            _ => {}
        }
    }

    /// `timer_expired_backup`: its own timer is so late that a backup's may have fired. While its lease runs none has: after a
    /// reload to shorter terms it is those of before that backups wait by.
    pub(super) fn was_replaced(&self, now: Instant) -> bool {
        let (Some(other), Some(sent)) = (self.config.timer_expired_backup, self.last_sent) else {
            return false;
        };
        let (version, interval) = (self.config.version, self.config.interval);
        let down = timing::master_down(version, other, interval, self.config.down_adverts);
        let late = now.saturating_since(sent) >= down;
        late && self.effective_priority() != Priority::OWNER && !self.forwards(now)
    }
}
