//! When VIPs are announced: the numbers of one instance. The bytes are [`super::arp`]'s and
//! [`super::nd`]'s, the pace between messages is the shell's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Batches of gratuitous ARPs and unsolicited neighbour advertisements of one instance, by
/// keepalived's names (`garp_master_repeat`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garp {
    /// Messages for each VIP at the takeover, and again in the batch after `delay`.
    pub repeat: u32,
    /// From the first batch to the second; zero: no second.
    pub delay: Duration,
    /// Between batches while master; zero: none.
    pub refresh: Duration,
    /// Messages for each VIP in such a batch.
    pub refresh_repeat: u32,
    /// Messages for each VIP after an advert of a lower priority was heard; 0: none.
    pub lower_repeat: u32,
    /// From that batch to the one after it; zero: no second.
    pub lower_delay: Duration,
}

impl Default for Garp {
    /// keepalived's defaults.
    fn default() -> Self {
        let (repeat, delay) = (5, Duration::from_secs(5));
        Self {
            repeat,
            delay,
            refresh: Duration::ZERO,
            refresh_repeat: 1,
            lower_repeat: repeat,
            lower_delay: delay,
        }
    }
}
