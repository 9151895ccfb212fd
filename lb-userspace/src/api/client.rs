//! The control socket, `lbctl`'s side.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::protocol::ANSWER_LIMIT;
use crate::base::query::{Query, Reply};

/// A little longer than the api role waits for others.
const WAIT: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("lbd is not running: nobody answers at {} ({source})", socket.display())]
    NotRunning { socket: PathBuf, source: io::Error },
    #[error("{}: permission denied; run lbctl as the user that runs lbd (root)", socket.display())]
    Permission { socket: PathBuf },
    #[error("{}: {source}", socket.display())]
    Broken { socket: PathBuf, source: io::Error },
    #[error("{}: not lbd's language: {source}", socket.display())]
    Language { socket: PathBuf, source: serde_json::Error },
}

/// Times that a configuration is asked for anew because a reload came between its parts.
const CONFIG_TRIES: u32 = 5;

/// Asks for the configuration in force, however many answers it takes.
///
/// # Errors
/// As [`ask`].
pub fn config(socket: &Path) -> Result<Reply, AskError> {
    'whole: for _ in 0..CONFIG_TRIES {
        let (mut from, mut all, mut first) = (0, Vec::new(), None);
        loop {
            match ask(socket, &Query::Config { from })? {
                Reply::Config { generation, statements, next } => {
                    if *first.get_or_insert(generation) != generation {
                        continue 'whole;
                    }
                    all.extend(statements);
                    match next {
                        // It must lead on, or this would never end.
                        Some(next) if next > from => from = next,
                        _ => return Ok(Reply::Config { generation, statements: all, next: None }),
                    }
                }
                other => return Ok(other),
            }
        }
    }
    let why = format!("reloads came between the parts of the configuration {CONFIG_TRIES} times");
    Ok(Reply::Error(why))
}

/// Asks one question.
///
/// # Errors
/// See [`AskError`]; an answer of lbd that says no is `Ok(Reply::Error(_))`.
pub fn ask(socket: &Path, query: &Query) -> Result<Reply, AskError> {
    let named = || socket.to_owned();
    let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AskError::Permission { socket: named() },
        _ => AskError::NotRunning { socket: named(), source },
    })?;
    let broken = |source| AskError::Broken { socket: named(), source };
    let language = |source| AskError::Language { socket: named(), source };
    stream.set_read_timeout(Some(WAIT)).map_err(broken)?;
    stream.set_write_timeout(Some(WAIT)).map_err(broken)?;
    let mut question = serde_json::to_vec(query).map_err(language)?;
    question.push(b'\n');
    (&stream).write_all(&question).map_err(broken)?;
    let mut line = Vec::new();
    BufReader::new(&stream)
        .take(ANSWER_LIMIT as u64)
        .read_until(b'\n', &mut line)
        .map_err(broken)?;
    if line.is_empty() {
        return Err(broken(io::Error::other("closed without an answer")));
    }
    serde_json::from_slice(&line).map_err(language)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;
    use crate::base::written::{Origin, Statement};

    fn statement(word: &str) -> Statement {
        Statement { words: vec![word.to_owned()], origin: Origin::Default, block: None }
    }

    /// What comes of these answers, one for each question, and where each question began.
    fn answered(answers: Vec<Reply>) -> (Reply, Vec<usize>) {
        let dir = tempfile::tempdir().expect("tempdir");
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).expect("bound");
        let server = thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().expect("a client");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a question");
                let Query::Config { from } = serde_json::from_str(&line).expect("JSON") else {
                    panic!("{line}")
                };
                asked.push(from);
                (&stream).write_all(&super::super::protocol::encode(&answer)).expect("sent");
            }
            asked
        });
        let reply = config(&socket).expect("answers");
        (reply, server.join().expect("no panic"))
    }

    fn part(generation: u64, words: &[&str], next: Option<usize>) -> Reply {
        let statements = words.iter().map(|word| statement(word)).collect();
        Reply::Config { generation, statements, next }
    }

    #[test]
    fn parts_are_put_together() {
        let (reply, asked) = answered(vec![part(3, &["a", "b"], Some(2)), part(3, &["c"], None)]);
        assert_eq!((reply, asked), (part(3, &["a", "b", "c"], None), vec![0, 2]));
    }

    #[test]
    fn a_reload_between_two_parts_begins_it_anew_and_not_for_ever() {
        let (reply, asked) = answered(vec![
            part(3, &["a"], Some(1)),
            part(4, &["x"], None),
            part(4, &["b"], Some(1)),
            part(4, &["c"], None),
        ]);
        assert_eq!((reply, asked), (part(4, &["b", "c"], None), vec![0, 1, 0, 1]));
        let answers = (0..10).map(|n| part(n, &["a"], Some(1))).collect();
        let (reply, asked) = answered(answers);
        assert!(matches!(reply, Reply::Error(why) if why.contains("5 times")));
        assert_eq!(asked.len(), 10);
    }

    #[test]
    fn a_refusal_is_handed_on_and_an_answer_that_leads_nowhere_ends() {
        let (reply, _) = answered(vec![Reply::Error("busy".to_owned())]);
        assert_eq!(reply, Reply::Error("busy".to_owned()));
        let (reply, asked) = answered(vec![part(1, &["a"], Some(0))]);
        assert_eq!((reply, asked.len()), (part(1, &["a"], None), 1));
    }
}
