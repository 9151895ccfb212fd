use lb_common::{
    abi::{FILTER_NAT_SOURCE, FILTER_NAT_SOURCE6, FILTER_VIP, FILTER_VIP6, be32},
    hash,
};
use proptest::prelude::*;

use super::*;
use crate::{
    base::net::Mac,
    dataplane::xdp::image::{Write, writes},
    reconcile::testing::table,
};

/// Performs a write on an image, as the kernel does on its maps.
fn perform(image: &mut Image, write: &Write) {
    match write.clone() {
        Write::Vip(addr, vip) => drop(image.vips.insert(addr, vip)),
        Write::NoVip(addr) => drop(image.vips.remove(&addr)),
        Write::Service(key, service) => drop(image.services.insert(key, service)),
        Write::NoService(key) => drop(image.services.remove(&key)),
        Write::Table(index, pool, ring) => drop(image.tables.insert(index, (pool, ring))),
        Write::Real(id, real) => drop(image.reals.insert(id, real)),
        Write::Source(key, source) => drop(image.sources.insert(key, source)),
        Write::NoSource(key) => drop(image.sources.remove(&key)),
        Write::Local(addr) => drop(image.locals.insert(addr)),
        Write::NoLocal(addr) => drop(image.locals.remove(&addr)),
        Write::Filter(filter) => image.filter = filter,
        Write::ClearReal(_) | Write::ClearService(_) => {}
    }
}

fn reachable(table: &ForwardingTable) -> Surroundings {
    let hop = |to: IpAddr| NextHop {
        ifindex: 3,
        source: Mac([2; 6]),
        neighbour: Mac([4; 6]),
        mtu: 1500,
        nic: false,
        own: Some(match to {
            IpAddr::V4(_) => IpAddr::from([198, 51, 100, 254]),
            IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0xff, 0xfe]),
        }),
    };
    let next_hops = table
        .virtual_servers
        .values()
        .flat_map(|vs| vs.real_servers.keys())
        .map(|addr| (addr.ip(), Ok(hop(addr.ip()))))
        .collect();
    Surroundings { next_hops, own: [IpAddr::from([10, 0, 0, 1])].into(), ..Default::default() }
}

/// `t` without what is not in the maps.
fn maps_part(mut t: ForwardingTable) -> ForwardingTable {
    t.interfaces.clear();
    t
}

/// Of an address in the filter.
fn flags(image: &Image, addr: Addr) -> u8 {
    image.filter.flags[match addr.to_v4() {
        Some(addr) => hash::filter_fold(addr),
        None => hash::filter_fold6(&addr),
    }]
}

fn without_old_halves(mut image: Image) -> Image {
    let live: BTreeSet<u32> =
        image.services.values().map(|s| Service::table_index(s.id, s.half)).collect();
    image.tables.retain(|index, _| live.contains(index));
    image
}

