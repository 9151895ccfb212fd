//! Destination NAT and its way back. The client's address is kept; checksums are corrected by the
//! deltas that user space computed once for each real server.

use lb_common::{
    abi::{METHOD_NAT, Real},
    csum,
};

use crate::{
    access::{Hook, NextHop, Packet},
    family::Family,
    parse::{ETH_LEN, Frame, TCP_CHECK, TCP_DST, TCP_SRC},
};

/// VIP:port becomes the real server's.
#[inline(always)]
pub fn to_server<A: Family, H: Hook>(frame: &Frame<'_, A>, real: &Real) {
    A::set_macs(&frame.ip, real.macs);
    A::to_server(&frame.ip, real);
    frame.tcp.set::<u16, TCP_DST>(real.port);
    correct::<A, H>(frame, real.l4_delta);
}

/// The real server's address becomes VIP:port again.
#[inline(always)]
pub fn to_client<A: Family, H: Hook>(frame: &Frame<'_, A>, real: &Real, way: &NextHop) {
    A::set_macs(&frame.ip, way.macs);
    A::to_client(&frame.ip, real);
    frame.tcp.set::<u16, TCP_SRC>(real.vip_port);
    correct::<A, H>(frame, csum::reverse(real.l4_delta));
}

#[inline(always)]
fn correct<A: Family, H: Hook>(frame: &Frame<'_, A>, delta: u16) {
    if H::BY_HELPER {
        return;
    }
    let was = frame.tcp.get::<u16, TCP_CHECK>();
    frame.tcp.set::<u16, TCP_CHECK>(csum::update(was, delta));
}

/// The TCP checksum of what [`to_server`] has rewritten, where only the kernel's helper does it right; false when the
/// kernel cannot. A real server of another method needs nothing.
#[inline(always)]
pub fn complete_to_server<A: Family, H: Hook>(packet: &mut Packet<H>, real: &Real) -> bool {
    if !H::BY_HELPER || real.method != METHOD_NAT {
        return true;
    }
    let ports = ports_delta(real);
    let addresses = csum::fold(u32::from(real.l4_delta) + u32::from(csum::reverse(ports)));
    packet.correct(check_at::<A>(), addresses, ports, A::BALANCED)
}

/// The same for [`to_client`].
#[inline(always)]
pub fn complete_to_client<A: Family, H: Hook>(packet: &mut Packet<H>, real: &Real) -> bool {
    if !H::BY_HELPER {
        return true;
    }
    let ports = ports_delta(real);
    let addresses = csum::fold(u32::from(csum::reverse(real.l4_delta)) + u32::from(ports));
    let ports = if ports == 0 { 0 } else { csum::reverse(ports) };
    packet.correct(check_at::<A>(), addresses, ports, A::BALANCED)
}

/// The part of `l4_delta` that is outside of the pseudo header; 0 when the port stays.
#[inline(always)]
fn ports_delta(real: &Real) -> u16 {
    if real.port == real.vip_port {
        return 0;
    }
    csum::fold(csum::delta16(real.vip_port, real.port))
}

#[inline(always)]
const fn check_at<A: Family>() -> u32 {
    ETH_LEN as u32 + A::HEADER + TCP_CHECK as u32
}
