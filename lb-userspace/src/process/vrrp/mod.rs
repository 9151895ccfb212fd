//! The vrrp role: elections, VIPs, gratuitous ARP, leases.
//!
//! One loop that never waits on anything slow: adverts are read before timers fire (so that a
//! process that was stopped first hears what was said meanwhile), addresses are changed by the
//! rtnetlink thread, scripts are run by the watchdog.

mod ah_clock;
mod announce;
mod claims;
mod closing;
mod groups;
mod hold;
mod host;
mod instance;
mod interfaces;
mod intruders;
mod journal;
mod lease;
mod lower;
mod messages;
mod outbox;
mod receive;
mod scheduling;
mod scripts;
mod statics;
mod strays;
mod sys;
mod timer;
pub(super) mod trackers;
mod wall;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};

use self::{
    ah_clock::AhClock,
    claims::Watched,
    groups::Groups,
    instance::{Instance, Shell},
    interfaces::Interfaces,
    lease::Leases,
    outbox::Outbox,
    scripts::Scripts,
    statics::StaticObjects,
    strays::Strays,
    timer::Timer,
    trackers::Trackers,
};
use super::{
    Link, clock,
    ipc::{Down, Event, Role, Up},
    privileges,
    record::{Recorder, VrrpStep},
};
use crate::{
    base::{table::LeaseSlot, time::Instant},
    config::model::Config,
    io::{link, track::Report, vrrp::Channel},
    vrrp::{
        damper::Damper,
        lateness,
        pacer::Pacer,
        router::Input,
        track::{Tracked, Verdict},
    },
};

/// The kernel has to tell its links within this at the start.
const LINKS_LIMIT: Duration = Duration::from_secs(5);
/// When the data plane has not converged by then, an error says so. Still no advert is sent.
const CONVERGE_LIMIT: Duration = Duration::from_secs(10);
/// An orderly stop takes at most this long; what is left then is told.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// Messages of the watchdog and of the kernel that are taken before timers get their turn.
const MESSAGE_BUDGET: usize = 256;

/// In the run directory: what the role may have put on this host. Gone after an orderly end.
pub const JOURNAL: &str = "held.json";

/// How an instance of the configuration is told to its state machine.
pub use lower::config as router_config;

/// Runs the role until the watchdog says stop or is gone.
///
/// # Errors
/// What a restart may mend; what it will not mend is told by [`Up::Fatal`] first.
pub async fn run(link: Link) -> anyhow::Result<()> {
    run_with(link, lease::open).await
}

async fn run_with(mut link: Link, open_lease: lease::Open) -> anyhow::Result<()> {
    let (runtime, generation, config) = match link.rx.recv().await {
        Some(Down::Start { runtime, generation, config }) => (runtime, generation, config),
        Some(other) => bail!("the first message was not Start but {other:?}"),
        None => return Ok(()),
    };
    let mut recorder = Recorder::open(runtime.record.as_deref(), Role::Vrrp)?;
    recorder.record(&VrrpStep::Start, clock::now());
    scheduling::apply(&config.global.vrrp_process);
    privileges::limit(Role::Vrrp)?;
    let journal = runtime.run_dir.join(JOURNAL);
    let shell = Shell {
        interfaces: Interfaces::default(),
        links: link::Links::start(Some(journal.clone())).context("rtnetlink thread")?,
        leases: Leases::default(),
        recorder,
        outbox: Outbox::default(),
        next_request: 0,
        pin_dir: runtime.pin_dir.clone(),
        pacer: Pacer::default(),
        damper: Damper::default(),
        left_behind: false,
        ah_clock: AhClock::new(runtime.run_dir.join(ah_clock::FILE)),
    };
    let mut role = VrrpRole::new(shell, open_lease, runtime.checker);
    role.earliest = scheduling::earliest(&config.global, clock::now());
    role.first_links().await?;
    if let Err(message) = role.check_interfaces(&config) {
        tracing::error!("{message}");
        let _ = link.tx.send(Up::Fatal { message: message.clone() }).await;
        bail!(message);
    }
    role.adopt(&config).await?;
    role.apply(generation, &config);
    let keeps_memory = config.global.vrrp_process.no_swap;
    // Instances have taken what they need.
    drop(config);
    if !keeps_memory {
        super::sys::trim();
    }
    role.serve(&mut link).await?;
    if role.is_clean() {
        // They may never have been written.
        for file in [journal, runtime.run_dir.join(ah_clock::FILE)] {
            let _ = std::fs::remove_file(file);
        }
    }
    Ok(())
}

