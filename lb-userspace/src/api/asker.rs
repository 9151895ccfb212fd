//! From a connection's task to whoever knows: a bounded queue of questions, each with its way back.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::bounds::{Bound, Bounds};
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
pub struct Asker(mpsc::Sender<Asked>, Bounds);

impl Asker {
    /// A handle, and the queue that the role's loop takes from.
    pub fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(PENDING_LIMIT);
        (Self(sender, Bounds::default()), receiver)
    }

    /// How often the role's bounds were reached.
    pub fn bounds(&self) -> &Bounds {
        &self.1
    }

    /// Asks, and waits no longer than [`ANSWER_WAIT`]; failures are answers too.
    pub async fn ask(&self, query: Query) -> Reply {
        let (answer, wait) = oneshot::channel();
        match self.0.try_send(Asked { query, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.1.reached(Bound::PendingQuestions);
                return Reply::Error(format!("{PENDING_LIMIT} questions wait already; try again"));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Reply::Error("lbd is stopping".to_owned());
            }
        }
        match tokio::time::timeout(ANSWER_WAIT, wait).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Reply::Error("lbd is stopping".to_owned()),
            Err(_) => Reply::Error(format!("no answer within {} s", ANSWER_WAIT.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn number_of_waiting_questions_is_bounded_and_said() {
        let (asker, mut questions) = Asker::new();
        let waiting: Vec<_> = (0..PENDING_LIMIT)
            .map(|_| {
                let asker = asker.clone();
                tokio::spawn(async move { asker.ask(Query::Status).await })
            })
            .collect();
        while questions.len() < PENDING_LIMIT {
            tokio::task::yield_now().await;
        }
        let refused = asker.ask(Query::Status).await;
        assert_eq!(refused, Reply::Error("32 questions wait already; try again".to_owned()));
        let counted = asker.bounds().list().find(|(name, _)| name == "pending_questions");
        assert_eq!(counted.map(|(_, count)| count), Some(1));
        // Those that wait are answered.
        let asked = questions.recv().await.expect("it waits");
        asked.answer.send(Reply::Done("yes".to_owned())).expect("it is waited for");
        drop(questions);
        let mut answers = Vec::new();
        for answer in waiting {
            answers.push(answer.await.expect("no panic"));
        }
        let stopping = Reply::Error("lbd is stopping".to_owned());
        assert_eq!(answers.iter().filter(|answer| **answer == stopping).count(), PENDING_LIMIT - 1);
        assert_eq!(asker.ask(Query::Status).await, stopping);
    }
}
