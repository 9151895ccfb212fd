//! Status and flows as text for people.

use std::{collections::BTreeMap, fmt::Write as _};

use super::columns::{NO_BREAK, Table, wrap};
use crate::base::status::{
    FlowStatus, FlowSyncStatus, ForwarderStatus, Health, InstanceStatus, ServerHealth, Status,
    StrayStatus, VrrpState,
};

/// The whole status.
pub fn status(status: &Status) -> String {
    let mut out = String::new();
    head(&mut out, status);
    if status.vrrp.is_empty() {
        out.push_str("\nno vrrp_instance\n");
    } else {
        vrrp(&mut out, &status.vrrp);
    }
    strays(&mut out, &status.strays);
    servers(&mut out, status);
    engine(&mut out, status.forwarder.as_ref());
    interfaces(&mut out, status.forwarder.as_ref());
    flow_sync(&mut out, status.forwarder.as_ref().and_then(|it| it.flow_sync.as_ref()));
    processes(&mut out, status);
    out
}

fn head(out: &mut String, status: &Status) {
    let instance = status.instance.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
    let _ = writeln!(
        out,
        "lbd{instance} {} · {} · generation {}",
        status.version, status.config_file, status.config_generation
    );
    // What is wrong comes first: that is what somebody looks for.
    for problem in &status.problems {
        wrap(out, "", &format!("PROBLEM: {problem}"));
    }
    if let Some(error) = &status.last_reload_error {
        let _ = writeln!(
            out,
            "PROBLEM: the last reload was refused, generation {} is still in force:",
            status.config_generation
        );
        for line in error.lines() {
            let _ = writeln!(out, "    {line}");
        }
    }
}

fn vrrp(out: &mut String, instances: &[InstanceStatus]) {
    out.push('\n');
    let mut table = Table::new(&["VRRP", "STATE", "PRIORITY", "LEASE", "MASTER"]);
    for instance in instances {
        let priority = if instance.base_priority == instance.effective_priority {
            instance.effective_priority.to_string()
        } else {
            format!("{} of {}", instance.effective_priority, instance.base_priority)
        };
        let master = match (&instance.master, instance.state) {
            (_, VrrpState::Master) => "this host".to_owned(),
            (Some(addr), _) => match instance.master_priority {
                Some(priority) => format!("{addr} ({priority})"),
                None => addr.clone(),
            },
            (None, _) => "-".to_owned(),
        };
        let lease = match instance.lease_ms {
            None => "standby".to_owned(),
            Some(ms) if ms < 0 => "FENCED".to_owned(),
            Some(ms) => format!("{}.{:01} s", ms / 1000, ms % 1000 / 100),
        };
        table.row(vec![
            format!("{} ({} vrid {})", instance.name, instance.interface, instance.vrid),
            instance.state.name().to_owned(),
            priority,
            lease,
            master,
        ]);
        table.note(&why(instance));
        let place = if instance.vips_set { "on this host" } else { "not on this host" };
        table.note(&format!("VIP {}: {place}", instance.vips.join(", ")));
    }
    table.write(out, 0);
}

fn strays(out: &mut String, strays: &[StrayStatus]) {
    let rows = strays.iter().map(|it| {
        let vrid = it.vrid.map(|vrid| format!(" vrid {vrid}")).unwrap_or_default();
        format!("{}{vrid} {} {}", it.interface, it.reason, it.count)
    });
    let rows: Vec<String> = rows.collect();
    if !rows.is_empty() {
        wrap(out, "", &format!("adverts for no instance: {}", rows.join(" · ")));
    }
}

/// Why it is (not) master: the reason, what holds it beside that, and what comes when by itself.
fn why(instance: &InstanceStatus) -> String {
    let InstanceStatus { reason, why, last_transition_ms, .. } = instance;
    let mut text = format!("{reason}, since {}", clock_of(*last_transition_ms));
    for held in why.held_by.iter().filter(|held| !reason.contains(held.as_str())) {
        let _ = write!(text, "; held by: {held}");
    }
    if let (Some(next), Some(ms)) = (&why.next, why.next_ms) {
        let _ = write!(text, "; in {}.{:03}{NO_BREAK}s: {next}", ms / 1000, ms % 1000);
    }
    text
}

