//! A lab that runs, watched by a sampler, for the suites that judge it.

use std::{
    net::TcpStream,
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    lab::{ELECTION_LIMIT, Hook, Lab, Spec, VIP},
    looks,
    mariadb::PORT,
    netns::ready_or_skip,
    sampler::Sampler,
    traffic::{Load, Traffic},
    verdict::waited,
    wait::wait_until,
};

/// Labs at a time in one process, whatever number of tests is allowed: two cores, and times are what is tested. A lab
/// waits for most of its life.
const AT_ONCE: usize = 2;

/// How many run.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The place of one lab among [`AT_ONCE`].
struct Place;

impl Place {
    /// Waits until there is one.
    fn take() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let running = ENDED.wait_while(running, |running| *running >= AT_ONCE);
        *running.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// A running lab with its sampler.
pub struct Running {
    pub sampler: Sampler,
    pub lab: Lab,
    _place: Place,
}

impl Running {
    /// Builds and starts; `None` when the machine cannot, of which `suite` says so loudly.
    ///
    /// # Errors
    /// When the lab does not come up, or lbd is not on the hook that was asked for.
    pub fn start(suite: &str, spec: Spec) -> Result<Option<Self>> {
        if !ready_or_skip(suite)? {
            return Ok(None);
        }
        let place = Place::take();
        let mut lab = Lab::build(spec)?;
        lab.start_hosts()?;
        hook_is_as_asked(&lab)?;
        let sampler = Sampler::start(looks::of(&lab.hosts)?)?;
        Ok(Some(Self { sampler, lab, _place: place }))
    }

    /// When the sampler first looked.
    pub fn began(&self) -> Instant {
        self.sampler.changes().first().map_or_else(Instant::now, |change| change.at)
    }
}

/// What is shown is shown of the hook that the test names.
fn hook_is_as_asked(lab: &Lab) -> Result<()> {
    let wanted = match lab.spec.hook {
        Hook::Auto => "tcx",
        Hook::Xdp => "native",
    };
    for host in &lab.hosts {
        // A backup is one before its forwarder has told where its program is.
        let interfaces = wait_until(
            &format!("{} to have its program somewhere", host.name()),
            ELECTION_LIMIT,
            || {
                let forwarder = host.status().ok().and_then(|status| status.forwarder);
                Ok(forwarder.map(|it| it.interfaces).filter(|interfaces| !interfaces.is_empty()))
            },
            || host.log_tail(30),
        )?;
        ensure!(interfaces.iter().all(|it| it.mode == wanted), "{}: {interfaces:?}", host.name());
    }
    Ok(())
}

/// With XDP instead of tc, which lbd chooses on the lab's veth.
pub fn by_xdp(mut spec: Spec) -> Spec {
    spec.hook = Hook::Xdp;
    spec
}

/// One TCP connection from the client to the VIP, after some SYNs if the first ones are lost.
///
/// # Errors
/// When none is accepted within ten seconds.
pub fn connect(lab: &Lab) -> Result<()> {
    connect_within(lab, Duration::from_secs(10))
}

/// As [`connect`], within `limit`.
///
/// # Errors
/// When none is accepted in that time.
pub fn connect_within(lab: &Lab, limit: Duration) -> Result<()> {
    let target = (VIP, PORT).into();
    lab.client.enter(|| TcpStream::connect_timeout(&target, limit))??;
    Ok(())
}

/// Traffic that only tells of stalls, for times that are promised.
///
/// # Errors
/// When it cannot be started.
pub fn stalls(lab: &Lab) -> Result<Traffic> {
    let target = lab.target().into();
    Traffic::start(&lab.client, Load { target, busy: 0, idle: 0, connects_per_second: 0 })
}

/// How long something has taken until now, without the machine's stalls.
///
/// # Errors
/// When the traffic does not get to run any more.
pub fn took(stalls: &Traffic, begin: Instant) -> Result<Duration> {
    let now = Instant::now();
    stalls.has_run(now)?;
    Ok(waited(&stalls.since(begin), begin, now))
}
