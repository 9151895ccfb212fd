//! The events of `cargo xtask run --once`, each with what is expected of it.

mod expect;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_userspace::base::status::{ForwarderStatus, Health, Status};
use nix::sys::signal::Signal;

use self::expect::{Expect, Sessions, UNTOUCHED, causes, problems, server_cut, server_loss};
pub use self::expect::{HOST_KILL_MS, HOST_STOP_MS, SCRIPT_MS, SERVER_LOSS_MS, TOLD_MS};
use crate::{
    host::{Program, ROLES},
    lab::{Lab, Mode, VIP},
    report::{EventReport, Report},
    sampler::Sampler,
    traffic::{IDLE_PAUSE, Traffic},
    verdict::{Seen, judge},
    wait::{wait_true, wait_until},
    witness::{self, Witness},
};

/// How long an event is watched once the world has settled, and longer if need be: every idle session asks
/// in it, and its answer comes, so that no loss is booked on a later event.
const WATCH: Duration = IDLE_PAUSE.saturating_add(Duration::from_millis(500));
/// How long an event may take until the world has settled.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// Which part of the script, and how strictly it is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part<'a> {
    /// Events without this in their name are left out.
    pub only: Option<&'a str>,
    /// No gap between new connections may be longer, whatever the event allows; milliseconds.
    pub gap_ms: Option<u64>,
}

/// Runs the events of the lab's mode and reports; `say` gets each event's lines as it ends, and
/// `interrupted` is asked before each. When the lab itself fails (no event has such a name, one
/// cannot be performed, the world does not settle), the report says so and holds what was until then.
pub fn run(
    lab: &mut Lab,
    traffic: &Traffic,
    sampler: &Sampler,
    interrupted: &dyn Fn() -> bool,
    part: Part<'_>,
    say: &mut dyn FnMut(&str),
) -> Report {
    let mut report = Report {
        mode: lab.spec.mode.name().to_owned(),
        scheduler: lab.spec.scheduler.clone(),
        settings: lab.settings().to_vec(),
        events: Vec::new(),
        passed: false,
        error: None,
    };
    let begin = Instant::now();
    let outcome = lab.witness().and_then(|witness| {
        let report = &mut report;
        Runner { lab, traffic, sampler, witness, interrupted, part, say, report, begin }.events()
    });
    match outcome {
        Ok(()) => report.passed = report.events.iter().all(|event| event.problems.is_empty()),
        Err(error) => report.error = Some(format!("{error:#}")),
    }
    report
}

/// Writes the report as JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write(report: &Report, path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report).context("cannot encode the report")?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

struct Runner<'a> {
    lab: &'a mut Lab,
    traffic: &'a Traffic,
    sampler: &'a Sampler,
    witness: Witness,
    interrupted: &'a dyn Fn() -> bool,
    part: Part<'a>,
    say: &'a mut dyn FnMut(&str),
    report: &'a mut Report,
    begin: Instant,
}

