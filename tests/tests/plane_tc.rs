//! tc's hook through a whole lbd, on veth pairs with the offloads that the kernel gives them: partial checksums,
//! large packets in both directions, resets, a forwarder that is killed, a stop, tc's filters where there is no tcx,
//! and which hook `auto` takes.
//!
//! "Wire": the switch completes checksums towards client and servers, as a NIC would; between veths alone nobody would
//! notice a wrong one.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use lb_tests::{
    host::{self, Host, Program},
    mariadb,
    netns::{Namespace, Port, Switch, ready_or_skip},
    packet::build::{Family, SYN, Tcp, in_family, vlan},
    wait::wait_until,
};
use lb_userspace::{
    base::status::{ForwarderStatus, InterfaceStatus},
    config::model::Attachment,
    dataplane::{
        DataPlane as _,
        xdp::{
            Xdp, attach, clsact,
            links::{self, Mode},
            loader,
        },
    },
    io::link::FrameSocket,
};
use nix::net::if_::if_nametoindex;
use tempfile::TempDir;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The servers' gateway under NAT.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const PORT: u16 = 3306;
/// Another one than the VIP's, so that NAT changes what the pseudo header does not cover too.
const SERVER_PORT: u16 = 13_306;
const LIMIT: Duration = Duration::from_secs(40);
/// Bytes of one transfer.
const BULK: u64 = 48 << 20;
/// Two probes a second apart, each of which may come a second late and take one, what lbd adds, and room for a machine
/// that stalls.
const TOLD: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dr,
    Nat,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Dr, Self::Nat];
}

struct Bed {
    family: Family,
    kind: Kind,
    client: Namespace,
    host: Host,
    servers: Vec<(Namespace, Port)>,
    _dir: TempDir,
    _switches: Vec<Switch>,
}

impl Bed {
    /// Wired, and not started. `global`: lines of global_defs.
    fn wired(family: Family, kind: Kind, wire: bool, global: &str) -> Result<Self> {
        host::available(Program::Lbd).map_err(|why| anyhow::anyhow!(why))?;
        let dir = mariadb::workspace("tc")?;
        let lan = Switch::new("lan")?;
        let inner = if kind == Kind::Nat { Some(Switch::new("inner")?) } else { None };
        let client = Namespace::of_family("client", family)?;
        let lb = Namespace::of_family("lb", family)?;
        let port = lan.plug_as_it_is(&client, "eth0", Some(&family.on_link(CLIENT)))?;
        if wire {
            port.complete_checksums()?;
        }
        lan.plug_as_it_is(&lb, "eth0", Some(&family.on_link([10, 77, 0, 2].into())))?;
        if let Some(inner) = &inner {
            inner.plug_as_it_is(&lb, "eth1", Some(&family.on_link(ROUTER)))?;
        }
        let vip = family.addr(VIP).to_string();
        lb.ip(&["addr", "add", &vip, "dev", "eth0"])?;
        if family == Family::Six {
            // No source address of probes: servers under DR have it too, and would answer themselves.
            lb.ip(&["addr", "change", &vip, "dev", "eth0", "preferred_lft", "0"])?;
        }
        let mut servers = Vec::new();
        for number in [1, 2] {
            let (netns, port) = server(family, kind, inner.as_ref().unwrap_or(&lan), number)?;
            if wire {
                port.complete_checksums()?;
            }
            servers.push((netns, port));
        }
        let host = Host::new(&lb, Program::Lbd, dir.path())?;
        let switches = [Some(lan), inner].into_iter().flatten().collect();
        let bed = Self { family, kind, client, host, servers, _dir: dir, _switches: switches };
        bed.configure(global)?;
        Ok(bed)
    }

