//! A map that breaks and is mended, with no kernel.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{bail, ensure};

use super::{
    super::{
        intruders::tests::{INTERFACE, role},
        lower,
    },
    *,
};
use crate::{base::status::VrrpState, config::load};

/// The kernel's side.
#[derive(Default)]
struct Kernel {
    slots: BTreeMap<LeaseSlot, LeaseState>,
    /// Nothing is pinned.
    gone: bool,
    /// No write is taken.
    frozen: bool,
    /// Descriptors that were opened before are of no use.
    stale: bool,
    opened: u32,
}

thread_local! {
    /// [`Open`] is a plain function.
    static KERNEL: RefCell<Kernel> = RefCell::default();
}

fn kernel<T>(with: impl FnOnce(&mut Kernel) -> T) -> T {
    KERNEL.with_borrow_mut(with)
}

struct Fake;

impl LeaseStore for Fake {
    fn set(&mut self, slot: LeaseSlot, state: LeaseState) -> anyhow::Result<()> {
        kernel(|it| {
            ensure!(!it.stale, "bad descriptor");
            ensure!(!it.frozen, "not permitted");
            it.slots.insert(slot, state);
            Ok(())
        })
    }

    fn get(&mut self, slot: LeaseSlot) -> anyhow::Result<LeaseState> {
        Ok(kernel(|it| it.slots.get(&slot).copied().unwrap_or(LeaseState::Standby)))
    }

    fn probe(&mut self, _slot: LeaseSlot) -> anyhow::Result<()> {
        Ok(())
    }

    fn reopen(&mut self, pin_dir: &Path) -> anyhow::Result<()> {
        open_fake(pin_dir).map(drop)
    }

    fn is_current(&self, _pin_dir: &Path) -> bool {
        kernel(|it| !it.gone)
    }
}

fn open_fake(_pin_dir: &Path) -> anyhow::Result<Box<dyn LeaseStore>> {
    kernel(|it| {
        it.opened += 1;
        if it.gone {
            bail!("no such map");
        }
        it.stale = false;
        Ok(Box::new(Fake) as Box<dyn LeaseStore>)
    })
}

const SLOT: LeaseSlot = LeaseSlot(1);

/// A role with one backup that the kernel has answered.
fn backup() -> VrrpRole {
    KERNEL.set(Kernel::default());
    let mut role = role();
    role.open_lease = open_fake;
    let text = format!(
        "vrrp_instance VI_1 {{\n interface {INTERFACE}\n virtual_router_id 51\n \
         virtual_ipaddress {{\n 192.0.2.100\n}}\n}}\n"
    );
    let model = load("test", &text).config.expect("accepted").vrrp_instances.remove(0);
    let config = lower::config(&model, &BTreeMap::new(), false).expect("lowered");
    let now = clock::now();
    let mut instance = Instance::new(model, config, now, &mut role.shell);
    let source = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
    instance.feed(Input::Source(Some(source)), now, &mut role.shell);
    instance.feed(Input::Interface { name: INTERFACE.into(), up: true }, now, &mut role.shell);
    role.instances.push(instance);
    role.converged = Some((vec![("VI_1".into(), SLOT)], true));
    role.lend(now);
    answer(&mut role, now);
    assert_eq!(standing(&role, now), (VrrpState::Backup, "backup: no master heard yet".into()));
    role
}

/// The kernel has done what it was asked for.
fn answer(role: &mut VrrpRole, now: Instant) {
    let mut instance = role.instances.remove(0);
    while let Some((id, _)) = instance.changes.front().copied() {
        assert!(instance.changed(id, 0, &[], now, &mut role.shell));
    }
    role.instances.push(instance);
}

fn standing(role: &VrrpRole, now: Instant) -> (VrrpState, String) {
    let status = role.instances[0].status(now, &role.shell);
    (status.state, status.reason)
}

