//! What a plan says of a change, sentence by sentence, and of an order that changed.

use super::{super::plan, BASE, config, states};
use crate::base::status::VrrpState;

/// BASE with words behind those of VI_1, of `global_defs`, of the first virtual server.
fn instance(words: &str) -> String {
    BASE.replacen("priority 100\n", &format!("priority 100\n{words}\n"), 1)
}

fn global(words: &str) -> String {
    BASE.replacen("router_id LBD\n", &format!("router_id LBD\n{words}\n"), 1)
}

fn service(words: &str) -> String {
    BASE.replacen("lb_kind DR\n", &format!("lb_kind DR\n{words}\n"), 1)
}

const DISCARDED: &str = "hosts of the virtual router that do not have the same words discard the \
                         adverts: two masters until they do";
const REFUSED: &str = "it becomes a second master beside hosts whose adverts it no longer takes";
const DECIDES: &str = "what it tracks now decides at once, and may move its VIPs";
const TAKES: &str = "it takes over from a master of lower priority";
const OPEN: &str = "no new connections; those that are open go on";

/// What a change interrupts depends on the words before it, the words behind it and the state.
#[test]
fn each_sentence_is_said_of_its_change() {
    let (master, backup) = (Some(VrrpState::Master), Some(VrrpState::Backup));
    let base = || BASE.to_owned();
    let swap = |from: &str, to: &str| {
        assert!(BASE.contains(from), "{from}");
        BASE.replacen(from, to, 1)
    };
    let peers = "unicast_src_ip 192.0.2.1\nunicast_peer {\n192.0.2.2\n}";
    let more = "unicast_src_ip 192.0.2.1\nunicast_peer {\n192.0.2.2\n192.0.2.3\n}";
    let with = |words: &str| instance(&format!("{peers}\n{words}"));
    let script = |words: &str, command: &str| {
        let text = format!("interval 2\n{words}");
        BASE.replacen("interval 2", &text, 1).replacen("/bin/true", command, 1)
    };
    let file = |path: &str| format!("{BASE}track_file f {{\nfile {path}\n}}\n");
    let group = format!("{BASE}vrrp_sync_group G {{\ngroup {{\nVI_1\nVI_2\n}}\n}}\n");
    let third = |words: &str| {
        BASE.replacen("interface eth1\n", &format!("interface eth1\nversion 3\n{words}\n"), 1)
    };
    let fewer = |words: &str| {
        let server = "    real_server 192.0.2.22 3306 {\n        weight 2\n        TCP_CHECK {\n        }\n    }\n";
        let text = service(words);
        assert!(text.contains(server));
        text.replacen(server, "", 1)
    };
    let sync = |peer: u8| {
        let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        global(&format!(
            "flow_sync {{\nkey hex:{key}\npeer 192.0.2.{peer}\ninterface eth1\nsource 192.0.2.1\n}}"
        ))
    };
    type Row<'a> = (&'a str, String, String, Option<VrrpState>, Vec<&'a str>);
    let rows: Vec<Row<'_>> = vec![
        ("group of adverts", base(), instance("mcast_dst_ip 224.0.0.50"), backup, vec![DISCARDED]),
        ("one peer more", with(""), instance(more), master, vec![DISCARDED]),
        ("sources", with(""), with("check_unicast_src"), master, vec![REFUSED]),
        ("addresses", base(), instance("check_adv_addr"), master, vec![REFUSED]),
        (
            "source of adverts",
            base(),
            instance("mcast_src_ip 192.0.2.1"),
            master,
            vec!["adverts take another way from the next one on; no state changes"],
        ),
        ("nopreempt off", instance("nopreempt"), base(), backup, vec![TAKES]),
        ("nopreempt off, of a master", instance("nopreempt"), base(), master, vec![]),
        ("nopreempt on", base(), instance("nopreempt"), backup, vec![]),
        (
            "nopreempt off, of nobody knows",
            instance("nopreempt"),
            base(),
            None,
            vec!["the better router takes the VIPs"],
        ),
        ("nopreempt off, in FAULT", instance("nopreempt"), base(), Some(VrrpState::Fault), vec![]),
        (
            "shorter delay",
            instance("preempt_delay 60"),
            instance("preempt_delay 10"),
            backup,
            vec![TAKES],
        ),
        ("no delay", instance("preempt_delay 60"), base(), backup, vec![TAKES]),
        (
            "longer delay",
            instance("preempt_delay 10"),
            instance("preempt_delay 60"),
            backup,
            vec![],
        ),
        ("raised", base(), swap("priority 100", "priority 110"), backup, vec![TAKES]),
        (
            "raised and nopreempt off",
            instance("nopreempt"),
            swap("priority 100", "priority 110"),
            backup,
            vec![TAKES],
        ),
        (
            "lowered and nopreempt off",
            instance("nopreempt"),
            swap("priority 100", "priority 90"),
            backup,
            vec![TAKES],
        ),
        (
            "an owner",
            base(),
            swap("priority 100", "priority 255"),
            backup,
            vec!["priority 255 owns the addresses: the election is held again"],
        ),
        ("own interface", instance("dont_track_primary"), base(), master, vec![DECIDES]),
        ("not the own interface", base(), instance("dont_track_primary"), backup, vec![DECIDES]),
        ("no peer is a fault", base(), instance("unicast_fault_no_peer"), master, vec![DECIDES]),
        ("no peer would be a fault", with(""), with("unicast_fault_no_peer"), master, vec![]),
        (
            "the last peer gone, which is a fault",
            with("unicast_fault_no_peer"),
            instance("mcast_src_ip 192.0.2.1\nunicast_fault_no_peer"),
            master,
            vec![
                DISCARDED,
                "adverts take another way from the next one on; no state changes",
                DECIDES,
            ],
        ),
        (
            "another interface",
            base(),
            instance("track_interface {\neth5\n}"),
            master,
            vec![DECIDES],
        ),
        (
            "a script that begins as bad",
            script("init_fail", "/bin/true"),
            script("init_fail", "/bin/false"),
            master,
            vec![
                "it counts as bad until it has been good `rise` times (init_fail): who tracks it with \
                 weight 0 goes to FAULT, a master too; another weight changes priorities at once",
            ],
        ),
        (
            "init_fail is for a script's start",
            script("", "/bin/true"),
            script("init_fail", "/bin/true"),
            master,
            vec![],
        ),
        (
            "a tracker's weight",
            base(),
            script("weight 5", "/bin/true"),
            master,
            vec!["priorities that it changes follow at once, and may move a VIP"],
        ),
        (
            "a tracker's object",
            file("/run/a"),
            file("/run/b"),
            master,
            vec!["it is looked at anew"],
        ),
        (
            "advert_int",
            base(),
            instance("advert_int 2"),
            master,
            vec![
                "hosts with another advert_int discard the adverts (VRRPv2): two masters until they \
                 have it",
            ],
        ),
        (
            "advert_int of VRRPv3",
            third(""),
            third("advert_int 2"),
            master,
            vec!["backups learn it from the next advert"],
        ),
        (
            "a virtual interface",
            base(),
            instance("use_vmac"),
            master,
            vec!["virtual interfaces are made anew: their VIPs are off and on"],
        ),
        ("a virtual interface of a backup", base(), instance("use_vmac"), backup, vec![]),
        (
            "packets to the VIPs",
            base(),
            instance("no_accept"),
            master,
            vec!["packets to the VIPs are filtered from now on, or no longer"],
        ),
        (
            "words of an address",
            base(),
            swap("192.0.2.11/24", "192.0.2.11/24 dev eth9"),
            master,
            vec!["addresses with other words are taken off and put on again"],
        ),
        (
            "a virtual route",
            base(),
            instance("virtual_routes {\n203.0.113.0/24 via 192.0.2.1\n}"),
            master,
            vec!["routes and rules that changed are taken off and put on"],
        ),
        (
            "the hook",
            base(),
            global("lvs_hook tc"),
            master,
            vec!["programs may be attached anew; connections stay in their table"],
        ),
        (
            "the way of attachment",
            base(),
            global("lvs_xdp_mode generic"),
            master,
            vec!["programs may be attached anew; connections stay in their table"],
        ),
        (
            "flow sync",
            sync(2),
            sync(3),
            master,
            vec!["flow sync begins anew with its peers; connections stay in their tables"],
        ),
        (
            "a FIFO's path",
            global("notify_fifo /run/a"),
            global("notify_fifo /run/b"),
            master,
            vec!["readers of a FIFO with another path or owner see its end"],
        ),
        (
            "a FIFO's owner",
            global("notify_fifo /run/a"),
            global("notify_fifo /run/a root root"),
            master,
            vec!["readers of a FIFO with another path or owner see its end"],
        ),
        (
            "a group gone",
            group,
            base(),
            master,
            vec!["its instances hold their own elections again"],
        ),
        (
            "a quorum",
            base(),
            service("quorum 2"),
            master,
            vec!["the quorum is counted again: the sorry server may come or go"],
        ),
        (
            "a sorry server",
            base(),
            service("sorry_server 192.0.2.99 3306"),
            master,
            vec!["connections to the sorry server before are reset, if it is in use"],
        ),
        (
            "no wait for servers that are down",
            service("on_down keep"),
            service("on_down reset"),
            master,
            vec!["connections of servers that are down now are reset"],
        ),
        ("weight 0", base(), swap("weight 1", "weight 0"), master, vec![OPEN]),
        (
            "a server gone whose connections are kept",
            service("on_down keep"),
            fewer("on_down keep"),
            master,
            vec![OPEN],
        ),
    ];
    for (what, old, new, state, expected) in rows {
        let states = state.map(states).unwrap_or_default();
        let plan = plan(&config(&old), &config(&new), &states);
        let [step] = &plan.steps[..] else { panic!("{what}: {plan}") };
        assert_eq!(step.interrupts, expected, "{what}: {step}");
    }
}

