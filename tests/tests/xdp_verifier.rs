//! What the kernel's verifier has to do with the shipped object: it gives up at a million instructions.

use lb_common::maps;
use lb_tests::packet::{self, engine::Engine};

/// Instructions that may be verified for the program, its global functions included. About twice of what
/// they are on 6.x kernels, so that a path which multiplies with another one shows before it is too late
/// to take them apart: see `lbd_pick` in lb-ebpf.
const BOUND: u32 = 250_000;

#[test]
fn the_verifier_has_room() {
    if !packet::ready() {
        return;
    }
    let engine = Engine::load(1024, 1024).expect("the shipped object loads");
    let info = engine.program(maps::PROGRAM).expect("program").info().expect("its info");
    let Some(verified) = info.verified_instruction_count() else {
        return packet::skip("a kernel that says how many instructions it verified (5.16)");
    };
    println!("{}: {verified} instructions verified, {BOUND} allowed", maps::PROGRAM);
    assert!(verified < BOUND, "{verified} instructions verified");
}
