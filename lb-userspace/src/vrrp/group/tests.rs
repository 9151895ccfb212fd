//! Standings in, orders out.

use super::*;
use Standing::{Announcing, Backup, Faulty, Held, Init, Listening, Master, Ready, Stopped, Wants};

fn config() -> Config {
    Config { name: "G".into(), members: vec!["a".into(), "b".into()], ..Config::default() }
}

/// What a group that knows these standings says next, without what it says to new members.
fn orders(standings: [Standing; 2]) -> Vec<String> {
    let mut group = Group::new(config());
    told(&mut group, "a", standings[0]);
    // `decide` runs with the second alone, as if both had changed at once.
    group.effects.clear();
    told(&mut group, "b", standings[1])
}

fn told(group: &mut Group, member: &str, standing: Standing) -> Vec<String> {
    handle(group, Input::Standing { member: member.into(), standing })
}

fn handle(group: &mut Group, input: Input) -> Vec<String> {
    group.handle(input, Instant::ZERO);
    drain(group)
}

fn drain(group: &mut Group) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(effect) = group.poll_effect() {
        match effect {
            Effect::Order { member, order } => words.push(match order {
                Order::Announce => format!("{member} announce"),
                Order::Forward => format!("{member} forward"),
                Order::Yield { .. } => format!("{member} yield"),
                Order::Hold(Some(why)) => format!("{member} hold: {why}"),
                Order::Hold(None) => format!("{member} release"),
                Order::Weight(weight) => format!("{member} weight {weight}"),
                Order::Announcements => format!("{member} announcements"),
            }),
            Effect::Notify(Notify::State(state)) => words.push(format!("notify {}", state.name())),
            Effect::Notify(Notify::MasterRxLowerPri) => panic!("told of instances only"),
            Effect::Notify(Notify::Stop) => words.push("notify STOP".into()),
            Effect::Log(_) => {}
        }
    }
    words
}

/// Every pair of standings, and what is ordered; `-`: nothing.
#[test]
fn every_pair_of_standings() {
    const ALL: [Standing; 10] =
        [Init, Faulty, Held, Listening, Backup, Wants, Announcing, Ready, Master, Stopped];
    for a in ALL {
        for b in ALL {
            let said: Vec<String> = orders([a, b])
                .into_iter()
                .filter(|it| ["announce", "forward", "yield"].iter().any(|word| it.ends_with(word)))
                .collect();
            let moving = |it| matches!(it, Announcing | Ready | Master);
            let name = |it: &[(&str, Standing)], want: fn(Standing) -> bool, word: &str| {
                it.iter()
                    .filter(|(_, standing)| want(*standing))
                    .map(|(name, _)| format!("{name} {word}"))
                    .collect::<Vec<_>>()
            };
            let both = [("a", a), ("b", b)];
            let fault = [a, b].contains(&Faulty);
            let want = if fault {
                vec![]
            } else if (moving(a) && b == Backup) || (moving(b) && a == Backup) {
                name(&both, |it| matches!(it, Announcing | Ready | Master), "yield")
            } else if [a, b].contains(&Wants)
                && [a, b].iter().all(|it| *it == Wants || *it == Stopped || moving(*it))
            {
                name(&both, |it| it == Wants, "announce")
            } else if [a, b].contains(&Ready)
                && [a, b].iter().all(|it| matches!(it, Ready | Master | Stopped))
            {
                name(&both, |it| it == Ready, "forward")
            } else {
                vec![]
            };
            assert_eq!(said, want, "{a:?}, {b:?}");
        }
    }
}

#[test]
fn one_member_in_fault_holds_the_others_until_it_recovers() {
    let mut group = Group::new(config());
    told(&mut group, "a", Listening);
    told(&mut group, "b", Listening);
    let said = told(&mut group, "a", Faulty);
    assert_eq!(said, ["b hold: sync group G: a is in FAULT"], "a itself is not held");
    assert_eq!(told(&mut group, "b", Held), ["notify FAULT"]);
    assert_eq!(told(&mut group, "a", Listening), ["b release"]);
    assert_eq!(told(&mut group, "b", Listening), ["notify BACKUP"]);
}

#[test]
fn what_the_group_tracks_counts_for_every_member() {
    let tracked = |weight| Tracked { name: "chk".into(), weight, reverse: false };
    let interface = Tracked { name: "eth9".into(), weight: 0, reverse: false };
    let mut group =
        Group::new(Config { scripts: vec![tracked(-30)], interfaces: vec![interface], ..config() });
    told(&mut group, "a", Wants);
    let bad = Input::Script { name: "chk".into(), verdict: Verdict::Bad };
    assert_eq!(handle(&mut group, bad.clone()), ["a weight -30", "b weight -30"]);
    let down = Input::Interface { name: "eth9".into(), up: false };
    let said = handle(&mut group, down);
    assert_eq!(
        said,
        [
            "a hold: sync group G: interface eth9 is down",
            "b hold: sync group G: interface eth9 is down",
            "notify FAULT",
        ][..2],
        "the scripts run when the members are in FAULT"
    );
    handle(&mut group, Input::Interface { name: "eth9".into(), up: true });
    let unweighted = Config { scripts: vec![tracked(0)], ..config() };
    let said = handle(&mut group, Input::Configure(unweighted));
    assert_eq!(said[0], "a weight 0", "the verdict is kept, now it means FAULT");
    assert!(said[1].starts_with("a hold: sync group G: script chk fails"), "{said:?}");
    let good = Input::Script { name: "chk".into(), verdict: Verdict::Good };
    handle(&mut group, good);
    assert_eq!(told(&mut group, "b", Wants), ["a announce", "b announce"]);
    // A script without a result holds the whole group back.
    let mut group = Group::new(Config { scripts: vec![tracked(0)], ..config() });
    told(&mut group, "a", Wants);
    assert!(!told(&mut group, "b", Wants).iter().any(|it| it.ends_with("announce")));
}

