//! `vrrp_track_process`, `track_file`, `track_mysql`, and the lists that name them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
};

use super::{
    super::{
        keywords::Block,
        lex::Word,
        model::{
            InitFile, ParamMatch, TrackFile, TrackLists, TrackMysql, TrackProcess, TrackScript,
        },
        source::Span,
        value,
    },
    COMPARED_LIMIT, Entry, Lower, Spanned,
    checkers::Schedule,
};

/// Where `track_mysql` connects when it does not say.
const LOCAL_MYSQL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3306);

/// Kinds of objects that a list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    Process,
    File,
    Mysql,
}

impl Object {
    /// The block that defines one.
    pub(super) fn keyword(self) -> &'static str {
        match self {
            Self::Process => "vrrp_track_process",
            Self::File => "track_file",
            Self::Mysql => "track_mysql",
        }
    }
}

impl Object {
    /// The list that names one.
    fn list(self) -> &'static str {
        match self {
            Self::Process => "track_process",
            Self::File => "track_file",
            Self::Mysql => "track_mysql",
        }
    }
}

/// Places of definitions and uses.
#[derive(Default)]
pub(super) struct TrackMarks {
    defined: BTreeMap<(Object, String), Span>,
    pub(super) used: Vec<(Object, String, Span)>,
}

