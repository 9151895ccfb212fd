//! The maps, behind safe functions.
//!
//! Values are shared with other CPUs and user space without locks, as everywhere in BPF. That is
//! sound here because every field is an integer for which each bit pattern is valid, elements
//! are never unmapped while the program runs, and nothing depends on two fields being in step
//! but what `lb_common::abi` orders.

use core::{
    intrinsics::{AtomicOrdering::Relaxed, atomic_xadd},
    ops::Deref,
};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    abi::{
        Addr, Be32, Change, Control, Filter, Flow, FlowKey, FlowKey4, FlowKey6, Orphan, Pool, Real,
        RealStats, Ring, Service, ServiceKey, ServiceStats, Source, SourceKey, Template,
        TemplateKey, Vip,
    },
    maps as size,
    verdict::Outcome,
};

use crate::access::RouteQuery;

#[map(name = "control")]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);
#[map(name = "filter")]
static FILTER: Array<Filter> = Array::with_max_entries(1, 0);
#[map(name = "vips")]
static VIPS: HashMap<Addr, Vip> = HashMap::with_max_entries(size::VIP_LIMIT, BPF_F_NO_PREALLOC);
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
#[map(name = "desk")]
static DESK: PerCpuArray<Desk> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "programs")]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map(name = "programs_tc")]
static PROGRAMS_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map(name = "sources")]
static SOURCES: HashMap<SourceKey, Source> =
    HashMap::with_max_entries(size::REALS, BPF_F_NO_PREALLOC);
#[map(name = "locals")]
static LOCALS: HashMap<Addr, u8> = HashMap::with_max_entries(size::LOCAL_LIMIT, BPF_F_NO_PREALLOC);
#[map(name = "flows4")]
static FLOWS4: HashMap<FlowKey4, Flow> = HashMap::with_max_entries(size::FLOWS_DEFAULT, 0);
#[map(name = "flows6")]
static FLOWS6: HashMap<FlowKey6, Flow> = HashMap::with_max_entries(size::FLOWS_DEFAULT, 0);
#[map(name = "embryo4")]
static EMBRYO4: LruHashMap<FlowKey4, Flow> =
    LruHashMap::with_max_entries(size::EMBRYO_DEFAULT, BPF_F_NO_COMMON_LRU);
#[map(name = "embryo6")]
static EMBRYO6: LruHashMap<FlowKey6, Flow> =
    LruHashMap::with_max_entries(size::EMBRYO_DEFAULT, BPF_F_NO_COMMON_LRU);
#[map(name = "templates")]
static TEMPLATES: HashMap<TemplateKey, Template> =
    HashMap::with_max_entries(size::TEMPLATES_LIMIT, 0);
#[map(name = "tentative")]
static TENTATIVE: LruHashMap<TemplateKey, Template> =
    LruHashMap::with_max_entries(size::TENTATIVE_DEFAULT, BPF_F_NO_COMMON_LRU);
#[map(name = "pressure")]
static PRESSURE: Array<u64> = Array::with_max_entries(2, 0);
#[map(name = "stats")]
static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Outcome::COUNT, 0);
#[map(name = "service_stats")]
static SERVICE_STATS: PerCpuArray<ServiceStats> = PerCpuArray::with_max_entries(size::SERVICES, 0);
#[map(name = "real_stats")]
static REAL_STATS: PerCpuArray<RealStats> = PerCpuArray::with_max_entries(size::REALS, 0);
#[map(name = "orphans")]
static ORPHANS: RingBuf = RingBuf::with_byte_size(size::ORPHANS_BYTES, 0);

#[map(name = "changes")]
static CHANGES: RingBuf = RingBuf::with_byte_size(size::CHANGES_BYTES, 0);
#[map(name = "changes_lost")]
static CHANGES_LOST: Array<u64> = Array::with_max_entries(1, 0);

