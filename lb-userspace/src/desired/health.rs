//! The last verdicts of the checker, kept across its restarts.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    base::{net::VirtualServerKey, status::Health},
    config::model::Config,
};

/// Health and live weight by virtual server and real server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthBook {
    verdicts: BTreeMap<(VirtualServerKey, SocketAddr), (Health, Option<u32>)>,
}

impl HealthBook {
    /// Notes a verdict; true when it differs from the one before.
    pub fn set(
        &mut self,
        key: VirtualServerKey,
        addr: SocketAddr,
        health: Health,
        weight: u32,
    ) -> bool {
        let verdict = (health, Some(weight));
        self.verdicts.insert((key, addr), verdict) != Some(verdict)
    }

    /// Health, and the weight that came with it. Unknown when nothing was heard.
    pub fn get(&self, key: VirtualServerKey, addr: SocketAddr) -> (Health, Option<u32>) {
        self.verdicts.get(&(key, addr)).copied().unwrap_or((Health::Unknown, None))
    }

    /// A configuration takes over: verdicts on servers that left are forgotten, and a live
    /// weight gives way to a configured one that changed (until the checker speaks again).
    pub fn reload(&mut self, old: &Config, new: &Config) {
        let weight = |config: &Config, key: VirtualServerKey, addr: SocketAddr| {
            let vs = config.virtual_servers.iter().find(|vs| vs.key == key)?;
            Some(vs.real_servers.iter().find(|rs| rs.addr == addr)?.weight)
        };
        self.verdicts.retain(|(key, addr), verdict| {
            let Some(now) = weight(new, *key, *addr) else { return false };
            if weight(old, *key, *addr) != Some(now) {
                verdict.1 = None;
            }
            true
        });
    }
}
