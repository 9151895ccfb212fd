//! Tree → model. The keyword table says what may stand where and in what form; the files of this
//! folder say what acting words mean.

mod checkers;
mod conflicts;
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
mod strict;
mod tracking;
mod values;
mod vip;
mod vrrp;
mod wire;

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    Reference,
    diag::{Class, Diagnostic, Place, Severity, Sink},
    keywords::{self, Argument, Block, Keyword, Status, Topic},
    lex::Word,
    model::Config,
    source::{Source, Span},
    syntax::{Statement, Tree},
    value,
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
}
