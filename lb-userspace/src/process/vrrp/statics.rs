//! Static addresses, routes and rules: put on at the start, put back when someone else removes
//! them, taken off at the end.

use std::{collections::BTreeSet, time::Duration};

use super::instance::Shell;
use crate::{
    base::time::Instant,
    io::link::{Assigned, Event, Failure, Object, Request},
    process::clock,
};

/// What could not be put on is tried again after this long, and what is removed again and again is
/// put back at most this often.
const RETRY: Duration = Duration::from_secs(1);

/// The static objects of the configuration.
#[derive(Debug, Default)]
pub(super) struct StaticObjects {
    wanted: Vec<Object>,
    /// Requests that are not answered yet.
    waiting: Vec<u64>,
    /// When to put `due` on again.
    again: Option<Instant>,
    /// What could not be put on, or went since.
    due: BTreeSet<Object>,
    errors: Vec<Failure>,
}

impl StaticObjects {
    /// Takes a configuration; what stays in it is not touched.
    pub fn configure(&mut self, wanted: Vec<Object>, shell: &mut Shell) {
        let gone = self.wanted.iter().rev().filter(|it| !wanted.contains(it)).cloned().collect();
        let new = wanted.iter().filter(|it| !self.wanted.contains(it)).cloned().collect();
        self.wanted = wanted;
        self.request(new, gone, shell);
    }

    /// Takes everything off.
    pub fn stop(&mut self, shell: &mut Shell) {
        let gone = std::mem::take(&mut self.wanted).into_iter().rev().collect();
        self.again = None;
        self.due.clear();
        self.request(vec![], gone, shell);
    }

    /// Whether one of them is such an object.
    pub fn wants(&self, is: impl Fn(&Object) -> bool) -> bool {
        self.wanted.iter().any(is)
    }

    /// Everything asked for is done.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.again
    }

    pub fn handle_timeout(&mut self, now: Instant, shell: &mut Shell) {
        if self.again.is_some_and(|at| at <= now) {
            self.again = None;
            let due = std::mem::take(&mut self.due);
            let again = self.wanted.iter().filter(|it| due.contains(*it)).cloned().collect();
            self.request(again, vec![], shell);
        }
    }

    fn request(&mut self, set: Vec<Object>, clear: Vec<Object>, shell: &mut Shell) {
        if set.is_empty() && clear.is_empty() {
            return;
        }
        shell.next_request += 1;
        let id = shell.next_request;
        match shell.links.request(Request { id, set: set.clone(), clear }) {
            Ok(()) => self.waiting.push(id),
            Err(error) => {
                tracing::error!(error, "static objects not changed");
                self.put_on_later(set, clock::now());
            }
        }
    }

    /// Only these: what is there is not asked for each second because something else is missing.
    fn put_on_later(&mut self, objects: impl IntoIterator<Item = Object>, now: Instant) {
        let before = self.due.len();
        self.due.extend(objects);
        if self.due.len() > before {
            self.again.get_or_insert(now + RETRY);
        }
    }

    /// A request is done. False when it is not ours.
    pub fn changed(&mut self, id: u64, errors: &[Failure], now: Instant) -> bool {
        let Some(at) = self.waiting.iter().position(|other| *other == id) else { return false };
        self.waiting.remove(at);
        if self.errors != errors {
            for error in errors {
                tracing::error!(%error, "static object");
            }
            self.errors = errors.to_vec();
        }
        let failed = errors.iter().filter(|it| it.on && self.wanted.contains(&it.object));
        let failed: Vec<Object> = failed.map(|it| it.object.clone()).collect();
        self.put_on_later(failed, now);
        true
    }

    /// What is on this host, or may be.
    pub fn held(&self) -> &[Object] {
        &self.wanted
    }

    /// Whether the last request was refused in part.
    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Someone removed an address from an interface.
    pub fn address_gone(&mut self, interface: &str, address: Assigned, now: Instant) {
        let ours = |object: &Object| {
            matches!(object, Object::Address(vip)
                if vip.interface == interface && vip.assigned() == address && !vip.options.no_track)
        };
        // The kernel takes the routes from it, or their source, without a word.
        if self.wanted.iter().any(ours) {
            self.gone(|object| ours(object) || matches!(object, Object::Route(_)), now);
        }
    }

    /// Someone removed a route or a rule.
    pub fn object_gone(&mut self, event: &Event, now: Instant) {
        let Event::ObjectGone(gone) = event else { return };
        let tracked = |object: &Object| match object {
            Object::Route(route) => !route.no_track,
            Object::Rule(rule) => !rule.no_track,
            _ => false,
        };
        self.gone(|object| gone.was(object) && tracked(object), now);
    }

    /// An interface has come or come up: objects on it may be possible now, and routes by it, or from an
    /// address on it, are gone, of which the kernel says nothing. One that is there is not touched.
    pub fn interface_came(&mut self, interface: &str, now: Instant) {
        if self.wanted.iter().any(|object| object.goes_with(interface)) {
            let routes = |object: &Object| matches!(object, Object::Route(_));
            self.gone(|object| object.goes_with(interface) || routes(object), now);
        }
    }

    /// Also while a request is not answered: that may have put on before what went after it.
    fn gone(&mut self, is: impl Fn(&Object) -> bool, now: Instant) {
        let gone: Vec<Object> = self.wanted.iter().filter(|it| is(it)).cloned().collect();
        self.put_on_later(gone, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::model::AddressOptions, io::link::Vip};

    fn vip(last: u8) -> Vip {
        Vip {
            interface: "eth0".into(),
            prefix: format!("192.0.2.{last}/24").parse().expect("a prefix"),
            label: None,
            broadcast: None,
            scope: 0,
            options: AddressOptions::default(),
        }
    }

    #[test]
    fn what_goes_while_a_request_waits_for_its_answer_is_put_on_again() {
        let now = Instant::from_nanos(1_000_000_000);
        let wanted: Vec<Object> = [1, 2].map(|last| Object::Address(vip(last))).into();
        let mut all =
            StaticObjects { wanted: wanted.clone(), waiting: vec![7], ..StaticObjects::default() };
        all.address_gone("eth0", vip(3).assigned(), now);
        all.address_gone("eth1", vip(1).assigned(), now);
        assert_eq!(all.poll_timeout(), None, "not ours");
        all.address_gone("eth0", vip(1).assigned(), now);
        assert!(all.changed(7, &[], now + RETRY / 2));
        assert_eq!(
            all.poll_timeout(),
            Some(now + RETRY),
            "the answer does not say that it is there"
        );
        assert_eq!(all.due, BTreeSet::from([wanted[0].clone()]));
    }

    #[test]
    fn only_what_failed_and_is_still_wanted_is_tried_again() {
        let now = Instant::from_nanos(1_000_000_000);
        let wanted: Vec<Object> = [1, 2].map(|last| Object::Address(vip(last))).into();
        let failure = |last: u8, on: bool| {
            let (object, cause) = (Object::Address(vip(last)), "no such interface".to_owned());
            Failure { object, on, cause }
        };
        let mut all = StaticObjects {
            wanted: wanted.clone(),
            waiting: vec![7, 8],
            ..StaticObjects::default()
        };
        assert!(all.changed(7, &[failure(3, true), failure(1, false)], now));
        assert_eq!(all.poll_timeout(), None);
        assert!(all.changed(8, &[failure(2, true)], now));
        assert_eq!(all.due, BTreeSet::from([wanted[1].clone()]));
        assert_eq!(all.poll_timeout(), Some(now + RETRY));
        assert!(!all.changed(8, &[], now), "answered before");
    }
}
