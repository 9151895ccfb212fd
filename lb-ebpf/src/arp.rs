//! ARP for a VIP is silenced with the VIP.

use core::mem::offset_of;

use lb_common::{
    abi::{Addr, FILTER_VIP},
    verdict::Outcome::{self, Arp, FencedArp, Short},
};
use network_types::{arp::ArpHdr, eth::EthHdr};

use crate::{
    access::{Hook, Packet},
    gate::{self, Gate},
    maps,
};

const END: usize = EthHdr::LEN + size_of::<ArpHdr>();
const TARGET: usize = EthHdr::LEN + offset_of!(ArpHdr, tpa);

/// Only the target address counts: what another host announces with the VIP as its *sender* is
/// how the stack learns that the VIP has moved.
#[inline(always)]
pub fn decide<H: Hook>(packet: &Packet<H>) -> Outcome {
    let Some(view) = packet.view::<END>() else { return Short };
    let target = view.get::<u32, TARGET>();
    if maps::filter(target) & FILTER_VIP == 0 {
        return Arp;
    }
    match maps::vip(&Addr::v4(target)).map(|vip| gate::check(vip.gate)) {
        Some(Gate::Fenced) => FencedArp,
        _ => Arp,
    }
}
