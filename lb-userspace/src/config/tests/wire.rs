//! Words about adverts on the wire.

use std::{net::IpAddr, time::Duration};

use crate::{
    config::{load, model::*},
    vrrp::{
        auth::hmac::{Mode, Secret},
        wire::{OldUnicastChecksum, Options},
    },
};

const V4: &str = "virtual_ipaddress {\n 192.0.2.10\n }";
const V6: &str = "virtual_ipaddress {\n fe80::1\n 2001:db8::1/64\n }";

fn text(global: &str, instance: &str) -> String {
    format!(
        "global_defs {{\n{global}\n}}\nvrrp_instance V {{\n interface eth0\n virtual_router_id 1\n{instance}\n}}\n"
    )
}

fn instance_of(global: &str, instance: &str) -> VrrpInstance {
    let outcome = load("t", &text(global, instance));
    let rendered = outcome.render();
    let mut config = outcome.config.unwrap_or_else(|| panic!("{rendered}"));
    config.vrrp_instances.remove(0)
}

fn instance(words: &str) -> VrrpInstance {
    instance_of("", words)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What is said of an instance that is refused.
fn refused(words: &str) -> String {
    let outcome = load("t", &text("", words));
    assert!(outcome.config.is_none(), "{words} is accepted");
    outcome.render()
}

/// Of a key that was refused it is not said that there is none.
#[test]
fn a_refused_key_is_a_key() {
    let hmac = |words: &str| refused(&format!("version 3\n auth_hmac {{\n{words}\n }}\n {V4}"));
    assert!(hmac("active_key 1").contains("`auth_hmac` without `key`"));
    for words in ["key 1 short", "key 0 0123456789abcdef0123456789abcdef", "key", "key 1"] {
        let said = hmac(words);
        assert!(!said.contains("without `key`"), "{words}: {said}");
    }
    let good = "key 1 0123456789abcdef0123456789abcdef\n";
    assert!(hmac(&format!("{good} active_key 2")).contains("there is no key 2"));
    let said = hmac(&format!("{good} key 2 short\n active_key 2"));
    assert!(!said.contains("there is no key 2"), "{said}");
}

#[test]
fn nothing_said_is_keepaliveds_default() {
    assert_eq!(instance(V4).wire, Options::default());
    assert_eq!(instance(V6).wire, Options { ipv6: true, ..Options::default() });
}

#[test]
fn every_word_of_the_wire_arrives() {
    let words = format!(
        "{V4}\n unicast_src_ip 192.0.2.1\n unicast_peer {{\n 192.0.2.2 min_ttl 250 max_ttl 254\n \
         192.0.2.3\n }}\n unicast_ttl 9\n check_unicast_src\n unicast_fault_no_peer\n \
         old_unicast_checksum\n check_adv_addr\n"
    );
    let got = instance_of("v3_checksum_as_v2 yes\n vrrp_mcast_group4 224.0.0.77", &words);
    let want = Options {
        ipv6: false,
        group: Some(ip("224.0.0.77")),
        peer_ttl: [(ip("192.0.2.2"), 250..=254)].into(),
        unicast_ttl: Some(9),
        check_source: true,
        fault_without_peers: true,
        checksum_as_v2: true,
        old_unicast_checksum: OldUnicastChecksum::Always,
        same_addresses: true,
        hmac: None,
    };
    assert_eq!(got.wire, want);
    assert_eq!(got.unicast_peers, [ip("192.0.2.2"), ip("192.0.2.3")]);
    assert_eq!(got.source, Some(ip("192.0.2.1")));
    let off = instance_of("v3_checksum_as_v2", &format!("{V4}\n v3_checksum_as_v2 false"));
    assert!(!off.wire.checksum_as_v2);
    let never = instance(&format!("{V4}\n old_unicast_checksum never"));
    assert_eq!(never.wire.old_unicast_checksum, OldUnicastChecksum::Never);
    assert!(instance_of("vrrp_check_unicast_src", V4).wire.check_source);
}

#[test]
fn an_instance_is_of_the_family_of_its_vips() {
    let groups = "vrrp_mcast_group4 224.0.0.77\n vrrp_mcast_group6 ff02::77";
    let v6 = instance_of(groups, V6);
    assert_eq!((v6.wire.ipv6, v6.wire.group), (true, Some(ip("ff02::77"))));
    let own = instance_of(groups, &format!("{V6}\n mcast_dst_ip ff02::99"));
    assert_eq!(own.wire.group, Some(ip("ff02::99")));
    // Without VIPs the addresses of its adverts tell, else `native_ipv6`.
    for (words, ipv6) in [
        ("no_virtual_ipaddress", false),
        ("no_virtual_ipaddress\n native_ipv6", true),
        ("no_virtual_ipaddress\n unicast_src_ip fe80::5", true),
        ("no_virtual_ipaddress\n unicast_peer {\n fe80::6\n }", true),
    ] {
        assert_eq!(instance(words).wire.ipv6, ipv6, "{words}");
    }
}

#[test]
fn another_family_is_an_error_at_its_place() {
    for (words, line, message) in [
        ("virtual_ipaddress {\n 192.0.2.1\n fe80::1\n }", 9, "`virtual_ipaddress` fe80::1"),
        ("virtual_ipaddress {\n fe80::1\n 192.0.2.1\n }", 9, "`virtual_ipaddress` 192.0.2.1"),
        ("mcast_src_ip fe80::5\n virtual_ipaddress {\n 192.0.2.1\n }", 7, "`mcast_src_ip` fe80::5"),
        (
            "unicast_peer {\n 192.0.2.9\n }\n virtual_ipaddress {\n fe80::1\n }",
            8,
            "`unicast_peer` 192.0.2.9",
        ),
        ("mcast_dst_ip ff02::9\n virtual_ipaddress {\n 192.0.2.1\n }", 7, "`mcast_dst_ip` ff02::9"),
        ("native_ipv6\n virtual_ipaddress {\n 192.0.2.1\n }", 7, "`native_ipv6` with IPv4"),
    ] {
        let said = refused(words);
        assert!(said.contains(message) && said.contains(&format!(":{line}:")), "{words}: {said}");
    }
}

#[test]
fn bad_values_are_errors_at_their_place() {
    for (words, message) in [
        ("mcast_dst_ip 192.0.2.9", "192.0.2.9 is no multicast address"),
        ("mcast_dst_ip ff05::9", "no link-local multicast"),
        ("unicast_ttl 256", "unicast_ttl"),
        ("old_unicast_checksum sometimes", "old_unicast_checksum"),
        ("unicast_peer {\n 192.0.2.2 min_ttl 300\n }", "must be 0..255"),
        ("unicast_peer {\n 192.0.2.2 min_ttl\n }", "must be 0..255"),
        ("unicast_peer {\n 192.0.2.2 min_ttl 9 max_ttl 8\n }", "above `max_ttl 8`"),
        ("unicast_peer {\n min_ttl 9 192.0.2.2\n }", "is no IP address of a peer"),
        ("authentication {\n auth_type AH\n }", "AH without `auth_pass`"),
        ("auth_hmac {\n active_key 1\n }", "`auth_hmac` without `key`"),
        ("auth_hmac {\n key 1 short\n }", "32 to 64 bytes, this one 5"),
        ("auth_hmac {\n key 0 01234567890123456789012345678901\n }", "must be 1..255"),
        ("auth_hmac {\n key 256 01234567890123456789012345678901\n }", "must be 1..255"),
        ("auth_hmac {\n key 1\n }", "key 1 has no value"),
        (
            "auth_hmac {\n key 1 01234567890123456789012345678901\n active_key 2\n }",
            "there is no key 2",
        ),
        (
            "auth_hmac {\n key 1 01234567890123456789012345678901\n key 1 \
             01234567890123456789012345678902\n }",
            "key 1 twice",
        ),
        ("auth_hmac {\n key 1 01234567890123456789012345678901\n time_window 301\n }", "1..300"),
    ] {
        let said = refused(&format!("{words}\n {V4}"));
        assert!(said.contains(message), "{words}: {said}");
        assert!(!said.contains("0123456789"), "a key shows: {said}");
    }
    for (global, message) in [
        ("vrrp_mcast_group4 ff02::9", "of the other family"),
        ("vrrp_mcast_group6 224.0.0.9", "of the other family"),
        ("vrrp_mcast_group4 10.0.0.1", "no multicast address"),
    ] {
        let outcome = load("t", &text(global, V4));
        assert!(outcome.config.is_none() && outcome.render().contains(message), "{global}");
    }
}

// AUT-01
#[test]
fn authentication_is_of_version_2_and_gives_way_to_auth_hmac() {
    let auth = "authentication {\n auth_type AH\n auth_pass s3cret\n }";
    assert_eq!(
        instance(&format!("{auth}\n {V4}")).authentication,
        Authentication::Ah(*b"s3cret\0\0")
    );
    let key = "auth_hmac {\n key 1 01234567890123456789012345678901\n }";
    for words in [format!("version 3\n {auth}\n {V4}"), format!("{auth}\n {key}\n {V4}")] {
        let outcome = load("t", &text("", &words));
        let said = outcome.render();
        let config = outcome.config.expect(&said);
        assert_eq!(config.vrrp_instances[0].authentication, Authentication::None);
        assert!(said.contains("ignored"), "{said}");
    }
}

// keepalived's rule: what `vrrp_version` says is not meant for IPv6, what the instance says is.
#[test]
fn ipv6_is_version_3_unless_the_instance_says_2() {
    for (global, words, version, told) in [
        ("", "", VrrpVersion::V3, None),
        ("vrrp_version 2", "", VrrpVersion::V3, None),
        ("", "version 2\n", VrrpVersion::V2, None),
        ("vrrp_version 3", "version 2\n", VrrpVersion::V2, None),
        ("", "version 2\n strict_mode on\n", VrrpVersion::V3, Some("no version 2 over IPv6")),
        ("vrrp_strict", "version 2\n", VrrpVersion::V3, Some("no version 2 over IPv6")),
    ] {
        let outcome = load("t", &text(global, &format!("{words} {V6}")));
        let said = outcome.render();
        let config = outcome.config.expect(&said);
        assert_eq!(config.vrrp_instances[0].version, version, "{global} {words}");
        assert_eq!(said.contains("IPv6"), told.is_some(), "{global} {words}: {said}");
        assert!(told.is_none_or(|told| said.contains(told)), "{said}");
    }
}

#[test]
fn version_2_over_ipv6_has_no_authentication() {
    for kind in ["PASS", "AH"] {
        let auth = format!("authentication {{\n auth_type {kind}\n auth_pass s3cret\n }}");
        let outcome = load("t", &text("", &format!("version 2\n {auth}\n {V6}")));
        let said = outcome.render();
        let config = outcome.config.expect(&said);
        assert_eq!(config.vrrp_instances[0].authentication, Authentication::None, "{kind}");
        assert!(said.contains("over IPv6 carries no password; it is ignored"), "{said}");
    }
}

#[test]
fn auth_hmac_is_read_with_its_defaults() {
    let key = "key 7 01234567890123456789012345678901";
    let plain = instance(&format!("auth_hmac {{\n {key}\n }}\n {V4}")).wire.hmac.unwrap();
    assert_eq!((plain.active, plain.window, plain.mode), (7, Some(5), Mode::Enforce));
    assert_eq!(plain.keys[0].secret, Secret::Bytes(b"01234567890123456789012345678901".to_vec()));
    let slow = instance(&format!("advert_int 3\n auth_hmac {{\n {key}\n }}\n {V4}"));
    assert_eq!(slow.advert_int, Duration::from_secs(3));
    assert_eq!(slow.wire.hmac.unwrap().window, Some(9), "three intervals");
    let all = instance(&format!(
        "auth_hmac {{\n {key}\n key 8 hex:{}\n active_key 8\n time_window 60\n mode receive-only\n \
         }}\n {V4}",
        "ab".repeat(32)
    ));
    let all = all.wire.hmac.unwrap();
    assert_eq!((all.active, all.window, all.mode), (8, Some(60), Mode::ReceiveOnly));
    let grows =
        format!("auth_hmac {{\n {key}\n anti_replay monotonic\n mode permissive\n }}\n {V4}");
    let grows = instance(&grows).wire.hmac.unwrap();
    assert_eq!((grows.window, grows.mode), (None, Mode::Permissive));
}

// PKT-08
#[test]
fn a_list_that_begins_with_a_global_ipv6_address_is_told() {
    let outcome = load("t", &text("", "virtual_ipaddress {\n 2001:db8::1\n }"));
    assert!(outcome.config.is_some());
    let said = outcome.render();
    assert!(said.contains("the first IPv6 VIP should be link-local"), "{said}");
}
