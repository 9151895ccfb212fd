//! The role as its watchdog sees it, with probes on loopback.

use std::{net::Ipv4Addr, time::Duration};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::{
    base::{
        net::Protocol,
        status::Health,
        table::{Method, Scheduler},
    },
    config::model::{
        Checker as CheckerConfig, CheckerCommon, MiscCheck, OnDown, RealServer, VirtualServer,
    },
    process::ipc::{EngineChoice, QUEUE_LIMIT, Runtime, ScriptOutcome},
};

const LIMIT: Duration = Duration::from_secs(20);

fn command(name: &str) -> model::Command {
    model::Command { argv: vec![name.to_owned()], user: None }
}

fn common(target: std::net::SocketAddr) -> CheckerCommon {
    CheckerCommon {
        target,
        bindto: None,
        connect_timeout: Duration::from_secs(1),
        retry: 0,
        delay_before_retry: Duration::from_millis(20),
        delay_loop: Duration::from_millis(50),
        warmup: Duration::ZERO,
        alpha: false,
    }
}

fn key() -> VirtualServerKey {
    VirtualServerKey { protocol: Protocol::Tcp, addr: ([192, 0, 2, 200], 3306).into() }
}

fn config(addr: std::net::SocketAddr, checker: CheckerConfig) -> Arc<Config> {
    let service = VirtualServer {
        key: key(),
        scheduler: Scheduler::Wlc,
        method: Method::Dr,
        delay_loop: Duration::from_secs(1),
        quorum: 1,
        hysteresis: 0,
        quorum_up: Some(command("/quorum_up")),
        quorum_down: Some(command("/quorum_down")),
        sorry_server: None,
        alpha: false,
        omega: true,
        mail: false,
        idle_timeout: Duration::from_secs(60),
        on_down: OnDown::Reset,
        persistence: None,
        real_servers: vec![RealServer {
            addr,
            weight: 10,
            limits: Default::default(),
            inhibit_on_failure: false,
            notify_up: Some(command("/notify_up")),
            notify_down: Some(command("/notify_down")),
            mail: false,
            checkers: vec![checker],
        }],
    };
    Arc::new(Config { virtual_servers: vec![service], ..Config::default() })
}

struct Watchdog {
    down: mpsc::Sender<Down>,
    up: mpsc::Receiver<Up>,
}

impl Watchdog {
    /// Starts the role and replays `known` to it.
    async fn start(config: Arc<Config>, known: Vec<Event>) -> Self {
        let (down, rx) = mpsc::channel(QUEUE_LIMIT);
        let (tx, up) = mpsc::channel(QUEUE_LIMIT);
        let runtime = Runtime {
            instance: None,
            run_dir: "/nonexistent".into(),
            pin_dir: "/nonexistent".into(),
            config_file: "/nonexistent".into(),
            engine: EngineChoice::Auto,
            record: None,
            vrrp: false,
            checker: true,
        };
        down.send(Down::Start { runtime, generation: 3, config }).await.expect("queued");
        let events = known.into_iter().map(|event| (Role::Checker, event)).collect();
        down.send(Down::Replay { events }).await.expect("queued");
        tokio::spawn(serve(Link { rx, tx }, || Ok(())));
        Self { down, up }
    }

    async fn next(&mut self) -> Up {
        timeout(LIMIT, self.up.recv()).await.expect("in time").expect("the role runs")
    }

    /// Messages in words, up to and including the first that starts with `last`.
    async fn until(&mut self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let words = match self.next().await {
                Up::Ready { generation } => format!("ready {generation}"),
                Up::Pong { seq } => format!("pong {seq}"),
                Up::Stopped => "stopped".to_owned(),
                Up::Event(Event::Health(change)) => {
                    format!("health {:?} {}", change.health, change.weight)
                }
                Up::Event(Event::Quorum { up, .. }) => format!("quorum {up}"),
                Up::Notify(told) => match &told.scripts[..] {
                    [script] => format!("script {}", script.command.argv[0]),
                    other => format!("{other:?}"),
                },
                Up::Script(run) => {
                    assert_eq!(run.reply, run.queue.is_none(), "{run:?}");
                    format!("script {} {}", run.command.argv[0], run.id)
                }
                other => format!("{other:?}"),
            };
            seen.push(words);
            if seen.last().is_some_and(|words| words.starts_with(last)) {
                return seen;
            }
        }
    }

    /// Probes of the one checker so far.
    async fn probes(&mut self) -> (u64, Vec<String>) {
        self.down.send(Down::Query { id: 1, query: Query::Status }).await.expect("queued");
        let mut seen = Vec::new();
        loop {
            match self.next().await {
                Up::Reply { id: 1, reply: Reply::Checker { servers, .. } } => {
                    return (servers[0].checkers[0].probes, seen);
                }
                other => seen.push(format!("{other:?}")),
            }
        }
    }
}

