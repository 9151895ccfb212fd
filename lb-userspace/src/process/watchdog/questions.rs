//! What operators ask: to whom a question goes, and what the watchdog answers itself.

use super::{Happening, Watchdog, asks, asks::Resolved, configuration, dump, reload};
use crate::{
    base::{
        status::{ScriptCounters, Status},
        time::Instant,
    },
    config::print,
    process::ipc::{Down, FRAME_LIMIT, Query, Reply, Role},
};

/// Questions that are answered beside the loop at the same time, because they read the file or
/// write a long text; a further one is refused.
pub const BESIDE_LIMIT: usize = 4;

/// Bytes of statements in one answer, roughly: the one that passes it is the last.
const PAGE_LIMIT: usize = FRAME_LIMIT / 8;

impl Watchdog {
    /// What a reload would do now.
    fn show_plan(&mut self, ask: u64, now: Instant) {
        let (reading, generation) = (self.reading(), self.generation);
        self.beside(ask, now, move || {
            let configuration::Read { loaded, plan } = reading();
            let findings = configuration::findings(&loaded);
            let findings = findings.trim_end();
            if loaded.outcome.config.is_none() {
                let why = format!(
                    "a reload would be refused, generation {generation} stays in force:\n{findings}"
                );
                return Reply::Error(why);
            }
            let done = match plan.is_empty() {
                true => format!("a reload would change nothing of generation {generation}"),
                false => format!("a reload would do this to generation {generation}:"),
            };
            Reply::Plan { done, plan: Box::new(plan.as_ref().clone()) }
        });
    }

    /// A part of the configuration in force, with origins.
    fn show_config(&mut self, ask: u64, from: usize, now: Instant) {
        let (config, original) = (self.config.clone(), self.original.clone());
        let generation = self.generation;
        self.beside(ask, now, move || {
            let items = print::items(&config);
            let (statements, next) = print::page(&items, original.as_ref(), from, PAGE_LIMIT);
            Reply::Config { generation, statements, next }
        });
    }

    /// Answers beside the loop: a large file must not cost heartbeats.
    fn beside(&mut self, ask: u64, now: Instant, work: impl FnOnce() -> Reply + Send + 'static) {
        if self.beside >= BESIDE_LIMIT {
            let why = format!("{BESIDE_LIMIT} such questions are being answered; try again");
            return self.answer(ask, Reply::Error(why), now);
        }
        self.beside += 1;
        let happenings = self.happenings.clone();
        tokio::spawn(async move {
            let done = tokio::task::spawn_blocking(work).await;
            // A panic aborts the process, so the task always ends well.
            if let Ok(reply) = done {
                let _ = happenings.send(Happening::Answered { ask, reply: Box::new(reply) }).await;
            }
        });
    }

    pub(super) fn ask(&mut self, ask: u64, query: Query, now: Instant) {
        let query_is_reload = query == Query::Reload;
        let opened = match &query {
            Query::Status => {
                let roles: Vec<Role> =
                    self.children.keys().copied().filter(|role| *role != Role::Api).collect();
                if roles.is_empty() {
                    return self.resolved(Resolved::Status { ask, parts: Box::default() }, now);
                }
                let id = self.asks.status(ask, &roles, now);
                if let Some(id) = id {
                    let query = Down::Query { id, query };
                    self.broadcast(Some(Role::Api), &query, now);
                }
                id
            }
            Query::Reload => {
                if self.reloads.has_room() {
                    self.request_reload(Some(ask), now);
                    return;
                }
                None
            }
            Query::Plan => return self.show_plan(ask, now),
            Query::Config { from } => return self.show_config(ask, *from, now),
            Query::Flows { .. }
            | Query::Drain { .. }
            | Query::Enable { .. }
            | Query::ClearStatistics
            | Query::Explain { .. } => {
                let instances = &self.config.vrrp_instances;
                let role = match &query {
                    Query::ClearStatistics => Role::Vrrp,
                    Query::Explain { what } if instances.iter().any(|it| it.name == *what) => {
                        Role::Vrrp
                    }
                    _ => Role::Forwarder,
                };
                if !self.children.contains_key(&role) {
                    let name = role.name();
                    let why = format!("the {name} process is being restarted; try again");
                    return self.answer(ask, Reply::Error(why), now);
                }
                let id = self.asks.single(ask, role, now);
                if let Some(id) = id {
                    self.send(role, Down::Query { id, query }, now);
                }
                id
            }
        };
        if opened.is_none() {
            let why = match query_is_reload {
                true => format!("{} operators wait for a reload already", reload::WAITERS_LIMIT),
                false => format!("{} questions are open already; try again", asks::OPEN_LIMIT),
            };
            self.answer(ask, Reply::Error(why), now);
        }
    }

    pub(super) fn answer(&mut self, id: u64, reply: Reply, now: Instant) {
        self.send(Role::Api, Down::Answer { id, reply }, now);
    }

    pub(super) fn resolved(&mut self, resolved: Resolved, now: Instant) {
        match resolved {
            Resolved::Status { ask, parts } => {
                if let Some(dump) = dump::of(ask) {
                    return self.dumped(dump, *parts, now);
                }
                let status = self.status(*parts, now);
                self.answer(ask, Reply::Status(Box::new(status)), now);
            }
            Resolved::Single { ask, reply } => self.answer(ask, reply, now),
        }
    }

    fn status(&self, parts: asks::Parts, now: Instant) -> Status {
        let (counters, outcomes) = self.scripts.counters();
        let missing = parts.missing.iter();
        let missing = missing.map(|role| format!("the {} process did not answer", role.name()));
        let forwarder = parts.forwarder.as_ref().and_then(|forwarder| forwarder.problem.clone());
        let sync = parts.forwarder.as_ref().and_then(|it| it.flow_sync.as_ref()?.problem.clone());
        let problems = missing.chain(forwarder).chain(sync).collect();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.runtime.instance.clone(),
            config_file: self.runtime.config_file.display().to_string(),
            config_generation: self.generation,
            last_reload_error: self.last_reload_error.clone(),
            reloads: self.reloads_read,
            reload_failures: self.reload_failures,
            problems,
            bounds: [("open_questions".to_owned(), self.asks.refused())].into(),
            scripts: ScriptCounters {
                started: counters.started,
                refused: counters.refused,
                displaced: counters.displaced,
                outcomes: outcomes.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect(),
            },
            processes: self.core.processes(now),
            vrrp: parts.vrrp,
            vrrp_timers: parts.vrrp_timers,
            strays: parts.strays,
            servers: parts.servers,
            quorum: parts.quorum,
            forwarder: parts.forwarder,
        }
    }
}
