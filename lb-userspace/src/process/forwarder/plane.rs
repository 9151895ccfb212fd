//! What the forwarder's loop needs of an engine beyond [`DataPlane`].

use lb_common::abi::Orphan;

use crate::{
    base::time::Instant,
    config::model::Attachment,
    dataplane::{
        DataPlane,
        ipvs::Ipvs,
        xdp::{Xdp, orphans::Ask, resets::Notice},
    },
};

/// An engine that the loop can drive.
pub(super) trait Plane: DataPlane {
    /// [`Xdp::set_attachment`].
    fn set_attachment(&mut self, wanted: Attachment);
    /// [`Xdp::asks`].
    fn asks(&mut self, orphan: &Orphan) -> anyhow::Result<Vec<Ask>>;
    /// [`Xdp::notices_at`].
    fn notices_at(&self) -> Option<Instant>;
    /// [`Xdp::notices`].
    fn notices(&mut self, now: Instant) -> anyhow::Result<Vec<Notice>>;
    /// The tables of connections that flow sync works on, if the engine has such.
    fn tables(&mut self) -> Option<&mut Xdp>;
}

impl Plane for Xdp {
    fn set_attachment(&mut self, wanted: Attachment) {
        Self::set_attachment(self, wanted);
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

    fn tables(&mut self) -> Option<&mut Xdp> {
        Some(self)
    }
}

impl Plane for Ipvs {
    fn set_attachment(&mut self, _: Attachment) {}

    fn asks(&mut self, _orphan: &Orphan) -> anyhow::Result<Vec<Ask>> {
        Ok(Vec::new())
    }

    fn notices_at(&self) -> Option<Instant> {
        None
    }

    fn notices(&mut self, _now: Instant) -> anyhow::Result<Vec<Notice>> {
        Ok(Vec::new())
    }

    fn tables(&mut self) -> Option<&mut Xdp> {
        None
    }
}

#[cfg(test)]
impl Plane for crate::dataplane::fake::Fake {
    fn set_attachment(&mut self, _: Attachment) {}

    fn asks(&mut self, _orphan: &Orphan) -> anyhow::Result<Vec<Ask>> {
        Ok(Vec::new())
    }

    fn notices_at(&self) -> Option<Instant> {
        (self.telling > 0).then_some(Instant::ZERO)
    }

    fn notices(&mut self, _now: Instant) -> anyhow::Result<Vec<Notice>> {
        self.telling = self.telling.saturating_sub(1);
        self.worked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Vec::new())
    }

    fn tables(&mut self) -> Option<&mut Xdp> {
        None
    }
}
