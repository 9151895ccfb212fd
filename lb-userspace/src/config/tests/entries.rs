//! Words inside the entries of lists, and what is said of those that are none.

use crate::config::{load, model::*, tests::has_finding as has};

fn text(words: &str) -> String {
    format!("vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n{words}}}\n")
}

fn vips(line: &str) -> String {
    text(&format!(" virtual_ipaddress {{\n {line}\n }}\n"))
}

fn vip(line: &str) -> VipAddress {
    let outcome = load("t", &vips(line));
    let said = outcome.render();
    let mut config = outcome.config.unwrap_or_else(|| panic!("{line}: {said}"));
    let mut vips = std::mem::take(&mut config.vrrp_instances[0].virtual_ipaddress);
    assert_eq!(vips.len(), 1, "{line}: {vips:?}");
    vips.remove(0)
}

/// The VIP of a line whose `dev` is lost goes on the wrong interface.
#[test]
fn an_unknown_word_of_an_address_takes_nothing_with_it() {
    let whole = vip("192.0.2.1/24 brd 192.0.2.255 dev eth1 label x");
    assert_eq!((whole.dev.as_deref(), whole.label.as_deref()), (Some("eth1"), Some("x")));
    for line in [
        "192.0.2.1/24 broadcast 192.0.2.255 dev eth1 label x",
        "192.0.2.1/24 foo brd 192.0.2.255 bar dev eth1 label x",
        // The address is the word's value and no second VIP.
        "192.0.2.1/24 brd 192.0.2.255 net 192.0.2.0 dev eth1 label x",
        "192.0.2.1/24 brd 192.0.2.255 dev eth1 label x // the VIP of all",
    ] {
        assert_eq!(vip(line), whole, "{line}");
    }
    assert_eq!(load("t", &vips("192.0.2.1/24 broadcast 192.0.2.255 dev eth1")).render(), "");
    let two = load("t", &vips("192.0.2.1/24 foo dev eth1 bar"));
    assert_eq!((two.diagnostics.len(), two.exit_code()), (2, 5), "{}", two.render());
    has(&vips("192.0.2.1/24 net 192.0.2.0"), "t:5:15", "it and 192.0.2.0 are ignored");
    let remark = load("t", &vips("192.0.2.1 // one two three"));
    assert_eq!(remark.diagnostics.len(), 1, "{}", remark.render());
    has(&vips("192.0.2.1 // one"), "t:5:12", "a comment begins with # or !");
}

#[test]
fn a_prefix_without_host_bits_has_no_broadcast_address() {
    for line in ["192.0.2.1/32 brd +", "192.0.2.1 brd -", "192.0.2.1/31 broadcast +"] {
        assert_eq!(vip(line).broadcast, None, "{line}");
        has(&vips(line), "t:5:", "has no broadcast address");
        assert_eq!(load("t", &vips(line)).exit_code(), 5, "keepalived tells it: {line}");
    }
    let last = |line: &str| vip(line).broadcast.map(|it| it.octets()[3]);
    assert_eq!((last("192.0.2.1/30 brd +"), last("192.0.2.1/30 brd -")), (Some(3), Some(0)));
    assert_eq!(last("192.0.2.1/32 brd 192.0.2.255"), Some(255));
    has(&vips("2001:db8::1/64 brd +"), "t:5:", "have no `brd`; it is ignored");
    assert!(vip("fe80::1/64 brd + dev eth1").dev.is_some());
    has(&vips("2001:db8::1/129"), "t:5:", "expected /0 to /128");
    has(&vips("192.0.2.1/33"), "t:5:", "expected /0 to /32");
}

