//! Forwarding table ⇄ map content. Pure: `decode(encode(t)) == t` is a property test.
//!
//! Encoding starts from the content before, because ids, generations and halves have a history:
//! a real server keeps its id while it is known, its generation moves when its connections die.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    abi::{
        Addr, FLAG_CLOSED, FLAG_INHIBITED, FLAG_KEEP, FLAG_RESOLVED, FLAG_TX, METHOD_DR,
        METHOD_LOCAL, METHOD_NAT, METHOD_TUN, METHOD_TUN6, POOL_LEN, RING_LEN, Real, SCHED_LC,
        SCHED_MH, SCHED_NQ, SCHED_RR, SCHED_SED, SCHED_SH, SCHED_WLC, SCHED_WRR, SERVICE_FALLBACK,
        SERVICE_HASH_PORT, SERVICE_KEEP, SERVICE_LIMITED, SOURCE_LEN, STATE_ABSENT, STATE_DOWN,
        STATE_DRAIN, STATE_UP, Service, ServiceKey, Source, VIP_TCP_SERVICE, Vip, be16, macs,
    },
    maps,
};
use thiserror::Error;

use super::image::{Image, derived};
use crate::{
    base::{
        net::{Protocol, VirtualServerKey},
        table::{
            ForwardingTable, Gate, Hashing, LeaseSlot, Limits, Method, OnDown, Persistence,
            RealServer, RealServerState, Scheduler, VirtualServer,
        },
    },
    dataplane::{NextHop, Surroundings},
    sched::{self, Candidate},
};

/// A table that the maps cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    #[error("{0} is an IPv4 address in the guise of an IPv6 one, which is in no packet")]
    Mapped(IpAddr),
    #[error("real server {0} of {1} is of another address family")]
    Family(SocketAddr, VirtualServerKey),
    #[error("{0}: the xdp engine forwards TCP only so far")]
    NotTcp(VirtualServerKey),
    #[error("lease slot {0} does not exist (1 to {max})", max = LeaseSlot::LIMIT - 1)]
    Slot(u16),
    #[error("more than {max} virtual servers", max = maps::SERVICES - 1)]
    VirtualServers,
    #[error("more than {max} real servers", max = maps::REALS - 1)]
    RealServers,
    #[error("{0} has more than {POOL_LEN} real servers")]
    Pool(VirtualServerKey),
    #[error("more than {max} VIPs", max = maps::VIP_LIMIT)]
    Vips,
    #[error("{0} is a NAT real server of more than {SOURCE_LEN} virtual servers")]
    Shared(SocketAddr),
    #[error("{0}: time {1:?} is not a whole number of seconds up to 136 years")]
    Time(VirtualServerKey, Duration),
}

/// What identifies a real server: that of its virtual server, then its own address and port.
type Identity = (Addr, u16, Addr, u16);

fn identity(real: &Real) -> Identity {
    (real.vip, real.vip_port, real.addr, real.port)
}

fn wide(ip: IpAddr) -> Result<Addr, EncodeError> {
    let addr = Addr::from_ip(ip);
    if addr.ip() == ip { Ok(addr) } else { Err(EncodeError::Mapped(ip)) }
}

fn gate(slot: LeaseSlot) -> Result<u16, EncodeError> {
    if slot.0 == 0 || slot.0 >= LeaseSlot::LIMIT {
        return Err(EncodeError::Slot(slot.0));
    }
    Ok(slot.0)
}

fn service_key(key: &VirtualServerKey) -> Result<ServiceKey, EncodeError> {
    if key.protocol != Protocol::Tcp {
        return Err(EncodeError::NotTcp(*key));
    }
    Ok(ServiceKey::tcp(wide(key.addr.ip())?, be16(key.addr.port())))
}

