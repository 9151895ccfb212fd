//! Every packet suite once more through the program of tc's ingress (`lb_tests::packet::build::is_tc` goes by the name
//! of this binary), and what only a test of both hooks shows.

#[path = "xdp_fairness.rs"]
mod xdp_fairness;
#[path = "xdp_flows.rs"]
mod xdp_flows;
#[path = "xdp_ipv6.rs"]
mod xdp_ipv6;
#[path = "xdp_limits.rs"]
mod xdp_limits;
#[path = "xdp_packets.rs"]
mod xdp_packets;
#[path = "xdp_persistence.rs"]
mod xdp_persistence;
#[path = "xdp_schedule.rs"]
mod xdp_schedule;
#[path = "xdp_sync.rs"]
mod xdp_sync;
#[path = "xdp_tun.rs"]
mod xdp_tun;

use lb_common::abi;
use lb_tests::packet::{bed::*, build::is_tc};

#[test]
fn this_is_tc() {
    assert!(is_tc());
    assert!(
        Bed::new(abi::SCHED_RR, DR, &[(1, 1)])
            .is_none_or(|bed| { bed.engine.any_program(lb_common::maps::PROGRAM_TC).is_ok() })
    );
}
