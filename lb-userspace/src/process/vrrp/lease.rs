//! The lease map as the vrrp role sees it: opened, written, and tried again when that fails.

use std::{path::Path, time::Duration};

use super::{
    VrrpRole,
    instance::{Instance, Shell},
};
use crate::{
    base::{
        table::{LeaseSlot, LeaseState},
        time::Instant,
    },
    dataplane::xdp::LeaseWriter,
    process::clock,
    vrrp::router::Input,
};

/// How often a lease that cannot be written, or a map that cannot be opened, is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Where leases are written: the pinned kernel map, or a fake in tests.
pub(super) trait LeaseStore: Send {
    /// One map update.
    fn set(&mut self, slot: LeaseSlot, state: LeaseState) -> anyhow::Result<()>;
    /// What the slot says.
    fn get(&mut self, slot: LeaseSlot) -> anyhow::Result<LeaseState>;
    /// Whether a lease could be had, as far as that can be known without writing one.
    fn probe(&mut self, slot: LeaseSlot) -> anyhow::Result<()>;
    /// Takes what is pinned now, in place of what cannot be written.
    fn reopen(&mut self, pin_dir: &Path) -> anyhow::Result<()>;
    /// Whether the program reads what is written here; false once the forwarder had to make new
    /// maps, because somebody removed the pins.
    fn is_current(&self, pin_dir: &Path) -> bool;
}

impl LeaseStore for LeaseWriter {
    fn set(&mut self, slot: LeaseSlot, state: LeaseState) -> anyhow::Result<()> {
        Self::set(self, slot, state)
    }

    fn get(&mut self, slot: LeaseSlot) -> anyhow::Result<LeaseState> {
        Self::get(self, slot)
    }

    fn probe(&mut self, slot: LeaseSlot) -> anyhow::Result<()> {
        Self::probe(self, slot)
    }

    fn reopen(&mut self, pin_dir: &Path) -> anyhow::Result<()> {
        Self::reopen(self, pin_dir)
    }

    fn is_current(&self, pin_dir: &Path) -> bool {
        self.is_pinned(pin_dir)
    }
}

pub(super) type Open = fn(&Path) -> anyhow::Result<Box<dyn LeaseStore>>;

/// Opens the pinned lease map of this instance of lbd.
///
/// # Errors
/// The map is not there, or not of this layout.
pub(super) fn open(pin_dir: &Path) -> anyhow::Result<Box<dyn LeaseStore>> {
    Ok(Box::new(LeaseWriter::open(pin_dir)?))
}

/// The lease map of all instances.
#[derive(Default)]
pub(super) struct Leases {
    /// `None` until the data plane has converged, and for ever when the host cannot fence itself.
    store: Option<Box<dyn LeaseStore>>,
    /// It could not be opened, or a lease could not be written since.
    failed: bool,
    /// When [`VrrpRole::lend`] has something to try again.
    pub retry: Option<Instant>,
}

impl Leases {
    /// Whether leases are written at all.
    pub fn is_open(&self) -> bool {
        self.store.is_some()
    }

    fn retry_by(&mut self, at: Instant) {
        self.retry = Some(self.retry.map_or(at, |other| other.min(at)));
    }

    /// Opens the map where that is needed; true when it did.
    fn open(&mut self, open: Open, pin_dir: &Path) -> anyhow::Result<bool> {
        let current = self.store.as_ref().is_some_and(|store| store.is_current(pin_dir));
        if current && !self.failed {
            return Ok(false);
        }
        self.failed = true;
        match &mut self.store {
            Some(store) => store.reopen(pin_dir)?,
            None => self.store = Some(open(pin_dir)?),
        }
        self.failed = false;
        Ok(true)
    }

    fn set(&mut self, slot: LeaseSlot, state: LeaseState, pin_dir: &Path) -> anyhow::Result<()> {
        let Some(store) = &mut self.store else { return Ok(()) };
        let mut written = store.set(slot, state);
        // A descriptor that broke is no reason to leave the VIPs. With another map all leases are to be
        // written anew: that is for `lend`.
        if written.is_err() && !self.failed && store.is_current(pin_dir) {
            written = store.reopen(pin_dir).and_then(|()| store.set(slot, state));
        }
        if written.is_err() {
            self.failed = true;
            self.retry_by(clock::now() + RETRY);
        }
        written
    }

    fn get(&mut self, slot: LeaseSlot) -> anyhow::Result<LeaseState> {
        self.store.as_mut().map_or(Ok(LeaseState::Standby), |store| store.get(slot))
    }