impl Runner<'_> {
    fn events(&mut self) -> Result<()> {
        let traffic = self.traffic;
        wait_true("the first sessions", Duration::from_secs(10), || traffic.healthy())?;
        self.event("steady", UNTOUCHED, |_| Ok(()), |_, _| Ok(true))?;
        match self.lab.spec.mode {
            Mode::Dr | Mode::Nat => self.server_events()?,
            Mode::Local => self.local_server_events()?,
        }
        self.host_events()?;
        if self.lab.spec.programs == [Program::Lbd; 2] {
            self.process_events()?;
            self.reload_events()?;
        }
        if self.report.events.is_empty() {
            bail!("no event has `{}` in its name", self.part.only.unwrap_or_default());
        }
        Ok(())
    }

    /// Waits for calm, performs `action`, waits until `settled`, watches, judges.
    fn event(
        &mut self,
        name: &str,
        expect: Expect,
        action: impl FnOnce(&mut Lab) -> Result<()>,
        mut settled: impl FnMut(&mut Lab, &Seen) -> Result<bool>,
    ) -> Result<()> {
        if self.part.only.is_some_and(|word| !name.contains(word)) {
            return Ok(());
        }
        if (self.interrupted)() {
            bail!("interrupted before `{name}`");
        }
        self.calm(&format!("before `{name}`"))?;
        let event = Instant::now();
        action(self.lab).with_context(|| format!("cannot perform `{name}`"))?;
        let mut settled_at = None;
        let mut refused: Option<anyhow::Error> = None;
        let outcome = {
            let (lab, traffic) = (&mut *self.lab, self.traffic);
            wait_until(
                &format!("the lab to settle after `{name}`"),
                SETTLE_LIMIT,
                || {
                    let now = Instant::now();
                    if settled_at.is_none() {
                        let seen = judge(&traffic.since(event), &[event], now);
                        // A daemon that is being restarted does not answer: not settled yet.
                        match settled(lab, &seen) {
                            Ok(true) => settled_at = Some(now),
                            Ok(false) => refused = None,
                            Err(err) => refused = Some(err),
                        }
                    }
                    let watched = |at: &Instant| {
                        now.saturating_duration_since(*at) >= WATCH && traffic.all_answered(*at)
                    };
                    Ok(settled_at.filter(watched).map(drop))
                },
                String::new,
            )
            .map_err(|err| match refused {
                Some(why) => why.context(format!("{err:#}")),
                None => err,
            })
        };
        let settled = outcome.and_then(|()| self.calm(&format!("after `{name}`")));
        let end = Instant::now();
        // Each may not have been run at the end, and has more to tell of the time until then.
        let heard = self.traffic.has_run(end).and_then(|()| self.witness.has_read(end));
        let early = event.checked_sub(Duration::from_secs(2)).unwrap_or(event);
        let causes = causes(event, end, &expect, &self.sampler.changes());
        let seen = judge(&self.traffic.since(early), &causes, end);
        let mut problems = problems(&expect, &seen);
        if let Some(limit) = self.part.gap_ms.filter(|limit| seen.longest_gap_ms > *limit) {
            let gap = seen.longest_gap_ms;
            problems.push(format!("no new connection succeeded for {gap} ms, {limit} ms allowed"));
        }
        for err in [&settled, &heard].into_iter().filter_map(|outcome| outcome.as_ref().err()) {
            problems.push(format!("{err:#}"));
        }
        let overlap = self.sampler.overlap(event, end);
        if !overlap.is_zero() {
            problems.push(format!("two hosts forwarded for {overlap:?}"));
        }
        let acts = self.witness.acts(event, end);
        let both_acted = witness::both_acted(&acts);
        if !both_acted.is_zero() {
            problems.push(format!("frames of two hosts in the VIP's name for {both_acted:?}"));
        }
        if acts.is_empty() {
            problems.push("no frame in the VIP's name was seen: nothing proves one master".into());
        }
        let flaps: Vec<_> = self
            .sampler
            .changes()
            .into_iter()
            .filter(|change| change.at >= event && change.at <= end)
            .collect();
        if expect.no_flap && !flaps.is_empty() {
            let words: Vec<_> = flaps
                .iter()
                .map(|change| {
                    let after = change.at.saturating_duration_since(event);
                    format!("after {after:.3?} {:02b}", change.forwarders)
                })
                .collect();
            problems.push(format!("the right to forward changed: {}", words.join(", ")));
        }
        let entry = EventReport {
            event: name.to_owned(),
            at_s: event.saturating_duration_since(self.begin).as_secs_f64(),
            watched_s: end.saturating_duration_since(event).as_secs_f64(),
            longest_client_gap_ms: seen.longest_gap_ms,
            longest_client_gap_wall_ms: seen.longest_gap_wall_ms,
            sessions_lost: seen.lost.len(),
            resets: seen.resets,
            new_connection_errors: seen.connect_errors,
            two_forwarders_ms: overlap.as_secs_f64() * 1e3,
            two_forwarders_by_frames_ms: both_acted.as_secs_f64() * 1e3,
            frames_by_host: [0, 1].map(|host| acts.iter().filter(|act| act.host == host).count()),
            no_forwarder_ms: self.sampler.silence(event, end).as_secs_f64() * 1e3,
            client: seen,
            expected: expect.words(),
            problems,
        };
        (self.say)(&entry.lines());
        self.report.events.push(entry);
        // A broken expectation is a result; a lab that does not come to rest is not worth going on.
        settled
    }

    fn calm(&self, when: &str) -> Result<()> {
        let traffic = self.traffic;
        wait_until(
            &format!("undisturbed traffic {when}"),
            SETTLE_LIMIT,
            || Ok(traffic.healthy().then_some(())),
            || {
                let second_ago = Instant::now().checked_sub(Duration::from_secs(1));
                let recent = second_ago.map(|since| traffic.since(since)).unwrap_or_default();
                let failed: Vec<_> =
                    recent.iter().filter(|sample| sample.result.is_err()).take(5).collect();
                let logs: Vec<_> = self.lab.hosts.iter().map(|host| host.log_tail(15)).collect();
                format!(
                    "{} of the kept sessions are open; failed in the last second: {failed:?}\n{}",
                    traffic.sessions().len(),
                    logs.join("\n")
                )
            },
        )
    }

    fn server_events(&mut self) -> Result<()> {
        self.event(
            "stop db1's mysqld cleanly",
            server_loss(1),
            |lab| lab.server(1)?.db.stop(),
            |lab, _| seen_health(lab, 1, &[Health::Down]),
        )?;
        self.event("start db1's mysqld", UNTOUCHED, |lab| lab.server(1)?.db.run(), takes_new(1))?;
        self.event(
            "kill -9 db2's mysqld",
            server_loss(2),
            |lab| {
                lab.server(2)?.db.kill();
                Ok(())
            },
            |lab, _| seen_health(lab, 2, &[Health::Down]),
        )?;
        self.event("start db2's mysqld", UNTOUCHED, |lab| lab.server(2)?.db.run(), takes_new(2))?;
        self.event(
            "cut db1's link",
            server_cut(1),
            |lab| lab.server(1)?.cable.set_link(false),
            |lab, _| seen_health(lab, 1, &[Health::Down]),
        )?;
        self.event(
            "restore db1's link",
            UNTOUCHED,
            |lab| lab.server(1)?.cable.set_link(true),
            takes_new(1),
        )
    }

    /// Local mode: the database is on the balancer host, and its check script stops the daemon.
    fn local_server_events(&mut self) -> Result<()> {
        let moves =
            Expect { sessions: Sessions::MayBeReset, connects_ms: SCRIPT_MS, no_flap: false };
        let back =
            Expect { sessions: Sessions::MayBeReset, connects_ms: HOST_STOP_MS, no_flap: false };
        // As the tutorial says: the database first, then the daemon.
        let start_both = |lab: &mut Lab, host: usize| {
            let id = u32::try_from(host + 1).unwrap_or(u32::MAX);
            lab.server(id)?.db.run()?;
            lab.hosts.get_mut(host).context("no such host")?.start()
        };
        self.event(
            "stop db1's mysqld cleanly (its host is master)",
            moves,
            |lab| lab.server(1)?.db.stop(),
            |lab, _| Ok(lab.master().ok() == Some(1) && lab.hosts[0].pids().is_empty()),
        )?;
        self.event(
            "start db1's mysqld and daemon (preempts)",
            back,
            move |lab| start_both(lab, 0),
            |lab, _| Ok(lab.master().ok() == Some(0)),
        )?;
        self.event(
            "kill -9 db2's mysqld (its host is backup)",
            UNTOUCHED,
            |lab| {
                lab.server(2)?.db.kill();
                Ok(())
            },
            |lab, _| Ok(lab.hosts[1].pids().is_empty()),
        )?;
        self.event(
            "start db2's mysqld and daemon",
            UNTOUCHED,
            move |lab| start_both(lab, 1),
            |lab, _| Ok(lab.hosts[1].running()),
        )?;
        self.event(
            "cut db1's link",
            Expect { connects_ms: HOST_KILL_MS, ..moves },
            |lab| lab.server(1)?.cable.set_link(false),
            |lab, _| lab.hosts[1].has(VIP),
        )?;
        self.event(
            "restore db1's link (preempts)",
            back,
            |lab| lab.server(1)?.cable.set_link(true),
            |lab, _| Ok(lab.master().ok() == Some(0)),
        )
    }

    /// Sessions that were opened while a server was away stand where the smaller pool put them;
    /// hashing would not find them again on the other host. Opened anew, all stand alike, once both hosts, each
    /// of which asks the servers itself, have all of them in their pools.
    fn renew_sessions(&self) -> Result<()> {
        // A part of the script may have left one dead.
        let whole = self.lab.spec.mode != Mode::Local && self.part.only.is_none();
        for host in self.lab.hosts.iter().filter(|_| whole) {
            wait_until(
                &format!("every server to be up for {}", host.name()),
                SETTLE_LIMIT,
                || Ok(host.status().ok().filter(all_up).map(drop)),
                || host.log_tail(30),
            )?;
        }
        let first_new = self.traffic.renew();
        let traffic = self.traffic;
        wait_until(
            "every kept session to be opened anew",
            SETTLE_LIMIT,
            || Ok(traffic.renewed(first_new).then_some(())),
            || format!("{:?}", traffic.sessions()),
        )
    }

    /// Without flow sync a session survives a failover only where hashing finds its server again.
    fn sessions_over_failover(&self) -> Sessions {
        if self.lab.spec.scheduler == "mh" && self.lab.spec.mode != Mode::Local {
            Sessions::AllSurvive
        } else {
            Sessions::MayBeReset
        }
    }

    fn host_events(&mut self) -> Result<()> {
        self.renew_sessions()?;
        let sessions = self.sessions_over_failover();
        let stop = Expect { sessions, connects_ms: HOST_STOP_MS, no_flap: false };
        let kill = Expect { sessions, connects_ms: HOST_KILL_MS, no_flap: false };
        let name = match self.lab.spec.programs[0] {
            Program::Lbd => "lbd",
            Program::Keepalived => "keepalived",
        };
        self.event(
            &format!("stop {name} on the master"),
            stop,
            |lab| lab.hosts[0].stop(),
            |lab, _| Ok(lab.master().ok() == Some(1)),
        )?;
        self.event(
            &format!("start {name} (preempts)"),
            stop,
            |lab| lab.hosts[0].start(),
            |lab, _| Ok(lab.master().ok() == Some(0)),
        )?;
        self.event(
            &format!("kill -9 all {name} processes on the master"),
            kill,
            |lab| lab.hosts[0].kill_all(),
            |lab, _| lab.hosts[1].has(VIP),
        )?;
        self.event(
            &format!("start {name}"),
            stop,
            |lab| lab.hosts[0].start(),
            |lab, _| Ok(lab.master().ok() == Some(0)),
        )
    }

    fn process_events(&mut self) -> Result<()> {
        for role in ROLES {
            let before = lost_packets(&self.lab.hosts[0].forwarder()?);
            if role == "checker" && self.lab.hosts[0].role_pid(role).is_none() {
                continue; // No virtual_server, no checker.
            }
            self.event(
                &format!("kill -9 the {role} process on the master"),
                UNTOUCHED,
                |lab| lab.hosts[0].kill_role(role),
                |lab, _| Ok(all_ready(&lab.hosts[0].status()?)),
            )?;
            let after = lost_packets(&self.lab.hosts[0].forwarder()?);
            if after != before
                && let Some(entry) = self.report.events.last_mut()
            {
                let problem = format!("packets were lost: {before:?} before, {after:?} after");
                (self.say)(&format!("           NOT AS EXPECTED: {problem}"));
                entry.problems.push(problem);
            }
        }
        self.renew_sessions()?;
        let sessions = self.sessions_over_failover();
        let failover = Expect { sessions, connects_ms: HOST_STOP_MS, no_flap: false };
        self.event(
            "kill -9 the watchdog on the master, and start lbd again as a service manager would",
            failover,
            |lab| {
                lab.hosts[0].kill_role("main")?;
                let host = &lab.hosts[0];
                wait_until(
                    "the watchdog's children to leave",
                    Duration::from_secs(20),
                    || Ok(host.pids().is_empty().then_some(())),
                    || host.log_tail(20),
                )?;
                lab.hosts[0].start()
            },
            |lab, _| Ok(lab.master().ok() == Some(0)),
        )
    }

    fn reload_events(&mut self) -> Result<()> {
        let before = self.lab.hosts[0].status()?.reloads;
        self.event(
            "HUP with an unchanged file",
            UNTOUCHED,
            |lab| lab.hosts[0].signal_main(Signal::SIGHUP),
            |lab, _| {
                let status = lab.hosts[0].status()?;
                Ok(status.reloads > before && all_ready(&status))
            },
        )?;
        let before = self.lab.hosts[0].status()?.reload_failures;
        self.event(
            "HUP with a broken file",
            UNTOUCHED,
            |lab| {
                let good = lab.config_of(0);
                let broken = good.replace("virtual_router_id 51", "virtual_router_id 51000");
                if good == broken {
                    bail!("the configuration has no line to break");
                }
                lab.hosts[0].write_config(&broken)?;
                lab.hosts[0].signal_main(Signal::SIGHUP)
            },
            |lab, _| {
                let status = lab.hosts[0].status()?;
                let told = status.last_reload_error.is_some_and(|text| text.contains("51000"));
                Ok(status.reload_failures > before && told)
            },
        )?;
        self.lab.write_configs()?;
        if self.lab.spec.mode == Mode::Local {
            return Ok(());
        }
        let mut before = [0; 2];
        for (before, host) in before.iter_mut().zip(&self.lab.hosts) {
            *before = host.status()?.config_generation;
        }
        let mut taken = takes_new(3);
        self.event(
            "HUP adding db3",
            UNTOUCHED,
            |lab| {
                let third = lab.server(3)?.addr;
                lab.pool.push(third);
                lab.write_configs()?;
                lab.hosts.iter_mut().try_for_each(|host| host.signal_main(Signal::SIGHUP))
            },
            move |lab, seen| {
                for (before, host) in before.iter().zip(&lab.hosts) {
                    if host.status()?.config_generation <= *before {
                        return Ok(false);
                    }
                }
                taken(lab, seen)
            },
        )
    }
}

