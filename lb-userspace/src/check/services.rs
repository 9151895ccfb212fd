//! From probe verdicts to facts about virtual servers: the health of each real server (all its
//! checkers must agree), the quorum, and which notify scripts are to run.
//!
//! Nothing is published about a real server before one of its probes has spoken; until then the
//! configuration's assumption stands (up, or down under `alpha`). What an earlier checker process
//! published is restored instead, when there was one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

use super::{
    Verdict,
    quorum::{self, Quorum},
};
use crate::base::{net::VirtualServerKey, status::Health, time::Instant};

/// Name of a probe; two checkers with the same configuration and target share one.
pub type ProbeId = u64;

/// One checker of one real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerSpec {
    pub probe: ProbeId,
    /// Keyword and target for reasons: `TCP_CHECK 192.0.2.11:3306`.
    pub label: String,
    /// Down until its first success.
    pub alpha: bool,
}

/// One real server of one virtual server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    pub addr: SocketAddr,
    pub weight: u32,
    pub checkers: Vec<CheckerSpec>,
}

/// One virtual server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    pub key: VirtualServerKey,
    pub quorum: quorum::Spec,
    pub alpha: bool,
    pub servers: Vec<ServerSpec>,
}

/// What is to be told or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The health or weight of a real server changed, or is known for the first time.
    Health {
        virtual_server: VirtualServerKey,
        real_server: SocketAddr,
        health: Health,
        /// Weight in force.
        weight: u32,
        reason: String,
        /// The instant of the probe's verdict.
        at: Instant,
    },
    /// It went down or came up again: `notify_down`, `notify_up`.
    Notify { virtual_server: VirtualServerKey, real_server: SocketAddr, up: bool },
    /// The quorum was lost or gained, or is known for the first time (`changed` is false then,
    /// and no script runs).
    Quorum { virtual_server: VirtualServerKey, up: bool, changed: bool },
}

#[derive(Debug)]
struct Server {
    spec: ServerSpec,
    /// What was last published.
    published: Option<(Health, u32)>,
    /// As `notify_up` and `notify_down` see it.
    alive: bool,
}

#[derive(Debug)]
struct Service {
    spec: ServiceSpec,
    servers: BTreeMap<SocketAddr, Server>,
    quorum: Quorum,
    published: Option<bool>,
}

/// All virtual servers of a configuration.
#[derive(Debug, Default)]
pub struct Services {
    services: BTreeMap<VirtualServerKey, Service>,
    verdicts: BTreeMap<ProbeId, Verdict>,
    effects: VecDeque<Effect>,
}

/// A server's row for status reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow<'a> {
    pub virtual_server: VirtualServerKey,
    pub real_server: SocketAddr,
    pub health: Health,
    pub weight: u32,
    pub checkers: &'a [CheckerSpec],
}

/// A virtual server's row for status reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumRow {
    pub virtual_server: VirtualServerKey,
    pub quorum: u32,
    pub up_weight: u64,
    pub up: bool,
}

/// How bad: the worst checker decides.
fn rank(health: Health) -> u8 {
    match health {
        Health::Up => 0,
        Health::Suspect => 1,
        Health::Full => 2,
        Health::Drain => 3,
        Health::Unknown => 4,
        Health::Down => 5,
    }
}

/// Whether a server counts for the quorum: it is alive and not about to stop.
fn counts(health: Health) -> bool {
    matches!(health, Health::Up | Health::Suspect | Health::Full)
}

impl Server {
    fn new(spec: ServerSpec, service_alpha: bool) -> Self {
        let alpha = service_alpha || spec.checkers.iter().any(|checker| checker.alpha);
        let alive = !alpha || spec.checkers.is_empty();
        Self { spec, published: None, alive }
    }

