//! Persistence on the shipped kernel object under `BPF_PROG_TEST_RUN`: whose new connections go where.

use std::{collections::BTreeSet, net::Ipv4Addr};

use lb_common::{
    abi::{self, Control, Real, Service, Template, TemplateKey, be16},
    hash, maps,
    verdict::Outcome,
};
use lb_tests::packet::{
    self,
    bed::*,
    build::{ACK, PSH, SYN, Tcp},
    engine::{Engine, addr, client_hash, embryo_map, flows_map, mask, pressure_index},
};
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// Jiffies in a second of these beds, whatever the kernel has.
const SECOND: u32 = 1000;
const SECS: u32 = 100;
const LIFE: u64 = SECOND as u64 * SECS as u64;
const WHOLE: [u8; 4] = [255; 4];
const NETWORK: [u8; 4] = [255, 255, 255, 0];
const THREE: [(u16, u32); 3] = [(1, 1), (2, 1), (3, 1)];

fn host(network: u8, number: u8, port: u16) -> (Ipv4Addr, u16) {
    (Ipv4Addr::new(198, 51, network, number), port)
}

fn persistent(scheduler: u8, octets: [u8; 4], flags: u16) -> Service {
    Service { persistence_secs: SECS, granularity: mask(octets), flags, ..service(scheduler) }
}

/// Gives the virtual server of a bed persistence.
fn persist(bed: &mut Bed, service: Service, members: &[(u16, u32)]) {
    let mut control = bed.engine.array::<Control>(maps::CONTROL).expect("control");
    let was = control.get(&0, 0).expect("control");
    control.set(0, Control { second: SECOND, ..was }, 0).expect("control");
    for &(id, _) in members {
        bed.set(id, |real| real.granularity = service.granularity);
    }
    bed.engine.service(VIP, service, members).expect("virtual server");
}

fn bed(scheduler: u8, mask: [u8; 4]) -> Option<Bed> {
    let mut bed = Bed::new(scheduler, DR, &THREE)?;
    persist(&mut bed, persistent(scheduler, mask, 0), &THREE);
    Some(bed)
}

/// Only these are chosen from now on.
fn choose(bed: &mut Bed, mask: [u8; 4], members: &[(u16, u32)]) {
    let service = Service { half: 1, ..persistent(bed.scheduler, mask, 0) };
    bed.engine.service(VIP, service, members).expect("virtual server");
}

type Name = &'static str;

fn template(bed: &mut Bed, map: Name, name: Ipv4Addr, octets: [u8; 4]) -> Option<Template> {
    let key = TemplateKey::new(addr(name).and(mask(octets)), SERVICE);
    bed.engine.hash::<TemplateKey, Template>(map).expect("templates").get(&key, 0).ok()
}

fn count(bed: &mut Bed, map: Name) -> usize {
    let templates = bed.engine.hash::<TemplateKey, Template>(map).expect("templates");
    templates.keys().filter(Result::is_ok).count()
}

/// Makes every template as old as that.
fn age(bed: &mut Bed, jiffies: u64) {
    let (now, _) = bed.engine.clock().expect("clock");
    for map in [maps::TEMPLATES, maps::TENTATIVE] {
        let mut templates = bed.engine.hash::<TemplateKey, Template>(map).expect("templates");
        let all: Vec<_> = templates.iter().collect::<Result<_, _>>().expect("templates");
        for (key, template) in all {
            let used = now - jiffies;
            templates.insert(key, Template { used, ..template }, 0).expect("template");
        }
    }
}

/// The server of a SYN.
fn syn(bed: &mut Bed, client: (Ipv4Addr, u16)) -> u16 {
    server_of(&bed.expect(&Tcp::new(client, VIP, SYN), Outcome::Scheduled))
}