/// Nothing that a plan says is said without a test that has the change before it: sentences of
/// effects.rs whose words stand neither in this file nor in the one around it.
#[test]
fn each_sentence_stands_in_a_test() {
    let joined =
        |text: &str| text.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let tests = joined(concat!(include_str!("../tests.rs"), include_str!("sentences.rs")));
    let code = |line: &&str| !line.trim_start().starts_with("//");
    let source = include_str!("../effects.rs").lines().filter(code).collect::<Vec<_>>().join("\n");
    assert!(!source.contains("\\\"") && !source.contains("'\"'"), "literals are cut at each quote");
    let (mut count, mut missing) = (0, Vec::new());
    for literal in source.split('"').skip(1).step_by(2) {
        // The longest part of a format that stands in what it makes.
        let parts = literal.split('{').map(|it| it.split_once('}').map_or(it, |(_, after)| after));
        let part = joined(parts.max_by_key(|part| part.len()).unwrap_or(""));
        // Keywords and parts of lists are no sentences.
        if part.split(' ').count() < 3 {
            continue;
        }
        count += 1;
        if !tests.contains(&part) {
            missing.push(part);
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(count >= 35, "{count}");
}

/// An order that is in force is a change: adverts carry the addresses in that of the file.
#[test]
fn another_order_is_a_change() {
    let order = |old: &str, new: &str| -> Vec<String> {
        let plan = plan(&config(old), &config(new), &states(VrrpState::Master));
        plan.steps.iter().map(ToString::to_string).collect()
    };
    let swap = |text: &str, one: &str, other: &str| {
        assert!(text.contains(one) && text.contains(other), "{text}");
        text.replacen(one, "\u{1}", 1).replacen(other, one, 1).replacen('\u{1}', other, 1)
    };
    let instance_1 = "~ vrrp_instance VI_1 (VRID 51 on eth0)";
    let vips = swap(BASE, "192.0.2.10/24", "192.0.2.11/24");
    assert_eq!(
        order(BASE, &vips),
        [format!(
            "{instance_1}: order of virtual_ipaddress; adverts list the addresses in another order \
             from the next one on"
        )]
    );
    // One that came is no other order of those that stay.
    let more = BASE.replacen("192.0.2.11/24", "192.0.2.9/24\n192.0.2.11/24", 1);
    assert!(!order(BASE, &more)[0].contains("order"), "{:?}", order(BASE, &more));
    let servers = swap(
        &swap(BASE, "real_server 192.0.2.21", "real_server 192.0.2.22"),
        "weight 1\n",
        "weight 2\n",
    );
    assert_eq!(
        order(BASE, &servers),
        ["~ virtual_server tcp/192.0.2.10:3306: order of real_server; interrupts nothing"]
    );
    let start = BASE.find("vrrp_instance VI_2").expect("the block");
    let end = BASE[start..].find("\n}\n").expect("its end") + start + 3;
    let instances = format!("{}{}{}", &BASE[start..end], &BASE[..start], &BASE[end..]);
    assert_eq!(order(BASE, &instances), ["~ order of vrrp_instance; interrupts nothing"]);
    let start = BASE.find("virtual_server 192.0.2.11").expect("the block");
    let services = format!("{}{}", &BASE[start..], &BASE[..start]);
    assert_eq!(order(BASE, &services), ["~ order of virtual_server; interrupts nothing"]);
    let tracked = |names: &str| instance(&format!("track_interface {{\n{names}\n}}"));
    assert_eq!(
        order(&tracked("eth5\neth6"), &tracked("eth6\neth5")),
        [format!("{instance_1}: order of track_interface; interrupts nothing")]
    );
    let checks = |first: &str, second: &str| {
        let text = format!("weight 1\n{first}\n{second}");
        BASE.replacen("weight 1\n        TCP_CHECK {\n        }", &text, 1)
    };
    let (tcp, misc) = ("TCP_CHECK {\n}", "MISC_CHECK {\nmisc_path /bin/true\n}");
    assert_eq!(
        order(&checks(tcp, misc), &checks(misc, tcp)),
        [
            "~ real_server 192.0.2.21:3306 of tcp/192.0.2.10:3306: order of its blocks; interrupts nothing"
        ]
    );
}
