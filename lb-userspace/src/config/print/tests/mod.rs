//! Printing loses nothing: the text that is printed is read back as the same model, and printed
//! again as the same text. Files are the corpus and generated ones whose lines use every word that
//! acts.

mod defaults;
pub(in crate::config) mod lines;

use std::collections::BTreeSet;

use proptest::{prelude::*, sample::subsequence};

use super::{Original, Secrets, annotate, annotated, items, page, plain};
use crate::{
    base::written::Origin,
    config::{
        Outcome, check_in,
        diag::Severity,
        expand,
        keywords::{self, Block, Keyword, Status},
        load,
        model::Config,
        tests::corpus,
    },
};

fn errors(outcome: &Outcome) -> String {
    let errors = outcome.diagnostics.iter().filter(|d| d.severity == Severity::Error);
    errors.map(|d| d.render()).collect::<Vec<_>>().join("\n")
}

/// What is printed is read as the same model and printed as the same text.
fn survives(config: &Config) -> Result<(), TestCaseError> {
    let text = plain(&items(config), Secrets::Shown);
    let again = load("printed", &text);
    let read = again.config.as_ref();
    prop_assert!(read.is_some(), "not read back:\n{}\n{}", text, errors(&again));
    let second = read.map(|config| plain(&items(config), Secrets::Shown)).unwrap_or_default();
    let lost: Vec<_> = text.lines().zip(second.lines()).find(|(a, b)| a != b).into_iter().collect();
    prop_assert!(second == text, "the text is no fixed point: {:?}\n{}", lost, text);
    prop_assert!(read == Some(config), "another model:\n{:#?}\n{:#?}\n{}", config, read, text);
    Ok(())
}

