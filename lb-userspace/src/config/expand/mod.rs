//! keepalived's preprocessor: `include`, `@ID` lines, `$NAME=VALUE`, `~SEQ` and `~LST`.
//!
//! It works line by line, as keepalived does (its manual, and observation of 2.2.7): a line loses
//! its comment, then its condition; it is a definition, or the head of a sequence, or its variables
//! are replaced and it is looked at again; what stands behind a brace is a line of its own. The
//! result is a text without any of this, in which each byte knows its origin ([`Source`]).
//!
//! A text without any of it is not copied.

mod files;
mod include;
mod line;
mod outline;
mod run;
mod sequence;
mod substitute;
mod variables;

#[cfg(test)]
pub(in crate::config) mod tests;

use std::{borrow::Cow, sync::Arc};

use self::{
    include::Checks,
    line::{Line, Unit},
    outline::Outline,
    variables::{Value, Variables},
};
use super::{
    SOURCE_LIMIT,
    diag::{Class, Diagnostic, Place, Severity, Sink},
    secrets,
    source::{Definer, Expansion, Kind, Map, Pos, Run, Source, Traced},
};

/// Bytes of the expanded text, and of one line of it on its way there, which takes 24 to 36 bytes of memory for
/// each; the limit of the files together is the same.
pub const EXPANDED_LIMIT: usize = SOURCE_LIMIT;
/// Bytes that expansion looks at, 64 for each line beside its length: bounds the time of sequences
/// that lead to nothing.
pub const WORK_LIMIT: usize = 32 << 20;
/// Variables replaced for each one that a line has: what its value has stands for more of them.
pub const REPLACEMENTS_LIMIT: usize = 1024;
/// Bytes before a variable that are searched for a word that makes its value secret.
const SECRET_LOOKED_AT: usize = 1024;
/// Files, sequences and definitions of several lines inside each other.
pub const NESTING_LIMIT: usize = 64;
/// Files that include each other.
pub const INCLUDE_DEPTH_LIMIT: usize = 16;
/// Files that are read.
pub const FILES_LIMIT: usize = 1024;
/// Bytes of all values of variables.
pub const VALUES_LIMIT: usize = 1 << 20;

/// What a configuration may ask about the host that reads it. The parser asks nothing else.
pub trait Surroundings {
    /// Whose `@ID` lines count, and `$_INSTANCE`: `-i`, else the short host name.
    fn id(&self) -> &str;

    /// A variable of the environment (`${_ENV NAME}`).
    fn variable(&self, name: &str) -> Option<String>;

    /// Whether every `include` is checked as by `include_check` without words (`-e`).
    fn strict(&self) -> bool {
        false
    }

    /// Paths that a pattern (wildcards, no braces) stands for, relative to a directory, in order;
    /// empty when nothing matches.
    ///
    /// # Errors
    /// Why nobody can tell.
    fn find(&self, directory: &str, pattern: &str) -> Result<Vec<String>, String>;

    /// A file that [`Surroundings::find`] named.
    ///
    /// # Errors
    /// Why it cannot be included: no regular file, executable, not readable, …
    fn read(&self, path: &str) -> Result<Vec<u8>, String>;
}

/// A text that stands alone: no other files, no environment, no name.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Surroundings for Alone {
    fn id(&self) -> &str {
        ""
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn find(&self, _: &str, _: &str) -> Result<Vec<String>, String> {
        Err("this text was read without other files".into())
    }

    fn read(&self, _: &str) -> Result<Vec<u8>, String> {
        Err("this text was read without other files".into())
    }
}

/// A file that the configuration names by `include`, without wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Included {
    /// As the including file has it, its directory before it.
    pub path: String,
    pub place: Place,
    /// Whether it was there and read.
    pub found: bool,
}

/// What comes of the files.
pub(super) struct Expanded {
    pub(super) source: Source,
    pub(super) included: Vec<Included>,
}

/// Bounds of time and memory.
#[derive(Clone, Copy, Debug)]
struct Limits {
    work: usize,
    text: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { work: WORK_LIMIT, text: EXPANDED_LIMIT }
    }
}

/// Expands a configuration whose first file has these bytes.
pub(super) fn expand(
    name: &str,
    bytes: Cow<'_, [u8]>,
    around: &dyn Surroundings,
    sink: &mut Sink,
) -> Expanded {
    expand_within(name, bytes, around, sink, Limits::default())
}

fn expand_within(
    name: &str,
    bytes: Cow<'_, [u8]>,
    around: &dyn Surroundings,
    sink: &mut Sink,
    limits: Limits,
) -> Expanded {
    let bytes_read = bytes.len();
    let mut map = Map::default();
    let (first, web_blank) = map.add(name, bytes);
    let text = map.files.get(first).map_or("", |file| &file.text);
    let plain = !run::has_language(text);
    let mut expander = Expander {
        around,
        limits,
        sink,
        map,
        frames: Vec::new(),
        variables: Variables::new(around.id()),
        out: String::new(),
        runs: Vec::new(),
        bytes_read,
        work: 0,
        checks: if around.strict() { Checks::ALL } else { Checks::default() },
        included: Vec::new(),
        collecting: None,
        conditions: Conditions::default(),
        outline: Outline::default(),
        stopped: false,
    };
    if let Some(at) = web_blank {
        expander.web_blank(at);
    }
    if plain {
        return Expanded { source: Source::plain(expander.map), included: Vec::new() };
    }
    expander.frames.push(Frame::File(FileFrame {
        index: first,
        next: 0,
        path: name.to_owned(),
        checks: expander.checks,
    }));
    expander.run();
    let Expander { map, out, runs, included, .. } = expander;
    Expanded { source: Source::expanded(map, out, runs), included }
}

