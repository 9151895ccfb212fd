//! The table against keepalived's own lists: every word, in every block.

use std::collections::BTreeSet;

use super::*;

/// keepalived's own list (reference/keepalived.md, appendix), one word a line.
const KEEPALIVED: &str = include_str!("../testdata/keepalived-keywords.txt");

#[test]
fn every_word_of_keepalived_is_known() {
    let known: BTreeSet<_> = all().map(|keyword| keyword.name).collect();
    let missing: Vec<_> = KEEPALIVED.lines().filter(|word| !known.contains(word)).collect();
    assert_eq!(KEEPALIVED.lines().count(), 369, "361 words, HTTP_GET, SSL_GET, six include");
    assert!(missing.is_empty(), "{missing:?}");
}

/// keepalived's words with the blocks that lead to each, outermost first; as its parser installs them (master
/// of 2026-08).
const IN_BLOCKS: &str = include_str!("../testdata/keepalived-block-words.txt");

/// The block that words open one inside the other, from the top level.
fn opened(path: &[&str]) -> Option<Block> {
    path.iter().try_fold(Block::Root, |block, word| find(block, word)?.opens)
}

#[test]
fn every_word_of_keepalived_is_known_in_every_block_that_has_it_and_in_no_other() {
    let mut theirs = BTreeSet::new();
    let mut missing = Vec::new();
    for line in IN_BLOCKS.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let (word, path) = words.split_last().expect("a word");
        match opened(path).filter(|block| find(*block, word).is_some()) {
            Some(block) => drop(theirs.insert((block, *word))),
            None => missing.push(line),
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(IN_BLOCKS.lines().count(), 531);
    // The two lists have the same words, so that neither was cut.
    let include = |word: &str| word.starts_with("include") && word != "include_check";
    let all_words: BTreeSet<_> = KEEPALIVED.lines().filter(|word| !include(word)).collect();
    assert_eq!(theirs.iter().map(|(_, word)| *word).collect::<BTreeSet<_>>(), all_words);
    // Words of lists are entries, which have a list of their own below; in a block of ours each word is ours.
    let ours: Vec<_> = all().filter(|row| row.status == Status::Ours).collect();
    let is_ours = |block: Block, row: &Keyword| {
        row.status == Status::Ours || ours.iter().any(|opener| opener.opens == Some(block))
    };
    let others: Vec<_> = all()
        .flat_map(|row| row.blocks.iter().map(move |block| (*block, row)))
        .filter(|(block, row)| !block.is_list() && !is_ours(*block, row) && !include(row.name))
        .map(|(block, row)| (block, row.name))
        .filter(|known| !theirs.contains(known))
        .collect();
    assert!(others.is_empty(), "keepalived does not know them there: {others:?}");
}

/// Words inside the entries of its lists: list and word.
const ENTRIES: &str = include_str!("../testdata/keepalived-entry-words.txt");

#[test]
fn every_word_of_keepaliveds_entries_is_known_in_its_list() {
    let mut counted = 0;
    for line in ENTRIES.lines() {
        let (list, word) = line.split_once(' ').expect("LIST WORD");
        let opened =
            [Block::VrrpInstance, Block::Root].into_iter().find_map(|it| find(it, list)?.opens);
        let opened = opened.expect(list);
        assert!(opened.is_list(), "{list}");
        let fixed = (opened == Block::Routes).then_some(Block::StaticObjects);
        for block in [Some(opened), fixed].into_iter().flatten() {
            let row = find(block, word).unwrap_or_else(|| panic!("{word} in {block:?}"));
            assert!(!row.is_form(), "{word}");
        }
        counted += 1;
    }
    assert!(counted > 120, "{counted}");
    // And no row of an entry that is none of them.
    let theirs: BTreeSet<_> =
        ENTRIES.lines().filter_map(|line| line.split_once(' ')).map(|it| it.1).collect();
    let lists = |row: &&Keyword| row.blocks.iter().all(|block| block.is_list()) && !row.is_form();
    let others: Vec<_> =
        all().filter(lists).map(|row| row.name).filter(|name| !theirs.contains(name)).collect();
    assert_eq!(others, ["proto", "gw"], "second names of protocol and via");
}

#[test]
fn other_words_are_ours_or_entries_of_lists() {
    let theirs: BTreeSet<_> = KEEPALIVED.lines().collect();
    for keyword in all() {
        let ours = keyword.status == Status::Ours;
        let entry = keyword.blocks.iter().all(|block| block.is_list());
        assert!(
            theirs.contains(keyword.name) || ours || entry,
            "{} is neither keepalived's nor ours",
            keyword.name
        );
    }
}

#[test]
fn a_word_has_one_row_a_block() {
    let mut seen = BTreeSet::new();
    for keyword in all() {
        assert!(!keyword.blocks.is_empty(), "{}", keyword.name);
        for block in keyword.blocks {
            assert!(seen.insert((keyword.name, *block)), "{} in {block:?} twice", keyword.name);
        }
    }
}

#[test]
fn every_block_can_be_reached() {
    for block in Block::ALL {
        assert!(
            block == Block::Root || all().any(|keyword| keyword.opens == Some(block)),
            "{block:?}"
        );
    }
}

#[test]
fn nearest_word() {
    for (block, word, expect) in [
        (Block::VrrpInstance, "virtual_router_ip", Some("virtual_router_id")),
        (Block::VrrpInstance, "prioritty", Some("priority")),
        (Block::VrrpInstance, "virtual_ipadress", Some("virtual_ipaddress")),
        (Block::RealServer, "TCP_CHEK", Some("TCP_CHECK")),
        (Block::RealServer, "tcp_check", Some("TCP_CHECK")),
        (Block::TcpCheck, "nb_get_retry", Some("nb_get_retry")),
        (Block::Root, "zzzzzzzz", None),
    ] {
        assert_eq!(nearest(block, word).map(|k| k.name), expect, "{word}");
    }
}
