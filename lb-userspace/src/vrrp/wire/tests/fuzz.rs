//! Bytes of the network: no panic, no read outside, and what we send arrives.

use proptest::prelude::*;

use super::*;

/// Every kind of instance.
fn demands() -> Vec<Demand> {
    let key = hmac::Key { id: 1, secret: hmac::Secret::Bytes(vec![7; 32]) };
    let hmac =
        hmac::Hmac { keys: vec![key], active: 1, window: Some(5), mode: hmac::Mode::Permissive };
    let mut demands: Vec<_> = rows().iter().map(Row::demand).collect();
    let signed = demands.clone().into_iter().map(|mut demand| {
        demand.options.hmac = Some(hmac.clone());
        demand
    });
    let signed: Vec<_> = signed.collect();
    demands.extend(signed);
    demands
}

fn decode_all(bytes: &[u8], demands: &[Demand]) {
    for demand in demands {
        let _ = demand.check(bytes);
    }
    for ipv4 in [true, false] {
        if let Ok(message) = Message::parse(bytes, ipv4) {
            let _ = (message.addresses().count(), message.auth(), message.interval());
            let _ = message.trailer().map(|trailer| trailer.sequence());
            assert!(message.bytes().len() <= bytes.len());
        }
    }
    if let Ok(datagram) = Datagram::parse(bytes) {
        let _ = datagram.auth_header.map(|it| (it.spi(), it.sequence(), it.icv().len()));
        assert!(datagram.payload.len() < bytes.len());
    }
}

// RX-03
#[test]
fn every_prefix_of_every_vector_is_decoded_without_panic() {
    let demands = demands();
    for (name, _) in vectors::ALL {
        let bytes = vectors::datagram(name);
        for len in 0..=bytes.len() {
            decode_all(&bytes[..len], &demands);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases * 3 / 2))]

    // RX-03
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&bytes, &demands());
    }

    // RX-03: sound IP headers, so that the message decoders are reached.
    #[test]
    fn arbitrary_payloads_never_panic(
        payload in prop::collection::vec(any::<u8>(), 0..200), base in 0..rows().len(), first: u8,
    ) {
        let base = rows()[base].bytes();
        let mut payload = payload;
        // Half of the time with a plausible beginning.
        if first.is_multiple_of(2) && let Some(byte) = payload.first_mut() {
            *byte = if first.is_multiple_of(4) { 0x21 } else { 0x31 };
        }
        let bytes = if base[0] >> 4 == 4 {
            let mut bytes = base[..20].to_vec();
            // The authentication header stays in front.
            if bytes[9] == PROTOCOL_AH && first > 99 {
                bytes.extend(&base[20..44]);
            }
            let header = bytes.len();
            bytes.extend(&payload);
            with_payload(&bytes[..20], &bytes[20.min(header)..])
        } else {
            let mut bytes = base[..40].to_vec();
            bytes[4..6].copy_from_slice(&u16::try_from(payload.len()).expect("short").to_be_bytes());
            bytes.extend(&payload);
            bytes
        };
        decode_all(&bytes, &demands());
    }

    // RX-03
    #[test]
    fn changed_vectors_never_panic(
        which in 0..rows().len(), edits in prop::collection::vec((0..100usize, any::<u8>()), 1..6),
    ) {
        let mut bytes = rows()[which].bytes();
        for (at, value) in edits {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        if bytes[0] >> 4 == 4 && bytes[0] & 0xf >= 5 && usize::from(bytes[0] & 0xf) * 4 <= bytes.len() {
            repair_ip(&mut bytes);
        }
        decode_all(&bytes, &demands());
    }

    #[test]
    fn what_we_send_is_what_arrives(
        v3: bool, v6: bool, unicast: bool, priority: u8, vrid in 1..=255u8, centis in 1..=4095u16,
        seconds in 1..=255u8, pass: Option<[u8; 8]>, ah: bool, sequence in 1..u32::MAX,
        last in prop::collection::vec(any::<u8>(), 1..40), id: u16, signed: bool, unix in 1..1u64 << 31,
    ) {
        let v3 = v3 || v6;
        let version = if v3 { Version::V3 } else { Version::V2 };
        let interval = if v3 { AdvertInterval::from_centis(centis) } else { AdvertInterval::from_seconds(seconds) };
        let auth = match pass {
            Some(pass) if !v3 && ah => Auth::Ah(pass),
            Some(pass) if !v3 => Auth::Pass(pass),
            _ => Auth::None,
        };
        let addresses: Vec<IpAddr> = last.iter().map(|last| if v6 {
            IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, u16::from(*last)])
        } else {
            IpAddr::from([10, 77, 0, *last])
        }).collect();
        let advert = Advert {
            version, vrid: Vrid::new(vrid).expect("nonzero"), priority: Priority(priority),
            interval: interval.expect("in range"), auth, addresses, told: false,
        };
        let (source, group, peer) = if v6 {
            (ip("fe80::1"), GROUP_V6.into(), ip("fe80::2"))
        } else {
            (OWN.into(), GROUP.into(), PEER.into())
        };
        let envelope = Envelope {
            source, destination: if unicast { peer } else { group }, ttl: 255, id, flow_label: 7,
            checksum: ChecksumForm::PseudoHeader,
        };
        let key = hmac::Key { id: 3, secret: hmac::Secret::Bytes(vec![9; 64]) };
        let hmac = hmac::Hmac { keys: vec![key.clone()], active: 3, window: Some(1), mode: hmac::Mode::Enforce };
        let number = (unix << 32) | 77;
        let seal = Seal { sequence, trailer: signed.then_some((&key, number)) };
        let bytes = advert.datagram(&envelope, seal);
        let demand = Demand {
            advert: advert.clone(),
            options: Options { ipv6: v6, hmac: signed.then_some(hmac), ..Options::default() },
            peers: if unicast { vec![source] } else { vec![] }, own: Some(peer), sequence: 0, heard: 0,
            state: hmac::State::default(), unix: Duration::from_secs(unix),
        };
        let got = demand.check(&bytes).expect("accepted");
        prop_assert_eq!(got.priority, advert.priority);
        prop_assert_eq!(got.interval, advert.interval);
        prop_assert!(got.same_addresses);
        prop_assert_eq!(got.trailer, signed.then_some(number));
        prop_assert_eq!(got.sequence, matches!(auth, Auth::Ah(_)).then_some(sequence));
        // And a bit of it, wherever it is.
        if signed {
            for bit in 0..(bytes.len() - 40) * 8 {
                let mut bad = bytes.clone();
                let at = bad.len() - 1 - bit / 8;
                bad[at] ^= 1 << (bit % 8);
                prop_assert!(demand.check(&bad).is_err(), "byte {}", at);
            }
        }
    }
}
