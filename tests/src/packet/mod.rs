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
    skip(missing);
    false
}

/// Tells loudly that packet tests are left out for want of something.
///
/// # Panics
/// Under `LB_NO_SKIP=1`.
pub fn skip(missing: &str) {
    let no_skip = std::env::var_os("LB_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!no_skip, "packet tests need {missing}");
    eprintln!("\n=== SKIPPED: packet tests need {missing} ===\n");
}

#[cfg(test)]
mod tests {
    use lb_common::verdict::Outcome;

    /// Outcomes that no packet test meets, each with the reason.
    const UNMET: [(Outcome, &str); 4] = [
        (
            Outcome::TunnelFailed,
            "there is room for a header before every frame of a test run, and for one before what was cut to its \
             headers: the branch is what a lost packet must not pass by unnamed",
        ),
        (
            Outcome::RewriteFailed,
            "bpf_l4_csum_replace fails where the kernel has no memory for a copy of the packet's head, and for an \
             offset outside of the packet: the branch is what a lost packet must not pass by unnamed",
        ),
        (
            Outcome::ResetFailed,
            "a segment long enough to be parsed is long enough for a RST, and bpf_xdp_adjust_tail takes off \
             what it has: the branch is what the verifier asks for",
        ),
        (
            Outcome::IcmpForwarded,
            "errors about a connection are not forwarded yet: the program never says it",
        ),
    ];

    /// Every outcome is met by a test of packets, by name, but those that cannot be.
    #[test]
    fn every_outcome_is_met_by_a_packet_test_or_has_a_reason() {
        let suites = [
            include_str!("../../tests/xdp_fairness.rs"),
            include_str!("../../tests/xdp_flows.rs"),
            include_str!("../../tests/xdp_ipv6.rs"),
            include_str!("../../tests/xdp_limits.rs"),
            include_str!("../../tests/xdp_packets.rs"),
            include_str!("../../tests/xdp_persistence.rs"),
            include_str!("../../tests/xdp_schedule.rs"),
            include_str!("../../tests/xdp_six.rs"),
            include_str!("../../tests/xdp_tun.rs"),
        ];
        let words: std::collections::BTreeSet<&str> = suites
            .iter()
            .flat_map(|text| text.split(|c: char| !c.is_alphanumeric() && c != '_'))
            .collect();
        for outcome in Outcome::ALL {
            let reason = UNMET.iter().find(|(unmet, _)| *unmet == outcome);
            let met = words.contains(format!("{outcome:?}").as_str());
            assert_eq!(met, reason.is_none(), "{outcome:?}: met {met}, reason {reason:?}");
        }
    }
}
