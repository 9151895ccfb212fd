//! The last event of each key, for children that start again.
//!
//! Bounded by the configuration: keys of objects that a reload removed are dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use crate::{
    base::net::VirtualServerKey,
    config::{model::Config, plan::States},
    process::{
        ipc::{Down, Event, FRAME_LIMIT, Role},
        vrrp::trackers::is_known,
    },
};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    // Before convergence, so that the first advert has the right priority.
    Script(String),
    Converged,
    Vrrp(String),
    Health(VirtualServerKey, SocketAddr),
    Quorum(VirtualServerKey),
}

fn key(event: &Event) -> Key {
    match event {
        Event::Vrrp { instance, .. } => Key::Vrrp(instance.clone()),
        Event::Script { name, .. } => Key::Script(name.clone()),
        Event::Health(change) => Key::Health(change.virtual_server, change.real_server),
        Event::Quorum { virtual_server, .. } => Key::Quorum(*virtual_server),
        Event::Converged { .. } => Key::Converged,
    }
}

/// Length of the events of one [`Down::Replay`] in bytes; several messages carry what is longer.
const REPLAY_LIMIT: usize = FRAME_LIMIT / 4;

/// As few messages as the frame limit allows: a queue that is full of them kills the child.
fn messages(values: impl Iterator<Item = (Role, Event)>) -> Vec<Down> {
    let mut all = Vec::new();
    let (mut events, mut length) = (Vec::new(), 0_usize);
    for value in values {
        // What cannot be encoded is told by the writer, which ends the connection.
        length += postcard::to_stdvec(&value).map_or(0, |bytes| bytes.len());
        if length > REPLAY_LIMIT && !events.is_empty() {
            all.push(Down::Replay { events: std::mem::take(&mut events) });
            length = 0;
        }
        events.push(value);
    }
    if !events.is_empty() {
        all.push(Down::Replay { events });
    }
    all
}

/// Events that did not fit into a child's queue. Nothing is lost by that, as only the last value of a
/// key counts: it is sent when there is room. A child that never makes room fails its heartbeat.
#[derive(Debug, Default)]
pub struct Owed(BTreeMap<Role, BTreeSet<Key>>);

impl Owed {
    /// Whether the event has to wait, because others do; it is noted then.
    pub fn waits(&mut self, role: Role, event: &Event) -> bool {
        let Some(keys) = self.0.get_mut(&role) else { return false };
        keys.insert(key(event));
        true
    }

    /// The event did not fit.
    pub fn note(&mut self, role: Role, event: &Event) {
        self.0.entry(role).or_default().insert(key(event));
    }

    /// The child has ended: its successor gets everything anyway.
    pub fn forget(&mut self, role: Role) {
        self.0.remove(&role);
    }

    /// Roles that something is owed to.
    pub fn roles(&self) -> Vec<Role> {
        self.0.keys().copied().collect()
    }

    /// What is owed to a role; it is owed no more.
    pub fn pay(&mut self, role: Role, values: &LastValues) -> Vec<Down> {
        let keys = self.0.remove(&role).unwrap_or_default();
        messages(keys.iter().filter_map(|key| values.0.get(key).cloned()))
    }
}

/// Last values, with who said them.
#[derive(Debug, Default)]
pub struct LastValues(BTreeMap<Key, (Role, Event)>);

impl LastValues {
    /// Replaces the value of the event's key.
    pub fn store(&mut self, from: Role, event: Event) {
        self.0.insert(key(&event), (from, event));
    }

