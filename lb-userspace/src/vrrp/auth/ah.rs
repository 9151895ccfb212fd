//! `auth_type AH`: the IP authentication header in front of a VRRPv2 advert, as keepalived
//! deployed it (RFC 2338 §5.3.6, RFC 2402 with HMAC-MD5-96 of RFC 2403).

mod clock;

use hmac::{Hmac, Mac as _};
use md5::Md5;

pub use clock::Clock;

use super::key_block;

/// Bytes of an integrity check value.
pub const ICV: usize = 12;

/// The code over IP header, authentication header and message. Mutable fields count as zero; of
/// them keepalived leaves the TTL of multicast adverts as it is, against RFC 2402.
fn mac(
    password: &[u8; 8],
    ip_header: &[u8],
    unicast: bool,
    auth_header: &[u8; 24],
    message: &[u8],
) -> Hmac<Md5> {
    let mut ip = ip_header.to_vec();
    for (at, byte) in ip.iter_mut().enumerate() {
        // TOS, flags with fragment offset, header checksum; TTL.
        if matches!(at, 1 | 6 | 7 | 10 | 11) || unicast && at == 8 {
            *byte = 0;
        }
    }
    let mut mac: Hmac<Md5> = hmac::digest::KeyInit::new(&key_block(password).into());
    mac.update(&ip);
    mac.update(&auth_header[..12]);
    mac.update(&[0; ICV]);
    mac.update(message);
    mac
}

/// The integrity check value of an advert.
pub fn icv(
    password: &[u8; 8],
    ip_header: &[u8],
    unicast: bool,
    auth_header: &[u8; 24],
    message: &[u8],
) -> [u8; ICV] {
    let digest = mac(password, ip_header, unicast, auth_header, message).finalize().into_bytes();
    let mut out = [0; ICV];
    out.copy_from_slice(&digest[..ICV]);
    out
}

/// Whether the value in `auth_header` is right; takes the same time wherever it is wrong.
pub fn verify(
    password: &[u8; 8],
    ip_header: &[u8],
    unicast: bool,
    auth_header: &[u8; 24],
    message: &[u8],
) -> bool {
    mac(password, ip_header, unicast, auth_header, message)
        .verify_truncated_left(&auth_header[12..])
        .is_ok()
}
