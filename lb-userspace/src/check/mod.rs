//! L1 pure: when to probe, what an answer means, which real servers a virtual server may use.
//!
//! A checker publishes facts, the virtual server decides:
//!
//! | module | subject |
//! |---|---|
//! | [`schedule`] | keepalived's arithmetic (retry, delay_before_retry, delay_loop, warmup) |
//! | [`hysteresis`] | suspect, fall and rise counts |
//! | [`page`] | HTTP_GET, SSL_GET: what a page must be like |
//! | [`mysql`] | MYSQL_CHECK: the kept session, fresh logins, what server errors mean |
//! | [`quorum`] | summed weight against quorum ± hysteresis |
//! | [`services`] | probe verdicts → health of each real server, quorum, notify scripts |

pub mod hysteresis;
pub mod mysql;
pub mod page;
pub mod quorum;
pub mod schedule;
pub mod services;

use serde::{Deserialize, Serialize};

use crate::base::status::Health;

/// What one probe now says about its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The state. Never [`Health::Unknown`].
    pub health: Health,
    /// Weight that the probe sets (`misc_dynamic`); `None`: the configured one.
    pub weight: Option<u32>,
    /// One phrase for the log.
    pub reason: String,
}

/// Uniformly random share of a span, handed in by the caller: `0` none, `u16::MAX` all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fraction(pub u16);

impl Fraction {
    /// This share of `span`, rounded down to the nanosecond.
    pub fn of(self, span: std::time::Duration) -> std::time::Duration {
        let nanos = span.as_nanos() * u128::from(self.0) / u128::from(u16::MAX);
        std::time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
