//! The shipped kernel object, loaded into the kernel but attached to nothing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray},
    programs::{Program, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    abi::{
        self, Addr, Flow, FlowKey4, FlowKey6, Real, RealStats, Service, ServiceKey, ServiceStats,
        Source, Vip, be16,
    },
    hash, maglev, maps, pool,
    verdict::Outcome,
};
use lb_userspace::dataplane::xdp::{object::OBJECT, orphans, syncing};

use super::build::{host, is_six, is_tc};

/// What the program did with one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// XDP action, or what tc's is called there.
    pub action: u32,
    /// The one outcome that was counted.
    pub outcome: Outcome,
    /// The frame as it left the program.
    pub frame: Vec<u8>,
}

/// XDP actions.
pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const TX: u32 = 3;
pub const REDIRECT: u32 = 4;

/// What XDP calls an action of tc.
fn as_of_xdp(action: u32) -> Result<u32> {
    match action.cast_signed() {
        -1 => Ok(PASS), // to the next program, and from the last one up the stack
        2 => Ok(DROP),
        7 => Ok(REDIRECT),
        other => Err(anyhow!("an action of tc that lbd never takes: {other}")),
    }
}

/// Whether a reset in its place would be as long. When it cuts a frame the kernel gives up the device's sum of it, and a test run
/// finds it wrong all the same.
fn is_never_cut(frame: &[u8]) -> bool {
    let is_six = frame.get(12..14) == Some(&[0x86, 0xdd]);
    frame.len() <= if is_six { 74 } else { 54 } || frame.len() == 60
}

/// A loaded object and its maps.
pub struct Engine {
    ebpf: Ebpf,
    /// See [`Engine::cuts_nothing`].
    cuts: bool,
}

impl Engine {
    /// Loads the object with flow tables of `flows` and `embryos` entries. Gate 0 is open.
    ///
    /// # Errors
    /// When the kernel refuses a map or, with the verifier's log, the program.
    pub fn load(flows: u32, embryos: u32) -> Result<Self> {
        Self::sized(&[(flows_map(), flows), (embryo_map(), embryos)])
    }

