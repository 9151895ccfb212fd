//! `virtual_server`, `real_server` and checkers.

use std::net::IpAddr;

use super::{
    super::{
        keywords::{self, Block},
        model::{
            Checker, CheckerCommon, HttpCheck, HttpUrl, MiscCheck, MysqlCheck, MysqlLevel,
            MysqlRole, OnCondition, OnDown, Password, RealServer, Sni, TlsMode, VirtualServer,
        },
    },
    Item, Lines, quote, seconds, tracking,
};
use crate::base::{
    net::{self, Protocol},
    table::{Hashing, Limits, Method, Persistence, Scheduler},
};
use crate::check::page::{self, PageRegex, Spec};

/// `virtual_server IP PORT { … }` with its real servers.
pub fn virtual_server(server: &VirtualServer) -> Item {
    let mut item = virtual_server_words(server);
    if let Some(block) = &mut item.block {
        block.extend(server.real_servers.iter().map(real_server));
    }
    item
}

/// The same without real servers.
pub fn virtual_server_words(server: &VirtualServer) -> Item {
    let VirtualServer {
        key,
        scheduler,
        method,
        delay_loop,
        quorum,
        hysteresis,
        quorum_up,
        quorum_down,
        sorry_server,
        alpha,
        omega,
        mail,
        idle_timeout,
        on_down,
        persistence,
        real_servers: _,
    } = server;
    let mut out = Lines::default();
    let protocol = match key.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    out.value("protocol", protocol);
    scheduling(&mut out, *scheduler);
    let method = match method {
        Method::Dr => "DR",
        Method::Tun => "TUN",
        // A real server that is this host is found by its address, whatever the method.
        Method::Nat | Method::Local => "NAT",
    };
    out.value("lb_kind", method);
    if let Some(persistence) = persistence {
        self::persistence(&mut out, key.addr.ip(), *persistence);
    }
    out.time("delay_loop", *delay_loop);
    out.value("quorum", quorum);
    out.value("hysteresis", hysteresis);
    out.command("quorum_up", quorum_up.as_ref());
    out.command("quorum_down", quorum_down.as_ref());
    if let Some(sorry) = sorry_server {
        out.put(Item::new("sorry_server").word(sorry.ip()).word(sorry.port()));
    }
    out.flag("alpha", *alpha);
    out.flag("omega", *omega);
    out.switch("smtp_alert", *mail);
    out.time("idle_timeout", *idle_timeout);
    let how = Item::new("on_down");
    out.put(match on_down {
        OnDown::Reset => how.word("reset"),
        OnDown::Drain(grace) => how.word("drain").word(seconds(*grace)),
        OnDown::Keep => how.word("keep"),
    });
    Item::new("virtual_server").word(key.addr.ip()).word(key.addr.port()).opens(out.0)
}

/// A mask for IPv4 and a length for IPv6, as keepalived reads them.
fn persistence(out: &mut Lines, vip: IpAddr, persistence: Persistence) {
    let Persistence { timeout, granularity } = persistence;
    out.time("persistence_timeout", timeout);
    if granularity == Persistence::whole(vip) {
        return;
    }
    match vip {
        IpAddr::V4(_) => out.value("persistence_granularity", net::mask4(granularity)),
        IpAddr::V6(_) => out.value("persistence_granularity", granularity),
    }
}

/// `lb_algo` and its flags.
fn scheduling(out: &mut Lines, scheduler: Scheduler) {
    out.value("lb_algo", scheduler.name());
    let (words, Hashing { port, fallback }) = match scheduler {
        Scheduler::Sh(hashing) => (["sh-port", "sh-fallback"], hashing),
        Scheduler::Mh(hashing) => (["mh-port", "mh-fallback"], hashing),
        Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq => return,
    };
    out.flag(words[0], port);
    out.flag(words[1], fallback);
}

/// `real_server IP PORT { … }`.
pub fn real_server(server: &RealServer) -> Item {
    let RealServer {
        addr,
        weight,
        limits: Limits { upper, lower },
        inhibit_on_failure,
        notify_up,
        notify_down,
        mail,
        checkers,
    } = server;
    let mut out = Lines::default();
    out.value("weight", weight);
    out.value("uthreshold", upper);
    out.value("lthreshold", lower);
    out.flag("inhibit_on_failure", *inhibit_on_failure);
    out.command("notify_up", notify_up.as_ref());
    out.command("notify_down", notify_down.as_ref());
    out.switch("smtp_alert", *mail);
    // MISC_CHECK has it from around it, and no use for it.
    let misc = checkers.iter().find_map(|checker| match checker {
        Checker::Misc(common, _) => Some(common.connect_timeout),
        _ => None,
    });
    out.maybe("connect_timeout", misc.map(seconds));
    for checker in checkers {
        out.put(self::checker(checker));
    }
    Item::new("real_server").word(addr.ip()).word(addr.port()).opens(out.0)
}

