//! One host's end of flow sync.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    ALONE, HELLO, PEERS, SILENT, TELL_AGAIN, may_speak,
    peer::{Peer, Step},
    record::{Flow, Prune, Record},
    stream::Stream,
    wire::{Body, Datagram, ECHOES, Reject, Wanted, open, seal},
};
use crate::base::time::Instant;

/// Shortest distance of hellos, however many ask for one.
const HELLO_AGAIN: Duration = Duration::from_millis(5);
/// A peer that was silent for so long makes room for another.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What a node is told at its start.
#[derive(Clone)]
pub struct Config {
    /// Shared by all hosts.
    pub key: Vec<u8>,
    /// Who may speak; empty: whoever has the key (multicast).
    pub peers: Vec<IpAddr>,
    /// How long a start waits for its peers at most.
    pub timeout: Duration,
    /// Between two walks that tell which connections were used.
    pub refresh: Duration,
}

/// Whom a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Every peer, or the group.
    All,
    One(IpAddr),
}

/// What a node wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Send {
        to: To,
        bytes: Arc<[u8]>,
    },
    /// Enter these into the table, each over an older entry.
    Apply(Vec<Flow>),
    /// Take out what a full resync has not named.
    Prune(Prune),
    /// Begin to walk the own table, in place of a walk that is under way: [`Node::covers`], then [`Node::walked`],
    /// then [`Node::walk_ended`]. `full`: every connection, else those used since the last walk.
    Walk {
        full: bool,
    },
}

/// How it is with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Not heard, or no more.
    Away,
    /// Its connections are coming.
    Syncing,
    /// They are here.
    InSync,
}

impl PeerState {
    /// For people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Syncing => "syncing",
            Self::InSync => "in sync",
        }
    }
}

/// A peer as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub addr: IpAddr,
    pub state: PeerState,
    /// Since it was last heard; `None`: never.
    pub heard: Option<Duration>,
    /// Datagrams of its stream that are missing.
    pub behind: u64,
    pub counts: super::peer::Counts,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub datagrams: u64,
    pub opened: u64,
    pub refreshed: u64,
    pub closed: u64,
    /// Datagrams sent again because a peer asked.
    pub repaired: u64,
    /// Full resyncs begun.
    pub resyncs: u64,
}

/// See the module.
pub struct Node {
    config: Config,
    session: u64,
    started: Instant,
    stream: Stream,
    peers: BTreeMap<IpAddr, Peer>,
    /// Number of the last hello or request.
    control: u64,
    hello_at: Instant,
    hello_last: Option<Instant>,
    refresh_at: Instant,
    /// Of the walk that is under way: whether it is a full one.
    walking: Option<bool>,
    /// [`Node::tell_all`] was called: a full resync begins then.
    tell_at: Option<Instant>,
    told_at: Option<Instant>,
    settled: bool,
    effects: VecDeque<Effect>,
    rejects: BTreeMap<Reject, u64>,
    sent: Sent,
}

impl Node {
    /// `session` is a random number that no other start has had.
    pub fn new(config: Config, session: u64, now: Instant) -> Self {
        Self {
            refresh_at: now + config.refresh,
            config,
            session,
            started: now,
            stream: Stream::new(session),
            peers: BTreeMap::new(),
            control: 0,
            hello_at: now,
            hello_last: None,
            walking: None,
            tell_at: None,
            told_at: None,
            settled: false,
            effects: VecDeque::new(),
            rejects: BTreeMap::new(),
            sent: Sent::default(),
        }
    }

    /// Between two walks that tell which connections were used.
    pub fn set_refresh(&mut self, every: Duration) {
        self.config.refresh = every;
    }

