//! The engine: the trait of [`crate::dataplane`] over maps, program and links.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use lb_common::{
    abi::{
        Control, FLAG_INHIBITED, FLAG_RESOLVED, LEASE_STANDBY, METHOD_LOCAL, METHOD_TUN,
        METHOD_TUN6, Orphan, Real, STATE_DOWN, STATE_DRAIN, STATE_UP, SourceKey,
    },
    maps as sizes,
    verdict::Outcome,
};
use tracing::{debug, warn};

use super::{
    attach::{self, Around, AttachError, On, Placed},
    encode::{decode, encode, socket},
    housekeeping::Stage,
    image::{Image, writes},
    lease::Clock,
    links::Mode,
    listing::Listing,
    loader::{self, How},
    maps::Maps,
    orphans::{self, Ask},
    resets,
    syncing::Syncing,
    sys,
    telling::Telling,
    totals::Totals,
};
use crate::{
    base::{
        filter::FlowFilter,
        net::Mac,
        status::{
            FlowStatus, ForwarderStatus, InterfaceStatus, RealServerStatus, VirtualServerStatus,
        },
        table::{Engine, ForwardingTable, LeaseSlot},
        time::Instant,
    },
    config::model::Attachment,
    dataplane::{ApplyReport, Capabilities, DataPlane, Failure, Progress, Surroundings},
    reconcile::{Operation, Plan},
};

/// Life of an embryo without a packet: as long as Linux goes on with SYN-ACKs (63 s) and about as
/// long as the longest pause between a client's SYNs (64 s).
const HALF_OPEN: Duration = Duration::from_secs(64);
/// How long new connections are hashed after the flow table was found full.
const PRESSURE: Duration = Duration::from_millis(250);

/// The XDP engine.
pub struct Xdp {
    pub(super) pin_dir: PathBuf,
    pub(super) maps: Maps,
    program: OwnedFd,
    pub(super) clock: Clock,
    how: How,
    wanted: Attachment,
    /// What the kernel holds; `None` after a failed write, until it is read back.
    image: Option<Image>,
    totals: Totals,
    around: Surroundings,
    /// Last error by interface name.
    problems: BTreeMap<String, String>,
    /// Interfaces that the plan which is being carried out attaches to.
    attaching: Vec<String>,
    /// Failed attempts since the last success, by interface name.
    tries: BTreeMap<String, u32>,
    /// Why tc is not to be had on this host, where that was found out.
    no_tc: Option<String>,
    /// Interfaces with something of ours that is not as it is wanted.
    strays: BTreeSet<String>,
    /// Why the program is where it is, by interface name; none for what a predecessor attached.
    reasons: BTreeMap<String, String>,
    /// Writes that were needed although the table was as desired: someone else had a hand in it.
    repairs: u64,
    /// As of the last pass, as [`Xdp::embryos`].
    pub(super) flows: u64,
    pub(super) embryos: u64,
    /// By service id, also as of the last pass.
    pub(super) templates: BTreeMap<u16, u64>,
    /// As of the last pass, by real id: connections that have lost it and are not reset yet.
    pub(super) stale: BTreeMap<u16, u64>,
    /// The pass that is under way.
    housekeeping: Option<Stage>,
    listing: Option<Listing>,
    pub(super) telling: Telling,
    pub(super) syncing: Syncing,
    run_stats: (u64, u64),
}

impl Xdp {
    /// Loads the program, or takes over what a predecessor left under `pin_dir`.
    ///
    /// # Errors
    /// A sentence why XDP is not to be had here.
    pub fn open(pin_dir: &Path, flow_table_size: u32, wanted: Attachment) -> anyhow::Result<Self> {
        let loaded = loader::open(pin_dir, flow_table_size)?;
        let (mut maps, clock) = (loaded.maps, Clock::new(loaded.clock)?);
        let image = maps.read(sizes::REALS as usize).context("read the maps back")?;
        let control = maps.control().context("read the map control")?;
        let (half_open, pressure) = (clock.ticks(HALF_OPEN), clock.ticks(PRESSURE));
        let second = clock.ticks(Duration::from_secs(1));
        maps.set_control(Control { half_open, pressure, second, ..control })
            .context("write to the map control")?;
        // A predecessor may have been in the midst of it.
        let mut telling = Telling::default();
        telling.want();
        Ok(Self {
            pin_dir: pin_dir.to_owned(),
            maps,
            program: loaded.program,
            clock,
            how: loaded.how,
            wanted,
            image: Some(image),
            totals: Totals::default(),
            around: Surroundings::default(),
            problems: BTreeMap::new(),
            attaching: Vec::new(),
            tries: BTreeMap::new(),
            no_tc: None,
            strays: BTreeSet::new(),
            reasons: BTreeMap::new(),
            repairs: 0,
            flows: 0,
            embryos: 0,
            templates: BTreeMap::new(),
            stale: BTreeMap::new(),
            housekeeping: None,
            listing: None,
            telling,
            syncing: Syncing::default(),
            run_stats: (0, 0),
        })
    }