    /// Health, weight in force and reason, from what the probes say. [`Health::Unknown`]: a
    /// checker under `alpha` has not spoken yet and none says worse.
    fn judge(&self, verdicts: &BTreeMap<ProbeId, Verdict>) -> (Health, u32, String) {
        let mut worst = (Health::Up, String::from("no checker"));
        let mut weight = i64::from(self.spec.weight);
        for (index, checker) in self.spec.checkers.iter().enumerate() {
            let (health, reason) = match verdicts.get(&checker.probe) {
                Some(verdict) => {
                    if let Some(set) = verdict.weight {
                        weight += i64::from(set) - i64::from(self.spec.weight);
                    }
                    (verdict.health, format!("{}: {}", checker.label, verdict.reason))
                }
                None => {
                    let health = if checker.alpha { Health::Unknown } else { Health::Up };
                    (health, format!("{}: not probed yet", checker.label))
                }
            };
            if index == 0 || rank(health) > rank(worst.0) {
                worst = (health, reason);
            }
        }
        (worst.0, u32::try_from(weight.max(0)).unwrap_or(u32::MAX), worst.1)
    }

    fn spoken(&self, verdicts: &BTreeMap<ProbeId, Verdict>) -> bool {
        self.spec.checkers.is_empty()
            || self.spec.checkers.iter().any(|checker| verdicts.contains_key(&checker.probe))
    }

    /// Health and weight as the data plane has them.
    fn current(&self) -> (Health, u32) {
        self.published
            .unwrap_or((if self.alive { Health::Up } else { Health::Down }, self.spec.weight))
    }
}

impl Service {
    fn weights(&self) -> (u64, u64) {
        self.servers.values().fold((0, 0), |(up, total), server| {
            let (health, weight) = server.current();
            let usable = if counts(health) { u64::from(weight) } else { 0 };
            (up + usable, total + u64::from(server.spec.weight))
        })
    }

    fn refresh(
        &mut self,
        verdicts: &BTreeMap<ProbeId, Verdict>,
        addr: SocketAddr,
        at: Instant,
        effects: &mut VecDeque<Effect>,
    ) {
        let Some(server) = self.servers.get_mut(&addr) else { return };
        if !server.spoken(verdicts) {
            return;
        }
        let (health, weight, reason) = server.judge(verdicts);
        if health == Health::Unknown || server.published == Some((health, weight)) {
            return;
        }
        server.published = Some((health, weight));
        let key = self.spec.key;
        effects.push_back(Effect::Health {
            virtual_server: key,
            real_server: addr,
            health,
            weight,
            reason,
            at,
        });
        let alive = health != Health::Down;
        if alive != server.alive {
            server.alive = alive;
            effects.push_back(Effect::Notify { virtual_server: key, real_server: addr, up: alive });
        }
    }

    fn refresh_quorum(&mut self, effects: &mut VecDeque<Effect>) {
        if self.published.is_none() && self.servers.values().all(|s| s.published.is_none()) {
            return;
        }
        let (up_weight, total) = self.weights();
        let changed = self.quorum.update(up_weight, total).is_some();
        let up = self.quorum.up();
        if self.published != Some(up) {
            self.published = Some(up);
            effects.push_back(Effect::Quorum { virtual_server: self.spec.key, up, changed });
        }
    }
}

impl Services {
    /// Puts a configuration in force. Servers that stay keep what is known about them.
    pub fn configure(&mut self, specs: Vec<ServiceSpec>, now: Instant) {
        let mut old = std::mem::take(&mut self.services);
        for spec in specs {
            let before = old.remove(&spec.key);
            let (mut kept, quorum, published) = match before {
                Some(service) => (service.servers, service.quorum.up(), service.published),
                None => (BTreeMap::new(), !spec.alpha, None),
            };
            let servers = spec
                .servers
                .iter()
                .map(|server| {
                    let entry = match kept.remove(&server.addr) {
                        Some(known) => Server { spec: server.clone(), ..known },
                        None => Server::new(server.clone(), spec.alpha),
                    };
                    (server.addr, entry)
                })
                .collect();
            let quorum = Quorum::new(spec.quorum, quorum);
            self.services.insert(spec.key, Service { spec, servers, quorum, published });
        }
        let used: BTreeSet<ProbeId> = self
            .services
            .values()
            .flat_map(|service| service.spec.servers.iter())
            .flat_map(|server| server.checkers.iter().map(|checker| checker.probe))
            .collect();
        self.verdicts.retain(|probe, _| used.contains(probe));
        for service in self.services.values_mut() {
            let addrs: Vec<SocketAddr> = service.servers.keys().copied().collect();
            for addr in addrs {
                service.refresh(&self.verdicts, addr, now, &mut self.effects);
            }
            service.refresh_quorum(&mut self.effects);
        }
    }

