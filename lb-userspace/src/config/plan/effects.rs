//! What a change interrupts, in sentences. Each says what the roles do: plan/tests has a change for each, and
//! fails for one that it does not have; that the roles do so is held by tests/tests/proc_reload_touches.rs and the
//! roles' own tests, for what they reach.

use std::net::IpAddr;

use super::super::model::{
    OnDown, RealServer, VirtualServer, VrrpInstance, VrrpScript, VrrpVersion,
};
use crate::base::{
    net::Priority,
    plan::{Action, Change},
    status::VrrpState,
};

fn one(text: impl Into<String>) -> Vec<String> {
    vec![text.into()]
}

/// Whether a change is of this word, or within its block.
fn is(change: &Change, word: &str) -> bool {
    change.word.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn any(changes: &[Change], words: &[&str]) -> bool {
    changes.iter().any(|change| words.iter().any(|word| is(change, word)))
}

/// Words of `global_defs` that only a start looks at.
const START_ONLY: [&str; 11] = [
    "process_name",
    "startup_script",
    "startup_script_timeout",
    "vrrp_startup_delay",
    "vrrp_delay_after_boot",
    "vrrp_priority",
    "vrrp_no_swap",
    "vrrp_rt_priority",
    "vrrp_cpu_affinity",
    "vrrp_rlimit_rttime",
    "lvs_flow_table",
];

pub(super) fn global(changes: &[Change]) -> Vec<String> {
    let mut out = Vec::new();
    let late: Vec<_> = changes
        .iter()
        .filter(|change| START_ONLY.iter().any(|word| is(change, word)))
        .map(|change| change.word.as_str())
        .collect();
    if !late.is_empty() {
        out.push(format!("takes effect at the next start only: {}", late.join(", ")));
    }
    if any(changes, &["lvs_hook", "lvs_xdp_mode"]) {
        out.push("programs may be attached anew; connections stay in their table".into());
    }
    if any(changes, &["flow_sync"]) {
        out.push("flow sync begins anew with its peers; connections stay in their tables".into());
    }
    if any(changes, &["metrics_listen"]) {
        out.push("/metrics and the page listen elsewhere".into());
    }
    if any(changes, &["notify_fifo", "vrrp_notify_fifo", "lvs_notify_fifo"]) {
        out.push("readers of a FIFO with another path or owner see its end".into());
    }
    out
}

pub(super) fn statics(_changes: &[Change]) -> Vec<String> {
    one("addresses, routes and rules that changed are taken off and put on; the others stay")
}

/// `new`: what it is now.
pub(super) fn script(action: Action, changes: &[Change], new: Option<&VrrpScript>) -> Vec<String> {
    if action == Action::Change && any(changes, &["script", "user"]) {
        // It is another script, which begins as it would at a start.
        return one(match new.is_some_and(|script| script.init_fail) {
            true => {
                "it counts as bad until it has been good `rise` times (init_fail): who tracks it with \
                 weight 0 goes to FAULT, a master too; another weight changes priorities at once"
            }
            false => "it counts as good until its first result, as in keepalived",
        });
    }
    // For the start only.
    let changes: Vec<_> = changes.iter().filter(|it| !is(it, "init_fail")).cloned().collect();
    tracker(action, &changes)
}

pub(super) fn tracker(action: Action, changes: &[Change]) -> Vec<String> {
    match action {
        // Who tracks it is a change of the instance.
        Action::Add | Action::Remove => vec![],
        Action::Change if any(changes, &["weight"]) => {
            one("priorities that it changes follow at once, and may move a VIP")
        }
        Action::Change if changes.iter().all(|it| is(it, "rise") || is(it, "fall")) => vec![],
        Action::Change if any(changes, &["interval", "timeout"]) => vec![],
        Action::Change => one("it is looked at anew"),
    }
}

pub(super) fn group(action: Action, changes: &[Change]) -> Vec<String> {
    match action {
        Action::Add => {
            one("its members move together from now on: one that cannot be master keeps the others")
        }
        Action::Remove => one("its instances hold their own elections again"),
        // Who is told of changes moves nothing.
        Action::Change => {
            let mut out = Vec::new();
            if any(changes, &["group"]) {
                out.push(
                    "instances that come move with the others from now on; those that leave hold their \
                     own elections"
                        .into(),
                );
            }
            if any(changes, &TRACKED) {
                out.push("what it tracks now decides at once, and may move the whole group".into());
            }
            if any(changes, &["sync_group_tracking_weight"]) {
                out.push("weights of its trackers count from now on, or no longer".into());
            }
            out
        }
    }
}

fn list(addresses: impl Iterator<Item = IpAddr>) -> String {
    let all: Vec<String> = addresses.map(|address| address.to_string()).collect();
    match all.len() {
        0 => "no VIP".into(),
        1 => format!("VIP {}", all.join("")),
        _ => format!("VIPs {}", all.join(", ")),
    }
}

fn leave(vips: usize) -> &'static str {
    if vips > 1 { "leave" } else { "leaves" }
}

