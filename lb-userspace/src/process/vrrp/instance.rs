//! One vrrp_instance: its state machine and what it holds on this host.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use super::{
    ah_clock::AhClock,
    announce::Extra,
    hold::{Change, Missed},
    interfaces::Interfaces,
    intruders::Intruders,
    lease::{Lease, Leases},
    lower,
    outbox::Outbox,
    wall,
};
use crate::{
    base::{
        core::Core as _,
        net::{Mac, Priority},
        status::{InstanceStatus, VrrpState},
        time::Instant,
    },
    config::model::{NotifyWords, VirtualLinkKind, VrrpInstance},
    io::{
        link::{Aborted, Failure, Links, Object, Vip, VirtualLink},
        vrrp::Channel,
    },
    process::{
        clock,
        ipc::{Event, Up},
        record::{Recorder, VrrpStep},
        secrets,
    },
    vrrp::{
        damper::Damper,
        lateness::Timers,
        notify::{Notification, Subject, What, notification},
        pacer::{Announcement, Pacer},
        router::{Config, Effect, Input, Level, Notify, Outgoing, Router, Standing},
    },
};

/// What instances share.
pub(super) struct Shell {
    pub interfaces: Interfaces,
    pub links: Links,
    pub leases: Leases,
    pub recorder: Recorder,
    pub outbox: Outbox,
    pub next_request: u64,
    pub pin_dir: PathBuf,
    pub pacer: Pacer,
    pub damper: Damper,
    /// Something could not be taken off at the end: a successor has to.
    pub left_behind: bool,
    pub ah_clock: AhClock,
}

impl Shell {
    /// Queues a message; see [`Outbox`] for its bound.
    pub fn say(&mut self, message: Up) {
        self.outbox.push(message);
    }
}

/// An instance and its shell.
pub(super) struct Instance {
    pub model: VrrpInstance,
    pub identity: lower::Identity,
    pub(super) lease: Lease,
    /// A reload has taken it out of the configuration.
    pub removed: bool,
    /// Effect::Stopped has come.
    pub stopped: bool,
    pub(super) router: Router,
    pub(super) vips: Vec<Vip>,
    /// Addresses of `vips`.
    pub(super) own: BTreeSet<IpAddr>,
    /// What a master of this configuration holds, in the order in which it is put on.
    pub(super) holds: Vec<Object>,
    /// Put on by us, or possibly left by a process before us.
    pub(super) held: BTreeSet<Object>,
    /// Held from start to end.
    pub(super) base: Vec<Object>,
    /// Names of the virtual interfaces among them.
    pub(super) links: BTreeSet<String>,
    pub(super) base_errors: Vec<Failure>,
    /// What of `holds` a master could not put on.
    pub(super) set_errors: Vec<Failure>,
    /// What of that was logged.
    pub(super) told_errors: Vec<Failure>,
    pub(super) wants_vips: bool,
    pub(super) changes: VecDeque<(u64, Change)>,
    pub(super) missed: Missed,
    pub(super) retry_set: Option<Instant>,
    pub(super) retry_clear: Option<Instant>,
    pub(super) retry_base: Option<Instant>,
    pub(super) extra: Extra,
    pub(super) intruders: Intruders,
    published: Option<(VrrpState, Priority)>,
    /// The priority that scripts and FIFOs were told last.
    told: Option<Priority>,
    last_transition_ms: u64,
    pub(super) garp_error: Option<String>,
    /// As master it has heard a lower priority, and its sync group does not know it yet.
    lower_heard: bool,
    /// When the router was called last: its time never goes backwards.
    latest: Instant,
}

impl Instance {
    pub fn new(model: VrrpInstance, config: Config, now: Instant, shell: &mut Shell) -> Self {
        if shell.recorder.is_on() {
            let config = Box::new(secrets::recordable_router(&config));
            shell.recorder.record(&VrrpStep::New(model.name.clone(), config), now);
        }
        let vips = lower::vips(&model);
        let holds = lower::holds(&model);
        Self {
            identity: lower::identity(&model),
            lease: Lease::default(),
            removed: false,
            stopped: false,
            router: Router::new(config, now),
            own: vips.iter().map(|vip| vip.prefix.addr).collect(),
            held: holds.iter().cloned().collect(),
            holds,
            base: vec![],
            links: BTreeSet::new(),
            base_errors: vec![],
            set_errors: vec![],
            told_errors: vec![],
            vips,
            wants_vips: false,
            changes: VecDeque::new(),
            missed: Missed::default(),
            retry_set: None,
            retry_clear: None,
            retry_base: None,
            extra: Extra::default(),
            intruders: Intruders::default(),
            published: None,
            told: None,
            last_transition_ms: wall::stamp(),
            garp_error: None,
            lower_heard: false,
            latest: now,
            model,
        }
    }

