//! Checkers against real MariaDB servers: what they see, and how fast.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::{
    checks::{
        DB, LB, LIMIT,
        bench::{Bench, config, mysql_check, tcp_check},
        clients_settled, counter, db_addr, namespace, target,
    },
    mariadb::{self, CHECK_PASSWORD, CHECK_USER, MariaDb},
    wait::wait_for,
};
use lb_userspace::{
    base::status::Health,
    config::model::{Config, MysqlLevel, MysqlRole, OnCondition},
    io::probes::mysql::{self, Credentials, Failure, Question, late::Places},
    process::{clock, config_file},
};
use nix::sys::signal::Signal;

const SUITE: &str = "check_mysql";

/// What the checker reckons is tested without a clock (`check::mysql`); these bounds leave as much
/// again to a machine that does not run it in time.
#[test]
fn stop_kill_and_stall_are_seen_in_time() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let mut db = MariaDb::start(&netns, 1)?;
    let check = mysql_check(db_addr(), LB, MysqlLevel::Ping);
    let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
    ensure!(bench.health(LIMIT)?.health == Health::Up);

    // SIGSTOP for a quarter of a second is no death. A stall that a busy machine has stretched
    // proves nothing and is repeated; so is one at which it did not run the checker, which looks like
    // a death but is not one each time.
    let (mut judged, mut deaths) = (false, 0);
    for _ in 0..10 {
        let began = clock::now();
        db.signal(Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_millis(250)); // the length of the stall is the test's input
        db.signal(Signal::SIGCONT)?;
        let stalled = clock::now() - began;
        let mut heard = Vec::new();
        while let Some(change) = bench.health_within(Duration::from_millis(700))? {
            heard.push(change);
        }
        if stalled <= Duration::from_millis(350) {
            let died = heard.iter().find(|change| change.health == Health::Down);
            judged = died.is_none();
            if judged {
                break;
            }
            deaths += 1;
            ensure!(deaths < 3, "a stall of {stalled:?}: {died:?}");
        }
        if heard.last().is_some_and(|change| change.health != Health::Up) {
            bench.wait_health(Health::Up, LIMIT)?;
        }
    }
    ensure!(judged, "this machine cannot stop a process for a quarter of a second");

    // SIGSTOP: nobody closes anything, only the silence tells.
    let began = clock::now();
    db.signal(Signal::SIGSTOP)?;
    let down = bench.wait_health(Health::Down, LIMIT)?;
    let took = down.at - began;
    eprintln!("SIGSTOP seen after {} ms: {}", took.as_millis(), down.reason);
    ensure!(took <= Duration::from_millis(1500), "SIGSTOP seen after {took:?}");
    db.signal(Signal::SIGCONT)?;
    bench.wait_health(Health::Up, LIMIT)?;

    // kill -9: the kernel closes the sockets once the memory is gone.
    let began = clock::now();
    db.signal(Signal::SIGKILL)?;
    let down = bench.wait_health(Health::Down, LIMIT)?;
    let took = down.at - began;
    eprintln!("kill -9 seen after {} ms: {}", took.as_millis(), down.reason);
    ensure!(took <= Duration::from_millis(1000), "kill -9 seen after {took:?}");
    db.kill();
    db.run()?;
    bench.wait_health(Health::Up, LIMIT)?;

    // Clean stop: measured from the moment that the port closes.
    let pid_closed = std::thread::spawn({
        let netns = netns.clone();
        move || {
            netns.enter(|| {
                while TcpStream::connect_timeout(&db_addr(), LIMIT).is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                clock::now()
            })
        }
    });
    db.signal(Signal::SIGTERM)?;
    let down = bench.wait_health(Health::Down, LIMIT)?;
    let closed = pid_closed.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
    let took = down.at - closed;
    eprintln!("clean stop seen {} ms after the port closed: {}", took.as_millis(), down.reason);
    ensure!(took <= Duration::from_millis(1000), "clean stop seen after {took:?}");
    db.wait_end()?;
    bench.stop()
}

