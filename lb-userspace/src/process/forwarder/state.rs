//! What the forwarder knows and decides, over any engine: the desired table from its inputs, the
//! difference to the engine's, and when to look again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tracing::{error, info, warn};

use super::unengined::{no_engine, xdp_failed};
use crate::{
    base::{
        core::Core as _,
        net::VirtualServerKey,
        status::{ForwarderStatus, Health, VrrpState},
        table::{Engine, ForwardingTable, Gate},
        time::Instant,
    },
    config::model::{Config, OnDown},
    dataplane::{ApplyReport, DataPlane, FailureKind, Surroundings},
    desired::{self, Admin, HealthBook, Host, Inputs, LeaseSlots, compile, placement},
    process::{
        clock,
        ipc::{Event, HealthChange},
    },
    reconcile::{
        Operation, Plan, plan,
        rounds::{Input, Rounds},
    },
};

/// Distance of quiet rounds: how long a foreign change of our maps can last.
pub const ROUND: Duration = Duration::from_secs(1);
/// Upper bounds of the verdict histogram, microseconds; the last takes the rest.
const BOUNDS: [u64; 7] = [100, 250, 500, 1000, 2000, 10_000, u64::MAX];

/// How the data plane stands after a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As desired; interfaces that do not exist aside.
    Converged,
    /// Something failed that may yet work.
    Trying(String),
    /// Something failed for good.
    Hopeless(String),
}

/// What the operator wants of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No new connections; what is left after `within`, if that is said, is reset.
    Drain { within: Option<Duration> },
    /// As configured.
    Enable,
}

/// The forwarder without its sockets.
pub struct State<P> {
    pub engine: P,
    pub config: Arc<Config>,
    pub generation: u64,
    pub slots: LeaseSlots,
    pub admin: Admin,
    pub rounds: Rounds,
    /// Why this engine, for the status.
    pub reason: String,
    /// A configuration that may take the place of the one in force.
    offered: Option<(u64, Arc<Config>)>,
    vrrp: bool,
    health: HealthBook,
    quorum: BTreeMap<VirtualServerKey, bool>,
    /// Instances that are master here.
    masters: BTreeSet<String>,
    host: Host,
    /// The engine's table as last read, with what has succeeded since.
    known: ForwardingTable,
    standing: Standing,
    errors: u64,
    verdict_us: BTreeMap<u64, u64>,
    verdict_total_us: u64,
    /// When the table changes by itself next: some server's connections have drained long enough.
    deadline: Option<Instant>,
    /// Something was heard that is not in the engine yet.
    unsettled: bool,
    /// Verdicts among it, for their latency; at most as many as are taken in one turn.
    verdicts: Vec<HealthChange>,
    /// Servers that are not in the maps as they should be, since operations failed.
    missing: BTreeSet<(VirtualServerKey, SocketAddr)>,
}

