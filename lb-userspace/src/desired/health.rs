//! The last verdicts of the checker, kept across its restarts.

use std::{collections::BTreeMap, net::SocketAddr};

use super::Admin;
use crate::{
    base::{
        net::VirtualServerKey,
        status::Health,
        table::{ForwardingTable, OnDown, RealServerState},
        time::Instant,
    },
    config::model::{self, Config},
};

/// Health and live weight by virtual server and real server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthBook {
    verdicts: BTreeMap<(VirtualServerKey, SocketAddr), Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    health: Health,
    weight: Option<u32>,
    /// When this health fell.
    since: Instant,
}

impl HealthBook {
    /// Notes a verdict that fell `at`; true when it differs from the one before.
    pub fn set(
        &mut self,
        key: VirtualServerKey,
        addr: SocketAddr,
        health: Health,
        weight: u32,
        at: Instant,
    ) -> bool {
        let before = self.verdicts.get(&(key, addr));
        // The same again does not make it younger.
        let since = before.filter(|before| before.health == health).map_or(at, |it| it.since);
        let verdict = Verdict { health, weight: Some(weight), since };
        self.verdicts.insert((key, addr), verdict) != Some(verdict)
    }

    /// Health, and the weight that came with it. Unknown when nothing was heard.
    pub fn get(&self, key: VirtualServerKey, addr: SocketAddr) -> (Health, Option<u32>) {
        self.verdicts
            .get(&(key, addr))
            .map_or((Health::Unknown, None), |verdict| (verdict.health, verdict.weight))
    }

    /// Since when a real server has been down, if it is.
    pub fn down_since(&self, key: VirtualServerKey, addr: SocketAddr) -> Option<Instant> {
        let verdict = self.verdicts.get(&(key, addr))?;
        (verdict.health == Health::Down).then_some(verdict.since)
    }

    /// Verdicts as a predecessor's table shows them, until the checker's last words are heard again:
    /// a dead server must not be taken for an unknown one meanwhile. Servers without a checker
    /// are left out, because nothing would ever correct them. One whose connections were reset already
    /// has been dead for as long as can be: it gets no second time to drain. One whose connections were kept
    /// until now, and may drain from now on, keeps them until it is said when it died.
    pub fn adopt(config: &Config, table: &ForwardingTable, admin: &Admin) -> Self {
        let mut book = Self::default();
        for vs in &config.virtual_servers {
            let Some(observed) = table.virtual_servers.get(&vs.key) else { continue };
            for rs in vs.real_servers.iter().filter(|rs| !rs.checkers.is_empty()) {
                let Some(server) = observed.real_servers.get(&rs.addr) else { continue };
                let was_kept = server.state == RealServerState::Inhibited
                    || (server.state, observed.on_down) == (RealServerState::Down, OnDown::Keep);
                let drains =
                    matches!(vs.on_down, model::OnDown::Drain(_)) && !rs.inhibit_on_failure;
                let health = match server.state {
                    RealServerState::Up => Health::Up,
                    _ if was_kept && drains => Health::Drain,
                    RealServerState::Down | RealServerState::Inhibited => Health::Down,
                    RealServerState::Drain if admin.get(vs.key, rs.addr).is_some() => continue,
                    RealServerState::Drain => Health::Suspect,
                    RealServerState::Closed => Health::Drain,
                };
                let verdict = Verdict { health, weight: None, since: Instant::ZERO };
                book.verdicts.insert((vs.key, rs.addr), verdict);
            }
        }
        book
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
                verdict.weight = None;
            }
            true
        });
    }
}
