//! Which engine forwards a virtual server, and why: sentences for `lbctl explain`.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::{Addr, be32},
    hash,
};

use super::{Inputs, compile, gate, instance_of, stands_in_the_way};
use crate::{
    base::{
        net::{Protocol, VirtualServerKey},
        status::Health,
        table::{Engine, Gate, Method, Persistence, RealServer, RealServerState, Scheduler},
    },
    config::model::VirtualServer,
    sched::{self, Candidate},
};

/// Whether the XDP engine can forward a virtual server.
///
/// # Errors
/// Why it cannot, as a phrase.
pub fn xdp(vs: &VirtualServer) -> Result<&'static str, String> {
    if vs.key.protocol != Protocol::Tcp {
        return Err("the xdp engine forwards TCP only so far".into());
    }
    if vs.key.addr.port() == 0 {
        return Err("the xdp engine needs a port, 0 (every port) is not supported".into());
    }
    let is_other =
        |addr: &SocketAddr| addr.is_ipv4() != vs.key.addr.is_ipv4() && vs.method != Method::Tun;
    let mut servers = vs.real_servers.iter().map(|rs| rs.addr).chain(vs.sorry_server);
    if let Some(addr) = servers.find(is_other) {
        return Err(format!("real server {addr} is of another address family than the VIP"));
    }
    Ok(match vs.key.addr {
        SocketAddr::V4(_) => "xdp: IPv4, TCP, and a scheduler and method that it has",
        SocketAddr::V6(_) => "xdp: IPv6, TCP, and a scheduler and method that it has",
    })
}

/// Whether the IPVS engine can forward a virtual server.
///
/// # Errors
/// Why it cannot, as a phrase.
pub fn ipvs(vs: &VirtualServer) -> Result<&'static str, String> {
    if vs.key.addr.port() == 0 && vs.persistence.is_none() {
        return Err("IPVS takes port 0 (every port) only with persistence".into());
    }
    let v6 = vs.key.addr.is_ipv6();
    let servers = || vs.real_servers.iter().map(|rs| rs.addr).chain(vs.sorry_server);
    let is_other = |addr: &SocketAddr| addr.is_ipv6() != v6 && vs.method != Method::Tun;
    if let Some(addr) = servers().find(is_other) {
        return Err(format!("real server {addr} is of another family than the virtual server"));
    }
    if vs.method != Method::Nat {
        let mut seen = std::collections::BTreeSet::new();
        // A sorry server may be one of the real servers.
        let all = servers().collect::<std::collections::BTreeSet<_>>();
        if let Some(addr) = all.into_iter().find(|addr| !seen.insert(addr.ip())) {
            return Err(format!(
                "real server {addr} has another one's address: by {} the port does not change, so that \
                 they are the same to IPVS",
                if vs.method == Method::Tun { "TUN" } else { "DR" }
            ));
        }
    }
    Ok("ipvs: the kernel's own virtual servers")
}

/// Whether an engine can forward a virtual server.
///
/// # Errors
/// Why it cannot, as a phrase.
pub fn place(engine: Engine, vs: &VirtualServer) -> Result<&'static str, String> {
    match engine {
        Engine::Xdp => xdp(vs),
        Engine::Ipvs => ipvs(vs),
    }
}

/// What an operator should know about a real server of a method, if anything.
pub fn hint(vs: &VirtualServer, addr: SocketAddr, method: Method) -> Option<String> {
    let port = vs.key.addr.port();
    if addr.port() == port || method == Method::Nat {
        return None;
    }
    let how = match method {
        Method::Local => "is this host: packets are passed up unchanged",
        Method::Tun => "is reached by a tunnel: ports are not changed",
        Method::Dr | Method::Nat => "is reached by DR: ports are not changed",
    };
    Some(format!("{addr} {how}, so it must listen on port {port}, not {}", addr.port()))
}

/// What a virtual server, VIP or real server stands for now, as lines for a person.
///
/// `what` is `tcp/192.0.2.10:3306`, `192.0.2.10:3306` or an address alone.
///
/// # Errors
/// A sentence when it is none of these or nothing has that address.
pub fn explain(inputs: &Inputs<'_>, what: &str) -> Result<String, String> {
    if let Ok(ip) = what.parse::<IpAddr>() {
        return explain_address(inputs, ip);
    }
    let key: VirtualServerKey = what.parse()?;
    if inputs.config.virtual_servers.iter().any(|vs| vs.key == key) {
        return Ok(explain_virtual_server(inputs, key));
    }
    let lines: Vec<String> = inputs
        .config
        .virtual_servers
        .iter()
        .filter(|vs| {
            vs.sorry_server == Some(key.addr)
                || vs.real_servers.iter().any(|rs| rs.addr == key.addr)
        })
        .map(|vs| explain_virtual_server(inputs, vs.key))
        .collect();
    if lines.is_empty() {
        return Err(format!("no virtual server or real server is called {what}"));
    }
    Ok(lines.join("\n"))
}

