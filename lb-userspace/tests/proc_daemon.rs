//! The real `lbd` and `lbctl` as processes: what needs no root and no network.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const LBD: &str = env!("CARGO_BIN_EXE_lbd");
const LBCTL: &str = env!("CARGO_BIN_EXE_lbctl");

fn lbd(args: &[&str]) -> Output {
    Command::new(LBD).args(args).output().expect("lbd is built")
}

fn lbctl(args: &[&str]) -> Output {
    Command::new(LBCTL).args(args).output().expect("lbctl is built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed")
}

/// A scratch directory with files.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("tempdir"))
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// Address space for a file of ten megabytes at most.
const MEMORY_LIMIT_KIB: u32 = 1 << 20;

/// A configuration that runs.
const GOOD: &[u8] = b"vrrp_instance A {\n  state BACKUP\n  interface lo\n  virtual_router_id 5\n  \
    priority 100\n  advert_int 1\n  virtual_ipaddress {\n    192.0.2.10/24\n  }\n}\n";

/// Starting with what cannot be a configuration: keepalived's exit codes, the file's name, why.
#[test]
fn start_is_refused_with_a_reason_and_keepaliveds_code() {
    let scratch = Scratch::new();
    let twice = "vrrp_instance A {\n interface lo\n virtual_router_id 5\n}\n\
                 vrrp_instance B {\n interface lo\n virtual_router_id 5\n}\n";
    let cases = [
        (scratch.path().join("absent.conf"), 6, "does not exist"),
        (scratch.path().to_owned(), 6, "directory"),
        (scratch.file("empty.conf", b""), 2, "empty"),
        (scratch.file("binary.conf", b"\x7fELF\0\0\x01"), 2, "NUL"),
        (scratch.file("twice.conf", twice.as_bytes()), 2, "virtual_router_id"),
    ];
    let run_dir = scratch.path().join("run");
    for (path, expected, phrase) in cases {
        let output = lbd(&["-n", "-f", text(&path), "--run-dir", text(&run_dir)]);
        let said = stderr(&output);
        assert_eq!(code(&output), expected, "{}: {said}", path.display());
        assert!(said.contains(phrase), "{}: {said}", path.display());
        assert!(said.contains(text(&path)), "the file is named: {said}");
    }
    assert!(!run_dir.exists(), "a refused start leaves nothing behind");
}

#[test]
fn unreadable_file_is_told() {
    if nix::unistd::geteuid().is_root() {
        // Root reads everything: ask as nobody, through setpriv.
        let scratch = Scratch::new();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let path = scratch.file("secret.conf", GOOD);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        // The build directory may be closed to nobody: run a copy. Another process makes it, since a child that a
        // test beside this one starts meanwhile would hold it open for writing: "text file busy".
        let copy = scratch.path().join("lbd");
        let mut install = Command::new("install");
        install.args(["--mode", "0755", LBD]).arg(&copy);
        assert!(install.status().expect("install(1)").success());
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(["-n", "-f", text(&path)])
            .output()
            .expect("setpriv(1)");
        assert_eq!(code(&output), 6, "{}", stderr(&output));
        assert!(stderr(&output).contains("permission denied"), "{}", stderr(&output));
        // And without privileges a good file is refused with what is missing.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(["-n", "-f", text(&path)])
            .output()
            .expect("setpriv(1)");
        assert_eq!(code(&output), 4, "{}", stderr(&output));
        assert!(stderr(&output).contains("CAP_NET_ADMIN"), "{}", stderr(&output));
    } else {
        let scratch = Scratch::new();
        let path = scratch.file("secret.conf", GOOD);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("chmod");
        let output = lbd(&["-n", "-f", text(&path)]);
        assert_eq!(code(&output), 6, "{}", stderr(&output));
    }
}

