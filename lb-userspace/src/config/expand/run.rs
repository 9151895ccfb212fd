//! The loop over lines, and what is done with each.

use std::sync::{Arc, LazyLock};

use memchr::memmem::Finder;

use super::{
    super::lex,
    Definer, Expander, Frame, Kind, NESTING_LIMIT, Pos, Run, Severity,
    include::Ignored,
    line::{self, Line, Unit, contains, decomment, skip_blanks, starts_with, trim},
    sequence::{self, Head},
    variables::Value,
};

/// Words by which a text may need expansion; every byte of a file is looked at for them, and most files have
/// neither.
static WORDS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| ["include", "random_seed"].map(Finder::new));

/// Whether a text may hold anything that is expanded.
pub(super) fn has_language(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr3(b'$', b'@', b'~', bytes).is_some()
        || WORDS.iter().any(|word| word.find(bytes).is_some())
}

/// Whether what stands behind a brace is more than a statement.
fn begins_language(line: &[Unit]) -> bool {
    line.first().is_some_and(|unit| matches!(unit.byte, b'@' | b'$' | b'~'))
        || starts_with(line, "include")
}

/// What a line is, looked at once.
enum Prepared {
    /// It has led to nothing to write here.
    Done,
    /// A statement, or several with their braces.
    Text(Line),
}