impl Lower<'_> {
    /// The name of an object, and whether it is a new one: of a second definition the words are still read,
    /// so that what is wrong in them is told in the same run.
    fn tracked_name(
        &mut self,
        object: Object,
        block: &Entry<'_>,
    ) -> Option<(Spanned<String>, bool)> {
        let name = self.word(block)?;
        let key = (object, name.value.clone());
        if let Some(first) = self.marks.tracking.defined.get(&key).copied() {
            let message = format!("{} `{}` is defined twice", object.keyword(), name.value);
            self.defined_twice(name.span, first, message);
            return Some((name, false));
        }
        self.marks.tracking.defined.insert(key, name.span);
        Some((name, true))
    }

    /// `vrrp_track_process NAME { … }`.
    pub(super) fn track_process(&mut self, block: &Entry<'_>) {
        let Some((name, is_new)) = self.tracked_name(Object::Process, block) else { return };
        let mut it = TrackProcess::new(&name.value, Vec::new());
        let mut max_at = None;
        for entry in self.entries(Block::TrackProcess, block.block()) {
            match entry.name() {
                "process" => {
                    it.command =
                        entry.args().iter().map(|word| self.text(*word).into_owned()).collect();
                }
                "param_match" => {
                    it.param_match = self.choice(&entry).map(|choice| match choice {
                        0 => ParamMatch::Initial,
                        _ => ParamMatch::Partial,
                    });
                }
                "full_command" => it.full_command = true,
                "weight" => (it.weight, it.reverse) = self.script_weight(&entry),
                "quorum" => it.quorum = self.u32(&entry).unwrap_or(it.quorum),
                "quorum_max" => {
                    it.quorum_max = self.u32(&entry);
                    max_at = Some(entry.statement.span());
                }
                "delay" => {
                    let delay = self.duration(&entry).unwrap_or_default();
                    (it.fork_delay, it.terminate_delay) = (delay, delay);
                }
                "fork_delay" => it.fork_delay = self.duration(&entry).unwrap_or_default(),
                "terminate_delay" => it.terminate_delay = self.duration(&entry).unwrap_or_default(),
                other => self.unhandled(&entry, other),
            }
        }
        if let (Some(max), Some(at)) = (it.quorum_max, max_at)
            && max < it.quorum
        {
            // keepalived's way to say "must not run".
            if max == 0 && it.quorum == 1 {
                it.quorum = 0;
            } else {
                let message = format!(
                    "vrrp_track_process `{}`: quorum_max {max} is less than quorum {}",
                    name.value, it.quorum
                );
                self.error(at, message);
            }
        }
        if it.command.is_empty() {
            self.missing("vrrp_track_process", &name, block, "process");
            return;
        }
        if is_new {
            self.config.track_processes.insert(name.value, it);
        }
    }

    fn missing(&mut self, keyword: &str, name: &Spanned<String>, block: &Entry<'_>, word: &str) {
        // One that is there and wrong has been told of.
        if !block.block().any(|s| self.source.slice(s.head()) == word) {
            self.error(name.span, format!("{keyword} `{}` has no `{word}`", name.value));
        }
    }

    /// `track_file NAME { … }`.
    pub(super) fn track_file(&mut self, block: &Entry<'_>) {
        let Some((name, is_new)) = self.tracked_name(Object::File, block) else { return };
        let (mut path, mut weight, mut reverse, mut init) = (None, 1, false, None);
        for entry in self.entries(Block::TrackFile, block.block()) {
            match entry.name() {
                "file" => path = self.word(&entry),
                "weight" => (weight, reverse) = self.file_weight(&entry),
                "init_file" => init = self.init_file(&entry),
                other => self.unhandled(&entry, other),
            }
        }
        let Some(path) = path else {
            self.missing("track_file", &name, block, "file");
            return;
        };
        if !path.value.starts_with('/') {
            self.error(path.span, "the path of `file` must begin with /");
            return;
        }
        let file =
            TrackFile { name: name.value.clone(), path: path.value.into(), weight, reverse, init };
        if is_new {
            self.config.track_files.insert(name.value, file);
        }
    }

    /// `N [reverse]` with a number of 32 bits.
    fn file_weight(&mut self, entry: &Entry<'_>) -> (i32, bool) {
        let weight = self.first(entry).and_then(|word| self.factor(word));
        (weight.unwrap_or(1), self.is_reversed(entry))
    }

    /// The weight of a track_file in a list.
    pub(super) fn factor(&mut self, word: Word) -> Option<i32> {
        if self.is_placeholder(word) {
            return None;
        }
        let text = self.text(word);
        let read = value::int(&text).filter(|read| !read.junk);
        let factor = read.and_then(|read| i32::try_from(read.value).ok());
        let factor = factor.filter(|factor| *factor != i32::MIN);
        if factor.is_none() {
            let shown: String = text.chars().take(64).collect();
            let message = format!("weight `{shown}` of a track_file must be a number of 32 bits");
            self.error_about(word, message);
        }
        factor
    }

    /// `[VALUE] [overwrite]`.
    fn init_file(&mut self, entry: &Entry<'_>) -> Option<InitFile> {
        let mut init = InitFile { value: 0, overwrite: false };
        for word in entry.args() {
            let text = self.text(*word);
            match (&*text, value::int(&text)) {
                ("overwrite", _) => init.overwrite = true,
                (_, Some(read)) if !read.junk => init.value = read.value,
                _ => {
                    self.bad_value(entry, *word);
                    return None;
                }
            }
        }
        Some(init)
    }

    /// `track_mysql NAME { … }`: the words of MYSQL_CHECK and a weight.
    pub(super) fn track_mysql(&mut self, block: &Entry<'_>) {
        let Some((name, is_new)) = self.tracked_name(Object::Mysql, block) else { return };
        let (mut weight, mut reverse) = (0, false);
        // An instance waits for the first verdict: nothing delays it.
        let schedule = Schedule::at_once();
        let checker = self.mysql_block(
            Block::TrackMysql,
            LOCAL_MYSQL,
            &schedule,
            block,
            &mut |lower, entry| {
                let ours = entry.name() == "weight";
                if ours {
                    (weight, reverse) = lower.script_weight(entry);
                }
                ours
            },
        );
        let track = TrackMysql { name: name.value.clone(), weight, reverse, checker };
        if is_new {
            self.config.track_mysql.insert(name.value, track);
        }
    }

    /// A list of an instance or a sync group; false when the entry is none of these.
    pub(super) fn track_list(&mut self, entry: &Entry<'_>, lists: &mut TrackLists) -> bool {
        let object = match entry.name() {
            "track_process" => Object::Process,
            "track_file" => Object::File,
            "track_mysql" => Object::Mysql,
            _ => return false,
        };
        for line in self.list_lines(entry) {
            let Some((first, options)) = line.split_first() else { continue };
            let name = self.text(*first).into_owned();
            let list = match object {
                Object::Process => &lists.processes,
                Object::File => &lists.files,
                Object::Mysql => &lists.mysql,
            };
            let (count, twice) = (list.len(), list.iter().any(|it| it.name == name));
            if !self.has_room(count, super::LIST_LIMIT, first.span, "tracked objects in one list") {
                break;
            }
            if twice {
                let message = format!("`{name}` is tracked twice; this line is ignored");
                self.warn(first.span, message, "");
                continue;
            }
            let known = match object {
                Object::Process => self.config.track_processes.contains_key(&name),
                Object::File => self.config.track_files.contains_key(&name),
                Object::Mysql => self.config.track_mysql.contains_key(&name),
            };
            let (weight, reverse) = self.track_options(options, object == Object::File);
            if !known {
                self.unknown_tracked(object, &name, *first);
                continue;
            }
            self.marks.tracking.used.push((object, name.clone(), first.span));
            let track = TrackScript { name, weight, reverse };
            match object {
                Object::Process => lists.processes.push(track),
                Object::File => lists.files.push(track),
                Object::Mysql => lists.mysql.push(track),
            }
        }
        true
    }

    /// The name that was perhaps meant: looked for while findings are told, among [`COMPARED_LIMIT`].
    pub(super) fn nearest<'n>(
        &self,
        known: impl Iterator<Item = &'n str>,
        name: &str,
    ) -> Option<&'n str> {
        if self.sink.is_full() || name.len() > 256 {
            return None;
        }
        known
            .take(COMPARED_LIMIT)
            .filter(|known| known.len().abs_diff(name.len()) <= 3)
            .map(|known| (strsim::osa_distance(known, name), known))
            .filter(|(distance, _)| *distance <= 3)
            .min()
            .map(|(_, known)| known)
    }

    fn unknown_tracked(&mut self, object: Object, name: &str, word: Word) {
        if self.marks.tracking.defined.contains_key(&(object, name.to_owned())) {
            return; // It was told at its definition why there is none.
        }
        let known = self.marks.tracking.defined.keys().filter(|(kind, _)| *kind == object);
        let near = self.nearest(known.map(|(_, known)| known.as_str()), name);
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there is no {} of this name", object.keyword()),
        };
        let shown: String = name.chars().take(64).collect();
        let message = format!("{} `{shown}` is not defined; it is ignored", object.keyword());
        self.warn(word.span, message, &help);
    }

    /// Objects that nobody tracks.
    pub(super) fn unused_tracked(&mut self, marks: &TrackMarks) {
        let used: BTreeSet<_> = marks.used.iter().map(|(object, name, _)| (object, name)).collect();
        for ((object, name), span) in &marks.defined {
            if !used.contains(&(object, name)) {
                let message = format!("{} `{name}` is not used", object.keyword());
                let list = object.list();
                let help = format!("name it in the {list} of a vrrp_instance, or take it out");
                self.notice(*span, message, &help);
            }
        }
    }
}
