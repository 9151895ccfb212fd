//! The checker process: probes, scripts of MISC_CHECK, and what follows from their verdicts.
//!
//! One task runs each probe (`probe`, `mysql`); equal checkers with equal targets share one. Tasks
//! report to the main loop over one bounded queue; it feeds [`crate::check::services`] and sends
//! the facts on. The checker publishes facts, the forwarder decides what they mean for traffic.
//!
//! A dead checker takes nothing down: its last events stand in the watchdog, which replays them
//! to the next one ([`Down::Replay`], events from our own role), and that starts from them.

mod mysql;
mod probe;
mod spec;
mod stats;
mod tell;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

use self::{
    probe::{Command, Handle, Report, What},
    stats::Stats,
};
use super::{
    Link, clock,
    ipc::{Down, Event, HealthChange, Query, Reply, Role, ScriptDone, ScriptRun, Up},
    privileges,
    record::{CheckerStep, Recorder},
};
use crate::{
    base::{
        net::VirtualServerKey,
        status::{Health, QuorumStatus, ServerHealth},
    },
    check::services::{Effect, ProbeId, Services},
    config::model::{self, Config},
    vrrp::track,
};

/// Reports of probes that may wait for the main loop; a full queue blocks the probes.
const REPORT_LIMIT: usize = 1024;

/// How often probes are looked at for ones that ended by themselves.
const PATROL_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the role until it is stopped or the watchdog is gone.
///
/// # Errors
/// When the first message is not [`Down::Start`], the record file cannot be opened or privileges
/// cannot be dropped.
pub async fn run(link: Link) -> anyhow::Result<()> {
    serve(link, || privileges::limit(Role::Checker).context("drop privileges of the checker")).await
}

/// As [`run`]; `limit` is called once, when what needs privileges has been opened. A caller that
/// shares its process with others (a test) passes one that does nothing.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    mut link: Link,
    limit: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(Down::Start { runtime, generation, config }) = link.rx.recv().await else {
        anyhow::bail!("the watchdog's first message is not Start");
    };
    let mut recorder = Recorder::open(runtime.record.as_deref(), Role::Checker)?;
    limit()?;
    let (reports, mut inbox) = mpsc::channel(REPORT_LIMIT);
    recorder.record(&CheckerStep::Start, clock::now());
    let mut checker = Checker::new(link.tx, reports, recorder);
    checker.configure(config).await?;
    checker.send(Up::Ready { generation }).await?;
    let mut patrol = tokio::time::interval(PATROL_INTERVAL);
    patrol.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Stop and Ping go before a flood of reports.
            biased;
            message = link.rx.recv() => {
                let Some(message) = message else { break }; // the watchdog died
                if checker.handle(message).await?.is_break() {
                    break;
                }
            }
            Some(report) = inbox.recv() => checker.report(report).await?,
            _ = patrol.tick() => checker.patrol(),
        }
    }
    Ok(())
}

/// Gives what an earlier checker process published to a new one's services. Returns what each
/// probe is known to have found.
pub fn restore(services: &mut Services, events: &[(Role, Event)]) -> BTreeMap<ProbeId, Health> {
    let mut known = BTreeMap::<ProbeId, Health>::new();
    for (_, event) in events.iter().filter(|(from, _)| *from == Role::Checker) {
        match event {
            Event::Health(change) => {
                let HealthChange { virtual_server, real_server, health, weight, .. } = change;
                for id in services.restore(*virtual_server, *real_server, *health, *weight) {
                    // Where virtual servers that share the probe differ, another checker of the
                    // worse one is the cause: the best is what this one found.
                    let best = known.entry(id).or_insert(*health);
                    *best = (*health).min(*best);
                }
            }
            Event::Quorum { virtual_server, up } => {
                services.restore_quorum(*virtual_server, *up);
            }
            Event::Vrrp { .. } | Event::Converged { .. } | Event::Script { .. } => {}
        }
    }
    known
}

struct Probe {
    checker: model::Checker,
    handle: Handle,
    stats: Stats,
}

