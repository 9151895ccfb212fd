//! What becomes of a keepalived.conf under lbd: word by word, from the keyword table and from what
//! the parser says about the file.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use super::{
    Outcome,
    diag::{Diagnostic, Place, Severity, Sink},
    keywords::{self, Block, Keyword, Status, Tier, Topic},
    lower,
    source::Source,
    syntax::{self, Statement, Statements},
};

/// Everything that could be said, word by word, and a count of each verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// In the order of the file; a word that stands several times in one kind of block is one entry.
    pub entries: Vec<Entry>,
    /// What the parser says beside: worth a look, and no difference in what works.
    pub remarks: Vec<Remark>,
    pub same: usize,
    pub better: usize,
    pub ignored: usize,
    pub refused: usize,
}

/// One word of the file, or one thing that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub verdict: Verdict,
    /// `file:line:column` of its first use; the file alone when all of it is concerned.
    pub place: String,
    /// Keyword, and the block that it stands in.
    pub word: String,
    /// How often it stands there.
    pub times: usize,
    /// Why it is better, what is missing, or why it is refused; empty when it works the same.
    pub why: String,
    /// How many files have the word: A nearly all, B many, C few.
    pub tier: Option<char>,
}

/// Something worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    pub place: String,
    pub text: String,
}

/// What becomes of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Same,
    Better,
    /// Read, and nothing comes of it.
    Ignored,
    /// The file is not run as it is.
    Refused,
}

impl Report {
    /// For scripts: 0 every word works, 1 some are ignored, 2 some are refused: lbd would not start.
    pub fn exit_code(&self) -> u8 {
        match (self.refused, self.ignored) {
            (0, 0) => 0,
            (0, _) => 1,
            _ => 2,
        }
    }

    /// Lines for a person.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (verdict, title) in [
            (Verdict::Refused, "refused: lbd does not start with this file as it is"),
            (Verdict::Ignored, "ignored: read, and nothing comes of it"),
            (Verdict::Better, "works better"),
            (Verdict::Same, "works the same"),
        ] {
            let entries: Vec<_> = self.entries.iter().filter(|it| it.verdict == verdict).collect();
            if entries.is_empty() {
                continue;
            }
            let _ = writeln!(out, "{title}");
            for Entry { place, word, times, why, .. } in entries {
                let more = match times {
                    0 | 1 => String::new(),
                    n => format!(" (and {} more)", n - 1),
                };
                let why = if why.is_empty() { String::new() } else { format!(": {why}") };
                let _ = writeln!(out, "  {place}{more}  {word}{why}");
            }
            out.push('\n');
        }
        if !self.remarks.is_empty() {
            out.push_str("worth a look\n");
            for Remark { place, text } in &self.remarks {
                let _ = writeln!(out, "  {place}  {text}");
            }
            out.push('\n');
        }
        let Self { same, better, ignored, refused, .. } = self;
        let verdict = match self.exit_code() {
            0 => "lbd runs this file as it is",
            1 => "lbd runs this file; look at what is ignored",
            _ => "lbd does not run this file yet",
        };
        let _ = writeln!(
            out,
            "{same} words work the same, {better} better, {ignored} are ignored, {refused} refused: \
             {verdict}"
        );
        out
    }
}

