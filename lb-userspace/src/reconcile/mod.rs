//! L1: the difference between an observed and a desired table, as ordered operations.
//!
//! The order is what makes a change safe at every step (checked for every prefix by the tests):
//!
//! 1. virtual servers that go, so that nothing refers to what is taken away later;
//! 2. interfaces that come, so that a guarded address is guarded on every path;
//! 3. VIPs that come or change their lease;
//! 4. virtual servers that stay: real servers that gain connections before those that lose them,
//!    removals last, so that a served VIP keeps a live real server throughout;
//! 5. virtual servers that come, each whole and in one step;
//! 6. VIPs and interfaces that go.

pub mod rounds;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use thiserror::Error;

use crate::base::{
    net::VirtualServerKey,
    table::{
        ForwardingTable, Gate, LeaseSlot, OnDown, Persistence, RealServer, RealServerState,
        Scheduler, VirtualServer,
    },
};

/// Operations that turn one table into another, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be performed first to last; a failed one does not stop the rest.
    pub operations: Vec<Operation>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The operations in their order, in one slice those that an engine may do as one: neighbours that are about real
    /// servers of pools that stay. What each prefix of them keeps safe, all together do.
    pub fn steps(&self) -> impl Iterator<Item = &[Operation]> {
        self.operations.chunk_by(|one, next| one.is_within_a_pool() && next.is_within_a_pool())
    }
}

/// What a virtual server is apart from its real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whose permission it needs.
    pub gate: Gate,
    /// `lb_algo`.
    pub scheduler: Scheduler,
    /// Life of an established connection without a packet.
    pub idle_timeout: Duration,
    /// What happens to connections of a dead real server.
    pub on_down: OnDown,
    /// Whether clients keep their real server.
    pub persistence: Option<Persistence>,
}

impl From<&VirtualServer> for Settings {
    fn from(vs: &VirtualServer) -> Self {
        Self {
            gate: vs.gate,
            scheduler: vs.scheduler,
            idle_timeout: vs.idle_timeout,
            on_down: vs.on_down,
            persistence: vs.persistence,
        }
    }
}

/// One step of a plan. Engines perform each as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Work on this interface.
    Attach { interface: String },
    /// Leave this interface alone again.
    Detach { interface: String },
    /// Guard this address by this lease.
    SetVip { vip: IpAddr, slot: LeaseSlot },
    /// Guard it no longer.
    RemoveVip { vip: IpAddr },
    /// A virtual server with its whole pool.
    AddVirtualServer { key: VirtualServerKey, virtual_server: VirtualServer },
    /// Gate, scheduler, time-outs of a virtual server.
    ChangeVirtualServer { key: VirtualServerKey, settings: Settings },
    /// A virtual server and its pool.
    RemoveVirtualServer { key: VirtualServerKey },
    /// Adds a real server or changes its method, weight or state.
    SetRealServer { key: VirtualServerKey, addr: SocketAddr, real_server: RealServer },
    /// Takes a real server out of the pool; its connections are treated by `OnDown`.
    RemoveRealServer { key: VirtualServerKey, addr: SocketAddr },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach { interface } => write!(f, "attach to {interface}"),
            Self::Detach { interface } => write!(f, "detach from {interface}"),
            Self::SetVip { vip, slot } => write!(f, "guard VIP {vip} by lease {}", slot.0),
            Self::RemoveVip { vip } => write!(f, "stop guarding VIP {vip}"),
            Self::AddVirtualServer { key, .. } => write!(f, "add virtual server {key}"),
            Self::ChangeVirtualServer { key, .. } => write!(f, "change virtual server {key}"),
            Self::RemoveVirtualServer { key } => write!(f, "remove virtual server {key}"),
            Self::SetRealServer { key, addr, real_server } => write!(
                f,
                "set real server {addr} of {key} to {:?} weight {}",
                real_server.state, real_server.weight
            ),
            Self::RemoveRealServer { key, addr } => write!(f, "remove real server {addr} of {key}"),
        }
    }
}

/// An operation that does not fit the table it is applied to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Misfit {
    #[error("virtual server {0} is there already")]
    Present(VirtualServerKey),
    #[error("there is no virtual server {0}")]
    NoVirtualServer(VirtualServerKey),
    #[error("virtual server {0} has no real server {1}")]
    NoRealServer(VirtualServerKey, SocketAddr),
}

