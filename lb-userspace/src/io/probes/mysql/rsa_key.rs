//! Whether a server's RSA public key is one that a client may be handed: the MySQL client
//! library takes a key apart without checking it and would end the process over a bad one.

use pkcs1::RsaPublicKey;
use spki::{Document, ObjectIdentifier, SubjectPublicKeyInfoRef};

/// RFC 8017 §A.1.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const LABEL: &str = "PUBLIC KEY";
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
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
    // PEM may have a preamble; the library takes none.
    text.strip_prefix(BEGIN)?;
    let (label, document) = Document::from_pem(text).ok()?;
    let info = SubjectPublicKeyInfoRef::try_from(document.as_bytes()).ok()?;
    let key = RsaPublicKey::try_from(info.subject_public_key.as_bytes()?).ok()?;
    let (modulus, exponent) = (key.modulus.as_bytes(), key.public_exponent.as_bytes());
    let fine = label == LABEL
        && info.algorithm.oid == RSA_ENCRYPTION
        && MODULUS.contains(&modulus.len())
        && modulus.first().is_some_and(|&byte| byte >= 0x80)
        && modulus.last().is_some_and(|&byte| byte & 1 == 1)
        && (1..=4).contains(&exponent.len())
        && exponent.iter().any(|&byte| byte != 0);
    fine.then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made with `openssl genpkey -algorithm RSA` and `openssl pkey -pubout`; its other half, rsa2048.key.pem,
    /// is in the tests of the login.
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
