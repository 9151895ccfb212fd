//! Real MariaDB behind an IPv6 VIP, by DR and NAT, with two whole lbd: sessions, the death of a server,
//! the death of the master.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    mariadb::{self, CHECK_PASSWORD, CHECK_USER, MariaDb},
    netns::{Namespace, Port, Switch, ready_or_skip},
    packet::build::Family,
    traffic::{Failure, Load, Sample, Traffic, Try},
    wait::wait_until,
};
use lb_userspace::base::status::VrrpState;
use tempfile::TempDir;

const FAMILY: Family = Family::Six;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The servers' gateway under NAT, which moves with the VIP.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const PORT: u16 = mariadb::PORT;
const LIMIT: Duration = Duration::from_secs(60);
/// From a server's death until the last client knows: two probes a second apart, each of which may come a second late
/// and take one, what lbd adds, and room for a machine that stalls. What takes longer is a hang to the client.
const TOLD: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dr,
    Nat,
}

struct Bed {
    traffic: Traffic,
    hosts: [Host; 2],
    servers: [MariaDb; 2],
    cables: [Port; 2],
    _switches: Vec<Switch>,
    _dir: TempDir,
}

impl Bed {
    fn new(kind: Kind) -> Result<Self> {
        host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
        let dir = mariadb::workspace("six")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let lan = Switch::new("lan")?;
        let inner = if kind == Kind::Nat { Some(Switch::new("inner")?) } else { None };
        let client = Namespace::of_family("client", FAMILY)?;
        lan.plug(&client, "eth0", Some(&FAMILY.on_link([10, 77, 0, 50].into())))?;
        let mut hosts = Vec::new();
        for number in [1_u8, 2] {
            let netns = Namespace::of_family(&format!("lb{number}"), FAMILY)?;
            lan.plug(&netns, "eth0", Some(&FAMILY.on_link([10, 77, 0, 10 + number].into())))?;
            // Adverts come from a link-local address.
            netns.ip(&["addr", "add", &format!("fe80::{number}/64"), "dev", "eth0"])?;
            if let Some(inner) = &inner {
                inner.plug(
                    &netns,
                    "eth1",
                    Some(&FAMILY.on_link([10, 88, 0, 10 + number].into())),
                )?;
            }
            let host = Host::new(&netns, Program::Lbd, dir.path())?;
            host.write_config(&config(kind, number == 1))?;
            hosts.push(host);
        }
        let (one, cable_one) = server(kind, inner.as_ref().unwrap_or(&lan), 1)?;
        let (two, cable_two) = server(kind, inner.as_ref().unwrap_or(&lan), 2)?;
        let mut hosts: [Host; 2] = hosts.try_into().map_err(|_| anyhow::anyhow!("two hosts"))?;
        for host in &mut hosts {
            host.start()?;
        }
        hosts[0].wait_state(VrrpState::Master, FAMILY.addr(VIP), LIMIT)?;
        hosts[1].wait_state(VrrpState::Backup, FAMILY.addr(VIP), LIMIT)?;
        let target = SocketAddr::from((FAMILY.addr(VIP), PORT));
        let load = Load { target, busy: 4, idle: 4, connects_per_second: 10 };
        let bed = Self {
            traffic: Traffic::start(&client, load)?,
            hosts,
            servers: [one, two],
            cables: [cable_one, cable_two],
            _switches: [Some(lan), inner].into_iter().flatten().collect(),
            _dir: dir,
        };
        bed.until("sessions on both servers", |bed| Ok(bed.healthy() && bed.sessions_of(1) > 0))?;
        Ok(bed)
    }

    fn until(&self, what: &str, is: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let logs = || self.hosts.iter().map(|host| host.log_tail(25)).collect::<String>();
        wait_until(what, LIMIT, || Ok(is(self)?.then_some(())), logs)
    }

    fn healthy(&self) -> bool {
        self.traffic.healthy()
    }

    fn sessions_of(&self, server: u32) -> usize {
        self.traffic.sessions().iter().filter(|session| session.server == server).count()
    }

    fn outcome(&self, host: usize, name: &str) -> Result<u64> {
        let outcomes = self.hosts[host].forwarder()?.outcomes;
        outcomes.get(name).copied().context("no such outcome")
    }
}

fn config(kind: Kind, first: bool) -> String {
    let (state, priority) = if first { ("MASTER", 101) } else { ("BACKUP", 99) };
    let (method, router) = match kind {
        Kind::Dr => ("DR", String::new()),
        Kind::Nat => ("NAT", format!("    {} dev eth1\n", FAMILY.addr(ROUTER))),
    };
    // Alone (/128), so that it is no source address of probes: servers under DR have it too.
    let vip = FAMILY.addr(VIP);
    let mut text = format!(
        "vrrp_instance VI_6 {{\n  state {state}\n  interface eth0\n  virtual_router_id 56\n\
         \x20 priority {priority}\n  advert_int 1\n  virtual_ipaddress {{\n    {vip}\n{router}  }}\n}}\n\
         virtual_server {vip} {PORT} {{\n  delay_loop 1\n  lb_algo wlc\n  lb_kind {method}\n\
         \x20 protocol TCP\n"
    );
    for number in [1, 2] {
        text.push_str(&format!(
            "  real_server {} {PORT} {{\n    MYSQL_CHECK {{\n      level ping\n      user {CHECK_USER}\n\
             \x20     password {CHECK_PASSWORD}\n      connect_timeout 1\n      retry 1\n\
             \x20     delay_before_retry 1\n    }}\n  }}\n",
            FAMILY.addr(name(kind, number))
        ));
    }
    text + "}\n"
}

