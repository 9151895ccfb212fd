//! What tells of changes, and what is tracked.

use std::time::Duration;

use crate::config::{diag::Severity, load, model::*};

const INSTANCE: &str = "vrrp_instance V {\n interface eth0\n virtual_router_id 1\n \
    virtual_ipaddress {\n 192.0.2.1\n }\n";

fn good(text: &str) -> Config {
    let outcome = load("t", text);
    let said = outcome.render();
    outcome.config.unwrap_or_else(|| panic!("{said}"))
}

/// Findings as `line: message`, without notices.
fn findings(text: &str) -> Vec<String> {
    load("t", text)
        .diagnostics
        .iter()
        .filter(|it| it.severity != Severity::Notice)
        .map(|it| it.render())
        .collect()
}

fn has(text: &str, place: &str, phrase: &str) {
    let all = findings(text);
    assert!(all.iter().any(|it| it.contains(phrase) && it.contains(place)), "{phrase}: {all:#?}");
}

/// Findings about words of global_defs stand at these words, whatever block they are in.
#[test]
fn words_that_miss_others_are_told_where_they_stand() {
    let first = "global_defs {\n vrrp_notify_fifo /run/a\n router_id x\n}\n";
    let text =
        |words: &str| format!("{first}global_defs {{\n router_id y\n {words}\n}}\n{INSTANCE}}}\n");
    has(&text("notify_fifo /run/a"), "t:7:2", "have the same file /run/a");
    has(&text("notify_fifo_script /bin/x"), "t:7:2", "has no effect without `notify_fifo`");
    has(&text("smtp_alert_vrrp"), "t:7:2", "`smtp_alert` without `smtp_server`: no mail is sent");
    has(&text("smtp_alert\n smtp_server 192.0.2.9"), "t:7:2", "without `notification_email`");
    has(&format!("{INSTANCE} smtp_alert\n}}\n"), "t:7:2", "`smtp_alert` without `smtp_server`");
    for fine in ["smtp_alert off", "lvs_notify_fifo /run/b\n lvs_notify_fifo_script /bin/x"] {
        assert!(findings(&text(fine)).iter().all(|it| !it.contains("without `")), "{fine}");
    }
}

/// One interface twice in a group, and in two.
#[test]
fn interfaces_that_share_a_pace_twice_are_told_where_they_stand() {
    let group = |names: &str| {
        format!("garp_group {{\n garp_interval 1\n interfaces {{\n {names}\n }}\n}}\n")
    };
    let one = format!("{}{INSTANCE}}}\n", group("eth0\n eth1 eth0"));
    has(&one, "t:5:7", "interface eth0 is listed twice in one garp_group");
    let two = format!("{}{}{INSTANCE}}}\n", group("eth0"), group("eth1 eth0"));
    has(&two, "t:10:7", "interface eth0 is in a garp_group already; that one counts");
    let groups = good(&two).garp_groups;
    assert_eq!(
        (groups[0].interfaces.join(" "), groups[1].interfaces.join(" ")),
        ("eth0".into(), "eth1".into())
    );
}

#[test]
fn every_word_that_tells() {
    let config = good(&format!(
        "global_defs {{\n script_user root\n notify_fifo /run/a root adm\n \
         notify_fifo_script \"/bin/read all\"\n vrrp_notify_fifo /run/b\n lvs_notify_fifo /run/c\n \
         vrrp_notify_priority_changes on\n fifo_write_vrrp_states_on_reload\n \
         startup_script /bin/up nobody\n startup_script_timeout 3\n shutdown_script /bin/down\n \
         notify_timeout 5s\n}}\n{INSTANCE} notify_deleted\n notify_master_rx_lower_pri /bin/low\n}}\n"
    ));
    let global = &config.global;
    let adm = User { name: "root".into(), group: Some("adm".into()) };
    assert_eq!(global.notify_fifo.path, Some(("/run/a".into(), Some(adm))));
    assert_eq!(global.notify_fifo.script.as_ref().unwrap().argv, ["/bin/read", "all"]);
    assert_eq!(global.vrrp_notify_fifo.path, Some(("/run/b".into(), None)));
    assert_eq!(global.lvs_notify_fifo.path, Some(("/run/c".into(), None)));
    assert!(global.fifo_write_vrrp_states_on_reload);
    let up = global.startup_script.command.as_ref().unwrap();
    assert_eq!(
        (up.argv[0].as_str(), up.user.as_ref().unwrap().name.as_str()),
        ("/bin/up", "nobody")
    );
    assert_eq!(global.startup_script.timeout, Duration::from_secs(3));
    assert_eq!(global.shutdown_script.timeout, Duration::from_secs(10));
    assert_eq!(global.notify_timeout, Duration::from_secs(5));
    let notify = &config.vrrp_instances[0].notify;
    assert!(notify.tells_deleted && notify.deleted.is_none() && notify.priority_changes);
    assert_eq!(notify.master_rx_lower_pri.as_ref().unwrap().argv, ["/bin/low"]);
    let named = good(&format!("{INSTANCE} notify_deleted \"/bin/gone x\" nobody\n}}\n"));
    let notify = &named.vrrp_instances[0].notify;
    assert_eq!(notify.deleted.as_ref().unwrap().argv, ["/bin/gone", "x"]);
    assert_eq!(notify.deleted.as_ref().unwrap().user.as_ref().unwrap().name, "nobody");
}

