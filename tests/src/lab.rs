//! The lab: a client, two balancer hosts and real MariaDB servers, wired as DESIGN §11 draws it.
//!
//! | mode | wiring |
//! |---|---|
//! | dr | everyone on one switch; the servers hold the VIP on `lo` and do not answer ARP for it |
//! | nat | client side and server side; the servers' gateway is an inner VIP of the same instance |
//! | local | the classic pair: each balancer host is also a MariaDB server, no virtual_server |

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use lb_userspace::base::status::VrrpState;
use tempfile::TempDir;

use crate::{
    host::{self, Host, Program},
    lab_config::{self, HostConfig},
    mariadb::{self, MariaDb},
    netns::{Namespace, Port, Switch},
    process::output,
    traffic::Load,
    tutorial::{self, Script, Seed},
    witness::{Method, Witness},
};

/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The servers' gateway in NAT mode.
pub const INNER_VIP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
/// lb1 and lb2 on the client's side.
pub const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];

/// How long the first election may take: init, convergence of the data plane, master-down.
pub const ELECTION_LIMIT: Duration = Duration::from_secs(40);

/// Forwarding method of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Dr,
    Nat,
    Local,
}

impl Mode {
    /// The word of `--mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::Local => "local",
        }
    }
}

/// Where lbd's program sits on the lab's cables, and what offloads these have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `lvs_hook` is not said, and veth pairs have the offloads that the kernel gives them.
    Auto,
    /// `lvs_hook xdp`, with the offloads that XDP needs on veth (reference/testbed.md §2): no partial checksums reach it,
    /// and the peers' GRO takes what it redirects.
    Xdp,
}

impl Hook {
    /// The word of `--hook`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
        }
    }

    fn plug(
        self,
        switch: &Switch,
        host: &Namespace,
        interface: &str,
        address: &str,
    ) -> Result<Port> {
        match self {
            Self::Auto => switch.plug_as_it_is(host, interface, Some(address)),
            Self::Xdp => switch.plug(host, interface, Some(address)),
        }
    }

    /// What a reader should know of it.
    fn setting(self) -> &'static str {
        match self {
            Self::Auto => {
                "every cable is a veth pair with the offloads that the kernel gives it; `lvs_hook auto` takes tc there"
            }
            Self::Xdp => {
                "every cable is a veth pair; for `lvs_hook xdp` both its ends have TX checksum offload off (`ethtool -K DEV tx off`) \
                 and the switch's ends GRO on (`ethtool -K DEV gro on`)"
            }
        }
    }
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Spec {
    pub mode: Mode,
    pub hook: Hook,
    /// `lb_algo`; unused in local mode.
    pub scheduler: String,
    /// Program of lb1 and lb2.
    pub programs: [Program; 2],
    /// The check script of local mode.
    pub script: Script,
    /// MariaDB servers: 2 or 3.
    pub servers: u8,
}

impl Spec {
    /// lbd twice, three servers (two in local mode), wlc.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            hook: Hook::Auto,
            scheduler: "wlc".to_owned(),
            programs: [Program::Lbd; 2],
            script: Script::Netstat,
            servers: if mode == Mode::Local { 2 } else { 3 },
        }
    }
}

/// A MariaDB server with its cable.
#[derive(Debug)]
pub struct Server {
    pub db: MariaDb,
    pub addr: Ipv4Addr,
    pub cable: Port,
}

/// Everything, running. Dropped in order: daemons, servers, namespaces, files.
#[derive(Debug)]
pub struct Lab {
    pub spec: Spec,
    pub hosts: [Host; 2],
    pub servers: Vec<Server>,
    pub client: Namespace,
    pub lan: Switch,
    /// Real servers that the configuration names now.
    pub pool: Vec<Ipv4Addr>,
    seed: Option<Seed>,
    inner: Option<Switch>,
    cables: [Port; 2],
    settings: Vec<String>,
    dir: TempDir,
}

