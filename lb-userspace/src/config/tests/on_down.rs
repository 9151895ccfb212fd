//! `on_down`: what it takes, and where it says no.

use std::time::Duration;

use super::has_finding;
use crate::config::{load, model::OnDown};

fn text(words: &str) -> String {
    format!(
        "virtual_server 192.0.2.10 3306 {{\n lb_algo rr\n lb_kind DR\n protocol TCP\n{words}\n \
         real_server 192.0.2.21 3306 {{\n TCP_CHECK {{ }}\n }}\n}}\n"
    )
}

#[test]
fn each_form_means_what_it_says() {
    let seconds = |seconds| OnDown::Drain(Duration::from_secs(seconds));
    for (words, wanted) in [
        ("", OnDown::Reset),
        ("on_down reset", OnDown::Reset),
        ("on_down keep", OnDown::Keep),
        ("inhibit_on_failure", OnDown::Keep),
        ("inhibit_on_failure\n on_down reset", OnDown::Reset),
        ("on_down drain 30", seconds(30)),
        ("on_down drain 30s", seconds(30)),
        ("on_down drain 2678400", seconds(2_678_400)),
        ("on_down drain 1ms", OnDown::Drain(Duration::from_millis(1))),
        ("on_down drain 0.25", OnDown::Drain(Duration::from_millis(250))),
        ("on_down \"drain\" \"5\"", seconds(5)),
    ] {
        let outcome = load("t", &text(words));
        let findings: Vec<_> = outcome.diagnostics.iter().map(|it| it.render()).collect();
        let about = findings.iter().filter(|text| text.contains("on_down"));
        assert_eq!(about.count(), 0, "{words}: {findings:#?}");
        let config = outcome.config.expect("no error");
        assert_eq!(config.virtual_servers[0].on_down, wanted, "{words}");
    }
}

#[test]
fn mistakes_are_located() {
    for (words, place, phrase) in [
        ("on_down drain", "t:5:1", "`on_down drain` needs a time, 0.001..2678400 s"),
        ("on_down drain soon", "t:5:15", "`on_down drain` cannot be `soon`; expected a time"),
        ("on_down drain 0", "t:5:15", "cannot be `0`"),
        ("on_down drain -1", "t:5:15", "cannot be `-1`"),
        ("on_down drain 31d", "t:5:15", "cannot be `31d`"),
        ("on_down drain 2678401", "t:5:15", "cannot be `2678401`"),
        ("on_down 30", "t:5:9", "`on_down` cannot be `30`; expected reset | drain SECONDS | keep"),
        ("on_down", "t:5:1", "`on_down` needs an argument: reset | drain SECONDS | keep"),
        ("on_down Keep", "t:5:9", "`on_down Keep` is read as keep"),
        ("on_down keep 5", "t:5:1", "words after `on_down` and its value are ignored"),
        ("on_down drain 5 6", "t:5:1", "words after `on_down` and its value are ignored"),
        (
            "on_down drain 5\n inhibit_on_failure",
            "t:5:1",
            "`on_down drain` has no effect beside inhibit_on_failure",
        ),
    ] {
        has_finding(&text(words), place, phrase);
    }
}
