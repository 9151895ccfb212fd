//! Each check has its reason, and what must be accepted is.

use std::collections::BTreeSet;

use super::*;

/// The message of `bytes` with another byte and a right checksum.
fn message(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut payload = bytes[20..].to_vec();
    payload[at] = value;
    payload[6..8].fill(0);
    let version = if bytes[20] >> 4 == 2 { Version::V2 } else { Version::V3 };
    let datagram = Datagram::parse(bytes).expect("sound");
    let form = ChecksumForm::PseudoHeader;
    let (source, destination) = (datagram.source, datagram.destination);
    let sum = checksum::compute(version, &payload, source, destination, form);
    payload[6..8].copy_from_slice(&sum.to_be_bytes());
    with_payload(bytes, &payload)
}

/// Another byte of the datagram, with a right IP header.
fn edit(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = value;
    repair_ip(&mut bytes);
    bytes
}

/// An AH advert with other numbers and a right code.
fn ah(password: &[u8; 8], sequence: u32) -> Vec<u8> {
    let row = row("v2-ah");
    let advert = Advert { auth: Auth::Ah(*password), ..row.advert };
    advert.datagram(&row.envelope, Seal { sequence, trailer: None })
}

fn with(row: &Row, change: impl FnOnce(&mut Demand)) -> Demand {
    let mut demand = row.demand();
    change(&mut demand);
    demand
}

