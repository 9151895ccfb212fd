//! The conformance ledger: `tests/conformance/vrrp.toml` says of every item of the VRRP checklist
//! whether lbd meets it and which tests show that; `docs/conformance.md` is the same for readers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use toml::Spanned;

use crate::{shell::root, tidy::Violation};

/// The ledger, from the workspace's root.
pub const LEDGER: &str = "tests/conformance/vrrp.toml";
/// What readers get.
const PAGE: &str = "docs/conformance.md";
/// Set: [`check`] writes the page instead of comparing it.
const WRITE: &str = "LBD_WRITE_DOCS";

const VERDICTS: [&str; 3] = ["met", "deviates", "not applicable"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    group: Vec<Group>,
    item: Vec<Item>,
}

/// Part of the index: ids `PREFIX-01` to `PREFIX-items`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    prefix: String,
    title: String,
    items: u32,
}

impl Group {
    fn ids(&self) -> impl Iterator<Item = String> + '_ {
        (1..=self.items).map(|number| format!("{}-{number:02}", self.prefix))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    id: Spanned<String>,
    /// RFC and section, or where else the requirement comes from.
    rfc: String,
    /// In our own words.
    requires: String,
    verdict: Option<String>,
    /// Why lbd deviates, or a remark.
    #[serde(default)]
    why: String,
    /// Names as `cargo test` prints them; see [`crate::suites`].
    #[serde(default)]
    tests: Vec<String>,
}

/// Checks the ledger of the workspace against the tests that the tree has.
///
/// # Errors
/// When a file cannot be read or written.
pub fn check(tests: &BTreeSet<String>) -> Result<Vec<Violation>> {
    let read = |path: &str| fs::read_to_string(root().join(path)).with_context(|| path.to_owned());
    let text = read(LEDGER)?;
    let (mut found, page) = check_text(&text, tests);
    let Some(page) = page else { return Ok(found) };
    if std::env::var_os(WRITE).is_some() {
        fs::write(root().join(PAGE), page).with_context(|| PAGE.to_owned())?;
    } else if read(PAGE).ok().as_deref() != Some(page.as_str()) {
        let rule = format!("is not what {LEDGER} says: run {WRITE}=1 cargo xtask tidy");
        found.push(Violation { file: PAGE.to_owned(), line: 1, rule });
    }
    Ok(found)
}

/// What is wrong with a ledger, and its page if it could be read.
fn check_text(text: &str, tests: &BTreeSet<String>) -> (Vec<Violation>, Option<String>) {
    let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let mut found = Vec::new();
    let mut broken = |at: usize, rule: String| {
        found.push(Violation { file: LEDGER.to_owned(), line: line(at), rule });
    };
    let ledger: Ledger = match toml::from_str(text) {
        Ok(ledger) => ledger,
        Err(error) => {
            broken(error.span().map_or(0, |span| span.start), error.message().to_owned());
            return (found, None);
        }
    };
    let index: BTreeSet<String> = ledger.group.iter().flat_map(Group::ids).collect();
    let mut seen = BTreeSet::new();
    for item in &ledger.item {
        let (id, at) = (item.id.get_ref(), item.id.span().start);
        if !index.contains(id) {
            broken(at, format!("{id} is not in the index"));
        }
        if !seen.insert(id.clone()) {
            broken(at, format!("{id} has two rows"));
        }
        if item.rfc.is_empty() || item.requires.is_empty() {
            broken(at, format!("{id} does not say what is required, or where"));
        }
        match item.verdict.as_deref() {
            None => broken(at, format!("{id} has no verdict")),
            Some("met") if item.tests.is_empty() => {
                broken(at, format!("{id} is met, but no test shows it"));
            }
            Some("met") => {}
            Some(verdict) if !VERDICTS.contains(&verdict) => {
                broken(at, format!("{id}: `{verdict}` is no verdict: {}", VERDICTS.join(", ")));
            }
            Some(verdict) if item.why.is_empty() => {
                broken(at, format!("{id} {verdict}, but does not say why"));
            }
            Some(_) => {}
        }
        for name in item.tests.iter().filter(|name| !tests.contains(*name)) {
            broken(at, format!("{id} names the test {name}, which does not exist"));
        }
    }
    for id in index.difference(&seen) {
        broken(0, format!("{id} has no row"));
    }
    (found, Some(page(&ledger)))
}

