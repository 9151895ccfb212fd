//! Questions that are out: from the api role, through the watchdog, to the roles that know.
//!
//! Pure bookkeeping with deadlines; a role that does not answer delays nobody for longer than
//! [`ASK_LIMIT`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    base::{
        query::Reply,
        status::{
            ForwarderStatus, InstanceStatus, QuorumStatus, ServerHealth, StrayStatus, TimerStatus,
            TrackedProcess,
        },
        time::Instant,
    },
    process::ipc::Role,
};

/// Longest wait for a role's answer.
pub const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Questions that are out at most; a further one is refused.
pub const OPEN_LIMIT: usize = 64;

/// Parts of a status that the roles know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    pub vrrp: Vec<InstanceStatus>,
    pub vrrp_timers: TimerStatus,
    pub strays: Vec<StrayStatus>,
    /// For dumps.
    pub processes: Vec<TrackedProcess>,
    pub servers: Vec<ServerHealth>,
    pub quorum: Vec<QuorumStatus>,
    pub forwarder: Option<ForwarderStatus>,
    /// Roles without an answer.
    pub missing: Vec<Role>,
}

/// An answered question.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    Status { ask: u64, parts: Box<Parts> },
    Single { ask: u64, reply: Reply },
}

#[derive(Debug)]
enum Open {
    Status { ask: u64, pending: BTreeSet<Role>, parts: Box<Parts>, deadline: Instant },
    Single { ask: u64, role: Role, deadline: Instant },
}

impl Open {
    fn deadline(&self) -> Instant {
        match self {
            Self::Status { deadline, .. } | Self::Single { deadline, .. } => *deadline,
        }
    }
}

/// The questions.
#[derive(Debug, Default)]
pub struct Asks {
    next: u64,
    open: BTreeMap<u64, Open>,
    refused: u64,
}

impl Asks {
    fn admit(&mut self, open: Open) -> Option<u64> {
        if self.open.len() >= OPEN_LIMIT {
            self.refused += 1;
            return None;
        }
        self.next += 1;
        self.open.insert(self.next, open);
        Some(self.next)
    }

    /// Questions refused at [`OPEN_LIMIT`] since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Opens a question for one role; the id goes into its `Down::Query`. `None`: too many are
    /// out.
    pub fn single(&mut self, ask: u64, role: Role, now: Instant) -> Option<u64> {
        self.admit(Open::Single { ask, role, deadline: now + ASK_LIMIT })
    }

    /// Opens a status question to `roles`, all with the same id. `None`: too many are out.
    pub fn status(&mut self, ask: u64, roles: &[Role], now: Instant) -> Option<u64> {
        let pending = roles.iter().copied().collect();
        let parts = Box::default();
        self.admit(Open::Status { ask, pending, parts, deadline: now + ASK_LIMIT })
    }

    /// A role answers. An unknown id (too late) is ignored.
    pub fn answer(&mut self, role: Role, id: u64, reply: Reply) -> Option<Resolved> {
        match self.open.get_mut(&id)? {
            Open::Single { role: asked, .. } if *asked == role => {
                let Some(Open::Single { ask, .. }) = self.open.remove(&id) else {
                    return None;
                };
                Some(Resolved::Single { ask, reply })
            }
            Open::Status { pending, parts, .. } => {
                if !pending.remove(&role) {
                    return None;
                }
                match reply {
                    Reply::Vrrp { instances, timers, strays, processes } => {
                        parts.processes = processes;
                        parts.vrrp = instances;
                        parts.vrrp_timers = timers;
                        parts.strays = strays;
                    }
                    Reply::Checker { servers, quorum } => {
                        parts.servers = servers;
                        parts.quorum = quorum;
                    }
                    Reply::Forwarder(status) => parts.forwarder = Some(*status),
                    _ => parts.missing.push(role),
                }
                self.finish_status(id)
            }
            Open::Single { .. } => None,
        }
    }

    fn finish_status(&mut self, id: u64) -> Option<Resolved> {
        match self.open.get(&id)? {
            Open::Status { pending, .. } if pending.is_empty() => match self.open.remove(&id)? {
                Open::Status { ask, parts, .. } => Some(Resolved::Status { ask, parts }),
                Open::Single { .. } => None,
            },
            _ => None,
        }
    }

    /// A role is gone: it will not answer. When it is api, nobody wants its answers any more.
    pub fn role_gone(&mut self, role: Role) -> Vec<Resolved> {
        if role == Role::Api {
            self.open.clear();
            return Vec::new();
        }
        self.give_up(
            |open| match open {
                Open::Status { pending, .. } => pending.contains(&role),
                Open::Single { role: asked, .. } => *asked == role,
            },
            Some(role),
        )
    }

    /// Gives up what is overdue.
    pub fn expire(&mut self, now: Instant) -> Vec<Resolved> {
        self.give_up(|open| open.deadline() <= now, None)
    }