// PKT-01 RX-01 RX-02 RX-03 RX-04 RX-05 RX-07 RX-08 RX-09 RX-12 RX-13 AUT-05 AUT-06 UNI-02 UNI-04
#[test]
fn each_check_has_its_reason() {
    let (plain, v3, v6) = (row("v2-none"), row("v3-ipv4"), row("v3-ipv6"));
    let (unicast, pass, header) = (row("v2-unicast"), row("v2-pass"), row("v2-ah"));
    let (good, good3, good_ah) = (plain.bytes(), v3.bytes(), header.bytes());
    let mut bad_ip_sum = good.clone();
    bad_ip_sum[10] ^= 1;
    let mut not_vrrp = v6.bytes();
    not_vrrp[6] = 58;
    let mut forwarded = v6.bytes();
    forwarded[7] = 254;
    let plain_pass = with(&plain, |it| it.advert.auth = Auth::Pass(S3CRET));
    let other_pass = with(&pass, |it| it.advert.auth = Auth::Pass(*b"s3cret\0x"));
    let other_key = with(&header, |it| it.advert.auth = Auth::Ah(*b"s3cret\0x"));
    // A right code over a foreign SPI: somebody who has the password replays for another host.
    let spi = {
        let mut bytes = good_ah.clone();
        bytes[24] ^= 1;
        let ah: [u8; 24] = bytes[20..44].try_into().expect("24");
        let icv = crate::vrrp::auth::ah::icv(&S3CRET, &bytes[..20], false, &ah, &bytes[44..]);
        bytes[32..44].copy_from_slice(&icv);
        bytes
    };
    let near = |it: &mut Demand| {
        it.options.peer_ttl.insert(OWN.into(), 254..=255);
    };
    let rows: Vec<(Vec<u8>, Demand, Reason)> = vec![
        (vec![], plain.demand(), Reason::IpTruncated),
        (edit(&good, 0, 0x44), plain.demand(), Reason::IpHeader),
        (vec![0x50; 40], plain.demand(), Reason::IpHeader),
        (bad_ip_sum, plain.demand(), Reason::IpChecksum),
        (edit(&good, 6, 0x20), plain.demand(), Reason::IpFragment),
        (edit(&good, 7, 1), plain.demand(), Reason::IpFragment),
        (edit(&good, 9, 6), plain.demand(), Reason::IpProtocol),
        (edit(&good_ah, 20, 6), header.demand(), Reason::IpProtocol),
        (not_vrrp, v6.demand(), Reason::IpProtocol),
        (v6.bytes(), v3.demand(), Reason::Family),
        (good3.clone(), v6.demand(), Reason::Family),
        (good_ah.clone(), plain.demand(), Reason::AuthHeader),
        (good_ah.clone(), pass.demand(), Reason::AuthHeader),
        (good.clone(), header.demand(), Reason::AuthHeaderMissing),
        (pass.bytes(), header.demand(), Reason::AuthHeaderMissing),
        (edit(&good_ah, 21, 5), header.demand(), Reason::AuthHeaderMalformed),
        (edit(&good_ah, 22, 1), header.demand(), Reason::AuthHeaderMalformed),
        (good_ah.clone(), other_key, Reason::AuthHeaderIcv),
        (ah(b"other\0\0\0", 1), header.demand(), Reason::AuthHeaderIcv),
        (spi, header.demand(), Reason::AuthHeaderSpi),
        (good_ah.clone(), with(&header, |it| it.heard = 1), Reason::AuthHeaderReplay),
        (good_ah, with(&header, |it| it.sequence = 2), Reason::AuthHeaderReplay),
        (edit(&good, 8, 254), plain.demand(), Reason::Ttl),
        (edit(&good, 8, 1), plain.demand(), Reason::Ttl),
        (edit(&good, 8, 0), plain.demand(), Reason::Ttl),
        (forwarded, v6.demand(), Reason::Ttl),
        (edit(&unicast.bytes(), 8, 253), with(&unicast, near), Reason::PeerTtl),
        (good3.clone(), plain.demand(), Reason::Version),
        (good.clone(), v3.demand(), Reason::Version),
        (edit(&good, 20, 0x41), plain.demand(), Reason::Version),
        (message(&good, 0, 0x22), plain.demand(), Reason::Type),
        (message(&good, 0, 0x20), plain.demand(), Reason::Type),
        (message(&good3, 0, 0x3f), v3.demand(), Reason::Type),
        (edit(&good, 26, 0), plain.demand(), Reason::Checksum),
        (edit(&good3, 27, 0), v3.demand(), Reason::Checksum),
        (message(&good, 1, 52), plain.demand(), Reason::Vrid),
        (message(&good, 1, 0), plain.demand(), Reason::Vrid),
        (message(&good, 4, 3), plain.demand(), Reason::AuthTypeUnknown),
        (message(&good, 4, 2), plain.demand(), Reason::AuthTypeMismatch),
        (pass.bytes(), plain.demand(), Reason::AuthTypeMismatch),
        (good.clone(), plain_pass, Reason::AuthTypeMismatch),
        (pass.bytes(), other_pass, Reason::AuthFailed),
        (message(&good, 5, 2), plain.demand(), Reason::Interval),
        (message(&good, 5, 0), plain.demand(), Reason::IntervalZero),
        (message(&good3, 5, 0), v3.demand(), Reason::IntervalZero),
        (row("v2-count0").bytes(), plain.demand(), Reason::NoAddress),
        (unicast.bytes(), plain.demand(), Reason::Mode),
        (good.clone(), unicast.demand(), Reason::Mode),
        (good.clone(), with(&plain, |it| it.options.group = Some(ip("224.0.0.50"))), Reason::Group),
        (good.clone(), with(&plain, |it| it.own = Some(OWN.into())), Reason::OwnAddress),
        (
            good.clone(),
            with(&plain, |it| {
                it.options.same_addresses = true;
                it.advert.addresses = vips(&[101]);
            }),
            Reason::AddressList,
        ),
        (
            unicast.bytes(),
            with(&unicast, |it| {
                it.options.check_source = true;
                it.peers = vips(&[9]);
            }),
            Reason::PeerUnknown,
        ),
        (
            row("v3-ipv4-unicast-oldsum").bytes(),
            with(&row("v3-ipv4-unicast-oldsum"), |it| {
                it.options.old_unicast_checksum = OldUnicastChecksum::Never;
            }),
            Reason::Checksum,
        ),
    ];
    for (index, (bytes, demand, reason)) in rows.iter().enumerate() {
        assert_eq!(demand.check(bytes), Err(*reason), "row {index}");
    }
    let tested: BTreeSet<_> = rows.iter().map(|row| row.2).collect();
    for reason in Reason::ALL {
        let golden = [Reason::TooShort, Reason::TooLong, Reason::HmacTrailer];
        // auth::hmac::tests
        let signed = reason.name().starts_with("hmac_");
        assert!(tested.contains(reason) || golden.contains(reason) || signed, "{reason}: no row");
    }
}

