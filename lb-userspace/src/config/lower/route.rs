//! `virtual_routes` and `static_routes`: the words of ip-route(8) that keepalived takes.

use std::net::IpAddr;

use crate::base::net::IpPrefix;

use super::{
    super::{
        ReferenceKind,
        diag::Severity,
        keywords::{self, Block},
        lex::Word,
        model::{NextHop, PROTOCOL, Route, RouteKind, RouteMetric, TABLE_MAIN},
        source::Span,
    },
    Entry, Lower, vip,
};

const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;

/// Words of one line, taken from the front.
pub(super) struct Line<'t> {
    words: &'t [Word],
    /// The word taken last, for messages.
    pub(super) last: Span,
}

impl<'t> Line<'t> {
    pub(super) fn new(words: &'t [Word], head: Span) -> Self {
        Self { words, last: head }
    }

    pub(super) fn next(&mut self) -> Option<Word> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        self.last = first.span;
        Some(*first)
    }

    fn peek(&self) -> Option<Word> {
        self.words.first().copied()
    }

    /// Takes the next word if it is this one.
    pub(super) fn skip_if(&mut self, is: impl Fn(Word) -> bool) -> bool {
        let found = self.peek().is_some_and(is);
        if found {
            self.next();
        }
        found
    }
}

/// Words of a route that lbd does not act on.
const UNSUPPORTED: [&str; 5] = ["encap", "as", "realms", "ttl-propagate", "vrf"];

