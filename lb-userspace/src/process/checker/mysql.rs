//! The task of one MYSQL_CHECK: drives [`MysqlCheck`], holds the kept session.

use std::{future::Future, pin::Pin};

use super::{
    probe::{Command, Desk, What, sleep_until},
    spec,
};
use crate::{
    base::{core::Core as _, status::Health, time::Instant},
    check::{
        Fraction,
        mysql::{
            Effect, Input, MysqlCheck,
            verdict::{self, LoginAs, Phase, Trouble},
        },
    },
    config::model::{CheckerCommon, MysqlCheck as Config, Password},
    io::probes::mysql::{self, Answer, Credentials, Failure, Session},
    process::clock,
};

/// A login in flight.
type Login = Pin<Box<dyn Future<Output = Result<(Option<Session>, Answer), Trouble>> + Send>>;
/// An exchange on the kept session, which is lent to it.
type Exchange = Pin<Box<dyn Future<Output = (Session, Result<Answer, Failure>)> + Send>>;

struct Check {
    desk: Desk,
    core: MysqlCheck,
    common: CheckerCommon,
    config: Config,
    /// The kept session while nothing runs on it.
    idle: Option<Session>,
    login: Option<(Login, Instant)>,
    exchange: Option<(Exchange, Instant)>,
    /// The last trouble that changes no health but wants to be seen; said once.
    warned: Option<String>,
}

/// What the task waits for.
enum Happening {
    Command(Option<Command>),
    Timer,
    Login(Result<(Option<Session>, Answer), Trouble>, Instant),
    Exchange(Session, Result<Answer, Failure>, Instant),
    Lost(String),
}

/// Runs one MYSQL_CHECK until it is told to stop.
pub(super) async fn run(
    desk: Desk,
    common: CheckerCommon,
    config: Config,
    spread: Fraction,
    now: Instant,
) {
    let assumed = if common.alpha { Health::Down } else { Health::Up };
    let core = MysqlCheck::new(spec::mysql_core(&config), assumed, spread, now);
    let mut check =
        Check { desk, core, common, config, idle: None, login: None, exchange: None, warned: None };
    while check.step().await {}
    if let Some(session) = check.idle.take() {
        session.quit().await;
    }
}

