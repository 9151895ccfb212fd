//! The client: MySQL sessions through the VIP, every result time-stamped.
//!
//! One thread lives in the client's namespace with a runtime of its own, so that every socket is
//! opened there. It keeps sessions (busy ones ask every 50-100 ms, idle ones every few seconds)
//! and makes new connections at a steady rate. What happened is kept as [`Sample`]s; judging them
//! is [`crate::verdict`]'s work.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable as _};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::{task::LocalSet, time};

use crate::{
    mariadb::{APP_PASSWORD, APP_USER},
    netns::Namespace,
    wait::wait_true,
};

/// A new connection with its first query must be through by then, else it is a hang.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// A query on a kept session must be answered by then, else it is a hang. Longer than the
/// retransmission after a failover by silence (0.2+0.4+0.8+1.6+3.2 s), which is no hang.
pub const QUERY_LIMIT: Duration = Duration::from_secs(8);
/// A query that has waited for so long is about to be a hang, and traffic is not healthy meanwhile.
const SLOW: Duration = Duration::from_secs(1);
/// How often the client's thread looks whether it is run.
const BEAT: Duration = Duration::from_millis(20);
/// So late means that it was not.
const STALL: Duration = Duration::from_millis(30);
/// The same of a whole CPU, for whoever waits for one that a virtual machine has lost, or that is too busy.
const CPU_STALL: Duration = Duration::from_millis(100);
/// On a machine with more CPUs none of them is waited for.
const CPUS: usize = 8;
/// Pause of an idle session between two queries.
pub const IDLE_PAUSE: Duration = Duration::from_secs(2);
/// Samples kept at most: about an hour of the lab's load. Later ones are counted, not kept.
const SAMPLE_LIMIT: usize = 2_000_000;

/// How much traffic.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// VIP and port.
    pub target: SocketAddr,
    /// Kept sessions that ask all the time.
    pub busy: u32,
    /// Kept sessions that ask every [`IDLE_PAUSE`].
    pub idle: u32,
    /// New connections per second.
    pub connects_per_second: u32,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Try {
    /// TCP connect, login, one query, COM_QUIT.
    Connect,
    /// One query on a kept session.
    Query { session: u64, idle: bool },
    /// A kept session was opened.
    Open { session: u64 },
    /// Nothing: the client's own thread was not run in that time, so that nothing was tried or heard; or a CPU was
    /// not, so that nobody on it could do anything.
    Stall,
}

/// How it failed, as the client's TCP tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// RST on an established connection.
    Reset,
    /// FIN, or the server's "shutting down".
    Closed,
    /// RST in answer to SYN.
    Refused,
    /// ICMP or ARP failure.
    Unreachable,
    /// Nothing within the limit.
    Hang,
    /// The server answered with this error.
    Server(u16),
    /// Anything else, in words.
    Other(String),
}

impl Failure {
    /// One word for tables.
    pub fn word(&self) -> String {
        match self {
            Self::Reset => "reset".to_owned(),
            Self::Closed => "closed".to_owned(),
            Self::Refused => "refused".to_owned(),
            Self::Unreachable => "unreachable".to_owned(),
            Self::Hang => "hang".to_owned(),
            Self::Server(code) => format!("error {code}"),
            Self::Other(text) => text.clone(),
        }
    }
}

/// One try and its end.
#[derive(Clone, Debug)]
pub struct Sample {
    pub tried: Try,
    pub started: Instant,
    pub ended: Instant,
    /// The answering server's `server_id`; for a failed query, see `server`.
    pub result: Result<u32, Failure>,
    /// The server behind a kept session, known since it was opened.
    pub server: Option<u32>,
}

/// A kept session that is open now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: u64,
    pub server: u32,
    pub idle: bool,
}

