//! keepalived.conf: text → tree with spans → model, with diagnostics for people.
//!
//! Pure: the caller reads the file and hands over its bytes, and those of what it includes when it is
//! asked ([`Surroundings`]). All findings of a file come in one
//! run, in source order; with an error among them there is no configuration.

pub mod diag;
pub mod docs;
pub mod expand;
pub mod keywords;
pub mod lex;
mod lower;
pub mod migrate;
pub mod model;
pub mod plan;
pub mod print;
pub mod report;
mod secrets;
pub mod source;
pub mod syntax;
mod value;
mod words;

pub use self::{
    docs::explain,
    lower::{COMPARED_LIMIT, LIST_LIMIT},
};

pub use self::expand::{Alone, Included, Surroundings};

use std::borrow::Cow;

use self::{
    diag::{Class, Diagnostic, Place, Severity, Sink},
    expand::Expanded,
    model::{Config, User},
};

/// Longest configuration in bytes (about 100 000 real servers); a longer one is refused.
pub const SOURCE_LIMIT: usize = 16 << 20;

/// Something in a configuration that only the host can confirm: the caller, who may look, tells
/// what it finds by [`Outcome::report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub kind: ReferenceKind,
    /// Interface name, program (the first word of a command), user, or path.
    pub value: String,
    pub place: Place,
    /// The keyword: `interface`, `script`, `notify_master`, `password_file`, …
    pub object: String,
}

/// What a [`Reference`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    Interface,
    /// A program; one without `/` is searched in PATH, one behind `<` is a file to be opened.
    Script,
    /// A user of the host, and behind a blank perhaps a group.
    User,
    File,
}

/// What a file says about the safety of its scripts.
#[derive(Clone, Debug, Default)]
pub struct ScriptSecurity {
    /// `enable_script_security`.
    pub enabled: bool,
    /// `script_user`.
    pub user: Option<User>,
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
    /// The text, for the origins of what is in force. `None` when there was none to parse.
    pub original: Option<print::Original>,
    /// Files that it includes by name, in the order of the text.
    pub included: Vec<Included>,
    /// Also of a file with an error.
    pub script_security: ScriptSecurity,
}

impl Outcome {
    /// keepalived's `-t` exit code: 0 no fault, 2 a keyword without its argument, 4 cannot run,
    /// 5 an interface that does not exist, 6 script security, or a file that must be included and
    /// cannot be (whatever else there is, as in keepalived), 5 other faults (an error, or a warning
    /// that would run). Advice that keepalived does not give changes nothing.
    pub fn exit_code(&self) -> u8 {
        let has = |class: Class| {
            self.diagnostics.iter().any(|d| d.class == class && d.severity != Severity::Notice)
        };
        if has(Class::MissingArgument) {
            2
        } else if has(Class::CannotRun) {
            4
        } else if has(Class::Interface) {
            5
        } else if has(Class::Security) || has(Class::Include) {
            6
        } else if has(Class::Fault) || self.config.is_none() {
            5
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
        self.add(Diagnostic::new(severity, reference.place.clone(), message).class(class));
    }

    /// Adds a finding in its place in the order; an error takes the configuration away.
    pub fn add(&mut self, new: Diagnostic) {
        let order = new.place.order;
        let at = self.diagnostics.partition_point(|d| d.place.line > 0 && d.place.order <= order);
        if new.severity == Severity::Error {
            self.config = None;
        }
        self.diagnostics.insert(at, new);
    }

    /// An outcome of one error about the whole file, for callers that could not read it.
    pub fn unreadable(name: &str, message: impl Into<String>) -> Self {
        let error =
            Diagnostic::new(Severity::Error, Place::file(name), message).class(Class::CannotRun);
        Self {
            config: None,
            diagnostics: vec![error],
            references: Vec::new(),
            included: Vec::new(),
            original: None,
            script_security: ScriptSecurity::default(),
        }
    }
}

/// Whether there is nothing but blanks and marks of the byte order.
fn is_blank(bytes: &[u8]) -> bool {
    // The first letter of a file ends this.
    bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf))
        && String::from_utf8_lossy(bytes)
            .trim_matches(['\u{feff}', ' ', '\t', '\r', '\n'])
            .is_empty()
}

/// Parses a text that stands alone. `name` is for messages.
pub fn load(name: &str, text: &str) -> Outcome {
    check(name, text.as_bytes())
}

/// Parses a text of any bytes whatever that stands alone: an `include` in it finds nothing.
pub fn check(name: &str, bytes: &[u8]) -> Outcome {
    check_in(name, bytes, &Alone)
}

/// Parses a configuration of any bytes whatever: text that is not UTF-8 is read with replacement
/// characters, binary and empty files are errors. `around` says whose `@ID` lines count and reads
/// what is included. Never panics.
pub fn check_in<'a>(
    name: &str,
    bytes: impl Into<Cow<'a, [u8]>>,
    around: &dyn Surroundings,
) -> Outcome {
    let bytes = bytes.into();
    if bytes.len() > SOURCE_LIMIT {
        return Outcome::unreadable(
            name,
            format!("the file has {} bytes, the limit is {SOURCE_LIMIT}", bytes.len()),
        );
    }
    if memchr::memchr(0, &bytes).is_some() {
        return Outcome::unreadable(name, "not a text file: it contains NUL bytes");
    }
    if is_blank(&bytes) {
        return Outcome::unreadable(name, "the file is empty");
    }
    let mut sink = Sink::default();
    let Expanded { source, included } = expand::expand(name, bytes, around, &mut sink);
    let tree = syntax::parse(&source, &mut sink);
    let (config, references) = lower::lower(&source, &mut sink, &tree);
    let script_security = ScriptSecurity {
        enabled: config.global.enable_script_security,
        user: config.global.script_user.clone(),
    };
    let config = (!sink.has_errors()).then_some(config);
    let original = Some(print::Original::new(source));
    let diagnostics = sink.finish(name);
    Outcome { config, diagnostics, references, included, original, script_security }
}

#[cfg(test)]
mod tests;
