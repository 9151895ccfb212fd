//! A status with something of everything, for tests.

use std::collections::BTreeMap;

use crate::base::status::{
    CheckerStatus, FlowSyncStatus, ForwarderStatus, Health, InstanceCounters, InstanceStatus,
    InterfaceStatus, Lateness, ProcessStatus, QuorumStatus, RealServerStatus, ScriptCounters,
    ServerHealth, Status, StrayStatus, SyncPeerStatus, TimerStatus, VirtualServerStatus, VrrpState,
};

const KEY: &str = "tcp/192.0.2.10:3306";

pub(super) fn status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        instance: Some("lab".to_owned()),
        config_file: "/etc/lbd/lbd.conf".to_owned(),
        config_generation: 3,
        last_reload_error: Some("lbd.conf:7:3: unknown word `prority`".to_owned()),
        reloads: 4,
        reload_failures: 2,
        problems: vec!["metrics_listen 0.0.0.0:9650: address in use".to_owned()],
        bounds: BTreeMap::from([("open_questions".to_owned(), 1)]),
        scripts: ScriptCounters {
            started: 12,
            refused: 1,
            displaced: 0,
            outcomes: BTreeMap::from([("exit_0".to_owned(), 10), ("timed_out".to_owned(), 2)]),
        },
        processes: vec![
            process("vrrp", 41, 1, Some("killed by SIGKILL")),
            process("api", 0, 4, Some("exit code 1")),
        ],
        vrrp: vec![instance()],
        vrrp_timers: timers(),
        strays: vec![stray("vrid_unknown", Some(77), 120), stray("ip_checksum", None, 3)],
        servers: vec![
            health("192.0.2.21:3306", Health::Up),
            health("192.0.2.22:3306", Health::Down),
        ],
        quorum: vec![QuorumStatus {
            virtual_server: KEY.to_owned(),
            quorum: 2,
            up_weight: 1,
            quorum_up: false,
            sorry_in_use: false,
        }],
        forwarder: Some(forwarder()),
    }
}

fn stray(reason: &str, vrid: Option<u8>, count: u64) -> StrayStatus {
    StrayStatus { interface: "eth0".to_owned(), reason: reason.to_owned(), vrid, count }
}

fn process(role: &str, pid: u32, restarts: u64, last_exit: Option<&str>) -> ProcessStatus {
    ProcessStatus {
        role: role.to_owned(),
        pid,
        restarts,
        up_s: 3725,
        ready: pid != 0,
        last_exit: last_exit.map(str::to_owned),
    }
}

fn instance() -> InstanceStatus {
    InstanceStatus {
        name: "VI_1".to_owned(),
        interface: "eth0".to_owned(),
        vrid: 51,
        version: 2,
        state: VrrpState::Master,
        base_priority: 100,
        effective_priority: 90,
        vips: vec!["192.0.2.10/24".to_owned()],
        vips_set: true,
        master: None,
        master_priority: None,
        master_interval_ms: 1000,
        lease_ms: Some(2710),
        reason: "no peer was heard for 3.6 s".to_owned(),
        why: Default::default(),
        last_transition_ms: 1_790_000_000_000,
        counters: InstanceCounters {
            advert_sent: 77,
            become_master: 1,
            discarded: BTreeMap::from([("wrong_password".to_owned(), 5)]),
            ..InstanceCounters::default()
        },
    }
}

fn timers() -> TimerStatus {
    let late = |counts: &[(u64, u64)], total_us| Lateness {
        late_us: counts.iter().copied().collect(),
        total_us,
    };
    TimerStatus {
        advert: late(&[(50, 70), (1_000, 7), (u64::MAX, 0)], 4_500),
        master_down: late(&[(50, 1), (1_000, 0), (u64::MAX, 1)], 3_000_000),
    }
}

fn health(addr: &str, health: Health) -> ServerHealth {
    ServerHealth {
        virtual_server: KEY.to_owned(),
        real_server: addr.parse().expect("address"),
        health,
        weight: 1,
        checkers: vec![CheckerStatus {
            kind: "MYSQL_CHECK".to_owned(),
            target: addr.to_owned(),
            health,
            detail: "ping \"ok\"".to_owned(),
            last_us: 1_250,
            probes: 6,
            failures: 1,
            latency_us: BTreeMap::from([(1_000, 2), (2_500, 3), (u64::MAX, 1)]),
            latency_total_us: 2_000_000,
            restarts: 0,
            deferred: 5,
        }],
    }
}

fn forwarder() -> ForwarderStatus {
    let server = |addr: &str, state: &str, admin: Option<&str>| RealServerStatus {
        addr: addr.parse().expect("address"),
        method: "NAT".to_owned(),
        weight: 1,
        state: state.to_owned(),
        admin: admin.map(str::to_owned),
        problem: None,
        active_connections: 17,
        stale_connections: if admin.is_some() { 3 } else { 0 },
        ends_in_ms: admin.map(|_| 42_500),
        connections: 4_000,
        packets: 50_000,
        bytes: 9_000_000,
        generation: 2,
        next_hop: None,
    };
    ForwarderStatus {
        engine: "xdp".to_owned(),
        engine_reason: String::new(),
        limits: Vec::new(),
        foreign_services: Vec::new(),
        generation: 3,
        problem: None,
        interfaces: vec![InterfaceStatus {
            name: "eth0".to_owned(),
            ifindex: 2,
            mode: "native".to_owned(),
            reason: "driver mlx5_core takes native XDP".to_owned(),
            problem: None,
        }],
        virtual_servers: vec![VirtualServerStatus {
            key: KEY.to_owned(),
            engine: "xdp".to_owned(),
            placement: "auto".to_owned(),
            scheduler: "wlc".to_owned(),
            instance: Some("VI_1".to_owned()),
            connections: 8_000,
            unavailable: 3,
            table_full: 2,
            resets: 5,
            templates: Some(12),
            templates_full: 4,
            packets: 100_000,
            bytes: 18_000_000,
            real_servers: vec![
                server("192.0.2.21:3306", "UP", None),
                server("192.0.2.22:3306", "DRAIN", Some("drained")),
            ],
        }],
        outcomes: BTreeMap::from([("forwarded_nat".to_owned(), 99_000), ("fenced".to_owned(), 0)]),
        flows: 34,
        flows_max: 131_072,
        embryos: 1,
        reconcile_errors: 0,
        ns_per_packet: Some(58),
        verdict_us: BTreeMap::from([(500, 2), (1000, 1)]),
        verdict_total_us: 1200,
        reset_segments: BTreeMap::from([("probe".to_owned(), 9), ("reset".to_owned(), 8)]),
        flow_sync: Some(flow_sync()),
    }
}

fn flow_sync() -> FlowSyncStatus {
    let counts =
        |of: &[(&str, u64)]| of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    FlowSyncStatus {
        problem: None,
        settled: true,
        peers: vec![SyncPeerStatus {
            addr: [192, 0, 2, 2].into(),
            state: "in sync".to_owned(),
            heard_ms: Some(120),
            behind: 4,
            received: counts(&[("opened", 31), ("refreshed", 32), ("closed", 33)]),
            datagrams_received: 34,
            duplicates: 5,
            gaps: 6,
            resyncs: 1,
        }],
        sent: counts(&[("opened", 20), ("refreshed", 22), ("closed", 21)]),
        datagrams_sent: 23,
        repaired: 7,
        resyncs_sent: 2,
        datagrams_lost: 8,
        changes_lost: 13,
        rejected: counts(&[("forged", 11), ("replayed", 0)]),
        connections: counts(&[("entered", 63), ("unknown_server", 12)]),
    }
}
