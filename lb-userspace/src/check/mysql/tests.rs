//! The state machine in virtual time, against a server that behaves as a test says.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    base::{core::Core, time::Instant},
    check::{Fraction, mysql::verdict::WantedRole},
};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// How the simulated server behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Server {
    /// Answers everything after a millisecond.
    Alive,
    /// As `Alive`, with `read_only` set.
    ReadOnly,
    /// SIGSTOP: accepts (the kernel does), answers nothing.
    Stopped,
    /// Nobody listens.
    Gone,
    /// Logins get this, sessions go on.
    LoginFails(Trouble),
    /// The question gets this.
    AskFails(Trouble),
}

struct Sim {
    check: MysqlCheck,
    server: Server,
    now: Instant,
    /// What the server owes: due time (`None`: when it lives again) and which exchange.
    login: Option<Option<Instant>>,
    exchange: Option<(Option<Instant>, bool)>,
    connect_timeout: Duration,
    login_began: Instant,
    logins: Vec<u64>,
    manner: Manner,
    /// Logins as configured.
    full: u32,
    pings: u32,
    verdicts: Vec<(u64, Health, String)>,
}

fn spec() -> Spec {
    Spec {
        keep_session: true,
        ping_interval: MS(100),
        ping_timeout: MS(100),
        login_interval: MS(10_000),
        ask_interval: None,
        thresholds: Thresholds { suspect: 2, fall: 4, rise: 2 },
        on_auth_error: Policy::Hold,
        on_full: Policy::Hold,
        expectation: Expectation::Nothing,
    }
}

impl Sim {
    fn new(spec: Spec, server: Server) -> Self {
        Self {
            check: MysqlCheck::new(spec, Health::Up, Fraction(0), Instant::ZERO),
            server,
            now: Instant::ZERO,
            login: None,
            exchange: None,
            connect_timeout: MS(5000),
            login_began: Instant::ZERO,
            logins: Vec::new(),
            manner: Manner::Full,
            full: 0,
            pings: 0,
            verdicts: Vec::new(),
        }
    }

    fn ms(&self) -> u64 {
        self.now.as_nanos() / 1_000_000
    }

    fn drain(&mut self) {
        while let Some(effect) = self.check.poll_effect() {
            match effect {
                Effect::Login(manner) => {
                    assert!(self.login.is_none(), "one login at a time");
                    self.logins.push(self.ms());
                    self.manner = manner;
                    self.full += u32::from(manner == Manner::Full);
                    self.login_began = self.now;
                    let due = (self.server != Server::Stopped).then(|| self.now + MS(1));
                    self.login = Some(due);
                }
                Effect::Ping | Effect::Ask => {
                    assert!(self.exchange.is_none(), "one exchange at a time");
                    assert!(self.check.has_session());
                    self.pings += 1;
                    let due = (self.server != Server::Stopped).then(|| self.now + MS(1));
                    self.exchange = Some((due, effect == Effect::Ask));
                }
                Effect::Verdict(verdict) => {
                    self.verdicts.push((self.ms(), verdict.health, verdict.reason));
                }
            }
        }
    }

    fn answer(&self, ask: bool) -> Result<Answer, Trouble> {
        match (&self.server, ask) {
            (Server::AskFails(trouble), true) => Err(trouble.clone()),
            (server, true) => Ok(Answer::ReadOnly(*server == Server::ReadOnly)),
            _ => Ok(Answer::Alive),
        }
    }

    fn login_result(&self) -> Result<Answer, Trouble> {
        match &self.server {
            Server::Gone => Err(Trouble::Refused("connection refused".into())),
            _ if self.manner == Manner::Lifesign => Ok(Answer::Alive),
            Server::LoginFails(trouble) => Err(trouble.clone()),
            _ => self.answer(self.check_asks()),
        }
    }

    fn check_asks(&self) -> bool {
        matches!(self.server, Server::ReadOnly | Server::AskFails(_))
    }

