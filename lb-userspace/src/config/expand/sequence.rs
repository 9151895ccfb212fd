//! `~SEQ`, `~SEQx` and `~LST`: what stands in the parentheses.

use super::line::{Line, Unit, is_blank, name_len, skip_blanks, starts_with, text};

/// Values of one `~LST`.
pub(super) const LIST_LIMIT: usize = 65_536;

/// The head of a line that is to be read several times.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    Sequence {
        name: Vec<Unit>,
        hex: bool,
        /// Between the name and `)`, variables not yet replaced.
        numbers: Line,
    },
    List {
        names: Vec<Vec<Unit>>,
        /// One value a name.
        sets: Vec<Vec<Line>>,
    },
}

/// `first, step, last` of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) first: i64,
    pub(super) step: i64,
    pub(super) last: i64,
}

/// Whether a line begins with one of them.
pub(super) fn begins(line: &[Unit]) -> bool {
    starts_with(line, "~SEQ") || starts_with(line, "~LST")
}

/// Splits such a line into its head and the index of the text behind it.
pub(super) fn parse(line: &[Unit]) -> Result<(Head, usize), String> {
    let byte = |at: usize| line.get(at).map(|unit| unit.byte);
    let list = starts_with(line, "~LST");
    let hex = !list && byte(4) == Some(b'x');
    let open = skip_blanks(line, if hex { 5 } else { 4 });
    if byte(open) != Some(b'(') {
        return Err("expected `(`".into());
    }
    let at = skip_blanks(line, open + 1);
    if list { parse_list(line, at) } else { parse_sequence(line, at, hex) }
}

fn parse_sequence(line: &[Unit], at: usize, hex: bool) -> Result<(Head, usize), String> {
    let byte = |at: usize| line.get(at).map(|unit| unit.byte);
    let rest = line.get(at..).unwrap_or(&[]);
    let len = name_len(rest.iter().map(|unit| unit.byte));
    if len == 0 {
        return Err("expected the name of a variable after `(`".into());
    }
    let comma = skip_blanks(line, at + len);
    if byte(comma) != Some(b',') {
        return Err("expected `,` and a number after the name".into());
    }
    let from = comma + 1;
    let close = rest.iter().position(|unit| unit.byte == b')').map(|len| at + len);
    let Some(close) = close.filter(|close| *close >= from) else {
        return Err("the closing `)` is missing".into());
    };
    let slice = |from: usize, to: usize| line.get(from..to).unwrap_or(&[]).to_vec();
    let head = Head::Sequence { name: slice(at, at + len), hex, numbers: slice(from, close) };
    Ok((head, skip_blanks(line, close + 1)))
}

/// The numbers of a sequence, as keepalived reads them: `[first, [step,]] last`; 0x and 0 give
/// the base.
pub(super) fn numbers(line: &[Unit], hex: bool) -> Result<Numbers, String> {
    let shown = text(line);
    let words: Vec<&str> = shown.split(',').map(str::trim).collect();
    let mut values = Vec::new();
    for word in &words {
        let value = number(word).ok_or_else(|| format!("`{}` is no whole number", cut(word)))?;
        values.push(value);
    }
    let found = match values[..] {
        [last] => Numbers {
            first: if last < 0 { -1 } else { 1 },
            step: if last < 1 { -1 } else { 1 },
            last,
        },
        [first, last] => Numbers { first, step: if first <= last { 1 } else { -1 }, last },
        [first, step, last] => Numbers { first, step, last },
        _ => return Err("expected LAST, or FIRST and LAST, or FIRST, STEP and LAST".into()),
    };
    let Numbers { first, step, last } = found;
    if step == 0 || (first < last && step < 0) || (first > last && step > 0) {
        return Err(format!("steps of {step} do not lead from {first} to {last}"));
    }
    if hex && (first < 0 || last < 0) {
        return Err("~SEQx has no negative numbers".into());
    }
    Ok(found)
}

/// As strtol(3) with base 0.
fn number(word: &str) -> Option<i64> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let value = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8).ok()?
    } else {
        digits.parse().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()))?
    };
    Some(if negative { -value } else { value })
}

fn cut(word: &str) -> String {
    word.chars().take(32).collect()
}

/// Reads `a, b` up to one of the closing bytes; values are trimmed and may be empty.
fn values(line: &[Unit], mut at: usize, close: &[u8]) -> Option<(Vec<Line>, usize)> {
    let mut out = Vec::new();
    loop {
        at = skip_blanks(line, at);
        let rest = line.get(at..)?;
        let ends = |unit: &Unit| {
            is_blank(unit.byte)
                || unit.byte == b','
                || unit.byte == b'}'
                || close.contains(&unit.byte)
        };
        let len = rest.iter().position(ends)?;
        out.push(rest.get(..len)?.to_vec());
        at = skip_blanks(line, at + len);
        let byte = line.get(at)?.byte;
        if close.contains(&byte) || out.len() > LIST_LIMIT {
            return Some((out, at));
        }
        if byte != b',' {
            return None;
        }
        at += 1;
    }
}