/// Whether anybody wants to hear of changes.
#[inline(always)]
fn reports_changes() -> bool {
    control().is_some_and(|control| control.report_changes != 0)
}

#[inline(always)]
fn report_change(key: &Change) {
    if CHANGES.output::<Change>(key, u64::from(BPF_RB_NO_WAKEUP)).is_ok() {
        return;
    }
    if let Some(lost) = CHANGES_LOST.get_ptr_mut(0) {
        // SAFETY: as in `step`.
        unsafe { atomic_xadd::<u64, u64, { Relaxed }>(lost, 1) };
    }
}

/// What each address family has of its own.
pub trait Tables: Copy + 'static {
    /// Index into `pressure`.
    const PRESSURE: u32;
    /// Something that one run of the program holds.
    type Held<T: 'static>: Deref<Target = T>;

    fn flows() -> &'static HashMap<FlowKey<Self>, Flow>;
    fn embryos() -> &'static LruHashMap<FlowKey<Self>, Flow>;
    /// Holds a tuple, one of each kind at a time.
    fn hold_key(which: Key, key: FlowKey<Self>) -> Option<Self::Held<FlowKey<Self>>>;
    /// Holds an entry that is yet to be made, likewise.
    fn hold_flow(which: Entry, flow: Flow) -> Option<Self::Held<Flow>>;
    /// Tells the forwarder, and through it the peers, that a connection has begun or ended.
    fn changed(key: &FlowKey<Self>);
}

/// Which tuple.
#[derive(Clone, Copy)]
pub enum Key {
    /// The segment's.
    Segment,
    /// That of the client's direction.
    Client,
    /// That of the server's.
    Reply,
}

/// Which entry.
#[derive(Clone, Copy)]
pub enum Entry {
    /// Of the client's direction.
    Client,
    /// Of the server's.
    Reply,
}

/// Held on the stack.
pub struct Own<T>(T);

impl<T> Deref for Own<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl Tables for Be32 {
    const PRESSURE: u32 = 0;
    type Held<T: 'static> = Own<T>;

    #[inline(always)]
    fn flows() -> &'static HashMap<FlowKey4, Flow> {
        &FLOWS4
    }

    #[inline(always)]
    fn embryos() -> &'static LruHashMap<FlowKey4, Flow> {
        &EMBRYO4
    }

    #[inline(always)]
    fn hold_key(_: Key, key: FlowKey4) -> Option<Own<FlowKey4>> {
        Some(Own(key))
    }

    #[inline(always)]
    fn hold_flow(_: Entry, flow: Flow) -> Option<Own<Flow>> {
        Some(Own(flow))
    }

    #[inline(always)]
    fn changed(key: &FlowKey4) {
        if reports_changes() {
            report_change(&key.widen());
        }
    }
}

/// Held in a per-CPU map: IPv6's tuples would not fit on the stack of 512 bytes.
pub struct Lent<T>(*const T);

impl<T> Deref for Lent<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: points into `desk`, whose slot one run of the program writes before it lends it.
        unsafe { &*self.0 }
    }
}

/// What [`Lent`] lends, room for a question to the kernel's routing, and how many senders were told something
/// since when.
#[repr(C)]
pub struct Desk {
    keys: [FlowKey6; 3],
    flows: [Flow; 2],
    route: RouteQuery,
    told: u64,
    told_since: u64,
}

impl Tables for Addr {
    const PRESSURE: u32 = 1;
    type Held<T: 'static> = Lent<T>;

