//! L2: sockets, rtnetlink, probes. Its folders do not import each other.

pub mod ethtool;
pub mod flowsync;
pub mod link;
pub mod mail;
pub mod neigh;
pub mod netdev;
pub mod nudge;
pub mod probes;
pub mod track;
pub mod vrrp;