/// A stranger that has the key takes no place in what is remembered of peers' sequences.
#[test]
fn a_signed_advert_to_a_unicast_instance_has_to_be_a_peers() {
    let unicast = row("v3-ipv4-unicast");
    let key = hmac::Key { id: 1, secret: hmac::Secret::Bytes(vec![7; 32]) };
    let trailer = Some((&key, 1 << 32));
    let bytes = unicast.advert.datagram(&unicast.envelope, Seal { sequence: 0, trailer });
    let signed = |it: &mut Demand| {
        let (keys, mode) = (vec![key.clone()], hmac::Mode::Enforce);
        it.options.hmac = Some(hmac::Hmac { keys, active: 1, window: None, mode });
    };
    assert_eq!(with(&unicast, signed).check(&bytes).map(|it| it.trailer), Ok(Some(1 << 32)));
    let stranger = with(&unicast, |it| {
        signed(it);
        it.peers = vips(&[9]);
    });
    assert_eq!(stranger.check(&bytes), Err(Reason::PeerUnknown));
}

// PKT-01
#[test]
fn of_sixteen_types_one_is_an_advert() {
    for name in ["v2-none", "v3-ipv4"] {
        let row = row(name);
        let bytes = row.bytes();
        for kind in 0..16 {
            let got = row.demand().check(&message(&bytes, 0, bytes[20] & 0xf0 | kind));
            assert_eq!(got.err(), (kind != 1).then_some(Reason::Type), "{name} type {kind}");
        }
    }
}

/// What was damaged on the way is counted by the instance that it was meant for.
#[test]
fn a_refused_datagram_still_says_whose_it_was() {
    for row in rows() {
        let bytes = row.bytes();
        let meant = Some((bytes[0] >> 4 == 4, 51));
        let whole = Datagram::parse(&bytes).expect("sound");
        let vrid_at = bytes.len() - whole.payload.len() + 1;
        for len in 0..=bytes.len() {
            let found = Datagram::meant_for(&bytes[..len]);
            assert_eq!(found, meant.filter(|_| len > vrid_at), "{} {len}", row.name);
        }
        let mut bad_sum = bytes.clone();
        bad_sum[10] ^= 1;
        assert_eq!(Datagram::meant_for(&bad_sum), meant, "{}", row.name);
    }
    for other in [&[0x50; 60][..], &[0x45; 60], &[0x60; 60], &[0x4f; 21]] {
        assert_eq!(Datagram::meant_for(other), None, "not VRRP");
    }
}

// RX-12: of several faults the first in keepalived's order is told.
#[test]
fn checks_are_made_in_keepaliveds_order() {
    let pass = row("v2-pass");
    let (good, demand) = (pass.bytes(), pass.demand());
    // Each row breaks one thing more, from the last check to the first.
    let mut bytes = good.clone();
    let mut demand = demand;
    demand.advert.addresses = vips(&[100]);
    demand.options.same_addresses = true;
    let mut steps = vec![(Reason::AddressList, demand.check(&bytes))];
    demand.peers = vips(&[1]);
    steps.push((Reason::Mode, demand.check(&bytes)));
    bytes[27] ^= 1;
    steps.push((Reason::Checksum, demand.check(&bytes)));
    bytes[20] = 0x22;
    steps.push((Reason::Type, demand.check(&bytes)));
    bytes[25] = 9;
    steps.push((Reason::Interval, demand.check(&bytes)));
    *bytes.last_mut().expect("bytes") = 9;
    steps.push((Reason::AuthFailed, demand.check(&bytes)));
    bytes[24] = 2;
    steps.push((Reason::AuthTypeMismatch, demand.check(&bytes)));
    bytes[24] = 7;
    steps.push((Reason::AuthTypeUnknown, demand.check(&bytes)));
    demand.advert.version = Version::V3;
    steps.push((Reason::Version, demand.check(&bytes)));
    demand.peers.clear();
    bytes[8] = 9;
    repair_ip(&mut bytes);
    steps.push((Reason::Ttl, demand.check(&bytes)));
    bytes[23] = 2;
    steps.push((Reason::TooLong, demand.check(&bytes)));
    demand.advert.auth = Auth::Ah(S3CRET);
    steps.push((Reason::AuthHeaderMissing, demand.check(&bytes)));
    for (want, got) in steps {
        assert_eq!(got, Err(want));
    }
}

