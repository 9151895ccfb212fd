//! What the forwarder's loop needs of an engine beyond [`DataPlane`].

use lb_common::abi::Orphan;

use crate::{
    config::model::XdpMode,
    dataplane::{
        DataPlane,
        xdp::{Xdp, orphans::Ask},
    },
};

/// An engine that the loop can drive.
pub(super) trait Plane: DataPlane {
    /// [`Xdp::set_mode`].
    fn set_mode(&mut self, mode: XdpMode);
    /// [`Xdp::asks`].
    fn asks(&mut self, orphan: &Orphan) -> anyhow::Result<Vec<Ask>>;
}

impl Plane for Xdp {
    fn set_mode(&mut self, mode: XdpMode) {
        Self::set_mode(self, mode);
    }

    fn asks(&mut self, orphan: &Orphan) -> anyhow::Result<Vec<Ask>> {
        Self::asks(self, orphan)
    }
}

#[cfg(test)]
impl Plane for crate::dataplane::fake::Fake {
    fn set_mode(&mut self, _mode: XdpMode) {}

    fn asks(&mut self, _orphan: &Orphan) -> anyhow::Result<Vec<Ask>> {
        Ok(Vec::new())
    }
}