/// A group that was restarted while its members' leases ran, before its script said anything.
#[test]
fn a_first_result_is_awaited_before_a_takeover_and_not_before_a_yield() {
    let scripts = vec![Tracked { name: "chk".into(), weight: 0, reverse: false }];
    let mut group = Group::new(Config { scripts, ..config() });
    told(&mut group, "a", Wants);
    let said = told(&mut group, "b", Wants);
    assert!(!said.iter().any(|it| it.ends_with("announce")), "{said:?}");
    told(&mut group, "a", Master);
    told(&mut group, "b", Master);
    let said = told(&mut group, "a", Backup);
    assert!(said.contains(&"b yield".to_owned()), "{said:?}");
}

#[test]
fn a_member_that_joins_ends_nothing_and_follows() {
    let mut group = Group::new(config());
    told(&mut group, "a", Master);
    told(&mut group, "b", Master);
    let members = ["a", "b", "c"].map(str::to_owned).to_vec();
    handle(&mut group, Input::Configure(Config { members, ..config() }));
    assert_eq!(told(&mut group, "c", Listening), ["notify BACKUP"], "not all are master now");
    assert_eq!(told(&mut group, "c", Wants), ["c announce"]);
    assert_eq!(told(&mut group, "c", Announcing), [""; 0]);
    assert_eq!(told(&mut group, "c", Ready), ["c forward"]);
    assert_eq!(told(&mut group, "c", Master), ["notify MASTER"]);
    assert_eq!(told(&mut group, "c", Backup), ["a yield", "b yield"]);
}

#[test]
fn group_scripts_run_once_a_state_after_the_members_and_at_the_stop() {
    let mut group = Group::new(config());
    told(&mut group, "a", Listening);
    assert_eq!(group.state(), VrrpState::Init, "b has not been heard of");
    assert!(told(&mut group, "b", Listening).contains(&"notify BACKUP".to_owned()));
    for (member, standing) in [("a", Wants), ("b", Backup), ("b", Listening)] {
        assert_eq!(told(&mut group, member, standing), [""; 0]);
    }
    told(&mut group, "a", Master);
    assert_eq!(told(&mut group, "b", Master), ["notify MASTER"]);
    assert_eq!(told(&mut group, "a", Stopped), [""; 0]);
    assert_eq!(told(&mut group, "b", Stopped), ["notify STOP"]);
    assert_eq!(told(&mut group, "unknown", Faulty), [""; 0]);
}

#[test]
fn a_lower_router_heard_by_one_concerns_every_master() {
    let mut group = Group::new(config());
    told(&mut group, "a", Master);
    told(&mut group, "b", Master);
    let heard = |member: &str| Input::LowerHeard { member: member.into() };
    assert_eq!(handle(&mut group, heard("a")), ["b announcements"]);
    assert_eq!(handle(&mut group, heard("b")), ["a announcements"]);
    told(&mut group, "b", Backup);
    assert_eq!(handle(&mut group, heard("a")), [""; 0]);
}

#[test]
fn a_group_in_fault_says_who_still_waits() {
    let mut group = Group::new(config());
    told(&mut group, "a", Backup);
    group.handle(Input::Standing { member: "b".into(), standing: Held }, Instant::ZERO);
    let logs: Vec<String> = std::iter::from_fn(|| group.poll_effect())
        .filter_map(|effect| if let Effect::Log(text) = effect { Some(text) } else { None })
        .collect();
    assert_eq!(logs, ["vrrp_sync_group G enters FAULT STATE: member b waits for a first result"]);
}

/// The shell lets the group hear every member before it carries out orders: one that is
/// superfluous by then must not swallow the state.
#[test]
fn a_superfluous_order_does_not_swallow_the_state() {
    let mut group = Group::new(config());
    told(&mut group, "a", Ready);
    assert_eq!(told(&mut group, "b", Ready), ["a forward", "b forward"]);
    group.handle(Input::Standing { member: "a".into(), standing: Master }, Instant::ZERO);
    assert_eq!(told(&mut group, "b", Master), ["b forward"]);
    group.handle_timeout(Instant::ZERO);
    assert_eq!(drain(&mut group), ["notify MASTER"]);
    group.handle_timeout(Instant::ZERO);
    assert_eq!(drain(&mut group), [""; 0], "told once");
}
