//! From the configuration's words to the cores' and probes' own.

use crate::{
    check::{
        hysteresis::Thresholds,
        mysql as core,
        mysql::verdict::{Expectation, WantedRole},
        quorum, schedule,
        services::{CheckerSpec, ProbeId, ServerSpec, ServiceSpec},
    },
    config::model::{
        Checker, CheckerCommon, MysqlCheck, MysqlLevel, MysqlRole, OnCondition, TlsCaContent,
        TlsMode, VirtualServer,
    },
    io::probes::{
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

pub(super) fn common(checker: &Checker) -> &CheckerCommon {
    match checker {
        Checker::Tcp(common) | Checker::Misc(common, _) | Checker::Mysql(common, _) => common,
    }
}

/// keepalived's keyword.
pub(super) fn keyword(checker: &Checker) -> &'static str {
    match checker {
        Checker::Tcp(_) => "TCP_CHECK",
        Checker::Misc(..) => "MISC_CHECK",
        Checker::Mysql(..) => "MYSQL_CHECK",
    }
}

/// What a person recognises the probe by: its address, or its script.
pub(super) fn target(checker: &Checker) -> String {
    match checker {
        Checker::Misc(_, misc) => misc.command.argv.first().cloned().unwrap_or_default(),
        _ => common(checker).target.to_string(),
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
                    alpha: service.alpha || common(checker).alpha,
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
        _ if !logs_in => Expectation::Nothing,
        MysqlLevel::Query => Expectation::Value(check.expect.clone()),
        MysqlLevel::Role => Expectation::Role(match check.role {
            MysqlRole::Writer => WantedRole::Writer,
            MysqlRole::ReadOnly => WantedRole::ReadOnly,
            MysqlRole::Any => WantedRole::Any,
        }),
        MysqlLevel::Greeting | MysqlLevel::Login | MysqlLevel::Ping => Expectation::Nothing,
    };
    let asks = expectation != Expectation::Nothing;
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
