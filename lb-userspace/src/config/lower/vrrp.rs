//! `vrrp_script` and `vrrp_instance`.

use std::time::Duration;

use crate::base::net::{Priority, Vrid};

use super::{
    super::{
        ReferenceKind,
        diag::{Class, Severity},
        keywords::{Block, micros_text},
        model::{
            InitialState, TrackLists, User, VipAddress, VrrpInstance, VrrpScript, VrrpVersion,
        },
        source::Span,
        syntax::UNFILLED,
        value,
    },
    Entry, Lower, Spanned,
    cross::InstanceMarks,
    host::HostWords,
    quirks,
    same::VipMark,
    strict::Known,
    wire::WireWords,
};

/// What an instance block says, before defaults depend on each other.
#[derive(Default)]
pub(super) struct Raw {
    state: Option<InitialState>,
    interface: Option<Spanned<String>>,
    vrid: Option<Spanned<Vrid>>,
    priority: Option<Spanned<u8>>,
    version: Option<Spanned<VrrpVersion>>,
    advert_int: Option<Spanned<Duration>>,
    preempt: Option<Span>,
    nopreempt: Option<Span>,
    pub(super) preempt_delay: Option<Spanned<Duration>>,
    timer_expired: Option<Spanned<Priority>>,
    pub(super) wire: WireWords,
    pub(super) vips: Vec<Spanned<VipAddress>>,
    pub(super) no_vips: Option<Span>,
    /// There are lines in `virtual_ipaddress` that are none.
    bad_vips: bool,
    pub(super) host: HostWords,
}

impl Raw {
    fn vip_marks(&self, interface: &str) -> Vec<VipMark> {
        let of = |vips: &[Spanned<VipAddress>], excluded| -> Vec<_> {
            let mark = |vip: &Spanned<VipAddress>| VipMark {
                addr: vip.value.prefix.addr,
                interface: vip.value.dev.clone().unwrap_or_else(|| interface.to_owned()),
                excluded,
                span: vip.span,
            };
            vips.iter().map(mark).collect()
        };
        let mut marks = of(&self.vips, false);
        marks.extend(of(&self.host.excluded, true));
        marks
    }
}

