//! L2: engines that forward. One trait, two sides: XDP, and a fake for tests.

use std::collections::BTreeMap;

use crate::{
    base::{
        status::{FlowStatus, ForwarderStatus},
        table::ForwardingTable,
    },
    reconcile::Plan,
};

/// What an engine can do on this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Word for logs and metrics: xdp, ipvs, fake.
    pub name: &'static str,
    /// Virtual servers at most.
    pub virtual_servers: usize,
    /// Real servers at most, over all virtual servers.
    pub real_servers: usize,
}

/// Result of a plan: one outcome for each operation, in the plan's order.
#[derive(Debug, Default)]
pub struct ApplyReport {
    pub outcomes: Vec<Result<(), String>>,
}

/// A forwarding engine.
///
/// `observe` reads the kernel back; `apply` performs a plan made by
/// [`crate::reconcile::plan`] from an observed and a desired table.
pub trait DataPlane {
    fn capabilities(&self) -> Capabilities;
    /// The table as it stands in the kernel now.
    fn observe(&mut self) -> anyhow::Result<ForwardingTable>;
    /// Performs every operation in order; a failed one does not stop the rest.
    fn apply(&mut self, plan: &Plan) -> ApplyReport;
    /// Packets by outcome name.
    fn counters(&mut self) -> anyhow::Result<BTreeMap<String, u64>>;
    /// At most `limit` connections.
    fn flows(&mut self, limit: usize) -> anyhow::Result<Vec<FlowStatus>>;
    /// Everything `lbctl status` shows of an engine.
    fn status(&mut self) -> anyhow::Result<ForwarderStatus>;
}