impl Expander<'_> {
    /// Reads all lines of all files.
    pub(super) fn run(&mut self) {
        while !self.stopped
            && let Some(frame) = self.frames.last_mut()
        {
            match frame {
                Frame::File(file) => {
                    let (index, from) = (file.index, file.next);
                    self.file_line(index, from);
                }
                Frame::Body { lines, next, within } => {
                    let (line, within) = (lines.get(*next).cloned(), *within);
                    *next += 1;
                    match line {
                        None => drop(self.frames.pop()),
                        Some(line) => {
                            let line = line.iter().map(|unit| Unit { within, ..*unit }).collect();
                            self.take(line);
                        }
                    }
                }
                Frame::Sequence { .. } | Frame::List { .. } => self.turn(),
            }
        }
        self.finish_definition();
        self.tell_conditions();
    }

    /// The next line of a file.
    fn file_line(&mut self, index: usize, from: usize) {
        let Some(file) = self.map.files.get(index) else { return };
        let Some(rest) = file.text.get(from..) else {
            self.end_file();
            return;
        };
        let len = rest.find('\n').unwrap_or(rest.len());
        let whole = rest.get(..len).unwrap_or("").trim_end_matches('\r');
        let code = whole.get(..lex::comment_start(whole.as_bytes())).unwrap_or(whole).trim_ascii();
        let start = whole.len() - whole.trim_ascii_start().len();
        let pos = file.base + u32::try_from(from + start).unwrap_or(u32::MAX);
        if let Some(Frame::File(frame)) = self.frames.last_mut() {
            frame.next = from + len + 1;
        }
        // keepalived 2.2 takes the backslash at the end of a comment for that of its line.
        let goes_on = lex::is_continued(whole.trim_ascii_end().as_bytes());
        if self.collecting.is_some() {
            let mut line = line::units(code, pos);
            if goes_on && !code.ends_with('\\') {
                line.push(Unit { byte: b'\\', pos, within: 0 });
            }
            self.collect(line);
            return;
        }
        if code.is_empty() {
            return;
        }
        if !has_language(code) {
            let run = Run { at: 0, pos, within: 0, fixed: false };
            self.work += 1;
            push_run(&mut self.runs, &self.out, run);
            self.out.push_str(code);
            self.out.push('\n');
            if self.out.len() > self.limits.text {
                self.stop(&line::units(" ", pos), self.too_long());
            }
            return;
        }
        let mut line = line::units(code, pos);
        if goes_on && code.starts_with('$') && !code.ends_with('\\') {
            line.push(Unit { byte: b'\\', pos, within: 0 });
        }
        decomment(&mut line);
        self.line(line);
    }

    fn end_file(&mut self) {
        self.finish_definition();
        if let Some(Frame::File(file)) = self.frames.pop() {
            self.checks = file.checks;
        }
    }

    /// A line from anywhere but a file.
    fn take(&mut self, line: Line) {
        if self.collecting.is_some() {
            self.collect(line);
        } else {
            self.line(line);
        }
    }

    /// One line: its statements one after the other.
    fn line(&mut self, line: Line) {
        let mut wrote = false;
        let mut next = Some(line);
        while let Some(line) = next.take() {
            let Prepared::Text(text) = self.prepare(line) else { break };
            let mut rest = text.as_slice();
            while !rest.is_empty() && !self.stopped {
                let (statement, behind) = rest.split_at(line::statement_end(rest).min(rest.len()));
                self.settings(statement);
                self.undefined(statement);
                self.emit(statement);
                wrote = true;
                rest = behind;
                // Behind a brace begins a line of its own. Its variables are replaced: what is no language is
                // neither copied nor looked at again, so that the time grows with the length of the line alone.
                if begins_language(rest) {
                    next = Some(rest.to_vec());
                    break;
                }
                if !self.charge(statement) {
                    break;
                }
            }
        }
        if wrote {
            self.out.push('\n');
        }
    }

    /// Conditions, definitions, sequences, variables, include: until a text is left.
    fn prepare(&mut self, mut line: Line) -> Prepared {
        let mut conditional = false;
        for _ in 0..NESTING_LIMIT {
            trim(&mut line);
            if line.is_empty() || !self.charge(&line) {
                return Prepared::Done;
            }
            if line.first().is_some_and(|unit| unit.byte == b'@') {
                if !self.condition(&mut line) {
                    return Prepared::Done;
                }
                conditional = true;
            }
            if self.define(&line) {
                return Prepared::Done;
            }
            if sequence::begins(&line) {
                self.sequence(line);
                return Prepared::Done;
            }
            if !contains(&line, b'$') || !self.substitute(&mut line) {
                let special = conditional || line.iter().any(|unit| unit.within != 0);
                return if self.include(&line, special) {
                    Prepared::Done
                } else {
                    Prepared::Text(line)
                };
            }
            if let Some(began) = decomment(&mut line)
                && let Some(Kind::Value { .. }) = self.map.expansion(began.within).map(|it| it.kind)
            {
                let place = self.place(began.pos, 1, began.within);
                self.tell(
                    Severity::Warning,
                    place,
                    "the value of this variable begins a comment here",
                    "put the word into double quotes, as keepalived needs it too",
                );
            }
        }
        self.stop(&line, format!("variables lead to variables more than {NESTING_LIMIT} times"));
        Prepared::Done
    }

    /// `@ID` and `@^ID`: removes it; false when the line does not count here.
    fn condition(&mut self, line: &mut Line) -> bool {
        let reversed = line.get(1).is_some_and(|unit| unit.byte == b'^');
        let from = if reversed { 2 } else { 1 };
        let rest = line.get(from..).unwrap_or(&[]);
        let len = rest.iter().take_while(|unit| !matches!(unit.byte, b' ' | b'\t')).count();
        let id = line::text(rest.get(..len).unwrap_or(&[]));
        if from + len >= line.len() {
            let place = self.place_of(line);
            let message = format!("there is nothing behind `@{id}`; the line is left out");
            self.tell(Severity::Notice, place, message, "");
            return false;
        }
        let counts = (id == self.around.id()) != reversed;
        if !reversed {
            if self.conditions.first.is_none() {
                self.conditions.first = Some(self.place_of(line.get(..from + len).unwrap_or(&[])));
            }
            self.conditions.matched |= counts;
            if self.conditions.ids.len() < 64 {
                self.conditions.ids.insert(id);
            }
        }
        line.drain(..skip_blanks(line, from + len));
        counts
    }

    /// None of the `@ID` lines counts: perhaps `-i` was forgotten.
    fn tell_conditions(&mut self) {
        let unknown = !self.stopped && !self.conditions.matched && !self.around.id().is_empty();
        let Some(place) = self.conditions.first.take().filter(|_| unknown) else { return };
        let ids: Vec<_> = self.conditions.ids.iter().take(8).cloned().collect();
        let message = format!("no `@` line is for this host, whose id is `{}`", self.around.id());
        let help = format!("the file knows {}; say who this host is by -i ID", ids.join(", "));
        self.tell(Severity::Notice, place, message, &help);
    }

    /// `~SEQ` and `~LST`.
    fn sequence(&mut self, line: Line) {
        let first = line.first().map_or(0, |unit| unit.pos);
        let failed = |this: &mut Self, why: &str| {
            let place = this.place_of(&line);
            let message = format!("`~SEQ` or `~LST` cannot be read: {why}");
            this.tell(Severity::Error, place, message, FORMS);
        };
        let (head, from) = match sequence::parse(&line) {
            Ok(found) => found,
            Err(why) => return failed(self, &why),
        };
        let text = line.get(from..).unwrap_or(&[]).to_vec();
        let named = |name: &[Unit]| -> (Arc<str>, Pos) {
            (line::text(name).into(), name.first().map_or(first, |unit| unit.pos))
        };
        let frame = match head {
            Head::List { names, sets } => Frame::List {
                names: names.iter().map(|name| named(name)).collect(),
                sets: sets.into_iter(),
                text,
            },
            Head::Sequence { name, hex, mut numbers } => {
                if contains(&numbers, b'$') {
                    self.substitute(&mut numbers);
                }
                let sequence::Numbers { first, step, last } = match sequence::numbers(&numbers, hex)
                {
                    Ok(numbers) => numbers,
                    Err(why) => return failed(self, &why),
                };
                let (name, pos) = named(&name);
                Frame::Sequence { name, pos, next: first, step, last, hex, text }
            }
        };
        self.push(frame, &line);
    }

    /// Adds a frame; what is nested too deep is told and left out.
    pub(super) fn push(&mut self, frame: Frame, line: &[Unit]) {
        if self.frames.len() >= NESTING_LIMIT {
            let message = format!(
                "files, sequences and variables are nested deeper than {NESTING_LIMIT}: does one \
                 stand for itself?"
            );
            self.stop(line, message);
            return;
        }
        self.frames.push(frame);
    }

    /// The next turn of the innermost sequence or list.
    fn turn(&mut self) {
        let mut values = Vec::new();
        let text = match self.frames.last_mut() {
            Some(Frame::Sequence { name, pos, next, step, last, hex, text }) => {
                let value = if *hex { format!("{next:x}") } else { next.to_string() };
                values.push((name.clone(), *pos, line::units(&value, 0), Definer::Sequence));
                let text = text.clone();
                let over = |at: i64| if *step > 0 { at > *last } else { at < *last };
                match next.checked_add(*step).filter(|at| !over(*at)) {
                    Some(at) => *next = at,
                    None => drop(self.frames.pop()),
                }
                text
            }
            Some(Frame::List { names, sets, text }) => {
                let set = sets.next().unwrap_or_default();
                let named = names.iter().zip(set);
                values.extend(
                    named.map(|((name, pos), value)| (name.clone(), *pos, value, Definer::List)),
                );
                let text = text.clone();
                if sets.len() == 0 {
                    self.frames.pop();
                }
                text
            }
            _ => return,
        };
        for (name, pos, value, by) in values {
            self.set(name, Value::Line(value.into()), pos, by);
        }
        if self.charge(&text) {
            self.take(text);
        }
    }

    /// Words of `global_defs` that act on reading itself; the parser sees them too, and tells of them elsewhere.
    fn settings(&mut self, statement: &[Unit]) {
        let begins = |word: &&str| starts_with(statement, word);
        if !["include_check", "random_seed"].iter().any(begins)
            || !self.outline.in_global_defs(&self.out)
        {
            return;
        }
        let text = line::text(statement);
        let mut words = text.split_ascii_whitespace();
        match words.next() {
            Some("include_check") => {
                let (message, help) = match self.checks.set(words) {
                    None => return,
                    Some(Ignored::Unknown(word)) => (
                        format!("`include_check` has no `{word}`"),
                        "it knows read, match, wildcard_match and brace_match",
                    ),
                    Some(Ignored::Second(word)) => (
                        format!("`{word}` of `include_check` is ignored, as in keepalived"),
                        "further words need their sign: +wildcard_match",
                    ),
                };
                let place = self.place_of(statement);
                self.tell(Severity::Warning, place, message, help);
            }
            Some("random_seed") => {
                if let Some(seed) = words.next().and_then(|word| word.parse().ok()) {
                    self.variables.seed(seed);
                }
            }
            _ => {}
        }
    }

    /// Writes a statement out.
    fn emit(&mut self, statement: &[Unit]) {
        let mut bytes = Vec::with_capacity(statement.len());
        let (mut quoted, mut escaped) = (false, false);
        let base = self.out.len();
        for unit in statement {
            let plain = !std::mem::take(&mut escaped);
            let kind = self.map.expansion(unit.within).map(|it| it.kind);
            let fixed = matches!(kind, Some(Kind::Value { .. }));
            let run = Run { at: 0, pos: unit.pos, within: unit.within, fixed };
            push_run_at(&mut self.runs, base + bytes.len(), run);
            match unit.byte {
                b'"' if plain => quoted = !quoted,
                b'\\' if plain => escaped = true,
                // The comment is gone: this one was escaped, or came from a variable.
                b'#' | b'!' if plain && !quoted => {
                    bytes.push(b'\\');
                    if !fixed {
                        push_run_at(&mut self.runs, base + bytes.len(), run);
                    }
                }
                _ => {}
            }
            bytes.push(unit.byte);
        }
        // A variable may have been put between the bytes of a character.
        match String::from_utf8(bytes) {
            Ok(text) => self.out.push_str(&text),
            Err(error) => self.out.push_str(&String::from_utf8_lossy(error.as_bytes())),
        }
        if self.out.len() > self.limits.text {
            self.stop(statement, self.too_long());
        }
    }

    pub(super) fn too_long(&self) -> String {
        let limit = self.limits.text;
        format!("~SEQ, ~LST, variables and include make more than {limit} bytes of it")
    }
}

