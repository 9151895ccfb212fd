//! `keepalived.json`, versions 1 and 2.

use serde::Serialize;

use super::{Known, errors, number, vips};
use crate::{
    base::status::InstanceStatus,
    config::model::{Authentication, Command, VrrpInstance, VrrpVersion},
    vrrp::track::Kind,
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
    garp_delay: u64,
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
    script_master: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_backup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_stop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script: Option<String>,
    vips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    track_ifp: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    track_script: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    track_process: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_type: Option<u8>,
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
    pri_zero_rcvd: u64,
    pri_zero_sent: u64,
}

#[derive(Serialize)]
struct Process {
    name: String,
    process: String,
    quorum: u32,
    quorum_max: Option<u32>,
    weight: i32,
    full_command: bool,
    have_quorum: bool,
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
        known.pairs().map(|(model, status)| instance(model, status)).collect();
    let text = if known.config.global.dumps.json_version == 2 {
        let track_process = known
            .config
            .track_processes
            .values()
            .map(|it| Process {
                name: it.name.clone(),
                process: it.command.join(" "),
                quorum: it.quorum,
                quorum_max: it.quorum_max,
                weight: it.weight,
                full_command: it.full_command,
                have_quorum: known.verdict(&Kind::Process.key(&it.name))
                    == Some(crate::vrrp::track::Verdict::Good),
            })
            .collect();
        serde_json::to_string(&Version2 { vrrp, track_process })
    } else {
        serde_json::to_string(&vrrp)
    };
    // Strings and numbers only: there is nothing that could not be encoded.
    text.unwrap_or_default()
}

fn instance(model: &VrrpInstance, status: &InstanceStatus) -> Instance {
    let secs = |span: std::time::Duration| span.as_secs();
    let interval = model.advert_int.as_secs_f64();
    let (auth_type, auth_data) = match model.authentication {
        Authentication::None => (None, None),
        Authentication::Pass(_) => (Some(1), Some("********")),
        Authentication::Ah(_) => (Some(2), Some("********")),
    };
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit for ages")]
    let last_transition = status.last_transition_ms as f64 / 1000.0;
    let notify = &model.notify;
    let state = number(status.state);
    let weighted = |name: &str, weight: Option<i32>| match weight {
        Some(weight) => format!("{name} weight {weight}"),
        None => name.to_owned(),
    };
    let counters = &status.counters;
    let errors = errors(counters);
    Instance {
        data: Data {
            iname: model.name.clone(),
            dont_track_primary: u8::from(model.dont_track_primary),
            skip_check_adv_addr: 0,
            strict_mode: 0,
            vmac_ifname: String::new(),
            ifp_ifname: model.interface.clone(),
            master_priority: status.master_priority.unwrap_or(0),
            last_transition,
            garp_delay: secs(model.garp.delay),
            garp_refresh: secs(model.garp.refresh),
            garp_rep: model.garp.repeat,
            garp_refresh_rep: model.garp.refresh_repeat,
            garp_lower_prio_delay: secs(model.garp.lower_delay),
            garp_lower_prio_rep: model.garp.lower_repeat,
            lower_prio_no_advert: 0,
            higher_prio_send_advert: 0,
            vrid: model.vrid.get(),
            base_priority: model.priority.0,
            effective_priority: status.effective_priority,
            vipset: status.vips_set,
            promote_secondaries: false,
            adver_int: interval,
            master_adver_int: interval,
            accept: 1,
            nopreempt: model.nopreempt,
            preempt_delay: secs(model.preempt_delay),
            state,
            wantstate: state,
            version: if model.version == VrrpVersion::V3 { 3 } else { 2 },
            smtp_alert: notify.mail,
            notify_deleted: notify.tells_deleted,
            script_master: notify.master.as_ref().map(shown),
            script_backup: notify.backup.as_ref().map(shown),
            script_fault: notify.fault.as_ref().map(shown),
            script_stop: notify.stop.as_ref().map(shown),
            script: notify.any.as_ref().map(shown),
            vips: vips(model, status),
            track_ifp: model.track_interfaces.iter().map(|it| it.name.clone()).collect(),
            track_script: model
                .track_scripts
                .iter()
                .map(|it| weighted(&it.name, it.weight))
                .collect(),
            track_process: model
                .track_more
                .processes
                .iter()
                .map(|it| weighted(&it.name, it.weight))
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
            pri_zero_rcvd: counters.pri_zero_rcvd,
            pri_zero_sent: counters.pri_zero_sent,
        },
    }
}
