//! What only several objects together show: duplicates, names that lead nowhere, weights that
//! change nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::{
    abi::{POOL_LEN, SOURCE_LEN},
    maps,
};

use crate::base::table::Method;

use super::{
    super::{
        diag::{Diagnostic, Severity},
        model::Config,
        source::Span,
    },
    Lower,
    same::VipMark,
};

/// Why a file may not have more of something: its language has no such limit.
const NO_ROOM: &str = "lbd's data plane has no room for more: its tables have a fixed size";

/// Places of an instance's words.
pub(super) struct InstanceMarks {
    pub(super) name: Span,
    pub(super) vrid: Span,
    /// Those of virtual_ipaddress_excluded too.
    pub(super) vips: Vec<VipMark>,
    /// Name that the file gives to its virtual interface.
    pub(super) link: Option<(String, Span)>,
    pub(super) scripts: Vec<(String, Span)>,
    pub(super) interfaces: Vec<(String, Span)>,
    /// Objects of `track_process`, `track_file` and `track_mysql`.
    pub(super) objects: Vec<(super::tracking::Object, String, Span)>,
}

/// Places that cross checks point at; lists run parallel to the model's.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) scripts: BTreeMap<String, Span>,
    pub(super) instances: Vec<InstanceMarks>,
    pub(super) groups: Vec<super::group::GroupMarks>,
    pub(super) virtual_servers: Vec<Span>,
    /// Real servers of one virtual server after the other.
    pub(super) reals: Vec<Span>,
    /// A TCP_CHECK of MySQL has been told of.
    pub(super) tcp_told: bool,
    pub(super) tracking: super::tracking::TrackMarks,
    pub(super) track_groups: super::statics::GroupMarks,
    /// Interfaces of garp_groups.
    pub(super) garp_interfaces: BTreeMap<String, Span>,
    /// Interfaces of `interface_up_down_delays`.
    pub(super) link_delays: Vec<(String, Span)>,
    /// Where each word of `global_defs` was given last.
    pub(super) global: BTreeMap<&'static str, Span>,
    /// `flow_sync`, if it has a key.
    pub(super) flow_sync: Option<Span>,
    /// The first `smtp_alert` of an instance, a group or a virtual server that asks for mail.
    pub(super) mail: Option<Span>,
}

impl Lower<'_> {
    /// Runs after everything is lowered.
    pub(super) fn cross_check(&mut self) {
        self.check_fifos();
        self.check_mail();
        let marks = std::mem::take(&mut self.marks);
        self.duplicate_instances(&marks);
        self.duplicate_vips(&marks);
        self.duplicate_links(&marks.instances);
        self.track_group_names(&marks.track_groups);
        self.tracked_names(&marks);
        self.unused_tracked(&marks.tracking);
        self.sync_groups(&marks);
        self.useless_weights(&marks);
        self.cap_link_delays(&marks);
        self.duplicate_virtual_servers(&marks);
        self.real_servers_that_are_vips(&marks);
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
            // keepalived says so in its log alone.
            self.advise(*span, message, help);
        }
    }

    fn tracked_names(&mut self, marks: &Marks) {
        let mut used = BTreeSet::new();
        let of_instances = marks.instances.iter().map(|mark| &mark.scripts);
        let of_groups = marks.groups.iter().map(|mark| &mark.scripts);
        for (name, span) in of_instances.chain(of_groups).flatten() {
            used.insert(name.clone());
            if marks.scripts.contains_key(name) {
                continue;
            }
            let near = self.nearest(marks.scripts.keys().map(String::as_str), name);
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
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
                    "name it in the track_script of a vrrp_instance, or take it out",
                );
            }
        }
    }

    /// NAT real servers of more virtual servers than their entry of the data plane can name, each with a count
    /// that begins.
    fn crowded(&self) -> BTreeMap<SocketAddr, usize> {
        let nat = self.config.virtual_servers.iter().filter(|it| it.method == Method::Nat);
        let mut addresses: Vec<_> =
            nat.flat_map(|it| &it.real_servers).map(|real| real.addr).collect();
        addresses.sort_unstable();
        let uses = addresses.chunk_by(|one, other| one == other);
        let crowded = uses.filter(|uses| uses.len() > SOURCE_LEN);
        crowded.flat_map(|uses| uses.first()).map(|addr| (*addr, 0)).collect()
    }

    /// What the maps of the data plane can hold: better told here, at its place, than by an engine
    /// that cannot be filled.
    fn engine_limits(&mut self, marks: &Marks) {
        let leases = maps::LEASES as usize - 1;
        if let Some(mark) = marks.instances.get(leases) {
            self.advise(
                mark.name,
                format!("this is one vrrp_instance too many to be fenced: {leases} at most"),
                "it and those behind it hold their VIPs; nothing fences these or forwards for them",
            );
        }
        let mut findings = Vec::new();
        let mut vips = BTreeSet::new();
        let most = maps::VIP_LIMIT as usize;
        for (instance, mark) in self.config.vrrp_instances.iter().zip(&marks.instances) {
            let before = vips.len();
            vips.extend(instance.addresses().map(|vip| vip.prefix.addr));
            if before <= most && vips.len() > most {
                let count = vips.len();
                findings.push((
                    mark.name,
                    format!("with this vrrp_instance there are {count} VIPs, {most} at most"),
                ));
            }
        }
        let mut total = 0;
        let mut crowded = self.crowded();
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
            if server.method == Method::Nat && !crowded.is_empty() {
                for real in &server.real_servers {
                    let Some(uses) = crowded.get_mut(&real.addr) else { continue };
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
            self.cannot(span, message, NO_ROOM);
        }
    }
}
