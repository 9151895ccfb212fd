//! This host's own TCP connections on a VIP that leaves it: their peers learn it at once.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::{Namespace, ready_or_skip},
    vrrp::{RoleThread, Sniffer, VIP, advert_frame, cable, fast, is_vrrp, one},
    wait::{wait_for, wait_true, wait_until},
};
use lb_userspace::{
    base::net::IpPrefix,
    config::model::AddressOptions,
    io::link::{Aborted, Event, FrameSocket, Links, Object, Request, Vip},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The host's own address.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// A VIP beside [`VIP`].
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
/// How long a busy machine may take for anything else.
const LIMIT: Duration = Duration::from_secs(10);
/// A peer has to be told within this, counted from what makes the VIP leave.
const TOLD: Duration = Duration::from_secs(1);

/// The server ends a connection that says so.
const BYE: &[u8; 3] = b"bye";

/// Servers that take connections, echo and otherwise wait, as a server does that is busy.
struct Servers {
    /// Bound to the IPv4 wildcard, and to the one of IPv6, which takes IPv4 as mapped addresses.
    ports: [u16; 2],
}

impl Servers {
    fn start(netns: &Namespace) -> Result<Self> {
        let mut ports = [0; 2];
        for (port, any) in ports
            .iter_mut()
            .zip([IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)])
        {
            let listener = netns.enter(|| TcpListener::bind((any, 0)))??;
            *port = listener.local_addr()?.port();
            // Ends with the test's process.
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || echo(stream));
                }
            });
        }
        Ok(Self { ports })
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 64];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if buffer[..len] == *BYE {
            return;
        }
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// A client that has sent everything and waits for an answer.
struct Waiting {
    what: String,
    end: mpsc::Receiver<(Instant, std::io::Result<usize>)>,
}

fn connect(netns: &Namespace, target: impl Into<SocketAddr>) -> Result<TcpStream> {
    let target = target.into();
    let mut stream = netns
        .enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(3)))?
        .with_context(|| format!("connect to {target}"))?;
    ping(&mut stream)?;
    Ok(stream)
}

fn ping(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    Ok(())
}

fn wait(netns: &Namespace, target: impl Into<SocketAddr>) -> Result<Waiting> {
    let target = target.into();
    let mut stream = connect(netns, target)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (tx, end) = mpsc::channel();
    thread::spawn(move || {
        let result = stream.read(&mut [0; 1]);
        let _ = tx.send((Instant::now(), result));
    });
    Ok(Waiting { what: target.to_string(), end })
}

impl Waiting {
    fn reset_after(self, since: Instant) -> Result<Duration> {
        let what = &self.what;
        let end = self.end.recv_timeout(Duration::from_secs(5));
        let (at, result) = end.with_context(|| format!("the client of {what} hangs"))?;
        let kind = result.as_ref().map_err(std::io::Error::kind);
        ensure!(kind == Err(ErrorKind::ConnectionReset), "the client of {what} read {result:?}");
        let took = at.saturating_duration_since(since);
        ensure!(took < TOLD, "the client of {what} was told after {took:?}");
        Ok(took)
    }
}

/// tcp_states.h of the kernel.
const TIME_WAIT: u8 = 6;

/// States of a host's IPv4 sockets on an address.
fn sockets(netns: &Namespace, address: Ipv4Addr) -> Result<Vec<u8>> {
    let all = netns.enter(|| std::fs::read_to_string("/proc/thread-self/net/tcp"))??;
    // The kernel prints the four bytes as a number of its own order.
    let local = format!("{:08X}:", u32::from_ne_bytes(address.octets()));
    let of = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let is = words.next()?.starts_with(&local);
        is.then(|| u8::from_str_radix(words.nth(1)?, 16).ok())?
    };
    Ok(all.lines().filter_map(of).collect())
}

/// An advert of the peer with a higher priority.
fn better_advert() -> Vec<u8> {
    advert_frame([10, 77, 0, 2].into(), VIP, 200, 100)
}

fn is_reset(frame: &[u8]) -> bool {
    frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] & 4 != 0
}

