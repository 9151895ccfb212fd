//! The forwarder role: keeps the data plane as the configuration, the checkers and the operator
//! want it.
//!
//! Start → engine → ways to real servers → first round → `Converged` and `Ready`. Then events,
//! applied at once with all that wait behind them, and a round each second that reads the kernel back. An orderly stop
//! detaches and removes everything; the watchdog's death leaves everything in place for the next
//! start to adopt.

mod disk;
mod engines;
mod lock;
mod orphans;
mod plane;
mod state;
mod syncing;
mod sys;
mod teller;
mod unengined;

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::{FutureExt as _, future::BoxFuture};
use tracing::{error, info, warn};

use super::{
    Link, clock,
    ipc::{Down, Event, QUEUE_LIMIT, Query, Reply, Role, Runtime, Up},
    leftovers, privileges,
    record::Recorder,
    secrets::recordable_config,
    sys as memory,
};
use crate::{
    base::{core::Core as _, filter::FlowFilter, net::Mac, table::LeaseSlot, time::Instant},
    config::model::Config,
    dataplane::{
        NextHop, Surroundings,
        xdp::{links::LINKS, resets::SEGMENTS},
    },
    desired::{Host, placement},
    io::neigh::{Neigh, Snapshot},
};
use disk::AdminFile;
use engines::Opened;
use orphans::Orphanage;
use plane::Plane;
use state::{Decision, Standing, State};
use syncing::Syncing;
use teller::Teller;
use unengined::{RETRY, no_engine, xdp_failed};

/// How often stale neighbours are asked again, connections swept and counters corrected. A sweep that
/// takes longer is not begun again before it has ended.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Pause after each slice of a sweep or a listing. A slice takes about 0.3 ms: a verdict never waits
/// longer for one, and both together take a fifth of a core at most. 100,000 connections are swept
/// in 0.2 to 0.4 s.
const PAUSE: Duration = Duration::from_millis(1);
/// Slices of the walk that finds whom to tell of a dead real server, and segments, before such a pause: the flow table is
/// walked at 600,000 entries a second, and 64,000 segments are sent. A verdict waits for one slice.
const TELLING: (usize, usize) = (4, SEGMENTS);
/// Listings that may wait for each other; a further one is refused.
const LISTINGS: usize = 8;

/// Runs the role until it is told to stop or the watchdog is gone.
///
/// # Errors
/// What makes a restart worthwhile: the netlink connection or the engine failed.
pub async fn run(mut link: Link) -> anyhow::Result<()> {
    let Some(Down::Start { runtime, generation, config }) = link.rx.recv().await else {
        bail!("the first message was not Start");
    };
    let mut recorder = Recorder::open(runtime.record.as_deref(), Role::Forwarder)?;
    recorder.record(&("start", generation, &*recordable_config(&config)), clock::now());
    let admin_file = AdminFile::new(&runtime.run_dir);
    if let Err(message) = sole_user(&runtime) {
        return fatal(&link, message).await;
    }
    let engine = match engines::open(&runtime, &config) {
        Ok(engine) => engine,
        Err(why) => {
            // Made in vain; what holds a predecessor's pins stays.
            for made in [&runtime.pin_dir.join(LINKS), &runtime.pin_dir] {
                let _ = std::fs::remove_dir(made);
            }
            privileges::limit(Role::Forwarder)?;
            let message = no_engine(&why);
            return unengined::run(link, config, generation, &runtime, message, RETRY).await;
        }
    };
    let _lock = match lock::take(&runtime.pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return fatal(&link, in_use(&runtime)).await;
        }
        other => other.context("lock of the pin directory")?,
    };
    let neigh = Neigh::open()?;
    let orphanage = match engine {
        Opened::Xdp(..) => Orphanage::open(&runtime.pin_dir),
        Opened::Ipvs(..) => Orphanage::none(),
    };
    privileges::limit(Role::Forwarder)?;
    let (admin, now) = (admin_file.load(), clock::now());
    let (engine, reason) = match engine {
        Opened::Ipvs(engine, reason) => (*engine, reason),
        Opened::Xdp(engine, reason) => {
            let state = State::new(*engine, config, generation, runtime.vrrp, admin, now)?;
            let mut forwarder = Forwarder::new(link, state, neigh, orphanage, admin_file, recorder);
            forwarder.look_around().await?;
            forwarder.state.round(clock::now());
            let Some((engine, reason)) = engines::instead(&mut forwarder.state, &runtime) else {
                engines::clear_ipvs(&runtime.run_dir);
                return forwarder.begin(reason).await;
            };
            let Forwarder { link, state, neigh, admin_file, recorder, .. } = forwarder;
            let State { config, admin, .. } = state;
            let state = State::new(engine, config, generation, runtime.vrrp, admin, now)?;
            let orphanage = Orphanage::none();
            let mut forwarder = Forwarder::new(link, state, neigh, orphanage, admin_file, recorder);
            forwarder.look_around().await?;
            forwarder.state.round(clock::now());
            return forwarder.begin(reason).await;
        }
    };
    let state = State::new(engine, config, generation, runtime.vrrp, admin, now)?;
    let mut forwarder = Forwarder::new(link, state, neigh, orphanage, admin_file, recorder);
    forwarder.look_around().await?;
    forwarder.state.round(clock::now());
    forwarder.begin(reason).await
}

