//! What the parser has to say, with the place and the line, ready to be shown.
//!
//! A diagnostic carries its (masked, bounded) line, so that it can travel to `lbctl` and be shown
//! there without the file.

use std::{collections::BTreeSet, fmt};

use annotate_snippets::{
    AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet, renderer::DecorStyle,
};
use serde::{Deserialize, Serialize};

use super::{
    secrets,
    source::{Source, Span},
};

/// Diagnostics kept; further ones are only counted, and the count is reported.
pub const DIAGNOSTIC_LIMIT: usize = 100;
/// Bytes of a line that an excerpt is taken from.
const LINE_SHOWN: usize = 4096;
/// Characters of a line that are shown around the caret.
const EXCERPT_LIMIT: usize = 160;

/// How bad it is. Errors keep the configuration from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// The configuration is not used: a start is refused, a reload keeps the running one.
    Error,
    /// Used, but not to the letter: something was skipped, rounded or corrected.
    Warning,
    /// Used as written; worth knowing.
    Notice,
}

/// What keepalived's `-t` would call it; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// keepalived finds fault with it too (5).
    Fault,
    /// A keyword without its argument (2).
    MissingArgument,
    /// Script security only (6).
    Security,
    /// lbd cannot run it, whatever keepalived would do (4).
    CannotRun,
}

/// A place in a file, with its line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    /// From 1; 0 when it concerns the whole file.
    pub line: u32,
    /// In characters from 1.
    pub column: u32,
    /// The line, secrets masked; only a part of it when it is long.
    pub text: String,
    /// Bytes of `text` that are meant.
    pub start: u32,
    pub end: u32,
}

impl Place {
    /// The place of a span. A span over several lines is cut at the end of its first.
    pub fn new(source: &Source, span: Span) -> Self {
        let (line, column) = source.position(span.start);
        let (line_start, text) = source.line_at(span.start);
        // A line may be as long as the file; what is shown comes from its beginning.
        let text = text.get(..text.floor_char_boundary(LINE_SHOWN)).unwrap_or(text);
        let masked = secrets::mask(text);
        let from = (span.start - line_start) as usize;
        let len = (span.end.saturating_sub(span.start)) as usize;
        // Masking keeps the number of characters, not of bytes: carry positions over in characters.
        let chars = |at: usize| text.char_indices().take_while(|(i, _)| *i < at).count();
        let first = chars(from);
        let last = chars((from + len).min(text.len())).max(first);
        let shown_from = first.saturating_sub(EXCERPT_LIMIT / 2);
        let mut shown = String::new();
        let (mut start, mut end) = (None, None);
        for (i, c) in masked.chars().enumerate().skip(shown_from).take(EXCERPT_LIMIT) {
            if i == first {
                start = Some(shown.len());
            }
            if i == last {
                end = Some(shown.len());
            }
            // Control characters would garble the terminal and the caret's place.
            shown.push(if c.is_control() { ' ' } else { c });
        }
        let whole = shown.len();
        let at = |offset: Option<usize>| u32::try_from(offset.unwrap_or(whole)).unwrap_or(u32::MAX);
        Self {
            file: source.name().to_owned(),
            line,
            column,
            start: at(start),
            end: at(end).max(at(start)),
            text: shown,
        }
    }

    /// Whether the excerpt begins where its line does.
    fn is_whole_line(&self) -> bool {
        let before = self.text.get(..self.start as usize).unwrap_or("");
        before.chars().count() + 1 == self.column as usize
    }

    /// The file as a whole.
    pub fn file(name: &str) -> Self {
        Self { file: name.to_owned(), line: 0, column: 0, text: String::new(), start: 0, end: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.file);
        }
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub class: Class,
    /// One sentence: the object, what is wrong.
    pub message: String,
    pub place: Place,
    /// Said at the caret; may be empty.
    pub label: String,
    /// Other places that belong to it, each with its remark.
    pub related: Vec<(Place, String)>,
    /// What to do, or what lbd does about it.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// With nothing but the essentials; extended by the methods below.
    pub fn new(severity: Severity, place: Place, message: impl Into<String>) -> Self {
        Self {
            severity,
            class: Class::Fault,
            message: printable(message.into()),
            place,
            label: String::new(),
            related: Vec::new(),
            help: Vec::new(),
        }
    }

