//! Options of elections, sync groups and the VRRP process; strict mode.

use std::time::Duration;

use crate::{
    base::net::Priority,
    config::{Outcome, check, model::*},
};

fn instance(name: &str, vrid: u8, words: &str) -> String {
    format!(
        "vrrp_instance {name} {{\n interface eth0\n virtual_router_id {vrid}\n {words}\n \
         virtual_ipaddress {{ 192.0.2.{vrid} }}\n}}\n"
    )
}

fn one(globals: &str, words: &str) -> Outcome {
    let text = format!("global_defs {{\n{globals}\n}}\n{}", instance("A", 1, words));
    check("x.conf", text.as_bytes())
}

/// What is said, one line each, `at` its line.
fn said(outcome: &Outcome) -> Vec<String> {
    outcome.diagnostics.iter().map(|it| format!("{}: {}", it.place.line, it.message)).collect()
}

fn config(outcome: Outcome) -> Config {
    assert!(outcome.config.is_some(), "{}", outcome.render());
    outcome.config.unwrap_or_default()
}

#[test]
fn options_of_an_election_have_defaults_for_all() {
    let rows: [(&str, &str, Election); 5] = [
        ("", "", Election::default()),
        (
            "vrrp_down_timer_adverts 5\nvrrp_lower_prio_no_advert\n\
             vrrp_higher_prio_send_advert on\nvrrp_owner_ignore_adverts yes",
            "",
            Election {
                down_timer_adverts: 5,
                lower_prio_no_advert: true,
                higher_prio_send_advert: true,
                owner_ignore_adverts: true,
                told_handover: false,
                strict: false,
            },
        ),
        (
            "vrrp_down_timer_adverts 5\nvrrp_lower_prio_no_advert",
            "down_timer_adverts 2\nlower_prio_no_advert off",
            Election { down_timer_adverts: 2, ..Election::default() },
        ),
        (
            "vrrp_strict",
            "",
            Election { strict: true, lower_prio_no_advert: true, ..Election::default() },
        ),
        ("vrrp_strict", "strict_mode no", Election::default()),
    ];
    for (globals, words, want) in rows {
        let config = config(one(globals, words));
        assert_eq!(config.vrrp_instances[0].election, want, "{globals} / {words}");
    }
}

#[test]
fn bad_options_are_told_at_their_place() {
    let rows = [
        ("", "down_timer_adverts 0", "7: `down_timer_adverts` cannot be `0`"),
        ("", "down_timer_adverts 101", "7: `down_timer_adverts` cannot be `101`"),
        ("", "down_timer_adverts 1", "7: with `down_timer_adverts 1` a single lost"),
        (
            "",
            "told_handover",
            "7: vrrp_instance `A`: `told_handover` has no effect in VRRP version 2",
        ),
        (
            "vrrp_strict",
            "version 3\ntold_handover",
            "4: vrrp_instance `A`: strict mode has no `told_h",
        ),
        ("", "lower_prio_no_advert maybe", "7: `lower_prio_no_advert` cannot be `maybe`"),
        ("", "timer_expired_backup 255\nnopreempt", "7: `timer_expired_backup` cannot be `255`"),
        ("", "timer_expired_backup", "7: vrrp_instance `A`: `timer_expired_backup` has no effect"),
        ("", "nopreempt\nstate MASTER\npriority 100", "7: vrrp_instance `A`: `nopreempt` has no"),
        ("", "state MASTER", "4: vrrp_instance `A`: state MASTER without `priority` means"),
        ("vrrp_rt_priority 100", "", "2: `vrrp_rt_priority` cannot be `100`"),
        ("vrrp_priority -21", "", "2: `vrrp_priority` cannot be `-21`"),
        ("vrrp_cpu_affinity 0 1024", "", "2: `vrrp_cpu_affinity` cannot be `1024`"),
        ("vrrp_startup_delay x", "", "2: `vrrp_startup_delay` cannot be `x`"),
    ];
    for (globals, words, want) in rows {
        let outcome = one(globals, words);
        let said = said(&outcome);
        assert!(said.iter().any(|it| it.starts_with(want)), "{want}: {said:#?}");
    }
}