impl Lower<'_> {
    /// Every route of a block. A line that is not understood is an error and no route.
    pub(super) fn routes(&mut self, entry: &Entry<'_>) -> Vec<Route> {
        let lines = self.list_lines(entry);
        let fixed = entry.name() == "static_routes";
        lines.into_iter().filter_map(|line| self.route(line, entry, fixed)).collect()
    }

    fn route(&mut self, words: &[Word], entry: &Entry<'_>, fixed: bool) -> Option<Route> {
        let head = words.first()?.span;
        let mut line = Line::new(words, head);
        let mut route = Route {
            kind: RouteKind::Unicast,
            to: IpPrefix::host(IpAddr::from([0, 0, 0, 0])),
            from: None,
            src: None,
            next_hops: vec![],
            table: TABLE_MAIN,
            metric: None,
            scope: 0,
            protocol: PROTOCOL,
            tos: 0,
            pref: None,
            expires: None,
            metrics: vec![],
            congctl: None,
            no_track: false,
            track_group: None,
        };
        let (mut to, mut v6, mut scope) = (None, None, None);
        let mut hop = NextHop { weight: 1, ..NextHop::default() };
        while let Some(word) = line.next() {
            let text = self.text(word).into_owned();
            let known = entry_word(&text);
            if let Some(kind) = kind(known) {
                route.kind = kind;
                continue;
            }
            if let Some(metric) = metric(known) {
                let (value, lock) = self.metric(&mut line, metric)?;
                route.metrics.push((metric, value, lock));
                continue;
            }
            match known {
                "inet" => v6 = Some(false),
                "inet6" => v6 = Some(true),
                "to" => to = Some(self.destination(&mut line, v6)?),
                "from" => route.from = Some(self.prefix(&mut line, "from")?),
                "src" => route.src = Some(self.ip(&mut line, "src")?),
                "via" | "gw" => hop.via = Some(self.gateway(&mut line)?),
                "dev" | "oif" => hop.dev = Some(self.device(&mut line, entry.name())?),
                "onlink" => hop.onlink = true,
                "table" => route.table = self.table(&mut line)?,
                "metric" | "priority" | "preference" => {
                    route.metric = Some(self.number(&mut line, u32::MAX)?);
                }
                "scope" => {
                    let word = self.argument(&mut line, "scope")?;
                    let text = self.text(word);
                    scope = vip::scope(&text);
                    if scope.is_none() {
                        let shown: String = text.chars().take(64).collect();
                        self.error(word.span, format!("unknown scope `{shown}`"));
                        return None;
                    }
                }
                "protocol" | "proto" => route.protocol = self.made_by(&mut line)?,
                "tos" | "dsfield" => route.tos = self.octet(&mut line)?,
                "expires" => route.expires = Some(self.number(&mut line, i32::MAX as u32)?),
                "pref" => {
                    let word = self.argument(&mut line, "pref")?;
                    route.pref = Some(match &*self.text(word) {
                        "low" => 3,
                        "medium" => 0,
                        "high" => 1,
                        _ => {
                            self.error(word.span, "`pref` is low, medium or high");
                            return None;
                        }
                    });
                }
                "features" => {
                    let word = self.argument(&mut line, "features")?;
                    if self.text(word) != "ecn" {
                        self.error(word.span, "the only feature is `ecn`");
                        return None;
                    }
                    route.metrics.push((RouteMetric::Features, 1, false));
                }
                "congctl" => {
                    let mut word = self.argument(&mut line, "congctl")?;
                    if self.text(word) == "lock" {
                        word = self.argument(&mut line, "congctl")?;
                    }
                    route.congctl = Some(self.text(word).into_owned());
                }
                "nexthop" => {
                    let next = self.next_hop(&mut line, entry.name())?;
                    route.next_hops.push(next);
                }
                // keepalived adds every route; the words of ip(8) for how are for this shape only.
                "add" | "append" | "prepend" => {}
                "or" => {
                    self.cannot(
                        word.span,
                        "`via A or B` is no longer read",
                        "write `nexthop via A nexthop via B`",
                    );
                    return None;
                }
                "no_track" => route.no_track = true,
                "track_group" if fixed => {
                    let word = self.argument(&mut line, "track_group")?;
                    let group = self.text(word).into_owned();
                    self.marks.track_groups.uses.push((group.clone(), word.span));
                    route.track_group = Some(group);
                }
                word_ if UNSUPPORTED.contains(&word_) => {
                    let message = format!("`{word_}` of a route is not available");
                    self.cannot(word.span, message, "the route would not be what the file asks");
                    return None;
                }
                _ if to.is_none() => {
                    let mut again = Line::new(std::slice::from_ref(&word), word.span);
                    to = Some(self.destination(&mut again, v6)?);
                }
                _ => {
                    self.unknown_entry_word(word, "a route");
                    return None;
                }
            }
        }
        let Some(to) = to else {
            self.error(head, "the route has no destination");
            return None;
        };
        route.to = to;
        if hop.via.is_some() || hop.dev.is_some() {
            if !route.next_hops.is_empty() {
                self.error(head, "`nexthop` cannot go with `via` or `dev` of the route itself");
                return None;
            }
            route.next_hops.push(hop);
        }
        self.complete(route, scope, head)
    }

    /// Checks what words mean together, and fills in what none of them says.
    fn complete(&mut self, mut route: Route, scope: Option<u8>, head: Span) -> Option<Route> {
        let leads = matches!(
            route.kind,
            RouteKind::Unicast
                | RouteKind::Local
                | RouteKind::Broadcast
                | RouteKind::Anycast
                | RouteKind::Multicast
        );
        if leads && route.next_hops.is_empty() {
            self.error(head, "the route needs `via`, `dev` or `nexthop`");
            return None;
        }
        if !leads && !route.next_hops.is_empty() {
            self.error(head, "a route of this type leads nowhere: no `via`, `dev` or `nexthop`");
            return None;
        }
        let v6 = route.to.addr.is_ipv6();
        let from = route.from.map(|from| from.addr);
        if [from, route.src].into_iter().flatten().any(|addr| addr.is_ipv6() != v6) {
            self.error(head, "addresses of the route are of both families");
            return None;
        }
        if route.next_hops.iter().any(|hop| hop.via.is_some_and(|via| v6 && via.is_ipv4())) {
            self.error(head, "an IPv6 route cannot have an IPv4 gateway");
            return None;
        }
        let via = route.next_hops.iter().any(|hop| hop.via.is_some());
        let usual = match route.kind {
            _ if v6 => 0,
            RouteKind::Local => SCOPE_HOST,
            RouteKind::Broadcast | RouteKind::Multicast | RouteKind::Anycast => SCOPE_LINK,
            RouteKind::Unicast if !via => SCOPE_LINK,
            _ => 0,
        };
        route.scope = scope.unwrap_or(usual);
        Some(route)
    }

    fn next_hop(&mut self, line: &mut Line<'_>, object: &'static str) -> Option<NextHop> {
        let mut hop = NextHop { weight: 1, ..NextHop::default() };
        while let Some(word) = line.peek() {
            match &*self.text(word) {
                "via" => {
                    line.next();
                    hop.via = Some(self.gateway(line)?);
                }
                "dev" => {
                    line.next();
                    hop.dev = Some(self.device(line, object)?);
                }
                "weight" => {
                    line.next();
                    let weight = self.number(line, 256)?;
                    if weight == 0 {
                        self.error(line.last, "`weight` is 1..256");
                        return None;
                    }
                    hop.weight = u16::try_from(weight).ok()?;
                }
                "onlink" => {
                    line.next();
                    hop.onlink = true;
                }
                _ => break,
            }
        }
        if hop.via.is_none() && hop.dev.is_none() {
            self.error(line.last, "`nexthop` needs `via` or `dev`");
            return None;
        }
        Some(hop)
    }

    // ---- arguments of ip(8) words, for routes and rules

    pub(super) fn unknown_entry_word(&mut self, word: Word, of: &str) {
        let text = self.text(word);
        let shown: String = text.chars().take(64).collect();
        let message = format!("unknown word `{shown}` in {of}");
        let diagnostic = self.diagnostic(Severity::Error, word.span, message);
        let help = self.nearest_in_entry(Block::Routes, &text);
        self.sink.push(if help.is_empty() { diagnostic } else { diagnostic.help(help) });
    }

    pub(super) fn argument(&mut self, line: &mut Line<'_>, name: &str) -> Option<Word> {
        let before = line.last;
        let word = line.next();
        if word.is_none() {
            self.error(before, format!("`{name}` needs a value"));
        }
        word
    }

    fn destination(&mut self, line: &mut Line<'_>, v6: Option<bool>) -> Option<IpPrefix> {
        let word = self.argument(line, "to")?;
        let unspecified = |v6: bool| -> IpAddr {
            if v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { [0, 0, 0, 0].into() }
        };
        let text = self.text(word);
        match &*text {
            "default" | "any" | "all" => IpPrefix::new(unspecified(v6 == Some(true)), 0),
            "default6" => IpPrefix::new(unspecified(true), 0),
            text => match text.parse::<IpPrefix>() {
                Ok(prefix) => Some(network(prefix)),
                Err(()) => {
                    let shown: String = text.chars().take(64).collect();
                    let message = format!("`{shown}` is no destination and no word of a route");
                    let diagnostic = self.diagnostic(Severity::Error, word.span, message);
                    let help = self.nearest_in_entry(Block::Routes, text);
                    self.sink.push(if help.is_empty() {
                        diagnostic
                    } else {
                        diagnostic.help(help)
                    });
                    None
                }
            },
        }
    }

    pub(super) fn prefix(&mut self, line: &mut Line<'_>, name: &str) -> Option<IpPrefix> {
        let word = self.argument(line, name)?;
        let text = self.text(word);
        match text.parse::<IpPrefix>() {
            Ok(prefix) => Some(network(prefix)),
            Err(()) => {
                let shown: String = text.chars().take(64).collect();
                self.error(word.span, format!("`{name} {shown}` is no IP or IP/LEN"));
                None
            }
        }
    }

    fn ip(&mut self, line: &mut Line<'_>, name: &str) -> Option<IpAddr> {
        let word = self.argument(line, name)?;
        let text = self.text(word);
        let address = text.parse().ok();
        if address.is_none() {
            let shown: String = text.chars().take(64).collect();
            self.error(word.span, format!("`{name} {shown}` is no IP address"));
        }
        address
    }

    /// `[inet|inet6] IP`.
    fn gateway(&mut self, line: &mut Line<'_>) -> Option<IpAddr> {
        if line.peek().is_some_and(|word| matches!(&*self.text(word), "inet" | "inet6")) {
            line.next();
        }
        self.ip(line, "via")
    }

    pub(super) fn device(&mut self, line: &mut Line<'_>, object: &'static str) -> Option<String> {
        let word = self.argument(line, "dev")?;
        let name = self.text(word).into_owned();
        self.refer(ReferenceKind::Interface, name.clone(), word.span, object);
        Some(name)
    }

    pub(super) fn number(&mut self, line: &mut Line<'_>, max: u32) -> Option<u32> {
        let word = self.argument(line, "this word")?;
        let text = self.text(word);
        let number = number(&text).and_then(|value| u32::try_from(value).ok());
        let number = number.filter(|value| *value <= max);
        if number.is_none() {
            let shown: String = text.chars().take(64).collect();
            self.error(word.span, format!("`{shown}` is no number from 0 to {max}"));
        }
        number
    }

    pub(super) fn octet(&mut self, line: &mut Line<'_>) -> Option<u8> {
        self.number(line, 255).and_then(|value| u8::try_from(value).ok())
    }

    pub(super) fn table(&mut self, line: &mut Line<'_>) -> Option<u32> {
        let word = self.argument(line, "table")?;
        let text = self.text(word);
        let table = match &*text {
            "default" => Some(253),
            "main" => Some(TABLE_MAIN),
            "local" => Some(255),
            text => number(text).and_then(|value| u32::try_from(value).ok()),
        };
        if table.is_none() {
            let shown: String = text.chars().take(64).collect();
            self.cannot(
                word.span,
                format!("routing table `{shown}` is not known"),
                "names of rt_tables are not read: write the table's number",
            );
        }
        table.filter(|table| *table > 0)
    }

    pub(super) fn made_by(&mut self, line: &mut Line<'_>) -> Option<u8> {
        let word = self.argument(line, "protocol")?;
        let text = self.text(word);
        let protocol = match &*text {
            "kernel" => Some(2),
            "boot" => Some(3),
            "static" => Some(4),
            "keepalived" => Some(PROTOCOL),
            text => number(text).and_then(|value| u8::try_from(value).ok()),
        };
        if protocol.is_none() {
            let shown: String = text.chars().take(64).collect();
            self.error(word.span, format!("`protocol {shown}` is no number or known name"));
        }
        protocol
    }

    /// `[lock] VALUE`; times may end in `s` or `ms`.
    fn metric(&mut self, line: &mut Line<'_>, metric: RouteMetric) -> Option<(u32, bool)> {
        let lock = line.peek().is_some_and(|word| self.text(word) == "lock");
        if lock {
            line.next();
        }
        if metric == RouteMetric::FastopenNoCookie || metric == RouteMetric::Quickack {
            return self.number(line, 1).map(|value| (value, lock));
        }
        // rtnetlink counts round trips in eighths, their variance in quarters of a millisecond.
        let factor = match metric {
            RouteMetric::Rtt => 8,
            RouteMetric::Rttvar => 4,
            RouteMetric::RtoMin => 1,
            _ => return self.number(line, u32::MAX).map(|value| (value, lock)),
        };
        let word = self.argument(line, "time")?;
        let text = self.text(word);
        let (digits, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(digits), _) => (digits, 1),
            (None, Some(digits)) => (digits, 1000),
            (None, None) => (&*text, if metric == RouteMetric::RtoMin { 1 } else { 0 }),
        };
        let value = digits.parse::<u32>().ok();
        // A plain number is in the kernel's own unit.
        let scaled = value.and_then(|value| match unit {
            0 => Some(value),
            unit => value.checked_mul(unit)?.checked_mul(factor),
        });
        if scaled.is_none() {
            let shown: String = text.chars().take(64).collect();
            self.error(word.span, format!("`{shown}` is no time, as in 300ms"));
        }
        scaled.map(|value| (value, lock))
    }
}

