//! What files mean where keepalived's reading is not the obvious one.

use std::{path::Path, time::Duration};

use super::{corpus::config, has_finding as has};
use crate::{
    base::net::Priority,
    config::{
        load,
        model::{Checker, InitialState, VirtualLinkKind, VrrpVersion},
    },
};

fn instance(line: &str) -> String {
    format!(
        "vrrp_instance V {{\n interface eth0\n virtual_router_id 51\n {line}\n virtual_ipaddress {{\n \
         192.0.2.1/32\n }}\n}}\n"
    )
}

#[test]
fn the_first_of_two_counts_where_keepalived_keeps_it() {
    let config = config("first-counts");
    assert_eq!(config.global.vmac_prefix, "one");
    assert_eq!(config.global.vmac_addr_prefix.as_deref(), Some("four"));
    let fifo = config.global.notify_fifo.path.as_ref().map(|(path, _)| path.as_path());
    assert_eq!(fifo, Some(Path::new("/run/one")));
    let process = &config.track_processes["p"];
    assert_eq!((process.command.join(" ").as_str(), process.weight), ("mysqld", 2));
    assert_eq!(process.quorum, 3, "of these the last one does");
    let file = &config.track_files["f"];
    assert_eq!((file.path.as_path(), file.weight), (Path::new("/run/one"), 1));
    let [a, b, _] = &config.vrrp_instances[..] else { panic!("three instances") };
    assert_eq!((a.state, a.version), (InitialState::Master, VrrpVersion::V3));
    assert_eq!(a.on_host.vrf.as_deref(), Some("red"));
    let link = |it: &crate::config::model::VrrpInstance| {
        it.on_host.virtual_link.as_ref().map(|link| link.name.clone())
    };
    assert_eq!(link(a).as_deref(), Some("vrrp.a"));
    assert_eq!((b.state, link(b).as_deref()), (InitialState::Master, Some("vrrp.c")));
    assert_eq!(config.vrrp_sync_groups[0].members, ["A", "B"]);
}

/// Name and address are those of the first line that has them, whichever line that is.
#[test]
fn lines_of_use_vmac_add_up() {
    for (lines, name, mac, code) in [
        ("use_vmac", "vrrp.51", "", 0),
        ("use_vmac\n use_vmac b", "b", "", 0),
        ("use_vmac a\n use_vmac", "a", "", 0),
        ("use_vmac a\n use_vmac 02:00:5e:00:01:99", "a", "02:00:5e:00:01:99", 0),
        ("use_vmac\n use_vmac\n use_vmac b", "b", "", 0),
        ("use_vmac a\n use_vmac b", "a", "", 5),
        ("use_vmac a\n use_vmac a", "a", "", 5),
        ("use_vmac 02:00:5e:00:01:98\n use_vmac c 02:00:5e:00:01:99", "c", "02:00:5e:00:01:98", 5),
    ] {
        let outcome = load("t", &instance(lines));
        assert_eq!(outcome.exit_code(), code, "{lines}: {}", outcome.render());
        let config = outcome.config.unwrap_or_else(|| panic!("{lines}"));
        let link = config.vrrp_instances[0].on_host.virtual_link.as_ref().expect("a link");
        let VirtualLinkKind::Macvlan { mac: read } = &link.kind else { panic!("{lines}") };
        let read = read.map(|mac| mac.to_string()).unwrap_or_default();
        assert_eq!((link.name.as_str(), read.as_str()), (name, mac), "{lines}");
    }
}

/// Without `priority` it is another master.
#[test]
fn master_is_not_taken_back() {
    for (states, state, priority, code) in [
        ("state MASTER\n state BACKUP", InitialState::Master, 255, 5),
        ("state BACKUP\n state MASTER", InitialState::Master, 255, 0),
        ("state MASTER\n state BACKUP\n state BACKUP", InitialState::Master, 255, 5),
        ("state MASTER\n state SLAVE", InitialState::Backup, 100, 5),
        ("state SLAVE", InitialState::Backup, 100, 5),
        ("state master", InitialState::Backup, 100, 5),
        ("state BACKUP\n state BACKUP", InitialState::Backup, 100, 0),
    ] {
        let outcome = load("t", &instance(states));
        let said = outcome.render();
        assert_eq!(outcome.exit_code(), code, "{said}");
        let config = outcome.config.unwrap_or_else(|| panic!("{said}"));
        let [it] = &config.vrrp_instances[..] else { panic!("one instance") };
        assert_eq!((it.state, it.priority), (state, Priority(priority)), "{states}");
    }
    has(&instance("state <STATE>"), "t:4:", "fill it in");
}