proptest! {
    #[test]
    fn decode_of_encode_is_the_table(a in table(), b in table()) {
        let around = reachable(&a);
        let first = encode(&Image::default(), &a, &around).expect("fits");
        prop_assert_eq!(decode(&first), maps_part(a));
        // And whatever was there before.
        let second = encode(&first, &b, &reachable(&b)).expect("fits");
        prop_assert_eq!(decode(&second), maps_part(b.clone()));
        // Once more changes nothing: no id, generation or half moves without a reason.
        let third = encode(&second, &b, &reachable(&b)).expect("fits");
        prop_assert!(third == second);
        prop_assert!(writes(&second, &third).is_empty());
    }

    #[test]
    fn writes_lead_there_and_no_step_names_the_dead(a in table(), b in table()) {
        let from = encode(&Image::default(), &a, &reachable(&a)).expect("fits");
        let to = encode(&from, &b, &reachable(&b)).expect("fits");
        let mut now = from.clone();
        let mut unwritten = BTreeSet::new();
        for write in writes(&from, &to) {
            perform(&mut now, &write);
            if let Write::NoService(key) = write {
                unwritten.insert(key);
            }
            for (key, service) in &now.services {
                prop_assert!(!unwritten.contains(key));
                let (pool, ring) = &now.tables[&Service::table_index(service.id, service.half)];
                let entries = &pool.entries[..pool.len as usize];
                let members: BTreeSet<u16> = entries.iter().map(|entry| entry.real).collect();
                let slots: BTreeSet<u16> =
                    ring.slots.iter().copied().filter(|slot| *slot != 0).collect();
                let strict = service.is_hashed() && service.flags & SERVICE_FALLBACK == 0;
                for id in slots.difference(&members) {
                    let real = now.reals[id];
                    // Up, if it is just coming back, with weight 0 perhaps.
                    prop_assert!(strict && matches!(real.state, STATE_DRAIN | STATE_UP), "{real:?}");
                    prop_assert_eq!(real.service, service.id);
                }
                prop_assert!(members.is_empty() || !slots.is_empty());
                // A server of hardly any weight may have no slot.
                prop_assert!(strict || slots.is_empty() == members.is_empty());
                for entry in entries {
                    let real = now.reals[&entry.real];
                    prop_assert_eq!(real.state, STATE_UP, "{:?} while {:?}", real, write);
                    prop_assert_eq!(real.service, service.id);
                    // A change of method in the pool is the exception: its connections die anyway.
                    let changed = from.reals.get(&entry.real).is_some_and(|old| {
                        old.state != STATE_ABSENT && old.method != METHOD_NAT
                    });
                    if real.method == METHOD_NAT && !changed {
                        let seen = flags(&now, real.addr) & (FILTER_NAT_SOURCE | FILTER_NAT_SOURCE6);
                        let published = now.vips.contains_key(&key.addr);
                        prop_assert!(seen != 0 || !published, "replies would not be seen");
                    }
                }
            }
            for addr in now.vips.keys().filter(|addr| to.vips.contains_key(addr)) {
                if from.vips.contains_key(addr) {
                    let seen = flags(&now, *addr) & (FILTER_VIP | FILTER_VIP6);
                    prop_assert!(seen != 0, "a VIP went unseen");
                }
            }
        }
        prop_assert!(without_old_halves(now) == to);
    }

    #[test]
    fn ids_and_generations_follow_lives(a in table(), b in table()) {
        let from = encode(&Image::default(), &a, &reachable(&a)).expect("fits");
        let to = encode(&from, &b, &reachable(&b)).expect("fits");
        for (id, old) in &from.reals {
            let new = to.reals[id];
            prop_assert!(new.generation >= old.generation);
            if new.state != STATE_ABSENT {
                prop_assert_eq!(identity(old), identity(&new), "an id in use never changes hands");
            }
            let key = virtual_server_key(old.vip, old.vip_port);
            let server = b.virtual_servers.get(&key)
                .and_then(|vs| vs.real_servers.get(&socket(old.addr, old.port)));
            let keep = b.virtual_servers.get(&key).is_some_and(|vs| vs.on_down == OnDown::Keep);
            match server {
                Some(_) if old.method != new.method => {
                    prop_assert_eq!(new.generation, old.generation + 1);
                }
                Some(server) if server.state == RealServerState::Down && !keep => {
                    let was_dead = old.state == STATE_DOWN && old.flags & FLAG_KEEP == 0;
                    prop_assert_eq!(new.generation, old.generation + u32::from(!was_dead));
                }
                Some(_) => prop_assert_eq!(new.generation, old.generation),
                None if keep => prop_assert_eq!(
                    (new.generation, new.state, new.flags & FLAG_KEEP),
                    (old.generation, STATE_DOWN, FLAG_KEEP)
                ),
                None => prop_assert_eq!(
                    (new.generation, new.state),
                    (old.generation + 1, STATE_ABSENT)
                ),
            }
        }
    }
}

