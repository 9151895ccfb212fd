//! A line for each packet that was more than a look-up: only in a build with the feature
//! `packet-log`, for looking for a fault. User space puts the outcome's name in the number's place.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use lb_common::verdict::Outcome;

use crate::Decision;

/// Tells what became of a packet. `len` is its length now, after what was done to it.
#[inline(always)]
pub fn tell(ctx: &XdpContext, decision: &Decision) {
    if matches!(decision.outcome, Outcome::Foreign | Outcome::NotIp) {
        return;
    }
    debug!(
        ctx,
        "outcome {} len {} in {} out {}",
        decision.outcome as u32,
        ctx.data_end() - ctx.data(),
        ctx.ingress_ifindex(),
        decision.ifindex
    );
}