    /// Whether a predecessor's program and maps were taken over.
    pub fn how(&self) -> How {
        self.how
    }

    /// How interfaces are to be attached from now on; what does not fit it counts as not attached.
    pub fn set_attachment(&mut self, wanted: Attachment) {
        self.wanted = wanted;
        self.tries.clear();
        self.no_tc = None;
    }

    /// What is to be sent to the client of an orphaned reply: one segment for each virtual server
    /// that the reply may belong to and that this host is master of now.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn asks(&mut self, orphan: &Orphan) -> anyhow::Result<Vec<Ask>> {
        let key = SourceKey::tcp(orphan.reply.src, orphan.reply.sport);
        let jiffies = self.clock.sample()?.jiffies;
        let image = self.image()?;
        let Some(source) = image.sources.get(&key) else { return Ok(Vec::new()) };
        let reals: Vec<Real> =
            source.reals.iter().filter_map(|id| image.reals.get(id)).copied().collect();
        let mut asks = Vec::new();
        for real in reals {
            let lease = self.maps.lease.get(&u32::from(real.gate), 0);
            if jiffies < lease.context("read the map lease")? {
                asks.push(Ask {
                    from: socket(real.vip, real.vip_port),
                    to: orphans::client(orphan),
                    seq: orphan.seq,
                    ack: orphan.ack,
                });
            }
        }
        Ok(asks)
    }

    pub(super) fn image(&mut self) -> anyhow::Result<&Image> {
        let image = match self.image.take() {
            Some(image) => image,
            None => self.maps.read(sizes::REALS as usize).context("read the maps back")?,
        };
        Ok(self.image.insert(image))
    }

    /// [`Image::has_six`], also where that cannot be known.
    pub(super) fn has_six(&mut self) -> bool {
        self.image().map_or(true, Image::has_six)
    }

    /// Brings the maps from what they hold to `table`.
    pub(super) fn publish(&mut self, table: &ForwardingTable) -> anyhow::Result<usize> {
        let around = std::mem::take(&mut self.around);
        let next = self.image().and_then(|image| Ok(encode(image, table, &around)?));
        self.around = around;
        let next = next?;
        self.write(next)
    }

    pub(super) fn write(&mut self, next: Image) -> anyhow::Result<usize> {
        let before = self.image.take().unwrap_or_default();
        self.syncing.forget_names();
        let stats = |id| self.maps.real_stats(id).context("read the map real_stats");
        let totals = self.totals.after(&before, &next, stats)?;
        let writes = writes(&before, &next);
        if resets::someone_dies(&before, &next) {
            self.telling.want();
        }
        for write in &writes {
            // On failure the image stays unknown and is read back.
            self.maps.write(write)?;
        }
        self.image = Some(next);
        self.totals = totals;
        Ok(writes.len())
    }

    /// Performs operations that may be done as one, by one change of the maps: when many real servers fail
    /// together, the last verdict is there as soon as the first. If that fails, each by itself, so that one that cannot be
    /// done is no other's failure.
    fn perform_step(&mut self, step: &[Operation]) -> Vec<Result<(), Failure>> {
        if step.len() > 1
            && let Ok(image) = self.image()
        {
            let mut table = decode(image);
            let fits = step.iter().all(|operation| operation.perform(&mut table).is_ok());
            if fits && self.publish(&table).is_ok() {
                return step.iter().map(|_| Ok(())).collect();
            }
        }
        step.iter().map(|operation| self.perform(operation)).collect()
    }

    fn perform(&mut self, operation: &Operation) -> Result<(), Failure> {
        let other = |error: anyhow::Error| Failure::passing(format!("{operation}: {error:#}"));
        match operation {
            Operation::Attach { interface } => self
                .attach(interface)
                .map_err(|error| Failure { text: error.to_string(), kind: error.kind() }),
            Operation::Detach { interface } => {
                self.forget(interface);
                attach::detach(&self.pin_dir, interface).map_err(other)
            }
            _ => {
                let mut table = decode(self.image().map_err(other)?);
                if let Operation::SetVip { slot, .. } = operation
                    && !table.vips.values().any(|used| used == slot)
                {
                    // A slot begins its life without a lease, whatever its last owner left.
                    self.reset_lease(*slot).map_err(other)?;
                }
                operation
                    .perform(&mut table)
                    .map_err(|misfit| Failure::passing(format!("{operation}: {misfit}")))?;
                self.publish(&table).map_err(other)?;
                Ok(())
            }
        }
    }

    fn reset_lease(&mut self, slot: LeaseSlot) -> anyhow::Result<()> {
        self.maps
            .lease
            .set(u32::from(slot.0), LEASE_STANDBY, 0)
            .with_context(|| format!("write lease slot {}", slot.0))
    }

    fn attach(&mut self, interface: &str) -> Result<(), AttachError> {
        let around = self.around(interface);
        let (dir, program) = (&self.pin_dir, &self.program);
        let other = || self.describe_other(interface);
        match attach::attach(dir, program, interface, self.wanted, &around, other) {
            Ok(Placed { reason, no_tc, .. }) => {
                self.forget(interface);
                self.reasons.insert(interface.to_owned(), reason);
                if let Some(why) = no_tc {
                    warn!(interface, why, "no tc on this host: native XDP in its place");
                    self.no_tc = Some(why);
                }
                Ok(())
            }
            Err(error) => {
                *self.tries.entry(interface.to_owned()).or_default() += 1;
                self.problems.insert(interface.to_owned(), error.to_string());
                Err(error)
            }
        }
    }

    fn forget(&mut self, interface: &str) {
        self.problems.remove(interface);
        self.reasons.remove(interface);
        self.tries.remove(interface);
        self.strays.remove(interface);
    }

    fn around(&self, interface: &str) -> Around {
        // What cannot be read is said by whoever needs it.
        let attached = attach::attached(&self.pin_dir).unwrap_or_default();
        let other = |name: &&String| *name != interface;
        Around {
            has_tc: with_tc(&attached, interface),
            will_have_tc: self
                .attaching
                .iter()
                .filter(other)
                .find(|name| attach::is_software(name))
                .cloned(),
            no_tc: self.no_tc.clone(),
            tries: self.tries.get(interface).copied().unwrap_or(0),
        }
    }

    /// Why the program is on an interface in this way.
    fn reason(&self, interface: &str, mode: Mode) -> String {
        if let Some(reason) = self.reasons.get(interface) {
            return reason.clone();
        }
        attach::first_choice(self.wanted, interface, mode, &self.around(interface))
            .unwrap_or_else(|| "taken over from a predecessor".to_owned())
    }

    /// The foreign program on an interface, in words.
    fn describe_other(&self, interface: &str) -> Option<String> {
        let id = self.around.xdp_programs.get(interface)?;
        let name = aya::programs::loaded_programs()
            .flatten()
            .find(|program| program.id() == *id)
            .and_then(|program| Some(program.name_as_str()?.to_owned()));
        Some(match name {
            Some(name) => format!("another XDP program (id {id}, {name})"),
            None => format!("another XDP program (id {id})"),
        })
    }

    /// Average cost of a packet since the last call, when the kernel counts it.
    fn ns_per_packet(&mut self) -> Option<u64> {
        let (mut time, mut runs) = sys::run_stats(&self.program).ok()?;
        if let Ok(tc) = loader::pinned_program(&self.pin_dir, sizes::PROGRAM_TC) {
            let (more_time, more_runs) = sys::run_stats(&tc).ok()?;
            (time, runs) = (time + more_time, runs + more_runs);
        }
        let (old_time, old_runs) = std::mem::replace(&mut self.run_stats, (time, runs));
        time.saturating_sub(old_time).checked_div(runs.saturating_sub(old_runs))
    }

    fn real_server(&self, id: u16, real: &Real) -> anyhow::Result<RealServerStatus> {
        let addr = socket(real.addr, real.port);
        let stats = self.maps.real_stats(id).context("read the map real_stats")?;
        let active = self.maps.conn(id).context("read the map conns")?;
        let local = real.method == METHOD_LOCAL;
        let hop = self.around.next_hops.get(&addr.ip());
        let before = self.maps.is_overloaded(id).context("read the map overloads")?;
        let overloaded = real.is_overloaded(u64::try_from(active).unwrap_or(0), before);
        let problem = match hop {
            _ if overloaded => Some(format!(
                "takes no new connections: it has reached its uthreshold, {}",
                real.upper
            )),
            _ if local || real.flags & FLAG_RESOLVED != 0 => None,
            Some(Err(why)) => Some(why.clone()),
            Some(Ok(_)) if real.is_tunnel() => {
                Some("this host has no address of its own towards it".to_owned())
            }
            _ => Some("next hop not resolved yet".to_owned()),
        };
        let next_hop = match hop {
            Some(Ok(hop)) if !local => {
                Some(format!("{} on interface {}", Mac(hop.neighbour.0), hop.ifindex))
            }
            _ => None,
        };
        let state = match real.state {
            STATE_UP => "UP",
            STATE_DRAIN => "DRAIN",
            STATE_DOWN => "DOWN",
            _ => "ABSENT",
        };
        let method = match real.method {
            METHOD_LOCAL => "local",
            METHOD_TUN | METHOD_TUN6 => "tun",
            lb_common::abi::METHOD_NAT => "nat",
            _ => "dr",
        };
        Ok(RealServerStatus {
            addr,
            method: method.to_owned(),
            // What `inhibit_on_failure` means to an operator.
            weight: if real.flags & FLAG_INHIBITED == 0 { real.weight } else { 0 },
            state: state.to_owned(),
            admin: None,
            problem,
            active_connections: u64::try_from(active).unwrap_or(0),
            stale_connections: self.stale.get(&id).copied().unwrap_or(0),
            ends_in_ms: None,
            connections: stats.connections,
            packets: stats.packets + stats.reply_packets,
            bytes: stats.bytes + stats.reply_bytes,
            generation: real.generation,
            next_hop,
        })
    }

    fn virtual_servers(&mut self) -> anyhow::Result<Vec<VirtualServerStatus>> {
        let image = self.image()?.clone();
        let mut out = Vec::new();
        for (key, vs) in decode(&image).virtual_servers {
            let real_servers = image
                .reals
                .iter()
                .filter(|(_, real)| {
                    socket(real.vip, real.vip_port) == key.addr
                        && vs.real_servers.contains_key(&socket(real.addr, real.port))
                        && real.service != 0
                })
                .map(|(id, real)| self.real_server(*id, real))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let services = image.services.iter();
            let id = services
                .filter(|(map_key, _)| socket(map_key.addr, map_key.port) == key.addr)
                .map(|(_, service)| service.id)
                .next();
            let id = id.unwrap_or_default();
            let stats = self.maps.service_stats(id).context("read the map service_stats")?;
            let gone = self.totals.gone(id);
            out.push(VirtualServerStatus {
                key: key.to_string(),
                engine: "xdp".to_owned(),
                placement: String::new(),
                scheduler: vs.scheduler.name().to_owned(),
                instance: None,
                connections: stats.scheduled,
                unavailable: stats.unavailable,
                table_full: stats.table_full,
                resets: stats.resets,
                templates: vs.persistence.map(|_| self.templates.get(&id).copied().unwrap_or(0)),
                templates_full: stats.templates_full,
                packets: gone.packets + real_servers.iter().map(|rs| rs.packets).sum::<u64>(),
                bytes: gone.bytes + real_servers.iter().map(|rs| rs.bytes).sum::<u64>(),
                real_servers,
            });
        }
        Ok(out)
    }
}

