//! Interfaces and addresses that come, go and change under a running daemon: notify scripts are
//! told what real keepalived tells them, in the same order and nothing more.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    netns::{Namespace, ready_or_skip},
    wait::{wait_true, wait_until},
};
use tempfile::TempDir;

/// An election takes 0.7 s, duplicate address detection up to two seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// One host, one cable, one daemon.
struct Bed {
    lb: Namespace,
    peer: Namespace,
    host: Host,
    notes: PathBuf,
    _dir: TempDir,
}

impl Bed {
    fn new(program: Program, vip: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (lb, peer) = (Namespace::new("lb")?, Namespace::new("peer")?);
        if vip == IPV6 {
            for setting in ["all", "default"] {
                lb.sysctl(&format!("net/ipv6/conf/{setting}/disable_ipv6"), "0")?;
            }
        }
        let host = Host::new(&lb, program, dir.path())?;
        let notes = dir.path().join("notes");
        let script = executable(
            &dir.path().join("notify.sh"),
            &format!("#!/bin/sh\necho \"$3\" >> {}\n", notes.display()),
        )?;
        host.write_config(&format!(
            "global_defs {{\n script_user root\n dynamic_interfaces\n}}\n\
             vrrp_instance VI_1 {{\n interface eth0\n version 3\n virtual_router_id 51\n \
             priority 150\n advert_int 0.2\n notify {}\n virtual_ipaddress {{\n  {vip}\n }}\n}}\n",
            script.display()
        ))?;
        Ok(Self { lb, peer, host, notes, _dir: dir })
    }

    fn plug(&self) -> Result<()> {
        let end = ["type", "veth", "peer", "name", "eth0", "netns", self.peer.name()];
        self.lb.ip(&[&["link", "add", "eth0"][..], &end].concat())?;
        Ok(())
    }

    fn address(&self, word: &str) -> Result<()> {
        self.lb.ip(&["addr", word, "10.77.0.1/24", "dev", "eth0"]).map(drop)
    }

    fn up(&self) -> Result<()> {
        self.lb.ip(&["link", "set", "eth0", "up"])?;
        self.peer.ip(&["link", "set", "eth0", "up"]).map(drop)
    }

    /// The kernel tells changes of carrier at most once a second.
    fn settle(&self) -> Result<()> {
        wait_true("the carrier", LIMIT, || {
            self.lb.ip(&["link", "show", "eth0"]).is_ok_and(|text| text.contains("state UP"))
        })
    }

    /// Plugged, with address, carrier and a master.
    fn master(&mut self) -> Result<()> {
        self.plug()?;
        self.address("add")?;
        self.up()?;
        self.settle()?;
        self.host.start()?;
        self.wait("MASTER")
    }

    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.notes).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Until this is what was told last.
    fn wait(&self, state: &str) -> Result<()> {
        wait_until(
            &format!("{state} to be told"),
            LIMIT,
            || Ok(self.told().last().is_some_and(|last| last == state).then_some(())),
            || format!("told: {:?}\n{}", self.told(), self.host.log_tail(30)),
        )
    }
}

fn executable(path: &Path, text: &str) -> Result<PathBuf> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_owned())
}

/// The same by both; what both told.
fn compare(vip: &str, happens: impl Fn(&mut Bed) -> Result<()>, wanted: &[&str]) -> Result<()> {
    if !ready_or_skip("interop_links")? {
        return Ok(());
    }
    if let Err(why) = host::available(Program::Keepalived) {
        ensure!(std::env::var("LB_NO_SKIP").is_err(), "{why}");
        eprintln!("SKIPPED interop_links: {why}");
        return Ok(());
    }
    for program in [Program::Keepalived, Program::Lbd] {
        let mut bed = Bed::new(program, vip)?;
        happens(&mut bed).with_context(|| program.name())?;
        bed.host.stop()?;
        // keepalived does not wait long for its last script.
        bed.wait("STOP").with_context(|| program.name())?;
        let told = bed.told();
        let ends = [wanted, &["STOP"]].concat();
        ensure!(told == ends, "{} told {told:?}\n{}", program.name(), bed.host.log_tail(30));
    }
    Ok(())
}

