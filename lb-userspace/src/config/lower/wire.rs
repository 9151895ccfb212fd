//! Words of a vrrp_instance about its adverts on the wire: authentication, addresses that they go
//! from and to, forms of what they carry.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{
    base::net::IpPrefix,
    vrrp::{
        auth::hmac::{self, Hmac, Key, Mode, Secret},
        wire::{OldUnicastChecksum, Options, TtlRange},
    },
};

use super::{
    super::{
        ReferenceKind,
        diag::{Class, Severity},
        keywords::Block,
        model::{Authentication, VrrpVersion},
        source::Span,
        value,
    },
    Entry, Lower, Spanned,
};

/// Bytes of a PASS password that count (RFC 2338 §5.3.10).
const PASS_LEN: usize = 8;
/// Least `time_window` that is chosen by itself, in seconds.
const WINDOW_FLOOR: u32 = 5;

/// What an instance says about its adverts, before defaults depend on each other.
#[derive(Default)]
pub(super) struct WireWords {
    pub(super) authentication: Option<Spanned<Authentication>>,
    hmac: Option<Spanned<HmacWords>>,
    mcast_src: Option<Spanned<IpAddr>>,
    unicast_src: Option<Spanned<IpAddr>>,
    group: Option<Spanned<IpAddr>>,
    pub(super) peers: Vec<Spanned<IpAddr>>,
    peer_ttl: BTreeMap<IpAddr, TtlRange>,
    pub(super) unicast: Option<Span>,
    unicast_ttl: Option<Spanned<u8>>,
    check_source: bool,
    fault_without_peers: bool,
    checksum_as_v2: Option<bool>,
    old_unicast_checksum: OldUnicastChecksum,
    same_addresses: bool,
    native_ipv6: Option<Span>,
}

#[derive(Default)]
struct HmacWords {
    /// Lines that begin with `key`, those that are wrong included.
    given: usize,
    keys: Vec<Key>,
    active: Option<Spanned<u8>>,
    window: Option<Spanned<u32>>,
    monotonic: bool,
    mode: Mode,
}

/// A VIP and where it stands.
pub(super) type Vips<'a> = &'a [(IpPrefix, Span)];

impl WireWords {
    /// Family of the instance: its first VIP's, else that of the addresses of its adverts.
    pub(super) fn ipv6(&self, vips: Vips<'_>) -> bool {
        let vip = vips.first().map(|(prefix, _)| prefix.addr);
        let own = [&self.unicast_src, &self.mcast_src, &self.group];
        let own = own.into_iter().flatten().chain(&self.peers).next().map(|it| it.value);
        vip.or(own).map_or(self.native_ipv6.is_some(), |it| it.is_ipv6())
    }

    /// Mode of `auth_hmac`, and its place.
    pub(super) fn hmac_mode(&self) -> Option<(Mode, Span)> {
        self.hmac.as_ref().map(|hmac| (hmac.value.mode, hmac.span))
    }

    /// Place of `mcast_dst_ip`.
    pub(super) fn group_span(&self) -> Option<Span> {
        self.group.as_ref().map(|group| group.span)
    }

    /// Places of `mcast_src_ip` and `unicast_src_ip` when there are both.
    pub(super) fn both_sources(&self) -> Option<(Span, Span)> {
        Some((self.mcast_src.as_ref()?.span, self.unicast_src.as_ref()?.span))
    }
}

