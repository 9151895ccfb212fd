//! What the forwarder keeps in the kernel's maps, as plain data, and how to get from one such
//! state to another in an order that is safe for packets in between.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    abi::{
        Addr, FILTER_LEN, FILTER_NAT_SOURCE, FILTER_NAT_SOURCE6, FILTER_VIP, FILTER_VIP6,
        FLAG_RESOLVED, Filter, METHOD_LOCAL, METHOD_NAT, Pool, Real, Ring, STATE_ABSENT,
        STATE_DOWN, STATE_DRAIN, STATE_UP, Service, ServiceKey, Source, SourceKey,
    },
    hash::{filter_fold, filter_fold6},
};

pub use lb_common::abi::Vip;

/// Content of the maps that user space writes (`lease` and counters aside).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub vips: BTreeMap<Addr, Vip>,
    pub services: BTreeMap<ServiceKey, Service>,
    /// Pools and rings by table index; only those that a service names.
    pub tables: BTreeMap<u32, (Box<Pool>, Box<Ring>)>,
    /// By real id; absent ones too once they have been used, for their generation.
    pub reals: BTreeMap<u16, Real>,
    pub sources: BTreeMap<SourceKey, Source>,
    pub locals: BTreeSet<Addr>,
    pub filter: Box<Filter>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            vips: BTreeMap::new(),
            services: BTreeMap::new(),
            tables: BTreeMap::new(),
            reals: BTreeMap::new(),
            sources: BTreeMap::new(),
            locals: BTreeSet::new(),
            filter: Box::new(Filter { flags: [0; FILTER_LEN] }),
        }
    }
}

impl Image {
    /// Whether there may be connections of IPv6: a real server of it has ever been here, under an id that was not
    /// given to another since.
    pub fn has_six(&self) -> bool {
        let is_six = |addr: &Addr| addr.to_v4().is_none();
        self.services.keys().any(|key| is_six(&key.addr))
            || self.reals.values().any(|real| is_six(&real.vip))
    }

    /// How many elements of the maps by real id are in use: none beyond them has ever been.
    pub fn real_ids(&self) -> usize {
        self.reals.keys().next_back().map_or(0, |id| usize::from(*id) + 1)
    }
}

/// One map update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Vip(Addr, Vip),
    NoVip(Addr),
    Service(ServiceKey, Service),
    NoService(ServiceKey),
    Table(u32, Box<Pool>, Box<Ring>),
    Real(u16, Real),
    Source(SourceKey, Source),
    NoSource(SourceKey),
    Local(Addr),
    NoLocal(Addr),
    Filter(Box<Filter>),
    /// Counters of a real id that begins a new life.
    ClearReal(u16),
    /// Counters and cursor of a service id that begins a new life.
    ClearService(u16),
}

impl Write {
    /// Name of the map, for errors.
    pub fn map(&self) -> &'static str {
        use lb_common::maps;
        match self {
            Self::Vip(..) | Self::NoVip(_) => maps::VIPS,
            Self::Service(..) | Self::NoService(_) => maps::SERVICES_MAP,
            Self::Table(..) => maps::POOLS,
            Self::Real(..) => maps::REALS_MAP,
            Self::Source(..) | Self::NoSource(_) => maps::SOURCES,
            Self::Local(_) | Self::NoLocal(_) => maps::LOCALS,
            Self::Filter(_) => maps::FILTER,
            Self::ClearReal(_) => maps::REAL_STATS,
            Self::ClearService(_) => maps::SERVICE_STATS,
        }
    }
}

