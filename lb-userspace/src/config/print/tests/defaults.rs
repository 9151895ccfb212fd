//! The column "default" of the keyword table is what is in force where a file says nothing: every value
//! that is printed as a default is looked up there.

use std::collections::{BTreeMap, BTreeSet};

use super::{annotate, items, lines};
use crate::{
    base::written::{Origin, Statement},
    config::{
        keywords::{self, Block, Keyword, Status},
        load,
    },
};

/// Files in which every block that has defaults stands once, with as little in it as it takes.
fn texts() -> [String; 2] {
    let checks = vec![
        "TCP_CHECK {\n }",
        "MISC_CHECK {\n misc_path /bin/x\n }",
        "MYSQL_CHECK {\n }",
        "HTTP_GET {\n url {\n }\n }",
    ];
    let frame = lines::file(&[
        ("real_server", checks),
        ("vrrp_instance", vec!["authentication {\n auth_type PASS\n auth_pass x\n }"]),
    ]);
    let hmac = "auth_hmac {\n key 1 0123456789abcdef0123456789abcdef\n active_key 1\n }";
    let sync = "flow_sync {\n key 0123456789abcdef0123456789abcdef\n peer 192.0.2.9\n }";
    let of_instance = ("vrrp_instance", vec!["version 3", hmac]);
    [frame, lines::file(&[("global_defs", vec![sync]), of_instance])]
}

/// Block and words of every statement that no file has.
fn in_force(text: &str) -> Vec<(Block, Vec<String>)> {
    fn walk(block: Block, statements: &[Statement], out: &mut Vec<(Block, Vec<String>)>) {
        for statement in statements {
            let opens = statement.words.first().and_then(|word| keywords::find(block, word)?.opens);
            match (&statement.block, opens) {
                (Some(inner), Some(opens)) => walk(opens, inner, out),
                _ if block.is_list() || statement.origin != Origin::Default => {}
                _ => out.push((block, statement.words.clone())),
            }
        }
    }
    let outcome = load("t", text);
    let config = outcome.config.as_ref().unwrap_or_else(|| panic!("{text}\n{}", outcome.render()));
    let mut out = Vec::new();
    walk(Block::Root, &annotate(&items(config), outcome.original.as_ref()), &mut out);
    out
}

