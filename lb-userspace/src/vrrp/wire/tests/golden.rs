//! Our encoder gives the bytes that keepalived sent, and they decode to what was meant.

use super::*;

// PKT-01 PKT-05 PKT-06 PKT-07 PKT-08 PKT-10 PKT-11 PKT-12 PKT-13 AUT-03 AUT-04 UNI-01
#[test]
fn adverts_encode_to_the_golden_bytes() {
    for Row { name, advert, envelope, sequence } in rows() {
        let bytes = advert.datagram(&envelope, Seal { sequence, trailer: None });
        assert_eq!(bytes, vectors::datagram(name), "{name}");
    }
}

// PKT-01 PKT-08 PKT-11 PKT-12 AUT-03 UNI-03
#[test]
fn golden_bytes_decode_to_the_adverts() {
    for row in rows() {
        let (name, bytes) = (row.name, row.bytes());
        let datagram = Datagram::parse(&bytes).expect(name);
        let message = Message::parse(datagram.payload, datagram.source.is_ipv4()).expect(name);
        let addresses = message.addresses().collect::<Vec<_>>();
        assert_eq!(addresses, row.advert.addresses, "{name}: order");
        assert_eq!(message.vrid(), Some(row.advert.vrid), "{name}");
        assert_eq!(datagram.vrid(), Some(51), "{name}");
        assert_eq!(datagram.ttl, row.envelope.ttl, "{name}");
        let want = Received {
            source: row.envelope.source,
            priority: row.advert.priority,
            interval: row.advert.interval,
            checksum: row.envelope.checksum,
            same_addresses: true,
            told: false,
            sequence: matches!(row.advert.auth, Auth::Ah(_)).then_some(row.sequence),
            trailer: None,
        };
        assert_eq!(row.demand().check(&bytes), Ok(want), "{name}");
    }
}

#[test]
fn every_vector_has_a_row_or_is_no_advert() {
    let rows: Vec<_> = rows().iter().map(|row| row.name).collect();
    for (name, _) in vectors::ALL {
        let link_layer = name.starts_with("garp") || name.starts_with("na");
        assert_eq!(rows.contains(name), !link_layer, "{name}");
        if link_layer {
            let error = Datagram::parse(&vectors::datagram(name)).expect_err(name);
            let want = if name.starts_with("na") { Reason::IpProtocol } else { Reason::IpHeader };
            assert_eq!(error, want, "{name}");
        }
    }
}

// PKT-14: only the Ethernet source differs, which is the interface's own.
#[test]
fn virtual_mac_changes_the_frame_and_not_the_datagram() {
    assert_eq!(vectors::datagram("v2-vmac"), vectors::datagram("v2-none"));
    assert_eq!(vectors::datagram("v3-ipv4-vmac"), vectors::datagram("v3-ipv4"));
    let payload = |name| vectors::datagram(name)[40..].to_vec();
    assert_eq!(payload("v3-ipv6-vmac"), payload("v3-ipv6"));
}

// PKT-09
#[test]
fn padding_is_tolerated_and_every_missing_byte_is_not() {
    for row in rows() {
        let (name, bytes, demand) = (row.name, row.bytes(), row.demand());
        for padding in 1..=46 {
            let mut padded = bytes.clone();
            padded.resize(bytes.len() + padding, 0xa5);
            assert!(demand.check(&padded).is_ok(), "{name} with {padding} more");
        }
        for len in 0..bytes.len() {
            assert_eq!(demand.check(&bytes[..len]), Err(Reason::IpTruncated), "{name} {len}");
        }
    }
}

// PKT-09
#[test]
fn length_must_equal_what_the_count_says() {
    for row in rows().iter().filter(|row| row.envelope.source.is_ipv4()) {
        let (name, bytes, demand) = (row.name, row.bytes(), row.demand());
        let payload = &bytes[20..];
        let ah = matches!(row.advert.auth, Auth::Ah(_));
        for len in 0..payload.len() {
            let got = demand.check(&with_payload(&bytes, &payload[..len]));
            assert_eq!(got, Err(Reason::TooShort), "{name} cut to {len}");
        }
        for more in 1..=60 {
            let mut long = payload.to_vec();
            long.resize(payload.len() + more, 0);
            let want = if more == 28 { Reason::HmacTrailer } else { Reason::TooLong };
            assert_eq!(demand.check(&with_payload(&bytes, &long)), Err(want), "{name} +{more}");
        }
        assert!(!ah || payload.len() == 24 + 20, "{name}");
    }
}

