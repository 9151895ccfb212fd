//! Adverts that have come in, each to the instance that it is for; and who claims VIPs by ARP.

use super::{super::clock, VrrpRole, lower};
use crate::{
    base::time::Instant,
    vrrp::{router::Input, wire::Datagram},
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
        let (ipv4, vrid) = match Datagram::parse(&bytes) {
            Ok(datagram) => (datagram.source.is_ipv4(), datagram.vrid().unwrap_or(0)),
            Err(reason) => {
                let count = self.malformed.entry(reason).or_default();
                *count += 1;
                if *count == 1 {
                    tracing::warn!(interface, %reason, "datagram is no VRRP advert");
                }
                return;
            }
        };
        let instance = self.instances.iter_mut().find(|instance| {
            let lower::Identity { interface: own, vrid: id, ipv4: family } = &instance.identity;
            own == interface && id.get() == vrid && *family == ipv4
        });
        if let Some(instance) = instance {
            instance.feed(Input::Datagram(bytes), now, &mut self.shell);
            return;
        }
        let count = self.foreign.entry((interface.to_owned(), vrid)).or_default();
        *count += 1;
        if *count == 1 {
            tracing::info!(interface, vrid, "adverts of a VRID that is not ours");
        }
    }
}
