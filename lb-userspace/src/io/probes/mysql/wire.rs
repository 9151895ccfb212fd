//! What a MySQL server's bytes look like, as far as a checker has to judge them itself: the
//! greeting (is this MySQL at all, does it offer TLS), the length of packets, and the packets of
//! the login that would make a client library trip. Everything else is the library's business.

use super::rsa_key;
use crate::base::text::printable;

/// Longest packet that a health check takes, in bytes. Greetings are ~100, answers to a check's
/// query less.
pub const PACKET_LIMIT: usize = 64 << 10;
/// Bytes a server may send in answer to one packet of ours.
pub const ANSWER_LIMIT: usize = 256 << 10;
/// Packets of a login that a server may ask for.
pub const AUTH_ROUND_LIMIT: u32 = 8;
/// First bytes of something that is not MySQL, as shown in a reason.
const SHOWN_BYTES: usize = 16;

/// CLIENT_SSL of the capability flags.
const CLIENT_SSL: u16 = 0x0800;
/// Length of an SSLRequest with its header.
pub const SSL_REQUEST: usize = 36;

/// A server's first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// It wants us to log in.
    Hello {
        /// Version string, fit for logs.
        version: String,
        /// The server offers TLS.
        tls: bool,
    },
    /// It refuses before the login (1040, 1129, 1130 …).
    Refused { code: u16, message: String },
}

impl Greeting {
    /// Whether it is a MariaDB server (10.x says `5.5.5-10.11…-MariaDB`).
    pub fn is_mariadb(&self) -> bool {
        matches!(self, Self::Hello { version, .. } if version.contains("MariaDB"))
    }
}

/// Why bytes are not acceptable. The text is the reason shown to people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

fn not_mysql(bytes: &[u8]) -> Violation {
    Violation(format!("not MySQL: first bytes {}", first_bytes(bytes)))
}

/// The first bytes of something unexpected, for people: as numbers and as text.
pub fn first_bytes(bytes: &[u8]) -> String {
    let shown = bytes.get(..SHOWN_BYTES).unwrap_or(bytes);
    let hex: Vec<String> = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} \"{}\"", hex.join(" "), shown.escape_ascii())
}

/// Why a login does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The server asks in a way that we do not want to, or cannot, answer. `decline`: the packet
    /// that lets it refuse us in order.
    #[error("{reason}")]
    Declined { reason: String, decline: Vec<u8> },
}

/// An error packet in place of what was due: code and message, fit for logs.
pub fn error_packet(bytes: &[u8]) -> Option<(u16, String)> {
    let [a, b, c, _seq, 0xff, low, high, ..] = *bytes else { return None };
    let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
    let message = bytes.get(7..(4 + length).min(bytes.len())).unwrap_or_default();
    Some((u16::from_le_bytes([low, high]), printable(message, 200)))
}

/// Whether a client's packet with its header is an SSLRequest: always the second packet of a login
/// and of 32 bytes.
pub fn is_ssl_request(packet: &[u8; SSL_REQUEST]) -> bool {
    let flags = u16::from_le_bytes([packet[4], packet[5]]);
    packet.starts_with(&[32, 0, 0, 1]) && flags & CLIENT_SSL != 0
}

/// Reads the first packet of a server from what has arrived so far: `Ok(None)` means that more
/// bytes are needed, which is said only while the bytes can still become a greeting.
///
/// # Errors
/// [`Violation`] as soon as the bytes cannot be a MySQL server's.
pub fn greeting(bytes: &[u8]) -> Result<Option<Greeting>, Violation> {
    let [a, b, c, seq, first, ..] = *bytes else { return Ok(None) };
    let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
    if seq != 0 || !matches!(first, 9 | 10 | 0xff) || length < 3 {
        return Err(not_mysql(bytes));
    }
    if length > PACKET_LIMIT {
        return Err(Violation(format!(
            "greeting of {length} bytes announced, limit {PACKET_LIMIT}"
        )));
    }
    if first == 9 {
        return Err(Violation("protocol 9 (MySQL 3.20 or older) is not supported".into()));
    }
    let Some(payload) = bytes.get(4..4 + length) else { return Ok(None) };
    if first == 0xff {
        let code = u16::from_le_bytes([payload[1], payload[2]]);
        let message = printable(payload.get(3..).unwrap_or_default(), 200);
        return Ok(Some(Greeting::Refused { code, message }));
    }
    hello(payload).map(Some).ok_or_else(|| not_mysql(bytes))
}

