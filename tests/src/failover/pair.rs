//! Two hosts of one make, a client that asks their VIP, and the faults.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde::Serialize;
use tempfile::TempDir;

use super::{
    Fault, Pace,
    probe::{EVERY, Prober, Responder, Window},
    wire::{Wire, hand_over},
};
use crate::{
    host::{Host, Program},
    netns::{Namespace, Port, Switch},
    process::send,
    wait::wait_until,
};

/// The address that is asked for.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Index and name of the hosts in answers: a has the higher priority.
const A: usize = 0;
const B: usize = 1;
/// Start, convergence, master-down, on a busy machine.
const ELECTION: Duration = Duration::from_secs(25);
/// Answers by one host alone for so long: nothing is on its way any more.
const CALM: Duration = Duration::from_millis(400);
/// A host that has not answered for so many questions in a row was silent.
const SILENT: Duration = Duration::from_millis(5);
/// A client that did not ask for so long measures the machine and not the pair.
const PAUSE_LIMIT: Duration = Duration::from_millis(10);

/// What one fault cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measure {
    /// Longest time without an answer at the client.
    pub outage_ms: f64,
    /// From the fault to the heir's first answer; `None` when the master stays.
    pub takeover_ms: Option<f64>,
    /// On the wire, from the old master's last word to the heir's first advert, beyond the timer's
    /// own limit ([`Fault::limit`]); below zero: before it.
    pub wire_over_ms: Option<f64>,
    /// From the heir's first advert to its first answer at the client.
    pub client_after_ms: Option<f64>,
    /// Questions without an answer.
    pub lost: usize,
    /// Time in which both hosts answered for the VIP, each asked by its own MAC.
    pub both_ms: f64,
    /// From the last answer of a, asked by its own MAC, to b's first advert; below zero: a was not
    /// silent yet. Where b is the heir.
    pub silent_before_ms: Option<f64>,
    /// Adverts of b where a should stay master: any is a takeover that should not be.
    pub intruding: Option<usize>,
    /// The client itself paused for more than 10 ms: not used.
    pub disturbed: bool,
}

/// The pair with its cables and its client.
#[derive(Debug)]
pub struct Pair {
    // Dropped first to last: what asks before what answers, daemons before their namespaces.
    client: Prober,
    /// Asks each host by its own MAC, whoever the LAN believes in.
    direct: [Prober; 2],
    wire: Wire,
    program: Program,
    _responders: [Responder; 2],
    hosts: [Host; 2],
    ports: [Port; 2],
    pace: Pace,
    fails: PathBuf,
    _namespaces: Vec<Namespace>,
    _switch: Switch,
    _dir: TempDir,
}

