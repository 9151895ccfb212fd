use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use crate::sync::{
    Flow, Key, Numbers, Record, Reject,
    record::LONGEST,
    state,
    wire::{Body, CODE, DATAGRAM, Datagram, ECHOES, ROOM, Wanted, open, seal},
};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

fn addr(v6: bool) -> impl Strategy<Value = SocketAddr> {
    let ip = match v6 {
        false => any::<[u8; 4]>().prop_map(IpAddr::from).boxed(),
        true => any::<[u8; 16]>().prop_map(IpAddr::from).boxed(),
    };
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn flow() -> impl Strategy<Value = Flow> {
    (any::<bool>(), any::<bool>()).prop_flat_map(|(v6, server_v6)| {
        let numbers = any::<(u32, u32)>().prop_map(|(seq_end, ack)| Numbers { seq_end, ack });
        let words = (any::<u8>(), 0..=state::ALL, any::<u32>(), any::<u32>());
        let ends = (addr(v6), addr(v6), addr(server_v6));
        (ends, words, numbers.clone(), proptest::option::of(numbers)).prop_map(
            |(
                (client, vip, server),
                (protocol, state, idle_ms, age_s),
                client_numbers,
                replies,
            )| {
                let key = Key { protocol, client, vip };
                Flow { key, server, state, idle_ms, age_s, client: client_numbers, replies }
            },
        )
    })
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        flow().prop_map(Record::Open),
        flow().prop_map(Record::Refresh),
        flow().prop_map(Record::Close),
        Just(Record::Begin),
        Just(Record::End),
        (any::<u8>(), any::<bool>().prop_flat_map(addr))
            .prop_map(|(protocol, vip)| Record::Covers(protocol, vip)),
    ]
}

fn datagram() -> impl Strategy<Value = Datagram> {
    let body = prop_oneof![
        (any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u64>(), 0..=ECHOES))
            .prop_map(|(head, oldest, heard)| Body::Hello { head, oldest, heard }),
        proptest::collection::vec(record(), 0..ROOM / LONGEST).prop_map(Body::Data),
        (any::<u64>(), 1..=u64::MAX, 1..=64u16).prop_map(|(of, from, count)| Body::Request {
            of,
            what: Wanted::Again { from, count }
        }),
        any::<u64>().prop_map(|of| Body::Request { of, what: Wanted::Full }),
    ];
    (any::<u64>(), any::<u64>(), body).prop_map(|(session, number, body)| Datagram {
        session,
        number,
        body,
    })
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(datagram in datagram()) {
        let bytes = seal(KEY, &datagram);
        prop_assert!(bytes.len() <= DATAGRAM);
        prop_assert_eq!(open(KEY, &bytes), Ok(datagram));
        prop_assert_eq!(open(&KEY[1..], &bytes), Err(Reject::Forged));
    }

    #[test]
    fn a_record_is_as_long_as_it_says(record in record(), tail in any::<[u8; 3]>()) {
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        prop_assert!(bytes.len() <= LONGEST);
        for cut in 0..bytes.len() {
            prop_assert_eq!(Record::read(&mut &bytes[..cut]), None);
        }
        bytes.extend(tail);
        let mut rest = &bytes[..];
        prop_assert_eq!(Record::read(&mut rest), Some(record));
        prop_assert_eq!(rest, &tail);
    }

    /// Every single bit, and every cut.
    #[test]
    fn no_bit_can_be_changed(datagram in datagram(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let bytes = seal(KEY, &datagram);
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(open(KEY, &changed).is_err());
        prop_assert!(open(KEY, &bytes[..at.index(bytes.len())]).is_err());
    }
}

/// Signed by whoever has the key, and wrong all the same.
#[test]
fn each_reason_is_reached_by_its_octets() {
    let hello = Datagram {
        session: 1,
        number: 1,
        body: Body::Hello { head: 0, oldest: 1, heard: vec![7] },
    };
    let signed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = seal(KEY, &hello);
        bytes.truncate(bytes.len() - CODE);
        change(&mut bytes);
        let code = hmac::Hmac::<sha2::Sha256>::new_from_slice(KEY).expect("any length");
        let code = code.chain_update(&bytes).finalize().into_bytes();
        bytes.extend(code);
        open(KEY, &bytes).expect_err("refused")
    };
    use hmac::Mac as _;
    assert_eq!(open(KEY, &[0; DATAGRAM + 1]), Err(Reject::Length));
    assert_eq!(open(KEY, &[0; CODE - 1]), Err(Reject::Length));
    assert_eq!(signed(&|bytes| bytes.truncate(23)), Reject::Length);
    assert_eq!(signed(&|bytes| bytes[0] = b'x'), Reject::Magic);
    assert_eq!(signed(&|bytes| bytes[4] = 2), Reject::Version);
    assert_eq!(signed(&|bytes| bytes[5] = 9), Reject::Malformed, "kind");
    assert_eq!(signed(&|bytes| bytes[6] = 1), Reject::Malformed, "zero");
    assert_eq!(signed(&|bytes| bytes[40] = 17), Reject::Malformed, "more echoes than there are");
    assert_eq!(signed(&|bytes| bytes.push(0)), Reject::Malformed, "a tail");
    assert_eq!(signed(&|bytes| bytes.truncate(44)), Reject::Malformed, "cut");
    let ask = |from, count| Datagram {
        session: 1,
        number: 1,
        body: Body::Request { of: 1, what: Wanted::Again { from, count } },
    };
    for (from, count) in [(0, 1), (1, 0), (1, 65)] {
        assert_eq!(open(KEY, &seal(KEY, &ask(from, count))), Err(Reject::Malformed));
    }
}
