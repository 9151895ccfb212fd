//! The watchdog: starts the roles, keeps them alive, carries their messages, reads the
//! configuration, runs scripts, ends everything in order.
//!
//! This file is the loop; what it decides is in pure modules beside it ([`supervise`], [`asks`],
//! [`reload`], [`values`], and [`super::scripts::queue`]). The loop never waits for one child: an
//! event that does not fit into a child's queue follows later from last values ([`values::Owed`]);
//! any other message that does not fit gets that child killed and restarted.

pub mod asks;
mod bracket;
pub mod children;
mod configuration;
mod dump;
mod init_files;
mod notify;
mod questions;
pub mod reload;
mod signals;
pub mod supervise;
pub mod values;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc};

use self::{
    asks::Asks,
    children::{Attended, Spawner},
    reload::Reloads,
    signals::{Asked, Signals},
    supervise::{Effect, Input, Supervisor},
    values::{LastValues, Owed},
};
use super::{
    clock, config_file, daemon,
    ipc::{Down, Event, QUEUE_LIMIT, Reply, Role, Runtime, Up},
    notifications::Notifications,
    pidfile::{self, PidFile},
    scripts::{self, Scripts, queue::Owner},
    secrets, sys,
};
use crate::{
    base::{core::Core as _, time::Instant},
    config::{model::Config, print::Original},
    vrrp::notify::Notification,
};

/// Time that notify scripts have to end after every role has ended (keepalived's
/// `child_wait_time`); then they get SIGTERM, and SIGKILL two seconds later.
pub const SCRIPTS_STOP_LIMIT: Duration = Duration::from_secs(5);

/// Time that scripts of FIFOs have to read to the end of what was written.
const FIFO_STOP_LIMIT: Duration = Duration::from_secs(2);

/// Places in a child's queue that events leave to pings, reloads and the rest.
const QUEUE_RESERVE: usize = QUEUE_LIMIT / 8;
/// How often a full queue is looked at again for events that it had no room for.
const PAY_INTERVAL: Duration = Duration::from_millis(5);

/// What the watchdog is started with.
#[derive(Debug)]
pub struct Start {
    pub runtime: Runtime,
    /// How the configuration was read, and is read again by a reload.
    pub reading: config_file::Reading,
    pub config: Config,
    /// The text that it was read from.
    pub original: Option<Original>,
    pub spawner: Spawner,
    /// `-p`.
    pub pid_file: Option<PathBuf>,
    /// Held for the whole life.
    pub lock: PidFile,
    /// Who waits for readiness in the foreground.
    pub starter: Option<daemon::Starter>,
}

/// What happens to the watchdog's loop.
#[derive(Debug)]
pub enum Happening {
    /// A child said something.
    Said { role: Role, pid: u32, up: Up },
    /// A child's pipe is gone, the child is not.
    PipeLost { role: Role, pid: u32, why: String },
    /// A child was reaped, after all it said.
    Exited { role: Role, pid: u32, how: String },
    /// The reading of the configuration with this number ended.
    Read { number: u64, read: Box<configuration::Read> },
    /// A question was answered beside the loop.
    Answered { ask: u64, reply: Box<Reply> },
}

struct Watchdog {
    runtime: Runtime,
    reading: config_file::Reading,
    config: Arc<Config>,
    original: Option<Original>,
    generation: u64,
    last_reload_error: Option<String>,
    reloads_read: u64,
    reload_failures: u64,
    /// The forwarder is being asked about this one.
    offer: Option<configuration::Offer>,
    core: Supervisor,
    spawner: Spawner,
    children: BTreeMap<Role, Attended>,
    values: LastValues,
    owed: Owed,
    asks: Asks,
    /// Questions that are being answered beside the loop.
    beside: usize,
    reloads: Reloads,
    scripts: Scripts,
    notifications: Notifications,
    happenings: mpsc::Sender<Happening>,
    starter: Option<daemon::Starter>,
    /// Exit code, once every role has ended.
    finished: Option<u8>,
    /// When scripts are given up after that.
    scripts_deadline: Option<Instant>,
    service_watchdog: Option<(Duration, Instant)>,
}

