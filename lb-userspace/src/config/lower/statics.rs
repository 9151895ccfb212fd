//! `static_ipaddress`, `static_routes`, `static_rules`, `track_group`, and what interfaces of
//! several instances mean together.

use std::collections::BTreeSet;

use super::{
    super::{keywords::Block, model::VirtualLinkKind, source::Span},
    Entry, Lower,
};

/// keepalived's `default_interface`.
const DEFAULT_INTERFACE: &str = "eth0";
/// Longest name of an interface (IFNAMSIZ − 1).
const NAME_LIMIT: usize = 15;

/// Places of names around `track_group`.
#[derive(Default)]
pub(super) struct GroupMarks {
    /// Where objects name a group.
    pub(super) uses: Vec<(String, Span)>,
    /// Where groups name instances: group, instance.
    members: Vec<(String, String, Span)>,
}

impl Lower<'_> {
    /// Objects that are held from start to exit.
    pub(super) fn statics(&mut self, block: &Entry<'_>) {
        match block.name() {
            "static_ipaddress" => {
                let default = self.config.global.default_interface.clone();
                let default = default.unwrap_or_else(|| DEFAULT_INTERFACE.to_owned());
                for mut address in self.vips(block) {
                    address.value.dev.get_or_insert_with(|| default.clone());
                    self.config.statics.addresses.push(address.value);
                }
            }
            "static_routes" => {
                let routes = self.routes(block);
                self.config.statics.routes.extend(routes);
            }
            "static_rules" => {
                let rules = self.rules(block);
                self.config.statics.rules.extend(rules);
            }
            _ => self.track_group(block),
        }
    }

    /// `track_group NAME { group { INSTANCE… } }`.
    fn track_group(&mut self, block: &Entry<'_>) {
        let Some(name) = self.word(block) else { return };
        let mut instances = Vec::new();
        for entry in self.entries(Block::TrackGroup, block.block()) {
            for line in self.list_lines(&entry) {
                for word in line {
                    let instance = self.text(*word).into_owned();
                    let mark = (name.value.clone(), instance.clone(), word.span);
                    self.marks.track_groups.members.push(mark);
                    instances.push(instance);
                }
            }
        }
        if self.config.statics.groups.iter().any(|(other, _)| *other == name.value) {
            let message = format!("track_group `{}` is defined twice", name.value);
            self.error(name.span, message);
            return;
        }
        self.config.statics.groups.push((name.value, instances));
    }

    /// Objects that name a group, and groups that name instances, which do not exist.
    pub(super) fn track_group_names(&mut self, marks: &GroupMarks) {
        for (group, instance, span) in &marks.members {
            if !self.config.vrrp_instances.iter().any(|it| it.name == *instance) {
                let shown: String = instance.chars().take(64).collect();
                let message = format!("track_group `{group}`: there is no vrrp_instance `{shown}`");
                self.error(*span, message);
            }
        }
        for (group, span) in &marks.uses {
            if !self.config.statics.groups.iter().any(|(name, _)| name == group) {
                let shown: String = group.chars().take(64).collect();
                self.error(*span, format!("there is no track_group `{shown}`"));
            }
        }
    }

    /// Runs after every block: names of virtual interfaces.
    pub(super) fn complete_host(&mut self) {
        let prefix = self.config.global.vmac_prefix.clone();
        let mut names: BTreeSet<String> = self
            .config
            .vrrp_instances
            .iter()
            .filter_map(|it| Some(it.on_host.virtual_link.as_ref()?.name.clone()))
            .collect();
        for instance in &mut self.config.vrrp_instances {
            let host = &mut instance.on_host;
            let v6 = instance.wire.ipv6;
            let Some(link) = host.virtual_link.as_mut().filter(|link| link.name.is_empty()) else {
                continue;
            };
            let kind = match link.kind {
                VirtualLinkKind::Macvlan { .. } => prefix.as_str(),
                VirtualLinkKind::Ipvlan { .. } => "ipvl",
            };
            // As keepalived counts: vrrp.51, then vrrp6.51 for IPv6, then vrrp1.51.
            let number = |n: u32| if n == 0 { String::new() } else { n.to_string() };
            let tries = [0].into_iter().chain(v6.then_some(6)).chain(1..256);
            let vrid = instance.vrid;
            link.name = tries
                .map(|n| {
                    let tail = format!("{}.{vrid}", number(n));
                    let room = NAME_LIMIT.saturating_sub(tail.len());
                    let head: String = kind.chars().take(room).collect();
                    format!("{head}{tail}")
                })
                .find(|name| !names.contains(name))
                .unwrap_or_else(|| format!("{prefix}.{vrid}"));
            names.insert(link.name.clone());
        }
    }
}
