//! Each file of testdata/good gives a configuration, each of testdata/bad none; what is said about
//! it is a snapshot. Snapshots are written anew with `INSTA_UPDATE=always`.

use crate::config::{Outcome, check, diag::Severity, model::Config};

macro_rules! files {
    ($($kind:literal $name:literal $exit:literal,)*) => {
        [$((
            $kind,
            $name,
            include_bytes!(concat!("../testdata/", $kind, "/", $name, ".conf")).as_slice(),
            $exit,
        )),*]
    };
}

/// Kind, name, text, exit code of `-t`.
const FILES: [(&str, &str, &[u8], u8); 32] = files![
    "good" "tutorial-master" 0,
    "good" "tutorial-backup" 0,
    "good" "vip-options" 0,
    "good" "unicast-v3" 0,
    "good" "pool-dr" 0,
    "good" "pool-nat" 0,
    "good" "layout" 0,
    "good" "classic-local-mysql" 5,
    "good" "missing-last-brace" 5,
    "good" "unknown-words" 5,
    "good" "quirks" 5,
    "good" "weights" 5,
    "good" "later" 5,
    "good" "gbk-comment" 0,
    "good" "web-copy" 0,
    "bad" "missing-argument" 2,
    "bad" "no-vrid" 5,
    "bad" "ranges" 5,
    "bad" "duplicates" 5,
    "bad" "missing-inner-brace" 5,
    "bad" "extra-brace" 5,
    "bad" "not-available" 4,
    "bad" "real-servers" 5,
    "bad" "mysql-check" 4,
    "bad" "quotes" 5,
    "good" "secrets" 5,
    "bad" "one-line" 5,
    "bad" "peers" 5,
    "bad" "conflict-markers" 2,
    "bad" "nothing" 4,
    "bad" "only-comments" 4,
    "bad" "not-utf8" 5,
];

fn outcome(name: &str) -> Outcome {
    let (_, _, bytes, _) = FILES.iter().find(|(_, file, _, _)| *file == name).unwrap();
    check(&format!("{name}.conf"), bytes)
}

/// The configuration of a good file.
pub(super) fn config(name: &str) -> Config {
    outcome(name).config.unwrap()
}

#[test]
fn good_files_give_a_configuration_and_bad_ones_none() {
    let mut wrong = Vec::new();
    for (kind, name, bytes, exit) in FILES {
        let outcome = check(name, bytes);
        let got = (outcome.config.is_some(), outcome.exit_code());
        if got != (kind == "good", exit) {
            wrong.push(format!("{kind} {name}, exit {exit}: got {got:?}\n{}", outcome.render()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_said_about_each_file() {
    insta::with_settings!({
        snapshot_path => "../testdata/snapshots",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        for (_, name, _, _) in FILES {
            insta::assert_snapshot!(name, outcome(name).render());
        }
    });
}

#[test]
fn findings_come_in_source_order() {
    for (_, name, _, _) in FILES {
        let places: Vec<_> = outcome(name)
            .diagnostics
            .iter()
            .map(|d| (d.place.line == 0, d.place.line, d.place.column))
            .collect();
        assert!(places.is_sorted(), "{name}: {places:?}");
    }
}

#[test]
fn secrets_are_never_shown() {
    for name in ["secrets", "mysql-check", "not-available", "missing-inner-brace", "quirks"] {
        let shown = format!("{:?}{}", outcome(name), outcome(name).render());
        for secret in ["hunter2", "geheim", "secret1", "LongerTh", "bang"] {
            assert!(!shown.contains(secret), "{name} shows {secret}:\n{shown}");
        }
    }
    let shown = format!("{:?}", config("pool-nat"));
    assert!(!shown.contains("p w"), "{shown}");
    assert!(!format!("{:?}", config("tutorial-master")).contains("49, 49"), "bytes of 1111");
}

#[test]
fn the_tutorial_runs_with_notices_only() {
    for name in ["tutorial-master", "tutorial-backup"] {
        let outcome = outcome(name);
        assert!(
            outcome.diagnostics.iter().all(|d| d.severity == Severity::Notice),
            "{}",
            outcome.render()
        );
        assert!(outcome.diagnostics.len() <= 2, "{}", outcome.render());
    }
}
