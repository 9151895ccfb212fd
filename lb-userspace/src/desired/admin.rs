//! What the operator decided about real servers (`lbctl drain`, `lbctl enable`).

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    base::{net::VirtualServerKey, time::Instant},
    config::model::Config,
};

/// An operator's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// No new connections, established ones untouched.
    Drain,
    /// The same until then; what is left of its connections is reset then.
    DrainUntil(Instant),
}

impl AdminState {
    /// Word for status outputs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain | Self::DrainUntil(_) => "drain",
        }
    }
}

/// Decisions by real server, for one virtual server or (`None`) all of them. Survives restarts
/// as JSON in the run directory, reloads by being keyed by address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admin {
    /// Written as a list, because JSON maps need text as keys.
    #[serde(with = "as_list")]
    states: BTreeMap<(Option<VirtualServerKey>, SocketAddr), AdminState>,
}

impl Admin {
    /// The decision in force for one real server of one virtual server.
    pub fn get(&self, key: VirtualServerKey, addr: SocketAddr) -> Option<AdminState> {
        self.states.get(&(Some(key), addr)).or_else(|| self.states.get(&(None, addr))).copied()
    }

    /// Drains a real server in one virtual server, or in all, for good or until a time. The last word
    /// counts.
    pub fn drain(
        &mut self,
        key: Option<VirtualServerKey>,
        addr: SocketAddr,
        until: Option<Instant>,
    ) {
        if key.is_none() {
            self.states.retain(|(_, drained), _| *drained != addr);
        }
        let state = until.map_or(AdminState::Drain, AdminState::DrainUntil);
        self.states.insert((key, addr), state);
    }

    /// Undoes [`Admin::drain`]. Enabling one virtual server of a server that is drained in all
    /// leaves it drained in the others, which is why the configuration is asked for them.
    pub fn enable(&mut self, config: &Config, key: Option<VirtualServerKey>, addr: SocketAddr) {
        let Some(key) = key else {
            self.states.retain(|(_, drained), _| *drained != addr);
            return;
        };
        self.states.remove(&(Some(key), addr));
        if let Some(state) = self.states.remove(&(None, addr)) {
            for vs in &config.virtual_servers {
                if vs.key != key && holds(vs, addr) {
                    // Its own word is the later one.
                    self.states.entry((Some(vs.key), addr)).or_insert(state);
                }
            }
        }
    }

    /// After a boot no time of before means anything: who was to drain until then drains for good.
    pub fn forget_times(&mut self) {
        self.states.values_mut().for_each(|state| *state = AdminState::Drain);
    }

    /// Forgets decisions about real servers that the configuration no longer has, so that an
    /// address that comes back later is not drained by a decision nobody remembers.
    pub fn reload(&mut self, config: &Config) {
        self.states.retain(|(key, addr), _| {
            config
                .virtual_servers
                .iter()
                .any(|vs| key.is_none_or(|key| key == vs.key) && holds(vs, *addr))
        });
    }
}

fn holds(vs: &crate::config::model::VirtualServer, addr: SocketAddr) -> bool {
    vs.sorry_server == Some(addr) || vs.real_servers.iter().any(|rs| rs.addr == addr)
}

mod as_list {
    use std::{collections::BTreeMap, net::SocketAddr};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{AdminState, VirtualServerKey};

    type Key = (Option<VirtualServerKey>, SocketAddr);

    pub(super) fn serialize<S: Serializer>(
        states: &BTreeMap<Key, AdminState>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        states.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Key, AdminState>, D::Error> {
        Ok(Vec::<(Key, AdminState)>::deserialize(deserializer)?.into_iter().collect())
    }
}
