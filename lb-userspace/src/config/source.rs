//! Text of a configuration file and positions in it.

use std::ops::Range;

/// Byte range in one [`Source`]. 32 bits are enough: [`super::SOURCE_LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// From byte offsets; offsets beyond 32 bits saturate (a source that long is refused earlier).
    pub fn new(range: Range<usize>) -> Self {
        let cut = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: cut(range.start), end: cut(range.end) }
    }

    /// The byte range, for slicing.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// From the start of `self` to the end of `other`.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start, end: other.end.max(self.start) }
    }
}

/// One file: its name for messages, its text, and where its lines begin.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    line_starts: Vec<u32>,
    web_blank: Option<u32>,
}

/// Replaces the no-break and ideographic blanks that come with text copied from web pages by
/// ordinary ones, outside double quotes and comments; says where the first one was.
fn plain_blanks(text: &str) -> (String, Option<u32>) {
    let mut out = String::with_capacity(text.len());
    let (mut quoted, mut comment, mut escaped) = (false, false, false);
    let mut first = None;
    for c in text.chars() {
        let was_escaped = std::mem::take(&mut escaped);
        match c {
            '\n' => (quoted, comment) = (false, false),
            '\\' => escaped = !was_escaped,
            '"' if !was_escaped => quoted = !quoted,
            '#' | '!' if !was_escaped && !quoted => comment = true,
            '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
                if !quoted && !comment =>
            {
                first.get_or_insert(u32::try_from(out.len()).unwrap_or(u32::MAX - 1));
                out.push(' ');
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    (out, first)
}

impl Source {
    /// Takes the text over. Bytes that are not UTF-8 become U+FFFD: files written by older Chinese
    /// editors carry GBK comments, which must not stop anybody.
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let (text, web_blank) = plain_blanks(&String::from_utf8_lossy(bytes));
        let mut line_starts = vec![0];
        line_starts.extend(
            text.bytes()
                .enumerate()
                .filter(|(_, byte)| *byte == b'\n')
                .map(|(at, _)| u32::try_from(at + 1).unwrap_or(u32::MAX)),
        );
        Self { name: name.to_owned(), text, line_starts, web_blank }
    }

    /// Where the first blank of another kind stood that is read as an ordinary one.
    pub fn web_blank(&self) -> Option<Span> {
        self.web_blank.map(|start| Span { start, end: start + 1 })
    }

    /// Name for messages: the path as the operator gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of a span; empty when the span is not one of this source.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.range()).unwrap_or("")
    }

    /// Line number from 1, and column in characters from 1.
    pub fn position(&self, at: u32) -> (u32, u32) {
        let line = self.line_starts.partition_point(|start| *start <= at).saturating_sub(1);
        let start = self.line_starts.get(line).copied().unwrap_or(0);
        let column = self.slice(Span { start, end: at }).chars().count();
        (u32::try_from(line + 1).unwrap_or(u32::MAX), u32::try_from(column + 1).unwrap_or(u32::MAX))
    }

    /// The line that holds `at`, without its line ending, and where it begins.
    pub fn line_at(&self, at: u32) -> (u32, &str) {
        let line = self.line_starts.partition_point(|start| *start <= at).saturating_sub(1);
        let start = self.line_starts.get(line).copied().unwrap_or(0);
        let end = self
            .line_starts
            .get(line + 1)
            .map_or_else(|| u32::try_from(self.text.len()).unwrap_or(u32::MAX), |next| next - 1);
        let text = self.slice(Span { start, end });
        (start, text.strip_suffix('\r').unwrap_or(text))
    }

    /// Every line with the offset of its first byte, line endings removed.
    pub fn lines(&self) -> impl Iterator<Item = (u32, &str)> {
        self.line_starts.iter().map(|start| self.line_at(*start))
    }
}
