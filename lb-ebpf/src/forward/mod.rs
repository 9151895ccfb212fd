//! Sending a packet to its real server.

pub mod dsr;
pub mod nat;
pub mod tun;

use lb_common::{
    abi::{FLAG_RESOLVED, FLAG_TX, METHOD_DR, METHOD_NAT, Real},
    verdict::Outcome::{self, DrForwarded, Local, NatForwarded, NextHopUnresolved},
};

use crate::{
    Decision,
    access::Hook,
    family::Family,
    maps,
    parse::{Frame, Segment},
};

/// Rewrites the packet for `real`, which is reached by no tunnel. `what` is the outcome, with [`DrForwarded`] standing for "any
/// established connection".
#[inline(always)]
pub fn to_real<A: Family, H: Hook>(
    frame: &Frame<'_, A>,
    id: u16,
    real: &Real,
    segment: &Segment<A>,
    what: Outcome,
) -> Decision {
    let outcome = match real.method {
        METHOD_DR | METHOD_NAT if real.flags & FLAG_RESOLVED == 0 => {
            return Decision::of(NextHopUnresolved);
        }
        METHOD_DR => {
            dsr::to_server(frame, real);
            what
        }
        METHOD_NAT => {
            nat::to_server::<A, H>(frame, real);
            if what as u32 == DrForwarded as u32 { NatForwarded } else { what }
        }
        _ => Local,
    };
    count(id, segment);
    Decision { outcome, ifindex: exit(real, real.ifindex, segment) }
}

/// Counts a packet to a real server.
#[inline(always)]
fn count<A: Family>(id: u16, segment: &Segment<A>) {
    if let Some(stats) = maps::real_stats(id) {
        stats.packets += 1;
        stats.bytes += u64::from(segment.len);
    }
}

/// [`Decision::ifindex`] of a frame that leaves by `ifindex`.
#[inline(always)]
pub fn exit<A: Family>(real: &Real, ifindex: u32, segment: &Segment<A>) -> u32 {
    let came = segment.back.ifindex;
    if real.flags & FLAG_TX != 0 && ifindex == came && real.ifindex == came { 0 } else { ifindex }
}
