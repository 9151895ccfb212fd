//! Tree → model. The keyword table says what may stand where and in what form; the files of this
//! folder say what acting words mean.

mod checkers;
mod cross;
mod election;
mod global;
mod group;
mod host;
mod lvs;
mod notify;
mod route;
mod rule;
mod statics;
mod tracking;
mod vip;
mod vrrp;
mod wire;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    Reference, ReferenceKind,
    diag::{Class, Diagnostic, Place, Severity, Sink},
    keywords::{self, Argument, Block, Keyword, Status, Topic, micros_text},
    lex::Word,
    model::{Command, Config, User},
    source::{Source, Span},
    syntax::{Statement, Tree},
    value, words,
};

/// A value and where it stands.
#[derive(Clone, Debug)]
struct Spanned<T> {
    value: T,
    span: Span,
}

/// One acting statement, checked for its form.
#[derive(Clone, Copy)]
struct Entry<'t> {
    keyword: &'static Keyword,
    statement: &'t Statement,
}

impl<'t> Entry<'t> {
    fn name(&self) -> &'static str {
        self.keyword.name
    }

    fn head(&self) -> Span {
        self.statement.head()
    }

    /// Words behind the keyword.
    fn args(&self) -> &'t [Word] {
        self.statement.words.get(1..).unwrap_or(&[])
    }

    fn block(&self) -> &'t [Statement] {
        self.statement.block.as_deref().unwrap_or(&[])
    }
}

/// State of one run.
pub(super) struct Lower<'a> {
    source: &'a Source,
    sink: &'a mut Sink,
    config: Config,
    references: Vec<Reference>,
    /// First use of each subject that does not act, and how many words more.
    topics: BTreeMap<Topic, (&'static Keyword, Span, usize)>,
    extra_close: Option<Span>,
    marks: cross::Marks,
}

/// Lowers a whole tree.
pub(super) fn lower(source: &Source, sink: &mut Sink, tree: &Tree) -> (Config, Vec<Reference>) {
    let mut lower = Lower {
        source,
        sink,
        config: Config::default(),
        references: Vec::new(),
        topics: BTreeMap::new(),
        extra_close: tree.extra_close,
        marks: cross::Marks::default(),
    };
    let entries = lower.entries(Block::Root, &tree.statements);
    // Globals first: they are defaults of what may stand before them.
    for entry in entries.iter().filter(|e| e.name() == "global_defs") {
        lower.global(entry);
    }
    for entry in &entries {
        match entry.name() {
            "vrrp_script" => lower.vrrp_script(entry),
            "vrrp_track_process" => lower.track_process(entry),
            "track_file" | "vrrp_track_file" => lower.track_file(entry),
            "track_mysql" => lower.track_mysql(entry),
            _ => {}
        }
    }
    for entry in &entries {
        match entry.name() {
            "vrrp_instance" => lower.vrrp_instance(entry),
            "vrrp_sync_group" => lower.sync_group(entry),
            "virtual_server" => lower.virtual_server(entry),
            "garp_group" => lower.garp_group(entry),
            "static_ipaddress" | "static_routes" | "static_rules" | "track_group" => {
                lower.statics(entry);
            }
            "interface_up_down_delays" => lower.link_delays(entry),
            _ => {}
        }
    }
    lower.complete_host();
    lower.cross_check();
    lower.tell_topics();
    (lower.config, lower.references)
}

impl<'a> Lower<'a> {
    fn place(&self, span: Span) -> Place {
        self.sink.place(self.source, span)
    }

    fn diagnostic(&self, severity: Severity, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(severity, self.place(span), message)
    }

    fn error(&mut self, span: Span, message: impl Into<String>) {
        let diagnostic = self.diagnostic(Severity::Error, span, message);
        self.sink.push(diagnostic);
    }

    /// An error about what lbd cannot do; `instead` names what it can.
    fn cannot(&mut self, span: Span, message: impl Into<String>, instead: &str) {
        let diagnostic =
            self.diagnostic(Severity::Error, span, message).class(Class::CannotRun).help(instead);
        self.sink.push(diagnostic);
    }

    fn warn(&mut self, span: Span, message: impl Into<String>, help: &str) {
        let mut diagnostic = self.diagnostic(Severity::Warning, span, message);
        if !help.is_empty() {
            diagnostic = diagnostic.help(help);
        }
        self.sink.push(diagnostic);
    }

