//! Entries of the list blocks of an instance: VIPs, peers, tracked scripts and interfaces.

use std::net::{IpAddr, Ipv4Addr};

use crate::base::net::IpPrefix;

use super::{
    super::{
        ReferenceKind,
        keywords::{self, Block},
        lex::Word,
        model::{AddressOptions, TrackInterface, TrackScript, VipAddress},
        source::Span,
        syntax::Statement,
    },
    Entry, Lower, Spanned, quirks, value,
};

/// Longest interface label (IFNAMSIZ − 1).
const LABEL_LIMIT: usize = 15;
/// Greatest weight of a tracker, either way (keepalived.md §2.2).
const WEIGHT_LIMIT: i64 = 253;
/// Longest prefix whose host bits leave a broadcast address.
const BROADCAST_LIMIT: u8 = 30;

/// What came of a line of a list of tracked objects.
enum Tracked {
    New {
        name: String,
        span: Span,
        weight: Option<i32>,
        reverse: Option<bool>,
    },
    /// Empty, or told as wrong.
    None,
    /// The list takes no more.
    Full,
}

impl Lower<'_> {
    /// Lines of a list block, and the words on the keyword's own line before the `{`.
    pub(super) fn list_lines<'t>(&mut self, entry: &Entry<'t>) -> Vec<&'t [Word]> {
        let mut lines = Vec::new();
        if !entry.args().is_empty() {
            lines.push(entry.args());
        }
        for statement in entry.block() {
            if statement.has_block() {
                self.inner_block(entry, statement);
            }
            if !statement.words().is_empty() {
                lines.push(statement.words());
            }
        }
        lines
    }

    fn inner_block(&mut self, entry: &Entry<'_>, statement: Statement<'_>) {
        let message = format!("`{}` holds a list; this block is skipped", entry.name());
        self.warn(statement.head(), message, "");
    }

    /// `virtual_ipaddress { IP[/LEN] [brd IP] [dev IF] [scope SCOPE] [label NAME] … }`.
    pub(super) fn vips(&mut self, entry: &Entry<'_>) -> Vec<Spanned<VipAddress>> {
        let (mut vips, object) = (Vec::new(), entry.name());
        for line in self.list_lines(entry) {
            let mut rest = line;
            while let Some((first, after)) = rest.split_first() {
                let text = self.text(*first);
                let Ok(prefix) = text.parse::<IpPrefix>() else {
                    self.bad_vip(*first);
                    break;
                };
                if self.is_mapped(prefix.addr, first.span) {
                    break;
                }
                let (vip, next) = self.vip_options(prefix, after, object);
                vips.push(Spanned { value: vip, span: first.span });
                rest = next;
                if let Some(second) = rest.first() {
                    self.warn(
                        second.span,
                        "a second address on one line",
                        "lbd takes it; keepalived reads one address a line and ignores this one",
                    );
                }
            }
        }
        vips
    }

    fn bad_vip(&mut self, word: Word) {
        if self.is_placeholder(word) {
            return;
        }
        let text = self.text(word).into_owned();
        let shown: String = text.chars().take(64).collect();
        let message = match text.split_once('/') {
            Some((addr, len)) if addr.parse::<IpAddr>().is_ok() => {
                let shown: String = len.chars().take(64).collect();
                let most = if addr.contains(':') { 128 } else { 32 };
                format!("`/{shown}` is no prefix length; expected /0 to /{most}")
            }
            _ => format!("`{shown}` is no IP address; expected IP or IP/LEN"),
        };
        self.error_about(word, message);
    }

    /// Options up to the end of the line or to the next address. As in keepalived, the word behind an
    /// unknown one is looked at again: a `dev` that is not read puts the VIP on another interface.
    fn vip_options<'t>(
        &mut self,
        prefix: IpPrefix,
        words: &'t [Word],
        object: &str,
    ) -> (VipAddress, &'t [Word]) {
        let mut vip = VipAddress {
            prefix,
            dev: None,
            label: None,
            broadcast: None,
            scope: 0,
            options: AddressOptions::default(),
        };
        // keepalived keeps a /128 from being chosen as a source unless the file says otherwise.
        if prefix.addr.is_ipv6() && prefix.len == 128 {
            vip.options.preferred_lft = Some(0);
        }
        let (mut rest, mut remark) = (words, false);
        while let Some((option, after)) = rest.split_first() {
            let name = self.text(*option).into_owned();
            if name.parse::<IpPrefix>().is_ok() {
                break;
            }
            rest = after;
            let Some(keyword) = keywords::find(Block::VirtualIpaddress, &name) else {
                // An address behind it is its value and no VIP.
                let value = rest
                    .split_first()
                    .filter(|(word, _)| self.text(**word).parse::<IpPrefix>().is_ok());
                let what = match value {
                    Some((value, after)) => {
                        rest = after;
                        format!("after an address; it and {} are ignored", self.text(*value))
                    }
                    None => "after an address; it is ignored".into(),
                };
                // Of a remark behind `//` one word is told.
                if !remark {
                    self.unknown_in_entry(Block::VirtualIpaddress, *option, &what);
                    remark = name.starts_with("//");
                }
                continue;
            };
            let argument = if keyword.argument.is_required() {
                let Some((argument, after)) = rest.split_first() else {
                    self.error(option.span, format!("`{name}` needs a value"));
                    break;
                };
                rest = after;
                *argument
            } else {
                *option
            };
            self.vip_option(&mut vip, keyword.name, argument, object);
        }
        if let Some(peer) = vip.options.peer
            && vip.broadcast.take().is_some()
            && let Some(first) = words.first()
        {
            let message = format!("`brd` cannot go with `peer {peer}` and is ignored");
            self.warn(first.span, message, "");
        }
        (vip, rest)
    }

    fn vip_option(&mut self, vip: &mut VipAddress, option: &str, word: Word, object: &str) {
        let text = self.text(word).into_owned();
        let shown: String = text.chars().take(64).collect();
        let v6 = vip.prefix.addr.is_ipv6();
        let fixed = object == "static_ipaddress";
        let options = &mut vip.options;
        match option {
            "dev" => {
                self.refer(ReferenceKind::Interface, text.clone(), word.span, object);
                vip.dev = Some(text);
            }
            "label" if text.len() > LABEL_LIMIT => {
                let message = format!(
                    "label `{shown}` is longer than {LABEL_LIMIT} bytes, the kernel's limit"
                );
                self.error(word.span, message);
            }
            "label" | "scope" if v6 => {
                let message = format!("IPv6 addresses have no `{option}`; it is ignored");
                self.warn(word.span, message, "");
            }
            "label" => vip.label = Some(text),
            "brd" | "broadcast" if v6 => {
                let message = format!("IPv6 addresses have no `{option}`; it is ignored");
                let help = "lbd holds the address all the same; keepalived would leave it out";
                self.warn(word.span, message, help);
            }
            "brd" | "broadcast" => match (text.as_str(), vip.prefix.addr) {
                ("+" | "-", _) if vip.prefix.len > BROADCAST_LIMIT => {
                    vip.broadcast = None;
                    let message = format!(
                        "`{option} {text}`: a /{} has no broadcast address",
                        vip.prefix.len
                    );
                    self.warn(word.span, message, "none is set: take it out, or give the prefix");
                }
                ("+", IpAddr::V4(addr)) => {
                    vip.broadcast = Some(broadcast(addr, vip.prefix.len));
                }
                ("-", IpAddr::V4(addr)) => vip.broadcast = Some(network(addr, vip.prefix.len)),
                _ => match text.parse::<Ipv4Addr>() {
                    Ok(addr) => vip.broadcast = Some(addr),
                    Err(_) => {
                        let message = format!("`{option} {shown}` is no IPv4 address, + or -");
                        self.error(word.span, message);
                    }
                },
            },
            "scope" => match scope(&text) {
                Some(scope) => vip.scope = scope,
                None => {
                    let message = format!(
                        "unknown scope `{shown}`; expected global, site, link, host, nowhere or 0..255"
                    );
                    self.error(word.span, message);
                }
            },
            "peer" => match text.parse::<IpPrefix>() {
                Ok(peer) if peer.addr.is_ipv4() != v6 => options.peer = Some(peer),
                Ok(_) => self.error(word.span, format!("peer `{shown}` is of the other family")),
                Err(()) => self.error(word.span, format!("`peer {shown}` is no IP or IP/LEN")),
            },
            "preferred_lft" => match text.as_str() {
                "forever" => options.preferred_lft = None,
                _ => match text.parse() {
                    Ok(seconds) => options.preferred_lft = Some(seconds),
                    Err(_) => {
                        let message = format!("`preferred_lft {shown}` is no number or `forever`");
                        self.error(word.span, message);
                    }
                },
            },
            "home" | "-nodad" | "mngtmpaddr" if !v6 => {
                let message = format!("`{option}` is for IPv6 addresses; it is ignored");
                self.warn(word.span, message, "");
            }
            "home" => options.home = true,
            "-nodad" => options.dad = true,
            "mngtmpaddr" => options.mngtmpaddr = true,
            "noprefixroute" => options.noprefixroute = true,
            "autojoin" => options.autojoin = true,
            "no_track" => options.no_track = true,
            "track_group" if fixed => {
                self.marks.track_groups.uses.push((text.clone(), word.span));
                options.track_group = Some(text);
            }
            "use_vmac" if !fixed => options.use_vmac = true,
            _ => {
                let message = format!("`{option}` does not go with {object}; it is ignored");
                self.warn(word.span, message, "");
            }
        }
    }

    /// `track_script { NAME [weight N [reverse|noreverse]] }`, in addition to those of earlier
    /// blocks.
    pub(super) fn tracked_scripts(
        &mut self,
        entry: &Entry<'_>,
        out: &mut Vec<Spanned<TrackScript>>,
    ) {
        for line in self.list_lines(entry) {
            let names = out.iter().map(|track| track.value.name.as_str());
            match self.tracked("script", line, names) {
                Tracked::Full => return,
                Tracked::None => {}
                Tracked::New { name, span, weight, reverse } => {
                    out.push(Spanned { value: TrackScript { name, weight, reverse }, span });
                }
            }
        }
    }

    /// `track_interface { IF [weight N [reverse]] }`, in addition to those of earlier blocks.
    pub(super) fn tracked_interfaces(
        &mut self,
        entry: &Entry<'_>,
        out: &mut Vec<Spanned<TrackInterface>>,
    ) {
        for line in self.list_lines(entry) {
            let names = out.iter().map(|track| track.value.name.as_str());
            match self.tracked("interface", line, names) {
                Tracked::Full => return,
                Tracked::None => {}
                Tracked::New { name, span, weight, reverse } => {
                    self.refer(ReferenceKind::Interface, name.clone(), span, "track_interface");
                    let (weight, reverse) = (weight.unwrap_or(0), reverse.unwrap_or(false));
                    out.push(Spanned { value: TrackInterface { name, weight, reverse }, span });
                }
            }
        }
    }

    /// A line of a list of tracked objects: a name that is not among `names`, and its options.
    fn tracked<'n>(
        &mut self,
        kind: &str,
        line: &[Word],
        mut names: impl ExactSizeIterator<Item = &'n str>,
    ) -> Tracked {
        let Some((first, options)) = line.split_first() else { return Tracked::None };
        let span = first.span;
        if !self.has_room(names.len(), super::LIST_LIMIT, span, "tracked objects in one list") {
            return Tracked::Full;
        }
        let name = self.text(*first).into_owned();
        if names.any(|other| other == name) {
            let message = format!("{kind} `{name}` is tracked twice; this line is ignored");
            self.warn(span, message, "");
            return Tracked::None;
        }
        let (weight, reverse) = self.track_options(options, false);
        Tracked::New { name, span, weight, reverse }
    }

    /// `factor`: of a track_file, whose weight is one.
    pub(super) fn track_options(
        &mut self,
        words: &[Word],
        factor: bool,
    ) -> (Option<i32>, Option<bool>) {
        let (mut weight, mut reverse) = (None, None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let text = self.text(*word);
            // The lists have the same words.
            let known = keywords::find(Block::TrackScript, &text).map_or("", |row| row.name);
            match known {
                "weight" => match words.next() {
                    Some(value) if factor => weight = self.factor(*value),
                    Some(value) => weight = self.weight(*value),
                    None => self.error(word.span, "`weight` needs a number"),
                },
                "reverse" => reverse = Some(true),
                "noreverse" => reverse = Some(false),
                _ => {
                    let message = "behind what is tracked; the rest of the line is ignored";
                    self.unknown_in_entry(Block::TrackScript, *word, message);
                    break;
                }
            }
        }
        (weight, reverse)
    }

    /// A tracker's weight; ±254 of old files means ±253.
    pub(super) fn weight(&mut self, word: Word) -> Option<i32> {
        let text = self.text(word);
        match value::int(&text) {
            Some(read) if read.value.abs() <= WEIGHT_LIMIT + 1 => {
                let value = read.value.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT);
                if read.junk || value != read.value {
                    let shown: String = text.chars().take(64).collect();
                    self.warn(word.span, format!("weight `{shown}` is read as {value}"), "");
                }
                i32::try_from(value).ok()
            }
            _ => {
                let shown: String = text.chars().take(64).collect();
                self.error(
                    word.span,
                    format!("weight `{shown}` must be -{WEIGHT_LIMIT}..{WEIGHT_LIMIT}"),
                );
                None
            }
        }
    }

    /// `weight N [reverse]` of a vrrp_script.
    pub(super) fn script_weight(&mut self, entry: &Entry<'_>) -> (i32, bool) {
        let weight = self.first(entry).and_then(|word| self.weight(word)).unwrap_or(0);
        (weight, self.is_reversed(entry))
    }

    /// Whether `reverse` stands behind the value of a `weight`; any other word is told.
    pub(super) fn is_reversed(&mut self, entry: &Entry<'_>) -> bool {
        let words = entry.args().get(1..).unwrap_or(&[]);
        if let Some(other) = words.iter().find(|word| self.text(**word) != "reverse") {
            let help = "take them out: only `reverse` may stand there";
            self.warn(other.span, "words after `weight` and its value are ignored", help);
        }
        words.first().is_some_and(|word| self.text(*word) == "reverse")
    }

    /// A warning about a word that no entry of a list has, with the nearest one that it has.
    fn unknown_in_entry(&mut self, list: Block, word: Word, what: &str) {
        let text = self.text(word);
        let shown: String = text.chars().take(64).collect();
        let help = self.nearest_in_entry(list, &text);
        self.warn(word.span, format!("unknown word `{shown}` {what}"), &help);
    }

    /// What may have been meant by a word of an entry; empty when nothing is near.
    pub(super) fn nearest_in_entry(&self, list: Block, text: &str) -> String {
        if text.starts_with("//") {
            return quirks::NO_COMMENT.into();
        }
        let near = keywords::nearest_in(list, text).filter(|_| !self.sink.is_full());
        near.map_or(String::new(), |near| format!("did you mean `{}`?", near.name))
    }
}

/// rtnetlink's number of a scope.
pub(super) fn scope(text: &str) -> Option<u8> {
    match text {
        "global" => Some(0),
        "site" => Some(200),
        "link" => Some(253),
        "host" => Some(254),
        "nowhere" => Some(255),
        number => number.parse().ok(),
    }
}

/// Host bits all ones.
fn broadcast(addr: Ipv4Addr, len: u8) -> Ipv4Addr {
    let host_bits = u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
    Ipv4Addr::from(u32::from(addr) | host_bits)
}

/// Host bits all zeros: keepalived's `brd -`.
fn network(addr: Ipv4Addr, len: u8) -> Ipv4Addr {
    let host_bits = u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
    Ipv4Addr::from(u32::from(addr) & !host_bits)
}
