//! What an instance holds on this host, and the requests that put it there: VIPs, routes and rules
//! while it is master, settings and virtual interfaces from start to end.

use std::{collections::BTreeSet, time::Duration};

use super::{
    instance::{Instance, Shell},
    lower,
};
use crate::{
    base::time::Instant,
    io::link::{Assigned, Event, Failure, Object, Request},
    process::clock,
    vrrp::router::Input,
};

/// What could not be changed is tried again after this long; the lease stays fenced until all is
/// taken off.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// So many objects that could not be put on are named in the status; of the others only the count.
const NAMED_LIMIT: usize = 3;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set,
    Clear,
    /// VIPs that somebody else has put on.
    Expel,
    /// Settings and virtual interfaces.
    Base,
    /// The same, for the last time.
    Leave,
}

/// What went while a change was not answered: because of that change, which is told before its end,
/// or because others took it.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// With their interfaces; no more than the instance has VIPs.
    addresses: BTreeSet<(String, Assigned)>,
    /// Routes and rules. Of these only what others remove is told.
    objects: BTreeSet<Object>,
}

impl Instance {
    /// Puts on or takes off what goes with being master.
    pub(super) fn change(&mut self, change: Change, shell: &mut Shell) {
        self.wants_vips = change == Change::Set;
        // Answered anew, or no longer wanted.
        (self.retry_set, self.set_errors) = (None, vec![]);
        if change == Change::Clear {
            // Nothing of ours may draw the VIPs back here.
            shell.pacer.forget(&self.model.name);
            self.extra.stop();
            self.told_errors.clear();
        }
        // Rules and routes before the addresses that they may need.
        let (set, clear) = match change {
            Change::Set => {
                let gone = self.no_longer_held();
                self.held = self.holds.iter().cloned().collect();
                (self.holds.clone(), gone)
            }
            _ => {
                self.held.extend(self.holds.iter().cloned());
                (vec![], self.held.iter().rev().cloned().collect())
            }
        };
        self.request(change, set, clear, shell);
    }

    /// Takes off what a configuration that comes does not give to this instance any more.
    pub(super) fn shed(&mut self, holds: &[Object], shell: &mut Shell) {
        // Of sets: there may be thousands.
        let stay: BTreeSet<&Object> = holds.iter().collect();
        if self.wants_vips && self.holds.iter().any(|it| !stay.contains(it)) {
            self.holds.retain(|it| stay.contains(it));
            let gone = self.no_longer_held();
            self.held = self.holds.iter().cloned().collect();
            self.request(Change::Set, vec![], gone, shell);
        }
    }

    /// What a configuration before this one put on, or could not be taken off.
    fn no_longer_held(&self) -> Vec<Object> {
        let wanted: BTreeSet<&Object> = self.holds.iter().collect();
        let gone = self.held.iter().rev().filter(|it| !wanted.contains(it));
        gone.cloned().collect()
    }

    /// Puts on what the instance needs from its start, and takes off what it needs no more.
    pub(super) fn change_base(&mut self, wanted: Vec<Object>, shell: &mut Shell) {
        let gone = self.base.iter().rev().filter(|it| !wanted.contains(it)).cloned().collect();
        let new: Vec<Object> = wanted
            .iter()
            .filter(|it| !self.base.contains(it) || !matches!(it, Object::Setting(_)))
            .cloned()
            .collect();
        self.base = wanted;
        self.request(Change::Base, new, gone, shell);
    }

    /// Makes virtual interfaces again that are gone, as with the interface below them.
    pub(super) fn remake_links(&mut self, shell: &mut Shell) {
        let missing = |object: &Object| match object {
            Object::Link(link) => {
                shell.interfaces.get(&link.name).is_none()
                    && shell.interfaces.get(&link.base).is_some()
            }
            _ => false,
        };
        let waiting = self.changes.iter().any(|(_, change)| *change == Change::Base);
        if self.stopped || waiting || self.retry_base.is_some() || !self.base.iter().any(missing) {
            return;
        }
        let again = self.base.iter().filter(|it| !matches!(it, Object::Setting(_)));
        let again = again.cloned().collect();
        self.request(Change::Base, again, vec![], shell);
    }

    /// [`crate::vrrp::router::Effect::Stopped`]: nothing is held any more but the base.
    pub(super) fn leave(&mut self, shell: &mut Shell) {
        if self.base.is_empty() {
            self.stopped = true;
            return;
        }
        let base: Vec<Object> = std::mem::take(&mut self.base).into_iter().rev().collect();
        self.request(Change::Leave, vec![], base, shell);
    }

