//! The engine: the trait of [`crate::dataplane`] over the kernel's table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::errno::Errno;
use tracing::{info, warn};

use super::{
    LIMITS,
    connections::Listing,
    encode::{self, Held, held},
    journal::File,
    socket::{Kernel, Refusal, Socket},
    wire::{Answer, Dest, DestEntry, DestKey, Request, ServiceEntry, ServiceKey, Timeouts, flag},
};
use crate::{
    base::{
        filter::FlowFilter,
        net::VirtualServerKey,
        status::{FlowStatus, ForwarderStatus, RealServerStatus, VirtualServerStatus},
        table::{
            Engine, ForwardingTable, Method, OnDown, RealServer, RealServerState, VirtualServer,
        },
        time::Instant,
    },
    dataplane::{
        ApplyReport, Capabilities, DataPlane, FLOWS_LIMIT, Failure, FailureKind, Progress,
        Surroundings,
    },
    reconcile::{Operation, Plan},
};

/// Ends connections of removed real servers with their next packet.
const EXPIRE_NODEST: &str = "expire_nodest_conn";
const NOT_OURS: &str = "the kernel has this service already and it is not lbd's: whoever made it must take it out \
                        (`ipvsadm -D`)";
/// Slices that [`Ipvs::flow`] reads of the kernel's connections before it gives up.
const FIND_SLICES: usize = 400;

/// The IPVS engine over the kernel, or over a test's.
pub struct Ipvs<K = Socket> {
    kernel: K,
    journal: File,
    /// What we want there: what was applied, and what a predecessor left.
    wanted: ForwardingTable,
    /// What is there of ours, as read and changed since.
    image: BTreeMap<ServiceKey, Held>,
    /// Services that are not ours, as read.
    foreign: BTreeSet<ServiceKey>,
    listing: Option<Listing>,
    /// `/proc/sys/net/ipv4/vs`.
    sysctl: PathBuf,
}

impl Ipvs {
    /// Opens the kernel's table of this network namespace and takes over what a predecessor left there, by the
    /// journal in `run_dir`.
    ///
    /// # Errors
    /// A sentence why IPVS is not to be had here.
    pub fn open(run_dir: &Path) -> anyhow::Result<Self> {
        let mut engine = Self::over(Socket::open()?, run_dir, Path::new("/proc/sys/net/ipv4/vs"));
        engine.read().context("read the IPVS table")?;
        Ok(engine)
    }
}

impl<K: Kernel> Ipvs<K> {
    fn over(kernel: K, run_dir: &Path, sysctl: &Path) -> Self {
        let journal = File::open(run_dir);
        let wanted = journal.table();
        Self {
            kernel,
            journal,
            wanted,
            image: BTreeMap::new(),
            foreign: BTreeSet::new(),
            listing: None,
            sysctl: sysctl.to_owned(),
        }
    }

    fn services(&mut self) -> Result<Vec<ServiceEntry>, Refusal> {
        let answers = self.kernel.call(&Request::GetServices)?;
        let service = |answer| match answer {
            Answer::Service(entry) => Some(entry),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(service).collect())
    }

    /// Destinations; a service that has just gone has none.
    fn dests(&mut self, key: ServiceKey) -> Result<Vec<DestEntry>, Refusal> {
        let answers = match self.kernel.call(&Request::GetDests(key)) {
            Err(error) if gone(&error) => return Ok(Vec::new()),
            other => other?,
        };
        let dest = |answer| match answer {
            Answer::Dest(entry) => Some(entry),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(dest).collect())
    }

    /// Reads the kernel: our services with their destinations, and the names of the others.
    fn read(&mut self) -> Result<(), Refusal> {
        let mut image = BTreeMap::new();
        let mut foreign = BTreeSet::new();
        for entry in self.services()? {
            let key = entry.service.key;
            if !self.journal.claims().contains(&key) {
                foreign.insert(key);
                continue;
            }
            let dests = self.dests(key)?;
            let dests = dests.into_iter().map(|it| (it.dest.key, it.dest)).collect();
            image.insert(key, Held { service: entry.service, dests });
        }
        for key in foreign.difference(&self.foreign) {
            info!(service = %key, "an IPVS service that is not ours is left alone");
        }
        (self.image, self.foreign) = (image, foreign);
        Ok(())
    }

