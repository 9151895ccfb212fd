//! Nodes in virtual time, over a network that loses, repeats, delays and overtakes.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    base::time::Instant,
    sync::{
        ALONE, BATCH, Config, Effect, Flow, Key, Node, Numbers, PEERS, PeerState, Prune, Reject,
        SILENT, To, state,
    },
};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const TIMEOUT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(1);
/// Entries that a step of a walk reads.
const WALK: usize = 16;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }
}

fn ip(host: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, 1 + host as u8).into()
}

fn vip() -> SocketAddr {
    "192.0.2.1:3306".parse().expect("an address")
}

fn flow(port: u16, server: u8) -> Flow {
    Flow {
        key: Key {
            protocol: 6,
            client: SocketAddr::new([198, 51, 100, 1].into(), port),
            vip: vip(),
        },
        server: SocketAddr::new([10, 0, 1, server].into(), 3306),
        state: 0,
        idle_ms: 0,
        age_s: 0,
        client: Numbers { seq_end: 1, ack: 2 },
        replies: None,
    }
}

struct Host {
    node: Node,
    table: BTreeMap<Key, Flow>,
    walk: Option<(bool, VecDeque<Key>)>,
    prune: Vec<Prune>,
}

/// A datagram on its way.
struct Packet {
    at: Instant,
    from: usize,
    to: usize,
    bytes: Arc<[u8]>,
}

struct Bed {
    now: Instant,
    hosts: Vec<Host>,
    active: usize,
    sessions: u64,
    flying: Vec<Packet>,
    /// Everything that was ever sent, to be sent again by who listens.
    tape: Vec<(usize, Arc<[u8]>)>,
    dice: Dice,
    /// Of a hundred datagrams, those that are lost, come twice, are late.
    loss: u64,
    twice: u64,
    late: u64,
    cut: bool,
    /// Walks never end.
    stuck: bool,
    unicast: bool,
}

impl Bed {
    fn new(hosts: usize, unicast: bool, seed: u64) -> Self {
        let mut bed = Self {
            now: Instant::from_nanos(1),
            hosts: Vec::new(),
            active: 0,
            sessions: 0,
            flying: Vec::new(),
            tape: Vec::new(),
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            loss: 0,
            twice: 0,
            late: 0,
            cut: false,
            stuck: false,
            unicast,
        };
        for host in 0..hosts {
            let node = bed.node(host, hosts);
            let table = BTreeMap::new();
            bed.hosts.push(Host { node, table, walk: None, prune: Vec::new() });
        }
        bed
    }

    fn node(&mut self, host: usize, of: usize) -> Node {
        self.sessions += 1;
        let peers = (0..of).filter(|it| *it != host).map(ip);
        let config = Config {
            key: KEY.to_vec(),
            peers: if self.unicast { peers.collect() } else { Vec::new() },
            timeout: TIMEOUT,
            refresh: Duration::from_secs(2),
        };
        Node::new(config, 1000 + self.sessions, self.now)
    }

    /// The host loses its processes and begins anew, with or without its table.
    fn restart(&mut self, host: usize, keeps: bool) {
        let node = self.node(host, self.hosts.len());
        let it = &mut self.hosts[host];
        (it.node, it.walk) = (node, None);
        it.prune.clear();
        if !keeps {
            it.table.clear();
        }
    }

    fn send(&mut self, from: usize, to: To, bytes: &Arc<[u8]>) {
        self.tape.push((from, Arc::clone(bytes)));
        for host in 0..self.hosts.len() {
            if host == from || self.cut || !matches!(to, To::All) && to != To::One(ip(host)) {
                continue;
            }
            let copies = 1 + u64::from(self.dice.roll(100) < self.twice);
            for _ in 0..copies {
                if self.dice.roll(100) < self.loss {
                    continue;
                }
                let late = if self.dice.roll(100) < self.late { self.dice.roll(40) } else { 0 };
                let at = self.now + Duration::from_micros(100) + Duration::from_millis(late);
                let bytes = Arc::clone(bytes);
                self.flying.push(Packet { at, from, to: host, bytes });
            }
        }
    }