#[test]
fn timer_expired_backup_is_254_unless_it_says() {
    for (words, want) in [
        ("nopreempt\ntimer_expired_backup", Some(Priority(254))),
        ("nopreempt\nthread_timer_expired 90", Some(Priority(90))),
        ("timer_expired_backup 90", None),
        ("", None),
    ] {
        assert_eq!(config(one("", words)).vrrp_instances[0].timer_expired_backup, want, "{words}");
    }
}

#[test]
fn strict_mode_clears_and_refuses_with_a_reason() {
    let cleared = one(
        "vrrp_strict",
        "state MASTER\npriority 150\npreempt_delay 3\ndown_timer_adverts 4\n\
         authentication {\nauth_type PASS\nauth_pass x\n}",
    );
    let words = said(&cleared).join("\n");
    for what in ["`authentication`", "`preempt_delay`", "`down_timer_adverts`", "state MASTER"] {
        assert!(words.contains(&format!("strict mode has no {what}")), "{what}: {words}");
    }
    let config = config(cleared);
    let it = &config.vrrp_instances[0];
    assert_eq!(it.state, InitialState::Backup);
    assert_eq!((it.preempt_delay, it.election.down_timer_adverts), (Duration::ZERO, 3));
    assert_eq!(it.authentication, Authentication::None);
    assert!(
        it.on_host.no_accept.is_some(),
        "the host does not answer for a VIP that it only holds"
    );
    assert!(words.contains("in strict mode the host itself does not answer"), "{words}");
    let owner = one("vrrp_strict", "state MASTER\npriority 255");
    assert!(!said(&owner).join("").contains("strict"), "{:?}", said(&owner));
    let accept = one("vrrp_strict", "priority 100\naccept");
    assert!(said(&accept).join("").contains("strict mode has no `accept` in version 2"));
    let accept = self::config(accept);
    assert!(accept.vrrp_instances[0].on_host.no_accept.is_some());
    let accept = self::config(one("vrrp_strict\nvrrp_version 3", "priority 100\naccept"));
    assert!(accept.vrrp_instances[0].on_host.no_accept.is_none(), "version 3 has accept mode");
    let quiet = one("vrrp_strict", "garp_lower_prio_repeat 3");
    assert!(said(&quiet).join("").contains("strict mode has no `garp_lower_prio_*`"));
    assert_eq!(self::config(quiet).vrrp_instances[0].garp.lower_repeat, 0);
    for (version, words, what) in [
        (2, "use_vmac\nvmac_xmit_base", "`vmac_xmit_base`"),
        (2, "use_vmac 02:00:00:00:00:07", "a chosen MAC address of `use_vmac`"),
        (
            3,
            "auth_hmac {\nkey 1 ascii 0123456789abcdef0123456789abcdef\nmode permissive\n}",
            "`auth_hmac` in",
        ),
    ] {
        let refused = one(&format!("vrrp_strict\nvrrp_version {version}"), words);
        let said = said(&refused).join("\n");
        assert!(said.contains(&format!("strict mode does not go with {what}")), "{what}: {said}");
        assert!(refused.config.is_none(), "{what}");
    }
    let global = "vrrp_instance A {\ninterface eth0\nvirtual_router_id 1\nstrict_mode\n\
                  virtual_ipaddress { 2001:db8::1 }\n}";
    let global = check("x.conf", global.as_bytes());
    assert!(
        said(&global).join("").contains("strict mode does not go with a first IPv6 VIP"),
        "{:?}",
        said(&global)
    );
    let unicast = one("vrrp_strict", "unicast_peer {\n192.0.2.99\n}");
    assert!(unicast.config.is_none());
    assert!(
        said(&unicast).join("").contains("strict mode does not go with `unicast_peer`"),
        "{:?}",
        said(&unicast)
    );
    let none = "vrrp_instance A {\ninterface eth0\nvirtual_router_id 1\nstrict_mode\n\
                no_virtual_ipaddress\n}";
    assert!(check("x.conf", none.as_bytes()).config.is_none(), "no VIP");
}

