//! The only unsafe code of the harness: what a child does between fork and exec, and realtime
//! threads.
#![expect(unsafe_code, reason = "Command::pre_exec and sched_setscheduler have no safe face")]

use std::{fs::File, os::unix::process::CommandExt as _, process::Command, sync::Arc};

use nix::{
    sched::{CloneFlags, setns},
    sys::{prctl, signal::Signal},
    unistd::{Pid, setpgid},
};

/// Makes `command` start inside the network namespace `netns`, in a process group of its own
/// (so that Ctrl-C reaches the lab alone) and die when the thread that started it dies.
pub fn start_in(command: &mut Command, netns: Arc<File>) {
    // SAFETY: the closure runs in the forked child before exec and performs only the system
    // calls setns(2), setpgid(2) and prctl(2), which are async-signal-safe; it allocates nothing
    // (`io::Error::from` of an errno is a plain value) and `netns` outlives it.
    unsafe {
        command.pre_exec(move || {
            setns(&*netns, CloneFlags::CLONE_NEWNET)?;
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        });
    }
}

/// Takes bpf(2) away from `command` and all that it starts, as a kernel that was built without it
/// answers: ENOSYS.
pub fn without_bpf(command: &mut Command) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        step(LOAD, 0, 0), // `nr` of struct seccomp_data
        step(EQUAL, 1, libc::SYS_bpf as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: the closure runs in the forked child before exec and performs one prctl(2), which is
    // async-signal-safe; the filter is complete, lives in the closure and is copied by the kernel
    // during the call.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
            match libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

/// Gives the calling thread a realtime priority, so that a bench does not measure its own waiting
/// for a CPU. Without the privilege it goes on as it is; the bench sees that in its own pauses.
pub fn realtime() {
    let parameter = libc::sched_param { sched_priority: 60 };
    // SAFETY: the structure is complete and read during the call only; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) } != 0 {
        eprintln!("no realtime priority: {}", std::io::Error::last_os_error());
    }
}