fn one_server(state: RealServerState, method: Method) -> ForwardingTable {
    let real = RealServer { method, weight: 1, state, limits: Limits::default() };
    let vs = VirtualServer {
        gate: Gate::Always,
        scheduler: Scheduler::Wlc,
        idle_timeout: Duration::from_secs(60),
        on_down: OnDown::Reset,
        persistence: None,
        real_servers: [("198.51.100.1:3306".parse().expect("addr"), real)].into(),
    };
    let key = "tcp/192.0.2.1:3306".parse().expect("key");
    ForwardingTable { virtual_servers: [(key, vs)].into(), ..Default::default() }
}

fn pool_len(image: &Image) -> u32 {
    let service = image.services.values().next().expect("one service");
    image.tables[&Service::table_index(service.id, service.half)].0.len
}

#[test]
fn a_tunnel_wants_an_address_of_this_host_and_knows_what_fits() {
    let four = one_server(RealServerState::Up, Method::Tun);
    let mut six = four.clone();
    let vs = six.virtual_servers.values_mut().next().expect("one");
    let server = vs.real_servers.values().next().copied().expect("one");
    let addr = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]);
    vs.real_servers = [(SocketAddr::new(addr, 3306), server)].into();
    for (table, method, room) in [(four, METHOD_TUN, 1480), (six, METHOD_TUN6, 1460)] {
        let around = reachable(&table);
        let image = encode(&Image::default(), &table, &around).expect("fits");
        assert_eq!((decode(&image), pool_len(&image)), (table.clone(), 1));
        let of = |image: &Image| *image.reals.values().next().expect("one");
        let real = of(&image);
        assert_eq!((real.method, real.tunnel_room), (method, room));
        let to = real.addr.ip();
        let hop = around.next_hops[&to].clone().expect("a way");
        assert_eq!(Some(real.tunnel_source.ip()), hop.own);
        let with = |change: fn(&mut NextHop)| {
            let mut hop = hop;
            change(&mut hop);
            let next_hops = [(to, Ok(hop))].into();
            let around = Surroundings { next_hops, ..around.clone() };
            encode(&image, &table, &around).expect("fits")
        };
        assert_eq!(pool_len(&with(|hop| hop.own = None)), 0, "no source, no packet");
        let other = with(|hop| {
            hop.own = hop.own.map(|own| match own {
                IpAddr::V4(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
                IpAddr::V6(_) => IpAddr::from([198, 51, 100, 1]),
            })
        });
        assert_eq!(pool_len(&other), 0, "of the other family");
        // A smaller MTU moves no generation; what is beyond an IP packet is none.
        let smaller = of(&with(|hop| hop.mtu = 1400));
        assert_eq!((smaller.tunnel_room, smaller.generation), (room - 100, real.generation));
        let most = of(&with(|hop| hop.mtu = 100_000)).tunnel_room;
        assert_eq!(most, u16::MAX - (1500 - room));
        assert_eq!(of(&with(|hop| hop.mtu = 10)).tunnel_room, 0);
        // While nothing is known, what was known stays.
        let restarted = encode(&image, &table, &Surroundings::default()).expect("fits");
        assert!(restarted == image);
    }
}

#[test]
fn an_unresolved_server_is_in_the_table_but_not_chosen() {
    let table = one_server(RealServerState::Up, Method::Dr);
    let image = encode(&Image::default(), &table, &Surroundings::default()).expect("fits");
    assert_eq!(decode(&image), table);
    assert_eq!(pool_len(&image), 0);
    let resolved = encode(&image, &table, &reachable(&table)).expect("fits");
    assert_eq!(pool_len(&resolved), 1);
    // A forwarder that has just started knows nothing, which is no reason to change anything.
    let restarted = encode(&resolved, &table, &Surroundings::default()).expect("fits");
    assert!(restarted == resolved && !restarted.locals.is_empty());
    let silent = Surroundings {
        next_hops: [(IpAddr::from([198, 51, 100, 1]), Err("does not answer ARP".into()))].into(),
        ..reachable(&table)
    };
    let lost = encode(&resolved, &table, &silent).expect("fits");
    assert_eq!(pool_len(&lost), 0);
    let asked = encode(&lost, &table, &Surroundings::default()).expect("fits");
    assert_eq!(pool_len(&asked), 0, "what is lost comes back by an answer only");
    assert_eq!(lost.reals[&1].generation, resolved.reals[&1].generation, "flows may come back");
    // This host needs no way to itself.
    let local = one_server(RealServerState::Up, Method::Local);
    let image = encode(&Image::default(), &local, &Surroundings::default()).expect("fits");
    assert_eq!(pool_len(&image), 1);
}