    fn perform(&mut self, operation: &Operation) -> Result<(), Failure> {
        let failed = |error: anyhow::Error| Failure {
            text: format!("{operation} (ipvs): {error:#}"),
            kind: match error.is::<NoScheduler>() {
                true => FailureKind::Hopeless,
                false => FailureKind::Passing,
            },
        };
        let key = match operation {
            // Nothing in the kernel stands for these.
            Operation::Attach { .. }
            | Operation::Detach { .. }
            | Operation::SetVip { .. }
            | Operation::RemoveVip { .. } => None,
            Operation::RemoveVirtualServer { key } => {
                self.delete(&encode::key(key)).map_err(failed)?;
                None
            }
            Operation::SetRealServer { key, addr, real_server } => {
                let old = self.wanted.virtual_servers.get(key).cloned();
                match old.filter(|_| self.image.contains_key(&encode::key(key))) {
                    Some(vs) => {
                        self.replace(key, &vs, *addr, Some(real_server)).map_err(failed)?;
                        None
                    }
                    None => Some(*key),
                }
            }
            Operation::RemoveRealServer { key, addr } => {
                let old = self.wanted.virtual_servers.get(key).cloned();
                match old.filter(|_| self.image.contains_key(&encode::key(key))) {
                    Some(vs) => {
                        self.replace(key, &vs, *addr, None).map_err(failed)?;
                        None
                    }
                    None => Some(*key),
                }
            }
            Operation::AddVirtualServer { key, .. }
            | Operation::ChangeVirtualServer { key, .. } => Some(*key),
        };
        let misfit = |misfit| Failure::passing(format!("{operation} (ipvs): {misfit}"));
        if let Some(key) = key {
            let vs = self.wanted.virtual_servers.get(&key).map(|vs| (key, vs.clone()));
            let mut part = ForwardingTable {
                virtual_servers: vs.into_iter().collect(),
                ..ForwardingTable::default()
            };
            operation.perform(&mut part).map_err(misfit)?;
            if let Some(vs) = part.virtual_servers.get(&key) {
                self.bring(&held(&key, vs)).map_err(failed)?;
            }
        }
        operation.perform(&mut self.wanted).map_err(misfit)
    }

    fn delete(&mut self, key: &ServiceKey) -> anyhow::Result<()> {
        match self.kernel.call(&Request::DelService(*key)) {
            Err(error) if !gone(&error) => return Err(error).context("remove the service"),
            _ => {}
        }
        self.image.remove(key);
        self.journal.release(key);
        Ok(())
    }

    /// Sets or removes one real server of a service that is there.
    fn replace(
        &mut self,
        key: &VirtualServerKey,
        vs: &VirtualServer,
        addr: SocketAddr,
        server: Option<&RealServer>,
    ) -> anyhow::Result<()> {
        let service = encode::key(key);
        let want = server.and_then(|server| encode::dest(key, vs, addr, server));
        let old = vs.real_servers.get(&addr).map(|old| encode::dest_key(key, addr, old.method));
        let Some(mut now) = self.image.remove(&service) else { return Ok(()) };
        let mut outcome = Ok(());
        if let Some(want) = want {
            outcome = self.set(service, &mut now, want.key, Some(want));
        }
        let stale = old.filter(|old| want.is_none_or(|want| want.key != *old));
        if let Some(stale) = stale
            && outcome.is_ok()
        {
            outcome = self.set(service, &mut now, stale, None);
        }
        self.image.insert(service, now);
        outcome
    }

    /// Brings a service to what it should be: made first if it is not there, then destinations that gain
    /// connections, then those that lose them, removals last, so that what is served keeps a live server.
    fn bring(&mut self, target: &Held) -> anyhow::Result<()> {
        let key = target.service.key;
        let claimed = !self.journal.claims().contains(&key);
        if claimed {
            if self.foreign.contains(&key) {
                anyhow::bail!(NOT_OURS);
            }
            self.journal.claim(key).context("note the service as ours")?;
        }
        let mut now = match self.image.remove(&key) {
            Some(held) => held,
            None => self.create(target, claimed)?,
        };
        let outcome = self.converge(&mut now, target);
        self.image.insert(key, now);
        outcome
    }

