//! A `vrrp_sync_group`: virtual routers of this host that are master together or not at all.
//!
//! The group looks at where every member stands ([`Standing`]) and says what follows; it decides
//! from the whole picture each time, so a lost step is made up by the next look.
//!
//! | members | order |
//! |---|---|
//! | one faulty, or something that the group tracks is bad | all: FAULT |
//! | all want to be master, or are | those that want: announce |
//! | all have announced and waited, or forward | those that waited: forward |
//! | one announces or forwards, one is backup to another router | all: farewell, BACKUP |
//!
//! A member that has just joined ([`Standing::Listening`]) ends nobody's mastership: it follows by
//! its own timer, or, if it hears a better router, the group yields. Members that stop are left
//! out. Members should rank alike against each peer: two hosts that are each better in one member
//! yield to each other for ever, with keepalived too.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    router::{Notify, Order, Standing},
    track::{self, Tracked, Trackers, Verdict},
};
use crate::base::{core::Core, status::VrrpState, time::Instant};

/// One vrrp_sync_group, lowered for the state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub name: String,
    /// Names of the members that are run, in configured order.
    pub members: Vec<String>,
    pub scripts: Vec<Tracked>,
    pub interfaces: Vec<Tracked>,
}

/// What happens to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Where a member stands now; told after whatever happened to it.
    Standing {
        member: String,
        standing: Standing,
    },
    Interface {
        name: String,
        up: bool,
    },
    Script {
        name: String,
        verdict: Verdict,
    },
    /// A member that is master heard a router of lower priority.
    LowerHeard {
        member: String,
    },
    Configure(Config),
}

/// What a group wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Give this to the member; tell its standing afterwards.
    Order { member: String, order: Order },
    /// Run the group's notify scripts, after those of its members.
    Notify(Notify),
    /// For people.
    Log(String),
}

/// See [`Core`] for how to drive it; it has no timers.
#[derive(Debug)]
pub struct Group {
    config: Config,
    trackers: Trackers,
    standings: BTreeMap<String, Standing>,
    /// What members were told last: why they are held, and the weight. One that has come from
    /// another group is told first of all that it is not held.
    held: BTreeMap<String, Option<String>>,
    weights: BTreeMap<String, i32>,
    told: Option<Notify>,
    effects: VecDeque<Effect>,
}

impl Group {
    /// Every member counts as starting until it is heard of.
    pub fn new(config: Config) -> Self {
        let mut group = Self {
            config: Config::default(),
            trackers: Trackers::default(),
            standings: BTreeMap::new(),
            held: BTreeMap::new(),
            weights: BTreeMap::new(),
            told: None,
            effects: VecDeque::new(),
        };
        group.configure(config);
        group
    }

    /// What it was told last.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// State to the outside: MASTER when every member is, FAULT when one is.
    pub fn state(&self) -> VrrpState {
        let any = |wanted: &[Standing]| self.standings.values().any(|it| wanted.contains(it));
        if any(&[Standing::Faulty, Standing::Held]) {
            VrrpState::Fault
        } else if any(&[Standing::Init]) || self.is_stopped() {
            VrrpState::Init
        } else if self.running().all(|it| it == Standing::Master) {
            VrrpState::Master
        } else {
            VrrpState::Backup
        }
    }

