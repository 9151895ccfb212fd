//! Pairs of configurations and the plan between them, line by line.

mod sentences;

use proptest::{prelude::*, sample::subsequence};

use super::{States, plan};
use crate::{
    base::{
        plan::{Action, STEP_LIMIT},
        status::VrrpState,
    },
    config::{
        load,
        model::{Checker, Config, TlsCaContent},
        print::tests::lines,
    },
};

/// Two instances, a script, two virtual servers.
const BASE: &str = "\
global_defs {
    router_id LBD
}
vrrp_script chk {
    script /bin/true
    interval 2
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    priority 100
    authentication {
        auth_type PASS
        auth_pass hunter2
    }
    virtual_ipaddress {
        192.0.2.10/24
        192.0.2.11/24
    }
    track_script {
        chk
    }
}
vrrp_instance VI_2 {
    interface eth1
    virtual_router_id 51
    virtual_ipaddress {
        198.51.100.10/24
    }
}
virtual_server 192.0.2.10 3306 {
    protocol TCP
    lb_kind DR
    real_server 192.0.2.21 3306 {
        weight 1
        TCP_CHECK {
        }
    }
    real_server 192.0.2.22 3306 {
        weight 2
        TCP_CHECK {
        }
    }
}
virtual_server 192.0.2.11 3307 {
    protocol TCP
    real_server 192.0.2.23 3306 {
        TCP_CHECK {
        }
    }
}
";

/// The instance of IPv6 beside VI_1: the same VRID on the same interface is another virtual router.
const SIXTH: &str = "\
vrrp_instance VI_6 {
    interface eth0
    virtual_router_id 51
    version 3
    virtual_ipaddress {
        2001:db8::10/64
    }
}
";

fn config(text: &str) -> Config {
    let outcome = load("t", text);
    let said = outcome.render();
    outcome.config.unwrap_or_else(|| panic!("{text}\n{said}"))
}

fn states(first: VrrpState) -> States {
    [("VI_1".to_owned(), first), ("VI_2".to_owned(), VrrpState::Backup)].into()
}

/// Lines of the plan when VI_1 is master.
fn steps(new: &str) -> Vec<String> {
    let plan = plan(&config(BASE), &config(new), &states(VrrpState::Master));
    plan.steps.iter().map(ToString::to_string).collect()
}