// RX-12 UNI-02 UNI-04: what only a unicast instance asks, in the same manner.
#[test]
fn unicast_checks_are_made_in_keepaliveds_order() {
    let unicast = row("v2-unicast");
    let mut demand = unicast.demand();
    let mut bytes = edit(&unicast.bytes(), 8, 60);
    demand.options.peer_ttl.insert(OWN.into(), 255..=255);
    let mut steps = vec![(Reason::PeerTtl, demand.check(&bytes))];
    // The peer that has the TTL is no peer any more.
    demand.peers = vips(&[9]);
    steps.push((Reason::PeerUnknown, demand.check(&bytes)));
    demand.options.same_addresses = true;
    demand.advert.addresses = vips(&[101]);
    steps.push((Reason::AddressList, demand.check(&bytes)));
    let count0 = row("v2-count0").bytes();
    bytes = with_payload(&bytes, &count0[20..]);
    steps.push((Reason::NoAddress, demand.check(&bytes)));
    demand.peers.clear();
    bytes[8] = TTL;
    repair_ip(&mut bytes);
    steps.push((Reason::Mode, demand.check(&bytes)));
    for (want, got) in steps {
        assert_eq!(got, Err(want));
    }
}

// RX-09 RX-12 RX-13
#[test]
fn the_rest_of_the_checks_are_made_in_keepaliveds_order() {
    let plain = row("v2-none");
    let (mut demand, mut bytes) = (plain.demand(), row("v2-count0").bytes());
    demand.options.same_addresses = true;
    let mut steps = vec![(Reason::NoAddress, demand.check(&bytes))];
    demand.options.group = Some(ip("224.0.0.50"));
    steps.push((Reason::Group, demand.check(&bytes)));
    bytes[27] ^= 1;
    steps.push((Reason::Checksum, demand.check(&bytes)));
    bytes[25] = 0;
    steps.push((Reason::IntervalZero, demand.check(&bytes)));
    bytes[24] = 7;
    steps.push((Reason::AuthTypeUnknown, demand.check(&bytes)));
    // `auth_hmac` comes before the authentication of VRRPv2.
    let key = hmac::Key { id: 1, secret: hmac::Secret::Bytes(vec![7; 32]) };
    let keys = vec![key.clone()];
    let ours = hmac::Hmac { keys, active: 1, window: Some(5), mode: hmac::Mode::Enforce };
    demand.options.hmac = Some(ours);
    steps.push((Reason::HmacMissing, demand.check(&bytes)));
    bytes[21] = 52;
    steps.push((Reason::Vrid, demand.check(&bytes)));
    bytes[8] = 9;
    repair_ip(&mut bytes);
    demand.advert.version = Version::V3;
    steps.push((Reason::Ttl, demand.check(&bytes)));
    // A trailer that was not asked for: only its length is looked at, before the TTL.
    demand.options.hmac = None;
    let payload = [&bytes[20..], &[0; 28]].concat();
    bytes = with_payload(&bytes, &payload);
    steps.push((Reason::HmacTrailer, demand.check(&bytes)));
    demand.advert.auth = Auth::Ah(S3CRET);
    steps.push((Reason::AuthHeaderMissing, demand.check(&bytes)));
    demand.own = Some(OWN.into());
    steps.push((Reason::OwnAddress, demand.check(&bytes)));
    demand.options.ipv6 = true;
    steps.push((Reason::Family, demand.check(&bytes)));
    for (want, got) in steps {
        assert_eq!(got, Err(want));
    }
}

