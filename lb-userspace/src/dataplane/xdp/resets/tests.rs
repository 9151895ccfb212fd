use lb_common::abi::{Addr, METHOD_LOCAL, STATE_DRAIN, STATE_UP, Vip, be16, be32, macs};

use super::*;

const DR: u16 = 7;
const NAT: u16 = 8;
const TUN: u16 = 9;
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 3];

fn image() -> Image {
    let mut image = Image::default();
    let vip = Addr::v4(be32([192, 0, 2, 1]));
    image.vips.insert(vip, Vip { gate: 4, flags: 1 });
    let real = Real {
        generation: 6,
        gate: 4,
        state: STATE_DOWN,
        method: METHOD_DR,
        service: 1,
        flags: FLAG_RESOLVED,
        macs: macs(SERVER, OURS),
        ifindex: 12,
        addr: Addr::v4(be32([10, 0, 0, 1])),
        port: be16(3307),
        vip,
        vip_port: be16(3306),
        ..Real::default()
    };
    image.reals.insert(DR, real);
    image.reals.insert(NAT, Real { method: METHOD_NAT, ..real });
    let by_tunnel = Real { method: METHOD_TUN, ..real };
    image.reals.insert(TUN, by_tunnel.with_tunnel(Addr::v4(be32([10, 0, 0, 9])), 1500));
    image
}

fn key() -> FlowKey6 {
    FlowKey6 {
        src: Addr::v4(be32([192, 0, 2, 99])),
        dst: Addr::v4(be32([192, 0, 2, 1])),
        sport: be16(40_000),
        dport: be16(3306),
        proto: 6,
        pad: 0,
    }
}

fn flow(real: u16) -> Flow {
    Flow {
        generation: 5,
        real,
        seq_end: 1000,
        ack: 0,
        macs: macs(CLIENT, OURS),
        ifindex: 11,
        ..Flow::default()
    }
}

fn kinds(flow: &Flow, image: &Image, first: bool) -> Vec<Kind> {
    notices(&key(), flow, image, first).map(|notice| notice.kind).collect()
}

#[test]
fn both_ends_are_told_each_by_the_numbers_that_it_expects() {
    let vip: SocketAddr = "192.0.2.1:3306".parse().expect("socket");
    let client: SocketAddr = "192.0.2.99:40000".parse().expect("socket");
    let header = |to: [u8; 6]| -> [u8; 12] {
        let mut header = [0; 12];
        header[..6].copy_from_slice(&to);
        header[6..].copy_from_slice(&OURS);
        header
    };
    let ends = (IpAddr::from([10, 0, 0, 9]), IpAddr::from([10, 0, 0, 1]));
    for (real, server, tunnel) in [
        (DR, vip, None),
        (NAT, "10.0.0.1:3307".parse().expect("socket"), None),
        (TUN, vip, Some(ends)),
    ] {
        let told: Vec<_> = notices(&key(), &flow(real), &image(), true).collect();
        let probe = Notice {
            kind: Kind::Probe,
            gate: 4,
            from: vip,
            to: client,
            // Below what the client acknowledged, wrapped around.
            seq: u32::MAX,
            ack: 1000,
            macs: header(CLIENT),
            ifindex: 11,
            tunnel: None,
        };
        let reset = Notice {
            kind: Kind::Reset,
            gate: 4,
            from: client,
            to: server,
            seq: 1000,
            ack: 0,
            macs: header(SERVER),
            ifindex: 12,
            tunnel,
        };
        assert_eq!(told, [probe, reset], "{real}");
    }
}

