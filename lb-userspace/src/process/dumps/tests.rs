//! Dumps as the exporters of the field read them.

use std::collections::BTreeMap;

use super::*;
use crate::{config::load, vrrp::track::Kind};

const TEXT: &str = "global_defs {\n router_id R1\n}\nvrrp_script chk {\n script /bin/true\n}\n\
    vrrp_instance VI_1 {\n interface d0\n virtual_router_id 51\n authentication {\n auth_type PASS\n \
    auth_pass secret\n }\n virtual_ipaddress {\n 10.9.0.100/24\n }\n track_script {\n chk\n }\n \
    notify \"/bin/echo hi\"\n}\n";

fn status() -> InstanceStatus {
    let mut counters = InstanceCounters { advert_sent: 3, become_master: 1, ..Default::default() };
    let discarded = [("ttl", 2), ("peer_ttl", 1), ("auth_failed", 4), ("too_short", 5)];
    counters.discarded = discarded.map(|(name, n)| (name.to_owned(), n)).into();
    InstanceStatus {
        name: "VI_1".into(),
        interface: "d0".into(),
        vrid: 51,
        version: 2,
        state: VrrpState::Master,
        base_priority: 100,
        effective_priority: 100,
        vips: vec!["10.9.0.100/24".into()],
        vips_set: true,
        master: None,
        master_priority: None,
        master_interval_ms: 1000,
        lease_ms: None,
        reason: String::new(),
        last_transition_ms: 1_795_364_514_347,
        why: Default::default(),
        counters,
    }
}

fn with<T>(text: &str, act: impl FnOnce(&Known<'_>) -> T) -> T {
    let config = load("t", text).config.expect("good");
    let (instances, verdicts) = ([status()], [("chk".to_owned(), Verdict::Good)]);
    act(&Known { config: &config, instances: &instances, verdicts: &verdicts, processes: &[] })
}

/// The keys that a keepalived 2.2.7 wrote for this configuration, in its order.
#[test]
fn json_has_keepaliveds_keys_and_types() {
    let text = with(TEXT, json);
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let one = &all[0];
    let data = [
        "iname",
        "dont_track_primary",
        "skip_check_adv_addr",
        "strict_mode",
        "vmac_ifname",
        "ifp_ifname",
        "master_priority",
        "last_transition",
        "garp_delay",
        "garp_refresh",
        "garp_rep",
        "garp_refresh_rep",
        "garp_lower_prio_delay",
        "garp_lower_prio_rep",
        "lower_prio_no_advert",
        "higher_prio_send_advert",
        "vrid",
        "base_priority",
        "effective_priority",
        "vipset",
        "promote_secondaries",
        "adver_int",
        "master_adver_int",
        "accept",
        "nopreempt",
        "preempt_delay",
        "state",
        "wantstate",
        "version",
        "smtp_alert",
        "notify_deleted",
        "script",
        "vips",
        "track_script",
        "auth_type",
        "auth_data",
    ];
    let mut at = 0;
    for key in data {
        let found = text.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key}: {text}"));
        assert!(found > at, "{key} is not in its place");
        at = found;
    }
    let (it, stats) = (&one["data"], &one["stats"]);
    assert_eq!(it["state"], 2);
    assert_eq!(it["vipset"], true);
    assert_eq!(it["last_transition"], 1_795_364_514.347);
    assert_eq!(it["vips"][0], "10.9.0.100/24 dev d0 scope global set");
    assert_eq!(it["script"], "'/bin/echo' 'hi'");
    assert!(!text.contains("secret"), "passwords are not written");
    for (key, value) in [
        ("advert_rcvd", 0),
        ("advert_sent", 3),
        ("become_master", 1),
        ("release_master", 0),
        ("packet_len_err", 5),
        ("advert_interval_err", 0),
        ("ip_ttl_err", 3),
        ("invalid_type_rcvd", 0),
        ("addr_list_err", 0),
        ("invalid_authtype", 0),
        ("authtype_mismatch", 0),
        ("auth_failure", 4),
        ("pri_zero_rcvd", 0),
        ("pri_zero_sent", 0),
    ] {
        assert_eq!(stats[key], value, "{key}");
    }
    let two = with(&TEXT.replace("router_id R1", "json_version 2"), json);
    let two: serde_json::Value = serde_json::from_str(&two).expect("JSON");
    assert_eq!(two["vrrp"][0]["data"]["iname"], "VI_1");
    assert!(two["track_process"].is_array());
}

