//! What the kernel's verifier has to do with the shipped object: it gives up at a million instructions.

use lb_common::maps;
use lb_tests::packet::{self, engine::Engine};

/// Instructions that may be verified for each program, its global functions included, so that a path which
/// multiplies with another one shows before it is too late to take them apart: see `lbd_pick` in lb-ebpf. The
/// object that ships takes 130,000 to 140,000 on a 6.18 kernel; one that was built with `CARGO_INCREMENTAL=1`,
/// which is optimised less, 328,560 and 335,978.
const BOUND: u32 = 550_000;

#[test]
fn the_verifier_has_room() {
    if !packet::ready() {
        return;
    }
    let engine = Engine::load(1024, 1024).expect("the shipped object loads");
    for name in [maps::PROGRAM, maps::PROGRAM6, maps::PROGRAM_TC, maps::PROGRAM_TC6] {
        let info = engine.any_program(name).expect("program").info().expect("its info");
        let Some(verified) = info.verified_instruction_count() else {
            return packet::skip("a kernel that says how many instructions it verified (5.16)");
        };
        println!("{name}: {verified} instructions verified, {BOUND} allowed");
        assert!(verified < BOUND, "{name}: {verified} instructions verified");
    }
}
