//! Checkers against real MariaDB servers: one server and one balancer in a namespace.

pub mod bench;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_userspace::io::probes::mysql::{
    self, Answer, Credentials, Failure, Question, Tls, late::Places,
};

use crate::{
    mariadb::{self, CHECK_PASSWORD, CHECK_USER, MariaDb},
    netns::{Namespace, ready_or_skip},
    wait::wait_for,
};

/// Server and load balancer share a namespace; the balancer's address is not loopback, because a
/// server never blocks that.
pub const DB: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub const LB: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// For whatever has to come.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The server's address.
pub fn db_addr() -> SocketAddr {
    (DB, mariadb::PORT).into()
}

/// One server at a time: two cores, and timing is what is tested.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A namespace that no other test of this file runs beside.
pub struct Alone {
    netns: Namespace,
    _place: MutexGuard<'static, ()>,
}

impl Deref for Alone {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.netns
    }
}

/// A namespace with both addresses; `None` when this machine cannot (said loudly).
///
/// # Errors
/// From the kernel.
pub fn namespace(suite: &str) -> Result<Option<Alone>> {
    let place = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !ready_or_skip(suite)? {
        return Ok(None);
    }
    let netns = Namespace::new("db1")?;
    for addr in [DB, LB] {
        netns.ip(&["addr", "add", &format!("{addr}/32"), "dev", "lo"])?;
    }
    Ok(Some(Alone { netns, _place: place }))
}

/// The server without TLS, asked this.
pub fn target(question: Question) -> mysql::Target {
    mysql::Target {
        addr: db_addr(),
        bindto: Some(LB.into()),
        timeout: Duration::from_secs(3),
        tls: Tls::Off,
        tls_ca: None,
        question,
    }
}

/// The user of the lab's checks.
pub fn checker() -> Credentials {
    Credentials { user: CHECK_USER.into(), password: CHECK_PASSWORD.into() }
}

/// Runs a future inside the namespace.
///
/// # Errors
/// When there is no runtime.
pub fn inside<T: Send>(netns: &Namespace, work: impl Future<Output = T> + Send) -> Result<T> {
    netns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(work))
    })?
}

/// Login and farewell, once.
///
/// # Errors
/// [`Failure`].
pub async fn log_in(target: &mysql::Target, who: &Credentials) -> Result<Answer, Failure> {
    let (session, answer) = mysql::login(target, who, &Places::default()).await?;
    session.quit().await;
    Ok(answer)
}

/// A status counter of the server.
///
/// # Errors
/// When the server does not answer.
pub fn counter(db: &MariaDb, name: &str) -> Result<u64> {
    let row = db.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
    row.split_whitespace().nth(1).context("no such counter")?.parse().context("not a number")
}

/// A name server that knows no name. A MySQL server counts connect errors of hosts only once
/// resolving their names has worked or failed for good.
#[derive(Debug)]
pub struct Resolver(Arc<AtomicU32>);

impl Resolver {
    /// Answers at the first name server of /etc/resolv.conf, inside the namespace.
    ///
    /// # Errors
    /// From the kernel.
    pub fn start(netns: &Namespace) -> Result<Self> {
        let conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let server = conf.lines().find_map(|line| line.strip_prefix("nameserver "));
        let server: IpAddr = server.unwrap_or("127.0.0.1").trim().parse()?;
        if !server.is_loopback() {
            netns.ip(&["addr", "add", &server.to_string(), "dev", "lo"])?;
        }
        let socket = netns.enter(|| UdpSocket::bind((server, 53)))??;
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                count.fetch_add(1, Ordering::Relaxed);
                // Response, NXDOMAIN (RFC 1035 §4.1.1); the question stays as it is.
                packet[2] |= 0x80;
                packet[3] = 0x83;
                let _ = socket.send_to(&packet[..length], from);
            }
        });
        Ok(Self(asked))
    }

    /// Questions so far.
    pub fn asked(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The server counts an aborted client a moment after the connection; give it that moment.
///
/// # Errors
/// When sessions do not end.
pub fn clients_settled(db: &MariaDb, before: u64) -> Result<bool> {
    wait_for("all sessions to end", LIMIT, || {
        Ok((counter(db, "Threads_connected")? <= 1).then_some(()))
    })?;
    Ok(counter(db, "Aborted_clients")? == before)
}

/// What the server holds against this host.
///
/// # Errors
/// When the server does not answer.
pub fn connect_errors(db: &MariaDb) -> Result<String> {
    let errors =
        db.sql("SELECT COALESCE(SUM(SUM_CONNECT_ERRORS), 0) FROM performance_schema.host_cache")?;
    Ok(errors.trim().to_owned())
}
