//! The supervisor in virtual time: a driver that spawns, answers and lets children die.

use super::*;

const ALL: [Role; 4] = [Role::Vrrp, Role::Checker, Role::Forwarder, Role::Api];

/// Plays the shell: gives pids, answers pings of children that are well.
struct Rig {
    core: Supervisor,
    now: Instant,
    next_pid: u32,
    pids: BTreeMap<Role, u32>,
    /// Roles that do not answer pings.
    mute: Vec<Role>,
    /// Roles that do not end when told to stop.
    stubborn: Vec<Role>,
    /// Everything but pings, with the time in milliseconds.
    seen: Vec<(u64, Effect)>,
}

impl Rig {
    fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut rig = Self {
            core: Supervisor::new(&ALL, now),
            now,
            next_pid: 100,
            pids: BTreeMap::new(),
            mute: Vec::new(),
            stubborn: Vec::new(),
            seen: Vec::new(),
        };
        rig.settle();
        rig
    }

    /// All four spawned and ready, nothing seen yet.
    fn ready() -> Self {
        let mut rig = Self::new();
        for role in ALL {
            rig.make_ready(role);
        }
        assert!(rig.seen.iter().any(|(_, effect)| *effect == Effect::AllReady));
        rig.seen.clear();
        rig
    }

    fn make_ready(&mut self, role: Role) {
        let pid = self.pids[&role];
        self.input(Input::Ready { role, pid, generation: 1 });
    }

    fn ms(&self) -> u64 {
        self.now.as_nanos() / 1_000_000 - 1_000_000
    }

    fn input(&mut self, input: Input) {
        self.core.handle(input, self.now);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match &effect {
                Effect::Ping { role, seq } => {
                    if !self.mute.contains(role) {
                        let pid = self.pids[role];
                        self.core.handle(Input::Pong { role: *role, pid, seq: *seq }, self.now);
                    }
                    continue;
                }
                Effect::Spawn { role } => {
                    let (role, pid) = (*role, self.next_pid);
                    self.next_pid += 1;
                    self.pids.insert(role, pid);
                    self.seen.push((self.ms(), effect));
                    self.core.handle(Input::Spawned { role, pid }, self.now);
                    continue;
                }
                _ => {}
            }
            self.seen.push((self.ms(), effect.clone()));
            match effect {
                Effect::Kill { role, .. } => self.die(role, "killed by signal 9"),
                Effect::SendStop { role } if !self.stubborn.contains(&role) => {
                    self.die(role, "exit code 0");
                }
                _ => {}
            }
        }
    }

    fn die(&mut self, role: Role, how: &str) {
        let pid = self.pids[&role];
        self.input(Input::Exited { role, pid, how: how.to_owned() });
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.core.poll_timeout() {
            if due > end {
                break;
            }
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    fn spawns(&self, role: Role) -> Vec<u64> {
        let spawn = Effect::Spawn { role };
        self.seen.iter().filter(|(_, effect)| *effect == spawn).map(|(ms, _)| *ms).collect()
    }
}

#[test]
fn starts_every_role_at_once_and_reports_ready_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.seen.len(), 4);
    for role in ALL {
        assert!(!rig.seen.iter().any(|(_, effect)| *effect == Effect::AllReady));
        rig.make_ready(role);
    }
    rig.make_ready(Role::Vrrp);
    let ready = rig.seen.iter().filter(|(_, effect)| *effect == Effect::AllReady).count();
    assert_eq!(ready, 1);
}

#[test]
fn first_restart_is_immediate_then_back_off_doubles_to_its_cap() {
    let mut rig = Rig::ready();
    // The api role, because it is never given up.
    for _ in 0..9 {
        rig.die(Role::Api, "exit code 1");
        rig.run(BACKOFF_LIMIT);
    }
    let delays: Vec<u64> = rig
        .spawns(Role::Api)
        .iter()
        .enumerate()
        .map(|(round, at)| at - 5000 * round as u64)
        .collect();
    assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
}

#[test]
fn stable_run_resets_the_back_off() {
    let mut rig = Rig::ready();
    rig.die(Role::Vrrp, "killed by signal 9");
    rig.run(STABLE);
    rig.die(Role::Vrrp, "killed by signal 9");
    assert_eq!(rig.spawns(Role::Vrrp), [0, 10_000]);
}

