//! `lbd check-host`: what it says of interfaces of two kinds, and that it leaves nothing behind.

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    foreign::Foreign,
    host::bin_dir,
    netns::Namespace,
    single::{self, Single},
};
use serde_json::Value;

/// Exit code and answer.
fn ask(single: &Single, words: &[&str]) -> Result<(i32, Value)> {
    let output = single.lbd(&[&["check-host", "--json"], words].concat())?;
    let code = output.status.code().context("killed")?;
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((code, report))
}

fn level(report: &Value, about: &str) -> String {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found =
        findings.iter().find(|it| it["about"].as_str().is_some_and(|it| it.starts_with(about)));
    found.and_then(|it| it["level"].as_str()).unwrap_or("not there").to_owned()
}

/// Pins that a look around could have made, and whether eth0 has a program.
fn left(single: &Single) -> Result<(Vec<String>, bool)> {
    let pins = std::fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten();
    let mut pins: Vec<String> =
        pins.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    pins.retain(|name| name.contains("probe") || name == "lbd");
    pins.sort();
    let link = single.host.netns().ip(&["-d", "link", "show", "dev", "eth0"])?;
    Ok((pins, link.contains("xdp")))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn interfaces_are_told_apart_and_nothing_is_left() -> Result<()> {
    if !single::ready("proc_check_host")? {
        return Ok(());
    }
    let single = Single::new()?;
    let netns = single.host.netns();
    netns.ip(&["link", "add", "link", "eth0", "name", "mac0", "type", "macvlan"])?;
    netns.ip(&["link", "set", "mac0", "up"])?;
    let before = left(&single)?;
    let (code, report) = ask(&single, &["--attach", "--interface", "eth0"])?;
    ensure!(code == 0 && report["engine"] == "xdp", "{code}: {report:#}");
    ensure!(level(&report, "xdp program") == "good", "{report:#}");
    ensure!(level(&report, "eth0 (veth)") == "good", "{report:#}");
    ensure!(left(&single)? == before, "left behind: {:?}", left(&single)?);
    // Without an attempt: by what the kernel says, which kernels before 6.3 do not.
    let (_, report) = ask(&single, &["--interface", "eth0"])?;
    ensure!(["good", "note"].contains(&level(&report, "eth0").as_str()), "{report:#}");
    // A macvlan has none; tc takes it.
    let (code, report) = ask(&single, &["--attach", "--interface", "mac0"])?;
    ensure!(level(&report, "mac0") == "note", "{report:#}");
    ensure!(code == 0 && report["engine"] == "xdp", "{code}: {report:#}");
    // Named or not, it is an interface of software: alone it decides nothing.
    let (code, report) = ask(&single, &[])?;
    ensure!(level(&report, "eth0") != "not there", "{report:#}");
    ensure!(level(&report, "mac0") == "note" && code == 0, "{code}: {report:#}");
    let (code, report) = ask(&single, &["--interface", "eth7"])?;
    ensure!(level(&report, "eth7") == "missing" && code != 0, "{code}: {report:#}");
    // For people.
    let output = single.lbd(&["check-host", "--interface", "mac7", "--attach"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.starts_with("Linux ") && text.contains("MISSING"), "{text}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn lbd_s_own_program_is_known_and_stays() -> Result<()> {
    if !single::ready("proc_check_host")? {
        return Ok(());
    }
    let servers = single::virtual_server(3306, "rr", &[single::OTHER]);
    let mut single = Single::start(&single::config("0.2", "", "", &servers))?;
    single.wait_master()?;
    let (code, report) = ask(&single, &["--attach", "--interface", "eth0"])?;
    ensure!(code == 0 && level(&report, "eth0") == "good", "{code}: {report:#}");
    ensure!(report.to_string().contains("lbd's program is there"), "{report:#}");
    ensure!(left(&single)?.1, "it still is");
    // In another network namespace an interface with the same index is not the same interface.
    let index = |netns: &Namespace| -> Result<String> {
        let line = netns.ip(&["-o", "link", "show", "dev", "eth0"])?;
        Ok(line.split_once(':').context("no index")?.0.to_owned())
    };
    ensure!(index(single.host.netns())? == index(&single.other)?, "they have different indexes");
    let _foreign = Foreign::attach(&single.other)?;
    let mut command = single.other.command(bin_dir().join("lbd"));
    let output = command.args(["check-host", "--json", "--interface", "eth0"]).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(!report.to_string().contains("lbd's program is there"), "{report:#}");
    ensure!(level(&report, "eth0") != "good", "{report:#}");
    single.host.stop()
}
