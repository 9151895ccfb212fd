//! What the parser's own tests cannot do, because `config/` is pure: read a clock, write a file.

use std::time::{Duration, Instant};

use lb_userspace::config::{diag::DIAGNOSTIC_LIMIT, docs, keywords, load};

/// Far above what any of these inputs needs in a debug build on a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_line_of_ten_megabytes_ends_quickly() {
    let start = Instant::now();
    for fill in ["a", "a ", "{ ", "x{}"] {
        let line = fill.repeat((10 << 20) / fill.len());
        let outcome = load("t", &line);
        assert!(outcome.config.is_none());
        assert!(outcome.render().contains("longer than"), "{fill}");
    }
    let comment = format!("#{}\n", "x".repeat(10 << 20));
    assert!(load("t", &comment).render().contains("nothing to do"));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_quarter_megabyte_of_braces_and_of_unknown_words_end_quickly() {
    let start = Instant::now();
    for fill in ["a {\n", "{\n", "}\n", "vrrp_instance x {\n", "unknown word\n", "\"\n"] {
        let text = fill.repeat((256 << 10) / fill.len());
        let outcome = load("t", &text);
        assert!(outcome.config.is_none(), "{fill}");
        assert!(outcome.diagnostics.len() <= DIAGNOSTIC_LIMIT + 1);
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// docs/config.md is what the keyword table says. `LBD_WRITE_DOCS=1` writes it anew.
#[test]
fn the_documentation_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
    let wanted = docs::markdown();
    if std::env::var_os("LBD_WRITE_DOCS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == wanted,
        "docs/config.md is stale: LBD_WRITE_DOCS=1 cargo test -p lb-userspace --test config"
    );
}

#[test]
fn every_keyword_is_documented() {
    let text = docs::markdown();
    for keyword in keywords::all() {
        let name = keyword.name.replace('|', "\\|");
        assert!(text.contains(&format!("| `{name}`")), "{name}");
    }
}
