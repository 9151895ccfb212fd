use proptest::prelude::*;

use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

fn vips(last: &[u8]) -> Vec<IpAddr> {
    last.iter().map(|last| IpAddr::from([10, 77, 0, *last])).collect()
}

fn advert(version: Version, centis: u16, addresses: &[u8]) -> Advert {
    Advert {
        version,
        vrid: Vrid::new(51).expect("nonzero"),
        priority: Priority(150),
        interval: AdvertInterval::from_centis(centis).expect("in range"),
        auth: Auth::None,
        addresses: vips(addresses),
    }
}

/// The IPv4 vectors that we can send: name, advert, destination, form, IP id.
fn sendable() -> Vec<(&'static str, Advert, Ipv4Addr, ChecksumForm, u16)> {
    use ChecksumForm::{GroupPseudoHeader, Message, PseudoHeader};
    use Version::{V2, V3};
    let three = [102, 100, 101];
    let pass = Auth::Pass(*b"s3cret\0\0");
    let v3 = |centis| advert(V3, centis, &[100]);
    let zero = |advert: Advert| Advert { priority: Priority(0), ..advert };
    let pass3 = || Advert { auth: pass, ..advert(V2, 100, &three) };
    let long = Advert { auth: Auth::Pass(*b"01234567"), ..advert(V2, 300, &[100]) };
    let owner = Advert { priority: Priority(255), ..v3(4095) };
    vec![
        ("v2-none", advert(V2, 100, &[100]), GROUP, Message, 1),
        ("v2-pass", pass3(), GROUP, Message, 1),
        ("v2-pass-prio0", zero(pass3()), GROUP, Message, 2),
        ("v2-pass-long", long, GROUP, Message, 1),
        ("v2-count0", advert(V2, 100, &[]), GROUP, Message, 1),
        ("v2-unicast", advert(V2, 100, &[100]), PEER, Message, 1),
        ("v3-ipv4", v3(100), GROUP, PseudoHeader, 1),
        ("v3-ipv4-prio0", zero(v3(100)), GROUP, PseudoHeader, 2),
        ("v3-ipv4-3vips", advert(V3, 10, &three), GROUP, PseudoHeader, 1),
        ("v3-ipv4-10ms", v3(1), GROUP, PseudoHeader, 1),
        ("v3-ipv4-max-interval", owner, GROUP, PseudoHeader, 1),
        ("v3-ipv4-unicast", v3(100), PEER, PseudoHeader, 1),
        ("v3-ipv4-unicast-oldsum", v3(100), PEER, GroupPseudoHeader, 1),
        ("computed-v3-ipv4-rfc9568-sum", v3(100), GROUP, Message, 1),
    ]
}

fn expect_for<'a>(advert: &'a Advert, destination: Ipv4Addr) -> Expect<'a> {
    Expect {
        version: advert.version,
        vrid: advert.vrid,
        auth: advert.auth,
        interval: advert.interval,
        unicast: !destination.is_multicast(),
        own: Some(PEER.into()),
        addresses: &advert.addresses,
    }
}

#[test]
fn adverts_encode_to_the_golden_bytes() {
    for (name, advert, destination, form, id) in sendable() {
        let bytes = advert.datagram_v4(OWN, destination, form, id);
        assert_eq!(bytes, vectors::datagram(name), "{name}");
    }
}

#[test]
fn golden_bytes_decode_to_the_adverts() {
    for (name, advert, destination, form, _) in sendable() {
        let bytes = vectors::datagram(name);
        let datagram = Datagram::parse(&bytes).expect(name);
        let message = Message::parse(datagram.payload, true).expect(name);
        assert_eq!(message.addresses().collect::<Vec<_>>(), advert.addresses, "{name}: order");
        assert_eq!(message.vrid(), Some(advert.vrid), "{name}");
        assert_eq!(datagram.vrid(), Some(51), "{name}");
        let got = receive(&bytes, &expect_for(&advert, destination));
        let want = Received {
            source: OWN.into(),
            priority: advert.priority,
            interval: advert.interval,
            checksum: form,
            same_addresses: true,
        };
        assert_eq!(got, Ok(want), "{name}");
    }
}

