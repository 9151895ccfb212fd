//! How the kernel schedules the live vrrp process, as /proc tells it, against `vrrp_rt_priority`
//! and its like. What the kernel refuses lbd has to have logged.

use std::{collections::BTreeMap, fs, io, thread};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    single::{self, Single, config},
    sys,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        mman::{MlockAllFlags, mlockall, munlockall},
        resource::{RLIM_INFINITY, Resource, setrlimit},
    },
    unistd::Pid,
};

/// What the configuration asks for.
const WORDS: &str = "vrrp_rt_priority 42\nvrrp_priority -7\nvrrp_cpu_affinity 0\n\
                     vrrp_rlimit_rttime 900000\nvrrp_no_swap";
/// SCHED_RR of linux/sched.h.
const ROUND_ROBIN: i64 = 2;

/// Scheduling of one thread: nice, real-time priority, policy (proc_pid_stat(5), fields 19, 40, 41).
#[derive(Debug, PartialEq, Eq)]
struct Thread {
    nice: i64,
    rt_priority: i64,
    policy: i64,
}

fn scheduled(pid: Pid) -> Result<Thread> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The name may hold blanks and brackets.
    let (_, rest) = stat.rsplit_once(") ").context("no name")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    // The state is the third field.
    let field = |number: usize| -> Result<i64> {
        Ok(words.get(number - 3).with_context(|| format!("no field {number}: {stat}"))?.parse()?)
    };
    Ok(Thread { nice: field(19)?, rt_priority: field(40)?, policy: field(41)? })
}

fn status(pid: Pid) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// Soft and hard limit of a line of /proc/PID/limits.
fn limit(pid: Pid, name: &str) -> Result<[String; 2]> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).context("the process is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such limit")?;
    let mut words = line.split_whitespace().map(str::to_owned);
    words.next().zip(words.next()).map(|(soft, hard)| [soft, hard]).context("no two limits")
}

/// Whether the kernel lets this process have what a word asks for, by what a thread of its own is
/// answered: lbd is started by it, with the same rights.
fn probe(ask: fn() -> io::Result<()>) -> Result<(), String> {
    let answer = thread::spawn(ask).join().map_err(|_| "the probe panicked".to_owned())?;
    answer.map_err(|error| error.to_string())
}

fn lock_memory() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)?;
    Ok(munlockall()?)
}

fn bind_to_first() -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

/// Asserts `holds`; where it does not hold, the kernel has to refuse the word to this test as well
/// (`probed`), and lbd has to have said so. The words that were refused are printed: nothing is skipped
/// silently.
fn check(
    single: &Single,
    word: &str,
    holds: bool,
    found: &str,
    probed: Result<(), String>,
) -> Result<()> {
    let said = single.log().lines().any(|line| {
        line.contains("ERROR")
            && line.contains("the kernel refuses it: VRRP runs without")
            && line.contains(&format!("word=\"{word}\""))
    });
    ensure!(holds != said, "{word}: {found}; refusal logged: {said}\n{}", single.log());
    if said {
        let why = probed.err();
        let why = why.with_context(|| format!("{word}: the kernel grants it to this test"))?;
        eprintln!("REFUSED by this kernel ({why}), and logged by lbd: {word} ({found})");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_vrrp_process_is_scheduled_as_the_file_says_and_no_other() -> Result<()> {
    if !single::ready("proc_scheduling")? {
        return Ok(());
    }
    let single = Single::start(&config("0.2", WORDS, "", ""))?;
    single.wait_master()?;
    let vrrp = single.host.role_pid("vrrp").context("no vrrp process")?;
    let got = scheduled(vrrp)?;
    let real_time = got.policy == ROUND_ROBIN && got.rt_priority == 42;
    let probed = probe(|| sys::round_robin(42));
    check(&single, "vrrp_rt_priority", real_time, &format!("{got:?}"), probed)?;
    let probed = probe(|| sys::nice(-7));
    check(&single, "vrrp_priority", got.nice == -7, &format!("{got:?}"), probed)?;
    let status = status(vrrp)?;
    let field = |name: &str| status.get(name).cloned().with_context(|| format!("no {name}"));
    let cpus = field("Cpus_allowed_list")?;
    check(&single, "vrrp_cpu_affinity", cpus == "0", &cpus, probe(bind_to_first))?;
    let [soft, hard] = limit(vrrp, "Max realtime timeout")?;
    let limited = soft == "900000" && hard == "900000";
    // A lower limit needs no right.
    check(&single, "vrrp_rlimit_rttime", limited, &format!("{soft} {hard}"), Ok(()))?;
    let locked = field("VmLck")?;
    let some = locked.split(' ').next().is_some_and(|kib| kib != "0");
    check(&single, "vrrp_no_swap", some, &locked, probe(lock_memory))?;

    // A priority of the vrrp process is nobody else's: its like for the others has other words.
    for role in ["checker", "forwarder", "api"] {
        let Some(pid) = single.host.role_pid(role) else { continue };
        let other = scheduled(pid)?;
        ensure!(other == Thread { nice: 0, rt_priority: 0, policy: 0 }, "{role}: {other:?}");
    }
    // A restarted one is scheduled in the same way.
    let mut single = single;
    single.host.kill_role("vrrp")?;
    single.wait_master()?;
    let again = single.host.role_pid("vrrp").context("no vrrp process")?;
    ensure!(again != vrrp && scheduled(again)? == got, "{:?}, before {got:?}", scheduled(again)?);
    Ok(())
}
