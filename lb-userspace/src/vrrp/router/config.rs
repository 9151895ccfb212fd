//! What one virtual router is told: configuration, inputs, and the effects it answers with.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        net::{Mac, Priority, Vrid},
        status::VrrpState,
        table::LeaseState,
        time::Instant,
    },
    vrrp::{
        auth::Auth,
        garp::Garp,
        timing::AdvertInterval,
        track::{Tracked, Verdict},
        wire::{Options, Version},
    },
};

/// One vrrp_instance, lowered for the state machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub version: Version,
    pub vrid: Vrid,
    /// Before tracking weights.
    pub priority: Priority,
    pub interval: AdvertInterval,
    pub auth: Auth,
    /// False: a backup leaves a master of lower priority alone. The owner (255) preempts anyway.
    pub preempt: bool,
    /// How long a backup leaves a master of lower priority alone; zero: not at all.
    pub preempt_delay: Duration,
    /// `down_timer_adverts`: adverts of the master that may be missed, 1-100.
    pub down_adverts: u32,
    /// `lower_prio_no_advert`: a master leaves adverts of lower priority unanswered.
    pub lower_prio_no_advert: bool,
    /// `higher_prio_send_advert`: a master says once more that it is one before it yields.
    pub higher_prio_send_advert: bool,
    /// `owner_ignore_adverts`: the owner (255) does not listen while it is master.
    pub owner_ignore_adverts: bool,
    /// `timer_expired_backup`: a master whose timer fires so late that a backup of this priority
    /// may have taken over meanwhile becomes a backup, instead of asking for the VIPs again.
    pub timer_expired_backup: Option<Priority>,
    /// `told_handover`, ours: a master that leaves says so by a mark in its farewell, and a backup
    /// that hears the mark does not wait for its skew. VRRPv3 only.
    #[serde(default)]
    pub told_handover: bool,
    /// Member of a vrrp_sync_group: becomes master only when the group says so
    /// ([`super::super::group`]).
    pub grouped: bool,
    /// Advertised addresses in configured order.
    pub addresses: Vec<IpAddr>,
    /// Empty: multicast.
    pub unicast_peers: Vec<IpAddr>,
    /// How adverts travel.
    pub wire: Options,
    /// When and how often the VIPs are announced.
    pub garp: Garp,
    pub scripts: Vec<Tracked>,
    /// The instance's own interface is one of them unless `dont_track_primary`.
    pub interfaces: Vec<Tracked>,
}

/// What happens to a virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A datagram of its interface and VRID, from the IP header on, unchecked.
    Datagram(Vec<u8>),
    /// From now on adverts of its VRID reach it. A silence that begins while it still waits for
    /// [`Input::Converged`] counts towards its wait as a backup; without this none does.
    Listen,
    /// The data plane is reconciled: adverts may begin. `resume` is the end of a lease that a
    /// process before us has left running.
    Converged {
        resume: Option<Instant>,
    },
    /// Whether the host can fence itself: a lease that is not in force silences it. Without: it
    /// cannot.
    Fence(bool),
    /// A lease could not be written, or there is nothing to write it to (`Some`: why); or that works again
    /// (`None`). To be tried again by the shell; counts only while [`Input::Fence`] says that there is a fence.
    LeaseFault(Option<String>),
    /// The last [`Effect::SendAdvert`] left the host; `at` is from before the send.
    AdvertSent {
        at: Instant,
    },
    /// It did not.
    AdvertFailed {
        error: String,
    },
    /// [`Effect::AddVips`] or [`Effect::PrepareVips`] is done: every VIP is on its interface; `added` of them were not there before.
    VipsSet {
        added: u32,
    },
    /// No VIP is on an interface any more.
    VipsCleared,
    /// Someone else removed a VIP that is tracked (without `no_track`).
    VipLost {
        address: IpAddr,
    },
    /// Someone else removed something that goes with the VIPs: a route, a rule, a VIP with
    /// `no_track`. Tracked, it ends being master as a lost VIP does; else it is put back.
    HoldLost {
        what: String,
        tracked: bool,
    },
    /// Another host says by ARP that it has a VIP of ours.
    Claim {
        address: IpAddr,
        mac: Mac,
    },
    /// Address that adverts are sent from; `None`: the interface has none.
    Source(Option<IpAddr>),
    /// Bytes of an IP datagram that its interface carries.
    Mtu(u32),
    /// Wall clock since 1970. Needed by `auth_hmac` and `auth_type AH` only, before
    /// [`Input::Converged`] and each [`Input::Datagram`].
    WallClock(Duration),
    Interface {
        name: String,
        up: bool,
    },
    Script {
        name: String,
        verdict: Verdict,
    },
    /// The vrrp_sync_group decides; see [`super::super::group`].
    Group(Order),
    /// A changed configuration of the same VRID, interface and family.
    Configure(Box<Config>),
    /// Give everything back.
    Stop,
}

/// What a vrrp_sync_group tells a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Every member wants to become master: advertise.
    Announce,
    /// Every member has advertised and waited: forward.
    Forward,
    /// Another member lost its election: say farewell, become backup.
    Yield { why: String },
    /// Something of the group is bad (`Some`: what), or no longer (`None`).
    Hold(Option<String>),
    /// Weights of what the group tracks.
    Weight(i32),
    /// Another member has heard a router of lower priority, which may have drawn the VIPs of all
    /// to itself: announce them.
    Announcements,
}

/// Where a member of a vrrp_sync_group stands, as the group needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Waits for the data plane, an interface or a first result.
    Init,
    /// Something of its own is bad.
    Faulty,
    /// In FAULT for the group's sake only.
    Held,
    /// Backup whose first wait for a master has not ended.
    Listening,
    /// Backup to another router.
    Backup,
    /// Nothing speaks against its being master; waits for the group.
    Wants,
    /// Advertises, does not forward yet.
    Announcing,
    /// Has advertised and waited; forwards as soon as the group says so.
    Ready,
    Master,
    /// Stopping or stopped.
    Stopped,
}

/// What a virtual router wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send an advert of this priority; answer with [`Input::AdvertSent`] or
    /// [`Input::AdvertFailed`] before the next effect is performed.
    SendAdvert {
        priority: Priority,
    },
    /// Write the lease slot.
    Lease(LeaseState),
    /// Put the VIPs on their interfaces and take off the ones that the configuration no longer
    /// has; answered later by [`Input::VipsSet`].
    AddVips,
    /// Put the VIPs on their interfaces behind the fence, announcing nothing; answered later by
    /// [`Input::VipsSet`].
    PrepareVips,
    /// Abort this host's own TCP connections of the VIPs, whose answers could not leave any more,
    /// and take the VIPs off; answered later by [`Input::VipsCleared`].
    RemoveVips,
    /// Send so many gratuitous ARPs for every VIP.
    Garp {
        repeat: u32,
    },
    /// Ask the LAN who has the VIPs; an answer of another host comes as [`Input::Claim`].
    Probe,
    /// Run the notify scripts. [`Notify::MasterRxLowerPri`] is told to the sync group, too.
    Notify(Notify),
    /// Announce the address that adverts are sent from, once: unicast peers may have lost it while
    /// the interface was down.
    GarpSource(IpAddr),
    /// Publish state, priority and reason.
    Changed,
    Log {
        level: Level,
        text: String,
    },
    /// [`Input::Stop`] is done: nothing of ours is left.
    Stopped,
}

/// What notify scripts are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    State(VrrpState),
    Stop,
    /// A master heard a lower priority and stays master.
    MasterRxLowerPri,
}

/// Severity of [`Effect::Log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}
