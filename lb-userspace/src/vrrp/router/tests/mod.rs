//! A router with a shell around it that does everything at once, driven by hand.

mod clock;
mod conformance;
mod election;
mod handover;
mod lease;
mod options;
mod random;
mod reload;
mod table;
mod trouble;

use std::{net::Ipv4Addr, time::Duration};

use super::*;
use crate::{
    base::{net::Vrid, table::LeaseState},
    vrrp::{
        auth::Auth,
        garp::Garp,
        track::{Tracked, Verdict},
        wire::{GROUP, Options, Version},
    },
};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const LOW: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const HIGH: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

fn at(millis: u64) -> Instant {
    Instant::from_nanos(1_000_000_000_000 + millis * 1_000_000)
}

pub(super) fn config(priority: u8) -> Config {
    Config {
        version: Version::V2,
        vrid: Vrid::new(51).expect("nonzero"),
        priority: Priority(priority),
        interval: AdvertInterval::DEFAULT,
        auth: Auth::None,
        preempt: true,
        preempt_delay: Duration::ZERO,
        down_adverts: 3,
        lower_prio_no_advert: false,
        higher_prio_send_advert: false,
        owner_ignore_adverts: false,
        timer_expired_backup: None,
        told_handover: false,
        grouped: false,
        addresses: vec![VIP.into()],
        unicast_peers: vec![],
        wire: Options::default(),
        garp: Garp::default(),
        scripts: vec![],
        interfaces: vec![Tracked { name: "eth0".into(), weight: 0, reverse: false }],
    }
}

fn advert_from(config: &Config, source: Ipv4Addr, priority: u8) -> Input {
    let router = Router::new(config.clone(), at(0));
    let destination = if config.unicast_peers.is_empty() { GROUP } else { OWN };
    let advert = router.advert(Priority(priority));
    Input::Datagram(advert.datagram_v4(source, destination, ChecksumForm::PseudoHeader, 1))
}

/// A router with a shell around it that sends, adds and removes at once.
struct Bench {
    router: Router,
    now: u64,
    /// What it did, in words.
    done: Vec<String>,
    send_fails: bool,
    /// No lease can be written.
    lease_fails: bool,
    /// Since then no VIP is missing.
    prepared: bool,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self {
            router: Router::new(config, at(0)),
            now: 0,
            done: vec![],
            send_fails: false,
            lease_fails: false,
            prepared: false,
        }
    }

    /// In BACKUP at 0.
    fn backup(config: Config) -> Self {
        let mut bench = Self::new(config);
        bench.input(Input::Source(Some(OWN.into())));
        bench.input(Input::Interface { name: "eth0".into(), up: true });
        bench.input(Input::Converged { resume: None });
        bench.done.clear();
        bench
    }

    fn master(config: Config) -> Self {
        let mut bench = Self::backup(config);
        bench.run_to(5000);
        assert_eq!(bench.router.state(), VrrpState::Master);
        bench.done.clear();
        bench
    }

    fn input(&mut self, input: Input) {
        self.router.handle(input, at(self.now));
        self.drain();
    }

    fn hears(&mut self, source: Ipv4Addr, priority: u8) {
        let input = advert_from(self.router.config(), source, priority);
        self.input(input);
    }

    fn drain(&mut self) {
        while let Some(effect) = self.router.poll_effect() {
            let now = at(self.now);
            if self.lease_fails && matches!(effect, Effect::Lease(_)) {
                self.router.handle(Input::LeaseFault(Some("it is gone".into())), now);
            }
            let word = match effect {
                Effect::SendAdvert { priority } => {
                    let answer = if self.send_fails {
                        Input::AdvertFailed { error: "no route".into() }
                    } else {
                        Input::AdvertSent { at: now }
                    };
                    self.done.push(format!("{}:advert {priority}", self.now));
                    self.router.handle(answer, now);
                    continue;
                }
                Effect::Lease(LeaseState::Standby) => "standby".into(),
                Effect::Lease(LeaseState::Until(Instant::ZERO)) => "fence".into(),
                Effect::Lease(LeaseState::Until(end)) => {
                    format!("lease {}", end.saturating_since(at(0)).as_millis())
                }
                Effect::AddVips => {
                    self.done.push(format!("{}:add", self.now));
                    let added = u32::from(!std::mem::take(&mut self.prepared));
                    self.router.handle(Input::VipsSet { added }, now);
                    continue;
                }
                Effect::PrepareVips => {
                    self.done.push(format!("{}:prepare", self.now));
                    self.prepared = true;
                    self.router.handle(Input::VipsSet { added: 1 }, now);
                    continue;
                }
                Effect::RemoveVips => {
                    self.done.push(format!("{}:remove", self.now));
                    self.prepared = false;
                    self.router.handle(Input::VipsCleared, now);
                    continue;
                }
                Effect::Garp { repeat } => format!("garp {repeat}"),
                Effect::Probe => "probe".into(),
                Effect::GarpSource(address) => format!("garp of {address}"),
                Effect::Notify(Notify::State(state)) => format!("notify {}", state.name()),
                Effect::Notify(Notify::Stop) => "notify STOP".into(),
                Effect::Stopped => "stopped".into(),
                // tests::table has it.
                Effect::Notify(Notify::MasterRxLowerPri) => continue,
                Effect::Changed | Effect::Log { .. } => continue,
            };
            self.done.push(format!("{}:{word}", self.now));
        }
    }

    /// Fires every timer up to and at `end`.
    fn run_to(&mut self, end: u64) {
        while let Some(due) = self.router.poll_timeout().filter(|due| *due <= at(end)) {
            let nanos = due.saturating_since(at(0)).as_nanos();
            self.now = self.now.max(u64::try_from(nanos.div_ceil(1_000_000)).expect("small"));
            self.router.handle_timeout(at(self.now));
            self.drain();
        }
        self.now = end;
        self.router.handle_timeout(at(end));
        self.drain();
    }

    fn did(&mut self) -> Vec<String> {
        std::mem::take(&mut self.done)
    }

    fn adverts(&self) -> usize {
        self.done.iter().filter(|word| word.contains("advert")).count()
    }
}
