//! Text of a configuration as the parser reads it, and the way back to the files it came from.
//!
//! All files of a configuration (the one that was named and what it includes) lie one behind the
//! other in one space of positions (`Pos`). Where nothing was expanded, the parser reads the first file
//! itself. Otherwise it reads a text that `config::expand` wrote, and runs say for each of its
//! bytes from which position it came and through which variables.

use std::{borrow::Cow, collections::BTreeSet, ops::Range, sync::OnceLock};

/// A byte in the files of a configuration. 32 bits are enough: [`super::SOURCE_LIMIT`].
pub(super) type Pos = u32;

/// Byte range in the text that the parser reads.
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
pub(super) struct File {
    pub(super) name: String,
    pub(super) text: String,
    /// Position of its first byte.
    pub(super) base: Pos,
    /// Looked for when the first place is shown.
    line_starts: OnceLock<Vec<u32>>,
}

impl File {
    /// Offset of the first byte of each line.
    fn line_starts(&self) -> &[u32] {
        self.line_starts.get_or_init(|| {
            let ends = memchr::memchr_iter(b'\n', self.text.as_bytes());
            let starts = ends.map(|at| u32::try_from(at + 1).unwrap_or(u32::MAX));
            std::iter::once(0).chain(starts).collect()
        })
    }

    /// Line number from 1, and column in characters from 1, of an offset in the text.
    fn position(&self, at: u32) -> (u32, u32) {
        let (start, _) = self.line_at(at);
        let line = self.line_starts().partition_point(|start| *start <= at);
        let column =
            self.text.get(start as usize..at as usize).map_or(0, |before| before.chars().count());
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (number(line.max(1)), number(column + 1))
    }

    /// The line that holds an offset, without its line ending, and where it begins.
    fn line_at(&self, at: u32) -> (u32, &str) {
        let starts = self.line_starts();
        let line = starts.partition_point(|start| *start <= at).saturating_sub(1);
        let start = starts.get(line).copied().unwrap_or(0);
        let end = match starts.get(line + 1) {
            Some(next) => *next as usize - 1,
            None => self.text.len(),
        };
        let text = self.text.get(start as usize..end).unwrap_or("");
        (start, text.trim_end_matches('\r'))
    }
}

/// How a part of the text came to be where it is.
#[derive(Clone, Debug)]
pub(super) struct Expansion {
    pub(super) kind: Kind,
    /// Name of the variable.
    pub(super) name: std::sync::Arc<str>,
    /// What this expansion stands in itself; 0: nothing.
    pub(super) parent: u32,
}

/// Kinds of [`Expansion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text that stands for `$NAME`: all of its bytes have the position of the use, `len` bytes.
    Value { len: u32, defined: Option<Pos>, by: Definer },
    /// A line of a definition of several lines: its bytes have positions of their own, and the
    /// use is elsewhere.
    Body { used: Pos, len: u32 },
}

/// What gave a variable its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Definer {
    Definition,
    Sequence,
    List,
}

/// The files, and how parts of them were used.
#[derive(Clone, Debug, Default)]
pub(super) struct Map {
    pub(super) files: Vec<File>,
    /// The one of number `n` is at `n - 1`.
    pub(super) expansions: Vec<Expansion>,
    /// Lines (by the position of their first byte) whose values went to where a password stands.
    pub(super) hidden: BTreeSet<Pos>,
}

/// A place in a file, ready to be shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    pub(super) file: &'a str,
    /// From 1.
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) text: &'a str,
    /// Bytes of `text` that are meant.
    pub(super) from: usize,
    pub(super) to: usize,
    /// Values of the line are secret.
    pub(super) hidden: bool,
}

