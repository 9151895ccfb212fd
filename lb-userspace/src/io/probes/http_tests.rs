use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;

/// How a server behaves.
#[derive(Clone, Copy)]
enum Manners {
    /// Reads the request, answers, closes.
    Good,
    /// Answers at once, reads nothing and is gone: its system resets the connection.
    Rude,
    /// Accepts and says nothing.
    Silent,
}

/// A server of one connection; what it was asked.
async fn server(answer: &'static [u8], manners: Manners) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("name");
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        match manners {
            Manners::Good => {
                let asked = head(&mut stream).await;
                stream.write_all(answer).await.expect("written");
                stream.shutdown().await.expect("closed");
                asked
            }
            Manners::Rude => {
                stream.write_all(answer).await.expect("written");
                // So that there is something unread, which makes the close a reset.
                stream.readable().await.expect("a request");
                String::new()
            }
            Manners::Silent => {
                head(&mut stream).await;
                std::future::pending().await
            }
        }
    });
    (addr, served)
}

async fn head(stream: &mut TcpStream) -> String {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.expect("the request");
        asked.extend(byte);
    }
    String::from_utf8(asked).expect("text").to_lowercase()
}

fn page(addr: SocketAddr) -> Page {
    Page {
        addr,
        bindto: None,
        timeout: Duration::from_secs(5),
        tls: None,
        http11: false,
        connection: None,
        host: addr.to_string(),
        path: "/".to_owned(),
        limit: 1024,
    }
}

#[tokio::test]
async fn the_request_is_what_the_configuration_says() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
    let (addr, served) = server(answer, Manners::Good).await;
    let found = get(&page(addr)).await.expect("an answer");
    assert_eq!(found, Answer { status: 200, page: b"ok\n".to_vec(), whole: true });
    let asked = served.await.expect("served");
    assert!(asked.starts_with("get / http/1.0\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: {addr}\r\n")) && !asked.contains("connection:"));

    let (addr, served) = server(answer, Manners::Good).await;
    let other = Page {
        http11: true,
        connection: Some("close"),
        host: "db.example".to_owned(),
        path: "/check?node=1".to_owned(),
        ..page(addr)
    };
    get(&other).await.expect("an answer");
    let asked = served.await.expect("served");
    assert!(asked.starts_with("get /check?node=1 http/1.1\r\n"), "{asked}");
    assert!(asked.contains("host: db.example\r\n") && asked.contains("connection: close\r\n"));
}

#[tokio::test]
async fn codes_of_servers_with_bad_manners_count() {
    for answer in [
        // A wrong length, no length at all, and the reply of an old script.
        &b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4000\r\n\r\nnot synced\r\n"[..],
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\nnot synced\r\n",
        b"HTTP/1.0 503 x\r\n\r\nnot synced\r\n",
    ] {
        let (addr, _served) = server(answer, Manners::Good).await;
        let found = get(&page(addr)).await.expect("an answer");
        let whole = !answer.windows(4).any(|it| it == b"4000");
        assert_eq!(found, Answer { status: 503, page: b"not synced\r\n".to_vec(), whole });
    }
    // What comes before it was asked for, and a reset behind it, many times: it is a race.
    for _ in 0..50 {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (addr, _served) = server(answer, Manners::Rude).await;
        let found = get(&Page { limit: 0, ..page(addr) }).await.expect("an answer");
        assert_eq!(found.status, 200);
    }
}

#[tokio::test]
async fn what_is_no_answer_says_why() {
    let (addr, _served) = server(b"5.5.5-10.11.6-MariaDB\0", Manners::Good).await;
    let error = get(&page(addr)).await.expect_err("no HTTP");
    assert!(matches!(error, Failure::Http(_)), "{error}");
    let (addr, _served) = server(b"", Manners::Good).await;
    assert!(matches!(get(&page(addr)).await, Err(Failure::Http(_))));
    let (addr, _served) = server(b"", Manners::Silent).await;
    let short = Page { timeout: Duration::from_millis(200), ..page(addr) };
    assert!(matches!(get(&short).await, Err(Failure::NoAnswer(_))));
    let long = b"HTTP/1.0 200 OK\r\n\r\n0123456789";
    let (addr, _served) = server(long, Manners::Good).await;
    assert!(matches!(get(&Page { limit: 9, ..page(addr) }).await, Err(Failure::TooLong(9))));
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        listener.local_addr().expect("name")
    };
    assert!(matches!(get(&page(closed)).await, Err(Failure::Refused)));
    let bad = Page { path: "/a b".to_owned(), ..page(closed) };
    assert!(matches!(get(&bad).await, Err(Failure::Request(_))));
    // TEST-NET-1 is nobody's address.
    let from = Page { bindto: Some("192.0.2.77".parse().expect("an address")), ..page(closed) };
    assert!(matches!(get(&from).await, Err(Failure::Connect(_))));
    // A server that speaks no TLS.
    let (addr, _served) = server(b"HTTP/1.0 400 x\r\n\r\n", Manners::Rude).await;
    assert!(matches!(get(&Page { tls: Some(None), ..page(addr) }).await, Err(Failure::Tls(_))));
}
