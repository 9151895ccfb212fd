//! MYSQL_CHECK on the network: connect, greeting, login, ping, question, farewell.
//!
//! The MySQL protocol itself (authentication plugins, TLS, commands) is `mysql_async`'s. That
//! library connects by itself, cannot bind a source address, does not tell when an idle session
//! ends, takes packets of any announced size before the login is over, and ends the process over
//! some malformed login packets. So it is connected through a `tap`: our own connection to the
//! server, whose greeting we have read and judged, joined to the library's by a task that watches
//! every byte from the server ([`wire::Guard`]).

mod rsa_key;
mod tap;
#[cfg(test)]
mod tests;
pub mod wire;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use mysql_async::{
    Conn, DriverError, Error, IoError, OptsBuilder, Row, SslOpts, Value, prelude::Queryable as _,
};
use tokio::time::{Instant, timeout, timeout_at};

use self::{
    rsa_key::PASSWORD_LIMIT,
    tap::{End, Opened, Tap},
    wire::{Greeting, PACKET_LIMIT},
};
use crate::base::text::printable;

/// The user that a check without credentials logs in as. Nobody has it; being refused proves
/// life, and unlike a connection that is just closed, a refused login never counts for
/// `max_connect_errors`.
pub const NOBODY: &str = "lbd-health-check";
/// Its password: not empty, so that no plugin takes a short cut.
const NOBODYS_PASSWORD: &str = "nobody";
/// Time for COM_QUIT and the server's FIN.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// `tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Off,
    /// When the server offers it, whatever its certificate.
    Prefer,
    /// Never without. With `tls_ca` the certificate is verified and has to name the address.
    Require,
}

/// What is asked after the login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Nothing,
    /// A statement whose first column of the first row is the answer.
    Query(String),
    /// `read_only`, and `super_read_only` where it exists.
    ReadOnly,
}

/// What to probe.
#[derive(Clone, Debug)]
pub struct Target {
    pub addr: SocketAddr,
    /// Source address.
    pub bindto: Option<IpAddr>,
    /// For connect, login and question together.
    pub timeout: Duration,
    pub tls: Tls,
    pub tls_ca: Option<PathBuf>,
    pub question: Question,
}

/// Who logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl Credentials {
    /// The made-up user.
    pub fn nobody() -> Self {
        Self { user: NOBODY.to_owned(), password: NOBODYS_PASSWORD.to_owned() }
    }
}

/// What a session answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Alive,
    /// `None`: no row.
    Value(Option<String>),
    ReadOnly(bool),
}

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("connection refused")]
    Refused,
    /// No answer in time.
    #[error("{stage} within {} ms", .limit.as_millis())]
    TimedOut { stage: &'static str, limit: Duration },
    /// Connection trouble.
    #[error("{0}")]
    Io(String),
    /// Bytes that no MySQL server sends, or more than we take.
    #[error("{0}")]
    NotMysql(String),
    /// An error packet.
    #[error("ERROR {code}: {message}")]
    Server { code: u16, message: String, statement: bool, tls: bool },
    /// We do not want to, or cannot, log in here: TLS, plugin, cleartext.
    #[error("{0}")]
    Credentials(String),
}

/// A session that is logged in.
#[derive(Debug)]
pub struct Session {
    conn: Conn,
    tap: Tap,
    question: Question,
    mariadb: bool,
    tls: bool,
    version: String,
}

/// Connects, logs in and asks the target's question. When it fails after the greeting without a
/// login having been tried (TLS required but not offered), the login is finished as [`NOBODY`],
/// so that the server counts no connect error.
///
/// # Errors
/// [`Failure`], within the target's time-out.
pub async fn login(
    target: &Target,
    credentials: &Credentials,
) -> Result<(Session, Answer), Failure> {
    let deadline = Instant::now() + target.timeout;
    let limit = target.timeout;
    let opened = timeout_at(deadline, tap::connect(target.addr, target.bindto))
        .await
        .unwrap_or(Err(Failure::TimedOut { stage: "no connection", limit }))?;
    let opened = timeout_at(deadline, opened.greeting())
        .await
        .unwrap_or(Err(Failure::TimedOut { stage: "no complete greeting", limit }))?;
    let stage = "login and question not finished";
    timeout_at(deadline, enter(target, credentials, opened))
        .await
        .unwrap_or(Err(Failure::TimedOut { stage, limit }))
}