#[test]
fn the_vrrp_process_and_its_start() {
    let globals = "vrrp_priority -5\nvrrp_no_swap\nvrrp_rt_priority 50\nvrrp_cpu_affinity 0 2\n\
                   vrrp_rlimit_rttime 20000\nvrrp_startup_delay 2.5\nvrrp_delay_after_boot 60";
    let global = config(one(globals, "")).global;
    assert_eq!(
        global.vrrp_process,
        Scheduling {
            nice: Some(-5),
            no_swap: true,
            rt_priority: Some(50),
            cpu_affinity: vec![0, 2],
            rlimit_rttime_us: Some(20_000),
        }
    );
    assert_eq!(global.vrrp_startup_delay, Duration::from_millis(2500));
    assert_eq!(global.vrrp_delay_after_boot, Duration::from_secs(60));
}

fn grouped(group: &str, words: &str) -> Outcome {
    let text = format!(
        "vrrp_script chk {{\nscript /bin/true\nweight -20\n}}\n{}{}vrrp_sync_group G {{\n{group}\n}}\n",
        instance("A", 1, words),
        instance("B", 2, ""),
    );
    check("x.conf", text.as_bytes())
}

#[test]
fn a_sync_group_with_what_it_tracks_and_runs() {
    let outcome = grouped(
        "group {\nA\nB\n}\ntrack_script {\nchk weight 0\n}\ntrack_interface {\neth9\n}\n\
         notify_master \"/bin/m x\"\nnotify /bin/n\nglobal_tracking",
        "",
    );
    let config = config(outcome);
    let [group] = &config.vrrp_sync_groups[..] else { panic!("one group") };
    assert_eq!((group.name.as_str(), group.members.join(" ")), ("G", "A B".to_owned()));
    assert_eq!(group.track_scripts[0].weight, Some(0));
    assert_eq!(group.track_interfaces[0].name, "eth9");
    assert_eq!(group.notify.master.as_ref().map(|it| it.argv.len()), Some(2));
    assert!(group.notify.any.is_some() && group.notify.stop.is_none());
    assert!(!group.tracking_weight);
}

#[test]
fn weights_in_a_group_are_cleared_and_told_unless_they_are_asked_for() {
    let track = "track_script {\nchk\n}\ntrack_interface {\neth9 weight 5\n}";
    let outcome = grouped("group { A\nB }\ntrack_script {\nchk\n}", track);
    let words = said(&outcome).join("\n");
    let want = "weights do not count in a group; not tracked: script chk, script chk of A, \
                interface eth9 of A";
    assert!(words.contains(want), "{words}");
    let config = config(outcome);
    assert!(config.vrrp_sync_groups[0].track_scripts.is_empty());
    assert!(config.vrrp_instances[0].track_scripts.is_empty());
    let outcome =
        grouped("group { A\nB }\ntrack_script {\nchk\n}\nsync_group_tracking_weight", track);
    assert!(!said(&outcome).join("").contains("weights do not count"));
    let kept = self::config(outcome);
    assert!(kept.vrrp_sync_groups[0].tracking_weight);
    assert_eq!(kept.vrrp_sync_groups[0].track_scripts.len(), 1);
    assert_eq!(kept.vrrp_instances[0].track_interfaces.len(), 1);
}

