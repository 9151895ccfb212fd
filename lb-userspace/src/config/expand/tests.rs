//! What keepalived 2.2.7 makes of the same text was looked up in its dump (`keepalived -d`), line by
//! line; where lbd differs on purpose, the test says so.

use std::collections::BTreeMap;

use super::*;
use crate::config::{Outcome, check_in, diag::Severity};

/// Files in memory; `*` in a pattern stands for whatever.
#[derive(Default)]
pub(in crate::config) struct Memory {
    pub(in crate::config) id: &'static str,
    pub(in crate::config) files: BTreeMap<String, String>,
    pub(in crate::config) strict: bool,
}

impl Surroundings for Memory {
    fn id(&self) -> &str {
        self.id
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".into())
    }

    fn strict(&self) -> bool {
        self.strict
    }

    fn find(&self, directory: &str, pattern: &str) -> Result<Vec<String>, String> {
        let full = if pattern.starts_with('/') {
            pattern.into()
        } else {
            format!("{directory}/{pattern}")
        };
        let (before, after) = full.split_once('*').unwrap_or((&full, ""));
        let wild = full.contains('*');
        let hit = |name: &&String| {
            if wild { name.starts_with(before) && name.ends_with(after) } else { **name == full }
        };
        Ok(self.files.keys().filter(hit).cloned().collect())
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        match self.files.get(path).map(String::as_str) {
            Some("DIRECTORY") => Err("it is a directory".into()),
            Some(text) => Ok(text.as_bytes().to_vec()),
            None => Err("gone".into()),
        }
    }
}

pub(in crate::config) fn memory(id: &'static str, files: &[(&str, &str)]) -> Memory {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Memory { id, files, strict: false }
}

/// The expanded text, and what is said (severity and message).
fn expanded(around: &Memory, text: &str) -> (String, Vec<String>) {
    let mut sink = Sink::default();
    let out = expand("/etc/a.conf", text.as_bytes().into(), around, &mut sink);
    let said = sink.finish("a").iter().map(|d| format!("{d}")).collect();
    let lines: Vec<_> = out.source.text().lines().map(str::trim_end).collect();
    (lines.join("|"), said)
}

/// Lines of the expanded text joined by `|`; nothing may be said.
fn lines(text: &str) -> String {
    let (out, said) = expanded(&memory("x", &[]), text);
    assert_eq!(said, Vec::<String>::new(), "{text}");
    out
}

#[test]
fn as_keepalived_expands_it() {
    let head = "$ID=ab\n$E=\n$A=x$B\n$B=y\n";
    for (text, expect) in [
        ("$A", "xy"),
        // `$B` of the value of A is followed by `c`, so that `Bc` is the name, which nobody defined.
        ("a${A}c", "ax$Bc"),
        ("~LST(L, p, q) ~SEQ(I,2) l${L}${I}", "lp1|lp2|lq1|lq2"),
        ("~LST({L,M}, {p,1}, {q}) ml${L}${M}", "mlp1|mlq"),
        ("~SEQ(K, 3, 1) k$K", "k3|k2|k1"),
        ("~SEQ(K, 0x10, 2, 0x14) k${K}", "k16|k18|k20"),
        ("~SEQx(K, 0x90, 0x10, 0xb0) k$K", "k90|ka0|kb0"),
        ("\"${_PWD}\"", "\"/etc\""),
        ("\"${_INSTANCE}\" x\\#$E y", "\"x\" x"),
        ("w2\\#z $E", "w2"),
        ("w\\#$ID z", "w"),
        ("\"${ID}\"", "\"ab\""),
        ("f($ID)g", "f(ab)g"),
        ("$ID,k", "ab,k"),
        ("~SEQ(J,1,2) ~SEQ(K,1,$J) t${J}-$K", "t1-1|t2-1|t2-2"),
        ("@x yes", "yes"),
        ("@x no1\n@^x no2\n@^y yes", "no1|yes"),
        ("@x $Z=zz\n$Z", "zz"),
        ("a { @^x b\n@x c }\n{ $ID }", "a {|c }|{ ab }"),
        ("\"q${_HASH}${_BANG}z\"", "\"q#!z\""),
        ("${_ENV HOME}/x", "/root/x"),
        ("$A=1\n$A=2\nv $A", "v 2"),
        (
            "$BASE=10.2.${SUB}\n$SUB=0\n${BASE}.100/32\n$SUB=10\n${BASE}.100/32",
            "10.2.0.100/32|10.2.10.100/32",
        ),
        // keepalived 2.2.7 does what its manual says of this one but spoils the line.
        ("$M=@x\n$M priority 240\n$N=@y\n$N priority 241", "priority 240"),
        ("$S=~SEQ(Q,1,2)\n$S q$Q", "q1|q2"),
    ] {
        assert_eq!(lines(&format!("{head}{text}")), expect, "{text}");
    }
}

