//! However a login ends, the server sees it finished: it counts no connect error.

use super::{super::late::LATE_COUNT, *};

/// A method that we do not answer is answered wrongly, and the refusal is waited for.
#[tokio::test]
async fn methods_that_are_not_ours_end_in_a_refused_login() {
    let switch =
        |plugin: &str, challenge: &[u8]| [b"\xfe", plugin.as_bytes(), b"\0", challenge].concat();
    let bad_key = b"\x01-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_vec();
    for (questions, expected, answer) in [
        (vec![switch("parsec", &[1; 7])], "parsec is not supported", vec![0]),
        (vec![switch("mysql_clear_password", b"")], "would send the password in clear", vec![0]),
        (vec![switch("dialog", b"\x04Password: ")], "would send the password in clear", vec![0]),
        (vec![switch("auth_socket", &[1; 20])], "auth_socket is not supported", vec![0]),
        (vec![switch("sha256_password", &[1; 20])], "sha256_password is not supported", vec![0]),
        (vec![b"\xfe".to_vec()], "pre-4.1 password hash", vec![]),
        (vec![b"\x01\x04".to_vec(), bad_key], "RSA key is not", vec![0]),
    ] {
        let serve = |mut stream: TcpStream| async move {
            let _ = stream.write_all(&hello("caching_sha2_password")).await;
            for question in questions {
                let (seq, _) = read_packet(&mut stream).await.expect("a login");
                let _ = stream.write_all(&packet(seq + 1, &question)).await;
            }
            let (seq, answer) = read_packet(&mut stream).await.expect("an answer");
            let denied = b"\xff\x15\x04#28000Access denied";
            let _ = stream.write_all(&packet(seq + 1, denied)).await;
            // A server closes first, and we do not hang up before that.
            let mut rest = Vec::new();
            let early = timeout(Duration::from_millis(50), stream.read_to_end(&mut rest)).await;
            assert!(early.is_err(), "closed before the server: {rest:?}");
            answer
        };
        let (result, said) = against(Question::Nothing, &somebody(), serve).await;
        let Err(Failure::Credentials(text)) = result else { panic!("{result:?}") };
        assert!(text.contains(expected), "{text}");
        assert_eq!(said, answer, "{expected}");
    }
}

/// A server that greets when nobody waits any more still gets a whole login.
#[tokio::test]
async fn a_login_that_is_late_is_finished_in_the_background() {
    let serve = |mut stream: TcpStream| async move {
        sleep(LIMIT + LIMIT / 2).await; // the stall is the test's input
        let _ = stream.write_all(&hello("mysql_native_password")).await;
        let login = read_packet(&mut stream).await;
        if login.is_some() {
            let _ = stream.write_all(&packet(2, OK)).await;
        }
        (login.is_some(), read_packet(&mut stream).await)
    };
    let (result, seen) = against_target(brief(), &somebody(), serve).await;
    let greeting = Failure::TimedOut { stage: "no complete greeting", limit: LIMIT };
    assert_eq!(result, Err(greeting));
    assert_eq!(seen, (true, Some((0, vec![1]))), "a login and COM_QUIT");
}

/// A server that stands still (SIGSTOP) and goes on much later counts each connection that was closed
/// meanwhile: there are few, they stay open, and each gets its login.
#[tokio::test]
async fn a_server_that_stands_still_sees_few_connections_and_each_is_finished() {
    // Accepted by the kernel alone, as for a stopped server.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let target = Target {
        addr: listener.local_addr().expect("name"),
        timeout: Duration::from_millis(50),
        ..target()
    };
    let places = Places::default();
    let deferred = 3;
    for attempt in 0..LATE_COUNT + deferred {
        let result = login(&target, &somebody(), &places).await.map(drop);
        let Err(Failure::TimedOut { stage, .. }) = result else { panic!("{result:?}") };
        let full = stage == "no complete greeting on the connections made";
        assert_eq!(full, attempt >= LATE_COUNT, "attempt {attempt}: {stage}");
    }
    assert_eq!(places.refused(), deferred as u64);
    for _ in 0..LATE_COUNT {
        let mut stream = welcome(&listener).await;
        assert_eq!(read_packet(&mut stream).await, Some((0, vec![1])), "COM_QUIT");
    }
    let none = timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(none.is_err(), "one connection more than {LATE_COUNT}");
    // The places are free again.
    let target = Target { timeout: AMPLE, ..target };
    let who = somebody();
    let (result, _stream) = tokio::join!(login(&target, &who, &places), welcome(&listener));
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(places.refused(), deferred as u64);
}

/// The next client, greeted and let in.
async fn welcome(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.expect("a client");
    stream.write_all(&hello("mysql_native_password")).await.expect("greeting");
    let (seq, _) = read_packet(&mut stream).await.expect("a login");
    stream.write_all(&packet(seq + 1, OK)).await.expect("welcome");
    stream
}

/// With the check its silent connections go, by a reset, and not at once: the server may come round.
#[tokio::test]
async fn silent_connections_outlive_their_check_for_a_while() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let target = Target { addr: listener.local_addr().expect("name"), ..brief() };
    let patience = Duration::from_millis(300);
    let places = Places::new(patience);
    let result = login(&target, &somebody(), &places).await.map(drop);
    assert!(matches!(result, Err(Failure::TimedOut { .. })), "{result:?}");
    let (mut stream, _) = listener.accept().await.expect("a client");
    let mut rest = Vec::new();
    assert!(timeout(2 * patience, stream.read_to_end(&mut rest)).await.is_err(), "closed early");
    let ended = Instant::now();
    drop(places);
    let error = timeout(AMPLE + patience, stream.read_to_end(&mut rest)).await.expect("in time");
    assert_eq!(error.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    assert!(ended.elapsed() >= patience, "{:?}", ended.elapsed());
}

/// No descriptor left on this host says nothing about the server.
#[tokio::test]
async fn trouble_of_our_own_is_no_fault_of_the_server() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let addr = listener.local_addr().expect("name");
    let connected = tap::connect(addr, None).await.expect("connects");
    let (mut server, _) = listener.accept().await.expect("a client");
    server.write_all(&hello("mysql_native_password")).await.expect("greeting");
    let opened = connected.greeting().await.expect("a greeting");
    let (tap, _entrance) = opened.join(None, false, Progress::default()).expect("listens");
    let error = io::Error::from_raw_os_error(24); // EMFILE
    let failure = explain(error.into(), false, tap).await;
    let Failure::NotMade(text) = &failure else { panic!("{failure:?}") };
    assert!(text.contains("own socket for the login"), "{text}");
}

/// The caller may go away at any moment.
#[tokio::test]
async fn a_login_whose_caller_is_gone_is_finished() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let target = Target { addr: listener.local_addr().expect("name"), ..target() };
    let caller =
        tokio::spawn(
            async move { login(&target, &somebody(), &Places::default()).await.map(drop) },
        );
    let (mut stream, _) = listener.accept().await.expect("a client");
    stream.write_all(&hello("mysql_native_password")).await.expect("greeting");
    let (seq, _) = read_packet(&mut stream).await.expect("a login");
    caller.abort();
    assert!(caller.await.is_err(), "aborted");
    stream.write_all(&packet(seq + 1, OK)).await.expect("welcome");
    assert_eq!(read_packet(&mut stream).await, Some((0, vec![1])), "COM_QUIT");
}