    /// Takes a changed configuration; state, timers and counters stay.
    pub fn configure(
        &mut self,
        model: VrrpInstance,
        config: Config,
        now: Instant,
        shell: &mut Shell,
    ) {
        self.vips = lower::vips(&model);
        self.own = self.vips.iter().map(|vip| vip.prefix.addr).collect();
        self.holds = lower::holds(&model);
        // What was somebody else's may be a VIP now.
        self.intruders.due = true;
        let renamed = self.model.name != model.name;
        self.model = model;
        if let Some((state, priority)) = self.published.filter(|_| renamed) {
            // What was said of it is known by its old name only.
            let instance = self.model.name.clone();
            shell.say(Up::Event(Event::Vrrp { instance, state, priority: priority.0 }));
        }
        self.prepare(shell);
        self.feed(Input::Configure(Box::new(config)), now, shell);
        self.look_at_interfaces(now, shell);
    }

    /// As its sync group needs to know it.
    pub fn standing(&self) -> Standing {
        self.router.standing()
    }

    /// Whether it has heard a lower priority as master since this was asked last.
    pub fn take_lower_heard(&mut self) -> bool {
        std::mem::take(&mut self.lower_heard)
    }

    /// Puts settings and virtual interfaces on that the configuration asks for.
    pub fn prepare(&mut self, shell: &mut Shell) {
        let wanted = lower::base(&self.model);
        self.links = lower::link_names(&wanted);
        self.change_base(wanted, shell);
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        // One that leaves looks for no intruder any more.
        let intruders = self.intruders.poll_timeout().filter(|_| !self.removed);
        let others = [self.extra.poll_timeout(), intruders];
        let retries = [self.retry_set, self.retry_clear, self.retry_base].into_iter().chain(others);
        retries.chain([self.router.poll_timeout()]).flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Instant, shell: &mut Shell) {
        self.retry(now, shell);
        if self.extra.poll_timeout().is_some_and(|at| at <= now) {
            self.extra(now, shell);
        }
        let now = now.max(self.latest);
        if self.router.poll_timeout().is_some_and(|at| at <= now) {
            self.latest = now;
            if shell.recorder.is_on() {
                shell.recorder.record(&VrrpStep::Timeout(self.model.name.clone()), now);
            }
            self.router.handle_timeout(now);
            self.perform(shell);
        }
    }

    pub fn feed(&mut self, input: Input, now: Instant, shell: &mut Shell) {
        if matches!(input, Input::Datagram(_) | Input::Converged { .. }) {
            self.tell_clock(now, shell);
        }
        self.handle(input, now, shell);
        self.perform(shell);
    }

    pub(super) fn handle(&mut self, input: Input, now: Instant, shell: &mut Shell) {
        // A caller's `now` may be older than that of an advert sent meanwhile.
        let now = now.max(self.latest);
        self.latest = now;
        if shell.recorder.is_on() {
            let input = secrets::recordable_input(&input, self.router.config().auth);
            shell.recorder.record(&VrrpStep::Input(self.model.name.clone(), input), now);
        }
        self.router.handle(input, now);
    }

    /// Whether it has to know of changes of an interface.
    pub fn follows(&self, name: &str) -> bool {
        self.model.interface == name
            || self.links.contains(name)
            || self.router.config().interfaces.iter().any(|it| it.name == name)
            || self.vips.iter().any(|vip| vip.interface == name)
            || self.base.iter().any(|it| matches!(it, Object::Link(link) if link.base == name))
    }

