//! docs/migration.md, walked: what it tells an operator to run is run here on example files, as far as that needs
//! neither root nor a running lbd. The rest is asked of the programs' command lines and of what is shipped, and the
//! order of the steps is followed on a model of the hosts. Everything comes out of the document itself, so that
//! neither it nor lbd can change alone.

#[path = "migration/document.rs"]
mod document;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use document::{Document, Step, TEXT};
use lb_userspace::config::keywords;

const LBD: &str = env!("CARGO_BIN_EXE_lbd");
const LBCTL: &str = env!("CARGO_BIN_EXE_lbctl");
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The file that the document names.
const KEEPALIVED_CONF: &str = "/etc/keepalived/keepalived.conf";

/// An instance of section 2, less what it tracks.
const INSTANCE: &str = "vrrp_instance VI_1 {\n state BACKUP\n interface lo\n virtual_router_id 51\n priority 101\n \
    advert_int 1\n authentication {\n auth_type PASS\n auth_pass 1111\n }\n virtual_ipaddress {\n \
    192.0.2.10/24\n }\n}\n";

/// keepalived with dual-master MySQL, no LVS (section 2).
fn pair() -> String {
    let tracked = INSTANCE.replace(" virtual_ip", " track_script {\n chk_mysql\n }\n virtual_ip");
    format!(
        "global_defs {{\n router_id db2\n script_user root\n enable_script_security\n}}\n\
         vrrp_script chk_mysql {{\n script \"/usr/bin/true\"\n interval 2\n timeout 2\n weight -5\n}}\n{tracked}"
    )
}

/// A virtual server with one more line in it, and one in its real server.
fn server(line: &str, inner: &str) -> String {
    format!(
        "virtual_server 192.0.2.10 3306 {{\n delay_loop 6\n lb_algo rr\n lb_kind DR\n protocol TCP\n{line}\n \
         real_server 192.0.2.21 3306 {{\n weight 1\n {inner}\n }}\n}}\n"
    )
}

/// keepalived + LVS (section 1).
fn pool() -> String {
    INSTANCE.to_owned() + &server("", "TCP_CHECK {\n connect_timeout 3\n }")
}

/// A directory for example files.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("tempdir"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        path
    }
}

fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().expect("it is built")
}

/// Exit code, and all that was said.
fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it).into_owned());
    (output.status.code().expect("not killed"), text.concat())
}

fn tested(file: &Path) -> (i32, String) {
    said(&run(LBD, &["-t", "-f", file.to_str().expect("utf-8")]))
}

/// Runs `lbctl` or `lbd` of the document on an example file; what needs a running lbd finds none.
fn operator(words: &[String], file: &Path, absent: &Path) {
    let shown = words.join(" ");
    let replaced: Vec<String> = words
        .iter()
        .map(|word| word.replace(KEEPALIVED_CONF, &file.display().to_string()))
        .collect();
    let mut args: Vec<&str> = replaced.iter().skip(1).map(String::as_str).collect();
    let (file, absent) = (file.to_str().expect("utf-8"), absent.to_str().expect("utf-8"));
    if words[0] == "lbd" {
        // Nothing is started: its other options are read beside `-t`.
        match (args[0], args.contains(&"-t"), args.contains(&"-f")) {
            ("check-host", ..) => args.push("--help"),
            (_, true, true) => {}
            (_, true, false) => args.extend(["-f", file]),
            _ => args.extend(["-t", "-f", file]),
        }
        let (code, text) = said(&run(LBD, &args));
        assert_eq!(code, 0, "`{shown}`: {text}");
        return;
    }
    match args[..] {
        ["migrate", ..] => {
            let (code, text) = said(&run(LBCTL, &args));
            assert!(code <= 1 && text.contains("works the same"), "`{shown}`: {code} {text}");
        }
        ["explain", word] if keywords::anywhere(word).next().is_some() => {
            let (code, text) = said(&run(LBCTL, &args));
            assert!(code == 0 && text.contains(word), "`{shown}`: {text}");
        }
        // An instance's name, which only a running lbd knows.
        ["explain", name] => {
            let (code, text) = said(&run(LBCTL, &["explain", name, "--socket", absent]));
            assert!(
                code == 1 && text.contains("is no word of the configuration"),
                "`{shown}`: {text}"
            );
        }
        _ => {
            let (code, text) = said(&run(LBCTL, &[&args[..], &["--socket", absent]].concat()));
            // A word that lbctl does not know is a usage error, 2.
            assert_eq!(code, 3, "`{shown}`: {text}");
            assert!(text.contains("lbd is not running"), "`{shown}`: {text}");
        }
    }
}

