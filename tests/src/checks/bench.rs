//! The checker's role inside a namespace, with the test as its watchdog.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_userspace::{
    base::{
        status::{CheckerStatus, Health, QuorumStatus},
        table::{Method, Scheduler},
    },
    config::model::{
        Checker, CheckerCommon, Config, MysqlCheck, MysqlLevel, OnDown, Password, RealServer,
        VirtualServer,
    },
    process::{
        Link, checker,
        ipc::{Down, EngineChoice, Event, HealthChange, QUEUE_LIMIT, Query, Reply, Runtime, Up},
    },
};
use tokio::sync::mpsc;

use crate::{
    mariadb::{CHECK_PASSWORD, CHECK_USER},
    netns::Namespace,
};

const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// A MYSQL_CHECK with the documented defaults.
pub fn mysql_check(
    target: SocketAddr,
    bindto: Ipv4Addr,
    level: MysqlLevel,
) -> (CheckerCommon, MysqlCheck) {
    let check = MysqlCheck {
        level,
        user: Some(CHECK_USER.into()),
        password: Some(Password::Literal(CHECK_PASSWORD.into())),
        ..MysqlCheck::default()
    };
    (common(target, bindto), check)
}

/// A TCP_CHECK each second.
pub fn tcp_check(target: SocketAddr, bindto: Ipv4Addr) -> Checker {
    Checker::Tcp(common(target, bindto))
}

fn common(target: SocketAddr, bindto: Ipv4Addr) -> CheckerCommon {
    CheckerCommon {
        target,
        bindto: Some(bindto.into()),
        connect_timeout: Duration::from_secs(3),
        retry: 1,
        delay_before_retry: Duration::from_millis(200),
        delay_loop: Duration::from_secs(1),
        warmup: Duration::ZERO,
        alpha: false,
    }
}

/// One virtual server with one real server that has these MYSQL_CHECKs.
pub fn config(server: SocketAddr, checks: Vec<(CheckerCommon, MysqlCheck)>) -> Config {
    let real = RealServer {
        addr: server,
        weight: 1,
        limits: Default::default(),
        inhibit_on_failure: false,
        notify_up: None,
        notify_down: None,
        mail: false,
        checkers: checks
            .into_iter()
            .map(|(common, check)| Checker::Mysql(common, Box::new(check)))
            .collect(),
    };
    let service = VirtualServer {
        key: lb_userspace::base::net::VirtualServerKey {
            protocol: lb_userspace::base::net::Protocol::Tcp,
            addr: SocketAddr::from(([192, 0, 2, 200], 3306)),
        },
        scheduler: Scheduler::Wlc,
        method: Method::Dr,
        delay_loop: Duration::from_secs(1),
        quorum: 1,
        hysteresis: 0,
        quorum_up: None,
        quorum_down: None,
        sorry_server: None,
        alpha: false,
        omega: false,
        mail: false,
        idle_timeout: Duration::from_secs(3600),
        on_down: OnDown::Reset,
        persistence: None,
        real_servers: vec![real],
    };
    Config { virtual_servers: vec![service], ..Config::default() }
}

/// A running checker.
#[derive(Debug)]
pub struct Bench {
    down: mpsc::Sender<Down>,
    up: mpsc::Receiver<Up>,
    thread: Option<JoinHandle<Result<()>>>,
    /// Changes that came while another answer was waited for.
    early: Vec<HealthChange>,
}

impl Bench {
    /// Starts one in its own thread, inside the namespace.
    ///
    /// # Errors
    /// When the checker has ended or does not answer in time.
    pub fn start(netns: &Namespace, config: Config) -> Result<Self> {
        let (down, rx) = mpsc::channel(QUEUE_LIMIT);
        let (tx, up) = mpsc::channel(QUEUE_LIMIT);
        let netns = netns.clone();
        let thread = std::thread::spawn(move || {
            netns.enter_thread()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(checker::serve(Link { rx, tx }, || Ok(())))
        });
        let runtime = Runtime {
            instance: None,
            run_dir: "/nonexistent".into(),
            pin_dir: "/nonexistent".into(),
            config_file: "/nonexistent".into(),
            engine: EngineChoice::Auto,
            record: None,
            vrrp: false,
            checker: true,
        };
        down.blocking_send(Down::Start { runtime, generation: 1, config: Arc::new(config) })
            .context("the checker ended")?;
        let mut bench = Self { down, up, thread: Some(thread), early: Vec::new() };
        bench.ready(1)?;
        Ok(bench)
    }

