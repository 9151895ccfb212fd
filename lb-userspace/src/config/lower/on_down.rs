//! `on_down` of a virtual_server.

use std::{net::SocketAddr, time::Duration};

use super::{
    super::{
        keywords::{Block, micros_text},
        model::OnDown,
        value,
    },
    Entry, Lower,
    lvs::Raw,
};

/// Limits of `drain`, in µs.
const DRAIN: std::ops::RangeInclusive<u64> = 1_000..=31 * 86_400_000_000;

impl Lower<'_> {
    /// `reset`, `drain SECONDS` or `keep`.
    pub(super) fn on_down(&mut self, entry: &Entry<'_>) -> Option<OnDown> {
        let word = self.first(entry)?;
        let text = self.text(word);
        let lower = text.to_ascii_lowercase();
        let (on_down, words) = match &*lower {
            "reset" => (OnDown::Reset, 1),
            "keep" => (OnDown::Keep, 1),
            "drain" => (OnDown::Drain(self.drain(entry)?), 2),
            _ => {
                self.bad_value(entry, word);
                return None;
            }
        };
        if lower != *text {
            self.warn(word.span, format!("`on_down {text}` is read as {lower}"), "");
        }
        if let Some(extra) = entry.args().get(words) {
            self.extra_words(Block::VirtualServer, entry, *extra);
        }
        Some(on_down)
    }

    fn drain(&mut self, entry: &Entry<'_>) -> Option<Duration> {
        let expected =
            format!("a time, {}..{} s", micros_text(*DRAIN.start()), micros_text(*DRAIN.end()));
        let Some(word) = entry.args().get(1).copied() else {
            self.error(entry.statement.span(), format!("`on_down drain` needs {expected}"));
            return None;
        };
        let text = self.text(word);
        match value::time(&text).filter(|micros| DRAIN.contains(micros)) {
            Some(micros) => Some(Duration::from_micros(micros)),
            None if self.is_placeholder(word) => None,
            None => {
                let shown: String = text.chars().take(64).collect();
                let message = format!("`on_down drain` cannot be `{shown}`; expected {expected}");
                self.error_about(word, message);
                None
            }
        }
    }

    /// As written, or what follows from `inhibit_on_failure`, with which no connection ever ends.
    pub(super) fn on_down_of(&mut self, vip: SocketAddr, raw: &Raw) -> OnDown {
        let Some(given) = &raw.on_down else {
            return if raw.inhibit_on_failure { OnDown::Keep } else { OnDown::Reset };
        };
        if raw.inhibit_on_failure && matches!(given.value, OnDown::Drain(_)) {
            self.warn(
                given.span,
                format!(
                    "virtual_server {vip}: `on_down drain` has no effect beside inhibit_on_failure"
                ),
                "a server that is inhibited keeps its connections; take one of both out",
            );
        }
        given.value
    }
}
