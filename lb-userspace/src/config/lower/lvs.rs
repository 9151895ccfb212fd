//! `virtual_server` and `real_server`.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::base::{
    net::{Protocol, VirtualServerKey},
    table::{Hashing, Limits, Method, Scheduler},
};

use super::{
    super::{
        diag::{Class, Severity},
        keywords::Block,
        model::{Command, OnDown, RealServer, VirtualServer},
        source::Span,
    },
    Entry, Lower, Spanned,
    checkers::Schedule,
};

/// The port of MySQL.
pub(super) const MYSQL_PORT: u16 = 3306;
/// MySQL's default `wait_timeout` (8 h) and a minute, so that the server ends idle sessions first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8 * 3600 + 60);
/// keepalived's `delay_loop`.
const DELAY_LOOP: Duration = Duration::from_secs(60);
/// Schedulers of keepalived that lbd does not have (yet).
const OTHER_SCHEDULERS: [&str; 6] = ["lblc", "lblcr", "dh", "fo", "ovf", "twos"];
/// Those that it has.
const SCHEDULERS: &str = "available: rr, wrr, lc, wlc, sed, nq, sh, mh";

/// What a virtual_server hands down to its real servers.
struct Defaults {
    vip: SocketAddr,
    method: Method,
    weight: u32,
    inhibit_on_failure: bool,
    schedule: Schedule,
}

/// Scalars of a virtual_server block.
pub(super) struct Raw {
    scheduler: Scheduler,
    hashing: Hashing,
    method: Spanned<Method>,
    protocol: Option<Spanned<usize>>,
    weight: u32,
    pub(super) inhibit_on_failure: bool,
    quorum: Option<Spanned<u32>>,
    hysteresis: Option<Spanned<u32>>,
    quorum_up: Option<Command>,
    quorum_down: Option<Command>,
    sorry_server: Option<Spanned<(IpAddr, Option<u16>)>>,
    omega: bool,
    mail: bool,
    idle_timeout: Duration,
    pub(super) on_down: Option<Spanned<OnDown>>,
    schedule: Schedule,
}

