//! The task of one probe: drives its core, runs its exchanges, reports to the main loop.

use std::{
    future::Future,
    hash::{BuildHasher as _, Hasher as _},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinHandle,
    time,
};

use super::{mysql, spec};
use crate::{
    base::{core::Core as _, status::Health, time::Instant},
    check::{
        Fraction, Verdict,
        page::Expectation,
        schedule::{Anchor, Effect, Input, Schedule},
        services::ProbeId,
    },
    config::model::{self, Checker, MiscCheck, MysqlCheck},
    io::probes::{http, tcp},
    process::{
        clock,
        ipc::{ScriptDone, ScriptOutcome},
    },
};

/// Orders that may wait for a probe.
const COMMAND_LIMIT: usize = 4;
/// Time a probe gets to take leave of its server.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// Time beyond a script's own limit after which its answer is not waited for any more (TERM,
/// KILL two seconds later, and the way back).
const SCRIPT_SLACK: Duration = Duration::from_secs(5);

/// Main loop → probe.
#[derive(Debug)]
pub(super) enum Command {
    /// Start from this health, unless something has been learned already.
    Known(Health),
    /// End in order.
    Stop,
}

/// Probe → main loop.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) probe: ProbeId,
    pub(super) at: Instant,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Verdict(Verdict),
    /// One exchange ended.
    Probed {
        took: Duration,
        result: Result<(), String>,
    },
    /// So many logins were not made because earlier ones are not finished.
    Deferred(u64),
    /// Run a script for me.
    Script {
        run: Script,
        done: oneshot::Sender<ScriptDone>,
    },
}

/// A script to run.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) object: String,
    pub(super) command: model::Command,
    pub(super) timeout: Option<Duration>,
}

/// A running probe. Dropping it lets it run; [`Command::Stop`] ends it.
#[derive(Debug)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Handle {
    pub(super) fn command(&self, command: Command) {
        match self.commands.try_send(command) {
            // What was known is a help, not an order: without it the probe finds out itself.
            Ok(()) | Err(TrySendError::Full(Command::Known(_)) | TrySendError::Closed(_)) => {}
            // It does not take orders, and must not outlive a reload.
            Err(TrySendError::Full(Command::Stop)) => self.task.abort(),
        }
    }

    /// Whether the task is no more.
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends the task as a fault would, for tests.
    #[cfg(test)]
    pub(super) fn abort(&self) {
        self.task.abort();
    }

    /// Waits for the end after [`Command::Stop`].
    pub(super) async fn ended(self) {
        let abort = self.task.abort_handle();
        if time::timeout(STOP_LIMIT, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// What a task has in hand.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) id: ProbeId,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) commands: mpsc::Receiver<Command>,
}

impl Desk {
    /// Reports to the main loop; `false` when it is gone.
    pub(super) async fn report(&self, what: What) -> bool {
        let report = Report { probe: self.id, at: clock::now(), what };
        self.reports.send(report).await.is_ok()
    }
}

/// Starts the probe of `checker`.
pub(super) fn start(
    id: ProbeId,
    checker: &Checker,
    reports: mpsc::Sender<Report>,
    now: Instant,
) -> Handle {
    let (tx, commands) = mpsc::channel(COMMAND_LIMIT);
    let desk = Desk { id, reports, commands };
    let spread = spread(id);
    let task = match checker {
        Checker::Tcp(common) => {
            let schedule = Schedule::new(spec::schedule(common, Anchor::End), spread, now);
            let target = spec::tcp_target(common);
            tokio::spawn(run(desk, schedule, move |_desk| Box::pin(tcp(target.clone()))))
        }
        Checker::Misc(common, misc) => {
            let schedule = Schedule::new(spec::schedule(common, Anchor::Start), spread, now);
            let misc = MiscCheck::clone(misc);
            tokio::spawn(run(desk, schedule, move |desk| {
                Box::pin(script(misc.clone(), desk.id, desk.reports.clone()))
            }))
        }
        Checker::Http(common, check) => {
            let schedule = Schedule::new(spec::schedule(common, Anchor::End), spread, now);
            let pages = spec::pages(common, check).map(Arc::new);
            tokio::spawn(run(desk, schedule, move |_desk| Box::pin(self::pages(pages.clone()))))
        }
        Checker::Mysql(common, check) => {
            tokio::spawn(mysql::run(desk, common.clone(), MysqlCheck::clone(check), spread, now))
        }
    };
    Handle { commands: tx, task }
}

/// A random share, so that many probes do not start at one instant.
fn spread(id: ProbeId) -> Fraction {
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u64(id);
    Fraction(u16::try_from(hasher.finish() & 0xffff).unwrap_or(0))
}

/// Sleeps until `at`, for ever when there is none.
pub(super) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep(at - clock::now()).await,
        None => std::future::pending().await,
    }
}

/// `Ok`: weight and words of a success.
type Outcome = Result<(Option<u32>, String), NotGood>;

/// No success.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NotGood {
    Failed(String),
    /// The host had no room for the probe: nothing was learned.
    NotMade(String),
}