    /// Every value, in a fixed order: scripts, convergence, elections, health.
    fn replay(&self) -> impl Iterator<Item = (Role, Event)> + '_ {
        self.0.values().cloned()
    }

    /// States of instances by name.
    pub fn states(&self) -> States {
        let state = |event: &Event| match event {
            Event::Vrrp { instance, state, .. } => Some((instance.clone(), *state)),
            _ => None,
        };
        self.events().filter_map(state).collect()
    }

    /// The last events.
    pub fn events(&self) -> impl Iterator<Item = &Event> + '_ {
        self.0.values().map(|(_, event)| event)
    }

    /// All of it for a role that starts.
    pub fn everything(&self) -> Vec<Down> {
        messages(self.replay())
    }

    /// Forgets what the configuration no longer has.
    pub fn retain(&mut self, config: &Config) {
        let instances: BTreeSet<&str> =
            config.vrrp_instances.iter().map(|instance| instance.name.as_str()).collect();
        let servers: BTreeMap<VirtualServerKey, BTreeSet<SocketAddr>> = config
            .virtual_servers
            .iter()
            .map(|vs| (vs.key, vs.real_servers.iter().map(|rs| rs.addr).collect()))
            .collect();
        self.0.retain(|key, _| match key {
            Key::Converged => true,
            Key::Script(name) => config.vrrp_scripts.contains_key(name) || is_known(name, config),
            Key::Vrrp(name) => instances.contains(name.as_str()),
            Key::Quorum(vs) => servers.contains_key(vs),
            Key::Health(vs, rs) => servers.get(vs).is_some_and(|pool| pool.contains(rs)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{
            status::{Health, VrrpState},
            time::Instant,
        },
        process::ipc::HealthChange,
    };

    fn health(vs: &str, rs: &str, health: Health) -> Event {
        Event::Health(HealthChange {
            virtual_server: vs.parse().expect("key"),
            real_server: rs.parse().expect("address"),
            health,
            weight: 1,
            reason: String::new(),
            at: Instant::ZERO,
        })
    }

    #[test]
    fn last_event_of_each_key_wins() {
        let mut values = LastValues::default();
        let vrrp = |state| Event::Vrrp { instance: "VI_1".to_owned(), state, priority: 100 };
        values.store(Role::Vrrp, vrrp(VrrpState::Backup));
        values.store(Role::Checker, health("10.0.0.1:1", "10.0.0.2:1", Health::Up));
        values.store(Role::Checker, health("10.0.0.1:1", "10.0.0.3:1", Health::Up));
        values.store(Role::Checker, health("10.0.0.1:1", "10.0.0.2:1", Health::Down));
        values.store(Role::Vrrp, vrrp(VrrpState::Master));
        let all: Vec<(Role, Event)> = values.replay().collect();
        assert_eq!(
            all,
            [
                (Role::Vrrp, vrrp(VrrpState::Master)),
                (Role::Checker, health("10.0.0.1:1", "10.0.0.2:1", Health::Down)),
                (Role::Checker, health("10.0.0.1:1", "10.0.0.3:1", Health::Up)),
            ]
        );
    }

    /// Far more values than a queue has places.
    fn many(reason: &str) -> LastValues {
        let mut values = LastValues::default();
        for n in 0..3000_u16 {
            let [high, low] = n.to_be_bytes();
            let mut event = health("10.0.0.1:1", &format!("10.1.{high}.{low}:1"), Health::Down);
            if let Event::Health(change) = &mut event {
                reason.clone_into(&mut change.reason);
            }
            values.store(Role::Checker, event);
        }
        values
    }

    #[tokio::test]
    async fn a_restarted_child_gets_thousands_of_values_through_its_bounded_queue() {
        use crate::process::{codec, ipc::Up};
        // Short reasons, and such as need more than one frame.
        for (reason, frames) in [("connection refused", 1), (&*"x".repeat(6000), 5)] {
            let values = many(reason);
            let all = values.everything();
            assert_eq!(all.len(), frames);
            let (a, b) = tokio::net::UnixStream::pair().expect("socketpair");
            let watchdog = codec::connect::<Up, Down>(a);
            let mut child = codec::connect::<Down, Up>(b);
            // As in `spawn`: without a pause in which the writer could make room.
            for message in all {
                watchdog.tx.try_send(message).expect("room");
            }
            watchdog.tx.try_send(Down::Ping { seq: 7 }).expect("room");
            let mut got = Vec::new();
            loop {
                match child.rx.recv().await.expect("the connection holds") {
                    Down::Replay { events } => got.extend(events),
                    Down::Ping { seq: 7 } => break,
                    other => panic!("{other:?}"),
                }
            }
            assert!(got.iter().eq(values.replay().collect::<Vec<_>>().iter()));
        }
    }

    #[test]
    fn what_did_not_fit_follows_with_its_last_value() {
        let mut values = LastValues::default();
        let mut owed = Owed::default();
        let down = health("10.0.0.1:1", "10.0.0.2:1", Health::Down);
        let up = health("10.0.0.1:1", "10.0.0.2:1", Health::Up);
        let other = health("10.0.0.1:1", "10.0.0.3:1", Health::Up);
        assert!(!owed.waits(Role::Forwarder, &down), "nothing is owed yet");
        owed.note(Role::Forwarder, &down);
        for event in [&down, &other, &up] {
            values.store(Role::Checker, event.clone());
            assert!(owed.waits(Role::Forwarder, event), "it must not overtake");
            assert!(!owed.waits(Role::Api, event), "others have room");
        }
        assert_eq!(owed.roles(), [Role::Forwarder]);
        let paid = owed.pay(Role::Forwarder, &values);
        let [Down::Replay { events }] = &paid[..] else { panic!("{paid:?}") };
        assert_eq!(events[..], [(Role::Checker, up), (Role::Checker, other)]);
        assert!(owed.roles().is_empty());
        assert!(owed.pay(Role::Forwarder, &values).is_empty());
        owed.note(Role::Api, &down);
        owed.forget(Role::Api);
        assert!(owed.roles().is_empty());
    }

    #[test]
    fn verdicts_of_scripts_come_before_convergence() {
        use crate::vrrp::track::Verdict;
        let mut values = LastValues::default();
        let converged = Event::Converged { generation: 1, leases: Vec::new(), fenced: true };
        let script = |verdict| Event::Script { name: "chk".to_owned(), verdict };
        values.store(Role::Forwarder, converged.clone());
        values.store(Role::Vrrp, script(Verdict::Good));
        values.store(Role::Vrrp, script(Verdict::Bad));
        assert_eq!(
            values.replay().collect::<Vec<_>>(),
            [(Role::Vrrp, script(Verdict::Bad)), (Role::Forwarder, converged)]
        );
        values.retain(&Config::default());
        assert_eq!(values.replay().count(), 1, "the script is gone with its configuration");
    }

    #[test]
    fn removed_objects_are_forgotten_convergence_is_not() {
        let mut values = LastValues::default();
        values.store(Role::Checker, health("10.0.0.1:1", "10.0.0.2:1", Health::Down));
        let converged = Event::Converged { generation: 1, leases: Vec::new(), fenced: true };
        values.store(Role::Forwarder, converged.clone());
        values.retain(&Config::default());
        assert_eq!(values.replay().collect::<Vec<_>>(), [(Role::Forwarder, converged)]);
    }
}
