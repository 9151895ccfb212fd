//! A line for each packet that was more than a look-up: only in a build with the feature
//! `packet-log`, for looking for a fault. User space puts the outcome's name in the number's place.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;
use lb_common::verdict::Outcome;

use crate::Decision;

/// Tells what became of a packet that came in by `came`. `len` is its length now, after what was done to it.
#[inline(always)]
pub fn tell(ctx: &impl EbpfContext, came: u32, len: u32, decision: &Decision) {
    if matches!(decision.outcome, Outcome::Foreign | Outcome::NotIp) {
        return;
    }
    debug!(
        ctx,
        "outcome {} len {} in {} out {}", decision.outcome as u32, len, came, decision.ifindex
    );
}