    #[inline(always)]
    fn flows() -> &'static HashMap<FlowKey6, Flow> {
        &FLOWS6
    }

    #[inline(always)]
    fn embryos() -> &'static LruHashMap<FlowKey6, Flow> {
        &EMBRYO6
    }

    #[inline(always)]
    fn hold_key(which: Key, key: FlowKey6) -> Option<Lent<FlowKey6>> {
        let desk = DESK.get_ptr_mut(0)?;
        // SAFETY: per CPU, and no packet's program interrupts another's: all run in softirqs.
        unsafe {
            let slot = &raw mut (*desk).keys[which as usize];
            slot.write(key);
            Some(Lent(slot))
        }
    }

    #[inline(always)]
    fn hold_flow(which: Entry, flow: Flow) -> Option<Lent<Flow>> {
        let desk = DESK.get_ptr_mut(0)?;
        // SAFETY: as above.
        unsafe {
            let slot = &raw mut (*desk).flows[which as usize];
            slot.write(flow);
            Some(Lent(slot))
        }
    }

    #[inline(always)]
    fn changed(key: &FlowKey6) {
        if reports_changes() {
            report_change(key);
        }
    }
}

/// Goes on with the program for IPv6; comes back if there is none.
#[inline(always)]
pub fn go_on_with_ipv6(ctx: &XdpContext) {
    // SAFETY: a valid context. What is in the map is a program of XDP: the kernel takes no other.
    let _ = unsafe { PROGRAMS.tail_call(ctx, size::PROGRAM6_INDEX) };
}

/// The same of tc: an array holds programs of one type.
#[inline(always)]
pub fn go_on_with_ipv6_of_tc(ctx: &TcContext) {
    // SAFETY: as above.
    let _ = unsafe { PROGRAMS_TC.tail_call(ctx, size::PROGRAM6_INDEX) };
}

/// Tells the forwarder of an orphan; false when too many wait already.
#[inline(always)]
pub fn report(orphan: Orphan) -> bool {
    let Some(mut record) = ORPHANS.reserve::<Orphan>(0) else { return false };
    record.write(orphan);
    record.submit(0);
    true
}

/// Room for a question to the kernel's routing.
#[inline(always)]
pub fn route_query() -> Option<&'static mut RouteQuery> {
    // SAFETY: per CPU, and no packet's program interrupts another's: all run in softirqs.
    DESK.get_ptr_mut(0).map(|desk| unsafe { &mut (*desk).route })
}

/// Takes one of the errors that this CPU may tell senders in a second; false when there is none left.
#[inline(always)]
pub fn may_tell(now: u64) -> bool {
    let second = control().map_or(0, |control| control.second);
    let Some(desk) = DESK.get_ptr_mut(0) else { return false };
    // SAFETY: as above.
    unsafe {
        if now.wrapping_sub((*desk).told_since) >= u64::from(second) {
            (*desk).told_since = now;
            (*desk).told = 0;
        }
        (*desk).told += 1;
        (*desk).told <= size::TOO_BIG_LIMIT
    }
}

/// Flags of an address in the filter.
#[inline(always)]
pub fn filter(addr: Be32) -> u8 {
    let index = lb_common::hash::filter_fold(addr);
    FILTER.get(0).and_then(|filter| filter.flags.get(index)).copied().unwrap_or(0)
}

/// Flags of an IPv6 address in the filter.
#[inline(always)]
pub fn filter6(addr: &Addr) -> u8 {
    let index = lb_common::hash::filter_fold6(addr);
    FILTER.get(0).and_then(|filter| filter.flags.get(index)).copied().unwrap_or(0)
}

#[inline(always)]
pub fn vip(addr: &Addr) -> Option<Vip> {
    // SAFETY: see the module; copied at once, and freed elements live for the RCU grace period.
    unsafe { VIPS.get(addr) }.copied()
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
pub fn service(key: &ServiceKey) -> Option<&'static Service> {
    // SAFETY: see the module; an element that is replaced or freed lives on for the RCU grace period, which is
    // longer than a run of the program.
    unsafe { SERVICES.get(key) }
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
pub fn source(key: &SourceKey) -> Option<&'static Source> {
    // SAFETY: as in `service`.
    unsafe { SOURCES.get(key) }
}

#[inline(always)]
pub fn is_local(addr: &Addr) -> bool {
    LOCALS.get_ptr(addr).is_some()
}

