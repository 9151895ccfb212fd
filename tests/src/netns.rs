//! Network namespaces, veth cables and a bridge as switch, all owned by guards.
//!
//! Every name carries the pid of the process that made it, so that suites may run side by side
//! and a later run can remove what a killed one left behind ([`reap`]).

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::{signal::Signal, socket::SockaddrStorage},
    unistd::Pid,
};

use crate::{
    packet::build::Family,
    process::{Process, output, send},
    sys,
};

/// First part of every name we give: namespaces, lbd instances, directories.
pub const PREFIX: &str = "lbdt";
const NETNS_DIR: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";

static COUNTER: AtomicU32 = AtomicU32::new(0);
static REAPED: Once = Once::new();

/// A name nobody else has: `lbdt-PID-COUNTER-ROLE`.
pub fn unique(role: &str) -> String {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}-{}-{number}-{role}", std::process::id())
}

/// Whether this process may make network namespaces; the reason when not.
pub fn available() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    for tool in ["ip", "ethtool"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return Err(format!("`{tool}` is not installed"));
        }
    }
    Ok(())
}

/// A network namespace. Clones share it; the last one ends what still runs in it and removes it.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    name: String,
    role: String,
    file: Arc<File>,
}

impl Namespace {
    /// Makes one, with `lo` up. `role` is for people: client, lb1, db1.
    ///
    /// # Errors
    /// When `ip netns add` fails (not root, no such kernel feature).
    pub fn new(role: &str) -> Result<Self> {
        REAPED.call_once(reap);
        let name = unique(role);
        output(ip(&["netns", "add", &name]))?;
        let path = Path::new(NETNS_DIR).join(&name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let made = Self(Arc::new(Owned { name, role: role.to_owned(), file: Arc::new(file) }));
        made.ip(&["link", "set", "lo", "up"])?;
        // No IPv6 chatter (router solicitations, DAD) beside what a test measures.
        made.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        made.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        Ok(made)
    }

    /// Its name under /run/netns.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it plays: client, lb1, db1.
    pub fn role(&self) -> &str {
        &self.0.role
    }

    /// Its file, for `nsenter --net=…`.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.0.name)
    }

