//! Numbers and times as keepalived reads them.

/// A number, and whether something that is no number followed it (`101;`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read<T> {
    pub(super) value: T,
    pub(super) junk: bool,
}

/// Digits alone, and few enough to fit: what nearly every number of a file is.
fn digits(text: &str) -> Option<u32> {
    if text.is_empty() || text.len() > 9 {
        return None;
    }
    text.bytes().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0'))
    })
}

/// Decimal whole number with sign. `None`: no digit at its beginning, or beyond 64 bits.
pub(super) fn int(text: &str) -> Option<Read<i64>> {
    if let Some(value) = digits(text) {
        return Some(Read { value: value.into(), junk: false });
    }
    let digits_at = usize::from(text.starts_with(['-', '+']));
    let len = text.get(digits_at..)?.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits_at + len)?;
    let value = number.parse().ok()?;
    Some(Read { value, junk: !rest.is_empty() })
}

/// Seconds with decimals, in µs; digits beyond µs are dropped.
pub(super) fn seconds(text: &str) -> Option<Read<u64>> {
    if let Some(whole) = digits(text) {
        return Some(Read { value: u64::from(whole) * 1_000_000, junk: false });
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let whole_len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at_checked(whole_len)?;
    let (fraction, rest) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => {
            let len = rest.bytes().take_while(u8::is_ascii_digit).count();
            rest.split_at_checked(len)?
        }
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
    let micros = digits.fold(0, |micros, digit| 10 * micros + u64::from(digit - b'0'));
    let value = whole.checked_mul(1_000_000)?.checked_add(micros)?;
    Some(Read { value, junk: !rest.is_empty() })
}

/// Our own form: seconds with decimals, or with `s` or `ms` behind the number; in µs.
pub(super) fn time(text: &str) -> Option<u64> {
    let (number, per_second) = match text.strip_suffix("ms") {
        Some(number) => (number, 1000),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    match seconds(number)? {
        Read { value, junk: false } => Some(value / per_second),
        Read { junk: true, .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, value) in [
            ("101", Some((101, false))),
            ("-5", Some((-5, false))),
            ("+7", Some((7, false))),
            ("101;", Some((101, true))),
            ("1.5", Some((1, true))),
            ("x", None),
            ("-", None),
            ("", None),
            ("99999999999999999999", None),
            ("999999999", Some((999_999_999, false))),
            ("9999999999", Some((9_999_999_999, false))),
            ("000000000007", Some((7, false))),
        ] {
            assert_eq!(int(text).map(|r| (r.value, r.junk)), value, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, micros) in [
            ("1", Some(1_000_000)),
            ("0.5", Some(500_000)),
            (".25", Some(250_000)),
            ("1.0000019", Some(1_000_001)),
            ("1s", Some(1_000_000)),
            ("100ms", Some(100_000)),
            ("0.5ms", Some(500)),
            ("1m", None),
            ("ms", None),
            ("s", None),
            ("", None),
            ("-1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text), micros, "{text}");
        }
        assert_eq!(seconds("1s"), Some(Read { value: 1_000_000, junk: true }));
    }
}
