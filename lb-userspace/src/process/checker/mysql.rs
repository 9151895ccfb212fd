//! The task of one MYSQL_CHECK: drives [`MysqlCheck`], holds the kept session.

#[cfg(test)]
mod tests;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    probe::{Command, Desk, What, sleep_until},
    spec,
};
use crate::{
    base::{core::Core as _, status::Health, time::Instant},
    check::{
        Fraction,
        mysql::{
            Effect, Input, Manner, MysqlCheck,
            verdict::{self, LoginAs, Phase, Trouble},
        },
    },
    config::model::{CheckerCommon, MysqlCheck as Config, Password},
    io::probes::mysql::{self, Answer, Credentials, Failure, Session, late::Places},
    process::clock,
};

/// Time for a login or an exchange in flight that is given up, so that the server sees its end and a
/// COM_QUIT behind it. A fraction of `probe`'s `STOP_LIMIT`: the farewell has to fit, too.
const GIVE_UP_LIMIT: Duration = Duration::from_millis(500);

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
    /// Where its logins wait until they are finished.
    places: Arc<Places>,
    /// Of those that found no place, told so far.
    deferred: u64,
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
    let mut check = Check {
        desk,
        core,
        common,
        config,
        idle: None,
        login: None,
        exchange: None,
        places: Arc::default(),
        deferred: 0,
        warned: None,
    };
    while check.step().await {}
    let Check { idle, login, exchange, .. } = check;
    // Side by side: the end of lbd waits for the slowest.
    tokio::join!(
        async {
            if let Some(session) = idle {
                session.quit().await;
            }
        },
        async {
            if let Some((login, _)) = login
                && let Ok(Ok((Some(session), _))) = timeout(GIVE_UP_LIMIT, login).await
            {
                session.quit().await;
            }
        },
        async {
            if let Some((exchange, _)) = exchange {
                give_up(exchange).await;
            }
        },
    );
}

/// Ends the session of an exchange whose answer is of no use any more. One that does not answer in
/// time is left to its tap, which says COM_QUIT behind the question.
async fn give_up(exchange: Exchange) {
    if let Ok((session, _)) = timeout(GIVE_UP_LIMIT, exchange).await {
        session.quit().await;
    }
}

impl Check {
    /// One turn; `false` when it is over.
    async fn step(&mut self) -> bool {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Login(manner) => {
                    self.login = Some((self.start_login(manner), clock::now()));
                }
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

    fn start_login(&self, manner: Manner) -> Login {
        let mut target = spec::mysql_target(&self.common, &self.config);
        let config = self.config.clone();
        let places = Arc::clone(&self.places);
        let keep = spec::mysql_core(&self.config).keep_session;
        let lifesign = manner == Manner::Lifesign;
        if lifesign {
            target.tls = mysql::Tls::Off;
        }
        let secret = match spec::has_user(&config) {
            true => password(config.password.as_ref()).map(Some),
            false => Ok(None),
        };
        let nobody = lifesign || !matches!(secret, Ok(Some(_)));
        if nobody {
            target.question = mysql::Question::Nothing;
        }
        Box::pin(async move {
            let credentials = match &secret {
                Ok(Some(password)) if !nobody => Credentials {
                    user: config.user.clone().unwrap_or_default(),
                    password: password.clone(),
                },
                _ => Credentials::nobody(),
            };
            let login = mysql::login(&target, &credentials, &places).await;
            if let (false, Err(trouble)) = (lifesign, secret) {
                // The server's life is worth knowing all the same.
                return match login.map_err(|failure| self::trouble(failure, &credentials.user)) {
                    Ok((session, _)) => {
                        session.quit().await;
                        Err(trouble)
                    }
                    Err(Trouble::Auth(_)) => Err(trouble),
                    Err(other) => Err(other),
                };
            }
            match login {
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
                    if let Some((exchange, _)) = self.exchange.take() {
                        tokio::spawn(give_up(exchange));
                    }
                    if let Some(old) = self.idle.replace(session) {
                        tokio::spawn(old.quit());
                    }
                }
                (Ok(core_answer(answer)), Ok(()))
            }
            Err(trouble) => {
                if matches!(
                    trouble,
                    Trouble::Auth(_)
                        | Trouble::Handshake(_)
                        | Trouble::UnfitAskSeldom(_)
                        | Trouble::NotMade(_)
                ) {
                    self.warn(trouble.reason());
                }
                let reason = trouble.reason().to_owned();
                (Err(trouble), Err(reason))
            }
        };
        self.core.handle(Input::Login(input), now);
        self.core.handle_timeout(now);
        let deferred = self.places.refused();
        let more = deferred - std::mem::replace(&mut self.deferred, deferred);
        if more > 0 && !self.desk.report(What::Deferred(more)).await {
            return false;
        }
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
        Failure::NotMade(_) => Trouble::NotMade(words),
        Failure::NotMysql(_) => Trouble::Unfit(words),
        Failure::Credentials(_) => Trouble::Auth(format!("{words} (user {user})")),
        Failure::Handshake(_) => Trouble::Handshake(format!("{words} (user {user})")),
        Failure::Server { code, message, statement, tls } => {
            let phase = if statement { Phase::Statement } else { Phase::Login };
            verdict::server_error(code, &message, phase, &LoginAs { user, tls })
        }
    }
}
