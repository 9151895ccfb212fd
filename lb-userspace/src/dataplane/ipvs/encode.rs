//! What of a forwarding table the kernel is to hold, and what the kernel's table means. Pure.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::wire::{Dest, DestKey, Forward, Service, ServiceKey, Tunnel, flag};
use crate::base::{
    net::{Protocol, VirtualServerKey},
    table::{
        Gate, Hashing, Limits, Method, OnDown, Persistence, RealServer, RealServerState, Scheduler,
        VirtualServer,
    },
};

/// A service with its destinations: what is read, and what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub service: Service,
    pub dests: BTreeMap<DestKey, Dest>,
}

/// The kernel's name for a virtual server.
pub fn key(key: &VirtualServerKey) -> ServiceKey {
    ServiceKey::Address {
        protocol: key.protocol.number(),
        addr: key.addr.ip(),
        port: key.addr.port(),
    }
}

/// Our name for a service, if it can be one of ours.
pub fn virtual_server_key(key: &ServiceKey) -> Option<VirtualServerKey> {
    let ServiceKey::Address { protocol, addr, port } = key else { return None };
    let protocol =
        [Protocol::Tcp, Protocol::Udp].into_iter().find(|it| it.number() == *protocol)?;
    Some(VirtualServerKey { protocol, addr: SocketAddr::new(*addr, *port) })
}

/// What the kernel is to hold of a virtual server.
pub fn held(vs_key: &VirtualServerKey, vs: &VirtualServer) -> Held {
    let mut dests = BTreeMap::new();
    for (addr, server) in &vs.real_servers {
        if let Some(dest) = dest(vs_key, vs, *addr, server) {
            dests.insert(dest.key, dest);
        }
    }
    Held { service: service(vs_key, vs), dests }
}

fn service(vs_key: &VirtualServerKey, vs: &VirtualServer) -> Service {
    let mut flags = 0;
    if let Some(hashing) = vs.scheduler.hashing() {
        flags |= if hashing.fallback { flag::SCHED_1 } else { 0 };
        flags |= if hashing.port { flag::SCHED_2 } else { 0 };
    }
    let whole = Persistence::whole(vs_key.addr.ip());
    let (timeout, prefix) = match vs.persistence {
        Some(it) => {
            flags |= flag::PERSISTENT;
            (u32::try_from(it.timeout.as_secs()).unwrap_or(u32::MAX), it.granularity.min(whole))
        }
        None => (0, whole),
    };
    Service {
        key: key(vs_key),
        scheduler: vs.scheduler.name().to_owned(),
        flags,
        timeout,
        prefix,
        engine: None,
    }
}

/// The kernel's name for a real server: only NAT changes ports (keepalived forces the same).
pub fn dest_key(vs_key: &VirtualServerKey, addr: SocketAddr, method: Method) -> DestKey {
    let port = if method == Method::Nat { addr.port() } else { vs_key.addr.port() };
    DestKey { addr: addr.ip(), port }
}

/// What the kernel is to hold of a real server. `None`: nothing.
pub fn dest(
    vs_key: &VirtualServerKey,
    vs: &VirtualServer,
    addr: SocketAddr,
    server: &RealServer,
) -> Option<Dest> {
    let weight = match server.state {
        RealServerState::Up => server.weight,
        RealServerState::Drain | RealServerState::Closed | RealServerState::Inhibited => 0,
        // Its removal would end its connections under expire_nodest_conn.
        RealServerState::Down if vs.on_down == OnDown::Keep => 0,
        RealServerState::Down => return None,
    };
    let forward = match server.method {
        Method::Nat => Forward::Masquerade,
        Method::Tun => Forward::Tunnel(Tunnel::default()),
        // A packet to the host itself goes up the stack by either method; this one changes nothing in it.
        Method::Dr | Method::Local => Forward::Direct,
    };
    Some(Dest {
        key: dest_key(vs_key, addr, server.method),
        forward,
        weight,
        upper: server.limits.upper,
        lower: server.limits.lower,
    })
}

