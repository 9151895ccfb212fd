//! What flow sync has of the maps, and the only place where it touches them: which connections have changed, a
//! walk of those that this host is master of, and the entry of those that a peer is master of. In slices, as all
//! work on the table of connections.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use anyhow::Context as _;
use aya::maps::{Array, MapData, MapError, RingBuf};
use lb_common::{
    abi::{
        Addr, Be16, Control, FLOW_CLOSING, FLOW_FIN, FLOW_MIDSTREAM, FLOW_RESET, FLOW_REVERSE,
        FLOW_RST, Flow as Entry, FlowKey6, METHOD_NAT, PROTO_TCP, Real, be16,
    },
    maps,
};

use super::{
    encode::socket,
    engine::Xdp,
    housekeeping::SLICE,
    maps::{FlowWalk, array, pinned},
    sweep,
};
use crate::sync::{Flow, Key, Numbers, Prune, state};

/// Changes that one call takes at most.
pub const CHANGES: usize = 256;
/// Connections that a step of a walk reads at most; a millisecond's pause after each makes 64,000 a second, which
/// a peer can enter in a third of its time.
pub const STEP: usize = 64;

/// linux/bpf.h: of an update, that there is no entry.
const BPF_NOEXIST: u64 = 1;

/// Real server of a virtual server as a peer names it.
type Name = (Addr, Be16, Addr, Be16);

/// What became of connections that peers told of. One list for counters, status and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// In the table.
    Entered,
    /// No real server has this address here.
    UnknownServer,
    /// This host forwards it, and has seen its packets itself.
    OwnConnection,
    /// No vrrp_instance here has its VIP, so that this host forwards it in any case.
    Unguarded,
    /// Not of a kind that is forwarded here.
    Unsupported,
    /// Another connection has the same tuple towards its real server.
    Collision,
    /// The table of connections is full.
    TableFull,
    /// It was over, and not known here.
    Over,
    /// Taken out, because a full resync did not name it.
    Pruned,
}

impl Fate {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Entered,
        Self::UnknownServer,
        Self::OwnConnection,
        Self::Unguarded,
        Self::Unsupported,
        Self::Collision,
        Self::TableFull,
        Self::Over,
        Self::Pruned,
    ];

    /// Label of counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Entered => "entered",
            Self::UnknownServer => "unknown_server",
            Self::OwnConnection => "own_connection",
            Self::Unguarded => "unguarded",
            Self::Unsupported => "unsupported",
            Self::Collision => "collision",
            Self::TableFull => "table_full",
            Self::Over => "over",
            Self::Pruned => "pruned",
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Syncing {
    ring: Option<(RingBuf<MapData>, Array<MapData, u64>)>,
    /// What `changes_lost` said last.
    lost: u64,
    walk: Option<Stage>,
    prunes: VecDeque<(Prune, FlowWalk)>,
    /// Real ids by name, until the maps change.
    names: Option<BTreeMap<Name, u16>>,
    /// Gates that this host was master of at the last look.
    gates: BTreeSet<u16>,
    /// Jiffy in which the last walk began.
    walked: u64,
    fates: BTreeMap<Fate, u64>,
}

impl Syncing {
    /// Real servers have come, gone or changed.
    pub(super) fn forget_names(&mut self) {
        self.names = None;
    }

    fn count(&mut self, fate: Fate) {
        *self.fates.entry(fate).or_default() += 1;
    }
}

struct Stage {
    walk: FlowWalk,
    /// Only those with a packet since this jiffy; `None`: all.
    since: Option<u64>,
    /// What this host was master of when the walk began. A host that is demoted meanwhile goes on to the end: its
    /// peers take out what a full walk has not named.
    gates: BTreeSet<u16>,
}

impl Xdp {
    /// Whether the program reports changes. What it has reported meanwhile waits in the map.
    ///
    /// # Errors
    /// When a map cannot be used.
    pub fn sync_enable(&mut self, on: bool) -> anyhow::Result<()> {
        if on && self.syncing.ring.is_none() {
            let ring = RingBuf::try_from(pinned(&self.pin_dir, maps::CHANGES)?)
                .context("use the map changes")?;
            let lost: Array<MapData, u64> = array(&self.pin_dir, maps::CHANGES_LOST)?;
            self.syncing.lost = lost.get(&0, 0).context("read the map changes_lost")?;
            self.syncing.ring = Some((ring, lost));
        }
        let control = self.maps.control().context("read the map control")?;
        self.maps
            .set_control(Control { report_changes: u32::from(on), ..control })
            .context("write to the map control")
    }

