//! What good files mean.

use std::{path::PathBuf, time::Duration};

use super::corpus::config;
use crate::{
    base::{
        net::{Priority, Protocol},
        table::{Hashing, Method, Scheduler},
    },
    config::{ReferenceKind, load, model::*},
};

#[test]
fn tutorial() {
    let config = config("tutorial-master");
    assert_eq!(config.global.router_id.as_deref(), Some("DB-HA-1"));
    assert_eq!(config.global.notification_email, ["dba@example.com", "oncall@example.com"]);
    let server = MailServer { host: "127.0.0.1".into(), port: 25 };
    assert_eq!(config.global.smtp_server, Some(server));
    let script = &config.vrrp_scripts["chk_mysql_port"];
    assert_eq!(script.command.argv, ["/opt/lbd/chk_mysql.sh"]);
    assert_eq!((script.interval, script.timeout), (Duration::from_secs(2), Duration::from_secs(2)));
    assert_eq!((script.weight, script.fall, script.rise), (-5, 2, 1));
    let [instance] = &config.vrrp_instances[..] else { panic!("one instance") };
    assert_eq!(instance.name, "VI_1");
    assert_eq!((instance.state, instance.priority), (InitialState::Master, Priority(101)));
    assert_eq!((instance.interface.as_str(), instance.vrid.get()), ("eth7", 51));
    assert_eq!(instance.source, Some("198.51.100.3".parse().unwrap()));
    assert_eq!(instance.authentication, Authentication::Pass(*b"1111\0\0\0\0"));
    assert_eq!(instance.virtual_ipaddress[0].prefix.to_string(), "198.51.100.2/24");
    assert_eq!(instance.track_scripts[0].name, "chk_mysql_port");
    assert_eq!(instance.advert_int, Duration::from_secs(1));
    assert!(config.virtual_servers.is_empty());
}

#[test]
fn blanks_of_web_pages_are_blanks() {
    assert_eq!(config("web-copy"), config("tutorial-master"));
}

#[test]
fn vip_options_and_notify() {
    let config = config("vip-options");
    let instance = &config.vrrp_instances[0];
    let [first, second, third] = &instance.virtual_ipaddress[..] else { panic!("three VIPs") };
    assert_eq!(
        *first,
        VipAddress {
            prefix: "192.0.2.10/24".parse().unwrap(),
            dev: Some("eth1".into()),
            label: Some("eth1:vip".into()),
            broadcast: Some("192.0.2.255".parse().unwrap()),
            scope: 253,
            options: AddressOptions::default(),
        }
    );
    assert_eq!(second.prefix.len, 32);
    assert_eq!(third.broadcast, Some("192.0.2.127".parse().unwrap()));
    let master = instance.notify.master.as_ref().unwrap();
    assert_eq!(master.argv, ["/etc/lbd/notify.sh", "master"]);
    assert_eq!(master.user, Some(User { name: "dba".into(), group: Some("dba".into()) }));
    let stop = instance.notify.stop.as_ref().unwrap();
    assert_eq!(stop.argv, ["/bin/sh", "-c", "echo stopped; exit 0"]);
    assert_eq!((instance.garp.delay, instance.garp.repeat), (Duration::from_secs(3), 2));
    assert_eq!(instance.priority, Priority::DEFAULT);
}