/// Starts as master of both VIPs, lets `leave` make [`VIP`] go, and looks at every client.
fn vip_leaves(
    other_stays: bool,
    leave: impl FnOnce(&mut RoleThread, &Namespace) -> Result<()>,
) -> Result<Option<Sniffer>> {
    if !ready_or_skip("vrrp_connections")? {
        return Ok(None);
    }
    let (lb, peer) = cable()?;
    let mut role = RoleThread::start_with(&lb, one(fast(150, &[100, 101])))?;
    role.converge()?;
    wait_true("the VIPs", LIMIT, || {
        [VIP, OTHER_VIP].iter().all(|vip| lb.has_address(*vip).unwrap_or(false))
    })?;
    let servers = Servers::start(&lb)?;
    let mut waiting = vec![];
    for port in servers.ports {
        for _ in 0..3 {
            waiting.push(wait(&peer, (VIP, port))?);
        }
    }
    // Its own address, and the host's connection to itself through it.
    let mut living = vec![connect(&peer, (OWN, servers.ports[0]))?];
    living.push(connect(&peer, (OWN, servers.ports[1]))?);
    living.push(connect(&lb, (OWN, servers.ports[0]))?);
    if other_stays {
        living.push(connect(&peer, (OTHER_VIP, servers.ports[0]))?);
    } else {
        waiting.push(wait(&peer, (OTHER_VIP, servers.ports[0]))?);
    }
    // Ended by the server: its end stays behind for a minute.
    let mut ended = connect(&peer, (VIP, servers.ports[0]))?;
    ended.write_all(BYE)?;
    ensure!(ended.read(&mut [0; 1])? == 0, "the server did not end it");
    drop(ended);
    wait_true("TIME-WAIT on the host", LIMIT, || {
        sockets(&lb, VIP).is_ok_and(|states| states.contains(&TIME_WAIT))
    })?;
    let count = waiting.len() as u64;
    let sniffer = Sniffer::new(&peer)?;
    let since = Instant::now();
    leave(&mut role, &peer)?;
    for client in waiting {
        client.reset_after(since)?;
    }
    wait_true("the VIP to go", LIMIT, || !lb.has_address(VIP).unwrap_or(true))?;
    ensure!(sockets(&lb, VIP)?.is_empty(), "left on the host: {:?}", sockets(&lb, VIP)?);
    for stream in &mut living {
        ping(stream).context("a connection of an address that stays")?;
    }
    for port in servers.ports {
        connect(&peer, (OWN, port)).context("the listener is gone")?;
    }
    // The clients were told before the role was; one that was to stop may have ended by now.
    wait_until(
        &format!("{count} clients to be counted"),
        LIMIT,
        || {
            let counted = role.status().map_or(count, |it| it.counters.connections_aborted);
            ensure!(counted <= count, "{counted} clients counted of {count}");
            Ok((counted == count).then_some(()))
        },
        String::new,
    )?;
    role.finish()?;
    Ok(Some(sniffer))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_better_master_resets_clients_of_the_old_one() -> Result<()> {
    vip_leaves(false, |_, peer| {
        let out = peer.enter(|| FrameSocket::open("eth0"))??;
        Ok(out.send(&better_advert())?)
    })
    .map(drop)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reload_without_a_vip_resets_its_clients_only() -> Result<()> {
    vip_leaves(true, |role, _| role.reload(one(fast(150, &[101])))).map(drop)
}

/// The farewell, which the peer's takeover waits for, leaves before any RST.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_stop_resets_clients_after_its_farewell() -> Result<()> {
    let left = vip_leaves(false, |role, _| role.say(lb_userspace::process::ipc::Down::Stop))?;
    let Some(sniffer) = left else { return Ok(()) };
    let farewell = |frame: &[u8]| is_vrrp(frame) && frame[36] == 0;
    let first = sniffer
        .next(Duration::from_secs(1), |frame| farewell(frame) || is_reset(frame))
        .context("neither farewell nor reset")?;
    ensure!(farewell(&first), "a RST left before the farewell");
    sniffer.next(Duration::from_secs(1), is_reset)?;
    Ok(())
}

fn eth0(address: IpAddr) -> Vip {
    Vip {
        interface: "eth0".into(),
        prefix: IpPrefix::host(address),
        label: None,
        broadcast: None,
        scope: 0,
        options: AddressOptions::default(),
    }
}

/// A change of addresses through the rtnetlink thread alone, as the vrrp role asks for it.
fn clear(links: &mut Links, vip: &Vip) -> Result<Aborted> {
    let request = Request { id: 9, set: vec![], clear: vec![Object::Address(vip.clone())] };
    links.request(request).map_err(|error| anyhow::anyhow!(error))?;
    wait_for("the address to be taken off", LIMIT, || {
        Ok(std::iter::from_fn(|| links.try_event()).find_map(|event| match event {
            Event::Done { id: 9, aborted, errors, .. } if errors.is_empty() => Some(aborted),
            _ => None,
        }))
    })
}

fn links(netns: &Namespace) -> Result<Links> {
    let mut links = netns.enter(|| Links::start(None))??;
    wait_true("the kernel to tell its interfaces", LIMIT, || {
        std::iter::from_fn(|| links.try_event()).any(|event| event == Event::Ready)
    })?;
    Ok(links)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ipv6_connections_are_reset_too() -> Result<()> {
    if !ready_or_skip("vrrp_connections")? {
        return Ok(());
    }
    let (lb, peer) = cable()?;
    for (netns, addresses) in [
        (&lb, ["2001:db8::1/64", "2001:db8::100/128"].as_slice()),
        (&peer, ["2001:db8::2/64"].as_slice()),
    ] {
        netns.sysctl("net/ipv6/conf/eth0/disable_ipv6", "0")?;
        for address in addresses {
            netns.ip(&["address", "add", address, "dev", "eth0", "nodad"])?;
        }
    }
    let servers = Servers::start(&lb)?;
    let address: Ipv6Addr = "2001:db8::100".parse()?;
    let own: Ipv6Addr = "2001:db8::1".parse()?;
    let port = servers.ports[1];
    let waiting = [wait(&peer, (address, port))?, wait(&peer, (address, port))?];
    let mut living = connect(&peer, (own, port))?;
    let vip = eth0(address.into());
    let mut links = links(&lb)?;
    let since = Instant::now();
    let aborted = clear(&mut links, &vip)?;
    for client in waiting {
        client.reset_after(since)?;
    }
    ensure!(aborted == Aborted { count: 2, error: None }, "{aborted:?}");
    ping(&mut living)
}

/// A real server by direct return holds the VIP on `lo` as well: its connections live on when the
/// address leaves the outer interface.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_of_an_address_that_stays_elsewhere_live_on() -> Result<()> {
    if !ready_or_skip("vrrp_connections")? {
        return Ok(());
    }
    let (lb, peer) = cable()?;
    for dev in ["eth0", "lo"] {
        lb.ip(&["address", "add", &format!("{VIP}/32"), "dev", dev])?;
    }
    let servers = Servers::start(&lb)?;
    let mut client = connect(&peer, (VIP, servers.ports[0]))?;
    let vip = eth0(VIP.into());
    let mut links = links(&lb)?;
    ensure!(clear(&mut links, &vip)? == Aborted::default());
    let addresses = lb.ip(&["-o", "address", "show", "dev", "eth0"])?;
    ensure!(!addresses.contains(&VIP.to_string()), "{addresses}");
    ping(&mut client)?;
    Ok(())
}

/// A server's usual number of connections takes a part of the time that is allowed for it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_thousand_connections_are_reset_in_time() -> Result<()> {
    const COUNT: u32 = 1000;
    if !ready_or_skip("vrrp_connections")? {
        return Ok(());
    }
    let (lb, peer) = cable()?;
    lb.ip(&["address", "add", &format!("{VIP}/32"), "dev", "eth0"])?;
    // Two descriptors a connection, beside those of other tests.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(8192).min(hard), hard)?;
    let listener = lb.enter(|| TcpListener::bind((VIP, 3306)))??;
    let mut links = links(&lb)?;
    let mut turn = 0;
    let (aborted, pairs) = loop {
        let mut pairs = vec![];
        peer.enter(|| -> Result<()> {
            for _ in 0..COUNT {
                let client = TcpStream::connect((VIP, 3306))?;
                pairs.push((client, listener.accept()?.0));
            }
            Ok(())
        })??;
        let since = Instant::now();
        let aborted = clear(&mut links, &eth0(VIP.into()))?;
        println!("{COUNT} connections: {:?}", since.elapsed());
        turn += 1;
        // A machine may stop a thread for longer than is allowed for all this, but not turn after turn.
        if aborted.error.is_none() || turn == 3 {
            break (aborted, pairs);
        }
        println!("once more: {aborted:?}");
        lb.ip(&["address", "add", &format!("{VIP}/32"), "dev", "eth0"])?;
    };
    ensure!(aborted == Aborted { count: COUNT, error: None }, "{aborted:?}");
    for (mut client, _server) in pairs {
        client.set_read_timeout(Some(Duration::from_secs(2)))?;
        let kind = client.read(&mut [0; 1]).map_err(|error| error.kind());
        ensure!(kind == Err(ErrorKind::ConnectionReset), "a client read {kind:?}");
    }
    Ok(())
}