/// Map content for `table` after `before`. Interfaces are not in the maps.
///
/// # Errors
/// [`EncodeError`] when something does not fit; nothing of it is to be written then.
pub fn encode(
    before: &Image,
    table: &ForwardingTable,
    around: &Surroundings,
) -> Result<Image, EncodeError> {
    let mut next = Image { reals: before.reals.clone(), ..Image::default() };
    if around.own.is_empty() {
        next.locals.clone_from(&before.locals);
    }
    for ip in &around.own {
        if next.locals.len() < maps::LOCAL_LIMIT as usize {
            next.locals.insert(Addr::from_ip(*ip));
        }
    }
    for (vip, slot) in &table.vips {
        next.vips.insert(wide(*vip)?, Vip { gate: gate(*slot)?, flags: 0 });
    }
    let mut ids = Ids::new(before);
    let mut seen = BTreeSet::new();
    let mut services = Vec::new();
    for (key, vs) in &table.virtual_servers {
        let (map_key, service) = service(before, key, vs, &mut ids)?;
        next.vips.entry(map_key.addr).or_default().flags |= VIP_TCP_SERVICE;
        let mut candidates = Vec::new();
        if vs.real_servers.len() > POOL_LEN {
            return Err(EncodeError::Pool(*key));
        }
        for (addr, server) in &vs.real_servers {
            // A tunnel leads to the other family; what leads to this host itself is passed up.
            let leads_there = matches!(server.method, Method::Tun | Method::Local);
            if addr.is_ipv4() != key.addr.is_ipv4() && !leads_there {
                return Err(EncodeError::Family(*addr, *key));
            }
            let real = real(map_key, service, *addr, server, around)?;
            let id = ids.real(&real)?;
            let known = around.next_hops.contains_key(&addr.ip());
            let real = succeed(before.reals.get(&id), real, known);
            let reachable =
                real.method == METHOD_LOCAL || real.flags & FLAG_RESOLVED == FLAG_RESOLVED;
            if reachable || server.state != RealServerState::Up {
                candidates.extend(Candidate::of(id, *addr, server));
            }
            next.reals.insert(id, real);
            seen.insert(id);
        }
        services.push((map_key, service, vs.scheduler, candidates, *key));
    }
    retire(before, table, &mut next, &seen);
    for (map_key, service, scheduler, candidates, key) in services {
        publish(before, &mut next, map_key, service, scheduler, &candidates)
            .map_err(|_| EncodeError::Pool(key))?;
    }
    if next.vips.len() > maps::VIP_LIMIT as usize {
        return Err(EncodeError::Vips);
    }
    let (filter, sources) = derived(&next.vips, &next.reals);
    next.filter = filter;
    for (key, ids) in sources {
        let mut source = Source::default();
        if ids.len() > SOURCE_LEN {
            return Err(EncodeError::Shared(socket(key.addr, key.port)));
        }
        source.reals[..ids.len()].copy_from_slice(&ids);
        next.sources.insert(key, source);
    }
    Ok(next)
}

fn service(
    before: &Image,
    key: &VirtualServerKey,
    vs: &VirtualServer,
    ids: &mut Ids<'_>,
) -> Result<(ServiceKey, Service), EncodeError> {
    let map_key = service_key(key)?;
    let secs = |time: Duration| {
        let whole = u32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
        whole.ok_or(EncodeError::Time(*key, time))
    };
    let (persistence_secs, granularity) = match vs.persistence {
        Some(Persistence { timeout, granularity }) => {
            (secs(timeout)?, Addr::mask(granularity, key.addr.is_ipv4()))
        }
        None => (0, Addr::default()),
    };
    let old = before.services.get(&map_key);
    let service = Service {
        id: match old {
            Some(old) => old.id,
            None => ids.service()?,
        },
        gate: match vs.gate {
            Gate::Always => 0,
            Gate::Lease(slot) => gate(slot)?,
        },
        scheduler: match vs.scheduler {
            Scheduler::Rr => SCHED_RR,
            Scheduler::Wrr => SCHED_WRR,
            Scheduler::Lc => SCHED_LC,
            Scheduler::Wlc => SCHED_WLC,
            Scheduler::Sed => SCHED_SED,
            Scheduler::Nq => SCHED_NQ,
            Scheduler::Sh(_) => SCHED_SH,
            Scheduler::Mh(_) => SCHED_MH,
        },
        half: old.map_or(0, |old| old.half),
        flags: service_flags(vs),
        idle_secs: secs(vs.idle_timeout)?,
        persistence_secs,
        granularity,
    };
    Ok((map_key, service))
}

