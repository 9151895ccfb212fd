//! Mail to the people named in `notification_email`, through `smtp_server`.

use std::time::Duration;

use lettre::{
    Message,
    message::Mailbox,
    transport::smtp::{self, client::AsyncSmtpConnection, extension::ClientId},
};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    config::model::{Global, MailServer},
    vrrp::notify::Mail,
};

/// So long may the dialogue with a mail server last that has greeted in time.
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
    let helo = global.smtp_helo_name.clone().unwrap_or_else(|| host.to_owned());
    dialogue(server, global.smtp_connect_timeout, helo, &message).await.map_err(|failure| {
        let Failure { cause, permanent } = failure;
        let server = format!("smtp_server {} {}", server.host, server.port);
        if permanent {
            Error::Refused { server, cause }
        } else {
            Error::Unreachable { server, cause }
        }
    })
}

/// Why an attempt failed, and whether the server said so for good.
struct Failure {
    cause: String,
    permanent: bool,
}

impl Failure {
    fn of_the_moment(cause: String) -> Self {
        Self { cause, permanent: false }
    }
}

impl From<smtp::Error> for Failure {
    fn from(error: smtp::Error) -> Self {
        Self { cause: causes(&error), permanent: error.is_permanent() }
    }
}

/// One connection, one mail. The connection, and the greeting on it with the answer to our own, may
/// take `limit` each: a server that is silent costs no more than one that is away.
async fn dialogue(
    server: &MailServer,
    limit: Duration,
    helo: String,
    message: &Message,
) -> Result<(), Failure> {
    let stream = connect(server, limit).await?;
    let helo = ClientId::Domain(helo);
    let greeted = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &helo);
    let mut connection = within(limit, "greeting", greeted).await?;
    let content = message.formatted();
    let sending = connection.send(message.envelope(), &content);
    within(DIALOGUE_LIMIT, "end of the dialogue", sending).await?;
    // The server has the mail, whether it answers our farewell or not.
    let _ = timeout(limit, connection.abort()).await;
    Ok(())
}

async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, smtp::Error>>,
) -> Result<T, Failure> {
    match timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Failure::of_the_moment(format!("no {what} within {limit:?}"))),
    }
}

/// To the first of the server's addresses that takes a connection within `limit`.
async fn connect(server: &MailServer, limit: Duration) -> Result<TcpStream, Failure> {
    let name = (server.host.as_str(), server.port);
    let addrs = match timeout(limit, tokio::net::lookup_host(name)).await {
        Ok(found) => found.map_err(|error| Failure::of_the_moment(causes(&error)))?,
        Err(_) => return Err(Failure::of_the_moment(format!("no address within {limit:?}"))),
    };
    let mut cause = "it has no address".to_owned();
    for addr in addrs {
        cause = match timeout(limit, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => causes(&error),
            Err(_) => format!("no connection within {limit:?}"),
        };
    }
    Err(Failure::of_the_moment(cause))
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

    /// Time for each step, in the tests.
    const STEP: Duration = Duration::from_millis(300);

    /// One attempt at a server on this port: its outcome, and how long it took.
    async fn attempt(port: u16, step: Duration) -> (Result<(), Error>, Duration) {
        let server = Some(MailServer { host: "127.0.0.1".into(), port });
        let global = Global { smtp_server: server, smtp_connect_timeout: step, ..global() };
        let begin = std::time::Instant::now();
        let outcome = send(&global, "db1", &mail()).await;
        (outcome, begin.elapsed())
    }

    /// Given up for want of `what` after the time, not before it and not much later.
    fn given_up((outcome, took): (Result<(), Error>, Duration), what: &str) {
        let error = outcome.expect_err("nobody takes the mail");
        assert!(matches!(error, Error::Unreachable { .. }), "it is tried again: {error:?}");
        let text = error.to_string();
        assert!(text.ends_with(&format!("no {what} within 300ms")), "{text}");
        assert!(took >= STEP && took < DIALOGUE_LIMIT / 5, "{text}: took {took:?}");
    }

    #[tokio::test]
    async fn a_server_that_takes_no_connection_is_given_up_after_the_time() {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("made");
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        socket.listen(0).expect("listens");
        let listener = std::net::TcpListener::from(socket);
        let addr = listener.local_addr().expect("an address");
        // Its queue is full once the kernel lets connections wait.
        let mut queue = Vec::new();
        while let Ok(stream) =
            std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(100))
        {
            queue.push(stream);
            assert!(queue.len() < 16, "its queue has no end");
        }
        given_up(attempt(addr.port(), STEP).await, "connection");
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_given_up_after_the_time() {
        // The kernel takes connections; the second one gets a greeting, and no answer to its own.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = silent.local_addr().expect("address").port();
        given_up(attempt(port, STEP).await, "greeting");
        let mute = served(&["220 mute"]);
        given_up(attempt(mute, STEP).await, "greeting");
    }

    /// Whoever has taken the mail may leave without a word: it is not sent twice.
    #[tokio::test]
    async fn a_farewell_without_an_answer_is_no_failure() {
        const ANSWERS: [&str; 7] =
            ["220 sink", "250 sink", "250 from", "250 to", "250 to", "354 go on", "250 taken"];
        // Every other answer comes in time, even if the machine stops the server for a moment.
        let step = 10 * STEP;
        let (outcome, took) = attempt(served(&ANSWERS), step).await;
        outcome.expect("the mail is taken");
        assert!(took >= step && took < DIALOGUE_LIMIT / 5, "took {took:?}");
    }

    /// The port of a server that says these lines to one client, each after a line of the client's
    /// (the last one after the end of the mail), and then nothing until the client leaves.
    fn served(answers: &'static [&'static str]) -> u16 {
        use std::io::{BufRead as _, BufReader, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let Ok(copy) = stream.try_clone() else { return };
            let mut lines = BufReader::new(copy).lines();
            let mut data = false;
            for answer in answers {
                if stream.write_all(format!("{answer}\r\n").as_bytes()).is_err() {
                    return;
                }
                data |= answer.starts_with("354");
                // A line of the client's, or the whole mail.
                while lines.next().is_some_and(|line| data && line.is_ok_and(|it| it != ".")) {}
            }
            lines.for_each(drop);
        });
        port
    }
}
