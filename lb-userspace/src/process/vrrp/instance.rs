//! One vrrp_instance: its state machine and what it holds on this host.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use super::{interfaces::Interfaces, lease::LeaseStore, lower};
use crate::{
    base::{
        core::Core as _,
        net::{IpPrefix, Mac, Priority},
        status::{InstanceStatus, VrrpState},
        table::{LeaseSlot, LeaseState},
        time::Instant,
    },
    config::model::{NotifyWords, VrrpInstance},
    io::{
        link::{Aborted, Links, Request, Vip},
        vrrp::Channel,
    },
    process::{
        clock,
        ipc::{Event, Up},
        record::{Recorder, VrrpStep},
        secrets,
    },
    vrrp::{
        arp,
        auth::Auth,
        notify::{Notification, Subject, What, notification},
        router::{Config, Effect, Input, Level, Notify, Outgoing, Router, Standing},
    },
};

/// VIPs that could not be taken off are tried again after this long; the lease stays fenced.
const CLEAR_RETRY: Duration = Duration::from_secs(1);
/// Messages to the watchdog that may wait; status events beyond it are dropped and counted,
/// because the watchdog only wants the last one.
const OUTBOX_LIMIT: usize = 4096;

/// What instances share.
pub(super) struct Shell {
    pub interfaces: Interfaces,
    pub links: Links,
    /// `None` until the data plane has converged, and for ever when the host cannot fence itself.
    pub lease: Option<Box<dyn LeaseStore>>,
    pub recorder: Recorder,
    pub outbox: VecDeque<Up>,
    pub dropped: u64,
    pub next_request: u64,
    pub pin_dir: PathBuf,
}

impl Shell {
    /// Queues a message. At the bound the oldest event is dropped, as only the last of a kind
    /// counts; what is no event (notifications, scripts, answers) is never dropped.
    pub fn say(&mut self, message: Up) {
        if self.outbox.len() >= OUTBOX_LIMIT
            && let Some(at) = self.outbox.iter().position(|it| matches!(it, Up::Event(_)))
        {
            self.dropped += 1;
            self.outbox.remove(at);
        }
        self.outbox.push_back(message);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set,
    Clear,
}

/// An instance and its shell.
pub(super) struct Instance {
    pub model: VrrpInstance,
    pub identity: lower::Identity,
    pub slot: Option<LeaseSlot>,
    /// A reload has taken it out of the configuration.
    pub removed: bool,
    /// Effect::Stopped has come.
    pub stopped: bool,
    router: Router,
    vips: Vec<Vip>,
    /// Put on by us, or possibly left by a process before us.
    held: BTreeSet<Vip>,
    wants_vips: bool,
    changes: VecDeque<(u64, Change)>,
    retry_clear: Option<Instant>,
    published: Option<(VrrpState, Priority)>,
    last_transition_ms: u64,
    garp_error: Option<String>,
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
        Self {
            identity: lower::identity(&model),
            slot: None,
            removed: false,
            stopped: false,
            router: Router::new(config, now),
            held: vips.iter().cloned().collect(),
            vips,
            wants_vips: false,
            changes: VecDeque::new(),
            retry_clear: None,
            published: None,
            last_transition_ms: clock::unix_ms(),
            garp_error: None,
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
        self.model = model;
        self.feed(Input::Configure(Box::new(config)), now, shell);
        self.look_at_interfaces(now, shell);
    }