    fn configure(&self, global: &str) -> Result<()> {
        let Self { family, kind, .. } = *self;
        let (vip, method) = (family.addr(VIP), if kind == Kind::Nat { "NAT" } else { "DR" });
        let mut text = format!(
            "global_defs {{\n  {global}\n}}\nvirtual_server {vip} {PORT} {{\n  delay_loop 1\n\
             \x20 lb_algo rr\n  lb_kind {method}\n"
        );
        for number in [1, 2] {
            text.push_str(&format!(
                "  real_server {} {} {{\n    TCP_CHECK {{\n      connect_timeout 1\n      retry 1\n\
                 \x20     delay_before_retry 1\n    }}\n  }}\n",
                family.addr(name(kind, number)),
                server_port(kind),
            ));
        }
        self.host.write_config(&(text + "}\n"))
    }

    /// Started, and both servers take connections.
    fn start(family: Family, kind: Kind, wire: bool, global: &str) -> Result<Self> {
        let mut bed = Self::wired(family, kind, wire, global)?;
        bed.begin()?;
        Ok(bed)
    }

    fn begin(&mut self) -> Result<()> {
        self.host.start()?;
        self.until("both servers to be up", |bed| {
            let servers =
                bed.forwarder()?.virtual_servers.into_iter().flat_map(|vs| vs.real_servers);
            Ok(servers.filter(|rs| rs.state == "UP" && rs.problem.is_none()).count() == 2)
        })?;
        self.until("a connection", |bed| {
            let stream = bed.connect(Duration::from_millis(200));
            Ok(stream.and_then(|mut stream| echo(&mut stream)).is_ok())
        })
    }

    fn until(&self, what: &str, is: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let state = || match self.host.status() {
            Ok(status) => format!("{:#?}\n{}", status.forwarder, self.host.log_tail(30)),
            Err(error) => format!("{error:#}\n{}", self.host.log_tail(30)),
        };
        wait_until(what, LIMIT, || Ok(is(self).unwrap_or(false).then_some(())), state)
    }

    fn connect(&self, limit: Duration) -> Result<TcpStream> {
        let target = SocketAddr::from((self.family.addr(VIP), PORT));
        let stream = self.client.enter(|| TcpStream::connect_timeout(&target, limit))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    fn forwarder(&self) -> Result<ForwarderStatus> {
        self.host.forwarder()
    }

    fn outcome(&self, name: &str) -> Result<u64> {
        self.forwarder()?.outcomes.get(name).copied().context("no such outcome")
    }

    /// What lbd knows of it, for whoever reads the failure.
    fn state(&self) -> String {
        let outcomes = self.forwarder().map(|it| it.outcomes).unwrap_or_default();
        let met: Vec<_> = outcomes.into_iter().filter(|(_, packets)| *packets > 0).collect();
        format!("{met:?}\n{}", self.host.log_tail(30))
    }

    fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        Ok(self.forwarder()?.interfaces)
    }

    fn names(&self) -> &'static [&'static str] {
        if self.kind == Kind::Nat { &["eth0", "eth1"] } else { &["eth0"] }
    }

    /// Ids of the programs by tcx on each interface.
    fn tcx(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for name in self.names() {
            let (_, programs) = self
                .host
                .netns()
                .enter(|| SchedClassifier::query_tcx(name, TcAttachType::Ingress))??;
            ids.extend(programs.iter().map(|program| program.id()));
        }
        Ok(ids)
    }

    /// What is left of ours on the interfaces: programs and qdiscs.
    fn left(&self) -> Result<Vec<String>> {
        let mut left: Vec<_> = self.tcx()?.iter().map(|id| format!("tcx program {id}")).collect();
        let links = self.host.netns().ip(&["-d", "link", "show"])?;
        left.extend(links.lines().filter(|line| line.contains("prog/xdp")).map(str::to_owned));
        let qdiscs = self.host.netns().run("tc", &["qdisc", "show"])?;
        left.extend(qdiscs.lines().filter(|line| line.contains("clsact")).map(str::to_owned));
        Ok(left)
    }

    fn wait_for_nothing_left(&self) -> Result<()> {
        // The kernel detaches a link whose last pin is gone from a work queue.
        wait_until(
            "nothing to be left",
            LIMIT,
            || Ok(self.left()?.is_empty().then_some(())),
            || format!("{:?}", self.left()),
        )?;
        ensure!(!self.host.pin_dir().exists(), "pins are left");
        Ok(())
    }
}

