//! The maps, behind safe functions.
//!
//! Values are shared with other CPUs and user space without locks, as everywhere in BPF. That is
//! sound here because every field is an integer for which each bit pattern is valid, elements
//! are never unmapped while the program runs, and nothing depends on two fields being in step
//! but what `lb_common::abi` orders.

use core::intrinsics::{AtomicOrdering::Relaxed, atomic_xadd};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use lb_common::{
    abi::{
        Addr6, Be32, Control, Filter, Flow4, FlowKey4, Orphan, Pool, Real, RealStats, Ring,
        Service, ServiceKey, ServiceStats, Source, SourceKey, Template, TemplateKey4, Vip,
    },
    maps as size,
    verdict::Outcome,
};

#[map(name = "control")]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);
#[map(name = "filter")]
static FILTER: Array<Filter> = Array::with_max_entries(1, 0);
#[map(name = "vips")]
static VIPS: HashMap<Be32, Vip> = HashMap::with_max_entries(size::VIP_LIMIT, BPF_F_NO_PREALLOC);
#[map(name = "vips6")]
static VIPS6: HashMap<Addr6, Vip> = HashMap::with_max_entries(size::VIP_LIMIT, BPF_F_NO_PREALLOC);
#[map(name = "lease")]
static LEASE: Array<u64> = Array::with_max_entries(size::LEASES * 2, 0);
#[map(name = "services")]
static SERVICES: HashMap<ServiceKey, Service> =
    HashMap::with_max_entries(size::SERVICES, BPF_F_NO_PREALLOC);
#[map(name = "pools")]
static POOLS: Array<Pool> = Array::with_max_entries(size::TABLES, 0);
#[map(name = "rings")]
static RINGS: Array<Ring> = Array::with_max_entries(size::TABLES, 0);
#[map(name = "cursors")]
static CURSORS: Array<u64> = Array::with_max_entries(size::SERVICES, 0);
#[map(name = "reals")]
static REALS: Array<Real> = Array::with_max_entries(size::REALS, 0);
#[map(name = "conns")]
static CONNS: Array<i64> = Array::with_max_entries(size::REALS, 0);
#[map(name = "overloads")]
static OVERLOADS: Array<u64> = Array::with_max_entries(size::REALS, 0);
#[map(name = "scratch")]
static SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "sources")]
static SOURCES: HashMap<SourceKey, Source> =
    HashMap::with_max_entries(size::REALS, BPF_F_NO_PREALLOC);
#[map(name = "locals")]
static LOCALS: HashMap<Be32, u8> = HashMap::with_max_entries(size::LOCAL_LIMIT, BPF_F_NO_PREALLOC);
#[map(name = "flows4")]
static FLOWS4: HashMap<FlowKey4, Flow4> = HashMap::with_max_entries(size::FLOWS4_DEFAULT, 0);
#[map(name = "embryo4")]
static EMBRYO4: LruHashMap<FlowKey4, Flow4> =
    LruHashMap::with_max_entries(size::EMBRYO4_DEFAULT, BPF_F_NO_COMMON_LRU);
#[map(name = "templates4")]
static TEMPLATES4: HashMap<TemplateKey4, Template> =
    HashMap::with_max_entries(size::TEMPLATES4_LIMIT, 0);
#[map(name = "tentative4")]
static TENTATIVE4: LruHashMap<TemplateKey4, Template> =
    LruHashMap::with_max_entries(size::TENTATIVE4_DEFAULT, BPF_F_NO_COMMON_LRU);
#[map(name = "pressure")]
static PRESSURE: Array<u64> = Array::with_max_entries(1, 0);
#[map(name = "stats")]
static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Outcome::COUNT, 0);
#[map(name = "service_stats")]
static SERVICE_STATS: PerCpuArray<ServiceStats> = PerCpuArray::with_max_entries(size::SERVICES, 0);
#[map(name = "real_stats")]
static REAL_STATS: PerCpuArray<RealStats> = PerCpuArray::with_max_entries(size::REALS, 0);
#[map(name = "orphans")]
static ORPHANS: RingBuf = RingBuf::with_byte_size(size::ORPHANS_BYTES, 0);

/// Tells the forwarder of an orphan; false when too many wait already.
#[inline(always)]
pub fn report(orphan: &Orphan) -> bool {
    ORPHANS.output::<Orphan>(orphan, 0).is_ok()
}