impl Lab {
    /// Wires everything up, starts the servers and their replication, writes the configurations.
    /// No balancer runs yet.
    ///
    /// # Errors
    /// When something the lab needs is missing or does not come up.
    pub fn build(spec: Spec) -> Result<Self> {
        for program in spec.programs {
            host::available(program).map_err(|why| anyhow::anyhow!(why))?;
        }
        mount_bpffs()?;
        let dir = mariadb::workspace("lab")?;
        // The checker and api processes drop root and must still reach their files.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .context("cannot open the lab's directory to unprivileged roles")?;
        let lan = Switch::new("lan")?;
        let client = Namespace::new("client")?;
        spec.hook.plug(&lan, &client, "eth0", &format!("{CLIENT}/24"))?;
        let inner = match spec.mode {
            Mode::Nat => Some(Switch::new("inner")?),
            Mode::Dr | Mode::Local => None,
        };
        let mut cables = Vec::new();
        let mut hosts = Vec::new();
        for (number, (addr, program)) in (1_u8..).zip(HOSTS.into_iter().zip(spec.programs)) {
            let netns = Namespace::new(&format!("lb{number}"))?;
            cables.push(spec.hook.plug(&lan, &netns, "eth0", &format!("{addr}/24"))?);
            if let Some(inner) = &inner {
                spec.hook.plug(inner, &netns, "eth1", &format!("10.88.0.1{number}/24"))?;
            }
            let mut host = Host::new(&netns, program, dir.path())?;
            if spec.hook == Hook::Auto {
                host.leave_hook_to_lbd();
            }
            hosts.push(host);
        }
        let mut hosts: [Host; 2] =
            hosts.try_into().map_err(|_| anyhow::anyhow!("the lab has two hosts"))?;
        let cables: [Port; 2] =
            cables.try_into().map_err(|_| anyhow::anyhow!("the lab has two hosts"))?;
        let servers = match spec.mode {
            Mode::Local => local_servers(&hosts, &cables)?,
            Mode::Dr | Mode::Nat => pool_servers(&spec, inner.as_ref().unwrap_or(&lan))?,
        };
        replicate(&servers)?;
        let seed = if spec.mode == Mode::Local { Seed::from_env()? } else { None };
        if spec.mode == Mode::Local {
            for (host, server) in hosts.iter_mut().zip(&servers) {
                tutorial::furnish(host, server.db.dir(), spec.script, seed.as_ref())?;
            }
        }
        let pool = servers.iter().take(2).map(|server| server.addr).collect();
        let settings = vec![spec.hook.setting().to_owned()];
        let mut lab =
            Self { spec, hosts, servers, client, lan, pool, seed, inner, cables, settings, dir };
        lab.write_configs()?;
        Ok(lab)
    }

    /// Settings of the lab's cables that a reader should know, one sentence each.
    pub fn settings(&self) -> &[String] {
        &self.settings
    }

    /// Where logs and configurations are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The switch between balancers and servers in NAT mode.
    pub fn inner(&self) -> Option<&Switch> {
        self.inner.as_ref()
    }

    /// The client's target.
    pub fn target(&self) -> SocketAddrV4 {
        SocketAddrV4::new(VIP, mariadb::PORT)
    }

    /// The lab's usual traffic.
    pub fn load(&self) -> Load {
        Load { target: self.target().into(), busy: 16, idle: 4, connects_per_second: 20 }
    }

    /// The cable of a balancer host on the client's side.
    pub fn cable(&self, host: usize) -> Option<&Port> {
        self.cables.get(host)
    }

    /// Watches both hosts' cables on the client's side for frames in the VIP's name.
    ///
    /// # Errors
    /// When there is no packet socket.
    pub fn witness(&self) -> Result<Witness> {
        let method = match self.spec.mode {
            Mode::Dr | Mode::Nat => Method::Forwards,
            Mode::Local => Method::Accepts,
        };
        Witness::start(&self.lan, &self.cables, VIP, method)
    }

