//! Words and commands in the form that the parser reads back as the same.

use std::fmt::Write as _;

use crate::config::model::Command;

/// Whether a word must be in quotes.
fn is_special(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '{' | '}' | '#' | '!')
}

/// Whether a `"` behind this text would be taken for one of the text's.
fn ends_in_escape(text: &str) -> bool {
    text.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// One word. Nothing is escaped inside double quotes, and the parser keeps the backslashes there.
pub(super) fn word(text: &str) -> String {
    if !text.is_empty() && !text.contains(is_special) {
        text.to_owned()
    } else if ends_in_escape(text) {
        // Only a word without quotes can end so.
        text.replace('#', "\\#").replace('!', "\\!")
    } else {
        format!("\"{text}\"")
    }
}

/// `auth_pass`: eight bytes, of which the last may be the first part of a character or of an
/// escape; what completes it is cut off again.
pub(super) fn pass(bytes: [u8; 8]) -> String {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let bytes = bytes.get(..used).unwrap_or(&bytes);
    let tails: [&[u8]; 8] = [
        b"",
        &[0x80],
        &[0x80, 0x80],
        &[0x80, 0x80, 0x80],
        &[0xa0],
        &[0xa0, 0x80],
        &[0x90],
        &[0x90, 0x80, 0x80],
    ];
    let complete = |tail: &&[u8]| String::from_utf8([bytes, tail].concat()).ok();
    let mut text = tails
        .iter()
        .filter_map(complete)
        .next()
        .unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned());
    // At the end of a line it would go on, before a quote it would hide that.
    if used == 8 && ends_in_escape(&text) {
        text.push('\\');
    }
    word(&text)
}

/// A command as one word in quotes, which the parser splits again.
pub(super) fn command(command: &Command) -> String {
    let argv = &command.argv;
    // The parser looks for braces, and for a quote without a partner, before it knows of backslashes.
    let quotes: usize = argv.iter().map(|it| it.matches('"').count()).sum();
    let bare = quotes % 2 == 1 || argv.iter().any(|it| it.contains(['{', '}']));
    let mut out = String::from("\"");
    for (at, argument) in argv.iter().enumerate() {
        if at > 0 {
            out.push(' ');
        }
        self::argument(&mut out, argument, bare);
    }
    out.push('"');
    out
}

/// The `regex` of a page: it is split as a command is, and is one word.
pub(super) fn pattern(pattern: &str) -> String {
    let mut out = String::from("\"");
    for c in pattern.chars() {
        match c {
            '"' => out.push_str("\\042"),
            '\\' => out.push_str("\\\\"),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\{:03o}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `bare`: no `"` may stand in it.
fn argument(out: &mut String, argument: &str, bare: bool) {
    if argument.is_empty() {
        out.push_str("''");
        return;
    }
    let hard = |c: char| c.is_control() || matches!(c, '\'' | '"' | '\\');
    if !argument.contains(hard) && argument.contains(char::is_whitespace) {
        let _ = write!(out, "'{argument}'");
        return;
    }
    for c in argument.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' if bare => out.push_str("\\042"),
            ' ' | '\'' | '"' | '\\' => out.extend(['\\', c]),
            // A C0 character is one byte; others of the class are not blanks to the parser.
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}