/// Where a connection from `client` to `vip` goes. `known` is its real server when the flow table
/// has it.
///
/// # Errors
/// A sentence when `vip` is no virtual server.
pub fn explain_connection(
    inputs: &Inputs<'_>,
    client: SocketAddr,
    vip: SocketAddr,
    known: Option<SocketAddr>,
) -> Result<String, String> {
    let key = VirtualServerKey { protocol: Protocol::Tcp, addr: vip };
    let Some(model) = inputs.config.virtual_servers.iter().find(|vs| vs.key == key) else {
        return Err(format!("{vip} is no virtual server: packets to it pass up to this host"));
    };
    if client.is_ipv4() != vip.is_ipv4() {
        return Err(format!("{client} and {vip} are of different address families"));
    }
    let mut lines = vec![format!("connection {client} -> {vip}")];
    let table = compile(inputs);
    let Some(compiled) = table.virtual_servers.get(&key) else {
        let why = place(inputs.engine, model).err();
        let why = why.unwrap_or_else(|| "not in the data plane".to_owned());
        lines.push(format!("  not forwarded: {why}"));
        return Ok(lines.join("\n"));
    };
    let choice: Vec<Candidate> = compiled
        .real_servers
        .iter()
        .enumerate()
        .filter_map(|(at, (addr, rs))| Candidate::of(at as u16 + 1, *addr, rs))
        .filter(|candidate| sched::is_named(compiled.scheduler, candidate))
        .collect();
    match known {
        Some(addr) => {
            lines.push(format!("  is in the flow table: it goes to {addr}"));
            if let Some(server) = compiled.real_servers.get(&addr) {
                lines.push(format!("  {addr}: {}", reason(inputs, model, addr, server)));
            }
        }
        None => {
            lines.push(format!("  is not in the flow table: {}", next(compiled, client, &choice)?));
            if compiled.persistence.is_some() {
                lines.push("  unless it is of a client that keeps its real server".to_owned());
            }
        }
    }
    lines.extend(explain_virtual_server(inputs, key).lines().skip(2).take(1).map(str::to_owned));
    Ok(lines.join("\n"))
}

/// Who would get a new connection of this client.
fn next(
    vs: &crate::base::table::VirtualServer,
    client: SocketAddr,
    choice: &[Candidate],
) -> Result<String, String> {
    let among: Vec<String> = choice.iter().map(|candidate| candidate.addr.to_string()).collect();
    let among = among.join(", ");
    Ok(match (choice, vs.scheduler) {
        (choice, _) if !choice.iter().any(|candidate| candidate.selectable) => {
            "no real server takes new connections".to_owned()
        }
        ([only], _) => format!("a new one would go to {}, the only one in the choice", only.addr),
        (_, Scheduler::Mh(hashing) | Scheduler::Sh(hashing)) => {
            let (_, ring) = sched::tables(vs.scheduler, choice).map_err(|e| e.to_string())?;
            let port = if hashing.port { client.port().to_be() } else { 0 };
            let hash = match client.ip() {
                IpAddr::V4(ip) => hash::client(be32(ip.octets()), port),
                IpAddr::V6(ip) => hash::client6(&Addr::new(ip.octets()), port),
            };
            let real = ring.slots.get(hash::ring_slot(hash)).copied();
            let found = choice.iter().find(|candidate| Some(candidate.real) == real);
            let name = vs.scheduler.name();
            match found {
                Some(found) if !found.selectable => format!(
                    "a new one would be refused: its hash ({name}) names {}, which is down, and \
                     there is no {name}-fallback",
                    found.addr
                ),
                Some(found) => {
                    format!("a new one would go to {}, by its hash ({name})", found.addr)
                }
                None => format!("its hash ({name}) finds no real server"),
            }
        }
        (_, Scheduler::Rr | Scheduler::Wrr) => format!("a new one goes to the next of {among}"),
        (_, Scheduler::Lc) => {
            format!("a new one goes to the one with the fewest connections of {among}")
        }
        (_, Scheduler::Wlc) => {
            format!("a new one goes to the one with the fewest connections per weight of {among}")
        }
        (_, Scheduler::Sed) => {
            format!("a new one goes to the one that has then the fewest per weight of {among}")
        }
        (_, Scheduler::Nq) => format!(
            "a new one goes to one without connections, else to the one that has then the fewest \
             per weight of {among}"
        ),
    })
}