/// Runs lbd to its end; the exit code.
///
/// # Errors
/// When it cannot even begin (no signal handlers, no run directory).
pub async fn run(start: Start) -> anyhow::Result<u8> {
    // Before any role starts: they have it from here.
    if let Err(error) = sys::short_turns() {
        tracing::debug!(%error, "turns on the processor are as long as anybody's");
    }
    let mut signals = Signals::new()?;
    if let Some(path) = &start.pid_file {
        pidfile::write_plain(path).context("pid file")?;
    }
    let (happenings, mut happened) = mpsc::channel(QUEUE_LIMIT);
    let (scripts, mut script_ends) = Scripts::new();
    let now = clock::now();
    let mut roles = vec![Role::Forwarder];
    if start.runtime.vrrp {
        roles.push(Role::Vrrp);
    }
    if start.runtime.checker {
        roles.push(Role::Checker);
    }
    roles.push(Role::Api);
    let run_dir = start.runtime.run_dir.clone();
    let mut watchdog = Watchdog {
        core: Supervisor::new(&roles, now),
        config: Arc::new(start.config),
        original: start.original,
        runtime: start.runtime,
        reading: start.reading,
        generation: 1,
        last_reload_error: None,
        reloads_read: 0,
        reload_failures: 0,
        offer: None,
        spawner: start.spawner,
        children: BTreeMap::new(),
        values: LastValues::default(),
        owed: Owed::default(),
        asks: Asks::default(),
        beside: 0,
        reloads: Reloads::default(),
        scripts,
        notifications: Notifications::default(),
        happenings,
        starter: start.starter,
        finished: None,
        scripts_deadline: None,
        service_watchdog: sd_notify::watchdog_enabled().map(|limit| (limit / 2, now)),
    };
    watchdog.scripts.configure(&watchdog.config.global);
    watchdog.notifications.configure(&watchdog.config);
    init_files::write(&watchdog.config, None);
    let startup = &watchdog.config.global;
    let (cancel, mut stopped) = (Notify::new(), None);
    tokio::select! {
        () = bracket::run("startup_script", &startup.startup_script, startup, &cancel) => {}
        asked = signals.stop() => stopped = Some(asked),
    }
    if let Some(asked) = stopped {
        watchdog.signal(asked);
    }
    watchdog.perform(now);
    let code = loop {
        if let Some(code) = watchdog.is_over() {
            break code;
        }
        let wait = watchdog.next_deadline().saturating_since(clock::now());
        tokio::select! {
            Some(happening) = happened.recv() => watchdog.happening(happening),
            Some(end) = script_ends.recv() => {
                if let Some(answer) = watchdog.scripts.ended(end) {
                    watchdog.answer_script(answer);
                }
            }
            asked = signals.next() => watchdog.signal(asked),
            () = tokio::time::sleep(wait) => {}
        }
        watchdog.time(clock::now());
    };
    let unsent = watchdog.notifications.mailbox.len();
    if unsent > 0 {
        tracing::warn!(unsent, "mails not sent before the stop");
    }
    watchdog.notifications.close(FIFO_STOP_LIMIT).await;
    let global = &watchdog.config.global;
    bracket::run("shutdown_script", &global.shutdown_script, global, &Notify::new()).await;
    tidy_up(&run_dir, start.pid_file, start.lock);
    tracing::info!(code, "lbd ends");
    Ok(code)
}

/// Removes what lbd put into the run directory, and the directory if nothing else is there.
fn tidy_up(run_dir: &std::path::Path, pid_file: Option<PathBuf>, lock: PidFile) {
    for role in [Role::Vrrp, Role::Checker, Role::Forwarder, Role::Api] {
        let _ = fs::remove_file(pidfile::role_path(run_dir, role.name())); // may not exist
    }
    let _ = fs::remove_file(run_dir.join(crate::api::SOCKET_NAME)); // the api role may have
    if let Some(path) = pid_file {
        let _ = fs::remove_file(path); // somebody may have tidied up before us
    }
    lock.remove();
    let _ = fs::remove_dir(run_dir); // stays when others keep files there
}

impl Watchdog {
    fn is_over(&mut self) -> Option<u8> {
        let code = self.finished?;
        let now = clock::now();
        if self.scripts.is_idle() && self.notifications.is_drained() {
            return Some(code);
        }
        match self.scripts_deadline {
            None => {
                self.scripts_deadline = Some(now + SCRIPTS_STOP_LIMIT);
                self.scripts.hurry();
                None
            }
            Some(deadline) if now < deadline => None,
            Some(deadline)
                if now < deadline + scripts::run::KILL_DELAY * 2 && !self.scripts.is_idle() =>
            {
                self.scripts.abandon();
                None
            }
            Some(_) => Some(code),
        }
    }

