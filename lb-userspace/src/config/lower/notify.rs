//! What tells of changes: the words that `vrrp_instance` and `vrrp_sync_group` share, FIFOs, mail,
//! scripts around the daemon's life.

use std::time::Duration;

use super::{
    super::{
        model::{Command, Fifo, MailServer, NotifyWords, Timed, User},
        value,
    },
    Entry, Lower,
};

impl Lower<'_> {
    /// What holds before a block's own words.
    pub(super) fn notify_words(&self) -> NotifyWords {
        let global = &self.config.global;
        NotifyWords {
            priority_changes: global.vrrp_notify_priority_changes,
            mail: global.smtp_alert_vrrp.or(global.smtp_alert).unwrap_or(false),
            mail_faults: !global.no_email_faults,
            ..NotifyWords::default()
        }
    }

    /// Takes a word of an instance or a sync group; false when it is none of these.
    pub(super) fn notify_word(&mut self, entry: &Entry<'_>, words: &mut NotifyWords) -> bool {
        match entry.name() {
            "notify_master" => words.master = self.notify_command(entry),
            "notify_backup" => words.backup = self.notify_command(entry),
            "notify_fault" => words.fault = self.notify_command(entry),
            "notify_stop" => words.stop = self.notify_command(entry),
            "notify_deleted" => {
                words.tells_deleted = true;
                if !entry.args().is_empty() {
                    words.deleted = self.notify_command(entry);
                }
            }
            "notify_master_rx_lower_pri" => words.master_rx_lower_pri = self.notify_command(entry),
            "notify" => words.any = self.notify_command(entry),
            "notify_priority_changes" => {
                words.priority_changes = self.bool(entry, words.priority_changes);
            }
            "smtp_alert" => words.mail = self.wants_mail(entry, words.mail),
            _ => return false,
        }
        true
    }

    /// The `smtp_alert` of an object.
    pub(super) fn wants_mail(&mut self, entry: &Entry<'_>, now: bool) -> bool {
        let wanted = self.bool(entry, now);
        if wanted {
            self.marks.mail.get_or_insert(entry.head());
        }
        wanted
    }

    /// A command with its user, `script_user` when it names none.
    pub(super) fn notify_command(&mut self, entry: &Entry<'_>) -> Option<Command> {
        let user = self.config.global.script_user.clone();
        self.command(entry, user)
    }

    /// Default of `smtp_alert` of a virtual server (false) or a real server (true).
    pub(super) fn checker_mail(&self, real: bool) -> bool {
        let global = &self.config.global;
        global.smtp_alert_checker.or(global.smtp_alert).unwrap_or(real)
    }

    /// Takes a word of `global_defs`; false when it is none of these.
    pub(super) fn global_notify_word(&mut self, entry: &Entry<'_>) -> bool {
        match entry.name() {
            "notify_fifo" => self.config.global.notify_fifo.path = self.fifo(entry),
            "vrrp_notify_fifo" => self.config.global.vrrp_notify_fifo.path = self.fifo(entry),
            "lvs_notify_fifo" => self.config.global.lvs_notify_fifo.path = self.fifo(entry),
            "notify_fifo_script" => {
                self.config.global.notify_fifo.script = self.notify_command(entry);
            }
            "vrrp_notify_fifo_script" => {
                self.config.global.vrrp_notify_fifo.script = self.notify_command(entry);
            }
            "lvs_notify_fifo_script" => {
                self.config.global.lvs_notify_fifo.script = self.notify_command(entry);
            }
            "vrrp_notify_priority_changes" => {
                let now = self.config.global.vrrp_notify_priority_changes;
                self.config.global.vrrp_notify_priority_changes = self.bool(entry, now);
            }
            "fifo_write_vrrp_states_on_reload" => {
                self.config.global.fifo_write_vrrp_states_on_reload = true;
            }
            "startup_script" => {
                self.config.global.startup_script.command = self.notify_command(entry);
            }
            "shutdown_script" => {
                self.config.global.shutdown_script.command = self.notify_command(entry);
            }
            "startup_script_timeout" => {
                self.config.global.startup_script.timeout = self.script_timeout(entry);
            }
            "shutdown_script_timeout" => {
                self.config.global.shutdown_script.timeout = self.script_timeout(entry);
            }
            "notify_timeout" => {
                if let Some(limit) = self.duration(entry) {
                    self.config.global.notify_timeout = limit;
                }
            }
            _ => return self.dump_word(entry) || self.mail_word(entry),
        }
        true
    }

    fn dump_word(&mut self, entry: &Entry<'_>) -> bool {
        match entry.name() {
            "state_dump_file" => self.config.global.dumps.state = self.dump_path(entry),
            "stats_dump_file" => self.config.global.dumps.stats = self.dump_path(entry),
            "json_dump_file" => self.config.global.dumps.json = self.dump_path(entry),
            "json_version" => {
                let version = self.int(entry).and_then(|it| u8::try_from(it).ok());
                self.config.global.dumps.json_version = version.unwrap_or(1);
            }
            "data_use_instance" => {
                let now = self.config.global.dumps.use_instance;
                self.config.global.dumps.use_instance = self.bool(entry, now);
            }
            _ => return false,
        }
        true
    }

    fn dump_path(&mut self, entry: &Entry<'_>) -> Option<std::path::PathBuf> {
        let path = self.word(entry)?;
        if !path.value.starts_with('/') {
            let message = format!("the path of `{}` must begin with /", entry.name());
            self.error(path.span, message);
            return None;
        }
        Some(path.value.into())
    }

    fn script_timeout(&mut self, entry: &Entry<'_>) -> Duration {
        let seconds = self.u32(entry).map(|seconds| Duration::from_secs(u64::from(seconds)));
        seconds.unwrap_or(Timed::default().timeout)
    }

    /// `FILE [USER [GROUP]]`.
    fn fifo(&mut self, entry: &Entry<'_>) -> Option<(std::path::PathBuf, Option<User>)> {
        let path = self.word(entry)?;
        if !path.value.starts_with('/') {
            let message = format!("the path of `{}` must begin with /", entry.name());
            self.error(path.span, message);
            return None;
        }
        let name = entry.args().get(1).map(|word| self.text(*word).into_owned());
        let group = entry.args().get(2).map(|word| self.text(*word).into_owned());
        Some((path.value.into(), name.map(|name| User { name, group })))
    }

    /// FIFO names must differ, and a script needs its FIFO.
    pub(super) fn check_fifos(&mut self) {
        let global = self.config.global.clone();
        let fifos = [
            ("notify_fifo", "notify_fifo_script", &global.notify_fifo),
            ("vrrp_notify_fifo", "vrrp_notify_fifo_script", &global.vrrp_notify_fifo),
            ("lvs_notify_fifo", "lvs_notify_fifo_script", &global.lvs_notify_fifo),
        ];
        for (at, (word, script, fifo)) in fifos.iter().enumerate() {
            let path = |fifo: &Fifo| fifo.path.as_ref().map(|(path, _)| path.clone());
            let mark = |word: &str| self.marks.global.get(word).copied();
            let twin = fifos.iter().take(at).find(|it| path(it.2) == path(fifo));
            if let (Some(path), Some((other, ..))) = (path(fifo), twin)
                && let (Some(span), Some(first)) = (mark(word), mark(other))
            {
                let message =
                    format!("`{word}` and `{other}` have the same file {}", path.display());
                self.twice(span.max(first), span.min(first), message, "given here before");
            } else if let Some(span) = mark(script)
                && fifo.path.is_none()
                && fifo.script.is_some()
            {
                // keepalived says nothing.
                let message = format!("`{script}` has no effect without `{word}`");
                self.advise(span, message, "the script is not run");
            }
        }
    }

    fn mail_word(&mut self, entry: &Entry<'_>) -> bool {
        match entry.name() {
            "router_id" => {
                self.config.global.router_id = self.word(entry).map(|word| word.value);
            }
            "notification_email" => {
                // A list: its lines are addresses, whatever keyword they look like.
                let lines = entry.block().flat_map(|line| line.words());
                for word in lines {
                    let address = self.text(*word).into_owned();
                    if !address.contains('@') {
                        let shown: String = address.chars().take(64).collect();
                        let message =
                            format!("`{shown}` is no address of a mailbox; it is ignored");
                        self.warn(word.span, message, "an address is NAME@DOMAIN");
                        continue;
                    }
                    self.config.global.notification_email.push(address);
                }
            }
            "notification_email_from" => {
                self.config.global.notification_email_from = self.word(entry).map(|w| w.value);
            }
            "smtp_server" => self.config.global.smtp_server = self.mail_server(entry),
            "smtp_helo_name" => {
                self.config.global.smtp_helo_name = self.word(entry).map(|word| word.value);
            }
            "smtp_connect_timeout" => {
                if let Some(limit) = self.duration(entry) {
                    self.config.global.smtp_connect_timeout = limit;
                }
            }
            "smtp_alert" => {
                let given = self.yes_or_no(entry);
                self.config.global.smtp_alert = given.or(self.config.global.smtp_alert);
            }
            "smtp_alert_vrrp" => {
                let given = self.yes_or_no(entry);
                self.config.global.smtp_alert_vrrp = given.or(self.config.global.smtp_alert_vrrp);
            }
            "smtp_alert_checker" => {
                let given = self.yes_or_no(entry);
                let before = self.config.global.smtp_alert_checker;
                self.config.global.smtp_alert_checker = given.or(before);
            }
            // lbd mails changes of servers only, as this word wants.
            "no_checker_emails" => {}
            "no_email_faults" => self.config.global.no_email_faults = true,
            _ => return false,
        }
        true
    }

    /// `HOST [PORT]`.
    fn mail_server(&mut self, entry: &Entry<'_>) -> Option<MailServer> {
        let host = self.word(entry)?.value;
        let port = match entry.args().get(1) {
            None => 25,
            Some(word) => match value::int(&self.text(*word)) {
                Some(read) if (1..=65_535).contains(&read.value) && !read.junk => {
                    u16::try_from(read.value).unwrap_or(25)
                }
                _ => {
                    self.error(word.span, "the port of `smtp_server` must be 1..65535");
                    return None;
                }
            },
        };
        Some(MailServer { host, port })
    }

    /// Mail needs a server and somebody to read it.
    pub(super) fn check_mail(&mut self) {
        let global = &self.config.global;
        // Real servers are told of by default, so they do not show that mail is wanted.
        let asked = self.config.vrrp_instances.iter().any(|it| it.notify.mail)
            || self.config.virtual_servers.iter().any(|it| it.mail);
        let wanted = [
            ("smtp_alert", global.smtp_alert),
            ("smtp_alert_vrrp", global.smtp_alert_vrrp),
            ("smtp_alert_checker", global.smtp_alert_checker),
        ];
        let all = wanted.iter().find(|(_, given)| *given == Some(true));
        let all = all.and_then(|(word, _)| self.marks.global.get(word)).copied();
        let Some(at) = all.or(self.marks.mail.filter(|_| asked)) else { return };
        let missing = match (&global.smtp_server, global.notification_email.is_empty()) {
            (None, _) => "smtp_server",
            (Some(_), true) => "notification_email",
            (Some(_), false) => return,
        };
        // keepalived says nothing.
        let message = format!("`smtp_alert` without `{missing}`: no mail is sent");
        self.advise(at, message, "give both in global_defs");
    }
}