/// Where lines come from; the last one first.
enum Frame {
    File(FileFrame),
    Body { lines: Arc<[Arc<[Unit]>]>, next: usize, within: u32 },
    Sequence { name: Arc<str>, pos: Pos, next: i64, step: i64, last: i64, hex: bool, text: Line },
    List { names: Vec<(Arc<str>, Pos)>, sets: std::vec::IntoIter<Vec<Line>>, text: Line },
}

struct FileFrame {
    index: usize,
    /// Offset of its next line; beyond the text when it is read.
    next: usize,
    path: String,
    /// `include_check` of whoever includes it.
    checks: Checks,
}

/// A definition of several lines that is not complete yet.
struct Collecting {
    name: Arc<str>,
    defined: Pos,
    bytes: usize,
    lines: Vec<Arc<[Unit]>>,
}

/// Whether `@ID` lines were met, and one that counts.
#[derive(Default)]
struct Conditions {
    first: Option<Place>,
    matched: bool,
    ids: std::collections::BTreeSet<String>,
}

/// State of one run.
struct Expander<'a> {
    around: &'a dyn Surroundings,
    limits: Limits,
    sink: &'a mut Sink,
    map: Map,
    frames: Vec<Frame>,
    variables: Variables,
    out: String,
    runs: Vec<Run>,
    bytes_read: usize,
    work: usize,
    checks: Checks,
    included: Vec<Included>,
    collecting: Option<Collecting>,
    conditions: Conditions,
    outline: Outline,
    /// A bound was reached: nothing more is read.
    stopped: bool,
}

impl Expander<'_> {
    fn place(&self, pos: Pos, len: usize, within: u32) -> Place {
        if self.sink.is_full() {
            return Place::file(self.map.files.first().map_or("", |file| &file.name));
        }
        let len = match self.map.expansion(within).map(|it| it.kind) {
            Some(Kind::Value { len, .. }) => len,
            _ => u32::try_from(len).unwrap_or(u32::MAX),
        };
        let order = u32::try_from(self.out.len()).unwrap_or(u32::MAX);
        Place::of(&self.map, Traced { pos, len, within }, order)
    }

    /// The place of a part of a line.
    fn place_of(&self, line: &[Unit]) -> Place {
        match (line.first(), line.last()) {
            (Some(first), Some(last)) => {
                let len = last.pos.saturating_sub(first.pos) as usize + 1;
                self.place(first.pos, len, first.within)
            }
            _ => self.place(0, 0, 0),
        }
    }

    fn tell(&mut self, severity: Severity, place: Place, message: impl Into<String>, help: &str) {
        let diagnostic = Diagnostic::new(severity, place, message);
        self.sink.push(if help.is_empty() { diagnostic } else { diagnostic.help(help) });
    }

    /// A bound was reached: says so, and ends.
    fn stop(&mut self, line: &[Unit], message: impl Into<String>) {
        if !self.stopped {
            let place = self.place_of(line);
            let diagnostic = Diagnostic::new(Severity::Error, place, message);
            self.sink.push(diagnostic.class(Class::CannotRun).help("the rest is not read"));
        }
        self.stopped = true;
    }

    fn web_blank(&mut self, at: Pos) {
        let place = self.place(at, 1, 0);
        self.tell(
            Severity::Notice,
            place,
            "no-break blanks, as web pages have them, are read as ordinary blanks",
            "keepalived takes them for letters: replace them before it reads this file",
        );
    }

    /// Counts work; false when there was too much of it.
    fn charge(&mut self, line: &[Unit]) -> bool {
        self.work += line.len() + 64;
        let limit = self.limits.work;
        if self.work > limit {
            let message =
                format!("~SEQ, ~LST and variables lead to more than {limit} bytes to look at");
            self.stop(line, message);
        }
        !self.stopped
    }

    fn expansion(&mut self, expansion: Expansion) -> u32 {
        self.map.expansions.push(expansion);
        u32::try_from(self.map.expansions.len()).unwrap_or(0)
    }

    /// Directory of the file that is being read.
    fn directory(&self) -> String {
        let path = self.frames.iter().rev().find_map(|frame| match frame {
            Frame::File(file) => Some(file.path.as_str()),
            _ => None,
        });
        match path.unwrap_or("").rsplit_once('/') {
            Some(("", _)) => "/".into(),
            Some((directory, _)) => directory.into(),
            None => ".".into(),
        }
    }

    /// Whether what stands before a variable says that its value is secret.
    fn is_secret(&self, before: &[Unit], name: &str) -> bool {
        if secrets::is_secret_name(name) {
            return true;
        }
        let near = before.len().saturating_sub(SECRET_LOOKED_AT);
        let text = line::text(before.get(near..).unwrap_or(&[]));
        secrets::may_hide(&text) && secrets::ends_hidden(&text)
    }

    /// Keeps the lines that gave this value from being shown.
    fn hide(&mut self, name: &str) {
        let Some(variable) = self.variables.get(name) else { return };
        let mut lines: Vec<Pos> = variable.defined.into_iter().collect();
        if let Value::Lines(body) = &variable.value {
            lines.extend(body.iter().filter_map(|line| line.first()).map(|unit| unit.pos));
        }
        for pos in lines {
            self.map.hidden.insert(self.map.line_start(pos));
        }
    }
}
