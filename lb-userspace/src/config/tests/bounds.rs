//! Arbitrary input never panics, positions stay inside the text, every bound is reached once.

use proptest::prelude::*;

use crate::config::{
    SOURCE_LIMIT, check,
    diag::{DIAGNOSTIC_LIMIT, Severity},
    keywords::{self, Argument, Block, Status},
    lex::LINE_LIMIT,
    load, syntax,
};

fn sound(bytes: &[u8]) {
    let outcome = check("t", bytes);
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(outcome.diagnostics.len() <= DIAGNOSTIC_LIMIT + 1);
    let errors = outcome.diagnostics.iter().any(|d| d.severity == Severity::Error);
    assert_eq!(outcome.config.is_none(), errors);
    for diagnostic in &outcome.diagnostics {
        let places = diagnostic.related.iter().map(|(place, _)| place);
        for place in places.chain([&diagnostic.place]) {
            assert!(place.line as usize <= lines);
            assert!(place.start <= place.end && place.end as usize <= place.text.len());
            assert!(place.text.is_char_boundary(place.start as usize));
            assert!(place.text.is_char_boundary(place.end as usize));
        }
        let shown = diagnostic.render();
        assert!(shown.contains(": "));
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
}

/// Words that real files are made of, in any order.
fn soup() -> impl Strategy<Value = String> {
    let names: Vec<&'static str> = keywords::all().map(|keyword| keyword.name).collect();
    let word = prop_oneof![
        4 => proptest::sample::select(names).prop_map(str::to_owned),
        2 => proptest::sample::select(vec!["{", "}", "\n", "\n", "{\n", "}\n", "\"", "#", "!", "\\"]).prop_map(str::to_owned),
        2 => proptest::sample::select(vec!["1", "-5", "192.0.2.1", "192.0.2.1/24", "eth0", "3306", "0.5", "数据库", "2001:db8::1"]).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ];
    proptest::collection::vec(word, 0..200).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        sound(&bytes);
    }

    #[test]
    fn any_text(text in "(?s).{0,400}") {
        sound(text.as_bytes());
    }

    #[test]
    fn any_soup_of_keywords(text in soup()) {
        sound(text.as_bytes());
    }

    /// A file cut anywhere, as a broken copy leaves it.
    #[test]
    fn cut_anywhere(at in 0_usize..2000) {
        let whole = include_bytes!("../testdata/good/pool-dr.conf");
        sound(&whole[..at.min(whole.len())]);
        sound(&whole[at.min(whole.len())..]);
    }
}

#[test]
fn empty_binary_and_huge_files_are_told_apart() {
    for (bytes, words) in [
        (b"".to_vec(), "empty"),
        (b" \n\t\r\n".to_vec(), "empty"),
        (b"\x7fELF\0\0".to_vec(), "NUL"),
        (vec![b' '; SOURCE_LIMIT + 1], "limit"),
    ] {
        let outcome = check("t", &bytes);
        assert!(outcome.config.is_none());
        assert_eq!(outcome.exit_code(), 4);
        assert!(outcome.render().contains(words), "{}", outcome.render());
    }
}

#[test]
fn each_bound_is_an_error_that_names_it() {
    let deep = "a {\n".repeat(syntax::DEPTH_LIMIT + 1);
    let wide = format!("x{}", " y".repeat(syntax::WORD_LIMIT + 1));
    let many = "a\n".repeat(syntax::STATEMENT_LIMIT + 1);
    let long = "a".repeat(LINE_LIMIT + 1);
    for (text, words) in [
        (deep, "nested deeper than 16"),
        (wide, "more than 256 words"),
        (long, "longer than 16384 bytes"),
    ] {
        let outcome = load("t", &text);
        assert!(outcome.config.is_none());
        assert!(outcome.render().contains(words), "{}", outcome.render());
    }
    assert!(load("t", &many).config.is_none());
}

