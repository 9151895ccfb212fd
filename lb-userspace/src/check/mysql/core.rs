//! The state machine of MYSQL_CHECK.

use std::{collections::VecDeque, time::Duration};

use super::{
    Answer, Effect, HANDSHAKE_PAUSE, HANDSHAKE_PAUSE_LIMIT, Input, Manner, Policy, RETRY_INTERVAL,
    SELDOM_INTERVAL, Spec, Trouble,
};
use crate::{
    base::{core::Core, status::Health, time::Instant},
    check::{
        Fraction, Verdict,
        hysteresis::{Hysteresis, Level},
    },
};

/// The kept session.
#[derive(Debug)]
struct Session {
    series: Hysteresis,
    /// When the running exchange counts as missed (again).
    overdue: Option<Instant>,
    /// That was put off once, because this process had not been run.
    excused: bool,
    /// An exchange runs.
    busy: bool,
    next_ping: Instant,
    next_ask: Option<Instant>,
}

/// What the last login said beside life or death.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    None,
    Full(String),
    Drain(String),
    Auth(String),
}

/// TLS handshakes that fail.
#[derive(Debug)]
struct Handshakes {
    /// Why the last one did.
    reason: String,
    /// No other one before this.
    until: Instant,
    pause: Duration,
}

/// State machine of one MYSQL_CHECK.
#[derive(Debug)]
pub struct MysqlCheck {
    spec: Spec,
    session: Option<Session>,
    login: Hysteresis,
    /// A login runs.
    logging_in: bool,
    /// It was asked for in this manner.
    manner: Manner,
    /// TLS has failed and was not agreed upon since.
    handshakes: Option<Handshakes>,
    next_login: Option<Instant>,
    /// When the last login began: bounds the rate after lost sessions.
    last_login: Option<Instant>,
    /// The last connect was refused.
    refused: bool,
    /// How the kept session ended, for the reason of the verdict that follows.
    lost_because: Option<String>,
    /// The last login and the one before it were refused for our credentials or TLS.
    refused_again: bool,
    /// The last login was good, so pings speak for the accept path too.
    login_good: bool,
    condition: Condition,
    unfit: Option<String>,
    /// Health in force and whether anything has been learned.
    health: Health,
    learned: bool,
    effects: VecDeque<Effect>,
}

impl MysqlCheck {
    /// A check whose first login waits `spread` of one ping interval from `now`. `assumed` is
    /// the health until something is learned (down under `alpha`, else up).
    pub fn new(spec: Spec, assumed: Health, spread: Fraction, now: Instant) -> Self {
        let level = level_of(assumed);
        let next = now + spread.of(spec.ping_interval);
        Self {
            login: Hysteresis::new(spec.thresholds, level),
            spec,
            session: None,
            logging_in: false,
            manner: Manner::Full,
            handshakes: None,
            next_login: Some(next),
            last_login: None,
            refused: false,
            lost_because: None,
            refused_again: false,
            login_good: false,
            condition: Condition::None,
            unfit: None,
            health: assumed,
            learned: false,
            effects: VecDeque::new(),
        }
    }

