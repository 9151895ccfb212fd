//! The corpus (testdata/), properties over arbitrary bytes, and bounds.

mod bounds;
mod conformance;
mod corpus;
mod election;
mod model;
mod telling;
mod wire;