fn service_flags(vs: &VirtualServer) -> u16 {
    // A scheduler that hashes only beside a full table spreads as evenly as it can.
    let Hashing { port, fallback } =
        vs.scheduler.hashing().unwrap_or(Hashing { port: true, fallback: true });
    let bit = |is: bool, bit| if is { bit } else { 0 };
    bit(vs.on_down == OnDown::Keep, SERVICE_KEEP)
        | bit(port, SERVICE_HASH_PORT)
        | bit(fallback, SERVICE_FALLBACK)
        | bit(vs.real_servers.values().any(|server| server.limits.upper > 0), SERVICE_LIMITED)
}

fn real(
    key: ServiceKey,
    service: Service,
    addr: SocketAddr,
    server: &RealServer,
    around: &Surroundings,
) -> Result<Real, EncodeError> {
    let mut real = Real {
        generation: 1,
        gate: service.gate,
        state: match server.state {
            RealServerState::Up => STATE_UP,
            RealServerState::Drain | RealServerState::Closed | RealServerState::Inhibited => {
                STATE_DRAIN
            }
            RealServerState::Down => STATE_DOWN,
        },
        method: match server.method {
            Method::Dr => METHOD_DR,
            Method::Nat => METHOD_NAT,
            Method::Tun if addr.is_ipv4() => METHOD_TUN,
            Method::Tun => METHOD_TUN6,
            Method::Local => METHOD_LOCAL,
        },
        service: service.id,
        flags: if service.flags & SERVICE_KEEP != 0 { FLAG_KEEP } else { 0 }
            | match server.state {
                RealServerState::Inhibited => FLAG_INHIBITED,
                RealServerState::Closed => FLAG_CLOSED,
                _ => 0,
            },
        weight: server.weight,
        upper: server.limits.upper,
        lower: server.limits.lower,
        granularity: service.granularity,
        ..Real::default()
    }
    .with_nat(key.addr, key.port, wide(addr.ip())?, be16(addr.port()));
    if real.method != METHOD_LOCAL
        && let Some(Ok(hop)) = around.next_hops.get(&addr.ip())
    {
        let NextHop { ifindex, source, neighbour, mtu, nic, own } = *hop;
        real.ifindex = ifindex;
        real.macs = macs(neighbour.0, source.0);
        real.flags |= if nic { FLAG_TX } else { 0 };
        if !real.is_tunnel() {
            real.flags |= FLAG_RESOLVED;
        } else if let Some(own) = own.filter(|own| own.is_ipv4() == addr.is_ipv4()) {
            real = real.with_tunnel(Addr::from_ip(own), mtu);
            real.flags |= FLAG_RESOLVED;
        }
    }
    Ok(real)
}

/// Continues the life of `old` in `new`: its connections die (generation) when it goes down, and
/// when they could not go on because the method changed. While nothing is `known` of its next hop
/// (a forwarder that has just started, a neighbour that the kernel asks again) the old one stays.
fn succeed(old: Option<&Real>, mut new: Real, known: bool) -> Real {
    let Some(old) = old else { return new };
    new.generation = old.generation;
    if old.state == STATE_ABSENT {
        return new;
    }
    // What is not a tunnel has nothing of what one is made of.
    let same_way = !new.is_tunnel() || old.method == new.method;
    if !known && same_way && new.method != METHOD_LOCAL && old.flags & FLAG_RESOLVED != 0 {
        new.ifindex = old.ifindex;
        new.macs = old.macs;
        new.tunnel_source = old.tunnel_source;
        new.tunnel_sum = old.tunnel_sum;
        new.tunnel_room = old.tunnel_room;
        new.flags |= old.flags & (FLAG_RESOLVED | FLAG_TX);
    }
    let keep = new.flags & FLAG_KEEP != 0;
    let died =
        new.state == STATE_DOWN && !keep && (old.state != STATE_DOWN || old.flags & FLAG_KEEP != 0);
    if died || old.method != new.method {
        new.generation = old.generation.wrapping_add(1);
    }
    new
}

/// Real servers that are in the table no more. Those of a virtual server that keeps connections
/// linger without a service until [`Image::reals`] is swept; the others are dead at once.
fn retire(before: &Image, table: &ForwardingTable, next: &mut Image, seen: &BTreeSet<u16>) {
    for (id, old) in &before.reals {
        if seen.contains(id) || old.state == STATE_ABSENT {
            continue;
        }
        let keeps = table
            .virtual_servers
            .get(&virtual_server_key(old.vip, old.vip_port))
            .is_some_and(|vs| vs.on_down == OnDown::Keep);
        let retired = if keeps {
            Real { state: STATE_DOWN, service: 0, flags: old.flags | FLAG_KEEP, ..*old }
        } else {
            absent(old)
        };
        next.reals.insert(*id, retired);
    }
}

