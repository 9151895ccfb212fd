//! L3: the watchdog and its four roles. The only folder that sees L1 and L2 together.

pub mod api;
pub mod check_host;
pub mod checker;
pub mod child;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod completions;
pub mod config_file;
pub mod daemon;
pub mod dumps;
pub mod forwarder;
pub mod ipc;
pub mod leftovers;
pub mod logging;
pub mod notifications;
pub mod pidfile;
pub mod privileges;
pub mod record;
pub mod replay;
pub mod scripts;
pub mod secrets;
mod sys;
pub mod top;
pub mod vrrp;
pub mod watchdog;

use tokio::sync::mpsc;

/// A role's end of its socketpair, already decoded. Both queues are bounded by
/// [`ipc::QUEUE_LIMIT`]. A closed `rx` means that the watchdog is gone.
pub struct Link {
    /// Watchdog → us. The first message is [`ipc::Down::Start`].
    pub rx: mpsc::Receiver<ipc::Down>,
    /// Us → watchdog.
    pub tx: mpsc::Sender<ipc::Up>,
}
