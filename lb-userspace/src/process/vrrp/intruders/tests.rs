//! What instances make of addresses and of the kernel's answers, with no kernel: on interfaces that
//! do not exist.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    super::{
        ah_clock::AhClock, hold::Change, interfaces::Interfaces, lease, lower, outbox::Outbox,
    },
    *,
};
use crate::{
    base::net::{IpPrefix, Mac},
    config::load,
    io::link::{AddressInfo, Event, LinkInfo, Links},
    process::{clock, ipc::Role, record::Recorder},
    vrrp::{damper::Damper, pacer::Pacer, router::Input},
};

pub(in super::super) const INTERFACE: &str = "none0";

/// With this interface, and without the kernel.
pub(in super::super) fn role() -> VrrpRole {
    let mut shell = Shell {
        interfaces: Interfaces::default(),
        links: Links::start(None).expect("a thread"),
        leases: lease::Leases::default(),
        recorder: Recorder::open(None, Role::Vrrp).expect("nothing to open"),
        outbox: Outbox::default(),
        next_request: 0,
        pin_dir: PathBuf::new(),
        pacer: Pacer::default(),
        damper: Damper::default(),
        left_behind: false,
        ah_clock: AhClock::new(PathBuf::new()),
    };
    let (name, mac) = (INTERFACE.to_owned(), Some(Mac([2, 0, 0, 0, 0, 1])));
    shell.interfaces.notice(&Event::Link(LinkInfo { name, index: 9999, up: true, mac, mtu: 1500 }));
    VrrpRole::new(shell, lease::open, false)
}

/// An instance in standby whose VIPs have been taken off.
fn standby(role: &mut VrrpRole, vrid: u8) -> Instance {
    let text = format!(
        "vrrp_instance VI_{vrid} {{\n interface {INTERFACE}\n virtual_router_id {vrid}\n \
         virtual_ipaddress {{\n 192.0.2.100\n}}\n}}\n"
    );
    let model = load("test", &text).config.expect("accepted").vrrp_instances.remove(0);
    let config = lower::config(&model, &BTreeMap::new(), false).expect("lowered");
    let now = clock::now();
    let mut instance = Instance::new(model, config, now, &mut role.shell);
    instance.feed(Input::Fence(false), now, &mut role.shell);
    instance.feed(Input::Converged { resume: None }, now, &mut role.shell);
    answer(&mut instance, &[], role, now);
    assert!(instance.expects_no_vips() && instance.intruders.due);
    instance.intruders.due = false;
    instance
}

/// The kernel's answer to what was asked for first.
fn answer(instance: &mut Instance, errors: &[Failure], role: &mut VrrpRole, now: Instant) {
    let (id, _) = *instance.changes.front().expect("a request");
    assert!(instance.changed(id, 0, errors, now, &mut role.shell));
}

fn vip() -> AddressInfo {
    let prefix: IpPrefix = "192.0.2.100/32".parse().expect("prefix");
    let assigned = Assigned { prefix, peer: None };
    AddressInfo { index: 9999, assigned, secondary: false, tentative: false, asking: false }
}

/// It comes, and everybody looks.
fn comes(role: &mut VrrpRole, now: Instant) {
    role.shell.interfaces.notice(&Event::Address(vip()));
    role.look_for_intruders(&BTreeSet::from([vip().address()]), now);
}

fn expels(instance: &Instance) -> bool {
    instance.changes.iter().any(|(_, change)| *change == Change::Expel)
}

#[test]
fn nobody_is_accused_while_another_instance_may_have_it() {
    let mut role = role();
    let (mut giver, taker) = (standby(&mut role, 1), standby(&mut role, 2));
    // A reload has taken the VIP from the first, and the kernel has not answered.
    giver.changes.push_back((77, Change::Set));
    giver.holds.clear();
    giver.held.clear();
    giver.own.clear();
    role.instances = vec![giver, taker];
    let now = clock::now();
    comes(&mut role, now);
    assert!(!expels(&role.instances[1]) && role.instances[1].intruders.due, "it waits");
    // One that leaves counts as well.
    let giver = role.instances.remove(0);
    role.leaving.push(giver);
    role.look_for_intruders(&BTreeSet::new(), now);
    assert!(!expels(&role.instances[0]) && role.instances[0].intruders.due, "it waits");
    role.leaving[0].changes.clear();
    role.look_for_intruders(&BTreeSet::new(), now);
    assert!(expels(&role.instances[0]), "nobody has it");
}