impl From<String> for NotGood {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}
type Exchange = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Drives one checker of keepalived's.
async fn run(mut desk: Desk, mut schedule: Schedule, probe: impl Fn(&Desk) -> Exchange) {
    let mut running: Option<(Exchange, Instant)> = None;
    loop {
        while let Some(effect) = schedule.poll_effect() {
            match effect {
                Effect::Probe => running = Some((probe(&desk), clock::now())),
                Effect::Verdict(verdict) => {
                    if !desk.report(What::Verdict(verdict)).await {
                        return;
                    }
                }
            }
        }
        tokio::select! {
            command = desk.commands.recv() => match command {
                Some(Command::Known(health)) => {
                    schedule.handle(Input::Known(health), clock::now());
                }
                Some(Command::Stop) | None => return,
            },
            () = sleep_until(schedule.poll_timeout()) => schedule.handle_timeout(clock::now()),
            (outcome, began) = finish(&mut running) => {
                running = None;
                let now = clock::now();
                let result = match &outcome {
                    Ok(_) => Ok(()),
                    Err(NotGood::Failed(reason) | NotGood::NotMade(reason)) => Err(reason.clone()),
                };
                schedule.handle(match outcome {
                    Ok((weight, reason)) => Input::Success { weight, reason },
                    Err(NotGood::Failed(reason)) => Input::Failure { reason },
                    Err(NotGood::NotMade(_)) => Input::NotMade,
                }, now);
                if !desk.report(What::Probed { took: now - began, result }).await {
                    return;
                }
            }
        }
    }
}

/// Waits for the running exchange, for ever when there is none. Cancel-safe: the exchange stays.
async fn finish(running: &mut Option<(Exchange, Instant)>) -> (Outcome, Instant) {
    match running {
        Some((exchange, began)) => (exchange.await, *began),
        None => std::future::pending().await,
    }
}

async fn tcp(target: tcp::Target) -> Outcome {
    match tcp::probe(&target).await {
        Ok(tcp::Manner::HalfOpen) => Ok((None, "answers (half open)".to_owned())),
        Ok(tcp::Manner::Connect) => Ok((None, "accepts connections".to_owned())),
        Err(failure @ tcp::Failure::NotMade(_)) => Err(NotGood::NotMade(failure.to_string())),
        Err(failure) => Err(failure.to_string().into()),
    }
}

/// Gets all pages in turn; the first that is not as expected decides.
async fn pages(pages: Result<Arc<Vec<(http::Page, Expectation)>>, String>) -> Outcome {
    let mut words = String::new();
    for (page, expectation) in &*pages? {
        let answer = http::get(page).await.map_err(|failure| {
            let reason = format!("{}: {failure}", page.path);
            match failure {
                http::Failure::NotMade(_) => NotGood::NotMade(reason),
                _ => NotGood::Failed(reason),
            }
        })?;
        let judged = expectation.judge(answer.status, &answer.page, answer.whole);
        words = judged.map_err(|reason| format!("{}: {reason}", page.path))?;
    }
    Ok((None, words))
}

async fn script(misc: MiscCheck, id: ProbeId, reports: mpsc::Sender<Report>) -> Outcome {
    let name = misc.command.argv.first().cloned().unwrap_or_default();
    let run = Script {
        object: format!("MISC_CHECK {name}"),
        command: misc.command,
        timeout: Some(misc.timeout),
    };
    let (done, answer) = oneshot::channel();
    let report = Report { probe: id, at: clock::now(), what: What::Script { run, done } };
    if reports.send(report).await.is_err() {
        return Err(NotGood::NotMade("the checker is stopping".to_owned()));
    }
    match time::timeout(misc.timeout + SCRIPT_SLACK, answer).await {
        Ok(Ok(done)) => judge(&done.outcome, misc.dynamic, misc.timeout),
        Ok(Err(_)) => Err(NotGood::NotMade("the script was dropped".to_owned())),
        // One that ran would have been ended, unless it cannot be, or still waits behind others that hang. A server is
        // not to stay up for that.
        Err(_) => Err(NotGood::Failed("no word of the script".to_owned())),
    }
}

/// What a script's end means: 0 is up, 1 and every other code down, with `misc_dynamic` 2 to 255
/// up with the weight `code - 2`.
fn judge(outcome: &ScriptOutcome, dynamic: bool, timeout: Duration) -> Outcome {
    match outcome {
        ScriptOutcome::Exit(0) => Ok((None, "script exited 0".to_owned())),
        ScriptOutcome::Exit(code @ 2..=255) if dynamic => {
            let weight = u32::try_from(code - 2).unwrap_or(0);
            Ok((Some(weight), format!("script exited {code}: weight {weight}")))
        }
        ScriptOutcome::Exit(code) => Err(format!("script exited {code}").into()),
        ScriptOutcome::Signal(signal) => Err(format!("script ended by signal {signal}").into()),
        ScriptOutcome::TimedOut => {
            Err(format!("script not done within {} ms", timeout.as_millis()).into())
        }
        ScriptOutcome::NotStarted(reason) => Err(format!("script not started: {reason}").into()),
        ScriptOutcome::NotNow(reason) => {
            Err(NotGood::NotMade(format!("script not started this time: {reason}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_codes() {
        let limit = Duration::from_secs(1);
        let judged = |outcome, dynamic| judge(&outcome, dynamic, limit);
        assert_eq!(judged(ScriptOutcome::Exit(0), true).map(|(w, _)| w), Ok(None));
        assert_eq!(judged(ScriptOutcome::Exit(2), true).map(|(w, _)| w), Ok(Some(0)));
        assert_eq!(judged(ScriptOutcome::Exit(255), true).map(|(w, _)| w), Ok(Some(253)));
        assert!(judged(ScriptOutcome::Exit(1), true).is_err());
        assert!(judged(ScriptOutcome::Exit(2), false).is_err());
        assert!(judged(ScriptOutcome::Signal(9), true).is_err());
        assert_eq!(
            judged(ScriptOutcome::TimedOut, false),
            Err(NotGood::Failed("script not done within 1000 ms".into()))
        );
        let not_now = judged(ScriptOutcome::NotNow("no memory".into()), true);
        assert!(matches!(not_now, Err(NotGood::NotMade(_))), "{not_now:?}");
        assert!(judged(ScriptOutcome::NotStarted("no such file".into()), true).is_err());
    }
}