    /// Writes both hosts' configuration for the present [`Lab::pool`]; running daemons are not
    /// told.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_configs(&mut self) -> Result<()> {
        for (number, host) in self.hosts.iter().enumerate() {
            host.write_config(&self.config_of(number))?;
        }
        Ok(())
    }

    /// The configuration text of host 0 or 1.
    pub fn config_of(&self, host: usize) -> String {
        if let Some(text) = self.seed.as_ref().and_then(|seed| seed.config(host)) {
            return text.to_owned();
        }
        lab_config::text(&HostConfig {
            first: host == 0,
            mode: self.spec.mode,
            addr: HOSTS.get(host).copied().unwrap_or(Ipv4Addr::UNSPECIFIED),
            scheduler: &self.spec.scheduler,
            pool: &self.pool,
        })
    }

    /// Starts both balancers and waits until lb1 is master and lb2 backup.
    ///
    /// # Errors
    /// When the election does not end so in time.
    pub fn start_hosts(&mut self) -> Result<()> {
        for host in &mut self.hosts {
            host.start()?;
        }
        let [first, second] = &self.hosts;
        first.wait_state(VrrpState::Master, VIP, ELECTION_LIMIT)?;
        second.wait_state(VrrpState::Backup, VIP, ELECTION_LIMIT)
    }

    /// Which host has the VIP on an interface and runs its daemon; 0 or 1.
    ///
    /// # Errors
    /// When there is none or more than one.
    pub fn master(&self) -> Result<usize> {
        let mut holders = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            if host.has(VIP)? && !host.pids().is_empty() {
                holders.push(number);
            }
        }
        match holders.as_slice() {
            [one] => Ok(*one),
            other => bail!("{} hosts hold {VIP}: {other:?}", other.len()),
        }
    }

    /// The server with this `server_id`.
    ///
    /// # Errors
    /// When the lab has none.
    pub fn server(&mut self, server_id: u32) -> Result<&mut Server> {
        self.servers
            .iter_mut()
            .find(|server| server.db.server_id() == server_id)
            .with_context(|| format!("the lab has no db{server_id}"))
    }
}

/// db1-db3 as hosts of their own.
fn pool_servers(spec: &Spec, switch: &Switch) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for number in 1..=spec.servers {
        let addr = match spec.mode {
            Mode::Nat => Ipv4Addr::new(10, 88, 0, 20 + number),
            Mode::Dr | Mode::Local => Ipv4Addr::new(10, 77, 0, 20 + number),
        };
        let netns = Namespace::new(&format!("db{number}"))?;
        let cable = spec.hook.plug(switch, &netns, "eth0", &format!("{addr}/24"))?;
        if spec.mode == Mode::Nat {
            netns.ip(&["route", "add", "default", "via", &INNER_VIP.to_string()])?;
        } else {
            // Direct server return: accept the VIP, never announce it.
            netns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            netns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
            netns.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
        }
        let db = MariaDb::start(&netns, u32::from(number))?;
        servers.push(Server { db, addr, cable });
    }
    Ok(servers)
}

/// A server on each balancer host.
fn local_servers(hosts: &[Host; 2], cables: &[Port; 2]) -> Result<Vec<Server>> {
    (1_u32..)
        .zip(hosts.iter().zip(cables).zip(HOSTS))
        .map(|(id, ((host, cable), addr))| {
            let db = MariaDb::start(host.netns(), id)?;
            Ok(Server { db, addr, cable: cable.clone() })
        })
        .collect()
}

/// db1 and db2 replicate from each other, db3 from db1.
fn replicate(servers: &[Server]) -> Result<()> {
    let [first, second, rest @ ..] = servers else { bail!("the lab needs two servers") };
    mariadb::dual_master((&first.db, first.addr), (&second.db, second.addr))?;
    rest.iter().try_for_each(|server| server.db.replicate_from(first.addr))
}

/// Mounts bpffs where lbd and the lab expect it, as lbd itself would: hosts with a mount
/// namespace of their own must share the lab's.
fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        return Ok(());
    }
    let mut command = Command::new("mount");
    command.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]);
    output(command).map(drop).context("cannot mount bpffs")
}