    /// Takes a probe's verdict, which fell at `at`.
    pub fn verdict(&mut self, probe: ProbeId, verdict: Verdict, at: Instant) {
        self.verdicts.insert(probe, verdict);
        for service in self.services.values_mut() {
            let concerned: Vec<SocketAddr> = service
                .servers
                .iter()
                .filter(|(_, server)| server.spec.checkers.iter().any(|c| c.probe == probe))
                .map(|(addr, _)| *addr)
                .collect();
            for addr in &concerned {
                service.refresh(&self.verdicts, *addr, at, &mut self.effects);
            }
            if !concerned.is_empty() {
                service.refresh_quorum(&mut self.effects);
            }
        }
    }

    /// Restores what an earlier checker process published, unless this one already knows better.
    /// Returns the probes that should start from `health`.
    pub fn restore(
        &mut self,
        key: VirtualServerKey,
        addr: SocketAddr,
        health: Health,
        weight: u32,
    ) -> Vec<ProbeId> {
        let Some(service) = self.services.get_mut(&key) else { return Vec::new() };
        let Some(server) = service.servers.get_mut(&addr) else { return Vec::new() };
        if server.spec.checkers.is_empty() || server.published.is_some() {
            return Vec::new();
        }
        server.published = Some((health, weight));
        server.alive = health != Health::Down;
        server.spec.checkers.iter().map(|checker| checker.probe).collect()
    }

    /// The same for a quorum.
    pub fn restore_quorum(&mut self, key: VirtualServerKey, up: bool) {
        if let Some(service) = self.services.get_mut(&key)
            && service.published.is_none()
        {
            service.quorum.restore(up);
            service.published = Some(up);
        }
    }

    /// Health in force of a server, if anything was published about it.
    pub fn known(&self, key: VirtualServerKey, addr: SocketAddr) -> Option<Health> {
        let (health, _) = self.services.get(&key)?.servers.get(&addr)?.published?;
        Some(health)
    }

    /// The next effect, in order; `None` when there is none.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Scripts of an orderly end under `omega`: every server that is up, every quorum that is.
    pub fn farewell(&self, key: VirtualServerKey) -> (Vec<SocketAddr>, bool) {
        let Some(service) = self.services.get(&key) else { return (Vec::new(), false) };
        let up = service.servers.iter().filter(|(_, server)| server.alive);
        (up.map(|(addr, _)| *addr).collect(), service.quorum.up())
    }

