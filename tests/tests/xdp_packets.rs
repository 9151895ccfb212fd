//! The shipped kernel object, packet by packet.

use lb_tests::packet::{self, engine::Engine};

#[test]
fn verifier_accepts_the_object() {
    if !packet::ready() {
        return;
    }
    Engine::load(1024, 1024).unwrap_or_else(|error| panic!("{error:#}"));
}