fn name(kind: Kind, number: u8) -> Ipv4Addr {
    let net = if kind == Kind::Nat { 88 } else { 77 };
    Ipv4Addr::new(10, net, 0, 20 + number)
}

fn server_port(kind: Kind) -> u16 {
    if kind == Kind::Nat { SERVER_PORT } else { PORT }
}

fn server(family: Family, kind: Kind, switch: &Switch, number: u8) -> Result<(Namespace, Port)> {
    let netns = Namespace::of_family(&format!("db{number}"), family)?;
    let port = switch.plug_as_it_is(&netns, "eth0", Some(&family.on_link(name(kind, number))))?;
    match kind {
        Kind::Dr => {
            netns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            netns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
            let vip = family.addr(VIP).to_string();
            netns.ip(&["addr", "add", &vip, "dev", "lo"])?;
            if family == Family::Six {
                // What it asks for its clients' MAC addresses from when it answers as the VIP.
                netns.ip(&["addr", "add", &format!("fe80::{number}1/64"), "dev", "eth0"])?;
            }
        }
        Kind::Nat => {
            let router = family.addr(ROUTER).to_string();
            netns.ip(&[family.option(), "route", "add", "default", "via", &router])?;
        }
    }
    let listener = netns.enter(|| TcpListener::bind((family.any(), server_port(kind))))??;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away, or is reset, ends its own thread only.
            thread::spawn(move || serve(stream));
        }
    });
    Ok((netns, port))
}

/// `e`: echoes a byte. `u` LEN: takes so many bytes, and says `k` if all are right. `d` LEN: gives so many.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut command = [0];
    while stream.read(&mut command)? == 1 {
        if command == *b"e" {
            stream.write_all(b"e")?;
            continue;
        }
        let mut len = [0; 8];
        stream.read_exact(&mut len)?;
        let len = u64::from_le_bytes(len);
        if command == *b"u" {
            let right = take(&mut stream, len)?;
            stream.write_all(if right { b"k" } else { b"x" })?;
        } else {
            give(&mut stream, len, || {})?;
        }
    }
    Ok(())
}

/// Bytes of which no two places within a period are easily taken for each other; a prime period fits no segment size.
fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..65_521).map(next).collect()
}

fn give(stream: &mut TcpStream, len: u64, mut each: impl FnMut()) -> std::io::Result<()> {
    let pattern = pattern();
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(pattern.len());
        stream.write_all(&pattern[..part])?;
        left -= part as u64;
        each();
    }
    Ok(())
}

fn take(stream: &mut impl Read, len: u64) -> std::io::Result<bool> {
    let pattern = pattern();
    let mut buffer = vec![0; pattern.len()];
    let (mut left, mut right) = (len, true);
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(pattern.len());
        stream.read_exact(&mut buffer[..part])?;
        right &= buffer[..part] == pattern[..part];
        left -= part as u64;
    }
    Ok(right)
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"e").context("write")?;
    let mut byte = [0];
    stream.read_exact(&mut byte).context("read")?;
    ensure!(byte == *b"e", "{byte:?}");
    Ok(())
}

fn ask(stream: &mut TcpStream, command: &[u8; 1], len: u64) -> std::io::Result<()> {
    stream.write_all(&[&command[..], &len.to_le_bytes()].concat())
}

fn upload(stream: &mut TcpStream, len: u64, each: impl FnMut()) -> Result<()> {
    ask(stream, b"u", len)?;
    give(stream, len, each).context("upload")?;
    let mut said = [0];
    stream.read_exact(&mut said).context("the server's word")?;
    ensure!(said == *b"k", "the server got other bytes");
    Ok(())
}