/// The end of a real server's life.
pub fn absent(old: &Real) -> Real {
    Real { state: STATE_ABSENT, generation: old.generation.wrapping_add(1), service: 0, ..*old }
}

/// Puts pool and ring into the half that is not in force, if they differ from those in force.
fn publish(
    before: &Image,
    next: &mut Image,
    key: ServiceKey,
    mut service: Service,
    scheduler: Scheduler,
    candidates: &[Candidate],
) -> Result<(), lb_common::pool::TooMany> {
    let current = Service::table_index(service.id, service.half);
    let known = before.services.contains_key(&key);
    let tables = match before.tables.get(&current).filter(|_| known) {
        Some(have) if is_table_of(have, scheduler, candidates) => have.clone(),
        have => {
            let tables = sched::tables(scheduler, candidates)?;
            if have.is_some_and(|have| *have != tables) {
                service.half ^= 1;
            }
            tables
        }
    };
    next.tables.insert(Service::table_index(service.id, service.half), tables);
    next.services.insert(key, service);
    Ok(())
}

/// Whether filling anew would give the same, at a fraction of the cost where the ring has no other
/// members than the pool; a foreign hand in it is found by [`Image`]'s owner when it reads back.
fn is_table_of(
    (pool, ring): &(Box<lb_common::abi::Pool>, Box<lb_common::abi::Ring>),
    scheduler: Scheduler,
    candidates: &[Candidate],
) -> bool {
    if !sched::pool(scheduler, candidates).is_ok_and(|fresh| fresh == **pool) {
        return false;
    }
    // A bit each, because a verdict asks this of every slot of every virtual server.
    let mut chosen = [0_u64; maps::REALS as usize / 64];
    let bit = |real: u16| (usize::from(real) / 64, 1_u64 << (real % 64));
    for entry in &pool.entries[..pool.len as usize] {
        let (word, bit) = bit(entry.real);
        if let Some(word) = chosen.get_mut(word) {
            *word |= bit;
        }
    }
    let is_chosen = |real: u16| {
        let (word, bit) = bit(real);
        chosen.get(word).is_some_and(|word| word & bit != 0)
    };
    let only_chosen = ring.slots[..RING_LEN].iter().all(|real| *real == 0 || is_chosen(*real))
        && candidates.iter().all(|c| c.selectable || !sched::is_named(scheduler, c));
    only_chosen || sched::tables(scheduler, candidates).is_ok_and(|(_, fresh)| fresh == *ring)
}

/// Hands out ids that nobody holds. Which these are is only asked when one is wanted: most changes give none
/// out, a verdict never.
struct Ids<'a> {
    before: &'a Image,
    held: BTreeMap<Identity, u16>,
    free_reals: Option<std::vec::IntoIter<u16>>,
    free_services: Option<std::vec::IntoIter<u16>>,
}

impl<'a> Ids<'a> {
    fn new(before: &'a Image) -> Self {
        let lives = before.reals.iter().filter(|(_, real)| real.state != STATE_ABSENT);
        let held = lives.map(|(id, real)| (identity(real), *id)).collect();
        Self { before, held, free_reals: None, free_services: None }
    }

    fn real(&mut self, real: &Real) -> Result<u16, EncodeError> {
        if let Some(id) = self.held.get(&identity(real)) {
            return Ok(*id);
        }
        let before = self.before;
        let free = self.free_reals.get_or_insert_with(|| free_reals(before).into_iter());
        free.next().ok_or(EncodeError::RealServers)
    }

    fn service(&mut self) -> Result<u16, EncodeError> {
        let before = self.before;
        let free = self.free_services.get_or_insert_with(|| free_services(before).into_iter());
        free.next().ok_or(EncodeError::VirtualServers)
    }
}