    /// A command that will start inside. It dies with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::start_in(&mut command, Arc::clone(&self.0.file));
        command
    }

    /// Runs a program inside to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(args);
        output(command).with_context(|| format!("in {}", self.role()))
    }

    /// `ip ARGS` inside.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        self.run("ip", args)
    }

    /// Starts a program inside; its output goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, name: &str, command: Command, log: Option<&Path>) -> Result<Process> {
        Process::start(name, command, log).with_context(|| format!("in {}", self.role()))
    }

    /// Runs `work` in a thread that has entered the namespace, and waits for it. Sockets and
    /// processes made there belong to the namespace.
    ///
    /// # Errors
    /// When the thread cannot enter, or `work` panicked.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter_thread()?;
                Ok(work())
            });
            worker.join().map_err(|_| anyhow!("work inside {} panicked", self.role()))?
        })
    }

    /// Moves the calling thread into the namespace for good. For threads made for this alone.
    ///
    /// # Errors
    /// When setns(2) fails.
    pub fn enter_thread(&self) -> Result<()> {
        setns(&*self.0.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter the namespace of {}", self.role()))
    }

    /// Writes a file under /proc/sys, as in `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When the kernel has no such setting or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        // /proc/sys/net shows the namespace of the thread that opens the file.
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("cannot write {value} to {key} in {}", self.role()))
    }

    /// Whether an address is on any of its interfaces.
    ///
    /// # Errors
    /// When the addresses cannot be read.
    pub fn has_address(&self, addr: impl Into<IpAddr>) -> Result<bool> {
        let addr = addr.into();
        self.enter(|| thread_has_address(addr))?
    }

    /// Lets it speak IPv6, with no other addresses than those a test gives: no automatic
    /// link-local address, no router solicitation, no duplicate address detection. Call it before
    /// interfaces are made.
    ///
    /// # Errors
    /// When the kernel refuses a setting.
    pub fn enable_ipv6(&self) -> Result<()> {
        for (key, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("accept_dad", "0")] {
            self.sysctl(&format!("net/ipv6/conf/default/{key}"), value)?;
        }
        for scope in ["all", "default"] {
            self.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "0")?;
        }
        Ok(())
    }

    /// A namespace that speaks a family.
    ///
    /// # Errors
    /// As [`Namespace::new`] and [`Namespace::enable_ipv6`].
    pub fn of_family(role: &str, family: Family) -> Result<Self> {
        let netns = Self::new(role)?;
        if family == Family::Six {
            netns.enable_ipv6()?;
        }
        Ok(netns)
    }

    /// Processes whose network namespace this is.
    pub fn pids(&self) -> Vec<Pid> {
        pids_in(&self.path())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Whether the network namespace of the calling thread has an address. For samplers, which enter
/// once and ask often.
///
/// # Errors
/// When getifaddrs(3) fails.
pub fn thread_has_address(addr: impl Into<IpAddr>) -> Result<bool> {
    let addr = addr.into();
    let found = nix::ifaddrs::getifaddrs().context("cannot list addresses")?;
    let of_entry = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(found.filter_map(|entry| entry.address.and_then(of_entry)).any(|ip| ip == addr))
}

/// A bridge in a namespace of its own.
#[derive(Clone, Debug)]
pub struct Switch {
    netns: Namespace,
    ports: Arc<AtomicU32>,
}

/// The switch's end of a cable.
#[derive(Clone, Debug)]
pub struct Port {
    switch: Namespace,
    name: String,
}

impl Switch {
    /// A learning bridge without spanning tree.
    ///
    /// # Errors
    /// When the namespace or the bridge cannot be made.
    pub fn new(role: &str) -> Result<Self> {
        let netns = Namespace::new(role)?;
        netns.ip(&[
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "stp_state",
            "0",
            "forward_delay",
            "0",
        ])?;
        netns.ip(&["link", "set", "br0", "up"])?;
        Ok(Self { netns, ports: Arc::new(AtomicU32::new(0)) })
    }

    /// The namespace of the bridge, for tcpdump.
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }

    /// Plugs a new veth pair in: one end is `interface` in `host`, with `address` if given, the
    /// other a port of the bridge. Settings for native XDP on veth (reference/testbed.md §2):
    /// the port receives by NAPI (GRO on, else frames that a program redirects out of the host
    /// would never arrive), and both ends send complete checksums (TX offload off).
    ///
    /// # Errors
    /// When `ip` or `ethtool` fails.
    pub fn plug(&self, host: &Namespace, interface: &str, address: Option<&str>) -> Result<Port> {
        let port = self.plug_as_it_is(host, interface, address)?;
        self.netns.run("ethtool", &["-K", &port.name, "gro", "on", "tx", "off"])?;
        host.run("ethtool", &["-K", interface, "tx", "off"])?;
        Ok(port)
    }

    /// As [`Switch::plug`], with the offloads that the kernel gives a veth pair.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn plug_as_it_is(
        &self,
        host: &Namespace,
        interface: &str,
        address: Option<&str>,
    ) -> Result<Port> {
        let name = format!("p{}", self.ports.fetch_add(1, Ordering::Relaxed));
        self.netns.ip(&[
            "link",
            "add",
            &name,
            "type",
            "veth",
            "peer",
            "name",
            interface,
            "netns",
            host.name(),
        ])?;
        self.netns.ip(&["link", "set", &name, "master", "br0", "up"])?;
        if let Some(address) = address {
            host.ip(&["addr", "add", address, "dev", interface])?;
        }
        host.ip(&["link", "set", interface, "up"])?;
        Ok(Port { switch: self.netns.clone(), name })
    }
}

impl Port {
    /// Its name in the switch's namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Completes partial checksums, and cuts large packets up, before they reach the host: as the wire between two NICs
    /// would, so that a wrong one is seen there.
    ///
    /// # Errors
    /// When `ethtool` fails.
    pub fn complete_checksums(&self) -> Result<()> {
        self.switch.run("ethtool", &["-K", &self.name, "tx", "off"]).map(drop)
    }

