//! One line on its way through expansion: bytes that know where they came from.

use super::super::source::Pos;

/// A byte and its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) byte: u8,
    pub(super) pos: Pos,
    /// Number of the expansion that it belongs to; 0: it stands in a file.
    pub(super) within: u32,
}

/// Bytes of a line.
pub(super) type Line = Vec<Unit>;

/// Text of a file, each byte at its own position.
pub(super) fn units(text: &str, pos: Pos) -> Line {
    text.bytes().zip(pos..).map(|(byte, pos)| Unit { byte, pos, within: 0 }).collect()
}

/// The text of some bytes. They are whole characters unless a variable was cut into them.
pub(super) fn text(line: &[Unit]) -> String {
    let bytes: Vec<u8> = line.iter().map(|unit| unit.byte).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
}

/// Length of a variable's name at the beginning of these bytes; 0: none begins here.
pub(super) fn name_len(bytes: impl Iterator<Item = u8>) -> usize {
    let mut len = 0;
    for byte in bytes {
        if !(byte == b'_' || byte.is_ascii_alphanumeric()) || (len == 0 && byte.is_ascii_digit()) {
            break;
        }
        len += 1;
    }
    len
}

/// Index of the first byte that is no blank.
pub(super) fn skip_blanks(line: &[Unit], from: usize) -> usize {
    let rest = line.get(from..).unwrap_or(&[]);
    from + rest.iter().take_while(|unit| is_blank(unit.byte)).count()
}

/// Whether it begins with this word.
pub(super) fn starts_with(line: &[Unit], word: &str) -> bool {
    line.len() >= word.len() && line.iter().zip(word.bytes()).all(|(unit, byte)| unit.byte == byte)
}

pub(super) fn contains(line: &[Unit], byte: u8) -> bool {
    line.iter().any(|unit| unit.byte == byte)
}

/// Removes blanks at both ends.
pub(super) fn trim(line: &mut Line) {
    while line.last().is_some_and(|unit| is_blank(unit.byte)) {
        line.pop();
    }
    let leading = skip_blanks(line, 0);
    line.drain(..leading);
}

/// Removes the comment, and the backslash before a `#` or `!` that begins none. keepalived does it
/// again after each substitution: what the backslash protected then begins a comment after all,
/// and so does the value of `${_HASH}` outside quotes. Returns where the comment began.
pub(super) fn decomment(line: &mut Line) -> Option<Unit> {
    let mut out = Line::with_capacity(line.len());
    let mut quoted = false;
    let mut began = None;
    let mut rest = line.iter().copied();
    while let Some(unit) = rest.next() {
        match unit.byte {
            b'"' => quoted = !quoted,
            b'\\' => {
                match rest.next() {
                    Some(next) if !quoted && matches!(next.byte, b'#' | b'!') => out.push(next),
                    Some(next) => out.extend([unit, next]),
                    None => out.push(unit),
                }
                continue;
            }
            b'#' | b'!' if !quoted => {
                began = Some(unit);
                break;
            }
            _ => {}
        }
        out.push(unit);
    }
    *line = out;
    trim(line);
    began
}

/// Where the line ends for its statement: behind the brace that begins it, or before the first one
/// outside double quotes, which a backslash does not hide. Braces of an unknown `${NAME}` are none.
pub(super) fn statement_end(line: &[Unit]) -> usize {
    if line.first().is_some_and(|unit| matches!(unit.byte, b'{' | b'}')) {
        return skip_blanks(line, 1);
    }
    let mut quoted = false;
    let mut at = 0;
    while let Some(unit) = line.get(at) {
        match unit.byte {
            b'"' => quoted = !quoted,
            b'$' if !quoted && line.get(at + 1).is_some_and(|next| next.byte == b'{') => {
                let rest = line.get(at + 2..).unwrap_or(&[]);
                let len = name_len(rest.iter().map(|unit| unit.byte));
                if len > 0 && rest.get(len).is_some_and(|unit| unit.byte == b'}') {
                    at += len + 2;
                }
            }
            b'{' | b'}' if !quoted => return at,
            _ => {}
        }
        at += 1;
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_escapes_as_keepalived_removes_them() {
        for (raw, first, second) in [
            ("  priority 100 # x", "priority 100", "priority 100"),
            ("w\\#a z", "w#a z", "w"),
            ("\"a # b\" \\\\# c", "\"a # b\" \\\\", "\"a # b\" \\\\"),
            ("\"a \\# b\"", "\"a \\# b\"", "\"a \\# b\""),
        ] {
            let mut line = units(raw, 0);
            decomment(&mut line);
            assert_eq!(text(&line), first);
            decomment(&mut line);
            assert_eq!(text(&line), second);
        }
    }

    #[test]
    fn a_statement_ends_at_its_brace() {
        for (raw, end) in [
            ("a b { c", 4),
            ("{ c", 2),
            ("}", 1),
            ("a \"{\" }", 6),
            ("a ${B} {", 7),
            ("a ${B C} {", 3),
            ("a b", 3),
            (r#"a "b \"{ c; }\"""#, 7),
        ] {
            assert_eq!(statement_end(&units(raw, 0)), end, "{raw}");
        }
    }
}
