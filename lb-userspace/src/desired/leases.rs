//! Which lease slot belongs to which vrrp_instance.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    base::{net::Vrid, table::LeaseSlot},
    config::model::{Config, VrrpInstance},
};

/// Slots by instance. An instance keeps its slot across reloads (also when it is renamed but
/// keeps VRID, family and interface) and across restarts of the forwarder (from the observed VIPs).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseSlots {
    slots: BTreeMap<String, Held>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    slot: LeaseSlot,
    identity: Identity,
}

/// What makes an instance the same one before and after a reload: VRID, whether its adverts go over
/// IPv6, interface. The vrrp role matches its running instances by these too, so a lease stays with
/// the state machine that renews it.
type Identity = (Vrid, bool, String);

fn identity(instance: &VrrpInstance) -> Identity {
    (instance.vrid, instance.wire.ipv6, instance.interface.clone())
}

impl LeaseSlots {
    /// Slots for a configuration: those held already stay, then those that `observed` VIPs show,
    /// then the lowest free ones. Instances beyond [`LeaseSlot::LIMIT`] − 1 get none (the
    /// second value names them): they are neither guarded nor able to forward.
    pub fn allocate(
        &self,
        config: &Config,
        observed: &BTreeMap<IpAddr, LeaseSlot>,
    ) -> (Self, Vec<String>) {
        let instances = &config.vrrp_instances;
        let mut next = Allocation::default();
        let before: BTreeMap<_, _> =
            self.slots.values().map(|held| (&held.identity, held.slot)).collect();
        for instance in instances {
            if let Some(slot) = before.get(&identity(instance)) {
                next.claim(instance, *slot);
            }
        }
        for instance in instances {
            if let Some(held) = self.slots.get(&instance.name) {
                next.claim(instance, held.slot);
            }
        }
        for instance in instances {
            for vip in instance.addresses() {
                if let Some(slot) = observed.get(&vip.prefix.addr) {
                    next.claim(instance, *slot);
                }
            }
        }
        // A slot that the kernel still has for a VIP that is about to go is reused only when no
        // other is left: its lease may run.
        let busy: BTreeSet<_> =
            observed.values().copied().chain(self.slots.values().map(|held| held.slot)).collect();
        let all = || (1..LeaseSlot::LIMIT).map(LeaseSlot);
        let mut candidates =
            all().filter(|slot| !busy.contains(slot)).chain(all()).collect::<Vec<_>>().into_iter();
        for instance in instances {
            while !next.slots.contains_key(&instance.name) {
                let Some(slot) = candidates.next() else { break };
                next.claim(instance, slot);
            }
        }
        let without = instances
            .iter()
            .filter(|instance| !next.slots.contains_key(&instance.name))
            .map(|instance| instance.name.clone())
            .collect();
        (Self { slots: next.slots }, without)
    }

    /// The slot of an instance.
    pub fn get(&self, instance: &str) -> Option<LeaseSlot> {
        self.slots.get(instance).map(|held| held.slot)
    }

    /// The instance of a slot.
    pub fn name_of(&self, slot: LeaseSlot) -> Option<&str> {
        self.slots.iter().find(|(_, held)| held.slot == slot).map(|(name, _)| name.as_str())
    }

    /// All of them, by instance name.
    pub fn list(&self) -> Vec<(String, LeaseSlot)> {
        self.slots.iter().map(|(name, held)| (name.clone(), held.slot)).collect()
    }
}

#[derive(Default)]
struct Allocation {
    slots: BTreeMap<String, Held>,
    taken: BTreeSet<LeaseSlot>,
}

impl Allocation {
    /// Gives the slot to the instance unless one of them has been dealt with already.
    fn claim(&mut self, instance: &VrrpInstance, slot: LeaseSlot) {
        let valid = slot.0 > 0 && slot.0 < LeaseSlot::LIMIT;
        if valid && !self.slots.contains_key(&instance.name) && self.taken.insert(slot) {
            let held = Held { slot, identity: identity(instance) };
            self.slots.insert(instance.name.clone(), held);
        }
    }
}
