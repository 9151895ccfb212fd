//! Whether a server's RSA public key is one that a client may be handed: the MySQL client
//! library takes a key apart without checking it and would end the process over a bad one.

/// Modulus sizes taken, in bytes (2048 to 8192 bits; MySQL makes 2048).
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
/// Longest password that fits a 2048-bit OAEP block, with its NUL.
pub const PASSWORD_LIMIT: usize = 200;

/// Whether `pem` is one `PUBLIC KEY` block that holds nothing but an RSA key of usable size.
pub fn acceptable(pem: &[u8]) -> bool {
    check(pem).is_some()
}

fn check(pem: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(pem).ok()?.trim_end_matches(['\0', '\n', '\r', ' ']);
    let body = text.strip_prefix("-----BEGIN PUBLIC KEY-----")?;
    let body = body.strip_suffix("-----END PUBLIC KEY-----")?;
    let der = base64(body)?;
    let (info, rest) = element(&der, 0x30)?;
    let (algorithm, key) = element(info, 0x30)?;
    let (bits, more) = element(key, 0x03)?;
    // rsaEncryption, 1.2.840.113549.1.1.1
    let (oid, _null) = element(algorithm, 0x06)?;
    let (unused, bits) = bits.split_first()?;
    let (numbers, tail) = element(bits, 0x30)?;
    let (modulus, exponent) = element(numbers, 0x02)?;
    let (exponent, end) = element(exponent, 0x02)?;
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let fine = rest.is_empty()
        && more.is_empty()
        && tail.is_empty()
        && end.is_empty()
        && *unused == 0
        && oid == [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]
        && MODULUS.contains(&modulus.len())
        && modulus.first().is_some_and(|&byte| byte >= 0x80)
        && modulus.last().is_some_and(|&byte| byte & 1 == 1)
        && (1..=4).contains(&exponent.len())
        && exponent.iter().any(|&byte| byte != 0);
    fine.then_some(())
}

/// The contents of the element with this tag at the start of `der`, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, der) = der.split_first()?;
    let (&first, der) = der.split_first()?;
    if found != tag {
        return None;
    }
    let (length, der) = match first {
        0..=0x7f => (usize::from(first), der),
        0x81 => (usize::from(*der.first()?), der.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*der.first()?, *der.get(1)?])), der.get(2..)?),
        _ => return None,
    };
    der.split_at_checked(length)
}

/// Padded standard base64 with white space between, as PEM has it.
fn base64(text: &str) -> Option<Vec<u8>> {
    let symbols: Vec<u8> =
        text.bytes().filter(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).collect();
    let padding = symbols.iter().rev().take_while(|&&byte| byte == b'=').count();
    if symbols.is_empty() || !symbols.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(symbols.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for &symbol in &symbols[..symbols.len() - padding] {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    // Left-over bits must be zero, or a strict decoder (the library's) refuses what we took.
    (bits & ((1 << count) - 1) == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made with `openssl genrsa 2048 | openssl rsa -pubout`.
    const KEY: &str = include_str!("testdata/rsa2048.pub.pem");
    const SMALL: &str = include_str!("testdata/rsa1024.pub.pem");
    const CURVE: &str = include_str!("testdata/p256.pub.pem");

    #[test]
    fn keys() {
        assert!(acceptable(KEY.as_bytes()));
        assert!(acceptable(KEY.trim_end().as_bytes()));
        assert!(!acceptable(SMALL.as_bytes()), "a password might not fit");
        assert!(!acceptable(CURVE.as_bytes()), "not RSA");
        assert!(!acceptable(b""));
        assert!(!acceptable(b"-----BEGIN PUBLIC KEY----------END PUBLIC KEY-----"));
        for cut in 0..KEY.trim_end().len() {
            assert!(!acceptable(&KEY.as_bytes()[..cut]), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(body in "[A-Za-z0-9+/=\n]{0,600}") {
            let _ = acceptable(
                format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----").as_bytes(),
            );
        }

        /// A key that was tampered with is refused or still one that parses to the end.
        #[test]
        fn mutated(at in 27usize..400, value: u8) {
            let mut key = KEY.as_bytes().to_vec();
            key[at] = value;
            let _ = acceptable(&key);
        }
    }
}