#[test]
fn every_command_of_ours_runs_as_it_is_written() {
    let scratch = Scratch::new();
    let absent = scratch.path("no.sock");
    let files = [scratch.file("pool.conf", &pool()), scratch.file("pair.conf", &pair())];
    let document = Document::read();
    let ours = |words: &[String]| matches!(words[0].as_str(), "lbd" | "lbctl");
    let steps: Vec<&Step> = document.steps.iter().filter(|step| ours(&step.words)).collect();
    // As many as the document has today, less some: none would be found if it were read wrongly.
    assert!(steps.len() >= 8, "{steps:?}");
    for file in &files {
        for step in &steps {
            operator(&step.words, file, &absent);
        }
    }
    let mut inline = 0;
    for code in &document.code {
        let words: Vec<String> = code.split(' ').map(str::to_owned).collect();
        // A message of lbctl, and what stands for a word of the reader's.
        if words.len() < 2 || !ours(&words) || code.contains("not running") {
            continue;
        }
        inline += 1;
        operator(&words, &files[1], &absent);
    }
    assert!(inline >= 8, "{inline}");
    assert!(TEXT.contains("`lbctl: lbd is not running`,\nexit code 3"), "as it was above");
}

#[test]
fn migrate_answers_with_the_codes_that_are_listed() {
    let codes = "Exit code: 0 every word works, 1 some are ignored, 2 some are refused (or the file cannot be read)";
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat(TEXT).contains(&flat(codes)), "the codes of `lbctl migrate`");
    let scratch = Scratch::new();
    let ignored = pair() + &server("", "PING_CHECK {\n }");
    let refused = pair() + &server("", "").replace("DR", "TUN type gre");
    for (file, wanted, words) in [
        (scratch.file("0.conf", &pair()), 0, "works the same"),
        (scratch.file("1.conf", &ignored), 1, "ignored"),
        (scratch.file("2.conf", &refused), 2, "refused"),
        (scratch.path("absent.conf"), 2, "does not exist"),
    ] {
        let (code, text) = said(&run(LBCTL, &["migrate", file.to_str().expect("utf-8")]));
        assert_eq!(code, wanted, "{text}");
        assert!(text.contains(words), "{words}: {text}");
    }
}