    /// As its sync group needs to know it.
    pub fn standing(&self) -> Standing {
        self.router.standing()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.router.poll_timeout(), self.retry_clear].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Instant, shell: &mut Shell) {
        if self.retry_clear.is_some_and(|at| at <= now) {
            self.retry_clear = None;
            self.change(Change::Clear, shell);
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

    fn handle(&mut self, input: Input, now: Instant, shell: &mut Shell) {
        // A caller's `now` may be older than that of an advert sent meanwhile.
        let now = now.max(self.latest);
        self.latest = now;
        if shell.recorder.is_on() {
            let input = secrets::recordable_input(&input, self.router.config().auth);
            shell.recorder.record(&VrrpStep::Input(self.model.name.clone(), input), now);
        }
        self.router.handle(input, now);
    }

    /// Tells the state machine what its interfaces are like now.
    pub fn look_at_interfaces(&mut self, now: Instant, shell: &mut Shell) {
        let own: Vec<IpAddr> = self.vips.iter().map(|vip| vip.prefix.addr).collect();
        let interface = &self.model.interface;
        let config = self.router.config();
        let unicast = !config.unicast_peers.is_empty();
        let channels = lower::channels(config);
        let group = (!unicast).then(|| config.wire.group());
        let link = shell.interfaces.get(interface).and_then(|it| it.link.clone());
        if let Some(link) = &link
            && let Err(error) = shell.interfaces.open(&link.name, channels, group)
        {
            tracing::error!(instance = self.model.name, interface, error, "no advert socket");
        }
        // Peers behind a router cannot answer a link-local address.
        let far = |peer: &IpAddr| matches!(peer, IpAddr::V6(it) if !it.is_unicast_link_local());
        let global = config.unicast_peers.iter().any(far);
        let source = self.model.source.or_else(|| {
            let interface = shell.interfaces.get(interface)?;
            interface.source(&own, config.wire.ipv6, global)
        });
        if let Some(link) = link {
            self.feed(Input::Mtu(link.mtu), now, shell);
        }
        let names: Vec<String> =
            self.router.config().interfaces.iter().map(|it| it.name.clone()).collect();
        for name in names {
            let up = shell.interfaces.get(&name).is_some_and(|it| it.up());
            self.feed(Input::Interface { name, up }, now, shell);
        }
        self.feed(Input::Source(source), now, shell);
    }

    /// Someone took an address off an interface.
    pub fn address_gone(
        &mut self,
        interface: &str,
        prefix: IpPrefix,
        now: Instant,
        shell: &mut Shell,
    ) {
        // What we are changing ourselves is told before the change is done.
        if !self.wants_vips || !self.changes.is_empty() {
            return;
        }
        let ours = |vip: &&Vip| vip.interface == interface && vip.prefix == prefix;
        let input = match self.vips.iter().find(ours) {
            Some(vip) if vip.options.no_track => {
                Input::HoldLost { what: format!("VIP {prefix}"), tracked: false }
            }
            Some(_) => Input::VipLost { address: prefix.addr },
            None => return,
        };
        self.feed(input, now, shell);
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

    /// A request to the kernel is done. False when it is not ours.
    pub fn changed(
        &mut self,
        id: u64,
        added: u32,
        errors: &[String],
        now: Instant,
        shell: &mut Shell,
    ) -> bool {
        let Some(at) = self.changes.iter().position(|(other, _)| *other == id) else {
            return false;
        };
        let change = self.changes.remove(at).map(|(_, change)| change);
        for error in errors {
            tracing::error!(instance = self.model.name, error, "virtual_ipaddress");
        }
        match change {
            Some(Change::Set) => self.feed(Input::VipsSet { added }, now, shell),
            Some(Change::Clear) if errors.is_empty() => {
                self.feed(Input::VipsCleared, now, shell);
            }
            _ => self.retry_clear = Some(now + CLEAR_RETRY),
        }
        true
    }

    fn change(&mut self, change: Change, shell: &mut Shell) {
        self.wants_vips = change == Change::Set;
        let (set, clear) = match change {
            Change::Set => {
                let gone = self.held.iter().filter(|vip| !self.vips.contains(vip));
                let gone = gone.cloned().collect();
                self.held = self.vips.iter().cloned().collect();
                (self.vips.clone(), gone)
            }
            Change::Clear => {
                let all: BTreeSet<_> = self.held.iter().chain(&self.vips).cloned().collect();
                (vec![], all.into_iter().collect())
            }
        };
        shell.next_request += 1;
        let id = shell.next_request;
        self.changes.push_back((id, change));
        if let Err(error) = shell.links.request(Request { id, set, clear }) {
            tracing::error!(instance = self.model.name, error, "VIPs not changed");
            self.changes.retain(|(other, _)| *other != id);
            self.retry_clear = (change == Change::Clear).then(|| clock::now() + CLEAR_RETRY);
        }
    }

    fn perform(&mut self, shell: &mut Shell) {
        while let Some(effect) = self.router.poll_effect() {
            match effect {
                Effect::SendAdvert { priority } => self.send(priority, shell),
                Effect::Lease(state) => self.write_lease(state, shell),
                Effect::AddVips => self.change(Change::Set, shell),
                Effect::RemoveVips => self.change(Change::Clear, shell),
                Effect::Garp { repeat } => {
                    let sent = self.each_vip(repeat, arp::gratuitous, shell);
                    self.router.count_garps(sent);
                }
                Effect::Probe => {
                    self.each_vip(1, arp::probe, shell);
                }
                Effect::Notify(what) => {
                    let what = match what {
                        Notify::State(state) => What::State(state),
                        Notify::Stop if self.removed => What::Deleted,
                        Notify::Stop => What::Stop,
                        Notify::MasterRxLowerPri => What::MasterRxLowerPri,
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
                Effect::Stopped => self.stopped = true,
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
                match shell.interfaces.send(interface, channel, &bytes, destination) {
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

    /// Authentication with sequence numbers wants to know the time of day.
    fn tell_clock(&mut self, now: Instant, shell: &mut Shell) {
        let config = self.router.config();
        if config.wire.hmac.is_some() || matches!(config.auth, Auth::Ah(_)) {
            self.handle(Input::WallClock(clock::unix()), now, shell);
        }
    }

    /// Writes the lease that runs, if one does, into a map that does not know it.
    pub fn write_running_lease(&mut self, now: Instant, shell: &mut Shell) {
        if let Some(end) = self.router.lease_end().filter(|end| *end > now) {
            self.write_lease(LeaseState::Until(end), shell);
        }
    }

    fn write_lease(&mut self, state: LeaseState, shell: &mut Shell) {
        let (Some(lease), Some(slot)) = (&mut shell.lease, self.slot) else { return };
        if let Err(error) = lease.set(slot, state) {
            let instance = &self.model.name;
            tracing::error!(instance, slot = slot.0, ?state, "lease not written: {error:#}");
        }
    }

    /// Sends an ARP packet for every VIP, so often; how many left.
    fn each_vip(
        &mut self,
        repeat: u32,
        frame: fn(Mac, Ipv4Addr) -> [u8; arp::FRAME_LEN],
        shell: &mut Shell,
    ) -> u64 {
        let mut sent = 0;
        // Round after round, as keepalived, so that every VIP is told early.
        for _ in 0..repeat {
            for vip in &self.vips {
                let IpAddr::V4(address) = vip.prefix.addr else { continue };
                let send = shell.interfaces.send_frame(&vip.interface, |mac| frame(mac, address));
                match send {
                    Ok(()) => sent += 1,
                    Err(error) => {
                        if self.garp_error.as_ref() != Some(&error) {
                            let (instance, interface) = (&self.model.name, &vip.interface);
                            tracing::warn!(instance, interface, error, "ARP for a VIP not sent");
                        }
                        self.garp_error = Some(error);
                    }
                }
            }
        }
        sent
    }

    /// Another host says on `interface` that it has `address`.
    pub fn claimed(
        &mut self,
        interface: &str,
        mac: Mac,
        address: Ipv4Addr,
        now: Instant,
        shell: &mut Shell,
    ) {
        let address = IpAddr::V4(address);
        if self.vips.iter().any(|vip| vip.interface == interface && vip.prefix.addr == address) {
            self.feed(Input::Claim { address, mac }, now, shell);
        }
    }

    /// The sockets that hear its adverts.
    pub fn channels(&self) -> &'static [Channel] {
        lower::channels(self.router.config())
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
            self.last_transition_ms = clock::unix_ms();
        } else {
            self.tell(What::Priority { master: state == VrrpState::Master }, shell);
        }
        self.published = Some((state, priority));
        let instance = self.model.name.clone();
        shell.say(Up::Event(Event::Vrrp { instance, state, priority: priority.0 }));
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
            router.reason(),
        );
        let why = router.why(now);
        for held in &why.held_by {
            out.push_str(&format!("  held by: {held}\n"));
        }
        if let (Some(next), Some(ms)) = (&why.next, why.next_ms) {
            out.push_str(&format!("  in {}.{:03} s: {next}\n", ms / 1000, ms % 1000));
        }
        out
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
                    shell.interfaces.get(&vip.interface).is_some_and(|it| it.has(vip.prefix))
                }),
            master: peer.map(|(source, _)| source.to_string()),
            master_priority: peer.map(|(_, priority)| priority.0),
            lease_ms: shell.lease.as_ref().and(self.router.lease_end()).map(signed_ms),
            reason: self.router.reason(),
            why: self.router.why(now),
            last_transition_ms: self.last_transition_ms,
            counters: self.router.counters().clone(),
        }
    }
}
