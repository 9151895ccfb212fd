//! L1: VRRP as pure code. Bytes, times and packets come in; effects go out.
//!
//! | module | subject |
//! |---|---|
//! | [`wire`] | adverts in bytes: views, representation, receive checks |
//! | [`auth`] | VRRPv2 authentication |
//! | [`timing`] | advert interval, skew, master-down, lease end |
//! | [`track`] | scripts and interfaces that change priority or mean FAULT |
//! | [`router`] | the state machine of one vrrp_instance |
//! | [`group`] | instances that are master together: vrrp_sync_group |
//! | [`arp`], [`nd`] | gratuitous ARP and unsolicited neighbour advertisement in bytes |
//! | [`garp`], [`pacer`] | when they are sent, and at what pace |
//! | [`damper`] | links that flap |
//! | [`lateness`] | how late timers fire |
//! | [`processes`] | which processes a `vrrp_track_process` means, and how many there are |
//! | [`notify`] | what scripts, FIFOs and mails are told of a change |
//!
//! Behaviour is keepalived's where deployed practice and RFC 9568 differ; each such place says so.

pub mod arp;
pub mod auth;
pub mod damper;
pub mod garp;
pub mod group;
pub mod lateness;
pub mod nd;
pub mod notify;
pub mod pacer;
pub mod processes;
pub mod router;
pub mod timing;
pub mod track;
pub mod wire;
