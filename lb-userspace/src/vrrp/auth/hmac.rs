//! `auth_hmac`: a signed trailer behind an advert, in the form of keepalived 2.4.2 and later.
//!
//! ```text
//! type 1 | key id 1 | zero 2 | seconds 4 | fraction 2 | counter 2 | HMAC-SHA-256, cut, 16
//! ```
//! The code covers a pseudo-header of 20 bytes (family, version, VRID, zero, source address), the
//! message with its checksum as zero, and the trailer with the code as zero.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use hmac::{Hmac as HmacOf, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::key_block;
use crate::{
    base::net::Vrid,
    vrrp::wire::{Reason, Version},
};

/// Bytes of the code.
const MAC: usize = 16;
/// Bytes of the trailer before the code.
const PREFIX: usize = 12;
/// The one scheme there is.
const SCHEME: u8 = 1;
/// Where the checksum of a message is.
const CHECKSUM: std::ops::Range<usize> = 6..8;
/// Fewest and most bytes of a key.
pub const KEY_LEN: std::ops::RangeInclusive<usize> = 32..=64;
/// Multicast senders whose sequence is remembered; several speak for one VRID only while they
/// contend. Beyond it the one heard longest ago is forgotten.
const SENDERS: usize = 4;

/// A key, by number so that it can be replaced without a gap. Never shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub id: u8,
    pub secret: Secret,
}

/// A key's bytes, or where they are; whoever reads the configuration file fetches them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Secret {
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(_) => f.write_str("***"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A key as it is written: `hex:` and digits, or the bytes themselves.
///
/// # Errors
/// Why it is none, without showing it.
pub fn key_bytes(text: &str) -> Result<Vec<u8>, String> {
    let bytes = match text.strip_prefix("hex:") {
        None => text.as_bytes().to_vec(),
        Some(digits) => {
            let digits: Option<Vec<u8>> = digits
                .bytes()
                .map(|digit| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok()))
                .collect();
            let digits = digits
                .filter(|digits| digits.len().is_multiple_of(2))
                .ok_or("`hex:` is not followed by pairs of hexadecimal digits")?;
            digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
        }
    };
    if KEY_LEN.contains(&bytes.len()) {
        Ok(bytes)
    } else {
        let (least, most, len) = (KEY_LEN.start(), KEY_LEN.end(), bytes.len());
        Err(format!("a key has {least} to {most} bytes, this one {len}"))
    }
}

/// What happens to adverts without trailer, and whether ours have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Signs; discards what is not signed.
    #[default]
    Enforce,
    /// Signs; accepts what is not signed.
    Permissive,
    /// Does not sign yet; accepts what is not signed.
    ReceiveOnly,
}

/// An `auth_hmac` block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hmac {
    pub keys: Vec<Key>,
    /// Number of the key that signs.
    pub active: u8,
    /// How far another clock may be away, in seconds; `None`: clocks do not matter, sequences of
    /// a sender only have to grow (`anti_replay monotonic`).
    pub window: Option<u32>,
    pub mode: Mode,
}

impl Hmac {
    /// The key that signs our adverts; `None`: they are not signed.
    pub fn signing_key(&self) -> Option<&Key> {
        let key = self.keys.iter().find(|key| key.id == self.active);
        key.filter(|_| self.mode != Mode::ReceiveOnly)
    }

    /// Checks the trailer of a message, or that it has none. The sequence is remembered by
    /// [`State::accept`] when every other check has passed too.
    ///
    /// # Errors
    /// The reason to discard it.
    pub fn check(
        &self,
        state: &State,
        signed: &Signed<'_>,
        unix: Duration,
    ) -> Result<Option<u64>, Reason> {
        let Some(trailer) = signed.trailer else {
            let enforced = self.mode == Mode::Enforce;
            return if enforced { Err(Reason::HmacMissing) } else { Ok(None) };
        };
        if trailer.0[0] != SCHEME || trailer.0[2..4] != [0, 0] {
            return Err(Reason::HmacMalformed);
        }
        let sequence = trailer.sequence();
        // Before the code is computed, so that old captures cost little.
        if self.window.is_some_and(|window| distance(sequence, unix) > u64::from(window)) {
            return Err(Reason::HmacStale);
        }
        let key = self.keys.iter().find(|key| key.id == trailer.0[1]).ok_or(Reason::HmacKey)?;
        let pseudo = pseudo_header(signed.version, signed.vrid, signed.source);
        if !key.verifies(trailer, &pseudo, signed.message) {
            return Err(Reason::HmacInvalid);
        }
        let last = state.seen.iter().find(|(source, _)| *source == signed.source);
        // A mark outside the window orders nothing that the window lets through: a sender whose
        // clock was set back is heard again.
        let last = last.map(|(_, last)| *last).filter(|last| {
            self.window.is_none_or(|window| distance(*last, unix) <= u64::from(window))
        });
        if last.is_some_and(|last| !after(sequence, last)) {
            return Err(Reason::HmacReplay);
        }
        Ok(Some(sequence))
    }
}