fn checker(checker: &Checker) -> Item {
    let mut out = Lines::default();
    let keyword = match checker {
        Checker::Tcp(common) => {
            self::common(&mut out, Block::TcpCheck, common);
            "TCP_CHECK"
        }
        Checker::Misc(common, misc) => {
            let MiscCheck { command, timeout, dynamic } = &**misc;
            tracking::command(&mut out, "misc_path", command);
            out.time("misc_timeout", *timeout);
            out.flag("misc_dynamic", *dynamic);
            self::common(&mut out, Block::MiscCheck, common);
            "MISC_CHECK"
        }
        Checker::Mysql(common, check) => {
            mysql(&mut out, check);
            self::common(&mut out, Block::MysqlCheck, common);
            "MYSQL_CHECK"
        }
        Checker::Http(common, check) => {
            http(&mut out, check);
            self::common(&mut out, Block::HttpGet, common);
            if check.tls { "SSL_GET" } else { "HTTP_GET" }
        }
    };
    Item::new(keyword).opens(out.0)
}

fn http(out: &mut Lines, check: &HttpCheck) {
    let HttpCheck { tls: _, protocol, sni, urls } = check;
    out.value("http_protocol", protocol.word());
    match sni {
        Sni::Off => {}
        Sni::Host => out.flag("enable_sni", true),
        Sni::Name(name) => out.value("sni_name", name),
    }
    for url in urls {
        let HttpUrl { path, virtualhost, expected: Spec { status, digest, regex } } = url;
        let mut words = Lines::default();
        words.value("path", path);
        words.maybe("virtualhost", virtualhost.as_ref());
        let codes = Item::new("status_code");
        words.put(status.iter().fold(codes, |codes, range| codes.word(page::ranges(&[*range]))));
        words.maybe("digest", digest.map(page::hex));
        if let Some(regex) = regex {
            let PageRegex { pattern, options, no_match, min_offset, max_offset } = regex;
            words.put(Item::new("regex").written(quote::pattern(pattern)));
            words.flag("regex_no_match", *no_match);
            if !options.is_empty() {
                let names = Item::new("regex_options");
                words.put(options.iter().fold(names, |names, option| names.word(option.word())));
            }
            words.value("regex_min_offset", min_offset);
            words.maybe("regex_max_offset", *max_offset);
        }
        out.put(Item::new("url").opens(words.0));
    }
}

/// The words of MYSQL_CHECK in a `track_mysql`.
pub(super) fn tracked_mysql(out: &mut Lines, checker: &Checker) {
    if let Checker::Mysql(common, check) = checker {
        mysql(out, check);
        self::common(out, Block::TrackMysql, common);
    }
}

/// Words of all checkers, as far as the block has them.
fn common(out: &mut Lines, block: Block, common: &CheckerCommon) {
    let CheckerCommon {
        target,
        bindto,
        connect_timeout,
        retry,
        delay_before_retry,
        delay_loop,
        warmup,
        alpha,
    } = common;
    let mut has = |keyword: &str, value: String| {
        if keywords::find(block, keyword).is_some() {
            out.value(keyword, value);
        }
    };
    has("connect_ip", target.ip().to_string());
    has("connect_port", target.port().to_string());
    if let Some(bindto) = bindto {
        has("bindto", bindto.to_string());
    }
    has("connect_timeout", seconds(*connect_timeout));
    // It has no effect there, and the parser says so.
    if block != Block::MysqlCheck || *retry != 1 {
        has("retry", retry.to_string());
    }
    has("delay_before_retry", seconds(*delay_before_retry));
    has("delay_loop", seconds(*delay_loop));
    has("warmup", seconds(*warmup));
    out.flag("alpha", *alpha);
}

fn mysql(out: &mut Lines, check: &MysqlCheck) {
    let MysqlCheck {
        level,
        role,
        user,
        password,
        tls,
        tls_ca,
        query,
        expect,
        ping_interval,
        ping_timeout,
        login_interval,
        role_interval,
        suspect,
        fall,
        rise,
        on_auth_error,
        on_full,
    } = check;
    let level = match level {
        MysqlLevel::Greeting => "greeting",
        MysqlLevel::Login => "login",
        MysqlLevel::Ping => "ping",
        MysqlLevel::Query => "query",
        MysqlLevel::Role => "role",
    };
    out.value("level", level);
    let role = match role {
        MysqlRole::Writer => "writer",
        MysqlRole::ReadOnly => "read_only",
        MysqlRole::Any => "any",
    };
    out.value("role", role);
    out.maybe("user", user.as_ref());
    match password {
        Some(Password::Literal(text)) => {
            out.put(Item::new("password").secret(quote::word(text)));
        }
        Some(Password::File(path)) => out.value("password_file", path.display()),
        None => {}
    }
    let tls = match tls {
        TlsMode::Off => "off",
        TlsMode::Prefer => "prefer",
        TlsMode::Require => "require",
    };
    out.value("tls", tls);
    out.maybe("tls_ca", tls_ca.as_ref().map(|ca| ca.path.display()));
    out.maybe("query", query.as_ref());
    out.maybe("expect", expect.as_ref());
    out.time("ping_interval", *ping_interval);
    out.time("ping_timeout", *ping_timeout);
    out.time("login_interval", *login_interval);
    out.time("role_interval", *role_interval);
    out.value("suspect", suspect);
    out.value("fall", fall);
    out.value("rise", rise);
    out.value("on_auth_error", condition(*on_auth_error));
    out.value("on_full", condition(*on_full));
}

fn condition(condition: OnCondition) -> &'static str {
    match condition {
        OnCondition::Hold => "hold",
        OnCondition::Down => "down",
        OnCondition::Up => "up",
    }
}
