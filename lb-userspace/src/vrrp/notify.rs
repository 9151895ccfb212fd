//! What is told of a change: scripts with their arguments, the line of a FIFO, the mail. The words
//! and their order are keepalived's, whose consumers parse them.

use serde::{Deserialize, Serialize};

use crate::{
    base::{net::Priority, status::VrrpState},
    config::model::{Command, NotifyWords},
};

/// Who changed: a `vrrp_instance` or a `vrrp_sync_group`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    Instance,
    /// Its priority is told as 0.
    Group,
}

impl Subject {
    /// keepalived's first argument.
    pub fn word(self) -> &'static str {
        match self {
            Self::Instance => "INSTANCE",
            Self::Group => "GROUP",
        }
    }

    /// The block's keyword.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Instance => "vrrp_instance",
            Self::Group => "vrrp_sync_group",
        }
    }
}

/// What happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A new state. INIT is told as BACKUP, as keepalived knows no word for it.
    State(VrrpState),
    /// lbd stops.
    Stop,
    /// A reload has removed it: FAULT, or DELETED if it has `notify_deleted`.
    Deleted,
    /// A master heard a lower priority and stays master.
    MasterRxLowerPri,
    /// The effective priority of a master (true) or another changed.
    Priority { master: bool },
}

/// Which FIFOs a line goes to, beside `notify_fifo`, which has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Channel {
    /// `vrrp_notify_fifo`.
    Vrrp,
    /// `lvs_notify_fifo`.
    Lvs,
}

/// What a line says of its object: a later line of the same kind overtakes it, one of another
/// does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LineKind {
    /// The state in force, which every reader must learn at last.
    State,
    Priority,
    MasterRxLowerPri,
}

/// A script to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Its keyword, for the log.
    pub word: String,
    pub command: Command,
    /// Appended to the command.
    pub args: Vec<String>,
}

/// A mail without its addresses; `[router_id]` is put before the subject by the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    pub subject: String,
    pub text: String,
}

/// All that is told of one change. Notifications of one object are carried out in the order in
/// which they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// `vrrp_instance VI_1`.
    pub object: String,
    /// The state in force from now on, if it is one: who tells the same state twice in a row (a
    /// restarted process) is not heard twice.
    pub state: Option<String>,
    /// Run one after the other.
    pub scripts: Vec<Script>,
    pub channel: Channel,
    /// Of the line.
    pub kind: LineKind,
    /// Without its line end.
    pub line: Option<String>,
    pub mail: Option<Mail>,
}

/// Object name of a subject, as notifications and logs carry it.
pub fn object(subject: Subject, name: &str) -> String {
    format!("{} {name}", subject.keyword())
}

/// What is told. `priority` is the effective one, of STOP too, as keepalived 2.2.7 tells it; groups are
/// told with 0.
pub fn notification(
    subject: Subject,
    name: &str,
    words: &NotifyWords,
    what: What,
    priority: Priority,
) -> Notification {
    let (state, special) = match what {
        What::State(VrrpState::Master) => ("MASTER", ("notify_master", &words.master)),
        What::State(VrrpState::Fault) => ("FAULT", ("notify_fault", &words.fault)),
        What::State(VrrpState::Backup | VrrpState::Init) => {
            ("BACKUP", ("notify_backup", &words.backup))
        }
        What::Stop => ("STOP", ("notify_stop", &words.stop)),
        What::Deleted if words.tells_deleted => ("DELETED", ("notify_deleted", &words.deleted)),
        What::Deleted => ("FAULT", ("notify_fault", &words.fault)),
        What::MasterRxLowerPri => {
            ("MASTER_RX_LOWER_PRI", ("notify_master_rx_lower_pri", &words.master_rx_lower_pri))
        }
        What::Priority { master: true } => ("MASTER_PRIORITY", ("", &None)),
        What::Priority { master: false } => ("BACKUP_PRIORITY", ("", &None)),
    };
    let kind = match what {
        What::State(_) | What::Stop | What::Deleted => LineKind::State,
        What::MasterRxLowerPri => LineKind::MasterRxLowerPri,
        What::Priority { .. } => LineKind::Priority,
    };
    let is_state = kind == LineKind::State;
    let priority = match subject {
        Subject::Group => 0,
        Subject::Instance => priority.0,
    };
    let mut scripts = Vec::new();
    let mut add = |word: &str, command: &Option<Command>, args: Vec<String>| {
        scripts.extend(command.clone().map(|command| Script {
            word: word.to_owned(),
            command,
            args,
        }));
    };
    add(special.0, special.1, vec![]);
    if is_state {
        let args = [subject.word(), name, state, &priority.to_string()].map(str::to_owned);
        add("notify", &words.any, args.to_vec());
    }
    let silent = matches!(what, What::Priority { .. }) && !words.priority_changes;
    Notification {
        object: object(subject, name),
        state: is_state.then(|| state.to_owned()),
        scripts,
        channel: Channel::Vrrp,
        kind,
        line: (!silent).then(|| format!("{} \"{name}\" {state} {priority}", subject.word())),
        mail: mail(subject, name, words, what),
    }
}

