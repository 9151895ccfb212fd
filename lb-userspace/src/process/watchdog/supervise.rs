//! The watchdog's core: which child runs, since when, who gets pinged, restarted, stopped, killed.
//!
//! A state machine in the shape of [`Core`]; the shell in the parent module performs its effects.
//! Pure, so that back-off, heartbeats, crash loops and the order of a stop are tested in virtual
//! time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Serialize;

use crate::{
    base::{core::Core, status::ProcessStatus, time::Instant},
    process::ipc::{HEARTBEAT_INTERVAL, HEARTBEAT_LIMIT, Role},
};

/// Silence allowed before a child is ready: loading and verifying the kernel program, waiting for
/// a predecessor to end.
pub const START_LIMIT: Duration = Duration::from_secs(30);
/// A child that ran this long starts again without delay.
pub const STABLE: Duration = Duration::from_secs(10);
/// Second restart in a row waits this long, then twice as long each time …
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// … up to this.
pub const BACKOFF_LIMIT: Duration = Duration::from_secs(5);
/// So many ends of one child …
pub const CRASH_LIMIT: usize = 10;
/// … within this time mean that it cannot stay up.
pub const CRASH_WINDOW: Duration = Duration::from_secs(60);

/// Order of an orderly stop, with the time each has before it is killed: VIPs are released while
/// the data plane still forwards, and whoever looks can look until the end.
pub const STOP_ORDER: [(Role, Duration); 4] = [
    (Role::Vrrp, Duration::from_secs(3)),
    (Role::Checker, Duration::from_secs(2)),
    (Role::Forwarder, Duration::from_secs(3)),
    (Role::Api, Duration::from_secs(1)),
];

/// What happens to the supervisor. `pid` tells incarnations of a role apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Input {
    /// Answer to [`Effect::Spawn`].
    Spawned {
        role: Role,
        pid: u32,
    },
    /// The other answer to [`Effect::Spawn`].
    SpawnFailed {
        role: Role,
        error: String,
    },
    /// The process has been reaped.
    Exited {
        role: Role,
        pid: u32,
        how: String,
    },
    /// Its pipe closed or broke, yet the process lives on.
    PipeLost {
        role: Role,
        pid: u32,
        why: String,
    },
    Pong {
        role: Role,
        pid: u32,
        seq: u64,
    },
    Ready {
        role: Role,
        pid: u32,
        generation: u64,
    },
    /// The child says that a restart will not help: the end of a daemon that was never ready.
    Fatal {
        role: Role,
        message: String,
    },
    /// It does not read: its queue is full.
    QueueFull {
        role: Role,
        pid: u32,
    },
    /// Orderly stop, by signal or because something in the watchdog failed.
    Stop {
        why: String,
        code: u8,
    },
}

/// What the supervisor wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start the role; answer with `Spawned` or `SpawnFailed` before any other input.
    Spawn {
        role: Role,
    },
    /// SIGKILL.
    Kill {
        role: Role,
        why: String,
    },
    Ping {
        role: Role,
        seq: u64,
    },
    SendStop {
        role: Role,
    },
    /// Every child is ready for the first time.
    AllReady,
    /// The stop begins; `code` will be the exit code.
    Stopping {
        why: String,
        code: u8,
    },
    /// Every child is gone.
    Finished {
        code: u8,
    },
}

#[derive(Debug)]
enum State {
    /// [`Effect::Spawn`] is out.
    Spawning,
    Up(Process),
    /// Restart at this time.
    Waiting {
        until: Instant,
    },
    /// Will not be started again.
    Gone,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    since: Instant,
    /// Generation in force; `None` until the first `Ready`.
    ready: Option<u64>,
    /// Ping that has no answer yet, and when it was sent.
    unanswered: Option<(u64, Instant)>,
    killed: bool,
}

#[derive(Debug)]
struct Child {
    state: State,
    restarts: u64,
    /// Restarts in a row without a stable run between them.
    streak: u32,
    /// Ends within [`CRASH_WINDOW`], at most [`CRASH_LIMIT`].
    ends: VecDeque<Instant>,
    last_exit: Option<String>,
}

#[derive(Debug)]
struct Stop {
    code: u8,
    /// Position in [`STOP_ORDER`].
    step: usize,
    /// When the current child is killed.
    deadline: Option<Instant>,
    finished: bool,
}

/// The core.
#[derive(Debug)]
pub struct Supervisor {
    children: BTreeMap<Role, Child>,
    effects: VecDeque<Effect>,
    next_ping: Instant,
    next_seq: u64,
    stop: Option<Stop>,
    was_ready: bool,
}

impl Supervisor {
    /// Wants `roles` running from `now` on; the first effects start them.
    pub fn new(roles: &[Role], now: Instant) -> Self {
        let mut core = Self {
            children: BTreeMap::new(),
            effects: VecDeque::new(),
            next_ping: now + HEARTBEAT_INTERVAL,
            next_seq: 1,
            stop: None,
            was_ready: false,
        };
        for &role in roles {
            let child = Child {
                state: State::Spawning,
                restarts: 0,
                streak: 0,
                ends: VecDeque::new(),
                last_exit: None,
            };
            core.children.insert(role, child);
            core.effects.push_back(Effect::Spawn { role });
        }
        core
    }

