//! The test bed of the packet suites: a load balancer that is master of its VIPs.

use std::net::Ipv4Addr;

use lb_common::{
    abi::{self, Real, Service, be16, macs},
    maps,
    verdict::{Action, Outcome},
};

use super::{
    build::{ACK, LB_MAC, RST, SYN, Tcp, is_six, is_tc, mac},
    engine::{DROP, Engine, PASS, REDIRECT, Ran, TX, addr},
};

pub const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 200, 1, 1), 3306);
pub const VIP2: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 200, 1, 2), 3306);
/// A VIP without virtual server.
pub const BARE_VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 9);
pub const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 10), 40_000);
pub const GATE: u16 = 3;
pub const SERVICE: u16 = 1;
pub const SERVER_PORT: u16 = 13_306;

pub fn server(id: u16) -> (Ipv4Addr, u16) {
    (Ipv4Addr::new(172, 16, 0, id as u8), SERVER_PORT)
}

pub fn real(id: u16, method: u8) -> Real {
    let (name, port) = server(id);
    Real {
        generation: 7,
        gate: GATE,
        state: abi::STATE_UP,
        method,
        ifindex: 1,
        macs: macs(mac(100 + id as u8), LB_MAC),
        service: SERVICE,
        flags: abi::FLAG_RESOLVED,
        ..Real::default()
    }
    .with_nat(addr(VIP.0), be16(VIP.1), addr(name), be16(port))
}

pub fn service(scheduler: u8) -> Service {
    Service { id: SERVICE, gate: GATE, scheduler, ..Service::default() }
}

/// A load balancer, master of its VIPs, with one virtual server of (id, weight) real servers.
pub struct Bed {
    pub engine: Engine,
    pub scheduler: u8,
}

impl Bed {
    /// `None` when packet tests cannot run here.
    pub fn new(scheduler: u8, method: u8, members: &[(u16, u32)]) -> Option<Self> {
        Self::sized(scheduler, method, members, 8192, 8192)
    }

    pub fn sized(
        scheduler: u8,
        method: u8,
        members: &[(u16, u32)],
        flows: u32,
        embryos: u32,
    ) -> Option<Self> {
        if !super::ready() {
            return None;
        }
        let engine = Engine::load(flows, embryos).expect("the shipped object loads");
        Some(Self::over(engine, scheduler, method, members))
    }

    /// Over an engine that was loaded with sizes of its own.
    pub fn over(mut engine: Engine, scheduler: u8, method: u8, members: &[(u16, u32)]) -> Self {
        engine.lease(GATE, abi::LEASE_ALWAYS).expect("lease");
        for &(id, _) in members {
            engine.real(id, real(id, method)).expect("real server");
        }
        engine.service(VIP, service(scheduler), members).expect("virtual server");
        engine.vip(BARE_VIP, GATE, 0).expect("VIP");
        Self { engine, scheduler }
    }

    pub fn run(&mut self, frame: &[u8]) -> Ran {
        self.run_out(frame, REDIRECT)
    }

    /// As [`Bed::run`], with the action by which a frame leaves.
    fn run_out(&mut self, frame: &[u8], out: u32) -> Ran {
        let ran = self.engine.run(frame).unwrap_or_else(|error| panic!("{error:#}"));
        let action = match ran.outcome.action() {
            Action::Pass => PASS,
            Action::Drop => DROP,
            Action::Forward | Action::Reset => out,
        };
        assert_eq!(ran.action, action, "action of {:?}", ran.outcome);
        if action == PASS {
            assert_eq!(ran.frame, frame, "a passed packet is untouched ({:?})", ran.outcome);
        }
        ran
    }

    /// As [`Bed::expect`], for a frame that goes back by XDP_TX; tc has nothing of the kind.
    pub fn expect_back(&mut self, segment: &Tcp, outcome: Outcome) -> Tcp {
        let ran = self.run_out(&segment.frame(), if is_tc() { REDIRECT } else { TX });
        assert_eq!(ran.outcome, outcome, "for {segment:?}");
        Tcp::read(&ran.frame)
    }

    pub fn expect(&mut self, segment: &Tcp, outcome: Outcome) -> Tcp {
        let ran = self.run(&segment.frame());
        assert_eq!(ran.outcome, outcome, "for {segment:?}");
        Tcp::read(&ran.frame)
    }

    /// SYN and ACK of a client; the id of the server that got them.
    pub fn connect(&mut self, client: (Ipv4Addr, u16)) -> u16 {
        let syn = self.expect(&Tcp::new(client, VIP, SYN).syn_options(), Outcome::Scheduled);
        let ack = self.expect(&Tcp::new(client, VIP, ACK), Outcome::Promoted);
        assert_eq!(syn.to_mac, ack.to_mac, "both segments go to one server");
        server_of(&syn)
    }

    pub fn set(&mut self, id: u16, change: impl FnOnce(&mut Real)) {
        let mut array = self.engine.array::<Real>(maps::REALS_MAP).expect("reals");
        let mut entry = array.get(&id.into(), 0).expect("real");
        change(&mut entry);
        array.set(id.into(), entry, 0).expect("real");
    }

    /// Makes only `members` selectable, through the other half as the loader does.
    pub fn select(&mut self, members: &[(u16, u32)]) {
        let service = Service { half: 1, ..service(self.scheduler) };
        self.engine.service(VIP, service, members).expect("virtual server");
    }
}

pub fn server_of(segment: &Tcp) -> u16 {
    u16::from(segment.to_mac[5]) - 100
}

pub fn client(index: u16) -> (Ipv4Addr, u16) {
    (CLIENT.0, 20_000 + index)
}

/// What comes out of DR: only the MAC addresses differ.
pub fn assert_dr(sent: &Tcp, got: &Tcp, id: u16) {
    let expected = Tcp { to_mac: mac(100 + id as u8), from_mac: LB_MAC, ..sent.clone() };
    assert_eq!(*got, expected);
}

/// The part of a frame that its IP header claims.
pub fn trimmed(frame: &[u8]) -> Vec<u8> {
    let len = if is_six() {
        40 + u16::from_be_bytes([frame[18], frame[19]])
    } else {
        u16::from_be_bytes([frame[16], frame[17]])
    };
    frame[..14 + usize::from(len)].to_vec()
}

/// `reset` answers `segment` with the exact sequence number that its sender expects (RFC 5961).
pub fn assert_reset(reset: &Tcp, segment: &Tcp) {
    let expected = Tcp {
        from_mac: segment.to_mac,
        to_mac: segment.from_mac,
        src: segment.dst,
        dst: segment.src,
        sport: segment.dport,
        dport: segment.sport,
        flags: RST,
        seq: segment.ack,
        ack: 0,
        ttl: 64,
        options: Vec::new(),
        payload: Vec::new(),
    };
    assert_eq!(*reset, expected);
}

/// Shortest RST: both headers behind the Ethernet header.
pub fn shortest() -> usize {
    if is_six() { 74 } else { 54 }
}

pub const DR: u8 = abi::METHOD_DR;
pub const NAT: u8 = abi::METHOD_NAT;