#[test]
fn config_test_writes_to_stderr_or_to_its_file() {
    let scratch = Scratch::new();
    let good = scratch.file("good.conf", GOOD);
    let output = lbd(&["-t", "-f", text(&good)]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let bad = scratch.file("bad.conf", b"\0");
    let output = lbd(&["-t", "-f", text(&bad)]);
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(stderr(&output).contains("NUL"), "{}", stderr(&output));
    let log = scratch.path().join("findings");
    let output = lbd(&[&format!("-t{}", text(&log)), "-f", text(&bad)]);
    assert_eq!(code(&output), 4);
    assert!(stderr(&output).is_empty(), "{}", stderr(&output));
    assert!(fs::read_to_string(&log).expect("written").contains("NUL"));
}

/// `-i`: lines with the `@` of another host are not read, and one file is tested for each of its hosts.
#[test]
fn config_test_reads_the_lines_of_the_host_that_is_named() {
    let scratch = Scratch::new();
    let lines = "@a priority 100\n  @b priority 300\n  @^a prioritty 5";
    let text = String::from_utf8_lossy(GOOD).replace("priority 100", lines);
    let path = scratch.file("hosts.conf", text.as_bytes());
    for (id, expected, phrases) in [
        ("a", 0, &[][..]),
        ("b", 5, &["hosts.conf:6:15", "hosts.conf:7:7"]),
        ("c", 5, &["no `@` line is for this host, whose id is `c`", "hosts.conf:7:7"]),
    ] {
        let output = lbd(&["-t", "-i", id, "-f", self::text(&path)]);
        let said = stderr(&output);
        assert_eq!(code(&output), expected, "{id}: {said}");
        assert_eq!(said.is_empty(), phrases.is_empty(), "{id}: {said}");
        assert!(phrases.iter().all(|phrase| said.contains(phrase)), "{id}: {said}");
        assert!(id == "b" || !said.contains("300"), "{id}: {said}");
    }
}

/// `--format json`: the shape is that of `config::report`; here that `-t` writes it to standard output and
/// nothing else anywhere, or to its file, with the same code as the text has.
#[test]
fn config_test_as_json_goes_to_stdout_or_to_its_file() {
    let scratch = Scratch::new();
    let warned = String::from_utf8_lossy(GOOD).replace("priority", "prioritty 7\n  priority");
    let cases = [
        ("good.conf", GOOD.to_vec(), 0, None),
        ("warned.conf", warned.into_bytes(), 5, Some((5, "prioritty"))),
        ("bad.conf", b"\0".to_vec(), 4, Some((0, "NUL"))),
    ];
    let log = scratch.path().join("findings.json");
    for (name, bytes, expected, finding) in cases {
        let path = scratch.file(name, &bytes);
        let output = lbd(&["-t", "--format", "json", "-f", text(&path)]);
        assert_eq!(code(&output), expected, "{name}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{name}");
        let json: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("one JSON document");
        assert_eq!(json["file"], text(&path), "{json}");
        assert_eq!(json["exit_code"], expected, "{json}");
        let findings = json["findings"].as_array().expect("a list");
        let found = findings.iter().find_map(|it| {
            let message = it["message"].as_str()?;
            let (line, phrase) = finding?;
            (it["line"] == line && message.contains(phrase)).then_some(message)
        });
        assert_eq!(found.is_some(), finding.is_some(), "{json}");
        assert!(finding.is_some() || findings.is_empty(), "{json}");

        let to_file = lbd(&[&format!("-t{}", text(&log)), "--format", "json", "-f", text(&path)]);
        assert_eq!(code(&to_file), expected, "{name}");
        assert!(to_file.stdout.is_empty() && to_file.stderr.is_empty(), "{to_file:?}");
        assert_eq!(fs::read(&log).expect("written"), output.stdout, "{name}");
    }
}

/// What a hostile file may cost: a megabyte of heads of sequences in each other, lines of ten megabytes, and
/// files that include themselves or each other many times are read within a bound on the address space (the kernel refuses more, and lbd would abort).
#[test]
#[ignore = "takes seconds: cargo xtask test"]
fn hostile_files_are_read_in_bounded_memory() {
    let heads: String = (0..8).map(|n| format!("~SEQ(N{n}, 0, 999999999) ")).collect();
    let megabyte = |turn: &str| turn.repeat((1 << 20) / turn.len());
    let line = |fill: &str| fill.repeat((10 << 20) / fill.len());
    let texts = [
        ("sequences of a condition", megabyte(&format!("{heads}@nobody x\n"))),
        ("sequences of words", megabyte(&format!("{heads}word $N0\n"))),
        ("variables in themselves", megabyte("$A=$A $A\n$A\n")),
        ("a word of 10 MB", line("a")),
        ("a line of words", line("a ")),
        ("a line of blocks", line("x{}")),
        ("a line of braces", line("{ ")),
        ("a comment", format!("#{}\n", line("x"))),
        ("a megabyte of a loop", megabyte("include t.conf\n")),
        ("a loop by braces", megabyte("include {t,./t,loop,./loop}.conf\n")),
        ("a fan-out", "include {fan1,fan1,fan1,fan1}.conf\n".repeat(64)),
        ("files that are not there", megabyte("include x{a,b,c,d}{a,b,c,d}{a,b,c,d}\n")),
        ("long braces", format!("include {}\n", "{a,b}".repeat(13_000)).repeat(160)),
        (
            "many long names",
            format!("include {{{}}}{}\n", ",".repeat(200), "x".repeat(60_000)).repeat(160),
        ),
    ];
    let scratch = Scratch::new();
    scratch.file("loop.conf", megabyte("include t.conf\n").as_bytes());
    for depth in 1..20 {
        let next = format!("fan{}", depth + 1);
        let text = format!("include {{{next},{next},{next},{next}}}.conf\nbogus {depth}\n");
        scratch.file(&format!("fan{depth}.conf"), text.repeat(16).as_bytes());
    }
    for (what, content) in texts {
        let path = scratch.file("t.conf", content.as_bytes());
        // In KiB; the program itself and its threads' stacks are in it.
        let output = Command::new("sh")
            .args(["-c", &format!("ulimit -v {MEMORY_LIMIT_KIB}; exec \"$@\""), "sh", LBD])
            .args(["-t", "-f", text(&path)])
            .output()
            .expect("sh(1)");
        let said = stderr(&output);
        let end = said.floor_char_boundary(2000);
        assert!(
            matches!(output.status.code(), Some(4 | 5)),
            "{what}: {:?} {}",
            output.status,
            &said[..end]
        );
    }
}

#[test]
fn version_and_unknown_options() {
    let output = lbd(&["-v"]);
    assert_eq!(code(&output), 0);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("lbd "));
    assert_ne!(code(&lbd(&["--no-such-option"])), 0);
}

