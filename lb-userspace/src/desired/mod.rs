//! L1: configuration × election × health → [`ForwardingTable`]. Pure; the same inputs give the
//! same table, so a crash, a retry and a reload are one code path.

mod admin;
mod health;
mod leases;
pub mod placement;

pub use admin::{Admin, AdminState};
pub use health::HealthBook;
pub use leases::LeaseSlots;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::pool::WEIGHT_LIMIT;

use crate::{
    base::{
        net::{IpPrefix, VirtualServerKey},
        status::Health,
        table::{
            Engine, ForwardingTable, Gate, Limits, Method, OnDown, Persistence, RealServer,
            RealServerState, VirtualServer,
        },
        time::Instant,
    },
    config::model::{self, Config},
};

/// What the host looks like, as far as forwarding depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Own addresses with their prefix and interface name.
    pub addresses: BTreeSet<(String, IpPrefix)>,
    /// Interface (name) that leads to each real server; absent when there is no route.
    pub egress: BTreeMap<IpAddr, String>,
    /// Interfaces with a MAC address.
    pub ethernet: BTreeSet<String>,
}

impl Host {
    fn owns(&self, addr: IpAddr) -> bool {
        addr.is_loopback() || self.addresses.iter().any(|(_, prefix)| prefix.addr == addr)
    }

    /// Interfaces whose connected network holds `addr`, loopback aside.
    fn towards(&self, addr: IpAddr) -> impl Iterator<Item = &String> {
        self.addresses
            .iter()
            .filter(move |(name, prefix)| name != "lo" && contains(prefix, addr))
            .map(|(name, _)| name)
    }
}

fn contains(prefix: &IpPrefix, addr: IpAddr) -> bool {
    match (prefix.addr, addr) {
        (IpAddr::V4(net), IpAddr::V4(addr)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.len)).unwrap_or(0);
            net.to_bits() & mask == addr.to_bits() & mask
        }
        (IpAddr::V6(net), IpAddr::V6(addr)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len)).unwrap_or(0);
            net.to_bits() & mask == addr.to_bits() & mask
        }
        _ => false,
    }
}

/// Everything the table depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    /// Who is to carry the table.
    pub engine: Engine,
    /// Names of the instances that are master here. Only IPVS asks: XDP has its leases.
    pub masters: &'a BTreeSet<String>,
    /// False under `-C`: nobody renews leases, so nothing is gated or guarded.
    pub vrrp: bool,
    pub slots: &'a LeaseSlots,
    pub health: &'a HealthBook,
    /// Last word of the checker on each virtual server's quorum.
    pub quorum: &'a BTreeMap<VirtualServerKey, bool>,
    pub admin: &'a Admin,
    pub host: &'a Host,
    /// The only input that changes by itself: see [`next_deadline`].
    pub now: Instant,
}

/// The table that the data plane should hold.
pub fn compile(inputs: &Inputs<'_>) -> ForwardingTable {
    let mut table = ForwardingTable::default();
    if inputs.vrrp {
        for instance in &inputs.config.vrrp_instances {
            let Some(slot) = inputs.slots.get(&instance.name) else { continue };
            table.interfaces.insert(instance.interface.clone());
            for vip in instance.addresses() {
                table.vips.entry(vip.prefix.addr).or_insert(slot);
            }
            let named = instance.virtual_ipaddress.iter().filter_map(|vip| vip.dev.as_ref());
            table.interfaces.extend(named.cloned());
            // Where no program can be (a tunnel), an address that adverts do not name is no reason to go on without a fence.
            let excluded = instance.on_host.excluded.iter().filter_map(|vip| vip.dev.as_ref());
            let ethernet = excluded.filter(|dev| inputs.host.ethernet.contains(*dev));
            table.interfaces.extend(ethernet.cloned());
        }
    }
    for vs in &inputs.config.virtual_servers {
        // The configuration refuses duplicates; the first would win.
        if placement::place(inputs.engine, vs).is_err()
            || table.virtual_servers.contains_key(&vs.key)
            || stands_in_the_way(inputs, vs.key.addr.ip())
        {
            continue;
        }
        let compiled = virtual_server(inputs, vs);
        if compiled.gate == Gate::Always {
            table.interfaces.extend(inputs.host.towards(vs.key.addr.ip()).cloned());
        }
        for (addr, server) in &compiled.real_servers {
            // Replies under NAT come in there; under DR many drivers only transmit redirected
            // frames on an interface that has a program of its own.
            if server.method != Method::Local {
                table.interfaces.extend(inputs.host.egress.get(&addr.ip()).cloned());
            }
        }
        table.virtual_servers.insert(vs.key, compiled);
    }
    table.interfaces.remove("lo");
    table
}