/// Before anything there is touched: nobody else uses the maps.
fn sole_user(runtime: &Runtime) -> Result<(), String> {
    match lock::take(&runtime.pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use(runtime)),
        // What else is wrong with the directory, the engine says better.
        _ => Ok(()),
    }
}

fn in_use(runtime: &Runtime) -> String {
    let name = runtime.instance.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
    format!(
        "instance{name} is running already with another run directory: its maps at {} are in use; \
         another lbd on this host needs --instance NAME",
        runtime.pin_dir.display()
    )
}

struct Forwarder<P> {
    link: Link,
    state: State<P>,
    neigh: Neigh,
    orphanage: Orphanage,
    snapshot: Snapshot,
    admin_file: AdminFile,
    recorder: Recorder,
    /// What `Converged` said last.
    announced: Option<Announced>,
    /// The reading of routes, neighbours and addresses that is under way.
    looking: Option<BoxFuture<'static, anyhow::Result<Snapshot>>>,
    /// Something has changed since it began.
    look_again: bool,
    /// Housekeeping has more to do.
    sweeping: bool,
    teller: Teller,
    syncing: Syncing,
    /// Questions for connections: id, which and how many, at most [`LISTINGS`]. The first is being answered.
    listings: VecDeque<(u64, FlowFilter, usize)>,
    /// What [`Up::Fatal`] said last.
    hopeless: Option<String>,
}

/// Generation, leases by instance name, whether the host can fence itself.
type Announced = (u64, Vec<(String, LeaseSlot)>, bool);

/// Whether to go on.
enum Next {
    Go,
    End,
}

impl<P: Plane> Forwarder<P> {
    /// One that has not looked at the host yet.
    fn new(
        link: Link,
        state: State<P>,
        neigh: Neigh,
        orphanage: Orphanage,
        admin_file: AdminFile,
        recorder: Recorder,
    ) -> Self {
        Self {
            link,
            state,
            neigh,
            orphanage,
            snapshot: Snapshot::default(),
            admin_file,
            recorder,
            announced: None,
            looking: None,
            look_again: false,
            sweeping: false,
            teller: Teller::default(),
            syncing: Syncing::new(clock::now()),
            listings: VecDeque::new(),
            hopeless: None,
        }
    }

