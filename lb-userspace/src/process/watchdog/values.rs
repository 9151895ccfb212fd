//! The last event of each key, for children that start again.
//!
//! Bounded by the configuration: keys of objects that a reload removed are dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use crate::{
    base::net::VirtualServerKey,
    config::model::Config,
    process::ipc::{Event, Role},
};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Converged,
    Vrrp(String),
    Health(VirtualServerKey, SocketAddr),
    Quorum(VirtualServerKey),
}

fn key(event: &Event) -> Key {
    match event {
        Event::Vrrp { instance, .. } => Key::Vrrp(instance.clone()),
        Event::Health(change) => Key::Health(change.virtual_server, change.real_server),
        Event::Quorum { virtual_server, .. } => Key::Quorum(*virtual_server),
        Event::Converged { .. } => Key::Converged,
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

    /// Every value, in a fixed order: convergence first, then elections, then health.
    pub fn replay(&self) -> impl Iterator<Item = (Role, Event)> + '_ {
        self.0.values().cloned()
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