fn download(stream: &mut TcpStream, len: u64) -> Result<()> {
    ask(stream, b"d", len)?;
    ensure!(take(stream, len).context("download")?, "the client got other bytes");
    Ok(())
}

#[test]
fn bulk_goes_both_ways_whatever_the_offloads() -> Result<()> {
    if !ready_or_skip("plane_tc")? {
        return Ok(());
    }
    for family in Family::ALL {
        for kind in Kind::ALL {
            for wire in [false, true] {
                let what = format!("{family:?} {kind:?}, wire {wire}");
                println!("{what}");
                let mut bed = Bed::start(family, kind, wire, "lvs_hook tc")?;
                let mut streams = [bed.connect(LIMIT)?, bed.connect(LIMIT)?];
                for stream in &mut streams {
                    echo(stream)
                        .and_then(|()| upload(stream, BULK, || {}))
                        .and_then(|()| download(stream, BULK))
                        .and_then(|()| echo(stream))
                        .with_context(|| format!("{what}: {}", bed.state()))?;
                }
                let status = bed.forwarder()?;
                let servers = || status.virtual_servers.iter().flat_map(|vs| &vs.real_servers);
                let sum = |of: fn(&lb_userspace::base::status::RealServerStatus) -> u64| {
                    servers().map(of).sum::<u64>()
                };
                let (packets, bytes) = (sum(|rs| rs.packets), sum(|rs| rs.bytes));
                ensure!(bytes > 2 * BULK, "{what}: {bytes} bytes went through lbd");
                // Large ones come through whole; a client that asks for checksums to be completed cuts nothing.
                let passed = if kind == Kind::Nat { "nat_reply" } else { "dr_forwarded" };
                ensure!(bed.outcome(passed)? > 0, "{what}: nothing went through lbd");
                println!("{what}: {packets} packets of {} bytes", bytes / packets.max(1));
                if kind == Kind::Nat {
                    ensure!(bytes / packets > 1514, "{what}: no large packets");
                }
                for dropped in ["malformed", "rewrite_failed", "bad_flags", "ip_options"] {
                    ensure!(bed.outcome(dropped)? == 0, "{what}: {dropped}");
                }
                bed.host.stop()?;
                bed.wait_for_nothing_left()?;
            }
        }
    }
    Ok(())
}

/// Both who speak, whose segments have partial checksums that the reset takes over, and who say nothing.
#[test]
fn clients_of_a_dead_server_are_reset() -> Result<()> {
    if !ready_or_skip("plane_tc")? {
        return Ok(());
    }
    for family in Family::ALL {
        for kind in Kind::ALL {
            let what = format!("{family:?} {kind:?}");
            let mut bed = Bed::start(family, kind, true, "lvs_hook tc")?;
            let mut streams = (0..8).map(|_| bed.connect(LIMIT)).collect::<Result<Vec<_>>>()?;
            streams.iter_mut().try_for_each(echo)?;
            let begun = Instant::now();
            bed.servers[0].1.set_link(false)?;
            bed.until("the server to be down", |bed| {
                let servers = bed.forwarder()?.virtual_servers;
                let mut servers = servers.into_iter().flat_map(|vs| vs.real_servers);
                Ok(!servers.all(|rs| rs.state == "UP"))
            })?;
            // Half of them speak.
            let mut ends = Vec::new();
            for (index, stream) in streams.iter_mut().enumerate() {
                let speaks = index / 2 % 2 == 0;
                // Who speaks hears something, of a server that may be held up, or of lbd.
                let least = if speaks { TOLD / 2 } else { TOLD / 4 };
                let limit = TOLD.saturating_sub(begun.elapsed()).max(least);
                stream.set_read_timeout(Some(limit))?;
                let said = if speaks { stream.write_all(b"e") } else { Ok(()) };
                let end = said.and_then(|()| stream.read(&mut [0]));
                ends.push(end.map_err(|error| error.kind()));
            }
            let reset = ends.iter().filter(|end| **end == Err(ErrorKind::ConnectionReset)).count();
            let answered = ends.iter().filter(|end| **end == Ok(1)).count();
            let silent = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
            let waiting = ends.iter().filter(|end| end.is_err_and(|end| silent.contains(&end)));
            println!("{what}: {ends:?}");
            // rr: four on each.
            ensure!((reset, answered, waiting.count()) == (4, 2, 2), "{what}: {ends:?}");
            ensure!(bed.outcome("reset_dead")? >= 4, "{what}");
            ensure!(bed.outcome("reset_failed")? == 0, "{what}");
            bed.host.stop()?;
        }
    }
    Ok(())
}