    /// Whether a session is kept now.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    fn plan_login(&mut self, at: Instant) {
        if !self.logging_in {
            self.next_login = Some(self.next_login.map_or(at, |next| next.min(at)));
        }
    }

    /// Time until the next login after one that went as the state now says.
    fn login_pause(&self, trouble: Option<&Trouble>) -> Duration {
        match trouble {
            None if self.login.level() == Level::Up => self.spec.login_interval,
            Some(Trouble::UnfitAskSeldom(_)) => SELDOM_INTERVAL,
            Some(Trouble::Auth(_)) if self.refused_again => self.spec.login_interval,
            Some(Trouble::Missed(_) | Trouble::Refused(_)) if self.login.level() != Level::Down => {
                self.spec.ping_interval
            }
            _ => RETRY_INTERVAL.min(self.spec.login_interval),
        }
    }

    fn logged_in(&mut self, result: Result<Answer, Trouble>, now: Instant) {
        self.logging_in = false;
        if matches!(result, Err(Trouble::NotMade(_))) {
            // Nothing was learned: neither a miss nor the end of a series.
            self.next_login = Some(now + RETRY_INTERVAL.min(self.spec.login_interval));
            return;
        }
        let handshake_failed = matches!(result, Err(Trouble::Handshake(_)));
        let result = self.shake_hands(result, now);
        if handshake_failed && self.manner == Manner::Full {
            // Whether it is the server's TLS or its death is told without TLS, at once.
            self.next_login = Some(now);
            return;
        }
        let refused_before = std::mem::take(&mut self.refused);
        let first = !self.learned;
        self.refused_again =
            matches!(result, Err(Trouble::Auth(_))) && matches!(self.condition, Condition::Auth(_));
        let (trouble, reason) = match result {
            Ok(answer) => {
                self.condition = Condition::None;
                self.login_good = true;
                if first {
                    self.login.force(Level::Up)
                } else {
                    self.login.good()
                }
                if self.spec.keep_session {
                    self.adopt_session(now);
                }
                (None, self.judge(&answer))
            }
            Err(trouble) => {
                self.login_good = false;
                let reason = match &self.lost_because {
                    None => trouble.reason().to_owned(),
                    Some(lost) => format!("kept session: {lost}; then: {}", trouble.reason()),
                };
                match &trouble {
                    Trouble::Refused(_) if !refused_before && self.login.level() != Level::Down => {
                        // Once can be a listener between two processes; twice is nobody.
                        self.refused = true;
                        self.next_login = Some(now);
                        return;
                    }
                    Trouble::Refused(_) => self.login.force(Level::Down),
                    Trouble::Unfit(_) | Trouble::UnfitAskSeldom(_) => {
                        self.login.force(Level::Down);
                    }
                    Trouble::Missed(_) if first => self.login.force(Level::Down),
                    Trouble::Missed(_) => self.login.miss(),
                    Trouble::NotMade(_) => {} // dealt with above
                    Trouble::Full(text) => {
                        self.alive(first);
                        self.condition = Condition::Full(text.clone());
                    }
                    Trouble::Drain(text) => {
                        self.alive(first);
                        self.condition = Condition::Drain(text.clone());
                    }
                    Trouble::Auth(text) | Trouble::Handshake(text) => {
                        // Proves life, but at start-up there is no health to hold.
                        if first && self.spec.on_auth_error == Policy::Hold {
                            self.login.force(Level::Down);
                        } else if self.login.level() == Level::Suspect {
                            self.login.force(Level::Up);
                        }
                        self.condition = Condition::Auth(text.clone());
                    }
                }
                (Some(trouble), reason)
            }
        };
        self.learned = true;
        self.lost_because = None;
        self.next_login = Some(now + self.login_pause(trouble.as_ref()));
        self.publish(reason, first);
    }

    /// Keeps the account of handshakes. What it returns knows [`Trouble::Auth`] only, and takes a
    /// sign of life for what it is: the server's TLS still fails.
    fn shake_hands(
        &mut self,
        result: Result<Answer, Trouble>,
        now: Instant,
    ) -> Result<Answer, Trouble> {
        match (result, self.manner, &self.handshakes) {
            (Err(Trouble::Handshake(reason)), _, before) => {
                let pause = before.as_ref().map_or(HANDSHAKE_PAUSE, |it| {
                    it.pause.saturating_mul(2).min(HANDSHAKE_PAUSE_LIMIT)
                });
                let until = now + pause;
                self.handshakes = Some(Handshakes { reason: reason.clone(), until, pause });
                Err(Trouble::Auth(reason))
            }
            (Ok(_), Manner::Lifesign, Some(failed)) => Err(Trouble::Auth(failed.reason.clone())),
            (Ok(answer), ..) => {
                self.handshakes = None;
                Ok(answer)
            }
            (other, ..) => other,
        }
    }

    /// The server answered at once, though not with a session.
    fn alive(&mut self, first: bool) {
        if first { self.login.force(Level::Up) } else { self.login.good() }
    }

    /// The session of a good login becomes the kept one.
    fn adopt_session(&mut self, now: Instant) {
        let series = match self.session.take() {
            Some(mut old) => {
                old.series.good();
                old.series
            }
            None => Hysteresis::new(self.spec.thresholds, Level::Up),
        };
        self.session = Some(Session {
            series,
            overdue: None,
            excused: false,
            busy: false,
            next_ping: now + self.spec.ping_interval,
            // The login has asked already.
            next_ask: self.spec.ask_interval.map(|interval| now + interval),
        });
    }

    fn judge(&mut self, answer: &Answer) -> String {
        if *answer == Answer::Alive && self.unfit.is_some() {
            // A ping does not take back what the last question showed.
            return "answers".to_owned();
        }
        match self.spec.expectation.judge(answer) {
            Ok(reason) => {
                self.unfit = None;
                reason
            }
            Err(reason) => {
                self.unfit = Some(reason.clone());
                reason
            }
        }
    }

    fn replied(&mut self, result: Result<Answer, Trouble>, now: Instant) {
        let Some(session) = &mut self.session else { return };
        if !std::mem::take(&mut session.busy) {
            return;
        }
        session.overdue = None;
        session.excused = false;
        session.series.good();
        session.next_ping = now + self.spec.ping_interval;
        if self.login_good && self.login.level() == Level::Down {
            self.login.good();
        }
        let reason = match result {
            Ok(answer) => self.judge(&answer),
            Err(Trouble::Drain(reason)) => {
                self.condition = Condition::Drain(reason.clone());
                self.plan_login(now + RETRY_INTERVAL);
                reason
            }
            // On a session that answers, what the question's error says is a fact about fitness.
            Err(Trouble::Auth(reason)) => reason,
            Err(trouble) => {
                let reason = trouble.reason().to_owned();
                self.unfit = Some(reason.clone());
                reason
            }
        };
        self.publish(reason, false);
    }

    fn lost(&mut self, why: String, now: Instant) {
        let Some(session) = self.session.take() else { return };
        self.lost_because = Some(why);
        if session.series.level() == Level::Down {
            // What the session showed is not forgotten with it: `rise` applies to the next one.
            self.login.force(Level::Down);
        }
        // At once, but no more often than pings would be sent.
        let earliest = self.last_login.map_or(now, |last| last + self.spec.ping_interval);
        self.plan_login(earliest.max(now));
    }

    fn overdue(&mut self, now: Instant) {
        let Some(session) = &mut self.session else { return };
        let Some(at) = session.overdue.filter(|&at| at <= now) else { return };
        let late = now.saturating_since(at) >= self.spec.ping_interval;
        if late && !std::mem::replace(&mut session.excused, true) {
            // Not run for so long, this process cannot tell an answer that did not come from one that it has not
            // read. Once only: a host that is always late must still notice a server that is dead.
            session.overdue = Some(now + self.spec.ping_timeout);
            return;
        }
        session.excused &= late;
        session.overdue = Some(if late { now } else { at } + self.spec.ping_interval);
        session.series.miss();
        let misses = session.series.misses();
        let waited = self.spec.ping_timeout + self.spec.ping_interval * (misses.max(1) - 1);
        if session.series.level() != Level::Up {
            // A fresh login may tell a stuck session from a stuck server.
            let earliest = self.last_login.map_or(now, |last| last + RETRY_INTERVAL);
            self.plan_login(earliest.max(now));
        }
        self.publish(format!("no answer on the kept session for {} ms", waited.as_millis()), false);
    }

    /// The health that follows from the state.
    fn verdict(&self) -> Health {
        let series = self.session.as_ref().map_or(Level::Up, |session| session.series.level());
        let level = self.login.level().max(series);
        if level == Level::Down || self.unfit.is_some() {
            return Health::Down;
        }
        let by_level = if level == Level::Suspect { Health::Suspect } else { Health::Up };
        match &self.condition {
            Condition::None => by_level,
            Condition::Drain(_) => Health::Drain,
            Condition::Full(_) => match self.spec.on_full {
                Policy::Hold => Health::Full,
                Policy::Down => Health::Down,
                Policy::Up => by_level,
            },
            Condition::Auth(_) => match self.spec.on_auth_error {
                Policy::Down => Health::Down,
                Policy::Hold | Policy::Up => by_level,
            },
        }
    }

    /// Tells of a health that changed, or of the first one.
    fn publish(&mut self, reason: String, first: bool) {
        let health = self.verdict();
        if health == self.health && !first {
            return;
        }
        self.health = health;
        let reason = match (&self.unfit, &self.condition, health) {
            // The state that keeps it down is worth more than the ping that just came back.
            (Some(unfit), _, Health::Down) => unfit.clone(),
            (None, Condition::Full(text), Health::Full)
            | (None, Condition::Drain(text), Health::Drain) => text.clone(),
            _ => reason,
        };
        self.effects.push_back(Effect::Verdict(Verdict { health, weight: None, reason }));
    }
}

