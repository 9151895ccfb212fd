//! Gratuitous ARP of lbd, and exit codes of its `-t`, beside real keepalived's.

use std::{
    fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, thread, time::Duration,
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

/// When each gratuitous ARP for the VIP came on the LAN of one fresh master, by the kernel's clock, until ten were
/// seen and a second without another has passed.
fn gratuitous_arps(program: Program, delay: Option<u64>) -> Result<Vec<Duration>> {
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
        let limit = if seen.is_empty() { FIRST_ELECTION } else { Duration::from_secs(30) };
        let (at, _) = sniffer.next_sent(limit, ours).with_context(|| {
            format!("number {} by {program:?}\n{}", seen.len() + 1, host.log_tail(20))
        })?;
        seen.push(at);
    }
    if let Ok((at, _)) = sniffer.next_sent(Duration::from_secs(1), ours) {
        seen.push(at);
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
        let times: Vec<_> = seen.iter().map(|at| at.saturating_sub(seen[0])).collect();
        let wanted = Duration::from_secs(delay.unwrap_or(5));
        ensure!(times.len() == 10, "{program:?} {delay:?}: more than ten: {times:?}");
        ensure!(times[4] < Duration::from_millis(400), "{program:?} {delay:?}: {times:?}");
        // A little early is how the first one was late.
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
        ("a VRID twice", instance("", "") + &second("")),
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

/// Another instance of the same VRID with a VIP of its own and one line more.
fn second(line: &str) -> String {
    instance(line, "").replace("nce V", "nce W").replace("192.0.2.1/", "192.0.2.3/")
}

/// Words that are given twice, values that are none, and words that lbd does not act on.
fn words() -> Vec<(&'static str, String)> {
    let globals = |line: &str| instance("", &format!("global_defs {{\n {line}\n}}\n"));
    let bfd = "bfd_instance B {\n neighbor_ip 192.0.2.9\n source_ip 192.0.2.8\n}\n";
    let file = "track_file F {\n file /tmp/f\n init_file 0\n}\n";
    let group = "vrrp_sync_group G {\n group {\n V\n W\n }\n track_bfd {\n B\n }\n}\n";
    let other = second("").replace("router_id 51", "router_id 52");
    let process = |words: &str| {
        instance("track_process {\n p\n }", "").replace(
            "vrrp_instance",
            &format!("vrrp_track_process p {{\n {words}\n}}\nvrrp_instance"),
        )
    };
    let udp = |words: &str| server("", &format!("UDP_CHECK {{\n {words}\n }}"));
    let unused = "vrrp_script s {\n script /usr/bin/true\n timeout 2\n}\n";
    let address = server("", "TCP_CHECK {\n connect_timeout abc\n }");
    vec![
        // ---- which of two counts
        ("MASTER, then BACKUP", instance("state MASTER\n state BACKUP", "")),
        ("BACKUP, then MASTER", instance("state BACKUP\n state MASTER", "")),
        ("two versions", instance("version 2\n version 3", "")),
        ("a version twice", instance("version 3\n version 3", "")),
        ("two FIFOs", globals("notify_fifo /tmp/a\n notify_fifo /tmp/b")),
        ("two prefixes", globals("vmac_prefix a\n vmac_prefix b")),
        ("two prefixes of addresses", globals("vmac_addr_prefix a\n vmac_addr_prefix b")),
        ("two virtual MAC interfaces", instance("use_vmac a\n use_vmac b", "")),
        ("two virtual MAC interfaces on a line", instance("use_vmac a b", "")),
        ("a virtual MAC interface, then its name", instance("use_vmac\n use_vmac b", "")),
        ("a name, then a MAC", instance("use_vmac a\n use_vmac 02:00:5e:00:01:99", "")),
        ("two MACs", instance("use_vmac 02:00:5e:00:01:98\n use_vmac 02:00:5e:00:01:99", "")),
        ("a VRF and an interface", instance("vrf lo", "")),
        ("a VRF and an interface, with a virtual MAC", instance("use_vmac\n vrf lo", "")),
        ("two processes", process("process a\n process b")),
        ("two weights of a process", process("process a\n weight 2\n weight 3")),
        ("two quorums of a process", process("process a\n quorum 2\n quorum 3")),
        // ---- values that are none
        ("a state in lower case", instance("state master", "")),
        ("a script's interval of 0", script("script /usr/bin/true\n interval 0")),
        ("neither yes nor no", instance("lower_prio_no_advert maybe", "")),
        ("neither yes nor no, of mail", globals("smtp_alert maybe")),
        ("no name of an instance", instance("", "").replace("nce V", "nce")),
        ("a real server that is no address", address.replace("r 192.0.2.2", "r 10.0.0.999")),
        // ---- arguments that are not there
        ("no name of the router", globals("router_id")),
        ("no user of the scripts", globals("script_user")),
        ("no VRRP version", globals("vrrp_version")),
        ("a script without its command", script("script")),
        ("a check script without its command", server("", "MISC_CHECK {\n misc_path\n }")),
        ("a regex without its pattern", server("", "HTTP_GET {\n url {\n path /\n regex\n }\n }")),
        // ---- quotes
        ("an odd number of quotes", script(r#"script "/usr/bin/true \""#)),
        ("an escaped quote in a name", globals(r#"router_id "a \" b""#)),
        ("escaped quotes in a command", instance(r#"notify "/usr/bin/true \"a\"" root"#, "")),
        ("escaped quotes around braces", instance(r#"notify "/usr/bin/true \"{ a; }\""#, "")),
        // ---- include_check
        ("include_check read", globals("include_check read")),
        ("include_check readable", globals("include_check readable")),
        ("include_check of two words", globals("include_check match wildcard_match")),
        ("include_check with a sign", globals("include_check match +wildcard_match")),
        ("include_check outside global_defs", instance("", "include_check read\n")),
        ("include_check in an instance", instance("include_check", "")),
        ("random_seed outside global_defs", instance("", "random_seed 5\n")),
        // ---- what lbd does not act on
        ("a family that is the address's", server("ip_family inet", "")),
        ("a family that is not the address's", server("ip_family inet6", "")),
        ("a reply that can never come", udp("min_reply_length 300")),
        ("a reply that may come", udp("min_reply_length 300\n max_reply_length 300")),
        ("a payload that is none", udp("payload 0x12")),
        ("a reply with a mask", udp("require_reply aX b")),
        ("PING_CHECK", server("", "PING_CHECK {\n }")),
        ("UDP_CHECK", server("", "UDP_CHECK {\n }")),
        ("DNS_CHECK", server("", "DNS_CHECK {\n }")),
        ("SMTP_CHECK", server("", "SMTP_CHECK {\n }")),
        ("BFD_CHECK", bfd.to_owned() + &server("", "BFD_CHECK {\n name B\n }")),
        ("FILE_CHECK", file.to_owned() + &server("", "FILE_CHECK {\n track_file F\n }")),
        ("bfd_instance", instance("", bfd)),
        ("track_bfd of a group", bfd.to_owned() + &instance("", "") + &other + group),
        ("no argument inside PING_CHECK", server("", "PING_CHECK {\n connect_timeout\n }")),
        ("no number inside PING_CHECK", server("", "PING_CHECK {\n retry abc\n }")),
        ("a niceness out of range", globals("checker_priority 99")),
        // ---- what keepalived has nothing to say about
        (
            "a first IPv6 VIP that is global",
            instance("", "").replace("192.0.2.1/32", "2001:db8::1/64"),
        ),
        ("a script that nobody tracks", instance("", unused)),
        ("one missed advert", instance("down_timer_adverts 1", "")),
        ("a down delay that is cut", instance("", "interface_up_down_delays {\n eth0 10 1\n}\n")),
        (
            "an excluded VIP on another interface",
            instance("virtual_ipaddress_excluded {\n 192.0.2.1/32 dev lo\n }", ""),
        ),
        (
            "a real server that is another VIP",
            server("", "")
                + &server("", "")
                    .replace("192.0.2.2", "192.0.2.4")
                    .replace("192.0.2.1", "192.0.2.2"),
        ),
        // ---- what lbd refuses
        ("a VIP in two instances", instance("", "") + &other.replace("192.0.2.3", "192.0.2.1")),
        ("a real server that is the VIP", server("", "").replace("192.0.2.2", "192.0.2.1")),
        ("a virtual server without a port", server("", "").replace("192.0.2.1 80", "192.0.2.1")),
        ("a scheduler that lbd does not have", server("", "").replace("wlc", "dh")),
        ("track_bfd", bfd.to_owned() + &instance("track_bfd {\n B\n }", "")),
        (
            "a VRID of multicast and of unicast",
            instance("", "")
                + &second("unicast_src_ip 10.77.0.10\n unicast_peer {\n 10.77.0.20\n }"),
        ),
    ]
}

/// What lbd refuses for good, and blocks that are there twice.
fn refused() -> Vec<(&'static str, String)> {
    let route = |words: &str| {
        let route = format!("198.51.100.0/24 via 192.0.2.9 dev eth0 {words}");
        instance(&format!("virtual_routes {{\n {route}\n }}"), "")
    };
    let twice = |text: &str| format!("{text}{text}");
    let strict = |words: &str| instance(&format!("strict_mode\n {words}"), "");
    let pass = "authentication {\n auth_type PASS\n auth_pass hunter2\n }";
    let fwd = |nth: usize| {
        let address = format!("virtual_server 192.0.2.{nth} 80");
        server("", "").replace("DR", "NAT").replace("virtual_server 192.0.2.1 80", &address)
    };
    let many = |instance: usize| -> String {
        let vips = (0..255).map(|vip| format!(" 10.9.{instance}.{vip}/32\n")).collect::<String>();
        self::instance("", "")
            .replace("nce V", &format!("nce V{instance}"))
            .replace("router_id 51", &format!("router_id {}", instance + 1))
            .replace(" 192.0.2.1/32\n", &vips)
    };
    let unchecked = server("", "MISC_CHECK {\n misc_path /usr/bin/true\n }");
    vec![
        ("encap of a route", route("encap ip id 3 dst 192.0.2.8")),
        ("as of a route", route("as to 192.0.2.8")),
        ("ttl-propagate of a route", route("ttl-propagate enabled")),
        ("vrf of a route", route("vrf red")),
        ("or of a route", route("").replace("dev eth0", "or 192.0.2.8")),
        ("realms of a route", route("realms 3")),
        ("a routing table by its name", route("table mysql")),
        ("a routing table that the kernel names", route("table main")),
        ("a method of one real server", server("", "lvs_method NAT")),
        ("a group of use_vmac", instance("use_vmac vrrp.a group 3", "")),
        ("a real server of NAT in nine services", (101..110).map(fwd).collect()),
        ("more than 8192 VIPs", (0..33).map(many).collect()),
        ("no protocol and no TCP check", unchecked.replace(" protocol TCP\n", "")),
        // ---- what is said of both
        ("no scheduler", server("", "").replace(" lb_algo wlc\n", "")),
        ("no method", server("", "").replace(" lb_kind DR\n", "")),
        ("a password in strict mode", strict(pass)),
        ("no late announcements in strict mode", strict("garp_lower_prio_repeat 0")),
        ("no delay of them in strict mode", strict("garp_lower_prio_delay 0")),
        ("late announcements in strict mode", strict("garp_lower_prio_repeat 3")),
        (
            "a password and no late announcements in strict mode",
            strict(&format!("garp_lower_prio_repeat 0\n {pass}")),
        ),
        // ---- twice
        (
            "an instance twice",
            instance("", "") + &second("").replace("nce W", "nce V").replace("d 51", "d 52"),
        ),
        ("a real server twice", {
            let text = server("", "");
            let head = text.trim_end().trim_end_matches('}');
            format!("{head} real_server 192.0.2.2 80 {{\n }}\n}}\n")
        }),
        ("a virtual server twice", twice(&server("", ""))),
        (
            "a script twice",
            twice("vrrp_script s {\n script /usr/bin/true\n timeout 2\n}\n")
                + &instance("track_script {\n s\n }", ""),
        ),
        (
            "a process twice",
            twice("vrrp_track_process p {\n process a\n}\n")
                + &instance("track_process {\n p\n }", ""),
        ),
        (
            "a file twice",
            twice("track_file f {\n file /tmp/f\n init_file 0\n}\n")
                + &instance("track_file {\n f\n }", ""),
        ),
    ]
}

/// Several faults in one file, and what only a whole file shows.
fn other_faults() -> Vec<Row> {
    let two = |what, text| Row::secure(what, text);
    let unsecured =
        |text: String| format!("vrrp_script s {{\n script /usr/bin/true\n timeout 2\n}}\n{text}");
    let tracked =
        |line: &str| unsecured(instance(&format!("track_script {{\n s\n }}\n {line}"), ""));
    let no_vrid = instance("", "").replace(" virtual_router_id 51\n", "");
    let no_protocol = server("", "TCP_CHECK {\n }").replace(" protocol TCP\n", "");
    let families = instance("", "").replace("192.0.2.1/32", "192.0.2.1/32\n 2001:db8::1/64");
    let markers =
        instance("", "").replace(" virtual_router_id", "<<<<<<< HEAD\n virtual_router_id");
    let fwmark = server("", "").replace("virtual_server 192.0.2.1 80", "virtual_server fwmark 3");
    vec![
        two("nothing but global_defs", String::new()),
        Row::plain("a namespace", format!("net_namespace lbd\n{}", instance("", ""))),
        Row::plain("a script without security", tracked("")),
        two("no VRID", no_vrid),
        two("no protocol", no_protocol),
        two("VIPs of both families", families),
        two("a mark of a merge conflict", markers),
        two("lvs_sync_daemon_inteface", instance("lvs_sync_daemon_inteface eth0", "")),
        two(
            "broadcast and an unknown word of a VIP",
            vip("192.0.2.1/24 broadcast 192.0.2.255 foo dev eth0"),
        ),
        two("a broadcast address of a VIP", vip("192.0.2.1/24 broadcast 192.0.2.255 dev eth0")),
        two("no broadcast address in a /32", vip("192.0.2.1/32 brd +")),
        two("smtp_alert without smtp_server", instance("smtp_alert", "")),
        // ---- two faults
        two("an unknown word and no argument", instance("nopreemt\n priority", "")),
        two("a number out of range and no argument", instance("priority 300\n advert_int", "")),
        Row::plain("no security and a number out of range", tracked("priority 300")),
        two("security and a number out of range", tracked("priority 300")),
        Row::plain(
            "a script that is not there and a number out of range",
            tracked("priority 300").replace("/usr/bin/true", "/no/such"),
        ),
        Row::plain("no security and no argument", tracked("priority")),
        Row::plain(
            "no security and an interface that is not there",
            tracked("").replace("eth0", "eth7"),
        ),
        two(
            "an unknown word and an interface that is not there",
            instance("nopreemt", "").replace("eth0", "eth7"),
        ),
        // ---- told apart in DIFFERENT
        two("a tunnel of another kind", server("", "").replace("DR", "TUN type gre")),
        two("protocol UDP", server("", "").replace("protocol TCP", "protocol UDP")),
        two("a firewall mark", fwmark),
        Row::plain("an empty file", String::new()),
        Row {
            mode: 0o755,
            ..Row::secure("an executable file with a fault", instance("nopreemt", ""))
        },
        Row { text: None, ..Row::plain("a file that is not there", String::new()) },
    ]
}

/// A VIP's line.
fn vip(line: &str) -> String {
    instance("", "").replace("192.0.2.1/32", line)
}

/// A file that both programs are asked about.
struct Row {
    what: &'static str,
    /// With the words that keepalived wants for scripts: without them every file with a script answers 6.
    secure: bool,
    mode: u32,
    /// `None`: there is no file.
    text: Option<String>,
}

impl Row {
    fn secure(what: &'static str, text: String) -> Self {
        Self { what, secure: true, mode: 0o644, text: Some(text) }
    }

    fn plain(what: &'static str, text: String) -> Self {
        Self { secure: false, ..Self::secure(what, text) }
    }
}

/// Where lbd answers differently on purpose, with its code and keepalived's: the table of codes in
/// docs/migration.md has them and says why.
const DIFFERENT: [(&str, i32, i32); 30] = [
    ("a file that is not there", 4, 0),
    ("an empty file", 4, 0),
    ("an executable file with a fault", 5, 0),
    ("a tunnel of another kind", 4, 0),
    ("protocol UDP", 4, 0),
    ("a firewall mark", 4, 5),
    ("a VIP in two instances", 4, 0),
    ("a real server that is the VIP", 4, 0),
    ("a virtual server without a port", 4, 5),
    ("a scheduler that lbd does not have", 4, 0),
    ("track_bfd", 4, 0),
    ("a VRID of multicast and of unicast", 4, 0),
    ("nothing but global_defs", 4, 0),
    ("a regex without its pattern", 2, 0),
    ("encap of a route", 4, 0),
    ("as of a route", 4, 5),
    ("ttl-propagate of a route", 4, 0),
    ("vrf of a route", 4, 5),
    ("or of a route", 4, 5),
    ("realms of a route", 4, 0),
    ("a routing table by its name", 4, 5),
    ("a method of one real server", 4, 0),
    ("a group of use_vmac", 4, 5),
    ("a real server of NAT in nine services", 4, 0),
    ("more than 8192 VIPs", 4, 0),
    ("no protocol and no TCP check", 4, 5),
    ("a virtual server twice", 4, 0),
    ("a script twice", 4, 0),
    ("a process twice", 4, 0),
    ("a file twice", 4, 0),
];

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
    let single = single_faults().into_iter().map(|(what, text)| Row::secure(what, text));
    let words = words().into_iter().chain(refused());
    let words = words.map(|(what, text)| Row::secure(what, text));
    let rows: Vec<Row> = single.chain(words).chain(other_faults()).collect();
    for (what, ..) in DIFFERENT {
        ensure!(rows.iter().any(|row| row.what == what), "{what} is no row");
    }
    for Row { what, secure, mode, text } in rows {
        let file = dir.path().join("t.conf");
        if file.exists() {
            fs::remove_file(&file)?;
        }
        let security = "global_defs {\n script_user root\n enable_script_security\n}\n";
        let text = text.map(|text| if secure { format!("{security}{text}") } else { text });
        if let Some(text) = &text {
            fs::write(&file, text)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        }
        let (theirs, they_say) = tested(&lb, Path::new("keepalived"), &file)?;
        let (ours, we_say) = tested(&lb, &lbd, &file)?;
        ensure!(theirs.is_some(), "{what}: keepalived: {they_say}");
        codes.extend([("keepalived", theirs), ("lbd", ours)]);
        let wanted = DIFFERENT.iter().find(|(name, ..)| *name == what);
        let good = match wanted {
            Some((_, own, other)) => (ours, theirs) == (Some(*own), Some(*other)),
            None => ours == theirs,
        };
        if !good {
            let text = text.unwrap_or_default();
            wrong.push(format!(
                "{what}: lbd {ours:?}, keepalived {theirs:?}\n{text}{we_say}{they_say}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // 4, which no file here gets from keepalived, is lbd's for what it cannot run.
    let all =
        [0, 2, 5, 6].map(|code| ("keepalived", code)).into_iter().chain([("lbd", 4), ("lbd", 6)]);
    for (program, code) in all {
        ensure!(codes.contains(&(program, Some(code))), "{program} {code}: {codes:?}");
    }
    Ok(())
}
