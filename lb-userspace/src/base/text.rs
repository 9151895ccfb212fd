//! Text from strangers, made fit for logs and reports.

/// At most `limit` characters of `text`, nothing in it that a terminal or a line-based log would
/// act on.
pub fn printable(text: &[u8], limit: usize) -> String {
    let mut out = String::new();
    for (count, c) in String::from_utf8_lossy(text).chars().enumerate() {
        if count == limit {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_escaped_and_length_is_bounded() {
        assert_eq!(printable(b"plain", 10), "plain");
        assert_eq!(printable(b"a\x1b[2J\n\0\xff", 10), "a\\u{1b}[2J\\n\\u{0}\u{fffd}");
        assert_eq!(printable(b"abcdef", 3), "abc…");
    }
}