#[test]
fn full_is_not_down_and_credentials_hold() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let db = MariaDb::start_with(&netns, 1, &["--max-connections=10"])?;
    let mut check = mysql_check(db_addr(), LB, MysqlLevel::Ping);
    check.1.login_interval = Duration::from_millis(300);
    // A machine that does not run the server for a moment is no part of this.
    check.1.ping_timeout = LIMIT;
    let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
    bench.wait_health(Health::Up, LIMIT)?;

    // Sessions until the server takes no more.
    let app =
        Credentials { user: mariadb::APP_USER.into(), password: mariadb::APP_PASSWORD.into() };
    let held = netns.enter(|| -> Result<_> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut sessions = Vec::new();
        let places = Places::default();
        loop {
            match runtime.block_on(mysql::login(&target(Question::Nothing), &app, &places)) {
                Ok((session, _)) => sessions.push(session),
                Err(Failure::Server { code: 1040, .. }) => break,
                Err(other) => bail!("{other}"),
            }
        }
        Ok((runtime, sessions))
    })??;
    let full = bench.wait_health(Health::Full, LIMIT)?;
    ensure!(full.reason.contains("1040"), "{}", full.reason);
    ensure!(bench.health_within(Duration::from_secs(2))?.is_none(), "FULL stays FULL");
    let (runtime, sessions) = held;
    runtime.block_on(async {
        for session in sessions {
            session.quit().await;
        }
    });
    bench.wait_health(Health::Up, LIMIT)?;

    // The password is changed under the check: an UP server stays UP.
    db.sql(&format!("ALTER USER '{CHECK_USER}'@'%' IDENTIFIED BY 'changed'"))?;
    let changed = bench.health_within(Duration::from_secs(3))?;
    ensure!(changed.is_none(), "on_auth_error hold: {changed:?}");
    bench.stop()?;

    // At start-up there is nothing to hold, and `down` means down.
    for policy in [OnCondition::Hold, OnCondition::Down] {
        let mut check = mysql_check(db_addr(), LB, MysqlLevel::Login);
        check.1.on_auth_error = policy;
        let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
        let down = bench.health(LIMIT)?;
        ensure!(down.health == Health::Down && down.reason.contains("1045"), "{down:?}");
        ensure!(down.reason.contains(CHECK_USER), "{}", down.reason);
        bench.stop()?;
    }
    Ok(())
}

#[test]
fn role_query_greeting_and_a_session_that_says_goodbye() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let db = MariaDb::start(&netns, 1)?;
    let aborted = counter(&db, "Aborted_clients")?;

    let mut check = mysql_check(db_addr(), LB, MysqlLevel::Role);
    check.1.role = MysqlRole::Writer;
    let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
    bench.wait_health(Health::Up, LIMIT)?;
    db.sql("SET GLOBAL read_only = 1")?;
    let began = clock::now();
    let down = bench.wait_health(Health::Down, LIMIT)?;
    ensure!(down.reason.contains("read_only = 1, expected 0"), "{}", down.reason);
    ensure!(down.at - began <= Duration::from_millis(2000), "{:?}", down.at - began);
    db.sql("SET GLOBAL read_only = 0")?;
    bench.wait_health(Health::Up, LIMIT)?;
    bench.stop()?;

    let mut check = mysql_check(db_addr(), LB, MysqlLevel::Query);
    check.1.query = Some("SELECT COUNT(*) FROM mysql.no_such_table".into());
    let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
    let down = bench.health(LIMIT)?;
    ensure!(down.health == Health::Down && down.reason.contains("ERROR 1"), "{down:?}");
    bench.stop()?;

    let mut check = mysql_check(db_addr(), LB, MysqlLevel::Greeting);
    check.1.user = None;
    check.1.password = None;
    let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
    ensure!(bench.health(LIMIT)?.health == Health::Up, "greeting level");
    bench.stop()?;

    ensure!(clients_settled(&db, aborted)?, "a kept session ended without COM_QUIT");
    Ok(())
}