/// Examples of the rows of the table "Different on purpose", by how the row begins.
fn different() -> Vec<(&'static str, Vec<String>)> {
    let second = |vrid: &str| INSTANCE.replace("VI_1", "VI_2").replace("51", vrid);
    let moved = |text: String| text.replace("192.0.2.10", "192.0.2.11");
    let unicast = "unicast_src_ip 192.0.2.1\n unicast_peer {\n 192.0.2.2\n }\n priority";
    let bfd = "bfd_instance B {\n neighbor_ip 192.0.2.9\n}\n";
    let url = |line: &str| server("", &format!("HTTP_GET {{\n url {{\n path /\n {line}\n }}\n }}"));
    let one =
        |n: usize| server("", "").replace(".2.10", &format!(".{}.{}", 4 + n / 200, 1 + n % 200));
    let many = (0..256).map(one).collect();
    let real = |n: usize| format!(" real_server 198.51.100.{n} 3306 {{\n weight 1\n }}\n");
    let crowd = server(&(1..=64).map(real).collect::<String>(), "");
    let word = |text: &str| {
        INSTANCE.replace(" virtual_ipaddress", &format!(" {text}\n virtual_ipaddress"))
    };
    let route = |words: &str| {
        let route = format!("198.51.100.0/24 via 192.0.2.9 dev eth0 {words}");
        word(&format!("virtual_routes {{\n {route}\n }}"))
    };
    let nat = |n: u32| {
        let address = format!("virtual_server 192.0.2.{n} 3306");
        server("", "").replace("DR", "NAT").replace("virtual_server 192.0.2.10 3306", &address)
    };
    let crowded = |n: usize| {
        let vips: String = (0..255).map(|vip| format!(" 10.9.{n}.{vip}/32\n")).collect();
        let text = INSTANCE.replace("VI_1", &format!("VI_{n}"));
        let text = text.replace("router_id 51", &format!("router_id {}", n + 1));
        text.replace(" 192.0.2.10/24\n", &vips)
    };
    const SCRIPT: &str = "vrrp_script s {\n script /usr/bin/true\n}\n";
    const FILE: &str = "track_file f {\n file /tmp/lbd-absent\n}\n";
    let algorithms = ["dh", "fo", "ovf", "lblc", "lblcr", "twos"];
    vec![
        ("is empty", vec![String::new(), "\n \n".into()]),
        (
            "`lb_kind TUN type gue` or `gre`",
            ["gue port 6080", "gre"]
                .map(|kind| server("", "").replace("DR", &format!("TUN type {kind}")))
                .to_vec(),
        ),
        ("`protocol UDP`", ["UDP", "SCTP"].map(|it| server("", "").replace("TCP", it)).into()),
        (
            "`virtual_server fwmark N`",
            ["fwmark 3", "group G"].map(|it| server("", "").replace("192.0.2.10 3306", it)).into(),
        ),
        ("`virtual_server IP` without", vec![server("", "").replace("10 3306", "10")]),
        ("`lb_algo dh`", algorithms.map(|it| server("", "").replace("rr", it)).into()),
        ("a real server that is its", vec![server("", "").replace("192.0.2.21", "192.0.2.10")]),
        (
            "one VIP in two instances",
            vec![
                INSTANCE.to_owned() + &second("52"),
                INSTANCE.replace("192.0.2.10/24", "192.0.2.10/24\n 192.0.2.10/24"),
            ],
        ),
        (
            "one VRID for two instances",
            vec![INSTANCE.to_owned() + &moved(second("51").replace("priority", unicast))],
        ),
        (
            "`track_bfd` in an instance",
            vec![
                bfd.to_owned()
                    + &INSTANCE.replace(" virtual_ip", " track_bfd {\n B\n }\n virtual_ip"),
            ],
        ),
        ("`regex`, `status_code`", vec![url("regex"), url("status_code")]),
        ("more than 255 virtual servers", vec![many, crowd]),
        (
            "`encap`, `as`",
            [
                "encap ip id 3 dst 192.0.2.8",
                "as to 192.0.2.8",
                "ttl-propagate enabled",
                "vrf red",
                "realms 3",
            ]
            .map(route)
            .into_iter()
            .chain([route("").replace("dev eth0", "or 192.0.2.8")])
            .collect(),
        ),
        ("a routing table by a name", vec![route("table mysql")]),
        (
            "`lvs_method` of a real_server",
            vec![server("", "").replace("weight 1\n", "weight 1\n lvs_method NAT\n")],
        ),
        ("`group` of `use_vmac`", vec![word("use_vmac vrrp.a group 3")]),
        ("a real server of `lb_kind NAT`", vec![(30..39).map(nat).collect()]),
        ("more than 8192 VIPs", vec![(0..33).map(crowded).collect()]),
        (
            "`virtual_server` without `protocol`",
            vec![
                server("", "MISC_CHECK {\n misc_path /usr/bin/true\n }")
                    .replace(" protocol TCP\n", "")
                    .replace("3306", "3307"),
            ],
        ),
        (
            "a `virtual_server`, `vrrp_script`",
            [server("", ""), SCRIPT.to_owned(), FILE.to_owned()]
                .map(|text| format!("{text}{text}{INSTANCE}"))
                .to_vec(),
        ),
        ("has `global_defs` only", vec!["global_defs {\n router_id x\n}\n".into()]),
    ]
}

