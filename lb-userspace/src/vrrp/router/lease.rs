//! A lease that cannot be written: its map is gone, or the kernel refuses.
//!
//! Such a master's data plane falls silent when the lease of before ends, and one that takes over is never let
//! through or never silenced. Its adverts would keep the peer from the VIPs all the same: it stands in FAULT until
//! leases can be written again.

use super::{Effect, Router, State};
use crate::base::time::Instant;

impl Router {
    /// The host falls silent by itself when no lease of ours is in force.
    pub(super) fn fences(&self) -> bool {
        self.fenced && self.lease_fault.is_none()
    }

    /// What holds it in FAULT. A host that cannot fence itself goes without leases.
    pub(super) fn lease_fault(&self) -> Option<String> {
        let why = self.lease_fault.as_ref().filter(|_| self.fenced)?;
        Some(format!("the lease cannot be written: {why}"))
    }

    /// [`super::Input::LeaseFault`]. The farewell that follows is not said behind a fence: heirs wait for their skew
    /// ([`Router::is_told`]).
    pub(super) fn set_lease_fault(&mut self, fault: Option<String>, now: Instant) {
        let begins = self.fences() && fault.is_some();
        self.lease_fault = fault;
        if begins {
            self.counters.lease_faults += 1;
            // Of the takeover whose lease it was: nobody is to answer for a VIP here.
            self.effects.retain(|effect| {
                use Effect::{AddVips, Garp, PrepareVips, Probe};
                !matches!(effect, AddVips | PrepareVips | Garp { .. } | Probe)
            });
            if self.state == State::Init {
                // No lease can be resumed, and a predecessor's VIPs may answer beside the master's.
                self.clear_leftovers();
            }
        }
        self.settle(now);
    }
}
