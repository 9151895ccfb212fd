//! From words of a file to what the role holds on its host and tells its state machines.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    config::load,
    vrrp::{garp::Garp, wire::OldUnicastChecksum},
};

/// What `ip` would show of an object, with every word that the file can change.
fn shown(object: &Object) -> String {
    match object {
        Object::Setting(it) => format!("{} {}", it.key, it.value),
        Object::Link(it) => {
            let kind = match it.kind {
                VirtualLinkKind::Macvlan { .. } => format!("macvlan {}", it.mac),
                VirtualLinkKind::Ipvlan { .. } => "ipvlan".into(),
            };
            let v6 = if it.ipv6 { " ipv6" } else { "" };
            format!("{}@{} {kind}{v6}", it.name, it.base)
        }
        Object::Address(it) => format!("{} {}", it.interface, it.prefix),
        other => other.to_string(),
    }
}

fn all(objects: &[Object]) -> Vec<String> {
    objects.iter().map(shown).collect()
}

/// A file that must be accepted.
fn file(text: &str) -> File {
    let outcome = load("t", text);
    let said = outcome.render();
    outcome.config.unwrap_or_else(|| panic!("{said}"))
}

/// Instance V of VRID 51 on eth0, and what else is in the file.
fn with(global: &str, words: &str, rest: &str) -> File {
    file(&format!(
        "global_defs {{\n{global}\n}}\nvrrp_instance V {{\n interface eth0\n \
         virtual_router_id 51\n{words}\n}}\n{rest}\n"
    ))
}

fn instance(global: &str, words: &str) -> VrrpInstance {
    with(global, words, "").vrrp_instances.remove(0)
}

const OTHER: &str = "virtual_ipaddress {\n 192.0.2.1\n 192.0.2.2 dev eth1\n }";

