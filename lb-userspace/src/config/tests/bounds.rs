//! Arbitrary input never panics, positions stay inside the text, every bound is reached once.

use lb_common::{
    abi::{POOL_LEN, SOURCE_LEN},
    maps,
};
use proptest::prelude::*;

use crate::config::{
    SOURCE_LIMIT, check,
    diag::{DIAGNOSTIC_LIMIT, Severity, TOLD_LIMIT},
    keywords::{self, Argument, Block, Status},
    load, syntax,
};

fn sound(bytes: &[u8]) {
    let outcome = check("t", bytes);
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(outcome.diagnostics.len() <= TOLD_LIMIT);
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
#[ignore = "takes seconds: cargo xtask test"]
fn each_bound_is_an_error_that_names_it() {
    let deep = "a {\n".repeat(syntax::DEPTH_LIMIT + 1);
    let wide = format!("x{}", " y".repeat(syntax::WORD_LIMIT + 1));
    let many = "a\n".repeat(syntax::STATEMENT_LIMIT + 1);
    for (text, words) in [(deep, "nested deeper than 16"), (wide, "more than 256 words")] {
        let outcome = load("t", &text);
        assert!(outcome.config.is_none());
        assert!(outcome.render().contains(words), "{}", outcome.render());
    }
    for many in [many.clone(), many.replace('\n', "{}")] {
        let said = load("t", &many).render();
        assert!(
            said.contains(&format!("more than {} statements", syntax::STATEMENT_LIMIT)),
            "{said}"
        );
    }
}

/// A line has no limit of its own: what stands in it is bounded by the limits of words, statements
/// and findings, and messages show a part of it.
#[test]
#[ignore = "takes seconds: cargo xtask test"]
fn lines_of_a_megabyte() {
    let long = 1 << 20;
    for text in [
        "a".repeat(long),
        "a ".repeat(long / 2),
        "bogus { } ".repeat(long / 10),
        format!("# {}", "x".repeat(long)),
        format!("\"{}", "x".repeat(long)),
        format!("vrrp_instance V {{ interface {} }}", "€".repeat(long / 3)),
        format!("x {}$A", "@ ".repeat(long / 2)),
    ] {
        let outcome = load("t", &text);
        assert!(outcome.config.is_none());
        let said = outcome.render();
        assert!(said.len() < 600 * 1024, "{} bytes of findings", said.len());
    }
}

#[test]
fn findings_beyond_the_limit_are_counted() {
    let outcome = load("t", &"bogus\n".repeat(DIAGNOSTIC_LIMIT + 50));
    // And the error that there is nothing to do.
    assert_eq!(outcome.diagnostics.len(), DIAGNOSTIC_LIMIT + 2);
    assert!(outcome.render().contains("not shown: 50 more warnings"), "{}", outcome.render());
}

/// However much there is to be said before it: an error is shown, with its place.
#[test]
fn no_number_of_remarks_hides_an_error() {
    let words = "prioritty 1\n".repeat(20 * DIAGNOSTIC_LIMIT);
    let scripts: String = (0..20 * DIAGNOSTIC_LIMIT)
        .map(|n| format!("vrrp_script s{n} {{ script /bin/true\n timeout 1\n }}\n"))
        .collect();
    let text = format!(
        "{scripts}vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n{words} priority 300\n \
         virtual_ipaddress {{\n 192.0.2.1\n }}\n}}\n"
    );
    let outcome = load("t", &text);
    let errors: Vec<_> =
        outcome.diagnostics.iter().filter(|it| it.severity == Severity::Error).collect();
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert!(error.message.contains("`priority` cannot be `300`"), "{error}");
    let line = 60 * DIAGNOSTIC_LIMIT + 20 * DIAGNOSTIC_LIMIT + 4;
    assert_eq!(error.place.line as usize, line, "{error}");
    let last = outcome.diagnostics.last().expect("the count");
    assert_eq!(
        (last.severity, last.message.as_str()),
        (Severity::Warning, "not shown: 1900 more warnings, 1900 more notices")
    );
}

/// A value that a keyword takes, and the block it wants.
fn sample(block: Block, name: &str) -> String {
    let keyword = keywords::find(block, name).unwrap();
    let argument = match keyword.argument {
        Argument::Nothing | Argument::Bool | Argument::Optional(_) => String::new(),
        Argument::Int { min, .. } => min.max(2).to_string(),
        Argument::Seconds { .. } | Argument::Time { .. } => "1".into(),
        Argument::Millis { min, .. } => min.to_string(),
        Argument::Choice(words) => words[0].into(),
        Argument::Secret => "x".into(),
        Argument::Address => "192.0.2.9".into(),
        Argument::Socket => "192.0.2.9:80".into(),
        Argument::Server => "192.0.2.9 80".into(),
        Argument::Command { .. } => "/bin/true".into(),
        Argument::User => "root".into(),
        Argument::Word(form) if form.starts_with("rr|") => "rr".into(),
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

#[test]
fn instances_that_nothing_fences_are_told() {
    let instances = |count: usize| -> String {
        (0..count)
            .map(|n| {
                format!(
                    "vrrp_instance V{n} {{\n interface e{n}\n virtual_router_id 1\n virtual_ipaddress {{\n \
                     10.0.{}.{}\n }}\n}}\n",
                    n / 250,
                    n % 250 + 1
                )
            })
            .collect()
    };
    assert_eq!(load("t", &instances(255)).render(), "");
    let said = load("t", &instances(256)).render();
    assert!(
        said.contains("too many to be fenced: 255 at most") && said.contains("t:1786:15"),
        "{said}"
    );
}

#[test]
fn more_vips_than_the_data_plane_holds_are_an_error() {
    let instance = |n: usize, vips: usize| -> String {
        let list: String =
            (0..vips).map(|vip| format!(" 10.{n}.{}.{}\n", vip / 250, vip % 250 + 1)).collect();
        format!(
            "vrrp_instance V{n} {{\n interface e{n}\n virtual_router_id 1\n virtual_ipaddress {{\n \
             10.{n}.255.1\n }}\n virtual_ipaddress_excluded {{\n{list}}}\n}}\n"
        )
    };
    let most = instance(1, 4095) + &instance(2, 4095);
    assert!(load("t", &most).config.is_some(), "{}", load("t", &most).render());
    let outcome = load("t", &(most + &instance(3, 1)));
    let said = outcome.render();
    assert!(outcome.config.is_none(), "{said}");
    assert!(said.contains("with this vrrp_instance there are 8194 VIPs, 8192 at most"), "{said}");
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
    // Whose bound it is: the language has none, and every word of the file was checked.
    assert!(words.contains("lbd's data plane has no room for more"), "{words}");
    let late = pool(1, "DR", 65) + "bogus\n";
    assert!(said(late).2.contains("unknown keyword `bogus`"));
    let listed = include_str!("../introduction.md").replace('\n', " ");
    for (number, what) in [
        (maps::SERVICES as usize - 1, "virtual servers of"),
        (POOL_LEN, "real servers each"),
        (maps::REALS as usize - 1, "in all"),
        (SOURCE_LEN, "virtual servers for one real server under NAT"),
        (maps::VIP_LIMIT as usize, "VIPs"),
    ] {
        assert!(listed.contains(&format!("{number} {what}")), "{number} {what}");
    }
    let (refused, _, words) = said(pool(1, "DR", 64));
    assert!(!refused, "{words}");
    let shared: String = (1..=9).map(|vip| pool(vip, "NAT", 1)).collect();
    let (refused, code, words) = said(shared);
    assert!(refused && code == 4 && words.contains("more than 8 virtual servers"), "{words}");
}