struct VrrpRole {
    shell: Shell,
    open_lease: lease::Open,
    instances: Vec<Instance>,
    /// Removed by a reload, not yet given back.
    leaving: Vec<Instance>,
    scripts: Scripts,
    trackers: Trackers,
    /// False under `-P`.
    checker: bool,
    groups: Groups,
    /// What the data plane said last.
    converged: Option<(Vec<(String, LeaseSlot)>, bool)>,
    converge_by: Option<Instant>,
    stop_by: Option<Instant>,
    /// `vrrp_startup_delay` and `vrrp_delay_after_boot`.
    earliest: Instant,
    strays: Strays,
    statics: StaticObjects,
    /// Interfaces of which something was told in this turn.
    touched: BTreeSet<String>,
    /// Addresses that came or went in this turn.
    moved: BTreeSet<IpAddr>,
    announcements_dropped: u64,
    /// Of instances that are gone.
    lateness: lateness::Timers,
}

impl VrrpRole {
    fn new(shell: Shell, open_lease: lease::Open, checker: bool) -> Self {
        Self {
            shell,
            open_lease,
            instances: vec![],
            leaving: vec![],
            scripts: Scripts::default(),
            trackers: Trackers::default(),
            checker,
            groups: Groups::default(),
            converged: None,
            converge_by: Some(clock::now() + CONVERGE_LIMIT),
            stop_by: None,
            earliest: Instant::ZERO,
            strays: Strays::default(),
            statics: StaticObjects::default(),
            touched: BTreeSet::new(),
            moved: BTreeSet::new(),
            announcements_dropped: 0,
            lateness: lateness::Timers::default(),
        }
    }

    async fn first_links(&mut self) -> anyhow::Result<()> {
        let shell = &mut self.shell;
        tokio::time::timeout(LINKS_LIMIT, async {
            loop {
                match shell.links.event().await {
                    Some(link::Event::Ready) => return Ok(()),
                    Some(link::Event::Failed(error)) => bail!("rtnetlink: {error}"),
                    Some(event) => drop(shell.interfaces.notice(&event)),
                    None => bail!("rtnetlink: the thread has ended"),
                }
            }
        })
        .await
        .context("the kernel did not tell its interfaces in time")?
    }

