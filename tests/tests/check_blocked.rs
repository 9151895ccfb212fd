//! A MySQL server blocks a host whose connections come to nothing (`max_connect_errors`): checks are
//! never the reason.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    checks::{
        LB, LIMIT, Resolver,
        bench::{Bench, config, mysql_check},
        checker, clients_settled, connect_errors, counter, db_addr, inside, log_in, namespace,
        target,
    },
    mariadb::MariaDb,
    netns::Namespace,
    wait::wait_for,
};
use lb_userspace::{
    base::status::Health,
    config::model::MysqlLevel,
    io::probes::{
        mysql::{Credentials, Failure, Question},
        tcp,
    },
};
use nix::sys::signal::Signal;

const SUITE: &str = "check_blocked";

/// What a check must not do, from the balancer's address.
fn connect_and_close(netns: &Namespace, times: u32) -> Result<()> {
    netns.enter(|| -> Result<()> {
        for _ in 0..times {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(IpAddr::V4(LB), 0).into())?;
            socket.connect(&db_addr().into())?;
            drop(TcpStream::from(socket));
        }
        Ok(())
    })?
}

/// A login that is let in meanwhile takes back what was counted until then: the rest has to be enough, or more of
/// them are made.
fn wait_blocked(netns: &Namespace, times: u32) -> Result<()> {
    let blocked = wait_for("the server to block a host that connects and closes", LIMIT, || {
        match inside(netns, log_in(&target(Question::Nothing), &checker()))? {
            Err(failure @ Failure::Server { code: 1129, .. }) => Ok(Some(failure)),
            _ => connect_and_close(netns, times).map(|()| None),
        }
    })?;
    ensure!(blocked.to_string().contains("blocked"), "{blocked}");
    Ok(())
}

#[test]
fn tcp_check_and_mysql_check_never_block_this_host() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let options = ["--max-connect-errors=10", "--skip-name-resolve=0", "--performance-schema=1"];
    let resolver = Resolver::start(&netns)?;
    let db = MariaDb::start_with(&netns, 1, &options)?;
    let before = counter(&db, "Aborted_connects")?;

    // 200 TCP_CHECKs, twenty times the server's limit.
    let tcp = tcp::Target { addr: db_addr(), bindto: Some(LB.into()), timeout: LIMIT };
    inside(&netns, async {
        for _ in 0..200 {
            let manner = tcp::probe(&tcp).await?;
            ensure!(manner == tcp::Manner::HalfOpen, "root has raw sockets");
        }
        Ok(())
    })??;
    ensure!(counter(&db, "Aborted_connects")? == before, "TCP_CHECK counted as aborted connects");

    // 200 full logins, and 200 as nobody at level greeting.
    let clients = counter(&db, "Aborted_clients")?;
    inside(&netns, async {
        for _ in 0..200 {
            log_in(&target(Question::ReadOnly), &checker()).await?;
        }
        ensure!(clients_settled(&db, clients)?, "COM_QUIT was not said");
        Ok(())
    })??;
    ensure!(counter(&db, "Aborted_connects")? == before, "logins counted as aborted connects");
    inside(&netns, async {
        for _ in 0..50 {
            match log_in(&target(Question::Nothing), &Credentials::nobody()).await {
                Err(Failure::Server { code: 1045, .. }) => {}
                other => bail!("a made-up user got {other:?}"),
            }
        }
        log_in(&target(Question::Nothing), &checker()).await.context("after 50 refused logins")?;
        Ok(())
    })??;
    let errors = connect_errors(&db)?;
    ensure!(errors == "0", "connect errors counted: {errors}");

    // The server would have blocked a check that connects and closes: it does, after eleven.
    connect_and_close(&netns, 30)?;
    wait_blocked(&netns, 30)?;
    ensure!(resolver.asked() > 0, "the server did not resolve names");
    Ok(())
}

/// Its kernel accepts what it does not see; what was closed meanwhile would count once it goes on.
#[test]
fn a_server_that_stood_still_holds_nothing_against_us() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let options = ["--max-connect-errors=2", "--skip-name-resolve=0", "--performance-schema=1"];
    let resolver = Resolver::start(&netns)?;
    let mut db = MariaDb::start_with(&netns, 1, &options)?;
    let clients = counter(&db, "Aborted_clients")?;
    let mut check = mysql_check(db_addr(), LB, MysqlLevel::Ping);
    check.0.connect_timeout = Duration::from_millis(200);
    check.1.login_interval = Duration::from_millis(200);
    let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
    bench.wait_health(Health::Up, LIMIT)?;
    db.signal(Signal::SIGSTOP)?;
    bench.wait_health(Health::Down, LIMIT)?;
    wait_for("logins that are not made", LIMIT, || {
        Ok((bench.checkers()?.iter().map(|it| it.deferred).sum::<u64>() >= 3).then_some(()))
    })?;
    db.signal(Signal::SIGCONT)?;
    bench.wait_health(Health::Up, LIMIT)?;
    bench.stop()?;
    ensure!(clients_settled(&db, clients)?, "a late session ended without COM_QUIT");
    ensure!(connect_errors(&db)? == "0", "{}", connect_errors(&db)?);
    ensure!(resolver.asked() > 0, "the server did not resolve names");
    // Had it closed them meanwhile, this host would be blocked now.
    db.signal(Signal::SIGSTOP)?;
    connect_and_close(&netns, 10)?;
    db.signal(Signal::SIGCONT)?;
    wait_blocked(&netns, 10)
}
