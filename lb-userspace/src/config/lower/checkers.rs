//! Checker blocks, and the schedule words that they inherit.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    super::{
        ReferenceKind,
        diag::{Class, Severity},
        keywords::Block,
        lex::Word,
        model::{
            Checker, CheckerCommon, MiscCheck, MysqlCheck, MysqlLevel, MysqlRole, OnCondition,
            Password, TlsCa, TlsCaContent, TlsMode, User,
        },
        source::Span,
    },
    Entry, Lower, lvs,
};

/// Schedule words as far as they are given; inner blocks overlay outer ones.
#[derive(Clone, Default)]
pub(super) struct Schedule {
    pub(super) retry: Option<u32>,
    pub(super) delay_before_retry: Option<Duration>,
    pub(super) delay_loop: Option<Duration>,
    warmup: Option<Duration>,
    connect_timeout: Option<Duration>,
    /// Header Host of HTTP_GET.
    pub(super) virtualhost: Option<String>,
    pub(super) alpha: bool,
}

impl Schedule {
    /// No wait before the first probe unless one is asked for.
    pub(super) fn at_once() -> Self {
        Self { warmup: Some(Duration::ZERO), ..Self::default() }
    }
}

/// Words that say where a probe goes.
#[derive(Default)]
pub(super) struct Target {
    ip: Option<IpAddr>,
    port: Option<u16>,
    bindto: Option<IpAddr>,
}

impl Target {
    pub(super) fn take(&mut self, lower: &mut Lower<'_>, entry: &Entry<'_>) -> bool {
        match entry.name() {
            "connect_ip" => self.ip = lower.address(entry).map(|ip| ip.value),
            "connect_port" => self.port = lower.int(entry).and_then(|p| u16::try_from(p).ok()),
            "bindto" => self.bindto = lower.address(entry).map(|ip| ip.value),
            _ => return false,
        }
        true
    }

    pub(super) fn common(
        &self,
        real: SocketAddr,
        schedule: &Schedule,
        retry: u32,
    ) -> CheckerCommon {
        let delay_loop = schedule.delay_loop.unwrap_or(Duration::from_secs(60));
        CheckerCommon {
            target: SocketAddr::new(self.ip.unwrap_or(real.ip()), self.port.unwrap_or(real.port())),
            bindto: self.bindto,
            connect_timeout: schedule.connect_timeout.unwrap_or(Duration::from_secs(5)),
            retry: schedule.retry.unwrap_or(retry),
            delay_before_retry: schedule.delay_before_retry.unwrap_or(Duration::from_secs(1)),
            delay_loop,
            warmup: schedule.warmup.unwrap_or(delay_loop),
            alpha: schedule.alpha,
        }
    }
}