    /// Connections that have changed since the last call, how many reports that were, [`CHANGES`] at most, and whether
    /// some were lost.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn sync_changes(&mut self) -> anyhow::Result<(Vec<Flow>, usize, bool)> {
        let Some((ring, lost)) = &mut self.syncing.ring else { return Ok((Vec::new(), 0, false)) };
        let mut keys = BTreeSet::new();
        let mut taken = 0;
        while taken < CHANGES {
            let Some(item) = ring.next() else { break };
            keys.extend(read(&item));
            taken += 1;
        }
        let total = lost.get(&0, 0).context("read the map changes_lost")?;
        let has_lost = std::mem::replace(&mut self.syncing.lost, total) != total;
        let jiffies = self.clock.sample()?.jiffies;
        let mut flows = Vec::new();
        for key in keys {
            if let Some(flow) = self.maps.flow(&key).context("read the flows")? {
                flows.extend(self.sync_tell(&key, &flow, jiffies)?);
            }
        }
        Ok((flows, taken, has_lost))
    }

    /// Whether this host has become master of something since the last call.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn sync_has_become_master(&mut self) -> anyhow::Result<bool> {
        let gates: BTreeSet<u16> = self.image()?.services.values().map(|it| it.gate).collect();
        let mut masters = Masters::new(self.clock.sample()?.jiffies);
        let mut now = BTreeSet::new();
        for gate in gates.into_iter().filter(|gate| *gate != 0) {
            if masters.is_master(self, gate)? {
                now.insert(gate);
            }
        }
        let before = std::mem::replace(&mut self.syncing.gates, now);
        Ok(!self.syncing.gates.is_subset(&before))
    }

    /// Begins a walk of the connections that this host is master of, in place of one that is under way. `full`:
    /// all of them, else those with a packet since the last walk began. The virtual servers that are covered.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn sync_walk(&mut self, full: bool) -> anyhow::Result<Vec<(u8, SocketAddr)>> {
        let jiffies = self.clock.sample()?.jiffies;
        let since = (!full).then_some(self.syncing.walked);
        self.syncing.walked = jiffies;
        let services: Vec<_> =
            self.image()?.services.iter().map(|(key, it)| (*key, it.gate)).collect();
        let mut masters = Masters::new(jiffies);
        let (mut covered, mut gates) = (Vec::new(), BTreeSet::new());
        for (key, gate) in services {
            if gate != 0 && masters.is_master(self, gate)? {
                covered.push((key.proto, socket(key.addr, key.port)));
                gates.insert(gate);
            }
        }
        self.syncing.walk = Some(Stage { walk: FlowWalk::new(STEP, self.has_six()), since, gates });
        Ok(covered)
    }

    /// The next connections of the walk, and whether it has ended.
    ///
    /// # Errors
    /// When the maps cannot be read; the walk has then ended too early.
    pub fn sync_walked(&mut self) -> anyhow::Result<(Vec<Flow>, bool)> {
        let Some(Stage { mut walk, since, gates }) = self.syncing.walk.take() else {
            return Ok((Vec::new(), true));
        };
        let entries = self.maps.flows(&mut walk).context("read the flows")?;
        let jiffies = self.clock.sample()?.jiffies;
        let mut flows = Vec::new();
        for (key, flow) in entries {
            let gate = self.image()?.reals.get(&flow.real).map_or(0, |real| real.gate);
            if flow.flags & FLOW_REVERSE != 0 || !gates.contains(&gate) {
                continue;
            }
            let told = self.sync_tell(&key, &flow, jiffies)?.filter(|told| {
                let ended = state::CLIENT_RST | state::SERVER_RST | state::RESET;
                let age = u128::from(told.idle_ms);
                let used = since.is_none_or(|since| {
                    sweep::age(since, jiffies, self.clock.tick()).as_millis() >= age
                });
                used && told.state & ended == 0
            });
            flows.extend(told);
        }
        let ended = walk.has_ended();
        if !ended {
            self.syncing.walk = Some(Stage { walk, since, gates });
        }
        Ok((flows, ended))
    }

    /// What a peer is told of an entry of the client's direction; `None`: nothing, its server has died or no
    /// vrrp_instance has its VIP.
    fn sync_tell(
        &mut self,
        key: &FlowKey6,
        flow: &Entry,
        jiffies: u64,
    ) -> anyhow::Result<Option<Flow>> {
        let Some(real) = self.image()?.reals.get(&flow.real).copied() else { return Ok(None) };
        // That it was reset is told, that it waits for it is not: each host judges its servers itself.
        let lives = flow.flags & FLOW_CLOSING == 0 && real.generation == flow.generation;
        if real.gate == 0
            || flow.flags & FLOW_REVERSE != 0
            || (real.vip, real.vip_port) != (key.dst, key.dport)
            // Of two families, which no record can say.
            || key.src.to_v4().is_some() != key.dst.to_v4().is_some()
        {
            return Ok(None);
        }
        let back = match real.method {
            METHOD_NAT => self
                .maps
                .flow(&sweep::reply_key(key, &real))
                .context("read the flows")?
                .filter(|back| back.real == flow.real),
            _ => None,
        };
        let told = describe(key, flow, back.as_ref(), &real, jiffies, self.clock.tick());
        Ok((lives || told.is_closing()).then_some(told))
    }

    /// Enters connections that a peer has told of.
    ///
    /// # Errors
    /// When a map cannot be used; the rest of them is not entered.
    pub fn sync_apply(&mut self, flows: &[Flow]) -> anyhow::Result<()> {
        let jiffies = self.clock.sample()?.jiffies;
        let mut masters = Masters::new(jiffies);
        for flow in flows {
            for (prune, _) in &mut self.syncing.prunes {
                prune.named.insert(flow.key);
            }
            let fate = self.enter(flow, jiffies, &mut masters)?;
            self.syncing.count(fate);
        }
        Ok(())
    }

    fn enter(&mut self, told: &Flow, jiffies: u64, masters: &mut Masters) -> anyhow::Result<Fate> {
        let Some(key) = map_key(&told.key) else { return Ok(Fate::Unsupported) };
        let (server, port) = end(told.server);
        let Some(id) = self.names()?.get(&(key.dst, key.dport, server, port)).copied() else {
            return Ok(Fate::UnknownServer);
        };
        let Some(real) = self.image()?.reals.get(&id).copied() else {
            return Ok(Fate::UnknownServer);
        };
        if real.gate == 0 {
            return Ok(Fate::Unguarded);
        }
        let before = self.maps.flow(&key).context("read the flows")?;
        if before.is_some_and(|flow| flow.packets != 0) && masters.is_master(self, real.gate)? {
            return Ok(Fate::OwnConnection);
        }
        let over = state::CLIENT_RST | state::SERVER_RST | state::RESET;
        if before.is_none() && told.state & over != 0 {
            return Ok(Fate::Over);
        }
        // Entered by the program meanwhile: it knows better.
        let mode = if before.is_none() { BPF_NOEXIST } else { 0 };
        let way = before.filter(|flow| flow.real == id);
        let (flow, back) = entries(told, id, &real, way.as_ref(), jiffies, self.clock.tick());
        let mut writes = Vec::new();
        // As the program does, the replies first.
        if let Some(back) = back {
            let reply = sweep::reply_key(&key, &real);
            let other = self.maps.flow(&reply).context("read the flows")?;
            if other.is_some_and(|other| other.real != id && other.flags & FLOW_CLOSING == 0) {
                return Ok(Fate::Collision);
            }
            writes.push((reply, back, if other.is_none() { BPF_NOEXIST } else { 0 }));
        }
        writes.push((key, flow, mode));
        for (key, flow, mode) in writes {
            match self.maps.put_flow(&key, &flow, mode) {
                Ok(()) => {}
                Err(error) if is(&error, libc::E2BIG) || is(&error, libc::ENOMEM) => {
                    return Ok(Fate::TableFull);
                }
                Err(error) if is(&error, libc::EEXIST) => return Ok(Fate::OwnConnection),
                Err(error) => return Err(error).context("write to the flows"),
            }
        }
        Ok(Fate::Entered)
    }

    /// Real ids by name.
    fn names(&mut self) -> anyhow::Result<&BTreeMap<Name, u16>> {
        let names = match self.syncing.names.take() {
            Some(names) => names,
            None => self
                .image()?
                .reals
                .iter()
                .filter(|(_, real)| real.service != 0)
                .map(|(id, real)| ((real.vip, real.vip_port, real.addr, real.port), *id))
                .collect(),
        };
        Ok(self.syncing.names.insert(names))
    }

    /// Everything that a full resync has not named is over; [`Xdp::sync_work`] takes it out.
    pub fn sync_prune(&mut self, prune: Prune) {
        let walk = FlowWalk::new(SLICE, self.has_six());
        self.syncing.prunes.push_back((prune, walk));
    }

    /// A slice of that; whether there is more.
    ///
    /// # Errors
    /// When a map cannot be used; that prune is given up.
    pub fn sync_work(&mut self) -> anyhow::Result<bool> {
        let Some((prune, mut walk)) = self.syncing.prunes.pop_front() else { return Ok(false) };
        let entries = self.maps.flows(&mut walk).context("read the flows")?;
        let mut masters = Masters::new(self.clock.sample()?.jiffies);
        for (key, flow) in entries {
            let told = Key {
                protocol: PROTO_TCP,
                client: socket(key.src, key.sport),
                vip: socket(key.dst, key.dport),
            };
            let covered = prune.covered.contains(&(told.protocol, told.vip));
            if flow.flags & FLOW_REVERSE != 0 || !covered || prune.named.contains(&told) {
                continue;
            }
            let real = self.image()?.reals.get(&flow.real).copied();
            if let Some(real) = real {
                if real.gate == 0 || masters.is_master(self, real.gate)? {
                    continue;
                }
                if real.method == METHOD_NAT {
                    let reply = sweep::reply_key(&key, &real);
                    let back = self.maps.flow(&reply).context("read the flows")?;
                    if back.is_some_and(|back| back.real == flow.real) {
                        self.maps.remove_flow(&reply).context("remove from the flows")?;
                    }
                }
            }
            self.maps.remove_flow(&key).context("remove from the flows")?;
            self.syncing.count(Fate::Pruned);
        }
        if !walk.has_ended() {
            self.syncing.prunes.push_front((prune, walk));
        }
        Ok(!self.syncing.prunes.is_empty())
    }

    /// What became of connections that peers told of, by name.
    pub fn sync_fates(&self) -> BTreeMap<String, u64> {
        let count = |fate: Fate| self.syncing.fates.get(&fate).copied().unwrap_or(0);
        Fate::ALL.map(|fate| (fate.name().to_owned(), count(fate))).into()
    }

    /// Shortest life of an idle connection that is synced.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn sync_shortest_idle(&mut self) -> anyhow::Result<Option<Duration>> {
        let guarded = self.image()?.services.values().filter(|service| service.gate != 0);
        Ok(guarded.map(|service| Duration::from_secs(u64::from(service.idle_secs))).min())
    }
}

