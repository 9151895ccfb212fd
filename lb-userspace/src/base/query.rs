//! Questions of operators and their answers: spoken between `lbctl` and the api role as JSON lines,
//! and between roles.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    net::VirtualServerKey,
    status::{
        FlowStatus, ForwarderStatus, InstanceStatus, QuorumStatus, ServerHealth, Status,
        StrayStatus, TimerStatus,
    },
};

/// Questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    Status,
    Flows {
        limit: u32,
    },
    /// No new connections for a real server, in one or all (`None`) virtual servers.
    Drain {
        virtual_server: Option<VirtualServerKey>,
        real_server: SocketAddr,
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
}

/// Answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Status(Box<Status>),
    Vrrp {
        instances: Vec<InstanceStatus>,
        timers: TimerStatus,
        strays: Vec<StrayStatus>,
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
    Error(String),
}