#[test]
fn definitions_of_several_lines() {
    for (text, expect) in [
        ("$V= \\\n a $N { \\\n b \\\n }\n$N=1\n$V\n$N=2\n$V", "a 1 {|b|}|a 2 {|b|}"),
        ("$V= first \\\n second\nx $V", "x first|second"),
        // A comment that goes on is left out; a blank line ends the definition.
        ("$V= \\\n a \\\n # no \\\n b \\\n\nc\n$V", "c|a|b"),
        ("$V= \\\n a # no \\\nc\n$V", "a|c"),
        ("$V= x # no \\\nc\n$V", "x|c"),
        ("$R= \\\n r$I \\\n s\n$V= \\\n $I=1 \\\n $R \\\n $I=2 \\\n $R \\\n t\n$V", "r1|s|r2|s|t"),
        ("$V= \\\n @x a \\\n @y b\n~SEQ(N,1,2) $V", "a|a"),
        ("$V= \\\n ~SEQ(N,1,2) n$N \\\n m\n$V", "n1|n2|m"),
        ("$V= \\\n", ""),
        ("$V= \\\n\nb $V", "b"),
    ] {
        let (out, said) = expanded(&memory("x", &[]), text);
        assert_eq!((out.as_str(), said), (expect, vec![]), "{text}");
    }
}

#[test]
fn includes() {
    let files = [
        ("/etc/b.conf", "b1\ninclude sub/c.conf\nb2"),
        ("/etc/sub/c.conf", "c $_PWD \ninclude d.conf"),
        ("/etc/sub/d.conf", "d $V"),
        ("/etc/conf.d/1.conf", "one"),
        ("/etc/conf.d/2.conf", "two {"),
        ("/etc/conf.d/dir", "DIRECTORY"),
        ("/etc/loop.conf", "l\ninclude loop.conf"),
        ("/etc/x.conf", "from x"),
    ];
    let around = memory("x", &files);
    for (text, expect, said) in [
        ("$V=v\ninclude b.conf\na", "b1|c /etc/sub|d v|b2|a", ""),
        ("include conf.d/*.conf\n}", "one|two {|}", ""),
        ("z {\ninclude /etc/conf.d/{2,1}.conf\n}", "z {|two {|one|}", ""),
        ("include none.conf\na", "a", "notice: included `none.conf` does not exist"),
        ("include none*\na", "a", ""),
        ("includew none*\na", "a", "error: included `none*` matches no file"),
        ("includem none.conf\na", "a", "error: included `none.conf` does not exist"),
        ("includeb conf.d/{1,9}.conf\na", "one|a", "error: included `conf.d/9.conf` does not"),
        ("includem conf.d/{1,9}.conf\na", "one|a", "notice: included `conf.d/9.conf` does not"),
        (
            "include conf.d/dir\na",
            "a",
            "notice: included `/etc/conf.d/dir` is left out: it is a dir",
        ),
        ("includer conf.d/dir\na", "a", "error: included `/etc/conf.d/dir` is left out"),
        ("include loop.conf\na", "l|a", "error: `/etc/loop.conf` includes itself"),
        ("include \"x.conf\"\na", "a", "notice: included `\"x.conf\"` does not exist"),
        ("include x.conf # comment", "from x", ""),
        ("@x include x.conf", "from x", "notice: an include that depends on"),
        ("@y include x.conf\na $_PWD", "a /etc", "notice: no `@` line is for this host"),
        ("include ${_INSTANCE}.conf", "from x", "notice: an include that depends on"),
        (
            "global_defs {\ninclude_check +match\n}\ninclude none",
            "global_defs {|include_check +match|}",
            "error: included `none`",
        ),
        // Elsewhere it is an unknown word, which the parser tells.
        ("include_check\ninclude none", "include_check", "notice: included `none`"),
        ("a {\ninclude_check\n}\ninclude none", "a {|include_check|}", "notice: included `none`"),
    ] {
        let (out, told) = expanded(&around, text);
        assert_eq!(out, expect, "{text}: {told:?}");
        assert_eq!(told.is_empty(), said.is_empty(), "{text}: {told:?}");
        assert!(told.iter().all(|it| it.contains(said)), "{text}: {told:?}");
    }
}