const FORMS: &str = "the forms are ~SEQ(NAME, [FIRST, [STEP,]] LAST), ~SEQx(…), \
                     ~LST(NAME, VALUE, …), ~LST({NAME, NAME}, {VALUE, VALUE}, …)";

/// Notes where the text that is written next comes from.
fn push_run(runs: &mut Vec<Run>, out: &str, run: Run) {
    push_run_at(runs, out.len(), run);
}

fn push_run_at(runs: &mut Vec<Run>, at: usize, run: Run) {
    let at = u32::try_from(at).unwrap_or(u32::MAX);
    if let Some(last) = runs.last() {
        let same = last.within == run.within && last.fixed == run.fixed;
        let goes_on = if run.fixed {
            last.pos == run.pos
        } else {
            u64::from(last.pos) + u64::from(at - last.at) == u64::from(run.pos)
        };
        if same && goes_on {
            return;
        }
    }
    runs.push(Run { at, ..run });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_needs_it_is_expanded() {
        for text in ["$A=1", "@x y", "~SEQ(", "include x", "mail a@b"] {
            assert!(has_language(text), "{text}");
        }
        assert!(!has_language("vrrp_instance V {\n priority 1 # x\n}"));
    }

    #[test]
    fn runs_are_as_few_as_can_be() {
        let mut runs = Vec::new();
        let run = |pos, fixed| Run { at: 0, pos, within: u32::from(fixed), fixed };
        for (at, next) in
            [(0, run(10, false)), (1, run(11, false)), (2, run(12, true)), (3, run(12, true))]
        {
            push_run_at(&mut runs, at, next);
        }
        assert_eq!(runs.iter().map(|it| (it.at, it.pos)).collect::<Vec<_>>(), [(0, 10), (2, 12)]);
    }
}