/// Flags of an address in the filter.
#[inline(always)]
pub fn filter(addr: Be32) -> u8 {
    let index = lb_common::hash::filter_fold(addr);
    FILTER.get(0).and_then(|filter| filter.flags.get(index)).copied().unwrap_or(0)
}

/// Flags of an IPv6 address in the filter.
#[inline(always)]
pub fn filter6(addr: &Addr6) -> u8 {
    let index = lb_common::hash::filter_fold6(addr);
    FILTER.get(0).and_then(|filter| filter.flags.get(index)).copied().unwrap_or(0)
}

#[inline(always)]
pub fn vip6(addr: &Addr6) -> Option<Vip> {
    // SAFETY: as in `vip`.
    unsafe { VIPS6.get(addr) }.copied()
}

#[inline(always)]
pub fn vip(addr: Be32) -> Option<Vip> {
    // SAFETY: see the module; copied at once, and freed elements live for the RCU grace period.
    unsafe { VIPS.get(&addr) }.copied()
}

#[inline(always)]
pub fn lease(slot: u16) -> u64 {
    LEASE.get(u32::from(slot)).copied().unwrap_or(0)
}

/// jiffies64 when this host last became master by a slot.
#[inline(always)]
pub fn tenure(slot: u16) -> u64 {
    LEASE.get(size::tenure(slot)).copied().unwrap_or(0)
}

/// Limits that user space knows in jiffies.
#[inline(always)]
pub fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

#[inline(always)]
pub fn service(key: &ServiceKey) -> Option<Service> {
    // SAFETY: see the module; as in `vip`.
    unsafe { SERVICES.get(key) }.copied()
}

#[inline(always)]
pub fn pool(service: &Service) -> Option<&'static Pool> {
    POOLS.get(Service::table_index(service.id, service.half))
}

#[inline(always)]
pub fn ring(service: &Service) -> Option<&'static Ring> {
    RINGS.get(Service::table_index(service.id, service.half))
}

/// Takes the next step of a service's cursor. Two CPUs at the same instant may get the same step
/// (the object is built for BPF v1 CPUs, whose atomic add does not return the old value): one
/// turn of a round robin is then given twice and the next one skipped.
#[inline(always)]
pub fn step(service: u16) -> u64 {
    let Some(cursor) = CURSORS.get_ptr_mut(u32::from(service)) else { return 0 };
    // SAFETY: map values are aligned to eight bytes and outlive the program's run.
    unsafe {
        let step = cursor.read_volatile();
        atomic_xadd::<u64, u64, { Relaxed }>(cursor, 1);
        step
    }
}

#[inline(always)]
pub fn real(id: u16) -> Option<&'static Real> {
    REALS.get(u32::from(id))
}

#[inline(always)]
pub fn conns(id: u16) -> i64 {
    CONNS.get(u32::from(id)).copied().unwrap_or(0)
}

#[inline(always)]
pub fn add_conn(id: u16, change: i64) {
    if let Some(conns) = CONNS.get_ptr_mut(u32::from(id)) {
        // SAFETY: as in `step`.
        unsafe { atomic_xadd::<i64, i64, { Relaxed }>(conns, change) };
    }
}

/// A word for one run of the program.
#[inline(always)]
pub fn scratch() -> Option<&'static mut u64> {
    // SAFETY: as in `count`.
    SCRATCH.get_ptr_mut(0).map(|word| unsafe { &mut *word })
}

/// What is in it, whatever was put there.
#[inline(always)]
pub fn scratched(word: &u64) -> u64 {
    // SAFETY: a reference is valid and aligned. Volatile, so that the compiler keeps no copy.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

/// Puts something there, likewise.
#[inline(always)]
pub fn scratch_set(word: &mut u64, value: u64) {
    // SAFETY: as in `scratched`.
    unsafe { core::ptr::from_mut(word).write_volatile(value) };
}

/// Whether a real server is at its limit. What is known of that follows its connections only when this is
/// called: before it gets a connection, and around each that is entered, so that no turn is missed.
#[inline(always)]
pub fn is_overloaded(id: u16, real: &Real) -> bool {
    if real.upper == 0 {
        return false;
    }
    let Some(state) = OVERLOADS.get_ptr_mut(u32::from(id)) else { return false };
    // SAFETY: see the module.
    unsafe {
        let before = *state != 0;
        let now = real.is_overloaded(conns(id).max(0) as u64, before);
        if now != before {
            *state = u64::from(now);
        }
        now
    }
}

#[inline(always)]
pub fn source(key: &SourceKey) -> Option<Source> {
    // SAFETY: see the module; as in `vip`.
    unsafe { SOURCES.get(key) }.copied()
}

#[inline(always)]
pub fn is_local(addr: Be32) -> bool {
    LOCALS.get_ptr(&addr).is_some()
}

/// An established flow. Two CPUs may hold the same one: counters may lose a count, nothing else
/// depends on exclusive access.
#[inline(always)]
pub fn flow(key: &FlowKey4) -> Option<&'static mut Flow4> {
    // SAFETY: see the module.
    FLOWS4.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Result of adding a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Yes,
    Exists,
    Full,
}