#[test]
fn roles_are_not_started_by_hand() {
    let scratch = Scratch::new();
    let output = lbd(&["role", "api", "--run-dir", text(scratch.path()), "--log-console"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("started by lbd itself"), "{}", stderr(&output));
}

#[test]
fn lbctl_says_which_socket_nobody_answers() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("lbd.sock");
    let output = lbctl(&["status", "--socket", text(&socket)]);
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains(text(&socket)), "{}", stderr(&output));
    let output = lbctl(&["--json", "status", "--socket", text(&socket)]);
    assert_eq!(code(&output), 3);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(value["error"].as_str().is_some_and(|why| why.contains(text(&socket))), "{value}");
}

/// For scripts: the exit code; for people: the place and the reason; for tools: JSON.
#[test]
fn migrate_reports_on_a_file_without_a_running_lbd() {
    let scratch = Scratch::new();
    let good = scratch.file("good.conf", GOOD);
    let output = lbctl(&["migrate", text(&good)]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("lbd runs this file as it is"));
    let snmp = [b"global_defs {\n  enable_snmp_vrrp\n}\n", GOOD].concat();
    let snmp = scratch.file("snmp.conf", &snmp);
    let output = lbctl(&["migrate", text(&snmp)]);
    assert_eq!(code(&output), 1, "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("snmp.conf:2:3  enable_snmp_vrrp in global_defs: there is no SNMP"),
        "{said}"
    );
    let bad = scratch.file("bad.conf", &GOOD.iter().copied().take(60).collect::<Vec<_>>());
    for path in [bad, scratch.path().join("absent.conf")] {
        let output = lbctl(&["migrate", text(&path), "--json"]);
        assert_eq!(code(&output), 2, "{output:?}");
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let entries = value["entries"].as_array().expect("entries");
        let refused = entries.iter().find(|entry| entry["verdict"] == "refused").expect("refused");
        assert!(
            refused["place"].as_str().is_some_and(|place| place.contains(text(&path))),
            "{value}"
        );
    }
}

/// A bare name has the directory of the file as `_PWD`, as it does for lbd.
#[test]
fn migrate_knows_the_directory_of_a_bare_name() {
    let scratch = Scratch::new();
    let tracked: &[u8] = b"track_file f {\n file ${_PWD}/state\n}\n";
    scratch.file("a.conf", &[tracked, GOOD].concat());
    let mut command = Command::new(LBCTL);
    let output = command.args(["migrate", "a.conf"]).current_dir(scratch.path()).output();
    let output = output.expect("lbctl is built");
    assert!(code(&output) < 2, "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn words_of_the_configuration_are_explained_without_a_running_lbd() {
    let output = lbctl(&["explain", "nopreempt"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("vrrp_instance"));
    let output = lbctl(&["explain", "nopreemt"]);
    assert_eq!(code(&output), 1);
    let nearest = "`nopreemt` is no word of the configuration; the nearest is `nopreempt`";
    assert!(stderr(&output).contains(nearest), "{}", stderr(&output));
    let output = lbctl(&["explain", "zzzzzzzz"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("`zzzzzzzz` is no word of the configuration\n"), "{output:?}");
}