// PKT-09
#[test]
fn ipv6_length_must_equal_what_the_count_says() {
    for row in rows().iter().filter(|row| row.envelope.source.is_ipv6()) {
        let (name, bytes, demand) = (row.name, row.bytes(), row.demand());
        let with_len = |len: usize| {
            let mut out = bytes.clone();
            out.resize(40 + len, 0);
            out[4..6].copy_from_slice(&u16::try_from(len).expect("short").to_be_bytes());
            out
        };
        let len = bytes.len() - 40;
        for short in 0..len {
            assert_eq!(demand.check(&with_len(short)), Err(Reason::TooShort), "{name} {short}");
        }
        for more in 1..=60 {
            let want = if more == 28 { Reason::HmacTrailer } else { Reason::TooLong };
            assert_eq!(demand.check(&with_len(len + more)), Err(want), "{name} +{more}");
        }
    }
}

// PKT-10 PKT-12 RX-04 AUT-05
#[test]
fn every_flipped_bit_is_noticed() {
    for row in rows() {
        let (name, bytes, demand) = (row.name, row.bytes(), row.demand());
        // IPv6 has no header checksum: version to flow label, and hop limit to unicast peers, are
        // not covered by anything.
        let v6 = row.envelope.source.is_ipv6();
        let multicast = row.envelope.destination.is_multicast();
        for bit in 0..bytes.len() * 8 {
            let byte = bit / 8;
            let mut bad = bytes.clone();
            bad[byte] ^= 1 << (bit % 8);
            let uncovered = v6 && (byte < 4 && bit != 6 && bit != 5 || byte == 7 && !multicast);
            let refused = demand.check(&bad).is_err();
            // Version 6 with another bit is 4, 2, 14 or 7.
            let version = v6 && byte == 0 && bit >= 4;
            assert_eq!(refused, !uncovered || version, "{name} bit {bit}");
        }
    }
}

// PKT-16
#[test]
fn more_addresses_than_fit_are_not_sent() {
    let many: Vec<IpAddr> =
        (0..300u16).map(|n| Ipv4Addr::from(0x0a00_0000 + u32::from(n)).into()).collect();
    let advert = Advert { addresses: many, ..advert(Version::V3, 100, &[]) };
    let bytes = advert.message(OWN.into(), GROUP.into(), ChecksumForm::PseudoHeader);
    let message = Message::parse(&bytes, true).expect("sound");
    assert_eq!(message.addresses().count(), ADDRESS_LIMIT);
}

// PKT-16
#[test]
fn the_mtu_bounds_the_list() {
    use Version::{V2, V3};
    let (none, ah) = (Auth::None, Auth::Ah(S3CRET));
    for (version, ipv4, auth, trailer, mtu, want) in [
        (V2, true, none, false, 1500, 255),
        (V3, true, none, false, 1500, 255),
        (V2, true, none, false, 576, 135),
        (V2, true, ah, false, 576, 129),
        (V3, true, none, true, 576, 130),
        (V3, false, none, false, 1500, 90),
        (V3, false, none, true, 1500, 89),
        (V2, false, none, false, 1500, 90),
        (V3, false, none, false, 1280, 77),
        (V3, false, none, false, 9000, 255),
        (V2, true, none, false, 68, 8),
        (V2, true, ah, false, 30, 0),
        (V3, true, none, false, u32::MAX, 255),
    ] {
        let got = capacity(version, ipv4, auth, trailer, mtu);
        assert_eq!(got, want, "{version:?} {ipv4} {trailer} {mtu}");
        let list = |n: usize| (0..n).map(|_| if ipv4 { ip("10.0.0.1") } else { ip("fd00::1") });
        let advert = Advert { auth, addresses: list(got).collect(), ..advert(version, 100, &[]) };
        let (source, destination) =
            if ipv4 { (OWN.into(), GROUP.into()) } else { (ip("fe80::1"), GROUP_V6.into()) };
        let checksum = ChecksumForm::PseudoHeader;
        let envelope = Envelope { source, destination, ttl: 255, id: 1, flow_label: 0, checksum };
        let key = hmac::Key { id: 1, secret: hmac::Secret::Bytes(vec![7; 32]) };
        let seal = Seal { sequence: 1, trailer: trailer.then_some((&key, 1)) };
        let len = advert.datagram(&envelope, seal).len();
        let fits = u32::try_from(len).is_ok_and(|len| len <= mtu);
        assert!(fits || got == 0, "{len} bytes, MTU {mtu}");
    }
}
