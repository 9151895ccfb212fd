//! The keyword table: every word that keepalived's parser knows (361 literal strings at its master
//! of 2026-08, and `HTTP_GET`, `SSL_GET`, `include*`), and our own. It drives the parser
//! (`config::lower`), docs/config.md ([`super::docs`]) and `lbctl explain`.

/// One row a line: `BLOCK…: "name", argument, "default", TIER, status, "meaning"`, then `opens BLOCK`
/// if it opens one, then `+ many` if it may stand several times in a block.
macro_rules! keywords {
    (@opens) => { None };
    (@opens $block:ident) => { Some($crate::config::keywords::Block::$block) };
    (@many) => { false };
    (@many many) => { true };
    ($($($block:ident)+: $name:literal, $argument:expr, $default:literal, $tier:ident,
       $status:expr, $meaning:literal $(, opens $opens:ident)? $(+ $many:ident)?;)*) => {
        pub(super) const KEYWORDS: &[$crate::config::keywords::Keyword] = &[$(
            $crate::config::keywords::Keyword {
                name: $name,
                blocks: &[$($crate::config::keywords::Block::$block),+],
                argument: $argument,
                opens: keywords!(@opens $($opens)?),
                default: $default,
                meaning: $meaning,
                tier: $crate::config::keywords::Tier::$tier,
                status: $status,
                repeats: keywords!(@many $($many)?),
            }
        ),*];
    };
}

mod alone;
mod checkers;
mod entries;
mod global;
mod instead;
mod lvs;
mod since;
mod tracking;
mod vrrp;

pub use alone::looks_itself;

use std::{fmt, sync::LazyLock};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Where a keyword stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Block {
    Root,
    GlobalDefs,
    FlowSync,
    NotificationEmail,
    Ssl,
    TrackGroup,
    NameList,
    StaticObjects,
    GarpGroup,
    InterfaceList,
    VrrpScript,
    TrackProcess,
    TrackFile,
    TrackMysql,
    SyncGroup,
    VrrpInstance,
    Authentication,
    AuthHmac,
    VirtualIpaddress,
    UnicastPeer,
    TrackScript,
    TrackInterface,
    TrackList,
    Routes,
    BfdInstance,
    VirtualServerGroup,
    VirtualServer,
    RealServer,
    TcpCheck,
    MiscCheck,
    MysqlCheck,
    HttpGet,
    Url,
    PingCheck,
    UdpCheck,
    DnsCheck,
    SmtpCheck,
    SmtpHost,
    BfdCheck,
    FileCheck,
}

