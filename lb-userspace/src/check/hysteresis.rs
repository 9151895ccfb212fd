//! Suspect, fall and rise: how many probes in a row it takes to change a mind.

use serde::{Deserialize, Serialize};

/// Thresholds, all at least 1 (zero is read as 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Misses in a row until suspect; no suspicion when it is not below `fall`.
    pub suspect: u32,
    /// Misses in a row until down.
    pub fall: u32,
    /// Good probes in a row until a fallen one is up. A suspected one needs one.
    pub rise: u32,
}

/// State of one series of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    Up,
    Suspect,
    Down,
}

/// Counter of one series.
#[derive(Clone, Debug)]
pub struct Hysteresis {
    thresholds: Thresholds,
    level: Level,
    misses: u32,
    goods: u32,
}

impl Hysteresis {
    /// A series that starts at `level`.
    pub fn new(thresholds: Thresholds, level: Level) -> Self {
        Self { thresholds, level, misses: 0, goods: 0 }
    }

    /// The state.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Misses in a row so far.
    pub fn misses(&self) -> u32 {
        self.misses
    }

    /// A good probe.
    pub fn good(&mut self) {
        self.misses = 0;
        match self.level {
            Level::Up | Level::Suspect => self.level = Level::Up,
            Level::Down => {
                self.goods += 1;
                if self.goods >= self.thresholds.rise {
                    self.force(Level::Up);
                }
            }
        }
    }

    /// A missed probe.
    pub fn miss(&mut self) {
        self.goods = 0;
        self.misses = self.misses.saturating_add(1);
        if self.level == Level::Down {
            return;
        }
        if self.misses >= self.thresholds.fall {
            self.level = Level::Down;
        } else if self.misses >= self.thresholds.suspect {
            self.level = Level::Suspect;
        }
    }

    /// Certainty: no counting.
    pub fn force(&mut self, level: Level) {
        self.level = level;
        self.misses = 0;
        self.goods = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thresholds_one_by_one() {
        use Level::{Down, Suspect, Up};
        let mut h = Hysteresis::new(Thresholds { suspect: 2, fall: 4, rise: 2 }, Up);
        let mut seen = Vec::new();
        for good in [false, false, false, false, true, false, true, true, false, false, true] {
            if good {
                h.good()
            } else {
                h.miss()
            }
            seen.push(h.level());
        }
        assert_eq!(seen, [Up, Suspect, Suspect, Down, Down, Down, Down, Up, Up, Suspect, Up]);
    }

    proptest! {
        /// No threshold is ever skipped: the level is a function of the current run alone.
        #[test]
        fn never_skips_a_threshold(
            suspect in 1u32..5, fall in 1u32..8, rise in 1u32..5,
            probes in proptest::collection::vec(any::<bool>(), 1..200),
        ) {
            let mut h = Hysteresis::new(Thresholds { suspect, fall, rise }, Level::Up);
            let (mut bad, mut good) = (0, 0);
            for probe in probes {
                let before = h.level();
                if probe { h.good(); good += 1; bad = 0 } else { h.miss(); bad += 1; good = 0 }
                match (before, h.level()) {
                    (Level::Up, Level::Suspect) => prop_assert!(bad == suspect && bad < fall),
                    (Level::Up | Level::Suspect, Level::Down) => prop_assert_eq!(bad, fall),
                    (Level::Down, Level::Up) => prop_assert_eq!(good, rise),
                    (Level::Suspect, Level::Up) => prop_assert_eq!(good, 1),
                    (Level::Down, Level::Suspect) => prop_assert!(false, "down is left by rise only"),
                    (Level::Up, Level::Up) => prop_assert!(bad < suspect.min(fall)),
                    (Level::Suspect, Level::Suspect) => prop_assert!(bad < fall),
                    (Level::Down, Level::Down) => prop_assert!(good < rise),
                }
            }
        }
    }
}
