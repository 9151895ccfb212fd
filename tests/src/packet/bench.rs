//! Nanoseconds per packet of the shipped object, by the wrapper method (reference/xdp.md §6).

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ProgramArray},
    programs::{Program, ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    abi::{self, Addr, Control, Flow, FlowKey4, Real, Service, be16, macs},
    maps,
    verdict::Outcome,
};
use lb_userspace::dataplane::xdp::object::BENCH_OBJECT;
use serde::Serialize;

use super::{
    build::{ACK, Family, LB_MAC, SYN, Tcp, in_family, mac},
    engine::{Engine, addr},
};

const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 200, 1, 1), 3306);
const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 0, 0), 0);
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(172, 16, 0, 1), 3306);
/// Established flows that are walked through.
const FLOWS: u64 = 1024;
/// Room for embryos, as shipped, and how many a run may make without an eviction.
const EMBRYOS: u32 = maps::EMBRYO_DEFAULT;
const INSERTIONS: u32 = EMBRYOS / 2;

/// Method, and whether frames go back by XDP_TX, as on a NIC, or by a redirect, as on veth.
type Way = (u8, bool);
const DR: Way = (abi::METHOD_DR, true);
const NAT: Way = (abi::METHOD_NAT, true);
const BY_VETH: Way = (abi::METHOD_DR, false);
const NAT_BY_VETH: Way = (abi::METHOD_NAT, false);
const TUN: Way = (abi::METHOD_TUN, true);

/// Where the program under test is, and what of the bench belongs there.
struct Hook {
    wrapper: &'static str,
    jump: &'static str,
    program: &'static str,
    /// The case that others are compared with.
    floor: &'static str,
}

const XDP: Hook = Hook {
    wrapper: "bench_wrapper",
    jump: "jump",
    program: maps::PROGRAM,
    floor: "floor: MAC swap",
};
/// The header that the program puts on is taken off again before the next run, which costs what a second head move does.
const TUNNEL: Hook = Hook { wrapper: "bench_wrapper_tunnel", ..XDP };
const TC: Hook = Hook {
    wrapper: "bench_wrapper_tc",
    jump: "jump_tc",
    program: maps::PROGRAM_TC,
    floor: "floor: MAC swap, tc",
};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Times each case is run, the cases taking turns.
    pub rounds: usize,
    /// Packets in each run.
    pub repeat: u32,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub case: &'static str,
    /// Fastest run, ns per packet.
    pub min: u64,
    /// Median run, ns per packet.
    pub median: u64,
    /// Median over that of the hook's MAC-swap floor.
    pub ratio: f64,
    /// Smallest cost over the floor: min less the floor's min.
    pub net_min: i64,
    /// Usual cost over the floor: median less the floor's median.
    pub net_median: i64,
    /// DESIGN §6, in ns over the floor.
    pub budget: Option<i64>,
}

struct Case {
    name: &'static str,
    budget: Option<i64>,
    hook: &'static Hook,
    wrapper: Ebpf,
    /// The program under test; its maps live as long as this does.
    engine: Option<Engine>,
    /// What every packet must be counted as, so that no other path is measured by mistake.
    outcome: Option<Outcome>,
    frame: Vec<u8>,
    /// Embryos are taken out before each run, which is short enough not to fill their table: the
    /// connections of every day. Otherwise each new one evicts another: a flood.
    room: bool,
    runs: Vec<u64>,
}

impl Case {
    fn floor(hook: &'static Hook, name: &'static str, program: &str) -> Result<Self> {
        let mut wrapper = load_wrapper()?;
        let fd = fd_of(&wrapper, program)?;
        aim(&mut wrapper, hook, &fd)?;
        let frame = Tcp::new(CLIENT, VIP, ACK).payload(&[0; 32]).frame();
        set_up(&mut wrapper, &frame, 0)?;
        let budget = None;
        let (engine, outcome, room, runs) = (None, None, false, Vec::new());
        Ok(Self { name, budget, hook, wrapper, engine, outcome, frame, room, runs })
    }