#[test]
fn unknown_words_of_entries_have_the_nearest_one_of_their_list() {
    let route = |line: &str| {
        text(&format!(" virtual_ipaddress {{\n 192.0.2.1\n }}\n virtual_routes {{\n {line}\n }}\n"))
    };
    let tracked = |line: &str| {
        text(&format!(
            " virtual_ipaddress {{\n 192.0.2.1\n }}\n track_interface {{\n {line}\n }}\n"
        ))
    };
    for (text, nearest) in [
        (vips("192.0.2.1 lable x"), "did you mean `label`?"),
        (vips("192.0.2.1 boradcast 192.0.2.255"), "did you mean `broadcast`?"),
        (vips("192.0.2.1 no_trak"), "did you mean `no_track`?"),
        (tracked("eth1 wieght 5"), "did you mean `weight`?"),
        (tracked("eth1 weight 5 revers"), "did you mean `reverse`?"),
        (route("198.51.100.0/24 via 192.0.2.254 metrik 5"), "did you mean `metric`?"),
        (route("198.51.100.0/24 via 192.0.2.254 tabel 5"), "did you mean `table`?"),
        (route("balckhole 198.51.100.0/24"), "did you mean `blackhole`?"),
        (
            route("x")
                .replace("virtual_routes", "virtual_rules")
                .replace(" x\n", " frm 192.0.2.1\n"),
            "did you mean `from`?",
        ),
    ] {
        has(&text, "t:", nearest);
    }
    // Statements of other blocks are not near.
    let said = load("t", &vips("192.0.2.1 priorit")).render();
    assert!(said.contains("unknown word `priorit`") && !said.contains("did you mean"), "{said}");
}

#[test]
fn the_weight_of_a_file_is_a_factor_and_its_second_word_is_told() {
    let of = |block: &str, entry: &str| {
        format!(
            "track_file f {{\n file /run/f\n {block}\n}}\n{}",
            text(&format!(
                " track_file {{\n f {entry}\n }}\n virtual_ipaddress {{\n 192.0.2.1\n }}\n"
            ))
        )
    };
    let good = |block: &str, entry: &str| {
        let outcome = load("t", &of(block, entry));
        let said = outcome.render();
        let config = outcome.config.unwrap_or_else(|| panic!("{said}"));
        let track = config.vrrp_instances[0].track_more.files[0].clone();
        (
            config.track_files["f"].weight,
            config.track_files["f"].reverse,
            track.weight,
            track.reverse,
        )
    };
    assert_eq!(good("weight 2 reverse", ""), (2, true, None, None));
    assert_eq!(good("weight 2 revers", ""), (2, false, None, None));
    has(&of("weight 2 revers", ""), "t:3:", "words after `weight` and its value are ignored");
    has(&of("weight 2 reverse x", ""), "t:3:", "only `reverse` may stand there");
    assert_eq!(good("", "weight 2000 reverse"), (1, false, Some(2000), Some(true)));
    assert_eq!(good("", "reverse weight -70000"), (1, false, Some(-70_000), Some(true)));
    for weight in ["99999999999", "-2147483648", "2x"] {
        has(
            &of("", &format!("weight {weight}")),
            "t:9:",
            "of a track_file must be a number of 32 bits",
        );
        has(
            &of(&format!("weight {weight}"), ""),
            "t:3:",
            "of a track_file must be a number of 32 bits",
        );
    }
}

#[test]
fn a_word_of_entries_that_is_a_statement_ends_an_unclosed_list() {
    for word in ["priority 150", "vrf blue", "use_vmac"] {
        let routes = format!(
            " virtual_ipaddress {{\n 192.0.2.1\n }}\n virtual_routes {{\n default via 192.0.2.254\n {word}\n"
        );
        let name = word.split(' ').next().unwrap();
        has(&text(&routes), "t:9:2", &format!("a `}}` is missing before `{name}`"));
        let vips = format!(" virtual_ipaddress {{\n 192.0.2.1\n {word}\n");
        has(&text(&vips), "t:6:2", &format!("a `}}` is missing before `{name}`"));
    }
    // Entries may begin with such words.
    let rules = " virtual_ipaddress {\n 192.0.2.1\n }\n virtual_rules {\n priority 100 from 192.0.2.1 table 5\n }\n";
    let outcome = load("t", &text(rules));
    assert!(outcome.config.is_some(), "{}", outcome.render());
}