#[tokio::test]
async fn a_restarted_checker_starts_from_what_was_known() {
    // Bound, so that no test beside this one gets the port, and nobody listens yet.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bind");
    let addr = socket.local_addr().expect("name").as_socket().expect("inet");
    let known = vec![
        Event::Health(HealthChange {
            virtual_server: key(),
            real_server: addr,
            health: Health::Down,
            weight: 10,
            reason: "before".into(),
            at: crate::base::time::Instant::ZERO,
        }),
        Event::Quorum { virtual_server: key(), up: false },
    ];
    let config = config(addr, CheckerConfig::Tcp(common(addr)));
    let mut watchdog = Watchdog::start(config, known).await;
    assert_eq!(watchdog.until("ready").await, ["ready 3"]);
    // It is down still, which is no news: no event, no script, however often it is probed.
    let mut probes = 0;
    while probes < 3 {
        let (count, seen) = watchdog.probes().await;
        assert!(seen.is_empty(), "{seen:?}");
        probes = count;
    }
    // It comes up: that is news.
    socket.listen(128).expect("listens");
    let seen = watchdog.until("script /quorum_up").await;
    assert_eq!(seen, ["health Up 10", "script /notify_up", "quorum true", "script /quorum_up"]);
    watchdog.down.send(Down::Ping { seq: 9 }).await.expect("queued");
    assert_eq!(watchdog.until("pong").await, ["pong 9"]);
    // `omega`: the orderly end is a going down.
    watchdog.down.send(Down::Stop).await.expect("queued");
    assert_eq!(
        watchdog.until("stopped").await,
        ["script /notify_down", "script /quorum_down", "stopped"]
    );
}