#[test]
fn each_object_is_named_with_its_words_and_what_it_interrupts() {
    let removed_block = |from: &str| {
        let start = BASE.find(from).expect("the block");
        let end = BASE[start..].find("\n}\n").expect("its end") + start + 3;
        format!("{}{}", &BASE[..start], &BASE[end..])
    };
    let swap = |from: &str, to: &str| {
        assert!(BASE.contains(from), "{from}");
        BASE.replacen(from, to, 1)
    };
    let rows: Vec<(&str, String, Vec<&str>)> = vec![
        ("nothing", format!("{BASE}# a comment\n"), vec![]),
        (
            "a priority",
            swap("priority 100", "priority 90"),
            vec![
                "~ vrrp_instance VI_1 (VRID 51 on eth0): priority 100 -> 90; a backup that is better \
                 now takes the VIPs over, unless it has nopreempt",
            ],
        ),
        (
            "a raised priority of a master",
            swap("priority 100", "priority 110"),
            vec!["~ vrrp_instance VI_1 (VRID 51 on eth0): priority 100 -> 110; interrupts nothing"],
        ),
        (
            "another name",
            swap("vrrp_instance VI_1", "vrrp_instance MYSQL"),
            vec!["~ vrrp_instance MYSQL (VRID 51 on eth0), was VI_1; interrupts nothing"],
        ),
        (
            "another VRID",
            swap("virtual_router_id 51", "virtual_router_id 52"),
            vec![
                "- vrrp_instance VI_1 (VRID 51 on eth0); VIPs 192.0.2.10, 192.0.2.11 leave this \
                 host after a farewell (priority 0): a backup takes over, connections through this \
                 host are reset",
                "+ vrrp_instance VI_1 (VRID 52 on eth0); VIPs 192.0.2.10, 192.0.2.11 here after 3.61 \
                 s, if no better router is heard",
            ],
        ),
        (
            "an instance that is backup goes",
            removed_block("vrrp_instance VI_2"),
            vec!["- vrrp_instance VI_2 (VRID 51 on eth1); interrupts nothing"],
        ),
        (
            "one VIP more, one less",
            swap("192.0.2.11/24", "192.0.2.12/24"),
            vec![
                "~ vrrp_instance VI_1 (VRID 51 on eth0): +virtual_ipaddress 192.0.2.12/24, \
                 -virtual_ipaddress 192.0.2.11/24; VIP 192.0.2.11 leaves this host, connections to \
                 it are reset; put on and announced: VIP 192.0.2.12; peers log another VIP list until \
                 they have the same",
            ],
        ),
        (
            "a password",
            swap("auth_pass hunter2", "auth_pass secret2"),
            vec![
                "~ vrrp_instance VI_1 (VRID 51 on eth0): authentication auth_pass *** -> ***; hosts \
                 of the virtual router that do not have the same words discard the adverts: two \
                 masters until they do",
            ],
        ),
        (
            "a flag",
            swap("priority 100", "priority 100\n    nopreempt"),
            vec!["~ vrrp_instance VI_1 (VRID 51 on eth0): +nopreempt; interrupts nothing"],
        ),
        (
            "a script's pace",
            swap("interval 2", "interval 3"),
            vec!["~ vrrp_script chk: interval 2 -> 3, timeout 2 -> 3; interrupts nothing"],
        ),
        (
            "a script's command",
            swap("/bin/true", "/bin/false"),
            vec![
                "~ vrrp_script chk: script \"/bin/true\" -> \"/bin/false\"; it counts as good until \
                 its first result, as in keepalived",
            ],
        ),
        (
            "a weight",
            swap("weight 1", "weight 5"),
            vec![
                "~ real_server 192.0.2.21:3306 of tcp/192.0.2.10:3306: weight 1 -> 5; interrupts \
                 nothing",
            ],
        ),
        (
            "a check",
            swap("TCP_CHECK {", "TCP_CHECK {\n connect_timeout 1"),
            vec![
                "~ real_server 192.0.2.21:3306 of tcp/192.0.2.10:3306: TCP_CHECK connect_timeout 5 \
                 -> 1; probed anew, from the health that it has: its check",
            ],
        ),
        (
            "a real server gone",
            swap(
                "    real_server 192.0.2.22 3306 {\n        weight 2\n        TCP_CHECK {\n        }\n    }\n",
                "",
            ),
            vec!["- real_server 192.0.2.22:3306 of tcp/192.0.2.10:3306; its connections are reset"],
        ),
        (
            "a method",
            swap("    lb_kind DR\n", ""),
            vec![
                "~ virtual_server tcp/192.0.2.10:3306: lb_kind DR -> NAT; its connections are reset: \
                 they cannot change their method",
            ],
        ),
        (
            "persistence",
            swap("    lb_kind DR\n", "    lb_kind DR\n    persistence_timeout 50\n"),
            vec![
                "~ virtual_server tcp/192.0.2.10:3306: +persistence_timeout 50; interrupts nothing",
            ],
        ),
        (
            "a time to drain",
            swap("    lb_kind DR\n", "    lb_kind DR\n    on_down drain 30\n"),
            vec![
                "~ virtual_server tcp/192.0.2.10:3306: on_down reset -> drain 30; connections of \
                 servers that are down now are reset 30 s after they went down",
            ],
        ),
        (
            "a virtual server gone, one come",
            swap("virtual_server 192.0.2.11 3307", "virtual_server 192.0.2.11 3308"),
            vec![
                "- virtual_server tcp/192.0.2.11:3307; its connections to 1 real servers are reset",
                "+ virtual_server tcp/192.0.2.11:3308; interrupts nothing",
            ],
        ),
        (
            "global words",
            swap(
                "router_id LBD",
                "router_id LBD2\n    vrrp_no_swap\n    metrics_listen 127.0.0.1:1",
            ),
            vec![
                "~ global_defs: router_id LBD -> LBD2, +vrrp_no_swap, +metrics_listen 127.0.0.1:1; \
                 takes effect at the next start only: vrrp_no_swap; /metrics and the page listen \
                 elsewhere",
            ],
        ),
        (
            "a sync group",
            format!("{BASE}vrrp_sync_group G {{\n group {{\n VI_1\n VI_2\n }}\n}}\n"),
            vec![
                "+ vrrp_sync_group G; its members move together from now on: one that cannot be \
                 master keeps the others",
            ],
        ),
        (
            "a static route",
            format!("{BASE}static_routes {{\n 203.0.113.0/24 via 192.0.2.1\n}}\n"),
            vec![
                "~ static objects: +static_routes unicast to 203.0.113.0/24 via 192.0.2.1 table 254 \
                 scope global protocol 18 tos 0; addresses, routes and rules that changed are taken \
                 off and put on; the others stay",
            ],
        ),
    ];
    for (what, new, expected) in rows {
        assert_eq!(steps(&new), expected, "{what}");
    }
}

