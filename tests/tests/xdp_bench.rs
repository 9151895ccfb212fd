//! `cargo xtask bench` measures what DESIGN §6 has budgets for, each case by the outcome it is named after. How
//! much it is, no test judges.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{host::bin_dir, packet};
use serde_json::Value;

#[test]
fn the_bench_measures_what_has_a_budget_beside_both_floors() -> Result<()> {
    if !packet::ready() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("bench.json");
    let mut bench = Command::new(bin_dir().join("xdp-bench"));
    let output = bench.arg(&file).args(["2", "20000"]).output().context("the bench")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}\n{}", said, String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let lines = json.as_array().context("an array")?;
    for (case, budget) in [
        ("floor: empty pass", None),
        ("floor: MAC swap", None),
        ("foreign", Some(6)),
        ("established DR", Some(55)),
        ("established NAT", Some(60)),
        ("established TUN", Some(75)),
        ("new flow", Some(450)),
        ("floor: MAC swap, tc", None),
        ("established DR, tc", None),
        ("established NAT, IPv6, tc", None),
        ("new flow, tc", None),
    ] {
        let line = lines.iter().find(|line| line["case"] == case).context(case)?;
        ensure!(line["budget"].as_i64() == budget, "{line}");
        let number = |name: &str| line[name].as_f64().context(format!("{name} in {line}"));
        ensure!(0.0 < number("min")? && number("min")? <= number("median")?, "{line}");
        ensure!(number("ratio")? > 0.0 && line["net_median"].is_i64(), "{line}");
        ensure!(said.contains(case), "{case} is not in\n{said}");
        if case.starts_with("floor: MAC swap") {
            ensure!(number("ratio")? == 1.0 && line["net_min"] == 0, "{line}");
        }
    }
    Ok(())
}
