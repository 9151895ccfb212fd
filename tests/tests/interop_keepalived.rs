//! Gratuitous ARP of lbd, and exit codes of its `-t`, beside real keepalived's.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{self, Host, Program},
    interop::{
        FIRST_ELECTION, HIGH,
        form::{Cast, Family, Form, Member, Protocol},
    },
    lab::VIP,
    mariadb,
    netns::{Namespace, Switch, ready_or_skip},
    vrrp::{Sniffer, is_garp},
};

/// When each gratuitous ARP for the VIP is seen on the LAN of one fresh master, until ten were
/// seen and a second without another has passed.
fn gratuitous_arps(program: Program, delay: Option<u64>) -> Result<Vec<Instant>> {
    let dir = mariadb::workspace("garp")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let switch = Switch::new("lan")?;
    let (lb, other) = (Namespace::new("lb")?, Namespace::new("other")?);
    switch.plug(&lb, "eth0", Some("10.77.0.10/24"))?;
    switch.plug(&other, "eth0", Some("10.77.0.20/24"))?;
    let mut host = Host::new(&lb, program, dir.path())?;
    let form = Form { protocol: Protocol::V3, family: Family::V4, cast: Cast::Multi };
    let mut member = Member::new(form, HIGH, dir.path());
    member.words = delay.map_or(String::new(), |s| format!("    garp_master_delay {s}\n"));
    host.write_config(&member.config())?;
    let sniffer = Sniffer::new(&other)?;
    host.start()?;
    let mut seen = Vec::new();
    let ours = |frame: &[u8]| is_garp(frame) && frame[28..32] == VIP.octets();
    while seen.len() < 10 {
        let limit = if seen.is_empty() { FIRST_ELECTION } else { Duration::from_secs(8) };
        sniffer.next(limit, ours).with_context(|| {
            format!("number {} by {program:?}\n{}", seen.len() + 1, host.log_tail(20))
        })?;
        seen.push(Instant::now());
    }
    if sniffer.next(Duration::from_secs(1), ours).is_ok() {
        seen.push(Instant::now());
    }
    host.stop()?;
    Ok(seen)
}