/// What a change of a group moves depends on its words.
#[test]
fn a_changed_group_says_what_its_change_does() {
    let group = |words: &str| {
        let group = format!("vrrp_sync_group G {{\n group {{\n VI_1\n VI_2\n }}\n{words}}}\n");
        load("t", &format!("{BASE}{group}")).config.expect("good")
    };
    let said = |old: &Config, new: &Config| plan(old, new, &States::new()).to_string();
    let plain = group("");
    let told = said(&plain, &group(" notify_master /bin/true\n"));
    assert!(told.contains("notify_master") && told.contains("interrupts nothing"), "{told}");
    let tracking = said(&plain, &group(" track_interface {\n eth5\n }\n"));
    let decides = "what it tracks now decides at once, and may move the whole group";
    assert!(tracking.contains(decides), "{tracking}");
    let weights = said(&plain, &group(" sync_group_tracking_weight\n"));
    let counts = "weights of its trackers count from now on, or no longer";
    assert!(weights.contains(counts), "{weights}");
    for other in [&told, &tracking, &weights] {
        assert!(!other.contains("from now on; those that leave"), "{other}");
    }
    let mut fewer = plain.clone();
    fewer.vrrp_sync_groups[0].members.pop();
    let members = said(&fewer, &plain);
    let moves = "instances that come move with the others from now on; those that leave hold their own elections";
    assert!(members.contains(moves), "{members}");
}

/// Clients lose what they keep when they are not recognised any more, and not for another time.
#[test]
fn changes_of_persistence_say_whether_clients_lose_their_servers() {
    let file =
        |words: &str| BASE.replacen("    lb_kind DR\n", &format!("{words}\n lb_kind DR\n"), 1);
    let (short, long) = ("persistence_timeout 50", "persistence_timeout 60");
    let network = "persistence_timeout 50\n persistence_granularity 255.255.255.0";
    for (old, new, loses) in [
        ("", short, false),
        ("", network, false),
        (short, long, false),
        (short, network, true),
        (network, short, true),
        (network, long, true),
        (short, "", true),
        (network, "", true),
    ] {
        let plan = plan(&config(&file(old)), &config(&file(new)), &States::new());
        let [step] = &plan.steps[..] else { panic!("{plan}") };
        let anew = "clients are given real servers anew at their next connections";
        let said = step.to_string().contains(anew);
        assert_eq!(said, loses, "{step}");
    }
}

/// A default that `global_defs` changes is a change of every instance that does not say otherwise.
#[test]
fn inherited_words_are_changes_of_those_who_inherit() {
    let new = BASE.replace("router_id LBD", "router_id LBD\n    vrrp_garp_master_delay 9");
    let steps = steps(&new);
    assert_eq!(steps.len(), 3, "{steps:#?}");
    assert!(
        steps[1].contains("VI_1") && steps[1].contains("garp_master_delay 5 -> 9"),
        "{steps:#?}"
    );
    assert!(steps[2].contains("VI_2"), "{steps:#?}");
}

