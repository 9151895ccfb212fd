//! What flows now: two snapshots of the status become rates.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::Serialize;

use super::columns::{Table, wrap};
use crate::base::status::{Status, VirtualServerStatus, VrrpState};

/// What the lines of a virtual server's real servers are sorted by; the largest comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By address.
    #[default]
    Address,
    Active,
    Connections,
    Packets,
    Bits,
}

/// What happened between two snapshots.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Frame {
    /// Between them, seconds.
    pub seconds: f64,
    /// Instance → its state.
    pub vrrp: Vec<(String, VrrpState)>,
    pub virtual_servers: Vec<Rates>,
    pub flows: u64,
    pub embryos: u64,
    /// Outcome → packets a second; those that did not occur are left out.
    pub outcomes: BTreeMap<String, f64>,
    pub problems: Vec<String>,
}

/// A virtual server, or one of its real servers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    pub name: String,
    /// Of a real server; of a virtual server its scheduler.
    pub state: String,
    pub active: u64,
    /// A second, as all that follow.
    pub connections: f64,
    pub packets: f64,
    /// On the wire, both ways as far as this host sees them.
    pub bits: f64,
    /// Of a virtual server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub real_servers: Vec<Self>,
}

/// What a counter grew by, a second. One that began anew since, as a server's that was taken out and put back,
/// counts from zero.
fn rate(before: u64, now: u64, seconds: f64) -> f64 {
    let grown = now.checked_sub(before).unwrap_or(now);
    if seconds > 0.0 { grown as f64 / seconds } else { 0.0 }
}

/// The rates between `before` and `now`, which is `elapsed` later. What only `now` has counts from there on.
pub fn frame(before: &Status, now: &Status, elapsed: Duration) -> Frame {
    let seconds = elapsed.as_secs_f64();
    let none = crate::base::status::ForwarderStatus::default();
    let (was, is) =
        (before.forwarder.as_ref().unwrap_or(&none), now.forwarder.as_ref().unwrap_or(&none));
    let services = is.virtual_servers.iter().map(|service| {
        let earlier = was.virtual_servers.iter().find(|it| it.key == service.key);
        rates(earlier.unwrap_or(service), service, seconds)
    });
    let outcomes = is.outcomes.iter().filter_map(|(name, count)| {
        let grown = rate(*was.outcomes.get(name).unwrap_or(count), *count, seconds);
        (grown > 0.0).then(|| (name.clone(), grown))
    });
    Frame {
        seconds,
        vrrp: now.vrrp.iter().map(|it| (it.name.clone(), it.state)).collect(),
        virtual_servers: services.collect(),
        flows: is.flows,
        embryos: is.embryos,
        outcomes: outcomes.collect(),
        problems: now.problems.clone(),
    }
}

fn rates(before: &VirtualServerStatus, now: &VirtualServerStatus, seconds: f64) -> Rates {
    let servers = now.real_servers.iter().map(|server| {
        let earlier = before.real_servers.iter().find(|it| it.addr == server.addr);
        let earlier = earlier.unwrap_or(server);
        Rates {
            name: server.addr.to_string(),
            state: server.state.clone(),
            active: server.active_connections,
            connections: rate(earlier.connections, server.connections, seconds),
            packets: rate(earlier.packets, server.packets, seconds),
            bits: 8.0 * rate(earlier.bytes, server.bytes, seconds),
            real_servers: Vec::new(),
        }
    });
    Rates {
        name: now.key.clone(),
        state: now.scheduler.clone(),
        active: now.real_servers.iter().map(|it| it.active_connections).sum(),
        connections: rate(before.connections, now.connections, seconds),
        packets: rate(before.packets, now.packets, seconds),
        bits: 8.0 * rate(before.bytes, now.bytes, seconds),
        real_servers: servers.collect(),
    }
}

/// With a unit of thousands, in at most five characters.
fn short(number: f64) -> String {
    let mut number = number;
    for unit in ["", "k", "M", "G", "T"] {
        if number < 999.5 || unit == "T" {
            // 1.2, 12, 120
            let digits = usize::from(number < 9.95 && number > 0.0);
            return format!("{number:.digits$}{unit}");
        }
        number /= 1000.0;
    }
    String::new()
}

