//! Lines → words and braces, by keepalived's rules (reference/keepalived.md §1). Variables, `@` lines
//! and `include` are done with before (`config::expand`).
//!
//! * `#` and `!` begin a comment anywhere outside double quotes, also in the middle of a word;
//!   a backslash before them makes them ordinary.
//! * Words end at blanks and at `"`. A word that begins with `"` runs to the next `"`, one behind a
//!   backslash too; only for comments the backslash counts. Words that are split once more (scripts,
//!   `regex`) give single quotes and backslashes meaning later.
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
    /// There is a backslash in it.
    escaped: bool,
}

impl Word {
    /// Whether its text is that of its span.
    pub(super) fn is_written(self) -> bool {
        self.quoted || !self.escaped
    }

    /// The word as keepalived sees it: `\#` and `\!` outside quotes lose their backslash.
    pub(super) fn text(self, source: &Source) -> std::borrow::Cow<'_, str> {
        let text = source.slice(self.span);
        if !self.is_written() && (text.contains("\\#") || text.contains("\\!")) {
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

/// Classes of bytes, as bits.
const WORD: u8 = 0;
const BLANK: u8 = 1;
/// `{` and `}`.
const BRACE: u8 = 2;
/// What makes a line more than words, blanks and braces: `"`, `#`, `!` and the backslash.
const SIGN: u8 = 4;
const END: u8 = 8;

/// By byte: a file is looked at byte by byte, and each of them once.
const CLASSES: [u8; 256] = {
    let mut classes = [WORD; 256];
    let kinds: [(&[u8], u8); 4] =
        [(b" \t\r\x0b\x0c", BLANK), (b"{}", BRACE), (b"\"#!\\", SIGN), (b"\n", END)];
    let mut kind = 0;
    while kind < kinds.len() {
        let (bytes, class) = kinds[kind];
        let mut at = 0;
        while at < bytes.len() {
            classes[bytes[at] as usize] = class;
            at += 1;
        }
        kind += 1;
    }
    classes
};

fn class(byte: u8) -> u8 {
    CLASSES[usize::from(byte)]
}

/// Gives the tokens of a text to `take`, line by line, each line closed by [`Token::EndOfLine`], until it answers
/// false: then where that was. Most lines are words, blanks and braces: they are read here, each byte once. The
/// others have a [`Lexer`].
pub(super) fn read(
    text: &str,
    mut take: impl FnMut(Result<Token, LexError>) -> bool,
) -> Option<usize> {
    let bytes = text.as_bytes();
    // What makes a line more than plain, the first of each from here on; apart, so that each byte is looked at once
    // however many there are of one kind.
    let (mut sign, mut backslash) = (None, None);
    let mut from = 0;
    loop {
        let rest = bytes.get(from..).unwrap_or(&[]);
        let sign = next_of(&mut sign, from, || memchr::memchr3(b'"', b'#', b'!', rest));
        let backslash = next_of(&mut backslash, from, || memchr::memchr(b'\\', rest));
        let Some(before) = bytes.get(from..sign.min(backslash)) else {
            // No line behind this one has any.
            return match plain_lines(bytes, from, &mut take) {
                Err(at) => Some(at),
                // A lexer had the last line and has closed it.
                Ok(at) if at > bytes.len() => None,
                Ok(at) => (!take(Ok(Token::EndOfLine))).then_some(at),
            };
        };
        let line = memchr::memrchr(b'\n', before).map_or(from, |at| from + at + 1);
        if let Err(at) = plain_lines(bytes.get(..line).unwrap_or(&[]), from, &mut take) {
            return Some(at);
        }
        let code = line_from(bytes, line);
        if !Lexer::new(line, code, false).all(&mut take) {
            return Some(line);
        }
        from = line + code.len() + 1;
        if from > bytes.len() {
            return None;
        }
    }
}

/// What was found last, or, when it lies before `from`, what is found from there.
fn next_of(last: &mut Option<usize>, from: usize, find: impl Fn() -> Option<usize>) -> usize {
    match *last {
        Some(at) if at >= from => at,
        _ => *last.insert(find().map_or(usize::MAX, |at| from + at)),
    }
}

/// The rest of a line, without the byte that ends it.
fn line_from(bytes: &[u8], from: usize) -> &[u8] {
    let rest = bytes.get(from..).unwrap_or(&[]);
    rest.get(..memchr::memchr(b'\n', rest).unwrap_or(rest.len())).unwrap_or(rest)
}

/// Reads lines of words, blanks and braces from an offset to the end of `bytes`: the offset behind the last token, or,
/// as an error, where `take` was false.
fn plain_lines(
    bytes: &[u8],
    mut at: usize,
    take: &mut impl FnMut(Result<Token, LexError>) -> bool,
) -> Result<usize, usize> {
    while let Some(rest) = bytes.get(at..)
        && let Some(first) = rest.first().copied()
    {
        let (token, len) = match class(first) {
            BLANK => {
                // Lines begin with many of them, nearly always spaces.
                at += if rest.starts_with(b"    ") { 4 } else { 1 };
                continue;
            }
            END => (Token::EndOfLine, 1),
            BRACE if first == b'}' => (Token::Close(Span::new(at..at + 1)), 1),
            BRACE if matches!(rest.get(1), Some(b'{' | b'%')) => {
                // Perhaps the placeholder of a template.
                let code = line_from(bytes, at);
                if !Lexer::new(at, code, true).all(&mut *take) {
                    return Err(at);
                }
                at += code.len() + 1;
                continue;
            }
            BRACE => (Token::Open(Span::new(at..at + 1)), 1),
            _ => {
                let len = plain_word(rest);
                let span = Span::new(at..at + len);
                (Token::Word(Word { span, quoted: false, escaped: false }), len)
            }
        };
        if !take(Ok(token)) {
            return Err(at);
        }
        at += len;
    }
    Ok(at)
}

/// Length of the word that these bytes begin with, when no quote and no comment can end it.
fn plain_word(bytes: &[u8]) -> usize {
    let mut len = 0;
    loop {
        let rest = bytes.get(len..).unwrap_or(&[]);
        let more = rest.iter().position(|byte| class(*byte) & (BLANK | BRACE | END) != 0);
        len += more.unwrap_or(rest.len());
        // Braces of a variable that nobody defined belong to its word.
        let open = bytes.get(len) == Some(&b'{') && len > 0 && bytes.get(len - 1) == Some(&b'$');
        match open.then(|| variable_braces(bytes.get(len..)?)).flatten() {
            Some(braces) => len += braces,
            None => return len,
        }
    }
}

/// Tokens of one line, always closed by [`Token::EndOfLine`].
struct Lexer<'a> {
    /// Offset of its first byte.
    base: usize,
    code: &'a [u8],
    at: usize,
    /// There is no backslash in it.
    plain: bool,
    /// To be told first.
    error: Option<LexError>,
    /// Comes before what follows `at`.
    pending: Option<Token>,
    ended: bool,
}

impl<'a> Lexer<'a> {
    /// Of a line without the byte that ends it; `plain`: there is no quote, comment or backslash in it.
    fn new(base: usize, code: &'a [u8], plain: bool) -> Self {
        let mut lexer = Self { base, code, at: 0, plain, error: None, pending: None, ended: false };
        if !plain {
            lexer.uncomment();
        }
        lexer
    }