/// Of which gates this host is master, each asked for once.
struct Masters {
    jiffies: u64,
    known: BTreeMap<u16, bool>,
}

impl Masters {
    fn new(jiffies: u64) -> Self {
        Self { jiffies, known: BTreeMap::new() }
    }

    fn is_master(&mut self, engine: &Xdp, gate: u16) -> anyhow::Result<bool> {
        if let Some(known) = self.known.get(&gate) {
            return Ok(*known);
        }
        let lease = engine.maps.lease.get(&u32::from(gate), 0).context("read the map lease")?;
        self.known.insert(gate, self.jiffies < lease);
        Ok(self.jiffies < lease)
    }
}

fn is(error: &MapError, errno: i32) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(errno))
}

/// The record's fields, as the program lays them out; `None` when it is too short.
pub fn read(bytes: &[u8]) -> Option<FlowKey6> {
    let bytes = bytes.get(..size_of::<FlowKey6>())?;
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u16_at = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let addr_at = |at: usize| {
        Some(Addr { words: [u32_at(at)?, u32_at(at + 4)?, u32_at(at + 8)?, u32_at(at + 12)?] })
    };
    Some(FlowKey6 {
        src: addr_at(0)?,
        dst: addr_at(16)?,
        sport: u16_at(32)?,
        dport: u16_at(34)?,
        proto: u16_at(36)?,
        pad: 0,
    })
}

