//! Words that stand alone where a value belongs: keepalived ends its look at such a file with code 2, but for
//! those whose argument it looks for itself, which are faults like others.

use super::Block;

const LOOKED_FOR: [(Block, &[&str]); 13] = [
    (
        Block::Root,
        &[
            "include",
            "includea",
            "includeb",
            "includem",
            "includer",
            "includew",
            "instance",
            "net_namespace",
            "track_group",
            "vrrp_instance",
            "vrrp_sync_group",
        ],
    ),
    (
        Block::GlobalDefs,
        &[
            "bfd_cpu_affinity",
            "bfd_priority",
            "bfd_rt_priority",
            "checker_cpu_affinity",
            "checker_priority",
            "checker_rt_priority",
            "dbus_service_name",
            "default_interface",
            "lvs_netlink_cmd_rcv_bufs",
            "lvs_netlink_monitor_rcv_bufs",
            "lvs_notify_fifo",
            "lvs_notify_fifo_script",
            "lvs_sync_daemon",
            "lvs_timeouts",
            "min_auto_priority_delay",
            "notification_email_from",
            "notify_fifo",
            "notify_fifo_script",
            "process_monitor_rcv_bufs",
            "reload_time_file",
            "router_id",
            "script_user",
            "shutdown_script",
            "shutdown_script_timeout",
            "snmp_socket",
            "startup_script",
            "startup_script_timeout",
            "tmp_config_directory",
            "vrrp_cpu_affinity",
            "vrrp_netlink_cmd_rcv_bufs",
            "vrrp_netlink_monitor_rcv_bufs",
            "vrrp_notify_fifo",
            "vrrp_notify_fifo_script",
            "vrrp_priority",
            "vrrp_rt_priority",
            "vrrp_rx_bufs_multiplier",
            "vrrp_rx_bufs_policy",
        ],
    ),
    (Block::VrrpInstance, &["kernel_rx_buf_size"]),
    // Without its command the script is left out, as one without `script`.
    (Block::VrrpScript, &["script"]),
    (Block::TrackProcess, &["weight"]),
    (Block::TrackFile, &["file", "weight"]),
    (Block::VirtualServer, &["snmp_name", "sorry_server_lvs_method", "virtualhost"]),
    (Block::RealServer, &["snmp_name", "virtualhost"]),
    (Block::MiscCheck, &["misc_path", "user"]),
    (Block::HttpGet, &["http_protocol", "virtualhost"]),
    (Block::Url, &["virtualhost"]),
    (Block::UdpCheck, &["payload"]),
    (Block::SmtpCheck, &["helo_name"]),
];

/// Whether keepalived looks for the argument of this word itself.
pub fn looks_itself(block: Block, name: &str) -> bool {
    LOOKED_FOR.iter().any(|(of, names)| *of == block && names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::{super::find, *};

    #[test]
    fn each_is_a_word_that_wants_an_argument() {
        for (block, names) in LOOKED_FOR {
            assert!(names.is_sorted(), "{block:?}");
            for name in names {
                let row = find(block, name).unwrap_or_else(|| panic!("{name} in {block:?}"));
                assert!(row.argument.is_required(), "{name} in {block:?}");
            }
        }
    }
}
