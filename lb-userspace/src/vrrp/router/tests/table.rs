//! Every state with every input: what comes next, and what is done, in order. A new state or input
//! does not compile without its rows.

use self::{Given as I, Kind as S};
use super::*;

/// A state, a master's phases told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Init,
    Backup,
    /// In a sync group, its wait is over.
    Wanting,
    Announcing,
    Guarding,
    /// In a sync group, its guard is over.
    Ready,
    Active,
    Fault,
    Stopping,
    Stopped,
}

impl Kind {
    /// The first with its successors reaches every one: a new one does not compile without.
    fn next(self) -> Option<Self> {
        match self {
            Self::Init => Some(Self::Backup),
            Self::Backup => Some(Self::Wanting),
            Self::Wanting => Some(Self::Announcing),
            Self::Announcing => Some(Self::Guarding),
            Self::Guarding => Some(Self::Ready),
            Self::Ready => Some(Self::Active),
            Self::Active => Some(Self::Fault),
            Self::Fault => Some(Self::Stopping),
            Self::Stopping => Some(Self::Stopped),
            Self::Stopped => None,
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::Init), |it| it.next())
    }
}

/// An input, by what matters of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Higher,
    Lower,
    Farewell,
    Garbage,
    Converged,
    AdvertSent,
    AdvertFailed,
    VipsSet,
    VipsCleared,
    VipLost,
    HoldLost,
    Claim,
    SourceLost,
    SourceFound,
    InterfaceDown,
    InterfaceUp,
    ScriptBad,
    ScriptGood,
    Configure,
    Stop,
    Announce,
    Forward,
    Yield,
    Hold,
    Unhold,
    Weight,
}

impl Given {
    /// The first with its successors reaches every one: a new one does not compile without.
    fn next(self) -> Option<Self> {
        match self {
            Self::Higher => Some(Self::Lower),
            Self::Lower => Some(Self::Farewell),
            Self::Farewell => Some(Self::Garbage),
            Self::Garbage => Some(Self::Converged),
            Self::Converged => Some(Self::AdvertSent),
            Self::AdvertSent => Some(Self::AdvertFailed),
            Self::AdvertFailed => Some(Self::VipsSet),
            Self::VipsSet => Some(Self::VipsCleared),
            Self::VipsCleared => Some(Self::VipLost),
            Self::VipLost => Some(Self::HoldLost),
            Self::HoldLost => Some(Self::Claim),
            Self::Claim => Some(Self::SourceLost),
            Self::SourceLost => Some(Self::SourceFound),
            Self::SourceFound => Some(Self::InterfaceDown),
            Self::InterfaceDown => Some(Self::InterfaceUp),
            Self::InterfaceUp => Some(Self::ScriptBad),
            Self::ScriptBad => Some(Self::ScriptGood),
            Self::ScriptGood => Some(Self::Configure),
            Self::Configure => Some(Self::Stop),
            Self::Stop => Some(Self::Announce),
            Self::Announce => Some(Self::Forward),
            Self::Forward => Some(Self::Yield),
            Self::Yield => Some(Self::Hold),
            Self::Hold => Some(Self::Unhold),
            Self::Unhold => Some(Self::Weight),
            Self::Weight => None,
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::Higher), |it| it.next())
    }
}

impl Kind {
    fn of(state: &State) -> Self {
        match state {
            State::Init => Self::Init,
            State::Backup { wait: Wait::Group, .. } => Self::Wanting,
            State::Backup { .. } => Self::Backup,
            State::Master { phase: Phase::Ready, .. } => Self::Ready,
            State::Master { phase: Phase::Announcing, .. } => Self::Announcing,
            State::Master { phase: Phase::Guard(_), .. } => Self::Guarding,
            State::Master { phase: Phase::Active, .. } => Self::Active,
            State::Fault => Self::Fault,
            State::Stopping => Self::Stopping,
            State::Stopped => Self::Stopped,
        }
    }

    /// A router that has come to this state by itself; its effects are done, but not the removal
    /// of the VIPs in `Stopping`.
    fn bench(self) -> Bench {
        let scripts = vec![Tracked { name: "chk".into(), weight: 0, reverse: false }];
        let grouped = matches!(self, Self::Wanting | Self::Ready);
        let tracked = Config { scripts, grouped, ..config(100) };
        let mut bench = Bench::new(tracked);
        bench.input(Input::Source(Some(OWN.into())));
        bench.input(Input::Interface { name: "eth0".into(), up: true });
        bench.input(Input::Script { name: "chk".into(), verdict: Verdict::Good });
        if self != Self::Init {
            bench.input(Input::Converged { resume: None });
        }
        match self {
            Self::Init | Self::Backup => {}
            Self::Announcing => {
                bench.send_fails = true;
                bench.run_to(3700);
            }
            Self::Guarding => {
                bench.run_to(3000);
                bench.hears(HIGH, 50);
                bench.run_to(3612);
            }
            Self::Wanting => bench.run_to(4000),
            Self::Ready => {
                bench.run_to(4000);
                bench.input(Input::Group(Order::Announce));
            }
            Self::Active => bench.run_to(4000),
            Self::Fault => bench.input(Input::Interface { name: "eth0".into(), up: false }),
            Self::Stopping => {
                bench.run_to(4000);
                bench.router.handle(Input::Stop, at(4000));
                while bench.router.poll_effect().is_some() {}
            }
            Self::Stopped => bench.input(Input::Stop),
        }
        assert_eq!(Self::of(&bench.router.state), self);
        bench
    }
}