/// The words are the same, and what the file behind one of them holds is not: the checker is handed
/// other certificates, so that it is no untouched object.
#[test]
fn another_content_of_an_authority_is_a_change_of_each_who_uses_it() {
    let text = BASE.replacen(
        "TCP_CHECK {\n        }",
        "MYSQL_CHECK {\n            user u\n            tls_ca /ca.pem\n        }",
        1,
    ) + "track_mysql db {\n    user u\n    tls_ca /ca.pem\n}\n";
    let with = |content: &str| {
        let mut config = config(&text);
        let servers = config.virtual_servers.iter_mut().flat_map(|it| &mut it.real_servers);
        let checkers = servers.flat_map(|it| &mut it.checkers);
        let tracked = config.track_mysql.values_mut().map(|it| &mut it.checker);
        let mut set = 0;
        for checker in checkers.chain(tracked) {
            if let Checker::Mysql(_, check) = checker
                && let Some(ca) = &mut check.tls_ca
            {
                ca.content = TlsCaContent::Pem(content.to_owned());
                set += 1;
            }
        }
        assert_eq!(set, 2);
        config
    };
    let plan = plan(&with("one"), &with("two"), &States::new());
    let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    let changed = "tls_ca /ca.pem -> the same file with other content";
    assert_eq!(
        steps,
        [
            format!("~ track_mysql db: {changed}; it is looked at anew"),
            format!(
                "~ real_server 192.0.2.21:3306 of tcp/192.0.2.10:3306: MYSQL_CHECK {changed}; \
                 probed anew, from the health that it has: its check"
            ),
        ]
    );
    assert!(super::plan(&with("one"), &with("one"), &States::new()).is_empty());
}

/// One server more among ten thousand is one step, and nothing else is named.
#[test]
fn one_server_more_among_many_is_one_step() {
    let file = |last: usize| -> String {
        (0..160)
            .map(|vs| {
                let servers = if vs == 159 { last } else { 62 };
                let servers: String = (1..=servers)
                    .map(|rs| format!(" real_server 10.1.{vs}.{rs} 80 {{ TCP_CHECK {{ }}\n }}\n"))
                    .collect();
                format!("virtual_server 10.0.{vs}.1 80 {{\n protocol TCP\n{servers}}}\n")
            })
            .collect()
    };
    let plan = plan(&config(&file(62)), &config(&file(63)), &States::new());
    let [step] = &plan.steps[..] else { panic!("{plan}") };
    assert_eq!(
        step.to_string(),
        "+ real_server 10.1.159.63:80 of tcp/10.0.159.1:80; interrupts nothing"
    );
    // The blocks that are there once, 160 virtual servers, their real servers.
    assert_eq!(plan.untouched, 3 + 160 + 160 * 62);
}

#[test]
fn what_is_as_it_was_is_counted() {
    let new = BASE.replace("weight 1", "weight 5");
    let plan = plan(&config(BASE), &config(&new), &states(VrrpState::Master));
    // global_defs, statics, paces; script, two instances, two virtual servers, two real servers.
    assert_eq!((plan.steps.len(), plan.untouched), (1, 10), "{plan}");
}

#[test]
fn states_decide_what_is_interrupted() {
    let gone = BASE.replacen("virtual_router_id 51", "virtual_router_id 52", 1);
    for (state, interrupts) in [
        (VrrpState::Master, true),
        (VrrpState::Backup, false),
        (VrrpState::Fault, false),
        (VrrpState::Init, false),
    ] {
        let plan = plan(&config(BASE), &config(&gone), &states(state));
        let removed = plan.steps.iter().find(|step| step.action == Action::Remove);
        assert_eq!(removed.is_some_and(|it| !it.interrupts.is_empty()), interrupts, "{state:?}");
    }
}

