//! Random forwarding tables over a small space of names, so that two of them overlap.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use proptest::{
    collection::{btree_map, btree_set},
    prelude::*,
};

use crate::base::{
    net::{Protocol, VirtualServerKey},
    table::{
        ForwardingTable, Gate, Hashing, LeaseSlot, Limits, Method, OnDown, Persistence, RealServer,
        RealServerState, Scheduler, VirtualServer,
    },
};

fn vip() -> impl Strategy<Value = IpAddr> {
    (1u8..6).prop_map(|n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)))
}

fn vip6() -> impl Strategy<Value = IpAddr> {
    (1u16..6).prop_map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]))
}

fn key(vip: impl Strategy<Value = IpAddr>) -> impl Strategy<Value = VirtualServerKey> {
    (vip, 3306u16..3309).prop_map(|(ip, port)| VirtualServerKey {
        protocol: Protocol::Tcp,
        addr: SocketAddr::new(ip, port),
    })
}

fn real_server() -> impl Strategy<Value = RealServer> {
    (
        prop_oneof![Just(Method::Dr), Just(Method::Nat), Just(Method::Tun), Just(Method::Local)],
        prop_oneof![Just(0u32), 1u32..5, Just(i32::MAX as u32)],
        prop_oneof![
            3 => Just(RealServerState::Up),
            1 => Just(RealServerState::Drain),
            1 => Just(RealServerState::Closed),
            1 => Just(RealServerState::Inhibited),
            1 => Just(RealServerState::Down)
        ],
        prop_oneof![Just((0, 0)), (1u32..9, 0u32..9)],
    )
        .prop_map(|(method, weight, state, (upper, lower))| RealServer {
            method,
            weight,
            state,
            limits: Limits { upper, lower },
        })
}

fn gate() -> impl Strategy<Value = Gate> {
    prop_oneof![
        Just(Gate::Always),
        (1u16..LeaseSlot::LIMIT).prop_map(|slot| Gate::Lease(LeaseSlot(slot)))
    ]
}

fn hashing() -> impl Strategy<Value = Hashing> {
    any::<(bool, bool)>().prop_map(|(port, fallback)| Hashing { port, fallback })
}

fn persistence(whole: u8) -> impl Strategy<Value = Option<Persistence>> {
    proptest::option::of((1u64..100_000, 1u8..=whole).prop_map(|(secs, granularity)| Persistence {
        timeout: Duration::from_secs(secs),
        granularity,
    }))
}

fn virtual_server(four: bool) -> impl Strategy<Value = VirtualServer> {
    let server = (1u8..9, proptest::bool::weighted(0.2)).prop_map(move |(n, other)| {
        let four_or_six = match four != other {
            true => IpAddr::from([198, 51, 100, n]),
            false => IpAddr::from([0x2001, 0xdb8, n.into(), 0, 0, 0, 0xff, 1]),
        };
        SocketAddr::new(four_or_six, 3306)
    });
    (
        gate(),
        prop_oneof![
            Just(Scheduler::Rr),
            Just(Scheduler::Wrr),
            Just(Scheduler::Lc),
            Just(Scheduler::Wlc),
            Just(Scheduler::Sed),
            Just(Scheduler::Nq),
            hashing().prop_map(Scheduler::Sh),
            hashing().prop_map(Scheduler::Mh),
        ],
        1u64..100_000,
        prop_oneof![Just(OnDown::Reset), Just(OnDown::Keep)],
        persistence(if four { 32 } else { 128 }),
        btree_map(server, real_server(), 0..6),
    )
        .prop_map(move |(gate, scheduler, idle, on_down, persistence, mut real_servers)| {
            // Only a tunnel leads to the other family, unless that is this host.
            for (addr, server) in &mut real_servers {
                if addr.is_ipv4() != four && server.method != Method::Local {
                    server.method = Method::Tun;
                }
            }
            VirtualServer {
                gate,
                scheduler,
                idle_timeout: Duration::from_secs(idle),
                on_down,
                persistence,
                real_servers,
            }
        })
}

/// A table with up to five of each thing.
pub(crate) fn table() -> impl Strategy<Value = ForwardingTable> {
    (
        btree_map(key(vip()), virtual_server(true), 0..5),
        btree_map(key(vip6()), virtual_server(false), 0..3),
        btree_map(
            prop_oneof![2 => vip(), 1 => vip6()],
            (1u16..LeaseSlot::LIMIT).prop_map(LeaseSlot),
            0..5,
        ),
        btree_set((0u8..5).prop_map(|n| format!("eth{n}")), 0..5),
    )
        .prop_map(|(mut virtual_servers, more, vips, interfaces)| {
            virtual_servers.extend(more);
            ForwardingTable { virtual_servers, vips, interfaces }
        })
}
