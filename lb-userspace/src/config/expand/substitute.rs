//! Definitions, and what stands for a variable where it is used.

use std::sync::Arc;

use super::{
    Collecting, Definer, Expander, Expansion, Frame, Kind, Pos, REPLACEMENTS_LIMIT, Severity,
    VALUES_LIMIT,
    line::{self, Line, Unit, contains, decomment, is_blank, name_len, skip_blanks, trim},
    variables::{Use, Value, Variable, read_use},
};

/// Bytes behind a `$` that are looked at for the name of an unknown variable.
const NAME_LOOKED_AT: usize = 128;
/// Unknown variables of one statement that are told.
const UNDEFINED_TOLD: usize = 16;

impl Expander<'_> {
    /// `$NAME=VALUE`; false when the line is none.
    pub(super) fn define(&mut self, line: &[Unit]) -> bool {
        let Some((first, rest)) = line.split_first().filter(|(unit, _)| unit.byte == b'$') else {
            return false;
        };
        let len = name_len(rest.iter().map(|unit| unit.byte));
        if len == 0 || rest.get(len).is_none_or(|unit| unit.byte != b'=') {
            return false;
        }
        let name: Arc<str> = line::text(rest.get(..len).unwrap_or(&[])).into();
        let from = skip_blanks(rest, len + 1);
        let mut value: Line = rest.get(from..).unwrap_or(&[]).to_vec();
        if value.last().is_some_and(|unit| unit.byte == b'\\') {
            value.pop();
            trim(&mut value);
            let value_len = value.len();
            let lines = if value.is_empty() { Vec::new() } else { vec![value.into()] };
            self.collecting =
                Some(Collecting { name, defined: first.pos, bytes: value_len, lines });
        } else {
            self.set(name, Value::Line(value.into()), first.pos, Definer::Definition);
        }
        true
    }

    pub(super) fn set(&mut self, name: Arc<str>, value: Value, defined: Pos, by: Definer) {
        let bytes = self.variables.set(name, Variable { value, defined: Some(defined), by });
        if bytes > VALUES_LIMIT {
            let message = format!("the values of variables have more than {VALUES_LIMIT} bytes");
            self.stop(&line::units("$", defined), message);
        }
    }

    /// A further line of a definition.
    pub(super) fn collect(&mut self, mut line: Line) {
        if line.is_empty() {
            self.finish_definition();
            return;
        }
        let goes_on = line.last().is_some_and(|unit| unit.byte == b'\\');
        if goes_on {
            line.pop();
            trim(&mut line);
        }
        decomment(&mut line);
        let Some(collecting) = &mut self.collecting else { return };
        if !line.is_empty() {
            collecting.bytes += line.len();
            collecting.lines.push(line.into());
        }
        let (bytes, at) = (collecting.bytes, collecting.defined);
        self.work += 64;
        if bytes > VALUES_LIMIT {
            let message = format!("the values of variables have more than {VALUES_LIMIT} bytes");
            self.stop(&line::units("$", at), message);
        }
        if !goes_on {
            self.finish_definition();
        }
    }

    pub(super) fn finish_definition(&mut self) {
        let Some(Collecting { name, defined, lines, .. }) = self.collecting.take() else { return };
        let value =
            if lines.is_empty() { Value::Line(Arc::from([])) } else { Value::Lines(lines.into()) };
        self.set(name, value, defined, Definer::Definition);
    }

    /// Replaces variables from left to right; values are looked at again. False: there was none.
    pub(super) fn substitute(&mut self, line: &mut Line) -> bool {
        let mut right: Line = std::mem::take(line);
        right.reverse();
        let mut left = Line::with_capacity(right.len());
        let uses = right.iter().filter(|unit| unit.byte == b'$').count();
        let most = uses.saturating_mul(REPLACEMENTS_LIMIT);
        let mut replaced = 0;
        while let Some(unit) = right.pop() {
            let found = if unit.byte == b'$' { read_use(&right) } else { None };
            let Some(found) = found.filter(|found| self.variables.get(&found.name).is_some())
            else {
                left.push(unit);
                continue;
            };
            let Some(value) = self.value(&found, unit, &left) else {
                left.push(unit);
                continue;
            };
            replaced += 1;
            right.truncate(right.len() - found.len);
            if replaced > most {
                let message = format!(
                    "more than {REPLACEMENTS_LIMIT} variables for each one of this line; does `${}` \
                     stand for itself?",
                    found.name
                );
                self.stop(&[unit], message);
                return false;
            }
            if left.len() + right.len() + value.len() > self.limits.text {
                self.stop(&[unit], self.too_long());
                return false;
            }
            if !self.charge(&[unit]) {
                return false;
            }
            let stands_alone = value.get(skip_blanks(&value, 0)).is_some_and(|u| u.byte == b'~');
            right.extend(value.into_iter().rev());
            if stands_alone {
                // The head of a sequence: its variables are not known yet.
                break;
            }
        }
        left.extend(right.into_iter().rev());
        *line = left;
        replaced > 0
    }

    /// What stands for one use; `None`: it stays as it is.
    fn value(&mut self, found: &Use, at: Unit, before: &[Unit]) -> Option<Line> {
        let name = found.name.as_str();
        let (key, variable) = self.variables.named(name)?;
        let takes = match variable.value {
            Value::Environment => 1..=1,
            Value::Random => 0..=2,
            _ => 0..=0,
        };
        let outer = self.map.expansion(at.within).map(|it| it.kind);
        let used = u32::try_from(found.len + 1).unwrap_or(1);
        let len = match outer {
            Some(Kind::Value { len, .. }) => len,
            _ => used,
        };
        let refuse = |this: &mut Self, why: &str| {
            let place = this.place(at.pos, found.len + 1, at.within);
            this.tell(Severity::Error, place, format!("`${name}`: {why}"), "");
            None
        };
        if !takes.contains(&found.words.len()) {
            return refuse(self, "wrong number of words behind the name");
        }
        if self.is_secret(before, name) {
            self.hide(name);
        }
        let line = match variable.value {
            Value::Line(line) => line.to_vec(),
            Value::Lines(lines) => {
                if !found.last {
                    return refuse(
                        self,
                        "it has several lines, so nothing may follow it on its line",
                    );
                }
                let first: Line = lines.first().map_or_else(Vec::new, |line| line.to_vec());
                let body = Kind::Body { used: at.pos, len };
                let within =
                    self.expansion(Expansion { kind: body, name: name.into(), parent: at.within });
                self.push(Frame::Body { lines, next: 1, within }, &[at]);
                return Some(first.into_iter().map(|unit| Unit { within, ..unit }).collect());
            }
            Value::Directory => line::units(&self.directory(), 0),
            Value::Environment => {
                let wanted = found.words.first().map_or("", String::as_str);
                let value = self.around.variable(wanted);
                if value.is_none() {
                    let place = self.place(at.pos, found.len + 1, at.within);
                    let message = format!("environment variable `{wanted}` is not set: nothing");
                    self.tell(Severity::Notice, place, message, "");
                }
                let value = value.unwrap_or_default().replace(['\n', '\r', '\0'], " ");
                line::units(&value, 0)
            }
            Value::Random => {
                let number = |at: usize| found.words.get(at).map(|word| word.parse::<u64>());
                let (from, to) = match (number(0), number(1)) {
                    (None, _) => (0, 32_767),
                    (Some(Ok(from)), None) => (from, 32_767),
                    (Some(Ok(from)), Some(Ok(to))) => (from, to),
                    _ => return refuse(self, "it takes numbers only"),
                };
                line::units(&self.variables.random(from, to).to_string(), 0)
            }
        };
        let kind = Kind::Value { len, defined: variable.defined, by: variable.by };
        let within = self.expansion(Expansion { kind, name: key, parent: at.within });
        Some(line.into_iter().map(|unit| Unit { byte: unit.byte, pos: at.pos, within }).collect())
    }

    /// Tells of variables outside quotes that nobody has defined (before).
    pub(super) fn undefined(&mut self, statement: &[Unit]) {
        if !contains(statement, b'$') {
            return;
        }
        let (mut quoted, mut told) = (false, 0);
        for (at, unit) in statement.iter().enumerate() {
            match unit.byte {
                b'"' => quoted = !quoted,
                b'$' if self.ends_badly(statement, at) => {
                    told += 1;
                    if told == UNDEFINED_TOLD {
                        return;
                    }
                }
                // As the keyword of a line it is the parser that tells.
                b'$' if !quoted && at > 0 => {
                    let rest = statement.get(at + 1..).unwrap_or(&[]);
                    let reversed: Line = rest.iter().take(NAME_LOOKED_AT).rev().copied().collect();
                    let begins = statement.get(at - 1).is_some_and(|unit| is_blank(unit.byte));
                    let Some(found) = read_use(&reversed).filter(|it| it.braces || begins) else {
                        continue;
                    };
                    if self.variables.get(&found.name).is_none()
                        && !self.is_secret(statement.get(..at).unwrap_or(&[]), "")
                    {
                        self.not_defined(*unit, &found);
                        told += 1;
                        if told == UNDEFINED_TOLD {
                            return;
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// A variable that is defined and not replaced, because of what follows its name: told.
    fn ends_badly(&mut self, statement: &[Unit], at: usize) -> bool {
        let rest = statement.get(at + 1..).unwrap_or(&[]);
        let len = name_len(rest.iter().take(NAME_LOOKED_AT).map(|unit| unit.byte));
        let Some(next) = rest.get(len).filter(|_| len > 0) else { return false };
        let (name, next) = (line::text(rest.get(..len).unwrap_or(&[])), next.byte);
        if is_blank(next) || matches!(next, b',' | b')') || self.variables.get(&name).is_none() {
            return false;
        }
        let first = statement.get(at).copied().unwrap_or(Unit { byte: 0, pos: 0, within: 0 });
        let place = self.place(first.pos, len + 1, first.within);
        let sign = char::from(next);
        let message = format!("`${name}` is not replaced before `{sign}`");
        let help = format!("write `${{{name}}}`; keepalived leaves it as it is too");
        self.tell(Severity::Notice, place, message, &help);
        true
    }

    fn not_defined(&mut self, at: Unit, found: &Use) {
        let name = found.name.as_str();
        let near = self
            .variables
            .names()
            .map(|known| (strsim::osa_distance(known, name), known))
            .filter(|(distance, _)| *distance <= 2)
            .min()
            .map(|(_, known)| format!("did you mean `${known}`?"));
        let help = near.unwrap_or_else(|| "a definition is a line $NAME=VALUE before it".into());
        // keepalived takes the brace for the beginning of a block.
        let severity = if found.braces { Severity::Error } else { Severity::Notice };
        let place = self.place(at.pos, found.len + 1, at.within);
        self.tell(
            severity,
            place,
            format!("`${name}` is not defined here; it stays as it is"),
            &help,
        );
    }
}
