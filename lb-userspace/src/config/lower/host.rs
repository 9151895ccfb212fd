//! Words about what lbd does to its host: announcements, excluded addresses, interfaces.

use std::time::Duration;

use crate::vrrp::garp::Garp;

use super::{
    super::{
        diag::Severity,
        keywords::Block,
        model::{GarpExtra, GarpGroup, Global, LinkDelay, OnHost},
    },
    Entry, Lower, value,
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
    pub(super) on_host: OnHost,
}

impl HostWords {
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
            "garp_lower_prio_delay" => garp.lower_delay = self.u32(entry),
            "garp_lower_prio_repeat" => garp.lower_repeat = self.u32(entry),
            "garp_extra_if" | "vmac_garp_intvl" => host.garp_extra = self.garp_extra(entry),
            "virtual_ipaddress_excluded" => {
                let vips = self.vips(entry);
                host.excluded.extend(vips.into_iter().map(|vip| vip.value));
            }
            "accept" => host.no_accept = false,
            "track_src_ip" => host.track_src_ip = true,
            _ => return false,
        }
        true
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
                self.config.global.garp_interval = self.duration(entry).unwrap_or_default();
            }
            "vrrp_gna_interval" => {
                self.config.global.gna_interval = self.duration(entry).unwrap_or_default();
            }
            "vrrp_garp_extra_if" | "vrrp_vmac_garp_intvl" => {
                self.config.global.garp_extra = self.garp_extra(entry);
            }
            "dynamic_interfaces" => self.config.global.dynamic_interfaces = true,
            "default_interface" => {
                self.config.global.default_interface = self.word(entry).map(|word| word.value);
            }
            _ => return false,
        }
        true
    }

    /// true, on, yes or nothing; false, off, no.
    fn flag(&mut self, entry: &Entry<'_>) -> bool {
        let Some(word) = self.first(entry) else { return true };
        match &*self.text(word) {
            "true" | "on" | "yes" => true,
            "false" | "off" | "no" => false,
            _ => {
                self.bad_value(entry, word);
                false
            }
        }
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

    /// `garp_group { garp_interval S gna_interval S interfaces { IF… } }`.
    pub(super) fn garp_group(&mut self, block: &Entry<'_>) {
        let mut group = GarpGroup::default();
        for entry in self.entries(Block::GarpGroup, block.block()) {
            match entry.name() {
                "garp_interval" => group.garp_interval = self.duration(&entry).unwrap_or_default(),
                "gna_interval" => group.gna_interval = self.duration(&entry).unwrap_or_default(),
                "interface" => group.interfaces.extend(self.word(&entry).map(|word| word.value)),
                "interfaces" => {
                    for line in self.list_lines(&entry) {
                        let names = line.iter().map(|word| self.text(*word).into_owned());
                        group.interfaces.extend(names);
                    }
                }
                other => self.unhandled(&entry, other),
            }
        }
        if group.interfaces.is_empty() {
            self.error(block.head(), "`garp_group` names no interface");
            return;
        }
        let before = |name: &String| {
            self.config.garp_groups.iter().any(|other| other.interfaces.contains(name))
        };
        if let Some(name) = group.interfaces.iter().find(|name| before(name)).cloned() {
            let message = format!("interface {name} is in two garp_groups; the first one counts");
            self.warn(block.head(), message, "");
            group.interfaces.retain(|other| {
                !self.config.garp_groups.iter().any(|group| group.interfaces.contains(other))
            });
        }
        self.config.garp_groups.push(group);
    }

    /// `interface_up_down_delays { IF DOWN [UP] }`, in seconds; UP is 0 when it is not given.
    pub(super) fn link_delays(&mut self, block: &Entry<'_>) {
        for line in self.list_lines(block) {
            let Some((first, numbers)) = line.split_first() else { continue };
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
            }
            let [down, up] = delays;
            self.config.link_delays.push(LinkDelay { interface, down, up });
        }
    }
}
