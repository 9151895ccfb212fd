//! What a running lbd does as the real servers of a pool go and come: sorry server, quorum, servers that
//! are inhibited instead of removed, and the scripts that are told of it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::Namespace,
    single::{self, LIMIT, Single, VIP, config},
    wait::{wait_for, wait_until},
};
use lb_userspace::base::status::{Health, QuorumStatus, RealServerStatus, Status};

/// The pool's port, and that of the virtual server that wants both servers.
const PORTS: [u16; 2] = [3306, 3307];

/// A real server by DR, alive on a port while it listens there.
struct Server {
    addr: Ipv4Addr,
    netns: Namespace,
    listeners: [Option<TcpListener>; 2],
}

impl Server {
    fn new(single: &Single, last: u8) -> Result<Self> {
        let addr = Ipv4Addr::new(10, 79, 0, last);
        let netns = single.plug(&format!("db{last}"), &format!("{addr}/24"))?;
        netns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        netns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
        netns.ip(&["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
        let mut server = Self { addr, netns, listeners: [None, None] };
        server.comes(0)?;
        server.comes(1)?;
        Ok(server)
    }

    fn comes(&mut self, index: usize) -> Result<()> {
        let port = PORTS[index];
        let listener = self.netns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        listener.set_nonblocking(true)?;
        self.listeners[index] = Some(listener);
        Ok(())
    }

    fn goes(&mut self, index: usize) {
        self.listeners[index] = None;
    }

    /// Whether it has the connection of this client on the first port; whoever else waits is taken too.
    fn has(&self, client: SocketAddr) -> bool {
        let accept = || self.listeners[0].as_ref()?.accept().ok();
        std::iter::from_fn(accept).any(|(_, from)| from == client)
    }
}

fn quorum(status: &Status, port: u16) -> Option<&QuorumStatus> {
    let key = format!("tcp/{VIP}:{port}");
    status.quorum.iter().find(|it| it.virtual_server == key)
}

/// What the data plane has of a server on the first port.
fn plane(status: &Status, addr: Ipv4Addr) -> Option<&RealServerStatus> {
    let key = format!("tcp/{VIP}:{}", PORTS[0]);
    let forwarder = status.forwarder.as_ref()?;
    let vs = forwarder.virtual_servers.iter().find(|vs| vs.key == key)?;
    vs.real_servers.iter().find(|rs| rs.addr.ip() == addr)
}

/// What is to be seen: of each server whether the plane gives it connections, and with which weight
/// (`None`: it is not in the table); of both virtual servers whether the quorum is up; whether the
/// sorry server stands in.
struct Picture {
    first: Option<(&'static str, u32)>,
    inhibited: Option<(&'static str, u32)>,
    sorry: Option<(&'static str, u32)>,
    quorums: [bool; 2],
    told: &'static [&'static str],
}

/// One story, in which the first server and one with `inhibit_on_failure` go and come back.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn sorry_server_quorum_inhibition_and_their_scripts_follow_the_servers() -> Result<()> {
    if !single::ready("proc_pool")? {
        return Ok(());
    }
    let mut single = Single::new()?;
    let notes = single.dir().join("notes");
    // A line by one write: scripts of several objects run at a time.
    let tell =
        single.script("tell.sh", &format!("#!/bin/sh\necho \"$*\" >> {}\n", notes.display()))?;
    let tell = tell.display();
    let mut first = Server::new(&single, 21)?;
    let mut inhibited = Server::new(&single, 22)?;
    let sorry = Server::new(&single, 23)?;
    let client = single.plug("client", "10.79.0.50/24")?;
    // Servers that go refuse at once; one that is up has longer than a busy machine stands still, since a verdict too
    // many would be told.
    let real = |addr: Ipv4Addr, port: u16, words: &str| {
        format!(
            " real_server {addr} {port} {{\n  weight 1\n  TCP_CHECK {{\n   connect_timeout 10\n   \
             retry 0\n  }}\n{words}\n }}\n"
        )
    };
    let notify = |name: &str| {
        format!("  notify_up \"{tell} {name} up\"\n  notify_down \"{tell} {name} down\"\n")
    };
    let virtual_server = |port: u16, words: &str, servers: [String; 2]| {
        format!(
            "virtual_server {VIP} {port} {{\n delay_loop 0.2\n lb_algo rr\n lb_kind DR\n protocol TCP\n\
             {words} quorum_up \"{tell} quorum-{port} up\"\n quorum_down \"{tell} quorum-{port} down\"\n\
             {}}}\n",
            servers.concat()
        )
    };
    let inhibit = format!("{}  inhibit_on_failure", notify("inhibited"));
    let pool =
        [real(first.addr, PORTS[0], &notify("first")), real(inhibited.addr, PORTS[0], &inhibit)];
    let both = [real(first.addr, PORTS[1], ""), real(inhibited.addr, PORTS[1], "")];
    let sorry_server = format!(" sorry_server {} {}\n", sorry.addr, PORTS[0]);
    let servers = virtual_server(PORTS[0], &sorry_server, pool)
        + &virtual_server(PORTS[1], " quorum 2\n", both);
    single.host.write_config(&config("0.2", "script_user root", "", &servers))?;
    single.host.start()?;
    single.wait_master()?;

    let noted = || -> Vec<String> {
        let text = fs::read_to_string(&notes).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let addrs = [first.addr, inhibited.addr, sorry.addr];
    let shows = |what: &str, picture: &Picture| {
        let wanted = [picture.first, picture.inhibited, picture.sorry];
        let mut told: Vec<String> = picture.told.iter().map(|&it| it.to_owned()).collect();
        told.sort();
        wait_until(
            what,
            LIMIT,
            || {
                let Ok(status) = single.host.status() else { return Ok(None) };
                // The weight of a server that is down counts for nothing.
                let weight = |rs: &RealServerStatus| if rs.state == "DOWN" { 0 } else { rs.weight };
                let seen =
                    addrs.map(|addr| plane(&status, addr).map(|rs| (rs.state.clone(), weight(rs))));
                let wanted = wanted.map(|it| it.map(|(state, weight)| (state.to_owned(), weight)));
                let mut rows = addrs.iter().filter_map(|addr| plane(&status, *addr));
                let reachable = rows.all(|rs| rs.state != "UP" || rs.problem.is_none());
                let quorums = PORTS.map(|port| quorum(&status, port).map(|it| it.quorum_up));
                let stands_in = quorum(&status, PORTS[0]).map(|it| it.sorry_in_use);
                let agree = seen == wanted
                    && reachable
                    && quorums == picture.quorums.map(Some)
                    && stands_in == Some(wanted[2].is_some())
                    && noted() == told;
                Ok(agree.then_some(status))
            },
            || {
                let status = single.host.status();
                let rows = status.map(|it| (addrs.map(|a| plane(&it, a).cloned()), it.quorum));
                format!("{rows:#?}\n{:#?}\n{}", noted(), single.host.log_tail(30))
            },
        )
    };
    let vip = SocketAddr::from((VIP, PORTS[0]));
    // A new connection of the client's arrives at this server.
    let reaches = |server: &Server, what: &str| -> Result<()> {
        let stream = client.enter(|| TcpStream::connect_timeout(&vip, LIMIT))?;
        let stream = stream.with_context(|| what.to_owned())?;
        let from = stream.local_addr()?;
        wait_for(what, LIMIT, || Ok(server.has(from).then_some(())))
    };

    // Nobody is told of what is so from the start.
    single.wait_status("the first verdicts", |status| {
        status.servers.len() == 4 && status.servers.iter().all(|it| it.health == Health::Up)
    })?;
    let up = Some(("UP", 1));
    let mut picture =
        Picture { first: up, inhibited: up, sorry: None, quorums: [true; 2], told: &[] };
    shows("both servers", &picture)?;

    // The inhibited one goes on both ports: in the table with weight 0, and no quorum of two.
    inhibited.goes(0);
    inhibited.goes(1);
    picture.inhibited = Some(("DRAIN", 0));
    picture.quorums = [true, false];
    picture.told = &["inhibited down", "quorum-3307 down"];
    let status = shows("the inhibited server down", &picture)?;
    let health = status.servers.iter().find(|it| it.real_server.ip() == inhibited.addr);
    ensure!(health.is_some_and(|it| it.health == Health::Down), "{:#?}", status.servers);
    for number in 0..3 {
        reaches(&first, &format!("connection {number} at the server that is left"))?;
    }

    // The last one goes: the sorry server takes its place.
    first.goes(0);
    picture.first = Some(("DOWN", 0));
    picture.sorry = up;
    picture.quorums = [false; 2];
    picture.told = &["inhibited down", "quorum-3307 down", "first down", "quorum-3306 down"];
    let status = shows("the sorry server", &picture)?;
    let row = quorum(&status, PORTS[0]).context("a row")?;
    ensure!(row.up_weight == 0 && row.quorum == 1, "{row:?}");
    reaches(&sorry, "a connection at the sorry server")?;

    // One that comes back is enough to be rid of it.
    first.comes(0)?;
    picture.first = up;
    picture.sorry = None;
    picture.quorums = [true, false];
    picture.told = &[
        "inhibited down",
        "quorum-3307 down",
        "first down",
        "quorum-3306 down",
        "first up",
        "quorum-3306 up",
    ];
    shows("the first server again", &picture)?;
    reaches(&first, "a connection at the server that came back")?;

    inhibited.comes(0)?;
    inhibited.comes(1)?;
    picture.inhibited = up;
    picture.quorums = [true; 2];
    picture.told = &[
        "inhibited down",
        "quorum-3307 down",
        "first down",
        "quorum-3306 down",
        "first up",
        "quorum-3306 up",
        "inhibited up",
        "quorum-3307 up",
    ];
    shows("everybody again", &picture)?;
    // Of two connections in turn each gets one.
    wait_for("a connection at the inhibited server that came back", LIMIT, || {
        let stream = client.enter(|| TcpStream::connect_timeout(&vip, LIMIT))??;
        let from = stream.local_addr()?;
        Ok(inhibited.has(from).then_some(()))
    })?;
    // Without `omega` a stop tells nobody.
    let before = noted();
    single.host.stop()?;
    ensure!(noted() == before, "{:?}", noted());
    Ok(())
}
