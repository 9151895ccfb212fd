//! Which tests the tree has, by the names that `cargo test` prints.

use std::collections::BTreeSet;

use crate::source::{blanked, tokens};

/// The names of every test of a file: `module::path::name` in lb-userspace, `suite::name` in
/// tests/tests, elsewhere with the crate in front. `path` is from the workspace's root.
pub fn tests_of(path: &str, text: &str) -> BTreeSet<String> {
    let Some(mut modules) = module_of(path) else { return BTreeSet::new() };
    let blank = blanked(text);
    let words: Vec<String> = tokens(&blank).into_iter().map(|(_, word)| word).collect();
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let is = |at: usize, want: &[&str]| (at..).zip(want).all(|(at, want)| word(at) == *want);
    let mut found = BTreeSet::new();
    // Macros that make tests: of the name that stands first in their argument, or of every `fn NAME`
    // in it.
    let mut makers: BTreeSet<&str> = BTreeSet::new();
    // Depths at which the modules of the file that are open were opened.
    let mut opened = Vec::new();
    let (mut depth, mut marked) = (0_u32, false);
    let mut at = 0;
    while at < words.len() {
        let mut add = |name: &str, modules: &[String]| {
            found.insert([modules, &[name.to_owned()]].concat().join("::"));
        };
        match word(at) {
            "macro_rules" => {
                let end = group(&words, at + 3);
                let body = at + 3..end;
                let marks = body.clone().any(|at| is(at, &["#", "[", "test", "]"]));
                if marks && body.clone().any(|at| is(at, &["fn", "$"])) {
                    makers.insert(word(at + 2));
                }
                at = end;
                continue;
            }
            "mod" if word(at + 2) == "{" => {
                modules.push(word(at + 1).to_owned());
                opened.push(depth);
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if opened.last() == Some(&depth) {
                    opened.pop();
                    modules.pop();
                }
            }
            "#" if is(at, &["#", "[", "test", "]"]) => marked = true,
            "#" if is(at, &["#", "[", "tokio", "::", "test"]) => marked = true,
            "fn" if std::mem::take(&mut marked) => add(word(at + 1), &modules),
            name if makers.contains(name) && word(at + 1) == "!" => {
                let end = group(&words, at + 2);
                if word(at + 3) == "fn" {
                    let made = (at + 3..end).filter(|at| word(*at) == "fn");
                    made.for_each(|at| add(word(at + 1), &modules));
                } else {
                    add(word(at + 3), &modules);
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Where the group ends that the bracket at `at` opens.
fn group(words: &[String], at: usize) -> usize {
    let mut depth = 0_u32;
    for (index, word) in words.iter().enumerate().skip(at) {
        match word.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            _ => {}
        }
    }
    words.len()
}

/// Crate and modules of a file; `None` for what holds no tests that are run.
fn module_of(path: &str) -> Option<Vec<String>> {
    let (start, rest) = if let Some(rest) = path.strip_prefix("lb-userspace/src/") {
        (None, rest)
    } else if let Some(rest) = path.strip_prefix("tests/tests/") {
        (None, rest)
    } else {
        let (top, rest) = path.split_once("/src/")?;
        let name = if top == "tests" { "lb_tests".to_owned() } else { top.replace('-', "_") };
        (Some(name), rest)
    };
    let rest = rest.strip_suffix(".rs")?;
    let parts = rest.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
    Some(start.into_iter().chain(parts.map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, text: &str) -> Vec<String> {
        tests_of(path, text).into_iter().collect()
    }

    #[test]
    fn names_are_those_that_cargo_test_prints() {
        let text = "fn helper() { if x { y } }\n#[test]\nfn first() {}\n\
                    mod tests {\n mod deep {\n #[test]\n #[ignore = \"root\"]\n fn second() {}\n }\n\
                    #[tokio::test]\nasync fn third() {}\n fn no_test() {}\n}\n\
                    proptest! {\n #[test]\n fn fourth(x in 0..9) {}\n}\n";
        let want =
            ["a::b::first", "a::b::fourth", "a::b::tests::deep::second", "a::b::tests::third"];
        assert_eq!(names("lb-userspace/src/a/b.rs", text), want);
        assert_eq!(names("lb-userspace/src/a/b/mod.rs", text), want);
        let one = "#[test]\nfn x() {}";
        for (path, name) in [
            ("lb-userspace/src/lib.rs", "x"),
            ("tests/tests/suite.rs", "suite::x"),
            ("tests/src/a.rs", "lb_tests::a::x"),
            ("lb-common/src/a.rs", "lb_common::a::x"),
            ("xtask/src/main.rs", "xtask::x"),
        ] {
            assert_eq!(names(path, one), [name], "{path}");
        }
        assert_eq!(names("tests/fuzz/fuzz_targets/vrrp.rs", one), [""; 0]);
    }

    #[test]
    fn what_is_commented_out_or_quoted_is_no_test() {
        let text = "// #[test]\n// fn a() {}\n/* #[test] fn b() {} */\nconst C: &str = \"#[test] fn c() {}\";\n\
                    #[cfg(test)]\nfn d() {}\n";
        assert_eq!(names("tests/tests/suite.rs", text), [""; 0]);
    }

    #[test]
    fn tests_that_a_macro_makes_are_found_by_their_names() {
        let text = "macro_rules! root_test {\n ($name:ident, $body:expr) => {\n #[test]\n \
                    fn $name() { $body }\n };\n}\nmacro_rules! other {\n ($x:expr) => { fn f() {} };\n}\n\
                    root_test!(one, { fn helper() {} });\nother!(two);\nroot_test! {three, {}}\n\
                    macro_rules! pairs {\n ($(fn $name:ident = $x:expr;)*) => {$(\n #[test]\n \
                    fn $name() {}\n )*};\n}\npairs! {\n fn four = A;\n fn five = B;\n}\n";
        let want = ["suite::five", "suite::four", "suite::one", "suite::three"];
        assert_eq!(names("tests/tests/suite.rs", text), want);
    }
}