#[test]
fn ipv6_messages_encode_and_verify() {
    for (name, destination) in [
        ("v3-ipv6", "ff02::12".parse::<IpAddr>().expect("address")),
        ("v3-ipv6-unicast", "fd77::2".parse().expect("address")),
    ] {
        let datagram = vectors::datagram(name);
        let source: [u8; 16] = datagram[8..24].try_into().expect("sixteen");
        let source = IpAddr::from(source);
        let message = Message::parse(&datagram[40..], false).expect(name);
        let form = message.checksum_form(source, destination);
        assert_eq!(form, Some(ChecksumForm::PseudoHeader), "{name}");
        let advert =
            Advert { addresses: message.addresses().collect(), ..advert(Version::V3, 100, &[]) };
        let bytes = advert.message(source, destination, ChecksumForm::PseudoHeader);
        assert_eq!(bytes, &datagram[40..], "{name}");
    }
}

#[test]
fn padding_is_tolerated_and_every_missing_byte_is_not() {
    for (name, advert, destination, ..) in sendable() {
        let bytes = vectors::datagram(name);
        let expect = expect_for(&advert, destination);
        for padding in 1..=46 {
            let mut padded = bytes.clone();
            padded.resize(bytes.len() + padding, 0xa5);
            assert!(receive(&padded, &expect).is_ok(), "{name} with {padding} more");
        }
        for len in 0..bytes.len() {
            assert_eq!(receive(&bytes[..len], &expect), Err(Reason::IpTruncated), "{name} {len}");
        }
    }
}

/// Shortens the VRRP message and repairs the IP header, so that the message's own check decides.
fn with_payload(bytes: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = bytes[..20].to_vec();
    out.extend(payload);
    let total = u16::try_from(out.len()).expect("short");
    out[2..4].copy_from_slice(&total.to_be_bytes());
    repair_ip(&mut out);
    out
}

