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
    source::{Definer, Kind, Map, Source, Span, Traced},
};

/// Diagnostics kept of each severity, so that what is only worth knowing never hides an error; further
/// ones are counted, and the counts are reported.
pub const DIAGNOSTIC_LIMIT: usize = 100;
/// All that is told of a file: those, and the line with the counts.
pub const TOLD_LIMIT: usize = 3 * DIAGNOSTIC_LIMIT + 1;
/// Findings of one severity looked at, those included that say again what was said of the same place (a sequence may
/// lead there a million times).
const OFFERED_LIMIT: usize = 10 * DIAGNOSTIC_LIMIT;
/// Bytes of a line that an excerpt is taken from.
const LINE_SHOWN: usize = 4096;
/// Bytes before those that are searched for a secret word; behind more nothing is shown.
const BEFORE_LOOKED_AT: usize = 64 * 1024;
/// Bytes of a message; words of a file have no limit of their own.
const MESSAGE_LIMIT: usize = 1024;
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
    /// A file that must be included and cannot be (6).
    Include,
    /// An interface that this host does not have (5).
    Interface,
    /// A trap that keepalived does not tell of (0).
    Advice,
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
    /// Where it stands in the text as it was read, included files and variables expanded: findings
    /// are sorted by it.
    pub order: u32,
    /// The variables that it was expanded from, the innermost first; a diagnostic about this place
    /// tells them.
    pub via: Vec<(Place, String)>,
}

/// Variables in variables that are told of one place.
const VIA_LIMIT: usize = 4;

impl Place {
    /// The place of a span, in the file that it came from. A span over several lines is cut at the
    /// end of its first.
    pub fn new(source: &Source, span: Span) -> Self {
        Self::of(&source.map, source.trace(span), span.start)
    }

    /// The place of bytes of a file; `order` sorts.
    pub(super) fn of(map: &Map, origin: Traced, order: u32) -> Self {
        let mut place = Self::bare(map, origin.pos, origin.len, order);
        let mut within = origin.within;
        while let Some(expansion) = map.expansion(within)
            && place.via.len() < VIA_LIMIT
        {
            within = expansion.parent;
            let name = &expansion.name;
            let (at, len, remark) = match expansion.kind {
                Kind::Value { defined: None, .. } => continue,
                Kind::Value { defined: Some(at), by, .. } => {
                    let remark = match by {
                        Definer::Definition => format!("expanded from ${name}, defined here"),
                        Definer::Sequence => format!("expanded from ${name}, set by ~SEQ here"),
                        Definer::List => format!("expanded from ${name}, set by ~LST here"),
                    };
                    let sign = usize::from(by == Definer::Definition);
                    (at, u32::try_from(name.len() + sign).unwrap_or(1), remark)
                }
                Kind::Body { used, len } => {
                    (used, len, format!("this is a line of ${name}, used here"))
                }
            };
            place.via.push((Self::bare(map, at, len, order), remark));
        }
        place
    }

    fn bare(map: &Map, pos: u32, len: u32, order: u32) -> Self {
        let Some(shown) = map.shown(pos, len) else {
            return Self::file(map.files.first().map_or("", |file| &file.name));
        };
        // A line may be as long as the file: only what is near the place is looked at.
        let floor = |at: usize| shown.text.floor_char_boundary(at);
        let window = floor(shown.from.saturating_sub(LINE_SHOWN / 2));
        let text = shown.text.get(window..floor(window + LINE_SHOWN)).unwrap_or("");
        let before = shown.text.get(..window).unwrap_or("");
        let masked = if before.len() > BEFORE_LOOKED_AT || secrets::may_hide(before) {
            secrets::mask_all(text)
        } else if shown.hidden {
            secrets::mask_values(text)
        } else {
            secrets::mask(text)
        };
        let (from, to) = (shown.from - window, shown.to.saturating_sub(window).min(text.len()));
        // Masking keeps the number of characters, not of bytes: carry positions over in characters.
        let chars = |at: usize| text.char_indices().take_while(|(i, _)| *i < at).count();
        let first = chars(from);
        let last = chars(to).max(first);
        let shown_from = first.saturating_sub(EXCERPT_LIMIT / 2);
        let mut excerpt = String::new();
        let (mut start, mut end) = (None, None);
        for (i, c) in masked.chars().enumerate().skip(shown_from).take(EXCERPT_LIMIT) {
            if i == first {
                start = Some(excerpt.len());
            }
            if i == last {
                end = Some(excerpt.len());
            }
            // Control characters would garble the terminal and the caret's place.
            excerpt.push(if c.is_control() { ' ' } else { c });
        }
        let whole = excerpt.len();
        let at = |offset: Option<usize>| u32::try_from(offset.unwrap_or(whole)).unwrap_or(u32::MAX);
        Self {
            file: shown.file.to_owned(),
            line: shown.line,
            column: shown.column,
            start: at(start),
            end: at(end).max(at(start)),
            text: excerpt,
            order,
            via: Vec::new(),
        }
    }