fn vips(instance: &VrrpInstance) -> impl Iterator<Item = IpAddr> + '_ {
    let all = instance.virtual_ipaddress.iter().chain(&instance.on_host.excluded);
    all.map(|vip| vip.prefix.addr)
}

/// keepalived's master-down time of an instance: three adverts and the skew.
fn takeover(instance: &VrrpInstance) -> f64 {
    let advert = instance.advert_int.as_secs_f64();
    let skew = f64::from(256 - u16::from(instance.priority.0)) / 256.0;
    advert * (f64::from(instance.election.down_timer_adverts) + skew)
}

pub(super) fn instance_added(instance: &VrrpInstance) -> Vec<String> {
    one(format!(
        "{} here after {:.2} s, if no better router is heard",
        list(vips(instance)),
        takeover(instance)
    ))
}

pub(super) fn instance_removed(instance: &VrrpInstance, state: Option<VrrpState>) -> Vec<String> {
    match state {
        Some(VrrpState::Master) | None => one(format!(
            "{} {} this host after a farewell (priority 0): a backup takes over, connections \
             through this host are reset",
            list(vips(instance)),
            leave(vips(instance).count()),
        )),
        Some(_) => vec![],
    }
}

/// Words that decide which adverts are taken, or where they are heard: hosts that do not have the change yet
/// discard them, or do not hear them.
const SHARED: [&str; 6] =
    ["version", "authentication", "auth_hmac", "v3_checksum_as_v2", "mcast_dst_ip", "unicast_peer"];
/// Words that decide which adverts this host alone takes.
const OWN: [&str; 2] = ["check_unicast_src", "check_adv_addr"];
/// Words about where adverts come from and how they go.
const WAYS: [&str; 4] = ["unicast_src_ip", "mcast_src_ip", "unicast_ttl", "native_ipv6"];
/// Words about interfaces that VIPs are on.
const LINKS: [&str; 5] = ["use_vmac", "use_ipvlan", "use_vmac_addr", "vrf", "vmac_xmit_base"];
const TRACKED: [&str; 6] = [
    "track_script",
    "track_interface",
    "track_process",
    "track_file",
    "track_mysql",
    "track_src_ip",
];

pub(super) fn instance_changed(
    old: &VrrpInstance,
    new: &VrrpInstance,
    changes: &[Change],
    state: Option<VrrpState>,
) -> Vec<String> {
    let mut out = Vec::new();
    let master = matches!(state, Some(VrrpState::Master) | None);
    let raised = any(changes, &["priority"]).then(|| priority(old, new, state)).flatten();
    out.extend(raised.or_else(|| preempts(old, new, state)));
    let gone: Vec<_> = vips(old).filter(|vip| !vips(new).any(|other| other == *vip)).collect();
    let come: Vec<_> = vips(new).filter(|vip| !vips(old).any(|other| other == *vip)).collect();
    if master && !gone.is_empty() {
        let which = list(gone.iter().copied());
        let leave = leave(gone.len());
        out.push(format!("{which} {leave} this host, connections to it are reset"));
    }
    if master && !come.is_empty() {
        out.push(format!("put on and announced: {}", list(come.iter().copied())));
    }
    if any(changes, &["virtual_ipaddress"]) && !(gone.is_empty() && come.is_empty()) {
        out.push("peers log another VIP list until they have the same".into());
    }
    if changes.iter().any(|it| it.word == "order of virtual_ipaddress") {
        out.push("adverts list the addresses in another order from the next one on".into());
    }
    let moved = changes.iter().filter(|it| {
        ["virtual_ipaddress", "virtual_ipaddress_excluded"].iter().any(|list| is(it, list))
            && it.old.is_some()
            && it.new.is_some()
    });
    if master && moved.count() > 0 {
        out.push("addresses with other words are taken off and put on again".into());
    }
    if any(changes, &SHARED) {
        out.push(
            "hosts of the virtual router that do not have the same words discard the adverts: \
             two masters until they do"
                .into(),
        );
    }
    if any(changes, &OWN) {
        out.push("it becomes a second master beside hosts whose adverts it no longer takes".into());
    }
    if any(changes, &["advert_int"]) {
        out.push(if old.version == VrrpVersion::V2 {
            "hosts with another advert_int discard the adverts (VRRPv2): two masters until they have it"
                .into()
        } else {
            "backups learn it from the next advert".into()
        });
    }
    if any(changes, &WAYS) {
        out.push("adverts take another way from the next one on; no state changes".into());
    }
    if master && any(changes, &LINKS) {
        out.push("virtual interfaces are made anew: their VIPs are off and on".into());
    }
    if any(changes, &["accept", "no_accept"]) {
        out.push("packets to the VIPs are filtered from now on, or no longer".into());
    }
    // Its own interface is tracked but for `dont_track_primary`; no peer may be a fault, too.
    let peerless = |it: &VrrpInstance| it.wire.fault_without_peers && it.unicast_peers.is_empty();
    if any(changes, &TRACKED)
        || any(changes, &["dont_track_primary"])
        || peerless(old) != peerless(new)
    {
        out.push("what it tracks now decides at once, and may move its VIPs".into());
    }
    if any(changes, &["virtual_routes", "virtual_rules"]) && master {
        out.push("routes and rules that changed are taken off and put on".into());
    }
    out
}

