//! Sending announcements of VIPs at their pace, and asking who has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
};

use super::{
    VrrpRole,
    instance::{Instance, Shell},
    interfaces::Interfaces,
};
use crate::{
    base::{net::Mac, time::Instant},
    io::link::{Object, Vip},
    vrrp::{arp, nd, pacer::Announcement},
};

/// Announcements sent in one turn of the loop, so that 4,096 VIPs do not hold up adverts.
const BUDGET: usize = 256;

impl Instance {
    /// Queues announcements of every VIP that is here, so often: round after round, as keepalived,
    /// so that every VIP is told early. One that could not be put on is not: nobody would answer.
    pub(super) fn announce(&mut self, repeat: u32, shell: &mut Shell) {
        let failed = self.set_errors.iter().filter_map(|it| match &it.object {
            Object::Address(vip) => Some(vip),
            _ => None,
        });
        let failed: BTreeSet<&Vip> = failed.collect();
        let here: Vec<&Vip> = self.vips.iter().filter(|vip| !failed.contains(vip)).collect();
        for _ in 0..repeat {
            for vip in &here {
                shell.pacer.push(Announcement {
                    instance: self.model.name.clone(),
                    interface: vip.interface.clone(),
                    address: vip.prefix.addr,
                });
            }
        }
    }

    /// Asks by ARP who has the VIPs.
    pub(super) fn probe(&mut self, shell: &mut Shell) {
        for vip in &self.vips {
            let IpAddr::V4(address) = vip.prefix.addr else { continue };
            let sent = shell
                .interfaces
                .send_frame(&vip.interface, |mac| arp::probe(mac, address).to_vec());
            if let Err(error) = sent {
                tracing::debug!(instance = self.model.name, error, "VIP not asked for");
            }
        }
    }

    /// `garp_extra_if`: one announcement on each interface of VIPs that carries no adverts.
    pub(super) fn extra(&mut self, now: Instant, shell: &mut Shell) {
        let Some(extra) = self.model.on_host.garp_extra.filter(|_| self.wants_vips) else {
            self.extra_at = None;
            return;
        };
        let next = *self.extra_at.get_or_insert(now + extra.every);
        if next > now {
            return;
        }
        self.extra_at = Some(now + extra.every);
        let adverts = self.advert_link().unwrap_or(&self.model.interface).to_owned();
        let mut done: Vec<&str> = vec![&adverts];
        for vip in &self.vips {
            let virtual_link = self.links.contains(&vip.interface);
            if done.contains(&vip.interface.as_str()) || !virtual_link && !extra.all {
                continue;
            }
            done.push(&vip.interface);
            shell.pacer.push(Announcement {
                instance: self.model.name.clone(),
                interface: vip.interface.clone(),
                address: vip.prefix.addr,
            });
        }
    }

    /// Takes what became of its announcements.
    pub(super) fn announced(&mut self, sent: u64, error: Option<(String, String)>) {
        self.count_garps(sent);
        let Some((interface, error)) = error else { return };
        if self.garp_error.as_ref() != Some(&error) {
            let instance = &self.model.name;
            tracing::warn!(instance, interface, error, "VIP not announced");
        }
        self.garp_error = Some(error);
    }
}

impl VrrpRole {
    /// Sends the announcements that may leave now. True when more may leave at once.
    pub(super) fn send_announcements(&mut self, now: Instant) -> bool {
        let due = self.shell.pacer.due(now, BUDGET);
        let more = due.len() == BUDGET;
        let mut routers: BTreeMap<String, bool> = BTreeMap::new();
        let mut results: BTreeMap<String, (u64, Option<(String, String)>)> = BTreeMap::new();
        for Announcement { instance, interface, address } in due {
            let forwards = match address {
                IpAddr::V4(_) => false,
                IpAddr::V6(_) => {
                    *routers.entry(interface.clone()).or_insert_with(|| forwards_ipv6(&interface))
                }
            };
            let sent = send(&mut self.shell.interfaces, &interface, address, forwards);
            let (count, error) = results.entry(instance).or_default();
            match sent {
                Ok(()) => *count += 1,
                Err(text) => *error = Some((interface, text)),
            }
        }
        for (name, (sent, error)) in results {
            if let Some(instance) = self.instances.iter_mut().find(|it| it.model.name == name) {
                instance.announced(sent, error);
            }
        }
        let dropped = self.shell.pacer.dropped();
        if dropped > self.announcements_dropped {
            let count = dropped - self.announcements_dropped;
            tracing::error!(count, "announcements of VIPs dropped: their queue is full");
            self.announcements_dropped = dropped;
        }
        more
    }
}

fn send(
    interfaces: &mut Interfaces,
    interface: &str,
    address: IpAddr,
    router: bool,
) -> Result<(), String> {
    interfaces.send_frame(interface, |mac: Mac| match address {
        IpAddr::V4(address) => arp::gratuitous(mac, address).to_vec(),
        IpAddr::V6(address) => nd::advertisement(mac, address, router).to_vec(),
    })
}

/// Whether this host is an IPv6 router there; no file means no IPv6.
fn forwards_ipv6(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