/// The kernel has taken the tag out of the data by then.
#[test]
fn a_tagged_frame_is_named() -> Result<()> {
    if !ready_or_skip("plane_tc")? {
        return Ok(());
    }
    for family in Family::ALL {
        let mut bed = Bed::start(family, Kind::Dr, false, "lvs_hook tc")?;
        let syn = in_family(family, || Tcp::new((CLIENT, 40_000), (VIP, PORT), SYN).frame());
        let mut tagged = vlan(&syn, 10);
        tagged[..6].fill(0xff); // to every port of the switch
        let scheduled = bed.outcome("scheduled")?;
        bed.client.enter(|| FrameSocket::open("eth0")?.send(&tagged))??;
        bed.until("the frame", |bed| Ok(bed.outcome("vlan")? == 1))?;
        ensure!(
            bed.outcome("scheduled")? == scheduled,
            "{family:?}: it was taken for an untagged one"
        );
        // VLAN 0 is a priority and no VLAN.
        let mut tagged = vlan(&syn, 0);
        tagged[..6].fill(0xff);
        bed.client.enter(|| FrameSocket::open("eth0")?.send(&tagged))??;
        bed.until("the frame of a priority", |bed| Ok(bed.outcome("scheduled")? == scheduled + 1))?;
        ensure!(bed.outcome("vlan")? == 1, "{family:?}: VLAN 0 was taken for a VLAN");
        bed.host.stop()?;
    }
    Ok(())
}

/// The forwarder dies in the midst of a transfer.
fn goes_on_without_its_forwarder(bed: &mut Bed) -> Result<()> {
    let mut kept = (0..4).map(|_| bed.connect(LIMIT)).collect::<Result<Vec<_>>>()?;
    kept.iter_mut().try_for_each(echo)?;
    let mut stream = bed.connect(LIMIT)?;
    let (mut parts, mut killed) = (0, Ok(()));
    let host = &mut bed.host;
    upload(&mut stream, 2 * BULK, || {
        parts += 1;
        if parts == 200 {
            killed = host.kill_role("forwarder");
        }
    })?;
    killed?;
    download(&mut stream, BULK)?;
    kept.iter_mut().try_for_each(echo)?;
    let mut fresh = bed.connect(LIMIT)?;
    echo(&mut fresh)?;
    bed.until("a new forwarder", |bed| {
        let forwarder = bed.forwarder()?;
        Ok(forwarder.interfaces.len() == bed.names().len() && forwarder.problem.is_none())
    })?;
    kept.iter_mut().try_for_each(echo)?;
    echo(&mut fresh)?;
    stream.shutdown(Shutdown::Both)?;
    Ok(())
}

