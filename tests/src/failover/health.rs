//! From a checker's verdict to the data plane's maps: servers fail and come back all at once, with
//! connections being made and many more standing meanwhile, and lbd's log and histogram tell how long
//! each verdict took.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use lb_common::{
    abi::{Flow, FlowKey4},
    maps,
};
use lb_userspace::{
    base::status::{ForwarderStatus, Health, Status},
    dataplane::xdp::lease::Clock,
};
use serde::Serialize;
use socket2::SockRef;

use crate::{
    netns::Namespace,
    single::{LIMIT, Single, VIP, config, virtual_server},
    wait::wait_true,
};

/// Real servers of the pool; each gives a verdict at each turn.
const SERVERS: u8 = 8;
const PORT: u16 = 3306;
/// Standing connections of a busy host.
pub const STANDING: u32 = 200_000;

/// From one new connection to the next.
const PACE: Duration = Duration::from_millis(1);
/// How often lbd is asked meanwhile.
const ASKED_EVERY: Duration = Duration::from_millis(500);

/// How long verdicts took.
#[derive(Clone, Debug, Serialize)]
pub struct Health2Map {
    pub verdicts: u64,
    /// Upper bound in microseconds (the last: without one) and how many took no longer than it
    /// and longer than the one before.
    pub by_microseconds: BTreeMap<u64, u64>,
    pub mean_us: f64,
    /// Half and 99 in 100 of them took no longer, and the one that took longest.
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
    /// Per cent that took longer than the 2 ms that are promised.
    pub over_2ms_percent: f64,
    /// Connections that were made through the VIP meanwhile, in how many seconds.
    pub connections: u64,
    pub seconds: f64,
    /// Connections that stood in the table of connections all the time.
    pub standing: u32,
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

/// Puts `count` connections into the table of a running lbd, of clients that are silent.
fn stand(pins: &Path, count: u32) -> Result<()> {
    let jiffies = Clock::open(pins)?.sample()?.jiffies;
    let map = MapData::from_pin(pins.join(maps::FLOWS4)).and_then(Map::from_map_data)?;
    let mut flows = HashMap::<_, FlowKey4, Flow>::try_from(map)?;
    for client in 0..count {
        // Of no real server, so that no scheduler minds them; idle ones end after hours.
        let key = FlowKey4 { src: client, proto: 6, ..FlowKey4::default() };
        let flow = Flow { last_seen: jiffies, real: 4000, ..Flow::default() };
        flows.insert(key, flow, 0).context("the table of connections")?;
    }
    Ok(())
}

/// As [`Single::wait_status`], but asks as seldom as an exporter of metrics does: each answer is work for the
/// processes that are measured.
fn seldom(single: &Single, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<()> {
    let mut next = Instant::now();
    wait_true(what, LIMIT, || {
        if Instant::now() < next {
            return false;
        }
        next = Instant::now() + ASKED_EVERY;
        single.host.status().is_ok_and(|status| wanted(&status))
    })
}

/// What the forwarder has counted so far.
fn forwarder(single: &Single) -> Result<ForwarderStatus> {
    let status = single.wait_status("the forwarder's figures", |s| s.forwarder.is_some())?;
    status.forwarder.context("no forwarder")
}

/// How long each verdict took that stands in lbd's log behind `begin`, a length of the log in bytes; in order of length.
fn took(log: &Path, begin: u64) -> Result<Vec<u64>> {
    let text = fs::read_to_string(log).context("the log of lbd")?;
    let text = text.get(usize::try_from(begin)?..).context("the log has become shorter")?;
    let numbers = text.split("took_us=").skip(1).map(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().context("took_us is a number")
    });
    let mut numbers = numbers.collect::<Result<Vec<u64>>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Lets all servers of a pool fail and come back `turns` times, among `standing` connections.
///
/// # Errors
/// When lbd cannot be started or does not notice.
pub fn measure(turns: u32, standing: u32) -> Result<Health2Map> {
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
    let table = format!("lvs_flow_table {}", (standing + 200_000).max(400_000));
    single.host.write_config(&config("0.2", &table, "", &virtual_server(PORT, "wlc", &pool)))?;
    single.host.start()?;
    single.wait_master()?;
    let all = |status: &Status, wanted: Health| {
        status.servers.len() == usize::from(SERVERS)
            && status.servers.iter().all(|server| server.health == wanted)
    };
    single.wait_status("every server up", |status| all(status, Health::Up))?;
    stand(&single.host.pin_dir(), standing)?;
    // The first verdicts came while the kernel was still looking at the program: there were no maps to write to.
    let before = single.host.log().metadata().context("the log of lbd")?.len();
    let known = forwarder(&single)?;
    let client = single.plug("client", "10.79.0.50/24")?;
    let begin = Instant::now();
    let stop = Arc::<AtomicBool>::default();
    let traffic = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || -> Result<u64> {
            client.enter_thread()?;
            let vip = SocketAddr::from((VIP, PORT));
            let (mut made, mut next) = (0, Instant::now());
            while !stop.load(Ordering::Relaxed) {
                // Refused while all are down, which is part of the exercise.
                if let Ok(stream) = TcpStream::connect_timeout(&vip, Duration::from_millis(50)) {
                    made += 1;
                    // By a RST: from TIME-WAIT of thousands, looking for a free port takes the client a millisecond of
                    // the processor on which lbd would run, and a client of lbd's is another host.
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                }
                next = (next + PACE).max(Instant::now());
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(made)
        })
    };
    for _ in 0..turns {
        drop(server);
        seldom(&single, "every server down", |status| all(status, Health::Down))?;
        server = Server::start(&single.other)?;
        seldom(&single, "every server up again", |status| all(status, Health::Up))?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let connections = traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
    let mut by_microseconds = forwarder(&single)?.verdict_us;
    for (bound, count) in &known.verdict_us {
        by_microseconds.entry(*bound).and_modify(|all| *all -= count);
    }
    let verdicts: u64 = by_microseconds.values().sum();
    ensure!(
        verdicts >= u64::from(turns) * u64::from(SERVERS),
        "{verdicts} verdicts after {turns} turns of {SERVERS} servers (waited {LIMIT:?} each)"
    );
    let took = took(&single.host.log(), before)?;
    ensure!(took.len() as u64 >= verdicts, "{} verdicts in the log of {verdicts}", took.len());
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    let over = took.iter().filter(|us| **us > 2000).count();
    single.host.stop()?;
    Ok(Health2Map {
        verdicts,
        p50_us: at(50),
        p99_us: at(99),
        max_us: at(100),
        over_2ms_percent: over as f64 * 100.0 / took.len() as f64,
        seconds,
        standing,
        mean_us: took.iter().sum::<u64>() as f64 / took.len() as f64,
        by_microseconds,
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
            "verdict to maps: {} verdicts, p50 {} µs, p99 {} µs, max {} µs, {:.1} % over 2 ms \
             (mean {:.0} µs, {}; {:.0} connections/s meanwhile, {} standing)",
            self.verdicts,
            self.p50_us,
            self.p99_us,
            self.max_us,
            self.over_2ms_percent,
            self.mean_us,
            parts.join(", "),
            self.connections as f64 / self.seconds,
            self.standing
        )
    }
}