impl Block {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 40] = [
        Self::Root,
        Self::GlobalDefs,
        Self::FlowSync,
        Self::NotificationEmail,
        Self::VrrpScript,
        Self::VrrpInstance,
        Self::Authentication,
        Self::AuthHmac,
        Self::VirtualIpaddress,
        Self::UnicastPeer,
        Self::TrackScript,
        Self::TrackInterface,
        Self::TrackList,
        Self::Routes,
        Self::VirtualServer,
        Self::RealServer,
        Self::MysqlCheck,
        Self::TcpCheck,
        Self::MiscCheck,
        Self::HttpGet,
        Self::Url,
        Self::PingCheck,
        Self::UdpCheck,
        Self::DnsCheck,
        Self::SmtpCheck,
        Self::SmtpHost,
        Self::BfdCheck,
        Self::FileCheck,
        Self::VirtualServerGroup,
        Self::SyncGroup,
        Self::TrackProcess,
        Self::TrackFile,
        Self::TrackMysql,
        Self::BfdInstance,
        Self::TrackGroup,
        Self::NameList,
        Self::StaticObjects,
        Self::GarpGroup,
        Self::InterfaceList,
        Self::Ssl,
    ];

    /// How people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Root => "top level",
            Self::GlobalDefs => "global_defs",
            Self::FlowSync => "flow_sync",
            Self::NotificationEmail => "notification_email",
            Self::Ssl => "SSL",
            Self::TrackGroup => "track_group",
            Self::NameList => "group",
            Self::StaticObjects => "static_ipaddress, static_routes, static_rules",
            Self::GarpGroup => "garp_group",
            Self::InterfaceList => "interfaces, linkbeat_interfaces, interface_up_down_delays",
            Self::VrrpScript => "vrrp_script",
            Self::TrackProcess => "vrrp_track_process",
            Self::TrackFile => "track_file",
            Self::TrackMysql => "track_mysql",
            Self::SyncGroup => "vrrp_sync_group",
            Self::VrrpInstance => "vrrp_instance",
            Self::Authentication => "authentication",
            Self::AuthHmac => "auth_hmac",
            Self::VirtualIpaddress => "virtual_ipaddress",
            Self::UnicastPeer => "unicast_peer",
            Self::TrackScript => "track_script",
            Self::TrackInterface => "track_interface",
            Self::TrackList => "track_file, track_process, track_mysql, track_bfd",
            Self::Routes => "virtual_routes, virtual_rules",
            Self::BfdInstance => "bfd_instance",
            Self::VirtualServerGroup => "virtual_server_group",
            Self::VirtualServer => "virtual_server",
            Self::RealServer => "real_server",
            Self::TcpCheck => "TCP_CHECK",
            Self::MiscCheck => "MISC_CHECK",
            Self::MysqlCheck => "MYSQL_CHECK",
            Self::HttpGet => "HTTP_GET, SSL_GET",
            Self::Url => "url",
            Self::PingCheck => "PING_CHECK",
            Self::UdpCheck => "UDP_CHECK",
            Self::DnsCheck => "DNS_CHECK",
            Self::SmtpCheck => "SMTP_CHECK",
            Self::SmtpHost => "host",
            Self::BfdCheck => "BFD_CHECK",
            Self::FileCheck => "FILE_CHECK",
        }
    }

    /// Whether its lines are entries (addresses, names, routes) and not keywords.
    pub fn is_list(self) -> bool {
        matches!(
            self,
            Self::NotificationEmail
                | Self::NameList
                | Self::StaticObjects
                | Self::InterfaceList
                | Self::VirtualIpaddress
                | Self::UnicastPeer
                | Self::TrackScript
                | Self::TrackInterface
                | Self::TrackList
                | Self::Routes
                | Self::VirtualServerGroup
        )
    }
}

/// What follows a keyword on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Nothing; words that follow are ignored, as keepalived does.
    Nothing,
    /// true, on, yes, false, off, no; nothing means true.
    Bool,
    /// Whole number.
    Int { min: i64, max: i64 },
    /// Seconds with decimals; limits in µs.
    Seconds { min: u64, max: u64 },
    /// Milliseconds with decimals; limits in ms.
    Millis { min: u64, max: u64 },
    /// Ours: seconds with decimals, or a number with `ms` or `s`; limits in µs.
    Time { min: u64, max: u64 },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One word; the text is its name in the documentation.
    Word(&'static str),
    /// One word that is never shown.
    Secret,
    /// An IP address.
    Address,
    /// `ADDRESS:PORT`.
    Socket,
    /// `IP [PORT]`.
    Server,
    /// A script with its words, quoted as one; then USER `[GROUP]` in notify words.
    Command { user: bool },
    /// USER `[GROUP]`.
    User,
    /// At least one word, in a form of its own.
    Words(&'static str),
    /// Words or none, in a form of its own.
    Optional(&'static str),
}

impl Argument {
    /// Whether the keyword alone is an error (keepalived ends with exit code 2).
    pub fn is_required(self) -> bool {
        !matches!(self, Self::Nothing | Self::Bool | Self::Optional(_))
    }

    /// Words that the argument may take; further ones are ignored with a remark.
    pub fn max_words(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Server | Self::User => 2,
            Self::Command { .. } | Self::Words(_) | Self::Optional(_) => usize::MAX,
            _ => 1,
        }
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("–"),
            Self::Bool => f.write_str("[true|false]"),
            Self::Int { min, max } if *max >= i64::from(i32::MAX) => write!(f, "number from {min}"),
            Self::Int { min, max } => write!(f, "{min}..{max}"),
            Self::Seconds { min, max } => write!(f, "{} s", Limits(*min, *max)),
            Self::Millis { min, max } => write!(f, "{min}..{max} ms"),
            Self::Time { min, max } => write!(f, "time, {} s", Limits(*min, *max)),
            Self::Choice(words) => f.write_str(&words.join("|")),
            Self::Word(name) => f.write_str(name),
            Self::Secret => f.write_str("SECRET"),
            Self::Address => f.write_str("IP"),
            Self::Socket => f.write_str("ADDRESS:PORT"),
            Self::Server => f.write_str("IP [PORT]"),
            Self::Command { user: true } => f.write_str("COMMAND [USER [GROUP]]"),
            Self::Command { user: false } => f.write_str("COMMAND"),
            Self::User => f.write_str("USER [GROUP]"),
            Self::Words(form) | Self::Optional(form) => f.write_str(form),
        }
    }
}

