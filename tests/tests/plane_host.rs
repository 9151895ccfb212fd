//! A host whose interface has a foreign XDP program: with virtual servers lbd says so and waits,
//! without them VRRP runs unfenced. In neither case is the program touched.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::{
    foreign::Foreign,
    host::{self, Host, Program},
    mariadb,
    netns::{Namespace, Switch, ready_or_skip},
    wait::wait_until,
};
use lb_userspace::base::status::VrrpState;
use tempfile::TempDir;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const LIMIT: Duration = Duration::from_secs(40);

struct Bed {
    lb: Namespace,
    host: Host,
    _dir: TempDir,
    _switch: Switch,
}

fn bed(virtual_server: bool) -> Result<Bed> {
    host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
    let dir = mariadb::workspace("host")?;
    let switch = Switch::new("sw")?;
    let lb = Namespace::new("lb")?;
    switch.plug(&lb, "eth0", Some("10.77.0.2/24"))?;
    let mut config = format!(
        "vrrp_instance VI_1 {{\n  state MASTER\n  interface eth0\n  virtual_router_id 51\n  \
         priority 101\n  advert_int 1\n  virtual_ipaddress {{\n    {VIP}/24\n  }}\n}}\n"
    );
    if virtual_server {
        config.push_str(&format!(
            "virtual_server {VIP} 3306 {{\n  lb_algo wlc\n  lb_kind DR\n  \
             real_server 10.77.0.3 3306 {{\n    weight 1\n  }}\n}}\n"
        ));
    }
    let host = Host::new(&lb, Program::Lbd, dir.path())?;
    host.write_config(&config)?;
    Ok(Bed { lb, host, _dir: dir, _switch: switch })
}

fn program(lb: &Namespace) -> Result<Option<String>> {
    let text = lb.ip(&["-d", "link", "show", "dev", "eth0"])?;
    Ok(text.split_once("prog/xdp").map(|(_, rest)| rest.trim().to_owned()))
}

#[test]
fn a_foreign_program_is_named_and_waited_for() -> Result<()> {
    if !ready_or_skip("plane_host")? {
        return Ok(());
    }
    let mut bed = bed(true)?;
    let foreign = Foreign::attach(&bed.lb)?;
    let theirs = program(&bed.lb)?;
    bed.host.start()?;
    let named = |problem: &str| {
        problem.contains("attach to eth0: another XDP program (id ")
            && problem.contains("ip link set dev eth0 xdp off")
    };
    wait_until(
        "the problem in the status",
        LIMIT,
        || {
            let Ok(status) = bed.host.status() else { return Ok(None) };
            let Some(forwarder) = status.forwarder else { return Ok(None) };
            let problems = forwarder.interfaces.iter().filter_map(|one| one.problem.as_deref());
            Ok(problems.into_iter().any(named).then_some(()))
        },
        || bed.host.log_tail(20),
    )?;
    // It was said once, however much was since.
    let log = bed.host.log_tail(usize::MAX);
    ensure!(named(&log), "not in the log:\n{log}");
    ensure!(!bed.host.has(VIP)?, "master of a VIP that it cannot guard");
    ensure!(program(&bed.lb)? == theirs, "the foreign program was touched");
    // It goes: lbd takes its place by itself.
    drop(foreign);
    bed.host.wait_state(VrrpState::Master, VIP, LIMIT)?;
    ensure!(program(&bed.lb)?.is_some_and(|ours| Some(ours) != theirs));
    bed.host.stop()
}

#[test]
fn without_virtual_servers_vrrp_runs_unfenced() -> Result<()> {
    if !ready_or_skip("plane_host")? {
        return Ok(());
    }
    let mut bed = bed(false)?;
    let foreign = Foreign::attach(&bed.lb)?;
    let theirs = program(&bed.lb)?;
    bed.host.start()?;
    bed.host.wait_state(VrrpState::Master, VIP, LIMIT)?;
    let log = bed.host.log_tail(usize::MAX);
    ensure!(log.contains("this host cannot fence itself: attach to eth0"), "{log}");
    ensure!(program(&bed.lb)? == theirs, "the foreign program was touched");
    bed.host.stop()?;
    ensure!(!bed.host.has(VIP)?);
    ensure!(program(&bed.lb)? == theirs, "the foreign program was touched");
    drop(foreign);
    Ok(())
}
