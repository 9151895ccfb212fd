//! Words of real files that keepalived does not know either, each with its remedy, and other traps
//! that are seen in the words alone.

use super::{
    super::{
        keywords::{Argument, Block},
        lex::Word,
        source::Span,
        syntax::UNFILLED,
        value,
    },
    Entry, Lower, enders,
};

/// What to do about a word that is unknown where it stands.
pub(super) fn remedy(block: Block, word: &str) -> Option<&'static str> {
    Some(match (block, word) {
        (Block::TcpCheck, "nb_get_retry") => "TCP_CHECK has no `nb_get_retry`; use `retry`",
        (Block::MiscCheck, "nb_get_retry") => "MISC_CHECK has no `nb_get_retry`; use `retry`",
        (Block::MysqlCheck | Block::TrackMysql, "nb_sock_retry" | "nb_get_retry") => {
            "`retry` has no effect in MYSQL_CHECK; use suspect, fall and rise"
        }
        (_, "nb_sock_retry") => "keepalived has no such word; use `retry`",
        (Block::TcpCheck, "url") => "TCP_CHECK only connects; a page is got by HTTP_GET or SSL_GET",
        (_, "nat_mask" | "net_mask") => "forwarding by NAT needs no mask; take the line out",
        (_, "lvs_id") => "this is the old name of `router_id`",
        (_, "lvs_sync_daemon_inteface") => {
            "keepalived ignores this misspelling; take it out: connections under `lb_algo mh` go on at the \
             other host"
        }
        (Block::VrrpInstance | Block::SyncGroup, "notify_primary") => {
            "keepalived has no such word; use `notify_master`"
        }
        (Block::VrrpInstance, "garp_interval" | "gna_interval") => {
            "an instance has none: use `vrrp_garp_interval` and `vrrp_gna_interval` in global_defs, or a \
             garp_group"
        }
        (_, "syn_proxy" | "laddr_group_name" | "alpha_mode" | "establish_timeout") => {
            "a word of another LVS (full NAT); keepalived has none like it: take it out"
        }
        (_, "enable_script_secuirty" | "enable_script_securty") => {
            "`enable_script_security` is meant; without it scripts run that others may have changed"
        }
        (
            _,
            "state_dump_file_location" | "stats_dump_file_location" | "json_dump_file_location",
        ) => "the manual's name is wrong: leave `_location` out",
        (Block::FileCheck, "dynamic") => "the manual's word; keepalived does not know it",
        _ => return None,
    })
}

/// What to do about words behind the last that a keyword takes.
pub(super) const EXTRA_WORDS: &str =
    "take them out, or begin a new line before what is a statement of its own";
/// The same about `//`.
pub(super) const NO_COMMENT: &str = "a comment begins with # or !";

/// Most seconds of `persistence_timeout`: a month.
const PERSISTENCE_LIMIT: i64 = 31 * 86_400;

/// `<IFACE>` and `@@VRID@@`, as templates have them for sed and its like.
pub(super) fn is_unfilled(word: &str) -> bool {
    // `<VIP>/24`: the length is written, the address is not.
    let length = |rest: &&str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    let word = match word.rsplit_once('/') {
        Some((before, rest)) if length(&rest) => before,
        _ => word,
    };
    let named = |open: &str, close: &str| {
        let inner = word.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        inner.is_some_and(|name| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
            name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(fits)
        })
    };
    named("<", ">") || named("@@", "@@")
}