fn repair_ip(bytes: &mut [u8]) {
    bytes[10..12].fill(0);
    let sum = !checksum::sum(&[&bytes[..20]]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn length_must_equal_what_the_count_says() {
    for (name, advert, destination, ..) in sendable() {
        let bytes = vectors::datagram(name);
        let expect = expect_for(&advert, destination);
        let payload = &bytes[20..];
        for len in 0..payload.len() {
            let got = receive(&with_payload(&bytes, &payload[..len]), &expect);
            assert_eq!(got, Err(Reason::TooShort), "{name} cut to {len}");
        }
        for more in 1..=60 {
            let mut long = payload.to_vec();
            long.resize(payload.len() + more, 0);
            let want = if more == 28 { Reason::HmacTrailer } else { Reason::TooLong };
            assert_eq!(receive(&with_payload(&bytes, &long), &expect), Err(want), "{name} +{more}");
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for (name, advert, destination, ..) in sendable() {
        let bytes = vectors::datagram(name);
        let expect = expect_for(&advert, destination);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(receive(&bad, &expect).is_err(), "{name} bit {bit}");
        }
    }
}

#[test]
fn each_check_has_its_reason() {
    let base = advert(Version::V2, 100, &[100]);
    let base3 = advert(Version::V3, 100, &[100]);
    let good = vectors::datagram("v2-none");
    let good3 = vectors::datagram("v3-ipv4");
    let expect = expect_for(&base, GROUP);
    let expect3 = expect_for(&base3, GROUP);
    let edit = |bytes: &[u8], at: usize, value: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        repair_ip(&mut bytes);
        bytes
    };
    // A message rebuilt from edited bytes with a right checksum.
    let message = |bytes: &[u8], at: usize, value: u8| {
        let mut payload = bytes[20..].to_vec();
        payload[at] = value;
        payload[6..8].fill(0);
        let version = if bytes[20] >> 4 == 2 { Version::V2 } else { Version::V3 };
        let form = ChecksumForm::PseudoHeader;
        let sum = checksum::compute(version, &payload, OWN.into(), GROUP.into(), form);
        payload[6..8].copy_from_slice(&sum.to_be_bytes());
        with_payload(bytes, &payload)
    };
    let mut bad_ip_sum = good.clone();
    bad_ip_sum[10] ^= 1;
    let pass = Advert { auth: Auth::Pass(*b"s3cret\0\0"), ..base.clone() };
    let other_pass = Advert { auth: Auth::Pass(*b"s3cret\0x"), ..base.clone() };
    let with_pass = pass.datagram_v4(OWN, GROUP, ChecksumForm::Message, 1);
    let v6 = vectors::datagram("v3-ipv6");
    let rows: Vec<(Vec<u8>, Expect<'_>, Reason)> = vec![
        (vec![], expect, Reason::IpTruncated),
        (v6, expect3, Reason::IpHeader),
        (edit(&good, 0, 0x44), expect, Reason::IpHeader),
        (bad_ip_sum, expect, Reason::IpChecksum),
        (edit(&good, 6, 0x20), expect, Reason::IpFragment),
        (edit(&good, 7, 1), expect, Reason::IpFragment),
        (edit(&good, 9, 6), expect, Reason::IpProtocol),
        (vectors::datagram("v2-ah"), expect, Reason::AuthHeader),
        (edit(&good, 8, 254), expect, Reason::Ttl),
        (edit(&good, 8, 1), expect, Reason::Ttl),
        (edit(&good, 8, 0), expect, Reason::Ttl),
        (good3.clone(), expect, Reason::Version),
        (good.clone(), expect3, Reason::Version),
        (message(&good, 0, 0x22), expect, Reason::Type),
        (message(&good, 0, 0x20), expect, Reason::Type),
        (message(&good3, 0, 0x3f), expect3, Reason::Type),
        (edit(&good, 26, 0), expect, Reason::Checksum),
        (edit(&good3, 27, 0), expect3, Reason::Checksum),
        (message(&good, 1, 52), expect, Reason::Vrid),
        (message(&good, 1, 0), expect, Reason::Vrid),
        (message(&good, 4, 3), expect, Reason::AuthTypeUnknown),
        (message(&good, 4, 2), expect, Reason::AuthTypeMismatch),
        (with_pass.clone(), expect, Reason::AuthTypeMismatch),
        (good.clone(), expect_for(&pass, GROUP), Reason::AuthTypeMismatch),
        (with_pass, expect_for(&other_pass, GROUP), Reason::AuthFailed),
        (message(&good, 5, 2), expect, Reason::Interval),
        (message(&good, 5, 0), expect, Reason::IntervalZero),
        (message(&good3, 5, 0), expect3, Reason::IntervalZero),
        (vectors::datagram("v2-count0"), expect, Reason::NoAddress),
        (vectors::datagram("v2-unicast"), expect, Reason::Mode),
        (good.clone(), expect_for(&base, PEER), Reason::Mode),
        (good.clone(), Expect { own: Some(OWN.into()), ..expect }, Reason::OwnAddress),
    ];
    for (index, (bytes, expect, reason)) in rows.iter().enumerate() {
        assert_eq!(receive(bytes, expect), Err(*reason), "row {index}");
    }
    let count0 = Advert { addresses: vec![], ..base3 };
    let bytes = count0.datagram_v4(OWN, GROUP, ChecksumForm::PseudoHeader, 1);
    assert_eq!(receive(&bytes, &expect_for(&count0, GROUP)), Err(Reason::NoAddress), "v3 count 0");
    let tested: std::collections::BTreeSet<_> = rows.iter().map(|row| row.2).collect();
    for reason in Reason::ALL {
        let elsewhere = [Reason::TooShort, Reason::TooLong, Reason::HmacTrailer];
        assert!(tested.contains(reason) || elsewhere.contains(reason), "{reason} has no row");
    }
}

#[test]
fn what_must_be_accepted() {
    let base = advert(Version::V3, 100, &[100]);
    let expect = expect_for(&base, GROUP);
    // Reserved bits set: `f064` is one second.
    let mut bytes = vectors::datagram("v3-ipv4");
    bytes[24] |= 0xf0;
    bytes[26..28].fill(0);
    let form = ChecksumForm::PseudoHeader;
    let sum = checksum::compute(Version::V3, &bytes[20..], OWN.into(), GROUP.into(), form);
    bytes[26..28].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(receive(&bytes, &expect).map(|got| got.interval), Ok(AdvertInterval::DEFAULT));
    // Data of authentication type none.
    let plain = advert(Version::V2, 100, &[100]);
    let mut bytes = vectors::datagram("v2-none");
    bytes[32..40].copy_from_slice(b"rubbish!");
    bytes[26..28].fill(0);
    let sum = !checksum::sum(&[&bytes[20..]]);
    bytes[26..28].copy_from_slice(&sum.to_be_bytes());
    assert!(receive(&bytes, &expect_for(&plain, GROUP)).is_ok());
    // Order of addresses is free; another list is accepted and reported.
    let other = advert(Version::V3, 10, &[100, 101, 102]);
    let three = vectors::datagram("v3-ipv4-3vips");
    assert_eq!(receive(&three, &expect_for(&other, GROUP)).map(|got| got.same_addresses), Ok(true));
    assert_eq!(receive(&three, &expect).map(|got| got.same_addresses), Ok(false));
    // Unicast may be routed.
    let mut routed = vectors::datagram("v2-unicast");
    routed[8] = 60;
    repair_ip(&mut routed);
    assert!(receive(&routed, &expect_for(&plain, PEER)).is_ok());
    // IP options are skipped.
    let mut options = vectors::datagram("v2-none");
    options[0] = 0x46;
    options.splice(20..20, [1, 1, 1, 0]);
    options[3] += 4;
    options[10..12].fill(0);
    let sum = !checksum::sum(&[&options[..24]]);
    options[10..12].copy_from_slice(&sum.to_be_bytes());
    assert!(receive(&options, &expect_for(&plain, GROUP)).is_ok());
}

#[test]
fn more_addresses_than_fit_are_not_sent() {
    let many: Vec<IpAddr> =
        (0..300u16).map(|n| Ipv4Addr::from(0x0a00_0000 + u32::from(n)).into()).collect();
    let advert = Advert { addresses: many, ..advert(Version::V3, 100, &[]) };
    let bytes = advert.message(OWN.into(), GROUP.into(), ChecksumForm::PseudoHeader);
    let message = Message::parse(&bytes, true).expect("sound");
    assert_eq!(message.addresses().count(), ADDRESS_LIMIT);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let advert = advert(Version::V3, 100, &[100]);
        let _ = receive(&bytes, &expect_for(&advert, GROUP));
        let _ = Message::parse(&bytes, true).map(|message| message.addresses().count());
        let _ = Message::parse(&bytes, false).map(|message| (message.auth(), message.interval()));
    }

    #[test]
    fn arbitrary_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let base = vectors::datagram("v2-none");
        let advert = advert(Version::V2, 100, &[100]);
        let _ = receive(&with_payload(&base, &payload), &expect_for(&advert, GROUP));
    }

    #[test]
    fn what_we_send_is_what_arrives(
        v3: bool, priority: u8, vrid in 1..=255u8, centis in 1..=4095u16, seconds in 1..=255u8,
        pass: Option<[u8; 8]>, last in prop::collection::vec(any::<u8>(), 1..40), id: u16,
    ) {
        let version = if v3 { Version::V3 } else { Version::V2 };
        let interval = if v3 { AdvertInterval::from_centis(centis) } else { AdvertInterval::from_seconds(seconds) };
        let auth = if v3 { Auth::None } else { pass.map_or(Auth::None, Auth::Pass) };
        let advert = Advert {
            version, vrid: Vrid::new(vrid).expect("nonzero"), priority: Priority(priority),
            interval: interval.expect("in range"), auth, addresses: vips(&last),
        };
        let bytes = advert.datagram_v4(OWN, GROUP, ChecksumForm::PseudoHeader, id);
        let got = receive(&bytes, &expect_for(&advert, GROUP)).expect("accepted");
        prop_assert_eq!(got.priority, advert.priority);
        prop_assert_eq!(got.interval, advert.interval);
        prop_assert!(got.same_addresses);
    }
}
