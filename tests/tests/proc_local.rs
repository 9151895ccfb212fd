//! A real server that is the balancer's own host: its packets go up the stack, whatever the method, and
//! connections work like any other's.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    single::{self, LIMIT, OWN, Single, VIP, config, virtual_server},
    wait::wait_for,
};
use lb_userspace::base::status::Health;

const PORT: u16 = 3306;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 50);

/// One connection of a client through the VIP to a server on lbd's own host: bytes both ways, and the server
/// sees the client's address.
fn serves_itself(kind: &str) -> Result<()> {
    let mut single = Single::new()?;
    let client = single.plug("client", &format!("{CLIENT}/24"))?;
    let server = single.host.netns().enter(|| TcpListener::bind(("0.0.0.0", PORT)))??;
    server.set_nonblocking(true)?;
    let pool =
        virtual_server(PORT, "wlc", &[OWN]).replace("lb_kind DR", &format!("lb_kind {kind}"));
    single.host.write_config(&config("0.2", "", "", &pool))?;
    single.host.start()?;
    single.wait_master()?;
    let status = single.wait_status("the server up", |status| {
        let planes = status.forwarder.iter().flat_map(|it| &it.virtual_servers);
        let up = planes.flat_map(|it| &it.real_servers).any(|it| it.state == "UP");
        up && status.servers.first().is_some_and(|it| it.health == Health::Up)
    })?;
    let forwarder = status.forwarder.as_ref().context("a forwarder")?;
    let real = forwarder.virtual_servers[0].real_servers.first().context("a real server")?;
    ensure!(real.addr == SocketAddr::from((OWN, PORT)) && real.problem.is_none(), "{real:?}");
    let before = forwarder.outcomes.get("local").copied().unwrap_or(0);
    let vip = SocketAddr::from((VIP, PORT));
    let mut asking = client.enter(|| TcpStream::connect_timeout(&vip, LIMIT))??;
    asking.set_read_timeout(Some(LIMIT))?;
    // Its checks connect too, from the host itself.
    let mut answering = wait_for("the client's connection", LIMIT, || {
        let Ok((stream, from)) = server.accept() else { return Ok(None) };
        Ok((from == asking.local_addr()?).then_some(stream))
    })?;
    answering.set_nonblocking(false)?;
    answering.set_read_timeout(Some(LIMIT))?;
    for (turn, size) in [1_usize, 1_400, 100_000].into_iter().enumerate() {
        let sent = vec![u8::try_from(turn)?; size];
        let (mut there, mut back) = (vec![0; size], vec![0; size]);
        std::thread::scope(|scope| -> Result<()> {
            let write = scope.spawn(|| asking.write_all(&sent));
            answering.read_exact(&mut there)?;
            write.join().ok().context("a writer")??;
            Ok(())
        })?;
        std::thread::scope(|scope| -> Result<()> {
            let write = scope.spawn(|| answering.write_all(&sent));
            asking.read_exact(&mut back)?;
            write.join().ok().context("a writer")??;
            Ok(())
        })?;
        ensure!(there == sent && back == sent, "{size} bytes were changed on their way");
    }
    ensure!(
        answering.local_addr()? == vip,
        "the server sees the VIP: {:?}",
        answering.local_addr()
    );
    let status = single.wait_status("packets that went up the stack", |status| {
        let outcomes = status.forwarder.as_ref().map(|it| &it.outcomes);
        outcomes.and_then(|it| it.get("local")).is_some_and(|count| *count > before + 10)
    })?;
    // A server that ends is down like any other: its listener refuses the check.
    drop((server, answering, asking));
    ensure!(status.processes.iter().all(|it| it.restarts == 0), "{status:#?}");
    single.wait_status("the server down", |status| {
        status.servers.first().is_some_and(|it| it.health == Health::Down)
    })?;
    let refused = client.enter(|| TcpStream::connect_timeout(&vip, LIMIT))?;
    let kind = refused.err().map(|error| error.kind());
    ensure!(kind == Some(std::io::ErrorKind::ConnectionRefused), "{kind:?}");
    single.host.stop()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_real_server_on_the_host_itself_takes_connections() -> Result<()> {
    if !single::ready("proc_local")? {
        return Ok(());
    }
    for kind in ["DR", "NAT"] {
        serves_itself(kind).with_context(|| format!("lb_kind {kind}"))?;
    }
    Ok(())
}
