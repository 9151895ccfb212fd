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

/// Gives the calling thread a realtime priority, so that a bench does not measure its own waiting
/// for a CPU. Without the privilege it goes on as it is; the bench sees that in its own pauses.
pub fn realtime() {
    let parameter = libc::sched_param { sched_priority: 60 };
    // SAFETY: the structure is complete and read during the call only; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) } != 0 {
        eprintln!("no realtime priority: {}", std::io::Error::last_os_error());
    }
}
