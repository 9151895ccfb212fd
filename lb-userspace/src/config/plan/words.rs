//! Which words of an object differ, from its statements.

use std::collections::BTreeMap;

use super::super::{
    model::Checker,
    print::{Item, Word},
};
use crate::base::plan::Change;

/// Words that differ, in the order of the new object, those that are gone behind.
pub(super) fn changes(old: &Item, new: &Item) -> Vec<Change> {
    let mut out = Vec::new();
    block("", old.block().unwrap_or(&[]), new.block().unwrap_or(&[]), &mut out);
    out
}

/// Files whose name is the same and whose content is not: authorities of MYSQL_CHECK, which the
/// checker is handed with its configuration. (A password that came from a file is compared as a word.)
/// `block`: what stands before their word.
pub(super) fn contents(block: &str, old: &[Checker], new: &[Checker]) -> Vec<Change> {
    let authorities = |checkers: &[Checker]| -> Vec<_> {
        let mysql = checkers.iter().filter_map(|checker| match checker {
            Checker::Mysql(_, check) => Some(check.tls_ca.clone()),
            _ => None,
        });
        mysql.collect()
    };
    let pairs = authorities(old).into_iter().zip(authorities(new));
    let changed = pairs.filter_map(|(old, new)| {
        let (old, new) = (old?, new?);
        (old.path == new.path && old.content != new.content).then_some(old.path)
    });
    changed
        .map(|path| Change {
            word: format!("{block}tls_ca"),
            old: Some(path.display().to_string()),
            new: Some("the same file with other content".to_owned()),
        })
        .collect()
}

/// What a statement is recognised by in its block: its keyword, unless that stands there several
/// times; then the whole line. Blocks of one keyword (checkers) are numbered.
fn keys<'a>(items: &'a [Item], others: &[Item]) -> Vec<(Key<'a>, &'a Item)> {
    let count = |items: &[Item]| {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for item in items {
            *count.entry(item.keyword().to_owned()).or_default() += 1;
        }
        count
    };
    let (here, there) = (count(items), count(others));
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let several = |keyword: &str| {
        [&here, &there].iter().any(|count| count.get(keyword).is_some_and(|n| *n > 1))
    };
    items
        .iter()
        .map(|item| {
            let keyword = item.keyword();
            let number = seen.entry(keyword).or_default();
            let key = match several(keyword) {
                false => Key::Word(keyword),
                true if item.block().is_some() => Key::Block(keyword, *number),
                true => Key::Line(item),
            };
            *number += 1;
            (key, item)
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Key<'a> {
    Word(&'a str),
    Block(&'a str, usize),
    Line(&'a Item),
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Word(a), Self::Word(b)) => a == b,
            (Self::Block(a, n), Self::Block(b, m)) => (a, n) == (b, m),
            // Secrets are compared and not shown.
            (Self::Line(a), Self::Line(b)) => a == b,
            _ => false,
        }
    }
}

fn block(path: &str, old: &[Item], new: &[Item], out: &mut Vec<Change>) {
    let (olds, news) = (keys(old, new), keys(new, old));
    let find =
        |all: &[(Key<'_>, &Item)], key: &Key<'_>| all.iter().position(|(other, _)| other == key);
    let mut places = Vec::new();
    for (key, item) in &news {
        let place = find(&olds, key);
        places.extend(place);
        let before = place.and_then(|at| olds.get(at)).map(|(_, item)| *item);
        compare(path, before, Some(*item), out);
    }
    for (key, item) in &olds {
        if find(&news, key).is_none() {
            compare(path, Some(*item), None, out);
        }
    }
    // Those that stay stand in another order.
    if !places.is_sorted() {
        out.push(order(if path.is_empty() { "its blocks" } else { path }));
    }
}

/// That the same things come in another order: adverts list VIPs as the file does, tables hold real servers so.
pub(super) fn order(what: &str) -> Change {
    Change { word: format!("order of {what}"), old: None, new: None }
}

fn compare(path: &str, old: Option<&Item>, new: Option<&Item>, out: &mut Vec<Change>) {
    let Some(some) = new.or(old).filter(|_| old != new) else { return };
    let word = match path {
        "" => some.keyword().to_owned(),
        path => format!("{path} {}", some.keyword()),
    };
    if some.block().is_some() {
        let inner = |item: Option<&'_ Item>| item.and_then(Item::block).map(<[Item]>::to_vec);
        let (before, after) = (inner(old), inner(new));
        block(&word, &before.unwrap_or_default(), &after.unwrap_or_default(), out);
        // An empty block that came or went is a word of its own.
        if old.is_some() == new.is_some() || some.block().is_some_and(|block| !block.is_empty()) {
            return;
        }
    }
    let value =
        |item: &Item| item.arguments().iter().map(Word::shown).collect::<Vec<_>>().join(" ");
    out.push(Change { word, old: old.map(value), new: new.map(value) });
}
