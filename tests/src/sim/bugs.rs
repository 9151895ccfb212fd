//! Planted bugs: a router that gets other inputs, another configuration or another clock than the
//! simulation means it to have acts as if it had the bug. Each must make a run fail.

use super::{Sim, is_backup};
use lb_userspace::{
    base::{net::Priority, time},
    vrrp::{
        router::{Config, Input, Order, Standing},
        timing,
        wire::Datagram,
    },
};

/// One mistake that every router makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The timer of a backup fires without its skew.
    SkewDropped,
    /// Of equal priorities the lower address wins.
    TieInverted,
    /// An advert of the master does not start the backup's timer again.
    TimerNotRearmed,
    PriorityZeroIgnored,
    PreemptDelayIgnored,
    /// The last member of a group does not follow the others to MASTER.
    LeftBehindAsBackup,
    /// Nor to BACKUP.
    LeftBehindAsMaster,
}

impl Bug {
    pub(super) const ALL: [Self; 7] = [
        Self::SkewDropped,
        Self::TieInverted,
        Self::TimerNotRearmed,
        Self::PriorityZeroIgnored,
        Self::PreemptDelayIgnored,
        Self::LeftBehindAsBackup,
        Self::LeftBehindAsMaster,
    ];
}

impl Sim {
    /// What the router gets in place of this.
    pub(super) fn bugged(&self, node: usize, input: Input) -> Option<Input> {
        let (Some(bug), Input::Datagram(bytes)) = (self.bug, &input) else { return Some(input) };
        let priority = Datagram::parse(bytes).ok()?.payload.get(2).copied()?;
        let router = self.nodes[node].router.as_ref()?;
        let own_priority = router.config().priority.0;
        match bug {
            Bug::PriorityZeroIgnored if priority == 0 => None,
            Bug::TimerNotRearmed
                if priority >= own_priority && is_backup(router) && router.peer().is_some() =>
            {
                None
            }
            Bug::TieInverted if priority == own_priority => {
                let mut bytes = bytes.clone();
                let own = self.nodes[node].address.octets()[3];
                // As if the sender stood on the other side of us.
                bytes[15] = if bytes[15] > own { 0 } else { 250 };
                Some(Input::Datagram(bytes))
            }
            _ => Some(input),
        }
    }

    pub(super) fn bugged_config(&self, mut config: Config) -> Config {
        if self.bug == Some(Bug::PreemptDelayIgnored) {
            config.preempt_delay = std::time::Duration::ZERO;
        }
        config
    }

    pub(super) fn order_is_lost(&self, node: usize, order: &Order) -> bool {
        let last = node % self.width == self.width - 1;
        match self.bug {
            Some(Bug::LeftBehindAsBackup) => last && *order == Order::Forward,
            Some(Bug::LeftBehindAsMaster) => last && matches!(order, Order::Yield { .. }),
            _ => false,
        }
    }

    /// How much earlier its timer fires than it should, ns.
    pub(super) fn eager(&self, node: usize) -> u64 {
        let Some(router) = &self.nodes[node].router else { return 0 };
        match (self.bug, router.standing()) {
            (Some(Bug::SkewDropped), Standing::Backup | Standing::Listening) => {
                let (version, interval) = (router.config().version, router.config().interval);
                let priority: Priority = router.effective_priority();
                time::nanos(timing::skew(version, priority, interval))
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        let found = (1..=400).find(|seed| super::random::run_seed(*seed, Some(bug)).is_err());
        assert!(found.is_some(), "{bug:?} was not found in 400 runs");
    }
}
