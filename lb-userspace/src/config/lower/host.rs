//! Words about what lbd does to its host: announcements, excluded addresses, interfaces.

use std::time::Duration;

use crate::{
    base::net::{IpPrefix, Mac},
    vrrp::garp::Garp,
};

use super::{
    super::{
        diag::Severity,
        keywords::Block,
        lex::Word,
        model::{
            GarpExtra, GarpGroup, Global, IpvlanFlag, LinkDelay, NoAccept, OnHost, VipAddress,
            VirtualLink, VirtualLinkKind,
        },
        source::Span,
    },
    Entry, Lower, Spanned, value,
};

/// Greatest `garp_extra_if`, in seconds (keepalived's day).
const EXTRA_LIMIT: i64 = 86_400;
/// Greatest delay of `interface_up_down_delays`, in µs.
const LINK_DELAY_LIMIT: u64 = 255_000_000;

/// `garp_*` words of one place; what it does not say comes from the place around it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GarpWords {
    repeat: Option<u32>,
    delay: Option<u32>,
    refresh: Option<u32>,
    refresh_repeat: Option<u32>,
    lower_repeat: Option<u32>,
    lower_delay: Option<u32>,
    min: bool,
}

impl GarpWords {
    fn over(&self, outer: &Garp) -> Garp {
        let seconds = |given: Option<u32>, other: Duration| {
            given.map_or(other, |value| Duration::from_secs(u64::from(value)))
        };
        Garp {
            repeat: self.repeat.unwrap_or(outer.repeat),
            delay: seconds(self.delay, outer.delay),
            refresh: seconds(self.refresh, outer.refresh),
            refresh_repeat: self.refresh_repeat.unwrap_or(outer.refresh_repeat),
            lower_repeat: self.lower_repeat.unwrap_or(outer.lower_repeat),
            lower_delay: seconds(self.lower_delay, outer.lower_delay),
        }
    }

    /// Makes the words of `global_defs` the defaults of instances. The words about lower
    /// priorities follow the others, as in keepalived.
    pub(super) fn apply(&self, global: &mut Global) {
        let mut outer = global.garp;
        if self.min {
            (outer.repeat, outer.delay) = (1, Duration::ZERO);
        }
        let mut garp = self.over(&outer);
        if self.lower_repeat.is_none() && (self.repeat.is_some() || self.min) {
            garp.lower_repeat = garp.repeat;
        }
        if self.lower_delay.is_none() && (self.delay.is_some() || self.min) {
            garp.lower_delay = garp.delay;
        }
        global.garp = garp;
    }
}

/// Words of an instance.
#[derive(Clone, Debug, Default)]
pub(super) struct HostWords {
    garp: GarpWords,
    /// `garp_lower_prio_*`.
    lower_garp: Option<Span>,
    pub(super) xmit_base: Option<Span>,
    /// `accept` or `no_accept`, the last one.
    pub(super) accept: Option<Spanned<bool>>,
    /// `use_vmac` or `use_ipvlan`.
    link: Option<Span>,
    /// The instance has its own `garp_extra_if`, which may be 0: off.
    extra_given: bool,
    pub(super) vrf: Option<Span>,
    pub(super) excluded: Vec<Spanned<VipAddress>>,
    /// Its `no_accept` and `excluded` are not complete before [`HostWords::on_host`].
    pub(super) on_host: OnHost,
}

impl HostWords {
    /// What the words mean together.
    pub(super) fn on_host(&self, global: &Global) -> OnHost {
        let mut host = self.on_host.clone();
        host.excluded = self.excluded.iter().map(|vip| vip.value.clone()).collect();
        if let Some(link) = &mut host.virtual_link {
            link.xmit_base = self.xmit_base.is_some();
        }
        if !self.extra_given {
            host.garp_extra = global.garp_extra;
        }
        let (priority, counters) = (global.nftables_priority, global.nftables_counters);
        let refused = self.accept.as_ref().is_some_and(|accept| !accept.value);
        host.no_accept = refused.then_some(NoAccept { priority, counters });
        host
    }

    /// Where `use_vmac` chooses a MAC address.
    pub(super) fn own_mac(&self) -> Option<Span> {
        let kind = &self.on_host.virtual_link.as_ref()?.kind;
        self.link.filter(|_| matches!(kind, VirtualLinkKind::Macvlan { mac: Some(_) }))
    }

    /// Name that the file gives to the virtual interface, and where.
    pub(super) fn link_name(&self) -> Option<(String, Span)> {
        let name = &self.on_host.virtual_link.as_ref()?.name;
        Some((name.clone(), self.link?)).filter(|(name, _)| !name.is_empty())
    }