    /// Tells the state machine what its interfaces are like now.
    pub fn look_at_interfaces(&mut self, now: Instant, shell: &mut Shell) {
        self.remake_links(shell);
        let own = &self.own;
        let interface = &self.model.interface;
        let config = self.router.config();
        let channels = lower::channels(config);
        let group = self.group();
        let link = shell.interfaces.get(interface).map(|it| it.link.clone());
        if let Some(link) = &link
            && let Err(error) = shell.interfaces.open(&link.name, channels, group)
        {
            tracing::error!(instance = self.model.name, interface, error, "no advert socket");
        }
        for ear in self.ears() {
            if shell.interfaces.get(&ear.link).is_some()
                && let Err(error) = shell.interfaces.hear(&ear)
            {
                let (instance, interface) = (&self.model.name, ear.link);
                tracing::error!(instance, interface, error, "adverts from its MAC are not heard");
            }
        }
        self.open_frames(shell);
        // Peers behind a router cannot answer a link-local address.
        let far = |peer: &IpAddr| matches!(peer, IpAddr::V6(it) if !it.is_unicast_link_local());
        let global = config.unicast_peers.iter().any(far);
        let source = self.model.source.or_else(|| {
            let interface = shell.interfaces.get(interface)?;
            interface.source(own, config.wire.ipv6, global)
        });
        if let Some(link) = link {
            self.feed(Input::Mtu(link.mtu), now, shell);
        }
        let names: Vec<String> =
            self.router.config().interfaces.iter().map(|it| it.name.clone()).collect();
        for name in names {
            let up = shell.interfaces.get(&name).is_some_and(|it| it.up());
            let up = shell.damper.see(&name, up, now);
            self.feed(Input::Interface { name, up }, now, shell);
        }
        let lost = |address: &IpAddr| {
            self.model.on_host.track_src_ip
                && self.model.source.is_some()
                && !shell.interfaces.has_address(*address)
        };
        let source = source.filter(|address| !lost(address));
        // At the start, an IPv6 address that is a moment from being usable is no fault.
        let interface = shell.interfaces.get(&self.model.interface);
        let soon = interface.is_some_and(|it| it.up() && it.asks_for_source(&self.own));
        if source.is_none() && soon && self.router.waits_for_source() {
            return;
        }
        self.feed(Input::Source(source), now, shell);
    }

    /// What a request to the kernel, if it is ours, did to connections of VIPs that left.
    pub fn aborted(&mut self, id: u64, aborted: &Aborted) {
        if !self.changes.iter().any(|(other, _)| *other == id) {
            return;
        }
        let (instance, count) = (&self.model.name, aborted.count);
        if count > 0 {
            tracing::info!(instance, count, "own TCP connections of VIPs that leave are reset");
            self.router.count_aborted(count.into());
        }
        if let Some(error) = &aborted.error {
            tracing::warn!(instance, count, error, "own TCP connections of VIPs that leave");
        }
    }

    /// Counts announcements that left.
    pub(super) fn count_garps(&mut self, sent: u64) {
        self.router.count_garps(sent);
    }

    /// Counts a VIP that somebody else has put on this host.
    pub(super) fn count_foreign_vip(&mut self) {
        self.router.count_foreign_vip();
    }

    /// Whether nothing of it is left, nor of a predecessor's.
    pub(super) fn has_left_nothing(&self) -> bool {
        self.stopped && self.router.has_cleared()
    }

    /// Whether it is neither master nor about to be, and nothing before it was.
    pub(super) fn expects_no_vips(&self) -> bool {
        self.router.expects_no_vips()
    }

