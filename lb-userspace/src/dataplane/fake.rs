//! An engine in memory with failures on demand, for tests of everything above an engine.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use lb_common::maps;

use super::{ApplyReport, Capabilities, DataPlane, Failure, FailureKind, Progress, Surroundings};
use crate::{
    base::{
        filter::FlowFilter,
        status::{FlowStatus, ForwarderStatus, VirtualServerStatus},
        table::{Engine, ForwardingTable},
        time::Instant,
    },
    reconcile::{Operation, Plan},
};

/// A data plane without a kernel.
#[derive(Debug, Default)]
pub struct Fake {
    /// What `observe` answers; a test may change it behind the forwarder's back.
    pub table: ForwardingTable,
    /// Failures to come, consumed one an operation: `Some` fails it with that text.
    pub failures: VecDeque<Option<String>>,
    /// Interfaces that no attempt will ever attach to.
    pub hopeless: BTreeSet<String>,
    /// What [`DataPlane::strays`] answers; an operation on one of them makes it none.
    pub strays: BTreeSet<String>,
    /// When set, `observe` fails with that text.
    pub blind: Option<String>,
    /// Every operation that was performed.
    pub performed: Vec<Operation>,
    /// Calls of `apply`.
    pub applied: u64,
    /// Surroundings as last told.
    pub around: Surroundings,
    /// Slices that a pass of housekeeping takes.
    pub slices: usize,
    /// Slices of housekeeping and of listings that were done; shared with whoever looks on.
    pub worked: Arc<AtomicUsize>,
    /// [`Fake::worked`] when an operation was performed last.
    pub performed_at: Arc<AtomicUsize>,
    /// Slices that are left of a pass.
    pub pass: usize,
    /// Slices that are left of a listing, which takes as many as a pass.
    pub listing: usize,
    /// Slices that are left of a walk for those who are told of dead real servers.
    pub telling: usize,
}

impl DataPlane for Fake {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "fake",
            engine: Engine::Xdp,
            fences: true,
            virtual_servers: 1024,
            real_servers: maps::REALS as usize,
        }
    }

    fn observe(&mut self) -> anyhow::Result<ForwardingTable> {
        match &self.blind {
            Some(text) => anyhow::bail!("observe the fake engine: {text}"),
            None => Ok(self.table.clone()),
        }
    }

    fn strays(&self) -> BTreeSet<String> {
        self.strays.clone()
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        self.applied += 1;
        let mut report = ApplyReport::default();
        for operation in &plan.operations {
            let outcome = match self.failures.pop_front().flatten() {
                Some(text) => Err(Failure::passing(text)),
                None if matches!(operation, Operation::Attach { interface }
                    if self.hopeless.contains(interface)) =>
                {
                    Err(Failure { text: operation.to_string(), kind: FailureKind::Hopeless })
                }
                None => operation
                    .perform(&mut self.table)
                    .map_err(|misfit| Failure::passing(misfit.to_string())),
            };
            if let (Ok(()), Operation::Attach { interface } | Operation::Detach { interface }) =
                (&outcome, operation)
            {
                self.strays.remove(interface);
            }
            if outcome.is_ok() {
                self.performed.push(operation.clone());
                self.performed_at.store(self.worked.load(Relaxed), Relaxed);
            }
            report.outcomes.push(outcome);
        }
        report
    }

    fn set_surroundings(&mut self, around: &Surroundings) -> anyhow::Result<()> {
        self.around = around.clone();
        Ok(())
    }

    fn housekeep(&mut self, _now: Instant) -> anyhow::Result<()> {
        if self.pass == 0 {
            self.pass = self.slices;
        }
        Ok(())
    }

    fn work(&mut self) -> anyhow::Result<Progress> {
        self.worked.fetch_add(1, Relaxed);
        self.pass = self.pass.saturating_sub(1);
        Ok(Progress { entries: 1, more: self.pass > 0 })
    }

    fn counters(&mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        Ok(BTreeMap::new())
    }

    fn list_flows(&mut self, _: &FlowFilter, _: usize) {
        self.listing = self.slices;
    }

    fn listed_flows(&mut self) -> anyhow::Result<Option<Vec<FlowStatus>>> {
        self.worked.fetch_add(1, Relaxed);
        self.listing = self.listing.saturating_sub(1);
        Ok((self.listing == 0).then(Vec::new))
    }

    fn flow(&mut self, _: SocketAddr, _: SocketAddr) -> anyhow::Result<Option<FlowStatus>> {
        Ok(None)
    }

    fn status(&mut self) -> anyhow::Result<ForwarderStatus> {
        let virtual_servers = self
            .table
            .virtual_servers
            .iter()
            .map(|(key, vs)| VirtualServerStatus {
                key: key.to_string(),
                engine: "fake".into(),
                placement: String::new(),
                scheduler: format!("{:?}", vs.scheduler).to_lowercase(),
                instance: None,
                connections: 0,
                unavailable: 0,
                table_full: 0,
                resets: 0,
                templates: vs.persistence.map(|_| 0),
                templates_full: 0,
                packets: 0,
                bytes: 0,
                real_servers: Vec::new(),
            })
            .collect();
        Ok(ForwarderStatus { engine: "fake".into(), virtual_servers, ..Default::default() })
    }

    fn close(&mut self) -> anyhow::Result<()> {
        self.table = ForwardingTable::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reconcile::{plan, testing::table};

    proptest! {
        #[test]
        fn apply_reaches_desired_and_twice_is_nothing(o in table(), d in table()) {
            let mut fake = Fake { table: o.clone(), ..Fake::default() };
            let first = plan(&fake.observe().expect("sighted"), &d);
            let report = fake.apply(&first);
            prop_assert_eq!(report.outcomes.len(), first.operations.len());
            prop_assert!(report.outcomes.iter().all(Result::is_ok));
            prop_assert_eq!(&fake.observe().expect("sighted"), &d);
            prop_assert!(plan(&fake.observe().expect("sighted"), &d).is_empty());
        }

        #[test]
        fn rounds_with_failures_still_converge(
            o in table(), d in table(), failures in proptest::collection::vec(any::<bool>(), 0..40)
        ) {
            let failures: VecDeque<_> =
                failures.iter().map(|fail| fail.then(|| "no memory".to_owned())).collect();
            let limit = failures.len() + 1;
            let mut fake = Fake { table: o, failures, ..Fake::default() };
            let mut rounds = 0;
            while fake.observe().expect("sighted") != d {
                let next = plan(&fake.observe().expect("sighted"), &d);
                fake.apply(&next);
                rounds += 1;
                prop_assert!(rounds <= limit, "no progress");
            }
        }
    }
}
