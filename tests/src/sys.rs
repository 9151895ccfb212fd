//! The only unsafe code of the harness: what a child does between fork and exec, what it used when it
//! has ended, and realtime threads.
#![expect(
    unsafe_code,
    reason = "Command::pre_exec, wait4 and sched_setscheduler have no safe face"
)]

use std::{
    fs::File,
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, setpgid},
};

/// What a child had used when it ended.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// `None`: it was killed, by us after the limit or by somebody else.
    pub exit_code: Option<i32>,
    /// User and system time.
    pub cpu: Duration,
    /// Largest resident size, KiB.
    pub resident_kib: u64,
}

/// Waits for a child's end, and ends it after `limit`.
///
/// # Errors
/// When there is no such child any more.
pub fn wait_used(child: Child, limit: Duration) -> io::Result<Used> {
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let (over, ended) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = kill(pid, Signal::SIGKILL); // it may have ended at this moment
        }
    });
    let mut status = 0;
    // SAFETY: a rusage of zeros is a valid one (numbers only).
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals that outlive the call, which alone writes to them.
    let waited = unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) };
    let error = io::Error::last_os_error();
    drop(over);
    let _ = watch.join(); // it cannot panic
    if waited != pid.as_raw() {
        return Err(error);
    }
    let time = |it: libc::timeval| {
        Duration::from_secs(it.tv_sec.unsigned_abs())
            + Duration::from_micros(it.tv_usec.unsigned_abs())
    };
    Ok(Used {
        exit_code: ExitStatus::from_raw(status).code(),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        resident_kib: usage.ru_maxrss.unsigned_abs(),
    })
}

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
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// SCHED_RR for the calling thread.
///
/// # Errors
/// When the kernel refuses it.
pub fn round_robin(priority: i32) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the structure is complete and read during the call only; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Another nice value for the calling thread.
///
/// # Errors
/// When the kernel refuses it.
pub fn nice(value: i32) -> io::Result<()> {
    // SAFETY: the call has no pointers; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the calling thread a realtime priority, so that a bench does not measure its own waiting
/// for a CPU. Without the privilege it goes on as it is; the bench sees that in its own pauses.
pub fn realtime() {
    let parameter = libc::sched_param { sched_priority: 60 };
    // SAFETY: the structure is complete and read during the call only; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) } != 0 {
        eprintln!("no realtime priority: {}", io::Error::last_os_error());
    }
}