/// Where lbd does the same and something on top that keepalived does not.
const BETTER: [(&str, &str); 14] = [
    (
        "vrrp_instance",
        "its VIPs are fenced: a host that was stopped, killed or hangs falls silent before a peer takes \
         over",
    ),
    (
        "virtual_ipaddress",
        "connections of the host itself to a VIP that leaves are reset and do not hang",
    ),
    ("virtual_server", "forwarded by XDP; a reload or a crash of lbd loses no connection"),
    ("real_server", "the clients of a server that dies get a reset at once, not a time-out"),
    ("TCP_CHECK", "never finished: MySQL counts no aborted login and blocks no host"),
    ("vrrp_script", "its verdict survives reloads and a restart of lbd's process"),
    ("notify_master", "in order and none lost: a later state waits for the script before it"),
    ("notify_backup", "in order and none lost: a later state waits for the script before it"),
    ("notify_fault", "in order and none lost: a later state waits for the script before it"),
    ("notify", "in order and none lost: a later state waits for the script before it"),
    ("notify_fifo", "lines wait for a reader; a reload does not close it"),
    ("smtp_alert", "mail is sent by a process of its own and delays nothing"),
    (
        "reload_check_config",
        "on always: a reload that is refused changes nothing; `lbctl reload --plan` says before what it \
         would change",
    ),
    ("use_vmac", "the data plane answers ARP and ND for the VIP only while it is master"),
];

/// Words that lbd need not act on, because what they ask for is so in any case.
const ALWAYS_SO: [&str; 3] = ["global_tracking", "vrrp_skip_check_adv_addr", "skip_check_adv_addr"];

/// Reports on a file that was read.
pub fn report(outcome: &Outcome) -> Report {
    let mut words = Words { entries: Vec::new(), seen: BTreeMap::new() };
    if let Some(original) = &outcome.original {
        let source = original.source();
        let tree = syntax::parse(source, &mut Sink::default());
        words.walk(source, Block::Root, tree.statements());
    }
    let mut report = Report { entries: words.entries, ..Report::default() };
    for diagnostic in &outcome.diagnostics {
        report.hear(diagnostic);
    }
    let count = |verdict| report.entries.iter().filter(|it| it.verdict == verdict).count();
    (report.same, report.better) = (count(Verdict::Same), count(Verdict::Better));
    (report.ignored, report.refused) = (count(Verdict::Ignored), count(Verdict::Refused));
    report
}

impl Report {
    /// What the parser said, unless the word has told it already.
    fn hear(&mut self, diagnostic: &Diagnostic) {
        // Each of these words has its own entry, and perhaps another verdict: that it is so in any case.
        if diagnostic.message.contains(lower::NOT_ACTED_ON) {
            return;
        }
        let place = diagnostic.place.to_string();
        let text = match diagnostic.help.first() {
            Some(help) => format!("{} ({help})", diagnostic.message),
            None => diagnostic.message.clone(),
        };
        if let Some(entry) = self.entries.iter_mut().find(|it| {
            it.place == place && matches!(it.verdict, Verdict::Ignored | Verdict::Refused)
        }) {
            // The table's words; the parser may have more to say about this very use.
            if diagnostic.severity == Severity::Error && entry.verdict == Verdict::Ignored {
                entry.verdict = Verdict::Refused;
                entry.why = text;
            }
            return;
        }
        if diagnostic.severity == Severity::Error {
            let (word, tier) = (String::new(), None);
            let verdict = Verdict::Refused;
            self.entries.push(Entry { verdict, place, word, times: 1, why: text, tier });
        } else {
            self.remarks.push(Remark { place, text });
        }
    }
}

struct Words {
    entries: Vec<Entry>,
    /// Entry of a word in a kind of block.
    seen: BTreeMap<(Block, String), usize>,
}

impl Words {
    fn walk(&mut self, source: &Source, block: Block, statements: Statements<'_>) {
        for statement in statements {
            let Some(head) = statement.words().first() else { continue };
            let word = head.text(source);
            let row = keywords::find(block, &word);
            if row.is_none() && block.is_list() {
                continue;
            }
            self.word(source, block, &word, row, statement);
            // Of a block that is ignored or refused, its own line says all.
            let acts = |row: &&Keyword| matches!(row.status, Status::Acts | Status::Ours);
            if let Some(opens) = row.filter(acts).and_then(|row| row.opens)
                && !opens.is_list()
            {
                self.walk(source, opens, statement.block());
            }
        }
    }

