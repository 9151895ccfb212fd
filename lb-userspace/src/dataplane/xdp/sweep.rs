//! Which connections are over, and how many each real server has. Pure.
//!
//! The table of connections is read in slices, between which packets and verdicts go on. A [`Pass`]
//! takes the entries in whatever order they come, joins both directions of a NAT connection when
//! the second one comes, and says at its end what the counters should have been at its begin.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use lb_common::abi::{
    FLOW_CLOSING, FLOW_RESET, FLOW_REVERSE, FLOW_RST, Flow, FlowKey6, METHOD_NAT, Real,
    STATE_ABSENT, STATE_DOWN,
};

use super::{image::Image, templates::Held};

/// Life of a connection of which a FIN was seen, after its last packet.
pub const CLOSING: Duration = Duration::from_secs(60);
/// Life of one that was reset: long enough for what is still under way.
pub const RESET: Duration = Duration::from_secs(10);
/// For connections whose virtual server is gone: MySQL's wait_timeout and a minute.
const ORPHANED: Duration = Duration::from_secs(28_860);

/// State of a connection, for `lbctl flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Established,
    Closing,
    /// Its real server died; the client's next packet is answered with a RST.
    Stale,
}

impl State {
    /// Of a connection of `real`; `flags` are the bits of both directions.
    pub fn new(flags: u16, generation: u32, real: Option<&Real>) -> Self {
        let alive =
            real.is_some_and(|real| real.state != STATE_ABSENT && real.generation == generation);
        match () {
            () if flags & FLOW_CLOSING != 0 => Self::Closing,
            () if !alive => Self::Stale,
            () => Self::Established,
        }
    }

    /// Word for status outputs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Stale => "stale",
        }
    }
}

/// Key of the entry for the replies of a connection of `real`.
pub fn reply_key(client: &FlowKey6, real: &Real) -> FlowKey6 {
    FlowKey6::tcp((real.addr, real.port), (client.src, client.sport))
}

/// Key of the connection that an entry for replies of `real` belongs to.
pub fn client_key(reply: &FlowKey6, real: &Real) -> FlowKey6 {
    FlowKey6::tcp((reply.dst, reply.dport), (real.vip, real.vip_port))
}

/// An entry that is over, and when it had its last packet: one that has had another since is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub key: FlowKey6,
    pub last_seen: u64,
}

/// A connection to take out: its entry, and under NAT that of its replies. An entry for replies
/// that belongs to none stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    pub entry: Stamp,
    pub replies: Option<Stamp>,
}

/// Active connections of a real id by its own count, and by the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    pub id: u16,
    /// To be added to what the program has counted by now.
    pub by: i64,
}

/// What a pass has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Connections that stay.
    pub flows: u64,
    /// Entries that they take, two each under NAT, of IPv4 and of IPv6.
    pub entries: [u64; 2],
    /// Connections that have lost their real server and are not reset yet, by its id.
    pub stale: BTreeMap<u16, u64>,
    /// Connections that stay, by real id, whatever their state.
    held: BTreeMap<u16, u64>,
    /// By real id: connections that were active at the begin; ids without any are missing.
    active: BTreeMap<u16, i64>,
}

/// A real server at the begin of a pass.
#[derive(Clone, Copy, Debug)]
struct Server {
    real: Real,
    /// Life of an idle connection.
    idle: Duration,
    /// Active connections as the program counted them.
    counted: i64,
}

/// One direction of a NAT connection whose other one has not come yet.
#[derive(Clone, Copy, Debug)]
struct Half {
    last_seen: u64,
    created: u64,
    generation: u32,
    real: u16,
    flags: u16,
}

impl Half {
    fn new(flow: &Flow) -> Self {
        let Flow { last_seen, created, generation, real, flags, .. } = *flow;
        Self { last_seen, created, generation, real, flags }
    }
}

