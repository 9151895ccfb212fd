//! Adverts that have come in, each to the instance that it is for; and who claims VIPs.

use super::{super::clock, VrrpRole, lower};
use crate::{
    base::time::Instant,
    vrrp::{
        router::Input,
        wire::{Datagram, Reason},
    },
};

impl VrrpRole {
    /// True when adverts are left for the next turn.
    pub(super) fn read_adverts(&mut self) -> bool {
        let mut received: Vec<(String, Vec<u8>)> = Vec::new();
        let more = self
            .shell
            .interfaces
            .read(|name, bytes| received.push((name.to_owned(), bytes.to_vec())));
        let now = clock::now();
        for (interface, bytes) in received {
            self.datagram(&interface, bytes, now);
        }
        for (interface, mac, address) in self.shell.interfaces.claims() {
            for instance in &mut self.instances {
                instance.claimed(&interface, mac, address, now, &mut self.shell);
            }
        }
        more
    }

    fn datagram(&mut self, interface: &str, bytes: Vec<u8>, now: Instant) {
        // One that was damaged on its way is counted by the instance it was meant for.
        let (target, reason) = match Datagram::parse(&bytes) {
            Ok(datagram) => {
                let vrid = datagram.vrid();
                (vrid.map(|vrid| (datagram.source.is_ipv4(), vrid)), None)
            }
            Err(reason) => (Datagram::meant_for(&bytes), Some(reason)),
        };
        let instance = self.instances.iter_mut().find(|instance| {
            let lower::Identity { interface: own, vrid, ipv4 } = &instance.identity;
            own == interface && target == Some((*ipv4, vrid.get()))
        });
        if let Some(instance) = instance {
            instance.feed(Input::Datagram(bytes), now, &mut self.shell);
            return;
        }
        let (reason, vrid) = match (reason, target) {
            (Some(reason), _) => (reason, None),
            (None, Some((_, vrid))) => (Reason::Vrid, Some(vrid)),
            (None, None) => (Reason::TooShort, None),
        };
        if let Some(text) = self.strays.count(interface, reason, vrid, now) {
            tracing::info!(interface, "advert for no instance: {text}");
        }
    }
}
