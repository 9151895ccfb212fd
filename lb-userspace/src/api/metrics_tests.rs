//! The exposition text is parsed back and compared with the snapshot it came from.

use std::collections::BTreeMap;

use super::*;
use crate::api::sample;

/// A reader of OpenMetrics text: sample line → value, and type by metric family.
fn parse(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let mut samples = BTreeMap::new();
    let mut types = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("name and type");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            let value = value.parse().expect("a number");
            assert!(samples.insert(name.to_owned(), value).is_none(), "{name} twice");
        }
    }
    assert!(text.ends_with("# EOF\n"), "the format's end");
    (samples, types)
}

#[test]
fn every_number_of_a_snapshot_is_found_again() {
    let (samples, types) = parse(&render(sample::status()).expect("renders"));
    let vs = "virtual_server=\"tcp/192.0.2.10:3306\"";
    let rs = format!("{{{vs},real_server=\"192.0.2.21:3306\"}}");
    let health = |rs: &str, health: &str| {
        format!("lbd_health{{{vs},real_server=\"{rs}\",health=\"{health}\"}}")
    };
    let probe = format!(
        "{vs},real_server=\"192.0.2.21:3306\",checker=\"MYSQL_CHECK\",target=\"192.0.2.21:3306\""
    );
    for (name, value) in [
        ("lbd_build{version=\"0.1.0\",instance_name=\"lab\"}".to_owned(), 1.0),
        ("lbd_config_generation".to_owned(), 3.0),
        ("lbd_config_last_reload_failed".to_owned(), 1.0),
        ("lbd_config_reload_failures_total".to_owned(), 2.0),
        ("lbd_bound_reached_total{bound=\"open_questions\"}".to_owned(), 1.0),
        ("lbd_process_restarts_total{role=\"vrrp\"}".to_owned(), 1.0),
        ("lbd_process_ready{role=\"api\"}".to_owned(), 0.0),
        ("lbd_script_ends_total{outcome=\"timed_out\"}".to_owned(), 2.0),
        ("lbd_vrrp_state{vrrp_instance=\"VI_1\",state=\"master\"}".to_owned(), 1.0),
        ("lbd_vrrp_state{vrrp_instance=\"VI_1\",state=\"backup\"}".to_owned(), 0.0),
        ("lbd_vrrp_effective_priority{vrrp_instance=\"VI_1\"}".to_owned(), 90.0),
        ("lbd_vrrp_lease_seconds{vrrp_instance=\"VI_1\"}".to_owned(), 2.71),
        ("lbd_vrrp_adverts_sent_total{vrrp_instance=\"VI_1\"}".to_owned(), 77.0),
        (
            "lbd_vrrp_discards_total{vrrp_instance=\"VI_1\",reason=\"wrong_password\"}".to_owned(),
            5.0,
        ),
        ("lbd_vrrp_timer_lateness_seconds_sum{timer=\"advert\"}".to_owned(), 0.0045),
        ("lbd_vrrp_timer_lateness_seconds_count{timer=\"advert\"}".to_owned(), 77.0),
        (
            "lbd_vrrp_timer_lateness_seconds_bucket{le=\"0.00005\",timer=\"advert\"}".to_owned(),
            70.0,
        ),
        (
            "lbd_vrrp_timer_lateness_seconds_bucket{le=\"0.001\",timer=\"master_down\"}".to_owned(),
            1.0,
        ),
        (
            "lbd_vrrp_timer_lateness_seconds_bucket{le=\"+Inf\",timer=\"master_down\"}".to_owned(),
            2.0,
        ),
        (
            "lbd_vrrp_strays_total{interface=\"eth0\",reason=\"vrid_unknown\",vrid=\"77\"}"
                .to_owned(),
            120.0,
        ),
        (
            "lbd_vrrp_strays_total{interface=\"eth0\",reason=\"ip_checksum\",vrid=\"\"}".to_owned(),
            3.0,
        ),
        (format!("lbd_probe_deferred_total{{{probe}}}"), 5.0),
        (health("192.0.2.21:3306", "up"), 1.0),
        (health("192.0.2.22:3306", "up"), 0.0),
        (health("192.0.2.22:3306", "down"), 1.0),
        (format!("lbd_probes_total{{{probe}}}"), 6.0),
        (format!("lbd_probe_duration_seconds_sum{{{probe}}}"), 2.0),
        (format!("lbd_probe_duration_seconds_count{{{probe}}}"), 6.0),
        (format!("lbd_probe_duration_seconds_bucket{{le=\"0.001\",{probe}}}"), 2.0),
        (format!("lbd_probe_duration_seconds_bucket{{le=\"0.0025\",{probe}}}"), 5.0),
        (format!("lbd_probe_duration_seconds_bucket{{le=\"+Inf\",{probe}}}"), 6.0),
        (format!("lbd_quorum_up{{{vs}}}"), 0.0),
        ("lbd_health_to_map_seconds_sum".to_owned(), 0.0012),
        ("lbd_health_to_map_seconds_count".to_owned(), 3.0),
        ("lbd_health_to_map_seconds_bucket{le=\"0.0005\"}".to_owned(), 2.0),
        ("lbd_health_to_map_seconds_bucket{le=\"0.001\"}".to_owned(), 3.0),
        ("lbd_flows".to_owned(), 34.0),
        ("lbd_flows_limit".to_owned(), 131_072.0),
        ("lbd_packets_total{outcome=\"forwarded_nat\"}".to_owned(), 99_000.0),
        ("lbd_packets_total{outcome=\"fenced\"}".to_owned(), 0.0),
        ("lbd_reset_segments_total{kind=\"probe\"}".to_owned(), 9.0),
        (format!("lbd_real_server_stale_connections{{{vs},real_server=\"192.0.2.22:3306\"}}"), 3.0),
        (format!("lbd_virtual_server_connections_total{{{vs}}}"), 8_000.0),
        (format!("lbd_virtual_server_unavailable_total{{{vs}}}"), 3.0),
        (format!("lbd_virtual_server_table_full_total{{{vs}}}"), 2.0),
        (format!("lbd_virtual_server_resets_total{{{vs}}}"), 5.0),
        (format!("lbd_virtual_server_templates{{{vs}}}"), 12.0),
        (format!("lbd_virtual_server_templates_full_total{{{vs}}}"), 4.0),
        (format!("lbd_real_server_active_connections{rs}"), 17.0),
        (format!("lbd_real_server_bytes_total{rs}"), 9_000_000.0),
        (format!("lbd_real_server_up{rs}"), 1.0),
        ("lbd_flow_sync_settled".to_owned(), 1.0),
        ("lbd_flow_sync_peer_in_sync{peer=\"192.0.2.2\"}".to_owned(), 1.0),
        ("lbd_flow_sync_behind{peer=\"192.0.2.2\"}".to_owned(), 4.0),
        ("lbd_flow_sync_received_total{peer=\"192.0.2.2\",kind=\"opened\"}".to_owned(), 31.0),
        ("lbd_flow_sync_gaps_total{peer=\"192.0.2.2\"}".to_owned(), 6.0),
        ("lbd_flow_sync_sent_total{kind=\"closed\"}".to_owned(), 21.0),
        ("lbd_flow_sync_rejected_total{reason=\"forged\"}".to_owned(), 11.0),
        ("lbd_flow_sync_connections_total{result=\"unknown_server\"}".to_owned(), 12.0),
        ("lbd_flow_sync_changes_lost_total".to_owned(), 13.0),
    ] {
        assert_eq!(samples.get(&name), Some(&value), "{name} in {samples:#?}");
    }
    assert_eq!(types["lbd_probe_duration_seconds"], "histogram");
    assert_eq!(types["lbd_packets"], "counter");
    assert_eq!(types["lbd_flows"], "gauge");
}