struct Checker {
    tx: mpsc::Sender<Up>,
    reports: mpsc::Sender<Report>,
    config: Arc<Config>,
    services: Services,
    probes: BTreeMap<ProbeId, Probe>,
    /// Probes of `track_mysql`, with its name.
    tracks: Vec<(ProbeId, String)>,
    /// Probes by their configuration.
    ids: HashMap<spec::ProbeKey, ProbeId>,
    next_id: ProbeId,
    next_script: u64,
    /// MISC_CHECK scripts that run.
    scripts: HashMap<u64, oneshot::Sender<ScriptDone>>,
    recorder: Recorder,
}

impl Checker {
    fn new(tx: mpsc::Sender<Up>, reports: mpsc::Sender<Report>, recorder: Recorder) -> Self {
        Self {
            tx,
            reports,
            config: Arc::new(Config::default()),
            services: Services::default(),
            probes: BTreeMap::new(),
            tracks: Vec::new(),
            ids: HashMap::new(),
            next_id: 0,
            next_script: 0,
            scripts: HashMap::new(),
            recorder,
        }
    }

    async fn send(&self, message: Up) -> anyhow::Result<()> {
        self.tx.send(message).await.context("the watchdog's queue is closed")
    }

    async fn handle(&mut self, message: Down) -> anyhow::Result<std::ops::ControlFlow<()>> {
        match message {
            Down::Ping { seq } => self.send(Up::Pong { seq }).await?,
            Down::Reload { generation, config } => {
                self.configure(config).await?;
                self.send(Up::Ready { generation }).await?;
            }
            Down::Stop => {
                self.stop().await?;
                self.send(Up::Stopped).await?;
                return Ok(std::ops::ControlFlow::Break(()));
            }
            Down::Replay { events } => {
                self.restore(&events);
            }
            Down::ScriptDone(done) => {
                if let Some(waiting) = self.scripts.remove(&done.id) {
                    let _ = waiting.send(done); // a probe that was removed meanwhile
                }
            }
            Down::Query { id, query } => {
                let reply = match query {
                    Query::Status => self.status(),
                    _ => Reply::Error("the checker answers `status` only".to_owned()),
                };
                self.send(Up::Reply { id, reply }).await?;
            }
            Down::Start { .. } | Down::Event { .. } | Down::Answer { .. } | Down::Mail { .. } => {}
        }
        Ok(std::ops::ControlFlow::Continue(()))
    }

    /// Puts a configuration in force. Probes whose configuration is unchanged go on undisturbed.
    async fn configure(&mut self, config: Arc<Config>) -> anyhow::Result<()> {
        let now = clock::now();
        let mut ids = HashMap::new();
        let mut started: Vec<(ProbeId, model::Checker)> = Vec::new();
        let mut id_of = |checker: &model::Checker| {
            let key = spec::probe_key(checker);
            if let Some(id) = ids.get(&key) {
                return *id;
            }
            let id = self.ids.get(&key).copied().unwrap_or_else(|| {
                self.next_id += 1;
                started.push((self.next_id, checker.clone()));
                self.next_id
            });
            ids.insert(key, id);
            id
        };
        let services: Vec<_> =
            config.virtual_servers.iter().map(|it| spec::service(it, &mut id_of)).collect();
        self.tracks = config
            .track_mysql
            .values()
            .map(|track| (id_of(&track.checker), track.name.clone()))
            .collect();
        let before = self.probes.len();
        let mut removed = 0;
        for (key, id) in std::mem::take(&mut self.ids) {
            if !ids.contains_key(&key)
                && let Some(probe) = self.probes.remove(&id)
            {
                removed += 1;
                probe.handle.command(Command::Stop);
            }
        }
        self.ids = ids;
        let added = started.len();
        for (id, checker) in started {
            let handle = probe::start(id, &checker, self.reports.clone(), now);
            // A checker that changed starts from what its server is known to be.
            let known = services
                .iter()
                .flat_map(|service| service.servers.iter().map(move |server| (service.key, server)))
                .filter(|(_, server)| server.checkers.iter().any(|c| c.probe == id))
                .find_map(|(key, server)| self.services.known(key, server.addr));
            if let Some(health) = known {
                handle.command(Command::Known(health));
            }
            let stats = Stats::new(&checker);
            self.probes.insert(id, Probe { checker, handle, stats });
        }
        self.config = config;
        self.recorder.record(&CheckerStep::Configure(services.as_slice().into()), now);
        self.services.configure(services, now);
        for (id, name) in self.tracks.clone() {
            let health = self.probes.get(&id).map(|probe| probe.stats.status().health);
            self.track(name, health.unwrap_or(Health::Unknown)).await?;
        }
        tracing::info!(
            probes = self.probes.len(),
            kept = before - removed,
            added,
            removed,
            "checkers in force"
        );
        self.perform().await
    }