#[test]
fn silent_child_is_killed_and_restarted_within_the_limit() {
    let mut rig = Rig::ready();
    rig.mute.push(Role::Checker);
    rig.run(HEARTBEAT_LIMIT + HEARTBEAT_INTERVAL);
    let kill = rig.seen.iter().find(|(_, e)| matches!(e, Effect::Kill { .. })).expect("killed");
    assert_eq!(
        kill,
        &(6000, Effect::Kill { role: Role::Checker, why: "no heartbeat for 5 s".to_owned() })
    );
    assert_eq!(rig.spawns(Role::Checker), [6000]);
    assert_eq!(rig.seen.len(), 2, "nobody else is touched: {:?}", rig.seen);
}

#[test]
fn child_that_starts_slowly_has_longer() {
    let mut rig = Rig::new();
    rig.seen.clear();
    rig.mute.push(Role::Forwarder);
    rig.run(START_LIMIT);
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
    rig.run(HEARTBEAT_INTERVAL);
    assert_eq!(rig.spawns(Role::Forwarder), [31_000]);
}

/// What was silent while it started, as it might, is not killed in the moment that it is ready.
#[test]
fn a_long_start_is_not_held_against_a_child_that_is_ready() {
    let mut rig = Rig::new();
    rig.mute.push(Role::Forwarder);
    rig.run(Duration::from_secs(15));
    rig.make_ready(Role::Forwarder);
    rig.run(Duration::from_secs(4));
    let killed = |rig: &Rig| {
        rig.seen
            .iter()
            .any(|(_, effect)| matches!(effect, Effect::Kill { role: Role::Forwarder, .. }))
    };
    assert!(!killed(&rig), "{:?}", rig.seen);
    rig.run(Duration::from_secs(3));
    assert!(killed(&rig), "silent for longer than it may be now");
}

#[test]
fn own_stall_is_not_held_against_the_children() {
    let mut rig = Rig::ready();
    rig.mute = ALL.to_vec();
    rig.run(HEARTBEAT_INTERVAL); // pings are out
    rig.now += Duration::from_secs(60); // SIGSTOP, SIGCONT
    rig.core.handle_timeout(rig.now);
    rig.settle();
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
    rig.run(HEARTBEAT_LIMIT);
    let kills = rig.seen.iter().filter(|(_, e)| matches!(e, Effect::Kill { .. })).count();
    assert_eq!(kills, 4, "silence after the stall counts again");
}

#[test]
fn crash_loop_releases_in_order_and_exits_non_zero() {
    let mut rig = Rig::ready();
    let mut rounds = 0;
    while !rig.core.stopping() {
        rig.die(Role::Forwarder, "exit code 1");
        rig.run(BACKOFF_LIMIT);
        rounds += 1;
        assert!(rounds <= CRASH_LIMIT);
    }
    assert_eq!(rounds, CRASH_LIMIT);
    let tail: Vec<&Effect> = rig
        .seen
        .iter()
        .map(|(_, e)| e)
        .skip_while(|e| !matches!(e, Effect::Stopping { .. }))
        .collect();
    let Effect::Stopping { why, code: 1 } = tail[0] else { panic!("{tail:?}") };
    assert!(why.contains("forwarder cannot stay up: 10 ends within 60 s"), "{why}");
    assert_eq!(
        tail[1..],
        [
            &Effect::SendStop { role: Role::Vrrp },
            &Effect::SendStop { role: Role::Checker },
            &Effect::SendStop { role: Role::Api },
            &Effect::Finished { code: 1 },
        ]
    );
}

#[test]
fn slow_crashes_are_not_a_loop() {
    let mut rig = Rig::ready();
    for _ in 0..3 * CRASH_LIMIT {
        rig.die(Role::Checker, "exit code 1");
        rig.run(CRASH_WINDOW / 8);
    }
    assert!(!rig.core.stopping());
}

#[test]
fn api_in_a_crash_loop_takes_nothing_down() {
    let mut rig = Rig::ready();
    for _ in 0..3 * CRASH_LIMIT {
        rig.die(Role::Api, "exit code 1");
        rig.run(BACKOFF_LIMIT);
    }
    assert!(!rig.core.stopping());
    assert_eq!(rig.spawns(Role::Api).len(), 3 * CRASH_LIMIT);
}

#[test]
fn stop_goes_vrrp_checker_forwarder_api() {
    let mut rig = Rig::ready();
    rig.input(Input::Stop { why: "SIGTERM".to_owned(), code: 0 });
    let effects: Vec<Effect> = rig.seen.iter().map(|(_, e)| e.clone()).collect();
    assert_eq!(
        effects,
        [
            Effect::Stopping { why: "SIGTERM".to_owned(), code: 0 },
            Effect::SendStop { role: Role::Vrrp },
            Effect::SendStop { role: Role::Checker },
            Effect::SendStop { role: Role::Forwarder },
            Effect::SendStop { role: Role::Api },
            Effect::Finished { code: 0 },
        ]
    );
    assert_eq!(rig.core.poll_timeout(), None);
}

