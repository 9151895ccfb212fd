//! Telling the world of changes: notify scripts, FIFOs, mail. The watchdog does it for its roles,
//! so that nothing is lost or told twice when a role is restarted.
//!
//! What is told of one object is told in order, and its last state always: a queue that overflows
//! drops what a later state of the same object has overtaken, and counts it; events (a priority,
//! a lower router) overtake their like and no state. A process that is
//! restarted and finds another state than was told last is told of without its asking; one that
//! repeats the state told last is not heard twice.

pub mod backlog;
pub mod fifo;
pub mod mailbox;

use std::{collections::BTreeMap, time::Duration};

use self::{
    fifo::Pipe,
    mailbox::{MAIL_LIMIT, Mailbox},
};
use super::{
    ipc::{Event, ScriptRun},
    scripts::queue::Owner,
};
use crate::{
    base::{net::Priority, status::VrrpState},
    config::model::{Config, Fifo, Global},
    vrrp::notify::{Channel, Notification, Subject, What, notification, object},
};

/// Everything that is told.
#[derive(Debug, Default)]
pub struct Notifications {
    /// The last state of each object, and the process that said it.
    told: BTreeMap<String, (String, u32)>,
    /// `notify_fifo`, `vrrp_notify_fifo`, `lvs_notify_fifo`.
    pipes: [Option<Pipe>; 3],
    pub mailbox: Mailbox,
    mails: bool,
    /// Lines dropped in FIFOs that are closed.
    dropped: u64,
    /// Numbers notifications, so that the scripts of one are known to belong together.
    next: u64,
}

fn fifos(global: &Global) -> [&Fifo; 3] {
    [&global.notify_fifo, &global.vrrp_notify_fifo, &global.lvs_notify_fifo]
}

impl Notifications {
    /// Takes a configuration. FIFOs whose words are unchanged go on undisturbed.
    pub fn configure(&mut self, config: &Config) {
        let global = &config.global;
        for (pipe, spec) in self.pipes.iter_mut().zip(fifos(global)) {
            if pipe.as_ref().is_some_and(|pipe| pipe.is(spec)) {
                continue;
            }
            let old = pipe.take();
            *pipe = Pipe::start(spec, global.script_user.as_ref(), global.enable_script_security);
            match (old, &*pipe) {
                (Some(old), Some(new)) if old.is_same_file(new) => {
                    new.go_on(old.take_waiting());
                    tokio::spawn(old.hand_over());
                }
                (Some(old), _) => {
                    let waiting = old.take_waiting();
                    let lost = waiting.len() as u64;
                    if lost > 0 {
                        tracing::warn!(lost, "a reload closes a FIFO: lines that nobody has read");
                    }
                    self.dropped += waiting.dropped() + lost;
                    tokio::spawn(old.close(Duration::from_secs(5)));
                }
                (None, _) => {}
            }
        }
        self.mails = global.smtp_server.is_some() && !global.notification_email.is_empty();
        let known: Vec<String> = config
            .vrrp_instances
            .iter()
            .map(|instance| object(Subject::Instance, &instance.name))
            .collect();
        // What this reload removes says so later, and is remembered until the next one.
        let group = Subject::Group.keyword();
        self.told.retain(|name, (state, _)| {
            known.contains(name) || name.starts_with(group) && state != "STOP"
        });
    }

    /// Tells; the scripts to run for it, in order.
    pub fn tell(&mut self, owner: Owner, told: Notification) -> Vec<ScriptRun> {
        if let Some(state) = &told.state {
            let now = (state.clone(), owner.pid);
            if self.told.insert(told.object.clone(), now).is_some_and(|(old, _)| old == *state) {
                tracing::debug!(object = told.object, state, "told already");
                return vec![];
            }
        }
        if let Some(line) = &told.line {
            let [all, vrrp, lvs] = &self.pipes;
            let own = if told.channel == Channel::Vrrp { vrrp } else { lvs };
            for pipe in [all, own].into_iter().flatten() {
                pipe.say(&told.object, told.kind, line);
            }
        }
        if let Some(mail) = told.mail.filter(|_| self.mails)
            && let Some(dropped) = self.mailbox.push(mail)
        {
            let subject = dropped.subject;
            tracing::warn!(
                subject,
                limit = MAIL_LIMIT,
                "too many mails wait: the oldest is dropped"
            );
        }
        self.next += 1;
        let (id, object) = (self.next, told.object);
        let run = |script: crate::vrrp::notify::Script| ScriptRun {
            id,
            object: format!("{object} {}", script.word),
            command: script.command,
            extra_args: script.args,
            timeout: None,
            queue: Some(object.clone()),
            reply: false,
        };
        told.scripts.into_iter().map(run).collect()
    }

    /// A state that a successor of the process that told last found, and did not tell: it thinks
    /// that its predecessor did.
    pub fn missed(&self, owner: Owner, event: &Event, config: &Config) -> Option<Notification> {
        let Event::Vrrp { instance, state, priority } = event else { return None };
        let (told, pid) = self.told.get(&object(Subject::Instance, instance))?;
        if *pid == owner.pid || told == state.name() || *state == VrrpState::Init {
            return None;
        }
        let words = &config.vrrp_instances.iter().find(|it| it.name == *instance)?.notify;
        let what = What::State(*state);
        Some(notification(Subject::Instance, instance, words, what, Priority(*priority)))
    }

