//! Signing and checking, against the images of the draft that keepalived 2.4.2 follows.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::{base::net::Vrid, vrrp::wire::Message};

/// draft-cassen-vrrp-auth-hmac, appendix: key 00..1f, VRID 51, priority 200, sequence
/// 0x6800000080000000, from 198.51.100.10 for 192.0.2.100, checksum of RFC 9568.
const IMAGE_V4: &str = "3133c80100644402c0000264010100006800000080000000\
                        1b84bc4e8e43892dc6d98448f8ee2265";
/// The same from fe80::10 to fe80::20 for fe80::100; the checksum covers the trailer.
const IMAGE_V6: &str = "3133c8010064a2e9fe800000000000000000000000000100\
                        010100006800000080000000c8c56146ebfd66ee10ec4d8186461b78";
const SEQUENCE: u64 = 0x6800_0000_8000_0000;
const AT: Duration = Duration::from_secs(0x6800_0000);

fn hex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digits).collect()
}

fn key(id: u8) -> Key {
    Key { id, secret: Secret::Bytes((0..32).collect()) }
}

fn hmac() -> Hmac {
    Hmac { keys: vec![key(1)], active: 1, window: Some(5), mode: Mode::Enforce }
}

fn source(v4: bool) -> IpAddr {
    let v4_source = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
    if v4 { v4_source } else { "fe80::10".parse().expect("address") }
}

/// The answer to an image, whose trailer `change` edits.
fn check_image(
    hmac: &Hmac,
    state: &State,
    v4: bool,
    unix: Duration,
    change: impl FnOnce(&mut [u8]),
) -> Result<Option<u64>, Reason> {
    let mut bytes = hex(if v4 { IMAGE_V4 } else { IMAGE_V6 });
    change(&mut bytes);
    let message = Message::parse(&bytes, v4).expect("sound");
    let signed = Signed {
        version: message.version(),
        vrid: Vrid::new(51).expect("nonzero"),
        source: source(v4),
        message: message.bytes(),
        trailer: message.trailer(),
    };
    hmac.check(state, &signed, unix)
}

#[test]
fn images_of_the_draft_are_signed_and_verified() {
    for v4 in [true, false] {
        let image = hex(if v4 { IMAGE_V4 } else { IMAGE_V6 });
        let (message, trailer) = image.split_at(image.len() - Trailer::LEN);
        let vrid = Vrid::new(51).expect("nonzero");
        let pseudo = pseudo_header(Version::V3, vrid, source(v4));
        assert_eq!(key(1).trailer(SEQUENCE, &pseudo, message), trailer);
        let got = check_image(&hmac(), &State::default(), v4, AT, |_| ());
        assert_eq!(got, Ok(Some(SEQUENCE)));
        let message = Message::parse(&image, v4).expect("sound");
        let destination = if v4 { "224.0.0.18" } else { "fe80::20" };
        let destination = destination.parse().expect("address");
        assert!(message.checksum_form(source(v4), destination).is_some(), "checksum");
    }
}

#[test]
fn each_fault_has_its_reason() {
    let (hmac, fresh) = (hmac(), State::default());
    let end = hex(IMAGE_V4).len() - Trailer::LEN;
    let check = |unix, at: usize, value: u8| {
        check_image(&hmac, &fresh, true, unix, |bytes| bytes[at] = value)
    };
    assert_eq!(check(AT, end, 2), Err(Reason::HmacMalformed));
    assert_eq!(check(AT, end + 2, 1), Err(Reason::HmacMalformed));
    assert_eq!(check(AT, end + 3, 1), Err(Reason::HmacMalformed));
    assert_eq!(check(AT, end + 1, 2), Err(Reason::HmacKey));
    assert_eq!(check(AT, end + 27, 0), Err(Reason::HmacInvalid));
    assert_eq!(check(AT, end + 11, 1), Err(Reason::HmacInvalid), "the counter is covered");
    assert_eq!(check(AT, 2, 255), Err(Reason::HmacInvalid), "the priority is covered");
    assert!(check(AT, 6, 0).is_ok(), "the checksum is not: the kernel may write it");
    let second = Duration::from_secs(1);
    for late in [5, 4, 0] {
        assert!(check(AT + second * late, end, 1).is_ok(), "{late} s late");
        assert!(check(AT - second * late, end, 1).is_ok(), "{late} s early");
    }
    assert_eq!(check(AT + second * 6, end, 1), Err(Reason::HmacStale));
    assert_eq!(check(AT - second * 6, end, 1), Err(Reason::HmacStale));
    let monotonic = Hmac { window: None, ..hmac.clone() };
    assert!(check_image(&monotonic, &fresh, true, Duration::ZERO, |_| ()).is_ok());
    let no_file = Key { id: 1, secret: Secret::File("/nonexistent".into()) };
    let unread = Hmac { keys: vec![no_file], ..hmac };
    assert_eq!(check_image(&unread, &fresh, true, AT, |_| ()), Err(Reason::HmacInvalid));
}

