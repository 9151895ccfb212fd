//! `keepalived.json`, versions 1 and 2.

use serde::Serialize;

use super::{Known, errors, number, words};
use crate::{
    base::status::InstanceStatus,
    config::model::{Authentication, Command, Config, ParamMatch, VrrpInstance, VrrpVersion},
    vrrp::{
        track::{Kind, Verdict},
        wire::Reason,
    },
};

#[derive(Serialize)]
struct Instance {
    data: Data,
    stats: Stats,
}

/// Keys in keepalived's order.
#[derive(Serialize)]
struct Data {
    iname: String,
    dont_track_primary: u8,
    skip_check_adv_addr: u8,
    strict_mode: u8,
    vmac_ifname: String,
    ifp_ifname: String,
    master_priority: u8,
    last_transition: f64,
    garp_delay: f64,
    garp_refresh: u64,
    garp_rep: u32,
    garp_refresh_rep: u32,
    garp_lower_prio_delay: u64,
    garp_lower_prio_rep: u32,
    lower_prio_no_advert: u8,
    higher_prio_send_advert: u8,
    vrid: u8,
    base_priority: u8,
    effective_priority: u8,
    vipset: bool,
    promote_secondaries: bool,
    adver_int: f64,
    master_adver_int: f64,
    accept: u8,
    nopreempt: bool,
    preempt_delay: u64,
    state: u8,
    wantstate: u8,
    version: u8,
    smtp_alert: bool,
    notify_deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_backup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_master: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_stop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_deleted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_master_rx_lower_pri: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vroutes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vrules: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    track_ifp: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    track_script: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    track_process: Vec<String>,
    auth_type: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_data: Option<&'static str>,
}

#[derive(Serialize)]
struct Stats {
    advert_rcvd: u64,
    advert_sent: u64,
    become_master: u64,
    release_master: u64,
    packet_len_err: u64,
    advert_interval_err: u64,
    ip_ttl_err: u64,
    invalid_type_rcvd: u64,
    addr_list_err: u64,
    invalid_authtype: u64,
    authtype_mismatch: u64,
    auth_failure: u64,
    #[serde(flatten)]
    auth_ext: Option<AuthExt>,
    pri_zero_rcvd: u64,
    pri_zero_sent: u64,
}

/// Of an instance with `auth_hmac`, which keepalived has since 2.4.
#[derive(Serialize)]
struct AuthExt {
    auth_ext_missing: u64,
    auth_ext_malformed: u64,
    auth_ext_unknown_key: u64,
    auth_ext_invalid_hmac: u64,
    auth_ext_stale: u64,
    auth_ext_replay: u64,
}

/// A tracked process, keys in keepalived 2.4's order.
#[derive(Serialize)]
struct Process {
    process: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<String>,
    param_match: &'static str,
    min_processes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_processes: Option<u32>,
    current_processes: u32,
    have_quorum: bool,
    weight: i32,
    terminate_delay: f64,
    fork_delay: f64,
    fork_delay_timer_running: bool,
    terminate_delay_timer_running: bool,
    full_command: bool,
}

#[derive(Serialize)]
struct Version2 {
    vrrp: Vec<Instance>,
    track_process: Vec<Process>,
}

/// keepalived's form of a command: every word in single quotes.
pub(super) fn shown(command: &Command) -> String {
    let words: Vec<String> = command.argv.iter().map(|word| format!("'{word}'")).collect();
    words.join(" ")
}

/// The file's text.
pub fn render(known: &Known<'_>) -> String {
    let vrrp: Vec<Instance> =
        known.pairs().map(|(model, status)| instance(known.config, model, status)).collect();
    let text = if known.config.global.dumps.json_version == 2 {
        let track_process = known
            .config
            .track_processes
            .values()
            .map(|it| {
                let mut words = it.command.iter();
                let process = words.next().cloned().unwrap_or_default();
                let parameters: Vec<&str> = words.map(String::as_str).collect();
                let verdict = known.verdict(&Kind::Process.key(&it.name));
                let seen = known.processes.iter().find(|seen| seen.name == it.name);
                Process {
                    process,
                    parameters: (!parameters.is_empty()).then(|| parameters.join(" ")),
                    param_match: match it.param_match {
                        None if parameters.is_empty() => "none",
                        None => "exact",
                        Some(ParamMatch::Partial) => "partial",
                        Some(ParamMatch::Initial) => "initial",
                    },
                    min_processes: it.quorum,
                    max_processes: it.quorum_max,
                    current_processes: seen.map_or(0, |it| it.count),
                    have_quorum: verdict == Some(Verdict::Good),
                    weight: if it.reverse { -it.weight } else { it.weight },
                    terminate_delay: it.terminate_delay.as_secs_f64(),
                    fork_delay: it.fork_delay.as_secs_f64(),
                    fork_delay_timer_running: seen.is_some_and(|it| it.fork_delay_runs),
                    terminate_delay_timer_running: seen.is_some_and(|it| it.terminate_delay_runs),
                    full_command: it.full_command,
                }
            })
            .collect();
        serde_json::to_string(&Version2 { vrrp, track_process })
    } else {
        serde_json::to_string(&vrrp)
    };
    // Strings and numbers only: there is nothing that could not be encoded.
    text.unwrap_or_default()
}