#[derive(Debug, Default)]
struct Shared {
    samples: Mutex<Vec<Sample>>,
    sessions: Mutex<Vec<Session>>,
    /// Queries of kept sessions that wait for their answer: begin by session.
    asked: Mutex<BTreeMap<u64, Instant>>,
    /// When the client's thread (`None`) and each CPU were last run: every stall before is told.
    beats: Mutex<BTreeMap<Option<usize>, Instant>>,
    not_kept: AtomicU64,
    next_session: AtomicU64,
    /// Raised to ask for new sessions in place of the old.
    renewals: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn beats(&self) -> MutexGuard<'_, BTreeMap<Option<usize>, Instant>> {
        self.beats.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whoever slept for a [`BEAT`] from then on has woken up.
    fn beat(&self, whose: Option<usize>, started: Instant, stall: Duration) {
        let ended = Instant::now();
        if ended.saturating_duration_since(started) >= BEAT + stall {
            let tried = Try::Stall;
            self.push(Sample { tried, started, ended, result: Ok(0), server: None });
        }
        self.beats().insert(whose, ended);
    }

    fn push(&self, sample: Sample) {
        let mut samples = self.samples();
        if samples.len() < SAMPLE_LIMIT {
            // Mostly the last; another thread may have been quicker.
            let at = samples.partition_point(|other| other.ended <= sample.ended);
            samples.insert(at, sample);
        } else {
            self.not_kept.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Running traffic. Dropping it closes every session.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    load: Load,
    cpus: Vec<usize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Traffic {
    /// Starts the load from inside `client`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(client: &Namespace, load: Load) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut started = Self { shared, load, cpus: cpus()?, threads: Vec::new() };
        for cpu in started.cpus.clone() {
            let theirs = Arc::clone(&started.shared);
            let beat = thread::Builder::new().name(format!("cpu-{cpu}"));
            let beat = beat.spawn(move || beat_on(cpu, &theirs));
            started.threads.push(beat.context("cannot watch a CPU")?);
        }
        let (netns, theirs) = (client.clone(), Arc::clone(&started.shared));
        let thread = thread::Builder::new()
            .name("traffic".to_owned())
            .spawn(move || {
                if let Err(err) = run(&netns, load, &theirs) {
                    eprintln!("the client cannot run: {err:#}");
                }
            })
            .context("cannot start the client's thread")?;
        started.threads.push(thread);
        Ok(started)
    }

    /// What it was asked to do.
    pub fn load(&self) -> Load {
        self.load
    }

    /// Kept sessions that are open now.
    pub fn sessions(&self) -> Vec<Session> {
        self.shared.sessions().clone()
    }

    /// Lets every kept session end in order (COM_QUIT) and be opened anew, where the balancer puts
    /// it now. Returns at once; [`Traffic::renewed`] tells when it is done.
    pub fn renew(&self) -> u64 {
        let first_new = self.shared.next_session.load(Ordering::Relaxed);
        self.shared.renewals.fetch_add(1, Ordering::Relaxed);
        first_new
    }

    /// Whether every kept session was opened after the call of [`Traffic::renew`] that returned
    /// `first_new`.
    pub fn renewed(&self, first_new: u64) -> bool {
        self.healthy() && self.sessions().iter().all(|session| session.id >= first_new)
    }

    /// Samples that ended at `since` or later.
    pub fn since(&self, since: Instant) -> Vec<Sample> {
        let samples = self.shared.samples();
        // They are kept in order of their end.
        let first = samples.partition_point(|sample| sample.ended < since);
        samples.get(first..).unwrap_or_default().to_vec()
    }

    /// Whether every session that is open now has asked since then, and was answered.
    pub fn all_answered(&self, since: Instant) -> bool {
        let samples = self.since(since);
        let answered: BTreeSet<u64> = samples
            .iter()
            .filter_map(|sample| match sample.tried {
                Try::Query { session, .. } if sample.started >= since => Some(session),
                _ => None,
            })
            .collect();
        self.sessions().iter().all(|session| answered.contains(&session.id))
    }

    /// Waits until the client's thread and each CPU were run after `at`, so that [`Traffic::since`] tells of
    /// every stall before it.
    ///
    /// # Errors
    /// After ten seconds.
    pub fn has_run(&self, at: Instant) -> Result<()> {
        let all = 1 + self.cpus.len();
        wait_true("client and CPUs to be run", Duration::from_secs(10), || {
            self.shared.beats().values().filter(|when| **when > at).count() == all
        })
    }

    /// Samples that did not fit (the limit is an hour of the lab's load).
    pub fn not_kept(&self) -> u64 {
        self.shared.not_kept.load(Ordering::Relaxed)
    }

    /// Whether every kept session is open, none waits for an answer that may never come, and the last
    /// new connections all succeeded.
    pub fn healthy(&self) -> bool {
        let (load, now) = (self.load, Instant::now());
        let all_open = self.sessions().len() == (load.busy + load.idle) as usize;
        let slow = |asked: &Instant| now.saturating_duration_since(*asked) >= SLOW;
        if self.shared.asked().values().any(slow) {
            return false;
        }
        let half_second_ago = now.checked_sub(Duration::from_millis(500));
        let Some(since) = half_second_ago else { return false };
        let recent = self.since(since);
        let mut connects = recent.iter().filter(|sample| sample.tried == Try::Connect).peekable();
        all_open
            && (load.connects_per_second == 0 || connects.peek().is_some())
            && connects.all(|sample| sample.result.is_ok())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The CPUs that this process may use, if they are few.
fn cpus() -> Result<Vec<usize>> {
    let ours = sched_getaffinity(Pid::from_raw(0)).context("cannot tell the CPUs")?;
    let all = (0..CpuSet::count()).filter(|cpu| ours.is_set(*cpu).unwrap_or(false));
    let all: Vec<usize> = all.collect();
    Ok(if all.len() <= CPUS { all } else { Vec::new() })
}

fn beat_on(cpu: usize, shared: &Shared) {
    let mut only = CpuSet::new();
    // Without it this tells whether a thread is run at all.
    let _ = only.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    while !shared.stopped() {
        let started = Instant::now();
        thread::sleep(BEAT);
        shared.beat(Some(cpu), started, CPU_STALL);
    }
}

fn run(netns: &Namespace, load: Load, shared: &Arc<Shared>) -> Result<()> {
    netns.enter_thread()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot build the client's runtime")?;
    let opts = options(load.target);
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        for number in 0..load.busy + load.idle {
            let (opts, shared) = (opts.clone(), Arc::clone(shared));
            tokio::task::spawn_local(keep_session(opts, shared, number, number >= load.busy));
        }
        if load.connects_per_second > 0 {
            tokio::task::spawn_local(connect_steadily(opts, Arc::clone(shared), load));
        }
        while !shared.stopped() {
            let started = Instant::now();
            time::sleep(BEAT).await;
            shared.beat(None, started, STALL);
        }
    });
    Ok(())
}

fn options(target: SocketAddr) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname(target.ip().to_string())
        .tcp_port(target.port())
        .user(Some(APP_USER))
        .pass(Some(APP_PASSWORD))
        .prefer_socket(false)
        // Told here, so that opening costs no extra query.
        .max_allowed_packet(Some(1 << 20))
        .wait_timeout(Some(28_800))
        .into()
}

async fn keep_session(opts: Opts, shared: Arc<Shared>, number: u32, idle: bool) {
    // Spread, so that sessions do not all ask in the same millisecond.
    time::sleep(Duration::from_millis(u64::from(number) * 7)).await;
    while !shared.stopped() {
        // Before its number: one that is being opened when all are renewed is one of the old.
        let renewals = shared.renewals.load(Ordering::Relaxed);
        let id = shared.next_session.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let opened = within(CONNECT_LIMIT, open(&opts)).await;
        let ended = Instant::now();
        let (mut conn, server) = match opened {
            Ok(opened) => opened,
            Err(failure) => {
                let tried = Try::Open { session: id };
                shared.push(Sample { tried, started, ended, result: Err(failure), server: None });
                time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let tried = Try::Open { session: id };
        shared.push(Sample { tried, started, ended, result: Ok(server), server: Some(server) });
        shared.sessions().push(Session { id, server, idle });
        let mut round: u64 = 0;
        loop {
            let pause = if idle {
                IDLE_PAUSE
            } else {
                // 50-100 ms, each session in its own rhythm.
                Duration::from_millis(50 + (id * 13 + round * 29) % 50)
            };
            round += 1;
            time::sleep(pause).await;
            if shared.stopped() {
                return;
            }
            if shared.renewals.load(Ordering::Relaxed) != renewals {
                shared.sessions().retain(|session| session.id != id);
                let _ = time::timeout(CONNECT_LIMIT, conn.disconnect()).await;
                break;
            }
            let started = Instant::now();
            shared.asked().insert(id, started);
            let result = within(QUERY_LIMIT, ask(&mut conn)).await;
            shared.asked().remove(&id);
            let lost = result.is_err();
            let tried = Try::Query { session: id, idle };
            if lost {
                shared.sessions().retain(|session| session.id != id);
            }
            shared.push(Sample {
                tried,
                started,
                ended: Instant::now(),
                result,
                server: Some(server),
            });
            if lost {
                break;
            }
        }
    }
}

async fn connect_steadily(opts: Opts, shared: Arc<Shared>, load: Load) {
    let mut ticks = time::interval(Duration::from_secs(1) / load.connects_per_second);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
    // At most connects_per_second × CONNECT_LIMIT are under way: each ends by its limit.
    loop {
        ticks.tick().await;
        let (opts, shared) = (opts.clone(), Arc::clone(&shared));
        tokio::task::spawn_local(async move {
            let started = Instant::now();
            let result = within(CONNECT_LIMIT, async {
                let (conn, server) = open(&opts).await?;
                conn.disconnect().await?;
                Ok(server)
            })
            .await;
            let server = result.as_ref().ok().copied();
            let ended = Instant::now();
            shared.push(Sample { tried: Try::Connect, started, ended, result, server });
        });
    }
}

async fn open(opts: &Opts) -> mysql_async::Result<(Conn, u32)> {
    let mut conn = Conn::new(opts.clone()).await?;
    let server = ask(&mut conn).await?;
    Ok((conn, server))
}

async fn ask(conn: &mut Conn) -> mysql_async::Result<u32> {
    let server: Option<u32> = conn.query_first("SELECT @@server_id").await?;
    server.ok_or_else(|| mysql_async::Error::Other("no row for @@server_id".into()))
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T, Failure> {
    match time::timeout(limit, work).await {
        Err(_) => Err(Failure::Hang),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(err)) => Err(classify(&err)),
    }
}

fn classify(err: &mysql_async::Error) -> Failure {
    use std::io::ErrorKind;
    match err {
        mysql_async::Error::Server(server) if server.code == 1053 => Failure::Closed,
        mysql_async::Error::Server(server) => Failure::Server(server.code),
        mysql_async::Error::Driver(mysql_async::DriverError::ConnectionClosed) => Failure::Closed,
        other => {
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(other);
            while let Some(err) = source {
                if let Some(io) = err.downcast_ref::<std::io::Error>() {
                    return match io.kind() {
                        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Failure::Reset,
                        ErrorKind::UnexpectedEof => Failure::Closed,
                        ErrorKind::ConnectionRefused => Failure::Refused,
                        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                            Failure::Unreachable
                        }
                        ErrorKind::TimedOut => Failure::Hang,
                        _ => Failure::Other(io.to_string()),
                    };
                }
                source = err.source();
            }
            Failure::Other(other.to_string())
        }
    }
}
