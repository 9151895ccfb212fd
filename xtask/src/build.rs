//! `cargo xtask build`: the release binaries with the kernel object inside.

use anyhow::Result;

use crate::shell::{self, command, release, say};

/// Builds lbd and lbctl, and with them always the lab and the benches: their dependencies have more features
/// of mio and rustix than lbd's own, so that a build of lbd alone and one of both would each compile half of
/// the tree anew after the other.
///
/// # Errors
/// When cargo fails; a missing BPF toolchain is named by lb-userspace's build script.
pub fn cargo() -> Result<()> {
    let mut cargo = command(
        "cargo",
        &["build", "--release", "--locked", "--bins", "-p", "lb-userspace", "-p", "lb-tests"],
    );
    // An object that could not be built must not hide behind a warning here.
    cargo.env("LBD_REQUIRE_BPF", "1").env_remove("AYA_BUILD_SKIP");
    shell::run(cargo)
}

/// `cargo xtask build`.
///
/// # Errors
/// As [`cargo`].
pub fn run() -> Result<()> {
    cargo()?;
    for name in ["lbd", "lbctl"] {
        say(&format!("   built {}", release(name).display()));
    }
    Ok(())
}
