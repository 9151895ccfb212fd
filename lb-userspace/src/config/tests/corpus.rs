//! Each file of testdata/good gives a configuration, each of testdata/bad none; what is said about
//! it is a snapshot. Snapshots are written anew with `INSTA_UPDATE=always`.

use std::collections::BTreeSet;

use crate::config::{
    Outcome, check_in,
    diag::{Severity, Sink},
    expand::tests::memory,
    keywords::{self, Block},
    model::Config,
    source::Source,
    syntax::{self, Statements},
};

/// A keyword and the block that it opens.
type Opened = (&'static str, Block);

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
const FILES: [(&str, &str, &[u8], u8); 113] = files![
    "good" "tutorial-master" 0,
    "good" "tutorial-backup" 0,
    "good" "vip-options" 0,
    "good" "unicast-v3" 0,
    "good" "pool-dr" 0,
    "good" "pool-ipv6" 0,
    "good" "flow-sync" 0,
    "good" "pool-galera" 0,
    "bad" "http-get" 5,
    "bad" "flow-sync-without-key" 4,
    "bad" "flow-sync-group" 5,
    "bad" "flow-sync-alone" 4,
    "bad" "flow-sync-families" 4,
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
    "bad" "duplicates" 4,
    "bad" "missing-inner-brace" 5,
    "bad" "extra-brace" 5,
    "bad" "not-available" 4,
    "bad" "tunnel-words" 4,
    "bad" "real-servers" 4,
    "bad" "mysql-check" 4,
    "bad" "quotes" 5,
    "good" "secrets" 5,
    "bad" "one-line" 5,
    "bad" "peers" 5,
    "bad" "conflict-markers" 2,
    "bad" "nothing" 4,
    "bad" "only-comments" 4,
    "bad" "not-utf8" 5,
    "good" "variables" 0,
    "good" "sequences" 0,
    "good" "conditions" 0,
    "good" "other-host" 0,
    "good" "includes" 5,
    "good" "one-line-blocks" 5,
    "good" "crlf" 5,
    "good" "escapes" 0,
    "good" "long-line" 0,
    "good" "cut-password" 5,
    "good" "continued-lines" 5,
    "good" "foreign-words" 5,
    "good" "udp-by-default" 5,
    "good" "lower-case" 5,
    "good" "traps" 5,
    "good" "ends-keepalived" 5,
    "good" "every-checker" 0,
    "good" "every-tracker" 0,
    "good" "sync-group" 0,
    "good" "static-and-routes" 0,
    "good" "virtual-links" 5,
    "good" "signed-adverts" 0,
    "good" "what-tells" 0,
    "good" "never" 0,
    "bad" "strict" 5,
    "good" "mysql-roles" 0,
    "good" "unknown-levels" 5,
    "good" "unused-names" 5,
    "bad" "undefined-variables" 5,
    "bad" "sequence-forms" 5,
    "bad" "recursion" 4,
    "bad" "several-lines-inside" 5,
    "bad" "values-of-variables" 5,
    "bad" "include-strict" 6,
    "bad" "include-loop" 4,
    "bad" "errors-in-included-files" 5,
    "bad" "template" 5,
    "bad" "vip-in-two-instances" 4,
    "bad" "real-server-is-vip" 4,
    "bad" "two-families" 5,
    "bad" "group-and-mark" 4,
    "bad" "truncated" 5,
    "bad" "closed-too-early" 5,
    "bad" "routes" 4,
    "bad" "rules" 4,
    "bad" "entries" 5,
    "bad" "host-words" 4,
    "bad" "wire" 5,
    "bad" "groups" 5,
    "bad" "bfd" 4,
    "good" "link-polling" 0,
    "bad" "inside-refused" 4,
    "bad" "kept-and-drained" 5,
    "good" "beside-each-other" 5,
    "good" "elections" 5,
    "bad" "strict-host" 5,
    "bad" "links" 5,
    "bad" "server-words" 4,
    "bad" "wire-words" 2,
    "good" "vip-words" 5,
    "bad" "expansion" 5,
    "bad" "too-many" 4,
    "good" "missing-last-braces" 5,
    "good" "first-counts" 5,
    "good" "goes-on" 5,
    "good" "vip-on-two-interfaces" 0,
    "good" "real-server-is-other-vip" 0,
    "good" "inactive-values" 5,
    "bad" "inside-nameless" 2,
    "bad" "one-vrid" 4,
    "bad" "escaped-quotes" 5,
    "good" "escaped-quotes-of-scripts" 5,
];

macro_rules! included {
    ($($name:literal,)*) => {
        [$((concat!("./included/", $name), include_str!(concat!("../testdata/included/", $name)))),*]
    };
}

/// What the files include.
const INCLUDED: [(&str, &str); 7] = included![
    "scripts.conf",
    "priority.conf",
    "vips/1.conf",
    "vips/2.conf",
    "loop.conf",
    "loop2.conf",
    "faulty.conf",
];

pub(in crate::config) fn read(name: &str, bytes: &[u8]) -> Outcome {
    check_in(&format!("{name}.conf"), bytes, &memory("lb1", &INCLUDED))
}

fn outcome(name: &str) -> Outcome {
    let (_, _, bytes, _) = FILES.iter().find(|(_, file, _, _)| *file == name).unwrap();
    read(name, bytes)
}

/// The configuration of a good file.
pub(super) fn config(name: &str) -> Config {
    outcome(name).config.unwrap()
}

#[test]
fn good_files_give_a_configuration_and_bad_ones_none() {
    let mut wrong = Vec::new();
    for (kind, name, bytes, exit) in FILES {
        let outcome = read(name, bytes);
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

/// Every block that the table has is opened by a file of the corpus, where it may stand.
#[test]
fn the_corpus_opens_every_block() {
    fn walk(
        source: &Source,
        block: Block,
        statements: Statements<'_>,
        seen: &mut BTreeSet<Opened>,
    ) {
        for statement in statements {
            let Some(head) = statement.words().first() else { continue };
            let row = keywords::find(block, &head.text(source));
            assert_eq!(statement.keyword(), row);
            if let Some(row) = row.filter(|_| statement.has_block())
                && let Some(opens) = row.opens
            {
                seen.insert((row.name, opens));
                walk(source, opens, statement.block(), seen);
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (_, name, _, _) in FILES {
        let Some(original) = outcome(name).original else { continue };
        let tree = syntax::parse(original.source(), &mut Sink::default());
        walk(original.source(), Block::Root, tree.statements(), &mut seen);
    }
    let missing: Vec<_> = keywords::all()
        .filter_map(|row| row.opens.map(|opens| (row.name, opens)))
        .filter(|opened| !seen.contains(opened))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn findings_come_in_source_order() {
    for (_, name, _, _) in FILES {
        let places: Vec<_> =
            outcome(name).diagnostics.iter().map(|d| (d.place.line == 0, d.place.order)).collect();
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
