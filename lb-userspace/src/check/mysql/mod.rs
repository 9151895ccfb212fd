//! MYSQL_CHECK: when to log in, when to ping, and what it all means for the server's health.
//!
//! Two series of probes run side by side, and the worse one decides:
//!
//! - *the kept session* (levels ping, query, role): an exchange each `ping_interval`. An exchange
//!   that is not answered within `ping_timeout` is a miss, and one more for every further
//!   `ping_interval` that it stays unanswered; it is left to be answered, so a stall costs no
//!   session. The end of the session decides nothing: a fresh login, made at once, does.
//! - *fresh logins*, each `login_interval`: the accept path, the thread limit, the credentials.
//!   A refused connection is tried again at once, and a second refusal is certain.
//!
//! Beside the two stand *conditions*: FULL, DRAIN and refused credentials, from the last login,
//! and *unfit* (wrong role, wrong query result, outside the primary component).

mod core;
#[cfg(test)]
mod tests;
pub mod verdict;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::core::MysqlCheck;
use self::verdict::{Answer, Expectation, Trouble};
use super::{Verdict, hysteresis::Thresholds};
use crate::base::status::Health;

/// Wait between logins while the server is down, full or draining, and after the first one that it
/// refuses. Further refusals are fetched each `login_interval`: every one is a line in its log.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The same when asking often would prolong the trouble (1129, 1130).
pub const SELDOM_INTERVAL: Duration = Duration::from_secs(30);

/// After a TLS handshake that failed or was not finished in time, TLS is not tried for this long, and
/// twice as long after each further one, up to the limit: a server counts such handshakes for
/// `max_connect_errors`, a hundred of them block this host, and only a good login takes them back.
/// Meanwhile, and at once after each of them, a login without TLS tells whether the server lives.
pub const HANDSHAKE_PAUSE: Duration = Duration::from_secs(30);
/// The limit.
pub const HANDSHAKE_PAUSE_LIMIT: Duration = Duration::from_secs(3600);

/// How to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As configured.
    Full,
    /// Without TLS as a user that nobody has: the refusal proves that the server lives. `Ok` of
    /// [`Answer::Alive`] is that refusal.
    Lifesign,
}

/// What a condition that does not prove death does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Keeps the last health (credentials) or takes no new connections (full).
    Hold,
    Down,
    Up,
}

/// The configured numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// A session is kept and pinged (level ping and deeper).
    pub keep_session: bool,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    pub login_interval: Duration,
    /// The question of the level is asked this often; `None`: never.
    pub ask_interval: Option<Duration>,
    pub thresholds: Thresholds,
    pub on_auth_error: Policy,
    pub on_full: Policy,
    pub expectation: Expectation,
}

/// What happens to a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// The fresh login asked for by [`Effect::Login`] has ended. `Ok`: its session answered the
    /// level's question, and is the kept one from now on if sessions are kept.
    Login(Result<Answer, Trouble>),
    /// The exchange asked for by [`Effect::Ping`] or [`Effect::Ask`] was answered.
    Reply(Result<Answer, Trouble>),
    /// The kept session has ended, and why.
    Lost(String),
    /// What was known before a restart; ignored once something was learned.
    Known(Health),
}

/// What a check wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect, log in, ask the level's question; report within the connect time-out.
    Login(Manner),
    /// COM_PING on the kept session; report when answered, however late.
    Ping,
    /// The level's question on the kept session; likewise.
    Ask,
    /// The health or the knowledge of it changed.
    Verdict(Verdict),
}
