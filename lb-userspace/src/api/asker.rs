//! From a connection's task to whoever knows: a bounded queue of questions, each with its way back.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::base::query::{Query, Reply};

/// Questions that wait at most; at the bound an error is the answer.
pub const PENDING_LIMIT: usize = 32;
/// Longest wait for an answer: a reload may take ten seconds to be confirmed.
pub const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// A question and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    pub query: Query,
    pub answer: oneshot::Sender<Reply>,
}

/// Handle for tasks that have questions.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Asked>);

impl Asker {
    /// A handle, and the queue that the role's loop takes from.
    pub fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(PENDING_LIMIT);
        (Self(sender), receiver)
    }

    /// Asks, and waits no longer than [`ANSWER_WAIT`]; failures are answers too.
    pub async fn ask(&self, query: Query) -> Reply {
        let (answer, wait) = oneshot::channel();
        if self.0.try_send(Asked { query, answer }).is_err() {
            return Reply::Error("too many questions are open; try again".to_owned());
        }
        match tokio::time::timeout(ANSWER_WAIT, wait).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Reply::Error("lbd is stopping".to_owned()),
            Err(_) => Reply::Error(format!("no answer within {} s", ANSWER_WAIT.as_secs())),
        }
    }
}