    fn of(
        name: &'static str,
        budget: impl Into<Option<i64>>,
        way: Way,
        segment: &Tcp,
        outcome: Outcome,
        walk: u64,
    ) -> Result<Self> {
        Self::on(&XDP, name, budget, way, segment, outcome, walk)
    }

    fn on(
        hook: &'static Hook,
        name: &'static str,
        budget: impl Into<Option<i64>>,
        (method, by_nic): Way,
        segment: &Tcp,
        outcome: Outcome,
        walk: u64,
    ) -> Result<Self> {
        let mut engine = Engine::load(maps::FLOWS_DEFAULT, EMBRYOS)?;
        let real = Real {
            generation: 1,
            state: abi::STATE_UP,
            method,
            ifindex: 1,
            macs: macs(mac(101), LB_MAC),
            service: 1,
            flags: abi::FLAG_RESOLVED | if by_nic { abi::FLAG_TX } else { 0 },
            ..Real::default()
        }
        .with_nat(addr(VIP.0), be16(VIP.1), addr(SERVER.0), be16(SERVER.1))
        .with_tunnel(addr(SERVER.0), 1500);
        engine.real(1, real)?;
        let service = Service { id: 1, scheduler: abi::SCHED_WLC, ..Service::default() };
        engine.service(VIP, service, &[(1, 1)])?;
        let mut wrapper = load_wrapper()?;
        aim(&mut wrapper, hook, &engine.any_program(hook.program)?.fd()?.try_clone()?)?;
        let frame = segment.clone().payload(&[0; 32]).frame();
        let mut case = Self {
            name,
            budget: budget.into(),
            hook,
            wrapper,
            engine: Some(engine),
            outcome: Some(outcome),
            frame,
            room: false,
            runs: Vec::new(),
        };
        // Establish what is to be established: once through all clients, mid-stream.
        use Outcome::{DrForwarded, NatForwarded, NatReply, TunForwarded};
        if matches!(outcome, DrForwarded | NatForwarded | NatReply | TunForwarded) {
            let open = Tcp::new(CLIENT, VIP, ACK).payload(&[0; 32]).frame();
            set_up(&mut case.wrapper, &open, FLOWS)?;
            case.time(FLOWS as u32 * 2)?;
        }
        let frame = case.frame.clone();
        set_up(&mut case.wrapper, &frame, walk)?;
        Ok(case)
    }

    fn time(&self, repeat: u32) -> Result<u64> {
        let options =
            TestRunOptions { data_in: Some(&self.frame), repeat, ..TestRunOptions::default() };
        let result = match self.wrapper.program(self.hook.wrapper).context("wrapper")? {
            Program::Xdp(program) => program.test_run(options)?,
            Program::SchedClassifier(program) => program.test_run(options)?,
            _ => bail!("the wrapper is of neither hook"),
        };
        ensure!(result.return_value != 0, "the wrapper could not go on");
        Ok(u64::try_from(result.duration.as_nanos())?)
    }

    /// As a case of connections of every day.
    fn with_room(mut self) -> Self {
        self.room = true;
        self
    }

    /// As a case of `members` real servers, the first of which has a limit if asked.
    fn with_pool(mut self, members: u16, flags: u16, upper: u32) -> Result<Self> {
        let engine = self.engine.as_mut().context("a floor has no pool")?;
        let real = engine.array::<Real>(maps::REALS_MAP)?.get(&1, 0)?;
        for id in 1..=members {
            let upper = if id == 1 { upper } else { 0 };
            engine.real(id, Real { upper, ..real })?;
        }
        let service = Service { id: 1, scheduler: abi::SCHED_WLC, flags, ..Service::default() };
        let pool: Vec<_> = (1..=members).map(|id| (id, 1)).collect();
        engine.service(VIP, service, &pool)?;
        Ok(self)
    }