/// Words of global_defs and of the instance; interfaces of its VIPs; what it needs from its start.
struct Row(&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

#[test]
fn words_of_virtual_interfaces_become_links_on_the_right_interfaces() {
    let rows = [
        Row("", "", &["eth0 192.0.2.1/32", "eth1 192.0.2.2/32"], &[]),
        Row(
            "",
            "promote_secondaries",
            &["eth0 192.0.2.1/32", "eth1 192.0.2.2/32"],
            &["ipv4/conf/eth0/promote_secondaries 1"],
        ),
        // Without a word of its own a VIP of another interface stays there.
        Row(
            "",
            "use_vmac",
            &["vrrp.51 192.0.2.1/32", "eth1 192.0.2.2/32"],
            &[
                "ipv4/conf/eth0/arp_ignore 1",
                "ipv4/conf/eth0/arp_filter 1",
                "vrrp.51@eth0 macvlan 00:00:5e:00:01:33",
            ],
        ),
        Row(
            "vmac_prefix ha",
            "use_vmac\nvrf blue",
            &["ha.51 192.0.2.1/32", "eth1 192.0.2.2/32"],
            &[
                "ipv4/conf/eth0/arp_ignore 1",
                "ipv4/conf/eth0/arp_filter 1",
                "ha.51@eth0 macvlan 00:00:5e:00:01:33",
                "ha.51 to blue",
            ],
        ),
        Row(
            "vmac_prefix ha",
            "use_vmac own0 02:00:00:00:00:09",
            &["own0 192.0.2.1/32", "eth1 192.0.2.2/32"],
            &[
                "ipv4/conf/eth0/arp_ignore 1",
                "ipv4/conf/eth0/arp_filter 1",
                "own0@eth0 macvlan 02:00:00:00:00:09",
            ],
        ),
        Row(
            "",
            "use_vmac_addr\nvrf blue",
            &["eth0 192.0.2.1/32", "vrrp.51 192.0.2.2/32"],
            &[
                "ipv4/conf/eth1/arp_ignore 1",
                "ipv4/conf/eth1/arp_filter 1",
                "vrrp.51@eth1 macvlan 00:00:5e:00:01:33",
                "vrrp.51 to blue",
            ],
        ),
        Row(
            "",
            "use_ipvlan 192.0.2.9/24 vepa",
            &["ipvl.51 192.0.2.1/32", "eth1 192.0.2.2/32"],
            &["ipvl.51@eth0 ipvlan", "ipvl.51 192.0.2.9/24"],
        ),
    ];
    for Row(global, words, vips, base) in rows {
        let it = instance(global, &format!("{words}\n{OTHER}"));
        let held: Vec<Object> = super::vips(&it).into_iter().map(Object::Address).collect();
        assert_eq!(all(&held), vips, "{global} / {words}");
        assert_eq!(all(&super::base(&it)), base, "{global} / {words}");
        assert_eq!(holds(&it), held, "{words}");
    }
}

/// `use_vmac` after a VIP, for it alone; one link for each interface and family.
#[test]
fn vips_of_other_interfaces_share_a_virtual_mac_there() {
    let it = instance(
        "",
        "virtual_ipaddress {\n 192.0.2.1 dev eth1 use_vmac\n 192.0.2.2 dev eth1\n \
         192.0.2.3 dev eth2 use_vmac\n 192.0.2.4\n 192.0.2.5 dev eth3\n \
         192.0.2.6 dev eth1 use_vmac\n }\n\
         virtual_ipaddress_excluded {\n fd00::1/64 dev eth1 use_vmac\n}",
    );
    let held: Vec<Object> = vips(&it).into_iter().map(Object::Address).collect();
    let want = [
        "vrrp.51 192.0.2.1/32",
        "eth1 192.0.2.2/32",
        "vrrp1.51 192.0.2.3/32",
        "eth0 192.0.2.4/32",
        "eth3 192.0.2.5/32",
        "vrrp.51 192.0.2.6/32",
        "vrrp6.51 fd00::1/64",
    ];
    assert_eq!(all(&held), want);
    let base = base(&it);
    let links: Vec<String> =
        all(&base).into_iter().filter(|line| line.contains("macvlan")).collect();
    let want = [
        "vrrp.51@eth1 macvlan 00:00:5e:00:01:33",
        "vrrp1.51@eth2 macvlan 00:00:5e:00:01:33",
        "vrrp6.51@eth1 macvlan 00:00:5e:00:02:33 ipv6",
    ];
    assert_eq!(links, want);
    let names: Vec<String> = link_names(&base).into_iter().collect();
    assert_eq!(names, ["vrrp.51", "vrrp1.51", "vrrp6.51"]);
    // An IPv6 instance alone in its file.
    let it = instance("", "use_vmac_addr\nvirtual_ipaddress {\n fe80::9/64 dev eth1\n }");
    let names: Vec<String> = link_names(&super::base(&it)).into_iter().collect();
    assert_eq!(names, ["vrrp.51"]);
}

/// Each instance's VIPs, and its virtual interfaces with what is below them.
fn links_of(file: &File) -> Vec<String> {
    let objects = |it: &VrrpInstance| {
        let held: Vec<Object> = vips(it).into_iter().map(Object::Address).collect();
        let links: Vec<Object> =
            base(it).into_iter().filter(|it| matches!(it, Object::Link(_))).collect();
        all(&held).into_iter().chain(all(&links)).collect::<Vec<_>>().join(", ")
    };
    file.vrrp_instances.iter().map(objects).collect()
}

// keepalived's names: the first that is free in the whole file, `6` first for IPv6.
#[test]
fn one_vrid_on_several_interfaces_has_links_of_different_names() {
    let block = |name: &str, interface: &str, words: &str| {
        format!(
            "vrrp_instance {name} {{\n interface {interface}\n virtual_router_id 51\n {words}\n}}\n"
        )
    };
    let vips = |list: &str| format!("use_vmac_addr\nvirtual_ipaddress {{\n {list}\n }}");
    let text = block("A", "eth0", &vips("192.0.2.1 dev eth1"))
        + &block("B", "eth5", &vips("192.0.2.2 dev eth2\n192.0.2.3"))
        + &block("C", "eth6", &format!("use_vmac\n{}", vips("192.0.2.4 dev eth6")))
        + &block("D", "eth0", &vips("fe80::9 dev eth1\n fe80::8 dev vrrp6.51"));
    assert_eq!(
        links_of(&file(&text)),
        [
            "vrrp1.51 192.0.2.1/32, vrrp1.51@eth1 macvlan 00:00:5e:00:01:33",
            "vrrp2.51 192.0.2.2/32, eth5 192.0.2.3/32, vrrp2.51@eth2 macvlan 00:00:5e:00:01:33",
            "vrrp.51 192.0.2.4/32, vrrp.51@eth6 macvlan 00:00:5e:00:01:33",
            "vrrp3.51 fe80::9/128, vrrp4.51 fe80::8/128, vrrp3.51@eth1 macvlan 00:00:5e:00:02:33 \
             ipv6, vrrp4.51@vrrp6.51 macvlan 00:00:5e:00:02:33 ipv6",
        ]
    );
    // The prefix of address links is their own, and gives way to the number.
    let long = "vmac_prefix own\nvmac_addr_prefix abcdefghijklmno";
    let text = format!("global_defs {{\n{long}\n}}\n")
        + &block("A", "eth0", &format!("use_vmac\n{}", vips("192.0.2.1\n192.0.2.2 dev eth1")))
        + &block("B", "eth5", &vips("192.0.2.3 dev eth2"));
    assert_eq!(
        links_of(&file(&text)),
        [
            "own.51 192.0.2.1/32, abcdefghijkl.51 192.0.2.2/32, own.51@eth0 macvlan \
             00:00:5e:00:01:33, abcdefghijkl.51@eth1 macvlan 00:00:5e:00:01:33",
            "abcdefghijk1.51 192.0.2.3/32, abcdefghijk1.51@eth2 macvlan 00:00:5e:00:01:33",
        ]
    );
}

// An IPv4 address that an IPv6 instance holds without advertising it, and the reverse.
#[test]
fn addresses_of_the_other_family_have_the_mac_of_theirs_by_use_vmac_addr() {
    let excluded = "virtual_ipaddress {\n 192.0.2.1\n}\n\
                    virtual_ipaddress_excluded {\n fd00::1\n}";
    for (words, want) in [
        ("", "eth0 192.0.2.1/32, eth0 fd00::1/128"),
        (
            "use_vmac_addr",
            "eth0 192.0.2.1/32, vrrp.51 fd00::1/128, vrrp.51@eth0 macvlan 00:00:5e:00:02:33 ipv6",
        ),
        (
            "use_vmac\nuse_vmac_addr",
            "vrrp.51 192.0.2.1/32, vrrp6.51 fd00::1/128, vrrp.51@eth0 macvlan 00:00:5e:00:01:33 \
             ipv6, vrrp6.51@eth0 macvlan 00:00:5e:00:02:33 ipv6",
        ),
    ] {
        assert_eq!(links_of(&with("", &format!("{words}\n{excluded}"), "")), [want], "{words}");
    }
}

#[test]
fn a_master_holds_its_filter_vips_routes_and_rules_in_this_order() {
    let it = instance(
        "nftables_priority 7\nnftables_counters",
        "no_accept\nvirtual_rules {\n from 192.0.2.1 table 77\n}\n\
         virtual_routes {\n 198.51.100.0/24 via 192.0.2.3 dev eth4\n}\n\
         virtual_ipaddress {\n 192.0.2.1\n}\nvirtual_ipaddress_excluded {\n fd00::1\n}",
    );
    let want = [
        "nftables table lbd-V",
        "eth0 192.0.2.1/32",
        "eth0 fd00::1/128",
        "route 198.51.100.0/24 table 254",
        "rule from 192.0.2.1/32 to any",
    ];
    assert_eq!(all(&holds(&it)), want);
    let Some(Object::Filter(filter)) = holds(&it).into_iter().next() else { panic!("no filter") };
    let vips: Vec<String> = filter.vips.iter().map(ToString::to_string).collect();
    assert_eq!(
        (vips.join(" "), filter.priority, filter.counters),
        ("192.0.2.1 fd00::1".into(), 7, true)
    );
    // The owner's addresses are accepted (RFC 9568 §6.1).
    let owner = VrrpInstance { priority: Priority::OWNER, ..it };
    assert_eq!(all(&holds(&owner)), want[1..]);
}

fn followed(it: &VrrpInstance) -> Vec<String> {
    let lowered = config(it, &BTreeMap::new(), false).expect("possible");
    lowered
        .interfaces
        .iter()
        .map(|it| format!("{} {}{}", it.name, it.weight, if it.reverse { " reverse" } else { "" }))
        .collect()
}

#[test]
fn interfaces_of_what_it_holds_are_followed_unless_no_track() {
    let rows: [(&str, &[&str]); 6] = [
        ("", &["eth0 0"]),
        ("dont_track_primary", &[]),
        (
            "track_interface {\n eth0 weight 5\n eth9 weight -7 reverse\n}",
            &["eth0 5", "eth9 -7 reverse"],
        ),
        (
            "virtual_ipaddress_excluded {\n 192.0.2.7 dev eth1\n 192.0.2.8 dev eth2 no_track\n}",
            &["eth0 0", "eth1 0"],
        ),
        (
            "virtual_routes {\n 198.51.100.0/24 dev eth3\n 203.0.113.0/24 dev eth4 no_track\n}\n\
             virtual_rules {\n iif eth5 table 7\n iif eth6 table 7 no_track\n}",
            &["eth0 0", "eth3 0", "eth5 0"],
        ),
        ("use_vmac", &["eth0 0", "vrrp.51 0"]),
    ];
    for (words, want) in rows {
        let it = instance("", &format!("{words}\nvirtual_ipaddress {{\n 192.0.2.1\n}}"));
        assert_eq!(followed(&it), want, "{words}");
    }
}

/// The word `track_group` after a static object, and the block that names the instances.
#[test]
fn members_of_a_track_group_follow_the_interfaces_of_its_static_objects() {
    let rest = "static_ipaddress {\n 198.51.100.1/24 dev eth1 track_group g\n 198.51.100.2 dev eth2\n \
                198.51.100.3 dev eth3 track_group h\n 198.51.100.4 dev eth7 track_group g no_track\n}\n\
                static_routes {\n 203.0.113.0/24 dev eth4 track_group g\n}\n\
                static_rules {\n iif eth5 table 7 track_group g\n iif eth6 table 7 track_group h\n}\n\
                track_group g {\n group {\n V\n W\n }\n}\ntrack_group h {\n group {\n W\n }\n}\n\
                vrrp_instance W {\n interface eth0\n virtual_router_id 52\n \
                virtual_ipaddress {\n 192.0.2.2\n }\n}";
    let all = with("", "virtual_ipaddress {\n 192.0.2.1\n}", rest);
    let names = |instance: &str| group_interfaces(instance, &all.statics);
    assert_eq!(names("V"), ["eth1", "eth4", "eth5"]);
    assert_eq!(names("W"), ["eth1", "eth3", "eth4", "eth5", "eth6"]);
    assert_eq!(names("X"), [""; 0]);
}

#[test]
fn static_objects_stand_on_their_own_or_the_default_interface() {
    let blocks = "static_ipaddress {\n 198.51.100.1/24\n 198.51.100.2 dev eth2\n}\n\
                  static_rules {\n from 198.51.100.1 table 7\n}\n\
                  static_routes {\n 203.0.113.0/24 dev eth4\n}";
    let rest = [
        "eth2 198.51.100.2/32",
        "route 203.0.113.0/24 table 254",
        "rule from 198.51.100.1/32 to any",
    ];
    for (global, default) in [("", "eth0"), ("default_interface lan0", "lan0")] {
        let file = with(global, "virtual_ipaddress {\n 192.0.2.1\n}", blocks);
        let mut want = vec![format!("{default} 198.51.100.1/24")];
        want.extend(rest.map(str::to_owned));
        assert_eq!(all(&statics(&file.statics)), want, "{global}");
    }
}

#[test]
fn words_of_unicast_reach_the_state_machine() {
    let peers = "unicast_peer {\n 192.0.2.8 min_ttl 250 max_ttl 254\n 192.0.2.9 min_ttl 3\n \
                 192.0.2.10 max_ttl 9\n 192.0.2.11\n}";
    let lowered = |words: &str| {
        let it = instance("", &format!("{words}\nvirtual_ipaddress {{\n 192.0.2.1\n}}"));
        config(&it, &BTreeMap::new(), false).expect("possible")
    };
    let it = lowered(peers);
    let peer = |last: u8| std::net::IpAddr::from([192, 0, 2, last]);
    assert_eq!(it.unicast_peers, [8, 9, 10, 11].map(peer));
    let ranges = [(peer(8), 250..=254), (peer(9), 3..=255), (peer(10), 0..=9)];
    assert_eq!(it.wire.peer_ttl, ranges.into());
    assert_eq!((it.wire.ttl(true), it.wire.checks_source()), (255, true));
    assert!(!it.wire.fault_without_peers);
    let it = lowered(&format!("unicast_ttl 9\n{peers}"));
    assert_eq!((it.wire.ttl(true), it.wire.ttl(false)), (9, 255));
    let it = lowered("unicast_fault_no_peer\nunicast_peer {\n}");
    assert!(it.wire.fault_without_peers && it.unicast_peers.is_empty());
    for (words, want) in [
        ("", OldUnicastChecksum::Detect),
        ("old_unicast_checksum", OldUnicastChecksum::Always),
        ("old_unicast_checksum never", OldUnicastChecksum::Never),
    ] {
        assert_eq!(lowered(words).wire.old_unicast_checksum, want, "{words}");
    }
}

/// keepalived.md §2.1: what an instance does not say is `global_defs`', and the numbers for lower
/// priorities are those of the master's batches unless one is given.
#[test]
fn announcements_inherit_from_global_defs() {
    let s = Duration::from_secs;
    let default = Garp::default();
    let rows = [
        ("", "", default),
        (
            "vrrp_garp_master_repeat 2\nvrrp_garp_master_delay 7",
            "",
            Garp { repeat: 2, delay: s(7), lower_repeat: 2, lower_delay: s(7), ..default },
        ),
        (
            "vrrp_garp_lower_prio_repeat 8\nvrrp_garp_lower_prio_delay 9\n\
             vrrp_garp_master_repeat 2\nvrrp_garp_master_delay 7",
            "",
            Garp { repeat: 2, delay: s(7), lower_repeat: 8, lower_delay: s(9), ..default },
        ),
        (
            "vrrp_garp_lower_prio_repeat 8\nvrrp_garp_lower_prio_delay 9",
            "garp_lower_prio_repeat 1\ngarp_lower_prio_delay 3",
            Garp { lower_repeat: 1, lower_delay: s(3), ..default },
        ),
        (
            "vrrp_garp_lower_prio_repeat 8\nvrrp_garp_lower_prio_delay 9",
            "garp_lower_prio_repeat 1",
            Garp { lower_repeat: 1, lower_delay: s(9), ..default },
        ),
        (
            "vrrp_garp_master_refresh 60\nvrrp_garp_master_refresh_repeat 3",
            "garp_master_refresh 30",
            Garp { refresh: s(30), refresh_repeat: 3, ..default },
        ),
        (
            "vrrp_min_garp",
            "",
            Garp { repeat: 1, delay: s(0), lower_repeat: 1, lower_delay: s(0), ..default },
        ),
        ("vrrp_min_garp off", "", default),
        (
            "vrrp_min_garp on\nvrrp_garp_master_repeat 4\nvrrp_garp_lower_prio_delay 6",
            "garp_master_delay 2",
            Garp { repeat: 4, delay: s(2), lower_repeat: 4, lower_delay: s(6), ..default },
        ),
    ];
    for (global, words, want) in rows {
        let it = instance(global, &format!("{words}\nvirtual_ipaddress {{\n 192.0.2.1\n}}"));
        let lowered = config(&it, &BTreeMap::new(), false).expect("possible");
        assert_eq!(lowered.garp, want, "{global} / {words}");
    }
}

#[test]
fn adverts_carry_the_virtual_mac_unless_the_file_says_otherwise() {
    for (words, want) in [
        ("", None),
        ("use_vmac", Some("vrrp.51")),
        ("use_vmac own0", Some("own0")),
        ("use_vmac\nvmac_xmit_base", None),
        ("vmac_xmit_base\nuse_vmac", None),
        ("use_vmac\nunicast_peer {\n 192.0.2.9\n}", None),
        ("use_vmac_addr", None),
        ("use_ipvlan", None),
    ] {
        let it = instance("", &format!("{words}\nvirtual_ipaddress {{\n 192.0.2.1\n}}"));
        assert_eq!(advert_link(&it), want, "{words}");
    }
}

#[test]
fn the_interface_that_adverts_leave_by_is_followed() {
    for (words, options, want) in [
        ("", "", ["eth0"].as_slice()),
        ("use_vmac", "", &["eth0", "vrrp.51"]),
        // No VIP asks for it.
        ("use_vmac", "no_track", &["eth0", "vrrp.51"]),
        ("use_vmac", "dev eth1", &["eth0", "eth1", "vrrp.51"]),
        ("use_vmac\nvmac_xmit_base", "no_track", &["eth0"]),
        ("use_vmac\nunicast_peer {\n 192.0.2.9\n}", "no_track", &["eth0"]),
    ] {
        let it = instance("", &format!("{words}\nvirtual_ipaddress {{\n 192.0.2.1 {options}\n}}"));
        let lowered = config(&it, &BTreeMap::new(), false).expect("possible");
        let names: Vec<&str> = lowered.interfaces.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, want, "{words} / {options}");
    }
}