/// The frame as text.
pub fn render(frame: &Frame, order: Order) -> String {
    let mut out = String::new();
    for problem in &frame.problems {
        wrap(&mut out, "", &format!("PROBLEM: {problem}"));
    }
    let states: Vec<_> =
        frame.vrrp.iter().map(|(name, state)| format!("{name} {}", state.name())).collect();
    if !states.is_empty() {
        wrap(&mut out, "", &states.join(" · "));
    }
    let mut table = Table::new(&["SERVER", "STATE", "ACTIVE", "CONN/S", "PKT/S", "BIT/S"]);
    for service in &frame.virtual_servers {
        table.row(cells(service, ""));
        let mut servers: Vec<_> = service.real_servers.iter().collect();
        let weight = |it: &Rates| match order {
            Order::Address => 0.0,
            Order::Active => it.active as f64,
            Order::Connections => it.connections,
            Order::Packets => it.packets,
            Order::Bits => it.bits,
        };
        // A stable sort: those that are equal stay by address.
        servers.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        for server in servers {
            table.row(cells(server, "  "));
        }
    }
    if frame.virtual_servers.is_empty() {
        out.push_str("no virtual_server\n");
    } else {
        table.write(&mut out, 0);
        let _ = writeln!(out, "flows {} · opening {}", frame.flows, frame.embryos);
    }
    let mut outcomes: Vec<_> = frame.outcomes.iter().collect();
    outcomes.sort_by(|a, b| b.1.total_cmp(a.1));
    let outcomes: Vec<_> =
        outcomes.iter().map(|(name, rate)| format!("{name} {}", short(**rate))).collect();
    if !outcomes.is_empty() {
        wrap(&mut out, "", &format!("packets a second: {}", outcomes.join(" · ")));
    }
    out
}

fn cells(rates: &Rates, margin: &str) -> Vec<String> {
    vec![
        format!("{margin}{}", rates.name),
        rates.state.clone(),
        rates.active.to_string(),
        short(rates.connections),
        short(rates.packets),
        short(rates.bits),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::sample;

    /// A second later everything has grown by these.
    fn later(status: &Status, packets: u64) -> Status {
        let mut later = status.clone();
        let forwarder = later.forwarder.as_mut().expect("it forwards");
        for service in &mut forwarder.virtual_servers {
            service.connections += 10;
            service.packets += packets;
            service.bytes += 100 * packets;
            for (at, server) in service.real_servers.iter_mut().enumerate() {
                server.connections += at as u64;
                server.packets += packets;
                server.bytes += 100 * packets;
            }
        }
        later
    }

    #[test]
    fn counters_become_rates() {
        let before = sample::status();
        let now = later(&before, 3000);
        let frame = frame(&before, &now, Duration::from_millis(1500));
        let service = frame.virtual_servers.first().expect("a virtual server");
        assert!((service.connections - 10.0 / 1.5).abs() < 1e-9, "{service:?}");
        assert!((service.packets - 2000.0).abs() < 1e-9, "{service:?}");
        assert!((service.bits - 1_600_000.0).abs() < 1e-6, "{service:?}");
        assert!(frame.outcomes.is_empty(), "none has grown: {:?}", frame.outcomes);
    }

    #[test]
    fn what_is_new_or_began_anew_does_not_jump() {
        let mut before = sample::status();
        let now = later(&before, 10);
        let forwarder = before.forwarder.as_mut().expect("it forwards");
        let service = forwarder.virtual_servers.first_mut().expect("a virtual server");
        service.packets = u64::MAX;
        service.real_servers.clear();
        let again = frame(&before, &now, Duration::from_secs(1));
        let rates = again.virtual_servers.first().expect("a virtual server");
        let wanted = now.forwarder.as_ref().and_then(|it| it.virtual_servers.first());
        assert!((rates.packets - wanted.expect("one").packets as f64).abs() < 1e-9, "{rates:?}");
        assert!(rates.real_servers.iter().all(|it| it.packets == 0.0), "{rates:?}");
        // The same snapshot twice, at the same moment.
        let none = frame(&now, &now, Duration::ZERO);
        assert!(none.virtual_servers.iter().all(|it| it.packets == 0.0));
    }

    #[test]
    fn the_busiest_real_server_comes_first_when_asked_for() {
        let before = sample::status();
        let now = later(&before, 10);
        let frame = frame(&before, &now, Duration::from_secs(1));
        let servers = |order| {
            let text = render(&frame, order);
            let lines: Vec<_> = text.lines().filter(|it| it.starts_with("  ")).collect();
            let names = lines.iter().filter_map(|it| it.split_whitespace().next());
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let (plain, mut busy) = (servers(Order::Address), servers(Order::Connections));
        assert!(plain.len() > 1, "{plain:?}");
        let mut one_service = frame.virtual_servers.clone();
        one_service.truncate(1);
        let wanted = one_service.first().map(|it| it.real_servers.len()).expect("one");
        busy.truncate(wanted);
        busy.reverse();
        assert_eq!(plain.get(..wanted), Some(&busy[..]), "it grew with the place");
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (0.4, "0.4"),
            (9.94, "9.9"),
            (12.4, "12"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12k"),
            (1.5e9, "1.5G"),
            (3.0e15, "3000T"),
        ] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn every_line_fits_on_a_screen() {
        let before = sample::status();
        let now = later(&before, 123_456);
        let text = render(&frame(&before, &now, Duration::from_secs(1)), Order::Bits);
        assert!(
            text.lines().all(|line| line.chars().count() <= super::super::columns::WIDTH),
            "{text}"
        );
    }
}
