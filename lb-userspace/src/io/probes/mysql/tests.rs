//! Against servers that are not what they should be: every one ends in a named verdict, in
//! bounded time, and the library never sees what it could not cope with.

mod endings;
mod tls;

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

use super::{
    testing::{OK, hello, hello_with, packet, read_packet},
    *,
};

/// Of logins that are to run into it.
const LIMIT: Duration = Duration::from_millis(400);
/// Of all others: longer than a busy machine may stop this thread.
const AMPLE: Duration = Duration::from_secs(10);

/// A server that treats its first connection as `serve` says, and what it returned.
async fn against<F, Fut, T>(
    question: Question,
    who: &Credentials,
    serve: F,
) -> (Result<Answer, Failure>, T)
where
    F: FnOnce(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    against_target(Target { question, ..target() }, who, serve).await
}

/// The defaults; the address is filled in by [`against_target`].
fn target() -> Target {
    Target {
        addr: (Ipv4Addr::LOCALHOST, 0).into(),
        bindto: None,
        timeout: AMPLE,
        tls: Tls::Prefer,
        tls_ca: None,
        question: Question::Nothing,
    }
}

/// One that is to run into its time-out.
fn brief() -> Target {
    Target { timeout: LIMIT, ..target() }
}

async fn against_target<F, Fut, T>(
    target: Target,
    who: &Credentials,
    serve: F,
) -> (Result<Answer, Failure>, T)
where
    F: FnOnce(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let target = Target { addr: listener.local_addr().expect("name"), ..target };
    let limit = target.timeout;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        serve(stream).await
    });
    let began = Instant::now();
    let result = match login(&target, who, &Places::default()).await {
        Ok((session, answer)) => {
            session.quit().await;
            Ok(answer)
        }
        Err(failure) => Err(failure),
    };
    let took = began.elapsed();
    assert!(took < limit + FAREWELL_LIMIT + AMPLE, "{took:?} for {result:?}");
    (result, server.await.expect("the server's task"))
}

fn somebody() -> Credentials {
    Credentials { user: "lbcheck".into(), password: "secret".into() }
}

/// Keeps a connection open until the client has ended it or does not wait for it any more.
async fn linger(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(6 * LIMIT, stream.read_to_end(&mut rest)).await;
}

/// Sends bytes, then keeps the connection open.
async fn says(bytes: Vec<u8>) -> Failure {
    says_to(target(), bytes).await
}

async fn says_to(target: Target, bytes: Vec<u8>) -> Failure {
    let serve = |mut stream: TcpStream| async move {
        let _ = stream.write_all(&bytes).await;
        linger(stream).await;
    };
    against_target(target, &somebody(), serve).await.0.expect_err("refused")
}

/// Answers each packet of the login with the next of these payloads.
async fn answers(plugin: &'static str, payloads: Vec<Vec<u8>>) -> Result<Answer, Failure> {
    let serve = move |mut stream: TcpStream| async move {
        let _ = stream.write_all(&hello(plugin)).await;
        for payload in payloads {
            let Some((seq, _)) = read_packet(&mut stream).await else { return };
            let _ = stream.write_all(&packet(seq.wrapping_add(1), &payload)).await;
        }
        linger(stream).await;
    };
    against(Question::Nothing, &somebody(), serve).await.0
}

fn words(failure: &Failure) -> String {
    failure.to_string()
}

#[tokio::test]
async fn what_is_not_mysql_is_told_at_once() {
    for (bytes, expected) in [
        (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], "not MySQL: first bytes 53 53 48"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not MySQL: first bytes 48 54 54 50"),
        (b"\x05\0\0\0\x093.20\0", "protocol 9"),
        (b"\xff\xff\xff\0\x0a8.0", "16777215 bytes announced"),
    ] {
        let failure = says(bytes.to_vec()).await;
        assert!(matches!(failure, Failure::NotMysql(_)), "{failure:?}");
        assert!(words(&failure).contains(expected), "{failure}");
    }
}

#[tokio::test]
async fn truncated_greetings() {
    let whole = hello("mysql_native_password");
    for end in [0, 3, 5, 40] {
        let part = whole[..end].to_vec();
        let serve = |mut stream: TcpStream| async move {
            let _ = stream.write_all(&part).await;
        };
        let failure = against(Question::Nothing, &somebody(), serve).await.0.expect_err("refused");
        match end {
            0 => assert_eq!(words(&failure), "closed the connection without a greeting"),
            _ => assert!(words(&failure).starts_with("not MySQL: first bytes"), "{failure}"),
        }
    }
}

#[tokio::test]
async fn slow_servers_end_at_the_deadline_of_the_whole_exchange() {
    let whole = hello("mysql_native_password");
    let serve = |mut stream: TcpStream| async move {
        for byte in whole {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(20)).await; // the loris
        }
    };
    let failure = against_target(brief(), &somebody(), serve).await.0.expect_err("refused");
    assert_eq!(words(&failure), "no complete greeting within 400 ms");

    // Silent after the greeting, and silent from the start.
    let failure = says_to(brief(), hello("mysql_native_password")).await;
    assert_eq!(words(&failure), "login and question not finished within 400 ms");
    let failure = says_to(brief(), Vec::new()).await;
    assert_eq!(words(&failure), "no complete greeting within 400 ms");
}

