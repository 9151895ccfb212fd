//! Scripts: `vrrp_script`, `MISC_CHECK`, `notify_*`. Roles ask, the watchdog runs them as the
//! right user, bounds and reaps them (DESIGN §4: the roles themselves could not).
//!
//! A script may stop the daemon that runs it (`/etc/init.d/keepalived stop`, `pkill keepalived`):
//! nothing here waits for a script without a limit.

pub mod identity;
pub mod queue;
pub mod run;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{Notify, mpsc};

use self::{
    queue::{Counters, Owner, Queue, Submitted},
    run::Surroundings,
};
use super::{
    clock,
    ipc::{ScriptDone, ScriptOutcome, ScriptRun},
};
use crate::{
    base::time::Instant,
    config::model::{Global, User},
};

/// How long a notify script may keep the last one of its object waiting at the stop.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// An answer for the child that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub owner: Owner,
    pub done: ScriptDone,
}

/// End of a script, sent to the watchdog's loop by the task that ran it.
#[derive(Clone, Debug)]
pub struct Ended {
    token: u64,
    outcome: ScriptOutcome,
    elapsed: Duration,
}

/// Everything that runs or waits to run.
pub struct Scripts {
    queue: Queue,
    cancels: BTreeMap<u64, Arc<Notify>>,
    default_user: Option<User>,
    secure: bool,
    /// `notify_timeout`, or shorter at the stop.
    patience: Duration,
    /// Not bounded by itself: at most one message for each of [`queue::RUNNING_LIMIT`] runs.
    ended: mpsc::UnboundedSender<Ended>,
    /// Ends by outcome name: exit_0, exit_other, signal, timed_out, not_started.
    outcomes: BTreeMap<&'static str, u64>,
}