    pub(super) fn request(
        &mut self,
        change: Change,
        set: Vec<Object>,
        clear: Vec<Object>,
        shell: &mut Shell,
    ) {
        if change == Change::Base && set.is_empty() && clear.is_empty() {
            return;
        }
        shell.next_request += 1;
        let id = shell.next_request;
        self.changes.push_back((id, change));
        let (refused, kept) = match change {
            Change::Set => (set.clone(), clear.clone()),
            _ => (vec![], vec![]),
        };
        if let Err(error) = shell.links.request(Request { id, set, clear }) {
            tracing::error!(instance = self.model.name, error, "addresses not changed");
            self.changes.retain(|(other, _)| *other != id);
            let again = Some(clock::now() + RETRY);
            match change {
                Change::Set => {
                    self.retry_set = again;
                    self.held.extend(kept);
                    let failed =
                        |object: Object| Failure { object, on: true, cause: error.to_owned() };
                    self.set_errors = refused.into_iter().map(failed).collect();
                }
                Change::Clear => self.retry_clear = again,
                Change::Expel => self.intruders.refused(clock::now()),
                Change::Base => self.retry_base = again,
                Change::Leave => {
                    self.stopped = true;
                    shell.left_behind = true;
                }
            }
        }
    }

    /// A request to the kernel is done. False when it is not ours.
    pub(super) fn changed(
        &mut self,
        id: u64,
        added: u32,
        errors: &[Failure],
        now: Instant,
        shell: &mut Shell,
    ) -> bool {
        let Some(at) = self.changes.iter().position(|(other, _)| *other == id) else {
            return false;
        };
        let change = self.changes.remove(at).map(|(_, change)| change);
        let known: &[Failure] = match change {
            Some(Change::Base) => &self.base_errors,
            Some(Change::Set) => &self.told_errors,
            Some(Change::Expel) => self.intruders.failures(),
            _ => &[],
        };
        let known: BTreeSet<&Failure> = known.iter().collect();
        for error in errors.iter().filter(|error| !known.contains(error)) {
            tracing::error!(instance = self.model.name, %error, "host not changed");
        }
        match change {
            Some(Change::Set) => {
                self.told_errors = errors.to_vec();
                if self.wants_vips {
                    self.set_errors = errors.to_vec();
                    self.retry_set = (!errors.is_empty()).then_some(now + RETRY);
                    let left = errors.iter().filter(|it| !it.on).map(|it| it.object.clone());
                    self.held.extend(left);
                }
                self.feed(Input::VipsSet { added }, now, shell);
            }
            Some(Change::Clear) if errors.is_empty() => {
                if self.changes.is_empty() {
                    self.held.clear();
                }
                // Of what came meanwhile it was told before.
                self.intruders.due = true;
                self.feed(Input::VipsCleared, now, shell);
            }
            Some(Change::Expel) => self.expelled(errors, now),
            Some(Change::Base) => {
                self.base_errors = errors.to_vec();
                self.retry_base = (!errors.is_empty()).then_some(now + RETRY);
            }
            Some(Change::Leave) => {
                self.stopped = true;
                shell.left_behind |= !errors.is_empty();
            }
            _ => self.retry_clear = Some(now + RETRY),
        }
        self.look_for_losses(now, shell);
        true
    }

    /// Requests whose time has come again.
    pub(super) fn retry(&mut self, now: Instant, shell: &mut Shell) {
        if self.retry_clear.take_if(|at| *at <= now).is_some() {
            if self.wants_vips {
                // Master again meanwhile: what could not be taken off is wanted.
                self.feed(Input::VipsCleared, now, shell);
            } else {
                self.change(Change::Clear, shell);
            }
        }
        if self.retry_set.take_if(|at| *at <= now).is_some() {
            let failed = self.failed();
            let again = self.holds.iter().filter(|it| failed.contains(it)).cloned().collect();
            self.request(Change::Set, again, self.no_longer_held(), shell);
        }
        if self.retry_base.is_some_and(|at| at <= now) {
            self.retry_base = None;
            let again = self.base.iter().filter(|it| !matches!(it, Object::Setting(_)));
            let again = again.cloned().collect();
            self.request(Change::Base, again, vec![], shell);
        }
    }

