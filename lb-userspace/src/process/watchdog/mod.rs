//! The watchdog.
pub mod supervise;
pub mod values;