    /// Whether an orderly stop has begun.
    pub fn stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Roles that do not have this generation in force.
    pub fn behind(&self, generation: u64) -> Vec<Role> {
        self.children
            .iter()
            .filter(|(_, child)| {
                !matches!(&child.state, State::Up(p) if p.ready.is_some_and(|g| g >= generation))
            })
            .map(|(role, _)| *role)
            .collect()
    }

    /// Whether a role runs with some configuration in force.
    pub fn is_ready(&self, role: Role) -> bool {
        self.children.get(&role).is_some_and(
            |child| matches!(&child.state, State::Up(process) if process.ready.is_some()),
        )
    }

    /// For `lbctl status` and metrics.
    pub fn processes(&self, now: Instant) -> Vec<ProcessStatus> {
        self.children
            .iter()
            .map(|(role, child)| {
                let up = match &child.state {
                    State::Up(process) => Some(process),
                    _ => None,
                };
                ProcessStatus {
                    role: role.name().to_owned(),
                    pid: up.map_or(0, |p| p.pid),
                    restarts: child.restarts,
                    up_s: up.map_or(0, |p| now.saturating_since(p.since).as_secs()),
                    ready: up.is_some_and(|p| p.ready.is_some()),
                    last_exit: child.last_exit.clone(),
                }
            })
            .collect()
    }

    fn process(&mut self, role: Role, pid: u32) -> Option<&mut Process> {
        match &mut self.children.get_mut(&role)?.state {
            State::Up(process) if process.pid == pid => Some(process),
            _ => None,
        }
    }

    fn kill(&mut self, role: Role, pid: u32, why: String) {
        if let Some(process) = self.process(role, pid)
            && !process.killed
        {
            process.killed = true;
            self.effects.push_back(Effect::Kill { role, why });
        }
    }

    fn begin_stop(&mut self, why: String, code: u8, now: Instant) {
        if let Some(stop) = &mut self.stop {
            // The first reason stands, but a failure on the way out is not hidden.
            stop.code = stop.code.max(code);
            return;
        }
        self.stop = Some(Stop { code, step: 0, deadline: None, finished: false });
        for child in self.children.values_mut() {
            if matches!(child.state, State::Waiting { .. }) {
                child.state = State::Gone;
            }
        }
        self.effects.push_back(Effect::Stopping { why, code });
        self.advance_stop(now);
    }

    /// Moves the stop on to the next child that is still there.
    fn advance_stop(&mut self, now: Instant) {
        let Some(stop) = &mut self.stop else { return };
        while let Some(&(role, limit)) = STOP_ORDER.get(stop.step) {
            match self.children.get(&role).map(|child| &child.state) {
                // Its pid comes with the next input; then this is called again.
                Some(State::Spawning) => return,
                Some(State::Up(_)) => {
                    if stop.deadline.is_none() {
                        stop.deadline = Some(now + limit);
                        self.effects.push_back(Effect::SendStop { role });
                    }
                    return;
                }
                Some(State::Waiting { .. } | State::Gone) | None => {
                    stop.step += 1;
                    stop.deadline = None;
                }
            }
        }
        if !stop.finished {
            stop.finished = true;
            self.effects.push_back(Effect::Finished { code: stop.code });
        }
    }

    /// A child ended or could not be started: schedule its restart or give up.
    fn ended(&mut self, role: Role, how: String, now: Instant) {
        let stopping = self.stop.is_some();
        let Some(child) = self.children.get_mut(&role) else { return };
        let ran = match &child.state {
            State::Up(process) => now.saturating_since(process.since),
            _ => Duration::ZERO,
        };
        child.last_exit = Some(how.clone());
        if stopping {
            child.state = State::Gone;
            self.advance_stop(now);
            return;
        }
        if ran >= STABLE {
            child.streak = 0;
        }
        let delay = backoff(child.streak);
        child.streak = child.streak.saturating_add(1);
        child.restarts += 1;
        while child.ends.front().is_some_and(|at| now.saturating_since(*at) > CRASH_WINDOW) {
            child.ends.pop_front();
        }
        child.ends.push_back(now);
        let ends = child.ends.len();
        if ends > CRASH_LIMIT {
            child.ends.pop_front();
        }
        // The api role carries no traffic: giving the VIPs away because a status page cannot
        // stay up would turn a small fault into a large one. It is retried for ever.
        if ends >= CRASH_LIMIT && role != Role::Api {
            child.state = State::Gone;
            let why = format!(
                "{} cannot stay up: {ends} ends within {} s, the last: {how}",
                role.name(),
                CRASH_WINDOW.as_secs()
            );
            self.begin_stop(why, 1, now);
            return;
        }
        if delay.is_zero() {
            child.state = State::Spawning;
            self.effects.push_back(Effect::Spawn { role });
        } else {
            child.state = State::Waiting { until: now + delay };
        }
    }

