//! Direct server return: the frame is addressed to the real server, all else stays.

use lb_common::abi::Real;

use crate::{family::Family, parse::Frame};

#[inline(always)]
pub fn to_server<A: Family>(frame: &Frame<'_, A>, real: &Real) {
    A::set_macs(&frame.ip, real.macs);
}
