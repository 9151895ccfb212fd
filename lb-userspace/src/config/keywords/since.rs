//! Since which keepalived a word is known: read from the parsers of its releases 2.2.7 to 2.4.3 and of
//! its master of 2026-08.

use super::{Block, Keyword, Status};

/// Words that came after 2.2.7, which Debian 12 has.
const SINCE: [(&str, &str); 26] = [
    ("active_key", "2.4.0"),
    ("anti_replay", "2.4.0"),
    ("auth_hmac", "2.4.0"),
    ("dbus_no_interface_name", "2.3.0"),
    ("iproute_etc_dir", "2.3.2"),
    ("iproute_usr_dir", "2.3.2"),
    ("json_dump_file", "2.3.3"),
    ("json_version", "2.2.8"),
    ("mode", "2.4.0"),
    ("multihop", "2.2.8"),
    ("no_virtual_ipaddress", "2.2.8"),
    ("owner_ignore_adverts", "2.3.3"),
    ("set_supplementary_groups", "after 2.4.3"),
    ("sni_name", "after 2.4.3"),
    ("snmp_rs_stats_update_interval", "2.3.0"),
    ("snmp_vs_stats_update_interval", "2.3.0"),
    ("state_dump_file", "2.3.3"),
    ("stats_dump_file", "2.3.3"),
    ("thread_timer_expired", "2.3.2"),
    ("time_window", "2.4.0"),
    ("timer_expired_backup", "2.2.8"),
    ("tls_compliant", "2.2.8"),
    ("use_symlink_paths", "2.3.0"),
    ("v3_checksum_as_v2", "2.2.8"),
    ("vrrp_delay_after_boot", "2.4.0"),
    ("vrrp_owner_ignore_adverts", "2.3.3"),
];

impl Keyword {
    /// The first keepalived that knows the word; empty: 2.2.7 and perhaps earlier. `lbd`: ours.
    pub fn since(&self) -> &'static str {
        if self.status == Status::Ours {
            return "lbd";
        }
        // `key` is also a word of SSL, which is old.
        if self.blocks == [Block::AuthHmac] {
            return "2.4.0";
        }
        SINCE.iter().find(|(name, _)| *name == self.name).map_or("", |(_, version)| version)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::all, *};

    #[test]
    fn new_words_say_since_when_and_old_ones_nothing() {
        let since = |name: &str| all().find(|it| it.name == name).expect("a row").since();
        assert_eq!(since("auth_hmac"), "2.4.0");
        assert_eq!(since("json_dump_file"), "2.3.3");
        assert_eq!(since("MYSQL_CHECK"), "lbd");
        assert_eq!(since("priority"), "");
        for (name, _) in SINCE {
            assert!(all().any(|it| it.name == name), "{name} is in no row");
        }
    }
}