/// A plan of many objects is cut, and says so.
#[test]
fn number_of_steps_is_bounded() {
    let scripts = |n: usize| -> String {
        (0..n).map(|at| format!("vrrp_script s{at} {{\n script /bin/true\n}}\n")).collect()
    };
    let new = format!("{BASE}{}", scripts(STEP_LIMIT + 7));
    let plan = plan(&config(BASE), &config(&new), &States::new());
    assert_eq!((plan.steps.len(), plan.omitted), (STEP_LIMIT, 7));
    assert!(plan.to_string().contains("7 more steps are not listed"));
}

type Chosen<'a> = Vec<(&'a str, Vec<&'a str>)>;

/// Lines for the frame, and the same in another order.
fn chosen() -> impl Strategy<Value = (Chosen<'static>, Chosen<'static>)> {
    let blocks: Vec<_> = lines::BLOCKS
        .iter()
        .map(|(block, lines)| {
            let some = subsequence(lines.to_vec(), 0..=lines.len().min(8));
            some.prop_flat_map(|some| (Just(some.clone()), Just(some).prop_shuffle()))
                .prop_map(|(some, shuffled)| ((*block, some), (*block, shuffled)))
        })
        .collect();
    blocks.prop_map(|chosen| chosen.into_iter().unzip())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// From a configuration to itself there is nothing to do; between two of them there is, and
    /// the way back has as many steps: also when all that differs is an order.
    #[test]
    fn a_plan_is_empty_for_equals_only(((old, shuffled), (new, _)) in (chosen(), chosen())) {
        let [old, shuffled, new] =
            [old, shuffled, new].map(|chosen| load("chosen", &lines::file(&chosen)).config);
        let others = [shuffled, new].into_iter().flatten();
        for (old, new) in old.iter().flat_map(|old| others.clone().map(move |new| (old, new))) {
            prop_assert!(plan(old, old, &States::new()).is_empty());
            let there = plan(old, &new, &States::new());
            let back = plan(&new, old, &States::new());
            prop_assert_eq!(there.is_empty(), *old == new, "{}", there);
            let (there_steps, back_steps) = (there.steps.len(), back.steps.len());
            prop_assert_eq!(there_steps, back_steps, "{}", there);
            prop_assert_eq!(there.untouched, back.untouched);
        }
    }
}

/// Instances are told apart by their family too: what becomes of one says nothing of the other.
#[test]
fn two_families_of_one_vrid_are_two_instances() {
    let both = format!("{BASE}{SIXTH}");
    let states = States::from([
        ("VI_1".to_owned(), VrrpState::Master),
        ("VI_6".to_owned(), VrrpState::Master),
    ]);
    let steps = |old: &str, new: &str| -> Vec<String> {
        let plan = plan(&config(old), &config(new), &states);
        plan.steps.iter().map(ToString::to_string).collect()
    };
    let only = |steps: Vec<String>, head: &str, inside: &str| {
        let [step] = &steps[..] else { panic!("{steps:#?}") };
        assert!(step.starts_with(head) && step.contains(inside), "{step}");
    };
    only(steps(&both, BASE), "- vrrp_instance VI_6 (VRID 51 on eth0, IPv6)", "VIP 2001:db8::10 ");
    only(steps(BASE, &both), "+ vrrp_instance VI_6 (VRID 51 on eth0, IPv6)", "VIP 2001:db8::10 ");
    let changed = format!("{BASE}{}", SIXTH.replace("version 3", "version 3\n    priority 90"));
    only(
        steps(&both, &changed),
        "~ vrrp_instance VI_6 (VRID 51 on eth0, IPv6)",
        "priority 100 -> 90",
    );
    let changed = both.replacen("priority 100", "priority 90", 1);
    only(steps(&both, &changed), "~ vrrp_instance VI_1 (VRID 51 on eth0)", "priority 100 -> 90");
    // Their names do not matter: each keeps its family.
    let renamed = both.replacen("VI_1", "VI_X", 1).replacen("VI_6", "VI_1", 1);
    let steps = steps(&both, &renamed);
    assert_eq!(steps.len(), 2, "{steps:#?}");
    assert!(
        steps.iter().all(|it| it.starts_with("~ ") && it.ends_with("interrupts nothing")),
        "{steps:#?}"
    );
}
