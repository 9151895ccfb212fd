//! What the answers of a MySQL server mean for its health.

use serde::{Deserialize, Serialize};

use crate::base::text::printable;

/// A fact about the server, as one exchange showed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// No answer, or a broken one: time-out, reset, unreachable. Counted towards `fall`.
    Missed(String),
    /// This host had no room for the probe: nothing was learned of the server.
    NotMade(String),
    /// ECONNREFUSED: nobody listens. A second one in a row is certain.
    Refused(String),
    /// An answer that proves that the server is no use for us (not MySQL, blocked, non-primary).
    Unfit(String),
    /// As `Unfit`, and asking often would prolong it (1129, 1130).
    UnfitAskSeldom(String),
    /// Alive, but its connection limit is reached.
    Full(String),
    /// Alive, and shutting down or taken offline.
    Drain(String),
    /// Alive, but our credentials or our TLS are not accepted.
    Auth(String),
    /// As `Auth`: TLS could not be agreed upon, and the server holds that against us.
    Handshake(String),
}

impl Trouble {
    /// The words.
    pub fn reason(&self) -> &str {
        let (Self::Missed(reason)
        | Self::NotMade(reason)
        | Self::Refused(reason)
        | Self::Unfit(reason)
        | Self::UnfitAskSeldom(reason)
        | Self::Full(reason)
        | Self::Drain(reason)
        | Self::Auth(reason)
        | Self::Handshake(reason)) = self;
        reason
    }
}

/// Where an error packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Greeting or login.
    Login,
    /// A statement on a session.
    Statement,
}

/// How the login was tried, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginAs<'a> {
    pub user: &'a str,
    pub tls: bool,
}

/// The meaning of a server's error packet.
pub fn server_error(code: u16, message: &str, phase: Phase, login: &LoginAs<'_>) -> Trouble {
    let said = format!("ERROR {code}: {}", printable(message.as_bytes(), 200));
    let user = printable(login.user.as_bytes(), 80);
    let with = if login.tls { "with TLS" } else { "without TLS" };
    match code {
        1040 | 1203 | 1226 => Trouble::Full(said),
        1053 | 3032 | 3168 => Trouble::Drain(said),
        1047 => Trouble::Unfit(format!("{said} (Galera node outside the primary component)")),
        1129 => Trouble::UnfitAskSeldom(format!(
            "{said}; the server blocks this host after too many connect errors: run FLUSH HOSTS \
             (MySQL 8.0.23 on: TRUNCATE performance_schema.host_cache) there"
        )),
        1130 => Trouble::UnfitAskSeldom(format!(
            "{said}; create user {user} for this host's address on the server"
        )),
        // MariaDB says 1045 as well when TLS is required of the user and was not used.
        1044 | 1045 | 1698 if !login.tls => Trouble::Auth(format!(
            "{said}; wrong user or password, or TLS is required (user {user}, {with})"
        )),
        1044 | 1045 | 1251 | 1524 | 1698 | 1820 | 1862 | 3118 | 3159 | 4031 | 4151 => {
            Trouble::Auth(format!("{said} (user {user}, {with})"))
        }
        1142 | 1227 => Trouble::Auth(format!("{said}; the check's user {user} lacks a grant")),
        _ if phase == Phase::Statement => Trouble::Unfit(said),
        _ => Trouble::Missed(said),
    }
}

/// The role a server must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedRole {
    Writer,
    ReadOnly,
    Any,
}

/// What a session answered to the question of the check's level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The level asks nothing beyond a login or a ping.
    Alive,
    /// First column of the first row; `None`: no row.
    Value(Option<String>),
    /// `@@global.read_only`, or `super_read_only` where it exists.
    ReadOnly(bool),
}

/// What the answer has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expectation {
    Nothing,
    /// First column of the first row; `None`: any answer without an error will do.
    Value(Option<String>),
    Role(WantedRole),
}

