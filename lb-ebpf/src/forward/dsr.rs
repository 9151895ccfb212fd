//! Direct server return: the frame is addressed to the real server, all else stays.

use lb_common::abi::Real;

use crate::parse::TcpView;

#[inline(always)]
pub fn to_server(view: &TcpView<'_>, real: &Real) {
    address(view, real.macs);
}

/// Writes destination and source MAC.
#[inline(always)]
pub fn address(view: &TcpView<'_>, macs: [u32; 3]) {
    view.set::<u32, 0>(macs[0]);
    view.set::<u32, 4>(macs[1]);
    view.set::<u32, 8>(macs[2]);
}