/// Logs in on a connection whose greeting has been read, and asks.
async fn enter(
    target: &Target,
    credentials: &Credentials,
    opened: Opened,
) -> Result<(Session, Answer), Failure> {
    let (offers_tls, version) = match &opened.greeting {
        Greeting::Refused { code, message } => {
            let message = message.clone();
            return Err(Failure::Server { code: *code, message, statement: false, tls: false });
        }
        Greeting::Hello { tls, version } => (*tls, version.clone()),
    };
    let mariadb = opened.greeting.is_mariadb();
    let no_login = if target.tls == Tls::Require && !offers_tls {
        Some("the server does not offer TLS, and `tls require` forbids to log in without")
    } else if credentials.password.len() > PASSWORD_LIMIT {
        Some("the password is longer than 200 bytes")
    } else {
        None
    };
    if let Some(reason) = no_login {
        let _ = open_session(target, &Credentials::nobody(), opened, false).await;
        return Err(Failure::Credentials(reason.to_owned()));
    }
    // Without a password there is no secret to protect, and in plain every packet of the login
    // can be watched.
    let tls = match target.tls {
        Tls::Off => false,
        Tls::Prefer => offers_tls && !credentials.password.is_empty(),
        Tls::Require => true,
    };
    let (conn, tap) = open_session(target, credentials, opened, tls).await?;
    let question = target.question.clone();
    let mut session = Session { conn, tap, question, mariadb, tls, version };
    match session.ask().await {
        Ok(answer) => Ok((session, answer)),
        Err(failure) => {
            session.quit().await;
            Err(failure)
        }
    }
}

async fn open_session(
    target: &Target,
    credentials: &Credentials,
    opened: Opened,
    tls: bool,
) -> Result<(Conn, Tap), Failure> {
    let (tap, at) = opened
        .join(tls, credentials.password.is_empty())
        .await
        .map_err(|error| Failure::Io(format!("loopback connection for the login: {error}")))?;
    let mut opts = OptsBuilder::default()
        .ip_or_hostname(at.ip().to_string())
        .tcp_port(at.port())
        // On loopback the library would otherwise ask for @@socket and go there instead.
        .prefer_socket(false)
        .user(Some(credentials.user.clone()))
        .pass(Some(credentials.password.clone()))
        // Given here, they are not asked for: a login is then one exchange.
        .max_allowed_packet(Some(PACKET_LIMIT))
        .wait_timeout(Some(28_800))
        .stmt_cache_size(0);
    if tls {
        opts = opts.ssl_opts(Some(ssl(target)));
    }
    match Conn::new(opts).await {
        Ok(conn) => Ok((conn, tap)),
        Err(error) => Err(explain(error, false, tls, tap).await),
    }
}

/// TLS as `tls` and `tls_ca` say. With a CA the chain is verified, and the certificate has to name
/// the server's address (subjectAltName IP): the library's switch for leaving the name aside does
/// not work with current rustls.
fn ssl(target: &Target) -> SslOpts {
    let ssl =
        SslOpts::default().with_danger_tls_hostname_override(Some(target.addr.ip().to_string()));
    match &target.tls_ca {
        Some(ca) => ssl.with_disable_built_in_roots(true).with_root_certs(vec![ca.clone().into()]),
        None => ssl.with_danger_accept_invalid_certs(true),
    }
}