impl Lower<'_> {
    /// The secret of a line: that of `auth_pass`, and the key of `key ID VALUE` and `key VALUE`.
    fn secret(&self, block: Block, entry: &Entry<'_>) -> Option<Word> {
        match (block, entry.name()) {
            _ if entry.keyword.is_secret() => self.first(entry),
            (Block::AuthHmac, "key") => entry.args().get(1).copied(),
            (Block::FlowSync, "key") => self.first(entry),
            _ => None,
        }
    }

    /// Why a secret is missing: what was meant as its beginning begins a comment, as in `auth_pass !abc`.
    pub(super) fn lost_secret(&self, before: Span) -> Option<String> {
        let sign = self.source.comment_behind(before)?;
        Some(format!(
            "`{sign}` begins a comment, in keepalived too: to mean it, write \\{sign} or put the word into \
             double quotes, on all hosts"
        ))
    }

    /// A secret that a comment cuts: `Ab!c` is `Ab`.
    pub(super) fn cut_secret(&mut self, block: Block, entry: &Entry<'_>) {
        let Some(word) = self.secret(block, entry) else { return };
        let Some(sign @ ('!' | '#')) = self.source.follows(word.span) else { return };
        if word.quoted {
            return;
        }
        let left = self.text(word).len();
        // keepalived takes what is left without a word.
        self.advise(
            word.span,
            format!(
                "`{}` ends before `{sign}`, which begins a comment: {left} bytes of it are left",
                entry.name()
            ),
            &format!(
                "keepalived cuts it too: to mean the `{sign}`, write \\{sign} or put the word into \
                 double quotes, on all hosts"
            ),
        );
    }

    /// A template's word in a place where any word may stand. keepalived takes it as it is; where a number
    /// or an address is wanted, the error has the same remedy.
    pub(super) fn unfilled(&mut self, entry: &Entry<'_>) {
        use Argument::{Optional, Secret, User, Words};
        let argument = entry.keyword.argument;
        if !matches!(argument, Argument::Word(_) | Words(_) | Optional(_) | Secret | User) {
            return;
        }
        for word in entry.args() {
            let text = self.text(*word);
            if word.quoted || !is_unfilled(&text) {
                continue;
            }
            let shown: String = if entry.keyword.is_secret() {
                "…".into()
            } else {
                text.chars().take(64).collect()
            };
            self.advise(
                word.span,
                format!("`{shown}` looks like a placeholder of a template that was not filled in"),
                UNFILLED,
            );
        }
    }

    /// Whether this is `persistence_timeout` with a time that keepalived does not take; told.
    pub(super) fn no_persistence(&mut self, entry: &Entry<'_>) -> bool {
        let Some(word) = self.first(entry).filter(|_| entry.name() == "persistence_timeout") else {
            return false;
        };
        let text = self.text(word);
        let read = value::int(&text).filter(|read| !read.junk).map(|read| read.value);
        if read.is_some_and(|seconds| (1..=PERSISTENCE_LIMIT).contains(&seconds)) {
            return false;
        }
        let shown: String = text.chars().take(64).collect();
        self.warn(
            word.span,
            format!(
                "`persistence_timeout` cannot be `{shown}`; expected 1..{PERSISTENCE_LIMIT} seconds; it is \
                 ignored"
            ),
            if read == Some(0) { "0 means none: take the line out" } else { "" },
        );
        true
    }

    /// The classic of MySQL pairs: a script that ends keepalived, so that the VIP moves.
    pub(super) fn ends_keepalived(&mut self, entry: &Entry<'_>, argv: &[String]) {
        if !enders::ends_keepalived(argv) {
            return;
        }
        self.notice(
            entry.head(),
            format!("the command of `{}` ends keepalived, and lbd is another service", entry.name()),
            "with a track_mysql, or a vrrp_script of weight 0, in track_script the VIP moves when MySQL \
             fails and nothing needs to be ended; `process_name keepalived` lets pkill find lbd",
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{load, tests::has_finding as has};

    fn real_server(words: &str) -> String {
        format!(
            "virtual_server 192.0.2.1 80 {{\n protocol TCP\n real_server 192.0.2.2 80 {{\n {words}\n }}\n}}\n"
        )
    }

    #[test]
    fn every_quirk_has_its_remedy() {
        let instance = |words: &str| {
            format!(
                "vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n {words}\n \
                 virtual_ipaddress {{\n 192.0.2.1\n }}\n}}\n"
            )
        };
        let global = |words: &str| format!("global_defs {{\n\n\n {words}\n}}\n{}", instance(""));
        for (text, remedy) in [
            (
                real_server("TCP_CHECK { nb_get_retry 3 }"),
                "TCP_CHECK has no `nb_get_retry`; use `retry`",
            ),
            (real_server("TCP_CHECK { nb_sock_retry 3 }"), "use `retry`"),
            (real_server("nat_mask 255.255.255.0"), "needs no mask"),
            (real_server("net_mask 255.255.255.0"), "needs no mask"),
            (real_server("syn_proxy"), "another LVS"),
            (global("lvs_id lb1"), "old name of `router_id`"),
            (instance("lvs_sync_daemon_inteface eth0"), "misspelling"),
            (instance("notify_primary /bin/x"), "use `notify_master`"),
            (instance("garp_interval 1"), "`vrrp_garp_interval`"),
            (instance("priority 100 nopreempt"), "begin a new line before it"),
            (instance("priority 100 extra"), "or begin a new line before what is a statement"),
            (instance("mcast_src_ip 192.0.2.9 // here"), "a comment begins with # or !"),
            (instance("interface <IFACE>"), "fill it in"),
            (
                real_server("")
                    .replace(" protocol", "\n\n nb_sock_retry 3\n protocol")
                    .replace(" real_server", " sorry_server 192.0.2.9\n real_server"),
                "keepalived has no such word; use `retry`",
            ),
            (
                real_server("MYSQL_CHECK { nb_sock_retry 3 }"),
                "`retry` has no effect in MYSQL_CHECK; use suspect, fall and rise",
            ),
            (
                real_server("")
                    .replace(" protocol", " lb_algo rr\n\n lb_kind DR tunnel\n protocol"),
                "take them out",
            ),
        ] {
            has(&text, ":4:", remedy);
            assert!(load("t", &text).config.is_some(), "it runs without the word: {text}");
        }
    }

    /// What is not a word that keepalived does not know has its remedy too.
    #[test]
    fn every_other_trap_has_its_remedy() {
        let whole = "vrrp_instance V {\n interface eth0\n virtual_router_id 1\n virtual_ipaddress {\n \
            192.0.2.1/24\n }\n}\n";
        let authentication =
            "virtual_router_id 1\n authentication {\n auth_type PASS\n auth_pass 123456789\n }";
        for (text, at, remedy) in [
            (
                whole.trim_end().trim_end_matches('}').to_owned(),
                "t:1:",
                "put it where the block ends",
            ),
            (
                format!("vrrp_script s {{\n script /bin/true\n timeout 1\n}}\n{whole}"),
                "t:1:",
                "name it in the track_script of a vrrp_instance, or take it out",
            ),
            (
                format!("track_file f {{\n file /run/f\n}}\n{whole}"),
                "t:1:",
                "name it in the track_file of a vrrp_instance, or take it out",
            ),
            (
                whole.replace("virtual_router_id 1", authentication),
                "t:6:",
                "use `auth_hmac` for a longer",
            ),
            (whole.replace("192.0.2.1", "<VIP>"), "t:5:", "fill it in"),
        ] {
            has(&text, at, remedy);
        }
    }

    #[test]
    fn placeholders_are_told_where_any_word_may_stand_and_where_a_value_must() {
        for (word, is) in [
            ("<IFACE>", true),
            ("<your vip>", true),
            ("@@VRID@@", true),
            ("<1>", false),
            ("<>", false),
            ("@@", false),
            ("@@@@", false),
            ("a<b>", false),
            ("<a/b>", false),
            ("<VIP>/24", true),
            ("@@VIP@@/64", true),
            ("<VIP>/", false),
            ("<VIP>/x", false),
            ("192.0.2.1/24", false),
        ] {
            assert_eq!(super::is_unfilled(word), is, "{word}");
        }
        let pass = "vrrp_instance V {\n interface eth0\n virtual_router_id 1\n authentication {\n \
            auth_type PASS\n auth_pass <Geheim>\n }\n virtual_ipaddress {\n 192.0.2.1\n }\n}\n";
        has(pass, ":6:", "`…` looks like a placeholder");
        let outcome = load("t", pass);
        assert!(!outcome.render().contains("Geheim"), "{}", outcome.render());
        assert_eq!(outcome.exit_code(), 0, "keepalived takes it: {}", outcome.render());
        assert!(
            !load("t", &pass.replace("<Geheim>", "\"<Geheim>\"")).render().contains("placeholder")
        );
    }

    #[test]
    fn persistence_of_no_time_is_told_and_ignored() {
        let server = |value: &str| {
            real_server("")
                .replace("protocol TCP", &format!("protocol TCP\n persistence_timeout {value}"))
        };
        has(&server("0"), ":3:", "0 means none: take the line out");
        for value in ["0", "-1", "2678401", "long", "5s"] {
            let outcome = load("t", &server(value));
            let said = outcome.render();
            assert!(said.contains(&format!("`persistence_timeout` cannot be `{value}`")), "{said}");
            assert_eq!((outcome.exit_code(), outcome.config.is_some()), (5, true), "{said}");
        }
        for value in ["", "1", "2678400"] {
            assert!(!load("t", &server(value)).render().contains("cannot be"), "{value}");
        }
    }

    #[test]
    fn a_password_cut_by_a_comment_is_told_without_its_text() {
        let text = |pass: &str| {
            format!(
                "vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n authentication {{\n \
                 auth_type PASS\n auth_pass {pass}\n }}\n virtual_ipaddress {{\n 192.0.2.1\n }}\n}}\n"
            )
        };
        has(&text("Qx!zz"), "t:6:", "`auth_pass` ends before `!`");
        has(&text("Qx!zz"), "t:6:", "2 bytes of it are left");
        has(&text("Qx#zz # $x"), "t:6:", "`auth_pass` ends before `#`");
        for fine in ["Qx\\!zz", "\"Qx!zz\"", "Qxzz ! remark"] {
            assert!(!load("t", &text(fine)).render().contains("is left"), "{fine}");
            assert!(!load("t", &text(fine)).render().contains("are left"), "{fine}");
        }
        assert!(!load("t", &text("Qx!zz")).render().contains("Qx"));
    }

    #[test]
    fn a_secret_that_a_comment_swallows_and_a_key_that_it_cuts_are_told_without_their_text() {
        let text = |words: &str| {
            format!(
                "vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n version 3\n {words}\n \
                 virtual_ipaddress {{\n 192.0.2.1\n }}\n}}\n"
            )
        };
        let pass = |value: &str| {
            text(&format!("authentication {{\n auth_type PASS\n auth_pass {value}\n }}"))
        };
        let key = |value: &str| text(&format!("auth_hmac {{\n key 7 {value}\n }}"));
        let long = "Qx34567890abcdefghijklmnopqrstuvwxyz";
        for (text, at, words) in [
            (pass("!Qx9"), "t:7:", "`!` begins a comment, in keepalived too"),
            (pass("#Qx9"), "t:7:", "write \\# or put the word"),
            (key("!Qx9"), "t:6:", "`!` begins a comment, in keepalived too"),
            (key(&format!("{long}!more")), "t:6:", "`key` ends before `!`"),
            (key(&format!("{long}!more")), "t:6:", "36 bytes of it are left"),
        ] {
            has(&text, at, words);
            assert!(!load("t", &text).render().contains("Qx"), "{}", load("t", &text).render());
        }
        assert!(load("t", &key(&format!("{long}!more"))).config.is_some());
        for fine in [pass("# the password"), pass("! the password"), pass("Qx9 #z"), key(long)] {
            let said = load("t", &fine).render();
            assert!(!said.contains("begins a comment"), "{said}");
        }
    }
}
