//! Lines of which configurations are made, block by block.

/// Blocks of the frame, and lines that may stand there.
pub(in crate::config) const BLOCKS: &[(&str, &[&str])] = &[
    (
        "global_defs",
        &[
            "router_id LVS_MASTER",
            "router_id \"two words\"",
            "process_name keepalived",
            "notification_email {\n a@example.org\n b@example.org\n }",
            "notification_email_from lbd@example.org",
            "smtp_server 192.0.2.25 2525",
            "smtp_server mail.example.org",
            "smtp_helo_name lb1",
            "smtp_connect_timeout 7",
            "smtp_alert true",
            "smtp_alert_vrrp off",
            "smtp_alert_checker on",
            "no_email_faults",
            "no_checker_emails",
            "notify_fifo /run/fifo root root",
            "notify_fifo_script \"/bin/fifo 'a b'\"",
            "vrrp_notify_fifo /run/vrrp-fifo root",
            "vrrp_notify_fifo_script /bin/vrrp-fifo",
            "lvs_notify_fifo \"/run/lvs fifo\"",
            "lvs_notify_fifo_script /bin/lvs-fifo nobody",
            "vrrp_notify_priority_changes true",
            "fifo_write_vrrp_states_on_reload",
            "startup_script /bin/start",
            "startup_script_timeout 33",
            "shutdown_script \"/bin/end now\"",
            "shutdown_script_timeout 3",
            "state_dump_file /tmp/state",
            "stats_dump_file /tmp/stats",
            "json_dump_file /tmp/json",
            "json_version 2",
            "data_use_instance true",
            "notify_timeout 1.5",
            "script_user nobody",
            "script_user nobody nogroup",
            "enable_script_security",
            "vrrp_version 3",
            "vrrp_down_timer_adverts 5",
            "vrrp_lower_prio_no_advert true",
            "vrrp_higher_prio_send_advert true",
            "vrrp_owner_ignore_adverts on",
            "vrrp_strict",
            "vrrp_startup_delay 2.5",
            "vrrp_delay_after_boot 10",
            "vrrp_priority -5",
            "vrrp_no_swap",
            "vrrp_rt_priority 50",
            "vrrp_cpu_affinity 0 3",
            "vrrp_rlimit_rttime 10000",
            "vrrp_rlimit_rtime 20000",
            "vrrp_mcast_group4 224.0.0.99",
            "vrrp_mcast_group6 ff02::99",
            "vrrp_check_unicast_src",
            "v3_checksum_as_v2 true",
            "vrrp_garp_master_delay 10",
            "vrrp_garp_master_repeat 1",
            "vrrp_garp_master_refresh 60",
            "vrrp_garp_master_refresh_repeat 2",
            "vrrp_garp_lower_prio_delay 3",
            "vrrp_garp_lower_prio_repeat 4",
            "vrrp_min_garp",
            "vrrp_garp_interval 0.1",
            "vrrp_gna_interval 0.02",
            "vrrp_garp_extra_if all 120",
            "vrrp_vmac_garp_intvl 60",
            "dynamic_interfaces",
            "default_interface eth7",
            "vmac_prefix vm",
            "vmac_addr_prefix va",
            "nftables_priority -7",
            "nftables_counters",
            "metrics_listen 127.0.0.1:9100",
            "lvs_flow_table 4096",
            "lvs_hook xdp",
            "lvs_hook tc",
            "lvs_xdp_mode generic",
            "lvs_xdp_mode native",
            "flow_sync {\n key hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n peer 192.0.2.2\n peer 192.0.2.3\n interface eth1\n source 192.0.2.1\n port 9000\n timeout 2.5\n }",
            "flow_sync {\n key file:/etc/lbd/sync.key\n multicast 224.0.0.81\n interface eth1\n }",
        ],
    ),
    (
        "root",
        &[
            "static_ipaddress {\n 192.0.2.200/24 dev lo no_track\n 2001:db8::9 track_group tg\n }",
            "static_routes {\n 198.51.100.0/24 via 192.0.2.254 track_group tg\n blackhole 203.0.113.0/24\n default via 192.0.2.1 dev eth0 onlink metric 5 table 100\n }",
            "static_rules {\n from 192.0.2.0/24 table 100 priority 7 track_group tg\n }",
            "garp_group {\n garp_interval 0.5\n interfaces {\n eth0\n eth1\n }\n }",
            "garp_group {\n gna_interval 0.25\n interface eth2\n }",
            "interface_up_down_delays {\n eth0 0.5 1\n eth3 0.25\n }",
            "vrrp_script extra {\n script \"/bin/sh -c 'exit \\\"1\\\"'\"\n interval 0.2\n timeout 3\n weight -20 reverse\n fall 3\n rise 2\n user nobody nogroup\n init_fail\n }",
            "vrrp_script short {\n script \"</etc/passwd\"\n }",
            "vrrp_track_process p2 {\n process nginx -g 'daemon off;'\n param_match partial\n full_command\n weight 5\n quorum 2\n quorum_max 9\n delay 1.5\n }",
            "vrrp_track_process p3 {\n process x\n param_match initial\n quorum_max 0\n fork_delay 2\n terminate_delay 0.5\n }",
            "track_file f2 {\n file /run/f2\n weight -300 reverse\n init_file 4 overwrite\n }",
            "vrrp_track_file f3 {\n file \"/run/f 3\"\n init_file\n }",
            "track_mysql m2 {\n user u\n password \"geheim x\"\n connect_ip 192.0.2.3\n connect_port 3307\n bindto 192.0.2.1\n weight -30\n alpha\n }",
            "virtual_server 192.0.2.50 80 {\n lvs_method NAT\n protocol TCP\n alpha\n weight 3\n retry 4\n delay_before_retry 2\n warmup 1\n connect_timeout 3\n real_server 192.0.2.51 8080 {\n MISC_CHECK {\n misc_path \"/bin/check 'a b' \\\"c\\\"\"\n misc_timeout 4\n misc_dynamic\n user nobody\n }\n }\n }",
        ],
    ),
    (
        "vrrp_sync_group",
        &[
            "sync_group_tracking_weight",
            "track_script {\n chk weight 10\n }",
            "track_interface {\n eth4 weight -10 reverse\n }",
            "track_process {\n p1 weight 3\n }",
            "track_file {\n f1 weight 1000 reverse\n }",
            "track_mysql {\n m1 noreverse\n }",
            "notify_master \"/bin/group master\" nobody",
            "notify_priority_changes true",
            "smtp_alert true",
        ],
    ),
    (
        "vrrp_instance",
        &[
            "state MASTER",
            "priority 254",
            "priority 255",
            "version 3",
            "advert_int 2",
            "advert_int 0.25",
            "authentication {\n auth_type PASS\n auth_pass hunter2\n }",
            "authentication {\n auth_type AH\n auth_pass \"a#b !c\"\n }",
            "auth_hmac {\n key 7 hex:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n key 8 file:/etc/key\n active_key 7\n time_window 9\n mode permissive\n }",
            "auth_hmac {\n key 9 abcdefghijklmnopqrstuvwxyz0123456789\n anti_replay monotonic\n mode receive-only\n }",
            "preempt",
            "nopreempt",
            "preempt_delay 30.5",
            "timer_expired_backup 200",
            "thread_timer_expired",
            "down_timer_adverts 4",
            "lower_prio_no_advert",
            "higher_prio_send_advert true",
            "owner_ignore_adverts yes",
            "told_handover",
            "strict_mode",
            "strict_mode false",
            "accept",
            "no_accept",
            "mcast_src_ip 192.0.2.7",
            "mcast_dst_ip 224.0.0.50",
            "unicast_src_ip 192.0.2.8",
            "unicast_peer {\n 192.0.2.9 min_ttl 250\n 192.0.2.10 min_ttl 1 max_ttl 64\n 192.0.2.12\n }",
            "unicast_ttl 200",
            "check_unicast_src",
            "unicast_fault_no_peer",
            "v3_checksum_as_v2 true",
            "old_unicast_checksum",
            "old_unicast_checksum never",
            "check_adv_addr",
            "virtual_ipaddress_excluded {\n 2001:db8::5/64 dev eth1 home -nodad mngtmpaddr preferred_lft 30\n 2001:db8::6 preferred_lft forever\n 192.0.2.77/24 brd + scope link label eth0:1 noprefixroute autojoin no_track\n 192.0.2.76/24 broadcast -\n 192.0.2.79 peer 192.0.2.80/30\n 192.0.2.78 use_vmac dev eth5\n }",
            "virtual_routes {\n 198.51.100.0/24 nexthop via 192.0.2.1 weight 5 nexthop dev eth1 onlink\n local 203.0.113.1 dev lo src 203.0.113.1 scope host\n inet6 default via fe80::1 dev eth0 pref high expires 60 proto boot tos 4\n 203.0.113.128/25 via 192.0.2.2 mtu lock 1400 advmss 1000 rtt 300ms rttvar 5 rto_min 2s features ecn congctl bbr quickack 1 fastopen_no_cookie 1 window 9 ssthresh 9 cwnd 9 reordering 9 hoplimit 9 initcwnd 9 initrwnd 9 no_track\n unreachable 2001:db8:dead::/48\n }",
            "virtual_routes {\n add unicast to 198.51.100.0/25 gw inet 192.0.2.9 oif eth0 preference 4 protocol static dsfield 8 table main\n append broadcast 198.51.100.255 dev eth0\n prepend multicast 239.0.0.0/8 dev eth0\n anycast 2001:db8::9 from 2001:db8::/32 dev eth0 priority 7\n throw 198.18.0.0/15\n prohibit 198.19.0.0/16\n }",
            "virtual_rules {\n inet priority 5 dev eth0 dsfield 4 suppress_prefixlength 3 sup_group 2 protocol boot type prohibit\n preference 6 type blackhole\n pref 7 table 9\n }",
            "virtual_rules {\n not from 192.0.2.0/24 to all lookup main order 4 tos 8 fwmark 0x10/0xff iif eth0 oif eth1\n inet6 sup_pl 64 suppress_ifgroup 3 tunnel-id 7 uidrange 100-200 l3mdev\n ipproto tcp sport 10-20 dport 80 goto 9 no_track\n from 2001:db8::/32 blackhole proto static\n nop\n unreachable\n prohibit\n l3mdev table 5\n }",
            "use_vmac",
            "use_vmac vmx 02:00:00:00:00:09",
            "use_ipvlan ipx 192.0.2.66/24 vepa",
            "vmac_xmit_base",
            "use_vmac_addr",
            "vrf blue",
            "promote_secondaries",
            "track_src_ip",
            "garp_extra_if all 30",
            "garp_extra_if 0",
            "vmac_garp_intvl 40",
            "garp_master_delay 1",
            "garp_master_repeat 2",
            "garp_master_refresh 3",
            "garp_master_refresh_repeat 4",
            "garp_lower_prio_delay 6",
            "garp_lower_prio_repeat 7",
            "track_script {\n chk weight -5 reverse\n }",
            "track_script { chk }",
            "track_interface {\n eth1\n eth2 weight 20\n }",
            "track_process {\n p1\n }",
            "track_file {\n f1 weight -2000\n }",
            "track_mysql {\n m1 weight 9\n }",
            "dont_track_primary",
            "notify_master /bin/master",
            "notify_backup \"/bin/backup a\" root root",
            "notify_fault \"/bin/fault ''\"",
            "notify_stop '/bin/stop \"x y\"'",
            "notify_deleted",
            "notify_deleted /bin/deleted",
            "notify_master_rx_lower_pri /bin/lower",
            "notify \"/bin/notify \\\\ \\t \\x07 $1 # !\"",
            "notify_priority_changes on",
            "smtp_alert true",
        ],
    ),
    (
        "virtual_server",
        &[
            "lb_algo rr",
            "lvs_sched mh",
            "lb_algo sh",
            "lb_algo nq",
            "sh-port",
            "mh-fallback",
            "mh-port",
            "sh-fallback",
            "flag-1",
            "flag-2",
            "lb_kind DR",
            "persistence_timeout",
            "persistence_timeout 50",
            "persistence_granularity 255.255.255.0",
            "persistence_granularity /9",
            "delay_loop 0.5",
            "quorum 2",
            "hysteresis 1",
            "quorum_up \"/bin/up now\" nobody",
            "quorum_down /bin/down",
            "sorry_server 192.0.2.99 3399",
            "omega",
            "alpha",
            "smtp_alert true",
            "idle_timeout 90",
            "idle_timeout 1500ms",
            "on_down keep",
            "on_down drain 1.5",
            "on_down drain 30s",
            "inhibit_on_failure",
            "weight 4",
            "retry 9",
        ],
    ),
    (
        "real_server",
        &[
            "uthreshold 100",
            "lthreshold 50",
            "weight 7",
            "inhibit_on_failure",
            "notify_up \"/bin/up x\"",
            "notify_down /bin/down root",
            "smtp_alert off",
            "alpha",
            "retry 3",
            "delay_before_retry 1.5",
            "warmup 0",
            "delay_loop 2",
            "connect_timeout 1.25",
            "TCP_CHECK {\n connect_ip 192.0.2.70\n connect_port 99\n bindto 192.0.2.1\n connect_timeout 2\n retry 0\n delay_loop 9\n }",
            "MISC_CHECK {\n misc_path /bin/misc\n }",
            "MYSQL_CHECK {\n }",
            "MYSQL_CHECK {\n level login\n user lb\n password hunter2\n tls require\n tls_ca /etc/ca\n ping_interval 200ms\n ping_timeout 0.3\n login_interval 5\n suspect 1\n fall 2\n rise 3\n on_auth_error down\n on_full up\n }",
            "MYSQL_CHECK {\n user lb\n password_file /etc/pw\n role writer\n role_interval 1\n tls off\n on_full down\n retry 5\n }",
            "MYSQL_CHECK {\n user lb\n query \"SELECT 'a' # x\"\n expect \"a b\"\n }",
            "MYSQL_CHECK {\n user lb\n level query\n }",
            "virtualhost inner.example",
            "HTTP_GET {\n url {\n path /\n }\n nb_get_retry 2\n virtualhost of.check\n }",
            "HTTP_GET {\n http_protocol 1.1k\n connect_port 9200\n url {\n path /a?b=%20\n status_code 200 301-304\n virtualhost x\n regex \"a b\"\n regex_options caseless ungreedy\n regex_min_offset 3\n regex_max_offset 9\n }\n }",
            "SSL_GET {\n enable_sni\n url {\n digest eff5bc1ef8ec9d03e640fc4370f5eacd\n virtualhost y\n }\n url {\n regex z\n regex_no_match\n }\n }",
            "SSL_GET {\n sni_name db.example\n url {\n }\n }",
        ],
    ),
];