/// The ledger as tables, one a group.
fn page(ledger: &Ledger) -> String {
    let mut count: BTreeMap<&str, u32> = BTreeMap::new();
    for item in &ledger.item {
        *count.entry(item.verdict.as_deref().unwrap_or_default()).or_default() += 1;
    }
    let counts: Vec<String> = VERDICTS
        .iter()
        .filter_map(|verdict| Some(format!("{} {verdict}", count.get(verdict)?)))
        .collect();
    let mut out = format!(
        "# VRRP conformance\n\nWhat the RFCs and the routers in the field ask of a VRRP router, \
         whether lbd does it, and which tests show that: {}. *Deviates* means that deployed \
         practice, mostly keepalived's, and the RFC differ, or that lbd does less; the row says \
         why.\n\nMade from {LEDGER} by `{WRITE}=1 cargo xtask tidy`; tidy fails on a row without a \
         verdict or a test that does not exist. Tests are named as `cargo test` prints them: \
         modules of lb-userspace, or suites of tests/tests. Suites named \
         interop_* run beside keepalived 2.2.7 (Debian 12); beside 2.4.3 lbd was run by hand only.\n",
        counts.join(", ")
    );
    for group in &ledger.group {
        let _ = write!(
            out,
            "\n## {}\n\n| id | RFC | requirement | lbd | shown by |\n|---|---|---|---|---|\n",
            group.title
        );
        for id in group.ids() {
            let Some(item) = ledger.item.iter().find(|item| *item.id.get_ref() == id) else {
                continue;
            };
            let Item { rfc, requires, verdict, why, tests, .. } = item;
            let verdict = verdict.as_deref().unwrap_or_default();
            let verdict = match why.as_str() {
                "" => verdict.to_owned(),
                why => format!("{verdict}: {why}"),
            };
            let tests: Vec<String> = tests.iter().map(|name| format!("`{name}`")).collect();
            let cells = [id.as_str(), rfc, requires, &verdict, &tests.join("<br>")]
                .map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "[[group]]\nprefix = \"PKT\"\ntitle = \"Packets\"\nitems = 2\n";
    const FIRST: &str = "[[item]]\nid = \"PKT-01\"\nrfc = \"5.1\"\nrequires = \"x\"\n\
                         verdict = \"met\"\ntests = [\"a::b\"]\n";
    const SECOND: &str = "[[item]]\nid = \"PKT-02\"\nrfc = \"5.2\"\nrequires = \"a | b\"\n\
                          verdict = \"deviates\"\nwhy = \"as deployed\"\n";

    fn rules(text: &str) -> Vec<(usize, String)> {
        let tests = BTreeSet::from(["a::b".to_owned()]);
        let (found, _) = check_text(text, &tests);
        found.into_iter().map(|it| (it.line, it.rule)).collect()
    }

    #[test]
    fn a_good_ledger_passes_and_becomes_a_page() {
        let text = [INDEX, FIRST, SECOND].concat();
        assert_eq!(rules(&text), []);
        let (_, page) = check_text(&text, &BTreeSet::new());
        let page = page.expect("readable");
        assert!(page.contains("1 met, 1 deviates."), "{page}");
        assert!(page.contains("| PKT-01 | 5.1 | x | met | `a::b` |\n"), "{page}");
        assert!(page.contains("| PKT-02 | 5.2 | a \\| b | deviates: as deployed |  |\n"), "{page}");
    }

    #[test]
    fn planted_violations_are_found() {
        for (old, new, line, rule) in [
            ("verdict = \"met\"\n", "", 6, "PKT-01 has no verdict"),
            ("tests = [\"a::b\"]\n", "", 6, "PKT-01 is met, but no test shows it"),
            ("a::b", "a::c", 6, "PKT-01 names the test a::c, which does not exist"),
            (
                "\"met\"",
                "\"done\"",
                6,
                "PKT-01: `done` is no verdict: met, deviates, not applicable",
            ),
            ("why = \"as deployed\"\n", "", 12, "PKT-02 deviates, but does not say why"),
            ("rfc = \"5.1\"", "rfc = \"\"", 6, "PKT-01 does not say what is required, or where"),
        ] {
            let text = [INDEX, FIRST, SECOND].concat().replacen(old, new, 1);
            let got = rules(&text);
            assert!(got.iter().any(|(_, got)| got == rule), "{rule}: {got:?}");
            assert_eq!(got.len(), 1, "{got:?}");
            assert_eq!(got[0].0, line, "{rule}");
        }
        let has = |text: &str, want: &[(usize, &str)]| {
            let got = rules(text);
            let got: Vec<_> = got.iter().map(|(line, rule)| (*line, rule.as_str())).collect();
            assert_eq!(got, want);
        };
        has(&[INDEX, FIRST].concat(), &[(1, "PKT-02 has no row")]);
        has(&[INDEX, FIRST, FIRST, SECOND].concat(), &[(12, "PKT-01 has two rows")]);
        let unknown = SECOND.replace("PKT-02", "PKT-03");
        has(&[INDEX, FIRST, SECOND, &unknown].concat(), &[(18, "PKT-03 is not in the index")]);
        // A word that nobody reads is a mistake in a file that people write.
        let odd = FIRST.replace("tests =", "test =");
        assert_eq!(rules(&[INDEX, &odd, SECOND].concat()).len(), 1);
    }
}