impl Given {
    fn input(self) -> Input {
        match self {
            Self::Higher => advert_from(&config(100), HIGH, 200),
            Self::Lower => advert_from(&config(100), HIGH, 50),
            Self::Farewell => advert_from(&config(100), HIGH, 0),
            Self::Garbage => Input::Datagram(vec![0x45; 10]),
            Self::Converged => Input::Converged { resume: None },
            Self::AdvertSent => Input::AdvertSent { at: at(4000) },
            Self::AdvertFailed => Input::AdvertFailed { error: "no route".into() },
            Self::VipsSet => Input::VipsSet { added: 1 },
            Self::VipsCleared => Input::VipsCleared,
            Self::VipLost => Input::VipLost { address: VIP.into() },
            Self::HoldLost => Input::HoldLost { what: "route x".into(), tracked: false },
            Self::Claim => Input::Claim { address: VIP.into(), mac: Mac([2, 0, 0, 0, 0, 9]) },
            Self::SourceLost => Input::Source(None),
            Self::SourceFound => Input::Source(Some(OWN.into())),
            Self::InterfaceDown => Input::Interface { name: "eth0".into(), up: false },
            Self::InterfaceUp => Input::Interface { name: "eth0".into(), up: true },
            Self::ScriptBad => Input::Script { name: "chk".into(), verdict: Verdict::Bad },
            Self::ScriptGood => Input::Script { name: "chk".into(), verdict: Verdict::Good },
            Self::Configure => {
                let scripts = vec![Tracked { name: "chk".into(), weight: 0, reverse: false }];
                Input::Configure(Box::new(Config { scripts, ..config(90) }))
            }
            Self::Stop => Input::Stop,
            Self::Announce => Input::Group(Order::Announce),
            Self::Forward => Input::Group(Order::Forward),
            Self::Yield => Input::Group(Order::Yield { why: "b is backup".into() }),
            Self::Hold => Input::Group(Order::Hold(Some("b is in FAULT".into()))),
            Self::Unhold => Input::Group(Order::Hold(None)),
            Self::Weight => Input::Group(Order::Weight(-20)),
        }
    }

    /// Which rows an input has: a new input does not compile without one.
    fn of(input: &Input) -> &'static [Self] {
        match input {
            Input::Datagram(_) => &[Self::Higher, Self::Lower, Self::Farewell, Self::Garbage],
            Input::Converged { .. } => &[Self::Converged],
            Input::AdvertSent { .. } => &[Self::AdvertSent],
            Input::AdvertFailed { .. } => &[Self::AdvertFailed],
            Input::VipsSet { .. } => &[Self::VipsSet],
            Input::VipsCleared => &[Self::VipsCleared],
            Input::VipLost { .. } => &[Self::VipLost],
            Input::HoldLost { .. } => &[Self::HoldLost],
            Input::Claim { .. } => &[Self::Claim],
            Input::Source(_) => &[Self::SourceLost, Self::SourceFound],
            Input::Interface { .. } => &[Self::InterfaceDown, Self::InterfaceUp],
            Input::Script { .. } => &[Self::ScriptBad, Self::ScriptGood],
            Input::Configure(_) => &[Self::Configure],
            Input::Stop => &[Self::Stop],
            // Only what is sent, or when a wait began, depends on them: see the next test.
            Input::Mtu(_) | Input::WallClock(_) | Input::Listen => &[],
            // tests::handover and tests::lease have them.
            Input::Fence(_) | Input::LeaseFault(_) => &[],
            Input::Group(order) => match order {
                Order::Announce => &[Self::Announce],
                Order::Forward => &[Self::Forward],
                Order::Yield { .. } => &[Self::Yield],
                Order::Hold(_) => &[Self::Hold, Self::Unhold],
                Order::Weight(_) => &[Self::Weight],
                // An active router sends announcements, and nothing changes: tests::options.
                Order::Announcements => &[],
            },
        }
    }
}

