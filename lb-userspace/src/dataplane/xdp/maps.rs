//! The pinned maps: reads and writes, one system call each (batched where there are many).

use std::{io, os::fd::OwnedFd, path::Path};

use anyhow::Context as _;
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray},
};
use lb_common::{
    abi::{
        Addr, Control, Filter, Flow, FlowKey4, FlowKey6, Pool, Real, RealStats, Ring, STATE_ABSENT,
        Service, ServiceKey, ServiceStats, Source, SourceKey, Template, TemplateKey, Vip,
    },
    maps,
};

use super::{
    image::{Image, Write},
    sys,
};

/// linux/bpf.h: of an update, that the entry must be there.
const BPF_EXIST: u64 = 2;

/// Handles of all maps that user space touches.
pub struct Maps {
    vips: HashMap<MapData, Addr, Vip>,
    services: HashMap<MapData, ServiceKey, Service>,
    sources: HashMap<MapData, SourceKey, Source>,
    locals: HashMap<MapData, Addr, u8>,
    pools: Array<MapData, Pool>,
    rings: Array<MapData, Ring>,
    reals: Array<MapData, Real>,
    filter: Array<MapData, Filter>,
    control: Array<MapData, Control>,
    pub(super) lease: Array<MapData, u64>,
    conns: Array<MapData, i64>,
    overloads: Array<MapData, u64>,
    cursors: Array<MapData, u64>,
    pressure: Array<MapData, u64>,
    stats: PerCpuArray<MapData, u64>,
    service_stats: PerCpuArray<MapData, ServiceStats>,
    real_stats: PerCpuArray<MapData, RealStats>,
    flows4: HashMap<MapData, FlowKey4, Flow>,
    flows6: HashMap<MapData, FlowKey6, Flow>,
    embryo4: HashMap<MapData, FlowKey4, Flow>,
    embryo6: HashMap<MapData, FlowKey6, Flow>,
    templates: HashMap<MapData, TemplateKey, Template>,
    // For batched look-ups.
    reals_fd: OwnedFd,
    conns_fd: OwnedFd,
    flows4_fd: OwnedFd,
    flows6_fd: OwnedFd,
    embryo4_fd: OwnedFd,
    embryo6_fd: OwnedFd,
    templates_fd: OwnedFd,
    flows_max: u64,
}

/// A way through both tables of connections, IPv4 first. Keys come with addresses of either family.
///
/// The kernel passes over empty buckets within one call, however many they are: a table of half a million without
/// an entry takes it a millisecond or two. So the table of IPv6 is left out where nobody can be in it.
#[derive(Debug)]
pub struct FlowWalk {
    four: sys::Walk<FlowKey4, Flow>,
    six: Option<sys::Walk<FlowKey6, Flow>>,
}

impl FlowWalk {
    /// From the beginning, at most so many entries at a step; of IPv6 too if `six` ([`Image::has_six`]).
    pub fn new(most: usize, six: bool) -> Self {
        Self { four: sys::Walk::new(most), six: six.then(|| sys::Walk::new(most)) }
    }

    /// Whether every entry of both has been read.
    pub fn has_ended(&self) -> bool {
        self.four.has_ended() && self.six.as_ref().is_none_or(sys::Walk::has_ended)
    }

    fn step(&mut self, four: &OwnedFd, six: &OwnedFd) -> io::Result<Vec<(FlowKey6, Flow)>> {
        match &mut self.six {
            Some(walk) if self.four.has_ended() => Ok(walk.step(six)?.collect()),
            _ => Ok(self.four.step(four)?.map(|(key, flow)| (key.widen(), flow)).collect()),
        }
    }
}