#[test]
fn who_is_mailed_of_what() {
    let rows = [
        ("", "", false),
        ("smtp_alert", "", true),
        ("smtp_alert\n smtp_alert_vrrp off", "", false),
        ("smtp_alert_vrrp", "", true),
        ("smtp_alert_checker", "", false),
        ("", "smtp_alert", true),
        ("smtp_alert", "smtp_alert off", false),
    ];
    for (global, instance, wanted) in rows {
        let config = good(&format!("global_defs {{\n {global}\n}}\n{INSTANCE} {instance}\n}}\n"));
        assert_eq!(config.vrrp_instances[0].notify.mail, wanted, "{global} / {instance}");
    }
    let config = good(&format!(
        "global_defs {{\n smtp_server mail.example 2525\n smtp_helo_name lb\n no_email_faults\n \
         smtp_connect_timeout 5\n notification_email {{\n a@b.c\n d@e.f\n }}\n}}\n{INSTANCE}}}\n"
    ));
    let server = MailServer { host: "mail.example".into(), port: 2525 };
    assert_eq!(config.global.smtp_server, Some(server));
    assert_eq!(config.global.notification_email, ["a@b.c", "d@e.f"]);
    assert_eq!(config.global.smtp_connect_timeout, Duration::from_secs(5));
    assert!(!config.vrrp_instances[0].notify.mail_faults);
}

#[test]
fn bad_words_that_tell_are_located() {
    let in_global = |words: &str| format!("global_defs {{\n{words}\n}}\n{INSTANCE}}}\n");
    has(&in_global("notify_fifo fifo"), "t:2:", "must begin with /");
    has(&in_global("notify_fifo /a\nvrrp_notify_fifo /a"), "t:3:1", "have the same file /a");
    has(&in_global("lvs_notify_fifo_script /bin/x"), "t:2:1", "without `lvs_notify_fifo`");
    has(&in_global("smtp_server x 70000"), "t:2:", "must be 1..65535");
    has(&in_global("notification_email {\n nobody\n}"), "t:3:", "no address of a mailbox");
    has(&in_global("smtp_alert"), "t:2:1", "`smtp_alert` without `smtp_server`");
    has(&in_global("smtp_alert maybe"), "t:2:", "cannot be `maybe`");
}

#[test]
fn everything_that_is_tracked() {
    let config = good(
        "vrrp_track_process p {\n process /usr/sbin/mysqld \"--x y\"\n param_match initial\n \
         full_command\n weight -30\n quorum 2\n quorum_max 4\n delay 1.5\n fork_delay 0.25\n}\n\
         vrrp_track_process none {\n process backup\n quorum_max 0\n}\n\
         track_file f {\n file /run/f\n weight 2 reverse\n init_file -5 overwrite\n}\n\
         vrrp_track_file g {\n file /run/g\n}\n\
         track_mysql m {\n connect_port 3307\n user lb\n password x\n role writer\n weight 10\n}\n\
         vrrp_instance V {\n interface eth0\n virtual_router_id 1\n virtual_ipaddress {\n 192.0.2.1\n }\n \
         track_process {\n p\n none\n }\n track_file {\n f weight 1000\n g\n }\n track_mysql {\n m\n }\n}\n",
    );
    let p = &config.track_processes["p"];
    assert_eq!(p.command, ["/usr/sbin/mysqld", "--x y"]);
    assert_eq!((p.param_match, p.full_command), (Some(ParamMatch::Initial), true));
    assert_eq!((p.weight, p.quorum, p.quorum_max), (-30, 2, Some(4)));
    assert_eq!(p.fork_delay, Duration::from_millis(250));
    assert_eq!(p.terminate_delay, Duration::from_millis(1500));
    let none = &config.track_processes["none"];
    assert_eq!((none.quorum, none.quorum_max), (0, Some(0)), "must not run");
    let f = &config.track_files["f"];
    assert_eq!((f.weight, f.reverse), (2, true));
    assert_eq!(f.init, Some(InitFile { value: -5, overwrite: true }));
    assert_eq!((config.track_files["g"].weight, config.track_files["g"].init), (1, None));
    let m = &config.track_mysql["m"];
    let Checker::Mysql(common, mysql) = &m.checker else { panic!("MYSQL_CHECK") };
    assert_eq!(common.target, "127.0.0.1:3307".parse().unwrap());
    assert_eq!((mysql.level, mysql.role), (MysqlLevel::Role, MysqlRole::Writer));
    assert_eq!((m.weight, common.warmup), (10, Duration::ZERO));
    let lists = &config.vrrp_instances[0].track_more;
    let names = |list: &[TrackScript]| list.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!(
        (names(&lists.processes), names(&lists.mysql)),
        (vec!["p".into(), "none".into()], vec!["m".into()])
    );
    assert_eq!(lists.files[0].weight, Some(1000), "a factor, not a priority");
}

#[test]
fn bad_trackers_are_located() {
    let with = |block: &str, list: &str| format!("{block}\n{INSTANCE} {list}\n}}\n");
    has(&with("track_file f {\n}", ""), "t:1:", "track_file `f` has no `file`");
    has(&with("track_file f {\n file x\n}", ""), "t:2:", "must begin with /");
    has(&with("vrrp_track_process p {\n}", ""), "t:1:", "has no `process`");
    let quorum = "vrrp_track_process p {\n process x\n quorum 3\n quorum_max 2\n}";
    has(&with(quorum, ""), "t:4:", "quorum_max 2 is less than quorum 3");
    let twice = "track_file f {\n file /a\n}\ntrack_file f {\n file /b\n}";
    has(&with(twice, ""), "t:4:", "defined twice");
    let file = "track_file values {\n file /a\n}";
    has(&with(file, "track_file {\n value\n }"), "t:11:", "did you mean `values`?");
    has(&with("", "track_mysql {\n db\n }"), "track_mysql `db` is not defined", "it is ignored");
    has(
        &with("", "track_bfd {\n b\n }"),
        "`track_bfd` is not available",
        "there is no BFD session",
    );
    has(&with("track_mysql m {\n weight 999\n}", ""), "t:2:", "999");
}
