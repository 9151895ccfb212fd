//! How long lbd takes over large configurations: parse and check beside `keepalived -t`, expansion of
//! sequences, and a reload that adds one real server to ten thousand.
//!
//! Programs are timed whole, from `exec` to exit, in turns; what the kernel counts for them (CPU time,
//! largest resident size) is taken from wait4(2) of each. The plan of a reload is timed twice: the
//! function alone, and what an operator waits for on a running lbd ([`live`]).

pub mod live;

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::{abi::POOL_LEN, maps};
use lb_userspace::{
    base::{plan::Action, table::Engine},
    config::{self, model::Config, plan},
    desired::{self, Admin, HealthBook, Host, Inputs, LeaseSlots},
    reconcile::{self, Operation},
};
use serde::Serialize;

use self::live::Live;
use crate::{host::bin_dir, sys};

/// Real servers of one virtual server in a generated file.
const POOL: usize = 50;
/// A program that takes longer is given up, and its row says so.
const LIMIT: Duration = Duration::from_secs(300);

/// One file and one program.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    pub program: &'static str,
    pub real_servers: usize,
    pub bytes: usize,
    /// Exit code of `-t`; `None`: it was given up after the limit.
    pub exit_code: Option<i32>,
    /// From its start to its end, milliseconds: least, median.
    pub min_ms: f64,
    pub median_ms: f64,
    /// User and system time of the median run, milliseconds.
    pub cpu_ms: f64,
    /// Largest resident size, KiB.
    pub resident_kib: u64,
}

/// lbd beside keepalived over one file. Of 50,000 real servers lbd reads and checks every word and then
/// refuses the file (exit code 4): its data plane holds [`REAL_SERVERS`]. That is what is timed.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// lbd refuses the file: it has more than the data plane holds.
    pub refused: bool,
    /// The most real servers that the data plane holds.
    pub most_real_servers: usize,
    pub lbd: Timing,
    /// `None`: keepalived is not installed.
    pub keepalived: Option<Timing>,
    /// Median of keepalived by median of lbd.
    pub times_faster: Option<f64>,
}

/// A file of sequences.
#[derive(Clone, Debug, Serialize)]
pub struct Expansion {
    pub written_bytes: usize,
    /// After `~SEQ`, `~LST` and variables.
    pub real_servers: usize,
    pub timing: Timing,
    /// The same servers written out, median.
    pub written_out_ms: f64,
}

/// A reload that adds one real server, function by function, and how much of it touches others.
#[derive(Clone, Debug, Serialize)]
pub struct OneMore {
    pub real_servers: usize,
    /// Median milliseconds of each part.
    pub parse_and_check_ms: f64,
    pub plan_ms: f64,
    /// Table that the data plane should hold, and the operations that lead to it.
    pub compile_and_diff_ms: f64,
    pub untouched: usize,
    pub steps: Vec<String>,
    pub operations: Vec<String>,
}

fn address(index: usize) -> String {
    let [_, a, b, c] = u32::try_from(index).unwrap_or(0).to_be_bytes();
    format!("10.{}.{b}.{c}", 64 + u32::from(a))
}

/// A virtual server's VIP: its number in 198.18.0.0/15.
fn vip(index: usize) -> String {
    let [_, _, b, c] = u32::try_from(index).unwrap_or(0).to_be_bytes();
    format!("198.18.{b}.{c}")
}

/// Statements of a real server, as files in the wild have them.
fn real_server(out: &mut String, index: usize) {
    let _ = write!(
        out,
        "    real_server {} 3306 {{\n        weight 1\n        TCP_CHECK {{\n            \
         connect_timeout 3\n            retry 2\n            delay_before_retry 3\n        }}\n    }}\n",
        address(index)
    );
}

/// Real servers that lbd's data plane holds: 16,383.
pub const REAL_SERVERS: usize = maps::REALS as usize - 1;

/// Least factor by which lbd reads [`JUDGED`] real servers faster than keepalived.
pub const TIMES_FASTER: f64 = 10.0;
/// Size of the file that the factor is judged at.
pub const JUDGED: usize = 5_000;
/// Milliseconds that the plan of a reload may take, by itself and as the operator waits for it, and the real
/// servers that it is judged at.
pub const PLAN_MS: f64 = 100.0;
const PLANNED: usize = 10_000;