#[test]
fn weights_of_every_kind_of_tracker_in_a_group_are_told() {
    let objects = "vrrp_track_process p {\nprocess x\nweight 5\n}\ntrack_file f {\nfile /run/f\n}\n\
        track_mysql m {\nuser u\nweight 7\n}\n";
    let lists = "track_process {\np\n}\ntrack_file {\nf\n}\ntrack_mysql {\nm\n}";
    let of = |lists: &str, more: &str| {
        let text = format!(
            "{objects}{}{}vrrp_sync_group G {{\ngroup {{ A\nB }}\n{lists}\n{more}\n}}\n",
            instance("A", 1, lists),
            instance("B", 2, ""),
        );
        check("x.conf", text.as_bytes())
    };
    let outcome = of(lists, "");
    let words = said(&outcome).join("\n");
    let want = "not tracked: vrrp_track_process p, track_file f, track_mysql m, vrrp_track_process p of A, \
                track_file f of A, track_mysql m of A";
    assert!(words.contains(want), "{words}");
    let cleared = config(outcome);
    assert_eq!(cleared.vrrp_sync_groups[0].track_more, TrackLists::default());
    assert_eq!(cleared.vrrp_instances[0].track_more, TrackLists::default());
    let fault = lists.replace("{\np", "{\np weight 0").replace("{\nf", "{\nf weight 0");
    let fault = fault.replace("{\nm", "{\nm weight 0");
    for outcome in [of(&fault, ""), of(lists, "sync_group_tracking_weight")] {
        assert!(!said(&outcome).join("").contains("weights do not count"));
        let kept = config(outcome);
        for lists in [&kept.vrrp_sync_groups[0].track_more, &kept.vrrp_instances[0].track_more] {
            assert_eq!((lists.processes.len(), lists.files.len(), lists.mysql.len()), (1, 1, 1));
        }
    }
}

#[test]
fn mistakes_in_groups_are_told_at_their_place() {
    let rows = [
        ("group { A\nC }", "", "there is no vrrp_instance `C`"),
        ("group { A\nA }", "", "vrrp_instance `A` is in a sync group already"),
        ("group { A }", "", "fewer than two members"),
        ("group { A\nB }", "priority 150", "different priorities {100, 150}"),
        ("group { A\nB }", "nopreempt", "some of its members have `nopreempt`"),
        ("group { A\nB }\ntrack_script {\nchl\n}", "", "track script `chl` is not defined"),
        ("group { A\nB }\n}\nvrrp_sync_group G {\ngroup { A }", "", "`G` is defined twice"),
    ];
    for (group, words, want) in rows {
        let said = said(&grouped(group, words)).join("\n");
        assert!(said.contains(want), "{want}: {said}");
    }
}

