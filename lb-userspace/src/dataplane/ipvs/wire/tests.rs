//! Round trips, what ipvsadm writes, and bytes of chance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_-]{0,14}"
}

fn service_key() -> impl Strategy<Value = ServiceKey> {
    prop_oneof![
        (prop_oneof![Just(6_u8), Just(17), Just(132)], address(), any::<u16>())
            .prop_map(|(protocol, addr, port)| ServiceKey::Address { protocol, addr, port }),
        (any::<u32>(), any::<bool>()).prop_map(|(mark, ipv6)| ServiceKey::Mark { mark, ipv6 }),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    (service_key(), name(), any::<u32>(), any::<u32>(), 0..=128_u8, proptest::option::of(name()))
        .prop_map(|(key, scheduler, flags, timeout, prefix, engine)| {
            let prefix = if key.is_ipv6() { prefix } else { prefix.min(32) };
            Service { key, scheduler, flags, timeout, prefix, engine }
        })
}

fn dest_key() -> impl Strategy<Value = DestKey> {
    (address(), any::<u16>()).prop_map(|(addr, port)| DestKey { addr, port })
}

fn dest() -> impl Strategy<Value = Dest> {
    let tunnel = (any::<u8>(), any::<u16>(), any::<u16>())
        .prop_map(|(kind, port, flags)| Forward::Tunnel(Tunnel { kind, port, flags }));
    let forward = prop_oneof![
        Just(Forward::Masquerade),
        Just(Forward::Local),
        tunnel,
        Just(Forward::Direct),
        Just(Forward::Bypass),
    ];
    (dest_key(), forward, any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(key, forward, weight, upper, lower)| Dest { key, forward, weight, upper, lower },
    )
}

fn daemon_key() -> impl Strategy<Value = DaemonKey> {
    let state = prop_oneof![Just(DaemonState::Master), Just(DaemonState::Backup)];
    (state, name(), any::<u32>()).prop_map(|(state, interface, sync_id)| DaemonKey {
        state,
        interface,
        sync_id,
    })
}

fn daemon() -> impl Strategy<Value = Daemon> {
    let group = (address(), any::<u16>(), any::<u8>()).prop_map(|(group, port, ttl)| DaemonGroup {
        group,
        port,
        ttl,
    });
    (daemon_key(), any::<u16>(), proptest::option::of(group))
        .prop_map(|(key, max_length, group)| Daemon { key, max_length, group })
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(tcp, tcp_fin, udp)| Timeouts {
        tcp,
        tcp_fin,
        udp,
    })
}