    /// As [`Engine::load`], with the sizes of any maps.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn sized(sizes: &[(&str, u32)]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for (name, entries) in sizes {
            loader.map_max_entries(name, *entries);
        }
        let mut ebpf = loader.load(OBJECT).context("load the kernel object")?;
        for name in [maps::PROGRAM, maps::PROGRAM6, maps::CLOCK_PROGRAM] {
            let program: &mut Xdp =
                ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
            program.load().with_context(|| format!("verifier refuses {name}"))?;
        }
        for name in [maps::PROGRAM_TC, maps::PROGRAM_TC6] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
            program.load().with_context(|| format!("verifier refuses {name}"))?;
        }
        let mut engine = Self { ebpf, cuts: true };
        for (name, map) in
            [(maps::PROGRAM6, maps::PROGRAMS), (maps::PROGRAM_TC6, maps::PROGRAMS_TC)]
        {
            let six = engine.any_program(name)?.fd()?.try_clone()?;
            engine.programs_of(map)?.set(maps::PROGRAM6_INDEX, &six, 0)?;
        }
        engine.lease(0, abi::LEASE_ALWAYS)?;
        Ok(engine)
    }

    /// A program of the object, whatever its hook.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn any_program(&self, name: &str) -> Result<&Program> {
        self.ebpf.program(name).with_context(|| format!("no program {name}"))
    }

    /// No frame of what follows is cut, so that tc's are run with the device's sum whatever their length.
    pub fn cuts_nothing(&mut self) {
        self.cuts = false;
    }

    /// The opposite, which is the rule.
    pub fn cuts(&mut self) {
        self.cuts = true;
    }

    /// A program of XDP.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn program(&self, name: &str) -> Result<&Xdp> {
        Ok(self.any_program(name)?.try_into()?)
    }

    /// Where the program under test finds the one for IPv6.
    ///
    /// # Errors
    /// When there is no such map.
    pub fn programs(&mut self) -> Result<ProgramArray<&mut MapData>> {
        self.programs_of(if is_tc() { maps::PROGRAMS_TC } else { maps::PROGRAMS })
    }

    fn programs_of(&mut self, name: &str) -> Result<ProgramArray<&mut MapData>> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
        Ok(ProgramArray::try_from(map)?)
    }

    /// An ARRAY of the object.
    ///
    /// # Errors
    /// When there is none of that name and type.
    pub fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
        Ok(Array::try_from(map)?)
    }

    /// A HASH (or LRU_HASH) of the object.
    ///
    /// # Errors
    /// When there is none of that name and type.
    pub fn hash<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &str,
    ) -> Result<HashMap<&mut MapData, K, V>> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
        Ok(HashMap::try_from(map)?)
    }

    /// Sets a lease slot.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lease(&mut self, slot: u16, until: u64) -> Result<()> {
        Ok(self.array::<u64>(maps::LEASE)?.set(slot.into(), until, 0)?)
    }

    /// jiffies64 and CLOCK_MONOTONIC in nanoseconds, as the object's clock program sees them.
    ///
    /// # Errors
    /// When the kernel cannot run it.
    pub fn clock(&self) -> Result<(u64, u64)> {
        let mut out = [0; 64];
        self.program(maps::CLOCK_PROGRAM)?.test_run(TestRunOptions {
            data_in: Some(&[0; 64]),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&out[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        Ok((word(0), word(8)))
    }

    /// Runs the program on one frame.
    ///
    /// # Errors
    /// When the kernel cannot run it, or not exactly one outcome was counted.
    pub fn run(&mut self, frame: &[u8]) -> Result<Ran> {
        let before = self.outcomes()?;
        let (action, frame) = self.test_run(frame)?;
        let after = self.outcomes()?;
        let changed: Vec<_> = Outcome::ALL
            .into_iter()
            .filter(|outcome| after.get(outcome) != before.get(outcome))
            .collect();
        let &[outcome] = changed.as_slice() else {
            return Err(anyhow!("one packet, but counted: {changed:?}"));
        };
        Ok(Ran { action, outcome, frame })
    }

    /// Runs the program on one frame without a look at the counters, which takes much longer: the
    /// frame as it left the program.
    ///
    /// # Errors
    /// When the kernel cannot run it.
    pub fn send(&self, frame: &[u8]) -> Result<Vec<u8>> {
        Ok(self.test_run(frame)?.1)
    }

    /// The program's verdict, and the frame as it left.
    fn test_run(&self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        // The kernel wants an Ethernet header at least; shorter frames cannot reach a program.
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let (action, len) = if is_tc() {
            let program: &SchedClassifier = self.any_program(maps::PROGRAM_TC)?.try_into()?;
            if !self.cuts || is_never_cut(frame) {
                match crate::sys::run_summed(program.fd()?, frame) {
                    Ok((action, frame)) => return Ok((as_of_xdp(action)?, frame)),
                    // A kernel that does not know the flag: without the sum.
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {}
                    Err(error) => return Err(error).context("run it, with the device's sum"),
                }
            }
            let result = program.test_run(options)?;
            (as_of_xdp(result.return_value)?, result.data_size_out)
        } else {
            let result = self.program(maps::PROGRAM)?.test_run(options)?;
            (result.return_value, result.data_size_out)
        };
        out.truncate(len as usize);
        Ok((action, out))
    }

    /// Packets by outcome, over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn outcomes(&self) -> Result<BTreeMap<Outcome, u64>> {
        let stats: PerCpuArray<_, u64> =
            self.ebpf.map(maps::STATS).context("no map stats")?.try_into()?;
        Outcome::ALL
            .into_iter()
            .map(|outcome| Ok((outcome, stats.get(&(outcome as u32), 0)?.iter().sum())))
            .collect()
    }

    /// Counters of a real server, over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn real_stats(&self, id: u16) -> Result<RealStats> {
        let stats: PerCpuArray<_, RealStats> =
            self.ebpf.map(maps::REAL_STATS).context("no map real_stats")?.try_into()?;
        let mut sum = RealStats::default();
        for cpu in stats.get(&u32::from(id), 0)?.iter() {
            sum.packets += cpu.packets;
            sum.bytes += cpu.bytes;
            sum.connections += cpu.connections;
            sum.reply_packets += cpu.reply_packets;
            sum.reply_bytes += cpu.reply_bytes;
        }
        Ok(sum)
    }

    /// Counters of a virtual server, over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn service_stats(&self, id: u16) -> Result<ServiceStats> {
        let stats: PerCpuArray<_, ServiceStats> =
            self.ebpf.map(maps::SERVICE_STATS).context("no map service_stats")?.try_into()?;
        let mut sum = ServiceStats::default();
        for cpu in stats.get(&u32::from(id), 0)?.iter() {
            sum.scheduled += cpu.scheduled;
            sum.unavailable += cpu.unavailable;
            sum.table_full += cpu.table_full;
            sum.resets += cpu.resets;
            sum.templates_full += cpu.templates_full;
        }
        Ok(sum)
    }

    /// A flow, by its tuple.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn flow(&mut self, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Result<Option<Flow>> {
        self.entry(flows_map(), src, dst)
    }

    /// A connection of which only SYNs were seen.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn embryo(&mut self, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Result<Option<Flow>> {
        self.entry(embryo_map(), src, dst)
    }

    fn entry(
        &mut self,
        map: &str,
        src: (Ipv4Addr, u16),
        dst: (Ipv4Addr, u16),
    ) -> Result<Option<Flow>> {
        let key = flow_key(src, dst);
        let found = match key.narrow() {
            Some(key) => self.hash::<FlowKey4, Flow>(map)?.get(&key, 0),
            None => self.hash::<FlowKey6, Flow>(map)?.get(&key, 0),
        };
        match found {
            Ok(flow) => Ok(Some(flow)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a flow out, which must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn forget(&mut self, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Result<()> {
        let key = flow_key(src, dst);
        match key.narrow() {
            Some(key) => self.hash::<FlowKey4, Flow>(maps::FLOWS4)?.remove(&key)?,
            None => self.hash::<FlowKey6, Flow>(maps::FLOWS6)?.remove(&key)?,
        }
        Ok(())
    }

    /// Replaces an embryo.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_embryo(
        &mut self,
        src: (Ipv4Addr, u16),
        dst: (Ipv4Addr, u16),
        embryo: Flow,
    ) -> Result<()> {
        let key = flow_key(src, dst);
        match key.narrow() {
            Some(key) => self.hash::<FlowKey4, Flow>(maps::EMBRYO4)?.insert(key, embryo, 0)?,
            None => self.hash::<FlowKey6, Flow>(maps::EMBRYO6)?.insert(key, embryo, 0)?,
        }
        Ok(())
    }

    /// Enters a connection, over what is there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_flow(
        &mut self,
        src: (Ipv4Addr, u16),
        dst: (Ipv4Addr, u16),
        flow: Flow,
    ) -> Result<()> {
        let key = flow_key(src, dst);
        match key.narrow() {
            Some(key) => self.hash::<FlowKey4, Flow>(maps::FLOWS4)?.insert(key, flow, 0)?,
            None => self.hash::<FlowKey6, Flow>(maps::FLOWS6)?.insert(key, flow, 0)?,
        }
        Ok(())
    }

    /// Enters an address: filter and `vips`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn vip(&mut self, addr: Ipv4Addr, gate: u16, flags: u16) -> Result<()> {
        self.vip_at(host(addr), gate, flags)
    }

    /// The same of an address as it is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn vip_at(&mut self, addr: IpAddr, gate: u16, flags: u16) -> Result<()> {
        let addr = Addr::from_ip(addr);
        self.hash::<Addr, Vip>(maps::VIPS)?.insert(addr, Vip { gate, flags }, 0)?;
        self.filter(addr, [abi::FILTER_VIP, abi::FILTER_VIP6])?;
        if addr.to_v4().is_none() {
            self.filter(addr.solicited_node(), [0, abi::FILTER_VIP6])?;
        }
        Ok(())
    }

    fn filter(&mut self, addr: Addr, bits: [u8; 2]) -> Result<()> {
        let mut array = self.array::<abi::Filter>(maps::FILTER)?;
        let mut filter = array.get(&0, 0)?;
        match addr.to_v4() {
            Some(addr) => filter.flags[hash::filter_fold(addr)] |= bits[0],
            None => filter.flags[hash::filter_fold6(&addr)] |= bits[1],
        }
        Ok(array.set(0, filter, 0)?)
    }

    /// Enters a real server; a NAT one with its source address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn real(&mut self, id: u16, real: Real) -> Result<()> {
        self.array::<Real>(maps::REALS_MAP)?.set(id.into(), real, 0)?;
        if real.method != abi::METHOD_NAT {
            return Ok(());
        }
        let key = ServiceKey::tcp(real.addr, real.port);
        let mut sources = self.hash::<ServiceKey, Source>(maps::SOURCES)?;
        let mut source = sources.get(&key, 0).unwrap_or_default();
        if !source.reals.contains(&id) {
            let free = source.reals.iter_mut().find(|slot| **slot == 0).context("source full")?;
            *free = id;
        }
        sources.insert(key, source, 0)?;
        self.filter(real.addr, [abi::FILTER_NAT_SOURCE, abi::FILTER_NAT_SOURCE6])
    }

    /// Enters or replaces a virtual server whose selectable real servers are `members` (id, weight).
    ///
    /// # Errors
    /// When the kernel refuses or the pool is too large.
    pub fn service(
        &mut self,
        vip: (Ipv4Addr, u16),
        service: Service,
        members: &[(u16, u32)],
    ) -> Result<()> {
        let mut identities = Vec::new();
        for &(real, weight) in members {
            let entry = self.array::<Real>(maps::REALS_MAP)?.get(&real.into(), 0)?;
            let identity = identity(entry.addr.ip(), u16::from_be(entry.port));
            identities.push(maglev::Member { identity, real, weight });
        }
        let mut ring = maglev::EMPTY;
        maglev::fill(&mut ring, &identities)?;
        let index = Service::table_index(service.id, service.half);
        self.array(maps::POOLS)?.set(index, pool::fill(members)?, 0)?;
        self.array(maps::RINGS)?.set(index, ring, 0)?;
        let key = ServiceKey::tcp(addr(vip.0), be16(vip.1));
        self.hash(maps::SERVICES_MAP)?.insert(key, service, 0)?;
        self.vip(vip.0, service.gate, abi::VIP_TCP_SERVICE)
    }

    /// Connections reported as changed since the last call, oldest first.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn changes(&mut self) -> Result<Vec<FlowKey6>> {
        let map = self.ebpf.map_mut(maps::CHANGES).context("no map changes")?;
        let mut ring = aya::maps::RingBuf::try_from(map)?;
        let mut changes = Vec::new();
        while let Some(item) = ring.next() {
            changes.push(syncing::read(&item).context("a short record")?);
        }
        Ok(changes)
    }

    /// Takes the reports of orphaned replies.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn orphans(&mut self) -> Result<Vec<abi::Orphan>> {
        let map = self.ebpf.map_mut(maps::ORPHANS).context("no map orphans")?;
        let mut ring = aya::maps::RingBuf::try_from(map)?;
        let mut reports = Vec::new();
        while let Some(item) = ring.next() {
            reports.push(orphans::read(&item).context("a short record")?);
        }
        Ok(reports)
    }

    /// Active connections of a real server.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn conns(&mut self, id: u16) -> Result<i64> {
        Ok(self.array::<i64>(maps::CONNS)?.get(&id.into(), 0)?)
    }
}

