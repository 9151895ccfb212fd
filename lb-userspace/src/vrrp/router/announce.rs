//! When the VIPs of a master are announced: at the takeover, once more after a delay, from time to
//! time, and when a router of lower priority may have drawn them to itself.

use super::{Effect, Router};
use crate::base::time::Instant;

/// Batches that are still to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Announcements {
    /// The second batch of the takeover.
    again: Option<Instant>,
    /// The second batch after a lower priority was heard.
    lower: Option<Instant>,
    refresh: Option<Instant>,
}

impl Announcements {
    /// When [`Router::announcements_due`] has something to do.
    pub(super) fn next(self) -> Option<Instant> {
        [self.again, self.lower, self.refresh].into_iter().flatten().min()
    }
}

impl Router {
    /// The VIPs have come to this host.
    pub(super) fn garp(&mut self, now: Instant) {
        let garp = self.config.garp;
        self.send_garps(garp.repeat);
        self.announcements.again = (!garp.delay.is_zero()).then_some(now + garp.delay);
        self.announcements.refresh = (!garp.refresh.is_zero()).then_some(now + garp.refresh);
    }

    /// A router of lower priority has advertised: its own announcements may have moved the VIPs
    /// in switches and neighbour tables.
    pub(super) fn lower_garp(&mut self, now: Instant) {
        let garp = self.config.garp;
        if garp.lower_repeat == 0 {
            return;
        }
        self.send_garps(garp.lower_repeat);
        self.announcements.lower = (!garp.lower_delay.is_zero()).then_some(now + garp.lower_delay);
    }

    /// Sends the batches whose time has come. Early calls do nothing.
    pub(super) fn announcements_due(&mut self, now: Instant) {
        let garp = self.config.garp;
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        let again = due(&mut self.announcements.again);
        let lower = due(&mut self.announcements.lower);
        let refresh = due(&mut self.announcements.refresh);
        if refresh && !garp.refresh.is_zero() {
            self.announcements.refresh = Some(now + garp.refresh);
        }
        if !self.forwards(now) {
            return;
        }
        for (due, repeat) in
            [(again, garp.repeat), (lower, garp.lower_repeat), (refresh, garp.refresh_repeat)]
        {
            if due {
                self.send_garps(repeat);
            }
        }
    }

    /// A changed configuration may have switched the refresh on, off or to another rhythm.
    pub(super) fn announcements_configured(&mut self, now: Instant) {
        let refresh = self.config.garp.refresh;
        let next = self.announcements.refresh;
        self.announcements.refresh = match (self.is_active(), refresh.is_zero()) {
            (true, false) => Some(next.unwrap_or(now + refresh).min(now + refresh)),
            _ => None,
        };
    }

    fn send_garps(&mut self, repeat: u32) {
        if repeat > 0 {
            self.effects.push_back(Effect::Garp { repeat });
        }
    }
}