impl Scripts {
    /// Ends of scripts arrive at the receiver; give each to [`Scripts::ended`].
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Ended>) {
        let (ended, receiver) = mpsc::unbounded_channel();
        let scripts = Self {
            queue: Queue::default(),
            cancels: BTreeMap::new(),
            default_user: None,
            secure: false,
            patience: Global::default().notify_timeout,
            ended,
            outcomes: BTreeMap::new(),
        };
        (scripts, receiver)
    }

    /// Takes `script_user` and `enable_script_security` of a configuration.
    pub fn configure(&mut self, global: &Global) {
        self.default_user.clone_from(&global.script_user);
        self.secure = global.enable_script_security;
        self.patience = global.notify_timeout;
    }

    /// Takes a request. An answer comes at once when it is refused.
    pub fn submit(&mut self, owner: Owner, run: ScriptRun) -> Option<Answer> {
        let answer = match self.queue.submit(owner, run, clock::now()) {
            Submitted::Accepted => None,
            Submitted::Displaced(job) => {
                tracing::warn!(
                    object = %job.run.object, limit = queue::QUEUE_LIMIT,
                    "notify queue is full, its oldest waiting script is dropped"
                );
                let why = "dropped: its notify queue was full".to_owned();
                reply(job.owner, &job.run, ScriptOutcome::NotNow(why), Duration::ZERO)
            }
            Submitted::Refused(run) => {
                let why = format!("{} scripts are waiting already", queue::WAITING_LIMIT);
                tracing::warn!(object = %run.object, "script refused: {why}");
                reply(owner, &run, ScriptOutcome::NotNow(why), Duration::ZERO)
            }
        };
        self.start();
        answer
    }

    /// Takes the end of a run; the answer is for the child that asked for it.
    pub fn ended(&mut self, ended: Ended) -> Option<Answer> {
        self.cancels.remove(&ended.token);
        let job = self.queue.ended(ended.token)?;
        *self.outcomes.entry(outcome_name(&ended.outcome)).or_insert(0) += 1;
        // Checks report through their owner, which knows what is normal; nobody else would tell
        // about a notification that failed.
        let object = &job.run.object;
        match &ended.outcome {
            ScriptOutcome::NotStarted(why) => tracing::warn!(%object, "script not started: {why}"),
            ScriptOutcome::NotNow(why) => {
                tracing::warn!(%object, "script not started this time: {why}");
            }
            ScriptOutcome::TimedOut => {
                tracing::warn!(%object, elapsed = ?ended.elapsed, "script ended at its time-out");
            }
            ScriptOutcome::Exit(0) => {
                tracing::debug!(%object, elapsed = ?ended.elapsed, "script ok")
            }
            other if job.run.queue.is_some() => {
                tracing::warn!(%object, outcome = ?other, "notify script failed");
            }
            other => tracing::debug!(%object, outcome = ?other, "script failed"),
        }
        let answer = reply(job.owner, &job.run, ended.outcome, ended.elapsed);
        self.start();
        answer
    }

    /// A child is gone: its checks are ended, its notifications go on.
    pub fn owner_gone(&mut self, owner: Owner) {
        for token in self.queue.owner_gone(owner) {
            self.cancel(token);
        }
        self.start();
    }

    /// A child has ended because the daemon stops: its checks that run are left to themselves,
    /// for one of them may be what stops us, and may mean to start us again
    /// (`/etc/init.d/keepalived restart`). Notifications go on.
    pub fn owner_stopped(&mut self, owner: Owner) {
        for token in self.queue.owner_gone(owner) {
            self.cancels.remove(&token);
            self.queue.ended(token);
        }
    }

    /// Ends notify scripts that keep a later one of their object waiting for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        for token in self.queue.overrun(self.patience, now) {
            tracing::warn!(
                limit = ?self.patience,
                "a notify script that keeps a later one waiting is ended (notify_timeout)"
            );
            self.cancel(token);
        }
    }

    /// When [`Scripts::handle_timeout`] has to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.overrun_at(self.patience)
    }

    /// The daemon ends: of what waits only the last notification of each object is told, and what
    /// keeps it waiting is ended soon.
    pub fn hurry(&mut self) {
        let dropped = self.queue.keep_last();
        if dropped > 0 {
            tracing::warn!(dropped, "notify scripts of states that are over are not run");
        }
        self.patience = STOP_PATIENCE;
    }

    /// Nothing runs, nothing waits.
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }

    /// Ends everything, for the end of the daemon.
    pub fn abandon(&mut self) {
        let (waiting, running) = self.queue.abandon();
        if waiting + running.len() > 0 {
            tracing::warn!(waiting, running = running.len(), "scripts are given up at the stop");
        }
        for token in running {
            self.cancel(token);
        }
    }

    /// Bookkeeping numbers.
    pub fn counters(&self) -> (Counters, &BTreeMap<&'static str, u64>) {
        (self.queue.counters(), &self.outcomes)
    }

    fn cancel(&self, token: u64) {
        if let Some(cancel) = self.cancels.get(&token) {
            cancel.notify_one();
        }
    }

    fn start(&mut self) {
        while let Some(job) = self.queue.pop(clock::now()) {
            let cancel = Arc::new(Notify::new());
            self.cancels.insert(job.token, Arc::clone(&cancel));
            let identity = identity::resolve(&job.run.command, self.default_user.as_ref());
            let secure = self.secure;
            let ended = self.ended.clone();
            tokio::spawn(async move {
                let begin = clock::now();
                let outcome = match identity {
                    Ok(identity) => {
                        run::run(&job.run, &Surroundings { identity, secure }, &cancel).await
                    }
                    Err(why) => why.into(),
                };
                let elapsed = clock::now().saturating_since(begin);
                // The receiver is gone only when the watchdog is.
                let _ = ended.send(Ended { token: job.token, outcome, elapsed });
            });
        }
    }
}

fn reply(
    owner: Owner,
    run: &ScriptRun,
    outcome: ScriptOutcome,
    elapsed: Duration,
) -> Option<Answer> {
    run.reply.then_some(Answer { owner, done: ScriptDone { id: run.id, outcome, elapsed } })
}

