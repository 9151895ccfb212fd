//! What the forwarder's loop needs of an engine beyond [`DataPlane`].

use lb_common::abi::Orphan;

use crate::{
    base::time::Instant,
    config::model::XdpMode,
    dataplane::{
        DataPlane,
        xdp::{Xdp, orphans::Ask, resets::Notice},
    },
};

/// An engine that the loop can drive.
pub(super) trait Plane: DataPlane {
    /// [`Xdp::set_mode`].
    fn set_mode(&mut self, mode: XdpMode);
    /// [`Xdp::asks`].
    fn asks(&mut self, orphan: &Orphan) -> anyhow::Result<Vec<Ask>>;
    /// [`Xdp::notices_at`].
    fn notices_at(&self) -> Option<Instant>;
    /// [`Xdp::notices`].
    fn notices(&mut self, now: Instant) -> anyhow::Result<Vec<Notice>>;
}

impl Plane for Xdp {
    fn set_mode(&mut self, mode: XdpMode) {
        Self::set_mode(self, mode);
    }

    fn asks(&mut self, orphan: &Orphan) -> anyhow::Result<Vec<Ask>> {
        Self::asks(self, orphan)
    }

    fn notices_at(&self) -> Option<Instant> {
        Self::notices_at(self)
    }

    fn notices(&mut self, now: Instant) -> anyhow::Result<Vec<Notice>> {
        Self::notices(self, now)
    }
}

#[cfg(test)]
impl Plane for crate::dataplane::fake::Fake {
    fn set_mode(&mut self, _mode: XdpMode) {}

    fn asks(&mut self, _orphan: &Orphan) -> anyhow::Result<Vec<Ask>> {
        Ok(Vec::new())
    }

    fn notices_at(&self) -> Option<Instant> {
        None
    }

    fn notices(&mut self, _now: Instant) -> anyhow::Result<Vec<Notice>> {
        Ok(Vec::new())
    }
}