#[inline(always)]
pub fn add_flow(key: &FlowKey4, flow: &Flow4) -> Added {
    const EEXIST: i32 = -17;
    match FLOWS4.insert(key, flow, u64::from(BPF_NOEXIST)) {
        Ok(()) => Added::Yes,
        Err(EEXIST) => Added::Exists,
        Err(_) => {
            if let Some(pressure) = PRESSURE.get_ptr_mut(0) {
                // SAFETY: see the module.
                unsafe { *pressure = crate::access::jiffies() };
            }
            Added::Full
        }
    }
}

#[inline(always)]
pub fn replace_flow(key: &FlowKey4, flow: &Flow4) -> bool {
    FLOWS4.insert(key, flow, u64::from(BPF_ANY)).is_ok()
}

#[inline(always)]
pub fn forget_flow(key: &FlowKey4) {
    // Gone already is as good.
    let _ = FLOWS4.remove(key);
}

/// An embryo, as [`flow`].
#[inline(always)]
pub fn embryo(key: &FlowKey4) -> Option<&'static mut Flow4> {
    // SAFETY: see the module.
    EMBRYO4.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Puts an embryo, over an old one if need be. An LRU always finds room; in the rare case that
/// this CPU cannot get a free element the SYN goes on without, and its sender repeats it.
#[inline(always)]
pub fn put_embryo(key: &FlowKey4, flow: &Flow4) {
    let _ = EMBRYO4.insert(key, flow, u64::from(BPF_ANY));
}

#[inline(always)]
pub fn forget_embryo(key: &FlowKey4) {
    let _ = EMBRYO4.remove(key);
}

/// The template of a client that had a connection, as [`flow`].
#[inline(always)]
pub fn template(key: &TemplateKey4) -> Option<&'static mut Template> {
    // SAFETY: see the module.
    TEMPLATES4.get_ptr_mut(key).map(|template| unsafe { &mut *template })
}

/// Puts it, over an old one if need be; false when there is no room.
#[inline(always)]
pub fn put_template(key: &TemplateKey4, template: &Template) -> bool {
    TEMPLATES4.insert(key, template, u64::from(BPF_ANY)).is_ok()
}

/// The template of another client, as [`flow`].
#[inline(always)]
pub fn tentative(key: &TemplateKey4) -> Option<&'static mut Template> {
    // SAFETY: see the module.
    TENTATIVE4.get_ptr_mut(key).map(|template| unsafe { &mut *template })
}

/// Puts it, as [`put_embryo`]; without it the client's next connection is chosen anew.
#[inline(always)]
pub fn put_tentative(key: &TemplateKey4, template: &Template) {
    let _ = TENTATIVE4.insert(key, template, u64::from(BPF_ANY));
}

#[inline(always)]
pub fn forget_tentative(key: &TemplateKey4) {
    let _ = TENTATIVE4.remove(key);
}

/// jiffies64 of the last time a flow found no room; 0 = never.
#[inline(always)]
pub fn pressure() -> u64 {
    PRESSURE.get(0).copied().unwrap_or(0)
}

#[inline(always)]
pub fn count(outcome: Outcome) {
    if let Some(counter) = STATS.get_ptr_mut(outcome as u32) {
        // SAFETY: per CPU, and XDP does not interrupt itself.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub fn service_stats(id: u16) -> Option<&'static mut ServiceStats> {
    // SAFETY: as in `count`.
    SERVICE_STATS.get_ptr_mut(u32::from(id)).map(|stats| unsafe { &mut *stats })
}

#[inline(always)]
pub fn real_stats(id: u16) -> Option<&'static mut RealStats> {
    // SAFETY: as in `count`.
    REAL_STATS.get_ptr_mut(u32::from(id)).map(|stats| unsafe { &mut *stats })
}
