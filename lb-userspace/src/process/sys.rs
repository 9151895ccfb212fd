//! Calls of the allocator and of the scheduler that std and nix do not have.
#![allow(unsafe_code, reason = "malloc_trim and sched_setattr have no safe form")]

use std::time::Duration;

use nix::errno::Errno;

/// How long lbd computes before others may have their turn; the least that the kernel takes. What a message asks for is
/// done in less.
const TURN: Duration = Duration::from_micros(100);

/// Asks for short turns for the calling thread and whatever it starts. On a host that is busy with other things a
/// verdict goes through three processes on its way to the maps; the kernel lets those in at once who ask for little
/// (EEVDF: of the eligible the one whose slice ends first; `custom_slice`, Linux 6.12). Nobody's share of the
/// processor changes, and no privilege is needed. Older kernels take it and do nothing; so does this, where an
/// operator chose another policy than the usual one.
///
/// # Errors
/// What the kernel says.
pub(super) fn short_turns() -> nix::Result<()> {
    let mut wanted = attributes()?;
    if i64::from(wanted.sched_policy) != i64::from(libc::SCHED_OTHER) {
        return Ok(());
    }
    wanted.sched_runtime = u64::try_from(TURN.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the kernel reads as many bytes as `size` says, which are those of the live struct; 0 means the caller.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) })
        .map(drop)
}

/// How the calling thread is scheduled.
fn attributes() -> nix::Result<libc::sched_attr> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(u32::MAX);
    let mut found = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes to a live struct of that size; 0 means the caller.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size, 0) })?;
    found.size = size; // Not what a newer kernel would call the size of its own.
    Ok(found)
}

/// Gives freed memory back to the kernel. Reading a configuration, or the kernel's type information
/// for the XDP program, takes megabytes for a moment, which the allocator would keep for ever.
/// To be called when that is done; it takes well under a millisecond.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer only, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scheduling belongs to threads, so a thread of its own may change it.
    #[test]
    fn turns_become_short_and_nothing_else_changes() {
        let done = std::thread::spawn(|| {
            let before = attributes().expect("readable");
            short_turns().expect("no privilege is needed");
            let after = attributes().expect("readable");
            assert_eq!(
                (after.sched_policy, after.sched_nice, after.sched_priority),
                (before.sched_policy, before.sched_nice, before.sched_priority)
            );
            // A kernel that shows turns takes them.
            if before.sched_runtime != 0 {
                assert_eq!(u128::from(after.sched_runtime), TURN.as_nanos());
            }
        });
        assert!(done.join().is_ok());
    }
}
