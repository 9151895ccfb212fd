//! What a keyword's words mean as values, in the form that the table wants; what does not fit is told.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    super::{
        Reference, ReferenceKind,
        diag::{Place, Severity},
        keywords::{self, Argument, micros_text},
        lex::{self, Word},
        model::{Command, User},
        source::Span,
        syntax::{ESCAPED_QUOTE, UNFILLED},
        value, words,
    },
    Entry, Lower, Spanned, quirks,
};

impl Lower<'_> {
    /// Reports a bad value with what the table wants.
    pub(super) fn bad_value(&mut self, entry: &Entry<'_>, word: Word) {
        if self.is_placeholder(word) {
            return;
        }
        let form = entry.keyword.argument;
        let shown = if entry.keyword.is_secret() { "…".into() } else { self.text(word) };
        let shown: String = shown.chars().take(64).collect();
        let message = format!("`{}` cannot be `{shown}`; expected {form}", entry.name());
        self.error_about(word, message);
    }

    /// An error about a word, which may be a template's that was not filled in.
    pub(super) fn error_about(&mut self, word: Word, message: String) {
        let mut diagnostic = self.diagnostic(Severity::Error, word.span, message);
        if quirks::is_unfilled(&self.text(word)) {
            diagnostic = diagnostic.help(UNFILLED);
        }
        self.sink.push(diagnostic);
    }

    /// A template's `{{ … }}`, which the lexer has told of.
    pub(super) fn is_placeholder(&self, word: Word) -> bool {
        self.source.slice(word.span).starts_with("{{")
    }

    pub(super) fn junk(&mut self, entry: &Entry<'_>, word: Word, read_as: &str) {
        let shown: String = self.text(word).chars().take(64).collect();
        self.warn(word.span, format!("`{} {shown}` is read as {read_as}", entry.name()), "");
    }

    pub(super) fn first(&self, entry: &Entry<'_>) -> Option<Word> {
        entry.args().first().copied()
    }

    pub(super) fn int(&mut self, entry: &Entry<'_>) -> Option<i64> {
        let word = self.first(entry)?;
        let Argument::Int { min, max } = entry.keyword.argument else { return None };
        match value::int(&self.text(word)) {
            Some(read) if (min..=max).contains(&read.value) => {
                if read.junk {
                    self.junk(entry, word, &read.value.to_string());
                }
                Some(read.value)
            }
            _ => {
                self.bad_value(entry, word);
                None
            }
        }
    }

    /// A word that is neither yes nor no leaves what holds `now`, as in keepalived.
    pub(super) fn bool(&mut self, entry: &Entry<'_>, now: bool) -> bool {
        self.yes_or_no(entry).unwrap_or(now)
    }

    /// A word alone means yes.
    pub(super) fn yes_or_no(&mut self, entry: &Entry<'_>) -> Option<bool> {
        let Some(word) = self.first(entry) else { return Some(true) };
        match &*self.text(word) {
            "true" | "on" | "yes" => Some(true),
            "false" | "off" | "no" => Some(false),
            _ => {
                self.left_alone(entry, word);
                None
            }
        }
    }

    /// A value that keepalived finds fault with and goes on without.
    pub(super) fn left_alone(&mut self, entry: &Entry<'_>, word: Word) {
        if self.is_placeholder(word) {
            return;
        }
        let text = self.text(word);
        let shown: String = text.chars().take(64).collect();
        let form = entry.keyword.argument;
        let message =
            format!("`{}` cannot be `{shown}`; expected {form}; the line is ignored", entry.name());
        let help = if quirks::is_unfilled(&text) { UNFILLED } else { "keepalived ignores it too" };
        self.warn(word.span, message, help);
    }

    pub(super) fn u32(&mut self, entry: &Entry<'_>) -> Option<u32> {
        self.int(entry).and_then(|value| u32::try_from(value).ok())
    }

    pub(super) fn duration(&mut self, entry: &Entry<'_>) -> Option<Duration> {
        let word = self.first(entry)?;
        let text = self.text(word);
        let (micros, junk, min, max) = match entry.keyword.argument {
            Argument::Seconds { min, max } => {
                let read = value::seconds(&text);
                (read.map(|r| r.value), read.is_some_and(|r| r.junk), min, max)
            }
            Argument::Time { min, max } => (value::time(&text), false, min, max),
            _ => return None,
        };
        match micros {
            Some(micros) if (min..=max).contains(&micros) => {
                if junk {
                    self.junk(entry, word, &format!("{} s", micros_text(micros)));
                }
                Some(Duration::from_micros(micros))
            }
            _ => {
                self.bad_value(entry, word);
                None
            }
        }
    }

    /// Index of the chosen word.
    pub(super) fn choice(&mut self, entry: &Entry<'_>) -> Option<usize> {
        let word = self.first(entry)?;
        let Argument::Choice(choices) = entry.keyword.argument else { return None };
        let text = self.text(word);
        if let Some(found) = choices.iter().position(|choice| *choice == text) {
            return Some(found);
        }
        if let Some(found) = choices.iter().position(|choice| choice.eq_ignore_ascii_case(&text)) {
            // protocol takes any case in keepalived too.
            if entry.name() != "protocol" {
                let meant = choices.get(found).copied().unwrap_or_default();
                self.warn(
                    word.span,
                    format!("`{} {text}` is read as {meant}", entry.name()),
                    "keepalived wants exactly this case",
                );
            }
            return Some(found);
        }
        self.bad_value(entry, word);
        None
    }

    pub(super) fn word(&mut self, entry: &Entry<'_>) -> Option<Spanned<String>> {
        let word = self.first(entry)?;
        let text = self.text(word);
        if text.contains('\u{fffd}') {
            self.error(word.span, format!("the value of `{}` is not UTF-8 text", entry.name()));
            return None;
        }
        Some(Spanned { value: text.into_owned(), span: word.span })
    }

    pub(super) fn address(&mut self, entry: &Entry<'_>) -> Option<Spanned<IpAddr>> {
        let word = self.first(entry)?;
        match self.text(word).parse() {
            Ok(value) => Some(Spanned { value, span: word.span }),
            Err(_) => {
                self.bad_value(entry, word);
                None
            }
        }
    }

    pub(super) fn socket(&mut self, entry: &Entry<'_>) -> Option<SocketAddr> {
        let word = self.first(entry)?;
        match self.text(word).parse() {
            Ok(value) => Some(value),
            Err(_) => {
                self.bad_value(entry, word);
                None
            }
        }
    }

    /// `IP [PORT]`; the port is `None` when it is not given.
    pub(super) fn server(&mut self, entry: &Entry<'_>) -> Option<Spanned<(IpAddr, Option<u16>)>> {
        let word = self.first(entry)?;
        let Ok(ip) = self.text(word).parse() else {
            self.bad_value(entry, word);
            return None;
        };
        let mut span = word.span;
        let mut port = None;
        if let Some(word) = entry.args().get(1) {
            span = span.to(word.span);
            match value::int(&self.text(*word)) {
                Some(read) if (0..=65_535).contains(&read.value) && !read.junk => {
                    port = u16::try_from(read.value).ok();
                }
                _ => {
                    let message = format!("the port of `{}` must be 1..65535", entry.name());
                    self.error(word.span, message);
                    return None;
                }
            }
        }
        Some(Spanned { value: (ip, port), span })
    }

    pub(super) fn user(&mut self, entry: &Entry<'_>) -> Option<User> {
        let name = self.word(entry)?.value;
        // A statement that was put behind it, which has been told of, is no group.
        let statement =
            |text: &str| entry.keyword.blocks.iter().any(|it| keywords::find(*it, text).is_some());
        let group = entry.args().get(1).map(|word| self.text(*word).into_owned());
        Some(User { name, group: group.filter(|group| !statement(group)) })
    }

    /// A user of this host, who runs something.
    pub(super) fn runs_as(&mut self, entry: &Entry<'_>) -> Option<User> {
        let user = self.user(entry)?;
        let span = self.first(entry).map_or(entry.head(), |word| word.span);
        self.refer_user(&user, span, entry.name());
        Some(user)
    }

    fn refer_user(&mut self, user: &User, span: Span, object: &str) {
        let value = match &user.group {
            Some(group) => format!("{} {group}", user.name),
            None => user.name.clone(),
        };
        self.refer(ReferenceKind::User, value, span, object);
    }

    /// The command of a script word. `user`: whose it is when the line names none.
    pub(super) fn command(&mut self, entry: &Entry<'_>, user: Option<User>) -> Option<Command> {
        let raw = words::uncomment(self.source.slice(entry.statement.span()));
        let object = entry.name();
        let argv = words::split(&raw, false).and_then(|line| {
            let script = line.get(1).map_or("", String::as_str);
            words::split(script, true).map(|argv| (line.clone(), argv))
        });
        let span = entry.args().first().map_or(entry.head(), |word| word.span);
        let (line, argv) = match argv {
            Ok(split) => split,
            // Of a whole line the lexer has told; here it is one that a brace has cut.
            Err(words::SplitError::Unterminated('"'))
                if !lex::is_balanced(raw.as_bytes())
                    && !matches!(
                        self.source.follows_blanks(entry.statement.span()),
                        Some('{' | '}')
                    ) =>
            {
                return None;
            }
            Err(error) => {
                let message = format!("the command of `{object}` cannot be split: {error}");
                let mut diagnostic = self.diagnostic(Severity::Error, span, message);
                if raw.contains("\\\"") {
                    diagnostic = diagnostic.help(ESCAPED_QUOTE);
                }
                self.sink.push(diagnostic);
                return None;
            }
        };
        let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
            self.error(span, format!("`{object}` has an empty command"));
            return None;
        };
        if argv.iter().any(|word| word.contains('\u{fffd}')) {
            self.error(span, format!("the command of `{object}` is not UTF-8 text"));
            return None;
        }
        let may_name = match entry.keyword.argument {
            Argument::Command { user } => user,
            Argument::Optional(_) => true,
            _ => return None,
        };
        let extra = line.get(2..).unwrap_or(&[]);
        let (mut user, mut named) = (user, false);
        if let Some(name) = extra.first() {
            let shown: String = name.chars().take(64).collect();
            // keepalived takes either without a word.
            if !may_name {
                self.advise(
                    entry.statement.span(),
                    format!("words after the command of `{object}` are ignored"),
                    "put the command and its arguments into one pair of quotes",
                );
            } else {
                if name.starts_with('-') || name.contains('/') {
                    self.advise(
                        entry.statement.span(),
                        format!("`{shown}` is read as the user who runs `{object}`"),
                        "put the command and its arguments into one pair of quotes",
                    );
                }
                user = Some(User { name: name.clone(), group: extra.get(1).cloned() });
                named = true;
            }
        }
        let program = program.clone();
        self.ends_keepalived(entry, &argv);
        self.refer(ReferenceKind::Script, program, span, object);
        if let Some(user) = user.as_ref().filter(|_| named) {
            self.refer_user(user, span, object);
        }
        Some(Command { argv, user })
    }

    /// Remembers something that only the host can confirm.
    pub(super) fn refer(&mut self, kind: ReferenceKind, value: String, span: Span, object: &str) {
        // Also beside very many findings: what the host says of it is told there.
        let place = Place::new(self.source, span);
        self.references.push(Reference { kind, value, place, object: object.to_owned() });
    }
}
