//! `static_ipaddress`, `static_routes`, `static_rules`, `track_group`.

use std::collections::BTreeSet;

use super::{
    super::{keywords::Block, source::Span},
    Entry, Lower,
};

/// keepalived's `default_interface`.
const DEFAULT_INTERFACE: &str = "eth0";

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
        if !self.has_room(
            self.config.statics.groups.len(),
            super::COMPARED_LIMIT,
            name.span,
            "track_groups",
        ) {
            return;
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
        let instances: BTreeSet<_> =
            self.config.vrrp_instances.iter().map(|it| it.name.clone()).collect();
        for (group, instance, span) in &marks.members {
            if !instances.contains(instance) {
                let shown: String = instance.chars().take(64).collect();
                let message = format!("track_group `{group}`: there is no vrrp_instance `{shown}`");
                self.error(*span, message);
            }
        }
        let groups: BTreeSet<_> =
            self.config.statics.groups.iter().map(|(name, _)| name.clone()).collect();
        for (group, span) in &marks.uses {
            if !groups.contains(group) {
                let shown: String = group.chars().take(64).collect();
                self.error(*span, format!("there is no track_group `{shown}`"));
            }
        }
    }
}
