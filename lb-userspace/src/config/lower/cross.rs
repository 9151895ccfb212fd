//! What only several objects together show: duplicates, names that lead nowhere, weights that
//! change nothing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{POOL_LEN, SOURCE_LEN},
    maps,
};

use crate::base::{net::Priority, table::Method};

use super::{
    super::{
        diag::{Diagnostic, Severity},
        model::Config,
        source::Span,
    },
    Lower,
};

/// Places of an instance's words.
pub(super) struct InstanceMarks {
    pub(super) name: Span,
    pub(super) vrid: Span,
    /// Those of virtual_ipaddress_excluded too.
    pub(super) vips: Vec<(IpAddr, Span)>,
    /// Name that the file gives to its virtual interface.
    pub(super) link: Option<(String, Span)>,
    pub(super) scripts: Vec<(String, Span)>,
}

/// Places that cross checks point at; lists run parallel to the model's.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) scripts: BTreeMap<String, Span>,
    pub(super) instances: Vec<InstanceMarks>,
    pub(super) groups: Vec<super::group::GroupMarks>,
    pub(super) virtual_servers: Vec<Span>,
    pub(super) tracking: super::tracking::TrackMarks,
    pub(super) track_groups: super::statics::GroupMarks,
    /// Interfaces of `interface_up_down_delays`.
    pub(super) link_delays: Vec<(String, Span)>,
    /// The last `global_defs`.
    pub(super) global: Option<Span>,
}

