//! Datagrams of flow sync.
//!
//! ```text
//! "lbdF" 4 | version 1 | kind 1 | zero 2 | session 8 | number 8 | body … | HMAC-SHA-256 32
//! ```
//! All numbers are big-endian; the code covers everything before it. At most [`DATAGRAM`] bytes, so that none
//! is cut on an Ethernet of 1500. `number` is the place in the stream for [`Body::Data`], and grows from
//! one to the next of the session's others.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::{
    REPAIR,
    record::{LONGEST, Record, take},
};

/// Longest datagram.
pub const DATAGRAM: usize = 1400;
/// Of this version; another one is refused.
pub const VERSION: u8 = 1;
const MAGIC: [u8; 4] = *b"lbdF";
const HEADER: usize = 24;
/// Bytes of the code.
pub const CODE: usize = 32;
/// Bytes that records of one datagram have (their number is before them).
pub const ROOM: usize = DATAGRAM - HEADER - CODE - 2;
/// Sessions that a hello names at most: of each peer the one believed, and one that is not yet.
pub const ECHOES: usize = 16;
const _: () = assert!(ROOM >= LONGEST && ECHOES >= super::PEERS * 2);

const HELLO: u8 = 1;
const DATA: u8 = 2;
const REQUEST: u8 = 3;

/// Why a datagram was not taken. One list for counters, status and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reject {
    /// From an address that is no peer's.
    Stranger,
    /// Fewer bytes than the least datagram, or more than the longest.
    Length,
    /// Not ours.
    Magic,
    /// Of another version of lbd.
    Version,
    /// The code is wrong: another key, or changed on its way.
    Forged,
    /// The code is right and the content is none.
    Malformed,
    /// Of a session that has not shown that it lives.
    Unproven,
    /// Of a session that was replaced.
    OldSession,
    /// A hello or a request that was taken before, or a later one.
    Replayed,
    /// A request to another session than this host's.
    NotForUs,
    /// More peers than [`super::PEERS`].
    TooManyPeers,
}

impl Reject {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::Stranger,
        Self::Length,
        Self::Magic,
        Self::Version,
        Self::Forged,
        Self::Malformed,
        Self::Unproven,
        Self::OldSession,
        Self::Replayed,
        Self::NotForUs,
        Self::TooManyPeers,
    ];

    /// Label of counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Length => "length",
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::Unproven => "unproven",
            Self::OldSession => "old_session",
            Self::Replayed => "replayed",
            Self::NotForUs => "not_for_us",
            Self::TooManyPeers => "too_many_peers",
        }
    }
}

/// A datagram without its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Of its sender.
    pub session: u64,
    pub number: u64,
    pub body: Body,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// I am here.
    Hello {
        /// Number of the last datagram of the stream; 0: none yet.
        head: u64,
        /// Number of the first one that can still be asked for.
        oldest: u64,
        /// Sessions heard of others.
        heard: Vec<u64>,
    },
    /// A piece of the stream.
    Data(Vec<Record>),
    /// Send again.
    Request {
        /// The session that is asked.
        of: u64,
        what: Wanted,
    },
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Datagrams of the stream: `count` from number `from` on, 1..=[`REPAIR`].
    Again { from: u64, count: u16 },
    /// A full resync.
    Full,
}

/// The octets, signed.
pub fn seal(key: &[u8], datagram: &Datagram) -> Vec<u8> {
    let Datagram { session, number, body } = datagram;
    let mut out = Vec::with_capacity(DATAGRAM);
    out.extend(MAGIC);
    let kind = match body {
        Body::Hello { .. } => HELLO,
        Body::Data(_) => DATA,
        Body::Request { .. } => REQUEST,
    };
    out.extend([VERSION, kind, 0, 0]);
    out.extend(session.to_be_bytes());
    out.extend(number.to_be_bytes());
    match body {
        Body::Hello { head, oldest, heard } => {
            out.extend(head.to_be_bytes());
            out.extend(oldest.to_be_bytes());
            let heard = heard.get(..heard.len().min(ECHOES)).unwrap_or_default();
            out.push(u8::try_from(heard.len()).unwrap_or(0));
            heard.iter().for_each(|session| out.extend(session.to_be_bytes()));
        }
        Body::Data(records) => {
            out.extend(u16::try_from(records.len()).unwrap_or(0).to_be_bytes());
            records.iter().for_each(|record| record.write(&mut out));
        }
        Body::Request { of, what } => {
            let (from, count) = match what {
                Wanted::Again { from, count } => (*from, *count),
                Wanted::Full => (0, 0),
            };
            out.extend(of.to_be_bytes());
            out.extend(from.to_be_bytes());
            out.extend(count.to_be_bytes());
        }
    }
    sign(key, &mut out);
    out
}

/// Appends the code of what is there.
pub fn sign(key: &[u8], bytes: &mut Vec<u8>) {
    let code = code(key, bytes).map(|code| code.finalize().into_bytes());
    bytes.extend(code.unwrap_or_default());
}

/// HMAC takes keys of any length, so that it is never `None`.
fn code(key: &[u8], bytes: &[u8]) -> Option<Hmac<Sha256>> {
    let mut code = Hmac::<Sha256>::new_from_slice(key).ok()?;
    code.update(bytes);
    Some(code)
}

/// Checks the code, in constant time, and reads the rest.
///
/// # Errors
/// Why it is not taken.
pub fn open(key: &[u8], bytes: &[u8]) -> Result<Datagram, Reject> {
    if bytes.len() > DATAGRAM {
        return Err(Reject::Length);
    }
    let (signed, given) = bytes.split_last_chunk::<CODE>().ok_or(Reject::Length)?;
    if signed.len() < HEADER {
        return Err(Reject::Length);
    }
    if !signed.starts_with(&MAGIC) {
        return Err(Reject::Magic);
    }
    if signed.get(MAGIC.len()) != Some(&VERSION) {
        return Err(Reject::Version);
    }
    let code = code(key, signed).ok_or(Reject::Forged)?;
    code.verify_slice(given).map_err(|_| Reject::Forged)?;
    let mut rest = signed.get(MAGIC.len() + 1..).unwrap_or_default();
    let datagram = read(&mut rest).ok_or(Reject::Malformed)?;
    if rest.is_empty() { Ok(datagram) } else { Err(Reject::Malformed) }
}

fn read(bytes: &mut &[u8]) -> Option<Datagram> {
    let [kind, 0, 0] = take(bytes)? else { return None };
    let (session, number) = (long(bytes)?, long(bytes)?);
    let body = match kind {
        HELLO => {
            let (head, oldest) = (long(bytes)?, long(bytes)?);
            let [count] = take(bytes)?;
            if usize::from(count) > ECHOES {
                return None;
            }
            let heard = (0..count).map(|_| long(bytes)).collect::<Option<_>>()?;
            Body::Hello { head, oldest, heard }
        }
        DATA => {
            let count = u16::from_be_bytes(take(bytes)?);
            let mut records = Vec::new();
            for _ in 0..count {
                records.push(Record::read(bytes)?);
            }
            Body::Data(records)
        }
        REQUEST => {
            let (of, from) = (long(bytes)?, long(bytes)?);
            let what = match u16::from_be_bytes(take(bytes)?) {
                0 if from == 0 => Wanted::Full,
                count @ 1..=REPAIR if from > 0 => Wanted::Again { from, count },
                _ => return None,
            };
            Body::Request { of, what }
        }
        _ => return None,
    };
    Some(Datagram { session, number, body })
}

fn long(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_be_bytes)
}
