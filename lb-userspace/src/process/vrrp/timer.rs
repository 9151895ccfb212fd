//! A timer with the kernel's resolution: tokio's rounds up to milliseconds, which is a tenth of
//! the shortest advert interval.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::io::unix::AsyncFd;

use super::sys;

use crate::base::time::Instant;

pub(super) struct Timer {
    timer: TimerFd,
    ready: AsyncFd<OwnedFd>,
}

impl Timer {
    pub fn new() -> anyhow::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let ready = sys::timer(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Self { timer, ready })
    }

    /// Fires at `at`, at once when that is past; `None`: never.
    pub fn arm(&self, at: Option<Instant>) -> anyhow::Result<()> {
        match at {
            // Zero would disarm.
            Some(at) => {
                let at = Duration::from_nanos(at.as_nanos().max(1));
                let expiration = Expiration::OneShot(TimeSpec::from_duration(at));
                self.timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        Ok(())
    }

    /// Waits until it fires. Setting the timer again makes it unread.
    pub async fn fired(&self) {
        if let Ok(mut guard) = self.ready.readable().await {
            guard.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::clock;

    #[tokio::test]
    async fn fires_at_the_instant_again_and_again_and_at_once_when_it_is_past() {
        let timer = Timer::new().expect("timer");
        for wait in [Duration::from_millis(3), Duration::ZERO, Duration::from_millis(1)] {
            let at = clock::now() + wait;
            timer.arm(Some(at)).expect("armed");
            tokio::time::timeout(Duration::from_secs(5), timer.fired()).await.expect("fires");
            assert!(clock::now() >= at);
        }
        timer.arm(Some(clock::now() + Duration::from_secs(3600))).expect("armed");
        timer.arm(None).expect("disarmed");
        let fired = tokio::time::timeout(Duration::from_millis(20), timer.fired()).await;
        assert!(fired.is_err(), "disarmed");
    }
}