/// Whose permission a virtual server at `addr` needs: that of the first instance that lists it.
pub fn gate(inputs: &Inputs<'_>, addr: IpAddr) -> Gate {
    instance_of(inputs, addr)
        .and_then(|name| inputs.slots.get(name))
        .map_or(Gate::Always, Gate::Lease)
}

/// Name of the vrrp_instance that lists `addr`, unless vrrp is off.
pub fn instance_of<'a>(inputs: &Inputs<'a>, addr: IpAddr) -> Option<&'a str> {
    inputs
        .vrrp
        .then_some(&inputs.config.vrrp_instances)?
        .iter()
        .find(|instance| instance.addresses().any(|vip| vip.prefix.addr == addr))
        .map(|instance| instance.name.as_str())
}

/// Whether IPVS must not have a virtual server at `addr` now. Its rules take packets only for addresses that this host
/// has. On standby it has not, so that they are inert and a failover has none to write. Where it has the
/// address all the same, as a real server by DR does on `lo`, they would send on what the master sends here to be
/// served: there they are absent while another host is master.
fn stands_in_the_way(inputs: &Inputs<'_>, addr: IpAddr) -> bool {
    let Some(name) = instance_of(inputs, addr).filter(|_| inputs.engine == Engine::Ipvs) else {
        return false;
    };
    if inputs.masters.contains(name) {
        return false;
    }
    let instance = inputs.config.vrrp_instances.iter().find(|it| it.name == name);
    // Where the election puts it, and takes it away again.
    let own = |interface: &str| {
        instance.is_some_and(|instance| {
            instance.addresses().any(|vip| {
                let device = vip.dev.as_ref().unwrap_or(&instance.interface);
                vip.prefix.addr == addr && device == interface
            }) || on_links(instance).any(|link| link == interface)
        })
    };
    inputs.host.addresses.iter().any(|(name, prefix)| prefix.addr == addr && !own(name))
}

/// Links of lbd's own, for a virtual MAC or addresses: nobody else puts a VIP there.
fn on_links(instance: &model::VrrpInstance) -> impl Iterator<Item = &str> {
    let host = &instance.on_host;
    let own = host.virtual_link.iter().map(|link| link.name.as_str());
    own.chain(host.address_links.iter().map(|link| link.name.as_str()))
}

fn virtual_server(inputs: &Inputs<'_>, vs: &model::VirtualServer) -> VirtualServer {
    let mut real_servers: BTreeMap<SocketAddr, RealServer> =
        vs.real_servers.iter().map(|rs| (rs.addr, real_server(inputs, vs, rs))).collect();
    if let Some(sorry) = sorry_in_use(inputs, vs, &real_servers) {
        // keepalived takes the living servers of a lost quorum out of the pool. Here they only
        // take no new connections: a session to a living server is not cut.
        for server in real_servers.values_mut() {
            if matches!(server.state, RealServerState::Up | RealServerState::Drain) {
                server.state = RealServerState::Closed;
            }
        }
        let method = method(inputs, vs, sorry);
        real_servers.insert(
            sorry,
            RealServer { method, weight: 1, state: RealServerState::Up, limits: Limits::default() },
        );
    }
    VirtualServer {
        gate: gate(inputs, vs.key.addr.ip()),
        scheduler: vs.scheduler,
        idle_timeout: whole_seconds(vs.idle_timeout),
        on_down: match vs.on_down {
            // To an engine a server that may still drain is not down yet.
            model::OnDown::Reset | model::OnDown::Drain(_) => OnDown::Reset,
            model::OnDown::Keep => OnDown::Keep,
        },
        persistence: vs.persistence.map(|it| Persistence {
            timeout: whole_seconds(it.timeout),
            granularity: it.granularity,
        }),
        real_servers,
    }
}