    /// Says which engine it is, then runs.
    async fn begin(mut self, reason: String) -> anyhow::Result<()> {
        let engine = self.state.engine.capabilities().name;
        info!(engine, reason, "engine chosen");
        self.state.reason = reason;
        self.run().await
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // When the next slice of a sweep or of a listing may be done.
        let mut slice = tokio::time::Instant::now();
        self.configure_sync(true);
        loop {
            self.announce().await?;
            let round = self.state.rounds.poll_timeout();
            tokio::select! {
                biased;
                message = self.link.rx.recv() => {
                    let Some(message) = message else {
                        warn!("the watchdog is gone: the data plane stays for the next start");
                        return Ok(());
                    };
                    if let Next::End = self.messages(message).await? {
                        return Ok(());
                    }
                }
                changed = self.neigh.changed() => {
                    changed?;
                    self.look();
                }
                snapshot = looked(&mut self.looking) => {
                    self.looking = None;
                    self.saw(snapshot?);
                    if std::mem::take(&mut self.look_again) {
                        self.look();
                    }
                }
                orphans = self.orphanage.next() => {
                    self.orphanage.ask(&mut self.state.engine, &orphans?);
                }
                () = sleep_until(round) => {
                    let now = clock::now();
                    self.state.rounds.handle_timeout(now);
                    if self.state.rounds.poll_effect().is_some() {
                        self.state.round(now);
                    }
                }
                () = sleep_until(self.state.deadline()) => self.state.expire(clock::now()),
                () = due(self.state.engine.notices_at(), slice) => {
                    // However many there are to tell, the sweep and listings go on beside it.
                    if !self.tell().await {
                        self.slice_of_work().await?;
                    }
                    slice = tokio::time::Instant::now() + PAUSE;
                }
                _ = housekeeping.tick() => {
                    let begun = self.state.engine.housekeep(clock::now());
                    self.sweeping = Self::swept(begun.map(|()| true));
                    // A message that the kernel had no room for is made good here.
                    self.look();
                    self.neigh.provoke(&self.snapshot);
                }
                () = tokio::time::sleep_until(slice), if self.sweeping || !self.listings.is_empty() => {
                    self.slice_of_work().await?;
                    slice = tokio::time::Instant::now() + PAUSE;
                }
                () = self.syncing.due() => {
                    if let Some(tables) = self.state.engine.tables() {
                        self.syncing.turn(tables, clock::now());
                    }
                }
            }
        }
    }

    /// Flow sync as the configuration in force has it; `others`: with other virtual servers or VIPs than before.
    fn configure_sync(&mut self, others: bool) {
        if let Some(tables) = self.state.engine.tables() {
            let wanted = self.state.config.global.flow_sync.as_ref();
            self.syncing.configure(wanted, others, tables, clock::now());
        } else if self.state.config.global.flow_sync.is_some() {
            warn!("flow_sync does nothing with the engine ipvs: its connections are the kernel's");
        }
    }

    /// A slice of a listing, or else of the sweep, where there is one to go on with.
    async fn slice_of_work(&mut self) -> anyhow::Result<()> {
        if !self.listings.is_empty() {
            return self.list().await;
        }
        if self.sweeping {
            let progress = self.state.engine.work();
            self.sweeping = Self::swept(progress.map(|progress| progress.more));
        }
        Ok(())
    }

    /// Some of what the ends of connections are told whose real server is gone; whether it was broken off for a
    /// message.
    async fn tell(&mut self) -> bool {
        let (mut slices, mut segments) = TELLING;
        loop {
            match self.state.engine.notices(clock::now()) {
                Ok(notices) => {
                    self.teller.send(&notices);
                    segments = segments.saturating_sub(notices.len());
                }
                Err(error) => error!(
                    error = format!("{error:#}"),
                    "connections of dead real servers not told, again in a second"
                ),
            }
            slices -= 1;
            let more = self.state.engine.notices_at() == Some(Instant::ZERO);
            if !more {
                self.teller.log();
            }
            if self.has_message().await {
                return true;
            }
            if !more || slices == 0 || segments == 0 {
                return false;
            }
        }
    }

    /// Whether a message has come. Those who bring it have their turn first: the watchdog, which may wait for this
    /// very CPU; then one yielding for the runtime to look at its sockets, one for the task that reads from them.
    async fn has_message(&mut self) -> bool {
        std::thread::yield_now();
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        !self.link.rx.is_empty()
    }

    /// Whether a sweep has more to do.
    fn swept(result: anyhow::Result<bool>) -> bool {
        result.unwrap_or_else(|error| {
            error!(error = format!("{error:#}"), "housekeeping failed, next in a second");
            false
        })
    }