    fn receive(&mut self, deadline: Instant) -> Result<Option<Up>> {
        loop {
            match self.up.try_recv() {
                Ok(message) => return Ok(Some(message)),
                Err(mpsc::error::TryRecvError::Disconnected) => bail!("the checker ended"),
                Err(mpsc::error::TryRecvError::Empty) if Instant::now() >= deadline => {
                    return Ok(None);
                }
                Err(mpsc::error::TryRecvError::Empty) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn ready(&mut self, wanted: u64) -> Result<()> {
        let deadline = Instant::now() + REPLY_LIMIT;
        while let Some(message) = self.receive(deadline)? {
            match message {
                Up::Ready { generation } if generation == wanted => return Ok(()),
                Up::Event(Event::Health(change)) => self.early.push(change),
                _ => {}
            }
        }
        bail!("generation {wanted} is not in force")
    }

    /// Puts another configuration in force.
    ///
    /// # Errors
    /// When the checker has ended or does not answer in time.
    pub fn reload(&mut self, config: Config) -> Result<()> {
        let message = Down::Reload { generation: 2, config: Arc::new(config) };
        self.down.blocking_send(message).context("the checker ended")?;
        self.ready(2)
    }

    /// The next change of health, if one comes within `limit`.
    ///
    /// # Errors
    /// When the checker has ended or does not answer in time.
    pub fn health_within(&mut self, limit: Duration) -> Result<Option<HealthChange>> {
        if !self.early.is_empty() {
            return Ok(Some(self.early.remove(0)));
        }
        let deadline = Instant::now() + limit;
        while let Some(message) = self.receive(deadline)? {
            if let Up::Event(Event::Health(change)) = message {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }

    /// The next change of health.
    ///
    /// # Errors
    /// When the checker has ended or does not answer in time.
    pub fn health(&mut self, limit: Duration) -> Result<HealthChange> {
        self.health_within(limit)?.context("no change of health")
    }

    /// Waits for a change to `wanted`; others may come before it.
    ///
    /// # Errors
    /// When the checker has ended or does not answer in time.
    pub fn wait_health(&mut self, wanted: Health, limit: Duration) -> Result<HealthChange> {
        let deadline = Instant::now() + limit;
        let mut seen = Vec::new();
        while let Some(change) =
            self.health_within(deadline.saturating_duration_since(Instant::now()))?
        {
            if change.health == wanted {
                return Ok(change);
            }
            seen.push(change);
        }
        bail!("not {wanted:?} within {limit:?}; seen: {seen:?}")
    }

    /// Number of probes of each checker of each server; every quorum is to be up.
    ///
    /// # Errors
    /// When the checker has ended or does not answer in time.
    pub fn probes(&mut self) -> Result<Vec<u64>> {
        let (checkers, quorum) = self.status()?;
        ensure!(quorum.iter().all(|row| row.quorum_up), "{quorum:?}");
        Ok(checkers.into_iter().map(|checker| checker.probes).collect())
    }

    /// Each checker of each server.
    ///
    /// # Errors
    /// When the checker has ended or does not answer in time.
    pub fn checkers(&mut self) -> Result<Vec<CheckerStatus>> {
        Ok(self.status()?.0)
    }

    fn status(&mut self) -> Result<(Vec<CheckerStatus>, Vec<QuorumStatus>)> {
        self.down
            .blocking_send(Down::Query { id: 7, query: Query::Status })
            .context("the checker ended")?;
        let deadline = Instant::now() + REPLY_LIMIT;
        while let Some(message) = self.receive(deadline)? {
            match message {
                Up::Reply { id: 7, reply: Reply::Checker { servers, quorum } } => {
                    let checkers = servers.into_iter().flat_map(|server| server.checkers);
                    return Ok((checkers.collect(), quorum));
                }
                Up::Event(Event::Health(change)) => self.early.push(change),
                _ => {}
            }
        }
        bail!("no status")
    }

    /// Orderly end.
    ///
    /// # Errors
    /// When the checker has ended or does not answer in time.
    pub fn stop(mut self) -> Result<()> {
        self.down.blocking_send(Down::Stop).context("the checker ended")?;
        let deadline = Instant::now() + REPLY_LIMIT;
        loop {
            match self.receive(deadline)? {
                Some(Up::Stopped) => break,
                Some(_) => {}
                None => bail!("not stopped"),
            }
        }
        let thread = self.thread.take().context("stopped twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("the checker panicked"))?
    }
}