#[test]
fn adverts_from_a_virtual_mac_are_heard_where_the_kernel_brings_them() {
    let ear = |link: &str, base: &str, ipv6| Ear { link: link.into(), base: base.into(), ipv6 };
    let multicast = "virtual_ipaddress {\n 192.0.2.1\n}";
    let other = "virtual_ipaddress {\n 192.0.2.1\n 192.0.2.2 dev eth1 use_vmac\n}\n\
                 virtual_ipaddress_excluded {\n fd77::1 use_vmac\n}";
    for (words, want) in [
        (multicast.to_owned(), vec![]),
        (format!("use_vmac\n{multicast}"), vec![ear("vrrp.51", "eth0", false)]),
        (format!("use_vmac own0\nvmac_xmit_base\n{multicast}"), vec![ear("own0", "eth0", false)]),
        (format!("use_vmac\nunicast_peer {{\n 192.0.2.9\n}}\n{multicast}"), vec![]),
        (format!("use_ipvlan\n{multicast}"), vec![]),
        (
            "use_vmac\nvirtual_ipaddress {\n fe80::1\n}".to_owned(),
            vec![ear("vrrp.51", "eth0", true)],
        ),
        (other.to_owned(), vec![ear("vrrp.51", "eth1", false), ear("vrrp6.51", "eth0", true)]),
    ] {
        assert_eq!(ears(&instance("", &words)), want, "{words}");
    }
}

