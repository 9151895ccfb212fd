//! The model as statements of keepalived's language, every word with its value: what is in force,
//! in a form that the parser reads back as the same model (`print ∘ parse` is a fixed point).
//!
//! Used for `lbctl config` and, because equal statements mean equal configurations, for the plan of
//! a reload ([`super::plan`]). Every struct of the model is taken apart by name here, so that a
//! new field does not compile before somebody says how it is written.

mod global;
mod host;
mod lvs;
mod origin;
mod quote;
mod text;
mod tracking;
mod vrrp;

#[cfg(test)]
pub(in crate::config) mod tests;

use std::{fmt::Display, time::Duration};

pub use self::{
    origin::{Original, annotate, page},
    text::{annotated, plain},
};

use super::{
    keywords::micros_text,
    model::{Command, Config, User},
};

/// What a secret looks like to people.
pub const HIDDEN: &str = "***";

/// A word as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Quoted where needed.
    text: String,
    secret: bool,
}

impl Word {
    /// For people: secrets hidden.
    pub fn shown(&self) -> &str {
        if self.secret { HIDDEN } else { &self.text }
    }
}

/// A statement and its block. It may hold secrets: only [`Word::shown`] is for people.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    words: Vec<Word>,
    block: Option<Vec<Item>>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&plain(std::slice::from_ref(self), Secrets::Hidden))
    }
}

/// Whether a text carries secrets. There is no way to ask a running daemon for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    Hidden,
    /// For the proof that printing loses nothing.
    Shown,
}

impl Item {
    fn new(keyword: &str) -> Self {
        Self { words: vec![Word { text: keyword.to_owned(), secret: false }], block: None }
    }

    /// An entry of a list block, whose first word is a value.
    fn entry(first: impl Display) -> Self {
        Self { words: vec![], block: None }.word(first)
    }

    fn word(self, value: impl Display) -> Self {
        self.written(quote::word(&value.to_string()))
    }

    /// Two words.
    fn pair(self, keyword: &str, value: impl Display) -> Self {
        self.word(keyword).word(value)
    }

    fn maybe(self, keyword: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.pair(keyword, value),
            None => self,
        }
    }

    fn flag(self, keyword: &str, set: bool) -> Self {
        if set { self.word(keyword) } else { self }
    }

    /// A word that is in written form already.
    fn written(mut self, text: String) -> Self {
        self.words.push(Word { text, secret: false });
        self
    }

    fn secret(mut self, text: String) -> Self {
        self.words.push(Word { text, secret: true });
        self
    }

    fn user(self, user: Option<&User>) -> Self {
        match user {
            Some(User { name, group: None }) => self.word(name),
            Some(User { name, group: Some(group) }) => self.word(name).word(group),
            None => self,
        }
    }

    fn opens(mut self, block: Vec<Self>) -> Self {
        self.block = Some(block);
        self
    }

    /// The keyword, or the first word of an entry.
    pub fn keyword(&self) -> &str {
        self.words.first().map_or("", |word| word.text.as_str())
    }

    /// Words behind the keyword.
    pub fn arguments(&self) -> &[Word] {
        self.words.get(1..).unwrap_or(&[])
    }

    /// All words, for people.
    pub fn shown(&self) -> String {
        self.words.iter().map(Word::shown).collect::<Vec<_>>().join(" ")
    }

    /// Statements of its block.
    pub fn block(&self) -> Option<&[Self]> {
        self.block.as_deref()
    }
}

/// Collects statements of one block.
#[derive(Default)]
struct Lines(Vec<Item>);

impl Lines {
    fn put(&mut self, item: Item) {
        self.0.push(item);
    }

    fn value(&mut self, keyword: &str, value: impl Display) {
        self.put(Item::new(keyword).word(value));
    }

    fn maybe(&mut self, keyword: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.value(keyword, value);
        }
    }

    /// A word that means yes by being there.
    fn flag(&mut self, keyword: &str, set: bool) {
        if set {
            self.put(Item::new(keyword));
        }
    }

    fn switch(&mut self, keyword: &str, on: bool) {
        self.value(keyword, on);
    }

    fn time(&mut self, keyword: &str, time: Duration) {
        self.value(keyword, seconds(time));
    }

    /// For words that cannot say 0.
    fn time_unless_zero(&mut self, keyword: &str, time: Duration) {
        if !time.is_zero() {
            self.time(keyword, time);
        }
    }

    fn command(&mut self, keyword: &str, command: Option<&Command>) {
        if let Some(command) = command {
            self.put(with_user(Item::new(keyword), command));
        }
    }

    /// A list block; an empty one is left out.
    fn list(&mut self, keyword: &str, entries: impl IntoIterator<Item = Item>) {
        let entries: Vec<_> = entries.into_iter().collect();
        if !entries.is_empty() {
            self.put(Item::new(keyword).opens(entries));
        }
    }
}

fn with_user(item: Item, command: &Command) -> Item {
    item.written(quote::command(command)).user(command.user.as_ref())
}

fn seconds(time: Duration) -> String {
    micros_text(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// Blocks of the top level as one item, to be compared as a whole.
pub fn group(name: &str, items: Vec<Item>) -> Item {
    Item::new(name).opens(items)
}

/// The whole configuration, block by block.
pub fn items(config: &Config) -> Vec<Item> {
    let Config {
        global,
        vrrp_scripts,
        track_processes,
        track_files,
        track_mysql,
        vrrp_instances,
        vrrp_sync_groups,
        virtual_servers,
        statics,
        garp_groups,
        link_delays,
    } = config;
    let mut out = vec![global_defs(global)];
    out.extend(host::statics(statics));
    out.extend(garp_groups.iter().map(garp_group));
    out.extend(host::link_delays(link_delays));
    out.extend(vrrp_scripts.values().map(tracking::script));
    out.extend(track_processes.values().map(tracking::process));
    out.extend(track_files.values().map(tracking::file));
    out.extend(track_mysql.values().map(tracking::mysql));
    out.extend(vrrp_sync_groups.iter().map(vrrp::group));
    out.extend(vrrp_instances.iter().map(vrrp_instance));
    out.extend(virtual_servers.iter().map(virtual_server));
    out
}

pub use self::{
    global::global as global_defs,
    host::{garp_group, link_delays, statics},
    lvs::{real_server, virtual_server, virtual_server_words},
    tracking::{
        file as track_file, mysql as track_mysql, process as track_process, script as vrrp_script,
    },
    vrrp::{group as sync_group, instance as vrrp_instance},
};