    fn notice(&mut self, span: Span, message: impl Into<String>, help: &str) {
        let mut diagnostic = self.diagnostic(Severity::Notice, span, message);
        if !help.is_empty() {
            diagnostic = diagnostic.help(help);
        }
        self.sink.push(diagnostic);
    }

    fn text(&self, word: Word) -> Cow<'a, str> {
        word.text(self.source)
    }

    /// Acting statements of a block in file order; the others are dealt with here.
    fn entries<'t>(&mut self, block: Block, statements: &'t [Statement]) -> Vec<Entry<'t>> {
        let mut first_uses: BTreeMap<&'static str, Span> = BTreeMap::new();
        let mut out = Vec::new();
        for statement in statements {
            let Some(keyword) = self.keyword(block, statement) else { continue };
            let entry = Entry { keyword, statement };
            if !self.form(block, &entry) {
                continue;
            }
            match keyword.status {
                Status::Later(topic) | Status::Never(topic) => {
                    self.topics.entry(topic).and_modify(|(_, _, more)| *more += 1).or_insert((
                        keyword,
                        entry.head(),
                        0,
                    ));
                    self.known_only(keyword.opens, entry.block());
                }
                Status::Refused(topic) => {
                    self.cannot(
                        entry.head(),
                        format!("`{}` is not available yet", keyword.name),
                        topic.consequence(),
                    );
                    self.known_only(keyword.opens, entry.block());
                }
                Status::Acts | Status::Ours => {
                    if !keyword.repeats
                        && let Some(first) = first_uses.insert(keyword.name, entry.head())
                    {
                        self.repeated(&entry, first);
                        // Of scripts keepalived keeps the first, of all else the last.
                        if matches!(keyword.argument, Argument::Command { user: true }) {
                            continue;
                        }
                    }
                    out.push(entry);
                }
            }
        }
        out
    }

    fn repeated(&mut self, entry: &Entry<'_>, first: Span) {
        let script = matches!(entry.keyword.argument, Argument::Command { user: true });
        let counts = if script { "first" } else { "last" };
        let diagnostic = self
            .diagnostic(
                Severity::Warning,
                entry.head(),
                format!("`{}` is given twice; the {counts} one counts", entry.name()),
            )
            .related(self.place(first), "given here before");
        self.sink.push(diagnostic);
    }

    /// Looks for unknown words in a block that does not act.
    fn known_only(&mut self, block: Option<Block>, statements: &[Statement]) {
        let Some(block) = block else { return };
        if block.is_list() {
            return;
        }
        for statement in statements {
            if let Some(keyword) = self.keyword(block, statement) {
                self.known_only(keyword.opens, statement.block.as_deref().unwrap_or(&[]));
            }
        }
    }

    /// The row of a statement; tells of unknown words, whose block is skipped.
    fn keyword(&mut self, block: Block, statement: &Statement) -> Option<&'static Keyword> {
        let head = *statement.words.first()?;
        let name = self.text(head);
        if let Some(keyword) = keywords::find(block, &name) {
            return Some(keyword);
        }
        if self.is_language(&name, head.span) {
            return None;
        }
        self.unknown(block, &name, statement);
        None
    }

    /// keepalived's preprocessor: its lines must not be taken for unknown words and dropped.
    fn is_language(&mut self, name: &str, span: Span) -> bool {
        let what = match name.chars().next() {
            Some('@') => "conditional lines (`@ID`)",
            Some('$') if name.contains('=') || name.len() > 1 => "definitions (`$NAME=VALUE`)",
            Some('~') => "`~SEQ` and `~LST`",
            _ => return false,
        };
        self.cannot(
            span,
            format!("{what} are not available yet"),
            "write the lines out as they should be on this host",
        );
        true
    }

    fn unknown(&mut self, block: Block, name: &str, statement: &Statement) {
        let what = match block {
            Block::Root => String::new(),
            block => format!(" in `{}`", block.title()),
        };
        let skipped = if statement.block.is_some() { "it and its block are" } else { "it is" };
        let shown: String = name.chars().take(64).collect();
        let mut severity = Severity::Warning;
        let mut help = None;
        if !self.sink.is_full() {
            if let Some(home) = keywords::anywhere(name).find(|k| k.name == name) {
                let homes: Vec<_> = home.blocks.iter().take(3).map(|b| b.title()).collect();
                help = Some(format!("`{name}` belongs into {}", homes.join(" or ")));
                if block == Block::Root
                    && let Some(extra) = self.extra_close
                {
                    // A `}` too many has thrown this word out of its block.
                    severity = Severity::Error;
                    let (line, _) = self.source.position(extra.start);
                    help = Some(format!(
                        "`{name}` belongs into {}: one `}}` above is too many (line {line} has one \
                         that closes nothing)",
                        homes.join(" or ")
                    ));
                }
            } else if let Some(near) = keywords::nearest(block, name) {
                let here = near.blocks.contains(&block);
                help = Some(if here {
                    format!("did you mean `{}`?", near.name)
                } else {
                    let home = near.blocks.first().map_or("", |b| b.title());
                    format!("did you mean `{}`, which belongs into {home}?", near.name)
                });
            }
        }
        if ["<<<<<<<", "=======", ">>>>>>>"].contains(&name) {
            severity = Severity::Error;
            help = Some("this is git's mark of a merge conflict: both sides would be read".into());
        }
        if block == Block::TcpCheck && name == "nb_get_retry" {
            help = Some("TCP_CHECK has no `nb_get_retry`; use `retry`".into());
        }
        let mut diagnostic = self.diagnostic(
            severity,
            statement.head(),
            format!("unknown keyword `{shown}`{what}; {skipped} skipped"),
        );
        if let Some(help) = help {
            diagnostic = diagnostic.help(help);
        }
        self.sink.push(diagnostic);
    }

    /// Checks block and number of arguments; false when the statement cannot be used.
    fn form(&mut self, block: Block, entry: &Entry<'_>) -> bool {
        let keyword = entry.keyword;
        if keyword.opens.is_none() && entry.statement.block.is_some() {
            let message = format!("`{}` takes no block; the block is skipped", keyword.name);
            self.warn(entry.head(), message, "");
        }
        if keyword.opens.is_some() && entry.statement.block.is_none() {
            self.error(entry.head(), format!("`{}` needs a block `{{ … }}`", keyword.name));
            return false;
        }
        let given = entry.args().len();
        if keyword.argument.is_required() && given == 0 {
            let form = keyword.argument.to_string().replace('\\', "");
            let diagnostic = self
                .diagnostic(
                    Severity::Error,
                    entry.head(),
                    format!("`{}` needs an argument: {form}", keyword.name),
                )
                .class(Class::MissingArgument)
                .help(keyword.meaning);
            self.sink.push(diagnostic);
            return false;
        }
        if let Some(extra) = entry.args().get(keyword.argument.max_words()) {
            self.extra_words(block, entry, *extra);
        }
        true
    }

    fn extra_words(&mut self, block: Block, entry: &Entry<'_>, extra: Word) {
        let name = entry.name();
        let text = self.text(extra);
        let opened = entry.keyword.opens.unwrap_or(block);
        let span = extra.span.to(entry.statement.span);
        if entry.keyword.opens.is_none() && keywords::find(opened, &text).is_some() {
            let message = format!("`{text}` is on the line of `{name}` and is ignored");
            self.warn(
                extra.span,
                message,
                "a line holds one statement: begin a new line before it",
            );
        } else if text.starts_with("//") {
            self.notice(
                span,
                format!("`//` is ignored as extra words of `{name}`"),
                "a comment begins with # or !",
            );
        } else {
            self.notice(span, format!("words after `{name}` and its value are ignored"), "");
        }
    }

    fn tell_topics(&mut self) {
        for (topic, (keyword, span, more)) in std::mem::take(&mut self.topics) {
            let severity = if topic.is_warning() { Severity::Warning } else { Severity::Notice };
            let also = match more {
                0 => String::new(),
                1 => " (and one more word of this kind)".into(),
                n => format!(" (and {n} more words of this kind)"),
            };
            let when = match keyword.status {
                Status::Never(_) => "is accepted and not acted on",
                _ => "is accepted and not acted on yet",
            };
            let diagnostic = self
                .diagnostic(severity, span, format!("`{}` {when}{also}", keyword.name))
                .help(topic.consequence());
            self.sink.push(diagnostic);
        }
    }

    // ---- values

    /// Reports a bad value with what the table wants.
    fn bad_value(&mut self, entry: &Entry<'_>, word: Word) {
        let form = entry.keyword.argument.to_string().replace('\\', "");
        let shown = if entry.keyword.is_secret() { "…".into() } else { self.text(word) };
        let shown: String = shown.chars().take(64).collect();
        let message = format!("`{}` cannot be `{shown}`; expected {form}", entry.name());
        self.error(word.span, message);
    }

    fn junk(&mut self, entry: &Entry<'_>, word: Word, read_as: &str) {
        let shown: String = self.text(word).chars().take(64).collect();
        self.warn(word.span, format!("`{} {shown}` is read as {read_as}", entry.name()), "");
    }

    fn first(&self, entry: &Entry<'_>) -> Option<Word> {
        entry.args().first().copied()
    }

    fn int(&mut self, entry: &Entry<'_>) -> Option<i64> {
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

    /// Nothing means true.
    fn bool(&mut self, entry: &Entry<'_>) -> bool {
        self.bool_or(entry, true)
    }

    /// A word alone means yes; `otherwise` stands for one that is neither yes nor no.
    fn bool_or(&mut self, entry: &Entry<'_>, otherwise: bool) -> bool {
        let Some(word) = self.first(entry) else { return true };
        match &*self.text(word) {
            "true" | "on" | "yes" => true,
            "false" | "off" | "no" => false,
            _ => {
                self.bad_value(entry, word);
                otherwise
            }
        }
    }

    fn u32(&mut self, entry: &Entry<'_>) -> Option<u32> {
        self.int(entry).and_then(|value| u32::try_from(value).ok())
    }

    fn duration(&mut self, entry: &Entry<'_>) -> Option<Duration> {
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
    fn choice(&mut self, entry: &Entry<'_>) -> Option<usize> {
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

    fn word(&mut self, entry: &Entry<'_>) -> Option<Spanned<String>> {
        let word = self.first(entry)?;
        let text = self.text(word);
        if text.contains('\u{fffd}') {
            self.error(word.span, format!("the value of `{}` is not UTF-8 text", entry.name()));
            return None;
        }
        Some(Spanned { value: text.into_owned(), span: word.span })
    }

    fn address(&mut self, entry: &Entry<'_>) -> Option<Spanned<IpAddr>> {
        let word = self.first(entry)?;
        match self.text(word).parse() {
            Ok(value) => Some(Spanned { value, span: word.span }),
            Err(_) => {
                self.bad_value(entry, word);
                None
            }
        }
    }

    fn socket(&mut self, entry: &Entry<'_>) -> Option<SocketAddr> {
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
    fn server(&mut self, entry: &Entry<'_>) -> Option<Spanned<(IpAddr, Option<u16>)>> {
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

    fn user(&mut self, entry: &Entry<'_>) -> Option<User> {
        let name = self.word(entry)?.value;
        let group = entry.args().get(1).map(|word| self.text(*word).into_owned());
        Some(User { name, group })
    }

    /// The command of a script word. `user`: whose it is when the line names none.
    fn command(&mut self, entry: &Entry<'_>, user: Option<User>) -> Option<Command> {
        let raw = words::uncomment(self.source.slice(entry.statement.span));
        let object = entry.name();
        let argv = words::split(&raw, false).and_then(|line| {
            let script = line.get(1).map_or("", String::as_str);
            words::split(script, true).map(|argv| (line.clone(), argv))
        });
        let span = entry.args().first().map_or(entry.head(), |word| word.span);
        let (line, argv) = match argv {
            Ok(split) => split,
            // The lexer has told of it.
            Err(words::SplitError::Unterminated('"')) if raw.matches('"').count() % 2 == 1 => {
                return None;
            }
            Err(error) => {
                self.error(span, format!("the command of `{object}` cannot be split: {error}"));
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
        let mut user = user;
        if let Some(name) = extra.first() {
            let shown: String = name.chars().take(64).collect();
            if !may_name {
                self.warn(
                    entry.statement.span,
                    format!("words after the command of `{object}` are ignored"),
                    "put the command and its arguments into one pair of quotes",
                );
            } else if name.starts_with('-') || name.contains('/') {
                self.warn(
                    entry.statement.span,
                    format!("`{shown}` is read as the user who runs `{object}`"),
                    "put the command and its arguments into one pair of quotes",
                );
                user = Some(User { name: name.clone(), group: extra.get(1).cloned() });
            } else {
                user = Some(User { name: name.clone(), group: extra.get(1).cloned() });
            }
        }
        let program = program.clone();
        self.refer(ReferenceKind::Script, program, span, object);
        Some(Command { argv, user })
    }

    /// Remembers something that only the host can confirm.
    fn refer(&mut self, kind: ReferenceKind, value: String, span: Span, object: &str) {
        let place = self.place(span);
        self.references.push(Reference { kind, value, place, object: object.to_owned() });
    }
}
