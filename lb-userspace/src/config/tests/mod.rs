//! The corpus (testdata/), properties over arbitrary bytes, and bounds.

mod as_keepalived;
mod bounds;
mod conformance;
pub(super) mod corpus;
mod election;
mod entries;
mod model;
mod on_down;
mod telling;
mod tunnel;
mod wire;

/// Fails unless a finding of a text has this phrase and this place.
pub(in crate::config) fn has_finding(text: &str, place: &str, phrase: &str) {
    let all: Vec<_> = super::load("t", text).diagnostics.iter().map(|it| it.render()).collect();
    assert!(all.iter().any(|it| it.contains(phrase) && it.contains(place)), "{phrase}: {all:#?}");
}