/// What a code is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    pub version: Version,
    pub vrid: Vrid,
    pub source: IpAddr,
    /// Without trailer, with any checksum.
    pub message: &'a [u8],
    pub trailer: Option<Trailer<'a>>,
}

/// Sequences sent and seen.
#[derive(Clone, Debug, Default)]
pub struct State {
    sent: Option<u64>,
    /// The one heard last is last.
    seen: Vec<(IpAddr, u64)>,
}

impl State {
    /// Sequence of the next advert: the clock, or one more than the last when the clock has not
    /// moved on. A clock that was set back by more than the window is followed, because receivers
    /// would take nothing else.
    pub fn next(&mut self, hmac: &Hmac, unix: Duration) -> u64 {
        let clock = clock_sequence(unix);
        let strays = |last| hmac.window.is_some_and(|it| distance(last, unix) > u64::from(it));
        let next = match self.sent {
            Some(last) if !after(clock, last) && !strays(last) => last.wrapping_add(1),
            _ => clock,
        };
        self.sent = Some(next);
        next
    }

    /// Remembers a sequence that was accepted. `peers`: unicast senders, each of which is
    /// remembered.
    pub fn accept(&mut self, source: IpAddr, sequence: u64, peers: usize) {
        self.seen.retain(|(other, _)| *other != source);
        if self.seen.len() >= peers.max(SENDERS) {
            self.seen.remove(0);
        }
        self.seen.push((source, sequence));
    }
}

/// Serial number arithmetic of RFC 1982: whether `a` is later than `b`.
fn after(a: u64, b: u64) -> bool {
    (1..1 << 63).contains(&a.wrapping_sub(b))
}

/// Seconds between a sequence and the clock, in either direction, modulo 2^32.
fn distance(sequence: u64, unix: Duration) -> u64 {
    let difference = (sequence >> 32).wrapping_sub(unix.as_secs()) & 0xffff_ffff;
    difference.min((1 << 32) - difference)
}

/// Seconds of the epoch in 32 bits, 1/65536 s in 16, and a counter of 16 that is zero.
fn clock_sequence(unix: Duration) -> u64 {
    let fraction = (u64::from(unix.subsec_nanos()) << 16) / 1_000_000_000;
    (unix.as_secs() & 0xffff_ffff) << 32 | fraction << 16
}

/// View of a trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer<'a>(pub &'a [u8; Trailer::LEN]);

impl Trailer<'_> {
    /// Bytes of it; a message longer than its address count says by exactly this many has one.
    pub const LEN: usize = PREFIX + MAC;

    /// Seconds, fraction and counter as one number.
    pub fn sequence(&self) -> u64 {
        let bytes = self.0[4..].first_chunk().copied().unwrap_or_default();
        u64::from_be_bytes(bytes)
    }
}

/// What ties a code to its instance and sender.
pub fn pseudo_header(version: Version, vrid: Vrid, source: IpAddr) -> [u8; 20] {
    let mut out = [0; 20];
    out[1] = version.number();
    out[2] = vrid.get();
    match source {
        IpAddr::V4(address) => {
            out[0] = 4;
            out[4..8].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out[0] = 6;
            out[4..].copy_from_slice(&address.octets());
        }
    }
    out
}

impl Key {
    fn mac(&self, prefix: &[u8], pseudo: &[u8; 20], message: &[u8]) -> Option<HmacOf<Sha256>> {
        let Secret::Bytes(bytes) = &self.secret else { return None };
        let mut mac: HmacOf<Sha256> = hmac::digest::KeyInit::new(&key_block(bytes).into());
        mac.update(pseudo);
        mac.update(message.get(..CHECKSUM.start)?);
        mac.update(&[0; 2]);
        mac.update(message.get(CHECKSUM.end..)?);
        mac.update(prefix);
        mac.update(&[0; MAC]);
        Some(mac)
    }

    /// The trailer of a message. Zeros instead of a code, which every receiver refuses, when the
    /// key's file could not be read.
    pub fn trailer(&self, sequence: u64, pseudo: &[u8; 20], message: &[u8]) -> [u8; Trailer::LEN] {
        let mut out = [0; Trailer::LEN];
        (out[0], out[1]) = (SCHEME, self.id);
        out[4..PREFIX].copy_from_slice(&sequence.to_be_bytes());
        if let Some(mac) = self.mac(&out[..PREFIX], pseudo, message) {
            out[PREFIX..].copy_from_slice(&mac.finalize().into_bytes()[..MAC]);
        }
        out
    }

    /// Whether the code is right; takes the same time wherever it is wrong.
    fn verifies(&self, trailer: Trailer<'_>, pseudo: &[u8; 20], message: &[u8]) -> bool {
        let (prefix, code) = trailer.0.split_at(PREFIX);
        let mac = self.mac(prefix, pseudo, message);
        mac.is_some_and(|mac| mac.verify_truncated_left(code).is_ok())
    }
}

#[cfg(test)]
mod tests;
