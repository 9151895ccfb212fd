//! The api role: control socket, /metrics and the page. Knows nothing itself; asks the watchdog.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

use super::{
    Link,
    ipc::{Down, Reply, Role, Up},
    privileges, sys,
};
use crate::{
    api::{self, asker::Asker, http, server},
    config::model::Config,
    io::mail,
    vrrp::notify::Mail,
};

/// How long the stop waits for mails that are still to be sent, all together.
const MAIL_STOP_LIMIT: Duration = Duration::from_millis(800);
/// How often a metrics address that is taken is tried again.
const BIND_RETRY: Duration = Duration::from_secs(5);

/// Runs the role until the watchdog says stop or is gone.
///
/// # Errors
/// When the control socket cannot be made or privileges cannot be dropped.
pub async fn run(mut link: Link) -> anyhow::Result<()> {
    let Some(Down::Start { runtime, generation, config }) = link.rx.recv().await else {
        bail!("the watchdog did not say Start first");
    };
    let socket = runtime.run_dir.join(api::SOCKET_NAME);
    let listener =
        server::bind(&socket).with_context(|| format!("control socket {}", socket.display()))?;
    let (asker, mut questions) = Asker::new();
    let bounds = asker.bounds().clone();
    let mut http = Http::new(asker.clone());
    // The first attempt is made with root's right to ports below 1024.
    http.listen_on(config.global.metrics_listen).await;
    privileges::limit(Role::Api)?;
    let control = tokio::spawn(server::serve(listener, asker));
    link.tx.send(Up::Ready { generation }).await.context("watchdog is gone")?;
    sys::trim();
    let mut config = config;
    let mut post = Post::default();
    let mut open: HashMap<u64, oneshot::Sender<Reply>> = HashMap::new();
    let mut next_id = 0_u64;
    loop {
        tokio::select! {
            down = link.rx.recv() => match down {
                None => break,
                Some(Down::Stop) => {
                    control.abort();
                    let rest = async {
                        while let Some(done) = post.sent(&config).await {
                            let _ = link.tx.send(done).await; // it may be gone by now
                        }
                    };
                    let _ = timeout(MAIL_STOP_LIMIT, rest).await; // the watchdog counts what is left
                    let _ = link.tx.send(Up::Stopped).await; // it may be gone by now
                    break;
                }
                Some(Down::Ping { seq }) => {
                    link.tx.send(Up::Pong { seq }).await.context("watchdog is gone")?;
                }
                Some(Down::Reload { generation, config: new }) => {
                    config = new;
                    http.listen_on(config.global.metrics_listen).await;
                    link.tx.send(Up::Ready { generation }).await.context("watchdog is gone")?;
                }
                Some(Down::Mail { id, mail }) => post.send(&config, id, mail),
                Some(Down::Answer { id, mut reply }) => {
                    if let Reply::Status(status) = &mut reply {
                        status.problems.extend(http.problem());
                        status.bounds.extend(bounds.list());
                    }
                    if let Some(answer) = open.remove(&id) {
                        let _ = answer.send(reply); // the client may have left
                    }
                }
                Some(Down::Query { id, .. }) => {
                    let reply = Reply::Error("the api role has no answers of its own".to_owned());
                    link.tx.send(Up::Reply { id, reply }).await.context("watchdog is gone")?;
                }
                Some(
                    Down::Start { .. }
                    | Down::Event { .. }
                    | Down::Replay { .. }
                    | Down::ScriptDone(_),
                ) => {}
            },
            Some(done) = post.sent(&config), if post.is_busy() => {
                link.tx.send(done).await.context("watchdog is gone")?;
            }
            Some(asked) = questions.recv() => {
                // Clients that gave up leave nothing behind.
                open.retain(|_, answer| !answer.is_closed());
                next_id += 1;
                open.insert(next_id, asked.answer);
                let ask = Up::Ask { id: next_id, query: asked.query };
                link.tx.send(ask).await.context("watchdog is gone")?;
            }
        }
    }
    http.stop();
    Ok(())
}

/// The mail that is being sent, and those behind it: the watchdog hands out one at a time, and the
/// rest at once before it says stop.
#[derive(Default)]
struct Post {
    sending: Option<(u64, JoinHandle<bool>)>,
    behind: VecDeque<(u64, Mail)>,
}

impl Post {
    fn is_busy(&self) -> bool {
        self.sending.is_some()
    }

    fn send(&mut self, config: &Arc<Config>, id: u64, mail: Mail) {
        self.behind.push_back((id, mail));
        self.next(config);
    }

    fn next(&mut self, config: &Arc<Config>) {
        if self.is_busy() {
            return;
        }
        let Some((id, mail)) = self.behind.pop_front() else { return };
        let config = Arc::clone(config);
        let task = tokio::spawn(async move {
            let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
            let host = host.unwrap_or_else(|| "localhost".to_owned());
            let sent = mail::deliver(&config.global, &host, &mail).await;
            match &sent {
                Ok(()) => tracing::info!(subject = mail.subject, "mail sent"),
                Err(error) => tracing::warn!(subject = mail.subject, "mail not sent: {error}"),
            }
            sent.is_ok()
        });
        self.sending = Some((id, task));
    }

    /// Waits for the end of the mail that is being sent, and begins the next; `None`: there is
    /// none.
    async fn sent(&mut self, config: &Arc<Config>) -> Option<Up> {
        let (id, task) = self.sending.as_mut()?;
        let (id, sent) = (*id, task.await.unwrap_or(false));
        self.sending = None;
        self.next(config);
        Some(Up::Mailed { id, sent })
    }
}

/// The HTTP listener, which may come and go with reloads and may find its port taken.
struct Http {
    asker: Asker,
    wanted: Option<SocketAddr>,
    task: Option<JoinHandle<()>>,
    problem: Arc<Mutex<Option<String>>>,
}

impl Http {
    fn new(asker: Asker) -> Self {
        Self { asker, wanted: None, task: None, problem: Arc::default() }
    }

    /// What an operator should know.
    fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Moves to another address, or to none. A taken one is retried in the background.
    async fn listen_on(&mut self, addr: Option<SocketAddr>) {
        if addr == self.wanted {
            return;
        }
        self.stop();
        self.wanted = addr;
        let Some(addr) = addr else { return };
        let first = bind(addr, &self.problem).await;
        let (asker, problem) = (self.asker.clone(), Arc::clone(&self.problem));
        self.task = Some(tokio::spawn(async move {
            let mut bound = first;
            let listener = loop {
                if let Some(listener) = bound {
                    break listener;
                }
                tokio::time::sleep(BIND_RETRY).await;
                bound = bind(addr, &problem).await;
            };
            http::serve(listener, asker).await;
        }));
    }
}

async fn bind(addr: SocketAddr, problem: &Mutex<Option<String>>) -> Option<TcpListener> {
    let result = TcpListener::bind(addr).await;
    let mut problem = problem.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(listener) => {
            tracing::info!(%addr, "metrics are served");
            *problem = None;
            Some(listener)
        }
        Err(error) => {
            let text = format!(
                "metrics_listen {addr}: {error}; tried again every {} s",
                BIND_RETRY.as_secs()
            );
            if problem.is_none() {
                tracing::error!("{text}");
            }
            *problem = Some(text);
            None
        }
    }
}