    fn heartbeat_limit(process: &Process) -> Duration {
        if process.ready.is_some() { HEARTBEAT_LIMIT } else { START_LIMIT }
    }
}

/// Delay before the restart that follows `streak` quick ends.
fn backoff(streak: u32) -> Duration {
    match streak {
        0 => Duration::ZERO,
        _ => BACKOFF_FIRST.saturating_mul(1 << (streak - 1).min(16)).min(BACKOFF_LIMIT),
    }
}

impl Core for Supervisor {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Spawned { role, pid } => {
                if let Some(child) = self.children.get_mut(&role) {
                    child.state = State::Up(Process {
                        pid,
                        since: now,
                        ready: None,
                        unanswered: None,
                        killed: false,
                    });
                }
                self.advance_stop(now);
            }
            Input::SpawnFailed { role, error } => {
                self.ended(role, format!("not started: {error}"), now);
            }
            Input::Exited { role, pid, how } => {
                if self.process(role, pid).is_some() {
                    self.ended(role, how, now);
                }
            }
            Input::PipeLost { role, pid, why } => self.kill(role, pid, why),
            Input::QueueFull { role, pid } => {
                self.kill(role, pid, "does not read its messages".to_owned());
            }
            Input::Pong { role, pid, seq } => {
                if let Some(process) = self.process(role, pid)
                    && process.unanswered.is_some_and(|(sent, _)| sent == seq)
                {
                    process.unanswered = None;
                }
            }
            Input::Ready { role, pid, generation } => {
                if let Some(process) = self.process(role, pid) {
                    // Its start was allowed to be silent for longer than it may be from now on.
                    if process.ready.is_none()
                        && let Some((_, sent)) = &mut process.unanswered
                    {
                        *sent = now;
                    }
                    process.ready = Some(generation);
                }
                if !self.was_ready && self.behind(0).is_empty() {
                    self.was_ready = true;
                    self.effects.push_back(Effect::AllReady);
                }
            }
            Input::Fatal { role, message } => {
                // What once served goes on serving. Giving the VIPs away because of one
                // interface or one process would turn a small fault into a large one.
                if !self.was_ready {
                    self.begin_stop(format!("{}: {message}", role.name()), 1, now);
                }
            }
            Input::Stop { why, code } => self.begin_stop(why, code, now),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Some(due) = self.poll_timeout() else { return };
        if now < due {
            return;
        }
        // Time in which the watchdog itself did not run (SIGSTOP, a frozen host) is nobody's
        // silence: the answers are waiting in the pipes.
        let late = now.saturating_since(due);
        if late > HEARTBEAT_INTERVAL {
            for child in self.children.values_mut() {
                if let State::Up(Process { unanswered: Some((_, sent)), .. }) = &mut child.state {
                    *sent += late;
                }
            }
        }
        let roles: Vec<Role> = self.children.keys().copied().collect();
        let ping = now >= self.next_ping;
        for role in roles {
            let Some(child) = self.children.get_mut(&role) else { continue };
            match &mut child.state {
                State::Waiting { until } if now >= *until => {
                    child.state = State::Spawning;
                    self.effects.push_back(Effect::Spawn { role });
                }
                State::Up(process) => {
                    let limit = Self::heartbeat_limit(process);
                    let pid = process.pid;
                    match process.unanswered {
                        Some((_, sent)) if now.saturating_since(sent) >= limit => {
                            self.kill(role, pid, format!("no heartbeat for {} s", limit.as_secs()));
                        }
                        None if ping => {
                            process.unanswered = Some((self.next_seq, now));
                            self.effects.push_back(Effect::Ping { role, seq: self.next_seq });
                            self.next_seq += 1;
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        if ping {
            self.next_ping = now + HEARTBEAT_INTERVAL;
        }
        if let Some(stop) = &self.stop
            && let Some(deadline) = stop.deadline
            && now >= deadline
            && let Some(&(role, limit)) = STOP_ORDER.get(stop.step)
            && let Some(State::Up(process)) = self.children.get(&role).map(|child| &child.state)
        {
            let pid = process.pid;
            self.kill(role, pid, format!("did not stop within {} s", limit.as_secs()));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.stop.as_ref().is_some_and(|stop| stop.finished) {
            return None;
        }
        let mut due = self.next_ping;
        for child in self.children.values() {
            match &child.state {
                State::Waiting { until } => due = due.min(*until),
                State::Up(process) if !process.killed => {
                    if let Some((_, sent)) = process.unanswered {
                        due = due.min(sent + Self::heartbeat_limit(process));
                    }
                }
                _ => {}
            }
        }
        if let Some(Stop { deadline: Some(deadline), step, .. }) = &self.stop
            && let Some((role, _)) = STOP_ORDER.get(*step)
            && let Some(State::Up(process)) = self.children.get(role).map(|child| &child.state)
            && !process.killed
        {
            due = due.min(*deadline);
        }
        Some(due)
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
