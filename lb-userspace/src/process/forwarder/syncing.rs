//! Flow sync between its core ([`crate::sync`]), the maps and the socket. Work is done in small pieces, each in a turn
//! of the forwarder's loop.

use std::{collections::BTreeMap, fs::File, future::pending, io::Read as _, time::Duration};

use anyhow::Context as _;
use tracing::{info, warn};

use super::clock;
use crate::{
    base::{
        status::{FlowSyncStatus, SyncPeerStatus},
        time::Instant,
    },
    config::model::{FlowSync, SyncPeers},
    dataplane::xdp::{Xdp, syncing::CHANGES},
    io::flowsync::{FlowSocket, Ways},
    sync::{self, BATCH, Effect, Node, PeerState, To},
    vrrp::auth::hmac::Secret,
};

/// Datagrams that a turn takes at most: about a hundred connections, half a millisecond.
const DATAGRAMS: usize = 4;
/// Pause after each step of a walk or of a prune.
const PAUSE: Duration = Duration::from_millis(1);
/// How often it is looked whether this host has become master.
const MASTERS: Duration = Duration::from_millis(100);
/// A socket that could not be opened is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Changes are read so often before an orderly stop goes on, [`CHANGES`] at a time.
const FAREWELL: usize = 256;
/// Longest distance of two walks that tell which connections were used.
const REFRESH: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Syncing {
    wanted: Option<FlowSync>,
    parts: Option<Parts>,
    problem: Option<String>,
    retry_at: Instant,
    started: Instant,
    /// A configuration was put in force.
    configured: bool,
    settled: bool,
}

struct Parts {
    node: Node,
    socket: FlowSocket,
    changes_at: Instant,
    masters_at: Instant,
    /// When a walk or a prune goes on.
    step_at: Option<Instant>,
    walking: bool,
    changes_lost: u64,
    /// As logged last, by peer.
    states: BTreeMap<std::net::IpAddr, PeerState>,
}