/// Each reason in its field of the JSON, and in that one alone; a reason that no row names has none.
#[test]
fn every_reason_is_counted_where_keepalived_counts_it() {
    let rows: [(&str, &[&str]); 14] = [
        ("packet_len_err", &["ip_truncated", "too_short", "too_long", "hmac_trailer"]),
        ("advert_interval_err", &["interval_mismatch", "interval_zero"]),
        ("ip_ttl_err", &["ttl", "peer_ttl"]),
        ("invalid_type_rcvd", &["type"]),
        ("addr_list_err", &["no_address", "address_list", "delivery_mode"]),
        ("invalid_authtype", &["auth_type_unknown"]),
        (
            "authtype_mismatch",
            &["auth_type_mismatch", "auth_header_unexpected", "auth_header_missing"],
        ),
        (
            "auth_failure",
            &[
                "auth_failed",
                "auth_header_malformed",
                "auth_header_icv",
                "auth_header_spi",
                "auth_header_replay",
            ],
        ),
        ("auth_ext_missing", &["hmac_missing"]),
        ("auth_ext_malformed", &["hmac_malformed"]),
        ("auth_ext_unknown_key", &["hmac_key_unknown"]),
        ("auth_ext_invalid_hmac", &["hmac_invalid"]),
        ("auth_ext_stale", &["hmac_stale"]),
        ("auth_ext_replay", &["hmac_replay"]),
    ];
    let text = TEXT.replace("virtual_router_id 51", "virtual_router_id 51\n version 3").replace(
        "authentication {\n auth_type PASS\n auth_pass secret\n }",
        "auth_hmac {\n key 1 01234567890123456789012345678901\n }",
    );
    let outcome = load("t", &text);
    let said = outcome.render();
    let config = outcome.config.expect(&said);
    // What is not zero of a status with these counters.
    let counted = |counters: InstanceCounters| -> Vec<(String, u64)> {
        let instances = [InstanceStatus { counters, ..status() }];
        let known = Known { config: &config, instances: &instances, verdicts: &[], processes: &[] };
        let all: serde_json::Value = serde_json::from_str(&json(&known)).expect("JSON");
        let stats = all[0]["stats"].as_object().expect("an object");
        let fields = stats.iter().map(|(key, value)| (key.clone(), value.as_u64().unwrap_or(99)));
        fields.filter(|(_, value)| *value != 0).collect()
    };
    let mut told = 0;
    for reason in Reason::ALL {
        let discarded = BTreeMap::from([(reason.name().to_owned(), 7)]);
        let found = counted(InstanceCounters { discarded, ..Default::default() });
        let wanted = rows.iter().find(|(_, names)| names.contains(&reason.name()));
        let wanted = wanted.map(|(field, _)| ((*field).to_owned(), 7));
        told += usize::from(wanted.is_some());
        assert_eq!(found, Vec::from_iter(wanted), "{reason}");
    }
    let named: usize = rows.iter().map(|(_, names)| names.len()).sum();
    assert_eq!((told, Reason::ALL.len() - told), (named, 11), "every name is a reason's");
    // One that was accepted, as keepalived counts it.
    let accepted = InstanceCounters { address_list_differs: 3, ..Default::default() };
    assert_eq!(counted(accepted), [("addr_list_err".to_owned(), 3)]);
}

