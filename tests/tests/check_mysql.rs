//! Checkers against real MariaDB servers: what they see, how fast, and that the server does not
//! hold the checks against anybody.

mod check {
    pub mod bench;
}

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use check::bench::{Bench, config, mysql_check, tcp_check};
use lb_tests::{
    mariadb::{self, CHECK_PASSWORD, CHECK_USER, MariaDb},
    netns::{Namespace, ready_or_skip},
    wait::wait_for,
};
use lb_userspace::{
    base::status::Health,
    config::model::{Config, MysqlLevel, MysqlRole, OnCondition},
    io::probes::{
        mysql::{self, Answer, Credentials, Failure, Question, Tls},
        tcp,
    },
    process::{clock, config_file},
};
use nix::sys::signal::Signal;

/// Server and load balancer share a namespace; the balancer's address is not loopback, because a
/// server never blocks that.
const DB: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const LB: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const LIMIT: Duration = Duration::from_secs(10);

fn db_addr() -> SocketAddr {
    (DB, mariadb::PORT).into()
}

/// One server at a time: two cores, and timing is what is tested.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A namespace that no other test of this file runs beside.
struct Alone {
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
fn namespace() -> Result<Option<Alone>> {
    let place = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !ready_or_skip("check_mysql")? {
        return Ok(None);
    }
    let netns = Namespace::new("db1")?;
    for addr in [DB, LB] {
        netns.ip(&["addr", "add", &format!("{addr}/32"), "dev", "lo"])?;
    }
    Ok(Some(Alone { netns, _place: place }))
}

fn target(question: Question) -> mysql::Target {
    mysql::Target {
        addr: db_addr(),
        bindto: Some(LB.into()),
        timeout: Duration::from_secs(3),
        tls: Tls::Off,
        tls_ca: None,
        question,
    }
}

fn checker() -> Credentials {
    Credentials { user: CHECK_USER.into(), password: CHECK_PASSWORD.into() }
}

/// Runs a future inside the namespace.
fn inside<T: Send>(netns: &Namespace, work: impl Future<Output = T> + Send) -> Result<T> {
    netns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(work))
    })?
}

/// Login and farewell, once.
async fn log_in(target: &mysql::Target, who: &Credentials) -> Result<Answer, Failure> {
    let (session, answer) = mysql::login(target, who).await?;
    session.quit().await;
    Ok(answer)
}

/// A status counter of the server.
fn counter(db: &MariaDb, name: &str) -> Result<u64> {
    let row = db.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
    row.split_whitespace().nth(1).context("no such counter")?.parse().context("not a number")
}

#[test]
fn tcp_check_and_mysql_check_never_block_this_host() -> Result<()> {
    let Some(netns) = namespace()? else { return Ok(()) };
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
    let errors =
        db.sql("SELECT COALESCE(SUM(SUM_CONNECT_ERRORS), 0) FROM performance_schema.host_cache")?;
    ensure!(errors.trim() == "0", "connect errors counted: {errors}");

    // The server would have blocked a check that connects and closes: it does, after eleven.
    netns.enter(|| -> Result<()> {
        for _ in 0..30 {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(IpAddr::V4(LB), 0).into())?;
            socket.connect(&db_addr().into())?;
            drop(TcpStream::from(socket));
        }
        Ok(())
    })??;
    let blocked = wait_for("the server to block a host that connects and closes", LIMIT, || {
        match inside(&netns, log_in(&target(Question::Nothing), &checker()))? {
            Err(failure @ Failure::Server { code: 1129, .. }) => Ok(Some(failure)),
            _ => Ok(None),
        }
    })?;
    ensure!(blocked.to_string().contains("blocked"), "{blocked}");
    ensure!(resolver.asked() > 0, "the server did not resolve names");
    Ok(())
}

/// A name server that knows no name. A MySQL server counts connect errors of hosts only once
/// resolving their names has worked or failed for good.
struct Resolver(Arc<AtomicU32>);

