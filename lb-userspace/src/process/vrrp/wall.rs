//! The wall clock, which people set and NTP steps: numbers on signed adverts, and times for people. No timer and no
//! lease rests on it; `cargo xtask tidy` lets no other file of the role read it.

use super::instance::{Instance, Shell};
use crate::{
    base::time::Instant,
    process::clock,
    vrrp::{auth::Auth, router::Input},
};

/// Milliseconds since 1970, for people.
pub(super) fn stamp() -> u64 {
    clock::unix_ms()
}

impl Instance {
    /// Authentication with sequence numbers wants to know the time of day.
    pub(super) fn tell_clock(&mut self, now: Instant, shell: &mut Shell) {
        let config = self.router.config();
        let unix = if config.wire.hmac.is_some() {
            clock::unix()
        } else if matches!(config.auth, Auth::Ah(_)) {
            shell.ah_clock.at(self.router.sequence(), now)
        } else {
            return;
        };
        self.handle(Input::WallClock(unix), now, shell);
    }
}