    /// A service without destinations. When the kernel refuses it, a claim that was `claimed` for it is given back; an
    /// older one may stand for a service that is there, and the next reading tells. So it does when the answer was
    /// lost.
    fn create(&mut self, target: &Held, claimed: bool) -> anyhow::Result<Held> {
        let service = target.service.clone();
        let error = match self.kernel.call(&Request::NewService(service.clone())) {
            Ok(_) => return Ok(Held { service, dests: BTreeMap::new() }),
            Err(error) => error,
        };
        if claimed && error.errno().is_some() {
            self.journal.release(&service.key);
        }
        match error {
            Refusal::Errno(Errno::EEXIST) if claimed => {
                self.foreign.insert(service.key);
                anyhow::bail!(NOT_OURS)
            }
            Refusal::Errno(Errno::ENOENT) => Err(NoScheduler(service.scheduler).into()),
            error => Err(error).context("add the service"),
        }
    }

    fn converge(&mut self, now: &mut Held, target: &Held) -> anyhow::Result<()> {
        let key = target.service.key;
        // Those that gain, those that lose, those that go.
        let mut order: Vec<DestKey> = target.dests.keys().copied().collect();
        order.sort_by_key(|dest| target.dests.get(dest).is_none_or(|it| it.weight == 0));
        order.extend(now.dests.keys().filter(|dest| !target.dests.contains_key(dest)));
        for dest in order {
            self.set(key, now, dest, target.dests.get(&dest).copied())?;
        }
        if !encode::same_service(&target.service, &now.service) {
            self.kernel
                .call(&Request::SetService(target.service.clone()))
                .context("change the service")?;
            now.service = target.service.clone();
        }
        Ok(())
    }

    /// Brings one destination to what it should be; `None`: away.
    fn set(
        &mut self,
        key: ServiceKey,
        now: &mut Held,
        dest: DestKey,
        want: Option<Dest>,
    ) -> anyhow::Result<()> {
        let have = now.dests.get(&dest).copied();
        let request = match (have, want) {
            (have, want) if have == want => return Ok(()),
            (None, Some(want)) => Request::NewDest(key, want),
            (Some(_), Some(want)) => Request::SetDest(key, want),
            (_, None) => Request::DelDest(key, dest),
        };
        let outcome = match (self.kernel.call(&request), want) {
            // Somebody was quicker, in either direction.
            (Err(Refusal::Errno(Errno::EEXIST)), Some(want)) => {
                self.kernel.call(&Request::SetDest(key, want))
            }
            (Err(Refusal::Errno(Errno::ENOENT)), Some(want)) if have.is_some() => {
                self.kernel.call(&Request::NewDest(key, want))
            }
            (Err(Refusal::Errno(Errno::ENOENT)), None) => Ok(Vec::new()),
            (other, _) => other,
        };
        let doing = if want.is_some() { "set" } else { "remove" };
        outcome.with_context(|| format!("{doing} destination {dest}"))?;
        match want {
            Some(want) => now.dests.insert(dest, want),
            None => now.dests.remove(&dest),
        };
        Ok(())
    }

    /// Puts `expire_nodest_conn` on while a virtual server wants its dead servers' clients reset. It belongs to the
    /// whole network namespace; what it was is put back at the end.
    fn expire_nodest(&mut self) {
        let wanted = self.wanted.virtual_servers.values().any(|vs| vs.on_down == OnDown::Reset);
        if !wanted || self.journal.settings().contains_key(EXPIRE_NODEST) {
            return;
        }
        let path = self.sysctl.join(EXPIRE_NODEST);
        let result = fs::read_to_string(&path).and_then(|before| {
            let before = before.trim().to_owned();
            if before != "1" {
                fs::write(&path, "1")?;
            }
            Ok(before)
        });
        match result {
            Ok(before) => drop(self.journal.settings().insert(EXPIRE_NODEST.to_owned(), before)),
            Err(error) => warn!(
                path = %path.display(), %error,
                "clients of a dead real server will not be reset: the setting cannot be changed"
            ),
        }
    }

