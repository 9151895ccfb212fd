//! `interface_up_down_delays`: a link counts as down, or as up, only after it has been so for a
//! while.

use std::{collections::BTreeMap, time::Duration};

use crate::base::time::Instant;

/// Delays of one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    pub down: Duration,
    pub up: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    /// What it counts as.
    up: bool,
    /// What it is, when that differs, and when it will count.
    pending: Option<Instant>,
}

/// The links that have delays; others pass through.
#[derive(Debug, Default)]
pub struct Damper {
    delays: BTreeMap<String, Delays>,
    links: BTreeMap<String, Link>,
}

impl Damper {
    /// Takes a configuration.
    pub fn configure(&mut self, delays: BTreeMap<String, Delays>) {
        self.links.retain(|name, _| delays.contains_key(name));
        self.delays = delays;
    }

    /// A link is up or down: what it counts as now. The first state counts at once.
    pub fn see(&mut self, name: &str, up: bool, now: Instant) -> bool {
        let Some(delays) = self.delays.get(name) else { return up };
        let link = self.links.entry(name.to_owned()).or_insert(Link { up, pending: None });
        if link.up == up {
            link.pending = None;
            return up;
        }
        let delay = if up { delays.up } else { delays.down };
        let at = *link.pending.get_or_insert(now + delay);
        if at <= now {
            *link = Link { up, pending: None };
        }
        link.up
    }

    /// When a link has to be looked at again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.links.values().filter_map(|link| link.pending).min()
    }

    /// Links to look at again; their state is to be told by [`Damper::see`].
    pub fn due(&self, now: Instant) -> Vec<String> {
        let due = |link: &Link| link.pending.is_some_and(|at| at <= now);
        self.links.iter().filter(|(_, link)| due(link)).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flap_within_the_delay_is_not_seen() {
        let at = |ms: u64| Instant::ZERO + Duration::from_millis(ms);
        let mut damper = Damper::default();
        let delays = Delays { down: Duration::from_millis(500), up: Duration::from_secs(2) };
        damper.configure(BTreeMap::from([("eth0".to_owned(), delays)]));
        assert!(damper.see("eth0", true, at(0)), "the first state counts at once");
        assert!(!damper.see("eth1", false, at(0)), "no delay for others");
        assert!(damper.see("eth0", false, at(100)));
        assert_eq!(damper.poll_timeout(), Some(at(600)));
        assert!(damper.see("eth0", true, at(200)), "back in time");
        assert_eq!(damper.poll_timeout(), None);
        assert!(damper.see("eth0", false, at(300)));
        assert!(damper.see("eth0", false, at(700)), "the delay runs from the first sign");
        assert!(damper.due(at(799)).is_empty());
        assert_eq!(damper.due(at(800)), ["eth0"]);
        assert!(!damper.see("eth0", false, at(800)));
        assert!(!damper.see("eth0", true, at(1000)));
        assert!(damper.see("eth0", true, at(3000)), "up after its own delay");
        damper.configure(BTreeMap::new());
        assert!(!damper.see("eth0", false, at(3001)), "switched off by a reload");
    }
}