    /// As a case of a virtual server with persistence: each client is a new one.
    fn with_persistence(mut self) -> Result<Self> {
        let engine = self.engine.as_mut().context("a floor has no clients")?;
        let granularity = Addr { words: [u32::MAX; 4] };
        let real = engine.array::<Real>(maps::REALS_MAP)?.get(&1, 0)?;
        engine.real(1, Real { granularity, ..real })?;
        let control = engine.array::<Control>(maps::CONTROL)?.get(&0, 0)?;
        engine.array(maps::CONTROL)?.set(0, Control { second: 1000, ..control }, 0)?;
        let scheduler = abi::SCHED_WLC;
        let persistence_secs = 360;
        let service =
            Service { id: 1, scheduler, persistence_secs, granularity, ..Service::default() };
        engine.service(VIP, service, &[(1, 1)])?;
        Ok(self)
    }

    fn make_room(&mut self) -> Result<()> {
        let engine = self.engine.as_mut().context("a floor has no embryos")?;
        let mut embryos = engine.hash::<FlowKey4, Flow>(maps::EMBRYO4)?;
        let keys: Vec<FlowKey4> = embryos.keys().collect::<Result<_, _>>()?;
        Ok(keys.iter().try_for_each(|key| embryos.remove(key))?)
    }

    fn run(&mut self, repeat: u32) -> Result<()> {
        let mut repeat = repeat;
        if self.room {
            self.make_room()?;
            repeat = repeat.min(INSERTIONS);
        }
        let before = self.counted()?;
        let time = self.time(repeat)?;
        let after = self.counted()?;
        ensure!(
            after - before == if self.outcome.is_some() { u64::from(repeat) } else { 0 },
            "{}: {} of {repeat} packets took the path that is measured",
            self.name,
            after - before
        );
        self.runs.push(time);
        Ok(())
    }

    fn counted(&self) -> Result<u64> {
        match (&self.engine, self.outcome) {
            (Some(engine), Some(outcome)) => Ok(engine.outcomes()?[&outcome]),
            _ => Ok(0),
        }
    }
}

fn load_wrapper() -> Result<Ebpf> {
    let mut wrapper = EbpfLoader::new().load(BENCH_OBJECT).context("load the bench's wrapper")?;
    for name in ["bench_wrapper", "bench_wrapper_tunnel", "floor_pass", "floor_swap"] {
        let program: &mut Xdp = wrapper.program_mut(name).context("bench program")?.try_into()?;
        program.load().with_context(|| format!("verifier refuses {name}"))?;
    }
    for name in ["bench_wrapper_tc", "floor_pass_tc", "floor_swap_tc"] {
        let program: &mut SchedClassifier =
            wrapper.program_mut(name).context("bench program")?.try_into()?;
        program.load().with_context(|| format!("verifier refuses {name}"))?;
    }
    Ok(wrapper)
}

fn fd_of(wrapper: &Ebpf, name: &str) -> Result<ProgramFd> {
    Ok(wrapper.program(name).context("bench program")?.fd()?.try_clone()?)
}

fn aim(wrapper: &mut Ebpf, hook: &Hook, program: &ProgramFd) -> Result<()> {
    let mut jump = ProgramArray::try_from(wrapper.map_mut(hook.jump).context("jump")?)?;
    Ok(jump.set(0, program, 0)?)
}