impl Pair {
    /// Starts both and waits until a is master.
    ///
    /// # Errors
    /// When something cannot be made, or a does not become master.
    pub fn start(program: Program, pace: Pace) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot make a scratch directory")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let fails = dir.path().join("fails");
        let switch = Switch::new("lan")?;
        let mut hosts = Vec::new();
        let mut ports = Vec::new();
        let mut macs = Vec::new();
        for (index, role) in ["a", "b"].into_iter().enumerate() {
            let netns = Namespace::new(role)?;
            ports.push(switch.plug(&netns, "eth0", Some(&format!("10.77.0.{}/24", index + 1)))?);
            macs.push(mac(&netns)?);
            let host = Host::new(&netns, program, dir.path())?;
            host.write_config(&config(pace, index, &fails, Extra::None))?;
            hosts.push(host);
        }
        let mut namespaces = Vec::new();
        for (index, role) in ["client", "via-a", "via-b", "wire"].into_iter().enumerate() {
            let netns = Namespace::new(role)?;
            switch.plug(&netns, "eth0", Some(&format!("10.77.0.{}/24", index + 10)))?;
            if let Some(mac) = index.checked_sub(1).and_then(|host| macs.get(host)) {
                // "wire" asks nobody.
                let vip = VIP.to_string();
                netns.ip(&["neigh", "replace", &vip, "lladdr", mac, "dev", "eth0"])?;
            }
            namespaces.push(netns);
        }
        let responders = [
            Responder::start(hosts[A].netns(), VIP, 0)?,
            Responder::start(hosts[B].netns(), VIP, 1)?,
        ];
        let client = Prober::start(&namespaces[0], VIP)?;
        let direct = [Prober::start(&namespaces[1], VIP)?, Prober::start(&namespaces[2], VIP)?];
        let mut pair = Self {
            client,
            direct,
            wire: Wire::start(&namespaces[3])?,
            program,
            _responders: responders,
            hosts: hosts.try_into().ok().context("two hosts")?,
            ports: ports.try_into().ok().context("two cables")?,
            pace,
            fails,
            _namespaces: namespaces,
            _switch: switch,
            _dir: dir,
        };
        for host in &mut pair.hosts {
            host.start()?;
        }
        pair.settle(A)?;
        Ok(pair)
    }

    /// Every fault of `faults` once, in order; a is master before and after.
    ///
    /// A stop brings the return with it, and the return a stop.
    ///
    /// # Errors
    /// When the pair does not come to rest after a fault.
    pub fn round(&mut self, faults: &[Fault]) -> Result<Vec<(Fault, Measure)>> {
        let mut found = Vec::new();
        let both = [Fault::Stop, Fault::Return];
        let wanted = |fault: &Fault| {
            faults.contains(fault)
                || both.contains(fault) && both.iter().any(|it| faults.contains(it))
        };
        for fault in Fault::ALL.into_iter().filter(wanted) {
            let measures = self.fault(fault).with_context(|| fault.name())?;
            found.extend(measures.map(|measure| (fault, measure)));
        }
        Ok(found)
    }

    /// `None`: this pair cannot do that.
    fn fault(&mut self, fault: Fault) -> Result<Option<Measure>> {
        match fault {
            Fault::HostDies => {
                let measure = self.measure(fault, Some(B), |pair| {
                    let at = pair.kill(A)?;
                    pair.ports[A].set_link(false)?;
                    Ok(at)
                })?;
                self.hosts[A].kill_all()?;
                self.ports[A].set_link(true)?;
                self.hosts[A].start()?;
                self.settle(A)?;
                Ok(Some(measure))
            }
            Fault::DaemonKilled => {
                let measure = self.measure(fault, Some(B), |pair| pair.kill(A))?;
                self.hosts[A].kill_all()?;
                self.hosts[A].start()?;
                self.settle(A)?;
                Ok(Some(measure))
            }
            Fault::VrrpKilled => {
                let pid = match self.program {
                    Program::Lbd => self.hosts[A].role_pid("vrrp"),
                    // Its parent is the first; under -P there is no other child.
                    Program::Keepalived => self.hosts[A].pids().get(1).copied(),
                };
                let pid = pid.context("no vrrp process")?;
                self.measure(fault, None, |_| {
                    let at = Instant::now();
                    send(pid, Signal::SIGKILL)?;
                    Ok(at)
                })
                .map(Some)
            }
            Fault::Stop => self
                .measure(fault, Some(B), |pair| {
                    let at = Instant::now();
                    pair.hosts[A].signal_main(Signal::SIGTERM)?;
                    Ok(at)
                })
                .map(Some),
            // After the stop: a is down and b master.
            Fault::Return => {
                // Signalled before; it may still be on its way out.
                self.hosts[A].stop()?;
                self.measure(fault, Some(A), |pair| {
                    let at = Instant::now();
                    pair.hosts[A].start()?;
                    Ok(at)
                })
                .map(Some)
            }
            Fault::Cut => {
                let measure = self.measure(fault, Some(B), |pair| {
                    let at = Instant::now();
                    pair.ports[A].set_link(false)?;
                    Ok(at)
                })?;
                self.ports[A].set_link(true)?;
                self.settle(A)?;
                Ok(Some(measure))
            }
            Fault::ScriptFails => {
                let measure = self.measure(fault, Some(B), |pair| {
                    let at = Instant::now();
                    fs::write(&pair.fails, "")?;
                    Ok(at)
                })?;
                fs::remove_file(&self.fails)?;
                self.settle(A)?;
                Ok(Some(measure))
            }
            Fault::ToldStop if self.program != Program::Lbd => Ok(None),
            Fault::ToldStop => {
                self.reload(Extra::Told)?;
                let measure = self.measure(fault, Some(B), |pair| {
                    let at = Instant::now();
                    pair.hosts[A].signal_main(Signal::SIGTERM)?;
                    Ok(at)
                })?;
                self.hosts[A].stop()?;
                self.hosts[A].start()?;
                self.settle(A)?;
                Ok(Some(measure))
            }
            Fault::ReloadSame => self.reload(Extra::None).map(Some),
            Fault::ReloadAddsVip => {
                let measure = self.reload(Extra::Vip)?;
                self.reload(Extra::None)?;
                Ok(Some(measure))
            }
        }
    }

    fn reload(&mut self, extra: Extra) -> Result<Measure> {
        for (index, host) in self.hosts.iter().enumerate() {
            host.write_config(&config(self.pace, index, &self.fails, extra))?;
        }
        self.measure(Fault::ReloadSame, None, |pair| {
            let at = Instant::now();
            for host in &mut pair.hosts {
                host.signal_main(Signal::SIGHUP)?;
            }
            Ok(at)
        })
    }

    /// Performs `action` at a random phase of the advert period and waits until `heir` (or,
    /// without one, a) answers alone.
    fn measure(
        &mut self,
        fault: Fault,
        heir: Option<usize>,
        action: impl FnOnce(&mut Self) -> Result<Instant>,
    ) -> Result<Measure> {
        for prober in self.probers() {
            prober.forget();
        }
        self.wire.forget();
        thread::sleep(CALM / 4 + random_below(self.pace.interval()));
        let begin = Instant::now();
        let at = action(self)?;
        match heir {
            Some(heir) => self.settle(heir)?,
            None => {
                // What went wrong shows when the peer's timer would have fired.
                thread::sleep(self.pace.master_down() + CALM);
                self.settle(A)?;
            }
        }
        let end = Instant::now();
        let from = begin.checked_sub(CALM / 8).unwrap_or(begin);
        let window = self.client.window(from, end);
        let wire = heir.and_then(|heir| {
            let last_byte = u8::try_from(heir + 1).ok()?;
            hand_over(&self.wire.adverts(), last_byte, at)
        });
        let answered = heir.and_then(|heir| {
            let from = wire.map_or(at, |wire| wire.first);
            window.first_of(u8::try_from(heir).ok()?, from)
        });
        let takeover = heir
            .map(|heir| {
                let name = u8::try_from(heir).unwrap_or(u8::MAX);
                let first = window.first_of(name, at).context("the heir never answered")?;
                Ok::<_, anyhow::Error>(ms(first - at))
            })
            .transpose()?;
        let [a, b] = [&self.direct[A], &self.direct[B]].map(|prober| prober.window(from, end));
        let silent_before = wire.filter(|_| heir == Some(B)).and_then(|wire| {
            let last = a.last_of(u8::try_from(A).ok()?)?;
            let (after, before) =
                (wire.first.checked_duration_since(last), last.checked_duration_since(wire.first));
            after.map(ms).or(before.map(|span| -ms(span)))
        });
        let intruding = heir.is_none().then(|| {
            let adverts = self.wire.adverts();
            let of_b = adverts.iter().filter(|it| usize::from(it.host) == B + 1 && it.at >= begin);
            of_b.filter(|it| it.priority > 0).count()
        });
        Ok(Measure {
            outage_ms: ms(window.longest_gap()),
            takeover_ms: takeover,
            wire_over_ms: wire
                .zip(fault.limit(self.pace))
                .map(|(wire, limit)| ms(wire.silence) - ms(limit)),
            client_after_ms: wire.zip(answered).map(|(wire, at)| ms(at - wire.first)),
            lost: window.lost(),
            both_ms: ms(together(&a, &b)),
            silent_before_ms: silent_before,
            intruding,
            disturbed: window.longest_pause() > PAUSE_LIMIT,
        })
    }

    /// SIGKILL to every process of a host's daemon; their pids are known before the clock runs.
    fn kill(&mut self, host: usize) -> Result<Instant> {
        let pids = self.hosts[host].pids();
        let at = Instant::now();
        // The roles first: one that saw the watchdog die would act on it.
        for pid in pids.into_iter().rev() {
            send(pid, Signal::SIGKILL)?;
        }
        Ok(at)
    }

    /// Waits until `host` alone has answered the client for a while.
    fn settle(&mut self, host: usize) -> Result<()> {
        let name = u8::try_from(host)?;
        wait_until(
            &format!("{} to answer alone", self.hosts[host].name()),
            ELECTION,
            || Ok(self.client.settled(name, CALM).then_some(())),
            || {
                let logs: Vec<_> = self.hosts.iter().map(|host| host.log_tail(15)).collect();
                logs.join("\n")
            },
        )?;
        Ok(())
    }

    fn probers(&self) -> [&Prober; 3] {
        [&self.client, &self.direct[A], &self.direct[B]]
    }
}