#[test]
fn a_killed_forwarder_loses_nothing_and_a_stop_leaves_nothing() -> Result<()> {
    if !ready_or_skip("plane_tc")? {
        return Ok(());
    }
    for family in Family::ALL {
        let mut bed = Bed::start(family, Kind::Nat, false, "lvs_hook tc")?;
        let before = bed.tcx()?;
        ensure!(before.len() == 2, "{before:?}");
        goes_on_without_its_forwarder(&mut bed)?;
        ensure!(bed.tcx()? == before, "the same object was loaded again");
        let modes: Vec<_> = bed.interfaces()?.into_iter().map(|it| it.mode).collect();
        ensure!(modes == ["tcx", "tcx"], "{modes:?}");
        bed.host.stop()?;
        bed.wait_for_nothing_left()?;
    }
    Ok(())
}

/// On a kernel before 6.6 the program is a filter. Here a predecessor has put it there in that way, and lbd takes it over.
#[test]
fn a_filter_carries_connections_and_is_adopted_and_removed() -> Result<()> {
    if !ready_or_skip("plane_tc")? {
        return Ok(());
    }
    let mut bed = Bed::wired(Family::Four, Kind::Nat, true, "lvs_hook tc")?;
    let pins = bed.host.pin_dir();
    bed.host.netns().enter(|| -> Result<()> {
        loader::open(&pins, 131_072)?;
        let program = loader::tc_program(&pins)?;
        for name in ["eth0", "eth1"] {
            attach::by_filter(&pins, &program, if_nametoindex(name)?)?;
        }
        Ok(())
    })??;
    bed.begin()?;
    let modes = |bed: &Bed| -> Result<Vec<String>> {
        Ok(bed.interfaces()?.into_iter().map(|it| it.mode).collect())
    };
    ensure!(modes(&bed)? == ["clsact", "clsact"], "{:?}", modes(&bed));
    ensure!(bed.tcx()?.is_empty(), "and no other program beside it");
    let mut stream = bed.connect(LIMIT)?;
    upload(&mut stream, BULK, || {})?;
    download(&mut stream, BULK)?;
    ensure!(bed.outcome("nat_reply")? > 0);
    goes_on_without_its_forwarder(&mut bed)?;
    ensure!(modes(&bed)? == ["clsact", "clsact"], "{:?}", modes(&bed));
    bed.host.stop()?;
    bed.wait_for_nothing_left()
}

/// Filters and qdiscs of others stay where they are, and see what is not ours.
#[test]
fn what_others_have_on_tc_is_left_alone() -> Result<()> {
    if !ready_or_skip("plane_tc")? {
        return Ok(());
    }
    let lb = Namespace::new("lb")?;
    lb.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth9"])?;
    lb.ip(&["link", "set", "eth0", "up"])?;
    let dir = mariadb::workspace("foreign")?;
    let pins = Pins::new("foreign");
    let filters = || lb.run("tc", &["filter", "show", "dev", "eth0", "ingress"]);
    let qdiscs = || lb.run("tc", &["qdisc", "show", "dev", "eth0"]);
    lb.enter(|| -> Result<()> {
        let index = if_nametoindex("eth0")?;
        loader::open(&pins.0, 4096)?;
        let program = loader::tc_program(&pins.0)?;
        let name = clsact::name(&pins.0);
        // Nobody is there: the qdisc comes and goes with us.
        attach::by_filter(&pins.0, &program, index)?;
        let first = clsact::filter(index, &name)?.context("our filter")?;
        // Once more, as for another program: in its place.
        attach::by_filter(&pins.0, &program, index)?;
        ensure!(clsact::filter(index, &name)? == Some(first), "replaced in one step");
        ensure!(clsact::filter(index, "lbd_tc /another")?.is_none(), "another instance's");
        let found = links::all(&pins.0)?;
        ensure!(found.len() == 1 && found[0].mode == Mode::Clsact && found[0].ifindex == index);
        links::take_off(&pins.0, Mode::Clsact, index)?;
        ensure!(links::all(&pins.0)?.is_empty() && clsact::filter(index, &name)?.is_none());
        Ok(())
    })??;
    ensure!(!qdiscs()?.contains("clsact"), "{}", qdiscs()?);
    // Somebody else has a filter by now, in a qdisc that we made.
    lb.enter(|| -> Result<()> {
        loader::open(&pins.0, 4096)?;
        let program = loader::tc_program(&pins.0)?;
        attach::by_filter(&pins.0, &program, if_nametoindex("eth0")?)?;
        Ok(())
    })??;
    lb.run("tc", &["filter", "add", "dev", "eth0", "egress", "matchall", "action", "pass"])
        .or_else(|_| {
            // A kernel without matchall or actions.
            lb.run(
                "tc",
                &[
                    "filter", "add", "dev", "eth0", "egress", "protocol", "ip", "u32", "match",
                    "u32", "0", "0", "flowid", "1:1",
                ],
            )
        })?;
    lb.enter(|| {
        let mut engine = Xdp::open(&pins.0, 4096, Attachment::TC)?;
        ensure!(engine.observe()?.interfaces.contains("eth0"), "a predecessor's filter is adopted");
        engine.close()
    })??;
    ensure!(qdiscs()?.contains("clsact"), "the other one's qdisc is gone");
    ensure!(!filters()?.contains("lbd_tc"), "{}", filters()?);
    let egress = lb.run("tc", &["filter", "show", "dev", "eth0", "egress"])?;
    ensure!(!egress.trim().is_empty(), "the other one's filter is gone");
    drop(dir);
    Ok(())
}