#[test]
fn a_client_goes_on_to_its_server_by_whatever_port() {
    for method in [DR, NAT] {
        for (scheduler, flags) in [
            (abi::SCHED_RR, 0),
            (abi::SCHED_WRR, 0),
            (abi::SCHED_WLC, 0),
            (abi::SCHED_LC, 0),
            (abi::SCHED_MH, abi::SERVICE_HASH_PORT),
        ] {
            let Some(mut bed) = Bed::new(scheduler, method, &THREE) else { return };
            persist(&mut bed, persistent(scheduler, WHOLE, flags), &THREE);
            let mut chosen = BTreeSet::new();
            for number in 0..20 {
                let id = bed.connect(host(100, number, 20_000));
                chosen.insert(id);
                for port in 20_001..20_010 {
                    assert_eq!(bed.connect(host(100, number, port)), id, "{scheduler} {port}");
                }
            }
            assert_eq!(chosen.len(), 3, "{scheduler}: the clients are spread");
            assert_eq!(count(&mut bed, maps::TEMPLATES), 20);
            assert_eq!(count(&mut bed, maps::TENTATIVE), 0, "what was confirmed has moved");
        }
    }
    // Without persistence there is nothing of all this.
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &THREE) else { return };
    let chosen: BTreeSet<_> = (0..3).map(|port| bed.connect(host(100, 1, port))).collect();
    assert_eq!((chosen.len(), count(&mut bed, maps::TEMPLATES)), (3, 0));
    assert_eq!(count(&mut bed, maps::TENTATIVE), 0);
}

#[test]
fn already_the_second_syn_of_a_client_follows_the_first() {
    let Some(mut bed) = bed(abi::SCHED_RR, WHOLE) else { return };
    let id = syn(&mut bed, host(100, 1, 1));
    for port in 2..6 {
        assert_eq!(syn(&mut bed, host(100, 1, port)), id);
    }
    assert_eq!(count(&mut bed, maps::TEMPLATES), 0, "none of them has proved anything");
    assert_eq!(count(&mut bed, maps::TENTATIVE), 1);
}

#[test]
fn granularity_joins_neighbours() {
    let Some(mut bed) = bed(abi::SCHED_RR, NETWORK) else { return };
    let (one, other) = (bed.connect(host(1, 1, 1)), bed.connect(host(2, 1, 1)));
    assert_ne!(one, other);
    for number in 2..20 {
        assert_eq!(bed.connect(host(1, number, 9)), one);
        assert_eq!(bed.connect(host(2, number, 9)), other);
    }
    assert_eq!(count(&mut bed, maps::TEMPLATES), 2);
    let key = template(&mut bed, maps::TEMPLATES, host(1, 200, 0).0, NETWORK);
    assert_eq!(key.map(|it| it.real), Some(one));
}

#[test]
fn templates_run_out_and_established_connections_renew_them() {
    let Some(mut bed) = bed(abi::SCHED_RR, WHOLE) else { return };
    let client = |port| host(100, 1, port);
    let first = bed.connect(client(1));
    let used = |bed: &mut Bed| {
        template(bed, maps::TEMPLATES, client(0).0, WHOLE).expect("the template").used
    };
    // Shortly before its end; the beds' life is far longer than a test runs.
    age(&mut bed, LIFE - u64::from(SECOND) * 60);
    let before = used(&mut bed);
    assert_eq!(syn(&mut bed, client(2)), first);
    assert_eq!(used(&mut bed), before, "a SYN, which anybody can forge, renews nothing");
    assert_eq!(bed.connect(client(3)), first);
    assert!(used(&mut bed) > before, "a connection does");
    age(&mut bed, LIFE + 1);
    let second = bed.connect(client(4));
    assert_ne!(second, first, "over: the round goes on");
    assert_eq!(bed.connect(client(5)), second);
    // Those that were only proposed end too.
    let third = syn(&mut bed, host(100, 2, 1));
    age(&mut bed, LIFE + 1);
    assert_ne!(syn(&mut bed, host(100, 2, 2)), third);
}