    /// When [`Asks::expire`] has to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.open.values().map(Open::deadline).min()
    }

    /// Gives up all questions that match: for one role, or as a whole.
    fn give_up(&mut self, matches: impl Fn(&Open) -> bool, only: Option<Role>) -> Vec<Resolved> {
        let ids: Vec<u64> =
            self.open.iter().filter(|(_, open)| matches(open)).map(|(id, _)| *id).collect();
        let mut resolved = Vec::new();
        for id in ids {
            match self.open.get_mut(&id) {
                Some(Open::Status { pending, parts, .. }) => {
                    match only {
                        Some(role) => {
                            pending.remove(&role);
                            parts.missing.push(role);
                        }
                        None => parts.missing.extend(std::mem::take(pending)),
                    }
                    resolved.extend(self.finish_status(id));
                }
                Some(Open::Single { .. }) => {
                    if let Some(Open::Single { ask, role, .. }) = self.open.remove(&id) {
                        let why = format!(
                            "the {} process did not answer; `lbctl status` shows whether it runs",
                            role.name()
                        );
                        resolved.push(Resolved::Single { ask, reply: Reply::Error(why) });
                    }
                }
                None => {}
            }
        }
        resolved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::from_nanos(1_000_000_000);
    const ROLES: [Role; 3] = [Role::Vrrp, Role::Checker, Role::Forwarder];

    fn no_instances() -> Reply {
        Reply::Vrrp {
            instances: Vec::new(),
            timers: TimerStatus::default(),
            strays: Vec::new(),
            processes: Vec::new(),
        }
    }

    #[test]
    fn status_is_complete_when_all_have_answered() {
        let mut asks = Asks::default();
        let id = asks.status(7, &ROLES, T0).expect("room");
        assert_eq!(asks.answer(Role::Vrrp, id, no_instances()), None);
        let forwarder = ForwarderStatus { engine: "xdp".to_owned(), ..ForwarderStatus::default() };
        let reply = Reply::Forwarder(Box::new(forwarder.clone()));
        assert_eq!(asks.answer(Role::Forwarder, id, reply), None);
        let reply = Reply::Checker { servers: Vec::new(), quorum: Vec::new() };
        let parts = Parts { forwarder: Some(forwarder), ..Parts::default() };
        assert_eq!(
            asks.answer(Role::Checker, id, reply.clone()),
            Some(Resolved::Status { ask: 7, parts: Box::new(parts) })
        );
        assert_eq!(asks.answer(Role::Checker, id, reply), None, "answered twice");
        assert_eq!(asks.next_deadline(), None);
    }

    #[test]
    fn silent_or_dead_roles_are_missing_not_waited_for() {
        let mut asks = Asks::default();
        let id = asks.status(7, &ROLES, T0).expect("room");
        assert!(asks.role_gone(Role::Checker).is_empty());
        assert_eq!(asks.answer(Role::Vrrp, id, no_instances()), None);
        assert!(asks.expire(T0).is_empty());
        let due = asks.next_deadline().expect("waits");
        assert_eq!(due, T0 + ASK_LIMIT);
        let resolved = asks.expire(due);
        let [Resolved::Status { ask: 7, parts }] = &resolved[..] else { panic!("{resolved:?}") };
        assert_eq!(parts.missing, [Role::Checker, Role::Forwarder]);
    }

    #[test]
    fn single_question_gets_its_answer_or_an_error_that_names_the_role() {
        let mut asks = Asks::default();
        let one = asks.single(1, Role::Forwarder, T0).expect("room");
        asks.single(2, Role::Forwarder, T0).expect("room");
        assert_eq!(asks.answer(Role::Vrrp, one, Reply::Flows(Vec::new())), None, "not asked");
        assert_eq!(
            asks.answer(Role::Forwarder, one, Reply::Flows(Vec::new())),
            Some(Resolved::Single { ask: 1, reply: Reply::Flows(Vec::new()) })
        );
        let resolved = asks.role_gone(Role::Forwarder);
        let [Resolved::Single { ask: 2, reply: Reply::Error(why) }] = &resolved[..] else {
            panic!("{resolved:?}")
        };
        assert!(why.contains("forwarder"), "{why}");
    }

    #[test]
    fn number_of_open_questions_is_bounded_and_a_dead_api_frees_them() {
        let mut asks = Asks::default();
        for ask in 0..OPEN_LIMIT as u64 {
            assert!(asks.status(ask, &ROLES, T0).is_some());
        }
        assert_eq!(asks.status(99, &ROLES, T0), None);
        assert_eq!(asks.single(99, Role::Vrrp, T0), None);
        assert_eq!(asks.refused(), 2);
        assert!(asks.role_gone(Role::Api).is_empty());
        assert!(asks.status(99, &ROLES, T0).is_some());
    }
}