/// What the table says of a word in a block: `1; MISC_CHECK 0, DNS_CHECK 3` is 0 in MISC_CHECK; another word
/// in its place, or `as` one, has the default of that word; `A with X, else B` is B here, where no X stands.
fn tabled(row: &'static Keyword, block: Block) -> &'static str {
    let (general, special) = row.default.split_once("; ").unwrap_or((row.default, ""));
    let mut special = special.split(", ").filter_map(|it| it.split_once(' '));
    let value = special
        .find(|(name, _)| block.title().split(", ").any(|title| title == *name))
        .map_or(general, |it| it.1);
    let value = value.rsplit_once(", else ").map_or(value, |(_, other)| other);
    let name = value.strip_prefix("as ").unwrap_or(value);
    // The prefix `vrrp` of links is not the word.
    let is_name = |other: &&Keyword| other.name == name && ![row.name, "vrrp"].contains(&name);
    keywords::anywhere(name).find(is_name).map_or(value, |other| tabled(other, block))
}

/// Checkers whose blocks are read and not run yet.
const CHECKERS_TO_COME: [Block; 5] =
    [Block::PingCheck, Block::UdpCheck, Block::DnsCheck, Block::SmtpCheck, Block::SmtpHost];

/// Numbers that are printed only where a file has them.
const NOT_PRINTED: [(&str, Block); 20] = [
    // Without persistence there are neither.
    ("persistence_timeout", Block::VirtualServer),
    ("persistence_granularity", Block::VirtualServer),
    // Of virtual servers and real servers: they are those of the checkers, which print them.
    ("connect_timeout", Block::VirtualServer),
    ("delay_before_retry", Block::VirtualServer),
    ("delay_before_retry", Block::RealServer),
    ("delay_loop", Block::RealServer),
    ("retry", Block::VirtualServer),
    ("retry", Block::RealServer),
    ("weight", Block::VirtualServer),
    // It has no effect there: suspect, fall and rise are printed.
    ("retry", Block::MysqlCheck),
    // Zero is the absence of a delay or an interval.
    ("delay", Block::TrackProcess),
    ("fork_delay", Block::TrackProcess),
    ("terminate_delay", Block::TrackProcess),
    ("garp_interval", Block::GarpGroup),
    ("gna_interval", Block::GarpGroup),
    ("interface_up_down_delays", Block::Root),
    ("vrrp_garp_interval", Block::GlobalDefs),
    ("vrrp_gna_interval", Block::GlobalDefs),
    // Unset they are no statement; what is then on the wire is in `vrrp_wire`.
    ("unicast_ttl", Block::VrrpInstance),
    ("vrrp_mcast_group4", Block::GlobalDefs),
];

/// Defaults that are no value to print: they say where the value comes from, or that nothing is done.
const IN_WORDS: [(&str, Block); 92] = [
    // Switches: they stand only where they are on, and off is their absence.
    ("alpha", Block::TrackMysql),
    ("alpha", Block::VirtualServer),
    ("alpha", Block::RealServer),
    ("alpha", Block::TcpCheck),
    ("alpha", Block::MiscCheck),
    ("alpha", Block::MysqlCheck),
    ("alpha", Block::HttpGet),
    ("check_adv_addr", Block::VrrpInstance),
    ("check_unicast_src", Block::VrrpInstance),
    ("dont_track_primary", Block::VrrpInstance),
    ("dynamic_interfaces", Block::GlobalDefs),
    ("enable_script_security", Block::GlobalDefs),
    ("enable_sni", Block::HttpGet),
    ("fifo_write_vrrp_states_on_reload", Block::GlobalDefs),
    ("flow_sync", Block::GlobalDefs),
    ("full_command", Block::TrackProcess),
    ("include_check", Block::GlobalDefs),
    ("inhibit_on_failure", Block::VirtualServer),
    ("inhibit_on_failure", Block::RealServer),
    ("init_fail", Block::VrrpScript),
    ("metrics_listen", Block::GlobalDefs),
    ("misc_dynamic", Block::MiscCheck),
    ("nftables_counters", Block::GlobalDefs),
    ("no_accept", Block::VrrpInstance),
    ("no_checker_emails", Block::GlobalDefs),
    ("no_email_faults", Block::GlobalDefs),
    ("no_virtual_ipaddress", Block::VrrpInstance),
    ("nopreempt", Block::VrrpInstance),
    ("notify_deleted", Block::VrrpInstance),
    ("old_unicast_checksum", Block::VrrpInstance),
    ("omega", Block::VirtualServer),
    ("preempt", Block::VrrpInstance),
    ("promote_secondaries", Block::VrrpInstance),
    ("regex_min_offset", Block::Url),
    ("regex_no_match", Block::Url),
    ("sync_group_tracking_weight", Block::SyncGroup),
    ("timer_expired_backup", Block::VrrpInstance),
    ("track_src_ip", Block::VrrpInstance),
    ("unicast_fault_no_peer", Block::VrrpInstance),
    ("use_ipvlan", Block::VrrpInstance),
    ("use_vmac", Block::VrrpInstance),
    ("use_vmac_addr", Block::VrrpInstance),
    ("vmac_xmit_base", Block::VrrpInstance),
    ("vrrp_check_unicast_src", Block::GlobalDefs),
    ("vrrp_min_garp", Block::GlobalDefs),
    ("vrrp_no_swap", Block::GlobalDefs),
    ("vrrp_rlimit_rttime", Block::GlobalDefs),
    ("vrrp_strict", Block::GlobalDefs),
    // Whether these act is printed with the scheduler and in each object.
    ("flag-1", Block::VirtualServer),
    ("flag-2", Block::VirtualServer),
    ("mh-fallback", Block::VirtualServer),
    ("mh-port", Block::VirtualServer),
    ("sh-fallback", Block::VirtualServer),
    ("sh-port", Block::VirtualServer),
    ("smtp_alert", Block::GlobalDefs),
    ("smtp_alert_checker", Block::GlobalDefs),
    ("smtp_alert_vrrp", Block::GlobalDefs),
    // From the host, or from what another word of the object says.
    ("interface", Block::FlowSync),
    ("peer", Block::FlowSync),
    ("source", Block::FlowSync),
    ("default_interface", Block::GlobalDefs),
    ("json_dump_file", Block::GlobalDefs),
    ("mcast_dst_ip", Block::VrrpInstance),
    ("mcast_src_ip", Block::VrrpInstance),
    ("notification_email_from", Block::GlobalDefs),
    ("process_name", Block::GlobalDefs),
    ("random_seed", Block::GlobalDefs),
    ("router_id", Block::GlobalDefs),
    ("script_user", Block::GlobalDefs),
    ("smtp_helo_name", Block::GlobalDefs),
    ("smtp_server", Block::GlobalDefs),
    ("state_dump_file", Block::GlobalDefs),
    ("stats_dump_file", Block::GlobalDefs),
    ("unicast_peer", Block::VrrpInstance),
    ("unicast_src_ip", Block::VrrpInstance),
    ("virtualhost", Block::HttpGet),
    ("virtualhost", Block::Url),
    ("user", Block::VrrpScript),
    ("user", Block::TrackMysql),
    ("user", Block::MiscCheck),
    ("user", Block::MysqlCheck),
    ("vmac_addr_prefix", Block::GlobalDefs),
    ("vrrp_mcast_group6", Block::GlobalDefs),
    // The files of this test have it, because lbd wants it said.
    ("protocol", Block::VirtualServer),
    // Other names of a word that is printed, and words that the checkers print.
    ("lvs_method", Block::VirtualServer),
    ("lvs_method", Block::RealServer),
    ("lvs_sched", Block::VirtualServer),
    ("thread_timer_expired", Block::VrrpInstance),
    ("vmac_garp_intvl", Block::VrrpInstance),
    ("vrrp_vmac_garp_intvl", Block::GlobalDefs),
    ("warmup", Block::VirtualServer),
    ("warmup", Block::RealServer),
];

fn find_acting(name: &str, block: Block) -> bool {
    keywords::find(block, name).is_some_and(|row| {
        matches!(row.status, Status::Acts | Status::Ours) && !row.default.is_empty()
    })
}

#[test]
fn the_defaults_of_the_table_are_those_in_force() {
    let (mut wrong, mut seen) = (Vec::new(), BTreeMap::new());
    for (block, words) in texts().iter().flat_map(|text| in_force(text)) {
        let (keyword, value) = (words[0].clone(), words[1..].join(" "));
        let row = keywords::find(block, &keyword).expect("printed words are in the table");
        let tabled = tabled(row, block);
        let number = tabled.split_once(' ').map_or(tabled, |(number, _)| number);
        let same = [tabled, number].contains(&value.as_str())
            || matches!((tabled, value.as_str()), ("off", "false") | ("on", "true" | ""))
            || matches!(
                (tabled, value.as_str()),
                // What the files have as address and port of real servers, and three adverts of 1 s.
                ("the real server's", "192.0.2.101" | "192.0.2.102" | "3306")
                    | ("max(3×advert_int, 5)", "5")
            );
        if !same {
            wrong.push(format!(
                "{} {}: {value} in force, {tabled} in the table",
                block.title(),
                keyword
            ));
        }
        seen.insert((keyword, block), value);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, block) in NOT_PRINTED.iter().chain(&IN_WORDS) {
        assert!(find_acting(name, *block), "{name} in {block:?} is no word with a default");
        assert!(!seen.contains_key(&((*name).to_owned(), *block)), "{name} in {block:?} is shown");
    }
    // The defaults of the table that no statement has shown: none but those.
    let unseen: BTreeSet<_> = keywords::all()
        .filter(|row| matches!(row.status, Status::Acts | Status::Ours))
        .filter(|row| !row.default.is_empty())
        .flat_map(|row| row.blocks.iter().map(|block| (row.name, *block)))
        .filter(|(name, block)| {
            let shown = seen.contains_key(&((*name).to_owned(), *block));
            let named = NOT_PRINTED.iter().chain(&IN_WORDS).any(|it| it == &(*name, *block));
            !block.is_list() && !shown && !named
        })
        .filter(|(_, block)| !CHECKERS_TO_COME.contains(block))
        .collect();
    assert!(unseen.is_empty(), "{unseen:?}\n{seen:?}");
}
