//! Lines → words and braces, by keepalived's rules (reference/keepalived.md §1). Variables, `@` lines
//! and `include` are done with before (`config::expand`).
//!
//! * `#` and `!` begin a comment anywhere outside double quotes, also in the middle of a word;
//!   a backslash before them makes them ordinary.
//! * Words end at blanks and at `"`. A word that begins with `"` runs to the next `"`.
//!   Single quotes mean nothing here (script strings give them meaning later).
//! * `{` and `}` outside double quotes stand alone, whether or not blanks surround them; those of a
//!   variable that nobody defined (`${NAME}`) belong to its word.
//! * A line has no greatest length (keepalived's is 1024 bytes).

use super::source::{Source, Span};

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
    /// A `\` at the end of a line that is no definition; it is left out.
    Continued(Span),
    /// `{{ … }}` or `{% … %}`: a template that was not filled in.
    Placeholder(Span),
}

/// Tokens of one line, always closed by [`Token::EndOfLine`].
pub(super) struct Lexer<'a> {
    base: usize,
    code: &'a [u8],
    at: usize,
    /// To be told first.
    error: Option<LexError>,
    /// Comes before what follows `at`.
    pending: Option<Token>,
    ended: bool,
}

impl<'a> Lexer<'a> {
    /// Of a line that begins at byte `start` of the source.
    pub(super) fn new(start: u32, text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let code = bytes.get(..comment_start(bytes)).unwrap_or(bytes).trim_ascii_end();
        let mut lexer =
            Self { base: start as usize, code, at: 0, error: None, pending: None, ended: false };
        if is_continued(code) {
            let last = code.len() - 1;
            lexer.error = Some(LexError::Continued(lexer.span(last, last + 1)));
            lexer.code = code.get(..last).unwrap_or(code);
        }
        lexer
    }

    fn span(&self, from: usize, to: usize) -> Span {
        Span::new(self.base + from..self.base + to)
    }

    fn quoted(&mut self) -> Token {
        let from = self.at + 1;
        let end = self.code.len();
        let rest = self.code.get(from..).unwrap_or(&[]);
        if let Some(len) = closing_quote(rest) {
            self.at = from + len + 1;
            return Token::Word(Word { span: self.span(from, from + len), quoted: true });
        }
        self.error = Some(LexError::UnterminatedQuote(self.span(self.at, end)));
        self.at = end;
        Token::Word(Word { span: self.span(from, end), quoted: false })
    }

    /// `{{ … }}`, which stands for a word, or `{% … %}`, which stands for nothing, if one begins here.
    fn placeholder(&mut self) -> Option<Result<Token, LexError>> {
        let rest = self.code.get(self.at..)?;
        let end = match rest.get(..2)? {
            b"{{" => b"}}",
            b"{%" => b"%}",
            _ => return None,
        };
        let len = rest.windows(2).position(|pair| pair == end)? + 2;
        let span = self.span(self.at, self.at + len);
        self.at += len;
        if end == b"}}" {
            self.pending = Some(Token::Word(Word { span, quoted: false }));
        }
        Some(Err(LexError::Placeholder(span)))
    }

    fn bare(&mut self) -> Token {
        let from = self.at;
        while let Some(byte) = self.code.get(self.at) {
            match byte {
                b'{' if self.at > from && self.code.get(self.at - 1) == Some(&b'$') => {
                    let rest = self.code.get(self.at..).unwrap_or(&[]);
                    match variable_braces(rest) {
                        Some(len) => self.at += len,
                        None => break,
                    }
                }
                b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c' | b'"' | b'{' | b'}' => break,
                _ => self.at += 1,
            }
        }
        Token::Word(Word { span: self.span(from, self.at), quoted: false })
    }
}

impl Iterator for Lexer<'_> {
    type Item = Result<Token, LexError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        if let Some(token) = self.pending.take() {
            return Some(Ok(token));
        }
        while matches!(self.code.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c')) {
            self.at += 1;
        }
        if let Some(placeholder) = self.placeholder() {
            return Some(placeholder);
        }
        let token = match self.code.get(self.at) {
            None if self.ended => return None,
            None => {
                self.ended = true;
                Token::EndOfLine
            }
            Some(b'{') => {
                self.at += 1;
                Token::Open(self.span(self.at - 1, self.at))
            }
            Some(b'}') => {
                self.at += 1;
                Token::Close(self.span(self.at - 1, self.at))
            }
            Some(b'"') => self.quoted(),
            Some(_) => self.bare(),
        };
        if let Some(error) = self.error.take() {
            self.pending = Some(token);
            return Some(Err(error));
        }
        Some(Ok(token))
    }
}

/// Length of `{NAME}` at the beginning of these bytes.
fn variable_braces(bytes: &[u8]) -> Option<usize> {
    let name = bytes.get(1..)?;
    let len = name.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let starts_well = name.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    (starts_well && name.get(len) == Some(&b'}')).then_some(len + 2)
}

/// Whether code without its comment and trailing blanks ends in a `\` that escapes nothing.
pub(super) fn is_continued(code: &[u8]) -> bool {
    code.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
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

/// Where the comment begins, or the end of the line.
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
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> (Vec<String>, Vec<LexError>) {
        let source = Source::new("t", text.as_bytes());
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        for token in Lexer::new(0, text) {
            match token {
                Err(error) => errors.push(error),
                Ok(Token::Word(w)) => out.push(w.text(&source).into_owned()),
                Ok(Token::Open(_)) => out.push("{".into()),
                Ok(Token::Close(_)) => out.push("}".into()),
                Ok(Token::EndOfLine) => out.push(";".into()),
            }
        }
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
            ("a ${NAME} b${_X}c {", "a ${NAME} b${_X}c { ;"),
            ("a ${NA ME} ${}", "a $ { NA ME } $ { } ;"),
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
    fn placeholders_of_templates_are_no_braces() {
        let (out, errors) = words("ip {{ vip }}/24 {% if x %} {");
        assert_eq!(out, ["ip", "{{ vip }}", "/24", "{", ";"]);
        assert_eq!(errors.len(), 2);
        assert_eq!(words("a {{").0, ["a", "{", "{", ";"]);
    }

    #[test]
    fn a_backslash_at_the_end_is_told_and_left_out() {
        let (out, errors) = words("priority 100 \\  # so");
        assert_eq!(out, ["priority", "100", ";"]);
        assert_eq!(errors, [LexError::Continued(Span { start: 13, end: 14 })]);
        assert_eq!(
            words("script /x\\\\"),
            (vec!["script".into(), "/x\\\\".into(), ";".into()], vec![])
        );
    }

    #[test]
    fn a_line_may_be_as_long_as_it_likes() {
        let long = "a".repeat(1 << 20);
        let (out, errors) = words(&format!("x {long} # {long}"));
        assert_eq!((out.len(), out[1].len(), errors), (3, 1 << 20, vec![]));
    }
}
