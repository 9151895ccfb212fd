//! Tree → model. The keyword table says what may stand where and in what form; the files of this
//! folder say what acting words mean.

mod checkers;
mod conflicts;
mod cross;
mod election;
mod enders;
mod flow_sync;
mod global;
mod group;
mod host;
mod http;
mod inactive;
mod links;
mod lvs;
mod method;
mod notify;
mod on_down;
mod persistence;
mod quirks;
mod refused;
mod repeats;
mod route;
mod rule;
mod same;
mod statics;
mod strict;
mod tracking;
mod values;
mod vip;
mod vrrp;
mod weights;
mod wire;

pub(super) use self::repeats::first_counts;

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    Reference,
    diag::{Class, Diagnostic, Place, Severity, Sink},
    keywords::{self, Argument, Block, Keyword, Status, Topic},
    lex::Word,
    model::Config,
    source::{Source, Span},
    syntax::{Statement, Statements, Tree},
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
    statement: Statement<'t>,
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
        self.statement.words().get(1..).unwrap_or(&[])
    }

    fn block(&self) -> Statements<'t> {
        self.statement.block()
    }
}

/// What the words of a statement are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Good,
    /// The name before its block is missing: what is in it is read for its own mistakes.
    Nameless,
    Bad,
}

/// State of one run.
pub(super) struct Lower<'a> {
    source: &'a Source,
    sink: &'a mut Sink,
    config: Config,
    references: Vec<Reference>,
    /// Words that do not act, by what is to be said of them.
    topics: BTreeMap<(Topic, bool, &'static str), Told>,
    extra_close: Option<Span>,
    marks: cross::Marks,
    /// Room for [`Lower::entries`].
    uses: Vec<repeats::Use>,
    /// Bounds that were reached and told of.
    full: std::collections::BTreeSet<&'static str>,
}

/// The first use of a word that does not act, and further words of which the same is to be said.
struct Told {
    keyword: &'static Keyword,
    at: Span,
    others: BTreeMap<&'static str, Span>,
}

/// Objects of one kind that are compared with each other one by one. Real files have some dozens; the
/// bound keeps the time for a file of a million lines short.
pub const COMPARED_LIMIT: usize = 4096;
/// The same for the entries of one list.
pub const LIST_LIMIT: usize = 1024;

/// What is said of words that do not act. `lbctl migrate`, which has a line for each word, leaves it out.
pub(super) const NOT_ACTED_ON: &str = "is accepted and not acted on";

/// Further words that are named.
const OTHERS_NAMED: usize = 8;

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
        uses: Vec::new(),
        full: Default::default(),
    };
    let entries = lower.entries(Block::Root, tree.statements());
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
    lower.complete_flow_sync();
    lower.cross_check();
    lower.tell_topics();
    (lower.config, lower.references)
}

impl<'a> Lower<'a> {
    fn place(&self, span: Span) -> Place {
        self.sink.place(self.source, span)
    }

    fn diagnostic(&self, severity: Severity, span: Span, message: impl Into<String>) -> Diagnostic {
        let place = self.sink.place_for(severity, self.source, span);
        Diagnostic::new(severity, place, message)
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

    /// A warning about what keepalived takes without a word: it does not change the exit code of `-t`.
    fn advise(&mut self, span: Span, message: impl Into<String>, help: &str) {
        let diagnostic = self.diagnostic(Severity::Warning, span, message).class(Class::Advice);
        self.sink.push(if help.is_empty() { diagnostic } else { diagnostic.help(help) });
    }

    fn notice(&mut self, span: Span, message: impl Into<String>, help: &str) {
        let mut diagnostic = self.diagnostic(Severity::Notice, span, message);
        if !help.is_empty() {
            diagnostic = diagnostic.help(help);
        }
        self.sink.push(diagnostic);
    }

    /// Whether one more of `what` can be taken; the first that cannot is told of.
    fn has_room(&mut self, count: usize, limit: usize, at: Span, what: &'static str) -> bool {
        if count < limit {
            return true;
        }
        if self.full.insert(what) {
            self.cannot(at, format!("more than {limit} {what}"), "the rest is not read");
        }
        false
    }

    fn text(&self, word: Word) -> Cow<'a, str> {
        word.text(self.source)
    }