    /// Does what the state machine asks for.
    pub(super) fn perform(&mut self, shell: &mut Shell) {
        while let Some(effect) = self.router.poll_effect() {
            match effect {
                Effect::SendAdvert { priority } => self.send(priority, shell),
                Effect::Lease(state) => self.write_lease(state, shell),
                Effect::AddVips => {
                    self.change(Change::Set, shell);
                    self.extra(clock::now(), shell);
                }
                Effect::PrepareVips => self.change(Change::Set, shell),
                Effect::RemoveVips => self.change(Change::Clear, shell),
                Effect::Garp { repeat } => self.announce(repeat, shell),
                Effect::Probe => self.probe(shell),
                Effect::GarpSource(address) => shell.pacer.push(Announcement {
                    instance: self.model.name.clone(),
                    interface: self.model.interface.clone(),
                    address,
                }),
                Effect::Notify(what) => {
                    let what = match what {
                        Notify::State(state) => What::State(state),
                        Notify::Stop if self.removed => What::Deleted,
                        Notify::Stop => What::Stop,
                        Notify::MasterRxLowerPri => {
                            self.lower_heard = true;
                            What::MasterRxLowerPri
                        }
                    };
                    self.tell(what, shell);
                }
                Effect::Changed => self.publish(shell),
                Effect::Log { level, text } => {
                    let instance = &self.model.name;
                    match level {
                        Level::Info => tracing::info!(instance, "{text}"),
                        Level::Warn => tracing::warn!(instance, "{text}"),
                        Level::Error => tracing::error!(instance, "{text}"),
                    }
                }
                Effect::Stopped => self.leave(shell),
            }
        }
        self.publish(shell);
    }

    /// Sends to the group, or to each unicast peer: one that is heard by any peer is sent.
    fn send(&mut self, priority: Priority, shell: &mut Shell) {
        let at = clock::now();
        self.tell_clock(at, shell);
        let channel = lower::send_channel(self.router.config());
        let result = self.router.datagrams(priority, at).and_then(|datagrams| {
            let (mut sent, mut errors) = (false, Vec::new());
            for Outgoing { destination, bytes } in datagrams {
                let interface = &self.model.interface;
                let result = match self.advert_link() {
                    Some(link) => shell.interfaces.send_advert_frame(link, &bytes, destination),
                    None => shell.interfaces.send(interface, channel, &bytes, destination),
                };
                match result {
                    Ok(()) => sent = true,
                    Err(error) => errors.push(error),
                }
            }
            if sent { Ok(()) } else { Err(errors.join(", ")) }
        });
        let input = match result {
            Ok(()) => Input::AdvertSent { at },
            Err(error) => Input::AdvertFailed { error },
        };
        self.handle(input, clock::now(), shell);
    }

    /// Another host says on `interface` that it has `address`.
    pub fn claimed(
        &mut self,
        interface: &str,
        mac: Mac,
        address: IpAddr,
        now: Instant,
        shell: &mut Shell,
    ) {
        let here =
            |vip: &Vip| vip.prefix.addr == address && self.asked_on(&vip.interface).0 == interface;
        if self.vips.iter().any(here) {
            self.feed(Input::Claim { address, mac }, now, shell);
        }
    }

