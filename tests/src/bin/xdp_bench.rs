//! `cargo xtask bench` runs this: measures, prints a table, writes JSON.
//! Arguments: JSON file, rounds, packets a round.
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use lb_tests::packet::bench::{Effort, measure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, geteuid},
};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().context("usage: xdp-bench FILE [ROUNDS [PACKETS]]")?;
    let rounds = arguments.next().map_or(Ok(12), |word| word.parse()).context("rounds")?;
    let repeat = arguments.next().map_or(Ok(1_000_000), |word| word.parse()).context("packets")?;
    ensure!(rounds > 0 && repeat > 0, "nothing to measure");
    ensure!(geteuid().is_root(), "the bench loads BPF programs: run it as root");
    ensure!(
        !lb_userspace::dataplane::xdp::object::BENCH_OBJECT.is_empty(),
        "built without the kernel object: run `cargo xtask setup`"
    );
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("pin to CPU 0")?;
    let lines = measure(Effort { rounds, repeat })?;
    println!(
        "{:<27}{:>7}{:>8}{:>8}{:>10}{:>8}",
        "ns per packet", "min", "median", "ratio", "over floor", "budget"
    );
    for line in &lines {
        let budget = line.budget.map_or_else(String::new, |budget| budget.to_string());
        println!(
            "{:<27}{:>7}{:>8}{:>8.2}{:>5}/{:<5}{:>7}",
            line.case, line.min, line.median, line.ratio, line.net_min, line.net_median, budget
        );
    }
    println!("over floor: min/median less those of the hook's MAC-swap floor; budget: DESIGN §6");
    std::fs::write(&file, serde_json::to_vec_pretty(&lines)?)
        .with_context(|| format!("write {file}"))?;
    println!("written: {file}");
    Ok(())
}
