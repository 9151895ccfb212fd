//! How the kernel schedules this process (`vrrp_rt_priority` and its like), and when VRRP may
//! begin. Done before privileges are dropped; what is refused is told, and VRRP runs without.

use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        mman::{MlockAllFlags, mlockall},
        resource::{RLIM_INFINITY, Resource, setrlimit},
    },
    unistd::Pid,
};

use super::sys;
use crate::{
    base::time::Instant,
    config::model::{Global, Scheduling},
};

/// Applies it to this process and to the threads that it starts from now on.
pub(super) fn apply(wanted: &Scheduling) {
    if !wanted.cpu_affinity.is_empty() {
        let mut cpus = CpuSet::new();
        let set = wanted.cpu_affinity.iter().try_for_each(|cpu| cpus.set(*cpu));
        told("vrrp_cpu_affinity", set.and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus)));
    }
    if let Some(micros) = wanted.rlimit_rttime_us {
        told("vrrp_rlimit_rttime", setrlimit(Resource::RLIMIT_RTTIME, micros, micros));
    }
    if wanted.no_swap {
        // Without the capability, which is dropped next, the limit would refuse later memory.
        let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
        told("vrrp_no_swap", unlimited.and_then(|()| mlockall(flags)));
    }
    if let Some(nice) = wanted.nice {
        told("vrrp_priority", sys::set_nice(nice.into()));
    }
    if let Some(priority) = wanted.rt_priority {
        told("vrrp_rt_priority", sys::set_round_robin(priority.into()));
    }
}

fn told(word: &str, outcome: nix::Result<()>) {
    if let Err(error) = outcome {
        tracing::error!(word, %error, "the kernel refuses it: VRRP runs without");
    }
}

/// The earliest moment for VRRP to begin, unless a lease of ours still runs. CLOCK_MONOTONIC counts
/// from the boot.
pub(super) fn earliest(global: &Global, now: Instant) -> Instant {
    let after_start = now + global.vrrp_startup_delay;
    after_start.max(Instant::ZERO + global.vrrp_delay_after_boot)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::{sched::sched_getaffinity, sys::resource::getrlimit};

    use super::*;

    #[test]
    fn vrrp_begins_after_both_delays() {
        let seconds = Duration::from_secs;
        let at = |secs| Instant::ZERO + seconds(secs);
        let rows = [(0, 0, 100), (5, 0, 105), (0, 60, 100), (0, 160, 160), (70, 160, 170)];
        for (startup, boot, want) in rows {
            let global = Global {
                vrrp_startup_delay: seconds(startup),
                vrrp_delay_after_boot: seconds(boot),
                ..Global::default()
            };
            assert_eq!(earliest(&global, at(100)), at(want), "{startup} {boot}");
        }
    }

    /// Affinity and policy belong to threads, so a thread of its own may change them.
    #[test]
    fn a_thread_is_bound_to_its_cpu_and_its_time_is_limited() {
        let done = std::thread::spawn(|| {
            let before = getrlimit(Resource::RLIMIT_RTTIME).expect("readable");
            apply(&Scheduling { cpu_affinity: vec![0], nice: Some(1), ..Scheduling::default() });
            let cpus = sched_getaffinity(Pid::from_raw(0)).expect("readable");
            let bound: Vec<usize> =
                (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu) == Ok(true)).collect();
            assert_eq!(bound, [0]);
            assert_eq!(getrlimit(Resource::RLIMIT_RTTIME).expect("readable"), before);
        });
        assert!(done.join().is_ok());
    }
}