impl Lower<'_> {
    /// `virtual_server IP PORT { … }`.
    pub(super) fn virtual_server(&mut self, block: &Entry<'_>) {
        let Some(vip) = self.virtual_server_address(block) else {
            return self.refused_server(block);
        };
        let head = block.statement.span();
        let entries = self.entries(Block::VirtualServer, block.block());
        self.other_family(vip, block);
        let raw = self.virtual_server_words(vip, head, &entries);
        let reals: Vec<_> = entries.iter().filter(|e| e.name() == "real_server").collect();
        let protocol = self.protocol(vip, head, &raw, &reals);
        if reals.is_empty() {
            self.warn(
                head,
                format!("virtual_server {vip} has no real_server and is dropped"),
                "keepalived drops it too",
            );
            return;
        }
        let defaults = Defaults {
            vip,
            method: raw.method.value,
            weight: raw.weight,
            inhibit_on_failure: raw.inhibit_on_failure,
            schedule: raw.schedule.clone(),
        };
        let mut real_servers = Vec::with_capacity(reals.len());
        let first = self.marks.reals.len();
        for entry in reals {
            let Some(real) = self.real_server(&defaults, entry) else { continue };
            self.marks.reals.push(entry.statement.span());
            real_servers.push(real);
        }
        self.listed_twice(vip, &real_servers, first);
        let total = real_servers.iter().fold(0_u32, |sum, real| sum.saturating_add(real.weight));
        let (quorum, hysteresis) = self.quorum(vip, &raw, total);
        let sorry_server = raw
            .sorry_server
            .as_ref()
            .map(|s| SocketAddr::new(s.value.0, s.value.1.unwrap_or(vip.port())));
        if let Some(sorry) = &raw.sorry_server
            && sorry.value.0 == vip.ip()
        {
            self.error(sorry.span, format!("the sorry_server of {vip} is the VIP itself"));
        }
        if let Some(sorry) = &raw.sorry_server
            && !self.is_mapped(sorry.value.0, sorry.span)
            && sorry.value.0.is_ipv4() != vip.is_ipv4()
            && raw.method.value != Method::Tun
        {
            let message = format!(
                "sorry_server {} and VIP {} are of different families",
                sorry.value.0,
                vip.ip()
            );
            self.error(sorry.span, message);
        }
        let on_down = self.on_down_of(vip, &raw);
        let server = VirtualServer {
            key: VirtualServerKey { protocol, addr: vip },
            scheduler: raw.scheduler.with(raw.hashing),
            method: raw.method.value,
            delay_loop: raw.schedule.delay_loop.unwrap_or(DELAY_LOOP),
            quorum,
            hysteresis,
            quorum_up: raw.quorum_up,
            quorum_down: raw.quorum_down,
            sorry_server,
            alpha: raw.schedule.alpha,
            omega: raw.omega,
            mail: raw.mail,
            idle_timeout: raw.idle_timeout,
            on_down,
            persistence: self.persistence(vip, &entries),
            real_servers,
        };
        self.marks.virtual_servers.push(head);
        self.config.virtual_servers.push(server);
    }

    /// Real servers that a virtual server has twice; the mark of its first one is number `first`.
    fn listed_twice(&mut self, vip: SocketAddr, reals: &[RealServer], first: usize) {
        let marks = self.marks.reals.get(first..).unwrap_or(&[]);
        let mut listed: Vec<_> = reals.iter().map(|real| real.addr).zip(marks.to_vec()).collect();
        // Stable: those of one address stay in the order of the text. Most files have the others in order, too.
        listed.sort_by_key(|(addr, _)| *addr);
        for pair in listed.windows(2) {
            let [(addr, first), (again, at)] = pair else { continue };
            if addr == again {
                let message = format!("real_server {addr} is listed twice in virtual_server {vip}");
                self.twice(*at, *first, message, "listed here before");
            }
        }
    }

    fn virtual_server_address(&mut self, block: &Entry<'_>) -> Option<SocketAddr> {
        let word = self.first(block)?;
        let text = self.text(word);
        if text == "fwmark" || text == "group" {
            self.cannot(
                word.span,
                format!("`virtual_server {text}` is not available yet"),
                "write one `virtual_server IP PORT` for each VIP",
            );
            return None;
        }
        let shown: String = text.chars().take(64).collect();
        if text.parse::<IpAddr>().is_err() {
            self.error(word.span, format!("`{shown}` is no IP address of a virtual_server"));
            return None;
        }
        let Spanned { value: (ip, port), span } = self.server(block)?;
        if self.is_mapped(ip, span) {
            return None;
        }
        let Some(port) = port.filter(|port| *port > 0) else {
            self.cannot(
                span,
                format!("virtual_server {ip} has no port"),
                "every port at once is not available yet; write one virtual_server for each port",
            );
            return None;
        };
        Some(SocketAddr::new(ip, port))
    }

    /// Tells of an address that stands for an IPv4 one: no packet has it.
    pub(super) fn is_mapped(&mut self, ip: IpAddr, span: Span) -> bool {
        let IpAddr::V6(addr) = ip else { return false };
        let Some(plain) = addr.to_ipv4_mapped() else { return false };
        self.error(
            span,
            format!("{ip} is an IPv4 address in the guise of an IPv6 one: write {plain}"),
        );
        true
    }

    fn virtual_server_words(&mut self, vip: SocketAddr, head: Span, entries: &[Entry<'_>]) -> Raw {
        let user = self.config.global.script_user.clone();
        let mut raw = Raw {
            scheduler: Scheduler::Wlc,
            hashing: Hashing::default(),
            method: Spanned { value: Method::Nat, span: head },
            protocol: None,
            weight: 1,
            inhibit_on_failure: false,
            quorum: None,
            hysteresis: None,
            quorum_up: None,
            quorum_down: None,
            sorry_server: None,
            omega: false,
            mail: self.checker_mail(false),
            idle_timeout: IDLE_TIMEOUT,
            on_down: None,
            schedule: Schedule::default(),
        };
        let (mut algo, mut kind) = (false, false);
        for entry in entries {
            let span = entry.statement.span();
            match entry.name() {
                "lb_algo" | "lvs_sched" => {
                    algo = true;
                    if let Some(scheduler) = self.scheduler(entry) {
                        raw.scheduler = scheduler;
                    }
                }
                "lb_kind" | "lvs_method" => {
                    kind = true;
                    if let Some(method) = self.method(entry) {
                        raw.method = Spanned { value: method, span };
                    }
                }
                // keepalived keeps the same bit of IPVS under each of these names.
                "sh-port" | "mh-port" | "flag-2" => raw.hashing.port = true,
                "sh-fallback" | "mh-fallback" | "flag-1" => raw.hashing.fallback = true,
                "protocol" => {
                    raw.protocol = self.choice(entry).map(|value| Spanned { value, span });
                }
                "weight" => raw.weight = self.u32(entry).unwrap_or(raw.weight),
                "inhibit_on_failure" => raw.inhibit_on_failure = true,
                "quorum" => raw.quorum = self.u32(entry).map(|value| Spanned { value, span }),
                "hysteresis" => {
                    raw.hysteresis = self.u32(entry).map(|value| Spanned { value, span });
                }
                "quorum_up" => raw.quorum_up = self.command(entry, user.clone()),
                "quorum_down" => raw.quorum_down = self.command(entry, user.clone()),
                "sorry_server" => raw.sorry_server = self.server(entry),
                "persistence_timeout" | "persistence_granularity" => {}
                "omega" => raw.omega = true,
                "smtp_alert" => raw.mail = self.wants_mail(entry, raw.mail),
                "idle_timeout" => {
                    raw.idle_timeout = self.duration(entry).unwrap_or(raw.idle_timeout);
                }
                "on_down" => {
                    raw.on_down = self.on_down(entry).map(|value| Spanned { value, span });
                }
                "real_server" => {}
                _ if self.schedule(&mut raw.schedule, entry) => {}
                other => self.unhandled(entry, other),
            }
        }
        let missing = match (algo, kind) {
            (true, true) => return raw,
            (false, false) => "no `lb_algo` and no `lb_kind`: wlc and NAT are used",
            (false, true) => "no `lb_algo`: wlc is used",
            (true, false) => "no `lb_kind`: NAT is used",
        };
        let help = match kind {
            true => "as in keepalived",
            false => "as in keepalived; with NAT replies must come back through this host",
        };
        // Without a real server it is dropped, and that is all to say.
        if entries.iter().any(|entry| entry.name() == "real_server") {
            self.warn(head, format!("virtual_server {vip} has {missing}"), help);
        }
        raw
    }

    pub(super) fn scheduler(&mut self, entry: &Entry<'_>) -> Option<Scheduler> {
        let word = self.first(entry)?;
        let text = self.text(word);
        let known = |text: &str| {
            [
                Scheduler::Rr,
                Scheduler::Wrr,
                Scheduler::Lc,
                Scheduler::Wlc,
                Scheduler::Sed,
                Scheduler::Nq,
                Scheduler::Sh(Hashing::default()),
                Scheduler::Mh(Hashing::default()),
            ]
            .into_iter()
            .find(|scheduler| scheduler.name() == text)
        };
        if let Some(scheduler) = known(&text) {
            return Some(scheduler);
        }
        let lower = text.to_ascii_lowercase();
        if let Some(scheduler) = known(&lower) {
            self.warn(word.span, format!("`{} {text}` is read as {lower}", entry.name()), "");
            return Some(scheduler);
        }
        if OTHER_SCHEDULERS.contains(&lower.as_str()) {
            self.cannot(word.span, format!("scheduler `{text}` is not available yet"), SCHEDULERS);
            return None;
        }
        let shown: String = text.chars().take(64).collect();
        self.warn(
            word.span,
            format!("unknown scheduler `{shown}`; wlc is used"),
            &format!("{SCHEDULERS}; keepalived takes wlc here too"),
        );
        None
    }

    /// keepalived's default is UDP, which no MySQL pool means: where the port or a check says TCP,
    /// TCP it is, with a warning; else it is an error, because we forward TCP only.
    fn protocol(
        &mut self,
        vip: SocketAddr,
        head: Span,
        raw: &Raw,
        reals: &[&Entry<'_>],
    ) -> Protocol {
        match &raw.protocol {
            Some(given) if given.value == 0 => {}
            Some(given) => {
                self.cannot(
                    given.span,
                    format!("virtual_server {vip}: only protocol TCP is available yet"),
                    "write `protocol TCP`, or leave UDP services to keepalived",
                );
            }
            None if vip.port() == MYSQL_PORT || reals.iter().any(|real| self.speaks_tcp(real)) => {
                let diagnostic = self
                    .diagnostic(
                        Severity::Warning,
                        head,
                        format!("virtual_server {vip} has no `protocol`; lbd forwards TCP"),
                    )
                    .help(
                        "keepalived forwards UDP here, so that no client gets through: add `protocol TCP`",
                    );
                self.sink.push(diagnostic);
            }
            None => {
                let diagnostic = self
                    .diagnostic(
                        Severity::Error,
                        head,
                        format!(
                            "virtual_server {vip} has no `protocol`, which means UDP; lbd forwards TCP only"
                        ),
                    )
                    .class(Class::CannotRun)
                    .help("add `protocol TCP` if that is meant");
                self.sink.push(diagnostic);
            }
        }
        Protocol::Tcp
    }

    fn speaks_tcp(&self, real: &Entry<'_>) -> bool {
        let port = real.args().get(1).map(|word| self.text(*word));
        if port.is_some_and(|port| port == "3306") {
            return true;
        }
        real.block().any(|statement| {
            let word = self.source.slice(statement.head());
            ["TCP_CHECK", "MYSQL_CHECK", "HTTP_GET", "SSL_GET", "SMTP_CHECK"].contains(&word)
        })
    }

    fn quorum(&mut self, vip: SocketAddr, raw: &Raw, total: u32) -> (u32, u32) {
        let mut quorum = raw.quorum.as_ref().map_or(1, |quorum| quorum.value);
        if let Some(given) = &raw.quorum
            && given.value > total.max(1)
        {
            quorum = total.max(1);
            self.warn(
                given.span,
                format!(
                    "virtual_server {vip}: quorum {} is more than all real servers weigh; {quorum} is used",
                    given.value
                ),
                "",
            );
        }
        let mut hysteresis = raw.hysteresis.as_ref().map_or(0, |hysteresis| hysteresis.value);
        if let Some(given) = &raw.hysteresis
            && given.value >= quorum
        {
            hysteresis = quorum.saturating_sub(1);
            self.warn(
                given.span,
                format!(
                    "virtual_server {vip}: hysteresis {} must be below quorum {quorum}; {hysteresis} is used",
                    given.value
                ),
                "",
            );
        }
        (quorum, hysteresis)
    }

    /// Whether an address can be that of a real server; told when it cannot.
    fn may_serve(&mut self, defaults: &Defaults, server: &Spanned<(IpAddr, Option<u16>)>) -> bool {
        let Spanned { value: (ip, _), span } = *server;
        let vip = defaults.vip;
        if ip.is_ipv4() != vip.is_ipv4() && defaults.method != Method::Tun {
            let message =
                format!("real_server {ip} and VIP {} are of different families", vip.ip());
            let diagnostic = self.diagnostic(Severity::Error, span, message);
            self.sink.push(diagnostic.help("only by `lb_kind TUN` they may be"));
        } else if self.is_mapped(ip, span) {
            return false;
        } else if ip == vip.ip() {
            let message = format!("real_server {ip} is the VIP itself");
            self.cannot(span, message, "write the server's own address");
        } else if ip.is_unspecified() || ip.is_multicast() {
            self.error(span, format!("real_server {ip} is no address of a host"));
        } else {
            return true;
        }
        false
    }

    fn real_server(&mut self, defaults: &Defaults, block: &Entry<'_>) -> Option<RealServer> {
        let vip = defaults.vip;
        let server = self.server(block);
        let served = server.filter(|it| self.may_serve(defaults, it));
        let Some(Spanned { value: (ip, port), span }) = served else {
            self.refused_real_server(block, Some(vip.port()));
            return None;
        };
        let entries = self.entries(Block::RealServer, block.block());
        let mut port = port.filter(|port| *port > 0).unwrap_or(vip.port());
        if matches!(defaults.method, Method::Dr | Method::Tun) && port != vip.port() {
            let name = if defaults.method == Method::Tun { "TUN" } else { "DR" };
            self.warn(
                span,
                format!(
                    "real_server {ip} {port}: {name} cannot change the port; {} is used",
                    vip.port()
                ),
                "with NAT the port may differ",
            );
            port = vip.port();
        }
        let addr = SocketAddr::new(ip, port);
        let user = self.config.global.script_user.clone();
        let mut real = RealServer {
            addr,
            weight: defaults.weight,
            limits: Limits::default(),
            inhibit_on_failure: defaults.inhibit_on_failure,
            notify_up: None,
            notify_down: None,
            mail: self.checker_mail(true),
            // As many as there are, and not four: a checker is large.
            checkers: Vec::with_capacity(
                entries.iter().filter(|it| it.keyword.opens.is_some()).count(),
            ),
        };
        let mut schedule = defaults.schedule.clone();
        for entry in &entries {
            match entry.name() {
                "weight" => real.weight = self.u32(entry).unwrap_or(real.weight),
                "uthreshold" => real.limits.upper = self.u32(entry).unwrap_or_default(),
                "lthreshold" => real.limits.lower = self.u32(entry).unwrap_or_default(),
                "inhibit_on_failure" => real.inhibit_on_failure = true,
                "notify_up" => real.notify_up = self.command(entry, user.clone()),
                "smtp_alert" => real.mail = self.bool(entry, real.mail),
                "notify_down" => real.notify_down = self.command(entry, user.clone()),
                "lvs_method" => {
                    if self.method(entry).is_some_and(|method| method != defaults.method) {
                        self.cannot(
                            entry.statement.span(),
                            "a real_server with a method of its own is not available yet",
                            "give all real servers of a virtual_server the same method",
                        );
                    }
                }
                "TCP_CHECK" | "MISC_CHECK" | "MYSQL_CHECK" | "HTTP_GET" | "SSL_GET" => {}
                _ if self.schedule(&mut schedule, entry) => {}
                other => self.unhandled(entry, other),
            }
        }
        for entry in entries.iter().filter(|it| it.keyword.opens.is_some()) {
            let checker = match entry.name() {
                "TCP_CHECK" => self.tcp_check(addr, &schedule, entry),
                "MISC_CHECK" => self.misc_check(addr, &schedule, entry),
                "MYSQL_CHECK" => self.mysql_check(addr, &schedule, entry),
                "HTTP_GET" | "SSL_GET" => self.http_check(addr, &schedule, entry),
                _ => None,
            };
            real.checkers.extend(checker);
        }
        let Limits { upper, lower } = real.limits;
        if lower > upper {
            self.warn(
                span,
                format!(
                    "real_server {addr}: lthreshold {lower} is more than uthreshold {upper}; it is ignored"
                ),
                "IPVS refuses the pair",
            );
            real.limits.lower = 0;
        }
        // Checkers that do not act yet are told of by their subject.
        let any_check = block
            .block()
            .any(|statement| statement.keyword().is_some_and(|row| row.opens.is_some()));
        if !any_check {
            self.notice(
                span,
                format!("real_server {addr} has no check: it counts as up always"),
                match addr.port() {
                    MYSQL_PORT => "MYSQL_CHECK { } finds out whether MySQL answers",
                    _ => "TCP_CHECK { } finds out whether its port is open",
                },
            );
        }
        Some(real)
    }
}