/// Targets that were missed or not measured, one a line.
pub fn missed(pairs: &[Pair], reload: Option<&OneMore>, live: Option<&Live>) -> Vec<String> {
    let mut out = Vec::new();
    match pairs.iter().find(|pair| pair.lbd.real_servers == JUDGED).map(|pair| pair.times_faster) {
        None => out.push(format!("parse and check of {JUDGED} real servers was not measured")),
        Some(None) => out.push("keepalived is not installed".into()),
        Some(Some(times)) => {
            // What is no number reaches nothing.
            let reached = times >= TIMES_FASTER;
            if !reached {
                out.push(format!("{times:.1} times faster than keepalived, not {TIMES_FASTER}"));
            }
        }
    }
    let alone = reload.filter(|it| it.real_servers >= PLANNED).map(|it| it.plan_ms);
    let waited = live.filter(|it| it.real_servers >= PLANNED).map(|it| it.plan_ms);
    for (what, took) in [("the plan", alone), ("`lbctl reload --plan`", waited)] {
        match took {
            None => out.push(format!("{what} of {PLANNED} real servers was not measured")),
            Some(took) => {
                let reached = took < PLAN_MS;
                if !reached {
                    out.push(format!("{what} took {took:.1} ms, not less than {PLAN_MS}"));
                }
            }
        }
    }
    out
}

/// Whether lbd's data plane can hold a file of [`written`] with so many real servers. Of a larger one `-t` says
/// what is too many, after it has read and checked the whole: that is what is timed then.
pub fn within_limits(real_servers: usize) -> bool {
    real_servers <= REAL_SERVERS && real_servers.div_ceil(POOL) < maps::SERVICES as usize
}

/// A file of so many real servers, `POOL` in each virtual server. keepalived finds no fault in it; lbd none
/// while its data plane can hold them ([`within_limits`]), and beyond that checks all of it and refuses it.
pub fn written(real_servers: usize) -> String {
    let mut out = String::from("global_defs {\n    router_id bench\n}\n\n");
    for service in 0..real_servers.div_ceil(POOL) {
        let _ = writeln!(
            out,
            "virtual_server {} 3306 {{\n    delay_loop 10\n    lb_algo wlc\n    lb_kind NAT\n    \
             protocol TCP",
            vip(service)
        );
        for index in service * POOL..real_servers.min((service + 1) * POOL) {
            real_server(&mut out, index);
        }
        out.push_str("}\n\n");
    }
    out
}