#[test]
fn unicast_version_3() {
    let config = config("unicast-v3");
    assert_eq!(config.global.metrics_listen, Some("127.0.0.1:9100".parse().unwrap()));
    assert_eq!((config.global.flow_table_size, config.global.xdp_mode), (65536, XdpMode::Native));
    assert_eq!(config.global.process_name.as_deref(), Some("keepalived"));
    let script = &config.vrrp_scripts["chk"];
    assert_eq!(
        script.command.user,
        Some(User { name: "nobody".into(), group: Some("nogroup".into()) })
    );
    assert_eq!(script.timeout, Duration::from_millis(300));
    assert!(script.init_fail);
    let instance = &config.vrrp_instances[0];
    assert_eq!(instance.version, VrrpVersion::V3);
    assert_eq!(instance.advert_int, Duration::from_millis(100));
    assert!(instance.nopreempt && instance.dont_track_primary);
    assert_eq!(instance.unicast_peers, ["192.0.2.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(instance.garp.repeat, 3);
    assert_eq!(instance.track_interfaces[0].weight, -20);
    assert_eq!(instance.track_interfaces[1].weight, 0);
}

#[test]
fn pool() {
    let config = config("pool-dr");
    assert_eq!(config.vrrp_instances[0].preempt_delay, Duration::from_secs(30));
    let server = &config.virtual_servers[0];
    assert_eq!(server.key.protocol, Protocol::Tcp);
    assert_eq!((server.scheduler, server.method), (Scheduler::Wlc, Method::Dr));
    assert_eq!((server.quorum, server.hysteresis), (2, 1));
    assert_eq!(server.sorry_server, Some("192.0.2.30:3306".parse().unwrap()));
    assert_eq!((server.idle_timeout, server.on_down), (Duration::from_secs(3600), OnDown::Keep));
    assert!(server.omega && !server.alpha);
    let [one, two] = &server.real_servers[..] else { panic!("two real servers") };
    assert_eq!((one.weight, two.weight), (3, 1));
    assert_eq!(two.addr, "192.0.2.22:3306".parse().unwrap());
    assert!(two.inhibit_on_failure);
    let [Checker::Mysql(common, mysql)] = &one.checkers[..] else { panic!("MYSQL_CHECK") };
    assert_eq!(common.connect_timeout, Duration::from_secs(2));
    assert_eq!(common.delay_loop, Duration::from_secs(6));
    assert_eq!((mysql.level, mysql.role), (MysqlLevel::Role, MysqlRole::Writer));
    assert_eq!(mysql.password, Some(Password::File(PathBuf::from("/etc/lbd/secret"))));
    assert_eq!((mysql.tls, mysql.ping_timeout), (TlsMode::Require, Duration::from_millis(200)));
    assert_eq!(mysql.login_interval, Duration::from_secs(5));
    assert_eq!(mysql.role_interval, Duration::from_millis(250));
    assert_eq!((mysql.on_auth_error, mysql.on_full), (OnCondition::Down, OnCondition::Up));
    let [Checker::Mysql(_, plain), Checker::Misc(common, misc)] = &two.checkers[..] else {
        panic!("MYSQL_CHECK and MISC_CHECK")
    };
    assert_eq!(
        (plain.level, plain.suspect, plain.fall, plain.rise),
        (MysqlLevel::Greeting, 2, 4, 2)
    );
    assert_eq!(misc.command.argv, ["/etc/lbd/check.sh", "192.0.2.22", "a b"]);
    assert_eq!((misc.timeout, misc.dynamic, common.retry), (Duration::from_secs(3), true, 2));
}

#[test]
fn inheritance_of_schedules() {
    let config = config("pool-nat");
    let server = &config.virtual_servers[0];
    assert_eq!(
        (server.scheduler, server.method, server.alpha),
        (Scheduler::Mh(Hashing::default()), Method::Nat, true)
    );
    assert_eq!(server.idle_timeout, Duration::from_secs(28_860));
    assert_eq!(server.on_down, OnDown::Reset);
    let [Checker::Tcp(tcp)] = &server.real_servers[0].checkers[..] else { panic!("TCP_CHECK") };
    assert_eq!(
        *tcp,
        CheckerCommon {
            target: "10.0.0.21:3306".parse().unwrap(),
            bindto: Some("10.0.0.1".parse().unwrap()),
            connect_timeout: Duration::from_secs(3),
            retry: 3,
            delay_before_retry: Duration::from_millis(500),
            delay_loop: Duration::from_secs(2),
            warmup: Duration::ZERO,
            alpha: true,
        }
    );
    assert_eq!((server.real_servers[0].weight, server.real_servers[1].weight), (5, 0));
    let [Checker::Mysql(_, mysql)] = &server.real_servers[1].checkers[..] else {
        panic!("MYSQL_CHECK")
    };
    assert_eq!(mysql.level, MysqlLevel::Query);
    assert_eq!(mysql.password, Some(Password::Literal("p w!d#".into())));
    assert_eq!(mysql.expect.as_deref(), Some("1"));
}

#[test]
fn quirks_are_corrected_as_keepalived_does() {
    let config = config("quirks");
    let instance = &config.vrrp_instances[0];
    assert_eq!(instance.priority, Priority(101));
    assert_eq!(instance.advert_int, Duration::from_secs(1));
    assert!(!instance.nopreempt);
    assert_eq!(instance.preempt_delay, Duration::ZERO);
    assert_eq!(instance.authentication, Authentication::None, "vrrp_strict");
    assert_eq!(instance.virtual_ipaddress.len(), 3);
    let tracked: Vec<_> = instance.track_scripts.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(tracked, ["chk"]);
    let [server] = &config.virtual_servers[..] else { panic!("one with real servers") };
    assert_eq!((server.scheduler, server.method), (Scheduler::Wlc, Method::Dr));
    assert_eq!(server.real_servers[0].addr.port(), 3306);
    assert_eq!(config.vrrp_scripts["unused"].weight, 253);
}

#[test]
fn unknown_blocks_do_not_eat_their_parents_brace() {
    let config = config("unknown-words");
    let [instance] = &config.vrrp_instances[..] else { panic!("the inner one is skipped") };
    assert_eq!(instance.name, "VI_1");
    assert_eq!(instance.virtual_ipaddress.len(), 1);
}

#[test]
fn master_without_priority_is_the_owner() {
    assert_eq!(config("weights").vrrp_instances[0].priority, Priority::OWNER);
}

#[test]
fn globals_count_wherever_they_stand() {
    let outcome = load(
        "t",
        "vrrp_instance A {\n interface eth0\n virtual_router_id 1\n virtual_ipaddress { 192.0.2.1 }\n}\n\
         global_defs {\n vrrp_version 3\n}\n",
    );
    assert_eq!(outcome.config.unwrap().vrrp_instances[0].version, VrrpVersion::V3);
}

/// `role any` asks too: a server that answers pings and cannot tell its role is not up.
#[test]
fn role_implies_the_level_that_asks_for_it() {
    for (words, level, role) in [
        ("role writer", MysqlLevel::Role, MysqlRole::Writer),
        ("role any", MysqlLevel::Role, MysqlRole::Any),
        ("", MysqlLevel::Ping, MysqlRole::Any),
        // What is said in as many words stands.
        ("level login\n role any", MysqlLevel::Login, MysqlRole::Any),
        ("query \"SELECT 1\"\n role any", MysqlLevel::Query, MysqlRole::Any),
    ] {
        let outcome = load(
            "t",
            &format!(
                "virtual_server 192.0.2.10 3306 {{\n lb_kind DR\n real_server 192.0.2.21 3306 {{\n \
                 MYSQL_CHECK {{\n user u\n {words}\n }}\n }}\n}}\n"
            ),
        );
        let config = outcome.config.unwrap_or_else(|| panic!("{words}"));
        let Checker::Mysql(_, check) = &config.virtual_servers[0].real_servers[0].checkers[0]
        else {
            panic!("MYSQL_CHECK")
        };
        assert_eq!((check.level, check.role), (level, role), "{words}");
    }
}

#[test]
fn references_name_what_the_host_must_confirm() {
    let outcome = crate::config::check("t", include_bytes!("../testdata/good/pool-dr.conf"));
    let of = |kind: ReferenceKind| -> Vec<_> {
        outcome
            .references
            .iter()
            .filter(|r| r.kind == kind)
            .map(|r| (r.object.as_str(), r.value.as_str(), r.place.line))
            .collect()
    };
    assert_eq!(
        of(ReferenceKind::Interface),
        [("interface", "eth0", 5), ("virtual_ipaddress", "eth0", 9)]
    );
    assert_eq!(
        of(ReferenceKind::File),
        [("password_file", "/etc/lbd/secret", 32), ("tls_ca", "/etc/lbd/ca.pem", 34)]
    );
    assert!(of(ReferenceKind::Script).contains(&("misc_path", "/etc/lbd/check.sh", 51)));
}
