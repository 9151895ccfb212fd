use lb_common::abi::{Addr, FLOW_FIN, METHOD_DR, STATE_UP, Service, ServiceKey, be16, be32};
use proptest::prelude::*;

use super::*;

const TICK: Duration = Duration::from_millis(4);
const NOW: u64 = 1 << 32;
const NAT: u16 = 7;
const DR: u16 = 8;

fn image() -> Image {
    let mut image = Image::default();
    let service = Service { id: 1, idle_secs: 300, ..Service::default() };
    image.services.insert(ServiceKey::default(), service);
    let real = Real {
        generation: 5,
        state: STATE_UP,
        method: METHOD_NAT,
        service: 1,
        addr: Addr::v4(be32([10, 0, 0, 1])),
        port: be16(3306),
        vip: Addr::v4(be32([192, 0, 2, 1])),
        vip_port: be16(3306),
        ..Real::default()
    };
    image.reals.insert(NAT, real);
    image.reals.insert(DR, Real { method: METHOD_DR, addr: Addr::v4(be32([10, 0, 0, 2])), ..real });
    image
}

fn client(port: u16) -> FlowKey6 {
    FlowKey6::tcp(
        (Addr::v4(be32([192, 0, 2, 99])), be16(port)),
        (Addr::v4(be32([192, 0, 2, 1])), be16(3306)),
    )
}

fn back(port: u16) -> FlowKey6 {
    FlowKey6::tcp(
        (Addr::v4(be32([10, 0, 0, 1])), be16(3306)),
        (Addr::v4(be32([192, 0, 2, 99])), be16(port)),
    )
}

fn flow(age: u64, flags: u16) -> Flow {
    let last_seen = NOW - age * 250;
    Flow { last_seen, generation: 5, real: NAT, flags, packets: 3, ..Flow::default() }
}

type Entries = Vec<(FlowKey6, Flow)>;

/// A whole pass: what is over, and the pass.
fn pass(entries: &Entries, counted: &[(u16, i64)]) -> (Vec<FlowKey6>, Pass) {
    let counted = counted.iter().copied().collect();
    let mut pass = Pass::new(&image(), &counted, NOW, TICK);
    let mut over: Vec<Over> =
        entries.iter().filter_map(|(key, flow)| pass.entry(*key, flow)).collect();
    while let Some(more) = pass.halves_left(2) {
        assert!(more.len() <= 2, "{more:?}");
        over.extend(more);
    }
    let keys = over
        .iter()
        .flat_map(|over| [Some(over.entry.key), over.replies.map(|stamp| stamp.key)])
        .flatten()
        .collect();
    (keys, pass)
}

fn active(pass: &Pass, id: u16) -> i64 {
    pass.found.active.get(&id).copied().unwrap_or(0)
}

#[test]
fn lives_end_by_state() {
    let rows: &[(&str, u64, u16, bool, bool)] = &[
        // name, idle seconds, flags, counts, stays
        ("busy", 1, 0, true, true),
        ("idle", 299, 0, true, true),
        ("too idle", 302, 0, false, false),
        ("closing", 59, FLOW_FIN, false, true),
        ("closed", 62, FLOW_FIN, false, false),
        ("reset", 9, FLOW_RST, false, true),
        ("reset and gone", 12, FLOW_FIN | FLOW_RST, false, false),
        ("answered by us", 12, FLOW_RESET, false, false),
    ];
    for (name, age, flags, counts, stays) in rows {
        for real in [NAT, DR] {
            let entry = Flow { real, ..flow(*age, *flags) };
            let (over, pass) = pass(&vec![(client(1), entry)], &[]);
            assert_eq!(over.is_empty(), *stays, "{name}");
            assert_eq!(active(&pass, real), i64::from(*counts), "{name}");
            assert_eq!(pass.found().flows, u64::from(*stays), "{name}");
        }
    }
}

#[test]
fn both_directions_are_one_connection_whichever_comes_first() {
    let reverse = FLOW_REVERSE;
    let both = |forward, backward, check: &dyn Fn(Vec<FlowKey6>, Pass)| {
        let mut entries = vec![(client(1), forward), (back(1), backward)];
        let (over, done) = pass(&entries, &[]);
        check(over, done);
        entries.reverse();
        let (over, done) = pass(&entries, &[]);
        check(over, done);
    };
    // The client is silent, the server is not.
    both(flow(400, 0), flow(2, reverse), &|over, pass| {
        assert_eq!((pass.found().flows, pass.found().entries), (1, [2, 0]));
        assert_eq!((active(&pass, NAT), over.len()), (1, 0));
    });
    // Both are: both entries go.
    both(flow(400, 0), flow(301, reverse), &|over, _| assert_eq!(over, [client(1), back(1)]));
    // The server closes.
    both(flow(1, 0), flow(1, reverse | FLOW_FIN), &|_, pass| assert_eq!(active(&pass, NAT), 0));
    // A reverse entry alone is nobody's, also that of an unknown real server.
    assert_eq!(pass(&vec![(back(2), flow(11, reverse))], &[]).0, [back(2)]);
    let strange = Flow { real: 99, ..flow(11, reverse) };
    assert_eq!(pass(&vec![(back(2), strange)], &[]).0, [back(2)]);
    // Replies of another connection of the same client are not its replies.
    let mut entries =
        vec![(client(1), flow(400, 0)), (back(1), Flow { real: 9, ..flow(2, reverse) })];
    for _ in 0..2 {
        assert_eq!(pass(&entries, &[]).0, [client(1)]);
        entries.reverse();
    }
    // Unless its other half came after the table's other end had been read.
    assert!(pass(&vec![(back(2), flow(1, reverse))], &[]).0.is_empty());
}