    fn word(
        &mut self,
        source: &Source,
        block: Block,
        word: &str,
        row: Option<&'static Keyword>,
        statement: Statement<'_>,
    ) {
        if let Some(at) = self.seen.get(&(block, word.to_owned())) {
            if let Some(entry) = self.entries.get_mut(*at) {
                entry.times += 1;
            }
            return;
        }
        // The preprocessor's lines are the parser's to judge.
        if row.is_none() && word.starts_with(['@', '$', '~']) {
            return;
        }
        self.seen.insert((block, word.to_owned()), self.entries.len());
        let (verdict, why) = judge(word, row);
        let shown: String = word.chars().take(64).collect();
        let word = match block {
            Block::Root => shown,
            block => format!("{shown} in {}", block.title()),
        };
        let place = Place::new(source, statement.head()).to_string();
        let tier = row.map(|row| match row.tier {
            Tier::A => 'A',
            Tier::B => 'B',
            Tier::C => 'C',
        });
        self.entries.push(Entry { verdict, place, word, times: 1, why, tier });
    }
}

fn judge(word: &str, row: Option<&Keyword>) -> (Verdict, String) {
    let better = BETTER.iter().find(|(name, _)| *name == word).map(|(_, why)| (*why).to_owned());
    let Some(row) = row else {
        let why = "unknown here; keepalived ignores it too".to_owned();
        return (Verdict::Ignored, why);
    };
    match (row.status, better) {
        (Status::Refused(_), _) => (Verdict::Refused, row.consequence().to_owned()),
        (Status::Never(Topic::Reload), Some(why)) => (Verdict::Better, why),
        (Status::Later(_) | Status::Never(_), _) if ALWAYS_SO.contains(&word) => {
            (Verdict::Same, String::new())
        }
        (Status::Later(_) | Status::Never(_), _) => {
            (Verdict::Ignored, row.consequence().to_owned())
        }
        (Status::Acts | Status::Ours, Some(why)) => (Verdict::Better, why),
        (Status::Acts | Status::Ours, None) => (Verdict::Same, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn of(text: &str) -> Report {
        report(&load("k.conf", text))
    }

    fn find<'a>(report: &'a Report, word: &str) -> &'a Entry {
        report
            .entries
            .iter()
            .find(|it| it.word == word)
            .unwrap_or_else(|| panic!("{word}: {report:#?}"))
    }

    const CLASSIC: &str = "global_defs {\n  router_id A\n}\nvrrp_instance V {\n  interface eth0\n  \
        virtual_router_id 51\n  priority 100\n  virtual_ipaddress {\n    192.0.2.1\n  }\n}\n";

    #[test]
    fn a_classic_file_works() {
        let report = of(CLASSIC);
        assert_eq!((report.ignored, report.refused, report.exit_code()), (0, 0, 0), "{report:#?}");
        assert_eq!(find(&report, "priority in vrrp_instance").verdict, Verdict::Same);
        assert_eq!(find(&report, "priority in vrrp_instance").place, "k.conf:7:3");
        assert_eq!(find(&report, "vrrp_instance").verdict, Verdict::Better);
        assert_eq!(report.entries.len(), report.same + report.better);
        assert!(report.render().ends_with("lbd runs this file as it is\n"), "{}", report.render());
    }

    #[test]
    fn each_verdict_has_its_place_its_reason_and_its_exit_code() {
        let ignored =
            CLASSIC.replace("router_id A", "router_id A\n  enable_snmp_vrrp\n  nat_mask 24");
        let report = of(&ignored);
        assert_eq!(report.exit_code(), 1);
        let entry = find(&report, "enable_snmp_vrrp in global_defs");
        assert_eq!((entry.verdict, entry.place.as_str()), (Verdict::Ignored, "k.conf:3:3"));
        assert!(entry.why.contains("/metrics") && entry.tier == Some('C'), "{entry:?}");
        assert_eq!(find(&report, "nat_mask in global_defs").verdict, Verdict::Ignored);
        let shown = report.render();
        assert!(!shown.contains("worth a look"), "told once: {shown}");

        let refused = format!(
            "{CLASSIC}virtual_server 192.0.2.1 80 {{\n  protocol TCP\n  lb_kind TUN type gue port 9000\n  real_server \
             192.0.2.9 80 {{\n    TCP_CHECK {{\n    }}\n  }}\n}}\n"
        );
        let report = of(&refused);
        assert_eq!((report.exit_code(), report.refused), (2, 1), "{report:#?}");
        assert!(report.render().contains("k.conf:14:20"), "{}", report.render());
        assert_eq!(find(&report, "TCP_CHECK in real_server").verdict, Verdict::Better);
    }

    #[test]
    fn what_is_so_in_any_case_is_told_once() {
        let text = CLASSIC
            .replace("router_id A", "router_id A\n  reload_check_config\n  debug_me")
            .replace("  priority 100", "  skip_check_adv_addr\n  debug 2\n  priority 100")
            + "vrrp_sync_group G {\n  group {\n    V\n  }\n  global_tracking\n}\n";
        let report = of(&text);
        for (word, verdict) in [
            ("reload_check_config in global_defs", Verdict::Better),
            ("skip_check_adv_addr in vrrp_instance", Verdict::Same),
            ("global_tracking in vrrp_sync_group", Verdict::Same),
            ("debug in vrrp_instance", Verdict::Ignored),
            ("debug_me in global_defs", Verdict::Ignored),
        ] {
            assert_eq!(find(&report, word).verdict, verdict, "{word}");
        }
        let told = report.remarks.iter().map(|it| it.text.as_str()).collect::<Vec<_>>().join("\n");
        assert!(!told.contains("not acted on"), "told twice: {told}");
        assert!(told.contains("fewer than two members"), "{told}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_refused() {
        let report = report(&Outcome::unreadable("absent.conf", "the file does not exist"));
        assert_eq!((report.exit_code(), report.refused), (2, 1));
        assert!(report.render().contains("absent.conf"), "{}", report.render());
        assert_eq!(of("").exit_code(), 2);
    }

    #[test]
    fn words_of_one_kind_are_one_entry() {
        let second = CLASSIC.replace("vrrp_instance V", "vrrp_instance W").replace("51", "52");
        let second =
            second.split_once("}\n").map_or("", |(_, rest)| rest).replace("0.2.1", "0.2.2");
        let report = of(&format!("{CLASSIC}{second}"));
        assert_eq!(find(&report, "vrrp_instance").times, 2);
        assert!(report.render().contains("k.conf:4:1 (and 1 more)  vrrp_instance"));
    }

    /// No word is promised to be better that does not act.
    #[test]
    fn the_better_words_act() {
        for (name, why) in BETTER {
            let acts = keywords::anywhere(name).any(|row| {
                matches!(row.status, Status::Acts | Status::Ours | Status::Never(Topic::Reload))
            });
            assert!(acts && !why.is_empty(), "{name}");
        }
        for name in ALWAYS_SO {
            assert!(
                keywords::anywhere(name).all(|row| matches!(row.status, Status::Never(_))),
                "{name}"
            );
        }
    }

    /// Every word of the table has a verdict, and only the table decides it.
    #[test]
    fn every_word_of_the_table_is_judged() {
        for row in keywords::all() {
            let (verdict, why) = judge(row.name, Some(row));
            match row.status {
                Status::Refused(_) => assert_eq!(verdict, Verdict::Refused, "{}", row.name),
                Status::Acts | Status::Ours => {
                    assert!(verdict <= Verdict::Better, "{}", row.name);
                }
                Status::Later(_) | Status::Never(_) => {
                    let so = ALWAYS_SO.contains(&row.name) || row.name == "reload_check_config";
                    assert_eq!(verdict == Verdict::Ignored, !so, "{}", row.name);
                }
            }
            assert!(verdict == Verdict::Same || !why.is_empty(), "{}", row.name);
        }
    }
}
