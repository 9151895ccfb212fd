//! keepalived.conf: text → tree with spans → model, with diagnostics for people.

pub mod model;