#[test]
fn facts_about_the_wire_change_no_state() {
    let kinds = [S::Init, S::Backup, S::Announcing, S::Guarding, S::Active, S::Fault, S::Stopping];
    for kind in kinds.into_iter().chain([S::Stopped]) {
        let mut bench = kind.bench();
        bench.did();
        bench.input(Input::Mtu(1500));
        bench.input(Input::WallClock(Duration::from_secs(1_700_000_000)));
        bench.input(Input::Listen);
        assert_eq!((Kind::of(&bench.router.state), bench.did()), (kind, vec![]));
    }
}

/// Next state, and effects until something outside has to answer.
fn row(state: Kind, input: Given) -> (Kind, &'static str) {
    match state {
        S::Wanting => match input {
            // It is better, or says farewell: the wait is over anyway.
            I::Higher => (S::Backup, ""),
            // Leaves the group: what it wanted it may.
            I::Configure => (S::Announcing, "advert 90"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
            other => match row(S::Backup, other) {
                (S::Backup, words) => (S::Wanting, words),
                row => row,
            },
        },
        S::Ready => match input {
            I::Configure => (S::Active, "lease, probe, add, notify MASTER, add"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
            I::Farewell => (S::Ready, "advert 100"),
            other => match row(S::Guarding, other) {
                (S::Guarding, words) => (S::Ready, words),
                row => row,
            },
        },
        S::Init => match input {
            I::Higher
            | I::Lower
            | I::Farewell
            | I::Garbage
            | I::AdvertSent
            | I::AdvertFailed
            | I::VipsSet
            | I::VipLost
            | I::HoldLost
            | I::Claim
            | I::SourceLost
            | I::SourceFound
            | I::InterfaceDown
            | I::InterfaceUp
            | I::ScriptBad
            | I::ScriptGood
            | I::Configure => (S::Init, ""),
            I::Converged => (S::Init, "fence, remove"),
            I::VipsCleared => (S::Init, "standby"),
            I::Stop => (S::Stopped, "notify STOP, stopped"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
        },
        S::Backup => match input {
            I::Higher
            | I::Lower
            | I::Farewell
            | I::Garbage
            | I::Converged
            | I::AdvertSent
            | I::AdvertFailed
            | I::VipsSet
            | I::VipLost
            | I::HoldLost
            | I::Claim
            | I::SourceFound
            | I::InterfaceUp
            | I::ScriptGood
            | I::Configure => (S::Backup, ""),
            I::VipsCleared => (S::Backup, "standby"),
            I::SourceLost | I::InterfaceDown | I::ScriptBad => (S::Fault, "notify FAULT"),
            I::Stop => (S::Stopped, "notify STOP, stopped"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
        },
        S::Announcing => match input {
            I::Higher => (S::Backup, ""),
            I::Lower | I::Farewell => (S::Announcing, "advert 100"),
            I::Garbage
            | I::Converged
            | I::AdvertFailed
            | I::VipsSet
            | I::VipLost
            | I::HoldLost
            | I::Claim
            | I::SourceFound
            | I::InterfaceUp
            | I::ScriptGood
            | I::Configure => (S::Announcing, ""),
            I::AdvertSent => (S::Active, "lease, probe, add, notify MASTER"),
            I::VipsCleared => (S::Announcing, "standby"),
            I::SourceLost | I::InterfaceDown | I::ScriptBad => (S::Fault, "notify FAULT"),
            I::Stop => (S::Stopped, "notify STOP, stopped"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
        },
        S::Guarding => match input {
            I::Higher => (S::Backup, ""),
            I::Lower => (S::Guarding, "advert 100"),
            I::Farewell => (S::Active, "lease, probe, add, notify MASTER, advert 100"),
            I::Garbage
            | I::Converged
            | I::AdvertSent
            | I::AdvertFailed
            | I::VipsSet
            | I::VipLost
            | I::HoldLost
            | I::Claim
            | I::SourceFound
            | I::InterfaceUp
            | I::ScriptGood
            | I::Configure => (S::Guarding, ""),
            I::VipsCleared => (S::Guarding, "standby"),
            I::SourceLost | I::InterfaceDown | I::ScriptBad => (S::Fault, "advert 0, notify FAULT"),
            I::Stop => (S::Stopped, "advert 0, notify STOP, stopped"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
        },
        S::Active => match input {
            I::Higher => (S::Backup, "fence, remove, notify BACKUP"),
            I::Lower => (S::Active, "advert 100, notify LOWER, garp"),
            I::Farewell => (S::Active, "advert 100"),
            I::Garbage
            | I::Converged
            | I::AdvertFailed
            | I::VipsCleared
            | I::Claim
            | I::SourceFound
            | I::InterfaceUp
            | I::ScriptGood => (S::Active, ""),
            I::AdvertSent => (S::Active, "lease"),
            I::VipsSet => (S::Active, "garp"),
            I::VipLost => (S::Backup, "fence, advert 0, remove, notify BACKUP"),
            I::HoldLost | I::Configure => (S::Active, "add"),
            I::SourceLost | I::InterfaceDown | I::ScriptBad => {
                (S::Fault, "fence, advert 0, remove, notify FAULT")
            }
            I::Stop => (S::Stopping, "fence, advert 0, remove, notify STOP"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
        },
        S::Fault => match input {
            I::Higher
            | I::Lower
            | I::Farewell
            | I::Garbage
            | I::Converged
            | I::AdvertSent
            | I::AdvertFailed
            | I::VipsSet
            | I::VipLost
            | I::HoldLost
            | I::Claim
            | I::SourceLost
            | I::SourceFound
            | I::InterfaceDown
            | I::ScriptBad
            | I::ScriptGood
            | I::Configure => (S::Fault, ""),
            I::VipsCleared => (S::Fault, "standby"),
            I::InterfaceUp => (S::Backup, "notify BACKUP"),
            I::Stop => (S::Stopped, "notify STOP, stopped"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
        },
        S::Stopping => match input {
            I::Higher
            | I::Lower
            | I::Farewell
            | I::Garbage
            | I::Converged
            | I::AdvertSent
            | I::AdvertFailed
            | I::VipsSet
            | I::VipLost
            | I::HoldLost
            | I::Claim
            | I::SourceLost
            | I::SourceFound
            | I::InterfaceDown
            | I::InterfaceUp
            | I::ScriptBad
            | I::ScriptGood
            | I::Configure
            | I::Stop => (S::Stopping, ""),
            I::VipsCleared => (S::Stopped, "standby, stopped"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
        },
        S::Stopped => match input {
            I::Higher
            | I::Lower
            | I::Farewell
            | I::Garbage
            | I::Converged
            | I::AdvertSent
            | I::AdvertFailed
            | I::VipsSet
            | I::VipLost
            | I::HoldLost
            | I::Claim
            | I::SourceLost
            | I::SourceFound
            | I::InterfaceDown
            | I::InterfaceUp
            | I::ScriptBad
            | I::ScriptGood
            | I::Configure
            | I::Stop => (S::Stopped, ""),
            I::VipsCleared => (S::Stopped, "standby"),
            I::Announce | I::Forward | I::Yield | I::Hold | I::Unhold | I::Weight => {
                order_row(state, input)
            }
        },
    }
}

/// What a group says. Who is in none does not listen.
fn order_row(state: Kind, input: Given) -> (Kind, &'static str) {
    match (state, input) {
        (S::Wanting, I::Announce) => (S::Announcing, "advert 100"),
        (S::Wanting, I::Hold) => (S::Fault, "notify FAULT"),
        (S::Ready, I::Forward) => (S::Active, "lease, probe, add, notify MASTER"),
        (S::Ready, I::Yield) => (S::Backup, "advert 0"),
        (S::Ready, I::Hold) => (S::Fault, "advert 0, notify FAULT"),
        (state, _) => (state, ""),
    }
}

fn word(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::SendAdvert { priority } => format!("advert {priority}"),
        Effect::Lease(LeaseState::Standby) => "standby".into(),
        Effect::Lease(LeaseState::Until(Instant::ZERO)) => "fence".into(),
        Effect::Lease(LeaseState::Until(_)) => "lease".into(),
        Effect::AddVips => "add".into(),
        Effect::PrepareVips => "prepare".into(),
        Effect::RemoveVips => "remove".into(),
        Effect::Garp { .. } => "garp".into(),
        Effect::Probe => "probe".into(),
        Effect::GarpSource(_) => "garp of the source".into(),
        Effect::Notify(Notify::State(state)) => format!("notify {}", state.name()),
        Effect::Notify(Notify::Stop) => "notify STOP".into(),
        Effect::Notify(Notify::MasterRxLowerPri) => "notify LOWER".into(),
        Effect::Stopped => "stopped".into(),
        Effect::Changed | Effect::Log { .. } => return None,
    })
}

#[test]
fn every_state_with_every_input() {
    for state in Kind::all() {
        for given in Given::all() {
            let mut bench = state.bench();
            let input = given.input();
            assert!(Given::of(&input).contains(&given));
            bench.router.handle(input, at(bench.now));
            let mut words = vec![];
            while let Some(effect) = bench.router.poll_effect() {
                words.extend(word(&effect));
            }
            let got = (Kind::of(&bench.router.state), words.join(", "));
            let (next, want) = row(state, given);
            assert_eq!(got, (next, want.to_owned()), "{state:?} with {given:?}");
        }
    }
}