/// A host's address as maps hold it.
pub fn addr(name: Ipv4Addr) -> Addr {
    Addr::from_ip(host(name))
}

/// A mask of the last four bytes of an address, by which tests tell hosts apart.
pub fn mask(octets: [u8; 4]) -> Addr {
    Addr { words: [u32::MAX, u32::MAX, u32::MAX, abi::be32(octets)] }
}

/// Hash of a client as the program reckons it.
pub fn client_hash(name: Ipv4Addr, port: u16) -> u64 {
    let addr = addr(name);
    match addr.to_v4() {
        Some(addr) => hash::client(addr, be16(port)),
        None => hash::client6(&addr, be16(port)),
    }
}

/// Identity of a real server in a ring.
pub fn identity(addr: IpAddr, port: u16) -> u64 {
    match addr {
        IpAddr::V4(addr) => maglev::identity(&addr.octets(), port),
        IpAddr::V6(addr) => maglev::identity(&addr.octets(), port),
    }
}

/// Key of a flow.
pub fn flow_key(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> FlowKey6 {
    FlowKey6::tcp((addr(src.0), be16(src.1)), (addr(dst.0), be16(dst.1)))
}

/// Names of this family's maps of connections.
pub fn flows_map() -> &'static str {
    if is_six() { maps::FLOWS6 } else { maps::FLOWS4 }
}

/// Element of `pressure` of this family.
pub fn pressure_index() -> u32 {
    u32::from(is_six())
}

/// As [`flows_map`].
pub fn embryo_map() -> &'static str {
    if is_six() { maps::EMBRYO6 } else { maps::EMBRYO4 }
}
