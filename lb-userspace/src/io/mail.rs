//! Mail to the people named in `notification_email`, through `smtp_server`.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor, message::Mailbox,
    transport::smtp::extension::ClientId,
};

use crate::{
    config::model::{Global, MailServer},
    vrrp::notify::Mail,
};

/// A dialogue with a mail server lasts at most this much longer than `smtp_connect_timeout`.
const DIALOGUE_LIMIT: Duration = Duration::from_secs(30);
/// Pauses before a mail is tried again; then it is given up.
const RETRY: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server, no recipient, an address that is none: trying again would not help.
    #[error("{0}")]
    Configuration(String),
    /// The server refused it for good.
    #[error("{server}: {cause}")]
    Refused { server: String, cause: String },
    /// It may work later.
    #[error("{server}: {cause}")]
    Unreachable { server: String, cause: String },
}

/// Sends a mail; tries again where that may help.
///
/// # Errors
/// Why the last attempt failed.
pub async fn deliver(global: &Global, host: &str, mail: &Mail) -> Result<(), Error> {
    let mut pauses = RETRY.into_iter();
    loop {
        match send(global, host, mail).await {
            Err(error @ Error::Unreachable { .. }) => {
                let Some(pause) = pauses.next() else { return Err(error) };
                tracing::debug!(subject = mail.subject, ?pause, "mail is tried again: {error}");
                tokio::time::sleep(pause).await;
            }
            other => return other,
        }
    }
}

/// One attempt. `host` is this host's name.
///
/// # Errors
/// What went wrong.
pub async fn send(global: &Global, host: &str, mail: &Mail) -> Result<(), Error> {
    let server = global
        .smtp_server
        .as_ref()
        .ok_or_else(|| Error::Configuration("there is no smtp_server".into()))?;
    let message = compose(global, host, mail)?;
    let MailServer { host: name, port } = server;
    let shown = format!("smtp_server {name} {port}");
    let helo = global.smtp_helo_name.clone().unwrap_or_else(|| host.to_owned());
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(name)
        .port(*port)
        .hello_name(ClientId::Domain(helo))
        .timeout(Some(global.smtp_connect_timeout))
        .build();
    let limit = global.smtp_connect_timeout + DIALOGUE_LIMIT;
    match tokio::time::timeout(limit, transport.send(message)).await {
        Err(_) => {
            let cause = format!("no end of the dialogue within {} s", limit.as_secs());
            Err(Error::Unreachable { server: shown, cause })
        }
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let cause = causes(&error);
            Err(match error.is_permanent() {
                true => Error::Refused { server: shown, cause },
                false => Error::Unreachable { server: shown, cause },
            })
        }
    }
}

/// The message with its header.
fn compose(global: &Global, host: &str, mail: &Mail) -> Result<Message, Error> {
    let router = global.router_id.as_deref().unwrap_or(host);
    let from = global.notification_email_from.clone().unwrap_or_else(|| format!("root@{host}"));
    let mut message =
        Message::builder().from(mailbox(&from)?).subject(format!("[{router}] {}", mail.subject));
    if global.notification_email.is_empty() {
        return Err(Error::Configuration("there is no notification_email".into()));
    }
    for to in &global.notification_email {
        message = message.to(mailbox(to)?);
    }
    message
        .body(format!("{}\n", mail.text))
        .map_err(|error| Error::Configuration(format!("mail not composed: {error}")))
}

fn mailbox(address: &str) -> Result<Mailbox, Error> {
    address
        .parse()
        .map_err(|error| Error::Configuration(format!("`{address}` is no mail address: {error}")))
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global() -> Global {
        Global {
            router_id: Some("LBD".into()),
            notification_email: vec!["dba@example.com".into(), "Ops <ops@example.com>".into()],
            notification_email_from: Some("lbd@example.com".into()),
            ..Global::default()
        }
    }

    fn mail() -> Mail {
        let subject = "VRRP Instance VI_1 - Entering MASTER state".into();
        Mail { subject, text: "text".into() }
    }

    #[test]
    fn header_is_keepaliveds() {
        let message = compose(&global(), "host", &mail()).expect("composed");
        let text = String::from_utf8(message.formatted()).expect("text");
        let unfolded = text.replace("\r\n ", " ");
        for line in [
            "From: lbd@example.com",
            "To: dba@example.com, Ops <ops@example.com>",
            "Subject: [LBD] VRRP Instance VI_1 - Entering MASTER state",
        ] {
            assert!(unfolded.lines().any(|it| it == line), "{line} in {text}");
        }
        assert!(unfolded.contains("\r\n\r\ntext"), "{text}");
        assert!(unfolded.lines().any(|line| line.starts_with("Date: ")), "{text}");
    }

    #[test]
    fn names_of_the_host_are_the_defaults() {
        let global = Global { router_id: None, notification_email_from: None, ..global() };
        let message = compose(&global, "db1", &mail()).expect("composed");
        let text = String::from_utf8(message.formatted()).expect("text");
        assert!(text.contains("From: root@db1\r\n"), "{text}");
        assert!(text.contains("Subject: [db1] VRRP"), "{text}");
    }

    #[test]
    fn bad_addresses_are_named() {
        let global = Global { notification_email: vec!["nobody".into()], ..global() };
        let error = compose(&global, "db1", &mail()).expect_err("no address");
        assert!(error.to_string().contains("`nobody`"), "{error}");
    }

    #[tokio::test]
    async fn a_refusal_names_the_server() {
        // A port that nobody has: bound once, then given back.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|it| it.local_addr())
            .expect("a port")
            .port();
        let server = Some(MailServer { host: "127.0.0.1".into(), port });
        let global = Global { smtp_server: server, ..global() };
        let error = send(&global, "db1", &mail()).await.expect_err("nobody is there");
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().starts_with(&format!("smtp_server 127.0.0.1 {port}: ")));
    }
}