impl Syncing {
    /// None yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            wanted: None,
            parts: None,
            problem: None,
            retry_at: now,
            started: now,
            configured: false,
            settled: true,
        }
    }

    /// Puts a configuration in force. What has not changed goes on. With `others`, other virtual servers or VIPs, all
    /// connections are asked for anew, because servers may have come that they were told of before.
    pub(super) fn configure(
        &mut self,
        wanted: Option<&FlowSync>,
        others: bool,
        tables: &mut Xdp,
        now: Instant,
    ) {
        let is_start = !std::mem::replace(&mut self.configured, true);
        if self.wanted.as_ref() == wanted && (self.parts.is_some() || wanted.is_none()) {
            if let Some(parts) = &mut self.parts {
                parts.node.set_refresh(refresh(tables));
                if others {
                    parts.node.rejoin(now);
                }
                parts.perform(tables, now);
            } else if let Err(error) = tables.sync_enable(false) {
                warn!(error = format!("{error:#}"), "changes of connections are still reported");
            }
            return;
        }
        // Only a start waits: a host that serves goes on.
        self.settled = wanted.is_none() || (self.settled && !is_start);
        self.wanted = wanted.cloned();
        (self.parts, self.problem, self.retry_at) = (None, None, now);
        self.open(tables, now);
    }

    fn open(&mut self, tables: &mut Xdp, now: Instant) {
        let Some(wanted) = &self.wanted else {
            if let Err(error) = tables.sync_enable(false) {
                warn!(error = format!("{error:#}"), "changes of connections are still reported");
            }
            return;
        };
        match Parts::open(wanted, tables, now) {
            Ok(parts) => {
                info!("flow sync begins");
                (self.parts, self.problem) = (Some(parts), None);
            }
            Err(error) => {
                let problem = format!("flow_sync: {error:#}");
                if self.problem.as_ref() != Some(&problem) {
                    warn!("{problem}");
                }
                self.problem = Some(problem);
                self.retry_at = now + RETRY;
            }
        }
    }

    /// Whether mastership need not be held back.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Waits until [`Syncing::turn`] has something to do. Loses nothing when it is dropped before its end.
    pub(super) async fn due(&self) {
        match &self.parts {
            Some(parts) => {
                let now = clock::now();
                let at = parts.step_at.into_iter().fold(parts.changes_at, Instant::min);
                let at = at.min(parts.node.poll_timeout(now));
                tokio::select! {
                    _ = parts.socket.readable() => {}
                    () = tokio::time::sleep(at.saturating_since(now)) => {}
                }
            }
            None if self.wanted.is_some() => {
                tokio::time::sleep(self.retry_at.saturating_since(clock::now())).await;
            }
            None => pending().await,
        }
    }

    /// A piece of the work.
    pub(super) fn turn(&mut self, tables: &mut Xdp, now: Instant) {
        if self.parts.is_none() && self.retry_at <= now {
            self.open(tables, now);
        }
        if let Some(parts) = &mut self.parts {
            if let Err(error) = parts.turn(tables, now) {
                warn!(error = format!("{error:#}"), "flow sync: everything is told anew");
                parts.node.tell_all(now);
            }
            self.settled |= parts.node.is_settled();
            parts.log(now);
        } else if let Some(wanted) = &self.wanted {
            self.settled |= now >= self.started + wanted.timeout;
        }
    }

    /// Tells what is left to tell.
    pub(super) fn farewell(&mut self, tables: &mut Xdp, now: Instant) {
        if let Some(parts) = &mut self.parts {
            for _ in 0..FAREWELL {
                if !parts.changes(tables, now).is_ok_and(|taken| taken == CHANGES) {
                    break;
                }
            }
            parts.perform(tables, now);
        }
    }

    /// For `lbctl status`.
    pub(super) fn status(&self, tables: &Xdp, now: Instant) -> Option<FlowSyncStatus> {
        self.wanted.as_ref()?;
        let mut status = FlowSyncStatus {
            problem: self.problem.clone(),
            settled: self.settled,
            connections: tables.sync_fates(),
            ..FlowSyncStatus::default()
        };
        let Some(parts) = &self.parts else { return Some(status) };
        let sent = parts.node.sent();
        status.sent = records(sent.opened, sent.refreshed, sent.closed);
        status.datagrams_sent = sent.datagrams;
        status.repaired = sent.repaired;
        status.resyncs_sent = sent.resyncs;
        status.datagrams_lost = parts.socket.lost();
        status.changes_lost = parts.changes_lost;
        let count = |reject| parts.node.rejects().get(&reject).copied().unwrap_or(0);
        let rejects = sync::Reject::ALL.map(|reject| (reject.name().to_owned(), count(reject)));
        status.rejected = rejects.into();
        status.peers = parts.node.peers(now).into_iter().map(peer).collect();
        Some(status)
    }
}

fn records(opened: u64, refreshed: u64, closed: u64) -> BTreeMap<String, u64> {
    [("opened", opened), ("refreshed", refreshed), ("closed", closed)]
        .map(|(name, count)| (name.to_owned(), count))
        .into()
}

fn peer(peer: sync::PeerStatus) -> SyncPeerStatus {
    let counts = peer.counts;
    SyncPeerStatus {
        addr: peer.addr,
        state: peer.state.name().to_owned(),
        heard_ms: peer.heard.map(|heard| u64::try_from(heard.as_millis()).unwrap_or(u64::MAX)),
        behind: peer.behind,
        received: records(counts.opened, counts.refreshed, counts.closed),
        datagrams_received: counts.datagrams,
        duplicates: counts.duplicates,
        gaps: counts.gaps,
        resyncs: counts.resyncs,
    }
}

/// A peer must hear of a connection in use well before it would end it as idle.
fn refresh(tables: &mut Xdp) -> Duration {
    let idle = tables.sync_shortest_idle().ok().flatten();
    idle.map_or(REFRESH, |idle| idle / 4).clamp(Duration::from_secs(1), REFRESH)
}

/// A random number.
fn session() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(u64::from_ne_bytes(bytes))
}