/// An established flow. Two CPUs may hold the same one: counters may lose a count, nothing else
/// depends on exclusive access.
#[inline(always)]
pub fn flow<A: Tables>(key: &FlowKey<A>) -> Option<&'static mut Flow> {
    // SAFETY: see the module.
    A::flows().get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Result of adding a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Yes,
    Exists,
    Full,
}

#[inline(always)]
pub fn add_flow<A: Tables>(key: &FlowKey<A>, flow: &Flow) -> Added {
    const EEXIST: i32 = -17;
    match A::flows().insert(key, flow, u64::from(BPF_NOEXIST)) {
        Ok(()) => Added::Yes,
        Err(EEXIST) => Added::Exists,
        Err(_) => {
            if let Some(pressure) = PRESSURE.get_ptr_mut(A::PRESSURE) {
                // SAFETY: see the module.
                unsafe { *pressure = crate::access::jiffies() };
            }
            Added::Full
        }
    }
}

#[inline(always)]
pub fn replace_flow<A: Tables>(key: &FlowKey<A>, flow: &Flow) -> bool {
    A::flows().insert(key, flow, u64::from(BPF_ANY)).is_ok()
}

#[inline(always)]
pub fn forget_flow<A: Tables>(key: &FlowKey<A>) {
    // Gone already is as good.
    let _ = A::flows().remove(key);
}

/// An embryo, as [`flow`].
#[inline(always)]
pub fn embryo<A: Tables>(key: &FlowKey<A>) -> Option<&'static mut Flow> {
    // SAFETY: see the module.
    A::embryos().get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Puts an embryo, over an old one if need be. An LRU always finds room; in the rare case that
/// this CPU cannot get a free element the SYN goes on without, and its sender repeats it.
#[inline(always)]
pub fn put_embryo<A: Tables>(key: &FlowKey<A>, flow: &Flow) {
    let _ = A::embryos().insert(key, flow, u64::from(BPF_ANY));
}

#[inline(always)]
pub fn forget_embryo<A: Tables>(key: &FlowKey<A>) {
    let _ = A::embryos().remove(key);
}

/// The template of a client that had a connection, as [`flow`].
#[inline(always)]
pub fn template(key: &TemplateKey) -> Option<&'static mut Template> {
    // SAFETY: see the module.
    TEMPLATES.get_ptr_mut(key).map(|template| unsafe { &mut *template })
}

/// Puts it, over an old one if need be; false when there is no room.
#[inline(always)]
pub fn put_template(key: &TemplateKey, template: &Template) -> bool {
    TEMPLATES.insert(key, template, u64::from(BPF_ANY)).is_ok()
}

/// The template of another client, as [`flow`].
#[inline(always)]
pub fn tentative(key: &TemplateKey) -> Option<&'static mut Template> {
    // SAFETY: see the module.
    TENTATIVE.get_ptr_mut(key).map(|template| unsafe { &mut *template })
}

/// Puts it, as [`put_embryo`]; without it the client's next connection is chosen anew.
#[inline(always)]
pub fn put_tentative(key: &TemplateKey, template: &Template) {
    let _ = TENTATIVE.insert(key, template, u64::from(BPF_ANY));
}

#[inline(always)]
pub fn forget_tentative(key: &TemplateKey) {
    let _ = TENTATIVE.remove(key);
}

/// jiffies64 of the last time a flow of the family found no room; 0 = never.
#[inline(always)]
pub fn pressure<A: Tables>() -> u64 {
    pressure_of(A::PRESSURE)
}

/// The same of the family with that index.
#[inline(always)]
pub fn pressure_of(family: u32) -> u64 {
    PRESSURE.get(family).copied().unwrap_or(0)
}

#[inline(always)]
pub fn count(outcome: Outcome) {
    if let Some(counter) = STATS.get_ptr_mut(outcome as u32) {
        // SAFETY: per CPU, and no packet's program interrupts another's: all run in softirqs.
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