#[test]
fn who_is_told_and_who_is_not() {
    use Kind::{Probe, Reset};
    let both = [Probe, Reset];
    type Change = fn(&mut Flow, &mut Image);
    let of =
        |image: &mut Image, change: fn(&mut Real)| change(image.reals.get_mut(&DR).expect("DR"));
    // name, change, in the first round, in a later one
    let rows: &[(&str, Change, &[Kind], &[Kind])] = &[
        ("dead", |_, _| {}, &both, &both),
        ("the client knows, its server may not", |f, _| f.flags = FLOW_RESET, &[Reset], &[]),
        (
            "alive",
            |f, i| {
                f.generation = 6;
                i.reals.get_mut(&DR).expect("DR").state = STATE_UP;
            },
            &[],
            &[],
        ),
        (
            "drains",
            |f, i| {
                f.generation = 6;
                i.reals.get_mut(&DR).expect("DR").state = STATE_DRAIN;
            },
            &[],
            &[],
        ),
        (
            "kept",
            |f, i| {
                f.generation = 6;
                i.reals.get_mut(&DR).expect("DR").flags |= FLAG_KEEP;
            },
            &[],
            &[],
        ),
        ("down within its generation", |f, _| f.generation = 6, &both, &both),
        (
            "removed",
            |f, i| {
                f.generation = 6;
                i.reals.get_mut(&DR).expect("DR").state = STATE_ABSENT;
            },
            &both,
            &both,
        ),
        ("the client has ended it", |f, _| f.flags = FLOW_FIN, &[], &[]),
        ("one of both has reset it", |f, _| f.flags = FLOW_RST, &[], &[]),
        ("entry of the replies", |f, _| f.flags = FLOW_REVERSE, &[], &[]),
        ("unknown id", |f, _| f.real = 99, &[], &[]),
        ("VIP that is nobody's", |_, i| i.vips.clear(), &[], &[]),
        (
            "removed, and the VIP is another instance's by now",
            |f, i| {
                f.generation = 6;
                i.reals.get_mut(&DR).expect("DR").state = STATE_ABSENT;
                i.vips.values_mut().for_each(|vip| vip.gate = 5);
            },
            &[],
            &[],
        ),
    ];
    for (name, change, first, later) in rows {
        let (mut flow, mut image) = (flow(DR), image());
        change(&mut flow, &mut image);
        assert_eq!(kinds(&flow, &image, true), *first, "{name}");
        assert_eq!(kinds(&flow, &image, false), *later, "{name}, later");
    }
    type Before<'a> = (&'a str, fn(&mut Real), &'a [Kind]);
    let rows: [Before<'_>; 4] = [
        ("id of another virtual server", |real| real.vip_port = be16(3309), &[]),
        ("no way to the server", |real| real.flags = 0, &[Probe]),
        ("this host", |real| real.method = METHOD_LOCAL, &[Probe]),
        ("back up", |real| real.state = STATE_UP, &both),
    ];
    for (name, change, told) in rows {
        let mut image = image();
        of(&mut image, change);
        assert_eq!(kinds(&flow(DR), &image, true), told, "{name}");
    }
}

#[test]
fn deaths_are_seen_in_the_change() {
    let before = image();
    let after = |change: fn(&mut Real)| {
        let mut after = before.clone();
        change(after.reals.get_mut(&DR).expect("DR"));
        someone_dies(&before, &after)
    };
    assert!(!after(|_| {}));
    assert!(!after(|real| real.state = STATE_DRAIN));
    assert!(after(|real| real.generation += 1));
    // A new life of an id that nobody had.
    let mut empty = before.clone();
    empty.reals.get_mut(&DR).expect("DR").state = STATE_ABSENT;
    let mut next = before.clone();
    next.reals.get_mut(&DR).expect("DR").generation += 1;
    assert!(!someone_dies(&empty, &next));
    assert!(!someone_dies(&Image::default(), &before));
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

#[test]
fn rounds_follow_while_somebody_does_not_know() {
    let mut schedule = Schedule::default();
    assert_eq!((schedule.poll_timeout(), schedule.begin(at(0))), (None, false));
    schedule.want();
    assert_eq!(schedule.poll_timeout(), Some(Instant::ZERO));
    for (round, begins) in [1000, 1600, 3000, 6000].into_iter().enumerate() {
        if round > 0 {
            assert_eq!(schedule.poll_timeout(), Some(at(begins)));
            assert!(!schedule.begin(at(begins - 1)), "too early");
        }
        assert!(schedule.begin(at(begins)));
        assert!(!schedule.begin(at(begins)), "one walk at a time");
        assert_eq!(schedule.is_first(), round == 0);
        assert_eq!(schedule.poll_timeout(), Some(Instant::ZERO), "the next slice");
        schedule.note_unaware();
        schedule.end(at(begins + 90));
    }
    assert_eq!(schedule.poll_timeout(), None, "four rounds and no more");
    // Nobody to ask: no second one.
    schedule.want();
    assert!(schedule.begin(at(9000)));
    schedule.end(at(9001));
    assert_eq!(schedule.poll_timeout(), None);
}

#[test]
fn another_death_begins_anew_and_an_error_later() {
    let mut schedule = Schedule::default();
    schedule.want();
    assert!(schedule.begin(at(0)));
    schedule.note_unaware();
    schedule.want(); // behind the walk's back
    schedule.end(at(5));
    assert_eq!(schedule.poll_timeout(), Some(Instant::ZERO));
    assert!(schedule.begin(at(6)) && schedule.is_first());
    schedule.note_unaware();
    schedule.end(at(7));
    assert_eq!(schedule.poll_timeout(), Some(at(606)));
    assert!(schedule.begin(at(606)));
    schedule.fail(at(610));
    assert_eq!(schedule.poll_timeout(), Some(at(1610)), "no busy loop");
    assert!(schedule.begin(at(1610)) && !schedule.is_first(), "the same round");
    // A walk that lasts longer than the pause.
    schedule.note_unaware();
    schedule.end(at(60_000));
    assert_eq!(schedule.poll_timeout(), Some(at(60_000)));
}
