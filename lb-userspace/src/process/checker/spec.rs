//! From the configuration's words to the cores' and probes' own.

use std::net::IpAddr;

use crate::{
    check::{
        hysteresis::Thresholds,
        mysql as core,
        mysql::verdict::{Expectation as Wanted, WantedRole},
        page::{self, Expectation},
        quorum, schedule,
        services::{CheckerSpec, ProbeId, ServerSpec, ServiceSpec},
    },
    config::model::{
        Checker, CheckerCommon, HttpCheck, HttpProtocol, MysqlCheck, MysqlLevel, MysqlRole,
        OnCondition, Sni, TlsCaContent, TlsMode, VirtualServer,
    },
    io::probes::{
        http,
        mysql::{self, trust::Authority},
        tcp,
    },
};

/// Identity of a probe: equal configurations share one.
pub(super) type ProbeKey = Vec<u8>;

/// The identity of a checker's probe.
pub(super) fn probe_key(checker: &Checker) -> ProbeKey {
    // Everything in a checker can be encoded; should that ever change, probes are not shared
    // less safely than by their text.
    postcard::to_allocvec(checker).unwrap_or_else(|_| format!("{checker:?}").into_bytes())
}

/// keepalived's keyword.
pub(super) fn keyword(checker: &Checker) -> &'static str {
    match checker {
        Checker::Tcp(_) => "TCP_CHECK",
        Checker::Misc(..) => "MISC_CHECK",
        Checker::Mysql(..) => "MYSQL_CHECK",
        Checker::Http(_, check) if check.tls => "SSL_GET",
        Checker::Http(..) => "HTTP_GET",
    }
}

/// What a person recognises the probe by: its address, or its script.
pub(super) fn target(checker: &Checker) -> String {
    match checker {
        Checker::Misc(_, misc) => misc.command.argv.first().cloned().unwrap_or_default(),
        _ => checker.common().target.to_string(),
    }
}

/// A virtual server for [`crate::check::services`]; `id` names the probe of a checker.
pub(super) fn service(
    service: &VirtualServer,
    mut id: impl FnMut(&Checker) -> ProbeId,
) -> ServiceSpec {
    let servers = service
        .real_servers
        .iter()
        .map(|server| ServerSpec {
            addr: server.addr,
            weight: server.weight,
            checkers: server
                .checkers
                .iter()
                .map(|checker| CheckerSpec {
                    probe: id(checker),
                    label: format!("{} {}", keyword(checker), target(checker)),
                    alpha: service.alpha || checker.common().alpha,
                })
                .collect(),
        })
        .collect();
    ServiceSpec {
        key: service.key,
        quorum: quorum::Spec { quorum: service.quorum, hysteresis: service.hysteresis },
        alpha: service.alpha,
        servers,
    }
}

pub(super) fn schedule(common: &CheckerCommon, anchor: schedule::Anchor) -> schedule::Spec {
    schedule::Spec {
        retry: common.retry,
        delay_before_retry: common.delay_before_retry,
        delay_loop: common.delay_loop,
        warmup: common.warmup,
        anchor,
    }
}

pub(super) fn tcp_target(common: &CheckerCommon) -> tcp::Target {
    tcp::Target { addr: common.target, bindto: common.bindto, timeout: common.connect_timeout }
}