/// What the file and the state say, not keepalived's defaults.
#[test]
fn json_says_what_is_configured_and_what_is() {
    let text = "global_defs {\n json_version 2\n}\n\
        vrrp_track_process db {\n process mysqld --user mysql\n quorum 2\n quorum_max 5\n weight 7\n \
        fork_delay 0.5\n}\n\
        vrrp_script chk {\n script \"/bin/check 3306\"\n weight 3\n}\n\
        vrrp_instance VI_1 {\n interface d0\n virtual_router_id 51\n version 3\n advert_int 0.1\n \
        higher_prio_send_advert\n strict_mode\n use_vmac vm0\n no_accept\n promote_secondaries\n \
        garp_master_delay 2\n nopreempt\n track_script {\n chk\n }\n track_process {\n db\n }\n \
        notify_master_rx_lower_pri /bin/low\n notify_deleted /bin/gone\n \
        auth_hmac {\n key 1 01234567890123456789012345678901\n }\n \
        virtual_ipaddress {\n 10.9.0.100/24\n }\n \
        virtual_ipaddress_excluded {\n fd00::1/64\n }\n \
        virtual_routes {\n 10.81.0.0/16 via 10.9.0.2 table 99 metric 5\n }\n \
        virtual_rules {\n from 10.9.0.100 table 99 priority 2000\n }\n}\n";
    let config = load("t", text);
    let said = config.render();
    let config = config.config.expect(&said);
    let mut status = InstanceStatus { master_interval_ms: 250, ..status() };
    status.counters.discarded.insert("hmac_stale".into(), 6);
    let verdicts = [(Kind::Process.key("db"), Verdict::Good)];
    let counted = TrackedProcess {
        name: "db".into(),
        count: 3,
        fork_delay_runs: true,
        terminate_delay_runs: false,
    };
    let known =
        Known { config: &config, instances: &[status], verdicts: &verdicts, processes: &[counted] };
    let all: serde_json::Value = serde_json::from_str(&json(&known)).expect("JSON");
    let (data, stats) = (&all["vrrp"][0]["data"], &all["vrrp"][0]["stats"]);
    let json = |text: &str| -> serde_json::Value { serde_json::from_str(text).expect("JSON") };
    for (key, value) in [
        ("strict_mode", "1"),
        ("vmac_ifname", "\"vm0\""),
        ("ifp_ifname", "\"vm0\""),
        ("garp_delay", "2.0"),
        ("lower_prio_no_advert", "1"),
        ("higher_prio_send_advert", "1"),
        ("promote_secondaries", "true"),
        ("adver_int", "0.1"),
        ("master_adver_int", "0.25"),
        ("accept", "0"),
        ("nopreempt", "true"),
        ("notify_deleted", "true"),
        ("script_deleted", "\"'/bin/gone'\""),
        ("script_master_rx_lower_pri", "\"'/bin/low'\""),
        ("evips", "[\"fd00::1/64 dev d0 scope global set\"]"),
        ("vroutes", "[\"10.81.0.0/16 via 10.9.0.2 table 99 metric 5\"]"),
        ("vrules", "[\"from 10.9.0.100/32 priority 2000 table 99\"]"),
        ("track_script", "[\"'/bin/check' '3306'\"]"),
        ("track_process", "[\"mysqld\"]"),
        ("auth_type", "0"),
    ] {
        assert_eq!(data[key], json(value), "{key}");
    }
    assert_eq!((&stats["auth_ext_stale"], &stats["auth_ext_replay"]), (&json("6"), &json("0")));
    let process = "{\"process\":\"mysqld\",\"parameters\":\"--user mysql\",\
        \"param_match\":\"exact\",\"min_processes\":2,\"max_processes\":5,\"current_processes\":3,\
        \"have_quorum\":true,\"weight\":7,\"terminate_delay\":0.0,\"fork_delay\":0.5,\
        \"fork_delay_timer_running\":true,\"terminate_delay_timer_running\":false,\
        \"full_command\":false}";
    assert!(super::json(&known).contains(process), "in keepalived's order: {process}");
    assert_eq!(all["track_process"], json(&format!("[{process}]")));
    // Without all that: keepalived's defaults.
    let all: serde_json::Value = serde_json::from_str(&with(TEXT, super::json)).expect("JSON");
    let data = &all[0]["data"];
    let plain = ["strict_mode", "lower_prio_no_advert", "higher_prio_send_advert"];
    assert!(plain.iter().all(|key| data[key] == 0) && data["accept"] == 1, "{data}");
    assert_eq!((&data["vmac_ifname"], &data["ifp_ifname"]), (&json("\"\""), &json("\"d0\"")));
    assert!(data.get("evips").is_none() && all[0]["stats"].get("auth_ext_stale").is_none());
}