// RX-12 AUT-05: of a signature and of an authentication header, what is asked first.
#[test]
fn codes_are_checked_in_keepaliveds_order() {
    let v3 = row("v3-ipv4");
    let key = |id, byte| hmac::Key { id, secret: hmac::Secret::Bytes(vec![byte; 32]) };
    let signed = |key: &hmac::Key, seconds: u64| {
        v3.advert.datagram(&v3.envelope, Seal { sequence: 1, trailer: Some((key, seconds << 32)) })
    };
    let (known, strange) = (key(1, 7), key(2, 7));
    let (good, other) = (signed(&known, 100), signed(&strange, 100));
    let mut demand = v3.demand();
    demand.unix = Duration::from_secs(100);
    let keys = vec![known.clone()];
    let ours = hmac::Hmac { keys, active: 1, window: Some(5), mode: hmac::Mode::Enforce };
    demand.options.hmac = Some(ours);
    demand.check(&good).expect("good");
    let changed = |mut bytes: Vec<u8>| {
        *bytes.last_mut().expect("bytes") ^= 1;
        bytes
    };
    let mut steps = vec![(Reason::HmacInvalid, demand.check(&changed(good.clone())))];
    steps.push((Reason::HmacKey, demand.check(&changed(other.clone()))));
    demand.unix = Duration::from_secs(200);
    steps.push((Reason::HmacStale, demand.check(&changed(other.clone()))));
    let mut scheme = changed(other);
    let at = scheme.len() - 28;
    scheme[at] = 9;
    steps.push((Reason::HmacMalformed, demand.check(&scheme)));
    // A stranger's signature is not computed.
    demand.peers = vips(&[9]);
    steps.push((Reason::PeerUnknown, demand.check(&scheme)));
    // The authentication header: nothing of a forged one is believed.
    let header = row("v2-ah");
    let mut demand = header.demand();
    demand.heard = 1;
    let mut bytes = header.bytes();
    steps.push((Reason::AuthHeaderReplay, demand.check(&bytes)));
    bytes[24] ^= 1;
    steps.push((Reason::AuthHeaderIcv, demand.check(&bytes)));
    for (want, got) in steps {
        assert_eq!(got, Err(want));
    }
}

// PKT-05 PKT-07 PKT-09 PKT-11 RX-03 RX-10 UNI-02 UNI-03 AUT-05
#[test]
fn what_must_be_accepted() {
    let v3 = row("v3-ipv4");
    // Reserved bits set: `f064` is one second.
    let reserved = message(&v3.bytes(), 4, 0xf0);
    assert_eq!(v3.demand().check(&reserved).map(|it| it.interval), Ok(AdvertInterval::DEFAULT));
    // Data of authentication type none.
    let plain = row("v2-none");
    let rubbish = message(&plain.bytes(), 15, b'!');
    assert!(plain.demand().check(&rubbish).is_ok());
    // Order of addresses is free; another list is accepted and reported.
    let three = row("v3-ipv4-3vips");
    let listed = |last: &[u8]| with(&three, |it| it.advert.addresses = vips(last));
    let same = |demand: Demand| demand.check(&three.bytes()).map(|it| it.same_addresses);
    assert_eq!(same(listed(&[100, 101, 102])), Ok(true));
    assert_eq!(same(listed(&[100])), Ok(false));
    assert_eq!(same(listed(&[100, 101, 103])), Ok(false));
    // Unicast may be routed, unless the peer's TTLs say otherwise; a stranger may speak.
    let unicast = row("v2-unicast");
    let routed = edit(&unicast.bytes(), 8, 60);
    assert!(unicast.demand().check(&routed).is_ok());
    let range = |range| {
        with(&unicast, |it| {
            it.options.peer_ttl.insert(OWN.into(), range);
        })
    };
    assert!(range(60..=60).check(&routed).is_ok());
    assert_eq!(range(61..=255).check(&routed), Err(Reason::PeerTtl));
    let stranger = with(&unicast, |it| it.peers = vips(&[9]));
    assert!(stranger.check(&unicast.bytes()).is_ok());
    // IP options are skipped, in front of an authentication header too.
    for (name, demand) in [("v2-none", plain.demand()), ("v2-ah", row("v2-ah").demand())] {
        let mut options = vectors::datagram(name);
        options[0] = 0x46;
        options.splice(20..20, [1, 1, 1, 0]);
        options[3] += 4;
        repair_ip(&mut options);
        if name == "v2-ah" {
            let header: [u8; 24] = options[24..48].try_into().expect("24");
            let (ip, message) = (&options[..24], &options[48..]);
            let icv = crate::vrrp::auth::ah::icv(&S3CRET, ip, false, &header, message);
            options[36..48].copy_from_slice(&icv);
        }
        assert!(demand.check(&options).is_ok(), "{name} with IP options");
    }
    // Newer sequence numbers, with gaps.
    let header = row("v2-ah");
    let at = |(sent, heard)| with(&header, |it| (it.sequence, it.heard) = (sent, heard));
    // The last: our own number of the same instant.
    let rows =
        [((0, 0), 1), ((1, 1), 2), ((1, 0), 900), ((0, 0xffff_fffc), 0xffff_fffd), ((7, 6), 7)];
    for (last, next) in rows {
        let got = at(last).check(&ah(&S3CRET, next)).map(|it| it.sequence);
        assert_eq!(got, Ok(Some(next)), "{last:?} {next}");
    }
    // The TTL of unicast adverts is not covered, that of multicast ones is (AUT-04).
    let far = edit(&row("v2-ah-unicast").bytes(), 8, 60);
    assert!(row("v2-ah-unicast").demand().check(&far).is_ok());
}