/// Updates that turn `from` into `to`, in the order that `lb_common::abi` prescribes: what goes is
/// first unreachable, what comes is reachable last.
pub fn writes(from: &Image, to: &Image) -> Vec<Write> {
    let mut out = Vec::new();
    for key in from.services.keys().filter(|key| !to.services.contains_key(key)) {
        out.push(Write::NoService(*key));
    }
    for addr in &to.locals - &from.locals {
        out.push(Write::Local(addr));
    }
    let (falls, rises): (Vec<_>, Vec<_>) = to
        .reals
        .iter()
        .filter(|(id, real)| from.reals.get(id) != Some(real))
        .partition(|(id, real)| falls(from.reals.get(id), real));
    for (id, real) in rises {
        if from.reals.get(id).is_none_or(|old| old.state == STATE_ABSENT) {
            out.push(Write::ClearReal(*id));
        }
        out.push(Write::Real(*id, *real));
    }
    for (key, source) in &to.sources {
        if from.sources.get(key) != Some(source) {
            out.push(Write::Source(*key, *source));
        }
    }
    // Replies of new NAT real servers are looked at before the first packet can reach them, packets
    // to new VIPs only when everything behind is in place.
    let mut filter = from.filter.clone();
    let mut publish = |out: &mut Vec<Write>, with: &dyn Fn(u8, u8) -> u8| {
        let mut next = filter.clone();
        for (have, want) in next.flags.iter_mut().zip(&to.filter.flags) {
            *have = with(*have, *want);
        }
        if next != filter {
            filter = next.clone();
            out.push(Write::Filter(next));
        }
    };
    publish(&mut out, &|have, want| have | (want & (FILTER_NAT_SOURCE | FILTER_NAT_SOURCE6)));
    for (index, table) in &to.tables {
        if from.tables.get(index) != Some(table) {
            out.push(Write::Table(*index, table.0.clone(), table.1.clone()));
        }
    }
    for (key, service) in &to.services {
        let old = from.services.get(key);
        if old != Some(service) {
            if old.is_none_or(|old| old.id != service.id) {
                out.push(Write::ClearService(service.id));
            }
            out.push(Write::Service(*key, *service));
        }
    }
    for (addr, vip) in &to.vips {
        if from.vips.get(addr) != Some(vip) {
            out.push(Write::Vip(*addr, *vip));
        }
    }
    publish(&mut out, &|have, want| have | want);
    publish(&mut out, &|_, want| want);
    for addr in from.vips.keys().filter(|addr| !to.vips.contains_key(addr)) {
        out.push(Write::NoVip(*addr));
    }
    for key in from.sources.keys().filter(|key| !to.sources.contains_key(key)) {
        out.push(Write::NoSource(*key));
    }
    for (id, real) in falls {
        out.push(Write::Real(*id, *real));
    }
    for addr in &from.locals - &to.locals {
        out.push(Write::NoLocal(addr));
    }
    out
}

/// Whether the change takes something away from a real server, so that pools must be without it
/// first.
fn falls(from: Option<&Real>, to: &Real) -> bool {
    let rank = |state| match state {
        STATE_UP => 3,
        STATE_DRAIN => 2,
        STATE_DOWN => 1,
        _ => 0,
    };
    let unreachable = |real: &Real| real.flags & FLAG_RESOLVED == 0 && real.method != METHOD_LOCAL;
    from.is_some_and(|from| {
        rank(to.state) < rank(from.state) || (unreachable(to) && !unreachable(from))
    })
}

/// The filter and the sources that vips and reals call for.
pub fn derived(
    vips: &BTreeMap<Addr, Vip>,
    reals: &BTreeMap<u16, Real>,
) -> (Box<Filter>, BTreeMap<SourceKey, Vec<u16>>) {
    let mut filter = Box::new(Filter { flags: [0; FILTER_LEN] });
    for addr in vips.keys() {
        match addr.to_v4() {
            Some(addr) => filter.flags[filter_fold(addr)] |= FILTER_VIP,
            None => {
                for addr in [*addr, addr.solicited_node()] {
                    filter.flags[filter_fold6(&addr)] |= FILTER_VIP6;
                }
            }
        }
    }
    let mut sources: BTreeMap<SourceKey, Vec<u16>> = BTreeMap::new();
    for (id, real) in reals {
        if real.state == STATE_ABSENT || real.method != METHOD_NAT {
            continue;
        }
        match real.addr.to_v4() {
            Some(addr) => filter.flags[filter_fold(addr)] |= FILTER_NAT_SOURCE,
            None => filter.flags[filter_fold6(&real.addr)] |= FILTER_NAT_SOURCE6,
        }
        sources.entry(SourceKey::tcp(real.addr, real.port)).or_default().push(*id);
    }
    (filter, sources)
}
