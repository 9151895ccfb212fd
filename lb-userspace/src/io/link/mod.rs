//! Links and addresses of this host, through rtnetlink.
//!
//! A thread of its own, because the kernel makes netlink requests wait for its global lock, which
//! others may hold for a long time; adverts must leave meanwhile. One socket carries requests and
//! notifications, so that what a request caused is reported before its answer.

mod arp;
mod connections;
mod monitor;

use std::{io, net::Ipv4Addr};

use tokio::sync::mpsc;

pub use arp::ArpSocket;
pub use connections::Aborted;

use crate::{
    base::net::{IpPrefix, Mac},
    config::model::AddressOptions,
};

/// Requests that may wait; at the bound [`Links::request`] refuses.
const REQUEST_LIMIT: usize = 1024;
/// Events that may wait; at the bound the thread waits for the reader.
const EVENT_LIMIT: usize = 4096;

/// An address to be held on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vip {
    pub interface: String,
    pub prefix: IpPrefix,
    pub label: Option<String>,
    pub broadcast: Option<Ipv4Addr>,
    /// rtnetlink's scope number.
    pub scope: u8,
    pub options: AddressOptions,
}

/// Take `clear` off, then put `set` on. What is there or gone already is no error. The host's own TCP
/// connections of an address that leaves it by that are aborted before: see [`Aborted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Returned in [`Event::Done`].
    pub id: u64,
    pub set: Vec<Vip>,
    pub clear: Vec<Vip>,
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
    pub prefix: IpPrefix,
    /// Not the first of its subnet.
    pub secondary: bool,
    /// IPv6: the kernel still asks whether somebody else has it, or somebody has. Not to be used.
    pub tentative: bool,
}

/// What happened. After the start every link and address is told once, then [`Event::Ready`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// New or changed.
    Link(LinkInfo),
    LinkGone(LinkInfo),
    Address(AddressInfo),
    AddressGone(AddressInfo),
    /// Everything that exists has been told.
    Ready,
    /// A request is done; `added` addresses were not there before.
    Done {
        id: u64,
        added: u32,
        aborted: Aborted,
        errors: Vec<String>,
    },
    /// The thread has ended.
    Failed(String),
}

/// The thread's other end. Dropping it ends the thread after the requests in the queue.
#[derive(Debug)]
pub struct Links {
    requests: mpsc::Sender<Request>,
    events: mpsc::Receiver<Event>,
}

impl Links {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread; other failures come as [`Event::Failed`].
    pub fn start() -> io::Result<Self> {
        let (requests, request_rx) = mpsc::channel(REQUEST_LIMIT);
        let (event_tx, events) = mpsc::channel(EVENT_LIMIT);
        std::thread::Builder::new().name("links".into()).spawn(move || {
            let result = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(anyhow::Error::from)
                .and_then(|runtime| runtime.block_on(monitor::run(request_rx, &event_tx)));
            if let Err(error) = result {
                let _ = event_tx.blocking_send(Event::Failed(format!("{error:#}")));
            }
        })?;
        Ok(Self { requests, events })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// The queue is full or the thread has ended.
    pub fn request(&self, request: Request) -> Result<(), &'static str> {
        self.requests.try_send(request).map_err(|error| match error {
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
