//! Whether a host has come so far that it takes part in the election.

use std::fs;

use lb_userspace::base::status::VrrpState;

use crate::host::{Host, Program};

/// BACKUP or MASTER by its own words: lbd's status, keepalived's log since it was started last.
pub(super) fn state(host: &Host) -> Option<VrrpState> {
    match host.program() {
        Program::Lbd => {
            let state = host.status().ok()?.vrrp.first()?.state;
            matches!(state, VrrpState::Backup | VrrpState::Master).then_some(state)
        }
        Program::Keepalived => match last_state(&fs::read_to_string(host.log()).ok()?)? {
            "BACKUP" => Some(VrrpState::Backup),
            "MASTER" => Some(VrrpState::Master),
            _ => None,
        },
    }
}

fn last_state(log: &str) -> Option<&str> {
    let run = log.rsplit("Starting Keepalived").next()?;
    let (_, state) = run.rsplit_once("Entering ")?;
    state.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_an_earlier_run_does_not_count() {
        let log = "Starting Keepalived v2\n(VI) Entering BACKUP STATE (init)\n\
                   (VI) Entering MASTER STATE\n";
        assert_eq!(last_state(log), Some("MASTER"));
        assert_eq!(last_state(&format!("{log}Starting Keepalived v2\n")), None);
        let again = format!("{log}Starting Keepalived v2\n(VI) Entering BACKUP STATE (init)\n");
        assert_eq!(last_state(&again), Some("BACKUP"));
    }
}
