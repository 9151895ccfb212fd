//! What each process may still do once it has its descriptors (DESIGN §4).
//!
//! | process | user | capabilities kept |
//! |---|---|---|
//! | watchdog | root | KILL, SETUID, SETGID, CHOWN (owners of notify FIFOs) |
//! | vrrp | root | NET_ADMIN, NET_RAW, BPF |
//! | checker | nobody | NET_RAW |
//! | forwarder | root | BPF, NET_ADMIN, PERFMON, NET_RAW |
//! | api | nobody | none |
//!
//! The root suite `proc_privileges` compares it with /proc of live processes.
//!
//! Decisions behind the table:
//! - *vrrp* and *forwarder* stay uid 0, because bpffs (mode 0700, root) is where the lease and the
//!   pinned maps are; without DAC capabilities uid 0 may do no more with files than their owner.
//!   vrrp keeps CAP_BPF beside DESIGN's two, because kernels before 5.19 refuse bpf(2) as a whole
//!   without it when `kernel.unprivileged_bpf_disabled` is set.
//! - *checker* and *api* parse bytes from strangers, so they leave uid 0 altogether. A root-owned
//!   `password_file` is therefore read by the watchdog when it reads the configuration
//!   ([`super::config_file`]), not by the checker.
//! - The *watchdog* keeps its bounding set: children and scripts started as root regain what they
//!   need by execve(2). For the same reason it must not set no_new_privs; the roles, which never
//!   execute anything, do.
//!
//! Capabilities that the process did not have (containers) are never asked for: what is kept is
//! the intersection with what is there.

use anyhow::Context as _;
use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    sys::prctl,
    unistd::{Uid, User, setgid, setgroups, setuid},
};

use super::ipc::Role;

/// The unprivileged user of roles that need none.
const NOBODY: &str = "nobody";

/// Capabilities that a role keeps.
pub fn kept(role: Role) -> &'static [Capability] {
    match role {
        Role::Vrrp => &[Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF],
        Role::Checker => &[Capability::CAP_NET_RAW],
        Role::Forwarder => &[
            Capability::CAP_BPF,
            Capability::CAP_NET_ADMIN,
            Capability::CAP_PERFMON,
            Capability::CAP_NET_RAW,
        ],
        Role::Api => &[],
    }
}

fn leaves_root(role: Role) -> bool {
    matches!(role, Role::Checker | Role::Api)
}

/// Drops everything that `role` does not need, for good. Call it on the main thread, before other
/// threads exist and after the privileged descriptors are open.
///
/// # Errors
/// When the kernel refuses; the role should end rather than run with more than it says.
pub fn limit(role: Role) -> anyhow::Result<()> {
    let wanted: CapsHashSet = kept(role).iter().copied().collect();
    let have = caps::read(None, CapSet::Permitted).context("read capabilities")?;
    let keep: CapsHashSet = wanted.intersection(&have).copied().collect();
    drop_bounding()?;
    if leaves_root(role) && Uid::effective().is_root() {
        become_nobody()?;
    }
    set_exactly(&keep)?;
    prctl::set_no_new_privs().context("set no_new_privs")?;
    Ok(())
}

/// Reduces the watchdog itself. Its children regain root's capabilities by execve(2).
///
/// # Errors
/// When the kernel refuses.
pub fn limit_watchdog() -> anyhow::Result<()> {
    let wanted: CapsHashSet = [
        Capability::CAP_KILL,
        Capability::CAP_SETUID,
        Capability::CAP_SETGID,
        Capability::CAP_CHOWN,
    ]
    .into_iter()
    .collect();
    let have = caps::read(None, CapSet::Permitted).context("read capabilities")?;
    set_exactly(&wanted.intersection(&have).copied().collect())
}

/// Which of the capabilities that lbd cannot work without are missing.
pub fn missing() -> Vec<Capability> {
    let needed = [
        Capability::CAP_NET_ADMIN,
        Capability::CAP_NET_RAW,
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
    ];
    // An unreadable set counts as empty: the message then names everything.
    let have = caps::read(None, CapSet::Permitted).unwrap_or_default();
    needed.into_iter().filter(|cap| !have.contains(cap)).collect()
}

fn set_exactly(keep: &CapsHashSet) -> anyhow::Result<()> {
    // Ambient first (it may not exceed the others), effective before permitted for the same reason.
    let _ = caps::clear(None, CapSet::Ambient); // kernels without ambient sets have nothing to clear
    caps::set(None, CapSet::Effective, keep).context("set effective capabilities")?;
    caps::set(None, CapSet::Permitted, keep).context("set permitted capabilities")?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())
        .context("clear inheritable capabilities")
}

fn drop_bounding() -> anyhow::Result<()> {
    let have = caps::read(None, CapSet::Effective).context("read capabilities")?;
    if have.contains(&Capability::CAP_SETPCAP) {
        caps::clear(None, CapSet::Bounding).context("clear the bounding set")?;
    }
    Ok(())
}

fn become_nobody() -> anyhow::Result<()> {
    let Some(user) = User::from_name(NOBODY).context("look up user nobody")? else {
        tracing::warn!(user = NOBODY, "no such user; the process stays root without capabilities");
        return Ok(());
    };
    prctl::set_keepcaps(true).context("keep capabilities over setuid")?;
    setgroups(&[]).context("drop supplementary groups")?;
    setgid(user.gid).context("setgid nobody")?;
    setuid(user.uid).context("setuid nobody")?;
    prctl::set_keepcaps(false).context("stop keeping capabilities")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_design_4() {
        assert!(kept(Role::Api).is_empty());
        assert_eq!(kept(Role::Checker), [Capability::CAP_NET_RAW]);
        for role in [Role::Vrrp, Role::Forwarder] {
            assert!(kept(role).contains(&Capability::CAP_NET_ADMIN));
            assert!(!kept(role).contains(&Capability::CAP_SYS_ADMIN));
            assert!(!kept(role).contains(&Capability::CAP_DAC_OVERRIDE));
        }
    }

    /// Capability sets belong to threads, so a thread of its own may lose them all.
    #[test]
    fn capabilities_of_a_thread_shrink_to_the_kept_ones() {
        let done = std::thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).expect("readable");
            let wanted: CapsHashSet = kept(Role::Vrrp).iter().copied().collect();
            let keep: CapsHashSet = wanted.intersection(&before).copied().collect();
            set_exactly(&keep).expect("shrinks");
            for set in [CapSet::Permitted, CapSet::Effective] {
                assert_eq!(caps::read(None, set).expect("readable"), keep);
            }
            assert!(caps::read(None, CapSet::Inheritable).expect("readable").is_empty());
        })
        .join();
        assert!(done.is_ok());
    }
}
