//! Top level and `global_defs`.

use super::{
    Argument::*,
    Status::{Acts, Later, Never, Ours},
    Topic as T,
};

const U32: i64 = u32::MAX as i64;
/// keepalived reads seconds into 32 bits of microseconds.
const LONG: u64 = 4_294_967_295;
const FAMILY: &[&str] = &["inet", "inet6"];

keywords! {
    // ---- top level: blocks
    Root: "global_defs", Nothing, "", A, Acts, "settings of the whole daemon", opens GlobalDefs + many;
    Root: "vrrp_script", Word("NAME"), "", A, Acts, "a script whose exit code changes priorities", opens VrrpScript + many;
    Root: "vrrp_instance", Word("NAME"), "", A, Acts, "one virtual router and its VIPs", opens VrrpInstance + many;
    Root: "virtual_server", Words("IP [PORT] | fwmark N | group NAME"), "", A, Acts, "a VIP and port and the real servers behind it; only IP PORT acts so far", opens VirtualServer + many;
    Root: "vrrp_sync_group", Word("NAME"), "", A, Acts, "instances that change state together", opens SyncGroup + many;
    Root: "virtual_server_group", Word("NAME"), "", B, Later(T::Group), "many VIPs with one pool", opens VirtualServerGroup + many;
    Root: "vrrp_track_process", Word("NAME"), "", B, Acts, "processes whose number changes priorities", opens TrackProcess + many;
    Root: "track_file", Word("NAME"), "", B, Acts, "a file whose number changes priorities", opens TrackFile + many;
    Root: "vrrp_track_file", Word("NAME"), "", C, Acts, "old name of track_file", opens TrackFile + many;
    Root: "track_mysql", Word("NAME"), "", A, Ours, "a MYSQL_CHECK whose verdict changes priorities, in place of a script", opens TrackMysql + many;
    Root: "bfd_instance", Word("NAME"), "", B, Later(T::Bfd), "a BFD session with a neighbour", opens BfdInstance + many;
    Root: "track_group", Word("NAME"), "", C, Acts, "group that follows static addresses and routes", opens TrackGroup + many;
    Root: "static_ipaddress", Nothing, "", B, Acts, "addresses held from start to exit", opens StaticObjects + many;
    Root: "static_routes", Nothing, "", B, Acts, "routes held from start to exit", opens StaticObjects + many;
    Root: "static_rules", Nothing, "", C, Acts, "policy rules held from start to exit", opens StaticObjects + many;
    Root: "garp_group", Nothing, "", C, Acts, "pace of gratuitous ARP over several interfaces", opens GarpGroup + many;
    Root: "linkbeat_interfaces", Nothing, "", C, Never(T::LinkPolling), "interfaces whose link is polled by MII or ethtool", opens InterfaceList + many;
    Root: "interface_up_down_delays", Nothing, "0", C, Acts, "damps links that flap; down is cut to (down_timer_adverts - 1) x advert_int", opens InterfaceList + many;
    Root: "SSL", Nothing, "", C, Later(T::CheckerDetail), "client certificate for SSL_GET", opens Ssl + many;
    // ---- top level: words
    Root: "net_namespace", Word("NAME"), "", C, Later(T::Namespace), "network namespace of the daemon";
    Root: "net_namespace_ipvs", Word("NAME"), "", C, Never(T::Ipvs), "network namespace of IPVS";
    Root: "namespace_with_ipsets", Nothing, "", C, Never(T::Firewall), "ipsets inside namespaces";
    Root: "use_pid_dir", Nothing, "off", C, Never(T::Files), "pid files in a directory of their own; ours are in --run-dir";
    Root: "instance", Word("NAME"), "", C, Never(T::Files), "name in file names; use --instance NAME";
    Root: "child_wait_time", Int { min: 0, max: U32 }, "5", C, Never(T::Processes), "seconds that children get to end";
    Root VrrpInstance: "linkbeat_use_polling", Nothing, "off", C, Never(T::LinkPolling), "poll the link";
    Root: "include", Words("FILE"), "", B, Acts, "reads further files, in any block; FILE may have wildcards and braces; relative to the including file; what is missing is only told" + many;
    Root: "includer", Words("FILE"), "", C, Acts, "include; what is found must be a readable file" + many;
    Root: "includem", Words("FILE"), "", C, Acts, "include; a name without wildcards must exist" + many;
    Root: "includew", Words("FILE"), "", C, Acts, "include; also wildcards must find a file" + many;
    Root: "includeb", Words("FILE"), "", C, Acts, "include; each alternative of {…,…} must exist" + many;
    Root: "includea", Words("FILE"), "", C, Acts, "include; all of these" + many;
    GlobalDefs: "include_check", Optional("[+|-]CHECKS"), "none", C, Acts, "how strict every include from here to the end of the file is: read, match, wildcard_match or brace_match, further ones with a sign; no word: all" + many;
    Ssl: "password", Secret, "", C, Later(T::CheckerDetail), "of the key";
    Ssl: "ca", Word("FILE"), "", C, Later(T::CheckerDetail), "certificate authority";
    Ssl: "certificate", Word("FILE"), "", C, Later(T::CheckerDetail), "client certificate";
    Ssl: "key", Word("FILE"), "", C, Later(T::CheckerDetail), "client key";
    SyncGroup: "group", Optional("NAME…"), "", A, Acts, "instances of the group", opens NameList;
    TrackGroup: "group", Optional("NAME…"), "", C, Acts, "instances that follow the interfaces of static objects of this group", opens NameList;
    GarpGroup: "garp_interval", Seconds { min: 1, max: LONG }, "0", C, Acts, "gap between gratuitous ARP messages";
    GarpGroup: "gna_interval", Seconds { min: 1, max: LONG }, "0", C, Acts, "gap between unsolicited neighbour advertisements";
    GarpGroup: "interfaces", Nothing, "", C, Acts, "interfaces that share the pace", opens InterfaceList + many;
    // ---- global_defs: mail
    GlobalDefs: "notification_email", Nothing, "", A, Acts, "recipients of mails, one a line", opens NotificationEmail + many;
    GlobalDefs: "notification_email_from", Word("ADDRESS"), "user@host", A, Acts, "sender of mails";
    GlobalDefs: "smtp_server", Words("HOST [PORT]"), "port 25", A, Acts, "mail server";
    GlobalDefs: "smtp_helo_name", Word("NAME"), "host name", C, Acts, "name in HELO";
    GlobalDefs: "smtp_connect_timeout", Seconds { min: 1_000_000, max: LONG }, "30", A, Acts, "time for the connection to the mail server, and for its greeting";
    GlobalDefs VrrpInstance SyncGroup VirtualServer RealServer: "smtp_alert", Bool, "off; real_server on", C, Acts, "mail at every change";
    GlobalDefs: "smtp_alert_vrrp", Bool, "off", C, Acts, "mail at changes of instances";
    GlobalDefs: "smtp_alert_checker", Bool, "off", C, Acts, "mail at changes of real servers";
    GlobalDefs: "no_email_faults", Nothing, "off", C, Acts, "no mail at FAULT";
    GlobalDefs: "no_checker_emails", Bool, "off", C, Acts, "no mail at every check; lbd sends none in any case";
    GlobalDefs: "router_id", Word("NAME"), "host name", A, Acts, "name of this host in mails";
    // ---- global_defs: scripts
    GlobalDefs: "script_user", User, "keepalived_script if there is one, else root", A, Acts, "who runs scripts";
    GlobalDefs: "enable_script_security", Nothing, "off", A, Acts, "refuses to run, as root, scripts that others may write";
    GlobalDefs: "use_symlink_paths", Bool, "off", C, Never(T::Files), "how script paths with symlinks are checked";
    GlobalDefs: "set_supplementary_groups", Bool, "off", C, Never(T::Processes), "further groups of a script's user";
    GlobalDefs: "startup_script", Command { user: true }, "", C, Acts, "runs before the children start";
    GlobalDefs: "startup_script_timeout", Int { min: 1, max: 1000 }, "10", C, Acts, "seconds";
    GlobalDefs: "shutdown_script", Command { user: true }, "", C, Acts, "runs after the children ended";
    GlobalDefs: "shutdown_script_timeout", Int { min: 1, max: 1000 }, "10", C, Acts, "seconds";
    // ---- global_defs: processes
    GlobalDefs: "process_names", Nothing, "off", C, Never(T::Processes), "children carry names of their own";
    GlobalDefs: "process_name", Word("NAME"), "lbd", C, Acts, "name of all of lbd's processes; scripts that look for keepalived by name want it to be keepalived";
    GlobalDefs: "vrrp_process_name", Word("NAME"), "", C, Never(T::Processes), "name of the VRRP process";
    GlobalDefs: "checker_process_name", Word("NAME"), "", C, Never(T::Processes), "name of the checker process";
    GlobalDefs: "lvs_process_name", Word("NAME"), "", C, Never(T::Processes), "old name of checker_process_name";
    GlobalDefs: "bfd_process_name", Word("NAME"), "", C, Never(T::Processes), "name of the BFD process";
    GlobalDefs: "max_auto_priority", Optional("N"), "0", B, Never(T::Processes), "raises the realtime priority after late timers";
    GlobalDefs: "min_auto_priority_delay", Int { min: 1, max: 10_000_000 }, "1000000", B, Never(T::Processes), "µs of delay that count as late";
    GlobalDefs: "vrrp_priority", Int { min: -20, max: 19 }, "", C, Acts, "niceness";
    GlobalDefs: "checker_priority", Int { min: -20, max: 19 }, "", C, Never(T::Processes), "niceness";
    GlobalDefs: "bfd_priority", Int { min: -20, max: 19 }, "", C, Never(T::Processes), "niceness";
    GlobalDefs: "vrrp_no_swap", Nothing, "off", C, Acts, "memory locked";
    GlobalDefs: "checker_no_swap", Nothing, "off", C, Never(T::Processes), "memory locked";
    GlobalDefs: "bfd_no_swap", Nothing, "off", C, Never(T::Processes), "memory locked";
    GlobalDefs: "vrrp_rt_priority", Int { min: 1, max: 99 }, "", C, Acts, "realtime priority";
    GlobalDefs: "checker_rt_priority", Int { min: 1, max: 99 }, "", C, Never(T::Processes), "realtime priority";
    GlobalDefs: "bfd_rt_priority", Int { min: 1, max: 99 }, "", C, Never(T::Processes), "realtime priority";
    GlobalDefs: "vrrp_cpu_affinity", Words("CPU…"), "", C, Acts, "CPUs";
    GlobalDefs: "checker_cpu_affinity", Words("CPU…"), "", C, Never(T::Processes), "CPUs";
    GlobalDefs: "bfd_cpu_affinity", Words("CPU…"), "", C, Never(T::Processes), "CPUs";
    GlobalDefs: "vrrp_rlimit_rttime", Int { min: 1, max: U32 }, "off", C, Acts, "µs of CPU without a system call";
    GlobalDefs: "checker_rlimit_rttime", Int { min: 1, max: U32 }, "10000", C, Never(T::Processes), "µs of CPU without a system call";
    GlobalDefs: "bfd_rlimit_rttime", Int { min: 1, max: U32 }, "10000", C, Never(T::Processes), "µs of CPU without a system call";
    GlobalDefs: "vrrp_rlimit_rtime", Int { min: 1, max: U32 }, "", C, Acts, "old name of vrrp_rlimit_rttime";
    GlobalDefs: "checker_rlimit_rtime", Int { min: 1, max: U32 }, "", C, Never(T::Processes), "old name of checker_rlimit_rttime";
    GlobalDefs: "bfd_rlimit_rtime", Int { min: 1, max: U32 }, "", C, Never(T::Processes), "old name of bfd_rlimit_rttime";
    // ---- global_defs: VRRP
    GlobalDefs: "dynamic_interfaces", Optional("[allow_if_changes]"), "off", B, Acts, "interfaces may be absent at start";
    GlobalDefs: "default_interface", Word("IF"), "eth0", C, Acts, "interface of static addresses";
    GlobalDefs: "vrrp_version", Int { min: 2, max: 3 }, "2", B, Acts, "version of instances that do not say";
    GlobalDefs: "vrrp_mcast_group4", Address, "224.0.0.18", C, Acts, "multicast group of IPv4 instances";
    GlobalDefs: "vrrp_mcast_group6", Address, "ff02::12", C, Acts, "multicast group of IPv6 instances";
    GlobalDefs: "vrrp_garp_master_delay", Int { min: 0, max: 4294 }, "5", A, Acts, "seconds until gratuitous ARP goes out again; 0: only once";
    GlobalDefs: "vrrp_garp_master_repeat", Int { min: 0, max: U32 }, "5", A, Acts, "gratuitous ARP messages in a batch";
    GlobalDefs: "vrrp_garp_master_refresh", Int { min: 0, max: U32 }, "0", A, Acts, "seconds between batches while master; 0: none";
    GlobalDefs: "vrrp_garp_master_refresh_repeat", Int { min: 0, max: U32 }, "1", A, Acts, "messages in such a batch";
    GlobalDefs: "vrrp_garp_lower_prio_delay", Int { min: 0, max: 4294 }, "as vrrp_garp_master_delay", B, Acts, "seconds until the second batch after hearing a lower priority";
    GlobalDefs: "vrrp_garp_lower_prio_repeat", Int { min: 0, max: U32 }, "as vrrp_garp_master_repeat", B, Acts, "messages in such a batch";
    GlobalDefs: "vrrp_garp_interval", Seconds { min: 0, max: LONG }, "0", B, Acts, "gap between gratuitous ARP messages";
    GlobalDefs: "vrrp_gna_interval", Seconds { min: 0, max: LONG }, "0", B, Acts, "gap between unsolicited neighbour advertisements";
    GlobalDefs: "vrrp_min_garp", Bool, "off", C, Acts, "a single message only";
    GlobalDefs: "vrrp_garp_extra_if", Words("[all] SECONDS"), "0 (off)", C, Acts, "refresh on other interfaces";
    GlobalDefs: "vrrp_vmac_garp_intvl", Words("[all] SECONDS"), "off", C, Acts, "old name of vrrp_garp_extra_if";
    GlobalDefs: "vrrp_down_timer_adverts", Int { min: 1, max: 100 }, "3", B, Acts, "missed adverts until a backup takes over";
    GlobalDefs: "vrrp_lower_prio_no_advert", Bool, "off", C, Acts, "a master does not answer lower priorities";
    GlobalDefs: "vrrp_higher_prio_send_advert", Bool, "off", C, Acts, "a last advert before giving way";
    GlobalDefs: "vrrp_owner_ignore_adverts", Bool, "off", C, Acts, "the owner of the addresses does not listen";
    GlobalDefs: "vrrp_check_unicast_src", Nothing, "off", B, Acts, "adverts only from configured peers";
    GlobalDefs: "vrrp_skip_check_adv_addr", Nothing, "off", B, Never(T::VrrpDetail), "no comparison of the VIP list; lbd only logs a difference";
    GlobalDefs: "vrrp_strict", Nothing, "off", B, Acts, "RFC mode: no authentication, unicast, preempt_delay or state MASTER below 255; lower priorities are not answered";
    GlobalDefs: "vrrp_iptables", Optional("[IN [OUT]]"), "INPUT OUTPUT", C, Never(T::Firewall), "iptables chains";
    GlobalDefs: "vrrp_ipsets", Optional("[NAME…]"), "on", C, Never(T::Firewall), "ipset names";
    GlobalDefs: "nftables", Optional("[TABLE]"), "keepalived", C, Later(T::Firewall), "nftables table";
    GlobalDefs: "nftables_priority", Int { min: -2_147_483_648, max: 2_147_483_647 }, "-1", C, Acts, "priority of its chains";
    GlobalDefs: "nftables_counters", Nothing, "off", C, Acts, "counters in rules";
    GlobalDefs: "nftables_ifindex", Nothing, "off", C, Later(T::Firewall), "interfaces by index";
    GlobalDefs: "nftables_ipvs", Optional("[TABLE]"), "keepalived_ipvs", C, Never(T::Ipvs), "table of firewall marks";
    GlobalDefs: "nftables_ipvs_priority", Int { min: -2_147_483_648, max: 2_147_483_647 }, "", C, Never(T::Ipvs), "its priority";
    GlobalDefs: "nftables_ipvs_start_fwmark", Int { min: 1, max: U32 }, "1000", C, Never(T::Ipvs), "first firewall mark";
    GlobalDefs: "vrrp_startup_delay", Seconds { min: 0, max: LONG }, "0", B, Acts, "wait before VRRP starts";
    GlobalDefs: "vrrp_delay_after_boot", Seconds { min: 0, max: LONG }, "0", B, Acts, "VRRP starts so long after boot at the earliest";
    GlobalDefs: "vrrp_rx_bufs_policy", Words("MTU | ADVERT | BYTES"), "", C, Never(T::Buffers), "receive buffer";
    GlobalDefs: "vrrp_rx_bufs_multiplier", Int { min: 1, max: U32 }, "3", C, Never(T::Buffers), "receive buffer";
    GlobalDefs: "disable_local_igmp", Nothing, "off", C, Later(T::VrrpDetail), "no IGMP for the VRRP group";
    GlobalDefs VrrpInstance: "v3_checksum_as_v2", Bool, "off", C, Acts, "VRRPv3 over IPv4 is sent with the checksum of RFC 9568, without pseudo-header; both are accepted";
    GlobalDefs: "log_unknown_vrids", Nothing, "off", C, Later(T::VrrpDetail), "log adverts of foreign VRIDs";
    GlobalDefs: "vmac_prefix", Word("PREFIX"), "vrrp", C, Acts, "names of virtual MAC interfaces";
    GlobalDefs: "vmac_addr_prefix", Word("PREFIX"), "vmac_prefix", C, Acts, "names of virtual MAC interfaces of single addresses (`use_vmac_addr`)";
    // ---- global_defs: events
    GlobalDefs: "notify_fifo", Words("FILE [USER [GROUP]]"), "", B, Acts, "pipe for all events; lines wait for a reader, the last state of an object always";
    GlobalDefs: "notify_fifo_script", Command { user: true }, "", B, Acts, "is started with the pipe as its last word to read it, and again when it ends";
    GlobalDefs: "vrrp_notify_fifo", Words("FILE [USER [GROUP]]"), "", B, Acts, "pipe for VRRP events";
    GlobalDefs: "vrrp_notify_fifo_script", Command { user: true }, "", B, Acts, "is started with the pipe as its last word to read it, and again when it ends";
    GlobalDefs: "lvs_notify_fifo", Words("FILE [USER [GROUP]]"), "", B, Acts, "pipe for events of real servers";
    GlobalDefs: "lvs_notify_fifo_script", Command { user: true }, "", B, Acts, "is started with the pipe as its last word to read it, and again when it ends";
    GlobalDefs: "vrrp_notify_priority_changes", Bool, "off", C, Acts, "events for priority changes";
    GlobalDefs: "fifo_write_vrrp_states_on_reload", Nothing, "off", C, Acts, "states again after a reload";
    GlobalDefs: "rs_init_notifies", Nothing, "off", C, Later(T::CheckerDetail), "notify_up at start too";
    GlobalDefs: "checker_log_all_failures", Bool, "off", C, Later(T::CheckerDetail), "log every failed check";
    // ---- global_defs: IPVS
    GlobalDefs: "lvs_timeouts", Words("tcp N tcpfin N udp N"), "of the kernel", C, Later(T::Ipvs), "IPVS timeouts; ours is idle_timeout";
    GlobalDefs: "lvs_flush", Nothing, "off", B, Never(T::Ipvs), "clears IPVS at start";
    GlobalDefs: "lvs_flush_on_stop", Optional("[VS]"), "off", B, Never(T::Ipvs), "clears IPVS at exit";
    GlobalDefs: "lvs_flush_onstop", Optional("[VS]"), "off", C, Never(T::Ipvs), "old name of lvs_flush_on_stop";
    GlobalDefs: "lvs_sync_daemon", Words("IF [INSTANCE] [id N] …"), "", B, Never(T::Ipvs), "connection sync of IPVS";
    // ---- global_defs: SNMP, DBus, buffers
    GlobalDefs: "snmp_socket", Word("SOCKET"), "", C, Never(T::Snmp), "AgentX socket";
    GlobalDefs: "enable_traps", Nothing, "off", C, Never(T::Snmp), "traps";
    GlobalDefs: "enable_snmp_vrrp", Nothing, "off", C, Never(T::Snmp), "VRRP objects";
    GlobalDefs: "enable_snmp_keepalived", Nothing, "off", C, Never(T::Snmp), "old name of enable_snmp_vrrp";
    GlobalDefs: "enable_snmp_rfc", Nothing, "off", C, Never(T::Snmp), "RFC 2787 and 6527 objects";
    GlobalDefs: "enable_snmp_rfcv2", Nothing, "off", C, Never(T::Snmp), "RFC 2787 objects";
    GlobalDefs: "enable_snmp_rfcv3", Nothing, "off", C, Never(T::Snmp), "RFC 6527 objects";
    GlobalDefs: "enable_snmp_checker", Nothing, "off", C, Never(T::Snmp), "objects of real servers";
    GlobalDefs: "snmp_vs_stats_update_interval", Seconds { min: 1_000, max: 30_000_000 }, "5", C, Never(T::Snmp), "pace of statistics";
    GlobalDefs: "snmp_rs_stats_update_interval", Seconds { min: 1_000, max: 30_000_000 }, "5", C, Never(T::Snmp), "pace of statistics";
    GlobalDefs: "enable_dbus", Nothing, "off", C, Never(T::Dbus), "DBus interface";
    GlobalDefs: "dbus_service_name", Word("NAME"), "org.keepalived.Vrrp1", C, Never(T::Dbus), "its name";
    GlobalDefs: "dbus_no_interface_name", Nothing, "off", C, Never(T::Dbus), "object paths without the interface";
    GlobalDefs: "vrrp_netlink_cmd_rcv_bufs", Int { min: 0, max: U32 }, "", C, Never(T::Buffers), "netlink buffer in bytes";
    GlobalDefs: "vrrp_netlink_cmd_rcv_bufs_force", Bool, "", C, Never(T::Buffers), "beyond the system's limit";
    GlobalDefs: "vrrp_netlink_monitor_rcv_bufs", Int { min: 0, max: U32 }, "", C, Never(T::Buffers), "netlink buffer in bytes";
    GlobalDefs: "vrrp_netlink_monitor_rcv_bufs_force", Bool, "", C, Never(T::Buffers), "beyond the system's limit";
    GlobalDefs: "lvs_netlink_cmd_rcv_bufs", Int { min: 0, max: U32 }, "", C, Never(T::Buffers), "netlink buffer in bytes";
    GlobalDefs: "lvs_netlink_cmd_rcv_bufs_force", Bool, "", C, Never(T::Buffers), "beyond the system's limit";
    GlobalDefs: "lvs_netlink_monitor_rcv_bufs", Int { min: 0, max: U32 }, "", C, Never(T::Buffers), "netlink buffer in bytes";
    GlobalDefs: "lvs_netlink_monitor_rcv_bufs_force", Bool, "", C, Never(T::Buffers), "beyond the system's limit";
    GlobalDefs: "process_monitor_rcv_bufs", Int { min: 0, max: U32 }, "", C, Never(T::Buffers), "process connector buffer in bytes";
    GlobalDefs: "process_monitor_rcv_bufs_force", Bool, "", C, Never(T::Buffers), "beyond the system's limit";
    // ---- global_defs: reload and files
    GlobalDefs: "reload_check_config", Optional("[LOG]"), "off", B, Never(T::Reload), "check a file before it is loaded";
    GlobalDefs: "reload_time_file", Word("FILE"), "", C, Later(T::Files), "time of the next reload";
    GlobalDefs: "reload_repeat", Nothing, "off", C, Later(T::Files), "reload at that time every day";
    GlobalDefs: "reload_file", Optional("[FILE]"), "", C, Later(T::Files), "handshake file of reloads";
    GlobalDefs: "config_save_dir", Word("DIR"), "", C, Later(T::Files), "keeps copies of loaded configurations";
    GlobalDefs: "tmp_config_directory", Word("DIR"), "", C, Never(T::Files), "where the consolidated configuration is kept; lbd needs no such copy";
    GlobalDefs: "json_version", Int { min: 1, max: 2 }, "1", C, Acts, "form of the JSON dump";
    GlobalDefs: "data_use_instance", Bool, "off", C, Acts, "instance name in names of dump files";
    GlobalDefs: "state_dump_file", Word("FILE"), "/tmp/keepalived.data", C, Acts, "state dump";
    GlobalDefs: "stats_dump_file", Word("FILE"), "/tmp/keepalived.stats", C, Acts, "statistics dump";
    GlobalDefs: "json_dump_file", Word("FILE"), "/tmp/keepalived.json", C, Acts, "JSON dump";
    GlobalDefs: "umask", Words("MODE"), "022", C, Never(T::Files), "of files that are written";
    GlobalDefs: "random_seed", Int { min: 0, max: U32 }, "from the host's id", C, Acts, "seed of $_RANDOM from here on";
    GlobalDefs: "iproute_usr_dir", Word("DIR"), "", C, Later(T::Static), "names of routing tables";
    GlobalDefs: "iproute_etc_dir", Word("DIR"), "", C, Later(T::Static), "names of routing tables";
    // ---- global_defs: ours
    GlobalDefs: "notify_timeout", Time { min: 1_000_000, max: 3_600_000_000 }, "30", B, Ours, "how long a notify script may keep a later one of its object waiting; then it is ended: TERM, and KILL two seconds later";
    GlobalDefs: "metrics_listen", Socket, "off", A, Ours, "address of /metrics and the status page";
    GlobalDefs: "lvs_flow_table", Int { min: 1024, max: 16_777_216 }, "131072", B, Ours, "rows in the table of established connections of each address family; a full table takes no new ones, established ones stay";
    GlobalDefs: "lvs_hook", Choice(&["auto", "xdp", "tc"]), "auto", B, Ours, "where the program meets packets: auto takes tc on veth, bridge and tap and where a driver refuses native XDP, else XDP";
    GlobalDefs: "lvs_xdp_mode", Choice(&["auto", "native", "generic"]), "auto", B, Ours, "how the XDP program is attached; native and generic ask for XDP on every interface, generic only by name";
    GlobalDefs: "flow_sync", Nothing, "off", A, Ours, "connections are told to the other hosts, so that they go on there after a fail-over", opens FlowSync;
    FlowSync: "key", Words("hex:DIGITS | TEXT | file:PATH"), "", A, Ours, "key of 32 to 64 bytes, the same on all hosts; without it there is no flow sync";
    FlowSync: "peer", Address, "those of unicast_peer", A, Ours, "address of another host; datagrams from others are not read" + many;
    FlowSync: "multicast", Address, "", B, Ours, "group in place of peers; needs interface";
    FlowSync: "interface", Word("IF"), "by the route", B, Ours, "the only one that datagrams go out of and come in by";
    FlowSync: "source", Address, "unicast_src_ip where unicast_peer is taken, else by the route", B, Ours, "source address, which the other hosts name as their peer";
    FlowSync: "port", Int { min: 1, max: 65_535 }, "8849", C, Ours, "UDP port, the same on all hosts";
    FlowSync: "timeout", Time { min: 1_000_000, max: 60_000_000 }, "5", B, Ours, "a host that starts holds mastership back until it has the connections of every peer that answers, at most so long; 1 s when none answers";
    // ---- entries of lists
    NotificationEmail: "ADDRESS", Nothing, "", A, Acts, "one recipient a line" + many;
    NameList: "NAME", Nothing, "", A, Acts, "one instance a line" + many;
    StaticObjects: "OBJECT", Nothing, "", B, Acts, "address, route or rule as in ip(8)" + many;
    InterfaceList: "IF", Nothing, "", C, Acts, "one interface a line" + many;
    // ---- IPVS family word shared by virtual_server
    VirtualServer: "ip_family", Choice(FAMILY), "from the address", C, Never(T::Ipvs), "family of a firewall mark";
    BfdInstance: "passive", Nothing, "off", C, Later(T::Bfd), "waits for the neighbour to begin";
    BfdInstance: "neighbor_ip", Address, "", B, Later(T::Bfd), "the neighbour";
    BfdInstance: "neighbour_ip", Address, "", C, Later(T::Bfd), "old name of neighbor_ip";
    BfdInstance: "source_ip", Address, "", B, Later(T::Bfd), "source address";
    BfdInstance: "min_rx", Millis { min: 1, max: 4_294_967 }, "10 ms", B, Later(T::Bfd), "milliseconds between packets that we can take";
    BfdInstance: "min_tx", Millis { min: 1, max: 4_294_967 }, "10 ms", B, Later(T::Bfd), "milliseconds between packets that we send";
    BfdInstance: "idle_tx", Millis { min: 1_000, max: 4_294_967 }, "1000 ms", C, Later(T::Bfd), "the same while the neighbour is silent";
    BfdInstance: "multiplier", Int { min: 1, max: 255 }, "5", B, Later(T::Bfd), "missed packets until down";
    BfdInstance: "ttl", Int { min: 1, max: 255 }, "255", C, Later(T::Bfd), "of our packets";
    BfdInstance: "hoplimit", Int { min: 1, max: 255 }, "64", C, Later(T::Bfd), "of our packets";
    BfdInstance: "max_hops", Int { min: -1, max: 255 }, "0", C, Later(T::Bfd), "hops that packets may have taken";
    BfdInstance: "multihop", Nothing, "off", C, Later(T::Bfd), "neighbour behind routers";
    BfdInstance: "weight", Words("N [reverse]"), "0", B, Later(T::Bfd), "priority change";
    BfdInstance: "vrrp", Nothing, "on", C, Later(T::Bfd), "events for instances only";
    BfdInstance: "checker", Nothing, "on", C, Later(T::Bfd), "events for real servers only";
}
