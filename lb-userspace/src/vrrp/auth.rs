//! VRRPv2 authentication (RFC 2338 §5.3.6, as deployed): none and simple password.

use serde::{Deserialize, Serialize};

use super::wire::Reason;

/// Authentication type on the wire for none.
pub const TYPE_NONE: u8 = 0;
/// Authentication type on the wire for a simple password.
pub const TYPE_PASS: u8 = 1;
/// Authentication type on the wire for the IP authentication header (not spoken yet).
pub const TYPE_AH: u8 = 2;

/// What an instance sends and demands.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Auth {
    /// Type 0; data is zero when sent and ignored when received.
    None,
    /// Type 1; eight raw bytes, NUL-padded.
    Pass([u8; 8]),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Pass(_) => "Pass(***)",
        })
    }
}

impl Auth {
    /// Byte 4 of a VRRPv2 advert.
    pub fn type_number(self) -> u8 {
        match self {
            Self::None => TYPE_NONE,
            Self::Pass(_) => TYPE_PASS,
        }
    }

    /// The eight bytes at the end of a VRRPv2 advert.
    pub fn data(self) -> [u8; 8] {
        match self {
            Self::None => [0; 8],
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
            Self::None => Ok(()),
            Self::Pass(own) => {
                let difference = own.iter().zip(data).fold(0u8, |sum, (a, b)| sum | (a ^ b));
                if difference == 0 { Ok(()) } else { Err(Reason::AuthFailed) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S3CRET: Auth = Auth::Pass(*b"s3cret\0\0");

    #[test]
    fn none_pass_and_ah_agree_only_with_themselves() {
        let other = [7; 8];
        assert_eq!(Auth::None.check(TYPE_NONE, &other), Ok(()), "data of type 0 is ignored");
        assert_eq!(Auth::None.check(TYPE_PASS, &other), Err(Reason::AuthTypeMismatch));
        assert_eq!(Auth::None.check(TYPE_AH, &other), Err(Reason::AuthTypeMismatch));
        assert_eq!(S3CRET.check(TYPE_PASS, b"s3cret\0\0"), Ok(()));
        assert_eq!(S3CRET.check(TYPE_NONE, b"s3cret\0\0"), Err(Reason::AuthTypeMismatch));
        assert_eq!(S3CRET.check(TYPE_AH, b"s3cret\0\0"), Err(Reason::AuthTypeMismatch));
        assert_eq!(S3CRET.check(3, b"s3cret\0\0"), Err(Reason::AuthTypeUnknown));
    }

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
        assert!(!format!("{S3CRET:?}").contains("115"));
    }
}