#[test]
fn an_inhibited_server_stays_in_the_ring_of_a_hash_without_fallback() {
    let table = |state, fallback| {
        let mut table = one_server(RealServerState::Up, Method::Dr);
        let vs = table.virtual_servers.values_mut().next().expect("one");
        vs.scheduler = Scheduler::Mh(Hashing { port: false, fallback });
        let second = RealServer { method: Method::Dr, weight: 3, state, limits: Limits::default() };
        vs.real_servers.insert("198.51.100.2:3306".parse().expect("addr"), second);
        table
    };
    let ring = |image: &Image| {
        let service = image.services.values().next().expect("one service");
        let (_, ring) = &image.tables[&Service::table_index(service.id, service.half)];
        ring.slots.iter().copied().collect::<BTreeSet<u16>>()
    };
    for (fallback, inhibited) in [(false, [0, 1, 2].into()), (true, BTreeSet::from([0, 1]))] {
        let up = table(RealServerState::Up, fallback);
        let around = reachable(&up);
        let image = encode(&Image::default(), &up, &around).expect("fits");
        assert_eq!((pool_len(&image), ring(&image)), (2, [0, 1, 2].into()));
        let weak = table(RealServerState::Inhibited, fallback);
        let image = encode(&image, &weak, &around).expect("fits");
        assert_eq!(decode(&image), weak);
        assert_eq!((pool_len(&image), ring(&image)), (1, inhibited), "fallback {fallback}");
        // The pool is the same now, but not the ring.
        let gone = table(RealServerState::Drain, fallback);
        let image = encode(&image, &gone, &around).expect("fits");
        assert_eq!((pool_len(&image), ring(&image)), (1, [0, 1].into()), "fallback {fallback}");
    }
}

#[test]
fn a_virtual_server_is_limited_when_a_real_server_of_it_is() {
    let mut table = one_server(RealServerState::Up, Method::Dr);
    let limited = |table: &ForwardingTable| {
        let image = encode(&Image::default(), table, &reachable(table)).expect("fits");
        assert_eq!(decode(&image), *table);
        image.services.values().all(|service| service.flags & SERVICE_LIMITED != 0)
    };
    assert!(!limited(&table));
    let vs = table.virtual_servers.values_mut().next().expect("one");
    vs.real_servers.values_mut().next().expect("one").limits = Limits { upper: 9, lower: 2 };
    assert!(limited(&table));
}

#[test]
fn persistence_is_in_the_virtual_server_and_its_mask_in_each_real_server() {
    let mut table = one_server(RealServerState::Up, Method::Dr);
    let around = reachable(&table);
    let mut image = encode(&Image::default(), &table, &around).expect("fits");
    let seen = |image: &Image| {
        let service = image.services.values().next().expect("one");
        let mask = image.reals[&1].granularity;
        assert_eq!(mask, service.granularity);
        (service.persistence_secs, mask.octets())
    };
    assert_eq!(seen(&image), (0, [0; 16]));
    for (granularity, mask) in [(32, [255; 4]), (24, [255, 255, 255, 0]), (1, [128, 0, 0, 0])] {
        let timeout = Duration::from_secs(360);
        let vs = table.virtual_servers.values_mut().next().expect("one");
        vs.persistence = Some(Persistence { timeout, granularity });
        let generation = image.reals[&1].generation;
        image = encode(&image, &table, &around).expect("fits");
        assert_eq!(decode(&image), table);
        let mut whole = [255; 16];
        whole[12..].copy_from_slice(&mask);
        assert_eq!(seen(&image), (360, whole));
        assert_eq!(image.reals[&1].generation, generation, "its connections go on");
    }
}