#[test]
fn the_pace_of_announcements_is_that_of_the_group_or_of_all() {
    let ms = Duration::from_millis;
    let vip = "virtual_ipaddress {\n 192.0.2.1\n}";
    assert_eq!(paces(&with("", vip, "")), (Gaps::default(), vec![]));
    let groups = "garp_group {\n garp_interval 0.5\n gna_interval 0.25\n interface eth1\n}\n\
                  garp_group {\n gna_interval 2\n interfaces {\n eth2 eth3\n eth4\n }\n}";
    let file = with("vrrp_garp_interval 0.1\nvrrp_gna_interval 0.03", vip, groups);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let want = vec![
        (names(&["eth1"]), Gaps { arp: ms(500), nd: ms(250) }),
        (names(&["eth2", "eth3", "eth4"]), Gaps { arp: ms(0), nd: ms(2000) }),
    ];
    assert_eq!(paces(&file), (Gaps { arp: ms(100), nd: ms(30) }, want));
}

#[test]
fn garp_extra_if_is_the_instances_or_that_of_global_defs() {
    let extra = |seconds, all| {
        Some(crate::config::model::GarpExtra { every: Duration::from_secs(seconds), all })
    };
    for (global, words, want) in [
        ("", "", None),
        ("vrrp_garp_extra_if 60", "", extra(60, false)),
        ("vrrp_garp_extra_if all 60", "", extra(60, true)),
        ("vrrp_garp_extra_if all 60", "garp_extra_if 5", extra(5, false)),
        ("vrrp_garp_extra_if 60", "garp_extra_if 0", None),
        ("", "garp_extra_if all 7", extra(7, true)),
        ("vrrp_vmac_garp_intvl 8", "", extra(8, false)),
        ("", "vmac_garp_intvl 9", extra(9, false)),
    ] {
        let it = instance(global, &format!("{words}\nvirtual_ipaddress {{\n 192.0.2.1\n}}"));
        assert_eq!(it.on_host.garp_extra, want, "{global} / {words}");
    }
}