/// Five at once, and five again after `garp_master_delay` (5 s by default), as keepalived's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn gratuitous_arp_comes_in_two_batches() -> Result<()> {
    if !ready_or_skip("interop_keepalived")? {
        return Ok(());
    }
    let programs = [Program::Lbd, Program::Keepalived];
    for program in programs {
        host::available(program).map_err(|why| anyhow::anyhow!(why))?;
    }
    let cases = programs.map(|program| [(program, Some(1)), (program, None)]);
    let results: Vec<_> = thread::scope(|scope| {
        let case = |&(program, delay)| scope.spawn(move || gratuitous_arps(program, delay));
        let threads: Vec<_> = cases.iter().flatten().map(case).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for ((program, delay), result) in cases.into_iter().flatten().zip(results) {
        let seen = result.map_err(|_| anyhow::anyhow!("{program:?}: panicked"))??;
        let times: Vec<_> = seen.iter().map(|at| at.duration_since(seen[0])).collect();
        let wanted = Duration::from_secs(delay.unwrap_or(5));
        ensure!(times.len() == 10, "{program:?} {delay:?}: more than ten: {times:?}");
        ensure!(times[4] < Duration::from_millis(400), "{program:?} {delay:?}: {times:?}");
        // A little early is how the sniffer was late for the first one.
        let second = wanted - Duration::from_millis(600)..wanted + Duration::from_millis(1000);
        let fits = second.contains(&times[5]) && second.contains(&times[9]);
        ensure!(fits, "{program:?} {delay:?}: {times:?}");
    }
    Ok(())
}

/// An instance with one line more, and what stands behind it.
fn instance(line: &str, behind: &str) -> String {
    format!(
        "vrrp_instance V {{\n interface eth0\n virtual_router_id 51\n {line}\n virtual_ipaddress {{\n \
         192.0.2.1/32\n }}\n}}\n{behind}"
    )
}

/// A script behind an instance.
fn script(words: &str) -> String {
    instance("track_script {\n s\n }", "").replace(
        "vrrp_instance",
        &format!("vrrp_script s {{\n {words}\n timeout 2\n}}\nvrrp_instance"),
    )
}

/// A virtual server with one line more, and one in its real server.
fn server(line: &str, inner: &str) -> String {
    format!(
        "virtual_server 192.0.2.1 80 {{\n protocol TCP\n lb_algo wlc\n lb_kind DR\n {line}\n \
         real_server 192.0.2.2 80 {{\n {inner}\n }}\n}}\n"
    )
}

fn authentication(pass: &str) -> String {
    instance(&format!("authentication {{\n auth_type PASS\n auth_pass {pass}\n }}"), "")
}

/// Files with one fault each, or with none: what keepalived 2.2.7 answers, and so lbd.
fn single_faults() -> Vec<(&'static str, String)> {
    vec![
        ("nothing wrong", instance("", "")),
        ("a password cut by !", authentication("Gx!zz")),
        ("a password cut by #", authentication("Gx#zz")),
        ("a password of more than 8 bytes", authentication("LongerThan8")),
        ("a placeholder as a password", authentication("<PASSWORD>")),
        ("extra words", instance("priority 100 extra", "")),
        ("a statement on another's line", instance("priority 100 nopreempt", "")),
        (
            "a statement on the line of the VRID",
            instance("", "").replace("router_id 51", "router_id 51 priority 100"),
        ),
        ("a number with junk", instance("priority 100abc", "")),
        ("no number", instance("priority abc", "")),
        ("a placeholder for a number", instance("priority @@PRIORITY@@", "")),
        ("a number out of range", instance("priority 300", "")),
        ("no argument", instance("priority", "")),
        ("an unknown word", instance("nopreemt", "")),
        ("nopreempt with MASTER", instance("state MASTER\n nopreempt", "")),
        ("an unknown state", instance("state SLAVE", "")),
        ("no advert interval", instance("advert_int 0", "")),
        ("part of a second in version 2", instance("advert_int 1.5", "")),
        ("notify_primary", instance("notify_primary /bin/true", "")),
        ("a word twice", instance("priority 100\n priority 101", "")),
        ("a script that is not defined", instance("track_script {\n nope\n }", "")),
        ("a brace too many", instance("", "}\n")),
        ("no last brace", instance("", "").trim_end().trim_end_matches('}').to_owned()),
        ("an unknown block", instance("", "nosuch_block {\n a b\n}\n")),
        ("a VRID twice", instance("", "") + &instance("", "").replace("nce V", "nce W")),
        ("an interface that is not there", instance("", "").replace("eth0", "eth7")),
        ("a notify script with its user", instance("notify /usr/bin/true root", "")),
        ("a script with words unquoted", script("script \"/usr/bin/true\" extra words")),
        ("a script that is good", script("script /usr/bin/true")),
        ("a script that is not there", script("script /usr/bin/nosuch")),
        ("extra words of a weight", script("script /usr/bin/true\n weight 2 junk")),
        ("an old name", instance("", "global_defs {\n lvs_id x\n}\n")),
        ("extra words of a global", instance("", "global_defs {\n router_id x y\n}\n")),
        ("an interval of 0", instance("", "global_defs {\n vrrp_garp_interval 0\n}\n")),
        ("a good virtual server", server("", "")),
        ("no persistence", server("persistence_timeout 0", "")),
        ("persistence", server("persistence_timeout 50", "")),
        ("an unknown scheduler", server("lb_algo foo", "")),
        ("extra words of a scheduler", server("lb_algo wlc foo", "")),
        ("nat_mask", server("nat_mask 255.255.255.0", "")),
        ("a method in lower case", server("", "").replace("DR", "dr")),
        ("a // remark behind a method", server("", "").replace("DR", "DR // remark")),
        ("a second word of a weight", server("", "weight 1 inhibit_on_failure")),
        ("a negative weight", server("", "weight -1")),
        ("a check on one line", server("", "TCP_CHECK { connect_timeout 3 }")),
        ("nb_get_retry", server("", "TCP_CHECK {\n nb_get_retry 3\n }")),
        ("a time with junk", server("", "TCP_CHECK {\n connect_timeout 3s\n }")),
        ("a placeholder for a time", server("", "TCP_CHECK {\n connect_timeout <X>\n }")),
        (
            "a check script with words unquoted",
            server("", "MISC_CHECK {\n misc_path \"/usr/bin/true\" extra\n }"),
        ),
    ]
}

/// Where lbd answers differently on purpose: docs/migration.md says why.
const DIFFERENT: [&str; 0] = [];

/// The code of `-t`, and what was said.
fn tested(lb: &Namespace, program: &Path, file: &Path) -> Result<(Option<i32>, String)> {
    let mut command = lb.command(program);
    command.arg("-t").arg("-f").arg(file).stdin(Stdio::null());
    if program.ends_with("keepalived") {
        command.arg("--log-console");
    }
    let output = command.output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// `lbd -t` answers what `keepalived -t` answers, so that whoever asks before a reload can ask either.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn config_test_has_keepaliveds_exit_codes() -> Result<()> {
    if !ready_or_skip("interop_keepalived")? {
        return Ok(());
    }
    for program in [Program::Lbd, Program::Keepalived] {
        host::available(program).map_err(|why| anyhow::anyhow!(why))?;
    }
    let dir = mariadb::workspace("codes")?;
    let switch = Switch::new("lan")?;
    let lb = Namespace::new("lb")?;
    switch.plug(&lb, "eth0", Some("10.77.0.10/24"))?;
    let lbd = host::bin_dir().join("lbd");
    let (mut wrong, mut codes) = (Vec::new(), std::collections::BTreeSet::new());
    for (what, text) in single_faults() {
        let file = dir.path().join("t.conf");
        // Or every file with a script would answer 6, as on a host whose scripts nobody looks at.
        let security = "global_defs {\n script_user root\n enable_script_security\n}\n";
        fs::write(&file, format!("{security}{text}"))?;
        let (theirs, they_say) = tested(&lb, Path::new("keepalived"), &file)?;
        let (ours, we_say) = tested(&lb, &lbd, &file)?;
        ensure!(theirs.is_some(), "{what}: keepalived: {they_say}");
        codes.insert(theirs);
        if (ours == theirs) == DIFFERENT.contains(&what) {
            wrong.push(format!(
                "{what}: lbd {ours:?}, keepalived {theirs:?}\n{text}{we_say}{they_say}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!([0, 2, 5].iter().all(|code| codes.contains(&Some(*code))), "{codes:?}");
    Ok(())
}