    /// Reasons for FAULT: what the group tracks, then members by name.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.trackers.faults();
        faults.extend(self.faulty().map(|name| format!("member {name} is in FAULT")));
        faults
    }

    /// What keeps it in FAULT: something bad, or, when all that is over, members that have not
    /// left FAULT yet.
    fn held_in_fault(&self) -> Vec<String> {
        let faults = self.faults();
        if !faults.is_empty() {
            return faults;
        }
        let waiting = self
            .trackers
            .waiting_for()
            .map(|name| format!("waiting for the first result of {}", track::label(name)));
        let held = self.standings.iter().filter(|(_, it)| **it == Standing::Held);
        waiting
            .into_iter()
            .chain(held.map(|(name, _)| format!("member {name} waits for a first result")))
            .collect()
    }

    fn faulty(&self) -> impl Iterator<Item = &String> {
        self.standings.iter().filter(|(_, it)| **it == Standing::Faulty).map(|(name, _)| name)
    }

    fn running(&self) -> impl Iterator<Item = Standing> {
        self.standings.values().copied().filter(|it| *it != Standing::Stopped)
    }

    fn is_stopped(&self) -> bool {
        self.running().next().is_none()
    }

    fn configure(&mut self, config: Config) {
        self.trackers.configure(config.scripts.clone(), config.interfaces.clone());
        self.standings.retain(|name, _| config.members.contains(name));
        self.held.retain(|name, _| config.members.contains(name));
        self.weights.retain(|name, _| config.members.contains(name));
        for member in &config.members {
            self.standings.entry(member.clone()).or_insert(Standing::Init);
        }
        self.config = config;
    }

    /// Why a member is in FAULT that has no fault of its own.
    fn hold_of(&self, member: &str) -> Option<String> {
        let others = self.faulty().filter(|name| *name != member);
        let mut why = self.trackers.faults();
        why.extend(others.map(|name| format!("{name} is in FAULT")));
        (!why.is_empty()).then(|| format!("sync group {}: {}", self.config.name, why.join(", ")))
    }

    fn order(&mut self, member: &str, order: Order) {
        self.effects.push_back(Effect::Order { member: member.to_owned(), order });
    }

    /// Orders each member whose standing is one of these.
    fn order_all(&mut self, of: &[Standing], order: &Order) {
        let members: Vec<String> = self
            .standings
            .iter()
            .filter(|(_, standing)| of.contains(standing))
            .map(|(name, _)| name.clone())
            .collect();
        for member in members {
            self.order(&member, order.clone());
        }
    }

    /// The addresses of one member are those of all, to a router that took them.
    fn lower_heard(&mut self, by: &str) {
        let masters = self.standings.iter().filter(|(_, it)| **it == Standing::Master);
        let others: Vec<String> =
            masters.map(|(name, _)| name.clone()).filter(|name| name != by).collect();
        for member in others {
            self.order(&member, Order::Announcements);
        }
    }

    fn decide(&mut self) {
        let weight = self.trackers.weight();
        for member in self.config.members.clone() {
            if self.weights.insert(member.clone(), weight) != Some(weight) {
                self.order(&member, Order::Weight(weight));
            }
            let why = self.hold_of(&member);
            if self.held.insert(member.clone(), why.clone()).as_ref() != Some(&why) {
                self.order(&member, Order::Hold(why));
            }
        }
        self.elect();
        self.tell();
    }

    fn elect(&mut self) {
        use Standing::{Announcing, Backup, Held, Init, Listening, Master, Ready, Wants};
        if !self.faults().is_empty() {
            return;
        }
        let all = |wanted: &[Standing]| self.running().all(|it| wanted.contains(&it));
        let any = |wanted: &[Standing]| self.running().any(|it| wanted.contains(&it));
        if any(&[Announcing, Ready, Master]) && any(&[Backup]) {
            let backup = self.standings.iter().find(|(_, it)| **it == Backup);
            let name = backup.map(|(name, _)| name.clone()).unwrap_or_default();
            let why = format!("sync group {}: {name} is backup", self.config.name);
            self.order_all(&[Announcing, Ready, Master], &Order::Yield { why });
        } else if self.trackers.waiting_for().is_some() {
            // Members that resumed a lease stay and go together; nobody moves up before that.
        } else if any(&[Wants]) && all(&[Wants, Announcing, Ready, Master]) {
            self.order_all(&[Wants], &Order::Announce);
        } else if any(&[Ready]) && !any(&[Init, Held, Listening, Wants, Announcing]) {
            self.order_all(&[Ready], &Order::Forward);
        }
    }

    fn tell(&mut self) {
        // What follows from orders that are not carried out yet is told then.
        if self.effects.iter().any(|effect| matches!(effect, Effect::Order { .. })) {
            return;
        }
        let now = match self.state() {
            VrrpState::Init if self.is_stopped() => Notify::Stop,
            VrrpState::Init => return,
            state => Notify::State(state),
        };
        if self.told.replace(now) == Some(now) {
            return;
        }
        if let Notify::State(state) = now {
            let why = match state {
                VrrpState::Fault => format!(": {}", self.held_in_fault().join(", ")),
                _ => String::new(),
            };
            let name = &self.config.name;
            let text = format!("vrrp_sync_group {name} enters {} STATE{why}", state.name());
            self.effects.push_back(Effect::Log(text));
        }
        self.effects.push_back(Effect::Notify(now));
    }
}

impl Core for Group {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, input: Input, _now: Instant) {
        match input {
            Input::Standing { member, standing } => {
                let Some(known) = self.standings.get_mut(&member) else { return };
                *known = standing;
            }
            Input::Interface { name, up } => self.trackers.interface(&name, up),
            Input::Script { name, verdict } => self.trackers.script(&name, verdict),
            Input::LowerHeard { member } => return self.lower_heard(&member),
            Input::Configure(config) => self.configure(config),
        }
        self.decide();
    }

    /// To be called when the orders have been carried out and what followed was heard: an order
    /// that changed nothing is followed by no input, and the state is still to be told.
    fn handle_timeout(&mut self, _now: Instant) {
        self.tell();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