    /// Takes away the comment, and a backslash at the end that continues nothing.
    fn uncomment(&mut self) {
        let code = self.code.get(..comment_start(self.code)).unwrap_or(self.code);
        self.code = code.trim_ascii_end();
        if is_continued(self.code) {
            let last = self.code.len() - 1;
            self.error = Some(LexError::Continued(self.span(last, last + 1)));
            self.code = self.code.get(..last).unwrap_or(self.code);
        } else if !is_balanced(self.code)
            && self.code.iter().filter(|it| **it == b'"').count() % 2 == 0
        {
            // As words are read each has its partner; keepalived looks at the line both ways.
            let first = self.code.iter().position(|byte| *byte == b'"').unwrap_or(0);
            self.error = Some(LexError::UnterminatedQuote(self.span(first, self.code.len())));
        }
    }

    fn span(&self, from: usize, to: usize) -> Span {
        Span::new(self.base + from..self.base + to)
    }

    fn word(&self, from: usize, to: usize, quoted: bool) -> Token {
        let bytes = self.code.get(from..to).unwrap_or(&[]);
        let escaped = !self.plain && bytes.contains(&b'\\');
        Token::Word(Word { span: self.span(from, to), quoted, escaped })
    }

    fn quoted(&mut self) -> Token {
        let from = self.at + 1;
        let end = self.code.len();
        let rest = self.code.get(from..).unwrap_or(&[]);
        if let Some(len) = rest.iter().position(|byte| *byte == b'"') {
            self.at = from + len + 1;
            return self.word(from, from + len, true);
        }
        self.error = Some(LexError::UnterminatedQuote(self.span(self.at, end)));
        self.at = end;
        self.word(from, end, false)
    }