#[test]
fn every_row_of_the_table_of_codes_is_what_lbd_answers() {
    let document = Document::read();
    let table = document.tables.iter().find(|table| table[0][1] == "`lbd -t`").expect("the table");
    let scratch = Scratch::new();
    let examples = different();
    for row in &table[1..] {
        let [begins, code, theirs, why] = &row[..] else { panic!("four cells: {row:?}") };
        assert!(!theirs.is_empty() && !why.is_empty(), "{row:?}");
        let files: Vec<PathBuf> = match begins.as_str() {
            "is not there" => vec![scratch.path("absent.conf")],
            "is executable" => {
                for (text, wanted) in [(pair(), 0), (pair() + "bogus\n", 5)] {
                    let file = scratch.file("executable.conf", &text);
                    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("chmod");
                    let (code, said) = tested(&file);
                    assert_eq!(code, wanted, "{said}");
                }
                assert_eq!(code, "as its content");
                continue;
            }
            _ => {
                let (_, texts) = examples
                    .iter()
                    .find(|(name, _)| begins.starts_with(name))
                    .unwrap_or_else(|| panic!("no example of the row `{begins}`"));
                let named = texts.iter().zip(0..);
                named.map(|(text, n)| scratch.file(&format!("{n}.conf"), text)).collect()
            }
        };
        for file in files {
            let (answered, said) = tested(&file);
            assert_eq!(answered.to_string(), *code, "{begins}: {said}");
        }
    }
    for (name, _) in &examples {
        assert!(table.iter().any(|row| row[0].starts_with(name)), "`{name}` is no row any more");
    }
}

/// What runs on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Daemons {
    keepalived: bool,
    lbd: bool,
}

impl Daemons {
    fn systemctl(&mut self, words: &[String]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (running, unit) = match words[1..] {
            ["stop", unit] | ["disable", "--now", unit] => (false, unit),
            ["start", unit] | ["enable", "--now", unit] => (true, unit),
            // What it does at the next boot.
            ["disable" | "enable", _] => return,
            _ => panic!("{words:?}"),
        };
        match unit {
            "keepalived" => self.keepalived = running,
            "lbd" => self.lbd = running,
            _ => panic!("{words:?}"),
        }
    }
}

/// Both ways as the document orders them: never two daemons on a host, never none on both, lbctl only where lbd
/// runs, and at the end lbd on both.
#[test]
fn the_steps_lead_from_keepalived_to_lbd_on_both_hosts() {
    let document = Document::read();
    for (section, hosts) in [(1, ["lb1", "lb2"]), (2, ["db1", "db2"])] {
        let mut daemons: BTreeMap<&str, Daemons> =
            hosts.map(|host| (host, Daemons { keepalived: true, lbd: false })).into();
        let steps: Vec<&Step> =
            document.steps.iter().filter(|it| it.section == section && !it.way_back).collect();
        let first = steps.first().expect("steps");
        assert_eq!(first.words[..2], ["lbctl", "migrate"], "the file is looked at first");
        let mut changes = 0;
        for step in &steps {
            let Some(host) = daemons.get_mut(step.host.as_str()) else {
                let told = ["systemctl", "install"].contains(&step.words[0].as_str());
                assert!(!told, "{step:?} is for which host?");
                continue;
            };
            match (step.words[0].as_str(), step.words.get(1).map(String::as_str)) {
                ("systemctl", _) => {
                    host.systemctl(&step.words);
                    changes += 1;
                }
                ("lbctl", Some(word)) if word != "migrate" => {
                    assert!(host.lbd, "{step:?}: lbd does not run there yet");
                }
                _ => {}
            }
            assert!(!(host.keepalived && host.lbd), "{step:?}: two daemons");
            let anybody = daemons.values().any(|it| it.keepalived || it.lbd);
            assert!(anybody, "{step:?}: nobody has the VIP");
        }
        assert!(changes >= 6, "{steps:?}");
        let done = Daemons { keepalived: false, lbd: true };
        assert!(daemons.values().all(|it| *it == done), "{section}: {daemons:?}");
        // And back, on one host after the other.
        let mut host = done;
        let back: Vec<&Step> = document
            .steps
            .iter()
            .filter(|it| it.section == section && it.way_back && it.host.is_empty())
            .filter(|it| it.words[0] == "systemctl")
            .collect();
        for step in &back {
            host.systemctl(&step.words);
            assert!(!(host.keepalived && host.lbd), "{step:?}: two daemons");
        }
        assert_eq!(host, Daemons { keepalived: true, lbd: false }, "{section}: {back:?}");
    }
}