    fn timeouts(&mut self) -> Timeouts {
        let answers = self.kernel.call(&Request::GetConfig).unwrap_or_default();
        let config = answers.into_iter().find_map(|answer| match answer {
            Answer::Config(timeouts) => Some(timeouts),
            _ => None,
        });
        config.unwrap_or_default()
    }

    fn virtual_server_status(
        &self,
        key: &VirtualServerKey,
        vs: &VirtualServer,
        entry: &ServiceEntry,
        dests: &[DestEntry],
    ) -> VirtualServerStatus {
        let target = held(key, vs);
        let real_servers = vs.real_servers.iter().map(|(addr, server)| {
            let dest = encode::dest_key(key, *addr, server.method);
            let found = dests.iter().find(|it| it.dest.key == dest);
            let state = match server.state {
                RealServerState::Up => "UP",
                RealServerState::Drain | RealServerState::Closed | RealServerState::Inhibited => {
                    "DRAIN"
                }
                RealServerState::Down => "DOWN",
            };
            RealServerStatus {
                addr: *addr,
                method: match server.method {
                    Method::Nat => "nat",
                    Method::Tun => "tun",
                    Method::Dr | Method::Local => "dr",
                }
                .to_owned(),
                weight: found.map_or(0, |it| it.dest.weight),
                state: state.to_owned(),
                admin: None,
                problem: match (found, target.dests.contains_key(&dest)) {
                    (None, true) => Some("the kernel does not have it".to_owned()),
                    _ => None,
                },
                active_connections: found.map_or(0, |it| it.active.into()),
                stale_connections: 0,
                ends_in_ms: None,
                connections: found.map_or(0, |it| it.stats.connections),
                packets: found.map_or(0, |it| it.stats.in_packets + it.stats.out_packets),
                bytes: found.map_or(0, |it| it.stats.in_bytes + it.stats.out_bytes),
                generation: 0,
                next_hop: None,
            }
        });
        let persistent = entry.service.flags & flag::PERSISTENT != 0;
        VirtualServerStatus {
            key: key.to_string(),
            engine: "ipvs".to_owned(),
            placement: String::new(),
            scheduler: entry.service.scheduler.clone(),
            instance: None,
            connections: entry.stats.connections,
            unavailable: 0,
            table_full: 0,
            resets: 0,
            templates: persistent.then(|| dests.iter().map(|it| u64::from(it.persistent)).sum()),
            templates_full: 0,
            packets: entry.stats.in_packets + entry.stats.out_packets,
            bytes: entry.stats.in_bytes + entry.stats.out_bytes,
            real_servers: real_servers.collect(),
        }
    }
}

/// Only the operator can mend this.
#[derive(Debug, thiserror::Error)]
#[error("the kernel has no scheduler {0}: its module ip_vs_{0} is missing, or may not be loaded")]
struct NoScheduler(String);

/// Somebody else has removed it.
fn gone(error: &Refusal) -> bool {
    matches!(error.errno(), Some(Errno::ESRCH | Errno::ENOENT))
}

impl<K: Kernel> DataPlane for Ipvs<K> {
    fn capabilities(&self) -> Capabilities {
        // The kernel has no bounds but memory.
        Capabilities {
            name: "ipvs",
            engine: Engine::Ipvs,
            fences: false,
            virtual_servers: usize::from(u16::MAX),
            real_servers: usize::MAX,
        }
    }