impl Check {
    /// One turn; `false` when it is over.
    async fn step(&mut self) -> bool {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Login => self.login = Some((self.start_login(), clock::now())),
                Effect::Ping => self.start_exchange(false),
                Effect::Ask => self.start_exchange(true),
                Effect::Verdict(verdict) => {
                    if !self.desk.report(What::Verdict(verdict)).await {
                        return false;
                    }
                }
            }
        }
        match self.next().await {
            Happening::Command(Some(Command::Known(health))) => {
                self.core.handle(Input::Known(health), clock::now());
                true
            }
            Happening::Command(Some(Command::Stop) | None) => false,
            Happening::Timer => {
                self.core.handle_timeout(clock::now());
                true
            }
            Happening::Login(result, began) => self.logged_in(result, began).await,
            Happening::Exchange(session, result, began) => {
                self.answered(session, result, began).await
            }
            Happening::Lost(why) => {
                self.idle = None;
                self.core.handle(Input::Lost(why), clock::now());
                self.core.handle_timeout(clock::now());
                true
            }
        }
    }

    async fn next(&mut self) -> Happening {
        let timer = self.core.poll_timeout();
        tokio::select! {
            command = self.desk.commands.recv() => Happening::Command(command),
            (session, result, began) = async {
                match &mut self.exchange {
                    Some((exchange, began)) => {
                        let (session, result) = exchange.await;
                        (session, result, *began)
                    }
                    None => std::future::pending().await,
                }
            } => Happening::Exchange(session, result, began),
            (result, began) = async {
                match &mut self.login {
                    Some((login, began)) => (login.await, *began),
                    None => std::future::pending().await,
                }
            } => Happening::Login(result, began),
            why = async {
                match &mut self.idle {
                    Some(session) => session.ended().await,
                    None => std::future::pending().await,
                }
            } => Happening::Lost(why),
            () = sleep_until(timer) => Happening::Timer,
        }
    }

    fn start_login(&self) -> Login {
        let target = spec::mysql_target(&self.common, &self.config);
        let config = self.config.clone();
        let keep = spec::mysql_core(&self.config).keep_session;
        let nobody = !spec::has_user(&self.config);
        Box::pin(async move {
            let credentials = if nobody {
                Credentials::nobody()
            } else {
                let user = config.user.clone().unwrap_or_default();
                Credentials { user, password: password(config.password.as_ref())? }
            };
            match mysql::login(&target, &credentials).await {
                Ok((session, answer)) if keep => Ok((Some(session), answer)),
                Ok((session, answer)) => {
                    session.quit().await;
                    Ok((None, answer))
                }
                Err(failure) => match (nobody, trouble(failure, &credentials.user)) {
                    // Refused as expected: there is a server that reads and answers.
                    (true, Trouble::Auth(_)) => Ok((None, Answer::Alive)),
                    (_, trouble) => Err(trouble),
                },
            }
        })
    }

    fn start_exchange(&mut self, ask: bool) {
        let Some(mut session) = self.idle.take() else {
            // The core knows of the session's end already, or will in a moment.
            return;
        };
        let exchange: Exchange = Box::pin(async move {
            let result = if ask { session.ask().await } else { session.ping().await };
            (session, result)
        });
        self.exchange = Some((exchange, clock::now()));
    }

    async fn logged_in(
        &mut self,
        result: Result<(Option<Session>, Answer), Trouble>,
        began: Instant,
    ) -> bool {
        self.login = None;
        let now = clock::now();
        let (input, said) = match result {
            Ok((session, answer)) => {
                self.warned = None;
                if let Some(session) = session {
                    // An exchange that still hangs on the old session is given up with it.
                    self.exchange = None;
                    if let Some(old) = self.idle.replace(session) {
                        tokio::spawn(old.quit());
                    }
                }
                (Ok(core_answer(answer)), Ok(()))
            }
            Err(trouble) => {
                if matches!(trouble, Trouble::Auth(_) | Trouble::UnfitAskSeldom(_)) {
                    self.warn(trouble.reason());
                }
                let reason = trouble.reason().to_owned();
                (Err(trouble), Err(reason))
            }
        };
        self.core.handle(Input::Login(input), now);
        self.core.handle_timeout(now);
        self.desk.report(What::Probed { took: now - began, result: said }).await
    }

    async fn answered(
        &mut self,
        session: Session,
        result: Result<Answer, Failure>,
        began: Instant,
    ) -> bool {
        self.exchange = None;
        let now = clock::now();
        let said = result.as_ref().map(drop).map_err(ToString::to_string);
        match result {
            Ok(answer) => {
                self.idle = Some(session);
                self.core.handle(Input::Reply(Ok(core_answer(answer))), now);
            }
            Err(failure @ Failure::Server { .. }) => {
                self.idle = Some(session);
                let user = self.config.user.clone().unwrap_or_default();
                let trouble = trouble(failure, &user);
                if matches!(trouble, Trouble::Auth(_)) {
                    self.warn(trouble.reason());
                }
                self.core.handle(Input::Reply(Err(trouble)), now);
            }
            Err(failure) => self.core.handle(Input::Lost(failure.to_string()), now),
        }
        self.core.handle_timeout(now);
        self.desk.report(What::Probed { took: now - began, result: said }).await
    }

    /// Trouble that an operator has to mend; one line per change.
    fn warn(&mut self, reason: &str) {
        if self.warned.as_deref() != Some(reason) {
            tracing::warn!(target = %self.common.target, reason, "MYSQL_CHECK");
            self.warned = Some(reason.to_owned());
        }
    }
}

/// The password. The watchdog has put the content of a `password_file` in its place; where it could
/// not, the path is still there.
fn password(password: Option<&Password>) -> Result<String, Trouble> {
    match password {
        None => Ok(String::new()),
        Some(Password::Literal(text)) => Ok(text.clone()),
        Some(Password::File(path)) => Err(Trouble::Auth(format!(
            "password_file {} could not be read at the last reload (its log says why)",
            path.display()
        ))),
    }
}

fn core_answer(answer: Answer) -> verdict::Answer {
    match answer {
        Answer::Alive => verdict::Answer::Alive,
        Answer::Value(value) => verdict::Answer::Value(value),
        Answer::ReadOnly(read_only) => verdict::Answer::ReadOnly(read_only),
    }
}

/// What a failed exchange says about the server.
fn trouble(failure: Failure, user: &str) -> Trouble {
    let words = failure.to_string();
    match failure {
        Failure::Refused => Trouble::Refused(words),
        Failure::TimedOut { .. } | Failure::Io(_) => Trouble::Missed(words),
        Failure::NotMysql(_) => Trouble::Unfit(words),
        Failure::Credentials(_) => Trouble::Auth(format!("{words} (user {user})")),
        Failure::Server { code, message, statement, tls } => {
            let phase = if statement { Phase::Statement } else { Phase::Login };
            verdict::server_error(code, &message, phase, &LoginAs { user, tls })
        }
    }
}
