//! docs/config.md and `lbctl explain WORD`, from the keyword table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::keywords::{self, Block, Keyword, Status, Tier};

/// What stands before the tables.
const INTRODUCTION: &str = include_str!("introduction.md");

/// The whole of docs/config.md. `cargo xtask`-free: the test that compares it with the committed
/// file writes it when `LBD_WRITE_DOCS=1` is set.
pub fn markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    out.push_str(
        "\n## Words that nothing will come of\n\nThey are read, told of once with their place, and not \
         acted on, now or later:\n\n",
    );
    for (consequence, words) in never() {
        let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        let _ = writeln!(out, "- {}: {consequence}", words.join(", "));
    }
    for block in Block::ALL {
        let rows: Vec<_> = keywords::all().filter(|k| k.blocks.contains(&block)).collect();
        let _ = write!(out, "\n## {}\n\n", block.title());
        if block.is_list() {
            out.push_str("A list: its lines are entries, not keywords.\n\n");
        }
        out.push_str(
            "| Word | Argument | Default | Meaning | Tier | Since | lbd |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for keyword in rows {
            let _ = writeln!(
                out,
                "| `{}`{} | {} | {} | {} | {} | {} | {} |",
                keyword.name.replace('|', "\\|"),
                if keyword.opens.is_some() { " `{ }`" } else { "" },
                cell(&keyword.argument.to_string()),
                cell(keyword.default),
                cell(keyword.meaning),
                tier(keyword.tier),
                cell(keyword.since()),
                cell(&status(keyword)),
            );
        }
    }
    out
}

/// Words that lbd will never act on, by what there is in their place.
fn never() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut out = BTreeMap::<_, BTreeSet<_>>::new();
    for keyword in keywords::all().filter(|it| matches!(it.status, Status::Never(_))) {
        out.entry(keyword.consequence()).or_default().insert(keyword.name);
    }
    out
}

fn cell(text: &str) -> String {
    if text.is_empty() { "–".into() } else { text.replace('|', "\\|") }
}

fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::A => "A",
        Tier::B => "B",
        Tier::C => "C",
    }
}

fn status(keyword: &Keyword) -> String {
    match keyword.status {
        Status::Acts => "acts".into(),
        Status::Ours => "**ours**".into(),
        Status::Later(_) => format!("not yet: {}", keyword.consequence()),
        Status::Never(_) => format!("never: {}", keyword.consequence()),
        Status::Refused(_) => format!("error: {}", keyword.consequence()),
    }
}

/// What a word means, in every block that knows it; lines for a person. `None`: no such word (the
/// nearest one is in the error text of `Err`, if there is one).
pub fn explain(word: &str) -> Result<String, Option<&'static str>> {
    let mut out = String::new();
    for keyword in keywords::anywhere(word) {
        let blocks: Vec<_> = keyword.blocks.iter().map(|block| block.title()).collect();
        let _ = writeln!(out, "{} (in {})", keyword.name, blocks.join("; "));
        let _ = writeln!(out, "  {}", keyword.meaning);
        let _ = writeln!(out, "  argument: {}", keyword.argument);
        if !keyword.default.is_empty() {
            let _ = writeln!(out, "  default:  {}", keyword.default);
        }
        let _ = match keyword.since() {
            "" => Ok(()),
            "lbd" => writeln!(out, "  since:    lbd; keepalived has no such word"),
            version => writeln!(out, "  since:    keepalived {version}"),
        };
        let _ = writeln!(out, "  lbd:      {}", status(keyword).replace('*', ""));
    }
    if out.is_empty() {
        return Err(keywords::nearest(Block::Root, word).map(|keyword| keyword.name));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One word of each status, as `lbctl explain` prints it.
    #[test]
    fn a_word_of_each_status_is_explained() {
        let statuses = [
            ("acts", "nopreempt"),
            ("ours", "on_down"),
            ("not-yet", "ha_suspend"),
            ("never", "lvs_flush"),
            ("refused", "track_bfd"),
            ("in-several-blocks", "fwmark"),
        ];
        insta::with_settings!({
            snapshot_path => "testdata/snapshots",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            for (name, word) in statuses {
                insta::assert_snapshot!(format!("explain-{name}"), explain(word).expect(word));
            }
        });
        assert_eq!(explain("nopreemt"), Err(Some("nopreempt")));
        assert_eq!(explain("zzzzzzzz"), Err(None));
    }
}