    fn observe(&mut self) -> anyhow::Result<ForwardingTable> {
        self.read().context("read the IPVS table")?;
        let mut table = ForwardingTable {
            virtual_servers: BTreeMap::new(),
            vips: self.wanted.vips.clone(),
            interfaces: self.wanted.interfaces.clone(),
        };
        for (service, found) in &self.image {
            let Some(key) = encode::virtual_server_key(service) else { continue };
            let wanted = self.wanted.virtual_servers.get(&key);
            table.virtual_servers.insert(key, encode::observed(&key, wanted, found));
        }
        // From here on it is what operations are applied to.
        self.wanted = table.clone();
        Ok(table)
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        let outcomes = plan.operations.iter().map(|operation| self.perform(operation)).collect();
        if !plan.is_empty() {
            self.expire_nodest();
            self.journal.keep(&self.wanted);
        }
        ApplyReport { outcomes }
    }

    fn set_surroundings(&mut self, _around: &Surroundings) -> anyhow::Result<()> {
        Ok(()) // the kernel finds its ways itself
    }

    fn housekeep(&mut self, _now: Instant) -> anyhow::Result<()> {
        Ok(()) // the kernel expires its connections itself
    }

    fn work(&mut self) -> anyhow::Result<Progress> {
        Ok(Progress::default())
    }

    fn counters(&mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        Ok(BTreeMap::new())
    }

    fn list_flows(&mut self, filter: &FlowFilter, limit: usize) {
        self.listing = Some(Listing::new(filter.clone(), limit.min(FLOWS_LIMIT)));
    }

    fn listed_flows(&mut self) -> anyhow::Result<Option<Vec<FlowStatus>>> {
        let Some(mut listing) = self.listing.take() else { return Ok(Some(Vec::new())) };
        let tcp = self.timeouts().tcp;
        let ours =
            |flow: &FlowStatus| self.wanted.virtual_servers.keys().any(|key| key.addr == flow.vip);
        if listing.work(tcp, ours) {
            return Ok(Some(listing.end()));
        }
        self.listing = Some(listing);
        Ok(None)
    }

    fn flow(&mut self, client: SocketAddr, vip: SocketAddr) -> anyhow::Result<Option<FlowStatus>> {
        let tcp = self.timeouts().tcp;
        let mut listing = Listing::new(FlowFilter::default(), 1);
        for _ in 0..FIND_SLICES {
            if listing.work(tcp, |flow| (flow.client, flow.vip) == (client, vip)) {
                break;
            }
        }
        Ok(listing.end().into_iter().next())
    }

    fn status(&mut self) -> anyhow::Result<ForwarderStatus> {
        let mut status = ForwarderStatus {
            engine: "ipvs".to_owned(),
            limits: LIMITS.iter().map(|&it| it.to_owned()).collect(),
            foreign_services: self.foreign.iter().map(ToString::to_string).collect(),
            ..ForwarderStatus::default()
        };
        for entry in self.services().context("read the IPVS table")? {
            let service = entry.service.key;
            let Some(key) = encode::virtual_server_key(&service) else { continue };
            let ours = self.journal.claims().contains(&service);
            let Some(vs) = self.wanted.virtual_servers.get(&key).filter(|_| ours).cloned() else {
                continue;
            };
            let dests = self.dests(service).context("read the IPVS table")?;
            status.flows += dests.iter().map(|it| u64::from(it.active)).sum::<u64>();
            status.embryos += dests.iter().map(|it| u64::from(it.inactive)).sum::<u64>();
            status.virtual_servers.push(self.virtual_server_status(&key, &vs, &entry, &dests));
        }
        status.virtual_servers.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(status)
    }

    fn close(&mut self) -> anyhow::Result<()> {
        let claims: Vec<ServiceKey> = self.journal.claims().iter().copied().collect();
        let mut first = Ok(());
        for key in claims {
            let deleted = self.delete(&key).with_context(|| format!("IPVS service {key}"));
            first = first.and(deleted);
        }
        for (name, before) in std::mem::take(self.journal.settings()) {
            let path = self.sysctl.join(&name);
            let restored = fs::write(&path, &before)
                .with_context(|| format!("put {} back to {before}", path.display()));
            first = first.and(restored);
        }
        self.wanted = ForwardingTable::default();
        match first {
            Ok(()) => self.journal.remove().context("remove the journal of IPVS services"),
            error => {
                self.journal.keep(&ForwardingTable::default());
                error
            }
        }
    }
}

#[cfg(test)]
mod tests;