    /// One row for each real server of each virtual server.
    pub fn servers(&self) -> impl Iterator<Item = ServerRow<'_>> {
        self.services.values().flat_map(|service| {
            service.servers.values().map(|server| ServerRow {
                virtual_server: service.spec.key,
                real_server: server.spec.addr,
                health: server.published.map_or(Health::Unknown, |(health, _)| health),
                weight: server.current().1,
                checkers: &server.spec.checkers,
            })
        })
    }

    /// One row for each virtual server.
    pub fn quorums(&self) -> impl Iterator<Item = QuorumRow> {
        self.services.values().map(|service| QuorumRow {
            virtual_server: service.spec.key,
            quorum: service.spec.quorum.quorum,
            up_weight: service.weights().0,
            up: service.quorum.up(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Instant = Instant::from_nanos(7);

    fn key() -> VirtualServerKey {
        "192.0.2.10:3306".parse().expect("a key")
    }

    fn db(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 3306))
    }

    fn checker(probe: ProbeId, alpha: bool) -> CheckerSpec {
        CheckerSpec { probe, label: format!("TCP_CHECK {probe}"), alpha }
    }

    fn server(n: u8, weight: u32, checkers: Vec<CheckerSpec>) -> ServerSpec {
        ServerSpec { addr: db(n), weight, checkers }
    }

    fn service(servers: Vec<ServerSpec>) -> ServiceSpec {
        let quorum = quorum::Spec { quorum: 1, hysteresis: 0 };
        ServiceSpec { key: key(), quorum, alpha: false, servers }
    }

    fn verdict(health: Health) -> Verdict {
        Verdict { health, weight: None, reason: "said".into() }
    }

    /// Effects in words.
    fn effects(services: &mut Services) -> Vec<String> {
        std::iter::from_fn(|| services.poll_effect())
            .map(|effect| match effect {
                Effect::Health { real_server, health, weight, at, .. } => {
                    assert_eq!(at, AT);
                    format!("{} {health:?} {weight}", real_server.ip())
                }
                Effect::Notify { real_server, up, .. } => {
                    format!("notify {} {up}", real_server.ip())
                }
                Effect::Quorum { up, changed, .. } => format!("quorum {up} {changed}"),
            })
            .collect()
    }

    #[test]
    fn nothing_is_said_before_a_probe_spoke_and_scripts_run_on_changes_only() {
        let mut s = Services::default();
        let specs = vec![service(vec![server(1, 3, vec![checker(1, false)])])];
        s.configure(specs, AT);
        assert!(effects(&mut s).is_empty());
        s.verdict(1, verdict(Health::Up), AT);
        assert_eq!(effects(&mut s), ["192.0.2.1 Up 3", "quorum true false"]);
        s.verdict(1, verdict(Health::Suspect), AT);
        assert_eq!(effects(&mut s), ["192.0.2.1 Suspect 3"]);
        s.verdict(1, verdict(Health::Down), AT);
        assert_eq!(
            effects(&mut s),
            ["192.0.2.1 Down 3", "notify 192.0.2.1 false", "quorum false true"]
        );
        s.verdict(1, verdict(Health::Up), AT);
        assert_eq!(
            effects(&mut s),
            ["192.0.2.1 Up 3", "notify 192.0.2.1 true", "quorum true true"]
        );
    }

    #[test]
    fn all_checkers_must_agree() {
        let mut s = Services::default();
        let both = vec![checker(1, false), checker(2, false)];
        s.configure(vec![service(vec![server(1, 1, both)])], AT);
        s.verdict(1, verdict(Health::Up), AT);
        s.verdict(2, verdict(Health::Down), AT);
        s.verdict(1, verdict(Health::Full), AT);
        s.verdict(2, verdict(Health::Up), AT);
        s.verdict(1, verdict(Health::Up), AT);
        let healths: Vec<_> =
            effects(&mut s).into_iter().filter(|e| e.starts_with("192")).collect();
        assert_eq!(
            healths,
            ["192.0.2.1 Up 1", "192.0.2.1 Down 1", "192.0.2.1 Full 1", "192.0.2.1 Up 1"]
        );
    }

    #[test]
    fn alpha_waits_for_every_checker() {
        let mut s = Services::default();
        let both = vec![checker(1, true), checker(2, true)];
        let spec = ServiceSpec { alpha: true, ..service(vec![server(1, 1, both)]) };
        s.configure(vec![spec], AT);
        s.verdict(1, verdict(Health::Up), AT);
        assert!(effects(&mut s).is_empty());
        s.verdict(2, verdict(Health::Up), AT);
        assert_eq!(
            effects(&mut s),
            ["192.0.2.1 Up 1", "notify 192.0.2.1 true", "quorum true true"]
        );
    }

    #[test]
    fn one_probe_speaks_for_every_virtual_server_that_shares_it() {
        let mut s = Services::default();
        let other = ServiceSpec {
            key: "192.0.2.20:3306".parse().expect("a key"),
            ..service(vec![server(1, 9, vec![checker(1, false)])])
        };
        s.configure(vec![service(vec![server(1, 3, vec![checker(1, false)])]), other], AT);
        s.verdict(1, verdict(Health::Up), AT);
        let said = effects(&mut s);
        assert!(said.contains(&"192.0.2.1 Up 3".into()), "{said:?}");
        assert!(said.contains(&"192.0.2.1 Up 9".into()), "{said:?}");
    }

    #[test]
    fn dynamic_weight_and_a_reload_that_changes_the_weight() {
        let mut s = Services::default();
        s.configure(vec![service(vec![server(1, 10, vec![checker(1, false)])])], AT);
        let dynamic = Verdict { weight: Some(4), ..verdict(Health::Up) };
        s.verdict(1, dynamic, AT);
        assert_eq!(effects(&mut s), ["192.0.2.1 Up 4", "quorum true false"]);
        s.verdict(1, verdict(Health::Up), AT);
        assert_eq!(effects(&mut s), ["192.0.2.1 Up 10"]);
        s.configure(vec![service(vec![server(1, 20, vec![checker(1, false)])])], AT);
        assert_eq!(effects(&mut s), ["192.0.2.1 Up 20"]);
        // The same again changes nothing.
        s.configure(vec![service(vec![server(1, 20, vec![checker(1, false)])])], AT);
        assert!(effects(&mut s).is_empty());
    }

    #[test]
    fn restored_health_stands_until_relearned() {
        let mut s = Services::default();
        let specs = vec![service(vec![
            server(1, 1, vec![checker(1, false)]),
            server(2, 1, vec![checker(2, false)]),
        ])];
        s.configure(specs, AT);
        assert_eq!(s.restore(key(), db(1), Health::Down, 1), [1]);
        s.restore_quorum(key(), true);
        assert!(effects(&mut s).is_empty());
        s.verdict(1, verdict(Health::Down), AT);
        assert!(effects(&mut s).is_empty(), "known already");
        s.verdict(2, verdict(Health::Up), AT);
        assert_eq!(effects(&mut s), ["192.0.2.2 Up 1"]);
        s.verdict(1, verdict(Health::Up), AT);
        assert_eq!(effects(&mut s), ["192.0.2.1 Up 1", "notify 192.0.2.1 true"]);
        assert!(s.restore(key(), db(1), Health::Down, 1).is_empty(), "too late");
    }

    #[test]
    fn a_server_without_checkers_is_up() {
        let mut s = Services::default();
        s.configure(vec![service(vec![server(1, 5, vec![])])], AT);
        assert_eq!(effects(&mut s), ["192.0.2.1 Up 5", "quorum true false"]);
    }

    #[test]
    fn quorum_counts_weight_of_living_servers() {
        let mut s = Services::default();
        let spec = ServiceSpec {
            quorum: quorum::Spec { quorum: 3, hysteresis: 1 },
            ..service(vec![
                server(1, 2, vec![checker(1, false)]),
                server(2, 2, vec![checker(2, false)]),
            ])
        };
        s.configure(vec![spec], AT);
        s.verdict(1, verdict(Health::Down), AT);
        s.verdict(2, verdict(Health::Full), AT);
        let said: Vec<_> =
            effects(&mut s).into_iter().filter(|e| e.starts_with("quorum")).collect();
        assert_eq!(said, ["quorum true false"], "2 is not below 3 - 1");
        s.verdict(2, verdict(Health::Drain), AT);
        assert!(effects(&mut s).contains(&"quorum false true".into()));
    }
}
