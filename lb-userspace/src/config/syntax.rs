//! Tokens → tree of statements. A statement is one line's words, with the block that its `{` opens.
//!
//! The tree is brace-safe: whatever a block is called, it ends at its own `}`. Where a `}` is
//! missing in the middle of a file, the keyword table tells: a word that does not belong into the
//! open block but into one around it closes the blocks in between (and is an error); so everything
//! after it is still understood and its own mistakes are found in the same run.

use super::{
    diag::{Diagnostic, Place, Severity, Sink},
    keywords::{self, Block, Keyword, RowNumber},
    lex::{self, LexError, Token, Word},
    source::{Source, Span},
};

/// Blocks inside blocks; keepalived's language needs five.
pub const DEPTH_LIMIT: usize = 16;
/// Words of one statement.
pub const WORD_LIMIT: usize = 256;
/// Statements of one file (about 100 000 real servers with their checks).
pub const STATEMENT_LIMIT: usize = 1_000_000;

/// What is wrong with a `\"`.
pub(super) const ESCAPED_QUOTE: &str = "a backslash does not keep a `\"` from ending the text, nor a brace behind it from being one, in \
                                        keepalived either: use single quotes inside";
/// What to do about a template's placeholders.
pub(super) const UNFILLED: &str = "lbd reads what a template gives: fill it in (ansible, sed, envsubst …) and name its result here";

/// A statement of a [`Tree`]: one line, and its block.
#[derive(Clone, Copy)]
pub(super) struct Statement<'t> {
    tree: &'t Tree,
    node: &'t Node,
    /// Number of `node`.
    at: u32,
}

impl<'t> Statement<'t> {
    /// Empty for a `{` without a word before it.
    pub(super) fn words(self) -> &'t [Word] {
        let Node { place, words, .. } = *self.node;
        let first = place as usize;
        self.tree.words.get(first..first + usize::from(words)).unwrap_or(&[])
    }

    /// From the first word to the end of the last, closing quote included.
    pub(super) fn span(self) -> Span {
        match (self.words().first(), self.words().last()) {
            (Some(first), Some(last)) => Span {
                start: first.span.start - u32::from(first.quoted),
                end: last.span.end + u32::from(last.quoted),
            },
            _ => Span { start: self.node.place, end: self.node.place + 1 },
        }
    }

    /// The keyword's place.
    pub(super) fn head(self) -> Span {
        self.words().first().map_or_else(|| self.span(), |word| word.span)
    }

    /// The row of its keyword in the block that it stands in.
    pub(super) fn keyword(self) -> Option<&'static Keyword> {
        self.node.keyword?.row()
    }

    /// Whether there was a `{`.
    pub(super) fn has_block(self) -> bool {
        self.node.has_block
    }

    /// Statements of its block; none when it has none.
    pub(super) fn block(self) -> Statements<'t> {
        Statements { tree: self.tree, at: self.at + 1, end: self.node.end }
    }
}

/// Statements beside each other.
#[derive(Clone, Copy)]
pub(super) struct Statements<'t> {
    tree: &'t Tree,
    at: u32,
    end: u32,
}

impl<'t> Iterator for Statements<'t> {
    type Item = Statement<'t>;

    fn next(&mut self) -> Option<Statement<'t>> {
        if self.at >= self.end {
            return None;
        }
        let (tree, at) = (self.tree, self.at);
        let node = tree.nodes.get(at as usize)?;
        self.at = node.end;
        Some(Statement { tree, node, at })
    }
}

/// A statement as the tree keeps it: small, because of very many statements most of the time goes into the
/// memory that they take.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Its words lie one behind the other: number of the first. Of a `{` without words: its place.
    place: u32,
    /// How many they are, [`WORD_LIMIT`] and one at most.
    words: u16,
    has_block: bool,
    /// Number of the first statement behind it and its block.
    end: u32,
    keyword: Option<RowNumber>,
}

/// The tree and what recovery had to guess. It lies flat, in the order of the text: a file of a million
/// statements is two lists, and not a million of them.
#[derive(Debug, Default)]
pub(super) struct Tree {
    words: Vec<Word>,
    nodes: Vec<Node>,
    /// A `}` that closes nothing.
    pub(super) extra_close: Option<Span>,
}