// PKT-04: no address is right where none is meant (`no_virtual_ipaddress` of keepalived 2.4 in
// VRRPv3 too; RFC 9568 would discard it, and both would be master).
#[test]
fn no_address_is_accepted_where_we_have_none() {
    for version in [Version::V2, Version::V3] {
        let empty = advert(version, 100, &[]);
        let bytes = empty.datagram_v4(OWN, GROUP, ChecksumForm::PseudoHeader, 1);
        let with_vip = Row { advert: advert(version, 100, &[100]), ..row("v2-none") }.demand();
        assert_eq!(with_vip.check(&bytes), Err(Reason::NoAddress), "{version:?}");
        let without = Row { advert: empty, ..row("v2-none") }.demand();
        assert_eq!(without.check(&bytes).map(|it| it.same_addresses), Ok(true), "{version:?}");
    }
}

// PKT-08: RFC 9568 asks for a link-local address in front; keepalived does not look.
#[test]
fn the_order_of_a_peers_ipv6_list_is_its_own_business() {
    let row = row("v3-ipv6");
    let mut swapped = row.advert.clone();
    swapped.addresses.reverse();
    let bytes = swapped.datagram(&row.envelope, Seal { sequence: 0, trailer: None });
    assert_eq!(row.demand().check(&bytes).map(|it| it.same_addresses), Ok(true));
}

// PKT-11 PKT-13 UNI-01 UNI-03
#[test]
fn options_choose_group_ttl_and_checksum() {
    use ChecksumForm::{GroupPseudoHeader, Message, PseudoHeader};
    let plain = Options::default();
    assert_eq!((plain.group(), plain.ttl(false), plain.ttl(true)), (GROUP.into(), 255, 255));
    let v6 = Options { ipv6: true, ..Options::default() };
    assert_eq!((v6.group(), v6.ttl(false), v6.ttl(true)), (GROUP_V6.into(), 255, 64));
    let near = Options { unicast_ttl: Some(3), group: Some(ip("224.0.0.99")), ..v6.clone() };
    assert_eq!((near.group(), near.ttl(false), near.ttl(true)), (ip("224.0.0.99"), 255, 3));
    let as_v2 = Options { checksum_as_v2: true, ..Options::default() };
    let old = OldUnicastChecksum::Always;
    let old = Options { old_unicast_checksum: old, ..Options::default() };
    for (options, unicast, want) in [
        (&plain, true, PseudoHeader),
        (&as_v2, false, Message),
        (&Options { ipv6: true, ..as_v2.clone() }, false, PseudoHeader),
        (&old, true, GroupPseudoHeader),
        (&old, false, PseudoHeader),
        (&Options { ipv6: true, ..old.clone() }, true, PseudoHeader),
    ] {
        assert_eq!(options.checksum(Version::V3, unicast), want, "{options:?} {unicast}");
        assert_eq!(options.checksum(Version::V2, unicast), PseudoHeader, "v2 has one form");
    }
}