#[test]
fn child_that_does_not_stop_is_killed_at_its_deadline_and_the_next_follows() {
    let mut rig = Rig::ready();
    rig.stubborn.push(Role::Vrrp);
    rig.input(Input::Stop { why: "SIGTERM".to_owned(), code: 0 });
    rig.run(Duration::from_secs(10));
    let kill = Effect::Kill { role: Role::Vrrp, why: "did not stop within 3 s".to_owned() };
    assert!(rig.seen.contains(&(3000, kill)), "{:?}", rig.seen);
    assert!(rig.seen.contains(&(3000, Effect::SendStop { role: Role::Checker })));
    assert_eq!(rig.seen.last(), Some(&(3000, Effect::Finished { code: 0 })));
    assert_eq!(rig.spawns(Role::Vrrp), [0; 0], "a stop restarts nobody");
}

#[test]
fn fatal_stops_all_with_code_one_and_a_second_reason_changes_nothing() {
    let mut rig = Rig::new();
    rig.seen.clear();
    rig.stubborn.push(Role::Forwarder);
    rig.input(Input::Fatal { role: Role::Forwarder, message: "no XDP on eth0".to_owned() });
    rig.input(Input::Stop { why: "SIGTERM".to_owned(), code: 0 });
    rig.run(Duration::from_secs(10));
    let stops = rig.seen.iter().filter(|(_, e)| matches!(e, Effect::Stopping { .. })).count();
    assert_eq!(stops, 1);
    assert_eq!(
        rig.seen[0].1,
        Effect::Stopping { why: "forwarder: no XDP on eth0".to_owned(), code: 1 }
    );
    assert_eq!(rig.seen.last(), Some(&(3000, Effect::Finished { code: 1 })));
}

#[test]
fn what_once_served_goes_on_when_a_role_says_fatal() {
    let mut rig = Rig::ready();
    rig.die(Role::Forwarder, "killed by SIGKILL");
    rig.seen.clear();
    rig.input(Input::Fatal { role: Role::Forwarder, message: "no XDP on tun0".to_owned() });
    rig.run(Duration::from_secs(60));
    assert_eq!(rig.seen, []);
    assert!(!rig.core.stopping());
    assert_eq!(rig.core.behind(1), [Role::Forwarder], "and everybody can see it");
}

#[test]
fn stop_while_a_restart_waits_ends_without_it() {
    let mut rig = Rig::ready();
    rig.die(Role::Checker, "exit code 1");
    rig.die(Role::Checker, "exit code 1");
    rig.seen.clear();
    rig.input(Input::Stop { why: "SIGINT".to_owned(), code: 0 });
    rig.run(Duration::from_secs(30));
    assert!(rig.spawns(Role::Checker).is_empty());
    assert_eq!(rig.seen.last().map(|(_, e)| e.clone()), Some(Effect::Finished { code: 0 }));
}

#[test]
fn news_of_a_previous_incarnation_is_ignored() {
    let mut rig = Rig::ready();
    let old = rig.pids[&Role::Vrrp];
    rig.die(Role::Vrrp, "killed by signal 9");
    rig.seen.clear();
    rig.input(Input::Exited { role: Role::Vrrp, pid: old, how: "again".to_owned() });
    rig.input(Input::PipeLost { role: Role::Vrrp, pid: old, why: "closed".to_owned() });
    rig.input(Input::QueueFull { role: Role::Vrrp, pid: old });
    assert!(rig.seen.is_empty(), "{:?}", rig.seen);
    let status = rig.core.processes(rig.now);
    assert_eq!(status[0].restarts, 1);
    assert_eq!(status[0].last_exit.as_deref(), Some("killed by signal 9"));
}

#[test]
fn behind_names_roles_without_the_generation() {
    let mut rig = Rig::ready();
    assert!(rig.core.behind(1).is_empty());
    let pid = rig.pids[&Role::Api];
    rig.input(Input::Ready { role: Role::Api, pid, generation: 2 });
    assert_eq!(rig.core.behind(2), [Role::Vrrp, Role::Checker, Role::Forwarder]);
    rig.die(Role::Api, "exit code 1");
    assert_eq!(rig.core.behind(1), [Role::Api]);
}
