//! What to use, or what happens anyway, in place of single words that lbd does not act on; the others have
//! the sentence of their subject ([`Topic::consequence`]).

use super::{Keyword, Status, Topic};

const INSTEAD: [(&str, &str); 31] = [
    (
        "checker_log_all_failures",
        "/metrics counts failures (lbd_probe_failures_total); the log has changes",
    ),
    ("child_wait_time", "lbd decides itself how long a stop waits for its processes"),
    ("config_save_dir", "`lbctl config` prints what is in force"),
    ("debug", "`lbd -D` logs more"),
    ("disable_local_igmp", "the group is joined as by any program"),
    ("instance", "use `lbd --instance NAME`"),
    (
        "log_all_failures",
        "/metrics counts failures (lbd_probe_failures_total); the log has changes",
    ),
    ("log_unknown_vrids", "`lbctl status` counts them by interface and VRID"),
    ("lvs_flush", "lbd removes its own services only"),
    ("lvs_flush_on_stop", "lbd removes its own services only"),
    ("lvs_flush_onstop", "lbd removes its own services only"),
    ("lvs_sync_daemon", "use `flow_sync`: connections go on at the other host"),
    ("lvs_sync_daemon_interface", "use `flow_sync`: connections go on at the other host"),
    ("lvs_timeouts", "use `idle_timeout` in virtual_server"),
    ("net_namespace_ipvs", "start lbd inside the namespace instead"),
    ("persistence_engine", "persistence by SIP call is IPVS's alone"),
    ("reload_file", "`lbctl reload` waits until it is done and says how it ended"),
    ("reload_repeat", "let a timer of the service manager run `lbctl reload`"),
    ("reload_time_file", "let a timer of the service manager run `lbctl reload`"),
    ("rs_init_notifies", "notify_up runs when a server comes up, not at the start"),
    ("set_supplementary_groups", "scripts run with their user's group alone"),
    (
        "skip_check_adv_addr",
        "another list of VIPs is only logged; `check_adv_addr` discards such adverts",
    ),
    ("sorry_server_inhibit", "while it stands in the others take no new connections"),
    ("sorry_server_lvs_method", "it is reached by the method of its virtual_server"),
    ("tmp_config_directory", "lbd makes no such copy"),
    ("umask", "files of lbd have modes of their own"),
    ("use_pid_dir", "pid files are in the directory of `lbd --run-dir`"),
    ("use_symlink_paths", "links on a script's path are followed, and each is checked"),
    ("virtual_server_group", "write one `virtual_server IP PORT` for each VIP"),
    (
        "vrrp_skip_check_adv_addr",
        "another list of VIPs is only logged; `check_adv_addr` discards such adverts",
    ),
    ("lvs_process_name", "`process_name` names all of them"),
];

impl Keyword {
    /// What it means for the operator that lbd does not act on it. Empty for a word that acts.
    pub fn consequence(&self) -> &'static str {
        let topic = match self.status {
            Status::Acts | Status::Ours => return "",
            Status::Later(topic) | Status::Never(topic) | Status::Refused(topic) => topic,
        };
        let own = INSTEAD.iter().find(|(name, _)| *name == self.name);
        own.map_or_else(|| Topic::consequence(topic), |(_, text)| text)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::all, *};

    #[test]
    fn words_that_do_not_act_say_what_does_and_only_they() {
        for (name, text) in INSTEAD {
            let rows: Vec<_> = all().filter(|it| it.name == name).collect();
            assert!(!rows.is_empty() && !text.is_empty(), "{name}");
            assert!(rows.iter().all(|it| it.consequence() == text), "{name} acts");
        }
        for keyword in all() {
            let acts = matches!(keyword.status, Status::Acts | Status::Ours);
            assert_eq!(acts, keyword.consequence().is_empty(), "{}", keyword.name);
        }
    }

    /// Words that a text recommends are words that act.
    #[test]
    fn what_is_recommended_acts() {
        for (name, text) in INSTEAD {
            for word in text.split('`').skip(1).step_by(2) {
                let word = word.split(' ').next().unwrap_or_default();
                let acts = all()
                    .any(|it| it.name == word && matches!(it.status, Status::Acts | Status::Ours));
                assert!(acts || ["lbd", "lbctl"].contains(&word), "{name}: {word}");
            }
        }
    }
}
