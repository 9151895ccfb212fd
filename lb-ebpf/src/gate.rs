//! Lease and fencing.

use lb_common::abi::LEASE_STANDBY;

use crate::{access, maps};

/// What a lease says at this moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Not master: hands off.
    Standby,
    /// Master.
    Active,
    /// Was master and did not renew: silence.
    Fenced,
}

/// Reads a lease. Gate 0 holds `LEASE_ALWAYS`, so it needs no case of its own.
#[inline(always)]
pub fn check(slot: u16) -> Gate {
    let lease = maps::lease(slot);
    if access::jiffies() < lease {
        Gate::Active
    } else if lease == LEASE_STANDBY {
        Gate::Standby
    } else {
        Gate::Fenced
    }
}
