//! Counters of one probe, for `lbctl status` and /metrics.

use std::{collections::BTreeMap, time::Duration};

use super::spec;
use crate::{
    base::status::{CheckerStatus, Health},
    check::Verdict,
    config::model::Checker,
};

/// Upper bounds of the latency histogram, microseconds.
const BOUNDS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, u64::MAX];

#[derive(Debug)]
pub(super) struct Stats {
    status: CheckerStatus,
}

impl Stats {
    pub(super) fn new(checker: &Checker) -> Self {
        Self {
            status: CheckerStatus {
                kind: spec::keyword(checker).to_owned(),
                target: spec::target(checker),
                health: Health::Unknown,
                detail: "not probed yet".to_owned(),
                last_us: 0,
                probes: 0,
                failures: 0,
                latency_us: BOUNDS.iter().map(|bound| (*bound, 0)).collect::<BTreeMap<_, _>>(),
                latency_total_us: 0,
                restarts: 0,
                deferred: 0,
            },
        }
    }

    /// A probe ended: `Err` with the reason.
    pub(super) fn probed(&mut self, took: Duration, result: Result<(), String>) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let status = &mut self.status;
        status.last_us = micros;
        status.latency_total_us = status.latency_total_us.saturating_add(micros);
        status.probes += 1;
        if let Err(reason) = result {
            status.failures += 1;
            status.detail = reason;
        }
        if let Some(bound) = BOUNDS.iter().find(|bound| micros <= **bound) {
            *status.latency_us.entry(*bound).or_default() += 1;
        }
    }

    /// The probe had ended by itself and was started again.
    pub(super) fn restarted(&mut self) {
        self.status.restarts += 1;
    }

    /// Logins were not made because earlier ones are not finished.
    pub(super) fn deferred(&mut self, more: u64) {
        self.status.deferred += more;
    }

    pub(super) fn verdict(&mut self, verdict: &Verdict) {
        self.status.health = verdict.health;
        self.status.detail.clone_from(&verdict.reason);
    }

    pub(super) fn status(&self) -> CheckerStatus {
        self.status.clone()
    }
}
