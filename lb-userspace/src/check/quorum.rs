//! Quorum of a virtual server: the summed weight of its usable real servers.
//!
//! Gained at `quorum + hysteresis`, lost below `quorum - hysteresis` or when none is left.
//! The hysteresis is kept below the quorum and the quorum within the total weight, as
//! keepalived does; so it can always be gained.

use serde::{Deserialize, Serialize};

/// The configured numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub quorum: u32,
    pub hysteresis: u32,
}

/// Whether there is a quorum.
#[derive(Clone, Debug)]
pub struct Quorum {
    spec: Spec,
    up: bool,
}

impl Quorum {
    /// A quorum that starts as `up` says.
    pub fn new(spec: Spec, up: bool) -> Self {
        Self { spec, up }
    }

    /// Whether there is a quorum now.
    pub fn up(&self) -> bool {
        self.up
    }

    /// Overrides the state (what was known before a restart).
    pub fn restore(&mut self, up: bool) {
        self.up = up;
    }

    /// Weight at which it is gained and weight below which it is lost.
    pub fn marks(&self, total: u64) -> (u64, u64) {
        let quorum = u64::from(self.spec.quorum).max(1).min(total.max(1));
        let hysteresis = u64::from(self.spec.hysteresis).min(quorum - 1);
        ((quorum + hysteresis).min(total.max(1)), quorum - hysteresis)
    }

    /// Takes the weight of the usable servers out of `total`. Returns the new state if it
    /// changed.
    pub fn update(&mut self, weight: u64, total: u64) -> Option<bool> {
        let (gain, lose) = self.marks(total);
        let up = if self.up { weight >= lose && weight > 0 } else { weight >= gain && weight > 0 };
        (up != self.up).then(|| {
            self.up = up;
            up
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_around_the_quorum() {
        let mut q = Quorum::new(Spec { quorum: 3, hysteresis: 1 }, true);
        assert_eq!(q.update(2, 5), None, "2 is not below 3 - 1");
        assert_eq!(q.update(1, 5), Some(false));
        assert_eq!(q.update(3, 5), None, "3 is below 3 + 1");
        assert_eq!(q.update(4, 5), Some(true));
    }

    #[test]
    fn default_quorum_is_any_server() {
        let mut q = Quorum::new(Spec { quorum: 1, hysteresis: 0 }, true);
        assert_eq!(q.update(0, 2), Some(false));
        assert_eq!(q.update(1, 2), Some(true));
    }

    #[test]
    fn a_quorum_above_the_total_is_capped() {
        let mut q = Quorum::new(Spec { quorum: 100, hysteresis: 50 }, false);
        assert_eq!(q.update(3, 3), Some(true));
        assert_eq!(q.update(0, 0), Some(false), "no weight at all is no quorum");
    }

    proptest! {
        /// Between the marks nothing changes; at them it always does.
        #[test]
        fn against_the_model(
            quorum in 1u32..20, hysteresis in 0u32..20, total in 1u64..40,
            weights in proptest::collection::vec(0u64..40, 1..50),
        ) {
            let mut q = Quorum::new(Spec { quorum, hysteresis }, true);
            let cap = u64::from(quorum).min(total);
            let h = u64::from(hysteresis).min(cap - 1);
            let mut model = true;
            for weight in weights.into_iter().map(|w| w.min(total)) {
                if weight >= (cap + h).min(total) { model = true }
                if weight < cap - h || weight == 0 { model = false }
                q.update(weight, total);
                prop_assert_eq!(q.up(), model);
            }
        }
    }
}
