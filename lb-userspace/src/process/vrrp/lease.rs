//! The lease map as the vrrp role sees it.

use crate::base::table::{LeaseSlot, LeaseState};

/// Where leases are written: the pinned kernel map, or a fake in tests.
pub(super) trait LeaseStore: Send {
    /// One map update.
    fn set(&mut self, slot: LeaseSlot, state: LeaseState) -> anyhow::Result<()>;
    /// What the slot says.
    fn get(&mut self, slot: LeaseSlot) -> anyhow::Result<LeaseState>;
}

/// Opens the pinned lease map of this instance of lbd.
///
/// # Errors
/// The map is not there, or not of this layout.
pub(super) fn open(pin_dir: &std::path::Path) -> anyhow::Result<Box<dyn LeaseStore>> {
    anyhow::bail!("no lease map in {}", pin_dir.display())
}
