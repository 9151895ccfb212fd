//! One check against a scripted server, its reports read by the test.

use std::{net::Ipv4Addr, path::PathBuf};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use super::*;
use crate::{
    config::model::{MysqlLevel, MysqlRole, OnCondition, TlsMode},
    io::probes::mysql::{
        late::LATE_COUNT,
        testing::{OK, hello, packet, read_packet},
    },
    process::checker::probe::Report,
};

const LIMIT: Duration = Duration::from_secs(10);
const DENIED: &[u8] = b"\xff\x15\x04#28000Access denied";

fn config(level: MysqlLevel) -> Config {
    Config {
        level,
        role: MysqlRole::Any,
        user: Some("lbcheck".into()),
        password: Some(Password::Literal("secret".into())),
        tls: TlsMode::Off,
        tls_ca: None,
        query: Some("SELECT 1".into()),
        expect: None,
        ping_interval: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(50),
        login_interval: Duration::from_secs(60),
        role_interval: Duration::from_millis(50),
        suspect: 2,
        fall: 100,
        rise: 2,
        on_auth_error: OnCondition::Hold,
        on_full: OnCondition::Hold,
    }
}

struct Bench {
    listener: TcpListener,
    commands: mpsc::Sender<Command>,
    reports: mpsc::Receiver<Report>,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    async fn start(config: Config, connect_timeout: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let common = CheckerCommon {
            target: listener.local_addr().expect("name"),
            bindto: None,
            connect_timeout,
            retry: 0,
            delay_before_retry: Duration::from_millis(20),
            delay_loop: Duration::from_millis(50),
            warmup: Duration::ZERO,
            alpha: false,
        };
        let (tx, reports) = mpsc::channel(1024);
        let (commands, rx) = mpsc::channel(4);
        let desk = Desk { id: 1, reports: tx, commands: rx };
        let task = tokio::spawn(run(desk, common, config, Fraction(0), clock::now()));
        Self { listener, commands, reports, task }
    }

    /// The next client, greeted; its login is answered by this payload.
    async fn accept(&self, answer: &[u8]) -> TcpStream {
        let accepted = timeout(LIMIT, self.listener.accept()).await.expect("in time");
        let (mut stream, _) = accepted.expect("a client");
        stream.write_all(&hello("mysql_native_password")).await.expect("greeting");
        let (seq, _) = read_packet(&mut stream).await.expect("a login");
        stream.write_all(&packet(seq + 1, answer)).await.expect("answer");
        stream
    }

    /// The first report that `pick` takes.
    async fn report<T>(&mut self, pick: impl Fn(What) -> Option<T>) -> T {
        timeout(LIMIT, async {
            loop {
                let report = self.reports.recv().await.expect("the check runs");
                if let Some(found) = pick(report.what) {
                    return found;
                }
            }
        })
        .await
        .expect("in time")
    }

    async fn health(&mut self, wanted: Health) -> String {
        self.report(|what| match what {
            What::Verdict(verdict) if verdict.health == wanted => Some(verdict.reason),
            _ => None,
        })
        .await
    }

    async fn stop(self) {
        self.commands.send(Command::Stop).await.expect("taken");
        timeout(LIMIT, self.task).await.expect("in time").expect("ended");
    }
}

/// Answers a question with one row of one column, `1`.
async fn answer_one(stream: &mut TcpStream) -> Vec<u8> {
    let (_, question) = timeout(LIMIT, read_packet(stream)).await.expect("in time").expect("one");
    let column = b"\x03def\0\0\0\x011\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";
    for (seq, payload) in [
        (1, &[1][..]),
        (2, column),
        (3, &[0xfe, 0, 0, 2, 0]),
        (4, b"\x011"),
        (5, &[0xfe, 0, 0, 2, 0]),
    ] {
        stream.write_all(&packet(seq, payload)).await.expect("answer");
    }
    question
}