/// Protocol 10: version NUL, thread id (4), salt (8), filler (1), low capability flags (2) …
fn hello(payload: &[u8]) -> Option<Greeting> {
    let rest = payload.get(1..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    let version = printable(rest.get(..end)?, 64);
    let flags = rest.get(end + 14..end + 16)?;
    let tls = u16::from_le_bytes([flags[0], flags[1]]) & CLIENT_SSL != 0;
    Some(Greeting::Hello { version, tls })
}

/// Why a connection that ended before its greeting was complete is not a MySQL server.
pub fn truncated(bytes: &[u8]) -> Violation {
    if bytes.is_empty() {
        Violation("closed the connection without a greeting".into())
    } else {
        not_mysql(bytes)
    }
}

/// Watches what a server sends after the greeting and stops it before it can do harm: a client
/// library must neither be made to keep megabytes nor be handed the few packets that it cannot
/// cope with.
#[derive(Debug)]
pub struct Guard {
    /// The login is over: lengths are watched, contents are the library's.
    authenticated: bool,
    rounds: u32,
    empty_password: bool,
    /// Bytes since our last packet.
    answered: usize,
    /// Incomplete packet.
    pending: Vec<u8>,
}

impl Guard {
    /// A guard for the packets that follow the greeting, those inside TLS included.
    pub fn new(empty_password: bool) -> Self {
        Self { authenticated: false, rounds: 0, empty_password, answered: 0, pending: Vec::new() }
    }

    /// Whether the server has accepted our login.
    pub fn authenticated(&self) -> bool {
        self.authenticated
    }

    /// We have sent something: the server may answer at length again.
    pub fn sent(&mut self) {
        self.answered = 0;
    }

    /// Takes bytes from the server; appends to `out` those that may be passed on.
    ///
    /// # Errors
    /// [`Stop`]: nothing of `bytes` may be passed on, the session is to be closed.
    pub fn received(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Stop> {
        self.answered = self.answered.saturating_add(bytes.len());
        if self.answered > ANSWER_LIMIT {
            return Err(Violation(format!("endless answer, more than {ANSWER_LIMIT} bytes")).into());
        }
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        let mut cut = Vec::new();
        while let Some(&[a, b, c, seq]) = self.pending.get(at..at + 4) {
            let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
            if length > PACKET_LIMIT {
                return Err(Violation(format!(
                    "packet of {length} bytes announced, limit {PACKET_LIMIT}"
                ))
                .into());
            }
            let Some(payload) = self.pending.get(at + 4..at + 4 + length) else { break };
            if !self.authenticated {
                self.rounds += 1;
                if self.rounds > AUTH_ROUND_LIMIT {
                    return Err(
                        Violation(format!("more than {AUTH_ROUND_LIMIT} login packets")).into()
                    );
                }
                self.authenticated = login_packet(payload, seq, self.empty_password)?;
                if is_cut_by_the_library(payload) {
                    cut.push((at, length));
                }
            }
            at += 4 + length;
        }
        let begin = out.len();
        out.extend(self.pending.drain(..at));
        for (at, length) in cut.into_iter().rev() {
            // The NUL that the library takes away.
            out.insert(begin + at + 4 + length, 0);
            let longer = u32::try_from(length + 1).unwrap_or(u32::MAX).to_le_bytes();
            out.splice(begin + at..begin + at + 3, longer[..3].iter().copied());
        }
        Ok(())
    }
}

/// Judges one packet of a login. Returns whether it ends the login well.
fn login_packet(payload: &[u8], seq: u8, empty_password: bool) -> Result<bool, Stop> {
    match *payload {
        [] => Err(Violation("empty packet during the login".into()).into()),
        [0x00, ..] => Ok(true),
        [0xff, ..] => Ok(false),
        // Its plugin takes an empty packet for an empty password, and anything odd for a fault of
        // the connection.
        [0xfe] => Err(declined("login asks for the pre-4.1 password hash".to_owned(), seq, &[])),
        [0xfe, ref switch @ ..] => auth_switch(switch, seq, empty_password).map(|()| false),
        // caching_sha2_password: 3 = known, 4 = send the password (for us: ask for the key).
        [0x01, 0x03 | 0x04] => Ok(false),
        [0x01, ref key @ ..] if key.starts_with(b"-----") => {
            if rsa_key::acceptable(key) {
                Ok(false)
            } else {
                let reason = "the server's RSA key is not a PEM public key of 2048 to 8192 bits";
                Err(declined(reason.to_owned(), seq, &[0]))
            }
        }
        // client_ed25519 and parsec rounds of MariaDB.
        [0x01, ..] => Ok(false),
        [other, ..] => Err(Violation(format!("packet type 0x{other:02x} during the login")).into()),
    }
}

/// Whether mysql_common would take the end of a challenge away (`AuthSwitchRequest::plugin_data` of 0.37 cuts a NUL off
/// whatever the plugin): these two plugins of MariaDB send 32 random bytes and no NUL behind them, of which
/// one in 256 ends in one. The server would refuse the answer as a wrong password.
fn is_cut_by_the_library(payload: &[u8]) -> bool {
    let [0xfe, body @ ..] = payload else { return false };
    let rest = [&b"client_ed25519\0"[..], b"parsec\0"].iter().find_map(|it| body.strip_prefix(*it));
    rest.is_some_and(|challenge| challenge.len() == 32 && challenge.ends_with(&[0]))
}

/// AuthSwitchRequest: plugin NUL, challenge, NUL.
fn auth_switch(body: &[u8], seq: u8, empty_password: bool) -> Result<(), Stop> {
    let Some(end) = body.iter().position(|&byte| byte == 0) else {
        return Err(Violation("request for another login method without an end".into()).into());
    };
    let (plugin, challenge) = (&body[..end], &body[end + 1..]);
    let shown = printable(plugin, 40);
    let least = match plugin {
        b"mysql_native_password" | b"caching_sha2_password" => 20,
        b"client_ed25519" => 32,
        // The library cannot answer it without a password.
        b"parsec" if !empty_password && challenge.len() == 32 => 32,
        b"mysql_clear_password" | b"dialog" => {
            let reason = format!("{shown}: would send the password in clear");
            return Err(declined(reason, seq, &[0]));
        }
        _ => {
            let reason = format!("authentication plugin {shown} is not supported");
            return Err(declined(reason, seq, &[0]));
        }
    };
    if challenge.len() < least {
        return Err(Violation(format!(
            "{shown}: challenge of {} bytes, at least {least} expected",
            challenge.len()
        ))
        .into());
    }
    Ok(())
}

/// A login that is given up. `answer` is a wrong password to every plugin (a lone NUL is the empty
/// one), so that the server refuses the login instead of counting a broken connection.
fn declined(reason: String, seq: u8, answer: &[u8]) -> Stop {
    let length = u8::try_from(answer.len()).unwrap_or(0);
    let decline = [&[length, 0, 0, seq.wrapping_add(1)], answer].concat();
    Stop::Declined { reason, decline }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `payload` with its header.
    fn packet(seq: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_le_bytes();
        [&[length[0], length[1], length[2], seq], payload].concat()
    }

    fn hello_bytes(version: &str, low_flags: u16) -> Vec<u8> {
        let mut payload = vec![10];
        payload.extend_from_slice(version.as_bytes());
        payload.extend_from_slice(&[0, 7, 0, 0, 0]);
        payload.extend_from_slice(b"saltsalt\0");
        payload.extend_from_slice(&low_flags.to_le_bytes());
        payload.extend_from_slice(&[45, 2, 0, 0xff, 0xc1, 21]);
        payload.extend_from_slice(&[0; 10]);
        payload.extend_from_slice(b"saltsaltsalt\0mysql_native_password\0");
        packet(0, &payload)
    }

    #[test]
    fn greeting_of_both_flavours() {
        let maria = greeting(&hello_bytes("5.5.5-10.11.19-MariaDB-1", 0xf7fe)).expect("fine");
        let maria = maria.expect("complete");
        assert!(maria.is_mariadb());
        assert_eq!(
            maria,
            Greeting::Hello { version: "5.5.5-10.11.19-MariaDB-1".into(), tls: false }
        );
        let mysql = greeting(&hello_bytes("9.7.4-2", 0xffff)).expect("fine").expect("complete");
        assert!(!mysql.is_mariadb());
        assert_eq!(mysql, Greeting::Hello { version: "9.7.4-2".into(), tls: true });
    }

    #[test]
    fn greeting_byte_by_byte_is_never_misread() {
        let whole = hello_bytes("8.0.36", 0xffff);
        for end in 0..whole.len() {
            assert_eq!(greeting(&whole[..end]), Ok(None), "{end} bytes");
        }
        assert!(greeting(&whole).expect("fine").is_some());
    }

    #[test]
    fn a_challenge_that_the_library_would_cut_is_made_longer() {
        let switch = |plugin: &str, challenge: &[u8]| {
            packet(2, &[&[0xfe], plugin.as_bytes(), &[0], challenge].concat())
        };
        let (mut ends_in_nul, whole) = ([7; 32], [7; 32]);
        ends_in_nul[31] = 0;
        for (plugin, challenge, longer) in [
            ("client_ed25519", &ends_in_nul[..], true),
            ("client_ed25519", &whole, false),
            ("parsec", &ends_in_nul, true),
            ("parsec", &whole, false),
            // These have a NUL of their own.
            ("mysql_native_password", &[&[7; 20][..], &[0]].concat(), false),
            ("caching_sha2_password", &[&[7; 20][..], &[0]].concat(), false),
        ] {
            let sent = switch(plugin, challenge);
            let wanted =
                if longer { switch(plugin, &[challenge, &[0]].concat()) } else { sent.clone() };
            // However it arrives, and what comes behind it stays as it is.
            let (mut guard, mut out) = (Guard::new(false), b"before".to_vec());
            let bytes = [&sent[..], &packet(4, &[0xff, 1, 2])].concat();
            for chunk in bytes.chunks(11) {
                guard.received(chunk, &mut out).expect("allowed");
            }
            assert_eq!(
                out,
                [&b"before"[..], &wanted, &packet(4, &[0xff, 1, 2])].concat(),
                "{plugin}"
            );
            let (mut guard, mut out) = (Guard::new(false), Vec::new());
            guard.received(&bytes, &mut out).expect("allowed");
            assert_eq!(out, [&wanted[..], &packet(4, &[0xff, 1, 2])].concat(), "{plugin}");
        }
    }

    #[test]
    fn refusals_in_place_of_a_greeting() {
        let bytes = packet(0, b"\xff\x10\x04Too many connections");
        assert_eq!(
            greeting(&bytes),
            Ok(Some(Greeting::Refused { code: 1040, message: "Too many connections".into() }))
        );
    }

    #[test]
    fn what_is_not_mysql_is_named() {
        for (bytes, words) in [
            (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], "not MySQL: first bytes 53 53 48 2d 32"),
            (b"HTTP/1.1 400 Bad Request\r\n", "\"HTTP/1.1 400 Bad\""),
            (b"\x05\x00\x00\x00\x093.20\0", "protocol 9"),
            (b"\xff\xff\xff\x00\x0a8.0.36\0", "16777215 bytes announced, limit 65536"),
            (b"\x05\x00\x00\x01\x0a8.0\0", "not MySQL"),
            (b"\x02\x00\x00\x00\x0a8", "not MySQL"),
            (b"\x05\x00\x00\x00\x0a8.0\0", "not MySQL"),
        ] {
            let reason = greeting(bytes).expect_err("refused").to_string();
            assert!(reason.contains(words), "{reason}");
        }
        assert_eq!(truncated(b"").to_string(), "closed the connection without a greeting");
        assert!(truncated(b"\x4a\x00").to_string().contains("first bytes 4a 00"));
    }

    #[test]
    fn error_packets_and_ssl_requests() {
        let whole = packet(2, b"\xff\x15\x04Access denied");
        assert_eq!(error_packet(&whole), Some((1045, "Access denied".to_owned())));
        assert_eq!(error_packet(&whole[..9]), Some((1045, "Ac".to_owned())), "cut short");
        for end in 0..7 {
            assert_eq!(error_packet(&whole[..end]), None, "{end} bytes");
        }
        assert_eq!(error_packet(b"\x16\x03\x03\0\x7a\x02\0\0\x76"), None, "a TLS record");
        let mut request = [0; SSL_REQUEST];
        request[..6].copy_from_slice(&[32, 0, 0, 1, 0x8d, 0xae]);
        assert!(is_ssl_request(&request));
        request[5] = 0xa6;
        assert!(!is_ssl_request(&request), "without CLIENT_SSL");
    }

    fn guarded(bytes: &[u8]) -> Result<bool, Stop> {
        let mut guard = Guard::new(false);
        let mut out = Vec::new();
        guard.received(bytes, &mut out)?;
        assert_eq!(out, bytes);
        Ok(guard.authenticated())
    }

    #[test]
    fn login_packets() {
        assert_eq!(guarded(&packet(2, b"\0\0\0\x02\0\0\0")), Ok(true));
        assert_eq!(guarded(&packet(2, b"\xff\x15\x04#28000Access denied")), Ok(false));
        let switch = [b"\xfemysql_native_password\0".as_slice(), &[7; 20], b"\0"].concat();
        assert_eq!(guarded(&packet(2, &switch)), Ok(false));
        let fast = [packet(2, b"\x01\x03"), packet(3, b"\0\0\0\x02\0\0\0")].concat();
        assert_eq!(guarded(&fast), Ok(true));
        let nul = Some(vec![1, 0, 0, 3, 0]);
        for (payload, words, answer) in [
            (&b""[..], "empty packet", None),
            (b"\xfe", "pre-4.1", Some(vec![0, 0, 0, 3])),
            (b"\xfemysql_native_password", "without an end", None),
            (b"\xfemysql_native_password\0short\0", "challenge of 6 bytes", None),
            (b"\xfecaching_sha2_password\0", "challenge of 0 bytes", None),
            (b"\xfemysql_clear_password\0", "would send the password in clear", nul.clone()),
            (b"\xfesha256_password\0", "sha256_password is not supported", nul.clone()),
            (b"\xfeauth_gssapi_client\0", "auth_gssapi_client is not supported", nul.clone()),
            (
                b"\x01-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                "RSA key",
                nul.clone(),
            ),
            (b"\x0astill greeting", "packet type 0x0a", None),
        ] {
            let stop = guarded(&packet(2, payload)).expect_err("refused");
            assert!(stop.to_string().contains(words), "{stop}");
            let said = match stop {
                Stop::Declined { decline, .. } => Some(decline),
                Stop::Violation(_) => None,
            };
            assert_eq!(said, answer, "{words}");
        }
    }

    #[test]
    fn amounts_are_bounded() {
        let huge = guarded(b"\xff\xff\xff\x02").expect_err("refused").to_string();
        assert!(huge.contains("16777215 bytes announced"), "{huge}");
        let rounds = packet(2, b"\x01\x04").repeat(9);
        let reason = guarded(&rounds).expect_err("refused").to_string();
        assert!(reason.contains("more than 8 login packets"), "{reason}");

        let mut guard = Guard::new(false);
        let mut out = Vec::new();
        guard.received(&packet(2, b"\0\0\0\x02\0\0\0"), &mut out).expect("login");
        let row = packet(3, &[b'x'; 1000]);
        let mut sent = 0;
        let reason = loop {
            out.clear();
            match guard.received(&row, &mut out) {
                Ok(()) => sent += row.len(),
                Err(reason) => break reason.to_string(),
            }
            assert!(sent <= ANSWER_LIMIT);
        };
        assert!(reason.contains("endless answer"), "{reason}");
        guard.sent();
        guard.received(&row, &mut out).expect("a new answer");
    }

    proptest! {
        #[test]
        fn greeting_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = greeting(&bytes);
            let _ = truncated(&bytes);
        }

        /// Mutated greetings parse or are refused; what is accepted is complete.
        #[test]
        fn mutated_greeting(at in 0usize..90, value: u8) {
            let mut bytes = hello_bytes("10.11.6-MariaDB", 0xffff);
            if let Some(byte) = bytes.get_mut(at) { *byte = value }
            let _ = greeting(&bytes);
        }

        /// However the bytes are cut, the guard passes on the same ones and says the same.
        #[test]
        fn guard_does_not_depend_on_segments(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6),
            cuts in proptest::collection::vec(1usize..20, 0..40),
        ) {
            let bytes: Vec<u8> =
                payloads.iter().enumerate().flat_map(|(i, p)| packet(i as u8, p)).collect();
            let mut whole = Vec::new();
            let verdict = Guard::new(false).received(&bytes, &mut whole);
            let mut guard = Guard::new(false);
            let (mut out, mut rest, mut result) = (Vec::new(), &bytes[..], Ok(()));
            let mut cuts = cuts.into_iter();
            while !rest.is_empty() && result.is_ok() {
                let (now, later) = rest.split_at(cuts.next().unwrap_or(usize::MAX).min(rest.len()));
                result = guard.received(now, &mut out);
                rest = later;
            }
            prop_assert_eq!(&verdict, &result);
            if verdict.is_ok() { prop_assert_eq!(whole, out) }
        }
    }
}
