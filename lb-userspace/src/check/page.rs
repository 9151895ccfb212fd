//! HTTP_GET and SSL_GET: what a page must be like.

use md5::{Digest as _, Md5};
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Bytes of a page that are read at most: keepalived reads 64 KiB at a time and hashes all; a health page is short.
pub const PAGE_LIMIT: usize = 1 << 20;
/// Memory that a compiled pattern may take.
const PATTERN_LIMIT: usize = 1 << 20;

/// What a page must be like, in the words of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// `status_code`: ranges, both ends included; at least one.
    pub status: Vec<(u16, u16)>,
    /// `digest`: MD5 of the page.
    pub digest: Option<[u8; 16]>,
    pub regex: Option<PageRegex>,
}

/// `regex` and the words that go with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRegex {
    pub pattern: String,
    pub options: Vec<RegexOption>,
    /// `regex_no_match`: the page must not match.
    pub no_match: bool,
    /// Earliest and latest byte at which the match may begin.
    pub min_offset: u32,
    pub max_offset: Option<u32>,
}

/// A word of `regex_options` that lbd knows, by PCRE2's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegexOption {
    Caseless,
    Dotall,
    Extended,
    Multiline,
    Ungreedy,
}

impl RegexOption {
    pub const ALL: [(&'static str, Self); 5] = [
        ("caseless", Self::Caseless),
        ("dotall", Self::Dotall),
        ("extended", Self::Extended),
        ("multiline", Self::Multiline),
        ("ungreedy", Self::Ungreedy),
    ];

    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, option)| *option == self);
        found.map_or("", |(word, _)| word)
    }
}

/// The same, ready to judge.
#[derive(Clone, Debug)]
pub struct Expectation {
    status: Vec<(u16, u16)>,
    digest: Option<[u8; 16]>,
    pattern: Option<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    regex: Regex,
    no_match: bool,
    min_offset: usize,
    max_offset: Option<usize>,
}

/// Compiles a pattern.
///
/// # Errors
/// Why it is none: PCRE2's look-around and back references are not known.
pub fn compile(regex: &PageRegex) -> Result<Regex, String> {
    let on = |option| regex.options.contains(&option);
    RegexBuilder::new(&regex.pattern)
        .case_insensitive(on(RegexOption::Caseless))
        .dot_matches_new_line(on(RegexOption::Dotall))
        .ignore_whitespace(on(RegexOption::Extended))
        .multi_line(on(RegexOption::Multiline))
        .swap_greed(on(RegexOption::Ungreedy))
        .size_limit(PATTERN_LIMIT)
        .build()
        .map_err(|error| match error {
            // Its last line says what is wrong, those before it show the pattern.
            regex::Error::Syntax(text) => {
                let last = text.lines().last().unwrap_or_default();
                last.strip_prefix("error: ").unwrap_or(last).to_owned()
            }
            _ => format!("it takes more than {} KiB", PATTERN_LIMIT >> 10),
        })
}

impl Expectation {
    /// # Errors
    /// As [`compile`]; a configuration that was read has no such pattern.
    pub fn new(spec: &Spec) -> Result<Self, String> {
        let pattern = spec.regex.as_ref().map(|it| {
            Ok::<_, String>(Pattern {
                regex: compile(it)?,
                no_match: it.no_match,
                min_offset: it.min_offset as usize,
                max_offset: it.max_offset.map(|offset| offset as usize),
            })
        });
        Ok(Self { status: spec.status.clone(), digest: spec.digest, pattern: pattern.transpose()? })
    }

    /// Whether more than the status counts.
    pub fn wants_page(&self) -> bool {
        self.digest.is_some() || self.pattern.is_some()
    }

    /// Judges an answer by its code and, if more counts, its page, `whole` or as much of it as came. `Ok`: in words.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn judge(&self, status: u16, page: &[u8], whole: bool) -> Result<String, String> {
        if !self.status.iter().any(|(from, to)| (*from..=*to).contains(&status)) {
            return Err(format!("status {status}, expected {}", ranges(&self.status)));
        }
        if let Some(wanted) = self.digest {
            let found: [u8; 16] = Md5::digest(page).into();
            if found != wanted {
                return Err(format!("digest {}, expected {}", hex(found), hex(wanted)));
            }
        }
        if self.wants_page() && !whole && page.is_empty() {
            // What does not match is not in it either.
            return Err("the page broke off before it began".to_owned());
        }
        if let Some(pattern) = &self.pattern
            && pattern.is_in(page) == pattern.no_match
        {
            let how = if pattern.no_match { "matches" } else { "does not match" };
            return Err(format!("the page {how} `{}`", pattern.regex.as_str()));
        }
        Ok(format!("status {status}"))
    }
}