/// One pinned map, whatever its kind.
pub(super) fn pinned(dir: &Path, name: &str) -> anyhow::Result<Map> {
    let path = dir.join(name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .with_context(|| format!("open the pinned map {}", path.display()))
}

fn hash<K: Pod, V: Pod>(dir: &Path, name: &str) -> anyhow::Result<HashMap<MapData, K, V>> {
    HashMap::try_from(pinned(dir, name)?).with_context(|| format!("use the map {name}"))
}

pub(super) fn array<V: Pod>(dir: &Path, name: &str) -> anyhow::Result<Array<MapData, V>> {
    Array::try_from(pinned(dir, name)?).with_context(|| format!("use the map {name}"))
}

fn per_cpu<V: Pod>(dir: &Path, name: &str) -> anyhow::Result<PerCpuArray<MapData, V>> {
    PerCpuArray::try_from(pinned(dir, name)?).with_context(|| format!("use the map {name}"))
}

/// The descriptor of a pinned map.
pub(super) fn descriptor(dir: &Path, name: &str) -> anyhow::Result<OwnedFd> {
    let path = dir.join(name);
    sys::get(&path).with_context(|| format!("open the pinned map {}", path.display()))
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn some<V>(result: Result<V, MapError>) -> Result<Option<V>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Maps {
    /// Opens what the loader pinned.
    ///
    /// # Errors
    /// Names the map that is missing or has another shape.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            vips: hash(dir, maps::VIPS)?,
            services: hash(dir, maps::SERVICES_MAP)?,
            sources: hash(dir, maps::SOURCES)?,
            locals: hash(dir, maps::LOCALS)?,
            pools: array(dir, maps::POOLS)?,
            rings: array(dir, maps::RINGS)?,
            reals: array(dir, maps::REALS_MAP)?,
            filter: array(dir, maps::FILTER)?,
            control: array(dir, maps::CONTROL)?,
            lease: array(dir, maps::LEASE)?,
            conns: array(dir, maps::CONNS)?,
            overloads: array(dir, maps::OVERLOADS)?,
            cursors: array(dir, maps::CURSORS)?,
            pressure: array(dir, maps::PRESSURE)?,
            stats: per_cpu(dir, maps::STATS)?,
            service_stats: per_cpu(dir, maps::SERVICE_STATS)?,
            real_stats: per_cpu(dir, maps::REAL_STATS)?,
            flows4: hash(dir, maps::FLOWS4)?,
            flows6: hash(dir, maps::FLOWS6)?,
            embryo4: hash(dir, maps::EMBRYO4)?,
            embryo6: hash(dir, maps::EMBRYO6)?,
            templates: hash(dir, maps::TEMPLATES)?,
            reals_fd: descriptor(dir, maps::REALS_MAP)?,
            conns_fd: descriptor(dir, maps::CONNS)?,
            flows4_fd: descriptor(dir, maps::FLOWS4)?,
            flows6_fd: descriptor(dir, maps::FLOWS6)?,
            embryo4_fd: descriptor(dir, maps::EMBRYO4)?,
            embryo6_fd: descriptor(dir, maps::EMBRYO6)?,
            templates_fd: descriptor(dir, maps::TEMPLATES)?,
            flows_max: MapInfo::from_pin(dir.join(maps::FLOWS4))
                .map(|info| u64::from(info.max_entries()))
                .context("ask for the map flows4")?,
        })
    }

    /// Performs one update.
    ///
    /// # Errors
    /// That of bpf(2), with the map's name.
    pub fn write(&mut self, write: &Write) -> anyhow::Result<()> {
        let result = match write {
            Write::Vip(addr, vip) => self.vips.insert(addr, vip, 0),
            Write::NoVip(addr) => absent_is_fine(self.vips.remove(addr)),
            Write::Service(key, service) => self.services.insert(key, service, 0),
            Write::NoService(key) => absent_is_fine(self.services.remove(key)),
            Write::Table(index, pool, ring) => {
                self.rings.set(*index, **ring, 0).and_then(|()| self.pools.set(*index, **pool, 0))
            }
            Write::Real(id, real) => self.reals.set(u32::from(*id), real, 0),
            Write::Source(key, source) => self.sources.insert(key, source, 0),
            Write::NoSource(key) => absent_is_fine(self.sources.remove(key)),
            Write::Local(addr) => self.locals.insert(addr, 1, 0),
            Write::NoLocal(addr) => absent_is_fine(self.locals.remove(addr)),
            Write::Filter(filter) => self.filter.set(0, **filter, 0),
            Write::ClearReal(id) => self.clear_real(*id),
            Write::ClearService(id) => self.clear_service(*id),
        };
        result.with_context(|| format!("write to the map {}", write.map()))
    }

    fn clear_real(&mut self, id: u16) -> Result<(), MapError> {
        let id = u32::from(id);
        self.conns.set(id, 0, 0)?;
        self.overloads.set(id, 0, 0)?;
        clear(&mut self.real_stats, id)
    }

    fn clear_service(&mut self, id: u16) -> Result<(), MapError> {
        let id = u32::from(id);
        self.cursors.set(id, 0, 0)?;
        clear(&mut self.service_stats, id)
    }

    /// Reads everything back that [`Maps::write`] can write, counters aside; real servers with ids below `real_ids`,
    /// because all 16,384 take milliseconds.
    ///
    /// # Errors
    /// That of bpf(2), with the map's name.
    pub fn read(&self, real_ids: usize) -> anyhow::Result<Image> {
        let mut image = Image::default();
        for entry in self.vips.iter() {
            let (addr, vip) = entry.context("read the map vips")?;
            image.vips.insert(addr, vip);
        }
        for entry in self.services.iter() {
            let (key, service) = entry.context("read the map services")?;
            image.services.insert(key, service);
        }
        for entry in self.sources.iter() {
            let (key, source) = entry.context("read the map sources")?;
            image.sources.insert(key, source);
        }
        for entry in self.locals.iter() {
            image.locals.insert(entry.context("read the map locals")?.0);
        }
        for service in image.services.values() {
            let index = Service::table_index(service.id, service.half);
            let pool = self.pools.get(&index, 0).context("read the map pools")?;
            let ring = self.rings.get(&index, 0).context("read the map rings")?;
            image.tables.insert(index, (Box::new(pool), Box::new(ring)));
        }
        sys::entries(&self.reals_fd, real_ids, |id: u32, real: Real| {
            if real.generation != 0 || real.state != STATE_ABSENT {
                image.reals.insert(id as u16, real);
            }
        })
        .context("read the map reals")?;
        image.filter = Box::new(self.filter.get(&0, 0).context("read the map filter")?);
        Ok(image)
    }

    /// The next entries of the tables of established connections, NAT ones twice.
    pub fn flows(&self, walk: &mut FlowWalk) -> io::Result<Vec<(FlowKey6, Flow)>> {
        walk.step(&self.flows4_fd, &self.flows6_fd)
    }

    /// The next connections of which only SYNs were seen.
    pub fn embryos(&self, walk: &mut FlowWalk) -> io::Result<Vec<(FlowKey6, Flow)>> {
        walk.step(&self.embryo4_fd, &self.embryo6_fd)
    }

    /// The next templates of clients that had a connection.
    pub fn templates(
        &self,
        walk: &mut sys::Walk<TemplateKey, Template>,
    ) -> io::Result<impl Iterator<Item = (TemplateKey, Template)>> {
        walk.step(&self.templates_fd)
    }

    /// Replaces a template, or takes it out, unless it is another one than `was` by now. (Between the look and
    /// the deed a connection may use it: its client then has the real server that was read, or is given
    /// one anew.)
    pub fn set_template(
        &mut self,
        key: &TemplateKey,
        was: &Template,
        is: Option<Template>,
    ) -> Result<(), MapError> {
        match (some(self.templates.get(key, 0))?, is) {
            (Some(now), Some(is)) if now == *was => {
                absent_is_fine(self.templates.insert(key, is, BPF_EXIST))
            }
            (Some(now), None) if now == *was => absent_is_fine(self.templates.remove(key)),
            _ => Ok(()),
        }
    }

    /// One entry of the tables of established connections.
    pub fn flow(&self, key: &FlowKey6) -> Result<Option<Flow>, MapError> {
        some(match key.narrow() {
            Some(key) => self.flows4.get(&key, 0),
            None => self.flows6.get(key, 0),
        })
    }

    /// A connection of which only SYNs were seen.
    pub fn embryo(&self, key: &FlowKey6) -> Result<Option<Flow>, MapError> {
        some(match key.narrow() {
            Some(key) => self.embryo4.get(&key, 0),
            None => self.embryo6.get(key, 0),
        })
    }

    /// Enters a flow. `mode`: flags of the update.
    pub fn put_flow(&mut self, key: &FlowKey6, flow: &Flow, mode: u64) -> Result<(), MapError> {
        match key.narrow() {
            Some(key) => self.flows4.insert(key, flow, mode),
            None => self.flows6.insert(key, flow, mode),
        }
    }

    /// Takes a flow out.
    pub fn remove_flow(&mut self, key: &FlowKey6) -> Result<(), MapError> {
        absent_is_fine(match key.narrow() {
            Some(key) => self.flows4.remove(&key),
            None => self.flows6.remove(key),
        })
    }

    /// Room in each of the two tables of established connections, in entries.
    pub fn flows_max(&self) -> u64 {
        self.flows_max
    }

    /// Active connections of a real id as the program counts them.
    pub fn conn(&self, id: u16) -> Result<i64, MapError> {
        self.conns.get(&u32::from(id), 0)
    }

    /// Whether a real id was above its limit when the program last looked, and not below the other
    /// since.
    pub fn is_overloaded(&self, id: u16) -> Result<bool, MapError> {
        Ok(self.overloads.get(&u32::from(id), 0)? != 0)
    }

    /// Those of every real id below `real_ids` that has not 0.
    pub fn conns(&self, real_ids: usize, mut each: impl FnMut(u16, i64)) -> io::Result<()> {
        sys::entries(&self.conns_fd, real_ids, |id: u32, count: i64| {
            if count != 0 {
                each(id as u16, count);
            }
        })
    }

    /// Overwrites the count of active connections.
    pub fn set_conn(&mut self, id: u16, count: i64) -> Result<(), MapError> {
        self.conns.set(u32::from(id), count, 0)
    }

    /// Tells the program that the flow table has room again, that of IPv4 (0) or of IPv6 (1).
    pub fn relieve(&mut self, family: u32) -> Result<(), MapError> {
        if self.pressure.get(&family, 0)? != 0 {
            self.pressure.set(family, 0, 0)?;
        }
        Ok(())
    }

    /// Packets of one outcome, summed over CPUs.
    pub fn outcome(&self, index: u32) -> Result<u64, MapError> {
        Ok(self.stats.get(&index, 0)?.iter().sum())
    }

    /// Counters of a virtual server, summed over CPUs.
    pub fn service_stats(&self, id: u16) -> Result<ServiceStats, MapError> {
        let values = self.service_stats.get(&u32::from(id), 0)?;
        Ok(values.iter().fold(ServiceStats::default(), |mut sum, cpu| {
            sum.scheduled += cpu.scheduled;
            sum.unavailable += cpu.unavailable;
            sum.table_full += cpu.table_full;
            sum.resets += cpu.resets;
            sum.templates_full += cpu.templates_full;
            sum
        }))
    }

    /// Counters of a real server, summed over CPUs.
    pub fn real_stats(&self, id: u16) -> Result<RealStats, MapError> {
        let values = self.real_stats.get(&u32::from(id), 0)?;
        Ok(values.iter().fold(RealStats::default(), |mut sum, cpu| {
            sum.packets += cpu.packets;
            sum.bytes += cpu.bytes;
            sum.connections += cpu.connections;
            sum.reply_packets += cpu.reply_packets;
            sum.reply_bytes += cpu.reply_bytes;
            sum
        }))
    }

    /// What the loader left for its successor.
    pub fn control(&self) -> Result<Control, MapError> {
        self.control.get(&0, 0)
    }

    /// Leaves it.
    pub fn set_control(&mut self, control: Control) -> Result<(), MapError> {
        self.control.set(0, control, 0)
    }
}

fn clear<V: Pod + Default>(map: &mut PerCpuArray<MapData, V>, id: u32) -> Result<(), MapError> {
    let values = vec![V::default(); map.get(&id, 0)?.len()];
    let values = aya::maps::PerCpuValues::try_from(values).map_err(MapError::IoError)?;
    map.set(id, values, 0)
}
