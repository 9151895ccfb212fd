//! `cargo xtask tidy`: DESIGN §5's import rules, unsafe code only where it is allowed, no
//! unfinished code, files of a readable length, and the conformance ledger
//! ([`crate::conformance`]). Also runs under `cargo test`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    conformance,
    shell::{root, say},
    source::{Named, after_tests, blanked, paths, without_tests},
    suites,
};

/// A file longer than this is named.
const LINES_WARN: usize = 600;
/// A file longer than this fails.
const LINES_FAIL: usize = 700;

/// L1 folders, in the order in which they may see each other: each sees those before it.
/// `config::model` is the language in which every core is configured, so all may name it.
const PURE: [&str; 7] = ["vrrp", "check", "sched", "sync", "config", "desired", "reconcile"];
/// L2 folders.
const ENGINES: [&str; 3] = ["dataplane", "io", "api"];
/// What pure code never names: runtimes, kernels, sockets, clocks, chance.
const IMPURE: [&str; 51] = [
    "tokio",
    "tokio_util",
    "futures_util",
    "aya",
    "aya_log",
    "rtnetlink",
    "netlink_packet_core",
    "netlink_packet_generic",
    "netlink_packet_route",
    "netlink_packet_sock_diag",
    "netlink_sys",
    "socket2",
    "nix",
    "libc",
    "caps",
    "mysql_async",
    "axum",
    "hyper",
    "hyper_util",
    "http_body_util",
    "reqwest",
    "rand",
    "tempfile",
    "std::fs",
    "std::process",
    "std::env",
    "std::thread",
    "std::io",
    "std::os",
    "std::sync::mpsc",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::hash::RandomState",
    "std::collections::hash_map::RandomState",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "fastrand",
    "getrandom",
    "lettre",
    "rustls",
    "tokio_rustls",
    "glob",
    "sd_notify",
    "prometheus_client",
    "tracing_subscriber",
    "crossterm",
    "clap_complete",
];
/// With what a path in lb-common may begin: core, the crate itself and its modules, core's own types.
const COMMON: [&str; 17] = [
    "core", "crate", "self", "super", "csum", "hash", "maps", "size", "bool", "i32", "i64", "u8",
    "u16", "u32", "u64", "u128", "usize",
];
/// What an L2 folder names of L1 beside `config::model`: the types of what it carries out or reports, no
/// decision. Everything else of L1 meets L2 in `process/` only.
const SHARED: [(&str, &str); 6] = [
    ("io/mail", "crate::vrrp::notify"),
    ("io/track", "crate::vrrp::track"),
    ("io/track", "crate::vrrp::processes"),
    ("dataplane", "crate::reconcile"),
    ("dataplane/xdp/encode", "crate::sched"),
    ("dataplane/xdp/syncing", "crate::sync"),
];
/// Where adverts, timers and leases are made: by the monotonic clock only.
const MONOTONIC: [&str; 3] = ["process/vrrp", "io/vrrp", "io/link"];
/// What there may tell the time of day: to signed adverts and to people.
const WALL: [&str; 2] = ["process/vrrp/wall.rs", "process/vrrp/ah_clock.rs"];
/// Names of the wall clock, at the end of a path.
const WALL_CLOCKS: [&str; 7] = [
    "SystemTime",
    "UNIX_EPOCH",
    "CLOCK_REALTIME",
    "CLOCK_REALTIME_COARSE",
    "CLOCK_TAI",
    "unix",
    "unix_ms",
];
/// Unfinished code and debugging.
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// From the workspace's root.
    pub file: String,
    pub line: usize,
    pub rule: String,
}

/// Checks the workspace and prints what is wrong.
///
/// # Errors
/// When a rule is broken or a file cannot be read.
pub fn run() -> Result<()> {
    let files = sources()?;
    let mut violations = Vec::new();
    let mut tests = BTreeSet::new();
    for (path, text) in &files {
        tests.extend(suites::tests_of(path, text));
        violations.extend(check(path, text));
        let lines = text.lines().count();
        if (LINES_WARN + 1..=LINES_FAIL).contains(&lines) {
            say(&format!(
                "   tidy: {path}: {lines} lines, {LINES_WARN} are enough for one subject"
            ));
        }
    }
    violations.extend(conformance::check(&tests)?);
    violations.sort();
    for Violation { file, line, rule } in &violations {
        say(&format!("   tidy: {file}:{line}: {rule}"));
    }
    if !violations.is_empty() {
        bail!("{} rules are broken", violations.len());
    }
    say(&format!("   tidy: {} files keep the rules", files.len()));
    Ok(())
}