/// As gen2brain/keepalived_exporter and mehdy/keepalived-exporter cut the text: instances begin with
/// ` VRRP Instance =`, fields have three blanks, list entries five.
#[test]
fn data_is_read_by_the_exporters_rules() {
    let text = with(TEXT, data);
    let (mut instance, mut list) = (None, String::new());
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut vips = Vec::new();
    for line in text.lines() {
        if line.starts_with(" VRRP Instance") && line.contains('=') {
            instance = line.split('=').nth(1).map(|name| name.trim().to_owned());
        } else if line.starts_with("     ") && instance.is_some() {
            if list.starts_with("Virtual IP") {
                vips.push(line.trim().to_owned());
            }
        } else if line.starts_with("   ") && instance.is_some() {
            match line.trim().split_once('=') {
                Some((key, value)) => {
                    let old = fields.insert(key.trim().into(), value.trim().into());
                    assert_eq!(old, None, "{key} twice");
                }
                None => list = line.trim().to_owned(),
            }
        } else if line.starts_with("------< VRRP Scripts") {
            break;
        }
    }
    assert_eq!(instance.as_deref(), Some("VI_1"));
    for (key, value) in [
        ("State", "MASTER"),
        ("Wantstate", "MASTER"),
        ("Interface", "d0"),
        ("Virtual Router ID", "51"),
        ("Gratuitous ARP delay", "5"),
        ("Last transition", "1795364514.347000"),
    ] {
        assert_eq!(fields.get(key).map(String::as_str), Some(value), "{key}");
    }
    let words: Vec<&str> = vips[0].split(' ').collect();
    assert_eq!((words[0], words[2]), ("10.9.0.100/24", "d0"));
    assert!(text.contains(" VRRP Script = chk\n") && text.contains("   Status = GOOD\n"));
    assert!(!text.contains("secret"));
}

/// The text that a keepalived 2.2.7 wrote, with our numbers.
#[test]
fn stats_are_keepaliveds_text() {
    assert_eq!(
        with(TEXT, stats),
        "VRRP Instance: VI_1\n  Advertisements:\n    Received: 0\n    Sent: 3\n  Became master: 1\n  \
         Released master: 0\n  Packet Errors:\n    Length: 5\n    TTL: 3\n    Invalid Type: 0\n    \
         Advertisement Interval: 0\n    Address List: 0\n  Authentication Errors:\n    \
         Invalid Type: 0\n    Type Mismatch: 0\n    Failure: 4\n  Priority Zero:\n    Received: 0\n    \
         Sent: 0\n"
    );
}

#[test]
fn files_are_written_whole_and_links_are_not_followed() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("tempdir");
    let (target, path) = (dir.path().join("precious"), dir.path().join("keepalived.data"));
    fs::write(&target, "mine").expect("written");
    std::os::unix::fs::symlink(&target, &path).expect("linked");
    write(&path, "dump").expect("written");
    assert_eq!(fs::read_to_string(&target).expect("kept"), "mine");
    let meta = fs::symlink_metadata(&path).expect("there");
    assert!(meta.is_file() && meta.permissions().mode() & 0o777 == 0o600);
    write(&path, "again").expect("written");
    assert_eq!(fs::read_to_string(&path).expect("there"), "again");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2, "nothing else is left");
    assert!(write(&dir.path().join("no/dir"), "x").is_err());
}

#[test]
fn names_and_signals() {
    with(TEXT, |known| {
        let path = Dump::Json.path(known.config, Some("a"));
        assert!(path.ends_with("keepalived.json"), "{path:?}");
    });
    let text = TEXT.replace("router_id R1", "data_use_instance\n stats_dump_file /run/s");
    with(&text, |known| {
        assert!(Dump::Data.path(known.config, Some("a")).ends_with("keepalived_a.data"));
        assert_eq!(Dump::StatsClear.path(known.config, Some("a")), Path::new("/run/s"));
    });
    for (name, number) in SIGNALS {
        let dump = Dump::of(number);
        assert_eq!(dump.is_some(), !matches!(name, "STOP" | "RELOAD"), "{name}");
    }
    assert!(Dump::NUMBERS.iter().all(|number| Dump::of(*number).is_some()));
}
