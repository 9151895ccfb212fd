//! Just enough of Rust's surface to see what a file names: comments and literals blanked, `use`
//! trees spread out, paths collected with their lines.

/// A path such as `crate::io::link` and the line where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub line: usize,
    pub path: Vec<String>,
}

impl Named {
    /// `a::b::c`.
    pub fn text(&self) -> String {
        self.path.join("::")
    }
}

/// Replaces comments, strings and character literals by blanks; line breaks stay.
pub fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let mut blank = |from: usize, to: usize| {
        for byte in out.iter_mut().take(to).skip(from) {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + block_comment(rest)
        } else if rest[0] == b'"' {
            at + quoted(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !in_word(bytes, at)) {
            at + length
        } else if let Some(length) = character(rest) {
            at + length
        } else {
            at += 1;
            continue;
        };
        blank(at, end);
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn in_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of `r"…"`, `r#"…"#`, `br"…"` at the start of `rest`.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let mut at = usize::from(rest.first() == Some(&b'b'));
    if rest.get(at) != Some(&b'r') {
        return None;
    }
    at += 1;
    let hashes = rest[at..].iter().take_while(|byte| **byte == b'#').count();
    at += hashes;
    if rest.get(at) != Some(&b'"') {
        return None;
    }
    at += 1;
    let mut end = vec![b'"'];
    end.extend(std::iter::repeat_n(b'#', hashes));
    let close = rest[at..].windows(end.len()).position(|window| window == end);
    Some(close.map_or(rest.len(), |close| at + close + end.len()))
}

/// Length of a character literal (not a lifetime) at the start of `rest`.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.first() != Some(&b'\'') {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        let close = rest[3..].iter().position(|byte| *byte == b'\'')?;
        return Some(3 + close + 1);
    }
    // One character of up to four bytes between quotes.
    (2..=5)
        .find(|&end| rest.get(end) == Some(&b'\''))
        .filter(|&end| end == 2 || rest.get(1).is_some_and(|byte| !byte.is_ascii()))
        .map(|end| end + 1)
}

const TESTS: &str = "#[cfg(test)]\nmod tests {";

/// The file without its test module: `#[cfg(test)]` items stand last (reference/style.md).
pub fn without_tests(blanked: &str) -> &str {
    blanked.find(TESTS).map_or(blanked, |at| &blanked[..at])
}

/// The line of what stands behind the test module, where [`without_tests`] does not look.
pub fn after_tests(blanked: &str) -> Option<usize> {
    let begin = blanked.find(TESTS)?;
    let mut depth = 0_i32;
    let close = blanked[begin..].char_indices().find(|(_, mark)| {
        depth += i32::from(*mark == '{') - i32::from(*mark == '}');
        *mark == '}' && depth == 0
    });
    let after = begin + close?.0 + 1;
    let code = blanked[after..].find(|mark: char| !mark.is_whitespace())?;
    Some(blanked[..after + code].lines().count())
}

/// Every path of two or more words that a blanked text names, `use` trees spread out.
pub fn paths(blanked: &str) -> Vec<Named> {
    let tokens = tokens(blanked);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (line, word) = &tokens[at];
        if word == "use" || is_word(word) {
            let start = if word == "use" { at + 1 } else { at };
            let mut path = Vec::new();
            let next = tree(&tokens, start, &mut path, *line, &mut found);
            at = next.max(at + 1);
        } else {
            at += 1;
        }
    }
    found.retain(|named| named.path.len() > 1);
    found
}

/// Reads one path or use tree from `at`; returns where it ends.
fn tree(
    tokens: &[(usize, String)],
    mut at: usize,
    prefix: &mut Vec<String>,
    line: usize,
    found: &mut Vec<Named>,
) -> usize {
    let depth = prefix.len();
    let mut line = line;
    let mut after_colons = false;
    while let Some((here, word)) = tokens.get(at) {
        if word == "::" {
            after_colons = true;
            at += 1;
        } else if word == "{" && after_colons {
            at += 1;
            while let Some((_, word)) = tokens.get(at) {
                match word.as_str() {
                    "}" => {
                        at += 1;
                        break;
                    }
                    "," => at += 1,
                    _ => {
                        let before = at;
                        at = tree(tokens, at, prefix, *here, found);
                        if at == before {
                            at += 1;
                        }
                    }
                }
            }
            prefix.truncate(depth);
            return at;
        } else if is_word(word) || word == "*" {
            prefix.push(word.clone());
            after_colons = false;
            line = *here;
            at += 1;
            if tokens.get(at).is_none_or(|(_, next)| next != "::") {
                found.push(Named { line, path: prefix.clone() });
                prefix.truncate(depth);
                // `as name` belongs to the tree.
                if tokens.get(at).is_some_and(|(_, word)| word == "as") {
                    at += 2;
                }
                return at;
            }
        } else {
            break;
        }
    }
    if prefix.len() > depth {
        found.push(Named { line, path: prefix.clone() });
        prefix.truncate(depth);
    }
    at
}

fn is_word(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::` and single marks, with line numbers from 1.
pub fn tokens(blanked: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in blanked.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (word, after) = rest.split_at(length);
            if !first.is_whitespace() {
                found.push((number + 1, word.to_owned()));
            }
            rest = after;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        paths(&blanked(text)).iter().map(Named::text).collect()
    }

    #[test]
    fn use_trees_are_spread_out() {
        let text =
            "use crate::{base::{net::Vrid, time}, io as other};\nfn f() { std::fs::read(); }";
        assert_eq!(
            names(text),
            ["crate::base::net::Vrid", "crate::base::time", "crate::io", "std::fs::read"]
        );
    }

    #[test]
    fn lines_are_those_of_the_last_word() {
        let found = paths("use std::{\n    fmt,\n    fs::File,\n};\n");
        assert_eq!(found[1].line, 3, "{found:?}");
        assert_eq!(found[1].text(), "std::fs::File");
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        let text = "// std::fs\n/* a::b /* c::d */ */ let s = \"e::f\"; let r = r#\"g::h\"#; \
                    let c = ':'; let l: &'static i::J = x;";
        assert_eq!(names(text), ["i::J"]);
    }

    #[test]
    fn braces_of_blocks_are_not_trees() {
        assert_eq!(names("fn f() -> a::B { c::d() }"), ["a::B", "c::d"]);
        assert_eq!(names("match x { a::B { y } => 1, _ => z::W }"), ["a::B", "z::W"]);
    }
}