/// Pins that go when the test ends, however it ends.
struct Pins(std::path::PathBuf);

impl Pins {
    fn new(role: &str) -> Self {
        let name = format!("lbd-{}", lb_tests::netns::unique(role));
        Self(std::path::Path::new("/sys/fs/bpf").join(name))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = loader::remove(&self.0);
    }
}

/// `auto` takes tc on veth and says so; another word in the file takes the program to the other hook, and connections
/// stay.
#[test]
fn auto_takes_tc_on_veth_and_a_reload_changes_hooks() -> Result<()> {
    if !ready_or_skip("plane_tc")? {
        return Ok(());
    }
    let mut bed = Bed::start(Family::Four, Kind::Nat, false, "lvs_hook auto")?;
    let interfaces = bed.interfaces()?;
    for interface in &interfaces {
        ensure!(interface.mode == "tcx", "{interface:?}");
        ensure!(interface.reason.contains("veth"), "{interface:?}");
    }
    let text = bed.host.lbctl(&["status"])?;
    ensure!(text.contains("tc tcx") && text.contains("driver veth"), "{text}");
    let mut streams = (0..4).map(|_| bed.connect(LIMIT)).collect::<Result<Vec<_>>>()?;
    streams.iter_mut().try_for_each(echo)?;
    // Generic XDP keeps offloads on, and partial checksums as they are: connections can go on by it.
    for (global, mode) in
        [("lvs_hook tc", "tcx"), ("lvs_hook xdp", "native"), ("lvs_hook auto", "tcx")]
    {
        bed.configure(global)?;
        bed.host.lbctl(&["reload"])?;
        bed.until(&format!("{mode} by `{global}`"), |bed| {
            let interfaces = bed.interfaces()?;
            Ok(interfaces.len() == 2 && interfaces.iter().all(|it| it.mode == mode))
        })?;
        let wanted = if mode == "native" { 0 } else { 2 };
        wait_until(
            "the other hook to be empty",
            LIMIT,
            || {
                let links = bed.host.netns().ip(&["-d", "link", "show"])?;
                let xdp = links.matches("prog/xdp").count();
                Ok((bed.tcx()?.len() == wanted && xdp == 2 - wanted).then_some(()))
            },
            || bed.host.log_tail(20),
        )?;
        if mode == "tcx" {
            streams.iter_mut().try_for_each(echo)?;
        }
    }
    bed.host.stop()?;
    bed.wait_for_nothing_left()
}