#[test]
fn include_check_ends_with_its_file() {
    let strict = "global_defs {\ninclude_check\nincludem none1\n}\n";
    let files = [("/etc/b.conf", strict), ("/etc/none", "")];
    let (_, told) = expanded(&memory("", &files), "include b.conf\ninclude none2");
    let kinds: Vec<_> =
        told.iter().map(|it| (it.contains("none1"), it.contains("error"))).collect();
    assert_eq!(kinds, [(true, true), (false, false)], "{told:?}");
    let strict = Memory { strict: true, ..memory("", &files) };
    let (_, told) = expanded(&strict, "include none2");
    assert!(told[0].contains("error"), "{told:?}");
}

#[test]
fn what_cannot_be_read_is_told() {
    for (text, severity, words) in [
        ("~SEQ(N) x", "error", "`,` and a number"),
        ("~SEQ(N, 1, 0, 3) x", "error", "steps of 0"),
        ("~SEQ(N, 1, 2", "error", "`)` is missing"),
        ("~LST({A,B}, {1,2,3}) x", "error", "3 values for 2 names"),
        ("$V= \\\n a \\\n b\n$V x", "error", "several lines"),
        ("a ${NOPE} b", "error", "`$NOPE` is not defined"),
        ("$A=1\na $A.b", "notice", "`$A` is not replaced before `.`"),
        ("$A=1\na \"$A\"", "notice", "`$A` is not replaced before `\"`"),
        ("a $NOPE b", "notice", "`$NOPE` is not defined"),
        ("${_RANDOM x}", "error", "numbers only"),
        ("${_RANDOM 1 2 3}", "error", "wrong number of words"),
        ("${_ENV}", "error", "wrong number of words"),
        ("a ${_ENV LBD_NOT_SET}", "notice", "is not set"),
        ("r${_HASH}x", "warning", "begins a comment"),
        ("@x", "notice", "nothing behind `@x`"),
        ("global_defs { include_check bogus }", "warning", "has no `bogus`"),
        ("@main a\n@backup b", "notice", "no `@` line is for this host, whose id is `x`"),
    ] {
        let (_, said) = expanded(&memory("x", &[]), text);
        assert_eq!(said.len(), 1, "{text}: {said:?}");
        assert!(said[0].contains(severity) && said[0].contains(words), "{text}: {said:?}");
    }
}

#[test]
fn random_numbers_are_those_of_the_seed() {
    let text = "a ${_RANDOM} ${_RANDOM 5 5} ${_RANDOM 7}";
    let (first, _) = expanded(&memory("x", &[]), text);
    assert_eq!(expanded(&memory("x", &[]), text).0, first, "a reload changes nothing");
    assert_ne!(expanded(&memory("y", &[]), text).0, first);
    assert!(first.contains(" 5 "), "{first}");
    let seeded = |seed| lines(&format!("global_defs {{\nrandom_seed {seed}\n}}\na ${{_RANDOM}}"));
    assert_ne!(seeded(1), seeded(2).replace("seed 2", "seed 1"));
    let outside = |seed| lines(&format!("random_seed {seed}\na ${{_RANDOM}}"));
    assert_eq!(
        outside(1),
        outside(2).replace("seed 2", "seed 1"),
        "keepalived knows it nowhere else"
    );
}

const INSTANCE: &str = "vrrp_instance V {\n interface eth0\n virtual_router_id 1\n \
    virtual_ipaddress {\n 192.0.2.1\n }\n";

fn read(around: &Memory, text: &str) -> Outcome {
    check_in("/etc/a.conf", text.as_bytes(), around)
}

/// The first finding above a notice: its place and those that it tells of.
fn places(around: &Memory, text: &str) -> Vec<String> {
    let outcome = read(around, text);
    let worst = outcome.diagnostics.iter().find(|d| d.severity != Severity::Notice);
    let worst = worst.unwrap_or_else(|| panic!("{text}"));
    let caret = |place: &Place| {
        let range = place.start as usize..place.end as usize;
        format!("{place} {}", &place.text[range])
    };
    let via = worst.related.iter().map(|(place, remark)| format!("{} | {remark}", caret(place)));
    std::iter::once(caret(&worst.place)).chain(via).collect()
}