    /// What an earlier checker process published stands until it is learned again.
    fn restore(&mut self, events: &[(Role, Event)]) {
        self.recorder.record(&CheckerStep::Restore(events.into()), clock::now());
        for (id, health) in restore(&mut self.services, events) {
            if let Some(probe) = self.probes.get(&id) {
                probe.handle.command(Command::Known(health));
            }
        }
    }

    /// Starts probes again that have ended without being told to.
    fn patrol(&mut self) {
        for (id, probe) in self.probes.iter_mut().filter(|(_, probe)| probe.handle.is_over()) {
            tracing::error!(
                checker = spec::keyword(&probe.checker),
                target = spec::target(&probe.checker),
                "probe ended by itself, it is started again"
            );
            probe.handle = probe::start(*id, &probe.checker, self.reports.clone(), clock::now());
            probe.stats.restarted();
            let rows = self.services.servers();
            let known = rows
                .filter(|row| row.checkers.iter().any(|checker| checker.probe == *id))
                .map(|row| row.health)
                .min();
            if let Some(health) = known.filter(|health| *health != Health::Unknown) {
                probe.handle.command(Command::Known(health));
            }
        }
    }

    async fn report(&mut self, Report { probe: id, at, what }: Report) -> anyhow::Result<()> {
        let Some(probe) = self.probes.get_mut(&id) else { return Ok(()) }; // removed by a reload
        match what {
            What::Probed { took, result } => probe.stats.probed(took, result),
            What::Deferred(more) => probe.stats.deferred(more),
            What::Verdict(verdict) => {
                probe.stats.verdict(&verdict);
                let step = CheckerStep::Verdict { probe: id, verdict: Cow::Borrowed(&verdict), at };
                self.recorder.record(&step, clock::now());
                let health = verdict.health;
                let names = self.tracks.iter().filter(|(probe, _)| *probe == id);
                for name in names.map(|(_, name)| name.clone()).collect::<Vec<_>>() {
                    self.track(name, health).await?;
                }
                self.services.verdict(id, verdict, at);
                self.perform().await?;
            }
            What::Script { run, done } => {
                let script = self.run_script(run).await?;
                self.scripts.retain(|_, waiting| !waiting.is_closed());
                self.scripts.insert(script, done);
            }
        }
        Ok(())
    }

    /// What a `track_mysql` means for instances.
    async fn track(&self, name: String, health: Health) -> anyhow::Result<()> {
        let verdict = match health {
            // SUSPECT has not failed often enough; UNKNOWN says nothing: the last verdict stands.
            Health::Suspect | Health::Unknown => return Ok(()),
            // FULL answers: taking the VIP elsewhere would not make it less full.
            Health::Up | Health::Full => track::Verdict::Good,
            Health::Drain | Health::Down => track::Verdict::Bad,
        };
        tracing::info!(track_mysql = name, ?health, "tracked MySQL");
        let name = track::Kind::Mysql.key(&name);
        self.send(Up::Event(Event::Script { name, verdict })).await
    }

