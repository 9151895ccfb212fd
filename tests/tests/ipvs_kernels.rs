//! What lbd makes of the kernel that it finds: `cargo xtask vm` runs this on several in guests, and wants the object
//! taken where `LBD_EXPECT_XDP` says so.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use lb_common::maps;
use lb_tests::{
    host::bin_dir,
    ipvs::{Bed, nat_pool, ready},
    packet::engine::Engine,
};

/// A line for the table of `cargo xtask vm`.
fn note(text: &str) -> Result<()> {
    println!("{text}");
    let Some(path) = std::env::var_os("LBD_VM_NOTES") else { return Ok(()) };
    let mut file = std::fs::File::options().create(true).append(true).open(&path)?;
    writeln!(file, "{}", text.replace('\n', " ")).context("the notes")
}

/// Instructions that the verifier counted, by program; `None` where the kernel does not say (before 5.16).
fn verified(engine: &Engine) -> Result<Vec<Option<u32>>> {
    [maps::PROGRAM, maps::PROGRAM6]
        .iter()
        .map(|name| Ok(engine.program(name)?.info()?.verified_instruction_count()))
        .collect()
}

/// Where the verifier takes the object it forwards, by the choice of lbd itself; elsewhere IPVS does, and the operator
/// learns what the kernel said.
#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn xdp_forwards_or_its_absence_is_named_and_ipvs_does() -> Result<()> {
    if !ready("ipvs_kernels")? {
        return Ok(());
    }
    let mut bed = Bed::nat(1)?;
    bed.hosts[0].set_arguments(&[]);
    match Engine::load(1024, 1024) {
        Ok(engine) => {
            let counts = verified(&engine)?.into_iter();
            let counts: Vec<_> =
                counts.map(|it| it.map_or_else(|| "?".to_owned(), |it| it.to_string())).collect();
            note(&format!("xdp taken, {} instructions verified", counts.join(" + ")))?;
            bed.engine = "xdp";
        }
        Err(error) => {
            let wanted = std::env::var_os("LBD_EXPECT_XDP").is_some();
            ensure!(!wanted, "this kernel is to take the object: {error:#}");
        }
    }
    bed.start(&[100], &nat_pool())?;
    let spread = bed.spread(10)?;
    ensure!(spread.iter().filter(|server| **server == 1).count() == 5, "round robin: {spread:?}");
    let mut session = bed.connect()?;
    session.echo().context("a packet on an established connection")?;
    let forwarder = bed.hosts[0].forwarder()?;
    let reason = &forwarder.engine_reason;
    match bed.engine {
        "xdp" => {
            let modes: Vec<&str> = forwarder.interfaces.iter().map(|it| it.mode.as_str()).collect();
            ensure!(modes == ["native", "native"], "{:?}", forwarder.interfaces);
            ensure!(bed.table(0).is_empty(), "IPVS too: {}", bed.table(0));
        }
        _ => {
            ensure!(reason.starts_with("xdp failed because load the program"), "{reason}");
            // What is missing is named: a verifier that says why does so itself.
            ensure!(
                reason.contains("BPF_F_XDP_HAS_FRAGS") || reason.contains("verifier"),
                "{reason}"
            );
            let told = reason.split(": the BPF_PROG_LOAD").next().unwrap_or(reason);
            note(told)?;
            ensure!(!bed.hosts[0].pin_dir().exists(), "nothing of XDP is left");
        }
    }
    note(&format!("auto chose {}", bed.engine))?;
    // What an operator was told before.
    let mut command = bed.hosts[0].netns().command(bin_dir().join("lbd"));
    let told = command.args(["check-host", "--json"]).output().context("lbd check-host")?;
    let report: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    ensure!(report["engine"] == bed.engine, "{report:#}");
    ensure!(told.status.code() == Some(i32::from(bed.engine == "ipvs")), "{:?}", told.status);
    bed.hosts[0].stop()
}
