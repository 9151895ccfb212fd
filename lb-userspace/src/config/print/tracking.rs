//! `vrrp_script`, `vrrp_track_process`, `track_file`, `track_mysql`.

use super::{
    super::model::{
        Command, InitFile, ParamMatch, TrackFile, TrackMysql, TrackProcess, VrrpScript,
    },
    Item, Lines, lvs, quote,
};

/// `vrrp_script NAME { … }`.
pub fn script(script: &VrrpScript) -> Item {
    let VrrpScript { name, command, interval, timeout, weight, reverse, fall, rise, init_fail } =
        script;
    let mut out = Lines::default();
    self::command(&mut out, "script", command);
    out.time("interval", *interval);
    out.time("timeout", *timeout);
    out.put(Item::new("weight").word(weight).flag("reverse", *reverse));
    out.value("fall", fall);
    out.value("rise", rise);
    out.flag("init_fail", *init_fail);
    Item::new("vrrp_script").word(name).opens(out.0)
}

/// A command whose user has a word of its own.
pub(super) fn command(out: &mut Lines, keyword: &str, command: &Command) {
    out.put(Item::new(keyword).written(quote::command(command)));
    if command.user.is_some() {
        out.put(Item::new("user").user(command.user.as_ref()));
    }
}

/// `vrrp_track_process NAME { … }`.
pub fn process(process: &TrackProcess) -> Item {
    let TrackProcess {
        name,
        command,
        param_match,
        full_command,
        weight,
        reverse,
        quorum,
        quorum_max,
        fork_delay,
        terminate_delay,
    } = process;
    let mut out = Lines::default();
    out.put(command.iter().fold(Item::new("process"), |item, word| item.word(word)));
    let matching = param_match.map(|it| match it {
        ParamMatch::Initial => "initial",
        ParamMatch::Partial => "partial",
    });
    out.maybe("param_match", matching);
    out.flag("full_command", *full_command);
    out.put(Item::new("weight").word(weight).flag("reverse", *reverse));
    // Zero is what `quorum_max 0` alone means.
    out.maybe("quorum", (*quorum > 0).then_some(quorum));
    out.maybe("quorum_max", quorum_max.as_ref());
    out.time_unless_zero("fork_delay", *fork_delay);
    out.time_unless_zero("terminate_delay", *terminate_delay);
    Item::new("vrrp_track_process").word(name).opens(out.0)
}

/// `track_file NAME { … }`.
pub fn file(file: &TrackFile) -> Item {
    let TrackFile { name, path, weight, reverse, init } = file;
    let mut out = Lines::default();
    out.value("file", path.display());
    out.put(Item::new("weight").word(weight).flag("reverse", *reverse));
    if let Some(InitFile { value, overwrite }) = init {
        out.put(Item::new("init_file").word(value).flag("overwrite", *overwrite));
    }
    Item::new("track_file").word(name).opens(out.0)
}

/// `track_mysql NAME { … }`.
pub fn mysql(track: &TrackMysql) -> Item {
    let TrackMysql { name, weight, reverse, checker } = track;
    let mut out = Lines::default();
    out.put(Item::new("weight").word(weight).flag("reverse", *reverse));
    lvs::tracked_mysql(&mut out, checker);
    Item::new("track_mysql").word(name).opens(out.0)
}
