//! The control socket, server side.

use std::{io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use super::{
    asker::Asker,
    bounds::Bound,
    protocol::{self, LineError},
};
use crate::base::query::Reply;

/// Connections at the same time; further ones wait in the kernel's backlog.
pub const CONNECTION_LIMIT: usize = 32;
/// A connection that asks nothing for this long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Creates the socket, readable and writable for its owner only. A socket that is there already
/// is a dead lbd's: the instance's lock is held by whoever calls this.
///
/// # Errors
/// When the path cannot be bound (too long, no such directory, no permission).
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The mask closes the moment between bind(2) and chmod(2).
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = bound?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves connections for ever.
pub async fn serve(listener: UnixListener, asker: Asker) {
    let slots = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    loop {
        let slot = asker.bounds().slot(Bound::ControlConnections, &slots).await;
        let Some(slot) = slot else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asker = asker.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &asker).await {
                        tracing::debug!(%error, "control connection ends");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors
            }
        }
    }
}

async fn converse(stream: UnixStream, asker: &Asker) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    loop {
        let question = protocol::read_question(&mut reader);
        let Ok(question) = tokio::time::timeout(IDLE_LIMIT, question).await else {
            return Ok(());
        };
        let (reply, go_on) = match question {
            Ok(None) | Err(LineError::Io(_)) => return Ok(()),
            Ok(Some(query)) => (asker.ask(query).await, true),
            Err(error @ LineError::Malformed(_)) => (Reply::Error(error.to_string()), true),
            Err(error @ LineError::TooLong) => (Reply::Error(error.to_string()), false),
        };
        let line = protocol::encode(&reply);
        match tokio::time::timeout(IDLE_LIMIT, write.write_all(&line)).await {
            Ok(Ok(())) if go_on => {}
            Ok(result) => return result,
            Err(_) => return Ok(()), // the client does not read
        }
    }
}
