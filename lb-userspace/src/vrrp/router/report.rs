//! What a virtual router says of itself to people.

use super::{Elsewhere, Guard, Heard, Phase, Router, State, Wait};
use crate::{
    base::{
        net::Priority,
        status::{VrrpState, Why},
        time::Instant,
    },
    vrrp::track,
};

impl Router {
    /// State as the outside sees it: a master is one that forwards.
    pub fn state(&self) -> VrrpState {
        match self.state {
            State::Init | State::Stopping | State::Stopped => VrrpState::Init,
            State::Backup { .. } => VrrpState::Backup,
            State::Master { phase: Phase::Active, .. } => VrrpState::Master,
            State::Master { .. } => VrrpState::Backup,
            State::Fault => VrrpState::Fault,
        }
    }

    /// Configured priority with tracking weights, 1-254; the owner's stays 255.
    pub fn effective_priority(&self) -> Priority {
        let weight = self.trackers.weight().saturating_add(self.group_weight);
        self.config.priority.weighted(weight)
    }

    /// [`Router::reason`] in parts, with the timer that runs.
    pub fn why(&self, now: Instant) -> Why {
        let mut why = Why::default();
        let own = self.effective_priority();
        match self.state {
            State::Init => why.held_by.push(self.reason()),
            State::Fault => why.held_by = self.held_in_fault(),
            State::Backup { since, wait } => {
                let master = self.heard.filter(|heard| heard.priority != Priority::RELEASE);
                if let Some(Heard { source, priority, .. }) = master {
                    why.lost_to = Some(source.to_string());
                    why.lost_by = Some(priority.0);
                }
                let preempts = master.is_some_and(|it| it.priority < own) && self.may_preempt();
                let (text, at) = match self.preempt_at.filter(|at| preempts && *at > now) {
                    Some(at) => ("preempt_delay ends", Some(at)),
                    None if preempts => ("takes over, for it preempts", self.down_at(since, wait)),
                    None => ("takes over unless it hears the master", self.down_at(since, wait)),
                };
                if let Some(at) = at {
                    why.next = Some(text.to_owned());
                    let span = at.saturating_since(now);
                    why.next_ms = Some(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
                }
            }
            State::Master { phase: Phase::Guard(Guard { until, limit, .. }), .. } => {
                why.next = Some("takes over, unless a better router is heard".to_owned());
                let span = until.min(limit).saturating_since(now);
                why.next_ms = Some(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            }
            State::Master { .. } | State::Stopping | State::Stopped => {}
        }
        why
    }

    fn waits_for_result(&self) -> Option<String> {
        let name = self.trackers.waiting_for()?;
        Some(format!("waiting for the first result of {}", track::label(name)))
    }

    /// What keeps it in FAULT: something bad, or, when all that is over, something that has not
    /// been told yet.
    fn held_in_fault(&self) -> Vec<String> {
        let faults = self.faults();
        if !faults.is_empty() {
            return faults;
        }
        vec![self.waits_for_result().unwrap_or_else(|| "waiting for the interface".into())]
    }

    /// One sentence: why it is in its state.
    pub fn reason(&self) -> String {
        let own = self.effective_priority();
        match self.state {
            State::Init if !self.converged => match self.lease_fault() {
                Some(why) => format!("waiting for the data plane: {why}"),
                None => "waiting for the data plane".into(),
            },
            State::Init if !self.cleared => "removing VIPs of a dead predecessor".into(),
            State::Init if !self.source_known => "waiting for the interface".into(),
            State::Init => self.waits_for_result().unwrap_or_else(|| "starting".into()),
            State::Fault => format!("fault: {}", self.held_in_fault().join(", ")),
            State::Stopping | State::Stopped => "stopped".into(),
            State::Master { phase: Phase::Active, .. } => match &self.send_error {
                Some(error) => format!("master, but its last advert was not sent: {error}"),
                None => match self.elsewhere {
                    Some(Elsewhere { address, mac, .. }) => format!(
                        "master with priority {own}, but VIP {address} is also at {mac} on the LAN"
                    ),
                    None => format!("master with priority {own}"),
                },
            },
            State::Master { phase: Phase::Announcing, .. } => match &self.send_error {
                Some(error) => format!("takes over as soon as an advert can be sent: {error}"),
                None => "takes over".into(),
            },
            State::Master { phase: Phase::Guard(Guard { extended: true, .. }), .. } => {
                "takes over as soon as the other master, which may hang, is silent".into()
            }
            State::Master { phase: Phase::Guard(Guard { awaits: false, .. }), .. } => {
                "takes over; listens whether a better router does".into()
            }
            State::Master { phase: Phase::Guard(_), .. } => {
                "takes over; waits for the other master to stop".into()
            }
            State::Master { phase: Phase::Ready, .. } => {
                "takes over as soon as every member of its sync group can".into()
            }
            State::Backup { wait: Wait::Group, .. } => {
                "backup: would be master, but another member of its sync group is not ready to be"
                    .into()
            }
            State::Backup { .. } => self.backup_reason(own),
        }
    }

    fn backup_reason(&self, own: Priority) -> String {
        let Some(Heard { source, priority, .. }) = self.heard else {
            return "backup: no master heard yet".into();
        };
        if priority == Priority::RELEASE {
            format!("backup: {source} has given up, takes over after the skew time")
        } else if priority > own {
            format!("backup: {source} has priority {priority} > {own}")
        } else if priority == own {
            format!("backup: {source} has the same priority {own} and is master")
        } else if !self.may_preempt() {
            format!("backup: {source} has priority {priority} < {own}, but nopreempt is set")
        } else if self.preempt_at.is_some() {
            format!("backup: {source} has priority {priority} < {own}, preempt_delay runs")
        } else {
            format!("backup: preempts {source}, which has priority {priority} < {own}")
        }
    }
}