#[test]
fn words_that_contradict_each_other_are_told_at_their_place() {
    let rows = [
        ("use_ipvlan\nuse_vmac", "8: `use_vmac` cannot go with `use_ipvlan`"),
        ("use_vmac\nuse_ipvlan", "8: `use_ipvlan` cannot go with `use_vmac`"),
        ("preempt\nnopreempt", "8: vrrp_instance `A` has `preempt` and `nopreempt`"),
        ("nopreempt\npreempt", "8: vrrp_instance `A` has `preempt` and `nopreempt`"),
        ("nopreempt\npreempt_delay 5", "8: vrrp_instance `A`: `preempt_delay` has no effect here"),
        (
            "state MASTER\npriority 100\npreempt_delay 5",
            "9: vrrp_instance `A`: `preempt_delay` has no effect here",
        ),
        ("accept\nno_accept", "8: `accept` and `no_accept` in one vrrp_instance"),
        ("vmac_xmit_base", "7: vrrp_instance `A`: `vmac_xmit_base` without"),
        ("vrf blue", "7: vrrp_instance `A`: `vrf` without"),
        ("use_vmac\nvrf blue", "8: vrrp_instance `A`: `vrf` beside `interface`, which"),
        ("use_vmac a\nuse_vmac b", "8: `use_vmac` has a name already"),
        ("use_vmac a b", "7: `use_vmac` has a name already"),
        (
            "use_vmac 02:00:00:00:00:01\nuse_vmac 02:00:00:00:00:02",
            "8: `use_vmac` has an address already",
        ),
        (
            "unicast_peer { 192.0.2.8 }\nmcast_dst_ip 224.0.0.9",
            "8: vrrp_instance `A`: `mcast_dst_ip` has no effect beside",
        ),
        (
            "mcast_src_ip 192.0.2.7\nunicast_src_ip 192.0.2.6",
            "8: vrrp_instance `A`: `unicast_src_ip` has no effect",
        ),
        (
            "mcast_src_ip 192.0.2.7\nunicast_src_ip 192.0.2.6\nunicast_peer { 192.0.2.8 }",
            "7: vrrp_instance `A`: `mcast_src_ip` has no effect",
        ),
        ("no_virtual_ipaddress", "7: vrrp_instance `A`: `no_virtual_ipaddress` has no effect"),
        ("virtual_ipaddress_excluded { 192.0.2.1 }", "7: VIP 192.0.2.1 is listed twice"),
    ];
    for (words, want) in rows {
        let said = said(&one("", words));
        assert!(said.iter().any(|it| it.starts_with(want)), "{want}: {said:#?}");
    }
    let quiet = [
        "use_vmac\nvmac_xmit_base",
        "use_vmac\nuse_vmac a\nuse_vmac\nuse_vmac 02:00:00:00:00:01",
        "accept",
        "mcast_src_ip 192.0.2.7",
        "unicast_src_ip 192.0.2.7\nunicast_peer { 192.0.2.8 }",
        "virtual_ipaddress_excluded { 192.0.2.2 }",
    ];
    for words in quiet {
        assert_eq!(said(&one("", words)), [""; 0], "{words}");
    }
    let twice = format!("{}{}", instance("A", 1, "use_vmac v0"), instance("B", 2, "use_vmac v0"));
    let twice = said(&check("x.conf", twice.as_bytes()));
    assert_eq!(twice, ["10: virtual interface `v0` is named twice"]);
    let groups = format!(
        "{}track_group G {{\n group {{ A\n Z }}\n}}\nstatic_ipaddress {{\n 192.0.2.9 dev eth0 track_group H\n}}\n",
        instance("A", 1, "")
    );
    assert_eq!(
        said(&check("x.conf", groups.as_bytes())),
        ["9: track_group `G`: there is no vrrp_instance `Z`", "12: there is no track_group `H`"]
    );
    // The family of an instance is that of its adverts, not of the first VIP alone.
    let six = "vrrp_instance S {\ninterface eth0\nvirtual_router_id 1\nversion 3\nnative_ipv6\n\
               no_virtual_ipaddress\n}\n";
    let both = said(&check("x.conf", format!("{six}{}", instance("A", 1, "")).as_bytes()));
    assert!(!both.join("").contains("used twice"), "{both:?}");
}

// The kernel makes one macvlan of a MAC on an interface.
#[test]
fn a_virtual_mac_is_on_an_interface_once() {
    let block = |name: &str, interface: &str, words: &str, vip: &str| {
        format!(
            "vrrp_instance {name} {{\n interface {interface}\n virtual_router_id 51\n {words}\n \
             virtual_ipaddress {{\n {vip}\n }}\n}}\n"
        )
    };
    let addr = "use_vmac_addr";
    for (one, other, told) in [
        (("eth0", addr, "192.0.2.1 dev eth2"), ("eth1", addr, "192.0.2.2 dev eth2"), true),
        (("eth0", addr, "192.0.2.1 dev eth1"), ("eth1", "use_vmac", "192.0.2.2"), true),
        (("eth0", addr, "192.0.2.1 dev eth1"), ("eth1", "", "192.0.2.2"), false),
        (("eth0", addr, "192.0.2.1 dev eth2"), ("eth1", addr, "fe80::2 dev eth2"), false),
        (("eth0", addr, "192.0.2.1 dev eth2"), ("eth1", addr, "192.0.2.2 dev eth3"), false),
    ] {
        let text = block("A", one.0, one.1, one.2) + &block("B", other.0, other.1, other.2);
        let said = check("x.conf", text.as_bytes()).render();
        assert_eq!(said.contains("of VRID 51 is on `eth"), told, "{text}{said}");
        assert!(!told || said.contains("`B`"), "{said}");
    }
}

