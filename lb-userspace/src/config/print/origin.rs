//! Where the statements in force come from: the text that they were read from is kept, and looked
//! through when somebody asks.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    net::SocketAddr,
    sync::Arc,
};

use super::{
    super::{
        diag::{Place, Sink},
        keywords::{self, Block},
        lower,
        source::{Source, Span},
        syntax::{self, Statements as Parsed},
    },
    Item, Word, quote,
};
use crate::base::{
    net::IpPrefix,
    written::{Origin, Statement},
};

/// The text that a configuration was read from. It may hold secrets and shows none.
#[derive(Clone)]
pub struct Original(Arc<Source>);

impl Original {
    pub(in crate::config) fn new(source: Source) -> Self {
        Self(Arc::new(source))
    }
}

impl Original {
    /// Of the file that was read first.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    pub(in crate::config) fn source(&self) -> &Source {
        &self.0
    }
}

impl fmt::Debug for Original {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Original({})", self.0.name())
    }
}

/// Other names of a word, and words of another block that an inner one's value comes from: where
/// the first is not in a file, the others are looked for.
const ALIASES: [(&str, &[&str]); 15] = [
    ("lb_algo", &["lvs_sched"]),
    ("lb_kind", &["lvs_method"]),
    ("track_file", &["vrrp_track_file"]),
    ("timer_expired_backup", &["thread_timer_expired"]),
    ("garp_extra_if", &["vmac_garp_intvl", "vrrp_vmac_garp_intvl"]),
    ("vrrp_garp_extra_if", &["vrrp_vmac_garp_intvl"]),
    ("vrrp_rlimit_rttime", &["vrrp_rlimit_rtime"]),
    ("password", &["password_file"]),
    ("fork_delay", &["delay"]),
    ("terminate_delay", &["delay"]),
    ("mcast_dst_ip", &["vrrp_mcast_group4", "vrrp_mcast_group6"]),
    ("strict_mode", &["vrrp_strict"]),
    ("user", &["script_user"]),
    ("smtp_alert", &["smtp_alert_vrrp", "smtp_alert_checker"]),
    ("mcast_src_ip", &["unicast_src_ip"]),
];

fn names(keyword: &str) -> impl Iterator<Item = &str> {
    let others = ALIASES.iter().find(|(name, _)| *name == keyword).map(|(_, others)| *others);
    std::iter::once(keyword).chain(others.unwrap_or_default().iter().copied())
}

/// Places by path: the headings of the blocks around a statement and its keyword.
struct Places<'a> {
    source: &'a Source,
    by_path: BTreeMap<String, Use>,
}

/// The statement of its path that counts.
struct Use {
    head: Span,
    /// Its first argument.
    value: Option<Span>,
}

impl<'a> Places<'a> {
    fn new(source: &'a Source) -> Self {
        let mut places = Self { source, by_path: BTreeMap::new() };
        let tree = syntax::parse(source, &mut Sink::default());
        places.walk("", Block::Root, None, tree.statements());
        places
    }

    /// `port`: of the virtual server around these statements.
    fn walk(&mut self, path: &str, block: Block, port: Option<u16>, statements: Parsed<'_>) {
        let mut checkers = BTreeMap::new();
        for statement in statements {
            let words: Vec<_> = statement.words().iter().map(|it| it.text(self.source)).collect();
            let Some(keyword) = words.first() else { continue };
            if block.is_list() {
                for (word, text) in statement.words().iter().zip(&words) {
                    // A VIP is written with its prefix length, a peer without.
                    let prefix = text.parse::<IpPrefix>().ok().map(|it| it.to_string());
                    for form in prefix.into_iter().chain([quote::word(text)]) {
                        let of_list = Use { head: word.span, value: None };
                        self.by_path.entry(format!("{path}/{form}")).or_insert(of_list);
                    }
                }
                continue;
            }
            let Some(row) = keywords::find(block, keyword) else { continue };
            let heading = match row.opens {
                Some(opens) => {
                    let texts: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
                    let (mut heading, port) = heading(&texts, port);
                    number(&mut checkers, block, &mut heading);
                    let heading = format!("{path}/{heading}");
                    self.walk(&heading, opens, port, statement.block());
                    heading
                }
                None => format!("{path}/{keyword}"),
            };
            let own = Use {
                head: statement.head(),
                value: statement.words().get(1).map(|word| word.span),
            };
            match self.by_path.entry(heading) {
                Entry::Vacant(place) => {
                    place.insert(own);
                }
                Entry::Occupied(mut place) => {
                    let value = |it: &Use| it.value.map_or("", |span| self.source.slice(span));
                    let (earlier, later) = (value(place.get()), value(&own));
                    if !lower::first_counts(block, row, earlier, later) {
                        place.insert(own);
                    }
                }
            }
        }
    }

    fn place(&self, span: Span) -> (String, u32) {
        let place = Place::new(self.source, span);
        (place.file, place.line)
    }

