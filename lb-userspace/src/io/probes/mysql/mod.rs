//! MYSQL_CHECK on the network: connect, greeting, login, ping, question, farewell.
//!
//! The MySQL protocol itself (authentication plugins, TLS, commands) is `mysql_async`'s. That
//! library connects by itself, cannot bind a source address, does not tell when an idle session
//! ends, takes packets of any announced size before the login is over, and ends the process over
//! some malformed login packets. So it is connected through a `tap`: our own connection to the
//! server, whose greeting we have read and judged, joined to the library's by a task that makes TLS
//! and watches every byte from the server ([`wire::Guard`]).
//!
//! Nothing that a check does may count as a connect error on the server, because a server blocks
//! the address that makes a hundred of them in a row (`max_connect_errors`, ERROR 1129). Only a
//! login that is finished, well or refused, counts as none. So whatever speaks against logging in
//! ([`trust`], an unknown plugin) ends the login as [`NOBODY`] or with a wrong answer, and a login
//! that is not over in time is reported and still finished in the background ([`late`]).

pub mod late;
mod rsa_key;
mod tap;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod trust;
pub mod wire;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mysql_async::{
    Conn, DriverError, Error, OptsBuilder, Row, SslOpts, Value, prelude::Queryable as _,
};
use tokio::time::{Instant, timeout, timeout_at};

use self::{
    late::{LATE_LIMIT, Places, Progress, Stage},
    rsa_key::PASSWORD_LIMIT,
    tap::{End, Entrance, Opened, Tap, Trust},
    trust::{Authority, Judge},
    wire::{Greeting, PACKET_LIMIT},
};
use super::is_shortage;
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
    pub tls_ca: Option<Authority>,
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
    /// This host had no room for the probe, which says nothing about the server.
    #[error("not made: {0}")]
    NotMade(String),
    /// Bytes that no MySQL server sends, or more than we take.
    #[error("{0}")]
    NotMysql(String),
    /// An error packet.
    #[error("ERROR {code}: {message}")]
    Server { code: u16, message: String, statement: bool, tls: bool },
    /// We do not want to, or cannot, log in here: certificate, plugin, cleartext.
    #[error("{0}")]
    Credentials(String),
    /// TLS could not be agreed upon, whoever gave up: the server may count it as a connect error.
    #[error("{0}")]
    Handshake(String),
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

/// Connects, logs in and asks the target's question. Where a login must not be tried with these
/// credentials (TLS required but not offered, a certificate that does not verify), it is finished
/// as [`NOBODY`]. Cancel-safe: a login that has begun is finished in the background, and keeps its
/// place among the check's `places` until then.
///
/// # Errors
/// [`Failure`], within the target's time-out.
pub async fn login(
    target: &Target,
    credentials: &Credentials,
    places: &Places,
) -> Result<(Session, Answer), Failure> {
    let deadline = Instant::now() + target.timeout;
    let limit = target.timeout;
    let Some(mut place) = places.take(deadline).await else {
        return Err(Failure::TimedOut {
            stage: "no complete greeting on the connections made",
            limit,
        });
    };
    let connected = timeout_at(deadline, tap::connect(target.addr, target.bindto))
        .await
        .unwrap_or(Err(Failure::TimedOut { stage: "no connection", limit }))?;
    let progress = Progress::default();
    let (target, credentials, reached) = (target.clone(), credentials.clone(), progress.clone());
    let mut task = tokio::spawn(async move {
        let opened = tokio::select! {
            opened = connected.greeting() => opened?,
            () = place.forsaken() => return Err(Failure::TimedOut { stage: "no greeting", limit }),
        };
        reached.reach(Stage::Greeted);
        let entering = enter(&target, &credentials, opened, &reached);
        let entered = timeout(limit + LATE_LIMIT, entering).await;
        drop(place);
        entered.unwrap_or(Err(Failure::TimedOut { stage: "login not finished", limit }))
    });
    let stage = "login and question not finished";
    let late = Failure::TimedOut { stage, limit };
    let mut session = match timeout_at(deadline, &mut task).await {
        // It is not cancelled; its runtime can stop.
        Ok(finished) => finished.unwrap_or(Err(late.clone()))?,
        // What becomes of the session of a late login: dropped, it says COM_QUIT.
        Err(_) => {
            return Err(match progress.stage() {
                Stage::Silent => Failure::TimedOut { stage: "no complete greeting", limit },
                Stage::Handshake => Failure::Handshake(format!(
                    "TLS handshake not finished within {} ms",
                    limit.as_millis()
                )),
                Stage::Greeted | Stage::Inside => late,
            });
        }
    };
    match timeout_at(deadline, session.ask()).await.unwrap_or(Err(late)) {
        Ok(answer) => Ok((session, answer)),
        Err(failure) => {
            // Its end is the tap's work; the verdict does not wait for it.
            tokio::spawn(session.quit());
            Err(failure)
        }
    }
}