impl Pattern {
    fn is_in(&self, page: &[u8]) -> bool {
        if self.min_offset > page.len() {
            return false;
        }
        let found = self.regex.find_at(page, self.min_offset);
        found.is_some_and(|it| self.max_offset.is_none_or(|latest| it.start() <= latest))
    }
}

/// `200-299 304`, as the configuration has them.
pub fn ranges(status: &[(u16, u16)]) -> String {
    let words = status.iter().map(|(from, to)| match from == to {
        true => from.to_string(),
        false => format!("{from}-{to}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Hexadecimal digits, as the configuration has them.
pub fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Spec {
        Spec { status: vec![(200, 299)], digest: None, regex: None }
    }

    fn regex(pattern: &str) -> PageRegex {
        PageRegex {
            pattern: pattern.to_owned(),
            options: Vec::new(),
            no_match: false,
            min_offset: 0,
            max_offset: None,
        }
    }

    fn judged(spec: &Spec, status: u16, page: &str) -> Result<String, String> {
        Expectation::new(spec).expect("a pattern").judge(status, page.as_bytes(), true)
    }

    #[test]
    fn codes_are_ranges() {
        assert_eq!(judged(&plain(), 200, ""), Ok("status 200".to_owned()));
        assert!(judged(&plain(), 299, "").is_ok());
        assert_eq!(judged(&plain(), 503, ""), Err("status 503, expected 200-299".to_owned()));
        let some = Spec { status: vec![(200, 200), (301, 304)], ..plain() };
        assert!(judged(&some, 302, "").is_ok());
        assert_eq!(judged(&some, 201, ""), Err("status 201, expected 200 301-304".to_owned()));
    }

    #[test]
    fn the_digest_is_of_the_page() {
        // md5sum of "ok\n".
        let digest = [
            0xef, 0xf5, 0xbc, 0x1e, 0xf8, 0xec, 0x9d, 0x03, 0xe6, 0x40, 0xfc, 0x43, 0x70, 0xf5,
            0xea, 0xcd,
        ];
        let some = Spec { digest: Some(digest), ..plain() };
        assert!(judged(&some, 200, "ok\n").is_ok());
        let error = judged(&some, 200, "ok").expect_err("another page");
        assert!(error.ends_with("expected eff5bc1ef8ec9d03e640fc4370f5eacd"), "{error}");
    }

    #[test]
    fn patterns_match_where_they_may() {
        let with = |regex| Spec { regex: Some(regex), ..plain() };
        let page = "Galera cluster node is synced.";
        assert!(judged(&with(regex("node is synced")), 200, page).is_ok());
        let error = judged(&with(regex("Synced")), 200, page).expect_err("another case");
        assert_eq!(error, "the page does not match `Synced`");
        let caseless = PageRegex { options: vec![RegexOption::Caseless], ..regex("Synced") };
        assert!(judged(&with(caseless), 200, page).is_ok());
        let not = PageRegex { no_match: true, ..regex("not synced") };
        assert!(judged(&with(not.clone()), 200, page).is_ok());
        let error = judged(&with(not), 200, "node is not synced").expect_err("it matches");
        assert_eq!(error, "the page matches `not synced`");
        for (min, max, wanted) in [
            (0, None, true),
            (15, None, true),
            (16, None, false),
            (100, None, false),
            (0, Some(15), true),
            (0, Some(14), false),
        ] {
            let within = PageRegex { min_offset: min, max_offset: max, ..regex("node") };
            assert_eq!(judged(&with(within), 200, page).is_ok(), wanted, "{min} {max:?}");
        }
        // A page need not be UTF-8.
        let some = Expectation::new(&with(regex("ok"))).expect("a pattern");
        assert!(some.judge(200, b"\xff\xfeok\xff", true).is_ok());
        // As much as came counts, but nothing is no page.
        assert!(some.judge(200, b"ok", false).is_ok());
        let not = Spec { regex: Some(PageRegex { no_match: true, ..regex("down") }), ..plain() };
        let not = Expectation::new(&not).expect("a pattern");
        assert!(not.judge(200, b"", true).is_ok() && not.judge(200, b"up", false).is_ok());
        let error = not.judge(200, b"", false).expect_err("nothing came");
        assert_eq!(error, "the page broke off before it began");
    }

    #[test]
    fn patterns_of_pcre_that_are_not_known_say_why() {
        let error = compile(&regex("a(?!b)")).expect_err("look-around");
        assert!(error.contains("look-around"), "{error}");
        assert!(compile(&regex("(((((x{500}){500}){500})))")).is_err(), "too large");
    }
}
