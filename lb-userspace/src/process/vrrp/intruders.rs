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
    base::{
        net::{IpPrefix, Priority},
        time::Instant,
    },
    io::link::Object,
};

/// A program that puts a VIP back again and again is told at most this often.
const LOG_GAP: Duration = Duration::from_secs(60);
/// So long the status tells of one that was taken off.
const SHOWN: Duration = Duration::from_secs(300);

/// An address on an interface.
type Place = (String, IpPrefix);

/// What an instance knows of them.
#[derive(Debug, Default)]
pub(super) struct Intruders {
    /// Something has changed of which no notification tells.
    pub(super) due: bool,
    /// There now, and not ours to take off.
    foreign: BTreeSet<Place>,
    /// Taken off last, and when.
    last: Option<(Place, Instant)>,
    count: u64,
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

    /// It could not be taken off.
    pub(super) fn failed(&mut self, now: Instant) {
        self.again = Some(now + RETRY);
    }

    /// For the status; empty: nothing to tell.
    pub(super) fn sentence(&self, now: Instant) -> String {
        if let Some((interface, prefix)) = self.foreign.first() {
            return format!(
                "{prefix} on {interface} has the address of a VIP and is not lbd's: two hosts may answer for it"
            );
        }
        match &self.last {
            Some(((interface, prefix), at)) if now.saturating_since(*at) < SHOWN => format!(
                "somebody else put VIP {prefix} on {interface}, it was taken off ({} so far)",
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
        for at in 0..self.instances.len() {
            let Some(instance) = self.instances.get_mut(at) else { break };
            if !instance.has_to_look(changed, now) {
                continue;
            }
            let mut found = instance.vip_places(&self.shell);
            if !found.is_empty() {
                // An address may belong to two configurations while a reload moves it.
                let others = self.instances.iter().chain(&self.leaving);
                let others: Vec<&Instance> = others.filter(|it| it.may_hold_vips()).collect();
                found.retain(|(interface, prefix)| {
                    let is = |object: &Object| {
                        matches!(object, Object::Address(vip)
                            if vip.interface == *interface && vip.prefix == *prefix)
                    };
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
    fn may_hold_vips(&self) -> bool {
        self.wants_vips || !self.changes.is_empty()
    }

    fn has_to_look(&mut self, changed: &BTreeSet<IpAddr>, now: Instant) -> bool {
        let again = self.intruders.again.take_if(|at| *at <= now).is_some();
        let due = std::mem::take(&mut self.intruders.due);
        let looks = due || again || changed.iter().any(|address| self.own.contains(address));
        if !looks || self.may_hold_vips() || !self.expects_no_vips() {
            // A change of ours is looked at when it is done.
            return false;
        }
        true
    }

    /// Where this host has an address of a VIP, among the interfaces that the instance is about.
    fn vip_places(&self, shell: &Shell) -> Vec<Place> {
        let vips = self.vips.iter().map(|vip| &vip.interface);
        let names: BTreeSet<&String> = vips.chain([&self.model.interface]).collect();
        let mut found = Vec::new();
        for name in names {
            let Some(interface) = shell.interfaces.get(name) else { continue };
            let ours = interface.prefixes().filter(|it| self.own.contains(&it.addr));
            found.extend(ours.map(|prefix| (name.clone(), prefix)));
        }
        found
    }

    fn intruded(&mut self, found: Vec<Place>, now: Instant, shell: &mut Shell) {
        let instance = self.model.name.clone();
        // An owner's VIP is an address of the host itself (RFC 9568 §1.6).
        let owner = self.model.priority == Priority::OWNER;
        let vip = |(interface, prefix): &Place| {
            let is =
                |it: &&crate::io::link::Vip| it.interface == *interface && it.prefix == *prefix;
            self.vips.iter().find(is).filter(|_| !owner).cloned()
        };
        let (ours, foreign): (Vec<Place>, Vec<Place>) =
            found.into_iter().partition(|place| vip(place).is_some());
        let ours: Vec<_> =
            ours.into_iter().filter_map(|place| Some((vip(&place)?, place))).collect();
        let foreign: BTreeSet<Place> = foreign.into_iter().collect();
        let known = std::mem::take(&mut self.intruders.foreign);
        for (interface, prefix) in foreign.difference(&known) {
            if let Some(more) = self.intruders.log(now) {
                tracing::error!(
                    instance,
                    interface,
                    %prefix,
                    more,
                    "the address of a VIP is on this host, which is not master: two hosts may answer \
                     for it"
                );
            }
        }
        self.intruders.foreign = foreign;
        if ours.is_empty() {
            return;
        }
        if let Some((_, last)) = &self.intruders.last
            && *last + RETRY > now
        {
            // Whoever puts it back at once does not make two programs fight without a pause.
            self.intruders.again = Some(*last + RETRY);
            return;
        }
        let mut clear = Vec::new();
        for (vip, place) in ours {
            self.intruders.count += 1;
            self.count_foreign_vip();
            if let Some(more) = self.intruders.log(now) {
                let (interface, prefix) = &place;
                tracing::error!(
                    instance,
                    interface,
                    %prefix,
                    more,
                    "somebody else put a VIP on this host, which is not master: it is taken off"
                );
            }
            self.intruders.last = Some((place, now));
            clear.push(Object::Address(vip));
        }
        self.request(Change::Expel, vec![], clear, shell);
    }
}
