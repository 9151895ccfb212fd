//! L2: engines that forward. One trait, three sides: XDP, the kernel's IPVS, and a fake for tests.

pub mod fake;
pub mod ipvs;
pub mod xdp;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use crate::{
    base::{
        filter::FlowFilter,
        net::Mac,
        status::{FlowStatus, ForwarderStatus},
        table::{Engine, ForwardingTable},
        time::Instant,
    },
    reconcile::Plan,
};

/// What an engine can do on this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Word for logs and metrics: xdp, ipvs, fake.
    pub name: &'static str,
    /// Which of them it is; a fake stands in for XDP.
    pub engine: Engine,
    /// Whether it is silent by itself once a lease has run out.
    pub fences: bool,
    /// Virtual servers at most.
    pub virtual_servers: usize,
    /// Real servers at most, over all virtual servers.
    pub real_servers: usize,
}

/// Result of a plan: one outcome for each operation, in the plan's order.
#[derive(Debug, Default)]
pub struct ApplyReport {
    pub outcomes: Vec<Result<(), Failure>>,
}

impl ApplyReport {
    /// The operations that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.outcomes.iter().filter_map(|outcome| outcome.as_ref().err())
    }
}

/// An operation that failed. The next round tries it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Object, attempt, cause.
    pub text: String,
    pub kind: FailureKind,
}

/// What a failure means for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// May go away by itself or by the operator's hand.
    Passing,
    /// The interface does not exist (yet): nothing can pass it, so nothing is unguarded.
    Absent,
    /// Trying again will not mend it: no permission, not supported by the driver.
    Hopeless,
}

impl Failure {
    /// One that may go away.
    pub fn passing(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: FailureKind::Passing }
    }
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
    /// The interface is a network card rather than made of software.
    pub nic: bool,
    /// This host's own address towards it: the source of what is sent to it.
    pub own: Option<IpAddr>,
}

/// What the engine is told of the host around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Way to each real server's address; `Err` says why there is none, for `lbctl status`. For
    /// an address that is missing nothing is known yet: a way that was known before stays.
    pub next_hops: BTreeMap<IpAddr, Result<NextHop, String>>,
    /// This host's own addresses (VIPs included while they are set); empty: not known yet.
    pub own: BTreeSet<IpAddr>,
    /// Id of the XDP program on each interface (name) that has one, ours or not.
    pub xdp_programs: BTreeMap<String, u32>,
}

/// Most connections that one listing tells: about 6 MB between two roles.
pub const FLOWS_LIMIT: usize = 65_536;

/// What a slice of housekeeping has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries of the kernel's tables that were looked at.
    pub entries: usize,
    /// Whether there is more to do.
    pub more: bool,
}

/// A forwarding engine. No call takes long: what a large table of connections would make long is
/// done in slices.
///
/// `observe` reads the kernel back; `apply` performs a plan made by
/// [`crate::reconcile::plan`] from an observed and a desired table.
pub trait DataPlane {
    fn capabilities(&self) -> Capabilities;
    /// The table as it stands in the kernel now.
    fn observe(&mut self) -> anyhow::Result<ForwardingTable>;
    /// Interfaces that, when [`DataPlane::observe`] looked last, had something of ours that does not count as attached,
    /// since it is not as it is wanted: where they are not wanted at all, it is to be taken off.
    fn strays(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
    /// Performs every operation in order; a failed one does not stop the rest.
    fn apply(&mut self, plan: &Plan) -> ApplyReport;
    /// Takes over ways to real servers and own addresses. A real server without a way is not
    /// chosen for new connections.
    fn set_surroundings(&mut self, around: &Surroundings) -> anyhow::Result<()>;
    /// Begins to expire idle and closed connections and to correct counters; nothing while that is
    /// under way. To be called each second; [`DataPlane::work`] does it.
    fn housekeep(&mut self, now: Instant) -> anyhow::Result<()>;
    /// Does a slice of it. To be called until there is no more.
    fn work(&mut self) -> anyhow::Result<Progress>;
    /// Packets by outcome name.
    fn counters(&mut self) -> anyhow::Result<BTreeMap<String, u64>>;
    /// Begins to list at most `limit` connections ([`FLOWS_LIMIT`] in any case) of those that `filter` asks
    /// for, in place of a listing that is under way.
    fn list_flows(&mut self, filter: &FlowFilter, limit: usize);
    /// Does a slice of it. `None`: there is more to do; else all of them.
    fn listed_flows(&mut self) -> anyhow::Result<Option<Vec<FlowStatus>>>;
    /// One connection.
    fn flow(&mut self, client: SocketAddr, vip: SocketAddr) -> anyhow::Result<Option<FlowStatus>>;
    /// Everything `lbctl status` shows of an engine.
    fn status(&mut self) -> anyhow::Result<ForwarderStatus>;
    /// Clean stop: detaches from every interface and leaves nothing in the kernel. Dropping an
    /// engine without it leaves everything in place for the next start to adopt.
    fn close(&mut self) -> anyhow::Result<()>;
}
