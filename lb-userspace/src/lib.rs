//! lbd: keepalived's job done with XDP, made for MySQL.
//!
//! Code map (levels and import rules: DESIGN §5, checked by `cargo xtask tidy`):
//!
//! | folder | level | what it is for |
//! |---|---|---|
//! | [`base`] | L0 | time, network types, the forwarding table, status snapshots |
//! | [`vrrp`] | L1 pure | wire, authentication, timing, the virtual-router state machine |
//! | [`check`] | L1 pure | probe schedules, quorum, MySQL verdicts |
//! | [`sched`] | L1 pure | maglev ring, weights |
//! | [`sync`] | L1 pure | flow sync: what the hosts of a virtual router tell each other of connections |
//! | [`config`] | L1 pure | keepalived.conf: lexer, tree, model, diagnostics |
//! | [`desired`], [`reconcile`] | L1 pure | config × election × health → table; table differences |
//! | [`dataplane`] | L2 | the engine trait; XDP, fake |
//! | [`io`] | L2 | sockets, rtnetlink, probes |
//! | [`api`] | L2 | control socket, metrics |
//! | [`process`] | L3 | watchdog and the four roles: the only code that knows L1 and L2 together |
#![deny(unsafe_code)] // allowed only in modules named `sys` (xtask tidy checks)

pub mod api;
pub mod base;
pub mod check;
pub mod config;
pub mod dataplane;
pub mod desired;
pub mod io;
pub mod process;
pub mod reconcile;
pub mod sched;
pub mod sync;
pub mod vrrp;
