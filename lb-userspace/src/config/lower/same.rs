//! Objects that are given twice, and addresses that stand for two things.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    super::{
        diag::{Class, Severity},
        model::VrrpInstance,
        source::Span,
    },
    Lower,
    cross::Marks,
};

/// Interfaces with one address that are compared with each other: the time for a file of a million lines
/// stays short.
const SAME_LIMIT: usize = 64;

/// A VIP of an instance and where it stands.
pub(super) struct VipMark {
    pub(super) addr: IpAddr,
    /// Its own, or the instance's.
    pub(super) interface: String,
    /// It is one of `virtual_ipaddress_excluded`.
    pub(super) excluded: bool,
    pub(super) span: Span,
}

/// Whether keepalived runs two instances of one VRID, family and interface beside each other: of multicast
/// and unicast, or with peers of their own.
fn apart(one: &VrrpInstance, other: &VrrpInstance) -> bool {
    let unicast = |it: &VrrpInstance| !it.unicast_peers.is_empty();
    match (unicast(one), unicast(other)) {
        (false, false) => false,
        (true, true) => {
            one.source != other.source
                || !one.unicast_peers.iter().any(|peer| other.unicast_peers.contains(peer))
        }
        _ => true,
    }
}

impl Lower<'_> {
    /// An error at the second of two places, which names the first.
    pub(super) fn twice(&mut self, at: Span, first: Span, message: String, remark: &str) {
        let diagnostic =
            self.diagnostic(Severity::Error, at, message).related(self.place(first), remark);
        self.sink.push(diagnostic);
    }

    /// The same of a block that keepalived takes twice without a word: who wrote two of one name meant both of
    /// them, and one would be lost.
    pub(super) fn defined_twice(&mut self, at: Span, first: Span, message: String) {
        let diagnostic = self
            .diagnostic(Severity::Error, at, message)
            .class(Class::CannotRun)
            .related(self.place(first), "defined here before");
        self.sink.push(diagnostic);
    }

    /// The same where keepalived has nothing to say, and lbd cannot run it.
    fn twice_here(&mut self, [at, first]: [Span; 2], message: String, remark: &str, help: &str) {
        let diagnostic = self
            .diagnostic(Severity::Error, at, message)
            .class(Class::CannotRun)
            .related(self.place(first), remark)
            .help(help);
        self.sink.push(diagnostic);
    }

    pub(super) fn duplicate_instances(&mut self, marks: &Marks) {
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        let mut ids: BTreeMap<(String, u8, bool), usize> = BTreeMap::new();
        for (at, mark) in marks.instances.iter().enumerate() {
            let Some(instance) = self.config.vrrp_instances.get(at) else { break };
            let name = instance.name.clone();
            let key = (instance.interface.clone(), instance.vrid.get(), instance.wire.ipv6);
            if let Some(first) = names.get(&name) {
                let message = format!("vrrp_instance `{name}` is defined twice");
                self.twice(mark.name, *first, message, "defined here before");
            } else {
                names.insert(name, mark.name);
            }
            let Some(before) = ids.get(&key).copied() else {
                ids.insert(key, at);
                continue;
            };
            let both = (self.config.vrrp_instances.get(before), self.config.vrrp_instances.get(at));
            let legal = matches!(both, (Some(one), Some(other)) if apart(one, other));
            let first = marks.instances.get(before).map_or(mark.vrid, |it| it.vrid);
            let message =
                format!("virtual_router_id {} is used twice on interface {}", key.1, key.0);
            if legal {
                let help = "keepalived tells them apart by their peers; lbd knows an instance by \
                            interface, VRID and family: give one of them another VRID";
                self.twice_here([mark.vrid, first], message, "used here before", help);
            } else {
                self.twice(mark.vrid, first, message, "used here before");
            }
        }
    }

    /// One address has one lease and one state. An instance may have it on two interfaces if adverts name it
    /// only once, as in keepalived.
    pub(super) fn duplicate_vips(&mut self, marks: &Marks) {
        let mut seen: BTreeMap<IpAddr, Vec<(usize, &VipMark)>> = BTreeMap::new();
        let vips = marks.instances.iter().enumerate();
        for (instance, vip) in vips.flat_map(|(at, mark)| mark.vips.iter().map(move |it| (at, it)))
        {
            let before = seen.entry(vip.addr).or_default();
            let conflict = before.iter().find(|(other, it)| {
                *other != instance
                    || it.interface == vip.interface
                    || !(it.excluded || vip.excluded)
            });
            match conflict {
                Some((_, first)) => {
                    let help = "one vrrp_instance holds it: take one of the lines out";
                    let message = format!("VIP {} is listed twice", vip.addr);
                    self.twice_here([vip.span, first.span], message, "listed here before", help);
                }
                None if before.len() < SAME_LIMIT => before.push((instance, vip)),
                None => {}
            }
        }
    }

    /// Connections to a real server that is a VIP of this file end at this host while it holds that VIP.
    pub(super) fn real_servers_that_are_vips(&mut self, marks: &Marks) {
        let mut vips: BTreeMap<IpAddr, Span> = BTreeMap::new();
        for vip in marks.instances.iter().flat_map(|mark| &mark.vips) {
            vips.entry(vip.addr).or_insert(vip.span);
        }
        for (server, span) in self.config.virtual_servers.iter().zip(&marks.virtual_servers) {
            vips.entry(server.key.addr.ip()).or_insert(*span);
        }
        let reals = self.config.virtual_servers.iter().flat_map(|server| {
            let vip = server.key.addr.ip();
            server.real_servers.iter().map(move |real| (vip, real.addr))
        });
        // That of its own virtual server is an error.
        let found: Vec<_> = reals
            .zip(&marks.reals)
            .filter(|((vip, real), _)| real.ip() != *vip)
            .filter_map(|((_, real), span)| Some((real, *span, *vips.get(&real.ip())?)))
            .collect();
        for (real, span, vip) in found {
            let message = format!("real_server {real} is a VIP of this file");
            let diagnostic = self
                .diagnostic(Severity::Warning, span, message)
                .class(Class::Advice)
                .related(self.place(vip), "listed here")
                .help(
                    "while this host holds that VIP connections end at the host itself, and at none of \
                     that VIP's servers: name the servers",
                );
            self.sink.push(diagnostic);
        }
    }

    pub(super) fn duplicate_virtual_servers(&mut self, marks: &Marks) {
        let mut seen = BTreeMap::new();
        let keys: Vec<_> = self.config.virtual_servers.iter().map(|server| server.key).collect();
        for (key, span) in keys.into_iter().zip(&marks.virtual_servers) {
            if let Some(first) = seen.get(&key) {
                let message = format!("virtual_server {key} is defined twice");
                self.defined_twice(*span, *first, message);
            } else {
                seen.insert(key, *span);
            }
        }
    }
}