#[tokio::test]
async fn refused_connections_and_refusals() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let addr = listener.local_addr().expect("name");
    drop(listener);
    let target = Target { addr, ..target() };
    assert_eq!(
        login(&target, &somebody(), &Places::default()).await.map(drop),
        Err(Failure::Refused)
    );

    let failure = says(packet(0, b"\xff\x10\x04Too many connections")).await;
    assert!(matches!(failure, Failure::Server { code: 1040, statement: false, .. }), "{failure:?}");
    let denied =
        answers("mysql_native_password", vec![b"\xff\x15\x04#28000Access denied".to_vec()]);
    let failure = denied.await.expect_err("refused");
    assert!(matches!(failure, Failure::Server { code: 1045, .. }), "{failure:?}");
}

#[tokio::test]
async fn logins_that_would_trip_the_library_are_stopped() {
    let switch =
        |plugin: &str, challenge: &[u8]| [b"\xfe", plugin.as_bytes(), b"\0", challenge].concat();
    for (payloads, expected) in [
        (vec![vec![]], "empty packet"),
        (vec![switch("caching_sha2_password", b"")], "challenge of 0 bytes"),
    ] {
        let failure = answers("caching_sha2_password", payloads).await.expect_err("refused");
        assert!(matches!(failure, Failure::NotMysql(_)), "{failure:?}");
        assert!(words(&failure).contains(expected), "{failure}");
    }
}