/// Another interface than `interface` that has tc.
fn with_tc(attached: &BTreeMap<String, On>, interface: &str) -> Option<String> {
    let has = |on: &On| on.modes.iter().any(|mode| mode.is_tc());
    attached.iter().find(|(name, on)| *name != interface && has(on)).map(|it| it.0.clone())
}

impl DataPlane for Xdp {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "xdp",
            engine: Engine::Xdp,
            fences: true,
            virtual_servers: sizes::SERVICES as usize - 1,
            real_servers: sizes::REALS as usize - 1,
        }
    }

    fn observe(&mut self) -> anyhow::Result<ForwardingTable> {
        // Where it is not known what was written, everything is read.
        let real_ids = self.image.take().map_or(sizes::REALS as usize, |image| image.real_ids());
        self.image = Some(self.maps.read(real_ids).context("read the maps back")?);
        self.syncing.forget_names();
        let mut table = decode(self.image()?);
        // What follows from the table (pools, filter, sources) may have been changed too.
        match self.publish(&table) {
            Ok(0) => {}
            Ok(count) => {
                self.repairs += 1;
                warn!(count, "map content did not fit the table and was repaired");
            }
            Err(error) => debug!(error = format!("{error:#}"), "observed maps fit no table"),
        }
        let attached = attach::attached(&self.pin_dir)?;
        self.strays.clear();
        for (name, on) in &attached {
            let around = Around { has_tc: with_tc(&attached, name), ..Around::default() };
            match *on.modes.as_slice() {
                [mode] if attach::fits(self.wanted, mode, &around) => {
                    self.problems.remove(name);
                    self.tries.remove(name);
                    table.interfaces.insert(name.clone());
                }
                _ => drop(self.strays.insert(name.clone())),
            }
        }
        Ok(table)
    }

    fn strays(&self) -> BTreeSet<String> {
        self.strays.clone()
    }

    fn apply(&mut self, plan: &Plan) -> ApplyReport {
        let attaching = plan.operations.iter().filter_map(|operation| match operation {
            Operation::Attach { interface } => Some(interface.clone()),
            _ => None,
        });
        self.attaching = attaching.collect();
        let outcomes = plan.steps().flat_map(|step| self.perform_step(step)).collect();
        self.attaching.clear();
        ApplyReport { outcomes }
    }

    fn set_surroundings(&mut self, around: &Surroundings) -> anyhow::Result<()> {
        self.around = around.clone();
        let table = decode(self.image()?);
        self.publish(&table).context("write next hops")?;
        Ok(())
    }

    fn housekeep(&mut self, _now: Instant) -> anyhow::Result<()> {
        if self.housekeeping.is_none() {
            self.housekeeping = Some(self.begin()?);
        }
        Ok(())
    }

    fn work(&mut self) -> anyhow::Result<Progress> {
        // After an error the next pass begins anew.
        let Some(stage) = self.housekeeping.take() else { return Ok(Progress::default()) };
        let (progress, next) = self.slice(stage)?;
        self.housekeeping = next;
        Ok(progress)
    }

    fn counters(&mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut counters = BTreeMap::new();
        for outcome in Outcome::ALL {
            let packets = self.maps.outcome(outcome as u32).context("read the map stats")?;
            counters.insert(outcome.name().to_owned(), packets);
        }
        Ok(counters)
    }

    fn list_flows(&mut self, filter: &FlowFilter, limit: usize) {
        self.listing = Some(Listing::new(filter.clone(), limit, self.has_six()));
    }

    fn listed_flows(&mut self) -> anyhow::Result<Option<Vec<FlowStatus>>> {
        let Some(mut listing) = self.listing.take() else { return Ok(Some(Vec::new())) };
        if self.list(&mut listing)? {
            return Ok(Some(Self::listed(listing)));
        }
        self.listing = Some(listing);
        Ok(None)
    }

    fn flow(&mut self, client: SocketAddr, vip: SocketAddr) -> anyhow::Result<Option<FlowStatus>> {
        self.find(client, vip)
    }

    fn status(&mut self) -> anyhow::Result<ForwarderStatus> {
        let mut interfaces: BTreeMap<String, InterfaceStatus> = BTreeMap::new();
        for (name, On { ifindex, modes }) in attach::attached(&self.pin_dir)? {
            let Some(mode) = modes.first().copied() else { continue };
            let reason = self.reason(&name, mode);
            let mode = mode.name().to_owned();
            let status =
                InterfaceStatus { name: name.clone(), ifindex, mode, reason, problem: None };
            interfaces.insert(name, status);
        }
        for (name, problem) in &self.problems {
            let none = InterfaceStatus {
                name: name.clone(),
                ifindex: nix::net::if_::if_nametoindex(name.as_str()).unwrap_or(0),
                mode: "none".to_owned(),
                reason: String::new(),
                problem: None,
            };
            interfaces.entry(name.clone()).or_insert(none).problem = Some(problem.clone());
        }
        Ok(ForwarderStatus {
            engine: "xdp".to_owned(),
            engine_reason: String::new(),
            limits: Vec::new(),
            foreign_services: Vec::new(),
            generation: 0,
            problem: None,
            interfaces: interfaces.into_values().collect(),
            virtual_servers: self.virtual_servers()?,
            outcomes: self.counters()?,
            flows: self.flows,
            flows_max: self.maps.flows_max(),
            embryos: self.embryos,
            reconcile_errors: 0,
            verdict_us: BTreeMap::new(),
            verdict_total_us: 0,
            ns_per_packet: self.ns_per_packet(),
            reset_segments: BTreeMap::new(),
            flow_sync: None,
        })
    }

    fn close(&mut self) -> anyhow::Result<()> {
        loader::remove(&self.pin_dir)
    }
}
