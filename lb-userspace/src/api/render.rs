//! Status and flows as text for people.

use std::fmt::Write as _;

use crate::base::status::{
    FlowStatus, ForwarderStatus, Health, InstanceStatus, ServerHealth, Status, StrayStatus,
    VrrpState,
};

/// Width of the screen that every line but a server's own words fits on.
const WIDTH: usize = 80;

enum Row {
    Cells(Vec<String>),
    /// Below the row it is about, not in columns, broken into lines of [`WIDTH`].
    Note(String),
}

/// Rows of a table with aligned columns.
struct Table {
    rows: Vec<Row>,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        Self { rows: vec![Row::Cells(head.iter().map(|&cell| cell.to_owned()).collect())] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(Row::Cells(cells));
    }

    fn note(&mut self, text: &str) {
        self.rows.push(Row::Note(text.to_owned()));
    }

    fn cells(&self) -> impl Iterator<Item = &Vec<String>> {
        self.rows.iter().filter_map(|row| match row {
            Row::Cells(cells) => Some(cells),
            Row::Note(_) => None,
        })
    }

    /// Lines, indented; numbers to the right, the rest to the left, the last column unpadded.
    fn write(&self, out: &mut String, indent: usize) {
        let columns = self.cells().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.cells().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let numeric = |column: usize| {
            self.cells().skip(1).filter_map(|row| row.get(column)).all(|cell| {
                cell.starts_with(|c: char| c.is_ascii_digit() || c == '-')
                    && cell.len() < 16
                    && !cell.contains([':', '/'])
            })
        };
        let margin = " ".repeat(indent);
        for row in &self.rows {
            let cells = match row {
                Row::Cells(cells) => cells,
                Row::Note(text) => {
                    wrap(out, &format!("{margin}  "), text);
                    continue;
                }
            };
            let mut line = margin.clone();
            for (column, cell) in cells.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                if numeric(column) {
                    let _ = write!(line, "{cell:>width$}  ");
                } else {
                    let _ = write!(line, "{cell:<width$}  ");
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

/// A blank at which no line ends: between a number and its unit.
const NO_BREAK: char = '\u{a0}';

/// Words in lines of at most [`WIDTH`], each after `margin`; a longer word stands alone.
fn wrap(out: &mut String, margin: &str, text: &str) {
    let mut line = String::new();
    let words = text.split(|c: char| c.is_whitespace() && c != NO_BREAK);
    for word in words.filter(|word| !word.is_empty()) {
        let word = word.replace(NO_BREAK, " ");
        let taken = margin.chars().count() + line.chars().count() + word.chars().count();
        if !line.is_empty() && taken + 1 > WIDTH {
            let _ = writeln!(out, "{margin}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    let _ = writeln!(out, "{margin}{line}");
}

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
    interfaces(&mut out, status.forwarder.as_ref());
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
        let _ = write!(
            out,
            "\nflows {} of {} · opening {}",
            forwarder.flows, forwarder.flows_max, forwarder.embryos
        );
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

fn interfaces(out: &mut String, forwarder: Option<&ForwarderStatus>) {
    let Some(forwarder) = forwarder else { return };
    if forwarder.interfaces.is_empty() {
        return;
    }
    out.push('\n');
    let mut table = Table::new(&["INTERFACE", "PROGRAM"]);
    for interface in &forwarder.interfaces {
        table.row(vec![interface.name.clone(), format!("{} {}", forwarder.engine, interface.mode)]);
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