impl Expectation {
    /// `Ok` with a phrase for the status, or why the server does not fit.
    ///
    /// # Errors
    /// The phrase for the log.
    pub fn judge(&self, answer: &Answer) -> Result<String, String> {
        let show = |value: &Option<String>| match value {
            None => "no row".to_owned(),
            Some(text) => format!("\"{}\"", printable(text.as_bytes(), 40)),
        };
        match (self, answer) {
            (Self::Value(Some(want)), Answer::Value(Some(got))) if want == got => {
                Ok(format!("query answered \"{}\"", printable(got.as_bytes(), 40)))
            }
            (Self::Value(Some(want)), Answer::Value(got)) => Err(format!(
                "query answered {}, expected \"{}\"",
                show(got),
                printable(want.as_bytes(), 40)
            )),
            (Self::Value(None), Answer::Value(got)) => Ok(format!("query answered {}", show(got))),
            (Self::Role(role), Answer::ReadOnly(read_only)) => {
                let fits = match role {
                    WantedRole::Any => true,
                    WantedRole::Writer => !read_only,
                    WantedRole::ReadOnly => *read_only,
                };
                let said = format!("read_only = {}", u8::from(*read_only));
                if fits {
                    Ok(said)
                } else {
                    Err(format!("{said}, expected {}", u8::from(!read_only)))
                }
            }
            _ => Ok("answers".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_server_errors() {
        let plain = LoginAs { user: "lbcheck", tls: false };
        let kind = |code, phase| match server_error(code, "m", phase, &plain) {
            Trouble::Missed(_) => "missed",
            Trouble::NotMade(_) => "not made",
            Trouble::Refused(_) => "refused",
            Trouble::Unfit(_) => "unfit",
            Trouble::UnfitAskSeldom(_) => "seldom",
            Trouble::Full(_) => "full",
            Trouble::Drain(_) => "drain",
            Trouble::Auth(_) => "auth",
            Trouble::Handshake(_) => "handshake",
        };
        for (code, login, statement) in [
            (1040, "full", "full"),
            (1203, "full", "full"),
            (1226, "full", "full"),
            (1053, "drain", "drain"),
            (3032, "drain", "drain"),
            (1047, "unfit", "unfit"),
            (1129, "seldom", "seldom"),
            (1130, "seldom", "seldom"),
            (1044, "auth", "auth"),
            (1045, "auth", "auth"),
            (1251, "auth", "auth"),
            (1862, "auth", "auth"),
            (3118, "auth", "auth"),
            (3159, "auth", "auth"),
            (4151, "auth", "auth"),
            (1227, "auth", "auth"),
            (1146, "missed", "unfit"),
            (1135, "missed", "unfit"),
        ] {
            assert_eq!(kind(code, Phase::Login), login, "{code} at login");
            assert_eq!(kind(code, Phase::Statement), statement, "{code} on a session");
        }
    }

    #[test]
    fn messages_name_the_user_the_tls_state_and_the_remedy() {
        let plain = LoginAs { user: "lbcheck", tls: false };
        let denied = server_error(1045, "Access denied\u{1b}[31m", Phase::Login, &plain);
        assert_eq!(
            denied.reason(),
            "ERROR 1045: Access denied\\u{1b}[31m; wrong user or password, or TLS is required \
             (user lbcheck, without TLS)"
        );
        let tls = LoginAs { user: "lbcheck", tls: true };
        assert_eq!(
            server_error(1045, "Access denied", Phase::Login, &tls).reason(),
            "ERROR 1045: Access denied (user lbcheck, with TLS)"
        );
        assert!(server_error(1129, "m", Phase::Login, &tls).reason().contains("FLUSH HOSTS"));
    }

    #[test]
    fn expectations() {
        let value = |text: &str| Answer::Value(Some(text.into()));
        let want = Expectation::Value(Some("1".into()));
        assert!(want.judge(&value("1")).is_ok());
        assert_eq!(want.judge(&value("2")), Err("query answered \"2\", expected \"1\"".into()));
        assert_eq!(
            want.judge(&Answer::Value(None)),
            Err("query answered no row, expected \"1\"".into())
        );
        assert!(Expectation::Value(None).judge(&Answer::Value(None)).is_ok());
        for (role, read_only, fits) in [
            (WantedRole::Writer, false, true),
            (WantedRole::Writer, true, false),
            (WantedRole::ReadOnly, true, true),
            (WantedRole::ReadOnly, false, false),
            (WantedRole::Any, false, true),
            (WantedRole::Any, true, true),
        ] {
            let judged = Expectation::Role(role).judge(&Answer::ReadOnly(read_only));
            assert_eq!(judged.is_ok(), fits, "{role:?} {read_only}: {judged:?}");
        }
        assert_eq!(
            Expectation::Role(WantedRole::Writer).judge(&Answer::ReadOnly(true)),
            Err("read_only = 1, expected 0".into())
        );
    }
}
