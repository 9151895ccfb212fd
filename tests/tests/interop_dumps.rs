//! keepalived's JSON: lbd writes the keys that real keepalived writes for the same file, which exporters look for.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    netns::{Namespace, ready_or_skip},
    single,
    vrrp::cable,
    wait::{wait_for, wait_until},
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
const VIPS: [[u8; 4]; 2] = [[10, 77, 0, 101], [10, 77, 0, 102]];

/// `global` are words of global_defs; `process` is tracked.
fn config(global: &str, process: &str) -> String {
    let instance = |number: u8, words: &str| {
        format!(
            "vrrp_instance VI_{number} {{\n interface eth0\n virtual_router_id 5{number}\n priority \
             100\n{words}\n virtual_ipaddress {{\n  10.77.0.10{number}/24\n }}\n}}\n"
        )
    };
    let all = "version 2\n advert_int 1\n authentication {\n auth_type PASS\n auth_pass s3cret\n }\n \
               virtual_ipaddress_excluded {\n  10.77.0.110/24\n }\n virtual_routes {\n  \
               10.80.0.0/16 via 10.77.0.2\n }\n virtual_rules {\n  from 10.77.0.101 table 77 \
               priority 1000\n }\n track_interface {\n  eth9\n }\n track_script {\n  chk\n }\n \
               track_process {\n  p weight 1\n }\n notify_master /bin/true\n notify_backup \
               /bin/true\n notify_fault /bin/true\n notify_stop /bin/true\n notify /bin/true\n \
               notify_master_rx_lower_pri /bin/true";
    format!(
        "global_defs {{\n script_user root\n{global}\n}}\n\
         vrrp_script chk {{\n script /bin/true\n interval 1\n}}\n\
         vrrp_track_process p {{\n process {process}\n weight 1\n}}\n{}{}",
        instance(1, all),
        instance(2, "version 3\n advert_int 0.2"),
    )
}

/// The JSON of a running daemon, once it says that of its first instance.
fn dump(
    program: Program,
    netns: &Namespace,
    dir: &Path,
    text: &str,
    ready: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut host = Host::new(netns, program, dir)?;
    host.set_tmp(dir);
    host.write_config(text)?;
    host.start()?;
    let file = dir.join("keepalived.json");
    let main = || host.pids().first().map(|pid| pid.as_raw().to_string());
    // Before it has its handlers the signal would end it.
    wait_until(
        &format!("the VIPs of {program:?}"),
        LIMIT,
        || Ok((netns.has_address(VIPS[0])? && netns.has_address(VIPS[1])?).then_some(())),
        || host.log_tail(40),
    )?;
    let found = wait_until(
        &format!("the JSON of {program:?}"),
        LIMIT,
        || {
            // SIGRTMIN+2, of the kernel's; a file of before is no answer.
            let _ = fs::remove_file(&file);
            let Some(main) = main() else { return Ok(None) };
            ensure!(Command::new("kill").args(["-36", &main]).status()?.success());
            let text = wait_for("the file", Duration::from_secs(5), || {
                Ok(fs::read_to_string(&file).ok().filter(|it| it.ends_with(['}', ']', '\n'])))
            });
            let json = text.ok().and_then(|it| serde_json::from_str::<Value>(&it).ok());
            Ok(json.filter(|it| ready(it)))
        },
        || host.log_tail(40),
    );
    host.stop()?;
    found
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().map(|it| it.keys().cloned().collect()).unwrap_or_default()
}

/// One that is tracked and has no instance.
fn other_interface(netns: &Namespace) -> Result<()> {
    netns.ip(&["link", "add", "eth9", "type", "veth", "peer", "name", "eth8"])?;
    netns.ip(&["link", "set", "eth9", "up"])?;
    netns.ip(&["link", "set", "eth8", "up"]).map(drop)
}

fn is_master(instances: &Value) -> bool {
    instances[0]["data"]["state"] == 2 && instances[1]["data"]["state"] == 2
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn keys_and_kinds_of_the_json_are_keepaliveds() -> Result<()> {
    if !ready_or_skip("interop_dumps")? {
        return Ok(());
    }
    for program in [Program::Lbd, Program::Keepalived] {
        host::available(program).map_err(|why| anyhow::anyhow!(why))?;
    }
    let of = |program: Program| -> Result<Value> {
        let ((netns, _peer), dir) = (cable()?, tempfile::tempdir()?);
        other_interface(&netns)?;
        dump(program, &netns, dir.path(), &config("", "lbd-absent"), is_master)
    };
    let (ours, theirs) = (of(Program::Lbd)?, of(Program::Keepalived)?);
    for number in 0..2 {
        let (ours, theirs) = (&ours[number], &theirs[number]);
        ensure!(keys(theirs).len() == 2 && keys(ours) == keys(theirs), "{ours}\n{theirs}");
        for part in ["data", "stats"] {
            let (mut ours, theirs) = (ours[part].clone(), &theirs[part]);
            // Since 2.2.8.
            if let Some(processes) = ours.as_object_mut().and_then(|it| it.remove("track_process"))
            {
                ensure!(number == 0 && processes == serde_json::json!(["lbd-absent"]));
            }
            let ours = &ours;
            ensure!(keys(theirs).len() > 10, "{theirs}");
            ensure!(
                keys(ours) == keys(theirs),
                "{part}: lbd alone {:?}, keepalived alone {:?}",
                keys(ours).difference(&keys(theirs)).collect::<Vec<_>>(),
                keys(theirs).difference(&keys(ours)).collect::<Vec<_>>(),
            );
            for key in keys(ours) {
                let kind = |of: &Value| std::mem::discriminant(of);
                let (ours, theirs) = (&ours[&key], &theirs[&key]);
                ensure!(kind(ours) == kind(theirs), "{key}: lbd {ours}, keepalived {theirs}");
            }
        }
    }
    Ok(())
}

/// Version 2 came with 2.3, so that its keys are those of keepalived's source (vrrp_json.c of 2.4.3); here is what
/// only the process that counts can know.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn version_2_counts_tracked_processes() -> Result<()> {
    if !ready_or_skip("interop_dumps")? {
        return Ok(());
    }
    host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
    let ((netns, _peer), dir) = (cable()?, tempfile::tempdir()?);
    let name = format!("lbdj{}", std::process::id());
    let program = dir.path().join(&name);
    single::install(Path::new("/bin/sleep"), &program)?;
    let start = || -> Result<_> {
        let mut command = netns.command(&program);
        command.arg("600");
        netns.spawn(&name, command, None)
    };
    let _two = [start()?, start()?];
    other_interface(&netns)?;
    let text = config("json_version 2", &name);
    let all = dump(Program::Lbd, &netns, dir.path(), &text, |all| is_master(&all["vrrp"]))?;
    let one = all["track_process"].get(0).context("a tracked process")?;
    let wanted = [
        "process",
        "param_match",
        "min_processes",
        "current_processes",
        "have_quorum",
        "weight",
        "terminate_delay",
        "fork_delay",
        "fork_delay_timer_running",
        "terminate_delay_timer_running",
        "full_command",
    ];
    ensure!(keys(one) == wanted.map(str::to_owned).into(), "{one}");
    ensure!(one["current_processes"] == 2 && one["have_quorum"] == true, "{one}");
    ensure!(one["fork_delay_timer_running"] == false, "{one}");
    Ok(())
}