/// The kept session hangs in a question; a fresh login works and takes its place. The old one is not
/// just dropped: COM_QUIT is said behind the question.
#[tokio::test]
async fn a_new_session_replaces_a_hanging_exchange() {
    let mut bench = Bench::start(config(MysqlLevel::Query), LIMIT).await;
    let mut first = bench.accept(OK).await;
    assert_eq!(answer_one(&mut first).await, b"\x03SELECT 1");
    bench.health(Health::Up).await;
    // Whatever is asked next is not answered, until a login beside it is made.
    let mut second = bench.accept(OK).await;
    assert_eq!(answer_one(&mut second).await, b"\x03SELECT 1");
    let mut heard = Vec::new();
    while let Some((_, payload)) = timeout(LIMIT, read_packet(&mut first)).await.expect("in time") {
        heard.push(payload);
    }
    assert_eq!(heard.last(), Some(&vec![1]), "COM_QUIT: {heard:?}");
    assert_eq!(heard.iter().filter(|payload| payload[..] != [1]).count(), 1, "{heard:?}");
    // The new one is asked from now on.
    assert_eq!(answer_one(&mut second).await, b"\x03SELECT 1");
    bench.stop().await;
    let quit = timeout(LIMIT, async {
        let mut last = None;
        while let Some((_, payload)) = read_packet(&mut second).await {
            last = Some(payload);
        }
        last
    });
    assert_eq!(quit.await.expect("in time"), Some(vec![1]), "COM_QUIT");
}

/// The end of a kept session is an event: nobody waits for the next ping to find out.
#[tokio::test]
async fn a_session_that_ends_is_noticed_without_a_ping() {
    const INTERVAL: Duration = Duration::from_secs(4);
    let config = Config { ping_interval: INTERVAL, ..config(MysqlLevel::Ping) };
    let mut bench = Bench::start(config, LIMIT).await;
    let mut first = bench.accept(OK).await;
    bench.health(Health::Up).await;
    // A login may follow the last one after an interval, so that is waited for; the next ping is another one away.
    let (seq, ping) = timeout(LIMIT, read_packet(&mut first)).await.expect("in time").expect("one");
    assert_eq!(ping, [14], "COM_PING");
    first.write_all(&packet(seq + 1, OK)).await.expect("answer");
    drop(first);
    let ended = tokio::time::Instant::now();
    let _second = bench.accept(OK).await;
    assert!(ended.elapsed() < INTERVAL * 3 / 4, "{:?}", ended.elapsed());
    bench.stop().await;
}

/// Without its password a check cannot log in, but it sees a server live and die.
#[tokio::test]
async fn a_password_file_that_is_not_there_hides_no_death() {
    let lost = config(MysqlLevel::Login);
    let lost = Config { password: Some(Password::File(PathBuf::from("/nonexistent/pw"))), ..lost };
    let mut bench = Bench::start(lost, LIMIT).await;
    bench.commands.send(Command::Known(Health::Up)).await.expect("taken");
    drop(bench.accept(DENIED).await);
    let said = bench
        .report(|what| match what {
            What::Probed { result, .. } => Some(result.expect_err("no login")),
            _ => None,
        })
        .await;
    assert!(said.contains("password_file /nonexistent/pw could not be read"), "{said}");
    let addr = bench.listener.local_addr().expect("name");
    bench.listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("another port");
    assert_ne!(bench.listener.local_addr().expect("name"), addr);
    bench.health(Health::Down).await;
    bench.stop().await;
}

/// A server that stands still is not covered with connections; what is not tried is counted.
#[tokio::test]
async fn logins_wait_for_those_that_hang() {
    let mut bench = Bench::start(config(MysqlLevel::Login), Duration::from_millis(30)).await;
    let more = bench
        .report(|what| match what {
            What::Deferred(more) => Some(more),
            _ => None,
        })
        .await;
    assert_eq!(more, 1);
    let mut streams = Vec::new();
    for _ in 0..LATE_COUNT {
        let accepted = timeout(LIMIT, bench.listener.accept()).await.expect("in time");
        streams.push(accepted.expect("a client"));
    }
    let fifth = timeout(Duration::from_millis(200), bench.listener.accept()).await;
    assert!(fifth.is_err(), "one connection too many");
    bench.stop().await;
}
