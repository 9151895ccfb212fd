//! HTTP: /metrics, the page, /status.json.

use std::{net::SocketAddr, pin::Pin, sync::Arc, task, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};

use super::{
    asker::Asker,
    bounds::{Bound, Bounds},
    metrics, page,
};
use crate::base::{
    query::{Query, Reply},
    status::Status,
};

/// Connections at the same time; further ones wait in the kernel's backlog.
pub const CONNECTION_LIMIT: usize = 64;
/// A connection ends after this long whatever it does: scrapes are short, and slots are few.
const CONNECTION_LIFE: Duration = Duration::from_secs(120);

/// Serves for ever.
pub async fn serve(listener: TcpListener, asker: Asker) {
    let bounds = asker.bounds().clone();
    let router = Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(scrape))
        .route("/status.json", get(json))
        .with_state(asker);
    let slots = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let bounded = Bounded { listener, slots, bounds };
    if let Err(error) = axum::serve(bounded, router).await {
        tracing::error!(%error, "metrics server ends");
    }
}

async fn status(asker: &Asker) -> Result<Status, Box<Response>> {
    match asker.ask(Query::Status).await {
        Reply::Status(status) => Ok(*status),
        Reply::Error(why) => Err(Box::new((StatusCode::SERVICE_UNAVAILABLE, why).into_response())),
        other => {
            let why = format!("unexpected answer {other:?}");
            Err(Box::new((StatusCode::INTERNAL_SERVER_ERROR, why).into_response()))
        }
    }
}

async fn scrape(State(asker): State<Asker>) -> Response {
    match status(&asker).await {
        Ok(status) => match metrics::render(status) {
            Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        },
        Err(response) => *response,
    }
}

async fn status_page(State(asker): State<Asker>) -> Response {
    match status(&asker).await {
        Ok(status) => axum::response::Html(page::render(&status)).into_response(),
        Err(response) => *response,
    }
}

async fn json(State(asker): State<Asker>) -> Response {
    match status(&asker).await {
        Ok(status) => match serde_json::to_string(&status) {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        },
        Err(response) => *response,
    }
}

/// A listener with a bounded number of connections, each with a bounded life.
struct Bounded {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    bounds: Bounds,
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        // Acquired before accepting; the semaphore is never closed, so this always succeeds.
        let slot = self.bounds.slot(Bound::HttpConnections, &self.slots).await;
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        (Held { stream, life: Box::pin(tokio::time::sleep(CONNECTION_LIFE)), _slot: slot }, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its slot back when it is dropped.
struct Held {
    stream: TcpStream,
    life: Pin<Box<Sleep>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> task::Poll<io::Result<()>> {
        if self.life.as_mut().poll(context).is_ready() {
            return task::Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> task::Poll<io::Result<usize>> {
        if self.life.as_mut().poll(context).is_ready() {
            return task::Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
