//! The only unsafe code of the harness: what a child does between fork and exec, what it used when it
//! has ended, realtime threads, and two things that no library of ours has: test runs with a flag, frames in pieces.
#![expect(
    unsafe_code,
    reason = "Command::pre_exec, wait4, sched_setscheduler, bpf and PACKET_VNET_HDR have no safe face"
)]

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
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

/// `union bpf_attr` of BPF_PROG_TEST_RUN, whole.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs a program of tc once on a frame whose device gave the sum of its packet (CHECKSUM_COMPLETE): what it returned, and
/// the frame that came out.
///
/// # Errors
/// EBADMSG: that sum is wrong by then. Kernels that do not know the flag ([`io::ErrorKind::InvalidInput`]) give none.
pub fn run_summed(program: impl AsFd, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    const PROG_TEST_RUN: libc::c_int = 10;
    const CHECKSUM_COMPLETE: u32 = 1 << 2;
    let mut out = vec![0; frame.len() + 64];
    let mut attr = RunAttr {
        prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(frame.len()).unwrap_or(u32::MAX),
        data_size_out: u32::try_from(out.len()).unwrap_or(u32::MAX),
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        flags: CHECKSUM_COMPLETE,
        ..RunAttr::default()
    };
    // SAFETY: a repr(C) prefix of union bpf_attr of the size told; its pointers are valid for the sizes in it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, &raw mut attr, size_of::<RunAttr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}

/// Sends a frame of more than a page by an interface of this network namespace, of which only the first `linear` bytes lie
/// in the linear part of the skb, as some drivers' do.
///
/// # Errors
/// That of the system.
pub fn send_in_pieces(ifindex: u32, frame: &[u8], linear: u16) -> io::Result<()> {
    const PACKET_VNET_HDR: libc::c_int = 15;
    /// `struct virtio_net_hdr`: flags, kind of GSO, length of the headers, three words of GSO and checksum.
    const VIRTIO: usize = 10;
    let mut bytes = vec![0; VIRTIO];
    bytes[2..4].copy_from_slice(&linear.to_ne_bytes());
    bytes.extend(frame);
    // SAFETY: takes integers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let on: libc::c_int = 1;
    // SAFETY: the option's value and its size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: bytes and address with their sizes.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