/// UTC time of day and date of a Unix time in milliseconds; `-` for none.
fn clock_of(unix_ms: u64) -> String {
    if unix_ms == 0 {
        return "-".to_owned();
    }
    let seconds = unix_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970-01-01, by eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

fn servers(out: &mut String, status: &Status) {
    let none = ForwarderStatus::default();
    let forwarder = status.forwarder.as_ref().unwrap_or(&none);
    if forwarder.virtual_servers.is_empty() {
        out.push_str("\nno virtual_server\n");
        // Health is known even when the forwarder does not answer.
        if !status.servers.is_empty() {
            let mut table = Table::new(&["VIRTUAL SERVER", "REAL SERVER", "HEALTH"]);
            for server in &status.servers {
                table.row(vec![
                    server.virtual_server.clone(),
                    server.real_server.to_string(),
                    health_name(server.health).to_owned(),
                ]);
                last_probes(&mut table, server);
            }
            table.write(out, 2);
        }
    }
    for vs in &forwarder.virtual_servers {
        let gate = match &vs.instance {
            Some(instance) => format!("follows {instance}"),
            None => "always active".to_owned(),
        };
        let _ = writeln!(
            out,
            "\n{} · {} · {} · {gate} · {} connections",
            vs.key, vs.scheduler, vs.engine, vs.connections
        );
        let troubles = [
            (vs.unavailable, "refused, no real server"),
            (vs.table_full, "packets beside the full table"),
            (vs.resets, "resets sent"),
        ];
        let troubles: Vec<_> = troubles
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if !troubles.is_empty() {
            let _ = writeln!(out, "  {}", troubles.join(" · "));
        }
        if let Some(templates) = vs.templates {
            let full = match vs.templates_full {
                0 => String::new(),
                times => format!(" · {times} times no room for one"),
            };
            let _ = writeln!(out, "  persistent: {templates} clients keep their real server{full}");
        }
        match status.quorum.iter().find(|q| q.virtual_server == vs.key) {
            Some(q) if q.sorry_in_use => out.push_str("  SORRY SERVER IN USE\n"),
            Some(q) if !q.quorum_up => {
                let _ =
                    writeln!(out, "  QUORUM LOST: weight {} of {} is up", q.up_weight, q.quorum);
            }
            _ => {}
        }
        let mut table =
            Table::new(&["REAL SERVER", "METHOD", "STATE", "HEALTH", "WEIGHT", "ACTIVE", "TOTAL"]);
        for rs in &vs.real_servers {
            let health = status
                .servers
                .iter()
                .find(|s| s.virtual_server == vs.key && s.real_server == rs.addr);
            table.row(vec![
                rs.addr.to_string(),
                rs.method.clone(),
                rs.state.clone(),
                health.map_or("-", |h| health_name(h.health)).to_owned(),
                rs.weight.to_string(),
                rs.active_connections.to_string(),
                rs.connections.to_string(),
            ]);
            if rs.admin.is_some() {
                table.note(&format!(
                    "drained by the operator; `lbctl enable {}` undoes it",
                    rs.addr
                ));
            }
            if let Some(ms) = rs.ends_in_ms {
                table.note(&format!(
                    "{} connections remain; those left in {}.{}{NO_BREAK}s are reset",
                    rs.active_connections,
                    ms / 1000,
                    ms % 1000 / 100
                ));
            }
            if rs.stale_connections > 0 {
                table.note(&format!(
                    "{} connections that it had are not reset yet: their clients have not answered",
                    rs.stale_connections
                ));
            }
            if let Some(problem) = &rs.problem {
                table.note(&format!("PROBLEM: {problem}"));
            }
            if let Some(health) = health {
                last_probes(&mut table, health);
            }
        }
        table.write(out, 2);
    }
    if !forwarder.virtual_servers.is_empty() {
        let of = match forwarder.flows_max {
            0 => String::new(), // no bound
            max => format!(" ({max} of each family at most)"),
        };
        let _ = write!(out, "\nflows {}{of} · opening {}", forwarder.flows, forwarder.embryos);
        if let Some(ns) = forwarder.ns_per_packet {
            let _ = write!(out, " · {ns} ns per packet");
        }
        out.push('\n');
    }
}

fn health_name(health: Health) -> &'static str {
    match health {
        Health::Up => "UP",
        Health::Suspect => "SUSPECT",
        Health::Full => "FULL",
        Health::Drain => "DRAIN",
        Health::Down => "DOWN",
        Health::Unknown => "UNKNOWN",
    }
}

/// What each checker found last.
fn last_probes(table: &mut Table, server: &ServerHealth) {
    for checker in &server.checkers {
        let (ms, tenths) = (checker.last_us / 1000, checker.last_us % 1000 / 100);
        table.note(&format!("{}: {} ({ms}.{tenths} ms)", checker.kind, checker.detail));
    }
}