/// Limits in µs, shown in seconds.
struct Limits(u64, u64);

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", micros_text(self.0), micros_text(self.1))
    }
}

/// µs as seconds, without useless zeros: `0.01`, `40.95`, `3600`.
pub(super) fn micros_text(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How many files have it (reference/keepalived.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Nearly every file, or the correctness of the pair.
    A,
    /// Common.
    B,
    /// Rare.
    C,
}

/// What lbd does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As keepalived does.
    Acts,
    /// Ours; keepalived has no such word.
    Ours,
    /// Read, and told of; nothing comes of it yet.
    Later(Topic),
    /// Read, and told of; nothing will come of it.
    Never(Topic),
    /// An error: running without it would not be what the file asks for.
    Refused(Topic),
}

/// What words that do not act have in common: one remark for each subject is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Processes,
    Snmp,
    Dbus,
    Buffers,
    Firewall,
    Garp,
    Static,
    Routes,
    SyncGroup,
    Bfd,
    Tracking,
    VrrpDetail,
    Excluded,
    Namespace,
    Persistence,
    Ipvs,
    Checker,
    CheckerDetail,
    Suspend,
    Reload,
    Files,
    Scripts,
    LinkPolling,
    Group,
}

impl Topic {
    /// What it means for the operator.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::Processes => {
                "names, priorities and CPU placement of processes are left to the service manager"
            }
            Self::Snmp => "there is no SNMP agent; use /metrics or lbctl status --json",
            Self::Dbus => "there is no DBus interface; use lbctl",
            Self::Buffers => "lbd sizes its socket buffers itself",
            Self::Firewall => {
                "the only firewall rules are those of no_accept, in a table of lbd's own"
            }
            Self::Garp => "gratuitous ARP goes out at once and once more after the delay only",
            Self::Static => "names of routing tables are not read: write their numbers",
            Self::Routes => "the route or rule would not be what the file asks",
            Self::SyncGroup => "what group and members track counts for the whole group anyway",
            Self::Bfd => "there is no BFD session",
            Self::Tracking => "this tracker has no effect on the priority",
            Self::VrrpDetail => "lbd keeps keepalived's default here",
            Self::Excluded => "these addresses are not added",
            Self::Namespace => "start lbd inside the namespace instead",
            Self::Persistence => "a client may get another real server on its next connection",
            Self::Ipvs => "it concerns IPVS only",
            Self::Checker => {
                "no such probe is made: a real server with no other check counts as up; \
                 MYSQL_CHECK, TCP_CHECK, HTTP_GET, SSL_GET and MISC_CHECK are available"
            }
            Self::CheckerDetail => "the probe runs without it",
            Self::Suspend => "checks run whether or not the VIP is here",
            Self::Reload => {
                "a reload always checks the whole file first and changes nothing if it is bad"
            }
            Self::Files => "lbd keeps no such file",
            Self::Scripts => "the script is not run",
            Self::LinkPolling => "link state comes from netlink",
            Self::Group => "these virtual servers would not be served",
        }
    }

    /// Whether the difference is worth a warning and not only a notice.
    pub fn is_warning(self) -> bool {
        matches!(
            self,
            Self::Static
                | Self::Routes
                | Self::Bfd
                | Self::Tracking
                | Self::Excluded
                | Self::Namespace
                | Self::Checker
                | Self::Scripts
        )
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyword {
    pub name: &'static str,
    /// Where it may stand.
    pub blocks: &'static [Block],
    pub argument: Argument,
    /// The block that it opens.
    pub opens: Option<Block>,
    /// In words; empty when there is none.
    pub default: &'static str,
    pub meaning: &'static str,
    pub tier: Tier,
    pub status: Status,
    /// May stand several times in one block.
    pub repeats: bool,
}

impl Keyword {
    /// Whether a value must never be shown.
    pub fn is_secret(&self) -> bool {
        self.argument == Argument::Secret
    }

    /// Whether its line is split once more, where single quotes and backslashes mean something.
    pub(super) fn is_split_again(&self) -> bool {
        matches!(self.argument, Argument::Command { .. })
            || ["notify_deleted", "regex"].contains(&self.name)
    }

    /// Whether it stands for what is written there (`IF`, `IP[/LEN]`, `NAME [weight N]`) and is no word of a
    /// file: so the entries of lists are documented.
    pub fn is_form(&self) -> bool {
        let capital = self.name.contains(|c: char| c.is_ascii_uppercase());
        capital && self.blocks.iter().all(|block| block.is_list())
    }
}

/// Every row, part by part.
pub fn all() -> impl Iterator<Item = &'static Keyword> {
    [
        global::KEYWORDS,
        vrrp::KEYWORDS,
        tracking::KEYWORDS,
        lvs::KEYWORDS,
        checkers::KEYWORDS,
        // Last: what a word means as a statement comes before what it means in an entry.
        entries::KEYWORDS,
    ]
    .into_iter()
    .flatten()
}

