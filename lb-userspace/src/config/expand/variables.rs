//! Variables: definitions, keepalived's own ones, and uses in a line.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::hash;

use super::{
    super::source::{Definer, Pos},
    line::{Unit, is_blank, name_len, units},
};

/// What a variable stands for.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Line(Arc<[Unit]>),
    /// Of a definition of several lines, which can only end a line.
    Lines(Arc<[Arc<[Unit]>]>),
    Directory,
    /// `_RANDOM [MIN [MAX]]`.
    Random,
    /// `_ENV NAME`.
    Environment,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) value: Value,
    /// `None`: keepalived's own.
    pub(super) defined: Option<Pos>,
    pub(super) by: Definer,
}

impl Value {
    fn len(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Lines(lines) => lines.iter().map(|line| line.len()).sum(),
            Self::Directory | Self::Random | Self::Environment => 0,
        }
    }
}

/// All of them.
pub(super) struct Variables {
    by_name: BTreeMap<Arc<str>, Variable>,
    bytes: usize,
    /// State of the numbers of `_RANDOM`.
    seed: u64,
}

impl Variables {
    /// Those that are there before the first line.
    pub(super) fn new(id: &str) -> Self {
        // The same file gives the same numbers on the same host, so that a reload changes nothing
        // (keepalived's differ at each reading, unless `random_seed` is set).
        let seed = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let mut variables = Self { by_name: BTreeMap::new(), bytes: 0, seed };
        let text = |text: &str| Value::Line(units(text, 0).into());
        for (name, value) in [
            ("_PWD", Value::Directory),
            ("_INSTANCE", text(id)),
            ("_RANDOM", Value::Random),
            ("_ENV", Value::Environment),
            ("_HASH", text("#")),
            ("_BANG", text("!")),
        ] {
            let variable = Variable { value, defined: None, by: Definer::Definition };
            variables.by_name.insert(name.into(), variable);
        }
        variables
    }

    pub(super) fn get(&self, name: &str) -> Option<&Variable> {
        self.by_name.get(name)
    }

    /// A variable with its name, both shared.
    pub(super) fn named(&self, name: &str) -> Option<(Arc<str>, Variable)> {
        self.by_name.get_key_value(name).map(|(name, it)| (Arc::clone(name), it.clone()))
    }

    /// Sets a variable; the bytes of all values after it.
    pub(super) fn set(&mut self, name: Arc<str>, variable: Variable) -> usize {
        self.bytes += variable.value.len();
        if let Some(old) = self.by_name.insert(name, variable) {
            self.bytes -= old.value.len();
        }
        self.bytes
    }

    /// The names, for what was perhaps meant.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// The next number of the seed, from `from` to `to`.
    pub(super) fn random(&mut self, from: u64, to: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = hash::mix(self.seed);
        match to.max(from).wrapping_sub(from).checked_add(1) {
            Some(count) => from + mixed % count,
            None => mixed,
        }
    }
}

/// `$NAME` or `${NAME WORDS}` at the end of some bytes that are in reverse order, without the `$`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) name: String,
    /// Bytes behind the `$`.
    pub(super) len: usize,
    pub(super) words: Vec<String>,
    pub(super) braces: bool,
    /// Nothing follows on the line.
    pub(super) last: bool,
}

/// Reads a use; `None`: this `$` is an ordinary character.
pub(super) fn read_use(reversed: &[Unit]) -> Option<Use> {
    let mut bytes = reversed.iter().rev().map(|unit| unit.byte).peekable();
    let braces = bytes.next_if_eq(&b'{').is_some();
    let len = name_len(bytes.clone());
    if len == 0 {
        return None;
    }
    let name: Vec<u8> = bytes.by_ref().take(len).collect();
    let name = String::from_utf8(name).ok()?;
    let mut used = len + usize::from(braces);
    let mut words = Vec::new();
    if !braces {
        // keepalived's rule: it must be followed by one of these or by nothing.
        let next = bytes.peek().copied();
        if next.is_some_and(|byte| !is_blank(byte) && !matches!(byte, b',' | b')')) {
            return None;
        }
        return Some(Use { name, len: used, words, braces, last: next.is_none() });
    }
    let mut word = String::new();
    loop {
        let byte = bytes.next()?;
        used += 1;
        match byte {
            byte if byte == b'_' || byte.is_ascii_alphanumeric() => word.push(char::from(byte)),
            b' ' | b'\t' | b'}' => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                if byte == b'}' {
                    let last = bytes.peek().is_none();
                    return Some(Use { name, len: used, words, braces, last });
                }
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_as_keepalived_finds_them() {
        let read = |text: &str| {
            let mut reversed = units(text, 0);
            reversed.reverse();
            read_use(&reversed).map(|it| (it.name, it.len, it.words.join("+"), it.last))
        };
        let some = |name: &str, len, words: &str, last| {
            Some((name.to_owned(), len, words.to_owned(), last))
        };
        for (text, expect) in [
            ("A", some("A", 1, "", true)),
            ("A b", some("A", 1, "", false)),
            ("A,b", some("A", 1, "", false)),
            ("A)b", some("A", 1, "", false)),
            ("A.b", None),
            ("A\"", None),
            ("A{", None),
            ("{A}.b", some("A", 3, "", false)),
            ("{_RANDOM 1 5}", some("_RANDOM", 13, "1+5", true)),
            ("{A ", None),
            ("{A.}", None),
            ("(date)", None),
            ("1", None),
            ("", None),
        ] {
            assert_eq!(read(text), expect, "{text}");
        }
    }
}