    /// What could not be put on.
    fn failed(&self) -> BTreeSet<&Object> {
        self.set_errors.iter().map(|it| &it.object).collect()
    }

    /// An interface has come or come up: what could not be put on it is possible now, and the kernel
    /// has forgotten without a word the routes that went by it, or from an address on it. Nothing else is
    /// asked for: interfaces come and go all the time on a host with containers.
    pub(super) fn interface_came(&mut self, name: &str, shell: &mut Shell) {
        if !self.wants_vips || !self.holds.iter().any(|object| object.goes_with(name)) {
            return;
        }
        let failed = self.failed();
        let again = self.holds.iter().filter(|object| {
            object.goes_with(name) || matches!(object, Object::Route(_)) || failed.contains(object)
        });
        let again = again.cloned().collect();
        self.request(Change::Set, again, self.no_longer_held(), shell);
    }

    /// Why it does not hold all that it needs from its start or goes with being master, for people;
    /// empty: it does.
    pub(super) fn missing(&self) -> String {
        let all = || self.base_errors.iter().chain(&self.set_errors);
        let named: Vec<String> = all().take(NAMED_LIMIT).map(Failure::to_string).collect();
        match all().count().saturating_sub(NAMED_LIMIT) {
            0 => named.join(", "),
            more => format!("{}, and {more} more", named.join(", ")),
        }
    }

    /// An address has gone from an interface.
    pub(super) fn address_gone(
        &mut self,
        interface: &str,
        address: Assigned,
        now: Instant,
        shell: &mut Shell,
    ) {
        if !self.wants_vips || !self.own.contains(&address.prefix.addr) {
            return;
        }
        if !self.changes.is_empty() {
            self.missed.addresses.insert((interface.to_owned(), address));
            return;
        }
        let is = |object: &&Object| {
            matches!(object, Object::Address(vip)
                if vip.interface == interface && vip.assigned() == address)
        };
        if let Some(object) = self.holds.iter().find(is).cloned() {
            self.lost(&object, now, shell);
        }
    }

    /// Someone removed a route or a rule.
    pub(super) fn object_gone(&mut self, event: &Event, now: Instant, shell: &mut Shell) {
        let Event::ObjectGone(gone) = event else { return };
        if !self.wants_vips {
            return;
        }
        let Some(object) = self.holds.iter().find(|object| gone.was(object)).cloned() else {
            return;
        };
        if self.changes.is_empty() {
            self.lost(&object, now, shell);
        } else {
            self.missed.objects.insert(object);
        }
    }

    /// When no change waits for its answer any more: what went meanwhile and is not there again was
    /// taken by others.
    fn look_for_losses(&mut self, now: Instant, shell: &mut Shell) {
        if !self.changes.is_empty() {
            return;
        }
        let missed = std::mem::take(&mut self.missed);
        if !self.wants_vips {
            return;
        }
        let lost = self.holds.iter().filter(|object| match object {
            Object::Address(vip) => {
                let interface = shell.interfaces.get(&vip.interface);
                // Of an interface that is down or gone nobody took it.
                missed.addresses.contains(&(vip.interface.clone(), vip.assigned()))
                    && interface.is_some_and(|it| it.up() && !it.has(vip.assigned()))
            }
            object => missed.objects.contains(*object),
        });
        // One is enough: an election takes all off, a repair puts all on. An election comes first.
        if let Some(object) = lost.max_by_key(|object| is_tracked(object)).cloned() {
            self.lost(&object, now, shell);
        }
    }

    fn lost(&mut self, object: &Object, now: Instant, shell: &mut Shell) {
        let input = match object {
            Object::Address(vip) if is_tracked(object) => {
                Input::VipLost { address: vip.prefix.addr }
            }
            Object::Address(vip) => {
                Input::HoldLost { what: format!("VIP {}", vip.prefix), tracked: false }
            }
            _ => Input::HoldLost { what: object.to_string(), tracked: is_tracked(object) },
        };
        self.feed(input, now, shell);
    }

    /// The virtual interface that adverts leave by, when they carry the virtual MAC.
    pub(super) fn advert_link(&self) -> Option<&str> {
        lower::advert_link(&self.model)
    }
}

/// Whether its loss ends being master.
fn is_tracked(object: &Object) -> bool {
    match object {
        Object::Address(vip) => !vip.options.no_track,
        Object::Route(route) => !route.no_track,
        Object::Rule(rule) => !rule.no_track,
        _ => true,
    }
}