    /// Where others are asked for the VIPs of an interface: below a macvlan of this instance, because others have its MAC,
    /// which comes with it.
    pub fn asked_on<'a>(&'a self, interface: &'a str) -> (&'a str, Option<Mac>) {
        let link = self.base.iter().find_map(|object| match object {
            Object::Link(link) if link.name == interface => Some(link),
            _ => None,
        });
        match link {
            Some(VirtualLink { base, kind: VirtualLinkKind::Macvlan { .. }, mac, .. }) => {
                (base, Some(*mac))
            }
            _ => (interface, None),
        }
    }

    /// The sockets that hear its adverts.
    pub fn channels(&self) -> &'static [Channel] {
        lower::channels(self.router.config())
    }

    /// Where it hears adverts from virtual MACs; nowhere once its virtual interfaces are given back.
    pub fn ears(&self) -> impl Iterator<Item = lower::Ear> + use<> {
        let ears = if self.base.is_empty() { vec![] } else { lower::ears(&self.model) };
        ears.into_iter()
    }

    /// The multicast group of its adverts, unless they are unicast.
    pub fn group(&self) -> Option<IpAddr> {
        let config = self.router.config();
        config.unicast_peers.is_empty().then(|| config.wire.group())
    }

    /// Its VIPs with their interfaces.
    pub fn vips(&self) -> &[Vip] {
        &self.vips
    }

    /// Tells scripts, FIFOs and mail.
    fn tell(&mut self, what: What, shell: &mut Shell) {
        let words = &self.model.notify;
        let priority = self.router.effective_priority();
        let told = notification(Subject::Instance, &self.model.name, words, what, priority);
        self.told = Some(priority);
        shell.say(Up::Notify(told));
    }

    /// For `fifo_write_vrrp_states_on_reload`: the state's FIFO line once more.
    pub fn tell_again(&mut self, shell: &mut Shell) {
        let what = What::State(self.router.state());
        let (words, priority) = (NotifyWords::default(), self.router.effective_priority());
        let told = notification(Subject::Instance, &self.model.name, &words, what, priority);
        shell.say(Up::Notify(Notification { state: None, ..told }));
    }

    fn publish(&mut self, shell: &mut Shell) {
        let (state, priority) = (self.router.state(), self.router.effective_priority());
        if self.published == Some((state, priority)) {
            return;
        }
        if self.published.is_none_or(|(old, _)| old != state) {
            self.last_transition_ms = wall::stamp();
        } else if [VrrpState::Master, VrrpState::Backup].contains(&state)
            && self.told != Some(priority)
        {
            // What is tracked may be known by the time that a state is told, and is told with it.
            self.tell(What::Priority { master: state == VrrpState::Master }, shell);
        }
        self.published = Some((state, priority));
        let instance = self.model.name.clone();
        shell.say(Up::Event(Event::Vrrp { instance, state, priority: priority.0 }));
    }

    /// One sentence: why it is in its state, what it could not do there, and what others did.
    fn reason(&self, now: Instant) -> String {
        let mut reason = match self.missing() {
            missing if missing.is_empty() => self.router.reason(),
            missing => format!("{}; not done yet: {missing}", self.router.reason()),
        };
        if !self.wants_vips {
            let intruders = self.intruders.sentence(now);
            if !intruders.is_empty() {
                reason = format!("{reason}; {intruders}");
            }
        }
        reason
    }

    /// `lbctl explain NAME`: lines for a person.
    pub fn explain(&self, now: Instant) -> String {
        let (router, config) = (&self.router, self.router.config());
        let mut out = format!(
            "vrrp_instance {} on {}: {}, VRID {}, priority {} (configured {})\n  {}\n",
            self.model.name,
            self.model.interface,
            router.state().name(),
            config.vrid.get(),
            router.effective_priority(),
            config.priority,
            self.reason(now),
        );
        let why = router.why(now);
        for held in &why.held_by {
            out.push_str(&format!("  held by: {held}\n"));
        }
        if let (Some(next), Some(ms)) = (&why.next, why.next_ms) {
            out.push_str(&format!("  in {}.{:03} s: {next}\n", ms / 1000, ms % 1000));
        }
        if config.told_handover {
            out.push_str(
                "  told_handover: backups with the word take over at once when it leaves\n",
            );
        }
        out
    }

    /// How late its timers have fired.
    pub fn lateness(&self) -> &Timers {
        self.router.lateness()
    }

    /// Its statistics start from zero.
    pub fn clear_statistics(&mut self) {
        self.router.clear_counters();
    }

    pub fn status(&self, now: Instant, shell: &Shell) -> InstanceStatus {
        let config = self.router.config();
        let peer = self.router.peer().filter(|(_, priority)| *priority != Priority::RELEASE);
        let peer = peer.filter(|_| self.router.state() != VrrpState::Master);
        let signed_ms = |end: Instant| {
            let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
            if end >= now { ms(end - now) } else { -ms(now - end) }
        };
        InstanceStatus {
            name: self.model.name.clone(),
            interface: self.model.interface.clone(),
            vrid: config.vrid.get(),
            version: config.version.number(),
            state: self.router.state(),
            base_priority: config.priority.0,
            effective_priority: self.router.effective_priority().0,
            vips: self.vips.iter().map(|vip| vip.prefix.to_string()).collect(),
            vips_set: !self.vips.is_empty()
                && self.vips.iter().all(|vip| {
                    shell.interfaces.get(&vip.interface).is_some_and(|it| it.has(vip.assigned()))
                }),
            master: peer.map(|(source, _)| source.to_string()),
            master_priority: peer.map(|(_, priority)| priority.0),
            master_interval_ms: u64::from(self.router.master_interval().centis()) * 10,
            lease_ms: shell
                .leases
                .is_open()
                .then(|| self.router.lease_end())
                .flatten()
                .map(signed_ms),
            reason: self.reason(now),
            why: self.router.why(now),
            last_transition_ms: self.last_transition_ms,
            counters: self.router.counters().clone(),
        }
    }
}