impl Map {
    /// Takes a file in; text that is not UTF-8 is read with replacement characters. The second
    /// value tells where the first blank of another kind stood that is read as an ordinary one.
    pub(super) fn add(&mut self, name: &str, bytes: Cow<'_, [u8]>) -> (usize, Option<Pos>) {
        let (text, web_blank) = plain_blanks(text_of(bytes));
        let base = self.end();
        let line_starts = OnceLock::new();
        self.files.push(File { name: name.to_owned(), text, base, line_starts });
        (self.files.len() - 1, web_blank.map(|at| base + at))
    }

    /// Behind the last file.
    fn end(&self) -> Pos {
        // One byte between files keeps the end of one apart from the beginning of the next.
        self.files.last().map_or(0, |file| {
            file.base.saturating_add(u32::try_from(file.text.len()).unwrap_or(u32::MAX)) + 1
        })
    }

    pub(super) fn file(&self, at: Pos) -> Option<&File> {
        let index = self.files.partition_point(|file| file.base <= at).checked_sub(1)?;
        self.files.get(index)
    }

    /// Position of the first byte of the line that holds one.
    pub(super) fn line_start(&self, at: Pos) -> Pos {
        self.file(at).map_or(at, |file| file.base + file.line_at(at - file.base).0)
    }

    /// What to show for `len` bytes at a position; cut at the end of its line.
    pub(super) fn shown(&self, at: Pos, len: u32) -> Option<Shown<'_>> {
        let file = self.file(at)?;
        let offset = at - file.base;
        let (line, column) = file.position(offset);
        let (start, text) = file.line_at(offset);
        let from = ((offset - start) as usize).min(text.len());
        Some(Shown {
            file: &file.name,
            line,
            column,
            text,
            from,
            to: (from + len as usize).min(text.len()),
            hidden: self.hidden.contains(&(file.base + start)),
        })
    }

    /// An expansion by its number.
    pub(super) fn expansion(&self, number: u32) -> Option<&Expansion> {
        self.expansions.get(number.checked_sub(1)? as usize)
    }
}

/// Bytes of the text that came from one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Where they begin in the text.
    pub(super) at: u32,
    pub(super) pos: Pos,
    /// Number of the expansion that they belong to; 0: none.
    pub(super) within: u32,
    /// All of them have the position of the first.
    pub(super) fixed: bool,
}

/// What the parser reads.
#[derive(Clone, Debug)]
pub struct Source {
    pub(super) map: Map,
    /// `None`: the first file as it is.
    expanded: Option<(String, Vec<Run>)>,
}

/// Where a span came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traced {
    pub(super) pos: Pos,
    pub(super) len: u32,
    pub(super) within: u32,
}

