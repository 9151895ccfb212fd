//! Carries `include` out: finds the files and puts them before what is read next.

use super::{
    super::source::Pos,
    Class, Diagnostic, Expander, FILES_LIMIT, FileFrame, Frame, INCLUDE_DEPTH_LIMIT, Included,
    Place, SOURCE_LIMIT, Severity,
    include::{self, Include},
    line::Unit,
};

/// Longest path of a file (PATH_MAX).
const PATH_LIMIT: usize = 4096;
/// Bytes behind `include` that are looked at for braces, each of which makes a copy of the others.
const PATTERN_LIMIT: usize = 64 * 1024;

impl Expander<'_> {
    /// Carries an `include` out; false when the line is none. `special`: it came from a variable
    /// or stood behind a condition.
    pub(super) fn include(&mut self, line: &[Unit], special: bool) -> bool {
        let Some(found) = include::parse(line, self.checks) else { return false };
        let name = line.get(found.at..).unwrap_or(&[]);
        let place = self.place_of(name);
        if special {
            self.tell(
                Severity::Notice,
                place.clone(),
                "an include that depends on a condition or a variable",
                "lbd reads it once, as it is meant; keepalived's processes read such a file twice",
            );
        }
        if found.pattern.len() > PATTERN_LIMIT {
            let message = format!("an `include` has more than {PATTERN_LIMIT} bytes");
            self.tell(Severity::Error, place, message, "");
            return true;
        }
        let Some(patterns) = include::alternatives(&found.pattern) else {
            let limit = include::ALTERNATIVES_LIMIT;
            self.stop(name, format!("braces that stand for more than {limit} names"));
            return true;
        };
        let directory = self.directory();
        let braces = patterns.len() > 1;
        let mut paths = Vec::new();
        for pattern in &patterns {
            self.work += 1024;
            // Names that are not found are remembered, and no file has such a name.
            if pattern.len() > PATH_LIMIT {
                let message =
                    format!("the name of an included file has more than {PATH_LIMIT} bytes");
                self.tell(Severity::Error, place.clone(), message, "");
                continue;
            }
            match self.around.find(&directory, pattern) {
                Ok(some) if some.is_empty() => {
                    self.nothing(&found, &directory, pattern, braces, &place);
                }
                Ok(some) => paths.extend(some.into_iter().map(|path| (path, pattern))),
                Err(why) => {
                    let message = format!("`{pattern}` is not included: {why}");
                    self.fail(&place, message);
                }
            }
        }
        let mut frames = Vec::new();
        for (path, pattern) in paths {
            let wildcard = include::has_wildcard(pattern);
            if let Some(frame) = self.open(path, &found, wildcard, &place) {
                frames.push(frame);
            }
            if self.stopped {
                return true;
            }
        }
        // The first one is read first.
        for frame in frames.into_iter().rev() {
            self.push(frame, name);
        }
        true
    }

    /// An include that must be carried out and cannot.
    fn fail(&mut self, place: &Place, message: String) {
        self.sink.push(
            Diagnostic::new(Severity::Error, place.clone(), message).class(Class::Include).help(
                "`include` alone goes on without the file; `include_check` sets how strict it is",
            ),
        );
    }

    /// A pattern has matched nothing.
    fn nothing(
        &mut self,
        found: &Include,
        directory: &str,
        pattern: &str,
        braces: bool,
        place: &Place,
    ) {
        let wildcard = include::has_wildcard(pattern);
        let checks = found.checks;
        let strict = match (braces, wildcard) {
            (_, true) => checks.wildcard,
            (true, false) => checks.brace,
            (false, false) => checks.matching,
        };
        if !wildcard {
            self.note(directory, pattern, place, false);
        }
        let what = if wildcard { "matches no file" } else { "does not exist" };
        let message = format!("included `{pattern}` {what}");
        if strict {
            self.fail(place, message);
        } else if !wildcard {
            self.tell(
                Severity::Notice,
                place.clone(),
                message,
                "the file is read without it; `includea` makes this an error",
            );
        }
    }

    fn note(&mut self, directory: &str, path: &str, place: &Place, found: bool) {
        let path =
            if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
        self.included.push(Included { path, place: place.clone(), found });
    }

    /// Reads a file that is to be included.
    fn open(
        &mut self,
        path: String,
        found: &Include,
        wildcard: bool,
        place: &Place,
    ) -> Option<Frame> {
        let refuse = |this: &mut Self, message: String, help: &str| {
            let error = Diagnostic::new(Severity::Error, place.clone(), message);
            this.sink.push(error.class(Class::CannotRun).help(help));
            None
        };
        let open: Vec<&str> = self
            .frames
            .iter()
            .filter_map(|frame| match frame {
                Frame::File(file) => Some(file.path.as_str()),
                _ => None,
            })
            .collect();
        if open.contains(&path.as_str()) {
            let chain = open.join(" includes ");
            let help = format!("{chain} includes {path}");
            return refuse(self, format!("`{path}` includes itself; it is not read again"), &help);
        }
        if open.len() >= INCLUDE_DEPTH_LIMIT {
            let message = format!("files include each other deeper than {INCLUDE_DEPTH_LIMIT}");
            return refuse(self, message, "this one is not read");
        }
        if self.map.files.len() >= FILES_LIMIT {
            let message = format!("more than {FILES_LIMIT} files are included");
            self.stop(&[Unit { byte: 0, pos: self.at(), within: 0 }], message);
            return None;
        }
        let read = self.around.read(&path).and_then(|bytes| {
            if bytes.contains(&0) {
                Err("it is no text, it contains NUL bytes".into())
            } else {
                Ok(bytes)
            }
        });
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(why) => {
                let message = format!("included `{path}` is left out: {why}");
                if !wildcard {
                    self.included.push(Included { path, place: place.clone(), found: false });
                }
                if found.checks.readable {
                    self.fail(place, message);
                } else {
                    self.tell(Severity::Notice, place.clone(), message, "");
                }
                return None;
            }
        };
        self.bytes_read += bytes.len();
        if self.bytes_read > SOURCE_LIMIT {
            let message = format!("the files together have more than {SOURCE_LIMIT} bytes");
            self.stop(&[Unit { byte: 0, pos: self.at(), within: 0 }], message);
            return None;
        }
        let (index, web_blank) = self.map.add(&path, bytes.into());
        if let Some(at) = web_blank {
            self.web_blank(at);
        }
        if !wildcard {
            self.included.push(Included { path: path.clone(), place: place.clone(), found: true });
        }
        Some(Frame::File(FileFrame { index, next: 0, path, checks: self.checks }))
    }

    /// Roughly where reading is.
    fn at(&self) -> Pos {
        self.frames
            .iter()
            .rev()
            .find_map(|frame| match frame {
                Frame::File(file) => {
                    let base = self.map.files.get(file.index)?.base;
                    Some(base + u32::try_from(file.next.saturating_sub(1)).unwrap_or(0))
                }
                _ => None,
            })
            .unwrap_or(0)
    }
}