    /// Every line is in its FIFO.
    pub fn is_drained(&self) -> bool {
        self.pipes.iter().flatten().all(Pipe::is_drained)
    }

    /// Lines that were dropped because nobody read them.
    pub fn dropped(&self) -> u64 {
        self.dropped + self.pipes.iter().flatten().map(Pipe::dropped).sum::<u64>()
    }

    /// Ends FIFOs and their scripts, each of which has until `limit` to read to the end.
    pub async fn close(&mut self, limit: Duration) {
        let closing = self.pipes.iter_mut().filter_map(Option::take).map(|pipe| pipe.close(limit));
        futures_util::future::join_all(closing).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::model::NotifyWords, process::ipc::Role, vrrp::notify::Mail};

    const FIRST: Owner = Owner { role: Role::Vrrp, pid: 1 };
    const SECOND: Owner = Owner { role: Role::Vrrp, pid: 2 };

    fn state(state: VrrpState) -> Notification {
        let command = crate::config::model::Command { argv: vec!["/x".into()], user: None };
        let words = NotifyWords { any: Some(command), mail: true, ..NotifyWords::default() };
        notification(Subject::Instance, "V", &words, What::State(state), Priority(100))
    }

    fn config() -> Config {
        let text = "vrrp_instance V {\n interface lo\n virtual_router_id 1\n notify /bin/true\n \
                    virtual_ipaddress {\n 192.0.2.1\n }\n}\n";
        crate::config::load("test", text).config.expect("good")
    }

    #[test]
    fn a_successor_is_not_heard_twice_and_not_missed() {
        let mut all = Notifications::default();
        assert_eq!(all.tell(FIRST, state(VrrpState::Backup)).len(), 1);
        assert_eq!(all.tell(SECOND, state(VrrpState::Backup)), [], "a restart changes nothing");
        assert_eq!(all.tell(SECOND, state(VrrpState::Master)).len(), 1);
        let event = |state| Event::Vrrp { instance: "V".into(), state, priority: 100 };
        let third = Owner { pid: 3, ..FIRST };
        assert_eq!(all.missed(SECOND, &event(VrrpState::Backup), &config()), None, "it will tell");
        assert_eq!(all.missed(third, &event(VrrpState::Master), &config()), None);
        assert_eq!(all.missed(third, &event(VrrpState::Init), &config()), None);
        let missed = all.missed(third, &event(VrrpState::Fault), &config()).expect("not told");
        let runs = all.tell(third, missed);
        assert_eq!(runs[0].extra_args, ["INSTANCE", "V", "FAULT", "100"]);
        assert_eq!(all.missed(third, &event(VrrpState::Fault), &config()), None);
    }

    #[test]
    fn scripts_of_one_notification_share_number_and_queue() {
        let mut all = Notifications::default();
        let one = all.tell(FIRST, state(VrrpState::Backup));
        let two = all.tell(FIRST, state(VrrpState::Master));
        assert_eq!(one[0].queue, two[0].queue);
        assert!(one[0].id < two[0].id);
        assert_eq!(one[0].object, "vrrp_instance V notify");
    }

    #[tokio::test]
    async fn a_reload_loses_no_line_of_a_fifo_unseen() {
        // The FIFO cannot be made, so every line waits.
        let config = |words: &str| {
            let text = format!(
                "global_defs {{\n script_user root\n vrrp_notify_fifo {words}\n}}\n\
                 vrrp_instance V {{\n interface lo\n virtual_router_id 1\n \
                 virtual_ipaddress {{\n 192.0.2.1\n }}\n}}\n"
            );
            crate::config::load("test", &text).config.expect("good")
        };
        let mut all = Notifications::default();
        let waiting = |all: &Notifications| !all.is_drained();
        all.configure(&config("/nonexistent/one"));
        for it in [VrrpState::Backup, VrrpState::Master, VrrpState::Fault] {
            all.tell(FIRST, state(it));
        }
        all.configure(&config("/nonexistent/one\n vrrp_notify_fifo_script /bin/true"));
        assert_eq!(all.dropped(), 0);
        assert!(waiting(&all), "the writer of the same FIFO has them");
        all.configure(&config("/nonexistent/two"));
        assert_eq!(all.dropped(), 3, "nobody will read them there");
        assert!(!waiting(&all));
    }

    #[test]
    fn without_server_or_reader_no_mail_is_kept() {
        let mut all = Notifications::default();
        all.tell(FIRST, state(VrrpState::Master));
        assert!(all.mailbox.is_empty());
        all.mails = true;
        all.tell(FIRST, state(VrrpState::Backup));
        let subject = "VRRP Instance V - Entering BACKUP state".to_owned();
        assert!(matches!(all.mailbox.hand(), Some((1, Mail { subject: s, .. })) if s == subject));
    }
}