#[test]
fn findings_stand_where_the_text_came_from() {
    let around = memory("x", &[("/etc/b.conf", " # first\n priority 300\n")]);
    for (text, expect) in [
        (
            format!("$P=300\n{INSTANCE} priority   $P # c\n}}\n"),
            vec!["/etc/a.conf:8:13 $P", "/etc/a.conf:1:1 $P | expanded from $P, defined here"],
        ),
        (
            format!("$P=3${{Q}}\n$Q=00\n{INSTANCE} priority ${{P}}\n}}\n"),
            vec!["/etc/a.conf:9:11 ${P}", "/etc/a.conf:1:1 $P | expanded from $P, defined here"],
        ),
        (format!("{INSTANCE} include b.conf\n}}\n"), vec!["/etc/b.conf:2:11 300"]),
        (
            format!("{INSTANCE} ~SEQ(N, 300, 300) priority $N\n}}\n"),
            vec!["/etc/a.conf:7:29 $N", "/etc/a.conf:7:7 N | expanded from $N, set by ~SEQ here"],
        ),
        (
            format!("$B= \\\n priority $P \\\n advert_int 1\n$P=300\n{INSTANCE} $B\n}}\n"),
            vec![
                "/etc/a.conf:2:11 $P",
                "/etc/a.conf:4:1 $P | expanded from $P, defined here",
                "/etc/a.conf:11:2 $B | this is a line of $B, used here",
            ],
        ),
        (format!("{INSTANCE} @x priority 300\n}}\n"), vec!["/etc/a.conf:7:14 300"]),
        // CRLF, a blank line of another file, and characters of several bytes.
        (
            format!("# 数据库\r\n{INSTANCE} @x dont_track_primary\r\n 数据库 5\r\n}}\n"),
            vec!["/etc/a.conf:9:2 数据库"],
        ),
    ] {
        assert_eq!(places(&around, &text), expect, "{text}");
    }
}

#[test]
fn findings_of_all_files_come_in_the_order_of_the_text() {
    let around = memory("x", &[("/etc/b.conf", "bogus1\nbogus2\n"), ("/etc/c.conf", "bogus4\n")]);
    let text = format!("{INSTANCE} $A=1\n include b.conf\n bogus3\n include c.conf\n bogus5\n}}\n");
    let said = read(&around, &text).render();
    let at = |word: &str| said.find(word).unwrap_or_else(|| panic!("{word}: {said}"));
    let order: Vec<_> = (1..=5).map(|n| at(&format!("`bogus{n}`"))).collect();
    assert!(order.is_sorted(), "{said}");
}

#[test]
fn passwords_in_variables_never_show() {
    for text in [
        "$X=hunter2long\n authentication { auth_type PASS\n auth_pass $X\n }",
        "$DB_PASSWORD=hunter2long\n bogus ${DB_PASSWORD}",
        "~LST(X, hunter2long, geheim) auth_pas $X",
        "$X= \\\n hunter2long\n authentication { auth_type PASS\n auth_pass $X\n }",
    ] {
        let outcome = read(&memory("x", &[]), &format!("{INSTANCE} {text}\n}}\n"));
        let shown = format!("{}{:?}", outcome.render(), outcome.diagnostics);
        assert!(!outcome.diagnostics.is_empty(), "{text}");
        for secret in ["hunter2", "geheim"] {
            assert!(!shown.contains(secret), "{text}: {shown}");
        }
    }
}

#[test]
fn each_bound_is_an_error_that_names_it() {
    let around = memory("x", &[("/etc/deep.conf", "include {deep,./deep}.conf\n")]);
    let chain: String = (0..200).map(|n| format!("$A{n}=$A{}\n", n + 1)).collect();
    let double: String =
        (0..30).map(|n| format!("$D{n}=${{D{}}}${{D{}}}\n", n + 1, n + 1)).collect();
    let nested: String = (0..80).map(|n| format!("~SEQ(N{n},2) ")).collect();
    for (text, words) in [
        ("$A=$A\n$A".to_owned(), format!("more than {REPLACEMENTS_LIMIT} variables for each")),
        (format!("{double}$D30=x\n$D0"), format!("more than {REPLACEMENTS_LIMIT} variables")),
        ("$A= \\\n x \\\n $A\n$A".to_owned(), format!("nested deeper than {NESTING_LIMIT}")),
        (nested + "x", format!("nested deeper than {NESTING_LIMIT}")),
        (
            (0..21).map(|n| format!("$A{n}={}\n", "x".repeat(VALUES_LIMIT / 20))).collect(),
            format!("have more than {VALUES_LIMIT} bytes"),
        ),
        (format!("include {}", "{a,b}".repeat(12)), "more than 256 names".to_owned()),
        (
            format!("include {}", "x".repeat(1 << 17)),
            "an `include` has more than 65536 bytes".to_owned(),
        ),
    ] {
        let outcome = read(&around, &text);
        let said = outcome.render();
        assert!(outcome.config.is_none() && said.contains(&words), "{words}: {said}");
    }
    let (out, said) = expanded(&around, &format!("{chain}$A200=end\nx $A0"));
    assert_eq!((out.as_str(), said), ("x end", vec![]), "a chain is no loop");
}