#[tokio::test]
async fn sequence_gap_and_oversized_packets_after_the_login() {
    let serve = |mut stream: TcpStream| async move {
        let _ = stream.write_all(&hello("mysql_native_password")).await;
        let _ = read_packet(&mut stream).await;
        let _ = stream.write_all(&packet(9, OK)).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    let failure = against(Question::Nothing, &somebody(), serve).await.0.expect_err("refused");
    assert!(words(&failure).contains("not understood"), "{failure}");

    let query = Question::Query("SELECT 1".into());
    let serve = |mut stream: TcpStream| async move {
        let _ = stream.write_all(&hello("mysql_native_password")).await;
        let _ = read_packet(&mut stream).await;
        let _ = stream.write_all(&packet(2, OK)).await;
        let _ = read_packet(&mut stream).await;
        let _ = stream.write_all(b"\xff\xff\xff\x01").await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    let failure = against(query.clone(), &somebody(), serve).await.0.expect_err("refused");
    assert!(words(&failure).contains("16777215 bytes announced"), "{failure}");

    // One column, rows without end.
    let serve = |mut stream: TcpStream| async move {
        let _ = stream.write_all(&hello("mysql_native_password")).await;
        let _ = read_packet(&mut stream).await;
        let _ = stream.write_all(&packet(2, OK)).await;
        let _ = read_packet(&mut stream).await;
        let column = b"\x03def\0\0\0\x011\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";
        let _ = stream.write_all(&packet(1, &[1])).await;
        let _ = stream.write_all(&packet(2, column)).await;
        let _ = stream.write_all(&packet(3, &[0xfe, 0, 0, 2, 0])).await;
        let mut seq = 4u8;
        let row = [&[0xfc, 0xe8, 0x03], [b'x'; 1000].as_slice()].concat();
        while stream.write_all(&packet(seq, &row)).await.is_ok() {
            seq = seq.wrapping_add(1);
        }
    };
    let failure = against(query, &somebody(), serve).await.0.expect_err("refused");
    assert!(words(&failure).contains("endless answer"), "{failure}");
}

/// What a server reads in a block for its key: RSA with OAEP, below it the password and its NUL, folded with
/// the salt of the greeting.
fn decrypted(block: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("block");
    std::fs::write(&file, block).expect("written");
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/src/io/probes/mysql/testdata/rsa2048.key.pem");
    let output = std::process::Command::new("openssl")
        .args(["pkeyutl", "-decrypt", "-pkeyopt", "rsa_padding_mode:oaep", "-inkey", key, "-in"])
        .arg(&file)
        .output()
        .expect("openssl(1)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.iter().zip(b"salt".iter().cycle()).map(|(byte, salt)| byte ^ salt).collect()
}

/// MySQL 8's plugin in full, without TLS: fast path, and RSA with the server's key, by which the server
/// reads the password.
#[tokio::test]
async fn caching_sha2_fast_path_and_rsa() {
    let serve = |mut stream: TcpStream| async move {
        let _ = stream.write_all(&hello("caching_sha2_password")).await;
        let (seq, response) = read_packet(&mut stream).await.expect("a login");
        assert!(String::from_utf8_lossy(&response).contains("caching_sha2_password"));
        let _ = stream.write_all(&packet(seq + 1, &[1, 3])).await;
        let _ = stream.write_all(&packet(seq + 2, OK)).await;
        read_packet(&mut stream).await
    };
    let (result, last) = against(Question::Nothing, &somebody(), serve).await;
    assert_eq!(result, Ok(Answer::Alive));
    assert_eq!(last, Some((0, vec![1])), "COM_QUIT");

    let serve = |mut stream: TcpStream| async move {
        let _ = stream.write_all(&hello("caching_sha2_password")).await;
        let (seq, _) = read_packet(&mut stream).await.expect("a login");
        let _ = stream.write_all(&packet(seq + 1, &[1, 4])).await;
        let (seq, request) = read_packet(&mut stream).await.expect("a request for the key");
        assert_eq!(request, [2]);
        let key = [b"\x01", include_bytes!("testdata/rsa2048.pub.pem").as_slice()].concat();
        let _ = stream.write_all(&packet(seq + 1, &key)).await;
        let (seq, block) = read_packet(&mut stream).await.expect("the password");
        let _ = stream.write_all(&packet(seq + 1, OK)).await;
        let quit = read_packet(&mut stream).await;
        (block, quit)
    };
    let (result, (block, quit)) = against(Question::Nothing, &somebody(), serve).await;
    assert_eq!(result, Ok(Answer::Alive));
    assert_eq!(block.len(), 256, "one RSA block");
    assert_eq!(decrypted(&block), b"secret\0");
    assert_eq!(quit, Some((0, vec![1])), "COM_QUIT");
}

/// A time-out in the middle of a statement still says COM_QUIT.
#[tokio::test]
async fn a_question_that_hangs_ends_with_com_quit() {
    let serve = |mut stream: TcpStream| async move {
        let _ = stream.write_all(&hello("mysql_native_password")).await;
        let _ = read_packet(&mut stream).await;
        let _ = stream.write_all(&packet(2, OK)).await;
        let mut seen = Vec::new();
        while let Some((_, payload)) = read_packet(&mut stream).await {
            seen.push(payload);
        }
        seen
    };
    let target = Target { question: Question::Query("SELECT SLEEP(60)".into()), ..brief() };
    let (result, seen) = against_target(target, &somebody(), serve).await;
    assert!(matches!(result, Err(Failure::TimedOut { .. })), "{result:?}");
    assert_eq!(seen, [b"\x03SELECT SLEEP(60)".to_vec(), vec![1]]);
}

#[test]
fn read_only_values() {
    for (value, expected) in [
        (Some("0"), false),
        (Some("OFF"), false),
        (Some("0/0"), false),
        (Some("1"), true),
        (Some("ON"), true),
        (Some("1/0"), true),
        (Some("0/1"), true),
        (Some("NO_LOCK_NO_ADMIN"), true),
        (Some("NULL"), true),
        (None, true),
    ] {
        assert_eq!(read_only(value), expected, "{value:?}");
    }
}

/// No descriptor left is not the server's fault; no way to it is.
#[test]
fn what_this_host_is_short_of_is_told_apart() {
    let of = |code| of_this_host(&io::Error::from_raw_os_error(code), "connect: it failed");
    for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EADDRINUSE] {
        assert!(matches!(of(code), Failure::NotMade(_)), "{code}");
    }
    for code in [libc::EHOSTUNREACH, libc::ECONNRESET, libc::EACCES] {
        assert!(matches!(of(code), Failure::Io(_)), "{code}");
    }
    assert_eq!(of(libc::EMFILE).to_string(), "not made: connect: it failed");
}

/// One challenge in 256 of MariaDB's ed25519 ends in a NUL, which the library takes for an end mark: its answer would be that
/// of another challenge, a wrong password to the server.
#[tokio::test]
async fn a_challenge_that_ends_in_nul_is_answered_whole() {
    let answer_to = |challenge: Vec<u8>| async move {
        let serve = |mut stream: TcpStream| async move {
            let _ = stream.write_all(&hello("mysql_native_password")).await;
            let (seq, _) = read_packet(&mut stream).await.expect("a login");
            let switch = [&[0xfe], &b"client_ed25519\0"[..], &challenge].concat();
            let _ = stream.write_all(&packet(seq.wrapping_add(1), &switch)).await;
            let (seq, answer) = read_packet(&mut stream).await.expect("an answer");
            let _ = stream.write_all(&packet(seq.wrapping_add(1), OK)).await;
            linger(stream).await;
            answer
        };
        let (result, answer) = against(Question::Nothing, &somebody(), serve).await;
        assert_eq!(result, Ok(Answer::Alive));
        answer
    };
    let challenge = [vec![7; 31], vec![0]].concat();
    // With a NUL behind it the library itself gets it right.
    let right = answer_to([&challenge[..], &[0]].concat()).await;
    assert_eq!(right.len(), 64);
    assert_eq!(answer_to(challenge).await, right);
    assert_ne!(answer_to(vec![7; 31].into_iter().chain([1]).collect()).await, right);
}