    /// No announcements against lower priorities; where the file asks for some.
    pub(super) fn clear_lower_garp(&mut self) -> Option<Span> {
        self.garp.lower_repeat = Some(0);
        self.lower_garp.take()
    }

    pub(super) fn garp(&self, global: &Global) -> Garp {
        self.garp.over(&global.garp)
    }
}

impl Lower<'_> {
    /// A word of vrrp_instance; false when it is not one of ours here.
    pub(super) fn host_word(&mut self, entry: &Entry<'_>, words: &mut HostWords) -> bool {
        let garp = &mut words.garp;
        let host = &mut words.on_host;
        match entry.name() {
            "garp_master_delay" => garp.delay = self.u32(entry),
            "garp_master_repeat" => garp.repeat = self.u32(entry),
            "garp_master_refresh" => garp.refresh = self.u32(entry),
            "garp_master_refresh_repeat" => garp.refresh_repeat = self.u32(entry),
            "garp_lower_prio_delay" => {
                garp.lower_delay = self.u32(entry);
                if garp.lower_delay != Some(0) {
                    words.lower_garp = Some(entry.head());
                }
            }
            "garp_lower_prio_repeat" => {
                garp.lower_repeat = self.u32(entry);
                // None is what strict mode has anyway.
                if garp.lower_repeat != Some(0) {
                    words.lower_garp = Some(entry.head());
                }
            }
            "garp_extra_if" | "vmac_garp_intvl" => {
                words.extra_given = true;
                host.garp_extra = self.garp_extra(entry);
            }
            "virtual_ipaddress_excluded" => {
                let vips = self.vips(entry);
                words.excluded.extend(vips);
            }
            "virtual_routes" => {
                let routes = self.routes(entry);
                host.routes.extend(routes);
            }
            "virtual_rules" => {
                let rules = self.rules(entry);
                host.rules.extend(rules);
            }
            "use_vmac" | "use_ipvlan" => {
                let first = *words.link.get_or_insert(entry.head());
                self.virtual_link(entry, host, first);
            }
            "vmac_xmit_base" => words.xmit_base = Some(entry.head()),
            "use_vmac_addr" => host.vmac_addresses = true,
            "vrf" => {
                words.vrf = Some(entry.head());
                host.vrf = self.word(entry).map(|word| word.value);
            }
            "promote_secondaries" => host.promote_secondaries = true,
            "accept" | "no_accept" => {
                let given = Spanned { value: entry.name() == "accept", span: entry.head() };
                let before = words.accept.replace(given);
                if before.is_some_and(|before| before.value != (entry.name() == "accept")) {
                    let message = "`accept` and `no_accept` in one vrrp_instance";
                    self.warn(entry.head(), message, "the last one counts");
                }
            }
            "track_src_ip" => host.track_src_ip = true,
            _ => return false,
        }
        true
    }

    /// `use_vmac`, `use_ipvlan`: one of them, at `first` for the first time.
    fn virtual_link(&mut self, entry: &Entry<'_>, host: &mut OnHost, first: Span) {
        let before = host.virtual_link.as_ref().map(|link| match link.kind {
            VirtualLinkKind::Macvlan { .. } => "use_vmac",
            VirtualLinkKind::Ipvlan { .. } => "use_ipvlan",
        });
        if let Some(before) = before.filter(|before| *before != entry.name()) {
            let message = format!("`{}` cannot go with `{before}`", entry.name());
            self.error(entry.head(), message);
        } else if entry.name() == "use_vmac" {
            self.use_vmac(entry, host, first);
        } else {
            self.use_ipvlan(entry, host);
        }
    }

    /// `use_vmac [NAME] [MAC]`. The words of several lines add up, each of them from the first that has it.
    fn use_vmac(&mut self, entry: &Entry<'_>, host: &mut OnHost, first: Span) {
        let (mut name, mut mac) = match host.virtual_link.take() {
            Some(VirtualLink { name, kind: VirtualLinkKind::Macvlan { mac }, .. }) => (name, mac),
            _ => (String::new(), None),
        };
        let mut words = entry.args().iter();
        while let Some(word) = words.next() {
            let text = self.text(*word).into_owned();
            match text.as_str() {
                "name" => {}
                "netlink_notify_msg" => {}
                "group" => {
                    words.next();
                    self.cannot(
                        word.span,
                        "`group` of use_vmac is not available",
                        "take it out: the link gets the group 0",
                    );
                }
                _ if text.contains(':') => match mac_address(&text) {
                    Some(read) if read.0[0] & 1 == 0 => match mac {
                        None => mac = Some(read),
                        Some(_) => self.has_one_already(*word, "an address", first),
                    },
                    _ => {
                        let message = "use_vmac: this is no MAC address of one host";
                        self.error(word.span, message);
                    }
                },
                _ if !name.is_empty() => self.has_one_already(*word, "a name", first),
                _ => name = self.link_name(*word),
            }
        }
        let kind = VirtualLinkKind::Macvlan { mac };
        host.virtual_link = Some(VirtualLink { name, kind, xmit_base: false });
    }

    /// A second name or address of `use_vmac`, which began at `first`.
    fn has_one_already(&mut self, word: Word, what: &str, first: Span) {
        let message = format!("`use_vmac` has {what} already; the first one counts");
        let diagnostic = self
            .diagnostic(Severity::Warning, word.span, message)
            .related(self.place(first), "given here before");
        self.sink.push(diagnostic);
    }

    /// `use_ipvlan [NAME] [IP[/LEN]] [bridge|private|vepa]`.
    fn use_ipvlan(&mut self, entry: &Entry<'_>, host: &mut OnHost) {
        let (mut name, mut address, mut flag) = (String::new(), None, IpvlanFlag::Bridge);
        for word in entry.args() {
            let text = self.text(*word).into_owned();
            match (text.as_str(), text.parse::<IpPrefix>()) {
                ("bridge", _) => flag = IpvlanFlag::Bridge,
                ("private", _) => flag = IpvlanFlag::Private,
                ("vepa", _) => flag = IpvlanFlag::Vepa,
                (_, Ok(prefix)) => address = Some(prefix),
                _ => name = self.link_name(*word),
            }
        }
        let kind = VirtualLinkKind::Ipvlan { address, flag };
        host.virtual_link = Some(VirtualLink { name, kind, xmit_base: false });
    }

    fn link_name(&mut self, word: Word) -> String {
        let text = self.text(word).into_owned();
        let bad = |c: char| c == '/' || c.is_whitespace();
        if text.len() > 15 || text.contains(bad) || matches!(text.as_str(), "." | "..") {
            let shown: String = text.chars().take(64).collect();
            self.error(word.span, format!("`{shown}` cannot be the name of an interface"));
            return String::new();
        }
        text
    }

    /// A word of global_defs; false when it is not one of ours here.
    pub(super) fn global_host_word(&mut self, entry: &Entry<'_>, garp: &mut GarpWords) -> bool {
        match entry.name() {
            "vrrp_garp_master_delay" => garp.delay = self.u32(entry),
            "vrrp_garp_master_repeat" => garp.repeat = self.u32(entry),
            "vrrp_garp_master_refresh" => garp.refresh = self.u32(entry),
            "vrrp_garp_master_refresh_repeat" => garp.refresh_repeat = self.u32(entry),
            "vrrp_garp_lower_prio_delay" => garp.lower_delay = self.u32(entry),
            "vrrp_garp_lower_prio_repeat" => garp.lower_repeat = self.u32(entry),
            "vrrp_min_garp" => garp.min = self.flag(entry),
            "vrrp_garp_interval" => {
                self.config.global.garp_interval = self.gap(entry);
            }
            "vrrp_gna_interval" => {
                self.config.global.gna_interval = self.gap(entry);
            }
            "vrrp_garp_extra_if" | "vrrp_vmac_garp_intvl" => {
                self.config.global.garp_extra = self.garp_extra(entry);
            }
            "vmac_prefix" => self.config.global.vmac_prefix = self.link_prefix(entry),
            "vmac_addr_prefix" => {
                self.config.global.vmac_addr_prefix = Some(self.link_prefix(entry));
            }
            "nftables_priority" => {
                let priority = self.int(entry).and_then(|value| i32::try_from(value).ok());
                self.config.global.nftables_priority = priority.unwrap_or(-1);
            }
            "nftables_counters" => self.config.global.nftables_counters = true,
            "dynamic_interfaces" => self.config.global.dynamic_interfaces = true,
            "default_interface" => {
                self.config.global.default_interface = self.word(entry).map(|word| word.value);
            }
            _ => return false,
        }
        true
    }

    fn link_prefix(&mut self, entry: &Entry<'_>) -> String {
        let name = self.first(entry).map(|word| self.link_name(word)).unwrap_or_default();
        if name.is_empty() { "vrrp".into() } else { name }
    }

    /// true, on, yes or nothing; false, off, no.
    fn flag(&mut self, entry: &Entry<'_>) -> bool {
        self.bool(entry, false)
    }

    /// `[all] SECONDS`; 0 switches it off.
    fn garp_extra(&mut self, entry: &Entry<'_>) -> Option<GarpExtra> {
        let (mut all, mut every) = (false, None);
        for word in entry.args() {
            let text = self.text(*word);
            if text == "all" {
                all = true;
                continue;
            }
            match value::int(&text) {
                Some(read) if (0..=EXTRA_LIMIT).contains(&read.value) && !read.junk => {
                    every = u64::try_from(read.value).ok();
                }
                _ => {
                    self.bad_value(entry, *word);
                    return None;
                }
            }
        }
        if every.is_none() {
            let message = format!("`{}` has no number of seconds", entry.name());
            self.error(entry.head(), message);
        }
        let every = Duration::from_secs(every.filter(|seconds| *seconds > 0)?);
        Some(GarpExtra { every, all })
    }

    /// A gap between announcements. 0, which many files have, is the default and no value of it.
    fn gap(&mut self, entry: &Entry<'_>) -> Duration {
        let gap = self.duration(entry);
        if gap.is_some_and(|gap| gap.is_zero()) {
            self.warn(
                entry.statement.span(),
                format!("`{} 0` means no gap, as without this line", entry.name()),
                "keepalived refuses the 0 and goes on without it: take the line out",
            );
        }
        gap.unwrap_or_default()
    }

    /// `garp_group { garp_interval S gna_interval S interfaces { IF… } }`.
    pub(super) fn garp_group(&mut self, block: &Entry<'_>) {
        let mut group = GarpGroup::default();
        let mut places = Vec::new();
        for entry in self.entries(Block::GarpGroup, block.block()) {
            match entry.name() {
                "garp_interval" => group.garp_interval = self.duration(&entry).unwrap_or_default(),
                "gna_interval" => group.gna_interval = self.duration(&entry).unwrap_or_default(),
                "interface" => places.extend(self.word(&entry).map(|word| (word.value, word.span))),
                "interfaces" => {
                    for line in self.list_lines(&entry) {
                        let names = line.iter().map(|it| (self.text(*it).into_owned(), it.span));
                        places.extend(names);
                    }
                }
                other => self.unhandled(&entry, other),
            }
        }
        if places.is_empty() {
            self.error(block.head(), "`garp_group` names no interface");
            return;
        }
        for (name, span) in places {
            let Some(first) = self.marks.garp_interfaces.get(&name).copied() else {
                self.marks.garp_interfaces.insert(name.clone(), span);
                group.interfaces.push(name);
                continue;
            };
            let message = match first > block.head() {
                true => format!("interface {name} is listed twice in one garp_group"),
                false => format!("interface {name} is in a garp_group already; that one counts"),
            };
            let diagnostic = self
                .diagnostic(Severity::Warning, span, message)
                .related(self.place(first), "listed here before");
            self.sink.push(diagnostic);
        }
        self.config.garp_groups.push(group);
    }

    /// `interface_up_down_delays { IF DOWN [UP] }`, in seconds; UP is 0 when it is not given.
    pub(super) fn link_delays(&mut self, block: &Entry<'_>) {
        for line in self.list_lines(block) {
            let Some((first, numbers)) = line.split_first() else { continue };
            let count = self.config.link_delays.len();
            if !self.has_room(count, super::COMPARED_LIMIT, first.span, "interfaces with delays") {
                return;
            }
            let interface = self.text(*first).into_owned();
            let mut delays = [Duration::ZERO; 2];
            let mut good = !numbers.is_empty();
            for (delay, word) in delays.iter_mut().zip(numbers) {
                match value::seconds(&self.text(*word)) {
                    Some(read) if read.value <= LINK_DELAY_LIMIT && !read.junk => {
                        *delay = Duration::from_micros(read.value);
                    }
                    _ => good = false,
                }
            }
            if !good || numbers.len() > 2 {
                let message = format!("`{interface}` needs DOWN [UP], each 0..255 seconds");
                self.error(first.span, message);
                continue;
            }
            if self.config.link_delays.iter().any(|it| it.interface == interface) {
                let message = format!("interface {interface} is listed twice; the last one counts");
                let diagnostic = self.diagnostic(Severity::Warning, first.span, message);
                self.sink.push(diagnostic);
                self.config.link_delays.retain(|it| it.interface != interface);
                self.marks.link_delays.retain(|(name, _)| *name != interface);
            }
            let [down, up] = delays;
            self.marks.link_delays.push((interface.clone(), first.span));
            self.config.link_delays.push(LinkDelay { interface, down, up });
        }
    }
}

/// Six bytes in hexadecimal with colons.
fn mac_address(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}
