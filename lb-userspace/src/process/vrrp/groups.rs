//! The vrrp_sync_groups of the role: carries what members say to the group, and its orders back.

use std::collections::BTreeMap;

use super::{
    instance::{Instance, Shell},
    lower, trackers,
};
use crate::{
    base::{core::Core as _, net::Priority, time::Instant},
    config::model::{Config, NotifyWords, SyncGroup},
    process::ipc::Up,
    vrrp::{
        group::{Effect, Group, Input},
        notify::{Notification, Subject, What, notification},
        router::{Input as RouterInput, Notify, Standing},
        track::Verdict,
    },
};

/// Rounds in which a group may answer its members' answers; three are enough, and members that
/// would need more are looked at again with the next event.
const ROUND_LIMIT: usize = 16;

struct Running {
    model: SyncGroup,
    core: Group,
    said: BTreeMap<String, Standing>,
}

/// All groups.
#[derive(Default)]
pub(super) struct Groups {
    running: Vec<Running>,
}

impl Groups {
    /// For `fifo_write_vrrp_states_on_reload`.
    pub fn tell_again(&self, shell: &mut Shell) {
        self.running.iter().for_each(|group| group.tell_again(shell));
    }

    /// Takes a configuration; a group of the same name keeps what it knows.
    pub fn configure(&mut self, config: &Config, instances: &[Instance], now: Instant) {
        let mut old = std::mem::take(&mut self.running);
        for model in &config.vrrp_sync_groups {
            let is_run = |name: &str| instances.iter().any(|it| it.model.name == name);
            let mut lowered = lower::group(model, &config.vrrp_scripts, is_run);
            let mut more = trackers::tracked(&model.track_more, config);
            // Weights do not count in a group, unless they are asked for.
            more.retain(|it| model.tracking_weight || it.weight == 0);
            lowered.scripts.extend(more);
            if lowered.members.is_empty() {
                continue;
            }
            let group = match old.iter().position(|it| it.model.name == model.name) {
                Some(at) => {
                    let mut group = old.remove(at);
                    group.model = model.clone();
                    group.said.retain(|name, _| lowered.members.contains(name));
                    group.core.handle(Input::Configure(lowered), now);
                    group
                }
                None => Running {
                    model: model.clone(),
                    core: Group::new(lowered),
                    said: BTreeMap::new(),
                },
            };
            self.running.push(group);
        }
    }

    /// Whether some group follows this interface.
    pub fn interface(&mut self, name: &str, up: bool, now: Instant) {
        for group in &mut self.running {
            group.core.handle(Input::Interface { name: name.to_owned(), up }, now);
        }
    }

    /// Interfaces that groups track.
    pub fn interfaces(&self) -> Vec<String> {
        let tracked = self.running.iter().flat_map(|it| &it.model.track_interfaces);
        tracked.map(|it| it.name.clone()).collect()
    }

    /// A script's verdict.
    pub fn script(&mut self, name: &str, verdict: Verdict, now: Instant) {
        for group in &mut self.running {
            group.core.handle(Input::Script { name: name.to_owned(), verdict }, now);
        }
    }

    /// Tells the groups where their members stand now, and the members what follows.
    pub fn settle(&mut self, instances: &mut [Instance], now: Instant, shell: &mut Shell) {
        for group in &mut self.running {
            for _ in 0..ROUND_LIMIT {
                group.hear(instances, now);
                if !group.perform(instances, now, shell) {
                    break;
                }
            }
        }
    }
}

impl Running {
    fn hear(&mut self, instances: &mut [Instance], now: Instant) {
        let members = self.core.config().members.clone();
        for instance in instances.iter_mut().filter(|it| members.contains(&it.model.name)) {
            let (member, standing) = (instance.model.name.clone(), instance.standing());
            if self.said.insert(member.clone(), standing) != Some(standing) {
                self.core.handle(Input::Standing { member: member.clone(), standing }, now);
            }
            if instance.take_lower_heard() {
                self.core.handle(Input::LowerHeard { member }, now);
            }
        }
        self.core.handle_timeout(now);
    }

    /// True when a member was told something.
    fn perform(&mut self, instances: &mut [Instance], now: Instant, shell: &mut Shell) -> bool {
        let mut told = false;
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Order { member, order } => {
                    if let Some(it) = instances.iter_mut().find(|it| it.model.name == member) {
                        it.feed(RouterInput::Group(order), now, shell);
                        told = true;
                    }
                }
                Effect::Notify(what) => self.notify(what, shell),
                Effect::Log(text) => tracing::info!(vrrp_sync_group = self.model.name, "{text}"),
            }
        }
        told
    }

    /// For `fifo_write_vrrp_states_on_reload`: the state's FIFO line once more.
    fn tell_again(&self, shell: &mut Shell) {
        let what = What::State(self.core.state());
        let (name, words) = (&self.model.name, NotifyWords::default());
        let told = notification(Subject::Group, name, &words, what, Priority::RELEASE);
        shell.say(Up::Notify(Notification { state: None, ..told }));
    }

    /// Tells its scripts, FIFOs and mail, after those of its members.
    fn notify(&self, what: Notify, shell: &mut Shell) {
        let what = match what {
            Notify::State(state) => What::State(state),
            Notify::Stop => What::Stop,
            // Told of instances only.
            Notify::MasterRxLowerPri => return,
        };
        let SyncGroup { name, notify, .. } = &self.model;
        let told = notification(Subject::Group, name, notify, what, Priority::RELEASE);
        shell.say(Up::Notify(told));
    }
}
