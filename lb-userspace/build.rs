//! Builds the kernel object, when this machine can.
//!
//! `cargo check`, clippy and docs must work without the BPF toolchain, so a missing nightly,
//! rust-src or bpf-linker leaves an empty object and a warning; the loader then says at run time
//! what is missing. `cargo xtask build` sets `LBD_REQUIRE_BPF=1`, which turns that into an error.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, bail};

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed=LBD_REQUIRE_BPF");
    println!("cargo:rerun-if-env-changed=AYA_BUILD_SKIP");
    println!("cargo:rerun-if-changed=../lb-common/src");
    println!("cargo:rerun-if-changed=../lb-common/Cargo.toml");
    println!("cargo:rerun-if-changed=../lb-ebpf");
    let required = env::var_os("LBD_REQUIRE_BPF").is_some_and(|value| value == "1");
    if let Some(missing) = missing_tool() {
        if required {
            bail!("cannot build the kernel object: {missing}; `cargo xtask setup` installs it");
        }
        println!("cargo:rustc-env=LBD_BPF_MISSING={missing}");
        println!("cargo:warning=kernel object not built ({missing}); run `cargo xtask setup`");
        let out = env::var("OUT_DIR").context("OUT_DIR")?;
        for name in ["lb-ebpf", "lb-ebpf-bench"] {
            fs::write(Path::new(&out).join(name), b"").context("write empty kernel object")?;
        }
        return Ok(());
    }
    let features: &[&str] =
        if env::var_os("CARGO_FEATURE_PACKET_LOG").is_some() { &["packet-log"] } else { &[] };
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf");
    aya_build::build_ebpf(
        [aya_build::Package { name: "lb-ebpf", root_dir: root, features, ..Default::default() }],
        aya_build::Toolchain::Nightly,
    )
}

fn missing_tool() -> Option<&'static str> {
    if env::var_os("AYA_BUILD_SKIP").is_some_and(|value| value == "1" || value == "true") {
        return Some("AYA_BUILD_SKIP is set");
    }
    let runs = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().ok().filter(|o| o.status.success())
    };
    if runs("bpf-linker", &["--version"]).is_none() {
        return Some("bpf-linker is not on the PATH");
    }
    let Some(sysroot) = runs("rustup", &["run", "nightly", "rustc", "--print", "sysroot"]) else {
        return Some("no nightly toolchain");
    };
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    if !Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Some("nightly has no rust-src");
    }
    None
}
