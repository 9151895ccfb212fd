//! Where log lines go: the journal when it is there and nobody asked for the console, else
//! stderr, which is never waited for: lines that nobody reads in time are lost and counted. Levels
//! come from `LBD_LOG` (tracing's filter language), else info, or debug for lbd's
//! own lines under `-D`.

mod lossy;

use std::path::Path;

use self::lossy::Lossy;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// journald's socket (systemd-journald.service(8)).
const JOURNAL: &str = "/run/systemd/journal/socket";

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
    let journal = (!logging.console && Path::new(JOURNAL).exists())
        .then(tracing_journald::layer)
        .and_then(Result::ok);
    // `try_init` fails when a subscriber is there already (tests); that one then serves.
    let _ = match journal {
        Some(layer) => registry.with(layer.with_syslog_identifier("lbd".to_owned())).try_init(),
        None => registry
            .with(fmt::layer().with_writer(Lossy::stderr()).with_ansi(false).with_target(false))
            .try_init(),
    };
}