/// Time in which both windows have answers. A single answer among the other's counts for the time to
/// the next question: a host that answers once has answered.
fn together(a: &Window, b: &Window) -> Duration {
    let overlap = |a: &(Instant, Instant), b: &(Instant, Instant)| {
        let both = a.1.min(b.1).checked_duration_since(a.0.max(b.0));
        both.map_or(Duration::ZERO, |both| both.max(EVERY))
    };
    let b = b.stretches(SILENT);
    a.stretches(SILENT).iter().map(|a| b.iter().map(|b| overlap(a, b)).sum::<Duration>()).sum()
}

/// What a configuration has beyond the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extra {
    None,
    /// A second VIP.
    Vip,
    /// `told_handover`.
    Told,
}

fn config(pace: Pace, index: usize, fails: &std::path::Path, extra: Extra) -> String {
    let priority = if index == A { 150 } else { 100 };
    // b's script never fails: it is there so that both do the same work.
    let file = if index == A { fails.display().to_string() } else { "/nonexistent".to_owned() };
    let more = if extra == Extra::Vip { "        10.77.0.101/24\n" } else { "" };
    // The mark of a told hand-over is VRRPv3's.
    let (version, told) = match extra {
        Extra::Told => (3, "    told_handover on\n"),
        Extra::None | Extra::Vip => (pace.version, ""),
    };
    format!(
        "global_defs {{
    router_id BENCH
    script_user root
    vrrp_version {version}
}}
vrrp_script chk {{
    script \"/usr/bin/test ! -e {file}\"
    interval 1
    fall 1
    rise 1
}}
vrrp_instance VI_1 {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {}
{told}    virtual_ipaddress {{
        {VIP}/24
{more}    }}
    track_script {{
        chk
    }}
}}
",
        f64::from(pace.advert_ms) / 1000.0,
    )
}

