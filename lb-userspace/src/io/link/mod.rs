//! Links and addresses of this host, through rtnetlink.
//!
//! A thread of its own, because the kernel makes netlink requests wait for its global lock, which
//! others may hold for a long time; adverts must leave meanwhile. Requests go through a socket of
//! their own, many in one system call; the kernel queues the notifications that they cause before
//! it acknowledges them, so that what a request caused is told before its end.

mod claims;
mod connections;
mod encode;
mod filter;
mod journal;
mod make;
mod monitor;
mod send;
mod socket;
mod sys;
mod vmac;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use claims::ClaimSocket;
pub use connections::Aborted;
pub use send::FrameSocket;
pub use vmac::VmacSocket;

use crate::{
    base::net::{IpPrefix, Mac},
    config::model::{AddressOptions, Route, Rule, RuleAction, VirtualLinkKind},
};

/// Requests that may wait; at the bound [`Links::request`] refuses.
const REQUEST_LIMIT: usize = 1024;
/// Events that may wait; at the bound the thread waits for the reader.
const EVENT_LIMIT: usize = 4096;

/// An address to be held on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vip {
    pub interface: String,
    pub prefix: IpPrefix,
    pub label: Option<String>,
    pub broadcast: Option<Ipv4Addr>,
    /// rtnetlink's scope number.
    pub scope: u8,
    pub options: AddressOptions,
}

impl Vip {
    /// As its interface has it once it is on: beside a `peer` the length is that of the peer's
    /// subnet.
    pub fn assigned(&self) -> Assigned {
        let whole = || Assigned { prefix: self.prefix, peer: None };
        let Some(peer) = self.options.peer else { return whole() };
        let Some(prefix) = IpPrefix::new(self.prefix.addr, peer.len) else { return whole() };
        Assigned { prefix, peer: Some(peer.addr).filter(|it| *it != prefix.addr) }
    }
}

/// An address as an interface has it. Those that differ in any part are two addresses to the
/// kernel: the removal of one leaves the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assigned {
    pub prefix: IpPrefix,
    /// The other end, as in `ip address add ADDRESS peer PEER`.
    pub peer: Option<IpAddr>,
}

impl fmt::Display for Assigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{} peer {peer}/{}", self.prefix.addr, self.prefix.len),
            None => self.prefix.fmt(f),
        }
    }
}

/// A virtual interface on top of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VirtualLink {
    pub name: String,
    /// The interface below.
    pub base: String,
    pub kind: VirtualLinkKind,
    /// Of a macvlan.
    pub mac: Mac,
    /// Holds IPv6 addresses; else IPv6 is switched off on it.
    pub ipv6: bool,
}

/// A number under /proc/sys/net, put back when the last who wanted it is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// As in `ipv4/conf/eth0/promote_secondaries`.
    pub key: String,
    pub value: u32,
}

/// Packets to these addresses are dropped, neighbour discovery excepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Filter {
    /// nftables table of family inet, ours alone.
    pub table: String,
    pub vips: Vec<IpAddr>,
    /// Of its chain.
    pub priority: i32,
    pub counters: bool,
}

/// Something that is held on this host. It is recognised by all it says: one changed word is
/// another object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Object {
    Setting(Setting),
    Link(VirtualLink),
    /// Joins the interface (first) to the VRF or bridge (second).
    Master(String, String),
    /// Before the addresses that it is about, and gone after them.
    Filter(Filter),
    Address(Vip),
    Route(Route),
    Rule(Rule),
}

impl Object {
    /// Whether it cannot be without the interface of this name.
    pub fn is_on(&self, interface: &str) -> bool {
        match self {
            Self::Address(vip) => vip.interface == interface,
            Self::Route(route) => {
                route.next_hops.iter().any(|hop| hop.dev.as_deref() == Some(interface))
            }
            Self::Link(link) => link.base == interface,
            Self::Master(name, master) => name == interface || master == interface,
            // A rule waits for its interfaces.
            Self::Setting(_) | Self::Filter(_) | Self::Rule(_) => false,
        }
    }

    /// Whether it may be gone when the interface of this name was down or away: beside what is on
    /// it, routes whose gateway may be reached by it.
    pub fn goes_with(&self, interface: &str) -> bool {
        let anywhere = |object: &Self| matches!(object, Self::Route(it) if it.next_hops.iter().any(|hop| hop.dev.is_none()));
        self.is_on(interface) || anywhere(self)
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(setting) => write!(f, "setting {} {}", setting.key, setting.value),
            Self::Link(link) => write!(f, "interface {} on {}", link.name, link.base),
            Self::Master(name, master) => write!(f, "{name} to {master}"),
            Self::Filter(filter) => write!(f, "nftables table {}", filter.table),
            Self::Address(vip) => write!(f, "{} on {}", vip.prefix, vip.interface),
            Self::Route(route) => write!(f, "route {} table {}", route.to, route.table),
            Self::Rule(rule) => {
                let any = |prefix: Option<IpPrefix>| {
                    prefix.map_or_else(|| "any".to_owned(), |prefix| prefix.to_string())
                };
                write!(f, "rule from {} to {}", any(rule.from), any(rule.to))
            }
        }
    }
}