#[test]
fn a_dead_servers_template_leads_nowhere() {
    let Some(mut bed) = bed(abi::SCHED_RR, WHOLE) else { return };
    let client = |port| host(100, 1, port);
    let old = bed.connect(client(1));
    // The round has come back to it.
    let second: Vec<_> = (2..5).map(|number| bed.connect(host(100, number, 1))).collect();
    assert_eq!(second[2], old);
    let others: Vec<_> = THREE.into_iter().filter(|(id, _)| *id != old).collect();
    choose(&mut bed, WHOLE, &others);
    bed.set(old, |real| (real.state, real.generation) = (abi::STATE_DOWN, real.generation + 1));
    let new = bed.connect(client(2));
    assert_ne!(new, old);
    assert_eq!(bed.connect(client(3)), new);
    // It is back, under the generation of its death. Who has not asked meanwhile is given a server anew, and
    // its other former clients stay where they are now.
    bed.set(old, |real| real.state = abi::STATE_UP);
    assert_ne!(bed.connect(host(100, 4, 2)), old);
    choose(&mut bed, WHOLE, &THREE);
    for port in 4..10 {
        assert_eq!(bed.connect(client(port)), new);
    }
}

#[test]
fn a_drained_server_keeps_its_clients_and_one_that_would_not_serve_them_does_not() {
    type Change = fn(&mut Real);
    let rows: [(&str, Change, bool); 9] = [
        ("weight 0: out of the pool", |_| (), true),
        ("drained", |real| real.state = abi::STATE_DRAIN, true),
        ("inhibited", |real| inhibit(real, abi::FLAG_INHIBITED), false),
        ("closed", |real| inhibit(real, abi::FLAG_CLOSED), false),
        (
            "down, its connections kept",
            |real| {
                real.state = abi::STATE_DOWN;
                real.flags |= abi::FLAG_KEEP;
            },
            false,
        ),
        ("gone", |real| real.state = abi::STATE_ABSENT, false),
        ("its id is another virtual server's", |real| real.service = 9, false),
        ("its next hop is lost", |real| real.flags &= !abi::FLAG_RESOLVED, false),
        ("another generation", |real| real.generation += 1, false),
    ];
    for (name, change, stays) in rows {
        let Some(mut bed) = bed(abi::SCHED_RR, WHOLE) else { return };
        let old = bed.connect(host(100, 1, 1));
        let others: Vec<_> = THREE.into_iter().filter(|(id, _)| *id != old).collect();
        choose(&mut bed, WHOLE, &others);
        bed.set(old, change);
        for port in 2..5 {
            assert_eq!(bed.connect(host(100, 1, port)) == old, stays, "{name}");
        }
        for number in 2..8 {
            assert_ne!(bed.connect(host(100, number, 1)), old, "{name}: a stranger");
        }
    }
}

fn inhibit(real: &mut Real, flag: u16) {
    real.state = abi::STATE_DRAIN;
    real.flags |= flag;
}

#[test]
fn a_server_at_its_limit_sends_its_clients_elsewhere() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &THREE) else { return };
    persist(&mut bed, persistent(abi::SCHED_RR, WHOLE, abi::SERVICE_LIMITED), &THREE);
    let client = |port| host(100, 1, port);
    let first = bed.connect(client(1));
    bed.set(first, |real| real.upper = 2);
    assert_eq!(bed.connect(client(2)), first);
    let second = bed.connect(client(3));
    assert_ne!(second, first);
    assert_eq!(bed.connect(client(4)), second, "and there they stay");
}