fn priority(old: &VrrpInstance, new: &VrrpInstance, state: Option<VrrpState>) -> Option<String> {
    if new.priority == Priority::OWNER || old.priority == Priority::OWNER {
        return Some("priority 255 owns the addresses: the election is held again".into());
    }
    match state {
        Some(VrrpState::Master) if new.priority < old.priority => {
            Some("a backup that is better now takes the VIPs over, unless it has nopreempt".into())
        }
        Some(VrrpState::Backup) if new.priority > old.priority && !new.nopreempt => {
            Some(TAKES.into())
        }
        Some(_) => None,
        None => Some(BETTER.into()),
    }
}

const TAKES: &str = "it takes over from a master of lower priority";
const BETTER: &str = "the better router takes the VIPs";

/// A backup that is better and was held back: by `nopreempt`, or longer by `preempt_delay`.
fn preempts(old: &VrrpInstance, new: &VrrpInstance, state: Option<VrrpState>) -> Option<String> {
    // The owner takes over whatever `nopreempt` says.
    let freed = old.nopreempt && new.priority != Priority::OWNER;
    if new.nopreempt || !(freed || new.preempt_delay < old.preempt_delay) {
        return None;
    }
    match state {
        Some(VrrpState::Backup) => Some(TAKES.into()),
        Some(_) => None,
        None => Some(BETTER.into()),
    }
}

pub(super) fn virtual_server_added() -> Vec<String> {
    vec![]
}

pub(super) fn virtual_server_removed(server: &VirtualServer) -> Vec<String> {
    one(format!("its connections to {} real servers are reset", server.real_servers.len()))
}

pub(super) fn virtual_server_changed(changes: &[Change]) -> Vec<String> {
    let mut out = Vec::new();
    if any(changes, &["lb_kind"]) {
        out.push("its connections are reset: they cannot change their method".into());
    }
    if any(changes, &["quorum", "hysteresis"]) {
        out.push("the quorum is counted again: the sorry server may come or go".into());
    }
    if changes.iter().any(|it| is(it, "sorry_server")) {
        out.push("connections to the sorry server before are reset, if it is in use".into());
    }
    let mut timeouts = changes.iter().filter(|it| it.word == "persistence_timeout");
    // Another mask finds no client of before; without the time none is kept.
    if match timeouts.next() {
        Some(timeout) if timeout.old.is_none() => false,
        Some(timeout) if timeout.new.is_none() => true,
        _ => any(changes, &["persistence_granularity"]),
    } {
        out.push("clients are given real servers anew at their next connections".into());
    }
    let on_down = changes.iter().find(|it| it.word == "on_down");
    match on_down.and_then(|it| it.new.as_deref()) {
        Some("reset") => out.push("connections of servers that are down now are reset".into()),
        Some(new) => {
            if let Some(time) = new.strip_prefix("drain ") {
                out.push(format!(
                    "connections of servers that are down now are reset {time} s after they went down"
                ));
            }
        }
        None => {}
    }
    out
}

pub(super) fn real_server_removed(on_down: OnDown) -> Vec<String> {
    match on_down {
        // Not even a time to drain: who takes it out has `lbctl drain` for that.
        OnDown::Reset | OnDown::Drain(_) => one("its connections are reset"),
        OnDown::Keep => one("no new connections; those that are open go on"),
    }
}

pub(super) fn real_server_changed(old: &RealServer, new: &RealServer) -> Vec<String> {
    let mut out = Vec::new();
    if old.weight != new.weight && new.weight == 0 {
        out.push("no new connections; those that are open go on".into());
    }
    if old.checkers != new.checkers {
        let kept = new.checkers.iter().filter(|it| old.checkers.contains(it)).count();
        let anew = new.checkers.len() - kept;
        if anew > 0 {
            let which = match new.checkers.len() {
                1 => "its check".to_owned(),
                all => format!("of its {all} checks {anew}"),
            };
            out.push(format!("probed anew, from the health that it has: {which}"));
        }
    }
    out
}
