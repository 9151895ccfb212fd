//! VIPs that somebody else puts on this host while it is not master. Two hosts answer for such an
//! address, and on a host in standby no fence hides it: packets pass there.
//!
//! One that is a VIP of ours to the letter, interface and prefix length included, is taken off, as
//! it would be at the start and at each step down; keepalived leaves it until then. What has a VIP's
//! address otherwise is not ours to touch: it is told as long as it is there.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{
    VrrpRole,
    hold::{Change, RETRY},
    instance::{Instance, Shell},
};
use crate::{
    base::{net::Priority, time::Instant},
    io::link::{Assigned, Failure, Object, Vip},
};

/// A program that puts a VIP back again and again is told at most this often.
const LOG_GAP: Duration = Duration::from_secs(60);
/// So long the status tells of one that was taken off.
const SHOWN: Duration = Duration::from_secs(300);

/// An address on an interface.
type Place = (String, Assigned);

fn place(vip: &Vip) -> Place {
    (vip.interface.clone(), vip.assigned())
}

/// What an instance knows of them.
#[derive(Debug, Default)]
pub(super) struct Intruders {
    /// Something has changed of which no notification tells, or it could not be looked at then.
    pub(super) due: bool,
    /// There now, and not ours to take off.
    foreign: BTreeSet<Place>,
    /// To be taken off by the request that is not answered yet.
    asked: Vec<Vip>,
    /// When that was asked for last.
    asked_at: Option<Instant>,
    /// Taken off last, and when.
    last: Option<(Place, Instant)>,
    count: u64,
    /// What could not be taken off the last time.
    failures: Vec<Failure>,
    logged: Option<Instant>,
    /// Not in the log.
    untold: u64,
    /// When one may be taken off again, or what could not be is tried again.
    again: Option<Instant>,
}