/// Of which servers clients are kept, by what the table says of them.
#[test]
fn drained_servers_keep_their_clients_and_closed_ones_do_not() {
    for (state, keeps) in [
        (RealServerState::Up, true),
        (RealServerState::Drain, true),
        (RealServerState::Closed, false),
        (RealServerState::Inhibited, false),
        (RealServerState::Down, false),
    ] {
        let table = one_server(state, Method::Dr);
        let image = encode(&Image::default(), &table, &reachable(&table)).expect("fits");
        assert_eq!(image.reals[&1].keeps_clients(), keeps, "{state:?}");
        let lost = encode(&Image::default(), &table, &Surroundings::default()).expect("fits");
        assert!(!lost.reals[&1].keeps_clients(), "{state:?} without a way to it");
    }
    let local = one_server(RealServerState::Up, Method::Local);
    let image = encode(&Image::default(), &local, &Surroundings::default()).expect("fits");
    assert!(image.reals[&1].keeps_clients());
}

#[test]
fn the_address_of_a_virtual_server_that_no_instance_has_is_a_vip() {
    let vip = Addr::v4(be32([192, 0, 2, 1]));
    let mut table = one_server(RealServerState::Up, Method::Dr);
    let image = encode(&Image::default(), &table, &reachable(&table)).expect("fits");
    assert_eq!(image.vips[&vip], Vip { gate: 0, flags: VIP_TCP_SERVICE });
    assert!(decode(&image).vips.is_empty(), "nobody guards it");
    // An instance takes it up.
    table.vips.insert([192, 0, 2, 1].into(), LeaseSlot(7));
    let image = encode(&image, &table, &reachable(&table)).expect("fits");
    assert_eq!(image.vips[&vip], Vip { gate: 7, flags: VIP_TCP_SERVICE });
    let bare = ForwardingTable { vips: table.vips.clone(), ..Default::default() };
    let image = encode(&image, &bare, &reachable(&table)).expect("fits");
    assert_eq!(image.vips[&vip], Vip { gate: 7, flags: 0 });
}

#[test]
fn death_moves_the_generation_once_and_return_does_not() {
    let up = one_server(RealServerState::Up, Method::Nat);
    let down = one_server(RealServerState::Down, Method::Nat);
    let around = reachable(&up);
    let mut image = encode(&Image::default(), &up, &around).expect("fits");
    let generation = |image: &Image| image.reals[&1].generation;
    assert_eq!(generation(&image), 1);
    for (table, want) in [(&down, 2), (&down, 2), (&up, 2), (&down, 3), (&up, 3)] {
        image = encode(&image, table, &around).expect("fits");
        assert_eq!(generation(&image), want);
    }
    assert_eq!(image.sources.len(), 1);
    let gone = encode(&image, &ForwardingTable::default(), &around).expect("fits");
    assert!(gone.sources.is_empty() && gone.filter.flags.iter().all(|flag| *flag == 0));
    assert_eq!((gone.reals[&1].state, generation(&gone)), (STATE_ABSENT, 4));
    // Back again: another id, because a fresh one is there; the old one rests.
    let back = encode(&gone, &up, &around).expect("fits");
    assert_eq!(back.reals[&2].state, STATE_UP);
}

#[test]
fn free_ids_are_looked_for_only_when_one_is_given_out() {
    let up = one_server(RealServerState::Up, Method::Nat);
    let image = encode(&Image::default(), &up, &reachable(&up)).expect("fits");
    let mut ids = Ids::new(&image);
    assert_eq!(ids.real(&image.reals[&1]), Ok(1));
    assert!(ids.free_reals.is_none() && ids.free_services.is_none(), "a verdict gives none out");
    let other = Real { port: 1, ..image.reals[&1] };
    assert_eq!((ids.real(&other), ids.real(&other), ids.service()), (Ok(2), Ok(3), Ok(2)));
}

