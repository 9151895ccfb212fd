//! `keepalived.data` and `keepalived.stats`.

use std::fmt::Write as _;

use super::{Known, errors, json::shown, words};
use crate::{
    base::status::InstanceStatus,
    config::model::{Authentication, VrrpInstance, VrrpVersion},
    vrrp::track::{Kind, Verdict},
};

/// `keepalived.data`: what parsers of it look for, in keepalived's words and indentation.
pub fn data(known: &Known<'_>) -> String {
    let mut out = String::from("------< Global definitions >------\n");
    let global = &known.config.global;
    if let Some(router) = &global.router_id {
        let _ = writeln!(out, " Router ID = {router}");
    }
    if let Some(server) = &global.smtp_server {
        let _ = writeln!(out, " SMTP server = {}:{}", server.host, server.port);
    }
    out.push_str("------< VRRP Topology >------\n");
    for (model, status) in known.pairs() {
        instance(&mut out, model, status);
    }
    if !known.config.vrrp_scripts.is_empty() {
        out.push_str("------< VRRP Scripts >------\n");
    }
    for script in known.config.vrrp_scripts.values() {
        let status = match known.verdict(&script.name) {
            Some(Verdict::Good) => "GOOD",
            Some(Verdict::Bad) => "BAD",
            Some(Verdict::Ignored) => "DISABLED",
            _ => "INIT",
        };
        let _ = write!(
            out,
            " VRRP Script = {}\n   Command = {}\n   Interval = {} sec\n   Timeout = {} sec\n   \
             Weight = {}\n   Rise = {}\n   Fall = {}\n   Insecure = no\n   Status = {status}\n   \
             State = idle\n",
            script.name,
            shown(&script.command),
            script.interval.as_secs_f64(),
            script.timeout.as_secs_f64(),
            script.weight,
            script.rise,
            script.fall,
        );
    }
    if !known.config.track_files.is_empty() {
        out.push_str("------< VRRP Track files >------\n");
    }
    for file in known.config.track_files.values() {
        let value = match known.verdict(&Kind::File.key(&file.name)) {
            Some(Verdict::Value(value)) => value,
            _ => 0,
        };
        let _ = write!(
            out,
            " Track file = {}\n   File = {}\n   Status = {value}\n   Weight = {}\n",
            file.name,
            file.path.display(),
            file.weight
        );
    }
    if !known.config.track_processes.is_empty() {
        out.push_str("------< VRRP Track processes >------\n");
    }
    for process in known.config.track_processes.values() {
        let good = known.verdict(&Kind::Process.key(&process.name)) == Some(Verdict::Good);
        let _ = write!(
            out,
            " VRRP Track process = {}\n   Process = {}\n   Min processes = {}\n   Have quorum = \
             {good}\n   Weight = {}\n   Terminate delay = {:.6}s\n   Fork delay = {:.6}s\n   \
             Full command = {}\n",
            process.name,
            process.command.join(" "),
            process.quorum,
            process.weight,
            process.terminate_delay.as_secs_f64(),
            process.fork_delay.as_secs_f64(),
            process.full_command,
        );
    }
    out
}

fn on(yes: bool) -> &'static str {
    if yes { "enabled" } else { "disabled" }
}

fn instance(out: &mut String, model: &VrrpInstance, status: &InstanceStatus) {
    let ms = status.last_transition_ms;
    let garp = &model.garp;
    let state = status.state.name();
    let version = if model.version == VrrpVersion::V3 { 3 } else { 2 };
    let _ = write!(
        out,
        " VRRP Instance = {}\n   VRRP Version = {version}\n   State = {state}\n   Wantstate = \
         {state}\n   Last transition = {}.{:06}\n   Interface = {}\n",
        model.name,
        ms / 1000,
        ms % 1000 * 1000,
        model.interface,
    );
    if let Some(source) = model.source {
        let _ = writeln!(out, "   Using src_ip = {source}");
    }
    let _ = write!(
        out,
        "   Gratuitous ARP delay = {}\n   Gratuitous ARP repeat = {}\n   Gratuitous ARP refresh = \
         {}\n   Gratuitous ARP refresh repeat = {}\n   Gratuitous ARP lower priority delay = {}\n   \
         Gratuitous ARP lower priority repeat = {}\n   Virtual Router ID = {}\n   Priority = {}\n   \
         Effective priority = {}\n   Total priority = {}\n   Advert interval = {}\n   Preempt = {}\n",
        garp.delay.as_secs(),
        garp.repeat,
        garp.refresh.as_secs(),
        garp.refresh_repeat,
        garp.lower_delay.as_secs(),
        garp.lower_repeat,
        model.vrid.get(),
        model.priority,
        status.effective_priority,
        status.effective_priority,
        match version {
            2 => format!("{} sec", model.advert_int.as_secs()),
            _ => format!("{} milli-sec", model.advert_int.as_millis()),
        },
        on(!model.nopreempt),
    );
    if !model.preempt_delay.is_zero() {
        let _ = writeln!(out, "   Preempt delay = {} secs", model.preempt_delay.as_secs_f64());
    }
    let auth = match model.authentication {
        Authentication::None => "none",
        Authentication::Pass(_) => "SIMPLE_PASSWORD",
        Authentication::Ah(_) => "IPSEC_AH",
    };
    let _ = writeln!(out, "   Authentication type = {auth}");
    let vips = words::vips(model, &model.virtual_ipaddress, status.vips_set);
    let _ = writeln!(out, "   Virtual IP ({}):", vips.len());
    for vip in vips {
        let _ = writeln!(out, "     {vip}");
    }
    let mail = if model.notify.mail { "yes" } else { "no" };
    let _ = writeln!(out, "   Using smtp notification = {mail}");
    let deleted = if model.notify.tells_deleted { "Deleted" } else { "Fault" };
    let _ = writeln!(out, "   Notify deleted = {deleted}");
}

/// `keepalived.stats`.
pub fn stats(known: &Known<'_>) -> String {
    let mut out = String::new();
    for (model, status) in known.pairs() {
        let counters = &status.counters;
        let errors = errors(counters);
        let _ = write!(
            out,
            "VRRP Instance: {}\n  Advertisements:\n    Received: {}\n    Sent: {}\n  Became \
             master: {}\n  Released master: {}\n  Packet Errors:\n    Length: {}\n    TTL: {}\n    \
             Invalid Type: {}\n    Advertisement Interval: {}\n    Address List: {}\n  \
             Authentication Errors:\n    Invalid Type: {}\n    Type Mismatch: {}\n    Failure: {}\n  \
             Priority Zero:\n    Received: {}\n    Sent: {}\n",
            model.name,
            counters.advert_rcvd,
            counters.advert_sent,
            counters.become_master,
            counters.release_master,
            errors.length,
            errors.ttl,
            errors.kind,
            errors.interval,
            errors.addresses,
            errors.auth_type,
            errors.auth_mismatch,
            errors.auth_failure,
            counters.pri_zero_rcvd,
            counters.pri_zero_sent,
        );
    }
    out
}
