//! Packets and bytes of virtual servers, which the kernel counts for each real server alone: what
//! those have carried that have left stays in the sum.

use std::collections::BTreeMap;

use lb_common::abi::{RealStats, STATE_ABSENT};

use super::image::Image;

/// A counter that must never go backwards, though what is added up comes and goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By service id: the share of real servers that are in its pool no more.
    gone: BTreeMap<u16, Traffic>,
}

/// Both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

impl From<RealStats> for Traffic {
    fn from(stats: RealStats) -> Self {
        Self {
            packets: stats.packets + stats.reply_packets,
            bytes: stats.bytes + stats.reply_bytes,
        }
    }
}

impl Totals {
    /// The same after the maps have gone from one image to another. `stats` reads a real server's
    /// counters as they stand before that.
    ///
    /// # Errors
    /// That of `stats`.
    pub fn after<E>(
        &self,
        from: &Image,
        to: &Image,
        mut stats: impl FnMut(u16) -> Result<RealStats, E>,
    ) -> Result<Self, E> {
        let mut next = self.clone();
        for (id, real) in &from.reals {
            let service = to.reals.get(id).map_or(0, |real| real.service);
            if real.service != 0 && service != real.service {
                let gone = next.gone.entry(real.service).or_default();
                let leaves = Traffic::from(stats(*id)?);
                gone.packets += leaves.packets;
                gone.bytes += leaves.bytes;
            }
        }
        for (id, real) in &to.reals {
            // One that lingered for its connections is back, with what it has counted.
            let lingered = |was: &&lb_common::abi::Real| {
                was.service != real.service && was.state != STATE_ABSENT
            };
            if real.service != 0 && from.reals.get(id).filter(lingered).is_some() {
                let gone = next.gone.entry(real.service).or_default();
                let back = Traffic::from(stats(*id)?);
                gone.packets = gone.packets.saturating_sub(back.packets);
                gone.bytes = gone.bytes.saturating_sub(back.bytes);
            }
        }
        next.gone.retain(|id, _| to.services.values().any(|service| service.id == *id));
        Ok(next)
    }

    /// What real servers have carried that are in the service's pool no more.
    pub fn gone(&self, service: u16) -> Traffic {
        self.gone.get(&service).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Real, STATE_DOWN, STATE_UP, Service, ServiceKey};

    use super::*;

    fn image(reals: &[(u16, u16, u8)]) -> Image {
        let reals = reals.iter().map(|(id, service, state)| {
            (*id, Real { service: *service, state: *state, ..Real::default() })
        });
        let mut image = Image { reals: reals.collect(), ..Image::default() };
        let service = Service { id: 5, ..Service::default() };
        image.services.insert(ServiceKey::default(), service);
        image
    }

    fn counted(id: u16) -> Result<RealStats, ()> {
        let id = u64::from(id);
        Ok(RealStats { packets: id, reply_packets: 1, bytes: id * 100, ..RealStats::default() })
    }

    #[test]
    fn what_leaves_stays_in_the_sum_and_what_returns_counts_once() {
        let both = image(&[(1, 5, STATE_UP), (2, 5, STATE_UP)]);
        let one = image(&[(1, 5, STATE_UP), (2, 0, STATE_DOWN)]);
        let totals = Totals::default().after(&both, &one, counted).expect("read");
        assert_eq!(totals.gone(5), Traffic { packets: 3, bytes: 200 });
        assert_eq!(totals.after(&one, &one, counted), Ok(totals.clone()), "once");
        // Its connections ended: the id is free, and another server may get it.
        let free = image(&[(1, 5, STATE_UP), (2, 0, STATE_ABSENT)]);
        let freed = totals.after(&one, &free, counted).expect("read");
        assert_eq!(freed.after(&free, &both, counted), Ok(totals.clone()));
        // It is back before that.
        let back = totals.after(&one, &both, counted).expect("read");
        assert_eq!(back.gone(5), Traffic::default());
        let none = Image::default();
        assert_eq!(totals.after(&one, &none, counted), Ok(Totals::default()));
    }
}