#[test]
fn virtual_servers_do_not_share_templates() {
    let Some(mut bed) = bed(abi::SCHED_RR, WHOLE) else { return };
    let members: Vec<_> = (11..=13).map(|id| (id, 1)).collect();
    let whole = mask(WHOLE);
    for &(id, _) in &members {
        let (name, port) = server(id);
        let real = Real { service: 2, granularity: whole, ..real(id, DR) };
        let real = real.with_nat(addr(VIP2.0), be16(VIP2.1), addr(name), be16(port));
        bed.engine.real(id, real).expect("real server");
    }
    let second = Service { id: 2, ..persistent(abi::SCHED_RR, WHOLE, 0) };
    bed.engine.service(VIP2, second, &members).expect("virtual server");
    let connect = |bed: &mut Bed, client| {
        let syn = bed.expect(&Tcp::new(client, VIP2, SYN), Outcome::Scheduled);
        bed.expect(&Tcp::new(client, VIP2, ACK), Outcome::Promoted);
        server_of(&syn)
    };
    let (one, two) = (bed.connect(host(100, 1, 1)), connect(&mut bed, host(100, 1, 2)));
    assert!(one < 10 && two > 10, "{one} {two}");
    for port in 3..8 {
        assert_eq!(bed.connect(host(100, 1, port)), one);
        assert_eq!(connect(&mut bed, host(100, 1, port + 100)), two);
    }
    assert_eq!(count(&mut bed, maps::TEMPLATES), 2);
}

#[test]
fn a_flood_of_syns_pushes_out_no_client_that_had_a_connection() {
    if !packet::ready() {
        return;
    }
    // Each CPU has elements of its own, and one flood pushes out what came by the same CPU only.
    let mut here = CpuSet::new();
    here.set(sched_getcpu().expect("this CPU")).expect("a set of it");
    sched_setaffinity(Pid::from_raw(0), &here).expect("pinned");
    let sizes = [(flows_map(), 1024), (embryo_map(), 1024), (maps::TENTATIVE, 64)];
    let engine = Engine::sized(&sizes).expect("the shipped object loads");
    let mut bed = Bed::over(engine, abi::SCHED_RR, DR, &THREE);
    persist(&mut bed, persistent(abi::SCHED_RR, WHOLE, 0), &THREE);
    let clients: Vec<_> = (0..6).map(|number| bed.connect(host(100, number, 1))).collect();
    syn(&mut bed, host(100, 99, 1));
    assert!(template(&mut bed, maps::TENTATIVE, host(100, 99, 0).0, WHOLE).is_some());
    for forged in 0..20_000_u32 {
        let client = (Ipv4Addr::from(0xcb00_0000 + forged), 1000);
        bed.engine.send(&Tcp::new(client, VIP, SYN).frame()).expect("test run");
    }
    let pushed = template(&mut bed, maps::TENTATIVE, host(100, 99, 0).0, WHOLE);
    assert_eq!(pushed, None, "the flood is one that pushes out");
    assert_eq!(count(&mut bed, maps::TEMPLATES), 6);
    for (number, id) in (0..).zip(clients) {
        assert_eq!(bed.connect(host(100, number, 2)), id);
    }
}

#[test]
fn full_table_of_templates_is_counted_and_further_clients_are_remembered_for_a_while() {
    if !packet::ready() {
        return;
    }
    let sizes = [(maps::TEMPLATES, 16), (maps::TENTATIVE, 1024)];
    let engine = Engine::sized(&sizes).expect("the shipped object loads");
    let mut bed = Bed::over(engine, abi::SCHED_RR, DR, &THREE);
    persist(&mut bed, persistent(abi::SCHED_RR, WHOLE, 0), &THREE);
    let ids: Vec<_> = (0..60).map(|number| bed.connect(host(100, number, 1))).collect();
    let full = |bed: &Bed| bed.engine.service_stats(SERVICE).expect("stats").templates_full;
    let (kept, waiting) = (count(&mut bed, maps::TEMPLATES), count(&mut bed, maps::TENTATIVE));
    assert_eq!(kept + waiting, 60);
    // A preallocated map may keep a few elements more than it was asked for.
    assert!((16..30).contains(&kept), "{kept}");
    assert_eq!(full(&bed), waiting as u64);
    for (number, id) in (0..).zip(ids) {
        assert_eq!(bed.connect(host(100, number, 2)), id, "client {number}");
    }
    assert_eq!(full(&bed), 2 * waiting as u64);
    // One goes: the next connection of one that waits has its place.
    let last = host(100, 59, 3);
    assert!(template(&mut bed, maps::TEMPLATES, last.0, WHOLE).is_none());
    let mut templates = bed.engine.hash::<TemplateKey, Template>(maps::TEMPLATES).expect("map");
    let any = templates.keys().next().expect("some").expect("a key");
    templates.remove(&any).expect("removed");
    bed.connect(last);
    assert!(template(&mut bed, maps::TEMPLATES, last.0, WHOLE).is_some());
    assert!(template(&mut bed, maps::TENTATIVE, last.0, WHOLE).is_none());
}