/// The same by sequences: `services` × `POOL` real servers in a few lines.
pub fn sequences(services: usize) -> String {
    let last = services.saturating_sub(1);
    format!(
        "global_defs {{\n    router_id bench\n}}\n$RS= \\\nreal_server 10.${{A}}.${{B}}.$C 3306 {{ \\\n    weight 1 \\\n    \
         TCP_CHECK {{ \\\n        connect_timeout 3 \\\n        retry 2 \\\n        \
         delay_before_retry 3 \\\n    }} \\\n}}\n$VS= \\\nvirtual_server 198.18.${{B}}.$A 3306 {{ \\\n    \
         delay_loop 10 \\\n    lb_algo wlc \\\n    lb_kind NAT \\\n    protocol TCP \\\n    \
         ~SEQ(C, 1, {POOL}) $RS \\\n}}\n~SEQ(A, 0, {}) ~SEQ(B, 0, {}) $VS\n",
        last / 10,
        last.min(9)
    )
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// One run of a program to its end.
struct Run {
    ms: f64,
    cpu_ms: f64,
    resident_kib: u64,
    exit_code: Option<i32>,
}

fn run(program: &Path, file: &Path) -> Result<Run> {
    let mut command = Command::new(program);
    command.args(["-t", "-f"]).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let used = sys::wait_used(child, LIMIT)?;
    Ok(Run {
        ms: ms(begin.elapsed()),
        cpu_ms: ms(used.cpu),
        resident_kib: used.resident_kib,
        exit_code: used.exit_code,
    })
}

fn timing(program: &'static str, real_servers: usize, bytes: usize, runs: &[Run]) -> Timing {
    let mut times: Vec<f64> = runs.iter().map(|run| run.ms).collect();
    let mut cpu: Vec<f64> = runs.iter().map(|run| run.cpu_ms).collect();
    let median_ms = median(&mut times);
    Timing {
        program,
        real_servers,
        bytes,
        exit_code: runs.first().and_then(|run| run.exit_code),
        min_ms: times.first().copied().unwrap_or(f64::NAN),
        median_ms,
        cpu_ms: median(&mut cpu),
        resident_kib: runs.iter().map(|run| run.resident_kib).max().unwrap_or(0),
    }
}

/// lbd and keepalived over a file of so many real servers, in turns. A keepalived that was given up
/// is not started again.
///
/// # Errors
/// When lbd is not built, or does not end.
pub fn beside_keepalived(real_servers: usize, rounds: u32, dir: &Path) -> Result<Pair> {
    let text = written(real_servers);
    let file = dir.join(format!("{real_servers}.conf"));
    fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    let lbd = bin_dir().join("lbd");
    let keepalived = Path::new("keepalived");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let installed = Command::new(keepalived)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    for _ in 0..rounds.max(1) {
        let run_of_lbd = run(&lbd, &file)?;
        ensure!(run_of_lbd.exit_code.is_some(), "lbd did not end within {LIMIT:?}");
        ours.push(run_of_lbd);
        if installed && theirs.last().is_none_or(|it: &Run| it.exit_code.is_some()) {
            theirs.push(run(keepalived, &file)?);
        }
    }
    let lbd = timing("lbd", real_servers, text.len(), &ours);
    let keepalived =
        (!theirs.is_empty()).then(|| timing("keepalived", real_servers, text.len(), &theirs));
    let times_faster = keepalived.as_ref().map(|it| it.median_ms / lbd.median_ms);
    let refused = !within_limits(real_servers);
    Ok(Pair { refused, most_real_servers: REAL_SERVERS, lbd, keepalived, times_faster })
}

/// A file of sequences, beside the same servers written out.
///
/// # Errors
/// As [`beside_keepalived`]; when it does not expand to what it should.
pub fn expansion(services: usize, rounds: u32, dir: &Path) -> Result<Expansion> {
    let (short, long) = (sequences(services), written(services * POOL));
    let expanded = parse(&short)?;
    let real_servers = expanded.virtual_servers.iter().map(|it| it.real_servers.len()).sum();
    ensure!(real_servers == services * POOL, "{real_servers} real servers");
    let file = |name: &str, text: &str| -> Result<_> {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    let (sequences, written) = (file("seq.conf", &short)?, file("long.conf", &long)?);
    let lbd = bin_dir().join("lbd");
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        first.push(run(&lbd, &sequences)?);
        second.push(run(&lbd, &written)?.ms);
    }
    Ok(Expansion {
        written_bytes: short.len(),
        real_servers,
        timing: timing("lbd", real_servers, short.len(), &first),
        written_out_ms: median(&mut second),
    })
}

fn parse(text: &str) -> Result<Config> {
    let outcome = config::load("bench.conf", text);
    let said = outcome.render_errors();
    outcome.config.with_context(|| format!("the bench's own file is refused:\n{said}"))
}

/// As [`written`], with one real server more in the last virtual server.
pub fn one_more(real_servers: usize) -> String {
    let text = written(real_servers);
    let end = text.rfind('}').unwrap_or(text.len());
    let (before, after) = text.split_at(end);
    let mut out = before.to_owned();
    real_server(&mut out, 0x10_0000);
    out + after
}

/// The parts of a reload that adds one real server.
///
/// # Errors
/// When anything but that server is in the plan or among the operations.
pub fn reload(real_servers: usize, rounds: u32) -> Result<OneMore> {
    ensure!(
        within_limits(real_servers + 1) && POOL < POOL_LEN,
        "{real_servers} real servers and one more are too many for the data plane"
    );
    let (old, text) = (parse(&written(real_servers))?, one_more(real_servers));
    let (mut parsing, mut planning, mut compiling) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    let before = table(&old);
    for _ in 0..rounds.max(1) {
        let begin = Instant::now();
        let new = parse(&text)?;
        parsing.push(ms(begin.elapsed()));
        let begin = Instant::now();
        let plan = plan::plan(&old, &new, &plan::States::new());
        planning.push(ms(begin.elapsed()));
        let begin = Instant::now();
        let operations = reconcile::plan(&before, &table(&new)).operations;
        compiling.push(ms(begin.elapsed()));
        last = Some((plan, operations));
    }
    let (plan, operations) = last.context("no round")?;
    let added: SocketAddr = format!("{}:3306", address(0x10_0000)).parse()?;
    let [step] = &plan.steps[..] else { bail!("the plan has not one step: {plan}") };
    ensure!(
        step.action == Action::Add && step.object.contains(&added.to_string()),
        "not the one that was added: {step}"
    );
    ensure!(
        matches!(&operations[..], [Operation::SetRealServer { addr, .. }] if *addr == added),
        "more is touched than {added}: {operations:?}"
    );
    Ok(OneMore {
        real_servers,
        parse_and_check_ms: median(&mut parsing),
        plan_ms: median(&mut planning),
        compile_and_diff_ms: median(&mut compiling),
        untouched: plan.untouched,
        steps: plan.steps.iter().map(ToString::to_string).collect(),
        operations: operations.iter().map(ToString::to_string).collect(),
    })
}

/// What the data plane should hold before any probe has ended.
fn table(config: &Config) -> lb_userspace::base::table::ForwardingTable {
    desired::compile(&Inputs {
        engine: Engine::Xdp,
        masters: &Default::default(),
        config,
        vrrp: true,
        slots: &LeaseSlots::default(),
        health: &HealthBook::default(),
        quorum: &Default::default(),
        admin: &Admin::default(),
        host: &Host::default(),
        now: lb_userspace::base::time::Instant::ZERO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_what_they_say() {
        for count in [1, 50, 120] {
            let config = parse(&written(count)).expect("no error");
            let servers = || config.virtual_servers.iter().flat_map(|it| &it.real_servers);
            assert_eq!(servers().count(), count);
            let addresses: std::collections::BTreeSet<_> = servers().map(|it| it.addr).collect();
            assert_eq!(addresses.len(), count, "each its own");
        }
        let config = parse(&sequences(20)).expect("no error");
        assert_eq!(config.virtual_servers.len(), 20);
        assert!(config.virtual_servers.iter().all(|it| it.real_servers.len() == POOL));
    }

    #[test]
    fn what_the_data_plane_cannot_hold_is_refused_and_said_to_be() {
        for (count, fits) in [(5_000, true), (12_750, true), (12_751, false), (50_000, false)] {
            assert_eq!(within_limits(count), fits, "{count}");
        }
        let outcome = config::load("t", &written(12_751));
        assert!(
            outcome.config.is_none() && outcome.exit_code() == 4,
            "{}",
            outcome.render_errors()
        );
        assert!(parse(&written(12_750)).is_ok());
    }

    #[test]
    fn a_target_that_is_missed_or_not_measured_is_named() {
        assert_eq!(REAL_SERVERS, 16_383);
        let pair = |real_servers: usize, times_faster: Option<f64>| {
            let lbd = timing("lbd", real_servers, 1, &[]);
            let refused = !within_limits(real_servers);
            Pair { refused, most_real_servers: REAL_SERVERS, lbd, keepalived: None, times_faster }
        };
        let plan = |plan_ms: f64| OneMore {
            plan_ms,
            real_servers: 10_000,
            ..reload(500, 1).expect("one")
        };
        let wait = |plan_ms: f64| Live {
            real_servers: 10_000,
            reloads: 2,
            plan_ms,
            plan_max_ms: plan_ms,
            reload_ms: 0.0,
            reload_max_ms: 0.0,
        };
        let good = || vec![pair(50_000, Some(2.0)), pair(5_000, Some(10.0))];
        let small = Live { real_servers: 9_999, ..wait(1.0) };
        for (pairs, reload, live, wanted) in [
            (good(), Some(plan(99.9)), Some(wait(99.9)), vec![]),
            (good(), Some(plan(1.0)), Some(wait(100.0)), vec!["`lbctl reload --plan` took 100.0"]),
            (good(), Some(plan(1.0)), Some(wait(f64::NAN)), vec!["took NaN ms"]),
            (good(), Some(plan(1.0)), Some(small), vec!["`lbctl reload --plan` of 10000"]),
            (good(), Some(plan(1.0)), None, vec!["`lbctl reload --plan` of 10000"]),
            (
                vec![pair(5_000, Some(9.9))],
                Some(plan(100.0)),
                Some(wait(1.0)),
                vec!["9.9 times", "the plan took 100.0 ms"],
            ),
            (
                vec![pair(5_000, Some(f64::NAN))],
                Some(plan(f64::NAN)),
                Some(wait(1.0)),
                vec!["NaN times", "NaN ms"],
            ),
            (vec![pair(5_000, None)], None, Some(wait(1.0)), vec!["not installed", "not measured"]),
            (
                vec![pair(50_000, Some(99.0))],
                Some(plan(1.0)),
                Some(wait(1.0)),
                vec!["not measured"],
            ),
        ] {
            let told = missed(&pairs, reload.as_ref(), live.as_ref());
            assert_eq!(told.len(), wanted.len(), "{told:?}");
            assert!(told.iter().zip(wanted).all(|(line, words)| line.contains(words)), "{told:?}");
        }
    }

    #[test]
    fn one_server_more_is_one_step_and_one_operation() {
        let found = reload(500, 1).expect("one");
        assert_eq!((found.steps.len(), found.operations.len()), (1, 1), "{found:?}");
        // All others, their virtual servers, and the blocks that are there once.
        assert!(found.untouched >= 500 + 9, "{found:?}");
    }
}