    /// One millisecond.
    fn step(&mut self) {
        self.now += MS(1);
        match self.login {
            Some(Some(due)) if due <= self.now => {
                self.login = None;
                let result = self.login_result();
                if result.is_ok() {
                    self.exchange = None; // the old session is closed
                }
                self.check.handle(Input::Login(result), self.now);
            }
            Some(None) if self.now - self.login_began >= self.connect_timeout => {
                self.login = None;
                let miss = Trouble::Missed("no greeting".into());
                self.check.handle(Input::Login(Err(miss)), self.now);
            }
            _ => {}
        }
        self.drain();
        if let Some((Some(due), ask)) = self.exchange.filter(|(due, _)| *due <= Some(self.now)) {
            assert!(due <= self.now);
            self.exchange = None;
            self.check.handle(Input::Reply(self.answer(ask)), self.now);
        }
        self.drain();
        if self.check.poll_timeout().is_some_and(|at| at <= self.now) {
            self.check.handle_timeout(self.now);
        }
        self.drain();
        assert!(
            self.check.poll_timeout().is_none_or(|at| at > self.now),
            "a timer that stays due would spin"
        );
    }

    fn run(&mut self, ms: u64) {
        self.check.handle_timeout(self.now);
        self.drain();
        for _ in 0..ms {
            self.step();
        }
    }

    /// The server changes; a crash ends the session.
    fn set(&mut self, server: Server) {
        if server == Server::Gone {
            self.lose("closed by the server");
        }
        if self.server == Server::Stopped && server != Server::Gone {
            let due = Some(self.now + MS(1));
            if let Some(login) = &mut self.login {
                *login = due;
            }
            if let Some(exchange) = &mut self.exchange {
                exchange.0 = due;
            }
        }
        self.server = server;
    }

    fn lose(&mut self, why: &str) {
        self.exchange = None;
        self.check.handle(Input::Lost(why.into()), self.now);
        self.drain();
        self.check.handle_timeout(self.now);
        self.drain();
    }

    fn healths(&self) -> Vec<(u64, Health)> {
        self.verdicts.iter().map(|(at, health, _)| (*at, *health)).collect()
    }
}

#[test]
fn first_good_login_is_up_and_pings_follow() {
    let mut sim = Sim::new(spec(), Server::Alive);
    sim.run(1000);
    assert_eq!(sim.healths(), [(1, Health::Up)]);
    assert_eq!(sim.logins, [0]);
    assert_eq!(sim.pings, 9, "one each 100 ms and a millisecond's answer");
}

#[test]
fn a_short_stall_is_suspect_at_most_and_costs_no_session() {
    let mut sim = Sim::new(spec(), Server::Alive);
    sim.run(1000);
    sim.set(Server::Stopped);
    sim.run(250);
    sim.set(Server::Alive);
    sim.run(500);
    let healths: Vec<_> = sim.healths().into_iter().map(|(_, health)| health).collect();
    assert!(matches!(healths[..], [Health::Up] | [Health::Up, Health::Suspect, Health::Up]));
}

#[test]
fn a_stopped_server_is_suspect_then_down_within_half_a_second() {
    let mut sim = Sim::new(spec(), Server::Alive);
    sim.run(1050);
    sim.set(Server::Stopped);
    sim.run(2000);
    let [(_, Health::Up), (suspect, Health::Suspect), (down, Health::Down)] = sim.healths()[..]
    else {
        panic!("{:?}", sim.verdicts);
    };
    assert!((1250..=1350).contains(&suspect), "{suspect}");
    assert!(down <= 1550, "{down}");
    assert!(sim.verdicts[2].2.contains("no answer on the kept session for 400 ms"));
    // It lives again: rise = 2 good exchanges.
    sim.set(Server::Alive);
    sim.run(300);
    let (up, health) = sim.healths()[3];
    assert_eq!(health, Health::Up);
    assert!(up - 3050 <= 210, "{up}");
}

