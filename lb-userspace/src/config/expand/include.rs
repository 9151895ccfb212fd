//! `include` and its kin: what a line asks for, and how strict it is about it.

use super::line::{Unit, is_blank, skip_blanks, starts_with, text};

/// Patterns that the braces of one `include` may stand for.
pub(super) const ALTERNATIVES_LIMIT: usize = 256;

/// What must hold of included files (`include_check`). Without any of it keepalived only logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checks {
    /// What a pattern finds must be a readable file.
    pub(super) readable: bool,
    /// A name without wildcards must exist.
    pub(super) matching: bool,
    /// Wildcards must find something.
    pub(super) wildcard: bool,
    /// Each alternative of braces must exist.
    pub(super) brace: bool,
}

impl Checks {
    pub(super) const ALL: Self =
        Self { readable: true, matching: true, wildcard: true, brace: true };

    fn or(self, other: Self) -> Self {
        Self {
            readable: self.readable || other.readable,
            matching: self.matching || other.matching,
            wildcard: self.wildcard || other.wildcard,
            brace: self.brace || other.brace,
        }
    }

    /// The words of `include_check`; without any, all. The first that does not count is returned: only one
    /// without a sign does, and only in the first place.
    pub(super) fn set<'t>(&mut self, words: impl Iterator<Item = &'t str>) -> Option<Ignored<'t>> {
        let mut ignored = None;
        let mut given = false;
        for (word, at) in words.zip(0..) {
            let (name, on) = match word.strip_prefix('-') {
                Some(name) => (name, false),
                None => (word.strip_prefix('+').unwrap_or(word), true),
            };
            let plain = name.len() == word.len();
            if at == 0 && plain {
                *self = Self::default();
            }
            given = true;
            if at > 0 && plain {
                ignored.get_or_insert(Ignored::Second(word));
                continue;
            }
            match name {
                "read" => self.readable = on,
                "match" => self.matching = on,
                "wildcard_match" => self.wildcard = on,
                "brace_match" => self.brace = on,
                _ => drop(ignored.get_or_insert(Ignored::Unknown(word))),
            }
        }
        if !given {
            *self = Self::ALL;
        }
        self.readable |= self.matching || self.wildcard || self.brace;
        ignored
    }
}

/// A word of `include_check` that keepalived finds fault with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignored<'t> {
    Unknown(&'t str),
    /// Without a sign behind another one.
    Second(&'t str),
}

/// One `include` line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Include {
    pub(super) checks: Checks,
    /// All the rest of the line: blanks and quotes belong to the name.
    pub(super) pattern: String,
    /// Where it begins in the line.
    pub(super) at: usize,
}

/// Reads a line; `None`: it is none of these, or names no file.
pub(super) fn parse(line: &[Unit], checks: Checks) -> Option<Include> {
    if !starts_with(line, "include") {
        return None;
    }
    let none = Checks::default();
    let own = match line.get(7)?.byte {
        byte if is_blank(byte) => (none, 7),
        b'r' => (Checks { readable: true, ..none }, 8),
        b'm' => (Checks { readable: true, matching: true, ..none }, 8),
        b'w' => (Checks { brace: false, ..Checks::ALL }, 8),
        b'b' => (Checks { readable: true, brace: true, ..none }, 8),
        b'a' => (Checks::ALL, 8),
        _ => return None,
    };
    let (own, end) = own;
    if !is_blank(line.get(end)?.byte) {
        return None;
    }
    let at = skip_blanks(line, end);
    let pattern = text(line.get(at..)?);
    (!pattern.is_empty()).then_some(Include { checks: checks.or(own), pattern, at })
}