fn mail(subject: Subject, name: &str, words: &NotifyWords, what: What) -> Option<Mail> {
    let fault = matches!(what, What::State(VrrpState::Fault))
        || what == What::Deleted && !words.tells_deleted;
    if !words.mail || fault && !words.mail_faults {
        return None;
    }
    let (doing, text) = match what {
        What::State(VrrpState::Master) => {
            ("Entering MASTER state", "The virtual addresses are on this host from now on.")
        }
        What::State(VrrpState::Fault) => (
            "Entering FAULT state",
            "Something that it tracks has failed; it holds no virtual address and waits.",
        ),
        What::State(_) => {
            ("Entering BACKUP state", "The virtual addresses are not on this host; it stands by.")
        }
        What::Stop => ("Stopping", "lbd stops on this host and gives the virtual addresses back."),
        What::Deleted if words.tells_deleted => {
            ("Entering DELETED state", "A reload has removed it from the configuration.")
        }
        What::Deleted => {
            ("Entering FAULT state", "A reload has removed it from the configuration.")
        }
        What::MasterRxLowerPri | What::Priority { .. } => return None,
    };
    let kind = match subject {
        Subject::Instance => "VRRP Instance",
        Subject::Group => "VRRP Group",
    };
    Some(Mail { subject: format!("{kind} {name} - {doing}"), text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(word: &str) -> Option<Command> {
        Some(Command { argv: vec![format!("/bin/{word}"), "x".into()], user: None })
    }

    fn words() -> NotifyWords {
        NotifyWords {
            master: command("master"),
            backup: command("backup"),
            fault: command("fault"),
            stop: command("stop"),
            tells_deleted: true,
            deleted: command("deleted"),
            master_rx_lower_pri: command("lower"),
            any: command("any"),
            priority_changes: true,
            mail: true,
            mail_faults: true,
        }
    }

    fn told(what: What, words: &NotifyWords) -> Notification {
        notification(Subject::Instance, "VI 1", words, what, Priority(101))
    }

    #[test]
    fn arguments_lines_and_subjects_are_keepaliveds() {
        let rows = [
            (What::State(VrrpState::Master), "master", "MASTER 101", "Entering MASTER state"),
            (What::State(VrrpState::Backup), "backup", "BACKUP 101", "Entering BACKUP state"),
            (What::State(VrrpState::Fault), "fault", "FAULT 101", "Entering FAULT state"),
            (What::Stop, "stop", "STOP 101", "Stopping"),
            (What::Deleted, "deleted", "DELETED 101", "Entering DELETED state"),
        ];
        for (what, script, end, subject) in rows {
            let told = told(what, &words());
            let [special, any] = &told.scripts[..] else { panic!("{told:?}") };
            assert_eq!(special.command.argv, [format!("/bin/{script}"), "x".into()]);
            assert!(special.args.is_empty(), "only configured words: {special:?}");
            let (state, priority) = end.split_once(' ').expect("two words");
            assert_eq!(any.args, ["INSTANCE", "VI 1", state, priority]);
            assert_eq!(told.line, Some(format!("INSTANCE \"VI 1\" {end}")));
            assert_eq!((told.state.as_deref(), told.kind), (Some(state), LineKind::State));
            let mail = told.mail.expect("mailed");
            assert_eq!(mail.subject, format!("VRRP Instance VI 1 - {subject}"));
        }
    }

    #[test]
    fn groups_have_priority_0() {
        let what = What::State(VrrpState::Master);
        let told = notification(Subject::Group, "G1", &words(), what, Priority(101));
        assert_eq!(told.line.as_deref(), Some("GROUP \"G1\" MASTER 0"));
        assert_eq!(told.scripts[1].args, ["GROUP", "G1", "MASTER", "0"]);
        assert_eq!(told.object, "vrrp_sync_group G1");
    }

    #[test]
    fn a_deletion_is_a_fault_unless_it_is_to_be_told_as_such() {
        let words = NotifyWords { tells_deleted: false, ..words() };
        let told = told(What::Deleted, &words);
        assert_eq!(told.scripts[0].word, "notify_fault");
        assert_eq!(told.line.as_deref(), Some("INSTANCE \"VI 1\" FAULT 101"));
    }

    #[test]
    fn what_is_no_state_runs_no_general_script_and_sends_no_mail() {
        let lower = told(What::MasterRxLowerPri, &words());
        assert_eq!(lower.scripts.len(), 1);
        assert_eq!(lower.line.as_deref(), Some("INSTANCE \"VI 1\" MASTER_RX_LOWER_PRI 101"));
        assert_eq!((lower.state, lower.mail, lower.kind), (None, None, LineKind::MasterRxLowerPri));
        for (master, word) in [(true, "MASTER_PRIORITY"), (false, "BACKUP_PRIORITY")] {
            let told = told(What::Priority { master }, &words());
            assert_eq!(told.line, Some(format!("INSTANCE \"VI 1\" {word} 101")));
            assert!(told.scripts.is_empty() && told.mail.is_none());
            assert_eq!(told.kind, LineKind::Priority);
        }
        let words = NotifyWords { priority_changes: false, ..words() };
        assert_eq!(told(What::Priority { master: true }, &words).line, None);
    }

    #[test]
    fn mail_is_asked_for_and_faults_can_be_left_out() {
        let none = NotifyWords { mail: false, ..words() };
        assert_eq!(told(What::Stop, &none).mail, None);
        let quiet = NotifyWords { mail_faults: false, tells_deleted: false, ..words() };
        assert_eq!(told(What::State(VrrpState::Fault), &quiet).mail, None);
        assert_eq!(told(What::Deleted, &quiet).mail, None);
        assert!(told(What::State(VrrpState::Master), &quiet).mail.is_some());
    }
}
