//! Lines → words and braces, by keepalived's rules (reference/keepalived.md §1).
//!
//! * `#` and `!` begin a comment anywhere outside double quotes, also in the middle of a word;
//!   a backslash before them makes them ordinary.
//! * Words end at blanks and at `"`. A word that begins with `"` runs to the next `"`.
//!   Single quotes mean nothing here (script strings give them meaning later).
//! * `{` and `}` outside double quotes stand alone, whether or not blanks surround them.

use super::source::{Source, Span};

/// Bytes of a line before its comment. keepalived's own limit is 1024; a longer line is an error.
pub const LINE_LIMIT: usize = 16 * 1024;

/// One token. Words are spans: the text is read from the source when it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(Word),
    Open(Span),
    Close(Span),
    /// The line is over; keepalived's statements are one line each.
    EndOfLine,
}

/// A word, quotes excluded from its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) span: Span,
    pub(super) quoted: bool,
}

impl Word {
    /// The word as keepalived sees it: `\#` and `\!` outside quotes lose their backslash.
    pub(super) fn text(self, source: &Source) -> std::borrow::Cow<'_, str> {
        let text = source.slice(self.span);
        if !self.quoted && (text.contains("\\#") || text.contains("\\!")) {
            return text.replace("\\#", "#").replace("\\!", "!").into();
        }
        text.into()
    }
}

/// What is wrong with a line's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LexError {
    /// A `"` without its partner; the span is the quote to the end of the line.
    UnterminatedQuote(Span),
    /// More than [`LINE_LIMIT`] bytes before the comment: the line is skipped.
    LineTooLong(Span),
}

/// Tokens of one line (which begins at byte `start`), always closed by [`Token::EndOfLine`].
pub(super) fn line(
    start: u32,
    text: &str,
    mut error: impl FnMut(LexError),
    mut token: impl FnMut(Token),
) {
    let base = start as usize;
    let bytes = text.as_bytes();
    let span = |from: usize, to: usize| Span::new(base + from..base + to);
    let end = comment_start(bytes);
    if end > LINE_LIMIT {
        error(LexError::LineTooLong(span(0, 0)));
        return;
    }
    let code = bytes.get(..end).unwrap_or(bytes);
    let mut at = 0;
    while let Some(byte) = code.get(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c' => at += 1,
            b'{' => {
                token(Token::Open(span(at, at + 1)));
                at += 1;
            }
            b'}' => {
                token(Token::Close(span(at, at + 1)));
                at += 1;
            }
            b'"' => {
                let from = at + 1;
                let rest = code.get(from..).unwrap_or(&[]);
                match closing_quote(rest) {
                    Some(len) => {
                        token(Token::Word(Word { span: span(from, from + len), quoted: true }));
                        at = from + len + 1;
                    }
                    None => {
                        error(LexError::UnterminatedQuote(span(at, end)));
                        token(Token::Word(Word { span: span(from, end), quoted: false }));
                        at = end;
                    }
                }
            }
            _ => {
                let rest = code.get(at..).unwrap_or(&[]);
                let len = rest
                    .iter()
                    .position(|b| {
                        matches!(b, b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c' | b'"' | b'{' | b'}')
                    })
                    .unwrap_or(rest.len());
                token(Token::Word(Word { span: span(at, at + len), quoted: false }));
                at += len;
            }
        }
    }
    token(Token::EndOfLine);
}

/// Offset of the `"` that ends a quoted word; one behind a backslash does not.
fn closing_quote(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Where the comment begins, or the end of the line. Looks no further than the line's limit.
pub(super) fn comment_start(bytes: &[u8]) -> usize {
    let mut quoted = false;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => at += 1,
            b'#' | b'!' if !quoted => return at,
            _ => {}
        }
        at += 1;
        if at > LINE_LIMIT {
            break;
        }
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> (Vec<String>, Vec<LexError>) {
        let source = Source::new("t", text.as_bytes());
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        line(
            0,
            text,
            |e| errors.push(e),
            |t| match t {
                Token::Word(w) => out.push(w.text(&source).into_owned()),
                Token::Open(_) => out.push("{".into()),
                Token::Close(_) => out.push("}".into()),
                Token::EndOfLine => out.push(";".into()),
            },
        );
        (out, errors)
    }

    #[test]
    fn keepalived_line_rules() {
        for (text, expect) in [
            ("priority 101   #优先级", "priority 101 ;"),
            ("auth_pass Ab!c", "auth_pass Ab ;"),
            ("auth_pass Ab\\!c", "auth_pass Ab!c ;"),
            ("x \"a # b ! c\" d", "x|a # b ! c|d|;"),
            ("a\"b c\"d", "a|b c|d|;"),
            ("authentication {#设置认证", "authentication { ;"),
            ("virtual_server 10.0.0.1 80{", "virtual_server 10.0.0.1 80 { ;"),
            ("track_script {chk}", "track_script { chk } ;"),
            ("s \"a { b\" {", "s|a { b|{|;"),
            ("\tstate\tMASTER \t", "state MASTER ;"),
            ("script '/a b'", "script '/a b' ;"),
            ("", ";"),
            ("!", ";"),
            ("x \"\"", "x||;"),
            ("x \"a \\\"b\\\" c\"", "x|a \\\"b\\\" c|;"),
        ] {
            let split = if expect.contains('|') { '|' } else { ' ' };
            let expect: Vec<_> = expect.split(split).map(str::to_owned).collect();
            assert_eq!(words(text), (expect, vec![]), "{text}");
        }
    }

    #[test]
    fn unterminated_quote_is_an_error_and_ends_the_line() {
        let (out, errors) = words("script \"/bin/x # no");
        assert_eq!(out, ["script", "/bin/x # no", ";"]);
        assert_eq!(errors, [LexError::UnterminatedQuote(Span { start: 7, end: 19 })]);
    }

    #[test]
    fn long_line_is_an_error_but_a_long_comment_is_not() {
        let long = "a".repeat(LINE_LIMIT + 1);
        assert!(matches!(words(&long).1[..], [LexError::LineTooLong(_)]));
        let comment = format!("x # {long}");
        assert_eq!(words(&comment), (vec!["x".into(), ";".into()], vec![]));
    }
}