impl Resolver {
    /// Answers at the first name server of /etc/resolv.conf, inside the namespace.
    fn start(netns: &Namespace) -> Result<Self> {
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

    fn asked(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The server counts an aborted client a moment after the connection; give it that moment.
fn clients_settled(db: &MariaDb, before: u64) -> Result<bool> {
    wait_for("all sessions to end", LIMIT, || {
        Ok((counter(db, "Threads_connected")? <= 1).then_some(()))
    })?;
    Ok(counter(db, "Aborted_clients")? == before)
}

#[test]
fn credentials_tls_and_plugins() -> Result<()> {
    let Some(netns) = namespace()? else { return Ok(()) };
    let dir = mariadb::workspace("tls")?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    for args in [
        vec![
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=lab CA",
            "-keyout",
            "CAKEY",
            "-out",
            "CA",
        ],
        vec![
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=db1", "-keyout", "KEY", "-out",
            "REQ",
        ],
        vec![
            "x509",
            "-req",
            "-in",
            "REQ",
            "-CA",
            "CA",
            "-CAkey",
            "CAKEY",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "EXT",
            "-out",
            "CERT",
        ],
    ] {
        std::fs::write(at("EXT"), "basicConstraints=CA:FALSE\nsubjectAltName=IP:10.99.0.1\n")?;
        let args: Vec<String> = args
            .iter()
            .map(|word| {
                let file = !word.starts_with(['-', '/']) && word.chars().all(char::is_uppercase);
                if file { at(word) } else { (*word).to_owned() }
            })
            .collect();
        let done = std::process::Command::new("openssl").args(&args).output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let options = [
        format!("--ssl-ca={}", at("CA")),
        format!("--ssl-cert={}", at("CERT")),
        format!("--ssl-key={}", at("KEY")),
        "--plugin-load-add=auth_ed25519".to_owned(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let db = MariaDb::start_with(&netns, 1, &options)?;
    db.sql(
        "CREATE USER tlsuser@'%' IDENTIFIED BY 'tls-secret' REQUIRE SSL;\
         CREATE USER eduser@'%' IDENTIFIED VIA ed25519 USING PASSWORD('ed-secret');\
         CREATE USER native@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('n-secret');\
         CREATE USER nopass@'%';",
    )?;
    let who = |user: &str, password: &str| Credentials {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    let with = |tls: Tls| mysql::Target { tls, ..target(Question::Query("SELECT 1".into())) };
    let one = || Ok(Answer::Value(Some("1".to_owned())));
    inside(&netns, async {
        for (user, password) in [("native", "n-secret"), ("eduser", "ed-secret"), ("nopass", "")] {
            for tls in [Tls::Off, Tls::Prefer, Tls::Require] {
                let got = log_in(&with(tls), &who(user, password)).await;
                ensure!(got == one(), "{user} {tls:?}: {got:?}");
            }
        }
        let tls_user = who("tlsuser", "tls-secret");
        ensure!(log_in(&with(Tls::Prefer), &tls_user).await == one(), "prefer takes TLS");
        ensure!(log_in(&with(Tls::Require), &tls_user).await == one());
        let plain = log_in(&with(Tls::Off), &tls_user).await;
        ensure!(matches!(plain, Err(Failure::Server { code: 1045, tls: false, .. })), "{plain:?}");

        // The chain is verified when a CA is given: the right one and a wrong one.
        let ca = |name: &str| mysql::Target { tls_ca: Some(at(name).into()), ..with(Tls::Require) };
        let got = log_in(&ca("CA"), &tls_user).await;
        ensure!(got == one(), "{got:?}");
        let got = log_in(&ca("CERT"), &tls_user).await;
        ensure!(matches!(got, Err(Failure::Credentials(_))), "a wrong CA: {got:?}");

        let wrong = log_in(&with(Tls::Prefer), &who("native", "wrong")).await;
        ensure!(matches!(wrong, Err(Failure::Server { code: 1045, tls: true, .. })), "{wrong:?}");
        Ok(())
    })??;
    Ok(())
}

#[test]
fn tls_required_of_a_server_without_it_sends_no_password_and_counts_no_error() -> Result<()> {
    let Some(netns) = namespace()? else { return Ok(()) };
    let options = ["--max-connect-errors=5", "--skip-name-resolve=0", "--skip-ssl"];
    let resolver = Resolver::start(&netns)?;
    let db = MariaDb::start_with(&netns, 1, &options)?;
    let require = mysql::Target { tls: Tls::Require, ..target(Question::Nothing) };
    inside(&netns, async {
        for _ in 0..20 {
            let got = log_in(&require, &checker()).await;
            ensure!(
                matches!(&got, Err(Failure::Credentials(text)) if text.contains("TLS")),
                "{got:?}"
            );
        }
        log_in(&target(Question::Nothing), &checker()).await.context("not blocked")?;
        Ok(())
    })??;
    // A server that resolves no names counts nothing.
    ensure!(resolver.asked() > 0, "the server did not resolve names");
    ensure!(db.sql("SELECT 1")?.trim() == "1");
    Ok(())
}

/// What the checker reckons is tested without a clock (`check::mysql`); these bounds leave as much
/// again to a machine that does not run it in time.
#[test]
fn stop_kill_and_stall_are_seen_in_time() -> Result<()> {
    let Some(netns) = namespace()? else { return Ok(()) };
    let mut db = MariaDb::start(&netns, 1)?;
    let check = mysql_check(db_addr(), LB, MysqlLevel::Ping);
    let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
    ensure!(bench.health(LIMIT)?.health == Health::Up);

    // SIGSTOP for a quarter of a second is no death. A stall that a busy machine has stretched
    // proves nothing and is repeated.
    let mut judged = false;
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
            ensure!(died.is_none(), "a stall of {stalled:?}: {died:?}");
            judged = true;
            break;
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
    let Some(netns) = namespace()? else { return Ok(()) };
    let db = MariaDb::start_with(&netns, 1, &["--max-connections=10"])?;
    let mut check = mysql_check(db_addr(), LB, MysqlLevel::Ping);
    check.1.login_interval = Duration::from_millis(300);
    let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
    bench.wait_health(Health::Up, LIMIT)?;

    // Sessions until the server takes no more.
    let app =
        Credentials { user: mariadb::APP_USER.into(), password: mariadb::APP_PASSWORD.into() };
    let held = netns.enter(|| -> Result<_> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut sessions = Vec::new();
        loop {
            match runtime.block_on(mysql::login(&target(Question::Nothing), &app)) {
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
    let Some(netns) = namespace()? else { return Ok(()) };
    let db = MariaDb::start(&netns, 1)?;
    let aborted = counter(&db, "Aborted_clients")?;

    let mut check = mysql_check(db_addr(), LB, MysqlLevel::Role);
    check.1.role = MysqlRole::Writer;
    let mut bench = Bench::start(&netns, config(db_addr(), vec![check]))?;
    bench.wait_health(Health::Up, LIMIT)?;
    let began = clock::now();
    db.sql("SET GLOBAL read_only = 1")?;
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
    let Some(netns) = namespace()? else { return Ok(()) };
    let db = MariaDb::start(&netns, 1)?;
    let mysql = mysql_check(db_addr(), LB, MysqlLevel::Ping);
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

    // A second checker that fails takes the server down in the one virtual server that has it.
    let nobody: SocketAddr = (DB, 1).into();
    conf.virtual_servers[1].real_servers[0].checkers.push(tcp_check(nobody, LB));
    bench.reload(conf)?;
    let down = bench.wait_health(Health::Down, LIMIT)?;
    ensure!(down.virtual_server.addr.ip().to_string() == "192.0.2.201");
    ensure!(
        down.reason.contains("TCP_CHECK") && down.reason.contains("refused"),
        "{}",
        down.reason
    );
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

/// A file that names the password's file, read as the watchdog reads it at start and reload.
fn load(path: &std::path::Path) -> Result<Config> {
    let outcome = config_file::load(path).outcome;
    let findings = outcome.render();
    outcome.config.with_context(|| findings)
}

#[test]
fn password_file_is_read_at_each_reload() -> Result<()> {
    let Some(netns) = namespace()? else { return Ok(()) };
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
