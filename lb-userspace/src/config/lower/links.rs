//! Names of the virtual interfaces of all instances, unique in the file, as keepalived makes them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        model::{AddressLink, VirtualLinkKind, VrrpInstance},
        source::Span,
    },
    Lower,
    cross::InstanceMarks,
};
use crate::base::net::Vrid;

/// Longest name of an interface (IFNAMSIZ − 1).
const NAME_LIMIT: usize = 15;

/// A virtual MAC on a segment: VRID, family, interface below. The kernel has one macvlan for it.
type Place = (Vrid, bool, String);

/// keepalived's first free name: `vrrp.51`, for IPv6 `vrrp6.51` next, then `vrrp1.51`, … A prefix
/// is cut to what the rest leaves of an interface's name. More tries than VRRP has routers: 255 in
/// two families.
fn free_name(prefix: &str, vrid: Vrid, ipv6: bool, taken: &BTreeSet<String>) -> String {
    let tries = [0].into_iter().chain(ipv6.then_some(6)).chain(1..);
    let name = |n: u32| {
        let tail = if n == 0 { format!(".{vrid}") } else { format!("{n}.{vrid}") };
        let mut room = NAME_LIMIT.saturating_sub(tail.len()).min(prefix.len());
        while !prefix.is_char_boundary(room) {
            room -= 1;
        }
        format!("{}{tail}", &prefix[..room])
    };
    // Some number below the count of taken names and two is free.
    let limit = taken.len() + 3;
    tries.take(limit).map(name).find(|name| !taken.contains(name)).unwrap_or_default()
}

impl Lower<'_> {
    /// Runs after every block. First come the names that the file gives, then those of `use_vmac`
    /// and `use_ipvlan` without one, then those of single addresses, each in the file's order.
    pub(super) fn complete_host(&mut self) {
        let global = &self.config.global;
        let prefix = global.vmac_prefix.clone();
        let address_prefix = global.vmac_addr_prefix.clone().unwrap_or_else(|| prefix.clone());
        let mut taken: BTreeSet<String> = self
            .config
            .vrrp_instances
            .iter()
            .flat_map(|it| {
                let own = it.on_host.virtual_link.as_ref().map(|link| &link.name);
                let vips = it.virtual_ipaddress.iter().chain(&it.on_host.excluded);
                [&it.interface].into_iter().chain(own).chain(vips.filter_map(|it| it.dev.as_ref()))
            })
            .filter(|name| !name.is_empty())
            .cloned()
            .collect();
        for instance in &mut self.config.vrrp_instances {
            let (vrid, ipv6) = (instance.vrid, instance.wire.ipv6);
            let link = instance.on_host.virtual_link.as_mut();
            let Some(link) = link.filter(|link| link.name.is_empty()) else { continue };
            let prefix = match link.kind {
                VirtualLinkKind::Macvlan { .. } => prefix.as_str(),
                VirtualLinkKind::Ipvlan { .. } => "ipvl",
            };
            link.name = free_name(prefix, vrid, ipv6, &taken);
            taken.insert(link.name.clone());
        }
        for instance in &mut self.config.vrrp_instances {
            let mut links: Vec<AddressLink> = Vec::new();
            for vip in instance.virtual_ipaddress.iter().chain(&instance.on_host.excluded) {
                let Some(base) = instance.address_link_base(vip) else { continue };
                let ipv6 = vip.prefix.addr.is_ipv6();
                if links.iter().any(|link| link.base == base && link.ipv6 == ipv6) {
                    continue;
                }
                let name = free_name(&address_prefix, instance.vrid, ipv6, &taken);
                taken.insert(name.clone());
                links.push(AddressLink { name, base: base.to_owned(), ipv6 });
            }
            instance.on_host.address_links = links;
        }
    }

    /// Two virtual interfaces of one name, or of one virtual MAC on one segment. `marks` run
    /// parallel to the instances.
    pub(super) fn duplicate_links(&mut self, marks: &[InstanceMarks]) {
        let mut names: BTreeMap<&str, Span> = BTreeMap::new();
        let mut findings = Vec::new();
        for (name, span) in marks.iter().filter_map(|mark| mark.link.as_ref()) {
            if let Some(first) = names.insert(name, *span) {
                let message = format!("virtual interface `{name}` is named twice");
                findings.push((*span, first, message, "named here before"));
            }
        }
        let mut places: BTreeMap<Place, Span> = BTreeMap::new();
        for (instance, mark) in self.config.vrrp_instances.iter().zip(marks) {
            for place in places_of(instance) {
                let (vrid, _, base) = place.clone();
                if let Some(first) = places.insert(place, mark.name) {
                    let message = format!(
                        "vrrp_instance `{}`: the virtual MAC of VRID {vrid} is on `{base}` twice",
                        instance.name
                    );
                    findings.push((mark.name, first, message, "by this instance too"));
                }
            }
        }
        for (at, first, message, remark) in findings {
            self.twice(at, first, message, remark);
        }
    }
}

/// Where an instance puts the MAC of its VRID.
fn places_of(instance: &VrrpInstance) -> impl Iterator<Item = Place> + '_ {
    let vrid = instance.vrid;
    let own = instance.on_host.virtual_link.as_ref();
    let own = own.filter(|link| matches!(link.kind, VirtualLinkKind::Macvlan { mac: None }));
    let own = own.map(|_| (vrid, instance.wire.ipv6, instance.interface.clone()));
    let others = instance.on_host.address_links.iter();
    own.into_iter().chain(others.map(move |link| (vrid, link.ipv6, link.base.clone())))
}
