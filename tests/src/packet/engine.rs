//! The shipped kernel object, loaded into the kernel but attached to nothing.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    abi::{
        self, Flow4, FlowKey4, Real, RealStats, Service, ServiceKey, ServiceStats, Source, Vip,
        be16, be32,
    },
    hash, maglev, maps, pool,
    verdict::Outcome,
};
use lb_userspace::dataplane::xdp::{object::OBJECT, orphans};

/// What the program did with one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// XDP action.
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

/// A loaded object and its maps.
pub struct Engine {
    ebpf: Ebpf,
}

impl Engine {
    /// Loads the object with flow tables of `flows` and `embryos` entries. Gate 0 is open.
    ///
    /// # Errors
    /// When the kernel refuses a map or, with the verifier's log, the program.
    pub fn load(flows: u32, embryos: u32) -> Result<Self> {
        Self::sized(&[(maps::FLOWS4, flows), (maps::EMBRYO4, embryos)])
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
        for name in [maps::PROGRAM, maps::CLOCK_PROGRAM] {
            let program: &mut Xdp =
                ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
            program.load().with_context(|| format!("verifier refuses {name}"))?;
        }
        let mut engine = Self { ebpf };
        engine.lease(0, abi::LEASE_ALWAYS)?;
        Ok(engine)
    }

    /// A program of the object.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn program(&self, name: &str) -> Result<&Xdp> {
        Ok(self.ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
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
        let result = self.program(maps::PROGRAM)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
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
    pub fn flow(&mut self, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Result<Option<Flow4>> {
        let key = flow_key(src, dst);
        match self.hash::<FlowKey4, Flow4>(maps::FLOWS4)?.get(&key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Enters an address: filter and `vips`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn vip(&mut self, addr: Ipv4Addr, gate: u16, flags: u16) -> Result<()> {
        self.hash::<u32, Vip>(maps::VIPS)?.insert(be32(addr.octets()), Vip { gate, flags }, 0)?;
        self.filter(addr, abi::FILTER_VIP)
    }

    /// Enters an IPv6 address: filter and `vips6`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn vip6(&mut self, addr: Ipv6Addr, gate: u16) -> Result<()> {
        let addr = abi::Addr6::new(addr.octets());
        self.hash::<abi::Addr6, Vip>(maps::VIPS6)?.insert(addr, Vip { gate, flags: 0 }, 0)?;
        let mut array = self.array::<abi::Filter>(maps::FILTER)?;
        let mut filter = array.get(&0, 0)?;
        for addr in [addr, addr.solicited_node()] {
            filter.flags[hash::filter_fold6(&addr)] |= abi::FILTER_VIP6;
        }
        Ok(array.set(0, filter, 0)?)
    }

    fn filter(&mut self, addr: Ipv4Addr, bit: u8) -> Result<()> {
        let mut array = self.array::<abi::Filter>(maps::FILTER)?;
        let mut filter = array.get(&0, 0)?;
        filter.flags[hash::filter_fold(be32(addr.octets()))] |= bit;
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
        let key = ServiceKey { addr: real.addr, port: real.port, proto: abi::PROTO_TCP, pad: 0 };
        let mut sources = self.hash::<ServiceKey, Source>(maps::SOURCES)?;
        let mut source = sources.get(&key, 0).unwrap_or_default();
        if !source.reals.contains(&id) {
            let free = source.reals.iter_mut().find(|slot| **slot == 0).context("source full")?;
            *free = id;
        }
        sources.insert(key, source, 0)?;
        self.filter(Ipv4Addr::from(abi::octets(real.addr)), abi::FILTER_NAT_SOURCE)
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
            let identity = maglev::identity(&abi::octets(entry.addr), u16::from_be(entry.port));
            identities.push(maglev::Member { identity, real, weight });
        }
        let mut ring = maglev::EMPTY;
        maglev::fill(&mut ring, &identities)?;
        let index = Service::table_index(service.id, service.half);
        self.array(maps::POOLS)?.set(index, pool::fill(members)?, 0)?;
        self.array(maps::RINGS)?.set(index, ring, 0)?;
        let key = ServiceKey {
            addr: be32(vip.0.octets()),
            port: be16(vip.1),
            proto: abi::PROTO_TCP,
            pad: 0,
        };
        self.hash(maps::SERVICES_MAP)?.insert(key, service, 0)?;
        self.vip(vip.0, service.gate, abi::VIP_TCP_SERVICE)
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

/// Key of a flow.
pub fn flow_key(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> FlowKey4 {
    FlowKey4 {
        src: be32(src.0.octets()),
        dst: be32(dst.0.octets()),
        sport: be16(src.1),
        dport: be16(dst.1),
        proto: abi::PROTO_TCP.into(),
        pad: 0,
    }
}