/// A host that is short of CPU, or a virtual machine that was held.
#[test]
fn a_checker_that_was_not_run_blames_nobody_for_it() {
    let late = |sim: &mut Sim, ms: u64| {
        sim.now += MS(ms);
        sim.check.handle_timeout(sim.now);
        sim.drain();
    };
    let late_once = |spec: Spec| {
        let mut sim = Sim::new(spec, Server::Alive);
        sim.run(1000);
        while sim.exchange.is_none() {
            sim.step();
        }
        // The answer lies in the socket while timers are handled.
        late(&mut sim, 700);
        (0..50).for_each(|_| late(&mut sim, 1));
        sim.run(500);
        assert_eq!(sim.healths(), [(1, Health::Up)], "{:?}", sim.verdicts);
        sim
    };
    // Nor with a single miss.
    late_once(Spec { thresholds: Thresholds { suspect: 1, fall: 2, rise: 2 }, ..spec() });
    let mut sim = late_once(spec());
    // It is late each time, and the server is dead all the same.
    sim.set(Server::Stopped);
    (0..12).for_each(|_| late(&mut sim, 700));
    assert_eq!(sim.healths().last().map(|(_, health)| *health), Some(Health::Down));
}

#[test]
fn a_clean_stop_is_down_after_two_refusals() {
    let mut sim = Sim::new(spec(), Server::Alive);
    sim.run(1000);
    sim.set(Server::Gone);
    sim.run(50);
    let (down, health, reason) = sim.verdicts[1].clone();
    assert_eq!(health, Health::Down);
    assert!(down - 1000 <= 10, "{down}");
    assert_eq!(reason, "kept session: closed by the server; then: connection refused");
    assert_eq!(sim.logins.len(), 3, "first, and two to be sure");
    // Down: a login each second.
    sim.run(5000);
    assert!((4..=6).contains(&(sim.logins.len() - 3)), "{:?}", sim.logins);
    sim.set(Server::Alive);
    sim.run(1500);
    assert_eq!(sim.healths().last().map(|(_, health)| *health), Some(Health::Up));
}

#[test]
fn one_refusal_between_two_processes_is_not_death() {
    let mut sim = Sim::new(spec(), Server::Alive);
    sim.run(1000);
    sim.set(Server::Gone);
    sim.step(); // the first refusal
    sim.set(Server::Alive);
    sim.run(1000);
    assert_eq!(sim.healths(), [(1, Health::Up)]);
}

#[test]
fn a_lost_session_alone_changes_nothing_and_does_not_spin() {
    let mut sim = Sim::new(spec(), Server::Alive);
    sim.run(1000);
    for _ in 0..100 {
        sim.lose("killed by an administrator");
        sim.run(10);
    }
    assert_eq!(sim.healths(), [(1, Health::Up)]);
    assert!(sim.logins.len() <= 13, "no faster than pings: {:?}", sim.logins);
}

#[test]
fn full_keeps_sessions_and_is_not_down() {
    let mut sim = Sim::new(Spec { login_interval: MS(500), ..spec() }, Server::Alive);
    sim.run(400);
    sim.set(Server::LoginFails(Trouble::Full("ERROR 1040: Too many connections".into())));
    sim.run(2000);
    sim.set(Server::Alive);
    sim.run(1500);
    let healths: Vec<_> = sim.healths().into_iter().map(|(_, health)| health).collect();
    assert_eq!(healths, [Health::Up, Health::Full, Health::Up]);
    assert!(sim.verdicts[1].2.contains("1040"));

    for (policy, health) in [(Policy::Down, Health::Down), (Policy::Up, Health::Up)] {
        let full = Server::LoginFails(Trouble::Full("full".into()));
        let mut sim = Sim::new(Spec { on_full: policy, ..spec() }, full);
        sim.run(100);
        assert_eq!(sim.healths(), [(1, health)], "{policy:?}");
    }
}

#[test]
fn what_this_host_is_short_of_decides_nothing() {
    let short =
        Server::LoginFails(Trouble::NotMade("not made: connect: Too many open files".into()));
    // At the start nothing is known until a login is made, and it is tried again soon.
    let mut sim = Sim::new(spec(), short.clone());
    sim.run(5000);
    assert!(sim.healths().is_empty(), "{:?}", sim.verdicts);
    assert_eq!(sim.logins.len(), 5);
    sim.set(Server::Alive);
    sim.run(1500);
    assert_eq!(sim.healths().last().map(|(_, health)| *health), Some(Health::Up));
    // Later it is neither a miss nor a success: two misses around it are a series.
    let mut sim = Sim::new(Spec { login_interval: MS(500), ..spec() }, Server::Alive);
    sim.run(400);
    sim.set(short);
    sim.run(10_000);
    assert_eq!(sim.healths(), [(1, Health::Up)]);
    sim.set(Server::Gone);
    sim.run(1500);
    assert_eq!(sim.healths().last().map(|(_, health)| *health), Some(Health::Down));
}