/// A word that the table has for routes and rules; nothing in place of any other, so that what is taken is
/// also documented.
pub(super) fn entry_word(text: &str) -> &'static str {
    keywords::find(Block::StaticObjects, text).map_or("", |row| row.name)
}

/// Decimal, or hexadecimal with 0x.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The kernel takes no destination with host bits.
fn network(prefix: IpPrefix) -> IpPrefix {
    let addr = match prefix.addr {
        IpAddr::V4(addr) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.len)).unwrap_or(0);
            IpAddr::from((u32::from(addr) & mask).to_be_bytes())
        }
        IpAddr::V6(addr) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len)).unwrap_or(0);
            IpAddr::from((u128::from(addr) & mask).to_be_bytes())
        }
    };
    IpPrefix { addr, ..prefix }
}

fn kind(text: &str) -> Option<RouteKind> {
    Some(match text {
        "unicast" => RouteKind::Unicast,
        "local" => RouteKind::Local,
        "broadcast" => RouteKind::Broadcast,
        "anycast" => RouteKind::Anycast,
        "multicast" => RouteKind::Multicast,
        "blackhole" => RouteKind::Blackhole,
        "unreachable" => RouteKind::Unreachable,
        "prohibit" => RouteKind::Prohibit,
        "throw" => RouteKind::Throw,
        _ => return None,
    })
}

fn metric(text: &str) -> Option<RouteMetric> {
    Some(match text {
        "mtu" => RouteMetric::Mtu,
        "window" => RouteMetric::Window,
        "rtt" => RouteMetric::Rtt,
        "rttvar" => RouteMetric::Rttvar,
        "ssthresh" => RouteMetric::Ssthresh,
        "cwnd" => RouteMetric::Cwnd,
        "advmss" => RouteMetric::Advmss,
        "reordering" => RouteMetric::Reordering,
        "hoplimit" => RouteMetric::Hoplimit,
        "initcwnd" => RouteMetric::Initcwnd,
        "rto_min" => RouteMetric::RtoMin,
        "initrwnd" => RouteMetric::Initrwnd,
        "quickack" => RouteMetric::Quickack,
        "fastopen_no_cookie" => RouteMetric::FastopenNoCookie,
        _ => return None,
    })
}