/// A server took new connections since the event, in the client's eyes.
fn takes_new(server: u32) -> impl FnMut(&mut Lab, &Seen) -> Result<bool> {
    move |_, seen| Ok(seen.connects_by_server.get(&server).is_some_and(|count| *count > 0))
}

fn seen_health(lab: &mut Lab, server: u32, wanted: &[Health]) -> Result<bool> {
    let addr = lab.server(server)?.addr;
    let master = lab.master()?;
    let status = lab.hosts.get(master).context("no such host")?.status()?;
    Ok(status
        .servers
        .iter()
        .any(|entry| entry.real_server.ip() == addr && wanted.contains(&entry.health)))
}

/// Packets that the data plane could not forward for want of a next hop or of room.
fn lost_packets(forwarder: &ForwarderStatus) -> Vec<(&'static str, u64)> {
    ["next_hop_unresolved", "no_real_server", "table_full", "reset_failed"]
        .into_iter()
        .map(|name| (name, forwarder.outcomes.get(name).copied().unwrap_or(0)))
        .collect()
}

fn all_up(status: &Status) -> bool {
    !status.servers.is_empty() && status.servers.iter().all(|entry| entry.health == Health::Up)
}

fn all_ready(status: &Status) -> bool {
    !status.processes.is_empty() && status.processes.iter().all(|process| process.ready)
}
