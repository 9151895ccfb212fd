//! Words that may stand once in a block and stand there twice: which one counts, as in keepalived.

use super::{
    super::{
        diag::{Class, Severity},
        keywords::{Argument, Block, Keyword},
        source::Span,
    },
    Entry, Lower,
};

/// A word that may stand once, where it was given.
pub(super) struct Use {
    /// Its row, of which a block has one for each word.
    keyword: &'static Keyword,
    head: Span,
    /// Its first argument.
    value: Option<Span>,
}

impl Use {
    fn of(entry: &Entry<'_>) -> Self {
        let value = entry.args().first().map(|word| word.span);
        Self { keyword: entry.keyword, head: entry.head(), value }
    }
}

/// Which of two counts, and what `-t` says to that.
struct Rule {
    first: bool,
    class: Class,
}

/// keepalived takes the later one without a word.
const LAST: Rule = Rule { first: false, class: Class::Advice };
/// It keeps the earlier one, and finds fault with the other.
const FIRST: Rule = Rule { first: true, class: Class::Fault };

/// Words of which keepalived keeps the first whatever the second says. Scripts that may name their user have
/// the same rule ([`keeps_first`]).
const KEPT: [(Block, &str); 14] = [
    (Block::GlobalDefs, "notify_fifo"),
    (Block::GlobalDefs, "vrrp_notify_fifo"),
    (Block::GlobalDefs, "lvs_notify_fifo"),
    (Block::GlobalDefs, "vmac_prefix"),
    (Block::GlobalDefs, "vmac_addr_prefix"),
    (Block::TrackProcess, "process"),
    (Block::TrackProcess, "weight"),
    (Block::TrackFile, "file"),
    (Block::TrackFile, "weight"),
    (Block::SyncGroup, "group"),
    (Block::TrackGroup, "group"),
    (Block::VrrpInstance, "vrf"),
    (Block::VrrpInstance, "use_ipvlan"),
    (Block::VrrpInstance, "notify_deleted"),
];

fn keeps_first(block: Block, keyword: &Keyword) -> bool {
    matches!(keyword.argument, Argument::Command { user: true })
        || KEPT.contains(&(block, keyword.name))
}

/// `earlier` and `later`: their first arguments, empty without one.
fn of_two(block: Block, keyword: &Keyword, earlier: &str, later: &str) -> Rule {
    match (block, keyword.name) {
        // MASTER is never taken back to BACKUP; the other way round it is.
        (Block::VrrpInstance, "state") if (earlier, later) == ("MASTER", "BACKUP") => FIRST,
        (Block::VrrpInstance, "version") if earlier != later => FIRST,
        _ if keeps_first(block, keyword) => FIRST,
        _ => LAST,
    }
}

/// Whether the earlier of two counts: for those who ask where a value comes from.
pub(in crate::config) fn first_counts(
    block: Block,
    keyword: &Keyword,
    earlier: &str,
    later: &str,
) -> bool {
    // Its lines add up: it stands where its first word does.
    if (block, keyword.name) == (Block::VrrpInstance, "use_vmac") {
        return !earlier.is_empty();
    }
    !keyword.repeats && of_two(block, keyword, earlier, later).first
}

impl Lower<'_> {
    /// Whether a word that may stand once is to be used; a second one is told of.
    pub(super) fn counts(&mut self, block: Block, entry: &Entry<'_>, uses: &mut Vec<Use>) -> bool {
        let own = Use::of(entry);
        let Some(before) = uses.iter_mut().find(|it| std::ptr::eq(it.keyword, own.keyword)) else {
            uses.push(own);
            return true;
        };
        let rule = self.of_two(block, entry, before);
        let first = before.head;
        if !rule.first {
            *before = own;
        }
        self.repeated(entry, first, &rule);
        !rule.first
    }

    /// The same for one that another block of `global_defs` has too: there only what stays is told.
    pub(super) fn counts_in_globals(&mut self, entry: &Entry<'_>) -> bool {
        match self.marks.global.get(entry.name()).copied() {
            Some(first) if keeps_first(Block::GlobalDefs, entry.keyword) => {
                self.repeated(entry, first, &FIRST);
                false
            }
            _ => true,
        }
    }

    fn of_two(&self, block: Block, entry: &Entry<'_>, before: &Use) -> Rule {
        let value = |it: Option<Span>| it.map_or("", |span| self.source.slice(span));
        let (earlier, later) = (value(before.value), value(Use::of(entry).value));
        of_two(block, entry.keyword, earlier, later)
    }

    fn repeated(&mut self, entry: &Entry<'_>, first: Span, rule: &Rule) {
        let counts = if rule.first { "first" } else { "last" };
        let message = format!("`{}` is given twice; the {counts} one counts", entry.name());
        let diagnostic = self
            .diagnostic(Severity::Warning, entry.head(), message)
            .class(rule.class)
            .related(self.place(first), "given here before");
        self.sink.push(diagnostic);
    }
}