    fn probe(&mut self, slot: LeaseSlot) -> anyhow::Result<()> {
        self.store.as_mut().map_or(Ok(()), |store| store.probe(slot))
    }
}

/// The lease of one instance.
#[derive(Default)]
pub(super) struct Lease {
    slot: Option<LeaseSlot>,
    /// What the slot should say.
    asked: Option<LeaseState>,
    /// Why it does not.
    fault: Option<String>,
}

impl VrrpRole {
    /// Tells instances that the data plane is ready for them, with the lease that a process
    /// before us may have left running; and whether leases can be written, which is tried again each
    /// second while they cannot.
    pub(super) fn lend(&mut self, now: Instant) {
        let Some((slots, fenced)) = &self.converged else { return };
        let shell = &mut self.shell;
        shell.leases.retry = None;
        let mut anew = false;
        if *fenced {
            match shell.leases.open(self.open_lease, &shell.pin_dir) {
                Ok(opened) => anew = opened,
                Err(error) => {
                    shell.leases.retry_by(now + RETRY);
                    for instance in &mut self.instances {
                        instance.feed(Input::Fence(true), now, shell);
                        let fault = instance.lease_failed(&error);
                        instance.feed(fault, now, shell);
                    }
                    return;
                }
            }
        }
        for instance in &mut self.instances {
            let mut resume = None;
            if *fenced {
                let slot = slots.iter().find(|(name, _)| *name == instance.model.name);
                let Some((_, slot)) = slot else { continue };
                instance.feed(Input::Fence(true), now, shell);
                match instance.take_slot(*slot, shell) {
                    Ok(LeaseState::Until(end)) => resume = Some(end),
                    Ok(LeaseState::Standby) => {}
                    Err(error) => {
                        shell.leases.failed = true;
                        shell.leases.retry_by(now + RETRY);
                        let fault = instance.lease_failed(&error);
                        instance.feed(fault, now, shell);
                        continue;
                    }
                }
                if instance.lease.fault.take().is_some() {
                    tracing::info!(
                        instance = instance.model.name,
                        "its lease can be written again"
                    );
                    instance.feed(Input::LeaseFault(None), now, shell);
                }
            } else {
                instance.feed(Input::Fence(false), now, shell);
                // Leases are nothing to it, nor is one that failed when a fence comes back.
                if instance.lease.fault.take().is_some() {
                    instance.feed(Input::LeaseFault(None), now, shell);
                }
            }
            // What forwards already goes on.
            if now < self.earliest && resume.is_none_or(|end| end <= now) {
                shell.leases.retry_by(self.earliest);
                continue;
            }
            instance.feed(Input::Converged { resume }, now, shell);
            if anew {
                // A master whose map was replaced forwards again at once, not after its next advert.
                instance.write_running_lease(now, shell);
            }
        }
    }
}

impl Instance {
    /// What its slot says. After a fault it first has to take what was to be written.
    fn take_slot(&mut self, slot: LeaseSlot, shell: &mut Shell) -> anyhow::Result<LeaseState> {
        self.lease.slot = Some(slot);
        let found = shell.leases.get(slot)?;
        if self.lease.fault.is_some() {
            shell.leases.probe(slot)?;
            if let Some(state) = self.lease.asked {
                shell.leases.set(slot, state, &shell.pin_dir)?;
            }
        }
        Ok(found)
    }

    /// For the log, once, and for the state machine.
    fn lease_failed(&mut self, error: &anyhow::Error) -> Input {
        let (instance, text) = (&self.model.name, format!("{error:#}"));
        if self.lease.fault.as_ref() != Some(&text) {
            tracing::error!(instance, error = text, "the lease cannot be written: tried again");
        }
        self.lease.fault = Some(text.clone());
        Input::LeaseFault(Some(text))
    }

    /// Writes the lease that runs, if one does, into a map that does not know it.
    fn write_running_lease(&mut self, now: Instant, shell: &mut Shell) {
        if let Some(end) = self.router.lease_end().filter(|end| *end > now) {
            self.write_lease(LeaseState::Until(end), shell);
            self.perform(shell);
        }
    }

    /// One map update, and what follows when that fails; the caller performs it.
    pub(super) fn write_lease(&mut self, state: LeaseState, shell: &mut Shell) {
        let Some(slot) = self.lease.slot else { return };
        self.lease.asked = Some(state);
        if let Err(error) = shell.leases.set(slot, state, &shell.pin_dir) {
            let fault = self.lease_failed(&error);
            self.handle(fault, clock::now(), shell);
        }
    }
}

#[cfg(test)]
mod tests;