fn name(kind: Kind, number: u8) -> Ipv4Addr {
    let net = if kind == Kind::Nat { 88 } else { 77 };
    Ipv4Addr::new(10, net, 0, 20 + number)
}

fn server(kind: Kind, switch: &Switch, number: u8) -> Result<(MariaDb, Port)> {
    let netns = Namespace::of_family(&format!("db{number}"), FAMILY)?;
    let cable = switch.plug(&netns, "eth0", Some(&FAMILY.on_link(name(kind, number))))?;
    // What a server asks for its clients' MAC addresses from when it answers as the VIP, which is on `lo`.
    netns.ip(&["addr", "add", &format!("fe80::{number}1/64"), "dev", "eth0"])?;
    match kind {
        // Neighbours are not answered for an address of `lo`: IPv6 has no need of arp_ignore.
        Kind::Dr => drop(netns.ip(&["addr", "add", &FAMILY.addr(VIP).to_string(), "dev", "lo"])?),
        Kind::Nat => {
            let router = FAMILY.addr(ROUTER).to_string();
            netns.ip(&["-6", "route", "add", "default", "via", &router])?;
        }
    }
    Ok((MariaDb::start_with(&netns, number.into(), &["--bind-address=::"])?, cable))
}

/// Queries and opened sessions that failed since, each once.
fn failures(samples: &[Sample]) -> Vec<&Failure> {
    let of_session = |sample: &&Sample| matches!(sample.tried, Try::Query { .. });
    samples.iter().filter(of_session).filter_map(|sample| sample.result.as_ref().err()).collect()
}

#[test]
fn mariadb_behind_an_ipv6_vip() -> Result<()> {
    if !ready_or_skip("plane_six")? {
        return Ok(());
    }
    for kind in [Kind::Dr, Kind::Nat] {
        let mut bed = Bed::new(kind)?;
        let forwarded = match kind {
            Kind::Dr => "dr_forwarded",
            Kind::Nat => "nat_reply",
        };
        ensure!(bed.outcome(0, forwarded)? > 0, "{kind:?}: nothing went through lbd");
        let text = bed.hosts[0].lbctl(&["flows"])?;
        let vip = SocketAddr::from((FAMILY.addr(VIP), PORT)).to_string();
        ensure!(text.contains(&vip), "{vip} is in no line:\n{text}");
        let text = bed.hosts[0].lbctl(&["explain", &vip])?;
        ensure!(text.contains("xdp: IPv6"), "{text}");

        // A server vanishes. Its clients, half of which say nothing, are reset and find the other one.
        let lost = bed.sessions_of(1);
        let begun = Instant::now();
        bed.cables[0].set_link(false)?;
        bed.until("all sessions on the other server", |bed| {
            Ok(bed.healthy() && bed.sessions_of(2) == 8)
        })?;
        let samples = bed.traffic.since(begun);
        let failed = failures(&samples);
        println!("{kind:?}: server lost, {lost} sessions: {failed:?}");
        ensure!(failed.len() >= lost, "{failed:?}");
        ensure!(failed.iter().all(|failure| **failure == Failure::Reset), "{failed:?}");
        let last = samples.iter().filter(|sample| sample.result.is_err()).map(|it| it.ended).max();
        let took = last.context("no failure")?.duration_since(begun);
        ensure!(took < TOLD, "the last was told after {took:?}");
        ensure!(bed.outcome(0, "reset_dead")? >= lost as u64);
        bed.cables[0].set_link(true)?;
        bed.until("the server to be back", |bed| {
            let servers = bed.hosts[0].forwarder()?.virtual_servers;
            let servers = servers.into_iter().flat_map(|vs| vs.real_servers);
            Ok(servers.filter(|rs| rs.state == "UP" && rs.problem.is_none()).count() == 2)
        })?;

        // The master dies as a whole: its lease ends, the other host takes over and tells the clients.
        let begun = Instant::now();
        bed.hosts[0].kill_all()?;
        bed.hosts[1].wait_state(VrrpState::Master, FAMILY.addr(VIP), LIMIT)?;
        bed.until("sessions by the other host", |bed| {
            Ok(bed.healthy() && bed.outcome(1, forwarded)? > 0)
        })?;
        println!("{kind:?}: master killed, served again after {:?}", begun.elapsed());
        let samples = bed.traffic.since(begun);
        let failed = failures(&samples);
        ensure!(failed.iter().all(|failure| **failure == Failure::Reset), "{failed:?}");
        ensure!(bed.servers.iter_mut().all(MariaDb::running));
        bed.hosts[1].stop()?;
    }
    Ok(())
}