impl<P: DataPlane> State<P> {
    /// Takes the engine's present table as given: lease slots follow from its VIPs, health from the
    /// states of its real servers.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub fn new(
        mut engine: P,
        config: Arc<Config>,
        generation: u64,
        vrrp: bool,
        admin: Admin,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let known = engine.observe()?;
        let (slots, without) = LeaseSlots::default().allocate(&config, &known.vips);
        warn_without(&without);
        let health = HealthBook::adopt(&config, &known, &admin);
        // Until the vrrp role has spoken: whose virtual servers are there was master.
        let gates = known.virtual_servers.values().map(|vs| vs.gate);
        let masters = gates.filter_map(|gate| match gate {
            Gate::Lease(slot) => slots.name_of(slot).map(str::to_owned),
            Gate::Always => None,
        });
        let masters = masters.collect();
        Ok(Self {
            engine,
            config,
            generation,
            slots,
            admin,
            rounds: Rounds::new(ROUND, now),
            reason: String::new(),
            offered: None,
            vrrp,
            health,
            quorum: BTreeMap::new(),
            masters,
            host: Host::default(),
            known,
            standing: Standing::Trying("not reconciled yet".into()),
            errors: 0,
            // Every bucket from the start: a histogram whose buckets come and go misleads.
            verdict_us: BOUNDS.map(|bound| (bound, 0)).into(),
            verdict_total_us: 0,
            deadline: None,
            unsettled: false,
            verdicts: Vec::new(),
            missing: BTreeSet::new(),
        })
    }

    /// The inputs as the pure functions take them.
    pub fn inputs(&self, now: Instant) -> Inputs<'_> {
        Inputs {
            config: &self.config,
            engine: self.engine.capabilities().engine,
            masters: &self.masters,
            vrrp: self.vrrp,
            slots: &self.slots,
            health: &self.health,
            quorum: &self.quorum,
            admin: &self.admin,
            host: &self.host,
            now,
        }
    }

    /// When [`State::expire`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The time of a server that drains may be over.
    pub fn expire(&mut self, now: Instant) {
        self.changed(now);
    }

    /// Addresses whose ways the engine needs, or would need: real servers and sorry servers.
    pub fn destinations(&self) -> BTreeSet<IpAddr> {
        let offered = self.offered.iter().flat_map(|(_, config)| &config.virtual_servers);
        self.config
            .virtual_servers
            .iter()
            .chain(offered)
            .flat_map(|vs| vs.real_servers.iter().map(|rs| rs.addr).chain(vs.sorry_server))
            .map(|addr| addr.ip())
            .collect()
    }

    /// Whether anything is to be forwarded, rather than only guarded.
    pub fn forwards(&self) -> bool {
        !self.config.virtual_servers.is_empty()
    }

    /// How the last round went.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The host changed: next hops are written at once, the table follows if it is affected.
    pub fn surroundings(&mut self, host: Host, around: &Surroundings, now: Instant) {
        if let Err(error) = self.engine.set_surroundings(around) {
            self.errors += 1;
            warn!(error = format!("{error:#}"), "next hops not written, tried again next round");
        }
        if self.host != host {
            self.host = host;
            self.changed(now);
        }
    }

    /// Another configuration is offered: its ways count among [`State::destinations`] until
    /// [`State::take`].
    pub fn offer(&mut self, generation: u64, config: Arc<Config>) {
        self.offered = Some((generation, config));
    }

    /// Puts the offered configuration in force, unless that is hopeless where the present one is
    /// not: then nothing changes. `held`: the engine's mode has changed, so that no interface counts as attached, and
    /// these were.
    ///
    /// # Errors
    /// Why the program cannot be on an interface that the offered configuration needs.
    pub fn take(&mut self, held: Option<&BTreeSet<String>>, now: Instant) -> Result<(), String> {
        let Some((generation, config)) = self.offered.take() else { return Ok(()) };
        self.settle(now);
        if !config.virtual_servers.is_empty() {
            self.probe(&config, held, now)?;
        }
        self.reload(generation, config, now);
        Ok(())
    }

    /// Interfaces that have the program.
    pub fn attached(&self) -> BTreeSet<String> {
        self.known.interfaces.clone()
    }

    /// Attaches to every interface that `config` adds; takes all of that back when one is
    /// hopeless. Of those that were `held` none loses its program: the next round has it in the mode of before.
    fn probe(
        &mut self,
        config: &Config,
        held: Option<&BTreeSet<String>>,
        now: Instant,
    ) -> Result<(), String> {
        let (slots, _) = self.slots.allocate(config, &self.known.vips);
        let wanted = compile(&Inputs { config, slots: &slots, ..self.inputs(now) }).interfaces;
        let mut present = BTreeSet::new();
        if held.is_none() {
            present.extend(self.known.interfaces.iter().cloned());
            // VRRP alone lives with an interface that a virtual server cannot live with.
            if self.forwards() {
                present.extend(compile(&self.inputs(now)).interfaces);
            }
        }
        let added = wanted.difference(&present).cloned();
        let attach: Vec<_> = added.map(|interface| Operation::Attach { interface }).collect();
        let report = self.perform(&Plan { operations: attach.clone() });
        let Some(hopeless) = report.failures().find(|it| it.kind == FailureKind::Hopeless) else {
            return Ok(());
        };
        let undo = attach.into_iter().filter_map(|operation| match operation {
            Operation::Attach { interface } => {
                let stays = held.is_some_and(|held| held.contains(&interface));
                (!stays).then_some(Operation::Detach { interface })
            }
            _ => None,
        });
        let undo = undo.collect();
        self.perform(&Plan { operations: undo });
        Err(hopeless.text.clone())
    }

    fn reload(&mut self, generation: u64, config: Arc<Config>, now: Instant) {
        self.health.reload(&self.config, &config);
        self.admin.reload(&config);
        self.quorum.retain(|key, _| config.virtual_servers.iter().any(|vs| vs.key == *key));
        let (slots, without) = self.slots.allocate(&config, &self.known.vips);
        warn_without(&without);
        self.slots = slots;
        self.config = config;
        self.generation = generation;
        self.changed(now);
    }

    /// Another role said something; it is in the maps after [`State::settle`].
    pub fn hear(&mut self, event: &Event, now: Instant) {
        if let Event::Health(change) = event {
            // A death ends the server's connections; its return must not hide it.
            let died = |before: &HealthChange| {
                before.health == Health::Down
                    && before.virtual_server == change.virtual_server
                    && before.real_server == change.real_server
            };
            if self.verdicts.iter().any(died) {
                self.settle(now);
            }
            if self.recall(event) {
                self.verdicts.push(change.clone());
            }
        } else {
            self.recall(event);
        }
    }

    /// As [`State::hear`], for what was said a while ago: its age is no latency of ours. Whether
    /// it is news.
    pub fn recall(&mut self, event: &Event) -> bool {
        let news = match event {
            Event::Health(HealthChange {
                virtual_server, real_server, health, weight, at, ..
            }) => self.health.set(*virtual_server, *real_server, *health, *weight, *at),
            Event::Quorum { virtual_server, up } => {
                self.quorum.insert(*virtual_server, *up) != Some(*up)
            }
            // The lease map gates the XDP engine, not the table: an election changes nothing there.
            Event::Vrrp { instance, state, .. } => {
                let changed = match state {
                    VrrpState::Master => self.masters.insert(instance.clone()),
                    VrrpState::Init | VrrpState::Backup | VrrpState::Fault => {
                        self.masters.remove(instance)
                    }
                };
                changed && self.engine.capabilities().engine == Engine::Ipvs
            }
            Event::Converged { .. } | Event::Script { .. } => false,
        };
        self.unsettled |= news;
        news
    }

    /// Writes what was heard; all of it is in the maps when this returns, or is tried again by the
    /// rounds that follow.
    pub fn settle(&mut self, now: Instant) {
        if std::mem::take(&mut self.unsettled) {
            self.changed(now);
        }
        self.tell_verdicts();
    }

    /// Tells of the verdicts that are in the maps.
    fn tell_verdicts(&mut self) {
        let done = clock::now();
        let waits = |change: &HealthChange| {
            self.missing.contains(&(change.virtual_server, change.real_server))
        };
        let (waiting, told): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.verdicts).into_iter().partition(waits);
        self.verdicts = waiting;
        for change in told {
            let HealthChange { virtual_server, real_server, health, weight, at, .. } = change;
            let took = u64::try_from(done.saturating_since(at).as_micros()).unwrap_or(u64::MAX);
            let bound = BOUNDS.iter().find(|bound| took <= **bound).copied().unwrap_or(u64::MAX);
            *self.verdict_us.entry(bound).or_default() += 1;
            self.verdict_total_us = self.verdict_total_us.saturating_add(took);
            info!(
                %virtual_server, %real_server, ?health, weight, took_us = took,
                "verdict in the data plane"
            );
        }
    }

    /// The operator drains or enables. The caller keeps [`State::admin`] on disk.
    ///
    /// # Errors
    /// A sentence when the configuration has no such server, or never ends its connections.
    pub fn administer(
        &mut self,
        key: Option<VirtualServerKey>,
        addr: SocketAddr,
        decision: Decision,
        now: Instant,
    ) -> Result<String, String> {
        let config = Arc::clone(&self.config);
        let named: Vec<_> = config
            .virtual_servers
            .iter()
            .filter(|vs| key.is_none_or(|key| key == vs.key))
            .filter(|vs| vs.real_servers.iter().any(|rs| rs.addr == addr))
            .collect();
        if named.is_empty() {
            let place = key.map_or_else(|| "any virtual server".to_owned(), |key| key.to_string());
            return Err(format!("{addr} is not a real server of {place}"));
        }
        let place: Vec<_> = named.iter().map(|vs| vs.key.to_string()).collect();
        let place = place.join(", ");
        let within = match decision {
            Decision::Enable => {
                self.admin.enable(&config, key, addr);
                self.changed(now);
                return Ok(format!("{addr} enabled in {place}"));
            }
            Decision::Drain { within } => within,
        };
        let keeps = named.iter().find(|vs| vs.on_down == OnDown::Keep);
        if let (Some(vs), Some(_)) = (keeps, within) {
            return Err(format!(
                "{} has `on_down keep`: its connections are never reset, so no time can be set",
                vs.key
            ));
        }
        self.admin.drain(key, addr, within.map(|within| now + within));
        self.changed(now);
        let then = match within {
            Some(within) => format!("; what is left in {} s is reset", within.as_secs_f64()),
            None => String::new(),
        };
        // They go on whether or not they can be counted.
        let left = match self.connections(addr, &place) {
            Ok(left) => format!("; connections that remain: {left}"),
            Err(_) => String::new(),
        };
        Ok(format!("{addr} drained in {place}{left}{then}"))
    }

    /// Established connections of a real server in virtual servers that `place` names.
    fn connections(&mut self, addr: SocketAddr, place: &str) -> anyhow::Result<u64> {
        let status = self.engine.status()?;
        let virtual_servers = status.virtual_servers.iter();
        Ok(virtual_servers
            .filter(|vs| place.split(", ").any(|key| key == vs.key))
            .flat_map(|vs| &vs.real_servers)
            .filter(|rs| rs.addr == addr)
            .map(|rs| rs.active_connections)
            .sum())
    }

    /// Reconciles against what is known, at once. The next round reads the engine back.
    fn changed(&mut self, now: Instant) {
        self.apply(now);
    }

    /// A round: reads the engine back, repairs what differs.
    pub fn round(&mut self, now: Instant) {
        match self.engine.observe() {
            Ok(observed) => {
                if observed != self.known {
                    let drift = plan(&observed, &self.known);
                    for operation in &drift.operations {
                        warn!(%operation, "the data plane was changed by someone else");
                    }
                    self.known = observed;
                }
                self.apply(now);
                self.tell_verdicts();
            }
            Err(error) => {
                self.errors += 1;
                error!(error = format!("{error:#}"), "the data plane cannot be read");
                self.standing = Standing::Trying(format!("{error:#}"));
                self.rounds.handle(Input::Finished { failed: 1 }, now);
            }
        }
    }

    fn apply(&mut self, now: Instant) {
        let desired = compile(&self.inputs(now));
        self.deadline = desired::next_deadline(&self.inputs(now));
        let mut steps = plan(&self.known, &desired);
        let unknown = |name: &String| {
            !desired.interfaces.contains(name) && !self.known.interfaces.contains(name)
        };
        let strays = self.engine.strays().into_iter().filter(unknown);
        steps.operations.extend(strays.map(|interface| Operation::Detach { interface }));
        let report = self.perform(&steps);
        let failed = report.failures().count();
        let standing = standing(report.failures());
        // Once a change, not once a round: a missing interface would fill the log.
        if standing != self.standing {
            for failure in report.failures() {
                error!(kind = ?failure.kind, "{}", failure.text);
            }
        }
        self.standing = standing;
        self.missing.clear();
        if failed > 0 {
            let known = |key, addr| self.known.virtual_servers.get(key)?.real_servers.get(addr);
            for (key, vs) in &desired.virtual_servers {
                let missing =
                    vs.real_servers.iter().filter(|(addr, it)| known(key, *addr) != Some(it));
                self.missing.extend(missing.map(|(addr, _)| (*key, *addr)));
            }
        }
        self.rounds.handle(Input::Finished { failed }, now);
    }

    /// Performs a plan and keeps account of what succeeded.
    fn perform(&mut self, plan: &Plan) -> ApplyReport {
        let report = self.engine.apply(plan);
        for (operation, outcome) in plan.operations.iter().zip(&report.outcomes) {
            if outcome.is_ok() && operation.perform(&mut self.known).is_err() {
                error!(%operation, "an operation succeeded that does not fit");
            }
        }
        self.errors += report.failures().count() as u64;
        report
    }

    /// The sentence for what is hopeless.
    pub fn without_engine(&self, why: &str) -> String {
        match self.engine.capabilities().engine {
            Engine::Ipvs => no_engine(&format!("ipvs failed because {why}")),
            Engine::Xdp => no_engine(&xdp_failed(why)),
        }
    }

    /// The engine's status with what only we know.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub fn status(&mut self, now: Instant) -> anyhow::Result<ForwarderStatus> {
        let mut status = self.engine.status()?;
        status.generation = self.generation;
        status.engine_reason.clone_from(&self.reason);
        let engine = self.engine.capabilities().engine;
        status.reconcile_errors = self.errors;
        status.problem = match &self.standing {
            Standing::Hopeless(why) => Some(self.without_engine(why)),
            // A service in the way of ours is there until somebody takes it out.
            Standing::Trying(why) if engine == Engine::Ipvs => Some(why.clone()),
            Standing::Converged | Standing::Trying(_) => None,
        };
        status.verdict_us = self.verdict_us.clone();
        status.verdict_total_us = self.verdict_total_us;
        for vs in &mut status.virtual_servers {
            let Ok(key) = vs.key.parse::<VirtualServerKey>() else { continue };
            let Some(model) = self.config.virtual_servers.iter().find(|vs| vs.key == key) else {
                continue;
            };
            vs.placement = match placement::place(engine, model) {
                Ok(why) => why.to_owned(),
                Err(why) => why,
            };
            vs.instance = match self.known.virtual_servers.get(&key).map(|vs| vs.gate) {
                Some(Gate::Lease(slot)) => self.slots.name_of(slot).map(str::to_owned),
                _ => None,
            };
            let inputs = self.inputs(now);
            for rs in &mut vs.real_servers {
                rs.admin = self.admin.get(key, rs.addr).map(|state| state.name().to_owned());
                let server = model.real_servers.iter().find(|server| server.addr == rs.addr);
                rs.ends_in_ms = server
                    .and_then(|server| desired::deadline(&inputs, model, server))
                    .filter(|deadline| *deadline > now)
                    .and_then(|deadline| u64::try_from((deadline - now).as_millis()).ok());
            }
        }
        Ok(status)
    }
}

fn standing<'a>(failures: impl Iterator<Item = &'a crate::dataplane::Failure>) -> Standing {
    let mut worst = Standing::Converged;
    for failure in failures {
        match (failure.kind, &worst) {
            (FailureKind::Hopeless, _) => return Standing::Hopeless(failure.text.clone()),
            (FailureKind::Passing, Standing::Converged) => {
                worst = Standing::Trying(failure.text.clone());
            }
            _ => {}
        }
    }
    worst
}

fn warn_without(instances: &[String]) {
    for instance in instances {
        warn!(%instance, "no lease slot left: this vrrp_instance is not guarded and cannot forward");
    }
}
