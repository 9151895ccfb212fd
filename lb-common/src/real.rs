//! What a real server still takes.

use crate::abi::{
    FLAG_CLOSED, FLAG_INHIBITED, FLAG_RESOLVED, METHOD_LOCAL, Real, STATE_DRAIN, STATE_UP,
};

impl Real {
    /// Whether it is overloaded with `conns` connections, if it was so or not before: IPVS's rule.
    #[inline(always)]
    pub const fn is_overloaded(&self, conns: u64, before: bool) -> bool {
        if self.upper == 0 {
            return false;
        }
        let relieved = match self.lower {
            0 => conns * 4 < self.upper as u64 * 3,
            lower => conns < lower as u64,
        };
        conns >= self.upper as u64 || (before && !relieved)
    }

    /// Whether a template may lead clients to it. As in IPVS that is so where a scheduler would not choose it,
    /// because it is drained or has weight 0; but not where it is known that they would not be served.
    #[inline(always)]
    pub const fn keeps_clients(&self) -> bool {
        let serves = match self.state {
            STATE_UP => true,
            STATE_DRAIN => self.flags & (FLAG_INHIBITED | FLAG_CLOSED) == 0,
            _ => false,
        };
        serves && (self.method == METHOD_LOCAL || self.flags & FLAG_RESOLVED != 0)
    }
}
