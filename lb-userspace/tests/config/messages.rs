//! Every message of the parser stands in a snapshot of the corpus, so that its wording and its place are read
//! by somebody when they change.

use std::{collections::BTreeSet, fs, path::Path};

/// Messages that no file of the corpus reaches: the longest fixed part of each, and why.
const ELSEWHERE: [(&str, &str); 24] = [
    ("lbd's keyword table says that `", "a mistake of ours; tests/bounds.rs: no word does it"),
    ("please report this", "the same"),
    ("outer: an error was told; inner: everything", "the reason of a lint"),
    ("the name of an included file has more than", BOUND),
    ("braces that stand for more than", BOUND),
    ("files include each other deeper than", BOUND),
    ("this one is not read", BOUND),
    ("files are included", BOUND),
    ("the files together have more than", BOUND),
    ("an `include` has more than", BOUND),
    ("variables lead to variables more than", BOUND),
    ("files, sequences and variables are nested deeper than", BOUND),
    ("~SEQ, ~LST, variables and include make more than", BOUND),
    ("the values of variables have more than", BOUND),
    ("interfaces with delays", BOUND),
    ("tracked objects in one list", BOUND),
    ("peers of one instance", BOUND),
    ("statements; the rest is not read", BOUND),
    ("words; the rest is not read", BOUND),
    ("with this vrrp_instance there are", BOUND),
    ("blocks are nested deeper than", BOUND),
    ("it is no text, it contains NUL bytes", INCLUDE),
    ("` is left out:", INCLUDE),
    ("` is not included:", INCLUDE),
];
const BOUND: &str =
    "a bound: tests/config.rs, config/tests/bounds.rs and config/expand/tests.rs reach it";
const INCLUDE: &str = "files that the corpus does not have: config/expand/tests.rs";

/// Places (line) and values of the string literals of a source, less its tests.
fn literals(source: &str) -> Vec<(usize, String)> {
    let source = source.split("#[cfg(test)]").next().unwrap_or("");
    let mut out = Vec::new();
    let mut chars = source.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            // A character, which may be a quote; a lifetime has no second one.
            '\'' => {
                let mut ahead = chars.clone();
                let first = ahead.next();
                let second = if first == Some('\\') { ahead.nth(1) } else { ahead.next() };
                if second == Some('\'') {
                    chars = ahead;
                }
            }
            '"' => {
                let (begin, mut text) = (line, String::new());
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    line += usize::from(c == '\n');
                    if c != '\\' {
                        text.push(c);
                        continue;
                    }
                    match chars.next() {
                        Some('\n') => {
                            line += 1;
                            while let Some(blank) = chars.next_if(|c| c.is_whitespace()) {
                                line += usize::from(blank == '\n');
                            }
                        }
                        Some('n') => text.push('\n'),
                        Some('t') => text.push('\t'),
                        other => text.extend(other),
                    }
                }
                out.push((begin, text));
            }
            _ => {}
        }
    }
    out
}

/// The longest part of a format that stands in what it makes.
fn fixed(format: &str) -> String {
    let marked = format.replace("{{", "\u{1}").replace("}}", "\u{2}");
    let parts = marked.split('{').map(|part| part.split_once('}').map_or(part, |(_, after)| after));
    let longest = parts.map(str::trim).max_by_key(|part| part.len()).unwrap_or("");
    words(&longest.replace('\u{1}', "{").replace('\u{2}', "}"))
}

/// With one blank between words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn files(directory: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut out: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    out.retain(|path| path.to_string_lossy().ends_with(ending));
    out.sort();
    out
}

#[test]
fn every_message_stands_in_a_snapshot_or_is_named() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let read = |path: &Path| fs::read_to_string(path).expect("a text");
    let snapshots = files(&config.join("testdata/snapshots"), ".snap");
    let shown = words(&snapshots.iter().map(|path| read(path)).collect::<String>());
    let mut sources = files(&config.join("lower"), ".rs");
    sources.extend(files(&config.join("expand"), ".rs"));
    sources.push(config.join("syntax.rs"));
    sources.retain(|path| !path.ends_with("tests.rs"));
    let (mut count, mut missing, mut used) = (0, Vec::new(), BTreeSet::new());
    for path in sources {
        for (line, literal) in literals(&read(&path)) {
            let part = fixed(&literal);
            // Words of the configuration, and parts of messages, are no messages.
            if part.split(' ').count() < 3 || part.len() < 12 {
                continue;
            }
            count += 1;
            let named = ELSEWHERE.iter().any(|(text, _)| *text == part);
            if named {
                used.insert(part.clone());
            }
            if shown.contains(&part) == named {
                let why = if named {
                    "is named and stands in a snapshot"
                } else {
                    "stands in no snapshot"
                };
                missing.push(format!("{}:{line}: {why}: {part}", path.display()));
            }
        }
    }
    assert!(count > 400 && missing.is_empty(), "{count} messages\n{}", missing.join("\n"));
    let stale: Vec<_> = ELSEWHERE.iter().filter(|(text, _)| !used.contains(*text)).collect();
    assert!(stale.is_empty(), "no such message: {stale:?}");
}

#[test]
fn literals_and_their_fixed_parts_are_found() {
    let source = "let a = '\"'; // \"no\"\nlet b: &'static str = \"one {x} two \\\n        three \\\"four\\\"\";\n\
        #[cfg(test)]\nlet c = \"no\";";
    let found = literals(source);
    assert_eq!(found, [(2, "one {x} two three \"four\"".to_owned())]);
    assert_eq!(fixed(&found[0].1), "two three \"four\"");
    assert_eq!(fixed("`{name}`: keys {{ID}} and more of {n}"), "`: keys {ID} and more of");
}