fn mac(netns: &Namespace) -> Result<String> {
    let text = netns.ip(&["-o", "link", "show", "dev", "eth0"])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    Ok(words.next().with_context(|| format!("no MAC in {text}"))?.to_owned())
}

/// Not what any secret hangs on: the standard library's seed is random enough.
fn random_below(limit: Duration) -> Duration {
    let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(RandomState::new().hash_one(0u8) % nanos)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::{super::probe::Answer, *};

    /// Answers at these times, in milliseconds after `base`.
    fn window(base: Instant, answers: impl IntoIterator<Item = u64>) -> Window {
        let answer = |ms| Answer { at: base + Duration::from_millis(ms), number: ms, host: 0 };
        Window { asked: vec![], answers: answers.into_iter().map(answer).collect() }
    }

    #[test]
    fn both_answer_where_the_answers_of_one_lie_among_the_others() {
        let base = Instant::now();
        let both = |a: &Window, b: &Window| together(a, b).as_millis();
        let old = window(base, 0..=100);
        assert_eq!(both(&old, &window(base, 101..=200)), 0, "one after the other");
        assert_eq!(both(&old, &window(base, 90..=200)), 10);
        assert_eq!(both(&old, &window(base, [50])), 1, "a single answer");
        assert_eq!(both(&window(base, [50]), &old), 1, "of either");
        // Apart by more than SILENT: three stretches of the one within the other.
        assert_eq!(both(&old, &window(base, [10, 30, 50])), 3);
        let pauses = window(base, (0..=10).chain(40..=50));
        assert_eq!(both(&pauses, &window(base, 20..=30)), 0, "in the other's pause");
        assert_eq!(both(&old, &window(base, [])), 0);
    }
}
