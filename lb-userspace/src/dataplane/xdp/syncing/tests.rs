use lb_common::abi::{METHOD_DR, be32};

use super::*;

const TICK: Duration = Duration::from_millis(4);

fn real(method: u8) -> Real {
    let real = Real { generation: 7, gate: 1, method, service: 1, ..Real::default() };
    let addr = |octets| Addr::v4(be32(octets));
    real.with_nat(addr([192, 0, 2, 1]), be16(3306), addr([10, 0, 0, 5]), be16(3307))
}

fn key() -> FlowKey6 {
    let end = |addr, port| (Addr::v4(be32(addr)), be16(port));
    FlowKey6::tcp(end([198, 51, 100, 9], 40000), end([192, 0, 2, 1], 3306))
}

/// Through a record to another host, whose real server has another id and generation.
#[test]
fn an_entry_comes_out_as_it_went_in() {
    for method in [METHOD_DR, METHOD_NAT] {
        for bits in 0..32u16 {
            let bit = |at: u16, flag: u16| if bits >> at & 1 != 0 { flag } else { 0 };
            let flow = Entry {
                last_seen: 1000,
                generation: 7,
                real: 3,
                flags: bit(0, FLOW_FIN) | bit(1, FLOW_RST) | bit(4, FLOW_MIDSTREAM),
                seq_end: 11,
                ack: 12,
                macs: [1, 2, 3],
                ifindex: 4,
                packets: 5,
                bytes: 6,
                created: 250,
            };
            let flags = FLOW_REVERSE | bit(2, FLOW_FIN) | bit(3, FLOW_RST);
            let back = Entry { flags, seq_end: 21, ack: 22, last_seen: 900, ..flow };
            let back = (method == METHOD_NAT).then_some(back);
            let told = describe(&key(), &flow, back.as_ref(), &real(method), 2000, TICK);
            assert_eq!(told.idle_ms, 4000);
            assert_eq!(told.age_s, 7);
            assert_eq!(map_key(&told.key), Some(key()));
            assert_eq!(told.server.to_string(), "10.0.0.5:3307");
            let there = Real { generation: 9, ..real(method) };
            let (entered, replies) = entries(&told, 8, &there, None, 5000, TICK);
            let wanted = Entry {
                last_seen: 4000,
                generation: 9,
                real: 8,
                macs: [0; 3],
                ifindex: 0,
                packets: 0,
                bytes: 0,
                created: 3250,
                ..flow
            };
            assert_eq!(entered, wanted);
            let wanted =
                back.map(|back| Entry { flags: back.flags, seq_end: 21, ack: 22, ..wanted });
            assert_eq!(replies, wanted);
            // One that knows the client's way keeps it.
            let (kept, _) = entries(&told, 8, &there, Some(&flow), 5000, TICK);
            assert_eq!((kept.macs, kept.ifindex, kept.packets), (flow.macs, flow.ifindex, 0));
        }
    }
}

/// One host has NAT and the other DR: a mistake in a file, and no reason to lose the connection.
#[test]
fn methods_may_differ() {
    let flow = Entry { seq_end: 11, ack: 12, generation: 7, ..Entry::default() };
    let told = describe(&key(), &flow, None, &real(METHOD_DR), 2000, TICK);
    let (_, replies) = entries(&told, 8, &real(METHOD_NAT), None, 2000, TICK);
    let replies = replies.expect("NAT has them");
    assert_eq!((replies.seq_end, replies.ack), (12, 11));
    assert_eq!(replies.flags, FLOW_REVERSE);
}

/// A host that has been up for a shorter time than a connection was idle.
#[test]
fn an_idle_time_from_before_the_boot_is_no_underflow() {
    let mut told = describe(&key(), &Entry::default(), None, &real(METHOD_DR), 2000, TICK);
    told.idle_ms = u32::MAX;
    told.age_s = u32::MAX;
    let (entered, _) = entries(&told, 8, &real(METHOD_DR), None, 5000, TICK);
    assert_eq!((entered.last_seen, entered.created), (1, 1));
}

#[test]
fn a_change_is_read_as_it_is_laid_out() {
    let mut bytes = Vec::new();
    bytes.extend(Addr::v4(be32([198, 51, 100, 9])).octets());
    bytes.extend(Addr::v4(be32([192, 0, 2, 1])).octets());
    bytes.extend(40000u16.to_be_bytes());
    bytes.extend(3306u16.to_be_bytes());
    bytes.extend(6u16.to_ne_bytes());
    bytes.extend([0; 2]);
    assert_eq!(read(&bytes), Some(key()));
    assert_eq!(read(&bytes[..39]), None);
}

#[test]
fn what_is_not_forwarded_is_named() {
    let told = describe(&key(), &Entry::default(), None, &real(METHOD_DR), 2000, TICK).key;
    assert_eq!(map_key(&Key { protocol: 17, ..told }), None);
    let vip = "[2001:db8::1]:3306".parse().expect("an address");
    assert_eq!(map_key(&Key { vip, ..told }), None, "of two families");
    let client = "[2001:db8::9]:40000".parse().expect("an address");
    let both = FlowKey6::tcp(end(client), end(vip));
    assert_eq!(map_key(&Key { vip, client, ..told }), Some(both));
}