fn stats() -> impl Strategy<Value = Stats> {
    any::<[u64; 5]>().prop_map(|[connections, in_packets, out_packets, in_bytes, out_bytes]| {
        Stats { connections, in_packets, out_packets, in_bytes, out_bytes }
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        service().prop_map(Request::NewService),
        service().prop_map(Request::SetService),
        service_key().prop_map(Request::DelService),
        service_key().prop_map(Request::GetService),
        Just(Request::GetServices),
        (service_key(), dest()).prop_map(|(key, dest)| Request::NewDest(key, dest)),
        (service_key(), dest()).prop_map(|(key, dest)| Request::SetDest(key, dest)),
        (service_key(), dest_key()).prop_map(|(key, dest)| Request::DelDest(key, dest)),
        service_key().prop_map(Request::GetDests),
        daemon().prop_map(Request::NewDaemon),
        daemon_key().prop_map(Request::DelDaemon),
        Just(Request::GetDaemons),
        timeouts().prop_map(Request::SetConfig),
        Just(Request::GetConfig),
        Just(Request::GetInfo),
        proptest::option::of(service_key()).prop_map(Request::Zero),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let entry = (dest(), any::<[u32; 3]>(), stats()).prop_map(|(dest, counts, stats)| {
        let [active, inactive, persistent] = counts;
        Answer::Dest(DestEntry { dest, active, inactive, persistent, stats })
    });
    prop_oneof![
        (service(), stats())
            .prop_map(|(service, stats)| Answer::Service(ServiceEntry { service, stats })),
        entry,
        daemon().prop_map(Answer::Daemon),
        timeouts().prop_map(Answer::Config),
        (any::<u32>(), any::<u32>())
            .prop_map(|(version, table_size)| Answer::Info(Info { version, table_size })),
    ]
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(request in request()) {
        prop_assert_eq!(Request::decode(&request.encode(), request.is_dump()), Ok(request));
    }

    #[test]
    fn an_answer_is_read_as_it_was_written(answer in answer()) {
        prop_assert_eq!(Answer::decode(&answer.encode(), None), Ok(answer));
    }

    #[test]
    fn what_is_cut_off_is_refused_or_means_something_whole(
        answer in answer(), at in any::<prop::sample::Index>()
    ) {
        let mut message = answer.encode();
        message.attributes.truncate(at.index(message.attributes.len() + 1));
        let _ = Answer::decode(&message, None);
        let _ = Request::decode(&message, false);
    }

    #[test]
    fn bytes_of_chance_never_panic(
        command in 0_u8..20, attributes in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        let message = Message { command, attributes };
        let _ = Answer::decode(&message, None);
        let _ = Request::decode(&message, true);
    }

    /// Damage in the midst of a message that was sound, which chance alone would not reach.
    #[test]
    fn damaged_answers_never_panic(
        answer in answer(), damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut message = answer.encode();
        for (at, byte) in damage {
            let at = at.index(message.attributes.len().max(1));
            if let Some(place) = message.attributes.get_mut(at) {
                *place = byte;
            }
        }
        let _ = Answer::decode(&message, None);
    }
}

#[test]
fn a_destination_without_a_family_has_its_service_s() {
    let key = ServiceKey::Address { protocol: 6, addr: [192, 0, 2, 1].into(), port: 80 };
    let dest = DestKey { addr: [198, 51, 100, 1].into(), port: 80 };
    let mut message = Request::DelDest(key, dest).encode();
    // The attribute ADDR_FAMILY becomes one that nobody knows.
    let at = message.attributes.windows(2).rposition(|pair| pair == 11_u16.to_ne_bytes());
    let at = at.expect("it is there");
    message.attributes[at] = 99;
    assert_eq!(Request::decode(&message, false), Ok(Request::DelDest(key, dest)));
}

#[test]
fn a_netmask_with_holes_is_named() {
    let key = ServiceKey::Mark { mark: 7, ipv6: false };
    let service =
        Service { key, scheduler: "rr".into(), flags: 0, timeout: 0, prefix: 24, engine: None };
    let mut message = Request::NewService(service).encode();
    let mask = [255, 255, 255, 0];
    let at = message.attributes.windows(4).rposition(|four| four == mask).expect("it is there");
    message.attributes[at + 1] = 0;
    let error = Request::decode(&message, false).expect_err("it has a hole");
    assert!(error.to_string().starts_with("a service's netmask cannot be"), "{error}");
}

/// Everything that ipvsadm and the kernel said in the recording.
fn recorded() -> impl Iterator<Item = (bool, bool, Message, &'static str)> {
    let lines = include_str!("recorded.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().expect("four words");
        let (kind, dump, hex, command) = (word(), word(), word(), word());
        let digit = |pair: &[u8]| {
            u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex")
        };
        let bytes: Vec<u8> = hex.as_bytes().chunks(2).map(digit).collect();
        assert_eq!(bytes[1], VERSION, "{line}");
        let message = Message { command: bytes[0], attributes: bytes[4..].to_vec() };
        (kind == "request", dump == "dump", message, command)
    })
}

#[test]
fn what_ipvsadm_says_is_understood() {
    let mut said = String::new();
    let mut last = "";
    for (request, dump, message, command) in recorded() {
        if command != std::mem::replace(&mut last, command) {
            said += &format!("$ {command}\n");
        }
        if request {
            let request = Request::decode(&message, dump).expect(command);
            assert_eq!(request.is_dump(), dump, "{command}");
            assert_eq!(Request::decode(&request.encode(), dump).as_ref(), Ok(&request));
            said += &format!("  > {request:?}\n");
        } else {
            let answer = Answer::decode(&message, None).expect(command);
            assert_eq!(Answer::decode(&answer.encode(), None).as_ref(), Ok(&answer));
            said += &format!("  < {answer:?}\n");
        }
    }
    insta::assert_snapshot!(said);
}

/// Beyond meaning the same, a service is written as ipvsadm writes it, byte for byte.
#[test]
fn a_service_is_written_as_ipvsadm_writes_it() {
    let mut seen = 0;
    for (request, dump, message, command) in recorded() {
        if request && matches!(message.command, command::NEW_SERVICE | command::SET_SERVICE) {
            let ours = Request::decode(&message, dump).expect(command).encode();
            assert_eq!(ours, message, "{command}");
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen} of them");
}
