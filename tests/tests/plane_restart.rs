//! The forwarder process of a whole lbd, under connections that come all the time: it is killed and
//! restarted, and its real server moves to another MAC address.

use std::{
    fmt::Write as _,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    mariadb,
    netns::{Namespace, Port, Switch, ready_or_skip},
    wait::wait_until,
};
use tempfile::TempDir;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const PORT: u16 = 3306;
/// A SYN is sent again after one second: a connect that takes this long has lost one.
const ONE_SYN: Duration = Duration::from_millis(900);
/// Pause between two connections of one hammering thread.
const PAUSE: Duration = Duration::from_millis(1);

/// One balancer, two real servers that accept and close, a client.
struct Bed {
    client: Namespace,
    host: Host,
    servers: [(Namespace, Port); 2],
    _dir: TempDir,
    _switch: Switch,
}

impl Bed {
    fn new() -> Result<Self> {
        host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
        let dir = mariadb::workspace("restart")?;
        let switch = Switch::new("sw")?;
        let (client, lb) = (Namespace::new("client")?, Namespace::new("lb")?);
        switch.plug(&client, "eth0", Some("10.77.0.1/24"))?;
        switch.plug(&lb, "eth0", Some("10.77.0.2/24"))?;
        lb.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "eth0"])?;
        let servers = [server(&switch, 3)?, server(&switch, 4)?];
        let mut config = format!("virtual_server {VIP} {PORT} {{\n  lb_algo wlc\n  lb_kind DR\n");
        for number in [3, 4] {
            writeln!(config, "  real_server 10.77.0.{number} {PORT} {{\n    weight 1\n  }}")?;
        }
        config.push_str("}\n");
        let mut host = Host::new(&lb, Program::Lbd, dir.path())?;
        host.write_config(&config)?;
        host.start()?;
        let bed = Self { client, host, servers, _dir: dir, _switch: switch };
        wait_until(
            "the first connection",
            Duration::from_secs(30),
            || Ok(bed.client.enter(|| connect(Duration::from_millis(100)))?.ok()),
            || bed.host.log_tail(20),
        )?;
        Ok(bed)
    }
}

fn server(switch: &Switch, number: u8) -> Result<(Namespace, Port)> {
    let netns = Namespace::new(&format!("db{number}"))?;
    let cable = switch.plug(&netns, "eth0", Some(&format!("10.77.0.{number}/24")))?;
    netns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    netns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
    netns.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
    let listener = netns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    thread::spawn(move || listener.incoming().for_each(drop));
    Ok((netns, cable))
}

/// Connects and reads the server's end.
fn connect(limit: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((VIP, PORT)), limit)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

#[test]
fn no_syn_is_lost_while_the_forwarder_dies_and_comes_back() -> Result<()> {
    if !ready_or_skip("plane_restart")? {
        return Ok(());
    }
    let mut bed = Bed::new()?;
    let stop = Arc::new(AtomicBool::new(false));
    let hammers: Vec<_> = (0..2)
        .map(|_| {
            let (client, stop) = (bed.client.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                client.enter(|| {
                    let (mut made, mut failed) = (0_u32, Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        let begin = Instant::now();
                        match connect(ONE_SYN) {
                            Ok(()) => made += 1,
                            Err(error) => failed.push(format!("{begin:?}: {error}")),
                        }
                        thread::sleep(PAUSE);
                    }
                    (made, failed)
                })
            })
        })
        .collect();
    let begin = Instant::now();
    let outcome = (0..4).try_for_each(|_| bed.host.replace_role("forwarder"));
    stop.store(true, Ordering::Relaxed);
    let mut made = 0;
    let mut failed = Vec::new();
    for hammer in hammers {
        let (some, errors) = hammer.join().map_err(|_| anyhow::anyhow!("a hammer broke"))??;
        made += some;
        failed.extend(errors);
    }
    outcome?;
    println!("{made} connections over four restarts in {:?}", begin.elapsed());
    ensure!(
        failed.is_empty(),
        "of {made} connections failed {failed:?}\n{}",
        bed.host.log_tail(40)
    );
    // How many is the machine's affair; both hammers were at work through four restarts.
    ensure!(made >= 20, "only {made} connections were made");
    bed.host.stop()
}

#[test]
fn a_server_with_another_mac_is_reached_within_100_ms() -> Result<()> {
    if !ready_or_skip("plane_restart")? {
        return Ok(());
    }
    let mut bed = Bed::new()?;
    // One server only, so that every connection shows the way to it.
    bed.servers[1].1.set_link(false)?;
    bed.host.netns().ip(&["neigh", "replace", "10.77.0.4", "dev", "eth0", "nud", "failed"])?;
    let mut took = Vec::new();
    for turn in 1..=7 {
        let mac = format!("02:00:00:00:07:{turn:02x}");
        bed.servers[0].0.ip(&["link", "set", "dev", "eth0", "address", &mac])?;
        let lb = bed.host.netns();
        lb.ip(&[
            "neigh",
            "replace",
            "10.77.0.3",
            "lladdr",
            &mac,
            "dev",
            "eth0",
            "nud",
            "reachable",
        ])?;
        // How long `ip` takes to start is not lbd's affair.
        let begin = Instant::now();
        let end = bed.client.enter(|| -> Result<Instant> {
            while connect(Duration::from_millis(15)).is_err() {
                // Whether that is in time, the middle one of all turns says.
                ensure!(begin.elapsed() < Duration::from_secs(20), "the new address is not used");
            }
            Ok(Instant::now())
        })?;
        took.push(end.context("no connection")?.duration_since(begin));
    }
    took.sort();
    println!("from the neighbour's change to the next connection: {took:?}");
    ensure!(
        took[took.len() / 2] < Duration::from_millis(100),
        "{took:?}\n{}",
        bed.host.log_tail(20)
    );
    bed.host.stop()
}