/// What the library's error means. What the tap has seen says more than a broken connection.
async fn explain(error: Error, statement: bool, tls: bool, tap: Tap) -> Failure {
    match error {
        Error::Server(error) => {
            let message = printable(error.message.as_bytes(), 200);
            Failure::Server { code: error.code, message, statement, tls }
        }
        Error::Driver(
            error @ (DriverError::UnknownAuthPlugin { .. }
            | DriverError::CleartextPluginDisabled
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::NoClientSslFlagFromServer),
        ) => Failure::Credentials(error.to_string()),
        Error::Io(IoError::Tls(error)) => Failure::Credentials(format!("TLS: {error}")),
        // rustls reports a bad certificate and a bad record as invalid data.
        Error::Io(IoError::Io(error)) if tls && error.kind() == io::ErrorKind::InvalidData => {
            Failure::Credentials(format!("TLS: {error}"))
        }
        error => match tap.end().await {
            Some(End::Violation(text)) => Failure::NotMysql(text),
            Some(End::Server(text)) => Failure::Io(text),
            Some(End::Client) | None => Failure::NotMysql(format!(
                "not understood: {}",
                printable(error.to_string().as_bytes(), 120)
            )),
        },
    }
}

impl Session {
    /// Server version as the greeting had it, fit for logs.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether the session is inside TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// COM_PING. Not bounded in time: a stalled server may answer late, and the caller counts.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub async fn ping(&mut self) -> Result<Answer, Failure> {
        match self.conn.ping().await {
            Ok(()) => Ok(Answer::Alive),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The question of the check's level.
    ///
    /// # Errors
    /// [`Failure::Server`] leaves the session usable, everything else has ended it.
    pub async fn ask(&mut self) -> Result<Answer, Failure> {
        match self.question.clone() {
            Question::Nothing => Ok(Answer::Alive),
            Question::Query(query) => Ok(Answer::Value(self.first_value(&query).await?)),
            Question::ReadOnly => {
                let both = "SELECT CONCAT(@@global.read_only, '/', @@global.super_read_only)";
                let one = "SELECT @@global.read_only";
                let value = if self.mariadb {
                    self.first_value(one).await?
                } else {
                    match self.first_value(both).await {
                        // MySQL before 5.7.8 has no super_read_only.
                        Err(Failure::Server { code: 1193, .. }) => self.first_value(one).await?,
                        other => other?,
                    }
                };
                Ok(Answer::ReadOnly(read_only(value.as_deref())))
            }
        }
    }

    async fn first_value(&mut self, query: &str) -> Result<Option<String>, Failure> {
        let row: Option<Row> = match self.conn.query_first(query).await {
            Ok(row) => row,
            Err(error) => return Err(self.failed(error)),
        };
        Ok(row.map(|row| match row.as_ref(0) {
            Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            Some(Value::NULL) | None => "NULL".to_owned(),
            Some(other) => other.as_sql(true),
        }))
    }

    fn failed(&self, error: Error) -> Failure {
        match error {
            Error::Server(error) => {
                let message = printable(error.message.as_bytes(), 200);
                Failure::Server { code: error.code, message, statement: true, tls: self.tls }
            }
            error => match self.tap.ended() {
                Some(End::Violation(text)) => Failure::NotMysql(text),
                Some(End::Server(text)) => Failure::Io(text),
                Some(End::Client) | None => {
                    Failure::Io(printable(error.to_string().as_bytes(), 120))
                }
            },
        }
    }

    /// Waits until the session has ended, and says why. May be dropped and called again.
    pub async fn ended(&mut self) -> String {
        match self.tap.wait().await {
            End::Violation(text) | End::Server(text) => text,
            End::Client => "closed by us".to_owned(),
        }
    }

    /// COM_QUIT and an orderly close, so that the server counts no aborted client.
    pub async fn quit(self) {
        let Self { conn, tap, .. } = self;
        let _ = timeout(FAREWELL_LIMIT, async {
            if let Err(error) = conn.disconnect().await {
                tracing::debug!(%error, "farewell to a MySQL server");
            }
            tap.end().await;
        })
        .await;
    }
}

/// `0`, `1`, `OFF`, `ON` and MariaDB 12's `NO_LOCK…`; two of them joined by `/` on MySQL.
/// Unreadable means read-only: a server must not become a writer by mistake.
fn read_only(value: Option<&str>) -> bool {
    value.is_none_or(|value| value.split('/').any(|part| !matches!(part, "0" | "OFF" | "off")))
}