impl Lower<'_> {
    /// Runs after everything is lowered.
    pub(super) fn cross_check(&mut self) {
        self.check_mail();
        let marks = std::mem::take(&mut self.marks);
        self.duplicate_instances(&marks);
        self.duplicate_vips(&marks);
        self.duplicate_links(&marks);
        self.track_group_names(&marks.track_groups);
        self.tracked_names(&marks);
        self.unused_tracked(&marks.tracking);
        self.sync_groups(&marks);
        self.useless_weights(&marks);
        self.cap_link_delays(&marks);
        self.duplicate_virtual_servers(&marks);
        self.engine_limits(&marks);
        let nothing = marks.instances.is_empty()
            && marks.virtual_servers.is_empty()
            && !self.sink.has_errors();
        if nothing {
            let place = super::Place::file(self.source.name());
            self.sink.push(
                Diagnostic::new(
                    Severity::Error,
                    place,
                    "the file has no vrrp_instance and no virtual_server: there is nothing to do",
                )
                .class(super::Class::CannotRun),
            );
        }
    }

    pub(super) fn twice(&mut self, at: Span, first: Span, message: String, remark: &str) {
        let diagnostic =
            self.diagnostic(Severity::Error, at, message).related(self.place(first), remark);
        self.sink.push(diagnostic);
    }

    /// A master that learns of its dead link no earlier than its peers take over is one of two: as
    /// in keepalived, the delay ends an advert before they do.
    fn cap_link_delays(&mut self, marks: &Marks) {
        for ((interface, span), at) in marks.link_delays.iter().zip(0..) {
            let on_it = self.config.vrrp_instances.iter().filter(|it| it.interface == *interface);
            let limits = on_it.map(|it| {
                let adverts = it.election.down_timer_adverts.saturating_sub(1);
                (it.advert_int * adverts, adverts, it.name.clone())
            });
            let Some((limit, adverts, name)) = limits.min() else { continue };
            let Some(delay) = self.config.link_delays.get_mut(at) else { continue };
            if delay.down <= limit {
                continue;
            }
            let message = format!(
                "down delay {:?} of interface {interface} is longer than {adverts} adverts of \
                 vrrp_instance {name}: {limit:?} is used",
                delay.down
            );
            delay.down = limit;
            let help = "its peers would take over while it still thinks that it is master";
            self.warn(*span, message, help);
        }
    }

    fn duplicate_instances(&mut self, marks: &Marks) {
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        let mut ids: BTreeMap<(String, u8, bool), Span> = BTreeMap::new();
        let found: Vec<_> = self
            .config
            .vrrp_instances
            .iter()
            .zip(&marks.instances)
            .map(|(instance, mark)| {
                let key = (instance.interface.clone(), instance.vrid.get(), instance.wire.ipv6);
                (instance.name.clone(), key, mark.name, mark.vrid)
            })
            .collect();
        for (name, key, at, vrid_at) in found {
            if let Some(first) = names.get(&name) {
                let message = format!("vrrp_instance `{name}` is defined twice");
                self.twice(at, *first, message, "defined here before");
            } else {
                names.insert(name, at);
            }
            if let Some(first) = ids.get(&key) {
                let message =
                    format!("virtual_router_id {} is used twice on interface {}", key.1, key.0);
                self.twice(vrid_at, *first, message, "used here before");
            } else {
                ids.insert(key, vrid_at);
            }
        }
    }

    fn duplicate_vips(&mut self, marks: &Marks) {
        let mut seen: BTreeMap<IpAddr, Span> = BTreeMap::new();
        for (addr, span) in marks.instances.iter().flat_map(|mark| &mark.vips) {
            if let Some(first) = seen.get(addr) {
                self.twice(
                    *span,
                    *first,
                    format!("VIP {addr} is listed twice"),
                    "listed here before",
                );
            } else {
                seen.insert(*addr, *span);
            }
        }
    }

    fn duplicate_links(&mut self, marks: &Marks) {
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        for (name, span) in marks.instances.iter().filter_map(|mark| mark.link.as_ref()) {
            if let Some(first) = seen.insert(name, *span) {
                let message = format!("virtual interface `{name}` is named twice");
                self.twice(*span, first, message, "named here before");
            }
        }
    }

    fn tracked_names(&mut self, marks: &Marks) {
        let mut used = std::collections::BTreeSet::new();
        let of_instances = marks.instances.iter().map(|mark| &mark.scripts);
        let of_groups = marks.groups.iter().map(|mark| &mark.scripts);
        for (name, span) in of_instances.chain(of_groups).flatten() {
            used.insert(name.clone());
            if marks.scripts.contains_key(name) {
                continue;
            }
            let near = marks
                .scripts
                .keys()
                .map(|known| (strsim::osa_distance(known, name), known))
                .filter(|(distance, _)| *distance <= 3)
                .min();
            let help = match near {
                Some((_, near)) => format!("did you mean `{near}`?"),
                None => "there is no vrrp_script of this name".into(),
            };
            let shown: String = name.chars().take(64).collect();
            self.warn(
                *span,
                format!("track script `{shown}` is not defined; it is ignored"),
                &help,
            );
        }
        let Config { vrrp_instances, vrrp_sync_groups, .. } = &mut self.config;
        let of_instances = vrrp_instances.iter_mut().map(|it| &mut it.track_scripts);
        for tracked in
            of_instances.chain(vrrp_sync_groups.iter_mut().map(|it| &mut it.track_scripts))
        {
            tracked.retain(|track| marks.scripts.contains_key(&track.name));
        }
        for (name, span) in &marks.scripts {
            if !used.contains(name) && self.config.vrrp_scripts.contains_key(name) {
                self.notice(
                    *span,
                    format!("vrrp_script `{name}` is not used; it does not run"),
                    "",
                );
            }
        }
    }

    /// Weights that cannot decide who is master.
    fn useless_weights(&mut self, marks: &Marks) {
        let mut findings = Vec::new();
        for (instance, mark) in self.config.vrrp_instances.iter().zip(&marks.instances) {
            for track in &instance.track_scripts {
                let script = self.config.vrrp_scripts.get(&track.name);
                let weight = track.weight.or(script.map(|script| script.weight)).unwrap_or(0);
                let Some((_, span)) = mark.scripts.iter().find(|(name, _)| *name == track.name)
                else {
                    continue;
                };
                if weight == 0 {
                    continue;
                }
                let (name, priority) = (&instance.name, instance.priority);
                if priority == Priority::OWNER {
                    findings.push((
                        *span,
                        format!("vrrp_instance `{name}`: weight {weight} never counts: priority 255 does not change"),
                        "give a priority from 1 to 254, or weight 0: a failure means FAULT",
                    ));
                } else if priority.weighted(weight) == priority {
                    findings.push((
                        *span,
                        format!("vrrp_instance `{name}`: weight {weight} cannot change priority {priority}"),
                        "the effective priority stays within 1 to 254",
                    ));
                } else if instance.nopreempt {
                    findings.push((
                        *span,
                        format!("vrrp_instance `{name}`: with nopreempt a weight never moves the VIP"),
                        "a peer that has nopreempt too leaves a master alone whatever its priority; \
                         use weight 0: a failure means FAULT, and the peer takes over",
                    ));
                }
            }
        }
        for (span, message, help) in findings {
            self.warn(span, message, help);
        }
    }

    fn duplicate_virtual_servers(&mut self, marks: &Marks) {
        let mut seen = BTreeMap::new();
        let keys: Vec<_> = self.config.virtual_servers.iter().map(|server| server.key).collect();
        for (key, span) in keys.into_iter().zip(&marks.virtual_servers) {
            if let Some(first) = seen.get(&key) {
                self.twice(
                    *span,
                    *first,
                    format!("virtual_server {key} is defined twice"),
                    "defined here before",
                );
            } else {
                seen.insert(key, *span);
            }
        }
    }

    /// What the maps of the data plane can hold: better told here, at its place, than by an engine
    /// that cannot be filled.
    fn engine_limits(&mut self, marks: &Marks) {
        let mut findings = Vec::new();
        let mut total = 0;
        let mut sources: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        let servers = self.config.virtual_servers.iter().zip(&marks.virtual_servers);
        for (index, (server, span)) in servers.enumerate() {
            let key = server.key;
            let members = server.real_servers.len() + usize::from(server.sorry_server.is_some());
            if members > POOL_LEN {
                findings.push((
                    *span,
                    format!("virtual_server {key} has {members} real servers, {POOL_LEN} at most"),
                ));
            }
            if index + 1 == maps::SERVICES as usize {
                let most = maps::SERVICES - 1;
                findings
                    .push((*span, format!("this is one virtual_server too many: {most} at most")));
            }
            let before = total;
            total += members;
            let most = maps::REALS as usize - 1;
            if before <= most && total > most {
                findings.push((
                    *span,
                    format!(
                        "with virtual_server {key} there are {total} real servers, {most} at most"
                    ),
                ));
            }
            if server.method == Method::Nat {
                for real in &server.real_servers {
                    let uses = sources.entry(real.addr).or_default();
                    *uses += 1;
                    if *uses == SOURCE_LEN + 1 {
                        findings.push((
                            *span,
                            format!(
                                "{} is a NAT real server of more than {SOURCE_LEN} virtual servers",
                                real.addr
                            ),
                        ));
                    }
                }
            }
        }
        for (span, message) in findings {
            let diagnostic = self.diagnostic(Severity::Error, span, message);
            self.sink.push(diagnostic.class(super::Class::CannotRun));
        }
    }
}
