//! Packets by the field's own library, and the shipped kernel object under `BPF_PROG_TEST_RUN`.

pub mod bed;
pub mod bench;
pub mod build;
pub mod engine;

/// Whether packet tests can run here. Under `LB_NO_SKIP=1` (CI) a missing prerequisite fails the test;
/// elsewhere it is said loudly and the test does nothing.
///
/// # Panics
/// Under `LB_NO_SKIP=1` when a prerequisite is missing.
pub fn ready() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        "root"
    } else if lb_userspace::dataplane::xdp::object::OBJECT.is_empty() {
        "the kernel object (built with AYA_BUILD_SKIP, or without the BPF toolchain)"
    } else {
        return true;
    };
    let no_skip = std::env::var_os("LB_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!no_skip, "packet tests need {missing}");
    eprintln!("\n=== SKIPPED: packet tests need {missing} ===\n");
    false
}