fn outcome_name(outcome: &ScriptOutcome) -> &'static str {
    match outcome {
        ScriptOutcome::Exit(0) => "exit_0",
        ScriptOutcome::Exit(_) => "exit_other",
        ScriptOutcome::Signal(_) => "signal",
        ScriptOutcome::TimedOut => "timed_out",
        ScriptOutcome::NotStarted(_) => "not_started",
        ScriptOutcome::NotNow(_) => "not_now",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::model::Command, process::ipc::Role};

    const OWNER: Owner = Owner { role: Role::Vrrp, pid: 1 };

    fn request(id: u64, text: &str, queue: Option<&str>) -> ScriptRun {
        ScriptRun {
            id,
            object: format!("test {id}"),
            command: Command {
                argv: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
                user: None,
            },
            extra_args: Vec::new(),
            timeout: Some(Duration::from_secs(30)),
            queue: queue.map(str::to_owned),
            reply: true,
        }
    }

    #[tokio::test]
    async fn notifications_keep_their_order_and_every_one_is_answered() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("log");
        let (mut scripts, mut ends) = Scripts::new();
        for id in 0..10_u64 {
            // Earlier ones are slower: only the queue keeps their order.
            let text = format!("sleep 0.0{}; echo {id} >> {}", 9 - id, log.display());
            assert_eq!(scripts.submit(OWNER, request(id, &text, Some("notify"))), None);
        }
        let mut answered = Vec::new();
        while !scripts.is_idle() {
            let end = ends.recv().await.expect("sender lives");
            let answer = scripts.ended(end).expect("asked for an answer");
            assert_eq!(answer.done.outcome, ScriptOutcome::Exit(0));
            answered.push(answer.done.id);
        }
        assert_eq!(answered, (0..10).collect::<Vec<_>>());
        let text = std::fs::read_to_string(&log).expect("written");
        assert_eq!(text, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
        assert_eq!(scripts.counters().1.get("exit_0"), Some(&10));
    }

    #[tokio::test]
    async fn checks_of_a_dead_child_end_its_notifications_run_on() {
        let (mut scripts, mut ends) = Scripts::new();
        scripts.submit(OWNER, request(1, "sleep 1000", None));
        scripts.submit(OWNER, request(2, "sleep 0.3", Some("notify")));
        scripts.owner_gone(OWNER);
        let mut outcomes = BTreeMap::new();
        while !scripts.is_idle() {
            let end = ends.recv().await.expect("sender lives");
            let answer = scripts.ended(end).expect("asked for an answer");
            outcomes.insert(answer.done.id, answer.done.outcome);
        }
        assert_eq!(outcomes[&1], ScriptOutcome::TimedOut);
        assert_eq!(outcomes[&2], ScriptOutcome::Exit(0));
    }

    #[tokio::test]
    async fn checks_of_a_child_that_stopped_in_order_are_left_to_themselves() {
        let dir = tempfile::tempdir().expect("tempdir");
        let done = dir.path().join("done");
        let (mut scripts, _ends) = Scripts::new();
        scripts.submit(OWNER, request(1, &format!("sleep 0.3; touch {}", done.display()), None));
        scripts.owner_stopped(OWNER);
        assert!(scripts.is_idle(), "the stop waits for the script");
        let begin = std::time::Instant::now();
        while !done.exists() {
            assert!(begin.elapsed() < Duration::from_secs(10), "the script was ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn abandon_ends_what_runs_and_forgets_what_waits() {
        let (mut scripts, mut ends) = Scripts::new();
        scripts.submit(OWNER, request(1, "sleep 1000", Some("n")));
        scripts.submit(OWNER, request(2, "sleep 1000", Some("n")));
        scripts.abandon();
        let end = ends.recv().await.expect("sender lives");
        scripts.ended(end);
        assert!(scripts.is_idle());
    }

    #[tokio::test]
    async fn unknown_user_is_an_outcome() {
        let (mut scripts, mut ends) = Scripts::new();
        let mut asked = request(1, "true", None);
        asked.command.user = Some(User { name: "no_such_user_x".to_owned(), group: None });
        scripts.submit(OWNER, asked);
        let end = ends.recv().await.expect("sender lives");
        let answer = scripts.ended(end).expect("asked for an answer");
        let why = "user no_such_user_x does not exist".to_owned();
        assert_eq!(answer.done.outcome, ScriptOutcome::NotStarted(why));
    }
}