    /// Cuts or restores the cable: the host's end loses or regains its carrier.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.switch.ip(&["link", "set", &self.name, if up { "up" } else { "down" }]).map(drop)
    }

    /// The command that cuts the cable, for a person in another terminal; with `up` in place of `down` it mends it.
    pub fn cut_by(&self) -> String {
        format!("nsenter --net={} ip link set {} down", self.switch.path().display(), self.name)
    }

    /// Isolated ports exchange no frames with each other. The host keeps its carrier and does not
    /// notice.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn set_isolated(&self, isolated: bool) -> Result<()> {
        let word = if isolated { "on" } else { "off" };
        let args = ["link", "set", &self.name, "type", "bridge_slave", "isolated", word];
        self.switch.ip(&args).map(drop)
    }
}

/// Sends one ARP request for `target` from `interface` in `from` and returns the answers' MAC
/// addresses. Asks with `arping`, which needs no address of its own to be right.
///
/// # Errors
/// When `arping` cannot be started.
pub fn arping(from: &Namespace, interface: &str, target: Ipv4Addr) -> Result<Vec<String>> {
    let mut command = from.command("arping");
    command.args(["-c", "1", "-w", "1", "-I", interface, &target.to_string()]);
    let out = command.output().context("cannot start arping")?;
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(text
        .split_whitespace()
        .filter_map(|word| {
            let word = word.trim_matches(|c| matches!(c, '[' | ']' | '(' | ')')).to_lowercase();
            (word.len() == 17 && word.matches(':').count() == 5).then_some(word)
        })
        .filter(|mac| mac != "ff:ff:ff:ff:ff:ff")
        .collect())
}

/// Removes what runs that were killed have left: namespaces with the processes in them, and
/// pinned maps of lab instances, when the process that made them is gone.
pub fn reap() {
    for directory in [NETNS_DIR, BPFFS] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(owner) = owner_of(&name) else { continue };
            if Path::new(&format!("/proc/{owner}")).exists() {
                continue;
            }
            if directory == NETNS_DIR {
                remove(&name);
            } else {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// The pid inside `lbdt-PID-…` or `lbd-lbdt-PID-…` (pin directories of instances).
fn owner_of(name: &str) -> Option<u32> {
    let name = name.strip_prefix("lbd-").unwrap_or(name);
    name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}

fn remove(name: &str) {
    let path = Path::new(NETNS_DIR).join(name);
    for pid in pids_in(&path) {
        let _ = send(pid, Signal::SIGKILL);
    }
    if let Err(err) = output(ip(&["netns", "del", name])) {
        eprintln!("cannot remove network namespace {name}: {err:#}");
    }
}

fn pids_in(netns: &Path) -> Vec<Pid> {
    let Ok(wanted) = fs::metadata(netns).map(|meta| (meta.st_dev(), meta.st_ino())) else {
        return Vec::new();
    };
    let own = std::process::id().to_string();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| *name != own)
        .filter_map(|name| name.parse().ok().map(|pid: i32| (pid, name)))
        .filter(|(_, name)| {
            fs::metadata(format!("/proc/{name}/ns/net"))
                .is_ok_and(|meta| (meta.st_dev(), meta.st_ino()) == wanted)
        })
        .map(|(pid, _)| Pid::from_raw(pid))
        .collect()
}

fn ip(args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(args);
    command
}

/// Fails, or returns false after printing why, when namespaces cannot be made: skips are loud,
/// and an error under `LB_NO_SKIP=1` (CI).
///
/// # Errors
/// Under `LB_NO_SKIP=1`.
pub fn ready_or_skip(suite: &str) -> Result<bool> {
    match available() {
        Ok(()) => Ok(true),
        Err(why) => {
            if std::env::var_os("LB_NO_SKIP").is_some_and(|value| value == "1") {
                bail!("{suite} cannot run: {why}");
            }
            eprintln!("SKIPPED {suite}: {why}");
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_read_from_namespaces_and_pin_directories() {
        assert_eq!(owner_of("lbdt-123-4-db1"), Some(123));
        assert_eq!(owner_of("lbd-lbdt-77-1-lb1"), Some(77));
        assert_eq!(owner_of("lbd-prod"), None);
        assert_eq!(owner_of("other-1-2"), None);
    }
}
