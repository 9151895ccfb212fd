//! The difference of two configurations: which objects a reload adds, changes, removes, and what
//! that interrupts. Pure; what it says is what the roles do, which match old and new objects by the
//! same keys.
//!
//! Keys are keepalived's: vrrp_instance by VRID, family and interface; virtual_server by address, port
//! and protocol; real_server by address and port within its virtual_server; everything else by its
//! name.

mod effects;
mod words;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    model::{Config, RealServer, VirtualServer, VrrpInstance},
    print::{self, Item},
};
use crate::base::{
    net::VirtualServerKey,
    plan::{Action, Change, Plan, STEP_LIMIT, Step},
    status::VrrpState,
};

/// State of an instance by its name in the old configuration, as far as it is known.
pub type States = BTreeMap<String, VrrpState>;

/// What changes from `old` to `new`.
pub fn plan(old: &Config, new: &Config, states: &States) -> Plan {
    let mut planner = Planner { plan: Plan::default(), old, new, states };
    planner.globals();
    planner.named(
        "vrrp_script",
        &by_key(old.vrrp_scripts.values(), |it| it.name.clone()),
        &by_key(new.vrrp_scripts.values(), |it| it.name.clone()),
        print::vrrp_script,
        |_, _| vec![],
        effects::script,
    );
    planner.named(
        "vrrp_track_process",
        &by_key(old.track_processes.values(), |it| it.name.clone()),
        &by_key(new.track_processes.values(), |it| it.name.clone()),
        print::track_process,
        |_, _| vec![],
        |action, changes, _| effects::tracker(action, changes),
    );
    planner.named(
        "track_file",
        &by_key(old.track_files.values(), |it| it.name.clone()),
        &by_key(new.track_files.values(), |it| it.name.clone()),
        print::track_file,
        |_, _| vec![],
        |action, changes, _| effects::tracker(action, changes),
    );
    planner.named(
        "track_mysql",
        &by_key(old.track_mysql.values(), |it| it.name.clone()),
        &by_key(new.track_mysql.values(), |it| it.name.clone()),
        print::track_mysql,
        |old, new| {
            let [old, new] = [old, new].map(|it| std::slice::from_ref(&it.checker));
            words::contents("", old, new)
        },
        |action, changes, _| effects::tracker(action, changes),
    );
    planner.instances();
    planner.named(
        "vrrp_sync_group",
        &by_key(&old.vrrp_sync_groups, |it| it.name.clone()),
        &by_key(&new.vrrp_sync_groups, |it| it.name.clone()),
        print::sync_group,
        |_, _| vec![],
        |action, changes, _| effects::group(action, changes),
    );
    planner.virtual_servers();
    planner.plan
}

/// What an instance is matched by: VRID, IPv6, interface.
type InstanceKey = (u8, bool, String);

fn instance_key(instance: &VrrpInstance) -> InstanceKey {
    (instance.vrid.get(), instance.wire.ipv6, instance.interface.clone())
}

fn instance_title(instance: &VrrpInstance) -> String {
    let VrrpInstance { name, vrid, interface, .. } = instance;
    let family = if instance.wire.ipv6 { ", IPv6" } else { "" };
    format!("vrrp_instance {name} (VRID {vrid} on {interface}{family})")
}

/// Objects by key, in their order.
struct Keyed<'a, K, T> {
    order: Vec<(K, &'a T)>,
    by_key: BTreeMap<K, &'a T>,
}

fn by_key<'a, K: Ord + Clone, T>(
    objects: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&T) -> K,
) -> Keyed<'a, K, T> {
    let order: Vec<_> = objects.into_iter().map(|object| (key(object), object)).collect();
    let by_key = order.iter().cloned().collect();
    Keyed { order, by_key }
}