fn set_up(wrapper: &mut Ebpf, frame: &[u8], walk: u64) -> Result<()> {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(frame.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    let template = wrapper.map_mut("template").context("template")?;
    Array::<_, [u64; 8]>::try_from(template)?.set(0, words, 0)?;
    let mut array = Array::<_, u64>::try_from(wrapper.map_mut("walk").context("walk")?)?;
    array.set(0, walk, 0)?;
    array.set(1, 0, 0)?;
    Ok(())
}

/// Runs every case `rounds` times, interleaved, on the CPU that the caller has pinned itself to.
///
/// # Errors
/// When a program does not load, or packets took another path than the one named.
pub fn measure(effort: Effort) -> Result<Vec<Line>> {
    let foreign = Tcp::new(CLIENT, (Ipv4Addr::new(10, 9, 8, 7), 80), ACK);
    let ack = Tcp::new(CLIENT, VIP, ACK);
    let syn = Tcp::new(CLIENT, VIP, SYN);
    let mut cases = vec![
        Case::floor(&XDP, "floor: empty pass", "floor_pass")?,
        Case::floor(&XDP, XDP.floor, "floor_swap")?,
        Case::of("foreign", 6, DR, &foreign, Outcome::Foreign, 0)?,
        Case::of("established DR", 55, DR, &ack, Outcome::DrForwarded, FLOWS)?,
        Case::of("established DR, veth", None, BY_VETH, &ack, Outcome::DrForwarded, FLOWS)?,
        in_family(Family::Six, || {
            Case::of("established DR, IPv6", 70, DR, &ack, Outcome::DrForwarded, FLOWS)
        })?,
        in_family(Family::Six, || {
            Case::of("established NAT, IPv6", None, NAT, &ack, Outcome::NatForwarded, FLOWS)
        })?,
        Case::of("established NAT", 60, NAT, &ack, Outcome::NatForwarded, FLOWS)?,
        Case::on(&TUNNEL, "established TUN", 75, TUN, &ack, Outcome::TunForwarded, FLOWS)?,
        Case::of("new flow", 450, DR, &syn, Outcome::Scheduled, 1 << 32)?.with_room(),
        Case::of("new flow, of 8", None, DR, &syn, Outcome::Scheduled, 1 << 32)?
            .with_room()
            .with_pool(8, 0, 0)?,
        Case::of("new flow, of 8, limit", None, DR, &syn, Outcome::Scheduled, 1 << 32)?
            .with_room()
            .with_pool(8, abi::SERVICE_LIMITED, 1 << 20)?,
        Case::of("new flow, persistent", None, DR, &syn, Outcome::Scheduled, 1 << 32)?
            .with_room()
            .with_persistence()?,
        Case::of("new flow, flood", None, DR, &syn, Outcome::Scheduled, 1 << 32)?,
        Case::floor(&TC, "floor: empty pass, tc", "floor_pass_tc")?,
        Case::floor(&TC, TC.floor, "floor_swap_tc")?,
        Case::on(&TC, "foreign, tc", None, DR, &foreign, Outcome::Foreign, 0)?,
        Case::on(&TC, "established DR, tc", None, BY_VETH, &ack, Outcome::DrForwarded, FLOWS)?,
        Case::on(
            &TC,
            "established NAT, tc",
            None,
            NAT_BY_VETH,
            &ack,
            Outcome::NatForwarded,
            FLOWS,
        )?,
        in_family(Family::Six, || {
            let (name, way) = ("established NAT, IPv6, tc", NAT_BY_VETH);
            Case::on(&TC, name, None, way, &ack, Outcome::NatForwarded, FLOWS)
        })?,
        Case::on(&TC, "new flow, tc", None, BY_VETH, &syn, Outcome::Scheduled, 1 << 32)?
            .with_room(),
    ];
    for _ in 0..effort.rounds {
        for case in &mut cases {
            case.run(effort.repeat)?;
        }
    }
    let sorted: BTreeMap<_, _> = cases
        .iter()
        .map(|case| {
            let mut runs = case.runs.clone();
            runs.sort_unstable();
            (case.name, runs)
        })
        .collect();
    let summary = |name| {
        let runs: &Vec<u64> = &sorted[name];
        (runs[0], runs[runs.len() / 2])
    };
    Ok(cases
        .iter()
        .map(|case| {
            let (min, median) = summary(case.name);
            let (floor_min, floor_median) = summary(case.hook.floor);
            Line {
                case: case.name,
                min,
                median,
                ratio: median as f64 / floor_median as f64,
                net_min: min as i64 - floor_min as i64,
                net_median: median as i64 - floor_median as i64,
                budget: case.budget,
            }
        })
        .collect())
}