impl Lower<'_> {
    /// `vrrp_script NAME { … }`.
    pub(super) fn vrrp_script(&mut self, block: &Entry<'_>) {
        let Some(name) = self.word(block) else { return };
        // Of a second definition the words are still read: what is wrong in them is told in the same run.
        let before = self.marks.scripts.get(&name.value).copied();
        match before {
            Some(first) => {
                let message = format!("vrrp_script `{}` is defined twice", name.value);
                self.defined_twice(name.span, first, message);
            }
            None => drop(self.marks.scripts.insert(name.value.clone(), name.span)),
        }
        let (mut command, mut user) = (None, None::<User>);
        let (mut interval, mut timeout) = (Duration::from_secs(1), None);
        let (mut weight, mut reverse, mut fall, mut rise) = (0, false, 1, 1);
        let mut init_fail = false;
        for entry in self.entries(Block::VrrpScript, block.block()) {
            match entry.name() {
                "script" => command = self.command(&entry, None),
                "interval" => interval = self.script_interval(&entry).unwrap_or(interval),
                "timeout" => {
                    let given = self.duration(&entry).filter(|time| !time.is_zero());
                    timeout = given.map(|value| Spanned { value, span: entry.statement.span() });
                }
                "weight" => (weight, reverse) = self.script_weight(&entry),
                "rise" => rise = self.u32(&entry).unwrap_or(rise),
                "fall" => fall = self.u32(&entry).unwrap_or(fall),
                "user" => user = self.runs_as(&entry),
                "init_fail" => init_fail = true,
                other => self.unhandled(&entry, other),
            }
        }
        if let Some(timeout) = &timeout
            && timeout.value > interval
        {
            self.notice(
                timeout.span,
                format!("vrrp_script `{}`: timeout is longer than interval", name.value),
                "a run that lasts longer than interval delays the next one",
            );
        }
        if timeout.is_none() && command.as_ref().is_some_and(|it| !it.argv[0].starts_with('<')) {
            self.notice(
                name.span,
                format!(
                    "vrrp_script `{}` has no `timeout`: a run is ended after {} s, its interval",
                    name.value,
                    micros_text(u64::try_from(interval.as_micros()).unwrap_or(u64::MAX))
                ),
                "a run that is ended counts as failed; give the longest time that a good run takes",
            );
        }
        let Some(mut command) = command else {
            let given = block.block().any(|s| self.source.slice(s.head()) == "script");
            if !given {
                self.error(name.span, format!("vrrp_script `{}` has no `script`", name.value));
            }
            return;
        };
        if let Some(file) = command.argv[0].strip_prefix('<') {
            // keepalived's short form: good while the file can be opened. test(1) asks with the
            // rights of the script's user.
            command.argv = vec!["/usr/bin/test".into(), "-r".into(), file.to_owned()];
        }
        command.user = user.or_else(|| self.config.global.script_user.clone());
        let script = VrrpScript {
            name: name.value.clone(),
            command,
            interval,
            timeout: timeout.map_or(interval, |timeout| timeout.value),
            weight,
            reverse,
            fall,
            rise,
            init_fail,
        };
        if before.is_none() {
            self.config.vrrp_scripts.insert(name.value, script);
        }
    }

    /// 0 is a second, as in keepalived.
    fn script_interval(&mut self, entry: &Entry<'_>) -> Option<Duration> {
        let word = self.first(entry)?;
        let zero = value::seconds(&self.text(word)).is_some_and(|it| it.value == 0 && !it.junk);
        if !zero {
            return self.duration(entry);
        }
        let message = "`interval` cannot be 0; 1 s is used";
        self.warn(word.span, message, "as in keepalived; its least is 0.001 s");
        Some(Duration::from_secs(1))
    }

    /// `vrrp_instance NAME { … }`.
    pub(super) fn vrrp_instance(&mut self, block: &Entry<'_>) {
        let Some(name) = self.word(block) else { return };
        if name.value.len() > 255 {
            self.error(name.span, "the name of a vrrp_instance is longer than 255 bytes");
            return;
        }
        if !self.has_room(
            self.config.vrrp_instances.len(),
            super::COMPARED_LIMIT,
            name.span,
            "vrrp_instances",
        ) {
            return;
        }
        let mut raw = Raw::default();
        let (mut scripts, mut interfaces) = (Vec::new(), Vec::new());
        let mut track_more = TrackLists::default();
        let mut dont_track_primary = false;
        let mut election = self.config.global.election.clone();
        let mut notify = self.notify_words();
        let tracked_before = self.marks.tracking.used.len();
        for entry in self.entries(Block::VrrpInstance, block.block()) {
            let at = entry.statement.span();
            match entry.name() {
                "state" => raw.state = self.initial_state(&entry),
                "interface" => {
                    raw.interface = self.word(&entry);
                    if let Some(interface) = &raw.interface {
                        let (value, span) = (interface.value.clone(), interface.span);
                        self.refer(ReferenceKind::Interface, value, span, "interface");
                    }
                }
                "virtual_router_id" => {
                    raw.vrid = self
                        .int(&entry)
                        .and_then(|id| Vrid::new(u8::try_from(id).ok()?))
                        .map(|value| Spanned { value, span: at });
                }
                "priority" => {
                    raw.priority = self
                        .int(&entry)
                        .and_then(|value| u8::try_from(value).ok())
                        .map(|value| Spanned { value, span: at });
                }
                "advert_int" => {
                    raw.advert_int = self.duration(&entry).map(|value| Spanned { value, span: at });
                }
                "version" => {
                    raw.version = self.version(&entry).map(|value| Spanned { value, span: at });
                }
                "virtual_ipaddress" => {
                    let vips = self.vips(&entry);
                    raw.bad_vips |= vips.is_empty() && !self.list_lines(&entry).is_empty();
                    raw.vips.extend(vips);
                }
                "no_virtual_ipaddress" => raw.no_vips = Some(at),
                "preempt" => raw.preempt = Some(at),
                "nopreempt" => raw.nopreempt = Some(at),
                "preempt_delay" => {
                    raw.preempt_delay =
                        self.duration(&entry).map(|value| Spanned { value, span: at });
                }
                "track_script" => self.tracked_scripts(&entry, &mut scripts),
                "track_interface" => self.tracked_interfaces(&entry, &mut interfaces),
                "dont_track_primary" => dont_track_primary = true,
                "timer_expired_backup" | "thread_timer_expired" => {
                    raw.timer_expired = self.timer_expired(&entry);
                }
                word if self.election(&entry, word, &mut election) => {}
                _ if self.notify_word(&entry, &mut notify) => {}
                _ if self.track_list(&entry, &mut track_more) => {}
                _ if self.wire_word(&name.value, &entry, &mut raw.wire) => {}
                other => {
                    if !self.host_word(&entry, &mut raw.host) {
                        self.unhandled(&entry, other);
                    }
                }
            }
        }
        let version = self.instance_version(&name.value, &raw, election.strict);
        let advert_int = self.advert_int(&name.value, version, raw.advert_int.as_ref());
        let (given_state, priority) = self.priority(&name, &raw);
        let mut state = given_state;
        let known = Known { name: &name, version, priority };
        self.strict(&known, &mut raw, &mut election, &mut state);
        self.conflicts(&name.value, &raw);
        let told = block.block().find(|s| self.source.slice(s.head()) == "told_handover");
        let told = told.map_or(name.span, |statement| statement.head());
        self.told_handover(&name.value, told, version, &mut election);
        let (nopreempt, preempt_delay) = self.preemption(&name.value, &raw, given_state, priority);
        let timer_expired_backup =
            self.timer_expired_backup(&name.value, raw.timer_expired.take(), nopreempt);
        let given = block.block().any(|s| self.source.slice(s.head()) == "virtual_ipaddress");
        self.no_vips(&name, &raw, given);
        let vips: Vec<_> = raw.vips.iter().map(|vip| (vip.value.prefix, vip.span)).collect();
        let wire = self.wire_options(&name.value, &raw.wire, &vips, advert_int);
        let authentication = self.usable_authentication(&name.value, version, wire.ipv6, &raw.wire);
        let source = self.source_address(&name.value, &raw.wire, &vips);
        let (Some(interface), Some(vrid)) = (&raw.interface, &raw.vrid) else {
            for (missing, word) in
                [(raw.interface.is_none(), "interface"), (raw.vrid.is_none(), "virtual_router_id")]
            {
                let given = block.block().any(|s| self.source.slice(s.head()) == word);
                if missing && !given {
                    self.error(
                        name.span,
                        format!("vrrp_instance `{}` has no `{word}`", name.value),
                    );
                }
            }
            return;
        };
        let garp = raw.host.garp(&self.config.global);
        let on_host = raw.host.on_host(&self.config.global);
        let instance = VrrpInstance {
            name: name.value.clone(),
            state,
            interface: interface.value.clone(),
            vrid: vrid.value,
            priority,
            version,
            advert_int,
            authentication,
            nopreempt,
            preempt_delay,
            election,
            timer_expired_backup,
            source,
            unicast_peers: raw.wire.peers.iter().map(|peer| peer.value).collect(),
            wire,
            virtual_ipaddress: raw.vips.iter().map(|vip| vip.value.clone()).collect(),
            track_scripts: scripts.iter().map(|script| script.value.clone()).collect(),
            track_more,
            track_interfaces: interfaces.iter().map(|it| it.value.clone()).collect(),
            dont_track_primary,
            garp,
            on_host,
            notify,
        };
        self.marks.instances.push(InstanceMarks {
            name: name.span,
            vrid: vrid.span,
            vips: raw.vip_marks(&interface.value),
            link: raw.host.link_name(),
            scripts: scripts.iter().map(|s| (s.value.name.clone(), s.span)).collect(),
            interfaces: interfaces.iter().map(|it| (it.value.name.clone(), it.span)).collect(),
            objects: self.marks.tracking.used.get(tracked_before..).unwrap_or(&[]).to_vec(),
        });
        self.config.vrrp_instances.push(instance);
    }

    /// IPv6 is version 3, unless the instance itself says `version 2`: no RFC has that one, but
    /// keepalived speaks it outside of strict mode.
    fn instance_version(&mut self, name: &str, raw: &Raw, strict: bool) -> VrrpVersion {
        let vips: Vec<_> = raw.vips.iter().map(|vip| (vip.value.prefix, vip.span)).collect();
        let has_v6 = raw.wire.ipv6(&vips);
        match &raw.version {
            Some(given) if has_v6 && given.value == VrrpVersion::V2 && strict => {
                let message = format!(
                    "vrrp_instance `{name}`: strict mode has no version 2 over IPv6: version 3 is \
                     used"
                );
                self.warn(given.span, message, "");
                VrrpVersion::V3
            }
            Some(given) => given.value,
            None if has_v6 => VrrpVersion::V3,
            None => self.config.global.vrrp_version,
        }
    }

    /// Rounds as keepalived does: whole seconds in version 2, 10 ms in version 3.
    fn advert_int(
        &mut self,
        name: &str,
        version: VrrpVersion,
        given: Option<&Spanned<Duration>>,
    ) -> Duration {
        let Some(given) = given else { return Duration::from_secs(1) };
        let micros = u64::try_from(given.value.as_micros()).unwrap_or(u64::MAX);
        let (unit, max, rule) = match version {
            VrrpVersion::V2 => (1_000_000, 255_000_000, "whole seconds, at most 255"),
            VrrpVersion::V3 => (10_000, 40_950_000, "steps of 0.01 s, at most 40.95 s"),
        };
        let used = ((micros + unit / 2) / unit * unit).clamp(unit, max);
        if used != micros {
            let number = if version == VrrpVersion::V2 { 2 } else { 3 };
            self.warn(
                given.span,
                format!(
                    "vrrp_instance `{name}`: `advert_int {}` becomes {} s in VRRP version {number}",
                    micros_text(micros),
                    micros_text(used)
                ),
                &format!("version {number} has {rule}; all hosts must have the same interval"),
            );
        }
        Duration::from_micros(used)
    }

    /// MASTER in capitals alone is one; keepalived goes on as BACKUP with any other word.
    fn initial_state(&mut self, entry: &Entry<'_>) -> Option<InitialState> {
        let word = self.first(entry)?;
        let text = self.text(word);
        match &*text {
            "MASTER" => return Some(InitialState::Master),
            "BACKUP" => return Some(InitialState::Backup),
            _ if self.is_placeholder(word) => return None,
            _ => {}
        }
        let shown: String = text.chars().take(64).collect();
        let help = match &*text {
            _ if quirks::is_unfilled(&text) => UNFILLED,
            _ if text.eq_ignore_ascii_case("MASTER") => "keepalived wants capital letters: MASTER",
            _ => "as in keepalived, which knows MASTER and BACKUP",
        };
        self.warn(word.span, format!("`state {shown}` is read as BACKUP"), help);
        Some(InitialState::Backup)
    }

    fn priority(&mut self, name: &Spanned<String>, raw: &Raw) -> (InitialState, Priority) {
        let state = raw.state.unwrap_or(InitialState::Backup);
        let priority = match (&raw.priority, state) {
            (Some(given), _) => Priority(given.value),
            (None, InitialState::Backup) => Priority::DEFAULT,
            (None, InitialState::Master) => {
                self.advise(
                    name.span,
                    format!(
                        "vrrp_instance `{}`: state MASTER without `priority` means priority 255",
                        name.value
                    ),
                    "255 is the owner of the addresses: weights do not lower it; give a priority",
                );
                Priority::OWNER
            }
        };
        (state, priority)
    }

    fn preemption(
        &mut self,
        name: &str,
        raw: &Raw,
        state: InitialState,
        priority: Priority,
    ) -> (bool, Duration) {
        let mut nopreempt = raw.nopreempt.is_some();
        let mut delay = raw.preempt_delay.as_ref().map_or(Duration::ZERO, |delay| delay.value);
        if let Some(span) = raw.nopreempt {
            let why = if state == InitialState::Master {
                Some("state MASTER; set state BACKUP on both hosts to keep the VIP where it is")
            } else if priority == Priority::OWNER {
                Some("priority 255")
            } else {
                None
            };
            if let Some(why) = why {
                nopreempt = false;
                self.warn(
                    span,
                    format!(
                        "vrrp_instance `{name}`: `nopreempt` has no effect here and is cleared"
                    ),
                    &format!("it cannot go with {why}"),
                );
            } else if let Some(preempt) = raw.preempt {
                nopreempt = span > preempt;
                let message = format!("vrrp_instance `{name}` has `preempt` and `nopreempt`");
                self.warn(span.max(preempt), message, "the last one counts");
            }
        }
        if let Some(given) = &raw.preempt_delay
            && !delay.is_zero()
        {
            let why = if state == InitialState::Master {
                Some("state MASTER; set state BACKUP")
            } else if nopreempt {
                Some("nopreempt")
            } else {
                None
            };
            if let Some(why) = why {
                delay = Duration::ZERO;
                self.warn(
                    given.span,
                    format!("vrrp_instance `{name}`: `preempt_delay` has no effect here"),
                    &format!("it cannot go with {why}"),
                );
            }
        }
        (nopreempt, delay)
    }

    /// `given`: there is a `virtual_ipaddress`; what is wrong in it has been told, unless it is empty.
    fn no_vips(&mut self, name: &Spanned<String>, raw: &Raw, given: bool) {
        if !raw.vips.is_empty() || raw.no_vips.is_some() || raw.bad_vips {
            return;
        }
        let message = match given {
            true => format!("vrrp_instance `{}` has an empty `virtual_ipaddress`", name.value),
            false => format!("vrrp_instance `{}` has no `virtual_ipaddress`", name.value),
        };
        let diagnostic = self.diagnostic(Severity::Error, name.span, message);
        let help = "`no_virtual_ipaddress` says that none is meant";
        self.sink.push(diagnostic.class(Class::Fault).help(help));
    }
}
