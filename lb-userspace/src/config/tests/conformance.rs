//! Items of tests/conformance that are about what an instance may be configured as.

use std::time::Duration;

use crate::{
    base::net::Priority,
    config::{load, model::*},
};

fn instance(name: &str, words: &str, vip: &str) -> String {
    format!(
        "vrrp_instance {name} {{\n interface eth0\n {words}\n virtual_ipaddress {{\n {vip}\n }}\n}}\n"
    )
}

/// The configuration, if there is one, and what is said.
fn read(text: &str) -> (Option<Config>, String) {
    let outcome = load("t", text);
    let said = outcome.render();
    (outcome.config, said)
}

fn one(words: &str) -> (Option<VrrpInstance>, String) {
    let (config, said) = read(&instance("A", words, "192.0.2.1"));
    (config.map(|mut config| config.vrrp_instances.remove(0)), said)
}

// PKT-02
#[test]
fn a_vrid_is_1_to_255_and_has_no_default() {
    for (words, vrid) in [("virtual_router_id 1", 1), ("virtual_router_id 255", 255)] {
        let (it, said) = one(words);
        assert_eq!(it.map(|it| it.vrid.get()), Some(vrid), "{words}: {said}");
    }
    for words in ["", "virtual_router_id 0", "virtual_router_id 256", "virtual_router_id x"] {
        let (it, said) = one(words);
        assert!(it.is_none() && said.contains("virtual_router_id"), "{words}: {said}");
    }
}

// PKT-02 RX-05
#[test]
fn a_vrid_is_one_router_of_a_family_and_an_interface() {
    let first = instance("A", "virtual_router_id 7", "192.0.2.1");
    let other_family = instance("B", "virtual_router_id 7", "fe80::1");
    let other_link = instance("B", "virtual_router_id 7", "192.0.2.2").replace("eth0", "eth1");
    for second in [other_family, other_link] {
        let (config, said) = read(&[first.as_str(), &second].concat());
        assert_eq!(config.map(|it| it.vrrp_instances.len()), Some(2), "{said}");
    }
    let twice = instance("B", "virtual_router_id 7", "192.0.2.2");
    let (config, said) = read(&[first.as_str(), &twice].concat());
    assert!(config.is_none() && said.contains("virtual_router_id"), "{said}");
}

// PKT-03
#[test]
fn priorities_are_1_to_255_and_100_by_default() {
    let with = |word: &str| one(&format!("virtual_router_id 7\n {word}"));
    for (word, priority) in [("", 100), ("priority 1", 1), ("priority 254", 254)] {
        let (it, said) = with(word);
        assert_eq!(it.map(|it| it.priority), Some(Priority(priority)), "{word}: {said}");
    }
    let (owner, _) = with("priority 255");
    assert_eq!(owner.map(|it| it.priority), Some(Priority::OWNER));
    for word in ["priority 0", "priority 256", "priority -1"] {
        let (it, said) = with(word);
        assert!(it.is_none() && said.contains("`priority` cannot be"), "{word}: {said}");
    }
}

// TMR-10
#[test]
fn intervals_become_what_the_version_can_carry_as_keepalived_has_it() {
    // version, as written → milliseconds, told
    for (version, written, millis, told) in [
        (2, "1", 1000, false),
        (2, "255", 255_000, false),
        (2, "0.1", 1000, true),
        (2, "2.6", 3000, true),
        (3, "0.01", 10, false),
        (3, "40.95", 40_950, false),
        (3, "0.015", 20, true),
        (3, "50", 40_950, true),
    ] {
        let words = format!("virtual_router_id 7\n version {version}\n advert_int {written}");
        let (it, said) = one(&words);
        let got = it.map(|it| it.advert_int);
        assert_eq!(got, Some(Duration::from_millis(millis)), "v{version} {written}: {said}");
        assert_eq!(said.contains("advert_int"), told, "v{version} {written}: {said}");
    }
    // keepalived falls back to one second; a host that then differs from its peers is worse than
    // one that does not start.
    for written in ["0", "0.001", "256"] {
        let (it, said) = one(&format!("virtual_router_id 7\n version 3\n advert_int {written}"));
        assert!(it.is_none() && said.contains("`advert_int` cannot be"), "{written}: {said}");
    }
}

// AUT-02
#[test]
fn a_password_is_eight_bytes_and_a_longer_one_is_told() {
    let auth = |pass: &str| {
        let (it, said) = one(&format!(
            "virtual_router_id 7\n authentication {{\n auth_type PASS\n auth_pass {pass}\n }}"
        ));
        (it.map(|it| it.authentication), said)
    };
    let (short, said) = auth("s3cret");
    assert_eq!(short, Some(Authentication::Pass(*b"s3cret\0\0")));
    assert!(!said.contains("auth_pass"), "{said}");
    let (long, said) = auth("0123456789");
    assert_eq!(long, Some(Authentication::Pass(*b"01234567")));
    assert!(said.contains("the first 8 count") && !said.contains("012345678"), "{said}");
}
