//! The lease map as the vrrp role sees it.

use std::path::Path;

use crate::{
    base::table::{LeaseSlot, LeaseState},
    dataplane::xdp::LeaseWriter,
};

/// Where leases are written: the pinned kernel map, or a fake in tests.
pub(super) trait LeaseStore: Send {
    /// One map update.
    fn set(&mut self, slot: LeaseSlot, state: LeaseState) -> anyhow::Result<()>;
    /// What the slot says.
    fn get(&mut self, slot: LeaseSlot) -> anyhow::Result<LeaseState>;
    /// Whether the program reads what is written here; false once the forwarder had to make new
    /// maps, because somebody removed the pins.
    fn is_current(&self, _pin_dir: &Path) -> bool {
        true
    }
}

impl LeaseStore for LeaseWriter {
    fn set(&mut self, slot: LeaseSlot, state: LeaseState) -> anyhow::Result<()> {
        Self::set(self, slot, state)
    }

    fn get(&mut self, slot: LeaseSlot) -> anyhow::Result<LeaseState> {
        Self::get(self, slot)
    }

    fn is_current(&self, pin_dir: &Path) -> bool {
        self.is_pinned(pin_dir)
    }
}

/// Opens the pinned lease map of this instance of lbd.
///
/// # Errors
/// The map is not there, or not of this layout.
pub(super) fn open(pin_dir: &Path) -> anyhow::Result<Box<dyn LeaseStore>> {
    Ok(Box::new(LeaseWriter::open(pin_dir)?))
}