/// A file with the chosen lines in a frame that makes every one of them possible.
pub(in crate::config) fn file(chosen: &[(&str, Vec<&str>)]) -> String {
    let lines = |block: &str| -> String {
        let of_block = chosen.iter().filter(|(name, _)| *name == block);
        of_block.flat_map(|(_, lines)| lines).map(|line| format!("    {line}\n")).collect()
    };
    let (global, root, group) = (lines("global_defs"), lines("root"), lines("vrrp_sync_group"));
    let (instance, service, real) =
        (lines("vrrp_instance"), lines("virtual_server"), lines("real_server"));
    format!(
        "global_defs {{
{global}}}
{root}
track_group tg {{
    group {{
        V
    }}
}}
vrrp_script chk {{
    script /bin/true
}}
vrrp_track_process p1 {{
    process mysqld
}}
track_file f1 {{
    file /run/f1
}}
track_mysql m1 {{
}}
vrrp_sync_group G {{
    group {{
        V W
    }}
{group}}}
vrrp_instance V {{
    interface eth0
    virtual_router_id 51
    virtual_ipaddress {{
        192.0.2.100/24
    }}
{instance}}}
vrrp_instance W {{
    interface eth1
    virtual_router_id 52
    version 3
    native_ipv6
    strict_mode false
    no_virtual_ipaddress
}}
virtual_server 192.0.2.100 3306 {{
    protocol TCP
{service}    real_server 192.0.2.101 3306 {{
        weight 2
{real}    }}
    real_server 192.0.2.102 3306 {{
        TCP_CHECK {{
        }}
    }}
}}
"
    )
}

/// Every word once, as far as words go together.
pub(in crate::config) fn everything() -> String {
    let conflicting = [
        "state MASTER",
        "strict_mode",
        "vrrp_strict",
        "use_ipvlan ipx",
        "vrrp_version 3",
        "version 3",
        "advert_int 0.25",
    ];
    let all: Vec<_> = BLOCKS
        .iter()
        .map(|(block, lines)| {
            let goes = |line: &&&str| !conflicting.iter().any(|no| line.starts_with(no));
            (*block, lines.iter().filter(goes).copied().collect())
        })
        .collect();
    let rest = conflicting.map(|line| format!("# {line}\n")).concat();
    format!("{rest}{}", file(&all))
}

/// The good files of the corpus.
pub(in crate::config) fn corpus() -> Vec<(String, Vec<u8>)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/testdata/good");
    let files = std::fs::read_dir(dir).expect("the corpus");
    let mut files: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|it| it == "conf"))
        .map(|path| {
            let name = path.file_stem().expect("named").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("read"))
        })
        .collect();
    files.sort();
    files
}
