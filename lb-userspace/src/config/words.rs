//! A script's line split into words as keepalived does: single and double quotes, and C-like
//! escapes. It happens twice: the configuration line into arguments (escapes kept), then the
//! script's argument into the vector for exec (escapes resolved).

/// Why a line cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SplitError {
    /// This quote is not closed.
    Unterminated(char),
    /// A backslash with nothing behind it.
    TrailingBackslash,
    /// Escapes made a byte that no argument can hold (NUL), or no UTF-8.
    NotText,
}

impl std::fmt::Display for SplitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unterminated(quote) => write!(f, "the closing {quote} is missing"),
            Self::TrailingBackslash => f.write_str("there is nothing behind the backslash"),
            Self::NotText => f.write_str("an escape makes a byte that no argument can hold"),
        }
    }
}

/// Splits; `escapes` says whether `\n`, `\x41` and the like are resolved or kept as they are.
pub(super) fn split(text: &str, escapes: bool) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut bytes = text.bytes().peekable();
    loop {
        while bytes.next_if(|b| is_blank(*b)).is_some() {}
        if bytes.peek().is_none() {
            return Ok(words);
        }
        let mut word = Vec::new();
        let mut quote = None;
        while let Some(byte) = bytes.peek().copied() {
            match (byte, quote) {
                (b'\\', _) => {
                    bytes.next();
                    let next = *bytes.peek().ok_or(SplitError::TrailingBackslash)?;
                    if escapes {
                        word.push(escape(&mut bytes));
                    } else {
                        bytes.next();
                        word.extend([b'\\', next]);
                    }
                    continue;
                }
                (b, Some(open)) if b == open => quote = None,
                (b'"' | b'\'', None) => quote = Some(byte),
                (b, None) if is_blank(b) => break,
                (b, _) => word.push(b),
            }
            bytes.next();
        }
        if let Some(open) = quote {
            return Err(SplitError::Unterminated(char::from(open)));
        }
        if word.contains(&0) {
            return Err(SplitError::NotText);
        }
        words.push(String::from_utf8(word).map_err(|_| SplitError::NotText)?);
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c)
}

/// The byte behind a backslash; at least one is there.
fn escape(bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>) -> u8 {
    let Some(first) = bytes.next() else { return b'\\' };
    match first {
        b'x' if bytes.peek().is_some_and(u8::is_ascii_hexdigit) => {
            let mut value = 0;
            for _ in 0..2 {
                let Some(digit) = bytes.next_if(u8::is_ascii_hexdigit) else { break };
                value = value << 4 | hex(digit);
            }
            value
        }
        b'c' => bytes.next().map_or(b'c', |control| control & 0x1f),
        b'0'..=b'7' => {
            let mut value = first - b'0';
            for _ in 0..2 {
                let Some(digit) = bytes.next_if(|b| (b'0'..=b'7').contains(b)) else { break };
                value = value.wrapping_shl(3) | (digit - b'0');
            }
            value
        }
        b'a' => 0x07,
        b'b' => 0x08,
        b'E' => 0x1b,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10) & 0xf,
    }
}

/// A configuration line for [`split`]: `\#` and `\!` outside double quotes lose their backslash,
/// as keepalived's comment remover does it.
pub(super) fn uncomment(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut quoted = false;
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '"' {
            quoted = !quoted;
        }
        if c == '\\' {
            match chars.next() {
                Some(next @ ('#' | '!')) if !quoted => out.push(next),
                Some(next) => out.extend(['\\', next]),
                None => out.push('\\'),
            }
            continue;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_keepalived_splits_them() {
        for (line, argv) in [
            (r#"script "/opt/chk_mysql.sh""#, vec!["/opt/chk_mysql.sh"]),
            (r"script /opt/chk.sh", vec!["/opt/chk.sh"]),
            (r#"script "/opt/chk.sh a  b""#, vec!["/opt/chk.sh", "a", "b"]),
            (r#"script "/bin/sh -c 'a b; c'""#, vec!["/bin/sh", "-c", "a b; c"]),
            (r#"script '/bin/sh -c "a b"'"#, vec!["/bin/sh", "-c", "a b"]),
            (r#"script "/bin/echo \"a b\"""#, vec!["/bin/echo", "\"a", "b\""]),
            (r#"script "/bin/x a\\ b""#, vec!["/bin/x", "a\\", "b"]),
            (r#"script "/bin/x a\ b""#, vec!["/bin/x", "a b"]),
            (r#"script "/bin/x \x41\102\tq \cA""#, vec!["/bin/x", "AB\tq", "\u{1}"]),
            (r#"script "/bin/x ''""#, vec!["/bin/x", ""]),
            (r#"script "/bin/x # !""#, vec!["/bin/x", "#", "!"]),
        ] {
            let line = split(&uncomment(line), false).unwrap();
            assert_eq!(split(&line[1], true).unwrap(), argv, "{line:?}");
        }
    }

    #[test]
    fn bad_lines_are_errors() {
        assert_eq!(split("a 'b", true), Err(SplitError::Unterminated('\'')));
        assert_eq!(split("a \"b", true), Err(SplitError::Unterminated('"')));
        assert_eq!(split("a \\", true), Err(SplitError::TrailingBackslash));
        assert_eq!(split("a \\0", true), Err(SplitError::NotText));
        assert_eq!(split("a \\xff", true), Err(SplitError::NotText));
    }
}