#[test]
fn every_good_file_of_the_corpus_survives() {
    let files = lines::corpus();
    assert!(files.len() >= 16, "{}", files.len());
    for (name, bytes) in files {
        let config = corpus::read(&name, &bytes).config.expect(&name);
        survives(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// A large configuration goes in parts: together they are the whole, in order, and none is much larger
/// than it may be.
#[test]
fn parts_are_the_whole() {
    let text: String = (1..=40)
        .map(|vs| {
            format!(
                "virtual_server 192.0.2.{vs} 80 {{\n protocol TCP\n real_server 198.51.100.{vs} 80 {{\n \
                 TCP_CHECK {{ }}\n }}\n}}\n"
            )
        })
        .collect();
    let outcome = load("t", &text);
    let (config, original) = (outcome.config.expect("good"), outcome.original);
    let items = items(&config);
    for original in [original.as_ref(), None] {
        let whole = annotate(&items, original);
        let largest = whole.iter().map(|it| it.weight()).max().expect("statements");
        for limit in [1, 5_000, usize::MAX] {
            let (mut all, mut from, mut parts) = (Vec::new(), Some(0), 0);
            while let Some(at) = from {
                let (part, next) = page(&items, original, at, limit);
                assert!(next.is_none_or(|next| next == at + part.len() && !part.is_empty()));
                let bytes: usize = part.iter().map(|it| it.weight()).sum();
                assert!(bytes < limit.saturating_add(largest), "{bytes}");
                all.extend(part);
                (from, parts) = (next, parts + 1);
            }
            assert_eq!(all, whole, "{limit}");
            assert_eq!(parts == 1, limit == usize::MAX, "{limit}: {parts}");
        }
        assert_eq!(page(&items, original, items.len() + 5, 1), (vec![], None));
    }
}

/// The largest file that the lines make: each line of each block.
#[test]
fn each_line_alone_survives() {
    for (block, lines) in lines::BLOCKS {
        for line in *lines {
            let text = lines::file(&[(*block, vec![*line])]);
            let outcome = load("line", &text);
            let config = outcome.config.clone();
            let config = config.unwrap_or_else(|| panic!("{line}:\n{}", errors(&outcome)));
            survives(&config).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}

/// What follows from a word must be seen, or the tests above would prove nothing about it.
#[test]
fn each_line_changes_what_is_printed() {
    let before = load("t", &lines::file(&[])).config.expect("the frame");
    let silent: Vec<_> = lines::BLOCKS
        .iter()
        .flat_map(|(block, lines)| lines.iter().map(move |line| (*block, *line)))
        .filter(|(block, line)| {
            let config = load("t", &lines::file(&[(*block, vec![*line])])).config;
            config.is_some_and(|config| items(&config) == items(&before) && config != before)
        })
        .collect();
    assert!(silent.is_empty(), "a change of the model that is not printed: {silent:#?}");
}

#[test]
fn the_lines_use_every_word_that_acts() {
    let text = lines::everything();
    let words: BTreeSet<&str> = text.split([' ', '\n', '\t', '"']).collect();
    let missing: BTreeSet<_> = keywords::all()
        .filter(|row| matches!(row.status, Status::Acts | Status::Ours))
        .filter(|row| !is_entry(row))
        // They steer the reading and are not part of what is read.
        .filter(|row| !row.name.starts_with("include") && row.name != "random_seed")
        .map(|row| row.name)
        .filter(|name| !words.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn is_entry(row: &Keyword) -> bool {
    row.blocks.iter().all(|block| block.is_list())
}

/// Lines of lists of one kind, without their block.
fn entries_of(list: Block) -> impl Iterator<Item = &'static str> {
    let all = lines::BLOCKS.iter().flat_map(|(_, lines)| *lines);
    all.filter_map(move |line| {
        let (head, inner) = line.split_once('{')?;
        let head = head.trim();
        let opens = keywords::all().any(|row| row.name == head && row.opens == Some(list));
        opens.then(|| inner.trim_end_matches('}'))
    })
}

/// Each word that the table has for entries of a list is used in such a list, and each of those lines is
/// taken (`each_line_alone_survives`). That the parser takes no other word is in `lower`, which asks the
/// table.
#[test]
fn the_lines_use_every_word_of_entries() {
    let plain = |name: &str| !name.contains(|c: char| c.is_ascii_uppercase() || c == ' ');
    let rows = keywords::all()
        .filter(|row| is_entry(row) && plain(row.name))
        .filter(|row| matches!(row.status, Status::Acts | Status::Ours));
    let (mut missing, mut count) = (Vec::new(), 0);
    for row in rows {
        count += 1;
        let mut used = row.blocks.iter().flat_map(|list| entries_of(*list));
        if !used.any(|entries| entries.split_whitespace().any(|word| word == row.name)) {
            missing.push(row.name);
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
    assert!(count > 70, "{count}");
}

/// A word that is not in the table is no word of an entry, and one that is refused says so.
#[test]
fn other_words_of_entries_are_told() {
    for (line, phrase) in [
        (
            "virtual_routes {\n 192.0.2.0/24 via 192.0.2.1 hops 3\n }",
            "unknown word `hops` in a route",
        ),
        ("virtual_routes {\n 192.0.2.0/24 via 192.0.2.1 encap ip\n }", "`encap` of a route"),
        ("virtual_rules {\n from 192.0.2.0/24 tabel 3\n }", "unknown word `tabel` in a rule"),
        ("virtual_rules {\n from 192.0.2.0/24 realms 3\n }", "`realms` of a rule"),
        ("track_script {\n chk wieght 3\n }", "unknown word `wieght`"),
        ("track_interface {\n eth1 wieght 3\n }", "unknown word `wieght`"),
        ("track_process {\n p1 wieght 3\n }", "unknown word `wieght`"),
        ("virtual_ipaddress_excluded {\n 192.0.2.9 lable x\n }", "unknown word `lable`"),
    ] {
        let said = load("t", &lines::file(&[("vrrp_instance", vec![line])])).render();
        assert!(said.contains(phrase), "{line}\n{said}");
    }
}

fn chosen() -> impl Strategy<Value = String> {
    let blocks: Vec<_> = lines::BLOCKS
        .iter()
        .map(|(block, lines)| {
            subsequence(lines.to_vec(), 0..=lines.len().min(12)).prop_map(|some| (*block, some))
        })
        .collect();
    blocks.prop_map(|chosen| lines::file(&chosen))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_choice_of_lines_survives(text in chosen()) {
        if let Some(config) = load("chosen", &text).config {
            survives(&config)?;
        }
    }

    /// Words of any characters that a line may have.
    #[test]
    fn any_word_survives(word in "[a-z\"'\\\\#!{}$é \t]{1,10}", pass in "[a-zé!#\\\\ ]{1,9}") {
        let text = format!(
            "global_defs {{\n router_id \"{word}\"\n}}\nvrrp_instance V {{\n interface lo\n \
             virtual_router_id 1\n authentication {{\n  auth_type PASS\n  auth_pass \"{pass}\"\n }}\n \
             notify \"/bin/x {word}\"\n virtual_ipaddress {{\n  192.0.2.1\n }}\n}}\n"
        );
        if let Some(config) = load("word", &text).config {
            survives(&config)?;
        }
    }
}

/// Most generated files must be good ones: else the property above is about little.
#[test]
fn most_choices_are_configurations() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let good = (0..100)
        .filter(|_| {
            let text = chosen().new_tree(&mut runner).expect("a text").current();
            load("chosen", &text).config.is_some()
        })
        .count();
    assert!(good >= 50, "{good} of 100");
}

fn shown(text: &str) -> (String, Original) {
    let outcome = load("a.conf", text);
    let config = outcome.config.clone().unwrap_or_else(|| panic!("{}", errors(&outcome)));
    let original = outcome.original.expect("a text");
    (annotated(&annotate(&items(&config), Some(&original))), original)
}

#[test]
fn each_statement_has_its_place_or_is_a_default() {
    let text = "global_defs {\n  vrrp_garp_master_delay 7\n  script_user nobody\n}\n\
        vrrp_instance V {\n  interface lo\n  virtual_router_id 9\n  priority 50\n  priority 60\n  \
        virtual_ipaddress {\n    192.0.2.1\n    192.0.2.2/24 dev lo\n  }\n}\n\
        virtual_server 192.0.2.1 3306 {\n  protocol TCP\n  lvs_sched rr\n  delay_loop 3\n  \
        real_server 192.0.2.11 {\n    TCP_CHECK {\n      connect_timeout 2\n    }\n    TCP_CHECK {\n      \
        connect_port 33\n    }\n  }\n}\n";
    let (shown, _) = shown(text);
    for (statement, origin) in [
        ("vrrp_garp_master_delay 7", "a.conf:2"),
        ("vrrp_garp_master_repeat 5", "default"),
        ("vrrp_instance V {", "a.conf:5"),
        ("garp_master_delay 7", "from a.conf:2"),
        ("virtual_router_id 9", "a.conf:7"),
        ("priority 60", "a.conf:9"),
        ("advert_int 1", "default"),
        ("192.0.2.1/32", "a.conf:11"),
        ("192.0.2.2/24 dev lo", "a.conf:12"),
        ("virtual_server 192.0.2.1 3306 {", "a.conf:15"),
        ("lb_algo rr", "a.conf:17"),
        ("lb_kind NAT", "default"),
        ("real_server 192.0.2.11 3306 {", "a.conf:19"),
        ("connect_timeout 2", "a.conf:21"),
        ("connect_timeout 5", "default"),
        ("connect_port 33", "a.conf:24"),
    ] {
        let found = shown
            .lines()
            .filter_map(|line| line.split_once("# "))
            .any(|(words, at)| words.trim() == statement && at == origin);
        assert!(found, "{statement} # {origin}\n{shown}");
    }
    let checks: Vec<_> = shown.lines().filter(|line| line.contains("delay_loop 3")).collect();
    assert_eq!(checks.len(), 3, "{checks:?}");
    assert_eq!(
        checks.iter().filter(|line| line.ends_with("# from a.conf:18")).count(),
        2,
        "{shown}"
    );
    assert!(load("annotated", &shown).config.is_some(), "comments change nothing:\n{shown}");
}

/// Words with origins, `statement # origin`: whether each stands there.
fn stands(shown: &str, rows: &[(&str, &str)]) {
    let lines: Vec<_> = shown.lines().filter_map(|line| line.split_once("# ")).collect();
    for (statement, origin) in rows {
        let of: Vec<_> = lines.iter().filter(|(words, _)| words.trim() == *statement).collect();
        assert!(of.iter().any(|(_, at)| at == origin), "{statement} # {origin}: {of:?}\n{shown}");
    }
}

/// Of words of which the first counts the place is that of the first: `lower` and the origins ask one rule.
#[test]
fn what_counts_is_what_is_pointed_at() {
    let file = |it: &(String, Vec<u8>)| it.0 == "first-counts";
    let (_, bytes) = lines::corpus().into_iter().find(file).expect("the file");
    let (shown, _) = shown(&String::from_utf8(bytes).expect("text"));
    stands(
        &shown,
        &[
            ("vmac_prefix one", "a.conf:2"),
            ("vmac_addr_prefix four", "a.conf:9"),
            ("notify_fifo /run/one", "a.conf:4"),
            ("process mysqld", "a.conf:12"),
            ("weight 2", "a.conf:14"),
            ("quorum 3", "a.conf:17"),
            ("file /run/one", "a.conf:20"),
            ("weight 1", "a.conf:22"),
            ("state MASTER", "a.conf:26"),
            ("version 3", "a.conf:31"),
            ("use_vmac vrrp.a", "a.conf:33"),
            ("vrf red", "a.conf:35"),
            ("state MASTER", "a.conf:43"),
            ("version 2", "a.conf:48"),
            ("use_vmac vrrp.c", "a.conf:50"),
            ("group {", "a.conf:60"),
            ("A", "a.conf:61"),
            ("B", "a.conf:62"),
        ],
    );
    // `use_ipvlan` and `notify_deleted` are not in that file; scripts of any block.
    let text = "vrrp_instance V {\n  interface lo\n  virtual_router_id 9\n  use_ipvlan one\n  \
        use_ipvlan two\n  notify_deleted /bin/one\n  notify_deleted /bin/two\n  notify_master /bin/a\n  \
        notify_master /bin/b\n  virtual_ipaddress {\n    192.0.2.1\n  }\n}\n";
    let (shown, _) = self::shown(text);
    let origins = |word: &str| -> Vec<_> {
        let lines = shown.lines().filter(|line| line.trim_start().starts_with(word));
        lines.filter_map(|line| line.split_once("# ")).map(|(_, at)| at.to_owned()).collect()
    };
    for (word, at) in [("use_ipvlan one", 4), ("notify_deleted", 6), ("notify_master", 8)] {
        assert_eq!(origins(word), [format!("a.conf:{at}")], "{word}\n{shown}");
    }
}

/// A statement's place is that of its text: in the file that was included, in the definition of a variable, in
/// the line of a sequence.
#[test]
fn places_lead_through_includes_variables_and_sequences() {
    let text = "$P=70\n$LINES= \\\n  advert_int 2 \\\n  nopreempt\n\
        vrrp_instance V {\n  interface lo\n  virtual_router_id 9\n  include b.conf\n  $LINES\n  \
        virtual_ipaddress {\n    192.0.2.1\n    include vips.conf\n  }\n}\n\
        vrrp_instance W {\n  interface eth1\n  virtual_router_id 10\n  priority $P\n  \
        virtual_ipaddress {\n    192.0.2.2\n  }\n}\n\
        virtual_server 192.0.2.1 3306 {\n  protocol TCP\n  \
        ~SEQ(N, 1, 2) real_server 192.0.2.1$N 3306 { weight $N }\n}\ninclude c.conf\n";
    let around = expand::tests::memory(
        "x",
        &[
            ("/etc/b.conf", "# the priority\npriority 50\n"),
            ("/etc/vips.conf", "192.0.2.7\n192.0.2.8\n"),
            ("/etc/c.conf", "\n\nglobal_defs {\n  router_id $P\n}\n"),
        ],
    );
    let outcome = check_in("/etc/a.conf", text.as_bytes(), &around);
    let config = outcome.config.clone().unwrap_or_else(|| panic!("{}", errors(&outcome)));
    let original = outcome.original.expect("a text");
    let shown = annotated(&annotate(&items(&config), Some(&original)));
    stands(
        &shown,
        &[
            ("vrrp_instance V {", "/etc/a.conf:5"),
            ("priority 50", "/etc/b.conf:2"),
            ("advert_int 2", "/etc/a.conf:3"),
            ("nopreempt", "/etc/a.conf:4"),
            ("192.0.2.1/32", "/etc/a.conf:11"),
            ("192.0.2.7/32", "/etc/vips.conf:1"),
            ("192.0.2.8/32", "/etc/vips.conf:2"),
            ("priority 70", "/etc/a.conf:18"),
            ("real_server 192.0.2.11 3306 {", "/etc/a.conf:25"),
            ("real_server 192.0.2.12 3306 {", "/etc/a.conf:25"),
            ("weight 1", "/etc/a.conf:25"),
            ("weight 2", "/etc/a.conf:25"),
            ("router_id 70", "/etc/c.conf:4"),
        ],
    );
}

#[test]
fn secrets_stay_hidden() {
    let text = lines::everything();
    let (shown, original) = shown(&text);
    for secret in ["hunter2", "geheim", "0123456789abcdef"] {
        assert!(text.contains(secret), "{secret} is in the file");
        assert!(!shown.contains(secret), "{secret} is shown:\n{shown}");
        let config = load("t", &text).config.expect("a configuration");
        for debug in [format!("{:?}", items(&config)), format!("{original:?}")] {
            assert!(!debug.contains(secret), "{secret} is in {debug}");
        }
    }
    assert!(shown.contains("key 9 ***"), "{shown}");
    assert!(shown.contains("password ***"), "{shown}");
    let pass = "authentication {\n auth_type PASS\n auth_pass hunter2\n }";
    let (shown, _) = self::shown(&lines::file(&[("vrrp_instance", vec![pass])]));
    assert!(shown.contains("auth_pass ***"), "{shown}");
}

#[test]
fn without_a_text_everything_is_a_default() {
    let config = load("t", &lines::everything()).config.expect("a configuration");
    let statements = annotate(&items(&config), None);
    let mut all: Vec<_> = statements.iter().collect();
    let mut count = 0;
    while let Some(statement) = all.pop() {
        assert_eq!(statement.origin, Origin::Default);
        all.extend(statement.block.iter().flatten());
        count += 1;
    }
    assert!(count > 300, "{count}");
}
