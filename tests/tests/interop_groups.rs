//! A vrrp_sync_group of lbd beside the same one of real keepalived: two LANs, an instance of the
//! group on each, and both VIPs are on one host, whichever LAN fails.

use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    interop::FIRST_ELECTION,
    netns::{Namespace, Port, Switch, ready_or_skip},
    wait::wait_until,
};
use tempfile::TempDir;

/// A move takes 0.8 s; the kernel tells changes of carrier at most once a second.
const LIMIT: Duration = Duration::from_secs(30);

fn config(priority: u8) -> String {
    let instance = |number: u8| {
        format!(
            "vrrp_instance VI_{number} {{\n interface eth{number}\n virtual_router_id 5{number}\n \
             version 3\n advert_int 0.2\n priority {priority}\n virtual_ipaddress {{\n  \
             10.77.{number}.100/24\n }}\n}}\n"
        )
    };
    format!(
        "vrrp_sync_group G {{\n group {{\n  VI_0\n  VI_1\n }}\n}}\n{}{}",
        instance(0),
        instance(1)
    )
}

struct Site {
    netns: Namespace,
    ports: [Port; 2],
    host: Host,
}

impl Site {
    fn new(
        role: &str,
        program: Program,
        last: u8,
        lans: &[Switch; 2],
        dir: &TempDir,
    ) -> Result<Self> {
        let netns = Namespace::new(role)?;
        let plug = |number: usize| {
            let address = format!("10.77.{number}.{last}/24");
            lans[number].plug(&netns, &format!("eth{number}"), Some(&address))
        };
        let ports = [plug(0)?, plug(1)?];
        let host = Host::new(&netns, program, dir.path())?;
        host.write_config(&config(200 - last))?;
        Ok(Self { netns, ports, host })
    }

    /// The VIPs it holds, one bit a LAN.
    fn holds(&self) -> Result<u8> {
        let has = |number: u8| self.netns.has_address([10, 77, number, 100]);
        Ok(u8::from(has(0)?) | u8::from(has(1)?) << 1)
    }
}

/// The better host runs `programs[0]`.
fn live(programs: [Program; 2]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let lans = [Switch::new("lan0")?, Switch::new("lan1")?];
    let mut high = Site::new("high", programs[0], 10, &lans, &dir)?;
    let mut low = Site::new("low", programs[1], 11, &lans, &dir)?;
    low.host.start()?;
    high.host.start()?;
    let both_at = |high: &Site, low: &Site, what: &str, want: (u8, u8), limit: Duration| {
        wait_until(
            &format!("{programs:?}: {what}"),
            limit,
            || Ok(((high.holds()?, low.holds()?) == want).then_some(())),
            || {
                let holds = (high.holds(), low.holds());
                format!("{holds:?}\n{}\n{}", high.host.log_tail(40), low.host.log_tail(40))
            },
        )
    };
    both_at(&high, &low, "the better one has both", (3, 0), FIRST_ELECTION)?;
    for lan in 0..2 {
        high.ports[lan].set_link(false)?;
        both_at(&high, &low, &format!("both move when LAN {lan} fails"), (0, 3), LIMIT)?;
        high.ports[lan].set_link(true)?;
        both_at(&high, &low, &format!("both return with LAN {lan}"), (3, 0), LIMIT)?;
    }
    high.host.stop()?;
    both_at(&high, &low, "both move at a stop", (0, 3), LIMIT)?;
    low.host.stop()?;
    ensure!((high.holds()?, low.holds()?) == (0, 0), "left behind");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_group_moves_as_one_between_lbd_and_keepalived_both_ways() -> Result<()> {
    if !ready_or_skip("interop_groups")? {
        return Ok(());
    }
    let (ours, theirs) = (Program::Lbd, Program::Keepalived);
    for program in [ours, theirs] {
        host::available(program).map_err(|why| anyhow::anyhow!(why))?;
    }
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(|| live([theirs, ours]));
        (live([ours, theirs]), other.join())
    });
    one?;
    other.map_err(|_| anyhow::anyhow!("panicked"))?
}
