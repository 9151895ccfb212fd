//! Datagrams that reach no instance: adverts of VRIDs that are not ours, and what is no advert.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    base::{status::StrayStatus, time::Instant},
    vrrp::wire::Reason,
};

/// What is no advert is logged at most this often, for each interface and reason.
const LOG_GAP: Duration = Duration::from_secs(10);
/// Adverts of another VRID are everyday life where several pairs share a LAN: each is told when it
/// is heard first, and then at most this often.
const FOREIGN_LOG_GAP: Duration = Duration::from_secs(3600);
/// Rows with a VRID. At the bound a new VRID is counted in the row of its interface and reason
/// without one; of those there are no more than interfaces times reasons.
const VRID_LIMIT: usize = 1024;

#[derive(Debug, Default)]
struct Seen {
    count: u64,
    logged: Option<Instant>,
}

/// Counters by interface, reason and, for adverts of a VRID that is not ours, that VRID.
#[derive(Debug, Default)]
pub(super) struct Strays {
    seen: BTreeMap<(String, Reason, Option<u8>), Seen>,
}

impl Strays {
    /// Counts one; the line for the log, if it is time for one.
    pub fn count(
        &mut self,
        interface: &str,
        reason: Reason,
        vrid: Option<u8>,
        now: Instant,
    ) -> Option<String> {
        let mut key = (interface.to_owned(), reason, vrid);
        if vrid.is_some() && !self.seen.contains_key(&key) {
            let rows = self.seen.keys().filter(|(_, _, vrid)| vrid.is_some()).count();
            if rows >= VRID_LIMIT {
                key.2 = None;
            }
        }
        let gap = if vrid.is_some() { FOREIGN_LOG_GAP } else { LOG_GAP };
        let vrid = key.2;
        let seen = self.seen.entry(key).or_default();
        seen.count += 1;
        if seen.logged.is_some_and(|last| now.saturating_since(last) < gap) {
            return None;
        }
        seen.logged = Some(now);
        let count = seen.count;
        Some(match vrid {
            Some(vrid) => {
                format!("VRID {vrid} is not ours ({reason}, {count} so far)")
            }
            None => format!("{reason}, {count} so far"),
        })
    }

    /// Every row that has counted something.
    pub fn status(&self) -> Vec<StrayStatus> {
        let rows = self.seen.iter().filter(|(_, seen)| seen.count > 0);
        rows.map(|((interface, reason, vrid), seen)| StrayStatus {
            interface: interface.clone(),
            reason: reason.name().to_owned(),
            vrid: *vrid,
            count: seen.count,
        })
        .collect()
    }

    /// Counts from zero; what was logged is not logged again for that.
    pub fn clear(&mut self) {
        self.seen.values_mut().for_each(|seen| seen.count = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn row(interface: &str, reason: Reason, vrid: Option<u8>, count: u64) -> StrayStatus {
        let (interface, reason) = (interface.to_owned(), reason.name().to_owned());
        StrayStatus { interface, reason, vrid, count }
    }

    #[test]
    fn everything_is_counted_and_told_with_a_gap() {
        let mut strays = Strays::default();
        let told: Vec<u64> = (0..25)
            .filter(|n| strays.count("eth0", Reason::IpChecksum, None, at(*n)).is_some())
            .collect();
        assert_eq!(told, [0, 10, 20]);
        let told: Vec<u64> = (0..4000)
            .filter(|n| strays.count("eth0", Reason::Vrid, Some(7), at(*n)).is_some())
            .collect();
        assert_eq!(told, [0, 3600]);
        let text = strays.count("eth1", Reason::Vrid, Some(7), at(0)).expect("the first");
        assert_eq!(text, "VRID 7 is not ours (vrid_unknown, 1 so far)");
        let rows = [
            row("eth0", Reason::IpChecksum, None, 25),
            row("eth0", Reason::Vrid, Some(7), 4000),
            row("eth1", Reason::Vrid, Some(7), 1),
        ];
        assert_eq!(strays.status(), rows);
        strays.clear();
        assert_eq!(strays.status(), []);
        assert_eq!(strays.count("eth0", Reason::Vrid, Some(7), at(4001)), None);
        assert_eq!(strays.status(), [row("eth0", Reason::Vrid, Some(7), 1)]);
    }

    #[test]
    fn at_the_bound_vrids_share_a_row() {
        let mut strays = Strays::default();
        for interface in ["a", "b", "c", "d", "e"] {
            for vrid in 0..=255 {
                strays.count(interface, Reason::Vrid, Some(vrid), at(0));
            }
        }
        let rows = strays.status();
        assert_eq!(rows.len(), VRID_LIMIT + 1);
        assert_eq!(rows.last(), Some(&row("e", Reason::Vrid, None, 256)));
        strays.count("a", Reason::Vrid, Some(0), at(0));
        assert_eq!(strays.status()[0].count, 2, "a row that is there goes on");
    }
}