fn end(addr: SocketAddr) -> (Addr, Be16) {
    (Addr::from_ip(addr.ip()), be16(addr.port()))
}

/// The key of the client's direction; `None` for what is not forwarded here.
fn map_key(key: &Key) -> Option<FlowKey6> {
    let key = (key.protocol == PROTO_TCP).then(|| FlowKey6::tcp(end(key.client), end(key.vip)))?;
    (key.src.to_v4().is_some() == key.dst.to_v4().is_some()).then_some(key)
}

/// What the state of a direction is in a record, if that is the client's, and if it is the server's.
const BITS: [(u16, u8, u8); 2] = [
    (FLOW_FIN, state::CLIENT_FIN, state::SERVER_FIN),
    (FLOW_RST, state::CLIENT_RST, state::SERVER_RST),
];

/// An entry as a record.
fn describe(
    key: &FlowKey6,
    flow: &Entry,
    back: Option<&Entry>,
    real: &Real,
    jiffies: u64,
    tick: Duration,
) -> Flow {
    let replies = back.copied().unwrap_or_default();
    let mut bits = 0;
    for (flag, client, server) in BITS {
        bits |= if flow.flags & flag != 0 { client } else { 0 };
        bits |= if replies.flags & flag != 0 { server } else { 0 };
    }
    bits |= if (flow.flags | replies.flags) & FLOW_RESET != 0 { state::RESET } else { 0 };
    bits |= if flow.flags & FLOW_MIDSTREAM != 0 { state::MIDSTREAM } else { 0 };
    let idle = sweep::age(flow.last_seen.max(replies.last_seen), jiffies, tick);
    let age = sweep::age(flow.created, jiffies, tick);
    let numbers = |flow: &Entry| Numbers { seq_end: flow.seq_end, ack: flow.ack };
    Flow {
        key: Key {
            protocol: PROTO_TCP,
            client: socket(key.src, key.sport),
            vip: socket(key.dst, key.dport),
        },
        server: socket(real.addr, real.port),
        state: bits,
        idle_ms: u32::try_from(idle.as_millis()).unwrap_or(u32::MAX),
        age_s: u32::try_from(age.as_secs()).unwrap_or(u32::MAX),
        client: numbers(flow),
        replies: back.map(numbers),
    }
}

