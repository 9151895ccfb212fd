//! `vrrp_sync_group`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        keywords::Block,
        model::{Config, SyncGroup, TrackInterface, TrackLists, TrackScript, VrrpInstance},
        source::Span,
    },
    Entry, Lower, Spanned,
    cross::Marks,
    tracking::Object,
};

/// Places of a group's words.
pub(super) struct GroupMarks {
    pub(super) name: Span,
    pub(super) members: Vec<(String, Span)>,
    pub(super) scripts: Vec<(String, Span)>,
}

impl Lower<'_> {
    /// `vrrp_sync_group NAME { … }`.
    pub(super) fn sync_group(&mut self, block: &Entry<'_>) {
        let Some(name) = self.word(block) else { return };
        if !self.has_room(
            self.config.vrrp_sync_groups.len(),
            super::COMPARED_LIMIT,
            name.span,
            "vrrp_sync_groups",
        ) {
            return;
        }
        let notify = self.notify_words();
        let mut group = SyncGroup { name: name.value, notify, ..SyncGroup::default() };
        let mut members: Vec<Spanned<String>> = Vec::new();
        let (mut scripts, mut interfaces) = (Vec::new(), Vec::new());
        for entry in self.entries(Block::SyncGroup, block.block()) {
            match entry.name() {
                "group" => {
                    let lines = entry.block().flat_map(|line| line.words());
                    for word in entry.args().iter().chain(lines) {
                        let value = self.text(*word).into_owned();
                        members.push(Spanned { value, span: word.span });
                    }
                }
                "track_script" => self.tracked_scripts(&entry, &mut scripts),
                "track_interface" => self.tracked_interfaces(&entry, &mut interfaces),
                "sync_group_tracking_weight" => group.tracking_weight = true,
                _ if self.track_list(&entry, &mut group.track_more) => {}
                _ if self.notify_word(&entry, &mut group.notify) => {}
                other => self.unhandled(&entry, other),
            }
        }
        group.track_interfaces = interfaces.into_iter().map(|it| it.value).collect();
        group.track_scripts = scripts.iter().map(|script| script.value.clone()).collect();
        self.marks.groups.push(GroupMarks {
            name: name.span,
            members: members.into_iter().map(|it| (it.value, it.span)).collect(),
            scripts: scripts.iter().map(|s| (s.value.name.clone(), s.span)).collect(),
        });
        self.config.vrrp_sync_groups.push(group);
    }

    /// Names of groups and members, and weights that do not count.
    pub(super) fn sync_groups(&mut self, marks: &Marks) {
        let instances: BTreeSet<String> =
            self.config.vrrp_instances.iter().map(|it| it.name.clone()).collect();
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        let mut owners: BTreeMap<String, Span> = BTreeMap::new();
        let mut groups = std::mem::take(&mut self.config.vrrp_sync_groups);
        for (group, mark) in groups.iter_mut().zip(&marks.groups) {
            if let Some(first) = names.insert(group.name.clone(), mark.name) {
                let message = format!("vrrp_sync_group `{}` is defined twice", group.name);
                self.twice(mark.name, first, message, "defined here before");
            }
            for (member, span) in &mark.members {
                if !instances.contains(member) {
                    self.error(
                        *span,
                        format!(
                            "vrrp_sync_group `{}`: there is no vrrp_instance `{member}`",
                            group.name
                        ),
                    );
                } else if let Some(first) = owners.get(member) {
                    let message = format!("vrrp_instance `{member}` is in a sync group already");
                    self.twice(*span, *first, message, "here");
                } else {
                    owners.insert(member.clone(), *span);
                    group.members.push(member.clone());
                }
            }
            if group.members.len() < 2 {
                self.warn(
                    mark.name,
                    format!("vrrp_sync_group `{}` has fewer than two members", group.name),
                    "a group keeps several instances together",
                );
            }
            self.group_priorities(group, mark.name);
            self.group_weights(group, mark);
        }
        groups.retain(|group| !group.members.is_empty());
        self.config.vrrp_sync_groups = groups;
    }

    /// Members that rank differently against one peer make both hosts yield for ever.
    fn group_priorities(&mut self, group: &SyncGroup, at: Span) {
        let members =
            || self.config.vrrp_instances.iter().filter(|it| group.members.contains(&it.name));
        let priorities: BTreeSet<u8> = members().map(|it| it.priority.0).collect();
        let kinds: BTreeSet<bool> = members().map(|it| it.nopreempt).collect();
        if priorities.len() > 1 {
            let message = format!(
                "vrrp_sync_group `{}`: its members have different priorities {priorities:?}",
                group.name
            );
            let help = "each must rank the same way against the same member of the other host, or \
                        the group moves to and fro";
            self.notice(at, message, help);
        }
        if kinds.len() > 1 {
            let message =
                format!("vrrp_sync_group `{}`: some of its members have `nopreempt`", group.name);
            self.warn(at, message, "the group then preempts only where no member has it");
        }
    }

    /// Without `sync_group_tracking_weight` weights of group and members do not count, as in
    /// keepalived: members of one group would rank differently.
    fn group_weights(&mut self, group: &mut SyncGroup, mark: &GroupMarks) {
        if group.tracking_weight {
            return;
        }
        let Config {
            vrrp_scripts, track_processes, track_files, track_mysql, vrrp_instances, ..
        } = &mut self.config;
        let own = |kind: Option<Object>, name: &str| match kind {
            None => vrrp_scripts.get(name).map(|it| it.weight),
            Some(Object::Process) => track_processes.get(name).map(|it| it.weight),
            Some(Object::File) => track_files.get(name).map(|it| it.weight),
            Some(Object::Mysql) => track_mysql.get(name).map(|it| it.weight),
        };
        let mut cleared = Vec::new();
        let mut clear = |of: &str,
                         on: &mut Vec<TrackScript>,
                         more: &mut TrackLists,
                         links: &mut Vec<TrackInterface>| {
            let TrackLists { processes, files, mysql } = more;
            let lists = [
                (None, on),
                (Some(Object::Process), processes),
                (Some(Object::File), files),
                (Some(Object::Mysql), mysql),
            ];
            for (kind, list) in lists {
                let what = kind.map_or("script", Object::keyword);
                list.retain(|it| {
                    let counts = it.weight.or(own(kind, &it.name)).unwrap_or(0) != 0;
                    if counts {
                        cleared.push(format!("{what} {}{of}", it.name));
                    }
                    !counts
                });
            }
            links.retain(|it| {
                if it.weight != 0 {
                    cleared.push(format!("interface {}{of}", it.name));
                }
                it.weight == 0
            });
        };
        let SyncGroup { track_scripts, track_more, track_interfaces, members, .. } = group;
        clear("", track_scripts, track_more, track_interfaces);
        for instance in vrrp_instances.iter_mut().filter(|it| members.contains(&it.name)) {
            let of = format!(" of {}", instance.name);
            let VrrpInstance { track_scripts, track_more, track_interfaces, .. } = instance;
            clear(&of, track_scripts, track_more, track_interfaces);
        }
        if !cleared.is_empty() {
            let message = format!(
                "vrrp_sync_group `{}`: weights do not count in a group; not tracked: {}",
                group.name,
                cleared.join(", ")
            );
            self.warn(
                mark.name,
                message,
                "`sync_group_tracking_weight` makes them count; weight 0 means FAULT of the group",
            );
        }
    }
}
