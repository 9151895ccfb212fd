//! What each router should do, told from outside by what it was sent: when it may take over, when
//! it has to, when it has to yield. Knows the timers' formulas from RFC 9568 §6.1 and nothing of
//! the router's code.

use super::{Bug, MS, Sim};
use lb_userspace::vrrp::{
    router::{Input, Standing},
    wire::Datagram,
};

/// A timer may be that late by the granularity of a simulated clock, and by its rate.
const SLACK: u64 = 5 * MS;
const SECOND: u64 = 1000 * MS;

/// What a router was sent since it last began to wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// No takeover before (global time); zero: not known, because something was changed.
    earliest: u64,
    /// Takeover until then, when nothing else comes; zero: not known.
    latest: u64,
    /// Nothing was changed since it began to listen: `lower_since` is what preempt_delay counts
    /// from.
    undisturbed: bool,
    /// First advert of a lower master.
    lower_since: Option<u64>,
    /// Whose adverts `latest` counts from.
    master: Option<std::net::IpAddr>,
}

impl Watch {
    pub(super) fn started(now: u64) -> Self {
        Self { earliest: now + 3 * SECOND, undisturbed: true, ..Self::default() }
    }

    /// Something other than an advert happened to it: nothing is expected until the next.
    pub(super) fn disturbed(&mut self) {
        *self = Self::default();
    }
}

/// What was known of a router before something happened to it.
pub(super) struct Watched {
    advertised: bool,
    must_yield: Option<bool>,
}

fn skew(priority: u8) -> u64 {
    (256 - u64::from(priority)) * SECOND / 256
}

/// An input in a few words.
pub(super) fn brief(input: &Input) -> String {
    match input {
        Input::Datagram(bytes) => match Datagram::parse(bytes) {
            Ok(it) => format!(
                "priority {} of {}",
                it.payload.get(2).copied().unwrap_or_default(),
                it.source
            ),
            Err(reason) => reason.to_string(),
        },
        other => format!("{other:?}").chars().take(60).collect(),
    }
}

impl Sim {
    fn advertises(&self, node: usize) -> bool {
        self.nodes[node].router.as_ref().is_some_and(super::is_master)
    }

    pub(super) fn before(&mut self, node: usize, input: &Input) -> Watched {
        let advertised = self.advertises(node);
        let mut watched = Watched { advertised, must_yield: None };
        let Input::Datagram(bytes) = input else {
            if matches!(input, Input::Configure(_)) {
                self.nodes[node].watch.disturbed();
            }
            if matches!(
                input,
                Input::Stop | Input::Interface { .. } | Input::Source(_) | Input::Converged { .. }
            ) {
                self.nodes[node].watch.latest = 0;
                if matches!(input, Input::Converged { resume: Some(_) } | Input::Interface { .. }) {
                    self.nodes[node].watch.disturbed();
                }
            }
            return watched;
        };
        let Ok(datagram) = Datagram::parse(bytes) else { return watched };
        let priority = datagram.payload.get(2).copied().unwrap_or_default();
        let Some(router) = &self.nodes[node].router else { return watched };
        let own = router.config().priority.0;
        let delay = router.config().preempt_delay.as_nanos();
        let greater = datagram.source > std::net::IpAddr::from(self.nodes[node].address);
        if advertised && priority > 0 {
            watched.must_yield = Some(priority > own || priority == own && greater);
        }
        // The bug's own configuration is not what it was given.
        let ignored = self.bug == Some(Bug::PreemptDelayIgnored);
        let given = self.nodes[node].preempt_delay.as_nanos();
        let (now, delay) = (self.now, if ignored { given } else { delay });
        let watch = &mut self.nodes[node].watch;
        if priority == 0 {
            // Whether it follows that router is its own affair: it may wait for the skew only.
            watch.earliest = watch.earliest.min(now + skew(own));
            // Of the master that it follows it ends the wait in the skew; of another, perhaps.
            let follows = watch.master == Some(datagram.source) && watch.latest > 0;
            watch.latest = if follows { now + skew(own) + SLACK } else { 0 };
        } else if priority >= own {
            let down = now + 3 * SECOND + skew(own);
            *watch = Watch {
                earliest: down,
                latest: down + SLACK,
                undisturbed: true,
                lower_since: None,
                master: Some(datagram.source),
            };
        } else {
            let first = *watch.lower_since.get_or_insert(now);
            if delay > 0 && !advertised {
                // Until the delay has run each of them starts the wait again.
                let over = first + u64::try_from(delay).expect("small");
                if watch.undisturbed && now + SLACK < over {
                    watch.earliest = now + 3 * SECOND + skew(own);
                }
                watch.latest = 0;
            }
        }
        watched
    }

    pub(super) fn before_timer(&mut self, node: usize) -> Watched {
        Watched { advertised: self.advertises(node), must_yield: None }
    }

    /// Judges what came of it.
    pub(super) fn after(&mut self, node: usize, watched: Watched) {
        let advertises = self.advertises(node);
        if let Some(must_yield) = watched.must_yield
            && must_yield == advertises
        {
            let what = if must_yield { "does not yield to" } else { "yields to" };
            let than = if must_yield { "better" } else { "worse" };
            self.fail(|| format!("{node} {what} a {than} router"));
        }
        let (now, watch) = (self.now, self.nodes[node].watch);
        if advertises && !watched.advertised && self.width == 1 {
            if now + SLACK < watch.earliest {
                self.fail(|| format!("{node} takes over {} ms early", (watch.earliest - now) / MS));
            }
            self.nodes[node].watch.disturbed();
        }
    }

    /// At the end of every wait: what had to be done by now.
    pub(super) fn check_group(&mut self, host: usize) {
        let standings: Vec<Standing> = self
            .members(host)
            .filter_map(|node| self.nodes[node].router.as_ref())
            .map(|router| router.standing())
            .collect();
        let moved = standings.iter().filter(|it| **it == Standing::Master).count();
        // A lease that ran out is asked for again by each member alone; a member that was restarted
        // with the others resumes before they are looked at.
        let settled = standings.iter().all(|it| {
            matches!(it, Standing::Master | Standing::Backup | Standing::Wants | Standing::Ready)
        });
        if settled && moved > 0 && moved < standings.len() {
            self.fail(|| format!("host {host} is half moved: {standings:?}"));
        }
    }

    /// Fails when a backup that heard nothing more has not taken over in time.
    pub(super) fn overdue(&mut self) {
        for node in 0..self.nodes.len() {
            let it = &self.nodes[node];
            let waits = it.router.as_ref().is_some_and(super::is_backup);
            let latest = it.watch.latest;
            if waits && !it.paused && self.width == 1 && latest > 0 && self.now > latest {
                self.fail(|| format!("{node} has not taken over in time"));
            }
        }
    }
}