/// What an operator has to know of the engine: nothing of the usual one.
fn engine(out: &mut String, forwarder: Option<&ForwarderStatus>) {
    let Some(forwarder) = forwarder.filter(|it| !it.limits.is_empty()) else { return };
    let reason = match forwarder.engine_reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    out.push('\n');
    wrap(out, "", &format!("engine {}{reason}", forwarder.engine));
    for limit in &forwarder.limits {
        wrap(out, "  ", limit);
    }
    if !forwarder.foreign_services.is_empty() {
        let names = forwarder.foreign_services.join(", ");
        wrap(out, "  ", &format!("services of others, left alone: {names}"));
    }
}

fn interfaces(out: &mut String, forwarder: Option<&ForwarderStatus>) {
    let Some(forwarder) = forwarder else { return };
    if forwarder.interfaces.is_empty() {
        return;
    }
    out.push('\n');
    let mut table = Table::new(&["INTERFACE", "PROGRAM", "WHY"]);
    for interface in &forwarder.interfaces {
        let hook = match interface.mode.as_str() {
            "tcx" | "clsact" => "tc",
            _ => &forwarder.engine,
        };
        let program = format!("{hook} {}", interface.mode);
        table.row(vec![interface.name.clone(), program, interface.reason.clone()]);
        if let Some(problem) = &interface.problem {
            table.note(&format!("PROBLEM: {problem}"));
        }
    }
    table.write(out, 0);
    let counted: Vec<String> = forwarder
        .outcomes
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if !counted.is_empty() {
        wrap(out, "", &format!("packets: {}", counted.join(" · ")));
    }
}

fn flow_sync(out: &mut String, sync: Option<&FlowSyncStatus>) {
    let Some(sync) = sync else { return };
    out.push_str("\nflow sync\n");
    if let Some(problem) = &sync.problem {
        wrap(out, "  ", &format!("PROBLEM: {problem}"));
    }
    if !sync.settled {
        wrap(out, "  ", "mastership is held back until the peers' connections are here");
    }
    for peer in &sync.peers {
        let heard = match peer.heard_ms {
            Some(ms) => format!("heard {ms}{NO_BREAK}ms ago"),
            None => "never heard".to_owned(),
        };
        let behind = match peer.behind {
            0 => String::new(),
            behind => format!(" · {behind} datagrams missing"),
        };
        let received = named(&peer.received);
        let line = format!("peer {}: {} · {heard}{behind}{received}", peer.addr, peer.state);
        wrap(out, "  ", &line);
    }
    let sent = named(&sync.sent);
    wrap(out, "  ", &format!("told{}", if sent.is_empty() { " nothing yet" } else { &sent }));
    for (what, counts) in [("connections", &sync.connections), ("refused", &sync.rejected)] {
        let counts = named(counts);
        if !counts.is_empty() {
            wrap(out, "  ", &format!("{what}{counts}"));
        }
    }
    for (text, count) in [
        ("datagrams sent again", sync.repaired),
        ("datagrams that did not leave", sync.datagrams_lost),
        ("times without room for changes", sync.changes_lost),
    ] {
        if count > 0 {
            let _ = writeln!(out, "  {count} {text}");
        }
    }
}

/// Counters that are not 0, by name.
fn named(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().filter(|(_, count)| **count > 0).fold(String::new(), |mut out, (name, count)| {
        let _ = write!(out, " · {name}{NO_BREAK}{count}");
        out
    })
}

fn processes(out: &mut String, status: &Status) {
    out.push('\n');
    let mut table = Table::new(&["PROCESS", "PID", "UP", "RESTARTS", "STATE", "LAST END"]);
    for process in &status.processes {
        let state = match (process.pid, process.ready) {
            (0, _) => "NOT RUNNING",
            (_, false) => "STARTING",
            (_, true) => "ready",
        };
        table.row(vec![
            process.role.clone(),
            process.pid.to_string(),
            span(process.up_s),
            process.restarts.to_string(),
            state.to_owned(),
            process.last_exit.clone().unwrap_or_default(),
        ]);
    }
    table.write(out, 0);
}

/// `3d 4h`, `5h 6m`, `7m 8s`, `9s`.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Connections, one a line.
pub fn flows(flows: &[FlowStatus]) -> String {
    if flows.is_empty() {
        return "no connections\n".to_owned();
    }
    let mut table =
        Table::new(&["CLIENT", "VIP", "REAL SERVER", "STATE", "IDLE", "PACKETS", "BYTES"]);
    for flow in flows {
        table.row(vec![
            flow.client.to_string(),
            flow.vip.to_string(),
            flow.real_server.map_or_else(|| "-".to_owned(), |addr| addr.to_string()),
            flow.state.clone(),
            span(flow.idle_ms / 1000),
            flow.packets.to_string(),
            flow.bytes.to_string(),
        ]);
    }
    let mut out = String::new();
    table.write(&mut out, 0);
    out
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
