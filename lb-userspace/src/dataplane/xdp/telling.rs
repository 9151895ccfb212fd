//! The walk that finds connections whose real server is gone ([`resets`]), in slices.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Context as _;

use super::{
    engine::Xdp,
    housekeeping::SLICE,
    maps::FlowWalk,
    resets::{self, Kind, Notice, SEGMENTS, Schedule},
};
use crate::base::time::Instant;

/// The walk under way, and what it has found.
#[derive(Debug, Default)]
pub(super) struct Telling {
    schedule: Schedule,
    walk: Option<FlowWalk>,
    /// At most two segments for each entry of a step.
    backlog: VecDeque<Notice>,
}

impl Telling {
    /// Connections have died.
    pub(super) fn want(&mut self) {
        self.schedule.want();
    }
}

impl Xdp {
    /// When [`Xdp::notices`] has something to do.
    pub fn notices_at(&self) -> Option<Instant> {
        self.telling.schedule.poll_timeout()
    }

    /// Segments to be sent now, [`SEGMENTS`] at most: those of VIPs that this host is master of. Others are
    /// the new master's affair. A slice of the walk: none does not mean that it has ended.
    ///
    /// # Errors
    /// When the maps cannot be read; it begins anew a second later.
    pub fn notices(&mut self, now: Instant) -> anyhow::Result<Vec<Notice>> {
        let mut telling = std::mem::take(&mut self.telling);
        let found = self.tell(&mut telling, now).inspect_err(|_| {
            telling.walk = None;
            telling.backlog.clear();
            telling.schedule.fail(now);
        });
        self.telling = telling;
        found
    }

    fn tell(&mut self, telling: &mut Telling, now: Instant) -> anyhow::Result<Vec<Notice>> {
        let Telling { schedule, walk, backlog } = telling;
        if schedule.begin(now) {
            *walk = Some(FlowWalk::new(SLICE, self.has_six()));
        }
        if backlog.len() < SEGMENTS
            && let Some(under_way) = walk
        {
            let entries = self.maps.flows(under_way).context("read the flows")?;
            if under_way.has_ended() {
                *walk = None;
            }
            let image = self.image()?;
            for (key, flow) in entries {
                backlog.extend(resets::notices(&key, &flow, image, schedule.is_first()));
            }
        }
        let jiffies = self.clock.sample()?.jiffies;
        let mut masters = BTreeMap::new();
        let mut notices = Vec::new();
        for notice in backlog.drain(..backlog.len().min(SEGMENTS)) {
            let master = match masters.get(&notice.gate) {
                Some(master) => *master,
                None => {
                    let lease = self.maps.lease.get(&u32::from(notice.gate), 0);
                    let master = jiffies < lease.context("read the map lease")?;
                    masters.insert(notice.gate, master);
                    master
                }
            };
            if master {
                notices.push(notice);
            }
        }
        if notices.iter().any(|notice| notice.kind == Kind::Probe) {
            schedule.note_unaware();
        }
        if walk.is_none() && backlog.is_empty() {
            schedule.end(now);
        }
        Ok(notices)
    }
}