/// Ids that were never used first: the longer an id rests, the fewer entries name it.
fn free_reals(before: &Image) -> Vec<u16> {
    let mut free: Vec<u16> = (1..maps::REALS as u16)
        .filter(|id| before.reals.get(id).is_none_or(|real| real.state == STATE_ABSENT))
        .collect();
    free.sort_by_key(|id| before.reals.get(id).map_or(0, |real| real.generation));
    free
}

fn free_services(before: &Image) -> Vec<u16> {
    let taken: BTreeSet<u16> = before.services.values().map(|service| service.id).collect();
    (1..maps::SERVICES as u16).filter(|id| !taken.contains(id)).collect()
}

fn virtual_server_key(addr: Addr, port: u16) -> VirtualServerKey {
    VirtualServerKey { protocol: Protocol::Tcp, addr: socket(addr, port) }
}

/// Address and port as they lie in maps.
pub fn socket(addr: Addr, port: u16) -> SocketAddr {
    SocketAddr::new(addr.ip(), u16::from_be(port))
}

/// Leading bits of an address under a mask, which counts what marks an IPv4 one.
fn granularity(vip: Addr, mask: Addr) -> u8 {
    let ones = u128::from_be_bytes(mask.octets()).leading_ones() as u8;
    if vip.to_v4().is_some() { ones.saturating_sub(96) } else { ones }
}

/// The table that map content stands for (without interfaces). Values that only a foreign hand can
/// have written become the closest table, which differs from the desired one and is repaired.
pub fn decode(image: &Image) -> ForwardingTable {
    let mut table = ForwardingTable::default();
    for (addr, vip) in &image.vips {
        if vip.gate != 0 {
            table.vips.insert(addr.ip(), LeaseSlot(vip.gate));
        }
    }
    let mut by_id = BTreeMap::new();
    for (map_key, service) in &image.services {
        let key = virtual_server_key(map_key.addr, map_key.port);
        by_id.insert(service.id, key);
        let hashing = Hashing {
            port: service.flags & SERVICE_HASH_PORT != 0,
            fallback: service.flags & SERVICE_FALLBACK != 0,
        };
        let vs = VirtualServer {
            gate: match service.gate {
                0 => Gate::Always,
                slot => Gate::Lease(LeaseSlot(slot)),
            },
            scheduler: match service.scheduler {
                SCHED_WRR => Scheduler::Wrr,
                SCHED_LC => Scheduler::Lc,
                SCHED_WLC => Scheduler::Wlc,
                SCHED_SED => Scheduler::Sed,
                SCHED_NQ => Scheduler::Nq,
                SCHED_SH => Scheduler::Sh(hashing),
                SCHED_MH => Scheduler::Mh(hashing),
                _ => Scheduler::Rr,
            },
            idle_timeout: Duration::from_secs(u64::from(service.idle_secs)),
            on_down: match service.flags & SERVICE_KEEP {
                0 => OnDown::Reset,
                _ => OnDown::Keep,
            },
            persistence: (service.persistence_secs != 0).then(|| Persistence {
                timeout: Duration::from_secs(u64::from(service.persistence_secs)),
                granularity: granularity(map_key.addr, service.granularity),
            }),
            real_servers: BTreeMap::new(),
        };
        table.virtual_servers.insert(key, vs);
    }
    for real in image.reals.values().filter(|real| real.state != STATE_ABSENT) {
        let Some(vs) = by_id.get(&real.service).and_then(|key| table.virtual_servers.get_mut(key))
        else {
            continue;
        };
        let server = RealServer {
            method: match real.method {
                METHOD_NAT => Method::Nat,
                METHOD_TUN | METHOD_TUN6 => Method::Tun,
                METHOD_LOCAL => Method::Local,
                _ => Method::Dr,
            },
            weight: real.weight,
            limits: Limits { upper: real.upper, lower: real.lower },
            state: match real.state {
                STATE_UP => RealServerState::Up,
                STATE_DRAIN if real.flags & FLAG_INHIBITED != 0 => RealServerState::Inhibited,
                STATE_DRAIN if real.flags & FLAG_CLOSED != 0 => RealServerState::Closed,
                STATE_DRAIN => RealServerState::Drain,
                _ => RealServerState::Down,
            },
        };
        vs.real_servers.insert(socket(real.addr, real.port), server);
    }
    table
}

#[cfg(test)]
mod tests;
