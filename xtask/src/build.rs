//! `cargo xtask build`: the release binaries with the kernel object inside.

use anyhow::Result;

use crate::shell::{self, command, release, say};

/// What to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// lbd and lbctl.
    Daemon,
    /// Those and the lab.
    Lab,
}

/// Builds.
///
/// # Errors
/// When cargo fails; a missing BPF toolchain is named by lb-userspace's build script.
pub fn cargo(what: What) -> Result<()> {
    let mut arguments = vec!["build", "--release", "--locked", "-p", "lb-userspace", "--bins"];
    if what == What::Lab {
        arguments.extend(["-p", "lb-tests"]);
    }
    let mut cargo = command("cargo", &arguments);
    // An object that could not be built must not hide behind a warning here.
    cargo.env("LBD_REQUIRE_BPF", "1").env_remove("AYA_BUILD_SKIP");
    shell::run(cargo)
}

/// `cargo xtask build`.
///
/// # Errors
/// As [`cargo`].
pub fn run(what: What) -> Result<()> {
    cargo(what)?;
    for name in ["lbd", "lbctl"] {
        say(&format!("   built {}", release(name).display()));
    }
    Ok(())
}
