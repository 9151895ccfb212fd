//! What the watchdog and its children say to each other, over one socketpair each.
//!
//! Frames are length-delimited (u32, at most [`FRAME_LIMIT`]) postcard. The watchdog routes:
//! children never talk to each other directly. Queues are bounded by [`QUEUE_LIMIT`].

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub use crate::base::query::{Query, Reply};
use crate::{
    base::{
        net::VirtualServerKey,
        status::{Health, VrrpState},
        table::LeaseSlot,
        time::Instant,
    },
    config::model::{Command, Config},
    vrrp::{
        notify::{Mail, Notification},
        track::Verdict,
    },
};

/// Longest frame in bytes; a longer one ends the connection (and so the child). A sender says an
/// error in place of an answer that would be longer.
pub const FRAME_LIMIT: usize = 16 << 20;
/// Messages that may wait in one direction of one child; a full queue blocks the sender.
/// The watchdog never waits: events that do not fit follow later by [`Down::Replay`], any other
/// message that does not fit gets the child killed.
pub const QUEUE_LIMIT: usize = 1024;

/// The roles a child can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    Vrrp,
    Checker,
    Forwarder,
    Api,
}

impl Role {
    /// Name in process lists, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vrrp => "vrrp",
            Self::Checker => "checker",
            Self::Forwarder => "forwarder",
            Self::Api => "api",
        }
    }
}

/// `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineChoice {
    Auto,
    Xdp,
    Ipvs,
}

/// What is fixed for the life of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// `--instance`.
    pub instance: Option<String>,
    /// Sockets and pid files.
    pub run_dir: PathBuf,
    /// bpffs directory of this instance: `/sys/fs/bpf/lbd-NAME`.
    pub pin_dir: PathBuf,
    pub config_file: PathBuf,
    pub engine: EngineChoice,
    /// `--record`: each role appends its inputs to FILE.ROLE.
    pub record: Option<PathBuf>,
    /// False under `-C`: no vrrp child, leases are not expected.
    pub vrrp: bool,
    /// False under `-P`: no checker child.
    pub checker: bool,
}

/// Watchdog → child.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Down {
    /// First message: configuration and surroundings.
    Start { runtime: Runtime, generation: u64, config: Arc<Config> },
    /// A checked configuration replaces the running one. The forwarder is asked first, and answers
    /// [`Up::Taken`] or [`Up::Refused`]; the others follow.
    Reload { generation: u64, config: Arc<Config> },
    /// Answer with [`Up::Pong`]; silence for [`HEARTBEAT_LIMIT`] gets the child killed.
    Ping { seq: u64 },
    /// End in order, answer [`Up::Stopped`], exit 0.
    Stop,
    /// What another child said.
    Event { from: Role, event: Event },
    /// The last event of each of many keys, as one message: what was said before this child
    /// started, or while its queue was full. However many they are, they take one place in a
    /// queue; a sender splits them below [`FRAME_LIMIT`].
    Replay { events: Vec<(Role, Event)> },
    /// A script that this child asked for has ended.
    ScriptDone(ScriptDone),
    /// A question from `lbctl` or /metrics; answer [`Up::Reply`] with the same id.
    Query { id: u64, query: Query },
    /// A mail for the api role to send; answered by [`Up::Mailed`]. One at a time, and all that
    /// are left before [`Down::Stop`].
    Mail { id: u64, mail: Mail },
    /// Answer to a question this child (api) asked with [`Up::Ask`].
    Answer { id: u64, reply: Reply },
}

/// Child → watchdog.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Up {
    /// The configuration of this generation is in force.
    Ready {
        generation: u64,
    },
    /// The forwarder works towards the configuration of this generation.
    Taken {
        generation: u64,
    },
    /// This host's data plane cannot carry that configuration: the one before it stays in force.
    Refused {
        generation: u64,
        why: String,
    },
    Pong {
        seq: u64,
    },
    /// Orderly end reached.
    Stopped,
    /// For the other children.
    Event(Event),
    /// Run a script; answered by [`Down::ScriptDone`] if `reply` is set.
    Script(ScriptRun),
    /// Tell the world of a change: scripts, FIFOs, mail.
    Notify(Notification),
    /// The mail was sent, or given up.
    Mailed {
        id: u64,
        sent: bool,
    },
    /// Answer to [`Down::Query`].
    Reply {
        id: u64,
        reply: Reply,
    },
    /// The api role's question, for the watchdog or, through it, for other roles.
    Ask {
        id: u64,
        query: Query,
    },
    /// The child cannot do its work for a reason that a restart will not mend (no permission, no
    /// XDP). A watchdog that never had every role ready stops the rest in order and exits non-zero;
    /// later it keeps what is in force, and the child says in its status what is wrong.
    Fatal {
        message: String,
    },
}