/// Whether a pattern may stand for several names.
pub(super) fn has_wildcard(pattern: &str) -> bool {
    let mut bytes = pattern.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// The patterns that csh-like braces stand for, in their order: `{a,b{c,d}}` is a, bc, bd. Braces
/// without a comma or a partner are themselves. `None`: more than [`ALTERNATIVES_LIMIT`].
pub(super) fn alternatives(pattern: &str) -> Option<Vec<String>> {
    let mut done = Vec::new();
    let mut left = vec![pattern.to_owned()];
    while let Some(next) = left.pop() {
        // A look for a brace is short, a walk over a long name is not.
        match next.contains('{').then(|| split(&next)).flatten() {
            None => done.push(next),
            Some(parts) => left.extend(parts.into_iter().rev()),
        }
        if done.len() + left.len() > ALTERNATIVES_LIMIT {
            return None;
        }
    }
    Some(done)
}

/// The alternatives of the first braces.
fn split(pattern: &str) -> Option<Vec<String>> {
    let bytes = pattern.as_bytes();
    let (mut depth, mut open, mut cuts) = (0_usize, 0, Vec::new());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'{' if depth == 0 => {
                (depth, open) = (1, at);
                cuts = vec![at];
            }
            b'{' => depth += 1,
            b',' if depth == 1 => cuts.push(at),
            b'}' if depth == 1 && cuts.len() > 1 => {
                cuts.push(at);
                let (before, after) = (pattern.get(..open)?, pattern.get(at + 1..)?);
                let parts = cuts.windows(2).filter_map(|cut| {
                    let [from, to] = cut else { return None };
                    Some(format!("{before}{}{after}", pattern.get(from + 1..*to)?))
                });
                return Some(parts.take(ALTERNATIVES_LIMIT + 1).collect());
            }
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{super::line::units, *};

    #[test]
    fn braces_as_csh_has_them() {
        for (pattern, expect) in [
            ("a.conf", "a.conf"),
            ("{a,b}.conf", "a.conf b.conf"),
            ("x{foo/{,cat,dog},bar}", "xfoo/ xfoo/cat xfoo/dog xbar"),
            ("{a}", "{a}"),
            ("{a,b", "{a,b"),
            ("a,b}", "a,b}"),
            ("\\{a,b}", "\\{a,b}"),
        ] {
            assert_eq!(alternatives(pattern).unwrap().join(" "), expect);
        }
        assert_eq!(alternatives(&"{a,b}".repeat(9)), None, "512 of them");
        assert_eq!(alternatives(&format!("{{{}}}", ",".repeat(300))), None);
    }

    #[test]
    fn kinds_of_include() {
        let read = |line: &str| parse(&units(line, 0), Checks::default());
        for (line, pattern) in [
            ("include a b.conf", Some("a b.conf")),
            ("include\t\"x\"", Some("\"x\"")),
            ("includer a", Some("a")),
            ("include", None),
            ("include ", None),
            ("includex a", None),
            ("include_check", None),
            ("includerx a", None),
        ] {
            assert_eq!(read(line).map(|it| it.pattern).as_deref(), pattern, "{line}");
        }
        let checks = |line: &str| read(line).unwrap().checks;
        assert_eq!(checks("include a"), Checks::default());
        assert_eq!(checks("includea a"), Checks::ALL);
        assert!(checks("includem a").matching && !checks("includem a").wildcard);
        assert!(checks("includew a").wildcard && !checks("includew a").brace);
        assert!(checks("includeb a").brace && !checks("includeb a").matching);
    }

    #[test]
    fn include_check_sets_adds_and_takes_away() {
        let set = |from: Checks, words: &'static str| {
            let mut checks = from;
            let ignored = checks.set(words.split_whitespace());
            (checks, ignored)
        };
        let none = Checks::default();
        assert_eq!(set(none, ""), (Checks::ALL, None));
        let matching = Checks { readable: true, matching: true, ..none };
        assert_eq!(set(Checks::ALL, "match"), (matching, None));
        assert_eq!(set(none, "+match"), (matching, None));
        assert_eq!(set(Checks::ALL, "-wildcard_match -brace_match"), (matching, None));
        assert_eq!(set(matching, "+bogus"), (matching, Some(Ignored::Unknown("+bogus"))));
        let second = Some(Ignored::Second("wildcard_match"));
        assert_eq!(set(none, "match wildcard_match"), (matching, second));
        assert_eq!(set(none, "readable"), (none, Some(Ignored::Unknown("readable"))));
        assert_eq!(set(none, "read"), (Checks { readable: true, ..none }, None));
        assert!(has_wildcard("conf.d/*") && has_wildcard("[ab]") && !has_wildcard("a\\*"));
    }
}