#[test]
fn stale_connections_wait_for_their_client_but_do_not_count() {
    let stale = Flow { generation: 4, ..flow(1, 0) };
    let (over, pass) = pass(&vec![(client(1), stale)], &[]);
    assert_eq!((pass.found().flows, active(&pass, NAT), over.len()), (1, 0, 0));
    assert_eq!(pass.found().stale, [(NAT, 1)].into());
    assert!(pass.lingers(NAT));
    let told = Flow { flags: FLOW_RESET, ..stale };
    let (_, pass) = self::pass(&vec![(client(1), told), (client(2), flow(1, 0))], &[]);
    assert!(pass.found().stale.is_empty(), "told, and alive");
    assert_eq!(State::new(0, 5, None), State::Stale);
}

#[test]
fn what_comes_and_goes_during_a_pass_is_not_counted_twice() {
    let since = |created: u64, last_seen: u64, flags| Flow {
        created,
        last_seen,
        flags,
        real: DR,
        ..flow(0, 0)
    };
    let entries = vec![
        (client(1), since(NOW - 9, NOW - 9, 0)),
        // Made since: the program has counted it since.
        (client(2), since(NOW + 1, NOW + 1, 0)),
        // Ended since: the program has taken it off since.
        (client(3), since(NOW - 9, NOW + 1, FLOW_FIN)),
        // Ended before.
        (client(4), since(NOW - 9, NOW - 5, FLOW_FIN)),
        // Both since: it was never in the count.
        (client(5), since(NOW + 1, NOW + 2, FLOW_FIN)),
    ];
    let (_, pass) = pass(&entries, &[(DR, 3), (NAT, -2)]);
    assert_eq!(active(&pass, DR), 2);
    let by = |image: &Image| -> Vec<_> {
        pass.corrections(image).iter().map(|it| (it.id, it.by)).collect()
    };
    assert_eq!(by(&image()), [(NAT, 2), (DR, -1)]);
    // One that died, went or was given to another since has its turn later.
    let mut changed = image();
    changed.reals.get_mut(&DR).expect("there").generation = 6;
    assert_eq!(by(&changed), [(NAT, 2)]);
    changed.reals.remove(&NAT);
    assert_eq!(by(&changed), []);
}

/// The table of templates is told of connections that are open, not of what is left of others.
#[test]
fn only_open_connections_hold_their_client() {
    let mut persistent = image();
    for real in persistent.reals.values_mut() {
        real.granularity = Addr::mask(32, true);
    }
    for (name, flow, holds) in [
        ("open", flow(1, 0), true),
        ("closing", flow(1, FLOW_FIN), false),
        ("reset", flow(1, FLOW_RST), false),
        ("stale", Flow { generation: 4, ..flow(1, 0) }, false),
        ("idle for too long", flow(302, 0), false),
        ("of nobody", Flow { real: 99, ..flow(1, 0) }, false),
    ] {
        let mut pass = Pass::new(&persistent, &BTreeMap::new(), NOW, TICK);
        pass.entry(
            client(1),
            &Flow { real: if flow.real == NAT { DR } else { flow.real }, ..flow },
        );
        assert_eq!(!pass.held().is_empty(), holds, "{name}");
    }
}

#[test]
fn only_who_was_leaving_at_the_begin_may_go_at_the_end() {
    let mut leaving = image();
    leaving.reals.get_mut(&DR).expect("there").service = 0;
    leaving.reals.get_mut(&DR).expect("there").state = STATE_DOWN;
    let pass = Pass::new(&leaving, &BTreeMap::new(), NOW, TICK);
    assert!(!pass.lingers(DR), "nothing holds it");
    assert!(pass.lingers(NAT), "in a virtual server at the begin: connections may be newer");
    assert!(pass.lingers(99), "unknown at the begin");
}

proptest! {
    /// Whatever the order of the entries: the same connections are over, the same stay.
    #[test]
    fn the_order_of_a_table_means_nothing(
        rows in prop::collection::vec(
            (0u16..40, prop::sample::select(vec![0, FLOW_FIN, FLOW_RST, FLOW_RESET]),
             0u64..700, 0u64..700, any::<(bool, bool)>()),
            0..40,
        ),
        order in any::<prop::sample::Index>(),
        turn in any::<bool>(),
    ) {
        let mut table: BTreeMap<[u16; 2], (FlowKey6, Flow)> = BTreeMap::new();
        for (port, flags, age, reply_age, (nat, alone)) in rows {
            let real = if nat { NAT } else { DR };
            table.insert([port, 0], (client(port), Flow { real, ..flow(age, flags) }));
            if nat && !alone {
                table.insert([port, 1], (back(port), flow(reply_age, FLOW_REVERSE)));
            }
        }
        let in_order: Entries = table.into_values().collect();
        let mut mixed = in_order.clone();
        if !mixed.is_empty() {
            let at = order.index(mixed.len());
            mixed.rotate_left(at);
        }
        if turn {
            mixed.reverse();
        }
        let (mut over, one) = pass(&in_order, &[]);
        let (mut over_mixed, other) = pass(&mixed, &[]);
        over.sort();
        over_mixed.sort();
        // Some replies may be strays too young to be taken out.
        prop_assert!(one.found().entries[0] as usize + over.len() <= in_order.len());
        prop_assert_eq!(over, over_mixed);
        prop_assert_eq!(one.found(), other.found());
    }
}
