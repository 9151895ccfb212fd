//! What somebody sees at 3 a.m.

use super::super::columns::WIDTH;
use super::*;
use crate::{api::sample, base::status::Why};

#[test]
fn problems_come_first_and_everything_is_named() {
    let text = status(&sample::status());
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("lbd lab 0.1.0 · /etc/lbd/lbd.conf · generation 3"), "{text}");
    assert!(lines[1].starts_with("PROBLEM: metrics_listen"), "{text}");
    assert!(lines[2].contains("generation 3 is still in force"), "{text}");
    assert!(lines[3].contains("unknown word `prority`"), "{text}");
    for part in [
        "VI_1 (eth0 vrid 51)",
        "MASTER",
        "90 of 100",
        "this host",
        "2.7 s",
        "2026-09-21 14:13:20Z",
        "no peer was heard for 3.6 s",
        "tcp/192.0.2.10:3306 · wlc · xdp · follows VI_1 · 8000 connections",
        "3 refused, no real server · 2 packets beside the full table · 5 resets sent",
        "persistent: 12 clients keep their real server · 4 times no room for one",
        "QUORUM LOST: weight 1 of 2 is up",
        "drained by the operator; `lbctl enable 192.0.2.22:3306` undoes it",
        "17 connections remain; those left in 42.5 s are reset",
        "3 connections that it had are not reset yet",
        "VIP 192.0.2.10/24: on this host",
        "adverts for no instance: eth0 vrid 77 vrid_unknown 120 · eth0 ip_checksum 3",
        "MYSQL_CHECK: ping \"ok\" (1.2 ms)",
        "flows 34 (131072 of each family at most)",
        "58 ns per packet",
        "forwarded_nat 99000",
        "peer 192.0.2.2: in sync · heard 120 ms ago · 4 datagrams missing",
        "told · closed 21 · opened 20",
        "connections · entered 63 · unknown_server 12",
        "refused · forged 11",
        "13 times without room for changes",
        "killed by SIGKILL",
        "NOT RUNNING",
        "1h 2m",
    ] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
    for line in lines.iter().filter(|line| !line.starts_with("    lbd.conf")) {
        assert!(line.chars().count() <= WIDTH, "too wide: {line}");
    }
    assert!(!text.contains("fenced 0"), "zero counters are noise:\n{text}");
}

#[test]
fn an_instance_says_why_and_until_when() {
    let why = |held_by: &[&str], next: Option<(&str, u64)>| Why {
        held_by: held_by.iter().map(|&it| it.to_owned()).collect(),
        next: next.map(|(text, _)| text.to_owned()),
        next_ms: next.map(|(_, ms)| ms),
        ..Why::default()
    };
    let takes_over = Some(("takes over unless it hears the master", 3609));
    let rows = [
        (
            VrrpState::Backup,
            "backup: 192.0.2.2 has priority 150 > 100",
            why(&[], takes_over),
            "backup: 192.0.2.2 has priority 150 > 100, since 2026-09-21 14:13:20Z; in 3.609 s: \
             takes over unless it hears the master",
        ),
        (
            VrrpState::Backup,
            "backup: 192.0.2.2 has priority 90 < 100, preempt_delay runs",
            why(&[], Some(("preempt_delay ends", 59_020))),
            "preempt_delay runs, since 2026-09-21 14:13:20Z; in 59.020 s: preempt_delay ends",
        ),
        (
            VrrpState::Fault,
            "fault: interface eth1 is down",
            why(&["interface eth1 is down"], None),
            "fault: interface eth1 is down, since 2026-09-21 14:13:20Z VIP",
        ),
        (
            VrrpState::Init,
            "waiting for the interface",
            why(&["script chk has no result"], None),
            "waiting for the interface, since 2026-09-21 14:13:20Z; held by: script chk has no \
             result VIP",
        ),
        (
            VrrpState::Master,
            "master with priority 100",
            why(&[], None),
            "master with priority 100, since 2026-09-21 14:13:20Z VIP",
        ),
    ];
    for (state, reason, why, wanted) in rows {
        let mut told = sample::status();
        let instance = &mut told.vrrp[0];
        (instance.state, instance.reason, instance.why) = (state, reason.to_owned(), why);
        let text = status(&told);
        assert!(text.lines().skip(4).all(|line| line.chars().count() <= WIDTH), "{text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert!(words.join(" ").contains(wanted), "`{wanted}` is missing in\n{text}");
    }
}

#[test]
fn long_words_of_servers_are_broken_at_blanks() {
    let mut out = String::new();
    wrap(&mut out, "    ", &"word ".repeat(30));
    assert_eq!(out.lines().count(), 2, "{out}");
    for line in out.lines() {
        assert!(line.starts_with("    word") && line.len() <= WIDTH, "{line}");
    }
    out.clear();
    wrap(&mut out, "", &"x".repeat(100));
    assert_eq!(out.lines().count(), 1);
    // A number keeps its unit, wherever the line ends.
    for filler in WIDTH - 12..WIDTH {
        out.clear();
        wrap(&mut out, "", &format!("{} in 3.609{NO_BREAK}s: more", "x".repeat(filler)));
        assert!(out.lines().any(|line| line.contains("3.609 s:")), "{out}");
    }
}

#[test]
fn health_is_shown_even_without_a_forwarder() {
    let text = status(&Status { forwarder: None, ..sample::status() });
    assert!(text.contains("192.0.2.22:3306"), "{text}");
    assert!(text.contains("DOWN"), "{text}");
}

#[test]
fn columns_are_aligned() {
    let mut table = Table::new(&["NAME", "COUNT"]);
    table.row(vec!["a".to_owned(), "7".to_owned()]);
    table.row(vec!["longer".to_owned(), "1234".to_owned()]);
    let mut out = String::new();
    table.write(&mut out, 2);
    assert_eq!(out, "  NAME    COUNT\n  a           7\n  longer   1234\n");
}

#[test]
fn dates_and_spans() {
    assert_eq!(clock_of(0), "-");
    assert_eq!(clock_of(951_782_400_000), "2000-02-29 00:00:00Z");
    assert_eq!(clock_of(1_735_689_599_000), "2024-12-31 23:59:59Z");
    assert_eq!(
        [span(9), span(428), span(18_360), span(273_600)],
        ["9s", "7m 8s", "5h 6m", "3d 4h"]
    );
}

#[test]
fn flows_are_lines_and_none_is_said() {
    assert_eq!(flows(&[]), "no connections\n");
    let flow = FlowStatus {
        client: "198.51.100.7:40000".parse().expect("address"),
        vip: "192.0.2.10:3306".parse().expect("address"),
        real_server: None,
        state: "embryo".to_owned(),
        idle_ms: 61_000,
        packets: 1,
        bytes: 60,
    };
    let text = flows(&[flow]);
    assert!(
        text.lines().nth(1).is_some_and(|l| l.contains("embryo") && l.contains("1m 1s")),
        "{text}"
    );
}
