//! Destination NAT and its way back. The client's address is kept; checksums are corrected by the
//! deltas that user space computed once for each real server.

use lb_common::{abi::Real, csum};

use super::dsr::address;
use crate::{
    access::NextHop,
    parse::{IP_CHECK, IP_DST, IP_SRC, TCP_CHECK, TCP_DST, TCP_SRC, TcpView},
};

/// VIP:port becomes the real server's.
#[inline(always)]
pub fn to_server(view: &TcpView<'_>, real: &Real) {
    address(view, real.macs);
    view.set::<u32, IP_DST>(real.addr);
    view.set::<u16, TCP_DST>(real.port);
    correct(view, real.ip_delta, real.l4_delta);
}

/// The real server's address becomes VIP:port again.
#[inline(always)]
pub fn to_client(view: &TcpView<'_>, real: &Real, way: &NextHop) {
    address(view, way.macs);
    view.set::<u32, IP_SRC>(real.vip);
    view.set::<u16, TCP_SRC>(real.vip_port);
    correct(view, csum::reverse(real.ip_delta), csum::reverse(real.l4_delta));
}

#[inline(always)]
fn correct(view: &TcpView<'_>, ip: u16, l4: u16) {
    view.set::<u16, IP_CHECK>(csum::update(view.get::<u16, IP_CHECK>(), ip));
    view.set::<u16, TCP_CHECK>(csum::update(view.get::<u16, TCP_CHECK>(), l4));
}