    fn perform(&mut self, host: usize) {
        while let Some(effect) = self.hosts[host].node.poll_effect() {
            match effect {
                Effect::Send { to, bytes } => self.send(host, to, &bytes),
                Effect::Apply(flows) => {
                    let it = &mut self.hosts[host];
                    for flow in flows {
                        for prune in &mut it.prune {
                            prune.named.insert(flow.key);
                        }
                        // The active one knows its own connections better.
                        if host != self.active || !it.table.contains_key(&flow.key) {
                            it.table.insert(flow.key, flow);
                        }
                    }
                }
                Effect::Prune(prune) => self.hosts[host].prune.push(prune),
                Effect::Walk { full } => {
                    let it = &mut self.hosts[host];
                    let keys = if host == self.active {
                        it.table.keys().copied().collect()
                    } else {
                        VecDeque::new()
                    };
                    it.walk = Some((full, keys));
                    let covers: &[_] = if host == self.active { &[(6, vip())] } else { &[] };
                    it.node.covers(covers, self.now);
                }
            }
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        let (due, flying) =
            std::mem::take(&mut self.flying).into_iter().partition(|it| it.at <= now);
        self.flying = flying;
        let mut due: Vec<Packet> = due;
        due.sort_by_key(|packet| packet.at);
        for Packet { from, to, bytes, .. } in due {
            self.hosts[to].node.handle_datagram(ip(from), &bytes, now);
            self.perform(to);
        }
        for host in 0..self.hosts.len() {
            let active = self.active == host;
            let it = &mut self.hosts[host];
            if let Some((_, keys)) = &mut it.walk
                && !self.stuck
            {
                let piece: Vec<Key> = keys.drain(..keys.len().min(WALK)).collect();
                let ended = keys.is_empty();
                let flows: Vec<Flow> =
                    piece.iter().filter_map(|key| it.table.get(key)).copied().collect();
                it.node.walked(&flows, now);
                if ended {
                    it.walk = None;
                    it.node.walk_ended(now);
                }
            }
            for prune in it.prune.drain(..).filter(|_| !active) {
                it.table.retain(|key, _| {
                    prune.named.contains(key) || !prune.covered.contains(&(key.protocol, key.vip))
                });
            }
            it.node.handle_timeout(now);
            self.perform(host);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// A change in the active host's kernel.
    fn change(&mut self, flow: Flow) {
        let it = &mut self.hosts[self.active];
        it.table.insert(flow.key, flow);
        it.node.changed(flow, self.now);
        self.perform(self.active);
    }

    fn fail_over(&mut self, to: usize) {
        self.active = to;
        self.hosts[to].node.tell_all(self.now);
    }

    /// Connections that live, with their servers.
    fn living(&self, host: usize) -> BTreeMap<Key, SocketAddr> {
        let table = self.hosts[host].table.values();
        table.filter(|flow| !flow.is_closing()).map(|flow| (flow.key, flow.server)).collect()
    }

    fn is_converged(&self) -> bool {
        let wanted = self.living(self.active);
        (0..self.hosts.len()).all(|host| self.living(host) == wanted)
    }

    fn until(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let begun = self.now;
        while !done(self) {
            assert!(self.now - begun < limit, "not within {limit:?}: {what}");
            self.step();
        }
        self.now - begun
    }

    fn state(&self, host: usize, of: usize) -> PeerState {
        let peers = self.hosts[host].node.peers(self.now);
        peers.iter().find(|peer| peer.addr == ip(of)).map_or(PeerState::Away, |peer| peer.state)
    }

    fn rejected(&self, host: usize, reject: Reject) -> u64 {
        self.hosts[host].node.rejects().get(&reject).copied().unwrap_or(0)
    }
}

#[test]
fn a_change_is_at_the_peer_within_its_bound() {
    let mut bed = Bed::new(2, true, 1);
    bed.until("in sync", ALONE, |bed| bed.state(1, 0) == PeerState::InSync);
    for port in 1..=200 {
        bed.change(flow(port, 1));
        if port % 2 == 0 {
            bed.change(Flow { state: state::CLIENT_FIN, ..flow(port, 1) });
        }
        let took = bed.until("told", BATCH * 2, Bed::is_converged);
        assert!(took <= BATCH + STEP * 2, "{took:?}");
    }
}

#[test]
fn a_host_that_joins_gets_everything_and_loses_what_is_over() {
    for unicast in [true, false] {
        let mut bed = Bed::new(2, unicast, 2);
        for port in 1..=1000 {
            bed.change(flow(port, (port % 3) as u8));
        }
        bed.until("both are ready", ALONE * 2, |bed| {
            bed.is_converged() && bed.hosts[1].node.is_settled()
        });
        bed.cut = true;
        bed.restart(1, true);
        for port in 1..=500 {
            bed.change(Flow { state: state::SERVER_RST, ..flow(port, 1) });
            let key = flow(port, 1).key;
            bed.hosts[0].table.remove(&key);
        }
        bed.cut = false;
        assert!(!bed.hosts[1].node.is_settled());
        let took = bed.until("joined", ALONE * 2, |bed| bed.hosts[1].node.is_settled());
        bed.step();
        assert!(bed.is_converged(), "mastership was given before the end of the resync");
        assert_eq!(bed.hosts[1].table.len(), 500, "what nobody has any more is gone");
        assert!(!unicast || took < Duration::from_millis(500), "{took:?}");
    }
}

#[test]
fn a_lone_host_and_one_with_a_dumb_peer_do_not_wait_long() {
    let mut bed = Bed::new(2, true, 3);
    bed.cut = true;
    let took = bed.until("alone", TIMEOUT, |bed| bed.hosts[0].node.is_settled());
    assert!(took <= ALONE + STEP * 2, "{took:?}");
    // It answers and never ends its resync.
    let mut bed = Bed::new(2, true, 4);
    bed.change(flow(1, 1));
    bed.stuck = true;
    let took = bed.until("timed out", TIMEOUT * 2, |bed| bed.hosts[1].node.is_settled());
    assert!(took >= TIMEOUT && took <= TIMEOUT + STEP * 2, "{took:?}");
    // It dies meanwhile.
    bed.restart(1, false);
    bed.until("heard", ALONE, |bed| bed.state(1, 0) == PeerState::Syncing);
    bed.cut = true;
    let took = bed.until("given up", TIMEOUT, |bed| bed.hosts[1].node.is_settled());
    assert!(took >= SILENT / 2 && took <= ALONE + Duration::from_millis(100), "{took:?}");
}

/// Loss, repetition, overtaking, cuts, restarts, fail-overs: once the network is whole, all tables
/// are equal.
#[test]
fn tables_become_equal_whatever_happened() {
    let seeds = std::env::var("LB_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    tables_become_equal(seeds.map_or(0..12, |seed: u64| seed..seed + 1));
}

#[test]
#[ignore = "takes seconds: cargo xtask test"]
fn tables_become_equal_whatever_else_happened() {
    tables_become_equal(12..60);
}

fn tables_become_equal(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut bed = Bed::new(2 + (seed % 2) as usize, seed % 3 != 0, seed);
        (bed.loss, bed.twice, bed.late) = (seed % 25, seed % 11, seed % 31);
        let hosts = bed.hosts.len() as u64;
        for _ in 0..400 {
            let port = 1 + bed.dice.roll(300) as u16;
            match bed.dice.roll(100) {
                0..60 => {
                    let server = bed.dice.roll(3) as u8;
                    bed.change(flow(port, server));
                }
                60..80 => {
                    let now = bed.hosts[bed.active].table.get(&flow(port, 0).key).copied();
                    if let Some(flow) = now {
                        bed.change(Flow { state: state::CLIENT_RST, ..flow });
                    }
                }
                80 => bed.cut = !bed.cut,
                81 => {
                    let (host, keeps) = (bed.dice.roll(hosts) as usize, bed.dice.roll(2) == 0);
                    // A master that loses its table is none any more.
                    if host == bed.active && !keeps {
                        bed.fail_over((host + 1) % hosts as usize);
                    }
                    bed.restart(host, keeps);
                }
                82 => {
                    let to = bed.dice.roll(hosts) as usize;
                    bed.fail_over(to);
                }
                83 => bed.hosts[bed.active].node.tell_all(bed.now),
                _ => {
                    let time = Duration::from_millis(bed.dice.roll(50));
                    bed.run(time);
                }
            }
        }
        (bed.cut, bed.loss, bed.late, bed.twice) = (false, 0, 0, 0);
        bed.until(&format!("converged, LB_SIM_SEED={seed}"), Duration::from_secs(10), |bed| {
            let hosts = 0..bed.hosts.len();
            let pairs = hosts.clone().flat_map(|host| hosts.clone().map(move |of| (host, of)));
            let mut others = pairs.filter(|(host, of)| host != of);
            bed.is_converged()
                && bed.hosts.iter().all(|host| host.node.is_settled())
                && others.all(|(host, of)| bed.state(host, of) == PeerState::InSync)
        });
        bed.run(Duration::from_secs(3));
        assert!(bed.is_converged(), "LB_SIM_SEED={seed}");
    }
}

/// A gap that the kept datagrams can fill is filled by them, and no full resync is needed.
#[test]
fn a_gap_is_healed_out_of_what_is_kept() {
    let mut bed = Bed::new(2, true, 5);
    bed.until("in sync", ALONE, |bed| bed.state(1, 0) == PeerState::InSync);
    let resyncs = bed.hosts[0].node.sent().resyncs;
    for round in 0..50 {
        bed.loss = if round % 2 == 0 { 100 } else { 0 };
        for port in 0..20 {
            bed.change(flow(1 + round * 20 + port, 1));
        }
        bed.run(Duration::from_millis(30));
    }
    bed.loss = 0;
    bed.until("healed", ALONE, Bed::is_converged);
    let sent = bed.hosts[0].node.sent();
    assert_eq!(sent.resyncs, resyncs);
    assert!(sent.repaired >= 25, "{sent:?}");
}

/// Each datagram is asked for once, not once for each that comes before it.
#[test]
fn a_long_gap_is_not_told_many_times_over() {
    let mut bed = Bed::new(2, true, 11);
    bed.until("in sync", ALONE, |bed| bed.state(1, 0) == PeerState::InSync);
    bed.loss = 100;
    for port in 1..=400 {
        bed.change(flow(port, 1));
        let now = bed.now;
        bed.hosts[0].node.flush(now);
        bed.hosts[0].node.poll_effect();
    }
    bed.loss = 0;
    bed.until("healed", ALONE * 2, Bed::is_converged);
    let repaired = bed.hosts[0].node.sent().repaired;
    assert!((400..=450).contains(&repaired), "{repaired}");
}

#[test]
fn a_gap_that_is_too_long_is_healed_by_a_full_resync() {
    let mut bed = Bed::new(2, true, 6);
    bed.until("in sync", ALONE, |bed| bed.state(1, 0) == PeerState::InSync);
    let resyncs = bed.hosts[0].node.sent().resyncs;
    bed.loss = 100;
    for port in 1..=2100 {
        bed.change(flow(port, 1));
        let now = bed.now;
        bed.hosts[0].node.flush(now);
        bed.hosts[0].node.poll_effect();
    }
    bed.loss = 0;
    bed.until("healed", ALONE * 2, Bed::is_converged);
    assert_eq!(bed.hosts[0].node.sent().resyncs, resyncs + 1);
}

/// Whatever an eavesdropper sends again, of this life or of an earlier one: nothing changes.
#[test]
fn replays_change_nothing_and_are_counted() {
    let mut bed = Bed::new(2, true, 7);
    for port in 1..=50 {
        bed.change(flow(port, 1));
    }
    bed.until("in sync", ALONE, Bed::is_converged);
    bed.run(ALONE);
    bed.restart(0, true);
    bed.restart(1, true);
    bed.until("in sync", ALONE, |bed| bed.state(1, 0) == PeerState::InSync);
    // All of these are over.
    for port in 1..=50 {
        bed.change(Flow { state: state::CLIENT_FIN, ..flow(port, 1) });
    }
    bed.until("told", ALONE, Bed::is_converged);
    bed.run(ALONE);
    assert!(bed.living(1).is_empty());
    let (tape, resyncs) = (bed.tape.clone(), bed.hosts[0].node.sent().resyncs);
    assert!(tape.len() > 20);
    for (from, bytes) in &tape {
        let now = bed.now;
        let to = 1 - from;
        bed.hosts[to].node.handle_datagram(ip(*from), bytes, now);
        bed.perform(to);
        assert!(bed.living(1).is_empty());
    }
    bed.run(Duration::from_millis(50));
    assert!(bed.living(1).is_empty());
    assert_eq!(bed.state(1, 0), PeerState::InSync, "the session that lives is still believed");
    assert_eq!(bed.hosts[0].node.sent().resyncs, resyncs, "no recorded request was obeyed");
    assert!(bed.rejected(1, Reject::Replayed) > 0);
    assert!(bed.rejected(1, Reject::Unproven) > 0, "{:?}", bed.hosts[1].node.rejects());
}

/// A session that was replaced does not come back by a recording of its hellos, although these name the
/// session of who listens.
#[test]
fn a_replaced_session_is_over() {
    let mut bed = Bed::new(2, true, 8);
    bed.until("in sync", ALONE, |bed| bed.state(1, 0) == PeerState::InSync);
    bed.run(ALONE);
    let tape = bed.tape.clone();
    bed.restart(0, true);
    bed.until("in sync", ALONE, |bed| bed.state(1, 0) == PeerState::InSync);
    bed.run(Duration::from_millis(300));
    for (_, bytes) in tape.iter().filter(|(from, _)| *from == 0) {
        let now = bed.now;
        bed.hosts[1].node.handle_datagram(ip(0), bytes, now);
        bed.perform(1);
        assert_eq!(bed.state(1, 0), PeerState::InSync);
    }
    assert!(bed.rejected(1, Reject::OldSession) > 0);
}

/// In a group any address may speak. One that repeats what another has said is not believed.
#[test]
fn a_recording_says_nothing_from_another_address() {
    let mut bed = Bed::new(2, false, 12);
    for port in 1..=20 {
        bed.change(flow(port, 1));
    }
    bed.until("in sync", ALONE, |bed| bed.state(1, 0) == PeerState::InSync && bed.is_converged());
    bed.run(ALONE);
    let tape = bed.tape.clone();
    for port in 21..=40 {
        bed.change(flow(port, 1));
    }
    bed.until("told", ALONE, Bed::is_converged);
    for (_, bytes) in tape.iter().filter(|(from, _)| *from == 0) {
        let now = bed.now;
        bed.hosts[1].node.handle_datagram(ip(7), bytes, now);
        bed.perform(1);
    }
    bed.run(Duration::from_millis(50));
    assert_eq!(bed.living(1).len(), 40, "none was taken out");
    assert!(bed.rejected(1, Reject::OldSession) > 0);
    assert_eq!(bed.state(1, 7), PeerState::Away);
}

/// A start that waits for the connections of a session does not take an earlier resync of it for them.
#[test]
fn a_recorded_resync_does_not_end_a_start() {
    let mut bed = Bed::new(2, true, 13);
    for port in 1..=20 {
        bed.change(flow(port, 1));
    }
    bed.until("in sync", ALONE, |bed| bed.state(1, 0) == PeerState::InSync && bed.is_converged());
    let tape = bed.tape.clone();
    bed.stuck = true;
    bed.restart(1, false);
    bed.until("heard", ALONE, |bed| bed.state(1, 0) == PeerState::Syncing);
    for (_, bytes) in tape.iter().filter(|(from, _)| *from == 0) {
        let now = bed.now;
        bed.hosts[1].node.handle_datagram(ip(0), bytes, now);
        bed.perform(1);
    }
    assert_eq!(bed.state(1, 0), PeerState::Syncing);
    assert!(!bed.hosts[1].node.is_settled());
}

#[test]
fn strangers_and_too_many_peers_are_not_heard() {
    let mut bed = Bed::new(2, true, 9);
    bed.run(Duration::from_millis(100));
    let (_, bytes) = bed.tape.iter().find(|(from, _)| *from == 0).expect("a hello").clone();
    let now = bed.now;
    bed.hosts[1].node.handle_datagram([192, 0, 2, 9].into(), &bytes, now);
    assert_eq!(bed.rejected(1, Reject::Stranger), 1);
    let mut bed = Bed::new(2, false, 10);
    bed.cut = true;
    for host in 0..PEERS + 3 {
        let now = bed.now;
        bed.hosts[1].node.handle_datagram(ip(100 + host), &bytes, now);
    }
    assert_eq!(bed.rejected(1, Reject::TooManyPeers), 3);
    assert_eq!(bed.hosts[1].node.peers(bed.now).len(), PEERS);
    // Those who are silent for long make room.
    bed.run(Duration::from_secs(61));
    let now = bed.now;
    bed.hosts[1].node.handle_datagram(ip(120), &bytes, now);
    assert_eq!(bed.rejected(1, Reject::TooManyPeers), 3);
}
