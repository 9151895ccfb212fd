//! Virtual servers, real servers and their checkers.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Command, HttpCheck};
use crate::base::{
    net::VirtualServerKey,
    table::{Limits, Method, Persistence, Scheduler},
};

/// `virtual_server ADDRESS PORT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VirtualServer {
    pub key: VirtualServerKey,
    pub scheduler: Scheduler,
    pub method: Method,
    pub delay_loop: Duration,
    pub quorum: u32,
    pub hysteresis: u32,
    pub quorum_up: Option<Command>,
    pub quorum_down: Option<Command>,
    pub sorry_server: Option<SocketAddr>,
    /// Start with real servers down until the first success.
    pub alpha: bool,
    /// Run `quorum_down` and `notify_down` at stop.
    pub omega: bool,
    /// `smtp_alert`: mail when quorum is lost or gained.
    pub mail: bool,
    /// Ours: `idle_timeout SECONDS`; default 8 h + 60 s (MySQL's `wait_timeout` + 60 s).
    pub idle_timeout: Duration,
    /// Ours: `on_down reset|drain SECONDS|keep`.
    pub on_down: OnDown,
    /// `persistence_timeout`, `persistence_granularity`.
    pub persistence: Option<Persistence>,
    /// In file order.
    pub real_servers: Vec<RealServer>,
}

/// What becomes of the connections of a real server that went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDown {
    /// Both ends are told at once.
    Reset,
    /// They go on for so long; then [`OnDown::Reset`].
    Drain(Duration),
    /// They are left alone.
    Keep,
}

/// `real_server ADDRESS PORT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RealServer {
    pub addr: SocketAddr,
    pub weight: u32,
    /// `uthreshold`, `lthreshold`.
    pub limits: Limits,
    /// Weight 0 rather than removal when it is down.
    pub inhibit_on_failure: bool,
    pub notify_up: Option<Command>,
    pub notify_down: Option<Command>,
    /// `smtp_alert`: mail when it goes up or down.
    pub mail: bool,
    /// All must pass.
    pub checkers: Vec<Checker>,
}

/// Schedule words that every checker shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerCommon {
    /// Where to connect: `connect_ip`/`connect_port`, else the real server.
    pub target: SocketAddr,
    pub bindto: Option<IpAddr>,
    pub connect_timeout: Duration,
    /// Failures after the first before the verdict is DOWN.
    pub retry: u32,
    pub delay_before_retry: Duration,
    pub delay_loop: Duration,
    /// The first probe waits a random part of it.
    pub warmup: Duration,
    /// Starts down until the first success.
    pub alpha: bool,
}

/// A checker block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Checker {
    Tcp(CheckerCommon),
    // Apart: a TCP_CHECK, of which there may be thousands, should not take the room of the largest.
    Misc(CheckerCommon, Box<MiscCheck>),
    Mysql(CheckerCommon, Box<MysqlCheck>),
    Http(CheckerCommon, Box<HttpCheck>),
}

impl Checker {
    /// Words that every checker shares.
    pub fn common(&self) -> &CheckerCommon {
        match self {
            Self::Tcp(common)
            | Self::Misc(common, _)
            | Self::Mysql(common, _)
            | Self::Http(common, _) => common,
        }
    }
}

/// `MISC_CHECK`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MiscCheck {
    pub command: Command,
    /// `misc_timeout`; delay_loop when not given.
    pub timeout: Duration,
    /// Exit code 2–255 sets the weight to code − 2.
    pub dynamic: bool,
}

/// How deep `MYSQL_CHECK` looks; each level includes the ones above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MysqlLevel {
    /// The handshake's first packet (completed by a login that is expected to fail, so that it
    /// never counts as a connect error).
    Greeting,
    Login,
    /// COM_PING on a kept session.
    Ping,
    Query,
    /// `role=read_only` and friends.
    Role,
}

/// Role that a server must have to be UP at level role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MysqlRole {
    /// `@@read_only` = 0 (and super_read_only, where it exists).
    Writer,
    /// `@@read_only` = 1.
    ReadOnly,
    /// Any; the fact is published only.
    Any,
}

/// `tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    Off,
    /// TLS when the server offers it.
    Prefer,
    Require,
}

/// What a condition that does not prove death does to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnCondition {
    /// Keeps the last health (`on_auth_error`) or takes no new connections (`on_full`).
    Hold,
    Down,
    Up,
}

/// `MYSQL_CHECK`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MysqlCheck {
    pub level: MysqlLevel,
    pub role: MysqlRole,
    pub user: Option<String>,
    pub password: Option<Password>,
    pub tls: TlsMode,
    pub tls_ca: Option<TlsCa>,
    /// First column of the first row is compared with `expect`.
    pub query: Option<String>,
    pub expect: Option<String>,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// A fresh connect and login this often.
    pub login_interval: Duration,
    pub role_interval: Duration,
    /// Missed probes until SUSPECT.
    pub suspect: u32,
    /// Missed probes until DOWN.
    pub fall: u32,
    /// Good probes until UP.
    pub rise: u32,
    pub on_auth_error: OnCondition,
    pub on_full: OnCondition,
}

/// As with an empty block.
impl Default for MysqlCheck {
    fn default() -> Self {
        Self {
            level: MysqlLevel::Greeting,
            role: MysqlRole::Any,
            user: None,
            password: None,
            tls: TlsMode::Prefer,
            tls_ca: None,
            query: None,
            expect: None,
            ping_interval: Duration::from_millis(100),
            ping_timeout: Duration::from_millis(100),
            login_interval: Duration::from_secs(10),
            role_interval: Duration::from_millis(500),
            suspect: 2,
            fall: 4,
            rise: 2,
            on_auth_error: OnCondition::Hold,
            on_full: OnCondition::Hold,
        }
    }
}

/// `tls_ca`. Its content is read by who reads the configuration, because the checker, which uses it,
/// may not read root's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsCa {
    pub path: PathBuf,
    pub content: TlsCaContent,
}

/// What a `tls_ca` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsCaContent {
    /// Not looked at (yet, or in a process that has no use for it).
    Unread,
    /// PEM text with at least one certificate.
    Pem(String),
    /// Why it cannot be used.
    Unusable(String),
}

/// A secret that never shows in logs or dumps.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Password {
    Literal(String),
    File(PathBuf),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(***)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}