fn explain_address(inputs: &Inputs<'_>, ip: IpAddr) -> Result<String, String> {
    let mut lines = Vec::new();
    match instance_of(inputs, ip) {
        Some(name) => lines.push(format!(
            "{ip} is a VIP of vrrp_instance {name}: while this host is master it answers for it, \
             when the lease has run out it is silent, on standby packets pass"
        )),
        None if inputs.host.owns(ip) => lines.push(format!("{ip} is this host's own address")),
        None => {}
    }
    for vs in &inputs.config.virtual_servers {
        let real = vs.real_servers.iter().any(|rs| rs.addr.ip() == ip);
        if vs.key.addr.ip() == ip || real {
            lines.push(explain_virtual_server(inputs, vs.key));
        }
    }
    if lines.is_empty() {
        return Err(format!("{ip} is no VIP, real server or address of this host: packets pass"));
    }
    Ok(lines.join("\n"))
}

fn explain_virtual_server(inputs: &Inputs<'_>, key: VirtualServerKey) -> String {
    let mut lines = vec![format!("virtual server {key}")];
    let Some(vs) = inputs.config.virtual_servers.iter().find(|vs| vs.key == key) else {
        return lines.remove(0);
    };
    match place(inputs.engine, vs) {
        Ok(why) => lines.push(format!("  engine {why}")),
        Err(why) => {
            lines.push(format!("  not forwarded: {why}"));
            return lines.join("\n");
        }
    }
    if stands_in_the_way(inputs, key.addr.ip()) {
        lines.push(
            "  absent while another host is master: this host has the address, and would send on what it is to serve"
                .to_owned(),
        );
    }
    lines.push(match (gate(inputs, key.addr.ip()), instance_of(inputs, key.addr.ip())) {
        (Gate::Lease(_), Some(name)) if inputs.engine == Engine::Ipvs => format!(
            "  forwards while vrrp_instance {name} has the address on this host (no lease: IPVS cannot be fenced)"
        ),
        (Gate::Lease(slot), Some(name)) => {
            format!("  forwards while vrrp_instance {name} holds its lease (slot {})", slot.0)
        }
        (Gate::Always, Some(name)) => {
            format!("  always active: vrrp_instance {name} has no lease slot")
        }
        (_, None) if !inputs.vrrp => "  always active: vrrp is off".into(),
        (_, None) => format!("  always active: no vrrp_instance lists {}", key.addr.ip()),
    });
    if let Some(Persistence { timeout, granularity }) = vs.persistence {
        let whom = match granularity == Persistence::whole(key.addr.ip()) {
            true => "client".to_owned(),
            false => format!("network of clients (/{granularity})"),
        };
        lines.push(format!(
            "  persistent: a {whom} keeps its real server until it has had no connection for {} s",
            timeout.as_secs()
        ));
    }
    let table = compile(inputs);
    if let Some(compiled) = table.virtual_servers.get(&key) {
        for (addr, server) in &compiled.real_servers {
            lines.push(format!("  {addr}: {}", reason(inputs, vs, *addr, server)));
            lines.extend(hint(vs, *addr, server.method).map(|hint| format!("    note: {hint}")));
        }
    }
    lines.join("\n")
}

fn reason(
    inputs: &Inputs<'_>,
    vs: &VirtualServer,
    addr: SocketAddr,
    server: &RealServer,
) -> String {
    let method = match server.method {
        Method::Dr => "DR",
        Method::Nat => "NAT",
        Method::Tun => "TUN",
        Method::Local => "local (this host)",
    };
    let health = inputs.health.get(vs.key, addr).0;
    let sorry = vs.sorry_server == Some(addr);
    let drained = inputs.admin.get(vs.key, addr).is_some();
    let why = match (server.state, health) {
        (RealServerState::Up, _) if sorry => "the sorry server stands in, the quorum is lost",
        (RealServerState::Up, _) if server.weight == 0 => "no new connections: weight 0",
        (RealServerState::Up, Health::Unknown) => "takes connections (not probed yet)",
        (RealServerState::Up, _) => "takes connections",
        (RealServerState::Inhibited, _) => {
            "down, established connections are kept (inhibit_on_failure)"
        }
        (RealServerState::Closed, Health::Down) => {
            "down, its connections go on until their time is over (on_down drain)"
        }
        (RealServerState::Closed, Health::Full) => "no new connections: its limit is reached",
        (RealServerState::Closed, Health::Drain) => "no new connections: it is shutting down",
        (RealServerState::Closed, Health::Unknown) => "no new connections until its first success",
        (RealServerState::Closed, _) => "no new connections: the quorum is lost",
        (RealServerState::Drain, _) if drained && vs.persistence.is_some() => {
            "no new clients: drained by the operator"
        }
        (RealServerState::Drain, _) if drained => "no new connections: drained by the operator",
        (RealServerState::Drain, _) if vs.persistence.is_some() => "no new clients: missed a probe",
        (RealServerState::Drain, _) => "no new connections: missed a probe",
        (RealServerState::Down, Health::Down) => "down",
        (RealServerState::Down, _) if drained => "drained by the operator, and the time is over",
        (RealServerState::Down, _) => "down",
    };
    format!("{method}, weight {}, {why}", server.weight)
}
