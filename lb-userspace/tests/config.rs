//! What the parser's own tests cannot do, because `config/` is pure: read a clock, write a file.

#[path = "config/messages.rs"]
mod messages;

use std::time::{Duration, Instant};

use lb_userspace::config::{
    COMPARED_LIMIT, LIST_LIMIT, Surroundings, check_in,
    diag::{DIAGNOSTIC_LIMIT, Severity, TOLD_LIMIT},
    docs, keywords, load,
};

/// Far above what any of these inputs needs in a debug build on a busy machine.
const SOON: Duration = Duration::from_secs(90);

#[test]
#[ignore = "takes seconds: cargo xtask test"]
fn a_line_of_ten_megabytes_ends_quickly() {
    let start = Instant::now();
    for fill in ["a", "a ", "{ ", "x{}"] {
        let line = fill.repeat((10 << 20) / fill.len());
        let outcome = load("t", &line);
        assert!(outcome.config.is_none());
        assert!(outcome.render().len() < 600 << 10, "{fill}: findings show a part of the line");
    }
    let comment = format!("#{}\n", "x".repeat(10 << 20));
    assert!(load("t", &comment).render().contains("nothing to do"));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// With a variable every byte of a line is carried through expansion, which has no bound for the line alone.
#[test]
#[ignore = "takes seconds: cargo xtask test"]
fn a_line_of_a_megabyte_with_a_variable_ends_quickly() {
    let start = Instant::now();
    for fill in ["a", "a ", "{ ", "x{}", "$A ", "@ "] {
        let line = fill.repeat((1 << 20) / fill.len());
        let outcome = load("t", &format!("$A=1\nx {line}$A\n"));
        assert!(outcome.config.is_none() && outcome.diagnostics.len() <= TOLD_LIMIT, "{fill}");
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
#[ignore = "takes seconds: cargo xtask test"]
fn a_quarter_megabyte_of_braces_and_of_unknown_words_end_quickly() {
    let start = Instant::now();
    for fill in ["a {\n", "{\n", "}\n", "vrrp_instance x {\n", "unknown word\n", "\"\n"] {
        let text = fill.repeat((256 << 10) / fill.len());
        let outcome = load("t", &text);
        assert!(outcome.config.is_none(), "{fill}");
        assert!(outcome.diagnostics.len() <= TOLD_LIMIT);
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// A megabyte of heads of sequences in each other, and of what stands for itself.
#[test]
fn a_megabyte_of_sequences_and_of_variables_ends_quickly() {
    let start = Instant::now();
    let deep = |n: usize| format!("~SEQ(N{n}, 0, 999999999) ");
    let turns: String = (0..8).map(deep).collect();
    let texts = [
        (turns.clone() + "@nobody x\n").repeat((1 << 20) / 200),
        (turns + "word $N0\n").repeat((1 << 20) / 200),
        "$A=$A $A\n$A\n".repeat((1 << 20) / 12),
        "~LST(A, 1, 2) ~SEQ(\n".repeat((1 << 20) / 20),
        format!("x {}", "$A ${B} @c ".repeat((1 << 20) / 11)),
    ];
    for text in texts {
        let outcome = load("t", &text);
        assert!(outcome.config.is_none() && outcome.diagnostics.len() <= TOLD_LIMIT);
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// Files in memory that include themselves, and each other as often as they can.
struct Fan;

impl Surroundings for Fan {
    fn id(&self) -> &str {
        "lb1"
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn find(&self, _: &str, pattern: &str) -> Result<Vec<String>, String> {
        let wild = pattern.contains('*');
        let some = |n: usize| (0..n).map(|n| format!("/f{n}.conf")).collect();
        Ok(if wild { some(64) } else { vec![format!("/{}", pattern.trim_start_matches('/'))] })
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let number: usize = path.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        let next = number + 1;
        Ok(format!("include {{f{next},f{next},f{next}}}.conf\ninclude *\nbogus {number}\n")
            .repeat(8)
            .into())
    }
}

#[test]
fn includes_that_loop_and_fan_out_end_quickly() {
    let start = Instant::now();
    const FILES: &str = "files are included";
    let megabyte = |turn: &str| turn.repeat((1 << 20) / turn.len());
    for (text, words) in [
        (megabyte("include t\n"), "includes itself"),
        (megabyte("include {t,f1,t,f2}.conf\n"), FILES),
        ("include f1.conf\n".to_owned(), FILES),
        (megabyte("include *\n"), FILES),
        ("~SEQ(N, 0, 999999999) include {f$N,t}\n".to_owned(), FILES),
        (
            format!("include {{,,}}{}\n", "x".repeat(60_000)).repeat(160),
            "an included file has more than 4096 bytes",
        ),
        (format!("include {}", "{a,b}".repeat(9)), "braces that stand for more than 256 names"),
    ] {
        let outcome = check_in("/t", text.as_bytes(), &Fan);
        let shown: String = text.chars().take(60).collect();
        assert!(outcome.config.is_none() && outcome.diagnostics.len() <= TOLD_LIMIT, "{shown}");
        // Which of two bounds comes first is of no importance.
        let bound = |message: &str| {
            words == FILES
                && (message.contains("nested deeper than") || message.contains("other deeper than"))
        };
        let said =
            outcome.diagnostics.iter().any(|it| it.message.contains(words) || bound(&it.message));
        let count = outcome.diagnostics.len();
        assert!(
            said,
            "{shown}: {count} {:?}",
            outcome.diagnostics.iter().map(|it| &it.message).take(5).collect::<Vec<_>>()
        );
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// docs/config.md is what the keyword table says. `LBD_WRITE_DOCS=1` writes it anew.
#[test]
fn the_documentation_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
    let wanted = docs::markdown();
    if std::env::var_os("LBD_WRITE_DOCS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == wanted,
        "docs/config.md is stale: LBD_WRITE_DOCS=1 cargo test -p lb-userspace --test config"
    );
}

/// A `|` that is not escaped makes a column of its own.
#[test]
fn every_row_of_the_tables_has_as_many_columns_as_its_head() {
    let text = docs::markdown();
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    let (mut head, mut rows) = (None, 0);
    for line in text.lines() {
        if !line.starts_with('|') {
            head = None;
            continue;
        }
        let wanted = *head.get_or_insert(columns(line));
        assert_eq!(columns(line), wanted, "{line}");
        rows += 1;
    }
    assert!(rows > 400, "{rows}");
    let brd = text.lines().find(|line| line.starts_with("| `brd`")).expect("brd");
    assert!(brd.contains(r"IP \| + \| -"), "{brd}");
}

#[test]
fn every_keyword_is_documented() {
    let text = docs::markdown();
    for keyword in keywords::all() {
        let name = keyword.name.replace('|', "\\|");
        assert!(text.contains(&format!("| `{name}`")), "{name}");
    }
}

/// What the README shows as a pool is a file that nothing is wrong with.
#[test]
fn the_samples_of_the_readme_are_fine() {
    let readme = include_str!("../../README.md");
    let samples: Vec<_> = readme
        .split("```")
        .skip(1)
        .step_by(2)
        .filter(|text| text.trim_start().starts_with("virtual_server"))
        .collect();
    assert!(!samples.is_empty());
    for text in samples {
        let outcome = load("README.md", text);
        let worse = outcome.diagnostics.iter().any(|it| it.severity != Severity::Notice);
        let said = outcome.render();
        assert!(outcome.config.is_some() && !worse, "{text}\n{said}");
        // Each statement has come to its place.
        let config = outcome.config.expect("good");
        let servers = config.virtual_servers.iter().flat_map(|it| &it.real_servers);
        for server in servers {
            assert!(format!("{server:?}").contains("lbcheck.secret"), "{server:?}");
        }
    }
}

/// Files that the migration guide shows are files that nothing is wrong with.
#[test]
fn the_samples_of_the_migration_guide_are_fine() {
    let guide = include_str!("../../docs/migration.md");
    let blocks = guide.split("```").skip(1).step_by(2);
    let samples: Vec<_> = blocks.filter(|text| text.contains('{')).collect();
    assert!(!samples.is_empty());
    for text in samples {
        let instance =
            "\n interface eth0\n virtual_router_id 51\n virtual_ipaddress {\n 192.0.2.1\n }\n";
        let whole = text.replacen('…', instance, 1).replace('…', "\n");
        let outcome = load("migration.md", &whole);
        assert!(
            outcome.config.is_some() && outcome.diagnostics.is_empty(),
            "{whole}\n{}",
            outcome.render()
        );
        let config = outcome.config.expect("good");
        let tracked = &config.vrrp_instances[0].track_more.mysql;
        assert_eq!(tracked.len(), 1, "{whole}");
    }
}

/// As many people write it, and as keepalived would not understand it either.
#[test]
fn a_statement_on_the_line_of_a_user_is_told() {
    let text = "virtual_server 192.0.2.1 80 {\n protocol TCP\n lb_algo rr\n lb_kind DR\n real_server 192.0.2.2 80 {\n \
        MYSQL_CHECK { user lb password_file /x }\n }\n}\n";
    let said = load("t", text).render();
    assert!(said.contains("`password_file` is on the line of `user` and is ignored"), "{said}");
}

/// Lists and objects that are compared with each other one by one are bounded, and what is perhaps meant
/// is looked for while findings are told only: the time for a large file grows with its length.
#[test]
fn many_names_end_quickly_and_bounds_are_named() {
    let start = Instant::now();
    let lines = |n: usize, line: &dyn Fn(usize) -> String| (0..n).map(line).collect::<String>();
    let instance = |inner: &str| {
        format!(
            "vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n virtual_ipaddress {{\n 192.0.2.1\n \
             }}\n{inner}}}\n"
        )
    };
    let many = 10_000;
    let scripts = lines(many, &|n| format!("vrrp_script s{n} {{ script /bin/x\n timeout 1\n }}\n"));
    let files = lines(many, &|n| format!("track_file f{n} {{ file /run/f }}\n"));
    for (what, text, words) in [
        (
            "undefined scripts",
            scripts.clone()
                + &lines(many / 100, &|n| {
                    instance(&format!(
                        "track_script {{\n{}}}\n",
                        lines(100, &|m| format!("t{n}x{m}\n"))
                    ))
                }),
            "is not defined; it is ignored".to_owned(),
        ),
        ("files that nobody tracks", files + &instance(""), "is not used".to_owned()),
        (
            "a long list of scripts",
            instance(&format!("track_script {{\n{}}}\n", lines(many, &|n| format!("s{n}\n")))),
            format!("more than {LIST_LIMIT} tracked objects in one list"),
        ),
        (
            "a long list of interfaces",
            instance(&format!("track_interface {{\n{}}}\n", lines(many, &|n| format!("e{n}\n")))),
            format!("more than {LIST_LIMIT} tracked objects in one list"),
        ),
        (
            "peers",
            instance(&format!(
                "unicast_peer {{\n{}}}\n",
                lines(many, &|n| format!("10.{}.{}.1\n", n / 256, n % 256))
            )),
            format!("more than {LIST_LIMIT} peers of one instance"),
        ),
        (
            "instances and groups",
            lines(COMPARED_LIMIT + 2, &|n| {
                format!(
                    "vrrp_instance V{n} {{ interface e{n}\n virtual_router_id 1\n virtual_ipaddress {{ \
                     10.{}.{}.1 }}\n }}\nvrrp_sync_group G{n} {{ group {{ V{n} }}\n }}\n",
                    n / 256,
                    n % 256
                )
            }),
            format!("more than {COMPARED_LIMIT} vrrp_instances"),
        ),
        (
            "delays",
            format!("interface_up_down_delays {{\n{}}}\n", lines(many, &|n| format!("e{n} 1 1\n"))),
            format!("more than {COMPARED_LIMIT} interfaces with delays"),
        ),
        (
            "track_groups",
            lines(many, &|n| format!("track_group G{n} {{ group {{ V }}\n }}\n")),
            format!("more than {COMPARED_LIMIT} track_groups"),
        ),
        (
            "garp_groups",
            lines(many, &|n| format!("garp_group {{ interface e{n}\n }}\n")) + &instance(""),
            String::new(),
        ),
    ] {
        let outcome = load("t", &text);
        let said = words.is_empty() && outcome.config.is_some()
            || outcome.diagnostics.iter().any(|it| it.message.contains(&words));
        // Beyond a hundred findings the rest is counted, also a bound that is reached late.
        let full = outcome.diagnostics.len() > DIAGNOSTIC_LIMIT;
        assert!(said || full && outcome.config.is_none(), "{what}: {}", outcome.render());
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}