const IPV4: &str = "10.77.0.100";
const IPV6: &str = "fe80::77:100";

macro_rules! root_test {
    ($name:ident, $vip:expr, $happens:expr, $wanted:expr) => {
        #[test]
        #[ignore = "needs root: cargo xtask test"]
        fn $name() -> Result<()> {
            compare($vip, $happens, &$wanted)
        }
    };
}

root_test!(
    an_interface_that_appears_later,
    IPV4,
    |bed| {
        bed.host.start()?;
        bed.wait("FAULT")?;
        bed.plug()?;
        bed.address("add")?;
        bed.up()?;
        bed.wait("MASTER")
    },
    ["FAULT", "BACKUP", "MASTER"]
);

root_test!(
    an_address_that_comes_later_and_goes,
    IPV4,
    |bed| {
        bed.plug()?;
        bed.up()?;
        bed.settle()?;
        bed.host.start()?;
        bed.wait("FAULT")?;
        bed.address("add")?;
        bed.wait("MASTER")?;
        bed.address("del")?;
        bed.wait("FAULT")?;
        bed.address("add")?;
        bed.wait("MASTER")
    },
    ["FAULT", "BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER"]
);

root_test!(
    a_carrier_that_goes_and_comes,
    IPV4,
    |bed| {
        bed.master()?;
        bed.peer.ip(&["link", "set", "eth0", "down"])?;
        bed.wait("FAULT")?;
        bed.peer.ip(&["link", "set", "eth0", "up"])?;
        bed.wait("MASTER")
    },
    ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER"]
);

root_test!(
    an_interface_that_is_renamed_and_back,
    IPV4,
    |bed| {
        bed.master()?;
        for (from, to) in [("eth0", "other0"), ("other0", "eth0")] {
            bed.lb.ip(&["link", "set", from, "down"])?;
            bed.wait("FAULT")?;
            bed.lb.ip(&["link", "set", from, "name", to])?;
            bed.lb.ip(&["link", "set", to, "up"])?;
        }
        bed.wait("MASTER")
    },
    ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER"]
);

root_test!(
    an_interface_that_is_made_anew,
    IPV4,
    |bed| {
        bed.master()?;
        bed.lb.ip(&["link", "del", "eth0"])?;
        bed.wait("FAULT")?;
        bed.plug()?;
        bed.address("add")?;
        bed.up()?;
        bed.wait("MASTER")
    },
    ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER"]
);

// The kernel still asks whether the link-local address is anybody else's: no fault.
root_test!(
    an_ipv6_address_that_is_still_tentative_at_the_start,
    IPV6,
    |bed| {
        bed.plug()?;
        // So that the start is within it.
        bed.lb.sysctl("net/ipv6/conf/eth0/dad_transmits", "8")?;
        bed.up()?;
        bed.settle()?;
        let text = bed.lb.ip(&["-6", "addr", "show", "dev", "eth0"])?;
        ensure!(text.contains("tentative"), "the test tests nothing: {text}");
        bed.host.start()?;
        bed.wait("MASTER")
    },
    ["BACKUP", "MASTER"]
);

// The kernel takes IPv6 addresses off before it tells that the link is down: nobody took the VIP.
root_test!(
    a_link_that_goes_down_takes_its_ipv6_addresses_with_it,
    IPV6,
    |bed| {
        bed.plug()?;
        bed.up()?;
        bed.settle()?;
        wait_true("a link-local address", LIMIT, || {
            let shown = bed.lb.ip(&["-6", "addr", "show", "dev", "eth0"]);
            shown.is_ok_and(|text| text.contains("fe80") && !text.contains("tentative"))
        })?;
        bed.host.start()?;
        bed.wait("MASTER")?;
        bed.lb.ip(&["link", "set", "eth0", "down"])?;
        bed.wait("FAULT")?;
        bed.lb.ip(&["link", "set", "eth0", "up"])?;
        bed.wait("MASTER")
    },
    ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER"]
);