    /// `{{ … }}`, which stands for a word, or `{% … %}`, which stands for nothing, if one begins here.
    fn placeholder(&mut self) -> Option<LexError> {
        let rest = self.code.get(self.at..)?;
        let end = match rest.get(..2)? {
            b"{{" => b"}}",
            b"{%" => b"%}",
            _ => return None,
        };
        let len = rest.windows(2).position(|pair| pair == end)? + 2;
        let (from, to) = (self.at, self.at + len);
        self.at = to;
        if end == b"}}" {
            self.pending = Some(self.word(from, to, false));
        }
        Some(LexError::Placeholder(self.span(from, to)))
    }

    fn bare(&mut self) -> Token {
        let from = self.at;
        while let Some(byte) = self.code.get(self.at).copied() {
            match class(byte) {
                BRACE
                    if byte == b'{'
                        && self.at > from
                        && self.code.get(self.at - 1) == Some(&b'$') =>
                {
                    let rest = self.code.get(self.at..).unwrap_or(&[]);
                    match variable_braces(rest) {
                        Some(len) => self.at += len,
                        None => break,
                    }
                }
                BLANK | BRACE => break,
                SIGN if byte == b'"' => break,
                _ => self.at += 1,
            }
        }
        self.word(from, self.at, false)
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
        while self.code.get(self.at).is_some_and(|byte| class(*byte) == BLANK) {
            self.at += 1;
        }
        let token = match self.code.get(self.at) {
            None if self.ended => return None,
            None => {
                self.ended = true;
                Token::EndOfLine
            }
            Some(b'{') => {
                if let Some(error) = self.placeholder() {
                    return Some(Err(error));
                }
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

/// Whether each `"` has its partner when those behind a backslash count for nothing, as where comments are
/// looked for and where the words of scripts are split.
pub(super) fn is_balanced(bytes: &[u8]) -> bool {
    let mut quoted = false;
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    !quoted
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
        let mut tokens = Vec::new();
        let stopped = read(text, |token| {
            tokens.push(token);
            true
        });
        assert_eq!(stopped, None);
        // Plain lines have a reader of their own, which finds what the other one does.
        let mut slow = Vec::new();
        let mut at = 0;
        for line in text.split('\n') {
            slow.extend(Lexer::new(at, line.as_bytes(), false));
            at += line.len() + 1;
        }
        assert_eq!(tokens, slow, "{text}");
        for token in tokens {
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

    /// Any text of what means something to the lexer gives the same tokens by either reader, over lines that are
    /// plain and lines that are not.
    #[test]
    fn plain_lines_are_read_as_the_others() {
        let parts = [
            "a",
            "word",
            " ",
            "    ",
            "\t",
            "\r",
            "{",
            "}",
            "$",
            "${A}",
            "%",
            "\n",
            "\n",
            "€",
            "x1",
            "a_long_word",
            "\u{1}",
            "~z|",
        ];
        let signs = ["\"", "#", "!", "\\"];
        let mut seed = 1_u64;
        let mut next = |most: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap_or(0) % most
        };
        let mut tokens = 0;
        for _ in 0..2_000 {
            let mut text = String::new();
            for _ in 0..next(40) {
                let sign = next(20) == 0;
                text.push_str(if sign {
                    signs[next(signs.len())]
                } else {
                    parts[next(parts.len())]
                });
            }
            tokens += words(&text).0.len();
            // Whoever has enough of it is not asked again.
            let (most, mut taken) = (next(30), 0);
            let stopped = read(&text, |_| {
                taken += 1;
                taken <= most
            });
            assert_eq!(stopped.is_some(), taken > most, "{text}");
            assert!(taken <= most + 1 && stopped.is_none_or(|at| at <= text.len()), "{text}");
        }
        assert!(tokens > 10_000, "{tokens}");
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
            (r#"x "a \"b\" c""#, r"x|a \|b\| c|;"),
            (r#"x "a \"{ b; }\"""#, r"x|a \|{|b;|}|\||;"),
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
    fn quotes_must_be_in_order_with_and_without_backslashes() {
        let unterminated = |text: &str| words(text).1.len();
        for (text, errors) in [
            (r#"x "a \" b""#, 1),
            (r#"x "a\""#, 1),
            (r#"x "a\\""#, 0),
            (r#"x "a \"b\" c""#, 0),
            (r#"x "a"#, 1),
        ] {
            assert_eq!(unterminated(text), errors, "{text}");
        }
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