impl Tree {
    /// Statements outside all blocks.
    pub(super) fn statements(&self) -> Statements<'_> {
        Statements { tree: self, at: 0, end: number(self.nodes.len()) }
    }
}

/// Numbers of words and statements: of a source of at most [`super::SOURCE_LIMIT`] bytes.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// An open block.
struct Frame {
    /// Number of its statement.
    node: usize,
    open: Span,
    kind: Option<Block>,
}

struct Builder<'a> {
    source: &'a Source,
    /// That of the source, at hand for each word.
    text: &'a str,
    sink: &'a mut Sink,
    tree: Tree,
    frames: Vec<Frame>,
    /// Words of the tree before those that belong to no statement yet.
    taken: usize,
    /// The last statement ended its line without a block: a `{` on the next line is its own.
    may_open: bool,
    /// Depth below [`DEPTH_LIMIT`] that is being skipped.
    buried: usize,
    count: usize,
}

/// Parses a whole source.
pub(super) fn parse(source: &Source, sink: &mut Sink) -> Tree {
    let text = source.text();
    let mut builder = Builder {
        source,
        text,
        sink,
        tree: Tree::default(),
        frames: Vec::new(),
        taken: 0,
        may_open: false,
        buried: 0,
        count: 0,
    };
    let stopped = lex::read(text, |token| {
        match token {
            Ok(token) => builder.token(token),
            Err(error) => builder.lex_error(error),
        }
        builder.count <= STATEMENT_LIMIT
    });
    if let Some(at) = stopped {
        let before = text.get(..at).unwrap_or("");
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let place = Place::new(source, Span::new(start..start));
        let message = format!("more than {STATEMENT_LIMIT} statements; the rest is not read");
        builder.sink.push(Diagnostic::new(Severity::Error, place, message));
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
            LexError::UnterminatedQuote(span) if self.is_split_again(span) => {
                let place = self.sink.place(self.source, span);
                let message = "this line has an odd number of `\"`, one of them behind a backslash";
                self.sink.push(
                    Diagnostic::new(Severity::Warning, place, message).help(
                        "keepalived before 2.3.2 finds fault with it: use single quotes inside",
                    ),
                );
            }
            LexError::UnterminatedQuote(span) => {
                let place = self.sink.place(self.source, span);
                let message = "the closing `\"` is missing on this line";
                let mut diagnostic = Diagnostic::new(Severity::Error, place, message);
                if self.source.slice(self.line(span)).contains("\\\"") {
                    diagnostic = diagnostic.help(ESCAPED_QUOTE);
                }
                self.sink.push(diagnostic);
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

    /// From the first word of the statement that is being read.
    fn line(&self, to: Span) -> Span {
        let first = self.tree.words.get(self.taken);
        Span { start: first.map_or(to.start, |word| word.span.start), ..to }
    }

    /// Whether the words of this line are split by other rules, by which it is in order. The first of them
    /// must be one, as in keepalived.
    fn is_split_again(&self, quote: Span) -> bool {
        let words = self.tree.words.get(self.taken..).unwrap_or(&[]);
        let [head, _, ..] = words else { return false };
        let row = self.kind().and_then(|kind| keywords::find(kind, &head.text(self.source)));
        row.is_some_and(Keyword::is_split_again)
            && lex::is_balanced(self.source.slice(self.line(quote)).as_bytes())
    }

    fn token(&mut self, token: Token) {
        match token {
            Token::Word(word) if self.buried == 0 => {
                let count = self.tree.words.len() - self.taken;
                if count == WORD_LIMIT {
                    let message = format!("more than {WORD_LIMIT} words; the rest is not read");
                    self.report(Severity::Error, word.span, &message);
                }
                if count <= WORD_LIMIT {
                    self.tree.words.push(word);
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

    /// The words that were read since the last statement, as one; without a word the `{` at `open`.
    fn node(&mut self, open: u32) -> Node {
        let words = u16::try_from(self.tree.words.len() - self.taken).unwrap_or(u16::MAX);
        let place = if words > 0 { number(self.taken) } else { open };
        self.taken = self.tree.words.len();
        Node { place, words, has_block: false, end: 0, keyword: None }
    }

    fn head(&self, node: &Node) -> Option<Word> {
        self.tree.words.get(node.place as usize).filter(|_| node.words > 0).copied()
    }

    /// Takes a statement into the block that is open, and gives its number.
    fn push(&mut self, mut node: Node) -> usize {
        let at = self.tree.nodes.len();
        node.end = number(at + 1);
        self.tree.nodes.push(node);
        self.count += 1;
        at
    }

    /// A statement that is to be taken: its first word, and that word's row where it is put.
    fn placed(&mut self, node: &mut Node, opens: bool) {
        node.keyword = self.head(node).and_then(|head| self.recover(head, node.words, opens));
    }

    /// Takes the collected words as a statement without a block (so far).
    fn end_statement(&mut self) {
        if self.taken == self.tree.words.len() {
            return;
        }
        let mut node = self.node(0);
        self.placed(&mut node, false);
        self.push(node);
        self.may_open = true;
    }

    fn open(&mut self, span: Span) {
        let has_words = self.taken < self.tree.words.len();
        let reopened = if self.may_open && !has_words { self.tree.nodes.pop() } else { None };
        let mut node = reopened.unwrap_or_else(|| self.node(span.start));
        self.may_open = false;
        if node.words == 0 {
            self.report(Severity::Warning, span, "a `{` without a keyword; its block is skipped");
        }
        self.placed(&mut node, true);
        if self.frames.len() == DEPTH_LIMIT {
            self.count += 1;
            let message =
                format!("blocks are nested deeper than {DEPTH_LIMIT}; this one is not read");
            self.report(Severity::Error, span, &message);
            self.buried = 1;
            return;
        }
        node.has_block = true;
        let kind = node.keyword.and_then(|number| number.row()?.opens);
        let node = self.push(node);
        self.frames.push(Frame { node, open: span, kind });
    }

    fn close(&mut self, span: Span) {
        self.end_statement();
        self.may_open = false;
        if self.frames.is_empty() {
            self.tree.extra_close.get_or_insert(span);
            self.report(Severity::Warning, span, "this `}` closes nothing; it is ignored");
            return;
        }
        self.pop();
    }

    fn pop(&mut self) {
        let end = number(self.tree.nodes.len());
        if let Some(frame) = self.frames.pop()
            && let Some(node) = self.tree.nodes.get_mut(frame.node)
        {
            node.end = end;
        }
    }

    /// The name of an open block.
    fn name(&self, frame: &Frame) -> &str {
        let node = self.tree.nodes.get(frame.node);
        let head = node.and_then(|node| self.head(node));
        self.source.slice(head.map_or(frame.open, |word| word.span))
    }

    /// Closes blocks whose `}` is missing before this statement, and finds the row of its first word.
    fn recover(&mut self, head: Word, words: u16, opens: bool) -> Option<RowNumber> {
        let kind = self.kind()?;
        let here = self.row_of(kind, head);
        if kind == Block::Root {
            return here;
        }
        // A word of entries may also be a statement of a block around the list (`priority`, `vrf`, `use_vmac`):
        // with its value alone it is no entry, which begins with an address or a name, or has more words.
        let entry = kind.is_list() && words <= 2;
        if !entry && here.is_some() {
            return here;
        }
        // A line in a list of names or addresses may be anything; elsewhere only a word with a
        // block of its own is a sure sign, others may just be misplaced.
        if !opens && !kind.is_list() {
            return here;
        }
        let wanted = |block: Block| {
            let row = self.row_of(block, head).and_then(RowNumber::row);
            row.is_some_and(|row| !opens || row.opens.is_some())
        };
        let home =
            self.frames.iter().rev().skip(1).position(|frame| frame.kind.is_some_and(wanted));
        let levels = match home {
            Some(levels) => levels + 1,
            None if wanted(Block::Root) && opens => self.frames.len(),
            None => return here,
        };
        let word = head.text(self.source);
        let unclosed = self.frames.iter().rev().take(levels).next_back();
        if let Some((open, block)) = unclosed.map(|it| (it.open, self.name(it).to_owned())) {
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
        self.row_of(self.kind()?, head)
    }

    /// The row of a word in a block.
    fn row_of(&self, block: Block, word: Word) -> Option<RowNumber> {
        match word.is_written() {
            true => keywords::number(block, self.text.get(word.span.range())?),
            false => keywords::number(block, &word.text(self.source)),
        }
    }

    fn finish(mut self) -> Tree {
        self.end_statement();
        if let Some(frame) = self.frames.first() {
            let (open, name) = (frame.open, self.name(frame).to_owned());
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
        self.tree
    }
}
