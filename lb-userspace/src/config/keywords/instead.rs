//! What to use, or what happens anyway, in place of single words that lbd does not act on; the others have
//! the sentence of their subject ([`Topic::consequence`]).

use super::{Keyword, Status, Topic};

/// What an operator does instead: each names a word of this language, a program or one of its options.
const INSTEAD: [(&str, &str); 29] = [
    (
        "bfd_instance",
        "there is no BFD session; with `version 3` and `advert_int 0.1` a dead peer is noticed within 0.4 s",
    ),
    (
        "bind_if",
        "the probe runs without it; use `bindto` with an address of that interface, and `static_rules` for its routes",
    ),
    ("bind_port", "the kernel chooses the port; `bindto` gives probes an address of their own"),
    (
        "checker_log_all_failures",
        "`metrics_listen` serves lbd_probe_failures_total, which counts them; the log has changes",
    ),
    ("config_save_dir", "`lbctl config` prints what is in force"),
    ("debug", "`lbd -D` logs more"),
    (
        "fast_recovery",
        "each probe gets every `url` at once: `delay_loop` is waited once, and not for each page",
    ),
    (
        "fwmark",
        "the probe runs without it; use `bindto`, and `static_rules` with `from` that address",
    ),
    (
        "ha_suspend",
        "checks run whether or not the VIP is here; a longer `delay_loop` makes them fewer",
    ),
    ("instance", "use `lbd --instance NAME`"),
    (
        "log_all_failures",
        "`metrics_listen` serves lbd_probe_failures_total, which counts them; the log has changes",
    ),
    ("log_unknown_vrids", "`lbctl status` counts them by interface and VRID"),
    ("lvs_process_name", "`process_name` names all of them"),
    ("lvs_sync_daemon", "use `flow_sync`: connections go on at the other host"),
    ("lvs_sync_daemon_interface", "use `flow_sync`: connections go on at the other host"),
    ("lvs_timeouts", "use `idle_timeout` in virtual_server"),
    ("net_namespace", "start `lbd` inside the namespace: ip netns exec NAME lbd"),
    ("net_namespace_ipvs", "start `lbd` inside the namespace: ip netns exec NAME lbd"),
    ("regex_stack", "there is nothing to set: `regex` runs in bounded time and memory"),
    ("reload_file", "`lbctl reload` waits until it is done and says how it ended"),
    ("reload_repeat", "let a timer of the service manager run `lbctl reload`"),
    ("reload_time_file", "let a timer of the service manager run `lbctl reload`"),
    (
        "skip_check_adv_addr",
        "another list of VIPs is only logged; `check_adv_addr` discards such adverts",
    ),
    (
        "SSL",
        "the probe runs without it; use `MISC_CHECK` with curl --cert where a certificate is wanted",
    ),
    (
        "tls_compliant",
        "use `status_code` alone where a server ends TLS abruptly: a code that came counts",
    ),
    (
        "track_bfd",
        "there is no BFD session; use `track_script` with a script that asks this host's BFD daemon",
    ),
    ("use_pid_dir", "pid files are in the directory of `lbd --run-dir`"),
    ("virtual_server_group", "write one `virtual_server IP PORT` for each VIP"),
    (
        "vrrp_skip_check_adv_addr",
        "another list of VIPs is only logged; `check_adv_addr` discards such adverts",
    ),
];

/// What happens anyway, so that there is nothing to do instead.
const ANYWAY: [(&str, &str); 13] = [
    ("child_wait_time", "lbd decides itself how long a stop waits for its processes"),
    ("disable_local_igmp", "the group is joined as by any program"),
    ("lvs_flush", "lbd removes its own services only"),
    ("lvs_flush_on_stop", "lbd removes its own services only"),
    ("lvs_flush_onstop", "lbd removes its own services only"),
    ("persistence_engine", "persistence by SIP call is IPVS's alone"),
    ("rs_init_notifies", "notify_up runs when a server comes up, not at the start"),
    ("set_supplementary_groups", "scripts run with their user's group alone"),
    ("sorry_server_inhibit", "while it stands in the others take no new connections"),
    ("sorry_server_lvs_method", "it is reached by the method of its virtual_server"),
    ("tmp_config_directory", "lbd makes no such copy"),
    ("umask", "files of lbd have modes of their own"),
    ("use_symlink_paths", "links on a script's path are followed, and each is checked"),
];

impl Keyword {
    /// What it means for the operator that lbd does not act on it. Empty for a word that acts.
    pub fn consequence(&self) -> &'static str {
        let topic = match self.status {
            Status::Acts | Status::Ours => return "",
            Status::Later(topic) | Status::Never(topic) | Status::Refused(topic) => topic,
        };
        let own = INSTEAD.iter().chain(&ANYWAY).find(|(name, _)| *name == self.name);
        own.map_or_else(|| Topic::consequence(topic), |(_, text)| text)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::all, *};

    #[test]
    fn words_that_do_not_act_say_what_does_and_only_they() {
        for (name, text) in INSTEAD.into_iter().chain(ANYWAY) {
            // `fwmark` of a rule acts, and has nothing to say.
            let idle = |it: &&Keyword| !matches!(it.status, Status::Acts | Status::Ours);
            let rows: Vec<_> = all().filter(|it| it.name == name).filter(idle).collect();
            assert!(!rows.is_empty() && !text.is_empty(), "{name} acts");
            assert!(rows.iter().all(|it| it.consequence() == text), "{name} is there twice");
        }
        for keyword in all() {
            let acts = matches!(keyword.status, Status::Acts | Status::Ours);
            assert_eq!(acts, keyword.consequence().is_empty(), "{}", keyword.name);
        }
    }

    /// Words that a text recommends are words that act, and each text recommends one.
    #[test]
    fn what_is_recommended_acts() {
        for (name, text) in INSTEAD {
            let mut named = 0;
            for word in text.split('`').skip(1).step_by(2) {
                let word = word.split(' ').next().unwrap_or_default();
                let acts = all()
                    .any(|it| it.name == word && matches!(it.status, Status::Acts | Status::Ours));
                assert!(acts || ["lbd", "lbctl"].contains(&word), "{name}: {word}");
                named += 1;
            }
            assert!(named > 0, "{name} names nothing that could be used");
        }
        for name in [
            "bfd_instance",
            "track_bfd",
            "SSL",
            "bind_port",
            "bind_if",
            "fwmark",
            "fast_recovery",
            "tls_compliant",
            "regex_stack",
            "ha_suspend",
        ] {
            assert!(INSTEAD.iter().any(|(word, _)| *word == name), "{name}");
        }
    }
}
