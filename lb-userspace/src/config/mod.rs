//! keepalived.conf: text → tree with spans → model, with diagnostics for people.
//!
//! Pure: the caller reads the file and hands over its bytes. All findings of a file come in one
//! run, in source order; with an error among them there is no configuration.

pub mod diag;
pub mod docs;
pub mod keywords;
pub mod lex;
mod lower;
pub mod model;
mod secrets;
pub mod source;
pub mod syntax;
mod value;
mod words;

pub use self::docs::explain;

use self::{
    diag::{Class, Diagnostic, Place, Severity, Sink},
    model::Config,
    source::Source,
};

/// Longest configuration in bytes (about 100 000 real servers); a longer one is refused.
pub const SOURCE_LIMIT: usize = 16 << 20;

/// Something in a configuration that only the host can confirm: the caller, who may look, tells
/// what it finds by [`Outcome::report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub kind: ReferenceKind,
    /// Interface name, program (the first word of a command), or path.
    pub value: String,
    pub place: Place,
    /// The keyword: `interface`, `script`, `notify_master`, `password_file`, …
    pub object: String,
}

/// What a [`Reference`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    Interface,
    /// A program; one without `/` is searched in PATH.
    Script,
    File,
}

/// What came of a configuration file.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `None` when there is an error among the diagnostics.
    pub config: Option<Config>,
    /// In source order; at most [`diag::DIAGNOSTIC_LIMIT`] and a line that counts the rest.
    pub diagnostics: Vec<Diagnostic>,
    /// Interfaces, scripts and files that it names, in the order of the text.
    pub references: Vec<Reference>,
}

impl Outcome {
    /// keepalived's `-t` exit code: 0 no fault, 2 a keyword without its argument, 4 cannot run,
    /// 5 faults (an error, or a warning that would run), 6 script security only.
    pub fn exit_code(&self) -> u8 {
        let has = |class: Class| {
            self.diagnostics.iter().any(|d| d.class == class && d.severity != Severity::Notice)
        };
        if has(Class::MissingArgument) {
            2
        } else if has(Class::CannotRun) {
            4
        } else if has(Class::Fault) {
            5
        } else if has(Class::Security) {
            6
        } else {
            0
        }
    }

    /// Everything for a terminal: each diagnostic with its line and caret, then a count.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            out.push_str(&diagnostic.render());
            out.push_str("\n\n");
        }
        out
    }

    /// As [`Outcome::render`], but the errors alone, for somebody who was refused: what is only
    /// worth knowing is counted.
    pub fn render_errors(&self) -> String {
        let (errors, others): (Vec<_>, Vec<_>) =
            self.diagnostics.iter().partition(|d| d.severity == Severity::Error);
        let mut out = String::new();
        for error in errors {
            out.push_str(&error.render());
            out.push_str("\n\n");
        }
        if !others.is_empty() {
            out.push_str(&format!("({} warnings and notices: lbd -t -f FILE)\n", others.len()));
        }
        out
    }

    /// Adds what the host says about a reference, in its place in the order; an error takes the
    /// configuration away.
    pub fn report(
        &mut self,
        reference: &Reference,
        severity: Severity,
        class: Class,
        message: impl Into<String>,
    ) {
        let new = Diagnostic::new(severity, reference.place.clone(), message).class(class);
        let key = |d: &Diagnostic| (d.place.line, d.place.column);
        let at = self.diagnostics.partition_point(|d| d.place.line > 0 && key(d) <= key(&new));
        self.diagnostics.insert(at, new);
        if severity == Severity::Error {
            self.config = None;
        }
    }

    /// An outcome of one error about the whole file, for callers that could not read it.
    pub fn unreadable(name: &str, message: impl Into<String>) -> Self {
        let error =
            Diagnostic::new(Severity::Error, Place::file(name), message).class(Class::CannotRun);
        Self { config: None, diagnostics: vec![error], references: Vec::new() }
    }
}

/// Parses a configuration. `name` is for messages.
pub fn load(name: &str, text: &str) -> Outcome {
    check(name, text.as_bytes())
}

/// Parses a configuration of any bytes whatever: text that is not UTF-8 is read with replacement
/// characters, binary and empty files are errors. Never panics.
pub fn check(name: &str, bytes: &[u8]) -> Outcome {
    if bytes.len() > SOURCE_LIMIT {
        return Outcome::unreadable(
            name,
            format!("the file has {} bytes, the limit is {SOURCE_LIMIT}", bytes.len()),
        );
    }
    if bytes.contains(&0) {
        return Outcome::unreadable(name, "not a text file: it contains NUL bytes");
    }
    let source = Source::new(name, bytes);
    let mut sink = Sink::default();
    if source.text().trim().is_empty() {
        return Outcome::unreadable(name, "the file is empty");
    }
    if let Some(span) = source.web_blank() {
        sink.push(
            Diagnostic::new(
                Severity::Notice,
                Place::new(&source, span),
                "no-break blanks, as web pages have them, are read as ordinary blanks",
            )
            .help("keepalived takes them for letters: replace them before it reads this file"),
        );
    }
    let tree = syntax::parse(&source, &mut sink);
    let (config, references) = lower::lower(&source, &mut sink, &tree);
    let config = (!sink.has_errors()).then_some(config);
    Outcome { config, diagnostics: sink.finish(name), references }
}

#[cfg(test)]
mod tests;