#[test]
fn refused_credentials_hold() {
    let auth = Server::LoginFails(Trouble::Auth("ERROR 1045".into()));
    // At start there is nothing to hold.
    let mut sim = Sim::new(spec(), auth.clone());
    sim.run(5000);
    assert_eq!(sim.healths(), [(1, Health::Down)]);
    // Later there is.
    let mut sim = Sim::new(Spec { login_interval: MS(500), ..spec() }, Server::Alive);
    sim.run(400);
    sim.set(auth.clone());
    sim.run(5000);
    assert_eq!(sim.healths(), [(1, Health::Up)]);
    sim.set(Server::Gone);
    sim.run(1500);
    assert_eq!(sim.healths().last().map(|(_, health)| *health), Some(Health::Down));
    // `on_auth_error down`.
    let mut sim = Sim::new(
        Spec { on_auth_error: Policy::Down, login_interval: MS(500), ..spec() },
        Server::Alive,
    );
    sim.run(400);
    sim.set(auth);
    sim.run(2000);
    assert_eq!(sim.healths().last().map(|(_, health)| *health), Some(Health::Down));
}

/// Each refusal is a line in the server's log.
#[test]
fn refused_credentials_are_tried_at_the_pace_of_logins() {
    let auth = Server::LoginFails(Trouble::Auth("ERROR 1045".into()));
    // From the start, and on a server whose kept session goes on.
    let mut sim = Sim::new(spec(), auth.clone());
    sim.run(35_000);
    assert_eq!(sim.logins, [0, 1001, 11_002, 21_003, 31_004]);
    let mut sim = Sim::new(spec(), Server::Alive);
    sim.run(5000);
    sim.set(auth);
    sim.run(40_000);
    assert_eq!(sim.logins, [0, 10_001, 11_002, 21_003, 31_004, 41_005]);
    assert_eq!(sim.healths(), [(1, Health::Up)]);
    // A session that is lost meanwhile is followed up at once: it may be the server's death.
    sim.set(Server::Gone);
    sim.lose("closed");
    sim.run(500);
    assert_eq!(sim.healths().last().map(|(_, health)| *health), Some(Health::Down));
}

/// The server counts every one of them, and blocks this host after a hundred.
#[test]
fn handshakes_that_fail_become_rare_and_the_server_is_still_seen() {
    let failing = Err(Trouble::Handshake("TLS: alert".into()));
    let mut check = MysqlCheck::new(spec(), Health::Up, Fraction(0), Instant::ZERO);
    check.handle(Input::Known(Health::Up), Instant::ZERO);
    // Seconds of the handshakes, and all logins, until this second.
    let mut run = |full: Result<Answer, Trouble>, sign: Result<Answer, Trouble>, until: u64| {
        let (mut handshakes, mut logins, mut health) = (Vec::new(), 0, None);
        while let Some(now) =
            check.poll_timeout().filter(|at| at.as_nanos() / 1_000_000_000 < until)
        {
            check.handle_timeout(now);
            while let Some(effect) = check.poll_effect() {
                match effect {
                    Effect::Login(Manner::Full) => {
                        handshakes.push(now.as_nanos() / 1_000_000_000);
                        check.handle(Input::Login(full.clone()), now);
                    }
                    Effect::Login(Manner::Lifesign) => {
                        check.handle(Input::Login(sign.clone()), now);
                    }
                    Effect::Ping | Effect::Ask => {
                        check.handle(Input::Reply(Ok(Answer::Alive)), now);
                        continue;
                    }
                    Effect::Verdict(verdict) => {
                        health = Some(verdict.health);
                        continue;
                    }
                }
                logins += 1;
            }
        }
        (handshakes, logins, health)
    };
    let (handshakes, logins, health) = run(failing, Ok(Answer::Alive), 15_000);
    // 30, 60, 120 … 1920 seconds apart, then an hour, rounded up to the next login.
    assert_eq!(handshakes, [0, 31, 91, 211, 451, 931, 1891, 3811, 7411, 11011, 14611]);
    assert!(logins > 1400, "{logins}");
    assert_eq!(health, None, "on_auth_error hold");
    // Without TLS its death shows as ever.
    let gone = || Err(Trouble::Refused("connection refused".into()));
    assert_eq!(run(gone(), gone(), 15_011).2, Some(Health::Down));
    // TLS that works again ends it.
    let (handshakes, _, health) = run(Ok(Answer::Alive), Ok(Answer::Alive), 18_260);
    assert_eq!(health, Some(Health::Up));
    assert!(matches!(handshakes[..], [at, ..] if (18_211..18_222).contains(&at)), "{handshakes:?}");
    assert!(check.has_session());
}