    /// Goes on with the listing that is being answered.
    async fn list(&mut self) -> anyhow::Result<()> {
        let reply = match self.state.engine.listed_flows() {
            Ok(None) => return Ok(()),
            Ok(Some(flows)) => Reply::Flows(flows),
            Err(error) => Reply::Error(format!("{error:#}")),
        };
        if let Some((id, ..)) = self.listings.pop_front() {
            self.send(Up::Reply { id, reply }).await?;
        }
        if let Some((_, filter, limit)) = self.listings.front() {
            self.state.engine.list_flows(filter, *limit);
        }
        Ok(())
    }

    /// Begins to read routes, neighbours and addresses; messages are taken meanwhile.
    fn look(&mut self) {
        if self.looking.is_some() {
            self.look_again = true;
            return;
        }
        let reading = self.neigh.snapshot(&self.state.destinations());
        self.looking = Some(reading.boxed());
    }

    /// Reads them now, whatever waits.
    async fn look_around(&mut self) -> anyhow::Result<()> {
        self.looking = None;
        let snapshot = self.neigh.snapshot(&self.state.destinations()).await?;
        self.saw(snapshot);
        Ok(())
    }

    /// Passes them on.
    fn saw(&mut self, snapshot: Snapshot) {
        if snapshot != self.snapshot {
            self.neigh.provoke(&snapshot);
            let (host, around) = surroundings(&snapshot);
            self.snapshot = snapshot;
            self.state.surroundings(host, &around, clock::now());
        }
    }

    /// Says `Converged` and `Ready` when that is so and has not been said.
    ///
    /// What is hopeless for virtual servers ends a daemon that was never ready; the watchdog
    /// judges that. Otherwise the rest goes on, and `lbctl status` says what is wrong.
    async fn announce(&mut self) -> anyhow::Result<()> {
        let generation = self.state.generation;
        if self.announced.as_ref().is_some_and(|(said, _, fenced)| *said == generation && *fenced) {
            return Ok(());
        }
        let fenced = match self.state.standing() {
            // Its peers may have connections that it has not.
            Standing::Converged if !self.syncing.is_settled() => return Ok(()),
            Standing::Converged => self.state.engine.capabilities().fences,
            Standing::Hopeless(why) if self.state.forwards() => {
                let message = self.state.without_engine(why);
                if self.hopeless.as_ref() != Some(&message) {
                    error!("{message}");
                    self.send(Up::Fatal { message: message.clone() }).await?;
                    self.hopeless = Some(message);
                }
                return Ok(());
            }
            // VRRP alone works as it does in keepalived.
            Standing::Hopeless(why) | Standing::Trying(why) if !self.state.forwards() => {
                if self.announced.is_none() {
                    warn!("this host cannot fence itself: {why}");
                }
                false
            }
            Standing::Hopeless(_) | Standing::Trying(_) => return Ok(()),
        };
        let news = (generation, self.state.slots.list(), fenced);
        if self.announced.as_ref() == Some(&news) {
            return Ok(());
        }
        let (_, leases, _) = news.clone();
        self.send(Up::Event(Event::Converged { generation, leases, fenced })).await?;
        if self.announced.as_ref().is_none_or(|(said, ..)| *said != generation) {
            self.send(Up::Ready { generation }).await?;
            memory::trim();
        }
        info!(generation, fenced, "converged");
        self.announced = Some(news);
        Ok(())
    }

    /// Takes this message and all that wait behind it. However many events these are, the table
    /// is compiled and written once.
    async fn messages(&mut self, first: Down) -> anyhow::Result<Next> {
        if let Next::End = self.message(first).await? {
            return Ok(Next::End);
        }
        for _ in 1..QUEUE_LIMIT {
            let Ok(message) = self.link.rx.try_recv() else { break };
            if let Next::End = self.message(message).await? {
                return Ok(Next::End);
            }
        }
        self.state.settle(clock::now());
        Ok(Next::Go)
    }