    fn next_deadline(&self) -> Instant {
        let after_abandon = |deadline: Instant| {
            if clock::now() < deadline { deadline } else { deadline + scripts::run::KILL_DELAY * 2 }
        };
        [
            self.core.poll_timeout(),
            self.asks.next_deadline(),
            self.reloads.next_deadline(),
            self.scripts_deadline.map(after_abandon),
            self.scripts.poll_timeout(),
            self.service_watchdog.map(|(_, due)| due),
            (!self.owed.roles().is_empty()).then(|| clock::now() + PAY_INTERVAL),
        ]
        .into_iter()
        .flatten()
        .min()
        // Nothing runs any more but scripts, whose ends wake the loop.
        .unwrap_or_else(|| clock::now() + Duration::from_secs(1))
    }

    /// Everything that is due.
    fn time(&mut self, now: Instant) {
        self.core.handle_timeout(now);
        for resolved in self.asks.expire(now) {
            self.resolved(resolved, now);
        }
        if let Some((every, due)) = &mut self.service_watchdog
            && now >= *due
        {
            *due = now + *every;
            notify::alive();
        }
        self.scripts.handle_timeout(now);
        self.hand_mail(now);
        self.pay(now);
        self.perform(now);
        self.settle_reloads(now);
    }

    fn signal(&mut self, asked: Asked) {
        let now = clock::now();
        match asked {
            Asked::Stop(name) => {
                self.core.handle(Input::Stop { why: name.to_owned(), code: 0 }, now);
            }
            Asked::Reload => {
                tracing::info!("reload (SIGHUP)");
                self.request_reload(None, now);
            }
            Asked::Dump(signal) => self.dump(signal, now),
        }
        self.perform(now);
    }

    fn happening(&mut self, happening: Happening) {
        let now = clock::now();
        match happening {
            Happening::Said { role, pid, up } => self.said(role, pid, up, now),
            Happening::PipeLost { role, pid, why } => {
                self.core.handle(Input::PipeLost { role, pid, why }, now);
            }
            Happening::Exited { role, pid, how } => {
                if self.core.stopping() {
                    tracing::info!(role = role.name(), pid, how, "role ended");
                } else {
                    tracing::warn!(role = role.name(), pid, how, "role ended, it is restarted");
                }
                self.children.remove(&role);
                if self.core.stopping() {
                    self.scripts.owner_stopped(Owner { role, pid });
                } else {
                    self.scripts.owner_gone(Owner { role, pid });
                }
                for resolved in self.asks.role_gone(role) {
                    self.resolved(resolved, now);
                }
                if role == Role::Api {
                    self.notifications.mailbox.sender_gone();
                    self.reloads.forget_waiters();
                }
                if role == Role::Forwarder {
                    self.forwarder_gone(now);
                }
                self.core.handle(Input::Exited { role, pid, how }, now);
            }
            Happening::Read { number, read } => self.loaded(number, *read, now),
            Happening::Answered { ask, reply } => {
                self.beside = self.beside.saturating_sub(1);
                self.answer(ask, *reply, now);
            }
        }
        self.perform(now);
    }