/// Units, options, files and links that it names are shipped.
#[test]
fn what_it_names_is_there() {
    let repository = Path::new(REPOSITORY);
    let unit = fs::read_to_string(repository.join("packaging/lbd.service")).expect("the unit");
    for line in ["Conflicts=keepalived.service", "EnvironmentFile=-/etc/default/lbd"] {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
    assert!(unit.contains("lbd --dont-fork --log-detail $LBD_OPTIONS"), "{unit}");
    let document = Document::read();
    let scratch = Scratch::new();
    let file = scratch.file("pair.conf", &pair());
    let (mut options, mut words, mut paths) = (0, 0, 0);
    for code in &document.code {
        if let Some(given) = code.strip_prefix("LBD_OPTIONS=") {
            let given: Vec<&str> = given.trim_matches('"').split(' ').collect();
            let args = [&given[..], &["-t", "-f", file.to_str().expect("utf-8")]].concat();
            let (code, text) = said(&run(LBD, &args));
            assert_eq!(code, 0, "{given:?}: {text}");
            options += 1;
        }
        // `KEYWORD VALUE` of global_defs.
        if code.starts_with("process_name ") {
            let text = pair().replace("router_id db2", code);
            let (code, said) = tested(&scratch.file("named.conf", &text));
            assert_eq!(code, 0, "{said}");
            words += 1;
        }
        for word in code.split(' ') {
            let shipped = ["packaging/", "tests/", "docs/"].iter().any(|it| word.starts_with(it));
            if shipped {
                assert!(repository.join(word).exists(), "{word}");
                paths += 1;
            }
        }
    }
    assert!(options > 0 && words > 0 && paths > 0, "{options} {words} {paths}");
    let links: Vec<&str> =
        TEXT.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)).collect();
    assert!(!links.is_empty());
    for link in links {
        let name = link.split('#').next().unwrap_or("");
        assert!(repository.join("docs").join(name).exists(), "{link}");
    }
    let script = repository.join("packaging/init.d-keepalived");
    assert!(Command::new("sh").arg("-n").arg(&script).status().expect("sh").success());
}

/// The last step, `track_mysql` in place of the script: the blocks of the document in an instance.
#[test]
fn the_block_that_replaces_the_script_runs() {
    let document = Document::read();
    let [sql, block] = &document.blocks[..] else { panic!("{:?}", document.blocks) };
    let scratch = Scratch::new();
    let secret = scratch.file("lbcheck.secret", "geheim\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("chmod");
    let path = "/etc/lbd/lbcheck.secret";
    assert!(block.contains(path), "{block}");
    let words = INSTANCE.split_once("{\n").and_then(|(_, rest)| rest.strip_suffix("}\n"));
    let text = block
        .replace(path, secret.to_str().expect("utf-8"))
        .replacen('…', &format!("\n{}", words.expect("an instance")), 1)
        .replacen('…', "\n", 1);
    assert!(!text.contains('…'), "{text}");
    // The user that the statements make is the one that the block logs in as.
    let user = block.lines().find_map(|line| line.trim().strip_prefix("user ")).expect("a user");
    assert!(sql.contains(&format!("CREATE USER {user}@'127.0.0.1'")), "{sql}");
    for weight in ["weight 0 ", "weight -5 "] {
        assert!(
            TEXT.contains(&format!("`{}`", weight.trim())) || block.contains(weight),
            "{weight}"
        );
        let text = text.replace("weight 0 ", weight);
        let (code, said) = tested(&scratch.file("mysql.conf", &text));
        assert_eq!(code, 0, "{text}{said}");
    }
}