    async fn message(&mut self, message: Down) -> anyhow::Result<Next> {
        let now = clock::now();
        match message {
            Down::Ping { seq } => return self.send(Up::Pong { seq }).await.map(|()| Next::Go),
            Down::Event { event, .. } => {
                self.recorder.record(&event, now);
                self.state.hear(&event, now);
                return Ok(Next::Go);
            }
            Down::Replay { events } => {
                for (_, event) in &events {
                    self.recorder.record(event, now);
                    self.state.recall(event);
                }
                return Ok(Next::Go);
            }
            _ => {}
        }
        // The others see, and may follow from, what was said before them.
        self.state.settle(now);
        match message {
            Down::Reload { generation, config } => {
                self.recorder.record(&("reload", generation, &*recordable_config(&config)), now);
                self.reload(generation, config).await?;
            }
            Down::Query { id, query: Query::Flows { limit, filter } }
                if self.listings.len() < LISTINGS =>
            {
                if self.listings.is_empty() {
                    self.state.engine.list_flows(&filter, limit as usize);
                }
                self.listings.push_back((id, filter, limit as usize));
            }
            Down::Query { id, query } => {
                let reply = self.answer(query, now);
                self.send(Up::Reply { id, reply }).await?;
            }
            Down::Stop => {
                if let Some(tables) = self.state.engine.tables() {
                    self.syncing.farewell(tables, clock::now());
                }
                leftovers::remove(self.admin_file.run_dir()).await;
                if let Err(error) = self.state.engine.close() {
                    error!(error = format!("{error:#}"), "not everything could be removed");
                }
                self.send(Up::Stopped).await?;
                return Ok(Next::End);
            }
            Down::Start { .. }
            | Down::Ping { .. }
            | Down::Event { .. }
            | Down::Replay { .. }
            | Down::ScriptDone(_)
            | Down::Mail { .. }
            | Down::Answer { .. } => {}
        }
        Ok(Next::Go)
    }

    /// Takes a configuration over, or refuses it and leaves all as it is.
    async fn reload(&mut self, generation: u64, config: Arc<Config>) -> anyhow::Result<()> {
        let (before, wanted) = (self.state.config.global.attachment(), config.global.attachment());
        let held = (before != wanted).then(|| self.state.attached());
        self.state.engine.set_attachment(wanted);
        // Connections to a VIP that no instance lists are refused, so its instance matters, too.
        let guarded = |config: &Config| -> Vec<_> {
            let instances = config.vrrp_instances.iter();
            instances
                .map(|it| (it.virtual_ipaddress.clone(), it.on_host.excluded.clone()))
                .collect()
        };
        let others = self.state.config.virtual_servers != config.virtual_servers
            || guarded(&self.state.config) != guarded(&config);
        self.state.offer(generation, config);
        self.look_around().await?;
        if let Err(why) = self.state.take(held.as_ref(), clock::now()) {
            let why = no_engine(&xdp_failed(&why));
            self.state.engine.set_attachment(before);
            self.state.round(clock::now());
            return self.send(Up::Refused { generation, why }).await;
        }
        self.admin_file.save(&self.state.admin);
        self.state.round(clock::now());
        self.configure_sync(others);
        self.send(Up::Taken { generation }).await
    }

    fn answer(&mut self, query: Query, now: Instant) -> Reply {
        let failed = |error: anyhow::Error| Reply::Error(format!("{error:#}"));
        match query {
            Query::Status => self.state.status(now).map_or_else(failed, |mut status| {
                status.reset_segments = self.teller.counts();
                if let Some(tables) = self.state.engine.tables() {
                    status.flow_sync = self.syncing.status(tables, now);
                }
                Reply::Forwarder(Box::new(status))
            }),
            Query::Flows { .. } => {
                Reply::Error(format!("{LISTINGS} other listings of connections are under way"))
            }
            Query::Drain { virtual_server, real_server, within_ms } => {
                let decision = Decision::Drain { within: within_ms.map(Duration::from_millis) };
                let done = self.state.administer(virtual_server, real_server, decision, now);
                self.administered(done)
            }
            Query::Enable { virtual_server, real_server } => {
                let decision = Decision::Enable;
                let done = self.state.administer(virtual_server, real_server, decision, now);
                self.administered(done)
            }
            Query::Explain { what } => {
                self.explain(&what, now).map_or_else(Reply::Error, Reply::Text)
            }
            Query::ClearStatistics => Reply::Error("the forwarder has no such counters".into()),
            Query::Reload | Query::Plan | Query::Config { .. } => {
                Reply::Error("the forwarder does not read configurations".into())
            }
        }
    }

