//! Looking. Nothing is left behind; asking for IPVS makes the kernel load its module, as a start of lbd would.

use std::{collections::BTreeSet, fs, path::Path};

use super::Args;
use crate::{
    base::net::Mac,
    dataplane::{
        ipvs,
        xdp::{
            attach::AttachError,
            links,
            probe::{self, Probe},
        },
    },
    io::{ethtool, neigh::Neigh, netdev::Netdev},
};

/// What was found.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// Instructions verified, where the kernel says; or why it does not take the program.
    pub program: Result<Vec<u32>, String>,
    pub ipvs: Result<(), String>,
    /// Schedulers of lbd that are modules of IPVS.
    pub schedulers: Vec<(&'static str, Module)>,
    pub tcx: bool,
    pub clsact: Module,
    pub nftables: Module,
    /// By name of the setting.
    pub forwarding: Vec<(&'static str, Option<bool>)>,
    pub interfaces: Vec<Interface>,
    /// Interfaces that were asked for by name and are not there.
    pub absent: Vec<String>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub driver: Option<String>,
    pub mtu: u32,
    /// A network card as the machine has it, not made of software.
    pub nic: bool,
    /// It was asked for by name.
    pub named: bool,
    pub native: Native,
    pub lro: Option<bool>,
}

/// Native XDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Native {
    /// Ours is on it.
    Attached,
    /// The id of another one.
    Foreign(u32),
    Yes,
    No,
    /// Why an attempt failed.
    Refused(String),
    Unknown,
}

/// Where a part of the kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Loaded, or built in.
    Here,
    Loadable,
    Missing,
}

impl Facts {
    /// Looks around.
    pub fn look(args: &Args) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let release = release.trim().to_owned();
        let modules = Modules::read(&release);
        let probe = Probe::load().map_err(|error| format!("{error:#}"));
        let (interfaces, absent) = interfaces(args, probe.as_ref().ok());
        let flag = |name: &'static str| {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            let value = fs::read_to_string(path).ok();
            (name, value.map(|it| it.trim() != "0"))
        };
        let scheduler = |name: &'static str| (name, modules.find(&format!("ip_vs_{name}")));
        Self {
            program: probe.map(|probe| probe.verified()),
            // Before the modules are looked at it may have been loadable only.
            ipvs: ipvs::Socket::open().map(drop).map_err(|error| format!("{error:#}")),
            schedulers: ["rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "mh"].map(scheduler).into(),
            tcx: probe::has_tcx(),
            clsact: modules.find("sch_ingress"),
            nftables: modules.find("nf_tables"),
            forwarding: ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"].map(flag).into(),
            interfaces,
            absent,
            release,
        }
    }
}

/// Names of what the kernel has and could load, with `_`.
#[derive(Debug, Default)]
struct Modules {
    here: BTreeSet<String>,
    loadable: BTreeSet<String>,
}

impl Modules {
    fn read(release: &str) -> Self {
        let base = Path::new("/lib/modules").join(release);
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let loaded = fs::read_dir("/sys/module").into_iter().flatten().flatten();
        let mut here: BTreeSet<String> =
            loaded.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        here.extend(text(&base.join("modules.builtin")).lines().map(stem));
        let listed = text(&base.join("modules.dep"));
        let files = listed.lines().filter_map(|line| line.split_once(':'));
        Self { here, loadable: files.map(|(file, _)| stem(file)).collect() }
    }

    fn find(&self, name: &str) -> Module {
        if self.here.contains(name) {
            Module::Here
        } else if self.loadable.contains(name) {
            Module::Loadable
        } else {
            Module::Missing
        }
    }
}

/// `kernel/net/netfilter/ipvs/ip-vs.ko.xz` is `ip_vs`.
fn stem(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

/// Those to look at, and the names that are none.
fn interfaces(args: &Args, probe: Option<&Probe>) -> (Vec<Interface>, Vec<String>) {
    let there = snapshot();
    let named = |name: &String| args.interfaces.contains(name);
    let mut netdev = Netdev::open().ok().flatten();
    let mut found = Vec::new();
    for (ifindex, it) in &there {
        // lo and tunnels have no MAC address. sysfs may be that of another network namespace.
        let ethernet = it.mac != Mac::default();
        let wanted = match args.interfaces.is_empty() {
            true => ethernet && it.running,
            false => named(&it.name),
        };
        if !wanted {
            continue;
        }
        let native = match it.xdp_program {
            Some(id) if is_ours(id) => Native::Attached,
            Some(id) => Native::Foreign(id),
            None => match (netdev.as_mut().map(|netdev| netdev.has_xdp(*ifindex)), probe) {
                (Some(Ok(false)), _) => Native::No,
                (Some(Ok(true)), Some(probe)) if args.attach => attach(probe, &it.name),
                (Some(Ok(true)), _) => Native::Yes,
                (_, Some(probe)) if args.attach => attach(probe, &it.name),
                _ => Native::Unknown,
            },
        };
        found.push(Interface {
            driver: ethtool::driver(&it.name).ok().filter(|driver| !driver.is_empty()),
            mtu: it.mtu,
            nic: it.nic,
            named: named(&it.name),
            native,
            lro: ethtool::has_lro(&it.name).ok(),
            name: it.name.clone(),
        });
    }
    let absent =
        args.interfaces.iter().filter(|name| !there.iter().any(|(_, it)| it.name == **name));
    (found, absent.cloned().collect())
}

/// The kernel's list; empty where it gives none.
fn snapshot() -> Vec<(u32, crate::io::neigh::Interface)> {
    let Ok(tokio) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let snapshot = tokio.block_on(async {
        let neigh = Neigh::open()?;
        neigh.snapshot(&BTreeSet::new()).await
    });
    snapshot.map(|it| it.interfaces.into_iter().collect()).unwrap_or_default()
}

/// The program of an lbd, whatever its instance. By its id: an interface's index is another one's in another
/// network namespace, and the pins of all are in one place.
fn is_ours(program: u32) -> bool {
    let pins = fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten();
    let mut ours = pins.filter(|entry| entry.file_name().to_string_lossy().starts_with("lbd"));
    ours.any(|entry| links::has_program(&entry.path(), program))
}

fn attach(probe: &Probe, interface: &str) -> Native {
    match probe.attach(interface) {
        Ok(()) => Native::Yes,
        Err(AttachError::Unsupported(_)) => Native::No,
        Err(error) => Native::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_by_their_names() {
        assert_eq!(stem("kernel/net/netfilter/ipvs/ip_vs.ko.xz"), "ip_vs");
        assert_eq!(stem("kernel/net/sched/sch-ingress.ko"), "sch_ingress");
        let modules = Modules {
            here: BTreeSet::from(["nf_tables".to_owned()]),
            loadable: BTreeSet::from(["ip_vs".to_owned()]),
        };
        assert_eq!(modules.find("nf_tables"), Module::Here);
        assert_eq!(modules.find("ip_vs"), Module::Loadable);
        assert_eq!(modules.find("ip_vs_rr"), Module::Missing);
    }
}