/// Every Rust file that belongs to the workspace: path from its root, text.
fn sources() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for top in ["lb-common", "lb-ebpf", "lb-userspace", "tests", "xtask"] {
        collect(&root().join(top), &mut found)?;
    }
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let short = path.strip_prefix(root()).unwrap_or(&path);
            Ok((short.to_string_lossy().into_owned(), text))
        })
        .collect()
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, found)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Every rule on one file. `path` is from the workspace's root.
fn check(path: &str, text: &str) -> Vec<Violation> {
    let blank = blanked(text);
    let mut found = Vec::new();
    let mut broken = |line: usize, rule: String| {
        found.push(Violation { file: path.to_owned(), line, rule });
    };
    let lines = text.lines().count();
    if lines > LINES_FAIL {
        broken(lines, format!("{lines} lines, {LINES_FAIL} at most: one subject a file"));
    }
    for (number, line) in (1..).zip(blank.lines()) {
        for word in UNFINISHED {
            if line.contains(word) {
                broken(number, format!("`{word}` is unfinished code"));
            }
        }
        if !may_be_unsafe(path) && has_unsafe(line) {
            broken(
                number,
                "unsafe code outside lb-ebpf/{access,maps}, lb-common/abi and modules named sys"
                    .to_owned(),
            );
        }
        if path.starts_with("lb-ebpf/") && has_unsafe_body(line) && !is_justified(text, number) {
            broken(number, "unsafe code without its SAFETY line".to_owned());
        }
    }
    if !is_test(path) {
        if let Some(line) = after_tests(&blank) {
            broken(line, "code after the test module, which stands last".to_owned());
        }
        for named in paths(without_tests(&blank)) {
            if let Some(rule) = import_rule(path, &named) {
                broken(named.line, rule);
            }
        }
    }
    found
}

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    matches!(name, "tests.rs" | "proptests.rs") || path.contains("/tests/")
}

fn may_be_unsafe(path: &str) -> bool {
    matches!(path, "lb-ebpf/src/access.rs" | "lb-ebpf/src/maps.rs" | "lb-common/src/abi.rs")
        || path.ends_with("/sys.rs")
        || path.contains("/sys/")
}

/// `unsafe` as a word of code: blocks, functions, impls; not attributes such as `#[unsafe(…)]`,
/// not lint names.
fn has_unsafe(line: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"]
        .iter()
        .any(|form| line.contains(form))
        || line.trim_end().ends_with("unsafe")
}

/// Of [`has_unsafe`], what promises the compiler something, instead of asking the caller to.
fn has_unsafe_body(line: &str) -> bool {
    ["unsafe {", "unsafe impl"].iter().any(|form| line.contains(form))
        || line.trim_end().ends_with("unsafe")
}

/// Whether a SAFETY comment stands at the beginning of the statement on line `number` of `text`. What clippy's
/// `undocumented_unsafe_blocks` does for the other crates; the kernel object's it does not see.
fn is_justified(text: &str, number: usize) -> bool {
    const STATEMENT: usize = 6;
    let before: Vec<&str> = text.lines().take(number).collect();
    before.iter().rev().take(STATEMENT).any(|line| line.contains("SAFETY:"))
}

/// A path of `super` and `self` as one of the crate, where it leads to a folder with rules; other paths as they
/// are. `inside`: the file, from the crate's src/.
fn absolute(inside: &str, path: &[String]) -> Vec<String> {
    let ups = path.iter().take_while(|word| ["super", "self"].contains(&word.as_str())).count();
    if ups == 0 {
        return path.to_vec();
    }
    let module = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    let mut module: Vec<String> = module.split('/').map(str::to_owned).collect();
    for _ in path.iter().filter(|word| *word == "super") {
        module.pop();
    }
    let mut out = vec!["crate".to_owned()];
    out.append(&mut module);
    out.extend(path[ups..].iter().cloned());
    let folder = out.get(1).map_or("", String::as_str);
    let ruled = PURE.contains(&folder) || ENGINES.contains(&folder) || folder == "process";
    if ruled { out } else { path.to_vec() }
}

