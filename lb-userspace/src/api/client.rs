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