/// Whether those that stay stand in another order.
fn reordered<K: Ord, T>(old: &Keyed<'_, K, T>, new: &Keyed<'_, K, T>) -> bool {
    let before = old.order.iter().map(|(key, _)| key).filter(|key| new.by_key.contains_key(key));
    let after = new.order.iter().map(|(key, _)| key).filter(|key| old.by_key.contains_key(key));
    !before.eq(after)
}

struct Planner<'a> {
    plan: Plan,
    old: &'a Config,
    new: &'a Config,
    states: &'a States,
}

impl Planner<'_> {
    fn push(&mut self, step: Step) {
        if self.plan.steps.len() < STEP_LIMIT {
            self.plan.steps.push(step);
        } else {
            self.plan.omitted += 1;
        }
    }

    fn step(&mut self, action: Action, object: String, interrupts: Vec<String>) {
        self.push(Step { action, object, renamed_from: None, changes: vec![], interrupts });
    }

    fn changed(&mut self, object: String, changes: Vec<Change>, interrupts: Vec<String>) {
        let renamed_from = None;
        self.push(Step { action: Action::Change, object, renamed_from, changes, interrupts });
    }

    /// Blocks that are there once: their words are compared.
    fn globals(&mut self) {
        let global = |config: &Config| print::global_defs(&config.global);
        self.whole("global_defs", self.old.global == self.new.global, global, effects::global);
        let statics = |config: &Config| print::group("static", print::statics(&config.statics));
        let same = self.old.statics == self.new.statics;
        self.whole("static objects", same, statics, effects::statics);
        let delays = |config: &Config| {
            let groups = config.garp_groups.iter().map(print::garp_group);
            let delays = print::link_delays(&config.link_delays);
            print::group("interfaces", groups.chain(delays).collect())
        };
        let same = self.old.garp_groups == self.new.garp_groups
            && self.old.link_delays == self.new.link_delays;
        self.whole("garp_group, interface_up_down_delays", same, delays, |_| vec![]);
    }

    fn whole(
        &mut self,
        object: &str,
        same: bool,
        print: impl Fn(&Config) -> Item,
        effects: impl Fn(&[Change]) -> Vec<String>,
    ) {
        if same {
            self.plan.untouched += 1;
            return;
        }
        let changes = words::changes(&print(self.old), &print(self.new));
        let interrupts = effects(&changes);
        self.changed(object.to_owned(), changes, interrupts);
    }

    /// Objects that are matched by name. `contents`: what differs behind the same words.
    fn named<T: PartialEq>(
        &mut self,
        keyword: &str,
        old: &Keyed<'_, String, T>,
        new: &Keyed<'_, String, T>,
        print: impl Fn(&T) -> Item,
        contents: impl Fn(&T, &T) -> Vec<Change>,
        effects: impl Fn(Action, &[Change], Option<&T>) -> Vec<String>,
    ) {
        for (name, _) in old.order.iter().filter(|(name, _)| !new.by_key.contains_key(name)) {
            let interrupts = effects(Action::Remove, &[], None);
            self.step(Action::Remove, format!("{keyword} {name}"), interrupts);
        }
        for (name, object) in &new.order {
            let title = format!("{keyword} {name}");
            match old.by_key.get(name) {
                None => self.step(Action::Add, title, effects(Action::Add, &[], Some(object))),
                Some(before) if before == object => self.plan.untouched += 1,
                Some(before) => {
                    let mut changes = words::changes(&print(before), &print(object));
                    changes.extend(contents(before, object));
                    // What differs is a word of `global_defs`, and told there.
                    if changes.is_empty() {
                        self.plan.untouched += 1;
                        continue;
                    }
                    let interrupts = effects(Action::Change, &changes, Some(object));
                    self.changed(title, changes, interrupts);
                }
            }
        }
        self.order(keyword, old, new);
    }

    /// Objects of which the order alone differs are as they were, each of them.
    fn order<K: Ord, T>(&mut self, keyword: &str, old: &Keyed<'_, K, T>, new: &Keyed<'_, K, T>) {
        if reordered(old, new) {
            self.changed(words::order(keyword).word, vec![], vec![]);
        }
    }

    fn instances(&mut self) {
        let old = by_key(&self.old.vrrp_instances, instance_key);
        let new = by_key(&self.new.vrrp_instances, instance_key);
        for (key, instance) in &old.order {
            if !new.by_key.contains_key(key) {
                let state = self.states.get(&instance.name).copied();
                let interrupts = effects::instance_removed(instance, state);
                self.step(Action::Remove, instance_title(instance), interrupts);
            }
        }
        for (key, instance) in &new.order {
            let title = instance_title(instance);
            let Some(before) = old.by_key.get(key) else {
                self.step(Action::Add, title, effects::instance_added(instance));
                continue;
            };
            if before == instance {
                self.plan.untouched += 1;
                continue;
            }
            let changes =
                words::changes(&print::vrrp_instance(before), &print::vrrp_instance(instance));
            if changes.is_empty() && before.name == instance.name {
                self.plan.untouched += 1;
                continue;
            }
            let state = self.states.get(&before.name).copied();
            let interrupts = effects::instance_changed(before, instance, &changes, state);
            let renamed_from = (before.name != instance.name).then(|| before.name.clone());
            let (action, object) = (Action::Change, title);
            self.push(Step { action, object, renamed_from, changes, interrupts });
        }
        self.order("vrrp_instance", &old, &new);
    }

    fn virtual_servers(&mut self) {
        let key = |server: &VirtualServer| server.key;
        let old: Keyed<'_, VirtualServerKey, _> = by_key(&self.old.virtual_servers, key);
        let new = by_key(&self.new.virtual_servers, key);
        for (key, server) in old.order.iter().filter(|(key, _)| !new.by_key.contains_key(key)) {
            let interrupts = effects::virtual_server_removed(server);
            self.step(Action::Remove, format!("virtual_server {key}"), interrupts);
        }
        for (key, server) in &new.order {
            let title = format!("virtual_server {key}");
            let Some(before) = old.by_key.get(key) else {
                self.step(Action::Add, title, effects::virtual_server_added());
                continue;
            };
            if before == server {
                self.plan.untouched += 1 + server.real_servers.len();
                continue;
            }
            let words = [before, server].map(|it| print::virtual_server_words(it));
            let mut changes = words::changes(&words[0], &words[1]);
            let real = |server: &RealServer| server.addr;
            let [reals_before, reals] = [before, server].map(|it| by_key(&it.real_servers, real));
            if reordered(&reals_before, &reals) {
                changes.push(words::order("real_server"));
            }
            if changes.is_empty() {
                self.plan.untouched += 1;
            } else {
                let interrupts = effects::virtual_server_changed(&changes);
                self.changed(title, changes, interrupts);
            }
            self.real_servers(server, &reals_before, &reals);
        }
        self.order("virtual_server", &old, &new);
    }

    fn real_servers(
        &mut self,
        after: &VirtualServer,
        old: &Keyed<'_, SocketAddr, RealServer>,
        new: &Keyed<'_, SocketAddr, RealServer>,
    ) {
        let title = |addr: &SocketAddr| format!("real_server {addr} of {}", after.key);
        for (addr, _) in old.order.iter().filter(|(addr, _)| !new.by_key.contains_key(addr)) {
            let interrupts = effects::real_server_removed(after.on_down);
            self.step(Action::Remove, title(addr), interrupts);
        }
        for (addr, server) in &new.order {
            match old.by_key.get(addr) {
                None => self.step(Action::Add, title(addr), vec![]),
                Some(old) if old == server => self.plan.untouched += 1,
                Some(old) => {
                    let mut changes =
                        words::changes(&print::real_server(old), &print::real_server(server));
                    changes.extend(words::contents(
                        "MYSQL_CHECK ",
                        &old.checkers,
                        &server.checkers,
                    ));
                    let interrupts = effects::real_server_changed(old, server);
                    self.changed(title(addr), changes, interrupts);
                }
            }
        }
    }
}
