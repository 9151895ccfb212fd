//! The one shape of every core: a state machine without I/O, clock or randomness.

use super::time::Instant;

/// A pure state machine.
///
/// The caller feeds inputs, then drains [`Core::poll_effect`] until `None`, then sleeps until
/// [`Core::poll_timeout`] (asked again after every call that took `&mut self`), then calls
/// [`Core::handle_timeout`]. Calls of `handle_timeout` before the deadline do nothing.
pub trait Core {
    /// What happens to it. Serialisable, so that `lbd --record` can write it.
    type Input;
    /// What it wants done. Effects are to be performed in order.
    type Effect;

    /// Takes one input. `now` never goes backwards.
    fn handle(&mut self, input: Self::Input, now: Instant);
    /// Fires every timer that is due at `now`; early or repeated calls do nothing.
    fn handle_timeout(&mut self, now: Instant);
    /// When `handle_timeout` has to be called next; `None` when no timer runs.
    fn poll_timeout(&self) -> Option<Instant>;
    /// The next effect, in order; call until `None` after every input and time-out.
    fn poll_effect(&mut self) -> Option<Self::Effect>;
}
