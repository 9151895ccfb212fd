//! HTTP_GET and SSL_GET: one page, by hyper over a connection of our own.
//!
//! Health pages of databases are often written by a script behind a super server (`clustercheck`), which answers
//! before it has read the request, says a wrong length, or ends with a reset. A code that came is a code: only
//! what needs the page is spoilt by such an end.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Version, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpSocket,
    time,
};
use tokio_rustls::TlsConnector;

use super::{is_shortage, mysql::trust::Judge};
use crate::base::text::printable;

/// Bytes of a server's words that are shown.
const SHOWN: usize = 80;
/// What keepalived calls itself, which logs and rules of web servers may know.
const AGENT: &str = "KeepAliveClient";

/// What to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub addr: SocketAddr,
    /// Source address.
    pub bindto: Option<IpAddr>,
    /// To connect, TLS included, and again for the answer.
    pub timeout: Duration,
    /// `None`: no TLS; else the server name that its hello tells, if any.
    pub tls: Option<Option<String>>,
    /// 1.1 rather than 1.0.
    pub http11: bool,
    /// Header Connection.
    pub connection: Option<&'static str>,
    /// Header Host.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Bytes of the page to read; 0: the code alone counts.
    pub limit: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("connection refused")]
    Refused,
    #[error("no connection within {} ms", .0.as_millis())]
    NoConnection(Duration),
    #[error("connected, but no answer within {} ms", .0.as_millis())]
    NoAnswer(Duration),
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// This host had no room for the probe, which says nothing about the server.
    #[error("not made: {0}")]
    NotMade(io::Error),
    #[error("no TLS: {0}")]
    Tls(String),
    #[error("no HTTP: {0}")]
    Http(String),
    #[error("the page is longer than {0} bytes")]
    TooLong(usize),
    #[error("the request cannot be made: {0}")]
    Request(String),
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Empty if the code alone counts.
    pub page: Vec<u8>,
    /// It ended as it said it would.
    pub whole: bool,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Gets a page.
///
/// # Errors
/// [`Failure`] in words for the log.
pub async fn get(page: &Page) -> Result<Answer, Failure> {
    let request = request(page)?;
    let connected = time::timeout(page.timeout, connect(page)).await;
    let stream = connected.unwrap_or(Err(Failure::NoConnection(page.timeout)))?;
    let answered = time::timeout(page.timeout, exchange(stream, request, page.limit)).await;
    answered.unwrap_or(Err(Failure::NoAnswer(page.timeout)))
}

fn request(page: &Page) -> Result<Request<Empty<Bytes>>, Failure> {
    let mut request = Request::builder()
        .uri(&page.path)
        .version(if page.http11 { Version::HTTP_11 } else { Version::HTTP_10 })
        .header(header::USER_AGENT, AGENT)
        .header(header::HOST, &page.host);
    if let Some(connection) = page.connection {
        request = request.header(header::CONNECTION, connection);
    }
    request.body(Empty::new()).map_err(|error| Failure::Request(error.to_string()))
}

async fn connect(page: &Page) -> Result<Box<dyn Stream>, Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        _ if is_shortage(&error) => Failure::NotMade(error),
        _ => Failure::Connect(error),
    };
    let socket = match page.addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(failed)?;
    if let Some(from) = page.bindto {
        socket.bind(SocketAddr::new(from, 0)).map_err(failed)?;
    }
    let stream = socket.connect(page.addr).await.map_err(failed)?;
    let Some(name) = &page.tls else { return Ok(Box::new(stream)) };
    let said = |error: &dyn std::fmt::Display| {
        Failure::Tls(printable(error.to_string().as_bytes(), SHOWN))
    };
    let config = Judge::lenient().config().map_err(|error| said(&error))?;
    let name = match name {
        Some(name) => ServerName::try_from(name.clone()).map_err(|error| said(&error))?,
        // No name is told of an address.
        None => ServerName::from(page.addr.ip()),
    };
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| said(&error))?))
}

async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<Empty<Bytes>>,
    limit: usize,
) -> Result<Answer, Failure> {
    let http = |error: hyper::Error| {
        let cause = std::error::Error::source(&error).map(|it| format!(": {it}"));
        let text = format!("{error}{}", cause.unwrap_or_default());
        Failure::Http(printable(text.as_bytes(), SHOWN))
    };
    let stream = TokioIo::new(AskFirst { stream, asked: false });
    let (mut sender, connection) = http1::handshake(stream).await.map_err(http)?;
    // Both in one task, so that the end of this future ends the connection.
    let mut connection = Box::pin(connection);
    let mut over = false;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(http)?;
        let status = answer.status().as_u16();
        let mut page = Vec::new();
        let mut body = answer.into_body();
        let mut whole = true;
        while limit > 0
            && whole
            && let Some(frame) = body.frame().await
        {
            // An error: shorter than it said, or a reset. What has come is the page.
            whole = frame.is_ok();
            let data = frame.ok().and_then(|frame| frame.into_data().ok()).unwrap_or_default();
            page.extend_from_slice(&data);
            if page.len() > limit {
                return Err(Failure::TooLong(limit));
            }
        }
        Ok(Answer { status, page, whole })
    };
    let mut answer = std::pin::pin!(answer);
    poll_fn(|cx| {
        if !over && let Poll::Ready(end) = connection.as_mut().poll(cx) {
            // Why it ended is told to whoever waits for the answer.
            let _ = end;
            over = true;
        }
        answer.as_mut().poll(cx)
    })
    .await
}

/// Nothing is heard before something was said: an answer that came first would be no HTTP.
struct AskFirst {
    stream: Box<dyn Stream>,
    asked: bool,
}

impl AsyncRead for AskFirst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            // The task is woken by what it is about to write.
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AskFirst {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() && !self.asked {
            self.asked = true;
            // The read that was put off is due.
            cx.waker().wake_by_ref();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