/// Lets its next timer fire: its fence is written, 2 ms before its wait ends.
fn prepare(role: &mut VrrpRole) -> Instant {
    let at = role.instances[0].poll_timeout().expect("a wait");
    let mut instance = role.instances.remove(0);
    instance.handle_timeout(at, &mut role.shell);
    role.instances.push(instance);
    at
}

#[test]
fn a_write_that_fails_is_a_fault_until_one_succeeds() {
    let mut role = backup();
    assert_eq!(role.shell.leases.retry, None);
    kernel(|it| it.frozen = true);
    let at = prepare(&mut role);
    let want = (VrrpState::Fault, "fault: the lease cannot be written: not permitted".to_owned());
    assert_eq!(standing(&role, at), want);
    answer(&mut role, at);
    let retry = role.shell.leases.retry.expect("it is tried again");
    assert!(retry <= clock::now() + RETRY);
    let opened = kernel(|it| it.opened);
    let mut now = retry;
    for round in 1..4 {
        role.handle_timeout(now);
        assert_eq!(standing(&role, now), want);
        assert!(kernel(|it| it.opened) >= opened + round, "the map is opened anew each time");
        let next = role.shell.leases.retry.expect("again");
        assert!(next <= now + RETRY, "{next} after {now}");
        now = next.max(now);
    }
    kernel(|it| it.frozen = false);
    role.handle_timeout(now);
    assert_eq!(standing(&role, now).0, VrrpState::Backup);
    assert_eq!(role.shell.leases.retry, None);
    // What was asked for in vain.
    assert_eq!(kernel(|it| it.slots.get(&SLOT).copied()), Some(LeaseState::Standby));
}

#[test]
fn a_descriptor_that_broke_is_replaced_without_a_fault() {
    let mut role = backup();
    kernel(|it| it.stale = true);
    let at = prepare(&mut role);
    assert_eq!(standing(&role, at).0, VrrpState::Backup);
    assert_eq!(kernel(|it| it.slots.get(&SLOT).copied()), Some(LeaseState::Until(Instant::ZERO)));
    assert_eq!(role.shell.leases.retry, None);
}

#[test]
fn a_map_that_is_gone_is_a_fault_until_it_is_there() {
    let mut role = backup();
    kernel(|it| it.gone = true);
    let now = clock::now();
    // The data plane has converged anew.
    role.lend(now);
    let want = (VrrpState::Fault, "fault: the lease cannot be written: no such map".to_owned());
    assert_eq!(standing(&role, now), want);
    assert_eq!(role.shell.leases.retry, Some(now + RETRY));
    role.handle_timeout(now + RETRY);
    assert_eq!(standing(&role, now), want);
    kernel(|it| it.gone = false);
    role.handle_timeout(now + RETRY * 2);
    assert_eq!(standing(&role, now).0, VrrpState::Backup);
}

/// A data plane that is given up fences nobody, and is no reason to have no VIPs.
#[test]
fn without_a_fence_it_goes_on() {
    let mut role = backup();
    kernel(|it| it.gone = true);
    let now = clock::now();
    role.lend(now);
    assert_eq!(standing(&role, now).0, VrrpState::Fault);
    role.converged = Some((vec![("VI_1".into(), SLOT)], false));
    role.lend(now);
    assert_eq!(standing(&role, now).0, VrrpState::Backup);
    assert_eq!(role.shell.leases.retry, None);
    // The fence comes back with a map that can be written: nothing of the old fault is left to act on.
    assert_eq!(role.instances[0].lease.fault, None);
    let faults = role.instances[0].status(now, &role.shell).counters.lease_faults;
    kernel(|it| it.gone = false);
    role.converged = Some((vec![("VI_1".into(), SLOT)], true));
    role.instances[0].feed(Input::Fence(true), now, &mut role.shell);
    assert_eq!(standing(&role, now).0, VrrpState::Backup, "before the map is looked at");
    role.lend(now);
    assert_eq!(standing(&role, now).0, VrrpState::Backup);
    assert_eq!(role.instances[0].status(now, &role.shell).counters.lease_faults, faults);
}