    /// Performs what the core wants, until it wants nothing more.
    fn perform(&mut self, now: Instant) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Spawn { role } => self.spawn(role, now),
                Effect::Kill { role, why } => {
                    tracing::error!(role = role.name(), why, "role is killed");
                    if let Some(child) = self.children.get(&role) {
                        child.kill();
                    }
                }
                Effect::Ping { role, seq } => self.send(role, Down::Ping { seq }, now),
                Effect::SendStop { role } => {
                    if role == Role::Api {
                        for (id, mail) in self.notifications.mailbox.hand_rest() {
                            self.send(role, Down::Mail { id, mail }, now);
                        }
                    }
                    self.send(role, Down::Stop, now);
                }
                Effect::AllReady => {
                    tracing::info!(generation = self.generation, "every role is ready");
                    notify::ready("every role is ready");
                    if let Some(starter) = self.starter.take() {
                        starter.ready();
                    }
                    sys::trim();
                }
                Effect::Stopping { why, code } => {
                    if code == 0 {
                        tracing::info!(why, "lbd stops");
                    } else {
                        tracing::error!(why, "lbd stops, it cannot go on");
                    }
                    notify::stopping();
                }
                Effect::Finished { code } => self.finished = Some(code),
            }
        }
    }

    fn spawn(&mut self, role: Role, now: Instant) {
        match self.spawner.spawn(role, self.happenings.clone()) {
            Ok(child) => {
                let pid = child.pid;
                tracing::info!(role = role.name(), pid, "role started");
                self.children.insert(role, child);
                self.core.handle(Input::Spawned { role, pid }, now);
                let start = Down::Start {
                    runtime: self.runtime.clone(),
                    generation: self.generation,
                    config: secrets::for_role(&self.config, role),
                };
                self.send(role, start, now);
                self.owed.forget(role);
                for message in self.values.everything() {
                    self.send(role, message, now);
                }
                if role == Role::Forwarder {
                    self.offer(now);
                }
            }
            Err(error) => {
                tracing::error!(role = role.name(), %error, "role not started");
                self.core.handle(Input::SpawnFailed { role, error: error.to_string() }, now);
            }
        }
    }

    /// Sends without waiting; see the module's words about full queues.
    fn send(&mut self, role: Role, message: Down, now: Instant) {
        let Some(child) = self.children.get(&role) else { return };
        match child.tx.try_send(message) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                let pid = child.pid;
                self.core.handle(Input::QueueFull { role, pid }, now);
            }
            // Its end is on the way to us.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// Passes an event on. What does not fit into a queue follows when there is room.
    fn publish(&mut self, from: Role, event: &Event) {
        let hears = |role: Role| role != from && event.concerns(role);
        for (role, child) in self.children.iter().filter(|(role, _)| hears(**role)) {
            if self.owed.waits(*role, event) {
                continue;
            }
            if child.tx.capacity() <= QUEUE_RESERVE {
                tracing::warn!(role = role.name(), "full queue: further events follow together");
                self.owed.note(*role, event);
                continue;
            }
            // Closed: its end is on the way to us.
            let _ = child.tx.try_send(Down::Event { from, event: event.clone() });
        }
    }

    /// Sends what did not fit, to those who have taken half of what waits for them.
    fn pay(&mut self, now: Instant) {
        for role in self.owed.roles() {
            let room =
                self.children.get(&role).is_some_and(|it| it.tx.capacity() * 2 > QUEUE_LIMIT);
            if room {
                for message in self.owed.pay(role, &self.values) {
                    self.send(role, message, now);
                }
            }
        }
    }

    fn broadcast(&mut self, except: Option<Role>, message: &Down, now: Instant) {
        let roles: Vec<Role> = self.children.keys().copied().collect();
        for role in roles.into_iter().filter(|role| Some(*role) != except) {
            self.send(role, message.clone(), now);
        }
    }

    fn said(&mut self, role: Role, pid: u32, up: Up, now: Instant) {
        match up {
            Up::Ready { generation } => {
                tracing::debug!(role = role.name(), generation, "role is ready");
                self.core.handle(Input::Ready { role, pid, generation }, now);
            }
            Up::Taken { generation } => self.taken(generation, now),
            Up::Refused { generation, why } => self.refused(Some(generation), &why, now),
            Up::Pong { seq } => self.core.handle(Input::Pong { role, pid, seq }, now),
            Up::Stopped => tracing::debug!(role = role.name(), "role has stopped in order"),
            Up::Event(event) => {
                let owner = Owner { role, pid };
                if let Some(missed) = self.notifications.missed(owner, &event, &self.config) {
                    self.tell(owner, missed);
                }
                self.values.store(role, event.clone());
                self.publish(role, &event);
            }
            Up::Script(run) => {
                if let Some(answer) = self.scripts.submit(Owner { role, pid }, run) {
                    self.answer_script(answer);
                }
            }
            Up::Notify(told) => self.tell(Owner { role, pid }, told),
            Up::Mailed { id, sent } => self.notifications.mailbox.done(id, sent),
            Up::Reply { id, reply } => {
                if let Some(resolved) = self.asks.answer(role, id, reply) {
                    self.resolved(resolved, now);
                }
            }
            Up::Ask { id, query } => self.ask(id, query, now),
            Up::Fatal { message } => {
                tracing::error!(role = role.name(), "{message}");
                self.core.handle(Input::Fatal { role, message }, now);
            }
        }
    }

    fn tell(&mut self, owner: Owner, told: Notification) {
        for run in self.notifications.tell(owner, told) {
            // No answer is asked for.
            let _ = self.scripts.submit(owner, run);
        }
    }

    /// Gives the api role the next mail, once it is ready for one.
    fn hand_mail(&mut self, now: Instant) {
        if !self.core.is_ready(Role::Api) {
            return;
        }
        if let Some((id, mail)) = self.notifications.mailbox.hand() {
            self.send(Role::Api, Down::Mail { id, mail }, now);
        }
    }

    fn answer_script(&mut self, answer: scripts::Answer) {
        let scripts::Answer { owner, done } = answer;
        // The id is the asking process's own: a successor must not get the answer.
        if self.children.get(&owner.role).is_some_and(|child| child.pid == owner.pid) {
            self.send(owner.role, Down::ScriptDone(done), clock::now());
        }
    }
}