#[test]
fn ipv6_counts_as_used_once_it_was() {
    let four = one_server(RealServerState::Up, Method::Nat);
    let mut image = encode(&Image::default(), &four, &reachable(&four)).expect("fits");
    assert!(!image.has_six());
    let mut six = four.clone();
    let server = *four
        .virtual_servers
        .values()
        .next()
        .and_then(|vs| vs.real_servers.values().next())
        .expect("one");
    let vs = VirtualServer {
        real_servers: [("[2001:db8::2]:3306".parse().expect("addr"), server)].into(),
        ..four.virtual_servers.values().next().expect("one").clone()
    };
    six.virtual_servers.insert("tcp/[2001:db8::1]:3306".parse().expect("key"), vs);
    image = encode(&image, &six, &reachable(&six)).expect("fits");
    assert!(image.has_six());
    // Its connections may be there yet.
    image = encode(&image, &four, &reachable(&four)).expect("fits");
    assert!(image.has_six() && image.services.len() == 1);
}

#[test]
fn limits_are_named() {
    let mut table = one_server(RealServerState::Up, Method::Nat);
    let key = *table.virtual_servers.keys().next().expect("one");
    let template = table.virtual_servers[&key].clone();
    let fails = |table: &ForwardingTable| {
        let encoded = encode(&Image::default(), table, &reachable(table)).map(drop);
        encoded.expect_err("too much").to_string()
    };
    let mut pool = table.clone();
    pool.virtual_servers.get_mut(&key).expect("one").real_servers = (0..65u8)
        .map(|n| {
            let addr = SocketAddr::new(IpAddr::from([198, 51, 100, n]), 3306);
            (addr, *template.real_servers.values().next().expect("one"))
        })
        .collect();
    assert!(fails(&pool).contains("more than 64 real servers"), "{}", fails(&pool));
    let mut shared = table.clone();
    for port in 1..9 {
        let key = VirtualServerKey { addr: SocketAddr::new(key.addr.ip(), port), ..key };
        shared.virtual_servers.insert(key, template.clone());
    }
    assert!(fails(&shared).contains("more than 8 virtual servers"), "{}", fails(&shared));
    for port in 1..=256 {
        let key = VirtualServerKey { addr: SocketAddr::new(key.addr.ip(), port), ..key };
        let empty = VirtualServer { real_servers: BTreeMap::new(), ..template.clone() };
        table.virtual_servers.insert(key, empty);
    }
    assert!(fails(&table).contains("more than 255 virtual servers"), "{}", fails(&table));
    let vips = (0..8193u32).map(|n| (IpAddr::from(n.to_be_bytes()), LeaseSlot(1))).collect();
    let table = ForwardingTable { vips, ..Default::default() };
    assert!(fails(&table).contains("more than 8192 VIPs"));
    let vips = [(IpAddr::from([192, 0, 2, 1]), LeaseSlot(0))].into();
    assert!(fails(&ForwardingTable { vips, ..Default::default() }).contains("slot 0"));
    let six = VirtualServerKey { addr: "[2001:db8::1]:3306".parse().expect("address"), ..key };
    let table = ForwardingTable { virtual_servers: [(six, template)].into(), ..Default::default() };
    assert!(fails(&table).contains("of another address family"));
    let vips = [("::ffff:192.0.2.1".parse().expect("address"), LeaseSlot(1))].into();
    assert!(fails(&ForwardingTable { vips, ..Default::default() }).contains("in the guise"));
}

#[test]
fn only_nics_send_back() {
    let up = one_server(RealServerState::Up, Method::Dr);
    for nic in [true, false] {
        let mut around = reachable(&up);
        around.next_hops.values_mut().flatten().for_each(|hop| hop.nic = nic);
        let image = encode(&Image::default(), &up, &around).expect("fits");
        assert!(image.reals.values().all(|real| (real.flags & FLAG_TX != 0) == nic), "{nic}");
    }
}