/// A server that dies, or stands still, in the middle of a handshake is not held for one whose TLS is
/// broken: without TLS it is asked at once.
#[test]
fn a_server_that_dies_in_a_handshake_is_down_at_once() {
    let now = Instant::ZERO;
    for sign in [Trouble::Refused("refused".into()), Trouble::Unfit("not MySQL".into())] {
        let mut check = MysqlCheck::new(spec(), Health::Up, Fraction(0), now);
        check.handle(Input::Known(Health::Up), now);
        check.handle_timeout(now);
        assert_eq!(check.poll_effect(), Some(Effect::Login(Manner::Full)));
        check.handle(Input::Login(Err(Trouble::Handshake("closed by the server".into()))), now);
        assert_eq!(check.poll_effect(), None, "no verdict yet");
        let mut signs = 0;
        let verdict = loop {
            check.handle_timeout(now);
            match check.poll_effect().expect("no time has to pass") {
                Effect::Login(manner) => {
                    assert_eq!(manner, Manner::Lifesign);
                    signs += 1;
                    check.handle(Input::Login(Err(sign.clone())), now);
                }
                Effect::Verdict(verdict) => break verdict,
                other => panic!("{other:?}"),
            }
            if let Some(Effect::Verdict(verdict)) = check.poll_effect() {
                break verdict;
            }
        };
        assert_eq!(verdict.health, Health::Down);
        assert!(signs <= 2, "{signs}");
    }
}

#[test]
fn shutting_down_is_drain_then_down() {
    let mut sim = Sim::new(Spec { login_interval: MS(500), ..spec() }, Server::Alive);
    sim.run(400);
    sim.set(Server::LoginFails(Trouble::Drain("ERROR 1053: Server shutdown".into())));
    sim.run(300);
    sim.set(Server::Gone);
    sim.run(1500);
    let healths: Vec<_> = sim.healths().into_iter().map(|(_, health)| health).collect();
    assert_eq!(healths, [Health::Up, Health::Drain, Health::Down]);
}

#[test]
fn unfit_is_down_at_once_and_blocked_hosts_are_asked_seldom() {
    let blocked = Server::LoginFails(Trouble::UnfitAskSeldom("ERROR 1129".into()));
    let mut sim = Sim::new(spec(), Server::Alive);
    sim.run(100);
    sim.set(blocked);
    sim.lose("closed");
    sim.run(60_000);
    assert_eq!(sim.healths().last().map(|(_, health)| *health), Some(Health::Down));
    assert!(sim.logins.len() <= 4, "{:?}", sim.logins);
}

#[test]
fn a_role_that_flips_is_seen_within_its_interval() {
    let role = Spec {
        ask_interval: Some(MS(200)),
        expectation: Expectation::Role(WantedRole::Writer),
        ..spec()
    };
    let mut sim = Sim::new(role, Server::Alive);
    sim.run(1000);
    sim.set(Server::ReadOnly);
    sim.run(300);
    let (down, health, reason) = sim.verdicts[1].clone();
    assert_eq!((health, reason.as_str()), (Health::Down, "read_only = 1, expected 0"));
    assert!(down <= 1205, "{down}");
    // A ping does not make it a writer.
    assert_eq!(sim.verdicts.len(), 2);
    sim.set(Server::Alive);
    sim.run(300);
    assert_eq!(sim.healths()[2].1, Health::Up);
    // Outside the primary component.
    sim.set(Server::AskFails(Trouble::Unfit("ERROR 1047".into())));
    sim.run(300);
    assert_eq!(sim.verdicts[3].1, Health::Down);
}