impl Lower<'_> {
    /// Takes a word about adverts; false when it is not one.
    pub(super) fn wire_word(
        &mut self,
        name: &str,
        entry: &Entry<'_>,
        words: &mut WireWords,
    ) -> bool {
        match entry.name() {
            "authentication" => words.authentication = self.authentication(name, entry),
            "auth_hmac" => {
                let value = self.hmac_words(name, entry);
                words.hmac = Some(Spanned { value, span: entry.head() });
            }
            "mcast_src_ip" => words.mcast_src = self.address(entry),
            "unicast_src_ip" => words.unicast_src = self.address(entry),
            "mcast_dst_ip" => words.group = self.multicast_group(entry),
            "unicast_peer" => {
                words.unicast = Some(entry.head());
                self.peers(entry, &mut words.peers, &mut words.peer_ttl);
            }
            "unicast_ttl" => words.unicast_ttl = self.byte(entry),
            "check_unicast_src" => words.check_source = true,
            "unicast_fault_no_peer" => words.fault_without_peers = true,
            "v3_checksum_as_v2" => {
                words.checksum_as_v2 = self.yes_or_no(entry).or(words.checksum_as_v2);
            }
            "old_unicast_checksum" => match self.first(entry) {
                None => words.old_unicast_checksum = OldUnicastChecksum::Always,
                Some(word) if self.text(word) == "never" => {
                    words.old_unicast_checksum = OldUnicastChecksum::Never;
                }
                Some(word) => self.bad_value(entry, word),
            },
            "check_adv_addr" => words.same_addresses = true,
            "native_ipv6" => words.native_ipv6 = Some(entry.head()),
            _ => return false,
        }
        true
    }

    /// The same for `global_defs`.
    pub(super) fn global_wire_word(&mut self, entry: &Entry<'_>) -> bool {
        match entry.name() {
            "vrrp_mcast_group4" | "vrrp_mcast_group6" => {
                let ipv6 = entry.name().ends_with('6');
                if let Some(group) = self.multicast_group(entry) {
                    if group.value.is_ipv6() != ipv6 {
                        let message = format!(
                            "`{}` cannot be {}: it is of the other family",
                            entry.name(),
                            group.value
                        );
                        self.error(group.span, message);
                    } else if ipv6 {
                        self.config.global.mcast_group6 = Some(group.value);
                    } else {
                        self.config.global.mcast_group4 = Some(group.value);
                    }
                }
            }
            "vrrp_check_unicast_src" => self.config.global.check_unicast_src = true,
            "v3_checksum_as_v2" => {
                let now = self.config.global.v3_checksum_as_v2;
                self.config.global.v3_checksum_as_v2 = self.bool(entry, now);
            }
            _ => return false,
        }
        true
    }

    fn byte(&mut self, entry: &Entry<'_>) -> Option<Spanned<u8>> {
        let value = u8::try_from(self.int(entry)?).ok()?;
        Some(Spanned { value, span: entry.statement.span() })
    }

    /// IPv6 groups have to be link-local, as keepalived demands.
    fn multicast_group(&mut self, entry: &Entry<'_>) -> Option<Spanned<IpAddr>> {
        let group = self.address(entry)?;
        let (fits, kind) = match group.value {
            IpAddr::V4(group) => (group.is_multicast(), "multicast"),
            IpAddr::V6(group) => (group.segments()[0] == 0xff02, "link-local multicast (ff02::)"),
        };
        if !fits {
            let message = format!("{} is no {kind} address", group.value);
            self.error(group.span, message);
            return None;
        }
        Some(group)
    }

    fn authentication(&mut self, name: &str, block: &Entry<'_>) -> Option<Spanned<Authentication>> {
        let (mut kind, mut pass) = (None, None);
        for entry in self.entries(Block::Authentication, block.block()) {
            match entry.name() {
                "auth_type" => {
                    kind = self.choice(&entry).map(|choice| (choice, entry.statement.span()));
                }
                "auth_pass" => pass = self.first(&entry),
                other => self.unhandled(&entry, other),
            }
        }
        let bytes = pass.map(|word| (self.text(word).into_owned(), word.span));
        match (kind, bytes) {
            (Some((choice, _)), Some((text, span))) => {
                if text.is_empty() {
                    self.error(span, format!("vrrp_instance `{name}`: `auth_pass` is empty"));
                    return None;
                }
                if text.len() > PASS_LEN {
                    self.warn(
                        span,
                        format!("`auth_pass` has {} bytes; the first {PASS_LEN} count", text.len()),
                        "keepalived cuts it too, so both hosts still agree: write these 8 bytes, or use \
                         `auth_hmac` for a longer secret",
                    );
                }
                let mut value = [0; PASS_LEN];
                for (to, from) in value.iter_mut().zip(text.bytes()) {
                    *to = from;
                }
                let value = match choice {
                    0 => Authentication::Pass(value),
                    _ => Authentication::Ah(value),
                };
                Some(Spanned { value, span: block.head() })
            }
            (Some((choice, span)), None) => {
                let kind = if choice == 0 { "PASS" } else { "AH" };
                self.error(span, format!("vrrp_instance `{name}`: {kind} without `auth_pass`"));
                None
            }
            (None, Some((_, span))) => {
                self.advise(
                    span,
                    format!(
                        "vrrp_instance `{name}`: `auth_pass` without `auth_type` has no effect"
                    ),
                    "add `auth_type PASS` on both hosts",
                );
                None
            }
            (None, None) => None,
        }
    }

    /// The VRRPv2 authentication that is used: none in version 3, none beside `auth_hmac`, and none
    /// over IPv6, where keepalived ignores AH, and for PASS sends no password and looks for its
    /// peer's outside of the message (2.2.7 ends by SIGSEGV).
    pub(super) fn usable_authentication(
        &mut self,
        name: &str,
        version: VrrpVersion,
        ipv6: bool,
        words: &WireWords,
    ) -> Authentication {
        let Some(given) = &words.authentication else { return Authentication::None };
        let why = if version == VrrpVersion::V3 {
            "VRRP version 3 has no password; it is ignored"
        } else if ipv6 {
            "VRRP version 2 over IPv6 carries no password; it is ignored"
        } else if words.hmac.is_some() {
            "`auth_hmac` takes the place of `authentication`, which is ignored"
        } else {
            return given.value.clone();
        };
        self.warn(given.span, format!("vrrp_instance `{name}`: {why}"), "");
        Authentication::None
    }

    fn hmac_words(&mut self, name: &str, block: &Entry<'_>) -> HmacWords {
        // A line without anything behind `key` has been told of, too.
        let given = block.block().filter(|line| self.source.slice(line.head()) == "key");
        let mut words = HmacWords { given: given.count(), ..HmacWords::default() };
        for entry in self.entries(Block::AuthHmac, block.block()) {
            match entry.name() {
                "key" => {
                    let Some(key) = self.hmac_key(name, &entry) else { continue };
                    if words.keys.iter().any(|other| other.id == key.id) {
                        let message = format!("vrrp_instance `{name}`: key {} twice", key.id);
                        self.error(entry.head(), message);
                    } else {
                        words.keys.push(key);
                    }
                }
                "active_key" => words.active = self.byte(&entry),
                "time_window" => {
                    let span = entry.statement.span();
                    words.window = self.u32(&entry).map(|value| Spanned { value, span });
                }
                "anti_replay" => words.monotonic = self.choice(&entry) == Some(1),
                "mode" => {
                    words.mode = match self.choice(&entry) {
                        Some(1) => Mode::Permissive,
                        Some(2) => Mode::ReceiveOnly,
                        _ => Mode::Enforce,
                    };
                }
                other => self.unhandled(&entry, other),
            }
        }
        words
    }

    /// `key ID VALUE`. The value never shows in a message.
    fn hmac_key(&mut self, name: &str, entry: &Entry<'_>) -> Option<Key> {
        let [id_word, rest @ ..] = entry.args() else { return None };
        let id = value::int(&self.text(*id_word)).filter(|read| !read.junk);
        let id = id.and_then(|read| u8::try_from(read.value).ok()).filter(|id| *id > 0);
        let Some(id) = id else {
            let message = format!("vrrp_instance `{name}`: the number of a key must be 1..255");
            self.error(id_word.span, message);
            return None;
        };
        let Some(word) = rest.first() else {
            let message = format!("vrrp_instance `{name}`: key {id} has no value");
            let mut diagnostic = self.diagnostic(Severity::Error, entry.head(), message);
            if let Some(why) = self.lost_secret(id_word.span) {
                diagnostic = diagnostic.help(why);
            }
            self.sink.push(diagnostic);
            return None;
        };
        let text = self.text(*word).into_owned();
        let secret = match text.strip_prefix("file:") {
            Some(path) => {
                self.refer(ReferenceKind::File, path.to_owned(), word.span, "key");
                Secret::File(path.into())
            }
            None => match hmac::key_bytes(&text) {
                Ok(bytes) => Secret::Bytes(bytes),
                Err(why) => {
                    let message = format!("vrrp_instance `{name}`: key {id}: {why}");
                    self.error(word.span, message);
                    return None;
                }
            },
        };
        Some(Key { id, secret })
    }

    fn hmac(&mut self, name: &str, words: &WireWords, advert_int: Duration) -> Option<Hmac> {
        let given = words.hmac.as_ref()?;
        let HmacWords { given: lines, keys, active, window, monotonic, mode } = &given.value;
        // Adverts would go out unsigned, or signed so that nobody accepts them.
        let Some(first) = keys.first() else {
            if *lines == 0 {
                let message = format!("vrrp_instance `{name}`: `auth_hmac` without `key`");
                self.error(given.span, message);
            }
            return None;
        };
        let id = active.as_ref().map_or(first.id, |active| active.value);
        // A key that was refused may be the one.
        if let Some(active) = active
            && *lines == keys.len()
            && !keys.iter().any(|key| key.id == active.value)
        {
            let message =
                format!("vrrp_instance `{name}`: `active_key {id}`: there is no key {id}");
            self.error(active.span, message);
        }
        if active.is_none() && keys.len() > 1 {
            let message = format!("vrrp_instance `{name}`: no `active_key`: key {id} signs");
            self.warn(given.span, message, "keepalived demands it");
        }
        if let (Some(window), true) = (window, monotonic) {
            let message = "`time_window` has no effect with `anti_replay monotonic`";
            self.notice(window.span, message, "");
        }
        let three = u32::try_from(advert_int.as_millis().div_ceil(1000) * 3).unwrap_or(u32::MAX);
        let window = window.as_ref().map_or(three.max(WINDOW_FLOOR), |window| window.value);
        let window = (!monotonic).then_some(window);
        Some(Hmac { keys: keys.clone(), active: id, window, mode: *mode })
    }

    /// How the adverts of an instance travel, with what must fit together checked.
    pub(super) fn wire_options(
        &mut self,
        name: &str,
        words: &WireWords,
        vips: Vips<'_>,
        advert_int: Duration,
    ) -> Options {
        let ipv6 = words.ipv6(vips);
        self.one_family(name, words, vips, ipv6);
        if let Some(ttl) = &words.unicast_ttl
            && words.peers.is_empty()
        {
            let message = format!("vrrp_instance `{name}`: `unicast_ttl` without `unicast_peer`");
            self.warn(ttl.span, message, "multicast adverts have TTL 255, always");
        }
        if let Some(span) = words.unicast
            && words.peers.is_empty()
            && !words.fault_without_peers
        {
            self.warn(
                span,
                format!("vrrp_instance `{name}`: `unicast_peer` is empty; adverts go by multicast"),
                "",
            );
        }
        let hmac = self.hmac(name, words, advert_int);
        let global = &self.config.global;
        let group = if ipv6 { global.mcast_group6 } else { global.mcast_group4 };
        Options {
            ipv6,
            group: words.group.as_ref().map(|group| group.value).or(group),
            peer_ttl: words.peer_ttl.clone(),
            unicast_ttl: words.unicast_ttl.as_ref().map(|ttl| ttl.value),
            check_source: words.check_source || global.check_unicast_src,
            fault_without_peers: words.fault_without_peers,
            checksum_as_v2: words.checksum_as_v2.unwrap_or(global.v3_checksum_as_v2),
            old_unicast_checksum: words.old_unicast_checksum,
            same_addresses: words.same_addresses,
            hmac,
        }
    }

    /// Every address of an instance is of the family of its first VIP.
    fn one_family(&mut self, name: &str, words: &WireWords, vips: Vips<'_>, ipv6: bool) {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let first = vips.first().map(|(_, span)| *span);
        let own = [
            ("mcast_src_ip", &words.mcast_src),
            ("unicast_src_ip", &words.unicast_src),
            ("mcast_dst_ip", &words.group),
        ];
        let own = own.into_iter().filter_map(|(word, given)| Some((word, given.as_ref()?)));
        let peers = words.peers.iter().map(|peer| ("unicast_peer", peer));
        let addresses = own.chain(peers).map(|(word, it)| (word, it.value, it.span));
        let listed = vips.iter().map(|(prefix, span)| ("virtual_ipaddress", prefix.addr, *span));
        let strangers: Vec<_> =
            listed.chain(addresses).filter(|(_, it, _)| it.is_ipv6() != ipv6).collect();
        for (word, address, span) in strangers {
            let message = format!(
                "vrrp_instance `{name}`: `{word}` {address} in an instance whose adverts go over \
                 {family}"
            );
            let mut diagnostic =
                self.diagnostic(Severity::Error, span, message).class(Class::Fault);
            if word == "virtual_ipaddress" {
                diagnostic = diagnostic.help(
                    "an instance has VIPs of one family: make another instance, or put it into \
                     virtual_ipaddress_excluded",
                );
            }
            if let Some(first) = first {
                diagnostic = diagnostic.related(self.place(first), "its first VIP");
            }
            self.sink.push(diagnostic);
        }
        if let Some(span) = words.native_ipv6
            && !ipv6
        {
            let message = format!("vrrp_instance `{name}`: `native_ipv6` with IPv4 addresses");
            self.error(span, message);
        }
        if let Some((prefix, span)) = vips.first()
            && matches!(prefix.addr, IpAddr::V6(first) if !first.is_unicast_link_local())
        {
            // Outside of strict mode keepalived says so in its log alone.
            self.advise(
                *span,
                format!("vrrp_instance `{name}`: the first IPv6 VIP should be link-local"),
                "RFC 9568 wants one, such as fe80::1; other makers may refuse these adverts",
            );
        }
    }

    pub(super) fn source_address(
        &mut self,
        name: &str,
        words: &WireWords,
        vips: Vips<'_>,
    ) -> Option<IpAddr> {
        let given = match (&words.unicast_src, &words.mcast_src) {
            (Some(unicast), Some(mcast)) => {
                let used = if words.peers.is_empty() { mcast } else { unicast };
                Some(used)
            }
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) => None,
        }?;
        let (value, span) = (given.value, given.span);
        for peer in words.peers.iter().filter(|peer| peer.value == value) {
            self.error(
                peer.span,
                format!("vrrp_instance `{name}`: peer {value} is this host's own source address"),
            );
        }
        for (_, vip_span) in vips.iter().filter(|(prefix, _)| prefix.addr == value) {
            let diagnostic = self
                .diagnostic(
                    Severity::Error,
                    span,
                    format!(
                        "vrrp_instance `{name}`: the source address {value} is one of its VIPs"
                    ),
                )
                .related(self.place(*vip_span), "the VIP");
            self.sink.push(diagnostic);
        }
        Some(value)
    }

    /// `unicast_peer { IP [min_ttl N] [max_ttl N] }`.
    fn peers(
        &mut self,
        entry: &Entry<'_>,
        peers: &mut Vec<Spanned<IpAddr>>,
        ttl: &mut BTreeMap<IpAddr, TtlRange>,
    ) {
        for line in self.list_lines(entry) {
            let mut words = line.iter();
            let mut last = None;
            while let Some(word) = words.next() {
                let text = self.text(*word).into_owned();
                if let Ok(value) = text.parse::<IpAddr>() {
                    last = Some(value);
                    if !self.has_room(
                        peers.len(),
                        super::LIST_LIMIT,
                        word.span,
                        "peers of one instance",
                    ) {
                        return;
                    }
                    if let Some(first) = peers.iter().find(|peer| peer.value == value) {
                        let first = first.span;
                        let diagnostic = self
                            .diagnostic(
                                Severity::Warning,
                                word.span,
                                format!("peer {value} is listed twice"),
                            )
                            .related(self.place(first), "listed here before");
                        self.sink.push(diagnostic);
                    } else {
                        peers.push(Spanned { value, span: word.span });
                    }
                } else if let ("min_ttl" | "max_ttl", Some(peer)) = (text.as_str(), last) {
                    let number = words.next();
                    let read = number.and_then(|word| value::int(&self.text(*word)));
                    let read = read.filter(|read| !read.junk);
                    let Some(value) = read.and_then(|read| u8::try_from(read.value).ok()) else {
                        let at = number.map_or(word.span, |number| number.span);
                        self.error(at, format!("`{text}` of peer {peer} must be 0..255"));
                        continue;
                    };
                    let (min, max) = ttl.get(&peer).map_or((0, 255), |it| (*it.start(), *it.end()));
                    let range = if text == "min_ttl" { value..=max } else { min..=value };
                    if range.is_empty() {
                        let (min, max) = (range.start(), range.end());
                        let message =
                            format!("peer {peer}: `min_ttl {min}` is above `max_ttl {max}`");
                        self.error(word.span, message);
                    }
                    ttl.insert(peer, range);
                } else {
                    let shown: String = text.chars().take(64).collect();
                    self.error(word.span, format!("`{shown}` is no IP address of a peer"));
                }
            }
        }
    }
}