/// What the kernel holds, in the table's language. `wanted` is what was put there last: where the kernel agrees
/// with it, it is what is meant, for the table knows more than IPVS does.
pub fn observed(
    vs_key: &VirtualServerKey,
    wanted: Option<&VirtualServer>,
    found: &Held,
) -> VirtualServer {
    let expected = wanted.map(|vs| held(vs_key, vs));
    let expected_service = expected.as_ref().map(|held| &held.service);
    let mut vs = match (wanted, expected_service) {
        (Some(wanted), Some(service)) if same_service(service, &found.service) => {
            VirtualServer { real_servers: BTreeMap::new(), ..wanted.clone() }
        }
        (wanted, _) => changed(wanted, &found.service),
    };
    let mut left = found.dests.clone();
    for (addr, server) in wanted.into_iter().flat_map(|vs| &vs.real_servers) {
        let meant = wanted.and_then(|vs| dest(vs_key, vs, *addr, server));
        let key = dest_key(vs_key, *addr, server.method);
        match (meant, left.remove(&key)) {
            // As it should be: there, or not there.
            (meant, there) if meant == there => {
                vs.real_servers.insert(*addr, *server);
            }
            (_, Some(there)) => {
                vs.real_servers.insert(*addr, real_server(&there));
            }
            (_, None) => {}
        }
    }
    for (key, dest) in left {
        vs.real_servers.insert(SocketAddr::new(key.addr, key.port), real_server(&dest));
    }
    vs
}

/// The kernel sets a flag of its own, and a service without persistence may keep an old mask.
pub fn same_service(expected: &Service, found: &Service) -> bool {
    let flags = found.flags & !flag::HASHED;
    let persistent = flags & flag::PERSISTENT != 0;
    expected.key == found.key
        && expected.scheduler == found.scheduler
        && expected.engine == found.engine
        && expected.flags == flags
        && (!persistent || (expected.timeout, expected.prefix) == (found.timeout, found.prefix))
}

/// A service that somebody has changed, or whose meaning is not known.
fn changed(wanted: Option<&VirtualServer>, found: &Service) -> VirtualServer {
    let hashing = Hashing {
        port: found.flags & flag::SCHED_2 != 0,
        fallback: found.flags & flag::SCHED_1 != 0,
    };
    let all = [
        Scheduler::Rr,
        Scheduler::Wrr,
        Scheduler::Lc,
        Scheduler::Wlc,
        Scheduler::Sed,
        Scheduler::Nq,
        Scheduler::Sh(hashing),
        Scheduler::Mh(hashing),
    ];
    let named = all.into_iter().find(|it| it.name() == found.scheduler);
    let persistence = (found.flags & flag::PERSISTENT != 0).then(|| Persistence {
        timeout: Duration::from_secs(found.timeout.into()),
        granularity: found.prefix,
    });
    let wanted = wanted.cloned();
    let mut vs = VirtualServer {
        gate: wanted.as_ref().map_or(Gate::Always, |it| it.gate),
        // One that we do not have is another than the wanted one, whichever that is.
        scheduler: named.unwrap_or(Scheduler::Rr),
        idle_timeout: wanted.as_ref().map_or(Duration::ZERO, |it| it.idle_timeout),
        on_down: wanted.as_ref().map_or(OnDown::Reset, |it| it.on_down),
        persistence,
        real_servers: BTreeMap::new(),
    };
    // What the table cannot say must still count as a difference.
    if wanted.is_some_and(|it| (it.scheduler, it.persistence) == (vs.scheduler, vs.persistence)) {
        vs.idle_timeout = Duration::ZERO;
    }
    vs
}

/// What a destination's method is called in the table.
fn method(forward: Forward) -> Method {
    match forward {
        Forward::Masquerade => Method::Nat,
        Forward::Tunnel(tunnel) if tunnel == Tunnel::default() => Method::Tun,
        // One that is never wanted, so that it differs.
        Forward::Tunnel(_) => Method::Local,
        Forward::Local | Forward::Direct | Forward::Bypass => Method::Dr,
    }
}

fn real_server(dest: &Dest) -> RealServer {
    RealServer {
        method: method(dest.forward),
        weight: dest.weight,
        state: RealServerState::Up,
        limits: Limits { upper: dest.upper, lower: dest.lower },
    }
}
