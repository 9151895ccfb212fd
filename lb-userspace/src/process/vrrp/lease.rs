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
}

impl LeaseStore for LeaseWriter {
    fn set(&mut self, slot: LeaseSlot, state: LeaseState) -> anyhow::Result<()> {
        Self::set(self, slot, state)
    }

    fn get(&mut self, slot: LeaseSlot) -> anyhow::Result<LeaseState> {
        Self::get(self, slot)
    }
}

/// Opens the pinned lease map of this instance of lbd.
///
/// # Errors
/// The map is not there, or not of this layout.
pub(super) fn open(pin_dir: &Path) -> anyhow::Result<Box<dyn LeaseStore>> {
    Ok(Box::new(LeaseWriter::open(pin_dir)?))
}
