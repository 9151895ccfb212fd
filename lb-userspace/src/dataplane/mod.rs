//! L2: engines that forward. One trait, two sides: XDP, and a fake for tests.

pub mod fake;

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    base::{
        net::Mac,
        status::{FlowStatus, ForwarderStatus},
        table::ForwardingTable,
        time::Instant,
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

/// How a frame reaches a host: everything a real-server entry needs of layer 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface to leave by.
    pub ifindex: u32,
    /// That interface's address: the frame's source.
    pub source: Mac,
    /// The neighbour's address: the frame's destination.
    pub neighbour: Mac,
    /// Largest packet that the interface (or route) takes, in bytes.
    pub mtu: u32,
}

/// What is known of the way to each address, and of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// By real server's address; `Err` says why there is none, in words for `lbctl status`.
    pub by_addr: BTreeMap<IpAddr, Result<NextHop, String>>,
    /// This host's own addresses (VIPs included while they are set): never a real server's.
    pub own: std::collections::BTreeSet<IpAddr>,
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
    /// Writes the ways to real servers; one without a way is not chosen for new connections.
    fn set_next_hops(&mut self, next_hops: &NextHops) -> anyhow::Result<()>;
    /// Expires idle and closed connections, corrects counters. To be called each second.
    fn housekeep(&mut self, now: Instant) -> anyhow::Result<()>;
    /// Packets by outcome name.
    fn counters(&mut self) -> anyhow::Result<BTreeMap<String, u64>>;
    /// At most `limit` connections.
    fn flows(&mut self, limit: usize) -> anyhow::Result<Vec<FlowStatus>>;
    /// Everything `lbctl status` shows of an engine.
    fn status(&mut self) -> anyhow::Result<ForwarderStatus>;
    /// Clean stop: detaches from every interface and leaves nothing in the kernel. Dropping an
    /// engine without it leaves everything in place for the next start to adopt.
    fn close(&mut self) -> anyhow::Result<()>;
}