#[test]
fn reload_keeps_what_is_untouched_and_shares_probes() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let db = MariaDb::start(&netns, 1)?;
    let mut mysql = mysql_check(db_addr(), LB, MysqlLevel::Ping);
    // No fresh login takes the kept session's place meanwhile, and no pause of this machine is a miss.
    mysql.1.login_interval = Duration::from_secs(600);
    mysql.1.ping_timeout = LIMIT;
    let mut conf = config(db_addr(), vec![mysql.clone()]);
    let mut second = conf.virtual_servers[0].clone();
    second.key = "192.0.2.201:3306".parse().map_err(anyhow::Error::msg)?;
    conf.virtual_servers.push(second);
    let mut bench = Bench::start(&netns, conf.clone())?;
    bench.wait_health(Health::Up, LIMIT)?;
    bench.wait_health(Health::Up, LIMIT)?;
    let id: u64 = session_id(&db)?;
    let probes = bench.probes()?;
    ensure!(probes.len() == 2 && probes[0] >= 1, "{probes:?}");
    ensure!(probes[0].abs_diff(probes[1]) <= 1, "one probe for both: {probes:?}");

    bench.reload(conf.clone())?;
    ensure!(bench.health_within(Duration::from_millis(500))?.is_none(), "an unchanged file");
    ensure!(session_id(&db)? == id, "the kept session went on");

    // A weight is told, and no more: the session, the probe and its count go on.
    conf.virtual_servers[0].real_servers[0].weight = 7;
    bench.reload(conf.clone())?;
    let told = bench.wait_health(Health::Up, LIMIT)?;
    ensure!(told.weight == 7 && session_id(&db)? == id, "{told:?}");
    ensure!(bench.probes()?.iter().zip(&probes).all(|(now, then)| now >= then));

    // A second checker that fails takes the server down in the one virtual server that has it.
    let nobody: SocketAddr = (DB, 1).into();
    conf.virtual_servers[1].real_servers[0].checkers.push(tcp_check(nobody, LB));
    bench.reload(conf)?;
    let down = bench.wait_health(Health::Down, LIMIT)?;
    ensure!(down.virtual_server.addr.ip().to_string() == "192.0.2.201");
    let reason = &down.reason;
    ensure!(reason.contains("TCP_CHECK") && reason.contains("refused"), "{reason}");
    ensure!(session_id(&db)? == id, "the kept session went on");
    bench.stop()
}

/// Connection id of the checker's kept session.
fn session_id(db: &MariaDb) -> Result<u64> {
    let rows = db.sql(&format!(
        "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{CHECK_USER}'"
    ))?;
    rows.trim().parse().with_context(|| format!("one session of the checker expected: {rows:?}"))
}

/// `role any` in the file, nothing else about a level: the role is asked for, and either will do.
#[test]
fn role_any_asks_and_takes_either() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let db = MariaDb::start(&netns, 1)?;
    let dir = mariadb::workspace("role")?;
    let file = dir.path().join("lbd.conf");
    std::fs::write(
        &file,
        format!(
            "virtual_server 192.0.2.200 3306 {{\n delay_loop 1\n lb_kind DR\n protocol TCP\n \
             real_server {DB} 3306 {{\n  MYSQL_CHECK {{\n   user {CHECK_USER}\n   \
             password {CHECK_PASSWORD}\n   role any\n   role_interval 0.05\n   \
             ping_timeout 10\n   bindto {LB}\n  }}\n }}\n}}\n"
        ),
    )?;
    let mut bench = Bench::start(&netns, load(&file)?)?;
    bench.wait_health(Health::Up, LIMIT)?;
    for read_only in [1, 0, 1] {
        db.sql(&format!("SET GLOBAL read_only = {read_only}"))?;
        let before = counter(&db, "Com_select")?;
        wait_for("questions for the role", LIMIT, || {
            Ok((counter(&db, "Com_select")? >= before + 5).then_some(()))
        })?;
        let heard = bench.health_within(Duration::ZERO)?;
        ensure!(heard.is_none(), "read_only = {read_only}: {heard:?}");
    }
    let said = bench.checkers()?.remove(0);
    ensure!(said.failures == 0 && said.detail.starts_with("read_only = "), "{said:?}");
    bench.stop()
}

