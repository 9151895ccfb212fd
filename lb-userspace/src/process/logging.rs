//! Where log lines go: the journal when it is there and nobody asked for the console, else stderr.
//! Neither is waited for: lines that nobody reads in time are lost and counted. Levels
//! come from `LBD_LOG` (tracing's filter language), else info, or debug for lbd's
//! own lines under `-D`.

mod journal;
mod lossy;

use self::lossy::Lossy;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What a process needs to know to log like its watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging {
    /// `-n` or `-l`: stderr even when there is a journal.
    pub console: bool,
    /// `-D`.
    pub detail: bool,
}

/// Installs the process's subscriber. A second call changes nothing.
pub fn init(logging: Logging) {
    let default = if logging.detail { "info,lb_userspace=debug,lbd=debug" } else { "info" };
    let filter = EnvFilter::try_from_env("LBD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = (!logging.console).then(journal::connect).and_then(Result::ok);
    // `try_init` fails when a subscriber is there already (tests); that one then serves.
    let _ = match journal {
        Some(journal) => registry
            .with(
                fmt::layer()
                    .event_format(journal::Fields)
                    .with_writer(Lossy::journal(journal))
                    .with_ansi(false),
            )
            .try_init(),
        None => registry
            .with(fmt::layer().with_writer(Lossy::stderr()).with_ansi(false).with_target(false))
            .try_init(),
    };
}

/// What is said about lines that were lost.
fn lost_text(count: u64) -> String {
    format!("{count} log lines were lost: nobody read them in time")
}