fn parse_list(line: &[Unit], at: usize) -> Result<(Head, usize), String> {
    let byte = |at: usize| line.get(at).map(|unit| unit.byte);
    let wrong = || "expected NAME, VALUE, … or {NAME, NAME}, {VALUE, VALUE}, … and `)`".to_owned();
    let (names, mut at) = if byte(at) == Some(b'{') {
        let (names, end) = values(line, at + 1, b"}").ok_or_else(wrong)?;
        (names, skip_blanks(line, end + 1))
    } else {
        let rest = line.get(at..).unwrap_or(&[]);
        let len =
            rest.iter().take_while(|u| !is_blank(u.byte) && !matches!(u.byte, b',' | b')')).count();
        (vec![rest.get(..len).unwrap_or(&[]).to_vec()], skip_blanks(line, at + len))
    };
    for name in &names {
        let len = name_len(name.iter().map(|unit| unit.byte));
        if len == 0 || len != name.len() {
            return Err(format!("`{}` cannot be the name of a variable", cut(&text(name))));
        }
    }
    if byte(at) != Some(b',') {
        return Err(wrong());
    }
    at = skip_blanks(line, at + 1);
    let mut sets = Vec::new();
    loop {
        let mut set = if byte(at) == Some(b'{') {
            let (set, end) = values(line, at + 1, b"}").ok_or_else(wrong)?;
            at = skip_blanks(line, end + 1);
            set
        } else {
            let (mut set, end) = values(line, at, b",)").ok_or_else(wrong)?;
            at = end;
            set.truncate(1);
            set
        };
        if set.len() > names.len() {
            return Err(format!("{} values for {} names", set.len(), names.len()));
        }
        // Missing values are empty.
        set.resize_with(names.len(), Vec::new);
        sets.push(set);
        if sets.len() > LIST_LIMIT {
            return Err(format!("more than {LIST_LIMIT} values"));
        }
        match byte(at) {
            Some(b')') => return Ok((Head::List { names, sets }, skip_blanks(line, at + 1))),
            Some(b',') => at = skip_blanks(line, at + 1),
            _ => return Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::line::units, *};

    #[test]
    fn numbers_as_keepalived_reads_them() {
        for (words, expect) in [
            ("3", Some((1, 1, 3))),
            ("-2", Some((-1, -1, -2))),
            ("0", Some((1, -1, 0))),
            ("3, 1", Some((3, -1, 1))),
            ("0x10, 2, 0x14", Some((16, 2, 20))),
            ("010, 9", Some((8, 1, 9))),
            ("5, -1, 5", Some((5, -1, 5))),
            ("1, 0, 5", None),
            ("1, -1, 5", None),
            ("", None),
            ("1,,5", None),
            ("a", None),
            ("1,2,3,4", None),
            ("99999999999999999999", None),
        ] {
            let got = numbers(&units(words, 0), false).ok();
            assert_eq!(got.map(|n| (n.first, n.step, n.last)), expect, "{words}");
        }
        assert!(numbers(&units("-1, 5", 0), true).is_err());
    }

    #[test]
    fn heads_of_lists() {
        for (line, expect) in [
            ("~LST(A, p, q) x", Some("A|p;q|x")),
            ("~LST ( {A,B}, {p,1}, {q} )x", Some("A,B|p,1;q,|x")),
            ("~LST(A,) y", Some("A||y")),
            ("~LST({A}, {p,q}) x", None),
            ("~LST(A, p", None),
            ("~LST(9, p) x", None),
            ("~LST(A) x", None),
            ("~LST A", None),
        ] {
            let got = parse(&units(line, 0)).ok().map(|(head, from)| {
                let Head::List { names, sets } = head else { panic!("{line}") };
                let join =
                    |list: &[Line]| list.iter().map(|l| text(l)).collect::<Vec<_>>().join(",");
                let sets: Vec<_> = sets.iter().map(|set| join(set)).collect();
                format!("{}|{}|{}", join(&names), sets.join(";"), &line[from..])
            });
            assert_eq!(got.as_deref(), expect, "{line}");
        }
    }

    #[test]
    fn heads_of_sequences_name_what_is_missing() {
        for (line, words) in
            [("~SEQ N", "`(`"), ("~SEQ(, 3)", "name"), ("~SEQ(N) x", "`,`"), ("~SEQ(N, 3 x", "`)`")]
        {
            let error = parse(&units(line, 0)).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
