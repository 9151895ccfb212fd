//! Questions of operators and their answers: spoken between `lbctl` and the api role as JSON lines,
//! and between roles.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    filter::FlowFilter,
    net::VirtualServerKey,
    plan::Plan,
    status::{
        FlowStatus, ForwarderStatus, InstanceStatus, QuorumStatus, ServerHealth, Status,
        StrayStatus, TimerStatus, TrackedProcess,
    },
    written::Statement,
};

/// Questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    Status,
    Flows {
        limit: u32,
        #[serde(default)]
        filter: FlowFilter,
    },
    /// No new connections for a real server, in one or all (`None`) virtual servers.
    Drain {
        virtual_server: Option<VirtualServerKey>,
        real_server: SocketAddr,
        /// After so many milliseconds the connections that are left are reset.
        #[serde(default)]
        within_ms: Option<u64>,
    },
    /// Undoes drain.
    Enable {
        virtual_server: Option<VirtualServerKey>,
        real_server: SocketAddr,
    },
    /// What would happen to a connection, or what a virtual server stands for.
    Explain {
        what: String,
    },
    /// Counters of every vrrp_instance start from zero (SIGRTMAX-1).
    ClearStatistics,
    /// Read the configuration again.
    Reload,
    /// What a reload would do now.
    Plan,
    /// The configuration in force, from this statement of the top level on: a large one takes several
    /// answers.
    Config {
        from: usize,
    },
}

/// Answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Status(Box<Status>),
    Vrrp {
        instances: Vec<InstanceStatus>,
        timers: TimerStatus,
        strays: Vec<StrayStatus>,
        processes: Vec<TrackedProcess>,
    },
    Checker {
        servers: Vec<ServerHealth>,
        quorum: Vec<QuorumStatus>,
    },
    Forwarder(Box<ForwarderStatus>),
    Flows(Vec<FlowStatus>),
    /// Lines for a person.
    Text(String),
    Done(String),
    /// A reload, or its dry run.
    Plan {
        /// One sentence: what is in force.
        done: String,
        plan: Box<Plan>,
    },
    /// Statements of the top level from the asked one on.
    Config {
        /// Of the configuration that they belong to.
        generation: u64,
        statements: Vec<Statement>,
        /// Where to go on; `None`: these are the last.
        next: Option<usize>,
    },
    Error(String),
}