/// Messages for which something shorter can stand in.
pub trait InPlace: Sized {
    /// What to send in place of this message, which takes `length` bytes and does not fit.
    fn in_place(self, length: usize) -> Option<Self>;
}

impl InPlace for Up {
    fn in_place(self, length: usize) -> Option<Self> {
        match self {
            Self::Reply { id, .. } => Some(Self::Reply { id, reply: too_long(length) }),
            _ => None,
        }
    }
}

impl InPlace for Down {
    fn in_place(self, length: usize) -> Option<Self> {
        match self {
            Self::Answer { id, .. } => Some(Self::Answer { id, reply: too_long(length) }),
            _ => None,
        }
    }
}

fn too_long(length: usize) -> Reply {
    let why = format!("the answer takes {length} bytes, {FRAME_LIMIT} bytes fit; ask for less");
    tracing::warn!("{why}");
    Reply::Error(why)
}

/// Facts that roles publish. The watchdog keeps the last one of each key and replays them to a
/// child that (re)starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// vrrp → all.
    Vrrp { instance: String, state: VrrpState, priority: u8 },
    /// vrrp → its own successor: what a `vrrp_script`, a file or a process said last.
    /// checker → vrrp: what a `track_mysql` says.
    Script { name: String, verdict: Verdict },
    /// checker → forwarder. Key: (virtual server, real server).
    Health(HealthChange),
    /// checker → forwarder. Whether the sorry server stands in.
    Quorum { virtual_server: VirtualServerKey, up: bool },
    /// forwarder → vrrp: tables are reconciled; adverts may begin. Slots by instance name.
    Converged { generation: u64, leases: Vec<(String, LeaseSlot)>, fenced: bool },
}

impl Event {
    /// Whether it is passed on to a role as soon as it is said. A role that (re)starts is told everything.
    pub fn concerns(&self, role: Role) -> bool {
        match self {
            // Others would only be woken, on the CPUs that the verdict needs for its way.
            Self::Health(_) | Self::Quorum { .. } => role == Role::Forwarder,
            Self::Vrrp { .. } | Self::Script { .. } | Self::Converged { .. } => true,
        }
    }
}

/// Verdict on one real server of one virtual server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthChange {
    pub virtual_server: VirtualServerKey,
    pub real_server: SocketAddr,
    pub health: Health,
    /// Weight in force.
    pub weight: u32,
    /// One phrase for the log.
    pub reason: String,
    /// When the verdict fell (for the latency metric).
    pub at: Instant,
}

/// A script to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptRun {
    /// Chosen by the child; returned in [`ScriptDone`].
    pub id: u64,
    /// Object it belongs to, for logs: `vrrp_script chk_mysql`.
    pub object: String,
    pub command: Command,
    /// Words appended to the command (notify scripts).
    pub extra_args: Vec<String>,
    /// TERM after this long, KILL two seconds later; `None`: never.
    pub timeout: Option<Duration>,
    /// Scripts with the same queue name run one after the other, in order, none lost (notify).
    pub queue: Option<String>,
    pub reply: bool,
}

/// How a script ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptDone {
    pub id: u64,
    pub outcome: ScriptOutcome,
    pub elapsed: Duration,
}

/// Result of a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScriptOutcome {
    Exit(i32),
    Signal(i32),
    TimedOut,
    /// Missing, not executable, unknown user: never started.
    NotStarted(String),
    /// This time there was no process, memory, descriptor or slot for it: that says nothing about what it would
    /// have found.
    NotNow(String),
}

/// Silence after which a child is killed and restarted.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(5);
/// How often the watchdog pings.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_wakes_the_forwarder_only() {
        let all = [Role::Vrrp, Role::Checker, Role::Forwarder, Role::Api];
        let heard = |event: Event| all.into_iter().filter(move |role| event.concerns(*role));
        let key: VirtualServerKey = "tcp/192.0.2.10:3306".parse().expect("key");
        let health = Event::Health(HealthChange {
            virtual_server: key,
            real_server: "198.51.100.1:3306".parse().expect("address"),
            health: Health::Down,
            weight: 1,
            reason: String::new(),
            at: Instant::ZERO,
        });
        assert!(heard(health).eq([Role::Forwarder]));
        assert!(heard(Event::Quorum { virtual_server: key, up: true }).eq([Role::Forwarder]));
        let script = Event::Script { name: "chk".to_owned(), verdict: Verdict::Good };
        assert!(heard(script).eq(all));
    }
}
