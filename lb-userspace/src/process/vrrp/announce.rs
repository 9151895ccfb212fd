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
    config::model::GarpExtra,
    io::link::{Object, Vip},
    vrrp::{arp, nd, pacer::Announcement},
};

/// Announcements sent in one turn of the loop, so that 4,096 VIPs do not hold up adverts.
const BUDGET: usize = 256;

/// When `garp_extra_if` announces next.
#[derive(Debug, Default)]
pub(super) struct Extra(Option<Instant>);

impl Extra {
    /// No announcement before it is asked for again.
    pub(super) fn stop(&mut self) {
        self.0 = None;
    }

    /// When [`Extra::due`] has something.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0
    }

    /// What to announce now, and after one interval again; the first time comes one interval after
    /// the first call, a shorter interval of a reload counts at once. `wanted` is `None` while no
    /// VIP is to be here.
    fn due(&mut self, wanted: Option<GarpExtra>, now: Instant) -> Option<GarpExtra> {
        let Some(extra) = wanted else {
            self.stop();
            return None;
        };
        let next = self.0.is_none_or(|at| at > now);
        let after = now + extra.every;
        self.0 = Some(self.0.filter(|at| *at > now).map_or(after, |at| at.min(after)));
        (!next).then_some(extra)
    }
}

/// The first VIP of each interface but that of the adverts: of virtual MAC interfaces only, unless
/// `all` are meant.
fn extra_vips<'a>(
    vips: &'a [Vip],
    links: &BTreeSet<String>,
    adverts: &str,
    all: bool,
) -> Vec<&'a Vip> {
    let mut done = BTreeSet::from([adverts]);
    let chosen = vips
        .iter()
        .filter(|vip| (all || links.contains(&vip.interface)) && done.insert(&vip.interface));
    chosen.collect()
}

impl Instance {
    /// Adverts with the virtual MAC, announcements and probes leave in frames: a takeover finds their
    /// sockets open.
    pub(super) fn open_frames(&self, shell: &mut Shell) {
        let mut last = None;
        for name in self.advert_link().into_iter().chain(self.frames_of_vips()) {
            // Thousands of VIPs are on one interface.
            if last.replace(name) != Some(name) {
                shell.interfaces.open_frames(name);
            }
        }
    }

    /// The interfaces that its frames leave by: adverts, announcements, of its own source too, and probes.
    pub(super) fn senders(&self) -> impl Iterator<Item = &str> {
        let own = [self.model.interface.as_str()];
        self.advert_link().into_iter().chain(own).chain(self.frames_of_vips())
    }

    /// Where VIPs are announced, and where they are asked for.
    fn frames_of_vips(&self) -> impl Iterator<Item = &str> {
        let interfaces = || self.vips.iter().map(|vip| vip.interface.as_str());
        interfaces().chain(interfaces().map(|name| self.asked_on(name).0))
    }

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

    /// Asks the LAN who has the VIPs, by ARP and by neighbour solicitations.
    pub(super) fn probe(&mut self, shell: &mut Shell) {
        // Thousands of VIPs are on one link, whose addresses they are meanwhile.
        let mut source: Option<(&str, Option<IpAddr>)> = None;
        for vip in &self.vips {
            let (link, _) = self.asked_on(&vip.interface);
            let sent = match vip.prefix.addr {
                IpAddr::V4(address) => {
                    shell.interfaces.send_frame(link, |mac| arp::probe(mac, address).to_vec())
                }
                IpAddr::V6(address) => {
                    if source.is_none_or(|(of, _)| of != link) {
                        let interface = shell.interfaces.get(link);
                        let found = interface.and_then(|it| it.source(&self.own, true, false));
                        source = Some((link, found));
                    }
                    match source.and_then(|(_, found)| found) {
                        Some(IpAddr::V6(source)) => shell.interfaces.send_frame(link, |mac| {
                            nd::solicitation(mac, source, address).to_vec()
                        }),
                        _ => Err(format!("{link} has no link-local address")),
                    }
                }
            };
            if let Err(error) = sent {
                tracing::debug!(instance = self.model.name, error, "VIP not asked for");
            }
        }
    }

    /// `garp_extra_if`: one announcement on each interface of VIPs that carries no adverts.
    pub(super) fn extra(&mut self, now: Instant, shell: &mut Shell) {
        let wanted = self.model.on_host.garp_extra.filter(|_| self.wants_vips);
        let Some(extra) = self.extra.due(wanted, now) else { return };
        let adverts = self.advert_link().unwrap_or(&self.model.interface);
        for vip in extra_vips(&self.vips, &self.links, adverts, extra.all) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{base::net::IpPrefix, config::model::AddressOptions};

    fn extra(seconds: u64, all: bool) -> Option<GarpExtra> {
        Some(GarpExtra { every: Duration::from_secs(seconds), all })
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn extra_announcements_come_at_their_interval_while_the_vips_are_wanted() {
        let mut it = Extra::default();
        assert_eq!((it.due(None, at(1)), it.poll_timeout()), (None, None));
        // The takeover itself announces; an interval begins with it.
        assert_eq!((it.due(extra(60, false), at(100)), it.poll_timeout()), (None, Some(at(160))));
        assert_eq!((it.due(extra(60, false), at(159)), it.poll_timeout()), (None, Some(at(160))));
        assert_eq!(it.due(extra(60, true), at(161)), extra(60, true));
        assert_eq!(it.poll_timeout(), Some(at(221)), "after a late one a whole interval");
        // A reload: a shorter interval counts at once, a longer one from the next on.
        assert_eq!((it.due(extra(5, false), at(162)), it.poll_timeout()), (None, Some(at(167))));
        assert_eq!((it.due(extra(99, false), at(163)), it.poll_timeout()), (None, Some(at(167))));
        assert_eq!(it.due(extra(99, false), at(167)), extra(99, false));
        assert_eq!(it.poll_timeout(), Some(at(266)));
        assert_eq!((it.due(None, at(168)), it.poll_timeout()), (None, None), "no VIP is wanted");
        it.due(extra(60, false), at(200));
        it.stop();
        assert_eq!(it.poll_timeout(), None);
    }

    #[test]
    fn each_interface_without_adverts_is_told_once() {
        let vip = |(interface, last): (&str, u8)| Vip {
            interface: interface.into(),
            prefix: IpPrefix::host([192, 0, 2, last].into()),
            label: None,
            broadcast: None,
            scope: 0,
            options: AddressOptions::default(),
        };
        let vips: Vec<Vip> = [
            ("eth0", 1),
            ("vrrp.1", 2),
            ("vrrp.1.1", 3),
            ("vrrp.1.1", 4),
            ("eth1", 5),
            ("eth1", 6),
            ("vrrp.1.2", 7),
        ]
        .map(vip)
        .into();
        let links: BTreeSet<String> = ["vrrp.1", "vrrp.1.1", "vrrp.1.2"].map(str::to_owned).into();
        let rows: [(&str, bool, &[u8]); 4] = [
            ("vrrp.1", false, &[3, 7]),
            ("vrrp.1", true, &[1, 3, 5, 7]),
            ("eth0", false, &[2, 3, 7]),
            ("eth0", true, &[2, 3, 5, 7]),
        ];
        for (adverts, all, want) in rows {
            let chosen = extra_vips(&vips, &links, adverts, all);
            let chosen: Vec<IpAddr> = chosen.iter().map(|vip| vip.prefix.addr).collect();
            let want: Vec<IpAddr> = want.iter().map(|last| [192, 0, 2, *last].into()).collect();
            assert_eq!(chosen, want, "adverts by {adverts}, all: {all}");
        }
    }
}