impl Intruders {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.again
    }

    /// The request could not be made.
    pub(super) fn refused(&mut self, now: Instant) {
        self.asked.clear();
        self.again = Some(now + RETRY);
    }

    /// What could not be taken off the last time.
    pub(super) fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// For the status; empty: nothing to tell.
    pub(super) fn sentence(&self, now: Instant) -> String {
        if let Some(failure) = self.failures.first() {
            return format!(
                "somebody else put VIP {}, it could not be taken off ({}): two hosts may answer for it",
                failure.object, failure.cause
            );
        }
        if let Some((interface, address)) = self.foreign.first() {
            return format!(
                "{address} on {interface} has the address of a VIP and is not lbd's: two hosts may answer for it"
            );
        }
        match &self.last {
            Some(((interface, address), at)) if now.saturating_since(*at) < SHOWN => format!(
                "somebody else put VIP {address} on {interface}, it was taken off ({} so far)",
                self.count
            ),
            _ => String::new(),
        }
    }

    /// How many more there were since the last line of the log, if it is time for one.
    fn log(&mut self, now: Instant) -> Option<u64> {
        if self.logged.is_some_and(|last| now.saturating_since(last) < LOG_GAP) {
            self.untold += 1;
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl VrrpRole {
    /// `changed`: addresses that came or went on this host.
    pub(super) fn look_for_intruders(&mut self, changed: &BTreeSet<IpAddr>, now: Instant) {
        for instance in &mut self.instances {
            instance.note_what_came(changed, now);
        }
        // A reload takes a VIP from one owner, be it an instance or a static address, and gives it to
        // another: until the kernel has answered it is nobody's, and there.
        let mut all = self.instances.iter().chain(&self.leaving);
        if all.any(|it| !it.changes.is_empty()) || !self.statics.is_settled() {
            return;
        }
        for at in 0..self.instances.len() {
            let Some(instance) = self.instances.get_mut(at) else { break };
            if !instance.may_look() {
                continue;
            }
            instance.intruders.due = false;
            let mut found = instance.vip_places(&self.shell);
            if !found.is_empty() {
                // What could not be taken off is its last owner's to tell.
                let others = self.instances.iter().chain(&self.leaving);
                let others: Vec<&Instance> = others.filter(|it| it.may_hold_vips()).collect();
                found.retain(|found| {
                    let is =
                        |object: &Object| matches!(object, Object::Address(vip) if place(vip) == *found);
                    !others.iter().any(|it| it.held.iter().any(is)) && !self.statics.wants(is)
                });
            }
            if let Some(instance) = self.instances.get_mut(at) {
                instance.intruded(found, now, &mut self.shell);
            }
        }
    }
}

impl Instance {
    /// Something of its own may be on this host: wanted, on its way, or not to be taken off.
    fn may_hold_vips(&self) -> bool {
        self.wants_vips || !self.changes.is_empty() || self.retry_clear.is_some()
    }

    /// A look that is due stays due until it is taken.
    fn note_what_came(&mut self, changed: &BTreeSet<IpAddr>, now: Instant) {
        let again = self.intruders.again.take_if(|at| *at <= now).is_some();
        self.intruders.due |= again || changed.iter().any(|address| self.own.contains(address));
    }

    fn may_look(&self) -> bool {
        self.intruders.due && !self.may_hold_vips() && self.expects_no_vips()
    }

    /// Where this host has an address of a VIP, among the interfaces that the instance is about.
    fn vip_places(&self, shell: &Shell) -> Vec<Place> {
        let vips = self.vips.iter().map(|vip| &vip.interface);
        let names: BTreeSet<&String> = vips.chain([&self.model.interface]).collect();
        let mut found = Vec::new();
        for name in names {
            let Some(interface) = shell.interfaces.get(name) else { continue };
            let ours = interface.assigned().filter(|it| self.own.contains(&it.prefix.addr));
            found.extend(ours.map(|address| (name.clone(), address)));
        }
        found
    }

    fn intruded(&mut self, found: Vec<Place>, now: Instant, shell: &mut Shell) {
        let instance = self.model.name.clone();
        // An owner's VIP is an address of the host itself (RFC 9568 §1.6).
        let owner = self.model.priority == Priority::OWNER;
        let (mut ours, mut foreign) = (Vec::new(), BTreeSet::new());
        for found in found {
            match self.vips.iter().find(|vip| !owner && place(vip) == found) {
                Some(vip) => ours.push(vip.clone()),
                None => {
                    foreign.insert(found);
                }
            }
        }
        let known = std::mem::take(&mut self.intruders.foreign);
        for (interface, address) in foreign.difference(&known) {
            if let Some(more) = self.intruders.log(now) {
                tracing::error!(
                    instance,
                    interface,
                    %address,
                    more,
                    "the address of a VIP is on this host, which is not master: two hosts may answer \
                     for it"
                );
            }
        }
        self.intruders.foreign = foreign;
        if ours.is_empty() {
            self.intruders.failures.clear();
            return;
        }
        if let Some(last) = self.intruders.asked_at
            && last + RETRY > now
        {
            // Whoever puts it back at once does not make two programs fight without a pause.
            self.intruders.again = Some(last + RETRY);
            return;
        }
        self.intruders.asked_at = Some(now);
        self.intruders.asked = ours.clone();
        let clear = ours.into_iter().map(Object::Address).collect();
        self.request(Change::Expel, vec![], clear, shell);
    }

    /// The kernel has answered. What it took off is counted and told; what it could not is told by
    /// the caller.
    pub(super) fn expelled(&mut self, errors: &[Failure], now: Instant) {
        let instance = self.model.name.clone();
        for vip in std::mem::take(&mut self.intruders.asked) {
            let is =
                |failure: &Failure| matches!(&failure.object, Object::Address(it) if *it == vip);
            if errors.iter().any(is) {
                continue;
            }
            self.intruders.count += 1;
            self.count_foreign_vip();
            let place = place(&vip);
            if let Some(more) = self.intruders.log(now) {
                let (interface, address) = &place;
                tracing::error!(
                    instance,
                    interface,
                    %address,
                    more,
                    "somebody else put a VIP on this host, which is not master: it was taken off"
                );
            }
            self.intruders.last = Some((place, now));
        }
        self.intruders.failures = errors.to_vec();
        if errors.is_empty() {
            self.intruders.due = true;
        } else {
            self.intruders.again = Some(now + RETRY);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