#[test]
fn a_script_of_one_file_asks_whether_it_can_be_read() {
    let text = format!(
        "vrrp_script f {{\n script \"</var/run/ok\"\n}}\n{}",
        instance("A", 1, "track_script {\n f\n }")
    );
    let config = config(check("x.conf", text.as_bytes()));
    assert_eq!(config.vrrp_scripts["f"].command.argv, ["/usr/bin/test", "-r", "/var/run/ok"]);
}

#[test]
fn a_link_counts_as_up_for_less_than_the_peers_wait() {
    let file = |words: &str, delays: &str| {
        format!(
            "vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n priority 100\n{words}\n \
             virtual_ipaddress {{\n  192.0.2.1\n }}\n}}\n\
             interface_up_down_delays {{\n{delays}\n}}\n"
        )
    };
    let loaded = |text: &str| check("t", text.as_bytes());
    let down =
        |outcome: &Outcome, at: usize| outcome.config.as_ref().expect("good").link_delays[at].down;
    // Words of the instance, delay in seconds, what is used in milliseconds.
    let rows = [
        (" advert_int 1", "eth0 2 200", 2000),
        (" advert_int 1", "eth0 2.5", 2000),
        (" advert_int 1\n down_timer_adverts 5", "eth0 10", 4000),
        (" advert_int 1\n down_timer_adverts 1", "eth0 10", 0),
        (" version 3\n advert_int 0.1", "eth0 1", 200),
        (" advert_int 1", "eth1 10", 10_000),
    ];
    for (words, delays, used) in rows {
        let outcome = loaded(&file(words, delays));
        assert_eq!(down(&outcome, 0), Duration::from_millis(used), "{words} {delays}");
    }
    // The instance with the shortest wait counts, wherever the block stands, and is named.
    let other = "vrrp_instance W {\n interface eth0\n virtual_router_id 2\n priority 100\n \
                 version 3\n advert_int 0.5\n virtual_ipaddress {\n  192.0.2.2\n }\n}\n";
    let outcome = loaded(&format!("{}{other}", file(" advert_int 1", "eth9 9\neth0 3 1")));
    assert_eq!([0, 1].map(|at| down(&outcome, at)), [9000, 1000].map(Duration::from_millis));
    let said = outcome.render();
    let wanted = "warning: down delay 3s of interface eth0 is longer than 2 adverts of \
                  vrrp_instance W: 1s is used";
    assert!(said.contains(wanted) && said.contains("--> t:12:1"), "{said}");
}

/// `nopreempt` that the state or the priority makes void is explained at its line.
#[test]
fn nopreempt_that_has_no_effect_says_why() {
    let rows = [
        (
            "nopreempt\nstate MASTER\npriority 100",
            false,
            Some("it cannot go with state MASTER; set state BACKUP on both hosts"),
        ),
        (
            "state MASTER\nnopreempt",
            false,
            Some("it cannot go with state MASTER; set state BACKUP on both hosts"),
        ),
        ("nopreempt\npriority 255", false, Some("it cannot go with priority 255")),
        ("nopreempt\nstate BACKUP\npriority 100", true, None),
        ("nopreempt", true, None),
    ];
    for (words, effective, why) in rows {
        let outcome = one("", words);
        let line = 7 + words.lines().position(|word| word == "nopreempt").unwrap_or(0);
        let place = format!("{line}: vrrp_instance `A`: `nopreempt` has no effect here");
        let told = said(&outcome).iter().any(|it| it.starts_with(&place));
        assert_eq!(told, why.is_some(), "{words}: {:?}", said(&outcome));
        let text = outcome.render();
        assert!(why.is_none_or(|why| text.contains(why)), "{words}: {text}");
        assert_eq!(config(outcome).vrrp_instances[0].nopreempt, effective, "{words}");
    }
}