    /// The next effect; to be called until `None` after every other call.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Node::handle_timeout`] has something to do.
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let asks = self.peers.values().filter_map(|peer| peer.asks_at(now));
        let waits = (!self.settled).then(|| (now + HELLO).min(self.started + self.config.timeout));
        let refresh = (self.walking.is_none() && self.has_peers(now)).then_some(self.refresh_at);
        asks.chain(self.stream.due())
            .chain(self.tell_at)
            .chain(waits)
            .chain(refresh)
            .fold(self.hello_at, Instant::min)
    }

    /// Does what is due; early calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.stream.due().is_some_and(|due| due <= now) {
            self.flush(now);
        }
        if self.hello_at <= now {
            self.hello(now);
        }
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_at = None;
            // Whoever comes later asks.
            if self.has_peers(now) {
                self.told_at = Some(now);
                self.begin_full(now);
            }
        }
        if self.walking.is_none() && self.refresh_at <= now && self.has_peers(now) {
            self.refresh_at = now + self.config.refresh;
            self.walking = Some(false);
            self.effects.push_back(Effect::Walk { full: false });
        }
        self.ask(now);
        self.settle(now);
    }

    /// Takes a datagram from the network.
    pub fn handle_datagram(&mut self, from: IpAddr, bytes: &[u8], now: Instant) {
        if let Err(reject) = self.datagram(from, bytes, now) {
            *self.rejects.entry(reject).or_default() += 1;
        }
        self.ask(now);
        self.settle(now);
    }

    fn datagram(&mut self, from: IpAddr, bytes: &[u8], now: Instant) -> Result<(), Reject> {
        if !may_speak(&self.config.peers, from) {
            return Err(Reject::Stranger);
        }
        let Datagram { session, number, body } = open(&self.config.key, bytes)?;
        if session == self.session {
            // Our own, from the group.
            return Ok(());
        }
        // A session has one address: what was recorded of it says nothing from another.
        let mut others = self.peers.iter().filter(|(addr, _)| **addr != from);
        if others.any(|(_, peer)| peer.has_believed(session)) {
            return Err(Reject::OldSession);
        }
        let echoed = matches!(&body, Body::Hello { heard, .. } if heard.contains(&self.session));
        let peer = self.peer(from, now)?;
        match peer.admit(session, echoed, now) {
            Ok(false) => {}
            // It must hear of us before it believes our request.
            Ok(true) => self.hello(now),
            Err(Reject::Unproven) => {
                self.hello_soon(now);
                return Err(Reject::Unproven);
            }
            Err(other) => return Err(other),
        }
        let own = self.session;
        let peer = self.peer(from, now)?;
        match body {
            Body::Hello { head, oldest, heard } => {
                peer.is_fresh(number, now)?;
                peer.hello(head, oldest);
                if !heard.contains(&own) {
                    self.hello_soon(now);
                }
            }
            Body::Data(records) => {
                for step in peer.data(number, records, now) {
                    self.effects.push_back(match step {
                        Step::Apply(flows) => Effect::Apply(flows),
                        Step::Prune(prune) => Effect::Prune(prune),
                    });
                }
            }
            Body::Request { of, what } => {
                if of != own {
                    return Err(Reject::NotForUs);
                }
                peer.is_fresh(number, now)?;
                match what {
                    Wanted::Full => self.begin_full(now),
                    Wanted::Again { from: first, count } => {
                        for bytes in self.stream.again(first, count) {
                            self.sent.repaired += 1;
                            self.sent.datagrams += 1;
                            self.effects.push_back(Effect::Send { to: To::One(from), bytes });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The peer at an address, perhaps a new one.
    fn peer(&mut self, from: IpAddr, now: Instant) -> Result<&mut Peer, Reject> {
        if !self.peers.contains_key(&from) && self.peers.len() >= PEERS {
            let gone = |peer: &Peer| now.saturating_since(peer.heard) >= FORGOTTEN;
            let old = self.peers.iter().find(|(_, peer)| gone(peer)).map(|(addr, _)| *addr);
            self.peers.remove(&old.ok_or(Reject::TooManyPeers)?);
        }
        Ok(self.peers.entry(from).or_insert_with(|| Peer::new(now)))
    }

    /// The kernel has changed a connection.
    pub fn changed(&mut self, flow: Flow, now: Instant) {
        if flow.is_closing() {
            self.sent.closed += 1;
            self.push(Record::Close(flow), now);
        } else {
            self.sent.opened += 1;
            self.push(Record::Open(flow), now);
        }
    }

    /// Everything is told anew: changes were lost, or this host has become master, so that peers may have what it
    /// has not.
    pub fn tell_all(&mut self, now: Instant) {
        let earliest = self.told_at.map_or(now, |last| (last + TELL_AGAIN).max(now));
        self.tell_at.get_or_insert(earliest);
    }

    /// Everything is wanted of every peer anew: what could not be entered before may be by now.
    pub fn rejoin(&mut self, now: Instant) {
        self.peers.values_mut().for_each(Peer::rejoin);
        self.ask(now);
    }

    /// The walk that was asked for is of these virtual servers.
    pub fn covers(&mut self, virtual_servers: &[(u8, SocketAddr)], now: Instant) {
        if self.walking == Some(true) {
            for (protocol, vip) in virtual_servers {
                self.push(Record::Covers(*protocol, *vip), now);
            }
        }
    }

    /// The walk has met these.
    pub fn walked(&mut self, flows: &[Flow], now: Instant) {
        for flow in flows {
            self.sent.refreshed += 1;
            self.push(Record::Refresh(*flow), now);
        }
    }

    /// The walk has ended.
    pub fn walk_ended(&mut self, now: Instant) {
        if self.walking.take() == Some(true) {
            self.push(Record::End, now);
            self.flush(now);
        }
    }

    /// Whether this host may become master: it has what its peers have, or has waited long enough. True for
    /// good.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Datagrams that were not taken, by reason; those that were not needed are not there.
    pub fn rejects(&self) -> &BTreeMap<Reject, u64> {
        &self.rejects
    }

    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// Every peer that is configured or was heard.
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let silent = self.config.peers.iter().filter(|addr| !self.peers.contains_key(addr));
        let silent = silent.map(|addr| PeerStatus {
            addr: *addr,
            state: PeerState::Away,
            heard: None,
            behind: 0,
            counts: super::peer::Counts::default(),
        });
        let known = self.peers.iter().map(|(addr, peer)| PeerStatus {
            addr: *addr,
            state: match () {
                () if !peer.is_live(now) => PeerState::Away,
                () if peer.is_synced() => PeerState::InSync,
                () => PeerState::Syncing,
            },
            heard: peer.session().map(|_| now.saturating_since(peer.heard)),
            behind: peer.behind(),
            counts: peer.counts,
        });
        known.chain(silent).collect()
    }

    fn has_peers(&self, now: Instant) -> bool {
        self.peers.values().any(|peer| peer.is_live(now))
    }

    fn push(&mut self, record: Record, now: Instant) {
        if let Some(bytes) = self.stream.push(&self.config.key, record, now) {
            self.tell(bytes, now);
        }
    }

    /// Sends what waits for more.
    pub fn flush(&mut self, now: Instant) {
        if let Some(bytes) = self.stream.flush(&self.config.key) {
            self.tell(bytes, now);
        }
    }

    /// A piece of the stream. Nobody listens: it is kept for whoever comes back.
    fn tell(&mut self, bytes: Arc<[u8]>, now: Instant) {
        if self.has_peers(now) {
            self.sent.datagrams += 1;
            self.effects.push_back(Effect::Send { to: To::All, bytes });
        }
    }

    /// Begins a full resync, anew if one is under way: whoever asked has missed its begin.
    fn begin_full(&mut self, now: Instant) {
        // The begin stands first in its datagram.
        self.flush(now);
        self.push(Record::Begin, now);
        self.sent.resyncs += 1;
        self.walking = Some(true);
        self.effects.push_back(Effect::Walk { full: true });
    }

    fn hello_soon(&mut self, now: Instant) {
        let earliest = self.hello_last.map_or(now, |last| (last + HELLO_AGAIN).max(now));
        self.hello_at = self.hello_at.min(earliest);
    }

    fn hello(&mut self, now: Instant) {
        (self.hello_last, self.hello_at) = (Some(now), now + HELLO);
        let heard = self.peers.values().flat_map(Peer::sessions).take(ECHOES).collect();
        let (head, oldest) = (self.stream.head(), self.stream.oldest());
        self.say(To::All, Body::Hello { head, oldest, heard });
    }

    fn ask(&mut self, now: Instant) {
        let peers = self.peers.iter_mut();
        let asks: Vec<_> = peers
            .filter_map(|(addr, peer)| Some((*addr, peer.session()?, peer.ask(now)?)))
            .collect();
        for (addr, of, what) in asks {
            self.say(To::One(addr), Body::Request { of, what });
        }
    }

    fn say(&mut self, to: To, body: Body) {
        self.control += 1;
        self.sent.datagrams += 1;
        let datagram = Datagram { session: self.session, number: self.control, body };
        let bytes = seal(&self.config.key, &datagram).into();
        self.effects.push_back(Effect::Send { to, bytes });
    }

    fn settle(&mut self, now: Instant) {
        if self.settled {
            return;
        }
        let waited = now.saturating_since(self.started);
        let live = || self.peers.values().filter(|peer| peer.is_live(now));
        let all_synced = live().all(Peer::is_synced);
        // A group may have members that were not heard yet.
        let expected = self.config.peers.len();
        let complete = expected > 0 && live().count() == expected;
        self.settled = waited >= self.config.timeout
            || all_synced && (complete || waited >= ALONE.max(SILENT));
    }
}
