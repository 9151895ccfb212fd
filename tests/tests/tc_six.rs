//! As `tc_packets`, over IPv6.

#[path = "xdp_six.rs"]
mod xdp_six;

#[test]
fn this_is_tc() {
    assert!(lb_tests::packet::build::is_tc());
}