/// The limits themselves take seconds to reach without optimisation: smaller ones are passed in.
#[test]
fn work_and_its_outcome_are_bounded() {
    assert_eq!((Limits::default().work, Limits::default().text), (WORK_LIMIT, EXPANDED_LIMIT));
    let limits = Limits { work: 1 << 20, text: 100_000 };
    for (text, words) in [
        ("~SEQ(A,1,1000000000) @no x".to_owned(), "more than 1048576 bytes to look at"),
        (format!("~SEQ(A,1,1000000000) {}", "word ".repeat(200)), "make more than 100000 bytes"),
        (format!("{}$A=1", "plain line\n".repeat(20_000)), "make more than 100000 bytes"),
        // In one line, before it is written.
        (
            format!("$A={}\nx{}", "y ".repeat(5_000), " $A".repeat(11)),
            "make more than 100000 bytes",
        ),
        // Each use stands for a few more: too many of them to look at.
        (
            format!("$A={}\n$B=\nx{}", "$B ".repeat(500), " $A".repeat(100)),
            "more than 1048576 bytes to look at",
        ),
    ] {
        let mut sink = Sink::default();
        let out = expand_within("a", text.as_bytes().into(), &memory("x", &[]), &mut sink, limits);
        assert!(out.source.text().len() < 110_000);
        let said: Vec<_> = sink.finish("a").iter().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
    }
}

/// keepalived's limit is 1024 bytes; here nothing but memory bounds a line.
#[test]
fn a_line_has_no_length_of_its_own() {
    // Far beyond 64 KiB, with more variables than one of them may stand for, and many statements.
    let (text, expect): (String, String) = (0..5_000)
        .map(|n| (format!("w{n} $A {{ v ${{A}}{n} }} "), format!("w{n} end {{ v end{n} }} ")))
        .unzip();
    assert!(text.len() > 100_000);
    assert_eq!(lines(&format!("$A=end\n{text}")), expect.trim_end());
    // One statement, one variable, a megabyte before it.
    let long = "x".repeat(1 << 20);
    assert!(lines(&format!("$A=end\na {long} $A")) == format!("a {long} end"));
    // What stands behind a brace is looked at as a line of its own, wherever it is.
    let many = "a { b } ".repeat(20_000);
    let out = lines(&format!("$A=1\n{many}@^x no\n{many}c $A {{ @x d {{ ~SEQ(N,1,2) e$N"));
    assert!(out.ends_with("c 1 { d {|e1|e2"), "{}", &out[out.len() - 40..]);
    assert_eq!(out.matches("a {").count(), 40_000);
}

#[test]
fn includes_have_a_depth_and_a_number() {
    let deep: Vec<(String, String)> = (0..30)
        .map(|n| (format!("/etc/{n}.conf"), format!("include {}.conf\nx{n}\n", n + 1)))
        .collect();
    let mut around = memory("x", &[]);
    around.files.extend(deep);
    let said = read(&around, "include 0.conf").render();
    assert!(said.contains(&format!("deeper than {INCLUDE_DEPTH_LIMIT}")), "{said}");
    let mut around = memory("x", &[]);
    around.files.extend((0..FILES_LIMIT + 5).map(|n| (format!("/etc/d/{n}"), "x\n".to_owned())));
    let said = read(&around, "include d/*").render();
    assert!(said.contains(&format!("more than {FILES_LIMIT} files")), "{said}");
    let mut around = memory("x", &[]);
    let large = "# comment\n".repeat(SOURCE_LIMIT / 30);
    around.files.extend((0..4).map(|n| (format!("/etc/d/{n}"), large.clone())));
    let said = read(&around, "include d/*").render();
    assert!(said.contains(&format!("together have more than {SOURCE_LIMIT} bytes")), "{said}");
}

#[test]
fn what_is_included_by_name_is_listed() {
    let around = memory("x", &[("/etc/b.conf", "include gone.conf"), ("/etc/d/1", "")]);
    let outcome = read(&around, "include b.conf\ninclude d/*\ninclude {b,c}.conf");
    let list: Vec<_> =
        outcome.included.iter().map(|it| (it.path.as_str(), it.found, it.place.line)).collect();
    let expect = [
        ("/etc/b.conf", true, 1),
        ("/etc/gone.conf", false, 1),
        ("/etc/c.conf", false, 3),
        ("/etc/b.conf", true, 3),
        ("/etc/gone.conf", false, 1),
    ];
    assert_eq!(list, expect);
}