/// A file's text; what is no UTF-8 is replaced. A mark of the byte order at its beginning is no part of it.
fn text_of(bytes: Cow<'_, [u8]>) -> String {
    let bytes = match bytes.strip_prefix("\u{feff}".as_bytes()) {
        Some(rest) => rest.to_vec(),
        None => bytes.into_owned(),
    };
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Replaces the no-break and ideographic blanks that come with text copied from web pages by
/// ordinary ones, outside double quotes and comments; says where the first one was.
fn plain_blanks(text: String) -> (String, Option<u32>) {
    // First bytes of all those blanks: most files have none of them.
    if memchr::memchr3(0xc2, 0xe2, 0xe3, text.as_bytes()).is_none() {
        return (text, None);
    }
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
    /// The first file of a map as it is, without expansion.
    pub(super) fn plain(map: Map) -> Self {
        Self { map, expanded: None }
    }

    /// An expanded text.
    pub(super) fn expanded(map: Map, text: String, runs: Vec<Run>) -> Self {
        Self { map, expanded: Some((text, runs)) }
    }

    /// One text under a name; nothing in it is expanded.
    #[cfg(test)]
    pub(super) fn new(name: &str, bytes: &[u8]) -> Self {
        let mut map = Map::default();
        map.add(name, bytes.into());
        Self::plain(map)
    }

    /// Name for messages: the path as the operator gave it.
    pub fn name(&self) -> &str {
        self.map.files.first().map_or("", |file| &file.name)
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        match &self.expanded {
            Some((text, _)) => text,
            None => self.map.files.first().map_or("", |file| &file.text),
        }
    }

    /// The text of a span; empty when the span is not one of this source.
    pub fn slice(&self, span: Span) -> &str {
        self.text().get(span.range()).unwrap_or("")
    }

    fn run(&self, at: u32) -> Run {
        let plain = Run { at: 0, pos: 0, within: 0, fixed: false };
        let Some((_, runs)) = &self.expanded else { return plain };
        let index = runs.partition_point(|run| run.at <= at).saturating_sub(1);
        runs.get(index).copied().unwrap_or(plain)
    }

    /// The position of one byte of the text.
    fn locate(&self, at: u32) -> Traced {
        let run = self.run(at);
        if !run.fixed {
            return Traced { pos: run.pos + (at - run.at.min(at)), len: 1, within: run.within };
        }
        let len = match self.map.expansion(run.within).map(|it| it.kind) {
            Some(Kind::Value { len, .. }) => len,
            _ => 1,
        };
        Traced { pos: run.pos, len, within: run.within }
    }

    /// The character behind a span, in the file that it came from.
    pub(super) fn follows(&self, span: Span) -> Option<char> {
        let traced = self.trace(span);
        let file = self.map.file(traced.pos)?;
        let at = (traced.pos - file.base) as usize + traced.len as usize;
        file.text.get(at..)?.chars().next()
    }

    /// The same, blanks between them left out.
    pub(super) fn follows_blanks(&self, span: Span) -> Option<char> {
        let traced = self.trace(span);
        let file = self.map.file(traced.pos)?;
        let at = (traced.pos - file.base) as usize + traced.len as usize;
        file.text.get(at..)?.trim_start_matches([' ', '\t']).chars().next()
    }

    /// The sign of a comment behind a span, blanks between them, when the comment's text touches it: it may
    /// have been meant as a value.
    pub(super) fn comment_behind(&self, span: Span) -> Option<char> {
        let traced = self.trace(span);
        let file = self.map.file(traced.pos)?;
        let at = (traced.pos - file.base) as usize + traced.len as usize;
        let mut rest = file.text.get(at..)?.trim_start_matches([' ', '\t']).chars();
        let sign = rest.next().filter(|sign| matches!(sign, '!' | '#'))?;
        rest.next().filter(|next| !next.is_whitespace()).map(|_| sign)
    }

    /// Where a span came from: as much of it as lies in one line of one file.
    pub(super) fn trace(&self, span: Span) -> Traced {
        let first = self.locate(span.start);
        if span.end <= span.start {
            // An empty word, or a point: a variable is still shown whole.
            let fixed = self.expanded.is_some() && self.run(span.start).fixed;
            return Traced { len: if fixed { first.len } else { 0 }, ..first };
        }
        let last = self.locate(span.end - 1);
        let end = last.pos.saturating_add(last.len);
        let same_line = self.map.line_start(first.pos) == self.map.line_start(last.pos);
        if same_line && last.pos >= first.pos && last.within == first.within {
            return Traced { len: end - first.pos, ..first };
        }
        if same_line && last.pos >= first.pos {
            // It begins or ends with a variable: the whole of it, and its story.
            let within = if first.within == 0 { last.within } else { first.within };
            return Traced { len: end - first.pos, within, pos: first.pos };
        }
        let Some((text, runs)) = &self.expanded else {
            return Traced { len: span.end - span.start, ..first };
        };
        if self.run(span.start).fixed {
            return first;
        }
        let next = runs.partition_point(|run| run.at <= span.start);
        let until = runs.get(next).map_or(text.len(), |run| run.at as usize);
        let until = u32::try_from(until).unwrap_or(u32::MAX).min(span.end);
        Traced { len: until - span.start, ..first }
    }
}