/// The sorry server when it stands in: it is configured and the quorum is lost. Without word
/// from the checker the quorum is reckoned here, as keepalived does at start.
fn sorry_in_use(
    inputs: &Inputs<'_>,
    vs: &model::VirtualServer,
    real_servers: &BTreeMap<SocketAddr, RealServer>,
) -> Option<SocketAddr> {
    let sorry = vs.sorry_server?;
    let up = inputs.quorum.get(&vs.key).copied().unwrap_or_else(|| {
        let weight: u64 = real_servers
            .values()
            .filter(|server| server.state == RealServerState::Up)
            .map(|server| u64::from(server.weight))
            .sum();
        weight > 0 && weight >= u64::from(vs.quorum)
    });
    (!up).then_some(sorry)
}

fn method(inputs: &Inputs<'_>, vs: &model::VirtualServer, addr: SocketAddr) -> Method {
    let ip = addr.ip();
    // IPVS finds its ways by itself, to this host too.
    if inputs.engine == Engine::Ipvs {
        return vs.method;
    }
    // An instance's VIP comes and goes with the election; a real server on another host must not
    // turn into a local one by that. The virtual server's own address is always this host.
    let vip = inputs
        .config
        .vrrp_instances
        .iter()
        .any(|instance| instance.addresses().any(|candidate| candidate.prefix.addr == ip));
    if ip == vs.key.addr.ip() || (inputs.host.owns(ip) && !vip) { Method::Local } else { vs.method }
}

fn real_server(
    inputs: &Inputs<'_>,
    vs: &model::VirtualServer,
    rs: &model::RealServer,
) -> RealServer {
    let method = method(inputs, vs, rs.addr);
    let (health, weight) = inputs.health.get(vs.key, rs.addr);
    let weight = weight.unwrap_or(rs.weight).min(WEIGHT_LIMIT);
    let limits = rs.limits;
    let drained = inputs.admin.get(vs.key, rs.addr).is_some();
    let ended = deadline(inputs, vs, rs).is_some_and(|deadline| deadline <= inputs.now);
    let state = match health {
        // The operator's time, beside inhibit_on_failure too.
        _ if ended => RealServerState::Down,
        // Weight 0 keeps what is established, as keepalived's inhibit_on_failure does.
        Health::Down if rs.inhibit_on_failure => RealServerState::Inhibited,
        Health::Down if matches!(vs.on_down, model::OnDown::Drain(_)) => RealServerState::Closed,
        Health::Down => RealServerState::Down,
        Health::Full | Health::Drain => RealServerState::Closed,
        // Closed rather than Down: a checker that starts anew proves nothing about the
        // connections that are already there.
        Health::Unknown if starts_down(vs, rs) => RealServerState::Closed,
        Health::Suspect => RealServerState::Drain,
        Health::Up | Health::Unknown if drained => RealServerState::Drain,
        Health::Up | Health::Unknown => RealServerState::Up,
    };
    RealServer { method, weight, limits, state }
}

/// When a real server's connections end although it may still have some: it went down and may drain for
/// a while, or the operator drains it until then.
pub fn deadline(
    inputs: &Inputs<'_>,
    vs: &model::VirtualServer,
    rs: &model::RealServer,
) -> Option<Instant> {
    let by_death = match vs.on_down {
        model::OnDown::Drain(grace) if !rs.inhibit_on_failure => {
            inputs.health.down_since(vs.key, rs.addr).map(|since| since + grace)
        }
        _ => None,
    };
    let by_operator = match inputs.admin.get(vs.key, rs.addr) {
        Some(AdminState::DrainUntil(until)) => Some(until),
        Some(AdminState::Drain) | None => None,
    };
    by_death.into_iter().chain(by_operator).min()
}

/// When [`compile`] gives another table although nothing else has changed.
pub fn next_deadline(inputs: &Inputs<'_>) -> Option<Instant> {
    let servers = inputs
        .config
        .virtual_servers
        .iter()
        .flat_map(|vs| vs.real_servers.iter().map(move |rs| (vs, rs)));
    servers
        .filter_map(|(vs, rs)| deadline(inputs, vs, rs))
        .filter(|deadline| *deadline > inputs.now)
        .min()
}

/// Engines keep seconds: rounded up, at most 136 years.
fn whole_seconds(duration: Duration) -> Duration {
    let secs = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    Duration::from_secs(secs.clamp(1, u64::from(u32::MAX)))
}

/// `alpha` of the virtual server or of any checker; without a checker nothing could lift it.
fn starts_down(vs: &model::VirtualServer, rs: &model::RealServer) -> bool {
    !rs.checkers.is_empty() && (vs.alpha || rs.checkers.iter().any(|it| it.common().alpha))
}

#[cfg(test)]
mod tests;