/// The half under `key` if it is one of this real id: the same tuple may be left of another
/// connection.
fn take_of(halves: &mut HashMap<FlowKey6, Half>, key: &FlowKey6, real: u16) -> Option<Half> {
    if halves.get(key)?.real == real { halves.remove(key) } else { None }
}

/// One way through the table of connections.
///
/// [`Pass::entry`] for each entry, [`Pass::halves_left`] until nothing is left of them, then
/// [`Pass::corrections`] and [`Pass::lingers`].
///
/// # Counting while connections come and go
/// The counter of a real server is read at the begin, the table afterwards; what the program adds to
/// the counter meanwhile must not be found in the table too. So a connection counts as it was at the
/// begin: not, when it was made since; still, when it has ended since. Within the begin's own jiffy
/// it cannot be told. At the end the *difference* is added to what the counter says then.
///
/// # Bound
/// Halves that wait are at most as many as the tables have entries (`lvs_flow_table`), 72 bytes each;
/// in a table of NAT connections a quarter of it at the height.
#[derive(Debug)]
pub struct Pass {
    servers: BTreeMap<u16, Server>,
    jiffies: u64,
    tick: Duration,
    /// Each by its own key.
    clients: HashMap<FlowKey6, Half>,
    replies: HashMap<FlowKey6, Half>,
    found: Found,
    held: Held,
}

impl Pass {
    /// `counted` are the counters of active connections by real id, read just before `jiffies`;
    /// `tick` is the length of a jiffy.
    pub fn new(image: &Image, counted: &BTreeMap<u16, i64>, jiffies: u64, tick: Duration) -> Self {
        let idle: BTreeMap<u16, Duration> = image
            .services
            .values()
            .map(|service| (service.id, Duration::from_secs(u64::from(service.idle_secs))))
            .collect();
        let server = |real: &Real, id| Server {
            real: *real,
            idle: idle.get(&real.service).copied().unwrap_or(ORPHANED),
            counted: counted.get(id).copied().unwrap_or(0),
        };
        Self {
            servers: image.reals.iter().map(|(id, real)| (*id, server(real, id))).collect(),
            jiffies,
            tick,
            clients: HashMap::new(),
            replies: HashMap::new(),
            found: Found::default(),
            held: Held::default(),
        }
    }

    /// Takes an entry; what is over by it.
    pub fn entry(&mut self, key: FlowKey6, flow: &Flow) -> Option<Over> {
        let half = Half::new(flow);
        let Some(Server { real, .. }) = self.servers.get(&half.real) else {
            return match half.flags & FLOW_REVERSE {
                0 => self.judge(key, half, None),
                _ => self.stray(key, half),
            };
        };
        if half.flags & FLOW_REVERSE != 0 {
            let client = client_key(&key, real);
            if let Some(forward) = take_of(&mut self.clients, &client, half.real) {
                return self.judge(client, forward, Some((key, half)));
            }
            self.replies.insert(key, half);
        } else if real.method == METHOD_NAT {
            let replies = reply_key(&key, real);
            if let Some(back) = take_of(&mut self.replies, &replies, half.real) {
                return self.judge(key, half, Some((replies, back)));
            }
            self.clients.insert(key, half);
        } else {
            return self.judge(key, half, None);
        }
        None
    }

    /// After the last entry: at most `most` of the halves whose other one never came; what is over of
    /// them. `None`: no half is left.
    pub fn halves_left(&mut self, most: usize) -> Option<Vec<Over>> {
        let clients: Vec<FlowKey6> = self.clients.keys().take(most).copied().collect();
        if !clients.is_empty() {
            let over = clients.into_iter().filter_map(|key| {
                let half = self.clients.remove(&key)?;
                self.judge(key, half, None)
            });
            return Some(over.collect());
        }
        let replies: Vec<FlowKey6> = self.replies.keys().take(most).copied().collect();
        if replies.is_empty() {
            return None;
        }
        let over = replies.into_iter().filter_map(|key| {
            let half = self.replies.remove(&key)?;
            self.stray(key, half)
        });
        Some(over.collect())
    }