    /// In the block of this path, under any of the word's names.
    fn find(&self, path: &str, keyword: &str) -> Option<(String, u32)> {
        let place = |name: &str| self.by_path.get(&format!("{path}/{name}"));
        Some(self.place(names(keyword).find_map(place)?.head))
    }

    fn origin(&self, path: &str, list: bool, word: &str) -> Origin {
        if let Some((file, line)) = self.find(path, word) {
            return Origin::At { file, line };
        }
        if list {
            // A route, or an entry in a form of its own: at least its list is known.
            return match self.by_path.get(path) {
                Some(list) => {
                    let (file, line) = self.place(list.head);
                    Origin::At { file, line }
                }
                None => Origin::Default,
            };
        }
        let mut outer = path;
        while let Some((next, _)) = outer.rsplit_once('/').filter(|(next, _)| !next.is_empty()) {
            outer = next;
            if let Some((file, line)) = self.find(outer, word) {
                return Origin::Inherited { file, line };
            }
        }
        let global = |word: &str| self.find("/global_defs", word);
        match global(word).or_else(|| global(&format!("vrrp_{word}"))) {
            Some((file, line)) if !path.starts_with("/global_defs") => {
                Origin::Inherited { file, line }
            }
            _ => Origin::Default,
        }
    }

    fn annotate(&self, path: &str, block: Block, item: &Item, heading: &str) -> Statement {
        let list = block.is_list();
        let opens = keywords::find(block, item.keyword()).and_then(|row| row.opens);
        let origin = self.origin(path, list, if list { item.keyword() } else { heading });
        let inner = item
            .block()
            .zip(opens)
            .map(|(inner, opens)| self.annotate_all(&format!("{path}/{heading}"), opens, inner));
        let words = item.words.iter().map(|word| word.shown().to_owned()).collect();
        Statement { words, origin, block: inner }
    }

    fn annotate_all(&self, path: &str, block: Block, items: &[Item]) -> Vec<Statement> {
        let mut checkers = BTreeMap::new();
        let statement = |item: &Item| {
            let mut heading = match item.block() {
                Some(_) => {
                    let words: Vec<_> = item.words.iter().map(|word| word.text.as_str()).collect();
                    words.join(" ")
                }
                None => item.keyword().to_owned(),
            };
            if item.block().is_some() {
                number(&mut checkers, block, &mut heading);
            }
            self.annotate(path, block, item, &heading)
        };
        items.iter().map(statement).collect()
    }
}

/// Checkers of one kind are told apart by their number.
fn number(seen: &mut BTreeMap<String, usize>, block: Block, heading: &mut String) {
    if block == Block::RealServer {
        let before = seen.entry(heading.clone()).or_default();
        let number = *before;
        *before += 1;
        if number > 0 {
            heading.push_str(&format!("#{number}"));
        }
    }
}

/// A block's heading as it is written by [`super::items`], and the port that it names.
fn heading(words: &[&str], around: Option<u16>) -> (String, Option<u16>) {
    let keyword = words.first().copied().unwrap_or_default();
    if let ("virtual_server" | "real_server", Some(ip)) = (keyword, words.get(1)) {
        let port = words.get(2).and_then(|port| port.parse().ok()).or(around);
        if let (Ok(ip), Some(port)) = (ip.parse(), port) {
            let addr = SocketAddr::new(ip, port);
            return (format!("{keyword} {} {}", addr.ip(), addr.port()), Some(port));
        }
    }
    let keyword = if keyword == "vrrp_track_file" { "track_file" } else { keyword };
    let named = ["vrrp_", "track_"].iter().any(|head| keyword.starts_with(head));
    let name = words.get(1).filter(|_| named).map(|name| format!(" {}", quote::word(name)));
    (format!("{keyword}{}", name.unwrap_or_default()), around)
}

/// The items with their origins, secrets hidden. Without a text everything is a default.
pub fn annotate(items: &[Item], original: Option<&Original>) -> Vec<Statement> {
    match original {
        Some(Original(source)) => Places::new(source).annotate_all("", Block::Root, items),
        None => items.iter().map(bare).collect(),
    }
}

/// As [`annotate`], from an item on, until about `limit` bytes are full: at least one item, and where to
/// go on if there are more.
pub fn page(
    items: &[Item],
    original: Option<&Original>,
    from: usize,
    limit: usize,
) -> (Vec<Statement>, Option<usize>) {
    let places = original.map(|Original(source)| Places::new(source));
    let (mut statements, mut bytes) = (Vec::new(), 0);
    for (item, at) in items.iter().zip(0..).skip(from) {
        if bytes >= limit {
            return (statements, Some(at));
        }
        let one = match &places {
            Some(places) => places.annotate_all("", Block::Root, std::slice::from_ref(item)),
            None => vec![bare(item)],
        };
        bytes += one.iter().map(Statement::weight).sum::<usize>();
        statements.extend(one);
    }
    (statements, None)
}

fn bare(item: &Item) -> Statement {
    Statement {
        words: item.words.iter().map(Word::shown).map(str::to_owned).collect(),
        origin: Origin::Default,
        block: item.block().map(|block| block.iter().map(bare).collect()),
    }
}