    /// Acting statements of a block in file order; the others are dealt with here.
    fn entries<'t>(&mut self, block: Block, statements: Statements<'t>) -> Vec<Entry<'t>> {
        // Words that may stand once, each with the use that counts: as many as the block has rows, at most. Blocks
        // are very many: one list serves those behind each other.
        let mut uses = std::mem::take(&mut self.uses);
        let mut out = Vec::new();
        for statement in statements {
            let Some(keyword) = self.keyword(block, statement) else { continue };
            let entry = Entry { keyword, statement };
            match self.form(block, &entry) {
                Form::Good => {}
                Form::Nameless => {
                    self.block_alone(&entry);
                    continue;
                }
                Form::Bad => continue,
            }
            match keyword.status {
                Status::Later(topic) | Status::Never(topic) => {
                    let never = matches!(keyword.status, Status::Never(_));
                    let told =
                        self.topics.entry((topic, never, keyword.consequence())).or_insert_with(
                            || Told { keyword, at: entry.head(), others: Default::default() },
                        );
                    if told.keyword.name != keyword.name {
                        told.others.entry(keyword.name).or_insert(entry.head());
                    }
                    self.inactive(&entry);
                }
                Status::Refused(_) => {
                    self.cannot(
                        entry.head(),
                        format!("`{}` is not available yet", keyword.name),
                        keyword.consequence(),
                    );
                    self.inactive(&entry);
                }
                Status::Acts | Status::Ours => {
                    if keyword.repeats || self.counts(block, &entry, &mut uses) {
                        out.push(entry);
                    }
                }
            }
        }
        uses.clear();
        self.uses = uses;
        out
    }

    /// The row of a statement; tells of unknown words, whose block is skipped.
    fn keyword(&mut self, block: Block, statement: Statement<'_>) -> Option<&'static Keyword> {
        if let Some(keyword) = statement.keyword() {
            return Some(keyword);
        }
        let name = self.text(*statement.words().first()?);
        if self.is_language(&name, statement) {
            return None;
        }
        self.unknown(block, &name, statement);
        None
    }

    /// A line that looks like one of the preprocessor's and is none.
    fn is_language(&mut self, name: &str, statement: Statement<'_>) -> bool {
        let next = statement.words().get(1).map(|word| self.text(*word));
        let (message, help) = match name.chars().next() {
            Some('$') if next.is_some_and(|word| word.starts_with('=')) => (
                format!("`{name}` is not defined by this line; it is left out"),
                "no blank may stand before the `=`",
            ),
            Some('$') if name.len() > 1 => (
                format!("`{name}` is not defined here"),
                "a definition is a line $NAME=VALUE before it; ${NAME} ends at its brace, $NAME at \
                 a blank",
            ),
            Some('~') => (
                format!("`{name}` is no keyword"),
                "~SEQ(…), ~SEQx(…) and ~LST(…) begin lines that are read several times",
            ),
            _ => return false,
        };
        let diagnostic = self
            .diagnostic(Severity::Error, statement.head(), message)
            .help(help.replace('\\', ""));
        // A variable that is defined and cannot stand here has been told of.
        if !self.sink.has_error_at(&diagnostic.place) {
            self.sink.push(diagnostic);
        }
        true
    }

    fn unknown(&mut self, block: Block, name: &str, statement: Statement<'_>) {
        let what = match block {
            Block::Root => String::new(),
            block => format!(" in `{}`", block.title()),
        };
        let skipped = if statement.has_block() { "it and its block are" } else { "it is" };
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
                    let line = self.place(extra).line;
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
        if let Some(remedy) = quirks::remedy(block, name) {
            help = Some(remedy.into());
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

    /// Checks block and number of arguments.
    fn form(&mut self, block: Block, entry: &Entry<'_>) -> Form {
        let keyword = entry.keyword;
        if keyword.opens.is_none() && entry.statement.has_block() {
            let message = format!("`{}` takes no block; the block is skipped", keyword.name);
            self.warn(entry.head(), message, "");
        }
        if keyword.opens.is_some() && !entry.statement.has_block() {
            self.error(entry.head(), format!("`{}` needs a block `{{ … }}`", keyword.name));
            return Form::Bad;
        }
        let args = entry.args();
        if args.is_empty() && keyword.argument.is_required() {
            let lost = keyword.is_secret().then(|| self.lost_secret(entry.head())).flatten();
            let diagnostic = self
                .diagnostic(
                    Severity::Error,
                    entry.head(),
                    format!("`{}` needs an argument: {}", keyword.name, keyword.argument),
                )
                .class(match keywords::looks_itself(block, keyword.name) {
                    true => Class::Fault,
                    false => Class::MissingArgument,
                })
                .help(lost.unwrap_or_else(|| keyword.meaning.to_owned()));
            self.sink.push(diagnostic);
            return if keyword.opens.is_some() { Form::Nameless } else { Form::Bad };
        }
        self.cut_secret(block, entry);
        self.unfilled(entry);
        if self.no_persistence(entry) {
            return Form::Bad;
        }
        // The second word of a user is his group, unless the next statement stands there.
        let group = matches!(keyword.argument, Argument::User).then(|| args.get(1)).flatten();
        let swallowed = group.filter(|word| keywords::find(block, &self.text(**word)).is_some());
        let extra = args.get(keyword.argument.max_words());
        if let Some(extra) = swallowed.or(extra) {
            self.extra_words(block, entry, *extra);
        }
        Form::Good
    }

    fn extra_words(&mut self, block: Block, entry: &Entry<'_>, extra: Word) {
        let name = entry.name();
        let text = self.text(extra);
        let opened = entry.keyword.opens.unwrap_or(block);
        let span = extra.span.to(entry.statement.span());
        if entry.keyword.opens.is_none() && keywords::find(opened, &text).is_some() {
            let message = format!("`{text}` is on the line of `{name}` and is ignored");
            self.advise(
                extra.span,
                message,
                "a line holds one statement: begin a new line before it",
            );
        } else if text.starts_with("//") {
            self.notice(
                span,
                format!("`//` is ignored as extra words of `{name}`"),
                quirks::NO_COMMENT,
            );
        } else {
            let message = format!("words after `{name}` and its value are ignored");
            self.notice(span, message, quirks::EXTRA_WORDS);
        }
    }

    fn tell_topics(&mut self) {
        for ((topic, never, consequence), told) in std::mem::take(&mut self.topics) {
            let severity = if topic.is_warning() { Severity::Warning } else { Severity::Notice };
            let named: Vec<_> =
                told.others.keys().take(OTHERS_NAMED).map(|word| format!("`{word}`")).collect();
            let also = match (named.len(), told.others.len() - named.len()) {
                (0, _) => String::new(),
                (_, 0) => format!(" (nor {})", named.join(", ")),
                (_, more) => format!(" (nor {} and {more} more words)", named.join(", ")),
            };
            let when = if never { ", now or later" } else { " yet" };
            let message = format!("`{}` {NOT_ACTED_ON}{when}{also}", told.keyword.name);
            // keepalived acts on these words: nothing is wrong with the file.
            let mut diagnostic =
                self.diagnostic(severity, told.at, message).class(Class::Advice).help(consequence);
            let mut places: Vec<_> = told.others.values().take(OTHERS_NAMED).copied().collect();
            places.sort_unstable();
            for span in places {
                diagnostic = diagnostic.related(self.place(span), "nor this");
            }
            self.sink.push(diagnostic);
        }
    }
}
