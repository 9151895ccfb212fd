//! Authentication of adverts: VRRPv2's (RFC 2338 §5.3.6, as deployed) none, simple password and IP
//! authentication header, and keepalived's `auth_hmac`.

pub mod ah;
pub mod hmac;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::wire::Reason;

/// Authentication type on the wire for none.
pub const TYPE_NONE: u8 = 0;
/// Authentication type on the wire for a simple password.
pub const TYPE_PASS: u8 = 1;
/// Authentication type on the wire for the IP authentication header.
pub const TYPE_AH: u8 = 2;

/// What an instance sends and demands.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Auth {
    /// Type 0; data is zero when sent and ignored when received.
    None,
    /// Type 1; eight raw bytes, NUL-padded.
    Pass([u8; 8]),
    /// Type 2: the data is zero, the same eight bytes are the key of [`ah`]'s code.
    Ah([u8; 8]),
}

/// A key as HMAC with MD5 and SHA-256 wants it: a block of 64 bytes, NUL-padded. Ours are never
/// longer.
fn key_block(key: &[u8]) -> [u8; 64] {
    let mut block = [0; 64];
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    block
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Pass(_) => "Pass(***)",
            Self::Ah(_) => "Ah(***)",
        })
    }
}

impl Auth {
    /// The same method with a secret of zeros, for recordings. Adverts under AH are recorded as
    /// they came, signed with the true key: a replay discards them.
    pub fn without_secret(self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Pass(_) => Self::Pass([0; 8]),
            Self::Ah(_) => Self::Ah([0; 8]),
        }
    }

    /// Byte 4 of a VRRPv2 advert.
    pub fn type_number(self) -> u8 {
        match self {
            Self::None => TYPE_NONE,
            Self::Pass(_) => TYPE_PASS,
            Self::Ah(_) => TYPE_AH,
        }
    }

    /// The eight bytes at the end of a VRRPv2 advert.
    pub fn data(self) -> [u8; 8] {
        match self {
            Self::None | Self::Ah(_) => [0; 8],
            Self::Pass(data) => data,
        }
    }

    /// Compares what came with what is demanded. Every password byte counts, those after a NUL
    /// too, as in keepalived; the comparison takes the same time wherever they differ.
    ///
    /// # Errors
    /// The reason to discard the advert.
    pub fn check(self, type_number: u8, data: &[u8; 8]) -> Result<(), Reason> {
        if type_number > TYPE_AH {
            return Err(Reason::AuthTypeUnknown);
        }
        if type_number != self.type_number() {
            return Err(Reason::AuthTypeMismatch);
        }
        match self {
            // The header in front of the message is checked where it is seen.
            Self::None | Self::Ah(_) => Ok(()),
            Self::Pass(own) if bool::from(own.ct_eq(data)) => Ok(()),
            Self::Pass(_) => Err(Reason::AuthFailed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S3CRET: Auth = Auth::Pass(*b"s3cret\0\0");
    const AH: Auth = Auth::Ah(*b"s3cret\0\0");

    // RX-07 AUT-02
    #[test]
    fn none_pass_and_ah_agree_only_with_themselves() {
        let other = [7; 8];
        assert_eq!(Auth::None.check(TYPE_NONE, &other), Ok(()), "data of type 0 is ignored");
        assert_eq!(Auth::None.check(TYPE_PASS, &other), Err(Reason::AuthTypeMismatch));
        assert_eq!(Auth::None.check(TYPE_AH, &other), Err(Reason::AuthTypeMismatch));
        assert_eq!(S3CRET.check(TYPE_PASS, b"s3cret\0\0"), Ok(()));
        assert_eq!(S3CRET.check(TYPE_NONE, b"s3cret\0\0"), Err(Reason::AuthTypeMismatch));
        assert_eq!(S3CRET.check(TYPE_AH, b"s3cret\0\0"), Err(Reason::AuthTypeMismatch));
        assert_eq!(AH.check(TYPE_AH, &other), Ok(()), "data of type 2 is ignored");
        assert_eq!(AH.check(TYPE_NONE, &other), Err(Reason::AuthTypeMismatch));
        assert_eq!(AH.check(TYPE_PASS, b"s3cret\0\0"), Err(Reason::AuthTypeMismatch));
        assert_eq!(AH.data(), [0; 8], "the key never leaves");
        assert_eq!(S3CRET.check(3, b"s3cret\0\0"), Err(Reason::AuthTypeUnknown));
    }

    // AUT-02
    #[test]
    fn every_password_byte_counts() {
        for index in 0..8 {
            let mut data = *b"s3cret\0\0";
            data[index] ^= 0x40;
            assert_eq!(S3CRET.check(TYPE_PASS, &data), Err(Reason::AuthFailed), "byte {index}");
        }
    }

    #[test]
    fn debug_hides_the_password() {
        assert!(!format!("{S3CRET:?}{AH:?}").contains("115"));
    }
}
