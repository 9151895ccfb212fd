//! Tokens → tree of statements. A statement is one line's words, with the block that its `{` opens.
//!
//! The tree is brace-safe: whatever a block is called, it ends at its own `}`. Where a `}` is
//! missing in the middle of a file, the keyword table tells: a word that does not belong into the
//! open block but into one around it closes the blocks in between (and is an error); so everything
//! after it is still understood and its own mistakes are found in the same run.

use super::{
    diag::{Diagnostic, Place, Severity, Sink},
    keywords::{self, Block},
    lex::{LexError, Lexer, Token, Word},
    source::{Source, Span},
};

/// Blocks inside blocks; keepalived's language needs five.
pub const DEPTH_LIMIT: usize = 16;
/// Words of one statement.
pub const WORD_LIMIT: usize = 256;
/// Statements of one file (about 100 000 real servers with their checks).
pub const STATEMENT_LIMIT: usize = 1_000_000;

/// What to do about a template's placeholders.
pub(super) const UNFILLED: &str = "lbd reads what a template gives: fill it in (ansible, sed, envsubst …) and name its result here";

/// One line, and its block.
#[derive(Debug)]
pub(super) struct Statement {
    /// Empty for a `{` without a word before it.
    pub(super) words: Vec<Word>,
    /// From the first word to the end of the last, closing quote included.
    pub(super) span: Span,
    pub(super) block: Option<Vec<Statement>>,
}

impl Statement {
    fn new(words: Vec<Word>, open: Span) -> Self {
        let span = match (words.first(), words.last()) {
            (Some(first), Some(last)) => Span {
                start: first.span.start - u32::from(first.quoted),
                end: last.span.end + u32::from(last.quoted),
            },
            _ => open,
        };
        Self { words, span, block: None }
    }

    /// The keyword's place.
    pub(super) fn head(&self) -> Span {
        self.words.first().map_or(self.span, |word| word.span)
    }
}

/// The tree and what recovery had to guess.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) statements: Vec<Statement>,
    /// A `}` that closes nothing.
    pub(super) extra_close: Option<Span>,
}

struct Frame {
    /// Its block is filled when the frame is closed.
    statement: Statement,
    open: Span,
    kind: Option<Block>,
    inner: Vec<Statement>,
}

struct Builder<'a> {
    source: &'a Source,
    sink: &'a mut Sink,
    root: Vec<Statement>,
    frames: Vec<Frame>,
    words: Vec<Word>,
    /// The last statement ended its line without a block: a `{` on the next line is its own.
    may_open: bool,
    /// Depth below [`DEPTH_LIMIT`] that is being skipped.
    buried: usize,
    count: usize,
    extra_close: Option<Span>,
}

/// Parses a whole source.
pub(super) fn parse(source: &Source, sink: &mut Sink) -> Tree {
    let mut builder = Builder {
        source,
        sink,
        root: Vec::new(),
        frames: Vec::new(),
        words: Vec::new(),
        may_open: false,
        buried: 0,
        count: 0,
        extra_close: None,
    };
    'text: for (start, text) in source.lines() {
        for token in Lexer::new(start, text) {
            match token {
                Ok(token) => builder.token(token),
                Err(error) => builder.lex_error(error),
            }
            if builder.count > STATEMENT_LIMIT {
                let place = Place::new(source, Span { start, end: start });
                let message =
                    format!("more than {STATEMENT_LIMIT} statements; the rest is not read");
                builder.sink.push(Diagnostic::new(Severity::Error, place, message));
                break 'text;
            }
        }
    }
    builder.finish()
}