/// Why a path may not be named in a file; `None` when it may.
fn import_rule(file: &str, named: &Named) -> Option<String> {
    let inside = file.strip_prefix("lb-userspace/src/");
    let named = &Named {
        line: named.line,
        path: inside.map_or_else(|| named.path.clone(), |inside| absolute(inside, &named.path)),
    };
    let text = named.text();
    let starts = |prefix: &str| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    if file.starts_with("lb-common/src/") {
        // The promise that map types are plain data is made where they are defined.
        let plain_data = file == "lb-common/src/abi.rs" && starts("aya::Pod");
        let head = named.path.first().map_or("", String::as_str);
        // A type, or what the file itself has named before.
        let own =
            head.starts_with(|first: char| first.is_ascii_uppercase()) || COMMON.contains(&head);
        return (!own && !plain_data).then(|| format!("lb-common imports core only, not {text}"));
    }
    let inside = file.strip_prefix("lb-userspace/src/")?;
    let folder = inside.split('/').next().unwrap_or(inside);
    let target = match named.path.as_slice() {
        [first, second, ..] if first == "crate" => Some(second.as_str()),
        _ => None,
    };
    if folder == "base" || PURE.contains(&folder) {
        let parent = text.strip_suffix("::*").unwrap_or(&text);
        let hides =
            |impure: &str| impure.strip_prefix(parent).is_some_and(|rest| rest.starts_with("::"));
        if let Some(impure) = IMPURE.into_iter().find(|impure| starts(impure) || hides(impure)) {
            return Some(format!("{folder} is pure and does not name {impure} (DESIGN §5)"));
        }
        let target = target?;
        let own_rank = PURE.iter().position(|name| *name == folder);
        let allowed = target == "base"
            || target == folder
            || starts("crate::config::model") && folder != "base"
            || matches!(
                (own_rank, PURE.iter().position(|name| *name == target)),
                (Some(own), Some(other)) if other < own
            );
        return (!allowed).then(|| {
            format!("{folder} may not import {text}: only base and folders above it (DESIGN §5)")
        });
    }
    let wall = named.path.iter().find(|word| WALL_CLOCKS.contains(&word.as_str()));
    // `std::os::unix`, and tokio's, is no clock.
    let clock = wall.filter(|word| *word != "unix" || named.path.iter().any(|it| it == "clock"));
    if let Some(clock) = clock
        && MONOTONIC.iter().any(|place| inside.starts_with(place))
        && !WALL.contains(&inside)
    {
        return Some(format!(
            "adverts, timers and leases go by the monotonic clock, not by {clock}"
        ));
    }
    if ENGINES.contains(&folder)
        && let Some(target) = target
        && (target == "process" || ENGINES.contains(&target) && target != folder)
    {
        return Some(format!("{folder} is L2 and may not import {text} (DESIGN §5)"));
    }
    if ENGINES.contains(&folder)
        && target.is_some_and(|target| PURE.contains(&target))
        && !starts("crate::config::model")
        && !SHARED.iter().any(|(place, shared)| inside.starts_with(place) && starts(shared))
    {
        return Some(format!(
            "only process/ sees L1 and L2 together: {folder} is L2 and may not import {text} (DESIGN §5)"
        ));
    }
    if (starts("aya") || starts("aya_log")) && !inside.starts_with("dataplane/xdp") {
        return Some(format!("only dataplane/xdp names aya, not {inside} ({text})"));
    }
    let netlink =
        ["rtnetlink", "netlink_packet_core", "netlink_packet_route", "netlink_packet_sock_diag"];
    let links = ["io/link", "io/neigh", "io/netdev", "dataplane/ipvs"];
    let within = |places: &[&str]| places.iter().any(|place| inside.starts_with(place));
    if netlink.into_iter().any(starts) && !within(&links) {
        return Some(format!("only io/link and io/neigh name rtnetlink, not {inside} ({text})"));
    }
    if starts("netlink_packet_generic") && !within(&["dataplane/ipvs", "io/netdev"]) {
        return Some(format!(
            "only dataplane/ipvs and io/netdev name generic netlink, not {inside} ({text})"
        ));
    }
    // A bare netlink socket, whatever is spoken on it: the process connector is another family.
    // tc's filters, on kernels without tcx, are part of how the XDP engine's program is attached.
    if starts("netlink_sys") && !within(&links) && !within(&["io/track", "dataplane/xdp/clsact"]) {
        return Some(format!(
            "only io/link, io/neigh, io/track open netlink, not {inside} ({text})"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<String> {
        check(path, text).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn the_workspace_keeps_the_rules() -> Result<()> {
        run()
    }

    /// DESIGN §12: a library is named once, with its reason.
    #[test]
    fn every_library_has_its_reason() -> Result<()> {
        let text = fs::read_to_string(root().join("Cargo.toml"))?;
        let table = text.split("[workspace.dependencies]\n").nth(1).context("no table")?;
        let table = table.split("\n[").next().unwrap_or_default();
        let lines = table.lines().filter(|line| line.contains(" = ") && !line.starts_with('#'));
        let outside: Vec<&str> = lines.filter(|line| !line.contains("path = ")).collect();
        let bare: Vec<_> = outside.iter().filter(|line| !line.contains(" # ")).collect();
        assert!(outside.len() > 40 && bare.is_empty(), "{bare:?}");
        Ok(())
    }

    #[test]
    fn planted_violations_are_found() {
        for (path, text) in [
            ("lb-userspace/src/vrrp/router.rs", "use std::{fmt, fs};"),
            ("lb-userspace/src/vrrp/router.rs", "fn f() { let t = std::time::Instant::now(); }"),
            ("lb-userspace/src/check/mysql.rs", "use tokio::net::TcpStream;"),
            // Under another name, or by a path that does not begin at the crate.
            ("lb-userspace/src/check/mysql.rs", "use std::time;"),
            ("lb-userspace/src/check/mysql.rs", "use std::net::*;"),
            ("lb-userspace/src/vrrp/mod.rs", "use super::io::link;"),
            (
                "lb-userspace/src/vrrp/router/mod.rs",
                "fn f() { super::super::process::clock::now(); }",
            ),
            ("lb-userspace/src/io/link.rs", "use super::super::api::metrics;"),
            ("lb-userspace/src/vrrp/auth.rs", "#[cfg(test)]\nmod tests {\n}\nfn f() {}"),
            ("lb-userspace/src/vrrp/mod.rs", "use crate::desired::compile;"),
            ("lb-userspace/src/sched/mod.rs", "use crate::{base::net, io::link};"),
            ("lb-userspace/src/base/net.rs", "use crate::config::model::Config;"),
            ("lb-userspace/src/io/link.rs", "use crate::dataplane::xdp;"),
            ("lb-userspace/src/io/link.rs", "use crate::process::clock;"),
            ("lb-userspace/src/io/link.rs", "use crate::vrrp::router::Router;"),
            ("lb-userspace/src/io/mail.rs", "use crate::vrrp::router::Router;"),
            ("lb-userspace/src/dataplane/mod.rs", "use crate::desired::compile;"),
            ("lb-userspace/src/api/metrics.rs", "use crate::config::load;"),
            ("lb-userspace/src/vrrp/notify.rs", "use lettre::Message;"),
            ("lb-userspace/src/config/secrets.rs", "use rustls::ClientConfig;"),
            ("lb-userspace/src/config/expand/files.rs", "use glob::glob;"),
            ("lb-userspace/src/process/vrrp.rs", "use aya::maps::Array;"),
            ("lb-userspace/src/process/vrrp.rs", "use rtnetlink::new_connection;"),
            ("lb-userspace/src/io/track/connector.rs", "use rtnetlink::new_connection;"),
            ("lb-userspace/src/io/probes/tcp.rs", "use netlink_sys::Socket;"),
            ("lb-userspace/src/io/link.rs", "use netlink_packet_generic::GenlMessage;"),
            ("lb-common/src/hash.rs", "use std::collections::BTreeMap;"),
            ("lb-common/src/hash.rs", "use serde::Serialize;"),
            ("lb-common/src/hash.rs", "fn f() { zerocopy::g(); }"),
            ("lb-common/src/hash.rs", "fn f() { unsafe { g() } }"),
            ("lb-ebpf/src/maps.rs", "fn f() { unsafe { g() } }"),
            ("lb-ebpf/src/maps.rs", "// SAFETY: of another.\n\n\n\n\n\nunsafe impl X for Y {}"),
            ("lb-userspace/src/config/load.rs", "use hyper_util::rt;"),
            ("lb-userspace/src/io/link.rs", "unsafe fn f() {}"),
            ("lb-userspace/src/io/link.rs", "fn f() { todo!() }"),
            ("lb-userspace/src/process/vrrp/mod.rs", "use std::time::SystemTime;"),
            ("lb-userspace/src/process/vrrp/timer.rs", "let a = ClockId::CLOCK_REALTIME;"),
            ("lb-userspace/src/process/vrrp/instance.rs", "fn f() { clock::unix(); }"),
            ("lb-userspace/src/process/vrrp/lease.rs", "use crate::process::clock::unix_ms;"),
            ("lb-userspace/src/io/vrrp.rs", "use std::time::{Duration, UNIX_EPOCH};"),
        ] {
            assert_eq!(rules(path, text).len(), 1, "{path}: {text}");
        }
        assert_eq!(rules("xtask/src/long.rs", &"\n".repeat(LINES_FAIL + 1)).len(), 1);
    }

    #[test]
    fn allowed_code_passes() {
        for (path, text) in [
            ("lb-userspace/src/vrrp/router.rs", "use std::{fmt, net::IpAddr, time::Duration};"),
            ("lb-userspace/src/vrrp/router.rs", "use crate::{base::time::Instant, config::model};"),
            ("lb-userspace/src/reconcile/mod.rs", "use crate::desired::compile;"),
            ("lb-userspace/src/vrrp/router.rs", "// std::fs\nlet s = \"tokio::net\";"),
            (
                "lb-userspace/src/vrrp/router.rs",
                "#[cfg(test)]\nmod tests {\n use std::fs::File;\n}",
            ),
            ("lb-userspace/src/vrrp/tests.rs", "use std::fs;"),
            ("lb-userspace/src/vrrp/mod.rs", "use self::router::Router;\nuse super::base::net;"),
            ("lb-userspace/src/vrrp/router.rs", "use super::wire;"),
            ("lb-userspace/src/vrrp/router.rs", "use std::{collections::BTreeMap, net::IpAddr};"),
            ("lb-userspace/src/dataplane/xdp/load.rs", "use aya::Ebpf;"),
            ("lb-userspace/src/io/link.rs", "use rtnetlink::Handle;"),
            ("lb-userspace/src/io/link.rs", "use crate::config::model::Route;"),
            ("lb-userspace/src/io/mail.rs", "use crate::vrrp::notify::Mail;"),
            ("lb-userspace/src/dataplane/fake.rs", "use crate::reconcile::Plan;"),
            ("lb-userspace/src/io/track/connector.rs", "use netlink_sys::Socket;"),
            ("lb-userspace/src/io/sys.rs", "fn f() { unsafe { g() } }"),
            ("lb-userspace/src/process/vrrp/wall.rs", "fn f() { clock::unix(); }"),
            ("lb-userspace/src/process/vrrp/mod.rs", "use tokio::io::unix::AsyncFd;"),
            ("lb-userspace/src/process/vrrp/mod.rs", "fn f() { clock::now(); }"),
            ("lb-userspace/src/process/api.rs", "use std::time::SystemTime;"),
            ("lb-common/src/abi.rs", "unsafe impl aya::Pod for X {}"),
            ("lb-ebpf/src/maps.rs", "// SAFETY: g asks for nothing.\nlet x =\n    unsafe { g() };"),
            ("lb-ebpf/src/access.rs", "trait X { unsafe fn f(); }"),
            ("lb-common/src/hash.rs", "use core::net::IpAddr;\nfn f() { u32::from(Be32::MAX); }"),
            ("lb-ebpf/src/main.rs", "#[unsafe(no_mangle)]\nstatic X: u8 = 0;"),
        ] {
            assert_eq!(rules(path, text), Vec::<String>::new(), "{path}: {text}");
        }
    }
}
