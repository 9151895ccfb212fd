//! Packets by the field's own library, and the shipped kernel object under `BPF_PROG_TEST_RUN`.

pub mod bed;
pub mod bench;
pub mod build;
pub mod engine;

/// Whether packet tests can run here. Under `CI=true` a missing prerequisite fails the test;
/// elsewhere it is said loudly and the test does nothing.
///
/// # Panics
/// Under `CI=true` when a prerequisite is missing.
pub fn ready() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        "root"
    } else if lb_userspace::dataplane::xdp::object::OBJECT.is_empty() {
        "the kernel object (built with AYA_BUILD_SKIP, or without the BPF toolchain)"
    } else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "packet tests need {missing}");
    eprintln!("\n=== SKIPPED: packet tests need {missing} ===\n");
    false
}