/// A connection without an entry has its server by the hash alone, and so must its SYN.
#[test]
fn beside_a_full_table_of_connections_the_hash_decides() {
    let Some(mut bed) = bed(abi::SCHED_WLC, WHOLE) else { return };
    let index = Service::table_index(SERVICE, 0);
    let rings = bed.engine.array::<abi::Ring>(maps::RINGS).expect("rings");
    let ring = rings.get(&index, 0).expect("ring");
    let hashed = |client: (Ipv4Addr, u16)| ring.slots[hash::ring_slot(client_hash(client.0, 0))];
    let elsewhere = (0..200)
        .map(|number| (host(100, number, 1), bed.connect(host(100, number, 1))))
        .find(|(client, id)| hashed(*client) != *id);
    let ((name, _), id) = elsewhere.expect("one whose hash names another server");
    assert_eq!(syn(&mut bed, (name, 2)), id);
    let (now, _) = bed.engine.clock().expect("clock");
    let mut control = bed.engine.array::<Control>(maps::CONTROL).expect("control");
    let was = control.get(&0, 0).expect("control");
    control.set(0, Control { pressure: u32::MAX, ..was }, 0).expect("control");
    bed.engine
        .array::<u64>(maps::PRESSURE)
        .expect("pressure")
        .set(pressure_index(), now, 0)
        .expect("set");
    assert_eq!(syn(&mut bed, (name, 3)), hashed((name, 3)));
    bed.engine
        .array::<u64>(maps::PRESSURE)
        .expect("pressure")
        .set(pressure_index(), 0, 0)
        .expect("set");
    assert_eq!(syn(&mut bed, (name, 4)), id, "the client has not moved for it");
}

/// A connection that another host has made, and that goes on here, is its client's too.
#[test]
fn an_adopted_connection_makes_the_template() {
    let Some(mut bed) = Bed::new(abi::SCHED_MH, DR, &THREE) else { return };
    let flags = abi::SERVICE_HASH_PORT;
    persist(&mut bed, persistent(abi::SCHED_MH, WHOLE, flags), &THREE);
    let data = Tcp::new(host(100, 1, 1), VIP, ACK | PSH).payload(b"select 1");
    let id = server_of(&bed.expect(&data, Outcome::MidstreamHashed));
    for port in 2..12 {
        assert_eq!(bed.connect(host(100, 1, port)), id);
    }
    // What is established asks no template, wherever that leads.
    let mut templates = bed.engine.hash::<TemplateKey, Template>(maps::TEMPLATES).expect("map");
    let key = TemplateKey::new(addr(host(100, 1, 0).0), SERVICE);
    let was = templates.get(&key, 0).expect("the template");
    let other = THREE.iter().map(|(it, _)| *it).find(|it| *it != id).expect("another");
    templates.insert(key, Template { real: other, ..was }, 0).expect("set");
    assert_eq!(server_of(&bed.expect(&data, Outcome::DrForwarded)), id);
    let flow = bed.engine.flow(host(100, 1, 1), VIP).expect("read").expect("the connection");
    assert_eq!(flow.real, id);
    assert_eq!(bed.connect(host(100, 1, 99)), other);
}