fn level_of(health: Health) -> Level {
    match health {
        Health::Down => Level::Down,
        Health::Suspect => Level::Suspect,
        Health::Up | Health::Full | Health::Drain | Health::Unknown => Level::Up,
    }
}

impl Core for MysqlCheck {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Known(health) => {
                if !self.learned {
                    self.learned = true;
                    self.health = health;
                    self.login.force(level_of(health));
                }
            }
            Input::Login(_) if !self.logging_in => {}
            Input::Login(result) => self.logged_in(result, now),
            Input::Reply(result) => self.replied(result, now),
            Input::Lost(why) => self.lost(why, now),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.overdue(now);
        if let Some(session) = self.session.as_mut().filter(|session| !session.busy) {
            let ask = session.next_ask.is_some_and(|at| at <= now);
            if ask || session.next_ping <= now {
                session.busy = true;
                session.overdue = Some(now + self.spec.ping_timeout);
                if ask {
                    session.next_ask = self.spec.ask_interval.map(|interval| now + interval);
                }
                self.effects.push_back(if ask { Effect::Ask } else { Effect::Ping });
            }
        }
        if !self.logging_in && self.next_login.is_some_and(|at| at <= now) {
            self.next_login = None;
            self.logging_in = true;
            self.last_login = Some(now);
            let waits = self.handshakes.as_ref().is_some_and(|it| now < it.until);
            self.manner = if waits { Manner::Lifesign } else { Manner::Full };
            self.effects.push_back(Effect::Login(self.manner));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let session = self.session.as_ref().and_then(|session| {
            if session.busy {
                session.overdue
            } else {
                Some(session.next_ask.map_or(session.next_ping, |at| at.min(session.next_ping)))
            }
        });
        let login = self.next_login.filter(|_| !self.logging_in);
        [session, login].into_iter().flatten().min()
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
