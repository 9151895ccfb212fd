//! The VRRP simulation over seeds.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::bin_dir,
    sim::random::{self, Shares},
};

/// One seed alone, or some hundreds.
#[test]
fn some_random_scripts() -> Result<()> {
    let only = std::env::var("LB_SIM_SEED").ok();
    let only: Option<u64> = only.map(|seed| seed.parse()).transpose().context("LB_SIM_SEED")?;
    let mut shares = Shares::default();
    for seed in only.map_or(1..=300, |seed| seed..=seed) {
        let (weather, share) = random::run_seed(seed, None).map_err(anyhow::Error::msg)?;
        shares.add(weather, share);
    }
    let too_small = if only.is_none() { shares.too_small() } else { None };
    ensure!(too_small.is_none(), "{shares}: {too_small:?}");
    Ok(())
}

#[test]
#[ignore = "needs the release build, two minutes: cargo xtask test"]
fn a_hundred_thousand_random_scripts() -> Result<()> {
    let simulate = bin_dir().join("simulate");
    let out = Command::new(&simulate)
        .output()
        .with_context(|| format!("cannot run {} (cargo xtask build)", simulate.display()))?;
    let said = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    ensure!(said.starts_with("100000 runs;"), "{said}");
    println!("{said}");
    Ok(())
}