/// Logs in on a connection whose greeting has been read.
async fn enter(
    target: &Target,
    credentials: &Credentials,
    opened: Opened,
    progress: &Progress,
) -> Result<Session, Failure> {
    let (offers_tls, version) = match &opened.greeting {
        Greeting::Refused { code, message } => {
            let message = message.clone();
            return Err(Failure::Server { code: *code, message, statement: false, tls: false });
        }
        Greeting::Hello { tls, version } => (*tls, version.clone()),
    };
    let mariadb = opened.greeting.is_mariadb();
    let wants_tls = match target.tls {
        Tls::Off => false,
        // Only where there is a secret to protect.
        Tls::Prefer => {
            offers_tls && !credentials.password.is_empty() && *credentials != Credentials::nobody()
        }
        Tls::Require => true,
    };
    let judge = match &target.tls_ca {
        _ if !wants_tls => Ok(None),
        _ if !offers_tls => Err("the server does not offer TLS, and `tls require` forbids to log \
                                 in without"
            .to_owned()),
        None => Ok(Some(Judge::lenient())),
        Some(authority) => Judge::strict(authority).map(Some),
    };
    let judge = match judge {
        Ok(_) if credentials.password.len() > PASSWORD_LIMIT => {
            Err("the password is longer than 200 bytes".to_owned())
        }
        judge => judge,
    };
    let trust = match judge {
        Ok(judge) => judge.map(|judge| Trust { judge, name: trust::name_of(target.addr.ip()) }),
        Err(reason) => {
            let _ = open_session(&Credentials::nobody(), opened, None, progress).await;
            return Err(Failure::Credentials(reason));
        }
    };
    let tls = trust.is_some();
    let (conn, tap) = open_session(credentials, opened, trust, progress).await?;
    let question = target.question.clone();
    Ok(Session { conn, tap, question, mariadb, tls, version })
}

async fn open_session(
    credentials: &Credentials,
    opened: Opened,
    trust: Option<Trust>,
    progress: &Progress,
) -> Result<(Conn, Tap), Failure> {
    let tls = trust.is_some();
    let (tap, entrance) = opened
        .join(trust, credentials.password.is_empty(), progress.clone())
        .map_err(|error| own_socket(&error))?;
    match Conn::new(options(&entrance, credentials)).await {
        Ok(conn) => Ok((conn, tap)),
        Err(error) => match tap.distrust() {
            Some(objection) => {
                let _ = Conn::new(options(&entrance, &Credentials::nobody())).await;
                Err(Failure::Credentials(format!("TLS: {objection}")))
            }
            None => Err(explain(error, tls, tap).await),
        },
    }
}

/// The library's way to the tap failed.
fn own_socket(error: &io::Error) -> Failure {
    of_this_host(error, &format!("own socket for the login: {error}"))
}

/// What an error of the kernel means for a probe; `words` for the log.
fn of_this_host(error: &io::Error, words: &str) -> Failure {
    if is_shortage(error) {
        Failure::NotMade(words.to_owned())
    } else {
        Failure::Io(words.to_owned())
    }
}

/// How the library connects to the tap.
fn options(entrance: &Entrance, credentials: &Credentials) -> OptsBuilder {
    let opts = OptsBuilder::default()
        // On loopback the library would otherwise ask for @@socket and go there instead.
        .prefer_socket(false)
        .user(Some(credentials.user.clone()))
        .pass(Some(credentials.password.clone()))
        // Given here, they are not asked for: a login is then one exchange.
        .max_allowed_packet(Some(PACKET_LIMIT))
        .wait_timeout(Some(28_800))
        .stmt_cache_size(0);
    match entrance {
        Entrance::Tcp(at) => opts.ip_or_hostname(at.ip().to_string()).tcp_port(at.port()),
        // It asks for TLS then, and leaves it to the tap.
        Entrance::Unix(path) => opts.socket(Some(path.clone())).ssl_opts(Some(SslOpts::default())),
    }
}

/// What the library's error means. What the tap has seen says more than a broken connection.
async fn explain(error: Error, tls: bool, tap: Tap) -> Failure {
    match error {
        Error::Server(error) => {
            let message = printable(error.message.as_bytes(), 200);
            Failure::Server { code: error.code, message, statement: false, tls }
        }
        Error::Driver(
            error @ (DriverError::UnknownAuthPlugin { .. }
            | DriverError::CleartextPluginDisabled
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::NoClientSslFlagFromServer),
        ) => Failure::Credentials(error.to_string()),
        // An error of the kernel on our own side, such as no descriptor left: not the server's.
        Error::Io(mysql_async::IoError::Io(error)) if error.raw_os_error().is_some() => {
            match tap.ended() {
                Some(End::Failed(failure)) => failure,
                Some(End::Client) | None => own_socket(&error),
            }
        }
        error => match tap.end().await {
            Some(End::Failed(failure)) => failure,
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
                Some(End::Failed(failure)) => failure,
                Some(End::Client) | None => {
                    Failure::Io(printable(error.to_string().as_bytes(), 120))
                }
            },
        }
    }

    /// Waits until the session has ended, and says why. May be dropped and called again.
    pub async fn ended(&mut self) -> String {
        match self.tap.wait().await {
            End::Failed(failure) => failure.to_string(),
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