impl Builder<'_> {
    fn report(&mut self, severity: Severity, span: Span, message: &str) {
        let place = self.sink.place(self.source, span);
        self.sink.push(Diagnostic::new(severity, place, message));
    }

    fn lex_error(&mut self, error: LexError) {
        match error {
            LexError::UnterminatedQuote(span) => {
                self.report(Severity::Error, span, "the closing `\"` is missing on this line");
            }
            LexError::Placeholder(span) => {
                let place = self.sink.place(self.source, span);
                let message = "a placeholder of a template that was not filled in";
                self.sink.push(Diagnostic::new(Severity::Error, place, message).help(UNFILLED));
            }
            LexError::Continued(span) => {
                let place = self.sink.place(self.source, span);
                let message = "a `\\` at the end of this line does not continue it; it is left out";
                self.sink.push(Diagnostic::new(Severity::Warning, place, message).help(
                    "only a definition ($NAME=…) goes on in the next line; keepalived takes the \
                     `\\` for a part of the last word",
                ));
            }
        }
    }

    fn token(&mut self, token: Token) {
        match token {
            Token::Word(word) if self.buried == 0 => {
                if self.words.len() == WORD_LIMIT {
                    let message = format!("more than {WORD_LIMIT} words; the rest is not read");
                    self.report(Severity::Error, word.span, &message);
                }
                if self.words.len() <= WORD_LIMIT {
                    self.words.push(word);
                }
            }
            Token::Open(span) if self.buried == 0 => self.open(span),
            Token::Close(span) if self.buried == 0 => self.close(span),
            Token::Open(_) => self.buried += 1,
            Token::Close(_) => self.buried -= 1,
            Token::Word(_) => {}
            Token::EndOfLine => self.end_statement(),
        }
    }

    fn kind(&self) -> Option<Block> {
        self.frames.last().map_or(Some(Block::Root), |frame| frame.kind)
    }

    fn statements(&mut self) -> &mut Vec<Statement> {
        match self.frames.last_mut() {
            Some(frame) => &mut frame.inner,
            None => &mut self.root,
        }
    }

    /// Takes the collected words as a statement without a block (so far).
    fn end_statement(&mut self) {
        if self.words.is_empty() {
            return;
        }
        let words = std::mem::take(&mut self.words);
        let statement = Statement::new(words, Span { start: 0, end: 0 });
        self.recover(&statement, false);
        self.statements().push(statement);
        self.count += 1;
        self.may_open = true;
    }

    fn open(&mut self, span: Span) {
        let reopened =
            if self.words.is_empty() && self.may_open { self.statements().pop() } else { None };
        let statement =
            reopened.unwrap_or_else(|| Statement::new(std::mem::take(&mut self.words), span));
        self.may_open = false;
        self.count += 1;
        if statement.words.is_empty() {
            self.report(Severity::Warning, span, "a `{` without a keyword; its block is skipped");
        }
        self.recover(&statement, true);
        if self.frames.len() == DEPTH_LIMIT {
            let message =
                format!("blocks are nested deeper than {DEPTH_LIMIT}; this one is not read");
            self.report(Severity::Error, span, &message);
            self.buried = 1;
            return;
        }
        let kind = self.kind().and_then(|parent| {
            let word = statement.words.first()?.text(self.source);
            keywords::find(parent, &word)?.opens
        });
        self.frames.push(Frame { statement, open: span, kind, inner: Vec::new() });
    }

    fn close(&mut self, span: Span) {
        self.end_statement();
        self.may_open = false;
        if self.frames.is_empty() {
            self.extra_close.get_or_insert(span);
            self.report(Severity::Warning, span, "this `}` closes nothing; it is ignored");
            return;
        }
        self.pop();
    }

    fn pop(&mut self) {
        if let Some(mut frame) = self.frames.pop() {
            frame.statement.block = Some(frame.inner);
            self.statements().push(frame.statement);
        }
    }

    /// Closes blocks whose `}` is missing before this statement.
    fn recover(&mut self, statement: &Statement, opens: bool) {
        let Some(kind) = self.kind() else { return };
        let Some(head) = statement.words.first() else { return };
        if kind == Block::Root {
            return;
        }
        let word = head.text(self.source);
        // A word of entries may also be a statement of a block around the list (`priority`, `vrf`, `use_vmac`):
        // with its value alone it is no entry, which begins with an address or a name, or has more words.
        let entry = kind.is_list() && statement.words.len() <= 2;
        if !entry && keywords::find(kind, &word).is_some() {
            return;
        }
        // A line in a list of names or addresses may be anything; elsewhere only a word with a
        // block of its own is a sure sign, others may just be misplaced.
        if !opens && !kind.is_list() {
            return;
        }
        let wanted = |block: Block| {
            keywords::find(block, &word).is_some_and(|k| !opens || k.opens.is_some())
        };
        let home =
            self.frames.iter().rev().skip(1).position(|frame| frame.kind.is_some_and(wanted));
        let levels = match home {
            Some(levels) => levels + 1,
            None if wanted(Block::Root) && opens => self.frames.len(),
            None => return,
        };
        let unclosed = self
            .frames
            .iter()
            .rev()
            .take(levels)
            .next_back()
            .map(|frame| (frame.open, frame.statement.head()));
        if let Some((open, name)) = unclosed {
            let block = self.source.slice(name).to_owned();
            let place = self.sink.place(self.source, head.span);
            self.sink.push(
                Diagnostic::new(
                    Severity::Error,
                    place,
                    format!(
                        "a `}}` is missing before `{word}`, which does not belong into `{block}`"
                    ),
                )
                .related(self.sink.place(self.source, open), format!("`{block}` is opened here")),
            );
        }
        for _ in 0..levels {
            self.pop();
        }
    }

    fn finish(mut self) -> Tree {
        self.end_statement();
        if let Some(frame) = self.frames.first() {
            let (open, name) = (frame.open, self.source.slice(frame.statement.head()).to_owned());
            let missing = self.frames.len() + self.buried;
            let message = match missing {
                1 => format!("the last `}}` is missing: `{name}` is not closed"),
                n => format!("the last {n} `}}` are missing: `{name}` is not closed"),
            };
            self.sink.push(
                Diagnostic::new(Severity::Warning, Place::new(self.source, open), message).help(
                    "put it where the block ends; the end of the file closes it, as in keepalived",
                ),
            );
        }
        while !self.frames.is_empty() {
            self.pop();
        }
        Tree { statements: self.root, extra_close: self.extra_close }
    }
}