fn instance(config: &Config, model: &VrrpInstance, status: &InstanceStatus) -> Instance {
    let secs = |span: std::time::Duration| span.as_secs();
    let interval = model.advert_int.as_secs_f64();
    let (auth_type, auth_data) = match model.authentication {
        Authentication::None => (0, None),
        Authentication::Pass(_) => (1, Some("********")),
        Authentication::Ah(_) => (2, Some("********")),
    };
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit for ages")]
    let last_transition = status.last_transition_ms as f64 / 1000.0;
    let notify = &model.notify;
    let state = number(status.state);
    let vips = |vips| words::vips(model, vips, status.vips_set);
    let host = &model.on_host;
    let virtual_link = host.virtual_link.as_ref().map(|link| link.name.clone());
    let counters = &status.counters;
    let errors = errors(counters);
    Instance {
        data: Data {
            iname: model.name.clone(),
            dont_track_primary: u8::from(model.dont_track_primary),
            // Every list is compared; the word has no effect (docs/config.md).
            skip_check_adv_addr: 0,
            strict_mode: u8::from(model.election.strict),
            ifp_ifname: virtual_link.clone().unwrap_or_else(|| model.interface.clone()),
            vmac_ifname: virtual_link.unwrap_or_default(),
            master_priority: status.master_priority.unwrap_or(0),
            last_transition,
            garp_delay: model.garp.delay.as_secs_f64(),
            garp_refresh: secs(model.garp.refresh),
            garp_rep: model.garp.repeat,
            garp_refresh_rep: model.garp.refresh_repeat,
            garp_lower_prio_delay: secs(model.garp.lower_delay),
            garp_lower_prio_rep: model.garp.lower_repeat,
            lower_prio_no_advert: u8::from(model.election.lower_prio_no_advert),
            higher_prio_send_advert: u8::from(model.election.higher_prio_send_advert),
            vrid: model.vrid.get(),
            base_priority: model.priority.0,
            effective_priority: status.effective_priority,
            vipset: status.vips_set,
            promote_secondaries: host.promote_secondaries,
            adver_int: interval,
            master_adver_int: std::time::Duration::from_millis(status.master_interval_ms)
                .as_secs_f64(),
            accept: u8::from(host.no_accept.is_none()),
            nopreempt: model.nopreempt,
            preempt_delay: secs(model.preempt_delay),
            state,
            wantstate: state,
            version: if model.version == VrrpVersion::V3 { 3 } else { 2 },
            smtp_alert: notify.mail,
            notify_deleted: notify.tells_deleted,
            script_backup: notify.backup.as_ref().map(shown),
            script_master: notify.master.as_ref().map(shown),
            script_fault: notify.fault.as_ref().map(shown),
            script_stop: notify.stop.as_ref().map(shown),
            script_deleted: notify.deleted.as_ref().map(shown),
            script: notify.any.as_ref().map(shown),
            script_master_rx_lower_pri: notify.master_rx_lower_pri.as_ref().map(shown),
            vips: vips(&model.virtual_ipaddress),
            evips: vips(&host.excluded),
            vroutes: host.routes.iter().map(words::route).collect(),
            vrules: host.rules.iter().map(words::rule).collect(),
            track_ifp: model.track_interfaces.iter().map(|it| it.name.clone()).collect(),
            track_script: model
                .track_scripts
                .iter()
                .filter_map(|it| config.vrrp_scripts.get(&it.name))
                .map(|script| shown(&script.command))
                .collect(),
            track_process: model
                .track_more
                .processes
                .iter()
                .filter_map(|it| config.track_processes.get(&it.name)?.command.first().cloned())
                .collect(),
            auth_type,
            auth_data,
        },
        stats: Stats {
            advert_rcvd: counters.advert_rcvd,
            advert_sent: counters.advert_sent,
            become_master: counters.become_master,
            release_master: counters.release_master,
            packet_len_err: errors.length,
            advert_interval_err: errors.interval,
            ip_ttl_err: errors.ttl,
            invalid_type_rcvd: errors.kind,
            addr_list_err: errors.addresses,
            invalid_authtype: errors.auth_type,
            authtype_mismatch: errors.auth_mismatch,
            auth_failure: errors.auth_failure,
            auth_ext: model.wire.hmac.is_some().then(|| auth_ext(status)),
            pri_zero_rcvd: counters.pri_zero_rcvd,
            pri_zero_sent: counters.pri_zero_sent,
        },
    }
}

fn auth_ext(status: &InstanceStatus) -> AuthExt {
    let of =
        |reason: Reason| status.counters.discarded.get(reason.name()).copied().unwrap_or_default();
    AuthExt {
        auth_ext_missing: of(Reason::HmacMissing),
        auth_ext_malformed: of(Reason::HmacMalformed),
        auth_ext_unknown_key: of(Reason::HmacKey),
        auth_ext_invalid_hmac: of(Reason::HmacInvalid),
        auth_ext_stale: of(Reason::HmacStale),
        auth_ext_replay: of(Reason::HmacReplay),
    }
}