#[test]
fn findings_beyond_the_limit_are_counted() {
    let outcome = load("t", &"bogus\n".repeat(DIAGNOSTIC_LIMIT + 50));
    assert_eq!(outcome.diagnostics.len(), DIAGNOSTIC_LIMIT + 1);
    assert!(outcome.render().contains("51 more findings are not shown"), "{}", outcome.render());
}

/// A value that a keyword takes, and the block it wants.
fn sample(block: Block, name: &str) -> String {
    let keyword = keywords::find(block, name).unwrap();
    let argument = match keyword.argument {
        Argument::Nothing | Argument::Bool | Argument::Optional(_) => String::new(),
        Argument::Int { min, .. } => min.max(2).to_string(),
        Argument::Seconds { .. } | Argument::Time { .. } => "1".into(),
        Argument::Choice(words) => words[0].into(),
        Argument::Secret => "x".into(),
        Argument::Address => "192.0.2.9".into(),
        Argument::Socket => "192.0.2.9:80".into(),
        Argument::Server => "192.0.2.9 80".into(),
        Argument::Command { .. } => "/bin/true".into(),
        Argument::User => "root".into(),
        Argument::Word("rr|wrr|lc|wlc|mh") => "rr".into(),
        Argument::Words("NAT|DR") => "NAT".into(),
        Argument::Word(_) | Argument::Words(_) => "1".into(),
    };
    let body = if keyword.opens.is_some() { " {\n}\n" } else { "\n" };
    format!("{name} {argument}{body}")
}

/// Every word that the table calls acting or ours is handled by code, and every word is known
/// where the table says so. (A word without a handler says so in its own error.)
#[test]
fn every_keyword_is_handled_where_it_may_stand() {
    for block in Block::ALL.into_iter().filter(|block| !block.is_list()) {
        for keyword in keywords::all().filter(|keyword| keyword.blocks.contains(&block)) {
            let mut text = sample(block, keyword.name);
            let mut inner = block;
            while inner != Block::Root {
                let outer = keywords::all().find(|keyword| keyword.opens == Some(inner)).unwrap();
                let parent = outer.blocks[0];
                let head = sample(parent, outer.name);
                text = head.replace("{\n}", &format!("{{\n{text}}}"));
                inner = parent;
            }
            let text = text.replace("virtual_server 1", "virtual_server 192.0.2.1 80");
            let shown = load("t", &text).render();
            assert!(!shown.contains("unknown keyword"), "{text}\n{shown}");
            assert!(!shown.contains("nothing handles it"), "{text}\n{shown}");
            if matches!(keyword.status, Status::Later(_) | Status::Never(_)) {
                assert!(
                    shown.contains("accepted and not acted on")
                        || shown.contains("not available yet"),
                    "{text}\n{shown}"
                );
            }
        }
    }
}

/// What the data plane's maps cannot hold is told at its place, not by an engine at run time.
#[test]
fn limits_of_the_data_plane_are_errors() {
    let pool = |vip: usize, kind: &str, servers: usize| {
        let mut text = format!(
            "virtual_server 192.0.2.{vip} 3306 {{\n lb_algo rr\n lb_kind {kind}\n protocol TCP\n"
        );
        for index in 0..servers {
            text.push_str(&format!(
                " real_server 10.0.0.{} 3306 {{ TCP_CHECK {{ }} }}\n",
                index + 1
            ));
        }
        text + "}\n"
    };
    let said = |text: String| {
        let outcome = check("t", text.as_bytes());
        (outcome.config.is_none(), outcome.exit_code(), outcome.render())
    };
    let (refused, code, words) = said(pool(1, "DR", 65));
    assert!(refused && code == 4 && words.contains("65 real servers, 64 at most"), "{words}");
    let (refused, _, words) = said(pool(1, "DR", 64));
    assert!(!refused, "{words}");
    let shared: String = (1..=9).map(|vip| pool(vip, "NAT", 1)).collect();
    let (refused, code, words) = said(shared);
    assert!(refused && code == 4 && words.contains("more than 8 virtual servers"), "{words}");
}