/// `role read_only` in the file: a server that turns into a writer is DOWN, one that turns back UP, each
/// within a few questions; and it counts as DOWN from the start where it is a writer then.
#[test]
fn role_read_only_follows_the_server_both_ways() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let db = MariaDb::start(&netns, 1)?;
    let aborted = counter(&db, "Aborted_clients")?;
    let dir = mariadb::workspace("replica")?;
    let file = dir.path().join("lbd.conf");
    std::fs::write(
        &file,
        format!(
            "virtual_server 192.0.2.200 3306 {{\n delay_loop 1\n lb_kind DR\n protocol TCP\n \
             real_server {DB} 3306 {{\n  MYSQL_CHECK {{\n   user {CHECK_USER}\n   \
             password {CHECK_PASSWORD}\n   role read_only\n   role_interval 0.1\n   \
             bindto {LB}\n  }}\n }}\n}}\n"
        ),
    )?;
    let mut bench = Bench::start(&netns, load(&file)?)?;
    let writer = "read_only = 0, expected 1";
    let first = bench.health(LIMIT)?;
    ensure!(first.health == Health::Down && first.reason.contains(writer), "{first:?}");
    for _ in 0..2 {
        for (read_only, wanted) in [(1, Health::Up), (0, Health::Down)] {
            db.sql(&format!("SET GLOBAL read_only = {read_only}"))?;
            let began = clock::now();
            let told = bench.wait_health(wanted, LIMIT)?;
            ensure!(told.at - began <= Duration::from_secs(3), "{:?}", told.at - began);
            ensure!(wanted == Health::Up || told.reason.contains(writer), "{told:?}");
        }
    }
    let said = bench.checkers()?.remove(0);
    ensure!(said.health == Health::Down && said.detail.contains(writer), "{said:?}");
    bench.stop()?;
    ensure!(clients_settled(&db, aborted)?, "a flip ended a session without COM_QUIT");
    Ok(())
}

/// A file that names the password's file, read as the watchdog reads it at start and reload.
fn load(path: &std::path::Path) -> Result<Config> {
    let outcome = config_file::load(path).outcome;
    let findings = outcome.render();
    outcome.config.with_context(|| findings)
}

#[test]
fn password_file_is_read_at_each_reload() -> Result<()> {
    let Some(netns) = namespace(SUITE)? else { return Ok(()) };
    let db = MariaDb::start(&netns, 1)?;
    let dir = mariadb::workspace("secret")?;
    let secret = dir.path().join("password");
    std::fs::write(&secret, format!("{CHECK_PASSWORD}\n"))?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let file = dir.path().join("lbd.conf");
    std::fs::write(
        &file,
        format!(
            "virtual_server 192.0.2.200 3306 {{\n delay_loop 1\n lb_kind DR\n protocol TCP\n \
             real_server {} 3306 {{\n  MYSQL_CHECK {{\n   user {CHECK_USER}\n   \
             password_file {}\n   level login\n   login_interval 0.2\n   \
             on_auth_error down\n   bindto {LB}\n  }}\n }}\n}}\n",
            db_addr().ip(),
            secret.display()
        ),
    )?;
    let mut bench = Bench::start(&netns, load(&file)?)?;
    bench.wait_health(Health::Up, LIMIT)?;
    db.sql(&format!("ALTER USER '{CHECK_USER}'@'%' IDENTIFIED BY 'second'"))?;
    bench.wait_health(Health::Down, LIMIT)?;
    std::fs::write(&secret, "second\n")?;
    ensure!(
        bench.health_within(Duration::from_secs(1))?.is_none(),
        "the checker reads no password_file itself"
    );
    bench.reload(load(&file)?)?;
    bench.wait_health(Health::Up, LIMIT)?;
    bench.stop()
}