impl Operation {
    fn is_within_a_pool(&self) -> bool {
        matches!(self, Self::SetRealServer { .. } | Self::RemoveRealServer { .. })
    }

    /// What the operation does to a table: the meaning that every engine has to match.
    ///
    /// # Errors
    /// [`Misfit`] when its object is missing (or there already); the table is then unchanged.
    pub fn perform(&self, table: &mut ForwardingTable) -> Result<(), Misfit> {
        match self {
            Self::Attach { interface } => {
                table.interfaces.insert(interface.clone());
            }
            Self::Detach { interface } => {
                table.interfaces.remove(interface);
            }
            Self::SetVip { vip, slot } => {
                table.vips.insert(*vip, *slot);
            }
            Self::RemoveVip { vip } => {
                table.vips.remove(vip);
            }
            Self::AddVirtualServer { key, virtual_server } => {
                if table.virtual_servers.contains_key(key) {
                    return Err(Misfit::Present(*key));
                }
                table.virtual_servers.insert(*key, virtual_server.clone());
            }
            Self::ChangeVirtualServer { key, settings } => {
                let vs = table.virtual_servers.get_mut(key).ok_or(Misfit::NoVirtualServer(*key))?;
                vs.gate = settings.gate;
                vs.scheduler = settings.scheduler;
                vs.idle_timeout = settings.idle_timeout;
                vs.on_down = settings.on_down;
                vs.persistence = settings.persistence;
            }
            Self::RemoveVirtualServer { key } => {
                table.virtual_servers.remove(key).ok_or(Misfit::NoVirtualServer(*key))?;
            }
            Self::SetRealServer { key, addr, real_server } => {
                let vs = table.virtual_servers.get_mut(key).ok_or(Misfit::NoVirtualServer(*key))?;
                vs.real_servers.insert(*addr, *real_server);
            }
            Self::RemoveRealServer { key, addr } => {
                let vs = table.virtual_servers.get_mut(key).ok_or(Misfit::NoVirtualServer(*key))?;
                vs.real_servers.remove(addr).ok_or(Misfit::NoRealServer(*key, *addr))?;
            }
        }
        Ok(())
    }
}

/// Whether a real server takes new connections.
pub fn is_live(server: &RealServer) -> bool {
    server.state == RealServerState::Up && server.weight > 0
}

/// Operations that turn `observed` into `desired`; empty when they are equal.
pub fn plan(observed: &ForwardingTable, desired: &ForwardingTable) -> Plan {
    let mut operations = Vec::new();
    for key in observed.virtual_servers.keys() {
        if !desired.virtual_servers.contains_key(key) {
            operations.push(Operation::RemoveVirtualServer { key: *key });
        }
    }
    for interface in desired.interfaces.difference(&observed.interfaces) {
        operations.push(Operation::Attach { interface: interface.clone() });
    }
    for (vip, slot) in &desired.vips {
        if observed.vips.get(vip) != Some(slot) {
            operations.push(Operation::SetVip { vip: *vip, slot: *slot });
        }
    }
    for (key, want) in &desired.virtual_servers {
        if let Some(have) = observed.virtual_servers.get(key) {
            change(&mut operations, key, have, want);
        }
    }
    for (key, want) in &desired.virtual_servers {
        if !observed.virtual_servers.contains_key(key) {
            operations
                .push(Operation::AddVirtualServer { key: *key, virtual_server: want.clone() });
        }
    }
    for vip in observed.vips.keys() {
        if !desired.vips.contains_key(vip) {
            operations.push(Operation::RemoveVip { vip: *vip });
        }
    }
    for interface in observed.interfaces.difference(&desired.interfaces) {
        operations.push(Operation::Detach { interface: interface.clone() });
    }
    Plan { operations }
}