    /// `CLIENT:PORT VIP:PORT`, or what [`placement::explain`] knows.
    fn explain(&mut self, what: &str, now: Instant) -> Result<String, String> {
        let Some((client, vip)) = what.trim().split_once(' ') else {
            return placement::explain(&self.state.inputs(now), what);
        };
        let parse = |text: &str| {
            let text = text.trim();
            text.strip_prefix("tcp/").unwrap_or(text).parse::<std::net::SocketAddr>().map_err(
                |_| format!("`{text}` is not ADDRESS:PORT; a connection is CLIENT:PORT VIP:PORT"),
            )
        };
        let (client, vip) = (parse(client)?, parse(vip)?);
        let flow = self.state.engine.flow(client, vip).map_err(|error| format!("{error:#}"))?;
        let known = flow.and_then(|flow| flow.real_server);
        placement::explain_connection(&self.state.inputs(now), client, vip, known)
    }

    fn administered(&self, done: Result<String, String>) -> Reply {
        match done {
            Ok(text) => {
                self.admin_file.save(&self.state.admin);
                Reply::Done(text)
            }
            Err(text) => Reply::Error(text),
        }
    }

    async fn send(&mut self, message: Up) -> anyhow::Result<()> {
        self.link.tx.send(message).await.context("the watchdog takes no messages")
    }
}

/// The end of the reading that is under way, if one is.
async fn looked(
    looking: &mut Option<BoxFuture<'static, anyhow::Result<Snapshot>>>,
) -> anyhow::Result<Snapshot> {
    match looking {
        Some(reading) => reading.await,
        None => pending().await,
    }
}

/// As [`sleep_until`], and not before the next slice may be done.
async fn due(at: Option<Instant>, slice: tokio::time::Instant) {
    sleep_until(at).await;
    tokio::time::sleep_until(slice).await;
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at.saturating_since(clock::now())).await,
        None => pending().await,
    }
}

/// What the engine and the compiler need of a snapshot.
fn surroundings(snapshot: &Snapshot) -> (Host, Surroundings) {
    let name = |ifindex: u32| snapshot.interfaces.get(&ifindex).map(|i| i.name.clone());
    let addresses = snapshot
        .addresses
        .iter()
        .filter_map(|(ifindex, prefix)| Some((name(*ifindex)?, *prefix)))
        .collect();
    let mut egress = BTreeMap::new();
    let mut next_hops = BTreeMap::<IpAddr, Result<NextHop, String>>::new();
    for (destination, way) in &snapshot.ways {
        let hop = match way {
            Ok(way) => {
                egress.extend(name(way.ifindex).map(|name| (*destination, name)));
                if way.asked {
                    continue; // Not known yet: what was known before stays.
                }
                let out = snapshot.interfaces.get(&way.ifindex);
                way.neighbour.clone().map(|neighbour| NextHop {
                    ifindex: way.ifindex,
                    source: out.map(|out| out.mac).unwrap_or_default(),
                    neighbour,
                    mtu: way.mtu.into_iter().chain(out.map(|out| out.mtu)).min().unwrap_or(1500),
                    nic: out.is_some_and(|out| out.nic),
                    own: way.own,
                })
            }
            Err(why) => Err(why.clone()),
        };
        next_hops.insert(*destination, hop);
    }
    let own = snapshot.addresses.iter().map(|(_, prefix)| prefix.addr).collect();
    let xdp_programs = snapshot
        .interfaces
        .values()
        .filter_map(|interface| Some((interface.name.clone(), interface.xdp_program?)))
        .collect();
    let framed = snapshot.interfaces.values().filter(|it| it.mac != Mac::default());
    let ethernet = framed.map(|it| it.name.clone()).collect();
    (Host { addresses, egress, ethernet }, Surroundings { next_hops, own, xdp_programs })
}

/// Says why there is no point in going on. A daemon that goes on all the same starts the role anew.
async fn fatal(link: &Link, message: String) -> anyhow::Result<()> {
    let said = Up::Fatal { message: message.clone() };
    link.tx.send(said).await.context("the watchdog takes no messages")?;
    bail!(message)
}

#[cfg(test)]
mod tests;