/// Blocks that keepalived takes twice without a word are refused with the code of what lbd cannot run; those
/// that it finds fault with, with its own.
#[test]
fn blocks_of_one_name_have_codes_of_their_own() {
    let server = "virtual_server 192.0.2.1 80 {\n protocol TCP\n real_server 192.0.2.2 80 {\n TCP_CHECK \
                  {\n }\n }\n}\n";
    let group = "vrrp_sync_group G {\n group {\n V\n }\n}\n";
    for (block, code) in [
        ("vrrp_script s {\n script /bin/true\n}\n", 4),
        ("vrrp_track_process p {\n process a\n}\n", 4),
        ("track_file f {\n file /run/f\n}\n", 4),
        (server, 4),
        (group, 5),
    ] {
        let text = format!("{block}{block}");
        let text = if block == group { instance("") + &text } else { text };
        let outcome = load("t", &text);
        assert_eq!(outcome.exit_code(), code, "{}", outcome.render());
        assert!(outcome.render().contains("defined twice"), "{}", outcome.render());
    }
}

/// Strict mode clears what asks for announcements, and not what asks for none.
#[test]
fn none_is_what_strict_mode_has() {
    for (words, code) in [
        ("garp_lower_prio_repeat 0", 0),
        ("garp_lower_prio_delay 0", 0),
        ("garp_lower_prio_repeat 3", 5),
        ("garp_lower_prio_delay 3\n garp_lower_prio_repeat 0", 5),
    ] {
        let outcome = load("t", &instance(&format!("strict_mode\n {words}")));
        assert_eq!(outcome.exit_code(), code, "{words}: {}", outcome.render());
    }
}

#[test]
fn what_keepalived_goes_on_without_leaves_what_holds() {
    let config = config("goes-on");
    assert_eq!(config.global.smtp_alert, None);
    assert_eq!(config.vrrp_scripts["s"].interval, Duration::from_secs(1));
    let [a, b] = &config.vrrp_instances[..] else { panic!("two instances") };
    assert_eq!((a.state, b.state), (InitialState::Backup, InitialState::Backup));
    assert!(!a.election.lower_prio_no_advert && !b.notify.mail);
    let on = load(
        "t",
        &(instance("lower_prio_no_advert maybe")
            + "global_defs {\n vrrp_lower_prio_no_advert\n vrrp_lower_prio_no_advert maybe\n}\n"),
    );
    assert!(on.config.expect("a warning").vrrp_instances[0].election.lower_prio_no_advert);
}

#[test]
fn commands_and_patterns_are_split_once_more() {
    let config = config("escaped-quotes-of-scripts");
    let argv = |name: &str| config.vrrp_scripts[name].command.argv.clone();
    assert_eq!(argv("even"), ["/bin/sh", "-c", "\"test", "-e", "/run/x\""]);
    assert_eq!(argv("odd"), ["/bin/grep", "-q", "\"", "/run/x"]);
    let master = config.vrrp_instances[0].notify.master.as_ref().expect("a command");
    assert_eq!(master.argv, ["/bin/sh", "-c", "{ a; }"]);
    let Checker::Http(_, http) = &config.virtual_servers[0].real_servers[0].checkers[0] else {
        panic!("a page")
    };
    let regex = http.urls[0].expected.regex.as_ref().expect("a pattern");
    assert_eq!(regex.pattern, r#""state": [a-z]{2}\."#);
}

/// keepalived 2.2.7 answers these with 5, and words that are missing elsewhere with 2.
#[test]
fn names_that_keepalived_looks_for_itself_are_faults() {
    for (block, code) in [
        ("vrrp_instance", 5),
        ("vrrp_sync_group", 5),
        ("track_group", 5),
        ("vrrp_script", 2),
        ("track_file", 2),
        ("virtual_server", 2),
    ] {
        let outcome = load("t", &(instance("") + block + " {\n}\n"));
        assert_eq!(outcome.exit_code(), code, "{}", outcome.render());
    }
    for (word, code) in [("router_id", 5), ("snmp_socket", 5), ("vrrp_version", 2)] {
        let outcome = load("t", &format!("{}global_defs {{\n {word}\n}}\n", instance("")));
        assert_eq!(outcome.exit_code(), code, "{}", outcome.render());
    }
}

/// What keepalived takes without a word does not change the exit code.
#[test]
fn advice_is_told_and_answered_0() {
    let behind = |text: &str| instance("") + text;
    let crowd: String = (0..256)
        .map(|at| {
            instance("")
                .replace("nce V", &format!("nce V{at}"))
                .replace("eth0", &format!("e{at}"))
                .replace("192.0.2.1/", &format!("10.0.{}.{}/", at / 128, at % 128 + 1))
        })
        .collect();
    for (text, said) in [
        (instance("down_timer_adverts 1"), "a single lost or late advert"),
        (behind("interface_up_down_delays {\n eth0 10 1\n}\n"), "down delay 10s"),
        (instance("").replace("192.0.2.1/32", "2001:db8::1/64"), "should be link-local"),
        (behind("bfd_instance B {\n neighbor_ip 192.0.2.9\n}\n"), "`bfd_instance` is accepted"),
        (format!("net_namespace x\n{}", instance("")), "`net_namespace` is accepted"),
        (crowd, "one vrrp_instance too many to be fenced"),
    ] {
        let outcome = load("t", &text);
        assert!(outcome.render().contains(said), "{said}: {}", outcome.render());
        assert_eq!((outcome.exit_code(), outcome.config.is_some()), (0, true), "{said}");
    }
}
