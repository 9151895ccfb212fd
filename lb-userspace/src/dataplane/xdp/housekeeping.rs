//! Housekeeping of the table of connections, in slices: whoever calls has something more urgent to
//! do, and gets the chance after each.
//!
//! A pass: counters are read → the table is walked, what is over taken out → NAT halves without
//! their other half → counters corrected → real servers that only lingered go → templates walked, what is over
//! taken out → embryos counted.

use std::{collections::BTreeMap, vec};

use anyhow::Context as _;
use lb_common::abi::{Template, TemplateKey};

use super::{
    encode::{absent, decode},
    engine::Xdp,
    maps::FlowWalk,
    sweep::{self, Correction, Over, Pass, Stamp},
    sys::Walk,
    templates::{Fate, Sweep},
};
use crate::dataplane::Progress;

/// Entries that a slice reads or takes out, and counters that it corrects, at most: about 0.3 ms.
/// (One bucket of the table that alone holds more is read as one.)
pub const SLICE: usize = 512;

/// Where a pass has got to.
#[derive(Debug)]
pub(super) enum Stage {
    Flows { pass: Pass, walk: Box<FlowWalk> },
    Halves { pass: Pass },
    Counters { pass: Pass, corrections: vec::IntoIter<Correction> },
    Templates { sweep: Sweep, walk: Walk<TemplateKey, Template> },
    Embryos { walk: FlowWalk, count: u64 },
}

impl Xdp {
    /// The first slice of a pass.
    pub(super) fn begin(&mut self) -> anyhow::Result<Stage> {
        let mut counted = BTreeMap::new();
        let real_ids = self.image()?.real_ids();
        self.maps
            .conns(real_ids, |id, count| {
                counted.insert(id, count);
            })
            .context("read the map conns")?;
        let (jiffies, tick) = (self.clock.sample()?.jiffies, self.clock.tick());
        let image = self.image()?;
        let pass = Pass::new(image, &counted, jiffies, tick);
        Ok(Stage::Flows { pass, walk: Box::new(FlowWalk::new(SLICE, image.has_six())) })
    }

    /// The next slice of `stage`; `None` when that was the last one.
    pub(super) fn slice(&mut self, stage: Stage) -> anyhow::Result<(Progress, Option<Stage>)> {
        let mut progress = Progress::default();
        let next = match stage {
            Stage::Flows { mut pass, mut walk } => {
                let mut over = Vec::new();
                for (key, flow) in self.maps.flows(&mut walk).context("read the flows")? {
                    progress.entries += 1;
                    over.extend(pass.entry(key, &flow));
                }
                self.remove(&over)?;
                match walk.has_ended() {
                    false => Stage::Flows { pass, walk },
                    true => Stage::Halves { pass },
                }
            }
            Stage::Halves { mut pass } => match pass.halves_left(SLICE) {
                Some(over) => {
                    progress.entries = over.len();
                    self.remove(&over)?;
                    Stage::Halves { pass }
                }
                None => {
                    let corrections = pass.corrections(self.image()?).into_iter();
                    Stage::Counters { pass, corrections }
                }
            },
            Stage::Counters { pass, mut corrections } if corrections.len() > 0 => {
                for Correction { id, by } in corrections.by_ref().take(SLICE) {
                    // The program went on counting meanwhile: correct by the difference.
                    let now = self.maps.conn(id).context("read the map conns")?;
                    self.maps.set_conn(id, now + by).context("write to the map conns")?;
                    progress.entries += 1;
                }
                Stage::Counters { pass, corrections }
            }
            Stage::Counters { pass, .. } => {
                self.conclude(&pass)?;
                if self.templates.is_empty() && !self.is_persistent()? {
                    Stage::Embryos { walk: FlowWalk::new(SLICE, self.has_six()), count: 0 }
                } else {
                    let (jiffies, tick) = (self.clock.sample()?.jiffies, self.clock.tick());
                    let sweep = Sweep::new(self.image()?, pass.held(), jiffies, tick);
                    Stage::Templates { sweep, walk: Walk::new(SLICE) }
                }
            }
            Stage::Templates { mut sweep, mut walk } => {
                let read: Vec<_> =
                    self.maps.templates(&mut walk).context("read the map templates")?.collect();
                progress.entries = read.len();
                for (key, template) in read {
                    let is = match sweep.entry(self.image()?, key, &template) {
                        Fate::Stays => continue,
                        Fate::Renewed => Some(sweep.renewed(&template)),
                        Fate::Over => None,
                    };
                    self.maps
                        .set_template(&key, &template, is)
                        .context("write to the map templates")?;
                }
                if walk.has_ended() {
                    self.templates = sweep.found();
                    Stage::Embryos { walk: FlowWalk::new(SLICE, self.has_six()), count: 0 }
                } else {
                    Stage::Templates { sweep, walk }
                }
            }
            Stage::Embryos { mut walk, mut count } => {
                let step = self.maps.embryos(&mut walk).context("read the embryos")?.len();
                progress.entries = step;
                count += step as u64;
                if walk.has_ended() {
                    self.embryos = count;
                    return Ok((progress, None));
                }
                Stage::Embryos { walk, count }
            }
        };
        progress.more = true;
        Ok((progress, Some(next)))
    }

    /// Whether a virtual server has persistence.
    fn is_persistent(&mut self) -> anyhow::Result<bool> {
        Ok(self.image()?.services.values().any(|service| service.persistence_secs != 0))
    }

    /// Takes out what is over, unless it has come alive since it was read.
    fn remove(&mut self, over: &[Over]) -> anyhow::Result<()> {
        for Over { entry, replies } in over {
            let stamps = || std::iter::once(entry).chain(replies);
            let is_as_read = |stamp: &Stamp| {
                let now = self.maps.flow(&stamp.key).context("read the flows")?;
                anyhow::Ok(now.is_none_or(|now| now.last_seen == stamp.last_seen))
            };
            if stamps().map(is_as_read).all(|same| !matches!(same, Ok(false))) {
                for stamp in stamps() {
                    self.maps.remove_flow(&stamp.key).context("remove from the flows")?;
                }
            }
        }
        Ok(())
    }

    fn conclude(&mut self, pass: &Pass) -> anyhow::Result<()> {
        self.flows = pass.found().flows;
        self.stale.clone_from(&pass.found().stale);
        // Below seven eighths a table takes new connections again, and strangers are strangers.
        for (family, entries) in (0..).zip(pass.found().entries) {
            if entries < self.maps.flows_max() / 8 * 7 {
                self.maps.relieve(family).context("write to the map pressure")?;
            }
        }
        let goes = |id: u16, real: &_| sweep::is_leaving(real) && !pass.lingers(id);
        let image = self.image()?;
        if !image.reals.iter().any(|(id, real)| goes(*id, real)) {
            return Ok(());
        }
        let mut next = image.clone();
        for (id, real) in &mut next.reals {
            if goes(*id, real) {
                *real = absent(real);
            }
        }
        self.write(next)?;
        let table = decode(self.image()?);
        self.publish(&table)?;
        Ok(())
    }
}