    /// keepalived refuses to start on an interface that does not exist, unless
    /// `dynamic_interfaces` is set; so do we.
    fn check_interfaces(&self, config: &Config) -> Result<(), String> {
        if config.global.dynamic_interfaces {
            return Ok(());
        }
        for instance in &config.vrrp_instances {
            let made = lower::link_names(&lower::base(instance));
            let vips = lower::vips(instance).into_iter().map(|vip| vip.interface);
            let vips = vips.filter(|name| !made.contains(name));
            for name in std::iter::once(instance.interface.clone()).chain(vips) {
                if self.shell.interfaces.get(&name).is_none() {
                    let instance = &instance.name;
                    return Err(format!(
                        "vrrp_instance {instance}: interface {name} does not exist"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Puts a configuration in force. Instances of the same VRID and interface keep what they are.
    fn apply(&mut self, generation: u64, config: &Arc<Config>) {
        let now = clock::now();
        self.scripts.configure(config, now);
        self.trackers.configure(config, self.checker);
        self.configure_host(config);
        let mut old = self.make_room(config, now);
        let mut seen = BTreeSet::new();
        for model in &config.vrrp_instances {
            let identity = lower::identity(model);
            let groups = &config.vrrp_sync_groups;
            let group = groups.iter().find(|it| it.members.contains(&model.name));
            let mut lowered = match lower::config(model, &config.vrrp_scripts, group.is_some()) {
                Ok(mut lowered) => {
                    lowered.scripts.extend(trackers::tracked(&model.track_more, config));
                    if group.is_some_and(|group| !group.tracking_weight) {
                        lowered.scripts.retain(|it| it.weight == 0);
                    }
                    lowered
                }
                Err(error) => {
                    tracing::error!(instance = model.name, error, "vrrp_instance is not run");
                    continue;
                }
            };
            if !seen.insert(identity.clone()) {
                let (instance, vrid) = (&model.name, model.vrid.get());
                tracing::error!(instance, vrid, "another instance has this VRID: not run");
                continue;
            }
            for name in lower::group_interfaces(&model.name, &config.statics) {
                if !lowered.interfaces.iter().any(|it| it.name == name) {
                    lowered.interfaces.push(Tracked { name, weight: 0, reverse: false });
                }
            }
            match old.iter().position(|it| it.identity == identity) {
                Some(at) => {
                    let mut instance = old.remove(at);
                    instance.configure(model.clone(), lowered, now, &mut self.shell);
                    self.instances.push(instance);
                }
                None => {
                    let mut instance = Instance::new(model.clone(), lowered, now, &mut self.shell);
                    instance.prepare(&mut self.shell);
                    instance.look_at_interfaces(now, &mut self.shell);
                    // A start that is to be delayed begins to wait after that.
                    if now >= self.earliest {
                        instance.feed(Input::Listen, now, &mut self.shell);
                    }
                    self.instances.push(instance);
                }
            }
        }
        for instance in old {
            self.dismiss(instance, now);
        }
        self.groups.configure(config, &self.instances, now);
        for (name, verdict) in self.scripts.verdicts().into_iter().chain(self.trackers.verdicts()) {
            self.script_verdict(&name, verdict, now);
        }
        self.look_at_group_interfaces(now);
        self.watch_vips();
        self.close_unused();
        self.lend(now);
        self.groups.settle(&mut self.instances, now, &mut self.shell);
        self.shell.say(Up::Ready { generation });
    }

    /// The instances in force, less those that the new configuration does not have and what the others lose by
    /// it. All of that is taken off before anything is put on: a VIP may move from one instance to another,
    /// and one that goes after it came would be missed where it is wanted.
    fn make_room(&mut self, config: &Config, now: Instant) -> Vec<Instance> {
        let mut kept = Vec::new();
        for mut instance in std::mem::take(&mut self.instances) {
            let mut models = config.vrrp_instances.iter();
            match models.find(|model| lower::identity(model) == instance.identity) {
                Some(model) => {
                    instance.shed(&lower::holds(model), &mut self.shell);
                    kept.push(instance);
                }
                None => self.dismiss(instance, now),
            }
        }
        kept
    }

    /// The configuration does not have it any more.
    fn dismiss(&mut self, mut instance: Instance, now: Instant) {
        instance.removed = true;
        instance.feed(Input::Stop, now, &mut self.shell);
        self.leaving.push(instance);
    }

    fn script_verdict(&mut self, name: &str, verdict: Verdict, now: Instant) {
        self.groups.script(name, verdict, now);
        self.feed_all(&Input::Script { name: name.to_owned(), verdict }, now);
    }

    fn look_at_group_interfaces(&mut self, now: Instant) {
        for name in self.groups.interfaces() {
            let up = self.shell.interfaces.get(&name).is_some_and(|it| it.up());
            let up = self.shell.damper.see(&name, up, now);
            self.groups.interface(&name, up, now);
        }
    }

    /// Opens the sockets that hear what others say of these VIPs.
    fn watch_vips(&mut self) {
        let mut watched: BTreeMap<String, Watched> = BTreeMap::new();
        for instance in self.instances.iter().chain(&self.leaving) {
            for vip in instance.vips() {
                let (link, shared) = instance.asked_on(&vip.interface);
                let there = watched.entry(link.to_owned()).or_default();
                there.addresses.insert(vip.prefix.addr);
                there.shared.extend(shared);
            }
        }
        self.shell.interfaces.unwatch_unless(|name| watched.contains_key(name));
        for (interface, watched) in watched {
            if self.shell.interfaces.get(&interface).is_none() {
                continue;
            }
            if let Err(error) = self.shell.interfaces.watch(&interface, watched) {
                tracing::error!(interface, error, "other holders of VIPs are not heard");
            }
        }
    }

    fn close_unused(&mut self) {
        let mut used: BTreeMap<(&str, Channel), BTreeSet<IpAddr>> = BTreeMap::new();
        for instance in self.instances.iter().chain(&self.leaving) {
            for channel in instance.channels() {
                let name = instance.model.interface.as_str();
                used.entry((name, *channel)).or_default().extend(instance.group());
            }
        }
        let ears = self.instances.iter().chain(&self.leaving).flat_map(Instance::ears).collect();
        let senders =
            self.instances.iter().chain(&self.leaving).flat_map(Instance::senders).collect();
        self.shell.interfaces.keep_only(&used, &ears, &senders);
    }

    fn feed_all(&mut self, input: &Input, now: Instant) {
        for instance in &mut self.instances {
            instance.feed(input.clone(), now, &mut self.shell);
        }
    }

    // ---- the loop -----------------------------------------------------------------------------

    async fn serve(&mut self, link: &mut Link) -> anyhow::Result<()> {
        let timer = Timer::new().context("timer")?;
        let mut more = false;
        let mut gone = false;
        loop {
            timer.arm(self.poll_timeout()).context("timer")?;
            let idle = !more;
            tokio::select! {
                biased;
                // First, so that a farewell waits for nothing.
                message = link.rx.recv(), if !gone => match message {
                    Some(message) => self.message(message),
                    None => {
                        tracing::error!("the watchdog is gone: VIPs are released");
                        gone = true;
                        self.stop();
                    }
                },
                // Lets the pipe and the kernel's messages have their turn in a flood of adverts.
                () = tokio::task::yield_now(), if !idle => {}
                () = self.shell.interfaces.readable() => {}
                () = timer.fired() => {}
                report = self.trackers.report() => self.tracked(report),
                event = self.shell.links.event() => match event {
                    Some(event) => self.link_event(&event)?,
                    None => bail!("the rtnetlink thread has ended"),
                },
                permit = link.tx.reserve(), if !gone && !self.shell.outbox.is_empty() => {
                    if let (Ok(permit), Some(message)) = (permit, self.shell.outbox.pop()) {
                        permit.send(message);
                    }
                }
            }
            for _ in 0..MESSAGE_BUDGET {
                let Some(event) = self.shell.links.try_event() else { break };
                self.link_event(&event)?;
            }
            for _ in 0..MESSAGE_BUDGET {
                let Some(report) = self.trackers.try_report() else { break };
                self.tracked(report);
            }
            for _ in 0..MESSAGE_BUDGET {
                let Ok(message) = link.rx.try_recv() else { break };
                self.message(message);
            }
            // Last before the timers, by a time before it: however long this process was not run in between, no master
            // is taken for dead whose adverts wait in the socket.
            let now = clock::now();
            more = self.read_adverts();
            self.handle_timeout(now);
            more |= self.send_announcements(clock::now());
            if gone {
                self.shell.outbox.clear();
            }
            while let Some(message) = self.shell.outbox.pop() {
                if let Err(error) = link.tx.try_send(message) {
                    if let tokio::sync::mpsc::error::TrySendError::Full(message) = error {
                        self.shell.outbox.put_back(message);
                    }
                    break;
                }
            }
            if self.is_stopped() {
                break;
            }
        }
        while let Some(message) = self.shell.outbox.pop() {
            if gone || link.tx.send(message).await.is_err() {
                break;
            }
        }
        let _ = link.tx.send(Up::Stopped).await;
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let instances = self.instances.iter().chain(&self.leaving);
        instances
            .filter_map(Instance::poll_timeout)
            .chain(self.shell.pacer.poll_timeout())
            .chain(self.shell.damper.poll_timeout())
            .chain(self.statics.poll_timeout())
            .chain(self.scripts.poll_timeout().filter(|_| self.stop_by.is_none()))
            .chain([self.shell.leases.retry, self.converge_by, self.stop_by].into_iter().flatten())
            .min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.touched.extend(self.shell.damper.due(now));
        self.look_at_touched(now);
        self.statics.handle_timeout(now, &mut self.shell);
        // Groups see what timers end at once: BACKUP, where the wait for a master was over before it began.
        self.groups.settle(&mut self.instances, now, &mut self.shell);
        for instance in self.instances.iter_mut().chain(&mut self.leaving) {
            instance.handle_timeout(now, &mut self.shell);
        }
        // A stop is not undone by a map that comes back.
        if self.stop_by.is_none() && self.shell.leases.retry.is_some_and(|at| at <= now) {
            self.lend(now);
        }
        self.groups.settle(&mut self.instances, now, &mut self.shell);
        let moved = std::mem::take(&mut self.moved);
        self.look_for_intruders(&moved, now);
        self.shell.interfaces.close();
        let leaving = self.leaving.len();
        for gone in self.leaving.extract_if(.., |instance| instance.stopped) {
            self.lateness.add(gone.lateness());
        }
        if self.leaving.len() < leaving {
            self.watch_vips();
            self.close_unused();
        }
        if self.stop_by.is_none() {
            for run in self.scripts.due(now) {
                self.shell.say(Up::Script(run));
            }
        }
        if self.converge_by.is_some_and(|at| at <= now) {
            self.converge_by = None;
            if self.converged.is_none() {
                let waited = CONVERGE_LIMIT;
                tracing::error!(?waited, "data plane has not converged: no advert is sent");
            }
        }
    }

    /// Nothing of ours is left on this host.
    fn is_clean(&self) -> bool {
        let mut instances = self.instances.iter().chain(&self.leaving);
        // Else the forwarder looks after what a predecessor may have left.
        let stopped = self.statics.is_settled() && instances.all(Instance::has_left_nothing);
        stopped && !self.shell.left_behind && !self.statics.failed()
    }

    fn is_stopped(&mut self) -> bool {
        let Some(by) = self.stop_by else { return false };
        let left: Vec<&str> = self
            .instances
            .iter()
            .chain(&self.leaving)
            .filter(|instance| !instance.stopped)
            .map(|instance| instance.model.name.as_str())
            .collect();
        let settled = self.statics.is_settled();
        if (!left.is_empty() || !settled) && clock::now() >= by {
            tracing::error!(instances = ?left, "VIPs could not be removed in time");
            return true;
        }
        left.is_empty() && settled
    }

    fn stop(&mut self) {
        if self.stop_by.is_some() {
            return;
        }
        let now = clock::now();
        self.stop_by = Some(now + STOP_LIMIT);
        self.statics.stop(&mut self.shell);
        self.feed_all(&Input::Stop, now);
    }

    /// A file or a process that is tracked has another verdict.
    fn tracked(&mut self, report: Report) {
        self.trackers.learn(&report);
        let Report { key: name, verdict } = report;
        tracing::info!(name, ?verdict, "tracked object");
        self.shell.say(Up::Event(Event::Script { name: name.clone(), verdict }));
        self.script_verdict(&name, verdict, clock::now());
    }
}