#[test]
fn what_was_known_stands_until_relearned() {
    for known in [Health::Up, Health::Down] {
        let mut sim = Sim::new(spec(), Server::Stopped);
        sim.check.handle(Input::Known(known), Instant::ZERO);
        sim.run(4900);
        assert_eq!(sim.healths(), [], "{known:?}");
    }
    let mut sim = Sim::new(spec(), Server::Alive);
    sim.check.handle(Input::Known(Health::Down), Instant::ZERO);
    sim.run(1000);
    let healths = sim.healths();
    assert_eq!(healths.len(), 1);
    assert_eq!(healths[0].1, Health::Up);
    assert!(healths[0].0 > 100, "rise applies: {healths:?}");
}

#[test]
fn without_a_session_logins_alone_decide() {
    let spec = Spec { keep_session: false, login_interval: MS(1000), ..spec() };
    let mut sim = Sim::new(spec, Server::Alive);
    sim.run(2500);
    assert_eq!(sim.logins, [0, 1001, 2002]);
    assert_eq!(sim.pings, 0);
    sim.set(Server::LoginFails(Trouble::Missed("reset".into())));
    sim.run(2000);
    let healths: Vec<_> = sim.healths().into_iter().map(|(_, health)| health).collect();
    assert_eq!(healths, [Health::Up, Health::Suspect, Health::Down]);
}

/// Anything may happen at any time.
fn any_input() -> impl Strategy<Value = Option<Input>> {
    let trouble = prop_oneof![
        Just(Trouble::Missed("m".into())),
        Just(Trouble::Refused("r".into())),
        Just(Trouble::Unfit("u".into())),
        Just(Trouble::UnfitAskSeldom("s".into())),
        Just(Trouble::Full("f".into())),
        Just(Trouble::Drain("d".into())),
        Just(Trouble::Auth("a".into())),
        Just(Trouble::Handshake("h".into())),
    ];
    let result = prop_oneof![
        2 => Just(Ok(Answer::Alive)),
        1 => any::<bool>().prop_map(|b| Ok(Answer::ReadOnly(b))),
        2 => trouble.prop_map(Err),
    ];
    prop_oneof![
        3 => result.clone().prop_map(|r| Some(Input::Login(r))),
        3 => result.prop_map(|r| Some(Input::Reply(r))),
        1 => Just(Some(Input::Lost("l".into()))),
        4 => Just(None),
    ]
}

proptest! {
    /// Whatever the order of events: one exchange and one login at a time, no timer left due,
    /// every verdict differs from the one before, and while nothing runs a timer does.
    #[test]
    fn invariants_hold(
        steps in proptest::collection::vec((any_input(), 0u64..400), 1..120),
        keep_session: bool,
        role: bool,
    ) {
        let spec = Spec {
            keep_session,
            ask_interval: role.then_some(MS(250)),
            expectation: if role { Expectation::Role(WantedRole::Writer) } else { Expectation::Nothing },
            ..spec()
        };
        let mut check = MysqlCheck::new(spec, Health::Up, Fraction(0), Instant::ZERO);
        let mut now = Instant::ZERO;
        let mut login = false;
        let mut last = None;
        for (input, wait) in steps {
            now += MS(wait);
            for input in [None, input] {
                match input {
                    None => check.handle_timeout(now),
                    Some(Input::Login(result)) if login => {
                        login = false;
                        check.handle(Input::Login(result), now);
                    }
                    // A result that nobody asked for is ignored.
                    Some(input) => check.handle(input, now),
                }
                while let Some(effect) = check.poll_effect() {
                    match effect {
                        Effect::Login(_) => {
                            prop_assert!(!login);
                            login = true;
                        }
                        Effect::Ping | Effect::Ask => prop_assert!(check.has_session()),
                        Effect::Verdict(verdict) => {
                            prop_assert_ne!(last, Some(verdict.health));
                            last = Some(verdict.health);
                        }
                    }
                }
                prop_assert!(login || check.poll_timeout().is_some(), "it must never fall asleep");
            }
        }
    }
}
