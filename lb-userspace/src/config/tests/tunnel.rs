//! `lb_kind TUN`: its options, its port, and the families that it may mix.

use super::has_finding;
use crate::{base::table::Method, config::load};

fn text(kind: &str, vip: &str, real: &str) -> String {
    format!(
        "virtual_server {vip} 3306 {{\n lb_algo rr\n lb_kind {kind}\n protocol TCP\n \
         real_server {real} {{\n TCP_CHECK {{ }}\n }}\n}}\n"
    )
}

#[test]
fn it_mixes_families_and_keeps_the_port() {
    for (vip, real) in [
        ("192.0.2.10", "192.0.2.21"),
        ("192.0.2.10", "2001:db8::21"),
        ("2001:db8::10", "192.0.2.21"),
        ("2001:db8::10", "2001:db8::21"),
    ] {
        for kind in ["TUN", "TUN type ipip", "TUN type ipip nocsum", "TUN nocsum", "tun"] {
            let outcome = load("t", &text(kind, vip, &format!("{real} 3306")));
            let found: Vec<_> = outcome.diagnostics.iter().map(|it| it.render()).collect();
            let config = outcome.config.unwrap_or_else(|| panic!("{kind}: {found:?}"));
            assert_eq!(config.virtual_servers[0].method, Method::Tun, "{kind}");
            let found: Vec<_> = found.iter().filter(|it| !it.starts_with("notice")).collect();
            assert_eq!(found.len(), usize::from(kind == "tun"), "{kind}: {found:?}");
        }
        let other = text("TUN", vip, &format!("{real} 3307"));
        has_finding(&other, "t:5:14", "TUN cannot change the port; 3306 is used");
        let config = load("t", &other).config.expect("usable");
        assert_eq!(config.virtual_servers[0].real_servers[0].addr.port(), 3306);
    }
}

#[test]
fn what_it_cannot_do_is_located() {
    let four = |kind: &str| text(kind, "192.0.2.10", "192.0.2.21 3306");
    for (kind, place, phrase) in [
        ("TUN type gue port 5555", "t:3:19", "`lb_kind TUN type gue` is not available yet"),
        ("TUN type gre csum", "t:3:19", "`lb_kind TUN type gre` is not available yet"),
        ("TUN type vxlan", "t:3:19", "a tunnel's type cannot be `vxlan`; expected ipip"),
        ("TUN type", "t:3:14", "words after `lb_kind` and its value are ignored"),
        ("TUN type ipip csum", "t:3:24", "a tunnel of type ipip has no checksum of its own"),
        ("TUN remcsum", "t:3:14", "a tunnel of type ipip has no checksum of its own"),
        ("TUN // as before", "t:3:14", "words after `lb_kind` and its value are ignored"),
        ("DR type ipip", "t:3:13", "words after `lb_kind` and its value are ignored"),
        ("KNAT", "t:3:10", "`lb_kind` cannot be `KNAT`; expected NAT, DR or TUN"),
    ] {
        has_finding(&four(kind), place, phrase);
    }
    let sorry = |kind: &str, addr: &str| {
        four(kind).replace(" real_server", &format!(" sorry_server {addr} 3306\n real_server"))
    };
    assert!(load("t", &sorry("TUN", "2001:db8::9")).config.is_some());
    has_finding(&sorry("DR", "2001:db8::9"), "t:5:15", "are of different families");
    has_finding(&sorry("TUN", "::ffff:192.0.2.9"), "t:5:15", "in the guise of an IPv6 one");
    for kind in ["DR", "NAT"] {
        let mixed = text(kind, "192.0.2.10", "2001:db8::21 3306");
        has_finding(&mixed, "t:5:14", "are of different families");
        assert!(load("t", &mixed).config.is_none(), "{kind}");
    }
    for kind in ["TUN type gue port 5555", "TUN type gre", "TUN type vxlan"] {
        assert!(load("t", &four(kind)).config.is_none(), "{kind}");
    }
    assert!(load("t", &four("TUN type ipip csum")).config.is_some());
}