    /// An entry for replies alone. A young one may be that of a connection which was entered while
    /// the table was being read.
    fn stray(&self, key: FlowKey6, half: Half) -> Option<Over> {
        let over = age(half.last_seen, self.jiffies, self.tick) > RESET;
        let entry = Stamp { key, last_seen: half.last_seen };
        over.then_some(Over { entry, replies: None })
    }

    fn judge(&mut self, key: FlowKey6, half: Half, back: Option<(FlowKey6, Half)>) -> Option<Over> {
        let flags = half.flags | back.map_or(0, |(_, back)| back.flags & !FLOW_REVERSE);
        let last_seen = back.map_or(half.last_seen, |(_, back)| back.last_seen.max(half.last_seen));
        let server = self.servers.get(&half.real);
        let life = match flags {
            flags if flags & (FLOW_RST | FLOW_RESET) != 0 => RESET,
            flags if flags & FLOW_CLOSING != 0 => CLOSING,
            _ => server.map_or(ORPHANED, |server| server.idle),
        };
        if age(last_seen, self.jiffies, self.tick) > life {
            let stamp = |key, half: Half| Stamp { key, last_seen: half.last_seen };
            let replies = back.map(|(key, half)| stamp(key, half));
            return Some(Over { entry: stamp(key, half), replies });
        }
        self.found.flows += 1;
        let family = usize::from(key.src.to_v4().is_none());
        self.found.entries[family] += 1 + u64::from(back.is_some());
        *self.found.held.entry(half.real).or_default() += 1;
        if State::new(flags, half.generation, server.map(|server| &server.real)) == State::Stale {
            *self.found.stale.entry(half.real).or_default() += 1;
        }
        // What it was at the begin.
        let ended_since = last_seen > self.jiffies;
        let flags = if ended_since { flags & !FLOW_CLOSING } else { flags };
        let state = State::new(flags, half.generation, server.map(|server| &server.real));
        if let Some(server) = server.filter(|_| state == State::Established) {
            self.held.add(key.src, half.real, &server.real);
        }
        if state == State::Established && half.created <= self.jiffies {
            *self.found.active.entry(half.real).or_default() += 1;
        }
        None
    }

    /// Connections that stay.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Clients of connections that stay and are established.
    pub fn held(self) -> Held {
        self.held
    }

    /// What is to be added to the counters of the real servers that are what they were at the begin;
    /// those that died meanwhile have their turn in the next pass.
    pub fn corrections(&self, image: &Image) -> Vec<Correction> {
        let is_same = |id: &u16, then: &Real| {
            image.reals.get(id).is_some_and(|now| {
                (now.generation, now.state == STATE_ABSENT)
                    == (then.generation, then.state == STATE_ABSENT)
            })
        };
        self.servers
            .iter()
            .filter(|(id, server)| is_same(id, &server.real))
            .map(|(id, server)| Correction {
                id: *id,
                by: self.found.active.get(id).copied().unwrap_or(0) - server.counted,
            })
            .filter(|correction| correction.by != 0)
            .collect()
    }

    /// Whether a real server that is in no virtual server any more still has connections to wait
    /// for. Also those of which it is not known, because it was in one when the pass began.
    pub fn lingers(&self, id: u16) -> bool {
        let was_leaving = |server: &Server| is_leaving(&server.real);
        self.found.held.contains_key(&id) || !self.servers.get(&id).is_some_and(was_leaving)
    }
}

/// Whether a real server is only there for the connections that it has.
pub fn is_leaving(real: &Real) -> bool {
    real.service == 0 && real.state == STATE_DOWN
}

/// Time since a jiffy; none for one that is yet to come.
pub fn age(last_seen: u64, jiffies: u64, tick: Duration) -> Duration {
    let passed = jiffies.saturating_sub(last_seen);
    tick.checked_mul(u32::try_from(passed).unwrap_or(u32::MAX)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