    /// Hands a script to the watchdog; returns its id.
    async fn run_script(&mut self, script: probe::Script) -> anyhow::Result<u64> {
        self.next_script += 1;
        let id = self.next_script;
        let probe::Script { object, command, timeout } = script;
        let run = ScriptRun {
            id,
            object,
            command,
            extra_args: Vec::new(),
            timeout,
            queue: None,
            reply: true,
        };
        self.send(Up::Script(run)).await?;
        Ok(id)
    }

    /// Tells the others what has changed and runs the scripts of it.
    async fn perform(&mut self) -> anyhow::Result<()> {
        while let Some(effect) = self.services.poll_effect() {
            match effect {
                Effect::Health { virtual_server, real_server, health, weight, reason, at } => {
                    tracing::info!(
                        %virtual_server, %real_server, ?health, weight, reason,
                        "real server health"
                    );
                    let change =
                        HealthChange { virtual_server, real_server, health, weight, reason, at };
                    self.send(Up::Event(Event::Health(change))).await?;
                }
                Effect::Quorum { virtual_server, up, changed } => {
                    self.send(Up::Event(Event::Quorum { virtual_server, up })).await?;
                    if changed {
                        let words = if up { "quorum gained" } else { "quorum lost" };
                        tracing::info!(%virtual_server, "{words}");
                        self.quorum_script(virtual_server, up).await?;
                    }
                }
                Effect::Notify { virtual_server, real_server, up } => {
                    self.notify(virtual_server, real_server, up).await?;
                }
            }
        }
        Ok(())
    }

    fn service(&self, key: VirtualServerKey) -> Option<&model::VirtualServer> {
        self.config.virtual_servers.iter().find(|service| service.key == key)
    }

    async fn notify(
        &mut self,
        key: VirtualServerKey,
        addr: std::net::SocketAddr,
        up: bool,
    ) -> anyhow::Result<()> {
        let told = self.service(key).and_then(|service| tell::real_server(service, addr, up));
        let Some(told) = told else { return Ok(()) };
        self.send(Up::Notify(told)).await
    }

    async fn quorum_script(&mut self, key: VirtualServerKey, up: bool) -> anyhow::Result<()> {
        let told = self.service(key).map(|service| tell::quorum(service, up));
        let Some(told) = told else { return Ok(()) };
        self.send(Up::Notify(told)).await
    }

    /// Orderly end: farewells on kept sessions, `omega` scripts.
    async fn stop(&mut self) -> anyhow::Result<()> {
        let mut ending = Vec::new();
        for probe in std::mem::take(&mut self.probes).into_values() {
            probe.handle.command(Command::Stop);
            ending.push(probe.handle);
        }
        let omega: Vec<VirtualServerKey> =
            self.config.virtual_servers.iter().filter(|s| s.omega).map(|s| s.key).collect();
        for key in omega {
            let (alive, quorum) = self.services.farewell(key);
            for addr in alive {
                self.notify(key, addr, false).await?;
            }
            if quorum {
                self.quorum_script(key, false).await?;
            }
        }
        for handle in ending {
            handle.ended().await;
        }
        Ok(())
    }

    fn status(&self) -> Reply {
        let servers = self
            .services
            .servers()
            .map(|row| ServerHealth {
                virtual_server: row.virtual_server.to_string(),
                real_server: row.real_server,
                health: row.health,
                weight: row.weight,
                checkers: row
                    .checkers
                    .iter()
                    .filter_map(|checker| self.probes.get(&checker.probe))
                    .map(|probe| probe.stats.status())
                    .collect(),
            })
            .collect();
        let quorum = self
            .services
            .quorums()
            .map(|row| {
                let service =
                    self.config.virtual_servers.iter().find(|s| s.key == row.virtual_server);
                QuorumStatus {
                    virtual_server: row.virtual_server.to_string(),
                    quorum: row.quorum,
                    up_weight: row.up_weight,
                    quorum_up: row.up,
                    sorry_in_use: !row.up && service.is_some_and(|s| s.sorry_server.is_some()),
                }
            })
            .collect();
        Reply::Checker { servers, quorum }
    }
}