/// The pages of a check and what each must be like, in order.
pub(super) fn pages(
    common: &CheckerCommon,
    check: &HttpCheck,
) -> Result<Vec<(http::Page, Expectation)>, String> {
    let (http11, connection) = match check.protocol {
        HttpProtocol::Http10 => (false, None),
        HttpProtocol::Http10Close => (false, Some("close")),
        HttpProtocol::Http10KeepAlive => (false, Some("keep-alive")),
        HttpProtocol::Http11 => (true, Some("close")),
        HttpProtocol::Http11KeepAlive => (true, Some("keep-alive")),
    };
    // As keepalived: without the port that everybody expects.
    let host = match (common.target.port(), check.tls) {
        (80, false) | (443, true) => match common.target.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        },
        _ => common.target.to_string(),
    };
    let pages = check.urls.iter().map(|url| {
        let expectation = Expectation::new(&url.expected)?;
        let sni = match &check.sni {
            Sni::Off => None,
            // A name, where the header has a port with it.
            Sni::Host => url.virtualhost.as_deref().map(host_name).map(str::to_owned),
            Sni::Name(name) => Some(name.clone()),
        };
        let page = http::Page {
            addr: common.target,
            bindto: common.bindto,
            timeout: common.connect_timeout,
            tls: check.tls.then_some(sni),
            http11,
            connection,
            host: url.virtualhost.clone().unwrap_or_else(|| host.clone()),
            path: url.path.clone(),
            limit: if expectation.wants_page() { page::PAGE_LIMIT } else { 0 },
        };
        Ok((page, expectation))
    });
    pages.collect()
}

/// `db.example:9201` is `db.example`; an IPv6 address in brackets is no name.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn policy(condition: OnCondition) -> core::Policy {
    match condition {
        OnCondition::Hold => core::Policy::Hold,
        OnCondition::Down => core::Policy::Down,
        OnCondition::Up => core::Policy::Up,
    }
}

/// Whether the check has somebody to log in as; without, it stays at the greeting.
pub(super) fn has_user(check: &MysqlCheck) -> bool {
    check.level != MysqlLevel::Greeting && check.user.is_some()
}

pub(super) fn mysql_core(check: &MysqlCheck) -> core::Spec {
    let logs_in = has_user(check);
    let expectation = match check.level {
        _ if !logs_in => Wanted::Nothing,
        MysqlLevel::Query => Wanted::Value(check.expect.clone()),
        MysqlLevel::Role => Wanted::Role(match check.role {
            MysqlRole::Writer => WantedRole::Writer,
            MysqlRole::ReadOnly => WantedRole::ReadOnly,
            MysqlRole::Any => WantedRole::Any,
        }),
        MysqlLevel::Greeting | MysqlLevel::Login | MysqlLevel::Ping => Wanted::Nothing,
    };
    let asks = expectation != Wanted::Nothing;
    core::Spec {
        keep_session: logs_in && check.level >= MysqlLevel::Ping,
        ping_interval: check.ping_interval,
        ping_timeout: check.ping_timeout,
        login_interval: check.login_interval,
        ask_interval: asks.then_some(check.role_interval),
        thresholds: Thresholds { suspect: check.suspect, fall: check.fall, rise: check.rise },
        on_auth_error: policy(check.on_auth_error),
        on_full: policy(check.on_full),
        expectation,
    }
}

pub(super) fn mysql_target(common: &CheckerCommon, check: &MysqlCheck) -> mysql::Target {
    let question = match (check.level, &check.query) {
        _ if !has_user(check) => mysql::Question::Nothing,
        (MysqlLevel::Query, Some(query)) => mysql::Question::Query(query.clone()),
        (MysqlLevel::Query, None) => mysql::Question::Query("SELECT 1".to_owned()),
        (MysqlLevel::Role, _) => mysql::Question::ReadOnly,
        _ => mysql::Question::Nothing,
    };
    mysql::Target {
        addr: common.target,
        bindto: common.bindto,
        timeout: common.connect_timeout,
        tls: match check.tls {
            TlsMode::Off => mysql::Tls::Off,
            TlsMode::Prefer => mysql::Tls::Prefer,
            TlsMode::Require => mysql::Tls::Require,
        },
        tls_ca: check.tls_ca.as_ref().map(|ca| Authority {
            name: ca.path.display().to_string(),
            content: match &ca.content {
                TlsCaContent::Pem(text) => Ok(text.clone()),
                TlsCaContent::Unusable(reason) => Err(reason.clone()),
                TlsCaContent::Unread => Err("not read".to_owned()),
            },
        }),
        question,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_has_no_port() {
        for (host, name) in [
            ("db.example:9201", "db.example"),
            ("db.example", "db.example"),
            ("db.example:", "db.example"),
            ("[2001:db8::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(host_name(host), name);
        }
    }
}