fn change(
    operations: &mut Vec<Operation>,
    key: &VirtualServerKey,
    have: &VirtualServer,
    want: &VirtualServer,
) {
    let (mut gains, mut losses) = (Vec::new(), Vec::new());
    for (addr, server) in &want.real_servers {
        if have.real_servers.get(addr) == Some(server) {
            continue;
        }
        let set = Operation::SetRealServer { key: *key, addr: *addr, real_server: *server };
        if is_live(server) { gains.push(set) } else { losses.push(set) }
    }
    operations.append(&mut gains);
    operations.append(&mut losses);
    for addr in have.real_servers.keys() {
        if !want.real_servers.contains_key(addr) {
            operations.push(Operation::RemoveRealServer { key: *key, addr: *addr });
        }
    }
    if Settings::from(have) != Settings::from(want) {
        operations
            .push(Operation::ChangeVirtualServer { key: *key, settings: Settings::from(want) });
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{testing::table, *};

    fn run(observed: &ForwardingTable, plan: &Plan) -> Vec<ForwardingTable> {
        let mut now = observed.clone();
        let mut steps = vec![now.clone()];
        for operation in &plan.operations {
            operation.perform(&mut now).expect("planned operations fit");
            steps.push(now.clone());
        }
        steps
    }

    fn has_live(table: &ForwardingTable, key: &VirtualServerKey) -> bool {
        table.virtual_servers.get(key).is_some_and(|vs| vs.real_servers.values().any(is_live))
    }

    proptest! {
        #[test]
        fn a_plan_turns_observed_into_desired(o in table(), d in table()) {
            let steps = run(&o, &plan(&o, &d));
            prop_assert_eq!(steps.last(), Some(&d));
        }

        #[test]
        fn steps_are_the_plan_and_only_changes_of_pools_go_together(o in table(), d in table()) {
            let plan = plan(&o, &d);
            let steps: Vec<&[Operation]> = plan.steps().collect();
            prop_assert_eq!(steps.concat(), plan.operations.clone());
            for step in &steps {
                prop_assert!(step.len() == 1 || step.iter().all(Operation::is_within_a_pool));
            }
            for pair in steps.windows(2) {
                let both = pair[0].iter().chain(pair[1]);
                prop_assert!(!both.into_iter().all(Operation::is_within_a_pool), "one step would do");
            }
        }

        #[test]
        fn equal_tables_need_nothing(t in table()) {
            prop_assert!(plan(&t, &t).is_empty());
        }

        #[test]
        fn every_prefix_is_safe(o in table(), d in table()) {
            let plan = plan(&o, &d);
            let steps = run(&o, &plan);
            for (i, pair) in steps.windows(2).enumerate() {
                let (before, after) = (&pair[0], &pair[1]);
                for (key, vs) in &after.virtual_servers {
                    // A served VIP never loses its last live real server if one is wanted.
                    if has_live(&d, key) && has_live(before, key) {
                        prop_assert!(has_live(after, key), "step {i} empties {key}");
                    }
                    // A virtual server appears after everything it rests on.
                    if !before.virtual_servers.contains_key(key) {
                        prop_assert!(d.interfaces.is_subset(&after.interfaces));
                        prop_assert!(d.vips.iter().all(|(v, s)| after.vips.get(v) == Some(s)));
                        prop_assert_eq!(Some(vs), d.virtual_servers.get(key));
                    }
                }
                // Guards and interfaces go only when the virtual servers that go are gone.
                let shrinks = before.vips.keys().any(|v| !after.vips.contains_key(v))
                    || !before.interfaces.is_subset(&after.interfaces);
                if shrinks {
                    prop_assert!(after.virtual_servers.keys()
                        .all(|key| d.virtual_servers.contains_key(key)));
                }
            }
        }

        #[test]
        fn a_failed_operation_is_planned_again(
            o in table(), d in table(), fail in any::<prop::sample::Index>()
        ) {
            let first = plan(&o, &d);
            prop_assume!(!first.is_empty());
            let fail = fail.index(first.operations.len());
            let mut now = o.clone();
            for (i, operation) in first.operations.iter().enumerate() {
                if i != fail {
                    // What depended on the failed one may misfit; it too comes back next round.
                    let _ = operation.perform(&mut now);
                }
            }
            let second = plan(&now, &d);
            prop_assert!(second.operations.contains(&first.operations[fail]));
            let steps = run(&now, &second);
            prop_assert_eq!(steps.last(), Some(&d));
        }
    }
}