#[test]
fn every_bit_of_trailer_and_message_is_covered() {
    let (hmac, fresh) = (hmac(), State::default());
    for v4 in [true, false] {
        let len = hex(if v4 { IMAGE_V4 } else { IMAGE_V6 }).len();
        // Version and count change how it is read; the checksum has its own check.
        for bit in (8..len * 8).filter(|bit| !matches!(bit / 8, 3 | 6 | 7)) {
            let flip = |bytes: &mut [u8]| bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(check_image(&hmac, &fresh, v4, AT, flip).is_err(), "{v4} bit {bit}");
        }
    }
}

#[test]
fn a_missing_trailer_is_accepted_while_migrating_only() {
    for (mode, accepted, signs) in [
        (Mode::Enforce, false, true),
        (Mode::Permissive, true, true),
        (Mode::ReceiveOnly, true, false),
    ] {
        let hmac = Hmac { mode, ..hmac() };
        let bytes = hex(IMAGE_V4);
        let signed = Signed {
            version: Version::V3,
            vrid: Vrid::new(51).expect("nonzero"),
            source: source(true),
            message: &bytes[..12],
            trailer: None,
        };
        let want = if accepted { Ok(None) } else { Err(Reason::HmacMissing) };
        assert_eq!(hmac.check(&State::default(), &signed, AT), want, "{mode:?}");
        assert_eq!(hmac.signing_key().is_some(), signs, "{mode:?}");
        // A wrong one is not better than none.
        let flip = |bytes: &mut [u8]| bytes[30] ^= 1;
        let got = check_image(&hmac, &State::default(), true, AT, flip);
        assert_eq!(got, Err(Reason::HmacInvalid), "{mode:?}");
    }
}

#[test]
fn replays_are_refused_until_the_mark_leaves_the_window() {
    let hmac = hmac();
    let mut state = State::default();
    let peer = source(true);
    state.accept(peer, SEQUENCE - 1, 0);
    assert!(check_image(&hmac, &state, true, AT, |_| ()).is_ok());
    for mark in [SEQUENCE, SEQUENCE + 1] {
        state.accept(peer, mark, 0);
        assert_eq!(check_image(&hmac, &state, true, AT, |_| ()), Err(Reason::HmacReplay));
    }
    // Its clock was an hour ahead and has been set right.
    state.accept(peer, SEQUENCE + (3600 << 32), 0);
    assert!(check_image(&hmac, &state, true, AT, |_| ()).is_ok());
    let monotonic = Hmac { window: None, ..hmac };
    let got = check_image(&monotonic, &state, true, AT, |_| ());
    assert_eq!(got, Err(Reason::HmacReplay), "without clocks nothing goes back");
}

#[test]
fn senders_are_remembered_up_to_the_bound() {
    let mut state = State::default();
    let sender = |last: u8| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    for last in 1..=5 {
        state.accept(sender(last), u64::from(last), 0);
    }
    let seen = |state: &State| state.seen.iter().map(|(it, _)| *it).collect::<Vec<_>>();
    assert_eq!(seen(&state), [2, 3, 4, 5].map(sender), "the oldest is forgotten");
    state.accept(sender(2), 9, 0);
    state.accept(sender(6), 9, 0);
    assert_eq!(seen(&state), [4, 5, 2, 6].map(sender));
    // Every unicast peer keeps its place.
    for last in 10..20 {
        state.accept(sender(last), 1, 10);
    }
    assert_eq!(state.seen.len(), 10);
}

#[test]
fn sequences_follow_the_clock_and_always_grow() {
    let (hmac, mut state) = (hmac(), State::default());
    let half = Duration::from_millis(500);
    assert_eq!(state.next(&hmac, AT + half), SEQUENCE, "seconds, fraction, counter");
    assert_eq!(state.next(&hmac, AT + half), SEQUENCE + 1, "the same instant");
    assert_eq!(state.next(&hmac, AT), SEQUENCE + 2, "the clock went back a little");
    let set_back = AT - Duration::from_secs(3600);
    let clock = (u64::from(0x6800_0000u32) - 3600) << 32;
    assert_eq!(state.next(&hmac, set_back), clock, "set back by more than the window");
    let monotonic = Hmac { window: None, ..hmac };
    let mut state = State::default();
    state.next(&monotonic, AT);
    assert_eq!(state.next(&monotonic, set_back), (0x6800_0000 << 32) + 1);
}

#[test]
fn keys_are_read_as_keepalived_reads_them() {
    let text = "0123456789abcdef0123456789ABCDEF!";
    assert_eq!(key_bytes(text).expect("text"), text.as_bytes());
    let digits = format!("hex:{}", "0a".repeat(32));
    assert_eq!(key_bytes(&digits).expect("digits"), [0x0a; 32]);
    for bad in ["", "short", &"x".repeat(65), "hex:", "hex:0", &format!("hex:{}", "0g".repeat(32))]
    {
        assert!(key_bytes(bad).is_err(), "{bad}");
    }
    assert!(key_bytes(&"x".repeat(32)).is_ok() && key_bytes(&"x".repeat(64)).is_ok());
    assert!(!format!("{:?}", hmac()).contains("31"), "the key does not show");
}