impl Parts {
    fn open(wanted: &FlowSync, tables: &mut Xdp, now: Instant) -> anyhow::Result<Self> {
        let FlowSync { key, peers, interface, source, port, timeout } = wanted;
        let (to, allowed) = match peers {
            SyncPeers::Hosts(hosts) => (hosts.clone(), hosts.clone()),
            SyncPeers::Group(group) => (vec![*group], Vec::new()),
        };
        let Secret::Bytes(key) = key else { anyhow::bail!("the key was not read") };
        let ways = Ways { to, interface: interface.clone(), source: *source, port: *port };
        let socket = FlowSocket::open(&ways).context("UDP socket")?;
        tables.sync_enable(true)?;
        let config = sync::Config {
            key: key.clone(),
            peers: allowed,
            timeout: *timeout,
            refresh: refresh(tables),
        };
        Ok(Self {
            node: Node::new(config, session()?, now),
            socket,
            changes_at: now,
            masters_at: now,
            step_at: None,
            walking: false,
            changes_lost: 0,
            states: BTreeMap::new(),
        })
    }

    fn turn(&mut self, tables: &mut Xdp, now: Instant) -> anyhow::Result<()> {
        for _ in 0..DATAGRAMS {
            let Some((from, bytes)) = self.socket.receive() else { break };
            self.node.handle_datagram(from, &bytes, now);
        }
        self.perform(tables, now);
        if self.changes_at <= now {
            let taken = self.changes(tables, now)?;
            // More wait.
            let pause = if taken < CHANGES { BATCH } else { PAUSE };
            self.changes_at = now + pause;
            if self.masters_at <= now {
                self.masters_at = now + MASTERS;
                if tables.sync_has_become_master()? {
                    self.node.tell_all(now);
                }
            }
        }
        if self.step_at.is_some_and(|at| at <= now) {
            self.step(tables, now)?;
        }
        self.node.handle_timeout(now);
        self.perform(tables, now);
        Ok(())
    }

    /// Tells what the kernel has changed; how much that was.
    fn changes(&mut self, tables: &mut Xdp, now: Instant) -> anyhow::Result<usize> {
        let (flows, taken, lost) = tables.sync_changes()?;
        for flow in flows {
            self.node.changed(flow, now);
        }
        self.node.flush(now);
        if lost {
            self.changes_lost += 1;
            self.node.tell_all(now);
        }
        Ok(taken)
    }

    /// A step of the walk, and of the prune.
    fn step(&mut self, tables: &mut Xdp, now: Instant) -> anyhow::Result<()> {
        self.step_at = None;
        if self.walking {
            let (flows, ended) = tables.sync_walked()?;
            self.node.walked(&flows, now);
            if ended {
                self.walking = false;
                self.node.walk_ended(now);
            }
        }
        if tables.sync_work()? || self.walking {
            self.step_at = Some(now + PAUSE);
        }
        Ok(())
    }

    /// Does what the core wants done.
    fn perform(&mut self, tables: &mut Xdp, now: Instant) {
        while let Some(effect) = self.node.poll_effect() {
            let is_walk = matches!(effect, Effect::Walk { .. });
            let done = match effect {
                Effect::Send { to: To::All, bytes } => {
                    self.socket.send_all(&bytes);
                    Ok(())
                }
                Effect::Send { to: To::One(peer), bytes } => {
                    self.socket.send_one(peer, &bytes);
                    Ok(())
                }
                Effect::Apply(flows) => tables.sync_apply(&flows),
                Effect::Prune(prune) => {
                    tables.sync_prune(prune);
                    self.step_at.get_or_insert(now);
                    Ok(())
                }
                Effect::Walk { full } => tables.sync_walk(full).map(|covered| {
                    self.node.covers(&covered, now);
                    self.walking = true;
                    self.step_at.get_or_insert(now);
                }),
            };
            if let Err(error) = done {
                warn!(error = format!("{error:#}"), "flow sync: a step failed");
                if is_walk {
                    // Peers wait for its end.
                    self.node.tell_all(now);
                }
                // What was not entered comes again with the peer's next full walk, or when it is used.
            }
        }
    }

    /// A line for each change.
    fn log(&mut self, now: Instant) {
        for peer in self.node.peers(now) {
            let before = self.states.insert(peer.addr, peer.state);
            if before.unwrap_or(PeerState::Away) != peer.state {
                info!(peer = %peer.addr, state = peer.state.name(), "flow sync");
            }
        }
    }
}