/// As Galera's clustercheck: 200 while the node is synced, else 503.
#[tokio::test]
async fn a_page_takes_its_server_down_and_up() {
    let text = |port: u16| {
        format!(
            "virtual_server 192.0.2.200 3306 {{\n lb_algo wlc\n lb_kind DR\n protocol TCP\n delay_loop 0.05\n \
             real_server 192.0.2.21 3306 {{\n HTTP_GET {{\n url {{ path /check }}\n connect_ip 127.0.0.1\n \
             connect_port {port}\n retry 0\n warmup 0\n }}\n }}\n}}\n"
        )
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let port = listener.local_addr().expect("name").port();
    let (code, mut now) = tokio::sync::watch::channel(200);
    let served = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut asked = vec![0; 1024];
            let read = stream.read(&mut asked).await.expect("a request");
            assert!(asked[..read].starts_with(b"GET /check HTTP/1.0\r\n"), "{asked:?}");
            let code = *now.borrow_and_update();
            let answer = format!("HTTP/1.1 {code} x\r\nContent-Length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    });
    let config = crate::config::load("t", &text(port)).config.expect("a good configuration");
    let mut watchdog = Watchdog::start(Arc::new(config), Vec::new()).await;
    watchdog.until("ready").await;
    watchdog.until("health Up").await;
    code.send_replace(503);
    watchdog.until("health Down").await;
    code.send_replace(204);
    watchdog.until("health Up").await;
    served.abort();
    // Nobody listens any more.
    watchdog.until("health Down").await;
}

#[tokio::test]
async fn misc_check_through_the_watchdog() {
    let addr = (Ipv4Addr::LOCALHOST, 9).into();
    let misc =
        MiscCheck { command: command("/check"), timeout: Duration::from_secs(1), dynamic: true };
    let config = config(addr, CheckerConfig::Misc(common(addr), Box::new(misc)));
    let mut watchdog = Watchdog::start(config, Vec::new()).await;
    watchdog.until("ready").await;
    for (exit, expected) in [(5, "health Up 3"), (1, "health Down 10"), (0, "health Up 10")] {
        let seen = watchdog.until("script /check").await;
        let id = seen.last().and_then(|words| words.rsplit(' ').next()?.parse().ok());
        let done = ScriptDone {
            id: id.expect("an id"),
            outcome: ScriptOutcome::Exit(exit),
            elapsed: Duration::from_millis(1),
        };
        watchdog.down.send(Down::ScriptDone(done)).await.expect("queued");
        let seen = watchdog.until("health").await;
        assert_eq!(seen.last().map(String::as_str), Some(expected), "exit {exit}");
    }
}

/// The configuration with the same pool behind six VIPs.
fn six(addr: std::net::SocketAddr) -> Config {
    let one = config(addr, CheckerConfig::Tcp(common(addr)));
    let services = (200..206_u8).map(|last| VirtualServer {
        key: VirtualServerKey { protocol: Protocol::Tcp, addr: ([192, 0, 2, last], 3306).into() },
        ..one.virtual_servers[0].clone()
    });
    Config { virtual_servers: services.collect(), ..Config::default() }
}

#[tokio::test]
async fn a_probe_of_six_virtual_servers_survives_their_restored_health() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let addr = listener.local_addr().expect("name");
    let config = six(addr);
    let known = config
        .virtual_servers
        .iter()
        .map(|service| {
            Event::Health(HealthChange {
                virtual_server: service.key,
                real_server: addr,
                health: Health::Up,
                weight: 10,
                reason: "before".into(),
                at: crate::base::time::Instant::ZERO,
            })
        })
        .collect();
    let mut watchdog = Watchdog::start(Arc::new(config), known).await;
    watchdog.until("ready").await;
    drop(listener);
    for _ in 0..6 {
        watchdog.until("health Down").await;
    }
}

#[tokio::test]
async fn a_probe_with_full_hands_lives_on() {
    let addr = (Ipv4Addr::LOCALHOST, 9).into();
    let (reports, _inbox) = mpsc::channel(1);
    let checker = CheckerConfig::Tcp(common(addr));
    let handle = probe::start(1, &checker, reports, clock::now());
    for _ in 0..100 {
        handle.command(Command::Known(Health::Up)); // no yield: it cannot take any meanwhile
    }
    tokio::task::yield_now().await;
    assert!(!handle.is_over());
    handle.command(Command::Stop);
    handle.ended().await;
}

#[tokio::test]
async fn a_probe_that_ends_by_itself_is_started_again_and_counted() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let addr = listener.local_addr().expect("name");
    let (tx, mut up) = mpsc::channel(QUEUE_LIMIT);
    let (reports, mut inbox) = mpsc::channel(REPORT_LIMIT);
    let mut checker = Checker::new(tx, reports, Recorder::open(None, Role::Checker).expect("off"));
    let config = config(addr, CheckerConfig::Tcp(common(addr)));
    checker.configure(config).await.expect("in force");
    let verdict = async |checker: &mut Checker, inbox: &mut mpsc::Receiver<Report>| {
        loop {
            let report = timeout(LIMIT, inbox.recv()).await.expect("in time").expect("open");
            let is_verdict = matches!(report.what, What::Verdict(_));
            checker.report(report).await.expect("taken");
            if is_verdict {
                return;
            }
        }
    };
    verdict(&mut checker, &mut inbox).await;
    let handle = &checker.probes.values().next().expect("a probe").handle;
    handle.abort();
    timeout(LIMIT, async {
        while !handle.is_over() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("aborted");
    while let Ok(report) = inbox.try_recv() {
        checker.report(report).await.expect("taken"); // what it had said before
    }
    checker.patrol();
    checker.patrol();
    // The server dies: the probe that took over finds out.
    drop(listener);
    verdict(&mut checker, &mut inbox).await;
    let Reply::Checker { servers, .. } = checker.status() else { panic!("a checker's status") };
    assert_eq!((servers[0].health, servers[0].checkers[0].restarts), (Health::Down, 1));
    let mut said = Vec::new();
    while let Ok(message) = up.try_recv() {
        if let Up::Event(Event::Health(change)) = message {
            said.push(change.health);
        }
    }
    assert_eq!(said, [Health::Up, Health::Down]);
}