/// A record as entries: of the client's direction, and of the replies where they come by here. `way`: an older entry
/// of the same connection, which knows how to reach the client.
fn entries(
    told: &Flow,
    id: u16,
    real: &Real,
    way: Option<&Entry>,
    jiffies: u64,
    tick: Duration,
) -> (Entry, Option<Entry>) {
    let ticks = |time: Duration| {
        let ticks = time.as_nanos() / tick.as_nanos().max(1);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    };
    let before = |time| jiffies.saturating_sub(ticks(time)).max(1);
    let of = |server: bool| {
        BITS.iter().fold(0, |flags, (flag, client_bit, server_bit)| {
            let bit = if server { *server_bit } else { *client_bit };
            if told.state & bit != 0 { flags | flag } else { flags }
        })
    };
    let reset = if told.state & state::RESET != 0 { FLOW_RESET } else { 0 };
    let midstream = if told.state & state::MIDSTREAM != 0 { FLOW_MIDSTREAM } else { 0 };
    let way = way.copied().unwrap_or_default();
    let flow = Entry {
        last_seen: before(Duration::from_millis(u64::from(told.idle_ms))),
        generation: real.generation,
        real: id,
        flags: of(false) | reset | midstream | if real.method == METHOD_NAT { 0 } else { of(true) },
        seq_end: told.client.seq_end,
        ack: told.client.ack,
        macs: way.macs,
        ifindex: way.ifindex,
        packets: 0,
        bytes: 0,
        created: before(Duration::from_secs(u64::from(told.age_s))),
    };
    let swapped = Numbers { seq_end: told.client.ack, ack: told.client.seq_end };
    let Numbers { seq_end, ack } = told.replies.unwrap_or(swapped);
    let back = Entry { flags: FLOW_REVERSE | of(true) | reset, seq_end, ack, ..flow };
    (flow, (real.method == METHOD_NAT).then_some(back))
}

#[cfg(test)]
mod tests;
