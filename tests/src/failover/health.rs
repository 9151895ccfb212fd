//! From a checker's verdict to the data plane's maps: servers fail and come back all at once, with
//! connections being made meanwhile, and lbd's own histogram tells how long each verdict took.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_userspace::base::status::{Health, Status};
use serde::Serialize;

use crate::{
    netns::Namespace,
    single::{LIMIT, Single, VIP, config, virtual_server},
};

/// Real servers of the pool; each gives a verdict at each turn.
const SERVERS: u8 = 8;
const PORT: u16 = 3306;

/// How long verdicts took.
#[derive(Clone, Debug, Serialize)]
pub struct Health2Map {
    pub verdicts: u64,
    /// Upper bound in microseconds (the last: without one) and how many took no longer than it
    /// and longer than the one before.
    pub by_microseconds: BTreeMap<u64, u64>,
    pub mean_us: f64,
    /// Connections that were made through the VIP meanwhile.
    pub connections: u64,
}

/// Takes connections and lets go of them.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(on: &Namespace) -> Result<Self> {
        let listener =
            on.enter(|| TcpListener::bind(("0.0.0.0", PORT)))?.context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let stop = Arc::<AtomicBool>::default();
        let theirs = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !theirs.load(Ordering::Relaxed) {
                if listener.accept().is_err() {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Lets all servers of a pool fail and come back `turns` times.
///
/// # Errors
/// When lbd cannot be started or does not notice.
pub fn measure(turns: u32) -> Result<Health2Map> {
    let mut single = Single::new()?;
    let pool: Vec<Ipv4Addr> =
        (1..=SERVERS).map(|number| Ipv4Addr::new(10, 79, 0, 100 + number)).collect();
    // The other end answers for the pool, and silently for the VIP, as real servers under DR do.
    single.other.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    single.other.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
    for addr in &pool {
        single.other.ip(&["addr", "add", &format!("{addr}/24"), "dev", "eth0"])?;
    }
    single.other.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
    let mut server = Server::start(&single.other)?;
    single.host.write_config(&config("0.2", "", "", &virtual_server(PORT, "wlc", &pool)))?;
    single.host.start()?;
    single.wait_master()?;
    let all = |status: &Status, wanted: Health| {
        status.servers.len() == usize::from(SERVERS)
            && status.servers.iter().all(|server| server.health == wanted)
    };
    single.wait_status("every server up", |status| all(status, Health::Up))?;
    let client = single.plug("client", "10.79.0.50/24")?;
    let stop = Arc::<AtomicBool>::default();
    let traffic = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || -> Result<u64> {
            client.enter_thread()?;
            let vip = SocketAddr::from((VIP, PORT));
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                // Refused while all are down, which is part of the exercise.
                match TcpStream::connect_timeout(&vip, Duration::from_millis(50)) {
                    Ok(_) => made += 1,
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
            Ok(made)
        })
    };
    for _ in 0..turns {
        drop(server);
        single.wait_status("every server down", |status| all(status, Health::Down))?;
        server = Server::start(&single.other)?;
        single.wait_status("every server up again", |status| all(status, Health::Up))?;
    }
    let status = single.wait_status("the forwarder's figures", |s| s.forwarder.is_some())?;
    stop.store(true, Ordering::Relaxed);
    let connections = traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
    let forwarder = status.forwarder.context("no forwarder")?;
    let verdicts: u64 = forwarder.verdict_us.values().sum();
    ensure!(
        verdicts >= u64::from(turns) * u64::from(SERVERS),
        "{verdicts} verdicts after {turns} turns of {SERVERS} servers (waited {LIMIT:?} each)"
    );
    single.host.stop()?;
    Ok(Health2Map {
        verdicts,
        mean_us: forwarder.verdict_total_us as f64 / verdicts as f64,
        by_microseconds: forwarder.verdict_us,
        connections,
    })
}

impl Health2Map {
    /// As a person reads it.
    pub fn line(&self) -> String {
        let mut lower = 0;
        let parts: Vec<String> = self
            .by_microseconds
            .iter()
            .map(|(bound, count)| {
                let text = match *bound {
                    u64::MAX => format!("> {lower} µs: {count}"),
                    bound => format!("≤ {bound} µs: {count}"),
                };
                lower = *bound;
                text
            })
            .collect();
        format!(
            "verdict to maps: {} verdicts, mean {:.0} µs, {} ({} connections meanwhile)",
            self.verdicts,
            self.mean_us,
            parts.join(", "),
            self.connections
        )
    }
}