/// The table by block and word: a file of a million statements looks up each of them. What is in it is ours, so
/// that no file can make its hashes meet.
static INDEX: LazyLock<HashMap<(Block, &str), RowNumber, FixedState>> = LazyLock::new(|| {
    let rows = ROWS.iter().zip(0..).map(|(row, number)| (row, RowNumber(number)));
    rows.flat_map(|(row, number)| row.blocks.iter().map(move |b| ((*b, row.name), number)))
        .collect()
});

/// Every row, in the order of [`all`].
static ROWS: LazyLock<Vec<&'static Keyword>> = LazyLock::new(|| all().collect());

/// A row by its number in the table, for who keeps very many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowNumber(u16);

impl RowNumber {
    pub(super) fn row(self) -> Option<&'static Keyword> {
        ROWS.get(usize::from(self.0)).copied()
    }
}

/// The number of the row of a word in a block.
pub(super) fn number(block: Block, name: &str) -> Option<RowNumber> {
    INDEX.get(&(block, name)).copied()
}

/// The row of a word in a block.
pub fn find(block: Block, name: &str) -> Option<&'static Keyword> {
    number(block, name)?.row()
}

/// Rows of a word in whatever block; letters of either case match.
pub fn anywhere(name: &str) -> impl Iterator<Item = &'static Keyword> {
    all().filter(move |keyword| keyword.name.eq_ignore_ascii_case(name))
}

/// A word longer than any keyword is near none; the bound keeps the search cheap.
const NAME_LIMIT: usize = 48;

/// The nearest known word: of this block first, then of any, if it is near enough to be meant.
pub fn nearest(block: Block, name: &str) -> Option<&'static Keyword> {
    if name.len() > NAME_LIMIT {
        return None;
    }
    nearest_in(block, name).or_else(|| {
        // Words of entries are short, and near to anything.
        let elsewhere = |keyword: &&Keyword| {
            !keyword.blocks.contains(&block) && !keyword.blocks.iter().all(|it| it.is_list())
        };
        nearest_of(all().filter(elsewhere), name)
    })
}

/// The nearest known word of a block, if it is near enough to be meant.
pub fn nearest_in(block: Block, name: &str) -> Option<&'static Keyword> {
    if name.len() > NAME_LIMIT {
        return None;
    }
    let here = |keyword: &&Keyword| keyword.blocks.contains(&block) && !keyword.is_form();
    nearest_of(all().filter(here), name)
}

fn nearest_of(
    words: impl Iterator<Item = &'static Keyword>,
    name: &str,
) -> Option<&'static Keyword> {
    let lower = name.to_ascii_lowercase();
    words
        .map(|keyword| (strsim::osa_distance(&lower, &keyword.name.to_ascii_lowercase()), keyword))
        .filter(|(distance, keyword)| *distance <= (keyword.name.len() / 4).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, keyword)| keyword)
}

#[cfg(test)]
mod tests;
