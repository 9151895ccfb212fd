//! Static addresses, routes and rules: put on at the start, put back when someone else removes
//! them, taken off at the end.

use std::time::Duration;

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
    again: Option<Instant>,
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
            self.request(self.wanted.clone(), vec![], shell);
        }
    }

    fn request(&mut self, set: Vec<Object>, clear: Vec<Object>, shell: &mut Shell) {
        if set.is_empty() && clear.is_empty() {
            return;
        }
        shell.next_request += 1;
        let id = shell.next_request;
        match shell.links.request(Request { id, set, clear }) {
            Ok(()) => self.waiting.push(id),
            Err(error) => {
                tracing::error!(error, "static objects not changed");
                self.again = Some(clock::now() + RETRY);
            }
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
        if !errors.is_empty() && !self.wanted.is_empty() {
            self.again = Some(now + RETRY);
        }
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
        self.gone(ours, now);
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

    /// An interface has come: objects on it may be possible now.
    pub fn interface_came(&mut self, interface: &str, now: Instant) {
        self.gone(|object| object.is_on(interface), now);
    }

    fn gone(&mut self, is: impl Fn(&Object) -> bool, now: Instant) {
        if self.waiting.is_empty() && self.again.is_none() && self.wanted.iter().any(is) {
            self.again = Some(now + RETRY);
        }
    }
}