#[test]
fn what_could_not_be_taken_off_is_no_intruder() {
    let mut role = role();
    let (mut giver, taker) = (standby(&mut role, 1), standby(&mut role, 2));
    giver.held = giver.holds.iter().cloned().collect();
    giver.retry_clear = Some(clock::now() + RETRY);
    role.instances = vec![giver, taker];
    comes(&mut role, clock::now());
    assert!(role.instances.iter().all(|it| !expels(it)));
    role.instances[0].retry_clear = None;
    role.instances[0].intruders.due = false;
    role.instances[1].intruders.due = true;
    role.look_for_intruders(&BTreeSet::new(), clock::now());
    assert!(expels(&role.instances[1]));
}

#[test]
fn a_look_that_is_not_taken_stays_due() {
    let mut role = role();
    let mut instance = standby(&mut role, 1);
    instance.changes.push_back((77, Change::Base));
    role.instances = vec![instance];
    comes(&mut role, clock::now());
    assert!(!expels(&role.instances[0]));
    let mut instance = role.instances.remove(0);
    answer(&mut instance, &[], &mut role, clock::now());
    role.instances.push(instance);
    role.look_for_intruders(&BTreeSet::new(), clock::now());
    assert!(expels(&role.instances[0]), "the look was lost");
}

#[test]
fn what_is_taken_off_counts_and_what_is_not_is_tried_again() {
    let mut role = role();
    role.instances = vec![standby(&mut role, 1)];
    let now = clock::now();
    comes(&mut role, now);
    let count = |role: &VrrpRole| role.instances[0].status(now, &role.shell).counters.foreign_vips;
    let mut instance = role.instances.remove(0);
    let object = Object::Address(instance.vips[0].clone());
    let failure = Failure { object, on: false, cause: "no".into() };
    answer(&mut instance, std::slice::from_ref(&failure), &mut role, now);
    role.instances.push(instance);
    assert_eq!(count(&role), 0, "it is still there");
    let sentence = role.instances[0].intruders.sentence(now);
    assert!(sentence.contains("192.0.2.100/32 on none0, it could not be taken off (no)"));
    assert_eq!(role.instances[0].intruders.failures(), [failure], "told once");
    assert_eq!(role.instances[0].intruders.poll_timeout(), Some(now + RETRY));
    role.look_for_intruders(&BTreeSet::new(), now);
    assert!(!expels(&role.instances[0]), "not before its time");
    let now = now + RETRY;
    role.look_for_intruders(&BTreeSet::new(), now);
    assert!(expels(&role.instances[0]));
    role.shell.interfaces.notice(&Event::AddressGone(vip()));
    let mut instance = role.instances.remove(0);
    answer(&mut instance, &[], &mut role, now);
    role.instances.push(instance);
    assert_eq!(count(&role), 1);
    let told = "somebody else put VIP 192.0.2.100/32 on none0, it was taken off (1 so far)";
    assert_eq!(role.instances[0].intruders.sentence(now), told);
    assert!(role.instances[0].intruders.failures().is_empty());
}

#[test]
fn one_that_leaves_waits_for_no_look() {
    let mut role = role();
    let mut instance = standby(&mut role, 1);
    let now = clock::now();
    instance.intruders.again = Some(now);
    assert_eq!(instance.poll_timeout(), Some(now));
    role.dismiss(instance, now);
    let at = role.leaving[0].poll_timeout();
    assert!(at.is_none_or(|at| at > now), "the loop would never wait again");
}