impl Lower<'_> {
    /// Takes a schedule word; false when the entry is none.
    pub(super) fn schedule(&mut self, schedule: &mut Schedule, entry: &Entry<'_>) -> bool {
        match entry.name() {
            "retry" => schedule.retry = self.u32(entry).or(schedule.retry),
            "delay_before_retry" => {
                schedule.delay_before_retry = self.duration(entry).or(schedule.delay_before_retry);
            }
            "delay_loop" => schedule.delay_loop = self.duration(entry).or(schedule.delay_loop),
            "warmup" => schedule.warmup = self.duration(entry).or(schedule.warmup),
            "connect_timeout" => {
                schedule.connect_timeout = self.duration(entry).or(schedule.connect_timeout);
            }
            "virtualhost" => {
                schedule.virtualhost = self.word(entry).map(|word| word.value);
            }
            "alpha" => schedule.alpha = true,
            _ => return false,
        }
        true
    }

    pub(super) fn tcp_check(
        &mut self,
        real: SocketAddr,
        inherited: &Schedule,
        block: &Entry<'_>,
    ) -> Option<Checker> {
        let mut schedule = inherited.clone();
        let mut target = Target::default();
        for entry in self.entries(Block::TcpCheck, block.block()) {
            if !target.take(self, &entry) && !self.schedule(&mut schedule, &entry) {
                self.unhandled(&entry, entry.name());
            }
        }
        let common = target.common(real, &schedule, 1);
        if common.target.port() == lvs::MYSQL_PORT
            && !std::mem::replace(&mut self.marks.tcp_told, true)
        {
            self.notice(
                block.head(),
                format!("TCP_CHECK of {}: lbd does not finish the connection", common.target),
                "so MySQL never counts it as a failed login and never blocks this host; \
                 MYSQL_CHECK { } also finds out whether MySQL answers",
            );
        }
        Some(Checker::Tcp(common))
    }

    pub(super) fn misc_check(
        &mut self,
        real: SocketAddr,
        inherited: &Schedule,
        block: &Entry<'_>,
    ) -> Option<Checker> {
        let mut schedule = inherited.clone();
        let (mut command, mut user, mut timeout) = (None, None::<User>, None);
        let mut dynamic = false;
        for entry in self.entries(Block::MiscCheck, block.block()) {
            match entry.name() {
                "misc_path" => command = self.command(&entry, None),
                "misc_timeout" => timeout = self.duration(&entry).filter(|t| !t.is_zero()),
                "misc_dynamic" => dynamic = true,
                "user" => user = self.runs_as(&entry),
                _ if self.schedule(&mut schedule, &entry) => {}
                other => self.unhandled(&entry, other),
            }
        }
        let Some(mut command) = command else {
            let given = block.block().any(|s| self.source.slice(s.head()) == "misc_path");
            if !given {
                self.error(block.head(), format!("MISC_CHECK of {real} has no `misc_path`"));
            }
            return None;
        };
        command.user = user.or_else(|| self.config.global.script_user.clone());
        let common = Target::default().common(real, &schedule, 0);
        let timeout = timeout.unwrap_or(common.delay_loop);
        Some(Checker::Misc(common, Box::new(MiscCheck { command, timeout, dynamic })))
    }

    pub(super) fn mysql_check(
        &mut self,
        real: SocketAddr,
        inherited: &Schedule,
        block: &Entry<'_>,
    ) -> Option<Checker> {
        Some(self.mysql_block(Block::MysqlCheck, real, inherited, block, &mut |_, _| false))
    }

    /// As [`Lower::mysql_check`], for a block that has words of its own too: `own` takes them.
    pub(super) fn mysql_block(
        &mut self,
        kind: Block,
        real: SocketAddr,
        inherited: &Schedule,
        block: &Entry<'_>,
        own: &mut dyn FnMut(&mut Self, &Entry<'_>) -> bool,
    ) -> Checker {
        let mut schedule = inherited.clone();
        let mut target = Target::default();
        let mut raw = RawMysql::default();
        let mut check = MysqlCheck::default();
        for entry in self.entries(kind, block.block()) {
            if !own(self, &entry)
                && !self.mysql_word(&mut check, &mut raw, &entry)
                && !target.take(self, &entry)
                && !self.schedule(&mut schedule, &entry)
            {
                self.unhandled(&entry, entry.name());
            }
        }
        self.mysql_level(real, &mut check, &raw, block.head());
        self.mysql_consistency(real, &mut check, &raw);
        if schedule.retry != inherited.retry
            && let Some(span) = raw.retry
        {
            self.notice(span, "`retry` has no effect in MYSQL_CHECK", "use suspect, fall and rise");
        }
        let common = target.common(real, &schedule, 1);
        Checker::Mysql(common, Box::new(check))
    }

    /// One of MYSQL_CHECK's own words; false when the entry is none.
    fn mysql_word(
        &mut self,
        check: &mut MysqlCheck,
        raw: &mut RawMysql,
        entry: &Entry<'_>,
    ) -> bool {
        let span = entry.statement.span();
        match entry.name() {
            "level" => {
                raw.level = self.choice(entry).map(|choice| {
                    let level = match choice {
                        0 => MysqlLevel::Greeting,
                        1 => MysqlLevel::Login,
                        2 => MysqlLevel::Ping,
                        3 => MysqlLevel::Query,
                        _ => MysqlLevel::Role,
                    };
                    (level, span)
                });
            }
            "role" => {
                raw.role = true;
                check.role = match self.choice(entry) {
                    Some(0) => MysqlRole::Writer,
                    Some(1) => MysqlRole::ReadOnly,
                    _ => MysqlRole::Any,
                };
            }
            "user" => check.user = self.user(entry).map(|user| user.name),
            "password" => {
                raw.password = self.first(entry);
                check.password = self.word(entry).map(|word| Password::Literal(word.value));
            }
            "password_file" => {
                raw.password_file = Some(span);
                if let Some(path) = self.word(entry) {
                    self.refer(ReferenceKind::File, path.value.clone(), path.span, "password_file");
                    check.password = Some(Password::File(PathBuf::from(path.value)));
                }
            }
            "tls" => {
                check.tls = match self.choice(entry) {
                    Some(0) => TlsMode::Off,
                    Some(2) => TlsMode::Require,
                    _ => TlsMode::Prefer,
                };
            }
            "tls_ca" => {
                raw.tls_ca = Some(span);
                if let Some(path) = self.word(entry) {
                    self.refer(ReferenceKind::File, path.value.clone(), path.span, "tls_ca");
                    check.tls_ca = Some(TlsCa {
                        path: PathBuf::from(path.value),
                        content: TlsCaContent::Unread,
                    });
                }
            }
            "query" => check.query = self.word(entry).map(|word| word.value),
            "expect" => {
                raw.expect = Some(span);
                check.expect = self.word(entry).map(|word| word.value);
            }
            "ping_interval" => set(&mut check.ping_interval, self.duration(entry)),
            "ping_timeout" => set(&mut check.ping_timeout, self.duration(entry)),
            "login_interval" => set(&mut check.login_interval, self.duration(entry)),
            "role_interval" => set(&mut check.role_interval, self.duration(entry)),
            "suspect" => {
                raw.suspect = Some(span);
                set(&mut check.suspect, self.u32(entry));
            }
            "fall" => set(&mut check.fall, self.u32(entry)),
            "rise" => set(&mut check.rise, self.u32(entry)),
            "on_auth_error" => {
                check.on_auth_error = match self.choice(entry) {
                    Some(1) => OnCondition::Down,
                    _ => OnCondition::Hold,
                };
            }
            "on_full" => {
                check.on_full = match self.choice(entry) {
                    Some(1) => OnCondition::Down,
                    Some(2) => OnCondition::Up,
                    _ => OnCondition::Hold,
                };
            }
            "retry" => {
                raw.retry = Some(span);
                return false;
            }
            _ => return false,
        }
        true
    }

    /// The level that is given, else the one that the other words imply.
    fn mysql_level(
        &mut self,
        real: SocketAddr,
        check: &mut MysqlCheck,
        raw: &RawMysql,
        head: Span,
    ) {
        let (implied, because) = if check.role != MysqlRole::Any {
            (MysqlLevel::Role, "role")
        } else if check.query.is_some() {
            (MysqlLevel::Query, "query")
        } else if raw.role && raw.level.is_none() {
            // `any` asks as the others do, and takes either answer.
            (MysqlLevel::Role, "role")
        } else if check.user.is_some() {
            (MysqlLevel::Ping, "user")
        } else {
            (MysqlLevel::Greeting, "")
        };
        check.level = match raw.level {
            Some((level, span)) if level < implied && implied > MysqlLevel::Ping => {
                self.error(
                    span,
                    format!("MYSQL_CHECK of {real}: this level does not look at `{because}`"),
                );
                level
            }
            Some((level, _)) => level,
            None => implied,
        };
        if check.level > MysqlLevel::Greeting && check.user.is_none() {
            let span = raw.level.map_or(head, |(_, span)| span);
            let diagnostic = self
                .diagnostic(
                    Severity::Error,
                    span,
                    format!("MYSQL_CHECK of {real} needs `user` for this level"),
                )
                .class(Class::CannotRun)
                .help("level greeting needs no user");
            self.sink.push(diagnostic);
        }
        if check.level == MysqlLevel::Query && check.query.is_none() {
            check.query = Some("SELECT 1".into());
        }
    }

    fn mysql_consistency(&mut self, real: SocketAddr, check: &mut MysqlCheck, raw: &RawMysql) {
        if let Some(span) = raw.expect
            && check.query.is_none()
        {
            self.error(span, format!("MYSQL_CHECK of {real}: `expect` without `query`"));
        }
        if let (Some(word), Some(_)) = (raw.password, raw.password_file) {
            self.error(
                word.span,
                format!("MYSQL_CHECK of {real}: `password` and `password_file` are both given"),
            );
        }
        if let Some(word) = raw.password
            && check.user.is_none()
        {
            self.warn(word.span, format!("MYSQL_CHECK of {real}: `password` without `user`"), "");
        }
        if let Some(span) = raw.tls_ca
            && check.tls == TlsMode::Off
        {
            self.warn(
                span,
                format!("MYSQL_CHECK of {real}: `tls_ca` has no effect with `tls off`"),
                "",
            );
        }
        if check.suspect > check.fall {
            if let Some(span) = raw.suspect {
                self.warn(
                    span,
                    format!(
                        "MYSQL_CHECK of {real}: suspect {} comes after fall {}; {} is used",
                        check.suspect, check.fall, check.fall
                    ),
                    "",
                );
            }
            check.suspect = check.fall;
        }
    }
}

/// Places and words that only the checks of a whole MYSQL_CHECK need.
#[derive(Default)]
struct RawMysql {
    level: Option<(MysqlLevel, Span)>,
    role: bool,
    password: Option<Word>,
    password_file: Option<Span>,
    tls_ca: Option<Span>,
    expect: Option<Span>,
    suspect: Option<Span>,
    retry: Option<Span>,
}

/// Keeps the default when a value was bad (which is an error already).
fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}