#[test]
fn empty_status_renders_too() {
    let (samples, _) = parse(&render(Status::default()).expect("renders"));
    assert!(!samples.keys().any(|name| name.starts_with("lbd_flows")), "no forwarder answered");
    assert_eq!(samples.get("lbd_config_generation"), Some(&0.0));
}

/// What stands before the table of docs/metrics.md.
const INTRODUCTION: &str = "# Metrics

On `metrics_listen ADDR:PORT` under `/metrics`, as OpenMetrics text. A counter's sample has the
suffix `_total`; a histogram's are `_bucket`, `_sum` and `_count`. This page is generated from what
lbd exports (`LBD_WRITE_DOCS=1 cargo test -p lb-userspace metrics`).

| Metric | Type | Labels | Meaning |
|---|---|---|---|
";

/// docs/metrics.md from a scrape in which every metric occurs.
fn markdown(text: &str) -> String {
    let mut out = INTRODUCTION.to_owned();
    let mut help = "";
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some((_, words)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
        {
            help = words;
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let sample = lines.peek().copied().unwrap_or_default();
        assert!(sample.starts_with(name), "{name} has no sample: {sample}");
        let labels: Vec<_> = sample
            .split_once('{')
            .map(|(_, labels)| labels.split("\",").filter_map(|it| Some(it.split_once('=')?.0)))
            .into_iter()
            .flatten()
            .map(|label| format!("`{label}`"))
            .collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        out.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    out
}

#[test]
fn documentation_is_what_is_exported() {
    let text = render(sample::status()).expect("renders");
    let wanted = markdown(&text);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    if std::env::var("LBD_WRITE_DOCS").is_ok_and(|value| value == "1") {
        std::fs::write(path, &wanted).expect("docs/metrics.md is written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == wanted, "docs/metrics.md is old: LBD_WRITE_DOCS=1 writes it");
    // Metrics that other pages name exist, under that very name.
    for page in ["docs/operating.md", "README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let path = format!("{}/../{page}", env!("CARGO_MANIFEST_DIR"));
        let page_text = std::fs::read_to_string(&path).expect(page);
        for name in page_text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let known = text.contains(&format!("# TYPE {name} "))
                || wanted.contains(&format!("`{}`", name.trim_end_matches("_total")));
            let program =
                ["lbd_clock", "lbd_no_bpf", "lbd_pick", "lbd_kept", "lbd_propose", "lbd_confirm"]
                    .contains(&name)
                    || name == "lbd_changed";
            assert!(!name.starts_with("lbd_") || known || program, "{page} names {name}");
        }
    }
}

/// A rule about a metric that nobody exports never fires: each name is that of a sample, with its suffix and the labels
/// that the rule selects by.
#[test]
fn alerting_rules_are_about_what_is_exported() {
    let text = render(sample::status()).expect("renders");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/lbd.rules.yml");
    let rules = std::fs::read_to_string(path).expect("the rules");
    let mut seen = 0;
    for line in rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        for (at, _) in line.match_indices("lbd_") {
            let rest = &line[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
            let samples: Vec<_> = text
                .lines()
                .filter_map(|sample| sample.strip_prefix(name))
                .filter(|rest| rest.starts_with(['{', ' ']))
                .collect();
            assert!(!samples.is_empty(), "{name} is no sample of lbd: {line}");
            let label = rest.strip_prefix('{').and_then(|rest| rest.split_once('=')).map(|it| it.0);
            let label = label.unwrap_or_default();
            assert!(samples.iter().any(|sample| sample.contains(label)), "{label} of {name}");
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen} metrics in the rules");
}