    pub fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(printable(help.into()));
        self
    }

    pub fn related(mut self, place: Place, remark: impl Into<String>) -> Self {
        self.related.push((place, printable(remark.into())));
        self
    }

    /// For people: file, line, column, the line, a caret. Plain ASCII frame, no colours.
    pub fn render(&self) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Notice => Level::NOTE.with_name("notice"),
        };
        let title = level.primary_title(self.message.as_str());
        let mut group: Group<'_> = Group::with_title(title);
        group = place_element(group, &self.place, &self.label);
        group = group.elements(
            self.help.iter().map(|text| Element::from(Level::HELP.message(text.as_str()))),
        );
        let mut groups = vec![group];
        for (place, remark) in &self.related {
            let group = Group::with_title(Level::NOTE.secondary_title(remark.as_str()));
            groups.push(place_element(group, place, ""));
        }
        Renderer::plain().decor_style(DecorStyle::Ascii).term_width(EXCERPT_LIMIT).render(&groups)
    }
}

fn place_element<'a>(group: Group<'a>, place: &'a Place, label: &'a str) -> Group<'a> {
    let origin = Origin::path(place.file.as_str());
    if place.line == 0 {
        return group.element(origin);
    }
    let (start, end) = (place.start as usize, place.end as usize);
    let mut annotation = AnnotationKind::Primary.span(start..end.max(start));
    if !label.is_empty() {
        annotation = annotation.label(label);
    }
    let snippet =
        Snippet::source(place.text.as_str()).line_start(place.line as usize).annotation(annotation);
    if place.is_whole_line() {
        return group.element(snippet.path(place.file.as_str()));
    }
    // The excerpt begins in the middle of its line, so that the column must be given apart.
    group
        .element(origin.line(place.line as usize).char_column(place.column as usize))
        .element(snippet)
}

/// Text of a file in a message: what would garble a terminal is replaced.
fn printable(text: String) -> String {
    let garbles = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if text.contains(garbles) { text.replace(garbles, "\u{fffd}") } else { text }
}

/// `file:line:column: severity: message`, for logs.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        };
        write!(f, "{}: {severity}: {}", self.place, self.message)
    }
}

/// Collects diagnostics of one run, bounded.
#[derive(Debug, Default)]
pub(super) struct Sink {
    kept: Vec<Diagnostic>,
    dropped: usize,
    errors: bool,
    /// Places that already have an error, so that one mistake is told once.
    seen: BTreeSet<(u32, u32, String)>,
}

impl Sink {
    /// Takes one more. Errors are noted even when the list is full.
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.errors |= diagnostic.severity == Severity::Error;
        if self.kept.len() >= DIAGNOSTIC_LIMIT {
            self.dropped += 1;
            return;
        }
        let place = &diagnostic.place;
        if self.seen.insert((place.line, place.column, diagnostic.message.clone())) {
            self.kept.push(diagnostic);
        }
    }

    /// The place for a diagnostic; cheap when it will not be kept.
    pub(super) fn place(&self, source: &Source, span: Span) -> Place {
        if self.is_full() { Place::file(source.name()) } else { Place::new(source, span) }
    }

    /// Whether further diagnostics are only counted; saves the search for likely words.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= DIAGNOSTIC_LIMIT
    }

    /// Whether the configuration may be used.
    pub(super) fn has_errors(&self) -> bool {
        self.errors
    }

    /// In source order, with a last line for those beyond the limit.
    pub(super) fn finish(mut self, file: &str) -> Vec<Diagnostic> {
        // What concerns the whole file comes last.
        self.kept.sort_by_key(|d| (d.place.line == 0, d.place.line, d.place.column));
        if self.dropped > 0 {
            let severity = if self.errors { Severity::Error } else { Severity::Warning };
            self.kept.push(Diagnostic::new(
                severity,
                Place::file(file),
                format!("{} more findings are not shown", self.dropped),
            ));
        }
        self.kept
    }
}