    /// Whether the excerpt begins where its line does.
    fn is_whole_line(&self) -> bool {
        let before = self.text.get(..self.start as usize).unwrap_or("");
        before.chars().count() + 1 == self.column as usize
    }

    /// The file as a whole.
    pub fn file(name: &str) -> Self {
        Self {
            file: name.to_owned(),
            line: 0,
            column: 0,
            text: String::new(),
            start: 0,
            end: 0,
            order: u32::MAX,
            via: Vec::new(),
        }
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
    pub fn new(severity: Severity, mut place: Place, message: impl Into<String>) -> Self {
        let related = std::mem::take(&mut place.via);
        Self {
            severity,
            class: Class::Fault,
            message: printable(message.into()),
            place,
            label: String::new(),
            related,
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

    pub fn related(mut self, mut place: Place, remark: impl Into<String>) -> Self {
        place.via.clear();
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

/// Text of a file in a message: what would garble a terminal is replaced, and a word as long as a
/// file is cut.
fn printable(mut text: String) -> String {
    if text.len() > MESSAGE_LIMIT {
        text.truncate(text.floor_char_boundary(MESSAGE_LIMIT));
        text.push('…');
    }
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
    /// By severity.
    counts: [Count; 3],
    /// Places that already have an error, so that one mistake is told once.
    seen: BTreeSet<(String, u32, u32, String)>,
}

/// Findings of one severity.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    kept: usize,
    /// Kept, or said again.
    offered: usize,
    dropped: usize,
}

impl Count {
    fn is_full(self) -> bool {
        self.kept >= DIAGNOSTIC_LIMIT || self.offered >= OFFERED_LIMIT
    }
}

impl Sink {
    fn count(&self, severity: Severity) -> Count {
        self.counts.get(severity as usize).copied().unwrap_or_default()
    }

    /// Takes one more.
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        let Some(count) = self.counts.get_mut(diagnostic.severity as usize) else { return };
        if count.is_full() {
            count.dropped += 1;
            return;
        }
        count.offered += 1;
        let place = &diagnostic.place;
        let key = (place.file.clone(), place.line, place.column, diagnostic.message.clone());
        if self.seen.insert(key) {
            count.kept += 1;
            self.kept.push(diagnostic);
        }
    }

    /// The place for a diagnostic of whatever severity; cheap when there are very many.
    pub(super) fn place(&self, source: &Source, span: Span) -> Place {
        if self.is_full() { Place::file(source.name()) } else { Place::new(source, span) }
    }

    /// The place for a diagnostic; cheap when it will not be kept.
    pub(super) fn place_for(&self, severity: Severity, source: &Source, span: Span) -> Place {
        match self.count(severity).is_full() {
            true => Place::file(source.name()),
            false => Place::new(source, span),
        }
    }

    /// Whether an error stands at this place already.
    pub(super) fn has_error_at(&self, place: &Place) -> bool {
        let at = |it: &Place| (it.line, it.column) == (place.line, place.column);
        self.kept.iter().any(|it| {
            it.severity == Severity::Error && at(&it.place) && it.place.file == place.file
        })
    }

    /// Whether there are so many that places and likely words are looked for no longer.
    pub(super) fn is_full(&self) -> bool {
        let offered: usize = self.counts.iter().map(|count| count.offered + count.dropped).sum();
        self.count(Severity::Error).is_full() || offered >= 3 * OFFERED_LIMIT
    }

    /// Whether the configuration may be used.
    pub(super) fn has_errors(&self) -> bool {
        self.count(Severity::Error).offered > 0
    }

    /// In source order, with a last line for those beyond the limits.
    pub(super) fn finish(mut self, file: &str) -> Vec<Diagnostic> {
        // What concerns the whole file comes last.
        self.kept.sort_by_key(|d| (d.place.line == 0, d.place.order));
        let kinds = [
            (Severity::Error, "error"),
            (Severity::Warning, "warning"),
            (Severity::Notice, "notice"),
        ];
        let dropped = kinds.map(|(severity, name)| (severity, name, self.count(severity).dropped));
        let more: Vec<_> = dropped
            .iter()
            .filter(|(.., count)| *count > 0)
            .map(|(_, name, count)| {
                format!("{count} more {name}{}", if *count == 1 { "" } else { "s" })
            })
            .collect();
        if let Some((worst, ..)) = dropped.iter().find(|(.., count)| *count > 0) {
            let message = format!("not shown: {}", more.join(", "));
            self.kept.push(Diagnostic::new(*worst, Place::file(file), message));
        }
        self.kept
    }
}