/// Take `clear` off, then put `set` on, each in its order. What is there or gone already is no
/// error. The host's own TCP connections of an address that leaves it by that are aborted before:
/// see [`Aborted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Returned in [`Event::Done`].
    pub id: u64,
    pub set: Vec<Object>,
    pub clear: Vec<Object>,
}

/// What may be put on this host from now on. It is written down first, so that a successor knows
/// what to remove should this process be killed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declaration {
    /// Returned in [`Event::Done`].
    pub id: u64,
    /// All that a configuration names, in the order in which it is put on.
    pub wanted: Vec<Object>,
    /// Put on before, by this process; of it, what is not wanted is recorded until it is gone.
    pub held: Vec<Object>,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Change(Request),
    Declare(Declaration),
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub name: String,
    pub index: u32,
    /// Administratively up, with carrier.
    pub up: bool,
    pub mac: Option<Mac>,
    /// Longest IP datagram, in bytes.
    pub mtu: u32,
}

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressInfo {
    pub index: u32,
    pub assigned: Assigned,
    /// Not the first of its subnet.
    pub secondary: bool,
    /// IPv6: the kernel still asks whether somebody else has it, or somebody has. Not to be used.
    pub tentative: bool,
    /// Tentative, and nobody has answered yet.
    pub asking: bool,
}

impl AddressInfo {
    pub fn address(&self) -> IpAddr {
        self.assigned.prefix.addr
    }
}

/// A route or a rule that is no more, as far as the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    Route { table: u32, to: IpPrefix, metric: u32, tos: u8 },
    Rule { v6: bool, priority: u32, from: Option<IpPrefix>, to: Option<IpPrefix>, table: u32 },
}

impl Gone {
    /// Whether it may have been this object.
    pub fn was(&self, object: &Object) -> bool {
        match (self, object) {
            (Self::Route { table, to, metric, tos }, Object::Route(route)) => {
                let own = route.metric.unwrap_or(if route.to.addr.is_ipv6() { 1024 } else { 0 });
                (*table, *to, *metric, *tos) == (route.table, route.to, own, route.tos)
            }
            (Self::Rule { v6, priority, from, to, table }, Object::Rule(rule)) => {
                let own = match rule.action {
                    RuleAction::Table(table) => table,
                    _ => 0,
                };
                (*v6, *from, *to, *table) == (rule.v6, rule.from, rule.to, own)
                    && rule.priority.is_none_or(|own| own == *priority)
            }
            _ => false,
        }
    }
}

/// An object that could not be put on, or not taken off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    pub object: Object,
    /// It was to be put on.
    pub on: bool,
    pub cause: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.on { "add" } else { "remove" };
        write!(f, "{what} {}: {}", self.object, self.cause)
    }
}

/// What happened. After the start every link and address is told once, then [`Event::Ready`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// New or changed.
    Link(LinkInfo),
    LinkGone(LinkInfo),
    Address(AddressInfo),
    AddressGone(AddressInfo),
    /// Someone else removed a route or a rule.
    ObjectGone(Gone),
    /// Everything that exists has been told.
    Ready,
    /// A request is done; `added` addresses were not there before. What is not among `errors` is
    /// as it was asked for.
    Done {
        id: u64,
        added: u32,
        aborted: Aborted,
        errors: Vec<Failure>,
    },
    /// The thread has ended.
    Failed(String),
}

/// The thread's other end. Dropping it ends the thread after the requests in the queue.
#[derive(Debug)]
pub struct Links {
    orders: mpsc::Sender<Order>,
    events: mpsc::Receiver<Event>,
}

impl Links {
    /// Starts the thread. `journal`: the file in which declarations are written down.
    ///
    /// # Errors
    /// No thread; other failures come as [`Event::Failed`].
    pub fn start(journal: Option<PathBuf>) -> io::Result<Self> {
        let (orders, order_rx) = mpsc::channel(REQUEST_LIMIT);
        let (event_tx, events) = mpsc::channel(EVENT_LIMIT);
        std::thread::Builder::new().name("links".into()).spawn(move || {
            let result = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(anyhow::Error::from)
                .and_then(|runtime| runtime.block_on(monitor::run(order_rx, &event_tx, journal)));
            if let Err(error) = result {
                let _ = event_tx.blocking_send(Event::Failed(format!("{error:#}")));
            }
        })?;
        Ok(Self { orders, events })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// The queue is full or the thread has ended.
    pub fn request(&self, request: Request) -> Result<(), &'static str> {
        self.order(Order::Change(request))
    }

    /// Queues a declaration. The first one also removes what a predecessor has left and the
    /// declaration does not want.
    ///
    /// # Errors
    /// As [`Links::request`].
    pub fn declare(&self, declaration: Declaration) -> Result<(), &'static str> {
        self.order(Order::Declare(declaration))
    }

    fn order(&self, order: Order) -> Result<(), &'static str> {
        self.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => "too many address changes wait for the kernel",
            mpsc::error::TrySendError::Closed(_) => "the rtnetlink thread has ended",
        })
    }

    /// The next event; `None` when the thread has ended.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event if one waits.
    pub fn try_event(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}
